//! What a worker has counted, and how it is handed to the bench once a second.

use serde::{Deserialize, Serialize};

use super::clock::{NANOS_PER_S, Nanos};
use super::histogram::Latencies;
use super::workload::Workload;

/// When the parts of a run begin and end; the same for all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// The load starts (warm-up).
    pub start: Nanos,
    /// The measured phase starts.
    pub measure_begin: Nanos,
    /// The measured phase ends; nothing new is due from here on.
    pub measure_end: Nanos,
}

impl Phases {
    /// Of a run of `workload` that starts at `start`.
    pub fn of(workload: &Workload, start: Nanos) -> Phases {
        let measure_begin = start.plus(workload.warmup.as_nanos() as u64);
        let measure_end = measure_begin.plus(workload.duration.as_nanos() as u64);
        Phases { start, measure_begin, measure_end }
    }

    /// Whether an operation that started at `time` belongs to the measured phase.
    pub fn measures(&self, time: Nanos) -> bool {
        self.measure_begin <= time && time < self.measure_end
    }

    /// When the interval ends that `now` lies in: whole seconds before and after the measured
    /// phase's begin, and its end. `None` after that.
    pub fn interval_end(&self, now: Nanos) -> Option<Nanos> {
        if now >= self.measure_end {
            return None;
        }
        let end = match self.measure_begin.0.checked_sub(now.0) {
            Some(left) if left > 0 => self.measure_begin.0 - (left - 1) / NANOS_PER_S * NANOS_PER_S,
            _ => {
                let seconds = now.since(self.measure_begin) / NANOS_PER_S + 1;
                self.measure_begin.plus(seconds * NANOS_PER_S).0
            }
        };
        Some(Nanos(end.min(self.measure_end.0)))
    }
}

/// Counters of one kind of operation. See `report::OperationsReport` for what belongs where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Acknowledged, of those that started in the measured phase.
    pub ok: u64,
    /// Certainly without effect, of those that started in the measured phase.
    pub failed: u64,
    /// Without a known outcome, of those that started in the measured phase.
    pub unknown: u64,
    /// All acknowledgements, whenever the operation started.
    pub answered: u64,
    /// Acknowledgements that came within the measured phase.
    pub answered_in_window: u64,
    /// Records in these.
    pub records_in_window: u64,
    /// Bytes of these records.
    pub bytes_in_window: u64,
}

impl Counts {
    /// Adds all of `other`'s.
    pub fn merge(&mut self, other: &Counts) {
        for (sum, more) in self.all_mut().into_iter().zip(other.all()) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Each of them.
    pub fn all(&self) -> [u64; 7] {
        let Counts { ok, failed, unknown, answered, .. } = *self;
        let Counts { answered_in_window, records_in_window, bytes_in_window, .. } = *self;
        [ok, failed, unknown, answered, answered_in_window, records_in_window, bytes_in_window]
    }

    /// Each of them, in the order of [`Counts::all`].
    fn all_mut(&mut self) -> [&mut u64; 7] {
        [
            &mut self.ok,
            &mut self.failed,
            &mut self.unknown,
            &mut self.answered,
            &mut self.answered_in_window,
            &mut self.records_in_window,
            &mut self.bytes_in_window,
        ]
    }
}

/// How an operation ended without an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Certainly without effect.
    Failed,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// Counters and latencies of one kind of operation, on one worker.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    measured: Latencies,
    /// Of operations that started in the warm-up: for the live line only.
    other: Latencies,
}

/// What a [`Tally`] has counted since the last one was taken.
#[derive(Debug, Default)]
pub struct TallySnapshot {
    /// The counters.
    pub counts: Counts,
    /// Latencies that the report counts; none when there were none.
    pub measured: Option<Box<Latencies>>,
    /// Latencies that only the live line shows.
    pub other: Option<Box<Latencies>>,
}

impl Tally {
    /// Counts an acknowledgement of `records` records of `bytes` bytes, read at `now`.
    #[inline]
    pub fn ok(&mut self, phases: &Phases, started: Nanos, now: Nanos, records: u64, bytes: u64) {
        let latency_ns = now.since(started);
        self.counts.answered += 1;
        if phases.measures(now) {
            self.counts.answered_in_window += 1;
            self.counts.records_in_window += records;
            self.counts.bytes_in_window += bytes;
        }
        if phases.measures(started) {
            self.counts.ok += 1;
            self.measured.record(latency_ns);
        } else {
            self.other.record(latency_ns);
        }
    }

    /// Counts `count` operations that started at `started` and were lost.
    pub fn lost(&mut self, phases: &Phases, started: Nanos, loss: Loss, count: u64) {
        if !phases.measures(started) {
            return;
        }
        match loss {
            Loss::Failed => self.counts.failed += count,
            Loss::Unknown => self.counts.unknown += count,
        }
    }

    /// Hands over what was counted and starts anew.
    pub fn take(&mut self) -> TallySnapshot {
        TallySnapshot {
            counts: std::mem::take(&mut self.counts),
            measured: self.measured.take(),
            other: self.other.take(),
        }
    }
}

/// One worker's counts of one interval.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Its appends.
    pub appends: TallySnapshot,
    /// Its reads.
    pub reads: TallySnapshot,
    /// How long after they were due the operations of an open loop were sent; none when none were.
    pub lag: Option<Box<Latencies>>,
}

impl Snapshot {
    /// Adds all of `other`'s.
    pub fn merge(&mut self, other: Snapshot) {
        self.appends.merge(other.appends);
        self.reads.merge(other.reads);
        merge_latencies(&mut self.lag, other.lag);
    }

    /// Latencies in all of its histograms.
    pub fn latency_count(&self) -> u64 {
        let Snapshot { appends, reads, lag } = self;
        let parts = [&appends.measured, &appends.other, &reads.measured, &reads.other, lag];
        let counts = parts.into_iter().flatten().map(|latencies| latencies.count());
        counts.fold(0, u64::saturating_add)
    }
}

impl TallySnapshot {
    fn merge(&mut self, other: TallySnapshot) {
        self.counts.merge(&other.counts);
        merge_latencies(&mut self.measured, other.measured);
        merge_latencies(&mut self.other, other.other);
    }
}

fn merge_latencies(to: &mut Option<Box<Latencies>>, from: Option<Box<Latencies>>) {
    match (to, from) {
        (Some(to), Some(from)) => to.merge(&from),
        (to, from @ Some(_)) => *to = from,
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: Phases =
        Phases { start: Nanos(0), measure_begin: Nanos(100), measure_end: Nanos(200) };

    #[test]
    fn intervals_are_seconds_around_the_measured_phase() {
        const S: u64 = NANOS_PER_S;
        let phases = Phases {
            start: Nanos(10 * S),
            measure_begin: Nanos(11 * S + S / 2),
            measure_end: Nanos(13 * S),
        };
        let mut ends = Vec::new();
        let mut now = phases.start;
        while let Some(end) = phases.interval_end(now) {
            ends.push(end.0);
            now = end;
        }
        assert_eq!(ends, [10 * S + S / 2, 11 * S + S / 2, 12 * S + S / 2, 13 * S]);
    }

    #[test]
    fn sums_keep_apart_what_is_counted_and_do_not_overflow() {
        let part = Counts {
            ok: 1,
            failed: 2,
            unknown: 3,
            answered: 4,
            answered_in_window: 5,
            records_in_window: 6,
            bytes_in_window: u64::MAX - 1,
        };
        let mut sum = part;
        sum.merge(&part);
        assert_eq!(sum.all(), [2, 4, 6, 8, 10, 12, u64::MAX]);
    }

    #[test]
    fn operations_belong_to_the_phase_they_started_in_and_rates_to_when_the_answer_came() {
        let mut tally = Tally::default();
        tally.ok(&PHASES, Nanos(90), Nanos(110), 2, 20); // Started in the warm-up.
        tally.ok(&PHASES, Nanos(150), Nanos(190), 2, 20);
        tally.ok(&PHASES, Nanos(199), Nanos(900), 2, 20); // Answered after the end.
        tally.lost(&PHASES, Nanos(99), Loss::Failed, 5);
        tally.lost(&PHASES, Nanos(100), Loss::Failed, 1);
        tally.lost(&PHASES, Nanos(199), Loss::Unknown, 3);
        tally.lost(&PHASES, Nanos(200), Loss::Unknown, 7);
        let taken = tally.take();
        let expected = Counts {
            ok: 2,
            failed: 1,
            unknown: 3,
            answered: 3,
            answered_in_window: 2,
            records_in_window: 4,
            bytes_in_window: 40,
        };
        assert_eq!(taken.counts, expected);
        // The stall at the end is in the latencies.
        assert_eq!(taken.measured.unwrap().report().max, 0.701);
        assert_eq!(taken.other.unwrap().count(), 1);
        assert_eq!(tally.take().counts, Counts::default());
    }
}
