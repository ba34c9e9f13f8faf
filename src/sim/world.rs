//! The world of one seed: nodes, clients, network and faults on one queue of happenings.
//!
//! One thread, one seed. [`World::step`] takes the next happening and lets it happen; everything
//! that follows is scheduled. The judge hears of everything that nodes apply, send and recover
//! and that clients are answered, and the first violation ends the run.

use std::time::Duration;

use super::checks::bounds::Bounds;
use super::checks::{Judge, Violation, links};
use super::client::{Around, SimClient};
use super::counters::{Counters, Hit};
use super::disk_faults::{draw_damageable, trouble};
use super::flows::Flows;
use super::founding::{FIRST_INIT, Foundings};
use super::history::History;
use super::host::NetCommand;
use super::names::moves;
use super::nemesis::{Nemesis, Undo};
use super::net::{Delivery, NetHappening, Network};
use super::newer::{self, Newer};
use super::phases::Phase;
use super::plan::{Plan, Stream};
use super::process::{Absence, CLUSTER, Process, Served, markers};
use super::time::{Schedule, Time};
use super::trace::{HostId, Trace, digest};
use super::trials;
use crate::base::rng::Rng;
use crate::base::{Ballot, ClusterDigest, GroupId, Instant, LogId, NodeId, Slot};
use crate::io::{Event, SendPart};
use crate::log::LogError;
use crate::node::{AppliedSlot, NodeFailure, RecoveredState};
use crate::paxos::{Granted, Role};

/// What waits in the queue.
#[derive(Debug)]
pub enum Happening {
    /// The turn of a node with this number, if it has not been replaced.
    Turn(usize, u64),
    /// A client looks around.
    Client(usize, u64),
    /// Something in the network.
    Net(NetHappening),
    /// A node is started, if it is not there.
    Start(usize),
    /// The nemesis strikes.
    Strike,
    /// Somebody has a node found the cluster.
    Init,
    /// The nemesis has a node stopped cleanly.
    CleanStop,
    /// See `newer`.
    Newer,
    /// A node moves to another address.
    MoveNode,
    /// Flows die in silence.
    SilenceFlows,
    /// What becomes of those is looked at.
    LookAtFlows,
    /// A trial begins or is judged.
    Trial,
    /// A fault ends.
    Undo(Undo),
    /// A phase ends, or is looked at.
    Phase,
}

/// One cluster with its clients and its faults.
pub struct World {
    /// What the seed drew.
    pub plan: Plan,
    pub(super) queue: Schedule<Happening>,
    pub(super) processes: Vec<Process>,
    pub(super) clients: Vec<SimClient>,
    /// Of each client: when it looks around next, and that turn's number.
    client_turns: Vec<(Time, u64)>,
    pub(super) net: Network,
    pub(super) nemesis: Nemesis,
    pub(super) flows: Flows,
    /// When who moves.
    pub(super) moves: Rng,
    pub(super) phase: Phase,
    /// What the clients of each group saw.
    pub(super) histories: Vec<History>,
    /// By group.
    pub(super) judges: Vec<Judge>,
    bounds: Bounds,
    /// What was hit.
    pub hits: Counters,
    /// The run's trace.
    pub trace: Trace,
    pub(super) rng: Rng,
    pub(super) damageable: Vec<bool>,
    pub(super) foundings: Foundings,
    /// Since when some clock has not kept to what leases assume.
    pub(super) clocks_broken_at: Option<Time>,
    steps: u64,
    /// How long after the healing progress was complete.
    pub progress_after: Option<Duration>,
    pub(super) newer: Newer,
    pub(super) applied: Vec<AppliedSlot>,
    scratch: Vec<u8>,
}

/// From an event's arrival to the turn that handles it: the time to wake a thread.
const WAKE_MIN: Duration = Duration::from_micros(2);
const WAKE_MAX: Duration = Duration::from_micros(60);
/// The most happenings of one run: the busiest worlds need a tenth of it.
const STEPS_MAX: u64 = 40_000_000;
/// The longest that a node stays away that has stopped by itself.
pub(super) const RESTART_MAX: Duration = Duration::from_secs(2);

impl World {
    /// The world that the plan describes, before anything has happened.
    pub fn new(plan: Plan) -> World {
        let seed = plan.seed;
        let mut rng = Stream::Hosts.rng(seed);
        let hosts = plan.nodes + plan.clients;
        let damageable = draw_damageable(plan.nodes, &mut rng);
        let processes: Vec<Process> =
            (0..plan.nodes).map(|index| Process::new(&plan, index, &mut rng)).collect();
        let cluster = ClusterDigest::of_name(CLUSTER);
        let in_sessions = plan.workload.session_timeout.is_some();
        let mut clients: Vec<SimClient> = (0..plan.clients)
            .map(|index| {
                let host = HostId((plan.nodes + index) as u16);
                let seed = Stream::Client.seed(seed, index);
                let workload = plan.workload.clone();
                let operations = plan.operations_max;
                let place = (cluster, GroupId((index % plan.groups) as u16));
                let counts = (plan.nodes, plan.groups as u16);
                SimClient::new(index, host, place, counts, workload, operations, seed)
            })
            .collect();
        trials::set_readers(&plan, &mut clients);
        let mut queue = Schedule::default();
        for node in 0..plan.nodes {
            let delay = rng.between(Duration::ZERO, Duration::from_millis(50));
            queue.after(delay, Happening::Start(node));
        }
        queue.after(FIRST_INIT, Happening::Init);
        let names = Stream::Names.seed(seed, 2);
        let mut net =
            Network::new(plan.net.clone(), plan.nodes, hosts, Stream::Net.seed(seed, 0), names);
        net.names.set_faults(plan.faults);
        World {
            net,
            nemesis: Nemesis::new(&plan),
            flows: Flows::new(&plan),
            moves: moves(&plan),
            phase: Phase::Safety,
            histories: vec![History { in_sessions, ..History::default() }; plan.groups],
            judges: (0..plan.groups).map(|_| Judge::new(plan.nodes, plan.session_limits)).collect(),
            bounds: Bounds::of(&plan),
            hits: Counters::default(),
            trace: Trace::new(hosts),
            client_turns: vec![(Time::default(), 0); plan.clients],
            queue,
            processes,
            clients,
            damageable,
            foundings: Foundings::new(&plan),
            clocks_broken_at: None,
            rng,
            steps: 0,
            progress_after: None,
            newer: Newer::default(),
            applied: Vec::new(),
            scratch: Vec::new(),
            plan,
        }
    }

    /// The cluster is founded: clients come, and the nemesis.
    pub(super) fn begin(&mut self) {
        for client in 0..self.plan.clients {
            self.queue.after(Duration::from_millis(1), Happening::Client(client, 0));
        }
        self.queue.after(self.plan.strike_every, Happening::Strike);
        if self.plan.drawn.union(self.plan.faults).has(Hit::StoppedCleanly) {
            self.queue.after(self.plan.strike_every, Happening::CleanStop);
        }
        if self.plan.drawn.union(self.plan.faults).has(Hit::FlowSilenced) {
            self.queue.after(self.plan.strike_every, Happening::SilenceFlows);
        }
        if self.plan.drawn.union(self.plan.faults).has(Hit::NodeMoved) {
            self.queue.after(self.plan.strike_every, Happening::MoveNode);
        }
        self.queue.after(trials::begins_after(&self.plan), Happening::Trial);
        self.queue.after(self.plan.safety, Happening::Phase);
        self.schedule_newer();
    }

    /// The world's time.
    pub fn now(&self) -> Time {
        self.queue.now()
    }

    /// Slots chosen so far.
    pub fn slots(&self) -> usize {
        self.judges.iter().map(Judge::slots).sum()
    }

    /// Operations of clients so far.
    pub fn operations(&self) -> usize {
        self.histories.iter().map(|history| history.operations.len()).sum()
    }

    /// What the clients of all groups saw, with the logs' numbers as clients know them.
    pub fn take_history(&mut self) -> History {
        let mut whole =
            History { in_sessions: self.histories[0].in_sessions, ..History::default() };
        for (group, history) in (0..).map(GroupId).zip(&mut self.histories) {
            for mut operation in history.operations.drain(..) {
                operation.log = LogId::of_group(group, operation.log);
                whole.operations.push(operation);
            }
        }
        whole.operations.sort_by_key(|operation| operation.invoked);
        whole
    }

    /// The group of a client.
    fn group_of(&self, client: usize) -> usize {
        client % self.plan.groups
    }

    /// Adds what the disks have counted to the hits; once, at the end.
    pub fn count_disks(&mut self) {
        for process in &self.processes {
            for (name, count) in process.disk().counters().iter() {
                self.hits.add_disk(name, count);
            }
        }
        self.hits.merge(&std::mem::take(&mut self.net.lookup_hits));
    }

    /// Whether the run has reached its end.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Lets the next happening happen.
    ///
    /// # Errors
    /// The first violation: the world is of no more use but to be looked at.
    pub fn step(&mut self) -> Result<(), Violation> {
        let _span = tracing::debug_span!("world", now = %self.now()).entered();
        let Some(happening) = self.queue.pop() else {
            return Err(Violation::new("liveness", "nothing will ever happen again"));
        };
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Violation::new("bounds", format!("{STEPS_MAX} happenings are no end")));
        }
        match happening {
            Happening::Turn(node, number) => self.turn(node, number)?,
            Happening::Client(client, number) => self.client_turn(client, number)?,
            Happening::Net(happening) => {
                self.net.happen(&mut self.queue, happening, &mut self.hits);
            }
            Happening::Start(node) => self.start(node)?,
            Happening::Strike => self.strike()?,
            Happening::Init => self.init()?,
            Happening::CleanStop => self.strike_stop(),
            Happening::Newer => self.strike_newer()?,
            Happening::MoveNode => self.strike_move(),
            Happening::SilenceFlows => self.strike_flows(),
            Happening::LookAtFlows => self.look_at_flows()?,
            Happening::Trial => self.trial()?,
            Happening::Undo(undo) => self.undo(undo)?,
            Happening::Phase => self.end_phase()?,
        }
        self.deliver()
    }

    // ---- nodes ------------------------------------------------------------------------------

    /// Starts a node that is not there.
    pub(super) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now();
        let process = &mut self.processes[node];
        if process.live.is_some() || process.absence == Absence::Evicted {
            return Ok(());
        }
        let (id, host) = (process.id, process.host);
        self.net.light(&mut self.queue, host);
        let result = process.start(&self.plan, now, &mut self.rng);
        let marked = process.marked_at_start.iter().filter(|marked| **marked).count();
        self.hits.add(Hit::StartMarked, marked as u64);
        self.trace.note(now, host, "start", [process.lives, u64::from(result.is_ok()), 0]);
        match result {
            Err(absence) if newer::slot_of(&absence).is_some() => {
                self.processes[node].stopped_at.fill(Slot::NONE);
                let slot = newer::slot_of(&absence).expect("asked in the line above");
                self.stopped_for_newer(node, slot)
            }
            Err(absence) => {
                let why = format!("{absence:?}");
                self.hits.hit(Hit::OpenRefused);
                // What made it refuse may have cost it a checkpoint as well.
                self.processes[node].stopped_at.fill(Slot::NONE);
                self.refused(node, &why)
            }
            Ok(()) if self.processes[node].impostor.is_some() => {
                self.impostor_started(node);
                self.net.set_listening(host, true);
                self.schedule_turn(node, now);
                Ok(())
            }
            Ok(()) => {
                let process = &mut self.processes[node];
                let (life, has_lied) = (process.lives, process.has_lied);
                let live = process.live.as_mut().expect("it has just started");
                let recovered = |served: &Served| served.server.node().recovered().clone();
                let found: Vec<RecoveredState> = live.groups.iter().map(recovered).collect();
                let damaged = process.damaged;
                // What cannot be read may be damaged: a disk that fails reads costs the vote as well.
                // And the record of a loss stays until it is made good.
                let is_sound = !damaged
                    && !self.judges.iter().any(|judge| judge.promises.is_voteless(id))
                    && trouble(&live.io.disk) == process.trouble_before;
                for (group, found) in found.iter().enumerate() {
                    self.hits.add(Hit::StartedVoteless, u64::from(!found.votes));
                    if !found.votes && is_sound {
                        let text = format!("node {id} starts without a vote on a sound disk");
                        return Err(Violation::new("recovery", text));
                    }
                    if !found.votes {
                        // It has cut what was damaged.
                        self.processes[node].damage_at_start[group] = None;
                    }
                }
                self.opened_under_marker(node)?;
                let acknowledged = &mut self.processes[node].durable_entries;
                let misses = |((judge, found), durable): ((&Judge, &RecoveredState), &u64)| {
                    let forgets = damaged && !judge.holds_told(id, found);
                    forgets || found.votes && found.entries < *durable
                };
                if self.judges.iter().zip(&found).zip(&*acknowledged).any(misses) {
                    if !has_lied {
                        let text = format!(
                            "node {id} goes on over a loss (of {acknowledged:?}): {found:?}"
                        );
                        return Err(Violation::new("recovery", text));
                    }
                    // Nothing on the disk tells that something is missing: see `disk_faults`.
                    self.hits.hit(Hit::DiskLied);
                    self.net.power_lost(&mut self.queue, host);
                    self.processes[node].end(Absence::Evicted, true, &mut self.rng);
                    return Ok(());
                }
                *acknowledged = found.iter().map(|found| found.entries).collect();
                self.hits.add(Hit::DamageSurvived, u64::from(damaged));
                self.hits.add(Hit::Reopened, u64::from(life > 1));
                for (judge, found) in self.judges.iter_mut().zip(&found) {
                    judge.recovered(id, found, &mut self.hits)?;
                    self.hits.add(Hit::TornTailCut, u64::from(found.torn_bytes > 0));
                    self.hits.add(Hit::VoteMended, u64::from(found.vote_repaired));
                    self.hits.add(Hit::FooterDamaged, u64::from(found.footers_damaged));
                    self.hits.add(Hit::AcceptedRecovered, found.accepted.len() as u64);
                    self.hits.add(Hit::CheckpointUsed, u64::from(found.checkpoint.0 > Slot::NONE));
                }
                self.started_after_stop(node, &found)?;
                self.founding_survives(node)?;
                self.net.set_listening(host, true);
                self.collect(node)?;
                self.schedule_turn(node, now);
                Ok(())
            }
        }
    }

    /// A node that has found damage while it ran opens again only when nothing is damaged.
    fn opened_under_marker(&mut self, node: usize) -> Result<(), Violation> {
        let process = &self.processes[node];
        let left = markers(process.disk(), self.plan.groups);
        for (group, left) in left.into_iter().enumerate() {
            if !process.marked_at_start[group] {
                continue;
            }
            if let Some(damage) = &process.damage_at_start[group] {
                let id = process.id;
                let text = format!("node {id} had found damage, and opens over it: {damage}");
                return Err(Violation::new("marker", text));
            }
            self.hits.add(Hit::MarkerCleared, u64::from(!left));
        }
        Ok(())
    }

    /// A node that refuses what it finds is right only if that has been damaged.
    fn refused(&mut self, node: usize, why: &str) -> Result<(), Violation> {
        let process = &self.processes[node];
        if process.damaged {
            self.hits.hit(Hit::DamageFound);
            return Ok(());
        }
        if trouble(process.disk()) > process.trouble_before {
            // The next start may find a disk that works.
            let delay = self.rng.between(Duration::ZERO, RESTART_MAX);
            self.queue.after(delay, Happening::Start(node));
            return Ok(());
        }
        let id = process.id;
        let text = format!("node {id} refuses an undamaged disk: {why}");
        Err(Violation::new("recovery", text))
    }

    /// Lets a node take a turn at `at`, unless one comes earlier.
    pub(super) fn schedule_turn(&mut self, node: usize, at: Time) {
        let process = &mut self.processes[node];
        if process.live.is_none() {
            return;
        }
        let at = process.frozen_until.map_or(at, |until| at.max(until));
        if process.next_turn.is_none_or(|(planned, _)| at < planned) {
            process.turns += 1;
            process.next_turn = Some((at, process.turns));
            self.queue.at(at, Happening::Turn(node, process.turns));
        }
    }

    fn turn(&mut self, node: usize, number: u64) -> Result<(), Violation> {
        let now = self.now();
        let process = &mut self.processes[node];
        if process.next_turn.is_none_or(|(_, planned)| planned != number) {
            return Ok(());
        }
        process.next_turn = None;
        if let Some(until) = process.frozen_until.filter(|until| *until > now) {
            self.schedule_turn(node, until);
            return Ok(());
        }
        let host = process.host;
        match process.turn(now) {
            Ok(()) => {
                if self.processes[node].impostor.is_some() {
                    self.watch_impostor(node)?;
                    self.carry_out_impostor(node);
                } else {
                    self.collect(node)?;
                    self.watch_founding(node)?;
                    self.carry_out(node)?;
                }
                if self.processes[node].has_stopped() {
                    return self.stopped(node);
                }
                let wanted = self.processes[node].wants_turn_at(now);
                let wanted = wanted.expect("it lives").max(now + WAKE_MIN);
                self.schedule_turn(node, wanted);
                Ok(())
            }
            Err(failure) => {
                self.trace.note(now, host, "failed", [0; 3]);
                self.net.process_ended(&mut self.queue, host);
                let absence = match failure {
                    NodeFailure::NewerVersion { slot, .. } => Absence::NeedsNewer(slot),
                    _ => Absence::DiskFailed(failure.to_string()),
                };
                let newer = newer::slot_of(&absence);
                self.processes[node].end(absence, false, &mut self.rng);
                if let Some(slot) = newer {
                    return self.stopped_for_newer(node, slot);
                }
                self.hits.hit(Hit::DiskFailed);
                self.judge_failure(node, &failure)
            }
        }
    }

    fn judge_failure(&mut self, node: usize, failure: &NodeFailure) -> Result<(), Violation> {
        let process = &mut self.processes[node];
        if process.damaged && matches!(failure, NodeFailure::Open(LogError::Corrupt(_))) {
            // The scrub has found what a start that reads everything would have refused.
            process.absence = Absence::Refused(failure.to_string());
            self.hits.hit(Hit::ScrubFoundDamage);
            self.hits.hit(Hit::DamageFound);
            let marked = markers(process.disk(), self.plan.groups).contains(&true);
            self.hits.add(Hit::MarkerLeft, u64::from(marked));
            if !marked && trouble(process.disk()) == process.trouble_before {
                let text = format!("node {} leaves no marker of {failure}", process.id);
                return Err(Violation::new("marker", text));
            }
            // As a supervisor would.
            let delay = self.rng.between(Duration::ZERO, RESTART_MAX);
            self.queue.after(delay, Happening::Start(node));
            return Ok(());
        }
        if process.damaged || trouble(process.disk()) > process.trouble_before {
            let delay = self.rng.between(Duration::ZERO, RESTART_MAX);
            self.queue.after(delay, Happening::Start(node));
            return Ok(());
        }
        let id = process.id;
        let text = format!("node {id} stops although its disk is sound: {failure}");
        Err(Violation::new("recovery", text))
    }

    /// Hands what the node did to the judges.
    fn collect(&mut self, node: usize) -> Result<(), Violation> {
        (0..self.plan.groups).try_for_each(|group| self.collect_group(node, group))
    }

    fn collect_group(&mut self, node: usize, group: usize) -> Result<(), Violation> {
        let now = self.now();
        let process = &mut self.processes[node];
        let (id, host) = (process.id, process.host);
        let live = process.live.as_mut().expect("only a node that lives is looked at");
        let handed_over = std::mem::take(&mut live.io.handed_over);
        self.hits.add(Hit::ConnectionHandedOver, handed_over);
        let (served, judge) = (&mut live.groups[group], &mut self.judges[group]);
        let newer = &self.newer;
        served.server.node_mut().take_applied(&mut self.applied);
        for applied in &self.applied {
            newer.check(group, applied)?;
        }
        for applied in self.applied.drain(..) {
            let records = u64::from(applied.placement.records());
            let numbers = [applied.slot.0, applied.ballot.round, records];
            self.trace.note(now, host, "applied", numbers);
            judge.applied(id, &applied, &self.histories[group], &mut self.hits)?;
        }
        let marks = served.server.node().watermarks();
        judge.watermarks.check(id, marks)?;
        links::check(id, served.server.node())?;
        let gauges = served.server.gauges();
        self.bounds.check(id, &gauges)?;
        let sessions = served.server.node().sessions_status();
        let before = std::mem::replace(&mut served.sessions, sessions);
        for (hit, count) in [
            (Hit::SessionFound, sessions.found - before.found),
            (Hit::SessionRefused, sessions.refused - before.refused),
            (Hit::SessionExpired, sessions.expired - before.expired),
            (Hit::SessionEvicted, sessions.evicted - before.evicted),
            (Hit::SessionRepeated, sessions.repeated - before.repeated),
            (Hit::SessionForgotten, sessions.forgotten - before.forgotten),
        ] {
            self.hits.add(hit, count);
        }
        self.hits.add(Hit::BackPressure, u64::from(gauges.stalled_clients > 0));
        self.hits.add(Hit::ReadFromDisk, u64::from(gauges.disk_reads > 0));
        let stats = served.server.node().log_stats();
        self.hits.add(Hit::SegmentRolled, stats.segments.saturating_sub(served.segments));
        self.hits.add(Hit::CheckpointWritten, stats.checkpoints - served.checkpoints);
        let scrubbed = stats.verified_segments - served.verified;
        self.hits.add(Hit::SegmentScrubbed, scrubbed);
        process.durable_entries[group] = stats.durable_entry;
        served.segments = stats.segments;
        (served.checkpoints, served.verified) = (stats.checkpoints, stats.verified_segments);
        if stats.unverified_segments == 0 && process.damaged {
            if let Some(damage) = process.damage_at_start[group].take() {
                let text = format!("node {id} runs, and says that all is verified, over {damage}");
                return Err(Violation::new("scrub", text));
            }
            self.hits.add(Hit::ScrubChecked, u64::from(scrubbed > 0));
        }
        let server = &served.server;
        let (granted, lease) = (server.node().granted(), server.node().lease_until());
        let role = server.node().role();
        if role != served.role {
            let before = std::mem::replace(&mut served.role, role);
            let number = match role {
                Role::Follower { leader } => leader.map_or(0, |id| u64::from(id.0)),
                Role::Candidate => 100,
                Role::Leader => 101,
            };
            self.trace.note(now, host, "role", [number, marks.promised.round, marks.chosen.0]);
            self.hits.add(Hit::Elected, u64::from(role == Role::Leader));
            if role == Role::Leader {
                self.nemesis.trial.elected();
            }
            self.hits.add(Hit::SteppedDown, u64::from(before == Role::Leader));
            let failed = before == Role::Candidate && role != Role::Leader;
            self.hits.add(Hit::CandidateFailed, u64::from(failed));
        }
        self.check_leases(group, id, granted, lease.map(|until| (marks.promised, until)))
    }

    fn check_leases(
        &mut self,
        group: usize,
        id: NodeId,
        granted: Option<Granted>,
        held: Option<(Ballot, Instant)>,
    ) -> Result<(), Violation> {
        if self.clocks_broken_at.is_some() {
            return Ok(());
        }
        let (now, processes) = (self.queue.now(), &self.processes);
        let clock = |id: NodeId| processes[usize::from(id.0) - 1].clock.read(now);
        let leases = &mut self.judges[group].promises.leases;
        if let Some(granted) = granted {
            leases.granted(id, granted, &clock);
        }
        match held.filter(|(_, until)| clock(id) < *until) {
            Some((ballot, _)) => leases.held(id, ballot, &clock, &mut self.hits),
            None => Ok(()),
        }
    }

    /// Carries out what the node asked of the network.
    fn carry_out(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now();
        self.check_votes_again(node)?;
        let process = &mut self.processes[node];
        let (id, host) = (process.id, process.host);
        let live = process.live.as_mut().expect("only a node that lives asks");
        let watermarks = live.groups.iter().map(|served| served.server.node().watermarks());
        let promised: Vec<Ballot> = watermarks.map(|marks| marks.promised).collect();
        let clock = process.clock.read(now);
        let mut new_ballots = Vec::new();
        for command in live.io.port.take_commands() {
            if let NetCommand::Send(conn, parts) = &command {
                self.scratch.clear();
                parts.iter().for_each(|part| self.scratch.extend_from_slice(part.bytes()));
                let numbers = [conn.0, self.scratch.len() as u64, digest(&self.scratch)];
                self.trace.note(now, host, "send", numbers);
                if let Some(to) = self.net.dialled(*conn) {
                    let link = (*conn, NodeId(to.0 + 1));
                    let group = usize::from(live.io.owner(*conn).0);
                    let promises = &mut self.judges[group].promises;
                    promises.sent(id, (now, clock), link, &self.scratch, &mut self.hits)?;
                    let accepted_first = promises.accepted_first.take();
                    new_ballots.extend(accepted_first.map(|ballot| (group, ballot)));
                    let handed_over = std::mem::take(&mut promises.handed_over);
                    live.groups[group].asked_another |= handed_over;
                    if handed_over && let Some(delay) = self.nemesis.handover_delay.take() {
                        self.net.slow(host, to, delay);
                        self.queue.after(delay * 2, Happening::Undo(Undo::Unslow(host, to)));
                        self.hits.hit(Hit::HandoverLate);
                    }
                }
            }
            self.net.command(&mut self.queue, host, command);
        }
        for (group, ballot) in new_ballots {
            self.check_promise_file(node, group, ballot)?;
        }
        let judges = self.judges.iter_mut().zip(promised);
        judges
            .into_iter()
            .try_for_each(|(judge, promised)| judge.promises.quorums.promised(id, promised))
    }

    // ---- clients ----------------------------------------------------------------------------

    fn client_turn(&mut self, client: usize, number: u64) -> Result<(), Violation> {
        if self.client_turns[client].1 != number {
            return Ok(());
        }
        let now = self.now();
        self.client_turns[client].0 = Time(u64::MAX);
        let group = self.group_of(client);
        let history = &mut self.histories[group];
        let mut around = Around { now, history, hits: &mut self.hits };
        let next = self.clients[client].step(&mut around);
        self.after_client(client, next)
    }

    fn after_client(&mut self, client: usize, next: Time) -> Result<(), Violation> {
        let now = self.now();
        let host = HostId((self.plan.nodes + client) as u16);
        for command in self.clients[client].port.take_commands() {
            if let NetCommand::Send(conn, parts) = &command {
                let size: usize = parts.iter().map(|part| part.bytes().len()).sum();
                let first = parts.first().map_or(0, |part| digest(SendPart::bytes(part)));
                self.trace.note(now, host, "send", [conn.0, size as u64, first]);
            }
            self.net.command(&mut self.queue, host, command);
        }
        if let Some(complaint) = self.clients[client].complaint.take() {
            let text = format!("client {}: {complaint}", client + 1);
            return Err(Violation::new("client", text));
        }
        let (planned, number) = &mut self.client_turns[client];
        // An earlier turn than the one planned replaces it; for a later one the planned one asks.
        if next < *planned {
            *planned = next;
            *number += 1;
            self.queue.at(next, Happening::Client(client, *number));
        }
        Ok(())
    }

    /// A client loses its connection by its own doing, and turns to the node `to` if one is named.
    /// Returns whether it had one.
    pub(super) fn drop_client(
        &mut self,
        client: usize,
        to: Option<usize>,
    ) -> Result<bool, Violation> {
        let now = self.now();
        let group = self.group_of(client);
        let history = &mut self.histories[group];
        let mut around = Around { now, history, hits: &mut self.hits };
        let had = self.clients[client].drop_connection(to, &mut around);
        let next = self.clients[client].step(&mut around);
        self.after_client(client, next)?;
        Ok(had)
    }

    // ---- deliveries -------------------------------------------------------------------------

    fn deliver(&mut self) -> Result<(), Violation> {
        loop {
            let mut deliveries = self.net.take_deliveries();
            if deliveries.is_empty() {
                self.net.give_back(deliveries);
                return Ok(());
            }
            for Delivery { host, event } in deliveries.drain(..) {
                self.deliver_to(host, event)?;
            }
            self.net.give_back(deliveries);
        }
    }

    fn deliver_to(&mut self, host: HostId, event: Event<Vec<u8>>) -> Result<(), Violation> {
        let now = self.now();
        let (what, numbers) = describe(&event);
        self.trace.note(now, host, what, numbers);
        tracing::debug!(host = host.0, what, ?numbers, "delivered");
        let index = usize::from(host.0);
        if index < self.plan.nodes {
            if let Some(live) = &mut self.processes[index].live {
                live.io.inbox.push(event);
                let wake = self.rng.between(WAKE_MIN, WAKE_MAX);
                self.schedule_turn(index, now + wake);
            }
            return Ok(());
        }
        let client = index - self.plan.nodes;
        let group = self.group_of(client);
        let history = &mut self.histories[group];
        let mut around = Around { now, history, hits: &mut self.hits };
        self.clients[client].on_event(event, &mut around);
        let next = self.clients[client].step(&mut around);
        self.judges[group].answered(&self.histories[group])?;
        self.after_client(client, next)
    }
}

fn describe(event: &Event<Vec<u8>>) -> (&'static str, [u64; 3]) {
    match event {
        Event::Disk(event) => ("disk", [event.token.0, u64::from(event.result.is_ok()), 0]),
        Event::Accepted { conn, from } => ("accepted", [conn.0, u64::from(from.port()), 0]),
        Event::HandedOver { conn, from, received } => {
            ("handed over", [conn.0, u64::from(from.port()), received.len() as u64])
        }
        Event::Connected { conn } => ("connected", [conn.0, 0, 0]),
        Event::Received { conn, chunk } => {
            ("received", [conn.0, chunk.len() as u64, digest(chunk)])
        }
        Event::Sent { conn, .. } => ("sent", [conn.0, 0, 0]),
        Event::Closed { conn, reason } => {
            let failed = matches!(reason, crate::io::CloseReason::Failed(_));
            ("closed", [conn.0, u64::from(failed), 0])
        }
        Event::LookedUp { lookup, addresses } => {
            let count = addresses.as_ref().map_or(0, |addresses| addresses.len() as u64);
            ("looked up", [lookup.0, count, 0])
        }
        Event::Woken => ("woken", [0; 3]),
    }
}
