//! A hash over everything that was applied: slot, value and outcomes of each slot, chained.
//!
//! Part of the machine's state. Replicas that applied the same values to the same state come to the same
//! hash; once they differ they differ for ever. Marks of it, at slots that are the same everywhere, are
//! kept for a while, so that replicas that are not equally far can be compared (`node/divergence.rs`).
//! The hash takes in the value's checksum, which stands in every batch, not its bytes again. It is no
//! cryptographic one: what it finds are mistakes, not enemies.

use std::collections::VecDeque;

use super::saved::{DecodeError, Reader, Writer};
use super::state::Outcome;
use crate::base::{Checksum, Slot};

/// A mark is taken at the slots that are multiples of this.
pub const STATE_MARK_EVERY: u64 = 1024;
/// The marks that are kept: replicas that are so many slots apart, together, can be compared.
pub const STATE_MARKS_MAX: usize = 64;

/// The hash of the state after a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateMark {
    /// The slot.
    pub slot: Slot,
    /// The hash after it.
    pub hash: u64,
}

/// The chain and its latest marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StateHash {
    hash: u64,
    marks: VecDeque<StateMark>,
}

fn mix(hash: u64, number: u64) -> u64 {
    let mixed = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

impl StateHash {
    /// Takes in a slot that has been applied; `counters` is more of the state that it led to.
    pub fn add(
        &mut self,
        slot: Slot,
        value: Checksum,
        outcomes: &[Outcome],
        counters: [u64; 2],
        mark_every: u64,
    ) {
        let head = [slot.0, u64::from(value.0), counters[0], counters[1]];
        let hash = head.into_iter().fold(self.hash, mix);
        let numbers = outcomes.iter().flat_map(Outcome::numbers);
        self.hash = numbers.fold(hash, mix);
        if slot.0.is_multiple_of(mark_every) {
            if self.marks.len() == STATE_MARKS_MAX {
                self.marks.pop_front();
            }
            self.marks.push_back(StateMark { slot, hash: self.hash });
        }
    }

    /// The marks that are kept, the oldest first.
    pub fn marks(&self) -> &VecDeque<StateMark> {
        &self.marks
    }

    pub fn encode(&self, out: &mut Writer) {
        out.put_u64(self.hash);
        out.put_u32(self.marks.len() as u32);
        for mark in &self.marks {
            out.put_u64(mark.slot.0);
            out.put_u64(mark.hash);
        }
    }

    /// Reads what [`StateHash::encode`] wrote, of a state after `applied`.
    pub fn decode(from: &mut Reader<'_>, applied: Slot) -> Result<StateHash, DecodeError> {
        let wrong = |what| Err(DecodeError::Wrong(what));
        let mut read = StateHash { hash: from.u64()?, marks: VecDeque::new() };
        let count = from.u32()? as usize;
        if count > STATE_MARKS_MAX {
            return wrong("it tells of too many marks of its hash");
        }
        for _ in 0..count {
            let mark = StateMark { slot: Slot(from.u64()?), hash: from.u64()? };
            let before = read.marks.back().map_or(Slot::NONE, |mark| mark.slot);
            if mark.slot <= before || mark.slot > applied {
                return wrong("the marks of its hash are out of order");
            }
            read.marks.push_back(mark);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Position;
    use crate::machine::Placed;

    fn chain(slots: u64, wrong_at: u64) -> StateHash {
        let mut hash = StateHash::default();
        for slot in 1..=slots {
            let first = Position(slot + u64::from(slot == wrong_at));
            let outcome = Outcome::Appended(Placed { first, records: 1 });
            hash.add(Slot(slot), Checksum(slot as u32 ^ 7), &[outcome], [slot, 0], 16);
        }
        hash
    }

    #[test]
    fn one_other_outcome_changes_every_later_mark_and_none_before() {
        let (right, wrong) = (chain(200, 0), chain(200, 100));
        assert_eq!(right.marks().len(), 12);
        for (right, wrong) in right.marks().iter().zip(wrong.marks()) {
            assert_eq!(right.slot, wrong.slot);
            assert_eq!(right.hash == wrong.hash, right.slot < Slot(100), "{right:?}");
        }
    }

    #[test]
    fn marks_are_bounded_and_the_latest_are_kept() {
        let hash = chain(16 * 100, 0);
        let slots: Vec<u64> = hash.marks().iter().map(|mark| mark.slot.0).collect();
        assert_eq!(slots, (37..=100).map(|mark| mark * 16).collect::<Vec<_>>());
    }
}
