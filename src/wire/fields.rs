//! Fixed little-endian fields of a frame's meta: writing into a `Vec`, reading with typed errors.

use super::error::WireError;
use super::frame::FrameKind;
use crate::base::{Ballot, NodeId, Slot};

/// Writes fields to the end of the output.
pub(super) trait PutFields {
    fn put_u8(&mut self, value: u8);
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_u128(&mut self, value: u128);
    /// A `u16` length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
    fn put_ballot(&mut self, ballot: Ballot);
    /// A `u16` length and the bytes; `text` is cut at a character boundary to `max` bytes.
    fn put_text(&mut self, text: &str, max: usize);
}

impl PutFields for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u128(&mut self, value: u128) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u16(u16::try_from(bytes.len()).expect("the caller keeps to a bound"));
        self.extend_from_slice(bytes);
    }
    fn put_ballot(&mut self, ballot: Ballot) {
        self.put_u64(ballot.round);
        self.put_u16(ballot.node.0);
    }
    fn put_text(&mut self, text: &str, max: usize) {
        let mut end = text.len().min(max).min(u16::MAX as usize);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.put_u16(end as u16);
        self.extend_from_slice(&text.as_bytes()[..end]);
    }
}

/// Reads fields from the front of a meta or payload.
pub(super) struct Fields<'a> {
    kind: FrameKind,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(kind: FrameKind, bytes: &'a [u8]) -> Fields<'a> {
        Fields { kind, rest: bytes }
    }

    pub(super) fn malformed(&self, why: &'static str) -> WireError {
        WireError::Malformed { kind: self.kind, why }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                Ok(*field)
            }
            None => Err(self.malformed("it ends inside a field")),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.take::<1>()?[0])
    }
    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_le_bytes)
    }
    pub(super) fn u128(&mut self) -> Result<u128, WireError> {
        self.take().map(u128::from_le_bytes)
    }
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u16()? as usize;
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.malformed("bytes are longer than the frame"));
        };
        self.rest = rest;
        Ok(bytes)
    }
    pub(super) fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("a flag is neither 0 nor 1")),
        }
    }
    pub(super) fn ballot(&mut self) -> Result<Ballot, WireError> {
        Ok(Ballot { round: self.u64()?, node: NodeId(self.u16()?) })
    }
    pub(super) fn slot(&mut self) -> Result<Slot, WireError> {
        let slot = Slot(self.u64()?);
        if slot > Slot::MAX {
            return Err(self.malformed("it names a slot over the limit"));
        }
        Ok(slot)
    }
    /// A node that may be absent (0).
    pub(super) fn node_option(&mut self) -> Result<Option<NodeId>, WireError> {
        Ok(Some(NodeId(self.u16()?)).filter(|node| *node != NodeId(0)))
    }
    pub(super) fn text(&mut self) -> Result<&'a str, WireError> {
        let length = self.u16()? as usize;
        if length > self.rest.len() {
            return Err(self.malformed("a text is longer than the frame"));
        }
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| self.malformed("a text is not UTF-8"))
    }
    pub(super) fn end(&self) -> Result<(), WireError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(self.malformed("bytes follow its last field")),
        }
    }
}
