//! Phase 2: proposing, counting votes, and streaming to each peer at its own pace.
//!
//! Called by the dispatch and the tick in `core`, and by `recovery` when a leadership begins.
//! Guarantee: one value per slot at this ballot; a slot is chosen when an accept quorum has it
//! on disk, each member counted once; the watermark never passes a gap.

use std::hash::{Hash, Hasher};

use super::Value;
use super::config::ACCEPT_AHEAD_SLOTS_LIMIT;
use super::core::{Core, State};
use super::effect::Effects;
use super::give_way::Pace;
use super::lease::Lease;
use super::message::Message;
use super::timeless::Timeless;
use super::transfer::Transfer;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Instant, Slot};

/// How far one peer is in this leader's stream.
#[derive(Clone, Debug)]
struct Progress {
    /// The next slot to send.
    next: Slot,
    /// Every slot up to here is answered, or left to the peer's own fetches.
    acked: Slot,
    /// Bytes sent in `(acked, next)` and not answered.
    unanswered_bytes: usize,
    /// Slots sent there and not answered.
    unanswered_slots: u64,
    /// The peer had no room lately: at most so many slots are sent and not answered, one more with each
    /// answer.
    unanswered_slots_max: Option<u64>,
    /// The greatest watermark told on this connection.
    told: Slot,
    /// The stream is unbroken from here on.
    stream_first: Slot,
    /// The oldest unanswered slot is sent alone, until it is answered.
    probing: bool,
    /// The peer has no room for `next`: with each answer to a heartbeat one slot is tried.
    blocked: bool,
    /// When `acked` last moved, or the slot behind it was sent first.
    progress_at: Instant,
}

impl Progress {
    /// The peer's watermark, as far as the leader can tell between its heartbeat replies: what
    /// it was told and has accepted, if nothing is missing before.
    fn chosen_estimate(&self, known: Slot) -> Slot {
        if known.next() >= self.stream_first { known.max(self.told.min(self.acked)) } else { known }
    }
}

/// A leadership.
#[derive(Clone)]
pub(super) struct Leading {
    pub(super) ballot: Ballot,
    /// The greatest slot proposed.
    last: Slot,
    /// Bytes of the slots proposed and not yet chosen.
    inflight_bytes: usize,
    /// Bytes of chosen slots kept for peers that have not answered them.
    retained_bytes: usize,
    /// By member index; its own place is unused.
    progress: Vec<Progress>,
    pub(super) heartbeat_at: Instant,
    /// The greatest slot of an earlier ballot that this leader proposed again: nothing chosen by
    /// leaders before it lies above.
    pub(super) recovered_through: Slot,
    /// By member index: the last heartbeat answered.
    pub(super) confirmed: Vec<u64>,
    pub(super) lease: Lease,
    /// The handing over that is under way.
    pub(super) transfer: Option<Transfer>,
    /// Since when it waits before it hands over to a replica of higher priority, or gives way.
    pub(super) patient_from: Instant,
    /// Since when its disk is far slower than the accept quorum's.
    pub(super) slow_since: Option<Instant>,
    /// How long it takes from a proposal to its being chosen; and the slot that is being timed.
    pub(super) pace: Pace,
}

impl Leading {
    /// Whether a peer that knows the slots up to `chosen` lacks nothing before the stream to it.
    pub(super) fn joins(&self, peer: usize, chosen: Slot) -> bool {
        chosen.next() >= self.progress[peer].stream_first
    }

    /// The slot after the watermark is now chosen: its bytes wait for slow peers only.
    pub(super) fn slot_chosen(&mut self, size: usize) {
        self.inflight_bytes -= size;
        self.retained_bytes += size;
    }
}

impl Timeless for Leading {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Leading {
            ballot,
            last,
            inflight_bytes,
            retained_bytes,
            progress,
            heartbeat_at: _,
            recovered_through: _,
            confirmed: _,
            lease: _,
            transfer,
            patient_from: _,
            slow_since: _,
            pace: _,
        } = self;
        (ballot, last, inflight_bytes, retained_bytes).hash(hasher);
        transfer.is_some().hash(hasher);
        if let Some(transfer) = transfer {
            transfer.hash_timeless(hasher);
        }
        for progress in progress {
            let Progress {
                next,
                acked,
                unanswered_bytes,
                unanswered_slots,
                unanswered_slots_max,
                told,
                stream_first,
                probing,
                blocked,
                progress_at: _,
            } = progress;
            (next, acked, unanswered_bytes, told, stream_first).hash(hasher);
            (unanswered_slots, unanswered_slots_max, probing, blocked).hash(hasher);
        }
    }
}

impl<V: Value> Core<V> {
    /// Whether a value may be proposed now: it leads, has proposed all values of earlier ballots,
    /// is not about to hand over, and has room in its windows. The bytes in flight may exceed `window_bytes_max` by the one
    /// value that is let in last.
    pub fn can_propose(&self) -> bool {
        let State::Leading(leading) = &self.state else { return false };
        if leading.holds_proposals() {
            return false;
        }
        let room = self.chosen.distance_to(leading.last) < self.config.window_slots_max
            && leading.inflight_bytes < self.config.window_bytes_max;
        room && !self.is_disk_behind()
    }

    /// The slot that the next [`super::Input::Propose`] gets, while it leads.
    pub fn next_slot(&self) -> Slot {
        self.proposed().next()
    }

    /// The ballot it leads with, or else the one it has promised.
    pub fn ballot(&self) -> Ballot {
        match &self.state {
            State::Leading(leading) => leading.ballot,
            _ => self.promised,
        }
    }

    pub(super) fn proposed(&self) -> Slot {
        match &self.state {
            State::Leading(leading) => leading.last,
            _ => self.chosen,
        }
    }

    pub(super) fn acked(&self, peer: usize) -> Option<Slot> {
        match &self.state {
            State::Leading(leading) => Some(leading.progress[peer].acked),
            _ => None,
        }
    }

    /// Up to which slot the peer has answered, if nothing below is missing there that it would
    /// have to fetch.
    pub(super) fn answered_without_gap(&self, peer: usize) -> Option<Slot> {
        let State::Leading(leading) = &self.state else { return None };
        leading.joins(peer, self.peers[peer].chosen).then_some(leading.progress[peer].acked)
    }

    pub(super) fn start_leading(&mut self, ballot: Ballot, fx: &mut Effects<V>) {
        assert_eq!(ballot, self.promised, "a leader has promised nobody more");
        let start = self.chosen;
        let progress = Progress {
            next: start.next(),
            acked: start,
            unanswered_bytes: 0,
            unanswered_slots: 0,
            unanswered_slots_max: None,
            told: Slot::NONE,
            stream_first: start.next(),
            probing: false,
            blocked: false,
            progress_at: self.now,
        };
        self.state = State::Leading(Leading {
            ballot,
            last: start,
            inflight_bytes: 0,
            retained_bytes: 0,
            progress: vec![progress; self.peers.len()],
            heartbeat_at: self.now + self.config.heartbeat_interval,
            recovered_through: start,
            confirmed: vec![0; self.peers.len()],
            lease: Lease::new(self.peers.len()),
            transfer: None,
            patient_from: self.now,
            slow_since: None,
            pace: Pace::default(),
        });
        self.end_reign();
        self.restart_reads();
        // Each leader has its time before it gives way.
        self.disk_full_since = self.disk_full_since.map(|_| self.now);
        self.leader = Some(self.config.id);
        self.unused = None;
        self.fetching = None;
        self.failures = 0;
        self.deferred = false;
        self.tell_role(fx);
        self.heartbeat_all(fx);
    }

    pub(super) fn propose(&mut self, value: V, fx: &mut Effects<V>) {
        assert!(self.can_propose(), "a value is proposed only while can_propose");
        self.propose_next(value, fx);
        self.pump_all(fx);
    }

    /// Proposes `value` in the next slot; its acceptors are served by the next pump.
    pub(super) fn propose_next(&mut self, value: V, fx: &mut Effects<V>) {
        let State::Leading(leading) = &mut self.state else {
            panic!("only a leader proposes");
        };
        let slot = leading.last.next();
        leading.last = slot;
        leading.pace.proposed(slot, self.now);
        leading.inflight_bytes += value.size();
        let ballot = leading.ballot;
        assert_eq!(ballot, self.promised, "a leader has promised nobody more");
        self.write_entry(slot, ballot, value, Vec::new(), fx);
        if planted(Mutant::OwnVoteBeforeDurable)
            && let Some(entry) = self.window.get_mut(slot)
        {
            entry.votes.add(self.me);
        }
    }

    /// The slot may hold something that an earlier leader has chosen.
    pub(super) fn note_recovered(&mut self, slot: Slot) {
        let State::Leading(leading) = &mut self.state else { return };
        leading.recovered_through = slot;
    }

    pub(super) fn own_entry_durable(&mut self, slot: Slot, ballot: Ballot, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        if leading.ballot == ballot
            && let Some(entry) = self.window.get_mut(slot)
        {
            entry.votes.add(self.me);
            self.try_choose(fx);
        }
    }

    pub(super) fn on_accepted(
        &mut self,
        peer: usize,
        ballot: Ballot,
        slot: Slot,
        fx: &mut Effects<V>,
    ) {
        let State::Leading(leading) = &mut self.state else { return };
        if leading.ballot != ballot && !planted(Mutant::AcceptedOfOtherBallot) {
            return;
        }
        if let Some(entry) = self.window.get_mut(slot) {
            let progress = &mut leading.progress[peer];
            progress.blocked = false;
            if planted(Mutant::ResendOnSilenceOnly) {
                (progress.probing, progress.progress_at) = (false, self.now);
            }
            if entry.votes.has(peer) && planted(Mutant::AcceptedCountedTwice) {
                entry.votes.add((peer + 1) % self.peers.len());
            }
            if entry.votes.add(peer) && slot > progress.acked && slot < progress.next {
                progress.answered(entry.value.size());
                let slots_max = self.config.window_slots_max;
                let more = progress.unanswered_slots_max.map(|count| count + 1);
                progress.unanswered_slots_max = more.filter(|count| *count <= slots_max);
            }
        }
        self.note_answer(peer);
        self.advance_acked(peer);
        self.try_choose(fx);
        self.release_retained();
        self.pump(peer, fx);
    }

    /// The peer has no room and has dropped what it was sent for this slot. The stream goes back to
    /// there and rests until the peer is heard again; and then it begins with one slot, and sends one more
    /// with each answer: what is sent beyond the peer's room is sent in vain, time and again.
    pub(super) fn on_accept_rejected(&mut self, peer: usize, ballot: Ballot, slot: Slot) {
        let State::Leading(leading) = &mut self.state else { return };
        if leading.ballot != ballot || planted(Mutant::ResendOnSilenceOnly) {
            return;
        }
        let progress = &mut leading.progress[peer];
        let waits = |slot| self.window.get(slot).filter(|entry| !entry.votes.has(peer));
        if slot > progress.acked && slot < progress.next && waits(slot).is_some() {
            let back = (slot.0..progress.next.0).filter_map(|slot| waits(Slot(slot)));
            back.for_each(|entry| progress.answered(entry.value.size()));
            progress.next = slot;
            progress.blocked = true;
            progress.unanswered_slots_max = Some(1);
        }
        self.note_answer(peer);
    }

    /// Moves the watermark over every slot that an accept quorum holds.
    pub(super) fn try_choose(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        let (before, last, ballot) = (self.chosen, leading.last, leading.ballot);
        while self.chosen < last {
            let entry = self.window.get(self.chosen.next()).expect("what is proposed is held");
            assert_eq!(entry.ballot, ballot, "votes are counted for this ballot alone");
            let chosen = self.quorum.is_accept_quorum(entry.votes)
                || (self.next_but_one_has_quorum() && planted(Mutant::ChosenPassesGap));
            if !chosen {
                break;
            }
            self.choose_next(fx);
        }
        if self.chosen > before {
            if let State::Leading(leading) = &mut self.state {
                leading.pace.chosen(self.chosen, self.now);
            }
            self.after_chosen(fx);
        }
    }

    fn next_but_one_has_quorum(&self) -> bool {
        let entry = self.window.get(self.chosen.next().next());
        entry.is_some_and(|entry| self.quorum.is_accept_quorum(entry.votes))
    }

    fn advance_acked(&mut self, peer: usize) {
        let State::Leading(leading) = &mut self.state else { return };
        let progress = &mut leading.progress[peer];
        while progress.acked < leading.last
            && self.window.get(progress.acked.next()).is_some_and(|entry| entry.votes.has(peer))
        {
            progress.acked = progress.acked.next();
            (progress.probing, progress.progress_at) = (false, self.now);
        }
        progress.next = progress.next.max(progress.acked.next());
    }

    /// Lets go of chosen slots that every peer has answered, or for which there is no room: a
    /// peer that lacks them fetches them.
    pub(super) fn release_retained(&mut self) {
        let State::Leading(leading) = &mut self.state else { return };
        while self.window.first() <= self.chosen {
            let slot = self.window.first();
            let slots = slot.distance_to(self.chosen) + 1;
            let over = leading.retained_bytes > self.config.retained_bytes_max
                || slots > self.config.retained_slots_max;
            let peers = (0..leading.progress.len()).filter(|peer| *peer != self.me);
            let answered = peers.clone().all(|peer| leading.progress[peer].acked >= slot);
            if !answered && !over {
                break;
            }
            let entry = self.window.pop_front().expect("a leader holds what it has proposed");
            let size = entry.value.size();
            leading.retained_bytes -= size;
            for peer in peers {
                let progress = &mut leading.progress[peer];
                if progress.acked >= slot {
                    continue;
                }
                if progress.next > slot && !entry.votes.has(peer) {
                    progress.answered(size);
                }
                progress.acked = slot;
                progress.next = progress.next.max(slot.next());
                progress.stream_first = slot.next();
            }
        }
        for peer in self.peer_indices() {
            self.advance_acked(peer);
        }
    }

    pub(super) fn pump_all(&mut self, fx: &mut Effects<V>) {
        for peer in self.peer_indices() {
            self.pump(peer, fx);
        }
    }

    /// Sends the peer what it has room for.
    fn pump(&mut self, peer: usize, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        if !leading.progress[peer].blocked {
            self.pump_at_most(usize::MAX, peer, fx);
        }
    }

    fn pump_at_most(&mut self, count: usize, peer: usize, fx: &mut Effects<V>) {
        let State::Leading(leading) = &mut self.state else { return };
        let known = self.peers[peer].chosen;
        let ballot = leading.ballot;
        let to = self.config.members[peer];
        let progress = &mut leading.progress[peer];
        let mut sent_count = 0;
        while progress.next <= leading.last && sent_count < count {
            let slot = progress.next;
            let entry = self.window.get(slot).expect("what is proposed and unanswered is held");
            if entry.votes.has(peer) {
                progress.next = slot.next();
                continue;
            }
            let bytes = progress.unanswered_bytes + entry.value.size();
            let full = progress.unanswered_bytes > 0 && bytes > self.config.peer_bytes_max;
            let limited =
                progress.unanswered_slots_max.is_some_and(|max| progress.unanswered_slots >= max);
            let waits = progress.probing && slot > progress.acked.next();
            // The peer would refuse it: it first has to fetch what lies before.
            let estimate = progress.chosen_estimate(known);
            let beyond = estimate.distance_to(slot) > ACCEPT_AHEAD_SLOTS_LIMIT;
            if full || limited || waits || beyond {
                break;
            }
            if slot == progress.acked.next() {
                progress.progress_at = self.now;
            }
            let chosen = self.chosen.min(Slot(slot.0 - 1));
            let value = entry.value.clone();
            let message = Message::Accept { ballot, slot, chosen, value };
            fx.push(super::Effect::Send(super::Outgoing { to, message }));
            progress.told = progress.told.max(chosen);
            progress.unanswered_bytes = bytes;
            progress.unanswered_slots += 1;
            progress.next = slot.next();
            sent_count += 1;
        }
    }

    /// The watermark that the peer may be told: not beyond what has been sent to it, so that
    /// whatever is missing below is lost, not late.
    fn watermark_for(&self, leading: &Leading, peer: usize) -> Slot {
        self.chosen.min(Slot(leading.progress[peer].next.0 - 1))
    }

    fn heartbeat(&mut self, peer: usize, sequence: u64, lease_ms: u32, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        let (ballot, chosen) = (leading.ballot, self.watermark_for(leading, peer));
        self.send(peer, Message::Heartbeat { ballot, chosen, sequence, lease_ms }, fx);
        let State::Leading(leading) = &mut self.state else { return };
        leading.progress[peer].told = chosen;
    }

    pub(super) fn heartbeat_all(&mut self, fx: &mut Effects<V>) {
        self.sequence += 1;
        let lease_ms = self.ask_lease(self.sequence);
        for peer in self.peer_indices() {
            self.heartbeat(peer, self.sequence, lease_ms, fx);
        }
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        peer: usize,
        ballot: Ballot,
        chosen: Slot,
        fx: &mut Effects<V>,
    ) {
        match &mut self.state {
            State::Recovering(recovering) if recovering.ballot == ballot => {
                self.note_answer(peer);
                self.note_chosen(peer, chosen);
                self.catch_up(Some(peer), fx);
            }
            State::Leading(leading) if leading.ballot == ballot => {
                let progress = &mut leading.progress[peer];
                // What is chosen at both ends needs no answer any more.
                let settled = chosen.min(self.chosen);
                while progress.acked < settled {
                    let slot = progress.acked.next();
                    if let Some(entry) = self.window.get(slot)
                        && slot < progress.next
                        && !entry.votes.has(peer)
                    {
                        progress.answered(entry.value.size());
                    }
                    progress.acked = slot;
                    progress.progress_at = self.now;
                }
                let count = if progress.blocked { 1 } else { usize::MAX };
                self.note_answer(peer);
                self.note_chosen(peer, chosen);
                self.advance_acked(peer);
                self.release_retained();
                self.pump_at_most(count, peer, fx);
            }
            _ => {}
        }
    }

    pub(super) fn leader_tick(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &mut self.state else { return };
        if self.now < leading.heartbeat_at {
            return;
        }
        leading.heartbeat_at = self.now + self.config.heartbeat_interval;
        // A leader that reaches no quorum, or whose disk stands still, holds up everybody who still
        // hears it.
        let lonely = !self.has_quorum_contact() && !planted(Mutant::LonelyLeaderStays);
        let stalled = self.disk_stalled() && !planted(Mutant::StalledLeaderStays);
        if lonely || stalled {
            return self.give_up(fx);
        }
        self.note_own_disk();
        self.transfer_tick(fx);
        self.heartbeat_all(fx);
        for peer in self.peer_indices() {
            self.resend(peer);
            self.pump(peer, fx);
        }
    }

    /// Goes back to the oldest unanswered slot when that has not been answered for too long, whatever
    /// has been answered behind it.
    ///
    /// A peer may have dropped it alone. Example: a follower that catches up has no room for the first
    /// slot of a new leader, and some milliseconds later it has, for those that follow. They are
    /// answered, one every few milliseconds; without the first none of them is ever chosen.
    fn resend(&mut self, peer: usize) {
        let State::Leading(leading) = &mut self.state else { return };
        let progress = &mut leading.progress[peer];
        let waits = progress.acked.next() < progress.next;
        if waits && self.now.since(progress.progress_at) >= self.config.resend_timeout {
            progress.rewind();
            (progress.probing, progress.blocked) = (true, false);
            progress.progress_at = self.now;
        }
    }

    pub(super) fn leader_peer_connected(&mut self, peer: usize, fx: &mut Effects<V>) {
        let State::Leading(leading) = &mut self.state else { return };
        let progress = &mut leading.progress[peer];
        progress.rewind();
        (progress.probing, progress.blocked) = (false, false);
        progress.unanswered_slots_max = None;
        progress.told = Slot::NONE;
        // The answer tells how far the peer is, which opens the stream again.
        self.sequence += 1;
        self.heartbeat(peer, self.sequence, 0, fx);
        self.pump(peer, fx);
    }

    /// Tells the watermark to those whom no accept will tell it: the pipe has run dry.
    pub(super) fn end_of_turn(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        if self.chosen < leading.last {
            return;
        }
        for peer in self.peer_indices() {
            let State::Leading(leading) = &self.state else { return };
            if leading.progress[peer].told < self.watermark_for(leading, peer) {
                self.heartbeat(peer, 0, 0, fx);
            }
        }
    }
}

impl Progress {
    fn rewind(&mut self) {
        self.next = self.acked.next();
        (self.unanswered_bytes, self.unanswered_slots) = (0, 0);
    }

    /// One of the slots that were sent needs no answer any more.
    fn answered(&mut self, size: usize) {
        self.unanswered_bytes -= size;
        self.unanswered_slots -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::NodeId;
    use crate::paxos::testkit::Text;
    use crate::paxos::{Config, Effect, Fitness, Input, PersistId, Recovered, Write};

    const PEER: NodeId = NodeId(2);

    /// A leader of three whose disk is at once; the second member answers, the third is down.
    struct Led {
        core: Core<Text>,
        now: Instant,
        ballot: Ballot,
        sent: Vec<Slot>,
    }

    impl Led {
        fn new() -> Led {
            let members = [1, 2, 3].map(NodeId);
            let mut config = Config::new(members[0], members.to_vec());
            config.lease = Duration::ZERO;
            let core = Core::new(config, Recovered::default(), Instant(0), 1).unwrap();
            let mut led = Led { core, now: Instant(0), ballot: Ballot::NONE, sent: Vec::new() };
            led.step(Input::PeerConnected(PEER));
            led.now = led.core.next_deadline().unwrap();
            led.step(Input::Tick);
            led.ballot = Ballot { round: 1, node: members[0] };
            let (ballot, chosen) = (led.ballot, Slot::NONE);
            let promised = Ballot::NONE;
            led.receive(Message::PreVoteReply { ballot, granted: true, promised, chosen });
            led.receive(Message::Promise { ballot, chosen, accepted: vec![], cut: false });
            assert_eq!(led.core.leader(), Some(members[0]));
            led
        }

        fn step(&mut self, input: Input<Text>) {
            let mut effects = Vec::new();
            self.core.step(self.now, input, &mut effects);
            let mut written: Vec<PersistId> = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Persist {
                        id, write: Write::Entry { .. } | Write::Promise(_), ..
                    } => written.push(id),
                    Effect::Send(out) if out.to == PEER => {
                        if let Message::Accept { slot, .. } = out.message {
                            self.sent.push(slot);
                        }
                    }
                    _ => {}
                }
            }
            written.into_iter().for_each(|id| self.step(Input::Persisted(id)));
        }

        fn receive(&mut self, message: Message<Text>) {
            self.step(Input::Message { from: PEER, message });
        }

        fn propose(&mut self) -> Slot {
            self.step(Input::Propose(Text::new("value")));
            self.core.proposed()
        }

        fn accepted(&mut self, slot: Slot) {
            self.receive(Message::Accepted { ballot: self.ballot, slot });
        }

        /// Time goes on, with heartbeats and the peer's answers.
        fn wait(&mut self, by: Duration) {
            self.now = self.now + by;
            self.step(Input::Tick);
            let (ballot, sequence, chosen) = (self.ballot, self.core.sequence, Slot::NONE);
            let (granted, priority) = (false, 0);
            let fitness = Fitness::default();
            let reply =
                Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness };
            self.receive(reply);
        }
    }

    /// The peer has dropped slot 1 and answers what follows, one slot every 20 ms: slot 1 is sent
    /// again after the resend timeout, and everything is chosen.
    #[test]
    fn resends_oldest_while_later_are_answered() {
        let mut led = Led::new();
        assert_eq!(led.propose(), Slot(1));
        let timeout = led.core.config().resend_timeout;
        let start = led.now;
        while led.sent.iter().filter(|slot| **slot == Slot(1)).count() < 2 {
            assert!(led.now.since(start) <= timeout * 2, "the oldest slot is not sent again");
            let slot = led.propose();
            led.accepted(slot);
            led.wait(Duration::from_millis(20));
        }
        led.accepted(Slot(1));
        assert_eq!(led.core.chosen(), led.core.proposed());
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn resend_on_silence_only_is_caught() {
        use crate::base::mutants::{hits, plant};
        plant(Some(Mutant::ResendOnSilenceOnly));
        let found = std::panic::catch_unwind(resends_oldest_while_later_are_answered).is_err();
        let hits = hits();
        plant(None);
        assert!(found && hits > 0, "found {found}, {hits} hits");
    }

    /// A peer that says that it has dropped a slot gets it again once it is heard next, one slot at
    /// a time until it takes one.
    #[test]
    fn rejected_accept_is_sent_again_at_next_heartbeat() {
        let mut led = Led::new();
        for _ in 0..3 {
            led.propose();
        }
        let ballot = led.ballot;
        for slot in 1..=3 {
            led.receive(Message::AcceptRejected { ballot, slot: Slot(slot) });
        }
        led.sent.clear();
        led.propose();
        assert_eq!(led.sent, [], "a peer without room is sent nothing");
        let interval = led.core.config().heartbeat_interval;
        led.wait(interval);
        assert_eq!(led.sent, [Slot(1)]);
        led.receive(Message::AcceptRejected { ballot, slot: Slot(1) });
        led.wait(interval);
        assert_eq!(led.sent, [Slot(1), Slot(1)]);
        led.accepted(Slot(1));
        assert_eq!(led.sent[2..], [Slot(2), Slot(3)], "one more than before");
        led.receive(Message::AcceptRejected { ballot, slot: Slot(3) });
        led.accepted(Slot(2));
        assert_eq!(led.sent[4..], [Slot(3), Slot(4)], "from the beginning");
        (3..=4).for_each(|slot| led.accepted(Slot(slot)));
        assert_eq!(led.core.chosen(), Slot(4));
    }
}
