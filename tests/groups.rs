//! Several groups in each node: their logs, their leaders, and what they share.

mod common;

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Cluster, format_node_with, greet, loggos, run, wait_for};
use loggos::base::{GroupId, LogId, LogTerms, Position};
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadLevel, ReadOptions, RefuseReason};
use loggos::wire::status::RoleStatus;
use serde_json::Value;

const GROUPS: u16 = 3;
const FLAGS: [&str; 2] = ["--groups", "3"];
/// Appends of each writer before and after the crash.
const PROGRESS: usize = 200;

fn start() -> Cluster {
    let mut cluster = Cluster::formatted_with(3, &FLAGS);
    (0..3).for_each(|index| cluster.start_node(index));
    cluster
}

/// The index of the node that leads a group, if one does.
fn leader_of(cluster: &Cluster, group: u16) -> Option<usize> {
    let nodes = cluster.nodes.iter().enumerate().filter(|(_, node)| node.is_running());
    let leads = nodes.filter_map(|(index, node)| {
        let status = node.status_of_group(group)?;
        assert_eq!(status.group, group, "each thread answers for its own group");
        (status.role == RoleStatus::Leader).then_some((status.ballot.round, index))
    });
    leads.max().map(|(_, index)| index)
}

/// Waits until each group is led by its own node.
fn wait_until_balanced(cluster: &Cluster) {
    for group in 0..GROUPS {
        let wanted = usize::from(group);
        wait_for("the leaders are spread", || {
            (leader_of(cluster, group) == Some(wanted)).then_some(())
        });
    }
}

/// A log in each group, by group.
fn a_log_each(client: &Client) -> Vec<(String, LogId)> {
    let in_group = |group: u16| {
        let names = (0..).map(|number| format!("log-{number}"));
        let mut names =
            names.filter(move |name| GroupId::of_log_name(name, GROUPS) == GroupId(group));
        names.next().expect("names spread over the groups")
    };
    let make = |group| {
        let name = in_group(group);
        let log = client.create_log(&LogTerms::named(&name)).expect("the cluster commits");
        assert_eq!(log.group(), GroupId(group));
        (name, log)
    };
    (0..GROUPS).map(make).collect()
}

fn read_log(address: &str, log: LogId) -> Vec<Vec<u8>> {
    let options = ClientOptions { stay: true, ..ClientOptions::default() };
    let own = ReadOptions { level: ReadLevel::Local, ..ReadOptions::default() };
    let client = Client::connect([address.to_owned()], options).expect("the node answers");
    let client = client.of_log(log);
    let tail = client.tail(ReadLevel::ReadIndex).expect("a leader is there");
    let mut records = Vec::new();
    while (records.len() as u64) < tail.0 {
        let from = Position(records.len() as u64);
        let batch = client.read(from, own).expect("the node reads its log");
        assert!(batch.is_empty() || batch.first() == from);
        records.extend(batch.iter().map(|record| record.bytes.to_vec()));
    }
    records
}

#[test]
fn a_node_dies_and_every_group_keeps_what_it_acknowledged_and_gets_its_leader_back() {
    let mut cluster = start();
    wait_until_balanced(&cluster);
    let client = cluster.client();
    let logs = a_log_each(&client);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let counts: Arc<Vec<AtomicUsize>> =
        Arc::new(logs.iter().map(|_| AtomicUsize::new(0)).collect());
    let writers: Vec<_> = logs
        .iter()
        .enumerate()
        .map(|(writer, (_, log))| {
            let (client, log) = (cluster.client().of_log(*log), *log);
            let (stop, seen, counts) = (stop.clone(), acknowledged.clone(), counts.clone());
            std::thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let value = format!("{log}-{number}").into_bytes();
                    number += 1;
                    let appended = client.append(&[&value]).expect("a quorum is there");
                    seen.lock().unwrap().push((log, appended.first, value));
                    counts[writer].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let progress = |more: usize| {
        let before: Vec<usize> = counts.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        wait_for("every group goes on", || {
            let now = counts.iter().zip(&before);
            now.into_iter().all(|(n, b)| n.load(Ordering::Relaxed) >= b + more).then_some(())
        });
    };
    progress(PROGRESS);
    // The leader of one of the groups, a follower in the others.
    cluster.kill_node(1);
    progress(PROGRESS);
    cluster.start_node(1);
    wait_until_balanced(&cluster);
    progress(PROGRESS);
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("no append fails"));

    let seen = acknowledged.lock().unwrap();
    for node in &cluster.nodes {
        let mut found = 0;
        for (_, log) in &logs {
            let records = read_log(&node.address, *log);
            for (_, position, value) in seen.iter().filter(|(of, ..)| of == log) {
                assert_eq!(&records[position.0 as usize], value, "log {log} at {position}");
                found += 1;
            }
            // Each in its own group: nothing else is there.
            let own = format!("{log}-");
            assert!(records.iter().all(|record| record.starts_with(own.as_bytes())));
        }
        assert_eq!(found, seen.len());
    }
}

#[test]
fn the_commands_find_every_log_and_tell_of_every_group() {
    let cluster = start();
    wait_until_balanced(&cluster);
    let targets = cluster.targets();
    let stdout = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("the output is text")
    };
    let logs = a_log_each(&cluster.client());
    for (name, log) in &logs {
        let made = stdout(&["log", "create", name, "--target", &targets]);
        assert_eq!(made.trim(), log.to_string(), "it is there already");
        let mut child = loggos()
            .args(["append", "--log", name, "--target", &targets])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let mut stdin = child.stdin.take().expect("it was piped");
        writeln!(stdin, "in {name}").expect("the command reads its input");
        drop(stdin);
        assert!(child.wait_with_output().expect("our own child ends").status.success());
        for node in &cluster.nodes {
            let read = stdout(&["read", "--log", name, "--target", &node.address]);
            assert_eq!(read, format!("in {name}\n"));
        }
    }
    let listed = stdout(&["log", "list", "--json", "--target", &targets]);
    let listed: Vec<Value> = listed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut expected: Vec<&str> = logs.iter().map(|(name, _)| name.as_str()).collect();
    expected.push("default");
    expected.sort_unstable();
    let names: Vec<&str> = listed.iter().map(|log| log["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected);

    let status: Value =
        serde_json::from_str(&stdout(&["status", "--json", "--target", &targets])).unwrap();
    for group in 0..GROUPS {
        let of_group = &status["groups"][usize::from(group)];
        assert_eq!((&of_group["group"], &of_group["leader"]), (&group.into(), &(group + 1).into()));
        assert_eq!(of_group["nodes"].as_array().unwrap().len(), 3);
    }
    assert_eq!(status["leader"], 1);
    let table = stdout(&["status", "--target", &targets]);
    assert!(table.starts_with("cluster test, 3 groups\n"), "{table}");
    assert_eq!(table.lines().count(), 3 + 9, "{table}");

    let led = stdout(&["lead", "--node", "3", "--group", "1", "--target", &targets, "--json"]);
    let led: Value = serde_json::from_str(&led).unwrap();
    assert_eq!((&led["group"], &led["leader"]), (&1.into(), &3.into()));
    assert_eq!(leader_of(&cluster, 0), Some(0), "the other groups stay as they are");
    let all = stdout(&["lead", "--node", "2", "--target", &targets]);
    assert_eq!(all.lines().count(), 3, "{all}");
    let nowhere = run(&["lead", "--node", "2", "--group", "3", "--target", &targets]);
    assert_eq!(nowhere.status.code(), Some(2));
}

#[test]
fn unknown_groups_other_group_counts_and_damage_in_one_group_are_refused() {
    let mut cluster = Cluster::formatted_with(1, &FLAGS);
    cluster.start_node(0);
    let address = cluster.nodes[0].address.clone();
    cluster.wait_for_leader();
    for group in 0..GROUPS {
        let welcome = greet(&address, group).1.expect("it is a group of the node");
        assert_eq!(welcome.group_count, GROUPS);
    }
    for group in [GROUPS, 63, u16::MAX] {
        assert_eq!(greet(&address, group).1, Err(RefuseReason::NoSuchGroup));
    }
    cluster.kill_node(0);

    // One group's log is damaged: the node does not start, not even with the others.
    let vote = cluster.nodes[0].data.join("group-0001/vote");
    let length = std::fs::metadata(&vote).expect("it is there").len();
    std::fs::write(&vote, vec![0xff; length as usize]).expect("it can be written");
    cluster.start_node(0);
    assert_eq!(cluster.nodes[0].wait().code(), Some(6), "{}", cluster.nodes[0].log());

    // Two nodes that were formatted with different numbers of groups.
    let mut cluster = Cluster::formatted(2);
    let members: Vec<String> =
        cluster.nodes.iter().map(|node| format!("{}={}", node.id, node.address)).collect();
    let data = cluster.dir.path().join("other");
    format_node_with(&data, "test", 2, &members.join(","), &FLAGS);
    cluster.nodes[1].data = data;
    (0..2).for_each(|index| cluster.start_node(index));
    wait_for("they refuse each other", || {
        let refused = "groups where this has";
        cluster.nodes.iter().all(|node| node.log().contains(refused)).then_some(())
    });
    assert_eq!(cluster.leader(), None, "neither has a quorum");
}

#[test]
fn a_signal_stops_every_group_in_good_order() {
    let mut cluster = Cluster::formatted_with(1, &FLAGS);
    cluster.start_node(0);
    for group in 0..GROUPS {
        wait_for("it leads", || (leader_of(&cluster, group) == Some(0)).then_some(()));
    }
    cluster.nodes[0].terminate();
    assert_eq!(cluster.nodes[0].wait().code(), Some(0));
    let log = cluster.nodes[0].log();
    assert_eq!(log.matches("stopping").count(), usize::from(GROUPS), "{log}");
}

#[test]
fn bench_spreads_its_load_over_the_groups() {
    let dir = common::scratch_dir();
    let data = dir.path().to_str().expect("a plain path");
    #[rustfmt::skip]
    let output = run(&[
        "bench", "--preallocate-bytes", "0", "--groups", "3", "--logs", "4", "--duration", "1", "--warmup", "0.2",
        "--connections", "4", "--inflight", "8", "--sessions", "--follow", "4", "--json",
        "--data", data,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["cluster"]["groups"], 3);
    assert_eq!(report["workload"]["logs"], 4);
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap();
    assert!(count("/appends/ok") > 0.0, "{report}");
    assert_eq!((count("/appends/failed"), count("/appends/unknown")), (0.0, 0.0), "{report}");
    assert_eq!(count("/follow/records"), count("/appends/ok"), "one follower for each log");
    assert!(count("/batching/slots") > 0.0);
}
