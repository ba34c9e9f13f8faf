//! The search: from world to world, each once.
//!
//! Replica states and messages are numbered as they are found. What an event makes of a replica
//! is computed once and remembered; a step from world to world is then a matter of numbers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::local::{Event, File, Local, Next, Tag};
use super::world::{Left, World, check, check_one_proposal, fingerprint, mix};
use super::{Bounds, Checks, Order, Progress, REPLICAS_MAX, Report, Violation};
use crate::paxos::Message;

/// Worlds between two reports of progress.
const PROGRESS_WORLDS: usize = 1 << 16;

/// Hashes numbers fast.
#[derive(Clone, Copy, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = mix(self.0, u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.0 = mix(self.0, u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0, word);
    }

    fn write_usize(&mut self, word: usize) {
        self.0 = mix(self.0, word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;
type Set<K> = HashSet<K, BuildHasherDefault<Mixer>>;

/// A step: what happens, to which replica, and whether its writes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Step(u32);

const CAMPAIGN: u32 = 0;
const PROPOSE: u32 = 1;
const DURABLE_VOTE: u32 = 2;
const DURABLE_LOG: u32 = 3;
const CRASH: u32 = 4;
/// From here on: the message of that number is delivered.
const DELIVER: u32 = 8;

impl Step {
    fn new(replica: usize, event: u32, delay: bool) -> Step {
        Step(event | (replica as u32) << 24 | u32::from(delay) << 31)
    }

    fn event(self) -> u32 {
        self.0 & 0x00ff_ffff
    }

    fn replica(self) -> usize {
        (self.0 >> 24 & 0x7f) as usize
    }

    fn delay(self) -> bool {
        self.0 >> 31 == 1
    }
}

/// What an event makes of a replica.
#[derive(Clone)]
struct Outcome {
    replica: u32,
    sent: Rc<[u16]>,
    delayed: bool,
}

#[derive(Clone)]
struct Envelope {
    from: usize,
    to: usize,
    message: Message<Tag>,
}

struct Search<'a> {
    bounds: &'a Bounds,
    locals: Vec<Local>,
    local_numbers: Map<Box<[u8]>, u32>,
    messages: Vec<Envelope>,
    message_numbers: HashMap<(usize, usize, Message<Tag>), u16>,
    outcomes: Map<(u32, u32), Result<Outcome, String>>,
    /// Combinations of replica states whose joint properties hold, and how many slots are chosen.
    checked: Map<[u32; REPLICAS_MAX], usize>,
    visited: Set<u64>,
    /// By world, in the order they were found: the world before it, and the step from there.
    origins: Vec<(u32, Step)>,
    waiting: VecDeque<(World, u32, u32)>,
    report: Report,
}

/// Explores every world within `bounds`, and stops at the first violation. `progress` is called
/// now and then.
///
/// # Panics
/// When the bounds are out of range: fewer than two replicas or more than [`REPLICAS_MAX`], more
/// proposers than replicas.
pub fn explore(bounds: &Bounds, progress: &mut dyn FnMut(Progress)) -> Report {
    assert!((2..=REPLICAS_MAX).contains(&bounds.replicas), "2 to {REPLICAS_MAX} replicas");
    assert!((1..=bounds.replicas).contains(&bounds.proposers), "proposers are replicas");
    let mut search = Search::new(bounds);
    search.run(progress);
    search.report
}

impl Search<'_> {
    fn new(bounds: &Bounds) -> Search<'_> {
        let mut search = Search {
            bounds,
            locals: Vec::new(),
            local_numbers: Map::default(),
            messages: Vec::new(),
            message_numbers: HashMap::new(),
            outcomes: Map::default(),
            checked: Map::default(),
            visited: Set::default(),
            origins: Vec::new(),
            waiting: VecDeque::new(),
            report: Report {
                worlds: 0,
                steps: 0,
                replica_states: 0,
                messages: 0,
                worlds_chosen: [0; 2],
                depth: 0,
                complete: false,
                violation: None,
            },
        };
        let mut replicas = [0; REPLICAS_MAX];
        for (index, replica) in replicas.iter_mut().enumerate().take(bounds.replicas) {
            *replica = search.number_local(Local::new(index, bounds));
        }
        let first = World { replicas, left: Left::new(bounds), network: Box::default() };
        search.visited.insert(fingerprint(&first.replicas, first.left, &first.network));
        search.origins.push((0, Step(0)));
        search.waiting.push_back((first, 0, 0));
        search
    }

    fn run(&mut self, progress: &mut dyn FnMut(Progress)) {
        let mut told = 0;
        loop {
            let next = match self.bounds.order {
                Order::Breadth => self.waiting.pop_front(),
                Order::Depth => self.waiting.pop_back(),
            };
            let Some((world, number, depth)) = next else {
                self.report.complete = self.report.violation.is_none();
                break;
            };
            self.report.depth = self.report.depth.max(depth as usize);
            if let Err((step, what)) = self.expand(&world, number, depth) {
                let schedule = self.schedule(number, step);
                self.report.violation = Some(Violation { what, schedule });
                break;
            }
            let worlds = self.origins.len();
            if worlds >= told + PROGRESS_WORLDS {
                told = worlds;
                let waiting = self.waiting.len();
                progress(Progress { worlds, waiting, depth: depth as usize });
            }
            if worlds >= self.bounds.worlds_max {
                break;
            }
        }
        self.report.worlds = self.origins.len();
        self.report.replica_states = self.locals.len();
        self.report.messages = self.messages.len();
    }

    // ---- numbers ----

    fn number_local(&mut self, local: Local) -> u32 {
        match self.local_numbers.entry(local.key()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let number = self.locals.len() as u32;
                entry.insert(number);
                self.locals.push(local);
                number
            }
        }
    }

    fn number_message(&mut self, from: usize, to: usize, message: Message<Tag>) -> u16 {
        let next = self.messages.len();
        *self.message_numbers.entry((from, to, message)).or_insert_with_key(|(_, _, message)| {
            self.messages.push(Envelope { from, to, message: message.clone() });
            u16::try_from(next).expect("small worlds have few different messages")
        })
    }

    // ---- one replica ----

    /// What the step makes of the replica, remembered.
    fn outcome(&mut self, number: u32, step: Step) -> Result<Outcome, String> {
        if let Some(outcome) = self.outcomes.get(&(number, step.0)) {
            return outcome.clone();
        }
        let outcome = self.compute(number, step);
        self.outcomes.insert((number, step.0), outcome.clone());
        outcome
    }

    fn compute(&mut self, number: u32, step: Step) -> Result<Outcome, String> {
        let event = self.event(step);
        let local = &self.locals[number as usize];
        // An assertion of the core is a violation like any other. (Where panics abort, the process
        // ends with its message.)
        let next =
            catch_unwind(AssertUnwindSafe(|| local.after(&event, step.delay(), self.bounds)));
        let next = next.unwrap_or_else(|panic| Err(format!("panics: {}", text_of(&*panic))));
        let named = |what| format!("replica {}: {what}", step.replica() + 1);
        let Next { local, sent, delayed } = next.map_err(named)?;
        let mut numbers: Vec<u16> = Vec::new();
        for (to, message) in sent {
            numbers.push(self.number_message(step.replica(), to, message));
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(Outcome { replica: self.number_local(local), sent: numbers.into(), delayed })
    }

    fn event(&self, step: Step) -> Event {
        match step.event() {
            CAMPAIGN => Event::Campaign,
            PROPOSE => Event::Propose,
            DURABLE_VOTE => Event::Durable(File::Vote),
            DURABLE_LOG => Event::Durable(File::Log),
            CRASH => Event::Crash,
            deliver => {
                let envelope = &self.messages[(deliver - DELIVER) as usize];
                Event::Deliver(envelope.from, envelope.message.clone())
            }
        }
    }

    // ---- worlds ----

    /// Finds every world that is one step away.
    fn expand(&mut self, world: &World, number: u32, depth: u32) -> Result<(), (Step, String)> {
        for replica in 0..self.bounds.replicas {
            let local = &self.locals[world.replicas[replica] as usize];
            let proposer = replica < self.bounds.proposers;
            let left = world.left;
            let possible = [
                (CAMPAIGN, proposer && left.campaigns > 0),
                (PROPOSE, proposer && left.proposals > 0 && local.can_propose(self.bounds)),
                (DURABLE_VOTE, local.waits_for(File::Vote)),
                (DURABLE_LOG, local.waits_for(File::Log)),
                (CRASH, left.crashes > 0),
            ];
            for (event, _) in possible.into_iter().filter(|(_, possible)| *possible) {
                self.take(world, number, depth, replica, event)?;
            }
        }
        for message in &world.network {
            let to = self.messages[usize::from(*message)].to;
            self.take(world, number, depth, to, DELIVER + u32::from(*message))?;
        }
        Ok(())
    }

    /// Takes the step, once with its writes durable at once, and once with them waiting.
    fn take(
        &mut self,
        world: &World,
        number: u32,
        depth: u32,
        replica: usize,
        event: u32,
    ) -> Result<(), (Step, String)> {
        let mut left = world.left;
        match event {
            CAMPAIGN => left.campaigns -= 1,
            PROPOSE => left.proposals -= 1,
            CRASH => left.crashes -= 1,
            _ => {}
        }
        for delay in [false, true] {
            if delay {
                if left.delays == 0 {
                    break;
                }
                left.delays -= 1;
            }
            let step = Step::new(replica, event, delay);
            let outcome = self.outcome(world.replicas[replica], step);
            let outcome = outcome.map_err(|what| (step, what))?;
            if delay && !outcome.delayed {
                break;
            }
            self.arrive(world, number, depth, step, left, &outcome).map_err(|what| (step, what))?;
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        world: &World,
        number: u32,
        depth: u32,
        step: Step,
        left: Left,
        outcome: &Outcome,
    ) -> Result<(), String> {
        self.report.steps += 1;
        let replica = step.replica();
        let fresh = |message: &&u16| world.network.binary_search(message).is_err();
        let fresh: Vec<u16> = outcome.sent.iter().filter(fresh).copied().collect();
        let unchanged = outcome.replica == world.replicas[replica] && fresh.is_empty();
        if unchanged && step.event() >= DELIVER {
            return Ok(());
        }
        if self.bounds.checks == Checks::All {
            let message = |number: &u16| &self.messages[usize::from(*number)].message;
            for (index, new) in fresh.iter().enumerate() {
                let others = world.network.iter().chain(&fresh[..index]).map(message);
                check_one_proposal(message(new), others)?;
            }
        }
        let mut network = Vec::with_capacity(world.network.len() + fresh.len());
        network.extend_from_slice(&world.network);
        network.extend(fresh);
        network.sort_unstable();
        let mut replicas = world.replicas;
        replicas[replica] = outcome.replica;
        if !self.visited.insert(fingerprint(&replicas, left, &network)) {
            return Ok(());
        }
        let chosen = self.check_together(&replicas)?;
        for (index, worlds) in self.report.worlds_chosen.iter_mut().enumerate() {
            *worlds += usize::from(chosen > index);
        }
        let found = self.origins.len() as u32;
        self.origins.push((number, step));
        let world = World { replicas, left, network: network.into() };
        self.waiting.push_back((world, found, depth + 1));
        Ok(())
    }

    fn check_together(&mut self, replicas: &[u32; REPLICAS_MAX]) -> Result<usize, String> {
        if let Some(chosen) = self.checked.get(replicas) {
            return Ok(*chosen);
        }
        let numbers = &replicas[..self.bounds.replicas];
        let locals: Vec<&Local> =
            numbers.iter().map(|number| &self.locals[*number as usize]).collect();
        let chosen = check(&locals, self.bounds.checks)?;
        self.checked.insert(*replicas, chosen);
        Ok(chosen)
    }

    // ---- the way to a violation ----

    fn schedule(&self, mut number: u32, last: Step) -> Vec<String> {
        let mut steps = vec![last];
        while number != 0 {
            let (before, step) = self.origins[number as usize];
            steps.push(step);
            number = before;
        }
        steps.iter().rev().map(|step| self.show(*step)).collect()
    }

    fn show(&self, step: Step) -> String {
        let replica = step.replica() + 1;
        let what = match self.event(step) {
            Event::Campaign => format!("{replica} campaigns"),
            Event::Propose => format!("{replica} proposes a client's value"),
            Event::Durable(file) => format!("{replica}'s oldest write is durable: {file:?}"),
            Event::Crash => format!("{replica} crashes and starts again"),
            Event::Deliver(from, message) => format!("{} -> {replica} {message:?}", from + 1),
        };
        let waits = if step.delay() { " (its writes wait)" } else { "" };
        format!("{what}{waits}")
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "with something that is no text".to_owned())
}
