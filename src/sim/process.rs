//! One node of the world: its data directory, its clock, and its process while it lives.
//!
//! The process is the production server on the simulated seam, opened by the production code from
//! whatever the disk holds.

use std::time::Duration;

use super::clock::NodeClock;
use super::disk::{DiskFaults, DiskOptions, SimDisk};
use super::disk_faults::trouble;
use super::host::{Chunk, Port, SimIo};
use super::impostors::Impostor;
use super::names::{address_of, name_of};
use super::plan::{Plan, Stream};
use super::time::Time;
use super::trace::HostId;
use crate::base::rng::Rng;
use crate::base::{BlockPool, ClusterDigest, GroupId, Incarnation, NodeId, Slot};
use crate::io::{Event, Io, Net, Wait};
use crate::log::inspect::inspect;
use crate::log::layout::{FileKind, file_kind};
use crate::log::{
    Damage, DataDir, FormatRequest, Identity as DiskIdentity, LogSync, Member, SCRUB_BYTES_PER_S,
};
use crate::node::{Identity, Node, NodeFailure, NodeOptions};
use crate::paxos::Role;
use crate::server::{Server, StopStage, Turn};
use crate::wire::status::{ResourceStatus, SessionsStatus};

/// The cluster's name in every world.
pub const CLUSTER: &str = "simulated";
/// Slots between two comparisons of the states: far fewer than a run has.
const STATE_MARK_EVERY: u64 = 16;
/// Returned buffers kept for reuse per node.
const POOL_IDLE_BYTES_MAX: usize = 1 << 20;

/// A process that lives.
pub struct Live {
    /// By group.
    pub groups: Vec<Served>,
    /// Its seam.
    pub io: SimIo,
    /// It has been asked to stop, and is to be away for so long.
    pub stops_for: Option<Duration>,
    /// It has been asked once more, which cuts everything short.
    pub asked_again: bool,
}

/// A group of it.
pub struct Served {
    /// The production server.
    pub server: Server,
    /// The role last seen.
    pub role: Role,
    /// Segments last seen.
    pub segments: u64,
    /// Checkpoints written, and segments verified since the start, as last seen.
    pub checkpoints: u64,
    /// See above.
    pub verified: u64,
    /// What had become of sessions, as last seen.
    pub sessions: SessionsStatus,
    /// Whether it has been asked to stop, and what came of it.
    pub stop: Stop,
    /// How it led when it was asked to stop, if it did.
    pub led: Option<Led>,
    /// Whether it has asked another node to take over since.
    pub asked_another: bool,
}

/// The leadership of a group that was asked to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Led {
    /// When it was asked.
    pub at: Time,
    /// Another node followed it and was in touch with it then.
    pub in_touch: bool,
}

/// How a group stands that is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It serves, and has not been asked, or does not know of it yet.
    Unasked,
    /// It hands its leadership over, if it has one.
    Transferring,
    /// It serves on until a checkpoint of this slot, or of a later one, is written.
    Checkpointing(Slot),
    /// It has left its loop, without a checkpoint.
    Plain,
    /// It has left its loop when such a checkpoint had been written.
    Checkpointed(Slot),
    /// It has left its loop, and the checkpoint was not written yet.
    CutShort,
}

impl Stop {
    /// Whether it has left its loop.
    fn is_over(self) -> bool {
        !matches!(self, Stop::Unasked | Stop::Transferring | Stop::Checkpointing(_))
    }
}

impl Served {
    /// After a turn before whose events it had applied `applied`.
    fn note_turn(&mut self, turn: Turn, applied: Slot) {
        let writes = self.server.node().is_writing_checkpoint();
        self.stop = match (turn, self.stop) {
            (Turn::GoOn, Stop::Unasked | Stop::Transferring) => match self.server.stop_stage() {
                StopStage::Transferring(_) => Stop::Transferring,
                StopStage::Checkpointing(_) => Stop::Checkpointing(applied),
                StopStage::Serving | StopStage::Leaving => self.stop,
            },
            (Turn::GoOn, stop) => stop,
            (Turn::Stop, Stop::Checkpointing(_)) if writes => Stop::CutShort,
            (Turn::Stop, Stop::Checkpointing(slot)) => Stop::Checkpointed(slot),
            (Turn::Stop, _) => Stop::Plain,
        };
    }
}

/// Why a process is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Not started, or killed; may be started.
    Stopped,
    /// A write or flush failed: it stopped itself.
    DiskFailed(String),
    /// It refuses what it finds on its disk.
    Refused(String),
    /// It does not know what stands in this slot, and goes no further.
    NeedsNewer(Slot),
    /// Taken out of the world: its disk has lied, and it lacks what it had told; or it is left without
    /// power.
    Evicted,
}

/// One node.
pub struct Process {
    /// Its id.
    pub id: NodeId,
    /// Its host.
    pub host: HostId,
    /// Its clock.
    pub clock: NodeClock,
    /// While it lives.
    pub live: Option<Live>,
    /// Why it does not, if so.
    pub absence: Absence,
    /// What it lacks while it lives: disk and network end.
    resting: Option<(SimDisk, Port)>,
    /// Until when its process does not run.
    pub frozen_until: Option<Time>,
    /// The next turn and its number, so that one that was replaced is known.
    pub next_turn: Option<(Time, u64)>,
    /// Turns scheduled so far.
    pub turns: u64,
    /// Lives so far.
    pub lives: u64,
    /// While it runs on a disk that is not its own.
    pub impostor: Option<Impostor>,
    /// Its disk has lied or was damaged.
    pub damaged: bool,
    /// It has lied, so that what it holds may be consistent and late.
    pub has_lied: bool,
    /// The last entry of each group's log that its disk has acknowledged: it votes only with all of them.
    pub durable_entries: Vec<u64>,
    /// What trouble its disk had made before it started.
    pub trouble_before: u64,
    /// What was damaged in each group's segments when it started: the scrub must not pass over it.
    pub damage_at_start: Vec<Option<String>>,
    /// In which groups a marker of damage stood when it started.
    pub marked_at_start: Vec<bool>,
    /// The checkpoint from which, or from a later one, each group must go on: written before a clean
    /// stop, with nothing done to the disk since.
    pub stopped_at: Vec<Slot>,
    events: Vec<Event<Chunk>>,
}

fn no_resources() -> ResourceStatus {
    ResourceStatus::default()
}

impl Process {
    /// A node with a freshly formatted directory, not started.
    pub fn new(plan: &Plan, index: usize, rng: &mut Rng) -> Process {
        let id = NodeId(index as u16 + 1);
        let host = HostId(index as u16);
        let faults = DiskFaults { slow_factor: plan.disk_slow_factor, ..DiskFaults::NONE };
        let timing = plan.disk_timing;
        let options = DiskOptions { timing, faults, ..DiskOptions::default() };
        let mut disk = SimDisk::new(Stream::Disk.seed(plan.seed, index), options);
        DataDir::format(&mut disk, &format_request(plan, id, draw_incarnation(rng)))
            .expect("an empty disk without faults is formatted");
        Process {
            id,
            host,
            clock: NodeClock::new(Time::default(), rng.below(1 << 40)),
            live: None,
            absence: Absence::Stopped,
            resting: Some((disk, Port::new(host))),
            frozen_until: None,
            next_turn: None,
            turns: 0,
            lives: 0,
            impostor: None,
            damaged: false,
            has_lied: false,
            trouble_before: 0,
            damage_at_start: vec![None; plan.groups],
            durable_entries: vec![0; plan.groups],
            marked_at_start: vec![false; plan.groups],
            stopped_at: vec![Slot::NONE; plan.groups],
            events: Vec::new(),
        }
    }

    /// Starts the process from what the disk holds.
    ///
    /// # Errors
    /// Why it refuses; it is absent then.
    pub fn start(&mut self, plan: &Plan, now: Time, rng: &mut Rng) -> Result<(), Absence> {
        let (disk, mut port) = self.resting.take().expect("only an absent process is started");
        port.reset();
        self.lives += 1;
        self.trouble_before = trouble(&disk);
        self.damage_at_start = match self.damaged {
            true => damage_in_segments(&disk, plan.groups),
            false => vec![None; plan.groups],
        };
        self.marked_at_start = markers(&disk, plan.groups);
        let mut io = SimIo::new(disk, port, self.clock.read(now));
        match open(&mut io, plan, self.lives) {
            Ok(nodes) => {
                let address = address_of(self.host);
                let listening = Net::listen(&mut io, address);
                listening.expect("the simulated network listens where it is told to");
                let serve = |(node, pool)| {
                    let server = Server::new(node, pool, self.clock.read(now), no_resources);
                    let role = server.node().role();
                    let segments = server.node().log_stats().segments;
                    Served {
                        server,
                        role,
                        segments,
                        checkpoints: 0,
                        verified: 0,
                        sessions: SessionsStatus::default(),
                        stop: Stop::Unasked,
                        led: None,
                        asked_another: false,
                    }
                };
                let groups = nodes.into_iter().map(serve).collect();
                self.live = Some(Live { groups, io, stops_for: None, asked_again: false });
                Ok(())
            }
            Err(absence) => {
                self.rest(io);
                let (disk, _) = self.resting.as_mut().expect("it rests since the line above");
                disk.kill(rng);
                self.absence = absence.clone();
                Err(absence)
            }
        }
    }

    fn rest(&mut self, io: SimIo) {
        let SimIo { disk, port, .. } = io;
        self.resting = Some((disk, port));
    }

    /// The process ends, whatever it was doing: with the power, or without. Returns whether there
    /// was one.
    pub fn end(&mut self, absence: Absence, power_lost: bool, rng: &mut Rng) -> bool {
        let Some(Live { groups, io, .. }) = self.live.take() else { return false };
        drop(groups);
        self.rest(io);
        let (disk, _) = self.resting.as_mut().expect("it rests since the line above");
        match power_lost {
            true => disk.power_loss(rng),
            false => disk.kill(rng),
        }
        self.absence = absence;
        self.frozen_until = None;
        self.next_turn = None;
        true
    }

    /// Its disk.
    pub fn disk(&self) -> &SimDisk {
        match (&self.live, &self.resting) {
            (Some(live), _) => &live.io.disk,
            (None, Some((disk, _))) => disk,
            (None, None) => unreachable!("the disk is in the process or beside it"),
        }
    }

    /// Its disk, to be changed.
    pub fn disk_mut(&mut self) -> &mut SimDisk {
        match (&mut self.live, &mut self.resting) {
            (Some(live), _) => &mut live.io.disk,
            (None, Some((disk, _))) => disk,
            (None, None) => unreachable!("the disk is in the process or beside it"),
        }
    }

    /// One turn of the process, in which each group takes one: another one first each time.
    ///
    /// # Errors
    /// When it must end.
    pub fn turn(&mut self, now: Time) -> Result<(), NodeFailure> {
        let live = self.live.as_mut().expect("only a process that lives takes turns");
        live.io.begin_turn(now, self.clock.read(now));
        let count = live.groups.len();
        for group in (0..count).map(|step| (self.turns as usize + step) % count) {
            live.io.group = GroupId(group as u16);
            let served = &mut live.groups[group];
            if served.stop.is_over() {
                // Its thread is gone: nobody hears of what comes for it.
                live.io.turn(Wait::No, &mut self.events).map_err(NodeFailure::Ring)?;
                self.events.clear();
                continue;
            }
            let applied = served.server.node().watermarks().applied;
            let turn = served.server.turn(&mut live.io, Wait::No, &mut self.events)?;
            served.note_turn(turn, applied);
        }
        // What the first group's thread tells those of the others.
        if let Some(founding) = live.groups[0].server.node().founding().cloned() {
            for (group, served) in (0..).map(GroupId).zip(&mut live.groups) {
                if served.server.node().is_blank() && !served.stop.is_over() {
                    live.io.group = group;
                    served.server.node_mut().take_founding(&mut live.io, founding.clone());
                }
            }
        }
        live.io.end_turn(now);
        Ok(())
    }

    /// Asks every group of a process that lives to stop.
    pub fn ask_to_stop(&mut self) {
        let live = self.live.as_mut().expect("only a process that lives is asked");
        live.io.woken.extend((0..live.groups.len()).map(|group| GroupId(group as u16)));
    }

    /// Whether every group has left its loop, as it was asked to.
    pub fn has_stopped(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.groups.iter().all(|group| group.stop.is_over()))
    }

    /// When the process wants its next turn although nothing arrives.
    pub fn wants_turn_at(&self, now: Time) -> Option<Time> {
        let live = self.live.as_ref()?;
        let disk = live.io.disk.next_completion_at().map(|at| Time(at.0));
        let serving = live.groups.iter().filter(|group| !group.stop.is_over());
        let waits = serving.map(|group| group.server.wait(self.clock.read(now)));
        let due = waits.map(|wait| match wait {
            Wait::No => now,
            Wait::AtMost(span) => now + self.clock.true_time(span),
        });
        // One group has handed something over to another that has had its turn.
        let handed_over = (!live.io.inbox.is_empty()).then_some(now);
        due.chain(disk).chain(handed_over).min()
    }
}

/// The name of a group's first file of this kind.
pub(super) fn file_of_group(disk: &SimDisk, group: usize, kind: FileKind) -> Option<String> {
    let folder = DataDir::group_folder(GroupId(group as u16));
    let is_it = |name: &String| name.starts_with(&folder) && file_kind(name) == kind;
    disk.file_names().into_iter().find(is_it)
}

/// In which groups' folders a marker of damage stands.
pub fn markers(disk: &SimDisk, groups: usize) -> Vec<bool> {
    let stands = |group| file_of_group(disk, group, FileKind::DamageMarker).is_some();
    (0..groups).map(stands).collect()
}

/// The first damage that an inspection finds in the segments of each group, if any.
fn damage_in_segments(disk: &SimDisk, groups: usize) -> Vec<Option<String>> {
    let mut scratch = disk.after_power_cut();
    // What is no data directory any more has no segments.
    let Ok(report) = inspect(&mut scratch, &mut |_| {}) else { return vec![None; groups] };
    let of_group = |group: usize| {
        let folder = DataDir::group_folder(GroupId(group as u16));
        let in_segment =
            |damage: &&Damage| damage.file.starts_with(&folder) && damage.file.contains("segment-");
        report.damage.iter().find(in_segment).map(Damage::to_string)
    };
    (0..groups).map(of_group).collect()
}

pub(super) fn format_request(plan: &Plan, id: NodeId, incarnation: Incarnation) -> FormatRequest {
    let member = |index: usize| Member {
        node: NodeId(index as u16 + 1),
        address: match plan.named {
            true => name_of(HostId(index as u16)),
            false => address_of(HostId(index as u16)).to_string(),
        },
    };
    FormatRequest {
        cluster: CLUSTER.to_owned(),
        incarnation,
        node: id,
        members: (0..plan.nodes).map(member).collect(),
        group_count: plan.groups as u16,
        segment_bytes: plan.log.segment_bytes,
        entry_bytes_max: plan.log.entry_bytes_max,
        preallocate_bytes: plan.log.preallocated_segments
            * plan.log.segment_bytes
            * plan.groups as u64,
    }
}

pub(super) fn draw_incarnation(rng: &mut Rng) -> Incarnation {
    Incarnation(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
}

/// As `loggos serve` does: the identity first, then the log.
fn open(io: &mut SimIo, plan: &Plan, life: u64) -> Result<Vec<(Node, BlockPool)>, Absence> {
    let identity = DataDir::load(io).map_err(|error| Absence::Refused(error.to_string()))?;
    let groups = (0..identity.group_count).map(GroupId);
    let open = |group| {
        let options = options(plan, identity.clone(), group, life).map_err(Absence::Refused)?;
        let pool = options.pool.clone();
        io.group = group;
        let node = Node::open(io, options).map_err(|failure| match failure {
            NodeFailure::NewerVersion { slot, .. } => Absence::NeedsNewer(slot),
            failure => Absence::Refused(failure.to_string()),
        })?;
        Ok((node, pool))
    };
    groups.map(open).collect()
}

fn options(
    plan: &Plan,
    disk: DiskIdentity,
    group: GroupId,
    life: u64,
) -> Result<NodeOptions, String> {
    let id = disk.node;
    let identity = Identity {
        cluster: ClusterDigest::of_name(&disk.cluster),
        cluster_name: disk.cluster,
        incarnation: disk.incarnation,
        founding: disk.founding.clone(),
        pending: None,
        is_used: false,
        node: disk.node,
        members: disk.members.into_iter().map(|member| (member.node, member.address)).collect(),
        group_count: disk.group_count,
    };
    let pool = BlockPool::new(POOL_IDLE_BYTES_MAX);
    let stream = usize::from(id.0) + 100 * life as usize + 40_000_000 * usize::from(group.0);
    let seed = Stream::Node.seed(plan.seed, stream);
    let preferred = plan.groups > 1 && identity.preferred_leader(group) == Some(id);
    let mut options = NodeOptions::new(identity, pool, seed).for_group(group);
    options.paxos.priority = u8::from(preferred);
    let (core, log) = (&plan.core, &plan.log);
    options.paxos.window_slots_max = core.window_slots_max;
    options.paxos.retained_slots_max = core.retained_slots_max;
    options.paxos.accept_ahead_bytes_max = core.accept_ahead_bytes_max;
    options.paxos.fetch_slots_max = core.fetch_slots_max;
    options.paxos.window_bytes_max = core.window_bytes_max;
    options.paxos.retained_bytes_max = core.retained_bytes_max;
    options.paxos.heartbeat_interval = core.heartbeat_interval;
    options.paxos.election_timeout = core.election_timeout;
    options.paxos.resend_timeout = core.resend_timeout;
    options.paxos.disk_stall_timeout = core.disk_stall_timeout;
    options.paxos.lease = core.lease;
    options.paxos.clock_drift_ppm_max = core.clock_drift_ppm_max;
    options.log.entry_bytes_max = log.entry_bytes_max;
    options.log.segment_bytes = disk.segment_bytes;
    options.log.spare_segments = log.spare_segments;
    options.log.fill_ahead_bytes = log.fill_ahead_segments * disk.segment_bytes;
    options.log.mark_idle_after = log.mark_idle_after;
    options.log.second_write_bytes_min = log.second_write_bytes_min;
    options.log.fill_write_bytes_max = log.fill_write_bytes_max;
    options.log.checkpoint_bytes_min = log.checkpoint_bytes_min;
    options.log.checkpoint_factor = log.checkpoint_factor;
    options.log.verify_at_start = log.verify_at_start;
    options.log.scrub_bytes_per_s = SCRUB_BYTES_PER_S / plan.groups as u64;
    if log.write_then_fsync {
        options.log.log_sync = LogSync::WriteThenFsync;
    }
    options.session_limits = plan.session_limits;
    options.state_mark_every = STATE_MARK_EVERY;
    options.cache_bytes_max = plan.cache_bytes_max;
    // Two appends of the largest size always fit one batch.
    options.append_bytes_max = log.entry_bytes_max / 2;
    options.audit = true;
    options.checkpoint_at_every_stop = true;
    Ok(options)
}
