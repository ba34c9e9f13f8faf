//! The seam on io_uring: one [`Uring`] per thread implements [`crate::io::Io`] with one wait point
//! for disk, network and time.
//!
//! Only `cli` and `main` join it with the rest; `node` and `log` see the traits. Guarantees:
//! - memory given to the kernel is owned by the operation slab ([`ops`]) until its completion,
//!   also when a connection is closed or the `Uring` is dropped in between;
//! - a durable write's event means that the device has flushed it;
//! - a connection's bytes are handed out in order, and its `Closed` comes once and last.
//!
//! [`host`] and [`floor`] tell what the machine offers; [`lock`] keeps a data directory to one
//! process. The decisions behind all this, with their measurements, are in the project's notes on
//! io_uring and the disk.

#![allow(unsafe_code)]

mod files;
pub mod floor;
mod handover;
pub mod host;
mod lock;
mod ops;
mod poll;
mod random;
mod recv;
mod resolver;
mod ring;
mod sockets;
mod spsc;
mod storage;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};

use crate::base::Instant;
use crate::io::{Clock, CloseReason, Event, Io, LookupId, Net, SendPart, Wait};

use host::KernelVersion;
use ops::{Op, OpId, OpSlab, UNTRACKED};
use poll::BusyPoll;
use recv::{BUFFER_GROUP, RecvPool};
use resolver::Mailbox;
use ring::{Completion, Ring};
use sockets::Sockets;

pub use handover::{Seat, seats};
pub use lock::{DirLock, LockError, lock_data_dir, lock_data_dir_to_read};
pub use random::random_u128;
pub use recv::RecvChunk;
pub use resolver::Resolver;
pub use ring::KERNEL_VERSION_MIN;
pub use storage::{DirectStorage, FILES_MAX};

/// How often an operation is started again after EINTR or EAGAIN before the error is reported.
const ATTEMPTS_MAX: u32 = 10_000;

/// The most sets of `iovec` kept for reuse.
const IOVECS_KEPT_MAX: usize = 256;

/// How long dropping a [`Uring`] waits for operations in flight. A device that hangs longer
/// costs their memory, which is then leaked rather than freed under the kernel.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The most turns of the self-test; it needs a handful.
const SELF_TEST_TURNS_MAX: usize = 100;

/// A turn shorter than this cannot have slept: waking alone takes longer.
const SLEEP_MIN: Duration = Duration::from_micros(3);

/// How a durable write is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogSync {
    /// `RWF_DSYNC` on the write: one trip through the ring, and FUA where the device has it.
    #[default]
    Dsync,
    /// The write, then, once it has completed whole, an fdatasync.
    WriteThenFlush,
}

/// Sizes and switches of a [`Uring`].
#[derive(Clone, Debug)]
pub struct UringOptions {
    /// Entries of the submission queue; a power of two.
    pub submission_entries: u32,
    /// Entries of the completion queue; a power of two, at least `submission_entries`.
    pub completion_entries: u32,
    /// Receive buffers shared by all connections; a power of two up to 32768.
    pub recv_buffers: u16,
    /// Size of one receive buffer in bytes.
    pub recv_buffer_bytes: usize,
    /// The most connections at once; up to [`UringOptions::CONNECTIONS_LIMIT`].
    pub connections_max: usize,
    /// Connections that wait to be accepted in the kernel.
    pub listen_backlog: i32,
    /// How long sent bytes may stay without acknowledgement, or the other side without room for
    /// more, before the connection fails (TCP_USER_TIMEOUT).
    pub send_timeout: Duration,
    /// SO_SNDBUF in bytes; `None` leaves the kernel's own tuning (tests make it tiny).
    pub send_buffer_bytes: Option<usize>,
    /// SO_RCVBUF in bytes; `None` leaves the kernel's own tuning.
    pub recv_socket_bytes: Option<usize>,
    /// How durable writes are made durable.
    pub log_sync: LogSync,
    /// How long a turn may look at the ring before it sleeps, at most; zero: it sleeps at once.
    /// An idle thread does not poll whatever stands here.
    pub busy_poll_max: Duration,
    /// Who looks names up; all rings of a process share one.
    pub resolver: Resolver,
}

impl UringOptions {
    /// The default of [`UringOptions::busy_poll_max`]: longer than a durable write takes, or a
    /// round trip. Measured on two cores with three replicas: 100 us gain less, 400 us no more.
    pub const BUSY_POLL_DEFAULT: Duration = Duration::from_micros(200);
    /// The upper bound of [`UringOptions::connections_max`].
    pub const CONNECTIONS_LIMIT: usize = 1 << 16;
}

impl Default for UringOptions {
    fn default() -> UringOptions {
        UringOptions {
            submission_entries: 256,
            completion_entries: 4096,
            recv_buffers: 64,
            recv_buffer_bytes: 32 * 1024,
            connections_max: 4096,
            listen_backlog: 1024,
            send_timeout: Duration::from_secs(10),
            send_buffer_bytes: None,
            recv_socket_bytes: None,
            log_sync: LogSync::Dsync,
            busy_poll_max: UringOptions::BUSY_POLL_DEFAULT,
            resolver: Resolver::default(),
        }
    }
}

/// Why a [`Uring`] cannot be made. Each message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// The kernel lacks what the ring needs.
    #[error("Linux {found} is too old: io_uring as used here needs {needed} or newer")]
    KernelTooOld {
        /// The running kernel.
        found: KernelVersion,
        /// The oldest that works.
        needed: KernelVersion,
    },
    /// The kernel refuses io_uring to this process.
    #[error("io_uring is not available: {advice} ({source})")]
    Denied {
        /// The likely cause and the remedy.
        advice: String,
        /// The system's own word.
        source: io::Error,
    },
    /// A ring was made, but operations are missing (a filter, or an unusual kernel).
    #[error("io_uring lacks the operations {names}: use an unrestricted kernel 6.1 or newer")]
    OpcodesMissing {
        /// The missing operations.
        names: String,
    },
    /// The kernel does not know the flags that even the oldest supported one has.
    #[error("the kernel refuses the ring's flags: io_uring as used here needs Linux 6.1 or newer")]
    FlagsRefused,
    /// A step after making the ring failed.
    #[error("io_uring cannot be set up ({step}): {advice} ({source})")]
    Setup {
        /// What was tried.
        step: &'static str,
        /// The likely cause and the remedy.
        advice: String,
        /// The system's own word.
        source: io::Error,
    },
    /// The ring does not do what it should.
    #[error("io_uring fails its self-test: {0}")]
    SelfTest(String),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// The directory.
        path: String,
        /// The system's own word.
        source: io::Error,
    },
}

fn setup(step: &'static str) -> impl FnOnce(io::Error) -> UringError {
    move |source| UringError::Setup { step, advice: host::explain_ring_error(&source), source }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UringStats {
    /// Calls of [`Io::turn`].
    pub turns: u64,
    /// System calls on the ring.
    pub enters: u64,
    /// Of these, the ones allowed to sleep.
    pub waits: u64,
    /// Waits that looked at the ring before they slept.
    pub polls: u64,
    /// Of these, the ones in which something came before they slept.
    pub poll_hits: u64,
    /// Submissions the kernel has taken.
    pub sqes: u64,
    /// Completions reaped.
    pub completions: u64,
    /// Times the completion queue was found overflowed (nothing is lost: the kernel keeps them).
    pub cq_overflows: u64,
    /// Completions the kernel has dropped for lack of memory: always 0 unless the machine is dying.
    pub completions_lost: u64,
    /// Times the CPU was yielded because a log write was in flight and the turn had not slept.
    pub yields: u64,
    /// Receives that found no buffer and were armed again later.
    pub recv_starved: u64,
    /// Connections refused because `connections_max` were open.
    pub conns_refused: u64,
    /// Accepts that failed (no descriptors, no memory, aborted by the peer).
    pub accept_failures: u64,
    /// Operations started again after EINTR or EAGAIN.
    pub retries: u64,
}

struct WakerInner {
    eventfd: OwnedFd,
    /// A wake is on its way: further ones need no system call.
    pending: AtomicBool,
    /// The loop has been asked to look up, and not only to look around.
    asked: AtomicBool,
}

/// Wakes a [`Uring`]'s loop from any thread: the loop gets [`Event::Woken`]. What the caller wrote
/// before waking is visible to the loop when it handles the event.
#[derive(Clone)]
pub struct Waker {
    inner: Arc<WakerInner>,
}

impl Waker {
    fn new() -> io::Result<Waker> {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let eventfd = rustix::event::eventfd(0, flags)?;
        let (pending, asked) = (AtomicBool::new(false), AtomicBool::new(false));
        let inner = WakerInner { eventfd, pending, asked };
        Ok(Waker { inner: Arc::new(inner) })
    }

    /// Asks the loop to look up. Several wakes before it does are one event.
    pub fn wake(&self) {
        self.inner.asked.store(true, Ordering::SeqCst);
        self.nudge();
    }

    /// Ends a sleep of the loop, without an event.
    fn nudge(&self) {
        if self.inner.pending.swap(true, Ordering::SeqCst) {
            return;
        }
        let one = 1u64.to_ne_bytes();
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.inner.eventfd, &one));
        // The counter is far from its maximum (one write per read), so this cannot block or fail.
        assert_eq!(written, Ok(8), "an eventfd takes a wake");
    }
}

/// What a [`Uring`] that is being dropped still waits for: to be asked by other threads.
#[derive(Clone, Debug, Default)]
pub struct Leftover {
    in_flight: Arc<Mutex<Option<String>>>,
}

impl Leftover {
    /// The operations by kind; `None` while the ring is in use, or is let go.
    pub fn in_flight(&self) -> Option<String> {
        self.lock().clone()
    }

    pub(crate) fn set(&self, in_flight: Option<String>) {
        *self.lock() = in_flight;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // Whatever became of the thread that held it: a text is whole, or the one before.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The io seam of one thread on one io_uring. Made and used on the same thread (it is not
/// `Send`); dropping it cancels what is in flight and waits for the kernel to let go.
pub struct Uring {
    ring: Ring,
    ops: OpSlab,
    storage: DirectStorage,
    sockets: Sockets,
    recv: Rc<RecvPool>,
    waker: Waker,
    leftover: Leftover,
    now: Instant,
    options: UringOptions,
    stats: UringStats,
    /// Writes in flight: while there are any, a turn that did not sleep yields.
    writes_inflight: usize,
    poll: BusyPoll,
    /// Voluntary context switches of this thread when last looked at.
    switches: i64,
    /// Events that arose outside a turn; handed out by the next one.
    deferred: Vec<Event<RecvChunk>>,
    /// Where the answers to look-ups arrive, and how many have been asked for and not come yet.
    mailbox: Arc<Mailbox>,
    lookups_inflight: usize,
    lookups_started: u64,
    completions: Vec<Completion>,
    iovecs_kept: Vec<ops::IoVecs>,
    /// A submission failed outside a turn; reported by the next one.
    broken: Option<io::Error>,
    /// The data directory's lock is registered with the ring.
    holds_lock: bool,
    /// The thread's place among those of its process, if there are several.
    seat: Option<Seat>,
    #[cfg(test)]
    faults: tests::Faults,
}

impl Uring {
    /// Sets up a ring for the calling thread. `data_dir` is the folder of its files; without one
    /// every file operation fails.
    ///
    /// # Errors
    /// When the kernel is too old or denies io_uring, when the self-test fails, or when the data
    /// directory cannot be opened for O_DIRECT in the log's blocks.
    pub fn new(data_dir: Option<&Path>, options: UringOptions) -> Result<Uring, UringError> {
        assert!(options.connections_max <= UringOptions::CONNECTIONS_LIMIT, "too many connections");
        let storage = match data_dir {
            None => DirectStorage::none(),
            Some(path) => {
                let opened = DirectStorage::new(path)
                    .and_then(|storage| storage.check_alignment().map(|()| storage));
                opened.map_err(|source| UringError::DataDir {
                    path: path.display().to_string(),
                    source,
                })?
            }
        };
        let ring = Ring::new(&options)?;
        let (buffers, size) = (options.recv_buffers, options.recv_buffer_bytes);
        let recv = RecvPool::new(&ring.submitter(), buffers, size)
            .map_err(setup("registering receive buffers"))?;
        let poll = BusyPoll::new(options.busy_poll_max);
        let waker = Waker::new().map_err(setup("making an eventfd"))?;
        let mut uring = Uring {
            ring,
            ops: OpSlab::default(),
            storage,
            sockets: Sockets::new(options.connections_max),
            recv,
            mailbox: Mailbox::new(waker.clone()),
            lookups_inflight: 0,
            lookups_started: 0,
            waker,
            leftover: Leftover::default(),
            now: read_clock(),
            options,
            stats: UringStats::default(),
            writes_inflight: 0,
            poll,
            switches: 0,
            deferred: Vec::new(),
            completions: Vec::new(),
            iovecs_kept: Vec::new(),
            broken: None,
            holds_lock: false,
            seat: None,
            #[cfg(test)]
            faults: tests::Faults::default(),
        };
        uring.arm_waker();
        uring.self_test()?;
        uring.stats = UringStats::default();
        Ok(uring)
    }

    /// Keeps `lock` taken for as long as the kernel works on operations of this ring, also after
    /// the process was killed: the ring refers to the lock's open file, and the kernel lets go
    /// of a ring's files only after its last operation. To be called before the first write.
    ///
    /// # Errors
    /// When the kernel refuses to register the file.
    ///
    /// # Panics
    /// When the ring holds a lock already.
    pub fn hold_lock(&mut self, lock: &DirLock) -> Result<(), UringError> {
        assert!(!self.holds_lock, "a ring holds one lock");
        let files = [lock.file.as_raw_fd()];
        self.ring.submitter().register_files(&files).map_err(setup("registering the lock file"))?;
        self.holds_lock = true;
        Ok(())
    }

    /// A handle that wakes this loop from other threads.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Tells other threads, once this is being dropped, what it still waits for.
    pub fn leftover(&self) -> Leftover {
        self.leftover.clone()
    }

    /// Counters since the start.
    pub fn stats(&mut self) -> UringStats {
        UringStats { completions_lost: self.ring.completions_lost(), ..self.stats }
    }

    /// Queues the kernel's side of `op`, which the slab owns already.
    fn submit(&mut self, id: OpId, entry: squeue::Entry) {
        #[cfg(test)]
        if self.faults.intercepts(id, self.ops.get(id)) {
            return;
        }
        // SAFETY: everything `entry` points to belongs to the operation `id` in the slab (on the
        // heap, so it does not move), which keeps it until its last completion.
        let pushed = unsafe { self.ring.push(entry.user_data(id.0), &mut self.stats) };
        if let Err(error) = pushed {
            self.broken.get_or_insert(error);
        }
    }

    /// Asks the kernel to end an operation early. Its own completion still comes.
    fn cancel(&mut self, id: OpId) {
        #[cfg(test)]
        if self.faults.loses_cancel() {
            return;
        }
        let entry = opcode::AsyncCancel::new(id.0).build().user_data(UNTRACKED);
        // SAFETY: a cancel names no memory.
        let pushed = unsafe { self.ring.push(entry, &mut self.stats) };
        if let Err(error) = pushed {
            self.broken.get_or_insert(error);
        }
    }

    fn arm_waker(&mut self) {
        let id = self.ops.insert(Op::Wake { value: Box::new(0) });
        self.submit_wake(id);
    }

    fn submit_wake(&mut self, id: OpId) {
        let Op::Wake { value } = self.ops.get(id) else { unreachable!("the operation is a wake") };
        let address: *mut u64 = &mut **value;
        let fd = Fd(self.waker.inner.eventfd.as_raw_fd());
        self.submit(id, opcode::Read::new(fd, address.cast(), 8).build());
    }

    fn complete_wake(&mut self, id: OpId, result: i32, events: &mut Vec<Event<RecvChunk>>) {
        if result < 0 {
            if self.ops.attempt(id) <= ATTEMPTS_MAX {
                self.submit_wake(id);
            } else {
                self.broken.get_or_insert(io::Error::from_raw_os_error(-result));
            }
            return;
        }
        // Cleared before the loop looks at what the waker announces: a wake after this line
        // writes to the eventfd again.
        self.waker.inner.pending.store(false, Ordering::SeqCst);
        if self.waker.inner.asked.swap(false, Ordering::SeqCst) {
            events.push(Event::Woken);
        }
        self.ops.remove(id);
        self.arm_waker();
    }

    fn complete(&mut self, completion: Completion, events: &mut Vec<Event<RecvChunk>>) {
        if completion.user_data == UNTRACKED {
            return;
        }
        let id = OpId(completion.user_data);
        let result = completion.result;
        match self.ops.get(id) {
            Op::Wake { .. } => self.complete_wake(id, result, events),
            Op::Accept { .. } => self.complete_accept(id, result, events),
            Op::Connect { .. } => self.complete_connect(id, result, events),
            Op::Receive { .. } => self.complete_receive(id, completion, events),
            Op::Send { .. } => self.complete_send(id, result, events),
            Op::Message { .. } => self.complete_message(id, result),
            _ => self.complete_disk(id, result, events),
        }
    }

    /// IO.md, "the 4 ms trap": without FUA a durable write's completion runs in a kernel worker.
    /// If this thread holds the CPU that takes the disk's interrupts and never sleeps, the
    /// worker waits for the timer tick. So: if a write is in flight and the turn did not sleep,
    /// let others run once.
    fn yield_to_the_disk(&mut self, wait: Wait, entered: Instant) {
        if self.writes_inflight == 0 {
            return;
        }
        let may_have_slept = wait != Wait::No && self.now.since(entered) > SLEEP_MIN;
        if may_have_slept {
            let switches = voluntary_switches();
            if switches != self.switches {
                self.switches = switches;
                return;
            }
        }
        self.stats.yields += 1;
        rustix::thread::sched_yield();
    }

    /// Submits everything and waits up to `limit` for a completion: looks at the ring first, then
    /// sleeps. Whether others were let run in between.
    fn wait(
        &mut self,
        entered: Instant,
        limit: Duration,
        completions: &mut Vec<Completion>,
    ) -> io::Result<bool> {
        let budget = self.poll.budget().min(limit);
        let mut gave_way = false;
        if !budget.is_zero() {
            self.stats.polls += 1;
            self.ring.turn(None, completions, &mut self.stats)?;
            let until = entered + budget;
            while completions.is_empty() && read_clock() < until {
                if self.ring.has_news() {
                    self.ring.turn(None, completions, &mut self.stats)?;
                } else {
                    rustix::thread::sched_yield();
                    gave_way = true;
                }
            }
            self.stats.poll_hits += u64::from(!completions.is_empty());
        }
        if completions.is_empty() {
            let left = limit.saturating_sub(read_clock().since(entered));
            self.ring.turn(Some(left), completions, &mut self.stats)?;
        }
        self.poll.learn(read_clock().since(entered));
        Ok(gave_way)
    }

    fn wait_of(&self, wait: Wait) -> Option<Duration> {
        let Wait::AtMost(duration) = wait else { return None };
        #[cfg(test)]
        if !self.faults.completions.is_empty() {
            return None;
        }
        if !self.deferred.is_empty() || duration.is_zero() {
            return None;
        }
        match self.sockets.next_deadline() {
            None => Some(duration),
            Some(deadline) => Some(duration.min(deadline.since(read_clock()))),
        }
    }

    /// Asks for the addresses of a name.
    fn start_look_up(&mut self, name: &str) -> LookupId {
        self.lookups_started += 1;
        self.lookups_inflight += 1;
        let lookup = LookupId(self.lookups_started);
        self.options.resolver.ask(name, lookup, &self.mailbox);
        lookup
    }

    /// Hands out the addresses that have been found. After the completions of a turn: what ends its
    /// sleep for an answer is one of them.
    fn take_lookups(&mut self, events: &mut Vec<Event<RecvChunk>>) {
        if self.lookups_inflight == 0 {
            return;
        }
        for (lookup, found) in self.mailbox.take() {
            self.lookups_inflight -= 1;
            events.push(Event::LookedUp { lookup, addresses: found.map_err(io::Error::other) });
        }
    }

    /// Sends a few bytes through a socket pair, with the very code that serves connections.
    fn self_test(&mut self) -> Result<(), UringError> {
        let failed = |what: &str| UringError::SelfTest(what.to_owned());
        let (near, far) = std::os::unix::net::UnixStream::pair()
            .map_err(|error| failed(&format!("no socket pair: {error}")))?;
        let near = self.adopt_socket(near.into());
        let far = self.adopt_socket(far.into());
        let (near, far) = near.zip(far).ok_or_else(|| failed("no room for connections"))?;
        self.send(near, vec![SendPart::Bytes(b"log".to_vec()), SendPart::Bytes(b"gos".to_vec())]);
        let (mut sent, mut received, mut ended) = (false, Vec::new(), false);
        let mut events = Vec::new();
        for _ in 0..SELF_TEST_TURNS_MAX {
            self.turn(Wait::AtMost(Duration::from_millis(100)), &mut events)
                .map_err(|error| failed(&error.to_string()))?;
            for event in events.drain(..) {
                match event {
                    Event::Sent { conn, .. } if conn == near => sent = true,
                    Event::Received { conn, chunk } if conn == far => {
                        received.extend_from_slice(&chunk);
                    }
                    Event::Closed { conn, reason: CloseReason::Ended } if conn == far => {
                        ended = true;
                    }
                    other => return Err(failed(&format!("unexpected: {other:?}"))),
                }
            }
            if sent && received == b"loggos" {
                self.close(near);
            }
            if ended && self.sockets.is_empty() {
                return Ok(());
            }
        }
        Err(failed(&format!("a message over a socket pair: sent {sent}, received {received:?}")))
    }

    /// Cancels everything and waits until the kernel has let go of all memory; whether it has.
    fn drain(&mut self) -> bool {
        // Never given to the kernel: no completion will come.
        for user_data in self.ring.forget_pending() {
            if user_data != UNTRACKED {
                let op = self.ops.remove(OpId(user_data));
                self.forget(op);
            }
        }
        let deadline = read_clock() + DRAIN_MAX;
        let (mut completions, mut told) = (Vec::new(), 0);
        while self.ops.len() > 0 && read_clock() < deadline {
            if told != self.ops.len() {
                told = self.ops.len();
                self.leftover.set(Some(self.ops.describe()));
            }
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            // SAFETY: a cancel names no memory.
            let pushed = unsafe { self.ring.push(cancel.user_data(UNTRACKED), &mut self.stats) };
            let step = Duration::from_millis(10);
            let turned = self.ring.turn(Some(step), &mut completions, &mut self.stats);
            if pushed.and(turned).is_err() {
                return false;
            }
            for completion in completions.drain(..) {
                if completion.user_data == UNTRACKED {
                    continue;
                }
                let (id, flags) = (OpId(completion.user_data), completion.flags);
                if let Some(buffer) = io_uring::cqueue::buffer_select(flags) {
                    drop(self.recv.take(buffer, 0));
                }
                if !io_uring::cqueue::more(flags) {
                    let op = self.ops.remove(id);
                    if let (Op::Accept { .. }, 0..) = (&op, completion.result) {
                        sockets::close_raw(completion.result);
                    }
                    if let (Op::Open { .. }, 0..) = (&op, completion.result) {
                        sockets::close_raw(completion.result);
                    }
                    self.forget(op);
                }
            }
        }
        self.ops.len() == 0
    }

    /// Drops an operation that will not be reported.
    fn forget(&mut self, op: Op) {
        if let Op::Read { file, .. } | Op::Allocate { file, .. } | Op::Flush { file, .. } = &op {
            self.storage.end(*file);
        }
        if let Op::Write(write) | Op::WriteFlush(write) = &op {
            self.storage.end(write.file);
            self.writes_inflight -= 1;
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let drained = self.drain();
        if drained {
            self.leftover.set(None);
        }
        // With the group gone the kernel takes no further buffer; chunks still held by the
        // caller keep the memory, not the ring.
        let unregistered = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP).is_ok();
        if drained && self.holds_lock {
            // Nothing is in flight, so the lock may go now and not only when the kernel gets to
            // taking the ring down. Where this fails it goes then.
            drop(self.ring.submitter().unregister_files());
        }
        if !drained || !unregistered {
            // The kernel may still write: give up the memory rather than free it.
            std::mem::forget(std::mem::take(&mut self.ops));
            std::mem::forget(Rc::clone(&self.recv));
        }
    }
}

impl Clock for Uring {
    fn now(&self) -> Instant {
        self.now
    }

    fn measure(&self) -> Instant {
        read_clock().max(self.now)
    }
}

impl Io for Uring {
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event<RecvChunk>>) -> io::Result<()> {
        self.stats.turns += 1;
        self.rearm();
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let timeout = self.wait_of(wait).filter(|_| !self.sockets.is_starved_in_vain(&self.recv));
        let timeout = timeout.filter(|_| !self.announce_sleep());
        events.append(&mut self.deferred);
        let mut completions = std::mem::take(&mut self.completions);
        let entered = match timeout {
            None if self.writes_inflight == 0 => self.now,
            _ => read_clock(),
        };
        let gave_way = match timeout {
            Some(limit) => self.wait(entered, limit, &mut completions)?,
            None => {
                self.ring.turn(None, &mut completions, &mut self.stats)?;
                false
            }
        };
        #[cfg(test)]
        completions.append(&mut self.faults.completions);
        // Before the clock is read, like all that this turn hands out: a lease judged by an older
        // reading than a request's arrival could be over when the request was made.
        self.take_parcels(events);
        self.now = read_clock().max(self.now);
        for completion in completions.drain(..) {
            self.complete(completion, events);
        }
        self.completions = completions;
        self.take_lookups(events);
        if !gave_way {
            self.yield_to_the_disk(wait, entered);
        }
        Ok(())
    }
}

/// Nanoseconds since boot, suspension included.
fn read_clock() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// How often this thread has gone to sleep by itself.
fn voluntary_switches() -> i64 {
    // SAFETY: all zeros is a valid `rusage`, and the call writes nothing else.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let result = libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        assert_eq!(result, 0, "getrusage of the own thread does not fail");
        usage.ru_nvcsw
    }
}
