//! One run: starts the workers, keeps the time, merges what they count.
//!
//! Called by `cli`, which prints the live lines and asks the cluster for its counters when told
//! that the measured phase begins and ends.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::agents::AgentError;
use super::clock::Nanos;
use super::collect::Collector;
use super::crew::{Crew, CrewPlan};
use super::follow::{self, FollowError, FollowPlan};
use super::histogram::Interval;
use super::history;
use super::report::{AgentReport, FollowReport, OperationsReport, PaceReport};
use super::stats::Phases;
use super::worker::StartError;
use super::workload::Workload;
use crate::base::{GroupId, LogId, LogTerms, Position};
use crate::client::blocking::Client;
use crate::client::{ClientError, ClientOptions, ReadLevel};

/// Intervals on their way from the workers: many seconds of them.
pub(super) const INTERVALS_QUEUED_MAX: usize = 1024;
/// Threads that create logs, so that these share the cluster's durable writes.
const CREATORS: usize = 32;
/// From "all are connected" to the first operation.
const LEAD_NS: u64 = 10_000_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The load.
    pub workload: Workload,
    /// Where nodes of the cluster can be reached (`host:port`).
    pub addresses: Vec<String>,
    /// Processors to use.
    pub cpus: usize,
    /// Where every operation is recorded.
    pub history: Option<PathBuf>,
}

/// One line of the live display.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Seconds since the measured phase began; negative in the warm-up.
    pub elapsed_s: f64,
    /// Acknowledged appends a second in the last interval.
    pub appends_per_s: f64,
    /// Acknowledged reads a second in the last interval.
    pub reads_per_s: f64,
    /// Bytes of appended records a second.
    pub bytes_per_s: f64,
    /// Median latency in microseconds: of appends, or of reads where there are no appends.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Operations lost so far in the measured phase.
    pub lost: u64,
}

/// Who is told how the run goes, on the bench's own thread.
pub trait Observer {
    /// A second of the run is over.
    fn live(&mut self, live: &Live);
    /// The measured phase begins.
    fn measure_begins(&mut self);
    /// The measured phase has ended; the last answers are still awaited.
    fn measure_ends(&mut self);
}

/// What a run has found.
#[derive(Debug)]
pub struct RunResult {
    /// What became of the appends.
    pub appends: OperationsReport,
    /// What became of the reads, if there were to be any.
    pub reads: Option<OperationsReport>,
    /// What came to the followers, if there were to be any.
    pub follow: Option<FollowReport>,
    /// The seconds of the run, for the interval log.
    pub intervals: Vec<Interval>,
    /// When the measured phase began.
    pub began: SystemTime,
    /// How long the measured phase was: shorter than asked for when the run was stopped.
    pub measured: Duration,
    /// How an open loop kept to its times; none of a closed loop.
    pub pace: Option<PaceReport>,
    /// The first error met.
    pub first_error: Option<String>,
    /// CPU time of this process in the measured phase.
    pub cpu: Duration,
    /// CPU time of the workers' threads in the whole run.
    pub workers_cpu: Duration,
    /// Operations in the history.
    pub history_operations: u64,
    /// What each agent did, where agents made the load; all else is the sum of it.
    pub agents: Option<Vec<AgentReport>>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The followers could not start.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The logs of the load could not be made, or their ends not be learned.
    #[error("the logs of the load: {0}")]
    Logs(#[from] ClientError),
    /// Each connection goes to one group, so some groups would have none.
    #[error("{connections} connections do not reach the {groups} groups of the logs: give more")]
    Connections {
        /// Connections of the load.
        connections: usize,
        /// Groups that its logs are in.
        groups: usize,
    },
    /// A thread could not be made.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The history could not be written.
    #[error("the history {path}: {source}")]
    History {
        /// The file.
        path: PathBuf,
        /// The system's own word.
        source: std::io::Error,
    },
    /// An agent was lost, or did not take part.
    #[error(transparent)]
    Agents(#[from] AgentError),
    /// A worker has panicked: its numbers are lost, so there are none.
    #[error("a worker of the load generator has panicked; please report this")]
    Panicked,
}

/// Runs `options` to its end. Setting `stop` ends it early; what was counted is returned.
///
/// # Errors
/// [`RunError`]; nothing is left running.
pub fn run(
    options: &RunOptions,
    observer: &mut dyn Observer,
    stop: &Arc<AtomicBool>,
) -> Result<RunResult, RunError> {
    let workload = &options.workload;
    let history_error = |source| {
        let path = options.history.clone().unwrap_or_default();
        RunError::History { path, source }
    };
    let logs = create_logs(options)?;
    let history = options.history.as_deref().map(history::Writer::create).transpose();
    let history = history.map_err(history_error)?;

    let crew = Crew::start(CrewPlan {
        workload,
        logs: Arc::clone(&logs),
        addresses: &options.addresses,
        cpus: options.cpus,
        connections: 0..workload.connections,
        history: history.as_ref(),
        stop,
    })?;
    let followers = Followers::start(options, &logs, crew.phases())?;
    let phases = Phases::of(workload, Nanos::now().plus(LEAD_NS));
    let began = SystemTime::now() + Duration::from_nanos(LEAD_NS) + workload.warmup;
    crew.begin(phases)?;
    let mut collector = Collector::new(workload, phases, crew.threads.len());
    let cpu = collector.collect(&crew.intervals, observer);
    let result = collector.finish(crew.join()?, began, cpu);
    let history_operations = history.map_or(Ok(0), history::Writer::finish);
    let history_operations = history_operations.map_err(history_error)?;
    let follow = followers.map(|followers| followers.finish(options, &logs)).transpose()?;
    Ok(RunResult { history_operations, follow, ..result })
}

/// Makes the logs of the load, or finds those of an earlier run; each has a connection to its group.
pub(super) fn create_logs(options: &RunOptions) -> Result<Arc<[LogId]>, RunError> {
    let logs = make_logs(options)?;
    check_reach(&logs, options.workload.connections)?;
    Ok(logs)
}

/// Whether as many connections reach all groups of `logs`.
fn check_reach(logs: &[LogId], connections: usize) -> Result<(), RunError> {
    let groups = logs.iter().map(|log| log.group()).collect::<BTreeSet<GroupId>>().len();
    match connections < groups {
        true => Err(RunError::Connections { connections, groups }),
        false => Ok(()),
    }
}

fn make_logs(options: &RunOptions) -> Result<Arc<[LogId]>, RunError> {
    let count = options.workload.logs;
    if count == 1 {
        return Ok(Arc::new([LogId(0)]));
    }
    let client = Client::connect(options.addresses.clone(), ClientOptions::default())?;
    let group_count = client.group_count()?;
    let create = |creator: usize| -> Result<Vec<(usize, LogId)>, ClientError> {
        let mine = (creator..count).step_by(CREATORS);
        mine.map(|index| {
            Ok((index, client.create_log(&LogTerms::named(&log_name(index, group_count)))?))
        })
        .collect()
    };
    let mut logs = vec![LogId(0); count];
    std::thread::scope(|scope| {
        let creators: Vec<_> =
            (0..CREATORS).map(|creator| scope.spawn(move || create(creator))).collect();
        for creator in creators {
            for (index, log) in creator.join().map_err(|_| RunError::Panicked)?? {
                logs[index] = log;
            }
        }
        Ok(logs.into())
    })
}

/// The name of the load's log `index`: of several groups each has its share of them.
fn log_name(index: usize, group_count: u16) -> String {
    let name = format!("bench-{index:04}");
    let wanted = GroupId((index % usize::from(group_count)) as u16);
    let is_there = |name: &String| GroupId::of_log_name(name, group_count) == wanted;
    let more = (0u32..).map(|more| format!("{name}-{more}"));
    let mut names = std::iter::once(name.clone()).chain(more);
    names.find(is_there).expect("names spread over the groups")
}

/// The followers while the load runs.
struct Followers {
    thread: JoinHandle<FollowReport>,
    ends: watch::Sender<Option<Arc<[Position]>>>,
}

impl Followers {
    fn start(
        options: &RunOptions,
        logs: &Arc<[LogId]>,
        phases: watch::Receiver<Option<Phases>>,
    ) -> Result<Option<Followers>, RunError> {
        if options.workload.follow == 0 {
            return Ok(None);
        }
        let (ready_sender, ready) = sync_channel(1);
        let (ends, ends_receiver) = watch::channel(None);
        let plan = FollowPlan {
            workload: options.workload.clone(),
            logs: Arc::clone(logs),
            addresses: options.addresses.clone(),
            ready: ready_sender,
            phases,
            ends: ends_receiver,
        };
        let thread = follow::spawn(plan).map_err(RunError::Thread)?;
        match ready.recv() {
            Ok(started) => started?,
            Err(_) => return Err(RunError::Panicked),
        }
        Ok(Some(Followers { thread, ends }))
    }

    /// Tells them where their logs end, and waits until they have got everything.
    fn finish(self, options: &RunOptions, logs: &[LogId]) -> Result<FollowReport, RunError> {
        let client = Client::connect(options.addresses.clone(), ClientOptions::default())?;
        let followed = logs.len().min(options.workload.follow);
        let tail = |log: &LogId| client.of_log(*log).tail(ReadLevel::ReadIndex);
        let ends: Result<Vec<Position>, ClientError> = logs[..followed].iter().map(tail).collect();
        self.ends.send_replace(Some(ends?.into()));
        self.thread.join().map_err(|_| RunError::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_reach_every_group_are_refused() {
        let logs = [(0, 1), (2, 1), (2, 2)];
        let logs = logs.map(|(group, within)| LogId::of_group(GroupId(group), LogId(within)));
        assert!(check_reach(&logs, 2).is_ok());
        let refused = check_reach(&logs, 1);
        let expected = matches!(refused, Err(RunError::Connections { connections: 1, groups: 2 }));
        assert!(expected, "{refused:?}");
    }
}
