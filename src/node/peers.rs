//! Connections to the other members: dialling, greeting, sending, receiving.
//!
//! Owned by the node. Each pair of members has two connections: a node sends its messages on the
//! one it dialled itself and receives on the one its peer dialled. That keeps every connection
//! one-way after its greeting, and a broken direction breaks nothing else.
//!
//! A message to a peer that is not connected is dropped: the core sends again what matters once
//! the connection stands ([`crate::paxos::Input::PeerConnected`]).

use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::identity::Identity;
use super::outbox::Outbox;
use crate::base::rng::Rng;
use crate::base::{Batch, BlockPool, GroupId, IdMap, Instant, NodeId};
use crate::io::{CloseReason, ConnId, Io, Net, SendPart};
use crate::paxos::Message;
use crate::wire::hello::{decode_hello_reply, encode_hello};
use crate::wire::{
    FrameDecoder, FrameEncoder, HelloReply, WireError, decode_message, encode_message,
};

/// The first wait before dialling again, doubled with each failure.
const REDIAL_MIN: Duration = Duration::from_millis(20);
/// The longest wait before dialling again.
const REDIAL_MAX: Duration = Duration::from_millis(1000);
/// A dial or greeting that takes longer is given up.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);

/// What the peers' connections tell the node.
#[derive(Debug)]
pub enum PeerEvent {
    /// Messages can be sent to the peer; what was sent before may be lost.
    Connected(NodeId),
    /// The connection on which messages were sent to the peer is gone.
    Disconnected(NodeId),
    /// The connection on which the peer sent has broken.
    Lost(NodeId),
    /// A message has arrived.
    Message(NodeId, Message<Batch>),
}

#[derive(Debug)]
enum Link {
    Idle { retry_at: Instant },
    Dialling { conn: ConnId, since: Instant },
    Greeting { conn: ConnId, since: Instant },
    Open { conn: ConnId },
}

#[derive(Debug)]
struct Peer {
    id: NodeId,
    address: SocketAddr,
    link: Link,
    backoff: Duration,
    /// The last failure that was logged: the same one is not logged again and again.
    failure_logged: Option<String>,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    outbox: Outbox,
}

#[derive(Debug)]
struct Inbound {
    node: NodeId,
    decoder: FrameDecoder,
}

/// All connections to and from the other members.
#[derive(Debug)]
pub struct Peers {
    identity: Identity,
    group: GroupId,
    pool: BlockPool,
    rng: Rng,
    peers: Vec<Peer>,
    inbound: IdMap<ConnId, Inbound>,
}

impl Peers {
    /// Nobody is connected yet; [`Peers::tick`] dials.
    pub fn new(
        identity: Identity,
        group: GroupId,
        addresses: &[(NodeId, SocketAddr)],
        pool: BlockPool,
        seed: u64,
    ) -> Peers {
        let peers = addresses
            .iter()
            .filter(|(id, _)| *id != identity.node)
            .map(|(id, address)| Peer {
                id: *id,
                address: *address,
                link: Link::Idle { retry_at: Instant(0) },
                backoff: REDIAL_MIN,
                failure_logged: None,
                encoder: FrameEncoder::new(),
                decoder: FrameDecoder::new(),
                outbox: Outbox::default(),
            })
            .collect();
        Peers { identity, group, pool, rng: Rng::new(seed), peers, inbound: IdMap::default() }
    }

    /// Whether events of this connection belong here.
    pub fn owns(&self, conn: ConnId) -> bool {
        self.inbound.contains_key(&conn)
            || self.peers.iter().any(|peer| peer.link.conn() == Some(conn))
    }

    /// Whether messages to the peer would leave now.
    pub fn is_connected(&self, id: NodeId) -> bool {
        self.peers.iter().any(|peer| peer.id == id && matches!(peer.link, Link::Open { .. }))
    }

    /// Bytes that wait to be sent to the peer.
    pub fn queued_bytes(&self, id: NodeId) -> usize {
        let peer = self.peers.iter().find(|peer| peer.id == id);
        peer.map_or(0, |peer| peer.outbox.queued_bytes())
    }

    /// Bytes of memory kept alive by what waits to be sent to the peer.
    pub fn queued_memory_bytes(&self, id: NodeId) -> usize {
        let peer = self.peers.iter().find(|peer| peer.id == id);
        peer.map_or(0, |peer| peer.outbox.memory_bytes())
    }

    /// The member has greeted on a connection that it dialled; it is the only one it now sends
    /// on. Returns the one it replaces, to be closed.
    pub fn adopt(&mut self, conn: ConnId, node: NodeId, decoder: FrameDecoder) -> Option<ConnId> {
        let replaced = self.inbound.iter().find(|(_, old)| old.node == node).map(|(id, _)| *id);
        if let Some(old) = replaced {
            self.inbound.remove(&old);
        }
        self.inbound.insert(conn, Inbound { node, decoder });
        replaced
    }

    /// Queues a message; drops it when the peer is not connected.
    pub fn queue(&mut self, to: NodeId, message: &Message<Batch>) {
        let group = self.group;
        let peer = self.peers.iter_mut().find(|peer| peer.id == to);
        let peer = peer.expect("the core sends to members only, and never to itself");
        if !matches!(peer.link, Link::Open { .. }) {
            return;
        }
        let Peer { encoder, outbox, .. } = peer;
        let value = outbox.encode(|out| encode_message(message, group, encoder, out));
        if let Some(batch) = value {
            outbox.push_value(batch);
        }
    }

    /// Dials whoever is due, and gives up greetings that take too long.
    pub fn tick<I: Io>(&mut self, io: &mut I) {
        let now = io.now();
        for peer in &mut self.peers {
            match peer.link {
                Link::Idle { retry_at } if retry_at <= now => {
                    let conn = io.connect(peer.address);
                    peer.link = Link::Dialling { conn, since: now };
                }
                Link::Dialling { conn, since } | Link::Greeting { conn, since }
                    if now.since(since) >= GREETING_TIMEOUT =>
                {
                    Net::close(io, conn);
                    peer.fail(now, &mut self.rng, "no answer in time".to_owned());
                }
                _ => {}
            }
        }
    }

    /// When [`Peers::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = |peer: &Peer| match peer.link {
            Link::Idle { retry_at } => Some(retry_at),
            Link::Dialling { since, .. } | Link::Greeting { since, .. } => {
                Some(since + GREETING_TIMEOUT)
            }
            Link::Open { .. } => None,
        };
        self.peers.iter().filter_map(due).min()
    }

    /// Starts sending what is queued.
    pub fn flush<I: Io>(&mut self, io: &mut I) {
        for peer in &mut self.peers {
            if let Link::Open { conn } | Link::Greeting { conn, .. } = peer.link {
                peer.outbox.flush(io, conn);
            }
        }
    }

    /// A connection that [`Peers::tick`] asked for stands: greet.
    pub fn on_connected<I: Io>(&mut self, io: &mut I, conn: ConnId) {
        let now = io.now();
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link.conn() == Some(conn)) else {
            return;
        };
        peer.link = Link::Greeting { conn, since: now };
        peer.encoder = FrameEncoder::new();
        peer.decoder = FrameDecoder::new();
        peer.outbox = Outbox::default();
        let hello = self.identity.hello_to(peer.id, self.group);
        let Peer { encoder, outbox, .. } = peer;
        outbox.encode(|out| encode_hello(&hello, encoder, out));
        peer.outbox.flush(io, conn);
    }

    /// A send has left.
    pub fn on_sent(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.link.conn() == Some(conn)) {
            peer.outbox.sent(parts);
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
        if let Some(inbound) = self.inbound.get_mut(&conn) {
            let node = inbound.node;
            if let Err(error) = receive(inbound, self.group, bytes, &self.pool, events) {
                warn!(peer = %node, %error, "closing a connection that does not keep the protocol");
                Net::close(io, conn);
                self.inbound.remove(&conn);
                events.push(PeerEvent::Lost(node));
            }
            return;
        }
        self.on_greeting(io, conn, bytes, events);
    }

    /// The answer to our greeting: the only thing a peer ever sends on a connection we dialled.
    fn on_greeting<I: Io>(
        &mut self,
        io: &mut I,
        conn: ConnId,
        bytes: &[u8],
        events: &mut Vec<PeerEvent>,
    ) {
        let now = io.now();
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link.conn() == Some(conn)) else {
            return;
        };
        let mut rest = bytes;
        let reply = match peer.decoder.next(&mut rest, &self.pool) {
            Ok(None) => return,
            Ok(Some(frame)) => decode_hello_reply(&frame),
            Err(error) => Err(error),
        };
        let was_open = matches!(peer.link, Link::Open { .. });
        let failure = match (&peer.link, reply) {
            (Link::Greeting { conn, .. }, Ok(HelloReply::Welcome(_))) => {
                debug!(peer = %peer.id, address = %peer.address, "connected");
                peer.link = Link::Open { conn: *conn };
                peer.backoff = REDIAL_MIN;
                peer.failure_logged = None;
                events.push(PeerEvent::Connected(peer.id));
                return;
            }
            (_, Ok(HelloReply::Welcome(_))) => "it greets twice".to_owned(),
            (_, Ok(HelloReply::Refused { text, .. })) => format!("it refuses: {text}"),
            (_, Err(error)) => format!("it does not speak the protocol: {error}"),
        };
        if was_open {
            events.push(PeerEvent::Disconnected(peer.id));
        }
        Net::close(io, conn);
        peer.fail(now, &mut self.rng, failure);
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
        } else if let Some(peer) = self.peers.iter_mut().find(|peer| peer.link.conn() == Some(conn))
        {
            if matches!(peer.link, Link::Open { .. }) {
                events.push(PeerEvent::Disconnected(peer.id));
            }
            peer.fail(now, &mut self.rng, reason.to_string());
        }
    }
}

impl Link {
    fn conn(&self) -> Option<ConnId> {
        match self {
            Link::Idle { .. } => None,
            Link::Dialling { conn, .. } | Link::Greeting { conn, .. } | Link::Open { conn } => {
                Some(*conn)
            }
        }
    }
}

impl Peer {
    /// Notes a failure and when to dial again: later each time, and not in step with others.
    fn fail(&mut self, now: Instant, rng: &mut Rng, failure: String) {
        if self.failure_logged.as_ref() != Some(&failure) {
            warn!(peer = %self.id, address = %self.address, "not connected: {failure}");
            self.failure_logged = Some(failure);
        }
        self.link = Link::Idle { retry_at: now + rng.between(self.backoff / 2, self.backoff) };
        self.backoff = (self.backoff * 2).min(REDIAL_MAX);
        self.outbox = Outbox::default();
    }
}

fn receive(
    inbound: &mut Inbound,
    group: GroupId,
    bytes: &[u8],
    pool: &BlockPool,
    events: &mut Vec<PeerEvent>,
) -> Result<(), WireError> {
    let mut rest = bytes;
    while let Some(frame) = inbound.decoder.next(&mut rest, pool)? {
        if frame.group != group {
            return Err(WireError::Malformed { kind: frame.kind, why: "it is for another group" });
        }
        events.push(PeerEvent::Message(inbound.node, decode_message(frame, pool)?));
    }
    Ok(())
}
