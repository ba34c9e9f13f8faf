//! The commands as a user runs them, against real nodes.

mod common;

use std::io::Write;
use std::process::{Output, Stdio};

use common::{Cluster, loggos, run, scratch_dir, wait_for};
use serde_json::Value;

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).expect("the output is text")
}

/// Runs the binary with `input` on its standard input.
fn run_with_input(args: &[&str], input: &str) -> Output {
    let mut child = loggos()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let mut stdin = child.stdin.take().expect("it was piped");
    stdin.write_all(input.as_bytes()).expect("the command reads its input");
    drop(stdin);
    child.wait_with_output().expect("our own child ends")
}

#[test]
fn append_read_tail_status_and_inspect_agree() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let targets = cluster.targets();
    let lines: Vec<String> = (0..1000).map(|number| format!("line {number}")).collect();
    let appended = run_with_input(&["append", "--target", &targets], &(lines.join("\n") + "\n"));
    let positions: Vec<u64> =
        stdout(&appended).lines().map(|line| line.trim().parse().expect("a position")).collect();
    assert_eq!(positions, (0..1000).collect::<Vec<u64>>());

    let tail = cluster.wait_until_equal();
    assert_eq!(tail, 1000);
    for node in &cluster.nodes {
        let read = run(&["read", "--target", &node.address, "--from", "0", "--level", "local"]);
        assert_eq!(stdout(&read).lines().collect::<Vec<_>>(), lines, "node {}", node.id);
    }
    let some = run(&[
        "read", "--target", &targets, "--from", "10", "--to", "12", "--level", "local", "--json",
    ]);
    let records: Vec<Value> = stdout(&some)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object per line"))
        .collect();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["position"], 10);

    let tail = run(&["tail", "--target", &targets, "--level", "local"]);
    assert_eq!(stdout(&tail).trim(), "1000");

    let status = run(&["status", "--target", &targets, "--json"]);
    let status: Value = serde_json::from_str(&stdout(&status)).expect("one JSON object");
    assert!(status.to_string().contains("\"leader\""), "{status}");

    for index in 0..3 {
        cluster.kill_node(index);
        let data = cluster.nodes[index].data.to_str().expect("a plain path").to_owned();
        let inspected = run(&["inspect", &data, "--json"]);
        let report: Value = serde_json::from_str(&stdout(&inspected)).expect("one JSON object");
        assert_eq!(report["sound"], true, "{report}");
        assert_eq!(report["identity"]["node"], index as u64 + 1);
        let group = &report["groups"][0];
        let count = |name: &str| group[name].as_u64().expect("a count");
        assert_eq!(count("records") + count("records_not_known_chosen"), 1000, "{report}");
        assert!(count("chosen") <= count("accepted"), "{report}");

        let listed = stdout(&run(&["inspect", &data, "--json", "--records"]));
        let mut objects = listed.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let summary: Value = objects.next_back().expect("the summary comes last");
        assert_eq!(summary, report);
        let values: Vec<String> = objects
            .map(|record: Value| record["value"].as_str().expect("these are text").to_owned())
            .collect();
        assert_eq!(values, lines, "node {}", index + 1);
    }
}

#[test]
fn every_replica_answers_at_every_linearizable_level_what_was_acknowledged() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let client = cluster.client();
    for count in 1..=20u64 {
        client.append(&[count.to_le_bytes()]).expect("the cluster commits");
        let node = &cluster.nodes[count as usize % 3];
        for level in ["lease", "read-index"] {
            let args = ["tail", "--target", &node.address, "--level", level];
            assert_eq!(stdout(&run(&args)), format!("{count}\n"), "node {} {level}", node.id);
        }
    }
    for node in &cluster.nodes {
        let read = run(&["read", "--target", &node.address, "--from", "19", "--json"]);
        assert_eq!(stdout(&read).lines().count(), 1, "node {}", node.id);
    }
}

#[test]
fn follow_prints_what_is_appended_later() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let targets = cluster.targets();
    let mut follower = loggos()
        .args(["read", "--target", &targets, "--from", "0", "--to", "3", "--level", "local"])
        .arg("--follow")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    for word in ["one", "two", "three"] {
        stdout(&run_with_input(&["append", "--target", &targets], &format!("{word}\n")));
    }
    let status =
        common::wait_for("the follower has all", || follower.try_wait().expect("our own child"));
    assert!(status.success());
    let output = follower.wait_with_output().expect("our own child");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\nthree\n");
}

#[test]
fn bench_runs_an_embedded_cluster_and_reports_the_contract() {
    let dir = scratch_dir();
    let data = dir.path().to_str().expect("a plain path");
    let history = dir.path().join("history.jsonl");
    let histogram = dir.path().join("histogram");
    let output = run(&[
        "bench",
        "--local",
        "3",
        "--preallocate-bytes",
        "0",
        "--duration",
        "1",
        "--warmup",
        "0.2",
        "--connections",
        "2",
        "--inflight",
        "8",
        "--json",
        "--floor",
        "--data",
        data,
        "--history",
        history.to_str().expect("a plain path"),
        "--histogram",
        histogram.to_str().expect("a plain path"),
    ]);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
    for pointer in [
        "/version",
        "/commit",
        "/host/kernel",
        "/host/disk",
        "/cluster/nodes",
        "/workload/loop",
        "/appends/latency_us/p9999",
        "/batching/records_per_slot_mean",
        "/floor/commit_us",
        "/resources/server_rss_bytes_max",
    ] {
        assert!(report.pointer(pointer).is_some(), "{pointer} is missing in {report}");
    }
    assert_eq!(report["cluster"]["nodes"], 3);
    assert!(report["appends"]["ok"].as_u64().expect("a count") > 0);
    assert_eq!(report["appends"]["failed"], 0);
    let latency = |name: &str| report["appends"]["latency_us"][name].as_f64().expect("a number");
    assert!(latency("p50") > 0.0 && latency("p50") <= latency("p99"));
    assert!(latency("p99") <= latency("max"));
    let history = std::fs::read_to_string(history).expect("the history was written");
    let acknowledged = history.lines().filter(|line| line.contains("\"ok\":true")).count() as u64;
    assert!(acknowledged >= report["appends"]["ok"].as_u64().expect("a count"));
    assert!(std::fs::metadata(histogram).expect("the histogram was written").len() > 0);
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("it can be listed")
        .map(|entry| entry.expect("it can be listed").file_name())
        .collect();
    assert_eq!(left.len(), 2, "the cluster's data is removed: {left:?}");
}

#[test]
fn bench_reports_reads_sessions_many_logs_and_followers() {
    let dir = scratch_dir();
    let data = dir.path().to_str().expect("a plain path");
    let history = dir.path().join("history.jsonl");
    for level in ["lease", "read-index", "local"] {
        #[rustfmt::skip]
        let output = run(&[
            "bench", "--preallocate-bytes", "0", "--duration", "1", "--warmup", "0.2",
            "--connections", "2", "--inflight", "8",
            "--json", "--data", data, "--append-percent", "50", "--level", level,
            "--sessions", "--logs", "3", "--follow", "7", "--records-per-append", "2",
            "--history", history.to_str().expect("a plain path"),
        ]);
        let report: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
        let count = |pointer: &str| {
            let found = report.pointer(pointer).and_then(Value::as_f64);
            found.unwrap_or_else(|| panic!("{pointer} is no number in {report}"))
        };
        for kind in ["appends", "reads"] {
            assert!(count(&format!("/{kind}/ok")) > 0.0, "{report}");
            assert!(count(&format!("/{kind}/per_s")) > 0.0, "{report}");
            assert!(count(&format!("/{kind}/latency_us/p99")) > 0.0, "{report}");
            assert_eq!(count(&format!("/{kind}/failed")), 0.0, "{report}");
            assert_eq!(count(&format!("/{kind}/unknown")), 0.0, "{report}");
        }
        assert_eq!(report["workload"]["level"], level);
        assert_eq!(report["workload"]["sessions"], true);
        // Every record of the measured phase came to each follower of its log: 3, 2 and 2.
        let records = 2.0 * count("/appends/ok");
        let delivered = count("/follow/records");
        assert!((2.0 * records..=3.0 * records).contains(&delivered), "{report}");
        assert_eq!((count("/follow/followers"), count("/follow/late")), (7.0, 0.0), "{report}");
        let [p50, max] = ["p50", "max"].map(|name| count(&format!("/follow/latency_us_{name}")));
        assert!(p50 > 0.0 && p50 <= max && count("/follow/bytes_per_s") > 0.0, "{report}");

        // Positions are each log's own, and what is read is what was appended there.
        let history = std::fs::read_to_string(&history).expect("the history was written");
        let lines: Vec<Value> =
            history.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let mut appended = std::collections::HashMap::new();
        for line in lines.iter().filter(|line| line["op"] == "append" && line["ok"] == true) {
            let place = (line["log"].as_u64(), line["offset"].as_u64());
            assert!(place.0.is_some_and(|log| log < 3), "{line}");
            assert!(appended.insert(place, &line["value"]).is_none(), "{line}: two at one place");
        }
        let mut compared = 0;
        for line in lines.iter().filter(|line| line["op"] == "read" && line["ok"] == true) {
            let from = line["offset"].as_u64().expect("a position");
            for (position, value) in (from..).zip(line["values"].as_array().expect("values")) {
                if let Some(appended) = appended.get(&(line["log"].as_u64(), Some(position))) {
                    assert_eq!(*appended, value, "{line}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 0);
    }
}

#[test]
fn an_idle_node_fills_its_log_ahead_over_its_groups_and_inspect_finds_it_whole() {
    let mut cluster = Cluster::formatted_with(1, &["--groups", "2"]);
    // Eight segments of 16 MiB: four for each group, the one that is in use among them.
    cluster.start_node_with(0, &["--fill-ahead-bytes", "134217728"]);
    cluster.wait_for_leader();
    let data = cluster.nodes[0].data.clone();
    let segments = |group: &str| {
        let names = std::fs::read_dir(data.join(group)).expect("it can be listed");
        let names = names.map(|name| name.expect("it can be listed").file_name());
        let names = names.map(|name| name.into_string().expect("a plain name"));
        names.filter(|name| name.ends_with(".log")).count()
    };
    wait_for("both groups have their share", || {
        (segments("group-0000") == 4 && segments("group-0001") == 4).then_some(())
    });
    cluster.kill_node(0);
    let report = stdout(&run(&["inspect", data.to_str().expect("a plain path"), "--json"]));
    let report: Value = serde_json::from_str(&report).expect("one JSON object");
    assert_eq!(report["sound"], true, "{report}");
}
