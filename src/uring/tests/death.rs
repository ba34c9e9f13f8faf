//! A process that dies with writes in flight: its data directory stays locked until they are over.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::support::{PATIENCE, disk_dir, filled, ring_in, zeroed_file};
use crate::base::{BlockBuf, BlockPool};
use crate::io::{Disk, FileId, FileOptions, Io, Storage, Sync, Token, Wait, WritePart};
use crate::uring::lock::lock_within;
use crate::uring::{DirectStorage, LockError, Uring, UringOptions, lock_data_dir};

/// Tells the child process its data directory.
const CHILD_DIR: &str = "LOGGOS_TEST_CHILD_DIR";
/// What the child prints once its writes are with the kernel.
const READY: &str = "the writes are in flight";
/// Bytes of one of the child's writes, and how many it has in flight: enough to keep the disk
/// busy for some tens of milliseconds after the process has gone.
const WRITE_BYTES: usize = 64 << 20;
const WRITES: usize = 6;
const PART_BYTES: usize = 1 << 20;
/// Parts of the file that are looked at.
const PARTS_PROBED: usize = 16;

const NO_WAIT: Duration = Duration::ZERO;

#[test]
fn a_ring_keeps_the_lock_after_its_file_is_closed() {
    let dir = disk_dir();
    let lock = lock_data_dir(dir.path()).unwrap();
    let mut uring = ring_in(&dir, UringOptions::default());
    uring.hold_lock(&lock).unwrap();
    drop(lock);
    let refused = lock_within(dir.path(), NO_WAIT).unwrap_err();
    assert!(matches!(refused, LockError::InUse { .. }), "{refused}");
    drop(uring);
    lock_within(dir.path(), NO_WAIT)
        .expect("a ring that ended in good order gives it back at once");
}

#[test]
fn the_lock_of_a_killed_process_comes_after_its_last_write() {
    let dir = disk_dir();
    for round in 0..3u8 {
        let seen = kill_a_child_with_writes_in_flight(dir.path());
        let _lock = lock_data_dir(dir.path()).unwrap();
        let taken = Instant::now();
        let mut storage = DirectStorage::new(dir.path()).unwrap();
        let first = probe(&mut storage);
        // Long enough for what was in flight to land, if anything still were.
        while taken.elapsed() < Duration::from_millis(250) {
            assert_eq!(probe(&mut storage), first, "round {round}: blocks change under the lock");
        }
        println!("round {round}: {seen}; {} blocks looked at, all settled", first.len());
        storage.remove("written").unwrap();
    }
}

/// Starts the child, waits until its writes are in flight, kills it, and waits for its end.
fn kill_a_child_with_writes_in_flight(dir: &Path) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["uring::tests::death::a_child_process_that_is_killed", "--exact"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this very test program can be started");
    let output = BufReader::new(child.stdout.take().unwrap());
    let ready = output.lines().map_while(Result::ok).find(|line| line.contains(READY));
    child.kill().unwrap();
    child.wait().unwrap();
    ready.expect("the child has said that its writes are in flight")
}

/// The first bytes of one block in each of the parts that were written last, the last one first:
/// looking takes time too.
fn probe(storage: &mut DirectStorage) -> Vec<u8> {
    let file = storage.open("written", FileOptions::Read).unwrap();
    let mut block = BlockPool::new(0).take(4096);
    let mut found = Vec::new();
    for part in (0..WRITE_BYTES * WRITES / PART_BYTES).rev().take(PARTS_PROBED) {
        storage.read_at(file, (part * PART_BYTES) as u64, &mut block, 4096).unwrap();
        found.push(block[0]);
    }
    storage.close(file);
    found
}

#[test]
#[ignore = "run by the_lock_of_a_killed_process_comes_after_its_last_write, which kills it"]
fn a_child_process_that_is_killed() {
    let dir = std::env::var(CHILD_DIR).expect("started by the test above only");
    let lock = lock_data_dir(&dir).unwrap();
    let mut uring = Uring::new(Some(Path::new(&dir)), UringOptions::default()).unwrap();
    uring.hold_lock(&lock).unwrap();
    let file = zeroed_file(&mut uring, "written", WRITE_BYTES * WRITES);
    let buffer = Rc::new(filled(&BlockPool::new(0), PART_BYTES, 0x77));
    let mut events = Vec::new();
    for write in 0..WRITES {
        submit_large_write(&mut uring, file, write, &buffer);
    }
    uring.turn(Wait::No, &mut events).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "{READY}: {} of {WRITES}", WRITES - events.len()).unwrap();
    out.flush().unwrap();
    // Blocked here, not in the ring: the kernel's side goes on by itself.
    std::thread::park_timeout(PATIENCE);
    panic!("nobody has killed this process");
}

fn submit_large_write(uring: &mut Uring, file: FileId, write: usize, buffer: &Rc<BlockBuf>) {
    let parts = (0..WRITE_BYTES / PART_BYTES)
        .map(|_| WritePart::Buffer(Rc::clone(buffer), PART_BYTES))
        .collect();
    let offset = (write * WRITE_BYTES) as u64;
    uring.write(Token(write as u64), file, offset, parts, Sync::Durable);
}
