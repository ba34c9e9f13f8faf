//! The node: one replica of one group, driven turn by turn.
//!
//! `server/` hands it every event that is not a client's and every client's append or read; it
//! answers through [`Node::take_answers`]. One turn: a checkpoint is taken if it is time
//! ([`Node::begin_turn`]); events come in and step the core; at the end
//! of the turn ([`Node::end_turn`]) the open batch is sealed if the log is free, and everything
//! that the turn produced is submitted together.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use tracing::{error, info, warn};

use super::appends::Appends;
use super::audit::Audit;
use super::barriers::Barriers;
use super::cache::{AppliedSlot, SlotCache};
use super::checkpoints;
use super::divergence::{Divergence, Verdict};
use super::founding::{Founder, check_recovered, founding_of};
use super::log_time::LogTime;
use super::peers::{PeerEvent, Peers};
use super::serve::Serving;
use super::stages::{Stage, Stages};
use super::{
    Answer, BARRIERS_MAX, CommandFailure, NodeFailure, NodeOptions, Refusal, TRANSFERS_MAX, Ticket,
};
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Batch, Checksum, GroupId, Instant, LogId, NodeId, Position, Slot};
use crate::io::{CloseReason, ConnId, DiskEvent, Io, LookupId, Net, SendPart};
use crate::log::{
    AppendId, COMMAND_BYTES_MIN, CutKind, CutRecord, Entry, Log, LogError, LogEvent, LogRecovered,
    PositionLookup, RestoreError, VoteId, placement_bytes_max,
};
use crate::machine::{
    BatchError, COMMAND_HEADER_SIZE, Command, DecodeError, Logs, Machine, Outcome, StateMark,
    stated_counts,
};
use crate::paxos::{
    Core, Cut, Effect, Effects, Input, Message, Outgoing, PersistId, Recovered, Role, Value, Write,
};
use crate::wire::{FrameDecoder, Hello, HelloReply, Limits, Standing};

// The log's bound on placements counts on it.
const _: () = assert!(COMMAND_HEADER_SIZE >= COMMAND_BYTES_MIN);

/// A persist whose write is in the log's hands, with the replies it permits.
#[derive(Debug)]
struct Pending<W> {
    write: W,
    id: PersistId,
    then: Vec<Outgoing<Batch>>,
    /// When the log got it.
    since: Instant,
}

impl Value for Batch {
    fn noop() -> Batch {
        Batch::noop()
    }

    fn size(&self) -> usize {
        self.value_size()
    }

    fn checksum(&self) -> Checksum {
        self.checksum()
    }
}

/// One replica of one group.
pub struct Node {
    pub(super) options: NodeOptions,
    pub(super) core: Core<Batch>,
    pub(super) log: Log,
    pub(super) machine: Machine,
    pub(super) cache: SlotCache,
    pub(super) peers: Peers,
    pub(super) founder: Founder,
    pub(super) appends: Appends,
    pub(super) audit: Audit,
    pub(super) stages: Stages,
    serving: Serving,
    barriers: Barriers,
    /// Entries handed to the log and not yet durable, in the log's order.
    pending_entries: VecDeque<Pending<AppendId>>,
    /// Promises handed to the log and not yet durable, in order.
    pending_votes: VecDeque<Pending<VoteId>>,
    pub(super) inputs: VecDeque<Input<Batch>>,
    effects: Effects<Batch>,
    outcomes: Vec<Outcome>,
    log_events: Vec<LogEvent>,
    pub(super) peer_events: Vec<PeerEvent>,
    pub(super) answers: Vec<Answer>,
    /// The logs that have grown or gone since [`Node::take_touched`].
    touched: Vec<LogId>,
    pub(super) role: Role,
    /// When the first command came into the open batch.
    open_since: Instant,
    /// The log's time, while this replica leads.
    log_time: LogTime,
    /// Who waits for the leadership to be handed over, and to whom.
    transfers: Vec<(NodeId, Ticket)>,
    /// It has handed the leadership over and knows no leader yet: the open batch waits until it
    /// does, so that whoever waits for it is sent to the right place at once.
    handed_over: bool,
    /// A chosen slot that this version does not understand. Nothing is applied, sent or answered from
    /// then on.
    not_understood: Option<(Slot, BatchError)>,
    /// What the peers tell of their states, and the slot after which this one was found to differ from a
    /// majority, with that: it goes no further then.
    pub(super) divergence: Divergence,
    diverged: Option<(Slot, Vec<NodeId>)>,
    /// The record of what was cut from the log is to be taken away.
    forgets_cut: bool,
    /// The slot of the last checkpoint that was taken, or that the start went on from.
    checkpointed: Slot,
    /// Slots and records applied since the start, the replayed ones not included.
    pub(super) applied_slots: u64,
    pub(super) applied_records: u64,
}

impl Node {
    /// Opens the group's log, takes the newest checkpoint, and replays what was chosen after it. Blocks;
    /// nothing is served meanwhile.
    pub fn open<I: Io>(io: &mut I, mut options: NodeOptions) -> Result<Node, NodeFailure> {
        options.validate()?;
        let pool = options.pool.clone();
        let mut audit = Audit::new(options.audit);
        let mut machine = Machine::new();
        let session_limits = options.session_limits;
        machine.set_session_limits(session_limits);
        let mut restore = |slot: Slot, state: &[u8]| {
            let restored = Machine::decode(state).map_err(|error| match error {
                DecodeError::Newer(_) => RestoreError::Newer(error.to_string()),
                error => RestoreError::Wrong(error.to_string()),
            })?;
            if restored.applied() != slot {
                let why = format!("it is the state after slot {}", restored.applied());
                return Err(RestoreError::Wrong(why));
            }
            machine = restored;
            machine.set_session_limits(session_limits);
            Ok(())
        };
        let (mut log, recovered) =
            Log::open_from(io, &options.folder(), options.log.clone(), &mut restore)?;
        audit.restored(&machine);
        let checkpointed = machine.applied();
        let mut outcomes = Vec::new();
        let mut not_understood = None;
        let mut founded_as = None;
        let mark_every = options.state_mark_every;
        let replayed = log.replay(io, &mut |slot, ballot, batch| {
            if slot == Slot(1) && options.group == GroupId(0) {
                founded_as = founding_of(batch.value());
            }
            outcomes.clear();
            let placement = machine.apply(slot, batch.value(), &mut outcomes).map_err(|error| {
                not_understood = Some((slot, error));
                error.to_string()
            })?;
            machine.hash_applied(batch.checksum(), &outcomes, mark_every);
            let placement = Rc::new(placement);
            let applied =
                || AppliedSlot { slot, ballot, placement: placement.clone(), batch: batch.clone() };
            audit.applied(applied);
            Ok(placement)
        });
        match not_understood {
            Some((slot, error)) => {
                return Err(NodeFailure::NewerVersion { group: options.group, slot, error });
            }
            None => replayed?,
        }
        if planted(Mutant::SessionsLostAtRestart) {
            machine.forget_sessions();
        }
        info!(
            chosen = %recovered.chosen,
            checkpoint = %recovered.checkpoint,
            promised = %recovered.promised,
            accepted = recovered.accepted.len(),
            tail = %machine.tail(),
            torn_bytes = recovered.torn_bytes,
            "recovered the log",
        );
        match &recovered.cut {
            Some(CutRecord { kind: CutKind::Damaged, what }) => warn!(
                damage = %what,
                "the end of the log was damaged and has been cut: this replica has no vote until it has \
                 fetched from its peers what it may have lost"
            ),
            Some(CutRecord { kind: CutKind::Torn, what }) => {
                info!(%what, "a write that was cut short has been cut from the log's end");
            }
            None => {}
        }
        audit.recovered(&recovered);
        let identity = &mut options.identity;
        check_recovered(identity, recovered.chosen, founded_as.as_ref())
            .map_err(NodeFailure::Founding)?;
        if identity.founding.is_none() {
            let first = recovered.accepted.first().filter(|(slot, ..)| *slot == Slot(1));
            identity.pending = first.and_then(|(_, _, value)| founding_of(value.value()));
            identity.is_used = recovered.accepted.iter().any(|(slot, ..)| *slot > Slot(1));
            options.paxos.may_campaign =
                identity.pending.is_some() || planted(Mutant::BlankNodeCampaigns);
            if options.group == GroupId(0) && founded_as.is_none() {
                let targets = identity.members.iter().map(|(_, address)| address.as_str());
                let targets = targets.collect::<Vec<_>>().join(",");
                info!(
                    "blank: waits for the cluster to be founded, with `loggos init --target {targets}`"
                );
            }
        }
        let known = founded_as.filter(|_| options.identity.founding.is_none());
        let founder = Founder::new(options.fresh_cluster, known);
        let core = Core::new(options.paxos.clone(), into_core(recovered), io.now(), options.seed)?;
        let peers = Peers::new(
            options.identity.clone(),
            options.group,
            pool.clone(),
            options.paxos.election_timeout,
            options.seed ^ 0x7065_6572,
        );
        let role = core.role();
        Ok(Node {
            core,
            log,
            machine,
            cache: SlotCache::new(options.cache_bytes_max),
            peers,
            founder,
            appends: Appends::new(pool, options.append_bytes_max, options.value_bytes_max()),
            audit,
            stages: Stages::new(),
            serving: Serving::default(),
            barriers: Barriers::default(),
            pending_entries: VecDeque::new(),
            pending_votes: VecDeque::new(),
            inputs: VecDeque::new(),
            effects: Effects::new(),
            outcomes: Vec::new(),
            log_events: Vec::new(),
            peer_events: Vec::new(),
            answers: Vec::new(),
            touched: Vec::new(),
            role,
            open_since: io.now(),
            log_time: LogTime::begin(io.now(), 0, options.paxos.election_timeout),
            transfers: Vec::new(),
            handed_over: false,
            not_understood: None,
            divergence: Divergence::new(
                options.identity.member_ids().into_iter().filter(|id| *id != options.identity.node),
            ),
            diverged: None,
            forgets_cut: false,
            checkpointed,
            applied_slots: 0,
            applied_records: 0,
            options,
        })
    }

    // ---- what clients ask -------------------------------------------------------------------

    /// Whether an append of any permitted size would be taken now (or refused for a reason that
    /// waiting does not mend). While it would not, client sockets are not read: back-pressure.
    pub fn has_append_room(&self) -> bool {
        let holds = self.role == Role::Leader || self.handed_over;
        !holds || self.appends.has_room() || self.core.can_propose()
    }

    /// Takes a command into the open batch; an [`Answer`] with the ticket follows. The caller has
    /// checked the run and asked [`Node::has_append_room`].
    pub fn submit(
        &mut self,
        now: Instant,
        ticket: Ticket,
        command: &Command<'_>,
    ) -> Result<(), Refusal> {
        if self.role != Role::Leader && !self.handed_over {
            return Err(Refusal::NotLeader { hint: self.core.leader() });
        }
        if !self.log.has_room() {
            return Err(Refusal::DiskFull);
        }
        if !self.appends.has_room() && self.may_propose() {
            self.propose(now);
        }
        if !self.appends.has_room() {
            return Err(Refusal::Overloaded);
        }
        self.check_early(command)?;
        if self.appends.is_empty() {
            self.open_since = now;
        }
        self.appends.push(ticket, command);
        Ok(())
    }

    /// Where the mistake is planted to judge conditions when an append is taken, this judges them.
    fn check_early(&self, command: &Command<'_>) -> Result<(), Refusal> {
        let Some(log) = self.machine.logs().get(command.log) else { return Ok(()) };
        let moved = command.terms.if_tail.is_some_and(|tail| tail != log.tail)
            && planted(Mutant::ConditionCheckedByLeaderOnly);
        let fenced = command.terms.fence.unwrap_or_default() < log.fence
            && planted(Mutant::FenceCheckedByLeaderOnly);
        if moved || fenced { Err(Refusal::Overloaded) } else { Ok(()) }
    }

    /// Hands the leadership over to the member `to`: [`Answer::Transfer`] with the ticket follows.
    pub fn transfer(&mut self, now: Instant, ticket: Ticket, to: NodeId) -> Result<(), Refusal> {
        if self.role != Role::Leader {
            return Err(Refusal::NotLeader { hint: self.core.leader() });
        }
        if self.transfers.len() >= TRANSFERS_MAX {
            return Err(Refusal::Overloaded);
        }
        self.transfers.push((to, ticket));
        self.step(now, Input::TransferTo(to));
        Ok(())
    }

    /// The node is about to stop: it hands its leadership over, and keeps none that it gets.
    pub fn retire(&mut self) {
        self.core.retire();
    }

    /// Whether a node that is about to stop has handed its leadership over, as far as anybody takes
    /// it: those who wait for a leader have been told of the new one.
    pub fn has_retired(&self) -> bool {
        !self.core.can_hand_over() && !self.handed_over
    }

    /// Whether `node` is a member.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.core.config().members.contains(&node)
    }

    /// Whether a linearizable read that has arrived by `now` may be answered from here at once;
    /// otherwise [`Answer::Confirmed`] with the ticket follows. With `lease` a lease of the leader
    /// is good enough, without it a quorum is asked.
    pub fn confirm_read(
        &mut self,
        now: Instant,
        ticket: Ticket,
        lease: bool,
    ) -> Result<bool, Refusal> {
        if lease && self.core.lease_index(now).is_some() {
            return Ok(true);
        }
        if self.barriers.len() >= BARRIERS_MAX {
            return Err(Refusal::Overloaded);
        }
        let id = self.barriers.push(ticket);
        self.step(now, Input::Read { id, lease });
        Ok(false)
    }

    /// Reads the slot that holds the record at `position` of a log from the disk: [`Answer::Read`]
    /// follows.
    pub fn read_position<I: Io>(
        &mut self,
        io: &mut I,
        ticket: Ticket,
        log: LogId,
        position: Position,
    ) -> Result<(), Refusal> {
        let read = self.serving.client_read(ticket);
        self.log.read_position(io, read, log, position).map_err(|error| {
            self.serving.forget(read);
            Refusal::NotStored(error.to_string())
        })
    }

    /// The slots with records of `log`, from the one that holds the record at `position` on, as far
    /// as they are in memory; each with the position of its first record in that log.
    pub fn cached(
        &self,
        log: LogId,
        position: Position,
    ) -> impl Iterator<Item = (Position, &AppliedSlot)> {
        self.cache.starting_at(log, position)
    }

    /// Whether the record at `position` of `log` is in memory, or in the files as far as their index
    /// in memory tells.
    pub fn finds(&self, log: LogId, position: Position) -> bool {
        self.cached(log, position).next().is_some()
            || self.log.slot_at(log, position) != PositionLookup::Unknown
    }

    /// The logs, as far as this replica has applied.
    pub fn logs(&self) -> &Logs {
        self.machine.logs()
    }

    /// The leader that this replica knows of, itself included.
    pub fn leader(&self) -> Option<NodeId> {
        self.core.leader()
    }

    /// Moves what has been answered since the last call to the end of `answers`.
    pub fn take_answers(&mut self, answers: &mut Vec<Answer>) {
        answers.append(&mut self.answers);
    }

    /// Moves the logs that have grown or gone since the last call to the end of `logs`; a log may
    /// come several times.
    pub fn take_touched(&mut self, logs: &mut Vec<LogId>) {
        logs.append(&mut self.touched);
    }

    /// The group that this is a replica of.
    pub fn group(&self) -> GroupId {
        self.options.group
    }

    /// How many groups the cluster has.
    pub fn group_count(&self) -> u16 {
        self.options.identity.group_count
    }

    /// The answer to a greeting.
    pub fn answer(&self, hello: &Hello) -> HelloReply {
        let append_bytes_max = self.options.append_bytes_max as u32;
        let limits = Limits { append_bytes_max, ..Limits::default() };
        self.options.identity.answer(hello, self.options.group, self.core.leader(), limits)
    }

    // ---- events -----------------------------------------------------------------------------

    /// Whether events of this connection belong to the node.
    pub fn owns_conn(&self, conn: ConnId) -> bool {
        self.peers.owns(conn)
    }

    /// A member has greeted on a connection that the server took in.
    pub fn adopt_peer<I: Io>(
        &mut self,
        io: &mut I,
        conn: ConnId,
        peer: (NodeId, Standing),
        decoder: FrameDecoder,
        rest: &[u8],
    ) {
        if let Some(old) = self.peers.adopt(io.now(), conn, peer, decoder) {
            Net::close(io, old);
        }
        if !rest.is_empty() {
            self.on_received(io, conn, rest);
        }
    }

    /// A name that the node asked for has been looked up.
    pub fn on_looked_up<I: Io>(
        &mut self,
        io: &mut I,
        lookup: LookupId,
        addresses: std::io::Result<Vec<SocketAddr>>,
    ) {
        self.peers.on_looked_up(io, lookup, addresses);
    }

    /// A connection that the node dialled stands.
    pub fn on_connected<I: Io>(&mut self, io: &mut I, conn: ConnId) {
        self.peers.on_connected(io, conn);
    }

    /// Bytes have arrived on a connection of the node.
    pub fn on_received<I: Io>(&mut self, io: &mut I, conn: ConnId, bytes: &[u8]) {
        let mut events = std::mem::take(&mut self.peer_events);
        self.peers.on_received(io, conn, bytes, &mut events);
        self.on_peer_events(io.now(), &mut events);
        self.peer_events = events;
    }

    /// A send on a connection of the node has left.
    pub fn on_sent(&mut self, conn: ConnId, parts: Vec<SendPart>) {
        self.peers.on_sent(conn, parts);
    }

    /// A connection of the node is gone.
    pub fn on_closed(&mut self, now: Instant, conn: ConnId, reason: &CloseReason) {
        let mut events = std::mem::take(&mut self.peer_events);
        self.peers.on_closed(now, conn, reason, &mut events);
        self.on_peer_events(now, &mut events);
        self.peer_events = events;
    }

    pub(super) fn on_peer_events(&mut self, now: Instant, events: &mut Vec<PeerEvent>) {
        for event in events.drain(..) {
            if let PeerEvent::Connected(peer) = event
                && let Some(StateMark { slot, hash }) = self.machine.state_marks().back().copied()
            {
                self.peers.queue(peer, &Message::StateHash { slot, hash });
            }
            if let PeerEvent::Message(from, standing, message) = &event {
                if !self.may_take(*from, standing, message) {
                    continue;
                }
                if let Message::StateHash { slot, hash } = *message {
                    self.on_state_hash(*from, StateMark { slot, hash });
                    continue;
                }
                if let Message::Accepted { slot, .. } = message {
                    self.stages.answered(*slot, now);
                }
            }
            let input = match event {
                PeerEvent::Connected(peer) => Input::PeerConnected(peer),
                PeerEvent::Disconnected(peer) => Input::PeerDisconnected(peer),
                PeerEvent::Lost(peer) => Input::PeerLost(peer),
                PeerEvent::Message(from, _, message) => Input::Message { from, message },
            };
            self.step(now, input);
        }
    }

    /// A disk operation has completed.
    ///
    /// # Errors
    /// When a write or flush failed: the process must end without answering anything more.
    pub fn on_disk_event<I: Io>(
        &mut self,
        io: &mut I,
        event: DiskEvent,
    ) -> Result<(), NodeFailure> {
        let now = io.now();
        let mut events = std::mem::take(&mut self.log_events);
        let result = self.log.on_disk_event(now, io, event, &mut events);
        let mut damaged = None;
        for event in events.drain(..) {
            match event {
                LogEvent::Durable(upto) => self.on_entries_durable(now, upto),
                LogEvent::VoteDurable(vote) => self.on_vote_durable(now, vote),
                LogEvent::Read { ticket, result } => {
                    self.serving.on_read(ticket, result, &mut self.answers);
                }
                LogEvent::Damaged(damage) => damaged = Some(damage),
            }
        }
        self.log_events = events;
        match damaged {
            // As if the start had found it.
            Some(damage) => Err(NodeFailure::Open(LogError::Corrupt(damage))),
            None => Ok(result?),
        }
    }

    /// What the durable entries permit leaves now, and not before.
    fn on_entries_durable(&mut self, now: Instant, upto: AppendId) {
        while self.pending_entries.front().is_some_and(|pending| pending.write <= upto) {
            let pending = self.pending_entries.pop_front().expect("looked at above");
            self.stages.record(Stage::Write, now.since(pending.since));
            self.persisted(now, pending.id, pending.then);
        }
    }

    fn on_vote_durable(&mut self, now: Instant, vote: VoteId) {
        while self.pending_votes.front().is_some_and(|pending| pending.write <= vote) {
            let pending = self.pending_votes.pop_front().expect("looked at above");
            self.persisted(now, pending.id, pending.then);
        }
    }

    fn persisted(&mut self, now: Instant, id: PersistId, then: Vec<Outgoing<Batch>>) {
        for reply in then {
            self.peers.queue(reply.to, &reply.message);
        }
        self.step(now, Input::Persisted(id));
    }

    // ---- the core ---------------------------------------------------------------------------

    pub(super) fn step(&mut self, now: Instant, input: Input<Batch>) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            if self.goes_no_further() {
                // The core knows more chosen than is applied: a read that it permits now would miss it.
                self.inputs.clear();
                return;
            }
            let mut effects = std::mem::take(&mut self.effects);
            self.core.step(now, input, &mut effects);
            for effect in effects.drain(..) {
                if !self.goes_no_further() {
                    self.carry_out(now, effect);
                }
            }
            self.effects = effects;
        }
    }

    fn goes_no_further(&self) -> bool {
        self.not_understood.is_some() || self.diverged.is_some()
    }

    /// Whether the node can go on. To be asked before anything leaves that was made in a turn.
    ///
    /// # Errors
    /// When a chosen slot is not understood, or the state differs from a majority's: the process must end
    /// without answering anything more.
    pub fn check(&self) -> Result<(), NodeFailure> {
        let group = self.options.group;
        if let Some((slot, peers)) = &self.diverged {
            let peers = peers.iter().map(|peer| peer.0).collect();
            return Err(NodeFailure::Diverged { group, slot: *slot, peers });
        }
        match self.not_understood {
            None => Ok(()),
            Some((slot, error)) => Err(NodeFailure::NewerVersion { group, slot, error }),
        }
    }

    fn carry_out(&mut self, now: Instant, effect: Effect<Batch>) {
        match effect {
            Effect::Persist { id, write, then } => self.persist(now, id, write, then),
            Effect::Send(out) => self.peers.queue(out.to, &out.message),
            Effect::Chosen { slot, ballot, value } => {
                self.stages.chosen(slot, now);
                self.apply(slot, ballot, value);
            }
            Effect::SendChosen { to, first, last } => self.serving.start(to, first, last),
            Effect::ReadReady { first, last } => {
                self.barriers.end(first, last, true, &mut self.answers);
            }
            Effect::ReadFailed { first, last } => {
                self.barriers.end(first, last, false, &mut self.answers);
            }
            Effect::TransferEnded { to, taken_over } => self.transfer_ended(to, taken_over),
            Effect::ForgetCut => self.forgets_cut = true,
            Effect::RoleChanged(role) => self.change_role(now, role),
        }
    }

    fn persist(
        &mut self,
        now: Instant,
        id: PersistId,
        write: Write<Batch>,
        then: Vec<Outgoing<Batch>>,
    ) {
        let since = now;
        match write {
            Write::Promise(ballot) => {
                let write = self.log.vote(ballot);
                self.pending_votes.push_back(Pending { write, id, then, since });
            }
            Write::Entry { slot, ballot, chosen, value } => {
                self.note_held(slot, &value);
                let then = if !then.is_empty() && planted(Mutant::AcceptedBeforeDurable) {
                    then.iter().for_each(|reply| self.peers.queue(reply.to, &reply.message));
                    Vec::new()
                } else {
                    then
                };
                let (commands, logs) = stated_counts(value.value());
                let placement_bytes_max = placement_bytes_max(commands, logs);
                let entry = Entry { slot, ballot, chosen, batch: &value, placement_bytes_max };
                let write = self.log.append(entry);
                self.pending_entries.push_back(Pending { write, id, then, since });
            }
        }
    }

    fn apply(&mut self, slot: Slot, ballot: Ballot, batch: Batch) {
        self.outcomes.clear();
        let placement = match self.machine.apply(slot, batch.value(), &mut self.outcomes) {
            Ok(placement) => Rc::new(placement),
            Err(error) => {
                self.not_understood = Some((slot, error));
                return;
            }
        };
        self.note_chosen(slot, &batch);
        self.hash_applied(batch.checksum());
        self.touched.extend(placement.spans.iter().map(|span| span.log));
        self.touched.extend(self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::LogDeleted(log) => Some(*log),
            _ => None,
        }));
        self.applied_slots += 1;
        self.applied_records += u64::from(placement.records());
        self.log.set_placement(slot, placement.clone());
        self.appends.chosen(slot, &self.outcomes, &mut self.answers);
        let applied = AppliedSlot { slot, ballot, placement, batch };
        self.audit.applied(|| applied.clone());
        self.cache.push(applied);
    }

    /// Takes the slot just applied into the hash of the state; tells the peers of a mark, and compares it.
    fn hash_applied(&mut self, value: Checksum) {
        let applied = self.machine.applied();
        if self.core.id() == NodeId(1) && applied == Slot(20) && planted(Mutant::AppliesDifferently)
        {
            self.machine.miscount();
        }
        let mark_every = self.options.state_mark_every;
        let Some(mark) = self.machine.hash_applied(value, &self.outcomes, mark_every) else {
            return;
        };
        let own = self.core.id();
        for (id, _) in self.options.identity.members.iter().filter(|(id, _)| *id != own) {
            let StateMark { slot, hash } = mark;
            self.peers.queue(*id, &Message::StateHash { slot, hash });
        }
        self.compare_state(mark);
    }

    /// A peer tells a mark of its state.
    fn on_state_hash(&mut self, peer: NodeId, mark: StateMark) {
        self.divergence.heard(peer, mark);
        let own = self.machine.state_marks();
        if let Ok(at) = own.binary_search_by_key(&mark.slot, |own| own.slot) {
            self.compare_state(own[at]);
        }
    }

    fn compare_state(&mut self, own: StateMark) {
        match self.divergence.judge(own) {
            Verdict::Alike => {}
            Verdict::PeersDiffer { slot, peers } => {
                error!(%slot, ?peers, "the state of these nodes differs from this one's");
            }
            Verdict::Alone { slot, peers } => self.diverged = Some((slot, peers)),
        }
    }

    fn change_role(&mut self, now: Instant, role: Role) {
        info!(?role, ballot = %self.core.promised(), chosen = %self.core.chosen(), "role");
        let hint = match role {
            Role::Follower { leader } => leader,
            Role::Candidate | Role::Leader => None,
        };
        if role == Role::Candidate {
            self.warn_of_votes();
        }
        let failure = CommandFailure::NotLeader { hint };
        let led = self.role == Role::Leader;
        self.role = role;
        if led && role != Role::Leader {
            self.stages.lost_lead();
        }
        if role == Role::Leader && !led {
            let step_max = self.options.paxos.election_timeout;
            self.log_time = LogTime::begin(now, self.machine.time_ms(), step_max);
        }
        if led && self.handed_over && role == (Role::Follower { leader: None }) {
            self.appends.fail_proposed(&failure, &mut self.answers);
        } else if role != Role::Leader && (led || self.handed_over) {
            self.handed_over = false;
            self.appends.fail_all(failure, &mut self.answers);
        }
        // Leading again, it proposes itself what has waited.
        self.handed_over &= role != Role::Leader;
    }

    fn transfer_ended(&mut self, to: NodeId, taken_over: bool) {
        info!(%to, taken_over, ballot = %self.core.promised(), "handing over");
        // The change of role follows.
        self.handed_over = taken_over && to != self.core.id();
        let answers = &mut self.answers;
        self.transfers.retain(|(asked, ticket)| {
            if *asked == to {
                answers.push(Answer::Transfer { ticket: *ticket, to, taken_over });
            }
            *asked != to
        });
    }

    /// Takes the record of what was cut from the log away, if that is made good. Blocks for a moment,
    /// once after a crash.
    ///
    /// # Errors
    /// The record may still stand: the process must end.
    pub fn forget_cut<I: Io>(&mut self, io: &mut I) -> Result<(), NodeFailure> {
        if std::mem::take(&mut self.forgets_cut) {
            let had_vote = self.core.has_vote();
            self.log.forget_cut(io)?;
            self.step(io.now(), Input::CutForgotten);
            if !had_vote {
                info!(chosen = %self.core.chosen(), "this replica has its vote back");
            }
        }
        Ok(())
    }

    /// Says who has no vote, when nobody leads.
    fn warn_of_votes(&self) {
        let status = self.core.status();
        let lost = status.peers.iter().filter(|peer| !peer.votes).map(|peer| peer.id.to_string());
        let lost: Vec<String> = lost.collect();
        if !lost.is_empty() {
            let members = lost.join(", ");
            warn!(
                %members,
                "members have no vote after damage to their logs: a quorum of the others must elect a \
                 leader, which then brings them back"
            );
        }
    }

    /// Seals the open batch and proposes it.
    fn propose(&mut self, now: Instant) {
        let slot = self.core.next_slot();
        self.log_time.step(now);
        let batch = self.appends.seal(slot, self.log_time.ms());
        self.stages.sealed(slot, self.open_since, now);
        self.step(now, Input::Propose(batch));
    }

    // ---- the turn ---------------------------------------------------------------------------

    /// Ends the turn: seals if the log is free (or far behind the quorum), lets the core send what
    /// waits, and starts every write and send.
    ///
    /// # Errors
    /// As [`Node::check`]: then nothing has left.
    pub fn end_turn<I: Io>(&mut self, io: &mut I) -> Result<(), NodeFailure> {
        let now = io.now();
        self.log_time.step(now);
        self.core.set_disk_full(now, self.is_disk_full());
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.step(now, Input::Tick);
        }
        self.peers.tick(io);
        let may_propose = !self.appends.is_empty() && self.may_propose();
        if may_propose
            && (self.log.is_free_for(self.appends.open_bytes()) || self.open_deadline() <= now)
        {
            self.propose(now);
        }
        self.step(now, Input::EndOfTurn);
        self.check()?;
        self.serving.pump(io, &mut self.log, &self.cache, &mut self.peers);
        // Peers first: their way to the disk is the longer one.
        self.peers.flush(io);
        self.log.submit(now, io);
        Ok(())
    }

    /// To be called first in a turn, before its events: hands the log the machine's state when it
    /// is time for a checkpoint. Returns whether it was. The state is encoded at once: what that
    /// takes is told at [`Machine::encode`]; the rest is written a little at a time. Here it holds up
    /// least: the writes and messages of the turn before are with the kernel, so that the disk and
    /// the peers go on meanwhile.
    pub fn begin_turn(&mut self) -> bool {
        let due = self.wants_turn();
        if due {
            self.take_checkpoint(self.machine.applied());
        }
        due
    }

    /// The node is asked to stop: takes a checkpoint if that is soon done and spares the next start
    /// some work. Whether [`Node::is_writing_checkpoint`] is worth waiting for.
    pub fn prepare_stop(&mut self) -> bool {
        let worthwhile = self.log.checkpoint_worthwhile_at_stop()
            || (self.options.checkpoint_at_every_stop && self.may_checkpoint());
        if worthwhile {
            self.take_checkpoint(self.slot_at_stop());
        }
        worthwhile
    }

    fn slot_at_stop(&self) -> Slot {
        let (applied, durable) = (self.machine.applied(), self.log.stats().durable_slot);
        match durable > applied && planted(Mutant::StopCheckpointOfDurable) {
            true => durable,
            false => applied,
        }
    }

    /// Whether a checkpoint may be taken, and would hold more than the last one.
    fn may_checkpoint(&self) -> bool {
        self.options.log.checkpoint_bytes_min.is_some()
            && !self.log.is_writing_checkpoint()
            && self.machine.applied() > self.checkpointed
    }

    /// Whether a checkpoint is being written.
    pub fn is_writing_checkpoint(&self) -> bool {
        self.log.is_writing_checkpoint()
    }

    /// `slot` is the last one that the machine has applied.
    fn take_checkpoint(&mut self, slot: Slot) {
        let slot = match planted(Mutant::CheckpointOfAnotherSlot) {
            true => slot.next(),
            false => slot,
        };
        self.checkpointed = slot;
        self.log.checkpoint(slot, self.machine.encode());
    }

    /// Whether it is time for a checkpoint, which the next turn takes: it is not to wait for
    /// anything to happen.
    pub fn wants_turn(&self) -> bool {
        self.log.checkpoint_due() && (self.log.checkpoint_overdue() || self.has_own_window())
    }

    fn has_own_window(&self) -> bool {
        let members = &self.core.config().members;
        let place = members.binary_search(&self.core.id()).expect("it is a member");
        checkpoints::is_own_window(self.machine.time_ms(), place, members.len())
    }

    pub(super) fn may_propose(&self) -> bool {
        // A node that goes no further steps its core no more, until the end of the turn ends it.
        !self.goes_no_further() && self.role == Role::Leader && self.core.can_propose()
    }

    /// When the open batch goes out although the log is busy: when the accept quorum waits for it
    /// and the log's disk is far behind the quorum's. What keeps the log busy may be a write that the
    /// core does not know of (a mark, say); and at the latest it goes out after half of the time in
    /// which a disk counts as stalled, so that the core learns of it.
    fn open_deadline(&self) -> Instant {
        let latest = self.open_since + self.options.paxos.disk_stall_timeout / 2;
        self.core.overtakes_own_disk_at(self.open_since).map_or(latest, |at| at.min(latest))
    }

    /// When the node has something to do although nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let open = (!self.appends.is_empty() && self.may_propose()).then(|| self.open_deadline());
        let log_time = (self.role == Role::Leader).then(|| self.log_time.next_step());
        let deadlines = [
            open,
            log_time,
            self.core.next_deadline(),
            self.log.next_deadline(),
            self.peers.next_deadline(),
        ];
        let deadlines = deadlines.into_iter().chain([self.founder.next_deadline()]);
        deadlines.into_iter().flatten().min()
    }
}

fn into_core(recovered: LogRecovered) -> Recovered<Batch> {
    let LogRecovered { promised, chosen, accepted, cut, .. } = recovered;
    let cut = cut.map(|cut| match cut.kind {
        CutKind::Torn => Cut::Torn,
        CutKind::Damaged => Cut::Damaged,
    });
    Recovered { promised, chosen, accepted, cut }
}
