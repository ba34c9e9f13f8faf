//! Pitfalls 2 and 3: what a durable write costs the kernel and the device, and that it is durable.
//!
//! The device's counters are shared with whatever else runs on this machine, which only ever adds
//! to them. So a figure is taken again until it is as low as it must be: others cannot make it
//! lower than it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use tempfile::TempDir;

use super::support::{PATIENCE, disk_dir, filled, ring_in, wait_for, zeroed_file};
use super::trace::AsyncWork;
use crate::base::BlockPool;
use crate::base::limits::BLOCK_SIZE;
use crate::io::{Disk, FileId, FileOptions, Storage, Sync, Token, WritePart};
use crate::uring::host::device_of;
use crate::uring::{LogSync, Uring, UringOptions};

/// Writes of one measurement.
const WRITES: u64 = 200;

/// What the device has done since it was attached.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counters {
    writes: u64,
    flushes: u64,
}

struct Device {
    stat: PathBuf,
}

impl Device {
    /// The device below `dir`, when its counters show flushes; otherwise says why they do not.
    fn below(dir: &Path) -> Option<Device> {
        let skip = |why: &str| {
            println!("SKIPPED: {why}");
            None
        };
        let Some(device) = device_of(dir) else { return skip("no block device below the folder") };
        if device.write_cache.as_deref() != Some("write back") {
            return skip("the device has no volatile cache, so the kernel sends it no flushes");
        }
        if device.fua == Some(true) {
            return skip("the device takes durable writes (FUA), so it needs no flushes");
        }
        let stat = PathBuf::from(format!("/sys/block/{}/stat", device.name));
        let found = Device { stat };
        if found.read().is_none() { skip("the kernel counts no flushes") } else { Some(found) }
    }

    fn read(&self) -> Option<Counters> {
        let text = fs::read_to_string(&self.stat).ok()?;
        let numbers: Vec<u64> = text.split_whitespace().map_while(|n| n.parse().ok()).collect();
        // Documented in the kernel's block/stat.rst; the flushes are there since 5.5.
        Some(Counters { writes: *numbers.get(4)?, flushes: *numbers.get(15)? })
    }

    fn now(&self) -> Counters {
        self.read().expect("it could be read before")
    }
}

struct Target {
    uring: Uring,
    file: FileId,
    next: u64,
    // Last: the folder goes after the ring has let go of the file.
    dir: TempDir,
}

impl Target {
    /// A file of which every block has been written, as of a log segment.
    fn new(log_sync: LogSync) -> Target {
        let dir = disk_dir();
        let mut uring = ring_in(&dir, UringOptions { log_sync, ..UringOptions::default() });
        let file = zeroed_file(&mut uring, "zeroed", WRITES as usize * BLOCK_SIZE);
        Target { uring, file, next: 0, dir }
    }

    /// An empty file: every write extends it.
    fn empty() -> Target {
        let dir = disk_dir();
        let mut uring = ring_in(&dir, UringOptions::default());
        let file = uring.open("empty", FileOptions::CreateNew).unwrap();
        Target { uring, file, next: 0, dir }
    }

    /// Writes one block, alone, and waits for it.
    fn write(&mut self, sync: Sync) {
        let part = Rc::new(filled(&BlockPool::new(0), BLOCK_SIZE, 0x33));
        let token = Token(self.next);
        let offset = (self.next % WRITES) * BLOCK_SIZE as u64;
        self.next += 1;
        self.uring.write(token, self.file, offset, vec![WritePart::Buffer(part, BLOCK_SIZE)], sync);
        assert_eq!(wait_for(&mut self.uring, token).result.unwrap(), BLOCK_SIZE as u32);
    }

    /// The device's work per write over one pass: writes and flushes.
    fn pass(&mut self, device: &Device, sync: Sync) -> (f64, f64) {
        let before = device.now();
        (0..WRITES).for_each(|_| self.write(sync));
        let after = device.now();
        let per_write = |before, after| (after - before) as f64 / WRITES as f64;
        (per_write(before.writes, after.writes), per_write(before.flushes, after.flushes))
    }

    /// Passes until one satisfies `wanted`, which others can only spoil; the smallest figures.
    fn cost(
        &mut self,
        device: &Device,
        sync: Sync,
        wanted: impl Fn((f64, f64)) -> bool,
    ) -> (f64, f64) {
        let mut smallest = (f64::MAX, f64::MAX);
        let started = Instant::now();
        while !wanted(smallest) && started.elapsed() < PATIENCE {
            let pass = self.pass(device, sync);
            smallest = (smallest.0.min(pass.0), smallest.1.min(pass.1));
        }
        smallest
    }
}

/// Pitfall 2. On a thread of its own: the trace may need a name space of its own.
#[test]
fn a_steady_write_never_leaves_for_a_worker_thread() {
    let traced = || {
        let trace = match AsyncWork::start() {
            Ok(trace) => trace,
            Err(why) => return println!("SKIPPED: {why}"),
        };
        let mut log = Target::new(LogSync::Dsync);
        trace.take();
        (0..3 * WRITES).for_each(|_| log.write(Sync::Durable));
        let left = trace.take();
        assert!(left.is_empty(), "{} writes left for a worker: {:?}", left.len(), left.first());

        // The same instrument sees what is wrong: writes that extend their file, separate flushes.
        let mut extending = Target::empty();
        (0..20).for_each(|_| extending.write(Sync::Durable));
        let left = trace.take();
        assert!(left.iter().any(|line| line.contains("WRITEV")), "extending writes: {left:?}");
        let mut flushing = Target::new(LogSync::WriteThenFlush);
        trace.take();
        (0..20).for_each(|_| flushing.write(Sync::Durable));
        let left = trace.take();
        assert_eq!(left.iter().filter(|line| line.contains("FSYNC")).count(), 20, "{left:?}");
    };
    std::thread::spawn(traced).join().unwrap();
}

/// Pitfall 2. Besides the write and its flush the file's time of change may be written, on a file
/// system without a journal at every tick of the clock (a lone write then comes with it each time).
#[test]
fn a_steady_write_costs_the_device_about_two_writes_and_one_flush() {
    let mut log = Target::new(LogSync::Dsync);
    let Some(device) = Device::below(log.dir.path()) else { return };
    let low = |(writes, flushes)| writes < 4.0 && flushes < 1.5;
    let (writes, flushes) = log.cost(&device, Sync::Durable, low);
    println!("per write: {writes:.2} device writes, {flushes:.2} flushes");
    assert!(low((writes, flushes)), "{writes:.2} device writes, {flushes:.2} flushes");
    assert!(writes >= 1.0 && flushes >= 1.0, "the counters show this device");
}

/// Pitfall 3: at the moment when the event of a durable write is there, so is the flush.
#[test]
fn every_isolated_durable_write_is_flushed_before_its_event() {
    for log_sync in [LogSync::Dsync, LogSync::WriteThenFlush] {
        let mut log = Target::new(log_sync);
        let Some(device) = Device::below(log.dir.path()) else { return };
        for write in 0..WRITES {
            let before = device.now().flushes;
            log.write(Sync::Durable);
            let after = device.now().flushes;
            assert!(after > before, "{log_sync:?}: write {write} was answered without a flush");
        }
        // Writes that need no durability are not flushed, so the counter can tell.
        let none = |(_, flushes)| flushes < 0.5;
        let (_, flushes) = log.cost(&device, Sync::Cached, none);
        assert!(none((0.0, flushes)), "{log_sync:?}: {flushes:.2} flushes per cached write");
    }
}
