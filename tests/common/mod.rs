//! A cluster of real processes on 127.0.0.1 with real disks, for the tests that start the binary.
//!
//! Guarantee: every process that was started here is ended by its id when the cluster is dropped,
//! also when the test fails; the data goes with it.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use loggos::base::Position;
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadOptions};
use loggos::wire::NodeStatus;
use loggos::wire::status::RoleStatus;

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

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Its own word on how it is; `None` while it does not answer.
    pub fn status(&self) -> Option<NodeStatus> {
        let client = Client::connect([self.address.clone()], quick()).ok()?;
        client.status_of(&self.address).ok()
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        wait_for("the node ends", || child.try_wait().expect("it is our child"))
    }
}

fn quick() -> ClientOptions {
    ClientOptions { operation_timeout: Duration::from_secs(2), ..ClientOptions::default() }
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

    /// Formats `count` nodes.
    pub fn formatted(count: usize) -> Cluster {
        let dir = scratch_dir();
        let ports = free_ports(count);
        let members: Vec<String> =
            ports.iter().enumerate().map(|(i, p)| format!("{}=127.0.0.1:{p}", i + 1)).collect();
        let members = members.join(",");
        let nodes = ports.iter().enumerate().map(|(index, port)| {
            let id = index as u16 + 1;
            let data = dir.path().join(format!("node-{id}"));
            format_node(&data, "test", id, &members);
            NodeProcess {
                id,
                address: format!("127.0.0.1:{port}"),
                data,
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
        let node = &mut self.nodes[index];
        assert!(node.child.is_none(), "node {} runs already", node.id);
        let stderr = File::options().create(true).append(true).open(&node.stderr);
        let child = loggos()
            .args(["serve", "--data"])
            .arg(&node.data)
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

/// Formats a data directory.
pub fn format_node(data: &Path, cluster: &str, id: u16, members: &str) {
    let data = data.to_str().expect("a plain path");
    let id = id.to_string();
    let output = run(&[
        "format",
        "--data",
        data,
        "--cluster",
        cluster,
        "--node",
        &id,
        "--members",
        members,
        "--segment-bytes",
        "16777216",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// All records that one node holds, read from itself.
pub fn read_all(address: &str) -> Vec<Vec<u8>> {
    let options = ClientOptions { stay: true, ..ClientOptions::default() };
    let client = Client::connect([address.to_owned()], options).expect("the node answers");
    let mut records = Vec::new();
    loop {
        let from = Position(records.len() as u64);
        let batch = client.read(from, ReadOptions::default()).expect("the node reads its log");
        if batch.is_empty() {
            return records;
        }
        assert_eq!(batch.first(), from, "records come from where they were asked for");
        records.extend(batch.iter().map(|record| record.bytes.to_vec()));
    }
}
