//! Where the time of a slot goes at this node: a histogram per stage, since the node started.
//!
//! Written by the node and the server as slots pass, a few clock readings and counts per slot and
//! turn, none per record; read by `status`. Nothing decides by it.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::base::{Instant, Slot};
use crate::wire::status::StageStatus;

/// The longest time told apart in nanoseconds; a longer one counts as this.
const STAGE_NS_MAX: u64 = 60 * 1_000_000_000;
/// Values are told apart to 1%.
const SIGNIFICANT_DIGITS: u8 = 2;

/// A stage of a slot's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Leader: from the first command in the open batch until it is sealed.
    Batch,
    /// From an entry's hand-over to the log until it is durable here.
    Write,
    /// Leader: from the sealing until the first peer's acceptance is here: both ways of the network
    /// and the peer's write.
    Peer,
    /// Leader: from the sealing until a quorum has accepted the slot and those before it.
    Quorum,
    /// From the choosing until the answers are queued to be sent: applying is in it.
    Answer,
    /// A turn of the node's thread that had something to do, from waking to sleeping.
    Turn,
}

impl Stage {
    const ALL: [Stage; 6] =
        [Stage::Batch, Stage::Write, Stage::Peer, Stage::Quorum, Stage::Answer, Stage::Turn];

    fn name(self) -> &'static str {
        match self {
            Stage::Batch => "batch",
            Stage::Write => "write",
            Stage::Peer => "peer",
            Stage::Quorum => "quorum",
            Stage::Answer => "answer",
            Stage::Turn => "turn",
        }
    }
}

/// A slot that this node has proposed and that is not chosen yet.
#[derive(Debug)]
struct Proposed {
    slot: Slot,
    sealed_at: Instant,
    /// A peer has accepted it.
    answered: bool,
}

/// The histograms, and what is on its way through the stages.
#[derive(Debug)]
pub struct Stages {
    histograms: [Histogram<u32>; Stage::ALL.len()],
    /// By slot, without a gap; bounded by the core's window.
    proposed: VecDeque<Proposed>,
    /// When the first slot was chosen whose answers have not left.
    chosen_at: Option<Instant>,
}

impl Stages {
    /// Nothing has passed yet.
    pub fn new() -> Stages {
        let empty = Histogram::new_with_bounds(1, STAGE_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants within the library's limits");
        let histograms = Stage::ALL.map(|_| empty.clone());
        Stages { histograms, proposed: VecDeque::new(), chosen_at: None }
    }

    /// Counts one passage.
    pub fn record(&mut self, stage: Stage, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.histograms[stage as usize].saturating_record(nanos);
    }

    /// The open batch, begun at `since`, is proposed for `slot`.
    pub fn sealed(&mut self, slot: Slot, since: Instant, now: Instant) {
        self.record(Stage::Batch, now.since(since));
        self.proposed.push_back(Proposed { slot, sealed_at: now, answered: false });
    }

    /// A peer has accepted `slot`.
    pub fn answered(&mut self, slot: Slot, now: Instant) {
        let Some(first) = self.proposed.front() else { return };
        let index = slot.0.checked_sub(first.slot.0).map(|index| index as usize);
        let Some(proposed) = index.and_then(|index| self.proposed.get_mut(index)) else { return };
        if !std::mem::replace(&mut proposed.answered, true) {
            let took = now.since(proposed.sealed_at);
            self.record(Stage::Peer, took);
        }
    }

    /// `slot` is chosen.
    pub fn chosen(&mut self, slot: Slot, now: Instant) {
        self.chosen_at.get_or_insert(now);
        // Slots are chosen in order; those of earlier leaders were not proposed here.
        if self.proposed.front().is_some_and(|proposed| proposed.slot == slot) {
            let proposed = self.proposed.pop_front().expect("looked at above");
            self.record(Stage::Quorum, now.since(proposed.sealed_at));
        }
    }

    /// The answers to what has been chosen have left.
    pub fn answers_left(&mut self, now: Instant) {
        if let Some(chosen_at) = self.chosen_at.take() {
            self.record(Stage::Answer, now.since(chosen_at));
        }
    }

    /// This node leads no more: what it had proposed is no longer its own to follow.
    pub fn lost_lead(&mut self) {
        self.proposed.clear();
    }

    /// What has passed so far.
    pub fn status(&self) -> Vec<StageStatus> {
        let us = |nanos: u64| nanos as f64 / 1e3;
        let status = |stage: Stage| {
            let histogram = &self.histograms[stage as usize];
            let at = |quantile| us(histogram.value_at_quantile(quantile));
            StageStatus {
                stage: stage.name().to_owned(),
                count: histogram.len(),
                us_p50: at(0.5),
                us_p90: at(0.9),
                us_p99: at(0.99),
                us_p999: at(0.999),
                us_max: us(histogram.max()),
                us_mean: histogram.mean() / 1e3,
            }
        };
        Stage::ALL.into_iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant(us * 1000)
    }

    #[test]
    fn a_slot_is_followed_from_sealing_to_its_answers() {
        let mut stages = Stages::new();
        stages.sealed(Slot(5), at(10), at(30));
        stages.sealed(Slot(6), at(30), at(40));
        stages.answered(Slot(5), at(130));
        stages.answered(Slot(5), at(500));
        stages.answered(Slot(4), at(140));
        stages.answered(Slot(7), at(140));
        stages.chosen(Slot(4), at(145));
        stages.chosen(Slot(5), at(150));
        stages.answers_left(at(155));
        stages.answers_left(at(900));
        stages.lost_lead();
        stages.chosen(Slot(6), at(1000));
        let found: Vec<_> = stages.status().into_iter().map(|s| (s.count, s.us_max)).collect();
        let near = |found: (u64, f64), count, us: f64| {
            assert!(found.0 == count && (found.1 - us).abs() <= us / 50.0, "{found:?} {us}");
        };
        near(found[Stage::Batch as usize], 2, 20.0);
        near(found[Stage::Peer as usize], 1, 100.0);
        near(found[Stage::Quorum as usize], 1, 120.0);
        near(found[Stage::Answer as usize], 1, 10.0);
        assert_eq!(found[Stage::Write as usize].0, 0);
    }
}
