//! What a replica says of itself, for status pages and tests. Nothing decides by it.

use super::{Core, Cut, Role, Value};
use crate::base::{Ballot, Instant, NodeId, Slot};

/// A replica's view of itself and of its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreStatus {
    /// What it is.
    pub role: Role,
    /// The leader it knows; itself while it leads.
    pub leader: Option<NodeId>,
    /// The ballot it has promised, its own while it campaigns or leads.
    pub promised: Ballot,
    /// Every slot up to here is chosen.
    pub chosen: Slot,
    /// The greatest slot it has proposed as the leader; the chosen watermark otherwise.
    pub proposed: Slot,
    /// What was cut from the end of its log and is not made good yet.
    pub cut: Option<Cut>,
    /// Writes that are not yet durable.
    pub persists_inflight_count: usize,
    /// Its peers, by id, itself not included.
    pub peers: Vec<PeerStatus>,
}

/// A replica's view of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// When it was last heard; none if never.
    pub last_contact: Option<Instant>,
    /// Whether a connection is believed to stand.
    pub connected: bool,
    /// The chosen watermark that it told of last.
    pub chosen: Slot,
    /// How much it is wanted as the leader, as it told last.
    pub priority: u8,
    /// Whether it votes, as it told last: not after damage that may have taken acknowledged values.
    pub votes: bool,
    /// While leading: every slot up to here is answered by the peer, or left to its fetches.
    pub acked: Option<Slot>,
}

impl<V: Value> Core<V> {
    /// What the replica knows of itself and of its peers.
    pub fn status(&self) -> CoreStatus {
        let peers = self.peer_indices().map(|index| self.peer_status(index)).collect();
        CoreStatus {
            role: self.role(),
            leader: self.leader(),
            promised: self.promised,
            chosen: self.chosen,
            proposed: self.proposed(),
            cut: self.cut(),
            persists_inflight_count: self.persists.count(),
            peers,
        }
    }

    fn peer_status(&self, index: usize) -> PeerStatus {
        let peer = &self.peers[index];
        PeerStatus {
            id: self.config.members[index],
            last_contact: peer.last_contact,
            connected: peer.connected,
            chosen: peer.chosen,
            priority: peer.priority,
            votes: peer.votes(),
            acked: self.acked(index),
        }
    }
}
