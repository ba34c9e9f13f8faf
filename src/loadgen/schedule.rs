//! The intended send times of an open loop: pure arithmetic, no backlog in memory.
//!
//! Operation `k` of the whole load is due at `start + k / rate`: evenly spaced, and independent of
//! how the cluster answers, so a stall is charged to every operation that was due in it (no
//! coordinated omission). What is due and not yet sent is a difference of two numbers, however
//! long it gets.
//!
//! The connections take turns. A turn is one operation while these are at least [`PACE_NS`] apart;
//! at higher rates as many as are due in that time, which then leave with one send. A wake and a
//! send cost some 40 us of CPU where the other side's processor sleeps: at 140,000/s, 50 us and a
//! send on each of 4 connections the load generator took 5 us for each operation, most of a core of
//! the two that it shared with the cluster, and the latencies showed it. The pace in use takes
//! 2.8 us, and though it sends later (the report says how much), the latencies are lower.

use super::clock::{NANOS_PER_S, Nanos};

/// What is due within this time of each other on one connection is sent together: the most that it
/// adds to an operation's latency.
pub const PACE_NS: u64 = 100_000;

/// The intended times of one connection's operations.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Nanos,
    /// Nanoseconds between two operations of the whole load.
    spacing_ns: f64,
    /// Operations in a turn.
    turn: u64,
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
        let spacing_ns = NANOS_PER_S as f64 / operations_per_s;
        Schedule {
            start,
            spacing_ns,
            turn: (PACE_NS as f64 / spacing_ns).ceil().max(1.0) as u64,
            connection_index: connection_index as u64,
            connection_count: connection_count as u64,
            next_index: 0,
        }
    }

    /// When operation `index` of this connection is due.
    fn time_of(&self, index: u64) -> Nanos {
        let turn = index / self.turn * self.connection_count + self.connection_index;
        let place = turn * self.turn + index % self.turn;
        // Computed from the place, not summed up: no error accumulates over a long run.
        self.start.plus((place as f64 * self.spacing_ns) as u64)
    }

    /// When the next operation is due.
    pub fn next_due(&self) -> Nanos {
        self.time_of(self.next_index)
    }

    /// When all that is left of this connection's turn is due: the time to send it together.
    pub fn next_wake(&self) -> Nanos {
        let last_of_turn = self.next_index - self.next_index % self.turn + self.turn - 1;
        self.time_of(last_of_turn)
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
        let own_before = |time: Nanos| {
            // Operations of the whole load due before `time`; whole rounds of turns; the rest.
            let all = (time.since(self.start) as f64 / self.spacing_ns).ceil().max(0.0) as u64;
            let round = self.turn * self.connection_count;
            let rest = (all % round).saturating_sub(self.connection_index * self.turn);
            all / round * self.turn + rest.min(self.turn)
        };
        own_before(until).saturating_sub(own_before(from).max(self.next_index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_are_evenly_spaced_at_every_rate() {
        let start = Nanos(1_000);
        for rate in [500.0, 20_000.0, 30_000.0, 1_000_000.0, 3_333_333.0] {
            let spacing_ns = NANOS_PER_S as f64 / rate;
            let until = start.plus((spacing_ns * 999.5) as u64);
            let mut times = Vec::new();
            for index in 0..4 {
                let mut schedule = Schedule::new(start, rate, index, 4);
                let due = schedule.untaken_between(start, until);
                let before = times.len();
                times.extend(std::iter::from_fn(|| schedule.take_due(until)).map(|due| due.0));
                assert_eq!(due, (times.len() - before) as u64, "{rate}: connection {index}");
                assert_eq!(schedule.untaken_between(start, until), 0);
            }
            times.sort_unstable();
            let expected: Vec<u64> =
                (0..1000).map(|k| 1_000 + (f64::from(k) * spacing_ns) as u64).collect();
            assert_eq!(times, expected, "{rate}");
        }
    }

    #[test]
    fn a_turn_is_what_is_due_within_one_pace() {
        // 20 us apart: turns of 5 on each of 3 connections.
        let mut schedule = Schedule::new(Nanos(0), 50_000.0, 1, 3);
        assert_eq!((schedule.next_due(), schedule.next_wake()), (Nanos(100_000), Nanos(180_000)));
        let turn: Vec<_> =
            std::iter::from_fn(|| schedule.take_due(Nanos(180_000))).map(|due| due.0).collect();
        assert_eq!(turn, [100_000, 120_000, 140_000, 160_000, 180_000]);
        assert_eq!((schedule.next_due(), schedule.next_wake()), (Nanos(400_000), Nanos(480_000)));
        // A turn that an answer's room has broken into still ends when it did.
        assert_eq!(schedule.take_due(Nanos(415_000)), Some(Nanos(400_000)));
        assert_eq!((schedule.next_due(), schedule.next_wake()), (Nanos(420_000), Nanos(480_000)));
        // Further apart than a pace, each operation is a turn.
        let slow = Schedule::new(Nanos(0), 1_000.0, 1, 3);
        assert_eq!((slow.next_due(), slow.next_wake()), (Nanos(1_000_000), Nanos(1_000_000)));
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
