//! Bytes on disk: the header of an entry and of a segment. Pure; used by the writer, the walk and
//! the reads. All numbers are little-endian.
//!
//! A header binds what follows it to its place: incarnation, group, segment, generation, file offset,
//! sequence in the log and the checksum of the header before. A block that is valid in itself but
//! stands where it does not belong (a misdirected or lost write, a file of another node, remains of
//! an older generation) is told from the right one.

use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, SECTOR_SIZE, VALUE_BYTES_MAX};
use crate::base::mutants::{Mutant, planted};
use crate::base::sectors::{self, CHECKSUMS_AT, CHECKSUMS_END, Standing, entry_size};
use crate::base::{Ballot, Checksum, GroupId, IncarnationTag, NodeId, Slot};

pub(super) use crate::base::sectors::is_zero;

use super::placements::PLACEMENT_BYTES_MAX;

/// The version of every structure in the log's files.
pub(super) const FORMAT_VERSION: u16 = 3;

/// How often the blocks of a segment file have been used, from 1. It rises when a file is used
/// again for a later segment (which needs trimming first, so it is 1 in every file so far).
pub(super) const GENERATION_FIRST: u32 = 1;

pub(super) const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"LgE1");
pub(super) const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"LgS1");

const KIND_VALUE: u16 = 1;
pub(super) const KIND_MARK: u16 = 2;

/// Which segment a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub incarnation: IncarnationTag,
    pub group: GroupId,
    pub segment: u64,
    pub generation: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// The value of a slot.
    Value,
    /// No value: says that everything up to its `durable_sequence` had been durable.
    Mark,
}

/// The header before each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub place: Place,
    pub kind: EntryKind,
    /// Of the header itself, in its file.
    pub offset: u64,
    /// The entry's number in the log, from 1, without gaps.
    pub sequence: u64,
    /// Every entry up to this sequence had been acknowledged as durable when the write of this
    /// one was started. This is what tells damage from a torn tail: an entry at or below it may
    /// not be missing.
    pub durable_sequence: u64,
    pub slot: Slot,
    pub ballot: Ballot,
    pub chosen: Slot,
    pub value_size: u32,
    pub value_checksum: Checksum,
    /// The most that the slot's placement will take in the segment's footer, in bytes.
    pub placement_bytes_max: u32,
    /// The checksum of the previous entry's header; the log's first entry has 0.
    pub previous: Checksum,
}

/// The first block of a segment that has been begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub place: Place,
    pub segment_bytes: u64,
    /// The sequence of the segment's first entry.
    pub first_sequence: u64,
    /// As in [`EntryHeader`].
    pub durable_sequence: u64,
    /// The checksum of the last header of the segment before.
    pub previous: Checksum,
}

pub(super) fn put_u16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A slot or a watermark over slots.
pub(super) fn get_slot(bytes: &[u8], at: usize) -> Result<Slot, String> {
    let slot = Slot(get_u64(bytes, at));
    if slot > Slot::MAX {
        return Err(format!("slot {slot} is over the limit"));
    }
    Ok(slot)
}

pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Of the header's checksum, in an entry's header and in a segment's.
const HEADER_CHECKSUM_AT: usize = SECTOR_SIZE - 4;

const _: () = {
    assert!(HEADER_CHECKSUM_AT == CHECKSUMS_END);
    assert!(ENTRY_HEADER_SIZE == SECTOR_SIZE);
};

/// Both structures start alike: magic, version, kind, incarnation, group, -, generation, segment.
fn put_place(out: &mut [u8], magic: u32, kind: u16, place: &Place) {
    put_u32(out, 0, magic);
    put_u16(out, 4, FORMAT_VERSION);
    put_u16(out, 6, kind);
    put_u64(out, 8, place.incarnation.0);
    put_u16(out, 16, place.group.0);
    put_u32(out, 20, place.generation);
    put_u64(out, 24, place.segment);
}

fn get_place(bytes: &[u8]) -> Place {
    Place {
        incarnation: IncarnationTag(get_u64(bytes, 8)),
        group: GroupId(get_u16(bytes, 16)),
        generation: get_u32(bytes, 20),
        segment: get_u64(bytes, 24),
    }
}

impl EntryHeader {
    /// Fills in the header's fields, beside the checksums of the sectors that stand in it, and
    /// returns its checksum, which the next header carries.
    pub fn encode(&self, out: &mut [u8; ENTRY_HEADER_SIZE]) -> Checksum {
        out[..CHECKSUMS_AT].fill(0);
        let kind = match self.kind {
            EntryKind::Value => KIND_VALUE,
            EntryKind::Mark => KIND_MARK,
        };
        put_place(out, ENTRY_MAGIC, kind, &self.place);
        put_u16(out, 18, self.ballot.node.0);
        put_u64(out, 32, self.offset);
        put_u64(out, 40, self.sequence);
        put_u64(out, 48, self.durable_sequence);
        put_u64(out, 56, self.slot.0);
        put_u64(out, 64, self.ballot.round);
        put_u64(out, 72, self.chosen.0);
        put_u32(out, 80, self.value_size);
        put_u32(out, 84, self.value_checksum.0);
        put_u32(out, 88, self.previous.0);
        put_u32(out, 92, self.placement_bytes_max);
        let checksum = Checksum::of(&out[..HEADER_CHECKSUM_AT]);
        put_u32(out, HEADER_CHECKSUM_AT, checksum.0);
        checksum
    }

    /// Reads a header; `Err` says what is wrong. The place is not judged: see
    /// [`EntryHeader::stands_at`].
    pub fn decode(bytes: &[u8]) -> Result<(EntryHeader, Checksum), String> {
        let bytes = bytes.get(..ENTRY_HEADER_SIZE).ok_or("the header is cut off")?;
        if get_u32(bytes, 0) != ENTRY_MAGIC {
            return Err("no entry header stands here (wrong magic)".into());
        }
        let checksum = Checksum::of(&bytes[..HEADER_CHECKSUM_AT]);
        if checksum.0 != get_u32(bytes, HEADER_CHECKSUM_AT) {
            return Err("the entry header's checksum does not match".into());
        }
        check_version(bytes)?;
        let kind = match get_u16(bytes, 6) {
            KIND_VALUE => EntryKind::Value,
            KIND_MARK => EntryKind::Mark,
            other => return Err(format!("unknown kind of entry {other}")),
        };
        let header = EntryHeader {
            place: get_place(bytes),
            kind,
            offset: get_u64(bytes, 32),
            sequence: get_u64(bytes, 40),
            durable_sequence: get_u64(bytes, 48),
            slot: get_slot(bytes, 56)?,
            ballot: Ballot { round: get_u64(bytes, 64), node: NodeId(get_u16(bytes, 18)) },
            chosen: get_slot(bytes, 72)?,
            value_size: get_u32(bytes, 80),
            value_checksum: Checksum(get_u32(bytes, 84)),
            previous: Checksum(get_u32(bytes, 88)),
            placement_bytes_max: get_u32(bytes, 92),
        };
        if header.value_size as usize > VALUE_BYTES_MAX {
            return Err(format!("a value of {} bytes is over the limit", header.value_size));
        }
        if header.placement_bytes_max > PLACEMENT_BYTES_MAX {
            let bytes = header.placement_bytes_max;
            return Err(format!("a placement of {bytes} bytes is over the limit"));
        }
        Ok((header, checksum))
    }

    /// Whether the header belongs at this offset of this segment.
    pub fn stands_at(&self, place: &Place, offset: u64) -> Result<(), String> {
        check_place(&self.place, place)?;
        if self.offset != offset {
            return Err(format!("the entry belongs at offset {}, not here", self.offset));
        }
        Ok(())
    }

    /// Whether it was written when the blocks of this very place were used for an earlier
    /// generation.
    pub fn is_older_use_of(&self, place: &Place) -> bool {
        let generation = place.generation;
        self.place.generation < generation && Place { generation, ..self.place } == *place
    }

    /// Bytes of the entry on disk.
    pub fn entry_size(&self) -> usize {
        entry_size(self.value_size as usize)
    }

    /// What stands behind the header in the entry's `bytes`.
    pub fn judge_value(&self, bytes: &[u8]) -> Standing {
        match sectors::judge(bytes, self.value_size as usize) {
            Standing::Damaged(_) | Standing::Torn(_) if planted(Mutant::ValueNotVerified) => {
                Standing::Whole
            }
            standing => standing,
        }
    }

    /// Checks everything behind the header in the entry's `bytes`.
    pub fn check_value(&self, bytes: &[u8]) -> Result<(), String> {
        match self.judge_value(bytes) {
            Standing::Whole => Ok(()),
            Standing::Torn(why) | Standing::Damaged(why) => Err(why),
        }
    }
}

pub(super) fn check_version(bytes: &[u8]) -> Result<(), String> {
    match get_u16(bytes, 4) {
        FORMAT_VERSION => Ok(()),
        other => Err(format!("format version {other}, where {FORMAT_VERSION} is known")),
    }
}

/// Whether a structure that says it belongs to `found` may stand in `wanted`.
pub(super) fn check_place(found: &Place, wanted: &Place) -> Result<(), String> {
    if found.incarnation != wanted.incarnation {
        let (found, wanted) = (found.incarnation, wanted.incarnation);
        return Err(format!("it belongs to the directory of incarnation {found}, not {wanted}"));
    }
    if found.group != wanted.group {
        return Err(format!("it belongs to group {}, not {}", found.group, wanted.group));
    }
    if found.segment != wanted.segment {
        let (found, wanted) = (found.segment, wanted.segment);
        return Err(format!("it belongs to segment {found:x}, not {wanted:x}"));
    }
    if found.generation != wanted.generation && !planted(Mutant::StaleGenerationAccepted) {
        let (found, wanted) = (found.generation, wanted.generation);
        return Err(format!("it is of generation {found}, where {wanted} is current"));
    }
    Ok(())
}

impl SegmentHeader {
    /// Fills the first block of `block`: one sector, so that no tear mixes it, and zeros.
    pub fn encode(&self, block: &mut [u8]) {
        let out = &mut block[..BLOCK_SIZE];
        out.fill(0);
        put_place(out, SEGMENT_MAGIC, 0, &self.place);
        put_u64(out, 32, self.segment_bytes);
        put_u64(out, 40, self.first_sequence);
        put_u64(out, 48, self.durable_sequence);
        put_u32(out, 56, self.previous.0);
        let checksum = Checksum::of(&out[..HEADER_CHECKSUM_AT]);
        put_u32(out, HEADER_CHECKSUM_AT, checksum.0);
    }

    /// Reads the first block of a segment; `Err` says what is wrong. The place is not judged.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, String> {
        let bytes = block.get(..BLOCK_SIZE).ok_or("the segment header is cut off")?;
        if get_u32(bytes, 0) != SEGMENT_MAGIC {
            return Err("no segment header stands here (wrong magic)".into());
        }
        let (header, rest) = bytes.split_at(SECTOR_SIZE);
        if Checksum::of(&header[..HEADER_CHECKSUM_AT]).0 != get_u32(bytes, HEADER_CHECKSUM_AT) {
            return Err("the segment header's checksum does not match".into());
        }
        check_version(bytes)?;
        if !is_zero(rest) {
            return Err("the block behind the segment header is not zero".into());
        }
        Ok(SegmentHeader {
            place: get_place(bytes),
            segment_bytes: get_u64(bytes, 32),
            first_sequence: get_u64(bytes, 40),
            durable_sequence: get_u64(bytes, 48),
            previous: Checksum(get_u32(bytes, 56)),
        })
    }
}

/// The name of a segment's file.
pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:016x}.log")
}

/// The name of a segment's file while it is being prepared.
pub(super) fn segment_temporary(number: u64) -> String {
    format!("segment-{number:016x}.tmp")
}

/// The number in a segment's file name; `None` when it is not one.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Whether the name is one of a segment whose preparation was cut short.
pub(super) fn is_segment_temporary(name: &str) -> bool {
    name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".tmp")).is_some()
}

/// `name` within `folder`.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> EntryHeader {
        EntryHeader {
            place: Place {
                incarnation: IncarnationTag(0x0123_4567_89ab_cdef),
                group: GroupId(3),
                segment: 77,
                generation: 2,
            },
            kind: EntryKind::Value,
            offset: 8192,
            sequence: 5,
            durable_sequence: 3,
            slot: Slot(9),
            ballot: Ballot { round: 4, node: NodeId(2) },
            chosen: Slot(7),
            value_size: 5000,
            value_checksum: Checksum(0xdead_beef),
            placement_bytes_max: 77,
            previous: Checksum(0x1234_5678),
        }
    }

    #[test]
    fn an_entry_header_round_trips_and_every_bit_is_guarded() {
        let mut bytes = [0xee; ENTRY_HEADER_SIZE];
        let checksum = header().encode(&mut bytes);
        assert_eq!(EntryHeader::decode(&bytes), Ok((header(), checksum)));
        for bit in 0..ENTRY_HEADER_SIZE * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(EntryHeader::decode(&damaged).is_err(), "bit {bit}");
        }
        assert!(EntryHeader::decode(&bytes[..100]).is_err());
    }

    #[test]
    fn a_header_elsewhere_is_told_by_its_place() {
        let header = header();
        assert_eq!(header.stands_at(&header.place, 8192), Ok(()));
        assert!(header.stands_at(&header.place, 4096).is_err());
        for place in [
            Place { incarnation: IncarnationTag(1), ..header.place },
            Place { group: GroupId(1), ..header.place },
            Place { segment: 1, ..header.place },
            Place { generation: 1, ..header.place },
        ] {
            assert!(header.stands_at(&place, 8192).is_err(), "{place:?}");
        }
    }

    #[test]
    fn a_segment_header_round_trips_and_every_byte_is_guarded() {
        let header = SegmentHeader {
            place: header().place,
            segment_bytes: 1 << 26,
            first_sequence: 10,
            durable_sequence: 8,
            previous: Checksum(5),
        };
        let mut block = vec![0xff; BLOCK_SIZE];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for byte in 0..BLOCK_SIZE {
            block[byte] ^= 0x10;
            assert!(SegmentHeader::decode(&block).is_err(), "byte {byte}");
            block[byte] ^= 0x10;
        }
    }

    #[test]
    fn segment_names_sort_and_parse() {
        assert_eq!(segment_name(0x2a), "segment-000000000000002a.log");
        assert_eq!(segment_number("segment-000000000000002a.log"), Some(0x2a));
        assert_eq!(segment_number("segment-2a.log"), None);
        assert_eq!(segment_number("segment-000000000000002a.tmp"), None);
        assert!(is_segment_temporary(&segment_temporary(3)));
        assert!(!is_segment_temporary("segment-000000000000002a.log"));
    }
}
