//! What one seed draws: the cluster, its limits, the network, the workload and the faults.
//!
//! Every part has a random stream of its own, so that masking one class of faults or making one
//! size smaller leaves the rest of the plan as it was: that is what lets a failing seed be
//! shrunk.

use std::time::Duration;

use super::counters::{Hit, HitKind};
use super::disk::DiskTiming;
use super::names;
use super::net::NetOptions;
use super::trials;
use crate::base::limits::{BLOCK_SIZE, KIB, MIB};
use crate::base::mutants::Mutant;
use crate::base::rng::Rng;
use crate::log::{FILL_WRITE_BYTES_MAX, SECOND_WRITE_BYTES_MIN, segment_bytes_min};
use crate::machine::SessionLimits;

/// The most replicas of a world.
pub const NODES_MAX: usize = 7;
/// The most clients of a world.
pub const CLIENTS_MAX: usize = 5;

/// Writes of each group that a disk must get done within the time after which a leader takes it for stalled.
const BURST_WRITES_MAX: u32 = 200;

/// The random streams of a world, by what they decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Sizes and limits.
    Plan = 1,
    /// The network's delays and chunks.
    Net,
    /// When which fault strikes whom.
    Faults,
    /// Process start-up and scheduling delays.
    Hosts,
    /// What is left behind and read again: checkpoints, and how starts verify.
    Checkpoints,
    /// How many groups.
    Groups,
    /// Whether nodes are stopped cleanly, and when which.
    Stops,
    /// Whether and when a leader of a newer version proposes.
    Newer,
    /// Whether flows die in silence, and when which.
    Flows,
    /// Whether nodes have names, how look-ups fail, and who moves when.
    Names,
    /// Whether clients leave their sessions, and how small the table of sessions is.
    Sessions,
    /// Whether the world is a trial.
    Trials,
    /// How much is accepted ahead of what is missing.
    Ahead,
    /// The first client's workload; the others follow.
    Client = 0x100,
    /// The first node's disk; the others follow.
    Disk = 0x200,
    /// The first node's own seed; the others follow.
    Node = 0x300,
}

impl Stream {
    /// The seed of the stream's `index`th member.
    pub fn seed(self, seed: u64, index: usize) -> u64 {
        let mut rng = Rng::new(seed ^ (self as u64 + index as u64).wrapping_mul(0x9e37_79b9));
        rng.next_u64()
    }

    /// The generator of the stream.
    pub fn rng(self, seed: u64) -> Rng {
        Rng::new(self.seed(seed, 0))
    }
}

/// A set of fault classes: they come first among all that is counted, which are more than bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSet(u128);

impl FaultSet {
    /// No fault at all.
    pub const NONE: FaultSet = FaultSet(0);

    /// Every fault class.
    pub fn all() -> FaultSet {
        FaultSet::classes().fold(FaultSet::NONE, FaultSet::with)
    }

    fn classes() -> impl Iterator<Item = Hit> {
        Hit::ALL.iter().copied().filter(|hit| hit.kind() == HitKind::Fault)
    }

    /// The set with this class in it.
    pub fn with(self, hit: Hit) -> FaultSet {
        FaultSet(self.0 | 1 << hit as u8)
    }

    /// The set without this class.
    pub fn without(self, hit: Hit) -> FaultSet {
        FaultSet(self.0 & !(1 << hit as u8))
    }

    /// The classes that are in either.
    pub fn union(self, other: FaultSet) -> FaultSet {
        FaultSet(self.0 | other.0)
    }

    /// The classes that are in both.
    pub fn intersection(self, other: FaultSet) -> FaultSet {
        FaultSet(self.0 & other.0)
    }

    /// Whether the class is in the set.
    pub fn has(self, hit: Hit) -> bool {
        self.0 & 1 << hit as u8 != 0
    }

    /// The classes of the set.
    pub fn iter(self) -> impl Iterator<Item = Hit> {
        FaultSet::classes().filter(move |hit| self.has(*hit))
    }
}

/// What a run is asked for, besides its seed: the means of shrinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Faults of other classes are left out.
    pub faults: FaultSet,
    /// At most this many nodes.
    pub nodes_max: usize,
    /// At most this many clients.
    pub clients_max: usize,
    /// Each client invokes at most this many operations in the safety phase.
    pub operations_max: u64,
    /// The nemesis strikes at most this often.
    pub strikes_max: u64,
    /// The bug that is planted; heeded by builds with the feature `mutants` only.
    pub mutant: Option<Mutant>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            faults: FaultSet::all(),
            nodes_max: NODES_MAX,
            clients_max: CLIENTS_MAX,
            operations_max: u64::MAX,
            strikes_max: u64::MAX,
            mutant: None,
        }
    }
}

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Operations in flight per client.
    pub inflight: usize,
    /// The longest pause between an answer and the next operation.
    pub think_max: Duration,
    /// Appends are numbered in sessions that end after this long without one; without, they are
    /// sent again only when they certainly had no effect.
    pub session_timeout: Option<Duration>,
    /// So many appends are made in a session before it is left for another: closed, or forgotten as by a
    /// client that dies.
    pub session_life: Option<u64>,
    /// Logs besides `default`.
    pub logs: usize,
    /// Appends among 100 that want the tail to be where their client saw it.
    pub if_tail_percent: u64,
    /// Appends to one of the logs show tokens.
    pub fenced_log: bool,
    /// Each client follows a log.
    pub follows: bool,
    /// Each client hands the leadership over now and then.
    pub hands_over: bool,
    /// Appends among 100 operations; the rest reads and asks for the tail.
    pub append_percent: u64,
    /// The largest record.
    pub record_bytes_max: usize,
    /// The most records of one append.
    pub records_max: u64,
    /// How long a client waits for an answer.
    pub timeout: Duration,
}

/// The drawn world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Replicas.
    pub nodes: usize,
    /// Groups of each replica.
    pub groups: usize,
    /// Clients; each is one of a group, at least one of every group.
    pub clients: usize,
    /// How long (nearly) everything may fail.
    pub safety: Duration,
    /// The core's windows and timeouts.
    pub core: CorePlan,
    /// The log's sizes.
    pub log: LogPlan,
    /// Bytes of recent slots each node keeps.
    pub cache_bytes_max: usize,
    /// The network.
    pub net: NetOptions,
    /// The nodes know each other by names.
    pub named: bool,
    /// How much longer they take while they are slow.
    pub disk_slow_factor: u32,
    /// How long the disks take.
    pub disk_timing: DiskTiming,
    /// The clients.
    pub workload: Workload,
    /// The bounds of the table of sessions.
    pub session_limits: SessionLimits,
    /// Which faults strike in this world.
    pub faults: FaultSet,
    /// Which faults the seed drew, those included that the limits leave out: strikes choose among
    /// these, so that leaving a class out leaves the other strikes as they were.
    pub drawn: FaultSet,
    /// The mean time between two strikes.
    pub strike_every: Duration,
    /// At most this many strikes.
    pub strikes_max: u64,
    /// At most this many operations per client.
    pub operations_max: u64,
}

/// The core's part of a plan.
#[derive(Clone, Debug)]
pub struct CorePlan {
    /// See `paxos::Config`.
    pub window_slots_max: u64,
    /// See `paxos::Config`.
    pub retained_slots_max: u64,
    /// See `paxos::Config`.
    pub accept_ahead_bytes_max: usize,
    /// See `paxos::Config`.
    pub fetch_slots_max: u64,
    /// See `paxos::Config`.
    pub window_bytes_max: usize,
    /// See `paxos::Config`.
    pub retained_bytes_max: usize,
    /// See `paxos::Config`.
    pub heartbeat_interval: Duration,
    /// See `paxos::Config`.
    pub election_timeout: Duration,
    /// See `paxos::Config`.
    pub resend_timeout: Duration,
    /// See `paxos::Config`.
    pub disk_stall_timeout: Duration,
    /// See `paxos::Config`.
    pub lease: Duration,
    /// See `paxos::Config`.
    pub clock_drift_ppm_max: u32,
}

/// The log's part of a plan.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// The largest entry in bytes.
    pub entry_bytes_max: usize,
    /// The size of a segment in bytes.
    pub segment_bytes: u64,
    /// Segments prepared ahead.
    pub spare_segments: usize,
    /// Segments that are there from the beginning, in each group.
    pub preallocated_segments: u64,
    /// Write and flush apart, instead of durable writes.
    pub write_then_fsync: bool,
    /// See `log::LogOptions`.
    pub second_write_bytes_min: usize,
    /// See `log::LogOptions`.
    pub fill_write_bytes_max: usize,
    /// See `log::LogOptions`.
    pub mark_idle_after: Option<Duration>,
    /// See `log::LogOptions`.
    pub checkpoint_bytes_min: Option<u64>,
    /// See `log::LogOptions`.
    pub checkpoint_factor: u64,
    /// See `log::LogOptions`.
    pub verify_at_start: bool,
    /// Segments filled ahead while nothing is appended, in each group.
    pub fill_ahead_segments: u64,
}

/// Draws one of the values.
fn pick<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.below(values.len() as u64) as usize]
}

fn millis(rng: &mut Rng, low: u64, high: u64) -> Duration {
    rng.between(Duration::from_millis(low), Duration::from_millis(high))
}

impl Plan {
    /// Draws the world of a seed, within the limits.
    pub fn draw(seed: u64, limits: &Limits) -> Plan {
        let rng = &mut Stream::Plan.rng(seed);
        let nodes = pick(rng, &[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 7]);
        let clients = 1 + rng.below(CLIENTS_MAX as u64) as usize;
        let groups = pick(&mut Stream::Groups.rng(seed), &[1, 1, 1, 1, 2, 2, 3]);
        let groups = groups.min(limits.clients_max);
        let clients = clients.max(groups);
        let safety = millis(rng, 2_000, 12_000);
        let core = CorePlan::draw(rng, &mut Stream::Ahead.rng(seed));
        let log = LogPlan::draw(rng, &mut Stream::Checkpoints.rng(seed));
        let operations = pick(rng, &[100, 300, 1000, 2500]);
        let mut workload = Workload::draw(rng, &log, safety, operations);
        let mut net = draw_net(rng);
        // What the clients keep under way must pass a connection in a part of an election timeout:
        // heartbeats go behind it, and a slower network than that has no stable leader.
        let appends = clients * workload.inflight * (log.entry_bytes_max / 2);
        let under_way = appends.min(core.window_bytes_max + log.entry_bytes_max) as u128;
        let share = (core.election_timeout / 8).as_nanos();
        let needed = under_way * net.latency_max.as_nanos() / share;
        net.capacity = net.capacity.max(needed as usize);
        let cache_bytes_max = pick(rng, &[4 * KIB, 64 * KIB, MIB, 8 * MIB]);
        let disk_timing = draw_disk(rng);
        let disk_slow_factor = pick(rng, &[20, 100, 1000, 20_000]);
        let drawn = draw_faults(rng).union(draw_stops(seed)).union(draw_newer(seed));
        let drawn = drawn.union(draw_flows(seed));
        let (named, of_names) = draw_names(seed);
        let drawn = drawn.union(of_names);
        let sessions = &mut Stream::Sessions.rng(seed);
        let mut session_limits = SessionLimits::default();
        let mut drawn = drawn;
        if workload.session_timeout.is_some() && sessions.below(3) == 0 {
            drawn = drawn.with(Hit::ShortLivedClients);
            if limits.faults.has(Hit::ShortLivedClients) {
                session_limits = workload.draw_short_lives(sessions, clients as u64);
            }
        }
        // A leader gives way when its oldest write is late, and a new one starts by writing again
        // all that was under way: no leader lasts whose disk needs longer for that.
        let mut core = core;
        let (write, flush) = (disk_timing.write.1, disk_timing.flush.1);
        let burst = BURST_WRITES_MAX * groups as u32;
        core.disk_stall_timeout = core.disk_stall_timeout.max((write + flush) * burst);
        let mut plan = Plan {
            seed,
            nodes: nodes.min(limits.nodes_max),
            groups,
            clients: clients.min(limits.clients_max),
            safety,
            core,
            log,
            cache_bytes_max,
            net,
            named,
            disk_timing,
            disk_slow_factor,
            workload,
            session_limits,
            faults: drawn.intersection(limits.faults),
            drawn,
            strike_every: millis(rng, 40, 700),
            strikes_max: limits.strikes_max,
            operations_max: limits.operations_max.min(operations),
        };
        if let Some(class) = trials::class_of(seed) {
            trials::shape(&mut plan, class, limits);
        }
        plan
    }
}

impl CorePlan {
    fn draw(rng: &mut Rng, ahead: &mut Rng) -> CorePlan {
        let window_slots_max = pick(rng, &[1, 2, 4, 16, 256]);
        let election_timeout = millis(rng, 100, 800);
        CorePlan {
            window_slots_max,
            retained_slots_max: window_slots_max * pick(rng, &[1, 2, 4, 16]),
            accept_ahead_bytes_max: pick(ahead, &[8 * KIB, 256 * KIB, 32 * MIB, 32 * MIB]),
            fetch_slots_max: pick(rng, &[1, 3, 16, 512]),
            window_bytes_max: pick(rng, &[8 * KIB, 256 * KIB, 16 * MIB]),
            retained_bytes_max: pick(rng, &[8 * KIB, 256 * KIB, 32 * MIB]),
            heartbeat_interval: election_timeout / pick(rng, &[3, 5, 8]),
            election_timeout,
            resend_timeout: election_timeout * pick(rng, &[1, 2]),
            disk_stall_timeout: election_timeout * pick(rng, &[1, 3, 5]),
            lease: pick(rng, &[0, 60, 250, 1000].map(Duration::from_millis)),
            clock_drift_ppm_max: pick(rng, &[0, 1000, 100_000]),
        }
    }
}

impl LogPlan {
    fn draw(rng: &mut Rng, checkpoints: &mut Rng) -> LogPlan {
        let blocks = pick(rng, &[4, 8, 16, 64]);
        let entry_bytes_max = blocks * BLOCK_SIZE;
        // One entry at the least; mostly a few dozen.
        let extra = pick(rng, &[0, 2, 6, 12, 30, 60, 100, 400]);
        LogPlan {
            entry_bytes_max,
            segment_bytes: segment_bytes_min(entry_bytes_max) + (extra * BLOCK_SIZE) as u64,
            spare_segments: pick(rng, &[1, 1, 2, 3]),
            preallocated_segments: pick(checkpoints, &[0, 0, 0, 1, 2, 5]),
            write_then_fsync: rng.below(3) == 0,
            second_write_bytes_min: pick(rng, &[0, 0, 8 * KIB, SECOND_WRITE_BYTES_MIN]),
            mark_idle_after: match rng.below(4) {
                0 => None,
                _ => Some(millis(rng, 50, 1_500)),
            },
            fill_write_bytes_max: pick(rng, &[0, 8 * KIB, FILL_WRITE_BYTES_MAX]),
            checkpoint_bytes_min: match checkpoints.below(8) {
                0 => None,
                _ => Some(pick(checkpoints, &[8 * KIB, 32 * KIB, 128 * KIB, 512 * KIB]) as u64),
            },
            checkpoint_factor: pick(checkpoints, &[1, 1, 4, 20]),
            verify_at_start: checkpoints.below(8) == 0,
            fill_ahead_segments: pick(checkpoints, &[0, 0, 2, 4, 8]),
        }
    }
}

/// Bytes of records that a client with a session has in flight.
const OPEN_BYTES_MAX: usize = 128 * KIB;

impl Workload {
    fn draw(rng: &mut Rng, log: &LogPlan, safety: Duration, operations: u64) -> Workload {
        let record_bytes_max = pick(rng, &[32, 200, 1000, 4000, 12_000]);
        let records_max = pick(rng, &[1, 1, 3, 10]);
        // One append must fit an entry with room to spare.
        let room = log.entry_bytes_max / 2;
        let inflight = pick(rng, &[1, 2, 8, 8, 24, 60, 200]);
        // Spread over the safety phase, or all in bursts.
        let spread = safety * (2 * inflight as u32) / operations as u32;
        let record_bytes_max = record_bytes_max.min(room / records_max as usize - 8);
        let session_timeout = pick(rng, &[1, 2, 5, 20].map(Duration::from_secs));
        let session_timeout = (rng.below(4) > 0).then_some(session_timeout);
        // What stays in flight until it is answered must be answered within a client's patience by
        // the slowest of disks; without sessions a client that hangs up takes it all back.
        let append_bytes = record_bytes_max * records_max as usize;
        let inflight = match session_timeout {
            Some(_) => inflight.min((OPEN_BYTES_MAX / append_bytes).max(1)),
            None => inflight,
        };
        Workload {
            inflight,
            session_timeout,
            session_life: None,
            logs: pick(rng, &[0, 0, 1, 2, 5]),
            if_tail_percent: pick(rng, &[0, 0, 5, 30]),
            fenced_log: rng.below(3) == 0,
            follows: rng.below(2) == 0,
            hands_over: rng.below(4) == 0,
            think_max: pick(rng, &[spread, spread, spread / 4, Duration::ZERO]),
            append_percent: pick(rng, &[100, 80, 50, 50, 10]),
            record_bytes_max,
            records_max,
            timeout: pick(rng, &[300, 1000, 3000].map(Duration::from_millis)),
        }
    }
}

impl Workload {
    /// Appends on their way in one session, at most: room for voids, which hold their numbers until they
    /// are answered.
    pub fn session_window(&self) -> u32 {
        2 * self.inflight as u32 + 4
    }

    /// Has clients leave their sessions, and draws a table that hardly holds them: those of all clients
    /// always fit in, those that were left behind as well or not.
    fn draw_short_lives(&mut self, rng: &mut Rng, clients: u64) -> SessionLimits {
        self.session_life = Some(pick(rng, &[1, 1, 3, 10]));
        self.session_timeout = Some(pick(rng, &[1, 1, 2, 4].map(Duration::from_secs)));
        let sessions_max = (clients + 1 + rng.below(6)) as usize;
        let held = u64::from(self.session_window()) * (clients + 1);
        SessionLimits { sessions_max, results_max: held * 2 }
    }
}

fn draw_net(rng: &mut Rng) -> NetOptions {
    let latency_min = pick(rng, &[10, 50, 500].map(Duration::from_micros));
    let factor = pick(rng, &[2, 10, 40]);
    NetOptions {
        latency_min,
        latency_max: latency_min * factor,
        chunk_max: pick(rng, &[61, 512, 1448, 32 * KIB, 256 * KIB]),
        capacity: pick(rng, &[2 * KIB, 64 * KIB, MIB]),
        send_timeout: pick(rng, &[1000, 4000, 10_000].map(Duration::from_millis)),
        loss_ppm: pick(rng, &[0, 0, 100, 3_000, 30_000]),
        refuse_ppm: pick(rng, &[0, 0, 10_000, 200_000]),
    }
}

/// As measured, or much slower, with more or fewer stragglers.
fn draw_disk(rng: &mut Rng) -> DiskTiming {
    let slower = pick(rng, &[1, 1, 1, 1, 5, 5, 30, 300]);
    let stretch = |(low, high): (Duration, Duration)| (low, high * slower);
    let measured = DiskTiming::MEASURED;
    DiskTiming {
        read: stretch(measured.read),
        write: stretch(measured.write),
        flush: stretch(measured.flush),
        name: stretch(measured.name),
        bytes_per_s: pick(rng, &[1_000_000_000, 20_000_000]),
        stragglers: pick(rng, &[0, 10_000, 100_000]),
    }
}

/// Whether nodes are stopped cleanly: in half of the worlds, those without any other fault included.
fn draw_stops(seed: u64) -> FaultSet {
    match Stream::Stops.rng(seed).below(2) {
        0 => FaultSet::NONE,
        _ => FaultSet::NONE.with(Hit::StoppedCleanly),
    }
}

/// Whether a leader proposes what nobody knows: such a world never gets to its healing, so in few.
fn draw_newer(seed: u64) -> FaultSet {
    match Stream::Newer.rng(seed).below(8) {
        0 => FaultSet::NONE.with(Hit::NewerCommand),
        _ => FaultSet::NONE,
    }
}

/// Whether the nodes have names, in half of the worlds, and how those let them down.
fn draw_names(seed: u64) -> (bool, FaultSet) {
    let rng = &mut Stream::Names.rng(seed);
    match rng.below(2) {
        0 => (false, FaultSet::NONE),
        _ => (true, names::draw_faults(rng)),
    }
}

/// Whether flows die in silence: in half of the worlds, those without any other fault included.
fn draw_flows(seed: u64) -> FaultSet {
    match Stream::Flows.rng(seed).below(2) {
        0 => FaultSet::NONE,
        _ => FaultSet::NONE.with(Hit::FlowSilenced),
    }
}

/// Each class is in about half of the worlds, and some worlds have none or all. Whoever is not
/// healed may stay broken in any way.
fn draw_faults(rng: &mut Rng) -> FaultSet {
    let mode = rng.below(12);
    let mut drawn = FaultSet::NONE;
    let own_streams = [
        Hit::StoppedCleanly,
        Hit::NewerCommand,
        Hit::FlowSilenced,
        Hit::NodeMoved,
        Hit::LookupFailed,
        Hit::LookupHangs,
        Hit::LookupWrong,
        Hit::ShortLivedClients,
        Hit::LeaderDiskSlow,
        Hit::AllDisksFull,
    ];
    for hit in own_streams.into_iter().fold(FaultSet::all(), FaultSet::without).iter() {
        let coin = rng.below(100);
        let chance = match mode {
            0 => 0,
            1 => 100,
            _ if hit.is_for_good() => 100,
            2..=4 => 20,
            _ => 50,
        };
        if coin < chance {
            drawn = drawn.with(hit);
        }
    }
    drawn
}
