//! The newtypes that name things: no signature in the project carries a bare pair of integers.
//!
//! Guarantee: each type has one meaning (see the words in `src/README.md`), and the arithmetic
//! that makes no sense for it does not compile.

use std::fmt;

use super::limits::LOG_NUMBER_BITS;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A replica's number within its cluster, from 1. Zero names nobody.
    NodeId(u16)
);
number!(
    /// One Multi-Paxos instance sequence with its own durable log, from 0.
    GroupId(u16)
);
number!(
    /// The number of a cluster configuration, from 0.
    Epoch(u32)
);
number!(
    /// A log. The numbers that clients use name the log's group in their upper bits; within its
    /// group, in batches and on the disk, a log goes by the rest ([`LogId::within_group`]). Log 0
    /// is the one named `default`, in group 0.
    LogId(u32)
);
number!(
    /// One Paxos instance, from 1. As a watermark, `Slot(0)` means "none yet".
    Slot(u64)
);
number!(
    /// A record's index in its log, contiguous from 0. Not a slot number.
    Position(u64)
);

number!(
    /// A client's session, by the number that the machine gave it, from 1. Zero: no session.
    SessionId(u64)
);
number!(
    /// A command's number within its session, from 1 and without gaps.
    Sequence(u64)
);
number!(
    /// What the writer of a fenced log must show: a log takes a token that is no lower than the
    /// highest it has taken. Zero: never fenced.
    FenceToken(u64)
);

/// The name of log 0.
pub const DEFAULT_LOG_NAME: &str = "default";

impl LogId {
    /// The highest number of a log within its group.
    pub const WITHIN_GROUP_MAX: u32 = (1 << LOG_NUMBER_BITS) - 1;

    /// The number by which clients know the log `within` of `group`.
    ///
    /// # Panics
    /// When one of the two has more bits than there are for it.
    pub fn of_group(group: GroupId, within: LogId) -> LogId {
        assert!(within.0 <= Self::WITHIN_GROUP_MAX, "log {within} within a group");
        assert!(u32::from(group.0) <= u32::MAX >> LOG_NUMBER_BITS, "group {group}");
        LogId(u32::from(group.0) << LOG_NUMBER_BITS | within.0)
    }

    /// The group that the log is in.
    pub fn group(self) -> GroupId {
        GroupId((self.0 >> LOG_NUMBER_BITS) as u16)
    }

    /// Its number within its group.
    pub fn within_group(self) -> LogId {
        LogId(self.0 & Self::WITHIN_GROUP_MAX)
    }
}

impl GroupId {
    /// The group of a cluster of `group_count` groups that the log of this name is in: the same for
    /// every client and node, so that a log is found by its name (a digest of the name, modulo the
    /// groups: stable across versions).
    ///
    /// # Panics
    /// When there are no groups.
    pub fn of_log_name(name: &str, group_count: u16) -> GroupId {
        assert!(group_count > 0, "a cluster has groups");
        if name == DEFAULT_LOG_NAME {
            return GroupId(0);
        }
        let digest = fnv1a(name);
        GroupId(((digest ^ digest >> 32) % u64::from(group_count)) as u16)
    }
}

impl SessionId {
    /// No session.
    pub const NONE: SessionId = SessionId(0);
}

impl Sequence {
    /// The number after this one.
    pub fn next(self) -> Sequence {
        Sequence(self.0.checked_add(1).expect("sequences do not run out"))
    }
}

impl Slot {
    /// The watermark before the first slot.
    pub const NONE: Slot = Slot(0);

    /// No slot is above this one, a million slots a second for 146,000 years: what
    /// names a higher one is damaged or forged, and is refused where it is read.
    pub const MAX: Slot = Slot(1 << 62);

    /// The slot after this one.
    pub fn next(self) -> Slot {
        Slot(self.0.checked_add(1).expect("slot numbers do not run out"))
    }

    /// How many slots lie in `(self, upper]`; 0 when `upper` is not above `self`.
    pub fn distance_to(self, upper: Slot) -> u64 {
        upper.0.saturating_sub(self.0)
    }
}

impl Position {
    /// The position `count` records further on.
    pub fn plus(self, count: u64) -> Position {
        Position(self.0.checked_add(count).expect("positions do not run out"))
    }
}

/// A proposal number: totally ordered by round, then node; never used twice, not even after a
/// crash (Lamport, *Paxos Made Simple*, section 2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Chosen by the candidate above every round it has promised or seen. 0 = no ballot yet.
    pub round: u64,
    /// The candidate, so that no two nodes ever share a ballot.
    pub node: NodeId,
}

impl Ballot {
    /// Below every ballot that a candidate can use.
    pub const NONE: Ballot = Ballot { round: 0, node: NodeId(0) };

    /// The ballot of `node` in the round after this one.
    pub fn next_for(self, node: NodeId) -> Ballot {
        Ballot { round: self.round.checked_add(1).expect("rounds do not run out"), node }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.node)
    }
}

/// A 64-bit digest of a cluster's name, the same on every node that was formatted with that name. It
/// tells clusters of different names apart before anything else is known; which cluster it is says
/// [`ClusterId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterDigest(pub u64);

impl ClusterDigest {
    /// The digest of `name` (FNV-1a, 64 bits: stable across versions).
    pub fn of_name(name: &str) -> ClusterDigest {
        ClusterDigest(fnv1a(name))
    }
}

fn fnv1a(text: &str) -> u64 {
    let spread = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, spread)
}

impl fmt::Display for ClusterDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names a cluster: 128 random bits, drawn when it is founded. Two clusters of the same name differ in
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names one format of a data directory: 128 random bits, drawn anew by each `loggos format`. Two
/// directories of the same node of the same cluster differ in it; a copy of a directory does not.
/// 0 names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

impl Incarnation {
    /// None, or not known.
    pub const NONE: Incarnation = Incarnation(0);

    /// The digest that stands in the headers on disk, where 16 bytes would not fit everywhere. The
    /// bits are random, so that half of them is a digest as good as any.
    pub fn tag(self) -> IncarnationTag {
        IncarnationTag((self.0 >> 64) as u64 ^ self.0 as u64)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The 64-bit digest of an [`Incarnation`], which binds every header on disk to the directory that
/// it was written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IncarnationTag(pub u64);

impl fmt::Display for IncarnationTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_order_by_round_then_node() {
        let low = Ballot { round: 3, node: NodeId(9) };
        let high = Ballot { round: 4, node: NodeId(1) };
        assert!(low < high);
        assert!(Ballot { round: 4, node: NodeId(2) } > high);
        assert!(Ballot::NONE < low);
        assert_eq!(low.next_for(NodeId(2)), Ballot { round: 4, node: NodeId(2) });
    }

    #[test]
    fn name_digests_are_stable_across_versions() {
        // FNV-1a test vectors: a change here would make every formatted directory foreign.
        assert_eq!(ClusterDigest::of_name(""), ClusterDigest(0xcbf2_9ce4_8422_2325));
        assert_eq!(ClusterDigest::of_name("foobar"), ClusterDigest(0x8594_4171_f739_67e8));
    }

    #[test]
    fn a_logs_number_names_its_group_and_those_of_group_0_are_as_ever() {
        assert_eq!(LogId::of_group(GroupId(0), LogId(77)), LogId(77));
        for (group, within) in [(0, 0), (1, 0), (5, 9), (63, LogId::WITHIN_GROUP_MAX)] {
            let log = LogId::of_group(GroupId(group), LogId(within));
            assert_eq!((log.group(), log.within_group()), (GroupId(group), LogId(within)));
        }
        assert_eq!(LogId(u32::MAX).group(), GroupId(63));
    }

    #[test]
    fn names_spread_over_the_groups_and_stay_where_they_are() {
        assert_eq!(GroupId::of_log_name("default", 7), GroupId(0));
        // A change here would lose every log of a cluster with several groups.
        let groups = ["orders", "a", "b", "bench-0000"].map(|name| GroupId::of_log_name(name, 64));
        assert_eq!(groups, GROUPS_OF_NAMES.map(GroupId));
        for group_count in [2, 3, 8, 64] {
            let mut counts = vec![0; usize::from(group_count)];
            for number in 0..6400 {
                let group = GroupId::of_log_name(&format!("log-{number}"), group_count);
                counts[usize::from(group.0)] += 1;
            }
            let even = 6400 / usize::from(group_count);
            assert!(counts.iter().all(|count| (even / 2..even * 2).contains(count)), "{counts:?}");
        }
    }

    const GROUPS_OF_NAMES: [u16; 4] = [30, 0, 41, 48];

    #[test]
    fn distance_is_zero_when_not_above() {
        assert_eq!(Slot(5).distance_to(Slot(9)), 4);
        assert_eq!(Slot(9).distance_to(Slot(5)), 0);
    }
}
