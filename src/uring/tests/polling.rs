//! Looking at the ring before sleeping: what comes meanwhile is found, and an idle thread sleeps.

use std::time::Duration;

use crate::io::{Event, Io, Wait};
use crate::uring::{Uring, UringOptions};

fn ring(busy_poll_max: Duration) -> Uring {
    Uring::new(None, UringOptions { busy_poll_max, ..UringOptions::default() })
        .expect("io_uring works here")
}

/// Turns until `counts` wakes have been handed out, one asked for before each wait.
fn wake_and_wait(uring: &mut Uring, count: usize) {
    let waker = uring.waker();
    let mut events = Vec::new();
    for _ in 0..count {
        waker.wake();
        while !events.iter().any(|event| matches!(event, Event::Woken)) {
            uring.turn(Wait::AtMost(Duration::from_secs(10)), &mut events).expect("the ring works");
        }
        events.clear();
    }
}

#[test]
fn what_comes_soon_is_found_without_sleeping() {
    // So long that every wait here counts as short, however slow the machine.
    let mut uring = ring(Duration::from_secs(60));
    wake_and_wait(&mut uring, 1);
    let before = uring.stats();
    wake_and_wait(&mut uring, 20);
    let after = uring.stats();
    assert!(after.polls >= before.polls + 20, "{after:?}");
    assert_eq!(after.poll_hits - before.poll_hits, after.polls - before.polls, "{after:?}");
    assert_eq!(after.waits, before.waits, "none of these waits slept: {after:?}");
}

#[test]
fn an_idle_thread_sleeps_and_does_not_look() {
    let mut uring = ring(Duration::from_micros(100));
    let mut events = Vec::new();
    let mut wait_in_vain = |uring: &mut Uring, count: usize| {
        for _ in 0..count {
            uring.turn(Wait::AtMost(Duration::from_millis(2)), &mut events).expect("it works");
            assert!(events.is_empty());
        }
    };
    wait_in_vain(&mut uring, 8);
    let before = uring.stats();
    wait_in_vain(&mut uring, 8);
    let after = uring.stats();
    assert_eq!(after.polls, before.polls, "{after:?}");
    assert!(after.waits >= before.waits + 8, "{after:?}");
}

#[test]
fn a_ring_that_must_not_poll_sleeps_at_once() {
    let mut uring = ring(Duration::ZERO);
    wake_and_wait(&mut uring, 20);
    assert_eq!(uring.stats().polls, 0);
}
