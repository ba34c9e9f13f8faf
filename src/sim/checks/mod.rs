//! What must hold, each in a file of its own with its property, and the judge who asks all of
//! them.
//!
//! The world tells the judge what every node applied, sent and recovered, and what every client
//! was answered. The first violation ends the run.

pub mod agreement;
pub mod bounds;
pub mod durability;
pub mod elections;
pub mod freshness;
pub mod handovers;
pub mod inspected;
pub mod leases;
pub mod linearizability;
pub mod links;
pub mod promises;
pub mod quorums;
pub mod rounds;
pub mod stored;
pub mod values;
pub mod watermarks;

use std::fmt;

use super::counters::{Counters, Hit};
use super::history::History;
use super::time::Time;
use crate::base::{Checksum, NodeId, Slot};
use crate::machine::SessionLimits;
use crate::node::{AppliedSlot, Node, RecoveredState};

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The check that found it.
    pub check: &'static str,
    /// What was found.
    pub text: String,
}

impl Violation {
    /// A finding of `check`.
    pub fn new(check: &'static str, text: impl fmt::Display) -> Violation {
        Violation { check, text: text.to_string() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.text)
    }
}

/// All checks over one group in one run. Groups know nothing of each other: what one of them does
/// is right or wrong by itself.
pub struct Judge {
    agreement: agreement::Agreement,
    values: values::Values,
    /// What nodes tell each other.
    pub promises: promises::Promises,
    /// Watermarks and promises as each node tells them.
    pub watermarks: watermarks::Watermarks,
    durability: durability::Durability,
}

impl Judge {
    /// A judge over `nodes` nodes, whose tables of sessions have these bounds.
    pub fn new(nodes: usize, session_limits: SessionLimits) -> Judge {
        Judge {
            agreement: agreement::Agreement::new(nodes),
            values: values::Values::new(session_limits),
            promises: promises::Promises::new(nodes),
            watermarks: watermarks::Watermarks::new(nodes),
            durability: durability::Durability::default(),
        }
    }

    /// A node has started with what its disk held.
    ///
    /// # Errors
    /// The first violation.
    pub fn recovered(
        &mut self,
        node: NodeId,
        found: &RecoveredState,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        self.agreement.restarted(node, found.checkpoint)?;
        hits.add(Hit::CheckpointChecked, u64::from(found.checkpoint.0 > Slot::NONE));
        self.watermarks.restarted(node);
        let agreement = &self.agreement;
        self.promises.recovered(node, found, &|slot| agreement.checksum(slot), hits)
    }

    /// Whether a damaged disk still holds everything that its node had told.
    pub fn holds_told(&self, node: NodeId, found: &RecoveredState) -> bool {
        self.promises.holds_told(node, found, &|slot| self.agreement.checksum(slot))
    }

    /// A node has applied a slot.
    ///
    /// # Errors
    /// The first violation.
    pub fn applied(
        &mut self,
        node: NodeId,
        applied: &AppliedSlot,
        history: &History,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        hits.hit(Hit::SlotCompared);
        if self.agreement.applied(node, applied)? {
            self.promises.quorums.chosen(applied.slot, hits)?;
            self.values.chosen(applied, history)?;
        }
        Ok(())
    }

    /// The clients have been answered: looks at what was acknowledged since the last call.
    ///
    /// # Errors
    /// The first violation.
    pub fn answered(&mut self, history: &History) -> Result<(), Violation> {
        self.durability.check_new(history, &self.values)
    }

    /// A node, on a disk that was never damaged, after its last start.
    ///
    /// # Errors
    /// The first violation.
    pub fn stored(&self, node: &Node, hits: &mut Counters) -> Result<(), Violation> {
        stored::check(node, self.values.logs(), hits)
    }

    /// The run is over.
    ///
    /// # Errors
    /// The first violation.
    pub fn end(
        &mut self,
        history: &History,
        clocks_broken_at: Option<Time>,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        self.durability.check_all(history, &self.values)?;
        self.values.check_failed(history)?;
        linearizability::check(history, &self.values)?;
        self.promises.rounds.check(history, hits)?;
        freshness::check(history, clocks_broken_at, hits)
    }

    /// Records chosen so far.
    pub fn records(&self) -> usize {
        self.values.count()
    }

    /// The checksum of a chosen slot's value, once some replica has applied it.
    pub fn checksum(&self, slot: Slot) -> Option<Checksum> {
        self.agreement.checksum(slot)
    }

    /// Slots chosen so far.
    pub fn slots(&self) -> usize {
        self.agreement.slots()
    }
}
