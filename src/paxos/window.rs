//! The accepted values that a replica holds in memory: a run of slots, with holes.
//!
//! Used by the acceptor for every slot above the chosen watermark, and by a leader also for
//! recent chosen slots that some peer has not answered. The callers bound its length. The steady
//! path moves along the run without allocating.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use super::Value;
use super::effect::PersistId;
use super::quorum::Votes;
use crate::base::{Ballot, Slot};

/// One accepted value.
#[derive(Clone, Debug)]
pub(super) struct Entry<V> {
    /// The ballot it was accepted at.
    pub(super) ballot: Ballot,
    /// The value.
    pub(super) value: V,
    /// The write that makes it durable; none when it was recovered from the log.
    pub(super) persist: Option<PersistId>,
    /// Whether that write has been reported durable.
    pub(super) durable: bool,
    /// The acceptance is to be told when both it and the promise of its ballot are durable.
    pub(super) owed: bool,
    /// Who has accepted it at this ballot, as far as this replica knows as its leader.
    pub(super) votes: Votes,
}

/// A run of slots from `first`.
#[derive(Clone, Debug)]
pub(super) struct Window<V> {
    first: Slot,
    entries: VecDeque<Option<Entry<V>>>,
    /// Of all values held.
    bytes: usize,
}

impl<V: Value> Window<V> {
    /// An empty run whose first slot will be `first`.
    pub(super) fn new(first: Slot) -> Window<V> {
        Window { first, entries: VecDeque::new(), bytes: 0 }
    }

    /// Bytes of all values held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first slot of the run.
    pub(super) fn first(&self) -> Slot {
        self.first
    }

    fn index(&self, slot: Slot) -> Option<usize> {
        slot.0.checked_sub(self.first.0).map(|index| index as usize)
    }

    /// The value accepted for `slot`, if it is held.
    pub(super) fn get(&self, slot: Slot) -> Option<&Entry<V>> {
        self.entries.get(self.index(slot)?)?.as_ref()
    }

    /// As [`Window::get`], to be changed.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry<V>> {
        let index = self.index(slot)?;
        self.entries.get_mut(index)?.as_mut()
    }

    /// Holds `entry` for `slot`, in place of what was held.
    ///
    /// # Panics
    /// When the slot is before the run, or when the entry would go back to a lower ballot.
    pub(super) fn put(&mut self, slot: Slot, entry: Entry<V>) {
        let index = self.index(slot).expect("a value is put into the run, not before it");
        while self.entries.len() <= index {
            self.entries.push_back(None);
        }
        if let Some(held) = &self.entries[index] {
            assert!(held.ballot < entry.ballot, "slot {slot} is accepted again at a higher ballot");
            self.bytes -= held.value.size();
        }
        self.bytes += entry.value.size();
        self.entries[index] = Some(entry);
    }

    /// Lets go of the first slot.
    pub(super) fn pop_front(&mut self) -> Option<Entry<V>> {
        self.first = self.first.next();
        let entry = self.entries.pop_front().flatten()?;
        self.bytes -= entry.value.size();
        Some(entry)
    }

    /// The first slot without a value.
    pub(super) fn first_missing(&self) -> Slot {
        let missing = self.entries.iter().position(Option::is_none);
        Slot(self.first.0 + missing.unwrap_or(self.entries.len()) as u64)
    }

    /// The greatest slot with a value.
    pub(super) fn last(&self) -> Option<Slot> {
        let index = self.entries.iter().rposition(Option::is_some)?;
        Some(Slot(self.first.0 + index as u64))
    }

    /// The slots above `floor` that have a value, ascending.
    pub(super) fn above(&self, floor: Slot) -> impl Iterator<Item = (Slot, &Entry<V>)> {
        let slots = self.first.0..;
        slots
            .zip(&self.entries)
            .filter_map(|(slot, entry)| Some((Slot(slot), entry.as_ref()?)))
            .filter(move |(slot, _)| *slot > floor)
    }

    /// As [`Window::above`] over the whole run, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<V>> {
        self.entries.iter_mut().flatten()
    }
}

impl<V: Hash> Window<V> {
    /// Hashes the run; writes are named by their distance from `oldest`, the oldest under way.
    pub(super) fn hash_without_ids<H: Hasher>(&self, oldest: PersistId, hasher: &mut H) {
        let Window { first, entries, bytes: _ } = self;
        (first, entries.len()).hash(hasher);
        for entry in entries {
            entry.is_some().hash(hasher);
            if let Some(Entry { ballot, value, persist, durable, owed, votes }) = entry {
                let under_way = persist.and_then(|id| id.0.checked_sub(oldest.0));
                (ballot, value, under_way, durable, owed, votes).hash(hasher);
            }
        }
    }
}
