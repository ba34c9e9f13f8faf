//! The index footer of a sealed segment: where each entry stands and which records it holds, so
//! that memory keeps only a summary per segment. Written at the reserved end of the segment once
//! everything in the segment is durable and applied (or replaced); read by recovery and reads.
//!
//! A footer is derived from the entries: a damaged one is never believed and is built again.

use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, VALUE_BYTES_MAX, block_align};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::{Ballot, Checksum, NodeId, Position, Slot};

use super::format::{
    FORMAT_VERSION, Place, check_place, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64,
};
use super::index::{EntryState, IndexEntry};

const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"LgF1");
const ROW_SIZE: usize = 40;
const TRAILER_SIZE: usize = 128;
const STATE_REPLACED: u16 = 0;
const STATE_APPLIED: u16 = 1;

/// The most entries of one segment: their footer fits one pooled buffer.
pub(super) const SEGMENT_ENTRIES_MAX: usize = (BUFFER_BYTES_MAX - TRAILER_SIZE) / ROW_SIZE;

/// Bytes (whole blocks) of a footer of `count` entries.
pub(super) const fn footer_size(count: usize) -> usize {
    block_align(count * ROW_SIZE + TRAILER_SIZE)
}

/// The footer's fixed part, its last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub place: Place,
    pub count: u32,
    /// Of the segment's first entry.
    pub first_sequence: u64,
    /// Every slot up to here was applied, and durable in this log, when the footer was written.
    pub chosen: Slot,
    /// The checksum of the segment's last entry header.
    pub last: Checksum,
}

impl Trailer {
    pub fn size(&self) -> usize {
        footer_size(self.count as usize)
    }
}

/// Fills the first `footer_size` bytes of `out`.
///
/// # Panics
/// When an entry is neither applied nor replaced: its row would lie.
pub(super) fn encode(trailer: &Trailer, entries: &[IndexEntry], out: &mut [u8]) {
    assert_eq!(trailer.count as usize, entries.len(), "one row per entry");
    let size = trailer.size();
    let out = &mut out[..size];
    out.fill(0);
    for (row, entry) in out.chunks_exact_mut(ROW_SIZE).zip(entries) {
        let state = match entry.state {
            EntryState::Applied => STATE_APPLIED,
            EntryState::Replaced => STATE_REPLACED,
            EntryState::Pending => panic!("slot {} is not applied", entry.slot),
        };
        put_u64(row, 0, entry.slot.0);
        put_u64(row, 8, entry.ballot.round);
        put_u64(row, 16, entry.first.0);
        put_u32(row, 24, entry.offset);
        put_u32(row, 28, entry.value_size);
        put_u32(row, 32, entry.records);
        put_u16(row, 36, entry.ballot.node.0);
        put_u16(row, 38, state);
    }
    let at = size - TRAILER_SIZE;
    put_u32(out, at, FOOTER_MAGIC);
    put_u16(out, at + 4, FORMAT_VERSION);
    put_u64(out, at + 8, trailer.place.cluster.0);
    put_u16(out, at + 16, trailer.place.group.0);
    put_u32(out, at + 20, trailer.place.generation);
    put_u64(out, at + 24, trailer.place.segment);
    put_u32(out, at + 32, trailer.count);
    put_u64(out, at + 40, trailer.first_sequence);
    put_u64(out, at + 48, trailer.chosen.0);
    put_u32(out, at + 56, trailer.last.0);
    let checksum = Checksum::of(&out[..size - 4]);
    put_u32(out, size - 4, checksum.0);
}

/// The footer's size as its last block says; `None` when no footer seems to stand there. Not
/// verified: [`decode`] does that.
pub(super) fn stated_size(last_block: &[u8]) -> Option<usize> {
    let at = last_block.len().checked_sub(TRAILER_SIZE)?;
    let count = get_u32(last_block, at + 32) as usize;
    (get_u32(last_block, at) == FOOTER_MAGIC && (1..=SEGMENT_ENTRIES_MAX).contains(&count))
        .then(|| footer_size(count))
}

/// Reads a whole footer that should stand at the end of `place`; `Err` says what is wrong.
pub(super) fn decode(bytes: &[u8], place: &Place) -> Result<(Trailer, Vec<IndexEntry>), String> {
    let last_block = bytes.len().checked_sub(BLOCK_SIZE).ok_or("the footer is cut off")?;
    let size = stated_size(&bytes[last_block..]).ok_or("no index footer stands here")?;
    if size != bytes.len() || Checksum::of(&bytes[..size - 4]).0 != get_u32(bytes, size - 4) {
        return Err("the index footer's checksum does not match".into());
    }
    let at = size - TRAILER_SIZE;
    if get_u16(bytes, at + 4) != FORMAT_VERSION {
        return Err("the index footer is of another format version".into());
    }
    let trailer = Trailer {
        place: Place {
            cluster: crate::base::ClusterId(get_u64(bytes, at + 8)),
            group: crate::base::GroupId(get_u16(bytes, at + 16)),
            generation: get_u32(bytes, at + 20),
            segment: get_u64(bytes, at + 24),
        },
        count: get_u32(bytes, at + 32),
        first_sequence: get_u64(bytes, at + 40),
        chosen: Slot(get_u64(bytes, at + 48)),
        last: Checksum(get_u32(bytes, at + 56)),
    };
    check_place(&trailer.place, place)?;
    let rows = bytes.chunks_exact(ROW_SIZE).take(trailer.count as usize);
    let entries: Vec<_> = rows.map(decode_row).collect();
    let possible = |entry: &IndexEntry| {
        entry.value_size as usize <= VALUE_BYTES_MAX
            && entry.first.0.checked_add(u64::from(entry.records)).is_some()
    };
    match entries.iter().find(|entry| !possible(entry)) {
        None => Ok((trailer, entries)),
        Some(entry) => Err(format!("the index footer tells the impossible of slot {}", entry.slot)),
    }
}

fn decode_row(row: &[u8]) -> IndexEntry {
    IndexEntry {
        slot: Slot(get_u64(row, 0)),
        ballot: Ballot { round: get_u64(row, 8), node: NodeId(get_u16(row, 36)) },
        first: Position(get_u64(row, 16)),
        offset: get_u32(row, 24),
        value_size: get_u32(row, 28),
        records: get_u32(row, 32),
        state: match get_u16(row, 38) {
            STATE_APPLIED => EntryState::Applied,
            _ => EntryState::Replaced,
        },
    }
}

/// Whether a footer's rows tell of these entries (slot, ballot, value size), in the order and at
/// the offsets in which they stand in the segment.
pub(super) fn tells_of(
    entries: &[IndexEntry],
    standing: impl ExactSizeIterator<Item = (Slot, Ballot, u32)>,
) -> bool {
    let mut offset = BLOCK_SIZE as u64;
    let same = entries.len() == standing.len();
    same && entries.iter().zip(standing).all(|(entry, (slot, ballot, value_size))| {
        let told = (entry.slot, entry.ballot, entry.value_size, u64::from(entry.offset));
        let fits = told == (slot, ballot, value_size, offset);
        offset += block_align(ENTRY_HEADER_SIZE + value_size as usize) as u64;
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, GroupId};

    #[test]
    fn a_footer_that_tells_the_impossible_is_refused() {
        let place = Place { cluster: ClusterId(9), group: GroupId(1), segment: 4, generation: 1 };
        let sound = IndexEntry {
            slot: Slot(10),
            ballot: Ballot { round: 3, node: NodeId(2) },
            first: Position(7),
            offset: 4096,
            value_size: 100,
            records: 7,
            state: EntryState::Applied,
        };
        let trailer =
            Trailer { place, count: 1, first_sequence: 77, chosen: Slot(10), last: Checksum(8) };
        let decoded = |entry: IndexEntry| {
            let mut bytes = vec![0; trailer.size()];
            encode(&trailer, &[entry], &mut bytes);
            decode(&bytes, &place)
        };
        assert_eq!(decoded(sound), Ok((trailer, vec![sound])));
        let size = VALUE_BYTES_MAX as u32 + 1;
        assert!(decoded(IndexEntry { value_size: size, ..sound }).is_err());
        assert!(decoded(IndexEntry { first: Position(u64::MAX - 6), ..sound }).is_err());
    }

    #[test]
    fn a_footer_round_trips_and_every_byte_is_guarded() {
        let place = Place { cluster: ClusterId(9), group: GroupId(1), segment: 4, generation: 1 };
        let entries: Vec<_> = (0..150u32)
            .map(|i| IndexEntry {
                slot: Slot(u64::from(i) + 10),
                ballot: Ballot { round: 3, node: NodeId(2) },
                first: Position(u64::from(i) * 7),
                offset: 4096 * (i + 1),
                value_size: i,
                records: 7,
                state: if i % 5 == 0 { EntryState::Replaced } else { EntryState::Applied },
            })
            .collect();
        let trailer =
            Trailer { place, count: 150, first_sequence: 77, chosen: Slot(159), last: Checksum(8) };
        let mut bytes = vec![1; trailer.size()];
        encode(&trailer, &entries, &mut bytes);
        assert_eq!(stated_size(&bytes[bytes.len() - BLOCK_SIZE..]), Some(bytes.len()));
        assert_eq!(decode(&bytes, &place), Ok((trailer, entries)));
        assert!(decode(&bytes, &Place { segment: 5, ..place }).is_err());
        for byte in 0..bytes.len() {
            bytes[byte] ^= 4;
            assert!(decode(&bytes, &place).is_err(), "byte {byte}");
            bytes[byte] ^= 4;
        }
    }
}
