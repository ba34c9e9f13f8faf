//! `loggos bench` in its other forms: the null server, sweeps, ramps, and agents on several hosts.

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{Cluster, loggos, run};
use serde_json::Value;

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn reports(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn number(report: &Value, pointer: &str) -> f64 {
    let found = report.pointer(pointer).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{pointer} is no number in {report}"))
}

/// A `bench null` or `bench agent`; ended by its id when dropped.
struct Role {
    child: Child,
    address: String,
}

impl Role {
    fn start(role: &str) -> Role {
        let mut command = loggos();
        command.args(["bench", role, "--listen", "127.0.0.1:0"]).stderr(Stdio::null());
        Role::spawn(command)
    }

    /// One that can have few files open; what it says on standard error comes line by line.
    fn starved(role: &str) -> (Role, Receiver<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 16; exec \"$0\" \"$@\""]).arg(loggos().get_program());
        command.args(["bench", role, "--listen", "127.0.0.1:0"]).stderr(Stdio::piped());
        let mut role = Role::spawn(command);
        let stderr = BufReader::new(role.child.stderr.take().expect("it was asked for"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        (role, lines)
    }

    fn spawn(mut command: Command) -> Role {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let mut line = String::new();
        let out = child.stdout.take().expect("it was asked for");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Role { child, address }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.child.kill().expect("our own child can be ended");
        self.child.wait().expect("our own child can be waited for");
    }
}

const SHORT: [&str; 4] = ["--duration", "0.5", "--warmup", "0.1"];

#[test]
fn a_null_server_is_measured_and_named() {
    let output = run(&[&["bench", "--null", "--json"], &SHORT[..]].concat());
    let report = &reports(&output)[0];
    assert_eq!(report["cluster"]["durability"], "none (null server)");
    assert_eq!(report["cluster"]["nodes"], 0);
    for missing in ["floor", "batching", "stages", "reads", "pace", "agents"] {
        assert!(report[missing].is_null(), "{missing}: {report}");
    }
    assert!(number(report, "/appends/ok") > 1_000.0, "{report}");
    assert_eq!(number(report, "/appends/failed"), 0.0);
    assert!(number(report, "/resources/loadgen_cpu_us_per_op") > 0.0);
    assert!(number(report, "/resources/server_cpu_us_per_append") > 0.0);

    // With the host's floors beside it, where they are asked for.
    let disk = common::scratch_dir();
    let data = disk.path().to_str().expect("a plain path");
    let args = ["bench", "--null", "--json", "--floor", "--data", data];
    let report = &reports(&run(&[&args[..], &SHORT[..]].concat()))[0];
    assert!(number(report, "/floor/commit_us") > 0.0 && report["cluster"]["nodes"] == 0);
    assert!(report["cluster"]["preallocate_bytes"].is_null(), "{report}");

    let mixed = ["bench", "--null", "--append-percent", "50", "--sessions", "--logs", "3"];
    let text = stdout(&run(&[&mixed[..], &SHORT[..]].concat()));
    assert!(text.contains("a null server answers at once, stores nothing"), "{text}");
    assert!(!text.contains("floor") && text.contains("us of cpu an operation"), "{text}");
}

#[test]
fn a_preallocated_log_is_in_the_report() {
    let data = common::scratch_dir();
    let data = data.path().to_str().expect("a plain path");
    let args = ["bench", "--local", "1", "--data", data, "--preallocate-bytes", "1"];
    let report = &reports(&run(&[&args[..], &["--json"], &SHORT[..]].concat()))[0];
    assert_eq!(number(report, "/cluster/preallocate_bytes"), 1.0, "{report}");
    let text = stdout(&run(&[&args[..], &SHORT[..]].concat()));
    assert!(text.contains("1 B of log preallocated on each"), "{text}");
}

#[test]
fn a_sweep_is_a_line_for_each_combination() {
    let sweep = ["bench", "--null", "--record-bytes", "64,256", "--inflight", "1,16", "--json"];
    let found = reports(&run(&[&sweep[..], &SHORT[..]].concat()));
    let loads: Vec<_> = found
        .iter()
        .map(|report| {
            (number(report, "/workload/record_bytes"), number(report, "/workload/inflight"))
        })
        .collect();
    assert_eq!(loads, [(64.0, 1.0), (64.0, 16.0), (256.0, 1.0), (256.0, 16.0)]);
    assert!(found.iter().all(|report| number(report, "/appends/ok") > 0.0));
    let sweep = ["bench", "--null", "--rate", "100,200"];
    let text = stdout(&run(&[&sweep[..], &SHORT[..]].concat()));
    let rows: Vec<_> = text.lines().skip_while(|line| !line.contains("offered/s")).collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert!(rows[1].contains(" 100 ") && rows[2].contains(" 200 "), "{text}");
}

#[test]
fn an_open_loop_far_beyond_what_is_taken_says_so() {
    let args = ["bench", "--null", "--inflight", "1", "--connections", "1", "--rate", "50000000"];
    let output = run(&[&args[..], &["--json"], &SHORT[..]].concat());
    // One in flight takes at most some ten thousand a second: what is due in the measured phase is
    // behind all that was due before.
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    for words in ["the cluster was behind: it took", "were never sent", "lower --rate"] {
        assert!(stderr.contains(words), "{stderr}");
    }
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["pace"]["behind"], true, "{report}");
    assert!(number(&report, "/pace/unsent") > 1e6 && number(&report, "/appends/per_s") > 0.0);
}

#[test]
fn a_ramp_finds_a_knee() {
    // Bounded by one in flight over one connection, so that the search is short.
    let ramp = ["bench", "--null", "--ramp", "--connections", "1", "--inflight", "1"];
    let steps = ["--duration", "0.3", "--warmup", "0.1", "--json"];
    let report = &reports(&run(&[&ramp[..], &steps[..]].concat()))[0];
    let knee = number(report, "/knee/records_per_s");
    let steps = report["steps"].as_array().expect("a list");
    assert!(knee > 0.0 && steps.len() <= 40, "{report}");
    let offered = |step: &Value| number(step, "/offered_records_per_s");
    let kept = |step: &&Value| step["kept"] == true;
    let highest = steps.iter().filter(kept).map(offered).fold(0.0, f64::max);
    assert_eq!(highest, knee, "{report}");
    assert!(steps.iter().all(|step| number(step, "/report/pace/offered_per_s") == offered(step)));

    let ramp = ["bench", "--null", "--ramp", "--rate", "200", "--ramp-p99-ms", "0.001"];
    let output = run(&[&ramp[..], &SHORT[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("the p99 is over the limit") && text.contains("no rate"), "{text}");
}

#[test]
fn without_descriptors_nobody_spins_and_connections_are_taken_afterwards() {
    for what in ["null", "agent"] {
        let (role, lines) = Role::starved(what);
        let next = |word: &str| {
            let mut said = Vec::new();
            while said.last().is_none_or(|line: &String| !line.contains(word)) {
                said.push(lines.recv_timeout(Duration::from_secs(60)).expect(word));
            }
            said
        };
        let connect = || TcpStream::connect(&role.address).expect("the queue has room");
        let crowd: Vec<TcpStream> = (0..32).map(|_| connect()).collect();
        next("no connection can be taken for now");
        drop(crowd);
        // However many tries that took, they are told of in no line.
        let said = next("connections are taken again");
        assert!(!said.iter().any(|line| line.contains("no connection")), "{what}: {said:?}");
        if what == "null" {
            let args = ["bench", "--target", &role.address, "--connections", "1"];
            assert!(stdout(&run(&[&args[..], &SHORT[..]].concat())).contains("a null server"));
        }
    }
}

#[test]
fn two_agents_load_a_cluster_and_make_one_report() {
    let cluster = Cluster::start(1);
    let agents = [Role::start("agent"), Role::start("agent")];
    let list = format!("{},{}", agents[0].address, agents[1].address);
    let args = ["bench", "--agents", &list, "--target", &cluster.nodes[0].address];
    let load = ["--connections", "3", "--inflight", "4", "--json"];
    let report = &reports(&run(&[&args[..], &load[..], &SHORT[..]].concat()))[0];
    assert_eq!(report["cluster"]["durability"], "fsync");
    assert_eq!(number(report, "/appends/failed") + number(report, "/appends/unknown"), 0.0);
    let parts = report["agents"].as_array().expect("a list");
    let sum = |pointer: &str| parts.iter().map(|part| number(part, pointer)).sum::<f64>();
    assert_eq!((parts.len(), sum("/connections")), (2, 3.0), "{report}");
    assert_eq!(sum("/appends/ok"), number(report, "/appends/ok"), "{report}");
    assert!((sum("/cpu_s") - number(report, "/resources/loadgen_cpu_s")).abs() < 1e-9);
    assert!(parts.iter().all(|part| number(part, "/appends/ok") > 0.0), "{report}");

    // They are free for the next, also of another kind of server, which is named.
    let null = Role::start("null");
    let args = ["bench", "--agents", &list, "--target", &null.address];
    let report = &reports(&run(&[&args[..], &load[..], &SHORT[..]].concat()))[0];
    assert_eq!(report["cluster"]["durability"], "none (null server)");
}

#[test]
fn an_agent_that_is_killed_leaves_no_report() {
    let null = Role::start("null");
    let (good, doomed) = (Role::start("agent"), Role::start("agent"));
    let list = format!("{},{}", good.address, doomed.address);
    let mut bench = loggos()
        .args([
            "bench",
            "--agents",
            &list,
            "--target",
            &null.address,
            "--duration",
            "3600",
            "--json",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    // The first line of the run: both are at work.
    let mut stderr = BufReader::new(bench.stderr.take().expect("it was asked for"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("it shows the run");
    assert!(line.contains("appends/s"), "{line}");
    let address = doomed.address.clone();
    drop(doomed);
    let said: Vec<String> = stderr.lines().map(|line| line.expect("UTF-8")).collect();
    let output = bench.wait_with_output().expect("our own child");
    assert_eq!(output.status.code(), Some(3), "{said:?}");
    assert!(output.stdout.is_empty(), "no false report");
    let last = said.last().expect("it says why");
    assert!(last.contains(&address) && last.contains("lost"), "{said:?}");
    // The other one is free again.
    let args = ["bench", "--agents", &good.address, "--target", &null.address, "--json"];
    let again = common::wait_for("the other agent is free", || {
        let output = run(&[&args[..], &SHORT[..]].concat());
        output.status.success().then_some(output)
    });
    assert!(number(&reports(&again)[0], "/appends/ok") > 0.0);
}
