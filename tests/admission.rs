//! Who may hold a node's connections, and how a node of several groups ends: against real processes
//! with small limits.

mod common;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Cluster, PATIENCE, greet, read_all, wait_for};
use loggos::base::{GroupId, LogTerms, Position};
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadLevel, ReadOptions, RefuseReason};
use loggos::wire::status::RoleStatus;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Whether the other side closes the connection.
fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("a timeout can be set");
    match stream.read(&mut [0; 8]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn idle_clients_and_silent_strangers_do_not_shut_out_the_peers_of_any_group() {
    // Enough files for few connections (and 64 files besides): 40 clients of each group, and 20 strangers.
    const LIMIT: &str = "ulimit -n 384";
    const CLIENTS_MAX: usize = 40;
    const STRANGERS_MAX: usize = 20;
    let mut cluster = Cluster::formatted_with(3, &["--groups", "2"]);
    cluster.start_node_under(0, LIMIT, &[]);
    (1..3).for_each(|index| cluster.start_node(index));
    // Group 0 prefers the first node, group 1 the second one.
    for group in 0..2u16 {
        wait_for("the leaders are spread", || {
            let status = cluster.nodes[usize::from(group)].status_of_group(group)?;
            (status.role == RoleStatus::Leader).then_some(())
        });
    }
    let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
    let client = Client::connect(cluster.addresses(), options).expect("the cluster answers");
    let name = (0..).map(|number| format!("log-{number}"));
    let name = name.into_iter().find(|name| GroupId::of_log_name(name, 2) == GroupId(1));
    let other = client.create_log(&LogTerms::named(&name.expect("names spread"))).expect("it is");
    let other = client.of_log(other);
    let append = |value: &str| {
        client.append(&[value.as_bytes()]).expect("group 0 has a quorum");
        other.append(&[value.as_bytes()]).expect("group 1 has a quorum");
    };
    append("before");

    let address = cluster.nodes[0].address.clone();
    let clients: Vec<_> = (0..CLIENTS_MAX + 10).map(|_| greet(&address, 0)).collect();
    let welcome = clients.iter().filter(|(_, answer)| answer.is_ok()).count();
    // Our own client is one of them, and others that asked for the status may not be gone yet.
    assert!((CLIENTS_MAX - 8..CLIENTS_MAX).contains(&welcome), "{welcome} clients");
    for (_, answer) in &clients {
        assert!(matches!(answer, Ok(_) | Err(RefuseReason::TooManyConnections)), "{answer:?}");
    }
    let connect = || TcpStream::connect(&address).expect("the node listens");
    let mut strangers: Vec<TcpStream> = (0..20 * STRANGERS_MAX).map(|_| connect()).collect();
    assert!(is_closed(&mut strangers[0], PATIENCE), "the oldest makes room");

    // The first node has a quorum again only if the second one gets in, for both groups.
    cluster.kill_node(1);
    cluster.kill_node(2);
    cluster.start_node(1);
    append("after");
    for (number, (stream, answer)) in clients.into_iter().enumerate() {
        let (mut stream, is_welcome) = (stream, answer.is_ok());
        let wait = if is_welcome { Duration::from_millis(1) } else { PATIENCE };
        assert_eq!(is_closed(&mut stream, wait), !is_welcome, "client {number}");
    }
    // The others are not there for ever.
    let last = strangers.last_mut().expect("there are many");
    assert!(is_closed(last, PATIENCE));
    let log = cluster.nodes[0].log();
    let told = log.matches("closing a connection").count();
    assert!((1..strangers.len() / 2).contains(&told), "{told} lines about {}", strangers.len());
}

#[test]
fn a_signal_ends_a_node_while_one_of_its_groups_cannot_open_its_log() {
    let mut cluster = Cluster::formatted_with(1, &["--groups", "3"]);
    // Opening it waits for a writer, which never comes: as a disk that does not answer.
    let hangs = cluster.nodes[0].data.join("group-0001/checkpoint-0");
    mknodat(CWD, &hangs, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
    cluster.start_node(0);
    for group in [0, 2] {
        wait_for("it leads", || {
            let status = cluster.nodes[0].status_of_group(group)?;
            (status.role == RoleStatus::Leader).then_some(())
        });
    }
    let asked = Instant::now();
    cluster.nodes[0].terminate();
    assert_eq!(cluster.nodes[0].wait().code(), Some(0), "{}", cluster.nodes[0].log());
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    let log = cluster.nodes[0].log();
    assert_eq!(log.matches("stopping").count(), 2, "{log}");

    // Nothing has been harmed.
    std::fs::remove_file(&hangs).expect("the pipe is ours");
    cluster.start_node(0);
    wait_for("it leads", || cluster.nodes[0].status_of_group(1)?.leader);
}

#[test]
fn a_write_that_fails_in_one_group_ends_the_node_and_loses_nothing_acknowledged() {
    const GROUPS: u16 = 3;
    const RECORD_BYTES: usize = 256 * 1024;
    /// Files may be written up to here, from some moment on.
    const FILE_BYTES_MAX: u64 = 2 << 20;
    let mut cluster = Cluster::formatted_with(1, &["--groups", "3"]);
    // The write is to fail, not the signal about it to kill.
    cluster.start_node_under(0, "trap '' XFSZ", &[]);
    let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
    let client = Client::connect(cluster.addresses(), options.clone()).expect("it answers");
    let names = (0..).map(|number| format!("log-{number}"));
    let name = names.into_iter().find(|name| GroupId::of_log_name(name, GROUPS) == GroupId(1));
    let log = client.create_log(&LogTerms::named(&name.expect("names spread"))).expect("it is");
    let of_log = client.of_log(log);
    let record = |number: usize| vec![number as u8; RECORD_BYTES];
    let before = 1 + FILE_BYTES_MAX as usize / RECORD_BYTES;
    for number in 0..before {
        of_log.append(&[&record(number)]).expect("the disk has room");
    }
    client.append(&[b"small"]).expect("the disk has room");

    // The spare segments are there: nothing else is written than what is appended.
    for group in 0..GROUPS {
        let folder = cluster.nodes[0].data.join(format!("group-{group:04}"));
        wait_for("the spare segments", || {
            folder.join("segment-0000000000000003.log").exists().then_some(())
        });
    }

    // Only group 1 stands beyond the limit in its segment.
    let id = Pid::from_raw(cluster.nodes[0].process_id() as i32).expect("a process has a number");
    let limit = Rlimit { current: Some(FILE_BYTES_MAX), maximum: None };
    prlimit(Some(id), Resource::Fsize, limit).expect("our own child's limits can be set");
    client.append(&[b"small, too"]).expect("group 0 still writes");
    let quick = ClientOptions { operation_timeout: Duration::from_secs(2), ..options };
    let last = Client::connect(cluster.addresses(), quick).expect("it answers");
    last.of_log(log).append(&[b"never"]).expect_err("its write fails");
    assert_eq!(cluster.nodes[0].wait().code(), Some(5), "{}", cluster.nodes[0].log());
    let text = cluster.nodes[0].log();
    let reasons = text.lines().filter(|line| line.contains("the node stops"));
    let reasons: Vec<&str> = reasons.collect();
    assert_eq!(reasons.len(), 1, "{text}");
    assert!(reasons[0].contains("group=1") && reasons[0].contains("group-0001/"), "{reasons:?}");

    cluster.start_node(0);
    // Not what the node knows at once, but what a leader has made sure of.
    assert_eq!(cluster.client().tail(ReadLevel::ReadIndex).expect("a leader comes"), Position(2));
    assert_eq!(read_all(&cluster.nodes[0].address), [&b"small"[..], b"small, too"]);
    let client = cluster.client().of_log(log);
    let options = ReadOptions { level: ReadLevel::ReadIndex, ..ReadOptions::default() };
    for number in 0..before {
        let read = client.read(Position(number as u64), options);
        let read = read.expect("a leader is there");
        let first = read.iter().next().expect("it was acknowledged").bytes.to_vec();
        assert!(first == record(number), "record {number}");
    }
}
