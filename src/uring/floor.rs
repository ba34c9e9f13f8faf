//! The machine's own floors: what a durable write, durable bandwidth and a loopback round trip
//! cost without any log around them.
//!
//! Called by `doctor` and by `bench --floor`, before the load. Guarantee: measured the way the log
//! works (same ring, same flags, same kind of file), in the folder it will use; nothing is left
//! behind there.

use std::io::{self, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::limits::{BLOCK_SIZE, MIB};
use crate::base::{BlockBuf, BlockPool};
use crate::io::{Disk, Event, FileId, Io, Storage, Sync, Token, Wait, WritePart};

use super::{RecvChunk, Uring, UringOptions};

/// The size of the file that is overwritten, in bytes.
const FILE_BYTES: usize = 16 * MIB;

/// How much one bandwidth write transfers.
const BANDWIDTH_WRITE_BYTES: usize = MIB;

/// The depths tried for bandwidth; the best counts.
const BANDWIDTH_DEPTHS: [usize; 2] = [1, 2];

/// Bytes of one loopback message.
const MESSAGE_BYTES: usize = 64;

/// How long one operation may take before the measurement is given up.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Samples kept of one measurement; later ones are counted, not kept.
const SAMPLES_MAX: usize = 1 << 20;

/// Why a floor could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The ring could not be made.
    #[error(transparent)]
    Ring(#[from] super::UringError),
    /// A system call failed.
    #[error("cannot measure the floor: {0}")]
    Io(#[from] io::Error),
    /// A disk operation failed.
    #[error("cannot measure the floor: {0}")]
    Disk(#[from] crate::io::DiskError),
}

/// Latencies of one kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Operations measured.
    pub count: u64,
    /// Median in microseconds.
    pub us_p50: f64,
    /// 99th percentile in microseconds.
    pub us_p99: f64,
}

/// The floors of one folder and of loopback.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floor {
    /// A durable O_DIRECT overwrite of 4 KiB, one in flight.
    pub durable_write: Latency,
    /// Durable overwrites of 1 MiB, bytes a second at the best depth.
    pub durable_bytes_per_s: f64,
    /// A TCP round trip of 64 bytes over loopback between two threads that sleep until woken.
    pub round_trip: Latency,
}

/// Measures all three; each part takes `duration`.
///
/// # Errors
/// When the ring, the folder or loopback does not work.
pub fn measure(dir: &Path, duration: Duration) -> Result<Floor, FloorError> {
    Ok(Floor {
        durable_write: measure_durable_write(dir, duration)?,
        durable_bytes_per_s: measure_durable_bandwidth(dir, duration)?,
        round_trip: measure_round_trip(duration)?,
    })
}

/// The latency of a durable 4 KiB overwrite in the folder `dir`, one in flight, through the ring.
///
/// # Errors
/// When the ring or the folder does not work.
pub fn measure_durable_write(dir: &Path, duration: Duration) -> Result<Latency, FloorError> {
    let mut bench = DiskBench::new(dir)?;
    let mut samples = Vec::new();
    let blocks = (FILE_BYTES / BLOCK_SIZE) as u64;
    let started = Instant::now();
    for index in 0.. {
        if started.elapsed() >= duration {
            break;
        }
        let begin = Instant::now();
        bench.submit(Token(index), (index % blocks) * BLOCK_SIZE as u64, BLOCK_SIZE, Sync::Durable);
        bench.complete_one()?;
        if samples.len() < SAMPLES_MAX {
            samples.push(begin.elapsed());
        }
    }
    Ok(summary(samples))
}

/// Bytes a second of durable 1 MiB overwrites in the folder `dir`, at the best of a few depths.
///
/// # Errors
/// When the ring or the folder does not work.
pub fn measure_durable_bandwidth(dir: &Path, duration: Duration) -> Result<f64, FloorError> {
    let mut bench = DiskBench::new(dir)?;
    let mut best = 0.0_f64;
    let places = (FILE_BYTES / BANDWIDTH_WRITE_BYTES) as u64;
    let share = duration / BANDWIDTH_DEPTHS.len() as u32;
    for depth in BANDWIDTH_DEPTHS {
        let (mut next, mut done) = (0, 0_u64);
        let started = Instant::now();
        while started.elapsed() < share {
            while next < done + depth as u64 {
                let offset = (next % places) * BANDWIDTH_WRITE_BYTES as u64;
                bench.submit(Token(next), offset, BANDWIDTH_WRITE_BYTES, Sync::Durable);
                next += 1;
            }
            bench.complete_one()?;
            done += 1;
        }
        let rate = done as f64 * BANDWIDTH_WRITE_BYTES as f64 / started.elapsed().as_secs_f64();
        best = best.max(rate);
        while done < next {
            bench.complete_one()?;
            done += 1;
        }
    }
    Ok(best)
}

/// The TCP round trip of 64 bytes over loopback between two threads in blocking calls.
///
/// # Errors
/// When loopback does not work.
pub fn measure_round_trip(duration: Duration) -> Result<Latency, FloorError> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE_BYTES];
        loop {
            match stream.read_exact(&mut message) {
                Ok(()) => stream.write_all(&message)?,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_MAX))?;
    let mut message = [7; MESSAGE_BYTES];
    let mut samples = Vec::new();
    let started = Instant::now();
    while started.elapsed() < duration {
        let begin = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if samples.len() < SAMPLES_MAX {
            samples.push(begin.elapsed());
        }
    }
    drop(stream);
    echo.join().map_err(|_| io::Error::other("the echo thread has panicked"))??;
    Ok(summary(samples))
}

fn summary(mut samples: Vec<Duration>) -> Latency {
    samples.sort_unstable();
    let at = |share: f64| {
        let index = (samples.len() as f64 * share) as usize;
        let sample = samples.get(index.min(samples.len().saturating_sub(1)));
        sample.map_or(0.0, |sample| sample.as_secs_f64() * 1e6)
    };
    Latency { count: samples.len() as u64, us_p50: at(0.5), us_p99: at(0.99) }
}

/// A zero-filled file, written as a log segment is, with a ring to overwrite it through.
struct DiskBench {
    uring: Uring,
    file: FileId,
    buffer: Rc<BlockBuf>,
    events: Vec<Event<RecvChunk>>,
    /// Completions fetched and not yet counted.
    completed: usize,
    // Last, so that the folder is removed after the ring has let go of the file.
    _dir: tempfile::TempDir,
}

impl DiskBench {
    fn new(dir: &Path) -> Result<DiskBench, FloorError> {
        let dir = tempfile::Builder::new().prefix(".loggos-floor-").tempdir_in(dir)?;
        let mut uring = Uring::new(Some(dir.path()), UringOptions::default())?;
        let file = uring.open("overwritten", crate::io::FileOptions::CreateNew)?;
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
        Ok(DiskBench { uring, file, buffer, events, completed: 0, _dir: dir })
    }

    fn submit(&mut self, token: Token, offset: u64, length: usize, sync: Sync) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floors_are_plausible() {
        let dir = tempfile::tempdir().unwrap();
        let floor = measure(dir.path(), Duration::from_millis(200)).unwrap();
        println!("{floor:?}");
        assert!(floor.durable_write.count > 10 && floor.durable_write.us_p50 > 5.0);
        assert!(floor.durable_write.us_p99 >= floor.durable_write.us_p50);
        assert!(floor.durable_bytes_per_s > 1e6);
        assert!(floor.round_trip.count > 100 && floor.round_trip.us_p50 > 1.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let error = measure_durable_write(Path::new("/nonexistent"), Duration::ZERO);
        assert!(error.is_err());
    }
}
