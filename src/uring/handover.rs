//! Connections that another thread serves: from the thread that accepts them to the one whose
//! group they are for.
//!
//! `cli/serve` makes the [`Seats`], one for each group's thread; [`super::Uring`] takes its own and
//! does the rest: [`crate::io::Net::hand_over`] on the one side, [`Event::HandedOver`] on the other.
//! Each pair of threads has a bounded queue of its own ([`super::spsc`]), so nothing is locked. A
//! thread that may sleep says so, and is woken by a message to its ring; one that does not is left
//! alone. Guarantee: what lies in a queue is looked at before its thread sleeps.
//!
//! Why no wake is lost: the receiver announces its sleep, then looks into the queue; the sender
//! fills the queue, then looks whether a sleep is announced. Both with sequentially consistent
//! order, so one of them sees the other.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use io_uring::opcode;
use io_uring::types::Fd;

use crate::base::GroupId;
use crate::base::limits::MIB;
use crate::io::{ConnId, Event, HANDOVER_BYTES_MAX, Net};

use super::host::KernelVersion;
use super::ops::{Op, OpId, UNTRACKED};
use super::spsc::{Receiver, Sender, queue};
use super::{RecvChunk, Uring, Waker};

/// Connections on their way from one thread to another; one more is closed.
pub(super) const HANDOVERS_MAX: usize = 512;
/// The most bytes that have been received on all of these; a connection that would exceed it is closed.
/// A thread that opens its log looks only when it is done, and until then anybody may connect; the
/// greetings alone are a hundredth of it.
pub(super) const HANDOVERS_BYTES_MAX: usize = 4 * MIB;

const _: () = assert!(HANDOVER_BYTES_MAX <= HANDOVERS_BYTES_MAX);

/// From here on a message to a ring with deferred task work wakes whoever waits on it. Before, an
/// eventfd does it, at the price of a read.
const MESSAGES_WAKE_FROM: KernelVersion = KernelVersion { major: 6, minor: 6 };

/// A connection on its way.
pub(super) struct Parcel {
    fd: OwnedFd,
    from: SocketAddr,
    received: Vec<u8>,
}

/// How a thread is woken that has announced that it may sleep.
#[derive(Default)]
struct Bell {
    sleeps: AtomicBool,
    /// The descriptor of its ring; 0 until it has one.
    ring: AtomicI32,
    waker: OnceLock<Waker>,
}

struct Outlet {
    group: GroupId,
    queue: Sender<Parcel>,
    bell: Arc<Bell>,
    queued_bytes: Arc<AtomicUsize>,
}

struct Inlet {
    queue: Receiver<Parcel>,
    bell: Arc<Bell>,
    queued_bytes: Arc<AtomicUsize>,
}

/// A thread's place among the threads of its process. The first one accepts and hands over to the
/// others.
pub struct Seat {
    outlets: Vec<Outlet>,
    inlet: Option<Inlet>,
}

/// The seats of a process with `group_count` groups, by group, each of which may hold
/// `connections_max` connections. No more than these wait for a thread: each takes one of the
/// process's open files, and while the thread opens its log nobody else closes those that were given
/// up, so that they would take the files that the other groups count on.
pub fn seats(group_count: u16, connections_max: usize) -> Vec<Seat> {
    let mut first = Seat { outlets: Vec::new(), inlet: None };
    let others = (1..group_count).map(|group| {
        let (sender, receiver) = queue(waiting_max(connections_max));
        let bell = Arc::new(Bell::default());
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let inlet =
            Inlet { queue: receiver, bell: bell.clone(), queued_bytes: queued_bytes.clone() };
        first.outlets.push(Outlet { group: GroupId(group), queue: sender, bell, queued_bytes });
        Seat { outlets: Vec::new(), inlet: Some(inlet) }
    });
    let others: Vec<Seat> = others.collect();
    std::iter::once(first).chain(others).collect()
}

/// How many connections wait for a thread that may hold so many: a queue's places are a power of two.
fn waiting_max(connections_max: usize) -> usize {
    1 << connections_max.clamp(1, HANDOVERS_MAX).ilog2()
}

impl Uring {
    /// Takes the thread's place among those of its process.
    pub fn take_seat(&mut self, seat: Seat) {
        if let Some(inlet) = &seat.inlet {
            // Nobody has woken this thread yet, and nobody needs to: it looks before it sleeps.
            drop(inlet.bell.waker.set(self.waker()));
            inlet.bell.ring.store(self.ring.raw_fd(), Ordering::SeqCst);
        }
        self.seat = Some(seat);
    }

    /// Sends a connection, no operation of which is in flight, to the thread of `group`. Without
    /// room for it, it is closed.
    pub(super) fn send_parcel(&mut self, fd: OwnedFd, group: GroupId, mut received: Vec<u8>) {
        // A peer that is gone needs no further care.
        let Ok(Some(from)) = rustix::net::getpeername(&fd) else { return };
        let Ok(from) = SocketAddr::try_from(from) else { return };
        let outlets = self.seat.iter_mut().flat_map(|seat| &mut seat.outlets);
        let mut outlets = outlets.into_iter();
        let Some(outlet) = outlets.find(|outlet| outlet.group == group) else { return };
        // What was asked for ahead would be kept, too.
        received.shrink_to_fit();
        let bytes = received.len();
        // Counted before the other thread can take it out again; only this one adds.
        let queued_bytes = outlet.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let parcel = Parcel { fd, from, received };
        if queued_bytes > HANDOVERS_BYTES_MAX || outlet.queue.push(parcel).is_err() {
            // Dropped, and so closed: the peer sees the end of the stream, and tries again.
            outlet.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.stats.conns_refused += 1;
            return;
        }
        fence(Ordering::SeqCst);
        if outlet.bell.sleeps.swap(false, Ordering::SeqCst) {
            let bell = outlet.bell.clone();
            self.ring_bell(group, &bell);
        }
    }

    fn ring_bell(&mut self, group: GroupId, bell: &Bell) {
        let ring = bell.ring.load(Ordering::SeqCst);
        if ring == 0 || KernelVersion::running() < MESSAGES_WAKE_FROM {
            return nudge(bell);
        }
        let id = self.ops.insert(Op::Message { group });
        self.submit(id, opcode::MsgRingData::new(Fd(ring), 0, UNTRACKED, None).build());
    }

    /// A message has arrived at the other ring, or not.
    pub(super) fn complete_message(&mut self, id: OpId, result: i32) {
        let Op::Message { group } = self.ops.remove(id) else {
            unreachable!("the operation is a message")
        };
        if result < 0 {
            let outlets = self.seat.iter().flat_map(|seat| &seat.outlets);
            outlets.filter(|outlet| outlet.group == group).for_each(|outlet| nudge(&outlet.bell));
        }
    }

    /// Announces that this thread may sleep. Returns whether it must not: something has come.
    pub(super) fn announce_sleep(&mut self) -> bool {
        let Some(inlet) = self.seat.as_ref().and_then(|seat| seat.inlet.as_ref()) else {
            return false;
        };
        inlet.bell.sleeps.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        !inlet.queue.is_empty()
    }

    /// Takes in the connections that have come.
    pub(super) fn take_parcels(&mut self, events: &mut Vec<Event<RecvChunk>>) {
        let Some(mut seat) = self.seat.take() else { return };
        if let Some(inlet) = &mut seat.inlet {
            inlet.bell.sleeps.store(false, Ordering::Relaxed);
            // Bounded: what comes meanwhile is the next turn's.
            for _ in 0..HANDOVERS_MAX {
                let Some(Parcel { fd, from, received }) = inlet.queue.pop() else { break };
                inlet.queued_bytes.fetch_sub(received.len(), Ordering::Relaxed);
                match self.adopt_socket(fd) {
                    Some(conn) => events.push(Event::HandedOver { conn, from, received }),
                    None => self.stats.conns_refused += 1,
                }
            }
        }
        self.seat = Some(seat);
    }

    /// Hands `conn` over once its receive has ended; see [`crate::io::Net::hand_over`].
    pub(super) fn start_handover(&mut self, conn: ConnId, group: GroupId, received: Vec<u8>) {
        if received.len() > HANDOVER_BYTES_MAX {
            return self.refuse_handover(conn);
        }
        if self.sockets.prepare_handover(conn, group, received) {
            self.depart(conn);
        } else if let Some(receive) = self.sockets.cancel_receive(conn) {
            self.cancel(receive);
        }
    }

    /// More has been received on the connection than may go along: it ends.
    pub(super) fn refuse_handover(&mut self, conn: ConnId) {
        self.stats.conns_refused += 1;
        Net::close(self, conn);
    }

    /// Nothing is in flight on the connection any more: away with it.
    pub(super) fn depart(&mut self, conn: ConnId) {
        if let Some((fd, group, received)) = self.sockets.take_leaving(conn) {
            self.send_parcel(fd, group, received);
        }
    }
}

fn nudge(bell: &Bell) {
    if let Some(waker) = bell.waker.get() {
        waker.nudge();
    }
}
