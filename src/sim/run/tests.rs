//! Seeds that every build runs, and the seeds of bugs that were found.

use super::*;

use std::time::Duration;

use crate::base::limits::KIB;
use crate::sim::counters::Hit;
use crate::sim::plan::FaultSet;

fn expect_clean(seed: u64) -> Report {
    clean(run(seed, &Limits::default()))
}

fn clean(report: Report) -> Report {
    let seed = report.seed;
    if let Some(finding) = &report.violation {
        let violation = &finding.violation;
        panic!("seed {seed} ({} nodes): {violation}", report.plan.nodes);
    }
    report
}

#[test]
fn a_few_dozen_seeds_hold() {
    for seed in 0..24 {
        expect_clean(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 11] {
        let (first, second) = (expect_clean(seed), expect_clean(seed));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.hits, second.hits, "seed {seed}");
        assert!(first.happenings > 1000, "something happens in seed {seed}");
    }
}

/// Worlds of the first few seeds, each changed to lead straight to what a bug needed.
fn scenario(seeds: std::ops::Range<u64>, change: impl Fn(&mut Plan)) -> Counters {
    let mut hits = Counters::default();
    for seed in seeds {
        let mut plan = Plan::draw(seed, &Limits::default());
        change(&mut plan);
        hits.merge(&clean(run_plan(plan)).hits);
    }
    hits
}

/// A read with a byte limit went on from one slot of the log's files to the next, whose first
/// record did not fit any more, and the node took that for a broken invariant.
#[test]
fn a_read_that_ends_between_two_slots_on_disk_is_answered() {
    let hits = scenario(0..3, |plan| {
        (plan.nodes, plan.clients) = (1, 2);
        plan.faults = FaultSet::NONE;
        plan.cache_bytes_max = 4 * KIB;
        plan.workload.append_percent = 50;
        plan.workload.record_bytes_max = 300;
        plan.workload.inflight = 2;
    });
    assert!(hits.get(Hit::ReadFromDisk) > 20, "{hits:?}");
}

/// A peer that greeted while the leader held its clients back was held back with them: adopted
/// paused, and never heard again.
#[test]
fn a_peer_that_greets_under_back_pressure_is_heard() {
    let hits = scenario(0..4, |plan| {
        (plan.nodes, plan.clients) = (3, 5);
        plan.faults = FaultSet::NONE.with(Hit::Kill).with(Hit::PowerCut);
        plan.strike_every = Duration::from_millis(100);
        plan.core.window_slots_max = 1;
        plan.workload.inflight = 24;
        plan.workload.think_max = Duration::ZERO;
        plan.operations_max = 1500;
    });
    assert!(hits.get(Hit::BackPressure) > 20, "{hits:?}");
}

/// The checkpoint that a node takes when it is asked to stop was never simulated: nobody asked.
#[test]
fn nodes_that_are_stopped_cleanly_go_on_from_there() {
    let hits = scenario(0..6, |plan| {
        plan.faults = FaultSet::NONE.with(Hit::StoppedCleanly);
        plan.strike_every = Duration::from_millis(50);
        plan.log.checkpoint_bytes_min = Some(32 * KIB as u64);
    });
    let hits_wanted =
        [Hit::StopCheckpointed, Hit::StopCutShort, Hit::StopChecked, Hit::StopTransferred];
    for hit in hits_wanted {
        assert!(hits.get(hit) > 0, "{}: {hits:?}", hit.name());
    }
}
