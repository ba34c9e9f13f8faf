//! Why a request failed, for programs.

/// Why a request failed, and what that means for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A record, or the append, is over the limits. No effect; never retry.
    TooLarge,
    /// The node's windows are full. No effect; retry after a while.
    Overloaded,
    /// The node does not lead and has proposed nothing. No effect; retry at the leader. (A
    /// leader deposed after it has proposed answers `OutcomeUnknown`.)
    NotLeader,
    /// No leader or no quorum is known, and nothing was proposed. No effect; retry after a while.
    Unavailable,
    /// Proposed, but leadership was lost before it was seen chosen. MAY HAVE HAPPENED, or happen
    /// yet.
    OutcomeUnknown,
    /// There is no room in the log; refused before it was proposed. No effect.
    DiskFull,
    /// This version cannot do that (a read level). No effect.
    Unsupported,
    /// There is no such log. No effect.
    NoSuchLog,
    /// The request makes no sense (a run that is no run of records). No effect.
    BadRequest,
    /// What was asked for is damaged on this node; another may have it. Answers reads only; for
    /// an append it would mean no effect.
    Corrupted,
    /// The log's tail is not where the append wanted it; the detail says where it is. Applied
    /// without effect.
    TailMoved,
    /// The log has taken a higher fencing token, which the detail is. Applied without effect.
    Fenced,
    /// The session has ended. This request had no effect; if it is a repetition, whether an
    /// earlier one had is not known any more.
    SessionExpired,
    /// Appends of the session before this one are missing; the detail is the next number in turn.
    /// No effect; send what is missing, then this again.
    OutOfOrder,
    /// The session's client has said that it has the result of this append. This request had no
    /// effect.
    Forgotten,
    /// The most sessions, logs or followers that this version serves are there. No effect.
    LimitReached,
    /// The node is blank: its cluster is not founded, or it does not know as what. No effect.
    NotFounded,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 17] = [
        ErrorCode::TooLarge,
        ErrorCode::Overloaded,
        ErrorCode::NotLeader,
        ErrorCode::Unavailable,
        ErrorCode::OutcomeUnknown,
        ErrorCode::DiskFull,
        ErrorCode::Unsupported,
        ErrorCode::NoSuchLog,
        ErrorCode::BadRequest,
        ErrorCode::Corrupted,
        ErrorCode::TailMoved,
        ErrorCode::Fenced,
        ErrorCode::SessionExpired,
        ErrorCode::OutOfOrder,
        ErrorCode::Forgotten,
        ErrorCode::LimitReached,
        ErrorCode::NotFounded,
    ];

    /// Whether a request answered with this has certainly had no effect and never will. (For an
    /// append that was sent before this says nothing of the earlier times.)
    pub fn append_had_no_effect(self) -> bool {
        self != ErrorCode::OutcomeUnknown
    }

    /// Whether the same append may succeed a little later or elsewhere, without risk.
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorCode::Overloaded | ErrorCode::NotLeader | ErrorCode::Unavailable)
    }

    pub(super) fn number(self) -> u16 {
        1 + self as u16
    }

    pub(super) fn from_number(number: u16) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| code.number() == number)
    }
}
