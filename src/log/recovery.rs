//! Start-up: from the files of a group's folder to a [`Log`], or to an exact refusal.
//!
//! A sealed segment is taken by its footer, and its entries are not read: when the footer is whole and
//! of this place, continues the chain, and the next segment's header follows from it. Then every
//! entry of it had been durable and applied when the footer was written, and the chain goes on behind
//! it. What is not read here is verified afterwards (`scrub.rs`). Every other segment is walked,
//! entry by entry; the log's last entries always are. So a footer that is damaged is made again, and one
//! that the system does not read too, if the next segment follows from the entries that stand: else it
//! may tell of more, and what cannot be read is never taken for a torn tail.
//!
//! Where the chain ends (`walk.rs` judges what stands there) something may have to be cut:
//!
//! - a tear, which nobody was told of: the node votes on;
//! - damage above the checkpoints, in segments that are not sealed, of a node that has peers: what is cut may
//!   have been acknowledged, and the node starts without a vote, until it has it again (`cut.rs`);
//! - any other damage is refused ([`LogError::Corrupt`]): below a checkpoint, in a sealed segment, of the
//!   promise file, and all damage of a cluster of one.
//!
//! A footer needs no such judgement: it is derived from entries, and made again. The promise file and
//! checkpoints have second copies.
//!
//! Everything is read and judged before anything is changed. The changes then are: the promise file is
//! brought up to the entries' ballots, the record of what will be cut is made, what is cut is
//! overwritten with zeros and flushed (so that its remains can never be taken for entries again,
//! whatever is written over a part of them later), the first segment is created, left-over
//! temporary files are removed.

mod checkpoints;

use std::collections::VecDeque;

use tracing::warn;

use crate::base::limits::{BLOCK_SIZE, MIB};
use crate::base::mutants::{Mutant, planted};
use crate::base::sectors::entry_size;
use crate::base::{Ballot, Checksum, Slot};
use crate::io::{FileId, FileOptions, Storage};

use super::checkpoint::{CHECKPOINT_TEMPORARY, CheckpointHeader, Checkpointer};
use super::cut::{self, CUT_TEMPORARY, CutKind, CutRecord};
use super::footer::{self, Trailer};
use super::format::{
    EntryHeader, EntryKind, GENERATION_FIRST, Place, SegmentHeader, is_segment_temporary, join,
    segment_name, segment_number, segment_temporary,
};
use super::index::{Index, IndexEntry, Indexed, Segment, applied_runs};
use super::marker::{self, Marker, MarkerWriter};
use super::owned::Owner;
use super::prepare::{Preparer, SPARES_OPEN_MAX};
use super::reads::{Reads, open_entry};
use super::scrub::Scrubber;
use super::vote::{self, VOTE_NAME, VoteWriter};
use super::walk::{
    Broken, Chain, ChainEnd, FoundFooter, READ_AHEAD_BYTES, SegmentReader, Start, generation_of,
    header_at, is_blank, judge_broken_start, judge_start, look_behind, read_footer, walk_entries,
};
use super::writer::Writer;
use super::{Damage, Log, LogError, LogOptions, LogRecovered, LogStats, Restore, Tokens};
use checkpoints::{Covering, Taken};

/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = MIB;
/// The last so many segments stay open from their flush on; others are opened again if they are
/// needed. (A large log has more segments than a process may have files open.)
const FILES_KEPT_OPEN: usize = 16;

pub(super) fn format<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
    segments: u64,
) -> Result<(), LogError> {
    options.validate()?;
    let making = || LogError::io(format!("making folder {folder}"));
    storage.create_folder(folder).map_err(making())?;
    if !storage.list(folder).map_err(making())?.is_empty() {
        return Err(LogError::NotEmpty(folder.to_owned()));
    }
    vote::create(storage, folder, options)?;
    for number in 1..=segments {
        let file = create_segment(storage, folder, number, options)?;
        storage.close(file);
    }
    storage.sync_folder(folder).map_err(making())
}

/// Makes a segment full of zeros, which is whole and durable once it has its name (and its name is
/// once the folder is flushed).
fn create_segment<S: Storage>(
    storage: &mut S,
    folder: &str,
    number: u64,
    options: &LogOptions,
) -> Result<FileId, LogError> {
    let name = join(folder, &segment_name(number));
    let temporary = join(folder, &segment_temporary(number));
    let creating = || LogError::io(format!("creating {name}"));
    let file = storage.open(&temporary, FileOptions::CreateNew).map_err(creating())?;
    zero_fill(storage, file, &name, 0, options.segment_bytes, options)?;
    storage.sync(file).map_err(creating())?;
    storage.rename(&temporary, &name).map_err(creating())?;
    Ok(file)
}

/// What is to be done about the log's end.
struct Verdict {
    /// What is not blank behind it: segment, offset, length.
    remains: Vec<(u64, u64, u64)>,
    /// What is to be said of that.
    record: Option<CutRecord>,
}

/// One segment as it was found.
struct Found {
    number: u64,
    generation: u32,
    first_sequence: u64,
    /// The checksum of the header before its first entry's.
    previous: Checksum,
    /// Of every entry; empty when there is a footer.
    rows: Vec<Row>,
    footer: Option<FoundIndex>,
    tail: u64,
    /// The checksum of its last entry's header, for the footer.
    last: Checksum,
}

/// What a segment's footer tells.
struct FoundIndex {
    indexed: Indexed,
    /// The slots that it tells to be applied, in runs.
    applied: Vec<(Slot, Slot)>,
    /// Its entries have not been read.
    unread: bool,
}

/// What the index needs of an entry on disk.
struct Row {
    slot: Slot,
    ballot: Ballot,
    value_size: u32,
    placement_bytes_max: u32,
    chosen: Slot,
}

struct Recovery<'a, S: Storage> {
    storage: &'a mut S,
    folder: &'a str,
    options: &'a LogOptions,
    /// The segments' files by number from 1, where they are open.
    files: Vec<Option<FileId>>,
    found: Vec<Found>,
    chain: Chain,
    ballot_max: Ballot,
    /// Highest slot that a footer tells to have been applied.
    applied: Slot,
    footers_damaged: u32,
    torn_bytes: u64,
    /// Checkpoints that were read and are wrong.
    wrong: Vec<String>,
    /// Everything up to this sequence had been durable when a marker of damage was left.
    marked: u64,
}

pub(super) fn open<S: Storage>(
    storage: &mut S,
    folder: &str,
    mut options: LogOptions,
    restore: Option<&mut Restore<'_>>,
) -> Result<(Log, LogRecovered), LogError> {
    options.validate()?;
    let names = storage.list(folder).map_err(LogError::io(format!("listing {folder}")))?;
    if !names.iter().any(|name| name == VOTE_NAME) {
        return Err(LogError::Unformatted(folder.to_owned()));
    }
    let marked = marker::find(storage, folder, &names, &Owner::of(&options), &options.pool);
    if let Some(Marker { what, .. }) = &marked {
        warn!(folder, damage = %what, "damage was found while the log ran: this start verifies everything");
        options.verify_at_start = true;
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
        wrong: Vec::new(),
        marked: marked.as_ref().map_or(0, |marker| marker.durable),
    };
    recovery.open_segments(&names)?;
    let checkpoints = recovery.read_checkpoints(&names)?;
    let broken = recovery.walk()?;
    let verdict = recovery.judge_end(&broken, &checkpoints)?;
    let (vote_file, vote, vote_repaired) =
        vote::load(recovery.storage, folder, &options, recovery.ballot_max)?;
    let cut = recovery.cut(verdict, &names)?;
    if recovery.files.is_empty() {
        recovery.create_first(vote.sequence)?;
    }
    recovery.remove_temporaries(&names)?;
    let checkpoints = recovery.of_this_log(checkpoints)?;
    let newest = checkpoints.first().map(|(_, header)| *header);
    let taken = match restore {
        Some(restore) => {
            let taken = recovery.take_checkpoint(&checkpoints, restore)?;
            recovery.remove_wrong()?;
            taken
        }
        None => None,
    };
    let promised = vote.ballot.max(recovery.ballot_max);
    let covered = newest.map_or(Slot::NONE, |header| header.slot);
    let mut recovered = LogRecovered {
        promised,
        // What a checkpoint covers had been chosen, and stands in the log that follows from it.
        chosen: recovery.chain.chosen.max(recovery.applied).max(covered),
        entries: recovery.chain.sequence - 1,
        torn_bytes: recovery.torn_bytes,
        cut,
        footers_damaged: recovery.footers_damaged,
        vote_repaired,
        checkpoint: taken.as_ref().map_or(Slot::NONE, |taken| taken.header.slot),
        marked: marked.is_some(),
        ..LogRecovered::default()
    };
    let unattested = recovery.is_unattested();
    let unread = recovery.unread();
    let index = recovery.build_index(taken)?;
    recovered.accepted = recovery.read_accepted(&index, recovered.chosen)?;
    let active = index.active().number;
    let spares = recovery.open_spares(active)?;
    let prepared_through = recovery.files.len() as u64;
    let chain = recovery.chain;
    let second_write = options.second_write_bytes_min;
    // Every segment was made durable before it was read.
    let accepted_max = recovered.accepted.last().map_or(Slot::NONE, |(slot, ..)| *slot);
    let durable_slot = recovered.chosen.max(accepted_max);
    let writer =
        Writer::new(chain.sequence, chain.previous, recovered.chosen, second_write, unattested);
    let log = Log {
        folder: folder.to_owned(),
        tokens: Tokens::new(options.group),
        index,
        writer,
        vote: VoteWriter::new(vote_file, vote),
        preparer: Preparer::new(active, prepared_through, spares),
        reads: Reads::default(),
        checkpointer: Checkpointer::new(newest.as_ref()),
        scrubber: Scrubber::new(unread),
        marker: MarkerWriter::default(),
        marked: marked.is_some(),
        replay_through: recovered.chosen,
        replayed_bytes: 0,
        failure: None,
        stats: LogStats { durable_slot, ..LogStats::default() },
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

    /// The segment's file, opened if it is not.
    fn file(&mut self, number: u64) -> Result<FileId, LogError> {
        let at = number as usize - 1;
        if let Some(file) = self.files[at] {
            return Ok(file);
        }
        let name = self.name(number);
        let opening = LogError::io(format!("opening {name}"));
        let file = self.storage.open(&name, FileOptions::ReadWrite).map_err(opening)?;
        self.files[at] = Some(file);
        Ok(file)
    }

    fn close(&mut self, number: u64) {
        if let Some(file) = self.files[number as usize - 1].take() {
            self.storage.close(file);
        }
    }

    fn reader(&mut self, number: u64) -> Result<SegmentReader, LogError> {
        let file = self.file(number)?;
        let length = self.options.segment_bytes;
        let mut reader = SegmentReader::new(file, self.name(number), length, &self.options.pool);
        reader.unread_is_damage = self.options.has_peers;
        Ok(reader)
    }

    /// Opens every segment and makes it durable before it is trusted: after a mere crash of the
    /// process its last writes may sit in the device's cache. Acting on them (an Accepted sent to
    /// a peer) and then losing them at a power loss would break a promise.
    fn open_segments(&mut self, names: &[String]) -> Result<(), LogError> {
        let numbers = segment_numbers(self.folder, names).map_err(LogError::Corrupt)?;
        let kept_from = numbers.len().saturating_sub(FILES_KEPT_OPEN) as u64;
        for number in numbers {
            let name = self.name(number);
            self.files.push(None);
            let file = self.file(number)?;
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
            if number <= kept_from {
                self.close(number);
            }
        }
        let folder = self.folder;
        self.storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
    }

    // ---- the walk ---------------------------------------------------------------------------

    /// Walks the chain through the segments; returns where it ended.
    fn walk(&mut self) -> Result<(u64, Broken), LogError> {
        let mut end = None;
        for number in 1..=self.files.len() as u64 {
            let mut reader = self.reader(number)?;
            reader.read_ahead = BLOCK_SIZE;
            let length = reader.length;
            let judged = match reader.at(self.storage, 0, BLOCK_SIZE) {
                Err(error) if self.options.has_peers => Err((error.to_string(), ChainEnd::Damaged)),
                block => {
                    let block = block?;
                    let place = self.options.place(number, generation_of(block));
                    Ok((place, judge_start(block, &place, length, &self.chain)))
                }
            };
            // Either the segment before lacks its last entries, or this header is damaged: said of the
            // place where something stands that is wrong.
            let is_told = end.as_ref().is_some_and(|(_, broken): &(_, Broken)| !broken.is_empty());
            let judged = match judged {
                Ok((place, Start::Continues)) => Ok(place),
                Ok((_, Start::Empty)) => break,
                Ok((_, Start::Foreign(why))) => {
                    return Err(LogError::Foreign { file: reader.name, why });
                }
                // The segment before is full of zeros from some place on, where entries are
                // missing: that place is what is told of.
                Ok((_, Start::Gap(_))) if self.found.last().is_some_and(|f| f.footer.is_none()) => {
                    break;
                }
                _ if is_told => break,
                Ok((_, Start::Gap(why))) => Err((why, ChainEnd::Damaged)),
                Ok((_, Start::Broken(why, blank))) => {
                    Err((why, judge_broken_start(&mut reader, self.storage, blank)?))
                }
                Err(unread) => Err(unread),
            };
            let place = match judged {
                Ok(place) => place,
                Err((why, kind)) => {
                    end = Some((number, Broken { offset: 0, slot: None, why, end: kind }));
                    break;
                }
            };
            let broken = match self.take_by_footer(&mut reader, &place)? {
                Some(broken) => broken,
                None => {
                    reader.read_ahead = READ_AHEAD_BYTES;
                    self.walk_segment(&mut reader, &place)?
                }
            };
            if self.found.last().is_some_and(|found| found.footer.is_some()) {
                drop(reader);
                self.close(number);
            }
            end = Some((number, broken));
        }
        let (why, kind) = ("no entry stands".into(), ChainEnd::Empty);
        let nothing = Broken { offset: 0, slot: None, why, end: kind };
        Ok(end.unwrap_or((1, nothing)))
    }

    /// Takes the segment, whose header continues the chain, without a look at its entries, if its
    /// footer and the next segment vouch for them. The footer alone would not do: one that was put
    /// here from another life of this log may be whole, and tell of other entries.
    fn take_by_footer(
        &mut self,
        reader: &mut SegmentReader,
        place: &Place,
    ) -> Result<Option<Broken>, LogError> {
        let number = place.segment;
        if self.options.verify_at_start || number as usize >= self.files.len() {
            return Ok(None);
        }
        let FoundFooter::Valid(trailer, entries) = read_footer(reader, self.storage, place) else {
            return Ok(None);
        };
        let Ok(tail) = footer::tail_of(&trailer, &entries, reader.length) else {
            return Ok(None);
        };
        let next = Chain {
            sequence: self.chain.sequence + u64::from(trailer.count),
            previous: trailer.last,
            chosen: self.chain.chosen.max(trailer.told),
        };
        let linked = trailer.first_sequence == self.chain.sequence
            && self.header_of(number + 1)?.is_some_and(|header| next.goes_on_in(&header));
        if !linked && !planted(Mutant::FooterWithoutChain) {
            return Ok(None);
        }
        self.add_by_footer(place, &trailer, &entries, true, self.chain);
        self.chain = next;
        let why = "the index footer ends its segment".to_owned();
        Ok(Some(Broken { offset: tail, slot: None, why, end: ChainEnd::Empty }))
    }

    /// A segment's header, if it stands, whole and where it belongs.
    fn header_of(&mut self, number: u64) -> Result<Option<SegmentHeader>, LogError> {
        if number as usize > self.files.len() {
            return Ok(None);
        }
        let mut reader = self.reader(number)?;
        reader.read_ahead = BLOCK_SIZE;
        let block = reader.at(self.storage, 0, BLOCK_SIZE)?;
        let place = self.options.place(number, generation_of(block));
        Ok(header_at(block, &place, self.options.segment_bytes))
    }

    /// Notes a segment with a footer; `start`: where the chain stood before it.
    fn add_by_footer(
        &mut self,
        place: &Place,
        trailer: &Trailer,
        entries: &[IndexEntry],
        unread: bool,
        start: Chain,
    ) {
        let tail = footer::tail_of(trailer, entries, self.options.segment_bytes);
        let tail = tail.expect("held against the segment before");
        let indexed = Indexed::of(entries, tail, trailer.size() as u32);
        self.applied = self.applied.max(trailer.chosen);
        self.ballot_max = self.ballot_max.max(indexed.ballot_max);
        let applied = applied_runs(entries);
        self.found.push(Found {
            number: place.segment,
            generation: place.generation,
            first_sequence: start.sequence,
            previous: start.previous,
            rows: Vec::new(),
            footer: Some(FoundIndex { indexed, applied, unread }),
            tail,
            last: trailer.last,
        });
    }

    /// The segments whose entries have not been read.
    fn unread(&self) -> VecDeque<u64> {
        let unread = |found: &&Found| found.footer.as_ref().is_some_and(|footer| footer.unread);
        self.found.iter().filter(unread).map(|found| found.number).collect()
    }

    fn walk_segment(
        &mut self,
        reader: &mut SegmentReader,
        place: &Place,
    ) -> Result<Broken, LogError> {
        let footer = read_footer(reader, self.storage, place);
        let next = match &footer {
            // Its blocks are not walked into.
            FoundFooter::Unread(_) => self.header_of(place.segment + 1)?,
            _ => None,
        };
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
                chosen: header.chosen,
            });
        };
        let start = self.chain;
        let from = BLOCK_SIZE as u64;
        let until = next.map_or(u64::MAX, |header| header.first_sequence);
        let chain = &mut self.chain;
        let mut broken = walk_entries(reader, self.storage, place, from, until, chain, &mut visit)?;
        let lost = match footer {
            FoundFooter::None => None,
            FoundFooter::Damaged(why) => Some(why),
            // It may tell of more entries, unless the next segment follows from those that stand.
            FoundFooter::Unread(error) => {
                if !next.is_some_and(|header| self.chain.goes_on_in(&header)) {
                    if !self.options.has_peers {
                        return Err(error);
                    }
                    (broken.end, broken.why) = (ChainEnd::Damaged, error.to_string());
                }
                Some(error.to_string())
            }
            FoundFooter::Valid(trailer, entries) => {
                if self.is_footer_of(&trailer, &entries, &rows, &start, &broken, reader)? {
                    // The footer stands where the chain's end was found: nothing is torn here.
                    broken.end = ChainEnd::Empty;
                    self.add_by_footer(place, &trailer, &entries, false, start);
                    return Ok(broken);
                }
                Some("it tells of other entries than those that stand".to_owned())
            }
        };
        if let Some(why) = lost {
            let file = &reader.name;
            warn!(file, %why, "an index footer is of no use: it is made again from the entries");
            self.footers_damaged += 1;
        }
        self.found.push(Found {
            number: place.segment,
            generation: place.generation,
            first_sequence: start.sequence,
            previous: start.previous,
            rows,
            footer: None,
            tail: broken.offset,
            last: self.chain.previous,
        });
        Ok(broken)
    }

    /// Whether a segment's footer tells of its entries, which were walked from `start` on.
    ///
    /// # Errors
    /// It tells of more: then what is missing had been durable.
    fn is_footer_of(
        &self,
        trailer: &Trailer,
        entries: &[IndexEntry],
        rows: &[Row],
        start: &Chain,
        broken: &Broken,
        reader: &SegmentReader,
    ) -> Result<bool, LogError> {
        let count = rows.len() as u64;
        if u64::from(trailer.count) > count && !planted(Mutant::DamageTruncated) {
            let Broken { offset, slot, why, .. } = broken;
            let why = format!("{why}; the index footer proves that it had been durable");
            return Err(LogError::Corrupt(Damage::new(&reader.name, *offset, *slot, why)));
        }
        let told = rows.iter().map(|row| row.chosen).max().unwrap_or_default();
        let standing = rows.iter().map(|row| (row.slot, row.ballot, row.value_size));
        Ok(u64::from(trailer.count) == count
            && trailer.first_sequence == start.sequence
            && trailer.last == self.chain.previous
            && (trailer.told == Slot::NONE || trailer.told == told)
            && footer::tail_of(trailer, entries, reader.length).is_ok()
            && footer::tells_of(entries, standing))
    }

    /// Decides between torn tail and damage, and what follows. Changes nothing.
    fn judge_end(
        &mut self,
        end: &(u64, Broken),
        checkpoints: &[(String, CheckpointHeader)],
    ) -> Result<Verdict, LogError> {
        let (number, broken) = end;
        let missing = self.chain.sequence;
        let covering = self.checkpoint_ahead(missing, checkpoints);
        let is_covered = covering.is_some();
        let mut proof = self.marker_ahead(missing).or(covering);
        let (mut remains, mut is_sealed) = (Vec::new(), false);
        let last = self.found.last().map_or(0, |found| found.number);
        for behind in last.max(1)..=self.files.len() as u64 {
            let mut reader = self.reader(behind)?;
            if is_blank(&mut reader, self.storage, behind - last)? {
                self.close(behind);
                continue;
            }
            let generation = match reader.at(self.storage, 0, BLOCK_SIZE) {
                Err(_) if self.options.has_peers => GENERATION_FIRST,
                block => generation_of(block?),
            };
            let place = self.options.place(behind, generation);
            let walked = self.found.last().filter(|found| found.number == behind);
            if walked.is_some_and(|found| found.footer.is_some()) {
                continue;
            }
            let from = walked.map_or(0, |found| found.tail);
            let seen = look_behind(&mut reader, self.storage, &place, from, missing)?;
            is_sealed |= seen.sealed;
            proof = proof.or(seen.proof);
            remains
                .extend(seen.remains.into_iter().map(|(offset, length)| (behind, offset, length)));
        }
        let proof = proof.filter(|_| !planted(Mutant::DamageTruncated));
        let why = match proof {
            Some(proof) => {
                format!("{}; {proof} proves that entry {missing} had been durable", broken.why)
            }
            None if broken.end == ChainEnd::Damaged
                && !planted(Mutant::DamageTakenForTear)
                && !planted(Mutant::DamageTruncated) =>
            {
                broken.why.clone()
            }
            None => {
                let record = (!remains.is_empty()).then(|| CutRecord {
                    kind: CutKind::Torn,
                    what: format!(
                        "{} at offset {}: {}",
                        self.name(*number),
                        broken.offset,
                        broken.why
                    ),
                });
                return Ok(Verdict { remains, record });
            }
        };
        let damage = Damage::new(&self.name(*number), broken.offset, broken.slot, why);
        if is_covered || is_sealed || !self.options.has_peers {
            return Err(LogError::Corrupt(damage));
        }
        let record = CutRecord { kind: CutKind::Damaged, what: damage.to_string() };
        Ok(Verdict { remains, record: Some(record) })
    }

    /// Cuts what is to be cut, after its record is durable. Returns the record that stands then.
    fn cut(&mut self, verdict: Verdict, names: &[String]) -> Result<Option<CutRecord>, LogError> {
        let (owner, pool) = (Owner::of(self.options), &self.options.pool);
        let mut stands = cut::find(self.storage, self.folder, names, &owner, pool);
        if let Some(record) = verdict.record
            && stands.as_ref().is_none_or(|stands| stands.kind < record.kind)
        {
            cut::write(self.storage, self.folder, self.options, &record)?;
            stands = Some(record);
        }
        for (behind, offset, length) in &verdict.remains {
            self.write_zeros(*behind, *offset, *length)?;
            self.torn_bytes += length;
        }
        let mut cut: Vec<u64> = verdict.remains.iter().map(|(behind, ..)| *behind).collect();
        cut.dedup();
        for behind in cut {
            let file = self.file(behind)?;
            let name = self.name(behind);
            self.storage.sync(file).map_err(LogError::io(format!("flushing {name}")))?;
        }
        Ok(stands)
    }

    /// The next prepared segments, open; all others behind `active` are closed.
    fn open_spares(&mut self, active: u64) -> Result<VecDeque<(u64, FileId)>, LogError> {
        let mut spares = VecDeque::new();
        for number in active + 1..=self.files.len() as u64 {
            match number <= active + SPARES_OPEN_MAX {
                true => spares.push_back((number, self.file(number)?)),
                false => self.close(number),
            }
        }
        Ok(spares)
    }

    fn write_zeros(&mut self, number: u64, offset: u64, length: u64) -> Result<(), LogError> {
        let file = self.file(number)?;
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
        let file = create_segment(self.storage, self.folder, 1, self.options)?;
        let flushing = LogError::io(format!("flushing {}", self.folder));
        self.storage.sync_folder(self.folder).map_err(flushing)?;
        self.files.push(Some(file));
        Ok(())
    }

    fn remove_temporaries(&mut self, names: &[String]) -> Result<(), LogError> {
        let standing = self.storage.list(self.folder).map_err(LogError::io("listing".into()))?;
        let is_temporary = |name: &&String| {
            is_segment_temporary(name) || *name == CHECKPOINT_TEMPORARY || *name == CUT_TEMPORARY
        };
        for name in names.iter().filter(is_temporary) {
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

    /// Builds the index from what was found, and closes the files of segments that it does not
    /// need open.
    fn build_index(&mut self, taken: Option<Taken>) -> Result<Index, LogError> {
        let generation = self.found.first().map_or(GENERATION_FIRST, |found| found.generation);
        let first = Segment::new(1, generation, 1);
        let mut index = Index::new(self.options.segment_bytes, first);
        let mut covering = Covering::of(taken);
        for (at, found) in std::mem::take(&mut self.found).into_iter().enumerate() {
            if at > 0 {
                index.begin_next();
                index.active_mut().generation = found.generation;
            }
            match found.footer {
                Some(footer) => {
                    index.add_indexed(footer.indexed, &footer.applied);
                    self.close(found.number);
                }
                None => {
                    covering.push_rows(&mut index, found.number, &found.rows);
                    if index.active().room > 0 && planted(Mutant::RoomForgottenAtRestart) {
                        index.active_mut().room = 0;
                    }
                    index.active_mut().file = Some(self.file(found.number)?);
                    assert_eq!(index.active().tail, found.tail, "the index follows the walk");
                    let told = found.rows.iter().map(|row| row.chosen).max();
                    index.active_mut().told = told.unwrap_or_default();
                }
            }
            index.active_mut().last = found.last;
        }
        covering.finish(&mut index);
        if index.active().count == 0 && index.active().file.is_none() && !self.files.is_empty() {
            index.active_mut().file = Some(self.file(1)?);
        }
        assert_eq!(index.next_sequence(), self.chain.sequence, "the index follows the walk");
        Ok(index)
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
            let size = entry_size(found.entry.value_size as usize);
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
