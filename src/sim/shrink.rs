//! Shrinking: the least of a failing seed that still fails in the same check.
//!
//! Called by `loggos sim --seed S --shrink` and by tests; how a candidate is run is the caller's
//! (a child process, where a panic ends the process). Guarantee: what comes out fails in the same
//! check as what went in, and the number of tries is bounded.

use super::counters::Hit;
use super::plan::{FaultSet, Limits, Plan};

/// The most runs of one shrinking.
pub const TRIES_MAX: u64 = 400;
/// Strikes and operations are looked for up to this number.
const NUMBER_MAX: u64 = 1 << 14;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The least that still fails.
    pub limits: Limits,
    /// Runs that it took.
    pub tries: u64,
}

/// Lessens `start`, with which `seed` is known to fail. `fails` runs a candidate and says whether
/// it fails in the same check.
pub fn shrink(seed: u64, start: &Limits, fails: &mut dyn FnMut(&Limits) -> bool) -> Shrunk {
    let mut shrinker = Shrinker { limits: start.clone(), tries: 0, fails };
    // Classes that the seed has not drawn make no difference: leaving them out takes no run.
    let plan = Plan::draw(seed, start);
    shrinker.limits.faults = plan.faults;
    shrinker.limits.nodes_max = plan.nodes;
    shrinker.limits.clients_max = plan.clients;
    loop {
        let before = shrinker.limits.clone();
        shrinker.lessen_faults();
        shrinker.lessen_number(|limits| &mut limits.strikes_max);
        shrinker.lessen_size(|limits| &mut limits.nodes_max);
        shrinker.lessen_size(|limits| &mut limits.clients_max);
        shrinker.lessen_number(|limits| &mut limits.operations_max);
        if shrinker.limits == before || shrinker.tries >= TRIES_MAX {
            return Shrunk { limits: shrinker.limits, tries: shrinker.tries };
        }
    }
}

struct Shrinker<'a> {
    limits: Limits,
    tries: u64,
    fails: &'a mut dyn FnMut(&Limits) -> bool,
}

impl Shrinker<'_> {
    /// Keeps the candidate if it still fails.
    fn try_limits(&mut self, candidate: Limits) -> bool {
        if self.tries >= TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.limits = candidate;
        }
        fails
    }

    /// Leaves out classes: all, then runs of them, half as long each time, down to single ones.
    fn lessen_faults(&mut self) {
        let mut size = self.limits.faults.iter().count();
        while size > 0 {
            let classes: Vec<Hit> = self.limits.faults.iter().collect();
            for run in classes.chunks(size) {
                let faults = run.iter().fold(self.limits.faults, |set, hit| set.without(*hit));
                if faults != self.limits.faults {
                    self.try_limits(Limits { faults, ..self.limits.clone() });
                }
            }
            size /= 2;
        }
        if self.limits.faults == FaultSet::NONE {
            self.try_limits(Limits { strikes_max: 0, ..self.limits.clone() });
        }
    }

    /// The least size, one after the other.
    fn lessen_size(&mut self, part: impl Fn(&mut Limits) -> &mut usize) {
        for size in 1..*part(&mut self.limits) {
            let mut candidate = self.limits.clone();
            *part(&mut candidate) = size;
            if self.try_limits(candidate) {
                return;
            }
        }
    }

    /// The least number: doubling until it fails (small runs are short), then between the last two.
    fn lessen_number(&mut self, part: impl Fn(&mut Limits) -> &mut u64) {
        let now = (*part(&mut self.limits)).min(NUMBER_MAX);
        let (mut low, mut number) = (0, 0);
        while number < now {
            if self.try_number(&part, number) {
                break;
            }
            (low, number) = (number + 1, (number * 2).max(1));
        }
        // Below `low` it does not fail, as far as it was tried.
        let mut high = *part(&mut self.limits);
        while low < high && high <= NUMBER_MAX {
            let middle = low + (high - low) / 2;
            match self.try_number(&part, middle) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
    }

    fn try_number(&mut self, part: &impl Fn(&mut Limits) -> &mut u64, number: u64) -> bool {
        let mut candidate = self.limits.clone();
        *part(&mut candidate) = number;
        self.try_limits(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_is_lessened_and_what_is_needed_stays() {
        let seed = (0..100)
            .find(|seed| {
                let plan = Plan::draw(*seed, &Limits::default());
                let drawn = [Hit::Pause, Hit::PowerCut].iter().all(|hit| plan.faults.has(*hit));
                drawn && plan.nodes == 5 && plan.clients >= 3
            })
            .expect("some seed draws that");
        let start = Limits::default();
        let mut fails = |limits: &Limits| {
            limits.faults.has(Hit::Pause)
                && limits.faults.has(Hit::PowerCut)
                && limits.strikes_max >= 13
                && limits.nodes_max >= 3
                && limits.clients_max >= 2
                && limits.operations_max >= 37
        };
        let shrunk = shrink(seed, &start, &mut fails);
        let faults = FaultSet::NONE.with(Hit::Pause).with(Hit::PowerCut);
        let least = Limits {
            faults,
            strikes_max: 13,
            nodes_max: 3,
            clients_max: 2,
            operations_max: 37,
            ..start
        };
        assert_eq!(shrunk.limits, least);
        assert!(shrunk.tries < TRIES_MAX / 2, "{} tries", shrunk.tries);
    }

    /// A planted bug, found by the simulator, is shrunk to little and still found.
    #[cfg(feature = "mutants")]
    #[test]
    fn a_planted_bug_is_shrunk_and_still_found_by_the_same_check() {
        use crate::base::mutants::Mutant;
        use crate::sim::run;

        let limits = Limits { mutant: Some(Mutant::BallotReusedAfterRestart), ..Limits::default() };
        let check = |limits: &Limits, seed| {
            run(seed, limits).violation.map(|finding| finding.violation.check)
        };
        let found = (1..200).find_map(|seed| Some((seed, check(&limits, seed)?)));
        let (seed, first) = found.expect("the bug is found");
        let shrunk = shrink(seed, &limits, &mut |candidate| check(candidate, seed) == Some(first));
        assert_eq!(check(&shrunk.limits, seed), Some(first));
        let classes = shrunk.limits.faults.iter().count();
        assert!(classes <= 2, "{:?}", shrunk.limits);
        assert!(shrunk.limits.operations_max < 50, "{:?}", shrunk.limits);
    }
}
