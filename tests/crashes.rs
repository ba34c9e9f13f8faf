//! Real processes, killed with SIGKILL under load: what was acknowledged is there afterwards, at
//! its position and once, and all replicas hold the same.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use common::{Cluster, PATIENCE, read_all, wait_for};
use loggos::client::blocking::Client;
use loggos::client::{AppendError, ClientOptions};

/// Appends one record after the other until told to stop.
struct Writer {
    acknowledged_count: Arc<AtomicU64>,
    thread: JoinHandle<Written>,
}

/// What a writer saw.
#[derive(Default)]
struct Written {
    /// Record → the position it was acknowledged at.
    acknowledged: Vec<(Vec<u8>, u64)>,
    /// Records that may or may not be in the log.
    unknown: Vec<Vec<u8>>,
    /// Records that certainly are not.
    failed: Vec<Vec<u8>>,
}

fn start_writer(name: usize, addresses: Vec<String>, stop: Arc<AtomicBool>) -> Writer {
    let acknowledged_count = Arc::new(AtomicU64::new(0));
    let count = acknowledged_count.clone();
    let thread = std::thread::spawn(move || {
        let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
        assert!(options.exactly_once, "appends are sent again until their outcome is known");
        let client = Client::connect(addresses, options).expect("the cluster answers");
        let mut written = Written::default();
        for number in 0u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let record = format!("w{name}-{number}").into_bytes();
            match client.append(&[&record]) {
                Ok(appended) => {
                    written.acknowledged.push((record, appended.first.0));
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(AppendError::OutcomeUnknown { .. }) => written.unknown.push(record),
                Err(_) => written.failed.push(record),
            }
        }
        written
    });
    Writer { acknowledged_count, thread }
}

/// A cluster with writers at work.
struct Loaded {
    cluster: Cluster,
    writers: Vec<Writer>,
    stop: Arc<AtomicBool>,
}

impl Loaded {
    fn start(nodes: usize, writers: usize) -> Loaded {
        let cluster = Cluster::start(nodes);
        cluster.wait_for_leader();
        let stop = Arc::new(AtomicBool::new(false));
        let writers =
            (0..writers).map(|name| start_writer(name, cluster.addresses(), stop.clone()));
        let writers = writers.collect();
        Loaded { cluster, writers, stop }
    }

    fn acknowledged(&self) -> u64 {
        self.writers.iter().map(|w| w.acknowledged_count.load(Ordering::Relaxed)).sum()
    }

    /// Waits until `count` more appends have been acknowledged.
    fn wait_for_progress(&self, count: u64) {
        let goal = self.acknowledged() + count;
        wait_for("appends are acknowledged", || (self.acknowledged() >= goal).then_some(()));
    }

    /// Stops the writers and holds what they saw against what every replica has.
    fn check(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Written::default();
        for writer in self.writers {
            let written = writer.thread.join().expect("a writer does not panic");
            seen.acknowledged.extend(written.acknowledged);
            seen.unknown.extend(written.unknown);
            seen.failed.extend(written.failed);
        }
        let tail = self.cluster.wait_until_equal();
        let logs: Vec<Vec<Vec<u8>>> =
            self.cluster.nodes.iter().map(|node| read_all(&node.address)).collect();
        assert_eq!(logs[0].len() as u64, tail);
        for (log, node) in logs.iter().zip(&self.cluster.nodes) {
            assert!(*log == logs[0], "node {} holds the same records as node 1", node.id);
        }
        check_history(&logs[0], &seen);
        println!(
            "{} acknowledged, {} unknown, {} failed, {tail} in the log",
            seen.acknowledged.len(),
            seen.unknown.len(),
            seen.failed.len()
        );
        seen
    }
}

fn check_history(log: &[Vec<u8>], seen: &Written) {
    let mut places: HashMap<&[u8], Vec<u64>> = HashMap::new();
    for (position, record) in log.iter().enumerate() {
        places.entry(record).or_default().push(position as u64);
    }
    for (record, positions) in &places {
        let record = String::from_utf8_lossy(record);
        assert_eq!(positions.len(), 1, "{record} stands at {positions:?}: appended twice");
    }
    for (record, position) in &seen.acknowledged {
        let name = String::from_utf8_lossy(record);
        let found = places.remove(record.as_slice());
        assert_eq!(found, Some(vec![*position]), "{name} was acknowledged at {position}");
    }
    for record in &seen.failed {
        let name = String::from_utf8_lossy(record);
        assert!(!places.contains_key(record.as_slice()), "{name} was answered as without effect");
    }
    for record in places.keys() {
        let name = String::from_utf8_lossy(record);
        assert!(seen.unknown.iter().any(|unknown| unknown == record), "{name} was never sent");
    }
}

#[test]
fn twenty_leaders_killed_under_load_lose_and_double_nothing() {
    let mut loaded = Loaded::start(3, 4);
    for round in 0..20 {
        loaded.wait_for_progress(100);
        let leader = loaded.cluster.wait_for_leader();
        loaded.cluster.kill_node(leader);
        // A new leader without help: the killed node stays away until appends go on.
        loaded.wait_for_progress(50);
        let new_leader = loaded.cluster.wait_for_leader();
        assert_ne!(new_leader, leader, "round {round}: another node leads");
        loaded.cluster.start_node(leader);
    }
    loaded.wait_for_progress(100);
    let seen = loaded.check();
    // A leader that dies with an append has not answered it; the next one has it, or takes it.
    assert!(seen.unknown.is_empty(), "with retries for {PATIENCE:?} every outcome becomes known");
    assert!(seen.failed.is_empty(), "and none is given up");
}

#[test]
fn all_replicas_killed_at_once_come_back_with_everything() {
    let mut loaded = Loaded::start(3, 4);
    for _ in 0..5 {
        loaded.wait_for_progress(300);
        (0..3).for_each(|index| loaded.cluster.kill_node(index));
        (0..3).for_each(|index| loaded.cluster.start_node(index));
    }
    loaded.wait_for_progress(100);
    loaded.check();
}

#[test]
fn a_single_node_killed_under_load_comes_back_with_everything() {
    let mut loaded = Loaded::start(1, 2);
    for _ in 0..5 {
        loaded.wait_for_progress(200);
        loaded.cluster.kill_node(0);
        loaded.cluster.start_node(0);
    }
    loaded.wait_for_progress(100);
    loaded.check();
}

#[test]
fn a_node_that_is_asked_to_stop_leaves_little_to_replay() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let client = cluster.client();
    let record = vec![7; 500_000];
    for _ in 0..20 {
        client.append(&[&record, &record]).expect("it is appended");
    }
    cluster.nodes[0].terminate();
    assert_eq!(cluster.nodes[0].wait().code(), Some(0));
    let log = cluster.nodes[0].log();
    assert!(log.contains("checkpoint number=1"), "{log}");
    cluster.start_node(0);
    cluster.wait_for_leader();
    assert_eq!(read_all(&cluster.nodes[0].address).len(), 40);
    let log = cluster.nodes[0].log();
    let recovered = log.lines().rfind(|line| line.contains("recovered the log"));
    assert!(recovered.is_some_and(|line| !line.contains("checkpoint=0")), "{log}");
    // Nothing has come since: the next stop has nothing to do.
    cluster.nodes[0].terminate();
    assert_eq!(cluster.nodes[0].wait().code(), Some(0));
    assert!(!cluster.nodes[0].log().contains("checkpoint number=2"));
}

#[test]
fn a_follower_killed_and_long_away_catches_up() {
    let mut loaded = Loaded::start(3, 4);
    loaded.wait_for_progress(200);
    let leader = loaded.cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    loaded.cluster.kill_node(follower);
    // Far more slots than the leader keeps for a peer.
    loaded.wait_for_progress(6000);
    loaded.cluster.start_node(follower);
    loaded.wait_for_progress(500);
    loaded.check();
}
