//! The nemesis: strikes at drawn times with the fault classes of the plan, and takes most of its
//! faults back after a while.
//!
//! Each strike draws all of its randomness before it looks at whether its class is masked, so
//! that leaving a class out leaves the others as they were.

use std::time::Duration;

use super::checks::Violation;
use super::clock::RATE_TRUE;
use super::counters::Hit;
use super::disk::{DiskCopy, Region};
use super::disk_faults;
use super::impostors;
use super::phases::Phase;
use super::plan::{Plan, Stream};
use super::process::Absence;
use super::trace::HostId;
use super::trials::Trial;
use super::world::{Happening, World};
use crate::base::rng::Rng;
use crate::paxos::Role;

/// A fault that ends by itself.
#[derive(Clone, Debug)]
pub enum Undo {
    /// These directions pass again.
    Mend(Vec<(HostId, HostId)>),
    /// A link is as fast as before.
    Unslow(HostId, HostId),
    /// A flapping link changes once more, so many times.
    Flap(HostId, HostId, bool, u32),
    /// The second act of a succession: the leader keeps one follower only, who is behind.
    Succeed { leader: usize, follower: usize, span: Duration },
    /// Its third: the leader dies.
    Depose(usize, Duration),
    /// A node stops, with the power or without, for a while.
    Stop(usize, bool, Duration),
    /// A node is asked to stop once more.
    AskAgain(usize),
    /// A process runs again.
    Thaw(usize),
    /// A clock runs true again.
    TrueClock(usize),
    /// A connection is to be broken within what is on its way, once something is: so many looks.
    ResetMidFrame(u32),
    /// There is room on a disk again.
    MakeRoom(usize),
    /// Nodes get their own disks back.
    OwnDisks(Vec<usize>),
    /// A disk is replaced by what it was.
    PutBack(usize, Box<DiskCopy>),
}

/// Who strikes.
pub struct Nemesis {
    rng: Rng,
    /// For clean stops: see `stops`.
    pub(super) stops: Rng,
    pub(super) strikes: u64,
    /// Cuts in force, to be mended when the world heals.
    cuts: Vec<(HostId, HostId)>,
    /// From the next handing over on, the link from the old leader to the new one is slower by this.
    pub(super) handover_delay: Option<Duration>,
    /// Of a world that is one.
    pub(super) trial: Trial,
}

/// The faults that a strike chooses from, beside those of `disk_faults`. What is named twice comes
/// twice as often.
const STRIKES: &[Hit] = &[
    Hit::PartitionOneWay,
    Hit::PartitionPair,
    Hit::PartitionGroups,
    Hit::PartitionIsolate,
    Hit::PartitionChain,
    Hit::LinkFlap,
    Hit::LinkSlow,
    Hit::FarAway,
    Hit::FarAway,
    Hit::HandoverLate,
    Hit::HandoverLate,
    Hit::ConnectionReset,
    Hit::ConnectionResetMidFrame,
    Hit::Succession,
    Hit::LeftBehind,
    Hit::LeftBehind,
    Hit::LeftBehind,
    Hit::Kill,
    Hit::Kill,
    Hit::PowerCut,
    Hit::PowerCutAll,
    Hit::PowerCutAllRot,
    Hit::PowerCutAllRot,
    Hit::PowerCutAllRot,
    Hit::PowerCutMinority,
    Hit::Pause,
    Hit::Pause,
    Hit::ClockDrift,
    Hit::ClockRate,
    Hit::ClockJump,
    Hit::ClientDies,
];

/// How often a mid-frame reset looks whether something is on its way, and the pause between looks.
const RESET_LOOKS_MAX: u32 = 400;
const RESET_LOOK_EVERY: Duration = Duration::from_micros(500);

/// What one strike has drawn.
struct Strike {
    hit: Hit,
    /// It strikes the leader in place of `node`, when there is one.
    aimed: bool,
    node: usize,
    other: usize,
    client: usize,
    /// How long it lasts.
    span: Duration,
    /// More randomness, for what the class needs.
    more: u64,
}

impl Nemesis {
    /// The nemesis of a plan.
    pub fn new(plan: &Plan) -> Nemesis {
        Nemesis {
            rng: Stream::Faults.rng(plan.seed),
            // Beside what decides whether there are any.
            stops: Rng::new(Stream::Stops.seed(plan.seed, 1)),
            strikes: 0,
            cuts: Vec::new(),
            handover_delay: None,
            trial: Trial::default(),
        }
    }

    /// Cuts in force.
    pub fn take_cuts(&mut self) -> Vec<(HostId, HostId)> {
        std::mem::take(&mut self.cuts)
    }

    /// Draws among the classes of the plan; `None`: it has none.
    fn draw(&mut self, plan: &Plan) -> Option<Strike> {
        let rng = &mut self.rng;
        let classes = plan.drawn.union(plan.faults);
        let all = STRIKES.iter().chain(disk_faults::STRIKES).chain(impostors::STRIKES);
        let all: Vec<Hit> = all.copied().filter(|hit| classes.has(*hit)).collect();
        if all.is_empty() {
            return None;
        }
        let hit = all[rng.below(all.len() as u64) as usize];
        let aimed = rng.below(3) == 0;
        let node = rng.below(plan.nodes as u64) as usize;
        let other = (node + 1 + rng.below(plan.nodes.max(2) as u64 - 1) as usize) % plan.nodes;
        let client = rng.below(plan.clients as u64) as usize;
        // Mostly about as long as an election, sometimes much longer or hardly at all.
        let scale = [1, 20, 200, 1000, 5000][rng.below(5) as usize];
        let span = rng.between(Duration::from_millis(1), Duration::from_millis(scale));
        Some(Strike { hit, aimed, node, other, client, span, more: rng.next_u64() })
    }
}

impl World {
    pub(super) fn strike(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Safety {
            return Ok(());
        }
        let mean = self.plan.strike_every;
        let next = self.nemesis.rng.between(mean / 4, mean * 7 / 4);
        self.queue.after(next, Happening::Strike);
        let Some(mut strike) = self.nemesis.draw(&self.plan) else { return Ok(()) };
        let pauses = strike.hit == Hit::Pause;
        if let Some(leader) =
            self.leader().filter(|_| strike.aimed || pauses && strike.more & 1 == 0)
        {
            strike.node = leader;
            if pauses {
                // Long enough for another one to be elected, and for it to be asked meanwhile.
                strike.span = self.plan.core.election_timeout * (1 + (strike.more >> 1) as u32 % 5);
            }
            strike.other = match strike.other {
                other if other == leader => (leader + 1) % self.plan.nodes,
                other => other,
            };
        }
        self.nemesis.strikes += 1;
        if !self.plan.faults.has(strike.hit) || self.nemesis.strikes > self.plan.strikes_max {
            return Ok(());
        }
        let numbers = [strike.node as u64, strike.other as u64, strike.span.as_nanos() as u64];
        self.trace.note(self.now(), HostId(strike.node as u16), strike.hit.name(), numbers);
        let struck = self.carry_out_strike(&strike)?;
        tracing::debug!(?struck, ?numbers, "{}", strike.hit.name());
        if struck {
            self.hits.hit(strike.hit);
        }
        Ok(())
    }

    /// A node that leads, the one with the highest ballot if several think so: in one of the groups,
    /// the same over the whole run.
    pub(super) fn leader(&self) -> Option<usize> {
        let group = (self.plan.seed % self.plan.groups as u64) as usize;
        let leads = |node: &usize| {
            let server = &self.processes[*node].live.as_ref()?.groups[group].server;
            let marks = server.node().watermarks();
            (server.node().role() == Role::Leader).then_some(marks.promised)
        };
        (0..self.plan.nodes).filter(|node| leads(node).is_some()).max_by_key(leads)
    }

    /// Returns whether there was something to strike.
    fn carry_out_strike(&mut self, strike: &Strike) -> Result<bool, Violation> {
        let Strike { hit, aimed: _, node, other, client, span, more } = *strike;
        let (here, there) = (HostId(node as u16), HostId(other as u16));
        let nodes = self.plan.nodes;
        let hosts = nodes + self.plan.clients;
        match hit {
            Hit::PartitionOneWay => self.cut(vec![(here, there)], span),
            Hit::PartitionPair => self.cut(vec![(here, there), (there, here)], span),
            Hit::PartitionGroups => {
                let side = |host: usize| more >> host & 1;
                let apart = |a: usize, b: usize| side(a) != side(b);
                self.cut(pairs(hosts, apart), span)
            }
            Hit::PartitionIsolate => {
                // With or without the clients.
                let reach = if more & 1 == 0 { nodes } else { hosts };
                let apart = |a: usize, b: usize| (a == node || b == node) && a < reach && b < reach;
                self.cut(pairs(hosts, apart), span)
            }
            Hit::PartitionChain => {
                let apart = |a: usize, b: usize| a < nodes && b < nodes && a.abs_diff(b) > 1;
                self.cut(pairs(hosts, apart), span)
            }
            Hit::LinkFlap => {
                let times = 4 + (more % 20) as u32;
                self.undo(Undo::Flap(here, there, false, times))?;
                nodes > 1
            }
            Hit::LinkSlow => {
                self.net.slow(here, there, Duration::from_micros(more % 200_000));
                self.queue.after(span, Happening::Undo(Undo::Unslow(here, there)));
                nodes > 1
            }
            Hit::HandoverLate => {
                // The old leader has gone on, and has new leases, when the word arrives. Counted
                // when it leaves.
                let delay = self.plan.core.election_timeout * (5 + more as u32 % 8) / 4;
                self.nemesis.handover_delay = Some(delay);
                self.clients[client].hand_over_to(other);
                false
            }
            Hit::FarAway => self.move_away(node, span, more),
            Hit::ConnectionReset => self.net.reset_one(&mut self.queue, false),
            Hit::ConnectionResetMidFrame => {
                // Counted when it happens.
                self.undo(Undo::ResetMidFrame(RESET_LOOKS_MAX))?;
                false
            }
            Hit::Succession => self.begin_succession(other, span, more),
            Hit::LeftBehind => self.leave_behind(more)?,
            Hit::FormattedAgain
            | Hit::MajorityFormattedAgain
            | Hit::DisksSwapped
            | Hit::ForeignDisk => self.strike_identity(hit, (node, other), span, more),
            Hit::Kill => self.stop(node, false, span),
            Hit::PowerCut => self.stop(node, true, span),
            Hit::PowerCutAll => {
                (0..nodes).filter(|index| self.stop(*index, true, span)).count() > 0
            }
            Hit::PowerCutAllRot => {
                let Some(node) = self.damageable_near(node) else { return Ok(false) };
                let struck = (0..nodes).filter(|index| self.stop(*index, true, span)).count();
                let process = &mut self.processes[node];
                let disk = process.disk_mut();
                disk.set_check_overwrites(false);
                let rotten = disk.flip_bit(Region::Tail, &mut Rng::new(more)).is_some();
                process.damaged |= rotten;
                struck > 0 && rotten
            }
            Hit::PowerCutMinority => {
                let count = nodes.saturating_sub(1) / 2;
                let struck = (0..count).map(|step| (node + step) % nodes);
                struck.filter(|index| self.stop(*index, true, span)).count() > 0
            }
            Hit::Pause => self.pause(node, span),
            Hit::ClockDrift => {
                let now = self.now();
                let bound = u64::from(self.plan.core.clock_drift_ppm_max);
                let ppm = [0, bound / 2, bound, 3 * bound / 2, 2 * bound][(more % 5) as usize];
                self.processes[node].clock.set_rate(now, RATE_TRUE - bound + ppm);
                self.schedule_turn(node, now);
                true
            }
            Hit::ClockRate => {
                self.clocks_broken_at.get_or_insert(self.queue.now());
                let rate = [20, 300, 700, 990, 1010, 1500, 3000][(more % 7) as usize];
                let now = self.now();
                self.processes[node].clock.set_rate(now, rate * RATE_TRUE / 1000);
                self.schedule_turn(node, now);
                self.queue.after(span, Happening::Undo(Undo::TrueClock(node)));
                true
            }
            Hit::ClockJump => {
                self.clocks_broken_at.get_or_insert(self.queue.now());
                let now = self.now();
                let by = Duration::from_millis(1 + more % 5_000);
                self.processes[node].clock.jump(now, by);
                self.schedule_turn(node, now);
                true
            }
            Hit::ClientDies => self.drop_client(client, None)?,
            hit => self.strike_disk(hit, node, span, more)?,
        }
        .pipe(Ok)
    }

    /// What a node sends and is sent takes far longer, to and from each other node by a time of its
    /// own: so answers come after the question has been asked again, and a leader's leases are
    /// older than its followers' grants.
    fn move_away(&mut self, node: usize, span: Duration, more: u64) -> bool {
        let rng = &mut Rng::new(more);
        let most = Duration::from_millis([50, 300, 1000, 2000][rng.below(4) as usize]);
        for (from, to) in pairs(self.plan.nodes, |a, b| a != b && (a == node || b == node)) {
            self.net.slow(from, to, rng.between(Duration::ZERO, most));
            self.queue.after(span + most * 4, Happening::Undo(Undo::Unslow(from, to)));
        }
        self.plan.nodes > 1
    }

    /// A follower is cut off until it is behind; then it alone reaches the leader, who proposes
    /// while it catches up; then the leader dies. So are values made that only a minority has,
    /// with holes before them.
    fn begin_succession(&mut self, follower: usize, span: Duration, more: u64) -> bool {
        let Some(leader) = self.leader() else { return false };
        let nodes = self.plan.nodes;
        let follower = if follower == leader { (leader + 1) % nodes } else { follower };
        if nodes < 3 {
            return false;
        }
        let away = Duration::from_millis(20 + more % 700);
        let apart = |a: usize, b: usize| (a == follower) != (b == follower);
        let done = self.cut(pairs(nodes, apart), away);
        let next = Undo::Succeed { leader, follower, span };
        self.queue.after(away, Happening::Undo(next));
        done
    }

    /// The others elect somebody else while the leader, whom clients still reach, cannot know: a
    /// slow clock keeps it from noticing its silence; paused, it wakes up to reads that came in
    /// meanwhile; and who granted it a lease may have been restarted. Some clients stay with it, others
    /// turn to its successors.
    fn leave_behind(&mut self, more: u64) -> Result<bool, Violation> {
        let nodes = self.plan.nodes;
        let Some(leader) = self.leader().filter(|_| nodes > 2) else { return Ok(false) };
        for client in (0..self.plan.clients).filter(|client| more >> (34 + client) & 1 == 0) {
            self.drop_client(client, Some((leader + 1) % nodes))?;
        }
        let span = self.plan.core.election_timeout * (4 + more as u32 % 12) / 2;
        self.cut(pairs(nodes, |a, b| (a == leader) != (b == leader)), span);
        match more >> 32 & 3 {
            0 => {
                let now = self.now();
                self.clocks_broken_at.get_or_insert(now);
                self.processes[leader].clock.set_rate(now, RATE_TRUE / 50);
                self.queue.after(span, Happening::Undo(Undo::TrueClock(leader)));
                self.schedule_turn(leader, now);
            }
            how => {
                self.pause(leader, span * 3 / 4);
                for other in (0..nodes).filter(|other| *other != leader && how == 1) {
                    self.stop(other, false, Duration::from_millis(5));
                }
            }
        }
        Ok(true)
    }

    fn succeed(&mut self, leader: usize, follower: usize, span: Duration) {
        if self.phase != Phase::Safety || self.leader() != Some(leader) {
            return;
        }
        let most = self.plan.core.election_timeout.min(Duration::from_millis(300));
        let alone = self.rng.between(Duration::from_millis(1), most);
        let apart =
            |a: usize, b: usize| (a == leader && b != follower) || (b == leader && a != follower);
        self.cut(pairs(self.plan.nodes, apart), alone);
        self.queue.after(alone, Happening::Undo(Undo::Depose(leader, span)));
    }

    fn cut(&mut self, pairs: Vec<(HostId, HostId)>, span: Duration) -> bool {
        let pairs: Vec<_> = pairs.into_iter().filter(|(from, to)| from != to).collect();
        if pairs.is_empty() {
            return false;
        }
        for (from, to) in &pairs {
            self.net.cut(*from, *to);
            self.nemesis.cuts.push((*from, *to));
        }
        self.queue.after(span, Happening::Undo(Undo::Mend(pairs)));
        true
    }

    /// Mends a cut, if it is still in force.
    fn mend(&mut self, from: HostId, to: HostId) {
        let cuts = &mut self.nemesis.cuts;
        if let Some(index) = cuts.iter().position(|cut| *cut == (from, to)) {
            cuts.swap_remove(index);
            self.net.mend(&mut self.queue, from, to);
        }
    }

    /// Stops a process that lives, and starts it again after the span. Returns whether it lived.
    pub(super) fn stop(&mut self, node: usize, power_lost: bool, span: Duration) -> bool {
        let host = self.processes[node].host;
        if self.processes[node].live.is_none() {
            return false;
        }
        match power_lost {
            true => self.net.power_lost(&mut self.queue, host),
            false => self.net.process_ended(&mut self.queue, host),
        }
        self.processes[node].end(Absence::Stopped, power_lost, &mut self.rng);
        self.queue.after(span, Happening::Start(node));
        true
    }

    fn pause(&mut self, node: usize, span: Duration) -> bool {
        let now = self.now();
        let process = &mut self.processes[node];
        if process.live.is_none() || process.frozen_until.is_some() {
            return false;
        }
        process.frozen_until = Some(now + span);
        let host = process.host;
        self.net.set_frozen(&mut self.queue, host, true);
        self.queue.after(span, Happening::Undo(Undo::Thaw(node)));
        true
    }

    pub(super) fn undo(&mut self, undo: Undo) -> Result<(), Violation> {
        let now = self.now();
        match undo {
            Undo::Mend(pairs) => {
                if self.phase == Phase::Safety {
                    pairs.into_iter().for_each(|(from, to)| self.mend(from, to));
                }
            }
            Undo::Unslow(from, to) => self.net.slow(from, to, Duration::ZERO),
            Undo::Flap(from, to, is_cut, left) => {
                if is_cut {
                    self.mend(from, to);
                }
                if left > 0 && from != to && self.phase == Phase::Safety {
                    if !is_cut {
                        self.net.cut(from, to);
                        self.nemesis.cuts.push((from, to));
                    }
                    let span = self.rng.between(Duration::ZERO, Duration::from_millis(150));
                    let next = Undo::Flap(from, to, !is_cut, left - 1);
                    self.queue.after(span, Happening::Undo(next));
                }
            }
            Undo::Succeed { leader, follower, span } => self.succeed(leader, follower, span),
            Undo::Depose(leader, span) => {
                if self.phase == Phase::Safety {
                    self.stop(leader, true, span);
                }
            }
            Undo::Stop(node, power_lost, span) => {
                if self.phase == Phase::Safety {
                    self.stop(node, power_lost, span);
                }
            }
            Undo::OwnDisks(nodes) => self.own_disks(&nodes),
            Undo::AskAgain(node) => self.ask_again(node),
            Undo::ResetMidFrame(looks) => {
                if self.net.reset_one(&mut self.queue, true) {
                    self.hits.hit(Hit::ConnectionResetMidFrame);
                } else if looks > 0 {
                    let next = Happening::Undo(Undo::ResetMidFrame(looks - 1));
                    self.queue.after(RESET_LOOK_EVERY, next);
                }
            }
            Undo::MakeRoom(node) => self.processes[node].disk_mut().set_capacity(u64::MAX),
            Undo::PutBack(node, copy) => {
                if self.phase == Phase::Safety {
                    self.put_back(node, &copy);
                }
            }
            Undo::Thaw(node) => self.thaw(node),
            Undo::TrueClock(node) => {
                self.processes[node].clock.set_rate(now, RATE_TRUE);
                self.schedule_turn(node, now);
            }
        }
        Ok(())
    }

    pub(super) fn thaw(&mut self, node: usize) {
        let now = self.now();
        if self.processes[node].frozen_until.take().is_some() {
            let host = self.processes[node].host;
            self.net.set_frozen(&mut self.queue, host, false);
            self.schedule_turn(node, now);
        }
    }
}

/// Every ordered pair of hosts that `apart` keeps apart.
fn pairs(hosts: usize, apart: impl Fn(usize, usize) -> bool) -> Vec<(HostId, HostId)> {
    let all = (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to)));
    all.filter(|(from, to)| apart(*from, *to))
        .map(|(from, to)| (HostId(from as u16), HostId(to as u16)))
        .collect()
}

trait Pipe: Sized {
    fn pipe<R>(self, with: impl FnOnce(Self) -> R) -> R {
        with(self)
    }
}

impl Pipe for bool {}
