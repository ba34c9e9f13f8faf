//! The connection to one member: when it is dialled, and which connection is used.
//!
//! Owned by [`super::peers::Peers`], one for each other member.
//!
//! A flow can die without a word: a firewall forgets it, and each side sends into the void until its
//! kernel gives up after many seconds, while a new connection would pass at once. So each side tells
//! the other, four times in an election timeout, how many bytes it has received on the connection
//! that the other one dialled ([`Alive`]). A connection is *proven* as long as that count grows. One
//! that has not been proven for an election timeout is *silent*, and the member is dialled once
//! more beside it. The old connection is used until the new one has been welcomed, and closed then: if the
//! silence was the member's own (paused, cut off), nothing is lost by the attempt.
//!
//! A member is known by a name, which may mean another address tomorrow: it is looked up for each dial,
//! and the addresses are tried in turn. Where the look-up fails or hangs, those that it had last are tried.
//!
//! Each side judges the connection that it dialled, so that both directions heal by themselves, also
//! between followers, who have nothing else to say to each other until they campaign.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::identity::Identity;
use super::outbox::Outbox;
use super::peers::{PeerEvent, Probe};
use crate::base::mutants::{Mutant, planted};
use crate::base::rng::Rng;
use crate::base::{Batch, BlockPool, Founding, GroupId, Instant, NodeId};
use crate::io::{CloseReason, ConnId, Io, LookupId, Net, SendPart};
use crate::paxos::Message;
use crate::wire::hello::{decode_hello_reply, encode_hello};
use crate::wire::{
    Alive, FrameDecoder, FrameEncoder, Hello, HelloReply, Standing, Welcome, encode_alive,
    encode_message,
};

/// The first wait before dialling again, doubled with each failure.
const REDIAL_MIN: Duration = Duration::from_millis(20);
/// The longest wait before dialling again.
const REDIAL_MAX: Duration = Duration::from_millis(1000);
/// A dial or a greeting is given so long at the least, and at the most.
const ANSWER_MIN: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// The most different failures in a row that are logged: the same ones are not logged again and again.
const FAILURES_LOGGED_MAX: usize = 8;

/// When things are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// Between two words of being alive.
    alive_every: Duration,
    /// A connection that has not been proven for so long is silent.
    silent_after: Duration,
    /// A dial, or a greeting, that is not answered for so long is given up. Whoever was cut off is
    /// met soon after it can be reached, and not only when the kernel sends its request again.
    answer_max: Duration,
}

impl Timing {
    /// All of it from the election timeout: nobody is elected sooner, so nothing is lost before.
    pub(super) fn of(election_timeout: Duration) -> Timing {
        let alive_every = election_timeout / 4;
        Timing {
            alive_every,
            silent_after: election_timeout + alive_every,
            answer_max: (election_timeout * 2).clamp(ANSWER_MIN, ANSWER_MAX),
        }
    }
}

/// How long it takes, where both sides run and new connections pass, until one that has died in silence
/// is left: the silence, and two attempts that fail.
pub fn redialled_within(election_timeout: Duration) -> Duration {
    let timing = Timing::of(election_timeout);
    timing.silent_after + (timing.answer_max + REDIAL_MAX) * 2
}

/// What has been received on the connection that the member dialled; what the member is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// The member's number for the connection; 0: it has told none yet.
    pub(super) line: u64,
    /// Bytes received on it.
    pub(super) bytes: u64,
}

/// A connection that was dialled from here.
#[derive(Debug)]
struct Line {
    conn: ConnId,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    outbox: Outbox,
    /// Bytes that the member has told to have received on it.
    received: u64,
    /// When that has grown last.
    proven_at: Instant,
    /// When the member last told of no growth, if since then.
    barren_at: Option<Instant>,
    /// When to tell next that this side is alive.
    alive_at: Instant,
    /// What the outbox will have sent when the last such word has left: one waits at a time.
    alive_end: u64,
}

#[derive(Debug)]
enum Dial {
    /// Nothing is under way, and nothing will be before `retry_at`.
    Idle {
        retry_at: Instant,
    },
    /// Waits for the addresses.
    LookingUp {
        since: Instant,
    },
    Connecting {
        conn: ConnId,
        since: Instant,
    },
    Greeting {
        line: Box<Line>,
        since: Instant,
    },
}

/// The way to one member: the connection that is used, and the one that is being made.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) id: NodeId,
    /// `host:port`, as the members are listed.
    address: String,
    /// The same, where it needs no look-up.
    literal: Option<SocketAddr>,
    /// The look-up that has not been answered: another one is not asked for.
    lookup: Option<LookupId>,
    /// What the last look-up found.
    found: Vec<SocketAddr>,
    /// What is left of it to be tried before the next look-up.
    untried: VecDeque<SocketAddr>,
    line: Option<Box<Line>>,
    dial: Dial,
    backoff: Duration,
    /// When anything has arrived from the member last.
    heard_at: Instant,
    /// Failures that have been logged since a connection stood last.
    failures_logged: Vec<String>,
    /// The last failure, and whether it is a refusal, the member's or this node's.
    last_failure: Option<String>,
    is_refused: bool,
    /// What the member has said of itself, and the founding that it has accepted.
    standing: Standing,
    pending: Option<Founding>,
    /// The silence that lasts has been logged.
    silence_logged: bool,
}

impl Outbound {
    /// Nothing stands yet; [`Outbound::tick`] dials.
    pub(super) fn new(id: NodeId, address: String) -> Outbound {
        Outbound {
            id,
            literal: address.parse().ok(),
            address,
            lookup: None,
            found: Vec::new(),
            untried: VecDeque::new(),
            line: None,
            dial: Dial::Idle { retry_at: Instant(0) },
            backoff: REDIAL_MIN,
            heard_at: Instant(0),
            failures_logged: Vec::new(),
            last_failure: None,
            is_refused: false,
            standing: Standing::default(),
            pending: None,
            silence_logged: false,
        }
    }

    /// Whether the connection is one of this member's, standing or being made.
    pub(super) fn owns(&self, conn: ConnId) -> bool {
        self.is_line(conn) || self.dial.conn() == Some(conn)
    }

    fn is_line(&self, conn: ConnId) -> bool {
        self.line.as_ref().is_some_and(|line| line.conn == conn)
    }

    /// Whether messages to the member would leave now.
    pub(super) fn is_open(&self) -> bool {
        self.line.is_some()
    }

    /// What the member has said of itself.
    pub(super) fn probe(&self) -> Probe<'_> {
        match &self.last_failure {
            _ if self.is_open() => Probe::Open(self.standing, self.pending.as_ref()),
            Some(why) if self.is_refused => Probe::Refused(why),
            Some(why) => Probe::Waiting(why),
            None => Probe::Waiting("no answer yet"),
        }
    }

    /// Leaves what stands or is being made, and dials anew, at once.
    pub(super) fn dial_anew<I: Io>(&mut self, io: &mut I) -> Option<PeerEvent> {
        if let Some(conn) = self.dial.conn() {
            Net::close(io, conn);
        }
        // A look-up that is under way ends in a dial.
        if !matches!(self.dial, Dial::LookingUp { .. }) {
            self.dial = Dial::Idle { retry_at: io.now() };
        }
        self.backoff = REDIAL_MIN;
        self.last_failure = None;
        self.failures_logged.clear();
        self.is_refused = false;
        let line = self.line.take()?;
        Net::close(io, line.conn);
        Some(PeerEvent::Disconnected(self.id))
    }

    /// Ends what stands if the node's identity does not permit it any more.
    pub(super) fn enforce<I: Io>(
        &mut self,
        io: &mut I,
        identity: &Identity,
        rng: &mut Rng,
    ) -> Option<PeerEvent> {
        let line = self.line.as_ref()?;
        let (_, why) = identity.judge_standing(self.id, &self.standing).err()?;
        let conn = line.conn;
        Net::close(io, conn);
        let event = self.ended(io.now(), true, why, rng);
        self.is_refused = true;
        event
    }

    /// What waits to be sent.
    pub(super) fn outbox(&self) -> Option<&Outbox> {
        self.line.as_ref().map(|line| &line.outbox)
    }

    /// Queues a message; drops it when no connection stands.
    pub(super) fn queue(&mut self, message: &Message<Batch>, group: GroupId) {
        let Some(line) = &mut self.line else { return };
        let Line { encoder, outbox, .. } = &mut **line;
        let value = outbox.encode(|out| encode_message(message, group, encoder, out));
        if let Some(batch) = value {
            outbox.push_value(batch);
        }
    }

    /// Dials if that is due, gives up what takes too long, and tells that this side is alive.
    pub(super) fn tick<I: Io>(
        &mut self,
        io: &mut I,
        timing: Timing,
        heard: Heard,
        group: GroupId,
        rng: &mut Rng,
    ) {
        let now = io.now();
        let is_wanted = self.wanted_at(timing) <= now;
        match &self.dial {
            Dial::Idle { retry_at } if *retry_at <= now && is_wanted => {
                if self.line.is_some() && !std::mem::replace(&mut self.silence_logged, true) {
                    info!(peer = %self.id, "nothing gets through to it, or back: dialling anew");
                }
                self.start_dial(io);
            }
            Dial::LookingUp { .. } if !is_wanted => self.dial = Dial::Idle { retry_at: now },
            // What stands works again, and nothing has been said on the new connection.
            Dial::Connecting { conn, .. } if !is_wanted => {
                Net::close(io, *conn);
                self.dial = Dial::Idle { retry_at: now };
            }
            Dial::LookingUp { since } if now.since(*since) >= timing.answer_max => {
                self.not_found(io, "the look-up of its name is not answered".to_owned(), rng);
            }
            dial => {
                if let Some((conn, since)) = dial.under_way()
                    && now.since(since) >= timing.answer_max
                {
                    Net::close(io, conn);
                    self.fail(now, rng, "no answer in time".to_owned());
                }
            }
        }
        if let Some(line) = &mut self.line {
            line.tell_alive(now, timing, heard, group);
        }
    }

    /// Connects to the next address; when all have been tried, looks the name up again.
    fn start_dial<I: Io>(&mut self, io: &mut I) {
        let now = io.now();
        if let Some(address) = self.untried.pop_front().or(self.literal) {
            let conn = io.connect(address);
            self.dial = Dial::Connecting { conn, since: now };
            return;
        }
        if self.lookup.is_none() {
            self.lookup = Some(io.look_up(&self.address));
        }
        self.dial = Dial::LookingUp { since: now };
    }

    /// Whether the answer to this look-up is for this member.
    pub(super) fn awaits(&self, lookup: LookupId) -> bool {
        self.lookup == Some(lookup)
    }

    /// The name has been looked up.
    pub(super) fn on_looked_up<I: Io>(
        &mut self,
        io: &mut I,
        addresses: io::Result<Vec<SocketAddr>>,
        rng: &mut Rng,
    ) {
        self.lookup = None;
        let is_awaited = matches!(self.dial, Dial::LookingUp { .. });
        match addresses {
            Ok(mut addresses) => {
                addresses.truncate(ADDRESSES_MAX);
                self.found = addresses;
                if is_awaited {
                    self.untried = self.found.iter().copied().collect();
                    self.start_dial(io);
                }
            }
            Err(error) if is_awaited => {
                self.not_found(io, format!("its name cannot be resolved: {error}"), rng);
            }
            // Its addresses of old are being tried already.
            Err(_) => {}
        }
    }

    /// There is no answer from the resolver, or none of use: the member may be where it was.
    fn not_found<I: Io>(&mut self, io: &mut I, failure: String, rng: &mut Rng) {
        if self.found.is_empty() {
            return self.fail(io.now(), rng, failure);
        }
        self.log_failure(failure);
        self.untried = self.found.iter().copied().collect();
        self.start_dial(io);
    }

    /// When a dial is wanted: at once, or when what stands falls silent.
    fn wanted_at(&self, timing: Timing) -> Instant {
        let Some(line) = &self.line else { return Instant(0) };
        if planted(Mutant::SilentFlowNotRedialled) {
            return Instant(u64::MAX);
        }
        let unproven_at = line.proven_at + timing.silent_after;
        let unheard_at = line.proven_at.max(self.heard_at) + timing.silent_after;
        // The member's word may wait behind much else. So as long as anything arrives from it, only
        // its own word that nothing reaches it counts.
        match line.barren_at {
            Some(at) if at >= unproven_at => at.min(unheard_at),
            _ => unheard_at,
        }
    }

    /// When [`Outbound::tick`] has something to do next.
    pub(super) fn next_deadline(&self, timing: Timing) -> Instant {
        let dial = match (&self.dial, self.dial.under_way()) {
            (_, Some((_, since))) => since + timing.answer_max,
            (Dial::Idle { retry_at }, _) => self.wanted_at(timing).max(*retry_at),
            (Dial::LookingUp { since }, _) => *since + timing.answer_max,
            _ => unreachable!("what is not idle is under way"),
        };
        self.line.as_ref().map_or(dial, |line| line.alive_at.min(dial))
    }

    /// Starts sending what is queued.
    pub(super) fn flush<I: Io>(&mut self, io: &mut I) {
        if let Some(line) = &mut self.line {
            line.outbox.flush(io, line.conn);
        }
        if let Dial::Greeting { line, .. } = &mut self.dial {
            line.outbox.flush(io, line.conn);
        }
    }

    /// The connection that was dialled stands: greet.
    pub(super) fn on_connected<I: Io>(&mut self, io: &mut I, conn: ConnId, hello: &Hello) {
        if !matches!(self.dial, Dial::Connecting { conn: dialled, .. } if dialled == conn) {
            return;
        }
        let now = io.now();
        let mut line = Box::new(Line::new(conn, now));
        let Line { encoder, outbox, .. } = &mut *line;
        outbox.encode(|out| encode_hello(hello, encoder, out));
        line.outbox.flush(io, conn);
        self.dial = Dial::Greeting { line, since: now };
    }

    /// A send has left.
    pub(super) fn on_sent(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        let line = match &mut self.dial {
            Dial::Greeting { line, .. } if line.conn == conn => Some(line),
            _ => self.line.as_mut().filter(|line| line.conn == conn),
        };
        if let Some(line) = line {
            line.outbox.sent(parts);
        }
    }

    /// The answer to the greeting: the only thing a member ever sends on a connection that was
    /// dialled from here.
    pub(super) fn on_received<I: Io>(
        &mut self,
        io: &mut I,
        conn: ConnId,
        bytes: &[u8],
        (pool, identity): (&BlockPool, &Identity),
        rng: &mut Rng,
    ) -> Option<PeerEvent> {
        let now = io.now();
        let is_line = self.is_line(conn);
        let line = match &mut self.dial {
            _ if is_line => self.line.as_mut()?,
            Dial::Greeting { line, .. } if line.conn == conn => line,
            _ => return None,
        };
        let mut rest = bytes;
        let reply = match line.decoder.next(&mut rest, pool) {
            Ok(None) => return None,
            Ok(Some(frame)) => decode_hello_reply(&frame),
            Err(error) => Err(error),
        };
        let (failure, is_refused) = match reply {
            Ok(HelloReply::Welcome(_)) if is_line => ("it greets twice".to_owned(), false),
            Ok(HelloReply::Welcome(welcome)) => {
                match identity.judge_standing(self.id, &welcome.standing) {
                    Ok(()) => return self.welcomed(io, welcome),
                    Err((_, why)) => (why, true),
                }
            }
            Ok(HelloReply::Refused { text, .. }) => (format!("it refuses: {text}"), true),
            Err(error) => (format!("it does not speak the protocol: {error}"), false),
        };
        Net::close(io, conn);
        let event = self.ended(now, is_line, failure, rng);
        self.is_refused = is_refused;
        event
    }

    /// The new connection is the one that is used from here on.
    fn welcomed<I: Io>(&mut self, io: &mut I, welcome: Welcome) -> Option<PeerEvent> {
        let now = io.now();
        let Dial::Greeting { mut line, .. } =
            std::mem::replace(&mut self.dial, Dial::Idle { retry_at: now })
        else {
            unreachable!("only a greeting is welcomed")
        };
        (line.proven_at, line.alive_at) = (now, now);
        debug!(peer = %self.id, address = %self.address, "connected");
        self.failures_logged.clear();
        self.untried.clear();
        self.last_failure = None;
        self.is_refused = false;
        (self.standing, self.pending) = (welcome.standing, welcome.pending);
        if let Some(old) = self.line.replace(line) {
            Net::close(io, old.conn);
        }
        Some(PeerEvent::Connected(self.id))
    }

    /// A connection of this member is gone.
    pub(super) fn on_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        reason: &CloseReason,
        rng: &mut Rng,
    ) -> Option<PeerEvent> {
        self.ended(now, self.is_line(conn), reason.to_string(), rng)
    }

    /// The connection that was used, or the one that was being made, is no more.
    fn ended(
        &mut self,
        now: Instant,
        was_line: bool,
        failure: String,
        rng: &mut Rng,
    ) -> Option<PeerEvent> {
        if !was_line {
            self.fail(now, rng, failure);
            return None;
        }
        self.line = None;
        match self.dial {
            Dial::Idle { .. } => self.fail(now, rng, failure),
            // Its successor is under way already.
            _ => info!(peer = %self.id, "the silent connection is gone: {failure}"),
        }
        Some(PeerEvent::Disconnected(self.id))
    }

    /// Notes a failure and when to dial again: later each time, and not in step with others. While
    /// there are addresses left, at once.
    fn fail(&mut self, now: Instant, rng: &mut Rng, failure: String) {
        self.last_failure = Some(failure.clone());
        self.is_refused = false;
        self.log_failure(failure);
        if !self.untried.is_empty() {
            self.dial = Dial::Idle { retry_at: now };
            return;
        }
        let retry_at = now + rng.between(self.backoff / 2, self.backoff);
        self.dial = Dial::Idle { retry_at };
        self.backoff = (self.backoff * 2).min(REDIAL_MAX);
    }

    fn log_failure(&mut self, failure: String) {
        let is_new = !self.failures_logged.contains(&failure);
        if is_new && self.failures_logged.len() < FAILURES_LOGGED_MAX {
            warn!(peer = %self.id, address = %self.address, "not connected: {failure}");
            self.failures_logged.push(failure);
        }
    }

    // ---- what arrives on the connection that the member dialled -------------------------------

    /// Something has.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// The member has dialled and greeted: it is there, so it is not waited for any longer.
    pub(super) fn met(&mut self, now: Instant) {
        self.heard(now);
        self.backoff = REDIAL_MIN;
        if let Dial::Idle { retry_at } = &mut self.dial {
            *retry_at = now.min(*retry_at);
        }
    }

    /// The member tells what it has received.
    pub(super) fn on_alive(&mut self, now: Instant, alive: &Alive) {
        let Some(line) = &mut self.line else { return };
        if alive.heard_line == line.conn.0 && alive.heard_bytes > line.received {
            line.received = alive.heard_bytes;
            line.proven_at = now;
            line.barren_at = None;
            self.backoff = REDIAL_MIN;
            self.silence_logged = false;
        } else {
            line.barren_at = Some(now);
        }
    }
}

impl Line {
    fn new(conn: ConnId, now: Instant) -> Line {
        Line {
            conn,
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::new(),
            outbox: Outbox::default(),
            received: 0,
            proven_at: now,
            barren_at: None,
            alive_at: now,
            alive_end: 0,
        }
    }

    fn tell_alive(&mut self, now: Instant, timing: Timing, heard: Heard, group: GroupId) {
        if now < self.alive_at {
            return;
        }
        self.alive_at = now + timing.alive_every;
        // What waits before it proves as much as it would.
        if self.outbox.sent_bytes() < self.alive_end {
            return;
        }
        let alive = Alive { line: self.conn.0, heard_line: heard.line, heard_bytes: heard.bytes };
        let Line { encoder, outbox, .. } = self;
        outbox.encode(|out| encode_alive(&alive, group, encoder, out));
        self.alive_end = self.outbox.sent_bytes() + self.outbox.queued_bytes() as u64;
    }
}

impl Dial {
    fn conn(&self) -> Option<ConnId> {
        self.under_way().map(|(conn, _)| conn)
    }

    /// The connection that is being made, and since when this step of it takes.
    fn under_way(&self) -> Option<(ConnId, Instant)> {
        match self {
            Dial::Idle { .. } | Dial::LookingUp { .. } => None,
            Dial::Connecting { conn, since } => Some((*conn, *since)),
            Dial::Greeting { line, since } => Some((line.conn, *since)),
        }
    }
}
