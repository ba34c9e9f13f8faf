//! The log's time: milliseconds for which the group has had a leader. Sessions age by it.
//!
//! Kept by the node that leads, from where the last leader left it, by its own monotonic clock: no wall
//! clock can make all sessions end at once. Nor can a pause: the time goes on in steps, one per turn of
//! the leader, and no step is longer than an election timeout. Example: a host is suspended for an hour, or
//! its process stopped. `CLOCK_MONOTONIC` does not count the first on Linux, but it does count a stop and
//! what a hypervisor takes away. The leader wakes, has not heard yet that it leads no more (or nobody else
//! ran either), and seals a batch: with the whole hour in it every session of the group would end, though
//! no client could have used its own. A leader that runs takes its turns more often than that, since it
//! makes sure of its quorum within an election timeout; so what is left out is only time in which it led
//! nobody.

use std::time::Duration;

use crate::base::Instant;

/// The time of a log while this node leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogTime {
    /// At the last step.
    stepped: Instant,
    /// The log's time then.
    time: Duration,
    step_max: Duration,
}

impl LogTime {
    /// Begins at `time_ms`, where the last leader has left it.
    pub(super) fn begin(now: Instant, time_ms: u64, step_max: Duration) -> LogTime {
        LogTime { stepped: now, time: Duration::from_millis(time_ms), step_max }
    }

    /// Goes on to `now`, by no more than the longest step.
    pub(super) fn step(&mut self, now: Instant) {
        self.time = self.time.saturating_add(now.since(self.stepped).min(self.step_max));
        self.stepped = self.stepped.max(now);
    }

    /// The time of the last step, in milliseconds.
    pub(super) fn ms(&self) -> u64 {
        self.time.as_millis() as u64
    }

    /// When the next step is due for nothing to be left out.
    pub(super) fn next_step(&self) -> Instant {
        self.stepped + self.step_max / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn at(ms: u64) -> Instant {
        Instant(7_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn turns_of_a_leader_that_runs_add_up_to_the_time_that_passes() {
        let mut time = LogTime::begin(at(0), 90_000, STEP);
        for tenths in 1..=100_000_u64 {
            time.step(at(0) + Duration::from_micros(tenths * 100));
        }
        assert_eq!(time.ms(), 100_000);
        time.step(at(9_000));
        assert_eq!(time.ms(), 100_000, "it never goes back");
        time.step(time.next_step());
        assert_eq!(time.ms(), 100_250);
    }

    #[test]
    fn an_hour_of_sleep_is_one_step() {
        let mut time = LogTime::begin(at(0), 0, STEP);
        time.step(at(100));
        time.step(at(3_600_100));
        assert_eq!(time.ms(), 600);
        time.step(at(3_600_200));
        assert_eq!(time.ms(), 700);
    }
}
