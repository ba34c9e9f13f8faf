//! Leases: a leader's right, bound in time, to answer reads without asking anybody.
//!
//! Called by the dispatch, the heartbeats and the elections. A heartbeat may ask for a lease; the
//! follower that grants it helps no other candidate for that long: it makes no promise to one,
//! gives it no pre-vote, and does not campaign itself. Guarantee: while a leader holds a lease no
//! other replica can lead, so whatever is chosen is chosen by this leader and known to it.
//!
//! Why this holds. A lease counts grants of an accept quorum for one heartbeat, and every prepare
//! quorum meets that quorum. Whoever is in both has granted after the heartbeat was *sent* and
//! promises nothing before its grant has run out. The leader counts from the sending, the
//! follower from the receipt, which is later; and the leader counts less, by what the two clocks
//! may differ in rate over that time ([`super::Config::clock_drift_ppm_max`] each, and a floor).
//! This is the only place where safety depends on time, and only that of reads at level `lease`.
//!
//! A restart forgets the grant, so a replica that starts waits as long as the longest lease it can
//! have granted before it promises anything. Both clocks must count while the machine is suspended,
//! and `now` must be read after the message or the read has arrived.
//!
//! Source: Gray and Cheriton, *Leases* (1989); Chandra, Griesemer, Redstone, *Paxos Made Live*
//! (2007), section 5.2.

use std::collections::VecDeque;
use std::time::Duration;

use super::Value;
use super::core::{Core, State};
use super::quorum::Votes;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Instant, Slot};

/// Heartbeats that asked for a lease and may still be answered.
const LEASES_ASKED_MAX: usize = 64;

/// Leases are asked for until this many election timeouts after the last read that could use one,
/// so that a cluster without such reads fails over without waiting for anything to run out.
const LEASE_WANTED_TIMEOUTS: u32 = 5;

/// What this replica has granted: it helps nobody else until `until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    /// Whom it may help; none after a restart, when it does not know.
    to: Option<usize>,
    until: Instant,
}

impl Grant {
    /// What a replica that starts must assume.
    pub(super) fn at_start(now: Instant, lease: Duration) -> Grant {
        Grant { to: None, until: now + lease }
    }
}

/// A leader's side.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// The heartbeats that asked: sequence, and when they were sent; oldest first.
    asked: VecDeque<(u64, Instant)>,
    /// By member index: the last of these sequences that it granted.
    granted: Vec<u64>,
    /// The lease is held before this.
    until: Instant,
    /// Heartbeats ask for a lease before this.
    wanted_until: Instant,
}

impl Lease {
    pub(super) fn new(members: usize) -> Lease {
        Lease {
            asked: VecDeque::new(),
            granted: vec![0; members],
            until: Instant(0),
            wanted_until: Instant(0),
        }
    }
}

impl<V: Value> Core<V> {
    // ---- the granting side ----

    /// Grants what a heartbeat asked for, if it is not more than a restart would wait out.
    pub(super) fn grant_lease(&mut self, peer: usize, lease_ms: u32) -> bool {
        let lease = Duration::from_millis(u64::from(lease_ms));
        if lease_ms == 0 || lease > self.config.lease {
            return false;
        }
        self.grant = Grant { to: Some(peer), until: self.now + lease };
        true
    }

    /// Whether a grant forbids to help `candidate`; none: this replica itself.
    pub(super) fn is_bound_against(&self, candidate: Option<usize>) -> bool {
        let bound =
            self.now < self.grant.until && (self.grant.to.is_none() || self.grant.to != candidate);
        bound && !planted(Mutant::GrantIgnored)
    }

    /// When the grant runs out, whomever it is for.
    pub(super) fn bound_until(&self) -> Instant {
        if planted(Mutant::GrantIgnored) { self.now } else { self.grant.until }
    }

    // ---- the holding side ----

    /// What the next heartbeat to all asks for, in milliseconds; notes when it is sent.
    pub(super) fn ask_lease(&mut self, sequence: u64) -> u32 {
        let (now, lease) = (self.now, self.config.lease);
        let State::Leading(leading) = &mut self.state else { return 0 };
        if now >= leading.lease.wanted_until || self.config.lease_held().is_zero() {
            return 0;
        }
        let asked = &mut leading.lease.asked;
        if asked.len() == LEASES_ASKED_MAX {
            asked.pop_front();
        }
        asked.push_back((sequence, now));
        u32::try_from(lease.as_millis()).expect("validated")
    }

    /// The peer has granted what the heartbeat with this sequence asked for.
    pub(super) fn lease_granted(&mut self, peer: usize, sequence: u64) {
        let held = self.config.lease_held();
        let (me, members, now) = (self.me, self.peers.len(), self.now);
        let State::Leading(leading) = &mut self.state else { return };
        let lease = &mut leading.lease;
        lease.granted[peer] = lease.granted[peer].max(sequence);
        while let Some((asked, sent_at)) = lease.asked.front().copied() {
            let mut votes = Votes::only(me);
            for index in (0..members).filter(|index| lease.granted[*index] >= asked) {
                votes.add(index);
            }
            if !self.quorum.is_accept_quorum(votes) {
                break;
            }
            lease.asked.pop_front();
            let from = if planted(Mutant::LeaseFromReceipt) { now } else { sent_at };
            lease.until = lease.until.max(from + held);
        }
    }

    /// The slot up to which a read at level `lease` that has arrived must be answered, if this
    /// replica may answer it alone: it leads, holds the lease at `now` (read after the arrival),
    /// and knows everything chosen by leaders before it. Otherwise the read needs a round
    /// ([`super::Input::Read`]), which brings a lease for those after it.
    pub fn lease_index(&mut self, now: Instant) -> Option<Slot> {
        self.now = self.now.max(now);
        let wanted_until = self.now + self.config.election_timeout * LEASE_WANTED_TIMEOUTS;
        let alone = self.quorum.is_accept_quorum(Votes::only(self.me));
        let State::Leading(leading) = &mut self.state else { return None };
        leading.lease.wanted_until = wanted_until;
        let held = alone || self.now < leading.lease.until;
        (held && self.chosen >= leading.recovered_through).then_some(self.chosen)
    }

    /// Until when the lease is held, while one is.
    pub fn lease_until(&self) -> Option<Instant> {
        match &self.state {
            State::Leading(leading) if self.now < leading.lease.until => Some(leading.lease.until),
            _ => None,
        }
    }
}
