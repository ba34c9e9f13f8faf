//! Two failures one after the other, with real processes: a follower is away until it lacks more slots than
//! anybody keeps for it, and when it comes back the leader dies. It and the third node are a quorum at once,
//! not when it has caught up, though light traffic never rests.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Cluster, PATIENCE, wait_for};
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadLevel};

/// Rounds, unless `LOGGOS_LAGGING_ROUNDS` says more.
const ROUNDS: u64 = 3;
/// What is chosen while the follower is away: more than the slots that are kept for it (1,024).
const MISSED_SLOTS: u64 = 1500;
/// Between two appends of the light traffic.
const TRICKLE: Duration = Duration::from_millis(4);
/// A round that takes longer is a failure. How long it takes is printed; it should be under a second.
const PROGRESS_WITHIN: Duration = Duration::from_secs(5);

fn client(cluster: &Cluster) -> Client {
    let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
    Client::connect(cluster.addresses(), options).expect("it answers")
}

/// Appends one record after the other, each in a slot of its own, until the leader has chosen so many slots.
fn append_slots(cluster: &Cluster, leader: usize, slots: u64) -> u64 {
    let client = client(cluster);
    let chosen = || cluster.nodes[leader].status().expect("it runs").chosen;
    let goal = chosen() + slots;
    let mut appended = 0;
    while chosen() < goal {
        for _ in 0..100 {
            client.append(&[b"missed"]).expect("a quorum runs");
            appended += 1;
        }
    }
    appended
}

/// Light traffic from several clients: when an append was begun that has been acknowledged, for each.
struct Traffic {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    begun: Arc<Mutex<Option<Instant>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    fn start(cluster: &Cluster) -> Traffic {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begun = Arc::new(Mutex::new(None));
        let threads = (0..3).map(|_| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let (begun, client) = (begun.clone(), client(cluster));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let now = Instant::now();
                    client.append(&[b"trickle"]).expect("a quorum runs within the time-out");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    *begun.lock().expect("nobody panics with it") = Some(now);
                    std::thread::sleep(TRICKLE);
                }
            })
        });
        let threads = threads.collect();
        Traffic { stop, acknowledged, begun, threads }
    }

    /// Waits for an append that was begun after `instant` to be acknowledged.
    fn wait_for_append_after(&self, instant: Instant) {
        wait_for("an append begun later is acknowledged", || {
            let begun = *self.begun.lock().expect("nobody panics with it");
            begun.filter(|begun| *begun > instant)
        });
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no append fails"));
        self.acknowledged.load(Ordering::Relaxed)
    }
}

#[test]
fn a_follower_far_behind_and_the_third_node_are_a_quorum_at_once() {
    let rounds = std::env::var("LOGGOS_LAGGING_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut cluster = Cluster::start(3);
    let mut records = 0;
    for round in 0..rounds {
        let leader = cluster.wait_for_leader();
        let follower = (leader + 1 + round as usize % 2) % 3;
        cluster.kill_node(follower);
        records += append_slots(&cluster, leader, MISSED_SLOTS);
        let traffic = Traffic::start(&cluster);
        cluster.kill_node(leader);
        let killed = Instant::now();
        cluster.start_node(follower);
        let back = Instant::now();
        traffic.wait_for_append_after(killed);
        let took = back.elapsed();
        println!("round {round}: an append {took:?} after the follower's return");
        assert!(took < PROGRESS_WITHIN, "{took:?}");
        records += traffic.end();
        cluster.start_node(leader);
        cluster.wait_until_equal();
    }
    let tail = client(&cluster).tail(ReadLevel::ReadIndex).expect("a quorum runs");
    // Appends are in sessions: none is there twice, whatever was sent again.
    assert_eq!(tail.0, records);
}
