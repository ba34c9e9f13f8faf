//! A leader that is cut off from the other nodes, and not from its clients: as soon as another one
//! has acknowledged appends, the old one serves nothing stale at the linearizable levels.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::history::History;
use common::netns::Network;
use common::{PATIENCE, judge_cluster, linearizable_readers, wait_for};
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadLevel};

/// How often a leader is cut off.
const ROUNDS: usize = 3;
/// Appends that the others acknowledge while a node is cut off.
const APPENDS: usize = 200;

#[test]
fn a_leader_cut_off_from_the_others_serves_nothing_stale() {
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(why) => {
            println!("skipped: this host permits no network namespaces here ({why})");
            return;
        }
    };
    let cluster = network.start_cluster();
    cluster.wait_for_leader();
    let history = Arc::new(History::default());
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let options = ClientOptions {
        operation_timeout: PATIENCE,
        stall_timeout: Duration::from_secs(1),
        ..ClientOptions::default()
    };
    let mut threads = Vec::new();
    for name in 0..3 {
        let client = Client::connect(cluster.addresses(), options.clone()).expect("it answers");
        let (history, stop) = (history.clone(), stop.clone());
        let acknowledged = acknowledged.clone();
        threads.push(std::thread::spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let record = format!("w{name}-{number}").into_bytes();
                if history.append(record, |record| client.append(&[record])) {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    // Of every node, whatever its part: what it answers must be fresh, and it may well not answer.
    let own_word = ClientOptions {
        operation_timeout: Duration::from_secs(2),
        stay: true,
        ..ClientOptions::default()
    };
    for node in &cluster.nodes {
        let client = Client::connect([node.address.clone()], own_word.clone());
        threads.extend(linearizable_readers(&client.expect("it answers"), &history, &stop));
    }
    let wait_for_appends = |count: usize| {
        let goal = acknowledged.load(Ordering::Relaxed) + count;
        wait_for("appends go on", || (acknowledged.load(Ordering::Relaxed) >= goal).then_some(()));
    };
    for round in 0..ROUNDS {
        wait_for_appends(APPENDS);
        let leader = cluster.wait_for_leader();
        network.isolate(leader);
        wait_for_appends(APPENDS);
        // It is there for its clients, and has no word on what is new.
        let node = &cluster.nodes[leader];
        let local = Client::connect([node.address.clone()], own_word.clone());
        let tail = local.expect("it is reached").tail(ReadLevel::Local);
        let behind = acknowledged.load(Ordering::Relaxed) as u64 - tail.expect("it answers").0;
        assert!(behind > 0, "it is cut off");
        println!("round {round}: node {} was cut off, {behind} records behind", node.id);
        network.heal(leader);
    }
    wait_for_appends(APPENDS);
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client does not panic"));

    let [lease, read_index] = judge_cluster(&cluster, &history);
    assert!(lease > 0 && read_index > 0);
}
