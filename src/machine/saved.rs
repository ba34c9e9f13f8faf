//! The machine's state as bytes: the frame around it, and how its parts are read.
//!
//! Used by [`super::Machine::encode`] and [`super::Machine::decode`]. Little-endian:
//!
//! ```text
//!   0  u32 magic "LgM1"
//!   4  u16 version, u16 zero
//!   8  u64 applied slot, u64 records, u64 log time in ms
//!      logs:     u32 last number given out, u32 how many, by number:
//!                u32 number, u32 largest record, u64 tail, u64 fence, u16 name size, name
//!      sessions: u64 last number given out, u32 how many, by number:
//!                u64 number, u32 timeout in ms, u32 window, u64 log time of its last command,
//!                u64 its last sequence, u32 remembered results, each u32 kind, u32, u64
//!      u32 checksum of everything before
//! ```
//!
//! Guarantee: bytes that anybody made are refused or become a state that a machine can have; no
//! memory is taken for what is not there.

use crate::base::Checksum;

const MAGIC: u32 = u32::from_le_bytes(*b"LgM1");
const VERSION: u16 = 1;
const HEAD_SIZE: usize = 8;
const CHECKSUM_SIZE: usize = 4;

/// Why bytes are not the state of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early, or too late.
    #[error("the state is cut off, or something stands behind it")]
    Size,
    /// They do not begin as a state does.
    #[error("no state of a machine stands here")]
    Magic,
    /// Another version wrote them.
    #[error("the state is of version {0}, where {VERSION} is known")]
    Version(u16),
    /// They are not as they were written.
    #[error("the state's checksum does not match")]
    Checksum,
    /// No machine can have come to this.
    #[error("the state makes no sense: {0}")]
    Wrong(&'static str),
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// The first bytes of a state.
pub(super) fn begin() -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, MAGIC);
    put_u16(&mut out, VERSION);
    put_u16(&mut out, 0);
    out
}

/// Completes a state.
pub(super) fn end(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = Checksum::of(&out);
    put_u32(&mut out, checksum.0);
    out
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
        if version != VERSION {
            return Err(DecodeError::Version(version));
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

    /// Everything has been read.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Size) }
    }
}
