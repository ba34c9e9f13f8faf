//! Planted bugs against the simulator: each must be caught within a budget of seeds.
//!
//! Called by `loggos sim --mutants`, in builds with the feature that plants. What seeds do not
//! catch, the explorer hunts, where the bug is one of the core: connections keep their order, so
//! no cluster loses one message and delivers the next. A mutant that survives both means that a fault
//! or a check is missing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::explore::{explore, planted::bounds};
use super::plan::Limits;
use super::run::run;
use crate::base::mutants::{Mutant, hits, plant};

/// Who caught a mutant, and how.
#[derive(Clone, Debug)]
pub enum Catch {
    /// The run of this seed, with what it found.
    Seed(u64, String),
    /// The explorer, after so many worlds.
    Explorer(usize, String),
}

/// What came of one mutant.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The mutant.
    pub mutant: Mutant,
    /// Seeds that were run, the one that caught it included.
    pub seeds: u64,
    /// How often its wrong decision was taken, over all of them.
    pub decisions: u64,
    /// Who caught it.
    pub caught: Option<Catch>,
}

/// What no cluster of today can show, and which test shows it instead.
pub fn left_to_test(mutant: Mutant) -> Option<&'static str> {
    match mutant {
        // Segments are not used again yet, so no block holds an entry of an older use.
        Mutant::StaleGenerationAccepted => Some("log::tests::mutants"),
        // A slot in two segments of which the first alone has lost its footer: one world in thousands.
        Mutant::OlderValueAfterFooterLoss => Some("log::tests::mutants"),
        // Writes in flight that fill one segment and begin another, of which a power loss loses the first.
        Mutant::SparesTakenForBlank => Some("log::tests::mutants"),
        // Whole footers of another life of the log come to no disk of the simulator; and a log that has
        // lost its end, on a disk that may be damaged, is taken out whether the node sees it or not.
        Mutant::FooterWithoutChain | Mutant::CheckpointAheadIgnored => Some("log::tests::mutants"),
        // Light traffic for longer than a bound while a quorum needs one slot: no world trickles so.
        Mutant::ResendOnSilenceOnly => Some("paxos::leader::tests"),
        _ => None,
    }
}

/// Plants one mutant and runs seeds from `first` on until one is violated.
pub fn hunt(mutant: Mutant, first: u64, budget: u64, limits: &Limits) -> Hunt {
    let mut hunt = Hunt { mutant, seeds: 0, decisions: 0, caught: None };
    let limits = Limits { mutant: Some(mutant), ..limits.clone() };
    for seed in first..first.saturating_add(budget) {
        let report = run(seed, &limits);
        hunt.seeds += 1;
        hunt.decisions += hits();
        if let Some(finding) = report.violation {
            hunt.caught = Some(Catch::Seed(seed, finding.violation.to_string()));
            break;
        }
    }
    if let Some(bounds) = bounds(mutant).filter(|_| hunt.caught.is_none()) {
        plant(Some(mutant));
        let report = explore(&bounds, &mut |_| {});
        hunt.decisions += hits();
        let caught = |found: super::explore::Violation| Catch::Explorer(report.worlds, found.what);
        hunt.caught = report.violation.map(caught);
    }
    plant(None);
    hunt
}

/// Hunts several mutants on `threads` threads; `done` is called for each as it ends.
pub fn hunt_all(
    mutants: &[Mutant],
    first: u64,
    budget: u64,
    threads: usize,
    limits: &Limits,
    done: &(dyn Fn(&Hunt) + Sync),
) -> Vec<Hunt> {
    let next = AtomicUsize::new(0);
    let hunts = Mutex::new(Vec::new());
    let worker = || {
        while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            let hunt = hunt(*mutant, first, budget, limits);
            done(&hunt);
            hunts.lock().expect("no hunter panics while it adds").push(hunt);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(worker);
        }
    });
    let mut hunts = hunts.into_inner().expect("no hunter panics while it adds");
    hunts.sort_by_key(|hunt| hunt.mutant);
    hunts
}
