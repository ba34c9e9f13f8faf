//! What a judge outside wants to see of a node: everything it applied, in order, and what it found
//! on its disk when it started.
//!
//! Off in production. The simulator turns it on ([`super::NodeOptions::audit`]) and takes what has
//! gathered after every turn, so that agreement is checked on what the node did, not on what it
//! says of itself.

use super::{AppliedSlot, Node};
use crate::base::{Ballot, Batch, Checksum, Instant, Slot};
use crate::log::{CutKind, LogRecovered};
use crate::machine::Machine;
use crate::paxos::Input;

/// What a node found on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredState {
    /// The promise.
    pub promised: Ballot,
    /// Every slot up to here is chosen and held.
    pub chosen: Slot,
    /// What it holds above, by slot.
    pub accepted: Vec<(Slot, Ballot, Checksum)>,
    /// How many entries its log has.
    pub entries: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Whether it has a vote: no damage was cut.
    pub votes: bool,
    /// Whether anything was cut that is not made good yet.
    pub cut: bool,
    /// Index footers that were damaged.
    pub footers_damaged: u32,
    /// Whether one copy of the vote was mended.
    pub vote_repaired: bool,
    /// The slot of the checkpoint that it went on from (0: none), and the checksum of the state.
    pub checkpoint: (Slot, Checksum),
}

#[derive(Debug, Default)]
pub(super) struct Audit {
    is_on: bool,
    recovered: RecoveredState,
    /// Since the last [`Node::take_applied`].
    applied: Vec<AppliedSlot>,
}

impl Audit {
    pub(super) fn new(is_on: bool) -> Audit {
        Audit { is_on, ..Audit::default() }
    }

    pub(super) fn applied(&mut self, applied: impl FnOnce() -> AppliedSlot) {
        if self.is_on {
            self.applied.push(applied());
        }
    }

    /// Before anything is replayed.
    pub(super) fn restored(&mut self, machine: &Machine) {
        if self.is_on && machine.applied() > Slot::NONE {
            let state = Checksum::of(&machine.encode());
            self.recovered.checkpoint = (machine.applied(), state);
        }
    }

    pub(super) fn recovered(&mut self, recovered: &LogRecovered) {
        if !self.is_on {
            return;
        }
        let checkpoint = self.recovered.checkpoint;
        let accepted = recovered.accepted.iter();
        self.recovered = RecoveredState {
            promised: recovered.promised,
            chosen: recovered.chosen,
            accepted: accepted
                .map(|(slot, ballot, batch)| (*slot, *ballot, batch.checksum()))
                .collect(),
            entries: recovered.entries,
            torn_bytes: recovered.torn_bytes,
            votes: recovered.cut.as_ref().is_none_or(|cut| cut.kind == CutKind::Torn),
            cut: recovered.cut.is_some(),
            footers_damaged: recovered.footers_damaged,
            vote_repaired: recovered.vote_repaired,
            checkpoint,
        };
    }
}

impl Node {
    /// What was found on the disk at the start. Empty unless audited.
    pub fn recovered(&self) -> &RecoveredState {
        &self.audit.recovered
    }

    /// Proposes a value that somebody else has made, as a leader of another version would. Returns
    /// whether it could.
    pub fn propose_value(&mut self, now: Instant, value: Batch) -> bool {
        let may = self.may_propose();
        if may {
            self.step(now, Input::Propose(value));
        }
        may
    }

    /// Moves what was applied since the last call, the replayed slots included, to the end of
    /// `applied`. Nothing unless audited.
    pub fn take_applied(&mut self, applied: &mut Vec<AppliedSlot>) {
        applied.append(&mut self.audit.applied);
    }
}
