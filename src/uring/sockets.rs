//! The network half of [`Uring`]: listeners, connections, and the state machine of each.
//!
//! Called through the [`Net`] trait and by [`Uring`]'s dispatch. Guarantees: at most one receive
//! and one send in flight per connection (two could reorder or interleave its bytes); `Closed`
//! comes once, after all received bytes; a socket is closed only after the last completion of
//! its operations, so that none can hit a reused descriptor.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use crate::base::{GroupId, Instant};
use crate::io::{CloseReason, ConnId, Event, HANDOVER_BYTES_MAX, LookupId, Net, SendPart};

use super::ops::{IoVecs, Op, OpId};
use super::recv::{BUFFER_GROUP, RecvPool};
use super::ring::Completion;
use super::{ATTEMPTS_MAX, RecvChunk, Uring, UringOptions};

/// The pause before accepting again after the process ran out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The least number of starved receives that are armed again in one turn.
const REARM_MIN: usize = 16;

/// TCP keepalive: silence before the first probe, between probes, and probes before the end.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;

/// The bits of a [`ConnId`] that name its slot; the rest is its serial number.
const INDEX_BITS: u32 = 16;

/// A socket address as the kernel reads and writes it.
#[repr(C)]
pub(super) struct SocketAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

/// Where the kernel writes the peer's address on accept.
pub(super) struct AcceptState {
    address: SocketAddress,
}

/// A send in flight: the bytes, and where in them it stands.
pub(super) struct SendState {
    /// Owns what `iovecs` points to.
    parts: Vec<SendPart>,
    iovecs: IoVecs,
    /// The first of `iovecs` that is not wholly sent.
    first: usize,
    message: libc::msghdr,
}

/// What the receiving side of a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// Nothing in flight: paused, not yet connected, or over.
    Idle,
    /// Waits for a buffer to come back, in the queue of the starved.
    Starved,
    /// In flight.
    Armed(OpId),
    /// In flight, and the kernel has been asked to end it (pause, close).
    Cancelling(OpId),
}

struct Conn {
    id: ConnId,
    fd: OwnedFd,
    receiving: Receiving,
    connecting: Option<OpId>,
    sending: Option<OpId>,
    /// Kept between sends, so that sending allocates nothing.
    send_state: Option<Box<SendState>>,
    paused: bool,
    /// It goes to another thread once its receive has ended.
    leaving: Option<Box<Leaving>>,
    /// Sending failed: told as `Closed` once what was received before has been handed out.
    failed: Option<io::Error>,
    /// No event may follow: closed by this side, or `Closed` has been told.
    over: bool,
}

/// A connection on its way to another thread.
struct Leaving {
    group: GroupId,
    /// What was received on it, from its beginning on.
    received: Vec<u8>,
}

struct Listener {
    fd: OwnedFd,
    /// When to accept again after a failure.
    retry_at: Option<Instant>,
    state: Option<Box<AcceptState>>,
}

/// All sockets of one thread.
pub(super) struct Sockets {
    conns: Vec<Option<Conn>>,
    free: Vec<u16>,
    live: usize,
    max: usize,
    /// Never goes back: it makes each [`ConnId`] unique.
    next_serial: u64,
    listeners: Vec<Listener>,
    /// Connections whose receive found no buffer, first come first served.
    starved: VecDeque<ConnId>,
}

impl Sockets {
    pub fn new(max: usize) -> Sockets {
        Sockets {
            conns: Vec::new(),
            free: Vec::new(),
            live: 0,
            max,
            next_serial: 1,
            listeners: Vec::new(),
            starved: VecDeque::new(),
        }
    }

    /// Whether no connection is left, closing ones included.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// All connections, closing ones included.
    #[cfg(test)]
    pub fn all(&self) -> Vec<ConnId> {
        self.conns.iter().flatten().map(|conn| conn.id).collect()
    }

    /// When something must be done that no completion announces.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.listeners.iter().filter_map(|listener| listener.retry_at).min()
    }

    /// Whether receives wait to be armed although there are buffers: then the loop must not sleep.
    pub fn is_starved_in_vain(&self, recv: &RecvPool) -> bool {
        !self.starved.is_empty() && recv.available() > 0
    }

    fn take_id(&mut self, index: u16) -> ConnId {
        let serial = self.next_serial;
        self.next_serial += 1;
        assert!(serial < 1 << (64 - INDEX_BITS), "connection numbers do not run out");
        ConnId(serial << INDEX_BITS | u64::from(index))
    }

    /// Registers a socket, unless there are too many.
    fn insert(&mut self, fd: OwnedFd) -> Option<ConnId> {
        if self.live >= self.max {
            return None;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            (self.conns.len() - 1) as u16
        });
        let id = self.take_id(index);
        self.live += 1;
        self.conns[usize::from(index)] = Some(Conn {
            id,
            fd,
            receiving: Receiving::Idle,
            connecting: None,
            sending: None,
            send_state: None,
            paused: false,
            leaving: None,
            failed: None,
            over: false,
        });
        Some(id)
    }

    /// The connection, closing or not.
    fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let index = (id.0 & ((1 << INDEX_BITS) - 1)) as usize;
        self.conns.get_mut(index)?.as_mut().filter(|conn| conn.id == id)
    }

    /// The connection, if events of it may still come.
    fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.get(id).filter(|conn| !conn.over)
    }

    /// The connection of an operation in flight.
    fn of_op(&mut self, id: ConnId) -> &mut Conn {
        self.get(id).expect("a connection stays until the last completion of its operations")
    }

    /// Notes that a connection is for another thread. Returns whether it can go at once; otherwise
    /// when its receive has ended.
    pub fn prepare_handover(&mut self, id: ConnId, group: GroupId, received: Vec<u8>) -> bool {
        let Some(conn) = self.live(id) else { return false };
        assert!(conn.sending.is_none(), "a connection that is handed over has sent nothing");
        assert!(conn.connecting.is_none() && conn.leaving.is_none(), "it was accepted here");
        conn.paused = true;
        conn.leaving = Some(Box::new(Leaving { group, received }));
        matches!(conn.receiving, Receiving::Idle | Receiving::Starved)
    }

    /// The receive in flight on a connection that is to receive no more, to be cancelled.
    pub fn cancel_receive(&mut self, id: ConnId) -> Option<OpId> {
        let conn = self.live(id)?;
        let Receiving::Armed(op) = conn.receiving else { return None };
        conn.receiving = Receiving::Cancelling(op);
        Some(op)
    }

    /// Takes out a connection that leaves for another thread.
    pub fn take_leaving(&mut self, id: ConnId) -> Option<(OwnedFd, GroupId, Vec<u8>)> {
        let Leaving { group, received } = *self.live(id)?.leaving.take()?;
        let index = (id.0 & ((1 << INDEX_BITS) - 1)) as u16;
        let conn = self.conns[usize::from(index)].take().expect("it has just been looked at");
        self.free.push(index);
        self.live -= 1;
        Some((conn.fd, group, received))
    }

    /// Frees a connection that is over and has nothing in flight.
    fn release(&mut self, id: ConnId) {
        let Some(conn) = self.get(id) else { return };
        let receiving = matches!(conn.receiving, Receiving::Armed(_) | Receiving::Cancelling(_));
        let idle = !receiving && conn.connecting.is_none() && conn.sending.is_none();
        if conn.over && idle {
            let index = (id.0 & ((1 << INDEX_BITS) - 1)) as u16;
            self.conns[usize::from(index)] = None;
            self.free.push(index);
            self.live -= 1;
        }
    }
}

/// The operations on behalf of connections; each is one step of the state machine.
impl Uring {
    /// Takes over a connected stream socket (blocking mode): it receives from now on.
    pub(super) fn adopt_socket(&mut self, fd: OwnedFd) -> Option<ConnId> {
        let id = self.sockets.insert(fd)?;
        self.arm_receive(id);
        Some(id)
    }

    /// Arms what could not be armed earlier: accepts after their pause, receives whose buffers
    /// have come back.
    pub(super) fn rearm(&mut self) {
        let clock = super::read_clock;
        for index in 0..self.sockets.listeners.len() {
            if self.sockets.listeners[index].retry_at.is_some_and(|at| at <= clock()) {
                self.arm_accept(index);
            }
        }
        if self.sockets.starved.is_empty() || self.recv.available() == 0 {
            return;
        }
        // Not all at once: a few buffers would be fought for by every starved connection.
        let count = usize::from(self.recv.available()).max(REARM_MIN);
        for _ in 0..count {
            let Some(id) = self.sockets.starved.pop_front() else { break };
            let Some(conn) = self.sockets.live(id) else { continue };
            if conn.receiving == Receiving::Starved {
                conn.receiving = Receiving::Idle;
                if !conn.paused {
                    self.arm_receive(id);
                }
            }
        }
    }

    fn arm_accept(&mut self, listener: usize) {
        let entry = &mut self.sockets.listeners[listener];
        entry.retry_at = None;
        let fd = Fd(entry.fd.as_raw_fd());
        let mut state = entry.state.take().expect("one accept in flight per listener");
        state.address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let address: *mut libc::sockaddr_storage = &mut state.address.storage;
        let length: *mut libc::socklen_t = &mut state.address.length;
        let id = self.ops.insert(Op::Accept { listener, state });
        let accept = opcode::Accept::new(fd, address.cast(), length).flags(libc::SOCK_CLOEXEC);
        self.submit(id, accept.build());
    }

    pub(super) fn complete_accept(
        &mut self,
        id: OpId,
        result: i32,
        events: &mut Vec<Event<RecvChunk>>,
    ) {
        let Op::Accept { listener, state } = self.ops.remove(id) else {
            unreachable!("the operation is an accept")
        };
        let from = state.address.decode();
        self.sockets.listeners[listener].state = Some(state);
        if result < 0 {
            self.stats.accept_failures += 1;
            let resources = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
            if resources.contains(&-result) {
                // Trying at once would spin: connections must end first.
                let retry_at = self.now + ACCEPT_RETRY;
                self.sockets.listeners[listener].retry_at = Some(retry_at);
            } else {
                self.arm_accept(listener); // the peer gave up before it was accepted
            }
            return;
        }
        // SAFETY: the kernel has just opened this descriptor for us; nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(result) };
        self.arm_accept(listener);
        let Some(from) = from else { return };
        configure(&fd, &self.options);
        match self.sockets.insert(fd) {
            Some(conn) => {
                events.push(Event::Accepted { conn, from });
                self.arm_receive(conn);
            }
            // The descriptor is dropped: the peer sees the end of the stream.
            None => self.stats.conns_refused += 1,
        }
    }

    fn start_connect(&mut self, address: SocketAddr) -> io::Result<ConnId> {
        let full = || io::Error::other("too many connections");
        let fd = rustix::net::socket_with(
            family(&address),
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        configure(&fd, &self.options);
        let raw = Fd(fd.as_raw_fd());
        let Some(conn) = self.sockets.insert(fd) else {
            self.stats.conns_refused += 1;
            return Err(full());
        };
        let address = Box::new(SocketAddress::encode(&address));
        let (pointer, length) = (std::ptr::from_ref(&address.storage), address.length);
        let id = self.ops.insert(Op::Connect { conn, address });
        self.sockets.of_op(conn).connecting = Some(id);
        self.submit(id, opcode::Connect::new(raw, pointer.cast(), length).build());
        Ok(conn)
    }

    pub(super) fn complete_connect(
        &mut self,
        id: OpId,
        result: i32,
        events: &mut Vec<Event<RecvChunk>>,
    ) {
        let Op::Connect { conn, .. } = self.ops.remove(id) else {
            unreachable!("the operation is a connect")
        };
        let state = self.sockets.of_op(conn);
        state.connecting = None;
        if state.over {
            return self.sockets.release(conn);
        }
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            return self.tell_closed(conn, CloseReason::Failed(error), events);
        }
        events.push(Event::Connected { conn });
        if !self.sockets.of_op(conn).paused {
            self.arm_receive(conn);
        }
    }

    fn arm_receive(&mut self, id: ConnId) {
        let op = self.ops.insert(Op::Receive { conn: id });
        let conn = self.sockets.of_op(id);
        assert_eq!(conn.receiving, Receiving::Idle, "one receive in flight per connection");
        conn.receiving = Receiving::Armed(op);
        let fd = Fd(conn.fd.as_raw_fd());
        self.submit(op, opcode::RecvMulti::new(fd, BUFFER_GROUP).build());
    }

    /// A receive has brought bytes, the end, an error, or its own end.
    pub(super) fn complete_receive(
        &mut self,
        id: OpId,
        completion: Completion,
        events: &mut Vec<Event<RecvChunk>>,
    ) {
        let Op::Receive { conn } = *self.ops.get(id) else {
            unreachable!("the operation is a receive")
        };
        let (result, more) = (completion.result, cqueue::more(completion.flags));
        // Taken in any case, so that the buffer goes back even when the bytes are not wanted.
        let chunk = cqueue::buffer_select(completion.flags)
            .map(|buffer| self.recv.take(buffer, usize::try_from(result).unwrap_or(0)));
        let state = self.sockets.of_op(conn);
        let over = state.over;
        if let Some(chunk) = chunk.filter(|chunk| !over && !chunk.is_empty()) {
            match &mut state.leaving {
                Some(leaving) if leaving.received.len() + chunk.len() > HANDOVER_BYTES_MAX => {
                    self.refuse_handover(conn);
                }
                Some(leaving) => leaving.received.extend_from_slice(&chunk),
                None => events.push(Event::Received { conn, chunk }),
            }
        }
        let state = self.sockets.of_op(conn);
        let over = state.over;
        if more {
            // It goes on although it was cancelled. The cancel is on its way, or it has missed: the
            // kernel finds no receive that has bytes to deliver just then. So again, with each
            // delivery: one that misses would never be told, and a second one that finds nothing
            // does no harm. Without it a paused connection would be received from without end.
            if state.paused && !over && state.receiving == Receiving::Cancelling(id) {
                self.cancel(id);
            }
            return;
        }
        state.receiving = Receiving::Idle;
        self.ops.remove(id);
        if over {
            return self.sockets.release(conn);
        }
        if state.leaving.is_some() {
            // An end or a failure shows again where it goes.
            return self.depart(conn);
        }
        self.after_receive(conn, result, events);
    }

    /// A receive has ended with `result`: the next one, or the connection's end.
    fn after_receive(&mut self, id: ConnId, result: i32, events: &mut Vec<Event<RecvChunk>>) {
        let conn = self.sockets.of_op(id);
        match -result {
            0 => return self.tell_closed(id, CloseReason::Ended, events),
            // No buffer was left; the bytes stay in the socket.
            libc::ENOBUFS => {
                self.stats.recv_starved += 1;
                conn.receiving = Receiving::Starved;
                self.sockets.starved.push_back(id);
                return;
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            error if error > 0 => {
                let error = io::Error::from_raw_os_error(error);
                return self.tell_closed(id, CloseReason::Failed(error), events);
            }
            _ => {} // bytes: handed out before
        }
        if !conn.paused {
            self.arm_receive(id);
        } else if let Some(error) = conn.failed.take() {
            self.tell_closed(id, CloseReason::Failed(error), events);
        }
    }

    /// Tells that a connection is gone, once, and ends what is in flight on it.
    fn tell_closed(&mut self, id: ConnId, reason: CloseReason, events: &mut Vec<Event<RecvChunk>>) {
        let conn = self.sockets.of_op(id);
        assert!(!conn.over, "a connection ends once");
        // What made sending fail came first and says more than the end it led to.
        let reason = conn.failed.take().map_or(reason, CloseReason::Failed);
        events.push(Event::Closed { conn: id, reason });
        self.end(id);
    }

    /// Shuts the socket down and cancels its operations; memory stays until their completions.
    fn end(&mut self, id: ConnId) {
        let conn = self.sockets.of_op(id);
        conn.over = true;
        let receiving = match conn.receiving {
            Receiving::Armed(op) => {
                conn.receiving = Receiving::Cancelling(op);
                Some(op)
            }
            _ => None,
        };
        let ops = [receiving, conn.sending, conn.connecting];
        shutdown(&conn.fd);
        for op in ops.into_iter().flatten() {
            self.cancel(op);
        }
        self.sockets.release(id);
    }

    fn submit_send(&mut self, id: OpId) {
        let Op::Send { conn, state } = self.ops.get(id) else {
            unreachable!("the operation is a send")
        };
        state.message.msg_iov = state.iovecs[state.first..].as_mut_ptr();
        state.message.msg_iovlen = state.iovecs.len() - state.first;
        #[cfg(test)]
        {
            state.message.msg_iovlen = self.faults.shorten(state.message.msg_iovlen);
        }
        let message: *const libc::msghdr = &state.message;
        let fd = Fd(self.sockets.of_op(*conn).fd.as_raw_fd());
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        self.submit(id, opcode::SendMsg::new(fd, message).flags(flags).build());
    }

    pub(super) fn complete_send(
        &mut self,
        id: OpId,
        result: i32,
        events: &mut Vec<Event<RecvChunk>>,
    ) {
        let attempt = self.ops.attempt(id);
        let Op::Send { conn, state } = self.ops.get(id) else {
            unreachable!("the operation is a send")
        };
        let (conn, over) = (*conn, self.sockets.of_op(*conn).over);
        let again = matches!(-result, libc::EINTR | libc::EAGAIN) && attempt <= ATTEMPTS_MAX;
        let unfinished = if result >= 0 { !state.advance(result as usize) } else { again };
        if unfinished && !over {
            self.stats.retries += u64::from(again);
            return self.submit_send(id);
        }
        let Op::Send { mut state, .. } = self.ops.remove(id) else { unreachable!("checked above") };
        let parts = std::mem::take(&mut state.parts);
        state.iovecs.clear();
        let connection = self.sockets.of_op(conn);
        connection.sending = None;
        connection.send_state = Some(state);
        if over {
            return self.sockets.release(conn);
        }
        if result >= 0 {
            events.push(Event::Sent { conn, parts });
        } else {
            self.fail_send(conn, io::Error::from_raw_os_error(-result), events);
        }
    }

    /// Sending has failed. What the peer sent before must still be handed out, so the
    /// connection ends by its receiving side, which the shutdown brings to its end.
    fn fail_send(&mut self, id: ConnId, error: io::Error, events: &mut Vec<Event<RecvChunk>>) {
        let conn = self.sockets.of_op(id);
        shutdown(&conn.fd);
        conn.failed = Some(error);
        if conn.receiving == Receiving::Idle {
            // Paused: nobody reads on, so there is nothing to wait for.
            self.tell_closed(id, CloseReason::Ended, events);
        }
    }
}

impl SendState {
    fn new() -> Box<SendState> {
        // SAFETY: a message header of zeros and null pointers is valid.
        let message = unsafe { std::mem::zeroed() };
        Box::new(SendState { parts: Vec::new(), iovecs: Vec::new(), first: 0, message })
    }

    fn load(&mut self, parts: Vec<SendPart>) {
        self.iovecs.clear();
        self.first = 0;
        for part in &parts {
            let bytes = part.bytes();
            if !bytes.is_empty() {
                let iov_base = bytes.as_ptr().cast_mut().cast();
                self.iovecs.push(libc::iovec { iov_base, iov_len: bytes.len() });
            }
        }
        self.parts = parts;
    }

    /// Passes over `count` sent bytes; whether all have been sent now.
    fn advance(&mut self, mut count: usize) -> bool {
        while let Some(entry) = self.iovecs.get_mut(self.first) {
            if count < entry.iov_len {
                entry.iov_base = entry.iov_base.cast::<u8>().wrapping_add(count).cast();
                entry.iov_len -= count;
                return false;
            }
            count -= entry.iov_len;
            self.first += 1;
        }
        assert_eq!(count, 0, "the kernel sends no more than it was given");
        true
    }
}

impl Net for Uring {
    type Chunk = RecvChunk;

    fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let (stream, cloexec) = (SocketType::STREAM, SocketFlags::CLOEXEC);
        let fd = rustix::net::socket_with(family(&address), stream, cloexec, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // Inherited by accepted sockets, and only effective on the window before listening.
        set_buffers(&fd, &self.options);
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, self.options.listen_backlog)?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
        let state = Some(Box::new(AcceptState { address: SocketAddress::empty() }));
        self.sockets.listeners.push(Listener { fd, retry_at: None, state });
        self.arm_accept(self.sockets.listeners.len() - 1);
        Ok(bound)
    }

    fn look_up(&mut self, name: &str) -> LookupId {
        self.start_look_up(name)
    }

    fn connect(&mut self, address: SocketAddr) -> ConnId {
        self.start_connect(address).unwrap_or_else(|error| {
            // An id of no slot: nothing is open under it.
            let conn = self.sockets.take_id(u16::MAX);
            let reason = CloseReason::Failed(error);
            self.deferred.push(Event::Closed { conn, reason });
            conn
        })
    }

    /// A send on a connection that is gone is dropped: its `Closed` is on the way or was told.
    fn send(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        assert!(parts.len() <= Self::SEND_PARTS_MAX, "{} parts in one send", parts.len());
        let Some(state) = self.sockets.live(conn) else { return };
        assert!(state.sending.is_none(), "one send in flight per connection");
        assert!(state.connecting.is_none(), "the connection stands before it sends");
        if state.failed.is_some() {
            return;
        }
        let mut send_state = state.send_state.take().unwrap_or_else(SendState::new);
        send_state.load(parts);
        assert!(!send_state.iovecs.is_empty(), "a send has bytes");
        let id = self.ops.insert(Op::Send { conn, state: send_state });
        self.sockets.of_op(conn).sending = Some(id);
        self.submit_send(id);
    }

    /// When a send fails while the connection is paused, `Closed` comes at once: bytes that the
    /// kernel still holds are dropped with the connection.
    fn pause(&mut self, conn: ConnId) {
        let Some(state) = self.sockets.live(conn) else { return };
        state.paused = true;
        if let Receiving::Armed(op) = state.receiving {
            state.receiving = Receiving::Cancelling(op);
            self.cancel(op);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(state) = self.sockets.live(conn) else { return };
        state.paused = false;
        // While the cancelled receive is still ending, its completion arms the next one: two at
        // once could hand bytes out in the wrong order.
        if state.receiving == Receiving::Idle && state.connecting.is_none() {
            self.arm_receive(conn);
        }
    }

    fn hand_over(&mut self, conn: ConnId, group: GroupId, received: Vec<u8>) {
        self.start_handover(conn, group, received);
    }

    fn close(&mut self, conn: ConnId) {
        self.deferred.retain(
            |event| !matches!(event, Event::Closed { conn: closed, .. } if *closed == conn),
        );
        if self.sockets.live(conn).is_some() {
            self.end(conn);
        }
    }
}

/// The socket options of every connection. Failures are ignored: each is an improvement, and a
/// kernel or socket type without it still works.
fn configure(fd: &OwnedFd, options: &UringOptions) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_tcp_user_timeout(fd, options.send_timeout.as_millis() as u32);
    let _ = sockopt::set_socket_keepalive(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(fd, KEEPALIVE_COUNT);
    // bbr paces: on loopback it streams at a sixth of cubic's rate with six times the CPU.
    if sockopt::tcp_congestion(fd).is_ok_and(|name| name == "bbr") {
        let _ = sockopt::set_tcp_congestion(fd, "cubic");
    }
    set_buffers(fd, options);
}

fn set_buffers(fd: &OwnedFd, options: &UringOptions) {
    if let Some(bytes) = options.send_buffer_bytes {
        let _ = sockopt::set_socket_send_buffer_size(fd, bytes);
    }
    if let Some(bytes) = options.recv_socket_bytes {
        let _ = sockopt::set_socket_recv_buffer_size(fd, bytes);
    }
}

/// Ends both directions; a socket that is not (or no longer) connected is fine.
fn shutdown(fd: &OwnedFd) {
    let _ = rustix::net::shutdown(fd.as_fd(), Shutdown::Both);
}

/// Closes a descriptor that the kernel has opened for an operation nobody waits for any more.
pub(super) fn close_raw(fd: RawFd) {
    // SAFETY: the completion has just given this descriptor to us; nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

impl SocketAddress {
    fn empty() -> SocketAddress {
        // SAFETY: an address of zeros is valid (family "unspecified").
        SocketAddress { storage: unsafe { std::mem::zeroed() }, length: 0 }
    }

    fn encode(address: &SocketAddr) -> SocketAddress {
        let mut encoded = SocketAddress::empty();
        let storage: *mut libc::sockaddr_storage = &mut encoded.storage;
        // SAFETY: `sockaddr_storage` is large enough and aligned for both kinds of address.
        unsafe {
            match address {
                SocketAddr::V4(v4) => {
                    let raw = &mut *storage.cast::<libc::sockaddr_in>();
                    raw.sin_family = libc::AF_INET as libc::sa_family_t;
                    raw.sin_port = v4.port().to_be();
                    raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                    encoded.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                }
                SocketAddr::V6(v6) => {
                    let raw = &mut *storage.cast::<libc::sockaddr_in6>();
                    raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    raw.sin6_port = v6.port().to_be();
                    raw.sin6_flowinfo = v6.flowinfo();
                    raw.sin6_scope_id = v6.scope_id();
                    raw.sin6_addr.s6_addr = v6.ip().octets();
                    encoded.length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                }
            }
        }
        encoded
    }

    /// The address, if it is one of TCP's.
    fn decode(&self) -> Option<SocketAddr> {
        let storage: *const libc::sockaddr_storage = &self.storage;
        // SAFETY: the family says which of the two the storage holds; it is large enough and
        // aligned for both.
        unsafe {
            match i32::from(self.storage.ss_family) {
                libc::AF_INET => {
                    let raw = &*storage.cast::<libc::sockaddr_in>();
                    let ip = std::net::Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                    Some((ip, u16::from_be(raw.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let raw = &*storage.cast::<libc::sockaddr_in6>();
                    let ip = std::net::Ipv6Addr::from(raw.sin6_addr.s6_addr);
                    Some((ip, u16::from_be(raw.sin6_port)).into())
                }
                _ => None,
            }
        }
    }
}
