//! Prepares segments ahead, in the background: created under a temporary name, reserved, filled
//! with zeros, flushed, renamed, and the folder flushed, so that an append never changes file
//! metadata and a half-made segment is never mistaken for one.
//!
//! The filling is throttled so that commits are not disturbed: one small chunk in flight, and a pause
//! after each, unless the log has used more bytes than have been filled since: then it goes on at
//! once, to keep pace with the log. Every flush of the disk waits for what is being filled meanwhile,
//! so a large chunk is a long commit (measured with three replicas on one disk and 256 appends in
//! flight: chunks of 1 MiB gave a p99 of 2.1 ms, of 256 KiB 1.3 ms).
//!
//! Zeros are for speed only: what is reserved and not filled reads as zeros as well, and a durable
//! write there is as durable, but changes the file's metadata (measured: 4 KiB in 120 us instead of
//! 80). So the filling ends early where it costs more than it saves: when the log's writes are large
//! (everything would be written twice, for a price per write that hardly shows), and when the log is
//! close to running out, since entries would have to wait.
//!
//! Filling costs a busy log nearly half of its throughput where the disk is the limit (everything is
//! written twice, and every flush waits for both), so while nothing is appended, a larger reserve is
//! filled ([`LogOptions::fill_ahead_bytes`]) at a gentle pace. It stops at the next append, and a
//! burst then writes to what was filled before.
//!
//! Of the segments that stand prepared only the next ones are kept open, since there may be thousands
//! (`format --preallocate-bytes`): each time the log goes on to one, another is opened behind the others,
//! long before the log needs it.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::base::limits::{BLOCK_SIZE, KIB, MIB};
use crate::base::mutants::{Mutant, planted};
use crate::base::{BlockBuf, Instant};
use crate::io::{Disk, DiskEvent, FileId, FileOptions, Sync, WritePart};

use super::format::{join, segment_name, segment_temporary};
use super::identity::SEGMENTS_AHEAD_MAX;
use super::shortage::Shortage;
use super::{Log, LogFailure, Op};

/// Bytes filled at once while there is time.
const FILL_BYTES: usize = 64 * KIB;
/// Bytes filled at once when the filling has fallen behind the log.
const FILL_BYTES_BEHIND: usize = 256 * KIB;
/// Bytes filled at once while entries wait, or soon will, for a segment that cannot be used before
/// it is filled.
const FILL_BYTES_URGENT: usize = MIB;
/// The pause after a chunk while there is time, and of one log's reserve: 32 MB/s in the background.
pub(super) const FILL_PAUSE: Duration = Duration::from_millis(2);
/// The reserve is filled when for this long nothing has been appended and no write was under way: not
/// beside a client that appends one record after the other, however slow the disk is.
const FILL_AHEAD_AFTER: Duration = Duration::from_millis(250);
/// The reserve leaves so many segments' room on the disk: for checkpoints, and for whoever else is there.
/// (A reservation that fails for want of room keeps what it got, on ext4 for one.)
const FREE_SEGMENTS_MIN: u64 = 16;
/// How long there is no reserve after the disk was found to have less.
const FREE_LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Prepared segments kept open: the log goes on to one at once, and has a whole segment's time until
/// it needs the one that is opened then. Two, since a few large entries fill a small segment.
pub(super) const SPARES_OPEN_MAX: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Allocate,
    Fill,
    Flush,
    Rename,
    SyncFolder,
}

struct Job {
    number: u64,
    stage: Stage,
    file: Option<FileId>,
    filled: u64,
    /// The whole file is reserved: it can be used as it is.
    reserved: bool,
    /// Asked for in the chunk in flight.
    chunk: usize,
    /// After that chunk.
    pause: Duration,
    /// The log's count of placed bytes when the job began, or last was for the reserve only.
    placed_at_start: u64,
}

impl Job {
    fn new(number: u64, placed_at_start: u64) -> Job {
        Job {
            number,
            stage: Stage::Open,
            file: None,
            filled: 0,
            reserved: false,
            chunk: 0,
            pause: FILL_PAUSE,
            placed_at_start,
        }
    }

    /// Whether the log, which has `placed` so many bytes, uses more than is filled meanwhile.
    fn is_behind(&self, placed: u64) -> bool {
        let used = placed - self.placed_at_start;
        used + used / 4 > self.filled
    }
}

/// What the next segment would be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: as many stand as should.
    None,
    /// For the reserve, while nothing is appended.
    Reserve,
    /// To be one of those that always stand.
    Spare,
    /// Entries wait for it, or soon will.
    Urgent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurry {
    None,
    Behind,
    Urgent,
}

impl Hurry {
    fn chunk(self) -> usize {
        match self {
            Hurry::None => FILL_BYTES,
            Hurry::Behind => FILL_BYTES_BEHIND,
            Hurry::Urgent => FILL_BYTES_URGENT,
        }
    }
}

/// Since when nothing has been appended, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    placed: u64,
    /// A write was under way or waited.
    writing: bool,
    since: Option<Instant>,
}

impl Quiet {
    /// The log has `placed` so many bytes now and is `writing` or not. The quiet begins when the last
    /// write has ended.
    fn look(&mut self, now: Instant, placed: u64, writing: bool) -> Instant {
        let ends = placed != self.placed || writing || self.writing;
        let since = self.since.filter(|_| !ends).unwrap_or(now);
        *self = Quiet { placed, writing, since: Some(since) };
        since
    }
}

/// The segments prepared, and the one being prepared.
pub(super) struct Preparer {
    prepared_through: u64,
    /// Of those behind the active one, the next ones that are open.
    spares: VecDeque<(u64, FileId)>,
    /// The highest segment that is open, has been, or is being opened.
    opened_through: u64,
    /// That one is being opened.
    opening: bool,
    /// No file could be opened for it: not before this time again.
    open_again_at: Option<Instant>,
    open_shortage: Shortage,
    job: Option<Job>,
    in_flight: bool,
    zeros: Option<Rc<BlockBuf>>,
    /// Not before this time, unless it is urgent.
    pause_until: Option<Instant>,
    /// The last attempt has met a full disk, or could open no file.
    full: bool,
    shortage: Shortage,
    full_count: u64,
    unfilled_bytes: u64,
    quiet: Quiet,
    /// The reserve is not full: it is time for it then, if nothing is appended.
    fill_ahead_at: Option<Instant>,
    /// The disk had no room for it: not before this time.
    roomless_until: Option<Instant>,
    /// How much room the disk has cannot be told: there is no reserve.
    no_reserve: bool,
}

impl Preparer {
    /// `spares`: of the segments that stand prepared behind the active one, up to
    /// `prepared_through`, the next ones, which are open; by number.
    pub fn new(active: u64, prepared_through: u64, spares: VecDeque<(u64, FileId)>) -> Preparer {
        let opened_through = spares.back().map_or(active, |(number, _)| *number);
        assert!(opened_through <= prepared_through, "what is open stands");
        Preparer {
            prepared_through,
            spares,
            opened_through,
            opening: false,
            open_again_at: None,
            open_shortage: Shortage::default(),
            job: None,
            in_flight: false,
            zeros: None,
            pause_until: None,
            full: false,
            shortage: Shortage::default(),
            full_count: 0,
            unfilled_bytes: 0,
            quiet: Quiet::default(),
            fill_ahead_at: None,
            roomless_until: None,
            no_reserve: false,
        }
    }

    /// The highest segment that stands.
    pub fn prepared_through(&self) -> u64 {
        self.prepared_through
    }

    /// Whether the last attempt met a full disk.
    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn full_count(&self) -> u64 {
        self.full_count
    }

    /// Bytes of segments that were reserved and not filled with zeros.
    pub fn unfilled_bytes(&self) -> u64 {
        self.unfilled_bytes
    }

    /// The prepared file of the segment, if it is open. Otherwise it comes when it is.
    pub fn take(&mut self, number: u64) -> Option<FileId> {
        let (front, file) = *self.spares.front()?;
        assert!(front >= number, "segments are taken in order");
        (front == number).then(|| {
            self.spares.pop_front();
            file
        })
    }

    /// When a pause ends.
    pub fn deadline(&self) -> Option<Instant> {
        let paused = self.pause_until.filter(|_| self.job.is_some() && !self.in_flight);
        // For the reserve both must be over.
        let step_at = self.fill_ahead_at.max(paused);
        step_at.into_iter().chain(self.open_again_at).min()
    }
}

impl Log {
    /// Opens the next prepared segment, if fewer are open than should be.
    fn open_spare<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        let active = self.index.active().number;
        let preparer = &mut self.preparer;
        let next = preparer.opened_through + 1;
        if preparer.opening || next > preparer.prepared_through || next > active + SPARES_OPEN_MAX {
            return;
        }
        if preparer.open_again_at.is_some_and(|at| at > now) {
            return;
        }
        preparer.open_again_at = None;
        (preparer.opened_through, preparer.opening) = (next, true);
        let name = join(&self.folder, &segment_name(next));
        disk.open_async(self.tokens.issue(Op::OpenSpare), &name, FileOptions::ReadWrite);
    }

    pub(super) fn on_spare_open<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        event: DiskEvent,
    ) -> Result<(), LogFailure> {
        let preparer = &mut self.preparer;
        let number = preparer.opened_through;
        preparer.opening = false;
        let doing = format!("opening {}", segment_name(number));
        match event.result {
            Ok(file) => {
                preparer.open_shortage.over(&"opening prepared segments");
                self.hand_out(disk, number, FileId(file));
                self.open_spare(now, disk);
            }
            Err(error) if error.is_out_of_files() => {
                preparer.opened_through = number - 1;
                let later = preparer.open_shortage.met(now, &doing, &error);
                let again_at = self.reads.give_way(&mut self.index, disk, now, later);
                preparer.open_again_at = Some(again_at);
            }
            Err(error) => return Err(LogFailure::failed(&doing, &error)),
        }
        Ok(())
    }

    /// A prepared segment is open: entries may have waited for it.
    fn hand_out<D: Disk>(&mut self, disk: &mut D, number: u64, file: FileId) {
        match self.index.segment_mut(number) {
            Some(segment) => segment.file = Some(file),
            None => self.preparer.spares.push_back((number, file)),
        }
        self.start_writes(disk);
    }

    /// Starts the next step of the preparation, if it is time.
    pub(super) fn prepare<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        self.open_spare(now, disk);
        let (placed, writing) = (self.writer.placed_bytes(), !self.writer.is_at_rest());
        let quiet_since = self.preparer.quiet.look(now, placed, writing);
        self.preparer.fill_ahead_at = None;
        if self.preparer.in_flight {
            return;
        }
        let need = self.need();
        let is_time = match need {
            Need::None => false,
            Need::Reserve => self.may_fill_ahead(now, disk, quiet_since),
            Need::Spare | Need::Urgent => true,
        };
        if !is_time {
            self.preparer.zeros = None;
            return;
        }
        let preparer = &mut self.preparer;
        let number = preparer.prepared_through + 1;
        let job = preparer.job.get_or_insert_with(|| Job::new(number, placed));
        job.pause = FILL_PAUSE;
        if need == Need::Reserve {
            job.placed_at_start = placed;
            job.pause = self.options.fill_ahead_pause;
        }
        let behind = job.is_behind(placed);
        let hurry = match need {
            Need::Urgent => Hurry::Urgent,
            _ if behind => Hurry::Behind,
            _ => Hurry::None,
        };
        let hurries = !preparer.full && hurry != Hurry::None;
        if preparer.pause_until.is_some_and(|until| until > now) && !hurries {
            return;
        }
        let costly = behind && self.writer.write_bytes_mean() >= self.options.fill_write_bytes_max;
        if job.stage == Stage::Fill && job.reserved && (hurry == Hurry::Urgent || costly) {
            job.stage = Stage::Flush;
            preparer.unfilled_bytes += self.options.segment_bytes - job.filled;
        }
        preparer.pause_until = None;
        preparer.in_flight = true;
        self.prepare_step(disk, hurry.chunk());
    }

    /// Whether another step may be made for the reserve now. Otherwise it is known when to ask again.
    fn may_fill_ahead<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        quiet_since: Instant,
    ) -> bool {
        let preparer = &mut self.preparer;
        if preparer.no_reserve {
            return false;
        }
        let quiet = Some(quiet_since + FILL_AHEAD_AFTER);
        let at = quiet.max(preparer.pause_until).max(preparer.roomless_until);
        if at.is_some_and(|at| at > now) {
            preparer.fill_ahead_at = at;
            return false;
        }
        if preparer.job.is_some() {
            return true;
        }
        let free_bytes_min = FREE_SEGMENTS_MIN.saturating_mul(self.options.segment_bytes);
        match disk.free_bytes() {
            Ok(free_bytes) if free_bytes >= free_bytes_min => return true,
            Ok(free_bytes) => {
                debug!(free_bytes, free_bytes_min, "there is no room to fill the log ahead");
                preparer.roomless_until = Some(now + FREE_LOOK_INTERVAL);
                preparer.fill_ahead_at = preparer.roomless_until;
            }
            Err(error) => {
                warn!(%error, "cannot tell how much room the disk has: the log is not filled ahead");
                preparer.no_reserve = true;
            }
        }
        false
    }

    /// How much another segment is needed.
    fn need(&self) -> Need {
        let active = self.index.active();
        let (options, prepared_through) = (&self.options, self.preparer.prepared_through);
        let half_used = active.tail * 2 > options.segment_bytes;
        let none_left = prepared_through <= active.number;
        let is_missing = active.number > prepared_through;
        // As `format` counts them, the one in use included.
        let reserve = (options.fill_ahead_bytes / options.segment_bytes).min(SEGMENTS_AHEAD_MAX);
        match prepared_through.saturating_sub(active.number) {
            _ if is_missing || (none_left && (half_used || active.sealed)) => Need::Urgent,
            ahead if ahead < options.spare_segments as u64 => Need::Spare,
            ahead if ahead + 1 < reserve => Need::Reserve,
            _ => Need::None,
        }
    }

    fn prepare_step<D: Disk>(&mut self, disk: &mut D, chunk: usize) {
        let token = self.tokens.issue(Op::Prepare);
        let job = self.preparer.job.as_mut().expect("a step belongs to a job");
        let temporary = join(&self.folder, &segment_temporary(job.number));
        let file = job.file.unwrap_or(FileId(u32::MAX));
        match job.stage {
            Stage::Open => disk.open_async(token, &temporary, FileOptions::CreateNew),
            Stage::Allocate => disk.allocate(token, file, self.options.segment_bytes),
            Stage::Fill => {
                let left = self.options.segment_bytes - job.filled;
                job.chunk = chunk.min(usize::try_from(left).unwrap_or(chunk));
                let pool = &self.options.pool;
                let zeros = self.preparer.zeros.get_or_insert_with(|| {
                    let mut zeros = pool.take(FILL_BYTES_URGENT);
                    zeros.fill(0);
                    Rc::new(zeros)
                });
                let parts = vec![WritePart::Buffer(zeros.clone(), job.chunk)];
                disk.write(token, file, job.filled, parts, Sync::Cached);
            }
            Stage::Flush => disk.flush(token, file),
            Stage::Rename => {
                let name = join(&self.folder, &segment_name(job.number));
                disk.rename_async(token, &temporary, &name);
            }
            Stage::SyncFolder => disk.sync_folder_async(token, &self.folder),
        }
    }

    pub(super) fn on_prepare<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        event: DiskEvent,
    ) -> Result<(), LogFailure> {
        let for_reserve = self.need() == Need::Reserve;
        let preparer = &mut self.preparer;
        preparer.in_flight = false;
        let job = preparer.job.as_mut().expect("a step belongs to a job");
        let doing = format!("preparing {}", segment_name(job.number));
        job.reserved |= job.stage == Stage::Allocate && event.result.is_ok();
        let result = match (job.stage, event.result) {
            // Some file systems cannot reserve; the filling does it then.
            (Stage::Allocate, Err(error)) if error.source.kind() == io::ErrorKind::Unsupported => {
                Ok(0)
            }
            // Nothing was done: not even the folder to be flushed was opened.
            (_, Err(error)) if error.is_out_of_files() => Err(error),
            // A failed flush is never tried again: what it lost is not known (IO.md).
            (Stage::Flush | Stage::SyncFolder, Err(error)) => {
                return Err(LogFailure::failed(&doing, &error));
            }
            (_, Err(error)) if error.is_full() => Err(error),
            (_, Err(error)) => return Err(LogFailure::failed(&doing, &error)),
            (_, Ok(done)) => Ok(done),
        };
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                let mut again_at = preparer.shortage.met(now, &doing, &error);
                if for_reserve {
                    // Nobody is in need of it: nothing else gives way, and no append is refused.
                    preparer.pause_until = Some(again_at);
                    return Ok(());
                }
                if error.is_out_of_files() {
                    again_at = self.reads.give_way(&mut self.index, disk, now, again_at);
                }
                if again_at > now {
                    preparer.full = true;
                    preparer.full_count += 1;
                }
                preparer.pause_until = Some(again_at);
                return Ok(());
            }
        };
        match job.stage {
            Stage::Open => {
                job.file = Some(FileId(done));
                job.stage = Stage::Allocate;
            }
            Stage::Allocate => {
                job.stage = Stage::Fill;
                // Room has been made (or it shows while filling).
                preparer.full = false;
            }
            Stage::Fill => {
                // Nothing here is acknowledged: a short fill goes on from where it ended.
                let whole = done as usize / BLOCK_SIZE * BLOCK_SIZE;
                if whole == 0 {
                    return Err(LogFailure::short(&doing, done, job.chunk as u32));
                }
                job.filled += whole as u64;
                preparer.pause_until = Some(now + job.pause);
                if job.filled == self.options.segment_bytes {
                    job.stage = Stage::Flush;
                    preparer.pause_until = None;
                }
            }
            Stage::Flush => job.stage = Stage::Rename,
            Stage::Rename if planted(Mutant::SegmentNameNotDurable) => {
                self.finish_segment(now, disk)
            }
            Stage::Rename => job.stage = Stage::SyncFolder,
            Stage::SyncFolder => self.finish_segment(now, disk),
        }
        Ok(())
    }

    fn finish_segment<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        let job = self.preparer.job.take().expect("a step belongs to a job");
        let file = job.file.expect("opened in the first step");
        let active = self.index.active().number;
        let preparer = &mut self.preparer;
        preparer.prepared_through = job.number;
        preparer.full = false;
        preparer.shortage.over(&"preparing segments");
        let is_next = job.number == preparer.opened_through + 1 && !preparer.opening;
        if is_next && job.number <= active + SPARES_OPEN_MAX {
            preparer.opened_through = job.number;
            self.hand_out(disk, job.number, file);
        } else {
            // Others come first; it is opened again in its turn.
            disk.close(file);
            self.open_spare(now, disk);
        }
    }
}
