//! The coordinator: hands each agent its connections, starts all at one moment, and merges what
//! they count into one result.
//!
//! Called by `cli` in the place of `bench::run`. When one agent is lost the whole run is: the
//! others are let go at once, and there is no result, since a part of a load is another load.

use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::frame::{Bounds, COUNTS, GREETING, read_within, write_within};
use super::{
    AGENTS_MAX, AgentError, COUNT_MAX, FrameError, HELLO_TIMEOUT, Message, Part, READY_TIMEOUT,
    SEND_TIMEOUT, SILENCE_MAX, VERSION,
};
use crate::base::LogId;
use crate::loadgen::bench::create_logs;
use crate::loadgen::bench::{INTERVALS_QUEUED_MAX, Observer, RunError, RunOptions, RunResult};
use crate::loadgen::clock::{NANOS_PER_S, Nanos};
use crate::loadgen::collect::{Collector, Total};
use crate::loadgen::report::{AgentReport, cpu_us_per_operation};
use crate::loadgen::stats::{Counts, Phases, Snapshot};
use crate::loadgen::worker::{WorkerInterval, WorkerResult, share};

/// From "all are ready" to the first operation, beside a round trip.
const LEAD: Duration = Duration::from_millis(100);

/// Intervals of a run besides its whole seconds: the warm-up and the measured phase need not end with
/// one.
const ENDS: u64 = 2;

/// An agent that takes part.
struct Agent {
    address: String,
    stream: TcpStream,
    build: String,
    cpus: usize,
    round_trip: Duration,
    connections: usize,
    workers: usize,
}

/// What one has done.
struct PartResult {
    result: WorkerResult,
    cpu: Duration,
    report: AgentReport,
}

/// Runs `options` on `agents` (`host:port`); as `bench::run`.
///
/// # Errors
/// [`RunError`], with an [`AgentError`] for what an agent has to do with; no agent goes on then.
pub fn run(
    options: &RunOptions,
    agents: &[String],
    observer: &mut dyn Observer,
    stop: &Arc<AtomicBool>,
) -> Result<RunResult, RunError> {
    let workload = &options.workload;
    check_count(agents, workload.connections)?;
    let mut agents: Vec<Agent> =
        agents.iter().map(|address| greet(address)).collect::<Result<_, _>>()?;
    let logs = create_logs(options)?;
    hand_out(options, &logs, &mut agents)?;

    let phases = start(options, &agents)?;
    let began = SystemTime::now() + Duration::from_nanos(phases.measure_begin.since(Nanos::now()));
    let worker_count = agents.iter().map(|agent| agent.workers).sum();
    let mut collector = Collector::new(workload, phases, worker_count);
    let (sender, intervals) = sync_channel(INTERVALS_QUEUED_MAX);
    let streams: Result<Vec<TcpStream>, std::io::Error> =
        agents.iter().map(|agent| agent.stream.try_clone()).collect();
    let common = Arc::new(Common {
        streams: streams.map_err(RunError::Thread)?,
        first: Mutex::default(),
        stop: Arc::clone(stop),
    });
    let mut threads = Vec::with_capacity(agents.len());
    for agent in agents {
        let (common, sender, duration) = (Arc::clone(&common), sender.clone(), workload.duration);
        let thread = std::thread::Builder::new().name(format!("agent-{}", agent.address));
        let listen = move || match listen(&agent, phases, duration, &sender, &common.stop) {
            Ok(part) => Some(part),
            Err(error) => {
                common.give_up(error);
                None
            }
        };
        threads.push(thread.spawn(listen).map_err(RunError::Thread)?);
    }
    drop(sender);
    // The coordinator's own CPU time: it has no part in the load.
    collector.collect(&intervals, observer);
    let mut parts = Vec::with_capacity(threads.len());
    for thread in threads {
        parts.extend(thread.join().map_err(|_| RunError::Panicked)?);
    }
    if let Some(error) = common.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error.into());
    }
    let cpu = parts.iter().map(|part| part.cpu).sum();
    let (results, reports): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|part| (part.result, part.report)).unzip();
    let result = collector.finish(results, began, cpu);
    Ok(RunResult { agents: Some(reports), ..result })
}

fn check_count(agents: &[String], connections: usize) -> Result<(), AgentError> {
    let mut unique = agents.to_vec();
    unique.sort();
    unique.dedup();
    let text = if unique.len() < agents.len() {
        "an agent is named twice".to_owned()
    } else if agents.len() > AGENTS_MAX {
        format!("{} agents; at most {AGENTS_MAX} take part", agents.len())
    } else if agents.len() > connections {
        format!("{connections} connections for {} agents; each needs one", agents.len())
    } else {
        return Ok(());
    };
    Err(AgentError::Count(text))
}

impl FrameError {
    /// As something that has to do with `agent`.
    fn of(self, agent: &str) -> AgentError {
        let agent = agent.to_owned();
        match self {
            FrameError::Io(source) => AgentError::Lost { agent, source },
            source => AgentError::Foreign { agent, source },
        }
    }
}

/// Reads what `agent` says next, which has to be whole within `timeout`; a refusal and a failure are
/// errors.
fn read(
    agent: &str,
    stream: &TcpStream,
    bounds: Bounds,
    timeout: Duration,
) -> Result<(Message, Vec<u8>), AgentError> {
    let owned = || agent.to_owned();
    match read_within(stream, bounds, timeout).map_err(|error| error.of(agent))? {
        (Message::Refused { reason, text }, _) => {
            Err(AgentError::Refused { agent: owned(), reason, text })
        }
        (Message::Failed { text }, _) => Err(AgentError::Failed { agent: owned(), text }),
        said => Ok(said),
    }
}

fn greet(address: &str) -> Result<Agent, AgentError> {
    let lost = |error: std::io::Error| FrameError::from(error).of(address);
    let mut found = address.to_socket_addrs().map_err(lost)?;
    let resolved = found.next().ok_or_else(|| lost(std::io::ErrorKind::NotFound.into()))?;
    let stream = TcpStream::connect_timeout(&resolved, HELLO_TIMEOUT).map_err(lost)?;
    stream.set_nodelay(true).map_err(lost)?;
    let asked = Instant::now();
    let hello = Message::Hello { version: VERSION };
    write_within(&stream, &hello, &[], SEND_TIMEOUT).map_err(|error| error.of(address))?;
    match read(address, &stream, GREETING, HELLO_TIMEOUT)?.0 {
        Message::Welcome { version: VERSION, build, cpus } => Ok(Agent {
            address: address.to_owned(),
            stream,
            build,
            cpus,
            round_trip: asked.elapsed(),
            connections: 0,
            workers: 0,
        }),
        _ => Err(FrameError::Unexpected("it does not answer the hello").of(address)),
    }
}

/// Gives each agent its connections and waits until all of them stand.
fn hand_out(options: &RunOptions, logs: &[LogId], agents: &mut [Agent]) -> Result<(), AgentError> {
    let count = agents.len();
    for (index, agent) in agents.iter_mut().enumerate() {
        let connections = share(options.workload.connections, index, count);
        agent.connections = connections.len();
        let part = Part {
            workload: options.workload.clone(),
            connections,
            addresses: options.addresses.clone(),
            logs: logs.iter().map(|log| log.0).collect(),
        };
        write_within(&agent.stream, &Message::Run(Box::new(part)), &[], SEND_TIMEOUT)
            .map_err(|error| error.of(&agent.address))?;
    }
    for agent in agents {
        match read(&agent.address, &agent.stream, GREETING, READY_TIMEOUT)?.0 {
            Message::Ready { workers } if (1..=agent.connections).contains(&workers) => {
                agent.workers = workers;
            }
            _ => return Err(FrameError::Unexpected("it is not ready").of(&agent.address)),
        }
    }
    Ok(())
}

/// Tells every agent to start at the same moment, as well as their round trips tell it.
fn start(options: &RunOptions, agents: &[Agent]) -> Result<Phases, AgentError> {
    let slowest = agents.iter().map(|agent| agent.round_trip).max().unwrap_or_default();
    let lead = LEAD + slowest;
    let now = Instant::now();
    let start = Nanos::now().plus(lead.as_nanos() as u64);
    for agent in agents {
        // The word is half a round trip on its way.
        let delay = lead.saturating_sub(now.elapsed() + agent.round_trip / 2);
        let message = Message::Start { delay_us: delay.as_micros() as u64 };
        write_within(&agent.stream, &message, &[], SEND_TIMEOUT)
            .map_err(|error| error.of(&agent.address))?;
    }
    Ok(Phases::of(&options.workload, start))
}

/// What the threads that listen to the agents share.
struct Common {
    streams: Vec<TcpStream>,
    /// The error that ended the run.
    first: Mutex<Option<AgentError>>,
    stop: Arc<AtomicBool>,
}

impl Common {
    /// Ends the run: whatever goes wrong at the other agents from here on follows from this.
    fn give_up(&self, error: AgentError) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        for stream in &self.streams {
            if let Err(error) = stream.shutdown(Shutdown::Both) {
                tracing::debug!(%error, "an agent has gone already");
            }
        }
    }
}

/// What one agent has counted so far, all kinds together.
#[derive(Debug, Default)]
struct Sums {
    counts: Counts,
    latencies: u64,
}

impl Sums {
    /// Adds a snapshot.
    ///
    /// # Errors
    /// When the sums are over [`COUNT_MAX`]: whatever is added up later need not ask.
    fn add(&mut self, snapshot: &Snapshot) -> Result<(), FrameError> {
        self.counts.merge(&snapshot.appends.counts);
        self.counts.merge(&snapshot.reads.counts);
        self.latencies = self.latencies.saturating_add(snapshot.latency_count());
        match self.counts.all().into_iter().chain([self.latencies]).any(|sum| sum > COUNT_MAX) {
            true => Err(FrameError::Unexpected("counts beyond what anybody can have done")),
            false => Ok(()),
        }
    }
}

/// Takes in what `agent` says until it is done.
fn listen(
    agent: &Agent,
    phases: Phases,
    duration: Duration,
    intervals: &SyncSender<WorkerInterval>,
    stop: &AtomicBool,
) -> Result<PartResult, AgentError> {
    let of_agent = |error: FrameError| error.of(&agent.address);
    let mut totals = (Total::default(), Total::default());
    let mut bounds = Sums::default();
    let mut add = |snapshot: &Snapshot| {
        bounds.add(snapshot).map_err(of_agent)?;
        totals.0.add(&snapshot.appends);
        totals.1.add(&snapshot.reads);
        Ok::<_, AgentError>(())
    };
    // A worker counts once a second, and at both ends of the measured phase.
    let seconds = phases.measure_end.since(phases.start) / NANOS_PER_S + ENDS;
    let mut left = agent.workers as u64 * seconds;
    let done = loop {
        let (message, blob) = read(&agent.address, &agent.stream, COUNTS, SILENCE_MAX)?;
        if stop.load(Ordering::Relaxed) {
            let text = "interrupted".to_owned();
            return Err(AgentError::Failed { agent: agent.address.clone(), text });
        }
        match message {
            Message::Interval { .. } if left == 0 => {
                return Err(of_agent(FrameError::Unexpected("more intervals than the run has")));
            }
            Message::Interval { end_ns, snapshot } => {
                left -= 1;
                let snapshot = snapshot.into_snapshot(&blob).map_err(of_agent)?;
                add(&snapshot)?;
                let end = interval_end(phases, end_ns)
                    .ok_or_else(|| of_agent(FrameError::Unexpected("a time out of the run")))?;
                if intervals.send(WorkerInterval { end, snapshot }).is_err() {
                    tracing::debug!("the run has been given up");
                }
            }
            Message::Done(done) if done.unsent <= COUNT_MAX => break (done, blob),
            _ => return Err(of_agent(FrameError::Unexpected("it is not counting"))),
        }
    };
    let (mut done, blob) = done;
    let snapshot = std::mem::take(&mut done.snapshot).into_snapshot(&blob).map_err(of_agent)?;
    add(&snapshot)?;
    let cpu = Duration::from_nanos(done.cpu_ns);
    let (appends, reads) = (totals.0.report(duration), totals.1.report(duration));
    let operations = (appends.per_s + reads.per_s) * duration.as_secs_f64();
    let report = AgentReport {
        agent: agent.address.clone(),
        version: agent.build.clone(),
        cpus: agent.cpus,
        round_trip_us: agent.round_trip.as_secs_f64() * 1e6,
        connections: agent.connections,
        cpu_s: cpu.as_secs_f64(),
        cpu_us_per_op: cpu_us_per_operation(cpu.as_secs_f64(), operations),
        reads: (reads.ok + reads.failed > 0).then_some(reads),
        appends,
    };
    let result = WorkerResult {
        snapshot,
        unsent: done.unsent,
        first_error: done.first_error.map(|error| format!("{}: {error}", agent.address)),
        cpu: Duration::from_nanos(done.workers_cpu_ns),
    };
    Ok(PartResult { result, cpu, report })
}

/// When an agent's interval ended, by this host's clock; none when it cannot be one of the run's.
fn interval_end(phases: Phases, end_ns: i64) -> Option<Nanos> {
    let length = phases.measure_end.since(phases.measure_begin) as i64;
    let warmup = phases.measure_begin.since(phases.start) as i64;
    let second = NANOS_PER_S as i64;
    ((-warmup - second)..=(length + second))
        .contains(&end_ns)
        .then(|| Nanos(phases.measure_begin.0.saturating_add_signed(end_ns)))
}
