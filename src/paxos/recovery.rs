//! The second half of phase 1: which value a new leader proposes in every slot that earlier
//! ballots may have touched.
//!
//! Called by `election` once a prepare quorum has promised. First the prefix that a member of
//! the quorum knows to be chosen is learnt. Then, for every slot up to the greatest that any of
//! them reports, the value of the highest ballot is taken (and fetched, where only its checksum
//! is known); where none is reported nothing can have been chosen, and a no-op goes in. All of
//! these are proposed under the new ballot before any client's value (*Paxos Made Simple*,
//! sections 2.2 and 3).

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use super::Value;
use super::core::{Core, State};
use super::effect::Effects;
use super::message::{AcceptedSlot, Message};
use super::quorum::Votes;
use super::timeless::Timeless;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Checksum, Instant, Slot};

/// Values asked for and not yet answered.
const FETCH_ACCEPTED_INFLIGHT_MAX: usize = 64;

/// Election timeouts without any progress after which a candidate gives up: who reported a value
/// may be gone, and new promises come from those who are there.
const RECOVERY_PATIENCE_TIMEOUTS: u32 = 2;

/// What the promises tell of one slot.
#[derive(Clone, Debug)]
struct Report<V> {
    /// The highest ballot reported.
    ballot: Ballot,
    checksum: Checksum,
    /// Who reported that ballot.
    reporters: Votes,
    value: Option<V>,
    asked_at: Option<Instant>,
    asks_count: usize,
}

/// What the promises of a prepare quorum tell, by slot.
#[derive(Clone, Debug)]
pub(super) struct Reports<V> {
    slots: BTreeMap<Slot, Report<V>>,
}

impl<V> Default for Reports<V> {
    fn default() -> Reports<V> {
        Reports::new()
    }
}

impl<V> Reports<V> {
    pub(super) fn new() -> Reports<V> {
        Reports { slots: BTreeMap::new() }
    }

    /// Takes in one member's promise: per slot the highest ballot remains.
    pub(super) fn merge(&mut self, peer: usize, accepted: &[AcceptedSlot]) {
        for told in accepted {
            let fresh = Report {
                ballot: told.ballot,
                checksum: told.checksum,
                reporters: Votes::only(peer),
                value: None,
                asked_at: None,
                asks_count: 0,
            };
            let Some(report) = self.slots.get_mut(&told.slot) else {
                self.slots.insert(told.slot, fresh);
                continue;
            };
            let lowest = told.ballot != report.ballot && planted(Mutant::LowestBallotTaken);
            if (told.ballot > report.ballot) != lowest {
                *report = fresh;
            } else if told.ballot == report.ballot {
                report.assert_same(told);
                report.reporters.add(peer);
            }
        }
    }

    /// A promise that came after the quorum: one more to ask for the values it holds.
    pub(super) fn add_reporter(&mut self, peer: usize, accepted: &[AcceptedSlot]) {
        for told in accepted {
            if let Some(report) = self.slots.get_mut(&told.slot)
                && told.ballot == report.ballot
            {
                report.assert_same(told);
                report.reporters.add(peer);
            }
        }
    }
}

impl<V> Report<V> {
    fn assert_same(&self, told: &AcceptedSlot) {
        assert_eq!(
            self.checksum, told.checksum,
            "slot {} has one value at ballot {}",
            told.slot, told.ballot
        );
    }
}

/// A candidate with a quorum of promises.
#[derive(Clone)]
pub(super) struct Recovering<V> {
    pub(super) ballot: Ballot,
    pub(super) reports: Reports<V>,
    /// The greatest watermark among the quorum: to be learnt before anything is proposed.
    target: Slot,
    /// No value is missing before this slot. Members that are behind may report tens of thousands, each
    /// of which is fetched: they are not to be gone through from the beginning each time.
    lacking_from: Slot,
    pub(super) heartbeat_at: Instant,
    progress_at: Instant,
}

impl<V: Hash> Timeless for Reports<V> {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Reports { slots } = self;
        slots.len().hash(hasher);
        for (slot, report) in slots {
            let Report { ballot, checksum, reporters, value, asked_at, asks_count } = report;
            (slot, ballot, checksum, reporters, value).hash(hasher);
            (asked_at.is_some(), asks_count).hash(hasher);
        }
    }
}

impl<V: Hash> Timeless for Recovering<V> {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        // (From where on values are missing follows from the reports and the values held.)
        let Recovering {
            ballot,
            reports,
            target,
            lacking_from: _,
            heartbeat_at: _,
            progress_at: _,
        } = self;
        (ballot, target).hash(hasher);
        reports.hash_timeless(hasher);
    }
}

impl<V: Value> Core<V> {
    pub(super) fn start_recovery(
        &mut self,
        ballot: Ballot,
        target: Slot,
        reports: Reports<V>,
        fx: &mut Effects<V>,
    ) {
        assert_eq!(ballot, self.promised, "a candidate keeps its own promise");
        assert!(self.promised_durable >= ballot, "prepares leave once the own promise is durable");
        for peer in self.peer_indices() {
            self.peers[peer].answered_at = self.now;
        }
        let heartbeat_at = self.now + self.config.heartbeat_interval;
        let progress_at = self.now;
        let lacking_from = Slot::NONE;
        let recovering =
            Recovering { ballot, reports, target, lacking_from, heartbeat_at, progress_at };
        self.state = State::Recovering(recovering);
        self.try_finish_recovery(fx);
        if matches!(self.state, State::Recovering(_)) {
            // Those who promised must not campaign meanwhile.
            self.recovery_heartbeat(ballot, fx);
        }
    }

    fn recovery_heartbeat(&mut self, ballot: Ballot, fx: &mut Effects<V>) {
        self.sequence += 1;
        let (chosen, sequence) = (self.chosen, self.sequence);
        for peer in self.peer_indices() {
            let message = Message::Heartbeat { ballot, chosen, sequence, lease_ms: 0 };
            self.send(peer, message, fx);
        }
    }

    pub(super) fn recovery_tick(&mut self, fx: &mut Effects<V>) {
        let State::Recovering(recovering) = &mut self.state else { return };
        if self.now < recovering.heartbeat_at {
            return;
        }
        recovering.heartbeat_at = self.now + self.config.heartbeat_interval;
        let patience = self.config.election_timeout * RECOVERY_PATIENCE_TIMEOUTS;
        let stuck = self.now.since(recovering.progress_at) >= patience;
        let ballot = recovering.ballot;
        if stuck || !self.has_quorum_contact() || self.disk_stalled() {
            return self.give_up(fx);
        }
        self.recovery_heartbeat(ballot, fx);
        self.try_finish_recovery(fx);
    }

    pub(super) fn note_recovery_progress(&mut self) {
        if let State::Recovering(recovering) = &mut self.state {
            recovering.progress_at = self.now;
        }
    }

    /// Leads when nothing is missing any more; asks for what is missing otherwise.
    pub(super) fn try_finish_recovery(&mut self, fx: &mut Effects<V>) {
        let State::Recovering(recovering) = &mut self.state else { return };
        let chosen = self.chosen;
        recovering.reports.slots = recovering.reports.slots.split_off(&chosen.next());
        if chosen < recovering.target && !planted(Mutant::RecoverySkipsPrefix) {
            return self.catch_up(None, fx);
        }
        let window = &self.window;
        let held = |slot| window.get(slot).map(|entry| entry.ballot);
        let lacks = |slot, report: &Report<V>| {
            report.value.is_none() && held(slot).is_none_or(|own| own < report.ballot)
        };
        let mut unknown = recovering.reports.slots.range(recovering.lacking_from..);
        if let Some((slot, _)) = unknown.find(|(slot, report)| lacks(**slot, report)) {
            recovering.lacking_from = *slot;
            return self.fetch_accepted(fx);
        }
        let (ballot, reports) = (recovering.ballot, std::mem::take(&mut recovering.reports));
        self.lead_with(ballot, reports, fx);
    }

    /// Asks for values that only a peer holds, a bounded number at a time, the reporters in turn.
    fn fetch_accepted(&mut self, fx: &mut Effects<V>) {
        let State::Recovering(recovering) = &mut self.state else { return };
        let mut asks = Vec::new();
        let mut inflight_count = 0;
        for (slot, report) in recovering.reports.slots.range_mut(recovering.lacking_from..) {
            let own = self.window.get(*slot).map(|entry| entry.ballot);
            if report.value.is_some() || own.is_some_and(|own| own >= report.ballot) {
                continue;
            }
            if inflight_count == FETCH_ACCEPTED_INFLIGHT_MAX {
                break;
            }
            inflight_count += 1;
            let waiting = report
                .asked_at
                .is_some_and(|asked_at| self.now.since(asked_at) < self.config.resend_timeout);
            if waiting {
                continue;
            }
            let turn = report.asks_count % report.reporters.count();
            let peer = report.reporters.iter().nth(turn).expect("a report has a reporter");
            report.asked_at = Some(self.now);
            report.asks_count += 1;
            asks.push((peer, *slot));
        }
        let ballot = recovering.ballot;
        for (peer, slot) in asks {
            self.send(peer, Message::FetchAccepted { ballot, slot }, fx);
        }
    }

    pub(super) fn on_accepted_value(
        &mut self,
        peer: usize,
        ballot: Ballot,
        slot: Slot,
        accepted: Ballot,
        value: V,
        fx: &mut Effects<V>,
    ) {
        let State::Recovering(recovering) = &mut self.state else { return };
        if recovering.ballot != ballot {
            return;
        }
        if let Some(report) = recovering.reports.slots.get_mut(&slot)
            && report.ballot == accepted
            && report.value.is_none()
        {
            assert_eq!(
                report.checksum,
                value.checksum(),
                "slot {slot} has one value at ballot {accepted}"
            );
            report.value = Some(value);
            recovering.progress_at = self.now;
        }
        self.note_answer(peer);
        self.try_finish_recovery(fx);
    }

    /// Proposes the values of earlier ballots again, and no-ops between them, and leads.
    fn lead_with(&mut self, ballot: Ballot, mut reports: Reports<V>, fx: &mut Effects<V>) {
        let reported = reports.slots.last_key_value().map(|(slot, _)| *slot);
        let own = self.window.last();
        let stops = reported > own && planted(Mutant::RecoveryStopsAtOwnLast);
        let last = if stops { own } else { own.max(reported) }.unwrap_or(Slot::NONE);
        self.start_leading(ballot, fx);
        while self.proposed() < last {
            let slot = self.proposed().next();
            let own = self.window.get(slot).map(|entry| (entry.ballot, entry.value.clone()));
            let report = reports.slots.remove(&slot);
            let hole = own.is_none() && report.is_none();
            let value = match (own, report) {
                (Some((own, value)), Some(report))
                    if own >= report.ballot || planted(Mutant::LowestBallotTaken) =>
                {
                    if own == report.ballot {
                        let checksum = value.checksum();
                        assert_eq!(report.checksum, checksum, "one value at ballot {own}");
                    }
                    value
                }
                (_, Some(report)) => report.value.expect("nothing is missing"),
                (Some((_, value)), None) => value,
                (None, None) if planted(Mutant::RecoveryStopsAtHole) => break,
                (None, None) => V::noop(),
            };
            self.propose_next(value, fx);
            self.note_recovered(slot);
            if hole
                && planted(Mutant::HoleFillDropped)
                && let Some(entry) = self.window.get_mut(slot)
            {
                (0..self.peers.len()).for_each(|member| _ = entry.votes.add(member));
            }
        }
        self.bound_own_cut(fx);
        self.pump_all(fx);
    }
}
