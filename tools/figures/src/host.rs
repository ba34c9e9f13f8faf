//! The repository, the machine and the user's wish to stop: what every command needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::args::OutputArgs;
use crate::error::Error;

/// Set once the user wants to stop; everything that waits looks at it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether the user wants to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error when the user wants to stop.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Ctrl-C and a request to end set the flag, so that what was started is ended in good order. A
/// second one ends the tool at once; the servers that it started die with it (see `process.rs`).
pub fn watch_signals() -> Result<Stop, Error> {
    let stop = Stop::default();
    for signal in [SIGINT, SIGTERM] {
        let cannot = Error::system("watching for signals");
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.0.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.0.clone()))
            .map_err(cannot)?;
    }
    Ok(stop)
}

/// The repository that this tool belongs to.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_owned()
}

/// `path` as it is called from the repository, where everything is run: so commands in results
/// say nothing about the machine, and can be repeated elsewhere.
pub fn from_repository(path: &Path) -> PathBuf {
    let root = repository();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.strip_prefix(&root).map(Path::to_owned).unwrap_or(absolute)
}

/// Now, in UTC: `2026-01-31T12:00:00Z`.
pub fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    now.ok().and_then(|now| now.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The commit of the repository, with `-dirty` when files differ from it; `unknown` without git.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(repository()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

/// The loggos to measure; built when none was named and there is none yet.
pub fn loggos(args: &OutputArgs) -> Result<PathBuf, Error> {
    if let Some(path) = &args.loggos {
        return match path.is_file() {
            true => Ok(from_repository(path)),
            false => Err(Error::Usage(format!("--loggos {} is not a file", path.display()))),
        };
    }
    let (root, binary) = (repository(), Path::new("target/release/loggos"));
    if !root.join(binary).is_file() {
        eprintln!("{} is missing; building it …", binary.display());
        let status = Command::new("cargo")
            .args(["build", "--release", "--locked"])
            .current_dir(&root)
            .stdin(Stdio::null())
            .status()
            .map_err(Error::system("running cargo"))?;
        if !status.success() {
            return Err(Error::Failed("loggos cannot be built; see above".to_owned()));
        }
    }
    Ok(binary.to_owned())
}

/// The flags of `args` that change what is measured, as they were given, with a space before each.
pub fn path_flags(args: &OutputArgs) -> String {
    let given = [("loggos", &args.loggos), ("data", &args.data)];
    let flags = given.into_iter().filter_map(|(name, path)| {
        let path = from_repository(path.as_ref()?);
        Some(format!(" --{name} {}", path.display()))
    });
    flags.collect()
}

/// Runs measured for less than this are a smoke test, whatever else was asked for.
pub const MEASURED_S_MIN: f64 = 5.0;

/// The folder of all results and their history; a smoke test's are not kept among the others.
pub fn results_root(args: &OutputArgs, smoke: bool) -> PathBuf {
    let default = if smoke { "target/figures" } else { "results" };
    args.out.clone().unwrap_or_else(|| repository().join(default))
}

/// The folder for all data of this invocation, gone when the value is dropped: beside what the
/// build writes, so on a real disk (`loggos bench` refuses another).
pub fn data_folder(args: &OutputArgs) -> Result<tempfile::TempDir, Error> {
    let parent = match &args.data {
        Some(data) => std::path::absolute(data).map_err(Error::at(data))?,
        None => repository().join("target"),
    };
    std::fs::create_dir_all(&parent).map_err(Error::at(&parent))?;
    tempfile::Builder::new().prefix("figures-").tempdir_in(&parent).map_err(Error::at(&parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_the_products() {
        assert!(repository().join("tools/figures/Cargo.toml").is_file());
    }

    #[test]
    fn paths_in_the_repository_lose_what_is_the_machines() {
        let path = repository().join("target/release/loggos");
        assert_eq!(from_repository(&path), Path::new("target/release/loggos"));
        assert_eq!(from_repository(Path::new("/elsewhere/x")), Path::new("/elsewhere/x"));
    }

    #[test]
    fn times_are_utc_to_the_second() {
        let now = now();
        assert!(now.ends_with('Z') && now.len() == "2026-01-31T12:00:00Z".len(), "{now}");
    }
}
