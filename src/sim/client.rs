//! A client of the world: the production protocol half over the simulated network.
//!
//! It keeps several operations in flight on one connection, follows hints to the leader, gives up
//! on answers that take too long, reconnects, and notes everything it saw in the history. Appends
//! go through the client library's queue, in a session, and are sent again until they are answered
//! ([`appends`]); or, in other worlds, only after an answer that says that they had no effect. No
//! value may ever appear twice.

mod appends;
mod follow;

use std::time::Duration;

use super::counters::{Counters, Hit};
use super::history::{History, Kind, Outcome, ValueId};
use super::host::{Chunk, Port};
use super::names::address_of;
use super::plan::Workload;
use super::time::Time;
use super::trace::HostId;
use crate::base::records::Records;
use crate::base::rng::Rng;
use crate::base::{
    AppendTerms, ClusterDigest, FenceToken, GroupId, LogId, LogTerms, NodeId, Position, Sequence,
    SessionId,
};
use crate::client::appends::AppendQueue;
use crate::client::connection::{ClientConnection, Incoming, ReadAsk, Response};
use crate::io::{ConnId, Event, SendPart};
use crate::wire::{ErrorCode, ReadLevel, RefuseReason};

/// A dial or greeting that takes longer is given up.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause before the next node is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// The pause before an operation is sent again that had no effect.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// The longest time between two wishes for another leader.
const LEAD_PAUSE: Duration = Duration::from_secs(4);
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
    /// It is an append in the session's queue: that sends it.
    queued: bool,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// The operation of the process with this index.
    Process(usize),
    /// The wish for a session.
    Session,
    /// An append of the session.
    Append(SessionId, Sequence),
    /// The creation of the log with this index.
    Create(usize),
    /// Records as they are applied.
    Follow,
    /// The leadership for another node.
    Lead,
    /// A log of another group, which this one must not know.
    Foreign,
    /// The end of a session that is left.
    Closed,
}

/// A log, as the client knows it.
#[derive(Clone, Copy, Debug, Default)]
struct KnownLog {
    /// Its number, once it has been created.
    id: Option<LogId>,
    /// The highest tail it has seen.
    tail_seen: u64,
    /// Tails seen on this connection, to be monotonic.
    tail_of_link: Position,
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

impl Slot {
    /// Whether it waits for an append in the session's queue.
    fn is_queued(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.queued)
    }
}

struct Link {
    conn: ConnId,
    target: usize,
    protocol: ClientConnection<Tag>,
    since: Time,
    /// When something last came in.
    heard: Time,
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
    cluster: ClusterDigest,
    /// The group whose logs it uses. In the history they go by their numbers within it.
    group: GroupId,
    nodes: usize,
    group_count: u16,
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
    /// By index; the first is `default`.
    logs: Vec<KnownLog>,
    /// A log is being created on this connection.
    creating: bool,
    create_at: Time,
    /// The session's appends, in a world with sessions.
    queue: Option<AppendQueue<usize>>,
    /// When what was refused is sent again.
    rewind_at: Option<Time>,
    /// Appends that ended since the queue's session was begun.
    appended_in_session: u64,
    follow: Option<follow::Flow>,
    follow_at: Time,
    /// When it next asks for a log of another group.
    foreign_at: Time,
    /// When it next asks for another leader.
    lead_at: Time,
    /// Whom it is to ask for next.
    lead_next: Option<NodeId>,
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
        (cluster, group): (ClusterDigest, GroupId),
        (nodes, group_count): (usize, u16),
        workload: Workload,
        operations_max: u64,
        seed: u64,
    ) -> SimClient {
        let mut rng = Rng::new(seed);
        // Clients differ in patience, and some only read, from whomever they are connected to:
        // they are who a stale answer would be given to.
        let mut workload = workload;
        workload.timeout = workload.timeout * [1, 1, 2, 6][rng.below(4) as usize] / 2;
        if workload.append_percent < 100 && index > 0 && rng.below(3) == 0 {
            workload.append_percent = 0;
        }
        let free = || Slot { next_at: Time::default(), call: None, deadline: None };
        SimClient {
            id: index as u16 + 1,
            cluster,
            group,
            nodes,
            group_count,
            target: rng.below(nodes as u64) as usize,
            slots: (0..workload.inflight).map(|_| free()).collect(),
            rng,
            port: Port::new(host),
            link: None,
            reconnect_at: Time::default(),
            moving: false,
            next_value: 1,
            operations_left: operations_max,
            logs: appends::known_logs(&workload, group),
            creating: false,
            create_at: Time::default(),
            // From the number and the seed, so that worlds draw what they drew before.
            queue: appends::queue(&workload, u128::from(seed) << 64 | (index as u128 + 1)),
            appended_in_session: 0,
            rewind_at: None,
            follow: None,
            follow_at: Time::default(),
            foreign_at: Time::default(),
            lead_at: Time::default(),
            lead_next: None,
            workload,
            complaint: None,
            acknowledged: 0,
        }
    }

    /// Goes on with an endless, modest workload and no wish to stop: the liveness phase.
    pub fn set_workload(&mut self, workload: Workload, operations_max: u64) {
        let inflight = self.workload.inflight.min(workload.inflight);
        self.workload = Workload { inflight, ..workload };
        self.operations_left = operations_max;
    }

    /// Does what is due, and returns when it wants to be called again.
    pub fn step(&mut self, around: &mut Around<'_>) -> Time {
        let now = around.now;
        self.give_up_late(around);
        self.give_up_appends(around);
        self.leave_session(around);
        // Appends in the session's queue are sent again elsewhere.
        let is_free = |slot: &Slot| slot.deadline.is_none() || slot.is_queued();
        let must_move = self.moving && self.slots.iter().all(is_free);
        if must_move {
            self.hang_up(around);
        }
        if self.link.is_none() && self.reconnect_at <= now {
            self.connect(now);
        }
        self.create_logs(now);
        self.submit(around);
        self.submit_aside(around);
        self.send_appends(around);
        self.flush();
        self.next_step(now)
    }

    /// Asks for the leadership of this node, when it next can.
    pub fn hand_over_to(&mut self, node: usize) {
        self.lead_next = Some(NodeId(node as u16 + 1));
    }

    /// Creates its logs, ahead of what it appends: in a world whose slots are few and slow, a log asked
    /// for behind hundreds of appends is still waiting when the first of them has run out of patience, and
    /// with the connection the question is gone, every time.
    fn create_logs(&mut self, now: Time) {
        let Some(link) = self.link.as_mut().filter(|link| link.protocol.can_submit()) else {
            return;
        };
        let missing = self.logs.iter().position(|log| log.id.is_none());
        if let Some(index) = missing.filter(|_| !self.creating && self.create_at <= now) {
            let terms = LogTerms::named(&appends::log_name(index, self.group, self.group_count));
            self.creating = link.protocol.create_log(Tag::Create(index), &terms).is_ok();
        }
    }

    /// What is no append or read: handing over, what another group is asked for, and following.
    fn submit_aside(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        let Some(link) = self.link.as_mut().filter(|link| link.protocol.can_submit()) else {
            return;
        };
        let wanted = self.lead_next.take();
        let due = self.workload.hands_over && self.lead_at <= now;
        if (due || wanted.is_some()) && link.protocol.can_submit() {
            let drawn = NodeId(1 + self.rng.below(self.nodes as u64) as u16);
            let node = wanted.unwrap_or(drawn);
            if link.protocol.lead(Tag::Lead, node).is_ok() {
                around.hits.hit(Hit::TransferAsked);
            }
            self.lead_at = now + self.rng.between(RETRY_PAUSE, LEAD_PAUSE);
        }
        if self.group_count > 1 && self.foreign_at <= now && link.protocol.can_submit() {
            let other = GroupId((self.group.0 + 1) % self.group_count);
            let log = LogId::of_group(other, LogId(1 + self.rng.below(3) as u32));
            let asked = link.protocol.tail(Tag::Foreign, log, ReadLevel::Local);
            asked.expect("it can submit");
            self.foreign_at = now + self.rng.between(RETRY_PAUSE, LEAD_PAUSE / 4);
        }
        self.start_following(now);
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
        if self.link.is_some() {
            let asides = [self.rewind_at, Some(self.create_at), Some(self.follow_at)];
            for due in asides.into_iter().flatten().filter(|due| *due > now) {
                next = next.min(due);
            }
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
        // Room for what is sent again while the first try is still in flight.
        let inflight = 4 * self.slots.len() + 8;
        let protocol = ClientConnection::of_group(cluster, self.group, inflight);
        self.logs.iter_mut().for_each(|log| log.tail_of_link = Position(0));
        self.creating = false;
        self.link = Some(Link {
            conn,
            target,
            protocol,
            since: now,
            heard: now,
            sending: false,
            connected: false,
        });
    }

    /// Drops the connection, as a client that dies does; the next one goes to the node `to`, if one
    /// is named.
    pub fn drop_connection(&mut self, to: Option<usize>, around: &mut Around<'_>) -> bool {
        let stands = self.link.is_some();
        self.hang_up(around);
        self.target = to.unwrap_or(self.target);
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
        let open: Vec<Tag> = link.protocol.drain().collect();
        for tag in open {
            // A slot whose patience ended before has gone on already.
            if let Tag::Process(slot) = tag
                && self.slots[slot].deadline.is_some()
            {
                self.end_call(slot, now, around);
            }
        }
        self.follow = None;
        self.appends_lost(around);
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
        let late = |slot: &Slot| slot.deadline.is_some_and(|due| due <= now) && !slot.is_queued();
        if greeting || self.slots.iter().any(late) {
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
            let is_idle = self.operations_left == 0 || slot >= self.workload.inflight;
            if due > now || (state.call.is_none() && is_idle) {
                continue;
            }
            if !self.link.as_ref().is_some_and(|link| link.protocol.can_submit()) {
                return;
            }
            if self.slots[slot].call.is_none() {
                self.operations_left -= 1;
                let index = self.invent(slot, around);
                let call = Call { index, not_before: now, tries: 0, queued: false };
                self.slots[slot].call = Some(call);
            }
            if !self.enqueue(slot, around) {
                self.send(slot, around);
            }
        }
    }

    /// Makes up the next operation of a process.
    fn invent(&mut self, slot: usize, around: &mut Around<'_>) -> usize {
        let index = self.rng.below(self.logs.len() as u64) as usize;
        let KnownLog { id, tail_seen, .. } = self.logs[index];
        // What is not there yet is left for later.
        let log = id.unwrap_or(LogId(0));
        let tail_seen = if id.is_some() { tail_seen } else { self.logs[0].tail_seen };
        // Only the first group has one from the beginning; in the others that is no log.
        let rng = &mut self.rng;
        let kind = if rng.below(100) < self.workload.append_percent {
            let records = 1 + rng.below(self.workload.records_max) as u32;
            let size = 1 + rng.below(self.workload.record_bytes_max as u64) as usize;
            let first = ValueId { client: self.id, number: self.next_value };
            self.next_value += records;
            let (mut if_tail, mut fence) = (None, None);
            if rng.below(100) < self.workload.if_tail_percent {
                if_tail = Some(Position(tail_seen + rng.below(2)));
            }
            // One log of several is fenced: by a number that rises, and now and then an old one.
            if self.workload.fenced_log && log != LogId(0) && index + 1 == self.logs.len() {
                let term = 1 + around.now.0 / appends::FENCE_TERM.as_nanos() as u64;
                fence = Some(FenceToken(term.saturating_sub(rng.below(4) / 3)));
            }
            let (position, moved_to) = (None, None);
            Kind::Append { first, records, size, if_tail, fence, position, moved_to }
        } else if rng.below(4) == 0 {
            Kind::Tail { level: pick_level(rng), tail: Position(0) }
        } else {
            // Old records, recent ones, and ones that are not there yet.
            let tail = tail_seen;
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
        around.history.invoke(process, around.now, log, kind)
    }

    fn send(&mut self, slot: usize, around: &mut Around<'_>) {
        let call = self.slots[slot].call.as_mut().expect("the caller has made it");
        call.tries += 1;
        let operation = &around.history.operations[call.index];
        let link = self.link.as_mut().expect("the caller has looked");
        let (log, tag) = (LogId::of_group(self.group, operation.log), Tag::Process(slot));
        let sent = match &operation.kind {
            Kind::Append { if_tail, fence, .. } => {
                let terms =
                    AppendTerms { if_tail: *if_tail, fence: *fence, ..AppendTerms::default() };
                link.protocol.append(tag, log, terms, &appends::records(operation))
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
                link.protocol.read(tag, &ask)
            }
            Kind::Tail { level, .. } => link.protocol.tail(tag, log, *level),
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
            Event::Disk(_)
            | Event::Accepted { .. }
            | Event::HandedOver { .. }
            | Event::LookedUp { .. }
            | Event::Woken => unreachable!("a client has no disk, and neither listens nor asks"),
        }
    }

    fn receive(&mut self, bytes: &[u8], around: &mut Around<'_>) {
        let Some(mut link) = self.link.take() else { return };
        link.heard = around.now;
        let target = link.target;
        let (mut refused, mut is_blank) = (false, false);
        let mut answers = Vec::new();
        let result = link.protocol.receive(bytes, |incoming| match incoming {
            Incoming::Welcome(welcome) => {
                // Most clients follow the word about the leader; others stay where they are.
                answers.push(Answered::Welcome(welcome.leader));
                is_blank = welcome.standing.cluster.is_none();
            }
            Incoming::Refused { reason, .. } => {
                is_blank = reason == RefuseReason::NotFounded;
                refused = !is_blank;
            }
            Incoming::Answer { tag, response } => {
                answers.push(Answered::Call(tag, Reply::of(&response)));
            }
            Incoming::Pushed { response, .. } => {
                answers.push(Answered::Pushed(Reply::of(&response)));
            }
        });
        self.link = Some(link);
        for answer in answers {
            match answer {
                Answered::Welcome(leader) => self.hear_of_leader(leader, target),
                Answered::Call(Tag::Process(slot), reply) => {
                    self.on_reply(slot, reply, target, around);
                }
                Answered::Call(Tag::Session, reply) => self.on_session(&reply, target, around),
                Answered::Call(Tag::Append(session, sequence), reply) => {
                    self.on_append(session, sequence, &reply, target, around);
                }
                Answered::Call(Tag::Create(index), reply) => {
                    self.on_created(index, &reply, target, around);
                }
                Answered::Call(Tag::Lead, Reply::LedBy) => around.hits.hit(Hit::TransferDone),
                Answered::Call(Tag::Foreign, Reply::Failed(ErrorCode::NoSuchLog, ..)) => {
                    around.hits.hit(Hit::ForeignLogRefused);
                }
                // A blank node has no logs.
                Answered::Call(Tag::Foreign, Reply::Failed(ErrorCode::NotFounded, ..)) => {}
                Answered::Call(Tag::Foreign, reply) => {
                    let text = format!("{reply:?} answers for a log of another group");
                    self.complaint.get_or_insert(text);
                }
                // Nobody leads, or the node is behind or away: it stays as it is.
                Answered::Call(Tag::Lead | Tag::Closed, _) => {}
                Answered::Call(Tag::Follow, _) => {
                    // It has ended, for want of the log or of what the node still holds.
                    self.follow = None;
                    self.follow_at = around.now + RETRY_PAUSE * 5;
                }
                Answered::Pushed(reply) => self.on_pushed(reply, around),
            }
        }
        if let Err(error) = result {
            self.complaint.get_or_insert(format!("the server breaks the protocol: {error}"));
        }
        if is_blank && self.nodes > 1 {
            // As the library does: a blank node has nothing for a client.
            let others = self.rng.below(self.nodes as u64 - 1) as usize;
            self.target = (target + 1 + others) % self.nodes;
            self.moving = true;
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

    /// Nobody is known to lead there: sometimes it asks another node. Once it is to move, it does: were
    /// that drawn anew for each of hundreds of answers, it would not last until all of them have
    /// come, and the client would stay for ever.
    fn ask_around(&mut self, target: usize) {
        if !self.moving && self.rng.below(4) == 0 {
            self.target = self.rng.below(self.nodes as u64) as usize;
            self.moving = self.target != target;
        }
    }

    fn on_reply(&mut self, slot: usize, reply: Reply, target: usize, around: &mut Around<'_>) {
        let now = around.now;
        let call = self.slots[slot].call.as_ref().expect("an answer belongs to a call in flight");
        let (index, tries) = (call.index, call.tries);
        let (code, leader, detail) = match reply {
            Reply::Failed(code, leader, detail) => (code, leader, detail),
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
        if code == ErrorCode::TailMoved {
            self.note_moved(index, Position(detail), around);
        }
        if code == ErrorCode::NotLeader && is_append {
            match leader {
                Some(_) => self.hear_of_leader(leader, target),
                None => self.ask_around(target),
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
        let log = self.logs.iter_mut().find(|log| log.id == Some(operation.log));
        let log = log.expect("only logs that are known are asked for");
        let tail_told = match (&mut operation.kind, reply) {
            (Kind::Append { position, records, .. }, Reply::Appended(first, _)) => {
                *position = Some(first);
                self.acknowledged += 1;
                log.tail_seen = log.tail_seen.max(first.0 + u64::from(*records));
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
            log.tail_seen = log.tail_seen.max(tail.0);
            if tail < log.tail_of_link {
                let text = format!("a node's tail went from {} to {tail}", log.tail_of_link);
                self.complaint.get_or_insert(text);
            }
            log.tail_of_link = tail;
        }
    }
}

enum Answered {
    Welcome(Option<NodeId>),
    Call(Tag, Reply),
    Pushed(Reply),
}

/// A response, on its own feet.
#[derive(Debug)]
enum Reply {
    Appended(Position, u32),
    /// `None`: not all of them are records of this world.
    Records(Position, Option<Vec<ValueId>>, Position),
    Tail(Position),
    Session(SessionId),
    Created(LogId),
    LedBy,
    Other,
    /// With the code's detail.
    Failed(ErrorCode, Option<NodeId>, u64),
}

impl Reply {
    fn of(response: &Response<'_>) -> Reply {
        match response {
            Response::Appended { first, records, .. } => Reply::Appended(*first, *records),
            Response::Records { first, tail, run, .. } => {
                let values = Records::new(run)
                    .map(|record| record.ok().and_then(ValueId::parse).map(|(id, _)| id))
                    .collect();
                Reply::Records(*first, values, *tail)
            }
            Response::TailIs { tail, .. } => Reply::Tail(*tail),
            Response::LedBy { .. } => Reply::LedBy,
            Response::SessionOpened { session, .. } => Reply::Session(*session),
            Response::LogCreated { log, .. } => Reply::Created(*log),
            Response::StatusIs { .. }
            | Response::LogsAre { .. }
            | Response::Done { .. }
            | Response::Founded { .. } => Reply::Other,
            Response::Failed { error, leader, detail, .. } => {
                Reply::Failed(*error, *leader, *detail)
            }
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
        ErrorCode::TailMoved => Hit::AnswerTailMoved,
        ErrorCode::Fenced => Hit::AnswerFenced,
        ErrorCode::SessionExpired => Hit::AnswerSessionExpired,
        ErrorCode::OutOfOrder => Hit::AnswerOutOfOrder,
        _ => Hit::AnswerUnavailable,
    }
}
