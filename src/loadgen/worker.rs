//! A worker: one thread with a `tokio-uring` runtime that drives several connections.
//!
//! Started by `bench`. The generator shares its processors with the cluster when that is embedded,
//! so an append costs it no allocation, no timer and no system call of its own: one read brings
//! many answers, all operations that they make room for are encoded into one buffer, and one write
//! sends them while the next buffer grows. The clock is read once per batch of answers. One timer
//! (a timerfd, exact to microseconds) paces an open loop and does the housekeeping.
//!
//! The ring is a plain one: `tokio-uring` hangs with deferred task run.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_uring::net::TcpStream;

use super::clock::{NANOS_PER_S, Nanos, cpu_time};
use super::connect::{ConnectError, Session, connect, connect_to_leader};
use super::history::Recorder;
use super::link::{Link, LinkError, Shared, group_of};
use super::schedule::PACE_NS;
use super::stats::{Phases, Snapshot};
use super::workload::Workload;
use crate::base::{GroupId, LogId};

/// Bytes of one read from a socket.
const READ_BYTES: usize = 256 * 1024;
/// Bytes that an output buffer starts with.
const OUTPUT_BYTES: usize = 64 * 1024;
/// How often timeouts, snapshots and the end of the run are looked at.
const HOUSEKEEPING_NS: u64 = 20_000_000;
/// The least time between two wakes of the pacer, so that a load that is behind does not spin.
/// Turns of the schedule are further apart than this.
const WAKE_NS_MIN: u64 = PACE_NS / 5;
/// How long a run waits for a leader before it starts.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answers to the last operations are awaited.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to find a leader.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Entries of the ring: two operations for each connection, and some.
const RING_ENTRIES: u32 = 4096;

/// What a worker is started with.
#[derive(Debug)]
pub struct WorkerPlan {
    /// Its number, from 0: no other worker of the load has it.
    pub worker: u32,
    /// More than any worker's number.
    pub worker_count: u32,
    /// Its connections among the workload's.
    pub connections: Range<usize>,
    /// The load of all of them.
    pub workload: Workload,
    /// The logs that it goes to.
    pub logs: Arc<[LogId]>,
    /// Where nodes of the cluster can be reached.
    pub addresses: Vec<String>,
    /// Where it notes what it sees.
    pub recorder: Option<Recorder>,
    /// Told once: connected to the leader, or why not.
    pub ready: SyncSender<Result<(), StartError>>,
    /// Says when the run starts; dropped when it does not.
    pub phases: watch::Receiver<Option<Phases>>,
    /// What was counted, once a second.
    pub intervals: SyncSender<WorkerInterval>,
    /// Ends the run early.
    pub stop: Arc<AtomicBool>,
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No leader was found in time.
    #[error("no leader found within {seconds} s: {0}", seconds = START_TIMEOUT.as_secs())]
    Connect(#[from] ConnectError),
    /// The runtime or the timer cannot be made.
    #[error("the load generator's io_uring runtime does not start: {0}; see `loggos doctor`")]
    Runtime(#[from] std::io::Error),
}

/// What a worker has counted in one interval.
#[derive(Debug)]
pub struct WorkerInterval {
    /// When the interval ended ([`Phases::interval_end`]).
    pub end: Nanos,
    /// The counts.
    pub snapshot: Snapshot,
}

/// What a worker returns.
#[derive(Debug, Default)]
pub struct WorkerResult {
    /// What was counted since the last interval.
    pub snapshot: Snapshot,
    /// Operations of an open loop that were due in the measured phase and never sent. They count
    /// as failed already.
    pub unsent: u64,
    /// The first error that a node answered with or a connection ended with.
    pub first_error: Option<String>,
    /// CPU time of its thread.
    pub cpu: Duration,
}

/// How many workers drive `connections` connections on `cpus` processors.
pub fn worker_count(connections: usize, cpus: usize) -> usize {
    // On two cores or fewer the second one is the cluster's.
    if cpus <= 2 { 1 } else { connections.min(cpus) }
}

/// The connections of worker `worker` of `worker_count`: even shares, in order.
pub fn share(connections: usize, worker: usize, worker_count: usize) -> Range<usize> {
    let at = |worker: usize| connections * worker / worker_count;
    at(worker)..at(worker + 1)
}

/// Starts a worker's thread.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn(plan: WorkerPlan) -> std::io::Result<JoinHandle<WorkerResult>> {
    std::thread::Builder::new()
        .name(format!("loadgen-{}", plan.worker))
        .spawn(move || run_thread(plan))
}

fn run_thread(plan: WorkerPlan) -> WorkerResult {
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    let runtime = match tokio_uring::Runtime::new(&builder) {
        Ok(runtime) => runtime,
        Err(error) => {
            report_start(&plan.ready, Err(error.into()));
            return WorkerResult::default();
        }
    };
    runtime.block_on(run(plan))
}

fn report_start(ready: &SyncSender<Result<(), StartError>>, result: Result<(), StartError>) {
    if ready.send(result).is_err() {
        tracing::debug!("nobody waits for this worker any more");
    }
}

async fn run(mut plan: WorkerPlan) -> WorkerResult {
    let started = start(&plan).await;
    let (timer, sessions) = match started {
        Ok(started) => started,
        Err(error) => {
            report_start(&plan.ready, Err(error));
            return WorkerResult::default();
        }
    };
    report_start(&plan.ready, Ok(()));
    let phases = match plan.phases.wait_for(Option::is_some).await {
        Ok(phases) => phases.expect("waited for"),
        // Another worker could not start: there is no run.
        Err(_) => return WorkerResult::default(),
    };
    let worker = Rc::new(Worker::new(plan, phases, timer));
    let tasks: Vec<_> = sessions
        .into_iter()
        .enumerate()
        .map(|(index, session)| tokio_uring::spawn(Rc::clone(&worker).drive(index, session)))
        .collect();
    worker.tick().await;
    for task in tasks {
        task.await.expect("a connection's task does not panic");
    }
    worker.result()
}

type Timer = AsyncFd<OwnedFd>;

/// Makes the timer and connects every connection to the leader.
async fn start(plan: &WorkerPlan) -> Result<(Timer, Vec<Session>), StartError> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(std::io::Error::from)?;
    // Deprecated for types whose descriptor may change or close under it, which an OwnedFd's
    // does not; the replacement is unsafe to call.
    #[allow(deprecated)]
    let timer = AsyncFd::new(timer)?;
    let mut sessions = Vec::with_capacity(plan.connections.len());
    let give_up = Nanos::now().plus(START_TIMEOUT.as_nanos() as u64);
    let mut turn = 0;
    while sessions.len() < plan.connections.len() {
        let reader = plan.workload.reader(plan.connections.start + sessions.len());
        let reader = reader.map(|reader| reader + turn);
        let group = group_of(&plan.logs, plan.connections.start + sessions.len());
        match find_node(plan.addresses.clone(), group, plan.workload.inflight, reader).await {
            Ok(session) => {
                sessions.push(session);
                turn = 0;
            }
            Err(error) if Nanos::now() >= give_up || plan.stop.load(Ordering::Relaxed) => {
                return Err(error.into());
            }
            Err(_) => {
                turn += 1;
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    Ok((timer, sessions))
}

/// Connects to the leader or, for a connection that only reads, to the address whose turn it is;
/// on a thread of its own.
async fn find_node(
    addresses: Vec<String>,
    group: GroupId,
    inflight: usize,
    reader: Option<usize>,
) -> Result<Session, ConnectError> {
    let find = move || match reader {
        None => connect_to_leader(&addresses, group, inflight),
        Some(turn) => connect(&addresses[turn % addresses.len()], group, inflight),
    };
    tokio::task::spawn_blocking(find).await.expect("connecting does not panic")
}

/// What a connection's task has to look at.
enum Event {
    Read(std::io::Result<usize>, Vec<u8>),
    Written(std::io::Result<()>, Vec<u8>),
    Woken,
}

/// Why a connection's task lets go of its socket.
enum Leave {
    /// The run is over, or the node does not lead and has answered everything.
    Done,
    /// It is lost.
    Lost(String),
}

/// A connection's place in its worker.
struct Seat {
    group: GroupId,
    link: RefCell<Link>,
    /// Wakes the connection's task.
    waker: RefCell<Option<Waker>>,
    woken: Cell<bool>,
    /// The task has ended.
    ended: Cell<bool>,
    /// Of a connection that only reads: whose turn it is among the nodes.
    reader: Cell<Option<usize>>,
}

impl Seat {
    fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

struct Worker {
    plan: WorkerPlan,
    phases: Phases,
    give_up: Nanos,
    shared: RefCell<Shared>,
    seats: Vec<Seat>,
    timer: Timer,
    /// What the timer is set to.
    armed: Cell<Nanos>,
    last_pace: Cell<Nanos>,
    interval_end: Cell<Option<Nanos>>,
    addresses: RefCell<Vec<String>>,
    unsent: Cell<u64>,
}

impl Worker {
    fn new(mut plan: WorkerPlan, phases: Phases, timer: Timer) -> Worker {
        let mut shared = Shared::new(
            plan.worker,
            plan.worker_count,
            Arc::clone(&plan.logs),
            plan.recorder.take(),
        );
        let mut seat = |index| Seat {
            group: group_of(&plan.logs, index),
            link: RefCell::new(Link::new(&plan.workload, phases, index, &mut shared)),
            waker: RefCell::new(None),
            woken: Cell::new(false),
            ended: Cell::new(false),
            reader: Cell::new(plan.workload.reader(index)),
        };
        Worker {
            seats: plan.connections.clone().map(&mut seat).collect(),
            shared: RefCell::new(shared),
            give_up: phases.measure_end.plus(DRAIN_TIMEOUT.as_nanos() as u64),
            timer,
            armed: Cell::new(Nanos(u64::MAX)),
            last_pace: Cell::new(Nanos(0)),
            interval_end: Cell::new(phases.interval_end(phases.start)),
            addresses: RefCell::new(plan.addresses.clone()),
            unsent: Cell::new(0),
            phases,
            plan,
        }
    }

    /// Whether connection `seat` has nothing left to do, or no time left to do it.
    fn is_over(&self, seat: &Seat, now: Nanos) -> bool {
        let stopped = self.plan.stop.load(Ordering::Relaxed);
        stopped || now >= self.give_up || seat.link.borrow().is_finished(now)
    }

    /// A connection's task: from session to session until the run is over.
    async fn drive(self: Rc<Self>, index: usize, first: Session) {
        let seat = &self.seats[index];
        let mut session = Some(first);
        loop {
            let next = match session.take() {
                Some(session) => Some(session),
                None => self.reconnect(seat).await,
            };
            let Some(next) = next else { break };
            if seat.reader.get().is_none() {
                self.learn_addresses(&next);
            }
            seat.link.borrow_mut().connected(next.connection);
            // The socket stays blocking: the ring then waits for it instead of failing at once.
            let stream = TcpStream::from_std(next.stream);
            let leave = self.pump(seat, &stream).await;
            // Ends the read in flight, which holds the socket and a buffer.
            if let Err(error) = stream.shutdown(Shutdown::Both) {
                tracing::debug!(%error, "the connection was closed already");
            }
            let now = Nanos::now();
            let mut shared = self.shared.borrow_mut();
            seat.link.borrow_mut().disconnected(now, &mut shared);
            if let Leave::Lost(why) = leave {
                tracing::info!(why, "a connection is lost");
                shared.first_error.get_or_insert(why);
            }
            drop(shared);
            if self.is_over(seat, now) {
                break;
            }
        }
        let unsent = seat.link.borrow_mut().finish(Nanos::now(), &mut self.shared.borrow_mut());
        self.unsent.set(self.unsent.get() + unsent);
        seat.ended.set(true);
        self.arm(Nanos::now());
    }

    async fn reconnect(&self, seat: &Seat) -> Option<Session> {
        loop {
            if self.is_over(seat, Nanos::now()) {
                return None;
            }
            let reader = seat.reader.get().map(|turn| turn + 1);
            seat.reader.set(reader);
            let addresses = match reader {
                None => self.addresses.borrow().clone(),
                Some(_) => self.plan.addresses.clone(),
            };
            match find_node(addresses, seat.group, self.plan.workload.inflight, reader).await {
                Ok(session) => return Some(session),
                Err(error) => {
                    tracing::debug!(%error, "no leader yet");
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    /// Keeps the addresses that were given and the cluster's own, the leader's first.
    fn learn_addresses(&self, session: &Session) {
        let leader = session.welcome.node;
        let (first, rest): (Vec<_>, Vec<_>) =
            session.welcome.members.iter().partition(|(node, _)| *node == leader);
        let known = first.into_iter().chain(rest).map(|(_, address)| address.clone());
        let mut addresses: Vec<String> = known.collect();
        for given in &self.plan.addresses {
            if !addresses.contains(given) {
                addresses.push(given.clone());
            }
        }
        *self.addresses.borrow_mut() = addresses;
    }

    /// Moves bytes between the link and the socket until one of them has had enough.
    async fn pump(&self, seat: &Seat, stream: &TcpStream) -> Leave {
        let mut spare = Some(Vec::with_capacity(OUTPUT_BYTES));
        let mut read = pin!(stream.read(Vec::with_capacity(READ_BYTES)));
        let mut write = pin!(None);
        if let Err(error) = self.fill(seat, Nanos::now()) {
            return Leave::Lost(error.to_string());
        }
        loop {
            if seat.link.borrow().has_output()
                && let Some(buffer) = spare.take()
            {
                let output = seat.link.borrow_mut().take_output(buffer);
                write.set(Some(stream.write_all(output)));
            }
            let event = poll_fn(|cx| {
                if let Some(write) = write.as_mut().as_pin_mut()
                    && let Poll::Ready((result, buffer)) = write.poll(cx)
                {
                    return Poll::Ready(Event::Written(result, buffer));
                }
                if let Poll::Ready((result, buffer)) = read.as_mut().poll(cx) {
                    return Poll::Ready(Event::Read(result, buffer));
                }
                if seat.woken.replace(false) {
                    return Poll::Ready(Event::Woken);
                }
                let mut waker = seat.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            })
            .await;
            let now = Nanos::now();
            let handled = match event {
                Event::Written(Ok(()), buffer) => {
                    write.set(None);
                    spare = Some(buffer);
                    self.fill(seat, now)
                }
                Event::Read(Ok(0), _) => {
                    return Leave::Lost("the node has closed the connection".to_owned());
                }
                Event::Read(Ok(count), buffer) => {
                    let handled = self.receive(seat, &buffer[..count], now);
                    read.set(stream.read(buffer));
                    handled
                }
                Event::Written(Err(error), _) | Event::Read(Err(error), _) => {
                    return Leave::Lost(error.to_string());
                }
                Event::Woken => {
                    let ticked = seat.link.borrow_mut().tick(now);
                    ticked.and_then(|()| self.fill(seat, now))
                }
            };
            if let Err(error) = handled {
                return Leave::Lost(error.to_string());
            }
            if seat.link.borrow().is_done_here(now) || self.is_over(seat, now) {
                return Leave::Done;
            }
        }
    }

    fn receive(&self, seat: &Seat, bytes: &[u8], now: Nanos) -> Result<(), LinkError> {
        seat.link.borrow_mut().receive(bytes, now, &mut self.shared.borrow_mut())?;
        self.fill(seat, now)
    }

    fn fill(&self, seat: &Seat, now: Nanos) -> Result<(), LinkError> {
        let mut link = seat.link.borrow_mut();
        link.fill(now, &mut self.shared.borrow_mut())?;
        // The connection was full, or gone, when the timer was set: it may want it earlier.
        if let Some(due) = link.next_wake() {
            let due = due.max(self.last_pace.get().plus(WAKE_NS_MIN));
            if due < self.armed.get() {
                self.arm(due);
            }
        }
        Ok(())
    }

    fn arm(&self, at: Nanos) {
        self.armed.set(at);
        // A time of zero would disarm it.
        let at = at.0.max(1);
        let it_value =
            Timespec { tv_sec: (at / NANOS_PER_S) as i64, tv_nsec: (at % NANOS_PER_S) as i64 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Itimerspec { it_interval, it_value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &value)
            .expect("a timer of our own takes any time");
    }

    /// The pacer and housekeeper: runs until every connection has ended.
    async fn tick(&self) {
        let mut housekeeping = self.phases.start;
        while self.seats.iter().any(|seat| !seat.ended.get()) {
            let paced = self.seats.iter().filter_map(|seat| seat.link.borrow().next_wake()).min();
            let paced = paced.map(|due| due.max(self.last_pace.get().plus(WAKE_NS_MIN)));
            self.arm(paced.map_or(housekeeping, |paced| paced.min(housekeeping)));
            self.wait_for_timer().await;
            let now = Nanos::now();
            self.last_pace.set(now);
            if now >= housekeeping {
                housekeeping = now.plus(HOUSEKEEPING_NS);
                self.hand_over(now);
                self.seats.iter().for_each(Seat::wake);
            } else {
                let due = |seat: &&Seat| seat.link.borrow().next_wake().is_some_and(|d| d <= now);
                self.seats.iter().filter(due).for_each(Seat::wake);
            }
            // What was woken sends now, and wants the timer for what is due then.
            tokio::task::yield_now().await;
        }
        // Every connection may end before the housekeeper looks again.
        self.hand_over(Nanos::now());
    }

    async fn wait_for_timer(&self) {
        let mut expirations = [0; 8];
        loop {
            let mut guard = self.timer.readable().await.expect("the runtime outlives its tasks");
            let read = rustix::io::read(self.timer.get_ref(), &mut expirations);
            guard.clear_ready();
            // An error: it was set anew between the wake and the read.
            if read.is_ok() {
                return;
            }
        }
    }

    /// Hands an interval's counts to the bench when it has ended.
    fn hand_over(&self, now: Nanos) {
        let Some(end) = self.interval_end.get().filter(|end| *end <= now) else { return };
        self.interval_end.set(self.phases.interval_end(now));
        let interval = WorkerInterval { end, snapshot: self.take_snapshot() };
        if self.plan.intervals.send(interval).is_err() {
            // The bench has given up: so do we.
            self.plan.stop.store(true, Ordering::Relaxed);
        }
    }

    fn take_snapshot(&self) -> Snapshot {
        let mut shared = self.shared.borrow_mut();
        let lag = shared.lag.take();
        Snapshot { appends: shared.appends.take(), reads: shared.reads.take(), lag }
    }

    fn result(&self) -> WorkerResult {
        // The history's end is reached when every recorder is gone.
        drop(self.shared.borrow_mut().recorder.take());
        WorkerResult {
            snapshot: self.take_snapshot(),
            unsent: self.unsent.get(),
            first_error: self.shared.borrow_mut().first_error.take(),
            cpu: cpu_time(ClockId::ThreadCPUTime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_whole() {
        for (connections, workers) in [(4, 1), (5, 2), (7, 3), (8, 8)] {
            let shares: Vec<_> = (0..workers).map(|w| share(connections, w, workers)).collect();
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!((shares[0].start, shares[workers - 1].end), (0, connections));
            assert!(shares.iter().all(|share| !share.is_empty()));
        }
        assert_eq!(worker_count(64, 2), 1);
        assert_eq!(worker_count(4, 16), 4);
        assert_eq!(worker_count(64, 16), 16);
    }
}
