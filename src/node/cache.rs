//! The bounded cache of recently applied slots: tailing readers and lagging peers are served from
//! here, older slots from the log.
//!
//! Owned by the node; filled at apply, in slot order. Its memory is bounded by
//! [`SlotCache::new`]'s limit (of what the batches keep alive, not of their values).

use std::collections::VecDeque;

use crate::base::{Ballot, Batch, Position, Slot};

/// An applied slot.
#[derive(Clone, Debug)]
pub struct AppliedSlot {
    /// The slot.
    pub slot: Slot,
    /// The ballot of the value in this replica's log.
    pub ballot: Ballot,
    /// The position of its first record; of the next record to come when it has none.
    pub first: Position,
    /// How many records it has.
    pub records: u32,
    /// Its value.
    pub batch: Batch,
}

/// The cache: a run of slots without a gap, ending at the last applied one.
#[derive(Debug)]
pub struct SlotCache {
    slots: VecDeque<AppliedSlot>,
    bytes: usize,
    bytes_max: usize,
}

impl SlotCache {
    /// A cache that keeps at most `bytes_max` bytes of memory alive (but always the last slot).
    pub fn new(bytes_max: usize) -> SlotCache {
        SlotCache { slots: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the slot that was just applied, and lets the oldest go.
    pub fn push(&mut self, applied: AppliedSlot) {
        if let Some(last) = self.slots.back() {
            assert_eq!(applied.slot, last.slot.next(), "slots are applied without a gap");
        }
        self.bytes += cost(&applied);
        self.slots.push_back(applied);
        while self.bytes > self.bytes_max && self.slots.len() > 1 {
            let oldest = self.slots.pop_front().expect("not empty");
            self.bytes -= cost(&oldest);
        }
    }

    /// The slot, when it is kept.
    pub fn slot(&self, slot: Slot) -> Option<&AppliedSlot> {
        let first = self.slots.front()?.slot;
        let index = slot.0.checked_sub(first.0)?;
        self.slots.get(usize::try_from(index).ok()?)
    }

    /// The slots from the one that holds the record at `position` on; empty when that record is
    /// not kept.
    pub fn starting_at(&self, position: Position) -> impl Iterator<Item = &AppliedSlot> {
        let after = self.slots.partition_point(|applied| applied.first <= position);
        // Slots without records share their first position with the next one: step back over
        // them to the one slot that may hold the record.
        let start = (0..after)
            .rev()
            .find(|index| self.slots[*index].records > 0)
            .filter(|index| holds(&self.slots[*index], position))
            .unwrap_or(self.slots.len());
        self.slots.range(start..)
    }
}

fn holds(applied: &AppliedSlot, position: Position) -> bool {
    position >= applied.first && position < applied.first.plus(u64::from(applied.records))
}

fn cost(applied: &AppliedSlot) -> usize {
    applied.batch.memory_size() + size_of::<AppliedSlot>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockPool, NodeId};

    fn applied(slot: u64, first: u64, records: u32, batch: Batch) -> AppliedSlot {
        let ballot = Ballot { round: 1, node: NodeId(1) };
        AppliedSlot { slot: Slot(slot), ballot, first: Position(first), records, batch }
    }

    #[test]
    fn finds_by_slot_and_by_position_across_empty_slots() {
        let mut cache = SlotCache::new(1 << 20);
        assert_eq!(cache.starting_at(Position(0)).count(), 0);
        for (slot, first, records) in [(5, 10, 3), (6, 13, 0), (7, 13, 0), (8, 13, 2), (9, 15, 0)] {
            cache.push(applied(slot, first, records, Batch::noop()));
        }
        let found = |position| cache.starting_at(Position(position)).next().map(|a| a.slot.0);
        assert_eq!(found(9), None);
        assert_eq!((found(10), found(12)), (Some(5), Some(5)));
        assert_eq!((found(13), found(14)), (Some(8), Some(8)));
        assert_eq!(found(15), None);
        assert_eq!(cache.slot(Slot(4)).map(|a| a.slot), None);
        assert_eq!(cache.slot(Slot(9)).map(|a| a.slot), Some(Slot(9)));
        assert_eq!(cache.slot(Slot(10)).map(|a| a.slot), None);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stays() {
        let pool = BlockPool::new(0);
        let mut cache = SlotCache::new(10 * 4096);
        for slot in 1..=100 {
            cache.push(applied(slot, slot, 1, Batch::copy_of(&pool, b"value")));
            assert!(pool.live_bytes() <= 10 * 4096);
        }
        assert!(cache.slot(Slot(100)).is_some());
        assert!(cache.slot(Slot(80)).is_none());
        cache.push(applied(101, 101, 1, Batch::copy_of(&pool, &[0; 1 << 20])));
        assert!(cache.slot(Slot(101)).is_some() && cache.slot(Slot(100)).is_none());
    }
}
