//! The durable segmented log of one group, over the `io` seam.
//!
//! Its caller is `node/`: it hands in accepted entries and promises in the order of the core's
//! effects, calls [`Log::submit`] at the end of each turn, and passes the disk's completions to
//! [`Log::on_disk_event`]. The guarantees:
//!
//! - [`LogEvent::Durable`] is reported for a contiguous prefix of the entries only, and only once
//!   every byte of it survives a power loss.
//! - Whatever a crash leaves, [`Log::open`] finds every entry and every promise that was reported
//!   durable, or refuses with the exact place of the damage. It cuts only what never was durable.
//! - After any failed or short write nothing is ever reported durable again ([`LogFailure`]).
//!
//! Files of a group's folder: `vote` ([`vote`](self)), `checkpoint-0` and `checkpoint-1` (the state
//! of the machine, so that a start need not apply every slot), `damaged` (after the scrub or a read
//! has found damage), and `segment-<16 hex digits>.log`, of fixed size: one header block, entries
//! (header, value, zeros up to the block), zeros, and at the end the index footer, once everything in
//! the segment has been applied. `src/README.md` has the formats.

mod checkpoint;
mod covered;
mod cut;
mod error;
mod footer;
mod format;
mod identity;
mod index;
pub mod inspect;
pub mod layout;
mod marker;
mod owned;
mod placements;
mod prepare;
mod reads;
mod recovery;
mod replay;
mod scrub;
mod shortage;
#[cfg(test)]
mod tests;
mod vote;
mod walk;
mod writer;

use std::rc::Rc;
use std::time::Duration;

pub use checkpoint::CHECKPOINT_STATE_BYTES_MAX;
pub use cut::{CutKind, CutRecord};
pub use error::{Damage, LogError, LogFailure, ReadError, RestoreError};
pub use identity::{DataDir, FormatRequest, Identity, IdentityError, Member};
pub use placements::{
    COMMAND_BYTES_MIN, PLACEMENT_BYTES_MAX, placement_bytes_max, placement_bytes_worst,
    segment_bytes_min,
};
pub use reads::NotStored;

use crate::base::limits::{BLOCK_SIZE, KIB, MIB};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::{
    Ballot, Batch, BlockPool, GroupId, IdMap, Incarnation, Instant, LogId, NodeId, Placement,
    Position, Slot,
};
use crate::io::{Disk, DiskEvent, Storage, Token};

use checkpoint::Checkpointer;
use format::Place;
use index::Index;
use marker::MarkerWriter;
use prepare::{FILL_PAUSE, Preparer};
use reads::Reads;
use scrub::Scrubber;
use vote::VoteWriter;
use writer::Writer;

/// What [`Log::replay`] hands each chosen slot to: returns what became of its commands.
pub type Visitor<'a> = dyn FnMut(Slot, Ballot, &Batch) -> Result<Rc<Placement>, String> + 'a;

/// What [`Log::open_from`] hands the state of a checkpoint to: takes it, or says why it cannot; then
/// an older one comes, or none. The last call that succeeded is the one that counts.
pub type Restore<'a> = dyn FnMut(Slot, &[u8]) -> Result<(), RestoreError> + 'a;

/// The top byte of every token of a log; the two bytes below it are the group.
pub const TOKEN_TAG: u64 = 0x4c;

/// Segment size when nothing else is said.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * MIB as u64;
/// The largest segment: offsets within a segment fit 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2048 * MIB as u64;
/// Writes started and not yet acknowledged, at most. A write that has completed before an older
/// one counts too: so whole writes behind a torn one are at most one (the in-flight window).
pub const WRITES_UNACKNOWLEDGED_MAX: usize = 2;
/// A second write starts beside the first one with this many bytes, when nothing else is said (below
/// that a larger write later is better than another one now), or earlier, see
/// [`SECOND_WRITE_EQUAL_BYTES_MAX`].
pub const SECOND_WRITE_BYTES_MIN: usize = 256 * KIB;
/// Beside a write of values of up to so many bytes a second one starts as soon as as many bytes wait.
///
/// Clients that wait for their answers come in two halves: one half's appends are in flight, and the
/// other's wait until they are durable, so each pays for two flushes. The disk can flush for both at
/// once, which takes it hardly longer while writes are small. Only as many, not any: a single append
/// that comes while a hundred are in flight would else take the disk from the ninety-nine that follow.
/// Measured with one replica, 16 in flight: p50 260 us becomes 196.
pub const SECOND_WRITE_EQUAL_BYTES_MAX: usize = 64 * KIB;
/// With writes of this size, in the mean of the last ones, segments are reserved and not filled with
/// zeros, when nothing else is said. Measured with three writers on one disk (MB/s of entries, filled
/// first against reserved only): 64 KiB 691 and 553, 256 KiB 1,152 and 1,305, 1 MiB 1,333 and 1,784.
pub const FILL_WRITE_BYTES_MAX: usize = 192 * KIB;
/// One vectored write gathers entries up to this many bytes.
pub const WRITE_BYTES_MAX: usize = 4 * MIB;
/// Read operations in flight at most; more are refused with [`NotStored::Busy`].
pub const READS_MAX: usize = 256;
/// Index footers of sealed segments kept in memory.
pub const FOOTERS_CACHED_MAX: usize = 8;
/// Files of indexed segments kept open for reading.
pub const FILES_CACHED_MAX: usize = 64;
/// What runs in the background and meets a full disk, or a process or host that may open no more
/// files, tries again after this time; so does a read that cannot open a segment.
pub const SHORTAGE_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// A read that cannot open a segment since too many files are open fails after so many attempts.
pub const OPEN_ATTEMPTS_MAX: u32 = 6;
/// What the logs of a process fill with zeros ahead together while nothing is appended, when nothing
/// else is said: a burst of small records at full speed lasts some seconds.
pub const FILL_AHEAD_BYTES: u64 = 1024 * MIB as u64;
/// What the scrubs of all logs of a process read together, in bytes per second, so that commits are
/// not disturbed. See [`LogOptions::scrub_bytes_per_s`].
pub const SCRUB_BYTES_PER_S: u64 = 32 * MIB as u64;

/// A checkpoint is due when the log has grown by so much, when nothing else is said.
pub const CHECKPOINT_BYTES_MIN: u64 = 256 * MIB as u64;
/// And by so many times the size of the last checkpoint, when nothing else is said: checkpoints then
/// cost a twentieth of what the log costs, at most.
pub const CHECKPOINT_FACTOR: u64 = 20;

/// How a log write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSync {
    /// One durable write (`RWF_DSYNC`).
    Dsync,
    /// A write, then a flush once it has completed.
    WriteThenFsync,
}

/// Parameters of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Stands in every header.
    pub incarnation: Incarnation,
    /// Whose log it is; stands in the vote file.
    pub node: NodeId,
    /// Stands in every header.
    pub group: GroupId,
    /// Size of a segment file: a multiple of the block. Fixed when the directory is formatted.
    pub segment_bytes: u64,
    /// The largest entry (header, value, padding) that is ever appended; a segment holds one.
    pub entry_bytes_max: usize,
    /// Segments prepared ahead.
    pub spare_segments: usize,
    /// Bytes of segments filled with zeros ahead while nothing is appended: those prepared anyway and the
    /// one in use count. At most 128 segments.
    pub fill_ahead_bytes: u64,
    /// The pause after each chunk of that: longer where a process has several logs.
    pub fill_ahead_pause: Duration,
    /// How writes are made durable.
    pub log_sync: LogSync,
    /// A second write starts beside the first one with this many bytes, or earlier beside a small one
    /// ([`SECOND_WRITE_EQUAL_BYTES_MAX`]).
    pub second_write_bytes_min: usize,
    /// Below this size of a write, in the mean, the segments ahead are filled with zeros; from there
    /// on they are only reserved, if the filling does not keep ahead of the log.
    pub fill_write_bytes_max: usize,
    /// When nothing has been written for this long, one mark entry records that the last entries
    /// had been durable, so that later damage to them can be told from a torn tail. `None`: never.
    pub mark_idle_after: Option<Duration>,
    /// The log grows by this many bytes, at least, between two checkpoints. `None`: none is
    /// written; those that stand are used.
    pub checkpoint_bytes_min: Option<u64>,
    /// And by so many times the size of the last one.
    pub checkpoint_factor: u64,
    /// The start reads and verifies every entry, in place of a scrub afterwards.
    pub verify_at_start: bool,
    /// What the scrub reads in the mean, at most: this log's share of [`SCRUB_BYTES_PER_S`].
    pub scrub_bytes_per_s: u64,
    /// There are peers that hold what this log may lose: a start over damage at its end cuts it and
    /// says so ([`LogRecovered::cut`]), in place of refusing.
    pub has_peers: bool,
    /// Where buffers come from.
    pub pool: BlockPool,
}

impl LogOptions {
    /// The defaults.
    pub fn new(
        incarnation: Incarnation,
        node: NodeId,
        group: GroupId,
        pool: BlockPool,
    ) -> LogOptions {
        LogOptions {
            incarnation,
            node,
            group,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            entry_bytes_max: BUFFER_BYTES_MAX,
            spare_segments: 2,
            fill_ahead_bytes: 0,
            fill_ahead_pause: FILL_PAUSE,
            log_sync: LogSync::Dsync,
            second_write_bytes_min: SECOND_WRITE_BYTES_MIN,
            fill_write_bytes_max: FILL_WRITE_BYTES_MAX,
            mark_idle_after: Some(Duration::from_secs(1)),
            checkpoint_bytes_min: Some(CHECKPOINT_BYTES_MIN),
            checkpoint_factor: CHECKPOINT_FACTOR,
            verify_at_start: false,
            scrub_bytes_per_s: SCRUB_BYTES_PER_S,
            has_peers: false,
            pool,
        }
    }

    /// Checks that the parameters fit together.
    pub fn validate(&self) -> Result<(), LogError> {
        let block = BLOCK_SIZE as u64;
        let needed = segment_bytes_min(self.entry_bytes_max);
        let rules = [
            (self.segment_bytes.is_multiple_of(block), "segment_bytes must be whole blocks"),
            (self.segment_bytes <= SEGMENT_BYTES_MAX, "segment_bytes is over its limit"),
            (
                self.segment_bytes >= needed,
                "a segment must hold the largest entry, with the room for its placement",
            ),
            (
                self.entry_bytes_max <= BUFFER_BYTES_MAX,
                "entry_bytes_max is over the largest buffer",
            ),
            (self.entry_bytes_max >= BLOCK_SIZE, "entry_bytes_max must be at least one block"),
            (self.spare_segments >= 1, "at least one spare segment is needed"),
            (self.scrub_bytes_per_s >= 1, "scrub_bytes_per_s must not be 0"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(LogError::Options(rule)),
            None => Ok(()),
        }
    }

    fn place(&self, segment: u64, generation: u32) -> Place {
        Place { incarnation: self.incarnation.tag(), group: self.group, segment, generation }
    }
}

/// What is appended: an accepted or learnt value.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The slot, from 1.
    pub slot: Slot,
    /// The ballot at which the value was accepted.
    pub ballot: Ballot,
    /// Every slot up to here is chosen and stands before this entry in the log.
    pub chosen: Slot,
    /// The value.
    pub batch: &'a Batch,
    /// The most bytes that the slot's placement will take in the segment's footer, as
    /// [`placement_bytes_max`] tells for the batch. The segment keeps so much room.
    pub placement_bytes_max: u32,
}

/// Names one append; rises by one each within a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// Names one promise write; rises by one each within a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoteId(pub u64);

/// Chosen by whoever asks for a read; comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadTicket(pub u64);

/// What a read brings.
#[derive(Clone, Debug)]
pub struct ReadEntry {
    /// The slot.
    pub slot: Slot,
    /// The ballot at which it stands in this log.
    pub ballot: Ballot,
    /// Where its records stand; `None` while the slot has not been applied, and for a value that
    /// only repeats an applied slot.
    pub placement: Option<Rc<Placement>>,
    /// The value, verified.
    pub batch: Batch,
}

/// What the log reports.
#[derive(Debug)]
pub enum LogEvent {
    /// This append and every earlier one survive a power loss.
    Durable(AppendId),
    /// This promise and every earlier one survive a power loss.
    VoteDurable(VoteId),
    /// A read has ended.
    Read {
        /// Whose.
        ticket: ReadTicket,
        /// The verified entry, or why there is none.
        result: Result<ReadEntry, ReadError>,
    },
    /// An entry that the start did not read is damaged: fatal, as if the start had found it. The
    /// log reports nothing any more. A marker in its folder has the next start verify everything
    /// (or it has been said, as an error in the process's log, that none could be made).
    Damaged(Damage),
}

/// What [`Log::open`] found.
#[derive(Clone, Debug, Default)]
pub struct LogRecovered {
    /// The highest ballot in the vote file or on any entry.
    pub promised: Ballot,
    /// Every slot up to here is chosen and in the log.
    pub chosen: Slot,
    /// The latest entry of each slot above `chosen`, by slot.
    pub accepted: Vec<(Slot, Ballot, Batch)>,
    /// Entries in the log, repeated slots and marks included.
    pub entries: u64,
    /// Bytes (whole blocks) that were cut from the log's end.
    pub torn_bytes: u64,
    /// What was cut, by this start or an earlier one, and is not made good yet. Damage: what was
    /// acknowledged may be missing.
    pub cut: Option<CutRecord>,
    /// Index footers that were damaged or half-written; they are written again.
    pub footers_damaged: u32,
    /// Whether one of the two copies of the vote was damaged or older and has been repaired.
    pub vote_repaired: bool,
    /// The slot of the checkpoint that was taken; 0: none was.
    pub checkpoint: Slot,
    /// Whether damage had been found while the log ran: then this start has verified everything.
    pub marked: bool,
}

/// Where a position of a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionLookup {
    /// In this slot, whose first record in the log has this position.
    Slot {
        /// The slot.
        slot: Slot,
        /// The position of its first record in the log.
        first: Position,
    },
    /// In a sealed segment whose index is not in memory: [`Log::read_position`] finds it.
    OnDisk,
    /// Not applied yet (or never written).
    Unknown,
}

/// Counters since the log was opened, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Durable writes of entries that have completed.
    pub durable_writes: u64,
    /// Bytes of entries and segment headers in them.
    pub bytes_written: u64,
    /// Entries appended by the caller.
    pub entries: u64,
    /// Idle marks written.
    pub marks: u64,
    /// Promises made durable.
    pub votes: u64,
    /// Segments in use or prepared.
    pub segments: u64,
    /// Segments prepared and not yet begun.
    pub spare_segments: u64,
    /// Bytes of segments that were reserved only, not filled with zeros, since the log was opened.
    pub unfilled_bytes: u64,
    /// Segments whose index footer stands on disk.
    pub indexed_segments: u64,
    /// Entries whose index is held in memory.
    pub entries_in_memory: u64,
    /// Entries that wait for their write to start.
    pub queued_entries: u64,
    /// The last entry that is durable and acknowledged, by its number in the log.
    pub durable_entry: u64,
    /// The highest slot that has become durable.
    pub durable_slot: Slot,
    /// Times that creating a segment met a full disk.
    pub disk_full: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Segments that the start did not read, and that are not verified yet.
    pub unverified_segments: u64,
    /// Segments verified since.
    pub verified_segments: u64,
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// The write with this number, or its flush.
    Write(u64),
    /// A step of the vote's write.
    Vote,
    /// A step in preparing a segment.
    Prepare,
    /// Opening the next prepared segment.
    OpenSpare,
    /// The footer of this segment.
    Footer(u64),
    /// Opening the file of this segment for reads.
    OpenFile(u64),
    /// Reading the footer of this segment.
    LoadFooter(u64),
    /// Reading the entry of this read.
    ReadEntry(ReadTicket),
    /// A step in writing a checkpoint.
    Checkpoint,
    /// A step in verifying what the start did not read.
    Scrub,
    /// A step in leaving the marker of damage.
    Marker,
}

/// Issues tokens and knows what is in flight.
struct Tokens {
    base: u64,
    next: u64,
    ops: IdMap<u64, Op>,
}

const TOKEN_COUNTER_BITS: u32 = 40;

/// The group whose log has given out this token.
pub fn group_of_token(token: Token) -> GroupId {
    GroupId((token.0 >> TOKEN_COUNTER_BITS) as u16)
}

impl Tokens {
    fn new(group: GroupId) -> Tokens {
        let base = TOKEN_TAG << 56 | u64::from(group.0) << TOKEN_COUNTER_BITS;
        Tokens { base, next: 0, ops: IdMap::default() }
    }

    fn issue(&mut self, op: Op) -> Token {
        let token = self.base | self.next;
        self.next = (self.next + 1) & ((1 << TOKEN_COUNTER_BITS) - 1);
        assert!(self.ops.insert(token, op).is_none(), "a token is in flight at most once");
        Token(token)
    }
}

/// The log of one group. See the module for its guarantees.
pub struct Log {
    folder: String,
    options: LogOptions,
    tokens: Tokens,
    index: Index,
    writer: Writer,
    vote: VoteWriter,
    preparer: Preparer,
    reads: Reads,
    checkpointer: Checkpointer,
    scrubber: Scrubber,
    marker: MarkerWriter,
    /// Chosen slots up to here are replayed.
    replay_through: Slot,
    /// Bytes of the entries that were replayed.
    replayed_bytes: u64,
    /// The marker of damage stands: to be taken away when the replay has found nothing either.
    marked: bool,
    failure: Option<LogFailure>,
    stats: LogStats,
}

impl Log {
    /// Makes the folder of a new log: its first vote, promising nothing, and so many `segments`
    /// filled with zeros ahead. The folder must be empty.
    pub fn format<S: Storage>(
        storage: &mut S,
        folder: &str,
        options: &LogOptions,
        segments: u64,
    ) -> Result<(), LogError> {
        recovery::format(storage, folder, options, segments)
    }

    /// Opens the log of a formatted folder as [`Log::open_from`] does, without a checkpoint.
    ///
    /// # Errors
    /// As [`Log::open_from`].
    pub fn open<S: Storage>(
        storage: &mut S,
        folder: &str,
        options: LogOptions,
    ) -> Result<(Log, LogRecovered), LogError> {
        recovery::open(storage, folder, options, None)
    }

    /// Opens the log of a formatted folder: makes what is in the files durable, verifies what is not
    /// vouched for by an index footer, cuts a torn tail, reads the vote, and hands the newest
    /// checkpoint to `restore`. [`Log::replay`] follows. What was not verified is verified while the
    /// log runs ([`LogEvent::Damaged`]); where that has found damage before, everything is verified
    /// here.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when something that had been durable is damaged, and not at the end of the
    /// log, above its checkpoints, in a cluster that has it; nothing has been changed then.
    pub fn open_from<S: Storage>(
        storage: &mut S,
        folder: &str,
        options: LogOptions,
        restore: &mut Restore<'_>,
    ) -> Result<(Log, LogRecovered), LogError> {
        recovery::open(storage, folder, options, Some(restore))
    }

    /// Hands the batch of every chosen slot, from the one after the checkpoint (or 1) to the chosen
    /// watermark, to `visitor`, which returns its placement. To be called once, between [`Log::open`]
    /// and the first append. Then a marker of damage, if one stood, is taken away: all is well.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when something is damaged, or the placement is not the one that the
    /// log was told of before; [`LogError::Refused`] when the visitor refuses a batch, or its
    /// placement does not fit the room that was kept.
    pub fn replay<S: Storage>(
        &mut self,
        storage: &mut S,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), LogError> {
        replay::replay(self, storage, visitor)
    }

    /// Gives the entry its place in the log and queues it. Does no IO: see [`Log::submit`].
    ///
    /// # Panics
    /// When the entry is over `entry_bytes_max`, its placement over what an entry of that size can
    /// need ([`placement_bytes_worst`]), or the slot is 0.
    pub fn append(&mut self, entry: Entry<'_>) -> AppendId {
        let (size, room) = (entry.batch.entry_size(), entry.placement_bytes_max);
        let room_max = placement_bytes_worst(self.options.entry_bytes_max);
        assert!(entry.slot > Slot::NONE, "slots start at 1");
        assert!(room <= room_max, "a placement of {room} bytes is within its bound");
        assert!(size <= self.options.entry_bytes_max, "an entry of {size} bytes fits a segment");
        assert!(entry.chosen <= self.index.slot_max(), "what is chosen stands in the log before");
        let (segment, offset) = self.place(size, room);
        self.index.push(entry.slot, entry.ballot, entry.batch.value_size() as u32, room);
        self.stats.entries += 1;
        self.writer.queue_entry(entry, segment, offset)
    }

    /// Queues a promise: it becomes durable in both copies of the vote file.
    ///
    /// # Panics
    /// When the ballot is below one promised before: a promise never goes down.
    pub fn vote(&mut self, ballot: Ballot) -> VoteId {
        self.vote.queue(ballot)
    }

    /// Whether a batch appended now would start to be written in this turn.
    pub fn is_free(&self) -> bool {
        self.is_free_for(0)
    }

    /// As [`Log::is_free`], for a value of so many `bytes`: one as large as what is in flight, or a large
    /// one, may start beside that.
    pub fn is_free_for(&self, bytes: usize) -> bool {
        self.failure.is_none() && self.writer.is_free_for(bytes)
    }

    /// Whether the largest entry would find room. False when the disk is full and no prepared
    /// segment is left; becomes true again when a segment could be made.
    pub fn has_room(&self) -> bool {
        let (size, room) =
            (self.options.entry_bytes_max, placement_bytes_worst(self.options.entry_bytes_max));
        let (active, prepared_through) =
            (self.index.active().number, self.preparer.prepared_through());
        !self.preparer.is_full()
            || prepared_through > active
            || (prepared_through == active && self.index.active_fits(size, room))
    }

    /// To be called at the end of each turn: starts what may be started.
    pub fn submit<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        if self.failure.is_some() {
            return;
        }
        self.vote.submit(disk, &mut self.tokens, &self.options);
        self.queue_mark(now);
        self.start_writes(disk);
        self.prepare(now, disk);
        self.start_footers(disk);
        self.write_checkpoint(now, disk);
        self.scrub(now, disk);
        self.open_again(now, disk);
    }

    /// Whether the completion is one for this log's [`Log::on_disk_event`].
    pub fn owns(&self, token: Token) -> bool {
        token.0 >> TOKEN_COUNTER_BITS == self.tokens.base >> TOKEN_COUNTER_BITS
    }

    /// Takes a completion; appends what follows from it to `out`.
    ///
    /// # Errors
    /// A write or flush has failed or was short: fatal for the process. Every later call fails
    /// too, and nothing is reported durable any more.
    pub fn on_disk_event<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        event: DiskEvent,
        out: &mut Vec<LogEvent>,
    ) -> Result<(), LogFailure> {
        let op = self.tokens.ops.remove(&event.token.0).expect("only tokens in flight complete");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = match op {
            Op::Write(number) => self.on_write(now, disk, number, event, out),
            Op::Vote => self.on_vote(disk, event, out),
            Op::Prepare => self.on_prepare(now, disk, event),
            Op::OpenSpare => self.on_spare_open(now, disk, event),
            Op::Footer(segment) => self.on_footer(disk, segment, event),
            Op::Checkpoint => self.on_checkpoint(now, disk, event),
            Op::Scrub => self.on_scrub(now, disk, event, out),
            Op::Marker => self.on_marker(disk, event),
            Op::OpenFile(_) | Op::LoadFooter(_) | Op::ReadEntry(_) => {
                self.on_read(now, disk, op, event, out);
                Ok(())
            }
        };
        if let Err(failure) = &result {
            self.failure = Some(failure.clone());
        }
        result
    }

    /// Tells what became of the commands of an applied slot. In slot order, once per slot.
    ///
    /// # Panics
    /// When the slot is not the next one or was never appended, or its placement takes more than
    /// the entry's `placement_bytes_max` or is not as [`Placement`] guarantees.
    pub fn set_placement(&mut self, slot: Slot, placement: Rc<Placement>) {
        self.index.set_placement(slot, placement);
    }

    /// The slot that holds the record at `position` of `log`, as far as memory tells.
    pub fn slot_at(&self, log: LogId, position: Position) -> PositionLookup {
        self.index.slot_at(log, position, self.reads.footers())
    }

    /// Reads the value of a durable slot; ends in [`LogEvent::Read`].
    ///
    /// # Errors
    /// The slot is not in the log, not durable yet, or too many reads are in flight.
    pub fn read_slot<D: Disk>(
        &mut self,
        disk: &mut D,
        ticket: ReadTicket,
        slot: Slot,
    ) -> Result<(), NotStored> {
        self.start_read(disk, ticket, reads::Wanted::Slot(slot))
    }

    /// Reads the slot that holds the record at `position` of `log`; ends in [`LogEvent::Read`].
    ///
    /// # Errors
    /// The position has not been applied, its slot is not durable yet here, or too many reads are
    /// in flight.
    pub fn read_position<D: Disk>(
        &mut self,
        disk: &mut D,
        ticket: ReadTicket,
        log: LogId,
        position: Position,
    ) -> Result<(), NotStored> {
        self.start_read(disk, ticket, reads::Wanted::Position(log, position))
    }

    /// When [`Log::submit`] should be called although nothing completes.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let mark = self.mark_deadline();
        let background = [self.checkpointer.deadline(), self.scrubber.deadline()];
        let others = [self.preparer.deadline(), self.reads.deadline(), mark];
        others.into_iter().chain(background).flatten().min()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> LogStats {
        let active = self.index.active().number;
        LogStats {
            votes: self.vote.votes(),
            segments: self.index.segments().len() as u64
                + self.preparer.prepared_through().saturating_sub(active),
            spare_segments: self.preparer.prepared_through().saturating_sub(active),
            unfilled_bytes: self.preparer.unfilled_bytes(),
            indexed_segments: self.index.indexed_count(),
            entries_in_memory: self.index.dense_count(),
            queued_entries: self.writer.queued_count() as u64,
            durable_entry: self.writer.durable(),
            disk_full: self.preparer.full_count(),
            checkpoints: self.checkpointer.written,
            unverified_segments: self.scrubber.left(),
            verified_segments: self.scrubber.verified,
            ..self.stats
        }
    }
}
