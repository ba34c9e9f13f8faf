//! Clean stops: a node is asked to stop, as a signal does, takes a last checkpoint if it can within its
//! bound, ends with what is in flight, and is started again after a while.
//!
//! Called by the world; times and nodes come from a random stream of their own, so that worlds
//! without clean stops are what they would be if there were none. Sometimes the power fails while the
//! checkpoint is being written, or the node is asked again, which cuts it short.
//!
//! Property: a checkpoint that was written before a clean stop counts: the next start goes on from it,
//! or from a later one, unless its disk has made trouble or something was done to it since.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::disk_faults::trouble;
use super::nemesis::Undo;
use super::phases::Phase;
use super::process::{Absence, Stop};
use super::world::{Happening, World};
use crate::base::Slot;
use crate::base::rng::Rng;
use crate::node::RecoveredState;

/// Between two stops, in mean times between two strikes.
const EVERY_STRIKES: u32 = 4;
/// The power fails, or the node is asked again, so long after it was asked, at most: about as long as
/// a checkpoint takes.
const CUT_WITHIN: Duration = Duration::from_millis(20);

impl World {
    /// Asks a node to stop, and draws the next one.
    pub(super) fn strike_stop(&mut self) {
        if self.phase != Phase::Safety {
            return;
        }
        let mean = self.plan.strike_every * EVERY_STRIKES;
        let rng = &mut self.nemesis.stops;
        let next = rng.between(mean / 4, mean * 7 / 4);
        let (aimed, node) = (rng.below(3) == 0, rng.below(self.plan.nodes as u64) as usize);
        let scale = [1, 20, 200, 1000][rng.below(4) as usize];
        let away = rng.between(Duration::from_millis(1), Duration::from_millis(scale));
        let more = rng.next_u64();
        self.queue.after(next, Happening::CleanStop);
        self.nemesis.strikes += 1;
        let permitted = self.plan.faults.has(Hit::StoppedCleanly);
        if !permitted || self.nemesis.strikes > self.plan.strikes_max {
            return;
        }
        let node = self.leader().filter(|_| aimed).unwrap_or(node);
        let now = self.now();
        let process = &mut self.processes[node];
        let Some(live) = &mut process.live else { return };
        if live.stops_for.is_some() {
            return;
        }
        live.stops_for = Some(away);
        process.ask_to_stop();
        self.trace.note(now, process.host, Hit::StoppedCleanly.name(), [0; 3]);
        self.hits.hit(Hit::StoppedCleanly);
        self.schedule_turn(node, now);
        let rng = &mut Rng::new(more);
        let cut = match rng.below(8) {
            0 => Undo::Stop(node, true, away),
            1 => Undo::AskAgain(node),
            _ => return,
        };
        let after = rng.between(Duration::ZERO, CUT_WITHIN);
        self.queue.after(after, Happening::Undo(cut));
    }

    /// Asks a node that is stopping once more.
    pub(super) fn ask_again(&mut self, node: usize) {
        let process = &mut self.processes[node];
        if process.live.as_ref().is_some_and(|live| live.stops_for.is_some()) {
            process.ask_to_stop();
            self.schedule_turn(node, self.now());
        }
    }

    /// Every group of a node has left its loop: the process ends, with what is in flight, and is
    /// started again after a while.
    pub(super) fn stopped(&mut self, node: usize) {
        let process = &mut self.processes[node];
        let live = process.live.as_mut().expect("it has just had its last turn");
        let away = live.stops_for.expect("it was asked to stop");
        for (served, stopped_at) in live.groups.iter().zip(&mut process.stopped_at) {
            *stopped_at = match served.stop {
                Stop::Checkpointed(slot) => slot,
                _ => Slot::NONE,
            };
            self.hits.add(Hit::StopCheckpointed, u64::from(*stopped_at > Slot::NONE));
            self.hits.add(Hit::StopCutShort, u64::from(served.stop == Stop::CutShort));
        }
        self.net.process_ended(&mut self.queue, process.host);
        process.end(Absence::Stopped, false, &mut self.rng);
        self.queue.after(away, Happening::Start(node));
    }

    /// A node has started: if it had stopped cleanly, from where it stopped?
    pub(super) fn started_after_stop(
        &mut self,
        node: usize,
        found: &[RecoveredState],
    ) -> Result<(), Violation> {
        let process = &mut self.processes[node];
        let sound = !process.damaged && trouble(process.disk()) == process.trouble_before;
        for (group, found) in found.iter().enumerate() {
            let stopped_at = std::mem::take(&mut process.stopped_at[group]);
            if !sound || stopped_at == Slot::NONE {
                continue;
            }
            let from = found.checkpoint.0;
            if from < stopped_at {
                let text = format!(
                    "node {} had written a checkpoint of slot {stopped_at} when it stopped, and its \
                     group {group} goes on from one of slot {from}",
                    process.id
                );
                return Err(Violation::new("stops", text));
            }
            self.hits.hit(Hit::StopChecked);
        }
        Ok(())
    }
}
