//! Handing the leadership over: by hand, or to a replica of higher priority.
//!
//! Called by the dispatch, the leader's tick and the end of a turn. Safety needs nothing from
//! here: the target campaigns with a ballot of its own, as anybody may at any time. What is here is
//! for speed, and for nobody to notice:
//!
//! 1. *Nearing*: the leader goes on as ever until the target is close behind.
//! 2. *Draining*: it proposes nothing new until everything proposed is chosen, and accepted by the
//!    target or known there. So no append is left with an unknown outcome, and the target has nothing to fetch.
//! 3. *Sent*: it gives up its leases, for good ([`Release`]), and then sends `TakeOver`. The target
//!    campaigns without a pre-vote, which the others would refuse as long as they hear the leader,
//!    and shows the release, without which those who granted leases would wait for them to run
//!    out. The leader keeps its heartbeats up, so that nobody else campaigns, and steps down when
//!    it is asked for its promise like everybody else.
//!
//! Each stage is bounded. When the time is over (the message is lost, the target dies or does not
//! win) the leader goes on where it was: at the same ballot, with new leases, which the old release
//! does not cover. Should the target campaign after that, those who granted them wait as for any
//! other candidate.
//!
//! Source: Ongaro's thesis (2014), section 3.10.

use std::hash::{Hash, Hasher};

use super::Value;
use super::core::{Core, State};
use super::effect::{Effect, Effects};
use super::leader::Leading;
use super::message::{Message, Release};
use super::timeless::Timeless;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Instant, NodeId, Slot};

/// Election timeouts for which the target may take to come near.
const NEARING_TIMEOUTS_MAX: u32 = 5;

/// A target that has answered all but so many slots is near: what is left to drain is short.
const NEAR_SLOTS_MAX: u64 = 32;

/// A leadership stays for so many election timeouts before it is handed over for a priority, and
/// as long after a try that failed.
const PRIORITY_PATIENCE_TIMEOUTS: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Nearing,
    Draining,
    Sent,
}

/// A handing over that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    to: usize,
    stage: Stage,
    /// The leader goes on as it was after this.
    until: Instant,
}

impl Timeless for Transfer {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Transfer { to, stage, until: _ } = self;
        (to, stage).hash(hasher);
    }
}

impl Leading {
    /// Whether new proposals wait for the handing over to end.
    pub(super) fn holds_proposals(&self) -> bool {
        self.transfer.is_some_and(|transfer| transfer.stage != Stage::Nearing)
    }

    /// Whether the target has been told to take over: no lease is asked for meanwhile.
    pub(super) fn has_handed_over(&self) -> bool {
        self.transfer.is_some_and(|transfer| transfer.stage == Stage::Sent)
    }
}

impl<V: Value> Core<V> {
    // ---- the leader ----

    pub(super) fn transfer_to(&mut self, id: NodeId, fx: &mut Effects<V>) {
        let peer = self.config.members.binary_search(&id).ok();
        let State::Leading(leading) = &self.state else {
            return fx.push(Effect::TransferEnded { to: id, taken_over: false });
        };
        if peer == Some(self.me) {
            self.end_transfer(None, fx);
            return fx.push(Effect::TransferEnded { to: id, taken_over: true });
        }
        if leading.transfer.is_some_and(|transfer| peer == Some(transfer.to)) {
            return;
        }
        let free = leading.transfer.is_none();
        match peer.filter(|peer| free && self.peers[*peer].connected) {
            Some(peer) => self.start_transfer(peer),
            None => fx.push(Effect::TransferEnded { to: id, taken_over: false }),
        }
    }

    fn start_transfer(&mut self, to: usize) {
        let until = self.now + self.config.election_timeout * NEARING_TIMEOUTS_MAX;
        let State::Leading(leading) = &mut self.state else { return };
        leading.transfer = Some(Transfer { to, stage: Stage::Nearing, until });
    }

    /// Goes from stage to stage as far as it can.
    pub(super) fn pump_transfer(&mut self, fx: &mut Effects<V>) {
        let State::Leading(Leading { transfer: Some(transfer), .. }) = &self.state else { return };
        let transfer = *transfer;
        if transfer.stage == Stage::Nearing && self.is_near(transfer.to) {
            self.set_stage(Stage::Draining);
        }
        let State::Leading(leading) = &self.state else { return };
        if leading.holds_proposals() && !leading.has_handed_over() && self.holds_all(transfer.to) {
            self.set_stage(Stage::Sent);
            let release = self.release_leases();
            self.send(transfer.to, Message::TakeOver { release, chosen: self.chosen }, fx);
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        let until = self.now + self.config.election_timeout;
        let State::Leading(leading) = &mut self.state else { return };
        if let Some(transfer) = &mut leading.transfer {
            (transfer.stage, transfer.until) = (stage, until);
        }
    }

    /// Whether the peer is connected, lives, and is close behind.
    fn is_near(&self, peer: usize) -> bool {
        let Some(answered) = self.answered_without_gap(peer) else { return false };
        let silence = self.now.since(self.peers[peer].answered_at);
        self.peers[peer].connected
            && silence < self.config.election_timeout
            && answered.distance_to(self.proposed()) <= NEAR_SLOTS_MAX
    }

    /// Whether everything proposed is chosen, and the peer has accepted it or knows it as chosen.
    fn holds_all(&self, peer: usize) -> bool {
        let last: Slot = self.proposed();
        let answered = self.answered_without_gap(peer).is_some_and(|answered| answered >= last);
        (answered || planted(Mutant::TransferToReplicaBehind)) && self.chosen == last
    }

    /// Ends a handing over that is under way: `by` leads now, or is about to.
    pub(super) fn end_transfer(&mut self, by: Option<NodeId>, fx: &mut Effects<V>) {
        let priority_at = self.priority_patience();
        let State::Leading(leading) = &mut self.state else { return };
        if let Some(transfer) = leading.transfer.take() {
            leading.priority_at = priority_at;
            let to = self.config.members[transfer.to];
            fx.push(Effect::TransferEnded { to, taken_over: by == Some(to) });
        }
    }

    pub(super) fn transfer_tick(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        match leading.transfer {
            Some(transfer) if self.now >= transfer.until => self.end_transfer(None, fx),
            None if self.now >= leading.priority_at => {
                if let Some(peer) = self.wanted_more() {
                    self.start_transfer(peer);
                }
            }
            _ => {}
        }
    }

    /// From when on a leadership may be handed over for a priority.
    pub(super) fn priority_patience(&self) -> Instant {
        self.now + self.config.election_timeout * PRIORITY_PATIENCE_TIMEOUTS
    }

    /// The peer of the highest priority above the own that could take over.
    fn wanted_more(&self) -> Option<usize> {
        let able = self.peer_indices().filter(|peer| self.is_near(*peer));
        let wanted = able.max_by_key(|peer| self.peers[*peer].priority)?;
        (self.peers[wanted].priority > self.config.priority).then_some(wanted)
    }

    // ---- the target ----

    /// The leader hands over to this replica: campaign at once.
    pub(super) fn on_take_over(
        &mut self,
        peer: usize,
        release: Release,
        chosen: Slot,
        fx: &mut Effects<V>,
    ) {
        let ballot = release.ballot;
        if ballot < self.promised {
            return self.nack(peer, ballot, fx);
        }
        // A later grant, or what it may have granted before a restart, still binds it: this came
        // too late or too early, and the leader will go on.
        let bound = self.is_bound_against(None, release);
        if ballot > self.promised || bound || self.disk_stalled() {
            return;
        }
        self.on_watermark(peer, ballot, chosen, fx);
        self.end_grant();
        self.follow(None, fx);
        let ballot = self.campaign_ballot();
        self.start_prepare(ballot, release, fx);
        self.tell_role(fx);
    }
}
