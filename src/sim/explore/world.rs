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
    /// What may still happen.
    pub(super) left: Left,
    /// The messages sent so far, ascending.
    pub(super) network: Box<[u16]>,
}

/// How often each bounded event may still happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) campaigns: u8,
    pub(super) proposals: u8,
    pub(super) crashes: u8,
    pub(super) delays: u8,
}

impl Left {
    pub(super) fn new(bounds: &Bounds) -> Left {
        let Bounds { campaigns, proposals, crashes, delays, .. } = *bounds;
        Left { campaigns, proposals, crashes, delays }
    }
}

/// Multiplies and folds: every bit of both decides every bit of the result.
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    let wide = u128::from(hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// The hash by which worlds are told apart.
pub(super) fn fingerprint(replicas: &[u32; REPLICAS_MAX], left: Left, network: &[u16]) -> u64 {
    let Left { campaigns, proposals, crashes, delays } = left;
    let hash = u64::from(u32::from_le_bytes([campaigns, proposals, crashes, delays]));
    let hash = replicas.iter().fold(mix(hash, 1), |hash, replica| mix(hash, u64::from(*replica)));
    network.iter().fold(mix(hash, 2), |hash, message| mix(hash, u64::from(*message)))
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
                "slot {slot} is {known:?} on a majority at {first} and {value:?} at {ballot}"
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
                return Err(format!(
                    "slot {slot} is {value:?} to replica {}, {other:?} to another, and {held:?} \
                     on a majority",
                    replica + 1
                ));
            }
            if held.is_none() && checks == Checks::All {
                return Err(format!(
                    "slot {slot} is chosen as {value:?} to replica {}, and on no majority",
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
    if proposed { Ok(()) } else { Err(format!("{value:?} was proposed by nobody")) }
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
            return Err(format!("slot {slot} at {ballot} is proposed as {known:?} and {value:?}"));
        }
    }
    Ok(())
}
