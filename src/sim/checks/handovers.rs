//! Handing over leaves nothing behind.
//!
//! Property: a leader tells a replica to take over only after that replica has told to have accepted,
//! or to know as chosen, every slot that the leader has proposed. So the new leader has nothing to
//! fetch, and no append waits for an outcome.
//!
//! What the leader had proposed is what stands before that word on its way to the replica, and what the
//! word itself tells to be chosen. Not what it has proposed when the word leaves: that may be held up
//! by a slow connection, for so long that the leader has given it up and gone on with others.

use std::collections::BTreeMap;

use super::Violation;
use crate::base::{Ballot, NodeId, Slot};
use crate::paxos::Message;
use crate::sim::counters::{Counters, Hit};

const NAME: &str = "handing over";

/// What leaders have proposed, and what replicas know.
pub struct Handovers {
    /// The last slot of each ballot that its leader has proposed to the node.
    proposed: BTreeMap<(Ballot, NodeId), Slot>,
    /// Of each node: the highest watermark it has told.
    chosen: Vec<Slot>,
}

impl Handovers {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Handovers {
        Handovers { proposed: BTreeMap::new(), chosen: vec![Slot::NONE; nodes] }
    }

    /// A node sends this to another one.
    pub fn sent<V>(&mut self, node: NodeId, to: NodeId, message: &Message<V>) {
        if let Message::Accept { ballot, slot, .. } = message {
            let last = self.proposed.entry((*ballot, to)).or_default();
            *last = (*last).max(*slot);
        }
        // Also what it told while it led itself: the next leader may hand over to it at once.
        let chosen = match message {
            Message::PreVote { chosen, .. }
            | Message::PreVoteReply { chosen, .. }
            | Message::Prepare { chosen, .. }
            | Message::Promise { chosen, .. }
            | Message::Accept { chosen, .. }
            | Message::Heartbeat { chosen, .. }
            | Message::HeartbeatReply { chosen, .. }
            | Message::Learn { slot: chosen, .. } => *chosen,
            _ => return,
        };
        let told = &mut self.chosen[usize::from(node.0) - 1];
        *told = (*told).max(chosen);
    }

    /// The leader of `ballot`, to whom every slot up to `told` is chosen, tells `to` to take over,
    /// which has told to have `accepted` slots at ballots.
    ///
    /// # Errors
    /// When it lacks a slot.
    pub fn handed_over(
        &self,
        (ballot, told): (Ballot, Slot),
        to: NodeId,
        accepted: &BTreeMap<Slot, Ballot>,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        hits.hit(Hit::HandoverChecked);
        let last = self.proposed.get(&(ballot, to)).copied().unwrap_or_default().max(told);
        let chosen = self.chosen[usize::from(to.0) - 1];
        let is_held = |slot: &u64| accepted.get(&Slot(*slot)) >= Some(&ballot);
        match (chosen.next().0..=last.0).find(|slot| !is_held(slot)) {
            None => Ok(()),
            Some(slot) => {
                let text = format!("node {to} is to take over from {ballot} without slot {slot}");
                Err(Violation::new(NAME, format!("{text} of {last}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taker_over_that_lacks_a_slot_is_found() {
        let ballot = Ballot { round: 1, node: NodeId(1) };
        let mut handovers = Handovers::new(3);
        let propose = |handovers: &mut Handovers, slot, to| {
            let (slot, chosen) = (Slot(slot), Slot::NONE);
            handovers.sent(NodeId(1), to, &Message::Accept { ballot, slot, chosen, value: () });
        };
        for slot in [1, 2, 3] {
            propose(&mut handovers, slot, NodeId(2));
        }
        let tell = |handovers: &mut Handovers, chosen| {
            let (promised, ballot) = (Ballot::NONE, Ballot::NONE);
            let chosen = Slot(chosen);
            let reply = Message::<()>::PreVoteReply { ballot, granted: false, promised, chosen };
            handovers.sent(NodeId(2), NodeId(1), &reply);
        };
        let mut accepted = BTreeMap::new();
        let check_at = |handovers: &Handovers, accepted: &BTreeMap<Slot, Ballot>, told| {
            let by = (ballot, Slot(told));
            handovers.handed_over(by, NodeId(2), accepted, &mut Counters::default())
        };
        let check = |handovers: &Handovers, accepted: &_| check_at(handovers, accepted, 0);
        accepted.insert(Slot(2), ballot);
        tell(&mut handovers, 1);
        assert!(check(&handovers, &accepted).is_err());
        accepted.insert(Slot(3), ballot);
        assert_eq!(check(&handovers, &accepted), Ok(()));
        accepted.insert(Slot(3), Ballot::NONE);
        assert!(check(&handovers, &accepted).is_err(), "accepted at a lower ballot");
        tell(&mut handovers, 3);
        assert_eq!(check(&handovers, &accepted), Ok(()));
        // The word has been held up while the leader went on with the third one.
        propose(&mut handovers, 4, NodeId(3));
        assert_eq!(check_at(&handovers, &accepted, 3), Ok(()));
        assert!(check_at(&handovers, &accepted, 4).is_err(), "chosen, and never sent to it");
        propose(&mut handovers, 4, NodeId(2));
        assert!(check_at(&handovers, &accepted, 3).is_err(), "sent to it before that word");
        // What it told as a leader counts too.
        let (ballot, chosen) = (Ballot::NONE, Slot(4));
        let beat = Message::<()>::Heartbeat { ballot, chosen, sequence: 1, lease_ms: 0 };
        handovers.sent(NodeId(2), NodeId(3), &beat);
        assert_eq!(check_at(&handovers, &accepted, 4), Ok(()));
    }
}
