//! The network's half of the seam: connections that receive by themselves and send one thing at a
//! time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;

use crate::base::limits::KIB;
use crate::base::{Batch, GroupId};

/// The most bytes that may have been received on a connection when it is handed over. A greeting is
/// far below it, and whoever keeps the protocol waits for the answer to its greeting.
pub const HANDOVER_BYTES_MAX: usize = 256 * KIB;

/// A connection. Never reused within a process: an event for a closed connection can be told from
/// one of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Names one [`Net::look_up`]; never used again within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupId(pub u64);

/// One piece of a gathered send; the seam keeps it until the send has completed.
#[derive(Debug)]
pub enum SendPart {
    /// Encoded bytes.
    Bytes(Vec<u8>),
    /// The value of a sealed batch: the very bytes that go to the disk.
    Value(Batch),
}

impl SendPart {
    /// The bytes to send.
    pub fn bytes(&self) -> &[u8] {
        match self {
            SendPart::Bytes(bytes) => bytes,
            SendPart::Value(batch) => batch.value(),
        }
    }

    /// Bytes of memory that it keeps alive.
    pub fn memory_size(&self) -> usize {
        match self {
            SendPart::Bytes(bytes) => bytes.len(),
            SendPart::Value(batch) => batch.memory_size(),
        }
    }
}

/// Why a connection is gone.
#[derive(Debug)]
pub enum CloseReason {
    /// The other side has ended the stream in good order.
    Ended,
    /// Connecting, sending or receiving failed.
    Failed(io::Error),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Ended => f.write_str("closed by the other side"),
            CloseReason::Failed(error) => fmt::Display::fmt(error, f),
        }
    }
}

/// Stream sockets. A connection receives from the moment it stands (unless paused), in order,
/// without being asked; it sends one list of parts at a time.
pub trait Net {
    /// Received bytes, in memory that belongs to the network until the chunk is dropped. Drop it
    /// soon: the kernel has a bounded number of such buffers for all connections.
    type Chunk: Deref<Target = [u8]> + fmt::Debug;

    /// Starts listening; [`super::Event::Accepted`] follows for each connection.
    fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr>;
    /// Starts to look the addresses of `name` (`host:port`) up; ends in [`super::Event::LookedUp`], late
    /// or, where the system's resolver hangs, never. Nothing waits for it meanwhile. Who has not been
    /// answered does not ask again.
    fn look_up(&mut self, name: &str) -> LookupId;
    /// Starts to connect; ends in `Connected` or `Closed` for the id returned.
    fn connect(&mut self, address: SocketAddr) -> ConnId;
    /// Sends `parts` one behind the other, whole: short sends are continued by the seam. Ends in
    /// `Sent` or `Closed`. At most [`Net::SEND_PARTS_MAX`] parts, not all empty.
    ///
    /// # Panics
    /// When a send is in flight on `conn` already (two at once could interleave).
    fn send(&mut self, conn: ConnId, parts: Vec<SendPart>);
    /// Stops receiving on `conn` after what is already on its way: back-pressure.
    fn pause(&mut self, conn: ConnId);
    /// Receives again.
    fn resume(&mut self, conn: ConnId);
    /// Gives the connection, on which nothing has been sent, to the thread that serves `group`,
    /// together with the bytes `received` on it so far, those included that events of the turn that
    /// is being handled have brought or yet bring: that thread gets
    /// [`super::Event::HandedOver`], and from then on the connection is its own. No event of it
    /// follows here. Where that thread has no room for another one, or when more than
    /// [`HANDOVER_BYTES_MAX`] bytes have come, the connection ends.
    ///
    /// # Panics
    /// When a send is in flight on `conn`.
    fn hand_over(&mut self, conn: ConnId, group: GroupId, received: Vec<u8>);
    /// Ends the connection; operations in flight are dropped and no event of it follows.
    fn close(&mut self, conn: ConnId);

    /// The most parts of one send.
    const SEND_PARTS_MAX: usize = 64;
}
