//! The load generator's clock: CLOCK_MONOTONIC in nanoseconds, as histories are recorded in.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A reading of CLOCK_MONOTONIC in nanoseconds: comparable over the processes of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

/// Nanoseconds in a second.
pub const NANOS_PER_S: u64 = 1_000_000_000;

impl Nanos {
    /// The clock's reading now (through the vDSO, about 25 ns).
    pub fn now() -> Nanos {
        let now = clock_gettime(ClockId::Monotonic);
        // The monotonic clock counts from boot: never negative.
        Nanos(now.tv_sec as u64 * NANOS_PER_S + now.tv_nsec as u64)
    }

    /// Nanoseconds since `earlier`; 0 when that is later.
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This time and `nanos` more.
    pub fn plus(self, nanos: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanos))
    }
}

/// What a CPU clock shows: [`ClockId::ProcessCPUTime`] or [`ClockId::ThreadCPUTime`].
pub fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
