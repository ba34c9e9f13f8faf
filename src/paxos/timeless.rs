//! What a replica's state decides, apart from time: for explorers that take every timeout as
//! something that may happen at any moment.
//!
//! Called by `sim/explore`. Guarantee: two cores of the same configuration that hash the same
//! answer the same inputs with the same effects, as long as ticks come only when every timeout
//! that is running has run out, connections neither come nor go, pre-votes are not asked for, no
//! lease is granted and nothing read, no priorities are set, nobody retires, no disk is full or slow,
//! the sequence of heartbeats is left aside, and all slots fit into one window and one fetch.
//!
//! Each struct is taken apart by name, so that a new field does not go unnoticed.

use std::hash::{Hash, Hasher};

use super::Value;
use super::core::{Core, Peer, State};
use super::tears::OwnCut;

/// Hashes the state without its clock readings and without what only timers look at.
pub(super) trait Timeless {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H);
}

impl<V: Value + Hash> Core<V> {
    /// Hashes what decides its answers; see the module.
    pub fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        let Core {
            config: _,
            quorum: _,
            me,
            rng: _,
            now: _,
            promised,
            promised_durable,
            chosen,
            window,
            persists,
            state,
            leader: _,
            leader_heard_at: _,
            reign: _,
            told,
            election_at: _,
            election_delay: _,
            seen,
            unused,
            failures: _,
            deferred: _,
            pre_vote_retries: _,
            peers,
            fetching,
            learnt_bytes: _,
            sequence: _,
            grant: _,
            reads: _,
            disk_full_since: _,
            retiring: _,
            role_told: _,
            own_cut,
        } = self;
        if let Some(OwnCut { cut, id: _, bound, forgetting }) = own_cut {
            (cut, bound, forgetting).hash(hasher);
        }
        (me, promised, promised_durable, chosen).hash(hasher);
        // What is said of slots that are chosen here already decides nothing any more.
        (told.1 > *chosen).then_some(told).hash(hasher);
        // Nor does a ballot below the promise: campaigns go above both.
        seen.max(promised).hash(hasher);
        unused.filter(|ballot| ballot == promised).hash(hasher);
        window.hash_without_ids(persists.first(), hasher);
        persists.hash_timeless(hasher);
        state.hash_timeless(hasher);
        for (index, peer) in peers.iter().enumerate() {
            let Peer {
                chosen,
                connected: _,
                last_contact: _,
                answered_at: _,
                priority: _,
                fitness: _,
                setbacks: _,
                cut,
            } = peer;
            if let Some(cut) = cut {
                (cut.votes, cut.bound).hash(hasher);
            }
            (*chosen).max(self.chosen).hash(hasher);
            // Below the own watermark it only matters whether a leader's stream joins on to it, or
            // will when this replica comes to lead.
            let joins = match &self.state {
                State::Leading(leading) => leading.joins(index, *chosen),
                _ => *chosen >= self.chosen,
            };
            joins.hash(hasher);
        }
        fetching.is_some().hash(hasher);
        if let Some(fetching) = fetching {
            fetching.hash_timeless(hasher);
        }
    }
}

impl<V: Hash> Timeless for State<V> {
    fn hash_timeless<H: Hasher>(&self, hasher: &mut H) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            State::Following => {}
            State::PreVoting(voting) => voting.hash(hasher),
            State::Preparing(preparing) => preparing.hash_timeless(hasher),
            State::Recovering(recovering) => recovering.hash_timeless(hasher),
            State::Leading(leading) => leading.hash_timeless(hasher),
        }
    }
}
