//! One kernel ring: setup, the single `enter` per turn, and reaping.
//!
//! Called by [`super::Uring`] alone. Guarantees: whatever is pushed reaches the kernel in the order
//! of the pushes, no later than the next turn; every completion is handed out exactly once.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue};

use super::host::{KernelVersion, explain_ring_error};
use super::{UringError, UringOptions, UringStats};

/// The oldest kernel that is supported: deferred task work and multishot receive.
pub const KERNEL_VERSION_MIN: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// The most submissions that wait in user memory; at this many they are pushed into the kernel
/// within the turn.
const PENDING_MAX: usize = 4096;

/// The most extra enters of one turn that only fetch what the kernel still holds back.
const FETCH_ROUNDS_MAX: usize = 16;

/// How often a submission that the kernel refuses for lack of resources is tried again before
/// the ring is declared broken. There is a yield between the attempts.
const SUBMIT_RETRIES_MAX: usize = 10_000;

/// The most kernel worker threads of each kind (bounded, unbounded) per ring.
const WORKERS_MAX: u32 = 2;

/// A completion as the kernel posted it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

pub(super) struct Ring {
    ring: IoUring,
    /// Asked for, not yet in the submission queue. Not started, so dropping them is harmless.
    pending: VecDeque<squeue::Entry>,
    wait_flags: EnterFlags,
    /// Errors that the next enters meet instead of the kernel.
    #[cfg(test)]
    pub enter_faults: VecDeque<i32>,
}

/// What the kernel must know. `SendMsg` to `RenameAt` all exist in 6.1; a filter may hide some.
const OPCODES: [(u8, &str); 12] = [
    (opcode::Read::CODE, "READ"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::RenameAt::CODE, "RENAMEAT"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::RecvMulti::CODE, "RECV"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Nop::CODE, "NOP"),
];

impl Ring {
    /// Sets the ring up for the calling thread, which must be the one that uses it.
    pub fn new(options: &UringOptions) -> Result<Ring, UringError> {
        let kernel = KernelVersion::running();
        if kernel < KERNEL_VERSION_MIN {
            return Err(UringError::KernelTooOld { found: kernel, needed: KERNEL_VERSION_MIN });
        }
        let ring = build(|flags| setup(options, flags))?;
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(super::setup("asking for its operations"))?;
        let missing: Vec<_> = OPCODES.iter().filter(|op| !probe.is_supported(op.0)).collect();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|op| op.1).collect();
            return Err(UringError::OpcodesMissing { names: names.join(", ") });
        }
        // Fewer cores than busy threads is the normal case here: more workers only fight for them.
        let mut workers = [WORKERS_MAX, WORKERS_MAX];
        ring.submitter()
            .register_iowq_max_workers(&mut workers)
            .map_err(super::setup("limiting its workers"))?;

        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Ring {
            ring,
            pending: VecDeque::with_capacity(PENDING_MAX),
            wait_flags,
            #[cfg(test)]
            enter_faults: VecDeque::new(),
        })
    }

    /// The ring's descriptor, for messages to it.
    pub fn raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// The kernel's ring, for registrations.
    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues a submission.
    ///
    /// # Safety
    /// The memory that `entry` names must stay valid and unmoved until the completion of its
    /// user data without the "more" flag, or until [`Ring::forget_pending`] has dropped it.
    pub unsafe fn push(&mut self, entry: squeue::Entry, stats: &mut UringStats) -> io::Result<()> {
        self.pending.push_back(entry);
        if self.pending.len() >= PENDING_MAX {
            self.submit_pending(stats)?;
        }
        Ok(())
    }

    /// Drops what was asked for and never given to the kernel; returns the user data of each.
    pub fn forget_pending(&mut self) -> Vec<u64> {
        self.pending.drain(..).map(|entry| entry.get_user_data()).collect()
    }

    /// Submits everything, waits up to `timeout` for one completion (`None`: not at all), and
    /// appends all completions to `out`.
    pub fn turn(
        &mut self,
        timeout: Option<Duration>,
        out: &mut Vec<Completion>,
        stats: &mut UringStats,
    ) -> io::Result<()> {
        while self.fill_submission_queue() {
            self.enter(None, stats)?;
            self.reap(out, stats);
        }
        // What is there already must be handled before any sleep.
        let timeout = timeout.filter(|_| out.is_empty() && self.ring.completion().is_empty());
        self.enter(timeout, stats)?;
        self.reap(out, stats);
        for _ in 0..FETCH_ROUNDS_MAX {
            let queue = self.ring.submission();
            let more = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
            drop(queue);
            if !more {
                return Ok(());
            }
            self.enter(None, stats)?;
            self.reap(out, stats);
        }
        // A peer that never stops sending could keep the flag set for ever: the rest comes with
        // the next turn.
        Ok(())
    }

    /// Whether completions have been posted, or the kernel has some to post with the next enter.
    /// No system call.
    pub fn has_news(&mut self) -> bool {
        let held_back = self.ring.submission().taskrun();
        held_back || !self.ring.completion().is_empty()
    }

    /// Moves pending entries into the submission queue; whether some did not fit.
    fn fill_submission_queue(&mut self) -> bool {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.pending.front() {
            // SAFETY: `Ring::push` demands that the memory of each entry outlives its operation.
            if unsafe { queue.push(entry) }.is_err() {
                return true;
            }
            self.pending.pop_front();
        }
        false
    }

    /// Pushes what is pending into the kernel without reaping.
    fn submit_pending(&mut self, stats: &mut UringStats) -> io::Result<()> {
        for _ in 0..SUBMIT_RETRIES_MAX {
            let more = self.fill_submission_queue();
            self.enter(None, stats)?;
            if !more {
                return Ok(());
            }
        }
        Err(io::Error::other("the kernel takes no more submissions"))
    }

    /// One `io_uring_enter`: submits what is in the queue, runs deferred task work, and sleeps up
    /// to `timeout` for a completion.
    fn enter(&mut self, timeout: Option<Duration>, stats: &mut UringStats) -> io::Result<()> {
        for _ in 0..SUBMIT_RETRIES_MAX {
            stats.enters += 1;
            stats.waits += u64::from(timeout.is_some());
            match self.enter_once(timeout) {
                Ok(submitted) => {
                    stats.sqes += submitted as u64;
                    return Ok(());
                }
                Err(error) => match error.raw_os_error() {
                    // Nothing came in time, or a signal ended the wait.
                    Some(libc::ETIME | libc::EINTR) => return Ok(()),
                    // The kernel lacks memory for requests: let others run, then try again.
                    Some(libc::EAGAIN) => rustix::thread::sched_yield(),
                    // The completion queue has overflowed: it must be reaped first, so the rest
                    // of the submissions goes with the next enter.
                    Some(libc::EBUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
        Err(io::Error::other("the kernel has no memory for submissions"))
    }

    fn enter_once(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(errno) = self.enter_faults.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let count = self.ring.submission().len() as u32;
        match timeout {
            Some(duration) => {
                let timespec = Timespec::from(duration);
                let args = SubmitArgs::new().timespec(&timespec);
                // SAFETY: EXT_ARG announces the argument's type; it lives over the call.
                unsafe {
                    let flags = self.wait_flags.bits();
                    self.ring.submitter().enter(count, 1, flags, Some(&args))
                }
            }
            // SAFETY: no argument is passed, and without EXT_ARG none is read.
            None => unsafe {
                let flags = EnterFlags::GETEVENTS.bits();
                self.ring.submitter().enter::<libc::sigset_t>(count, 0, flags, None)
            },
        }
    }

    /// Completions that the kernel has dropped since the start for lack of memory.
    pub fn completions_lost(&mut self) -> u64 {
        u64::from(self.ring.completion().overflow())
    }

    fn reap(&mut self, out: &mut Vec<Completion>, stats: &mut UringStats) {
        if self.ring.submission().cq_overflow() {
            stats.cq_overflows += 1;
        }
        let queue = self.ring.completion();
        let before = out.len();
        out.extend(queue.map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        stats.completions += (out.len() - before) as u64;
    }
}

/// Flags that kernels from [`KERNEL_VERSION_MIN`] on may lack; the others they all have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewFlags {
    /// NO_SQARRAY, from 6.6.
    pub no_sqarray: bool,
}

/// With which of the new flags a ring is tried, one after the other: the newest is dropped first.
const ATTEMPTS: [NewFlags; 2] = [NewFlags { no_sqarray: true }, NewFlags { no_sqarray: false }];

fn setup(options: &UringOptions, flags: NewFlags) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(options.completion_entries)
        .dontfork();
    if flags.no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(options.submission_entries)
}

/// Tries to set up a ring: a kernel that does not know a flag answers EINVAL.
pub(super) fn build<T>(mut setup: impl FnMut(NewFlags) -> io::Result<T>) -> Result<T, UringError> {
    for flags in ATTEMPTS {
        match setup(flags) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => {
                let advice = explain_ring_error(&error);
                return Err(UringError::Denied { advice, source: error });
            }
        }
    }
    Err(UringError::FlagsRefused)
}
