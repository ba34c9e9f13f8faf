//! What waits to be sent on one connection: encoded bytes and sealed values, in order.
//!
//! Used by the node for its peers and by the server for its clients. One send is in flight at a
//! time; what queues meanwhile goes out gathered with the next. The owner bounds what it queues
//! (windows and [`Outbox::memory_bytes`] towards peers, [`Outbox::queued_bytes`] towards clients).

use std::collections::VecDeque;

use crate::base::Batch;
use crate::base::limits::{KIB, MIB};
use crate::io::{ConnId, Net, SendPart};

/// Buffers kept for reuse per connection.
const SPARE_BUFFERS_MAX: usize = 4;
/// A buffer that has grown beyond this many bytes is not kept.
const SPARE_BUFFER_BYTES_MAX: usize = 256 * KIB;
/// Encoded bytes gather in one buffer up to about this size; then the next one starts, so that
/// a long queue is not moved when it grows.
const BUFFER_BYTES_TARGET: usize = 64 * KIB;
/// The most bytes handed to one send (a single part may be larger).
const SEND_BYTES_MAX: usize = 4 * MIB;

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<SendPart>,
    queued_bytes: usize,
    in_flight: bool,
    in_flight_bytes: usize,
    /// Bytes of all sends that have left.
    sent_bytes: u64,
    /// Of values: what they keep alive beyond their bytes.
    padding_bytes: usize,
    in_flight_padding_bytes: usize,
    spare_buffers: Vec<Vec<u8>>,
    spare_lists: Vec<Vec<SendPart>>,
}

impl Outbox {
    /// Bytes queued or in flight.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    /// Bytes that have left since the beginning.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Bytes of memory that these keep alive: a small value takes a whole block.
    pub fn memory_bytes(&self) -> usize {
        self.queued_bytes() + self.padding_bytes + self.in_flight_padding_bytes
    }

    /// Lets `encode` write to the end of the queue.
    pub fn encode<R>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let start_new = match self.queue.back() {
            Some(SendPart::Bytes(bytes)) => bytes.len() >= BUFFER_BYTES_TARGET,
            _ => true,
        };
        if start_new {
            let buffer = self.spare_buffers.pop().unwrap_or_default();
            self.queue.push_back(SendPart::Bytes(buffer));
        }
        let Some(SendPart::Bytes(bytes)) = self.queue.back_mut() else {
            unreachable!("the last part was made bytes above")
        };
        let before = bytes.len();
        let result = encode(bytes);
        assert!(bytes.len() >= before, "encoding only adds");
        self.queued_bytes += bytes.len() - before;
        result
    }

    /// Queues a value as it is: the bytes that also go to the disk.
    pub fn push_value(&mut self, batch: Batch) {
        let part = SendPart::Value(batch);
        self.queued_bytes += part.bytes().len();
        self.padding_bytes += padding_of(&part);
        self.queue.push_back(part);
    }

    /// Starts a send of what is queued, unless one is in flight.
    pub fn flush<N: Net>(&mut self, net: &mut N, conn: ConnId) {
        if self.in_flight || self.queued_bytes == 0 {
            return;
        }
        let mut parts = self.spare_lists.pop().unwrap_or_default();
        let (mut bytes, mut padding) = (0, 0);
        while let Some(part) = self.queue.pop_front() {
            bytes += part.bytes().len();
            padding += padding_of(&part);
            parts.push(part);
            if parts.len() == N::SEND_PARTS_MAX || bytes >= SEND_BYTES_MAX {
                break;
            }
        }
        assert!(bytes > 0, "a send carries something");
        self.queued_bytes -= bytes;
        self.in_flight_bytes = bytes;
        self.padding_bytes -= padding;
        self.in_flight_padding_bytes = padding;
        self.in_flight = true;
        net.send(conn, parts);
    }

    /// The send has left: its parts come back for reuse.
    pub fn sent(&mut self, mut parts: Vec<SendPart>) {
        assert!(self.in_flight, "a completion belongs to a send");
        self.in_flight = false;
        self.sent_bytes += self.in_flight_bytes as u64;
        self.in_flight_bytes = 0;
        self.in_flight_padding_bytes = 0;
        for part in parts.drain(..) {
            if let SendPart::Bytes(mut bytes) = part
                && self.spare_buffers.len() < SPARE_BUFFERS_MAX
                && bytes.capacity() <= SPARE_BUFFER_BYTES_MAX
            {
                bytes.clear();
                self.spare_buffers.push(bytes);
            }
        }
        if self.spare_lists.is_empty() {
            self.spare_lists.push(parts);
        }
    }
}

fn padding_of(part: &SendPart) -> usize {
    part.memory_size() - part.bytes().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockPool, GroupId};
    use crate::io::LookupId;
    use std::io;
    use std::net::SocketAddr;

    /// Takes sends and remembers their bytes.
    #[derive(Default)]
    struct Wire {
        parts: Vec<SendPart>,
        bytes: Vec<u8>,
    }

    impl Net for Wire {
        type Chunk = Vec<u8>;
        fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
            Ok(address)
        }
        fn look_up(&mut self, _: &str) -> LookupId {
            unreachable!("an outbox knows no names")
        }
        fn connect(&mut self, _: SocketAddr) -> ConnId {
            ConnId(1)
        }
        fn send(&mut self, _: ConnId, parts: Vec<SendPart>) {
            assert!(self.parts.is_empty() && parts.len() <= Self::SEND_PARTS_MAX);
            parts.iter().for_each(|part| self.bytes.extend_from_slice(part.bytes()));
            self.parts = parts;
        }
        fn pause(&mut self, _: ConnId) {}
        fn resume(&mut self, _: ConnId) {}
        fn hand_over(&mut self, _: ConnId, _: GroupId, _: Vec<u8>) {}
        fn close(&mut self, _: ConnId) {}
    }

    #[test]
    fn one_send_at_a_time_in_order_and_nothing_lost() {
        let pool = BlockPool::new(1 << 20);
        let (mut outbox, mut wire) = (Outbox::default(), Wire::default());
        let mut expected = Vec::new();
        for round in 0..500u32 {
            let head = round.to_le_bytes();
            let value = vec![round as u8; 1 + round as usize * 7];
            outbox.encode(|out| out.extend_from_slice(&head));
            expected.extend_from_slice(&head);
            if round % 3 == 0 {
                outbox.push_value(Batch::copy_of(&pool, &value));
                expected.extend_from_slice(&value);
            }
            if round % 50 == 0 {
                outbox.flush(&mut wire, ConnId(1));
                outbox.flush(&mut wire, ConnId(1));
            }
            if round % 100 == 0 && !wire.parts.is_empty() {
                outbox.sent(std::mem::take(&mut wire.parts));
            }
        }
        while outbox.queued_bytes() > 0 {
            if !wire.parts.is_empty() {
                outbox.sent(std::mem::take(&mut wire.parts));
            }
            outbox.flush(&mut wire, ConnId(1));
        }
        assert_eq!(wire.bytes, expected);
    }
}
