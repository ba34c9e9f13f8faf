//! The frame: what every byte on a connection belongs to. Encoding and the header's layout.
//!
//! ```text
//! offset size
//!      0    3  magic "LGS"
//!      3    1  frame version (1)
//!      4    2  kind
//!      6    2  group
//!      8    4  sequence, per connection and direction, from 0, wrapping
//!     12    2  meta size
//!     14    2  0
//!     16    4  payload size
//!     20    4  payload checksum (of a sealed value: the batch's own)
//!     24    4  0
//!     28    4  checksum of bytes 0..28 and the meta
//!     32       meta: fixed little-endian fields by kind
//!              payload: opaque bytes
//! ```
//!
//! The payload has a checksum of its own so that a sealed batch is sent to every peer, and on, as
//! it was checksummed once.

use super::error::WireError;
use crate::base::limits::{KIB, VALUE_BYTES_MAX};
use crate::base::{Batch, Checksum, GroupId};

/// Bytes of the header before meta and payload.
pub const FRAME_HEADER_SIZE: usize = 32;
/// The version of the frame layout. It changes only if the header itself must; what the frames
/// say is versioned by [`super::PROTOCOL_VERSION`].
pub const FRAME_VERSION: u8 = 1;
/// The largest meta in bytes.
pub const META_SIZE_MAX: usize = 8 * KIB;
/// The largest payload in bytes.
pub const PAYLOAD_SIZE_MAX: usize = VALUE_BYTES_MAX;
/// Values below this many bytes are copied behind their head instead of being gathered as a part
/// of their own: a part costs more than the copy.
pub const INLINE_VALUE_BYTES_MAX: usize = 2 * KIB;

pub(super) const MAGIC: [u8; 3] = *b"LGS";
const CHECKED_SIZE: usize = 28;

const _: () = {
    assert!(META_SIZE_MAX <= u16::MAX as usize);
    assert!(PAYLOAD_SIZE_MAX <= u32::MAX as usize);
};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame is. The numbers are the protocol; they are never used again for another
        /// meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl FrameKind {
            /// Every kind.
            pub const ALL: &[FrameKind] = &[$(FrameKind::$name,)*];

            /// The kind with this number.
            pub fn from_number(number: u16) -> Option<FrameKind> {
                match number {
                    $($number => Some(FrameKind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// The first frame of whoever connected.
    Hello = 1,
    /// The first frame of whoever was connected to.
    HelloReply = 2,
    /// [`crate::paxos::Message::PreVote`].
    PreVote = 16,
    /// [`crate::paxos::Message::PreVoteReply`].
    PreVoteReply = 17,
    /// [`crate::paxos::Message::Prepare`].
    Prepare = 18,
    /// [`crate::paxos::Message::Promise`].
    Promise = 19,
    /// [`crate::paxos::Message::Nack`].
    Nack = 20,
    /// [`crate::paxos::Message::Accept`].
    Accept = 21,
    /// [`crate::paxos::Message::Accepted`].
    Accepted = 22,
    /// [`crate::paxos::Message::Heartbeat`].
    Heartbeat = 23,
    /// [`crate::paxos::Message::HeartbeatReply`].
    HeartbeatReply = 24,
    /// [`crate::paxos::Message::Fetch`].
    Fetch = 25,
    /// [`crate::paxos::Message::Learn`].
    Learn = 26,
    /// [`crate::paxos::Message::FetchAccepted`].
    FetchAccepted = 27,
    /// [`crate::paxos::Message::AcceptedValue`].
    AcceptedValue = 28,
    /// [`crate::paxos::Message::ReadIndex`].
    ReadIndex = 29,
    /// [`crate::paxos::Message::ReadIndexReply`].
    ReadIndexReply = 30,
    /// [`crate::paxos::Message::TakeOver`].
    TakeOver = 31,
    /// [`super::Alive`].
    Alive = 32,
    /// [`crate::paxos::Message::AcceptRejected`].
    AcceptRejected = 33,
    /// [`crate::paxos::Message::StateHash`].
    StateHash = 34,
    /// [`crate::paxos::Message::Cut`].
    Cut = 40,
    /// [`crate::paxos::Message::CutBound`].
    CutBound = 41,
    /// [`super::Request::Append`].
    Append = 64,
    /// [`super::Request::Read`].
    Read = 65,
    /// [`super::Request::Tail`].
    Tail = 66,
    /// [`super::Request::Status`].
    Status = 67,
    /// [`super::Request::OpenSession`].
    OpenSession = 68,
    /// [`super::Request::CloseSession`].
    CloseSession = 69,
    /// [`super::Request::CreateLog`].
    CreateLog = 70,
    /// [`super::Request::DeleteLog`].
    DeleteLog = 71,
    /// [`super::Request::FindLog`].
    FindLog = 72,
    /// [`super::Request::ListLogs`].
    ListLogs = 73,
    /// [`super::Request::Follow`].
    Follow = 74,
    /// [`super::Request::Credit`].
    Credit = 75,
    /// [`super::Request::Unfollow`].
    Unfollow = 76,
    /// [`super::Request::Lead`].
    Lead = 77,
    /// [`super::Request::Init`].
    Init = 78,
    /// [`super::Response::Appended`].
    Appended = 80,
    /// [`super::Response::Records`].
    Records = 81,
    /// [`super::Response::TailIs`].
    TailIs = 82,
    /// [`super::Response::StatusIs`].
    StatusIs = 83,
    /// [`super::Response::Failed`].
    Failed = 84,
    /// [`super::Response::SessionOpened`].
    SessionOpened = 85,
    /// [`super::Response::LogCreated`].
    LogCreated = 86,
    /// [`super::Response::LogsAre`].
    LogsAre = 87,
    /// [`super::Response::Done`].
    Done = 88,
    /// [`super::Response::LedBy`].
    LedBy = 89,
    /// [`super::Response::Founded`].
    Founded = 90,
}

impl FrameKind {
    /// A message between replicas.
    pub fn is_peer(self) -> bool {
        (16..64).contains(&(self as u16))
    }
    /// A message whose payload is a slot's value.
    pub fn has_value(self) -> bool {
        matches!(self, FrameKind::Accept | FrameKind::Learn | FrameKind::AcceptedValue)
    }
    /// A request of a client.
    pub fn is_request(self) -> bool {
        (64..80).contains(&(self as u16))
    }
    /// A response to a client.
    pub fn is_response(self) -> bool {
        (80..96).contains(&(self as u16))
    }
}

/// A header whose place, sizes and checksum have been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind_number: u16,
    pub(super) group: GroupId,
    pub(super) sequence: u32,
    pub(super) meta_size: usize,
    pub(super) payload_size: usize,
    pub(super) payload_checksum: Checksum,
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[offset + index]))
}

/// Refuses a stream that cannot be frames as early as its first bytes show it.
pub(super) fn check_start(bytes: &[u8]) -> Result<(), WireError> {
    let length = bytes.len().min(MAGIC.len());
    if bytes[..length] != MAGIC[..length] {
        return Err(WireError::BadMagic);
    }
    match bytes.get(3) {
        Some(&found) if found != FRAME_VERSION => Err(WireError::BadVersion { found }),
        _ => Ok(()),
    }
}

impl Header {
    /// Reads the sizes so that the meta can be waited for. Nothing of it is trusted before
    /// [`Header::verify`]; the limits bound what is waited for until then.
    pub(super) fn parse(
        bytes: &[u8; FRAME_HEADER_SIZE],
        payload_max: usize,
    ) -> Result<Header, WireError> {
        check_start(bytes)?;
        let meta_size = u16_at(bytes, 12) as usize;
        let payload_size = u32_at(bytes, 16) as usize;
        let sizes = [("meta", meta_size, META_SIZE_MAX), ("payload", payload_size, payload_max)];
        for (what, size, limit) in sizes {
            if size > limit {
                let (size, limit) = (size as u32, limit as u32);
                return Err(WireError::TooLarge { what, size, limit });
            }
        }
        Ok(Header {
            kind_number: u16_at(bytes, 4),
            group: GroupId(u16_at(bytes, 6)),
            sequence: u32_at(bytes, 8),
            meta_size,
            payload_size,
            payload_checksum: Checksum(u32_at(bytes, 20)),
        })
    }

    /// Checks header and meta (`head`, both together), the order, and the kind.
    pub(super) fn verify(&self, head: &[u8], expected: u32) -> Result<FrameKind, WireError> {
        let (checked, rest) = head.split_at(CHECKED_SIZE);
        let (stated, meta) = rest.split_at(4);
        if Checksum::of_parts(&[checked, meta]) != Checksum(u32_at(stated, 0)) {
            return Err(WireError::HeaderChecksum);
        }
        if self.sequence != expected {
            return Err(WireError::OutOfSequence { expected, found: self.sequence });
        }
        FrameKind::from_number(self.kind_number).ok_or(WireError::UnknownKind(self.kind_number))
    }
}

/// Size and checksum of a payload, as its frame states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadStamp {
    /// Bytes of the payload.
    pub size: usize,
    /// Its checksum.
    pub checksum: Checksum,
}

impl PayloadStamp {
    /// No payload.
    pub const NONE: PayloadStamp = PayloadStamp { size: 0, checksum: Checksum(0) };

    /// Measures `payload`.
    pub fn of(payload: &[u8]) -> PayloadStamp {
        PayloadStamp { size: payload.len(), checksum: Checksum::of(payload) }
    }

    /// A sealed batch is not measured again.
    pub fn of_batch(batch: &Batch) -> PayloadStamp {
        PayloadStamp { size: batch.value_size(), checksum: batch.checksum() }
    }
}

/// Encodes the frames of one connection in one direction, and numbers them.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    next_sequence: u32,
}

impl FrameEncoder {
    /// The encoder of a new connection.
    pub fn new() -> FrameEncoder {
        FrameEncoder::default()
    }

    /// Frames encoded so far, wrapping.
    pub fn next_sequence(&self) -> u32 {
        self.next_sequence
    }

    /// Adds a whole frame to the end of `out`.
    ///
    /// # Panics
    /// When `meta` or `payload` is over its limit, which callers keep by construction.
    pub fn encode(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        meta: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        self.encode_head(kind, group, meta, PayloadStamp::of(payload), out);
        out.extend_from_slice(payload);
    }

    /// Adds header and meta to the end of `out`; the caller sends the payload right behind them.
    ///
    /// # Panics
    /// As [`FrameEncoder::encode`].
    pub fn encode_head(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        meta: &[u8],
        payload: PayloadStamp,
        out: &mut Vec<u8>,
    ) {
        let start = FrameEncoder::begin(out);
        out.extend_from_slice(meta);
        let meta_end = out.len();
        self.finish(kind, group, start..meta_end, payload, out);
    }

    /// Makes room for a header; the meta is written behind it.
    pub(super) fn begin(out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER_SIZE]);
        start
    }

    /// Fills in the header of the frame whose header and meta stand at `head` in `out`.
    pub(super) fn finish(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        head: std::ops::Range<usize>,
        payload: PayloadStamp,
        out: &mut [u8],
    ) {
        let (header, meta) = out[head].split_at_mut(FRAME_HEADER_SIZE);
        assert!(meta.len() <= META_SIZE_MAX, "a meta of {} bytes", meta.len());
        assert!(payload.size <= PAYLOAD_SIZE_MAX, "a payload of {} bytes", payload.size);
        header[..3].copy_from_slice(&MAGIC);
        header[3] = FRAME_VERSION;
        header[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
        header[6..8].copy_from_slice(&group.0.to_le_bytes());
        header[8..12].copy_from_slice(&self.next_sequence.to_le_bytes());
        header[12..14].copy_from_slice(&(meta.len() as u16).to_le_bytes());
        header[14..16].fill(0);
        header[16..20].copy_from_slice(&(payload.size as u32).to_le_bytes());
        header[20..24].copy_from_slice(&payload.checksum.0.to_le_bytes());
        header[24..28].fill(0);
        let checksum = Checksum::of_parts(&[&header[..CHECKED_SIZE], meta]);
        header[CHECKED_SIZE..].copy_from_slice(&checksum.0.to_le_bytes());
        self.next_sequence = self.next_sequence.wrapping_add(1);
    }
}
