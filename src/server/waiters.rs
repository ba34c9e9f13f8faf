//! Reads that wait for new records: which of them to look at when a log grows, a time is up, or a
//! client is gone.
//!
//! Part of the [`super::Server`]. Work follows what happens: a turn costs nothing for reads of logs that
//! have not grown, however many there are. No more than [`super::WAITERS_MAX`] wait.

use std::collections::{BTreeMap, BTreeSet};

use super::reads::Read;
use crate::base::{IdMap, Instant, LogId};
use crate::io::ConnId;

/// A read that waits, and until when.
#[derive(Debug)]
struct Waiter {
    read: Read,
    deadline: Instant,
}

/// The reads that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// By a number that rises with each.
    all: IdMap<u64, Waiter>,
    by_log: BTreeMap<LogId, BTreeSet<u64>>,
    by_conn: BTreeMap<ConnId, BTreeSet<u64>>,
    by_deadline: BTreeSet<(Instant, u64)>,
    last: u64,
}

/// Takes a number out of one of the sets, and the set away with its last one.
fn take_out<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<u64>>, key: &K, number: u64) {
    let set = sets.get_mut(key).expect("noted when it came");
    set.remove(&number);
    if set.is_empty() {
        sets.remove(key);
    }
}

impl Waiters {
    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// When the first of them has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn push(&mut self, read: Read, deadline: Instant) {
        self.last += 1;
        self.by_log.entry(read.log).or_default().insert(self.last);
        self.by_conn.entry(read.conn).or_default().insert(self.last);
        self.by_deadline.insert((deadline, self.last));
        self.all.insert(self.last, Waiter { read, deadline });
    }

    fn remove(&mut self, number: u64) -> Option<Read> {
        let Waiter { read, deadline } = self.all.remove(&number)?;
        take_out(&mut self.by_log, &read.log, number);
        take_out(&mut self.by_conn, &read.conn, number);
        self.by_deadline.remove(&(deadline, number));
        Some(read)
    }

    /// Takes the reads of a log that `is_due` says can be answered, in the order in which they came.
    pub(super) fn take_due(&mut self, log: LogId, is_due: impl Fn(&Read) -> bool) -> Vec<Read> {
        let numbers = self.by_log.get(&log).into_iter().flatten();
        let due: Vec<u64> =
            numbers.copied().filter(|number| is_due(&self.all[number].read)).collect();
        due.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Takes a read that has waited long enough, if there is one.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<Read> {
        let (_, number) = self.by_deadline.first().filter(|(deadline, _)| *deadline <= now)?;
        self.remove(*number)
    }

    /// The connection is gone.
    pub(super) fn drop_conn(&mut self, conn: ConnId) {
        for number in self.by_conn.get(&conn).cloned().unwrap_or_default() {
            self.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::base::Position;
    use crate::wire::RequestId;

    fn read(conn: u64, log: u32, from: u64) -> Read {
        Read::new(ConnId(conn), RequestId(from), LogId(log), Position(from), 0, 0)
    }

    #[test]
    fn only_reads_of_the_log_that_grew_are_looked_at() {
        let mut waiters = Waiters::default();
        for number in 0..16_384 {
            waiters.push(read(number % 7, number as u32 % 100, number), Instant(1000 + number));
        }
        let looked_at = Cell::new(0);
        let due = waiters.take_due(LogId(5), |read| {
            looked_at.set(looked_at.get() + 1);
            read.from < Position(1000)
        });
        assert_eq!(looked_at.get(), 164, "of 16384");
        let froms: Vec<u64> = due.iter().map(|read| read.from.0).collect();
        assert_eq!(froms, (0..10).map(|n| n * 100 + 5).collect::<Vec<_>>());
        assert_eq!(waiters.count(), 16_374);
    }

    #[test]
    fn late_ones_come_by_time_and_a_lost_connection_takes_its_own() {
        let mut waiters = Waiters::default();
        waiters.push(read(1, 0, 1), Instant(30));
        waiters.push(read(2, 0, 2), Instant(10));
        waiters.push(read(1, 3, 3), Instant(20));
        assert_eq!(waiters.next_deadline(), Some(Instant(10)));
        assert!(waiters.take_late(Instant(9)).is_none());
        assert_eq!(waiters.take_late(Instant(20)).map(|read| read.from), Some(Position(2)));
        waiters.drop_conn(ConnId(1));
        assert_eq!((waiters.count(), waiters.next_deadline()), (0, None));
        assert!(waiters.by_log.is_empty() && waiters.by_conn.is_empty());
    }
}
