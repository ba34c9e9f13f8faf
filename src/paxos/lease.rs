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
//! A leader that hands over (see `transfer`) gives its leases up first, and tells so in a
//! [`Release`]: no lease that its heartbeats up to that sequence asked for is used again. The
//! candidate shows the release to those it asks for promises, and whoever granted nothing later
//! than that is free. Why this holds: a lease rests on the grants of a quorum for one heartbeat, so
//! a later lease of the same leader (the candidate never came, the leader goes on, and only then
//! does the candidate's message arrive) rests on a quorum of grants with a greater sequence, and
//! every prepare quorum meets one that the release does not free. Nor is there a lease of an older
//! ballot: the leader of the release was elected, so they had all run out or been released, and
//! those who elected it answer no older heartbeat. A replica that does not know what it granted,
//! because it has restarted, is freed by nothing but time.
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
use super::message::Release;
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
    /// Whom it may help.
    to: Option<usize>,
    /// The heartbeat that asked for it: the latest of the highest ballot.
    asked: Release,
    until: Instant,
    /// After a restart it does not know what it had granted, and helps nobody before this.
    forgotten_until: Instant,
}

impl Grant {
    /// What a replica that starts must assume.
    pub(super) fn at_start(now: Instant, lease: Duration) -> Grant {
        let (until, forgotten_until) = (now, now + lease);
        Grant { to: None, asked: Release::NONE, until, forgotten_until }
    }
}

/// A grant that binds a replica, as others may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The heartbeat that asked for it, by its ballot and sequence.
    pub asked: Release,
    /// The replica is bound before this, by its own clock.
    pub until: Instant,
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
    pub(super) fn grant_lease(&mut self, peer: usize, asked: Release, lease_ms: u32) -> bool {
        let lease = Duration::from_millis(u64::from(lease_ms));
        if lease_ms == 0 || lease > self.config.lease {
            return false;
        }
        // A heartbeat that comes late must not make a later grant look older.
        let asked = self.grant.asked.max(asked);
        self.grant = Grant { to: Some(peer), asked, until: self.now + lease, ..self.grant };
        true
    }

    /// Whether a grant forbids to help `candidate` (none: this replica itself), who brings word
    /// of what the leader has released.
    pub(super) fn is_bound_against(&self, candidate: Option<usize>, release: Release) -> bool {
        let Grant { to, asked, until, forgotten_until } = self.grant;
        let granted = self.now < until && to != candidate;
        let released = asked <= release
            || (granted && asked.ballot == release.ballot && planted(Mutant::ReleaseOfLaterLeases));
        let bound = self.now < forgotten_until || (granted && !released);
        bound && !planted(Mutant::GrantIgnored)
    }

    /// The grant was released: nothing binds this replica any more.
    pub(super) fn end_grant(&mut self) {
        self.grant.until = self.grant.until.min(self.now);
    }

    /// The grant that binds this replica, if one does. What it may have granted before a restart is
    /// not known to it, though it heeds that, too.
    pub fn granted(&self) -> Option<Granted> {
        let Grant { to, asked, until, .. } = self.grant;
        to.filter(|_| self.now < until).map(|_| Granted { asked, until })
    }

    /// When the grant runs out, whomever it is for.
    pub(super) fn bound_until(&self) -> Instant {
        let Grant { until, forgotten_until, .. } = self.grant;
        if planted(Mutant::GrantIgnored) { self.now } else { until.max(forgotten_until) }
    }

    // ---- the holding side ----

    /// What the next heartbeat to all asks for, in milliseconds; notes when it is sent.
    pub(super) fn ask_lease(&mut self, sequence: u64) -> u32 {
        let (now, lease) = (self.now, self.config.lease);
        let State::Leading(leading) = &mut self.state else { return 0 };
        let unwanted = now >= leading.lease.wanted_until || leading.has_handed_over();
        if unwanted || self.config.lease_held().is_zero() {
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

    /// Gives up the lease that is held and every one that was asked for: none of them is used from
    /// here on. Whoever is shown the release is no longer bound by its grant.
    pub(super) fn release_leases(&mut self) -> Release {
        let sequence = self.sequence;
        let State::Leading(leading) = &mut self.state else { return Release::NONE };
        let kept = leading.lease.until > self.now;
        if !(kept && planted(Mutant::LeaseKeptOverTransfer)) {
            leading.lease.asked.clear();
            leading.lease.until = Instant(0);
        }
        Release { ballot: leading.ballot, sequence }
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
