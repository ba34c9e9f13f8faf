//! Pure Multi-Paxos: inputs and `now` in, effects out. No IO, clock, thread, async or unsafe.
//!
//! The caller is `node/` (and `sim/`, and the golden scripts): it hands every [`Input`] to
//! [`Core::step`] and carries out the [`Effect`]s in order. The guarantee is agreement: at most
//! one value is ever chosen for a slot, whatever is lost, doubled, delayed or restarted, as long
//! as what [`Effect::Persist`] asks for is durable before its replies leave. Safety never depends
//! on time, but for reads by lease (`lease`).
//!
//! Sources: Lamport, *Paxos Made Simple* (2001), sections 2.2–3; van Renesse and Altinbuken,
//! *Paxos Made Moderately Complex* (2015); the pre-vote of Ongaro's thesis, section 9.6.

#![forbid(unsafe_code)]

mod acceptor;
mod catchup;
#[cfg(test)]
mod chaos;
mod config;
mod core;
mod effect;
mod election;
mod give_way;
#[cfg(test)]
mod golden;
mod leader;
mod lease;
mod message;
mod persists;
mod quorum;
mod reads;
mod recovery;
mod status;
mod tears;
#[cfg(test)]
mod testkit;
mod timeless;
mod transfer;
mod window;

pub use self::core::Core;
pub use config::{ACCEPT_AHEAD_SLOTS_LIMIT, Config, ConfigError};
pub use effect::{
    Cut, Effect, Effects, Input, Outgoing, PersistId, ReadId, Recovered, Role, Write,
};
pub use lease::Granted;
pub use message::{AcceptedSlot, Fitness, Message, Release};
pub use status::{CoreStatus, PeerStatus};

use crate::base::Checksum;

/// What a slot may hold. The core never looks inside.
pub trait Value: Clone + std::fmt::Debug {
    /// The value that fills a hole.
    fn noop() -> Self;
    /// Bytes that count against the windows.
    fn size(&self) -> usize;
    /// For asserting that one (slot, ballot) has one value; not an identity.
    fn checksum(&self) -> Checksum;
}
