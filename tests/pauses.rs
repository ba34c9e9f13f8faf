//! A leader that is stopped (SIGSTOP) for longer than its lease, under a load of reads: nobody
//! reads what is stale, from it or from the others, and every append is in the log once.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::history::History;
use common::{Cluster, PATIENCE, judge_cluster, linearizable_readers, wait_for};
use loggos::base::Position;
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadLevel, ReadOptions};

/// How often a leader is stopped.
const ROUNDS: usize = 5;
/// Reads of each level that wait in the stopped leader's sockets.
const READS_QUEUED: usize = 8;

/// Waits for answers through a pause: a request that lies in a stopped node's socket is answered
/// when that goes on.
fn patient(stay: bool) -> ClientOptions {
    ClientOptions {
        operation_timeout: PATIENCE,
        stall_timeout: if stay { PATIENCE } else { Duration::from_secs(2) },
        stay,
        ..ClientOptions::default()
    }
}

/// Asks the stopped node, and is answered when it goes on.
fn queue_reads(
    client: &Client,
    history: &Arc<History>,
    from: u64,
    asked: &Arc<AtomicUsize>,
) -> Vec<JoinHandle<()>> {
    let levels = [ReadLevel::Lease, ReadLevel::ReadIndex];
    let reads = levels.into_iter().flat_map(|level| (0..READS_QUEUED).map(move |n| (level, n)));
    reads
        .map(|(level, number)| {
            let (client, history, asked) = (client.clone(), history.clone(), asked.clone());
            std::thread::spawn(move || {
                asked.fetch_add(1, Ordering::Relaxed);
                if number % 2 == 0 {
                    history.tail(level, || client.tail(level));
                } else {
                    let options = ReadOptions { level, ..ReadOptions::default() };
                    let records_max = u64::from(options.records_max);
                    let read = || client.read(Position(from), options);
                    history.read(level, from, records_max, read);
                }
            })
        })
        .collect()
}

#[test]
fn a_leader_paused_beyond_its_lease_serves_nothing_stale() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let history = Arc::new(History::default());
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut threads: Vec<JoinHandle<()>> = (0..3)
        .map(|name| {
            let (addresses, history) = (cluster.addresses(), history.clone());
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                let client = Client::connect(addresses, patient(false)).expect("it answers");
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let record = format!("w{name}-{number}").into_bytes();
                    if history.append(record, |record| client.append(&[record])) {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let others = Client::connect(cluster.addresses(), patient(false)).expect("it answers");
    threads.extend(linearizable_readers(&others, &history, &stop));

    let wait_for_appends = |count: usize| {
        let goal = acknowledged.load(Ordering::Relaxed) + count;
        wait_for("appends go on", || (acknowledged.load(Ordering::Relaxed) >= goal).then_some(()));
    };
    for round in 0..ROUNDS {
        wait_for_appends(50);
        let leader = cluster.wait_for_leader();
        let node = &cluster.nodes[leader];
        // Connected before the pause: what it asks lies in the node's socket.
        let held = Client::connect([node.address.clone()], patient(true)).expect("it answers");
        held.tail(ReadLevel::Lease).expect("the leader answers");
        node.stop();
        // Another leads and has acknowledged appends; what is asked from now on must know them.
        wait_for_appends(50);
        let from = acknowledged.load(Ordering::Relaxed).saturating_sub(20) as u64;
        let asked = Arc::new(AtomicUsize::new(0));
        let queued = queue_reads(&held, &history, from, &asked);
        let all = queued.len();
        wait_for("reads are asked", || (asked.load(Ordering::Relaxed) == all).then_some(()));
        wait_for_appends(20);
        cluster.nodes[leader].go_on();
        queued.into_iter().for_each(|thread| thread.join().expect("a reader does not panic"));
        println!("round {round}: node {} was paused", cluster.nodes[leader].id);
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client does not panic"));

    let [lease, read_index] = judge_cluster(&cluster, &history);
    assert!(lease > ROUNDS * READS_QUEUED && read_index > ROUNDS * READS_QUEUED);
}

/// What a leader that is stopped costs clients with the default options, in the worst of some
/// rounds: an election, and the time in which they find out. A client that waits out its
/// `stall_timeout` on the stopped node would need more than that.
#[test]
fn default_clients_leave_a_stopped_leader() {
    let cluster = Cluster::start(3);
    let stall_timeout = ClientOptions::default().stall_timeout;
    let mut worst = Duration::ZERO;
    for round in 0..ROUNDS {
        let leader = cluster.wait_for_leader();
        let options = ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(cluster.addresses(), options).expect("it answers");
        client.append(&[format!("before {round}")]).expect("the leader takes it");
        cluster.nodes[leader].stop();
        let stopped = Instant::now();
        client.append(&[format!("after {round}")]).expect("another leader takes it");
        let took = stopped.elapsed();
        println!("round {round}: an append took {took:?} from the stop of the leader on");
        worst = worst.max(took);
        cluster.nodes[leader].go_on();
        cluster.wait_until_equal();
    }
    assert!(worst < stall_timeout, "{worst:?}");
}
