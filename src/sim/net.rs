//! The network of the world: byte streams between hosts, as TCP gives them.
//!
//! What TCP permits may happen, and nothing else: bytes arrive late, in chunks of any size, or
//! not at all, and then the connection breaks, at any byte and at each end at its own time. Lost
//! packets are stalls. Bytes of one connection are never lost in the middle, doubled or
//! reordered; between connections there is no order. (Lost, doubled and reordered *messages* are
//! what the core's own chaos tests and the exhaustive explorer are for.)
//!
//! Driven by the world: commands in, happenings scheduled, deliveries out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::counters::{Counters, Hit};
use super::flows::Death;
use super::host::{Chunk, NetCommand};
use super::names::{Names, address_of};
use super::plan::FaultSet;
use super::time::{Schedule, Time};
use super::trace::HostId;
use super::world::Happening;
use crate::base::rng::Rng;
use crate::io::{CloseReason, ConnId, Event, LookupId, SendPart};

/// A connection request that got no answer is sent again after this time.
const CONNECT_RETRY: Duration = Duration::from_millis(1000);
/// Silence after which an idle end finds out that the other end is gone.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// The base of the wait before a lost packet is sent again.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// The numbers of accepted connections: above those that hosts give out.
const ACCEPTED_BASE: u64 = 1 << 60;

/// How the network behaves, apart from faults.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// The least time from host to host.
    pub latency_min: Duration,
    /// The usual most.
    pub latency_max: Duration,
    /// The largest chunk that arrives at once, in bytes.
    pub chunk_max: usize,
    /// Bytes under way per direction; more waits at the sender.
    pub capacity: usize,
    /// How long a sender waits for an acknowledgement before it gives the connection up.
    pub send_timeout: Duration,
    /// Lost packets per million.
    pub loss_ppm: u64,
    /// Refused connection attempts per million.
    pub refuse_ppm: u64,
}

/// What happens in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetHappening {
    /// The head of what flies to this end may arrive.
    Arrive(u64, usize),
    /// A connection request reaches its host.
    Connect(u64),
    /// The dialling end learns that the connection stands.
    Connected(u64),
    /// The dialling end learns that there will be none.
    Refused(u64),
    /// The sender towards this end has waited since then.
    SenderTimeout(u64, usize, Time),
    /// An end that has heard nothing probes the other one.
    Keepalive(u64, usize),
    /// A look-up is answered.
    LookedUp(u64),
    /// Look-ups find a host that has moved.
    Published(HostId, u8),
}

/// Something for a host.
#[derive(Debug)]
pub struct Delivery {
    /// Whose.
    pub host: HostId,
    /// What.
    pub event: Event<Chunk>,
}

#[derive(Debug)]
enum Flight {
    Bytes(Chunk),
    /// The other side has ended in good order.
    End,
    /// The other side is gone.
    Reset,
}

#[derive(Debug)]
struct End {
    host: HostId,
    conn: ConnId,
    /// The application holds it and has not been told of its end.
    open: bool,
    paused: bool,
    /// Its process is gone without a word.
    ghost: bool,
}

/// One direction: what is on its way to the end with the same index.
#[derive(Debug, Default)]
struct Pipe {
    unsent: VecDeque<u8>,
    /// Given back when everything has left.
    parts: Option<Vec<SendPart>>,
    flying: VecDeque<(Time, Flight)>,
    /// Arrived at a host that does not take it yet.
    waiting: VecDeque<Flight>,
    /// Bytes sent and not acknowledged.
    inflight: usize,
    /// Of these, taken by the receiver while acknowledgements could not pass.
    unacknowledged: usize,
    /// Since when nothing gets through.
    held_since: Option<Time>,
    /// An arrival is scheduled.
    armed: bool,
    /// An end or a reset has been queued: nothing follows it.
    ended: bool,
}

#[derive(Debug)]
struct Conn {
    /// The dialling end, then the accepting one.
    ends: [End; 2],
    pipes: [Pipe; 2],
    connected: bool,
    /// Somebody has the address that was dialled.
    is_there: bool,
    /// Towards which end nothing gets through any more, and how.
    dead: [Option<Death>; 2],
}

/// The network.
pub struct Network {
    options: NetOptions,
    rng: Rng,
    hosts: usize,
    /// Of these, the first are nodes.
    nodes: usize,
    /// Where the hosts are.
    pub(super) names: Names,
    /// Look-ups under way: whose, and what will be found.
    lookups: BTreeMap<u64, (HostId, LookupId, io::Result<Vec<SocketAddr>>)>,
    /// What was hit by them since this was last taken.
    pub(super) lookup_hits: Counters,
    conns: BTreeMap<u64, Conn>,
    by_id: BTreeMap<ConnId, (u64, usize)>,
    next_key: u64,
    listening: BTreeSet<HostId>,
    /// Hosts without power: nothing answers.
    dark: BTreeSet<HostId>,
    /// Hosts whose process does not run at the moment, but whose kernel does.
    frozen: BTreeSet<HostId>,
    /// How many cuts lie on each direction, `from * hosts + to`.
    cuts: Vec<u32>,
    /// What each direction takes longer.
    extra: Vec<Duration>,
    out: Vec<Delivery>,
}

type Queue = Schedule<Happening>;

impl Network {
    /// A network of `hosts` hosts, the first of which are nodes; nobody is connected.
    pub fn new(options: NetOptions, nodes: usize, hosts: usize, seed: u64, names: u64) -> Network {
        Network {
            options,
            rng: Rng::new(seed),
            hosts,
            nodes,
            names: Names::new(hosts, names),
            lookups: BTreeMap::new(),
            lookup_hits: Counters::default(),
            conns: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_key: 0,
            listening: BTreeSet::new(),
            dark: BTreeSet::new(),
            frozen: BTreeSet::new(),
            cuts: vec![0; hosts * hosts],
            extra: vec![Duration::ZERO; hosts * hosts],
            out: Vec::new(),
        }
    }

    /// Takes what has been delivered.
    pub fn take_deliveries(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.out)
    }

    /// Hands the list of [`Network::take_deliveries`] back for reuse.
    pub fn give_back(&mut self, mut list: Vec<Delivery>) {
        list.clear();
        if self.out.is_empty() {
            self.out = list;
        }
    }

    fn link(&self, from: HostId, to: HostId) -> usize {
        usize::from(from.0) * self.hosts + usize::from(to.0)
    }

    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cuts[self.link(from, to)] > 0
    }

    fn latency(&mut self, from: HostId, to: HostId) -> Duration {
        let usual = self.rng.between(self.options.latency_min, self.options.latency_max);
        usual + self.extra[self.link(from, to)]
    }

    // ---- what hosts ask for -----------------------------------------------------------------

    /// Carries out a command of a host.
    pub fn command(&mut self, queue: &mut Queue, host: HostId, command: NetCommand) {
        match command {
            NetCommand::LookUp(lookup, name) => self.look_up(queue, host, lookup, &name),
            NetCommand::Connect(conn, address) => self.connect(queue, host, conn, address),
            NetCommand::Send(conn, parts) => self.send(queue, conn, parts),
            NetCommand::Pause(conn) => {
                if let Some((key, side)) = self.by_id.get(&conn).copied() {
                    self.conn_mut(key).ends[side].paused = true;
                }
            }
            NetCommand::Resume(conn) => {
                if let Some((key, side)) = self.by_id.get(&conn).copied() {
                    self.conn_mut(key).ends[side].paused = false;
                    self.take_waiting(queue, key, side);
                }
            }
            NetCommand::Close(conn) => self.close(queue, conn),
        }
    }

    fn conn_mut(&mut self, key: u64) -> &mut Conn {
        self.conns.get_mut(&key).expect("an end belongs to a connection")
    }

    fn look_up(&mut self, queue: &mut Queue, host: HostId, lookup: LookupId, name: &str) {
        let (after, addresses) = self.names.look_up(name, self.nodes, &mut self.lookup_hits);
        self.next_key += 1;
        self.lookups.insert(self.next_key, (host, lookup, addresses));
        queue.after(after, Happening::Net(NetHappening::LookedUp(self.next_key)));
    }

    fn looked_up(&mut self, key: u64) {
        let (host, lookup, addresses) = self.lookups.remove(&key).expect("it is answered once");
        self.out.push(Delivery { host, event: Event::LookedUp { lookup, addresses } });
    }

    fn connect(&mut self, queue: &mut Queue, host: HostId, conn: ConnId, address: SocketAddr) {
        self.next_key += 1;
        let key = self.next_key;
        let (to, is_there) = self.names.lead(address);
        let end = |host, conn| End { host, conn, open: true, paused: false, ghost: false };
        let mut ends = [end(host, conn), end(to, ConnId(ACCEPTED_BASE + key))];
        ends[1].open = false;
        let pipes = Default::default();
        self.conns.insert(key, Conn { ends, pipes, connected: false, is_there, dead: [None; 2] });
        self.by_id.insert(conn, (key, 0));
        let delay = self.latency(host, to);
        queue.after(delay, Happening::Net(NetHappening::Connect(key)));
    }

    fn send(&mut self, queue: &mut Queue, conn: ConnId, parts: Vec<SendPart>) {
        let Some((key, side)) = self.by_id.get(&conn).copied() else { return };
        let pipe = &mut self.conn_mut(key).pipes[1 - side];
        parts.iter().for_each(|part| pipe.unsent.extend(part.bytes()));
        pipe.parts = Some(parts);
        self.push(queue, key, 1 - side);
    }

    /// The application hangs up: what has left still arrives, then the end.
    fn close(&mut self, queue: &mut Queue, conn: ConnId) {
        let Some((key, side)) = self.by_id.remove(&conn) else { return };
        self.leave(queue, key, side, Flight::End);
    }

    /// This end is gone; the other one will hear `word` behind what has left.
    fn leave(&mut self, queue: &mut Queue, key: u64, side: usize, word: Flight) {
        let conn = self.conn_mut(key);
        conn.ends[side].open = false;
        let inward = &mut conn.pipes[side];
        (inward.waiting, inward.flying) = Default::default();
        let outward = &mut conn.pipes[1 - side];
        outward.unsent.clear();
        outward.parts = None;
        if conn.ends[1 - side].open && !conn.pipes[1 - side].ended {
            self.fly(queue, key, 1 - side, word);
        }
        self.forget(key);
    }

    /// Forgets a connection that nobody holds any more.
    fn forget(&mut self, key: u64) {
        let conn = &self.conns[&key];
        if conn.ends.iter().all(|end| !end.open) {
            for end in &conn.ends {
                self.by_id.remove(&end.conn);
            }
            self.conns.remove(&key);
        }
    }

    // ---- bytes on their way -----------------------------------------------------------------

    /// Lets as much of what waits at the sender leave as the path takes.
    fn push(&mut self, queue: &mut Queue, key: u64, to: usize) {
        let (chunk_max, capacity) = (self.options.chunk_max, self.options.capacity);
        loop {
            let pipe = &mut self.conns.get_mut(&key).expect("the caller has looked").pipes[to];
            let room = capacity.saturating_sub(pipe.inflight);
            let most = pipe.unsent.len().min(room).min(chunk_max);
            // As TCP does, wait for room for more than a few bytes.
            let whole = pipe.unsent.len().min(chunk_max).min(capacity / 2);
            if most == 0 || most < whole {
                break;
            }
            let count = 1 + self.rng.below(most as u64) as usize;
            // Mostly as much as fits, sometimes any part of it.
            let count = if self.rng.below(4) > 0 { most } else { count };
            let bytes: Chunk = pipe.unsent.drain(..count).collect();
            pipe.inflight += count;
            self.fly(queue, key, to, Flight::Bytes(bytes));
        }
        let conn = self.conn_mut(key);
        if conn.pipes[to].unsent.is_empty()
            && let Some(parts) = conn.pipes[to].parts.take()
        {
            let End { host, conn, .. } = conn.ends[1 - to];
            self.out.push(Delivery { host, event: Event::Sent { conn, parts } });
        }
    }

    fn fly(&mut self, queue: &mut Queue, key: u64, to: usize, flight: Flight) {
        let (from_host, to_host) = {
            let ends = &self.conns[&key].ends;
            (ends[1 - to].host, ends[to].host)
        };
        let mut delay = self.latency(from_host, to_host);
        let mut tries = 0;
        while tries < 4 && self.rng.below(1_000_000) < self.options.loss_ppm {
            delay += RETRANSMIT * (1 << tries);
            tries += 1;
        }
        let now = queue.now();
        let pipe = &mut self.conn_mut(key).pipes[to];
        let earliest = pipe.flying.back().map_or(now, |(at, _)| *at);
        pipe.ended |= !matches!(flight, Flight::Bytes(_));
        pipe.flying.push_back((earliest.max(now + delay), flight));
        self.arm(queue, key, to);
    }

    fn arm(&mut self, queue: &mut Queue, key: u64, to: usize) {
        let pipe = &mut self.conn_mut(key).pipes[to];
        if pipe.armed || pipe.held_since.is_some() {
            return;
        }
        if let Some((at, _)) = pipe.flying.front() {
            pipe.armed = true;
            queue.at(*at, Happening::Net(NetHappening::Arrive(key, to)));
        }
    }

    /// Something of the network happens.
    pub fn happen(&mut self, queue: &mut Queue, happening: NetHappening, hits: &mut Counters) {
        match happening {
            NetHappening::Arrive(key, to) => self.arrive(queue, key, to, hits),
            NetHappening::Connect(key) => self.connect_arrives(queue, key, hits),
            NetHappening::Connected(key) => self.connected(key),
            NetHappening::Refused(key) => self.refused(key),
            NetHappening::SenderTimeout(key, to, since) => {
                self.sender_timeout(queue, key, to, since, hits);
            }
            NetHappening::Keepalive(key, side) => self.keepalive(queue, key, side),
            NetHappening::LookedUp(key) => self.looked_up(key),
            NetHappening::Published(host, place) => self.names.publish(host, place),
        }
    }

    fn arrive(&mut self, queue: &mut Queue, key: u64, to: usize, hits: &mut Counters) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        conn.pipes[to].armed = false;
        let (from_host, to_host) = (conn.ends[1 - to].host, conn.ends[to].host);
        let now = queue.now();
        match conn.dead[to] {
            Some(Death::Swallowed) => return self.swallow(queue, key, to),
            Some(Death::Lost) => return self.hold(queue, key, to),
            None => {}
        }
        if self.is_cut(from_host, to_host) || self.dark.contains(&to_host) {
            return self.hold(queue, key, to);
        }
        while let Some(conn) = self.conns.get_mut(&key) {
            let pipe = &mut conn.pipes[to];
            if pipe.flying.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let (_, flight) = pipe.flying.pop_front().expect("looked at above");
            if conn.ends[to].ghost {
                hits.hit(Hit::HalfOpen);
                return self.break_end(key, 1 - to, io::ErrorKind::ConnectionReset);
            }
            if !conn.ends[to].open {
                // Nobody is there any more: the kernel says so to whoever still sends.
                if matches!(flight, Flight::Bytes(_)) {
                    return self.break_end(key, 1 - to, io::ErrorKind::ConnectionReset);
                }
                continue;
            }
            let is_held = conn.ends[to].paused || !pipe.waiting.is_empty();
            if is_held || self.frozen.contains(&to_host) {
                let conn = self.conns.get_mut(&key).expect("as above");
                conn.pipes[to].waiting.push_back(flight);
            } else {
                self.hand_over(queue, key, to, flight);
            }
        }
        if self.conns.contains_key(&key) {
            self.arm(queue, key, to);
        }
    }

    /// Gives a flight to the application at its end.
    fn hand_over(&mut self, queue: &mut Queue, key: u64, to: usize, flight: Flight) {
        let End { host, conn, .. } = self.conns[&key].ends[to];
        match flight {
            Flight::Bytes(chunk) => {
                let count = chunk.len();
                self.out.push(Delivery { host, event: Event::Received { conn, chunk } });
                self.acknowledge(queue, key, to, count);
            }
            Flight::End => self.end(key, to, CloseReason::Ended),
            Flight::Reset => {
                self.end(key, to, CloseReason::Failed(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }

    fn acknowledge(&mut self, queue: &mut Queue, key: u64, to: usize, count: usize) {
        let ends = &self.conns[&key].ends;
        let (from_host, to_host) = (ends[1 - to].host, ends[to].host);
        let is_lost = self.conns[&key].dead[1 - to] == Some(Death::Lost);
        if is_lost || self.is_cut(to_host, from_host) {
            self.conn_mut(key).pipes[to].unacknowledged += count;
            return self.await_answer(queue, key, to);
        }
        self.conn_mut(key).pipes[to].inflight -= count;
        self.push(queue, key, to);
    }

    /// What is due to this end is taken by something on the way, and acknowledged.
    fn swallow(&mut self, queue: &mut Queue, key: u64, to: usize) {
        let now = queue.now();
        let pipe = &mut self.conn_mut(key).pipes[to];
        while pipe.flying.front().is_some_and(|(at, _)| *at <= now) {
            let (_, flight) = pipe.flying.pop_front().expect("looked at above");
            pipe.inflight -= flight.size();
            if !matches!(flight, Flight::Bytes(_)) {
                // Whoever is left alone finds out only when it asks.
                queue.after(KEEPALIVE, Happening::Net(NetHappening::Keepalive(key, to)));
            }
        }
        self.push(queue, key, to);
        self.arm(queue, key, to);
    }

    /// Nothing gets through to this end any more.
    fn hold(&mut self, queue: &mut Queue, key: u64, to: usize) {
        let pipe = &mut self.conn_mut(key).pipes[to];
        pipe.held_since.get_or_insert(queue.now());
        self.await_answer(queue, key, to);
    }

    fn await_answer(&mut self, queue: &mut Queue, key: u64, to: usize) {
        let since = queue.now();
        let timeout = self.options.send_timeout;
        queue.after(timeout, Happening::Net(NetHappening::SenderTimeout(key, to, since)));
    }

    fn sender_timeout(
        &mut self,
        queue: &mut Queue,
        key: u64,
        to: usize,
        since: Time,
        hits: &mut Counters,
    ) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let pipe = &conn.pipes[to];
        let held = pipe.held_since.is_some_and(|held| held <= since);
        if !held && pipe.unacknowledged == 0 {
            return;
        }
        if conn.ends[1 - to].open {
            hits.hit(Hit::SenderTimeout);
            self.break_end(key, 1 - to, io::ErrorKind::TimedOut);
            if self.conns.contains_key(&key) {
                // The other end learns of it only when it asks.
                queue.after(KEEPALIVE, Happening::Net(NetHappening::Keepalive(key, to)));
            }
        }
    }

    fn keepalive(&mut self, queue: &mut Queue, key: u64, side: usize) {
        let Some(conn) = self.conns.get(&key) else { return };
        if !conn.ends[side].open || conn.ends[1 - side].open {
            return;
        }
        let reachable = !self.is_cut(conn.ends[side].host, conn.ends[1 - side].host)
            && !self.dark.contains(&conn.ends[1 - side].host);
        let kind = if reachable { io::ErrorKind::ConnectionReset } else { io::ErrorKind::TimedOut };
        let _ = queue;
        self.break_end(key, side, kind);
    }

    /// The application at this end is told that its connection has failed.
    fn break_end(&mut self, key: u64, side: usize, kind: io::ErrorKind) {
        self.end(key, side, CloseReason::Failed(kind.into()));
    }

    fn end(&mut self, key: u64, side: usize, reason: CloseReason) {
        let conn = self.conn_mut(key);
        let End { host, conn: id, open, .. } = conn.ends[side];
        if open {
            conn.ends[side].open = false;
            conn.pipes[side] = Pipe { ended: true, ..Pipe::default() };
            conn.pipes[1 - side].unsent.clear();
            conn.pipes[1 - side].parts = None;
            self.out.push(Delivery { host, event: Event::Closed { conn: id, reason } });
            self.by_id.remove(&id);
        }
        self.forget(key);
    }

    fn take_waiting(&mut self, queue: &mut Queue, key: u64, side: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(&key) else { return };
            if conn.ends[side].paused || self.frozen.contains(&conn.ends[side].host) {
                return;
            }
            let Some(flight) = conn.pipes[side].waiting.pop_front() else { return };
            self.hand_over(queue, key, side, flight);
        }
    }

    // ---- connecting -------------------------------------------------------------------------

    fn connect_arrives(&mut self, queue: &mut Queue, key: u64, hits: &mut Counters) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let (from, to) = (conn.ends[0].host, conn.ends[1].host);
        let unreachable = !conn.is_there
            || self.is_cut(from, to)
            || self.is_cut(to, from)
            || self.dark.contains(&to);
        if unreachable {
            hits.hit(Hit::ConnectLost);
            queue.after(CONNECT_RETRY, Happening::Net(NetHappening::Connect(key)));
            return;
        }
        let back = self.latency(to, from);
        let refused = self.rng.below(1_000_000) < self.options.refuse_ppm;
        if refused || !self.listening.contains(&to) {
            hits.hit(Hit::ConnectRefused);
            return queue.after(back, Happening::Net(NetHappening::Refused(key)));
        }
        let conn = self.conn_mut(key);
        conn.ends[1].open = true;
        let id = conn.ends[1].conn;
        self.by_id.insert(id, (key, 1));
        let event = Event::Accepted { conn: id, from: address_of(from) };
        self.out.push(Delivery { host: to, event });
        queue.after(back, Happening::Net(NetHappening::Connected(key)));
    }

    fn connected(&mut self, key: u64) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let End { host, conn: id, open, .. } = conn.ends[0];
        if open && !conn.connected {
            conn.connected = true;
            self.out.push(Delivery { host, event: Event::Connected { conn: id } });
        }
    }

    fn refused(&mut self, key: u64) {
        if self.conns.contains_key(&key) {
            self.break_end(key, 0, io::ErrorKind::ConnectionRefused);
        }
    }

    // ---- hosts ------------------------------------------------------------------------------

    /// The host's process listens, or does not.
    pub fn set_listening(&mut self, host: HostId, listening: bool) {
        match listening {
            true => drop(self.listening.insert(host)),
            false => drop(self.listening.remove(&host)),
        }
    }

    /// The host has power again.
    pub fn light(&mut self, queue: &mut Queue, host: HostId) {
        if self.dark.remove(&host) {
            self.release_holds(queue);
        }
    }

    /// The host's process has ended, and its kernel says so.
    pub fn process_ended(&mut self, queue: &mut Queue, host: HostId) {
        self.listening.remove(&host);
        self.frozen.remove(&host);
        for (key, side) in self.ends_of(host) {
            if self.conns.contains_key(&key) {
                let id = self.conns[&key].ends[side].conn;
                self.by_id.remove(&id);
                let word = if self.rng.below(2) == 0 { Flight::End } else { Flight::Reset };
                self.leave(queue, key, side, word);
            }
        }
    }

    /// The host has lost power: nobody says anything.
    pub fn power_lost(&mut self, queue: &mut Queue, host: HostId) {
        self.listening.remove(&host);
        self.frozen.remove(&host);
        self.dark.insert(host);
        for (key, side) in self.ends_of(host) {
            let Some(conn) = self.conns.get_mut(&key) else { continue };
            let id = conn.ends[side].conn;
            conn.ends[side].open = false;
            conn.ends[side].ghost = true;
            conn.pipes[side].waiting.clear();
            // What was on its way out has left; nothing follows.
            conn.pipes[1 - side].unsent.clear();
            conn.pipes[1 - side].parts = None;
            self.by_id.remove(&id);
            if conn.ends[1 - side].open {
                queue.after(KEEPALIVE, Happening::Net(NetHappening::Keepalive(key, 1 - side)));
            }
            self.forget(key);
        }
    }

    fn ends_of(&self, host: HostId) -> Vec<(u64, usize)> {
        let ends = self.conns.iter().flat_map(|(key, conn)| {
            conn.ends.iter().enumerate().map(move |(side, end)| (*key, side, end))
        });
        ends.filter(|(_, _, end)| end.host == host && end.open)
            .map(|(key, side, _)| (key, side))
            .collect()
    }

    /// The host's process stops running for a while, or goes on.
    pub fn set_frozen(&mut self, queue: &mut Queue, host: HostId, frozen: bool) {
        if frozen {
            self.frozen.insert(host);
        } else if self.frozen.remove(&host) {
            for (key, side) in self.ends_of(host) {
                self.take_waiting(queue, key, side);
            }
        }
    }

    // ---- faults -----------------------------------------------------------------------------

    /// Cuts a direction. Cuts add up.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        let link = self.link(from, to);
        self.cuts[link] += 1;
    }

    /// Takes one cut away.
    pub fn mend(&mut self, queue: &mut Queue, from: HostId, to: HostId) {
        let link = self.link(from, to);
        self.cuts[link] = self.cuts[link].checked_sub(1).expect("a cut is mended once");
        self.release_holds(queue);
    }

    /// What a direction takes longer from now on.
    pub fn slow(&mut self, from: HostId, to: HostId, extra: Duration) {
        let link = self.link(from, to);
        self.extra[link] = extra;
    }

    /// The connections between the first `nodes` hosts that stand and are not dead: each with its
    /// dialling and its accepting host.
    pub fn flows_between(&self, nodes: usize) -> Vec<(u64, HostId, HostId)> {
        let flows = self.conns.iter().map(|(key, conn)| (*key, conn));
        let alive = flows.filter(|(_, conn)| {
            let stands = conn.connected && conn.ends.iter().all(|end| end.open);
            let of_nodes = conn.ends.iter().all(|end| usize::from(end.host.0) < nodes);
            stands && of_nodes && conn.dead == [None; 2]
        });
        alive.map(|(key, conn)| (key, conn.ends[0].host, conn.ends[1].host)).collect()
    }

    /// The host has left its address: nothing gets through on what stands.
    pub fn forsake(&mut self, queue: &mut Queue, host: HostId) {
        for (key, side) in self.ends_of(host) {
            self.conn_mut(key).dead = [Some(Death::Lost); 2];
            // The other side finds out when it asks, where this one is gone.
            queue.after(KEEPALIVE, Happening::Net(NetHappening::Keepalive(key, 1 - side)));
        }
    }

    /// From now on nothing gets through a connection towards the ends where `dead` says so.
    pub fn silence(&mut self, key: u64, death: Death, dead: [bool; 2]) {
        self.conn_mut(key).dead = dead.map(|dead| dead.then_some(death));
    }

    /// Whether the connection is held by the host that dialled it.
    pub fn is_dialled(&self, key: u64) -> bool {
        self.conns.get(&key).is_some_and(|conn| conn.ends[0].open)
    }

    /// Whether a direction passes, and as fast as ever.
    pub fn is_clear(&self, from: HostId, to: HostId) -> bool {
        !self.is_cut(from, to) && self.extra[self.link(from, to)].is_zero()
    }

    /// No packet is lost and no attempt refused any more.
    pub fn calm(&mut self) {
        self.names.set_faults(FaultSet::NONE);
        self.options.loss_ppm = 0;
        self.options.refuse_ppm = 0;
    }

    fn release_holds(&mut self, queue: &mut Queue) {
        let keys: Vec<u64> = self.conns.keys().copied().collect();
        for (key, to) in keys.into_iter().flat_map(|key| [(key, 0), (key, 1)]) {
            self.release_hold(queue, key, to);
        }
    }

    fn release_hold(&mut self, queue: &mut Queue, key: u64, to: usize) {
        let Some(conn) = self.conns.get(&key) else { return };
        let (from_host, to_host) = (conn.ends[1 - to].host, conn.ends[to].host);
        let pipe = &conn.pipes[to];
        let (held, unacknowledged) = (pipe.held_since.is_some(), pipe.unacknowledged);
        let [forth_dies, back_dies] = [to, 1 - to].map(|end| conn.dead[end].is_some());
        let cut = self.is_cut(from_host, to_host) || self.dark.contains(&to_host);
        let forth = !cut && !forth_dies;
        if held && forth {
            // What was held is sent again when the sender's timer says so.
            let at = queue.now() + self.rng.between(Duration::ZERO, RETRANSMIT);
            let pipe = &mut self.conn_mut(key).pipes[to];
            pipe.held_since = None;
            pipe.flying.iter_mut().for_each(|(due, _)| *due = (*due).max(at));
            self.arm(queue, key, to);
        }
        if unacknowledged > 0 && !back_dies && !self.is_cut(to_host, from_host) {
            let pipe = &mut self.conn_mut(key).pipes[to];
            pipe.unacknowledged = 0;
            pipe.inflight -= unacknowledged;
            self.push(queue, key, to);
        }
    }

    /// Breaks one connection; with `mid`, somewhere within what is on its way. Returns whether
    /// there was one.
    pub fn reset_one(&mut self, queue: &mut Queue, mid: bool) -> bool {
        let standing: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.connected && conn.ends.iter().all(|end| end.open))
            .filter(|(_, conn)| !mid || conn.pipes.iter().any(|pipe| !pipe.flying.is_empty()))
            .map(|(key, _)| *key)
            .collect();
        if standing.is_empty() {
            return false;
        }
        let key = standing[self.rng.below(standing.len() as u64) as usize];
        for to in [0, 1] {
            let keep = self.rng.next_u64();
            let pipe = &mut self.conn_mut(key).pipes[to];
            let bytes: usize = pipe.flying.iter().map(|(_, flight)| flight.size()).sum();
            let keep = if mid { keep as usize % (bytes + 1) } else { bytes };
            cut_after(&mut pipe.flying, keep);
            pipe.unsent.clear();
            pipe.parts = None;
            if !pipe.ended {
                self.fly(queue, key, to, Flight::Reset);
            }
        }
        true
    }
}

impl Flight {
    fn size(&self) -> usize {
        match self {
            Flight::Bytes(bytes) => bytes.len(),
            Flight::End | Flight::Reset => 0,
        }
    }
}

/// Keeps the first `keep` bytes of what flies.
fn cut_after(flying: &mut VecDeque<(Time, Flight)>, mut keep: usize) {
    for (_, flight) in flying.iter_mut() {
        if let Flight::Bytes(bytes) = flight {
            bytes.truncate(keep);
            keep -= bytes.len().min(keep);
        }
    }
    flying.retain(|(_, flight)| !matches!(flight, Flight::Bytes(bytes) if bytes.is_empty()));
}

impl Network {
    /// Whom the connection leads to, if its number is one that the dialling end gave out and it
    /// still stands.
    pub fn dialled(&self, conn: ConnId) -> Option<HostId> {
        match self.by_id.get(&conn) {
            Some((key, 0)) => Some(self.conns[key].ends[1].host),
            _ => None,
        }
    }
}
