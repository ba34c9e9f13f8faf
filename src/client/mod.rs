//! The client library: leader discovery, reconnects, retries, pipelining.
//!
//! Callers: whoever embeds Loggos, the command line, and (its [`connection`] half) the load
//! generator. Guarantee: an append is in the log once, however often it had to be sent (see
//! [`appends`]); where the outcome cannot be known, the answer is [`AppendError::OutcomeUnknown`],
//! never a guess.
//!
//! - [`Client`]: async, on `tokio`; cheap to clone, concurrent calls share one connection.
//! - [`blocking::Client`]: the same calls for threads.
//! - [`connection::ClientConnection`]: the protocol without sockets, for other runtimes.
//!
//! ```no_run
//! use loggos::base::Position;
//! use loggos::client::{Client, ClientOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["127.0.0.1:7101"], ClientOptions::default()).await?;
//! let appended = client.append(&["first", "second"]).await?;
//! println!("{} records from position {}", appended.count, appended.first);
//!
//! let mut follower = client.follow(Position(0));
//! loop {
//!     let record = follower.next().await?;
//!     println!("{}: {} bytes", record.position, record.bytes.len());
//! }
//! # }
//! ```

#![forbid(unsafe_code)]

mod api;
pub mod appends;
pub mod blocking;
pub mod connection;
mod driver;
mod error;
mod follower;
mod link;
mod probe;
mod records;
mod session;
#[cfg(test)]
mod tests;

pub use crate::base::LogTerms;
pub use crate::wire::status::LogStatus;
pub use crate::wire::{ErrorCode, NodeStatus, ReadLevel, RefuseReason};
pub use api::{AppendOptions, Appended, Client, ClientOptions, ReadOptions};
pub use error::{AppendError, ClientError};
pub use follower::Follower;
pub use records::{Record, RecordBatch};
