//! The world of a script: cores, a network and disks that do nothing by themselves.
//!
//! | command | does |
//! |---|---|
//! | `cluster N [window=S] [retained=S] [ahead=BYTES] [fetch=S] [lease=MS] [prefer=M]` | starts N replicas with empty disks; M has a higher priority |
//! | `timer N` | replica N's clock goes on to its next deadline, and the timer fires |
//! | `wait N… MS` | the clocks go on by so many milliseconds; due timers fire |
//! | `run MS` | all clocks go on by so many milliseconds, 50 at a time; due timers fire, and all settles |
//! | `propose N V…` | proposes the values, one after the other |
//! | `transfer N M` | replica N is told to hand the leadership over to M |
//! | `read N K [lease]` | the Kth read arrives, at level `read-index` or `lease` |
//! | `deliver [A>B] [COUNT]` | delivers what is under way (on one link; the first so many) |
//! | `double A>B` | the first message on the link will arrive twice |
//! | `drop [A>B] [COUNT]` | loses it instead |
//! | `durable [N] [COUNT]` | completes writes (of one replica; the first so many of its log) |
//! | `settle` | completes writes and delivers, in turn, until nothing is left |
//! | `crash N [keep=COUNT]` | loses the memory, and all writes under way but the first so many |
//! | `lose N COUNT` | of a replica that is down: the last so many entries of its log are damaged |
//! | `restart N` | starts it with what its disk holds |
//! | `cut A B…` | A is cut off from each B, in both directions: what is sent is lost |
//! | `hold A B…` | likewise, but what is sent waits, unless its link is named in `deliver` |
//! | `heal` | ends all of both |
//! | `connect A B` | a new connection stands: both are told |
//! | `disconnect A B` | A is told that its connection to B is gone |
//! | `lost A B` | A is told that the connection from B broke |
//! | `status` | a line per replica |
//! | `quietly …` | any of these without showing what comes of it |
//!
//! Each replica has a clock of its own. Each input is followed by the end of the turn. What the
//! effects ask for is shown as it comes; replies that wait for a write stand behind `then`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::show;
use crate::base::{Ballot, Instant, NodeId, Slot};
use crate::paxos::testkit::Text;
use crate::paxos::{
    Config, Core, Cut, Effect, Input, Message, Outgoing, PersistId, ReadId, Recovered, Role, Write,
};

/// A step of `run`.
const RUN_STEP_MS: usize = 50;

/// Rounds of delivering and completing after which a `settle` is taken for endless.
const SETTLE_ROUNDS_MAX: usize = 50;

struct Pending {
    id: PersistId,
    write: Write<Text>,
    then: Vec<Outgoing<Text>>,
}

struct Node {
    core: Option<Core<Text>>,
    clock: Instant,
    vote: Ballot,
    cut: Option<Cut>,
    log: Vec<(Slot, Ballot, Slot, Text)>,
    vote_pending: VecDeque<Pending>,
    log_pending: VecDeque<Pending>,
    /// What it knows to be chosen.
    chosen: BTreeMap<Slot, (Ballot, Text)>,
}

struct Flying {
    from: usize,
    to: usize,
    message: Message<Text>,
}

#[derive(Default)]
pub(super) struct World {
    config: Option<Config>,
    /// The replica of higher priority.
    preferred: Option<usize>,
    nodes: Vec<Node>,
    wire: VecDeque<Flying>,
    cut: BTreeSet<(usize, usize)>,
    held: BTreeSet<(usize, usize)>,
    /// Disks that complete nothing by themselves.
    still: BTreeSet<usize>,
    /// What anybody has found chosen.
    oracle: BTreeMap<Slot, Text>,
}

type Output = Vec<String>;

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}

fn node(word: &str) -> usize {
    number(word).checked_sub(1).expect("replicas are counted from 1")
}

/// The words `A>B` and `COUNT`, both optional.
fn link_and_count(words: &[&str]) -> (Option<(usize, usize)>, usize) {
    let link = words.first().and_then(|word| word.split_once('>'));
    let link = link.map(|(from, to)| (node(from), node(to)));
    let count = words.get(usize::from(link.is_some()));
    (link, count.map_or(usize::MAX, |word| number(word)))
}

impl World {
    pub(super) fn command(&mut self, line: &str, out: &mut Output) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "quietly" => {
                let (_, command) = line.split_once(' ').expect("quietly COMMAND");
                self.command(command, &mut Vec::new());
            }
            "cluster" => self.cluster(&words[1..]),
            "timer" => self.timer(node(words[1]), out),
            "wait" => {
                let (time, nodes) = words[1..].split_last().expect("wait N… MS");
                let time = Duration::from_millis(number(time) as u64);
                for name in nodes {
                    self.wait(node(name), time, out);
                }
            }
            "run" => {
                for _ in 0..number(words[1]) / RUN_STEP_MS {
                    let step = Duration::from_millis(RUN_STEP_MS as u64);
                    for node in 0..self.nodes.len() {
                        match self.nodes[node].core {
                            Some(_) => self.wait(node, step, out),
                            None => self.nodes[node].clock = self.nodes[node].clock + step,
                        }
                    }
                    self.settle(out);
                }
            }
            "propose" => {
                let node = node(words[1]);
                for text in &words[2..] {
                    let core = self.nodes[node].core.as_ref().expect("the replica is up");
                    if core.can_propose() {
                        self.step(node, Input::Propose(Text::new(text)), out);
                    } else {
                        out.push(format!("{} cannot propose {text:?}", words[1]));
                    }
                }
            }
            "transfer" => {
                let to = Input::TransferTo(id(node(words[2])));
                self.step(node(words[1]), to, out);
            }
            "read" => {
                let (index, id) = (node(words[1]), ReadId(number(words[2]) as u64));
                let lease = words.get(3) == Some(&"lease");
                let state = &mut self.nodes[index];
                let core = state.core.as_mut().expect("the replica is up");
                let by_lease = if lease { core.lease_index(state.clock) } else { None };
                match by_lease {
                    Some(slot) => out.push(format!("{} answers at once, up to {slot}", words[1])),
                    None => self.step(index, Input::Read { id, lease }, out),
                }
            }
            "deliver" => {
                let (link, count) = link_and_count(&words[1..]);
                self.deliver(link, count, out);
            }
            "double" => {
                let (link, _) = link_and_count(&words[1..]);
                self.double(link.expect("double A>B"), out);
            }
            "drop" => {
                let (link, count) = link_and_count(&words[1..]);
                for flying in self.take(link, count) {
                    out.push(format!("lost: {}", flying.show()));
                }
            }
            "durable" => {
                let nodes = words.get(1).map_or(0..self.nodes.len(), |word| {
                    let node = node(word);
                    node..node + 1
                });
                let count = words.get(2).map_or(usize::MAX, |word| number(word));
                nodes.for_each(|node| self.durable(node, count, out));
            }
            "settle" => self.settle(out),
            "crash" => {
                let keep = words.get(2).and_then(|word| word.strip_prefix("keep="));
                self.crash(node(words[1]), keep.map_or(0, number), out);
            }
            "lose" => {
                let state = &mut self.nodes[node(words[1])];
                assert!(state.core.is_none(), "a log is damaged while its replica is down");
                state.log.truncate(state.log.len() - number(words[2]));
                state.cut = Some(Cut::Damaged);
            }
            "restart" => self.restart(node(words[1]), out),
            "cut" => {
                for other in &words[2..] {
                    self.cut.insert((node(words[1]), node(other)));
                    self.cut.insert((node(other), node(words[1])));
                }
            }
            "hold" => {
                for other in &words[2..] {
                    self.held.insert((node(words[1]), node(other)));
                    self.held.insert((node(other), node(words[1])));
                }
            }
            "heal" => {
                self.cut.clear();
                self.held.clear();
            }
            "connect" => {
                let (a, b) = (node(words[1]), node(words[2]));
                self.step(a, Input::PeerConnected(id(b)), out);
                self.step(b, Input::PeerConnected(id(a)), out);
            }
            "disconnect" => {
                self.step(node(words[1]), Input::PeerDisconnected(id(node(words[2]))), out);
            }
            "lost" => self.step(node(words[1]), Input::PeerLost(id(node(words[2]))), out),
            "still" => _ = self.still.insert(node(words[1])),
            "moving" => _ = self.still.remove(&node(words[1])),
            "full" | "roomy" => {
                let state = &mut self.nodes[node(words[1])];
                let core = state.core.as_mut().expect("the replica is up");
                core.set_disk_full(state.clock, words[0] == "full");
            }
            "retire" => {
                let node = node(words[1]);
                self.nodes[node].core.as_mut().expect("the replica is up").retire();
                self.step(node, Input::Tick, out);
            }
            "status" => self.status(out),
            other => panic!("there is no command {other}"),
        }
    }

    fn cluster(&mut self, words: &[&str]) {
        let members: Vec<NodeId> = (0..number(words[0])).map(id).collect();
        let mut config = Config::new(members[0], members);
        config.lease = Duration::ZERO;
        for setting in &words[1..] {
            match setting.split_once('=').expect("a setting is NAME=VALUE") {
                ("window", slots) => config.window_slots_max = number(slots) as u64,
                ("ahead", bytes) => config.accept_ahead_bytes_max = number(bytes),
                ("retained", slots) => config.retained_slots_max = number(slots) as u64,
                ("lease", ms) => config.lease = Duration::from_millis(number(ms) as u64),
                ("fetch", slots) => config.fetch_slots_max = number(slots) as u64,
                ("slow", factor) => config.slow_disk_factor = number(factor) as u32,
                ("prefer", name) => self.preferred = Some(node(name)),
                (other, _) => panic!("there is no setting {other}"),
            }
        }
        for index in 0..config.members.len() {
            self.nodes.push(Node {
                core: Some(self.new_core(&config, index, Recovered::default(), Instant(0))),
                clock: Instant(0),
                vote: Ballot::NONE,
                cut: None,
                log: Vec::new(),
                vote_pending: VecDeque::new(),
                log_pending: VecDeque::new(),
                chosen: BTreeMap::new(),
            });
        }
        self.config = Some(config);
    }

    fn step(&mut self, node: usize, input: Input<Text>, out: &mut Output) {
        for input in [input, Input::EndOfTurn] {
            let mut effects = Vec::new();
            let state = &mut self.nodes[node];
            let core = state.core.as_mut().expect("the replica is up");
            core.step(state.clock, input, &mut effects);
            for effect in effects {
                self.carry_out(node, effect, out);
            }
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect<Text>, out: &mut Output) {
        let name = node + 1;
        match effect {
            Effect::Persist { id, write, then } => {
                let shown =
                    then.iter().map(|reply| format!("{name} -> {} {}", reply.to, reply.message));
                let shown: Vec<String> = shown.collect();
                let then_shown = match shown.len() {
                    0 => String::new(),
                    _ => format!(", then {}", shown.join("; ")),
                };
                out.push(format!("{name} writes {}{then_shown}", show::write(&write)));
                let state = &mut self.nodes[node];
                let queue = match write {
                    Write::Promise(_) => &mut state.vote_pending,
                    Write::Entry { .. } => &mut state.log_pending,
                };
                queue.push_back(Pending { id, write, then });
            }
            Effect::Send(outgoing) => self.send(node, outgoing, out),
            Effect::Chosen { slot, ballot, value } => {
                out.push(format!("{name} chooses {}", show::entry(slot, ballot, &value)));
                let known = self.oracle.entry(slot).or_insert_with(|| value.clone());
                assert_eq!(*known, value, "slot {slot} has one chosen value");
                self.nodes[node].chosen.insert(slot, (ballot, value));
            }
            Effect::SendChosen { to, first, last } => {
                for slot in first.0..=last.0 {
                    let slot = Slot(slot);
                    let (ballot, value) = self.nodes[node].chosen[&slot].clone();
                    let message = Message::Learn { slot, ballot, value };
                    self.send(node, Outgoing { to, message }, out);
                }
            }
            Effect::ReadReady { first, last } => {
                out.push(format!("{name} answers the reads {}..{}", first.0, last.0));
            }
            Effect::ReadFailed { first, last } => {
                out.push(format!("{name} gives up the reads {}..{}", first.0, last.0));
            }
            Effect::TransferEnded { to, taken_over } => {
                let word = if taken_over { "has handed over to" } else { "has not handed over to" };
                out.push(format!("{name} {word} {to}"));
            }
            Effect::ForgetCut => {
                out.push(format!("{name} has made good what was cut"));
                self.nodes[node].cut = None;
                self.step(node, Input::CutForgotten, out);
            }
            Effect::RoleChanged(role) => out.push(format!("{name} {}", show::role(role))),
        }
    }

    fn send(&mut self, from: usize, outgoing: Outgoing<Text>, out: &mut Output) {
        let to = usize::from(outgoing.to.0) - 1;
        let lost = self.cut.contains(&(from, to));
        let mark = if lost { "   (cut)" } else { "" };
        out.push(format!("{}{mark}", show::outgoing(from, &outgoing)));
        if !lost {
            self.wire.push_back(Flying { from, to, message: outgoing.message });
        }
    }

    // ---- the network ----

    fn take(&mut self, link: Option<(usize, usize)>, count: usize) -> Vec<Flying> {
        let mut taken = Vec::new();
        for flying in std::mem::take(&mut self.wire) {
            let way = (flying.from, flying.to);
            let wanted = link.map_or(!self.held.contains(&way), |link| link == way);
            if wanted && taken.len() < count {
                taken.push(flying);
            } else {
                self.wire.push_back(flying);
            }
        }
        taken
    }

    fn deliver(&mut self, link: Option<(usize, usize)>, count: usize, out: &mut Output) {
        for flying in self.take(link, count) {
            if self.cut.contains(&(flying.from, flying.to)) || self.nodes[flying.to].core.is_none()
            {
                out.push(format!("lost: {}", flying.show()));
                continue;
            }
            out.push(format!("> {}", flying.show()));
            let input = Input::Message { from: id(flying.from), message: flying.message };
            self.step(flying.to, input, out);
        }
    }

    fn double(&mut self, link: (usize, usize), out: &mut Output) {
        let index = self.wire.iter().position(|flying| link == (flying.from, flying.to));
        let index = index.expect("there is a message to double");
        let Flying { from, to, message } = &self.wire[index];
        let copy = Flying { from: *from, to: *to, message: message.clone() };
        out.push(format!("twice: {}", copy.show()));
        self.wire.insert(index, copy);
    }

    // ---- time ----

    fn timer(&mut self, node: usize, out: &mut Output) {
        let state = &mut self.nodes[node];
        let core = state.core.as_ref().expect("the replica is up");
        let deadline = core.next_deadline().expect("it has a deadline");
        state.clock = state.clock.max(deadline);
        self.step(node, Input::Tick, out);
    }

    fn wait(&mut self, node: usize, time: Duration, out: &mut Output) {
        let state = &mut self.nodes[node];
        state.clock = state.clock + time;
        let core = state.core.as_ref().expect("the replica is up");
        if core.next_deadline().is_some_and(|deadline| deadline <= state.clock) {
            self.step(node, Input::Tick, out);
        }
    }

    // ---- the disks ----

    fn durable(&mut self, node: usize, count: usize, out: &mut Output) {
        let votes = self.nodes[node].vote_pending.len().min(count);
        for _ in 0..votes {
            let pending = self.nodes[node].vote_pending.pop_front().expect("counted above");
            self.complete(node, pending, out);
        }
        let entries = self.nodes[node].log_pending.len().min(count);
        for _ in 0..entries {
            let pending = self.nodes[node].log_pending.pop_front().expect("counted above");
            self.complete(node, pending, out);
        }
    }

    fn complete(&mut self, node: usize, pending: Pending, out: &mut Output) {
        out.push(format!("{} has on disk {}", node + 1, show::write(&pending.write)));
        self.nodes[node].apply(pending.write);
        for reply in pending.then {
            self.send(node, reply, out);
        }
        self.step(node, Input::Persisted(pending.id), out);
    }

    fn settle(&mut self, out: &mut Output) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let before = out.len();
            for node in
                (0..self.nodes.len()).filter(|node| !self.still.contains(node)).collect::<Vec<_>>()
            {
                self.durable(node, usize::MAX, out);
            }
            self.deliver(None, usize::MAX, out);
            if out.len() == before {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    fn crash(&mut self, node: usize, keep: usize, out: &mut Output) {
        let state = &mut self.nodes[node];
        for _ in 0..keep {
            let pending = state.log_pending.pop_front().expect("as many writes are under way");
            out.push(format!("{} has on disk {}", node + 1, show::write(&pending.write)));
            state.apply(pending.write);
        }
        let lost = state.vote_pending.drain(..).chain(state.log_pending.drain(..));
        for pending in lost {
            out.push(format!("lost: write of {} by {}", show::write(&pending.write), node + 1));
        }
        state.core = None;
    }

    fn restart(&mut self, node: usize, out: &mut Output) {
        let recovered = self.nodes[node].recover();
        out.push(format!("{} starts: {}", node + 1, show::recovered(&recovered)));
        let config = self.config.as_ref().expect("there is a cluster");
        let core = self.new_core(config, node, recovered, self.nodes[node].clock);
        self.nodes[node].core = Some(core);
    }

    fn new_core(
        &self,
        config: &Config,
        node: usize,
        recovered: Recovered<Text>,
        now: Instant,
    ) -> Core<Text> {
        let mut config = config.clone();
        config.id = id(node);
        config.priority = u8::from(self.preferred == Some(node));
        Core::new(config, recovered, now, 7).expect("the script's parameters fit together")
    }

    fn status(&self, out: &mut Output) {
        for (index, node) in self.nodes.iter().enumerate() {
            let name = index + 1;
            let Some(core) = &node.core else {
                out.push(format!("{name} is down"));
                continue;
            };
            let status = core.status();
            let (promised, chosen) = (status.promised, status.chosen);
            let proposed = match status.role {
                Role::Leader => format!(" proposed {}", status.proposed),
                _ => String::new(),
            };
            let role = show::role(status.role);
            out.push(format!("{name} {role}, promised {promised} chosen {chosen}{proposed}"));
        }
    }
}

impl Node {
    fn apply(&mut self, write: Write<Text>) {
        match write {
            Write::Promise(ballot) => self.vote = self.vote.max(ballot),
            Write::Entry { slot, ballot, chosen, value } => {
                self.log.push((slot, ballot, chosen, value));
            }
        }
    }

    fn recover(&mut self) -> Recovered<Text> {
        let (mut promised, mut chosen) = (self.vote, Slot::NONE);
        let mut held = BTreeMap::new();
        for (slot, ballot, watermark, value) in &self.log {
            promised = promised.max(*ballot);
            chosen = chosen.max(*watermark);
            held.insert(*slot, (*ballot, value.clone()));
        }
        let accepted = held.split_off(&chosen.next());
        self.chosen = held;
        let accepted = accepted.into_iter().map(|(slot, (ballot, text))| (slot, ballot, text));
        Recovered { promised, chosen, accepted: accepted.collect(), cut: self.cut }
    }
}

impl Flying {
    fn show(&self) -> String {
        format!("{} -> {} {}", self.from + 1, self.to + 1, self.message)
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u16 + 1)
}
