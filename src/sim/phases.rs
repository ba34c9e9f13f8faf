//! The two phases of a run: safety, in which (nearly) everything may fail, and liveness, in which
//! a connected quorum is healed, all else stays as broken as it is, and progress is required.
//!
//! Property of the second phase: within [`liveness_bound`] of the healing, every client gets
//! [`PROGRESS_APPENDS`] more appends acknowledged, and every healed node applies everything that
//! had been chosen by then. After that the healed quorum loses power at once, starts again, and
//! everything acknowledged must still be there; and each of them verifies what its start did not read,
//! within the same bound. Nodes without a vote are healed with the quorum, which is not to need them:
//! each that lives gets its vote back.

use std::time::Duration;

use super::checks::{Violation, inspected};
use super::clock::RATE_TRUE;
use super::counters::Hit;
use super::plan::{Plan, Workload};
use super::process::Absence;
use super::time::Time;
use super::trace::HostId;
use super::world::{Happening, World};
use crate::base::{GroupId, Instant, Slot};

const NAME: &str = "liveness";

/// Appends that each client must get acknowledged after the healing.
pub const PROGRESS_APPENDS: u64 = 5;
/// What a client then has in flight at most: a link that loses 3% of its chunks of 61 bytes carries 9 kB/s,
/// and what it carries for longer than the client waits is asked again from the beginning, for ever.
const INFLIGHT_MAX: usize = 32;
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything may fail.
    Safety,
    /// A quorum is healed.
    Liveness {
        /// The healed nodes.
        quorum: Vec<usize>,
        /// Nodes without a vote that were healed as well.
        voteless: Vec<usize>,
        /// When progress must have been made.
        until: Time,
        /// Appends that each client had acknowledged at the healing.
        before: Vec<u64>,
        /// Slots of each group that every healed node must apply: those chosen when the clients
        /// were done.
        target: Option<Vec<Slot>>,
        /// The power cut of the end has been made.
        restarted: bool,
    },
    /// Done.
    Over,
}

/// How long a healed quorum may take: twelve election timeouts with their back-off, the leases that
/// must run out, leaders whose disks stand still, what broken connections need to be noticed, and the catching up.
pub fn liveness_bound(plan: &Plan) -> Duration {
    let elections = plan.core.election_timeout * 60 + plan.core.lease * 20;
    let stalls = plan.core.disk_stall_timeout * 3;
    elections + stalls + plan.net.send_timeout * 3 + Duration::from_secs(40)
}

impl World {
    /// The safety phase is over, or the liveness phase is looked at.
    pub(super) fn end_phase(&mut self) -> Result<(), Violation> {
        match self.phase.clone() {
            Phase::Safety => self.heal(),
            Phase::Liveness { .. } => self.look(),
            Phase::Over => Ok(()),
        }
    }

    fn heal(&mut self) -> Result<(), Violation> {
        let now = self.now();
        self.all_own_disks();
        let nodes = self.plan.nodes;
        let mut order: Vec<usize> = (0..nodes).collect();
        for index in (1..nodes).rev() {
            order.swap(index, self.rng.below(index as u64 + 1) as usize);
        }
        // The leader is often among those who stay broken: it must not hold up the others.
        if let Some(leader) = self.leader().filter(|_| self.rng.below(2) == 0) {
            order.retain(|node| *node != leader);
            order.push(leader);
        }
        // Whoever's disk may lie or rot is not relied on; on those without a vote only if need be.
        order.retain(|node| !self.damageable(*node));
        order.sort_by_key(|node| self.is_voteless(*node));
        let mut quorum: Vec<usize> = order[..nodes / 2 + 1].to_vec();
        quorum.sort_unstable();
        let outside = (0..nodes).filter(|node| !quorum.contains(node));
        let voteless: Vec<usize> = outside.filter(|node| self.has_lost_vote(*node)).collect();
        let healed: Vec<usize> = quorum.iter().chain(&voteless).copied().collect();
        let until = now + liveness_bound(&self.plan);
        let before = self.clients.iter().map(|client| client.acknowledged).collect();
        let healthy = |host: HostId| healed.contains(&usize::from(host.0));
        for (from, to) in self.nemesis.take_cuts() {
            // Whoever is not healed stays cut off from nodes where it was cut off; a client that
            // cannot reach the leader is nobody's fault but the network's.
            let of_client = usize::from(from.0.max(to.0)) >= nodes;
            if of_client || (healthy(from) && healthy(to)) {
                self.net.mend(&mut self.queue, from, to);
            }
        }
        self.net.calm();
        for &node in &healed {
            self.processes[node].clock.set_rate(now, RATE_TRUE);
            self.heal_disk(node);
            self.thaw(node);
            self.schedule_turn(node, now);
            self.queue.after(Duration::ZERO, Happening::Start(node));
            for other in 0..nodes + self.plan.clients {
                self.net.slow(HostId(node as u16), HostId(other as u16), Duration::ZERO);
                self.net.slow(HostId(other as u16), HostId(node as u16), Duration::ZERO);
            }
        }
        for node in (0..nodes).filter(|node| !healed.contains(node)) {
            self.leave_broken(node, &quorum);
        }
        let workload = Workload {
            think_max: Duration::from_millis(20),
            timeout: Duration::from_secs(3),
            inflight: INFLIGHT_MAX,
            append_percent: 70,
            session_life: None,
            hands_over: false,
            ..self.plan.workload.clone()
        };
        for client in &mut self.clients {
            client.set_workload(workload.clone(), u64::MAX);
        }
        let target = None;
        self.phase = Phase::Liveness { quorum, voteless, until, before, target, restarted: false };
        self.queue.after(LOOK_EVERY, Happening::Phase);
        Ok(())
    }

    /// Breaks a node that is not healed for good, in one of several ways, or not if the plan has none.
    fn leave_broken(&mut self, node: usize, quorum: &[usize]) {
        let classes = Hit::FOR_GOOD.iter().chain(&Hit::FOR_GOOD[1..]);
        let drawn = self.rng.below(2 * Hit::FOR_GOOD.len() as u64 - 1) as usize;
        let drawn = *classes.into_iter().nth(drawn).expect("drawn within both lists");
        let friend = quorum[self.rng.below(quorum.len() as u64) as usize];
        let is_there = self.processes[node].live.is_some();
        // Whoever is not there can be kept from coming back.
        let class = if is_there { drawn } else { Hit::LeftPoweredOff };
        if !self.plan.faults.has(class) {
            return;
        }
        self.hits.hit(class);
        let host = self.processes[node].host;
        let others: Vec<usize> = (0..self.plan.nodes).filter(|other| *other != node).collect();
        match class {
            Hit::LeftPoweredOff => {
                self.net.power_lost(&mut self.queue, host);
                self.processes[node].end(Absence::Evicted, true, &mut self.rng);
                self.processes[node].absence = Absence::Evicted;
            }
            Hit::LeftPaused => {
                self.processes[node].frozen_until = Some(Time(u64::MAX));
                self.net.set_frozen(&mut self.queue, host, true);
            }
            Hit::LeftIsolated => self.cut_from(host, others.iter()),
            Hit::LeftHanging => self.cut_from(host, others.iter().filter(|node| **node != friend)),
            Hit::LeftStalled => {
                let for_good = Instant(u64::MAX);
                self.processes[node].disk_mut().stand_still(for_good);
            }
            _ => unreachable!("every class of the list is handled"),
        }
    }

    /// Cuts both directions, for good.
    fn cut_from<'a>(&mut self, host: HostId, others: impl Iterator<Item = &'a usize>) {
        for other in others {
            let other = self.processes[*other].host;
            self.net.cut(host, other);
            self.net.cut(other, host);
        }
    }

    fn look_for_records(&mut self, quorum: &[usize]) -> Result<(), Violation> {
        let processes = quorum.iter().map(|node| &self.processes[*node]);
        let live = processes.filter(|process| !process.damaged).filter_map(|p| p.live.as_ref());
        for live in live {
            for (served, judge) in live.groups.iter().zip(&self.judges) {
                judge.stored(served.server.node(), &mut self.hits)?;
            }
        }
        Ok(())
    }

    /// The run is over: looks at every disk that the world has not damaged.
    pub(super) fn inspect_disks(&mut self) -> Result<(), Violation> {
        for node in 0..self.plan.nodes {
            let process = &mut self.processes[node];
            process.end(Absence::Stopped, false, &mut self.rng);
            process.disk_mut().forget_injected();
            let id = process.id;
            if !process.damaged {
                self.hits.hit(Hit::Inspected);
                let judges = &self.judges;
                let truth = |group: GroupId, slot| judges[usize::from(group.0)].checksum(slot);
                inspected::check(id, self.processes[node].disk_mut(), &truth)?;
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Violation> {
        let now = self.now();
        let Phase::Liveness { voteless, .. } = &self.phase else { return Ok(()) };
        let all_vote = !voteless.iter().any(|node| self.has_lost_vote(*node));
        let Phase::Liveness { quorum, before, target, restarted, .. } = &mut self.phase else {
            return Ok(());
        };
        let clients = self.clients.iter().zip(before.iter());
        let served =
            clients.filter(|(client, was)| client.acknowledged >= **was + PROGRESS_APPENDS).count();
        if served == self.clients.len() && target.is_none() {
            let chosen = self.judges.iter().map(|judge| Slot(judge.slots() as u64));
            *target = Some(chosen.collect());
            // Nothing new is appended: what has been chosen must reach everybody.
            let quiet = self.plan.workload.clone();
            self.clients.iter_mut().for_each(|client| client.set_workload(quiet.clone(), 0));
        }
        let processes = &self.processes;
        let reaches = |node: &usize, target: &[Slot]| {
            let Some(live) = &processes[*node].live else { return false };
            let applied = live.groups.iter().map(|g| g.server.node().watermarks().applied);
            applied.zip(target).all(|(applied, target)| applied >= *target)
        };
        let verified = |node: &usize| {
            let Some(live) = &processes[*node].live else { return false };
            let mut groups = live.groups.iter();
            groups.all(|g| g.server.node().log_stats().unverified_segments == 0)
        };
        let is_there = |node: &usize, target: &[Slot]| {
            reaches(node, target) && (!*restarted || verified(node))
        };
        let reached =
            target.as_ref().is_some_and(|target| quorum.iter().all(|node| is_there(node, target)));
        let reached = reached && (all_vote || *restarted);
        if reached && !*restarted {
            *restarted = true;
            for node in quorum.clone() {
                self.stop(node, true, Duration::from_millis(10));
            }
        } else if reached {
            let quorum = quorum.clone();
            self.hits.hit(Hit::LivenessReached);
            let bound = liveness_bound(&self.plan);
            let left = self.liveness_deadline().since(now);
            self.progress_after = Some(bound.saturating_sub(left));
            self.phase = Phase::Over;
            self.look_for_records(&quorum)?;
            self.inspect_disks()?;
            for (judge, history) in self.judges.iter_mut().zip(&self.histories) {
                judge.end(history, self.clocks_broken_at, &mut self.hits)?;
            }
            return Ok(());
        }
        if now > self.liveness_deadline() {
            return Err(self.no_progress(served));
        }
        self.queue.after(LOOK_EVERY, Happening::Phase);
        Ok(())
    }

    fn liveness_deadline(&self) -> Time {
        match &self.phase {
            Phase::Liveness { until, .. } => *until,
            _ => Time(u64::MAX),
        }
    }

    fn no_progress(&self, served: usize) -> Violation {
        let Phase::Liveness { quorum, voteless, target, restarted, .. } = &self.phase else {
            unreachable!("only the liveness phase requires progress")
        };
        let mut text = format!(
            "within {:?} of healing {quorum:?} and {voteless:?} without a vote: {served} of {} clients \
             served, target {target:?}, restarted {restarted}; ",
            liveness_bound(&self.plan),
            self.clients.len()
        );
        for process in &self.processes {
            let state = match &process.live {
                None => format!("{:?}", process.absence),
                Some(live) => {
                    let nodes = live.groups.iter().map(|served| served.server.node());
                    let states = nodes.map(|node| (node.role(), node.watermarks()));
                    format!("{:?}", states.collect::<Vec<_>>())
                }
            };
            text.push_str(&format!("node {}: {state}; ", process.id));
        }
        Violation::new(NAME, text)
    }
}
