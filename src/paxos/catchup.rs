//! Learning chosen slots that a replica missed, from any member that knows them.
//!
//! Called wherever the replica hears that somebody's watermark is above its own, and by its own
//! timer. One member is asked at a time, for at most `fetch_slots_max` slots, and for more as soon as
//! half of them have come, so that it always has something to read. A learnt value is a chosen value,
//! whoever sends it: nothing here can harm agreement.

use std::hash::{Hash, Hasher};

use super::Value;
use super::core::{Core, ROUND_MAX, State};
use super::effect::Effects;
use super::message::Message;
use super::timeless::Timeless;
use crate::base::{Ballot, Instant, Slot};

/// The most slots that one fetch is answered with, whatever was asked for.
pub(super) const FETCH_ANSWER_SLOTS_MAX: u64 = 4096;

/// How often the time for which an answer is awaited is doubled, at most: while nobody answers, each
/// question that is repeated adds to what holds the answers up.
const PATIENCE_DOUBLINGS_MAX: u32 = 3;

/// The fetch that is outstanding.
#[derive(Clone, Debug)]
pub(super) struct Fetching {
    peer: usize,
    /// The last slot asked for.
    last: Slot,
    pub(super) deadline: Instant,
    /// Whether a part of the answer has come.
    progressed: bool,
    /// Questions in a row, this one included, to which no answer has come.
    unanswered: u32,
}

impl Timeless for Fetching {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Fetching { peer, last, deadline: _, progressed, unanswered } = self;
        (peer, last, progressed, unanswered).hash(hasher);
    }
}

impl<V: Value> Core<V> {
    /// Asks for missing chosen slots, of `prefer` if it has them, unless an answer is awaited.
    pub(super) fn catch_up(&mut self, prefer: Option<usize>, fx: &mut Effects<V>) {
        if self.fetching.is_some() || !self.may_fetch() {
            return;
        }
        let knows_more = |peer: &usize| self.peers[*peer].chosen > self.chosen;
        // Whoever has fallen silent is asked last, however far it is: each question to it would
        // cost a timeout.
        let lives = |peer: usize| {
            let silence = self.peers[peer].last_contact.map(|last| self.now.since(last));
            silence.is_some_and(|silence| silence < self.config.election_timeout)
        };
        let furthest = || {
            let peers = self.peer_indices().filter(knows_more);
            peers.max_by_key(|peer| (lives(*peer), self.peers[*peer].chosen))
        };
        let Some(peer) = prefer.filter(knows_more).or_else(furthest) else { return };
        self.fetch(peer, self.peers[peer].chosen, 0, fx);
    }

    /// Whether more may be asked for: half of what may wait for the disk is left for the answers to what
    /// was asked already. Otherwise it is tried again once a write completes.
    fn may_fetch(&self) -> bool {
        // A leader has learnt everything that was chosen before it led.
        !matches!(self.state, State::Leading(_))
            && self.persists.bytes() < self.disk_queue_bytes_max() / 2
            && (self.persists.count() as u64) < self.config.retained_slots_max
    }

    /// How many slots after the watermark may be under way: as many as the disk's queue has room for, if
    /// they are like the one learnt last. What finds no room is dropped, and was sent in vain.
    fn fetch_slots(&self) -> u64 {
        let room = self.disk_queue_bytes_max().saturating_sub(self.persists.bytes());
        let slots = room / self.learnt_bytes.max(1);
        (slots as u64).clamp(1, self.config.fetch_slots_max)
    }

    /// Asks `peer` for the slots after the watermark, as far as somebody `known` to have them has.
    fn fetch(&mut self, peer: usize, known: Slot, unanswered: u32, fx: &mut Effects<V>) {
        let first = self.chosen.next();
        let last = known.min(Slot(self.chosen.0.saturating_add(self.fetch_slots())));
        let patience = self.config.resend_timeout * (1 << unanswered.min(PATIENCE_DOUBLINGS_MAX));
        let (deadline, unanswered) = (self.now + patience, unanswered + 1);
        self.fetching = Some(Fetching { peer, last, deadline, progressed: false, unanswered });
        self.send(peer, Message::Fetch { first, last }, fx);
    }

    /// Asks for more of whoever is answering once half of what may be under way has come.
    fn fetch_more(&mut self, fx: &mut Effects<V>) {
        let (may_fetch, slots) = (self.may_fetch(), self.fetch_slots());
        let Some(fetching) = &mut self.fetching else { return };
        let awaited = self.chosen.distance_to(fetching.last);
        if !may_fetch || awaited > slots / 2 {
            return;
        }
        let (peer, first) = (fetching.peer, fetching.last.next());
        let last = self.peers[peer].chosen.min(Slot(self.chosen.0.saturating_add(slots)));
        if first > last {
            return;
        }
        fetching.last = last;
        self.send(peer, Message::Fetch { first, last }, fx);
    }

    pub(super) fn on_learn(
        &mut self,
        peer: usize,
        slot: Slot,
        ballot: Ballot,
        value: V,
        fx: &mut Effects<V>,
    ) {
        if slot == Slot::NONE || ballot.round > ROUND_MAX {
            return;
        }
        self.note_chosen(peer, slot);
        if slot == self.chosen.next() {
            if self.persists.bytes() >= self.disk_queue_bytes_max() {
                // It is asked for again once a write completes.
                self.fetching = None;
                return;
            }
            self.learnt_bytes = value.size();
            self.learn_next(slot, ballot, value, fx);
        }
        if let Some(fetching) = &mut self.fetching
            && fetching.peer == peer
        {
            // The caller of the peer may answer a part only: when the stream falls silent, the
            // rest is asked for without waiting as long as for a first answer.
            let silence = self.config.heartbeat_interval.min(self.config.resend_timeout);
            (fetching.progressed, fetching.unanswered) = (true, 0);
            fetching.deadline = self.now + silence;
        }
        self.fetch_answered();
        self.fetch_more(fx);
        self.catch_up(Some(peer), fx);
    }

    fn learn_next(&mut self, slot: Slot, ballot: Ballot, value: V, fx: &mut Effects<V>) {
        if ballot > self.promised && !matches!(self.state, State::Following) {
            // Somebody leads at a higher ballot: what this replica is about is over.
            self.follow(None, fx);
            self.await_election();
        }
        match self.window.get(slot) {
            // A value accepted at this ballot or above is the chosen one: it was proposed under
            // a ballot not below the one that chose it. Nothing is written a second time.
            Some(held) if held.ballot >= ballot => {
                let (own, learnt) = (held.value.checksum(), value.checksum());
                assert_eq!(own, learnt, "slot {slot} has one chosen value (ballot {ballot})");
            }
            _ => {
                let leads = matches!(self.state, State::Leading(_));
                assert!(!leads, "phase 1 finds every value chosen at a lower ballot");
                self.write_entry(slot, ballot, value, Vec::new(), fx);
            }
        }
        self.choose_next(fx);
        self.choose_told(fx);
        self.note_recovery_progress();
        self.after_chosen(fx);
        self.try_choose(fx);
    }

    /// Forgets the fetch whose last slot has been learnt.
    pub(super) fn fetch_answered(&mut self) {
        if self.fetching.as_ref().is_some_and(|fetching| self.chosen >= fetching.last) {
            self.fetching = None;
        }
    }

    pub(super) fn fetch_tick(&mut self, fx: &mut Effects<V>) {
        let Some(fetching) = self.fetching.take_if(|fetching| self.now >= fetching.deadline) else {
            return;
        };
        if fetching.progressed {
            return self.catch_up(Some(fetching.peer), fx);
        }
        // Whoever was asked has nothing to say: it may not be able to read what it holds. Anybody
        // else may have it, told of or not: a follower hears of its leader's watermark only.
        let count = self.peers.len();
        let next = (1..count)
            .map(|step| (fetching.peer + step) % count)
            .filter(|peer| *peer != self.me)
            .find(|peer| self.peers[*peer].connected || self.peers[*peer].chosen > self.chosen);
        let known = self.peer_indices().map(|peer| self.peers[peer].chosen).max();
        match (next, known) {
            (Some(peer), Some(known)) if self.may_fetch() && known > self.chosen => {
                self.fetch(peer, known, fetching.unanswered, fx);
            }
            _ => self.catch_up(Some(fetching.peer), fx),
        }
    }

    /// The connection with the peer came or went: what was asked of it may be lost.
    pub(super) fn fetch_peer_changed(&mut self, peer: usize, fx: &mut Effects<V>) {
        if self.fetching.take_if(|fetching| fetching.peer == peer).is_some() {
            self.catch_up(None, fx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;
    use crate::paxos::testkit::Text;
    use crate::paxos::{Config, Effect, Input, Recovered};

    /// A member that was far ahead and is gone must not be asked for each slot, a timeout each.
    #[test]
    fn who_has_fallen_silent_is_not_asked_while_somebody_else_knows_more() {
        let members = [1, 2, 3].map(NodeId);
        let mut config = Config::new(members[0], members.to_vec());
        config.fetch_slots_max = 1;
        let (timeout, start) = (config.election_timeout, Instant(1));
        let recovered = Recovered::default();
        let mut core = Core::<Text>::new(config, recovered, start, 7).unwrap();
        let mut told = |now: Instant, from: NodeId, chosen| {
            let ballot = Ballot { round: 1, node: from };
            let message = Message::PreVote { ballot, chosen: Slot(chosen) };
            core.step(now, Input::Message { from, message }, &mut Vec::new());
            let mut fx = Vec::new();
            core.fetching = None;
            core.catch_up(None, &mut fx);
            let fetches = fx.into_iter().filter_map(|effect| match effect {
                Effect::Send(out) if matches!(out.message, Message::Fetch { .. }) => Some(out.to),
                _ => None,
            });
            fetches.collect::<Vec<_>>()
        };
        assert_eq!(told(start, members[2], 20), [members[2]]);
        assert_eq!(told(start, members[1], 9), [members[2]], "both live: who knows most");
        let later = start + timeout;
        assert_eq!(told(later, members[1], 9), [members[1]]);
        assert_eq!(told(later + timeout, members[2], 20), [members[2]], "back again");
    }
}
