//! The closed loop that loads another system, counting as `loggos bench` counts.
//!
//! So many tasks per connection, each with one operation in flight: it starts the next when the
//! answer is there. An operation belongs to the measured phase when it was started in it; `ok`,
//! `failed`, `unknown` and the latencies count these. The rate counts the answers that came within
//! the phase. Latencies are of acknowledged operations only.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::bench::{LatencyReport, OperationsReport};
use crate::error::Error;
use crate::host::Stop;

/// Keys (nodes, subjects) that operations go to in turn: few enough to stay in memory.
pub const KEYS: usize = 1024;
/// The largest latency told apart, as in `loggos bench`.
const LATENCY_NS_MAX: u64 = 600 * 1_000_000_000;
/// After an error, so that a server that refuses everything is not asked without end.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// How long answers may come in after the measured phase; then they are unknown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at the user's wish to stop.
const STOP_PAUSE: Duration = Duration::from_millis(100);

/// One connection to a system.
pub trait Target: Clone + Send + Sync + 'static {
    /// Stores `value` under the key of that number, durably as far as the system is; done when the
    /// system has acknowledged it.
    fn put(&self, key: usize, value: Bytes) -> impl Future<Output = Result<(), String>> + Send;
}

/// The load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// In flight on all connections.
    pub depth: usize,
    /// Bytes of a value.
    pub record_bytes: usize,
    /// Not counted.
    pub warmup: Duration,
    /// Counted.
    pub duration: Duration,
}

/// CPU time up to now, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Of all servers.
    pub servers_s: f64,
    /// Of this process, the load generator.
    pub own_s: f64,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// In the shape of the bench.
    pub operations: OperationsReport,
    /// In nanoseconds.
    pub histogram: Histogram<u64>,
    /// CPU time taken in the measured phase.
    pub usage: Usage,
    /// The measured phase began then.
    pub began: SystemTime,
    /// The first error met.
    pub first_error: Option<String>,
}

/// What the tasks of one connection have counted.
struct Tally {
    histogram: Histogram<u64>,
    failed: u64,
    /// Answers within the measured phase, whenever the operation was started.
    answers: u64,
    first_error: Option<String>,
}

fn histogram() -> Result<Histogram<u64>, Error> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
        .map_err(|error| Error::Failed(format!("a histogram: {error}")))
}

#[derive(Clone, Copy)]
struct Phase {
    from: Instant,
    until: Instant,
}

/// Loads `clients`, the connections; `usage` tells what has been used up to now.
pub async fn drive<T: Target>(
    clients: &[T],
    load: &Load,
    stop: &Stop,
    usage: impl Fn() -> Usage,
) -> Result<Measured, Error> {
    let value = noise(load.record_bytes);
    let key = Arc::new(AtomicUsize::new(0));
    let from = Instant::now() + load.warmup;
    let phase = Phase { from, until: from + load.duration };
    let mut tasks = JoinSet::new();
    let mut tallies = Vec::new();
    for client in clients {
        let tally = Tally { histogram: histogram()?, failed: 0, answers: 0, first_error: None };
        let tally = Arc::new(Mutex::new(tally));
        for _ in 0..load.depth / clients.len() {
            let (client, tally) = (client.clone(), Arc::clone(&tally));
            tasks.spawn(one_in_flight(client, value.clone(), Arc::clone(&key), phase, tally));
        }
        tallies.push(tally);
    }
    wait_for(phase.from, stop).await?;
    let (began, before) = (SystemTime::now(), usage());
    wait_for(phase.until, stop).await?;
    let after = usage();
    let usage =
        Usage { servers_s: after.servers_s - before.servers_s, own_s: after.own_s - before.own_s };
    let mut panicked = 0;
    let drained = timeout_at(phase.until + DRAIN_TIMEOUT, async {
        while let Some(ended) = tasks.join_next().await {
            panicked += u64::from(ended.is_err());
        }
    });
    // When time runs out, each task that is left has one operation in flight.
    let unknown = drained.await.map_or_else(|_| tasks.len() as u64, |()| 0);
    tasks.shutdown().await;
    if panicked > 0 {
        return Err(Error::Failed(format!("{panicked} tasks of the load generator panicked")));
    }
    sum_up(&tallies, unknown, load, usage, began)
}

async fn one_in_flight<T: Target>(
    client: T,
    value: Bytes,
    key: Arc<AtomicUsize>,
    phase: Phase,
    tally: Arc<Mutex<Tally>>,
) {
    loop {
        let started = Instant::now();
        if started >= phase.until {
            return;
        }
        let key = key.fetch_add(1, Ordering::Relaxed) % KEYS;
        let result = client.put(key, value.clone()).await;
        let ended = Instant::now();
        let is_ok = result.is_ok();
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            if is_ok && (phase.from..phase.until).contains(&ended) {
                tally.answers += 1;
            }
            if is_ok && started >= phase.from {
                let latency = (ended - started).as_nanos();
                tally.histogram.saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
            }
            if let Err(error) = result {
                tally.failed += u64::from(started >= phase.from);
                tally.first_error.get_or_insert(error);
            }
        }
        if !is_ok {
            sleep(ERROR_PAUSE).await;
        }
    }
}

async fn wait_for(when: Instant, stop: &Stop) -> Result<(), Error> {
    while Instant::now() < when {
        stop.check()?;
        sleep_until(when.min(Instant::now() + STOP_PAUSE)).await;
    }
    Ok(())
}

fn sum_up(
    tallies: &[Arc<Mutex<Tally>>],
    unknown: u64,
    load: &Load,
    usage: Usage,
    began: SystemTime,
) -> Result<Measured, Error> {
    let (mut all, mut failed, mut answers, mut first_error) = (histogram()?, 0, 0, None);
    for tally in tallies {
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        all.add(&tally.histogram).map_err(|why| Error::Failed(format!("histograms: {why}")))?;
        failed += tally.failed;
        answers += tally.answers;
        first_error = first_error.or_else(|| tally.first_error.clone());
    }
    let per_s = answers as f64 / load.duration.as_secs_f64();
    let at = |percent| all.value_at_percentile(percent) as f64 / 1e3;
    let latency_us = LatencyReport {
        p50: at(50.0),
        p90: at(90.0),
        p99: at(99.0),
        p999: at(99.9),
        p9999: at(99.99),
        max: all.max() as f64 / 1e3,
        mean: (all.mean()).round() / 1e3,
    };
    let bytes_per_s = per_s * load.record_bytes as f64;
    let ok = all.len();
    let operations = OperationsReport { ok, failed, unknown, per_s, bytes_per_s, latency_us };
    Ok(Measured { operations, histogram: all, usage, began, first_error })
}

/// Bytes that do not compress, always the same (xorshift64).
fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at once; every tenth key is refused, and the last one never answered.
    #[derive(Clone)]
    struct Fake {
        hangs: bool,
    }

    impl Target for Fake {
        async fn put(&self, key: usize, value: Bytes) -> Result<(), String> {
            assert_eq!(value.len(), 100);
            sleep(Duration::from_millis(1)).await;
            if self.hangs && key == KEYS - 1 {
                std::future::pending::<()>().await;
            }
            if key.is_multiple_of(10) { Err("refused".to_owned()) } else { Ok(()) }
        }
    }

    fn load() -> Load {
        let duration = Duration::from_millis(500);
        Load { depth: 8, record_bytes: 100, warmup: duration / 2, duration }
    }

    fn measure(hangs: bool) -> Measured {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let clients = [Fake { hangs }, Fake { hangs }];
        runtime.block_on(drive(&clients, &load(), &Stop::default(), Usage::default)).unwrap()
    }

    #[test]
    fn errors_are_counted_and_never_in_the_latencies() {
        let measured = measure(false);
        let counted = &measured.operations;
        assert!(counted.ok > 100 && counted.failed > 0 && counted.unknown == 0, "{counted:?}");
        assert_eq!(measured.first_error.as_deref(), Some("refused"));
        assert_eq!(measured.histogram.len(), counted.ok);
        assert_eq!(counted.bytes_per_s, counted.per_s * 100.0);
        assert!((counted.latency_us.p50 - 1000.0).abs() < 10.0, "{counted:?}");
    }

    #[test]
    fn what_is_never_answered_is_unknown() {
        assert!(measure(true).operations.unknown > 0);
    }

    #[test]
    fn noise_is_the_same_every_time_and_no_pattern() {
        assert_eq!(noise(64), noise(64));
        let distinct: std::collections::BTreeSet<u8> = noise(4096).into_iter().collect();
        assert!(distinct.len() > 200);
    }
}
