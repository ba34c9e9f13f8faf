//! Real processes, each over a disk of its own (`common/disk`), of which one becomes a hundred
//! times as slow as it was, or hangs: what a quorum can do without it is done without it.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::disk::{Disk, Mains, available};
use common::{Cluster, PATIENCE, wait_for};
use loggos::client::ClientOptions;
use loggos::client::blocking::Client;

const NODES: usize = 3;
/// `--election-timeout` as it is by default.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(400);
/// Appends of which the median is taken.
const SAMPLE: usize = 300;
const SLOWNESS: u32 = 100;
/// What a busy host adds here and there; a disk that slow costs many times as much.
const NOISE: Duration = Duration::from_millis(4);
/// Tests that measure do so one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A cluster on disks, and a client that appends one record after the other.
struct Loaded {
    // Dropped in this order: the processes end before their disks go.
    cluster: Cluster,
    disks: Vec<Disk>,
    stop: Arc<AtomicBool>,
    /// When each append was begun, and how long it took.
    appends: Receiver<(Instant, Duration)>,
    _alone: MutexGuard<'static, ()>,
}

impl Loaded {
    /// `None` where the disks cannot be made.
    fn start() -> Option<Loaded> {
        if !available() {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mains = Mains::new();
        let disks: Vec<Disk> = (0..NODES).map(|index| Disk::new(&mains, index as u64)).collect();
        let folders = disks.iter().map(|disk| disk.path().join("data")).collect();
        let mut cluster = Cluster::formatted_on(folders, &[]);
        (0..NODES).for_each(|index| cluster.start_node(index));
        cluster.wait_for_leader();
        let (addresses, stop) = (cluster.addresses(), Arc::new(AtomicBool::new(false)));
        let (told, appends) = channel();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
            let client = Client::connect(addresses, options).expect("the cluster answers");
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                if client.append(&[b"a record"]).is_err() {
                    return; // the receiver says so
                }
                if told.send((start, start.elapsed())).is_err() {
                    return;
                }
            }
        });
        Some(Loaded { cluster, disks, stop, appends, _alone: alone })
    }

    /// The median of so many appends that begin from `from` on.
    fn median(&self, from: Instant) -> Duration {
        let mut times = Vec::new();
        while times.len() < SAMPLE {
            let (start, time) = self.appends.recv_timeout(PATIENCE).expect("appends go on");
            if start >= from {
                times.push(time);
            }
        }
        times.sort_unstable();
        times[SAMPLE / 2]
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // What hangs would keep the process from ending.
        self.disks.iter().for_each(Disk::go_on);
    }
}

#[test]
fn a_leader_whose_disk_is_a_hundred_times_as_slow_costs_little_after_three_election_timeouts() {
    let Some(loaded) = Loaded::start() else { return };
    let healthy = loaded.median(Instant::now());
    let leader = loaded.cluster.wait_for_leader();
    loaded.disks[leader].slow_down(SLOWNESS);
    let slow = loaded.median(Instant::now() + 3 * ELECTION_TIMEOUT);
    loaded.disks[leader].slow_down(1);
    let healed = loaded.median(Instant::now() + ELECTION_TIMEOUT);
    println!("p50 {healthy:?}; with the leader's disk x{SLOWNESS} {slow:?}; afterwards {healed:?}");
    assert!(
        slow <= 2 * healthy.max(healed) + NOISE,
        "{slow:?}, healthy {healthy:?} and {healed:?}"
    );
}

#[test]
fn a_follower_whose_disk_is_a_hundred_times_as_slow_costs_nothing() {
    let Some(loaded) = Loaded::start() else { return };
    let healthy = loaded.median(Instant::now());
    let follower = (loaded.cluster.wait_for_leader() + 1) % NODES;
    loaded.disks[follower].slow_down(SLOWNESS);
    let slow = loaded.median(Instant::now());
    loaded.disks[follower].slow_down(1);
    let healed = loaded.median(Instant::now());
    println!("p50 {healthy:?}; with a follower's disk x{SLOWNESS} {slow:?}; afterwards {healed:?}");
    assert!(
        slow <= 2 * healthy.max(healed) + NOISE,
        "{slow:?}, healthy {healthy:?} and {healed:?}"
    );
}

#[test]
fn a_leader_whose_disk_hangs_is_followed_by_another_and_comes_back() {
    let Some(mut loaded) = Loaded::start() else { return };
    loaded.median(Instant::now());
    let leader = loaded.cluster.wait_for_leader();
    loaded.disks[leader].hang();
    let start = Instant::now();
    loaded.median(start);
    println!("{SAMPLE} appends on a cluster whose leader's disk hangs took {:?}", start.elapsed());
    let next =
        wait_for("another leader", || loaded.cluster.leader().filter(|next| *next != leader));
    assert_ne!(next, leader);
    loaded.disks[leader].go_on();
    // It may have ended because of that, and is started again then, as a supervisor would.
    let node = &mut loaded.cluster.nodes[leader];
    if node.ended().is_some() {
        loaded.cluster.kill_node(leader);
        loaded.cluster.start_node(leader);
    }
    loaded.stop.store(true, Ordering::Relaxed);
    loaded.cluster.wait_until_equal();
}
