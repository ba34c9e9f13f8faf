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
//! A priority must not make a member lead that cannot keep it: one that fails again and again, or takes
//! no leadership over. Each replica counts such setbacks of each peer, as far as it sees them: as the
//! leader that handed over in vain, and as the one that leads after the peer. With each in a row it
//! waits twice as long before it hands over to that peer again, until the peer has led for long. The
//! count is in memory and decides about time alone.
//!
//! Source: Ongaro's thesis (2014), section 3.10.

use std::hash::{Hash, Hasher};
use std::time::Duration;

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
/// as long after a try that failed; twice as long for each setback of the one who is to get it.
const PRIORITY_PATIENCE_TIMEOUTS: u32 = 10;

/// More setbacks in a row are not counted: the patience grows to 640 election timeouts, with the
/// default of 400 ms four minutes.
const SETBACKS_MAX: u32 = 6;

/// A peer that has led for so many election timeouts, as long as the longest patience, has no
/// setbacks any more, and gets none for losing the leadership after that.
const SETTLED_TIMEOUTS: u32 = PRIORITY_PATIENCE_TIMEOUTS << SETBACKS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Nearing,
    Draining,
    Sent,
}

/// A handing over that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) to: usize,
    stage: Stage,
    /// The leader goes on as it was after this.
    until: Instant,
}

/// The peer that was heard to lead last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reign {
    peer: usize,
    /// How long it has been heard to lead, without another leader in between. Of each silence an
    /// election timeout counts at most: whoever is silent for longer is not known to lead.
    led: Duration,
    /// When it was heard last.
    heard_at: Instant,
}

impl Reign {
    /// For how long it has led by `now`.
    fn led_by(&self, now: Instant, election_timeout: Duration) -> Duration {
        self.led + now.since(self.heard_at).min(election_timeout)
    }
}

impl Timeless for Transfer {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Transfer { to, stage, until: _ } = self;
        (to, stage).hash(hasher);
    }
}

impl Transfer {
    /// Whether the target has yet to come close.
    pub(super) fn is_nearing(&self) -> bool {
        self.stage == Stage::Nearing
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

    pub(super) fn start_transfer(&mut self, to: usize) {
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
    pub(super) fn is_near(&self, peer: usize) -> bool {
        let Some(answered) = self.answered_without_gap(peer) else { return false };
        self.is_heard(peer) && answered.distance_to(self.proposed()) <= NEAR_SLOTS_MAX
    }

    /// Whether the peer is connected and lives.
    pub(super) fn is_heard(&self, peer: usize) -> bool {
        let silence = self.now.since(self.peers[peer].answered_at);
        self.peers[peer].connected
            && self.peers[peer].votes()
            && silence < self.config.election_timeout
    }

    /// Whether everything proposed is chosen, and the peer has accepted it or knows it as chosen.
    fn holds_all(&self, peer: usize) -> bool {
        let last: Slot = self.proposed();
        let answered = self.answered_without_gap(peer).is_some_and(|answered| answered >= last);
        (answered || planted(Mutant::TransferToReplicaBehind)) && self.chosen == last
    }

    /// Ends a handing over that is under way: `by` leads now, or is about to.
    pub(super) fn end_transfer(&mut self, by: Option<NodeId>, fx: &mut Effects<V>) {
        let State::Leading(leading) = &mut self.state else { return };
        if let Some(transfer) = leading.transfer.take() {
            leading.patient_from = self.now;
            let to = self.config.members[transfer.to];
            fx.push(Effect::TransferEnded { to, taken_over: by == Some(to) });
        }
    }

    pub(super) fn transfer_tick(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        match leading.transfer {
            Some(transfer) if self.now >= transfer.until => {
                // Appends have waited for it in vain, unless it never came near.
                if transfer.stage != Stage::Nearing {
                    self.add_setback(transfer.to);
                }
                self.end_transfer(None, fx);
            }
            Some(_) => {}
            None => {
                if let Some(peer) = self.wanted_more(leading.patient_from) {
                    self.start_transfer(peer);
                }
            }
        }
    }

    /// The peer of the highest priority above the own that could take over, among those with whom
    /// a leader that began to wait then has been patient enough.
    fn wanted_more(&self, since: Instant) -> Option<usize> {
        let waited = self.now.since(since);
        let able = self.peer_indices().filter(|peer| {
            self.peers[*peer].priority > self.config.priority
                && self.may_have_it_back(*peer)
                && waited >= self.patience(*peer)
                && self.is_near(*peer)
        });
        able.max_by_key(|peer| self.peers[*peer].priority)
    }

    /// How long a leadership stays before it is handed over to the peer for its priority.
    fn patience(&self, peer: usize) -> Duration {
        self.config.election_timeout * (PRIORITY_PATIENCE_TIMEOUTS << self.peers[peer].setbacks)
    }

    fn add_setback(&mut self, peer: usize) {
        let setbacks = &mut self.peers[peer].setbacks;
        *setbacks = (*setbacks + 1).min(SETBACKS_MAX);
    }

    // ---- what is seen of others' leaderships ----

    /// The peer is heard to lead.
    pub(super) fn note_reign(&mut self, peer: usize) {
        let led = match self.reign {
            Some(reign) if reign.peer == peer => {
                reign.led_by(self.now, self.config.election_timeout)
            }
            _ => {
                self.forgive_settled();
                Duration::ZERO
            }
        };
        self.reign = Some(Reign { peer, led, heard_at: self.now });
    }

    /// This replica leads now, and who led before it does not any more.
    pub(super) fn end_reign(&mut self) {
        let settled = self.forgive_settled();
        if let Some(reign) = self.reign.take().filter(|_| !settled) {
            self.add_setback(reign.peer);
        }
    }

    /// A peer that has led for long counts as one that never failed. Whether the last leader has.
    fn forgive_settled(&mut self) -> bool {
        let Some(reign) = self.reign else { return false };
        let timeout = self.config.election_timeout;
        let settled = reign.led_by(self.now, timeout) >= timeout * SETTLED_TIMEOUTS;
        if settled {
            self.peers[reign.peer].setbacks = 0;
        }
        settled
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
        let unfit = self.disk_stalled() || !self.config.may_campaign || !self.has_vote();
        if ballot > self.promised || bound || unfit {
            return;
        }
        self.on_watermark(peer, ballot, chosen, fx);
        // It gives the leadership away, and has not lost it.
        self.forgive_settled();
        self.reign = None;
        self.end_grant();
        self.follow(None, fx);
        let ballot = self.campaign_ballot();
        self.start_prepare(ballot, release, fx);
        self.tell_role(fx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Ballot;
    use crate::paxos::testkit::Text;
    use crate::paxos::{Config, Fitness, Input, Outgoing, Recovered, Write};

    const TIMEOUT: Duration = Duration::from_millis(400);
    /// Replica 1 is the one that is tried.
    const PREFERRED: NodeId = NodeId(2);
    const OTHER: NodeId = NodeId(3);

    /// Replica 1 of three whose disk is fast; the test speaks for the others.
    struct Bed {
        core: Core<Text>,
        now: Instant,
    }

    impl Bed {
        fn new() -> Bed {
            let mut config = Config::new(NodeId(1), vec![NodeId(1), PREFERRED, OTHER]);
            (config.lease, config.election_timeout) = (Duration::ZERO, TIMEOUT);
            let core = Core::new(config, Recovered::default(), Instant(0), 1).unwrap();
            let mut bed = Bed { core, now: Instant(0) };
            bed.step(Input::PeerConnected(PREFERRED));
            bed.step(Input::PeerConnected(OTHER));
            bed
        }

        /// What it sends, and who took over.
        fn step(&mut self, input: Input<Text>) -> (Vec<Outgoing<Text>>, Option<(NodeId, bool)>) {
            let (mut inputs, mut sent, mut ended) = (vec![input, Input::EndOfTurn], vec![], None);
            while !inputs.is_empty() {
                let mut effects = Vec::new();
                self.core.step(self.now, inputs.remove(0), &mut effects);
                for effect in effects {
                    match effect {
                        Effect::Persist { id, then, write: Write::Promise(_) } => {
                            sent.extend(then);
                            inputs.push(Input::Persisted(id));
                        }
                        Effect::Send(message) => sent.push(message),
                        Effect::TransferEnded { to, taken_over } => ended = Some((to, taken_over)),
                        _ => {}
                    }
                }
            }
            (sent, ended)
        }

        fn says(&mut self, from: NodeId, message: Message<Text>) {
            self.step(Input::Message { from, message });
        }

        /// The next timer, whose messages replica 3 answers, and the preferred one if it `lives`.
        fn tick(&mut self, lives: bool) -> (Vec<Outgoing<Text>>, Option<(NodeId, bool)>) {
            self.now = self.now.max(self.core.next_deadline().unwrap());
            let (sent, ended) = self.step(Input::Tick);
            let mut waiting = sent.clone();
            while !waiting.is_empty() {
                let Outgoing { to, message } = waiting.remove(0);
                let chosen = Slot::NONE;
                let answer = match message {
                    _ if to == PREFERRED && !lives => continue,
                    Message::PreVote { ballot, .. } => {
                        let promised = Ballot::NONE;
                        Message::PreVoteReply { ballot, granted: true, promised, chosen }
                    }
                    Message::Prepare { ballot, .. } => {
                        Message::Promise { ballot, chosen, accepted: Vec::new(), cut: false }
                    }
                    Message::Heartbeat { ballot, sequence, .. } if sequence > 0 => {
                        let priority = u8::from(to == PREFERRED);
                        let granted = false;
                        let fitness = Fitness::default();
                        Message::HeartbeatReply {
                            ballot,
                            sequence,
                            chosen,
                            granted,
                            priority,
                            fitness,
                        }
                    }
                    _ => continue,
                };
                waiting.extend(self.step(Input::Message { from: to, message: answer }).0);
            }
            (sent, ended)
        }

        fn elect(&mut self) {
            while !matches!(self.core.state, State::Leading(_)) {
                self.tick(false);
            }
        }

        /// For how many election timeouts it waits until it tells the preferred one to take over.
        fn patience(&mut self) -> u64 {
            let start = self.now;
            loop {
                self.tick(true);
                let State::Leading(leading) = &self.core.state else { panic!("it leads") };
                if leading.has_handed_over() {
                    return (self.now.since(start).as_millis() / TIMEOUT.as_millis()) as u64;
                }
            }
        }

        /// The preferred one leads, for so many election timeouts.
        fn is_led(&mut self, timeouts: u32) {
            let ballot = self.core.promised().next_for(PREFERRED);
            let until = self.now + TIMEOUT * timeouts;
            while self.now < until {
                let chosen = Slot::NONE;
                let heartbeat = Message::Heartbeat { ballot, chosen, sequence: 0, lease_ms: 0 };
                self.says(PREFERRED, heartbeat);
                self.now = self.now + TIMEOUT / 2;
            }
        }
    }

    /// The connection from a peer breaks when its process stops for long, or dials anew. The one to it
    /// stands all the while, and nothing will say so again.
    #[test]
    fn peer_stays_reachable_when_its_own_connection_breaks() {
        let mut bed = Bed::new();
        bed.elect();
        bed.step(Input::PeerLost(PREFERRED));
        assert!(bed.core.is_connected(PREFERRED));
        let (_, ended) = bed.step(Input::TransferTo(PREFERRED));
        assert_ne!(ended, Some((PREFERRED, false)), "it is refused as if it were gone");
    }

    #[test]
    fn no_transfer_to_a_peer_without_connection() {
        let mut bed = Bed::new();
        bed.elect();
        bed.step(Input::PeerDisconnected(PREFERRED));
        let (_, ended) = bed.step(Input::TransferTo(PREFERRED));
        assert_eq!(ended, Some((PREFERRED, false)));
    }

    #[test]
    fn patience_doubles_with_each_leadership_that_is_lost_soon() {
        let mut bed = Bed::new();
        bed.elect();
        for wanted in [10, 20, 40, 80, 160, 320, 640, 640] {
            assert_eq!(bed.patience(), wanted);
            bed.is_led(SETTLED_TIMEOUTS - 10);
            bed.elect();
        }
        bed.patience();
        bed.is_led(SETTLED_TIMEOUTS);
        bed.elect();
        assert_eq!(bed.patience(), 10, "after a long leadership of the preferred one");
    }

    #[test]
    fn patience_doubles_with_each_try_that_holds_appends_up_in_vain() {
        let mut bed = Bed::new();
        bed.elect();
        for wanted in [10, 20, 40, 80, 160, 320, 640, 640] {
            assert_eq!(bed.patience(), wanted);
            while bed.tick(true).1 != Some((PREFERRED, false)) {}
        }
    }

    #[test]
    fn a_leadership_that_is_given_away_is_not_lost() {
        let mut bed = Bed::new();
        bed.is_led(3);
        let ballot = bed.core.promised();
        let release = Release { ballot, sequence: 1 };
        bed.says(PREFERRED, Message::TakeOver { release, chosen: Slot::NONE });
        bed.elect();
        assert_eq!(bed.patience(), 10);
        bed.is_led(3);
        bed.elect();
        assert_eq!(bed.patience(), 20, "but this one was");
    }

    #[test]
    fn silence_is_no_leadership() {
        let mut bed = Bed::new();
        // The preferred one fails soon, and for long nobody leads, or is not heard.
        bed.is_led(3);
        bed.now = bed.now + TIMEOUT * SETTLED_TIMEOUTS;
        bed.elect();
        assert_eq!(bed.patience(), 20);
        // Nor is it one when the same one comes back.
        bed.is_led(3);
        bed.now = bed.now + TIMEOUT * SETTLED_TIMEOUTS;
        bed.is_led(3);
        bed.elect();
        assert_eq!(bed.patience(), 40);
    }

    #[test]
    fn another_leader_in_between_neither_adds_a_setback_nor_hides_a_long_leadership() {
        let mut bed = Bed::new();
        let heartbeat = |ballot| {
            let chosen = Slot::NONE;
            Message::Heartbeat { ballot, chosen, sequence: 0, lease_ms: 0 }
        };
        for (led, wanted) in [(3, 10), (3, 10), (SETTLED_TIMEOUTS, 10)] {
            bed.is_led(led);
            let ballot = bed.core.promised().next_for(OTHER);
            bed.says(OTHER, heartbeat(ballot));
            bed.elect();
            assert_eq!(bed.patience(), wanted);
        }
        bed.is_led(3);
        bed.elect();
        assert_eq!(bed.patience(), 20);
        bed.is_led(SETTLED_TIMEOUTS);
        let ballot = bed.core.promised().next_for(OTHER);
        bed.says(OTHER, heartbeat(ballot));
        bed.elect();
        assert_eq!(bed.patience(), 10);
    }
}
