//! The fault-injecting layer between the seam and the ring, and what must hold under it: short
//! writes are reported as they are, short sends go on, EINTR and EAGAIN are tried again with a
//! bound, a failed flush is never repeated, and full queues lose nothing.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{
    PATIENCE, blocks, connected_pair, disk_dir, filled, ring_in, turn_until, wait_for, zeroed_file,
};
use crate::base::BlockPool;
use crate::io::{
    CloseReason, Disk, Event, FileId, FileOptions, Io, Net, SendPart, Storage, Sync, Token, Wait,
    WritePart,
};
use crate::uring::ops::{Op, OpId};
use crate::uring::ring::Completion;
use crate::uring::{ATTEMPTS_MAX, FILES_MAX, LogSync, Uring, UringOptions};

type Judge = Box<dyn FnMut(&Op) -> Option<i32>>;

/// Faults to come; none by default.
#[derive(Default)]
pub(in crate::uring) struct Faults {
    /// Looks at each operation on its way to the kernel; what it returns is the operation's
    /// result, and the kernel never sees it.
    judge: Option<Judge>,
    /// The most iovecs of the next writes or sends, one value each: the kernel does less.
    short: Vec<usize>,
    /// Cancels that miss what they are to end, the next ones.
    pub cancels_lost: u32,
    /// Results of operations that were held back from the kernel.
    pub completions: Vec<Completion>,
}

impl Faults {
    pub fn intercepts(&mut self, id: OpId, op: &Op) -> bool {
        let Some(result) = self.judge.as_mut().and_then(|judge| judge(op)) else { return false };
        self.completions.push(Completion { user_data: id.0, result, flags: 0 });
        true
    }

    pub fn loses_cancel(&mut self) -> bool {
        let loses = self.cancels_lost > 0;
        self.cancels_lost -= u32::from(loses);
        loses
    }

    pub fn shorten(&mut self, iovecs: usize) -> usize {
        self.short.pop().map_or(iovecs, |most| most.min(iovecs))
    }
}

/// Lets the first `count` operations for which `applies` holds end with `-errno`.
fn fail_some(uring: &mut Uring, count: u32, errno: i32, applies: fn(&Op) -> bool) {
    let mut left = count;
    uring.faults.judge = Some(Box::new(move |op| {
        if left == 0 || !applies(op) {
            return None;
        }
        left -= 1;
        Some(-errno)
    }));
}

fn is_write(op: &Op) -> bool {
    matches!(op, Op::Write(_))
}

fn is_send(op: &Op) -> bool {
    matches!(op, Op::Send { .. })
}

struct OneFile {
    uring: Uring,
    file: FileId,
    // Last: the folder goes after the ring has let go of the file.
    _dir: tempfile::TempDir,
}

fn one_file(log_sync: LogSync) -> OneFile {
    let dir = disk_dir();
    let mut uring = ring_in(&dir, UringOptions { log_sync, ..UringOptions::default() });
    let file = zeroed_file(&mut uring, "written", 1 << 20);
    OneFile { uring, file, _dir: dir }
}

/// A durable write of `count` blocks in as many parts.
fn write_blocks(it: &mut OneFile, token: Token, count: usize) {
    let block = Rc::new(filled(&BlockPool::new(0), 4096, 0x42));
    let parts = (0..count).map(|_| WritePart::Buffer(Rc::clone(&block), 4096)).collect();
    it.uring.write(token, it.file, 0, parts, Sync::Durable);
}

#[test]
fn a_short_write_is_reported_short_and_no_flush_lets_it_pass() {
    for log_sync in [LogSync::Dsync, LogSync::WriteThenFlush] {
        let mut it = one_file(log_sync);
        it.uring.faults.short = vec![2];
        write_blocks(&mut it, Token(1), 5);
        let event = wait_for(&mut it.uring, Token(1));
        assert_eq!(event.result.unwrap(), 2 * 4096, "{log_sync:?}: as much as was written");
        write_blocks(&mut it, Token(2), 5);
        assert_eq!(wait_for(&mut it.uring, Token(2)).result.unwrap(), 5 * 4096);
    }
}

#[test]
fn writes_that_meet_eintr_and_eagain_are_started_again() {
    for errno in [libc::EINTR, libc::EAGAIN] {
        let mut it = one_file(LogSync::Dsync);
        fail_some(&mut it.uring, 7, errno, is_write);
        write_blocks(&mut it, Token(1), 3);
        assert_eq!(wait_for(&mut it.uring, Token(1)).result.unwrap(), 3 * 4096);
        assert_eq!(it.uring.stats().retries, 7);
        assert_eq!(blocks(&mut it.uring, it.file, 4), [0x42, 0x42, 0x42, 0]);
    }
}

#[test]
fn starting_again_has_a_bound() {
    let mut it = one_file(LogSync::Dsync);
    fail_some(&mut it.uring, u32::MAX, libc::EAGAIN, is_write);
    write_blocks(&mut it, Token(1), 1);
    let error = wait_for(&mut it.uring, Token(1)).result.unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EAGAIN));
    assert_eq!(it.uring.stats().retries, u64::from(ATTEMPTS_MAX));
}

#[test]
fn other_errors_of_a_write_are_reported_at_once_with_the_place() {
    let mut it = one_file(LogSync::Dsync);
    fail_some(&mut it.uring, 1, libc::EIO, is_write);
    write_blocks(&mut it, Token(1), 2);
    let error = wait_for(&mut it.uring, Token(1)).result.unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EIO));
    assert!(error.to_string().contains("write 8192 bytes at 0 of written"), "{error}");
    assert_eq!(it.uring.stats().retries, 0);
    fail_some(&mut it.uring, 1, libc::ENOSPC, is_write);
    write_blocks(&mut it, Token(2), 2);
    assert!(wait_for(&mut it.uring, Token(2)).result.unwrap_err().is_full());
}

/// A file that was made and could not be kept would be in the way of the next attempt.
#[test]
fn an_error_after_a_rename_says_the_new_name() {
    let mut it = one_file(LogSync::Dsync);
    it.uring.rename_async(Token(1), "written", "renamed");
    wait_for(&mut it.uring, Token(1)).result.unwrap();
    fail_some(&mut it.uring, 1, libc::EIO, is_write);
    write_blocks(&mut it, Token(2), 2);
    let error = wait_for(&mut it.uring, Token(2)).result.unwrap_err();
    assert!(error.to_string().contains("write 8192 bytes at 0 of renamed"), "{error}");
    it.uring.rename("renamed", "again").unwrap();
    fail_some(&mut it.uring, 1, libc::EIO, is_write);
    write_blocks(&mut it, Token(3), 2);
    let error = wait_for(&mut it.uring, Token(3)).result.unwrap_err();
    assert!(error.to_string().contains("write 8192 bytes at 0 of again"), "{error}");
    // One that fails changes no name.
    it.uring.rename_async(Token(4), "again", "none/there");
    wait_for(&mut it.uring, Token(4)).result.unwrap_err();
    fail_some(&mut it.uring, 1, libc::EIO, is_write);
    write_blocks(&mut it, Token(5), 2);
    let error = wait_for(&mut it.uring, Token(5)).result.unwrap_err();
    assert!(error.to_string().contains("write 8192 bytes at 0 of again"), "{error}");
}

#[test]
fn with_too_many_files_open_none_is_made_until_there_is_a_place() {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err()
        || limit.maximum.is_some_and(|maximum| maximum < 2 * FILES_MAX as u64)
    {
        return println!("SKIPPED: the host permits too few open files");
    }
    let dir = disk_dir();
    let mut uring = ring_in(&dir, UringOptions::default());
    let mut last = uring.open("first", FileOptions::CreateNew).unwrap();
    for _ in 1..FILES_MAX {
        last = uring.open("first", FileOptions::Read).unwrap();
    }
    let refused = uring.open("new", FileOptions::CreateNew).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMFILE), "{refused}");
    uring.open_async(Token(1), "new", FileOptions::CreateNew);
    let refused = wait_for(&mut uring, Token(1)).result.unwrap_err();
    assert!(refused.is_out_of_files(), "{refused}");
    assert!(!dir.path().join("new").exists());
    Storage::close(&mut uring, last);
    uring.open_async(Token(2), "new", FileOptions::CreateNew);
    let opened = wait_for(&mut uring, Token(2)).result;
    assert!(opened.is_ok() && dir.path().join("new").exists(), "{opened:?}");
    // Two at once for the last place: neither may be made and then be refused.
    Storage::close(&mut uring, FileId(opened.unwrap()));
    uring.open_async(Token(3), "one", FileOptions::CreateNew);
    uring.open_async(Token(4), "other", FileOptions::CreateNew);
    let mut ended = 0;
    turn_until(&mut uring, "two files", |_, event| {
        let Event::Disk(event) = event else { return false };
        let what = format!("{:?}", event.result);
        assert!(event.result.is_ok(), "{what}");
        ended += 1;
        ended == 2
    });
    assert!(dir.path().join("one").exists() && dir.path().join("other").exists());
}

#[test]
fn a_failed_flush_is_never_repeated() {
    let flushes = |op: &Op| matches!(op, Op::WriteFlush(_) | Op::Flush { .. });
    for errno in [libc::EIO, libc::EINTR, libc::EAGAIN] {
        let mut it = one_file(LogSync::WriteThenFlush);
        fail_some(&mut it.uring, 1, errno, flushes);
        write_blocks(&mut it, Token(1), 1);
        let error = wait_for(&mut it.uring, Token(1)).result.unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(errno), "the write is not durable");
        assert_eq!(it.uring.stats().retries, 0);
        fail_some(&mut it.uring, 1, errno, flushes);
        it.uring.flush(Token(2), it.file);
        assert!(wait_for(&mut it.uring, Token(2)).result.is_err());
    }
}

/// Sends three parts through a connection that `spoil` has spoilt; what arrives must be whole.
fn send_through(spoil: impl Fn(&mut Uring)) -> Uring {
    let mut uring = Uring::new(None, UringOptions::default()).unwrap();
    let (near, far) = connected_pair(&mut uring);
    let parts: Vec<Vec<u8>> = (0..3u8).map(|part| vec![part; 3000 + usize::from(part)]).collect();
    let expected = parts.concat();
    spoil(&mut uring);
    uring.send(near, parts.into_iter().map(SendPart::Bytes).collect());
    let (mut received, mut sent) = (Vec::new(), false);
    turn_until(&mut uring, "three parts", |_, event| {
        match event {
            Event::Received { conn, chunk } if conn == far => received.extend_from_slice(&chunk),
            Event::Sent { conn, parts } if conn == near => {
                assert_eq!(parts.len(), 3, "what was sent comes back");
                sent = true;
            }
            other => panic!("unexpected: {other:?}"),
        }
        sent && received.len() >= expected.len()
    });
    assert!(received == expected, "the bytes arrive whole and in order");
    uring
}

#[test]
fn short_sends_go_on_where_they_stopped() {
    send_through(|uring| uring.faults.short = vec![1, 1]);
    send_through(|uring| uring.faults.short = vec![2]);
}

#[test]
fn sends_that_meet_eintr_and_eagain_are_started_again() {
    for errno in [libc::EINTR, libc::EAGAIN] {
        let mut uring = send_through(|uring| fail_some(uring, 5, errno, is_send));
        assert_eq!(uring.stats().retries, 5);
    }
}

#[test]
fn a_failed_send_closes_the_connection_with_its_reason() {
    let mut uring = Uring::new(None, UringOptions::default()).unwrap();
    let (near, far) = connected_pair(&mut uring);
    fail_some(&mut uring, 1, libc::ETIMEDOUT, is_send);
    uring.send(near, vec![SendPart::Bytes(vec![1])]);
    let (mut near_closed, mut far_closed) = (None, None);
    turn_until(&mut uring, "both ends to close", |_, event| {
        match event {
            Event::Closed { conn, reason } if conn == near => near_closed = Some(reason),
            Event::Closed { conn, reason } if conn == far => far_closed = Some(reason),
            other => panic!("unexpected: {other:?}"),
        }
        near_closed.is_some() && far_closed.is_some()
    });
    let Some(CloseReason::Failed(error)) = near_closed else { panic!("it failed") };
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
}

#[test]
fn a_pause_and_a_hand_over_whose_cancel_misses_are_made_good_with_the_next_bytes() {
    // Paused for good: what comes after the cancel that found its aim stays in the kernel.
    let mut uring = Uring::new(None, UringOptions::default()).unwrap();
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let far = uring.adopt_socket(far.into()).unwrap();
    uring.turn(Wait::No, &mut Vec::new()).unwrap();
    uring.faults.cancels_lost = 1;
    uring.pause(far);
    let mut received = 0;
    let mut events = Vec::new();
    for byte in 0..10 {
        near.write_all(&[byte]).unwrap();
        // Each byte is there before the turn looks.
        uring.turn(Wait::No, &mut events).unwrap();
        received += events.drain(..).filter(|e| matches!(e, Event::Received { .. })).count();
    }
    assert_eq!(received, 1, "the first one shows that the cancel has missed");
    uring.resume(far);
    let mut rest = Vec::new();
    turn_until(&mut uring, "the bytes held back", |_, event| {
        let Event::Received { chunk, .. } = event else { panic!("unexpected: {event:?}") };
        rest.extend_from_slice(&chunk);
        rest.len() == 9
    });
    assert_eq!(rest, [1, 2, 3, 4, 5, 6, 7, 8, 9]);

    // Handed over: it goes, although only its second cancel ends the receive.
    let far = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = std::net::TcpStream::connect(far.local_addr().unwrap()).unwrap();
    let far = uring.adopt_socket(far.accept().unwrap().0.into()).unwrap();
    uring.turn(Wait::No, &mut events).unwrap();
    let before = uring.sockets.all().len();
    uring.faults.cancels_lost = 1;
    uring.hand_over(far, crate::base::GroupId(1), Vec::new());
    near.write_all(&[1]).unwrap();
    let started = std::time::Instant::now();
    while uring.sockets.all().len() == before {
        uring.turn(Wait::AtMost(std::time::Duration::from_millis(10)), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
        assert!(started.elapsed() < PATIENCE, "it does not go");
    }
}

#[test]
fn receives_that_meet_eintr_eagain_or_no_buffer_are_armed_again() {
    for errno in [libc::EINTR, libc::EAGAIN, libc::ENOBUFS] {
        let mut uring = send_through(|uring| {
            fail_some(uring, 3, errno, |op| matches!(op, Op::Receive { .. }));
            // Receives are armed already: make them end and start anew.
            let conns = uring.sockets.all();
            conns.iter().for_each(|conn| uring.pause(*conn));
            conns.iter().for_each(|conn| uring.resume(*conn));
        });
        let starved = if errno == libc::ENOBUFS { 3 } else { 0 };
        assert_eq!(uring.stats().recv_starved, starved);
    }
}

#[test]
fn enter_goes_on_after_eintr_eagain_ebusy_and_etime_and_fails_on_the_rest() {
    let mut it = one_file(LogSync::Dsync);
    it.uring.ring.enter_faults =
        [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ETIME, libc::EAGAIN].into();
    write_blocks(&mut it, Token(1), 1);
    assert_eq!(wait_for(&mut it.uring, Token(1)).result.unwrap(), 4096);
    assert!(it.uring.ring.enter_faults.is_empty());
    it.uring.ring.enter_faults = [libc::EBADF].into();
    let error = it.uring.turn(Wait::No, &mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

#[test]
fn queues_that_are_full_many_times_over_lose_nothing() {
    let dir = disk_dir();
    let options =
        UringOptions { submission_entries: 4, completion_entries: 8, ..UringOptions::default() };
    let mut uring = ring_in(&dir, options);
    let file = zeroed_file(&mut uring, "read", 1 << 20);
    // More than the submission queue, the completion queue and the pending list hold.
    let count = 5000_u64;
    let pool = BlockPool::new(0);
    for token in 0..count {
        uring.read(Token(token), file, (token % 256) * 4096, pool.take(4096), 4096);
    }
    let mut seen = vec![false; count as usize];
    let mut left = count;
    turn_until(&mut uring, "5000 reads", |_, event| {
        let Event::Disk(event) = event else { panic!("unexpected: {event:?}") };
        assert_eq!(event.result.unwrap(), 4096);
        assert!(!std::mem::replace(&mut seen[event.token.0 as usize], true), "each once");
        left -= 1;
        left == 0
    });
    assert_eq!(uring.stats().completions_lost, 0);
}

#[test]
fn signals_disturb_nothing() {
    let arrived = std::sync::Arc::new(AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&arrived);
    signal_hook::flag::register(libc::SIGUSR2, flag).unwrap();
    let mut it = one_file(LogSync::Dsync);
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    // SAFETY: asks for the number of the calling thread; touches no memory.
    let thread = unsafe { libc::gettid() };
    let signals = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            // SAFETY: sends a signal with a handler to a thread that outlives this one.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR2) };
            std::thread::yield_now();
        }
    });
    for token in 0..300 {
        write_blocks(&mut it, Token(token), 2);
        assert_eq!(wait_for(&mut it.uring, Token(token)).result.unwrap(), 2 * 4096);
    }
    stop.store(true, Ordering::Relaxed);
    signals.join().unwrap();
    assert!(arrived.load(Ordering::Relaxed), "signals did arrive");
}
