//! Elections disturb nobody without need, and are won by a quorum.
//!
//! Property: a candidate prepares a ballot only after a prepare quorum, itself included, has
//! granted it a pre-vote for that very ballot. (A voter grants none while it hears a leader; so
//! a node that was cut off and comes back does not depose a leader that works.) And it proposes at
//! a ballot only after a prepare quorum, itself included, has promised that ballot, each member
//! counted once.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::base::{Ballot, NodeId};
use crate::paxos::{Message, Release};
use crate::sim::counters::{Counters, Hit};

const NAME: &str = "elections";

/// Who has granted what.
pub struct Elections {
    quorum: usize,
    grants: BTreeMap<Ballot, BTreeSet<NodeId>>,
    promises: BTreeMap<Ballot, BTreeSet<NodeId>>,
    /// The last ballot whose proposals were found to be backed, of each node.
    backed: BTreeMap<NodeId, Ballot>,
}

impl Elections {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Elections {
        Elections {
            quorum: nodes / 2 + 1,
            grants: BTreeMap::new(),
            promises: BTreeMap::new(),
            backed: BTreeMap::new(),
        }
    }

    /// A node sends this.
    ///
    /// # Errors
    /// When it is a prepare without the grants for it, or a proposal without the promises.
    pub fn sent<V>(
        &mut self,
        node: NodeId,
        message: &Message<V>,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        match message {
            Message::PreVoteReply { ballot, granted: true, .. } => {
                self.grants.entry(*ballot).or_default().insert(node);
            }
            // Whoever was handed the leadership campaigns at once.
            Message::Prepare { release, .. } if *release != Release::NONE => {}
            Message::Prepare { ballot, .. } => {
                let others = self.grants.get(ballot).map_or(0, BTreeSet::len);
                if others + 1 < self.quorum {
                    let text = format!("node {node} prepares {ballot} with {others} pre-votes");
                    let text = format!("{text} of others, {} are needed", self.quorum - 1);
                    return Err(Violation::new(NAME, text));
                }
                hits.hit(Hit::CampaignChecked);
            }
            Message::Promise { ballot, .. } => {
                self.promises.entry(*ballot).or_default().insert(node);
            }
            Message::Accept { ballot, .. } if self.backed.get(&node) != Some(ballot) => {
                let others = self.promises.get(ballot).map_or(0, BTreeSet::len);
                if others + 1 < self.quorum {
                    let text = format!("node {node} proposes at {ballot} with {others} promises");
                    let text = format!("{text} of others, {} are needed", self.quorum - 1);
                    return Err(Violation::new(NAME, text));
                }
                self.backed.insert(node, *ballot);
                hits.hit(Hit::LeadershipChecked);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;

    #[test]
    fn a_campaign_without_a_quorum_of_pre_votes_is_found() {
        let ballot = Ballot { round: 2, node: NodeId(1) };
        let prepare: Message<()> =
            Message::Prepare { ballot, chosen: Slot::NONE, release: Release::NONE };
        let reply = |granted| {
            let (promised, chosen) = (Ballot::NONE, Slot::NONE);
            Message::<()>::PreVoteReply { ballot, granted, promised, chosen }
        };
        let hits = &mut Counters::default();
        let mut elections = Elections::new(5);
        assert_eq!(elections.sent(NodeId(2), &reply(true), hits), Ok(()));
        assert_eq!(elections.sent(NodeId(2), &reply(true), hits), Ok(()));
        assert_eq!(elections.sent(NodeId(3), &reply(false), hits), Ok(()));
        assert!(elections.sent(NodeId(1), &prepare, hits).is_err());
        assert_eq!(elections.sent(NodeId(3), &reply(true), hits), Ok(()));
        assert_eq!(elections.sent(NodeId(1), &prepare, hits), Ok(()));
    }

    #[test]
    fn a_proposal_without_a_quorum_of_promises_is_found() {
        let ballot = Ballot { round: 2, node: NodeId(1) };
        let accept = Message::Accept { ballot, slot: Slot(1), chosen: Slot::NONE, value: () };
        let promise =
            Message::<()>::Promise { ballot, chosen: Slot::NONE, accepted: vec![], cut: false };
        let hits = &mut Counters::default();
        let mut elections = Elections::new(5);
        assert_eq!(elections.sent(NodeId(2), &promise, hits), Ok(()));
        assert_eq!(elections.sent(NodeId(2), &promise, hits), Ok(()));
        assert!(elections.sent(NodeId(1), &accept, hits).is_err());
        assert_eq!(elections.sent(NodeId(3), &promise, hits), Ok(()));
        assert_eq!(elections.sent(NodeId(1), &accept, hits), Ok(()));
    }
}
