//! Many seeds: on all cores, each world on one thread, until all have run or one has failed.
//!
//! Called by `loggos sim`. Guarantee: what a seed does depends on nothing but the seed and the
//! limits, however many threads run; of several failing seeds the lowest one found is reported.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::counters::Counters;
use super::plan::Limits;
use super::run::{Report, run};

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that have run.
    pub runs: u64,
    /// What was hit.
    pub hits: Counters,
    /// Virtual time in seconds.
    pub virtual_s: f64,
    /// How much happened.
    pub happenings: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Slots chosen.
    pub slots: u64,
    /// Worlds by their number of nodes.
    pub worlds: BTreeMap<usize, u64>,
    /// The longest that a healed quorum took to make progress, in virtual seconds.
    pub slowest_progress_s: f64,
    /// The run that violates something.
    pub failure: Option<Report>,
}

impl Summary {
    /// Adds one run.
    pub fn add(&mut self, report: Report) {
        self.runs += 1;
        self.hits.merge(&report.hits);
        self.virtual_s += report.virtual_time.0 as f64 / 1e9;
        self.happenings += report.happenings;
        self.operations += report.operations as u64;
        self.slots += report.slots as u64;
        *self.worlds.entry(report.plan.nodes).or_default() += 1;
        let progress = report.progress_after.map_or(0.0, |after| after.as_secs_f64());
        self.slowest_progress_s = self.slowest_progress_s.max(progress);
        let earlier = self.failure.as_ref().is_some_and(|failure| failure.seed < report.seed);
        if report.violation.is_some() && !earlier {
            self.failure = Some(report);
        }
    }
}

/// Runs the seeds from `first` on, `runs` of them, on `threads` threads; stops at the first
/// failure. `tick` is called after each run.
pub fn campaign(
    first: u64,
    runs: u64,
    threads: usize,
    limits: &Limits,
    tick: &(dyn Fn(&Summary) + Sync),
) -> Summary {
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= runs {
                return;
            }
            let report = run(first.wrapping_add(index), limits);
            failed.fetch_or(report.violation.is_some(), Ordering::Relaxed);
            let mut summary = summary.lock().expect("no worker panics while it adds");
            summary.add(report);
            tick(&summary);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(worker);
        }
    });
    summary.into_inner().expect("no worker panics while it adds")
}
