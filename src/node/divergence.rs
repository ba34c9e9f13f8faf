//! Whether this replica's state is that of its peers: compares marks of the hash of what was applied.
//!
//! Owned by the node, pure. Each replica sends its peers the mark that it has just taken, and the latest
//! one when a connection stands; here they are held against the own ones, as soon as both are there. A
//! replica that differs from a majority is wrong, and stops: what it would answer is not what was
//! acknowledged. Where no majority is alike nobody can say who is wrong: all tell, and none stops, since
//! that would end the cluster.

use std::collections::VecDeque;

use crate::base::{NodeId, Slot};
use crate::machine::{STATE_MARKS_MAX, StateMark};

/// What the comparison of one slot has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that is known is alike.
    Alike,
    /// Some peers differ, and no majority differs from this replica.
    PeersDiffer {
        /// The slot.
        slot: Slot,
        /// Who.
        peers: Vec<NodeId>,
    },
    /// A majority of the members is alike, and differs from this replica.
    Alone {
        /// The slot.
        slot: Slot,
        /// The majority.
        peers: Vec<NodeId>,
    },
}

/// What the peers have told of their states.
#[derive(Debug)]
pub struct Divergence {
    /// This replica included.
    members: usize,
    peers: Vec<(NodeId, VecDeque<StateMark>)>,
    /// The last slot at which each peer was found to differ.
    differs: Vec<(NodeId, Slot)>,
}

impl Divergence {
    /// Nothing is known of any of `peers`.
    pub fn new(peers: impl Iterator<Item = NodeId>) -> Divergence {
        let peers: Vec<_> = peers.map(|peer| (peer, VecDeque::new())).collect();
        Divergence { members: peers.len() + 1, peers, differs: Vec::new() }
    }

    /// A peer tells its mark. One that is told again replaces what it said before; of slots that go back,
    /// as after its restart, only the new ones are kept.
    pub fn heard(&mut self, peer: NodeId, mark: StateMark) {
        let Some((_, marks)) = self.peers.iter_mut().find(|(id, _)| *id == peer) else { return };
        while marks.back().is_some_and(|last| last.slot >= mark.slot) {
            marks.pop_back();
        }
        if marks.len() == STATE_MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back(mark);
    }

    /// Holds the own mark against what the peers told of that slot.
    pub fn judge(&mut self, own: StateMark) -> Verdict {
        let slot = own.slot;
        let told: Vec<(NodeId, u64)> = self
            .peers
            .iter()
            .filter_map(|(id, marks)| {
                let at = marks.binary_search_by_key(&slot, |mark| mark.slot).ok()?;
                Some((*id, marks[at].hash))
            })
            .collect();
        let differing = told.iter().filter(|(_, hash)| *hash != own.hash);
        let peers: Vec<NodeId> = differing.map(|(id, _)| *id).collect();
        self.differs.retain(|(id, _)| !told.iter().any(|(of, _)| of == id));
        self.differs.extend(peers.iter().map(|id| (*id, slot)));
        if peers.is_empty() {
            return Verdict::Alike;
        }
        for (_, hash) in told.iter().filter(|(_, hash)| *hash != own.hash) {
            let alike = told.iter().filter(|(_, other)| other == hash).map(|(id, _)| *id);
            let alike: Vec<NodeId> = alike.collect();
            if alike.len() > self.members / 2 {
                return Verdict::Alone { slot, peers: alike };
            }
        }
        Verdict::PeersDiffer { slot, peers }
    }

    /// The peers that differed when they were last compared, and at which slot.
    pub fn differs(&self) -> &[(NodeId, Slot)] {
        &self.differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(slot: u64, hash: u64) -> StateMark {
        StateMark { slot: Slot(slot), hash }
    }

    fn ids(ids: &[u16]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn of(peers: &[u16]) -> Divergence {
        Divergence::new(ids(peers).into_iter())
    }

    #[test]
    fn who_differs_from_a_majority_is_alone() {
        let mut three = of(&[2, 3]);
        assert_eq!(three.judge(mark(1024, 7)), Verdict::Alike, "nobody has told anything");
        three.heard(NodeId(2), mark(1024, 8));
        let (slot, peers) = (Slot(1024), ids(&[2]));
        assert_eq!(three.judge(mark(1024, 7)), Verdict::PeersDiffer { slot, peers });
        three.heard(NodeId(3), mark(1024, 8));
        let peers = ids(&[2, 3]);
        assert_eq!(three.judge(mark(1024, 7)), Verdict::Alone { slot, peers });
        assert_eq!(three.judge(mark(1024, 8)), Verdict::Alike);
        assert!(three.differs().is_empty());
    }

    #[test]
    fn without_a_majority_nobody_is_alone() {
        let (mut two, mut three, mut four) = (of(&[2]), of(&[2, 3]), of(&[2, 3, 4]));
        two.heard(NodeId(2), mark(16, 8));
        three.heard(NodeId(2), mark(16, 8));
        three.heard(NodeId(3), mark(16, 9));
        four.heard(NodeId(2), mark(16, 8));
        four.heard(NodeId(3), mark(16, 8));
        for divergence in [&mut two, &mut three, &mut four] {
            let verdict = divergence.judge(mark(16, 7));
            assert!(matches!(verdict, Verdict::PeersDiffer { .. }), "{verdict:?}");
        }
        assert_eq!(three.differs(), [(NodeId(2), Slot(16)), (NodeId(3), Slot(16))]);
    }

    #[test]
    fn the_one_who_is_wrong_is_told_by_the_others() {
        let mut divergence = of(&[2, 3]);
        divergence.heard(NodeId(2), mark(16, 7));
        divergence.heard(NodeId(3), mark(16, 1));
        let (slot, peers) = (Slot(16), ids(&[3]));
        assert_eq!(divergence.judge(mark(16, 7)), Verdict::PeersDiffer { slot, peers });
    }

    #[test]
    fn marks_ahead_wait_are_bounded_and_begin_again() {
        let mut divergence = of(&[2, 3]);
        for peer in [2, 3] {
            (1..=100).for_each(|slot| divergence.heard(NodeId(peer), mark(slot, slot)));
        }
        assert_eq!(divergence.judge(mark(36, 0)), Verdict::Alike, "too long ago");
        assert!(matches!(divergence.judge(mark(37, 0)), Verdict::Alone { .. }));
        divergence.heard(NodeId(2), mark(90, 5));
        divergence.heard(NodeId(9), mark(90, 5));
        let differs = divergence.judge(mark(90, 90));
        assert_eq!(differs, Verdict::PeersDiffer { slot: Slot(90), peers: ids(&[2]) });
        assert_eq!(divergence.peers[0].1.back(), Some(&mark(90, 5)));
    }
}
