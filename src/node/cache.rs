//! The bounded cache of recently applied slots: tailing readers and lagging peers are served from
//! here, older slots from the log.
//!
//! Owned by the node; filled at apply, in slot order. Its memory is bounded by
//! [`SlotCache::new`]'s limit (of what the batches keep alive, not of their values).

use std::collections::VecDeque;
use std::rc::Rc;

use crate::base::{Ballot, Batch, LogId, Placement, Places, Position, Slot};

/// What a span costs in memory, its place among those that were searched included, in bytes.
const SPAN_COST: usize = 48;

/// An applied slot.
#[derive(Clone, Debug)]
pub struct AppliedSlot {
    /// The slot.
    pub slot: Slot,
    /// The ballot of the value in this replica's log.
    pub ballot: Ballot,
    /// Where its records stand, and which of its commands had no effect.
    pub placement: Rc<Placement>,
    /// Its value.
    pub batch: Batch,
}

/// The cache: a run of slots without a gap, ending at the last applied one.
#[derive(Debug)]
pub struct SlotCache {
    slots: VecDeque<AppliedSlot>,
    places: Places,
    bytes: usize,
    bytes_max: usize,
}

impl SlotCache {
    /// A cache that keeps at most `bytes_max` bytes of memory alive (but always the last slot).
    pub fn new(bytes_max: usize) -> SlotCache {
        SlotCache { slots: VecDeque::new(), places: Places::default(), bytes: 0, bytes_max }
    }

    /// Adds the slot that was just applied, and lets the oldest go.
    pub fn push(&mut self, applied: AppliedSlot) {
        if let Some(last) = self.slots.back() {
            assert_eq!(applied.slot, last.slot.next(), "slots are applied without a gap");
        }
        self.bytes += cost(&applied);
        self.places.push(applied.slot, applied.placement.clone());
        self.slots.push_back(applied);
        while self.bytes > self.bytes_max && self.slots.len() > 1 {
            let oldest = self.slots.pop_front().expect("not empty");
            self.bytes -= cost(&oldest);
            self.places.forget_through(oldest.slot);
        }
    }

    /// The slot, when it is kept.
    pub fn slot(&self, slot: Slot) -> Option<&AppliedSlot> {
        let first = self.slots.front()?.slot;
        let index = slot.0.checked_sub(first.0)?;
        self.slots.get(usize::try_from(index).ok()?)
    }

    /// The slots with records of `log`, from the one that holds the record at `position` on, each
    /// with the position of its first record in that log; empty when that record is not kept.
    pub fn starting_at(
        &self,
        log: LogId,
        position: Position,
    ) -> impl Iterator<Item = (Position, &AppliedSlot)> {
        let holds = |slot: Slot| {
            let span = self.slot(slot)?.placement.span(log)?;
            span.holds(log, position).then_some(())
        };
        let found = self.places.at(log, position).and_then(holds);
        let slots = found.into_iter().flat_map(move |()| self.places.starting_at(log, position));
        slots.filter_map(|(first, slot)| Some((first, self.slot(slot)?)))
    }
}

fn cost(applied: &AppliedSlot) -> usize {
    let spans = applied.placement.spans.len() * SPAN_COST;
    applied.batch.memory_size() + size_of::<AppliedSlot>() + spans + applied.placement.refused.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockPool, NodeId, Span};

    fn applied(slot: u64, first: u64, records: u32, batch: Batch) -> AppliedSlot {
        let ballot = Ballot { round: 1, node: NodeId(1) };
        let placement = Rc::new(Placement::simple(Position(first), records));
        AppliedSlot { slot: Slot(slot), ballot, placement, batch }
    }

    #[test]
    fn finds_by_slot_and_by_position_across_empty_slots() {
        let mut cache = SlotCache::new(1 << 20);
        assert_eq!(cache.starting_at(LogId(0), Position(0)).count(), 0);
        for (slot, first, records) in [(5, 10, 3), (6, 13, 0), (7, 13, 0), (8, 13, 2), (9, 15, 0)] {
            cache.push(applied(slot, first, records, Batch::noop()));
        }
        let found = |position| {
            cache.starting_at(LogId(0), Position(position)).next().map(|(_, a)| a.slot.0)
        };
        assert_eq!(found(9), None);
        assert_eq!((found(10), found(12)), (Some(5), Some(5)));
        assert_eq!((found(13), found(14)), (Some(8), Some(8)));
        assert_eq!(found(15), None);
        assert_eq!(cache.slot(Slot(4)).map(|a| a.slot), None);
        assert_eq!(cache.slot(Slot(9)).map(|a| a.slot), Some(Slot(9)));
        assert_eq!(cache.slot(Slot(10)).map(|a| a.slot), None);
    }

    #[test]
    fn logs_are_found_apart_and_forgotten_together() {
        let span = |log, first, records| Span { log: LogId(log), first: Position(first), records };
        let mut cache = SlotCache::new(1 << 20);
        let spans = [
            vec![span(0, 0, 2), span(7, 0, 1)],
            vec![span(3, 5, 1)],
            vec![span(7, 1, 2)],
            vec![span(0, 2, 1), span(3, 6, 4), span(7, 3, 1)],
        ];
        for (slot, spans) in (1..).zip(spans) {
            let placement = Rc::new(Placement { spans, refused: vec![] });
            cache.push(AppliedSlot { placement, ..applied(slot, 0, 0, Batch::noop()) });
        }
        let found = |cache: &SlotCache, log, position| -> Vec<(u64, u64)> {
            let found = cache.starting_at(LogId(log), Position(position));
            found.map(|(first, applied)| (first.0, applied.slot.0)).collect()
        };
        assert_eq!(found(&cache, 7, 0), [(0, 1), (1, 3), (3, 4)]);
        assert_eq!(found(&cache, 7, 2), [(1, 3), (3, 4)]);
        assert_eq!(found(&cache, 3, 4), []);
        assert_eq!(found(&cache, 0, 2), [(2, 4)]);
        assert_eq!(found(&cache, 9, 0), []);
        cache.bytes_max = 0;
        cache.push(applied(5, 3, 1, Batch::noop()));
        assert_eq!(found(&cache, 7, 3), []);
        assert_eq!(cache.slots.len(), 1);
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
