//! When a leader gives way, and to whom; and when it goes ahead of its own disk.
//!
//! Called by the dispatch, the leader's tick, the end of a turn, and by whoever asks whether the next
//! value may go out. Guarantee: none is needed for safety; a transfer is `transfer`'s, anybody may
//! campaign at any time, and a value is chosen by an accept quorum, of which the leader need not be one.
//! So what is decided here is decided for speed:
//!
//! - *It is asked to stop* ([`Core::retire`]): it hands over at once, to the member that can take over
//!   soonest, and to the next one if that one fails. An election after a silent end costs the clients an
//!   election timeout, or the leases that were granted; a transfer costs a few round trips.
//! - *Its disk is full*: it hands over to a member whose disk is not. Where every disk is full it stays:
//!   another leader could not append either, and while there is none nobody serves reads.
//! - *Its disk is far slower than the accept quorum's*, for [`SLOW_TIMEOUTS`] election timeouts: it hands
//!   over to a member whose disk is not. One slow write is no slow disk; a quorum that is slow as well
//!   (all disks are, or that of each other member) would be as slow under anybody; and a slow follower
//!   slows nobody. By then it costs the clients little: see the next.
//! - *Its own disk is behind* ([`Core::overtakes_own_disk_at`]): values are batched while the own log
//!   writes, because on like disks the accept quorum is at work as long. Where the quorum has accepted
//!   everything that was proposed and the own disk is still at it after [`OVERTAKE_PACES`] times as long,
//!   and [`OVERTAKE_MIN`] at least, the next value does not wait for it. On healthy disks that is never
//!   so: the own write starts with the peers', who answer a round trip later, so that the batches stay
//!   what they are. What waits for the own disk is bounded as ever (`Core::is_disk_behind`).
//!
//! Members tell their fitness with each answer to a heartbeat, and nothing is known of one that has just
//! connected. They tell of the disk as they measure it themselves: the leader sees their network as well.
//! Whoever was given way to keeps the leadership: a priority counts for nothing while its holder's disk
//! is full or slow. A transfer that fails, or a leadership that was taken over and is lost soon after,
//! makes the leader wait twice as long each time, as in `transfer`. A disk that is slow only while its
//! member leads is not remembered: with a priority, it leads again after the patience of one.

use std::cmp::Reverse;
use std::time::Duration;

use super::Value;
use super::core::{Core, State};
use super::effect::Effects;
use super::leader::Leading;
use super::message::Fitness;
use super::quorum::Votes;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Instant, Slot};

/// A disk that writes faster than this is not slow, whatever the others' are.
const SLOW_WRITE_MIN: Duration = Duration::from_millis(5);

/// A disk is slow for so many election timeouts before its leader gives way; and so long is a leadership
/// at least, twice as long for each setback of the one who is to get it.
const SLOW_TIMEOUTS: u32 = 2;

/// The own disk is behind when it takes so many times as long as the accept quorum.
const OVERTAKE_PACES: u32 = 4;

/// The own disk is not behind before this.
const OVERTAKE_MIN: Duration = Duration::from_millis(5);

/// How many times the length of its writes a replica with a slow disk leaves an election to others, at
/// most as long as one with a full disk.
const HANDICAP_WRITES: u32 = 8;

/// Election timeouts for which a replica with a full disk leaves an election to others.
const HANDICAP_TIMEOUTS_MAX: u32 = 2;

/// How long it takes from a proposal to its being chosen: of one slot at a time, the older ones weighing
/// less and less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    timed: Option<(Slot, Instant)>,
    mean: Duration,
}

impl Pace {
    pub(super) fn proposed(&mut self, slot: Slot, now: Instant) {
        self.timed.get_or_insert((slot, now));
    }

    /// Everything up to `slot` is chosen.
    pub(super) fn chosen(&mut self, slot: Slot, now: Instant) {
        let Some((_, since)) = self.timed.take_if(|(timed, _)| *timed <= slot) else { return };
        let took = now.since(since);
        self.mean = if self.mean.is_zero() { took } else { (self.mean * 7 + took) / 8 };
    }
}

impl<V: Value> Core<V> {
    /// This replica is about to stop: it hands its leadership over, now and whenever it should get
    /// one, and does not campaign by itself any more.
    pub fn retire(&mut self) {
        self.retiring = true;
    }

    /// Whether a replica that is about to stop holds a leadership, or is about to get one, and
    /// another member may yet take that over.
    pub fn can_hand_over(&self) -> bool {
        match &self.state {
            State::Following | State::PreVoting(_) => false,
            State::Preparing(_) | State::Recovering(_) => true,
            State::Leading(leading) => {
                // Who has not answered this leader yet may be able to.
                let may_go_on = |peer: usize| {
                    let is_new = leading.confirmed[peer] == 0 || self.peers[peer].fitness.is_none();
                    is_new || self.goes_on(peer)
                };
                leading.transfer.is_some() || self.successor(may_go_on).is_some()
            }
        }
    }

    /// When a value that has been open since then may be proposed although the own log is busy: the
    /// accept quorum waits for it, and the own disk is far behind. `None` while the quorum is at work.
    pub fn overtakes_own_disk_at(&self, open_since: Instant) -> Option<Instant> {
        let State::Leading(leading) = &self.state else { return None };
        if self.chosen < self.proposed() {
            return None;
        }
        let lag = (leading.pace.mean * OVERTAKE_PACES).max(OVERTAKE_MIN);
        // Busy with nothing that was proposed here, the log is at a mark, say.
        Some(self.persists.oldest_since().unwrap_or(open_since) + lag)
    }

    /// How well it could lead.
    pub(super) fn fitness(&self) -> Fitness {
        let write_us = self.persists.write_time(self.now).as_micros();
        Fitness {
            disk_full: self.disk_full_since.is_some(),
            retiring: self.retiring,
            write_us: u32::try_from(write_us).unwrap_or(u32::MAX),
        }
    }

    /// Looks at the own disk, once per heartbeat.
    pub(super) fn note_own_disk(&mut self) {
        let is_slow = self.is_own_disk_slow() && !planted(Mutant::SlowLeaderStays);
        let State::Leading(leading) = &mut self.state else { return };
        leading.slow_since = is_slow.then(|| leading.slow_since.unwrap_or(self.now));
    }

    fn is_own_disk_slow(&self) -> bool {
        let own = self.persists.write_time(self.now);
        let is_busy = self.persists.is_busy(self.now, self.config.election_timeout);
        // What waits for room says nothing of the disk.
        is_busy
            && self.disk_full_since.is_none()
            && own >= SLOW_WRITE_MIN
            && self.quorum_write_time().is_some_and(|others| self.is_far_above(own, others))
    }

    fn is_far_above(&self, slow: Duration, fast: Duration) -> bool {
        let factor = self.config.slow_disk_factor;
        factor > 0 && slow >= fast * factor
    }

    /// How long a write takes the accept quorum that is fastest without this replica, if there is one.
    fn quorum_write_time(&self) -> Option<Duration> {
        let heard = self.peer_indices().filter(|peer| self.is_heard(*peer));
        let able = heard.filter(|peer| self.has_room(*peer));
        let mut by_time: Vec<(Duration, usize)> =
            able.filter_map(|peer| Some((self.write_time_of(peer)?, peer))).collect();
        by_time.sort_unstable();
        let mut votes = Votes::NONE;
        let mut needed = by_time.into_iter().filter(|(_, peer)| {
            votes.add(*peer);
            self.quorum.is_accept_quorum(votes)
        });
        needed.next().map(|(time, _)| time)
    }

    /// How long a write takes a peer, if it has told so on this connection.
    fn write_time_of(&self, peer: usize) -> Option<Duration> {
        self.peers[peer].fitness.map(|fitness| Duration::from_micros(fitness.write_us.into()))
    }

    /// Whether a peer has told on this connection that its disk is not full.
    fn has_room(&self, peer: usize) -> bool {
        self.peers[peer].fitness.is_some_and(|fitness| !fitness.disk_full)
    }

    /// Starts the transfer that is due, if any.
    pub(super) fn pump_give_way(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        let is_full = self.disk_full_since.is_some();
        if !self.retiring && !is_full && leading.slow_since.is_none() {
            return;
        }
        let Some(peer) = self.gives_way_to(leading) else { return };
        match leading.transfer {
            None => self.start_transfer(peer),
            // It cannot wait, and somebody else has come near first.
            Some(transfer)
                if self.retiring
                    && transfer.is_nearing()
                    && transfer.to != peer
                    && self.is_near(peer) =>
            {
                self.end_transfer(None, fx);
                self.start_transfer(peer);
            }
            Some(_) => {}
        }
    }

    /// Whether the peer lives and has a vote. A leader that has just ended a long phase 1 has asked nobody for
    /// an answer yet: then anything else that the peer has said counts.
    fn may_take_over(&self, peer: usize) -> bool {
        let known = &self.peers[peer];
        let silence = known.last_contact.map(|last| self.now.since(last));
        let speaks = silence.is_some_and(|silence| silence < self.config.election_timeout);
        self.is_heard(peer) || known.connected && speaks && known.votes()
    }

    fn gives_way_to(&self, leading: &Leading) -> Option<usize> {
        if self.retiring {
            let peer = self.successor(|peer| self.goes_on(peer));
            return peer.filter(|_| !planted(Mutant::StopWithoutTransfer));
        }
        let waited = self.now.since(leading.patient_from);
        let may_try = |peer: usize| {
            let patience =
                self.config.election_timeout * (SLOW_TIMEOUTS << self.peers[peer].setbacks);
            self.has_room(peer) && self.goes_on(peer) && waited >= patience
        };
        let long =
            |since: Option<Instant>, span| since.is_some_and(|at| self.now.since(at) >= span);
        if long(self.disk_full_since, self.config.disk_stall_timeout) {
            return self.successor(may_try);
        }
        let slow_long = self.config.election_timeout * SLOW_TIMEOUTS;
        if !long(leading.slow_since, slow_long) {
            return None;
        }
        let own = self.persists.write_time(self.now);
        self.successor(|peer| {
            let its = self.write_time_of(peer);
            let is_better = its.is_some_and(|its| self.is_far_above(own, its));
            is_better && self.is_near(peer) && may_try(peer)
        })
    }

    /// Whether the peer has told this leader that it does not stop: two that stop would hand the
    /// leadership to each other.
    fn goes_on(&self, peer: usize) -> bool {
        let State::Leading(leading) = &self.state else { return false };
        let goes_on = self.peers[peer].fitness.is_some_and(|fitness| !fitness.retiring);
        leading.confirmed[peer] > 0 && goes_on
    }

    /// Of those who would do, who would take over soonest: close behind rather than not, who has not
    /// failed, who has room, who is wanted more, who has answered more.
    fn successor(&self, would_do: impl Fn(usize) -> bool) -> Option<usize> {
        let able = self.peer_indices().filter(|peer| self.may_take_over(*peer) && would_do(*peer));
        able.max_by_key(|peer| {
            let known = &self.peers[*peer];
            let wanted = (Reverse(known.setbacks), self.has_room(*peer), known.priority);
            (self.is_near(*peer), wanted, self.acked(*peer))
        })
    }

    /// Whether a peer of higher priority could keep the leadership: not if it would give way soon, as
    /// it may have done before. With a distance, so that it is not handed back and forth.
    pub(super) fn may_have_it_back(&self, peer: usize) -> bool {
        let Some(Fitness { disk_full, retiring, write_us: _ }) = self.peers[peer].fitness else {
            return false;
        };
        let own = self.persists.write_time(self.now);
        let is_slow = self
            .write_time_of(peer)
            .is_some_and(|its| its >= SLOW_WRITE_MIN / 2 && self.is_far_above(its * 2, own));
        !disk_full && !retiring && !is_slow
    }

    /// For how long a replica leaves an election to others who may lead better.
    pub(super) fn handicap(&self) -> Duration {
        let most = self.config.election_timeout * HANDICAP_TIMEOUTS_MAX;
        let write_time = self.persists.write_time(self.now);
        let is_slow = self.config.slow_disk_factor > 0 && write_time >= SLOW_WRITE_MIN;
        match self.disk_full_since {
            Some(_) => most,
            None if is_slow => (write_time * HANDICAP_WRITES).min(most),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Ballot, NodeId};
    use crate::paxos::testkit::Text;
    use crate::paxos::{Config, Effect, Input, Message, PersistId, Recovered, Role};

    const MS: u64 = 1_000_000;
    const PEERS: [NodeId; 2] = [NodeId(2), NodeId(3)];

    /// Replica 1 of three, which leads; the test speaks for the others and for its disk.
    struct Bed {
        core: Core<Text>,
        now: u64,
    }

    impl Bed {
        fn new() -> Bed {
            let mut config = Config::new(NodeId(1), vec![NodeId(1), PEERS[0], PEERS[1]]);
            config.lease = Duration::ZERO;
            let core = Core::new(config, Recovered::default(), Instant(0), 1).unwrap();
            let mut bed = Bed { core, now: 0 };
            PEERS.into_iter().for_each(|peer| _ = bed.step(Input::PeerConnected(peer)));
            bed.now = bed.core.next_deadline().unwrap().0;
            bed.step(Input::Tick);
            let (promised, chosen) = (Ballot::NONE, Slot::NONE);
            let ballot = Ballot { round: 1, node: NodeId(1) };
            bed.says(PEERS[0], Message::PreVoteReply { ballot, granted: true, promised, chosen });
            bed.step(Input::Persisted(PersistId(0)));
            bed.says(
                PEERS[0],
                Message::Promise { ballot, chosen, accepted: Vec::new(), cut: false },
            );
            assert_eq!(bed.core.role(), Role::Leader);
            bed
        }

        fn step(&mut self, input: Input<Text>) -> Vec<Effect<Text>> {
            let mut effects = Vec::new();
            self.core.step(Instant(self.now), input, &mut effects);
            effects
        }

        fn says(&mut self, from: NodeId, message: Message<Text>) {
            self.step(Input::Message { from, message });
        }

        fn propose(&mut self) -> PersistId {
            let effects = self.step(Input::Propose(Text::new("a")));
            let persist = effects.iter().find_map(|effect| match effect {
                Effect::Persist { id, .. } => Some(*id),
                _ => None,
            });
            persist.expect("what is proposed is written")
        }

        fn accepted(&mut self, slot: u64) {
            let (ballot, slot) = (self.core.ballot(), Slot(slot));
            PEERS.into_iter().for_each(|peer| self.says(peer, Message::Accepted { ballot, slot }));
        }

        fn overtakes_at(&self) -> Option<u64> {
            self.core.overtakes_own_disk_at(Instant(self.now)).map(|at| at.0)
        }
    }

    #[test]
    fn overtakes_a_disk_far_behind_the_quorum() {
        let mut bed = Bed::new();
        let began = bed.now;
        let first = bed.propose();
        assert_eq!(bed.overtakes_at(), None, "the quorum is at work");
        bed.now += MS;
        bed.accepted(1);
        assert_eq!(bed.overtakes_at(), Some(began + 5 * MS));
        bed.step(Input::Persisted(first));
        assert_eq!(bed.overtakes_at(), Some(bed.now + 5 * MS), "a mark alone may be in the way");
    }

    #[test]
    fn waits_as_long_as_the_quorum_takes() {
        let mut bed = Bed::new();
        for slot in 1..100 {
            let began = bed.now;
            bed.propose();
            bed.now += 10 * MS;
            bed.accepted(slot);
            // All disks are alike: the own one is as late as the quorum, which is no news.
            if slot == 1 {
                assert_eq!(bed.overtakes_at(), Some(began + 40 * MS));
            }
        }
        assert_eq!(bed.core.chosen(), Slot(99));
    }

    #[test]
    fn nobody_but_a_leader_overtakes() {
        let config = Config::new(NodeId(1), vec![NodeId(1), PEERS[0], PEERS[1]]);
        let core: Core<Text> = Core::new(config, Recovered::default(), Instant(0), 1).unwrap();
        assert_eq!(core.overtakes_own_disk_at(Instant(0)), None);
    }

    #[test]
    fn handicap_grows_with_the_write_time() {
        let mut bed = Bed::new();
        assert_eq!(bed.core.handicap(), Duration::ZERO);
        bed.propose();
        bed.now += 30 * MS;
        bed.step(Input::EndOfTurn);
        assert_eq!(bed.core.handicap(), Duration::from_millis(240));
        bed.core.set_disk_full(Instant(bed.now), true);
        assert_eq!(bed.core.handicap(), Duration::from_millis(800));
    }
}
