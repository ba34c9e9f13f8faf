//! Nodes whose standard error is closed, full, or not read: they serve, elect, and stop as others do.
//!
//! `LOGGOS_LOGGING_FAULTS_S` says how many seconds of faults the last test takes (20 unless it is set).

mod common;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::history::History;
use common::{Cluster, PATIENCE, judge_cluster, wait_for};
use loggos::client::ClientOptions;
use loggos::client::blocking::Client;

/// What a shell does to its standard error before it becomes the node.
const CLOSED: &str = "exec 2>&-";
const FULL: &str = "exec 2>/dev/full";

/// A named pipe, whose reader this process is.
struct Pipe {
    path: PathBuf,
    reader: Option<File>,
}

impl Pipe {
    fn new(folder: &Path, name: &str) -> Pipe {
        let path = folder.join(name);
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo can be started");
        assert!(made.success());
        let mut options = OpenOptions::new();
        let reader = options.read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        Pipe { path, reader: Some(reader.expect("a pipe opens without its writer then")) }
    }

    /// For [`Cluster::start_node_under`].
    fn redirection(&self) -> String {
        format!("exec 2>{}", self.path.display())
    }

    /// Fills the pipe, so that the next byte blocks.
    fn fill(&self) {
        let mut options = OpenOptions::new();
        let writer = options.write(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
        let mut writer = writer.expect("it has a reader");
        for chunk in [&[b'x'; 4096][..], b"x"] {
            loop {
                match writer.write(chunk) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("the pipe: {error}"),
                }
            }
        }
    }

    fn close_reader(&mut self) {
        self.reader = None;
    }

    /// Reads what there is until `text` has come.
    fn read_until(&mut self, text: &str) {
        let reader = self.reader.as_mut().expect("the reader is open");
        let mut seen = Vec::new();
        wait_for("the log is drained", || {
            let mut buffer = [0; 65536];
            match reader.read(&mut buffer) {
                Ok(count) => seen.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the pipe: {error}"),
            }
            String::from_utf8_lossy(&seen).contains(text).then_some(())
        });
    }
}

/// A stranger's request: the node refuses it, and says so in its log.
fn send_stray_request(address: &str) {
    // A node may be away in between; then nothing is sent.
    if let Ok(mut stream) = TcpStream::connect(address) {
        drop(stream.write_all(b"GET / HTTP/1.1\r\nhost: stray\r\n\r\n"));
    }
}

fn client(cluster: &Cluster) -> Client {
    let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
    Client::connect(cluster.addresses(), options).expect("the cluster answers")
}

/// Asks every node that runs to stop: each does so by itself, and well.
fn stop_all(cluster: &mut Cluster) {
    for node in cluster.nodes.iter_mut().filter(|node| node.is_running()) {
        node.terminate();
        let status = node.wait();
        assert_eq!(status.code(), Some(0), "node {}: {status}", node.id);
    }
}

#[test]
fn a_pipe_without_reader_ends_no_node() {
    let mut cluster = Cluster::formatted(3);
    let mut pipes: Vec<Pipe> =
        (1..=3).map(|id| Pipe::new(cluster.dir.path(), &format!("pipe-{id}"))).collect();
    for (index, pipe) in pipes.iter().enumerate() {
        cluster.start_node_under(index, &pipe.redirection(), &[]);
    }
    let leader = cluster.wait_for_leader();
    client(&cluster).append(&["before"]).expect("the cluster commits");
    pipes.iter_mut().for_each(Pipe::close_reader);
    cluster.kill_node(leader);
    // The survivors log an election into closed pipes.
    client(&cluster).append(&["after"]).expect("two of three commit");
    cluster.addresses().iter().for_each(|address| send_stray_request(address));
    client(&cluster).append(&["after"]).expect("two of three commit");
    stop_all(&mut cluster);
}

#[test]
fn a_full_or_closed_standard_error_at_start_ends_no_node() {
    let mut cluster = Cluster::formatted(3);
    for (index, first) in [FULL, CLOSED, CLOSED].into_iter().enumerate() {
        cluster.start_node_under(index, first, &[]);
    }
    cluster.wait_for_leader();
    client(&cluster).append(&["one"]).expect("the cluster commits");
    for node in &cluster.nodes {
        // No file of the node is open under a number of the standard streams.
        for number in 0..3 {
            let path = format!("/proc/{}/fd/{number}", node.process_id());
            let file = std::fs::read_link(&path).expect("every node has its three streams");
            assert!(
                file.starts_with("/dev"),
                "node {} has {} at {number}",
                node.id,
                file.display()
            );
        }
        send_stray_request(&node.address);
    }
    client(&cluster).append(&["two"]).expect("the cluster commits");
    wait_for("the node with a full log counts what it dropped", || {
        let status = cluster.nodes[0].status()?;
        (status.resources.log_lines_dropped > 0).then_some(())
    });
    stop_all(&mut cluster);
}

#[test]
fn an_undrained_pipe_freezes_no_node() {
    let mut cluster = Cluster::formatted(3);
    let mut pipes: Vec<Pipe> =
        (1..=3).map(|id| Pipe::new(cluster.dir.path(), &format!("pipe-{id}"))).collect();
    for (index, pipe) in pipes.iter().enumerate() {
        cluster.start_node_under(index, &pipe.redirection(), &[]);
    }
    cluster.wait_for_leader();
    client(&cluster).append(&["before"]).expect("the cluster commits");
    pipes.iter().for_each(Pipe::fill);
    for _ in 0..3 {
        cluster.addresses().iter().for_each(|address| send_stray_request(address));
    }
    client(&cluster).append(&["after"]).expect("the cluster commits");
    // Once the pipe is read again, the lines that waited come.
    pipes[0].read_until("closing a connection");
    stop_all(&mut cluster);
}

/// How the standard error of a node is, from one start to the next.
fn start_with_broken_log(cluster: &mut Cluster, pipes: &mut [Pipe], index: usize, kind: usize) {
    let pipe = &mut pipes[index];
    let first = match kind {
        0 => CLOSED.to_owned(),
        1 => FULL.to_owned(),
        _ => pipe.redirection(),
    };
    cluster.start_node_under(index, &first, &[]);
    // From now on it handles SIGTERM.
    wait_for("the node serves", || cluster.nodes[index].status());
    if kind >= 2 {
        pipe.fill();
    }
}

#[test]
fn appends_go_on_under_faults_with_broken_logs() {
    let seconds = std::env::var("LOGGOS_LOGGING_FAULTS_S");
    let seconds = seconds.map_or(20, |text| text.parse().expect("a number of seconds"));
    let faults = Duration::from_secs(seconds);
    let mut cluster = Cluster::formatted(3);
    let mut pipes: Vec<Pipe> =
        (1..=3).map(|id| Pipe::new(cluster.dir.path(), &format!("pipe-{id}"))).collect();
    for index in 0..3 {
        start_with_broken_log(&mut cluster, &mut pipes, index, index);
    }
    cluster.wait_for_leader();
    let history = Arc::new(History::default());
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, history, stop) = (client(&cluster), history.clone(), stop.clone());
        std::thread::spawn(move || {
            for number in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let value = format!("w-{number}");
                history.append(value.into_bytes(), |value| client.append(&[value]));
            }
        })
    };
    let progress = |count: usize| {
        let goal = history.appends().0 + count;
        wait_for("appends go on", || (history.appends().0 >= goal).then_some(()));
    };
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < faults {
        cluster.addresses().iter().for_each(|address| send_stray_request(address));
        progress(20);
        // Each node in turn, every third time whoever leads, ends and comes back with another log.
        let index = match rounds % 3 {
            0 => cluster.wait_for_leader(),
            _ => rounds % 3,
        };
        match rounds % 2 {
            0 => cluster.kill_node(index),
            _ => {
                cluster.nodes[index].terminate();
                assert_eq!(cluster.nodes[index].wait().code(), Some(0));
            }
        }
        progress(20);
        start_with_broken_log(&mut cluster, &mut pipes, index, (index + rounds) % 3);
        progress(20);
        rounds += 1;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer does not panic");
    println!("{rounds} rounds in {:?}", began.elapsed());
    judge_cluster(&cluster, &history);
    stop_all(&mut cluster);
}
