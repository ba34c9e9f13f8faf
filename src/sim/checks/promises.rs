//! Promises and acceptances are kept.
//!
//! Property, read from what nodes send each other and from what they find on their disks:
//! - on one connection, promised ballots never go down, and over restarts no promise is below one
//!   that had been told;
//! - an Accepted below a promise that was told names a slot that the promise reported (at that
//!   ballot or above) or counted as chosen;
//! - a candidate never uses a ballot of an earlier life again;
//! - one (ballot, slot) has one value;
//! - after a restart a node finds on its disk every promise and every acceptance that it had told; but one
//!   that starts without a vote, which then promises nothing until it has taken the record of that away.

use std::collections::BTreeMap;

use super::Violation;
use super::elections::Elections;
use super::handovers::Handovers;
use super::leases::Leases;
use super::quorums::Quorums;
use super::rounds::Rounds;
use crate::base::{Ballot, Batch, BlockPool, Checksum, Instant, NodeId, Slot};
use crate::io::ConnId;
use crate::node::RecoveredState;
use crate::paxos::Message;
use crate::sim::counters::{Counters, Hit};
use crate::sim::time::Time;
use crate::wire::{FrameDecoder, FrameKind, decode_message};

const NAME: &str = "promises";

/// The highest promise a node has told, and what it reported with it.
#[derive(Default)]
struct Told {
    promised: Ballot,
    chosen: Slot,
    reported: BTreeMap<Slot, Ballot>,
    /// The highest ballot at which it told to have accepted, by slot.
    accepted: BTreeMap<Slot, Ballot>,
    /// The highest ballot of a promise or acceptance told in earlier lives.
    floor: Ballot,
    /// It has started without a vote, and has not got it back.
    voteless: bool,
    /// The acceptances that it had told and lost then.
    lost: BTreeMap<Slot, Ballot>,
    /// The highest ballot at which it told to have accepted, in any slot.
    accepted_at: Ballot,
    /// The highest ballot it has sent a prepare for; and in earlier lives.
    prepared: Ballot,
    prepared_before: Ballot,
}

struct Stream {
    node: NodeId,
    decoder: FrameDecoder,
    promised: Ballot,
}

/// Listens to all that nodes send on the connections that they dialled.
pub struct Promises {
    nodes: Vec<Told>,
    streams: BTreeMap<ConnId, Stream>,
    proposed: BTreeMap<(Slot, Ballot), Checksum>,
    elections: Elections,
    handovers: Handovers,
    /// A leader has handed over since this was last looked at.
    pub handed_over: bool,
    /// A node has told its first acceptance at this ballot since this was last looked at.
    pub accepted_first: Option<Ballot>,
    /// Who has accepted what.
    pub quorums: Quorums,
    /// Who is bound by which lease.
    pub leases: Leases,
    /// Who has answered whose heartbeats.
    pub rounds: Rounds,
    pool: BlockPool,
}

impl Promises {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Promises {
        Promises {
            nodes: (0..nodes).map(|_| Told::default()).collect(),
            streams: BTreeMap::new(),
            proposed: BTreeMap::new(),
            elections: Elections::new(nodes),
            handovers: Handovers::new(nodes),
            handed_over: false,
            accepted_first: None,
            quorums: Quorums::new(nodes),
            leases: Leases::new(nodes),
            rounds: Rounds::new(nodes),
            pool: BlockPool::new(1 << 20),
        }
    }

    /// A node has started with this on its disk.
    ///
    /// # Errors
    /// When it does not hold what the node had told.
    pub fn recovered(
        &mut self,
        node: NodeId,
        found: &RecoveredState,
        chosen: &Chosen<'_>,
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        self.streams.retain(|_, stream| stream.node != node);
        let told = &mut self.nodes[usize::from(node.0) - 1];
        let due = told.due();
        if found.promised < due {
            let text = format!("node {node} had told ballot {due} and finds {}", found.promised);
            return Err(Violation::new(NAME, text));
        }
        hits.add(Hit::PromiseChecked, u64::from(due > Ballot::NONE));
        told.voteless = !found.votes;
        while told.voteless
            && let Some((slot, ballot)) = missing(&told.accepted, found, chosen)
        {
            told.accepted.remove(&slot);
            told.lost.insert(slot, ballot);
            hits.hit(Hit::AcceptanceLost);
        }
        if let Some((slot, ballot)) = missing(&told.accepted, found, chosen) {
            let text = format!("node {node} had accepted slot {slot} at ballot {ballot}");
            return Err(Violation::new(NAME, format!("{text}, which it does not find")));
        }
        hits.add(Hit::AcceptanceChecked, told.accepted.len() as u64);
        told.floor = due;
        told.prepared_before = told.prepared;
        Ok(())
    }

    /// Whether the node has started without a vote, and was not seen with one since.
    pub fn is_voteless(&self, node: NodeId) -> bool {
        self.nodes[usize::from(node.0) - 1].voteless
    }

    /// The node has its vote. If it had started without, and this is seen for the first time: the
    /// acceptances that it had told and lost.
    pub fn votes_again(&mut self, node: NodeId) -> Option<BTreeMap<Slot, Ballot>> {
        let told = &mut self.nodes[usize::from(node.0) - 1];
        std::mem::take(&mut told.voteless).then(|| std::mem::take(&mut told.lost))
    }

    /// Whether a damaged disk still holds everything that the node had told: of one that has cut damage, and
    /// so has no vote, the promise.
    pub fn holds_told(&self, node: NodeId, found: &RecoveredState, chosen: &Chosen<'_>) -> bool {
        let told = &self.nodes[usize::from(node.0) - 1];
        let accepted = || missing(&told.accepted, found, chosen).is_none();
        found.promised >= told.due() && (!found.votes || accepted())
    }

    /// A node sends these bytes on a connection to `to` that it dialled, at the world's time
    /// `at`, while its clock shows `now`.
    ///
    /// # Errors
    /// When a message breaks a promise.
    pub fn sent(
        &mut self,
        node: NodeId,
        (at, now): (Time, Instant),
        (conn, to): (ConnId, NodeId),
        bytes: &[u8],
        hits: &mut Counters,
    ) -> Result<(), Violation> {
        let fresh = || Stream { node, decoder: FrameDecoder::new(), promised: Ballot::default() };
        let stream = self.streams.entry(conn).or_insert_with(fresh);
        let mut rest = bytes;
        loop {
            let told = &mut self.nodes[usize::from(node.0) - 1];
            let frame = match stream.decoder.next(&mut rest, &self.pool) {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => frame,
                Err(error) => {
                    let text = format!("node {node} sends what is no frame: {error}");
                    return Err(Violation::new(NAME, text));
                }
            };
            if !frame.kind.is_peer() || frame.kind == FrameKind::Alive {
                continue;
            }
            let message = decode_message(frame, &self.pool).map_err(|error| {
                Violation::new(NAME, format!("node {node} sends a damaged message: {error}"))
            })?;
            hits.hit(Hit::MessageSeen);
            tracing::debug!(%node, ?conn, ?message, "sends");
            if let Some(branch) = branch_of(&message) {
                hits.hit(branch);
            }
            self.elections.sent(node, &message, hits)?;
            self.quorums.sent(node, &message);
            self.rounds.sent(node, &message, at);
            self.leases.sent(node, &message, now, hits)?;
            told.sent(node, &message, &mut stream.promised)?;
            if let Message::Accepted { ballot, .. } = message
                && ballot > told.accepted_at
            {
                told.accepted_at = ballot;
                self.accepted_first = Some(ballot);
            }
            self.handovers.sent(node, to, &message);
            if let Message::TakeOver { release, chosen } = &message {
                self.handed_over = true;
                let accepted = &self.nodes[usize::from(to.0) - 1].accepted;
                self.handovers.handed_over((release.ballot, *chosen), to, accepted, hits)?;
            }
            if let Message::Accept { ballot, slot, value, .. } = message {
                check_one_value(&mut self.proposed, ballot, slot, &value, hits)?;
            }
        }
    }
}

/// The branch of the protocol that a message tells of.
fn branch_of(message: &Message<Batch>) -> Option<Hit> {
    match message {
        Message::PreVoteReply { granted: false, .. } => Some(Hit::PreVoteRefused),
        Message::Nack { .. } => Some(Hit::StaleBallotRefused),
        Message::FetchAccepted { .. } => Some(Hit::AcceptedFetched),
        Message::Fetch { .. } => Some(Hit::CaughtUp),
        Message::Promise { accepted, .. } if !accepted.is_empty() => Some(Hit::PromiseReports),
        _ => None,
    }
}

fn check_one_value(
    proposed: &mut BTreeMap<(Slot, Ballot), Checksum>,
    ballot: Ballot,
    slot: Slot,
    value: &Batch,
    hits: &mut Counters,
) -> Result<(), Violation> {
    let checksum = value.checksum();
    if !proposed.contains_key(&(slot, ballot)) {
        let mut earlier = proposed.range((slot, Ballot::NONE)..(slot, ballot));
        let again = earlier.any(|(_, earlier)| *earlier == checksum);
        hits.add(Hit::ValueProposedAgain, u64::from(again));
    }
    let first = *proposed.entry((slot, ballot)).or_insert(checksum);
    if first == checksum {
        return Ok(());
    }
    let text = format!("ballot {ballot} proposes {first} and {checksum} for slot {slot}");
    Err(Violation::new(NAME, text))
}

/// The checksum of the value that was chosen for a slot, if any was.
pub type Chosen<'a> = dyn Fn(Slot) -> Option<Checksum> + 'a;

/// The first of these slots that was not found at its ballot or above, nor as chosen. A replica
/// that knew a slot to be chosen may have accepted it again without writing it again: then its
/// value is found, at the ballot that it was written at.
fn missing(
    due: &BTreeMap<Slot, Ballot>,
    found: &RecoveredState,
    chosen: &Chosen<'_>,
) -> Option<(Slot, Ballot)> {
    let held: BTreeMap<Slot, (Ballot, Checksum)> =
        found.accepted.iter().map(|(slot, at, checksum)| (*slot, (*at, *checksum))).collect();
    let is_held = |slot: &Slot, ballot: &Ballot| {
        held.get(slot)
            .is_some_and(|(at, checksum)| at >= ballot || chosen(*slot) == Some(*checksum))
    };
    due.range(found.chosen.next()..)
        .find(|(slot, ballot)| !is_held(slot, ballot))
        .map(|(slot, ballot)| (*slot, *ballot))
}

impl Told {
    /// The promise that its disk must hold.
    fn due(&self) -> Ballot {
        let accepted = self.accepted.values().copied().max().unwrap_or_default();
        self.promised.max(accepted).max(self.floor).max(self.prepared)
    }

    fn sent(
        &mut self,
        node: NodeId,
        message: &Message<Batch>,
        on_stream: &mut Ballot,
    ) -> Result<(), Violation> {
        let bad = |text: String| Err(Violation::new(NAME, format!("node {node}: {text}")));
        match message {
            Message::Promise { ballot, chosen, accepted, cut: _ } => {
                if self.voteless {
                    return bad(format!("promises {ballot} without a vote"));
                }
                if ballot < on_stream || *ballot < self.floor {
                    let text = format!("promises {ballot} after {}", self.floor.max(*on_stream));
                    return bad(text);
                }
                *on_stream = *ballot;
                if *ballot > self.promised {
                    self.promised = *ballot;
                    self.chosen = *chosen;
                    self.reported = accepted.iter().map(|told| (told.slot, told.ballot)).collect();
                }
                Ok(())
            }
            Message::Accepted { ballot, slot } => {
                let reported = self.reported.get(slot);
                let covered =
                    *slot <= self.chosen || reported.is_some_and(|reported| reported >= ballot);
                if *ballot < self.promised && !covered {
                    let promised = self.promised;
                    let text = format!("accepts slot {slot} at {ballot} after promising");
                    return bad(format!("{text} {promised} with {reported:?} reported for it"));
                }
                let highest = self.accepted.entry(*slot).or_default();
                *highest = (*highest).max(*ballot);
                Ok(())
            }
            Message::Prepare { ballot, .. } => {
                if *ballot <= self.prepared_before {
                    let before = self.prepared_before;
                    return bad(format!("prepares {ballot}, in an earlier life {before}"));
                }
                self.prepared = self.prepared.max(*ballot);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
