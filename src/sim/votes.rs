//! What a node's disk holds when its votes begin to count: at the first acceptance of a ballot, and when
//! a vote that was lost comes back.
//!
//! Called by the world when a node's messages leave. Both windows are short, and a power cut seldom falls
//! into one; so what a cut at that very moment would leave is looked at each time.
//!
//! Properties: before a node tells its first acceptance at a ballot, the promise of that stands in its
//! promise file; and when it votes again after a loss, every chosen slot of those whose acceptance
//! it had told and lost is on its disk (`paxos/tears.rs`).

use std::collections::BTreeMap;

use super::checks::Violation;
use super::counters::Hit;
use super::disk_faults::trouble;
use super::process::file_of_group;
use super::world::World;
use crate::base::{Ballot, Checksum, GroupId, NodeId, Slot};
use crate::log::inspect::inspect;
use crate::log::layout::{FileKind, promise_in};

const NAME: &str = "votes";

impl World {
    /// Whether a node has started without its vote in any group, and was not seen with it since.
    pub(super) fn is_voteless(&self, node: usize) -> bool {
        let id = self.processes[node].id;
        self.judges.iter().any(|judge| judge.promises.is_voteless(id))
    }

    /// Whether a node lives, and lacks its vote in any group.
    pub(super) fn has_lost_vote(&self, node: usize) -> bool {
        let live = self.processes[node].live.iter();
        live.flat_map(|live| &live.groups).any(|served| served.server.node().has_lost_vote())
    }

    /// A node is about to tell its first acceptance at this ballot.
    pub(super) fn check_promise_file(
        &mut self,
        node: usize,
        group: usize,
        ballot: Ballot,
    ) -> Result<(), Violation> {
        let process = &self.processes[node];
        let Some(live) = &process.live else { return Ok(()) };
        if process.damaged || process.impostor.is_some() {
            return Ok(());
        }
        let vote = file_of_group(&live.io.disk, group, FileKind::Vote);
        let Some(name) = vote else { return Ok(()) };
        let bytes = live.io.disk.durable_bytes(&name).expect("it has been listed");
        let promised = promise_in(&bytes).unwrap_or_default();
        if promised < ballot {
            let id = process.id;
            let text = format!(
                "node {id} tells that it has accepted at {ballot}, and its promise file holds {promised}"
            );
            return Err(Violation::new(NAME, text));
        }
        self.hits.hit(Hit::PromiseFileChecked);
        Ok(())
    }

    /// Looks at each group of a node that has its vote since the last look, and had lost it.
    pub(super) fn check_votes_again(&mut self, node: usize) -> Result<(), Violation> {
        let id = self.processes[node].id;
        for group in 0..self.plan.groups {
            let process = &self.processes[node];
            let Some(live) = &process.live else { return Ok(()) };
            if live.groups[group].server.node().has_lost_vote() {
                continue;
            }
            let Some(lost) = self.judges[group].promises.votes_again(id) else { continue };
            self.hits.hit(Hit::VoteRegained);
            // A disk that acknowledged what it does not hold: no single one can know.
            if !process.has_lied && trouble(&live.io.disk) == process.trouble_before {
                self.check_holds(id, node, GroupId(group as u16), &lost)?;
            }
        }
        Ok(())
    }

    /// Whether a power cut right now would leave the chosen ones among these slots.
    fn check_holds(
        &mut self,
        id: NodeId,
        node: usize,
        group: GroupId,
        lost: &BTreeMap<Slot, Ballot>,
    ) -> Result<(), Violation> {
        let live = self.processes[node].live.as_ref().expect("it has its vote again");
        let mut scratch = live.io.disk.after_power_cut();
        let mut held: BTreeMap<Slot, Checksum> = BTreeMap::new();
        let report = inspect(&mut scratch, &mut |found| {
            if found.group == group {
                held.insert(found.slot, Checksum::of(found.value));
            }
        });
        // What was damaged besides is not there, and not this rule's to bring back.
        let Ok(report) = report else { return Ok(()) };
        if !report.damage.is_empty() {
            return Ok(());
        }
        let covered = report.groups.iter().filter(|found| found.group == group.0);
        let covered = covered.flat_map(|found| &found.checkpoints).filter_map(|found| found.slot);
        let covered = Slot(covered.max().unwrap_or_default());
        let judge = &self.judges[usize::from(group.0)];
        for (slot, ballot) in lost.iter().filter(|(slot, _)| **slot > covered) {
            let chosen = judge.checksum(*slot);
            if chosen.is_some() && held.get(slot) != chosen.as_ref() {
                let text = format!(
                    "node {id} votes again in group {group}, and does not hold chosen slot {slot}, whose \
                     acceptance at {ballot} it had lost"
                );
                return Err(Violation::new(NAME, text));
            }
            self.hits.add(Hit::LossMadeGood, u64::from(chosen.is_some()));
        }
        Ok(())
    }
}
