//! Agreement: one value per slot, on every replica, for ever.
//!
//! Property: whenever any replica applies a slot, at any time, restarts and replays included, the
//! value and what became of its commands are those that the first replica to apply it saw; and every replica applies every slot from 1 on in order, without a
//! gap.

use std::rc::Rc;

use super::Violation;
use crate::base::{Checksum, NodeId, Placement, Slot};
use crate::node::AppliedSlot;

const NAME: &str = "agreement";

struct Truth {
    checksum: Checksum,
    size: usize,
    placement: Rc<Placement>,
    by: NodeId,
}

/// What was applied first, by slot from 1.
pub struct Agreement {
    truth: Vec<Truth>,
    /// The last slot each node applied since it started.
    applied: Vec<Slot>,
}

impl Agreement {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Agreement {
        Agreement { truth: Vec::new(), applied: vec![Slot::NONE; nodes] }
    }

    /// A node has started anew.
    pub fn restarted(&mut self, node: NodeId) {
        self.applied[usize::from(node.0) - 1] = Slot::NONE;
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
            self.truth.push(Truth { checksum, size, placement, by: node });
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
        agreement.restarted(NodeId(1));
        assert_eq!(agreement.applied(NodeId(1), &applied(1, b"a")), Ok(false));
    }
}
