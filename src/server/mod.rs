//! What clients see of a node: the native protocol on the node's one port, and the loop that
//! drives everything of a group's thread.
//!
//! Called by `cli/serve` (on io_uring) and by the simulator. Guarantee: every request gets one
//! answer, or its connection ends; a client that sends faster than the cluster commits is slowed
//! down by its socket, never by a queue without a bound.

mod admission;
mod commands;
mod follow;
mod groups;
mod reading;
mod reads;
mod service;
mod session;
mod stop;
mod waiters;

use std::time::Duration;

pub use admission::Room;
pub use service::{Gauges, Resources, Server, Turn, run};
pub use stop::StopStage;

/// The most connections that the thread of a group holds.
pub const CONNECTIONS_MAX: usize = CLIENTS_MAX + STRANGERS_MAX + PEER_CONNECTIONS_RESERVED;
/// The most clients of a group at a time; one more is refused.
const CLIENTS_MAX: usize = 4096;
/// The most connections at a time that have not greeted.
const STRANGERS_MAX: usize = 512;
/// Kept free for the members: of each two connections, and of those again as many that are being
/// replaced or are on their way to another group's thread.
const PEER_CONNECTIONS_RESERVED: usize = 64;
/// A connection that has not greeted after this time is closed. Longer than a peer gives itself.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(4 * crate::base::limits::MEMBERS_MAX <= PEER_CONNECTIONS_RESERVED);

/// The most long-polling reads that wait for new records, over all clients.
const WAITERS_MAX: usize = 16 * 1024;
/// The most followers, over all clients.
const FOLLOWERS_MAX: usize = 16 * 1024;
/// The most logs in one answer.
const LOGS_LISTED_MAX: usize = 1024;
/// The most reads of the log's files under way for clients.
const DISK_READS_MAX: usize = 128;
/// The most bytes of records in one answer to a read (a single larger record still goes alone).
const READ_BYTES_MAX: usize = crate::base::limits::MIB;
/// A client whose answers queue beyond this many bytes is not read until it takes them.
const CLIENT_QUEUE_BYTES_MAX: usize = 4 * crate::base::limits::MIB;
