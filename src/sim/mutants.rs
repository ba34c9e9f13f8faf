//! Planted bugs against the simulator: each must be caught within a budget of seeds.
//!
//! Called by `loggos sim --mutants`, in builds with the feature that plants. A mutant that
//! survives means that a fault or a check is missing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Limits;
use super::run::run;
use crate::base::mutants::{Mutant, hits, plant};

/// What came of one mutant.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The mutant.
    pub mutant: Mutant,
    /// Seeds that were run, the one that caught it included.
    pub seeds: u64,
    /// How often its wrong decision was taken, over all of them.
    pub decisions: u64,
    /// The seed that caught it, and what it found.
    pub caught: Option<(u64, String)>,
}

/// Plants one mutant and runs seeds from `first` on until one is violated.
pub fn hunt(mutant: Mutant, first: u64, budget: u64, limits: &Limits) -> Hunt {
    let mut hunt = Hunt { mutant, seeds: 0, decisions: 0, caught: None };
    for seed in first..first.saturating_add(budget) {
        plant(Some(mutant));
        let report = run(seed, limits);
        hunt.seeds += 1;
        hunt.decisions += hits();
        if let Some(finding) = report.violation {
            hunt.caught = Some((seed, finding.violation.to_string()));
            break;
        }
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
