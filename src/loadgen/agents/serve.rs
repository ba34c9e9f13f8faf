//! The agent: takes part in one bench at a time, as its coordinator says, for as long as the process
//! runs.
//!
//! Called by `cli`. Whoever connects while a bench runs is told that the agent is busy. When the
//! coordinator goes, its bench ends here too, and the next one may come.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rustix::time::ClockId;

use super::frame::{Bounds, GREETING, PART, read_message, read_within, write_within};
use super::{
    AGENTS_MAX, Done, FrameError, HELLO_TIMEOUT, Message, Part, READY_TIMEOUT, Refusal,
    SEND_TIMEOUT, START_TIMEOUT, VERSION, WireSnapshot,
};
use crate::base::LogId;
use crate::loadgen::accept::Acceptor;
use crate::loadgen::clock::{Nanos, cpu_time};
use crate::loadgen::crew::{Crew, CrewPlan};
use crate::loadgen::stats::{Phases, Snapshot};
use crate::loadgen::worker::WorkerInterval;
use crate::loadgen::workload::LOGS_MAX;

/// Connections that are looked at at a time: a coordinator's, and some that are told to go.
const GUESTS_MAX: usize = 16;
/// How often the clock is looked at during a run.
const LOOK_UP: Duration = Duration::from_millis(50);
/// The longest time until a start that is believed.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Serves coordinators that connect to `listener`, with `cpus` processors, until `stop` is set and
/// another connection comes; `note` is told what happens, a line at a time.
///
/// # Errors
/// When `listener` fails for good.
pub fn serve(
    listener: &TcpListener,
    cpus: usize,
    stop: &AtomicBool,
    note: impl Fn(&str) + Send + Sync + 'static,
) -> io::Result<()> {
    let agent = Arc::new(Agent {
        cpus,
        busy: AtomicBool::new(false),
        guests: AtomicUsize::new(0),
        note: Box::new(note),
    });
    let mut acceptor = Acceptor::new(listener, stop, |line: &str| (agent.note)(line));
    while let Some((stream, peer)) = acceptor.next()? {
        if agent.guests.fetch_add(1, Ordering::SeqCst) >= GUESTS_MAX {
            agent.guests.fetch_sub(1, Ordering::SeqCst);
            (agent.note)(&format!("{peer} was sent away: {GUESTS_MAX} others are connected"));
            continue;
        }
        let guest = Guest(Arc::clone(&agent));
        let thread = std::thread::Builder::new().name("agent".to_owned());
        let spawned = thread.spawn(move || {
            if let Err(error) = guest.0.meet(&stream) {
                (guest.0.note)(&format!("{peer}: {error}"));
            }
        });
        if let Err(error) = spawned {
            acceptor.failed(error)?;
        }
    }
    Ok(())
}

/// Counts a guest until it has gone, also one for whom no thread could be made.
struct Guest(Arc<Agent>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Agent {
    cpus: usize,
    busy: AtomicBool,
    guests: AtomicUsize,
    note: Box<dyn Fn(&str) + Send + Sync>,
}

/// Makes the agent free again on every way out of a run.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Agent {
    fn meet(&self, stream: &TcpStream) -> Result<(), FrameError> {
        stream.set_nodelay(true)?;
        let Message::Hello { version } = read(stream, GREETING, HELLO_TIMEOUT)? else {
            return Err(FrameError::Unexpected("a bench begins with a hello"));
        };
        if version != VERSION {
            let text = format!("the agent speaks version {VERSION}, not {version}");
            return refuse(stream, Refusal::Version, text);
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            return refuse(stream, Refusal::Busy, "it takes part in another bench".to_owned());
        }
        let busy = Busy(&self.busy);
        let build = env!("CARGO_PKG_VERSION").to_owned();
        let welcome = Message::Welcome { version: VERSION, build, cpus: self.cpus };
        write_within(stream, &welcome, &[], SEND_TIMEOUT)?;
        let Message::Run(part) = read(stream, PART, READY_TIMEOUT)? else {
            return Err(FrameError::Unexpected("behind the hello comes a run"));
        };
        let part = match part.checked() {
            Ok(part) => part,
            Err(text) => return refuse(stream, Refusal::Invalid, text),
        };
        let result = self.take_part(stream, &part);
        // Free before the coordinator can know that this bench is over, and begin another.
        drop(busy);
        let (message, blob) = match result? {
            Ok((done, blob)) => (Message::Done(Box::new(done)), blob),
            Err(text) => (Message::Failed { text }, Vec::new()),
        };
        write_within(stream, &message, &blob, SEND_TIMEOUT)
    }

    /// A part of a run: what is to be said in the end; or what the coordinator has done wrong.
    fn take_part(&self, stream: &TcpStream, part: &Part) -> Result<Outcome, FrameError> {
        let stop = Arc::new(AtomicBool::new(false));
        let plan = CrewPlan {
            workload: &part.workload,
            logs: part.logs.iter().map(|log| LogId(*log)).collect(),
            addresses: &part.addresses,
            cpus: self.cpus,
            connections: part.connections.clone(),
            history: None,
            stop: &stop,
        };
        let crew = match Crew::start(plan) {
            Ok(crew) => crew,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let ready = Message::Ready { workers: crew.threads.len() };
        write_within(stream, &ready, &[], SEND_TIMEOUT)?;
        let Message::Start { delay_us } = read(stream, GREETING, START_TIMEOUT)? else {
            return Err(FrameError::Unexpected("behind the run comes its start"));
        };
        let delay = Duration::from_micros(delay_us).min(DELAY_MAX);
        let start = Nanos::now().plus(delay.as_nanos() as u64);
        let phases = Phases::of(&part.workload, start);
        if let Err(error) = crew.begin(phases) {
            return Ok(Err(error.to_string()));
        }
        (self.note)(&format!(
            "a run of {} of {} connections",
            part.connections.len(),
            part.workload.connections
        ));
        let watched = stream.try_clone()?;
        watched.set_read_timeout(None)?;
        let gone = Arc::clone(&stop);
        // The coordinator has nothing more to say: whatever comes, or its end, is the end here.
        let watcher = std::thread::spawn(move || {
            drop(read_message(&watched, GREETING));
            gone.store(true, Ordering::SeqCst);
        });
        let result = forward(stream, crew, phases, &stop);
        // Ends the watcher; what is to be written can still be.
        let shut = stream.shutdown(Shutdown::Read);
        if watcher.join().is_err() || shut.is_err() {
            tracing::debug!("the coordinator has gone");
        }
        (self.note)(match &result {
            Ok(_) => "the run is over",
            Err(_) => "the run was given up: its coordinator has gone",
        });
        result.map(Ok)
    }
}

type Outcome = Result<(Done, Vec<u8>), String>;

fn read(stream: &TcpStream, bounds: Bounds, timeout: Duration) -> Result<Message, FrameError> {
    Ok(read_within(stream, bounds, timeout)?.0)
}

fn refuse(stream: &TcpStream, reason: Refusal, text: String) -> Result<(), FrameError> {
    write_within(stream, &Message::Refused { reason, text }, &[], SEND_TIMEOUT)
}

/// Hands every second of every worker on, and gathers what is left in the end.
fn forward(
    stream: &TcpStream,
    crew: Crew,
    phases: Phases,
    stop: &AtomicBool,
) -> Result<(Done, Vec<u8>), FrameError> {
    let mut cpu_at_begin = None;
    let mut cpu = None;
    let mut lost = None;
    loop {
        let received = crew.intervals.recv_timeout(LOOK_UP);
        let now = Nanos::now();
        if now >= phases.measure_begin && cpu_at_begin.is_none() {
            cpu_at_begin = Some(cpu_time(ClockId::ProcessCPUTime));
        }
        if now >= phases.measure_end && cpu.is_none() {
            cpu = cpu_at_begin.map(|begin| cpu_time(ClockId::ProcessCPUTime).saturating_sub(begin));
        }
        match received {
            Ok(interval) if lost.is_none() => {
                if let Err(error) = hand_on(stream, phases, &interval) {
                    stop.store(true, Ordering::SeqCst);
                    lost = Some(error);
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let mut rest = Snapshot::default();
    let cpu_ns = cpu.unwrap_or_default().as_nanos() as u64;
    let mut done = Done { cpu_ns, ..Done::default() };
    for thread in crew.threads {
        let result = thread.join().map_err(|_| FrameError::Unexpected("a worker has panicked"))?;
        rest.merge(result.snapshot);
        done.unsent += result.unsent;
        done.workers_cpu_ns += result.cpu.as_nanos() as u64;
        done.first_error = done.first_error.or(result.first_error);
    }
    if let Some(error) = lost {
        return Err(error);
    }
    if stop.load(Ordering::SeqCst) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let (wire, blob) = WireSnapshot::new(&rest);
    done.snapshot = wire;
    Ok((done, blob))
}

fn hand_on(
    stream: &TcpStream,
    phases: Phases,
    interval: &WorkerInterval,
) -> Result<(), FrameError> {
    let (snapshot, blob) = WireSnapshot::new(&interval.snapshot);
    let end_ns = interval.end.0 as i64 - phases.measure_begin.0 as i64;
    write_within(stream, &Message::Interval { end_ns, snapshot }, &blob, SEND_TIMEOUT)
}

impl Part {
    /// The part itself, if it can be done.
    fn checked(self: Box<Part>) -> Result<Box<Part>, String> {
        self.workload.clone().validate().map_err(|error| error.to_string())?;
        let Part { workload, connections, addresses, logs } = &*self;
        let within = connections.start < connections.end && connections.end <= workload.connections;
        if !within {
            return Err(format!("connections {connections:?} of {}", workload.connections));
        }
        if addresses.is_empty() || addresses.len() > AGENTS_MAX {
            return Err(format!("{} addresses", addresses.len()));
        }
        if logs.is_empty() || logs.len() > LOGS_MAX {
            return Err(format!("{} logs", logs.len()));
        }
        match workload.history || workload.follow > 0 {
            true => Err("an agent records no history and has no followers".to_owned()),
            false => Ok(self),
        }
    }
}
