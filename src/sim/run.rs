//! One seed from its plan to its report.
//!
//! Called by the command and by tests. A panic of the production code (a broken invariant) is a
//! violation like any other, where the build lets panics be caught.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::checks::Violation;
use super::counters::Counters;
use super::history::History;
use super::plan::{Limits, Plan};
use super::time::Time;
use super::trace::HostId;
use super::world::World;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What it drew.
    pub plan: Plan,
    /// The hash over everything that happened.
    pub trace_hash: u64,
    /// How much happened.
    pub happenings: u64,
    /// Virtual time.
    pub virtual_time: Time,
    /// What was hit.
    pub hits: Counters,
    /// Operations of clients.
    pub operations: usize,
    /// Slots chosen.
    pub slots: usize,
    /// How long after the healing progress was complete.
    pub progress_after: Option<Duration>,
    /// What does not hold, if anything.
    pub violation: Option<Finding>,
}

/// A violation with what is needed to look into it.
#[derive(Debug)]
pub struct Finding {
    /// What does not hold.
    pub violation: Violation,
    /// The last happenings of every host.
    pub last: Vec<(HostId, String)>,
    /// What the clients saw.
    pub history: History,
}

thread_local! {
    static RUNNING: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// The seed that runs on this thread, for whoever must report a panic that cannot be caught.
pub fn running() -> Option<u64> {
    RUNNING.get()
}

/// Runs a seed to its end or to the first violation.
pub fn run(seed: u64, limits: &Limits) -> Report {
    #[cfg(feature = "mutants")]
    crate::base::mutants::plant(limits.mutant);
    run_plan(Plan::draw(seed, limits))
}

/// Runs a plan that was drawn, or drawn and changed.
pub fn run_plan(plan: Plan) -> Report {
    let seed = plan.seed;
    RUNNING.set(Some(seed));
    let mut world = World::new(plan.clone());
    let caught = catch_unwind(AssertUnwindSafe(|| {
        while !world.is_over() {
            world.step()?;
        }
        Ok(())
    }));
    let result = caught.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Violation::new("panic", text.unwrap_or("without a message")))
    });
    let hosts = plan.nodes + plan.clients;
    world.count_disks();
    let operations = world.operations();
    let violation = result.err().map(|violation| Finding {
        violation,
        last: (0..hosts as u16)
            .map(|host| (HostId(host), world.trace.last_of(HostId(host))))
            .collect(),
        history: world.take_history(),
    });
    Report {
        seed,
        trace_hash: world.trace.hash(),
        happenings: world.trace.marks(),
        virtual_time: world.now(),
        operations,
        slots: world.slots(),
        progress_after: world.progress_after,
        hits: std::mem::take(&mut world.hits),
        plan,
        violation,
    }
}

#[cfg(test)]
mod tests;
