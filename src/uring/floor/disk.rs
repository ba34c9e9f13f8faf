//! Durable overwrites through the ring, as the log makes them.
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

/// A zero-filled file, written as a log segment is, with a ring to overwrite it through.
pub struct DiskBench {
    uring: Uring,
    file: FileId,
    buffer: Rc<BlockBuf>,
    events: Vec<Event<RecvChunk>>,
    /// Writes started so far: names the next one and its place.
    writes: u64,
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
        Ok(DiskBench { uring, file, buffer, events, writes: 0, completed: 0, _dir: dir })
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
            let offset = (self.writes % blocks) * BLOCK_SIZE as u64;
            self.submit(offset, BLOCK_SIZE, Sync::Durable);
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
            best = best.max(self.bandwidth_at(depth, share)?);
        }
        Ok(best)
    }

    fn bandwidth_at(&mut self, depth: u64, duration: Duration) -> Result<f64, FloorError> {
        let places = (FILE_BYTES / BANDWIDTH_WRITE_BYTES) as u64;
        let (mut inflight, mut done) = (0, 0_u64);
        let started = Instant::now();
        while started.elapsed() < duration {
            while inflight < depth {
                let offset = (self.writes % places) * BANDWIDTH_WRITE_BYTES as u64;
                self.submit(offset, BANDWIDTH_WRITE_BYTES, Sync::Durable);
                inflight += 1;
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

    fn submit(&mut self, offset: u64, length: usize, sync: Sync) {
        let token = Token(self.writes);
        self.writes += 1;
        let part = WritePart::Buffer(Rc::clone(&self.buffer), length);
        self.uring.write(token, self.file, offset, vec![part], sync);
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
