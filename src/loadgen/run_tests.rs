//! The load generator end to end, against null servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bench::{Live, Observer, RunOptions, RunResult, run};
use super::null_server::NullServer;
use super::workload::{Pacing, Workload};
use crate::base::NodeId;
use crate::wire::ErrorCode;

#[derive(Default)]
struct Watcher {
    lines: Vec<Live>,
    begins: usize,
    ends: usize,
}

impl Observer for Watcher {
    fn live(&mut self, live: &Live) {
        self.lines.push(*live);
    }
    fn measure_begins(&mut self) {
        self.begins += 1;
    }
    fn measure_ends(&mut self) {
        self.ends += 1;
    }
}

fn workload(duration_ms: u64) -> Workload {
    Workload {
        connections: 2,
        inflight: 8,
        duration: Duration::from_millis(duration_ms),
        warmup: Duration::from_millis(100),
        ..Workload::default()
    }
}

fn run_on(server: &NullServer, workload: Workload) -> (RunResult, Watcher) {
    let options = RunOptions {
        workload: workload.validate().unwrap(),
        addresses: vec![server.address.clone()],
        cpus: 2,
        history: None,
    };
    let mut watcher = Watcher::default();
    let result = run(&options, &mut watcher, &Arc::new(AtomicBool::new(false))).unwrap();
    (result, watcher)
}

#[test]
fn a_closed_loop_acknowledges_everything_it_sends() {
    let server = NullServer::start(1);
    let (result, watcher) = run_on(&server, workload(1200));
    let appends = &result.appends;
    assert!(appends.ok > 100, "{appends:?}");
    assert_eq!((appends.failed, appends.unknown, result.pace), (0, 0, None));
    assert_eq!(result.first_error, None);
    assert!(result.reads.is_none());
    // What was started in the measured phase and what was answered in it differ by what is in
    // flight at its two ends.
    let answered = appends.per_s * 1.2;
    assert!((answered - appends.ok as f64).abs() <= 2.0 * 16.0 + 1.0, "{appends:?}");
    assert!(appends.latency_us.p50 > 0.0 && appends.latency_us.p50 <= appends.latency_us.max);
    assert_eq!((watcher.begins, watcher.ends), (1, 1));
    assert_eq!(watcher.lines.len(), 3, "0.1 s of warm-up, 1 s, 0.2 s: {:?}", watcher.lines);
    assert!(watcher.lines[0].elapsed_s.abs() < 1e-6 && watcher.lines[1].appends_per_s > 0.0);
    let counted: u64 = result.intervals.iter().map(|i| i.latencies.count()).sum();
    assert_eq!(counted, appends.ok, "the interval log holds every measured append");
    // The server has seen no more than was counted and the warm-up.
    assert!(server.behaviour.tail.load(Ordering::SeqCst) >= appends.ok);
}

#[test]
fn an_open_loop_keeps_its_rate_and_charges_a_stall_to_what_was_due() {
    let server = NullServer::start(1);
    let rate_per_s = 2000.0;
    let open = Workload { pacing: Pacing::Open { rate_per_s }, inflight: 4, ..workload(1000) };
    let (result, _) = run_on(&server, open.clone());
    let lost = result.appends.failed + result.appends.unknown;
    assert_eq!(result.appends.ok + lost, 2000, "exactly what was due: {:?}", result.appends);
    assert_eq!(lost, 0, "{:?}", result.appends);
    let pace = result.pace.unwrap();
    assert!(!pace.behind && pace.unsent == 0 && pace.offered_per_s == rate_per_s, "{pace:?}");
    assert!(pace.lag_us_p50 <= pace.lag_us_max && pace.lag_us_max > 0.0, "{pace:?}");

    // Each batch takes 10 ms, with 4 in flight on each of 2 connections: at most 800 a second, so
    // 700 of the 2000 that are due after those of the warm-up.
    *server.behaviour.delay.lock().unwrap() = Duration::from_millis(10);
    let (result, _) = run_on(&server, open);
    let appends = &result.appends;
    assert_eq!(appends.ok + appends.failed + appends.unknown, 2000, "{appends:?}");
    let pace = result.pace.unwrap();
    assert!(appends.ok > 0 && pace.unsent >= 1000 && pace.behind, "{pace:?} {appends:?}");
    assert!(pace.lag_us_p50 > 100_000.0, "{pace:?}");
    // A closed loop would see 10 ms; these were due long before.
    assert!(appends.latency_us.p50 > 150_000.0, "{appends:?}");
}

#[test]
fn no_effect_is_tried_again_and_other_errors_count() {
    let server = NullServer::start(1);
    server.behaviour.fail_every.store(10, Ordering::SeqCst);
    let (result, _) = run_on(&server, workload(300));
    assert!(result.appends.ok > 0);
    assert_eq!((result.appends.failed, result.appends.unknown), (0, 0), "overloaded: again");

    *server.behaviour.error.lock().unwrap() = Some(ErrorCode::DiskFull);
    let (result, _) = run_on(&server, workload(300));
    assert!(result.appends.ok > 0 && result.appends.failed > 0, "{:?}", result.appends);
    assert_eq!(result.appends.unknown, 0);
    assert_eq!(result.first_error.as_deref(), Some("DiskFull: planted"));

    *server.behaviour.error.lock().unwrap() = Some(ErrorCode::OutcomeUnknown);
    let (result, _) = run_on(&server, workload(300));
    assert!(result.appends.unknown > 0 && result.appends.failed == 0, "{:?}", result.appends);
}

#[test]
fn in_sessions_numbers_are_in_turn_and_a_gap_ends_the_session() {
    let server = NullServer::start(1);
    let numbered = Workload { sessions: true, ..workload(300) };
    let (result, _) = run_on(&server, numbered.clone());
    assert!(result.appends.ok > 100);
    assert_eq!((result.appends.failed, result.appends.unknown), (0, 0), "{:?}", result.first_error);
    assert_eq!(server.behaviour.session_last.load(Ordering::SeqCst), 2, "one a connection");

    // Of 8 in flight those behind the one that fails are out of order, and are sent again.
    server.behaviour.fail_every.store(50, Ordering::SeqCst);
    let (result, _) = run_on(&server, numbered.clone());
    assert!(result.appends.ok > 100);
    assert_eq!((result.appends.failed, result.appends.unknown), (0, 0), "{:?}", result.first_error);
    let opened = server.behaviour.session_last.load(Ordering::SeqCst);
    assert!(opened > 4, "{opened} sessions");
    let open = server.behaviour.sessions.lock().unwrap().len();
    assert!(open <= 4, "those that were left are closed: {open} of {opened}");

    // Whatever was numbered took its turn once.
    let next: u64 = server.behaviour.sessions.lock().unwrap().values().map(|s| s.0 - 1).sum();
    assert!(next <= server.behaviour.tail.load(Ordering::SeqCst));
}

#[test]
fn a_server_without_room_for_sessions_is_named() {
    let server = NullServer::start(1);
    server.behaviour.fail_every.store(1, Ordering::SeqCst);
    *server.behaviour.error.lock().unwrap() = Some(ErrorCode::LimitReached);
    let (result, _) = run_on(&server, Workload { sessions: true, ..workload(200) });
    assert_eq!(result.appends.ok, 0);
    assert_eq!(result.first_error.as_deref(), Some("no session: LimitReached: planted"));
}

#[test]
fn a_lost_connection_leaves_its_appends_unknown_and_is_made_anew() {
    let server = NullServer::start(1);
    // Of one connection: closed with some of its 8 appends unanswered, well in the measured phase
    // only if the warm-up is short; so there is none.
    let lossy = Workload { connections: 1, warmup: Duration::ZERO, ..workload(500) };
    server.behaviour.close_after.store(500, Ordering::SeqCst);
    let (result, _) = run_on(&server, lossy);
    let appends = &result.appends;
    assert!((1..=8).contains(&appends.unknown), "{appends:?}");
    assert!(appends.ok > 500, "it went on: {appends:?}");
    assert_eq!(appends.failed, 0);
    assert!(result.first_error.is_some());
}

#[test]
fn the_leader_is_followed() {
    let (follower, leader) = (NullServer::start(1), NullServer::start(2));
    follower.behaviour.leader.store(2, Ordering::SeqCst);
    let members = vec![(NodeId(1), follower.address.clone()), (NodeId(2), leader.address.clone())];
    follower.set_members(members.clone());
    leader.set_members(members);
    let (result, _) = run_on(&follower, workload(200));
    assert!(result.appends.ok > 0);
    assert_eq!(follower.behaviour.requests.load(Ordering::SeqCst), 0);

    // The old leader now refuses and names nobody; the welcome of node 1 says that it leads.
    leader.behaviour.fail_every.store(1, Ordering::SeqCst);
    *leader.behaviour.error.lock().unwrap() = Some(ErrorCode::NotLeader);
    leader.behaviour.leader.store(1, Ordering::SeqCst);
    follower.behaviour.leader.store(0, Ordering::SeqCst);
    let (result, _) = run_on(&leader, workload(200));
    assert!(result.appends.ok > 0 && result.appends.failed == 0, "{:?}", result.appends);
    assert!(follower.behaviour.requests.load(Ordering::SeqCst) > 0);
}

#[test]
fn reads_are_mixed_in_the_proportion_asked_for() {
    let server = NullServer::start(1);
    let mixed = Workload { append_percent: 25, ..workload(300) };
    let (result, _) = run_on(&server, mixed);
    let (appends, reads) = (result.appends.ok as f64, result.reads.unwrap().ok as f64);
    let share = appends / (appends + reads);
    assert!((share - 0.25).abs() < 0.02, "{share}");
}

#[test]
fn the_history_has_every_append_with_its_own_value() {
    let server = NullServer::start(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let options = RunOptions {
        workload: Workload { history: true, records_per_append: 2, ..workload(200) }
            .validate()
            .unwrap(),
        addresses: vec![server.address.clone()],
        cpus: 2,
        history: Some(path.clone()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let result = run(&options, &mut Watcher::default(), &stop).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, 2 * result.history_operations);
    assert!(result.history_operations >= result.appends.ok);
    let mut values: Vec<_> = lines.iter().map(|l| l["value"].as_str().unwrap()).collect();
    values.sort_unstable();
    assert!(values.windows(2).all(|pair| pair[0] != pair[1]));
    // Of one process, no operation begins before the last one has ended.
    let mut last = std::collections::HashMap::new();
    for pair in lines.chunks(2) {
        assert_eq!(pair[0]["offset"].as_u64().unwrap() + 1, pair[1]["offset"].as_u64().unwrap());
        let (invoke, returned) =
            (pair[0]["invoke_ns"].as_u64().unwrap(), pair[0]["return_ns"].as_u64().unwrap());
        let before = last.insert(pair[0]["process"].as_u64().unwrap(), returned).unwrap_or(0);
        assert!(before <= invoke && invoke <= returned);
    }
}

#[test]
fn nobody_there_is_an_error_after_the_start_timeout_or_a_stop() {
    let options = RunOptions {
        workload: workload(100),
        // A port of our own that nobody listens on.
        addresses: vec![NullServer::start(1).address.clone()],
        cpus: 2,
        history: None,
    };
    let stop = Arc::new(AtomicBool::new(true));
    let error = run(&options, &mut Watcher::default(), &stop).unwrap_err();
    assert!(error.to_string().contains("no leader found"), "{error}");
}

/// The generator's own ceiling, run small so that it cannot rot; as a measurement:
/// `LOGGOS_CEILING_S=5 cargo test --release --lib ceiling -- --nocapture`.
#[test]
fn ceiling() {
    let seconds = std::env::var("LOGGOS_CEILING_S").ok().and_then(|text| text.parse().ok());
    let duration = Duration::from_secs_f64(seconds.unwrap_or(0.2));
    for inflight in [64, 1024] {
        let server = NullServer::start(1);
        let load = Workload {
            connections: 4,
            inflight,
            duration,
            warmup: duration / 5,
            ..Workload::default()
        };
        let (result, _) = run_on(&server, load);
        let total = server.behaviour.requests.load(Ordering::SeqCst) as f64;
        let cpu_s = result.workers_cpu.as_secs_f64();
        println!(
            "4x{inflight} of 256 B: {:.0} appends/s; worker cpu {:.2} s for {total:.0} appends: \
             {:.0} ns each, {:.0} appends/s a core; p50 {:.0} us",
            result.appends.per_s,
            cpu_s,
            cpu_s * 1e9 / total,
            total / cpu_s,
            result.appends.latency_us.p50,
        );
        assert!(result.appends.ok > 0);
    }
}
