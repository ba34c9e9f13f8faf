//! The workers of one process: started together, told when to begin, joined in the end.
//!
//! Used by `bench` for a whole load, and by an agent for its part of one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::bench::{INTERVALS_QUEUED_MAX, RunError};
use super::history;
use super::stats::Phases;
use super::worker::{self, WorkerInterval, WorkerPlan, WorkerResult};
use super::workload::Workload;
use crate::base::LogId;

/// What a crew is started with.
pub(super) struct CrewPlan<'a> {
    /// The whole load.
    pub workload: &'a Workload,
    /// The logs that it goes to.
    pub logs: Arc<[LogId]>,
    /// Where nodes of the cluster can be reached.
    pub addresses: &'a [String],
    /// Processors to use.
    pub cpus: usize,
    /// The connections of the load that are this crew's.
    pub connections: Range<usize>,
    /// Where every operation is recorded.
    pub history: Option<&'a history::Writer>,
    /// Ends the run early.
    pub stop: &'a Arc<AtomicBool>,
}

/// Workers that are connected and wait for the word to begin. Dropping it lets them end.
pub(super) struct Crew {
    /// Their threads.
    pub threads: Vec<JoinHandle<WorkerResult>>,
    /// What they count; ends with the last of them.
    pub intervals: Receiver<WorkerInterval>,
    phases: watch::Sender<Option<Phases>>,
}

impl Crew {
    /// Starts the workers and waits until all of them are connected.
    ///
    /// # Errors
    /// [`RunError`] when one is not; the others end then.
    ///
    /// # Panics
    /// When it has no connection, or one that is not the load's.
    pub fn start(plan: CrewPlan<'_>) -> Result<Crew, RunError> {
        let CrewPlan { workload, connections, .. } = &plan;
        assert!(!connections.is_empty(), "a crew has something to do");
        assert!(connections.end <= workload.connections, "the load has these connections");
        let count = worker::worker_count(plan.connections.len(), plan.cpus);
        let (ready_sender, ready) = sync_channel(count);
        let (interval_sender, intervals) = sync_channel(INTERVALS_QUEUED_MAX);
        let (phases, phases_receiver) = watch::channel(None);
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let share = worker::share(plan.connections.len(), index, count);
            let first = plan.connections.start;
            let plan = WorkerPlan {
                // The first of the connections and a number within the crew, which has no more workers
                // than connections: unique over all crews, and below the connections of the load,
                // by which a worker divides to find the log that it begins with.
                worker: (plan.connections.start + index) as u32,
                worker_count: plan.workload.connections as u32,
                connections: first + share.start..first + share.end,
                workload: plan.workload.clone(),
                logs: Arc::clone(&plan.logs),
                addresses: plan.addresses.to_vec(),
                recorder: plan.history.map(history::Writer::recorder),
                ready: ready_sender.clone(),
                phases: phases_receiver.clone(),
                intervals: interval_sender.clone(),
                stop: Arc::clone(plan.stop),
            };
            threads.push(worker::spawn(plan).map_err(RunError::Thread)?);
        }
        drop((ready_sender, interval_sender));
        for _ in 0..count {
            match ready.recv() {
                Ok(started) => started?,
                Err(_) => return Err(RunError::Panicked),
            }
        }
        Ok(Crew { threads, intervals, phases })
    }

    /// Says when the run begins and ends.
    ///
    /// # Errors
    /// [`RunError::Panicked`] when no worker is there to hear it.
    pub fn begin(&self, phases: Phases) -> Result<(), RunError> {
        self.phases.send(Some(phases)).map_err(|_| RunError::Panicked)
    }

    /// Hears when the run begins and ends.
    pub fn phases(&self) -> watch::Receiver<Option<Phases>> {
        self.phases.subscribe()
    }

    /// Waits for the workers.
    ///
    /// # Errors
    /// [`RunError::Panicked`] when one has.
    pub fn join(self) -> Result<Vec<WorkerResult>, RunError> {
        let joined = self.threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.map_err(|_| RunError::Panicked)).collect()
    }
}
