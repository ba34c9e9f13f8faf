//! What stands in a block of the log's files, told from the block alone.
//!
//! For the simulator, which damages chosen regions and must find them. Nothing in the product
//! depends on it; it verifies nothing.

use super::checkpoint::CHECKPOINT_NAMES;
use super::cut::CUT_NAME;
use super::footer::stated_size;
use super::format::{
    ENTRY_MAGIC, SEGMENT_MAGIC, get_u16, get_u32, get_u64, is_zero, segment_number,
};
use super::identity::FOUNDING;
use super::marker::MARKER_NAME;
use super::vote::{VOTE_NAME, Vote};
use crate::base::Ballot;
use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE};

/// What a file is, by its name within the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The identity of the directory.
    Identity,
    /// What the cluster was founded as.
    Founding,
    /// A group's vote: two copies of one block each.
    Vote,
    /// A segment with this number.
    Segment(u64),
    /// A checkpoint that is whole.
    Checkpoint,
    /// The marker of damage that was found while the log ran.
    DamageMarker,
    /// The record of what was cut from the log's end.
    Cut,
    /// Anything else.
    Other,
}

/// The kind of file that has this name.
pub fn file_kind(name: &str) -> FileKind {
    let base = name.rsplit('/').next().unwrap_or(name);
    match segment_number(base) {
        Some(number) => FileKind::Segment(number),
        None if base == VOTE_NAME => FileKind::Vote,
        None if CHECKPOINT_NAMES.contains(&base) => FileKind::Checkpoint,
        None if base == MARKER_NAME => FileKind::DamageMarker,
        None if base == CUT_NAME => FileKind::Cut,
        None if name == "identity.toml" => FileKind::Identity,
        None if name == FOUNDING => FileKind::Founding,
        None => FileKind::Other,
    }
}

/// What begins in a block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// The segment's header.
    SegmentHeader,
    /// An entry, its header first.
    Entry {
        /// Bytes of the value behind the header.
        value_size: u32,
        /// Whether it is an idle mark.
        mark: bool,
        /// Its sequence in the log.
        sequence: u64,
        /// The sequence up to which it attests that all had been acknowledged.
        durable: u64,
    },
    /// Zeros.
    Blank,
    /// The inside of an entry, of a footer, or damage.
    Other,
}

/// What begins in this block.
pub fn block_kind(block: &[u8]) -> BlockKind {
    if block.len() < BLOCK_SIZE || is_zero(block) {
        return BlockKind::Blank;
    }
    match get_u32(block, 0) {
        SEGMENT_MAGIC => BlockKind::SegmentHeader,
        ENTRY_MAGIC => BlockKind::Entry {
            value_size: get_u32(block, 80),
            mark: get_u16(block, 6) == super::format::KIND_MARK,
            sequence: get_u64(block, 40),
            durable: get_u64(block, 48),
        },
        _ => BlockKind::Other,
    }
}

/// Bytes of the index footer that ends in this block, the last of its segment; 0 when none does.
pub fn footer_bytes(last_block: &[u8]) -> usize {
    stated_size(last_block).unwrap_or(0)
}

/// The promise that a file of a vote holds: the higher one of its whole copies.
pub fn promise_in(vote_file: &[u8]) -> Option<Ballot> {
    let copies = vote_file.chunks(BLOCK_SIZE).filter_map(|copy| Vote::decode(copy).ok());
    copies.map(|vote| vote.ballot).max()
}

/// Bytes of an entry's header.
pub const HEADER_BYTES: usize = ENTRY_HEADER_SIZE;
