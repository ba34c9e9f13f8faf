//! Flows between nodes that die in silence: the kernels on both sides notice nothing, while new
//! connections pass. Appends must be back long before a kernel would give up.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::proxy::Proxies;
use common::{Cluster, NodeProcess, read_all, wait_for};
use loggos::client::ClientOptions;
use loggos::client::blocking::Client;

/// How often each test lets flows die.
const ROUNDS: usize = 3;
/// No gap may be longer, however busy the machine; on a quiet one it is below 1.5 s, and it is
/// printed. A kernel gives a connection up after 10 s at the earliest, and these never.
const GAP_MAX: Duration = Duration::from_secs(6);

/// A writer with one append at a time in flight.
struct Writer {
    stop: Arc<AtomicBool>,
    /// The acknowledged values, and when.
    acknowledged: Arc<Mutex<Vec<(String, Instant)>>>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Writer {
        let options =
            ClientOptions { stall_timeout: Duration::from_secs(1), ..ClientOptions::default() };
        let client = Client::connect(cluster.addresses(), options).expect("the cluster answers");
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (ended, seen) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let value = format!("{number}");
                if client.append(&[&value]).is_ok() {
                    seen.lock().expect("nobody panics with it").push((value, Instant::now()));
                }
            }
        });
        Writer { stop, acknowledged, thread }
    }

    /// Waits until some more appends have been acknowledged.
    fn progress(&self) {
        let count = || self.acknowledged.lock().expect("the writer does not panic").len();
        let before = count();
        wait_for("appends are acknowledged", || (count() > before + 20).then_some(()));
    }

    /// The longest time without an acknowledgement since `from`.
    fn longest_gap(&self, from: Instant) -> Duration {
        let seen = self.acknowledged.lock().expect("the writer does not panic");
        let mut at: Vec<Instant> = seen.iter().map(|(_, at)| *at).filter(|at| *at > from).collect();
        at.insert(0, from);
        at.windows(2).map(|pair| pair[1] - pair[0]).max().expect("some were acknowledged")
    }

    /// Everything acknowledged is in the log, which is the same on all nodes once nobody appends.
    fn end(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic");
        cluster.wait_until_equal();
        let log = read_all(&cluster.nodes[0].address);
        let seen = self.acknowledged.lock().expect("the writer does not panic");
        let in_log = |value: &String| log.iter().any(|record| record == value.as_bytes());
        assert!(seen.iter().rev().take(500).all(|(value, _)| in_log(value)));
    }
}

#[test]
fn appends_return_after_all_flows_die() {
    let (cluster, proxies) = Proxies::start_cluster(3, &[]);
    cluster.wait_for_leader();
    let writer = Writer::start(&cluster);
    let mut gaps = Vec::new();
    for _ in 0..ROUNDS {
        writer.progress();
        let struck_at = Instant::now();
        // A quorum suffices for appends: the third node may still be dialling.
        assert!(proxies.silence(|_, _| true) >= 2, "a quorum had dialled each other");
        writer.progress();
        gaps.push(writer.longest_gap(struck_at));
    }
    println!("gaps after all flows between nodes had died: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
    writer.end(&cluster);
}

fn all_connected(cluster: &Cluster) -> bool {
    let sees_all = |node: &NodeProcess| {
        node.status().is_some_and(|status| status.members.iter().all(|member| member.connected))
    };
    cluster.nodes.iter().all(sees_all)
}

/// Followers say nothing to each other until they campaign: their link must be found dead before.
#[test]
fn survivors_elect_over_a_link_that_had_died() {
    let (mut cluster, proxies) = Proxies::start_cluster(3, &[]);
    cluster.wait_for_leader();
    let writer = Writer::start(&cluster);
    let mut gaps = Vec::new();
    for _ in 0..ROUNDS {
        writer.progress();
        let leader = cluster.wait_for_leader();
        let id = cluster.nodes[leader].id;
        let struck_at = Instant::now();
        assert!(proxies.silence(|from, to| from != id && to != id) >= 2, "their two flows");
        cluster.kill_node(leader);
        writer.progress();
        gaps.push(writer.longest_gap(struck_at));
        proxies.start_node(&mut cluster, leader, &[]);
        wait_for("the node is back", || cluster.nodes[leader].status());
        // Both flows of each pair stand again.
        wait_for("all are connected", || all_connected(&cluster).then_some(()));
    }
    println!("gaps after the leader was killed, and the others' link had died: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
    writer.end(&cluster);
}
