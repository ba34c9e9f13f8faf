//! A client of the world: the production protocol half over the simulated network.
//!
//! It keeps several operations in flight on one connection, follows hints to the leader, gives up
//! on answers that take too long, reconnects, and notes everything it saw in the history. An
//! append is sent again only after an answer that says it had no effect; so no value may ever
//! appear twice.

use std::time::Duration;

use super::counters::{Counters, Hit};
use super::history::{History, Kind, Outcome, ValueId};
use super::host::{Chunk, Port};
use super::net::address_of;
use super::plan::Workload;
use super::time::Time;
use super::trace::HostId;
use crate::base::records::Records;
use crate::base::rng::Rng;
use crate::base::{AppendTerms, ClusterId, LogId, NodeId, Position};
use crate::client::connection::{ClientConnection, Incoming, ReadAsk, Response};
use crate::io::{ConnId, Event, SendPart};
use crate::wire::{ErrorCode, ReadLevel};

/// A dial or greeting that takes longer is given up.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause before the next node is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// The pause before an operation is sent again that had no effect.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// The most records asked for in one read.
const READ_RECORDS_MAX: u64 = 40;

/// An operation in flight or waiting to be sent again.
#[derive(Debug)]
struct Call {
    /// Its place in the history.
    index: usize,
    /// Sent again not before.
    not_before: Time,
    tries: u32,
}

/// A logical process: one operation at a time.
#[derive(Debug)]
struct Slot {
    /// The next operation starts not before.
    next_at: Time,
    call: Option<Call>,
    /// When the answer to the call in flight is given up; `None` while it waits to be sent.
    deadline: Option<Time>,
}

struct Link {
    conn: ConnId,
    target: usize,
    protocol: ClientConnection<usize>,
    since: Time,
    sending: bool,
    connected: bool,
}

/// What a client needs of the world.
pub struct Around<'a> {
    /// The time.
    pub now: Time,
    /// Where it notes what it saw.
    pub history: &'a mut History,
    /// What was hit.
    pub hits: &'a mut Counters,
}

/// One client.
pub struct SimClient {
    id: u16,
    cluster: ClusterId,
    nodes: usize,
    workload: Workload,
    rng: Rng,
    /// Its end of the network.
    pub port: Port,
    link: Option<Link>,
    reconnect_at: Time,
    /// The node to try next.
    target: usize,
    /// A better target has been named: move once nothing is in flight.
    moving: bool,
    slots: Vec<Slot>,
    next_value: u32,
    operations_left: u64,
    /// The highest tail it has seen.
    tail_seen: u64,
    /// Tails seen on this connection, to be monotonic.
    tail_of_link: Position,
    /// The first thing that no honest server does.
    pub complaint: Option<String>,
    /// Appends that have been acknowledged, for the liveness phase.
    pub acknowledged: u64,
}

impl SimClient {
    /// The `index`th client, living at `host`.
    pub fn new(
        index: usize,
        host: HostId,
        cluster: ClusterId,
        nodes: usize,
        workload: Workload,
        operations_max: u64,
        seed: u64,
    ) -> SimClient {
        let mut rng = Rng::new(seed);
        let free = || Slot { next_at: Time::default(), call: None, deadline: None };
        SimClient {
            id: index as u16 + 1,
            cluster,
            nodes,
            target: rng.below(nodes as u64) as usize,
            slots: (0..workload.inflight).map(|_| free()).collect(),
            workload,
            rng,
            port: Port::new(host),
            link: None,
            reconnect_at: Time::default(),
            moving: false,
            next_value: 1,
            operations_left: operations_max,
            tail_seen: 0,
            tail_of_link: Position(0),
            complaint: None,
            acknowledged: 0,
        }
    }

    /// Goes on with an endless, modest workload and no wish to stop: the liveness phase.
    pub fn set_workload(&mut self, workload: Workload, operations_max: u64) {
        self.workload = Workload { inflight: self.workload.inflight, ..workload };
        self.operations_left = operations_max;
    }

    /// Does what is due, and returns when it wants to be called again.
    pub fn step(&mut self, around: &mut Around<'_>) -> Time {
        let now = around.now;
        self.give_up_late(around);
        let must_move = self.moving && self.slots.iter().all(|slot| slot.deadline.is_none());
        if must_move {
            self.hang_up(around);
        }
        if self.link.is_none() && self.reconnect_at <= now {
            self.connect(now);
        }
        self.submit(around);
        self.flush();
        self.next_step(now)
    }

    fn next_step(&self, now: Time) -> Time {
        let mut next = now + Duration::from_secs(1);
        if let Some(link) = &self.link
            && !link.protocol.is_ready()
        {
            next = next.min(link.since + GREETING_TIMEOUT);
        } else if self.link.is_none() {
            next = next.min(self.reconnect_at);
        }
        for slot in &self.slots {
            let due = match (&slot.call, slot.deadline) {
                (_, Some(deadline)) => deadline,
                (Some(call), None) => call.not_before,
                (None, None) => slot.next_at,
            };
            // What waits for the connection is looked at when that stands.
            if due > now {
                next = next.min(due);
            }
        }
        next.max(now + Duration::from_micros(100))
    }

    fn connect(&mut self, now: Time) {
        let target = self.target;
        let conn = self.port.connect(address_of(HostId(target as u16)));
        // Half of the clients state the cluster they mean.
        let cluster = Some(self.cluster).filter(|_| self.id.is_multiple_of(2));
        let inflight = self.slots.len().max(1);
        let protocol = ClientConnection::new(cluster, inflight);
        self.tail_of_link = Position(0);
        self.link =
            Some(Link { conn, target, protocol, since: now, sending: false, connected: false });
    }

    /// Drops the connection, as a client that dies does.
    pub fn drop_connection(&mut self, around: &mut Around<'_>) -> bool {
        let stands = self.link.is_some();
        self.hang_up(around);
        stands
    }

    fn hang_up(&mut self, around: &mut Around<'_>) {
        if let Some(link) = &self.link {
            let conn = link.conn;
            self.port.close(conn);
        }
        self.link_ended(around);
    }

    /// The connection is gone: the outcome of what was in flight is unknown.
    fn link_ended(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        let Some(mut link) = self.link.take() else { return };
        let open: Vec<usize> = link.protocol.drain().collect();
        for slot in open {
            // A slot whose patience ended before has gone on already.
            if self.slots[slot].deadline.is_some() {
                self.end_call(slot, now, around);
            }
        }
        if !self.moving {
            self.target = self.rng.below(self.nodes as u64) as usize;
        }
        self.moving = false;
        self.reconnect_at = now + self.rng.between(Duration::ZERO, RECONNECT_PAUSE * 2);
    }

    /// The outcome stays as the history has it; the process goes on.
    fn end_call(&mut self, slot: usize, now: Time, around: &mut Around<'_>) {
        let pause = self.rng.between(Duration::ZERO, self.workload.think_max);
        let call = self.slots[slot].call.take().expect("only a call ends");
        let operation = &around.history.operations[call.index];
        if matches!(operation.kind, Kind::Append { .. }) {
            around.hits.hit(match operation.outcome {
                Outcome::Ok(_) => Hit::AppendAcked,
                Outcome::Failed(_) => Hit::AppendFailed,
                Outcome::Unknown => Hit::AppendUnknown,
            });
        }
        self.slots[slot] = Slot { next_at: now + pause, call: None, deadline: None };
    }

    /// A late answer, or a greeting that does not come, ends the connection.
    fn give_up_late(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        let Some(link) = &self.link else { return };
        let greeting = !link.protocol.is_ready() && now.since(link.since) >= GREETING_TIMEOUT;
        let late = self.slots.iter().any(|slot| slot.deadline.is_some_and(|due| due <= now));
        if greeting || late {
            self.hang_up(around);
        }
    }

    fn submit(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        if self.moving || !self.link.as_ref().is_some_and(|link| link.protocol.is_ready()) {
            return;
        }
        for slot in 0..self.slots.len() {
            let state = &self.slots[slot];
            if state.deadline.is_some() {
                continue;
            }
            let due = state.call.as_ref().map_or(state.next_at, |call| call.not_before);
            if due > now || (state.call.is_none() && self.operations_left == 0) {
                continue;
            }
            if !self.link.as_ref().is_some_and(|link| link.protocol.can_submit()) {
                return;
            }
            if self.slots[slot].call.is_none() {
                self.operations_left -= 1;
                let index = self.invent(slot, around);
                self.slots[slot].call = Some(Call { index, not_before: now, tries: 0 });
            }
            self.send(slot, around);
        }
    }

    /// Makes up the next operation of a process.
    fn invent(&mut self, slot: usize, around: &mut Around<'_>) -> usize {
        let rng = &mut self.rng;
        let kind = if rng.below(100) < self.workload.append_percent {
            let records = 1 + rng.below(self.workload.records_max) as u32;
            let size = 1 + rng.below(self.workload.record_bytes_max as u64) as usize;
            let first = ValueId { client: self.id, number: self.next_value };
            self.next_value += records;
            Kind::Append { first, records, size, position: None }
        } else if rng.below(4) == 0 {
            Kind::Tail { level: pick_level(rng), tail: Position(0) }
        } else {
            // Old records, recent ones, and ones that are not there yet.
            let tail = self.tail_seen;
            let from = match rng.below(4) {
                0 => rng.below(tail + 1),
                1 => tail.saturating_sub(rng.below(20)),
                _ => tail + rng.below(2),
            };
            let records_max = 1 + rng.below(READ_RECORDS_MAX) as u32;
            let (from, tail) = (Position(from), Position(0));
            let level = pick_level(rng);
            Kind::Read { from, records_max, level, values: Vec::new(), tail }
        };
        let process = u32::from(self.id) * 1000 + slot as u32;
        around.history.invoke(process, around.now, kind)
    }

    fn send(&mut self, slot: usize, around: &mut Around<'_>) {
        let call = self.slots[slot].call.as_mut().expect("the caller has made it");
        call.tries += 1;
        let operation = &around.history.operations[call.index];
        let link = self.link.as_mut().expect("the caller has looked");
        let log = LogId(0);
        let sent = match &operation.kind {
            Kind::Append { first, records, size, .. } => {
                let records: Vec<Vec<u8>> = (0..*records)
                    .map(|index| ValueId { number: first.number + index, ..*first }.record(*size))
                    .collect();
                link.protocol.append(slot, log, AppendTerms::default(), &records)
            }
            Kind::Read { from, records_max, level, .. } => {
                let wait_ms = if self.rng.below(2) == 0 { 0 } else { self.rng.below(300) as u32 };
                let bytes_max = if self.rng.below(3) == 0 { 500 } else { 0 };
                let (from, records_max) = (*from, *records_max);
                let level = *level;
                let ask = ReadAsk { log, from, records_max, bytes_max, level, wait_ms };
                if wait_ms > 0 {
                    around.hits.hit(Hit::LongPoll);
                }
                link.protocol.read(slot, &ask)
            }
            Kind::Tail { level, .. } => link.protocol.tail(slot, log, *level),
        };
        match sent {
            Ok(_) => self.slots[slot].deadline = Some(around.now + self.workload.timeout),
            Err((_, error)) => {
                self.complaint.get_or_insert(format!("a request is not taken: {error}"));
            }
        }
    }

    fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        if link.connected && !link.sending && link.protocol.output_size() > 0 {
            link.sending = true;
            let (conn, bytes) = (link.conn, link.protocol.take_output(Vec::new()));
            self.port.send(conn, vec![SendPart::Bytes(bytes)]);
        }
    }

    /// Something has been delivered. The caller lets the client step afterwards.
    pub fn on_event(&mut self, event: Event<Chunk>, around: &mut Around<'_>) {
        self.port.delivered(&event);
        match event {
            Event::Connected { conn } => {
                if let Some(link) = self.link.as_mut().filter(|link| link.conn == conn) {
                    link.connected = true;
                }
            }
            Event::Sent { conn, .. } => {
                if let Some(link) = self.link.as_mut().filter(|link| link.conn == conn) {
                    link.sending = false;
                }
            }
            Event::Received { conn, chunk } => {
                if self.link.as_ref().is_some_and(|link| link.conn == conn) {
                    self.receive(&chunk, around);
                }
            }
            Event::Closed { conn, .. } => {
                if self.link.as_ref().is_some_and(|link| link.conn == conn) {
                    self.link_ended(around);
                }
            }
            Event::Disk(_) | Event::Accepted { .. } | Event::Woken => {
                unreachable!("a client has no disk and does not listen")
            }
        }
    }

    fn receive(&mut self, bytes: &[u8], around: &mut Around<'_>) {
        let Some(mut link) = self.link.take() else { return };
        let target = link.target;
        let mut refused = false;
        let mut answers = Vec::new();
        let result = link.protocol.receive(bytes, |incoming| match incoming {
            Incoming::Welcome(welcome) => {
                // Most clients follow the word about the leader; others stay where they are.
                answers.push(Answered::Welcome(welcome.leader));
            }
            Incoming::Refused { .. } => refused = true,
            Incoming::Answer { tag, response } => {
                answers.push(Answered::Call(tag, Reply::of(&response)));
            }
            Incoming::Pushed { .. } => unreachable!("nothing is followed"),
        });
        self.link = Some(link);
        for answer in answers {
            match answer {
                Answered::Welcome(leader) => self.hear_of_leader(leader, target),
                Answered::Call(slot, reply) => self.on_reply(slot, reply, target, around),
            }
        }
        if let Err(error) = result {
            self.complaint.get_or_insert(format!("the server breaks the protocol: {error}"));
        }
        if refused {
            self.complaint.get_or_insert("the server refuses a client of its cluster".to_owned());
        }
    }

    fn hear_of_leader(&mut self, leader: Option<NodeId>, target: usize) {
        let follows = self.rng.below(4) > 0;
        if let Some(leader) = leader.map(|id| usize::from(id.0) - 1)
            && leader != target
            && follows
        {
            self.target = leader;
            self.moving = true;
        }
    }

    fn on_reply(&mut self, slot: usize, reply: Reply, target: usize, around: &mut Around<'_>) {
        let now = around.now;
        let call = self.slots[slot].call.as_ref().expect("an answer belongs to a call in flight");
        let (index, tries) = (call.index, call.tries);
        let (code, leader) = match reply {
            Reply::Failed(code, leader) => (code, leader),
            reply => {
                self.succeed(index, reply, around);
                return self.end_call(slot, now, around);
            }
        };
        around.hits.add(hit_of(code), 1);
        let operation = &mut around.history.operations[index];
        let is_append = matches!(operation.kind, Kind::Append { .. });
        if is_append && !code.append_had_no_effect() {
            return self.end_call(slot, now, around);
        }
        if code == ErrorCode::NotLeader && is_append {
            match leader {
                Some(_) => self.hear_of_leader(leader, target),
                // Nobody is known to lead: ask around.
                None if self.rng.below(4) == 0 => {
                    self.target = self.rng.below(self.nodes as u64) as usize;
                    self.moving = self.target != target;
                }
                None => {}
            }
        }
        let again = code.is_retryable() || code == ErrorCode::DiskFull;
        if again && tries < 10 {
            let call = self.slots[slot].call.as_mut().expect("looked at above");
            call.not_before = now + self.rng.between(RETRY_PAUSE / 10, RETRY_PAUSE * tries);
            self.slots[slot].deadline = None;
        } else {
            around.history.operations[index].outcome = Outcome::Failed(now);
            self.end_call(slot, now, around);
        }
    }

    fn succeed(&mut self, index: usize, reply: Reply, around: &mut Around<'_>) {
        let operation = &mut around.history.operations[index];
        operation.outcome = Outcome::Ok(around.now);
        let tail_told = match (&mut operation.kind, reply) {
            (Kind::Append { position, records, .. }, Reply::Appended(first)) => {
                *position = Some(first);
                self.acknowledged += 1;
                self.tail_seen = self.tail_seen.max(first.0 + u64::from(*records));
                None
            }
            (Kind::Read { from, values, tail, level, .. }, Reply::Records(first, read, told)) => {
                around.hits.hit(hit_of_level(*level));
                if first != *from {
                    let text = format!("a read from {from} is answered from {first}");
                    self.complaint.get_or_insert(text);
                }
                match read {
                    Some(read) => *values = read,
                    None => {
                        self.complaint.get_or_insert(format!("a foreign record near {from}"));
                    }
                }
                *tail = told;
                Some(told)
            }
            (Kind::Tail { tail, level }, Reply::Tail(told)) => {
                around.hits.hit(hit_of_level(*level));
                *tail = told;
                Some(told)
            }
            (kind, reply) => {
                self.complaint.get_or_insert(format!("{reply:?} answers {kind:?}"));
                None
            }
        };
        if let Some(tail) = tail_told {
            self.tail_seen = self.tail_seen.max(tail.0);
            if tail < self.tail_of_link {
                let text = format!("a node's tail went from {} to {tail}", self.tail_of_link);
                self.complaint.get_or_insert(text);
            }
            self.tail_of_link = tail;
        }
    }
}

enum Answered {
    Welcome(Option<NodeId>),
    Call(usize, Reply),
}

/// A response, on its own feet.
#[derive(Debug)]
enum Reply {
    Appended(Position),
    /// `None`: not all of them are records of this world.
    Records(Position, Option<Vec<ValueId>>, Position),
    Tail(Position),
    Other,
    Failed(ErrorCode, Option<NodeId>),
}

impl Reply {
    fn of(response: &Response<'_>) -> Reply {
        match response {
            Response::Appended { first, .. } => Reply::Appended(*first),
            Response::Records { first, tail, run, .. } => {
                let values = Records::new(run)
                    .map(|record| record.ok().and_then(ValueId::parse).map(|(id, _)| id))
                    .collect();
                Reply::Records(*first, values, *tail)
            }
            Response::TailIs { tail, .. } => Reply::Tail(*tail),
            Response::StatusIs { .. }
            | Response::SessionOpened { .. }
            | Response::LogCreated { .. }
            | Response::LogsAre { .. }
            | Response::Done { .. } => Reply::Other,
            Response::Failed { error, leader, .. } => Reply::Failed(*error, *leader),
        }
    }
}

fn pick_level(rng: &mut Rng) -> ReadLevel {
    [ReadLevel::Local, ReadLevel::ReadIndex, ReadLevel::Lease][rng.below(3) as usize]
}

fn hit_of_level(level: ReadLevel) -> Hit {
    match level {
        ReadLevel::Local => Hit::ReadLocal,
        ReadLevel::ReadIndex => Hit::ReadIndexed,
        ReadLevel::Lease => Hit::ReadLeased,
    }
}

fn hit_of(code: ErrorCode) -> Hit {
    match code {
        ErrorCode::NotLeader => Hit::AnswerNotLeader,
        ErrorCode::OutcomeUnknown => Hit::AnswerUnknown,
        ErrorCode::DiskFull => Hit::AnswerDiskFull,
        ErrorCode::Overloaded => Hit::AnswerOverloaded,
        ErrorCode::Corrupted => Hit::AnswerCorrupted,
        _ => Hit::AnswerUnavailable,
    }
}
