//! What a start had to cut from the end of a replica's log, and how the replica's vote comes back.
//!
//! Called by the dispatch in `core`, by `acceptor` and `election` (whether it votes), and by `leader`
//! and `recovery` when a leadership begins.
//!
//! # What is lost
//!
//! A start cuts the log's end for one of two reasons ([`Cut`]). A *tear* is the rest of a write that
//! provably never was durable: nobody was told of it, nothing is lost, and the replica votes on. *Damage*
//! may have been acknowledged. The replica then has forgotten acceptances that leaders may have counted,
//! and it must not take part in phase 1 as if it had none: it starts without a vote. The record of
//! that is durable before anything is cut, and survives restarts.
//!
//! Without a vote it answers no Prepare, grants no pre-vote, does not campaign and takes nothing over. All
//! else counts as ever: what it accepts from now on is durable and is not forgotten, and what its
//! heartbeat answers say (it hears this leader; it helps nobody else) is true.
//!
//! Crash example: replicas 1, 2, 3. Leader 1 chooses slot 7 with 2, at ballot 4. The disk of 2 spoils the
//! entry; 1 is cut off. Were 2, restarted, to promise 3 a ballot without a word of slot 7, 3 would put
//! something else there.
//!
//! # How the vote comes back
//!
//! The replica tells whoever it is connected to, with an identifier of this life ([`Message::Cut`]). A
//! leader of ballot c that has finished phase 1 answers with the last slot that it has proposed so far
//! ([`Message::CutBound`]). When the replica, whose promise was not above c then, knows every slot up to
//! there to be chosen and holds them durably, it takes the record away, durably, and votes again.
//!
//! Invariant: *no acceptance that was lost, and that may have helped to choose a value, is of a slot above
//! the bound.* Why: let it be of slot s at ballot b. Before an acceptance of a new ballot is
//! told, the promise of that ballot stands in the promise file ([`Core::write_entry`] and
//! `acceptor`), which is another file than the log and whole: so b is not above the replica's promise, and not
//! above c.
//! - b = c: this very leader has proposed s, before the replica lost it, and so before it was told.
//! - b < c: if a value was chosen in s at b, or will be, the leader's prepare quorum and the accept quorum
//!   have a member in common that had accepted s when it promised c. It reported s, or an older leader's
//!   proposal for s at a higher ballot, or knew s as chosen; and it is a member whose report is whole:
//!   those without a vote report nothing, and a report of this replica from before the loss told of
//!   everything. So the leader has proposed s by the end of phase 1, or learnt it.
//!
//! So once it holds the chosen value of every slot up to the bound, each lost acceptance is either of such a
//! slot, and its promises tell of that slot as chosen (restarted with an older watermark: as
//! accepted at the ballot that it was chosen at, or a higher one), or it has chosen nothing. It
//! does not matter who had those slots chosen: leaders that came meanwhile did phase 1 without this
//! replica. Nor does it that the leader which answered was deposed by then.
//!
//! Durably, for else (crash example) the record is gone, the power fails, the entries that had just been
//! learnt are a tear that is cut, and the replica votes without them. And the bound is of this life only:
//! acceptances of a life without a vote can be lost as well, in a second damage, and a bound that was
//! given to the life before may be below them; the identifier tells.
//!
//! # Several at once
//!
//! Phase 1 needs a prepare quorum of members with a vote: with two of three without one, a leader that
//! has finished phase 1 leads on, and brings both back; if there is none, the third waits and says so,
//! and a human must decide. Only tears, as after a power cut of all, stop nobody.
//!
//! # What cannot be proved
//!
//! A device that loses a sector that it had flushed, and leaves it blank, looks like one that was never
//! written. A tear is then no tear. So a replica that has cut one keeps a record as well, and says in each
//! promise that it has it; a candidate with such a promise in its quorum waits up to an election
//! timeout for those of others, who may know of what is missing. It loses the record by the rule above.
//! With nobody else there the candidate goes on: that risk remains, for one acknowledged write of a device
//! that breaks its word, and it is the price for coming back from a power cut without a human.

use std::time::Duration;

use super::Value;
use super::core::{Core, State};
use super::effect::{Cut, Effect, Effects};
use super::message::Message;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Slot};

/// What this replica has cut, until it is made good.
#[derive(Clone, Debug)]
pub(super) struct OwnCut {
    pub(super) cut: Cut,
    /// Drawn by each life.
    pub(super) id: u64,
    /// Every slot up to here must be chosen and held.
    pub(super) bound: Option<Slot>,
    /// All of that is so; the record is being taken away.
    pub(super) forgetting: bool,
}

/// What a peer has told of itself.
#[derive(Clone, Debug)]
pub(super) struct PeerCut {
    id: u64,
    pub(super) votes: bool,
    /// The heartbeat with whose answer it told so last.
    sequence: u64,
    /// What was answered, at which own ballot.
    pub(super) bound: Option<(Ballot, Slot)>,
}

impl<V: Value> Core<V> {
    /// Whether this replica's promises count. Otherwise it has lost what it may have told to have accepted.
    pub fn has_vote(&self) -> bool {
        let lost = self.own_cut.as_ref().is_some_and(|own| own.cut == Cut::Damaged);
        !lost || planted(Mutant::VoteWithoutMemory)
    }

    /// What was cut from the end of the log and is not made good yet.
    pub fn cut(&self) -> Option<Cut> {
        self.own_cut.as_ref().map(|own| own.cut)
    }

    /// Tells the peer what was cut here, if anything was. `sequence`: of the heartbeat whose answer
    /// follows, or 0.
    pub(super) fn tell_cut(&self, peer: usize, sequence: u64, fx: &mut Effects<V>) {
        if let Some(own) = &self.own_cut {
            let (ballot, votes) = (self.promised, own.cut == Cut::Torn);
            self.send(peer, Message::Cut { ballot, sequence, id: own.id, votes }, fx);
        }
    }

    pub(super) fn on_cut(
        &mut self,
        peer: usize,
        ballot: Ballot,
        (sequence, id, votes): (u64, u64, bool),
        fx: &mut Effects<V>,
    ) {
        let known = self.peers[peer].cut.take().filter(|known| known.id == id);
        let mut told = PeerCut { id, votes, sequence, bound: None };
        if let Some(known) = known {
            told.bound = known.bound;
            told.sequence = sequence.max(known.sequence);
        }
        // Whoever leads has finished phase 1: it has proposed all that was reported in the very step
        // in which it began to lead.
        if let State::Leading(leading) = &self.state
            && ballot <= leading.ballot
        {
            let own = leading.ballot;
            let bound = match told.bound {
                Some((at, bound)) if at == own => bound,
                _ => self.proposed(),
            };
            told.bound = Some((own, bound));
            self.send(peer, Message::CutBound { ballot: own, id, through: bound }, fx);
        }
        self.peers[peer].cut = Some(told);
    }

    /// The peer has answered this heartbeat: had it cut anything, it would have said so with it.
    pub(super) fn note_whole(&mut self, peer: usize, sequence: u64) {
        _ = self.peers[peer].cut.take_if(|cut| cut.sequence < sequence);
    }

    pub(super) fn on_cut_bound(
        &mut self,
        peer: usize,
        ballot: Ballot,
        id: u64,
        through: Slot,
        fx: &mut Effects<V>,
    ) {
        if ballot < self.promised {
            return self.nack(peer, ballot, fx);
        }
        if let Some(own) = &mut self.own_cut
            && own.id == id
        {
            own.bound.get_or_insert(through);
        }
        self.forget_cut(fx);
    }

    /// This replica has finished phase 1 itself: it had a vote, so what it has cut was a tear.
    pub(super) fn bound_own_cut(&mut self, fx: &mut Effects<V>) {
        let proposed = self.proposed();
        if let Some(own) = &mut self.own_cut {
            own.bound.get_or_insert(proposed);
        }
        self.forget_cut(fx);
    }

    /// Has the record taken away when all is made good. To be called when slots have been chosen or
    /// become durable.
    pub(super) fn forget_cut(&mut self, fx: &mut Effects<V>) {
        let Some(own) = &mut self.own_cut else { return };
        let Some(bound) = own.bound.filter(|_| !own.forgetting) else { return };
        let durable = !self.persists.has_entry_through(bound);
        if self.chosen >= bound && (durable || planted(Mutant::CutForgottenEarly)) {
            own.forgetting = true;
            fx.push(Effect::ForgetCut);
        }
    }

    /// The record is gone, durably.
    pub(super) fn cut_forgotten(&mut self) {
        let own = self.own_cut.take();
        assert!(own.is_some_and(|own| own.forgetting), "only what is made good is forgotten");
        self.await_election();
    }

    /// How long a candidate waits for further promises when one that it has is of a replica that has
    /// cut something: well within the time after which those who promised campaign themselves.
    pub(super) fn promise_wait(&self) -> Duration {
        self.config.election_timeout * 3 / 4
    }
}
