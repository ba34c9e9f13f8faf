//! The operations of [`Disk`]: queued, started with a latency and perhaps a fault, completed.

use std::io;
use std::time::Duration;

use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::base::{BlockBuf, Checksum, Instant};
use crate::io::{Disk, DiskError, DiskEvent, FileId, FileOptions, Sync, Token, WritePart};

use super::content::{SECTOR_SIZE, WriteMark};
use super::faults::{OpFault, OpKind};
use super::names::Inode;
use super::{CHANCES, IN_FLIGHT_MAX, SimDisk, counts};

/// How much longer a straggler takes.
const STRAGGLER_FACTOR: u32 = 10;

/// A write of a file.
pub(super) struct Write {
    pub file: FileId,
    pub offset: u64,
    pub parts: Vec<WritePart>,
    pub length: usize,
    pub sync: Sync,
    /// Of its bytes when it was started.
    checksum: Checksum,
}

impl Write {
    fn bytes(&self) -> Vec<u8> {
        let parts: Vec<&[u8]> = self.parts.iter().map(WritePart::bytes).collect();
        let bytes = parts.concat();
        assert_eq!(Checksum::of(&bytes), self.checksum, "memory in flight does not change");
        bytes
    }

    /// Whether both touch one block of what is taken for one file.
    fn overlaps(&self, other: &Write) -> bool {
        self.offset < other.offset + other.length as u64
            && other.offset < self.offset + self.length as u64
    }
}

pub(super) enum Op {
    Read { file: FileId, offset: u64, buffer: BlockBuf, length: usize },
    Write(Write),
    Allocate { file: FileId, length: u64 },
    Flush { file: FileId },
    Open { name: String, options: FileOptions },
    Rename { from: String, to: String },
    SyncFolder { folder: String },
}

impl Op {
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Read { .. } => OpKind::Read,
            Op::Write(_) => OpKind::Write,
            Op::Allocate { .. } => OpKind::Allocate,
            Op::Flush { .. } | Op::SyncFolder { .. } => OpKind::Flush,
            Op::Open { .. } | Op::Rename { .. } => OpKind::Name,
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Op::Read { file, .. } | Op::Allocate { file, .. } | Op::Flush { file } => Some(*file),
            Op::Write(write) => Some(write.file),
            Op::Open { .. } | Op::Rename { .. } | Op::SyncFolder { .. } => None,
        }
    }
}

/// An operation that was started.
pub(super) struct Flight {
    pub token: Token,
    pub order: u64,
    pub op: Op,
    /// The file it works on; `None`: no file, or one that is not open.
    inode: Option<Inode>,
    fault: Option<OpFault>,
    /// Completions before it was started.
    done_before: u64,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

pub(super) fn enospc() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

fn ebadf() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

pub(super) fn assert_aligned(offset: u64, length: usize) {
    assert!(offset.is_multiple_of(BLOCK_SIZE as u64), "offset {offset} is not block-aligned");
    assert!(length.is_multiple_of(BLOCK_SIZE), "a length of {length} bytes is not block-aligned");
    assert!(length > 0, "a transfer has bytes");
}

impl SimDisk {
    pub(super) fn chance(&mut self, chance: u32) -> bool {
        chance > 0 && self.rng.below(CHANCES) < u64::from(chance)
    }

    /// The fault of the operation that starts now, ordered or drawn.
    pub(super) fn draw_fault(&mut self, kind: OpKind) -> Option<OpFault> {
        let mut ordered = None;
        self.planned.retain_mut(|planned| {
            if planned.kind != kind || ordered.is_some() {
                return true;
            }
            match planned.skip.checked_sub(1) {
                Some(skip) => planned.skip = skip,
                None => {
                    ordered = Some(planned.fault);
                    return false;
                }
            }
            true
        });
        if ordered.is_some() {
            return ordered;
        }
        let faults = self.options.faults;
        match kind {
            OpKind::Read => self.chance(faults.read_error).then_some(OpFault::Error),
            OpKind::Flush => self.chance(faults.flush_error).then_some(OpFault::Error),
            OpKind::Name => self.chance(faults.name_error).then_some(OpFault::Error),
            OpKind::Allocate => None,
            OpKind::Write => {
                if self.chance(faults.write_error) {
                    Some(OpFault::Error)
                } else if self.chance(faults.lost_write) {
                    Some(OpFault::Lost)
                } else if self.chance(faults.misdirected_write) {
                    Some(OpFault::Misdirected)
                } else if self.chance(faults.short_write) {
                    // How short is drawn when it completes.
                    Some(OpFault::Short(u32::MAX))
                } else {
                    None
                }
            }
        }
    }

    fn latency(&mut self, now: Instant, op: &Op) -> Duration {
        let timing = self.options.timing;
        let (range, bytes, flush) = match op {
            Op::Read { length, .. } => (timing.read, *length, false),
            Op::Write(write) => (timing.write, write.length, write.sync == Sync::Durable),
            Op::Flush { .. } | Op::SyncFolder { .. } => (timing.flush, 0, false),
            Op::Allocate { .. } | Op::Open { .. } | Op::Rename { .. } => (timing.name, 0, false),
        };
        let mut time = self.rng.between(range.0, range.1);
        if flush {
            time += self.rng.between(timing.flush.0, timing.flush.1);
        }
        time += Duration::from_nanos(bytes as u64 * 1_000_000_000 / timing.bytes_per_s.max(1));
        if self.chance(timing.stragglers) {
            self.counters.hit(counts::STRAGGLER);
            time *= STRAGGLER_FACTOR;
        }
        let faults = self.options.faults;
        if self.chance(faults.slow_period) {
            let (low, high) = faults.slow_for;
            let until = now + self.rng.between(low, high);
            self.slow_down(until);
        }
        if now < self.slow_until {
            time *= faults.slow_factor;
        }
        time
    }

    pub(super) fn start(&mut self, now: Instant, token: Token, op: Op) {
        assert!(self.flights.len() < IN_FLIGHT_MAX, "operations in flight are bounded");
        assert!(self.flights.values().all(|f| f.token != token), "a token is in flight once");
        if let Op::Write(write) = &op {
            self.check_write(write);
        }
        let handle = op.file().and_then(|file| self.handles.get_mut(&file.0));
        let inode = handle.map(|handle| {
            handle.in_flight += 1;
            handle.inode
        });
        let fault = self.draw_fault(op.kind());
        let at = now + self.latency(now, &op);
        let order = self.next_order;
        self.next_order += 1;
        let done_before = self.done;
        let flight = Flight { token, order, op, inode, fault, done_before };
        self.flights.insert((at, order), flight);
    }

    /// What the log must never do.
    fn check_write(&self, write: &Write) {
        let Some(handle) = self.handles.get(&write.file.0) else { return };
        for flight in self.flights.values() {
            if let Op::Write(other) = &flight.op
                && flight.inode == Some(handle.inode)
            {
                let (a, b) = (write.offset, other.offset);
                let name = &handle.name;
                assert!(!write.overlaps(other), "two writes in flight on {name}: at {a} and {b}");
            }
        }
        let file = &self.files[&handle.inode];
        let end = write.offset + write.length as u64;
        let exempt = handle.name.ends_with("vote") || end == file.length();
        if self.options.check_overwrites && !exempt {
            for number in write.offset / BLOCK_SIZE as u64..end / BLOCK_SIZE as u64 {
                let offset = number * BLOCK_SIZE as u64;
                let name = &handle.name;
                assert!(
                    !file.is_acknowledged(number),
                    "a write over acknowledged bytes of {name} at {offset}"
                );
            }
        }
    }

    /// The inode behind a handle.
    pub(super) fn inode(&self, file: FileId) -> io::Result<Inode> {
        self.handles.get(&file.0).map(|handle| handle.inode).ok_or_else(ebadf)
    }

    fn next_mark(&self, write: u64) -> WriteMark {
        WriteMark { write, done: self.done }
    }

    pub(super) fn complete(&mut self, flight: Flight) -> DiskEvent {
        if self.flights.values().any(|other| other.order < flight.order) {
            self.counters.hit(counts::REORDERED);
        }
        if let Some(handle) = flight.op.file().and_then(|file| self.handles.get_mut(&file.0)) {
            handle.in_flight -= 1;
        }
        let Flight { token, order, op, inode, fault, done_before } = flight;
        let what = self.describe(&op);
        let mut buffer = None;
        let on_file = inode.ok_or_else(ebadf);
        let result = match op {
            Op::Read { offset, buffer: mut memory, length, .. } => {
                let result = on_file
                    .and_then(|inode| self.read_now(inode, offset, &mut memory[..length], fault));
                buffer = Some(memory);
                result.map(|count| count as u32)
            }
            Op::Write(write) => on_file.and_then(|inode| {
                match self.handles.get(&write.file.0).is_some_and(|handle| handle.writable) {
                    true => self.write_now(inode, &write, order, fault),
                    false => Err(ebadf()),
                }
            }),
            Op::Allocate { length, .. } => {
                on_file.and_then(|inode| self.allocate_now(inode, length, fault)).map(|()| 0)
            }
            Op::Flush { .. } => on_file
                .and_then(|inode| self.flush_now(inode, done_before, true, fault))
                .map(|()| 0),
            Op::Open { name, options } => self.open_now(&name, options, fault).map(|file| file.0),
            Op::Rename { from, to } => self.rename_now(&from, &to, fault).map(|()| 0),
            Op::SyncFolder { folder } => {
                self.sync_folder_now(&folder, done_before, fault).map(|()| 0)
            }
        };
        self.done += 1;
        let result = result.map_err(|source| DiskError { what, source });
        DiskEvent { token, result, buffer }
    }

    fn describe(&self, op: &Op) -> String {
        let name = |file: &FileId| self.handles.get(&file.0).map_or("a closed file", |h| &h.name);
        match op {
            Op::Read { file, offset, length, .. } => {
                format!("reading {length} bytes of {} at {offset}", name(file))
            }
            Op::Write(write) => {
                let (length, offset) = (write.length, write.offset);
                format!("writing {length} bytes of {} at {offset}", name(&write.file))
            }
            Op::Allocate { file, length } => format!("reserving {length} bytes of {}", name(file)),
            Op::Flush { file } => format!("flushing {}", name(file)),
            Op::Open { name, .. } => format!("opening {name}"),
            Op::Rename { from, to } => format!("renaming {from} to {to}"),
            Op::SyncFolder { folder } => format!("flushing the folder {folder:?}"),
        }
    }

    pub(super) fn read_now(
        &mut self,
        inode: Inode,
        offset: u64,
        out: &mut [u8],
        fault: Option<OpFault>,
    ) -> io::Result<usize> {
        let content = &self.files[&inode];
        self.counters.hit(counts::READS);
        if fault.is_some() || content.is_unreadable(offset, out.len()) {
            self.counters.hit(counts::READ_ERROR);
            return Err(eio());
        }
        Ok(content.read(offset, out))
    }

    /// Ends a write; the event's count of bytes.
    fn write_now(
        &mut self,
        inode: Inode,
        write: &Write,
        order: u64,
        fault: Option<OpFault>,
    ) -> io::Result<u32> {
        self.reserve(inode, write.offset + write.length as u64, fault)?;
        self.counters.hit(counts::WRITES);
        let bytes = write.bytes();
        let (stored, told) = self.store(inode, write.offset, &bytes, order, fault);
        let file = self.files.get_mut(&inode).expect("an open file stands");
        if write.sync == Sync::Durable && told.is_ok() {
            let acknowledge = stored == Some(write.offset);
            // A short write is durable as far as it goes; nobody may count on it.
            let acknowledge = acknowledge && fault.is_none();
            if let Some(offset) = stored {
                file.make_durable(offset, write.length, acknowledge);
            }
        }
        told.map(|count| count as u32)
    }

    /// Stores bytes with whatever goes wrong. Returns where they went (`None`: nowhere) and what
    /// the writer is told.
    pub(super) fn store(
        &mut self,
        inode: Inode,
        offset: u64,
        bytes: &[u8],
        order: u64,
        fault: Option<OpFault>,
    ) -> (Option<u64>, io::Result<usize>) {
        let mark = self.next_mark(order);
        let sectors = (bytes.len() / SECTOR_SIZE) as u64;
        let some_of_it = self.rng.below(sectors) as usize * SECTOR_SIZE;
        let file = self.files.get_mut(&inode).expect("an open file stands");
        match fault {
            None | Some(OpFault::Full | OpFault::NoFile) => {
                file.write(offset, bytes, bytes.len(), mark);
                (Some(offset), Ok(bytes.len()))
            }
            Some(OpFault::Error) => {
                self.counters.hit(counts::WRITE_ERROR);
                file.write(offset, bytes, some_of_it, mark);
                (None, Err(eio()))
            }
            Some(OpFault::Short(wanted)) => {
                self.counters.hit(counts::SHORT_WRITE);
                let length = match wanted {
                    u32::MAX => some_of_it,
                    wanted => (wanted as usize).min(bytes.len()),
                };
                file.write(offset, bytes, length, mark);
                (Some(offset), Ok(length))
            }
            Some(OpFault::Lost) => {
                self.counters.hit(counts::LOST_WRITE);
                (None, Ok(bytes.len()))
            }
            Some(OpFault::Misdirected) => {
                self.counters.hit(counts::MISDIRECTED);
                let block = BLOCK_SIZE as u64;
                let room = file.length().saturating_sub(bytes.len() as u64) / block;
                let elsewhere = self.rng.below(room + 1) * block;
                file.write(elsewhere, bytes, bytes.len(), mark);
                (Some(elsewhere), Ok(bytes.len()))
            }
        }
    }

    /// Finds room for the file up to `end`.
    pub(super) fn reserve(
        &mut self,
        inode: Inode,
        end: u64,
        fault: Option<OpFault>,
    ) -> io::Result<()> {
        let more = end.saturating_sub(self.files[&inode].reserved);
        let full = more > 0 && self.used_bytes().saturating_add(more) > self.options.capacity_bytes;
        if full || fault == Some(OpFault::Full) {
            self.counters.hit(counts::FULL);
            return Err(enospc());
        }
        Ok(())
    }

    fn allocate_now(
        &mut self,
        inode: Inode,
        length: u64,
        fault: Option<OpFault>,
    ) -> io::Result<()> {
        if fault == Some(OpFault::Error) {
            return Err(eio());
        }
        self.reserve(inode, length, fault)?;
        self.files.get_mut(&inode).expect("an open file stands").extend(length);
        Ok(())
    }

    pub(super) fn flush_now(
        &mut self,
        inode: Inode,
        done_before: u64,
        acknowledge: bool,
        fault: Option<OpFault>,
    ) -> io::Result<()> {
        self.counters.hit(counts::FLUSHES);
        let content = self.files.get_mut(&inode).expect("an open file stands");
        if fault.is_some() {
            self.counters.hit(counts::FLUSH_ERROR);
            content.flush_failed(done_before);
            return Err(eio());
        }
        content.flushed(done_before, acknowledge);
        Ok(())
    }

    // ---- crashes ----------------------------------------------------------------------------

    /// The process is gone; the operation ends in any way, and nobody is told.
    pub(super) fn end_unseen(&mut self, flight: Flight, rng: &mut Rng) {
        let Flight { op, inode, order, done_before, .. } = flight;
        let any = rng.below(4);
        if any == 0 {
            return;
        }
        match (op, inode) {
            (Op::Write(write), Some(inode)) => {
                let end = write.offset + write.length as u64;
                if self.reserve(inode, end, None).is_err() {
                    return;
                }
                let mark = self.next_mark(order);
                let sectors = (write.length / SECTOR_SIZE) as u64;
                let partly = rng.below(sectors) as usize * SECTOR_SIZE;
                let length = if any == 1 { partly } else { write.length };
                let file = self.files.get_mut(&inode).expect("an open file stands");
                file.write(write.offset, &write.bytes(), length, mark);
            }
            (Op::Allocate { length, .. }, Some(inode)) => {
                drop(self.allocate_now(inode, length, None));
            }
            (Op::Open { name, options: FileOptions::CreateNew }, _) => {
                drop(self.create_now(&name));
            }
            (Op::Rename { from, to }, _) => drop(self.rename_now(&from, &to, None)),
            (Op::SyncFolder { folder }, _) => {
                drop(self.sync_folder_now(&folder, done_before, None));
            }
            // A flush that nobody hears of promises nothing.
            _ => {}
        }
        self.done += 1;
    }

    /// The power is lost: what was in flight becomes one more thing that may arrive.
    pub(super) fn end_at_power_loss(&mut self, flight: Flight, rng: &mut Rng) {
        match (&flight.op, flight.inode) {
            (Op::Write(write), Some(inode)) => {
                let end = write.offset + write.length as u64;
                if self.reserve(inode, end, None).is_ok() {
                    let file = self.files.get_mut(&inode).expect("an open file stands");
                    file.in_flight(write.offset, &write.bytes(), flight.order);
                }
            }
            _ => self.end_unseen(flight, rng),
        }
    }
}

impl Disk for SimDisk {
    fn read(&mut self, token: Token, file: FileId, offset: u64, buffer: BlockBuf, length: usize) {
        assert_aligned(offset, length);
        assert!(length <= buffer.capacity(), "a read fits its buffer");
        self.queued.push((token, Op::Read { file, offset, buffer, length }));
    }

    fn write(
        &mut self,
        token: Token,
        file: FileId,
        offset: u64,
        parts: Vec<WritePart>,
        sync: Sync,
    ) {
        assert!(parts.len() <= SimDisk::WRITE_PARTS_MAX, "a write has a bounded number of parts");
        for part in &parts {
            assert_aligned(0, part.bytes().len());
            let address = part.bytes().as_ptr() as usize;
            assert!(address.is_multiple_of(BLOCK_SIZE), "the memory is not block-aligned");
        }
        let length = parts.iter().map(|part| part.bytes().len()).sum();
        assert_aligned(offset, length);
        let slices: Vec<&[u8]> = parts.iter().map(WritePart::bytes).collect();
        let checksum = Checksum::of_parts(&slices);
        let write = Write { file, offset, parts, length, sync, checksum };
        self.queued.push((token, Op::Write(write)));
    }

    fn allocate(&mut self, token: Token, file: FileId, length: u64) {
        self.queued.push((token, Op::Allocate { file, length }));
    }

    fn flush(&mut self, token: Token, file: FileId) {
        self.queued.push((token, Op::Flush { file }));
    }

    fn open_async(&mut self, token: Token, name: &str, options: FileOptions) {
        self.queued.push((token, Op::Open { name: name.to_owned(), options }));
    }

    fn rename_async(&mut self, token: Token, from: &str, to: &str) {
        self.queued.push((token, Op::Rename { from: from.to_owned(), to: to.to_owned() }));
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.options.capacity_bytes.saturating_sub(self.used_bytes()))
    }

    fn sync_folder_async(&mut self, token: Token, folder: &str) {
        self.queued.push((token, Op::SyncFolder { folder: folder.to_owned() }));
    }
}
