//! One run: starts the workers, keeps the time, merges what they count.
//!
//! Called by `cli`, which prints the live lines and asks the cluster for its counters when told
//! that the measured phase begins and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::time::ClockId;
use tokio::sync::watch;

use super::clock::{NANOS_PER_S, Nanos, cpu_time};
use super::follow::{self, FollowError, FollowPlan};
use super::histogram::{Interval, Latencies};
use super::history;
use super::report::{FollowReport, OperationsReport};
use super::stats::{Counts, Phases, TallySnapshot};
use super::worker::{self, StartError, WorkerInterval, WorkerPlan, WorkerResult};
use super::workload::Workload;
use crate::base::{GroupId, LogId, LogTerms, Position};
use crate::client::blocking::Client;
use crate::client::{ClientError, ClientOptions, ReadLevel};

/// Intervals on their way from the workers: many seconds of them.
const INTERVALS_QUEUED_MAX: usize = 1024;
/// How long an interval is held for workers that have not handed over theirs.
const INTERVAL_LATE_NS: u64 = 500_000_000;
/// How long the bench sleeps at most before it looks at the clock.
const LOOK_UP: Duration = Duration::from_millis(50);
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
    /// Operations of an open loop that were due and never sent: the cluster did not keep up.
    pub unsent: u64,
    /// The first error met.
    pub first_error: Option<String>,
    /// CPU time of this process in the measured phase.
    pub cpu: Duration,
    /// CPU time of the workers' threads in the whole run.
    pub workers_cpu: Duration,
    /// Operations in the history.
    pub history_operations: u64,
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
    /// A worker has panicked: its numbers are lost, so there are none.
    #[error("a worker of the load generator has panicked; please report this")]
    Panicked,
}

/// Totals of one kind of operation.
#[derive(Debug, Default)]
struct Total {
    counts: Counts,
    latencies: Latencies,
}

impl Total {
    fn add(&mut self, part: &TallySnapshot) {
        self.counts.merge(&part.counts);
        if let Some(measured) = &part.measured {
            self.latencies.merge(measured);
        }
    }

    fn report(&self, duration: Duration) -> OperationsReport {
        let seconds = duration.as_secs_f64();
        OperationsReport {
            ok: self.counts.ok,
            failed: self.counts.failed,
            unknown: self.counts.unknown,
            per_s: self.counts.answered_in_window as f64 / seconds,
            records_per_s: self.counts.records_in_window as f64 / seconds,
            bytes_per_s: self.counts.bytes_in_window as f64 / seconds,
            latency_us: self.latencies.report(),
        }
    }
}

/// The parts of one interval that have come in.
#[derive(Debug, Default)]
struct Pending {
    workers: usize,
    appends: PendingKind,
    reads: PendingKind,
}

#[derive(Debug, Default)]
struct PendingKind {
    counts: Counts,
    /// Of the whole interval, warm-up included: what the live line shows.
    all: Latencies,
    measured: Latencies,
}

impl PendingKind {
    fn add(&mut self, part: &TallySnapshot) {
        self.counts.merge(&part.counts);
        for latencies in [&part.measured, &part.other].into_iter().flatten() {
            self.all.merge(latencies);
        }
        if let Some(measured) = &part.measured {
            self.measured.merge(measured);
        }
    }
}

/// Merges what the workers hand over.
struct Collector<'a> {
    workload: &'a Workload,
    phases: Phases,
    worker_count: usize,
    pending: BTreeMap<Nanos, Pending>,
    last_end: Nanos,
    appends: Total,
    reads: Total,
    intervals: Vec<Interval>,
}

impl Collector<'_> {
    fn take_in(&mut self, interval: &WorkerInterval) {
        self.appends.add(&interval.snapshot.appends);
        self.reads.add(&interval.snapshot.reads);
        let pending = self.pending.entry(interval.end).or_default();
        pending.workers += 1;
        pending.appends.add(&interval.snapshot.appends);
        pending.reads.add(&interval.snapshot.reads);
    }

    /// Shows the intervals that are complete, or as complete as they get.
    fn show(&mut self, now: Nanos, observer: &mut dyn Observer) {
        while let Some(entry) = self.pending.first_entry() {
            let late = now >= entry.key().plus(INTERVAL_LATE_NS);
            if entry.get().workers < self.worker_count && !late {
                return;
            }
            let (end, pending) = entry.remove_entry();
            observer.live(&self.close(end, pending));
        }
    }

    fn close(&mut self, end: Nanos, pending: Pending) -> Live {
        // An interval that came too late is shown with the length of a whole one.
        let length_ns = match end.since(self.last_end) {
            0 => NANOS_PER_S,
            length => length,
        };
        self.last_end = self.last_end.max(end);
        let seconds = length_ns as f64 / NANOS_PER_S as f64;
        let begin = self.phases.measure_begin;
        for (tag, kind) in [("append", &pending.appends), ("read", &pending.reads)] {
            if kind.measured.count() > 0 {
                self.intervals.push(Interval {
                    tag,
                    start: Duration::from_nanos(end.since(begin).saturating_sub(length_ns)),
                    length: Duration::from_nanos(length_ns),
                    latencies: Box::new(kind.measured.clone()),
                });
            }
        }
        let appended = pending.appends.counts.answered as f64;
        let append_bytes = (self.workload.records_per_append * self.workload.record_bytes) as f64;
        let shown = if appended > 0.0 { &pending.appends.all } else { &pending.reads.all };
        let lost = |total: &Total| total.counts.failed + total.counts.unknown;
        Live {
            elapsed_s: (end.0 as f64 - begin.0 as f64) / NANOS_PER_S as f64,
            appends_per_s: appended / seconds,
            reads_per_s: pending.reads.counts.answered as f64 / seconds,
            bytes_per_s: appended * append_bytes / seconds,
            p50_us: shown.percentile_us(50.0),
            p99_us: shown.percentile_us(99.0),
            lost: lost(&self.appends) + lost(&self.reads),
        }
    }
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
    let groups: BTreeSet<GroupId> = logs.iter().map(|log| log.group()).collect();
    if workload.connections < groups.len() {
        let (connections, groups) = (workload.connections, groups.len());
        return Err(RunError::Connections { connections, groups });
    }
    let history = options.history.as_deref().map(history::Writer::create).transpose();
    let history = history.map_err(history_error)?;

    let worker_count = worker::worker_count(workload.connections, options.cpus);
    let (ready_sender, ready) = sync_channel(worker_count);
    let (interval_sender, intervals) = sync_channel(INTERVALS_QUEUED_MAX);
    let (phases_sender, phases_receiver) = watch::channel(None);
    let followers = Followers::start(options, &logs, phases_receiver.clone())?;
    let mut threads = Vec::with_capacity(worker_count);
    for index in 0..worker_count {
        let plan = WorkerPlan {
            worker: index as u32,
            worker_count: worker_count as u32,
            connections: worker::share(workload.connections, index, worker_count),
            workload: workload.clone(),
            logs: Arc::clone(&logs),
            addresses: options.addresses.clone(),
            recorder: history.as_ref().map(history::Writer::recorder),
            ready: ready_sender.clone(),
            phases: phases_receiver.clone(),
            intervals: interval_sender.clone(),
            stop: Arc::clone(stop),
        };
        threads.push(worker::spawn(plan).map_err(RunError::Thread)?);
    }
    drop((ready_sender, interval_sender, phases_receiver));

    for _ in 0..worker_count {
        match ready.recv() {
            Ok(started) => started?,
            Err(_) => return Err(RunError::Panicked),
        }
    }
    let start = Nanos::now().plus(LEAD_NS);
    let measure_begin = start.plus(workload.warmup.as_nanos() as u64);
    let measure_end = measure_begin.plus(workload.duration.as_nanos() as u64);
    let phases = Phases { start, measure_begin, measure_end };
    let began = SystemTime::now() + Duration::from_nanos(LEAD_NS) + workload.warmup;
    if phases_sender.send(Some(phases)).is_err() {
        return Err(RunError::Panicked);
    }
    let mut collector = Collector {
        workload,
        phases,
        worker_count,
        pending: BTreeMap::new(),
        last_end: start,
        appends: Total::default(),
        reads: Total::default(),
        intervals: Vec::new(),
    };
    let cpu = collect(&mut collector, &intervals, observer);
    let (result, written) = finish(collector, threads, began, cpu, history)?;
    let history_operations = written.map_err(history_error)?;
    let follow = followers.map(|followers| followers.finish(options, &logs)).transpose()?;
    Ok(RunResult { history_operations, follow, ..result })
}

/// Makes the logs of the load, or finds those of an earlier run.
fn create_logs(options: &RunOptions) -> Result<Arc<[LogId]>, RunError> {
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

/// Merges and shows intervals until every worker is done; the CPU time of the measured phase.
fn collect(
    collector: &mut Collector<'_>,
    intervals: &Receiver<WorkerInterval>,
    observer: &mut dyn Observer,
) -> Duration {
    let Phases { measure_begin, measure_end, .. } = collector.phases;
    let mut cpu_at_begin = None;
    let mut cpu = None;
    loop {
        let received = intervals.recv_timeout(LOOK_UP);
        let now = Nanos::now();
        if now >= measure_begin && cpu_at_begin.is_none() {
            cpu_at_begin = Some(cpu_time(ClockId::ProcessCPUTime));
            observer.measure_begins();
        }
        if now >= measure_end && cpu.is_none() {
            let begin = cpu_at_begin.expect("the measured phase begins before it ends");
            cpu = Some(cpu_time(ClockId::ProcessCPUTime).saturating_sub(begin));
            observer.measure_ends();
        }
        match received {
            Ok(interval) => collector.take_in(&interval),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        collector.show(now, observer);
    }
    collector.show(Nanos(u64::MAX), observer);
    cpu.unwrap_or_default()
}

/// Waits for the workers and adds what they have counted last.
fn finish(
    mut collector: Collector<'_>,
    threads: Vec<JoinHandle<WorkerResult>>,
    began: SystemTime,
    cpu: Duration,
    history: Option<history::Writer>,
) -> Result<(RunResult, std::io::Result<u64>), RunError> {
    let mut unsent = 0;
    let mut first_error = None;
    let mut workers_cpu = Duration::ZERO;
    let mut last = Pending::default();
    for thread in threads {
        let result = thread.join().map_err(|_| RunError::Panicked)?;
        collector.appends.add(&result.snapshot.appends);
        collector.reads.add(&result.snapshot.reads);
        last.appends.add(&result.snapshot.appends);
        last.reads.add(&result.snapshot.reads);
        unsent += result.unsent;
        workers_cpu += result.cpu;
        first_error = first_error.or(result.first_error);
    }
    // Answers that came after the measured phase: a line of their own in the interval log.
    let end = Nanos::now().max(collector.last_end.plus(1));
    collector.close(end, last);
    let written = history.map_or(Ok(0), history::Writer::finish);
    let duration = collector.workload.duration;
    let has_reads = collector.workload.append_percent < 100;
    let result = RunResult {
        appends: collector.appends.report(duration),
        reads: has_reads.then(|| collector.reads.report(duration)),
        follow: None,
        intervals: collector.intervals,
        began,
        unsent,
        first_error,
        cpu,
        workers_cpu,
        history_operations: 0,
    };
    Ok((result, written))
}
