//! What every replica answers to candidates and leaders, whatever it is itself.
//!
//! Called by the dispatch in `core`. Guarantee: nothing is accepted or promised below the
//! promise; `Promise` and `Accepted` leave only with what is durable.

use super::Value;
use super::catchup::FETCH_ANSWER_SLOTS_MAX;
use super::config::ACCEPT_AHEAD_SLOTS_LIMIT;
use super::core::{Core, State};
use super::effect::{Effect, Effects};
use super::message::{AcceptedSlot, Message, Release};
use super::window::Entry;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, NodeId, Slot};

impl<V: Value> Core<V> {
    pub(super) fn on_pre_vote(
        &mut self,
        peer: usize,
        ballot: Ballot,
        chosen: Slot,
        fx: &mut Effects<V>,
    ) {
        self.note_chosen(peer, chosen);
        // A replica whose disk does not answer could not make the promise durable: its consent
        // would start a campaign that it then holds up.
        // A ballot that is promised already is the sender's own, of a campaign that it repeats.
        let granted = ballot >= self.promised
            && !self.hears_leader()
            && !self.is_bound_against(Some(peer), Release::NONE)
            && !self.disk_stalled()
            && self.has_vote();
        if granted {
            self.campaign_instead(chosen);
        }
        let (promised, chosen) = (self.promised, self.chosen);
        if !self.has_vote() {
            // Whoever cannot be elected without it should know why.
            self.tell_cut(peer, 0, fx);
        }
        self.send(peer, Message::PreVoteReply { ballot, granted, promised, chosen }, fx);
        self.catch_up(Some(peer), fx);
    }

    /// Whether a leader (or a candidate with a quorum of promises) is alive, itself included.
    fn hears_leader(&self) -> bool {
        match self.state {
            State::Leading(_) | State::Recovering(_) => true,
            State::PreVoting(_) | State::Preparing(_) => false,
            State::Following => {
                let silence = self.now.since(self.leader_heard_at);
                self.leader.is_some() && silence < self.config.election_timeout
            }
        }
    }

    pub(super) fn on_prepare(
        &mut self,
        peer: usize,
        ballot: Ballot,
        chosen: Slot,
        release: Release,
        fx: &mut Effects<V>,
    ) {
        self.note_chosen(peer, chosen);
        if ballot < self.promised {
            return self.nack(peer, ballot, fx);
        }
        if !self.has_vote() {
            return self.tell_cut(peer, 0, fx);
        }
        // The holder of a lease may answer reads until the grant has run out: nobody else may
        // lead before, unless the holder has given it up. The candidate asks again.
        if ballot > self.promised && self.is_bound_against(Some(peer), release) {
            return;
        }
        // The promise tells of values that are still on their way to the disk, too: their
        // Accepted may leave after this promise and be counted. Crash example: a value accepted
        // at ballot 3 but left out here could reach a quorum after the candidate of ballot 4 has
        // put a no-op in its place.
        let omits = self.window.above(self.chosen).next().is_some()
            && planted(Mutant::PromiseOmitsFirstSlot);
        let floor = if omits { self.chosen.next() } else { self.chosen };
        let accepted = self
            .window
            .above(floor)
            .filter(|(_, entry)| entry.durable || !planted(Mutant::PromiseOmitsUndurable))
            .map(|(slot, entry)| {
                let checksum = entry.value.checksum();
                AcceptedSlot { slot, ballot: entry.ballot, checksum }
            })
            .collect();
        let (chosen, cut) = (self.chosen, self.own_cut.is_some());
        let promise = Message::Promise { ballot, chosen, accepted, cut };
        if ballot > self.promised {
            let leads = !matches!(self.state, State::Following);
            if !(leads && planted(Mutant::StepDownDropped)) {
                self.end_transfer(Some(ballot.node), fx);
                self.follow(None, fx);
                self.await_election();
            }
            let then = vec![self.outgoing(peer, promise)];
            self.promise(ballot, then, fx);
        } else if self.promised_durable >= ballot {
            // Asked again: the first answer may be lost. One that is under way to the disk will
            // still leave from there.
            self.send(peer, promise, fx);
        }
        self.catch_up(Some(peer), fx);
    }

    pub(super) fn on_accept(
        &mut self,
        peer: usize,
        ballot: Ballot,
        slot: Slot,
        value: V,
        fx: &mut Effects<V>,
    ) {
        if ballot < self.promised && !planted(Mutant::AcceptBelowPromise) {
            return self.nack(peer, ballot, fx);
        }
        if slot == Slot::NONE {
            return;
        }
        self.hear_leader(peer, fx);
        if slot <= self.chosen {
            return self.accept_chosen(peer, ballot, slot, fx);
        }
        let accepted = Message::Accepted { ballot, slot };
        match self.window.get(slot) {
            Some(held) if held.ballot == ballot => {
                assert_eq!(
                    held.value.checksum(),
                    value.checksum(),
                    "slot {slot} has one value at ballot {ballot}"
                );
                if self.promised_durable < ballot {
                    self.owe(slot);
                } else if held.durable {
                    self.send(peer, accepted, fx);
                }
            }
            _ if self.is_disk_behind() || !self.has_room_for(slot, value.size()) => {
                self.reject_accept(peer, ballot, slot, fx)
            }
            _ => {
                let covered = self.promised_durable >= ballot
                    || planted(Mutant::AcceptDoesNotPromise)
                    || planted(Mutant::AcceptedBeforePromise);
                let then = if covered { vec![self.outgoing(peer, accepted)] } else { Vec::new() };
                self.write_entry(slot, ballot, value, then, fx);
                if !covered {
                    self.owe(slot);
                }
            }
        }
    }

    /// Whether a value of `size` bytes may be held for a slot above the watermark, in place of what is
    /// held there.
    ///
    /// What lies above a slot that is missing must leave room for what extends the prefix. Example: of
    /// three replicas one is down and one has a full room of values above slots that nobody has
    /// chosen; those slots are chosen only if it takes them. So the first slot that is missing has a
    /// room of its own, and the next one to be chosen always is taken.
    fn has_room_for(&self, slot: Slot, size: usize) -> bool {
        let ahead = self.chosen.distance_to(slot);
        let near = self.config.retained_slots_max;
        if ahead > ACCEPT_AHEAD_SLOTS_LIMIT || (ahead > near && planted(Mutant::AcceptNeedsPrefix))
        {
            return false;
        }
        let held = self.window.get(slot).map_or(0, |entry| entry.value.size());
        let bytes = self.window.bytes() - held + size;
        let bytes_max = self.config.accept_ahead_bytes_max;
        size <= held
            || bytes <= bytes_max
            || slot == self.chosen.next()
            || (bytes <= bytes_max * 2 && slot == self.window.first_missing())
    }

    /// The acceptance of this slot is told once the promise of its ballot is durable as well: the
    /// promise file must cover whatever the log may lose (see `tears`). Crash example: a follower
    /// accepts at ballot 5, before its promise of 5 stands anywhere else, and says so; the entry rots;
    /// restarted, it would take an entry at ballot 4 again.
    fn owe(&mut self, slot: Slot) {
        self.window.get_mut(slot).expect("it is held").owed = true;
    }

    /// A promise is durable: tells what was withheld for it and is durable as well.
    pub(super) fn pay_owed(&mut self, fx: &mut Effects<V>) {
        let owed = self.window.above(self.chosen).filter(|(_, entry)| entry.owed);
        let owed: Vec<Slot> = owed.map(|(slot, _)| slot).collect();
        owed.into_iter().for_each(|slot| self.pay(slot, fx));
    }

    /// Tells of this slot's acceptance if that was withheld and nothing is missing any more.
    pub(super) fn pay(&mut self, slot: Slot, fx: &mut Effects<V>) {
        let promised = self.promised_durable;
        let entry = self.window.get_mut(slot);
        let is_due =
            |entry: &&mut Entry<V>| entry.owed && entry.durable && entry.ballot <= promised;
        let Some(entry) = entry.filter(is_due) else { return };
        entry.owed = false;
        let ballot = entry.ballot;
        if let Some(peer) = self.peer_index(ballot.node) {
            self.send(peer, Message::Accepted { ballot, slot }, fx);
        }
    }

    /// There is no room for the value of this slot: the leader is to send it again. Were it not told,
    /// it would take the slot for one that is under way, and choose nothing until it has waited
    /// long enough.
    fn reject_accept(&mut self, peer: usize, ballot: Ballot, slot: Slot, fx: &mut Effects<V>) {
        self.raise_promise(ballot, fx);
        self.send(peer, Message::AcceptRejected { ballot, slot }, fx);
    }

    /// An accept for a slot that is known here to be chosen. A leader may ask because an answer
    /// was lost, or because it was elected by members that did not know.
    ///
    /// The value is the chosen one (a proposal above the ballot that chose it has no other), so
    /// the vote adds nothing that could be wrong and nothing is written: this replica's promises
    /// tell of the slot as chosen, or, restarted with an older watermark, as accepted at a ballot
    /// whose value is the same. It still answers only for what is durable here.
    fn accept_chosen(&mut self, peer: usize, ballot: Ballot, slot: Slot, fx: &mut Effects<V>) {
        if self.persists.has_entry(slot) {
            return self.reject_accept(peer, ballot, slot, fx);
        }
        let accepted = Message::Accepted { ballot, slot };
        if ballot > self.promised {
            let then = vec![self.outgoing(peer, accepted)];
            self.promise(ballot, then, fx);
        } else if self.promised_durable >= ballot {
            self.send(peer, accepted, fx);
        }
    }

    pub(super) fn on_heartbeat(
        &mut self,
        peer: usize,
        ballot: Ballot,
        told: Slot,
        (sequence, lease_ms): (u64, u32),
        fx: &mut Effects<V>,
    ) {
        if ballot < self.promised {
            return self.nack(peer, ballot, fx);
        }
        self.hear_leader(peer, fx);
        self.raise_promise(ballot, fx);
        self.on_watermark(peer, ballot, told, fx);
        if sequence != 0 {
            let chosen = self.chosen;
            let granted = self.grant_lease(peer, Release { ballot, sequence }, lease_ms);
            self.tell_cut(peer, sequence, fx);
            let (priority, fitness) = (self.config.priority, self.fitness());
            let reply =
                Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness };
            self.send(peer, reply, fx);
        }
    }

    /// The leader of `ballot` tells that every slot up to `told` is chosen.
    pub(super) fn on_watermark(
        &mut self,
        peer: usize,
        ballot: Ballot,
        told: Slot,
        fx: &mut Effects<V>,
    ) {
        if ballot < self.promised {
            return;
        }
        self.note_chosen(peer, told);
        if ballot > self.told.0 {
            self.told = (ballot, told);
        } else if ballot == self.told.0 {
            self.told.1 = self.told.1.max(told);
        }
        if self.choose_told(fx) {
            self.after_chosen(fx);
        }
        if told > self.chosen {
            self.catch_up(Some(peer), fx);
        }
    }

    /// Moves the watermark over the slots that a leader told to be chosen and whose value is held
    /// at that leader's ballot. A value of another ballot is not known to be the chosen one: it is
    /// fetched.
    pub(super) fn choose_told(&mut self, fx: &mut Effects<V>) -> bool {
        let (ballot, told) = self.told;
        let before = self.chosen;
        while self.chosen < told
            && self.window.get(self.chosen.next()).is_some_and(|entry| {
                entry.ballot == ballot || planted(Mutant::WatermarkOverOtherBallot)
            })
        {
            self.choose_next(fx);
        }
        self.chosen > before
    }

    /// A leader, or a candidate with a quorum of promises, is alive at a ballot not below ours.
    fn hear_leader(&mut self, peer: usize, fx: &mut Effects<V>) {
        let id = self.config.members[peer];
        self.leader_heard_at = self.now;
        self.failures = 0;
        self.deferred = false;
        self.pre_vote_retries = 0;
        self.note_reign(peer);
        if self.leader != Some(id) || !matches!(self.state, State::Following) {
            self.end_transfer(Some(id), fx);
            self.follow(Some(id), fx);
            self.await_election();
        } else {
            self.election_at = self.now + self.election_delay;
        }
    }

    /// The sender of this ballot has a quorum of promises; older leaders are not to be served
    /// any more.
    fn raise_promise(&mut self, ballot: Ballot, fx: &mut Effects<V>) {
        if ballot > self.promised {
            self.promise(ballot, Vec::new(), fx);
        }
    }

    /// The connection from the leader broke: a hint that it died.
    pub(super) fn leader_lost(&mut self, id: NodeId, fx: &mut Effects<V>) {
        if matches!(self.state, State::Following) && self.leader == Some(id) {
            self.follow(None, fx);
            let soon = self.config.election_timeout / 8;
            // Nobody can be elected while what was granted to the lost leader runs.
            let from = self.now.max(self.bound_until());
            self.election_at =
                from + self.rng.between(std::time::Duration::ZERO, soon) + self.handicap();
        }
    }

    pub(super) fn nack(&self, peer: usize, ballot: Ballot, fx: &mut Effects<V>) {
        self.send(peer, Message::Nack { ballot, promised: self.promised }, fx);
    }

    pub(super) fn on_fetch(&self, to: NodeId, first: Slot, last: Slot, fx: &mut Effects<V>) {
        if first == Slot::NONE || first > last || first > self.chosen {
            return;
        }
        let bound = Slot(first.0.saturating_add(FETCH_ANSWER_SLOTS_MAX - 1));
        let last = last.min(self.chosen).min(bound);
        fx.push(Effect::SendChosen { to, first, last });
    }

    pub(super) fn on_fetch_accepted(
        &mut self,
        peer: usize,
        ballot: Ballot,
        slot: Slot,
        fx: &mut Effects<V>,
    ) {
        if ballot < self.promised {
            return self.nack(peer, ballot, fx);
        }
        if slot <= self.chosen {
            // Chosen since the promise: the candidate may as well learn it.
            return self.on_fetch(self.config.members[peer], slot, slot, fx);
        }
        if let Some(entry) = self.window.get(slot) {
            let (accepted, value) = (entry.ballot, entry.value.clone());
            if planted(Mutant::LearnUnchosen) {
                return self.send(peer, Message::Learn { slot, ballot: accepted, value }, fx);
            }
            self.send(peer, Message::AcceptedValue { ballot, slot, accepted, value }, fx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use crate::paxos::testkit::Text;
    use crate::paxos::{Config, Input, Recovered, Write};

    /// The others choose slot after slot, and this replica hears of it, while its disk completes
    /// nothing: what it holds for the disk stays bounded.
    #[test]
    fn a_follower_whose_disk_hangs_takes_in_no_more_than_it_may() {
        let leader = NodeId(1);
        let mut config = Config::new(NodeId(2), vec![leader, NodeId(2), NodeId(3)]);
        config.lease = std::time::Duration::ZERO;
        (config.window_slots_max, config.retained_slots_max) = (8, 16);
        let mut core = Core::new(config, Recovered::default(), Instant(0), 1).unwrap();
        let ballot = Ballot { round: 1, node: leader };
        let mut held = Vec::new();
        let mut step = |core: &mut Core<Text>, input| {
            let mut effects = Vec::new();
            core.step(Instant(0), input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist { id, write: Write::Entry { .. }, .. } => held.push(id),
                    // The promise file is another file.
                    Effect::Persist { id, write: Write::Promise(_), .. } => {
                        core.step(Instant(0), Input::Persisted(id), &mut Vec::new());
                    }
                    _ => {}
                }
            }
            std::mem::take(&mut held)
        };
        step(&mut core, Input::PeerConnected(leader));
        let accept = |slot: u64| {
            let value = Text::new(&slot.to_string());
            let chosen = Slot(slot - 1);
            let message = Message::Accept { ballot, slot: Slot(slot), chosen, value };
            Input::Message { from: leader, message }
        };
        let mut writes = Vec::new();
        for slot in 1..=100 {
            writes.extend(step(&mut core, accept(slot)));
        }
        assert_eq!(writes.len(), 16);
        assert_eq!(core.chosen(), Slot(16), "what it holds it knows as chosen");
        // Each write that completes makes room for the next slot.
        step(&mut core, Input::Persisted(writes[0]));
        assert_eq!(step(&mut core, accept(17)).len(), 1);
        assert_eq!(step(&mut core, accept(18)).len(), 0);
    }

    /// What it accepts above a gap is bounded, and leaves room for what extends the prefix.
    #[test]
    fn values_above_a_gap_leave_room_for_those_that_fill_it() {
        let leader = NodeId(1);
        let mut config = Config::new(NodeId(2), vec![leader, NodeId(2), NodeId(3)]);
        (config.lease, config.accept_ahead_bytes_max) = (std::time::Duration::ZERO, 50);
        let mut core = Core::new(config, Recovered::default(), Instant(0), 1).unwrap();
        let ballot = Ballot { round: 1, node: leader };
        let mut takes = |slot: u64, size, chosen| {
            let value = Text { text: slot.to_string(), size };
            let (slot, chosen) = (Slot(slot), Slot(chosen));
            let message = Message::Accept { ballot, slot, chosen, value };
            let mut effects = Vec::new();
            core.step(Instant(0), Input::Message { from: leader, message }, &mut effects);
            let is_rejected = |effect: &Effect<Text>| match effect {
                Effect::Send(out) => matches!(out.message, Message::AcceptRejected { .. }),
                _ => false,
            };
            !effects.iter().any(is_rejected)
        };
        assert!((11..=15).all(|slot| takes(slot, 10, 0)), "no prefix is needed");
        assert!(!takes(16, 10, 0), "what is held above the gap is bounded");
        assert!(!takes(3, 10, 0), "and nothing but the first slot that is missing has more room");
        assert!((1..=5).all(|slot| takes(slot, 10, 0)));
        assert!(!takes(6, 10, 0), "its room is bounded, too");
        assert!(takes(5, 10, 4), "slots 1 to 4 are chosen and leave");
        assert!((6..=9).all(|slot| takes(slot, 10, 4)));
        assert!(takes(5, 10, 4) && !takes(10, 10, 4));
        assert!(takes(9, 10, 9) && takes(10, 1000, 9), "the next one to be chosen is always taken");
        assert!(!takes(15 + ACCEPT_AHEAD_SLOTS_LIMIT, 0, 9), "a promise tells of a bounded run");
    }
}
