//! Leases and grants: while a leader may answer alone, nobody else can be elected.
//!
//! Property, while every clock keeps to its bound:
//! - while a leader holds a lease, an accept quorum, itself included, is bound by grants to its
//!   ballot that the leader has not given up;
//! - a replica that is bound by a grant neither campaigns nor promises a higher ballot to anybody
//!   else, unless it was shown that the leader has given that grant up, or somebody has been elected
//!   since without it (so that the leader has no lease left); a restart in between changes nothing.
//!
//! Together these keep a lease exclusive. They are judged at every turn and every message, so
//! they find a lease that is too long before any client has been told something stale.

use std::collections::BTreeMap;

use super::Violation;
use crate::base::{Ballot, Instant, NodeId};
use crate::paxos::{Granted, Message, Release};
use crate::sim::counters::{Counters, Hit};

const NAME: &str = "leases";

/// What a node's clock shows now.
pub type Clock<'a> = dyn Fn(NodeId) -> Instant + 'a;

/// Who has granted what to whom.
pub struct Leases {
    quorum: usize,
    /// Of each node: by ballot, the last grant. Those that have run out are dropped in time.
    grants: Vec<BTreeMap<Ballot, Granted>>,
    /// What the leader of a ballot has given up.
    released: BTreeMap<Ballot, Release>,
    /// The most that the candidate of a ballot has shown of that: one that campaigns again at its ballot may show
    /// less, and its first word may still be on its way, or its answer.
    shown: BTreeMap<Ballot, Release>,
    /// The highest ballot that a quorum has promised.
    elected: Ballot,
}

impl Leases {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Leases {
        Leases {
            quorum: nodes / 2 + 1,
            grants: vec![BTreeMap::new(); nodes],
            released: BTreeMap::new(),
            shown: BTreeMap::new(),
            elected: Ballot::NONE,
        }
    }

    /// A node has taken a turn, and is bound by this grant since.
    pub fn granted(&mut self, node: NodeId, grant: Granted, clock: &Clock<'_>) {
        let grants = &mut self.grants[usize::from(node.0) - 1];
        let now = clock(node);
        grants.retain(|_, grant| grant.until > now);
        grants.insert(grant.asked.ballot, grant);
    }

    /// A leader has taken a turn, and holds a lease.
    ///
    /// # Errors
    /// When no quorum is bound by it.
    pub fn held(
        &self,
        leader: NodeId,
        ballot: Ballot,
        clock: &Clock<'_>,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        hits.hit(Hit::LeaseChecked);
        let given_up = self.released.get(&ballot).copied().unwrap_or(Release::NONE);
        let is_bound = |(index, grants): (usize, &BTreeMap<Ballot, Granted>)| {
            let node = NodeId(index as u16 + 1);
            grants
                .get(&ballot)
                .is_some_and(|grant| grant.asked > given_up && grant.until > clock(node))
        };
        let bound = self.grants.iter().enumerate().filter(|told| is_bound(*told)).count();
        if bound + 1 >= self.quorum {
            return Ok(());
        }
        let text = format!("node {leader} holds a lease at {ballot}, and of the others");
        Err(Violation::new(
            NAME,
            format!("{text} {bound} are bound, {} are needed", self.quorum - 1),
        ))
    }

    /// A node sends this.
    ///
    /// # Errors
    /// When a grant forbids it.
    pub fn sent<V>(
        &mut self,
        node: NodeId,
        message: &Message<V>,
        now: Instant,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        let ballot = match message {
            Message::TakeOver { release, .. } => {
                self.released.insert(release.ballot, *release);
                return Ok(());
            }
            Message::Prepare { ballot, release, .. } => {
                let shown = self.shown.entry(*ballot).or_insert(*release);
                *shown = (*shown).max(*release);
                *ballot
            }
            Message::Promise { ballot, .. } => *ballot,
            Message::Heartbeat { ballot, .. } | Message::Accept { ballot, .. } => {
                self.elected = self.elected.max(*ballot);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let shown = self.shown.get(&ballot).copied().unwrap_or(Release::NONE);
        let grants = &mut self.grants[usize::from(node.0) - 1];
        // What was given up binds no more, neither in this campaign nor in a later one.
        let before = grants.len();
        grants.retain(|_, grant| grant.asked > shown);
        hits.add(Hit::GrantReleased, (before - grants.len()) as u64);
        let earlier = grants.range(..ballot).map(|(_, grant)| grant);
        let mut running = earlier.filter(|grant| {
            let Release { ballot: of, .. } = grant.asked;
            grant.until > now && of.node != ballot.node && of >= self.elected
        });
        if let Some(Granted { asked, until }) = running.next() {
            let left = until.since(now);
            let text = format!("node {node} takes part in ballot {ballot}, bound by its grant to");
            return Err(Violation::new(NAME, format!("{text} {} for {left:?}", asked.ballot)));
        }
        hits.hit(Hit::GrantChecked);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;

    const LEADER: Ballot = Ballot { round: 1, node: NodeId(1) };
    const NEXT: Ballot = Ballot { round: 2, node: NodeId(2) };

    fn grant(sequence: u64, until: u64) -> Granted {
        Granted { asked: Release { ballot: LEADER, sequence }, until: Instant(until) }
    }

    fn prepare(sequence: u64) -> Message<()> {
        let release = match sequence {
            0 => Release::NONE,
            _ => Release { ballot: LEADER, sequence },
        };
        Message::Prepare { ballot: NEXT, chosen: Slot::NONE, release }
    }

    #[test]
    fn a_lease_without_a_quorum_of_grants_is_found() {
        let hits = &mut Counters::default();
        let mut leases = Leases::new(5);
        leases.granted(NodeId(2), grant(7, 100), &|_| Instant(50));
        let held = |leases: &Leases, now| {
            leases.held(NodeId(1), LEADER, &|_| Instant(now), &mut Counters::default())
        };
        assert!(held(&leases, 60).is_err(), "one of two");
        leases.granted(NodeId(3), grant(7, 110), &|_| Instant(60));
        assert_eq!(held(&leases, 99), Ok(()));
        assert!(held(&leases, 100).is_err(), "one has run out");
        let take_over = |sequence| Message::<()>::TakeOver {
            release: Release { ballot: LEADER, sequence },
            chosen: Slot::NONE,
        };
        leases.sent(NodeId(1), &take_over(6), Instant(70), hits).unwrap();
        assert_eq!(held(&leases, 80), Ok(()), "asked for later than what was given up");
        leases.sent(NodeId(1), &take_over(7), Instant(80), hits).unwrap();
        assert!(held(&leases, 80).is_err());
    }

    #[test]
    fn who_is_bound_takes_part_only_in_what_releases_it() {
        let hits = &mut Counters::default();
        let mut leases = Leases::new(3);
        leases.granted(NodeId(2), grant(7, 100), &|_| Instant(50));
        assert!(leases.sent(NodeId(2), &prepare(0), Instant(99), hits).is_err());
        assert!(leases.sent(NodeId(2), &prepare(6), Instant(99), hits).is_err());
        assert_eq!(leases.sent(NodeId(2), &prepare(7), Instant(99), hits), Ok(()));
        assert_eq!(leases.sent(NodeId(2), &prepare(0), Instant(99), hits), Ok(()), "given up");
        leases.granted(NodeId(2), grant(8, 100), &|_| Instant(50));
        assert!(leases.sent(NodeId(2), &prepare(7), Instant(99), hits).is_err());
        assert_eq!(leases.sent(NodeId(2), &prepare(0), Instant(100), hits), Ok(()));
        leases.granted(NodeId(3), grant(8, 100), &|_| Instant(50));
        let promise = Message::<()>::Promise {
            ballot: NEXT,
            chosen: Slot::NONE,
            accepted: vec![],
            cut: false,
        };
        assert!(leases.sent(NodeId(3), &promise, Instant(60), hits).is_err());
        // The answer to a word that showed more than the last one.
        leases.sent(NodeId(2), &prepare(8), Instant(100), hits).unwrap();
        leases.sent(NodeId(2), &prepare(0), Instant(100), hits).unwrap();
        assert_eq!(leases.sent(NodeId(3), &promise, Instant(60), hits), Ok(()));
    }
}
