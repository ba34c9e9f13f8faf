//! What stands where: a dense index of the segments that are not yet indexed on disk, a summary of
//! those that are. Pure bookkeeping; the log, recovery and the reads use it.
//!
//! A slot may stand in the log several times (accepted again at a higher ballot) and slots do not
//! come in order (after a change of leader): the latest entry of a slot wins, until the slot is
//! applied; from then on its value cannot change, and a later copy is a mere repetition.

use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::base::limits::BLOCK_SIZE;
use crate::base::mutants::{Mutant, planted};
use crate::base::sectors::entry_size;
use crate::base::{Ballot, Checksum, LogId, LogPages, Placement, Places, Position, Slot, Span};
use crate::io::FileId;

use super::footer::has_room;
use super::format::GENERATION_FIRST;
use super::placements::{self, placement_bytes};
use super::{FOOTERS_CACHED_MAX, PositionLookup};

/// How far an entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// Appended.
    Pending,
    /// Its slot is applied, and this entry holds its value and position.
    Applied,
    /// A later entry holds its slot; or it repeats an applied slot; or it is a mark.
    Replaced,
}

/// One entry of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub slot: Slot,
    pub ballot: Ballot,
    /// Of the header, in the segment's file.
    pub offset: u32,
    pub value_size: u32,
    /// The position of the first record in log 0, once applied; 0 without records there.
    pub first: Position,
    /// How many records in log 0, once applied.
    pub records: u32,
    pub state: EntryState,
    /// The room that its segment keeps for `more`, in bytes.
    pub placement_bytes_max: u32,
    /// The whole placement, once applied, when there is more to tell than `first` and `records`.
    pub more: Option<Rc<Placement>>,
}

impl IndexEntry {
    /// Notes what became of the slot.
    ///
    /// # Panics
    /// When the placement does not fit the room that is kept.
    fn apply(&mut self, placement: Rc<Placement>) {
        if let Err(why) = placements::fits(&placement, self.placement_bytes_max) {
            panic!("slot {}: {why}", self.slot);
        }
        self.state = EntryState::Applied;
        if let Some(span) = placement.span(LogId(0)) {
            (self.first, self.records) = (span.first, span.records);
        }
        self.more = (placement_bytes(&placement) > 0).then_some(placement);
    }

    /// Where the records are; `None` until the slot is applied.
    pub fn placement(&self) -> Option<Rc<Placement>> {
        let whole = || Rc::new(Placement::simple(self.first, self.records));
        (self.state == EntryState::Applied).then(|| self.more.clone().unwrap_or_else(whole))
    }

    /// The records of each log.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let own = Span { log: LogId(0), first: self.first, records: self.records };
        let own = (self.more.is_none() && self.records > 0).then_some(own);
        own.into_iter().chain(self.more.iter().flat_map(|more| more.spans.iter().copied()))
    }

    fn span(&self, log: LogId) -> Option<Span> {
        match &self.more {
            Some(more) => more.span(log).copied(),
            None => self.spans().find(|span| span.log == log),
        }
    }
}

/// Whether a segment's footer stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Footer {
    /// Not yet: the dense index is in memory.
    Missing,
    /// Its write is in flight.
    Writing,
    /// It stands; the dense index is gone.
    Written,
}

/// The positions of a log that are applied in a segment: the lowest, and the one behind the highest.
/// Between them some may be in other segments.
#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    low: Position,
    end: Position,
}

/// Of each log with records in a segment, their reach.
#[derive(Debug, Default)]
struct Summary {
    /// While entries are applied.
    growing: LogPages<Reach>,
    /// By log, once the footer is written: a few bytes a log, whatever their numbers are.
    settled: Box<[(LogId, Reach)]>,
}

impl Summary {
    fn note(&mut self, entry: &IndexEntry) {
        for span in entry.spans() {
            let fresh = Reach { low: span.first, end: span.end() };
            let reach = self.growing.get_or_insert(span.log, fresh);
            *reach = Reach { low: reach.low.min(fresh.low), end: reach.end.max(fresh.end) };
        }
    }

    fn settle(&mut self) {
        let growing = std::mem::take(&mut self.growing);
        self.settled = growing.sorted().map(|(log, reach)| (log, *reach)).collect();
    }

    /// Once it is settled.
    fn may_hold(&self, log: LogId, position: Position) -> bool {
        let found = self.settled.binary_search_by_key(&log, |(log, _)| *log);
        found.is_ok_and(|at| {
            let Reach { low, end } = self.settled[at].1;
            low <= position && position < end
        })
    }
}

/// A segment that holds entries, or is about to.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub generation: u32,
    /// Open for writing (always, while not indexed and prepared) or reading.
    pub file: Option<FileId>,
    pub first_sequence: u64,
    /// What the entries may yet need for their placements in the footer, in bytes.
    pub room: u64,
    /// Empty once the footer is written.
    pub entries: Vec<IndexEntry>,
    pub count: u32,
    /// Where the next entry goes.
    pub tail: u64,
    /// A later segment has been begun: nothing is added here.
    pub sealed: bool,
    /// The lowest and highest slot.
    pub slots: Option<(Slot, Slot)>,
    /// Which records may be here.
    summary: Summary,
    /// Entries still pending.
    pub pending: u32,
    /// The last sequence appended to the log when `pending` came to 0: once it is durable, so is
    /// everything that the footer tells of, and every entry that replaced one of this segment.
    pub settled_at: u64,
    pub footer: Footer,
    /// The size of the footer in bytes, once it is written or on its way.
    pub footer_bytes: u32,
    /// The checksum of the last header written.
    pub last: Checksum,
    /// The highest chosen watermark in the headers written.
    pub told: Slot,
}

/// What is kept in memory of a segment whose footer stands on disk.
#[derive(Debug)]
pub(super) struct Indexed {
    count: u32,
    slots: Option<(Slot, Slot)>,
    summary: Summary,
    slot_max: Slot,
    /// The highest ballot of its entries: rows tell the ballots of all of them.
    pub ballot_max: Ballot,
    /// Where its entries end.
    pub tail: u64,
    footer_bytes: u32,
}

impl Indexed {
    /// Of a footer of `footer_bytes` with these rows, whose entries end at `tail`.
    pub fn of(entries: &[IndexEntry], tail: u64, footer_bytes: u32) -> Indexed {
        let mut summary = Summary::default();
        let mut slots = None;
        for entry in applied(entries) {
            note_slot(&mut slots, entry.slot);
            summary.note(entry);
        }
        summary.settle();
        Indexed {
            count: entries.len() as u32,
            slots,
            summary,
            slot_max: entries.iter().map(|entry| entry.slot).max().unwrap_or_default(),
            ballot_max: entries.iter().map(|entry| entry.ballot).max().unwrap_or_default(),
            tail,
            footer_bytes,
        }
    }
}

/// The slots that a footer's rows tell to be applied, as runs without a gap, by slot.
pub(super) fn applied_runs(entries: &[IndexEntry]) -> Vec<(Slot, Slot)> {
    let mut slots: Vec<Slot> = applied(entries).map(|entry| entry.slot).collect();
    slots.sort_unstable();
    let mut runs: Vec<(Slot, Slot)> = Vec::new();
    for slot in slots {
        match runs.last_mut() {
            Some((_, last)) if slot <= last.next() => *last = slot,
            _ => runs.push((slot, slot)),
        }
    }
    runs
}

fn note_slot(slots: &mut Option<(Slot, Slot)>, slot: Slot) {
    let (low, high) = slots.unwrap_or((slot, slot));
    *slots = Some((low.min(slot), high.max(slot)));
}

impl Segment {
    pub fn new(number: u64, generation: u32, first_sequence: u64) -> Segment {
        Segment {
            number,
            generation,
            file: None,
            first_sequence,
            room: 0,
            entries: Vec::new(),
            count: 0,
            tail: BLOCK_SIZE as u64,
            sealed: false,
            slots: None,
            summary: Summary::default(),
            pending: 0,
            settled_at: 0,
            footer: Footer::Missing,
            footer_bytes: 0,
            last: Checksum(0),
            told: Slot::NONE,
        }
    }

    /// Where the footer starts in the file.
    pub fn footer_offset(&self, segment_bytes: u64) -> u64 {
        segment_bytes - u64::from(self.footer_bytes)
    }

    fn note_slot(&mut self, slot: Slot) {
        if slot > Slot::NONE {
            note_slot(&mut self.slots, slot);
        }
    }

    /// The highest slot applied from here: everything up to it is applied and, once the segment
    /// is settled, durable in the log.
    pub fn applied_max(&self) -> Slot {
        let applied = self.entries.iter().filter(|entry| entry.state == EntryState::Applied);
        applied.map(|entry| entry.slot).max().unwrap_or(Slot::NONE)
    }

    fn last_sequence(&self) -> u64 {
        self.first_sequence + u64::from(self.count) - 1
    }
}

/// A footer in memory: the applied entries, found by slot and by position.
#[derive(Debug)]
pub(super) struct LoadedFooter {
    /// By slot.
    applied: Vec<IndexEntry>,
    /// The first position that each entry has in each log, by log and position, with the entry's
    /// index in `applied`; made for the first search.
    firsts: OnceCell<Vec<(LogId, Position, u32)>>,
}

impl LoadedFooter {
    pub fn new(entries: Vec<IndexEntry>) -> LoadedFooter {
        let mut applied = entries;
        applied.retain(|entry| entry.state == EntryState::Applied);
        applied.sort_unstable_by_key(|entry| entry.slot);
        LoadedFooter { applied, firsts: OnceCell::new() }
    }

    fn firsts(&self) -> &[(LogId, Position, u32)] {
        self.firsts.get_or_init(|| {
            let spans = |(at, entry): (u32, &IndexEntry)| {
                let spans: Vec<_> = entry.spans().map(|span| (span.log, span.first, at)).collect();
                spans
            };
            let mut firsts: Vec<_> = (0..).zip(&self.applied).flat_map(spans).collect();
            firsts.sort_unstable();
            firsts
        })
    }

    pub fn by_slot(&self, slot: Slot) -> Option<&IndexEntry> {
        let at = self.applied.binary_search_by_key(&slot, |entry| entry.slot).ok()?;
        Some(&self.applied[at])
    }

    pub fn by_position(&self, log: LogId, position: Position) -> Option<&IndexEntry> {
        // Spans of a log do not overlap: only the last that starts at or before it can hold it.
        let firsts = self.firsts();
        let end = firsts.partition_point(|(of, first, _)| (*of, *first) <= (log, position));
        let (_, _, at) = firsts[..end].last()?;
        let entry = &self.applied[*at as usize];
        entry.span(log).filter(|span| span.holds(log, position)).map(|_| entry)
    }
}

/// The footers read or written most recently.
#[derive(Debug, Default)]
pub(super) struct FooterCache {
    /// The most recently used last.
    loaded: Vec<(u64, Rc<LoadedFooter>)>,
}

impl FooterCache {
    pub fn peek(&self, segment: u64) -> Option<&Rc<LoadedFooter>> {
        self.loaded.iter().find(|(number, _)| *number == segment).map(|(_, footer)| footer)
    }

    pub fn get(&mut self, segment: u64) -> Option<Rc<LoadedFooter>> {
        let at = self.loaded.iter().position(|(number, _)| *number == segment)?;
        let found = self.loaded.remove(at);
        self.loaded.push(found.clone());
        Some(found.1)
    }

    pub fn insert(&mut self, segment: u64, footer: Rc<LoadedFooter>) {
        self.loaded.retain(|(number, _)| *number != segment);
        if self.loaded.len() == FOOTERS_CACHED_MAX {
            self.loaded.remove(0);
        }
        self.loaded.push((segment, footer));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryRef {
    segment: u64,
    at: u32,
}

/// Where an entry stands, for a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub segment: u64,
    pub entry: IndexEntry,
}

/// What a lookup in memory tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Found(Located),
    /// The footer of this segment must be read first; then ask again.
    NeedsFooter(u64),
    /// In the log, but not durable yet.
    NotDurable,
    Missing,
}

fn applied(entries: &[IndexEntry]) -> impl Iterator<Item = &IndexEntry> {
    entries.iter().filter(|entry| entry.state == EntryState::Applied)
}

/// The index of the whole log.
#[derive(Debug)]
pub(super) struct Index {
    segment_bytes: u64,
    /// By number, without gaps; the last is the active one.
    segments: VecDeque<Segment>,
    /// The entry that holds a slot, for the segments in memory.
    latest: BTreeMap<Slot, EntryRef>,
    /// Applied slots by log and first position of their records there, for the segments in memory.
    positions: Places,
    applied: Slot,
    slot_max: Slot,
    next_sequence: u64,
}

impl Index {
    /// An index whose only segment is `first`, still empty.
    pub fn new(segment_bytes: u64, first: Segment) -> Index {
        let next_sequence = first.first_sequence;
        Index {
            segment_bytes,
            segments: VecDeque::from([first]),
            latest: BTreeMap::new(),
            positions: Places::default(),
            applied: Slot::NONE,
            slot_max: Slot::NONE,
            next_sequence,
        }
    }

    pub fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    pub fn segment(&self, number: u64) -> Option<&Segment> {
        let first = self.segments[0].number;
        self.segments.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    pub fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        let first = self.segments[0].number;
        self.segments.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    pub fn active(&self) -> &Segment {
        self.segments.back().expect("there is always an active segment")
    }

    pub fn active_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("there is always an active segment")
    }

    /// The highest slot in the log.
    pub fn slot_max(&self) -> Slot {
        self.slot_max
    }

    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub fn applied(&self) -> Slot {
        self.applied
    }

    pub fn set_applied(&mut self, applied: Slot) {
        self.applied = applied;
    }

    pub fn indexed_count(&self) -> u64 {
        self.segments.iter().filter(|s| s.footer == Footer::Written).count() as u64
    }

    pub fn dense_count(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries.len() as u64).sum()
    }

    /// Whether an entry of `size` bytes still fits the active segment, with its row and its
    /// placement in the footer.
    pub fn active_fits(&self, size: usize, placement_bytes_max: u32) -> bool {
        let active = self.active();
        let (count, more) = (active.count as usize, (size, placement_bytes_max));
        !active.sealed && has_room(active.tail, count, active.room, more, self.segment_bytes)
    }

    /// Seals the active segment and makes the next one active. Returns its number.
    pub fn begin_next(&mut self) -> u64 {
        let next_sequence = self.next_sequence;
        let active = self.active_mut();
        active.sealed = true;
        let number = active.number + 1;
        if active.pending == 0 {
            // Everything in it has been settled before it was full.
            active.settled_at = next_sequence - 1;
        }
        self.segments.push_back(Segment::new(number, GENERATION_FIRST, next_sequence));
        number
    }

    /// Notes an entry at the active segment's tail. Slot 0 is a mark.
    pub fn push(&mut self, slot: Slot, ballot: Ballot, value_size: u32, placement_bytes_max: u32) {
        let replaced = match self.latest.get(&slot).copied() {
            _ if slot == Slot::NONE || slot <= self.applied => None,
            older => older,
        };
        let state = match slot {
            Slot::NONE => EntryState::Replaced,
            _ if slot <= self.applied => EntryState::Replaced,
            _ => EntryState::Pending,
        };
        let reference = self.add_entry(slot, ballot, value_size, placement_bytes_max, state);
        if state == EntryState::Pending {
            self.active_mut().pending += 1;
            self.latest.insert(slot, reference);
        }
        if let Some(older) = replaced {
            self.settle(older, None);
        }
    }

    /// Notes an entry at the active segment's tail that a checkpoint covers (recovery): with a
    /// placement it holds the applied slot's value, without one it does not.
    ///
    /// # Panics
    /// When the placement does not fit the room.
    pub fn push_covered(
        &mut self,
        slot: Slot,
        ballot: Ballot,
        value_size: u32,
        placement_bytes_max: u32,
        placement: Option<Rc<Placement>>,
    ) {
        let state = EntryState::Replaced;
        let reference = self.add_entry(slot, ballot, value_size, placement_bytes_max, state);
        let Some(placement) = placement else { return };
        self.latest.insert(slot, reference);
        let active = self.active_mut();
        let row = active.entries.last_mut().expect("added above");
        row.apply(placement);
        active.summary.note(row);
    }

    fn add_entry(
        &mut self,
        slot: Slot,
        ballot: Ballot,
        value_size: u32,
        placement_bytes_max: u32,
        state: EntryState,
    ) -> EntryRef {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.slot_max = self.slot_max.max(slot);
        let active = self.active_mut();
        assert_eq!(sequence, active.first_sequence + u64::from(active.count), "no gap");
        let reference = EntryRef { segment: active.number, at: active.count };
        let offset = u32::try_from(active.tail).expect("segments are below 4 GiB");
        active.entries.push(IndexEntry {
            slot,
            ballot,
            offset,
            value_size,
            first: Position(0),
            records: 0,
            state,
            placement_bytes_max,
            more: None,
        });
        active.count += 1;
        active.room += u64::from(placement_bytes_max);
        active.tail += entry_size(value_size as usize) as u64;
        active.note_slot(slot);
        reference
    }

    /// The entry is applied, with its placement; or replaced.
    fn settle(&mut self, entry: EntryRef, placement: Option<Rc<Placement>>) {
        let settled_at = self.next_sequence - 1;
        let segment = self.segment_mut(entry.segment).expect("the index names what stands");
        let row = &mut segment.entries[entry.at as usize];
        assert_eq!(row.state, EntryState::Pending, "slot {} is settled once", row.slot);
        match placement {
            Some(placement) => row.apply(placement),
            None => row.state = EntryState::Replaced,
        }
        segment.summary.note(row);
        segment.pending -= 1;
        if segment.pending == 0 {
            segment.settled_at = settled_at;
        }
    }

    /// Notes that `slot` has been applied.
    ///
    /// # Panics
    /// When slots come out of order, or the slot was never appended, or the placement does not
    /// fit.
    pub fn set_placement(&mut self, slot: Slot, placement: Rc<Placement>) {
        assert_eq!(slot, self.applied.next(), "slots are applied in order");
        let entry = self.latest.get(&slot).copied();
        let entry = entry.unwrap_or_else(|| panic!("slot {slot} is applied but not in the log"));
        self.applied = slot;
        self.positions.push(slot, placement.clone());
        self.settle(entry, Some(placement));
    }

    /// The latest entry of a slot, when its segment's index is in memory.
    pub fn dense(&self, slot: Slot) -> Option<Located> {
        let found = self.latest.get(&slot)?;
        let segment = self.segment(found.segment)?;
        let entry = segment.entries[found.at as usize].clone();
        Some(Located { segment: found.segment, entry })
    }

    /// The slots in memory above `slot`, by slot.
    pub fn dense_above(&self, slot: Slot) -> Vec<Slot> {
        self.latest.range(slot.next()..).map(|(slot, _)| *slot).collect()
    }

    fn if_durable(&self, found: Located, durable: u64) -> Lookup {
        let last = self.segment(found.segment).map_or(0, |segment| {
            let at = segment.entries.partition_point(|e| e.offset < found.entry.offset) as u64;
            segment.first_sequence + at
        });
        if last <= durable { Lookup::Found(found) } else { Lookup::NotDurable }
    }

    /// Where `slot` stands. Looks at footers of segments up to `upto` only: one lookup asks for
    /// one footer after the other, from the newest on, and a segment that has been ruled out is
    /// not looked at again. (There may be more of them than the cache holds, and asking for all
    /// of them once more each time would never end.)
    pub fn find_slot(&self, slot: Slot, upto: u64, durable: u64, footers: &FooterCache) -> Lookup {
        if let Some(found) = self.dense(slot) {
            return self.if_durable(found, durable);
        }
        let candidates = self.segments.iter().rev().filter(|segment| {
            segment.number <= upto
                && segment.footer == Footer::Written
                && segment.slots.is_some_and(|(low, high)| low <= slot && slot <= high)
        });
        for segment in candidates {
            match footers.peek(segment.number) {
                None => return Lookup::NeedsFooter(segment.number),
                Some(footer) => {
                    if let Some(entry) = footer.by_slot(slot) {
                        let entry = entry.clone();
                        return Lookup::Found(Located { segment: segment.number, entry });
                    }
                }
            }
        }
        Lookup::Missing
    }

    /// Where the record at `position` of `log` stands; `upto` as for [`Index::find_slot`].
    pub fn find_position(
        &self,
        log: LogId,
        position: Position,
        upto: u64,
        durable: u64,
        footers: &FooterCache,
    ) -> Lookup {
        if let Some(found) = self.dense_at(log, position) {
            return self.if_durable(found, durable);
        }
        let candidates = self.segments.iter().rev().filter(|segment| {
            segment.number <= upto
                && segment.footer == Footer::Written
                && segment.summary.may_hold(log, position)
        });
        for segment in candidates {
            match footers.peek(segment.number) {
                None => return Lookup::NeedsFooter(segment.number),
                Some(footer) => {
                    if let Some(entry) = footer.by_position(log, position) {
                        let entry = entry.clone();
                        return Lookup::Found(Located { segment: segment.number, entry });
                    }
                }
            }
        }
        Lookup::Missing
    }

    fn dense_at(&self, log: LogId, position: Position) -> Option<Located> {
        let slot = self.positions.at(log, position)?;
        let holds =
            |found: &Located| found.entry.span(log).is_some_and(|span| span.holds(log, position));
        self.dense(slot).filter(holds)
    }

    /// The slot that holds `position` of `log`, as far as memory tells.
    pub fn slot_at(&self, log: LogId, position: Position, footers: &FooterCache) -> PositionLookup {
        match self.find_position(log, position, u64::MAX, u64::MAX, footers) {
            Lookup::Found(found) => {
                let span = found.entry.span(log).expect("it was found by it");
                PositionLookup::Slot { slot: found.entry.slot, first: span.first }
            }
            Lookup::NeedsFooter(_) => PositionLookup::OnDisk,
            Lookup::NotDurable | Lookup::Missing => PositionLookup::Unknown,
        }
    }

    /// A sealed segment whose footer can be written now.
    pub fn footer_candidate(&self, durable: u64) -> Option<u64> {
        let ready = |segment: &&Segment| {
            segment.sealed
                && segment.footer == Footer::Missing
                && segment.pending == 0
                && segment.count > 0
                && segment.settled_at <= durable
                && segment.last_sequence() <= durable
        };
        self.segments.iter().find(ready).map(|segment| segment.number)
    }

    /// The footer of the segment stands on disk: its entries leave memory.
    pub fn footer_written(&mut self, number: u64) -> LoadedFooter {
        let segment = self.segment_mut(number).expect("the index names what stands");
        segment.footer = Footer::Written;
        let entries = std::mem::take(&mut segment.entries);
        segment.summary.settle();
        for entry in &entries {
            if self.latest.get(&entry.slot).is_some_and(|found| found.segment == number) {
                self.latest.remove(&entry.slot);
            }
        }
        // Slots that have left are found no more, though `positions` may name them yet.
        let left = self.latest.first_key_value().map_or(self.applied, |(slot, _)| Slot(slot.0 - 1));
        self.positions.forget_through(left.min(self.applied));
        LoadedFooter::new(entries)
    }

    /// Fills the active segment, which is empty, from its footer on disk (recovery). `applied`: the
    /// slots that it tells to be applied, in runs.
    pub fn add_indexed(&mut self, indexed: Indexed, applied: &[(Slot, Slot)]) {
        let active = self.active_mut();
        assert_eq!(active.count, 0, "a segment is filled once");
        active.count = indexed.count;
        active.tail = indexed.tail;
        active.sealed = true;
        active.footer = Footer::Written;
        active.footer_bytes = indexed.footer_bytes;
        active.slots = indexed.slots;
        active.summary = indexed.summary;
        let own = active.summary.settled.partition_point(|(log, _)| *log == LogId(0));
        if active.summary.settled.len() > own && planted(Mutant::OtherLogsNotSummarised) {
            active.summary.settled = active.summary.settled[..own].into();
        }
        self.slot_max = self.slot_max.max(indexed.slot_max);
        self.next_sequence += u64::from(indexed.count);
        // Earlier segments may be without a footer (it was damaged, or its write was cut short):
        // an entry of theirs must not pass for the slot's value again. (One that a checkpoint
        // covers has its place already, and the same value.)
        for (first, last) in applied {
            let held = self.latest.range(*first..=*last).map(|(slot, entry)| (*slot, *entry));
            let mut older: Vec<(Slot, EntryRef)> = held.collect();
            older.retain(|(_, entry)| self.is_pending(*entry));
            for (slot, entry) in older {
                if !planted(Mutant::OlderValueAfterFooterLoss) {
                    self.latest.remove(&slot);
                    self.settle(entry, None);
                }
            }
        }
    }

    fn is_pending(&self, entry: EntryRef) -> bool {
        let segment = self.segment(entry.segment);
        segment.is_some_and(|s| s.entries[entry.at as usize].state == EntryState::Pending)
    }

    /// A checkpoint covers the slots up to `applied` (recovery): `placements`, by slot, are those of
    /// the covered slots in segments in memory.
    pub fn cover(&mut self, applied: Slot, placements: Vec<(Slot, Rc<Placement>)>) {
        for (slot, placement) in placements {
            self.positions.push(slot, placement);
        }
        self.applied = applied;
    }

    /// The last segment whose entries begin at or below `sequence`, with the checksum of the header
    /// before its first: what ties a checkpoint to this log.
    pub fn link_at(&self, sequence: u64) -> (&Segment, Checksum) {
        let begins = |segment: &Segment| segment.first_sequence <= sequence;
        let at = self.segments.partition_point(begins).saturating_sub(1);
        let before = at.checked_sub(1).map_or(Checksum(0), |before| self.segments[before].last);
        (&self.segments[at], before)
    }
}
