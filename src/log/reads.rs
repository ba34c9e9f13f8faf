//! Reads of slots and positions while the log runs: summary, then footer (from the cache or the
//! disk), then the entry, verified against its header, its place and its checksum.

use std::collections::HashMap;
use std::rc::Rc;

use crate::base::sectors::entry_size;
use crate::base::{Batch, BlockBuf, Instant, LogId, Position, Slot};
use crate::io::{Disk, DiskError, DiskEvent, FileId, FileOptions};

use super::format::{EntryHeader, EntryKind, join, segment_name};
use super::index::{Footer, FooterCache, Index, LoadedFooter, Located, Lookup};
use super::shortage::Shortage;
use super::{
    Damage, FILES_CACHED_MAX, Log, LogEvent, OPEN_ATTEMPTS_MAX, Op, READS_MAX, ReadEntry,
    ReadError, ReadTicket, footer,
};

/// Lookups of one read at the same segment at most: its file is opened, its footer and then its
/// entry are read. More means that reads push each other's files and footers out of the caches.
const LOOKUPS_MAX: u32 = 64;

/// Why a read is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// The slot is not in the log; the position has not been applied.
    #[error("the log does not hold it")]
    Missing,
    /// It is in the log, but its write has not completed: the caller still has it in memory.
    #[error("it is not durable yet")]
    NotDurable,
    /// [`READS_MAX`] reads are in flight: ask again later.
    #[error("too many reads are in flight")]
    Busy,
}

/// What a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Slot(Slot),
    Position(LogId, Position),
}

struct Job {
    wanted: Wanted,
    /// The newest segment that has not been ruled out.
    upto: u64,
    lookups: u32,
    /// The entry being read.
    target: Option<Located>,
}

/// The reads in flight and what they share.
#[derive(Default)]
pub(super) struct Reads {
    jobs: HashMap<ReadTicket, Job>,
    footers: FooterCache,
    /// Reads that wait for a segment's file to open or its footer to be read.
    loads: HashMap<u64, Vec<ReadTicket>>,
    /// Indexed segments whose file is open, the most recently used last.
    files: Vec<u64>,
    /// Segments that could not be opened since too many files are open; their reads wait in `loads`.
    unopened: Vec<u64>,
    /// How often each of them was tried.
    attempts: HashMap<u64, u32>,
    /// When they are tried again.
    retry_at: Option<Instant>,
    shortage: Shortage,
}

impl Reads {
    pub fn footers(&self) -> &FooterCache {
        &self.footers
    }

    pub fn footers_mut(&mut self) -> &mut FooterCache {
        &mut self.footers
    }

    /// A segment's footer has been written: it is kept, for those who read near the tail.
    pub fn indexed<D: Disk>(
        &mut self,
        index: &mut Index,
        disk: &mut D,
        segment: u64,
        footer: LoadedFooter,
    ) {
        self.footers.insert(segment, Rc::new(footer));
        self.opened(index, disk, segment);
    }

    fn in_use(&self, segment: u64) -> bool {
        self.loads.contains_key(&segment)
            || self
                .jobs
                .values()
                .any(|job| job.target.as_ref().is_some_and(|t| t.segment == segment))
    }

    /// Notes that the file of an indexed segment is open; closes the one not used for longest.
    fn opened<D: Disk>(&mut self, index: &mut Index, disk: &mut D, segment: u64) {
        self.files.push(segment);
        if self.files.len() > FILES_CACHED_MAX {
            // A file with an operation in flight stays; there are at most READS_MAX such.
            self.close_unused(index, disk);
        }
    }

    /// Closes the file that has not been used for longest, if there is one that is not in use.
    fn close_unused<D: Disk>(&mut self, index: &mut Index, disk: &mut D) -> bool {
        let unused = self.files.iter().position(|number| !self.in_use(*number));
        if let Some(at) = unused {
            let number = self.files.remove(at);
            let file = index.segment_mut(number).and_then(|segment| segment.file.take());
            disk.close(file.expect("a file in the list is open"));
        }
        unused.is_some()
    }

    /// Too many files are open: the one unused for longest gives way to whoever needs one. Returns
    /// when to try again: at once, or `later` when none could be spared.
    pub fn give_way<D: Disk>(
        &mut self,
        index: &mut Index,
        disk: &mut D,
        now: Instant,
        later: Instant,
    ) -> Instant {
        if self.close_unused(index, disk) { now } else { later }
    }

    /// When segments that could not be opened are tried again.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.unopened.is_empty())
    }

    fn touch(&mut self, segment: u64) {
        if let Some(at) = self.files.iter().position(|number| *number == segment) {
            let number = self.files.remove(at);
            self.files.push(number);
        }
    }
}

impl Log {
    fn lookup(&self, wanted: Wanted, upto: u64) -> Lookup {
        let (durable, footers) = (self.writer.durable(), &self.reads.footers);
        match wanted {
            Wanted::Slot(slot) => self.index.find_slot(slot, upto, durable, footers),
            Wanted::Position(log, at) => self.index.find_position(log, at, upto, durable, footers),
        }
    }

    pub(super) fn start_read<D: Disk>(
        &mut self,
        disk: &mut D,
        ticket: ReadTicket,
        wanted: Wanted,
    ) -> Result<(), NotStored> {
        match self.lookup(wanted, u64::MAX) {
            Lookup::Missing => return Err(NotStored::Missing),
            Lookup::NotDurable => return Err(NotStored::NotDurable),
            _ if self.reads.jobs.len() >= READS_MAX => return Err(NotStored::Busy),
            Lookup::Found(_) | Lookup::NeedsFooter(_) => {}
        }
        let job = Job { wanted, upto: u64::MAX, lookups: 0, target: None };
        let older = self.reads.jobs.insert(ticket, job);
        assert!(older.is_none(), "a read ticket is in flight at most once");
        let ended = self.advance(disk, ticket);
        assert!(ended.is_none(), "the first lookup has just been made");
        Ok(())
    }

    /// Starts the next operation of a read; `Some` when it has ended instead.
    fn advance<D: Disk>(&mut self, disk: &mut D, ticket: ReadTicket) -> Option<ReadError> {
        let job = self.reads.jobs.get_mut(&ticket).expect("the read is in flight");
        job.lookups += 1;
        if job.lookups > LOOKUPS_MAX {
            return Some(ReadError::Io("reads push each other's index out of memory".into()));
        }
        let (wanted, upto) = (job.wanted, job.upto);
        let (number, target) = match self.lookup(wanted, upto) {
            Lookup::Found(found) => (found.segment, Some(found)),
            Lookup::NeedsFooter(number) => (number, None),
            Lookup::Missing | Lookup::NotDurable => return Some(ReadError::Missing),
        };
        let job = self.reads.jobs.get_mut(&ticket).expect("as above");
        if number < upto {
            (job.upto, job.lookups) = (number, 0);
        }
        if let Some(waiting) = self.reads.loads.get_mut(&number) {
            // Its file or footer is on its way for another read.
            waiting.push(ticket);
            return None;
        }
        let segment = self.index.segment(number).expect("the index names what stands");
        let Some(file) = segment.file else {
            self.reads.loads.insert(number, vec![ticket]);
            let name = join(&self.folder, &segment_name(number));
            disk.open_async(self.tokens.issue(Op::OpenFile(number)), &name, FileOptions::Read);
            return None;
        };
        self.reads.touch(number);
        let (op, offset, size) = match target {
            Some(found) => {
                let job = self.reads.jobs.get_mut(&ticket).expect("as above");
                let size = entry_size(found.entry.value_size as usize);
                let offset = u64::from(found.entry.offset);
                job.target = Some(found);
                (Op::ReadEntry(ticket), offset, size)
            }
            None => {
                self.reads.loads.insert(number, vec![ticket]);
                let segment = self.index.segment(number).expect("as above");
                let offset = segment.footer_offset(self.options.segment_bytes);
                (Op::LoadFooter(number), offset, segment.footer_bytes as usize)
            }
        };
        let buffer = self.options.pool.take(size);
        disk.read(self.tokens.issue(op), file, offset, buffer, size);
        None
    }

    pub(super) fn on_read<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        op: Op,
        event: DiskEvent,
        out: &mut Vec<LogEvent>,
    ) {
        if let (Op::OpenFile(number), Err(error)) = (op, &event.result)
            && error.is_out_of_files()
            && self.put_off(now, disk, number, error)
        {
            return;
        }
        let (number, loaded) = match op {
            Op::ReadEntry(ticket) => {
                let result = self.finish_entry(ticket, event);
                self.reads.jobs.remove(&ticket);
                // (A damaged footer is made again by the next start in any case.)
                if let Err(ReadError::Damaged(damage)) = &result {
                    self.mark_damage(disk, damage);
                }
                out.push(LogEvent::Read { ticket, result });
                return;
            }
            Op::OpenFile(number) => (number, self.finish_open(disk, number, event)),
            Op::LoadFooter(number) => (number, self.finish_footer(number, event)),
            _ => unreachable!("only operations of reads come here"),
        };
        let waiting = self.reads.loads.remove(&number).expect("a load has a read that waits");
        for ticket in waiting {
            let ended = match &loaded {
                Ok(()) => self.advance(disk, ticket),
                Err(error) => Some(error.clone()),
            };
            if let Some(error) = ended {
                self.reads.jobs.remove(&ticket);
                out.push(LogEvent::Read { ticket, result: Err(error) });
            }
        }
    }

    /// Too many files are open: the one unused for longest gives way, and the segment is opened then,
    /// or after a while. `false`: it has been tried often enough.
    fn put_off<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        number: u64,
        error: &DiskError,
    ) -> bool {
        let reads = &mut self.reads;
        let attempts = reads.attempts.entry(number).or_default();
        *attempts += 1;
        if *attempts >= OPEN_ATTEMPTS_MAX {
            return false;
        }
        let later = reads.shortage.met(now, &"reading old records", error);
        reads.retry_at = Some(reads.give_way(&mut self.index, disk, now, later));
        reads.unopened.push(number);
        true
    }

    /// Opens again what could not be opened, if it is time.
    pub(super) fn open_again<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        if self.reads.deadline().is_none_or(|retry_at| retry_at > now) {
            return;
        }
        for number in std::mem::take(&mut self.reads.unopened) {
            let name = join(&self.folder, &segment_name(number));
            disk.open_async(self.tokens.issue(Op::OpenFile(number)), &name, FileOptions::Read);
        }
    }

    fn finish_open<D: Disk>(
        &mut self,
        disk: &mut D,
        number: u64,
        event: DiskEvent,
    ) -> Result<(), ReadError> {
        self.reads.attempts.remove(&number);
        if event.result.is_ok() {
            self.reads.shortage.over(&"reading old records");
        }
        let id = event.result.map_err(|error| ReadError::Io(error.to_string()))?;
        let segment = self.index.segment_mut(number).expect("the index names what stands");
        assert_eq!(segment.footer, Footer::Written, "the file of a segment in memory is open");
        segment.file = Some(FileId(id));
        self.reads.opened(&mut self.index, disk, number);
        Ok(())
    }

    fn finish_footer(&mut self, number: u64, event: DiskEvent) -> Result<(), ReadError> {
        let done = event.result.map_err(|error| ReadError::Io(error.to_string()))?;
        let buffer = event.buffer.expect("a read gives its buffer back");
        let segment = self.index.segment(number).expect("the index names what stands");
        let size = segment.footer_bytes as usize;
        let offset = segment.footer_offset(self.options.segment_bytes);
        let place = self.options.place(number, segment.generation);
        let decoded = match done as usize == size {
            true => footer::decode(&buffer[..size], &place),
            false => Err(format!("only {done} of {size} bytes could be read")),
        };
        let name = join(&self.folder, &segment_name(number));
        let (_, entries) =
            decoded.map_err(|why| ReadError::Damaged(Damage::new(&name, offset, None, why)))?;
        self.reads.footers.insert(number, Rc::new(LoadedFooter::new(entries)));
        Ok(())
    }

    fn finish_entry(
        &mut self,
        ticket: ReadTicket,
        event: DiskEvent,
    ) -> Result<ReadEntry, ReadError> {
        let job = self.reads.jobs.get(&ticket).expect("the read is in flight");
        let target = job.target.as_ref().expect("an entry is read from a place");
        let done = event.result.map_err(|error| ReadError::Io(error.to_string()))?;
        let buffer = event.buffer.expect("a read gives its buffer back");
        let generation = self.index.segment(target.segment).map_or(0, |s| s.generation);
        let place = self.options.place(target.segment, generation);
        let entry = &target.entry;
        let batch = open_entry(buffer, done as usize, &place, entry).map_err(|why| {
            let name = join(&self.folder, &segment_name(target.segment));
            let damage = Damage::new(&name, u64::from(entry.offset), Some(entry.slot), why);
            ReadError::Damaged(damage)
        })?;
        let (slot, ballot, placement) = (entry.slot, entry.ballot, entry.placement());
        Ok(ReadEntry { slot, ballot, placement, batch })
    }
}

/// Verifies the entry in the first `length` bytes of `buffer` and makes it a batch, without a
/// copy of the value.
pub(super) fn open_entry(
    buffer: BlockBuf,
    length: usize,
    place: &super::format::Place,
    entry: &super::index::IndexEntry,
) -> Result<Batch, String> {
    let bytes = &buffer[..length];
    let (header, _) = EntryHeader::decode(bytes)?;
    header.stands_at(place, u64::from(entry.offset))?;
    if header.kind != EntryKind::Value
        || (header.slot, header.ballot, header.value_size)
            != (entry.slot, entry.ballot, entry.value_size)
    {
        let (slot, ballot) = (header.slot, header.ballot);
        return Err(format!("slot {slot} of ballot {ballot} stands here, which is not indexed so"));
    }
    header.check_value(bytes)?;
    match header.value_size {
        0 => Ok(Batch::noop()),
        size => Ok(Batch::of_entry(buffer, size as usize, header.value_checksum)),
    }
}
