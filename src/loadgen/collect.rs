//! Merges what workers count, second by second: the live line, the interval log and the result.
//!
//! Used by `bench` for workers of this process, and by `agents` for those of other hosts. What is
//! in the result is the sum of what the workers handed over, and nothing else.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use rustix::time::ClockId;

use super::bench::{Live, Observer, RunResult};
use super::clock::{NANOS_PER_S, Nanos, cpu_time};
use super::histogram::{Interval, Latencies};
use super::report::{OperationsReport, PaceReport};
use super::stats::{Counts, Phases, Snapshot, TallySnapshot};
use super::worker::{WorkerInterval, WorkerResult};
use super::workload::Workload;

/// How long an interval is held for workers that have not handed over theirs.
const INTERVAL_LATE_NS: u64 = 500_000_000;
/// How long the bench sleeps at most before it looks at the clock.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Totals of one kind of operation.
#[derive(Debug, Default)]
pub(super) struct Total {
    counts: Counts,
    latencies: Latencies,
}

impl Total {
    /// Adds what one worker counted.
    pub(super) fn add(&mut self, part: &TallySnapshot) {
        self.counts.merge(&part.counts);
        if let Some(measured) = &part.measured {
            self.latencies.merge(measured);
        }
    }

    /// As a report has it, of a measured phase of `duration`.
    pub(super) fn report(&self, duration: Duration) -> OperationsReport {
        let seconds = duration.as_secs_f64().max(f64::MIN_POSITIVE);
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
pub(super) struct Collector<'a> {
    workload: &'a Workload,
    phases: Phases,
    worker_count: usize,
    pending: BTreeMap<Nanos, Pending>,
    last_end: Nanos,
    appends: Total,
    reads: Total,
    lag: Latencies,
    intervals: Vec<Interval>,
}

impl<'a> Collector<'a> {
    /// Of a run of `workload` by as many workers, wherever they are.
    pub(super) fn new(
        workload: &'a Workload,
        phases: Phases,
        worker_count: usize,
    ) -> Collector<'a> {
        Collector {
            workload,
            phases,
            worker_count,
            pending: BTreeMap::new(),
            last_end: phases.start,
            appends: Total::default(),
            reads: Total::default(),
            lag: Latencies::new(),
            intervals: Vec::new(),
        }
    }

    /// Merges and shows intervals until every worker is done; the CPU time of this process in the
    /// measured phase.
    pub(super) fn collect(
        &mut self,
        intervals: &Receiver<WorkerInterval>,
        observer: &mut dyn Observer,
    ) -> Duration {
        let Phases { measure_begin, measure_end, .. } = self.phases;
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
                Ok(interval) => self.take_in(&interval),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.show(now, observer);
        }
        self.show(Nanos(u64::MAX), observer);
        if let (None, Some(begin)) = (cpu, cpu_at_begin) {
            // Stopped within the measured phase.
            cpu = Some(cpu_time(ClockId::ProcessCPUTime).saturating_sub(begin));
            observer.measure_ends();
        }
        cpu.unwrap_or_default()
    }

    /// Adds what the workers have counted last: the result of the run.
    pub(super) fn finish(
        mut self,
        results: Vec<WorkerResult>,
        began: SystemTime,
        cpu: Duration,
    ) -> RunResult {
        let mut unsent = 0;
        let mut first_error = None;
        let mut workers_cpu = Duration::ZERO;
        let mut last = Pending::default();
        for result in results {
            self.add(&result.snapshot);
            last.appends.add(&result.snapshot.appends);
            last.reads.add(&result.snapshot.reads);
            unsent += result.unsent;
            workers_cpu += result.cpu;
            first_error = first_error.or(result.first_error);
        }
        // Answers that came after the measured phase: a line of their own in the interval log.
        let end = Nanos::now().max(self.last_end.plus(1));
        self.close(end, last);
        let elapsed = Duration::from_nanos(end.since(self.phases.measure_begin));
        let duration = self.workload.duration.min(elapsed);
        let has_reads = self.workload.append_percent < 100;
        let appends = self.appends.report(duration);
        let reads = has_reads.then(|| self.reads.report(duration));
        let answered_per_s = appends.per_s + reads.as_ref().map_or(0.0, |reads| reads.per_s);
        RunResult {
            pace: PaceReport::new(self.workload, answered_per_s, unsent, &self.lag),
            appends,
            reads,
            follow: None,
            intervals: self.intervals,
            began,
            measured: duration,
            first_error,
            cpu,
            workers_cpu,
            history_operations: 0,
            agents: None,
        }
    }

    fn add(&mut self, snapshot: &Snapshot) {
        self.appends.add(&snapshot.appends);
        self.reads.add(&snapshot.reads);
        if let Some(lag) = &snapshot.lag {
            self.lag.merge(lag);
        }
    }

    fn take_in(&mut self, interval: &WorkerInterval) {
        self.add(&interval.snapshot);
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
