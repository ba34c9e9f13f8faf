//! Trials: worlds in which one thing goes wrong for long and nothing else, so that more than safety can
//! be demanded.
//!
//! Called by the plan, which shapes such worlds, and by the world, at drawn times. Properties:
//!
//! - *The leader's disk is slow for good* ([`Hit::LeaderDiskSlow`]): within a few election timeouts it
//!   leads no more; and by then half of the appends take no longer than twice what half of them took
//!   before, and a little.
//! - *All disks are full for long* ([`Hit::AllDisksFull`]): from when the last one is full, the leadership
//!   does not change, and reads go on. The liveness phase, for which there is room again, demands that
//!   appends go on then.
//! - *The leader dies when a replica that is far behind returns* ([`Hit::SecondFailure`]): see
//!   `second_failure`.

use std::time::Duration;

use super::checks::Violation;
use super::client::SimClient;
use super::counters::Hit;
use super::disk::DiskTiming;
use super::history::{Kind, Operation};
use super::phases::Phase;
use super::plan::{FaultSet, Limits, Plan, Stream, Workload};
use super::second_failure::{self, Scene};
use super::time::Time;
use super::world::{Happening, World};
use crate::base::Instant;
use crate::base::limits::BLOCK_SIZE;
use crate::log::segment_bytes_min;
use crate::paxos::Role;
use crate::wire::ReadLevel;

const NAME: &str = "giving way";

/// One world in so many is a trial of each class.
const WORLDS: u64 = 8;
/// How many times longer the disk of a slow leader takes.
const SLOW_FACTOR: u32 = 100;
/// What a segment holds more than it must where a leader is slow.
const SEGMENT_BYTES_MORE: u64 = 1000 * BLOCK_SIZE as u64;
/// Election timeouts after which a slow leader leads no more, and the time for what they do not measure.
const MOVED_TIMEOUTS: u32 = 5;
const MOVED_BESIDES: Duration = Duration::from_millis(500);
/// Election timeouts after which appends are as fast as before.
const QUICK_TIMEOUTS: u32 = 3;
/// What half of the appends may take longer besides: what it takes to see that a write is late.
const LATENCY_BESIDES: Duration = Duration::from_millis(8);
/// For how many of the times after which a leader without room gives way it is watched whether one does.
const FULL_GIVE_WAYS: u32 = 4;
/// What a read may take besides an election timeout: some wait for records that do not come.
const READ_BESIDES: Duration = Duration::from_millis(400);
/// So often a trial waits as long for the last disk to be full, at most.
const FULL_WAITS_MAX: u32 = 4;
/// The longest election timeout of a trial: it lasts for many of them, with many operations.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);

/// What a trial has done, and what it has seen.
#[derive(Debug, Default)]
pub struct Trial {
    began_at: Option<Time>,
    /// The node whose disk is slow: it led the one group.
    slow: Option<usize>,
    /// Since when no disk has room.
    full_at: Option<Time>,
    /// How often it has waited for that.
    waits: u32,
    /// How many leaders were elected since.
    elected: u32,
    pub(super) scene: Scene,
}

impl Trial {
    /// A leader has been elected.
    pub fn elected(&mut self) {
        self.elected += 1;
    }
}

/// The class of the trial that a seed is, if any.
pub fn class_of(seed: u64) -> Option<Hit> {
    match Stream::Trials.rng(seed).below(WORLDS) {
        0 => Some(Hit::LeaderDiskSlow),
        1 => Some(Hit::AllDisksFull),
        2 => Some(Hit::SecondFailure),
        _ => None,
    }
}

/// Makes a trial's world of a drawn one: enough members, fast disks, a calm network, steady clients.
pub fn shape(plan: &mut Plan, class: Hit, limits: &Limits) {
    if limits.nodes_max < 3 || limits.clients_max < 2 || !limits.faults.has(class) {
        return;
    }
    plan.nodes = if plan.nodes >= 5 && limits.nodes_max >= 5 { 5 } else { 3 };
    plan.groups = 1;
    plan.clients = plan.clients.max(2);
    plan.drawn = FaultSet::NONE.with(class);
    plan.faults = plan.drawn;
    (plan.net.loss_ppm, plan.net.refuse_ppm) = (0, 0);
    plan.net.latency_max = plan.net.latency_max.min(Duration::from_millis(5));
    let one = (Duration::from_micros(500), Duration::from_micros(1000));
    plan.disk_timing = DiskTiming {
        write: one,
        flush: one,
        bytes_per_s: 1_000_000_000,
        stragglers: 0,
        ..DiskTiming::MEASURED
    };
    plan.disk_slow_factor = SLOW_FACTOR;
    plan.core.clock_drift_ppm_max = 0;
    if plan.core.election_timeout > ELECTION_TIMEOUT_MAX {
        plan.core.election_timeout = ELECTION_TIMEOUT_MAX;
        plan.core.heartbeat_interval = ELECTION_TIMEOUT_MAX / 5;
        plan.core.resend_timeout = ELECTION_TIMEOUT_MAX;
    }
    // Drawn for slower disks. A slow leader's is slow, and never stands still.
    plan.core.disk_stall_timeout = match class {
        Hit::LeaderDiskSlow => Duration::from_secs(100),
        _ => plan.core.election_timeout * 2 + Duration::from_millis(500),
    };
    plan.workload = Workload {
        inflight: plan.workload.inflight.min(2),
        logs: 0,
        if_tail_percent: 0,
        fenced_log: false,
        // Opening sessions, and waiting for room in a small table of them, is no append.
        session_life: None,
        hands_over: false,
        append_percent: if class == Hit::LeaderDiskSlow { 100 } else { 60 },
        think_max: Duration::from_millis(10),
        record_bytes_max: plan.workload.record_bytes_max.min(1000),
        timeout: Duration::from_secs(3),
        ..plan.workload.clone()
    };
    plan.operations_max = u64::MAX;
    if class == Hit::LeaderDiskSlow {
        // Small segments are used up faster than they are made, and then all logs wait.
        plan.log.segment_bytes = segment_bytes_min(plan.log.entry_bytes_max) + SEGMENT_BYTES_MORE;
        (plan.log.spare_segments, plan.log.preallocated_segments) = (3, 2);
        (plan.workload.records_max, plan.workload.think_max) = (1, Duration::from_millis(20));
    }
    if class == Hit::SecondFailure {
        second_failure::shape(plan);
    }
    plan.safety = begins_after(plan) + lasts(plan, class) + plan.core.election_timeout;
}

/// When the trial begins: somebody leads, and has led for long enough.
pub fn begins_after(plan: &Plan) -> Duration {
    plan.core.election_timeout * 12 + plan.core.lease
}

/// How long it lasts.
fn lasts(plan: &Plan, class: Hit) -> Duration {
    match class {
        Hit::LeaderDiskSlow => plan.core.election_timeout * MOVED_TIMEOUTS * 2 + MOVED_BESIDES,
        Hit::SecondFailure => second_failure::lasts(plan),
        _ => watched(plan) * (FULL_WAITS_MAX + 2),
    }
}

/// Where all disks get full, one client only reads: the others may wait for their appends.
pub fn set_readers(plan: &Plan, clients: &mut [SimClient]) {
    if plan.faults.has(Hit::AllDisksFull) {
        let workload = Workload { append_percent: 0, ..plan.workload.clone() };
        clients[1].set_workload(workload, u64::MAX);
    }
}

/// How long it is watched whether a leader gives way while no disk has room.
fn watched(plan: &Plan) -> Duration {
    (plan.core.disk_stall_timeout + plan.core.election_timeout) * FULL_GIVE_WAYS
}

impl World {
    /// The trial begins, or is over.
    pub(super) fn trial(&mut self) -> Result<(), Violation> {
        let Some(class) = class_of(self.plan.seed).filter(|class| self.plan.faults.has(*class))
        else {
            return Ok(());
        };
        if self.phase != Phase::Safety {
            return Ok(());
        }
        let began_at = self.nemesis.trial.began_at;
        match (class, began_at) {
            (Hit::SecondFailure, _) => self.second_failure(),
            (Hit::LeaderDiskSlow, None) => self.slow_leader_down(),
            (Hit::LeaderDiskSlow, Some(at)) => self.check_slow_leader(at),
            (_, None) => self.fill_all_disks(),
            (_, Some(_)) => self.check_full_disks(),
        }
    }

    fn begin_trial(&mut self, class: Hit, lasts: Duration) {
        self.nemesis.trial.began_at = Some(self.now());
        self.hits.hit(class);
        self.queue.after(lasts, Happening::Trial);
    }

    fn slow_leader_down(&mut self) -> Result<(), Violation> {
        let Some(leader) = self.leader() else { return Ok(()) };
        self.nemesis.trial.slow = Some(leader);
        self.processes[leader].disk_mut().slow_down(Instant(u64::MAX));
        let moved = self.plan.core.election_timeout * MOVED_TIMEOUTS + MOVED_BESIDES;
        self.begin_trial(Hit::LeaderDiskSlow, moved);
        Ok(())
    }

    fn check_slow_leader(&mut self, began_at: Time) -> Result<(), Violation> {
        let Some(node) = self.nemesis.trial.slow else { return Ok(()) };
        let process = &self.processes[node];
        let live = process.live.as_ref().expect("nothing but its disk is wrong");
        if live.groups[0].server.node().role() == Role::Leader {
            let since = self.now().since(began_at);
            let text = format!("node {} still leads {since:?} after its disk got slow", process.id);
            return Err(Violation::new(NAME, text));
        }
        let quick_from = began_at + self.plan.core.election_timeout * QUICK_TIMEOUTS;
        let before_from =
            Time(began_at.0.saturating_sub(self.now().since(quick_from).as_nanos() as u64));
        let before = self.median_append(before_from, began_at);
        let after = self.median_append(quick_from, self.now());
        if let (Some(before), Some(after)) = (before, after)
            && after > before * 2 + LATENCY_BESIDES
        {
            let text =
                format!("half of the appends take {after:?} under a leader whose disk is slow");
            return Err(Violation::new(NAME, format!("{text}; before, {before:?}")));
        }
        self.hits.hit(Hit::SlowLeaderChecked);
        Ok(())
    }

    /// What half of the appends took at most that were invoked and acknowledged in this time.
    fn median_append(&self, from: Time, to: Time) -> Option<Duration> {
        let operations = self.histories.iter().flat_map(|history| &history.operations);
        let took = |operation: &Operation| {
            let at = operation.acknowledged()?;
            let within = operation.invoked >= from && at <= to;
            let append = matches!(operation.kind, Kind::Append { .. });
            (within && append).then(|| at.since(operation.invoked))
        };
        let mut times: Vec<Duration> = operations.filter_map(took).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    fn fill_all_disks(&mut self) -> Result<(), Violation> {
        if self.leader().is_none() {
            return Ok(());
        }
        for process in &mut self.processes {
            let disk = process.disk_mut();
            let used = disk.used_bytes();
            disk.set_capacity(used);
        }
        let watched = watched(&self.plan);
        self.begin_trial(Hit::AllDisksFull, watched);
        Ok(())
    }

    fn check_full_disks(&mut self) -> Result<(), Violation> {
        let trial = &mut self.nemesis.trial;
        let Some(full_at) = trial.full_at else {
            let live = self.processes.iter().filter_map(|process| process.live.as_ref());
            let all_full = live
                .flat_map(|live| &live.groups)
                .all(|served| served.server.node().is_disk_full());
            trial.waits += 1;
            if all_full {
                (trial.full_at, trial.elected) = (Some(self.queue.now()), 0);
            }
            if all_full || trial.waits <= FULL_WAITS_MAX {
                let watched = watched(&self.plan);
                self.queue.after(watched, Happening::Trial);
            }
            return Ok(());
        };
        if trial.elected > 0 {
            let text = format!("{} leaders were elected while no disk had room", trial.elected);
            return Err(Violation::new(NAME, text));
        }
        let reads = self.histories.iter().flat_map(|history| &history.operations);
        let linearizable = |operation: &&Operation| match operation.kind {
            Kind::Read { level, .. } | Kind::Tail { level, .. } => level != ReadLevel::Local,
            Kind::Append { .. } => false,
        };
        // Those that have not been answered included: however long they have waited by now.
        let now = self.now();
        let waited = |operation: &Operation| {
            let until = operation.acknowledged().unwrap_or(now);
            (operation.invoked >= full_at).then(|| until.since(operation.invoked))
        };
        let longest = reads.filter(linearizable).filter_map(waited).max();
        let bound = self.plan.core.election_timeout + READ_BESIDES;
        match longest {
            Some(longest) if longest <= bound => {}
            _ => {
                let text =
                    format!("a read took {longest:?} while no disk had room, over {bound:?}");
                return Err(Violation::new(NAME, text));
            }
        }
        self.hits.hit(Hit::FullDisksChecked);
        for process in &mut self.processes {
            process.disk_mut().set_capacity(u64::MAX);
        }
        Ok(())
    }
}
