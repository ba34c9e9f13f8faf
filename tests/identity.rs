//! Which disk a member runs on: a node that was formatted again, an old disk, a disk of another cluster
//! of the same name and swapped disks are refused by their peers, in words; and blank nodes found no
//! cluster by themselves. With real processes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Cluster, format_node, read_all, run, wait_for};
use loggos::client::ClientOptions;
use loggos::client::blocking::Client;
use loggos::wire::status::RoleStatus;

/// Appends `records` through whoever answers among the cluster's running nodes.
fn append(cluster: &Cluster, prefix: &str, records: usize) {
    let client = cluster.client();
    for count in 0..records {
        client.append(&[format!("{prefix}-{count}")]).expect("a quorum runs");
    }
}

/// What a client of one node gets for an append within a short time.
fn try_append(address: &str) -> Result<(), String> {
    let options = ClientOptions {
        operation_timeout: Duration::from_secs(3),
        stay: true,
        ..ClientOptions::default()
    };
    let client =
        Client::connect([address.to_owned()], options).map_err(|error| error.to_string())?;
    client.append(&[b"must not be taken"]).map(drop).map_err(|error| error.to_string())
}

fn members(cluster: &Cluster) -> String {
    let member = |node: &common::NodeProcess| format!("{}={}", node.id, node.address);
    cluster.nodes.iter().map(member).collect::<Vec<_>>().join(",")
}

/// Formats a node's directory again, as it was formatted first. Returns where the old one is now.
fn format_again(cluster: &Cluster, index: usize) -> PathBuf {
    let data = &cluster.nodes[index].data;
    let kept = cluster.dir.path().join(format!("kept-{}", index + 1));
    if kept.exists() {
        fs::remove_dir_all(&kept).expect("it can be removed");
    }
    fs::rename(data, &kept).expect("it can be moved");
    format_node(data, "test", index as u16 + 1, &members(cluster));
    kept
}

fn move_to(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("it can be removed");
    }
    fs::rename(from, to).expect("it can be moved");
}

fn copy_to(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("it can be removed");
    }
    let copy = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copy.expect("cp can be started").success());
}

/// Waits until every replica holds so many records.
fn wait_for_tail(cluster: &Cluster, records: u64) {
    wait_for("all replicas hold the records", || {
        let holds = |node: &common::NodeProcess| node.status().is_some_and(|s| s.tail == records);
        cluster.nodes.iter().all(holds).then_some(())
    });
}

/// Waits until the node has said, or been told, that it runs on another disk.
fn wait_for_refusal(cluster: &Cluster, index: usize, words: &str) {
    wait_for("the peers refuse each other in words", || {
        cluster.nodes[index].log().contains(words).then_some(())
    });
}

/// Three nodes of which the third was away while records were appended.
fn third_was_away(records: usize) -> Cluster {
    let mut cluster = Cluster::formatted(3);
    (0..2).for_each(|index| cluster.start_node(index));
    append(&cluster, "kept", records);
    (0..2).for_each(|index| cluster.kill_node(index));
    cluster
}

#[test]
fn a_wiped_member_votes_nothing_away() {
    let records = 1000;
    let mut cluster = third_was_away(records);
    format_again(&cluster, 1);
    cluster.start_node(1);
    cluster.start_node(2);
    // Node 3 lacks everything, and node 2 is another directory: they are no quorum.
    wait_for_refusal(&cluster, 1, "was founded on the directory of incarnation");
    wait_for_refusal(&cluster, 2, "was founded on the directory of incarnation");
    assert!(cluster.nodes[2].log().contains("member replace"), "{}", cluster.nodes[2].log());
    let status = cluster.nodes[1].status().expect("a blank node tells how it is");
    assert_eq!((status.role, status.cluster_id), (RoleStatus::Blank, None));
    for index in [1, 2] {
        let answer = try_append(&cluster.nodes[index].address);
        assert!(answer.is_err(), "{answer:?}");
        // Each side is told so at the connection that it has begun itself, the second one later.
        wait_for("status tells who refuses", || {
            let status = cluster.nodes[index].status()?;
            let other = status.members.iter().find(|member| member.id == 4 - index as u16);
            other.expect("it is a member").refused.is_some().then_some(())
        });
    }
    assert_eq!(cluster.leader(), None);
    // `init` founds nothing either.
    let init = cluster.init(&cluster.nodes[1].address);
    assert_eq!(init.status.code(), Some(3), "{init:?}");
    // With the right disk of node 1 there is a quorum, and nothing is lost.
    cluster.start_node(0);
    wait_for("the first and the third are a quorum", || {
        (cluster.nodes[2].status()?.tail == records as u64).then_some(())
    });
    append(&cluster, "more", 1);
    let log = read_all(&cluster.nodes[2].address);
    assert_eq!(log.len(), records + 1);
    assert!((0..records).all(|index| log[index] == format!("kept-{index}").as_bytes()));
}

#[test]
fn a_disk_of_a_cluster_of_the_same_name_is_refused() {
    let mut old = Cluster::start(3);
    append(&old, "old", 50);
    old.wait_until_equal();
    (0..3).for_each(|index| old.kill_node(index));
    // The cluster is made again, with the same name and members; node 3's old disk is not wiped.
    let kept = format_again(&old, 2);
    format_again(&old, 0);
    format_again(&old, 1);
    (0..3).for_each(|index| old.start_node(index));
    old.found();
    append(&old, "new", 3);
    old.wait_until_equal();
    old.kill_node(2);
    let right = old.dir.path().join("right");
    move_to(&old.nodes[2].data.clone(), &right);
    move_to(&kept, &old.nodes[2].data.clone());
    old.start_node(2);
    wait_for_refusal(&old, 2, "of the same name");
    wait_for_refusal(&old, 0, "of the same name");
    append(&old, "new", 3);
    // It may have been killed before it knew the last one chosen.
    let tail = old.nodes[2].status().expect("it runs").tail;
    assert!((49..=50).contains(&tail), "it learns nothing: {tail}");
    for index in 0..2 {
        let log = read_all(&old.nodes[index].address);
        assert!(log.iter().all(|record| record.starts_with(b"new-")), "{log:?}");
    }
    // Its own disk is let in again.
    old.kill_node(2);
    move_to(&right, &old.nodes[2].data.clone());
    old.start_node(2);
    wait_for_tail(&old, 6);
}

#[test]
fn blank_nodes_wait_and_say_so() {
    let mut cluster = Cluster::blank(3);
    let targets = cluster.targets();
    (0..2).for_each(|index| cluster.start_node(index));
    // Not every member runs: nothing is founded, and the missing one is named.
    let init = wait_for("both answer", || {
        let init = run(&["init", "--target", &targets, "--timeout", "3"]);
        (init.status.code() == Some(3)).then_some(init)
    });
    let said = String::from_utf8_lossy(&init.stderr).into_owned();
    let third = &cluster.nodes[2].address;
    assert!(said.contains("member 3 at") && said.contains(third), "{said}");
    for index in 0..2 {
        let status = cluster.nodes[index].status().expect("it answers");
        assert_eq!(status.role, RoleStatus::Blank);
        let answer = try_append(&cluster.nodes[index].address);
        assert!(answer.as_ref().is_err_and(|why| why.contains("loggos init")), "{answer:?}");
        assert!(cluster.nodes[index].log().contains("waits for the cluster to be founded"));
    }
    let shown = run(&["status", "--target", &targets]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("blank") && shown.contains("loggos init"), "{shown}");
    cluster.start_node(2);
    let id = cluster.found();
    // Repeating it, at any member, tells the same.
    for node in &cluster.nodes {
        let init = run(&["init", "--target", &node.address, "--json"]);
        assert!(init.status.success(), "{init:?}");
        assert!(String::from_utf8_lossy(&init.stdout).contains(&id), "{init:?}");
    }
    append(&cluster, "first", 1);
    let log = read_all(&cluster.nodes[cluster.wait_for_leader()].address);
    assert_eq!(log, [b"first-0"]);
}

#[test]
fn a_member_that_was_killed_at_the_founding_learns_it() {
    let mut cluster = Cluster::blank(3);
    (0..3).for_each(|index| cluster.start_node(index));
    // Killed as soon as the others may have chosen it, whatever the third knows by then.
    wait_for("it is founded", || {
        cluster.init(&cluster.nodes[0].address).status.success().then_some(())
    });
    cluster.kill_node(2);
    append(&cluster, "early", 5);
    cluster.start_node(2);
    wait_for_tail(&cluster, 5);
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.status().unwrap().cluster_id).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn another_list_is_named_by_init() {
    let mut cluster = Cluster::blank(2);
    let data = cluster.nodes[1].data.clone();
    fs::remove_dir_all(&data).expect("it can be removed");
    let list = format!("{},3=127.0.0.1:1", members(&cluster));
    format_node(&data, "test", 2, &list);
    (0..2).for_each(|index| cluster.start_node(index));
    let first = cluster.nodes[0].address.clone();
    let init = wait_for("it is refused", || {
        let init = run(&["init", "--target", &first, "--timeout", "10"]);
        let said = String::from_utf8_lossy(&init.stderr).into_owned();
        said.contains("member lists differ").then_some(init)
    });
    assert_eq!(init.status.code(), Some(3), "{init:?}");
}

/// A disk that is not the member's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Formatted again.
    Wiped,
    /// Of a cluster of the same name and members that was there before.
    Foreign,
    /// Of the next member.
    Swapped,
}

/// Every order of two wrong disks on two of three nodes, one after the other, each put right at the end:
/// a quorum of right disks goes on, and nothing acknowledged is lost.
#[test]
fn every_order_of_wrong_disks_loses_nothing() {
    let mut cluster = Cluster::start(3);
    append(&cluster, "foreign", 5);
    cluster.wait_until_equal();
    (0..3).for_each(|index| cluster.kill_node(index));
    let foreign = |index: usize| format!("foreign-{}", index + 1);
    for index in 0..3 {
        let kept = format_again(&cluster, index);
        move_to(&kept, &cluster.dir.path().join(foreign(index)));
    }
    (0..3).for_each(|index| cluster.start_node(index));
    cluster.found();
    let mut expected = 0;
    let all = [Wrong::Wiped, Wrong::Foreign, Wrong::Swapped];
    for (first, second) in all.into_iter().flat_map(|first| all.map(|second| (first, second))) {
        println!("{first:?}, then {second:?}");
        append(&cluster, "kept", 3);
        expected += 3;
        for (index, wrong) in [(1, first), (2, second)] {
            let data = cluster.nodes[index].data.clone();
            let right = cluster.dir.path().join("right");
            cluster.kill_node(index);
            move_to(&data, &right);
            match wrong {
                Wrong::Wiped => format_node(&data, "test", index as u16 + 1, &members(&cluster)),
                Wrong::Foreign => copy_to(&cluster.dir.path().join(foreign(index)), &data),
                Wrong::Swapped => {
                    // Only the groups' folders: another identity would listen elsewhere.
                    copy_to(&right, &data);
                    let other = (index + 1) % 3;
                    cluster.kill_node(other);
                    let theirs = cluster.nodes[other].data.join("group-0000");
                    copy_to(&theirs, &data.join("group-0000"));
                    cluster.start_node(other);
                }
            }
            cluster.start_node(index);
            match wrong {
                Wrong::Wiped => wait_for_refusal(&cluster, index, "was founded on the directory"),
                Wrong::Foreign => wait_for_refusal(&cluster, index, "of the same name"),
                Wrong::Swapped => {
                    let status = cluster.nodes[index].wait();
                    assert!([Some(2), Some(6)].contains(&status.code()), "{status:?}");
                    assert!(cluster.nodes[index].log().contains("incarnation"));
                }
            }
            // The two others are a quorum.
            append(&cluster, "kept", 2);
            expected += 2;
            if cluster.nodes[index].is_running() {
                cluster.kill_node(index);
            }
            move_to(&right, &data);
            cluster.start_node(index);
            wait_for_tail(&cluster, expected);
        }
    }
    for node in &cluster.nodes {
        let log = read_all(&node.address);
        assert!(log.iter().all(|record| record.starts_with(b"kept-")), "node {}", node.id);
    }
}

/// A majority of wiped nodes founds nothing: it waits, and says so.
#[test]
fn a_wiped_majority_waits() {
    let mut cluster = Cluster::start(3);
    append(&cluster, "kept", 10);
    cluster.wait_until_equal();
    (0..3).for_each(|index| cluster.kill_node(index));
    let kept = [1, 2].map(|index| format_again(&cluster, index));
    (0..3).for_each(|index| cluster.start_node(index));
    wait_for_refusal(&cluster, 0, "was founded on the directory of incarnation");
    let init = cluster.init(&cluster.nodes[1].address);
    assert_eq!(init.status.code(), Some(3), "{init:?}");
    assert_eq!(cluster.leader(), None);
    for index in 0..3 {
        let answer = try_append(&cluster.nodes[index].address);
        assert!(answer.is_err(), "{answer:?}");
    }
    for (index, kept) in [1, 2].into_iter().zip(kept) {
        cluster.kill_node(index);
        move_to(&kept, &cluster.nodes[index].data.clone());
        cluster.start_node(index);
    }
    wait_for_tail(&cluster, 10);
}
