//! The index footer of a sealed segment: where each entry stands and which records it holds, so
//! that memory keeps only a summary per segment. Written at the reserved end of the segment once
//! everything in the segment is durable and applied (or replaced); read by recovery and reads.
//! Rows of one size come first, then the placements that do not fit a row (`placements.rs`), zeros,
//! and the trailer, which tells the sizes, as the last bytes.
//!
//! A footer is derived from the entries: a damaged one is never believed and is built again.

use crate::base::limits::{BLOCK_SIZE, VALUE_BYTES_MAX, block_align};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::sectors::entry_size;
use crate::base::{Ballot, Checksum, NodeId, Position, Slot};

use super::format::{
    FORMAT_VERSION, Place, check_place, get_slot, get_u16, get_u32, get_u64, put_u16, put_u32,
    put_u64,
};
use super::index::{EntryState, IndexEntry};
use super::placements;

const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"LgF1");
const ROW_SIZE: usize = 40;
const TRAILER_SIZE: usize = 128;
const STATE_REPLACED: u16 = 0;
const STATE_APPLIED: u16 = 1;

/// The most entries of one segment: their footer fits one pooled buffer.
const SEGMENT_ENTRIES_MAX: usize = (BUFFER_BYTES_MAX - TRAILER_SIZE) / ROW_SIZE;

/// The largest footer in bytes: one pooled buffer.
pub(super) const FOOTER_BYTES_MAX: usize = BUFFER_BYTES_MAX;

/// Bytes (whole blocks) of a footer of `count` entries with `placements` bytes behind the rows.
pub(super) const fn footer_size(count: usize, placements: usize) -> usize {
    block_align(count * ROW_SIZE + placements + TRAILER_SIZE)
}

/// Whether one more entry of `size` bytes, whose placement takes up to `placement_bytes_max`, fits a segment
/// with `count` entries up to `tail` that keep `room` bytes for their placements: in front of a footer
/// that tells of them all. The writer goes on in the next segment otherwise, so that no entry ever
/// stands where even the smallest one does not fit.
pub(super) fn has_room(
    tail: u64,
    count: usize,
    room: u64,
    (size, placement_bytes_max): (usize, u32),
    segment_bytes: u64,
) -> bool {
    let footer = footer_size(count + 1, (room + u64::from(placement_bytes_max)) as usize);
    footer <= FOOTER_BYTES_MAX && tail + size as u64 + footer as u64 <= segment_bytes
}

/// The footer's fixed part, its last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub place: Place,
    pub count: u32,
    /// Bytes of the section of placements behind the rows.
    pub placements: u32,
    /// Of the segment's first entry.
    pub first_sequence: u64,
    /// Every slot up to here was applied, and durable in this log, when the footer was written.
    pub chosen: Slot,
    /// The checksum of the segment's last entry header.
    pub last: Checksum,
    /// The highest chosen watermark that the segment's entries tell; 0 in footers of older builds,
    /// which do not say. So the entries need not be read for it.
    pub told: Slot,
}

impl Trailer {
    pub fn size(&self) -> usize {
        footer_size(self.count as usize, self.placements as usize)
    }
}

/// Fills the first [`Trailer::size`] bytes of `out`.
///
/// # Panics
/// When an entry is neither applied nor replaced (its row would lie), or the trailer tells of
/// another number of rows or of other placements.
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
    let rows = entries.len() * ROW_SIZE;
    let section = &mut out[rows..rows + trailer.placements as usize];
    placements::encode_section(entries, section);
    let at = size - TRAILER_SIZE;
    put_u32(out, at, FOOTER_MAGIC);
    put_u16(out, at + 4, FORMAT_VERSION);
    put_u64(out, at + 8, trailer.place.incarnation.0);
    put_u16(out, at + 16, trailer.place.group.0);
    put_u32(out, at + 20, trailer.place.generation);
    put_u64(out, at + 24, trailer.place.segment);
    put_u32(out, at + 32, trailer.count);
    put_u32(out, at + 36, trailer.placements);
    put_u64(out, at + 40, trailer.first_sequence);
    put_u64(out, at + 48, trailer.chosen.0);
    put_u32(out, at + 56, trailer.last.0);
    put_u64(out, at + 64, trailer.told.0);
    let checksum = Checksum::of(&out[..size - 4]);
    put_u32(out, size - 4, checksum.0);
}

/// The footer's size as its last block says; `None` when no footer seems to stand there. Not
/// verified: [`decode`] does that.
pub(super) fn stated_size(last_block: &[u8]) -> Option<usize> {
    let at = last_block.len().checked_sub(TRAILER_SIZE)?;
    let (count, placements) =
        (get_u32(last_block, at + 32) as usize, get_u32(last_block, at + 36) as usize);
    let known = get_u32(last_block, at) == FOOTER_MAGIC
        && (1..=SEGMENT_ENTRIES_MAX).contains(&count)
        && placements <= FOOTER_BYTES_MAX;
    known.then(|| footer_size(count, placements)).filter(|size| *size <= FOOTER_BYTES_MAX)
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
            incarnation: crate::base::IncarnationTag(get_u64(bytes, at + 8)),
            group: crate::base::GroupId(get_u16(bytes, at + 16)),
            generation: get_u32(bytes, at + 20),
            segment: get_u64(bytes, at + 24),
        },
        count: get_u32(bytes, at + 32),
        placements: get_u32(bytes, at + 36),
        first_sequence: get_u64(bytes, at + 40),
        chosen: get_slot(bytes, at + 48)?,
        last: Checksum(get_u32(bytes, at + 56)),
        told: get_slot(bytes, at + 64)?,
    };
    check_place(&trailer.place, place)?;
    if trailer.first_sequence.checked_add(trailer.count.into()).is_none() {
        return Err("the index footer's sequences run out".into());
    }
    let (rows, rest) = bytes.split_at(trailer.count as usize * ROW_SIZE);
    let rows = rows.chunks_exact(ROW_SIZE).map(decode_row);
    let mut entries = rows.collect::<Result<Vec<_>, String>>()?;
    placements::decode_section(&rest[..trailer.placements as usize], &mut entries)?;
    Ok((trailer, entries))
}

fn decode_row(row: &[u8]) -> Result<IndexEntry, String> {
    let entry = IndexEntry {
        slot: get_slot(row, 0)?,
        ballot: Ballot { round: get_u64(row, 8), node: NodeId(get_u16(row, 36)) },
        first: Position(get_u64(row, 16)),
        offset: get_u32(row, 24),
        value_size: get_u32(row, 28),
        records: get_u32(row, 32),
        state: match get_u16(row, 38) {
            STATE_APPLIED => EntryState::Applied,
            STATE_REPLACED => EntryState::Replaced,
            other => return Err(format!("a row of the index footer has the state {other}")),
        },
        // The room was kept until the footer was written.
        placement_bytes_max: 0,
        more: None,
    };
    let applied = entry.state == EntryState::Applied;
    let sound = match applied {
        true => (1..u64::MAX).contains(&entry.slot.0),
        false => entry.records == 0,
    } && entry.value_size as usize <= VALUE_BYTES_MAX;
    if !sound || entry.first.0.checked_add(entry.records.into()).is_none() {
        return Err(format!("a row of the index footer makes no sense (slot {})", entry.slot));
    }
    Ok(entry)
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
        offset += entry_size(value_size as usize) as u64;
        fits
    })
}

/// Where the entries of a footer end in a segment of `segment_bytes`, if they can stand there as its
/// rows say: one behind the other from the first block on, with the footer behind them.
pub(super) fn tail_of(
    trailer: &Trailer,
    entries: &[IndexEntry],
    segment_bytes: u64,
) -> Result<u64, String> {
    let mut offset = BLOCK_SIZE as u64;
    for entry in entries {
        if u64::from(entry.offset) != offset {
            let (slot, told) = (entry.slot, entry.offset);
            return Err(format!("slot {slot} cannot stand at offset {told}, but at {offset}"));
        }
        offset += entry_size(entry.value_size as usize) as u64;
    }
    match offset + trailer.size() as u64 <= segment_bytes {
        true => Ok(offset),
        false => Err("the index footer's entries take more than their segment".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::base::rng::Rng;
    use crate::base::{GroupId, IncarnationTag, LogId, Placement, Span};

    const PLACE: Place =
        Place { incarnation: IncarnationTag(9), group: GroupId(1), segment: 4, generation: 1 };

    /// Some rows are all there is to say of their slot; others have spans of other logs, or
    /// refusals, or both, with records in log 0 or without.
    fn rows(count: u32) -> Vec<IndexEntry> {
        let row = |i: u32| {
            let applied = !i.is_multiple_of(5);
            let first = Position(u64::from(i) * 7);
            let mut whole = Placement::simple(first, if applied { i % 3 } else { 0 });
            if applied && i % 4 == 1 {
                let span = |log: u32| Span { log: LogId(log), first, records: log };
                whole.spans.extend((1..=i % 11).map(span));
            }
            if applied && i % 4 < 2 {
                whole.refuse(i as usize);
            }
            let own = whole.span(LogId(0)).copied();
            let needs = whole.spans.len() > usize::from(own.is_some()) || !whole.refused.is_empty();
            IndexEntry {
                slot: Slot(u64::from(i) + 10),
                ballot: Ballot { round: 3, node: NodeId(2) },
                first: own.map_or(Position(0), |span| span.first),
                offset: 4096 * (i + 1),
                value_size: i,
                records: own.map_or(0, |span| span.records),
                state: if applied { EntryState::Applied } else { EntryState::Replaced },
                placement_bytes_max: 0,
                more: needs.then(|| Rc::new(whole)),
            }
        };
        (0..count).map(row).collect()
    }

    fn encoded(entries: &[IndexEntry]) -> (Trailer, Vec<u8>) {
        let trailer = Trailer {
            place: PLACE,
            count: entries.len() as u32,
            placements: placements::section_bytes(entries) as u32,
            first_sequence: 77,
            chosen: Slot(159),
            last: Checksum(8),
            told: Slot(150),
        };
        let mut bytes = vec![1; trailer.size()];
        encode(&trailer, entries, &mut bytes);
        (trailer, bytes)
    }

    #[test]
    fn a_footer_that_tells_the_impossible_is_refused() {
        let sound = rows(3).pop().expect("three rows");
        let decoded = |entry: IndexEntry| {
            let (_, bytes) = encoded(&[entry]);
            decode(&bytes, &PLACE).map(|(_, entries)| entries)
        };
        assert_eq!(decoded(sound.clone()), Ok(vec![sound.clone()]));
        let size = VALUE_BYTES_MAX as u32 + 1;
        assert!(decoded(IndexEntry { value_size: size, ..sound.clone() }).is_err());
        let (first, records) = (Position(u64::MAX), 2);
        assert!(decoded(IndexEntry { first, records, more: None, ..sound }).is_err());
    }

    #[test]
    fn a_footer_round_trips_and_every_byte_is_guarded() {
        let entries = rows(150);
        let (trailer, mut bytes) = encoded(&entries);
        assert!(trailer.placements > 1000, "{trailer:?}");
        assert_eq!(stated_size(&bytes[bytes.len() - BLOCK_SIZE..]), Some(bytes.len()));
        assert_eq!(decode(&bytes, &PLACE), Ok((trailer, entries)));
        assert!(decode(&bytes, &Place { segment: 5, ..PLACE }).is_err());
        for byte in 0..bytes.len() {
            bytes[byte] ^= 4;
            assert!(decode(&bytes, &PLACE).is_err(), "byte {byte}");
            bytes[byte] ^= 4;
        }
        for cut in [0, 1, BLOCK_SIZE, bytes.len() - BLOCK_SIZE] {
            assert!(decode(&bytes[bytes.len() - cut..], &PLACE).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn without_other_logs_and_refusals_the_rows_say_it_all() {
        let mut entries = rows(100);
        entries.retain(|entry| entry.more.is_none());
        let (trailer, bytes) = encoded(&entries);
        assert_eq!((trailer.placements, bytes.len()), (0, footer_size(entries.len(), 0)));
        assert_eq!(decode(&bytes, &PLACE), Ok((trailer, entries)));
    }

    /// Bytes that nobody wrote, with a checksum that matches.
    #[test]
    fn whatever_stands_there_is_refused_or_makes_sense_and_never_panics() {
        let (trailer, bytes) = encoded(&rows(60));
        let used = 60 * ROW_SIZE + trailer.placements as usize;
        let (mut refused, mut taken) = (0, 0);
        for seed in 0..30_000 {
            let mut rng = Rng::new(seed);
            let mut bytes = bytes.clone();
            for _ in 0..1 + rng.below(3) {
                let end = bytes.len();
                let at = match rng.below(4) {
                    // The section, the rows, the trailer; whole numbers of them or single bits.
                    0 => 60 * ROW_SIZE + rng.below(u64::from(trailer.placements)) as usize,
                    1 => rng.below(used as u64) as usize,
                    2 => end - TRAILER_SIZE + 32 + rng.below(8) as usize,
                    _ => end - TRAILER_SIZE + rng.below(TRAILER_SIZE as u64 - 4) as usize,
                };
                match rng.below(3) {
                    0 => bytes[at] ^= 1 << rng.below(8),
                    1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
                    _ => bytes[at..(at + 4).min(end)].fill([0, 0xff][rng.below(2) as usize]),
                }
            }
            let end = bytes.len() - 4;
            let checksum = Checksum::of(&bytes[..end]);
            put_u32(&mut bytes, end, checksum.0);
            let Ok((trailer, entries)) = decode(&bytes, &PLACE) else {
                refused += 1;
                continue;
            };
            taken += 1;
            assert_eq!(trailer.placements as usize, placements::section_bytes(&entries));
            let mut again = vec![0; trailer.size()];
            encode(&trailer, &entries, &mut again);
            assert_eq!(decode(&again, &PLACE), Ok((trailer, entries)), "seed {seed}");
        }
        assert!(refused > 5000 && taken > 5000, "{refused} refused, {taken} taken");
    }
}
