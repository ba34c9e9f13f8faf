//! The intended send times of an open loop: pure arithmetic, no backlog in memory.
//!
//! Operation `k` of connection `c` is due at `start + (c + k * connections) / rate`: the whole
//! load is evenly spaced, and the connections take turns. The times do not depend on how the
//! cluster answers, so a stall is charged to every operation that was due in it (no coordinated
//! omission). What is due and not yet sent is a difference of two numbers, however long it gets.

use super::clock::{NANOS_PER_S, Nanos};

/// The intended times of one connection's operations.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Nanos,
    /// Nanoseconds between two operations of the whole load.
    spacing_ns: f64,
    connection_index: u64,
    connection_count: u64,
    next_index: u64,
}

impl Schedule {
    /// The schedule of connection `connection_index` of `connection_count` when all of them
    /// together start `operations_per_s` operations a second from `start` on.
    ///
    /// # Panics
    /// When the rate is not above 0 or there is no such connection.
    pub fn new(
        start: Nanos,
        operations_per_s: f64,
        connection_index: usize,
        connection_count: usize,
    ) -> Schedule {
        assert!(operations_per_s > 0.0, "the workload's rate is validated");
        assert!(connection_index < connection_count, "the connection is one of them");
        Schedule {
            start,
            spacing_ns: NANOS_PER_S as f64 / operations_per_s,
            connection_index: connection_index as u64,
            connection_count: connection_count as u64,
            next_index: 0,
        }
    }

    /// When operation `index` of this connection is due.
    fn time_of(&self, index: u64) -> Nanos {
        let place = self.connection_index + index * self.connection_count;
        // Computed from the place, not summed up: no error accumulates over a long run.
        self.start.plus((place as f64 * self.spacing_ns) as u64)
    }

    /// When the next operation is due.
    pub fn next_due(&self) -> Nanos {
        self.time_of(self.next_index)
    }

    /// Takes the next operation if it is due by `now`: its intended time.
    pub fn take_due(&mut self, now: Nanos) -> Option<Nanos> {
        let due = self.next_due();
        (due <= now).then(|| {
            self.next_index += 1;
            due
        })
    }

    /// How many operations are due in `[from, until)` and not taken.
    pub fn untaken_between(&self, from: Nanos, until: Nanos) -> u64 {
        let place = |time: Nanos| {
            // The number of this connection's operations due before `time`.
            let places = time.since(self.start) as f64 / self.spacing_ns;
            let own = (places - self.connection_index as f64) / self.connection_count as f64;
            own.ceil().max(0.0) as u64
        };
        place(until).saturating_sub(place(from).max(self.next_index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns_evenly() {
        let start = Nanos(1_000);
        let mut times = Vec::new();
        for index in 0..4 {
            let mut schedule = Schedule::new(start, 1_000_000.0, index, 4);
            while let Some(due) = schedule.take_due(Nanos(1_000 + 11_999)) {
                times.push(due.0);
            }
        }
        times.sort_unstable();
        let expected: Vec<u64> = (0..12).map(|k| 1_000 + k * 1_000).collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn nothing_is_due_early_and_a_stall_leaves_all_that_was_due() {
        let mut schedule = Schedule::new(Nanos(0), 1_000.0, 0, 1);
        assert_eq!(schedule.take_due(Nanos(0)), Some(Nanos(0)));
        assert_eq!(schedule.take_due(Nanos(999_999)), None);
        // One second of silence: 999 operations are due, with their own times.
        let now = Nanos(NANOS_PER_S - 1);
        assert_eq!(schedule.untaken_between(Nanos(0), Nanos(NANOS_PER_S)), 999);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(now)).collect();
        assert_eq!(due.len(), 999);
        assert_eq!((due[0], due[998]), (Nanos(1_000_000), Nanos(999_000_000)));
        assert_eq!(schedule.untaken_between(Nanos(0), Nanos(NANOS_PER_S)), 0);
    }

    #[test]
    fn untaken_counts_only_the_window() {
        let schedule = Schedule::new(Nanos(0), 1_000.0, 1, 2);
        // Due at 1 ms, 3 ms, 5 ms, 7 ms, 9 ms.
        assert_eq!(schedule.untaken_between(Nanos(0), Nanos(10_000_000)), 5);
        assert_eq!(schedule.untaken_between(Nanos(3_000_000), Nanos(7_000_000)), 2);
        assert_eq!(schedule.untaken_between(Nanos(3_500_000), Nanos(7_500_000)), 2);
    }

    #[test]
    fn no_drift_over_a_day() {
        let rate = 300_000.0;
        let schedule = Schedule::new(Nanos(0), rate, 0, 1);
        let day = 24 * 3600;
        let due = schedule.time_of(day * rate as u64);
        assert!(due.0.abs_diff(day * NANOS_PER_S) < 1_000, "{due:?}");
    }
}
