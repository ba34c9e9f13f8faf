//! Checkpoints: the state of the machine after some slot, kept beside the log, so that a start
//! applies only the slots after it.
//!
//! Two files, written in turn: each is made whole under a temporary name, flushed, renamed over the
//! older of the two, and the folder flushed. So a crash at any step leaves a whole checkpoint, or
//! two. A checkpoint only saves time: one that is damaged, missing, of another log or of no use is
//! told of, and the other one taken, or none. One that was read and is wrong is taken away; one that
//! the system does not read stays, since another start may read it.
//!
//! What a checkpoint covers is chosen, applied, and durable in this log *before* its first byte is
//! written. Crash example: the peers choose slot 100 while its own write is in flight here; it is
//! applied, and a checkpoint of it becomes durable first; the power fails. The log ends at slot 99,
//! and a start from that checkpoint would count slot 100 as held: nobody would ever write it here
//! again, and readers and peers would find a hole. So the checkpoint also tells the last sequence
//! that it counts on, and a log that ends before it is damaged.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tracing::{info, warn};

use crate::base::limits::{BLOCK_SIZE, KIB, MIB, block_align};
use crate::base::mutants::{Mutant, planted};
use crate::base::{BlockBuf, Checksum, Instant, RunningChecksum, Slot};
use crate::io::{Disk, DiskEvent, FileId, FileOptions, Storage, Sync, WritePart};

use super::covered::{self, CoveredSegment};
use super::format::{get_slot, get_u32, get_u64, join, put_u32, put_u64};
use super::owned::{CHECKPOINT, Owner};
use super::shortage::Shortage;
use super::{Log, LogFailure, Op, RestoreError};

/// The two files' names within the group's folder, by the parity of the checkpoint's number.
pub(super) const CHECKPOINT_NAMES: [&str; 2] = ["checkpoint-0", "checkpoint-1"];
/// The name of the one being written.
pub(super) const CHECKPOINT_TEMPORARY: &str = "checkpoint.tmp";

/// The largest state of a machine that is kept, in bytes. The largest that there can be (64 Ki logs
/// with the longest names, 64 Ki sessions with all their results) takes three quarters of it.
pub const CHECKPOINT_STATE_BYTES_MAX: usize = 128 * MIB;
/// The most bytes that tell of segments in memory.
const COVERED_BYTES_MAX: usize = 256 * MIB;
/// Bytes written at once.
const CHUNK_BYTES: usize = 256 * KIB;
/// The pause after a chunk: 64 MB/s in the background.
const CHUNK_PAUSE: Duration = Duration::from_millis(4);
/// A checkpoint is overdue when the log has grown by so many times what makes one due.
const OVERDUE_FACTOR: u64 = 2;
/// Before a clean stop one is taken when the log has grown by so much, which takes longer to replay
/// than a checkpoint to write.
const STOP_GROWTH_BYTES_MIN: u64 = 8 * MIB as u64;
/// And when the last one was not larger: so much is written in an eighth of a second.
const STOP_CHECKPOINT_BYTES_MAX: u64 = 8 * MIB as u64;

/// The first block of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckpointHeader {
    pub owner: Owner,
    /// Rises by one with each checkpoint.
    pub number: u64,
    /// The slot after which the machine stood so.
    pub slot: Slot,
    /// Every entry up to this sequence was durable before the checkpoint was begun.
    pub sequence: u64,
    /// The segment that held that entry, or the one before it.
    pub segment: u64,
    /// The sequence of that segment's first entry.
    pub first_sequence: u64,
    /// The checksum of the header before that entry's.
    pub previous: Checksum,
    pub state_bytes: u64,
    pub covered_bytes: u64,
    /// Of everything behind the header.
    pub body: Checksum,
}

impl CheckpointHeader {
    fn encode(&self, block: &mut [u8]) {
        CHECKPOINT.encode(&self.owner, block, |out| {
            put_u64(out, 24, self.number);
            put_u64(out, 32, self.slot.0);
            put_u64(out, 40, self.sequence);
            put_u64(out, 48, self.segment);
            put_u64(out, 56, self.first_sequence);
            put_u32(out, 64, self.previous.0);
            put_u32(out, 68, self.body.0);
            put_u64(out, 72, self.state_bytes);
            put_u64(out, 80, self.covered_bytes);
        });
    }

    /// Reads the first block of a file of `length` bytes; `Err` says what is wrong.
    fn decode(block: &[u8], length: u64) -> Result<CheckpointHeader, String> {
        let (owner, bytes) = CHECKPOINT.decode(block)?;
        let header = CheckpointHeader {
            owner,
            number: get_u64(bytes, 24),
            slot: get_slot(bytes, 32)?,
            sequence: get_u64(bytes, 40),
            segment: get_u64(bytes, 48),
            first_sequence: get_u64(bytes, 56),
            previous: Checksum(get_u32(bytes, 64)),
            body: Checksum(get_u32(bytes, 68)),
            state_bytes: get_u64(bytes, 72),
            covered_bytes: get_u64(bytes, 80),
        };
        if header.state_bytes > CHECKPOINT_STATE_BYTES_MAX as u64
            || header.covered_bytes > COVERED_BYTES_MAX as u64
            || header.number == u64::MAX
        {
            return Err("the checkpoint's header makes no sense".into());
        }
        match header.file_bytes() {
            bytes if bytes == length => Ok(header),
            bytes => Err(format!("the checkpoint takes {bytes} bytes, but the file {length}")),
        }
    }

    fn body_bytes(&self) -> usize {
        (self.state_bytes + self.covered_bytes) as usize
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        (BLOCK_SIZE + block_align(self.body_bytes())) as u64
    }

    /// Whether the segment that it names is the one that it was taken in: one whose first entry has
    /// this sequence, and follows a header with this checksum.
    pub fn is_of_log(&self, first_sequence: u64, previous: Checksum) -> Result<(), String> {
        match (self.first_sequence, self.previous) == (first_sequence, previous) {
            true => Ok(()),
            false => Err("it is of another log than the one that stands here".into()),
        }
    }
}

/// Why a checkpoint is of no use to a start.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// It was read, and is not what it must be: it never will be.
    #[error("{0}")]
    Wrong(String),
    /// A newer version wrote it, so that it may hold what this one would have to leave out.
    #[error("{0}")]
    Newer(String),
    /// The system does not read it, which may pass.
    #[error("it cannot be read: {0}")]
    Unread(#[from] io::Error),
}

impl From<String> for Unusable {
    fn from(why: String) -> Unusable {
        Unusable::Wrong(why)
    }
}

impl From<RestoreError> for Unusable {
    fn from(error: RestoreError) -> Unusable {
        match error {
            RestoreError::Wrong(why) => Unusable::Wrong(why),
            RestoreError::Newer(why) => Unusable::Newer(why),
        }
    }
}

/// A file of a checkpoint, as far as its header.
#[derive(Debug)]
pub(super) struct CheckpointFile {
    /// Relative to the data directory.
    pub name: String,
    /// `Err`: why it is of no use.
    pub header: Result<CheckpointHeader, Unusable>,
}

/// The checkpoints that stand in a folder, by name. Nothing that is wrong with one is an error.
pub(super) fn read_headers<S: Storage>(
    storage: &mut S,
    folder: &str,
    names: &[String],
    owner: &Owner,
    pool: &crate::base::BlockPool,
) -> Vec<CheckpointFile> {
    let standing = CHECKPOINT_NAMES.iter().filter(|name| names.iter().any(|found| found == *name));
    let mut block = pool.take(BLOCK_SIZE);
    let files = standing.map(|name| {
        let name = join(folder, name);
        let header = with_file(storage, &name, |storage, file| {
            let read = storage.read_at(file, 0, &mut block, BLOCK_SIZE)?;
            if let Some(version) = CHECKPOINT.newer_version(&block[..read]) {
                let why = format!("it is a checkpoint of format version {version}");
                return Err(Unusable::Newer(why));
            }
            let header = CheckpointHeader::decode(&block[..read], storage.len(file)?)?;
            CHECKPOINT.check_owner(&header.owner, owner)?;
            Ok(header)
        });
        CheckpointFile { name, header }
    });
    files.collect()
}

fn with_file<S: Storage, T>(
    storage: &mut S,
    name: &str,
    with: impl FnOnce(&mut S, FileId) -> Result<T, Unusable>,
) -> Result<T, Unusable> {
    let file = storage.open(name, FileOptions::Read)?;
    let result = with(storage, file);
    storage.close(file);
    result
}

/// What stands behind the header of a checkpoint.
#[derive(Debug)]
pub(super) struct CheckpointBody {
    bytes: Vec<u8>,
    state_bytes: usize,
    pub covered: Vec<CoveredSegment>,
}

impl CheckpointBody {
    /// The machine's state.
    pub fn state(&self) -> &[u8] {
        &self.bytes[..self.state_bytes]
    }
}

/// Reads and verifies the rest of a checkpoint; `Err` says why it is of no use.
pub(super) fn read_body<S: Storage>(
    storage: &mut S,
    name: &str,
    header: &CheckpointHeader,
    pool: &crate::base::BlockPool,
) -> Result<CheckpointBody, Unusable> {
    let size = header.body_bytes();
    let mut buffer = pool.take(MIB);
    let bytes = with_file(storage, name, |storage, file| {
        // The length was held against the header: so much does stand there.
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let length = block_align(size - bytes.len()).min(MIB);
            let offset = (BLOCK_SIZE + bytes.len()) as u64;
            let read = storage.read_at(file, offset, &mut buffer, length)?;
            if read < length {
                return Err("the checkpoint is cut off".to_owned().into());
            }
            bytes.extend_from_slice(&buffer[..length.min(size - bytes.len())]);
        }
        Ok(bytes)
    })?;
    if Checksum::of(&bytes) != header.body {
        return Err("the checkpoint's checksum does not match".to_owned().into());
    }
    let state_bytes = header.state_bytes as usize;
    let covered = covered::decode(&bytes[state_bytes..])?;
    Ok(CheckpointBody { bytes, state_bytes, covered })
}

// ---- writing ----------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What it covers is not durable yet.
    Wait,
    Open,
    /// The body, behind the place of the header.
    Write,
    /// The header: it tells the checksum of the body, which is known when that has been written.
    WriteHeader,
    Flush,
    Rename,
    SyncFolder,
}

struct Job {
    header: CheckpointHeader,
    /// State and covered entries.
    body: Vec<u8>,
    /// Of the first so many bytes of the body: taken chunk by chunk, since all at once would hold
    /// up what the group's thread has to do besides.
    checksum: RunningChecksum,
    summed: usize,
    stage: Stage,
    file: Option<FileId>,
    /// Bytes of the body, whole blocks.
    written: usize,
    /// Asked for in the chunk in flight.
    chunk: usize,
}

/// Writes checkpoints, one at a time.
#[derive(Default)]
pub(super) struct Checkpointer {
    /// Of the last one that stands, or was begun.
    number: u64,
    /// Its slot.
    slot: Slot,
    /// Bytes of its file.
    bytes: u64,
    /// The log's bytes when it was taken: see [`Log::log_bytes`].
    taken_at: u64,
    job: Option<Job>,
    in_flight: bool,
    pause_until: Option<Instant>,
    shortage: Shortage,
    pub written: u64,
}

impl Checkpointer {
    /// `last`: the newest one that stands.
    pub fn new(last: Option<&CheckpointHeader>) -> Checkpointer {
        let number = last.map_or(0, |header| header.number);
        let slot = last.map_or(Slot::NONE, |header| header.slot);
        let bytes = last.map_or(0, CheckpointHeader::file_bytes);
        Checkpointer { number, slot, bytes, ..Checkpointer::default() }
    }

    /// When the pause ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.pause_until.filter(|_| self.job.is_some() && !self.in_flight)
    }
}

impl Log {
    /// Bytes of entries appended since the log was opened, and of those replayed then.
    fn log_bytes(&self) -> u64 {
        self.writer.placed_bytes() + self.replayed_bytes
    }

    /// Whether it is time for [`Log::checkpoint`]: the log has grown enough since the last one, so
    /// that what checkpoints cost stays a small part of what the log costs.
    pub fn checkpoint_due(&self) -> bool {
        self.has_grown_for_checkpoint(1)
    }

    /// Whether it is not to be put off any longer: a start would have too much to replay.
    pub fn checkpoint_overdue(&self) -> bool {
        self.has_grown_for_checkpoint(OVERDUE_FACTOR)
    }

    /// Whether one taken before a clean stop spares the next start some work, and is soon written.
    pub fn checkpoint_worthwhile_at_stop(&self) -> bool {
        self.options.checkpoint_bytes_min.is_some()
            && self.checkpointer.bytes <= STOP_CHECKPOINT_BYTES_MAX
            && self.has_grown_by(STOP_GROWTH_BYTES_MIN)
    }

    /// Whether a checkpoint is being written.
    pub fn is_writing_checkpoint(&self) -> bool {
        self.checkpointer.job.is_some()
    }

    fn has_grown_for_checkpoint(&self, times: u64) -> bool {
        let Some(least) = self.options.checkpoint_bytes_min else { return false };
        let last_bytes = self.checkpointer.bytes;
        let wanted = least.max(last_bytes.saturating_mul(self.options.checkpoint_factor));
        self.has_grown_by(wanted.saturating_mul(times))
    }

    /// Whether a checkpoint may be taken, and the log has grown by so much since the last one.
    fn has_grown_by(&self, bytes: u64) -> bool {
        let last = &self.checkpointer;
        last.job.is_none()
            && self.failure.is_none()
            && self.index.applied() > last.slot
            && self.log_bytes() - last.taken_at >= bytes
    }

    /// Takes the machine's state after the last applied slot; a checkpoint of it is written in the
    /// background. To be called between turns, when [`Log::checkpoint_due`].
    ///
    /// # Panics
    /// When one is being written.
    pub fn checkpoint(&mut self, slot: Slot, state: Vec<u8>) {
        assert!(self.checkpointer.job.is_none(), "one checkpoint is written at a time");
        let taken_at = self.log_bytes();
        let last = &mut self.checkpointer;
        (last.taken_at, last.slot) = (taken_at, slot);
        let (state_bytes, mut body) = (state.len(), state);
        covered::encode(&self.index, &mut body);
        let covered_bytes = (body.len() - state_bytes) as u64;
        if state_bytes > CHECKPOINT_STATE_BYTES_MAX || covered_bytes > COVERED_BYTES_MAX as u64 {
            warn!(bytes = body.len(), "the state is too large for a checkpoint: none is written");
            return;
        }
        // Everything appended so far, and with it every applied slot.
        let sequence = self.index.next_sequence() - 1;
        let header = CheckpointHeader {
            owner: Owner::of(&self.options),
            number: last.number + 1,
            slot,
            sequence,
            // Known when the headers up to there have been written.
            segment: 0,
            first_sequence: 0,
            previous: Checksum(0),
            state_bytes: state_bytes as u64,
            covered_bytes,
            // Known when the body has been written.
            body: Checksum(0),
        };
        last.job = Some(Job {
            header,
            body,
            checksum: RunningChecksum::default(),
            summed: 0,
            stage: Stage::Wait,
            file: None,
            written: 0,
            chunk: 0,
        });
    }

    /// Starts the next step, if it is time.
    pub(super) fn write_checkpoint<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        let durable = self.writer.durable();
        let checkpointer = &mut self.checkpointer;
        if checkpointer.in_flight || checkpointer.pause_until.is_some_and(|until| until > now) {
            return;
        }
        checkpointer.pause_until = None;
        let Some(job) = &mut checkpointer.job else { return };
        if job.stage == Stage::Wait {
            if durable < job.header.sequence && !planted(Mutant::CheckpointBeforeDurable) {
                return;
            }
            let (segment, previous) = self.index.link_at(job.header.sequence);
            let (number, first_sequence) = (segment.number, segment.first_sequence);
            (job.header.segment, job.header.first_sequence) = (number, first_sequence);
            (job.header.previous, job.stage) = (previous, Stage::Open);
        }
        checkpointer.in_flight = true;
        let token = self.tokens.issue(Op::Checkpoint);
        let temporary = join(&self.folder, CHECKPOINT_TEMPORARY);
        let file = job.file.unwrap_or(FileId(u32::MAX));
        match job.stage {
            Stage::Wait => unreachable!("it has just been left"),
            Stage::Open => disk.open_async(token, &temporary, FileOptions::CreateNew),
            Stage::Write => {
                job.chunk = CHUNK_BYTES.min(block_align(job.body.len()) - job.written);
                let mut buffer = self.options.pool.take(job.chunk);
                job.fill(&mut buffer);
                let parts = vec![WritePart::Buffer(Rc::new(buffer), job.chunk)];
                let offset = (BLOCK_SIZE + job.written) as u64;
                disk.write(token, file, offset, parts, Sync::Cached);
            }
            Stage::WriteHeader => {
                job.chunk = BLOCK_SIZE;
                let mut buffer = self.options.pool.take(BLOCK_SIZE);
                job.header.encode(&mut buffer);
                let parts = vec![WritePart::Buffer(Rc::new(buffer), BLOCK_SIZE)];
                disk.write(token, file, 0, parts, Sync::Cached);
            }
            Stage::Flush => disk.flush(token, file),
            Stage::Rename => disk.rename_async(token, &temporary, &job.name(&self.folder)),
            Stage::SyncFolder => disk.sync_folder_async(token, &self.folder),
        }
    }

    pub(super) fn on_checkpoint<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        event: DiskEvent,
    ) -> Result<(), LogFailure> {
        let checkpointer = &mut self.checkpointer;
        checkpointer.in_flight = false;
        let job = checkpointer.job.as_mut().expect("a step belongs to a job");
        let doing = format!("writing {}", job.name(&self.folder));
        let done = match event.result {
            // Nothing counts on it, and nothing was done: the step is made again when there may be
            // room. (A flush that fails is another matter, unless its folder was not even opened.)
            Err(error)
                if error.is_out_of_files()
                    || (error.is_full()
                        && !matches!(job.stage, Stage::Flush | Stage::SyncFolder)) =>
            {
                let mut again_at = checkpointer.shortage.met(now, &doing, &error);
                if error.is_out_of_files() {
                    again_at = self.reads.give_way(&mut self.index, disk, now, again_at);
                }
                checkpointer.pause_until = Some(again_at);
                return Ok(());
            }
            Err(error) => return Err(LogFailure::failed(&doing, &error)),
            Ok(done) => done,
        };
        match job.stage {
            Stage::Wait => unreachable!("nothing is asked for while it waits"),
            Stage::Open => (job.file, job.stage) = (Some(FileId(done)), Stage::Write),
            Stage::Write => {
                // A short write goes on from where it ended: nobody was told of it.
                let whole = done as usize / BLOCK_SIZE * BLOCK_SIZE;
                if whole == 0 {
                    return Err(LogFailure::short(&doing, done, job.chunk as u32));
                }
                job.written += whole;
                if job.written == block_align(job.body.len()) {
                    assert_eq!(job.summed, job.body.len(), "what is written is summed");
                    job.header.body = std::mem::take(&mut job.checksum).finish();
                    job.stage = Stage::WriteHeader;
                } else {
                    checkpointer.pause_until = Some(now + CHUNK_PAUSE);
                }
            }
            Stage::WriteHeader if (done as usize) < BLOCK_SIZE => {
                return Err(LogFailure::short(&doing, done, BLOCK_SIZE as u32));
            }
            Stage::WriteHeader => job.stage = Stage::Flush,
            Stage::Flush => job.stage = Stage::Rename,
            Stage::Rename => job.stage = Stage::SyncFolder,
            Stage::SyncFolder => {
                let job = checkpointer.job.take().expect("looked at above");
                disk.close(job.file.expect("opened in the first step"));
                checkpointer.number = job.header.number;
                checkpointer.bytes = job.header.file_bytes();
                checkpointer.written += 1;
                checkpointer.shortage.over(&doing);
                let CheckpointHeader { number, slot, .. } = job.header;
                info!(number, %slot, bytes = checkpointer.bytes, "checkpoint");
            }
        }
        Ok(())
    }
}

impl Job {
    fn name(&self, folder: &str) -> String {
        join(folder, CHECKPOINT_NAMES[(self.header.number % 2) as usize])
    }

    /// Fills `buffer` with the body from `written` on, as far as the chunk goes.
    fn fill(&mut self, buffer: &mut BlockBuf) {
        let end = self.body.len().min(self.written + self.chunk);
        let (bytes, zeros) = buffer[..self.chunk].split_at_mut(end - self.written);
        bytes.copy_from_slice(&self.body[self.written..end]);
        zeros.fill(0);
        // After a short write some of it has been summed before.
        self.checksum.update(&self.body[self.summed..end]);
        self.summed = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GroupId, IncarnationTag, NodeId};
    use crate::log::owned::CHECKSUM_AT;

    fn header() -> CheckpointHeader {
        CheckpointHeader {
            owner: Owner { incarnation: IncarnationTag(9), group: GroupId(1), node: NodeId(2) },
            number: 7,
            slot: Slot(100),
            sequence: 120,
            segment: 3,
            first_sequence: 90,
            previous: Checksum(77),
            state_bytes: 5000,
            covered_bytes: 100,
            body: Checksum(5),
        }
    }

    #[test]
    fn a_header_round_trips_and_every_byte_is_guarded() {
        let mut block = vec![0xff; BLOCK_SIZE];
        header().encode(&mut block);
        let length = header().file_bytes();
        assert_eq!(length, 3 * BLOCK_SIZE as u64);
        assert_eq!(CheckpointHeader::decode(&block, length), Ok(header()));
        assert_eq!(
            get_u32(&block, CHECKSUM_AT),
            0x5928_38be,
            "its bytes stand where they always have"
        );
        assert!(CheckpointHeader::decode(&block, length - 1).is_err());
        assert!(CheckpointHeader::decode(&block[1..], length).is_err());
        for byte in 0..BLOCK_SIZE {
            block[byte] ^= 0x10;
            assert!(CheckpointHeader::decode(&block, length).is_err(), "byte {byte}");
            block[byte] ^= 0x10;
        }
    }

    #[test]
    fn wild_sizes_are_refused() {
        let mut block = vec![0; BLOCK_SIZE];
        let wild = CheckpointHeader { state_bytes: u64::MAX - 5, ..header() };
        wild.encode(&mut block);
        assert!(CheckpointHeader::decode(&block, u64::MAX).is_err());
    }
}
