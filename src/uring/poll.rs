//! How long a thread looks at its ring before it sleeps.
//!
//! Waking a thread that sleeps on an idle core costs tens of microseconds (30 to 60 on virtual
//! machines), as much as half a durable write, and a lone append waits for such a wake four times:
//! the leader's, the peer's, the disk's, the leader's again. A thread that keeps looking answers
//! at once. It gives way in between (`sched_yield`), so where cores are fewer than threads the
//! others run: three replicas and a load generator on two cores gain, too.
//!
//! [`BusyPoll`] decides how long, by what the last waits were like: it doubles the time when
//! something came within the longest time allowed, and halves it, down to none, when it did not.
//! So an idle node sleeps, and a busy one hardly ever does. (KVM's halt polling works like this.)
//! Its caller is [`super::Uring`]; it does nothing itself, so that the rule can be tested alone.

use std::time::Duration;

/// What polling starts with after none: below this it is not worth the first look.
const BUDGET_MIN: Duration = Duration::from_micros(25);

/// The rule of one thread.
#[derive(Clone, Debug)]
pub(super) struct BusyPoll {
    max: Duration,
    budget: Duration,
}

impl BusyPoll {
    /// Polls up to `max` before each sleep; zero: never.
    pub fn new(max: Duration) -> BusyPoll {
        BusyPoll { max, budget: Duration::ZERO }
    }

    /// How long to look before the next sleep.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// A wait has ended after `waited`, polled and slept together.
    pub fn learn(&mut self, waited: Duration) {
        let next =
            if waited <= self.max { (self.budget * 2).max(BUDGET_MIN) } else { self.budget / 2 };
        self.budget = if next < BUDGET_MIN { Duration::ZERO } else { next.min(self.max) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn grows_while_things_come_soon_up_to_its_maximum() {
        let mut poll = BusyPoll::new(us(200));
        let mut budgets = Vec::new();
        for _ in 0..5 {
            poll.learn(us(150));
            budgets.push(poll.budget());
        }
        assert_eq!(budgets, [us(25), us(50), us(100), us(200), us(200)]);
    }

    #[test]
    fn an_idle_thread_stops_polling_after_a_few_waits() {
        let mut poll = BusyPoll::new(us(200));
        (0..8).for_each(|_| poll.learn(us(10)));
        let mut spent = Duration::ZERO;
        for _ in 0..8 {
            spent += poll.budget();
            poll.learn(us(50_000));
        }
        assert_eq!((poll.budget(), spent), (Duration::ZERO, us(200 + 100 + 50 + 25)));
    }

    #[test]
    fn one_long_pause_between_short_waits_does_not_end_it() {
        // Requests that come alone: one long wait, then those for the disk, the peers, the client.
        let mut poll = BusyPoll::new(us(200));
        for _ in 0..10 {
            poll.learn(us(5_000));
            (0..3).for_each(|_| poll.learn(us(100)));
        }
        assert_eq!(poll.budget(), us(200));
    }

    #[test]
    fn never_polls_when_told_so() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        for waited in [0, 1, 1_000] {
            poll.learn(us(waited));
            assert_eq!(poll.budget(), Duration::ZERO);
        }
    }
}
