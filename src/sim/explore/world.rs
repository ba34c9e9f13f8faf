//! A world: the states of all replicas by number, every message sent so far, and what may still
//! happen; and the properties of all replicas together.
//!
//! - *Agreement*: for each slot, at most one value is ever durable on a majority at one ballot, and
//!   whoever says that a slot is chosen says this value.
//! - *Durability*: whoever says that a slot is chosen says a value that is durable on a majority.
//! - *Validity*: every value was proposed by a client, or is the no-op.
//! - *One proposal*: for each (slot, ballot) one value is proposed.

use std::collections::BTreeMap;

use super::local::{Local, Tag};
use super::{Bounds, Checks, REPLICAS_MAX};
use crate::base::{Ballot, Slot};
use crate::paxos::{Message, Value};

/// A world. Replica states and messages are numbered by the search.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) replicas: [u32; REPLICAS_MAX],
    pub(super) rest: Rest,
}

/// What a world is beside the states of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// What may still happen.
    pub(super) left: Left,
    /// The messages sent so far.
    pub(super) network: Network,
}

/// How often each bounded event may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) campaigns: u8,
    pub(super) transfers: u8,
    pub(super) proposals: u8,
    pub(super) crashes: u8,
    pub(super) delays: u8,
}

impl Left {
    pub(super) fn new(bounds: &Bounds) -> Left {
        let Bounds { campaigns, transfers, proposals, crashes, delays, .. } = *bounds;
        Left { campaigns, transfers, proposals, crashes, delays }
    }
}

impl Rest {
    /// Whether everything that can come of `other` can come of this, with the same replicas: a
    /// message may be left alone, and so may an event.
    pub(super) fn covers(&self, other: &Rest) -> bool {
        let (own, less) = (self.left, other.left);
        own.campaigns >= less.campaigns
            && own.transfers >= less.transfers
            && own.proposals >= less.proposals
            && own.crashes >= less.crashes
            && own.delays >= less.delays
            && self.network.covers(&other.network)
    }
}

/// A set of message numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network(Vec<u64>);

impl Network {
    pub(super) fn has(&self, message: u16) -> bool {
        let word = self.0.get(usize::from(message) / 64);
        word.is_some_and(|word| word >> (message % 64) & 1 == 1)
    }

    /// Adds the message; false when it was there.
    pub(super) fn add(&mut self, message: u16) -> bool {
        let index = usize::from(message) / 64;
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        let fresh = !self.has(message);
        self.0[index] |= 1 << (message % 64);
        fresh
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().enumerate().flat_map(|(index, word)| numbers(index, *word))
    }

    /// The messages that are in both.
    pub(super) fn iter_and(&self, mask: &Network) -> impl Iterator<Item = u16> {
        let words = self.0.iter().zip(&mask.0).enumerate();
        words.flat_map(|(index, (word, mask))| numbers(index, word & mask))
    }

    fn covers(&self, other: &Network) -> bool {
        let beyond = other.0.get(self.0.len()..).unwrap_or_default();
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(own, less)| less & !own == 0) && beyond.iter().all(|word| *word == 0)
    }
}

/// The message numbers of one word of a set.
fn numbers(index: usize, mut word: u64) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.checked_sub(1)?;
        Some((index * 64) as u16 + bit as u16)
    })
}

/// Checks agreement, durability and validity. Returns how many slots are chosen.
pub(super) fn check(locals: &[&Local], checks: Checks) -> Result<usize, String> {
    let mut holders: BTreeMap<(Slot, Ballot, Tag), usize> = BTreeMap::new();
    for local in locals {
        for accepted in &local.accepted {
            *holders.entry(*accepted).or_default() += 1;
            check_proposed(accepted.2, locals)?;
        }
    }
    let mut chosen: BTreeMap<Slot, (Ballot, Tag)> = BTreeMap::new();
    for ((slot, ballot, value), count) in holders {
        if count <= locals.len() / 2 {
            continue;
        }
        let (first, known) = *chosen.entry(slot).or_insert((ballot, value));
        if known != value {
            return Err(format!(
                "slot {slot} is {known} on a majority at {first} and {value} at {ballot}"
            ));
        }
    }
    let mut told: BTreeMap<Slot, Tag> = BTreeMap::new();
    for (replica, local) in locals.iter().enumerate() {
        for (index, value) in local.told.iter().enumerate() {
            let slot = Slot(index as u64 + 1);
            let other = *told.entry(slot).or_insert(*value);
            let held = chosen.get(&slot).map(|(_, held)| *held);
            if other != *value || held.is_some_and(|held| held != *value) {
                let other = held.map_or(other, |held| held);
                return Err(format!(
                    "slot {slot} is chosen as {value} to replica {}, and as {other} elsewhere",
                    replica + 1
                ));
            }
            if held.is_none() && checks == Checks::All {
                return Err(format!(
                    "slot {slot} is chosen as {value} to replica {}, and on no majority",
                    replica + 1
                ));
            }
        }
    }
    Ok(chosen.len().max(told.len()))
}

fn check_proposed(value: Tag, locals: &[&Local]) -> Result<(), String> {
    let proposed = match value.origin() {
        None => value == Tag::noop(),
        Some((replica, number)) => {
            number >= 1 && locals.get(replica).is_some_and(|local| number <= local.proposals)
        }
    };
    if proposed { Ok(()) } else { Err(format!("{value} was proposed by nobody")) }
}

/// Checks that a proposal is the only one for its slot and ballot.
pub(super) fn check_one_proposal<'a>(
    message: &Message<Tag>,
    network: impl Iterator<Item = &'a Message<Tag>>,
) -> Result<(), String> {
    let Message::Accept { ballot, slot, value, .. } = message else { return Ok(()) };
    for other in network {
        if let Message::Accept { ballot: at, slot: of, value: known, .. } = other
            && (at, of) == (ballot, slot)
            && known != value
        {
            return Err(format!("slot {slot} at {ballot} is proposed as {known} and {value}"));
        }
    }
    Ok(())
}
