//! What the tests of the seam share.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::base::limits::BLOCK_SIZE;
use crate::base::{BlockBuf, BlockPool};
use crate::io::{ConnId, DiskEvent, Event, FileId, FileOptions, Io, Storage, Token, Wait};
use crate::uring::host::filesystem_of;
use crate::uring::{RecvChunk, Uring, UringOptions};

/// How long anything that must happen by itself may take: far above what it takes, so that a
/// slow machine does not fail a test.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A fresh folder on a real disk: a flush costs nothing in memory, and proves nothing there.
pub fn disk_dir() -> TempDir {
    let candidates = [std::env::temp_dir(), PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
    let is_real = |path: &PathBuf| filesystem_of(path).is_ok_and(|found| !found.in_memory);
    let parent = candidates.into_iter().find(is_real).expect("a folder on a real disk");
    tempfile::tempdir_in(parent).expect("a scratch folder can be made")
}

/// A ring over the folder.
pub fn ring_in(dir: &TempDir, options: UringOptions) -> Uring {
    Uring::new(Some(dir.path()), options).expect("io_uring works here")
}

/// A file of `bytes` zeros that are written, not merely reserved, as a log segment's are.
pub fn zeroed_file(uring: &mut Uring, name: &str, bytes: usize) -> FileId {
    const STEP: usize = 1 << 20;
    let file = uring.open(name, FileOptions::CreateNew).expect("the file can be made");
    let mut zeros = BlockPool::new(0).take(STEP);
    zeros.fill(0);
    for offset in (0..bytes).step_by(STEP) {
        let length = STEP.min(bytes - offset);
        uring.write_at(file, offset as u64, &zeros, length).expect("the disk has room");
    }
    uring.sync(file).expect("the file can be flushed");
    uring.sync_folder("").expect("the folder can be flushed");
    file
}

/// A buffer of `length` bytes, all `byte`.
pub fn filled(pool: &BlockPool, length: usize, byte: u8) -> BlockBuf {
    let mut buffer = pool.take(length);
    buffer.fill(byte);
    buffer
}

/// Turns until `done` has what it waits for; it sees every event once.
///
/// # Panics
/// After [`PATIENCE`], with `what`.
pub fn turn_until(
    uring: &mut Uring,
    what: &str,
    mut done: impl FnMut(&mut Uring, Event<RecvChunk>) -> bool,
) {
    let started = std::time::Instant::now();
    let mut events = Vec::new();
    loop {
        let step = Wait::AtMost(std::time::Duration::from_millis(100));
        uring.turn(step, &mut events).expect("the ring works");
        let mut found = false;
        for event in events.drain(..) {
            found |= done(uring, event);
        }
        if found {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
    }
}

/// Turns until the operation `token` has completed.
pub fn wait_for(uring: &mut Uring, token: Token) -> DiskEvent {
    let mut found = None;
    turn_until(uring, "a disk operation", |_, event| {
        match event {
            Event::Disk(event) if event.token == token => found = Some(event),
            Event::Disk(event) => panic!("unexpected: {event:?}"),
            _ => {}
        }
        found.is_some()
    });
    found.expect("the loop ends with one")
}

/// The first byte of each of the first `count` blocks of a file.
pub fn blocks(uring: &mut Uring, file: FileId, count: usize) -> Vec<u8> {
    let mut buffer = BlockPool::new(0).take(count * BLOCK_SIZE);
    uring.read_at(file, 0, &mut buffer, count * BLOCK_SIZE).expect("the file can be read");
    (0..count).map(|block| buffer[block * BLOCK_SIZE]).collect()
}

/// Two connections of this ring to each other, without events left behind.
pub fn connected_pair(uring: &mut Uring) -> (ConnId, ConnId) {
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let near = uring.adopt_socket(near.into()).expect("there is room");
    let far = uring.adopt_socket(far.into()).expect("there is room");
    (near, far)
}
