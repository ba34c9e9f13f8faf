//! Agreement: one value per slot, on every replica, for ever.
//!
//! Property: whenever any replica applies a slot, at any time, restarts and replays included, the
//! value and what became of its commands are those that the first replica to apply it saw; and every
//! replica applies every slot in order, without a gap, from 1 on, or from a checkpoint on that holds
//! the very state to which the slots up to it lead.

use std::rc::Rc;

use super::Violation;
use crate::base::{Checksum, NodeId, Placement, Slot};
use crate::machine::Machine;
use crate::node::AppliedSlot;

const NAME: &str = "agreement";

struct Truth {
    checksum: Checksum,
    size: usize,
    placement: Rc<Placement>,
    by: NodeId,
    value: Vec<u8>,
}

/// What was applied first, by slot from 1.
pub struct Agreement {
    truth: Vec<Truth>,
    /// The last slot each node applied since it started.
    applied: Vec<Slot>,
    /// A machine of its own, to which some of the slots were applied.
    reference: Machine,
}

impl Agreement {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Agreement {
        let applied = vec![Slot::NONE; nodes];
        Agreement { truth: Vec::new(), applied, reference: Machine::new() }
    }

    /// A node has started anew, from the checkpoint of a slot (0: none) with this checksum of its
    /// state.
    ///
    /// # Errors
    /// When that is not the state after that slot.
    pub fn restarted(
        &mut self,
        node: NodeId,
        (slot, state): (Slot, Checksum),
    ) -> Result<(), Violation> {
        self.applied[usize::from(node.0) - 1] = slot;
        if slot == Slot::NONE || self.state_at(slot) == Some(state) {
            return Ok(());
        }
        let text = format!("node {node} starts from a checkpoint that is not of slot {slot}");
        Err(Violation::new(NAME, text))
    }

    /// The checksum of the state after a slot, once some replica has applied it.
    fn state_at(&mut self, slot: Slot) -> Option<Checksum> {
        let truth = self.truth.get(..usize::try_from(slot.0).ok()?)?;
        if self.reference.applied() > slot {
            self.reference = Machine::new();
        }
        for truth in &truth[self.reference.applied().0 as usize..] {
            let next = self.reference.applied().next();
            // A value that is no batch is a no-op everywhere.
            drop(self.reference.apply(next, &truth.value, &mut Vec::new()));
        }
        Some(Checksum::of(&self.reference.encode()))
    }

    /// The checksum of a slot's value, once some replica has applied it.
    pub fn checksum(&self, slot: Slot) -> Option<Checksum> {
        let index = usize::try_from(slot.0).ok()?.checked_sub(1)?;
        self.truth.get(index).map(|truth| truth.checksum)
    }

    /// How many slots have been chosen.
    pub fn slots(&self) -> usize {
        self.truth.len()
    }

    /// A node has applied a slot. Returns whether it is the first to do so.
    ///
    /// # Errors
    /// When it differs from what another replica has applied, or passes a gap.
    pub fn applied(&mut self, node: NodeId, applied: &AppliedSlot) -> Result<bool, Violation> {
        let last = &mut self.applied[usize::from(node.0) - 1];
        let slot = applied.slot;
        if slot != last.next() {
            let text = format!("node {node} applies slot {slot} after slot {last}");
            return Err(Violation::new(NAME, text));
        }
        *last = slot;
        let (checksum, size) = (applied.batch.checksum(), applied.batch.value_size());
        let index = slot.0 as usize - 1;
        let Some(truth) = self.truth.get(index) else {
            assert_eq!(index, self.truth.len(), "the first to apply it applied all before");
            let placement = applied.placement.clone();
            let value = applied.batch.value().to_vec();
            self.truth.push(Truth { checksum, size, placement, by: node, value });
            return Ok(true);
        };
        let same = truth.checksum == checksum
            && truth.size == size
            && truth.placement == applied.placement;
        if !same {
            let text = format!(
                "slot {slot}: node {node} applies {size} bytes {checksum} as {:?}, node {} had \
                 applied {} bytes {} as {:?}",
                applied.placement, truth.by, truth.size, truth.checksum, truth.placement,
            );
            return Err(Violation::new(NAME, text));
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Ballot, Batch, BlockPool, Position};

    fn applied(slot: u64, value: &[u8]) -> AppliedSlot {
        AppliedSlot {
            slot: Slot(slot),
            ballot: Ballot::NONE,
            placement: Rc::new(Placement::simple(Position(slot), 1)),
            batch: Batch::copy_of(&BlockPool::new(0), value),
        }
    }

    #[test]
    fn another_value_and_a_gap_are_found() {
        let mut agreement = Agreement::new(3);
        assert_eq!(agreement.applied(NodeId(1), &applied(1, b"a")), Ok(true));
        assert_eq!(agreement.applied(NodeId(2), &applied(1, b"a")), Ok(false));
        assert!(agreement.applied(NodeId(3), &applied(1, b"b")).is_err());
        assert!(agreement.applied(NodeId(2), &applied(3, b"c")).is_err());
        agreement.restarted(NodeId(1), Default::default()).unwrap();
        assert_eq!(agreement.applied(NodeId(1), &applied(1, b"a")), Ok(false));
    }
}
