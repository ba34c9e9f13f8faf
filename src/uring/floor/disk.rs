//! Durable writes through the ring, as the log makes them: over blocks that were written before, and
//! to fresh ones.
//!
//! Used by the floors alone. The calling thread sleeps until each completion; nothing else is in
//! flight beside what is measured.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::{RecvChunk, Uring, UringOptions};
use super::{FloorError, SAMPLES_MAX, STALL_MAX};
use crate::base::limits::{BLOCK_SIZE, MIB};
use crate::base::{BlockBuf, BlockPool};
use crate::io::{Disk, Event, FileId, FileOptions, Io, Storage, Sync, Token, Wait, WritePart};

/// The size of the file that is overwritten, in bytes.
const FILE_BYTES: usize = 16 * MIB;

/// How much one bandwidth write transfers.
const BANDWIDTH_WRITE_BYTES: usize = MIB;

/// The depths tried for bandwidth; the best counts.
const BANDWIDTH_DEPTHS: [u64; 2] = [1, 2];

/// The most that is written to fresh blocks, in bytes.
const FRESH_BYTES_MAX: u64 = 512 * MIB as u64;

/// Parts of the time for fresh blocks; the best counts.
const FRESH_PARTS: u32 = 4;

const _: () = assert!(FILE_BYTES.is_multiple_of(BANDWIDTH_WRITE_BYTES));

/// A zero-filled file, written as a log segment is, with a ring to overwrite it through.
pub struct DiskBench {
    uring: Uring,
    file: FileId,
    buffer: Rc<BlockBuf>,
    events: Vec<Event<RecvChunk>>,
    /// Operations started so far: names the next one.
    operations: u64,
    /// Completions fetched and not yet counted.
    completed: usize,
    // Last, so that the folder is removed after the ring has let go of the file.
    _dir: tempfile::TempDir,
}

impl DiskBench {
    /// Makes the file in a folder of its own in `dir`.
    ///
    /// # Errors
    /// When the ring or the folder does not work.
    pub fn new(dir: &Path) -> Result<DiskBench, FloorError> {
        let dir = tempfile::Builder::new().prefix(".loggos-floor-").tempdir_in(dir)?;
        let mut uring = Uring::new(Some(dir.path()), UringOptions::default())?;
        let file = uring.open("overwritten", FileOptions::CreateNew)?;
        let mut buffer = BlockPool::new(0).take(BANDWIDTH_WRITE_BYTES);
        buffer.fill(0);
        for index in 0..FILE_BYTES / BANDWIDTH_WRITE_BYTES {
            let offset = (index * BANDWIDTH_WRITE_BYTES) as u64;
            uring.write_at(file, offset, &buffer, BANDWIDTH_WRITE_BYTES)?;
        }
        uring.sync(file)?;
        uring.sync_folder("")?;
        buffer.fill(0x5a);
        let (buffer, events) = (Rc::new(buffer), Vec::new());
        Ok(DiskBench { uring, file, buffer, events, operations: 0, completed: 0, _dir: dir })
    }

    /// Durable overwrites of one block, one in flight, for `duration`: what each took.
    ///
    /// # Errors
    /// When a write fails or takes too long.
    pub fn durable_writes(&mut self, duration: Duration) -> Result<Vec<Duration>, FloorError> {
        let mut samples = Vec::new();
        let blocks = (FILE_BYTES / BLOCK_SIZE) as u64;
        let started = Instant::now();
        while started.elapsed() < duration && samples.len() < SAMPLES_MAX {
            let begin = Instant::now();
            let offset = (self.operations % blocks) * BLOCK_SIZE as u64;
            self.submit(self.file, offset, BLOCK_SIZE);
            self.complete_one()?;
            samples.push(begin.elapsed());
        }
        Ok(samples)
    }

    /// Bytes a second of durable 1 MiB overwrites during `duration`, at the best of a few depths.
    ///
    /// # Errors
    /// When a write fails or takes too long.
    pub fn durable_bandwidth(&mut self, duration: Duration) -> Result<f64, FloorError> {
        let mut best = 0.0_f64;
        let share = duration / BANDWIDTH_DEPTHS.len() as u32;
        for depth in BANDWIDTH_DEPTHS {
            let mut places = (0..FILE_BYTES as u64).step_by(BANDWIDTH_WRITE_BYTES).cycle();
            best = best.max(self.bandwidth_at(self.file, &mut places, depth, share)?);
        }
        Ok(best)
    }

    /// Bytes a second of durable 1 MiB writes to the blocks of a file that is reserved and has never
    /// been written, two in flight, in the best part of `duration`. A file system that cannot
    /// reserve is measured on a file that grows.
    ///
    /// # Errors
    /// When there is no room, a write fails or takes too long.
    pub fn fresh_bandwidth(&mut self, duration: Duration) -> Result<f64, FloorError> {
        const NAME: &str = "fresh";
        let file = self.uring.open(NAME, FileOptions::CreateNew)?;
        let token = self.token();
        self.uring.allocate(token, file, FRESH_BYTES_MAX);
        match self.complete_one() {
            Err(FloorError::Disk(error)) if error.source.kind() == io::ErrorKind::Unsupported => {}
            result => result?,
        }
        let mut places = (0..FRESH_BYTES_MAX).step_by(BANDWIDTH_WRITE_BYTES);
        let (mut best, share) = (0.0_f64, duration / FRESH_PARTS);
        for _ in 0..FRESH_PARTS {
            best = best.max(self.bandwidth_at(file, &mut places, 2, share)?);
        }
        self.uring.close(file);
        self.uring.remove(NAME)?;
        Ok(best)
    }

    /// Writes to these places, as far as they go.
    fn bandwidth_at(
        &mut self,
        file: FileId,
        places: &mut impl Iterator<Item = u64>,
        depth: u64,
        duration: Duration,
    ) -> Result<f64, FloorError> {
        let (mut inflight, mut done) = (0, 0_u64);
        let started = Instant::now();
        while started.elapsed() < duration {
            while inflight < depth
                && let Some(offset) = places.next()
            {
                self.submit(file, offset, BANDWIDTH_WRITE_BYTES);
                inflight += 1;
            }
            if inflight == 0 {
                break;
            }
            self.complete_one()?;
            inflight -= 1;
            done += 1;
        }
        let rate = done as f64 * BANDWIDTH_WRITE_BYTES as f64 / started.elapsed().as_secs_f64();
        for _ in 0..inflight {
            self.complete_one()?;
        }
        Ok(rate)
    }

    fn submit(&mut self, file: FileId, offset: u64, length: usize) {
        let part = WritePart::Buffer(Rc::clone(&self.buffer), length);
        let token = self.token();
        self.uring.write(token, file, offset, vec![part], Sync::Durable);
    }

    fn token(&mut self) -> Token {
        self.operations += 1;
        Token(self.operations)
    }

    fn complete_one(&mut self) -> Result<(), FloorError> {
        let deadline = Instant::now() + STALL_MAX;
        while self.completed == 0 {
            if Instant::now() >= deadline {
                let text = format!("a durable write took over {STALL_MAX:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
            }
            self.uring.turn(Wait::AtMost(STALL_MAX), &mut self.events)?;
            for event in self.events.drain(..) {
                if let Event::Disk(event) = event {
                    event.result?;
                    self.completed += 1;
                }
            }
        }
        self.completed -= 1;
        Ok(())
    }
}
