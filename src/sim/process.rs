//! One node of the world: its data directory, its clock, and its process while it lives.
//!
//! The process is the production server on the simulated seam, opened by the production code from
//! whatever the disk holds.

use super::clock::NodeClock;
use super::host::{Chunk, Port, SimIo};
use super::net::address_of;
use super::plan::{Plan, Stream};
use super::ram::RamDisk;
use super::time::Time;
use super::trace::HostId;
use crate::base::rng::Rng;
use crate::base::{BlockPool, ClusterId, NodeId};
use crate::io::{Event, Net, Wait};
use crate::log::{Log, LogSync};
use crate::node::{Identity, Node, NodeFailure, NodeOptions};
use crate::paxos::Role;
use crate::server::{Server, Turn};
use crate::wire::status::ResourceStatus;

/// The cluster's name in every world.
pub const CLUSTER: &str = "simulated";
/// Returned buffers kept for reuse per node.
const POOL_IDLE_BYTES_MAX: usize = 1 << 20;

/// A process that lives.
pub struct Live {
    /// The production server.
    pub server: Server,
    /// Its seam.
    pub io: SimIo,
    /// The role last seen.
    pub role: Role,
    /// Segments last seen.
    pub segments: u64,
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
    resting: Option<(RamDisk, Port)>,
    /// Until when its process does not run.
    pub frozen_until: Option<Time>,
    /// The next turn and its number, so that one that was replaced is known.
    pub next_turn: Option<(Time, u64)>,
    /// Turns scheduled so far.
    pub turns: u64,
    /// Lives so far.
    pub lives: u64,
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
        let mut disk = RamDisk::default();
        disk.latency = plan.disk_latency;
        let options = options(plan, id, 0);
        Log::format(&mut disk, &options.folder(), &options.log)
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
            events: Vec::new(),
        }
    }

    /// Starts the process from what the disk holds.
    ///
    /// # Errors
    /// When it refuses; it is absent then.
    pub fn start(&mut self, plan: &Plan, now: Time) -> Result<(), NodeFailure> {
        let (disk, mut port) = self.resting.take().expect("only an absent process is started");
        port.reset();
        self.lives += 1;
        let mut io = SimIo::new(disk, port, self.clock.read(now));
        let options = options(plan, self.id, self.lives);
        let pool = options.pool.clone();
        match Node::open(&mut io, options) {
            Ok(node) => {
                let address = address_of(self.host);
                let listening = Net::listen(&mut io, address);
                listening.expect("the simulated network listens where it is told to");
                let server = Server::new(node, pool, self.clock.read(now), no_resources);
                let role = server.node().role();
                let segments = server.node().log_stats().segments;
                self.live = Some(Live { server, io, role, segments });
                Ok(())
            }
            Err(failure) => {
                self.rest(io);
                self.absence = Absence::Refused(failure.to_string());
                Err(failure)
            }
        }
    }

    fn rest(&mut self, io: SimIo) {
        let SimIo { mut disk, port, .. } = io;
        disk.crash();
        self.resting = Some((disk, port));
    }

    /// The process ends, whatever it was doing. Returns whether there was one.
    pub fn end(&mut self, absence: Absence) -> bool {
        let Some(Live { server, io, .. }) = self.live.take() else { return false };
        drop(server);
        self.rest(io);
        self.absence = absence;
        self.frozen_until = None;
        self.next_turn = None;
        true
    }

    /// One turn of the process.
    ///
    /// # Errors
    /// When it must end.
    pub fn turn(&mut self, now: Time) -> Result<(), NodeFailure> {
        let live = self.live.as_mut().expect("only a process that lives takes turns");
        live.io.begin_turn(now, self.clock.read(now));
        let turn = live.server.turn(&mut live.io, Wait::No, &mut self.events)?;
        assert_eq!(turn, Turn::GoOn, "nobody asks a simulated server to stop");
        live.io.end_turn(now);
        Ok(())
    }

    /// When the process wants its next turn although nothing arrives.
    pub fn wants_turn_at(&self, now: Time) -> Option<Time> {
        let live = self.live.as_ref()?;
        let disk = live.io.disk.next_completion();
        let own = match live.server.wait(self.clock.read(now)) {
            Wait::No => now,
            Wait::AtMost(span) => now + self.clock.true_time(span),
        };
        Some(disk.map_or(own, |disk| disk.min(own)))
    }
}

fn options(plan: &Plan, id: NodeId, life: u64) -> NodeOptions {
    let members: Vec<NodeId> = (1..=plan.nodes as u16).map(NodeId).collect();
    let address = |id: NodeId| address_of(HostId(id.0 - 1));
    let identity = Identity {
        cluster_name: CLUSTER.to_owned(),
        cluster: ClusterId::of_name(CLUSTER),
        node: id,
        members: members.iter().map(|id| (*id, address(*id).to_string())).collect(),
        group_count: 1,
    };
    let addresses = members.iter().map(|id| (*id, address(*id))).collect();
    let pool = BlockPool::new(POOL_IDLE_BYTES_MAX);
    let seed = Stream::Node.seed(plan.seed, usize::from(id.0) + 100 * life as usize);
    let mut options = NodeOptions::new(identity, addresses, pool, seed);
    let (core, log) = (&plan.core, &plan.log);
    options.paxos.window_slots_max = core.window_slots_max;
    options.paxos.accept_ahead_slots_max = core.accept_ahead_slots_max;
    options.paxos.fetch_slots_max = core.fetch_slots_max;
    options.paxos.window_bytes_max = core.window_bytes_max;
    options.paxos.retained_bytes_max = core.retained_bytes_max;
    options.paxos.heartbeat_interval = core.heartbeat_interval;
    options.paxos.election_timeout = core.election_timeout;
    options.paxos.resend_timeout = core.resend_timeout;
    options.paxos.disk_stall_timeout = core.disk_stall_timeout;
    options.log.entry_bytes_max = log.entry_bytes_max;
    options.log.segment_bytes = log.segment_bytes;
    options.log.spare_segments = log.spare_segments;
    options.log.mark_idle_after = log.mark_idle_after;
    if log.write_then_fsync {
        options.log.log_sync = LogSync::WriteThenFsync;
    }
    options.cache_bytes_max = plan.cache_bytes_max;
    // Two appends of the largest size always fit one batch.
    options.append_bytes_max = log.entry_bytes_max / 2;
    options.audit = true;
    options
}
