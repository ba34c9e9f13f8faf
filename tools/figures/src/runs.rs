//! Running `loggos bench`: one settings, one process, one raw file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::host::{self, Stop};
use crate::process::{POLL_PAUSE, end, guarded};
use crate::record::{LOGGOS, Run, RunRecord, closed_name};

/// What a run may take beyond its phases: starting, floors on a busy machine, ending.
const OVERHEAD_MAX: Duration = Duration::from_secs(120);
/// How long a bench that is asked to end may take to end its nodes.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of what a failed bench said that are shown.
const TAIL_BYTES: usize = 600;

/// How one run loads the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Members of the embedded cluster.
    pub nodes: usize,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Closed or open loop.
    pub load: Load,
    /// The measured phase in seconds.
    pub duration_s: f64,
    /// The load before it in seconds.
    pub warmup_s: f64,
    /// Whether the machine's floors are measured, too.
    pub floor: bool,
}

/// How operations are started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many in flight on all connections, always.
    Depth(usize),
    /// At a rate, whatever comes back: `percent` of the knee's.
    Rate {
        /// Percent of the knee.
        percent: u32,
        /// Records a second.
        per_s: f64,
    },
}

/// Connections for so many operations in flight: one while few, so that they share one batch; four
/// from where one connection could be what limits.
pub fn connections(depth: usize) -> usize {
    if depth <= 4 { 1 } else { 4 }
}

/// The most in flight on each connection of an open loop, far above what the knee needs.
const OPEN_LOOP_INFLIGHT: usize = 2048;

impl Settings {
    /// The name; runs with the same one compare.
    pub fn name(&self) -> String {
        match self.load {
            Load::Depth(depth) => closed_name(self.nodes, self.record_bytes, depth),
            Load::Rate { percent, .. } => {
                format!("n{}-b{}-rate{percent}", self.nodes, self.record_bytes)
            }
        }
    }

    /// The arguments after `loggos`, without the files.
    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = ["bench", "--json"].map(str::to_owned).into();
        let mut flag = |name: &str, value: String| {
            arguments.push(format!("--{name}"));
            arguments.push(value);
        };
        flag("local", self.nodes.to_string());
        flag("record-bytes", self.record_bytes.to_string());
        match self.load {
            Load::Depth(depth) => {
                let connections = connections(depth);
                flag("connections", connections.to_string());
                flag("inflight", (depth / connections).to_string());
            }
            Load::Rate { per_s, .. } => {
                flag("connections", "4".to_owned());
                flag("inflight", OPEN_LOOP_INFLIGHT.to_string());
                flag("rate", format!("{per_s:.0}"));
            }
        }
        flag("duration", self.duration_s.to_string());
        flag("warmup", self.warmup_s.to_string());
        if self.floor {
            arguments.push("--floor".to_owned());
        }
        arguments
    }
}

/// Where runs are made and kept.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The executable.
    pub loggos: PathBuf,
    /// A folder on a real disk.
    pub data: PathBuf,
    /// Where raw files go.
    pub raw: PathBuf,
    /// How much of its log each node has filled ahead, in bytes; none: as `loggos bench` has it.
    pub preallocate_bytes: Option<u64>,
    /// The user's wish.
    pub stop: Stop,
}

impl Runner {
    /// Runs `settings` for the `repeat`-th time and keeps what came of it.
    pub fn run(&self, settings: &Settings, repeat: u32) -> Result<Run, Error> {
        let stem = format!("{LOGGOS}-{}-r{repeat}", settings.name());
        let histogram = format!("{stem}.hlog");
        let mut command = Command::new(&self.loggos);
        command.args(settings.arguments());
        if let Some(bytes) = self.preallocate_bytes {
            command.arg("--preallocate-bytes").arg(bytes.to_string());
        }
        command.arg("--histogram").arg(host::from_repository(&self.raw).join(&histogram));
        command.arg("--data").arg(host::from_repository(&self.data));
        let (shown, started) = (shown(&command), host::now());
        let (report, remarks) = self.bench(&command, settings, &stem)?;
        let record = RunRecord {
            system: LOGGOS.to_owned(),
            name: settings.name(),
            repeat,
            started,
            command: shown,
            histogram: Some(histogram),
            remarks,
            report,
        };
        record.write(&self.raw)?;
        Run::new(record, &self.raw)
    }

    fn bench(
        &self,
        command: &Command,
        settings: &Settings,
        stem: &str,
    ) -> Result<(serde_json::Value, Vec<String>), Error> {
        // Files rather than pipes: nobody has to read them while the bench runs.
        let (out, err) = (self.data.join("bench.json"), self.data.join("bench.err"));
        let mut bench = guarded(command);
        bench
            .current_dir(host::repository())
            .stdin(Stdio::null())
            .stdout(File::create(&out).map_err(Error::at(&out))?)
            .stderr(File::create(&err).map_err(Error::at(&err))?);
        let child = bench.spawn().map_err(Error::system(self.loggos.display().to_string()))?;
        let phases = Duration::from_secs_f64(settings.duration_s + settings.warmup_s);
        let status = Bench { child }.wait(phases + OVERHEAD_MAX, &self.stop)?;
        if !status.success() {
            let why = tail(&err);
            return Err(Error::Failed(format!("{stem}: loggos bench: {status}: {why}")));
        }
        let text = std::fs::read_to_string(&out).map_err(Error::at(&out))?;
        let report = serde_json::from_str(&text).map_err(|why| {
            Error::Failed(format!("{stem}: loggos bench printed no report: {why}"))
        })?;
        let said = std::fs::read_to_string(&err).map_err(Error::at(&err))?;
        Ok((report, remarks(&said)))
    }
}

/// A bench that runs; ended when dropped before it has ended. Its nodes end with it.
#[derive(Debug)]
struct Bench {
    child: Child,
}

impl Bench {
    fn wait(mut self, at_most: Duration, stop: &Stop) -> Result<ExitStatus, Error> {
        let give_up = Instant::now() + at_most;
        loop {
            let waited = self.child.try_wait().map_err(Error::system("waiting for loggos"))?;
            if let Some(status) = waited {
                stop.check()?;
                return Ok(status);
            }
            stop.check()?;
            if Instant::now() >= give_up {
                let seconds = at_most.as_secs();
                return Err(Error::Failed(format!("loggos bench takes more than {seconds} s")));
            }
            // Another process is at work: there is nothing to wait on but time.
            std::thread::sleep(POLL_PAUSE);
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Asked first, so that it can remove its data.
        end(&mut self.child, "loggos bench", STOP_TIMEOUT);
    }
}

/// What a bench said beyond its progress: doubts about the floors, losses, errors.
fn remarks(said: &str) -> Vec<String> {
    let progress = |line: &str| {
        let begins = ["measuring the floors", "starting "].iter().any(|p| line.starts_with(p));
        // The live line: `   1.0 s   147 968 appends/s …`.
        begins || (line.contains(" appends/s ") && line.contains(" p50 "))
    };
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.filter(|line| !progress(line)).map(str::to_owned).collect()
}

/// A command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The end of a log, on one line.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(TAIL_BYTES)..];
    String::from_utf8_lossy(tail).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(load: Load) -> Settings {
        let (duration_s, warmup_s) = (1.0, 0.5);
        Settings { nodes: 3, record_bytes: 256, load, duration_s, warmup_s, floor: true }
    }

    #[test]
    fn depths_are_shared_out_over_connections() {
        for (depth, expected) in [(1, "--connections 1 --inflight 1"), (4, "--inflight 4")] {
            assert!(settings(Load::Depth(depth)).arguments().join(" ").contains(expected));
        }
        let arguments = settings(Load::Depth(4096)).arguments().join(" ");
        assert!(arguments.contains("--connections 4 --inflight 1024"), "{arguments}");
        assert!(arguments.ends_with("--duration 1 --warmup 0.5 --floor"), "{arguments}");
    }

    #[test]
    fn names_tell_settings_apart() {
        assert_eq!(settings(Load::Depth(64)).name(), "n3-b256-d64");
        let rate = Load::Rate { percent: 80, per_s: 1234.5 };
        assert_eq!(settings(rate).name(), "n3-b256-rate80");
        assert!(settings(rate).arguments().join(" ").contains("--rate 1234 ")); // rounds to even
    }

    #[test]
    fn commands_can_be_typed_again() {
        let mut command = Command::new("a b");
        command.args(["--x=1", "it's", ""]);
        assert_eq!(shown(&command), r"'a b' --x=1 'it'\''s' ''");
    }

    #[test]
    fn what_a_bench_warns_of_is_kept_and_its_progress_is_not() {
        let said = "measuring the floors in target …\nwarning: the disk was busy\n\
                    starting 3 nodes in target …\n   \
                    1.0 s            123 456 appends/s     31.6 MB/s   p50 210 us   p99 800 us\n\n\
                    the first error met: closed\n";
        assert_eq!(remarks(said), ["warning: the disk was busy", "the first error met: closed"]);
    }

    #[test]
    fn a_bench_that_takes_too_long_is_ended() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let waited = Bench { child }.wait(Duration::from_millis(50), &Stop::default());
        assert!(waited.unwrap_err().to_string().contains("takes more than"));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
