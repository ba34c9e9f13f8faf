//! Pitfall 1: a thread that never sleeps, on every processor, the disk's interrupts among them.
//!
//! Each thread turns a ring without ever waiting and has a durable write in flight, as a group's
//! thread does under load. Without the yield of [`crate::uring::Uring`] the worker that completes
//! the write waits for the timer tick: about 4 ms each.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::support::{disk_dir, filled, ring_in, zeroed_file};
use crate::base::BlockPool;
use crate::base::limits::BLOCK_SIZE;
use crate::io::{Disk, Event, Io, Sync, Token, Wait, WritePart};
use crate::uring::UringOptions;
use crate::uring::floor::{Others, QUIET_SHARE_MAX};

/// Writes of each thread in one round.
const WRITES: u64 = 300;
/// What 99 of 100 log writes must stay below.
const P99_MAX: Duration = Duration::from_millis(1);
/// How long the test waits for other programs to leave the processors alone.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(10);
/// Quiet rounds of which one must do.
const QUIET_ROUNDS: u32 = 5;

#[test]
fn a_log_write_beside_threads_that_never_sleep_takes_no_tick() {
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let started = Instant::now();
    let mut quiet_rounds = 0;
    loop {
        // Programs that never sleep beside this one cost a tick too, and no yield here helps.
        let watch = Others::watch();
        let threads: Vec<_> =
            cpus.iter().copied().map(|cpu| std::thread::spawn(move || busy(cpu))).collect();
        let (p99s, own): (Vec<_>, Vec<_>) =
            threads.into_iter().map(|thread| thread.join().unwrap()).unzip();
        // Tests beside this one are others too.
        let others = watch.share_besides(own.iter().sum());
        let worst = p99s.iter().max().expect("there is a processor");
        println!("p99 per processor {p99s:?}, others used {others:.2} of one");
        if *worst < P99_MAX {
            return;
        }
        quiet_rounds += u32::from(others <= QUIET_SHARE_MAX);
        assert!(quiet_rounds < QUIET_ROUNDS, "p99 of a log write: {worst:?}, on a quiet machine");
        if started.elapsed() > QUIET_WAIT_MAX {
            return println!("SKIPPED: other programs have kept the processors busy all the time");
        }
    }
}

/// A thread that never sleeps, with one durable write in flight: the 99th percentile, and the
/// time that the thread has spent in the program.
fn busy(cpu: usize) -> (Duration, Duration) {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).unwrap();
    let dir = disk_dir();
    let mut uring = ring_in(&dir, UringOptions::default());
    let file = zeroed_file(&mut uring, "written", WRITES as usize * BLOCK_SIZE);
    let block = Rc::new(filled(&BlockPool::new(0), BLOCK_SIZE, 0x11));
    let (mut samples, mut events) = (Vec::new(), Vec::new());
    for write in 0..WRITES {
        let begin = Instant::now();
        let parts = vec![WritePart::Buffer(Rc::clone(&block), BLOCK_SIZE)];
        uring.write(Token(write), file, write * BLOCK_SIZE as u64, parts, Sync::Durable);
        while events.is_empty() {
            uring.turn(Wait::No, &mut events).unwrap();
        }
        for event in events.drain(..) {
            let Event::Disk(event) = event else { panic!("unexpected: {event:?}") };
            assert_eq!(event.result.unwrap(), BLOCK_SIZE as u32);
        }
        samples.push(begin.elapsed());
    }
    assert!(uring.stats().yields > 0, "the turns did not sleep, so they yielded");
    samples.sort_unstable();
    (samples[samples.len() * 99 / 100], user_time())
}

/// Time that the calling thread has spent in the program, the kernel's left out.
fn user_time() -> Duration {
    // SAFETY: all zeros is a valid `rusage`, and the call writes nothing else.
    let time = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_utime
    };
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}
