//! Where the records of a run of applied slots stand, found by log and position.
//!
//! Used by the node's cache and by the log's index. Every slot is added on the hot path, and few are
//! ever asked about: so adding costs nothing per log, and what a search needs is made when the first
//! search comes, a chunk of slots at a time.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{LogId, Placement, Position, Slot};

/// Slots that are indexed together; the last chunk, still growing, is searched slot by slot.
const CHUNK_SLOTS: usize = 64;

#[derive(Debug)]
struct Chunk {
    slots: Vec<(Slot, Rc<Placement>)>,
    /// No record of log 0 in here is below this.
    own_start: Position,
    /// Every span, by log and position, with its slot; once the chunk is full and was asked.
    sorted: OnceCell<Vec<(LogId, Position, Slot)>>,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.slots.len() == CHUNK_SLOTS
    }

    fn last(&self) -> Slot {
        self.slots.last().expect("a chunk begins with a slot").0
    }

    /// The spans of `log`, in order.
    fn of_log(&self, log: LogId) -> impl DoubleEndedIterator<Item = (Position, Slot)> + '_ {
        let (growing, full) = match self.is_full() {
            true => (&[][..], self.sorted_of(log)),
            false => (&self.slots[..], &[][..]),
        };
        let scanned = growing
            .iter()
            .filter_map(move |(slot, placement)| Some((placement.span(log)?.first, *slot)));
        scanned.chain(full.iter().map(|(_, first, slot)| (*first, *slot)))
    }

    fn sorted_of(&self, log: LogId) -> &[(LogId, Position, Slot)] {
        let sorted = self.sorted.get_or_init(|| {
            let spans = |(slot, placement): &(Slot, Rc<Placement>)| {
                let slot = *slot;
                let spans: Vec<_> =
                    placement.spans.iter().map(|s| (s.log, s.first, slot)).collect();
                spans
            };
            let mut all: Vec<_> = self.slots.iter().flat_map(spans).collect();
            // Positions rise with the slots, so order by log keeps them in order.
            all.sort_by_key(|(log, ..)| *log);
            all
        });
        let start = sorted.partition_point(|(of, ..)| *of < log);
        let end = start + sorted[start..].partition_point(|(of, ..)| *of == log);
        &sorted[start..end]
    }
}

/// Applied slots, in order.
#[derive(Debug, Default)]
pub struct Places {
    chunks: VecDeque<Chunk>,
    /// The position behind the last record of log 0 that was added.
    own_end: Position,
}

impl Places {
    /// Adds a slot.
    ///
    /// # Panics
    /// When it is not above the last one.
    pub fn push(&mut self, slot: Slot, placement: Rc<Placement>) {
        let full = match self.chunks.back() {
            None => true,
            Some(chunk) => {
                assert!(chunk.last() < slot, "slots are applied in order");
                chunk.is_full()
            }
        };
        if full {
            let slots = Vec::with_capacity(CHUNK_SLOTS);
            let own_start = self.own_end;
            self.chunks.push_back(Chunk { slots, own_start, sorted: OnceCell::new() });
        }
        if let Some(span) = placement.spans.first().filter(|span| span.log == LogId(0)) {
            self.own_end = span.end();
        }
        let chunk = self.chunks.back_mut().expect("there is one since the lines above");
        chunk.slots.push((slot, placement));
    }

    /// The slots up to `slot` need not be found any more. (Some still may: they leave in chunks.)
    pub fn forget_through(&mut self, slot: Slot) {
        while self.chunks.front().is_some_and(|chunk| chunk.last() <= slot) {
            self.chunks.pop_front();
        }
    }

    /// The last slot whose records in `log` begin at or before `position`: if any slot here holds
    /// the record, it is this one.
    pub fn at(&self, log: LogId, position: Position) -> Option<Slot> {
        self.search(log, position).map(|(_, _, slot)| slot)
    }

    /// From the slot that [`Places::at`] finds on: the slots with records of `log`, each with the
    /// position of its first record there.
    pub fn starting_at(
        &self,
        log: LogId,
        position: Position,
    ) -> impl Iterator<Item = (Position, Slot)> + '_ {
        let found = self.search(log, position);
        let start = found.map_or(self.chunks.len(), |(index, ..)| index);
        let first = found.map(|(_, first, _)| first);
        let chunks = self.chunks.range(start..);
        chunks.flat_map(move |chunk| chunk.of_log(log)).filter(move |(at, _)| Some(*at) >= first)
    }

    fn search(&self, log: LogId, position: Position) -> Option<(usize, Position, Slot)> {
        // Of log 0, which every small user has alone, the chunk is known.
        let end = match log {
            LogId(0) => self.chunks.partition_point(|chunk| chunk.own_start <= position),
            _ => self.chunks.len(),
        };
        (0..end).rev().find_map(|index| {
            let mut spans = self.chunks[index].of_log(log).rev();
            let (first, slot) = spans.find(|(first, _)| *first <= position)?;
            Some((index, first, slot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Span;
    use crate::base::rng::Rng;

    /// Against a plain list, with logs that come and go and slots without any record.
    #[test]
    fn finds_what_a_plain_search_finds() {
        let mut rng = Rng::new(7);
        let mut places = Places::default();
        let mut plain: Vec<(Slot, Rc<Placement>)> = Vec::new();
        let mut tails = [Position(100), Position(0), Position(0), Position(5)];
        for slot in (1..700).map(Slot) {
            let mut placement = Placement::default();
            for (log, tail) in tails.iter_mut().enumerate() {
                let often = [2, 3, 40, 1][log];
                if rng.below(often) == 0 {
                    let records = 1 + rng.below(4) as u32;
                    placement.spans.push(Span { log: LogId(log as u32), first: *tail, records });
                    *tail = tail.plus(u64::from(records));
                }
            }
            let placement = Rc::new(placement);
            places.push(slot, placement.clone());
            plain.push((slot, placement));
            if slot.0 % 100 == 0 {
                places.forget_through(Slot(slot.0 / 2));
                plain.retain(|(of, _)| of.0 > slot.0 / 2);
            }
            for log in (0..4).map(LogId) {
                let position = Position(rng.below(tails[log.0 as usize].0 + 3));
                let spans = plain
                    .iter()
                    .filter_map(|(slot, placement)| Some((placement.span(log)?.first, *slot)));
                let spans: Vec<_> = spans.collect();
                let from = spans.partition_point(|(first, _)| *first <= position).checked_sub(1);
                if let Some(from) = from {
                    assert_eq!(places.at(log, position), Some(spans[from].1));
                    let listed: Vec<_> = places.starting_at(log, position).collect();
                    assert_eq!(listed, spans[from..]);
                }
            }
        }
        assert_eq!(places.at(LogId(9), Position(0)), None);
        assert_eq!(places.starting_at(LogId(9), Position(0)).count(), 0);
    }
}
