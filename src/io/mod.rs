//! The seam: what `log/`, `node/` and `server/` may ask of the world, and nothing else.
//!
//! Completion-based, not async: submit an operation with a token and the memory it works on,
//! then collect [`Event`]s once per turn and step. `uring/` implements it on Linux, `sim/` in one
//! deterministic thread; both through static generics, so that the same code runs on both.
//!
//! A turn: [`Io::turn`] submits everything that was asked for since the last turn in one system
//! call, waits if told to, and hands out what has completed.

mod disk;
mod net;

use std::time::Duration;

pub use disk::{
    Disk, DiskError, DiskEvent, FileId, FileOptions, Storage, Sync, Token, WritePart,
    is_out_of_files,
};
pub use net::{CloseReason, ConnId, HANDOVER_BYTES_MAX, LookupId, Net, SendPart};

use crate::base::Instant;

/// The node's clock: monotonic, and counting while the machine is suspended.
pub trait Clock {
    /// The reading taken when the current turn began, after everything that the turn hands out
    /// had happened: leases depend on that. Cheap: it does not change within a turn.
    fn now(&self) -> Instant;

    /// A reading taken by this call. For measuring how long things take: nothing is decided by it.
    fn measure(&self) -> Instant;
}

/// How long [`Io::turn`] may sleep when nothing has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is other work to do.
    No,
    /// Until something completes or this much time has passed.
    AtMost(Duration),
}

/// Something that has happened. Handed out by [`Io::turn`].
#[derive(Debug)]
pub enum Event<C> {
    /// A disk operation has completed.
    Disk(DiskEvent),
    /// A peer or client has connected to the listening socket.
    Accepted {
        /// The new connection; it receives already.
        conn: ConnId,
        /// Where it comes from.
        from: std::net::SocketAddr,
    },
    /// Another thread of the process has accepted a connection that is for this one
    /// ([`Net::hand_over`]).
    HandedOver {
        /// The new connection; it receives already.
        conn: ConnId,
        /// Where it comes from.
        from: std::net::SocketAddr,
        /// What was received on it before: the bytes from its beginning on.
        received: Vec<u8>,
    },
    /// A connection asked for with [`Net::connect`] stands; it receives already.
    Connected {
        /// The connection that `connect` named.
        conn: ConnId,
    },
    /// Bytes have arrived, in order. Dropping the chunk gives its memory back to the kernel.
    Received {
        /// Where they arrived.
        conn: ConnId,
        /// The bytes; never empty.
        chunk: C,
    },
    /// The one send in flight on `conn` has left, whole.
    Sent {
        /// The connection, free for the next send.
        conn: ConnId,
        /// What was sent, given back for reuse.
        parts: Vec<SendPart>,
    },
    /// The connection is gone (or never came to be). The last event of `conn`. Not sent for a
    /// connection that this side closed with [`Net::close`].
    Closed {
        /// The connection; its id is never used again.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// The addresses of a name that was asked for with [`Net::look_up`].
    LookedUp {
        /// The number that `look_up` gave.
        lookup: LookupId,
        /// At least one, in the order in which they are to be tried; or why there is none.
        addresses: std::io::Result<Vec<std::net::SocketAddr>>,
    },
    /// Another thread asks the loop to look up (shutdown).
    Woken,
}

/// The whole seam of one thread: one wait point for disk, network and time.
pub trait Io: Disk + Net + Clock {
    /// Submits what is pending, waits as told, advances the clock, and appends what has
    /// completed to `events` in the order of completion.
    ///
    /// # Errors
    /// Only when the ring itself fails, which is fatal for the process.
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event<Self::Chunk>>) -> std::io::Result<()>;
}
