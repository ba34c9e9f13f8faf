//! The followers of a run (`bench --follow N`): how long an append takes until every reader has it.
//!
//! Started by `bench` before the load. One thread drives all followers, each over a connection of
//! its own to a node of its own choice: they go round. A follower takes every record from the tail
//! on that its log had before the load, exactly once; after a lost connection it goes on from
//! there at the next node. The records carry the time at which their append was started
//! ([`Workload::stamp_at`]), in an open loop the intended one, so that delivery latency compares
//! with append latency. Nothing here allocates per record.

use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::clock::Nanos;
use super::connect::{ConnectError, connect};
use super::histogram::Latencies;
use super::link::LinkError;
use super::report::FollowReport;
use super::stats::Phases;
use super::worker::DRAIN_TIMEOUT;
use super::workload::{STAMP_BYTES, Workload};
use crate::base::records::Records;
use crate::base::{LogId, Position};
use crate::client::ReadLevel;
use crate::client::connection::{ClientConnection, Incoming, Response};
use crate::wire::RequestId;

/// Bytes of records that a node may send ahead of what a follower has taken.
const CREDIT_BYTES: u32 = 1 << 20;
/// Bytes of one read from a socket.
const READ_BYTES: usize = 16 * 1024;
/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long connecting a follower may take before the load.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that a follower has in flight: itself, and the question for the tail.
const INFLIGHT: usize = 2;

/// What the followers are started with.
#[derive(Debug)]
pub struct FollowPlan {
    /// The load: how many followers, and what their records carry.
    pub workload: Workload,
    /// The logs of the load; follower `i` follows the `i`-th, round and round.
    pub logs: Arc<[LogId]>,
    /// Where the nodes can be reached; follower `i` starts at the `i`-th, round and round.
    pub addresses: Vec<String>,
    /// Told once: all of them follow, or why not.
    pub ready: SyncSender<Result<(), FollowError>>,
    /// Says when the run starts; dropped when it does not.
    pub phases: watch::Receiver<Option<Phases>>,
    /// Says, after the load, where each log ends; dropped when the run has failed.
    pub ends: watch::Receiver<Option<Arc<[Position]>>>,
}

/// Why followers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// No node takes one.
    #[error("a follower finds no node within {seconds} s: {0}", seconds = START_TIMEOUT.as_secs())]
    Connect(String),
    /// The runtime cannot be made.
    #[error("the followers' event loop does not start: {0}")]
    Runtime(#[from] io::Error),
}

/// What all followers have counted.
#[derive(Debug, Default)]
struct Tally {
    /// Deliveries of records whose append started in the measured phase.
    records: u64,
    latencies: Latencies,
    /// Bytes of records that came within the measured phase.
    bytes_in_window: u64,
}

impl Tally {
    fn add(&mut self, run: &[u8], at: usize, phases: &Phases, now: Nanos) {
        let in_window = phases.measures(now);
        for record in Records::new(run).flatten() {
            if in_window {
                self.bytes_in_window += record.len() as u64;
            }
            let stamp = record.get(at..at + STAMP_BYTES).and_then(|stamp| stamp.try_into().ok());
            // Others may append to the log, too: theirs carry no time of this run.
            let started = stamp.map(|stamp| Nanos(u64::from_le_bytes(stamp)));
            if let Some(started) = started.filter(|started| phases.measures(*started)) {
                self.records += 1;
                self.latencies.record(now.since(started));
            }
        }
    }
}

/// Starts the followers' thread.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn(plan: FollowPlan) -> io::Result<JoinHandle<FollowReport>> {
    std::thread::Builder::new().name("followers".to_owned()).spawn(move || run_thread(plan))
}

fn run_thread(plan: FollowPlan) -> FollowReport {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(plan)),
        Err(error) => {
            report_start(&plan.ready, Err(error.into()));
            FollowReport::default()
        }
    }
}

fn report_start(ready: &SyncSender<Result<(), FollowError>>, result: Result<(), FollowError>) {
    if ready.send(result).is_err() {
        tracing::debug!("nobody waits for the followers any more");
    }
}

async fn run(mut plan: FollowPlan) -> FollowReport {
    let at = plan.workload.stamp_at().expect("a load with followers has stamps");
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut followers = Vec::with_capacity(plan.workload.follow);
    for index in 0..plan.workload.follow {
        let mut follower = Follower {
            log_index: index % plan.logs.len(),
            log: plan.logs[index % plan.logs.len()],
            addresses: plan.addresses.clone(),
            address_next: index % plan.addresses.len(),
            next: None,
            stamp_at: at,
            tally: Arc::clone(&tally),
        };
        match timeout(START_TIMEOUT, follower.connect()).await {
            Ok(stream) => followers.push((follower, stream)),
            Err(_) => {
                let why = format!("{} do not answer", plan.addresses.join(", "));
                report_start(&plan.ready, Err(FollowError::Connect(why)));
                return FollowReport::default();
            }
        }
    }
    report_start(&plan.ready, Ok(()));
    let phases = match plan.phases.wait_for(Option::is_some).await {
        Ok(phases) => phases.expect("waited for"),
        // The load could not start: there is no run.
        Err(_) => return FollowReport::default(),
    };
    let mut tasks = JoinSet::new();
    for (follower, stream) in followers {
        tasks.spawn(follower.follow(stream, phases, plan.ends.clone()));
    }
    if plan.ends.wait_for(Option::is_some).await.is_err() {
        return FollowReport::default();
    }
    let mut late = 0;
    let drained = timeout(DRAIN_TIMEOUT, async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        late = tasks.len();
        tracing::warn!(late, "followers have not got everything in time");
    }
    tasks.shutdown().await;
    let tally = tally.lock().expect("no follower panics with it");
    report(&plan.workload, &tally, late)
}

fn report(workload: &Workload, tally: &Tally, late: usize) -> FollowReport {
    let latencies = tally.latencies.report();
    FollowReport {
        followers: workload.follow,
        records: tally.records,
        latency_us_p50: latencies.p50,
        latency_us_p99: latencies.p99,
        latency_us_p999: latencies.p999,
        latency_us_max: latencies.max,
        bytes_per_s: tally.bytes_in_window as f64 / workload.duration.as_secs_f64(),
        late,
    }
}

struct Follower {
    log_index: usize,
    log: LogId,
    addresses: Vec<String>,
    address_next: usize,
    /// The first position that has not come; none before the tail is known.
    next: Option<Position>,
    stamp_at: usize,
    tally: Arc<Mutex<Tally>>,
}

/// A node that pushes.
struct Stream {
    socket: TcpStream,
    connection: ClientConnection<u32>,
    request: RequestId,
    /// Taken, and not yet given back as credit.
    owed_bytes: u32,
    spare: Vec<u8>,
}

/// Why a node is left.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] LinkError),
    #[error("the node ends it: {0}")]
    Ended(String),
}

impl Stream {
    async fn send(&mut self) -> io::Result<()> {
        let spare = std::mem::take(&mut self.spare);
        let output = self.connection.take_output(spare);
        let sent = self.socket.write_all(&output).await;
        self.spare = output;
        sent
    }

    /// Gives credit for what has been taken, when it is worth a frame.
    async fn give_credit(&mut self) -> io::Result<()> {
        if self.owed_bytes < CREDIT_BYTES / 4 {
            return Ok(());
        }
        self.connection.credit(self.request, self.owed_bytes);
        self.owed_bytes = 0;
        self.send().await
    }

    /// Reads once; an end of the stream is an error.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        match self.socket.read_buf(buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Follower {
    /// Connects to one node after the other until one takes the follower.
    async fn connect(&mut self) -> Stream {
        loop {
            let address = self.addresses[self.address_next].clone();
            self.address_next = (self.address_next + 1) % self.addresses.len();
            match self.open(address).await {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::debug!(%error, "no node for a follower yet");
                    sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    async fn open(&mut self, address: String) -> Result<Stream, Lost> {
        let group = self.log.group();
        let session = tokio::task::spawn_blocking(move || connect(&address, group, INFLIGHT))
            .await
            .expect("connecting does not panic")?;
        session.stream.set_nonblocking(true)?;
        let socket = TcpStream::from_std(session.stream)?;
        let connection = session.connection;
        let (request, owed_bytes, spare) = (RequestId(0), 0, Vec::new());
        let mut stream = Stream { socket, connection, request, owed_bytes, spare };
        let next = match self.next {
            Some(next) => next,
            None => ask_tail(&mut stream, self.log).await?,
        };
        let followed = stream.connection.follow(0, self.log, next, CREDIT_BYTES);
        stream.request = followed.map_err(|(_, error)| LinkError::from(error))?;
        stream.send().await?;
        self.next = Some(next);
        Ok(stream)
    }

    /// Takes everything up to the end of the log, from node to node.
    async fn follow(
        mut self,
        mut stream: Stream,
        phases: Phases,
        mut ends: watch::Receiver<Option<Arc<[Position]>>>,
    ) {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let mut end = None;
        while end.is_none_or(|end| self.next.is_none_or(|next| next < end)) {
            // Not below, where it could be dropped half way.
            let given = stream.give_credit().await.map_err(Lost::from);
            let moved = tokio::select! {
                moved = self.pump(&mut stream, &mut buffer, &phases) => moved,
                told = ends.wait_for(Option::is_some), if end.is_none() => {
                    let Ok(all) = told else { return };
                    end = all.as_ref().map(|all| all[self.log_index]);
                    continue;
                }
            };
            if let Err(error) = given.and(moved) {
                tracing::info!(%error, "a follower changes its node");
                stream = self.connect().await;
            }
        }
    }

    /// Takes what one read brings. May be dropped while it waits for it.
    async fn pump(
        &mut self,
        stream: &mut Stream,
        buffer: &mut Vec<u8>,
        phases: &Phases,
    ) -> Result<(), Lost> {
        stream.read(buffer).await?;
        let now = Nanos::now();
        let mut ended = None;
        let mut tally = self.tally.lock().expect("no follower panics with it");
        let (next, owed, at) = (&mut self.next, &mut stream.owed_bytes, self.stamp_at);
        let received = stream.connection.receive(buffer, |incoming| match incoming {
            Incoming::Pushed {
                response: Response::Records { first, records, run, .. }, ..
            } => {
                if ended.is_none() && Some(first) != *next {
                    ended = Some(format!("records from {first} where {next:?} is next"));
                }
                if ended.is_none() {
                    *next = Some(first.plus(u64::from(records)));
                    *owed += run.len() as u32;
                    tally.add(run, at, phases, now);
                }
            }
            Incoming::Answer { response, .. } => ended = Some(format!("{response:?}")),
            _ => ended = Some("an answer to nothing that was asked".to_owned()),
        });
        received.map_err(LinkError::from)?;
        ended.map_or(Ok(()), |why| Err(Lost::Ended(why)))
    }
}

async fn ask_tail(stream: &mut Stream, log: LogId) -> Result<Position, Lost> {
    let asked = stream.connection.tail(0, log, ReadLevel::ReadIndex);
    asked.map_err(|(_, error)| LinkError::from(error))?;
    stream.send().await?;
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut answer = None;
    // Ends: every turn reads at least a byte, and an answer has a largest size.
    while answer.is_none() {
        stream.read(&mut buffer).await?;
        let received = stream.connection.receive(&buffer, |incoming| {
            answer = Some(match incoming {
                Incoming::Answer { response: Response::TailIs { tail, .. }, .. } => Ok(tail),
                other => Err(Lost::Ended(format!("{other:?}"))),
            });
        });
        received.map_err(LinkError::from)?;
    }
    answer.expect("the loop ends with an answer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::records::push_record;

    #[test]
    fn only_this_runs_records_of_the_measured_phase_count() {
        let phases =
            Phases { start: Nanos(50), measure_begin: Nanos(100), measure_end: Nanos(200) };
        let mut run = Vec::new();
        for started in [99u64, 100, 199, 200] {
            let mut record = vec![b'x'; 24];
            record[16..].copy_from_slice(&started.to_le_bytes());
            push_record(&mut run, &record);
        }
        // Another program's.
        push_record(&mut run, b"short");
        push_record(&mut run, &[b'y'; 24]);
        let mut tally = Tally::default();
        tally.add(&run, 16, &phases, Nanos(199));
        assert_eq!((tally.records, tally.bytes_in_window), (2, 5 * 24 + 5));
        tally.add(&run, 16, &phases, Nanos(10_199));
        assert_eq!((tally.records, tally.bytes_in_window), (4, 5 * 24 + 5));
        let workload = Workload { follow: 1, ..Workload::default() };
        let longest = report(&workload, &tally, 0).latency_us_max;
        assert!((10.099..10.2).contains(&longest), "{longest}");
    }
}
