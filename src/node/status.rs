//! What the node says of itself to `loggos status`. Nothing decides by it.

use std::time::Duration;

use super::{Node, Stage};
use crate::base::{Ballot, Instant, NodeId, Position, Slot};
use crate::log::LogStats;
use crate::paxos::{Cut, Granted, Role};
use crate::wire::NodeStatus;
use crate::wire::status::{
    BallotStatus, BatchingStatus, LeaseStatus, MemberStatus, RoleStatus, SessionsStatus,
    StateDiffers, StateStatus,
};

/// How far a node is, at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// The ballot it has promised.
    pub promised: Ballot,
    /// Every slot up to here is chosen, as far as it knows.
    pub chosen: Slot,
    /// Every slot up to here is applied.
    pub applied: Slot,
    /// The highest slot that has become durable here since it started.
    pub durable: Slot,
    /// The next position to be given out.
    pub tail: Position,
}

impl Node {
    /// How far the node is. Allocates nothing.
    pub fn watermarks(&self) -> Watermarks {
        Watermarks {
            promised: self.core.promised(),
            chosen: self.core.chosen(),
            applied: self.machine.applied(),
            durable: self.log.stats().durable_slot,
            tail: self.machine.tail(),
        }
    }

    /// Until when it holds a lease as the leader, so that it answers such reads alone.
    pub fn lease_until(&self) -> Option<Instant> {
        self.core.lease_until()
    }

    /// The grant of a lease that binds it.
    pub fn granted(&self) -> Option<Granted> {
        self.core.granted()
    }

    /// The first member of which the core believes another state of the connection to it than the
    /// connections tell: there must be none.
    pub fn misjudged_link(&self) -> Option<NodeId> {
        let mut members = self.options.identity.members.iter().map(|(id, _)| *id);
        members.find(|id| self.core.is_connected(*id) != self.peers.is_connected(*id))
    }

    /// Whether it has no vote: what it has lost is not made good yet.
    pub fn has_lost_vote(&self) -> bool {
        self.core.cut() == Some(Cut::Damaged)
    }

    /// Whether its log has no room for a value.
    pub fn is_disk_full(&self) -> bool {
        !self.log.has_room()
    }

    /// What it is at the moment.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The most bytes that wait to be sent to any one peer.
    pub fn peer_bytes_max(&self) -> usize {
        let peers = self.options.identity.members.iter();
        peers.map(|(id, _)| self.peers.queued_bytes(*id)).max().unwrap_or(0)
    }

    /// Counts a stage that the node itself does not see the end of.
    pub fn record_stage(&mut self, stage: Stage, took: Duration) {
        self.stages.record(stage, took);
    }

    /// The answers to what has been chosen are queued to be sent.
    pub fn answers_left(&mut self, now: Instant) {
        self.stages.answers_left(now);
    }

    /// The log's counters.
    pub fn log_stats(&self) -> LogStats {
        self.log.stats()
    }

    /// The node's state. What only the process knows (its resources) is the server's to add.
    pub fn status(&self, now: Instant) -> NodeStatus {
        let core = self.core.status();
        let identity = &self.options.identity;
        let members = identity.members.iter().map(|(id, address)| {
            if *id == identity.node {
                return MemberStatus {
                    id: id.0,
                    address: address.clone(),
                    connected: true,
                    refused: None,
                    last_contact_ms: Some(0),
                    chosen: Some(core.chosen.0),
                };
            }
            let peer = core.peers.iter().find(|peer| peer.id == *id);
            let last_contact = peer.and_then(|peer| peer.last_contact);
            MemberStatus {
                id: id.0,
                address: address.clone(),
                connected: self.peers.is_connected(*id),
                refused: self.peers.refusal(*id).map(str::to_owned),
                last_contact_ms: last_contact.map(|last| now.since(last).as_millis() as u64),
                chosen: last_contact.and(peer).map(|peer| peer.chosen.0),
            }
        });
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: identity.cluster_name.clone(),
            cluster_id: identity.cluster_id().map(|id| id.to_string()),
            incarnation: identity.incarnation.to_string(),
            node: identity.node.0,
            group: self.options.group.0,
            role: match core.role {
                _ if self.is_blank() => RoleStatus::Blank,
                Role::Leader => RoleStatus::Leader,
                Role::Candidate => RoleStatus::Candidate,
                Role::Follower { .. } => RoleStatus::Follower,
            },
            leader: core.leader.map(|NodeId(id)| id),
            ballot: BallotStatus { round: core.promised.round, node: core.promised.node.0 },
            priority: self.core.config().priority,
            vote_lost: self.has_lost_vote(),
            chosen: core.chosen.0,
            applied: self.machine.applied().0,
            durable: self.log.stats().durable_slot.0,
            disk_full: !self.log.has_room(),
            tail: self.machine.tail().0,
            members: members.collect(),
            state: self.state_status(),
            sessions: self.sessions_status(),
            batching: self.batching(),
            stages: self.stages.status(),
            lease: self
                .core
                .lease_until()
                .map(|until| LeaseStatus { remaining_ms: until.since(now).as_millis() as u64 }),
            ..NodeStatus::default()
        }
    }

    fn state_status(&self) -> StateStatus {
        let mark = self.machine.state_marks().back().copied().unwrap_or_default();
        let differs = self.divergence.differs().iter();
        StateStatus {
            slot: mark.slot.0,
            hash: format!("{:016x}", mark.hash),
            differs: differs
                .map(|(node, slot)| StateDiffers { node: node.0, slot: slot.0 })
                .collect(),
        }
    }

    /// How many sessions are open, and what became of others. Allocates nothing.
    pub fn sessions_status(&self) -> SessionsStatus {
        let (open, results) = self.machine.sessions();
        let counters = self.machine.session_counters();
        SessionsStatus {
            open: open as u64,
            results,
            opened: counters.opened,
            found: counters.found,
            refused: counters.refused,
            expired: counters.expired,
            evicted: counters.evicted,
            repeated: counters.repeated,
            forgotten: counters.forgotten,
        }
    }

    fn batching(&self) -> BatchingStatus {
        let stats = self.log.stats();
        BatchingStatus {
            slots: self.applied_slots,
            records: self.applied_records,
            durable_writes: stats.durable_writes,
            log_bytes: stats.bytes_written,
        }
    }

    /// The largest run of records of one append, in bytes.
    pub fn append_bytes_max(&self) -> usize {
        self.options.append_bytes_max
    }

    /// Bytes of block memory in use.
    pub fn block_bytes_live(&self) -> usize {
        self.options.pool.live_bytes()
    }
}
