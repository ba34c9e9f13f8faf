//! What commands print, and what their exit codes say about effects when it cannot be printed.

mod common;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use common::{Cluster, PATIENCE, loggos, run, scratch_dir, wait_for};
use loggos::base::limits::RECORD_BYTES_MAX;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).expect("the output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts the binary with `input` on its way to standard input.
fn start(args: &[&str], input: Vec<u8>, out: Stdio) -> Child {
    let child =
        loggos().args(args).stdin(Stdio::piped()).stdout(out).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary can be started");
    let mut stdin = child.stdin.take().expect("it was piped");
    // The command may end before it has read all of it.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    child
}

fn run_with_input(args: &[&str], input: &[u8]) -> Output {
    let child = start(args, input.to_vec(), Stdio::piped());
    child.wait_with_output().expect("our own child ends")
}

/// Runs the binary with a standard output that takes nothing.
fn run_into_full(args: &[&str], input: &[u8]) -> Output {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let child = start(args, input.to_vec(), full.into());
    child.wait_with_output().expect("our own child ends")
}

fn ended(mut child: Child) -> (Option<i32>, String) {
    let status = wait_for("the command ends", || child.try_wait().expect("it is our child"));
    let mut said = String::new();
    let stderr = child.stderr.take().expect("it was piped");
    std::io::Read::read_to_string(&mut BufReader::new(stderr), &mut said).expect("it is text");
    (status.code(), said)
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn lost_output_after_an_effect_is_exit_4() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let at = cluster.targets();
    // One record: of two the first may go alone, and the second then stays behind with good reason.
    let appended = run_into_full(&["append", "--target", &at], b"one\n");
    assert_eq!(appended.status.code(), Some(4), "{}", stderr(&appended));
    assert!(stderr(&appended).contains("up to position"), "{}", stderr(&appended));
    let created = run_into_full(&["log", "create", "orders", "--target", &at], b"");
    assert_eq!(created.status.code(), Some(4), "{}", stderr(&created));
    let fence = ["log", "fence", "--log", "orders", "--token", "3", "--target", &at];
    assert_eq!(run_into_full(&fence, b"").status.code(), Some(4));
    let transfer = ["transfer-leader", "--to", "1", "--target", &at];
    assert_eq!(run_into_full(&transfer, b"").status.code(), Some(4));
    // Those that only read end with 3.
    for args in
        [&["read", "--target", &at][..], &["tail", "--target", &at], &["status", "--target", &at]]
    {
        let output = run_into_full(args, b"");
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", stderr(&output));
    }
    assert_eq!(run_into_full(&["--help"], b"").status.code(), Some(3));
    // All of it has happened.
    assert_eq!(stdout(&run(&["read", "--target", &at])), "one\n");
    let shown = objects(&run(&["log", "show", "orders", "--json", "--target", &at]));
    assert_eq!(shown[0]["fence"], 3);
}

#[test]
fn a_closed_pipe_does_not_drop_input_in_silence() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let at = cluster.targets();
    let input: Vec<u8> = (0..100_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let mut child = start(&["append", "--target", &at], input, Stdio::piped());
    let mut first = String::new();
    let out = child.stdout.take().expect("it was piped");
    BufReader::new(out).read_line(&mut first).expect("a position comes");
    assert_eq!(first, "0\n");
    let (code, said) = ended(child);
    let tail: u64 = stdout(&run(&["tail", "--target", &at])).trim().parse().expect("a number");
    // A pipe holds more than it takes to append everything before the reader is gone, perhaps.
    if tail < 100_000 {
        assert_eq!(code, Some(4), "{said}");
        let told = format!("the records up to position {} were appended", tail - 1);
        assert!(said.contains(&told), "{tail}: {said}");
    }
    assert!(tail == 100_000 || code != Some(0), "{tail} {code:?}");
}

#[test]
fn following_ends_with_its_reader() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let at = cluster.targets();
    stdout(&run_with_input(&["append", "--target", &at], b"one\n"));
    let mut child = start(&["read", "--follow", "--target", &at], Vec::new(), Stdio::piped());
    let mut first = String::new();
    let out = child.stdout.take().expect("it was piped");
    BufReader::new(out).read_line(&mut first).expect("the record comes");
    // Nothing more is ever appended.
    assert_eq!((first.as_str(), ended(child).0), ("one\n", Some(0)));
}

#[test]
fn append_tail_and_fence_speak_json() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let at = cluster.targets();
    let appended = run_with_input(&["append", "--json", "--target", &at], b"one\ntwo\nthree\n");
    let appended = objects(&appended);
    let count: u64 = appended.iter().map(|append| append["count"].as_u64().expect("a count")).sum();
    assert_eq!((appended[0]["first"].as_u64(), count), (Some(0), 3), "{appended:?}");
    assert_eq!(appended[0]["name"], "default");
    let tail = objects(&run(&["tail", "--json", "--target", &at]));
    assert_eq!(tail, [json!({ "log": 0, "name": "default", "first": 0, "tail": 3 })]);
    let listed = objects(&run(&["log", "list", "--json", "--target", &at]));
    assert_eq!(listed[0]["fence"], Value::Null, "{listed:?}");

    let fence = |token: &str| run(&["log", "fence", "--token", token, "--json", "--target", &at]);
    let fenced = objects(&fence("9"));
    assert_eq!(fenced, [json!({ "log": 0, "name": "default", "tail": 3, "fence": 9 })]);
    let lower = fence("8");
    assert_eq!(lower.status.code(), Some(3), "{}", stderr(&lower));
    let shut_out = run_with_input(&["append", "--target", &at], b"four\n");
    assert_eq!(shut_out.status.code(), Some(3), "{}", stderr(&shut_out));
    let listed = objects(&run(&["log", "list", "--json", "--target", &at]));
    assert_eq!(listed[0]["fence"], 9);
}

#[test]
fn an_append_of_nothing_says_so() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let at = cluster.targets();
    let empty = run_with_input(&["append", "--fence", "9", "--target", &at], b"");
    assert_eq!(empty.status.code(), Some(2));
    assert!(stderr(&empty).contains("nothing was appended"), "{}", stderr(&empty));
    assert!(stderr(&empty).contains("loggos log fence"), "{}", stderr(&empty));
    let listed = objects(&run(&["log", "list", "--json", "--target", &at]));
    assert_eq!(listed[0]["fence"], Value::Null);
    // An empty input without a fence asks for nothing.
    assert_eq!(run_with_input(&["append", "--target", &at], b"").status.code(), Some(0));

    let long = vec![b'x'; RECORD_BYTES_MAX + 1];
    let refused = run_with_input(&["append", "--target", &at], &long);
    assert!(stderr(&refused).contains("line 1 is longer"), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("nothing was appended"), "{}", stderr(&refused));
    let refused = run_with_input(&["append", "--target", &at], &[&b"short\n"[..], &long].concat());
    assert!(stderr(&refused).contains("the line before it was appended"), "{}", stderr(&refused));
}

#[test]
fn log_names_that_are_no_paths_are_refused() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let at = cluster.targets();
    for name in [".", "..", "//", "/a", "a/", "a//b", "a/../b"] {
        let refused = run(&["log", "create", name, "--target", &at]);
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("no part of a log's name"), "{}", stderr(&refused));
    }
    stdout(&run(&["log", "create", "a/.b/c..d", "--target", &at]));
}

#[test]
fn a_restarted_follower_shows_what_it_holds() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let client = cluster.client();
    for _ in 0..10 {
        client.append(&["x"]).expect("the cluster commits");
    }
    cluster.wait_until_equal();
    let follower = (leader + 1) % 3;
    cluster.kill_node(follower);
    cluster.start_node(follower);
    wait_for("the follower shows what was durable before", || {
        let status = cluster.nodes[follower].status()?;
        (status.durable >= 10).then_some(())
    });
}

#[test]
fn a_node_outlives_its_terminal() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let id = Pid::from_raw(cluster.nodes[0].process_id() as i32).expect("a process has a number");
    for _ in 0..3 {
        kill_process(id, Signal::HUP).expect("our own child can be signalled");
    }
    let told = |log: &str| log.matches("SIGHUP is ignored").count();
    wait_for("the signal is told", || (told(&cluster.nodes[0].log()) > 0).then_some(()));
    cluster.client().append(&["after"]).expect("the node serves");
    assert_eq!(told(&cluster.nodes[0].log()), 1, "{}", cluster.nodes[0].log());
    cluster.nodes[0].terminate();
    assert_eq!(cluster.nodes[0].wait().code(), Some(0));
}

#[test]
fn a_copy_is_inspected_without_a_trace() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    cluster.client().append(&["one"]).expect("the node commits");
    cluster.kill_node(0);
    let dir = scratch_dir();
    let copy = dir.path().join("copy");
    let copied = Command::new("cp").arg("-r").args([&cluster.nodes[0].data, &copy]).status();
    assert!(copied.expect("cp can be started").success());
    std::fs::remove_file(copy.join("LOCK")).expect("the node has made it");
    let inspect = || run(&["inspect", "--json", copy.to_str().expect("a plain path")]);
    assert_eq!(objects(&inspect())[0]["sound"], true);
    assert!(!copy.join("LOCK").exists(), "inspect changes nothing");
    // Read-only, where the host permits a mount.
    let mount = |args: &[&str]| {
        let mounted = Command::new("mount").args(args).arg(&copy).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success())
    };
    let path = copy.to_str().expect("a plain path");
    if !mount(&["--bind", path]) {
        return println!("SKIPPED the read-only part: no mount is permitted");
    }
    let made = mount(&["-o", "remount,bind,ro"]).then(inspect);
    let unmounted = Command::new("umount").arg(&copy).status();
    assert!(unmounted.expect("umount can be started").success());
    assert_eq!(objects(&made.expect("it can be made read-only"))[0]["sound"], true);
}

/// An embedded cluster under load, once it is there.
fn start_bench(data: &std::path::Path) -> Child {
    let data = data.to_str().expect("a plain path");
    let args = ["bench", "--local", "1", "--preallocate-bytes", "0", "--data", data, "--json"];
    let load = ["--connections", "1", "--inflight", "1", "--warmup", "0", "--duration", "600"];
    start(&[&args[..], &load].concat(), Vec::new(), Stdio::piped())
}

fn wait_for_load(child: &mut Child) {
    let stderr = BufReader::new(child.stderr.as_mut().expect("it was piped"));
    let live = stderr.lines().map_while(Result::ok).filter(|line| line.contains("appends/s"));
    assert_eq!(live.take(2).count(), 2, "it says how it goes");
}

fn signal(child: &Child, signal: Signal) {
    let id = Pid::from_raw(child.id() as i32).expect("a process has a number");
    kill_process(id, signal).expect("our own child can be signalled");
}

#[test]
fn a_killed_bench_leaves_nothing() {
    let dir = scratch_dir();
    let mut bench = start_bench(dir.path());
    wait_for_load(&mut bench);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it can be listed").count(), 1);
    bench.kill().expect("our own child can be killed");
    bench.wait().expect("our own child can be waited for");
    wait_for("the data goes", || {
        let left = std::fs::read_dir(dir.path()).expect("it can be listed").count();
        (left == 0).then_some(())
    });
}

#[test]
fn an_interrupted_bench_reports_what_it_measured() {
    let dir = scratch_dir();
    let mut bench = start_bench(dir.path());
    wait_for_load(&mut bench);
    signal(&bench, Signal::INT);
    let began = std::time::Instant::now();
    let output = bench.wait_with_output().expect("our own child ends");
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["interrupted"], true);
    assert!(report["appends"]["ok"].as_u64().expect("a count") > 0, "{report}");
    let duration_s = report["workload"]["duration_s"].as_f64().expect("a number");
    assert!(duration_s > 0.5 && duration_s < 600.0, "{duration_s}");
    assert!(report["appends"]["per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("it can be listed").count(), 0);
}
