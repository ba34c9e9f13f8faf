//! The machine's own floors: what a durable write, durable bandwidth and a loopback round trip
//! cost without any log around them.
//!
//! Called by `doctor` and by `bench --floor`, before the load. Guarantees: measured the way the
//! log works (same ring, same flags, same kind of file), in the folder it will use; nothing else
//! of this process runs meanwhile, and nothing is left behind.
//!
//! What exactly is measured:
//! - a 4 KiB durable O_DIRECT overwrite of a zero-filled file, one in flight, the thread asleep
//!   until it completes; on whatever processor the scheduler chooses, as for the log;
//! - durable 1 MiB overwrites, one or two in flight: the best round counts;
//! - a TCP round trip of 64 bytes between two threads that sleep until woken, each bound to a
//!   processor of its own ([`round_trip`] says why).
//!
//! - durable 1 MiB writes to blocks that were reserved and never written, two in flight: the best
//!   part counts. A log only grows, so this is what its large writes get once nothing that was filled
//!   with zeros ahead is left.
//!
//! The first three take turns in short rounds, the last comes after them. A round in which other programs used the processors
//! does not count, as long as there are enough quiet ones: a thread that never sleeps makes a
//! durable write cost 4 ms (IO.md, the 4 ms trap) and moves both ends of a round trip onto one
//! processor. Without enough quiet rounds all of them count, and [`Floor::others_cpu`] tells how
//! busy the machine was: such a floor is not one.

mod disk;
mod others;
mod round_trip;

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use disk::DiskBench;
pub(super) use others::Others;
use round_trip::RoundTrips;

/// Quiet rounds wanted, each with a share of every part.
const ROUNDS: u32 = 10;

/// Rounds made while fewer of them have been quiet.
const ROUNDS_MAX: usize = 30;

/// Quiet rounds that suffice when there are no more.
const QUIET_ROUNDS_MIN: usize = 3;

/// The share of one processor that other programs may use in a quiet round.
pub const QUIET_SHARE_MAX: f64 = 0.1;

/// How long one operation may take before the measurement is given up.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Samples of one part in one round at most.
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
    /// Durable writes of 1 MiB to blocks that had only been reserved, bytes a second.
    pub fresh_bytes_per_s: f64,
    /// A TCP round trip of 64 bytes over loopback between two threads that sleep until woken.
    pub round_trip: Latency,
    /// The processors of those two threads; absent when this process may use one only: then they
    /// share it, and no wake of another processor is in the figure.
    pub round_trip_cpus: Option<[usize; 2]>,
    /// What other programs used meanwhile, as a share of one processor.
    pub others_cpu: f64,
    /// Rounds that count.
    pub rounds: usize,
}

impl Floor {
    /// What is wrong with this measurement: other programs kept the machine busy all the time.
    pub fn doubt(&self) -> Option<String> {
        (self.others_cpu > QUIET_SHARE_MAX).then(|| {
            format!(
                "other programs used {:.0}% of a processor while the floors were measured, so \
                 they are no floors: run again on a quiet machine",
                self.others_cpu * 100.0
            )
        })
    }
}

/// What one round brought.
struct Round {
    writes: Vec<Duration>,
    bytes_per_s: f64,
    trips: Vec<Duration>,
    others_cpu: f64,
}

impl Round {
    fn is_quiet(&self) -> bool {
        self.others_cpu <= QUIET_SHARE_MAX
    }
}

/// Measures all of them; each part takes `duration` on a quiet machine, up to three times that on
/// a busy one.
///
/// # Errors
/// When the ring, the folder or loopback does not work.
pub fn measure(dir: &Path, duration: Duration) -> Result<Floor, FloorError> {
    let mut disk = DiskBench::new(dir)?;
    let mut trips = RoundTrips::start()?;
    let share = duration / ROUNDS;
    let mut rounds: Vec<Round> = Vec::new();
    let mut quiet = 0;
    while quiet < ROUNDS as usize && rounds.len() < ROUNDS_MAX {
        let watch = Others::watch();
        let round = Round {
            writes: disk.durable_writes(share)?,
            bytes_per_s: disk.durable_bandwidth(share)?,
            trips: trips.run(share)?,
            others_cpu: watch.share(),
        };
        quiet += usize::from(round.is_quiet());
        rounds.push(round);
    }
    if quiet >= QUIET_ROUNDS_MIN {
        rounds.retain(Round::is_quiet);
    }
    let fresh_bytes_per_s = disk.fresh_bandwidth(duration)?;
    Ok(Floor { fresh_bytes_per_s, ..summarise(&rounds, trips.cpus) })
}

fn summarise(rounds: &[Round], round_trip_cpus: Option<[usize; 2]>) -> Floor {
    let pooled = |part: fn(&Round) -> &Vec<Duration>| {
        latency(rounds.iter().flat_map(part).copied().collect())
    };
    let others: f64 = rounds.iter().map(|round| round.others_cpu).sum();
    Floor {
        durable_write: pooled(|round| &round.writes),
        durable_bytes_per_s: rounds.iter().map(|round| round.bytes_per_s).fold(0.0, f64::max),
        fresh_bytes_per_s: 0.0,
        round_trip: pooled(|round| &round.trips),
        round_trip_cpus,
        others_cpu: others / rounds.len().max(1) as f64,
        rounds: rounds.len(),
    }
}

fn latency(mut samples: Vec<Duration>) -> Latency {
    samples.sort_unstable();
    let at = |share: f64| {
        let index = (samples.len() as f64 * share) as usize;
        let sample = samples.get(index.min(samples.len().saturating_sub(1)));
        sample.map_or(0.0, |sample| sample.as_secs_f64() * 1e6)
    };
    Latency { count: samples.len() as u64, us_p50: at(0.5), us_p99: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floors_are_plausible() {
        let dir = tempfile::tempdir().unwrap();
        let floor = measure(dir.path(), Duration::from_millis(200)).unwrap();
        println!("{floor:?}");
        // How many fit depends on what else runs.
        assert!(floor.durable_write.count > 0 && floor.durable_write.us_p50 > 5.0);
        assert!(floor.durable_write.us_p99 >= floor.durable_write.us_p50);
        assert!(floor.durable_bytes_per_s > 0.0 && floor.fresh_bytes_per_s > 0.0);
        assert!(floor.round_trip.count > 0 && floor.round_trip.us_p50 > 1.0);
        assert!(floor.rounds >= QUIET_ROUNDS_MIN && floor.rounds <= ROUNDS_MAX);
        assert_eq!(floor.doubt().is_some(), floor.others_cpu > QUIET_SHARE_MAX);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let error = measure(Path::new("/nonexistent"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn what_others_spoil_is_doubted_and_the_median_is_over_all_rounds() {
        let micros = |list: &[u64]| list.iter().map(|us| Duration::from_micros(*us)).collect();
        let round = |writes: &[u64], bytes_per_s, others_cpu| Round {
            writes: micros(writes),
            bytes_per_s,
            trips: micros(&[10]),
            others_cpu,
        };
        let rounds = [round(&[100, 110], 1e9, 0.0), round(&[90, 120, 130], 2e9, 0.1)];
        let floor = summarise(&rounds, Some([0, 1]));
        assert_eq!(floor.durable_write, Latency { count: 5, us_p50: 110.0, us_p99: 130.0 });
        assert_eq!((floor.durable_bytes_per_s, floor.rounds), (2e9, 2));
        assert_eq!(floor.doubt(), None);
        let busy = summarise(&[round(&[4000], 1e9, 0.9)], None);
        assert!(busy.doubt().unwrap().contains("90% of a processor"));
    }
}
