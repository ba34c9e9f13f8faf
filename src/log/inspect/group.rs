//! The inspection of one group's log: vote, segments, chain, footers, slots.
//!
//! It walks as recovery does, with the same judgements (`walk.rs`). Where the chain ends in
//! damage it takes it up again at the next header that stands in its place. A segment's file is open
//! only while it is read: a group may have more segments than a process may have files.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use crate::base::limits::BLOCK_SIZE;
use crate::base::{Ballot, BlockPool, GroupId, IncarnationTag, NodeId, Placement, Slot};
use crate::io::{FileId, FileOptions, Storage};

use super::footers::{self, FooterProblem, check_footer};
use super::report::{
    CheckpointReport, CutReport, FooterReport, GroupReport, NotRead, SegmentReport, VoteCopyReport,
};
use super::{InspectVisitor, InspectedSlot};
use crate::log::checkpoint::{self, CheckpointFile, CheckpointHeader};
use crate::log::cut;
use crate::log::format::{
    EntryHeader, EntryKind, Place, SegmentHeader, check_place, join, segment_name, segment_number,
};
use crate::log::marker::{self, MARKER_NAME};
use crate::log::owned::{Owner, VOTE};
use crate::log::recovery::segment_numbers;
use crate::log::vote::{self, VOTE_NAME, Vote};
use crate::log::walk::{
    Broken, Chain, ChainEnd, FoundFooter, SegmentReader, Start, generation_of, header_at, is_blank,
    judge_broken_start, judge_start, look_behind, read_footer, walk_entries,
};
use crate::log::{CutKind, CutRecord, Damage, Identity, LogError};

/// Whose log it should be; what is not known is learnt from the first thing that tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub group: GroupId,
    pub incarnation: Option<IncarnationTag>,
    pub node: Option<NodeId>,
    pub segment_bytes: Option<u64>,
}

impl Expected {
    pub fn of(identity: Option<&Identity>, group: GroupId) -> Expected {
        Expected {
            group,
            incarnation: identity.map(|identity| identity.incarnation.tag()),
            node: identity.map(|identity| identity.node),
            segment_bytes: identity.map(|identity| identity.segment_bytes),
        }
    }
}

struct SegmentFile {
    number: u64,
    name: String,
    length: u64,
    /// Where the verified entries end.
    tail: u64,
    /// The chain reached it.
    walked: bool,
    /// Whole, and says that it holds what stands before it: nothing lies behind its tail.
    closed: bool,
    /// Its header, where the chain went through it.
    header: Option<SegmentHeader>,
}

/// A place in the log: index of the segment, offset in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    index: usize,
    offset: u64,
}

/// Where the chain ended.
struct End {
    at: At,
    broken: Broken,
}

/// The value that stands for a slot until it is known to be chosen.
struct Accepted {
    ballot: Ballot,
    segment: u64,
    offset: u64,
    value: Vec<u8>,
}

/// What the entries bring, apart from the files (so that it can be lent to the walk).
struct Slots<'a> {
    visitor: &'a mut InspectVisitor<'a>,
    group: GroupId,
    folder: String,
    accepted: BTreeMap<Slot, Accepted>,
    /// What the footers seen so far tell of slots that have not been visited.
    placements: BTreeMap<Slot, Rc<Placement>>,
    /// Chosen slots up to here have been visited.
    settled: Slot,
    missing: Option<Damage>,
    superseded: u64,
}

impl Slots<'_> {
    fn note(&mut self, header: &EntryHeader, value: &[u8]) {
        self.settle(header.chosen);
        if header.kind == EntryKind::Mark {
            return;
        }
        if header.slot <= self.settled {
            self.superseded += 1;
            return;
        }
        let entry = Accepted {
            ballot: header.ballot,
            segment: header.place.segment,
            offset: header.offset,
            value: value.to_vec(),
        };
        if self.accepted.insert(header.slot, entry).is_some() {
            self.superseded += 1;
        }
    }

    /// Visits the slots up to `chosen`.
    fn settle(&mut self, chosen: Slot) {
        while self.settled < chosen {
            let Some(next) = self.accepted.first_entry().filter(|e| *e.key() <= chosen) else {
                self.note_missing(self.settled.next(), chosen);
                self.settled = chosen;
                return;
            };
            let (slot, entry) = next.remove_entry();
            if slot != self.settled.next() {
                self.note_missing(self.settled.next(), chosen);
            }
            self.settled = slot;
            self.visit(slot, &entry, true);
        }
    }

    fn note_missing(&mut self, slot: Slot, chosen: Slot) {
        let why = format!("the slot is missing, though everything up to {chosen} is chosen");
        let folder = &self.folder;
        self.missing.get_or_insert_with(|| Damage::new(folder, 0, Some(slot), why));
    }

    /// Takes what a footer tells, before the entries of its segment.
    fn note_footer(&mut self, footer: &FoundFooter) {
        self.placements = self.placements.split_off(&self.settled.next());
        if let FoundFooter::Valid(_, entries) = footer {
            let above = entries.iter().filter(|entry| entry.slot > self.settled);
            self.placements
                .extend(above.filter_map(|entry| Some((entry.slot, entry.placement()?))));
        }
    }

    fn visit(&mut self, slot: Slot, entry: &Accepted, chosen: bool) {
        let placement = self.placements.remove(&slot);
        (self.visitor)(&InspectedSlot {
            group: self.group,
            slot,
            ballot: entry.ballot,
            chosen,
            segment: entry.segment,
            offset: entry.offset,
            value: &entry.value,
            placement: placement.as_deref(),
        });
    }

    fn finish(&mut self) {
        for (slot, entry) in std::mem::take(&mut self.accepted) {
            self.visit(slot, &entry, false);
        }
    }
}

pub(super) struct GroupWalk<'a, S: Storage> {
    storage: &'a mut S,
    pool: &'a BlockPool,
    expected: Expected,
    files: Vec<SegmentFile>,
    /// The file of the segment that is being read.
    open: Option<FileId>,
    chain: Chain,
    /// The highest slot that a footer tells to have been applied.
    applied: Slot,
    ballot_max: Ballot,
    slot_max: Slot,
    /// The checkpoints whose headers are sound, with their files' names.
    checkpoints: Vec<(String, CheckpointHeader)>,
    /// The highest slot that one of them covers which belongs to this log.
    covered: Slot,
    /// Everything up to this sequence had been durable when a marker of damage was left.
    marked: u64,
    slots: Slots<'a>,
    report: GroupReport,
    damage: Vec<Damage>,
    not_read: Option<NotRead>,
    mended: Vec<Damage>,
}

/// What a walk through a group has found.
pub(super) struct Walked {
    pub group: GroupReport,
    pub damage: Vec<Damage>,
    pub not_read: Option<NotRead>,
    pub mended: Vec<Damage>,
}

impl<'a, S: Storage> GroupWalk<'a, S> {
    pub fn new<'v: 'a>(
        storage: &'a mut S,
        pool: &'a BlockPool,
        folder: &str,
        expected: Expected,
        visitor: &'a mut InspectVisitor<'v>,
    ) -> GroupWalk<'a, S> {
        let group = expected.group;
        // The visitor outlives the walk; only its own lifetime is shortened here.
        let visitor: &'a mut InspectVisitor<'a> = shorten(visitor);
        let slots = Slots {
            visitor,
            group,
            folder: folder.to_owned(),
            accepted: BTreeMap::new(),
            placements: BTreeMap::new(),
            settled: Slot::NONE,
            missing: None,
            superseded: 0,
        };
        GroupWalk {
            storage,
            pool,
            expected,
            files: Vec::new(),
            open: None,
            chain: Chain::START,
            applied: Slot::NONE,
            ballot_max: Ballot::NONE,
            slot_max: Slot::NONE,
            checkpoints: Vec::new(),
            covered: Slot::NONE,
            marked: 0,
            slots,
            report: GroupReport::new(group, folder),
            damage: Vec::new(),
            not_read: None,
            mended: Vec::new(),
        }
    }

    /// Walks everything, or as far as the system reads it.
    pub fn run(&mut self) {
        match self.walk_all() {
            Ok(()) => {}
            Err(LogError::Corrupt(damage)) => self.damage.push(damage),
            Err(LogError::Foreign { file, why }) => {
                self.damage.push(Damage::new(&file, 0, None, why));
            }
            // What is not there cannot be read either; all else is no word about the log.
            Err(LogError::Io { what, source }) if source.kind() != io::ErrorKind::NotFound => {
                self.not_read = Some(NotRead { what, why: source.to_string() });
            }
            Err(other) => {
                let why = other.to_string();
                self.damage.push(Damage::new(&self.report.folder, 0, None, why));
            }
        }
        self.close();
    }

    pub fn finish(mut self) -> Walked {
        let chosen = self.chain.chosen.max(self.applied).max(self.covered);
        self.slots.settle(chosen);
        self.slots.finish();
        // Behind damage, and what was not read, slots are missing because of it; that has been told.
        if self.damage.is_empty() && self.not_read.is_none() {
            self.damage.extend(self.slots.missing.take());
        }
        let report = &mut self.report;
        report.chosen = chosen.0;
        report.accepted = self.slot_max.0;
        report.superseded = self.slots.superseded;
        report.promised = self.ballot_max.into();
        for segment in &report.segments {
            report.entries += segment.entries;
            report.marks += segment.marks;
            report.entry_bytes += segment.entry_bytes;
            report.value_bytes += segment.value_bytes;
        }
        let (damage, not_read, mended) = (self.damage, self.not_read, self.mended);
        Walked { group: self.report, damage, not_read, mended }
    }

    fn walk_all(&mut self) -> Result<(), LogError> {
        let folder = self.report.folder.clone();
        let names = self
            .storage
            .list(&folder)
            .map_err(|source| LogError::Io { what: format!("listing {folder}"), source })?;
        let vote = match names.iter().any(|name| name == VOTE_NAME) {
            true => self.read_vote()?,
            false => {
                let name = join(&folder, VOTE_NAME);
                let why = "it is missing".to_owned();
                self.damage.push(Damage::new(&name, 0, None, why));
                None
            }
        };
        self.read_marker(&names);
        self.read_checkpoints(&names);
        self.measure_segments(&folder, &names)?;
        if self.files.is_empty() && vote.is_some_and(|vote| vote.sequence > 1) {
            let name = join(&folder, &segment_name(1));
            let why = "the segment is missing, but this node has voted".to_owned();
            self.damage.push(Damage::new(&name, 0, None, why));
        }
        let mut from = At { index: 0, offset: 0 };
        // Each round starts further on than the one before, so it ends.
        while from.index < self.files.len() {
            let end = self.walk_from(from)?;
            let Some(resumed) = self.judge(end)? else { break };
            assert!(resumed > from, "the walk only goes forwards");
            from = resumed;
        }
        self.judge_checkpoints();
        Ok(())
    }

    // ---- checkpoints ------------------------------------------------------------------------

    /// Whose the files must be; without an identity and a vote nobody knows.
    fn owner(&self) -> Option<Owner> {
        let Expected { group, incarnation, node, .. } = self.expected;
        Some(Owner { incarnation: incarnation?, group, node: node? })
    }

    fn read_marker(&mut self, names: &[String]) {
        let Some(owner) = self.owner() else { return };
        let cut = cut::find(self.storage, &self.report.folder, names, &owner, self.pool);
        self.report.cut =
            cut.map(|CutRecord { kind, what }| CutReport { votes: kind == CutKind::Torn, what });
        let marker = marker::find(self.storage, &self.report.folder, names, &owner, self.pool);
        self.marked = marker.map_or(0, |marker| marker.durable);
    }

    /// Reads all of the checkpoints.
    fn read_checkpoints(&mut self, names: &[String]) {
        let Some(owner) = self.owner() else { return };
        let folder = &self.report.folder;
        for file in checkpoint::read_headers(self.storage, folder, names, &owner, self.pool) {
            let CheckpointFile { name, header } = file;
            let mut report = CheckpointReport { file: name.clone(), ..CheckpointReport::default() };
            match header {
                Err(why) => report.why = Some(why.to_string()),
                Ok(header) => {
                    report.slot = Some(header.slot.0);
                    report.sequence = Some(header.sequence);
                    report.number = Some(header.number);
                    report.state_bytes = Some(header.state_bytes);
                    let body = checkpoint::read_body(self.storage, &name, &header, self.pool);
                    report.why = body.err().map(|why| why.to_string());
                    self.checkpoints.push((name, header));
                }
            }
            self.report.checkpoints.push(report);
        }
    }

    /// Whether the checkpoint was taken in the log that stands here, as the segment that it names
    /// tells; `None` if the chain does not go through that.
    fn link(&self, header: &CheckpointHeader) -> Option<Result<(), String>> {
        let segment = self.files.iter().find(|segment| segment.number == header.segment)?;
        let found = segment.header?;
        Some(header.is_of_log(found.first_sequence, found.previous))
    }

    /// The file that proves the entry `missing` to have been durable: as recovery judges.
    fn proof_beside(&self, missing: u64) -> Option<String> {
        let is_ahead = |header: &CheckpointHeader| {
            header.sequence >= missing && self.link(header).is_none_or(|linked| linked.is_ok())
        };
        if self.marked >= missing {
            return Some(join(&self.report.folder, MARKER_NAME));
        }
        let ahead = self.checkpoints.iter().find(|(_, header)| is_ahead(header));
        ahead.map(|(name, _)| name.clone())
    }

    /// Which of them belong to the log that stands here.
    fn judge_checkpoints(&mut self) {
        for (name, header) in &self.checkpoints {
            match self.link(header) {
                None => {}
                Some(Ok(())) => self.covered = self.covered.max(header.slot),
                Some(Err(why)) => {
                    let mut reports = self.report.checkpoints.iter_mut();
                    let report = reports.find(|report| report.file == *name);
                    report.expect("reported when it was read").why.get_or_insert(why);
                }
            }
        }
    }

    // ---- the vote ---------------------------------------------------------------------------

    fn read_vote(&mut self) -> Result<Option<Vote>, LogError> {
        let name = join(&self.report.folder, VOTE_NAME);
        let opening = LogError::io(format!("opening {name}"));
        let file = self.storage.open(&name, FileOptions::Read).map_err(opening)?;
        let copies = vote::read_copies(self.storage, &name, file, self.pool);
        self.storage.close(file);
        let copies = copies?;
        self.report.vote = copies.iter().map(vote_copy).collect();
        let vote = match &copies {
            [Err(a), Err(b)] => {
                let why = format!("both copies of the vote are damaged: {a}; {b}");
                self.damage.push(Damage::new(&name, 0, None, why));
                return Ok(None);
            }
            [Ok(a), Ok(b)] if a != b => {
                let why = "the two copies of the vote differ".to_owned();
                self.mended.push(Damage::new(&name, 0, None, why));
                if a.sequence >= b.sequence { *a } else { *b }
            }
            [Ok(vote), Ok(_)] => *vote,
            [Ok(vote), Err(why)] => {
                self.mended.push(Damage::new(&name, BLOCK_SIZE as u64, None, why.clone()));
                *vote
            }
            [Err(why), Ok(vote)] => {
                self.mended.push(Damage::new(&name, 0, None, why.clone()));
                *vote
            }
        };
        self.ballot_max = vote.ballot;
        let incarnation = *self.expected.incarnation.get_or_insert(vote.owner.incarnation);
        let node = *self.expected.node.get_or_insert(vote.owner.node);
        let wanted = Owner { incarnation, group: self.expected.group, node };
        if let Err(why) = VOTE.check_owner(&vote.owner, &wanted) {
            self.damage.push(Damage::new(&name, 0, None, why));
        }
        Ok(Some(vote))
    }

    // ---- the segments -----------------------------------------------------------------------

    /// Opens a segment's file in place of the one before.
    fn open(&mut self, name: &str) -> Result<FileId, LogError> {
        self.close();
        let opening = LogError::io(format!("opening {name}"));
        let file = self.storage.open(name, FileOptions::Read).map_err(opening)?;
        self.open = Some(file);
        Ok(file)
    }

    fn close(&mut self) {
        if let Some(file) = self.open.take() {
            self.storage.close(file);
        }
    }

    fn measure_segments(&mut self, folder: &str, names: &[String]) -> Result<(), LogError> {
        if let Err(gap) = segment_numbers(folder, names) {
            self.damage.push(gap);
        }
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        for number in numbers {
            let name = join(folder, &segment_name(number));
            let file = self.open(&name)?;
            let length = self.storage.len(file);
            let length = length.map_err(LogError::io(format!("measuring {name}")))?;
            let wanted = *self.expected.segment_bytes.get_or_insert(length);
            if length != wanted {
                let why = format!("the segment is {length} bytes long, not {wanted}");
                self.damage.push(Damage::new(&name, length, None, why));
            }
            self.report.file_bytes += length;
            // A file that was cut anywhere is looked at as far as its blocks are whole.
            let length = length - length % BLOCK_SIZE as u64;
            self.report.segments.push(SegmentReport {
                segment: number,
                file: name.clone(),
                ..SegmentReport::default()
            });
            let (tail, walked, closed, header) = (BLOCK_SIZE as u64, false, false, None);
            let segment = SegmentFile { number, name, length, tail, walked, closed, header };
            self.files.push(segment);
        }
        Ok(())
    }

    /// Opens the segment; the reader before it must have done.
    fn reader(&mut self, index: usize) -> Result<SegmentReader, LogError> {
        let (name, length) = (self.files[index].name.clone(), self.files[index].length);
        let file = self.open(&name)?;
        Ok(SegmentReader::new(file, name, length, self.pool))
    }

    fn place(&mut self, index: usize, block: &[u8]) -> Place {
        // Without identity and vote the first header that is whole tells whose log it is.
        let told = || SegmentHeader::decode(block).map(|header| header.place.incarnation);
        let incarnation = match self.expected.incarnation {
            Some(incarnation) => incarnation,
            None => told().unwrap_or_default(),
        };
        let (group, segment) = (self.expected.group, self.files[index].number);
        Place { incarnation, group, segment, generation: generation_of(block) }
    }

    fn first_block(&mut self, reader: &mut SegmentReader) -> Result<Vec<u8>, LogError> {
        Ok(reader.at(self.storage, 0, BLOCK_SIZE)?.to_vec())
    }

    /// Walks the chain from `from` through the segments, as far as it goes.
    fn walk_from(&mut self, from: At) -> Result<End, LogError> {
        let nothing =
            Broken { offset: 0, slot: None, why: "no entry stands".into(), end: ChainEnd::Empty };
        let mut end = End { at: from, broken: nothing };
        for index in from.index..self.files.len() {
            let mut reader = self.reader(index)?;
            let block = self.first_block(&mut reader)?;
            let place = self.place(index, &block);
            let mut offset = BLOCK_SIZE as u64;
            let resumed = index == from.index && from.offset > 0;
            if resumed {
                offset = from.offset;
            } else {
                let broken = match judge_start(&block, &place, reader.length, &self.chain) {
                    Start::Continues => None,
                    Start::Empty => break,
                    Start::Foreign(why) => {
                        return Err(LogError::Foreign { file: reader.name, why });
                    }
                    Start::Gap(_) if index > from.index && !self.files[index - 1].closed => break,
                    _ if !end.broken.is_empty() => break,
                    Start::Gap(why) => Some((why, ChainEnd::Damaged)),
                    Start::Broken(why, blank) => {
                        Some((why, judge_broken_start(&mut reader, self.storage, blank)?))
                    }
                };
                if let Some((why, kind)) = broken {
                    let broken = Broken { offset: 0, slot: None, why, end: kind };
                    end = End { at: At { index, offset: 0 }, broken };
                    break;
                }
                self.files[index].header = SegmentHeader::decode(&block).ok();
            }
            let broken = self.walk_segment(index, &mut reader, &place, offset, resumed)?;
            end = End { at: At { index, offset: broken.offset }, broken };
        }
        Ok(end)
    }

    fn walk_segment(
        &mut self,
        index: usize,
        reader: &mut SegmentReader,
        place: &Place,
        from: u64,
        resumed: bool,
    ) -> Result<Broken, LogError> {
        let first_sequence = self.chain.sequence;
        let footer = read_footer(reader, self.storage, place);
        let mut next = None;
        if matches!(footer, FoundFooter::Unread(_)) {
            // Its blocks are not walked into. One file is open at a time.
            next = self.header_of(index + 1)?;
            *reader = self.reader(index)?;
        }
        let until = next.map_or(u64::MAX, |header| header.first_sequence);
        self.slots.note_footer(&footer);
        let report = &mut self.report.segments[index];
        report.generation = Some(place.generation);
        let (slots, ballot_max, slot_max) =
            (&mut self.slots, &mut self.ballot_max, &mut self.slot_max);
        let mut rows = Vec::new();
        let mut visit = |header: &EntryHeader, value: &[u8]| {
            let slot = (header.kind == EntryKind::Value).then_some(header.slot);
            report.note(slot, header.ballot, header.entry_size() as u64, value.len() as u64);
            *ballot_max = header.ballot.max(*ballot_max);
            *slot_max = slot.unwrap_or(Slot::NONE).max(*slot_max);
            rows.push(*header);
            slots.note(header, value);
        };
        let chain = &mut self.chain;
        let mut broken = walk_entries(reader, self.storage, place, from, until, chain, &mut visit)?;
        let segment = &mut self.files[index];
        segment.walked = true;
        segment.tail = broken.offset;
        if let FoundFooter::Unread(error) = footer {
            if !next.is_some_and(|header| self.chain.goes_on_in(&header)) {
                return Err(error);
            }
            let offset = reader.length.saturating_sub(BLOCK_SIZE as u64);
            self.mended.push(Damage::new(&reader.name, offset, None, error.to_string()));
            self.report.segments[index].footer = FooterReport::Damaged;
            return Ok(broken);
        }
        // With a part of the entries lost there is nothing to hold a footer against.
        if !resumed {
            let state = self.judge_footer(index, footer, &rows, first_sequence);
            if state == FooterReport::Valid {
                broken.end = ChainEnd::Empty;
            }
            self.report.segments[index].footer = state;
        }
        Ok(broken)
    }

    /// A segment's header, if it stands, whole and where it belongs.
    fn header_of(&mut self, index: usize) -> Result<Option<SegmentHeader>, LogError> {
        if index >= self.files.len() {
            return Ok(None);
        }
        let mut reader = self.reader(index)?;
        let block = self.first_block(&mut reader)?;
        let place = self.place(index, &block);
        Ok(header_at(&block, &place, reader.length))
    }

    /// Holds the footer of a segment that was walked from its start against its entries.
    fn judge_footer(
        &mut self,
        index: usize,
        footer: FoundFooter,
        rows: &[EntryHeader],
        first_sequence: u64,
    ) -> FooterReport {
        let segment = &self.files[index];
        let (name, last) = (segment.name.clone(), segment.length.saturating_sub(BLOCK_SIZE as u64));
        let (trailer, entries) = match footer {
            FoundFooter::None => return FooterReport::None,
            FoundFooter::Damaged(why) => {
                self.mended.push(Damage::new(&name, last, None, why));
                return FooterReport::Damaged;
            }
            FoundFooter::Unread(_) => unreachable!("judged when the segment was walked"),
            FoundFooter::Valid(trailer, entries) => (trailer, entries),
        };
        if trailer.count as usize > rows.len() {
            // It proves that entries are missing: told by `judge`.
            return FooterReport::None;
        }
        match check_footer(&trailer, &entries, rows, first_sequence, &self.chain) {
            Ok(()) => {
                self.applied = self.applied.max(trailer.chosen);
                self.files[index].closed = true;
                let report = &mut self.report.segments[index];
                (report.logs, report.refused) = footers::summary(&entries);
                FooterReport::Valid
            }
            Err(FooterProblem::Outdated(why)) => {
                self.mended.push(Damage::new(&name, last, None, why));
                FooterReport::Damaged
            }
            Err(FooterProblem::Lies(why)) => {
                let offset = last + BLOCK_SIZE as u64 - trailer.size() as u64;
                self.damage.push(Damage::new(&name, offset, None, why));
                FooterReport::Damaged
            }
        }
    }

    // ---- the end of the chain ---------------------------------------------------------------

    /// Torn tail or damage? After damage: where the chain can be taken up again.
    fn judge(&mut self, end: End) -> Result<Option<At>, LogError> {
        let missing = self.chain.sequence;
        let mut remains = Vec::new();
        let last = self.files.iter().rposition(|segment| segment.walked);
        // Where no chain begins it ends before the first segment.
        let before = last.map_or(0, |last| last + 1);
        for index in last.unwrap_or(0)..self.files.len() {
            if self.files[index].closed {
                continue;
            }
            let mut reader = self.reader(index)?;
            if is_blank(&mut reader, self.storage, (index + 1 - before) as u64)? {
                continue;
            }
            let block = self.first_block(&mut reader)?;
            let place = self.place(index, &block);
            let from = if self.files[index].walked { self.files[index].tail } else { 0 };
            let seen = look_behind(&mut reader, self.storage, &place, from, missing)?;
            if let Some(proof) = seen.proof {
                let Broken { offset, slot, why, .. } = &end.broken;
                let why = format!("{why}; {proof} proves that entry {missing} had been durable");
                let name = &self.files[end.at.index].name;
                self.damage.push(Damage::new(name, *offset, *slot, why));
                return self.resume(end.at);
            }
            remains.extend(seen.remains.into_iter().map(|run| (index, run)));
        }
        if let Some(file) = self.proof_beside(missing) {
            let Broken { offset, slot, why, .. } = &end.broken;
            let why = format!("{why}; {file} proves that entry {missing} had been durable");
            let name = match self.files.get(end.at.index) {
                Some(segment) => segment.name.clone(),
                None => join(&self.report.folder, &segment_name(1)),
            };
            self.damage.push(Damage::new(&name, *offset, *slot, why));
            return Ok(None);
        }
        if end.broken.end == ChainEnd::Damaged {
            let Broken { offset, slot, why, .. } = &end.broken;
            let name = &self.files[end.at.index].name;
            self.damage.push(Damage::new(name, *offset, *slot, why.clone()));
            return self.resume(end.at);
        }
        for (index, (offset, length)) in remains {
            self.report.torn_bytes += length;
            let why = format!("{length} bytes of a torn tail, never acknowledged");
            self.mended.push(Damage::new(&self.files[index].name, offset, None, why));
        }
        Ok(None)
    }

    /// Looks behind `damaged` for the next header that stands in its place, and sets the chain to
    /// go on there.
    fn resume(&mut self, damaged: At) -> Result<Option<At>, LogError> {
        let missing = self.chain.sequence;
        for index in damaged.index..self.files.len() {
            let mut reader = self.reader(index)?;
            let block = self.first_block(&mut reader)?;
            let place = self.place(index, &block);
            let mut offset = BLOCK_SIZE as u64;
            if index == damaged.index {
                offset = offset.max(damaged.offset + BLOCK_SIZE as u64);
            } else if let Ok(header) = SegmentHeader::decode(&block)
                && check_place(&header.place, &place).is_ok()
                && header.first_sequence >= missing
            {
                self.take_up(header.first_sequence, header.previous);
                return Ok(Some(At { index, offset: 0 }));
            }
            while offset < reader.length {
                let block = reader.at(self.storage, offset, BLOCK_SIZE)?;
                if let Ok((header, _)) = EntryHeader::decode(block)
                    && header.stands_at(&place, offset).is_ok()
                    && header.sequence >= missing
                {
                    self.take_up(header.sequence, header.previous);
                    return Ok(Some(At { index, offset }));
                }
                offset += BLOCK_SIZE as u64;
            }
        }
        Ok(None)
    }

    fn take_up(&mut self, sequence: u64, previous: crate::base::Checksum) {
        self.report.entries_lost += sequence - self.chain.sequence;
        self.chain.sequence = sequence;
        self.chain.previous = previous;
    }
}

/// A mutable reference to a trait object is invariant in the object's lifetime, but the object may
/// be used for less time than it could be.
fn shorten<'a, 'v: 'a>(visitor: &'a mut InspectVisitor<'v>) -> &'a mut InspectVisitor<'a> {
    visitor
}

fn vote_copy(copy: &Result<Vote, String>) -> VoteCopyReport {
    match copy {
        Ok(vote) => VoteCopyReport {
            sequence: Some(vote.sequence),
            ballot: Some(vote.ballot.into()),
            why: None,
        },
        Err(why) => VoteCopyReport { sequence: None, ballot: None, why: Some(why.clone()) },
    }
}
