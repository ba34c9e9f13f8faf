//! Conditional appends and fences on real nodes that are killed: each position has one winner, no
//! update is lost, and whoever was shut out stays shut out.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Cluster, PATIENCE, read_all, wait_for};
use loggos::base::{FenceToken, Position};
use loggos::client::blocking::Client;
use loggos::client::{AppendError, AppendOptions, ClientOptions, ReadLevel, ReadOptions};

/// Clients that race.
const CLIENTS: usize = 4;
/// How often the leader is killed meanwhile.
const KILLS: usize = 5;
/// Wins between two kills.
const WINS: usize = 40;

fn patient() -> ClientOptions {
    ClientOptions { operation_timeout: PATIENCE, ..ClientOptions::default() }
}

/// What one client has done.
#[derive(Default)]
struct Raced {
    /// Position and record of each append that was acknowledged.
    won: Vec<(u64, Vec<u8>)>,
    moved: usize,
    unknown: HashSet<Vec<u8>>,
}

/// The counter that the log's last record before `tail` holds.
fn counter_before(client: &Client, tail: Position) -> u64 {
    let Some(last) = tail.0.checked_sub(1) else { return 0 };
    let level = ReadLevel::ReadIndex;
    let options = ReadOptions { level, records_max: 1, ..ReadOptions::default() };
    let batch = client.read(Position(last), options).expect("the cluster reads its log");
    let record = batch.iter().next().expect("there is a record before the tail");
    counter_of(&record.bytes)
}

/// `<counter> <who>`
fn counter_of(record: &[u8]) -> u64 {
    let text = std::str::from_utf8(record).expect("records are text");
    let (counter, _) = text.split_once(' ').expect("records have two words");
    counter.parse().expect("the first is a number")
}

/// Reads the counter and appends it plus one, if nobody else has meanwhile, over and over.
fn race(client: &Client, name: usize, stop: &AtomicBool, wins: &AtomicUsize) -> Raced {
    let mut raced = Raced::default();
    let mut tail = client.tail(ReadLevel::ReadIndex).expect("the cluster answers");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let counter = counter_before(client, tail);
        let record = format!("{} c{name}-{number}", counter + 1).into_bytes();
        let options = AppendOptions { if_tail: Some(tail), ..AppendOptions::default() };
        match client.append_if(options, &[&record]) {
            Ok(appended) => {
                assert_eq!(appended.first, tail, "it stands where it was to stand");
                raced.won.push((tail.0, record));
                wins.fetch_add(1, Ordering::Relaxed);
                tail = Position(tail.0 + 1);
            }
            Err(AppendError::TailMoved { tail: now }) => {
                assert_ne!(now, tail, "a refusal tells of another tail");
                raced.moved += 1;
                tail = now;
            }
            Err(AppendError::OutcomeUnknown { .. }) => {
                raced.unknown.insert(record);
                tail = client.tail(ReadLevel::ReadIndex).expect("the cluster answers");
            }
            Err(error) => panic!("c{name}: {error}"),
        }
    }
    raced
}

#[test]
fn of_racing_conditional_appends_one_wins_each_position_over_kills() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let stop = Arc::new(AtomicBool::new(false));
    let wins = Arc::new(AtomicUsize::new(0));
    let racers: Vec<_> = (0..CLIENTS)
        .map(|name| {
            let client = Client::connect(cluster.addresses(), patient()).expect("it answers");
            let (stop, wins) = (stop.clone(), wins.clone());
            std::thread::spawn(move || race(&client, name, &stop, &wins))
        })
        .collect();
    let wait_for_wins = || {
        let goal = wins.load(Ordering::Relaxed) + WINS;
        wait_for("appends win", || (wins.load(Ordering::Relaxed) >= goal).then_some(()));
    };
    for _ in 0..KILLS {
        wait_for_wins();
        let leader = cluster.wait_for_leader();
        cluster.kill_node(leader);
        wait_for_wins();
        cluster.start_node(leader);
    }
    stop.store(true, Ordering::Relaxed);
    let raced: Vec<Raced> =
        racers.into_iter().map(|racer| racer.join().expect("a racer does not fail")).collect();

    let tail = cluster.wait_until_equal();
    let log = read_all(&cluster.nodes[0].address);
    assert_eq!(log.len() as u64, tail);
    for (position, record) in log.iter().enumerate() {
        let text = String::from_utf8_lossy(record);
        assert_eq!(counter_of(record), position as u64 + 1, "{text} at {position}: a lost update");
    }
    let unknown: HashSet<&Vec<u8>> = raced.iter().flat_map(|r| &r.unknown).collect();
    let mut owned = vec![false; log.len()];
    for (position, record) in raced.iter().flat_map(|raced| &raced.won) {
        let at = *position as usize;
        assert!(!owned[at], "position {position} was won twice");
        owned[at] = true;
        assert_eq!(&log[at], record, "what won position {position}");
    }
    for (position, _) in owned.iter().enumerate().filter(|(_, owned)| !**owned) {
        let record = &log[position];
        let text = String::from_utf8_lossy(record);
        assert!(unknown.contains(record), "{text} at {position} was told that it had not won");
    }
    let moved: usize = raced.iter().map(|raced| raced.moved).sum();
    println!("{tail} positions won, {moved} refusals, {} unknown", unknown.len());
    assert!(moved > 0, "there was a race");
    assert!(unknown.is_empty(), "with retries for {PATIENCE:?} every outcome becomes known");
}

#[test]
fn a_fenced_off_writer_stays_so_over_kills_and_restarts() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let [old, new] = [1, 2].map(|token| {
        let client = Client::connect(cluster.addresses(), patient()).expect("it answers");
        (client, AppendOptions { fence: Some(FenceToken(token)), ..AppendOptions::default() })
    });
    old.0.append_if(old.1, &["by the first"]).expect("it holds the fence");
    new.0.fence(FenceToken(2)).expect("a higher token takes over");
    let check = |expected: u64| {
        let fenced = Err(AppendError::Fenced { token: FenceToken(2) });
        assert_eq!(old.0.append_if(old.1, &["too late"]), fenced);
        assert_eq!(old.0.append(&["without a token"]), fenced);
        let appended = new.0.append_if(new.1, &["by the second"]).expect("it holds the fence");
        assert_eq!(appended.first, Position(expected));
    };
    check(1);
    let leader = cluster.wait_for_leader();
    cluster.kill_node(leader);
    check(2);
    cluster.start_node(leader);
    (0..3).for_each(|index| cluster.kill_node(index));
    (0..3).for_each(|index| cluster.start_node(index));
    check(3);
    cluster.wait_until_equal();
    for node in &cluster.nodes {
        let log = read_all(&node.address);
        let expected =
            ["by the first", "by the second", "by the second", "by the second"].map(Vec::from);
        assert_eq!(log, expected, "node {}", node.id);
    }
}
