//! A cluster of cores over a simulated network and simulated disks, with an oracle that watches
//! every effect.
//!
//! A crash loses what is not durable: the log keeps a prefix of its writes, the vote file is
//! written independently. Everything follows from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use crate::base::rng::Rng;
use crate::base::{Ballot, Instant, NodeId, Slot};
use crate::paxos::testkit::Text;
use crate::paxos::{
    Config, Core, Effect, Effects, Input, Message, Outgoing, PersistId, ReadId, Recovered, Role,
    Value, Write,
};

const MS: u64 = 1_000_000;

/// What happened, so that a run can show that it hit what it is there for.
#[derive(Clone, Debug, Default)]
pub(super) struct Hits {
    pub(super) crashes: u64,
    pub(super) leaders: u64,
    pub(super) nacks: u64,
    pub(super) noops_chosen: u64,
    pub(super) values_fetched: u64,
    pub(super) learnt: u64,
    pub(super) accepted_again: u64,
    pub(super) chosen: u64,
    pub(super) lost_messages: u64,
    pub(super) lost_writes: u64,
    pub(super) pauses: u64,
    pub(super) reads_ready: u64,
    pub(super) reads_failed: u64,
    pub(super) lease_reads: u64,
    pub(super) taken_over: u64,
    pub(super) kept: u64,
}

/// How the network and the disks behave; changed between phases.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) loss_percent: u64,
    pub(super) double_percent: u64,
    /// Messages may overtake each other; otherwise each link keeps its order.
    pub(super) reorder: bool,
    pub(super) delay_max: Duration,
    pub(super) disk_delay_max: Duration,
}

struct LogWrite {
    slot: Slot,
    ballot: Ballot,
    chosen: Slot,
    value: Text,
}

struct PendingWrite {
    id: PersistId,
    write: Write<Text>,
    then: Vec<Outgoing<Text>>,
}

#[derive(Default)]
struct Disk {
    vote: Ballot,
    log: Vec<LogWrite>,
}

pub(super) struct Node {
    pub(super) core: Option<Core<Text>>,
    disk: Disk,
    /// The log's writes under way, in order; and the vote file's.
    log_pending: VecDeque<PendingWrite>,
    vote_pending: VecDeque<PendingWrite>,
    /// What it knows to be chosen, as a cache would hold it.
    pub(super) chosen: BTreeMap<Slot, (Ballot, Text)>,
    incarnation: u64,
    /// The highest ballot in a promise or acceptance that has left.
    claimed: Ballot,
    /// The highest ballot in a promise that has left.
    promised_sent: Ballot,
    /// A stalled disk completes nothing until then.
    disk_stalled_until: u64,
    /// Its log has no room for values.
    pub(super) disk_full: bool,
    /// A paused process handles nothing until then, not even time.
    paused_until: u64,
    /// How much faster than true its clock runs, in parts per million, and how far ahead it is.
    clock_ppm: i64,
    clock_ahead: u64,
    /// The reads that wait, each with the greatest slot chosen when it began.
    reads: BTreeMap<ReadId, Slot>,
    reads_started: u64,
    /// Whether a crash has lost entries of its log.
    lost_writes: bool,
}

impl Node {
    /// What its clock shows at the true time `now`.
    fn clock(&self, now: u64) -> Instant {
        let shift = i128::from(now) * i128::from(self.clock_ppm) / 1_000_000;
        Instant((i128::from(now) + shift) as u64 + self.clock_ahead)
    }

    /// The true time at which its clock shows at least `local`.
    fn true_time(&self, local: Instant) -> u64 {
        let elapsed = i128::from(local.0.saturating_sub(self.clock_ahead));
        let rate = 1_000_000 + i128::from(self.clock_ppm);
        (elapsed * 1_000_000 / rate) as u64 + 2
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// `arrived`: it is with the receiver already, who was paused.
    Deliver {
        from: usize,
        to: usize,
        message: usize,
        arrived: bool,
    },
    LogDone {
        node: usize,
        incarnation: u64,
    },
    VoteDone {
        node: usize,
        incarnation: u64,
    },
    Lost {
        node: usize,
        peer: usize,
    },
    Connected {
        node: usize,
        peer: usize,
    },
    Read {
        node: usize,
        lease: bool,
    },
}

impl What {
    /// The node that it happens to.
    fn node(&self) -> usize {
        match self {
            What::Deliver { to, .. } => *to,
            What::LogDone { node, .. }
            | What::VoteDone { node, .. }
            | What::Lost { node, .. }
            | What::Connected { node, .. }
            | What::Read { node, .. } => *node,
        }
    }
}

pub(super) struct Cluster {
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) faults: Faults,
    pub(super) hits: Hits,
    /// `blocked[from][to]`.
    pub(super) blocked: Vec<Vec<bool>>,
    /// What the oracle knows to be chosen.
    pub(super) oracle: BTreeMap<Slot, Text>,
    config: Config,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    messages: HashMap<usize, Message<Text>>,
    message_count: usize,
    sequence: u64,
    link_busy_until: Vec<Vec<u64>>,
    /// Each (slot, ballot) has one value; each ballot is prepared by one incarnation.
    proposed: BTreeMap<(Slot, Ballot), Text>,
    prepared: BTreeMap<Ballot, u64>,
    trace: bool,
    effects: Effects<Text>,
}

impl Cluster {
    pub(super) fn new(seed: u64, count: usize, trace: bool) -> Cluster {
        Cluster::with(seed, count, trace, |_| ())
    }

    /// A cluster whose parameters are drawn from the seed and then adjusted.
    pub(super) fn with(
        seed: u64,
        count: usize,
        trace: bool,
        adjust: impl FnOnce(&mut Config),
    ) -> Cluster {
        let mut rng = Rng::new(seed);
        let members: Vec<NodeId> = (1..=count as u16).map(NodeId).collect();
        let mut config = Config::new(members[0], members);
        config.window_slots_max = 1 + rng.below(8);
        config.retained_slots_max = config.window_slots_max + rng.below(8);
        config.fetch_slots_max = 1 + rng.below(6);
        config.window_bytes_max = 4 << 20;
        config.peer_bytes_max = 2 << 20;
        config.retained_bytes_max = (1 + rng.below(4) as usize) << 20;
        config.heartbeat_interval = Duration::from_millis([5, 10, 50][rng.below(3) as usize]);
        config.election_timeout = config.heartbeat_interval * (4 + rng.below(6) as u32);
        config.resend_timeout = Duration::from_millis(20 + rng.below(500));
        config.disk_stall_timeout = config.election_timeout * 4;
        let lease_percent = [0, 30, 60, 100, 200][rng.below(5) as usize];
        let lease_ms = config.election_timeout.as_millis() as u64 * lease_percent / 100;
        config.lease = Duration::from_millis(lease_ms);
        config.clock_drift_ppm_max = [0, 1000, 100_000][rng.below(3) as usize];
        let ahead = &mut Rng::new(seed ^ 0x61_6865_6164);
        config.accept_ahead_bytes_max = [0, 1 << 20, 32 << 20][ahead.below(3) as usize];
        adjust(&mut config);
        let drift = i64::from(config.clock_drift_ppm_max);
        let faults = Faults {
            loss_percent: [0, 2, 10, 30][rng.below(4) as usize],
            double_percent: [0, 5, 20][rng.below(3) as usize],
            reorder: rng.below(2) == 0,
            delay_max: Duration::from_millis([1, 10, 50][rng.below(3) as usize]),
            disk_delay_max: Duration::from_millis([1, 10, 60][rng.below(3) as usize]),
        };
        let mut cluster = Cluster {
            rng,
            now: 0,
            nodes: Vec::new(),
            faults,
            hits: Hits::default(),
            blocked: vec![vec![false; count]; count],
            oracle: BTreeMap::new(),
            config,
            queue: BinaryHeap::new(),
            messages: HashMap::new(),
            message_count: 0,
            sequence: 0,
            link_busy_until: vec![vec![0; count]; count],
            proposed: BTreeMap::new(),
            prepared: BTreeMap::new(),
            trace,
            effects: Vec::new(),
        };
        for _ in 0..count {
            // Clocks at the very edge of what the configuration allows, mostly.
            let clock_ppm = [-drift, 0, drift][cluster.rng.below(3) as usize];
            let clock_ahead = cluster.rng.below(1 << 40);
            cluster.nodes.push(Node {
                paused_until: 0,
                clock_ppm,
                clock_ahead,
                reads: BTreeMap::new(),
                reads_started: 0,
                lost_writes: false,
                core: None,
                disk: Disk::default(),
                log_pending: VecDeque::new(),
                vote_pending: VecDeque::new(),
                chosen: BTreeMap::new(),
                incarnation: 0,
                claimed: Ballot::NONE,
                promised_sent: Ballot::NONE,
                disk_stalled_until: 0,
                disk_full: false,
            });
        }
        for node in 0..count {
            cluster.start(node);
        }
        cluster
    }

    /// How long a follower is bound by what it grants.
    pub(super) fn lease(&self) -> Duration {
        self.config.lease
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3}ms {}", self.now as f64 / MS as f64, text());
        }
    }

    fn at(&mut self, time: u64, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence, what)));
    }

    // ---- crash and restart ----

    pub(super) fn crash(&mut self, node: usize) {
        self.hits.crashes += 1;
        self.log(|| format!("{} CRASH", node + 1));
        let kept = self.rng.below(self.nodes[node].log_pending.len() as u64 + 1);
        let votes_kept = self.rng.below(self.nodes[node].vote_pending.len() as u64 + 1);
        let state = &mut self.nodes[node];
        self.hits.lost_writes += state.log_pending.len() as u64 - kept;
        state.lost_writes |= state.log_pending.len() as u64 > kept;
        for _ in 0..kept {
            let write = state.log_pending.pop_front().unwrap();
            state.disk.apply(write.write);
        }
        for _ in 0..votes_kept {
            let write = state.vote_pending.pop_front().unwrap();
            state.disk.apply(write.write);
        }
        state.log_pending.clear();
        state.vote_pending.clear();
        state.core = None;
        state.reads.clear();
        for peer in 0..self.count() {
            if peer != node && self.rng.below(2) == 0 {
                let time = self.now + self.rng.below(20 * MS);
                self.at(time, What::Lost { node: peer, peer: node });
            }
        }
    }

    pub(super) fn start(&mut self, node: usize) {
        let recovered = self.recover(node);
        self.log(|| format!("{} START {recovered:?}", node + 1));
        let mut config = self.config.clone();
        config.id = NodeId(node as u16 + 1);
        let seed = self.rng.next_u64();
        let state = &mut self.nodes[node];
        state.incarnation += 1;
        let core = Core::new(config, recovered, state.clock(self.now), seed);
        state.core = Some(core.expect("what was recovered is consistent"));
        for peer in 0..self.count() {
            if peer != node && self.rng.below(4) != 0 {
                self.connect(node, peer);
                self.connect(peer, node);
            }
        }
    }

    pub(super) fn connect(&mut self, node: usize, peer: usize) {
        let time = self.now + self.rng.below(5 * MS);
        self.at(time, What::Connected { node, peer });
    }

    fn recover(&mut self, node: usize) -> Recovered<Text> {
        let state = &mut self.nodes[node];
        let mut held: BTreeMap<Slot, (Ballot, Text)> = BTreeMap::new();
        let (mut promised, mut chosen) = (state.disk.vote, Slot::NONE);
        for write in &state.disk.log {
            promised = promised.max(write.ballot);
            chosen = chosen.max(write.chosen);
            let old = held.get(&write.slot).map_or(Ballot::NONE, |(ballot, _)| *ballot);
            assert!(write.ballot > old, "a slot is only written again at a higher ballot");
            held.insert(write.slot, (write.ballot, write.value.clone()));
        }
        assert!(promised >= state.claimed, "a restart forgets no promise that has left");
        let accepted = held.split_off(&chosen.next());
        for slot in 1..=chosen.0 {
            let (_, value) = held.get(&Slot(slot)).expect("the log holds what it says is chosen");
            assert_eq!(self.oracle.get(&Slot(slot)), Some(value), "slot {slot} as recovered");
        }
        state.chosen = held;
        let accepted = accepted.into_iter().map(|(slot, (b, v))| (slot, b, v)).collect();
        Recovered { promised, chosen, accepted, cut: None }
    }

    // ---- running ----

    /// Runs what is due until `until`; returns early when nothing is left.
    pub(super) fn run_until(&mut self, until: u64) {
        loop {
            let event = self.queue.peek().map(|Reverse((time, ..))| *time);
            let deadline = |(index, node): (usize, &Node)| {
                let deadline = node.core.as_ref()?.next_deadline()?;
                Some((node.true_time(deadline).max(self.now).max(node.paused_until), index))
            };
            let timer = self.nodes.iter().enumerate().filter_map(deadline).min();
            match (event, timer) {
                (Some(time), timer) if timer.is_none_or(|(at, _)| time <= at) => {
                    if time > until {
                        break;
                    }
                    self.now = self.now.max(time);
                    let Reverse((_, _, what)) = self.queue.pop().unwrap();
                    self.happen(what);
                }
                (_, Some((time, node))) => {
                    if time > until {
                        break;
                    }
                    self.now = time;
                    self.step(node, Input::Tick);
                }
                _ => break,
            }
        }
        self.now = self.now.max(until);
    }

    fn happen(&mut self, what: What) {
        if let What::Deliver { from, to, message, arrived: false } = what
            && self.blocked[from][to]
        {
            self.messages.remove(&message);
            return;
        }
        let paused_until = self.nodes[what.node()].paused_until;
        match what {
            What::Deliver { from, to, message, .. } if paused_until > self.now => {
                self.at(paused_until, What::Deliver { from, to, message, arrived: true });
            }
            what if paused_until > self.now => self.at(paused_until, what),
            What::Read { node, lease } => self.read(node, lease),
            What::Deliver { from, to, message, .. } => {
                let message = self.messages.remove(&message).unwrap();
                let from = NodeId(from as u16 + 1);
                self.step(to, Input::Message { from, message });
            }
            What::LogDone { node, incarnation } => {
                if self.nodes[node].incarnation != incarnation || self.stalled(node, &what) {
                    return;
                }
                if let Some(write) = self.nodes[node].log_pending.pop_front() {
                    self.written(node, write);
                }
            }
            What::VoteDone { node, incarnation } => {
                if self.nodes[node].incarnation != incarnation || self.stalled(node, &what) {
                    return;
                }
                if let Some(write) = self.nodes[node].vote_pending.pop_front() {
                    self.written(node, write);
                }
            }
            What::Lost { node, peer } => {
                self.step(node, Input::PeerLost(NodeId(peer as u16 + 1)));
                self.step(node, Input::PeerDisconnected(NodeId(peer as u16 + 1)));
            }
            What::Connected { node, peer } => {
                if self.nodes[peer].core.is_some() {
                    self.step(node, Input::PeerConnected(NodeId(peer as u16 + 1)));
                }
            }
        }
    }

    fn stalled(&mut self, node: usize, what: &What) -> bool {
        let until = self.nodes[node].disk_stalled_until;
        if until <= self.now {
            return false;
        }
        let again = match what {
            What::LogDone { node, incarnation } => {
                What::LogDone { node: *node, incarnation: *incarnation }
            }
            What::VoteDone { node, incarnation } => {
                What::VoteDone { node: *node, incarnation: *incarnation }
            }
            _ => unreachable!(),
        };
        self.at(until, again);
        true
    }

    pub(super) fn stall_disk(&mut self, node: usize, time: Duration) {
        self.log(|| format!("{} DISK STALLS for {time:?}", node + 1));
        self.nodes[node].disk_stalled_until = self.now + time.as_nanos() as u64;
    }

    fn written(&mut self, node: usize, write: PendingWrite) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.nodes[node].disk.apply(write.write);
        for outgoing in write.then {
            self.send(node, outgoing);
        }
        self.step(node, Input::Persisted(write.id));
    }

    pub(super) fn step(&mut self, node: usize, input: Input<Text>) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.log(|| format!("{} <- {input:?}", node + 1));
        let end_of_turn = matches!(input, Input::EndOfTurn);
        let mut effects = std::mem::take(&mut self.effects);
        let now = self.nodes[node].clock(self.now);
        let is_full = self.nodes[node].disk_full;
        let core = self.nodes[node].core.as_mut().unwrap();
        core.set_disk_full(now, is_full);
        core.step(now, input, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(node, effect);
        }
        self.effects = effects;
        // Turns hold several inputs, now and then.
        if !end_of_turn && self.rng.below(3) != 0 {
            self.step(node, Input::EndOfTurn);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect<Text>) {
        self.log(|| format!("{}    {effect:?}", node + 1));
        match effect {
            Effect::Persist { id, write, then } => self.persist(node, id, write, then),
            Effect::Send(outgoing) => self.send(node, outgoing),
            Effect::Chosen { slot, ballot, value } => self.chosen(node, slot, ballot, value),
            Effect::SendChosen { to, first, last } => {
                assert!(last <= self.nodes[node].core.as_ref().unwrap().chosen());
                let some = Slot(first.0 + self.rng.below(first.distance_to(last) + 1));
                for slot in first.0..=some.0 {
                    let slot = Slot(slot);
                    let (ballot, value) = self.nodes[node].chosen[&slot].clone();
                    let message = Message::Learn { slot, ballot, value };
                    self.hits.learnt += 1;
                    self.transmit(node, Outgoing { to, message });
                }
            }
            Effect::ForgetCut => unreachable!("nothing is cut here"),
            Effect::ReadReady { first, last } => {
                let state = &mut self.nodes[node];
                let chosen = state.core.as_ref().unwrap().chosen();
                for id in first.0..=last.0 {
                    let begun = state.reads.remove(&ReadId(id)).expect("a read ends once");
                    assert!(
                        chosen >= begun,
                        "a read that began at {begun} is answered at {chosen}"
                    );
                    self.hits.reads_ready += 1;
                }
            }
            Effect::ReadFailed { first, last } => {
                for id in first.0..=last.0 {
                    let ended = self.nodes[node].reads.remove(&ReadId(id));
                    ended.expect("a read ends once");
                    self.hits.reads_failed += 1;
                }
            }
            Effect::TransferEnded { to, taken_over } => {
                let other = usize::from(to.0) != node + 1;
                self.hits.taken_over += u64::from(taken_over && other);
                self.hits.kept += u64::from(!taken_over);
            }
            Effect::RoleChanged(role) => {
                if role == Role::Leader {
                    self.hits.leaders += 1;
                }
            }
        }
    }

    fn persist(
        &mut self,
        node: usize,
        id: PersistId,
        write: Write<Text>,
        then: Vec<Outgoing<Text>>,
    ) {
        let done = self.now + self.rng.below(self.faults.disk_delay_max.as_nanos() as u64);
        let state = &mut self.nodes[node];
        let incarnation = state.incarnation;
        match &write {
            Write::Promise(_) => {
                state.vote_pending.push_back(PendingWrite { id, write, then });
                self.at(done, What::VoteDone { node, incarnation });
            }
            Write::Entry { ballot, .. } => {
                if !then.is_empty() {
                    assert!(*ballot >= state.promised_sent, "accepts nothing below its promise");
                }
                state.log_pending.push_back(PendingWrite { id, write, then });
                self.at(done, What::LogDone { node, incarnation });
            }
        }
    }

    fn chosen(&mut self, node: usize, slot: Slot, ballot: Ballot, value: Text) {
        self.hits.chosen += 1;
        let last = self.nodes[node].chosen.last_key_value().map_or(Slot::NONE, |(slot, _)| *slot);
        assert_eq!(slot, last.next(), "chosen slots come in order, once");
        let known = self.oracle.entry(slot).or_insert_with(|| value.clone());
        assert_eq!(*known, value, "slot {slot} has one chosen value");
        if value == Text::noop() {
            self.hits.noops_chosen += 1;
        }
        let holders = self.nodes.iter().filter(|node| node.disk.holds(slot, &value)).count();
        assert!(holders > self.count() / 2, "slot {slot} is on {holders} disks when it is chosen");
        self.nodes[node].chosen.insert(slot, (ballot, value));
    }

    /// A linearizable read arrives.
    pub(super) fn read(&mut self, node: usize, lease: bool) {
        let begun = self.oracle.last_key_value().map_or(Slot::NONE, |(slot, _)| *slot);
        let state = &mut self.nodes[node];
        if state.paused_until > self.now {
            return;
        }
        let now = state.clock(self.now);
        let Some(core) = &mut state.core else { return };
        if lease && let Some(index) = core.lease_index(now) {
            assert!(index >= begun, "a read that began at {begun} is answered by lease at {index}");
            self.hits.lease_reads += 1;
            return;
        }
        state.reads_started += 1;
        let id = ReadId(state.reads_started);
        state.reads.insert(id, begun);
        self.step(node, Input::Read { id, lease });
    }

    /// Stops the process for a while; when it goes on it first finds a read that came meanwhile.
    pub(super) fn pause(&mut self, node: usize, time: Duration) {
        self.hits.pauses += 1;
        let until = self.now + time.as_nanos() as u64;
        self.log(|| format!("{} PAUSE until {until}", node + 1));
        self.nodes[node].paused_until = until;
        for after in [0, 1, MS, 3 * MS, 10 * MS, 30 * MS] {
            let lease = self.rng.below(2) == 0;
            self.at(until + after, What::Read { node, lease });
        }
    }

    /// Lets a paused process go on.
    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused_until = 0;
    }

    /// Whether every read has ended.
    pub(super) fn reads_ended(&self) -> bool {
        self.nodes.iter().all(|node| node.reads.is_empty())
    }

    // ---- network ----

    fn send(&mut self, node: usize, outgoing: Outgoing<Text>) {
        let state = &mut self.nodes[node];
        match &outgoing.message {
            Message::Promise { ballot, .. } => {
                assert!(state.disk.promised() >= *ballot, "a promise leaves once it is durable");
                state.claimed = state.claimed.max(*ballot);
                state.promised_sent = state.promised_sent.max(*ballot);
            }
            Message::Accepted { ballot, slot } => {
                assert!(state.disk.promised() >= *ballot, "accepting is promising");
                let held = state.disk.has(*slot, *ballot);
                let value = self.oracle.get(slot);
                let settled = value.is_some_and(|value| state.disk.holds(*slot, value));
                assert!(held || settled, "an acceptance leaves once it is durable");
                state.claimed = state.claimed.max(*ballot);
                self.hits.accepted_again += u64::from(!held);
            }
            Message::Prepare { ballot, .. } => {
                assert!(state.disk.promised() >= *ballot, "a ballot is durable before its use");
                let user = self.prepared.entry(*ballot).or_insert(state.incarnation);
                assert_eq!(*user, state.incarnation, "a ballot is never used twice");
            }
            Message::Accept { ballot, slot, value, .. } => {
                let known = self.proposed.entry((*slot, *ballot)).or_insert_with(|| value.clone());
                assert_eq!(known, value, "one value per slot and ballot");
            }
            Message::TakeOver { chosen, .. } => {
                let core = state.core.as_ref().expect("it sends");
                assert_eq!(core.next_slot(), chosen.next(), "all that was proposed is chosen");
                // It holds all on its disk, or knows it to be chosen; unless a crash has taken away
                // what it had only told of.
                let target = &self.nodes[usize::from(outgoing.to.0) - 1];
                for (slot, value) in self.oracle.range(..=*chosen) {
                    let held = target.disk.holds(*slot, value) || target.chosen.contains_key(slot);
                    assert!(held || target.lost_writes, "the target holds slot {slot}");
                }
            }
            Message::Nack { .. } => self.hits.nacks += 1,
            Message::AcceptedValue { .. } => self.hits.values_fetched += 1,
            _ => {}
        }
        self.transmit(node, outgoing);
    }

    fn transmit(&mut self, from: usize, outgoing: Outgoing<Text>) {
        let to = outgoing.to.0 as usize - 1;
        assert_ne!(from, to);
        if self.blocked[from][to] || self.rng.below(100) < self.faults.loss_percent {
            self.hits.lost_messages += 1;
            return;
        }
        let copies = 1 + u64::from(self.rng.below(100) < self.faults.double_percent);
        for _ in 0..copies {
            let mut time = self.now + 1 + self.rng.below(self.faults.delay_max.as_nanos() as u64);
            if !self.faults.reorder {
                let busy = &mut self.link_busy_until[from][to];
                time = time.max(*busy);
                *busy = time;
            }
            self.message_count += 1;
            self.messages.insert(self.message_count, outgoing.message.clone());
            self.at(time, What::Deliver { from, to, message: self.message_count, arrived: false });
        }
    }

    // ---- what tests ask ----

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].core.is_some()
    }

    pub(super) fn can_propose(&self, node: usize) -> bool {
        if self.nodes[node].paused_until > self.now {
            return false;
        }
        self.nodes[node].core.as_ref().is_some_and(Core::can_propose)
    }

    pub(super) fn has_chosen(&self, node: usize, value: &Text) -> bool {
        self.nodes[node].chosen.values().any(|(_, chosen)| chosen == value)
    }

    pub(super) fn round_max(&self) -> u64 {
        let cores = self.nodes.iter().filter_map(|node| node.core.as_ref());
        cores.map(|core| core.promised().round).max().unwrap_or(0)
    }

    pub(super) fn describe(&self) -> String {
        let of = |node: &Node| node.core.as_ref().map(|core| core.status());
        self.nodes.iter().map(|node| format!("{:?}\n", of(node))).collect()
    }

    /// All values chosen so far, without no-ops, must differ: each was proposed once.
    pub(super) fn check_values_once(&self) {
        let mut seen = BTreeSet::new();
        for value in self.oracle.values().filter(|value| **value != Text::noop()) {
            assert!(seen.insert(value.clone()), "{value:?} is chosen in two slots");
        }
    }
}

impl Disk {
    fn apply(&mut self, write: Write<Text>) {
        match write {
            Write::Promise(ballot) => {
                assert!(ballot > self.vote, "the vote file never goes back");
                self.vote = ballot;
            }
            Write::Entry { slot, ballot, chosen, value } => {
                self.log.push(LogWrite { slot, ballot, chosen, value });
            }
        }
    }

    fn promised(&self) -> Ballot {
        self.log.iter().map(|write| write.ballot).max().unwrap_or(Ballot::NONE).max(self.vote)
    }

    fn has(&self, slot: Slot, ballot: Ballot) -> bool {
        self.log.iter().any(|write| write.slot == slot && write.ballot == ballot)
    }

    fn holds(&self, slot: Slot, value: &Text) -> bool {
        self.log.iter().any(|write| write.slot == slot && write.value == *value)
    }
}
