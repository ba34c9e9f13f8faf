//! The embedded cluster of `loggos bench`: real processes, real disks, real sockets, all on this
//! host and all gone afterwards.
//!
//! Each node is this very executable: `loggos format`, then `loggos serve` as a child process with
//! its own data directory and log file. The children are killed by process id on every way out:
//! when this value is dropped (also while panicking in a debug build), and by the kernel when the
//! parent dies without a chance to do so (`serve --exit-with-parent`); `scratch` removes their data.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::connect::connect_to_leader;
use super::scratch::Scratch;
use crate::base::GroupId;
use crate::base::limits::MEMBERS_MAX;
use rustix::process::{Pid, Signal, kill_process};

/// How long the nodes may take to elect a leader.
pub const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one attempt to found the cluster may take, in seconds.
const INIT_TIMEOUT_S: &str = "5";
/// How long a node may take to end when asked to; then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at something that another process does.
const POLL_PAUSE: Duration = Duration::from_millis(10);
/// Attempts to start, when another process took a port that had just been free.
const START_ATTEMPTS_MAX: usize = 3;
/// Bytes of a node's log shown when it ends too early.
const LOG_TAIL_BYTES: usize = 600;
/// The name of the embedded cluster.
const CLUSTER_NAME: &str = "bench";

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The executable: this one.
    pub executable: PathBuf,
    /// Members, 1 to [`MEMBERS_MAX`].
    pub nodes: usize,
    /// Groups.
    pub groups: u16,
    /// Bytes of log that each node has filled with zeros ahead, and fills again when it is idle.
    pub preallocate_bytes: u64,
    /// A fresh folder for data and logs is made in this one; it must be on a real disk.
    pub parent: PathBuf,
    /// Leave data and logs when done.
    pub keep_data: bool,
}

/// Why the embedded cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's own word.
        source: io::Error,
    },
    /// A node cannot be formatted.
    #[error("node {node} cannot be formatted: {why}")]
    Format {
        /// The node.
        node: usize,
        /// What it printed.
        why: String,
    },
    /// A node has ended by itself.
    #[error("node {node} has ended ({status}): {why}")]
    Ended {
        /// The node.
        node: usize,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        why: String,
    },
    /// No leader in time.
    #[error("the nodes have elected no leader within {} s: {why}", LEADER_TIMEOUT.as_secs())]
    NoLeader {
        /// What the last attempt to find one said.
        why: String,
    },
    /// The cluster was not founded in time.
    #[error("the cluster was not founded within {} s: {why}", LEADER_TIMEOUT.as_secs())]
    NotFounded {
        /// What the last attempt said.
        why: String,
    },
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> LocalError {
    |source| LocalError::System { what: what.into(), source }
}

#[derive(Debug)]
struct Node {
    number: usize,
    address: String,
    log: PathBuf,
    child: Child,
}

/// What the nodes have used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of all nodes since they started, in seconds.
    pub cpu_s: f64,
    /// The largest resident size that any of them has had, in bytes.
    pub rss_bytes_max: u64,
}

/// A running embedded cluster; dropping it ends it.
#[derive(Debug)]
pub struct LocalCluster {
    nodes: Vec<Node>,
    folder: Option<Scratch>,
    keep_data: bool,
    preallocate_bytes: u64,
}

impl LocalCluster {
    /// Formats and starts the nodes and waits for a leader, unless `stop` is set meanwhile.
    ///
    /// # Errors
    /// [`LocalError`]; nothing is left running then.
    ///
    /// # Panics
    /// When the number of nodes is not 1 to [`MEMBERS_MAX`], which the caller has checked.
    pub fn start(options: &LocalOptions, stop: &AtomicBool) -> Result<LocalCluster, LocalError> {
        assert!((1..=MEMBERS_MAX).contains(&options.nodes), "{} nodes", options.nodes);
        let mut attempt = 1;
        loop {
            match LocalCluster::attempt(options, stop) {
                Err(LocalError::Ended { why, .. })
                    if why.contains("in use") && attempt < START_ATTEMPTS_MAX =>
                {
                    tracing::info!(why, "a port was taken meanwhile; starting again");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn attempt(options: &LocalOptions, stop: &AtomicBool) -> Result<LocalCluster, LocalError> {
        let in_parent = format!("a folder in {}", options.parent.display());
        let folder = Scratch::make(&options.parent, &options.executable);
        let folder = folder.map_err(system(in_parent))?;
        let addresses = free_addresses(options.nodes).map_err(system("a free port"))?;
        let members: Vec<_> =
            addresses.iter().enumerate().map(|(index, a)| format!("{}={a}", index + 1)).collect();
        let members = members.join(",");
        let mut cluster = LocalCluster {
            nodes: Vec::with_capacity(options.nodes),
            folder: Some(folder),
            keep_data: options.keep_data,
            preallocate_bytes: options.preallocate_bytes,
        };
        let data_of = |folder: &Path, number: usize| folder.join(format!("node{number}"));
        // All of them first: it takes a while where much is to be filled ahead.
        for number in 1..=addresses.len() {
            format(options, &data_of(cluster.path(), number), number, &members)?;
        }
        for (index, address) in addresses.into_iter().enumerate() {
            let number = index + 1;
            let data = data_of(cluster.path(), number);
            let log = cluster.path().join(format!("node{number}.log"));
            let child =
                serve(options, &data, &log).map_err(system(format!("starting node {number}")))?;
            cluster.nodes.push(Node { number, address, log, child });
        }
        cluster.found(options, stop)?;
        for group in (0..options.groups).map(GroupId) {
            cluster.wait_for_leader(group, stop)?;
        }
        Ok(cluster)
    }

    /// Founds the cluster, once all nodes answer.
    fn found(&mut self, options: &LocalOptions, stop: &AtomicBool) -> Result<(), LocalError> {
        let targets = self.addresses().join(",");
        let give_up = Instant::now() + LEADER_TIMEOUT;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(LocalError::Interrupted);
            }
            self.check()?;
            let mut command = Command::new(&options.executable);
            command.args(["init", "--target", &targets, "--timeout", INIT_TIMEOUT_S]);
            let output = command.stdin(Stdio::null()).output();
            let output =
                output.map_err(system(format!("running {}", options.executable.display())))?;
            if output.status.success() {
                return Ok(());
            }
            if Instant::now() >= give_up {
                let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
                return Err(LocalError::NotFounded { why });
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// The folder with the nodes' data and logs.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), Scratch::path)
    }

    /// Bytes of log that each node had filled with zeros ahead at the start.
    pub fn preallocate_bytes(&self) -> u64 {
        self.preallocate_bytes
    }

    /// Where the nodes can be reached.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// The nodes' process ids.
    pub fn process_ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// Whether every node still runs.
    ///
    /// # Errors
    /// [`LocalError::Ended`] with the end of the log of one that does not.
    pub fn check(&mut self) -> Result<(), LocalError> {
        for node in &mut self.nodes {
            let number = node.number;
            let status =
                node.child.try_wait().map_err(system(format!("waiting for node {number}")))?;
            if let Some(status) = status {
                return Err(LocalError::Ended { node: number, status, why: log_tail(&node.log) });
            }
        }
        Ok(())
    }

    fn wait_for_leader(&mut self, group: GroupId, stop: &AtomicBool) -> Result<(), LocalError> {
        let addresses = self.addresses();
        let give_up = Instant::now() + LEADER_TIMEOUT;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(LocalError::Interrupted);
            }
            self.check()?;
            match connect_to_leader(&addresses, group, 1) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= give_up => {
                    return Err(LocalError::NoLeader { why: error.to_string() });
                }
                // Another process is at work here: there is nothing to wait on but time.
                Err(_) => std::thread::sleep(POLL_PAUSE),
            }
        }
    }

    /// What the nodes have used up to now; a node that cannot be read counts as zero.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for node in &self.nodes {
            let folder = PathBuf::from(format!("/proc/{}", node.child.id()));
            let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
            let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
            usage.cpu_s += cpu_ticks(&stat).unwrap_or(0) as f64
                / rustix::param::clock_ticks_per_second() as f64;
            usage.rss_bytes_max = usage.rss_bytes_max.max(rss_bytes_max(&status).unwrap_or(0));
        }
        usage
    }

    /// Ends the nodes and removes their data, unless it is to be kept: then says where it is.
    ///
    /// # Errors
    /// When the data cannot be removed.
    pub fn stop(mut self) -> Result<Option<PathBuf>, LocalError> {
        self.end_nodes();
        self.dispose()
    }

    fn end_nodes(&mut self) {
        for node in &self.nodes {
            let pid = i32::try_from(node.child.id()).ok().and_then(Pid::from_raw);
            if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
                tracing::debug!(node = node.number, %error, "the node has ended already");
            }
        }
        let give_up = Instant::now() + STOP_TIMEOUT;
        for node in &mut self.nodes {
            while matches!(node.child.try_wait(), Ok(None)) && Instant::now() < give_up {
                std::thread::sleep(POLL_PAUSE);
            }
            // No error when it has ended and was waited for.
            let ended = node.child.kill().and_then(|()| node.child.wait());
            if let Err(error) = ended {
                tracing::warn!(node = node.number, %error, "the node could not be ended");
            }
        }
        self.nodes.clear();
    }

    fn dispose(&mut self) -> Result<Option<PathBuf>, LocalError> {
        let Some(folder) = self.folder.take() else { return Ok(None) };
        if self.keep_data {
            let path = folder.path().display().to_string();
            return folder.keep().map(Some).map_err(system(format!("keeping {path}")));
        }
        let path = folder.path().to_owned();
        folder.remove().map_err(system(format!("removing {}", path.display())))?;
        Ok(None)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.end_nodes();
        if let Err(error) = self.dispose() {
            tracing::warn!(%error, "the data of the embedded cluster stays");
        }
    }
}

/// Addresses on loopback that nobody listens on (a moment ago).
fn free_addresses(count: usize) -> io::Result<Vec<String>> {
    // All are held until the last one is known, so that they differ.
    let listeners: io::Result<Vec<_>> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    listeners?.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

fn format(
    options: &LocalOptions,
    data: &Path,
    number: usize,
    members: &str,
) -> Result<(), LocalError> {
    let executable = &options.executable;
    let mut command = Command::new(executable);
    command.arg("format").arg("--data").arg(data).args(["--cluster", CLUSTER_NAME]);
    command.args(["--node", &number.to_string(), "--members", members]);
    command.args(["--groups", &options.groups.to_string()]);
    command.args(["--preallocate-bytes", &options.preallocate_bytes.to_string()]);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(system(format!("running {}", executable.display())))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Err(LocalError::Format { node: number, why })
        }
    }
}

fn serve(options: &LocalOptions, data: &Path, log: &Path) -> io::Result<Child> {
    let log = File::create(log)?;
    Command::new(&options.executable)
        .arg("serve")
        .arg("--data")
        .arg(data)
        .args(["--fill-ahead-bytes", &options.preallocate_bytes.to_string()])
        .args(["--exit-with-parent", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C is for the parent, which ends the nodes in good order.
        .process_group(0)
        .spawn()
}

fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(LOG_TAIL_BYTES)..];
    String::from_utf8_lossy(tail).trim().replace('\n', "; ")
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

/// The peak resident size from `/proc/PID/status` (proc_pid_status(5)), in bytes.
pub(super) fn rss_bytes_max(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_whatever_the_process_is_called() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("nonsense"), None);
        let status = "Name:\tloggos\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(rss_bytes_max(status), Some(2 * 1024 * 1024));
        assert_eq!(rss_bytes_max(""), None);
        // And those of this very process.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(cpu_ticks(&stat).is_some() && rss_bytes_max(&status).unwrap() > 0);
    }

    #[test]
    fn free_addresses_differ() {
        let addresses = free_addresses(5).unwrap();
        let unique: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(unique.len(), 5);
    }

    /// A stand-in for the executable: `format` succeeds or not, `serve` ends at once or sleeps.
    fn script(folder: &Path, body: &str) -> PathBuf {
        let (source, path) = (folder.join("fake-loggos.sh"), folder.join("fake-loggos"));
        std::fs::write(&source, format!("#!/bin/sh\n{body}\n")).unwrap();
        // Written by another process: were it open for writing here while another test forks, the
        // kernel would refuse to run it (ETXTBSY).
        let mut install = Command::new("install");
        assert!(install.args(["-m", "755"]).args([&source, &path]).status().unwrap().success());
        path
    }

    fn start(body: &str, stop: bool) -> (LocalError, usize) {
        let folder = tempfile::tempdir().unwrap();
        let options = LocalOptions {
            executable: script(folder.path(), body),
            nodes: 2,
            groups: 1,
            preallocate_bytes: 0,
            parent: folder.path().to_owned(),
            keep_data: false,
        };
        let error = LocalCluster::start(&options, &AtomicBool::new(stop)).unwrap_err();
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        (error, left - 2)
    }

    #[test]
    fn a_failed_start_says_why_and_leaves_nothing() {
        let (error, left) = start("echo no room >&2; exit 2", false);
        assert_eq!(error.to_string(), "node 1 cannot be formatted: no room");
        assert_eq!(left, 0);

        let (error, left) = start("[ $1 = format ] || { echo broken >&2; exit 5; }", false);
        let text = error.to_string();
        assert!(text.contains("has ended") && text.ends_with("broken"), "{text}");
        assert_eq!(left, 0);
    }

    #[test]
    fn an_interrupt_ends_the_nodes() {
        let (error, left) = start("[ $1 = format ] || exec sleep 600", true);
        assert!(matches!(error, LocalError::Interrupted), "{error}");
        assert_eq!(left, 0);
    }
}
