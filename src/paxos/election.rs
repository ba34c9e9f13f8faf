//! Elections: the pre-vote, phase 1a, and when to try again.
//!
//! Called by the dispatch and the tick in `core`. Only speed depends on what is here; a campaign
//! at any time is safe as long as its ballot is above every promise and its own promise is
//! durable before its prepares leave, so that no ballot is used twice, not even after a crash.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::Value;
use super::core::{Core, ROUND_MAX, State};
use super::effect::{Effect, Effects};
use super::message::{AcceptedSlot, Message, Release};
use super::quorum::Votes;
use super::recovery::Reports;
use super::timeless::Timeless;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Instant, Slot};

/// How often one pre-vote is asked again at once with a higher round, because a voter had
/// promised more than the candidate knew.
const PRE_VOTE_RESTARTS_MAX: u32 = 3;

/// How often a campaign whose pre-vote was refused by too many is tried again soon: they may be
/// bound by a lease of the lost leader a little longer than the candidate itself.
const PRE_VOTE_RETRIES_MAX: u32 = 10;

/// The back-off between failed campaigns grows to this many election timeouts.
const BACKOFF_TIMEOUTS_MAX: u32 = 4;

/// Asks whether a campaign would succeed.
#[derive(Clone, Hash)]
pub(super) struct PreVoting {
    /// The ballot that the campaign would use.
    ballot: Ballot,
    grants: Votes,
    refusals: Votes,
    restarts: u32,
}

/// Collects promises.
#[derive(Clone)]
pub(super) struct Preparing<V> {
    ballot: Ballot,
    /// Who has promised; itself once its own promise is durable.
    promises: Votes,
    pub(super) reports: Reports<V>,
    /// The greatest watermark of those who promised.
    target: Slot,
    /// What the leader that handed over has given up.
    release: Release,
    /// One of those who promised has cut something.
    cut: bool,
    /// It has a quorum, and waits until then for further promises.
    pub(super) wait_until: Option<Instant>,
}

impl<V: Hash> Timeless for Preparing<V> {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Preparing { ballot, promises, reports, target, release, cut, wait_until } = self;
        (ballot, promises, target, release, cut, wait_until.is_some()).hash(hasher);
        reports.hash_timeless(hasher);
    }
}

impl<V: Value> Core<V> {
    /// Draws the time of the next campaign.
    pub(super) fn await_election(&mut self) {
        let timeout = self.config.election_timeout;
        let spread = 2 + self.failures.min(BACKOFF_TIMEOUTS_MAX);
        self.election_delay = self.rng.between(timeout, timeout * spread) + self.handicap();
        self.election_at = self.now + self.election_delay;
    }

    /// From now on it may campaign: `soon`, at once, or as if it had just heard a leader.
    pub(super) fn permit_campaign(&mut self, soon: bool) {
        let is_new = !std::mem::replace(&mut self.config.may_campaign, true);
        if soon {
            self.election_at = self.now;
        } else if is_new && self.peers.len() > 1 {
            self.await_election();
        }
    }

    pub(super) fn election_tick(&mut self, fx: &mut Effects<V>) {
        if !self.config.may_campaign {
            return;
        }
        self.count_promises(fx);
        match self.state {
            State::Leading(_) | State::Recovering(_) => return,
            _ if self.now < self.election_at => return,
            State::Preparing(_) => self.failures = self.failures.saturating_add(1),
            State::Following | State::PreVoting(_) => {}
        }
        if self.disk_stalled() || self.retiring || !self.has_vote() {
            self.follow(None, fx);
            return self.await_election();
        }
        if self.is_bound_against(None, Release::NONE) {
            self.election_at = self.bound_until();
            return;
        }
        self.start_pre_vote(0, fx);
    }

    fn start_pre_vote(&mut self, restarts: u32, fx: &mut Effects<V>) {
        let ballot = self.campaign_ballot();
        let grants = Votes::only(self.me);
        self.state =
            State::PreVoting(PreVoting { ballot, grants, refusals: Votes::NONE, restarts });
        self.leader = None;
        self.await_election();
        self.tell_role(fx);
        if self.quorum.is_prepare_quorum(grants) || planted(Mutant::PreVoteIgnored) {
            return self.start_prepare(ballot, Release::NONE, fx);
        }
        for peer in self.peer_indices() {
            self.send(peer, Message::PreVote { ballot, chosen: self.chosen }, fx);
        }
    }

    /// The ballot to campaign with: a new one above all, unless the last campaign's ballot is
    /// still the highest. Nothing has been proposed under that one, so that promises of it may
    /// be collected once more; were it given up because disks are slow, rounds would run away.
    pub(super) fn campaign_ballot(&self) -> Ballot {
        match self.unused {
            Some(ballot) if ballot == self.promised && ballot >= self.seen => ballot,
            _ => self.seen.max(self.promised).next_for(self.config.id),
        }
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        peer: usize,
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
        chosen: Slot,
        fx: &mut Effects<V>,
    ) {
        self.note_chosen(peer, chosen);
        self.note_ballot(promised);
        if let State::PreVoting(voting) = &mut self.state
            && voting.ballot == ballot
        {
            if granted {
                voting.grants.add(peer);
                if self.quorum.is_prepare_quorum(voting.grants) {
                    self.campaign_or_defer(ballot, fx);
                }
            } else if promised >= ballot && voting.restarts < PRE_VOTE_RESTARTS_MAX {
                let restarts = voting.restarts + 1;
                self.start_pre_vote(restarts, fx);
            } else if voting.refusals.add(peer) {
                self.retry_pre_vote_soon();
            }
        }
        self.catch_up(Some(peer), fx);
    }

    /// Brings the next try forward when this one cannot succeed any more.
    fn retry_pre_vote_soon(&mut self) {
        let State::PreVoting(voting) = &self.state else { return };
        let members = self.peers.len();
        let mut possible = Votes::NONE;
        for index in (0..members).filter(|index| !voting.refusals.has(*index)) {
            possible.add(index);
        }
        let lost = !self.quorum.is_prepare_quorum(possible);
        if lost && self.pre_vote_retries < PRE_VOTE_RETRIES_MAX {
            self.pre_vote_retries += 1;
            let interval = self.config.heartbeat_interval;
            let soon = self.now + self.rng.between(interval / 2, interval);
            self.election_at = self.election_at.min(soon);
        }
    }

    /// Whether a candidate that knows `chosen` lacks much of what somebody else knows.
    fn is_far(&self, chosen: Slot, known: Slot) -> bool {
        let few = self.config.fetch_slots_max.min(self.config.window_slots_max);
        chosen < known && chosen.distance_to(known) > few
    }

    /// This replica would promise the ballot of a candidate that knows `chosen`. Where that lacks much, it
    /// leaves this try to others (see [`Core::campaign_or_defer`]), and now is the time for them: what kept
    /// the candidate from promising them something may have ended just now, as the time for which it is bound
    /// after a start does.
    pub(super) fn campaign_instead(&mut self, chosen: Slot) {
        let waits = matches!(self.state, State::Following | State::PreVoting(_));
        if waits && self.is_far(chosen, self.chosen) {
            let soon = self.rng.between(Duration::ZERO, self.config.heartbeat_interval / 2);
            self.election_at = self.election_at.min(self.now + soon);
        }
    }

    /// A candidate that lacks more than what is under way when a leader dies leaves the first try to
    /// others, once: whoever leads must learn the chosen prefix first, and the cluster would wait for it.
    fn campaign_or_defer(&mut self, ballot: Ballot, fx: &mut Effects<V>) {
        let ahead = self.peer_indices().map(|peer| self.peers[peer].chosen).max();
        if ahead.is_some_and(|ahead| self.is_far(self.chosen, ahead)) && !self.deferred {
            self.deferred = true;
            self.follow(None, fx);
            self.await_election();
        } else {
            self.start_prepare(ballot, Release::NONE, fx);
        }
    }

    pub(super) fn start_prepare(&mut self, ballot: Ballot, release: Release, fx: &mut Effects<V>) {
        self.state = State::Preparing(Preparing {
            ballot,
            promises: Votes::NONE,
            reports: Reports::new(),
            target: self.chosen,
            release,
            cut: self.own_cut.is_some(),
            wait_until: None,
        });
        self.unused = Some(ballot);
        self.await_election();
        let message = Message::Prepare { ballot, chosen: self.chosen, release };
        let asked = self.peer_indices().map(|peer| self.outgoing(peer, message.clone()));
        if ballot > self.promised {
            let then = asked.collect();
            self.promise(ballot, then, fx);
        } else if self.promised_durable >= ballot {
            fx.extend(asked.map(Effect::Send));
            self.own_promise_durable(ballot, fx);
        }
        // Otherwise the promise of the campaign before is still on its way to the disk, and will
        // send its prepares.
    }

    pub(super) fn own_promise_durable(&mut self, ballot: Ballot, fx: &mut Effects<V>) {
        if let State::Preparing(preparing) = &mut self.state
            && preparing.ballot == ballot
        {
            preparing.promises.add(self.me);
            self.count_promises(fx);
        }
    }

    pub(super) fn on_promise(
        &mut self,
        peer: usize,
        ballot: Ballot,
        chosen: Slot,
        (accepted, cut): (Vec<AcceptedSlot>, bool),
        fx: &mut Effects<V>,
    ) {
        self.note_chosen(peer, chosen);
        match &mut self.state {
            State::Preparing(preparing) if preparing.ballot == ballot => {
                if !is_plausible(ballot, chosen, &accepted) || !preparing.promises.add(peer) {
                    if preparing.promises.has(peer) && planted(Mutant::PromiseCountedTwice) {
                        preparing.promises.add((peer + 1) % self.peers.len());
                        self.count_promises(fx);
                    }
                    return;
                }
                preparing.reports.merge(peer, &accepted);
                preparing.target = preparing.target.max(chosen);
                preparing.cut |= cut;
                self.count_promises(fx);
            }
            State::Recovering(recovering) if recovering.ballot == ballot => {
                recovering.reports.add_reporter(peer, &accepted);
                self.note_answer(peer);
            }
            _ => {}
        }
    }

    fn count_promises(&mut self, fx: &mut Effects<V>) {
        let (now, wait) = (self.now, self.promise_wait());
        let State::Preparing(preparing) = &mut self.state else { return };
        if self.quorum.is_prepare_quorum(preparing.promises) {
            // What was cut may be known to somebody else (see `tears`).
            if preparing.cut && preparing.promises.count() < self.peers.len() {
                let until = *preparing.wait_until.get_or_insert(now + wait);
                if now < until {
                    self.election_at = self.election_at.max(until + wait);
                    return;
                }
            }
            let reports = std::mem::take(&mut preparing.reports);
            let (ballot, target) = (preparing.ballot, preparing.target);
            self.start_recovery(ballot, target, reports, fx);
        }
    }

    pub(super) fn on_nack(&mut self, ballot: Ballot, promised: Ballot, fx: &mut Effects<V>) {
        self.note_ballot(promised);
        if self.own_ballot() == Some(ballot) && promised > ballot {
            self.end_transfer(Some(promised.node), fx);
            self.give_up(fx);
        }
    }

    /// The ballot that it campaigns or leads with.
    fn own_ballot(&self) -> Option<Ballot> {
        match &self.state {
            State::Following | State::PreVoting(_) => None,
            State::Preparing(preparing) => Some(preparing.ballot),
            State::Recovering(recovering) => Some(recovering.ballot),
            State::Leading(leading) => Some(leading.ballot),
        }
    }

    /// Ends the campaign or the leadership and waits for others to try.
    pub(super) fn give_up(&mut self, fx: &mut Effects<V>) {
        if !matches!(self.state, State::Leading(_)) {
            self.failures = self.failures.saturating_add(1);
        }
        self.follow(None, fx);
        self.await_election();
    }

    /// What was asked of the peer before this connection may be lost.
    pub(super) fn campaign_peer_connected(&mut self, peer: usize, fx: &mut Effects<V>) {
        let chosen = self.chosen;
        match &self.state {
            State::PreVoting(voting) if !voting.grants.has(peer) => {
                let ballot = voting.ballot;
                self.send(peer, Message::PreVote { ballot, chosen }, fx);
            }
            State::Preparing(preparing)
                if !preparing.promises.has(peer) && self.promised_durable >= preparing.ballot =>
            {
                let (ballot, release) = (preparing.ballot, preparing.release);
                self.send(peer, Message::Prepare { ballot, chosen, release }, fx);
            }
            State::Recovering(recovering) => {
                let ballot = recovering.ballot;
                self.sequence += 1;
                let sequence = self.sequence;
                let message = Message::Heartbeat { ballot, chosen, sequence, lease_ms: 0 };
                self.send(peer, message, fx);
            }
            _ => {}
        }
    }

    fn note_ballot(&mut self, ballot: Ballot) {
        if ballot.round < ROUND_MAX {
            self.seen = self.seen.max(ballot);
        }
    }
}

/// Whether an honest acceptor can have sent this with its promise.
fn is_plausible(ballot: Ballot, chosen: Slot, accepted: &[AcceptedSlot]) -> bool {
    let mut last = chosen;
    for report in accepted {
        if report.slot <= last || report.ballot >= ballot {
            return false;
        }
        last = report.slot;
    }
    chosen.distance_to(last) <= super::core::RECOVERED_AHEAD_SLOTS_MAX
}
