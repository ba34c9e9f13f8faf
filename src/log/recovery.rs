//! Start-up: from the files of a group's folder to a [`Log`], or to an exact refusal.
//!
//! Everything is read and judged before anything is changed. The changes then are: a torn tail is
//! overwritten with zeros and flushed (so that its remains can never be taken for entries again,
//! whatever is written over a part of them later), the first segment is created, left-over
//! temporary files are removed.

use std::collections::VecDeque;

use crate::base::limits::ENTRY_HEADER_SIZE;
use crate::base::limits::{BLOCK_SIZE, MIB, block_align};
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Checksum, Slot};
use crate::io::{FileId, FileOptions, Storage};

use super::footer::{self, Trailer};
use super::format::{
    EntryHeader, EntryKind, GENERATION_FIRST, Place, is_segment_temporary, join, segment_name,
    segment_number, segment_temporary,
};
use super::index::{Index, IndexEntry, Segment};
use super::prepare::Preparer;
use super::reads::{Reads, open_entry};
use super::vote::{self, VOTE_NAME, VoteWriter};
use super::walk::{
    Broken, Chain, FoundFooter, SegmentReader, Start, generation_of, judge_start, look_behind,
    read_footer, walk_entries,
};
use super::writer::Writer;
use super::{Damage, Log, LogError, LogOptions, LogRecovered, LogStats, Tokens};

/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = MIB;

pub(super) fn format<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
) -> Result<(), LogError> {
    options.validate()?;
    let making = || LogError::io(format!("making folder {folder}"));
    storage.create_folder(folder).map_err(making())?;
    if !storage.list(folder).map_err(making())?.is_empty() {
        return Err(LogError::NotEmpty(folder.to_owned()));
    }
    vote::create(storage, folder, options)?;
    storage.sync_folder(folder).map_err(making())
}

/// One segment as it was found.
struct Found {
    number: u64,
    generation: u32,
    rows: Vec<Row>,
    footer: Option<(Trailer, Vec<IndexEntry>)>,
    tail: u64,
    /// The checksum of its last entry's header, for the footer.
    last: Checksum,
}

/// What the index needs of an entry on disk.
struct Row {
    slot: Slot,
    ballot: Ballot,
    value_size: u32,
    placement_bytes_max: u32,
}

struct Recovery<'a, S: Storage> {
    storage: &'a mut S,
    folder: &'a str,
    options: &'a LogOptions,
    /// The segments' files by number from 1.
    files: Vec<FileId>,
    found: Vec<Found>,
    chain: Chain,
    ballot_max: Ballot,
    /// Highest slot that a footer tells to have been applied.
    applied: Slot,
    footers_damaged: u32,
    torn_bytes: u64,
}

pub(super) fn open<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: LogOptions,
) -> Result<(Log, LogRecovered), LogError> {
    options.validate()?;
    let names = storage.list(folder).map_err(LogError::io(format!("listing {folder}")))?;
    if !names.iter().any(|name| name == VOTE_NAME) {
        return Err(LogError::Unformatted(folder.to_owned()));
    }
    let mut recovery = Recovery {
        storage,
        folder,
        options: &options,
        files: Vec::new(),
        found: Vec::new(),
        chain: Chain::START,
        ballot_max: Ballot::NONE,
        applied: Slot::NONE,
        footers_damaged: 0,
        torn_bytes: 0,
    };
    recovery.open_segments(&names)?;
    let broken = recovery.walk()?;
    recovery.judge_end(&broken)?;
    let (vote_file, vote, vote_repaired) = vote::load(recovery.storage, folder, &options)?;
    if recovery.files.is_empty() {
        recovery.create_first(vote.sequence)?;
    }
    recovery.remove_temporaries(&names)?;
    let promised = vote.ballot.max(recovery.ballot_max);
    let mut recovered = LogRecovered {
        promised,
        chosen: recovery.chain.chosen.max(recovery.applied),
        entries: recovery.chain.sequence - 1,
        torn_bytes: recovery.torn_bytes,
        footers_damaged: recovery.footers_damaged,
        vote_repaired,
        ..LogRecovered::default()
    };
    let unattested = recovery.is_unattested();
    let index = recovery.build_index();
    recovered.accepted = recovery.read_accepted(&index, recovered.chosen)?;
    let active = index.active().number;
    let spares: VecDeque<_> =
        (active + 1..).zip(recovery.files.iter().skip(active as usize).copied()).collect();
    let chain = recovery.chain;
    let second_write = options.second_write_bytes_min;
    let writer =
        Writer::new(chain.sequence, chain.previous, recovered.chosen, second_write, unattested);
    let log = Log {
        folder: folder.to_owned(),
        tokens: Tokens::new(options.group),
        index,
        writer,
        vote: VoteWriter::new(vote_file, vote),
        preparer: Preparer::new(active, spares),
        reads: Reads::default(),
        replay_through: recovered.chosen,
        failure: None,
        stats: LogStats::default(),
        options,
    };
    Ok((log, recovered))
}

/// The numbers of the segments in a folder; they must be 1, 2, 3… without a gap.
pub(super) fn segment_numbers(folder: &str, names: &[String]) -> Result<Vec<u64>, Damage> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    for (number, expected) in numbers.iter().zip(1..) {
        if *number != expected {
            let name = join(folder, &segment_name(expected));
            let why = format!("the segment is missing, but segment {number:x} stands");
            return Err(Damage::new(&name, 0, None, why));
        }
    }
    Ok(numbers)
}

impl<S: Storage> Recovery<'_, S> {
    fn name(&self, number: u64) -> String {
        join(self.folder, &segment_name(number))
    }

    fn place(&self, number: u64, generation: u32) -> Place {
        self.options.place(number, generation)
    }

    fn reader(&self, number: u64) -> SegmentReader {
        let file = self.files[number as usize - 1];
        let length = self.options.segment_bytes;
        SegmentReader::new(file, self.name(number), length, &self.options.pool)
    }

    /// Opens every segment and makes it durable before it is trusted: after a mere crash of the
    /// process its last writes may sit in the device's cache. Acting on them (an Accepted sent to
    /// a peer) and then losing them at a power loss would break a promise.
    fn open_segments(&mut self, names: &[String]) -> Result<(), LogError> {
        for number in segment_numbers(self.folder, names).map_err(LogError::Corrupt)? {
            let name = self.name(number);
            let file = self
                .storage
                .open(&name, FileOptions::ReadWrite)
                .map_err(LogError::io(format!("opening {name}")))?;
            self.files.push(file);
            if !planted(Mutant::RecoveredNotFlushed) {
                let syncing = LogError::io(format!("flushing {name}"));
                self.storage.sync(file).map_err(syncing)?;
            }
            let measuring = LogError::io(format!("measuring {name}"));
            let length = self.storage.len(file).map_err(measuring)?;
            if length != self.options.segment_bytes {
                let expected = self.options.segment_bytes;
                let why = format!("the segment is {length} bytes long, not {expected}");
                return Err(LogError::Corrupt(Damage::new(&name, length, None, why)));
            }
        }
        let folder = self.folder;
        self.storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
    }

    /// Walks the chain through the segments; returns where it ended.
    fn walk(&mut self) -> Result<(u64, Broken), LogError> {
        let mut end = None;
        for number in 1..=self.files.len() as u64 {
            let mut reader = self.reader(number);
            let length = reader.length;
            let block = reader.at(self.storage, 0, BLOCK_SIZE)?;
            let place = self.place(number, generation_of(block));
            match judge_start(block, &place, length, &self.chain) {
                Start::Continues => {}
                Start::Empty => break,
                Start::Foreign(why) => return Err(LogError::Foreign { file: reader.name, why }),
                // The segment before is full of zeros from some place on, where entries are
                // missing: that place is what is told of.
                Start::Gap(_) if self.found.last().is_some_and(|f| f.footer.is_none()) => break,
                Start::Broken(why) | Start::Gap(why) => {
                    // Either the segment before lacks its last entries, or this header is
                    // damaged: said of the place where something stands that is wrong.
                    let clean = end.as_ref().is_none_or(|(_, broken): &(_, Broken)| broken.empty);
                    if clean {
                        end = Some((number, Broken { offset: 0, slot: None, why, empty: false }));
                    }
                    break;
                }
            }
            end = Some((number, self.walk_segment(&mut reader, &place)?));
        }
        let nothing = Broken { offset: 0, slot: None, why: "no entry stands".into(), empty: true };
        Ok(end.unwrap_or((1, nothing)))
    }

    fn walk_segment(
        &mut self,
        reader: &mut SegmentReader,
        place: &Place,
    ) -> Result<Broken, LogError> {
        let mut rows = Vec::new();
        let ballot_max = &mut self.ballot_max;
        let mut visit = |header: &EntryHeader, _: &[u8]| {
            *ballot_max = header.ballot.max(*ballot_max);
            let slot = if header.kind == EntryKind::Mark { Slot::NONE } else { header.slot };
            rows.push(Row {
                slot,
                ballot: header.ballot,
                value_size: header.value_size,
                placement_bytes_max: header.placement_bytes_max,
            });
        };
        let first_sequence = self.chain.sequence;
        let start = BLOCK_SIZE as u64;
        let mut broken =
            walk_entries(reader, self.storage, place, start, &mut self.chain, &mut visit)?;
        let footer = match read_footer(reader, self.storage, place)? {
            FoundFooter::None => None,
            FoundFooter::Damaged(_) => {
                self.footers_damaged += 1;
                None
            }
            FoundFooter::Valid(trailer, entries) => Some((trailer, entries)),
        };
        let mut kept = None;
        if let Some((trailer, entries)) = footer {
            let count = rows.len() as u64;
            let same = u64::from(trailer.count) == count
                && trailer.first_sequence == first_sequence
                && trailer.last == self.chain.previous
                && footer::tells_of(
                    &entries,
                    rows.iter().map(|row| (row.slot, row.ballot, row.value_size)),
                );
            if u64::from(trailer.count) > count && !planted(Mutant::DamageTruncated) {
                let Broken { offset, slot, why, .. } = broken;
                let why = format!("{why}; the index footer proves that it had been durable");
                return Err(LogError::Corrupt(Damage::new(&reader.name, offset, slot, why)));
            }
            if same {
                self.applied = self.applied.max(trailer.chosen);
                // The footer stands where the chain's end was found: nothing is torn here.
                broken.empty = true;
                kept = Some((trailer, entries));
            } else {
                self.footers_damaged += 1;
            }
        }
        self.found.push(Found {
            number: place.segment,
            generation: place.generation,
            rows,
            footer: kept,
            tail: broken.offset,
            last: self.chain.previous,
        });
        Ok(broken)
    }

    /// Decides between torn tail and damage, and cuts the torn tail.
    fn judge_end(&mut self, end: &(u64, Broken)) -> Result<(), LogError> {
        let (number, broken) = end;
        let missing = self.chain.sequence;
        let mut remains = Vec::new();
        let first = self.found.last().map_or(1, |found| found.number);
        for behind in first..=self.files.len() as u64 {
            let mut reader = self.reader(behind);
            let block = reader.at(self.storage, 0, BLOCK_SIZE)?;
            let place = self.place(behind, generation_of(block));
            let walked = self.found.last().filter(|found| found.number == behind);
            if walked.is_some_and(|found| found.footer.is_some()) {
                continue;
            }
            let from = walked.map_or(0, |found| found.tail);
            let seen = look_behind(&mut reader, self.storage, &place, from, missing)?;
            if let Some(proof) = seen.proof
                && !planted(Mutant::DamageTruncated)
            {
                let why =
                    format!("{}; {proof} proves that entry {missing} had been durable", broken.why);
                let damage = Damage::new(&self.name(*number), broken.offset, broken.slot, why);
                return Err(LogError::Corrupt(damage));
            }
            remains
                .extend(seen.remains.into_iter().map(|(offset, length)| (behind, offset, length)));
        }
        for (behind, offset, length) in &remains {
            self.write_zeros(*behind, *offset, *length)?;
            self.torn_bytes += length;
        }
        let mut cut: Vec<u64> = remains.iter().map(|(behind, ..)| *behind).collect();
        cut.dedup();
        for behind in cut {
            let file = self.files[behind as usize - 1];
            let name = self.name(behind);
            self.storage.sync(file).map_err(LogError::io(format!("flushing {name}")))?;
        }
        Ok(())
    }

    fn write_zeros(&mut self, number: u64, offset: u64, length: u64) -> Result<(), LogError> {
        let file = self.files[number as usize - 1];
        let name = self.name(number);
        zero_fill(self.storage, file, &name, offset, length, self.options)
    }

    fn create_first(&mut self, vote_sequence: u64) -> Result<(), LogError> {
        let name = self.name(1);
        if vote_sequence > 1 {
            let why = "the segment is missing, but this node has voted".to_owned();
            return Err(LogError::Corrupt(Damage::new(&name, 0, None, why)));
        }
        let temporary = join(self.folder, &segment_temporary(1));
        let names = self.storage.list(self.folder).map_err(LogError::io("listing".into()))?;
        if names.iter().any(|found| *found == segment_temporary(1)) {
            self.storage
                .remove(&temporary)
                .map_err(LogError::io(format!("removing {temporary}")))?;
        }
        let creating = || LogError::io(format!("creating {name}"));
        let file = self.storage.open(&temporary, FileOptions::CreateNew).map_err(creating())?;
        let bytes = self.options.segment_bytes;
        zero_fill(self.storage, file, &name, 0, bytes, self.options)?;
        self.storage.sync(file).map_err(creating())?;
        self.storage.rename(&temporary, &name).map_err(creating())?;
        self.storage.sync_folder(self.folder).map_err(creating())?;
        self.files.push(file);
        Ok(())
    }

    fn remove_temporaries(&mut self, names: &[String]) -> Result<(), LogError> {
        let standing = self.storage.list(self.folder).map_err(LogError::io("listing".into()))?;
        for name in names.iter().filter(|name| is_segment_temporary(name)) {
            if standing.contains(name) {
                let name = join(self.folder, name);
                self.storage.remove(&name).map_err(LogError::io(format!("removing {name}")))?;
            }
        }
        Ok(())
    }

    /// Whether nothing behind the last entry says that it had been durable: rot of it would look
    /// like a torn tail.
    fn is_unattested(&self) -> bool {
        let is_mark = |row: &Row| row.slot == Slot::NONE;
        self.found
            .last()
            .is_some_and(|last| last.footer.is_none() && !last.rows.last().is_some_and(is_mark))
    }

    fn build_index(&mut self) -> Index {
        let generation = self.found.first().map_or(GENERATION_FIRST, |found| found.generation);
        let first = Segment::new(1, generation, 1);
        let mut index = Index::new(self.options.segment_bytes, first);
        for (at, found) in std::mem::take(&mut self.found).into_iter().enumerate() {
            if at > 0 {
                index.begin_next();
                index.active_mut().generation = found.generation;
            }
            let file = self.files[at];
            match found.footer {
                Some((trailer, entries)) => {
                    index.add_indexed(&entries, found.tail, trailer.size() as u32);
                    self.storage.close(file);
                }
                None => {
                    for row in found.rows {
                        let room = row.placement_bytes_max;
                        index.push(row.slot, row.ballot, row.value_size, room);
                    }
                    if index.active().room > 0 && planted(Mutant::RoomForgottenAtRestart) {
                        index.active_mut().room = 0;
                    }
                    index.active_mut().file = Some(file);
                    assert_eq!(index.active().tail, found.tail, "the index follows the walk");
                }
            }
            index.active_mut().last = found.last;
        }
        if index.active().count == 0 && index.active().file.is_none() {
            index.active_mut().file = self.files.first().copied();
        }
        assert_eq!(index.next_sequence(), self.chain.sequence, "the index follows the walk");
        index
    }

    fn read_accepted(
        &mut self,
        index: &Index,
        chosen: Slot,
    ) -> Result<Vec<(Slot, Ballot, crate::base::Batch)>, LogError> {
        let mut accepted = Vec::new();
        for slot in index.dense_above(chosen) {
            let found = index.dense(slot).expect("listed by the index");
            let segment = index.segment(found.segment).expect("listed by the index");
            let name = self.name(found.segment);
            let file = segment.file.expect("a segment in memory is open");
            let size = block_align(ENTRY_HEADER_SIZE + found.entry.value_size as usize);
            let mut buffer = self.options.pool.take(size);
            let offset = u64::from(found.entry.offset);
            let read = self
                .storage
                .read_at(file, offset, &mut buffer, size)
                .map_err(LogError::io(format!("reading {name}")))?;
            let place = self.place(found.segment, segment.generation);
            let batch = open_entry(buffer, read, &place, &found.entry)
                .map_err(|why| LogError::Corrupt(Damage::new(&name, offset, Some(slot), why)))?;
            accepted.push((slot, found.entry.ballot, batch));
        }
        Ok(accepted)
    }
}

fn zero_fill<S: Storage>(
    storage: &mut S,
    file: FileId,
    name: &str,
    offset: u64,
    length: u64,
    options: &LogOptions,
) -> Result<(), LogError> {
    let mut zeros = options.pool.take(ZERO_BYTES);
    zeros.fill(0);
    let mut done = 0;
    while done < length {
        let chunk = usize::try_from(length - done).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
        storage
            .write_at(file, offset + done, &zeros, chunk)
            .map_err(LogError::io(format!("writing zeros to {name}")))?;
        done += chunk as u64;
    }
    Ok(())
}
