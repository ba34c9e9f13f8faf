//! The search: from world to world, each once.
//!
//! Replica states and messages are numbered as they are found. What an event makes of a replica
//! is computed once and remembered; a step from world to world is then a matter of numbers.
//!
//! Two rules keep the worlds few, and lose nothing, because every message and every bounded event
//! may be left alone:
//!
//! - A delivery that changes no replica, and only makes it answer, is taken at once: the world
//!   with the answer can become whatever the world without it can.
//! - A world whose replicas are in the same states as in a known one, and which has no message
//!   and no event that the known one has not, is not looked at.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::local::{Event, File, Local, Next, Tag};
use super::world::{Left, Network, Rest, World, check, check_one_proposal};
use super::{Bounds, Checks, Order, Progress, REPLICAS_MAX, Report, Violation};
use crate::paxos::Message;

/// Worlds between two reports of progress.
const PROGRESS_WORLDS: usize = 1 << 14;

/// Hashes numbers and their keys fast; nobody chooses them to collide.
#[derive(Clone, Copy, Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// A step: what happens, to which replica, and whether its writes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Step {
    replica: u8,
    delay: bool,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Campaign,
    Propose,
    /// To this replica.
    Transfer(u8),
    Durable(File),
    Crash,
    /// Deliver the message of this number.
    Deliver(u16),
}

/// What an event makes of a replica.
#[derive(Clone)]
struct Outcome {
    replica: u32,
    sent: Rc<[u16]>,
    delayed: bool,
}

/// What may happen to one replica, deliveries left aside: five kinds, and handing over to each.
const ACTIONS_MAX: usize = 5 + REPLICAS_MAX;

struct Envelope {
    from: usize,
    to: usize,
    message: Message<Tag>,
}

/// A step that breaks a property, and how.
type Broken = (Step, String);

/// The last steps of a schedule that breaks a property, and how.
type Schedule = (Vec<Step>, String);

struct Search<'a> {
    bounds: &'a Bounds,
    locals: Vec<Local>,
    local_numbers: Map<Box<[u8]>, u32>,
    messages: Vec<Envelope>,
    /// By replica: the messages that are addressed to it.
    addressed: [Network; REPLICAS_MAX],
    message_numbers: HashMap<(usize, usize, Message<Tag>), u16>,
    outcomes: Map<(u32, Step), Result<Outcome, String>>,
    /// By the states of the replicas: the worlds that no other covers, and how many slots are
    /// chosen there.
    known: Map<[u32; REPLICAS_MAX], (usize, Vec<Rest>)>,
    /// By world, in the order they were found: the world before it, and the step from there.
    origins: Vec<(u32, Step)>,
    waiting: VecDeque<(World, u32, u32)>,
    report: Report,
}

/// Explores every world within `bounds`, and stops at the first violation. `progress` is called
/// now and then.
///
/// # Panics
/// When the bounds are out of range: fewer than two replicas or more than [`REPLICAS_MAX`], or
/// more proposers than replicas.
pub fn explore(bounds: &Bounds, progress: &mut dyn FnMut(Progress)) -> Report {
    assert!((2..=REPLICAS_MAX).contains(&bounds.replicas), "2 to {REPLICAS_MAX} replicas");
    assert!((1..=bounds.replicas).contains(&bounds.proposers), "proposers are replicas");
    let mut search = Search::new(bounds);
    search.run(progress);
    search.report
}

impl Search<'_> {
    fn new(bounds: &Bounds) -> Search<'_> {
        let report = Report {
            worlds: 0,
            steps: 0,
            replica_states: 0,
            combinations: 0,
            messages: 0,
            worlds_chosen: [0; 2],
            depth: 0,
            complete: false,
            violation: None,
        };
        let mut search = Search {
            bounds,
            locals: Vec::new(),
            local_numbers: Map::default(),
            messages: Vec::new(),
            addressed: Default::default(),
            message_numbers: HashMap::new(),
            outcomes: Map::default(),
            known: Map::default(),
            origins: Vec::new(),
            waiting: VecDeque::new(),
            report,
        };
        let first = search.first_world();
        let start = Step { replica: 0, delay: false, action: Action::Propose };
        search.known.insert(first.replicas, (0, vec![first.rest.clone()]));
        search.origins.push((0, start));
        search.waiting.push_back((first, 0, 0));
        search
    }

    fn first_world(&mut self) -> World {
        let mut replicas = [0; REPLICAS_MAX];
        for (index, replica) in replicas.iter_mut().enumerate().take(self.bounds.replicas) {
            *replica = self.number_local(Local::new(index, self.bounds));
        }
        let rest = Rest { left: Left::new(self.bounds), network: Network::default() };
        let world = World { replicas, rest };
        if self.bounds.elected { self.elect(world) } else { world }
    }

    /// The first replica campaigns, and every message arrives.
    fn elect(&mut self, mut world: World) -> World {
        let left = world.rest.left;
        world.rest.left.campaigns += 1;
        let campaign = Step { replica: 0, delay: false, action: Action::Campaign };
        let mut steps = vec![campaign];
        while let Some(step) = steps.pop() {
            let next = self.step(&world, step).expect("a peaceful election breaks nothing");
            let Some(next) = next else { continue };
            let fresh = next.rest.network.iter().filter(|new| !world.rest.network.has(*new));
            steps.extend(fresh.map(|message| self.delivery(message)));
            world = next;
        }
        world.rest.left = left;
        let open = world.rest.network.iter().collect();
        self.close(world, open).expect("a peaceful election breaks nothing")
    }

    fn run(&mut self, progress: &mut dyn FnMut(Progress)) {
        let mut told = 0;
        loop {
            let next = match self.bounds.order {
                Order::Breadth => self.waiting.pop_front(),
                Order::Depth => self.waiting.pop_back(),
            };
            let Some((world, number, depth)) = next else {
                self.report.complete = true;
                break;
            };
            // It may have been covered while it waited.
            if !self.known[&world.replicas].1.contains(&world.rest) {
                continue;
            }
            self.report.depth = self.report.depth.max(depth as usize);
            if let Err((last, what)) = self.expand(&world, number, depth) {
                let steps = self.shrink(self.steps_to(number, last), &what);
                let schedule = steps.iter().map(|step| self.show(*step)).collect();
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
        self.report.combinations = self.known.len();
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
        let next = u16::try_from(self.messages.len());
        *self.message_numbers.entry((from, to, message)).or_insert_with_key(|(_, _, message)| {
            let number = next.expect("small worlds have few different messages");
            self.messages.push(Envelope { from, to, message: message.clone() });
            self.addressed[to].add(number);
            number
        })
    }

    // ---- one replica ----

    /// What the step makes of the replica, remembered.
    fn outcome(&mut self, number: u32, step: Step) -> Result<Outcome, Broken> {
        if let Some(outcome) = self.outcomes.get(&(number, step)) {
            return outcome.clone().map_err(|what| (step, what));
        }
        let outcome = self.compute(number, step);
        self.outcomes.insert((number, step), outcome.clone());
        outcome.map_err(|what| (step, what))
    }

    fn compute(&mut self, number: u32, step: Step) -> Result<Outcome, String> {
        let event = self.event(step.action);
        let local = &self.locals[number as usize];
        let replica = usize::from(step.replica);
        // An assertion of the core is a violation like any other. (Where panics abort, the process
        // ends with its message.)
        let next = catch_unwind(AssertUnwindSafe(|| local.after(&event, step.delay, self.bounds)));
        let next = next.unwrap_or_else(|panic| Err(format!("panics: {}", text_of(&*panic))));
        let next = next.map_err(|what| format!("replica {}: {what}", replica + 1));
        let Next { local, sent, delayed } = next?;
        let mut numbers: Vec<u16> = Vec::new();
        for (to, message) in sent {
            numbers.push(self.number_message(replica, to, message));
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(Outcome { replica: self.number_local(local), sent: numbers.into(), delayed })
    }

    fn event(&self, action: Action) -> Event {
        match action {
            Action::Campaign => Event::Campaign,
            Action::Propose => Event::Propose,
            Action::Transfer(to) => Event::Transfer(usize::from(to)),
            Action::Durable(file) => Event::Durable(file),
            Action::Crash => Event::Crash,
            Action::Deliver(number) => {
                let envelope = &self.messages[usize::from(number)];
                Event::Deliver(envelope.from, envelope.message.clone())
            }
        }
    }

    fn delivery(&self, message: u16) -> Step {
        let replica = self.messages[usize::from(message)].to as u8;
        Step { replica, delay: false, action: Action::Deliver(message) }
    }

    // ---- worlds ----

    /// Finds every world that is one step away.
    fn expand(&mut self, world: &World, number: u32, depth: u32) -> Result<(), Schedule> {
        for replica in 0..self.bounds.replicas {
            for action in self.actions(world, replica).into_iter().flatten() {
                let step = Step { replica: replica as u8, delay: false, action };
                self.take(world, number, depth, step)?;
            }
        }
        for message in world.rest.network.iter() {
            self.take(world, number, depth, self.delivery(message))?;
        }
        Ok(())
    }

    /// What may happen to the replica, deliveries left aside.
    fn actions(&self, world: &World, replica: usize) -> [Option<Action>; ACTIONS_MAX] {
        let local = &self.locals[world.replicas[replica] as usize];
        let left = world.rest.left;
        let proposer = replica < self.bounds.proposers;
        let proposes = proposer && left.proposals > 0 && local.can_propose(self.bounds);
        let mut actions = [None; ACTIONS_MAX];
        actions[..5].copy_from_slice(&[
            (proposer && left.campaigns > 0).then_some(Action::Campaign),
            proposes.then_some(Action::Propose),
            local.waits_for(File::Vote).then_some(Action::Durable(File::Vote)),
            local.waits_for(File::Log).then_some(Action::Durable(File::Log)),
            (left.crashes > 0).then_some(Action::Crash),
        ]);
        if left.transfers > 0 && local.leads() {
            for (to, action) in actions[5..][..self.bounds.replicas].iter_mut().enumerate() {
                *action = Some(Action::Transfer(to as u8));
            }
        }
        actions
    }

    /// Takes the step, once with its writes durable at once, and once with them waiting.
    fn take(&mut self, world: &World, number: u32, depth: u32, step: Step) -> Result<(), Schedule> {
        for delay in [false, true] {
            let step = Step { delay, ..step };
            let next = self.step(world, step).map_err(|(step, what)| (vec![step], what))?;
            let Some(next) = next else { continue };
            self.report.steps += 1;
            let covered = self
                .known
                .get(&next.replicas)
                .is_some_and(|(_, known)| known.iter().any(|known| known.covers(&next.rest)));
            if covered {
                continue;
            }
            let open = self.opened(&next, world, step);
            let next = self.close(next, open);
            let next = next.map_err(|(answer, what)| (vec![step, answer], what))?;
            self.arrive(next, number, depth, step).map_err(|what| (vec![step], what))?;
        }
        Ok(())
    }

    /// The world after the step; none when nothing changes or the step is not possible.
    fn step(&mut self, world: &World, step: Step) -> Result<Option<World>, Broken> {
        let replica = usize::from(step.replica);
        let mut left = world.rest.left;
        let counts = [
            (step.action == Action::Campaign, &mut left.campaigns),
            (step.action == Action::Propose, &mut left.proposals),
            (step.action == Action::Crash, &mut left.crashes),
            (matches!(step.action, Action::Transfer(_)), &mut left.transfers),
            (step.delay, &mut left.delays),
        ];
        for (_, count) in counts.into_iter().filter(|(counts, _)| *counts) {
            let Some(fewer) = count.checked_sub(1) else { return Ok(None) };
            *count = fewer;
        }
        let outcome = self.outcome(world.replicas[replica], step)?;
        let unchanged = outcome.replica == world.replicas[replica];
        if step.delay && !outcome.delayed
            || unchanged && outcome.sent.iter().all(|message| world.rest.network.has(*message))
        {
            return Ok(None);
        }
        let mut next = World { replicas: world.replicas, rest: world.rest.clone() };
        next.replicas[replica] = outcome.replica;
        next.rest.left = left;
        for message in &*outcome.sent {
            self.check_take_over(&next, *message).map_err(|what| (step, what))?;
            self.send(&mut next.rest.network, *message).map_err(|what| (step, what))?;
        }
        Ok(Some(next))
    }

    /// Whoever is told to take over holds everything that was proposed, or knows it to be chosen.
    fn check_take_over(&self, world: &World, message: u16) -> Result<(), String> {
        let Envelope { to, message, .. } = &self.messages[usize::from(message)];
        let Message::TakeOver { chosen, .. } = message else { return Ok(()) };
        let target = &self.locals[world.replicas[*to] as usize];
        let known = target.told.len() as u64;
        let holds = |slot: u64| target.accepted.iter().any(|(held, ..)| held.0 == slot);
        let lacks = |slot: &u64| *slot > known && !holds(*slot);
        match (1..=chosen.0).find(lacks) {
            Some(slot) if self.bounds.checks == Checks::All => {
                Err(format!("replica {} is to take over without slot {slot}", to + 1))
            }
            _ => Ok(()),
        }
    }

    /// Adds a message; false when it was there.
    fn send(&self, network: &mut Network, message: u16) -> Result<bool, String> {
        let envelope = |number: u16| &self.messages[usize::from(number)].message;
        if !network.add(message) {
            return Ok(false);
        }
        if self.bounds.checks == Checks::All {
            check_one_proposal(envelope(message), network.iter().map(envelope))?;
        }
        Ok(true)
    }

    /// What may have an answer in `world` that was not given in `before`, which was closed:
    /// `step` led from there to `world`.
    fn opened(&self, world: &World, before: &World, step: Step) -> Vec<u16> {
        let network = &world.rest.network;
        let addressed = &self.addressed[usize::from(step.replica)];
        let mut open: Vec<u16> = network.iter_and(addressed).collect();
        open.extend(network.iter().filter(|message| !before.rest.network.has(*message)));
        open
    }

    /// Delivers those of `open` that change no replica but make it answer, and so on with the
    /// answers.
    fn close(&mut self, mut world: World, mut open: Vec<u16>) -> Result<World, Broken> {
        while let Some(message) = open.pop() {
            let step = self.delivery(message);
            let number = world.replicas[usize::from(step.replica)];
            let outcome = self.outcome(number, step)?;
            if outcome.replica != number {
                continue;
            }
            for sent in &*outcome.sent {
                let network = &mut world.rest.network;
                if self.send(network, *sent).map_err(|what| (step, what))? {
                    open.push(*sent);
                }
            }
        }
        Ok(world)
    }

    /// Remembers a closed world, unless a known one covers it.
    fn arrive(&mut self, world: World, from: u32, depth: u32, step: Step) -> Result<(), String> {
        let chosen = match self.known.entry(world.replicas) {
            Entry::Occupied(mut entry) => {
                let (chosen, known) = entry.get_mut();
                if known.iter().any(|known| known.covers(&world.rest)) {
                    return Ok(());
                }
                known.retain(|known| !world.rest.covers(known));
                known.push(world.rest.clone());
                *chosen
            }
            Entry::Vacant(entry) => {
                let numbers = &world.replicas[..self.bounds.replicas];
                let local = |number: &u32| &self.locals[*number as usize];
                let locals: Vec<&Local> = numbers.iter().map(local).collect();
                let chosen = check(&locals, self.bounds.checks)?;
                entry.insert((chosen, vec![world.rest.clone()]));
                chosen
            }
        };
        for (index, worlds) in self.report.worlds_chosen.iter_mut().enumerate() {
            *worlds += usize::from(chosen > index);
        }
        let found = self.origins.len() as u32;
        self.origins.push((from, step));
        self.waiting.push_back((world, found, depth + 1));
        Ok(())
    }

    // ---- the way to a violation ----

    /// The steps that were chosen on the way to the world, and `last`.
    fn steps_to(&self, mut number: u32, last: Vec<Step>) -> Vec<Step> {
        let mut steps = Vec::new();
        while number != 0 {
            let (before, step) = self.origins[number as usize];
            steps.push(step);
            number = before;
        }
        steps.reverse();
        steps.extend(last);
        steps
    }

    /// A schedule without what it does not need: what remains breaks the property at its last step,
    /// and would not without any one of its steps. `steps` are those between closed worlds.
    fn shrink(&mut self, steps: Vec<Step>, what: &str) -> Vec<Step> {
        let mut schedule = self.with_answers(&steps);
        loop {
            let length = schedule.len();
            // From the end, so that causes go after what they caused.
            for index in (0..length).rev() {
                let mut shorter = schedule.clone();
                shorter.remove(index);
                if self.breaks(&shorter, what) {
                    schedule = shorter;
                }
            }
            if schedule.len() == length {
                return schedule;
            }
        }
    }

    /// The steps with the deliveries that were taken at once between them.
    fn with_answers(&mut self, steps: &[Step]) -> Vec<Step> {
        let mut all = Vec::new();
        let mut world = self.first_world();
        for step in steps {
            let mut open: Vec<u16> = world.rest.network.iter().collect();
            while let Some(message) = open.pop() {
                let answer = self.delivery(message);
                let before = world.replicas;
                let Ok(Some(next)) = self.step(&world, answer) else { continue };
                if next.replicas == before {
                    all.push(answer);
                    let fresh = next.rest.network.iter().filter(|m| !world.rest.network.has(*m));
                    open.extend(fresh);
                    world = next;
                }
            }
            all.push(*step);
            if let Ok(Some(next)) = self.step(&world, *step) {
                world = next;
            }
        }
        all
    }

    /// Whether the schedule is possible and its last step, and no earlier one, breaks the property.
    fn breaks(&mut self, schedule: &[Step], what: &str) -> bool {
        let mut world = self.first_world();
        for (index, step) in schedule.iter().enumerate() {
            let known = match step.action {
                Action::Deliver(message) => world.rest.network.has(message),
                action => self.actions(&world, usize::from(step.replica)).contains(&Some(action)),
            };
            if !known {
                return false;
            }
            let result = self.step(&world, *step).and_then(|next| match next {
                None => Ok(None),
                Some(next) => {
                    let numbers = &next.replicas[..self.bounds.replicas];
                    let local = |number: &u32| &self.locals[*number as usize];
                    let locals: Vec<&Local> = numbers.iter().map(local).collect();
                    check(&locals, self.bounds.checks).map_err(|what| (*step, what))?;
                    Ok(Some(next))
                }
            });
            match result {
                Err((_, broken)) => return index + 1 == schedule.len() && broken == what,
                Ok(Some(next)) => world = next,
                Ok(None) => {}
            }
        }
        false
    }

    fn show(&self, step: Step) -> String {
        let replica = step.replica + 1;
        let what = match self.event(step.action) {
            Event::Campaign => format!("{replica} campaigns"),
            Event::Transfer(to) => format!("{replica} is to hand over to {}", to + 1),
            Event::Propose => format!("{replica} proposes a client's value"),
            Event::Durable(file) => format!("{replica}'s oldest write is durable: {file:?}"),
            Event::Crash => format!("{replica} crashes and starts again"),
            Event::Deliver(from, message) => format!("{} -> {replica} {message}", from + 1),
        };
        let waits = if step.delay { " (its writes wait)" } else { "" };
        format!("{what}{waits}")
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "with something that is no text".to_owned())
}
