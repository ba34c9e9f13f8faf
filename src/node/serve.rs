//! Reads of the durable log on behalf of others: slots for lagging peers, and single slots for
//! clients' reads that miss the cache.
//!
//! Owned by the node. Each peer has at most one answer being streamed. Its slots are sent in order;
//! those that the cache has let go of are read ahead of that, several at a time, so that a peer learns as
//! fast as the disk reads, not one read after the other. What is read ahead is bounded in reads and in
//! bytes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tracing::warn;

use super::cache::SlotCache;
use super::peers::Peers;
use super::{Answer, Ticket};
use crate::base::limits::MIB;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Batch, NodeId, Slot};
use crate::io::Io;
use crate::log::{Log, NotStored, ReadEntry, ReadError, ReadTicket};
use crate::paxos::Message;

/// No further slot is queued for a peer whose queue keeps this many bytes of memory alive.
const PEER_QUEUE_MEMORY_BYTES_MAX: usize = 4 * MIB;
/// Reads for one peer that are under way, or done and wait for one before them.
const PEER_READS_MAX: usize = 32;
/// No further read is started for a peer for which so many bytes have been read and wait for a read
/// before them; of those under way each counts as much as the last one that was done.
const PEER_READ_BYTES_MAX: usize = 4 * MIB;

/// The most bytes that are read ahead for one peer, where an entry has `entry_bytes_max`: small ones may
/// turn into large ones while they are read.
pub fn read_ahead_bytes_max(entry_bytes_max: usize) -> usize {
    PEER_READ_BYTES_MAX + PEER_READS_MAX * entry_bytes_max
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Client(Ticket),
    Peer(NodeId),
}

/// A read of the log for a stream.
#[derive(Debug)]
struct Read {
    slot: Slot,
    ticket: ReadTicket,
    /// What was read, once it was.
    message: Option<Message<Batch>>,
}

#[derive(Debug)]
struct Stream {
    /// The next slot to be sent.
    next: Slot,
    /// The last one to be sent.
    last: Slot,
    /// The reads of `next` and the slots behind it, without a gap.
    reads: VecDeque<Read>,
    /// Bytes of what has been read and waits.
    read_bytes: usize,
    /// Bytes of what was read last.
    typical_bytes: usize,
}

impl Stream {
    /// The first slot that is neither sent nor being read.
    fn unread(&self) -> Slot {
        self.reads.back().map_or(self.next, |read| read.slot.next())
    }

    fn has_room(&self) -> bool {
        let under_way = self.reads.iter().filter(|read| read.message.is_none()).count();
        if !self.reads.is_empty() && planted(Mutant::ServesReadByRead) {
            return false;
        }
        self.reads.len() < PEER_READS_MAX
            && self.read_bytes + under_way * self.typical_bytes < PEER_READ_BYTES_MAX
    }

    /// What comes next, if it has been read.
    fn take_read(&mut self) -> Option<Message<Batch>> {
        let message = self.reads.front_mut()?.message.take()?;
        self.reads.pop_front();
        self.read_bytes -= value_bytes(&message);
        Some(message)
    }
}

fn value_bytes(message: &Message<Batch>) -> usize {
    match message {
        Message::Learn { value, .. } => value.memory_size(),
        _ => 0,
    }
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
    /// A peer wants these chosen slots. A request that goes on where the stream to the peer is, or ends,
    /// adds to that stream: what is being read for it is of use. Any other takes its place.
    pub fn start(&mut self, to: NodeId, first: Slot, last: Slot) {
        if let Some(stream) = self.streams.get_mut(&to)
            && (stream.next..=stream.last.next()).contains(&first)
        {
            stream.last = stream.last.max(last);
            return;
        }
        let typical_bytes = self.streams.get(&to).map_or(0, |stream| stream.typical_bytes);
        let (next, reads, read_bytes) = (first, VecDeque::new(), 0);
        self.streams.insert(to, Stream { next, last, reads, read_bytes, typical_bytes });
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

    /// A read of the log has ended. What was read for a peer leaves with the next [`Serving::pump`].
    pub fn on_read(
        &mut self,
        ticket: ReadTicket,
        result: Result<ReadEntry, ReadError>,
        answers: &mut Vec<Answer>,
    ) {
        match self.purposes.remove(&ticket).expect("every read has a purpose") {
            Purpose::Client(ticket) => answers.push(Answer::Read { ticket, result }),
            Purpose::Peer(to) => self.on_peer_read(to, ticket, result),
        }
    }

    fn on_peer_read(
        &mut self,
        to: NodeId,
        ticket: ReadTicket,
        result: Result<ReadEntry, ReadError>,
    ) {
        // The stream may have been replaced meanwhile; then nobody waits for this.
        let Some(stream) = self.streams.get_mut(&to) else { return };
        let Some(read) = stream.reads.iter_mut().find(|read| read.ticket == ticket) else { return };
        match result {
            Ok(ReadEntry { ballot, batch, .. }) => {
                let message = Message::Learn { slot: read.slot, ballot, value: batch };
                let bytes = value_bytes(&message);
                read.message = Some(message);
                stream.read_bytes += bytes;
                stream.typical_bytes = bytes;
            }
            Err(error) => {
                warn!(peer = %to, slot = %read.slot, %error, "cannot serve a slot from the log");
                self.streams.remove(&to);
            }
        }
    }

    /// Queues as many slots as the peers' queues take, and reads ahead what the cache has let go of.
    pub fn pump<I: Io>(&mut self, io: &mut I, log: &mut Log, cache: &SlotCache, peers: &mut Peers) {
        let busy: Vec<NodeId> = match self.streams.is_empty() {
            true => return,
            false => self.streams.keys().copied().collect(),
        };
        for to in busy {
            if !peers.is_connected(to) || self.send(to, cache, peers) {
                self.streams.remove(&to);
            } else if let Err((slot, error)) = self.read_ahead(to, io, log, cache) {
                warn!(peer = %to, %slot, %error, "cannot serve a slot from the log");
                self.streams.remove(&to);
            }
        }
    }

    /// Returns whether everything has been sent.
    fn send(&mut self, to: NodeId, cache: &SlotCache, peers: &mut Peers) -> bool {
        let stream = self.streams.get_mut(&to).expect("the caller has found it");
        while stream.next <= stream.last {
            if peers.queued_memory_bytes(to) >= PEER_QUEUE_MEMORY_BYTES_MAX {
                return false;
            }
            let slot = stream.next;
            let message = match stream.take_read() {
                Some(message) => message,
                None if !stream.reads.is_empty() => return false,
                None => match cache.slot(slot) {
                    Some(applied) => {
                        let (ballot, value) = (applied.ballot, applied.batch.clone());
                        Message::Learn { slot, ballot, value }
                    }
                    None => return false,
                },
            };
            peers.queue(to, &message);
            stream.next = slot.next();
        }
        true
    }

    /// Reads from the first slot on that is neither sent nor being read, up to what the cache holds.
    fn read_ahead<I: Io>(
        &mut self,
        to: NodeId,
        io: &mut I,
        log: &mut Log,
        cache: &SlotCache,
    ) -> Result<(), (Slot, NotStored)> {
        loop {
            let stream = self.streams.get(&to).expect("the caller has found it");
            let slot = stream.unread();
            if slot > stream.last || !stream.has_room() || cache.slot(slot).is_some() {
                return Ok(());
            }
            let waits = !stream.reads.is_empty();
            let ticket = self.ticket(Purpose::Peer(to));
            match log.read_slot(io, ticket, slot) {
                Ok(()) => {
                    let stream = self.streams.get_mut(&to).expect("as above");
                    stream.reads.push_back(Read { slot, ticket, message: None });
                }
                Err(error) => {
                    self.forget(ticket);
                    // Those before it are still to come, and then it is tried again.
                    return if waits { Ok(()) } else { Err((slot, error)) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Ballot, BlockPool};

    const PEER: NodeId = NodeId(2);

    /// A stream of which the first three slots are being read.
    fn reading(first: u64, last: u64) -> (Serving, Vec<ReadTicket>) {
        let mut serving = Serving::default();
        serving.start(PEER, Slot(first), Slot(last));
        let ticket = |serving: &mut Serving, slot| {
            let ticket = serving.ticket(Purpose::Peer(PEER));
            let read = Read { slot: Slot(slot), ticket, message: None };
            serving.streams.get_mut(&PEER).unwrap().reads.push_back(read);
            ticket
        };
        let tickets = (first..first + 3).map(|slot| ticket(&mut serving, slot)).collect();
        (serving, tickets)
    }

    fn done(serving: &mut Serving, ticket: ReadTicket, slot: u64, bytes: usize) {
        let batch = Batch::copy_of(&BlockPool::new(0), &vec![7; bytes]);
        let read = ReadEntry { slot: Slot(slot), ballot: Ballot::NONE, placement: None, batch };
        serving.on_read(ticket, Ok(read), &mut Vec::new());
    }

    fn next_read(serving: &mut Serving) -> Option<Slot> {
        let stream = serving.streams.get_mut(&PEER).unwrap();
        match stream.take_read()? {
            Message::Learn { slot, .. } => Some(slot),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_that_end_out_of_order_leave_in_order() {
        let (mut serving, tickets) = reading(5, 20);
        done(&mut serving, tickets[2], 7, 100);
        done(&mut serving, tickets[1], 6, 100);
        assert_eq!(next_read(&mut serving), None);
        done(&mut serving, tickets[0], 5, 100);
        let order: Vec<_> = (0..3).map(|_| next_read(&mut serving).unwrap().0).collect();
        assert_eq!(order, [5, 6, 7]);
        assert_eq!(serving.streams[&PEER].read_bytes, 0);
    }

    /// What is asked again, or asked further on, while it is read is not read twice; a stream that was
    /// begun anew with each question would never get anywhere on a disk that is slower than they come.
    #[test]
    fn question_that_goes_on_keeps_what_is_being_read() {
        let (mut serving, tickets) = reading(5, 20);
        for (first, last) in [(5, 20), (7, 9), (21, 40)] {
            serving.start(PEER, Slot(first), Slot(last));
            assert_eq!(serving.streams[&PEER].reads.len(), 3);
        }
        assert_eq!(serving.streams[&PEER].last, Slot(40));
        // Slots before the stream, or after a gap, are another stream; reads of the old one end for nobody.
        for (first, last) in [(4, 99), (120, 150)] {
            serving.start(PEER, Slot(first), Slot(last));
            let stream = &serving.streams[&PEER];
            assert_eq!((stream.next.0, stream.last.0, stream.reads.len()), (first, last, 0));
        }
        done(&mut serving, tickets[0], 5, 100);
        assert_eq!(serving.streams[&PEER].read_bytes, 0);
        assert_eq!(next_read(&mut serving), None);
    }

    #[test]
    fn what_is_read_ahead_is_bounded_in_bytes() {
        let (mut serving, tickets) = reading(5, 2000);
        assert!(serving.streams[&PEER].has_room());
        done(&mut serving, tickets[1], 6, MIB + 1);
        assert!(!serving.streams[&PEER].has_room(), "two more of that size are under way");
        done(&mut serving, tickets[0], 5, 100);
        assert!(serving.streams[&PEER].has_room(), "the last one was small");
        assert_eq!(next_read(&mut serving), Some(Slot(5)));
        let stream = serving.streams.get_mut(&PEER).unwrap();
        for slot in 8..5 + PEER_READS_MAX as u64 + 1 {
            assert!(stream.has_room());
            let ticket = ReadTicket(1000 + slot);
            stream.reads.push_back(Read { slot: Slot(slot), ticket, message: None });
        }
        assert!(!stream.has_room(), "nor are there more reads than so many");
    }
}
