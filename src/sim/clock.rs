//! One node's clock: runs at its own rate, from its own origin, and may jump forward.
//!
//! Guarantee: it never steps back (the seam promises a monotonic clock that counts suspension).

use std::time::Duration;

use super::time::Time;
use crate::base::Instant;

/// One second per second, in the unit of [`NodeClock::set_rate`].
pub const RATE_TRUE: u64 = 1_000_000;
/// The slowest rate: a clock that stands still would never wake its node.
pub const RATE_MIN: u64 = RATE_TRUE / 100;

/// The clock of one node.
#[derive(Clone, Debug)]
pub struct NodeClock {
    anchor: Time,
    reading: u64,
    /// Parts per million of true time.
    rate: u64,
}

impl NodeClock {
    /// A clock that reads `origin` nanoseconds at `now` and runs true.
    pub fn new(now: Time, origin: u64) -> NodeClock {
        NodeClock { anchor: now, reading: origin, rate: RATE_TRUE }
    }

    /// The reading at `now`.
    pub fn read(&self, now: Time) -> Instant {
        let passed = u128::from(now.0.saturating_sub(self.anchor.0));
        Instant(self.reading + (passed * u128::from(self.rate) / u128::from(RATE_TRUE)) as u64)
    }

    /// Runs at `rate` parts per million from now on (not below [`RATE_MIN`]).
    pub fn set_rate(&mut self, now: Time, rate: u64) {
        self.reading = self.read(now).0;
        self.anchor = now;
        self.rate = rate.max(RATE_MIN);
    }

    /// Jumps forward.
    pub fn jump(&mut self, now: Time, by: Duration) {
        self.reading = self.read(now).0 + by.as_nanos() as u64;
        self.anchor = now;
    }

    /// The world's time that passes while this clock counts `span`, rounded up.
    pub fn true_time(&self, span: Duration) -> Duration {
        let nanos = span.as_nanos() * u128::from(RATE_TRUE);
        Duration::from_nanos(nanos.div_ceil(u128::from(self.rate)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_jumps_never_step_back() {
        let mut clock = NodeClock::new(Time(100), 7);
        assert_eq!(clock.read(Time(100)), Instant(7));
        clock.set_rate(Time(200), RATE_TRUE * 2);
        assert_eq!(clock.read(Time(200)), Instant(107));
        assert_eq!(clock.read(Time(300)), Instant(307));
        clock.jump(Time(300), Duration::from_nanos(1000));
        clock.set_rate(Time(300), RATE_TRUE / 2);
        assert_eq!(clock.read(Time(400)), Instant(1357));
        let wait = clock.true_time(Duration::from_nanos(9));
        assert!(clock.read(Time(400) + wait) >= Instant(1366));
    }
}
