//! What can go wrong for a user of the client, and what each means for an append.

use crate::base::{FenceToken, Position};
use crate::wire::{ErrorCode, RefuseReason};

use super::connection::SubmitError;

/// Why a call (other than an append) failed, or no connection came to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Options that cannot work.
    #[error("{0}")]
    Options(&'static str),
    /// Every node that could be reached refuses this client for good.
    #[error("{target} refuses the connection: {text}")]
    Refused {
        /// Who refuses.
        target: String,
        /// Why, for programs.
        reason: RefuseReason,
        /// Why, for people.
        text: String,
    },
    /// No node could be reached, or none answered, in the time given.
    #[error("no answer in time: {why}")]
    Unavailable {
        /// The last thing that went wrong.
        why: String,
    },
    /// The server answered with an error.
    #[error("{text}")]
    Server {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
    /// An operation that changes something was sent, and no answer tells what became of it. It may have
    /// happened, and may happen yet.
    #[error("the outcome is unknown: {why}")]
    OutcomeUnknown {
        /// What cut the answer off.
        why: String,
    },
    /// The server's answer makes no sense.
    #[error("{target} answers what makes no sense: {why}")]
    BadAnswer {
        /// Who answered.
        target: String,
        /// What is wrong.
        why: String,
    },
}

/// Why an append failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It breaks a limit; nothing was sent. No effect.
    #[error(transparent)]
    Invalid(SubmitError),
    /// The server refused it ([`ErrorCode`] says why). No effect.
    #[error("{text}")]
    Rejected {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
    /// The log's tail was not where the append wanted it. No effect.
    #[error("the log's tail is at {tail}, not where the append wants it")]
    TailMoved {
        /// Where it was when the append came to its turn.
        tail: Position,
    },
    /// The log has taken a higher fencing token: another writer has taken over. No effect.
    #[error("the log has taken the fencing token {token}, which is higher")]
    Fenced {
        /// The log's token.
        token: FenceToken,
    },
    /// No leader took it in the time given. No effect.
    #[error(transparent)]
    Unavailable(ClientError),
    /// It was sent, and no answer tells what became of it. It may have happened, and may happen
    /// yet. Whoever must know reads the log, or makes records that may be doubled.
    #[error("the append's outcome is unknown: {why}")]
    OutcomeUnknown {
        /// What cut the answer off.
        why: String,
    },
}

impl AppendError {
    /// Whether the append certainly has had no effect and never will.
    pub fn had_no_effect(&self) -> bool {
        !matches!(self, AppendError::OutcomeUnknown { .. })
    }
}
