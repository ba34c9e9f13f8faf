//! Disks that are not their nodes' own: formatted again, of another cluster of the same name, of another
//! member. The nodes run on them for a while, and then get their own disks back.
//!
//! Properties: a node on such a disk neither leads nor learns or applies anything, whatever else happens
//! meanwhile, and its own disk holds afterwards what it held; with that the checks of all other nodes,
//! none of which knows of these faults, say that nothing acknowledged is lost.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::disk::{DiskCopy, DiskOptions, SimDisk};
use super::nemesis::Undo;
use super::process::{Absence, draw_incarnation, format_request};
use super::world::{Happening, World};
use crate::base::rng::Rng;
use crate::base::{ClusterId, Founding, Incarnation, NodeId, Slot};
use crate::log::DataDir;
use crate::paxos::Role;

/// The identity faults that a strike chooses from.
pub const STRIKES: &[Hit] = &[
    Hit::FormattedAgain,
    Hit::FormattedAgain,
    Hit::MajorityFormattedAgain,
    Hit::DisksSwapped,
    Hit::DisksSwapped,
    Hit::DisksSwapped,
    Hit::ForeignDisk,
    Hit::ForeignDisk,
];

/// How long wrong disks stay in at least: their nodes start, and are refused.
const STAYS_MIN: Duration = Duration::from_millis(300);

/// A node that runs on a disk that is not its own.
pub struct Impostor {
    /// Its own.
    own: DiskCopy,
    /// What it had applied when it started on the wrong one, by group.
    applied: Vec<Slot>,
    /// Whether it was founded on the wrong disk already.
    was_founded: bool,
}

impl World {
    /// Puts wrong disks in. Returns whether there was something to strike.
    pub(super) fn strike_identity(
        &mut self,
        hit: Hit,
        (node, other): (usize, usize),
        span: Duration,
        more: u64,
    ) -> bool {
        let nodes = self.plan.nodes;
        let rng = &mut Rng::new(more);
        let struck: Vec<usize> = match hit {
            Hit::MajorityFormattedAgain => {
                (0..=nodes / 2).map(|step| (node + step) % nodes).collect()
            }
            // Where names are looked up, peers may find a member where its disk is now: it is that member.
            Hit::DisksSwapped if nodes == 1 || self.plan.named => return false,
            // Alone it is nobody's peer: none can refuse it.
            Hit::ForeignDisk if nodes == 1 => return false,
            Hit::DisksSwapped if node == other => vec![node, (node + 1) % nodes],
            Hit::DisksSwapped => vec![node, other],
            _ => vec![node],
        };
        let fit = |node: &usize| {
            let process = &self.processes[*node];
            let is_there = process.live.is_some() || process.absence == Absence::Stopped;
            is_there && process.impostor.is_none() && !process.damaged && !self.damageable(*node)
        };
        if !struck.iter().all(fit) || !self.foundings.adopted.iter().all(|adopted| *adopted) {
            return false;
        }
        for node in &struck {
            self.stop(*node, true, Duration::from_millis(1));
        }
        let copies: Vec<DiskCopy> =
            struck.iter().map(|node| self.processes[*node].disk().save_copy()).collect();
        for (place, node) in struck.iter().enumerate() {
            let wrong = match hit {
                Hit::DisksSwapped => copies[1 - place].clone(),
                Hit::ForeignDisk => self.foreign(*node, rng, true),
                _ => self.foreign(*node, rng, false),
            };
            let process = &mut self.processes[*node];
            process.disk_mut().forget_injected();
            process.disk_mut().set_check_overwrites(false);
            process.disk_mut().restore_copy(&wrong);
            process.stopped_at.fill(Slot::NONE);
            process.damage_at_start.fill(None);
            let own = copies[place].clone();
            process.impostor = Some(Impostor { own, applied: Vec::new(), was_founded: false });
            self.queue.after(Duration::from_millis(1), Happening::Start(*node));
        }
        self.queue.after(span + STAYS_MIN, Happening::Undo(Undo::OwnDisks(struck)));
        true
    }

    /// A freshly formatted disk for this node; of a cluster of the same name, if it `is_founded`.
    fn foreign(&self, node: usize, rng: &mut Rng, is_founded: bool) -> DiskCopy {
        let mut disk = SimDisk::new(0, DiskOptions::default());
        let id = NodeId(node as u16 + 1);
        let incarnation = draw_incarnation(rng);
        DataDir::format(&mut disk, &format_request(&self.plan, id, incarnation))
            .expect("an empty disk without faults is formatted");
        if is_founded {
            let mut member = |index: usize| {
                let other: Incarnation = draw_incarnation(rng);
                let id = NodeId(index as u16 + 1);
                (id, if index == node { incarnation } else { other })
            };
            let members = (0..self.plan.nodes).map(&mut member).collect();
            let cluster = ClusterId(u128::from(rng.next_u64()) + 1);
            DataDir::adopt(&mut disk, &Founding { cluster, members })
                .expect("a disk without faults takes it");
        }
        disk.save_copy()
    }

    /// Nodes get their own disks back, as they were.
    pub(super) fn own_disks(&mut self, nodes: &[usize]) {
        for node in nodes.iter().copied() {
            if self.processes[node].impostor.is_none() {
                continue;
            }
            self.count_refusals(node);
            self.stop(node, true, Duration::from_millis(5));
            let process = &mut self.processes[node];
            let Some(Impostor { own, .. }) = process.impostor.take() else { continue };
            process.disk_mut().forget_injected();
            process.disk_mut().restore_copy(&own);
            process.stopped_at.fill(Slot::NONE);
            process.absence = Absence::Stopped;
            self.queue.after(Duration::from_millis(5), Happening::Start(node));
        }
    }

    /// All of them: the world heals.
    pub(super) fn all_own_disks(&mut self) {
        let all: Vec<usize> = (0..self.plan.nodes).collect();
        self.own_disks(&all);
    }

    /// Whether its peers have told it, or it them, that it runs on another disk.
    fn count_refusals(&mut self, node: usize) {
        let Some(live) = &self.processes[node].live else { return };
        let now = self.processes[node].clock.read(self.now());
        let status = live.groups[0].server.node().status(now);
        let refused = status.members.iter().filter(|member| member.refused.is_some()).count();
        self.hits.add(Hit::ImpostorRefused, u64::from(refused > 0));
    }

    /// A node has started on a disk that is not its own.
    pub(super) fn impostor_started(&mut self, node: usize) {
        let process = &mut self.processes[node];
        let live = process.live.as_ref().expect("it has just started");
        let applied = |group: &super::process::Served| group.server.node().watermarks().applied;
        let applied: Vec<Slot> = live.groups.iter().map(applied).collect();
        let was_founded = live.groups[0].server.node().founding().is_some();
        let impostor = process.impostor.as_mut().expect("the caller has looked");
        if impostor.applied.is_empty() {
            (impostor.applied, impostor.was_founded) = (applied, was_founded);
        }
    }

    /// What a turn of such a node has come to: nothing.
    pub(super) fn watch_impostor(&mut self, node: usize) -> Result<(), Violation> {
        let process = &mut self.processes[node];
        let id = process.id;
        let (Some(impostor), Some(live)) = (&process.impostor, &mut process.live) else {
            return Ok(());
        };
        let violation = |what: &str| {
            Err(Violation::new("identity", format!("node {id} is on another disk, and {what}")))
        };
        for (group, applied) in live.groups.iter_mut().zip(&impostor.applied) {
            self.applied.clear();
            let server = &mut group.server;
            server.node_mut().take_applied(&mut self.applied);
            self.applied.clear();
            if server.node().role() == Role::Leader && self.plan.nodes > 1 {
                return violation("leads");
            }
            if server.node().watermarks().applied > *applied && self.plan.nodes > 1 {
                return violation("applies what it has learnt");
            }
            if server.node().founding().is_some() && !impostor.was_founded {
                return violation("learns as what the cluster was founded");
            }
        }
        live.io.handed_over = 0;
        Ok(())
    }

    /// What it asks of the network. Nothing that it says is held against the node that it seems to be.
    pub(super) fn carry_out_impostor(&mut self, node: usize) {
        let process = &mut self.processes[node];
        let host = process.host;
        let Some(live) = &mut process.live else { return };
        for command in live.io.port.take_commands() {
            self.net.command(&mut self.queue, host, command);
        }
    }
}
