//! The founding of a cluster: its id, and which directory each member was founded with.
//!
//! The value of slot 1 of group 0, chosen by ordinary Paxos (`node/founding.rs`); each node keeps a copy
//! in its data directory once it knows it chosen (`log/identity.rs`). Never changed afterwards.
//!
//! ```text
//! 16  cluster
//!  2  members, then for each, by node:
//!     2  node
//!    16  incarnation
//! ```

use super::limits::MEMBERS_MAX;
use super::{ClusterId, Incarnation, NodeId};

/// What a cluster was founded as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Founding {
    /// The cluster.
    pub cluster: ClusterId,
    /// Each member with the incarnation of the directory that it was founded with, sorted by node.
    pub members: Vec<(NodeId, Incarnation)>,
}

const HEAD_SIZE: usize = 18;
const MEMBER_SIZE: usize = 18;

impl Founding {
    /// The most bytes that one takes.
    pub const BYTES_MAX: usize = HEAD_SIZE + MEMBER_SIZE * MEMBERS_MAX;

    /// The incarnation under which the member was founded; none when it is no member.
    pub fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        let found = self.members.iter().find(|(member, _)| *member == node);
        found.map(|(_, incarnation)| *incarnation)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_SIZE + MEMBER_SIZE * self.members.len());
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        out.extend_from_slice(&(self.members.len() as u16).to_le_bytes());
        for (node, incarnation) in &self.members {
            out.extend_from_slice(&node.0.to_le_bytes());
            out.extend_from_slice(&incarnation.0.to_le_bytes());
        }
        out
    }

    /// The founding in `bytes`, all of them; none when they are no such thing.
    pub fn decode(bytes: &[u8]) -> Option<Founding> {
        let (cluster, rest) = bytes.split_first_chunk::<16>()?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let count = usize::from(u16::from_le_bytes(*count));
        if !(1..=MEMBERS_MAX).contains(&count) || rest.len() != count * MEMBER_SIZE {
            return None;
        }
        let members: Vec<_> = rest.chunks_exact(MEMBER_SIZE).map(member).collect::<Option<_>>()?;
        let cluster = ClusterId(u128::from_le_bytes(*cluster));
        let sorted = members.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let named = members.iter().all(|(node, at)| node.0 > 0 && *at != Incarnation::NONE);
        (sorted && named && cluster.0 != 0).then_some(Founding { cluster, members })
    }
}

fn member(bytes: &[u8]) -> Option<(NodeId, Incarnation)> {
    let (node, rest) = bytes.split_first_chunk::<2>()?;
    let incarnation = u128::from_le_bytes(rest.try_into().ok()?);
    Some((NodeId(u16::from_le_bytes(*node)), Incarnation(incarnation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_rejects_garbage() {
        let members = (1..=3).map(|node| (NodeId(node), Incarnation(u128::from(node) << 100)));
        let founding = Founding { cluster: ClusterId(77), members: members.collect() };
        let bytes = founding.encode();
        assert!(bytes.len() <= Founding::BYTES_MAX);
        assert_eq!(Founding::decode(&bytes), Some(founding.clone()));
        assert_eq!(founding.incarnation_of(NodeId(2)), Some(Incarnation(2 << 100)));
        assert_eq!(founding.incarnation_of(NodeId(4)), None);
        for cut in 0..bytes.len() {
            assert_eq!(Founding::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        let mut doubled = founding.clone();
        doubled.members[1].0 = NodeId(1);
        assert_eq!(Founding::decode(&doubled.encode()), None);
        let nameless = Founding { cluster: ClusterId(0), ..founding };
        assert_eq!(Founding::decode(&nameless.encode()), None);
    }
}
