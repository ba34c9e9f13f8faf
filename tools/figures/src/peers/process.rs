//! The other systems' servers as child processes that never outlive this tool.
//!
//! A [`Service`] ends its process, by its id, and waits for it when it is dropped: at the end, on
//! every error and while a panic unwinds. Where `setpriv` is there (util-linux), the kernel kills
//! the process when the tool itself is killed. Start services on the main thread: that signal is
//! sent when the thread that started them ends.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::host::{self, Stop};
use crate::runs::{shown, tail};

/// Between two looks at what another process does.
pub const POLL_PAUSE: Duration = Duration::from_millis(50);
/// How long a server may take to end when asked to; then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
    /// Its command as one would type it, from the repository.
    pub command: String,
}

impl Service {
    /// Starts `command`; what it says goes to `log`.
    pub fn start(name: &str, command: &Command, log: &Path) -> Result<Service, Error> {
        let file = File::create(log).map_err(Error::at(log))?;
        let mut guarded = guarded(command);
        guarded
            .current_dir(host::repository())
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(Error::at(log))?)
            .stderr(file)
            // A group of its own: Ctrl-C is for this tool, which ends the servers in good order.
            .process_group(0);
        let child = guarded.spawn().map_err(Error::system(format!("starting {name}")))?;
        Ok(Service { name: name.to_owned(), child, log: log.to_owned(), command: shown(command) })
    }

    /// An error with the end of its log when it has ended by itself.
    pub fn check(&mut self) -> Result<(), Error> {
        let waited = self.child.try_wait();
        match waited.map_err(Error::system(format!("waiting for {}", self.name)))? {
            None => Ok(()),
            Some(status) => {
                let (name, why) = (&self.name, tail(&self.log));
                Err(Error::Failed(format!("{name} has ended by itself ({status}): {why}")))
            }
        }
    }

    /// CPU time since it started, in seconds; 0 when it cannot be read.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let ticks = stat.ok().and_then(|stat| cpu_ticks(&stat)).unwrap_or(0);
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It fails only when the process has ended: then the wait below sees it.
            let _ = kill_process(pid, Signal::TERM);
        }
        let give_up = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < give_up {
            std::thread::sleep(POLL_PAUSE);
        }
        // No error when it has ended and was waited for.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            let (name, id) = (&self.name, self.child.id());
            eprintln!("{name}, process {id}, could not be ended: {error}");
        }
    }
}

/// CPU time of all `services` since they started, in seconds.
pub fn cpu_s(services: &[Service]) -> f64 {
    services.iter().map(Service::cpu_s).sum()
}

/// `command`, killed by the kernel when this tool dies without a chance to end it.
fn guarded(command: &Command) -> Command {
    let Some(setpriv) = find(&["setpriv"]) else {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        return same;
    };
    let mut guarded = Command::new(setpriv);
    guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
    guarded.args(command.get_args());
    guarded
}

/// The first of `names` that is an executable on the path, or, with slashes, a file.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers are where users do not always look.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders: Vec<_> = std::env::split_paths(&path).chain(more).collect();
    names.iter().find_map(|name| match name.contains('/') {
        true => Some(PathBuf::from(name)).filter(|path| path.is_file()),
        false => folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()),
    })
}

/// Ports on loopback that nobody listens on (a moment ago).
pub fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    let free = || -> std::io::Result<Vec<u16>> {
        // All are held until the last one is known, so that they differ.
        let listeners: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    };
    free().map_err(Error::system("a free port"))
}

/// Asks `ready` again and again until it gives something; `services` must live meanwhile.
pub async fn wait_until<T>(
    what: &str,
    at_most: Duration,
    services: &mut [Service],
    stop: &Stop,
    mut ready: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let give_up = Instant::now() + at_most;
    loop {
        stop.check()?;
        for service in services.iter_mut() {
            service.check()?;
        }
        let why = match ready().await {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        if Instant::now() >= give_up {
            let seconds = at_most.as_secs();
            return Err(Error::Failed(format!("{what} is not ready after {seconds} s: {why}")));
        }
        // Other processes are at work: there is nothing to wait on but time.
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// What `program` prints, first line with something on it; for versions.
pub fn first_line(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let Ok(output) = output else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}

/// User and system time in clock ticks from `/proc/PID/stat` (proc_pid_stat(5)).
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, brackets and spaces too: the fields begin behind the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_ends_with_its_value_and_tells_why_it_ended_before() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut sleep = Command::new("sleep");
        let service = Service::start("sleep", sleep.arg("60"), &log).unwrap();
        let process = PathBuf::from(format!("/proc/{}", service.child.id()));
        assert!(process.exists() && service.command == "sleep 60");
        drop(service);
        assert!(!process.exists());

        let mut sh = Command::new("sh");
        let mut failing =
            Service::start("sh", sh.args(["-c", "echo no such disk; exit 3"]), &log).unwrap();
        failing.child.wait().unwrap();
        let error = failing.check().unwrap_err().to_string();
        assert!(error.contains("no such disk") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_service_ends_when_a_panic_unwinds() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut id = 0;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let service = Service::start("sleep", Command::new("sleep").arg("60"), &log).unwrap();
            id = service.child.id();
            panic!("as planned");
        }));
        assert!(caught.is_err() && id != 0);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn ports_differ_and_programs_are_found() {
        let ports = free_ports(9).unwrap();
        let unique: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(unique.len(), 9);
        assert!(find(&["no-such-program", "sh"]).is_some());
        assert!(find(&["no-such-program", "/no/such/file"]).is_none());
    }

    #[test]
    fn proc_files_are_read_whatever_the_process_is_called() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("nonsense"), None);
    }
}
