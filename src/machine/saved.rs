//! The machine's state as bytes: the frame around it, and how its parts are read.
//!
//! Used by [`super::Machine::encode`] and [`super::Machine::decode`]. Little-endian:
//!
//! ```text
//!   0  u32 magic "LgM1"
//!   4  u16 version, u16 zero
//!   8  u64 applied slot, u64 records, u64 log time in ms
//!      hash:     u64, u32 marks, each u64 slot, u64 hash
//!      logs:     u32 last number given out, u32 how many, by number:
//!                u32 number, u32 largest record, u64 tail, u64 fence, u16 name size, name
//!      sessions: u64 last number given out, u32 how many, by number:
//!                u64 number, u32 timeout in ms, u32 window, u128 nonce, u64 log time of its
//!                last command, u64 its last sequence, u32 remembered results, each u32 kind,
//!                u32, u64
//!      u32 checksum of everything before
//! ```
//!
//! Guarantee: bytes that anybody made are refused or become a state that a machine can have; no
//! memory is taken for what is not there.

use crate::base::limits::KIB;
use crate::base::{Checksum, RunningChecksum};

const MAGIC: u32 = u32::from_le_bytes(*b"LgM1");
const VERSION: u16 = 2;
const HEAD_SIZE: usize = 8;
const CHECKSUM_SIZE: usize = 4;
/// The checksum takes in what was written when it has come to so many bytes: they are still in the
/// processor's cache then.
const FOLD_BYTES: usize = 64 * KIB;

/// The highest position, sequence, session number, number of records or log time that is read: no
/// machine counts so far, and one that goes on from there could not be made to count too far, not in
/// centuries of appends.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Why bytes are not the state of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early, or too late.
    #[error("the state is cut off, or something stands behind it")]
    Size,
    /// They do not begin as a state does.
    #[error("no state of a machine stands here")]
    Magic,
    /// An older version wrote them.
    #[error("the state is of version {0}, where {VERSION} is known")]
    Version(u16),
    /// A newer version wrote them.
    #[error("the state is of version {0}, and {VERSION} is the newest that is known")]
    Newer(u16),
    /// They are not as they were written.
    #[error("the state's checksum does not match")]
    Checksum,
    /// A number that only counts up is higher than any machine counts: going on from there, it
    /// would overflow.
    #[error("the state makes no sense: {0} is over the limit of {COUNTER_MAX}")]
    Counter(&'static str),
    /// No machine can have come to this.
    #[error("the state makes no sense: {0}")]
    Wrong(&'static str),
}

/// A state that is being written.
pub(super) struct Writer {
    out: Vec<u8>,
    checksum: RunningChecksum,
    /// The checksum has taken in so many bytes.
    folded: usize,
}

impl Writer {
    /// Writes the first bytes of a state.
    pub fn begin() -> Writer {
        let mut writer =
            Writer { out: Vec::new(), checksum: RunningChecksum::default(), folded: 0 };
        writer.put_u32(MAGIC);
        writer.put_u16(VERSION);
        writer.put_u16(0);
        writer
    }

    /// Makes room for so many bytes more, and for what ends a state.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve_exact(bytes + CHECKSUM_SIZE);
    }

    pub fn put_u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn put_u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn put_u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn put_u128(&mut self, value: u128) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes bytes of any number, with which a log or a session ends.
    pub fn put_last(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        if self.out.len() - self.folded >= FOLD_BYTES {
            self.fold();
        }
    }

    fn fold(&mut self) {
        self.checksum.update(&self.out[self.folded..]);
        self.folded = self.out.len();
    }

    /// Completes a state.
    pub fn end(mut self) -> Vec<u8> {
        self.fold();
        self.out.extend_from_slice(&self.checksum.finish().0.to_le_bytes());
        self.out
    }
}

/// What is left to be read of a state.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// What stands within the frame.
    pub fn open(bytes: &'a [u8]) -> Result<Reader<'a>, DecodeError> {
        let end = bytes.len().checked_sub(CHECKSUM_SIZE).ok_or(DecodeError::Size)?;
        let (content, checksum) = bytes.split_at(end);
        let mut head = Reader { rest: content };
        if head.u32()? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let (version, reserved) = (head.u16()?, head.u16()?);
        if Checksum::of(content).0.to_le_bytes() != *checksum {
            return Err(DecodeError::Checksum);
        }
        match version {
            VERSION => {}
            version if version > VERSION => return Err(DecodeError::Newer(version)),
            version => return Err(DecodeError::Version(version)),
        }
        if reserved != 0 {
            return Err(DecodeError::Wrong("its reserved bytes are not zero"));
        }
        Ok(Reader { rest: content.get(HEAD_SIZE..).ok_or(DecodeError::Size)? })
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Size)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Size)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A number that only counts up.
    pub fn counter(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.u64()? {
            value if value <= COUNTER_MAX => Ok(value),
            _ => Err(DecodeError::Counter(what)),
        }
    }

    /// Everything has been read.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Size) }
    }
}
