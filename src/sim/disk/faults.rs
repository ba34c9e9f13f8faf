//! What can go wrong with a disk, how often, and how often it did.

use std::collections::BTreeMap;
use std::time::Duration;

/// Chances are given in a million operations.
pub const CHANCES: u64 = 1_000_000;

/// How often a disk fails. All chances are per operation, in a million ([`CHANCES`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFaults {
    /// A read fails with EIO.
    pub read_error: u32,
    /// A write fails with EIO; any part of it may have been stored.
    pub write_error: u32,
    /// A flush (of a file or folder) fails with EIO; what it should have made durable may be lost
    /// although later flushes succeed.
    pub flush_error: u32,
    /// Opening, creating, renaming or removing a file fails with EIO.
    pub name_error: u32,
    /// A write stores fewer bytes than asked for and says so.
    pub short_write: u32,
    /// A write is acknowledged and never stored.
    pub lost_write: u32,
    /// A write is acknowledged and stored at another place of the same file.
    pub misdirected_write: u32,
    /// A slow period begins.
    pub slow_period: u32,
    /// How much longer operations take within it.
    pub slow_factor: u32,
    /// How long it lasts, at least and at most.
    pub slow_for: (Duration, Duration),
}

impl DiskFaults {
    /// A disk that does not fail.
    pub const NONE: DiskFaults = DiskFaults {
        read_error: 0,
        write_error: 0,
        flush_error: 0,
        name_error: 0,
        short_write: 0,
        lost_write: 0,
        misdirected_write: 0,
        slow_period: 0,
        slow_factor: 100,
        slow_for: (Duration::from_millis(100), Duration::from_secs(2)),
    };
}

/// How long operations take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskTiming {
    /// A read, at least and at most.
    pub read: (Duration, Duration),
    /// A write, at least and at most.
    pub write: (Duration, Duration),
    /// What a durable write or a flush takes on top.
    pub flush: (Duration, Duration),
    /// Opening, renaming and the like.
    pub name: (Duration, Duration),
    /// What each byte adds.
    pub bytes_per_s: u64,
    /// In this many of a million operations the time is ten times as long.
    pub stragglers: u32,
}

impl DiskTiming {
    /// About what IO.md has measured.
    pub const MEASURED: DiskTiming = DiskTiming {
        read: (Duration::from_micros(60), Duration::from_micros(200)),
        write: (Duration::from_micros(60), Duration::from_micros(160)),
        flush: (Duration::from_micros(40), Duration::from_micros(150)),
        name: (Duration::from_micros(10), Duration::from_micros(100)),
        bytes_per_s: 1_000_000_000,
        stragglers: 10_000,
    };
}

/// Parameters of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// What goes wrong.
    pub faults: DiskFaults,
    /// How long it takes.
    pub timing: DiskTiming,
    /// The room for files, in bytes.
    pub capacity_bytes: u64,
    /// Files open at once; more are refused with EMFILE.
    pub files_max: usize,
    /// Panic when a write goes to a block that holds bytes whose writer was told that they are
    /// durable. Blocks at the very end of a file (index footers are made again after damage) and
    /// the vote's file are left out; a renamed file starts anew.
    pub check_overwrites: bool,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            faults: DiskFaults::NONE,
            timing: DiskTiming::MEASURED,
            capacity_bytes: u64::MAX,
            files_max: FILES_MAX,
            check_overwrites: true,
        }
    }
}

/// As a process has them, when nothing else is said.
const FILES_MAX: usize = 1024;

/// A kind of operation, for [`super::SimDisk::inject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// [`crate::io::Disk::read`].
    Read,
    /// [`crate::io::Disk::write`].
    Write,
    /// [`crate::io::Disk::flush`] and [`crate::io::Disk::sync_folder_async`].
    Flush,
    /// [`crate::io::Disk::allocate`].
    Allocate,
    /// Opening and renaming.
    Name,
}

/// What happens to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpFault {
    /// It fails with EIO.
    Error,
    /// It fails with ENOSPC: writing, reserving, creating or renaming; nothing else does.
    Full,
    /// It fails with EMFILE: opening; nothing else does.
    NoFile,
    /// Only this many bytes are written (whole sectors of 512 bytes).
    Short(u32),
    /// It is acknowledged and not stored.
    Lost,
    /// It is acknowledged and stored elsewhere in its file.
    Misdirected,
}

/// How often each thing happened, under stable names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<&'static str, u64>,
}

impl Counters {
    pub(super) fn add(&mut self, name: &'static str, count: u64) {
        if count > 0 {
            *self.counts.entry(name).or_default() += count;
        }
    }

    pub(super) fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// How often; 0 when it never happened.
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// All that happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }
}

/// The names under which a disk counts what happened. `FAULTS` are the faults of FAULTS.md's disk
/// families; the rest is what shows that the disk was used at all.
pub mod names {
    /// Reads that completed.
    pub const READS: &str = "disk: reads";
    /// Writes that completed.
    pub const WRITES: &str = "disk: writes";
    /// Flushes that completed.
    pub const FLUSHES: &str = "disk: flushes";
    /// Completions that overtook an operation started earlier.
    pub const REORDERED: &str = "disk: completion out of order";
    /// Slow periods.
    pub const SLOW: &str = "disk: slow period";
    /// Periods without any completion.
    pub const STILL: &str = "disk: standstill";
    /// Operations that took ten times as long.
    pub const STRAGGLER: &str = "disk: straggler";
    /// Reads that failed.
    pub const READ_ERROR: &str = "disk: read error";
    /// Writes that failed.
    pub const WRITE_ERROR: &str = "disk: write error";
    /// Flushes that failed.
    pub const FLUSH_ERROR: &str = "disk: flush error";
    /// Opens and renames that failed.
    pub const NAME_ERROR: &str = "disk: open or rename error";
    /// Writes that were short.
    pub const SHORT_WRITE: &str = "disk: short write";
    /// Writes acknowledged and not stored.
    pub const LOST_WRITE: &str = "disk: lost write";
    /// Writes stored elsewhere.
    pub const MISDIRECTED: &str = "disk: misdirected write";
    /// Operations refused for want of room.
    pub const FULL: &str = "disk: full";
    /// Files that could not be opened since too many were open.
    pub const NO_FILE: &str = "disk: too many open files";
    /// Crashes of the process.
    pub const KILLED: &str = "disk: process killed";
    /// Losses of power.
    pub const POWER_LOSS: &str = "disk: power loss";
    /// Operations in flight at a crash.
    pub const IN_FLIGHT: &str = "disk: operation in flight at a crash";
    /// Blocks not flushed and lost at a power loss.
    pub const BLOCKS_LOST: &str = "disk: unflushed block lost";
    /// Blocks not flushed and kept at a power loss.
    pub const BLOCKS_KEPT: &str = "disk: unflushed block kept";
    /// Blocks torn at a power loss.
    pub const BLOCKS_TORN: &str = "disk: block torn";
    /// Names lost at a power loss.
    pub const NAMES_LOST: &str = "disk: name lost";
    /// Bits flipped in an entry's header.
    pub const FLIP_HEADER: &str = "disk: bit flip in an entry header";
    /// Bits flipped in a value.
    pub const FLIP_PAYLOAD: &str = "disk: bit flip in a value";
    /// Bits flipped in the padding behind a value.
    pub const FLIP_PADDING: &str = "disk: bit flip in padding";
    /// Bits flipped in a segment's header.
    pub const FLIP_SEGMENT: &str = "disk: bit flip in a segment header";
    /// Bits flipped in an index footer.
    pub const FLIP_FOOTER: &str = "disk: bit flip in an index footer";
    /// Bits flipped in one copy of the vote.
    pub const FLIP_VOTE: &str = "disk: bit flip in a vote";
    /// Bits flipped in the identity.
    pub const FLIP_IDENTITY: &str = "disk: bit flip in the identity";
    /// Bits flipped in a checkpoint.
    pub const FLIP_CHECKPOINT: &str = "disk: bit flip in a checkpoint";
    /// Checkpoints taken away.
    pub const CHECKPOINT_LOST: &str = "disk: checkpoint lost";
    /// Checkpoints overwritten by others.
    pub const CHECKPOINT_STALE: &str = "disk: checkpoint replaced by another";
    /// Bits flipped in the last entry of the log.
    pub const FLIP_TAIL: &str = "disk: bit flip in the last entry";
    /// Bits flipped where nothing was written.
    pub const FLIP_BLANK: &str = "disk: bit flip in blank space";
    /// Blocks that cannot be read any more.
    pub const UNREADABLE: &str = "disk: unreadable block";
    /// Blocks turned to zeros.
    pub const ZEROED: &str = "disk: zeroed block";
    /// Disks wiped.
    pub const WIPED: &str = "disk: wiped";
    /// Old copies put back.
    pub const COPY_RESTORED: &str = "disk: old copy put back";

    /// Every fault, for reports of what was never hit.
    pub const FAULTS: [&str; 34] = [
        REORDERED,
        SLOW,
        STILL,
        READ_ERROR,
        WRITE_ERROR,
        FLUSH_ERROR,
        NAME_ERROR,
        SHORT_WRITE,
        LOST_WRITE,
        MISDIRECTED,
        FULL,
        NO_FILE,
        KILLED,
        POWER_LOSS,
        BLOCKS_LOST,
        BLOCKS_KEPT,
        BLOCKS_TORN,
        NAMES_LOST,
        FLIP_HEADER,
        FLIP_PAYLOAD,
        FLIP_PADDING,
        FLIP_SEGMENT,
        FLIP_FOOTER,
        FLIP_VOTE,
        FLIP_IDENTITY,
        FLIP_CHECKPOINT,
        CHECKPOINT_LOST,
        CHECKPOINT_STALE,
        FLIP_TAIL,
        FLIP_BLANK,
        UNREADABLE,
        ZEROED,
        WIPED,
        COPY_RESTORED,
    ];
}
