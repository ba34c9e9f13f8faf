//! Chosen means accepted by a quorum, each member counted once, and accepting is promising.
//!
//! Property: before any replica applies a slot, an accept quorum, the proposer included, has told
//! that it has accepted that slot at one and the same ballot; and a replica's own promise is never
//! below a ballot at which it has told to have promised or accepted. These hold before any harm
//! is done, so they find a miscount that no crash has yet turned into a disagreement.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::base::{Ballot, NodeId, Slot};
use crate::paxos::Message;
use crate::sim::counters::{Counters, Hit};

const NAME: &str = "quorums";

/// Who has told what.
pub struct Quorums {
    quorum: usize,
    /// Of slots that nobody has applied.
    votes: BTreeMap<Slot, BTreeMap<Ballot, BTreeSet<NodeId>>>,
    applied: Slot,
    /// Of each node: the highest ballot that it told to have promised or accepted.
    told: Vec<Ballot>,
}

impl Quorums {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Quorums {
        Quorums {
            quorum: nodes / 2 + 1,
            votes: BTreeMap::new(),
            applied: Slot::NONE,
            told: vec![Ballot::NONE; nodes],
        }
    }

    /// A node sends this.
    pub fn sent<V>(&mut self, node: NodeId, message: &Message<V>) {
        let ballot = match message {
            Message::Promise { ballot, .. } => *ballot,
            Message::Accepted { ballot, slot } => {
                if *slot > self.applied {
                    let ballots = self.votes.entry(*slot).or_default();
                    ballots.entry(*ballot).or_default().insert(node);
                }
                *ballot
            }
            _ => return,
        };
        let told = &mut self.told[usize::from(node.0) - 1];
        *told = (*told).max(ballot);
    }

    /// A node's own promise after a turn.
    ///
    /// # Errors
    /// When it had told of a higher one.
    pub fn promised(&self, node: NodeId, promised: Ballot) -> Result<(), Violation> {
        let told = self.told[usize::from(node.0) - 1];
        if told <= promised {
            return Ok(());
        }
        let text = format!("node {node} told that it has promised or accepted at {told}");
        Err(Violation::new(NAME, format!("{text}, its promise is {promised}")))
    }

    /// A slot is applied for the first time.
    ///
    /// # Errors
    /// When no quorum has told that it has accepted it.
    pub fn chosen(&mut self, slot: Slot, hits: &mut Counters) -> Result<(), Violation> {
        let ballots = self.votes.remove(&slot).unwrap_or_default();
        self.applied = slot;
        let count = |(ballot, nodes): (&Ballot, &BTreeSet<NodeId>)| {
            nodes.len() + usize::from(!nodes.contains(&ballot.node))
        };
        // A cluster of one tells nobody.
        let most = ballots.iter().map(count).max().unwrap_or(1);
        if most < self.quorum {
            let text = format!("slot {slot} is applied with {most} acceptances at most");
            let text = format!("{text} of {} needed: {ballots:?}", self.quorum);
            return Err(Violation::new(NAME, text));
        }
        hits.hit(Hit::QuorumChecked);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minority_and_a_forgotten_promise_are_found() {
        let ballot = Ballot { round: 2, node: NodeId(1) };
        let accepted = |slot| Message::<()>::Accepted { ballot, slot: Slot(slot) };
        let hits = &mut Counters::default();
        let mut quorums = Quorums::new(5);
        quorums.sent(NodeId(2), &accepted(1));
        quorums.sent(NodeId(3), &accepted(1));
        quorums.sent(NodeId(2), &accepted(2));
        quorums.sent(NodeId(2), &accepted(2));
        assert_eq!(quorums.chosen(Slot(1), hits), Ok(()));
        assert!(quorums.chosen(Slot(2), hits).is_err());
        assert_eq!(quorums.promised(NodeId(2), ballot), Ok(()));
        assert!(quorums.promised(NodeId(2), Ballot { round: 1, node: NodeId(4) }).is_err());
    }
}
