//! Bad input of every kind gets a clear error and an exit code, and harms nothing.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use common::{Cluster, format_node, free_ports, run, scratch_dir, wait_for};
use loggos::base::limits::RECORD_BYTES_MAX;

/// The command must have failed with `code` and said one line with each of `words` in it.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn wrong_flags_exit_with_2_and_say_which() {
    for (args, word) in [
        (&["bench", "--inflight", "0"][..], "--inflight"),
        (&["bench", "--record-bytes", "many"], "--record-bytes"),
        (&["bench", "--local", "0"], "--local"),
        (&["bench", "--no-such-flag"], "--no-such-flag"),
        (&["serve"], "--data"),
        (&["no-such-command"], "no-such-command"),
        (&["format", "--data", "x", "--cluster", "c", "--node", "1", "--members", "1=a"], "1=a"),
    ] {
        assert_refused(&run(args), 2, &[word]);
    }
}

#[test]
fn an_unformatted_directory_is_refused() {
    let dir = scratch_dir();
    assert_refused(&run(&["serve", "--data", text(dir.path())]), 2, &["format"]);
    let missing = dir.path().join("missing");
    assert_refused(&run(&["serve", "--data", text(&missing)]), 2, &["missing", "format"]);
    assert_refused(&run(&["inspect", text(dir.path())]), 2, &["format"]);
    assert_refused(&run(&["inspect", text(&missing)]), 2, &["missing"]);
}

#[test]
fn a_formatted_directory_is_not_formatted_again() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    format_node(&data, "one", 1, "1=127.0.0.1:7000");
    let before = fs::read(data.join("identity.toml")).expect("format writes the identity");
    let again = run(&[
        "format",
        "--data",
        text(&data),
        "--cluster",
        "two",
        "--node",
        "1",
        "--members",
        "1=127.0.0.1:7000",
    ]);
    assert_refused(&again, 2, &[text(&data)]);
    assert_eq!(fs::read(data.join("identity.toml")).expect("it is still there"), before);
}

#[test]
fn a_fresh_mount_is_formatted() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("lost+found")).expect("it can be made");
    format_node(&data, "one", 1, "1=127.0.0.1:7000");
    assert!(data.join("lost+found").is_dir());
}

#[test]
fn members_that_nobody_reaches_are_refused() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    for (members, word) in [
        ("1=0.0.0.0:7400,2=10.0.0.2:7400", "0.0.0.0:7400 is no host's address"),
        ("1=[::]:7400", "no host's address"),
        ("1=localhost:7400,2=127.0.0.1:7400", "listed twice"),
        ("1=a.example:7400,2=A.example.:7400", "listed twice"),
    ] {
        let args = ["format", "--data", text(&data), "--cluster", "c", "--node", "1"];
        assert_refused(&run(&[&args[..], &["--members", members]].concat()), 2, &[word]);
    }
    assert!(!data.exists());
}

#[test]
fn a_damaged_identity_is_refused() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    format_node(&data, "one", 1, "1=127.0.0.1:7000");
    let file = data.join("identity.toml");
    let text_before = fs::read_to_string(&file).expect("the identity is text");
    fs::write(&file, text_before.replacen("7000", "7001", 1)).expect("it can be written");
    assert_refused(&run(&["serve", "--data", text(&data)]), 6, &["identity.toml"]);
}

#[test]
fn a_missing_promise_file_is_damage() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    let port = free_ports(1)[0];
    format_node(&data, "one", 1, &format!("1=127.0.0.1:{port}"));
    fs::remove_file(data.join("group-0000/vote")).expect("format writes it");
    let words = [text(&data), "group-0000/vote", "missing"];
    assert_refused(&run(&["serve", "--data", text(&data)]), 6, &words);
    fs::remove_dir_all(data.join("group-0000")).expect("it can be removed");
    assert_refused(&run(&["serve", "--data", text(&data)]), 6, &["listing group-0000"]);
}

#[test]
fn too_few_open_files_are_named() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    format_node(&data, "one", 1, "1=127.0.0.1:1");
    for limit in ["ulimit -n 12", "ulimit -n 24", "ulimit -n 64"] {
        let script = format!("{limit}; exec \"$0\" serve --data \"$1\"");
        let refused = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_loggos"), text(&data)])
            .output()
            .expect("a shell can be started");
        assert_refused(&refused, 2, &["ulimit -n", "needs"]);
        assert!(!String::from_utf8_lossy(&refused.stderr).contains("io_uring"));
    }
}

#[test]
fn a_log_of_another_cluster_is_refused() {
    let dir = scratch_dir();
    let port = free_ports(1)[0];
    let members = format!("1=127.0.0.1:{port}");
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    format_node(&mine, "mine", 1, &members);
    format_node(&other, "other", 1, &members);
    fs::remove_dir_all(mine.join("group-0000")).expect("it can be removed");
    fs::rename(other.join("group-0000"), mine.join("group-0000")).expect("it can be moved");
    assert_refused(&run(&["serve", "--data", text(&mine)]), 2, &["incarnation"]);
}

#[test]
fn a_tmpfs_is_refused() {
    // Present on every Linux; a flush costs nothing there.
    let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm can be written");
    let bench = run(&["bench", "--local", "1", "--duration", "1", "--data", text(dir.path())]);
    assert_refused(&bench, 2, &["tmpfs"]);
    let format = run(&[
        "format",
        "--data",
        text(&dir.path().join("data")),
        "--cluster",
        "c",
        "--node",
        "1",
        "--members",
        "1=127.0.0.1:7000",
    ]);
    assert_refused(&format, 2, &["tmpfs"]);
}

#[test]
fn a_port_in_use_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port can be found");
    let port = holder.local_addr().expect("a bound socket has one").port();
    let dir = scratch_dir();
    let data = dir.path().join("data");
    format_node(&data, "one", 1, &format!("1=127.0.0.1:{port}"));
    assert_refused(&run(&["serve", "--data", text(&data)]), 2, &[&port.to_string(), "in use"]);
}

#[test]
fn a_directory_in_use_is_refused() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let data = text(&cluster.nodes[0].data);
    assert_refused(&run(&["serve", "--data", data]), 2, &[data, "in use"]);
    assert_refused(&run(&["inspect", data]), 2, &[data, "in use"]);
    assert!(cluster.nodes[0].status().is_some(), "the first node goes on");
}

#[test]
fn members_that_do_not_match_do_not_form_a_cluster() {
    let mut cluster = Cluster::formatted(2);
    let data = cluster.nodes[1].data.clone();
    fs::remove_dir_all(&data).expect("it can be removed");
    let (one, two) = (&cluster.nodes[0].address, &cluster.nodes[1].address);
    format_node(&data, "test", 2, &format!("1={one},2={two},3=127.0.0.1:1"));
    cluster.start_node(0);
    cluster.start_node(1);
    wait_for("the nodes say why they do not talk", || {
        cluster.nodes.iter().all(|node| node.log().contains("member lists differ")).then_some(())
    });
    assert_eq!(cluster.leader(), None);
}

#[test]
fn nodes_of_two_clusters_refuse_each_other() {
    let mut cluster = Cluster::formatted(2);
    let data = cluster.nodes[1].data.clone();
    fs::remove_dir_all(&data).expect("it can be removed");
    let (one, two) = (&cluster.nodes[0].address, &cluster.nodes[1].address);
    format_node(&data, "stranger", 2, &format!("1={one},2={two}"));
    cluster.start_node(0);
    cluster.start_node(1);
    wait_for("the nodes say why they do not talk", || {
        let told = |node: &common::NodeProcess| node.log().contains("refuses: cluster");
        cluster.nodes.iter().all(told).then_some(())
    });
}

#[test]
fn garbage_ends_its_connection_and_nothing_else() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let address = &cluster.nodes[0].address;
    let http = b"GET / HTTP/1.1\r\nHost: loggos\r\n\r\n".to_vec();
    let zeros = vec![0; 100_000];
    let noise: Vec<u8> =
        (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for garbage in [http, zeros, noise] {
        let mut stream = TcpStream::connect(address).expect("the node listens");
        stream.set_read_timeout(Some(common::PATIENCE)).expect("a plain socket");
        // The node may hang up while we still write: that is an answer, too.
        let _ = stream.write_all(&garbage);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(ended.as_ref().map_or_else(reset, |_| true), "the node hangs up: {ended:?}");
    }
    let client = cluster.client();
    assert_eq!(client.append(&[b"still here"]).expect("the node goes on").first.0, 0);
}

#[test]
fn an_oversized_record_is_refused_and_the_connection_stays() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let client = cluster.client();
    let error = client.append(&[vec![7; RECORD_BYTES_MAX + 1]]).expect_err("it is too large");
    assert!(error.to_string().contains("limit"), "{error}");
    let largest = vec![7; RECORD_BYTES_MAX];
    assert_eq!(client.append(&[&largest]).expect("the largest fits").first.0, 0);

    let dir = scratch_dir();
    let file = dir.path().join("record");
    fs::write(&file, vec![1; RECORD_BYTES_MAX + 1]).expect("it can be written");
    let args = ["append", "--target", &cluster.targets(), "--file", text(&file)];
    assert_refused(&run(&args), 2, &["limit"]);
}

#[test]
fn an_unreachable_target_is_named() {
    let port = free_ports(1)[0];
    let target = format!("127.0.0.1:{port}");
    for command in [&["tail"][..], &["status"], &["read", "--from", "0"], &["bench"]] {
        let args = [command, &["--target", &target]].concat();
        assert_refused(&run(&args), 2, &[&target]);
    }
}

/// The client library tries a name again for as long as it may; a command says at once that it is wrong.
#[test]
fn a_target_that_cannot_be_resolved_is_named_at_once() {
    // No name server is asked for a label of more than 63 characters.
    let target = format!("{}:7101", "a".repeat(64));
    let commands = [
        &["tail"][..],
        &["status"],
        &["read", "--from", "0"],
        &["append"],
        &["init"],
        &["log", "list"],
        &["bench"],
    ];
    for command in commands {
        // Were the time-out used up, this would take for ever.
        let args = match command {
            ["bench"] => [command, &["--target", &target]].concat(),
            _ => [command, &["--target", &target, "--timeout", "100000"]].concat(),
        };
        assert_refused(&run(&args), 2, &[&target, "cannot be resolved", "--target"]);
    }
    // One that can be is enough.
    let cluster = Cluster::start(1);
    let targets = format!("{target},{}", cluster.targets());
    let tail = run(&["tail", "--target", &targets]);
    assert!(tail.status.success(), "{tail:?}");
}

#[test]
fn damage_in_the_middle_of_the_log_is_found_and_the_node_does_not_start() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let client = cluster.client();
    for number in 0..50u32 {
        client.append(&[number.to_le_bytes()]).expect("the node commits");
    }
    cluster.kill_node(0);
    let data = cluster.nodes[0].data.clone();
    let whole = run(&["inspect", text(&data)]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));

    let group = data.join("group-0000");
    let mut segments: Vec<_> = fs::read_dir(&group)
        .expect("the group's folder can be listed")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.to_string_lossy().contains("segment-"))
        .collect();
    segments.sort();
    let segment = fs::File::options().read(true).write(true).open(&segments[0]);
    let segment = segment.expect("a segment can be opened");
    // The tenth entry: one block each behind the segment's header block.
    let offset = 10 * 4096 + 200;
    let mut byte = [0];
    segment.read_exact_at(&mut byte, offset).expect("it can be read");
    segment.write_all_at(&[byte[0] ^ 0x10], offset).expect("it can be written");
    drop(segment);

    let damaged = run(&["inspect", text(&data)]);
    assert_refused(&damaged, 1, &["segment-", "offset 40960"]);
    let damaged = run(&["inspect", text(&data), "--json"]);
    let report: serde_json::Value =
        serde_json::from_slice(&damaged.stdout).expect("one JSON object");
    assert_eq!(report["damage"].as_array().expect("a list").len(), 1, "{report}");
    assert_eq!(report["damage"][0]["offset"], 40960);
    assert_eq!(report["groups"][0]["entries_lost"], 1);
    let serve = run(&["serve", "--data", text(&data)]);
    assert_refused(&serve, 6, &["segment-", "offset"]);
}

#[test]
fn more_segments_than_files_may_be_open_are_inspected() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    let args = ["format", "--data", text(&data), "--cluster", "c", "--node", "1"];
    let members = ["--members", "1=127.0.0.1:1", "--segment-bytes", "4194304"];
    let made = run(&[&args[..], &members, &["--preallocate-bytes", "100663296"]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Room for what every process has, the lock, the folder, and a file or two; not for 24.
    let script = "ulimit -n 10; exec \"$0\" inspect \"$1\" --json";
    let inspected = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_loggos"), text(&data)])
        .output()
        .expect("a shell can be started");
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&inspected.stdout).expect("one JSON object");
    assert_eq!(report["sound"], true);
    assert_eq!(report["groups"][0]["segments"].as_array().expect("a list").len(), 24);
}

#[test]
fn a_segment_cut_at_any_byte_is_told_of_and_the_node_does_not_start() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    cluster.client().append(&[b"one"]).expect("the node commits");
    cluster.kill_node(0);
    let data = cluster.nodes[0].data.clone();
    let segment = data.join("group-0000").join("segment-0000000000000001.log");
    let file = fs::File::options().write(true).open(&segment).expect("the first segment stands");
    for length in [10_001, 8192, 100, 0] {
        file.set_len(length).expect("it can be cut");
        let inspected = run(&["inspect", text(&data)]);
        assert_refused(&inspected, 1, &["segment-", &format!("{length} bytes long")]);
        assert_refused(&run(&["serve", "--data", text(&data)]), 6, &["segment-"]);
    }
}

#[test]
fn damage_that_a_running_node_finds_keeps_it_away_until_it_is_mended() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let client = cluster.client();
    let group = cluster.nodes[0].data.join("group-0000");
    let (segment, marker) = (group.join("segment-0000000000000001.log"), group.join("damaged"));
    let segment = fs::File::options().read(true).write(true).open(&segment);
    let segment = segment.expect("the first segment stands");
    // The start's replay reads values; idle marks have none.
    client.append(&[b"first"]).expect("the node commits");
    let mark = wait_for("an idle mark is written", || {
        let mut blocks = vec![0; 16 * 4096];
        segment.read_exact_at(&mut blocks, 0).expect("it can be read");
        let is_mark = |block: &[u8]| block.starts_with(b"LgE1") && block[6] == 2;
        blocks.chunks(4096).position(is_mark)
    });
    // A full segment, and some more.
    for number in 0..20u8 {
        client.append(&[vec![number; RECORD_BYTES_MAX]]).expect("the node commits");
    }
    wait_for("the full segment gets its index", || {
        let end = segment.metadata().expect("it stands").len() - 128;
        let mut magic = [0; 4];
        segment.read_exact_at(&mut magic, end).expect("it can be read");
        (&magic == b"LgF1").then_some(())
    });
    cluster.kill_node(0);
    let mut byte = [0];
    let offset = mark as u64 * 4096 + 20;
    segment.read_exact_at(&mut byte, offset).expect("it can be read");
    segment.write_all_at(&[byte[0] ^ 0x10], offset).expect("it can be written");
    // It serves, since the start reads the segment's index only, and ends when it comes to it.
    let served = |log: String| log.matches(" serving ").count();
    cluster.start_node(0);
    let node = &mut cluster.nodes[0];
    assert_eq!(node.wait().code(), Some(6), "{}", node.log());
    assert_eq!(served(node.log()), 2, "{}", node.log());
    assert!(node.log().contains("segment-") && marker.exists(), "{}", node.log());
    // A supervisor starts it again: it does not serve, however often.
    for _ in 0..2 {
        cluster.start_node(0);
        let node = &mut cluster.nodes[0];
        assert_eq!(node.wait().code(), Some(6), "{}", node.log());
        assert_eq!(served(node.log()), 2, "{}", node.log());
        assert!(node.log().contains("damage was found while the log ran") && marker.exists());
    }
    // The operator has brought the bytes back.
    segment.write_all_at(&byte, offset).expect("it can be written");
    cluster.start_node(0);
    cluster.wait_for_leader();
    assert!(!marker.exists());
    client.append(&[b"more"]).expect("the node commits");
}

#[test]
fn a_node_permits_itself_the_files_that_the_host_permits_and_says_when_they_are_few() {
    let mut cluster = Cluster::formatted(1);
    cluster.start_node_under(0, "ulimit -Sn 200 && ulimit -Hn 700", &[]);
    cluster.wait_for_leader();
    let node = &cluster.nodes[0];
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.process_id()));
    let limits = limits.expect("the node runs");
    let files = limits.lines().find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = files.expect("it is among them").split_whitespace().collect();
    assert_eq!(words[3..5], ["700", "700"], "{limits}");
    assert_eq!(node.log().matches("raise the hard limit").count(), 1, "{}", node.log());
    cluster.kill_node(0);
    let told = cluster.nodes[0].log().len();
    cluster.start_node_under(0, "ulimit -Sn 200 && ulimit -Hn 20000", &[]);
    cluster.wait_for_leader();
    assert!(!cluster.nodes[0].log()[told..].contains("raise the hard limit"));
}
