//! A leader of a newer version: in some worlds the leader proposes a command of a kind that no replica
//! knows, once.
//!
//! Called by the world; times come from a random stream of their own, so that worlds without such a
//! leader are what they would be if there were none.
//!
//! Property: no replica applies the slot, nor any slot after it. Each that learns that it is chosen stops,
//! and says so; one that is started again stops at the same slot; and what it had promised, accepted and
//! acknowledged is still there. Such a world ends soon after the first stop: nothing can be chosen and
//! applied there any more.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::phases::Phase;
use super::plan::Stream;
use super::process::Absence;
use super::trace::HostId;
use super::world::{Happening, RESTART_MAX, World};
use crate::base::{Batch, BlockPool, Checksum, GroupId, LogId, Slot};
use crate::machine::{BATCH_HEADER_SIZE, BatchBuilder, Command};
use crate::node::AppliedSlot;

const NAME: &str = "newer version";
/// A kind that no version knows.
const UNKNOWN_KIND: u8 = 0xee;
/// When nobody leads, the next look.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// From the first stop to the end of the world: each node stops several times.
const END_AFTER: Duration = Duration::from_millis(2 * RESTART_MAX.as_millis() as u64);

/// What is known of the value of a newer version.
#[derive(Clone, Debug, Default)]
pub struct Newer {
    /// What was proposed, and in which group.
    proposed: Option<(GroupId, Checksum)>,
    /// The slot at which the first node stopped.
    stopped_at: Option<Slot>,
}

impl Newer {
    /// A node applies a slot of a group: not that one.
    pub fn check(&self, group: usize, applied: &AppliedSlot) -> Result<(), Violation> {
        let slot = applied.slot;
        let is_it = self.proposed.is_some_and(|(of, checksum)| {
            usize::from(of.0) == group && checksum == applied.batch.checksum()
        });
        match is_it {
            true => {
                let text = format!("slot {slot} is applied, whose command nobody knows");
                Err(Violation::new(NAME, text))
            }
            false => Ok(()),
        }
    }
}

impl World {
    /// When the leader proposes what nobody knows.
    pub(super) fn schedule_newer(&mut self) {
        if self.plan.drawn.union(self.plan.faults).has(Hit::NewerCommand) {
            let rng = &mut Stream::Newer.rng(self.plan.seed ^ 1);
            let at = rng.between(self.plan.safety / 4, self.plan.safety * 3 / 4);
            self.queue.after(at, Happening::Newer);
        }
    }

    /// The leader proposes it; once a node has stopped because of it, the world ends.
    pub(super) fn strike_newer(&mut self) -> Result<(), Violation> {
        if self.newer.stopped_at.is_some() {
            return self.end_newer();
        }
        if self.phase != Phase::Safety || !self.plan.faults.has(Hit::NewerCommand) {
            return Ok(());
        }
        let group = (self.plan.seed % self.plan.groups as u64) as usize;
        let value = unknown_value();
        let now = self.now();
        let proposed = self.leader().filter(|node| {
            let process = &mut self.processes[*node];
            let clock = process.clock.read(now);
            let frozen = process.frozen_until.is_some();
            let live = process.live.as_mut().filter(|_| !frozen);
            live.is_some_and(|live| {
                live.groups[group].server.node_mut().propose_value(clock, value.clone())
            })
        });
        match proposed {
            Some(node) => {
                self.newer.proposed = Some((GroupId(group as u16), value.checksum()));
                self.hits.hit(Hit::NewerCommand);
                self.trace.note(now, HostId(node as u16), Hit::NewerCommand.name(), [0; 3]);
                self.schedule_turn(node, now);
            }
            None => self.queue.after(LOOK_EVERY, Happening::Newer),
        }
        Ok(())
    }

    /// A node has stopped, or refused to start, because of `slot`. It is started again, as a
    /// supervisor would do that does not heed exit codes.
    pub(super) fn stopped_for_newer(&mut self, node: usize, slot: Slot) -> Result<(), Violation> {
        let id = self.processes[node].id;
        let bad = |text: String| Err(Violation::new(NAME, format!("node {id} {text}")));
        if self.newer.proposed.is_none() {
            return bad(format!("stops at slot {slot}, where everything is known"));
        }
        match self.newer.stopped_at {
            None => {
                self.newer.stopped_at = Some(slot);
                self.queue.after(END_AFTER, Happening::Newer);
            }
            Some(before) if before != slot => {
                return bad(format!("stops at slot {slot}, and another one did at {before}"));
            }
            Some(_) => {}
        }
        self.hits.hit(Hit::NewerStopped);
        let delay = self.rng.between(Duration::ZERO, RESTART_MAX / 4);
        self.queue.after(delay, Happening::Start(node));
        Ok(())
    }

    fn end_newer(&mut self) -> Result<(), Violation> {
        let (Some((group, _)), Some(slot)) = (self.newer.proposed, self.newer.stopped_at) else {
            return Ok(());
        };
        for process in &self.processes {
            let Some(live) = &process.live else { continue };
            let applied = live.groups[usize::from(group.0)].server.node().watermarks().applied;
            if applied >= slot {
                let text = format!("node {} has applied {applied}, over {slot}", process.id);
                return Err(Violation::new(NAME, text));
            }
        }
        self.phase = Phase::Over;
        self.inspect_disks()?;
        self.hits.hit(Hit::NewerChecked);
        for (judge, history) in self.judges.iter_mut().zip(&self.histories) {
            judge.end(history, self.clocks_broken_at, &mut self.hits)?;
        }
        Ok(())
    }
}

/// Why a process is not there that stopped at a slot, if that is why.
pub(super) fn slot_of(absence: &Absence) -> Option<Slot> {
    match absence {
        Absence::NeedsNewer(slot) => Some(*slot),
        _ => None,
    }
}

/// An append, but of a kind that nobody knows.
fn unknown_value() -> Batch {
    let pool = BlockPool::new(0);
    let mut builder = BatchBuilder::new(pool.clone());
    builder.push(&Command::append(LogId(0), 0, &[]));
    let mut value = builder.seal(0).value().to_vec();
    value[BATCH_HEADER_SIZE] = UNKNOWN_KIND;
    Batch::copy_of(&pool, &value)
}
