//! Reads of the durable log on behalf of others: slots for lagging peers, and single slots for
//! clients' reads that miss the cache.
//!
//! Owned by the node. Each peer has at most one answer being streamed and one log read in flight;
//! a new request of the same peer replaces the old one.

use std::collections::{BTreeMap, HashMap};

use tracing::warn;

use super::cache::SlotCache;
use super::peers::Peers;
use super::{Answer, Ticket};
use crate::base::limits::MIB;
use crate::base::{NodeId, Slot};
use crate::io::Io;
use crate::log::{Log, ReadEntry, ReadError, ReadTicket};
use crate::paxos::Message;

/// No further slot is queued for a peer whose queue keeps this many bytes of memory alive.
const PEER_QUEUE_MEMORY_BYTES_MAX: usize = 4 * MIB;

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Client(Ticket),
    Peer { to: NodeId, slot: Slot },
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    next: Slot,
    last: Slot,
    /// A log read for `next` is under way.
    reading: bool,
}

/// The reads under way.
#[derive(Debug, Default)]
pub struct Serving {
    purposes: HashMap<ReadTicket, Purpose>,
    tickets: u64,
    /// Ordered: the order in which peers are served reaches the outside, and one seed must give
    /// one run.
    streams: BTreeMap<NodeId, Stream>,
}

impl Serving {
    /// A peer wants these chosen slots.
    pub fn start(&mut self, to: NodeId, first: Slot, last: Slot) {
        let reading = self.streams.get(&to).is_some_and(|stream| stream.reading);
        let reading = reading && self.streams[&to].next == first;
        self.streams.insert(to, Stream { next: first, last, reading });
    }

    /// A ticket for a read on a client's behalf.
    pub fn client_read(&mut self, ticket: Ticket) -> ReadTicket {
        self.ticket(Purpose::Client(ticket))
    }

    /// The read was refused: its ticket will not come back.
    pub fn forget(&mut self, ticket: ReadTicket) {
        self.purposes.remove(&ticket);
    }

    fn ticket(&mut self, purpose: Purpose) -> ReadTicket {
        self.tickets += 1;
        let ticket = ReadTicket(self.tickets);
        self.purposes.insert(ticket, purpose);
        ticket
    }

    /// A read of the log has ended.
    pub fn on_read(
        &mut self,
        ticket: ReadTicket,
        result: Result<ReadEntry, ReadError>,
        peers: &mut Peers,
        answers: &mut Vec<Answer>,
    ) {
        match self.purposes.remove(&ticket).expect("every read has a purpose") {
            Purpose::Client(ticket) => answers.push(Answer::Read { ticket, result }),
            Purpose::Peer { to, slot } => self.on_peer_read(to, slot, result, peers),
        }
    }

    fn on_peer_read(
        &mut self,
        to: NodeId,
        slot: Slot,
        result: Result<ReadEntry, ReadError>,
        peers: &mut Peers,
    ) {
        // The stream may have been replaced meanwhile; then this slot is not what it waits for.
        let Some(stream) = self.streams.get_mut(&to).filter(|stream| stream.next == slot) else {
            return;
        };
        stream.reading = false;
        match result {
            Ok(ReadEntry { ballot, batch, .. }) => {
                peers.queue(to, &Message::Learn { slot, ballot, value: batch });
                self.advance(to);
            }
            Err(error) => {
                warn!(peer = %to, %slot, %error, "cannot serve a slot from the log");
                self.streams.remove(&to);
            }
        }
    }

    fn advance(&mut self, to: NodeId) {
        let stream = self.streams.get_mut(&to).expect("only a stream under way advances");
        if stream.next == stream.last {
            self.streams.remove(&to);
        } else {
            stream.next = stream.next.next();
        }
    }

    /// Queues as many slots as the peers' queues take; starts a log read where the cache has gone
    /// on already.
    pub fn pump<I: Io>(&mut self, io: &mut I, log: &mut Log, cache: &SlotCache, peers: &mut Peers) {
        let busy: Vec<NodeId> = match self.streams.is_empty() {
            true => return,
            false => self.streams.keys().copied().collect(),
        };
        for to in busy {
            while let Some(stream) = self.streams.get(&to).copied() {
                if !peers.is_connected(to) {
                    self.streams.remove(&to);
                    break;
                }
                if stream.reading || peers.queued_memory_bytes(to) >= PEER_QUEUE_MEMORY_BYTES_MAX {
                    break;
                }
                let slot = stream.next;
                if let Some(applied) = cache.slot(slot) {
                    let (ballot, value) = (applied.ballot, applied.batch.clone());
                    peers.queue(to, &Message::Learn { slot, ballot, value });
                    self.advance(to);
                    continue;
                }
                let ticket = self.ticket(Purpose::Peer { to, slot });
                if let Err(error) = log.read_slot(io, ticket, slot) {
                    warn!(peer = %to, %slot, %error, "cannot serve a slot from the log");
                    self.forget(ticket);
                    self.streams.remove(&to);
                    break;
                }
                self.streams.get_mut(&to).expect("looked at above").reading = true;
            }
        }
    }
}
