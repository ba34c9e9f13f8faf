//! The server: connections in, requests to the node, answers out; and the loop of its thread.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::admission::Admission;
use super::follow::Followers;
use super::reads::{Confirming, Read};
use super::session::{Phase, Session};
use super::stop::StopStage;
use super::waiters::Waiters;
use super::{CLIENT_QUEUE_BYTES_MAX, LOGS_LISTED_MAX};
use crate::base::limits::APPEND_BYTES_MAX;
use crate::base::mutants::{Mutant, planted};
use crate::base::{
    BlockPool, Founding, GroupId, IdMap, Instant, LogId, LogTerms, NodeId, Position,
};
use crate::io::{ConnId, Event, HANDOVER_BYTES_MAX, Io, Net, Wait};
use crate::machine::{Command, LogState};
use crate::node::{Answer, InitFailure, Node, NodeFailure, Refusal, Stage, Ticket};
use crate::wire::client::decode_request;
use crate::wire::hello::{decode_hello, encode_hello_reply};
use crate::wire::status::{LogStatus, ResourceStatus};
use crate::wire::{
    ErrorCode, Frame, HelloReply, HelloRole, NodeStatus, PAYLOAD_SIZE_MAX, PROTOCOL_VERSION,
    ReadLevel, RefuseReason, Request, RequestId, Response, Standing, WireError,
};

/// The longest sleep of the loop when no timer is due: a bound for what depends on the outside.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The longest that a request to found the cluster waits, whatever was asked for.
const INIT_WAIT_MAX: Duration = Duration::from_secs(600);

/// A node and its clients.
pub struct Server {
    pub(super) node: Node,
    pool: BlockPool,
    pub(super) sessions: IdMap<ConnId, Session>,
    pub(super) admission: Admission,
    /// Connections with answers to flush.
    dirty: Vec<ConnId>,
    /// Connections that are for other groups.
    pub(super) leaving: Vec<ConnId>,
    /// Connections whose input is held back.
    stalled: VecDeque<ConnId>,
    /// Reads of the log's files under way, by the number in their ticket.
    pub(super) reads: IdMap<u64, Read>,
    pub(super) reads_started: u64,
    pub(super) waiters: Waiters,
    /// Linearizable reads that wait to be confirmed, by the number in their ticket.
    confirming: BTreeMap<u64, Confirming>,
    confirms_started: u64,
    pub(super) followers: Followers,
    /// Memory for reuse.
    pub(super) logs_touched: Vec<LogId>,
    answers: Vec<Answer>,
    started: Instant,
    pub(super) stop: StopStage,
    resources: Resources,
    when_founded: Option<WhenFounded>,
}

/// What is told, once, as what the cluster was founded.
type WhenFounded = Box<dyn FnOnce(&Founding)>;

/// Tells what the process has used (CPU, memory): handed in by whoever knows the process.
pub type Resources = fn() -> ResourceStatus;

/// Drives the server until [`Event::Woken`] asks it to stop and the stop is done (see `stop`), or it
/// is asked again.
///
/// # Errors
/// When the log or the ring has failed. Nothing has been answered since; the process must end.
pub fn run<I: Io>(io: &mut I, server: &mut Server) -> Result<(), NodeFailure> {
    let mut events = Vec::new();
    loop {
        let wait = server.wait(io.now());
        if server.turn(io, wait, &mut events)? == Turn::Stop {
            info!("stopping");
            return Ok(());
        }
    }
}

/// How much a server holds at the moment: each has a bound (see `src/README.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Block memory in use, in bytes.
    pub block_bytes: usize,
    /// The most bytes that wait to be sent to one peer.
    pub peer_bytes_max: usize,
    /// The most bytes that wait to be sent to one client.
    pub client_bytes_max: usize,
    /// The most bytes of one client's input that are held back.
    pub stalled_bytes_max: usize,
    /// Clients whose input is held back.
    pub stalled_clients: usize,
    /// Reads of the log's files under way.
    pub disk_reads: usize,
    /// Reads that wait for new records.
    pub waiting_reads: usize,
    /// Followers.
    pub followers: usize,
    /// Clients.
    pub clients: usize,
    /// Connections that have not been let in.
    pub strangers: usize,
}

/// How a turn has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Another one follows.
    GoOn,
    /// The loop has been asked to stop.
    Stop,
}

impl Server {
    /// A server for `node`, which must listen already or will.
    pub fn new(node: Node, pool: BlockPool, now: Instant, resources: Resources) -> Server {
        Server {
            node,
            pool,
            sessions: IdMap::default(),
            admission: Admission::default(),
            dirty: Vec::new(),
            leaving: Vec::new(),
            stalled: VecDeque::new(),
            reads: IdMap::default(),
            reads_started: 0,
            waiters: Waiters::default(),
            confirming: BTreeMap::new(),
            confirms_started: 0,
            followers: Followers::default(),
            logs_touched: Vec::new(),
            answers: Vec::new(),
            started: now,
            stop: StopStage::Serving,
            resources,
            when_founded: None,
        }
    }

    /// The node behind it.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node behind it, to be audited.
    pub fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }

    /// What it holds.
    pub fn gauges(&self) -> Gauges {
        let sessions = self.sessions.values();
        let client_bytes = sessions.clone().map(|session| session.outbox.queued_bytes());
        Gauges {
            block_bytes: self.node.block_bytes_live(),
            peer_bytes_max: self.node.peer_bytes_max(),
            client_bytes_max: client_bytes.max().unwrap_or(0),
            stalled_bytes_max: sessions.map(|session| session.stalled.len()).max().unwrap_or(0),
            stalled_clients: self.stalled.len(),
            disk_reads: self.reads.len(),
            waiting_reads: self.waiters.count(),
            followers: self.followers.count(),
            clients: self.admission.clients(),
            strangers: self.admission.strangers(),
        }
    }

    /// How long the loop may sleep.
    pub fn wait(&self, now: Instant) -> Wait {
        if self.node.wants_turn()
            || self.is_stop_due(now)
            || self.stalled.iter().any(|conn| self.may_read(*conn))
        {
            return Wait::No;
        }
        let waiters = self.waiters.next_deadline();
        let others =
            waiters.into_iter().chain(self.admission.next_deadline()).chain(self.stop.until());
        let deadline = self.node.next_deadline().into_iter().chain(others).min();
        Wait::AtMost(deadline.map_or(SLEEP_MAX, |deadline| deadline.since(now).min(SLEEP_MAX)))
    }

    /// One turn: waits as told, handles what has happened, and submits what follows from it.
    /// `events` is memory for reuse; it is empty before and after.
    ///
    /// # Errors
    /// When the log or the ring has failed, or a chosen slot is not understood: nothing may be done
    /// with the server any more.
    pub fn turn<I: Io>(
        &mut self,
        io: &mut I,
        wait: Wait,
        events: &mut Vec<Event<I::Chunk>>,
    ) -> Result<Turn, NodeFailure> {
        io.turn(wait, events).map_err(NodeFailure::Ring)?;
        let woken_at = io.now();
        if self.stop == StopStage::Leaving {
            // The last answers have been submitted.
            events.clear();
            return Ok(Turn::Stop);
        }
        self.pump_stop(woken_at);
        let has_work = self.node.begin_turn() || !events.is_empty();
        for event in events.drain(..) {
            if matches!(event, Event::Woken) && self.ask_to_stop(woken_at) {
                return Ok(Turn::Stop);
            }
            self.on_event(io, event)?;
        }
        self.settle_founding(io)?;
        self.node.forget_cut(io)?;
        self.end_turn(io)?;
        let now = io.measure();
        self.node.answers_left(now);
        if has_work {
            self.node.record_stage(Stage::Turn, now.since(woken_at));
        }
        Ok(Turn::GoOn)
    }

    /// One event. Answers that follow from it leave at the end of the turn.
    fn on_event<I: Io>(&mut self, io: &mut I, event: Event<I::Chunk>) -> Result<(), NodeFailure> {
        match event {
            Event::Disk(event) => self.node.on_disk_event(io, event)?,
            Event::Accepted { conn, from } => self.take_in(io, conn, from),
            Event::HandedOver { conn, from, received } => {
                self.take_in(io, conn, from);
                self.on_received(io, conn, &received);
            }
            Event::Connected { conn } => self.node.on_connected(io, conn),
            Event::Received { conn, chunk } => match self.node.owns_conn(conn) {
                true => self.node.on_received(io, conn, &chunk),
                false => self.on_received(io, conn, &chunk),
            },
            Event::Sent { conn, parts } => match self.sessions.get_mut(&conn) {
                Some(session) => {
                    session.outbox.sent(parts);
                    self.mark_dirty(conn);
                    self.resume_followers(io, conn);
                }
                None => self.node.on_sent(conn, parts),
            },
            Event::Closed { conn, reason } => match self.forget_session(conn) {
                Some(_) => {
                    debug!(?conn, %reason, "a client is gone");
                    self.drop_followers(conn);
                }
                None => self.node.on_closed(io.now(), conn, &reason),
            },
            Event::LookedUp { lookup, addresses } => self.node.on_looked_up(io, lookup, addresses),
            Event::Woken => {}
        }
        Ok(())
    }

    /// What the turn has brought for the founding of the cluster, before anything leaves.
    fn settle_founding<I: Io>(&mut self, io: &mut I) -> Result<(), NodeFailure> {
        let was_blank = self.node.is_blank();
        self.node.settle_founding(io)?;
        if was_blank
            && let Some(founding) = self.node.founding()
            && let Some(when_founded) = self.when_founded.take()
        {
            when_founded(founding);
        }
        Ok(())
    }

    /// Calls `then` once the cluster's founding is known and durable: now, or in a later turn.
    pub fn when_founded(&mut self, then: impl FnOnce(&Founding) + 'static) {
        match self.node.founding() {
            Some(founding) => then(founding),
            None => self.when_founded = Some(Box::new(then)),
        }
    }

    /// Ends the turn: held-back input, the node's own turn, answers, and every send.
    fn end_turn<I: Io>(&mut self, io: &mut I) -> Result<(), NodeFailure> {
        self.hand_over(io);
        self.end_silent(io);
        for _ in 0..self.stalled.len() {
            let conn = self.stalled.pop_front().expect("counted above");
            self.resume(io, conn);
        }
        // Clients first: they wait, while peers are only told what they need not know yet.
        self.node.check()?;
        self.answer(io);
        self.node.end_turn(io)?;
        self.answer(io);
        Ok(())
    }

    /// Answers what has been decided, and starts the sends.
    fn answer<I: Io>(&mut self, io: &mut I) {
        let mut answers = std::mem::take(&mut self.answers);
        self.node.take_answers(&mut answers);
        for answer in answers.drain(..) {
            self.on_answer(io, answer);
        }
        self.answers = answers;
        self.serve_touched_logs(io);
        self.flush(io);
    }

    /// Starts the sends of every connection with answers.
    fn flush<I: Io>(&mut self, io: &mut I) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for conn in dirty.drain(..) {
            let Some(session) = self.sessions.get_mut(&conn) else { continue };
            session.dirty = false;
            session.outbox.flush(io, conn);
            if session.phase == Phase::Closing && session.outbox.queued_bytes() == 0 {
                Net::close(io, conn);
                self.forget_session(conn);
                self.drop_followers(conn);
            }
        }
        self.dirty = dirty;
    }

    // ---- input ------------------------------------------------------------------------------

    /// Whether the connection's input may be decoded now: the node takes appends, and the client
    /// takes its answers. Greetings are never held back: the one who greets may be the peer whose
    /// answers would make room.
    fn may_read(&self, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get(&conn) else { return true };
        session.phase != Phase::Client
            || (self.node.has_append_room()
                && session.outbox.queued_bytes() < CLIENT_QUEUE_BYTES_MAX)
    }

    fn on_received<I: Io>(&mut self, io: &mut I, conn: ConnId, bytes: &[u8]) {
        // A session that is being closed, or was, has nothing more to say.
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if !session.stalled.is_empty() {
            session.stalled.extend_from_slice(bytes);
            return;
        }
        let is_leaving = matches!(session.phase, Phase::Leaving(_));
        if is_leaving || (session.phase == Phase::Greeting && self.node.group_count() > 1) {
            session.greeting.extend_from_slice(bytes);
            if session.greeting.len() > HANDOVER_BYTES_MAX {
                return self.turn_away(io, conn, "it sends too much with its greeting");
            }
        }
        if is_leaving {
            // Received with the greeting, and handed over with it.
            return;
        }
        self.decode(io, conn, bytes);
    }

    fn resume<I: Io>(&mut self, io: &mut I, conn: ConnId) {
        if !self.may_read(conn) {
            self.stalled.push_back(conn);
            return;
        }
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let held = std::mem::take(&mut session.stalled);
        self.decode(io, conn, &held);
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.stalled.is_empty() {
            session.paused = false;
            io.resume(conn);
            // Keep the memory for the next time.
            session.stalled = held;
            session.stalled.clear();
        }
    }

    /// Decodes frames until the bytes end or there is no room for what they ask.
    fn decode<I: Io>(&mut self, io: &mut I, conn: ConnId, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            if !rest.is_empty() && !self.may_read(conn) {
                let session = self.sessions.get_mut(&conn).expect("decoded for a session");
                session.stall(io, conn, rest);
                self.stalled.push_back(conn);
                return;
            }
            // Taken out while its frame borrows the decoder; the map keeps the rest in place.
            let Some(session) = self.sessions.get_mut(&conn) else { return };
            let phase = session.phase;
            if let Phase::Closing | Phase::Leaving(_) = phase {
                // Refused already: whatever it goes on to say, nothing more is queued for it.
                return;
            }
            let mut decoder = std::mem::take(&mut session.decoder);
            let result = match decoder.next(&mut rest, &self.pool) {
                Ok(None) => {
                    session.decoder = decoder;
                    return;
                }
                Ok(Some(frame)) => match phase {
                    Phase::Client if frame.group != self.node.group() => {
                        let (kind, why) = (frame.kind, "it is for another group");
                        Err(WireError::Malformed { kind, why })
                    }
                    Phase::Client => self.on_request(io, conn, &frame),
                    Phase::Closing | Phase::Leaving(_) => unreachable!("looked at above"),
                    Phase::Greeting => match self.on_hello(io, conn, &frame) {
                        Greeted::Elsewhere(group) => return self.leave(conn, group),
                        Greeted::Peer(peer) => {
                            self.forget_session(conn);
                            decoder.limit_payload(PAYLOAD_SIZE_MAX);
                            self.node.adopt_peer(io, conn, peer, decoder, rest);
                            return;
                        }
                        Greeted::Client | Greeted::Refused => {
                            decoder.limit_payload(APPEND_BYTES_MAX);
                            Ok(())
                        }
                    },
                },
                Err(error) => Err(error),
            };
            match (result, self.sessions.get_mut(&conn)) {
                (_, None) => return,
                (Ok(()), Some(session)) => session.decoder = decoder,
                (Err(error), Some(_)) => return self.refuse_garbage(io, conn, &error),
            }
        }
    }

    /// Bytes that are not the protocol: say so and hang up.
    fn refuse_garbage<I: Io>(&mut self, io: &mut I, conn: ConnId, error: &WireError) {
        let session = self.sessions.get_mut(&conn).expect("the caller has looked");
        if let Some(left_out) = self.admission.may_tell(io.now()) {
            let from = session.from;
            warn!(%from, %error, left_out, "closing a connection that does not keep the protocol");
        }
        let text = error.to_string();
        if session.phase == Phase::Greeting {
            let refused = refused(RefuseReason::Malformed, text);
            let Session { encoder, outbox, .. } = session;
            outbox.encode(|out| encode_hello_reply(&refused, encoder, out));
        } else {
            session.fail(RequestId(0), ErrorCode::BadRequest, None, &text);
        }
        session.phase = Phase::Closing;
        session.outbox.flush(io, conn);
        self.mark_dirty(conn);
    }

    /// Judges a greeting, unless another thread is to do so.
    fn on_hello<I: Io>(&mut self, io: &mut I, conn: ConnId, frame: &Frame<'_>) -> Greeted {
        let (reply, role) = match decode_hello(frame) {
            Err(error) => (refused(RefuseReason::Malformed, error.to_string()), None),
            // One of another version is answered here: behind its hello nothing is known.
            Ok(hello)
                if hello.protocol_version == PROTOCOL_VERSION
                    && self.is_for_another_thread(hello.group) =>
            {
                if !self.node.is_blank() {
                    return Greeted::Elsewhere(hello.group);
                }
                // The other groups open when it is founded.
                (refused(RefuseReason::NotFounded, self.node.not_founded()), None)
            }
            Ok(hello) => (self.admit(&hello.role, self.node.answer(&hello)), Some(hello.role)),
        };
        let session = self.sessions.get_mut(&conn).expect("decoded for a session");
        let Session { encoder, outbox, phase, greeting, from, .. } = session;
        *greeting = Vec::new();
        outbox.encode(|out| encode_hello_reply(&reply, encoder, out));
        let greeted = match (reply, role) {
            (HelloReply::Welcome(_), Some(HelloRole::Peer { node, standing, .. })) => {
                Greeted::Peer((node, standing))
            }
            (HelloReply::Welcome(_), _) => {
                *phase = Phase::Client;
                Greeted::Client
            }
            (HelloReply::Refused { reason, text, .. }, _) => {
                if let Some(left_out) = self.admission.may_tell(io.now()) {
                    warn!(%from, ?reason, left_out, "refusing a connection: {text}");
                }
                *phase = Phase::Closing;
                Greeted::Refused
            }
        };
        outbox.flush(io, conn);
        if let Greeted::Client = greeted {
            self.count_client(conn);
        }
        self.mark_dirty(conn);
        greeted
    }

    fn on_request<I: Io>(
        &mut self,
        io: &mut I,
        conn: ConnId,
        frame: &Frame<'_>,
    ) -> Result<(), WireError> {
        let now = io.now();
        let request = decode_request(frame)?;
        if self.node.is_blank() && !matches!(request, Request::Status { .. } | Request::Init { .. })
        {
            let text = self.node.not_founded();
            self.fail(conn, request.id(), ErrorCode::NotFounded, None, &text);
            return Ok(());
        }
        // Appends are the machine's to refuse.
        let may_refuse =
            !matches!(request, Request::Append { .. }) || planted(Mutant::AppendRefusedOutOfTurn);
        if may_refuse && !self.is_for_this_group(conn, &request) {
            return Ok(());
        }
        match request {
            Request::Append { request, log, terms, records, run } => {
                let log = self.to_append_to(log);
                let append = Command { terms, ..Command::append(log, records, run) };
                self.on_append(now, conn, request, &append);
            }
            Request::Read { request, log, from, records_max, bytes_max, level, wait_ms } => {
                let log = log.within_group();
                let read = Read::new(conn, request, log, from, records_max, bytes_max);
                let wait = Duration::from_millis(u64::from(wait_ms));
                self.confirm(io, level, Confirming::Read(read, wait));
            }
            Request::Tail { request, log, level } => {
                let log = log.within_group();
                self.confirm(io, level, Confirming::Tail { conn, request, log });
            }
            Request::FindLog { request, name, level } => {
                let name = name.to_owned();
                self.confirm(io, level, Confirming::Find { conn, request, name });
            }
            Request::ListLogs { request, after, logs_max, level } => {
                let after = after.to_owned();
                self.confirm(io, level, Confirming::List { conn, request, after, logs_max });
            }
            Request::OpenSession { request, terms } => {
                self.on_open_session(now, conn, request, terms);
            }
            Request::CloseSession { request, session } => {
                self.on_close_session(now, conn, request, session);
            }
            Request::CreateLog { request, name, record_bytes_max } => {
                let terms = LogTerms { name: name.to_owned(), record_bytes_max };
                self.on_create_log(now, conn, request, &terms);
            }
            Request::DeleteLog { request, log } => {
                self.on_delete_log(now, conn, request, log.within_group());
            }
            Request::Follow { request, log, from, credit_bytes } => {
                self.on_follow(io, (conn, request), log.within_group(), from, credit_bytes);
            }
            Request::Credit { request, bytes } => self.on_credit(io, (conn, request), bytes),
            Request::Unfollow { request } => self.on_unfollow((conn, request)),
            Request::Lead { request, node } => {
                self.on_lead(io.now(), conn, request, node);
            }
            Request::Init { request, wait_ms } => {
                let wait = Duration::from_millis(u64::from(wait_ms)).min(INIT_WAIT_MAX);
                self.node.init(now, Ticket { conn, request: request.0 }, wait);
            }
            Request::Status { request } => {
                let status = self.status(io.now());
                match serde_json::to_vec(&status) {
                    Ok(json) => self.respond(conn, &Response::StatusIs { request, json: &json }),
                    Err(error) => {
                        let text = error.to_string();
                        self.fail(conn, request, ErrorCode::Unavailable, None, &text);
                    }
                }
            }
        }
        Ok(())
    }

    fn on_lead(&mut self, now: Instant, conn: ConnId, request: RequestId, node: NodeId) {
        if !self.node.is_member(node) {
            let text = format!("there is no node {node}");
            return self.fail(conn, request, ErrorCode::BadRequest, None, &text);
        }
        let ticket = Ticket { conn, request: request.0 };
        if let Err(refusal) = self.node.transfer(now, ticket, node) {
            self.refuse(conn, request, &refusal);
        }
    }

    fn status(&self, now: Instant) -> NodeStatus {
        let resources = ResourceStatus {
            block_bytes_live: self.node.block_bytes_live() as u64,
            client_connections: self.admission.clients() as u32,
            uptime_ms: now.since(self.started).as_millis() as u64,
            ..(self.resources)()
        };
        NodeStatus { resources, ..self.node.status(now) }
    }

    // ---- reads ------------------------------------------------------------------------------

    /// Starts what was asked for once its level permits it.
    fn confirm<I: Io>(&mut self, io: &mut I, level: ReadLevel, asked: Confirming) {
        let lease = match level {
            ReadLevel::Local => return self.confirmed(io, asked),
            ReadLevel::ReadIndex => false,
            ReadLevel::Lease => true,
        };
        self.confirms_started += 1;
        let (conn, request) = asked.client();
        let ticket = Ticket { conn, request: self.confirms_started };
        match self.node.confirm_read(io.now(), ticket, lease) {
            Ok(true) => self.confirmed(io, asked),
            Ok(false) => {
                self.confirming.insert(self.confirms_started, asked);
            }
            Err(refusal) => self.refuse(conn, request, &refusal),
        }
    }

    fn confirmed<I: Io>(&mut self, io: &mut I, asked: Confirming) {
        match asked {
            Confirming::Read(read, wait) => self.start_read(io, read, wait),
            Confirming::Tail { conn, request, log } => match self.tail(log) {
                Some(tail) => self.respond(conn, &Response::TailIs { request, tail }),
                None => self.fail_no_log(conn, request, log),
            },
            Confirming::Find { conn, request, name } => match self.node.logs().find(&name) {
                Some((log, state)) => {
                    let found = [status_of_log(self.numbered(log), state)];
                    self.respond_logs(conn, request, &found);
                }
                None => {
                    let text = format!("there is no log {name:?}");
                    self.fail(conn, request, ErrorCode::NoSuchLog, None, &text);
                }
            },
            Confirming::List { conn, request, after, logs_max } => {
                let count = match logs_max as usize {
                    0 => LOGS_LISTED_MAX,
                    wanted => wanted.min(LOGS_LISTED_MAX),
                };
                // Only group 0's log 0 is anybody's.
                let is_there = |log: LogId| log != LogId(0) || self.node.group() == GroupId(0);
                let logs = self.node.logs().by_name_after(&after);
                let logs = logs.filter(|(log, _)| is_there(*log)).take(count);
                let logs = logs.map(|(log, of)| status_of_log(self.numbered(log), of));
                let logs: Vec<LogStatus> = logs.collect();
                self.respond_logs(conn, request, &logs);
            }
        }
    }

    /// The next position to be given out, as far as this node has applied.
    pub(super) fn tail(&self, log: LogId) -> Option<Position> {
        self.node.logs().tail(log)
    }

    fn respond_logs(&mut self, conn: ConnId, request: RequestId, logs: &[LogStatus]) {
        match serde_json::to_vec(logs) {
            Ok(json) => self.respond(conn, &Response::LogsAre { request, json: &json }),
            Err(error) => {
                self.fail(conn, request, ErrorCode::Unavailable, None, &error.to_string());
            }
        }
    }

    // ---- answers ----------------------------------------------------------------------------

    fn on_answer<I: Io>(&mut self, io: &mut I, answer: Answer) {
        match answer {
            Answer::Command { ticket, result } => self.on_command(ticket, result),
            Answer::Confirmed { ticket, confirmed } => {
                let asked = self.confirming.remove(&ticket.request);
                let asked = asked.expect("every read that waits is kept");
                let (conn, request) = asked.client();
                match confirmed {
                    true => self.confirmed(io, asked),
                    false => {
                        let text = "no leader has confirmed the read in time";
                        let leader = self.node.leader();
                        self.fail(conn, request, ErrorCode::Unavailable, leader, text);
                    }
                }
            }
            Answer::Transfer { ticket, to, taken_over } => {
                let request = RequestId(ticket.request);
                if taken_over {
                    return self.respond(ticket.conn, &Response::LedBy { request, node: to });
                }
                let text = format!("node {to} has not taken over");
                let leader = self.node.leader();
                self.fail(ticket.conn, request, ErrorCode::Unavailable, leader, &text);
            }
            Answer::Founded { ticket, result } => {
                let request = RequestId(ticket.request);
                match result {
                    Ok(cluster) => {
                        self.respond(ticket.conn, &Response::Founded { request, cluster });
                    }
                    Err(InitFailure { is_under_way, text }) => {
                        let code = match is_under_way {
                            true => ErrorCode::OutcomeUnknown,
                            false => ErrorCode::NotFounded,
                        };
                        self.fail(ticket.conn, request, code, None, &text);
                    }
                }
            }
            Answer::Read { ticket, result } => self.on_entry(io, ticket, result),
        }
    }

    pub(super) fn refuse(&mut self, conn: ConnId, request: RequestId, refusal: &Refusal) {
        let (code, leader, text) = describe(refusal);
        self.fail(conn, request, code, leader, &text);
    }

    pub(super) fn fail(
        &mut self,
        conn: ConnId,
        request: RequestId,
        error: ErrorCode,
        leader: Option<NodeId>,
        text: &str,
    ) {
        let detail = 0;
        self.respond(conn, &Response::Failed { request, error, leader, detail, text });
    }

    /// Queues an answer; a client that has gone meanwhile gets none.
    pub(super) fn respond(&mut self, conn: ConnId, response: &Response<'_>) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.respond(response);
            self.mark_dirty(conn);
        }
    }

    fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(&conn)
            && !session.dirty
        {
            session.dirty = true;
            self.dirty.push(conn);
        }
    }
}

/// What a greeting has come to.
enum Greeted {
    /// A member.
    Peer((NodeId, Standing)),
    /// A client.
    Client,
    /// Nobody who is let in.
    Refused,
    /// Somebody for another group, whose thread has yet to judge the greeting.
    Elsewhere(GroupId),
}

fn refused(reason: RefuseReason, text: String) -> HelloReply {
    HelloReply::Refused { protocol_version: PROTOCOL_VERSION, reason, text }
}

pub(super) fn describe(refusal: &Refusal) -> (ErrorCode, Option<NodeId>, String) {
    match refusal {
        Refusal::NotLeader { hint: Some(leader) } => {
            (ErrorCode::NotLeader, Some(*leader), format!("node {leader} leads"))
        }
        Refusal::NotLeader { hint: None } => {
            (ErrorCode::NotLeader, None, "no leader is known at the moment".to_owned())
        }
        Refusal::DiskFull => (ErrorCode::DiskFull, None, "the leader's disk is full".to_owned()),
        Refusal::Overloaded => (ErrorCode::Overloaded, None, "too much is under way".to_owned()),
        Refusal::NotStored(text) => (ErrorCode::Unavailable, None, text.clone()),
    }
}

fn status_of_log(log: LogId, state: LogState<'_>) -> LogStatus {
    LogStatus {
        log: log.0,
        name: state.terms.name.clone(),
        tail: state.tail.0,
        fence: state.fence.0,
        record_bytes_max: state.terms.record_bytes_max,
    }
}
