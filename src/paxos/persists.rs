//! The writes that were asked for and are not yet durable.
//!
//! Called by the core at every `Persist` effect and `Persisted` input. Guarantee: each write is
//! completed exactly once, in whatever order the completions come (the vote file and the log are
//! written independently). It also measures how long they take.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::effect::PersistId;
use super::timeless::Timeless;
use crate::base::{Ballot, Instant, Slot};

/// What a write makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pending {
    /// The promise of this ballot.
    Promise(Ballot),
    /// The value of a slot at a ballot, of so many bytes.
    Entry { slot: Slot, ballot: Ballot, size: usize },
}

/// How many of the last writes are timed.
const TIMED: usize = 4;

#[derive(Clone, Debug)]
struct Write {
    pending: Pending,
    since: Instant,
    done: bool,
}

/// The queue of writes, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Persists {
    writes: VecDeque<Write>,
    /// The identifier of the first of `writes`.
    first: PersistId,
    bytes: usize,
    /// When a write last became durable.
    finished: Instant,
    /// How long the last writes took, in no order. Of entries that became durable together the oldest
    /// one alone counts: they are one write of the disk.
    times: [Duration; TIMED],
    timed: usize,
}

impl Persists {
    /// Names and remembers a write.
    pub(super) fn start(&mut self, pending: Pending, now: Instant) -> PersistId {
        let id = PersistId(self.first.0 + self.writes.len() as u64);
        if let Pending::Entry { size, .. } = pending {
            self.bytes += size;
        }
        self.writes.push_back(Write { pending, since: now, done: false });
        id
    }

    /// The write is durable.
    ///
    /// # Panics
    /// When no such write is under way: the caller has lost count.
    pub(super) fn finish(&mut self, id: PersistId, now: Instant) -> Pending {
        let index = id.0.checked_sub(self.first.0).map(|index| index as usize);
        let write = index.and_then(|index| self.writes.get_mut(index));
        let write = write.expect("only a write under way becomes durable");
        assert!(!write.done, "a write becomes durable once");
        write.done = true;
        let together = std::mem::replace(&mut self.finished, now) == now;
        let (pending, took) = (write.pending, now.since(write.since));
        if let Pending::Entry { size, .. } = pending {
            self.bytes -= size;
            if !together {
                self.times[self.timed % TIMED] = took;
                self.timed += 1;
            }
        }
        while self.writes.front().is_some_and(|write| write.done) {
            self.writes.pop_front();
            self.first.0 += 1;
        }
        pending
    }

    /// The oldest write under way, or the next one.
    pub(super) fn first(&self) -> PersistId {
        self.first
    }

    /// Writes under way.
    pub(super) fn count(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of values under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a value of this slot is under way.
    pub(super) fn has_entry(&self, wanted: Slot) -> bool {
        self.writes.iter().any(|write| {
            let is_it = matches!(write.pending, Pending::Entry { slot, .. } if slot == wanted);
            is_it && !write.done
        })
    }

    /// Whether a value of a slot up to this one is under way.
    pub(super) fn has_entry_through(&self, last: Slot) -> bool {
        self.writes.iter().any(|write| {
            let is_it = matches!(write.pending, Pending::Entry { slot, .. } if slot <= last);
            is_it && !write.done
        })
    }

    /// Whether writes are under way and none has become durable for `timeout`: a disk that is slow
    /// and goes on is no stalled one, however long its queue. Values that wait for room say nothing
    /// of the disk: where it is `full`, promises alone count, which always have theirs.
    pub(super) fn stalled(&self, now: Instant, timeout: Duration, full: bool) -> bool {
        let counts =
            |write: &&Write| !write.done && (!full || matches!(write.pending, Pending::Promise(_)));
        let since = |write: &Write| now.since(write.since.max(self.finished));
        self.writes.iter().find(counts).is_some_and(|write| since(write) >= timeout)
    }

    /// When the oldest write under way was asked for.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        self.writes.front().map(|write| write.since)
    }

    /// How long a write of the log takes at the moment: most of the last ones took at least so long, or
    /// the oldest one under way has taken so long already. One write that took long is no slow disk.
    pub(super) fn write_time(&self, now: Instant) -> Duration {
        let mut times = self.times;
        times.sort_unstable();
        let oldest = self.oldest_since().map_or(Duration::ZERO, |since| now.since(since));
        times[1].max(oldest)
    }

    /// Whether a write has been under way within `span`, so that [`Persists::write_time`] is no old
    /// story.
    pub(super) fn is_busy(&self, now: Instant, span: Duration) -> bool {
        !self.writes.is_empty() || now.since(self.finished) < span
    }
}

impl Timeless for Persists {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Persists { writes, first: _, bytes, finished: _, times: _, timed: _ } = self;
        (writes.len(), bytes).hash(hasher);
        for Write { pending, since: _, done } in writes {
            (pending, done).hash(hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_may_overtake_each_other() {
        let mut persists = Persists::default();
        let entry = Pending::Entry { slot: Slot(1), ballot: Ballot::NONE, size: 10 };
        let first = persists.start(entry, Instant(0));
        let second = persists.start(Pending::Promise(Ballot::NONE), Instant(5));
        assert_eq!((first, second), (PersistId(0), PersistId(1)));
        assert_eq!(persists.bytes(), 10);
        persists.finish(second, Instant(6));
        assert!(persists.has_entry(Slot(1)));
        assert!(!persists.stalled(Instant(12), Duration::from_nanos(7), false), "it goes on");
        assert!(persists.stalled(Instant(13), Duration::from_nanos(7), false));
        assert!(!persists.stalled(Instant(13), Duration::from_nanos(7), true), "it waits for room");
        assert_eq!(persists.finish(first, Instant(14)), entry);
        assert_eq!((persists.count(), persists.bytes()), (0, 0));
        assert!(!persists.stalled(Instant(99), Duration::from_nanos(7), false));
        assert_eq!(persists.start(entry, Instant(9)), PersistId(2));
    }

    #[test]
    fn write_time_is_that_of_most_writes() {
        let mut persists = Persists::default();
        let entry = Pending::Entry { slot: Slot(1), ballot: Ballot::NONE, size: 1 };
        let mut now = 1_000;
        let mut write = |persists: &mut Persists, took: u64, entries: u64| {
            // What is written together counts once.
            let started: Vec<_> =
                (0..entries).map(|step| persists.start(entry, Instant(now + step))).collect();
            now += took;
            started.into_iter().for_each(|id| _ = persists.finish(id, Instant(now)));
            now += 1;
            persists.write_time(Instant(now)).as_nanos() as u64
        };
        (0..4).for_each(|_| _ = write(&mut persists, 100, 5));
        assert_eq!(write(&mut persists, 9_000, 5), 100, "one is no slow disk");
        assert_eq!(write(&mut persists, 8_000, 5), 100, "nor are two");
        assert_eq!(write(&mut persists, 7_000, 5), 7_000);
        assert_eq!(write(&mut persists, 100, 5), 7_000);
        assert_eq!(write(&mut persists, 100, 1), 100);
        // What hangs is not waited for.
        persists.start(entry, Instant(100_000));
        assert_eq!(persists.write_time(Instant(150_000)), Duration::from_nanos(50_000));
        assert!(persists.is_busy(Instant(900_000), Duration::from_nanos(1)));
    }

    #[test]
    #[should_panic(expected = "only a write under way")]
    fn an_unknown_completion_is_a_broken_caller() {
        Persists::default().finish(PersistId(3), Instant(0));
    }
}
