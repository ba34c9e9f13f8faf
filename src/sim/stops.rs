//! Clean stops: a node is asked to stop, as a signal does, takes a last checkpoint if it can within its
//! bound, ends with what is in flight, and is started again after a while.
//!
//! Called by the world; times and nodes come from a random stream of their own, so that worlds
//! without clean stops are what they would be if there were none. Sometimes the power fails while the
//! checkpoint is being written, or the node is asked again, which cuts it short.
//!
//! Properties: a leader that is asked to stop, and is not asked again, still leads at its end only if
//! it has asked another node to take over, or no node that follows it was in touch with it, then and at
//! its end; where nothing else goes wrong, only if it has asked one. And a checkpoint that was written
//! before a clean stop counts: the next start goes on from it, or from a later one, unless its disk has
//! made trouble or something was done to it since.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::disk_faults::trouble;
use super::nemesis::Undo;
use super::phases::Phase;
use super::plan::FaultSet;
use super::process::{Absence, Led, Process, Stop};
use super::world::{Happening, World};
use crate::base::rng::Rng;
use crate::base::{NodeId, Slot};
use crate::node::RecoveredState;
use crate::paxos::Role;

/// Between two stops, in mean times between two strikes.
const EVERY_STRIKES: u32 = 4;
/// The power fails, or the node is asked again, so long after it was asked, at most: about as long as
/// a checkpoint takes.
const CUT_WITHIN: Duration = Duration::from_millis(20);
/// A leader that stops before this has not waited for anybody to take over.
const TRANSFER_WAIT_MIN: Duration = Duration::from_millis(700);

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
        let groups = 0..self.plan.groups;
        let others: Vec<_> = groups.map(|group| self.in_touch(node, group)).collect();
        let process = &mut self.processes[node];
        let Some(live) = &mut process.live else { return };
        if live.stops_for.is_some() {
            return;
        }
        live.stops_for = Some(away);
        for (served, others) in live.groups.iter_mut().zip(others) {
            let leads = served.server.node().role() == Role::Leader;
            let led = leads.then(|| Led { at: now, in_touch: others.is_some() });
            (served.led, served.asked_another) = (led, false);
        }
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
        if let Some(live) = process.live.as_mut().filter(|live| live.stops_for.is_some()) {
            live.asked_again = true;
            process.ask_to_stop();
            self.schedule_turn(node, self.now());
        }
    }

    /// Every group of a node has left its loop: the process ends, with what is in flight, and is
    /// started again after a while.
    pub(super) fn stopped(&mut self, node: usize) -> Result<(), Violation> {
        (0..self.plan.groups).try_for_each(|group| self.check_handed_over(node, group))?;
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
        Ok(())
    }

    /// A group of a node has left its loop: if it led when it was asked to, has it handed over?
    fn check_handed_over(&mut self, node: usize, group: usize) -> Result<(), Violation> {
        let now = self.now();
        let process = &self.processes[node];
        let live = process.live.as_ref().expect("it has just had its last turn");
        let served = &live.groups[group];
        let Some(led) = served.led.filter(|_| !live.asked_again) else { return Ok(()) };
        if served.server.node().role() != Role::Leader {
            self.hits.hit(Hit::StopTransferred);
            return Ok(());
        }
        self.hits.hit(Hit::StopStillLed);
        let in_touch = self.in_touch(node, group).filter(|_| led.in_touch);
        let is_early = now.since(led.at) < TRANSFER_WAIT_MIN;
        let is_calm = self.plan.faults == FaultSet::NONE.with(Hit::StoppedCleanly);
        if served.asked_another || !(is_early || is_calm) {
            return Ok(());
        }
        self.hits.hit(Hit::StopTransferChecked);
        match in_touch {
            None => Ok(()),
            Some(other) => {
                let text = format!(
                    "node {} led group {group} when it was asked to stop, and still does at its end: \
                     it has asked nobody to take over, though {other} follows it",
                    process.id
                );
                Err(Violation::new("stops", text))
            }
        }
    }

    /// A node that lives, follows this one, and has been heard by it just now.
    fn in_touch(&self, node: usize, group: usize) -> Option<NodeId> {
        let process = &self.processes[node];
        let server = &process.live.as_ref()?.groups[group].server;
        let status = server.node().status(process.clock.read(self.now()));
        let recent = self.plan.core.heartbeat_interval.as_millis() as u64 * 3 / 2;
        let follows = |other: &&Process| {
            let Some(live) = &other.live else { return false };
            let role = live.groups[group].server.node().role();
            other.frozen_until.is_none()
                && live.stops_for.is_none()
                && role == Role::Follower { leader: Some(process.id) }
        };
        let heard = |other: &&Process| {
            let member = status.members.iter().find(|member| member.id == other.id.0);
            member.is_some_and(|member| {
                member.connected && member.last_contact_ms.is_some_and(|ms| ms <= recent)
            })
        };
        let mut others = self.processes.iter().filter(|other| other.id != process.id);
        others.find(|other| follows(other) && heard(other)).map(|other| other.id)
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
