//! One replica: the real core, its disk, and what it has claimed; and what one input makes of it.
//!
//! Called by the search for every new (state, input). Properties checked here, of one replica:
//!
//! - no Prepare, Promise or Accepted leaves before the disk holds what it claims;
//! - nothing is accepted below a promise that was sent;
//! - a restart finds every promise and acceptance that was sent;
//! - slots are chosen in order, and a slot keeps its chosen value over restarts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::{Bounds, Checks};
use crate::base::{Ballot, Checksum, Instant, NodeId, Slot};
use crate::paxos::{
    Config, Core, Effect, Fitness, Input, Message, Outgoing, PersistId, Recovered, Role, Value,
    Write,
};

/// Longer than every timeout together.
const LONG: Duration = Duration::from_secs(3600);

/// Ticks after which a replica must have started a campaign, whatever it was.
const TICKS_TO_CAMPAIGN_MAX: usize = 3;

/// A value: its proposer and a number of that proposer's; the no-op is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Tag(u16);

impl Tag {
    fn new(replica: usize, number: u8) -> Tag {
        Tag((replica as u16 + 1) << 8 | u16::from(number))
    }

    /// The proposer's index and its number, unless it is the no-op.
    pub(super) fn origin(self) -> Option<(usize, u8)> {
        let replica = (self.0 >> 8).checked_sub(1)?;
        Some((usize::from(replica), self.0 as u8))
    }
}

/// `2a` is replica 2's first value.
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin() {
            None => write!(f, "no-op"),
            Some((replica, number)) => {
                let letter = char::from(b'a' + number.saturating_sub(1).min(25));
                write!(f, "{}{letter}", replica + 1)
            }
        }
    }
}

impl Value for Tag {
    fn noop() -> Tag {
        Tag(0)
    }

    fn size(&self) -> usize {
        1
    }

    fn checksum(&self) -> Checksum {
        Checksum(u32::from(self.0))
    }
}

/// What may happen to a replica.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A message arrives.
    Deliver(usize, Message<Tag>),
    /// All its timeouts run out, and others grant its pre-vote.
    Campaign,
    /// A client's value is proposed.
    Propose,
    /// It is told to hand the leadership over; to itself: to keep it after all.
    Transfer(usize),
    /// The oldest write of the vote file, or of the log, becomes durable.
    Durable(File),
    /// It loses its memory and what is not durable, and starts again.
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum File {
    Vote,
    Log,
}

/// A message, and to whom.
pub(super) type Sent = (usize, Message<Tag>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    write: Write<Tag>,
    then: Vec<Sent>,
}

#[derive(Clone, Debug, Default, Hash)]
struct Disk {
    vote: Ballot,
    /// Per slot the record of the highest ballot.
    log: BTreeMap<Slot, (Ballot, Tag)>,
    /// The highest ballot on any record.
    log_ballot: Ballot,
    watermark: Slot,
}

/// A replica.
#[derive(Clone)]
pub(super) struct Local {
    me: usize,
    core: Core<Tag>,
    disk: Disk,
    votes_pending: VecDeque<(PersistId, Pending)>,
    log_pending: VecDeque<(PersistId, Pending)>,
    /// What it knows to be chosen, from slot 1, and the ballot it holds it at.
    chosen: Vec<(Ballot, Tag)>,
    /// Client values it has proposed.
    pub(super) proposals: u8,
    // ---- history, for the checks: survives crashes ----
    /// Every value that has been durable here, with the ballot it was accepted at.
    pub(super) accepted: BTreeSet<(Slot, Ballot, Tag)>,
    /// The longest run of chosen values that it has told.
    pub(super) told: Vec<Tag>,
    /// The highest ballot in a promise or acceptance that was sent.
    claimed: Ballot,
    /// The highest ballot in a promise that was sent.
    promised_sent: Ballot,
}

/// A replica after an event, and what it sent.
pub(super) struct Next {
    pub(super) local: Local,
    pub(super) sent: Vec<Sent>,
    /// Whether a write that this event asked for waits to become durable.
    pub(super) delayed: bool,
}

impl Local {
    pub(super) fn new(me: usize, bounds: &Bounds) -> Local {
        let core = new_core(me, bounds, Recovered::default());
        Local {
            me,
            core: core.expect("the bounds make a configuration that works"),
            disk: Disk::default(),
            votes_pending: VecDeque::new(),
            log_pending: VecDeque::new(),
            chosen: Vec::new(),
            proposals: 0,
            accepted: BTreeSet::new(),
            told: Vec::new(),
            claimed: Ballot::NONE,
            promised_sent: Ballot::NONE,
        }
    }

    /// Everything that decides what comes of it, as bytes: equal only for equal replicas.
    pub(super) fn key(&self) -> Box<[u8]> {
        let mut bytes = Bytes(Vec::with_capacity(256));
        let Local { me, core, disk, votes_pending, log_pending, chosen, .. } = self;
        let Local { proposals, accepted, told, claimed, promised_sent, .. } = self;
        core.hash_timeless(&mut bytes);
        (me, disk, chosen, proposals, accepted, told).hash(&mut bytes);
        (claimed, promised_sent).hash(&mut bytes);
        for queue in [votes_pending, log_pending] {
            queue.len().hash(&mut bytes);
            queue.iter().for_each(|(_, pending)| pending.hash(&mut bytes));
        }
        bytes.0.into()
    }

    pub(super) fn can_propose(&self, bounds: &Bounds) -> bool {
        self.core.can_propose() && self.core.next_slot() <= Slot(bounds.slots)
    }

    pub(super) fn leads(&self) -> bool {
        self.core.role() == Role::Leader
    }

    pub(super) fn waits_for(&self, file: File) -> bool {
        !self.pending(file).is_empty()
    }

    fn pending(&self, file: File) -> &VecDeque<(PersistId, Pending)> {
        match file {
            File::Vote => &self.votes_pending,
            File::Log => &self.log_pending,
        }
    }

    fn pending_mut(&mut self, file: File) -> &mut VecDeque<(PersistId, Pending)> {
        match file {
            File::Vote => &mut self.votes_pending,
            File::Log => &mut self.log_pending,
        }
    }

    /// What comes of an event. With `delay`, writes that it asks for wait for their own event.
    pub(super) fn after(
        &self,
        event: &Event,
        delay: bool,
        bounds: &Bounds,
    ) -> Result<Next, String> {
        let local = self.clone();
        let mut run = Run { local, sent: Vec::new(), asked: None, waiting: [false; 2], bounds };
        run.waiting = FILES.map(|file| run.local.waits_for(file));
        match event {
            Event::Deliver(from, message) => run.step(message_from(*from, message.clone()))?,
            Event::Campaign => run.campaign()?,
            Event::Propose => {
                run.local.proposals += 1;
                let value = Tag::new(self.me, run.local.proposals);
                run.step(Input::Propose(value))?;
            }
            Event::Durable(file) => {
                let write = run.local.pending_mut(*file).pop_front().ok_or("nothing to write")?;
                run.waiting = FILES.map(|file| run.local.waits_for(file));
                run.complete(write)?;
            }
            Event::Transfer(to) => run.step(Input::TransferTo(id(*to)))?,
            Event::Crash => run.crash()?,
        }
        if !delay {
            run.complete_new()?;
        }
        let delayed = (0..2).any(|file| run.local.waits_for(FILES[file]) && !run.waiting[file]);
        Ok(Next { local: run.local, sent: run.sent, delayed })
    }
}

const FILES: [File; 2] = [File::Vote, File::Log];

fn config(me: usize, bounds: &Bounds) -> Config {
    let mut config = Config::new(id(me), (0..bounds.replicas).map(id).collect());
    config.window_slots_max = bounds.slots;
    // Nothing is read, and no start waits for leases to run out.
    config.lease = Duration::ZERO;
    // No disk counts as stalled, whatever time does.
    config.disk_stall_timeout = Duration::MAX;
    config.slow_disk_factor = 0;
    config
}

/// A replica that is connected to all others.
fn new_core(me: usize, bounds: &Bounds, recovered: Recovered<Tag>) -> Result<Core<Tag>, String> {
    let core = Core::new(config(me, bounds), recovered, Instant(0), 0);
    let mut core = core.map_err(|error| error.to_string())?;
    let mut effects = Vec::new();
    for other in (0..bounds.replicas).filter(|other| *other != me) {
        core.step(Instant(0), Input::PeerConnected(id(other)), &mut effects);
    }
    match effects.first() {
        None => Ok(core),
        Some(effect) => Err(format!("{effect:?} at the start")),
    }
}

fn id(replica: usize) -> NodeId {
    NodeId(replica as u16 + 1)
}

fn message_from(replica: usize, message: Message<Tag>) -> Input<Tag> {
    Input::Message { from: id(replica), message }
}

/// A replica while it handles one event.
struct Run<'a> {
    local: Local,
    sent: Vec<Sent>,
    /// The ballot it has asked pre-votes for.
    asked: Option<Ballot>,
    /// Whose writes waited already, so that those behind them wait too.
    waiting: [bool; 2],
    bounds: &'a Bounds,
}

impl Run<'_> {
    fn check(&self, holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
        if holds || self.bounds.checks == Checks::Agreement {
            return Ok(());
        }
        Err(what())
    }

    fn step(&mut self, input: Input<Tag>) -> Result<(), String> {
        // The core goes on from the greatest time that it was handed.
        self.step_at(Instant(0), input)?;
        self.step_at(Instant(0), Input::EndOfTurn)
    }

    fn step_at(&mut self, now: Instant, input: Input<Tag>) -> Result<(), String> {
        let mut effects = Vec::new();
        self.local.core.step(now, input, &mut effects);
        effects.into_iter().try_for_each(|effect| self.carry_out(effect))
    }

    fn campaign(&mut self) -> Result<(), String> {
        for _ in 0..TICKS_TO_CAMPAIGN_MAX {
            let deadline = self.local.core.next_deadline().ok_or("a replica has a deadline")?;
            self.step_at(deadline + LONG, Input::Tick)?;
            if self.asked.is_some() {
                break;
            }
        }
        // A planted bug may leave the pre-vote out.
        let Some(ballot) = self.asked.take() else { return Ok(()) };
        let me = self.local.me;
        let others = (0..self.bounds.replicas).filter(|replica| *replica != me);
        for other in others.take(self.bounds.replicas / 2) {
            let (promised, chosen) = (Ballot::NONE, Slot::NONE);
            let grant = Message::PreVoteReply { ballot, granted: true, promised, chosen };
            self.step(message_from(other, grant))?;
        }
        Ok(())
    }

    // ---- effects ----

    fn carry_out(&mut self, effect: Effect<Tag>) -> Result<(), String> {
        match effect {
            Effect::Persist { id, write, then } => self.persist(id, write, then),
            Effect::Send(Outgoing { to, message }) => self.send(index(to), message),
            Effect::Chosen { slot, ballot, value } => self.choose(slot, ballot, value),
            Effect::SendChosen { to, first, last } => {
                for slot in first.0..=last.0 {
                    let (ballot, value) = self.local.chosen[slot as usize - 1];
                    let message = Message::Learn { slot: Slot(slot), ballot, value };
                    self.send(index(to), message)?;
                }
                Ok(())
            }
            Effect::ReadReady { .. } | Effect::ReadFailed { .. } => {
                Err("an answer to a read that nobody made".to_owned())
            }
            Effect::ForgetCut => Err("something is made good that was never cut".to_owned()),
            Effect::RoleChanged(_) | Effect::TransferEnded { .. } => Ok(()),
        }
    }

    fn persist(
        &mut self,
        id: PersistId,
        write: Write<Tag>,
        then: Vec<Outgoing<Tag>>,
    ) -> Result<(), String> {
        let file = match &write {
            Write::Promise(_) => File::Vote,
            Write::Entry { slot, ballot, .. } => {
                let promised = self.local.promised_sent;
                self.check(then.is_empty() || *ballot >= promised, || {
                    format!("accepts slot {slot} at {ballot} having promised {promised}")
                })?;
                File::Log
            }
        };
        let then = then.into_iter().map(|reply| (index(reply.to), reply.message)).collect();
        self.local.pending_mut(file).push_back((id, Pending { write, then }));
        Ok(())
    }

    fn choose(&mut self, slot: Slot, ballot: Ballot, value: Tag) -> Result<(), String> {
        let local = &mut self.local;
        if slot.0 != local.chosen.len() as u64 + 1 {
            return Err(format!("chooses slot {slot} after {}", local.chosen.len()));
        }
        local.chosen.push((ballot, value));
        match local.told.get(slot.0 as usize - 1) {
            None => local.told.push(value),
            Some(told) if *told == value => {}
            Some(told) => return Err(format!("slot {slot} was {told} and is {value}")),
        }
        Ok(())
    }

    // ---- the network ----

    fn send(&mut self, to: usize, mut message: Message<Tag>) -> Result<(), String> {
        match &mut message {
            Message::PreVote { ballot, .. } => {
                self.asked = Some(*ballot);
                return Ok(());
            }
            Message::PreVoteReply { .. } => return Ok(()),
            Message::Nack { .. } | Message::HeartbeatReply { .. } if !self.bounds.hints => {
                return Ok(());
            }
            Message::Heartbeat { .. } if !self.bounds.heartbeats => return Ok(()),
            Message::Fetch { .. } if !self.bounds.catch_up => return Ok(()),
            // The count decides nothing but whether an answer is wished.
            Message::Heartbeat { sequence, .. } => *sequence = (*sequence).min(1),
            // Nor does the fitness, which depends on the time: nobody gives way here.
            Message::HeartbeatReply { sequence, fitness, .. } => {
                *sequence = (*sequence).min(1);
                *fitness = Fitness::default();
            }
            Message::Prepare { ballot, release, .. } => {
                // There are no leases: which of them are released decides nothing.
                release.sequence = 0;
                self.check_promised(*ballot)?;
            }
            Message::TakeOver { release, chosen } => {
                release.sequence = 0;
                let proposed = Slot(self.local.core.next_slot().0 - 1);
                self.check(*chosen == proposed, || {
                    format!("hands over with {chosen} chosen of {proposed}")
                })?;
            }
            Message::Promise { ballot, .. } => {
                self.check_promised(*ballot)?;
                self.local.claimed = self.local.claimed.max(*ballot);
                self.local.promised_sent = self.local.promised_sent.max(*ballot);
            }
            Message::Accepted { ballot, slot } => {
                self.check_promised(*ballot)?;
                self.check_accepted(*slot, *ballot)?;
                self.local.claimed = self.local.claimed.max(*ballot);
            }
            _ => {}
        }
        self.sent.push((to, message));
        Ok(())
    }

    fn check_promised(&self, ballot: Ballot) -> Result<(), String> {
        let promised = self.local.disk.promised();
        self.check(promised >= ballot, || format!("claims {ballot} with {promised} on disk"))
    }

    /// The value must be on disk at this ballot, or be the chosen one.
    fn check_accepted(&self, slot: Slot, ballot: Ballot) -> Result<(), String> {
        let held = self.local.disk.log.get(&slot).copied();
        let chosen = self.local.told.get(slot.0 as usize - 1).copied();
        let settled = held.is_some_and(|(own, value)| own == ballot || chosen == Some(value));
        self.check(settled, || format!("claims slot {slot} at {ballot} with {held:?} on disk"))
    }

    // ---- the disk ----

    fn complete(&mut self, (id, pending): (PersistId, Pending)) -> Result<(), String> {
        match pending.write {
            Write::Promise(ballot) => {
                let vote = self.local.disk.vote;
                self.check(ballot > vote, || format!("the vote goes from {vote} to {ballot}"))?;
                self.local.disk.vote = ballot;
            }
            Write::Entry { slot, ballot, chosen, value } => {
                let disk = &mut self.local.disk;
                disk.log_ballot = disk.log_ballot.max(ballot);
                disk.watermark = disk.watermark.max(chosen);
                let held = disk.log.get(&slot).copied();
                if held.is_none_or(|(own, _)| own < ballot) {
                    disk.log.insert(slot, (ballot, value));
                }
                self.local.accepted.insert((slot, ballot, value));
                let rises = held.is_none_or(|(own, _)| own < ballot);
                self.check(rises, || format!("slot {slot} goes from {held:?} to {ballot}"))?;
            }
        }
        for (to, message) in pending.then {
            self.send(to, message)?;
        }
        self.step(Input::Persisted(id))
    }

    /// Completes the writes that do not stand behind one that waits, in the order they were asked.
    fn complete_new(&mut self) -> Result<(), String> {
        loop {
            let free = (0..2).filter(|file| !self.waiting[*file]).map(|file| FILES[file]);
            let first = |file: File| Some((self.local.pending(file).front()?.0, file));
            let Some((_, file)) = free.filter_map(first).min_by_key(|(id, _)| *id) else {
                return Ok(());
            };
            let write = self.local.pending_mut(file).pop_front().ok_or("a write waits")?;
            self.complete(write)?;
        }
    }

    fn crash(&mut self) -> Result<(), String> {
        let (disk, claimed) = (self.local.disk.clone(), self.local.claimed);
        let promised = disk.promised();
        self.check(promised >= claimed, || format!("starts with {promised}, claimed {claimed}"))?;
        let mut chosen = Vec::new();
        for slot in 1..=disk.watermark.0 {
            let held = disk.log.get(&Slot(slot)).copied();
            let held = held.ok_or_else(|| format!("lacks slot {slot}, which it knows chosen"))?;
            let told = self.local.told.get(slot as usize - 1);
            if told.is_some_and(|told| *told != held.1) {
                return Err(format!("starts with slot {slot} as {held:?}, told {told:?}"));
            }
            chosen.push(held);
        }
        let accepted = disk.log.range(disk.watermark.next()..);
        let accepted = accepted.map(|(slot, (ballot, value))| (*slot, *ballot, *value)).collect();
        let recovered = Recovered { promised, chosen: disk.watermark, accepted, cut: None };
        self.local.core = new_core(self.local.me, self.bounds, recovered)?;
        self.local.chosen = chosen;
        self.local.votes_pending.clear();
        self.local.log_pending.clear();
        self.waiting = [false; 2];
        Ok(())
    }
}

impl Disk {
    fn promised(&self) -> Ballot {
        self.vote.max(self.log_ballot)
    }
}

fn index(id: NodeId) -> usize {
    usize::from(id.0) - 1
}

/// A hasher that keeps every byte it is handed.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        panic!("the bytes themselves are wanted")
    }
}
