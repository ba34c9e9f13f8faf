//! What can be wrong with received bytes. Whoever gets one of these closes the connection: a
//! stream that has lost its framing cannot be read on.

use super::frame::{FRAME_VERSION, FrameKind};

/// Why received bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The stream does not begin like a frame: something else talks on this port.
    #[error("this is not the loggos protocol (a frame begins with other bytes)")]
    BadMagic,
    /// A frame layout of another version.
    #[error("the frame version is {found}, this side reads {FRAME_VERSION}")]
    BadVersion {
        /// What the frame says.
        found: u8,
    },
    /// The header and meta do not match their checksum.
    #[error("a frame's header is damaged (checksum)")]
    HeaderChecksum,
    /// The payload does not match its checksum.
    #[error("the payload of a {kind:?} frame is damaged (checksum)")]
    PayloadChecksum {
        /// The frame's kind.
        kind: FrameKind,
    },
    /// A stated size is over the limit of this connection.
    #[error("a frame states {size} bytes of {what}, over the limit of {limit}")]
    TooLarge {
        /// `meta` or `payload`.
        what: &'static str,
        /// The stated size in bytes.
        size: u32,
        /// The limit in bytes.
        limit: u32,
    },
    /// A frame was lost, doubled or reordered on the way, or two sends were interleaved.
    #[error("frame {found} came where frame {expected} was due")]
    OutOfSequence {
        /// The sequence due.
        expected: u32,
        /// The sequence found.
        found: u32,
    },
    /// A kind that this version does not know.
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u16),
    /// A known kind in the wrong place (a response from a client, a request before the hello).
    #[error("a {kind:?} frame where {expected} was due")]
    UnexpectedKind {
        /// The kind found.
        kind: FrameKind,
        /// What was due.
        expected: &'static str,
    },
    /// The frame is whole, but its fields are not what its kind says.
    #[error("a malformed {kind:?} frame: {why}")]
    Malformed {
        /// The frame's kind.
        kind: FrameKind,
        /// What is wrong.
        why: &'static str,
    },
}
