//! Linearizable reads by a quorum round, on the leader and, through it, on any replica.
//!
//! Called by the dispatch. A read that arrives ([`super::Input::Read`]) waits for the next round: a
//! heartbeat to all, sent after it arrived and shared by every read that waits. When an accept
//! quorum has answered a heartbeat of this sequence or a later one at this ballot, nobody can have
//! led at a higher ballot before the round began, so the watermark of that moment covers every
//! append acknowledged before the read. A follower asks the leader for that slot and waits until
//! it has learnt as much itself.
//!
//! Guarantee: each read gets one [`Effect::ReadReady`] or one [`Effect::ReadFailed`], never before
//! this replica knows every slot up to the read's index. Answers are matched by ballot, sequence
//! and sender, and a sender counts once. A leader that has just won answers nothing before it knows
//! everything that earlier leaders can have chosen.
//!
//! Source: Ongaro's thesis (2014), section 6.4.

use std::collections::VecDeque;

use super::Value;
use super::core::{Core, State};
use super::effect::{Effect, Effects, ReadId};
use super::message::Message;
use super::quorum::Votes;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Instant, Slot};

/// Groups of reads that wait; over this, a new one fails at once.
const READS_WAITING_MAX: usize = 4096;

/// Rounds (on a leader) or questions (on a follower) under way; later reads gather for the next.
const READ_ROUNDS_MAX: usize = 2;

/// A read that has waited for so many election timeouts has failed.
const READ_PATIENCE_TIMEOUTS: u32 = 5;

/// For whom a group of reads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// This replica's own reads, from the first to the last id.
    Own { first: ReadId, last: ReadId },
    /// A follower's question.
    Peer { peer: usize, id: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the next round.
    New,
    /// On a leader: a heartbeat of this sequence, or a later one, must be answered by a quorum.
    Round { sequence: u64, index: Slot },
    /// On a follower: the leader has been asked.
    Asked { id: u64, at: Instant },
    /// Only the slots up to here are awaited.
    Known(Slot),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    reader: Reader,
    /// Whether a lease of the leader is good enough.
    lease: bool,
    stage: Stage,
    since: Instant,
}

/// The reads that wait, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    waiting: VecDeque<Waiting>,
    /// The last question of this replica. Starts anew at a random number in each process, so that
    /// an answer to an earlier one cannot match.
    last_id: u64,
}

impl Reads {
    pub(super) fn new(first_id: u64) -> Reads {
        Reads { waiting: VecDeque::new(), last_id: first_id >> 1 }
    }
}

impl<V: Value> Core<V> {
    pub(super) fn read(&mut self, id: ReadId, lease: bool, fx: &mut Effects<V>) {
        if let Some(Waiting { reader: Reader::Own { last, .. }, lease: same, stage, .. }) =
            self.reads.waiting.back_mut()
            && *stage == Stage::New
            && *same == lease
            && last.0 + 1 == id.0
        {
            *last = id;
            return;
        }
        let reader = Reader::Own { first: id, last: id };
        if self.reads.waiting.len() >= READS_WAITING_MAX {
            return fx.push(Effect::ReadFailed { first: id, last: id });
        }
        let since = self.now;
        self.reads.waiting.push_back(Waiting { reader, lease, stage: Stage::New, since });
    }

    pub(super) fn on_read_index(&mut self, peer: usize, id: u64, lease: bool, fx: &mut Effects<V>) {
        if !matches!(self.state, State::Leading(_)) {
            // Whoever asks will hear of another leader, or ask again.
            return;
        }
        if lease && let Some(index) = self.lease_index(self.now) {
            return self.send(peer, Message::ReadIndexReply { id, index }, fx);
        }
        let reader = Reader::Peer { peer, id };
        let doubled = self.reads.waiting.iter().any(|waiting| waiting.reader == reader);
        if !doubled && self.reads.waiting.len() < READS_WAITING_MAX {
            let since = self.now;
            self.reads.waiting.push_back(Waiting { reader, lease, stage: Stage::New, since });
        }
    }

    pub(super) fn on_read_index_reply(&mut self, id: u64, index: Slot, fx: &mut Effects<V>) {
        for waiting in &mut self.reads.waiting {
            if matches!(waiting.stage, Stage::Asked { id: asked, .. } if asked == id) {
                waiting.stage = Stage::Known(index);
            }
        }
        self.release_reads(fx);
    }

    /// Starts the round, or asks the leader, for every read that waits for one.
    pub(super) fn pump_reads(&mut self, fx: &mut Effects<V>) {
        if !self.reads.waiting.iter().any(|waiting| waiting.stage == Stage::New) {
            return;
        }
        match &self.state {
            State::Leading(_) => self.start_read_round(fx),
            State::Following => self.ask_leader(fx),
            _ => {}
        }
    }

    fn start_read_round(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        // What earlier leaders may have chosen lies at or below what this one proposed again.
        let recovered = leading.recovered_through;
        let early = self.chosen < recovered && planted(Mutant::NewLeaderReadsEarly);
        let index = if early { self.chosen } else { self.chosen.max(recovered) };
        let rounds = self.reads.waiting.iter().filter_map(|waiting| match waiting.stage {
            Stage::Round { sequence, .. } => Some(sequence),
            _ => None,
        });
        let mut under_way: Vec<u64> = rounds.collect();
        under_way.dedup();
        if under_way.len() >= READ_ROUNDS_MAX {
            return;
        }
        let unasked = planted(Mutant::ReadWithoutRound);
        self.heartbeat_all(fx);
        let sequence = self.sequence;
        for waiting in &mut self.reads.waiting {
            if waiting.stage == Stage::New {
                waiting.stage = Stage::Round { sequence, index };
                if unasked {
                    waiting.stage = Stage::Known(index);
                }
            }
        }
        self.confirm_reads(fx);
    }

    fn ask_leader(&mut self, fx: &mut Effects<V>) {
        let leader = self.leader.and_then(|id| self.config.members.binary_search(&id).ok());
        let Some(peer) = leader.filter(|peer| *peer != self.me) else { return };
        for lease in [true, false] {
            let is_new = |waiting: &Waiting| waiting.stage == Stage::New && waiting.lease == lease;
            let asked = self.reads.waiting.iter().filter_map(|waiting| match waiting.stage {
                Stage::Asked { id, .. } if waiting.lease == lease => Some(id),
                _ => None,
            });
            let mut under_way: Vec<u64> = asked.collect();
            under_way.dedup();
            if !self.reads.waiting.iter().any(is_new) || under_way.len() >= READ_ROUNDS_MAX {
                continue;
            }
            self.reads.last_id += 1;
            let (id, at) = (self.reads.last_id, self.now);
            for waiting in self.reads.waiting.iter_mut().filter(|waiting| is_new(waiting)) {
                waiting.stage = Stage::Asked { id, at };
            }
            self.send(peer, Message::ReadIndex { id, lease }, fx);
        }
    }

    /// A peer has answered a heartbeat of this leadership.
    pub(super) fn note_confirmed(&mut self, peer: usize, sequence: u64, fx: &mut Effects<V>) {
        let State::Leading(leading) = &mut self.state else { return };
        let confirmed = &mut leading.confirmed[peer];
        *confirmed = (*confirmed).max(sequence);
        self.confirm_reads(fx);
    }

    fn confirm_reads(&mut self, fx: &mut Effects<V>) {
        let State::Leading(leading) = &self.state else { return };
        let matched = |answered: u64, sequence: u64| {
            answered >= sequence || (answered > 0 && planted(Mutant::RoundMatchedWithoutId))
        };
        for waiting in &mut self.reads.waiting {
            let Stage::Round { sequence, index } = waiting.stage else { continue };
            let mut votes = Votes::only(self.me);
            for peer in 0..leading.confirmed.len() {
                if peer != self.me && matched(leading.confirmed[peer], sequence) {
                    votes.add(peer);
                }
            }
            if self.quorum.is_accept_quorum(votes) {
                waiting.stage = Stage::Known(index);
            }
        }
        self.release_reads(fx);
    }

    /// Hands out the reads whose slots are known here.
    pub(super) fn release_reads(&mut self, fx: &mut Effects<V>) {
        if self.reads.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.reads.waiting);
        waiting.retain(|group| match (group.stage, group.reader) {
            (Stage::Known(index), Reader::Peer { peer, id }) => {
                self.send(peer, Message::ReadIndexReply { id, index }, fx);
                false
            }
            (Stage::Known(index), Reader::Own { first, last })
                if index <= self.chosen || planted(Mutant::FollowerReadsUnapplied) =>
            {
                fx.push(Effect::ReadReady { first, last });
                false
            }
            _ => true,
        });
        self.reads.waiting = waiting;
    }

    /// The role or the leader has changed: what was asked of the old one is asked again.
    pub(super) fn restart_reads(&mut self) {
        self.reads.waiting.retain_mut(|waiting| match (waiting.stage, waiting.reader) {
            // The follower hears of the new leader itself.
            (Stage::New | Stage::Round { .. }, Reader::Peer { .. }) => false,
            (Stage::Round { .. } | Stage::Asked { .. }, Reader::Own { .. }) => {
                waiting.stage = Stage::New;
                true
            }
            _ => true,
        });
    }

    pub(super) fn reads_tick(&mut self, fx: &mut Effects<V>) {
        let (now, resend) = (self.now, self.config.resend_timeout);
        let patience = self.config.election_timeout * READ_PATIENCE_TIMEOUTS;
        self.reads.waiting.retain_mut(|waiting| {
            if let Stage::Asked { at, .. } = waiting.stage
                && now.since(at) >= resend
            {
                waiting.stage = Stage::New;
            }
            let over = now.since(waiting.since) >= patience;
            if over && let Reader::Own { first, last } = waiting.reader {
                fx.push(Effect::ReadFailed { first, last });
            }
            !over
        });
    }

    /// When a read that waits is to be asked again or given up.
    pub(super) fn reads_deadline(&self) -> Option<Instant> {
        let patience = self.config.election_timeout * READ_PATIENCE_TIMEOUTS;
        let oldest = self.reads.waiting.front().map(|waiting| waiting.since + patience);
        let asked = self.reads.waiting.iter().filter_map(|waiting| match waiting.stage {
            Stage::Asked { at, .. } => Some(at + self.config.resend_timeout),
            _ => None,
        });
        asked.chain(oldest).min()
    }

    /// Whether a heartbeat's answer of `ballot` counts for this leadership.
    pub(super) fn leads_at(&self, ballot: Ballot) -> bool {
        matches!(&self.state, State::Leading(leading) if leading.ballot == ballot)
    }
}
