//! Connections to and from the other members: who sends on which, and what arrives.
//!
//! Owned by the node. Each pair of members has two connections: a node sends its messages on the
//! one it dialled itself and receives on the one its peer dialled. That keeps every connection
//! one-way after its greeting, and a broken direction breaks nothing else. How a connection is
//! dialled, and dialled anew: [`super::dial`].
//!
//! A message to a peer that is not connected is dropped: the core sends again what matters once
//! the connection stands ([`crate::paxos::Input::PeerConnected`]).

use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::dial::{Heard, Outbound, Timing};
use super::identity::Identity;
use crate::base::rng::Rng;
use crate::base::{Batch, BlockPool, Founding, GroupId, IdMap, Instant, NodeId};
use crate::io::{CloseReason, ConnId, Io, LookupId, Net, SendPart};
use crate::paxos::Message;
use crate::wire::{
    Alive, FrameDecoder, FrameKind, Standing, WireError, decode_alive, decode_message,
};

/// What the peers' connections tell the node.
#[derive(Debug)]
pub enum PeerEvent {
    /// Messages can be sent to the peer; what was sent before may be lost.
    Connected(NodeId),
    /// The connection on which messages were sent to the peer is gone.
    Disconnected(NodeId),
    /// The connection on which the peer sent has broken.
    Lost(NodeId),
    /// A message has arrived, from a member that greeted with this standing.
    Message(NodeId, Standing, Message<Batch>),
}

/// What a member has said of itself since it was dialled last.
#[derive(Debug)]
pub(super) enum Probe<'a> {
    /// Nothing yet; why, as far as it is known.
    Waiting(&'a str),
    /// It refuses this node, or this node it: why.
    Refused(&'a str),
    /// It lets this node in.
    Open(Standing, Option<&'a Founding>),
}

/// A connection that a member dialled.
#[derive(Debug)]
struct Inbound {
    node: NodeId,
    standing: Standing,
    decoder: FrameDecoder,
    heard: Heard,
}

/// All connections to and from the other members.
#[derive(Debug)]
pub struct Peers {
    identity: Identity,
    group: GroupId,
    pool: BlockPool,
    rng: Rng,
    timing: Timing,
    peers: Vec<Outbound>,
    inbound: IdMap<ConnId, Inbound>,
}

impl Peers {
    /// Nobody is connected yet; [`Peers::tick`] dials.
    pub fn new(
        identity: Identity,
        group: GroupId,
        pool: BlockPool,
        election_timeout: Duration,
        seed: u64,
    ) -> Peers {
        let others = identity.members.iter().filter(|(id, _)| *id != identity.node);
        let peers = others.map(|(id, address)| Outbound::new(*id, address.clone())).collect();
        let (timing, rng) = (Timing::of(election_timeout), Rng::new(seed));
        Peers { identity, group, pool, rng, timing, peers, inbound: IdMap::default() }
    }

    /// Whether events of this connection belong here.
    pub fn owns(&self, conn: ConnId) -> bool {
        self.inbound.contains_key(&conn) || self.peers.iter().any(|peer| peer.owns(conn))
    }

    fn peer(&self, id: NodeId) -> Option<&Outbound> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    fn peer_mut(&mut self, id: NodeId) -> &mut Outbound {
        let peer = self.peers.iter_mut().find(|peer| peer.id == id);
        peer.expect("only members are let in, written to, and told of")
    }

    /// Whether messages to the peer would leave now.
    pub fn is_connected(&self, id: NodeId) -> bool {
        self.peer(id).is_some_and(Outbound::is_open)
    }

    /// Bytes that wait to be sent to the peer.
    pub fn queued_bytes(&self, id: NodeId) -> usize {
        let outbox = self.peer(id).and_then(Outbound::outbox);
        outbox.map_or(0, |outbox| outbox.queued_bytes())
    }

    /// Bytes of memory kept alive by what waits to be sent to the peer.
    pub fn queued_memory_bytes(&self, id: NodeId) -> usize {
        let outbox = self.peer(id).and_then(Outbound::outbox);
        outbox.map_or(0, |outbox| outbox.memory_bytes())
    }

    /// The member has greeted on a connection that it dialled; it is the only one it now sends
    /// on. Returns the one it replaces, to be closed.
    pub fn adopt(
        &mut self,
        now: Instant,
        conn: ConnId,
        (node, standing): (NodeId, Standing),
        decoder: FrameDecoder,
    ) -> Option<ConnId> {
        let replaced = self.inbound.iter().find(|(_, old)| old.node == node).map(|(id, _)| *id);
        if let Some(old) = replaced {
            debug!(peer = %node, "it sends on a new connection");
            self.inbound.remove(&old);
        }
        self.inbound.insert(conn, Inbound { node, standing, decoder, heard: Heard::default() });
        self.peer_mut(node).met(now);
        replaced
    }

    /// What the member has said of itself.
    pub(super) fn probe(&self, id: NodeId) -> Probe<'_> {
        self.peer(id).map_or(Probe::Waiting("it is not dialled"), Outbound::probe)
    }

    /// Why the member and this node refuse each other, if they do.
    pub fn refusal(&self, id: NodeId) -> Option<&str> {
        match self.probe(id) {
            Probe::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// Leaves every connection that was dialled, and dials anew, at once: what a peer said of itself
    /// may not be true any more.
    pub(super) fn redial_all<I: Io>(&mut self, io: &mut I, events: &mut Vec<PeerEvent>) {
        events.extend(self.peers.iter_mut().filter_map(|peer| peer.dial_anew(io)));
    }

    /// The node's identity is this from now on: ends the connections that it does not permit.
    pub(super) fn enforce<I: Io>(
        &mut self,
        io: &mut I,
        identity: Identity,
        events: &mut Vec<PeerEvent>,
    ) {
        self.identity = identity;
        let Peers { identity, peers, rng, inbound, .. } = self;
        events.extend(peers.iter_mut().filter_map(|peer| peer.enforce(io, identity, rng)));
        inbound.retain(|conn, inbound| {
            let stays = identity.judge_standing(inbound.node, &inbound.standing).is_ok();
            if !stays {
                Net::close(io, *conn);
                events.push(PeerEvent::Lost(inbound.node));
            }
            stays
        });
    }

    /// Queues a message; drops it when the peer is not connected.
    pub fn queue(&mut self, to: NodeId, message: &Message<Batch>) {
        let group = self.group;
        self.peer_mut(to).queue(message, group);
    }

    /// Dials whoever is due, gives up what takes too long, and tells each peer what was received
    /// from it.
    pub fn tick<I: Io>(&mut self, io: &mut I) {
        let Peers { group, timing, rng, inbound, .. } = self;
        for peer in &mut self.peers {
            let from = inbound.values().find(|inbound| inbound.node == peer.id);
            let heard = from.map(|inbound| inbound.heard).unwrap_or_default();
            peer.tick(io, *timing, heard, *group, rng);
        }
    }

    /// When [`Peers::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.peers.iter().map(|peer| peer.next_deadline(self.timing)).min()
    }

    /// Starts sending what is queued.
    pub fn flush<I: Io>(&mut self, io: &mut I) {
        self.peers.iter_mut().for_each(|peer| peer.flush(io));
    }

    /// A name that [`Peers::tick`] asked for has been looked up.
    pub fn on_looked_up<I: Io>(
        &mut self,
        io: &mut I,
        lookup: LookupId,
        addresses: std::io::Result<Vec<SocketAddr>>,
    ) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.awaits(lookup)) {
            peer.on_looked_up(io, addresses, &mut self.rng);
        }
    }

    /// A connection that [`Peers::tick`] asked for stands: greet.
    pub fn on_connected<I: Io>(&mut self, io: &mut I, conn: ConnId) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.owns(conn)) {
            let hello = self.identity.hello_to(peer.id, self.group);
            peer.on_connected(io, conn, &hello);
        }
    }

    /// A send has left.
    pub fn on_sent(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.owns(conn)) {
            peer.on_sent(conn, parts);
        }
    }

    /// Bytes have arrived on a connection that is owned here.
    pub fn on_received<I: Io>(
        &mut self,
        io: &mut I,
        conn: ConnId,
        bytes: &[u8],
        events: &mut Vec<PeerEvent>,
    ) {
        let now = io.now();
        if let Some(inbound) = self.inbound.get_mut(&conn) {
            let node = inbound.node;
            let mut alive = None;
            if let Err(error) = receive(inbound, self.group, bytes, &self.pool, events, &mut alive)
            {
                warn!(peer = %node, %error, "closing a connection that does not keep the protocol");
                Net::close(io, conn);
                self.inbound.remove(&conn);
                events.push(PeerEvent::Lost(node));
            }
            let peer = self.peer_mut(node);
            peer.heard(now);
            if let Some(alive) = alive {
                peer.on_alive(now, &alive);
            }
            return;
        }
        let Peers { identity, pool, rng, .. } = self;
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.owns(conn)) {
            events.extend(peer.on_received(io, conn, bytes, (&*pool, &*identity), rng));
        }
    }

    /// A connection owned here is gone.
    pub fn on_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        reason: &CloseReason,
        events: &mut Vec<PeerEvent>,
    ) {
        if let Some(inbound) = self.inbound.remove(&conn) {
            info!(peer = %inbound.node, %reason, "the peer's connection is gone");
            events.push(PeerEvent::Lost(inbound.node));
        } else if let Some(peer) = self.peers.iter_mut().find(|peer| peer.owns(conn)) {
            events.extend(peer.on_closed(now, conn, reason, &mut self.rng));
        }
    }
}

/// `alive`: the last word of being alive among the bytes, if there is one.
fn receive(
    inbound: &mut Inbound,
    group: GroupId,
    bytes: &[u8],
    pool: &BlockPool,
    events: &mut Vec<PeerEvent>,
    alive: &mut Option<Alive>,
) -> Result<(), WireError> {
    inbound.heard.bytes += bytes.len() as u64;
    let mut rest = bytes;
    while let Some(frame) = inbound.decoder.next(&mut rest, pool)? {
        if frame.group != group {
            return Err(WireError::Malformed { kind: frame.kind, why: "it is for another group" });
        }
        if frame.kind == FrameKind::Alive {
            let told = decode_alive(&frame)?;
            inbound.heard.line = told.line;
            *alive = Some(told);
            continue;
        }
        let message = decode_message(frame, pool)?;
        events.push(PeerEvent::Message(inbound.node, inbound.standing, message));
    }
    Ok(())
}
