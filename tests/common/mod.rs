//! A cluster of real processes on 127.0.0.1 with real disks, for the tests that start the binary.
//!
//! Guarantee: every process that was started here is ended by its id when the cluster is dropped,
//! also when the test fails; the data goes with it.

#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod disk;
pub mod history;
pub mod netns;
pub mod proxy;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loggos::base::{GroupId, Position};
use loggos::client::blocking::Client;
use loggos::client::connection::{ClientConnection, Incoming, Welcome};
use loggos::client::{ClientOptions, ReadLevel, ReadOptions, RefuseReason};
use loggos::wire::NodeStatus;
use loggos::wire::status::RoleStatus;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything that must happen by itself may take: far above what it takes, so that a
/// slow machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that has not happened yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The binary under test.
pub fn loggos() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loggos"))
}

/// Runs the binary with `args` to its end.
pub fn run(args: &[&str]) -> Output {
    let output = loggos().args(args).stdin(Stdio::null()).output();
    output.expect("the binary can be started")
}

/// Idle nodes of a test leave the disk to the others.
const FILL_NOTHING_AHEAD: [&str; 2] = ["--fill-ahead-bytes", "0"];

/// Small segments, unless a test asks for others.
const SMALL_SEGMENTS: [&str; 2] = ["--segment-bytes", "16777216"];

/// Looks until `look` finds something.
///
/// # Panics
/// After [`PATIENCE`], with `what`.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Connects and greets as a client of `group`. Returns the connection, to be held, and the answer.
pub fn greet(address: &str, group: u16) -> (TcpStream, Result<Welcome, RefuseReason>) {
    let mut connection: ClientConnection<()> = ClientConnection::of_group(None, GroupId(group), 1);
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(&connection.take_output(Vec::new())).expect("it reads");
    let mut answer = None;
    let mut buffer = [0; 4096];
    while answer.is_none() {
        let count = stream.read(&mut buffer).expect("it answers");
        assert!(count > 0, "it answers before it hangs up");
        let received = connection.receive(&buffer[..count], |incoming| {
            answer = match incoming {
                Incoming::Welcome(welcome) => Some(Ok(welcome.clone())),
                Incoming::Refused { reason, .. } => Some(Err(reason)),
                _ => None,
            };
        });
        received.expect("it keeps the protocol");
    }
    (stream, answer.expect("the loop ends with one"))
}

/// A fresh folder on the disk that holds the build: a real one, unlike a /tmp in memory.
pub fn scratch_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder can be made")
}

/// Ports that nobody listens on at the moment.
pub fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port can be found"))
        .collect();
    listeners.iter().map(|l| l.local_addr().expect("a bound socket has one").port()).collect()
}

/// One node of a [`Cluster`].
#[derive(Debug)]
pub struct NodeProcess {
    pub id: u16,
    pub address: String,
    pub data: PathBuf,
    /// The network namespace that it runs in, if it is not the test's own.
    netns: Option<String>,
    stderr: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn process_id(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// SIGSTOP: it does nothing more, and its sockets stand.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on where it was stopped.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: it is asked to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.process_id() as i32).expect("a process has a number");
        kill_process(id, signal).expect("our own child can be signalled");
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Its own word on how it is; `None` while it does not answer.
    pub fn status(&self) -> Option<NodeStatus> {
        let client = Client::connect([self.address.clone()], quick()).ok()?;
        client.status_of(&self.address).ok()
    }

    /// The same of one of its groups.
    pub fn status_of_group(&self, group: u16) -> Option<NodeStatus> {
        let client = Client::connect([self.address.clone()], quick()).ok()?;
        client.of_group(GroupId(group)).status_of(&self.address).ok()
    }

    /// How the process has ended by itself; `None` while it runs.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().expect("the node was started").try_wait().expect("it is our child")
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        wait_for("the node ends", || child.try_wait().expect("it is our child"))
    }
}

fn quick() -> ClientOptions {
    ClientOptions {
        operation_timeout: Duration::from_secs(2),
        allow_blank: true,
        ..ClientOptions::default()
    }
}

/// Real replicas on loopback.
#[derive(Debug)]
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub nodes: Vec<NodeProcess>,
}

impl Cluster {
    /// Formats `count` nodes and starts them.
    pub fn start(count: usize) -> Cluster {
        let mut cluster = Cluster::formatted(count);
        for index in 0..count {
            cluster.start_node(index);
        }
        cluster
    }

    /// Formats `count` nodes and founds their cluster; none runs.
    pub fn formatted(count: usize) -> Cluster {
        Cluster::formatted_with(count, &[])
    }

    /// As [`Cluster::formatted`], with these flags for `format` besides.
    pub fn formatted_with(count: usize, flags: &[&str]) -> Cluster {
        let ports = free_ports(count).into_iter();
        let places = ports.map(|port| (format!("127.0.0.1:{port}"), None));
        Cluster::formatted_at_with(places.collect(), flags)
    }

    /// Formats nodes with these addresses, each in a network namespace or in the test's own.
    pub fn formatted_at(places: Vec<(String, Option<String>)>) -> Cluster {
        Cluster::formatted_at_with(places, &[])
    }

    fn formatted_at_with(places: Vec<(String, Option<String>)>, flags: &[&str]) -> Cluster {
        Cluster::blank_at_with(places, flags).founded()
    }

    /// Founds the cluster; none of its nodes runs, before and afterwards.
    fn founded(mut self) -> Cluster {
        let count = self.nodes.len();
        (0..count).for_each(|index| self.start_node(index));
        self.found();
        for index in 0..count {
            self.kill_node(index);
            // What a test looks for in a log is what its own starts say.
            std::fs::remove_file(&self.nodes[index].stderr).expect("it has logged");
        }
        self
    }

    /// Formats `count` nodes; the cluster is not founded.
    pub fn blank(count: usize) -> Cluster {
        let ports = free_ports(count).into_iter();
        Cluster::blank_at_with(ports.map(|port| (format!("127.0.0.1:{port}"), None)).collect(), &[])
    }

    /// As [`Cluster::formatted_at`]; the cluster is not founded.
    pub fn blank_at(places: Vec<(String, Option<String>)>) -> Cluster {
        Cluster::blank_at_with(places, &[])
    }

    /// Founds the cluster, whose nodes all run, and waits until each knows it. Returns its id.
    pub fn found(&self) -> String {
        wait_for("the cluster is founded", || {
            self.init(&self.targets()).status.success().then_some(())
        });
        let ids = wait_for("every node has learnt it", || {
            let known = |node: &NodeProcess| node.status()?.cluster_id;
            self.nodes.iter().map(known).collect::<Option<Vec<String>>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ids[0].clone()
    }

    /// Runs `loggos init`.
    pub fn init(&self, targets: &str) -> Output {
        let mut command = match &self.nodes[0].netns {
            None => loggos(),
            Some(netns) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", netns, env!("CARGO_BIN_EXE_loggos")]);
                ip
            }
        };
        command.args(["init", "--target", targets, "--timeout", "10"]).stdin(Stdio::null());
        command.output().expect("the binary can be started")
    }

    fn blank_at_with(places: Vec<(String, Option<String>)>, flags: &[&str]) -> Cluster {
        let dir = scratch_dir();
        let data = (1..=places.len()).map(|id| dir.path().join(format!("node-{id}")));
        let data = data.collect();
        Cluster::formatted_in(dir, data, places, flags)
    }

    /// Formats a node in each of these folders, with these flags for `format` besides, and founds
    /// their cluster; none runs.
    pub fn formatted_on(data: Vec<PathBuf>, flags: &[&str]) -> Cluster {
        let ports = free_ports(data.len()).into_iter();
        let places = ports.map(|port| (format!("127.0.0.1:{port}"), None));
        Cluster::formatted_in(scratch_dir(), data, places.collect(), flags).founded()
    }

    fn formatted_in(
        dir: tempfile::TempDir,
        data: Vec<PathBuf>,
        places: Vec<(String, Option<String>)>,
        flags: &[&str],
    ) -> Cluster {
        let members: Vec<String> =
            places.iter().enumerate().map(|(i, (at, _))| format!("{}={at}", i + 1)).collect();
        let members = members.join(",");
        let nodes = places.into_iter().zip(data).enumerate().map(|(index, (place, data))| {
            let (address, netns) = place;
            let id = index as u16 + 1;
            format_node_with(&data, "test", id, &members, flags);
            NodeProcess {
                id,
                address,
                data,
                netns,
                stderr: dir.path().join(format!("node-{id}.log")),
                child: None,
            }
        });
        let nodes = nodes.collect();
        Cluster { dir, nodes }
    }

    pub fn start_node(&mut self, index: usize) {
        self.start_node_with(index, &[]);
    }

    /// As [`Cluster::start_node`], with these flags for `serve` besides.
    pub fn start_node_with(&mut self, index: usize, flags: &[&str]) {
        let command = match &self.nodes[index].netns {
            None => loggos(),
            // Becomes the command: the child's number is the node's.
            Some(netns) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", netns, env!("CARGO_BIN_EXE_loggos")]);
                ip
            }
        };
        self.spawn(index, command, flags);
    }

    /// As [`Cluster::start_node_with`], from a shell that has done `first` to itself: limits, signals.
    pub fn start_node_under(&mut self, index: usize, first: &str, flags: &[&str]) {
        let mut shell = Command::new("sh");
        // Becomes the command, as above.
        let script = format!("{first} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_loggos")]);
        self.spawn(index, shell, flags);
    }

    fn spawn(&mut self, index: usize, mut command: Command, flags: &[&str]) {
        let node = &mut self.nodes[index];
        assert!(node.child.is_none(), "node {} runs already", node.id);
        let stderr = File::options().create(true).append(true).open(&node.stderr);
        let child = command
            .args(["serve", "--data"])
            .arg(&node.data)
            .args(FILL_NOTHING_AHEAD.iter().filter(|_| !flags.contains(&FILL_NOTHING_AHEAD[0])))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.expect("the scratch folder can be written"))
            .spawn();
        node.child = Some(child.expect("the binary can be started"));
    }

    /// SIGKILL, as a crash of the process.
    pub fn kill_node(&mut self, index: usize) {
        let mut child = self.nodes[index].child.take().expect("the node runs");
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    pub fn targets(&self) -> String {
        self.addresses().join(",")
    }

    /// The index of the running node that leads, with the highest ballot.
    pub fn leader(&self) -> Option<usize> {
        let statuses = self.nodes.iter().enumerate().filter(|(_, node)| node.is_running());
        let leaders = statuses.filter_map(|(index, node)| {
            let status = node.status()?;
            (status.role == RoleStatus::Leader).then_some((status.ballot.round, index))
        });
        leaders.max().map(|(_, index)| index)
    }

    pub fn wait_for_leader(&self) -> usize {
        wait_for("a leader", || self.leader())
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addresses(), ClientOptions::default()).expect("the cluster answers")
    }

    /// Waits until all nodes have applied the same slots and give out the same next position;
    /// returns it.
    pub fn wait_until_equal(&self) -> u64 {
        wait_for("all replicas are equal", || {
            let statuses: Option<Vec<NodeStatus>> =
                self.nodes.iter().map(NodeProcess::status).collect();
            let statuses = statuses?;
            let first = (statuses[0].applied, statuses[0].tail);
            let equal = statuses.iter().all(|status| (status.applied, status.tail) == first);
            equal.then_some(first.1)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_running() {
                self.kill_node(index);
            }
            if std::thread::panicking() {
                let node = &self.nodes[index];
                let log = node.log();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- the end of node {}'s log:", node.id);
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// Two threads, one for each linearizable level, that ask for the tail and read the last records
/// over and over.
pub fn linearizable_readers(
    client: &Client,
    history: &Arc<history::History>,
    stop: &Arc<AtomicBool>,
) -> [JoinHandle<()>; 2] {
    [ReadLevel::Lease, ReadLevel::ReadIndex].map(|level| {
        let (client, history, stop) = (client.clone(), history.clone(), stop.clone());
        std::thread::spawn(move || {
            let options = ReadOptions { level, ..ReadOptions::default() };
            let mut from = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Some(tail) = history.tail(level, || client.tail(level)) {
                    from = tail.saturating_sub(10);
                }
                let read = || client.read(Position(from), options);
                history.read(level, from, u64::from(options.records_max), read);
            }
        })
    })
}

/// Formats a data directory.
pub fn format_node(data: &Path, cluster: &str, id: u16, members: &str) {
    format_node_with(data, cluster, id, members, &[]);
}

/// As [`format_node`], with these flags besides.
pub fn format_node_with(data: &Path, cluster: &str, id: u16, members: &str, flags: &[&str]) {
    let data = data.to_str().expect("a plain path");
    let id = id.to_string();
    let id = id.as_str();
    let mut args = vec!["format", "--data", data, "--cluster", cluster, "--node", id];
    args.extend(["--members", members]);
    args.extend(SMALL_SEGMENTS.iter().filter(|_| !flags.contains(&SMALL_SEGMENTS[0])));
    args.extend(flags);
    let output = run(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Judges what clients saw against the log of every node, all of which must be equal and know every
/// outcome; returns how many lease and read-index reads were answered.
pub fn judge_cluster(cluster: &Cluster, history: &history::History) -> [usize; 2] {
    let tail = cluster.wait_until_equal();
    for node in &cluster.nodes {
        let log = read_all(&node.address);
        assert_eq!(log.len() as u64, tail);
        history.judge(&log).unwrap_or_else(|violation| panic!("node {}: {violation}", node.id));
    }
    let (ok, failed, unknown) = history.appends();
    let [lease, read_index] = [ReadLevel::Lease, ReadLevel::ReadIndex].map(|l| history.answered(l));
    println!(
        "{ok} appends acknowledged, {failed} failed, {unknown} unknown; \
         {lease} lease reads, {read_index} read-index reads"
    );
    assert_eq!(unknown, 0, "with retries for {PATIENCE:?} every outcome becomes known");
    [lease, read_index]
}

/// All records that one node holds, read from itself.
pub fn read_all(address: &str) -> Vec<Vec<u8>> {
    let options = ClientOptions { stay: true, ..ClientOptions::default() };
    let own = ReadOptions { level: ReadLevel::Local, ..ReadOptions::default() };
    let client = Client::connect([address.to_owned()], options).expect("the node answers");
    let mut records = Vec::new();
    loop {
        let from = Position(records.len() as u64);
        let batch = client.read(from, own).expect("the node reads its log");
        if batch.is_empty() {
            return records;
        }
        assert_eq!(batch.first(), from, "records come from where they were asked for");
        records.extend(batch.iter().map(|record| record.bytes.to_vec()));
    }
}
