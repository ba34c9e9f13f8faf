//! The trial of a second failure: while one of three replicas is away, the others choose far more slots than
//! anybody keeps for it; at the moment of its return the leader dies. Clients never rest, and the disk that
//! the replica learns from reads more slowly than it writes.
//!
//! Called by the plan and by `trials`. Properties:
//!
//! - *Two of three are a working cluster, though one of them is behind*: an append that is made after the
//!   failure is acknowledged within a few election timeouts and a second. One world in three reads so
//!   slowly that no gap is filled meanwhile.
//! - *Catching up outruns production*: a while after that the replica lacks a fraction of what it lacked.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::history::{Kind, Operation};
use super::plan::{Plan, Workload};
use super::time::Time;
use super::world::{Happening, World};
use crate::base::Slot;
use crate::base::limits::{BLOCK_SIZE, KIB};
use crate::log::segment_bytes_min;

const NAME: &str = "second failure";

/// The replica stays away until it lacks so many slots more than are kept for it.
const BEHIND_SLOTS: u64 = 200;
/// The most that are kept for it.
const KEPT_SLOTS_MAX: u64 = 64;
/// How long it stays away at most: where so much is not chosen meanwhile, nothing is tried.
const AWAY_MAX: Duration = Duration::from_secs(6);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Election timeouts within which an append is acknowledged, and the time for what they do not measure.
const PROGRESS_TIMEOUTS: u32 = 6;
const PROGRESS_BESIDES: Duration = Duration::from_secs(1);
/// How long catching up takes at most, and which part of what was missing may be missing then.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(3);
const LEFT_DIVISOR: u64 = 4;
/// How many times longer than a durable write a read takes, at least and at most.
const READ_FACTORS: (u32, u32) = (5, 10);
/// The least that a replica keeps for others, and lets wait for its disk.
const KEPT_BYTES_MIN: usize = 256 * KIB;
/// The dead leader stays so.
const FOR_GOOD: Duration = Duration::from_secs(3600);
/// What a segment holds more than it must.
const SEGMENT_BYTES_MORE: u64 = 2000 * BLOCK_SIZE as u64;

/// How far it has come.
#[derive(Debug, Default)]
pub enum Scene {
    /// It has not begun.
    #[default]
    Ahead,
    /// The replica is away; it knew so many slots to be chosen.
    Away { follower: usize, since: Time, knew: Slot },
    /// It is back, lacks so many slots, and the leader is dead.
    Failed { follower: usize, at: Time, lacked: u64, fills_gap: bool },
    /// Appends go on, and the replica catches up.
    CatchingUp { follower: usize, since: Time, lacked: u64 },
    /// It is over.
    Over,
}

/// Shapes the world, whose disks and network are fast already.
pub fn shape(plan: &mut Plan) {
    plan.nodes = 3;
    let core = &mut plan.core;
    core.window_slots_max = core.window_slots_max.min(KEPT_SLOTS_MAX);
    core.retained_slots_max = core.retained_slots_max.min(KEPT_SLOTS_MAX);
    core.fetch_slots_max = core.fetch_slots_max.max(16);
    core.retained_bytes_max = core.retained_bytes_max.max(KEPT_BYTES_MIN);
    plan.cache_bytes_max = plan.cache_bytes_max.min(64 * KIB);
    // Small segments are used up faster than they are made, and then all logs wait.
    plan.log.segment_bytes = segment_bytes_min(plan.log.entry_bytes_max) + SEGMENT_BYTES_MORE;
    (plan.log.spare_segments, plan.log.preallocated_segments) = (3, 2);
    plan.workload = Workload {
        append_percent: 100,
        records_max: 1,
        think_max: Duration::from_millis(1),
        ..plan.workload.clone()
    };
}

/// How long it lasts.
pub fn lasts(plan: &Plan) -> Duration {
    AWAY_MAX + progress_within(plan) + CAUGHT_UP_WITHIN
}

fn progress_within(plan: &Plan) -> Duration {
    plan.core.election_timeout * PROGRESS_TIMEOUTS + plan.core.lease + PROGRESS_BESIDES
}

impl World {
    /// The trial goes on.
    pub(super) fn second_failure(&mut self) -> Result<(), Violation> {
        let scene = std::mem::take(&mut self.nemesis.trial.scene);
        self.nemesis.trial.scene = match scene {
            Scene::Ahead => self.leave_one_behind(),
            Scene::Away { follower, since, knew } => self.look_how_far(follower, since, knew),
            Scene::Failed { .. } => self.look_for_appends(scene)?,
            Scene::CatchingUp { follower, since, lacked } => {
                self.look_what_is_left(follower, since, lacked)?
            }
            Scene::Over => Scene::Over,
        };
        if matches!(self.nemesis.trial.scene, Scene::Over) {
            for process in &mut self.processes {
                let (least, most) = self.plan.disk_timing.read;
                process.disk_mut().set_read_time(least, most);
            }
            // There is nothing more to see before the healing.
            self.queue.after(Duration::ZERO, Happening::Phase);
        } else {
            self.queue.after(LOOK_EVERY, Happening::Trial);
        }
        Ok(())
    }

    fn leave_one_behind(&mut self) -> Scene {
        let Some(leader) = self.leader() else { return Scene::Over };
        let follower = (leader + 1 + self.rng.below(2) as usize) % 3;
        let Some(knew) = self.chosen_at(follower) else { return Scene::Over };
        self.stop(follower, false, FOR_GOOD);
        Scene::Away { follower, since: self.now(), knew }
    }

    /// What the replica knows to be chosen, if it lives.
    fn chosen_at(&self, node: usize) -> Option<Slot> {
        let live = self.processes[node].live.as_ref()?;
        Some(live.groups[0].server.node().watermarks().chosen)
    }

    fn look_how_far(&mut self, follower: usize, since: Time, knew: Slot) -> Scene {
        let chosen = self.judges[0].slots() as u64;
        let lacked = chosen.saturating_sub(knew.0);
        let is_far = lacked >= self.plan.core.retained_slots_max + BEHIND_SLOTS;
        match self.leader() {
            Some(leader) if is_far => {
                let other = (0..3).find(|node| *node != leader && *node != follower);
                let fills_gap = self.read_slowly(other.expect("there are three"));
                self.queue.after(Duration::ZERO, Happening::Start(follower));
                self.stop(leader, false, FOR_GOOD);
                self.hits.hit(Hit::SecondFailure);
                Scene::Failed { follower, at: self.now(), lacked, fills_gap }
            }
            _ if self.now().since(since) > AWAY_MAX => Scene::Over,
            _ => Scene::Away { follower, since, knew },
        }
    }

    /// Each read now takes many times as long as a durable write; or longer than any answer is awaited.
    /// Returns whether a gap is filled in good time all the same.
    fn read_slowly(&mut self, node: usize) -> bool {
        let durable = self.plan.disk_timing.write.1 + self.plan.disk_timing.flush.1;
        let patience = self.plan.core.resend_timeout;
        let fills_gap = self.rng.below(3) > 0;
        let (least, most) = match fills_gap {
            true => (durable * READ_FACTORS.0, durable * READ_FACTORS.1),
            false => (patience, patience * 2),
        };
        self.processes[node].disk_mut().set_read_time(least, most);
        fills_gap
    }

    fn look_for_appends(&mut self, scene: Scene) -> Result<Scene, Violation> {
        let Scene::Failed { follower, at, lacked, fills_gap } = scene else { return Ok(scene) };
        let is_new = |operation: &Operation| {
            let append = matches!(operation.kind, Kind::Append { .. });
            append && operation.invoked >= at && operation.acknowledged().is_some()
        };
        let now = self.now();
        if self.histories[0].operations.iter().rev().any(is_new) {
            return Ok(match fills_gap {
                true => Scene::CatchingUp { follower, since: now, lacked },
                false => Scene::Over,
            });
        }
        let took = now.since(at);
        if took > progress_within(&self.plan) {
            let text = format!(
                "no append for {took:?} since the leader died; node {} is back and lacked {lacked} slots",
                self.processes[follower].id
            );
            return Err(Violation::new(NAME, text));
        }
        Ok(scene)
    }

    fn look_what_is_left(
        &mut self,
        follower: usize,
        since: Time,
        lacked: u64,
    ) -> Result<Scene, Violation> {
        let Some(knows) = self.chosen_at(follower) else { return Ok(Scene::Over) };
        let left = (self.judges[0].slots() as u64).saturating_sub(knows.0);
        if left <= lacked / LEFT_DIVISOR {
            self.hits.hit(Hit::LagShrunk);
            return Ok(Scene::Over);
        }
        if self.now().since(since) > CAUGHT_UP_WITHIN {
            let text = format!(
                "node {} lacked {lacked} slots, and {CAUGHT_UP_WITHIN:?} after appends went on it lacks {left}",
                self.processes[follower].id
            );
            return Err(Violation::new(NAME, text));
        }
        Ok(Scene::CatchingUp { follower, since, lacked })
    }
}
