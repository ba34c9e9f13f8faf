//! Walks the chain of entries as it stands on disk, and looks behind its end for proof of damage.
//! Used by recovery and by inspect; changes nothing.
//!
//! The chain ends at the first place where no entry follows that continues it. Whether that is a
//! torn tail or damage is decided by what stands there and behind.
//!
//! What stands there: a device writes sectors whole, so what is left of a write that was cut short is
//! sectors as they were written, and blank ones ([`ChainEnd::Torn`]). The header is one sector, with
//! checksums of all others. Anything else (a sector that is neither, or that cannot be read) had been
//! written and was changed since: damage ([`ChainEnd::Damaged`]).
//!
//! What stands behind: each header tells which sequence was acknowledged as durable when it was
//! written. If any header behind the end tells of the missing sequence, or of a later one, then what is
//! missing had been durable: damage, however it looks. If none does, a torn or blank end was part of the
//! writes in flight, of which any sector may have reached the disk or not.
//!
//! Only the first entry that is missing is judged so: nothing behind one that was never durable was
//! ever acknowledged.

use crate::base::limits::SECTOR_SIZE;
use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, MIB};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::mutants::{Mutant, planted};
use crate::base::sectors::Standing;
use crate::base::{BlockBuf, BlockPool, Checksum, Slot};
use crate::io::{FileId, Storage};

use super::footer::{self, Trailer};
use super::format::{
    EntryHeader, EntryKind, GENERATION_FIRST, Place, SegmentHeader, check_place, is_zero,
};
use super::index::IndexEntry;
use super::{LogError, WRITE_BYTES_MAX, WRITES_UNACKNOWLEDGED_MAX};

/// Bytes read at once by whoever walks on.
pub(super) const READ_AHEAD_BYTES: usize = MIB;

/// What is damage when it cannot be read is tried so often again: it may cost the vote, and a device that
/// has had a fault for a moment is none that has lost something.
const UNREAD_TRIES: u32 = 4;

/// Reads a segment's file through a window, forwards.
pub(super) struct SegmentReader {
    pub file: FileId,
    pub name: String,
    pub length: u64,
    /// Bytes read at least, for what comes next; less for whoever wants single blocks.
    pub read_ahead: usize,
    /// What cannot be read, however often, is damage to be judged, and no error.
    pub unread_is_damage: bool,
    buffer: BlockBuf,
    start: u64,
    filled: usize,
}

impl SegmentReader {
    pub fn new(file: FileId, name: String, length: u64, pool: &BlockPool) -> SegmentReader {
        // Reads end with the file: a small one needs no more than its size.
        let window = usize::try_from(length).unwrap_or(usize::MAX).min(BUFFER_BYTES_MAX);
        let buffer = pool.take(window);
        let read_ahead = READ_AHEAD_BYTES;
        let (unread_is_damage, start, filled) = (false, 0, 0);
        SegmentReader { file, name, length, read_ahead, unread_is_damage, buffer, start, filled }
    }

    /// The bytes at `offset` (whole blocks), up to `length` of them: fewer only at the file's end.
    pub fn at<S: Storage>(
        &mut self,
        storage: &mut S,
        offset: u64,
        length: usize,
    ) -> Result<&[u8], LogError> {
        let end = offset + length as u64;
        if offset < self.start || end > self.start + self.filled as u64 {
            let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
            let wanted = length.clamp(self.read_ahead, BUFFER_BYTES_MAX).min(left);
            self.start = offset;
            self.filled = 0;
            if wanted == 0 {
                return Ok(&[]);
            }
            let mut read = storage.read_at(self.file, offset, &mut self.buffer, wanted);
            let again = match self.unread_is_damage {
                true => UNREAD_TRIES,
                false => u32::from(wanted > length),
            };
            for _ in 0..again {
                if read.is_ok() {
                    break;
                }
                // What cannot be read may stand behind what is asked for, in a footer say.
                self.read_ahead = BLOCK_SIZE;
                read = storage.read_at(self.file, offset, &mut self.buffer, length);
            }
            let reading = || format!("reading {} at {offset}", self.name);
            self.filled = read.map_err(|error| LogError::io(reading())(error))?;
        }
        let from = (offset - self.start) as usize;
        let to = (from + length).min(self.filled);
        Ok(&self.buffer[from.min(to)..to])
    }
}

/// Where the walk stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Of the next entry.
    pub sequence: u64,
    pub previous: Checksum,
    /// The highest chosen watermark of the entries walked.
    pub chosen: Slot,
}

impl Chain {
    pub const START: Chain = Chain { sequence: 1, previous: Checksum(0), chosen: Slot::NONE };

    /// Whether the segment of this header holds what comes next.
    pub fn goes_on_in(&self, header: &SegmentHeader) -> bool {
        (header.first_sequence, header.previous) == (self.sequence, self.previous)
    }
}

/// Why no entry follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub offset: u64,
    pub slot: Option<Slot>,
    pub why: String,
    pub end: ChainEnd,
}

impl Broken {
    /// Nothing was begun there.
    pub fn is_empty(&self) -> bool {
        self.end == ChainEnd::Empty
    }
}

/// What stands where the chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainEnd {
    /// Nothing: zeros, or the end of the segment.
    Empty,
    /// A write that was cut short; or the remains of an older use of the blocks, or of a footer.
    Torn,
    /// Anything else.
    Damaged,
}

/// Walks the entries from `from` on while they continue the chain, up to the one before the sequence
/// `until`: nothing is read behind that. Returns where and why it ended; `Broken::offset` is the tail.
/// Where the segment is full no entry can stand: a walk from its start knows.
pub(super) fn walk_entries<S: Storage>(
    reader: &mut SegmentReader,
    storage: &mut S,
    place: &Place,
    from: u64,
    until: u64,
    chain: &mut Chain,
    visit: &mut dyn FnMut(&EntryHeader, &[u8]),
) -> Result<Broken, LogError> {
    use ChainEnd::{Damaged, Empty, Torn};
    let mut offset = from;
    let unread_is_damage = reader.unread_is_damage;
    let (mut count, mut room) = (0, 0);
    let is_whole = from == BLOCK_SIZE as u64;
    loop {
        let broken = |slot, why: String, end| Ok(Broken { offset, slot, why, end });
        let is_full =
            is_whole && !footer::has_room(offset, count, room, (BLOCK_SIZE, 0), reader.length);
        if chain.sequence >= until {
            return broken(None, "the next segment goes on".into(), Empty);
        }
        let block = match reader.at(storage, offset, BLOCK_SIZE) {
            Err(error) if unread_is_damage => {
                let end = if is_full { Torn } else { Damaged };
                return broken(None, error.to_string(), end);
            }
            block => block?,
        };
        if block.len() < BLOCK_SIZE {
            return broken(None, "the segment ends here".into(), Empty);
        }
        if is_zero(block) {
            return broken(None, "only zeros stand here".into(), Empty);
        }
        if is_full {
            // The footer begins here, at the earliest. It comes from the entries: no loss if it is torn.
            return broken(None, "the segment is full of entries".into(), Torn);
        }
        if is_zero(&block[..SECTOR_SIZE]) {
            return broken(None, "the header's sector is blank".into(), Torn);
        }
        let (header, checksum) = match EntryHeader::decode(block) {
            Ok(decoded) => decoded,
            Err(why) => return broken(None, why, Damaged),
        };
        let slot = (header.kind == EntryKind::Value).then_some(header.slot);
        if let Err(why) = header.stands_at(place, offset) {
            let end = if header.is_older_use_of(place) { Torn } else { Damaged };
            return broken(slot, why, end);
        }
        if (header.sequence, header.previous) != (chain.sequence, chain.previous) {
            let (found, wanted) = (header.sequence, chain.sequence);
            let why = format!(
                "entry {found} does not continue the chain (entry {wanted} after header {})",
                chain.previous
            );
            return broken(slot, why, Damaged);
        }
        let size = header.entry_size();
        let entry = match reader.at(storage, offset, size) {
            Err(error) if unread_is_damage => return broken(slot, error.to_string(), Damaged),
            entry => entry?,
        };
        match header.judge_value(entry) {
            Standing::Whole => {}
            Standing::Torn(why) => return broken(slot, why, Torn),
            Standing::Damaged(why) => return broken(slot, why, Damaged),
        }
        visit(&header, &entry[ENTRY_HEADER_SIZE..][..header.value_size as usize]);
        (count, room) = (count + 1, room + u64::from(header.placement_bytes_max));
        chain.sequence += 1;
        chain.previous = checksum;
        chain.chosen = chain.chosen.max(header.chosen);
        offset += size as u64;
    }
}

/// The footer at the end of a segment.
pub(super) enum FoundFooter {
    /// Zeros (or the entries' own bytes) stand there.
    None,
    /// Something that begins like one, but is not whole.
    Damaged(String),
    /// The system does not read it. So it may tell of entries that are missing: only a next segment
    /// that follows from those that stand shows that it does not.
    Unread(LogError),
    Valid(Trailer, Vec<IndexEntry>),
}

/// Reads and verifies the footer.
pub(super) fn read_footer<S: Storage>(
    reader: &mut SegmentReader,
    storage: &mut S,
    place: &Place,
) -> FoundFooter {
    find_footer(reader, storage, place).unwrap_or_else(FoundFooter::Unread)
}

fn find_footer<S: Storage>(
    reader: &mut SegmentReader,
    storage: &mut S,
    place: &Place,
) -> Result<FoundFooter, LogError> {
    let Some(last) = reader.length.checked_sub(BLOCK_SIZE as u64) else {
        return Ok(FoundFooter::None);
    };
    let block = reader.at(storage, last, BLOCK_SIZE)?;
    if is_zero(block) {
        return Ok(FoundFooter::None);
    }
    let Some(size) = footer::stated_size(block) else {
        return Ok(FoundFooter::Damaged("the index footer's last block is damaged".into()));
    };
    let Some(offset) = reader.length.checked_sub(size as u64) else {
        return Ok(FoundFooter::Damaged("the index footer is larger than its segment".into()));
    };
    let bytes = reader.at(storage, offset, size)?;
    Ok(match footer::decode(bytes, place) {
        Ok((trailer, entries)) => FoundFooter::Valid(trailer, entries),
        Err(why) => FoundFooter::Damaged(why),
    })
}

/// What stands behind the end of the chain, in one segment.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The first proof that the missing sequence had been durable.
    pub proof: Option<String>,
    /// A whole index footer stands there.
    pub sealed: bool,
    /// Runs of blocks that are not zero, or cannot be read: offset and length.
    pub remains: Vec<(u64, u64)>,
}

/// So many bytes are read of a segment in which the writes in flight may have ended: theirs, and
/// those of the first write that tells of what they were (see [`is_blank`]).
const IN_FLIGHT_BYTES: u64 = ((WRITES_UNACKNOWLEDGED_MAX + 1) * WRITE_BYTES_MAX) as u64;
/// And of so many segments: each write stands in one.
const IN_FLIGHT_SEGMENTS: u64 = WRITES_UNACKNOWLEDGED_MAX as u64 + 1;

/// Whether a segment behind the one in which the chain ends need not be looked at any further: what
/// could stand there is read, and is zeros. `distance`: how many segments behind that one it stands
/// (from 1; the segment in which the chain ends has 0).
///
/// A node may have thousands of segments prepared, which no start should read whole. What can stand
/// where follows from the writer: a write stands in one segment and takes at most
/// [`WRITE_BYTES_MAX`]; writes follow each other without a gap, and the first one of a segment
/// begins with its first block; the next but one starts only when the first is acknowledged
/// ([`WRITES_UNACKNOWLEDGED_MAX`]); a footer is written into segments whose entries all are durable.
/// (A version that lowers these bounds must read as far as the logs of this one go.)
///
/// Let W1 be the write that holds what is missing, and W2, W3, … those that followed. The chain goes
/// up to what is missing: so W1 stands in segment 0 (by distance) or at the start of segment 1; W2 in
/// 0, 1, or at the start of 2; W3 in 0, 1, behind W2 in 2, or at the start of 3.
///
/// - The missing entry was never acknowledged. Then W3 was never started, and what remains of W1 and W2,
///   which must be cut, stands in segments 0 and 1 or in the first `WRITE_BYTES_MAX` bytes of 2.
///   Every one of these blocks is read. Example: W1 fills segment 1 and is lost; of W2, at the start of
///   segment 2, all but the header has reached the disk. Not cut, its entries could be taken for
///   entries again when the same W1 has been written once more.
/// - It was acknowledged, and is damaged. Then W3 and every later write tell so, in each entry's
///   header. Segments 0 and 1 are read whole, 2 and 3 as far as W3 can go (12 MiB) at least, the later
///   ones in their first block, where a segment that was begun has its header, and the last one, where
///   a full one has its footer. Whatever is not zeros there has the segment read whole. So for damage to
///   pass for a torn tail it must have turned to zeros, besides what is missing, all of W3 and whatever
///   else stood in segments 0 and 1 and in those 12 MiB, and the first and the last block of every
///   segment after. (Read whole, the later segments would tell of it even then, as far as anything is
///   left between; a hole of that size is not told from the loss of everything behind it.)
///
/// What stands in the blocks that are not read was no write in flight: damage of blank space, or a
/// write that belonged elsewhere. It is found and cut when the log's end has come near; until then no
/// walk comes there, and then nothing that was not written for this very place and after this very
/// entry continues the chain.
pub(super) fn is_blank<S: Storage>(
    reader: &mut SegmentReader,
    storage: &mut S,
    distance: u64,
) -> Result<bool, LogError> {
    if distance > 0 && planted(Mutant::SparesTakenForBlank) {
        return Ok(true);
    }
    let bytes = match distance {
        0 | 1 => return Ok(false),
        2..=IN_FLIGHT_SEGMENTS => IN_FLIGHT_BYTES,
        _ => BLOCK_SIZE as u64,
    };
    let bytes = bytes.min(reader.length);
    let last = reader.length.saturating_sub(BLOCK_SIZE as u64);
    let mut blank = true;
    reader.read_ahead = BLOCK_SIZE;
    let mut offset = 0;
    while blank && offset < bytes {
        let length = (READ_AHEAD_BYTES as u64).min(bytes - offset);
        let unread_is_damage = reader.unread_is_damage;
        blank = match reader.at(storage, offset, length as usize) {
            Err(_) if unread_is_damage => false,
            block => is_zero(block?),
        };
        offset += length;
    }
    let unread_is_damage = reader.unread_is_damage;
    blank = blank
        && match reader.at(storage, last, BLOCK_SIZE) {
            Err(_) if unread_is_damage => false,
            block => is_zero(block?),
        };
    reader.read_ahead = READ_AHEAD_BYTES;
    Ok(blank)
}

/// Looks at every block of the segment from `from` on. `missing`: the sequence at which the chain
/// ended.
///
/// Blocks are judged alone, since where entries start is not known behind damage. A client could
/// store a forged header as a record's bytes; bound to this segment, offset and generation it
/// could at worst make a torn tail look like damage, never the other way round.
pub(super) fn look_behind<S: Storage>(
    reader: &mut SegmentReader,
    storage: &mut S,
    place: &Place,
    from: u64,
    missing: u64,
) -> Result<Behind, LogError> {
    let mut behind = Behind::default();
    let block_size = BLOCK_SIZE as u64;
    let mut offset = from;
    while offset < reader.length {
        let name = reader.name.clone();
        let unread_is_damage = reader.unread_is_damage;
        let block = match reader.at(storage, offset, BLOCK_SIZE) {
            Err(_) if unread_is_damage => None,
            block => Some(block?),
        };
        if block.is_none_or(|block| !is_zero(block)) {
            if let Some(block) = block
                && behind.proof.is_none()
            {
                behind.proof = proof_in(block, place, offset, missing)
                    .map(|what| format!("{what} at offset {offset} of {name}"));
            }
            match behind.remains.last_mut() {
                Some((start, length)) if *start + *length == offset => *length += block_size,
                _ => behind.remains.push((offset, block_size)),
            }
        }
        offset += block_size;
    }
    let footer = match find_footer(reader, storage, place) {
        Err(_) if reader.unread_is_damage => FoundFooter::None,
        footer => footer?,
    };
    if let FoundFooter::Valid(trailer, _) = footer
        && trailer.first_sequence + u64::from(trailer.count) > missing
    {
        behind.sealed = true;
        behind.proof.get_or_insert_with(|| format!("the index footer of {}", reader.name));
    }
    Ok(behind)
}

fn proof_in(block: &[u8], place: &Place, offset: u64, missing: u64) -> Option<String> {
    if offset == 0 {
        let header = SegmentHeader::decode(block).ok()?;
        check_place(&header.place, place).ok()?;
        return (header.durable_sequence >= missing).then(|| "the segment header".to_owned());
    }
    let (header, _) = EntryHeader::decode(block).ok()?;
    header.stands_at(place, offset).ok()?;
    (header.durable_sequence >= missing).then(|| format!("entry {}", header.sequence))
}

/// A segment's header, if its first block is whole and stands in a file of this place and length.
pub(super) fn header_at(block: &[u8], place: &Place, length: u64) -> Option<SegmentHeader> {
    let header = SegmentHeader::decode(block).ok()?;
    let fits = check_place(&header.place, place).is_ok() && header.segment_bytes == length;
    fits.then_some(header)
}

/// The generation that the segment's own header tells, if it has a valid one.
pub(super) fn generation_of(block: &[u8]) -> u32 {
    SegmentHeader::decode(block).map_or(GENERATION_FIRST, |header| header.place.generation)
}

/// What the first block of a segment is.
pub(super) enum Start {
    /// It continues the chain.
    Continues,
    /// Nothing was ever written here.
    Empty,
    /// It is no whole header; `true`: it is blank, and only the rest of its block is not.
    Broken(String, bool),
    /// It is whole, but another entry comes next.
    Gap(String),
    /// It is whole, but of another directory, group or size: not this log's file.
    Foreign(String),
}

/// Judges the first block.
pub(super) fn judge_start(block: &[u8], place: &Place, length: u64, chain: &Chain) -> Start {
    if block.len() == BLOCK_SIZE && is_zero(block) {
        return Start::Empty;
    }
    let header = match SegmentHeader::decode(block) {
        Ok(header) => header,
        Err(why) => {
            let blank = block.len() == BLOCK_SIZE && is_zero(&block[..SECTOR_SIZE]);
            return Start::Broken(why, blank);
        }
    };
    let found = header.place;
    if (found.incarnation, found.group, found.segment)
        != (place.incarnation, place.group, place.segment)
    {
        return Start::Foreign(check_place(&found, place).expect_err("they differ"));
    }
    if header.segment_bytes != length {
        let stated = header.segment_bytes;
        return Start::Foreign(format!("it says {stated} bytes, but is {length} bytes long"));
    }
    if !chain.goes_on_in(&header) {
        let (found, wanted) = (header.first_sequence, chain.sequence);
        return Start::Gap(format!(
            "the segment starts at entry {found}, but entry {wanted} comes next"
        ));
    }
    Start::Continues
}

/// What a segment is whose first block is no whole header; `blank`: the header's sector is zeros.
///
/// The header comes with the segment's first entry, in one write. When the header of either is blank, none
/// of that write was durable, whatever stands in the place of the other.
pub(super) fn judge_broken_start<S: Storage>(
    reader: &mut SegmentReader,
    storage: &mut S,
    blank: bool,
) -> Result<ChainEnd, LogError> {
    let unread_is_damage = reader.unread_is_damage;
    let is_torn = blank
        || match reader.at(storage, BLOCK_SIZE as u64, BLOCK_SIZE) {
            Err(_) if unread_is_damage => false,
            // A file that ends before it tells nothing of what stood there.
            block => block?.get(..SECTOR_SIZE).is_some_and(is_zero),
        };
    Ok(if is_torn { ChainEnd::Torn } else { ChainEnd::Damaged })
}
