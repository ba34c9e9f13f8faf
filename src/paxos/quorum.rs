//! Who has voted, and when the votes are enough. Called by the elections, by phase 1 and by
//! phase 2.
//!
//! Guarantee: every accept quorum meets every prepare quorum, checked when the rule is made; and
//! a member is counted once, however often it answers.
//!
//! Source: Howard, Malkhi, Spiegelman, *Flexible Paxos* (2016): only quorums of different phases
//! need to meet.

use crate::base::limits::MEMBERS_MAX;

/// A set of members, by their index in the member list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Votes(u32);

const _: () = assert!(MEMBERS_MAX <= 32);

impl Votes {
    /// Nobody.
    pub(super) const NONE: Votes = Votes(0);

    /// All of the first `count` members.
    #[cfg(test)]
    pub(super) fn all(count: usize) -> Votes {
        assert!(count <= MEMBERS_MAX);
        Votes((1 << count) - 1)
    }

    /// One member alone.
    pub(super) fn only(index: usize) -> Votes {
        let mut votes = Votes::NONE;
        votes.add(index);
        votes
    }

    /// Counts the member; false when it has been counted before.
    pub(super) fn add(&mut self, index: usize) -> bool {
        assert!(index < MEMBERS_MAX);
        let fresh = !self.has(index);
        self.0 |= 1 << index;
        fresh
    }

    /// Whether the member has been counted.
    pub(super) fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    /// How many members.
    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members that are in both sets.
    pub(super) fn and(self, other: Votes) -> Votes {
        Votes(self.0 & other.0)
    }

    /// The members' indices, ascending.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..MEMBERS_MAX).filter(move |index| self.has(*index))
    }
}

/// Which sets of members decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Quorum {
    /// More than half of the members, in both phases.
    Majority {
        /// How many members there are.
        members: usize,
    },
    /// Different sizes for the two phases.
    #[cfg_attr(not(test), expect(dead_code, reason = "Config offers majorities only, so far"))]
    Flexible {
        /// How many members must accept.
        accept: usize,
        /// How many members must promise.
        prepare: usize,
    },
    /// Majorities of two member sets at once, while one replaces the other.
    #[cfg_attr(not(test), expect(dead_code, reason = "Config has one member set, so far"))]
    Joint {
        /// The members before the change.
        old: Votes,
        /// The members after it.
        new: Votes,
    },
}

impl Quorum {
    /// The majority rule over `members` members.
    pub(super) fn majority(members: usize) -> Quorum {
        assert!((1..=MEMBERS_MAX).contains(&members));
        Quorum::Majority { members }
    }

    /// The flexible rule.
    ///
    /// # Panics
    /// When an accept quorum and a prepare quorum could miss each other.
    #[cfg(test)]
    pub(super) fn flexible(members: usize, accept: usize, prepare: usize) -> Quorum {
        assert!(accept >= 1 && prepare >= 1 && accept <= members && prepare <= members);
        assert!(accept + prepare > members, "an accept and a prepare quorum could miss each other");
        Quorum::Flexible { accept, prepare }
    }

    /// Whether these members' acceptances choose a value.
    pub(super) fn is_accept_quorum(&self, votes: Votes) -> bool {
        match self {
            Quorum::Majority { members } => votes.count() > members / 2,
            Quorum::Flexible { accept, .. } => votes.count() >= *accept,
            Quorum::Joint { old, new } => {
                is_majority_of(votes, *old) && is_majority_of(votes, *new)
            }
        }
    }

    /// Whether these members' promises make a leader.
    pub(super) fn is_prepare_quorum(&self, votes: Votes) -> bool {
        match self {
            Quorum::Flexible { prepare, .. } => votes.count() >= *prepare,
            Quorum::Majority { .. } | Quorum::Joint { .. } => self.is_accept_quorum(votes),
        }
    }
}

fn is_majority_of(votes: Votes, members: Votes) -> bool {
    votes.and(members).count() > members.count() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subsets(members: usize) -> impl Iterator<Item = Votes> {
        (0..1u32 << members).map(Votes)
    }

    #[test]
    fn a_member_counts_once() {
        let mut votes = Votes::NONE;
        assert!(votes.add(2));
        assert!(!votes.add(2));
        assert_eq!(votes.count(), 1);
        assert_eq!(votes.iter().collect::<Vec<_>>(), [2]);
        assert!(!Quorum::majority(3).is_accept_quorum(votes));
        assert!(votes.add(0));
        assert!(Quorum::majority(3).is_accept_quorum(votes));
    }

    #[test]
    fn every_accept_quorum_meets_every_prepare_quorum() {
        let joint = Quorum::Joint { old: Votes(0b00111), new: Votes(0b11110) };
        let rules = [
            (Quorum::majority(1), 1),
            (Quorum::majority(4), 4),
            (Quorum::majority(5), 5),
            (Quorum::flexible(5, 2, 4), 5),
            (Quorum::flexible(4, 2, 3), 4),
            (joint, 5),
        ];
        for (rule, members) in rules {
            for accept in subsets(members).filter(|set| rule.is_accept_quorum(*set)) {
                for prepare in subsets(members).filter(|set| rule.is_prepare_quorum(*set)) {
                    assert_ne!(accept.and(prepare), Votes::NONE, "{rule:?}");
                }
            }
            assert!(rule.is_accept_quorum(Votes::all(members)));
            assert!(rule.is_prepare_quorum(Votes::all(members)));
        }
    }

    #[test]
    #[should_panic(expected = "could miss each other")]
    fn quorums_that_could_miss_each_other_are_refused() {
        Quorum::flexible(4, 2, 2);
    }
}
