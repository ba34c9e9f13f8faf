//! The replica: its state, the dispatch of inputs, and what every role shares.
//!
//! Called by `node/` through [`Core::step`]. The rules live beside: `acceptor` (what any replica
//! answers), `election` (pre-vote and prepare), `recovery` (values of earlier ballots),
//! `leader` (phase 2), `transfer` (handing over), `give_way` (when and to whom), `catchup` (chosen slots that are missing).
//!
//! Guarantee: what the state says is true of memory at once and of the disk only later, so no
//! promise or acceptance leaves but in the `then` of its own write, or when it is durable already.

use std::time::Duration;

use super::Value;
use super::catchup::Fetching;
use super::config::{Config, ConfigError};
use super::effect::{Effect, Effects, Input, Outgoing, PersistId, Recovered, Role, Write};
use super::election::{PreVoting, Preparing};
use super::leader::Leading;
use super::lease::Grant;
use super::message::{Fitness, Message};
use super::persists::{Pending, Persists};
use super::quorum::{Quorum, Votes};
use super::reads::Reads;
use super::recovery::Recovering;
use super::tears::{OwnCut, PeerCut};
use super::transfer::Reign;
use super::window::{Entry, Window};
use crate::base::mutants::{Mutant, planted};
use crate::base::rng::Rng;
use crate::base::{Ballot, Instant, NodeId, Slot};

/// Rounds above this are taken for damage and ignored: no cluster gets here by campaigning, and
/// a ballot above every other could never be outbid.
pub(super) const ROUND_MAX: u64 = 1 << 62;

/// What the replica does at the moment.
#[derive(Clone)]
pub(super) enum State<V> {
    /// Accepts what others propose.
    Following,
    /// Asks whether a campaign would succeed.
    PreVoting(PreVoting),
    /// Phase 1: collects promises.
    Preparing(Preparing<V>),
    /// A quorum has promised; collects the values of earlier ballots.
    Recovering(Recovering<V>),
    /// Phase 2.
    Leading(Leading),
}

/// What the replica knows of another member, whatever its own role.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// The greatest watermark it told of on this connection: it can be asked for these slots.
    pub(super) chosen: Slot,
    /// Whether a connection to it stands, as [`Input::PeerConnected`] and
    /// [`Input::PeerDisconnected`] tell, and nothing else: the connection *from* it comes and goes by
    /// itself.
    pub(super) connected: bool,
    pub(super) last_contact: Option<Instant>,
    /// The last answer to something sent at our current ballot, while recovering or leading.
    pub(super) answered_at: Instant,
    /// How much it is wanted as the leader, as it told last.
    pub(super) priority: u8,
    /// How well it could lead, as it told last on this connection.
    pub(super) fitness: Option<Fitness>,
    /// How often in a row, as far as seen from here, it has lost a leadership soon or not taken one
    /// over.
    pub(super) setbacks: u32,
    /// What it has cut from its log, as it told last.
    pub(super) cut: Option<PeerCut>,
}

impl Peer {
    /// Whether it has its vote, as far as it has told.
    pub(super) fn votes(&self) -> bool {
        self.cut.as_ref().is_none_or(|cut| cut.votes)
    }
}

/// One replica's Multi-Paxos state machine. See the module `paxos` for what it guarantees.
#[derive(Clone)]
pub struct Core<V: Value> {
    pub(super) config: Config,
    pub(super) quorum: Quorum,
    /// This replica's index in the member list.
    pub(super) me: usize,
    pub(super) rng: Rng,
    /// The greatest time handed in.
    pub(super) now: Instant,
    /// The highest ballot promised; on its way to the disk, or there.
    pub(super) promised: Ballot,
    /// The highest ballot that a restart would find promised.
    pub(super) promised_durable: Ballot,
    pub(super) chosen: Slot,
    pub(super) window: Window<V>,
    pub(super) persists: Persists,
    pub(super) state: State<V>,
    /// The leader heard from within the election timeout; itself while it leads.
    pub(super) leader: Option<NodeId>,
    /// When it was heard last.
    pub(super) leader_heard_at: Instant,
    /// The highest ballot of a leader that told a watermark, and the greatest it told: every slot
    /// up to there is chosen, with the value proposed at that ballot if any was.
    pub(super) told: (Ballot, Slot),
    /// Who was heard to lead last; nobody while this replica leads.
    pub(super) reign: Option<Reign>,
    /// When to campaign (again), while not recovering or leading.
    pub(super) election_at: Instant,
    /// From a leader's last word to the election; drawn anew at each change.
    pub(super) election_delay: Duration,
    /// The highest ballot heard of, its own included.
    pub(super) seen: Ballot,
    /// The ballot of a campaign of this process that has proposed nothing yet.
    pub(super) unused: Option<Ballot>,
    /// Campaigns in a row that got past the pre-vote and failed.
    pub(super) failures: u32,
    /// Whether it has left a campaign to others since it last heard a leader.
    pub(super) deferred: bool,
    /// Pre-votes tried again soon since it last heard a leader.
    pub(super) pre_vote_retries: u32,
    /// All members by index; its own place is unused.
    pub(super) peers: Vec<Peer>,
    pub(super) fetching: Option<Fetching>,
    /// Bytes of the value that was learnt last.
    pub(super) learnt_bytes: usize,
    /// The last heartbeat's sequence.
    pub(super) sequence: u64,
    /// Whom it has promised to help nobody else for a while.
    pub(super) grant: Grant,
    /// The linearizable reads that wait.
    pub(super) reads: Reads,
    /// Since when the log has no room for a value, as far as it was told; from the beginning of
    /// its leadership on, while it leads.
    pub(super) disk_full_since: Option<Instant>,
    /// It is about to stop; see `give_way`.
    pub(super) retiring: bool,
    /// The role that the caller has been told.
    pub(super) role_told: Role,
    /// What was cut from the end of its log and is not made good yet.
    pub(super) own_cut: Option<OwnCut>,
}

impl<V: Value> Core<V> {
    /// A replica that starts with what its disk holds.
    ///
    /// # Errors
    /// When the configuration cannot work or `recovered` contradicts itself.
    pub fn new(
        config: Config,
        recovered: Recovered<V>,
        now: Instant,
        seed: u64,
    ) -> Result<Core<V>, ConfigError> {
        config.validate()?;
        check_recovered(&recovered)?;
        let promised = if planted(Mutant::PromiseForgottenAtRestart) {
            recovered.accepted.iter().map(|(_, ballot, _)| *ballot).max().unwrap_or_default()
        } else {
            recovered.promised
        };
        let own = promised.node == config.id;
        let reused = own && planted(Mutant::BallotReusedAfterRestart);
        let me = config.members.binary_search(&config.id).expect("validated: it is a member");
        let mut window = Window::new(recovered.chosen.next());
        for (slot, ballot, value) in recovered.accepted {
            let (persist, votes) = (None, Votes::NONE);
            let entry = Entry { ballot, value, persist, durable: true, owed: false, votes };
            window.put(slot, entry);
        }
        let members = config.members.len();
        let mut rng = Rng::new(seed ^ (u64::from(config.id.0) << 48));
        let waits = members > 1 && !planted(Mutant::GrantForgottenAtRestart);
        let grant = Grant::at_start(now, if waits { config.lease } else { Duration::ZERO });
        let reads = Reads::new(rng.next_u64());
        let own_cut = recovered.cut.map(|cut| {
            let id = rng.next_u64();
            OwnCut { cut, id, bound: None, forgetting: false }
        });
        let mut core = Core {
            reads,
            grant,
            quorum: Quorum::majority(members),
            me,
            rng,
            now,
            promised,
            promised_durable: promised,
            chosen: recovered.chosen,
            window,
            persists: Persists::default(),
            state: State::Following,
            leader: None,
            leader_heard_at: now,
            reign: None,
            told: (Ballot::NONE, Slot::NONE),
            election_at: now,
            election_delay: config.election_timeout,
            seen: promised,
            unused: reused.then_some(promised),
            failures: 0,
            deferred: false,
            pre_vote_retries: 0,
            peers: vec![Peer::default(); members],
            fetching: None,
            learnt_bytes: 0,
            sequence: 0,
            disk_full_since: None,
            retiring: false,
            role_told: Role::Follower { leader: None },
            own_cut,
            config,
        };
        // A cluster of one waits for nobody.
        if members > 1 {
            core.await_election();
        }
        Ok(core)
    }

    /// Handles one input and appends what the caller must do, in order, to `effects`.
    ///
    /// # Panics
    /// When the caller breaks its side (a proposal that was not permitted, a completion of no
    /// write), or when an invariant of the protocol is found broken: the process must stop
    /// before it harms data.
    pub fn step(&mut self, now: Instant, input: Input<V>, effects: &mut Effects<V>) {
        // A clock that steps back must not make timeouts of the past.
        self.now = self.now.max(now);
        let (promised, chosen) = (self.promised, self.chosen);
        match input {
            Input::Message { from, message } => self.receive(from, message, effects),
            Input::Propose(value) => self.propose(value, effects),
            Input::Read { id, lease } => self.read(id, lease, effects),
            Input::Persisted(id) => self.persisted(id, effects),
            Input::CutForgotten => self.cut_forgotten(),
            Input::TransferTo(id) => self.transfer_to(id, effects),
            Input::PermitCampaign { soon } => self.permit_campaign(soon),
            Input::PeerConnected(id) => self.peer_connected(id, effects),
            Input::PeerDisconnected(id) => self.peer_disconnected(id, effects),
            Input::PeerLost(id) => self.peer_lost(id, effects),
            Input::Tick => self.tick(effects),
            Input::EndOfTurn => {
                self.pump_reads(effects);
                self.pump_give_way(effects);
                self.pump_transfer(effects);
                self.end_of_turn(effects);
            }
        }
        assert!(self.promised >= promised, "a promise never goes down");
        assert!(self.chosen >= chosen, "the chosen watermark never goes down");
        assert!(self.promised >= self.promised_durable, "the disk is never ahead of memory");
        assert!(self.window.first() <= self.chosen.next(), "slots above the watermark are held");
        assert_eq!(self.role(), self.role_told, "every change of role is told");
    }

    /// Tells whether the log has no room for a value of any size; what follows: `give_way`.
    pub fn set_disk_full(&mut self, now: Instant, is_full: bool) {
        self.now = self.now.max(now);
        match is_full {
            false => self.disk_full_since = None,
            true => _ = self.disk_full_since.get_or_insert(self.now),
        }
    }

    /// When the core wants an [`Input::Tick`], if ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        let role = match &self.state {
            State::Following if !self.config.may_campaign => None,
            State::Following | State::PreVoting(_) => Some(self.election_at),
            State::Preparing(preparing) => {
                let until = preparing.wait_until;
                Some(until.map_or(self.election_at, |until| until.min(self.election_at)))
            }
            State::Recovering(recovering) => Some(recovering.heartbeat_at),
            State::Leading(leading) => Some(leading.heartbeat_at),
        };
        let fetch = self.fetching.as_ref().map(|fetching| fetching.deadline);
        [role, fetch, self.reads_deadline()].into_iter().flatten().min()
    }

    /// What the replica is.
    pub fn role(&self) -> Role {
        match &self.state {
            State::Following => Role::Follower { leader: self.leader },
            State::PreVoting(_) | State::Preparing(_) | State::Recovering(_) => Role::Candidate,
            State::Leading(_) => Role::Leader,
        }
    }

    /// The leader it knows; itself while it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The ballot it has promised (its own while it campaigns or leads).
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Every slot up to here is chosen, and its [`Effect::Chosen`] has been given.
    pub fn chosen(&self) -> Slot {
        self.chosen
    }

    /// Whether a connection to the member stands, as far as it was told.
    pub fn is_connected(&self, id: NodeId) -> bool {
        self.peer_index(id).is_some_and(|peer| self.peers[peer].connected)
    }

    /// This replica's id.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn peer_indices(&self) -> impl Iterator<Item = usize> + use<V> {
        let me = self.me;
        (0..self.peers.len()).filter(move |index| *index != me)
    }

    pub(super) fn peer_index(&self, id: NodeId) -> Option<usize> {
        let index = self.config.members.binary_search(&id).ok()?;
        (index != self.me).then_some(index)
    }

    fn receive(&mut self, from: NodeId, message: Message<V>, fx: &mut Effects<V>) {
        let Some(peer) = self.peer_index(from) else { return };
        self.peers[peer].last_contact = Some(self.now);
        match message {
            Message::PreVote { ballot, chosen } if is_of(ballot, from) => {
                self.on_pre_vote(peer, ballot, chosen, fx)
            }
            Message::Prepare { ballot, chosen, release } if is_of(ballot, from) => {
                self.on_prepare(peer, ballot, chosen, release, fx)
            }
            Message::TakeOver { release, chosen } if is_of(release.ballot, from) => {
                self.on_take_over(peer, release, chosen, fx)
            }
            Message::Accept { ballot, slot, chosen, value } if is_of(ballot, from) => {
                self.on_accept(peer, ballot, slot, value, fx);
                self.on_watermark(peer, ballot, chosen, fx);
            }
            Message::Heartbeat { ballot, chosen, sequence, lease_ms } if is_of(ballot, from) => {
                self.on_heartbeat(peer, ballot, chosen, (sequence, lease_ms), fx);
            }
            Message::FetchAccepted { ballot, slot } if is_of(ballot, from) => {
                self.on_fetch_accepted(peer, ballot, slot, fx)
            }
            Message::PreVoteReply { ballot, granted, promised, chosen } => {
                self.on_pre_vote_reply(peer, ballot, granted, promised, chosen, fx)
            }
            Message::Promise { ballot, chosen, accepted, cut } => {
                self.on_promise(peer, ballot, chosen, (accepted, cut), fx)
            }
            Message::Cut { ballot, sequence, id, votes } => {
                self.on_cut(peer, ballot, (sequence, id, votes), fx)
            }
            Message::CutBound { ballot, id, through } if is_of(ballot, from) => {
                self.on_cut_bound(peer, ballot, id, through, fx)
            }
            Message::Nack { ballot, promised } => self.on_nack(ballot, promised, fx),
            Message::Accepted { ballot, slot } => self.on_accepted(peer, ballot, slot, fx),
            Message::AcceptRejected { ballot, slot } => self.on_accept_rejected(peer, ballot, slot),
            Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness } => {
                (self.peers[peer].priority, self.peers[peer].fitness) = (priority, Some(fitness));
                self.note_whole(peer, sequence);
                if self.leads_at(ballot) {
                    if granted {
                        self.lease_granted(peer, sequence);
                    }
                    self.note_confirmed(peer, sequence, fx);
                }
                self.on_heartbeat_reply(peer, ballot, chosen, fx)
            }
            Message::ReadIndex { id, lease } => self.on_read_index(peer, id, lease, fx),
            Message::ReadIndexReply { id, index } => self.on_read_index_reply(id, index, fx),
            Message::Fetch { first, last } => self.on_fetch(from, first, last, fx),
            Message::Learn { slot, ballot, value } => self.on_learn(peer, slot, ballot, value, fx),
            Message::AcceptedValue { ballot, slot, accepted, value } => {
                self.on_accepted_value(peer, ballot, slot, accepted, value, fx)
            }
            // A ballot that is not the sender's own, or out of range: damage or a foreign build.
            // The node's own.
            Message::StateHash { .. } => {}
            Message::PreVote { .. }
            | Message::Prepare { .. }
            | Message::Accept { .. }
            | Message::Heartbeat { .. }
            | Message::TakeOver { .. }
            | Message::CutBound { .. }
            | Message::FetchAccepted { .. } => {}
        }
    }

    fn persisted(&mut self, id: PersistId, fx: &mut Effects<V>) {
        match self.persists.finish(id, self.now) {
            Pending::Promise(ballot) => {
                self.promised_durable = self.promised_durable.max(ballot);
                self.own_promise_durable(ballot, fx);
                self.pay_owed(fx);
            }
            Pending::Entry { slot, ballot, .. } => {
                if ballot > self.promised_durable && planted(Mutant::AcceptedBeforePromise) {
                    self.promised_durable = ballot;
                }
                if let Some(entry) = self.window.get_mut(slot)
                    && entry.persist == Some(id)
                {
                    entry.durable = true;
                    self.own_entry_durable(slot, ballot, fx);
                    self.pay(slot, fx);
                }
            }
        }
        self.forget_cut(fx);
        self.catch_up(None, fx);
    }

    fn peer_connected(&mut self, id: NodeId, fx: &mut Effects<V>) {
        let Some(peer) = self.peer_index(id) else { return };
        self.peers[peer].connected = true;
        // It may have restarted with less than it told of before.
        self.peers[peer].chosen = Slot::NONE;
        self.peers[peer].fitness = None;
        self.tell_cut(peer, 0, fx);
        self.campaign_peer_connected(peer, fx);
        self.leader_peer_connected(peer, fx);
        self.fetch_peer_changed(peer, fx);
    }

    fn peer_disconnected(&mut self, id: NodeId, fx: &mut Effects<V>) {
        let Some(peer) = self.peer_index(id) else { return };
        self.peers[peer].connected = false;
        self.fetch_peer_changed(peer, fx);
    }

    fn peer_lost(&mut self, id: NodeId, fx: &mut Effects<V>) {
        let Some(peer) = self.peer_index(id) else { return };
        if planted(Mutant::InboundLossDisconnects) {
            self.peers[peer].connected = false;
        }
        self.leader_lost(id, fx);
        self.fetch_peer_changed(peer, fx);
    }

    fn tick(&mut self, fx: &mut Effects<V>) {
        self.election_tick(fx);
        self.recovery_tick(fx);
        self.leader_tick(fx);
        self.fetch_tick(fx);
        self.reads_tick(fx);
    }

    // ---- what every role shares ----

    pub(super) fn send(&self, peer: usize, message: Message<V>, fx: &mut Effects<V>) {
        fx.push(Effect::Send(self.outgoing(peer, message)));
    }

    pub(super) fn outgoing(&self, peer: usize, message: Message<V>) -> Outgoing<V> {
        assert_ne!(peer, self.me, "a replica does not write to itself");
        Outgoing { to: self.config.members[peer], message }
    }

    /// Promises `ballot` in memory and asks for it to become durable before `then` is sent.
    pub(super) fn promise(&mut self, ballot: Ballot, then: Vec<Outgoing<V>>, fx: &mut Effects<V>) {
        assert!(ballot > self.promised, "a promise rises");
        self.promised = ballot;
        self.seen = self.seen.max(ballot);
        let id = self.persists.start(Pending::Promise(ballot), self.now);
        let then = if !then.is_empty() && planted(Mutant::PromiseBeforeDurable) {
            fx.extend(then.into_iter().map(Effect::Send));
            Vec::new()
        } else {
            then
        };
        fx.push(Effect::Persist { id, write: Write::Promise(ballot), then });
    }

    /// Takes an accepted or learnt value into memory and asks for it to become durable before
    /// `then` is sent. Holding a value at a ballot promises that ballot, and that promise gets a write
    /// of its own: were it in the entry alone, damage to the entry would take it along (see
    /// `tears`). It happens once for each ballot.
    pub(super) fn write_entry(
        &mut self,
        slot: Slot,
        ballot: Ballot,
        value: V,
        then: Vec<Outgoing<V>>,
        fx: &mut Effects<V>,
    ) {
        assert!(slot > self.chosen, "a chosen slot is not written again");
        if ballot > self.promised && planted(Mutant::AcceptedBeforePromise) {
            self.promised = ballot;
        }
        if ballot > self.promised && !planted(Mutant::AcceptDoesNotPromise) {
            self.promise(ballot, Vec::new(), fx);
        }
        self.seen = self.seen.max(ballot);
        let pending = Pending::Entry { slot, ballot, size: value.size() };
        let id = self.persists.start(pending, self.now);
        let (held, persist) = (value.clone(), Some(id));
        let entry =
            Entry { ballot, value: held, persist, durable: false, owed: false, votes: Votes::NONE };
        self.window.put(slot, entry);
        let write = Write::Entry { slot, ballot, chosen: self.chosen, value };
        fx.push(Effect::Persist { id, write, then });
    }

    /// The value held for the slot after the watermark is chosen.
    pub(super) fn choose_next(&mut self, fx: &mut Effects<V>) {
        let slot = self.chosen.next();
        let entry = self.window.get(slot).expect("a slot is chosen here once its value is held");
        let (ballot, value) = (entry.ballot, entry.value.clone());
        if let State::Leading(leading) = &mut self.state {
            leading.slot_chosen(value.size());
        }
        self.chosen = slot;
        fx.push(Effect::Chosen { slot, ballot, value });
    }

    /// To be called after the watermark has moved: lets go of what nobody needs any more.
    pub(super) fn after_chosen(&mut self, fx: &mut Effects<V>) {
        if matches!(self.state, State::Leading(_)) {
            self.release_retained();
        } else {
            self.release_chosen();
        }
        self.fetch_answered();
        self.release_reads(fx);
        self.forget_cut(fx);
        self.try_finish_recovery(fx);
    }

    pub(super) fn release_chosen(&mut self) {
        while self.window.first() <= self.chosen {
            self.window.pop_front();
        }
    }

    /// Back to following, from whatever role; the caller says when to campaign next.
    pub(super) fn follow(&mut self, leader: Option<NodeId>, fx: &mut Effects<V>) {
        self.end_transfer(None, fx);
        let was = std::mem::replace(&mut self.state, State::Following);
        self.leader = leader;
        self.restart_reads();
        if matches!(was, State::Leading(_)) {
            self.release_chosen();
            for entry in self.window.iter_mut() {
                entry.votes = Votes::NONE;
            }
        }
        self.tell_role(fx);
    }

    pub(super) fn tell_role(&mut self, fx: &mut Effects<V>) {
        let role = self.role();
        if role != self.role_told {
            self.role_told = role;
            fx.push(Effect::RoleChanged(role));
        }
    }

    /// Whether the disk does not complete writes that have room.
    pub(super) fn disk_stalled(&self) -> bool {
        let is_full = self.disk_full_since.is_some();
        self.persists.stalled(self.now, self.config.disk_stall_timeout, is_full)
    }

    /// Whether an accept quorum has answered at this ballot within the election timeout.
    pub(super) fn has_quorum_contact(&self) -> bool {
        let mut votes = Votes::only(self.me);
        for index in self.peer_indices() {
            if self.now.since(self.peers[index].answered_at) < self.config.election_timeout {
                votes.add(index);
            }
        }
        self.quorum.is_accept_quorum(votes)
    }

    /// Whether so much waits to become durable that no more may be taken in: the own disk may lag
    /// behind the peers' votes, but not without a bound.
    ///
    /// A leader's window bounds what it has not been answered, and a chosen slot needs no answer. So
    /// a follower whose disk hangs, who hears what the others choose and applies it, would be sent
    /// every slot, and hold all of them for its disk.
    pub(super) fn is_disk_behind(&self) -> bool {
        self.persists.count() as u64 >= self.config.retained_slots_max
            || self.persists.bytes() >= self.disk_queue_bytes_max()
    }

    /// The most bytes that may wait for the own disk before nothing more is taken in.
    pub(super) fn disk_queue_bytes_max(&self) -> usize {
        self.config.retained_bytes_max.max(self.config.window_bytes_max)
    }

    pub(super) fn note_answer(&mut self, peer: usize) {
        self.peers[peer].answered_at = self.now;
    }

    pub(super) fn note_chosen(&mut self, peer: usize, chosen: Slot) {
        let known = &mut self.peers[peer].chosen;
        *known = (*known).max(chosen);
    }
}

fn is_of(ballot: Ballot, from: NodeId) -> bool {
    ballot.node == from && ballot.round >= 1 && ballot.round <= ROUND_MAX
}

fn check_recovered<V>(recovered: &Recovered<V>) -> Result<(), ConfigError> {
    let mut last = recovered.chosen;
    for (slot, ballot, _) in &recovered.accepted {
        if *slot <= last {
            return Err(ConfigError::Recovered(
                "accepted slots must rise from the chosen watermark",
            ));
        }
        if *ballot > recovered.promised {
            return Err(ConfigError::Recovered("the promise must not be below an accepted ballot"));
        }
        last = *slot;
    }
    if recovered.chosen.distance_to(last) > RECOVERED_AHEAD_SLOTS_MAX {
        return Err(ConfigError::Recovered("an accepted slot is too far above the watermark"));
    }
    if recovered.promised.round > ROUND_MAX {
        return Err(ConfigError::Recovered("the promised round is out of range"));
    }
    Ok(())
}

/// How far above the watermark a recovered or promised value may stand: no configuration accepts
/// further ahead.
pub(super) const RECOVERED_AHEAD_SLOTS_MAX: u64 = super::config::ACCEPT_AHEAD_SLOTS_LIMIT;
