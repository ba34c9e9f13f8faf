//! The first block of each of a group's own files: the copies of the vote, checkpoints, the marker of
//! damage. They start alike, with whose file it is, and end with a checksum over the whole block; what
//! stands between is theirs (`vote.rs`, `checkpoint.rs`, `marker.rs`). Pure.
//!
//! ```text
//!    0  4  magic
//!    4  2  version
//!    6  2  group
//!    8  8  incarnation (its digest)
//!   16  2  node
//!   18     the file's own
//! 4092  4  checksum of the block
//! ```

use std::fmt;

use crate::base::limits::BLOCK_SIZE;
use crate::base::{Checksum, GroupId, IncarnationTag, NodeId};

use super::LogOptions;
use super::format::{
    FORMAT_VERSION, check_version, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};

/// Where the file's own bytes end, and the checksum stands.
pub(super) const CHECKSUM_AT: usize = BLOCK_SIZE - 4;

/// Whose file it is, or must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub incarnation: IncarnationTag,
    pub group: GroupId,
    pub node: NodeId,
}

impl Owner {
    pub fn of(options: &LogOptions) -> Owner {
        let (group, node) = (options.group, options.node);
        Owner { incarnation: options.incarnation.tag(), group, node }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { incarnation, group, node } = self;
        write!(f, "incarnation {incarnation}, group {group}, node {node}")
    }
}

/// A kind of such a block: its magic, and what messages call it.
pub(super) struct OwnedBlock {
    magic: u32,
    what: &'static str,
}

pub(super) const VOTE: OwnedBlock = OwnedBlock::new(*b"LgV1", "vote");
pub(super) const CHECKPOINT: OwnedBlock = OwnedBlock::new(*b"LgC1", "checkpoint's header");
pub(super) const CUT: OwnedBlock = OwnedBlock::new(*b"LgX1", "record of a cut");
pub(super) const MARKER: OwnedBlock = OwnedBlock::new(*b"LgD1", "marker");

impl OwnedBlock {
    const fn new(magic: [u8; 4], what: &'static str) -> OwnedBlock {
        OwnedBlock { magic: u32::from_le_bytes(magic), what }
    }

    /// Fills the first block of `out`; `own` puts in what is the file's own.
    pub fn encode(&self, owner: &Owner, out: &mut [u8], own: impl FnOnce(&mut [u8])) {
        let out = &mut out[..BLOCK_SIZE];
        out.fill(0);
        own(out);
        put_u32(out, 0, self.magic);
        put_u16(out, 4, FORMAT_VERSION);
        put_u16(out, 6, owner.group.0);
        put_u64(out, 8, owner.incarnation.0);
        put_u16(out, 16, owner.node.0);
        let checksum = Checksum::of(&out[..CHECKSUM_AT]);
        put_u32(out, CHECKSUM_AT, checksum.0);
    }

    /// Whose it is, and the whole block, verified; `Err` says what is wrong.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<(Owner, &'a [u8]), String> {
        let what = self.what;
        let bytes = bytes.get(..BLOCK_SIZE).ok_or_else(|| format!("the {what} is cut off"))?;
        if get_u32(bytes, 0) != self.magic {
            return Err(format!("no {what} stands here (wrong magic)"));
        }
        if Checksum::of(&bytes[..CHECKSUM_AT]).0 != get_u32(bytes, CHECKSUM_AT) {
            return Err(format!("the checksum of the {what} does not match"));
        }
        check_version(bytes)?;
        let owner = Owner {
            incarnation: IncarnationTag(get_u64(bytes, 8)),
            group: GroupId(get_u16(bytes, 6)),
            node: NodeId(get_u16(bytes, 16)),
        };
        Ok((owner, bytes))
    }

    /// The version of a whole block of this kind that a newer version wrote.
    pub fn newer_version(&self, bytes: &[u8]) -> Option<u16> {
        let bytes = bytes.get(..BLOCK_SIZE).filter(|bytes| get_u32(bytes, 0) == self.magic)?;
        let whole = Checksum::of(&bytes[..CHECKSUM_AT]).0 == get_u32(bytes, CHECKSUM_AT);
        Some(get_u16(bytes, 4)).filter(|version| whole && *version > FORMAT_VERSION)
    }

    /// Whether one of `found` may stand where `wanted` is expected.
    pub fn check_owner(&self, found: &Owner, wanted: &Owner) -> Result<(), String> {
        match found == wanted {
            true => Ok(()),
            false => {
                let what = self.what;
                Err(format!("it is the {what} of {found}, where {wanted} is expected"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner =
        Owner { incarnation: IncarnationTag(9), group: GroupId(1), node: NodeId(2) };

    #[test]
    fn every_byte_is_guarded_and_kinds_and_versions_are_told_from_each_other() {
        let mut block = vec![0xff; BLOCK_SIZE];
        VOTE.encode(&OWNER, &mut block, |out| put_u64(out, 24, 77));
        let (owner, bytes) = VOTE.decode(&block).expect("it is whole");
        assert_eq!((owner, get_u64(bytes, 24)), (OWNER, 77));
        assert!(MARKER.decode(&block).unwrap_err().contains("no marker stands here"));
        for byte in 0..BLOCK_SIZE {
            block[byte] ^= 0x10;
            assert!(VOTE.decode(&block).is_err(), "byte {byte}");
            block[byte] ^= 0x10;
        }
        for cut in [0, 512, BLOCK_SIZE - 1] {
            assert_eq!(VOTE.decode(&block[..cut]), Err("the vote is cut off".to_owned()));
        }
        assert_eq!(VOTE.newer_version(&block), None);
        put_u16(&mut block, 4, FORMAT_VERSION + 1);
        assert_eq!(VOTE.newer_version(&block), None, "it is damaged");
        let checksum = Checksum::of(&block[..CHECKSUM_AT]);
        put_u32(&mut block, CHECKSUM_AT, checksum.0);
        assert!(VOTE.decode(&block).unwrap_err().contains("format version"));
        assert_eq!(VOTE.newer_version(&block), Some(FORMAT_VERSION + 1));
        assert_eq!(MARKER.newer_version(&block), None);
    }

    #[test]
    fn refuses_files_of_other_directories() {
        assert_eq!(VOTE.check_owner(&OWNER, &OWNER), Ok(()));
        for other in [
            Owner { node: NodeId(3), ..OWNER },
            Owner { group: GroupId(3), ..OWNER },
            Owner { incarnation: IncarnationTag(3), ..OWNER },
        ] {
            let why = VOTE.check_owner(&other, &OWNER).unwrap_err();
            assert_eq!(why, format!("it is the vote of {other}, where {OWNER} is expected"));
        }
    }
}
