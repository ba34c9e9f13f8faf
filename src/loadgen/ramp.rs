//! The search for the knee (`bench --ramp`): which rate to offer next, and where a cluster stops
//! keeping up. Pure: rates out, what was found at them in.
//!
//! The rates double until one is not kept up with, twice, since one stall of a busy host is no
//! knee; then the search goes on between the highest rate that was kept up with and the lowest one
//! that was not, at their geometric mean, until these are within [`RESOLUTION`]. When the first
//! rate is too high already, the rates are halved first.

use serde::Serialize;

use super::report::PACE_KEPT_MIN;

/// The most steps of one ramp.
pub const STEPS_MAX: usize = 40;
/// The knee is told to this ratio.
pub const RESOLUTION: f64 = 1.05;
/// Where no limit is given: the p99 may be so many times the lowest one of any step.
pub const P99_RATIO_MAX: f64 = 10.0;
/// The part of the operations due that may never be sent: what a stall at the very end leaves behind.
/// More, and the load has fallen behind by more than all that may be in flight.
pub const UNSENT_PART_MAX: f64 = 0.001;
/// From one rate to the next while none was too high.
const GROWTH: f64 = 2.0;
/// The search is given up when the first rate over this is too high.
const DROP_MAX: f64 = 64.0;
/// Runs at a rate before it counts as too high.
const TRIES: usize = 2;

/// What a run at one rate has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Operations acknowledged a second.
    pub answered_per_s: f64,
    /// Operations of the measured phase acknowledged.
    pub ok: u64,
    /// Operations due in the measured phase, whatever became of them.
    pub due: u64,
    /// Those of them that were never sent: they are in no latency, and answers to what was due
    /// before the measured phase can make up for them in `answered_per_s`.
    pub unsent: u64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
}

/// Why a rate is too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Under [`PACE_KEPT_MIN`] of it was acknowledged.
    Rate,
    /// Over [`UNSENT_PART_MAX`] of it was never sent.
    Unsent,
    /// The p99 was over the limit.
    P99,
}

/// The search.
#[derive(Clone, Debug)]
pub struct Ramp {
    p99_us_max: Option<f64>,
    start: f64,
    next: f64,
    /// The highest rate that was kept up with, and the lowest one that was not.
    kept: Option<f64>,
    missed: Option<f64>,
    p99_us_least: f64,
    /// Runs at `next` that were not kept up with.
    tries: usize,
    steps: usize,
}

impl Ramp {
    /// From `start_per_s` operations a second on; with a limit of the p99, if given.
    ///
    /// # Panics
    /// When the rate is not above 0.
    pub fn new(start_per_s: f64, p99_us_max: Option<f64>) -> Ramp {
        assert!(start_per_s > 0.0, "the workload's rate is validated");
        Ramp {
            p99_us_max,
            start: start_per_s,
            next: start_per_s,
            kept: None,
            missed: None,
            p99_us_least: f64::INFINITY,
            tries: 0,
            steps: 0,
        }
    }

    /// The rate to offer next in operations a second; none: the search is over.
    pub fn next_rate(&self) -> Option<f64> {
        let told = matches!((self.kept, self.missed), (Some(kept), Some(missed))
            if missed / kept <= RESOLUTION);
        let hopeless = self.kept.is_none() && self.next * DROP_MAX < self.start;
        (self.steps < STEPS_MAX && !told && !hopeless).then_some(self.next)
    }

    /// The p99 that is too long, as of now, in microseconds.
    pub fn p99_us_max(&self) -> f64 {
        self.p99_us_max.unwrap_or(P99_RATIO_MAX * self.p99_us_least)
    }

    /// Takes in what was found at [`Ramp::next_rate`]: why it is too high, if it is.
    pub fn found(&mut self, found: &Found) -> Option<Limit> {
        self.steps += 1;
        if found.ok > 0 {
            self.p99_us_least = self.p99_us_least.min(found.p99_us);
        }
        let limit = if found.ok == 0 || found.answered_per_s < PACE_KEPT_MIN * self.next {
            Some(Limit::Rate)
        } else if found.unsent as f64 > UNSENT_PART_MAX * found.due as f64 {
            Some(Limit::Unsent)
        } else {
            (found.p99_us > self.p99_us_max()).then_some(Limit::P99)
        };
        if limit.is_none() {
            self.kept = Some(self.next);
        } else {
            self.tries += 1;
            if self.tries < TRIES {
                return limit;
            }
            self.missed = Some(self.next);
        }
        self.tries = 0;
        self.next = match (self.kept, self.missed) {
            (Some(kept), Some(missed)) => (kept * missed).sqrt(),
            (Some(kept), None) => kept * GROWTH,
            (None, Some(missed)) => missed / GROWTH,
            (None, None) => unreachable!("the rate was kept up with or missed"),
        };
        limit
    }

    /// The highest rate that was kept up with; none when none was.
    pub fn knee_per_s(&self) -> Option<f64> {
        self.kept
    }

    /// Whether a rate above the knee was tried: else the search ended before it found it.
    pub fn is_bounded(&self) -> bool {
        self.missed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster that takes `capacity` a second, with a p99 of 1 ms up to there.
    fn at(rate: f64, capacity: f64) -> Found {
        let answered_per_s = rate.min(capacity);
        let p99_us = if rate <= capacity { 1_000.0 } else { 500_000.0 };
        Found { answered_per_s, ok: 100, due: 100, unsent: 0, p99_us }
    }

    fn search(ramp: &mut Ramp, capacity: f64) -> usize {
        let mut steps = 0;
        while let Some(rate) = ramp.next_rate() {
            ramp.found(&at(rate, capacity));
            steps += 1;
        }
        steps
    }

    #[test]
    fn the_knee_is_found_within_its_resolution_from_below_and_from_above() {
        for capacity in [900.0, 12_345.0, 280_000.0, 999_999.0] {
            for start in [1_000.0, 50_000.0] {
                let mut ramp = Ramp::new(start, None);
                let steps = search(&mut ramp, capacity);
                let knee = ramp.knee_per_s().unwrap();
                assert!(ramp.is_bounded() && steps < STEPS_MAX, "{start} {capacity} {steps}");
                // What is kept up with may be over the capacity by what may be missing.
                assert!(knee <= capacity / PACE_KEPT_MIN, "{start} {capacity} {knee}");
                assert!(knee >= capacity / RESOLUTION, "{start} {capacity} {knee}");
            }
        }
    }

    #[test]
    fn a_long_p99_is_a_knee_too() {
        let mut ramp = Ramp::new(1_000.0, Some(2_000.0));
        let kept = Found { p99_us: 1_999.0, ..at(1_000.0, 1e9) };
        assert_eq!(ramp.found(&kept), None);
        let slow = Found { p99_us: 2_001.0, ..at(2_000.0, 1e9) };
        assert_eq!(ramp.found(&slow), Some(Limit::P99));
        assert_eq!(ramp.next_rate(), Some(2_000.0), "once more");
        assert_eq!(ramp.found(&slow), Some(Limit::P99));
        assert!((ramp.next_rate().unwrap() - 2_000_000f64.sqrt()).abs() < 1e-6);
        // Without a limit it is told by the best step's.
        let mut ramp = Ramp::new(1_000.0, None);
        ramp.found(&kept);
        assert_eq!(ramp.p99_us_max(), 19_990.0);
        let slow = Found { p99_us: 20_000.0, ..slow };
        assert_eq!(ramp.found(&slow), Some(Limit::P99));
    }

    #[test]
    fn what_was_never_sent_is_not_kept_up_with() {
        let mut ramp = Ramp::new(1_000.0, None);
        // Enough was answered, and in time: the answers are to what the warm-up had left.
        let behind = Found { due: 3_000, ok: 2_970, unsent: 30, ..at(1_000.0, 1e9) };
        assert_eq!(ramp.found(&behind), Some(Limit::Unsent));
        assert_eq!(ramp.found(&behind), Some(Limit::Unsent));
        assert_eq!((ramp.next_rate(), ramp.knee_per_s()), (Some(500.0), None));
        // What a stall at the end leaves is within the bound.
        let stalled = Found { due: 3_000, ok: 2_997, unsent: 3, ..at(500.0, 1e9) };
        assert_eq!(ramp.found(&stalled), None);
        assert_eq!(ramp.knee_per_s(), Some(500.0));
    }

    #[test]
    fn one_stall_is_no_knee() {
        let mut ramp = Ramp::new(1_000.0, None);
        assert_eq!(ramp.found(&at(1_000.0, 100.0)), Some(Limit::Rate));
        assert_eq!(ramp.next_rate(), Some(1_000.0));
        assert_eq!(ramp.found(&at(1_000.0, 1e9)), None);
        assert_eq!(ramp.next_rate(), Some(2_000.0));
        assert!(!ramp.is_bounded());
    }

    #[test]
    fn the_search_ends_whatever_is_found() {
        let mut ramp = Ramp::new(1_000.0, None);
        assert_eq!(search(&mut ramp, 1e300), STEPS_MAX);
        assert!(!ramp.is_bounded() && ramp.knee_per_s().is_some());
        let mut ramp = Ramp::new(1_000.0, None);
        let nothing = Found { answered_per_s: 0.0, ok: 0, due: 100, unsent: 100, p99_us: 0.0 };
        let mut steps = 0;
        while ramp.next_rate().is_some() {
            assert_eq!(ramp.found(&nothing), Some(Limit::Rate));
            steps += 1;
        }
        assert_eq!(steps, 14, "7 rates, each twice");
        assert_eq!(ramp.knee_per_s(), None);
    }
}
