//! The world's time and its queue: what happens next, in one total order.
//!
//! Used by everything in the world. Guarantee: two happenings never tie; of two at the same time
//! the one that was scheduled first comes first, so that one seed gives one run.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// The most happenings that may wait: a bound against a world that runs away.
const QUEUE_MAX: usize = 4 << 20;

/// Virtual time in nanoseconds since the world began. No node sees it: each has its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time since `earlier`; zero when that is in fact later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.0 as f64 / 1e9)
    }
}

struct Scheduled<T> {
    at: Time,
    sequence: u64,
    what: T,
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl<T> Eq for Scheduled<T> {}

impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The queue of what will happen, and the time of what happens now.
pub struct Schedule<T> {
    now: Time,
    sequence: u64,
    heap: BinaryHeap<Reverse<Scheduled<T>>>,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Schedule { now: Time::default(), sequence: 0, heap: BinaryHeap::new() }
    }
}

impl<T> Schedule<T> {
    /// The time of the last happening taken out.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets `what` happen at `at`, or now if that has passed.
    ///
    /// # Panics
    /// When more than [`QUEUE_MAX`] happenings wait: the world has run away.
    pub fn at(&mut self, at: Time, what: T) {
        assert!(self.heap.len() < QUEUE_MAX, "the world's queue has run away");
        self.sequence += 1;
        let at = at.max(self.now);
        self.heap.push(Reverse(Scheduled { at, sequence: self.sequence, what }));
    }

    /// Lets `what` happen after `delay`.
    pub fn after(&mut self, delay: Duration, what: T) {
        self.at(self.now + delay, what);
    }

    /// Takes out the next happening and moves the time to it.
    pub fn pop(&mut self) -> Option<T> {
        let Reverse(next) = self.heap.pop()?;
        assert!(next.at >= self.now, "time does not go back");
        self.now = next.at;
        Some(next.what)
    }

    /// How many happenings wait.
    pub fn waiting(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_by_time_then_by_who_came_first() {
        let mut schedule = Schedule::default();
        schedule.at(Time(20), "c");
        schedule.at(Time(10), "a");
        schedule.at(Time(10), "b");
        assert_eq!(schedule.pop(), Some("a"));
        schedule.after(Duration::ZERO, "b2");
        schedule.at(Time(1), "b3");
        let rest: Vec<_> = std::iter::from_fn(|| schedule.pop()).collect();
        assert_eq!(rest, ["b", "b2", "b3", "c"]);
        assert_eq!(schedule.now(), Time(20));
    }
}
