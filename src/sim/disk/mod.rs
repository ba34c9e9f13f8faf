//! One node's disk in the simulator: `io::Storage` and `io::Disk` over virtual time, from a seed.
//!
//! Composed by the simulated `Io` with a network and a clock, and used alone by the log's tests
//! ([`TestDisk`]). Guarantees: the same calls with the same seed give the same run; nothing is
//! durable that the seam does not promise to be (a completed [`Sync::Durable`] write, what had
//! completed when a flush began, names when their folder's sync began); everything else may be
//! lost, kept or torn at a power loss.
//!
//! It also holds the log to the rules of O_DIRECT and of IO.md, by panics: aligned transfers; no
//! two writes in flight on one block; memory that does not change while a write is in flight; no
//! write over bytes that were acknowledged.
//!
//! How to drive it: call the methods of [`Disk`] as the node does; [`SimDisk::submit`] once per
//! turn starts what was asked for; [`SimDisk::next_completion_at`] says when to look again;
//! [`SimDisk::pop_completed`] gives the completions up to `now`, one at a time.

mod content;
mod faults;
mod flips;
mod names;
mod ops;
mod storage;
mod test_disk;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

pub use faults::{
    CHANCES, Counters, DiskFaults, DiskOptions, DiskTiming, OpFault, OpKind, names as counts,
};
pub use flips::{Flipped, Region};
pub use test_disk::TestDisk;

use crate::base::Instant;
use crate::base::rng::Rng;
use crate::io::{DiskEvent, Token};

use content::{Content, Tear};
use names::{Inode, Names};
use ops::{Flight, Op};

/// Operations in flight on one disk at most; more is a leak of the caller.
pub const IN_FLIGHT_MAX: usize = 4096;

/// See [`SimDisk::speed_up`].
pub const SPED_UP_WITHIN: Duration = Duration::from_millis(100);

/// An open file.
#[derive(Clone, Debug)]
struct Handle {
    inode: Inode,
    name: String,
    writable: bool,
    in_flight: u32,
}

/// A fault that was ordered for a coming operation.
#[derive(Clone, Copy, Debug)]
struct Planned {
    kind: OpKind,
    skip: u32,
    fault: OpFault,
}

/// What a disk durably holds, to be put back later ([`SimDisk::restore_copy`]).
#[derive(Clone, Debug)]
pub struct DiskCopy {
    names: Names,
    files: BTreeMap<Inode, Content>,
}

/// A disk.
pub struct SimDisk {
    options: DiskOptions,
    rng: Rng,
    names: Names,
    files: BTreeMap<Inode, Content>,
    next_inode: u64,
    handles: BTreeMap<u32, Handle>,
    next_handle: u32,
    /// Asked for since the last [`SimDisk::submit`].
    queued: Vec<(Token, Op)>,
    /// By time of completion, then by order of start.
    flights: BTreeMap<(Instant, u64), Flight>,
    next_order: u64,
    /// Completions so far: what a flush covers is told by it.
    done: u64,
    slow_until: Instant,
    still_until: Instant,
    planned: Vec<Planned>,
    counters: Counters,
}

impl SimDisk {
    /// An empty disk whose latencies and faults follow from `seed`.
    pub fn new(seed: u64, options: DiskOptions) -> SimDisk {
        SimDisk {
            options,
            rng: Rng::new(seed),
            names: Names::default(),
            files: BTreeMap::new(),
            next_inode: 1,
            handles: BTreeMap::new(),
            next_handle: 0,
            queued: Vec::new(),
            flights: BTreeMap::new(),
            next_order: 0,
            done: 1,
            slow_until: Instant(0),
            still_until: Instant(0),
            planned: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// How often each thing happened, since the disk was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The parameters.
    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&mut self, faults: DiskFaults) {
        self.options.faults = faults;
    }

    /// Changes the room for files. Below what is used, nothing new finds room; what is stored stays.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.options.capacity_bytes = bytes;
    }

    /// Changes how many files may be open at once. Those that are stay open.
    pub fn set_files_max(&mut self, count: usize) {
        self.options.files_max = count;
    }

    /// Files that are open.
    pub fn open_files(&self) -> usize {
        self.handles.len()
    }

    /// Whether writes over acknowledged bytes are a panic from now on: not on a disk that is
    /// damaged on purpose.
    pub fn set_check_overwrites(&mut self, check: bool) {
        self.options.check_overwrites = check;
    }

    /// Takes back the faults that were ordered and have not struck.
    pub fn forget_injected(&mut self) {
        self.planned.clear();
    }

    /// Room that files take, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.reserved).sum()
    }

    /// Blocks of memory that the disk's content takes in the simulator.
    pub fn held_blocks(&self) -> usize {
        self.files.values().map(Content::held_blocks).sum()
    }

    /// Changes how long a read takes, at least and at most.
    pub fn set_read_time(&mut self, least: Duration, most: Duration) {
        self.options.timing.read = (least, most);
    }

    /// Operations started until `until` take `slow_factor` times as long.
    pub fn slow_down(&mut self, until: Instant) {
        self.counters.hit(counts::SLOW);
        self.slow_until = self.slow_until.max(until);
    }

    /// Nothing completes until then. (The blocking calls of a start-up do.)
    pub fn stand_still(&mut self, until: Instant) {
        self.counters.hit(counts::STILL);
        self.still_until = self.still_until.max(until);
    }

    /// A disk that is slow or stands still is as it was before, and so are the operations in
    /// flight: they complete, in their order, within [`SPED_UP_WITHIN`].
    pub fn speed_up(&mut self, now: Instant) {
        (self.slow_until, self.still_until) = (Instant(0), Instant(0));
        let flights = std::mem::take(&mut self.flights);
        let soon = now + SPED_UP_WITHIN;
        self.flights = flights
            .into_iter()
            .map(|((at, order), flight)| ((at.min(soon), order), flight))
            .collect();
    }

    /// Orders a fault for one operation of this kind: the one after `skip` others that are started
    /// (or, during start-up, called) from now on.
    pub fn inject(&mut self, kind: OpKind, skip: u32, fault: OpFault) {
        self.planned.push(Planned { kind, skip, fault });
    }

    /// Takes back what [`SimDisk::inject`] has ordered and has not come to pass. A crash does not:
    /// what is ordered may hit the start after it.
    pub fn forget_ordered(&mut self) {
        self.planned.clear();
    }

    // ---- the loop ---------------------------------------------------------------------------

    /// Starts what has been asked for since the last call.
    ///
    /// # Panics
    /// When a rule of O_DIRECT or of the seam is broken.
    pub fn submit(&mut self, now: Instant) {
        for (token, op) in std::mem::take(&mut self.queued) {
            self.start(now, token, op);
        }
    }

    /// When the next operation completes; `None` when none is in flight.
    pub fn next_completion_at(&self) -> Option<Instant> {
        self.flights.keys().next().map(|(at, _)| (*at).max(self.still_until))
    }

    /// The next completion up to `now`.
    pub fn pop_completed(&mut self, now: Instant) -> Option<DiskEvent> {
        if now < self.still_until {
            return None;
        }
        let entry = self.flights.first_entry().filter(|entry| entry.key().0 <= now)?;
        let flight = entry.remove();
        Some(self.complete(flight))
    }

    /// Completes this operation at once, whatever it would have taken: for tests that choose the
    /// order.
    ///
    /// # Panics
    /// When it is not in flight.
    pub fn complete_now(&mut self, token: Token) -> DiskEvent {
        let key =
            self.flights.iter().find(|(_, flight)| flight.token == token).map(|(key, _)| *key);
        let key = key.expect("the operation is in flight");
        let flight = self.flights.remove(&key).expect("just found");
        self.complete(flight)
    }

    /// The operations in flight, in the order in which they were started.
    pub fn in_flight(&self) -> Vec<(Token, OpKind)> {
        let mut flights: Vec<_> = self.flights.values().collect();
        flights.sort_unstable_by_key(|flight| flight.order);
        flights.iter().map(|flight| (flight.token, flight.op.kind())).collect()
    }

    // ---- crashes ----------------------------------------------------------------------------

    /// The process ends, the power stays on: operations in flight have any outcome, what had
    /// completed stays as it was, still not durable. Open files are closed.
    pub fn kill(&mut self, rng: &mut Rng) {
        self.counters.hit(counts::KILLED);
        for flight in self.drop_operations() {
            self.end_unseen(flight, rng);
        }
        for file in self.files.values_mut() {
            file.resolve_doomed(rng);
        }
        self.collect_garbage();
    }

    /// The power is lost, and the process with it: what was not durable is lost, kept or torn.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        self.counters.hit(counts::POWER_LOSS);
        let tear = Tear::draw(rng);
        for flight in self.drop_operations() {
            self.end_at_power_loss(flight, rng);
        }
        for file in self.files.values_mut() {
            let count = file.power_loss(tear, rng);
            self.counters.add(counts::BLOCKS_LOST, count.lost);
            self.counters.add(counts::BLOCKS_KEPT, count.kept);
            self.counters.add(counts::BLOCKS_TORN, count.torn);
        }
        let keep_all = match tear {
            Tear::Lose => Some(false),
            Tear::Keep => Some(true),
            _ => None,
        };
        let lost = self.names.power_loss(keep_all, rng);
        self.counters.add(counts::NAMES_LOST, lost);
        self.collect_garbage();
    }

    /// Forgets handles and queued operations; returns those in flight, in order of start.
    fn drop_operations(&mut self) -> Vec<Flight> {
        self.queued.clear();
        self.handles.clear();
        let mut flights: Vec<_> = std::mem::take(&mut self.flights).into_values().collect();
        flights.sort_unstable_by_key(|flight| flight.order);
        self.counters.add(counts::IN_FLIGHT, flights.len() as u64);
        flights
    }

    fn collect_garbage(&mut self) {
        let mut kept: BTreeSet<Inode> = self.names.inodes().collect();
        kept.extend(self.handles.values().map(|handle| handle.inode));
        self.files.retain(|inode, _| kept.contains(inode));
    }

    // ---- the whole disk ---------------------------------------------------------------------

    fn assert_unused(&self) {
        assert!(self.handles.is_empty(), "the process is stopped first");
    }

    /// The disk is replaced by an empty one.
    ///
    /// # Panics
    /// While a process uses it: [`SimDisk::kill`] first.
    pub fn wipe(&mut self) {
        self.assert_unused();
        self.counters.hit(counts::WIPED);
        self.names = Names::default();
        self.files.clear();
    }

    /// A copy of what is durable.
    pub fn save_copy(&self) -> DiskCopy {
        let mut names = self.names.clone();
        names.power_loss(Some(false), &mut Rng::new(0));
        let files = self.files.iter().map(|(inode, file)| (*inode, file.durable_copy())).collect();
        DiskCopy { names, files }
    }

    /// A disk of its own with what a power cut right now would leave of this one for sure.
    pub fn after_power_cut(&self) -> SimDisk {
        let mut disk = SimDisk::new(0, DiskOptions::default());
        disk.restore_copy(&self.save_copy());
        disk
    }

    /// Puts a copy back: an old one of this disk, or one of another disk.
    ///
    /// # Panics
    /// While a process uses it: [`SimDisk::kill`] first.
    pub fn restore_copy(&mut self, copy: &DiskCopy) {
        self.assert_unused();
        self.counters.hit(counts::COPY_RESTORED);
        self.names = copy.names.clone();
        self.files = copy.files.clone();
        let highest = self.files.keys().next_back().map_or(0, |inode| inode.0);
        self.next_inode = self.next_inode.max(highest + 1);
        self.collect_garbage();
    }

    /// The names of all files, sorted.
    pub fn file_names(&self) -> Vec<String> {
        self.names.files().map(|(name, _)| name.to_owned()).collect()
    }

    /// The bytes of a file that a power cut right now would leave for sure.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn durable_bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let inode = self.names.file(name)?;
        Ok(self.files[&inode].durable_copy().bytes())
    }

    /// The bytes of a file as reads see them.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn file_bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let inode = self.names.file(name)?;
        Ok(self.files[&inode].bytes())
    }
}
