//! The way of an entry to the disk: queued, gathered into one vectored write per run of entries,
//! acknowledged in order.
//!
//! An entry's place is known when it is appended; its header is stamped when its write starts, so
//! that it can tell what was durable at that moment. Example of why: entry 7 is in flight, 8 is
//! queued; 7 completes and is acknowledged, then 8 is written. Stamped while it was queued, 8
//! would say "6 is durable", and rot of 7 would later look like a torn tail and be cut.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::base::limits::BLOCK_SIZE;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Batch, Checksum, Instant, Slot};
use crate::io::{Disk, DiskEvent, FileId, Sync, WritePart};

use super::format::{EntryHeader, EntryKind, SegmentHeader, segment_name};
use super::index::Footer;
use super::{
    AppendId, Entry, Log, LogEvent, LogFailure, LogSync, Op, SECOND_WRITE_EQUAL_BYTES_MAX,
    WRITE_BYTES_MAX, WRITES_UNACKNOWLEDGED_MAX, footer, placements,
};

struct Pending {
    /// `None`: an idle mark.
    id: Option<AppendId>,
    slot: Slot,
    ballot: Ballot,
    chosen: Slot,
    batch: Batch,
    placement_bytes_max: u32,
    segment: u64,
    offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Writing,
    Flushing,
    Done,
}

/// One write started and not yet acknowledged.
struct Write {
    number: u64,
    file: FileId,
    segment: u64,
    bytes: u32,
    /// Of the values in it.
    value_bytes: usize,
    last_sequence: u64,
    /// The last of the caller's appends in it.
    id: Option<AppendId>,
    slot_max: Slot,
    stage: Stage,
}

/// The queue and the writes in flight.
pub(super) struct Writer {
    queue: VecDeque<Pending>,
    queued_bytes: usize,
    /// Of the values alone.
    queued_value_bytes: usize,
    /// In log order.
    writes: VecDeque<Write>,
    next_write: u64,
    next_id: u64,
    /// The sequence of the next entry to be stamped.
    next_sequence: u64,
    /// The checksum of the last header stamped.
    previous: Checksum,
    /// Everything up to this sequence is durable and acknowledged.
    durable: u64,
    /// The chosen watermark of the last entry, for marks.
    chosen: Slot,
    /// Bytes placed since the log was opened.
    placed_bytes: u64,
    /// Of the last writes, the older ones weighing less and less.
    write_bytes_mean: usize,
    /// See [`super::LogOptions::second_write_bytes_min`].
    second_write_bytes_min: usize,
    /// Since when everything is acknowledged and not yet attested by a later entry.
    unmarked_since: Option<Instant>,
    /// The last entry that recovery found is not attested: the mark's time begins with the first
    /// turn.
    unmarked_at_open: bool,
}

impl Writer {
    pub fn new(
        next_sequence: u64,
        previous: Checksum,
        chosen: Slot,
        second_write_bytes_min: usize,
        unmarked: bool,
    ) -> Writer {
        Writer {
            second_write_bytes_min,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_value_bytes: 0,
            writes: VecDeque::new(),
            next_write: 0,
            next_id: 1,
            next_sequence,
            previous,
            durable: next_sequence - 1,
            chosen,
            placed_bytes: 0,
            write_bytes_mean: 0,
            unmarked_since: None,
            unmarked_at_open: unmarked,
        }
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether no write is under way or waits.
    pub fn is_at_rest(&self) -> bool {
        self.writes.is_empty() && self.queue.is_empty()
    }

    pub fn placed_bytes(&self) -> u64 {
        self.placed_bytes
    }

    /// The size of a write in the mean of the last ones, in bytes.
    pub fn write_bytes_mean(&self) -> usize {
        self.write_bytes_mean
    }

    pub fn queued_count(&self) -> usize {
        self.queue.len()
    }

    /// Whether values of so many bytes more would start to be written now.
    pub fn is_free_for(&self, bytes: usize) -> bool {
        let waiting = self.queued_value_bytes + bytes;
        match self.writes.len() {
            0 => self.queued_bytes < WRITE_BYTES_MAX,
            count if count < WRITES_UNACKNOWLEDGED_MAX => {
                waiting >= self.second_write_from() && self.queued_bytes < WRITE_BYTES_MAX
            }
            _ => false,
        }
    }

    /// Bytes of values with which a second write starts beside the one in flight.
    fn second_write_from(&self) -> usize {
        let first = self.writes.back().map_or(0, |write| write.value_bytes);
        match first {
            ..=SECOND_WRITE_EQUAL_BYTES_MAX => first.min(self.second_write_bytes_min),
            _ => self.second_write_bytes_min,
        }
    }

    fn may_start(&self) -> bool {
        match self.writes.len() {
            0 => !self.queue.is_empty(),
            count if count < WRITES_UNACKNOWLEDGED_MAX => {
                !self.queue.is_empty() && self.queued_value_bytes >= self.second_write_from()
            }
            _ => false,
        }
    }

    pub fn queue_entry(&mut self, entry: Entry<'_>, segment: u64, offset: u64) -> AppendId {
        let id = AppendId(self.next_id);
        self.next_id += 1;
        self.chosen = self.chosen.max(entry.chosen);
        self.unmarked_since = None;
        self.unmarked_at_open = false;
        self.push(Pending {
            id: Some(id),
            slot: entry.slot,
            ballot: entry.ballot,
            chosen: entry.chosen,
            batch: entry.batch.clone(),
            placement_bytes_max: entry.placement_bytes_max,
            segment,
            offset,
        });
        id
    }

    fn push(&mut self, pending: Pending) {
        let size = pending.batch.entry_size();
        self.queued_bytes += size;
        self.queued_value_bytes += pending.batch.value_size();
        self.placed_bytes += size as u64;
        self.queue.push_back(pending);
    }
}

impl Log {
    /// The segment and offset of the next entry of `size` bytes, whose placement takes up to
    /// `placement_bytes_max` in the footer.
    pub(super) fn place(&mut self, size: usize, placement_bytes_max: u32) -> (u64, u64) {
        if !self.index.active_fits(size, placement_bytes_max) {
            let number = self.index.begin_next();
            self.index.active_mut().file = self.preparer.take(number);
        }
        let active = self.index.active();
        (active.number, active.tail)
    }

    pub(super) fn start_writes<D: Disk>(&mut self, disk: &mut D) {
        while self.writer.may_start() {
            let head = self.writer.queue.front().expect("something waits");
            let number = head.segment;
            let segment = self.index.segment(number).expect("placed entries have a segment");
            // Without a file the segment is still being prepared: entries wait.
            let Some(file) = segment.file else { return };
            self.start_write(disk, number, file);
        }
    }

    /// Starts one write of the entries at the head of the queue that stand in this segment.
    fn start_write<D: Disk>(&mut self, disk: &mut D, number: u64, file: FileId) {
        let segment = self.index.segment(number).expect("placed entries have a segment");
        let place = self.options.place(number, segment.generation);
        let mut offset = self.writer.queue[0].offset;
        let mut parts = Vec::new();
        let mut bytes = 0;
        if offset == BLOCK_SIZE as u64 {
            // The first entries take the segment's header along, in the same write.
            let mut block = self.options.pool.take(BLOCK_SIZE);
            let header = SegmentHeader {
                place,
                segment_bytes: self.options.segment_bytes,
                first_sequence: self.writer.next_sequence,
                durable_sequence: self.writer.durable,
                previous: self.writer.previous,
            };
            header.encode(&mut block);
            parts.push(WritePart::Buffer(Rc::new(block), BLOCK_SIZE));
            bytes += BLOCK_SIZE;
            offset = 0;
        }
        let (mut id, mut slot_max, mut told) = (None, Slot::NONE, Slot::NONE);
        let mut value_bytes = 0;
        while let Some(head) = self.writer.queue.front() {
            let size = head.batch.entry_size();
            let fits = parts.len() < D::WRITE_PARTS_MAX && bytes + size <= WRITE_BYTES_MAX;
            if head.segment != number || !fits {
                break;
            }
            let pending = self.writer.queue.pop_front().expect("there is a head");
            assert_eq!(pending.offset, offset + bytes as u64, "a run is contiguous");
            id = pending.id.or(id);
            slot_max = slot_max.max(pending.slot);
            told = told.max(pending.chosen);
            parts.push(WritePart::Entry(self.stamp(&pending, place)));
            self.writer.queued_bytes -= size;
            self.writer.queued_value_bytes -= pending.batch.value_size();
            value_bytes += pending.batch.value_size();
            bytes += size;
        }
        let previous = self.writer.previous;
        let segment = self.index.segment_mut(number).expect("as above");
        (segment.last, segment.told) = (previous, segment.told.max(told));
        let write_number = self.writer.next_write;
        self.writer.next_write += 1;
        self.writer.write_bytes_mean = (self.writer.write_bytes_mean * 7 + bytes) / 8;
        self.writer.writes.push_back(Write {
            number: write_number,
            file,
            segment: number,
            bytes: bytes as u32,
            value_bytes,
            last_sequence: self.writer.next_sequence - 1,
            id,
            slot_max,
            stage: Stage::Writing,
        });
        let sync = match self.options.log_sync {
            LogSync::Dsync
                if !planted(Mutant::LogWriteNotDurable)
                    && !planted(Mutant::LogReplyBeforeFlush) =>
            {
                Sync::Durable
            }
            LogSync::Dsync | LogSync::WriteThenFsync => Sync::Cached,
        };
        disk.write(self.tokens.issue(Op::Write(write_number)), file, offset, parts, sync);
    }

    fn stamp(&mut self, pending: &Pending, place: super::format::Place) -> Batch {
        let header = EntryHeader {
            place,
            kind: if pending.id.is_some() { EntryKind::Value } else { EntryKind::Mark },
            offset: pending.offset,
            sequence: self.writer.next_sequence,
            durable_sequence: self.writer.durable,
            slot: pending.slot,
            ballot: pending.ballot,
            chosen: pending.chosen,
            value_size: pending.batch.value_size() as u32,
            value_checksum: pending.batch.checksum(),
            placement_bytes_max: pending.placement_bytes_max,
            previous: self.writer.previous,
        };
        self.writer.next_sequence += 1;
        let previous = &mut self.writer.previous;
        pending.batch.stamp(&self.options.pool, |bytes| *previous = header.encode(bytes))
    }

    pub(super) fn on_write<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        number: u64,
        event: DiskEvent,
        out: &mut Vec<LogEvent>,
    ) -> Result<(), LogFailure> {
        let writes = &mut self.writer.writes;
        let Some(write) = writes.iter_mut().find(|write| write.number == number) else {
            let early =
                planted(Mutant::LogReplyBeforeFlush) || planted(Mutant::LogAcknowledgedBeyondHole);
            assert!(early, "the completion is of a write in flight");
            return Ok(());
        };
        let doing = format!("writing {}", segment_name(write.segment));
        let done = match event.result {
            Err(_) if planted(Mutant::FailedWriteIgnored) => write.bytes,
            Err(_) if write.stage == Stage::Flushing && planted(Mutant::FailedFlushRetried) => {
                disk.flush(self.tokens.issue(Op::Write(number)), write.file);
                return Ok(());
            }
            result => result.map_err(|error| LogFailure::failed(&doing, &error))?,
        };
        let flushes = self.options.log_sync == LogSync::WriteThenFsync
            && !planted(Mutant::LogWriteNotDurable)
            || planted(Mutant::LogReplyBeforeFlush);
        match write.stage {
            Stage::Writing if done != write.bytes && !planted(Mutant::ShortWriteTakenAsWhole) => {
                return Err(LogFailure::short(&doing, done, write.bytes));
            }
            Stage::Writing if flushes => {
                write.stage = Stage::Flushing;
                let file = write.file;
                disk.flush(self.tokens.issue(Op::Write(number)), file);
            }
            Stage::Writing | Stage::Flushing => write.stage = Stage::Done,
            Stage::Done => panic!("a write completes once"),
        }
        self.acknowledge(now, out);
        Ok(())
    }

    /// Reports the contiguous completed prefix. A write that overtook an older one waits.
    fn acknowledge(&mut self, now: Instant, out: &mut Vec<LogEvent>) {
        let mut last_id = None;
        let one_done = self.writer.writes.iter().any(|write| write.stage == Stage::Done);
        while self.writer.writes.front().is_some_and(|write| {
            write.stage == Stage::Done
                || (one_done && planted(Mutant::LogAcknowledgedBeyondHole))
                || (write.stage == Stage::Flushing && planted(Mutant::LogReplyBeforeFlush))
        }) {
            let write = self.writer.writes.pop_front().expect("there is a front");
            assert!(write.last_sequence > self.writer.durable, "durability only rises");
            self.writer.durable = write.last_sequence;
            self.stats.durable_writes += 1;
            self.stats.bytes_written += u64::from(write.bytes);
            self.stats.durable_slot = self.stats.durable_slot.max(write.slot_max);
            last_id = write.id.or(last_id);
        }
        if let Some(id) = last_id {
            out.push(LogEvent::Durable(id));
            if self.writer.is_at_rest() {
                self.writer.unmarked_since = Some(now);
            }
        }
    }

    /// When the idle mark is due.
    pub(super) fn mark_deadline(&self) -> Option<Instant> {
        let idle = self.options.mark_idle_after?;
        let (active, prepared_through) =
            (self.index.active().number, self.preparer.prepared_through());
        let fits = prepared_through == active && self.index.active_fits(BLOCK_SIZE, 0)
            || prepared_through > active;
        self.writer.unmarked_since.filter(|_| fits).map(|since| since + idle)
    }

    /// Queues an idle mark when it is due: it attests that the last entries had been durable, and
    /// takes the chosen watermark along.
    pub(super) fn queue_mark(&mut self, now: Instant) {
        if std::mem::take(&mut self.writer.unmarked_at_open) {
            self.writer.unmarked_since = Some(now);
        }
        if self.mark_deadline().is_none_or(|due| due > now) {
            return;
        }
        let (segment, offset) = self.place(BLOCK_SIZE, 0);
        self.index.push(Slot::NONE, Ballot::NONE, 0, 0);
        self.writer.unmarked_since = None;
        self.stats.marks += 1;
        let chosen = self.writer.chosen.max(self.index.applied());
        self.writer.push(Pending {
            id: None,
            slot: Slot::NONE,
            ballot: Ballot::NONE,
            chosen,
            batch: Batch::noop(),
            placement_bytes_max: 0,
            segment,
            offset,
        });
    }

    /// Writes the footers of the sealed segments that are all settled.
    pub(super) fn start_footers<D: Disk>(&mut self, disk: &mut D) {
        let durable = match planted(Mutant::FooterBeforeDurable) {
            true => u64::MAX,
            false => self.writer.durable,
        };
        while let Some(number) = self.index.footer_candidate(durable) {
            let segment = self.index.segment_mut(number).expect("a candidate stands");
            segment.footer = Footer::Writing;
            let trailer = footer::Trailer {
                place: self.options.place(number, segment.generation),
                count: segment.count,
                placements: placements::section_bytes(&segment.entries) as u32,
                first_sequence: segment.first_sequence,
                chosen: segment.applied_max(),
                last: segment.last,
                told: segment.told,
            };
            let bytes = segment.tail + trailer.size() as u64;
            assert!(bytes <= self.options.segment_bytes, "the room for a footer was kept");
            segment.footer_bytes = trailer.size() as u32;
            let mut buffer = self.options.pool.take(trailer.size());
            footer::encode(&trailer, &segment.entries, &mut buffer);
            let offset = segment.footer_offset(self.options.segment_bytes);
            let file = segment.file.expect("a segment in memory is open");
            let parts = vec![WritePart::Buffer(Rc::new(buffer), trailer.size())];
            let token = self.tokens.issue(Op::Footer(number));
            disk.write(token, file, offset, parts, Sync::Durable);
        }
    }

    pub(super) fn on_footer<D: Disk>(
        &mut self,
        disk: &mut D,
        number: u64,
        event: DiskEvent,
    ) -> Result<(), LogFailure> {
        let doing = format!("writing the footer of {}", segment_name(number));
        let done = event.result.map_err(|error| LogFailure::failed(&doing, &error))?;
        let segment = self.index.segment(number).expect("the index names what stands");
        let size = segment.footer_bytes;
        if done != size {
            return Err(LogFailure::short(&doing, done, size));
        }
        let loaded = self.index.footer_written(number);
        self.reads.indexed(&mut self.index, disk, number, loaded);
        Ok(())
    }
}
