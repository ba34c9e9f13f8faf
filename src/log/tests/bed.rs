//! The test bed: a log on a simulated disk, and a model of what it must hold.
//!
//! What is checked after every recovery ([`Bed::recover`]): the log holds a prefix of what was
//! appended, in order, with the same bytes, at least as long as what was reported durable; the
//! promise is not below the last durable one nor above the last one asked for; the chosen
//! watermark was told; placements are what they were. And inspect has the same verdict.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::toy::{Fate, place};
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::base::{
    Ballot, Batch, BlockPool, GroupId, Incarnation, LogId, NodeId, Placement, Position, Slot,
};
use crate::io::{DiskEvent, FileOptions, Storage};
use crate::log::inspect::{InspectReport, inspect};
use crate::log::{
    AppendId, Damage, DataDir, Entry, FormatRequest, Log, LogError, LogEvent, LogFailure,
    LogOptions, LogRecovered, LogSync, Member, PositionLookup, ReadEntry, ReadError, ReadTicket,
    VoteId,
};
use crate::sim::disk::{DiskOptions, OpFault, OpKind, TestDisk};

pub const KIB: usize = 1024;
/// Events after which a bed that should come to rest does not.
const EVENTS_MAX: u32 = 100_000;

/// One value handed to the log.
#[derive(Clone, Debug)]
pub struct Appended {
    pub slot: Slot,
    pub ballot: Ballot,
    pub chosen: Slot,
    pub value: Vec<u8>,
}

/// What the log must hold.
#[derive(Debug, Default)]
pub struct Model {
    /// Everything handed to it, in order; cut at a crash to what was found again.
    pub appended: Vec<Appended>,
    /// How many of those were reported durable.
    pub durable: usize,
    /// How many stood there when this process started.
    at_start: usize,
    pub ballot: Ballot,
    pub promise_durable: Ballot,
    pub promise_asked: Ballot,
    votes: Vec<(VoteId, Ballot)>,
    pub applied: Slot,
    pub tails: BTreeMap<LogId, Position>,
    /// What became of each slot that is applied.
    pub placements: BTreeMap<Slot, Placement>,
    pub slot_max: Slot,
    /// The values of slots that were ever applied: they are chosen, and never change again,
    /// whatever this node forgets.
    chosen: BTreeMap<Slot, Vec<u8>>,
    values: u64,
}

impl Model {
    /// The value that stands for each slot, with its ballot, when the first `count` are there.
    fn view(&self, count: usize) -> BTreeMap<Slot, (Ballot, &[u8])> {
        let entries = self.appended[..count].iter();
        entries.map(|entry| (entry.slot, (entry.ballot, &entry.value[..]))).collect()
    }

    fn value(&mut self, size: usize) -> Vec<u8> {
        self.values += 1;
        let mut rng = Rng::new(self.values);
        let mut value: Vec<u8> = (0..size).map(|_| rng.next_u64() as u8).collect();
        if let Some(first) = value.first_mut() {
            *first %= 4;
        }
        value
    }
}

/// What a test does to the log.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A new slot, with a value of this size.
    Append(usize),
    /// The highest slot that is not applied once more, at a higher ballot, with another value.
    Again(usize),
    /// The last applied slot once more, at a higher ballot, with the same value.
    Repeat,
    /// A promise of a higher ballot.
    Vote,
    /// Applies up to so many slots.
    Apply(u64),
    /// Takes up to so many completions.
    Events(u32),
    /// Takes completions until nothing is in flight and no timer is near.
    Drain,
    /// Lets so many milliseconds pass, with what falls due.
    Idle(u64),
}

pub struct Bed {
    pub disk: TestDisk,
    pub options: LogOptions,
    pub log: Option<Log>,
    pub model: Model,
    pub failure: Option<LogFailure>,
    /// What the scrub found.
    pub damaged: Option<Damage>,
    pub reads: Vec<(ReadTicket, Result<ReadEntry, ReadError>)>,
    /// Recoveries that went on from a checkpoint.
    pub checkpoints_used: u32,
    /// Completions taken since the bed was made.
    pub events: u32,
    /// Meets the first such operation of the next recovery that may go on from a checkpoint.
    pub fault_at_open: Option<(OpKind, OpFault)>,
}

pub fn options() -> LogOptions {
    let pool = BlockPool::new(16 << 20);
    let options = LogOptions::new(Incarnation(7), NodeId(1), GroupId(0), pool);
    LogOptions {
        segment_bytes: 64 * KIB as u64,
        entry_bytes_max: 16 * KIB,
        spare_segments: 1,
        mark_idle_after: Some(Duration::from_millis(20)),
        checkpoint_bytes_min: Some(24 * KIB as u64),
        checkpoint_factor: 1,
        ..options
    }
}

pub fn folder() -> String {
    DataDir::group_folder(GroupId(0))
}

pub fn request(options: &LogOptions) -> FormatRequest {
    FormatRequest {
        cluster: "demo".to_owned(),
        incarnation: options.incarnation,
        node: options.node,
        members: vec![Member { node: options.node, address: "host:1".to_owned() }],
        group_count: 1,
        segment_bytes: options.segment_bytes,
        entry_bytes_max: options.entry_bytes_max,
        preallocate_bytes: 0,
    }
}

impl Bed {
    /// A formatted directory with an open, empty log.
    pub fn new(seed: u64, options: LogOptions) -> Bed {
        Bed::on(TestDisk::new(seed, DiskOptions::default()), options)
    }

    pub fn on(mut disk: TestDisk, options: LogOptions) -> Bed {
        let made = DataDir::format(&mut disk, &request(&options));
        made.expect("an empty directory can be formatted");
        let mut bed = Bed::found(disk, options);
        bed.recover().expect("a formatted log can be opened");
        bed
    }

    /// On a disk as it is; nothing is open yet.
    pub fn found(disk: TestDisk, options: LogOptions) -> Bed {
        Bed {
            disk,
            options,
            log: None,
            model: Model::default(),
            failure: None,
            damaged: None,
            reads: Vec::new(),
            checkpoints_used: 0,
            events: 0,
            fault_at_open: None,
        }
    }

    pub fn log(&mut self) -> &mut Log {
        self.log.as_mut().expect("the log is open")
    }

    /// Puts `bytes` (whole blocks) in place of a file, durably, past the log.
    pub fn replace(&mut self, name: &str, bytes: &[u8]) {
        self.disk.remove(name).unwrap();
        let file = self.disk.open(name, FileOptions::CreateNew).unwrap();
        for (index, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
            let mut buffer = self.options.pool.take(BLOCK_SIZE);
            buffer[..BLOCK_SIZE].copy_from_slice(block);
            let offset = (index * BLOCK_SIZE) as u64;
            self.disk.write_at(file, offset, &buffer, BLOCK_SIZE).unwrap();
        }
        self.disk.sync(file).unwrap();
        self.disk.close(file);
    }

    // ---- what is asked of the log -----------------------------------------------------------

    pub fn append(&mut self, size: usize) -> AppendId {
        let slot = self.model.slot_max.next();
        let value = self.model.value(size);
        self.append_value(slot, value)
    }

    pub fn append_slot(&mut self, slot: Slot, size: usize) -> AppendId {
        let value = self.model.value(size);
        self.append_value(slot, value)
    }

    /// The next slot, with a value that starts with these bytes.
    pub fn append_starting(&mut self, head: &[u8], size: usize) -> AppendId {
        let mut value = self.model.value(size);
        value[..head.len()].copy_from_slice(head);
        self.append_value(self.model.slot_max.next(), value)
    }

    fn append_value(&mut self, slot: Slot, value: Vec<u8>) -> AppendId {
        let value = self.model.chosen.get(&slot).cloned().unwrap_or(value);
        let (ballot, chosen) =
            (self.model.ballot.max(Ballot { round: 1, node: NodeId(1) }), self.model.applied);
        self.model.ballot = ballot;
        let batch = Batch::copy_of(&self.options.pool, &value);
        let placement_bytes_max = Fate::of(&value).placement_bytes_max;
        let entry = Entry { slot, ballot, chosen, batch: &batch, placement_bytes_max };
        let id = self.log.as_mut().expect("the log is open").append(entry);
        self.model.appended.push(Appended { slot, ballot, chosen, value });
        self.model.slot_max = self.model.slot_max.max(slot);
        self.model.promise_asked = self.model.promise_asked.max(ballot);
        assert_eq!(id.0 as usize, self.model.appended.len() - self.model.at_start);
        id
    }

    pub fn vote(&mut self) {
        let ballot = self.model.ballot.next_for(NodeId(2));
        self.model.ballot = ballot;
        self.model.promise_asked = ballot;
        let id = self.log().vote(ballot);
        self.model.votes.push((id, ballot));
    }

    /// Applies the next slot, if it stands in the log.
    pub fn apply(&mut self) -> bool {
        let slot = self.model.applied.next();
        let held = self.model.appended.iter().rev().find(|entry| entry.slot == slot);
        let Some(value) = held.map(|entry| entry.value.clone()) else { return false };
        let placement = place(&value, &mut self.model.tails);
        self.model.chosen.insert(slot, value);
        self.log().set_placement(slot, Rc::new(placement.clone()));
        self.model.placements.insert(slot, placement);
        self.model.applied = slot;
        true
    }

    pub fn step(&mut self, step: Step, events_max: u32) {
        match step {
            Step::Append(size) => drop(self.append(size)),
            Step::Again(size) => {
                let slot = self.model.slot_max;
                if slot > self.model.applied {
                    self.model.ballot = self.model.ballot.next_for(NodeId(1));
                    let value = self.model.value(size);
                    self.append_value(slot, value);
                }
            }
            Step::Repeat => {
                let slot = self.model.applied;
                let held = self.model.appended.iter().rev().find(|entry| entry.slot == slot);
                if let Some(value) = held.map(|entry| entry.value.clone()) {
                    self.model.ballot = self.model.ballot.next_for(NodeId(1));
                    self.append_value(slot, value);
                }
            }
            Step::Vote => self.vote(),
            Step::Apply(count) => {
                for _ in 0..count {
                    if !self.apply() {
                        break;
                    }
                }
            }
            Step::Events(count) => {
                for _ in 0..count {
                    if self.events >= events_max || !self.event() {
                        break;
                    }
                }
            }
            Step::Drain => while self.events < events_max && self.event() {},
            Step::Idle(millis) => self.idle(Duration::from_millis(millis), events_max),
        }
    }

    /// Takes the steps until the bed has taken `events_max` completions.
    pub fn play(&mut self, script: &[Step], events_max: u32) {
        for step in script {
            if self.events >= events_max || self.failure.is_some() {
                return;
            }
            self.step(*step, events_max);
        }
    }

    // ---- the loop ---------------------------------------------------------------------------

    /// Submits and takes one completion; `false` when nothing is in flight (timers are not
    /// waited for).
    pub fn event(&mut self) -> bool {
        self.submit();
        match self.disk.pop_next() {
            Some(event) => {
                self.complete(event);
                true
            }
            None => false,
        }
    }

    pub fn submit(&mut self) {
        let now = self.disk.now();
        if self.log().checkpoint_due() {
            let (applied, state) = (self.model.applied, encode_tails(&self.model.tails));
            self.log().checkpoint(applied, state);
        }
        self.log.as_mut().expect("the log is open").submit(now, &mut self.disk);
    }

    /// Lets time pass, with everything that falls due.
    pub fn idle(&mut self, time: Duration, events_max: u32) {
        let end = self.disk.now() + time;
        for _ in 0..EVENTS_MAX {
            self.submit();
            if self.events >= events_max || self.damaged.is_some() {
                return;
            }
            let due = self.log().next_deadline().unwrap_or(end).min(end);
            let due = due.max(self.disk.now() + Duration::from_nanos(1));
            match self.disk.pop_until(due) {
                Some(event) => self.complete(event),
                None if self.disk.now() >= end => return,
                None => {}
            }
        }
        panic!("the log does not come to rest");
    }

    /// Lets time pass until everything that the start has not read is verified, or damage is found.
    pub fn scrub(&mut self) -> Option<Damage> {
        for _ in 0..EVENTS_MAX {
            if self.damaged.is_some() || self.log().stats().unverified_segments == 0 {
                return self.damaged.take();
            }
            self.idle(Duration::from_millis(10), u32::MAX);
        }
        panic!("the scrub does not end");
    }

    /// Hands a completion to the log, and what it reports to the model.
    pub fn complete(&mut self, event: DiskEvent) {
        self.events += 1;
        assert!(self.events < EVENTS_MAX, "the log does not come to rest");
        let now = self.disk.now();
        let mut out = Vec::new();
        let log = self.log.as_mut().expect("the log is open");
        let result = log.on_disk_event(now, &mut self.disk, event, &mut out);
        if self.failure.is_some() {
            assert!(result.is_err(), "a failed log stays failed");
            assert!(out.is_empty(), "a failed log reports nothing: {out:?}");
        }
        self.failure = self.failure.take().or(result.err());
        for event in out {
            match event {
                LogEvent::Durable(id) => {
                    let count = self.model.at_start + id.0 as usize;
                    assert!(count > self.model.durable, "durability is reported once");
                    assert!(count <= self.model.appended.len(), "of what was appended");
                    self.model.durable = count;
                }
                LogEvent::VoteDurable(id) => {
                    let known = self.model.votes.iter().find(|(vote, _)| *vote == id);
                    let ballot = known.expect("of a promise that was asked for").1;
                    assert!(ballot >= self.model.promise_durable, "promises only rise");
                    self.model.promise_durable = ballot;
                }
                LogEvent::Read { ticket, result } => self.reads.push((ticket, result)),
                LogEvent::Damaged(damage) => self.damaged = Some(damage),
            }
        }
    }

    // ---- crashes ----------------------------------------------------------------------------

    pub fn kill(&mut self, rng: &mut Rng) {
        self.log = None;
        self.disk.kill(rng);
    }

    pub fn power_loss(&mut self, rng: &mut Rng) {
        self.log = None;
        self.disk.power_loss(rng);
    }

    /// Opens the log again without a look at it: for openings that are to fail.
    pub fn recover_quietly(&mut self) -> Result<LogRecovered, LogError> {
        let opened = Log::open(&mut self.disk, &folder(), self.options.clone());
        opened.map(|(_, recovered)| recovered)
    }

    /// Opens the log again and holds it against the model.
    pub fn recover(&mut self) -> Result<LogRecovered, LogError> {
        let report = self.inspect();
        let opened = Log::open(&mut self.disk, &folder(), self.options.clone());
        let (mut log, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if !matches!(error, LogError::Io { .. }) {
                    assert!(!report.damage.is_empty(), "refused but found sound: {error}");
                }
                return Err(error);
            }
        };
        if !report.damage.is_empty() {
            // Then it stands in what was not read: the scrub must find it where inspect does.
            drop(log);
            return self.recover_damaged(&report.damage[0]);
        }
        assert_eq!(report.not_read, [], "what can be opened can be read");
        assert_eq!(report.groups[0].chosen, recovered.chosen.0, "inspect and recovery agree");
        assert_eq!(report.groups[0].entries, recovered.entries);
        assert_eq!(report.groups[0].torn_bytes, recovered.torn_bytes);
        assert_eq!(report.groups[0].promised, recovered.promised.into());
        let mut tails = BTreeMap::new();
        let mut held = BTreeMap::new();
        let placements = &self.model.placements;
        log.replay(&mut self.disk, &mut |slot, ballot, batch| {
            let stands = place(batch.value(), &mut tails);
            let was = placements.get(&slot);
            assert!(
                was.is_none_or(|was| *was == stands),
                "slot {slot} at ballot {ballot} has moved from {was:?} to {stands:?}"
            );
            held.insert(slot, (ballot, batch.value().to_vec()));
            Ok(Rc::new(stands))
        })?;
        drop(log);
        assert_eq!(held.len() as u64, recovered.chosen.0, "every chosen slot is replayed");
        for (slot, ballot, batch) in &recovered.accepted {
            assert!(*slot > recovered.chosen, "accepted slots lie above the chosen ones");
            held.insert(*slot, (*ballot, batch.value().to_vec()));
        }
        self.check(&recovered, &held);
        let log = self.open_from_checkpoint(&recovered, &tails)?;
        self.log = Some(log);
        self.restart_model(&recovered, tails);
        self.find_placed();
        Ok(recovered)
    }

    /// The log opens although this is damaged.
    fn recover_damaged(&mut self, damage: &Damage) -> Result<LogRecovered, LogError> {
        assert!(!self.options.verify_at_start, "opened but found damaged: {damage}");
        let tails = self.model.tails.clone();
        let take = &mut |_: Slot, _: &[u8]| Ok(());
        let options = self.options.clone();
        let (log, recovered) = Log::open_from(&mut self.disk, &folder(), options, take)?;
        self.log = Some(log);
        self.damaged = None;
        // Not from a replay, which may not come past the damage.
        self.model.tails = tails;
        let found = self.scrub().unwrap_or_else(|| panic!("the scrub passes over {damage}"));
        assert_eq!((&found.file, found.offset), (&damage.file, damage.offset), "{found}; {damage}");
        Err(LogError::Corrupt(found)).map(|()| recovered)
    }

    /// Opens the log once more, now from a checkpoint if there is one: the slots after it lead to
    /// where all of them have led.
    fn open_from_checkpoint(
        &mut self,
        recovered: &LogRecovered,
        tails: &BTreeMap<LogId, Position>,
    ) -> Result<Log, LogError> {
        let mut restored = BTreeMap::new();
        let mut from = Slot::NONE;
        let mut restore = |slot: Slot, state: &[u8]| {
            (restored, from) = (decode_tails(state), slot);
            Ok(())
        };
        let options = self.options.clone();
        if let Some((kind, fault)) = self.fault_at_open.take() {
            self.disk.inject(kind, 0, fault);
        }
        let opened = Log::open_from(&mut self.disk, &folder(), options, &mut restore)?;
        let (mut log, again) = opened;
        assert_eq!(again.checkpoint, from);
        assert_eq!((again.promised, again.chosen), (recovered.promised, recovered.chosen));
        assert_eq!(again.entries, recovered.entries);
        let marks = |found: &LogRecovered| -> Vec<_> {
            let accepted = found.accepted.iter();
            accepted.map(|(slot, at, batch)| (*slot, *at, batch.checksum())).collect()
        };
        assert_eq!(marks(&again), marks(recovered));
        let mut next = from;
        log.replay(&mut self.disk, &mut |slot, _, batch| {
            next = next.next();
            assert_eq!(slot, next, "slots after the checkpoint are replayed in order");
            Ok(Rc::new(place(batch.value(), &mut restored)))
        })?;
        assert_eq!((next, &restored), (recovered.chosen, tails), "from slot {from}");
        self.checkpoints_used += u32::from(from > Slot::NONE);
        Ok(log)
    }

    /// The index knows of every record that had a place.
    fn find_placed(&mut self) {
        let log = self.log.as_ref().expect("the log is open");
        for (slot, placement) in &self.model.placements {
            for span in &placement.spans {
                match log.slot_at(span.log, span.first) {
                    PositionLookup::Slot { slot: at, .. } => assert_eq!(at, *slot),
                    PositionLookup::OnDisk => {}
                    PositionLookup::Unknown => panic!("slot {slot} is not found by {span:?}"),
                }
            }
        }
    }

    fn check(&self, recovered: &LogRecovered, held: &BTreeMap<Slot, (Ballot, Vec<u8>)>) {
        let model = &self.model;
        assert!(self.prefix(recovered, held).is_some(), "{}", self.explain(recovered, held));
        assert!(
            recovered.promised >= model.promise_durable,
            "the promise {} went down to {}",
            model.promise_durable,
            recovered.promised
        );
        assert!(recovered.promised <= model.promise_asked, "a promise was invented");
        let told =
            model.applied.max(model.appended.iter().map(|e| e.chosen).max().unwrap_or_default());
        assert!(recovered.chosen <= told, "chosen was invented");
    }

    /// How many of the appended entries the log holds: the smallest number that fits.
    fn prefix(
        &self,
        recovered: &LogRecovered,
        held: &BTreeMap<Slot, (Ballot, Vec<u8>)>,
    ) -> Option<usize> {
        let model = &self.model;
        (model.durable..=model.appended.len()).find(|count| {
            let told = model.appended[..*count].iter().map(|entry| entry.chosen).max();
            let view = model.view(*count);
            recovered.chosen >= told.unwrap_or_default()
                && view.len() == held.len()
                && view.iter().zip(held).all(|((slot, (ballot, value)), (at, (b, v)))| {
                    // A chosen slot may be there twice with one value.
                    slot == at && *value == v && (ballot == b || *slot <= recovered.chosen)
                })
        })
    }

    fn explain(
        &self,
        recovered: &LogRecovered,
        held: &BTreeMap<Slot, (Ballot, Vec<u8>)>,
    ) -> String {
        let slots = |slots: Vec<Slot>| format!("{slots:?}");
        format!(
            "{} entries of {} appended were durable (slots {}), but found were: chosen {}, slots {}",
            self.model.durable,
            self.model.appended.len(),
            slots(self.model.appended.iter().map(|entry| entry.slot).collect()),
            recovered.chosen,
            slots(held.keys().copied().collect()),
        )
    }

    fn restart_model(&mut self, recovered: &LogRecovered, tails: BTreeMap<LogId, Position>) {
        let mut held = BTreeMap::new();
        let model = &mut self.model;
        // As `check` found it: the log's own word is used from here on.
        for entry in &model.appended {
            if entry.slot <= recovered.chosen {
                held.insert(entry.slot, (entry.ballot, entry.value.clone()));
            }
        }
        for (slot, ballot, batch) in &recovered.accepted {
            held.insert(*slot, (*ballot, batch.value().to_vec()));
        }
        let count = self.prefix(recovered, &held).expect("checked before");
        let model = &mut self.model;
        model.appended.truncate(count);
        model.durable = count;
        model.at_start = count;
        model.promise_durable = recovered.promised;
        model.promise_asked = recovered.promised;
        model.ballot = model.ballot.max(recovered.promised);
        model.votes.clear();
        model.applied = recovered.chosen;
        model.tails = tails;
        model.slot_max = model.appended.iter().map(|entry| entry.slot).max().unwrap_or_default();
        let applied = model.applied;
        model.placements.retain(|slot, _| *slot <= applied);
        self.failure = None;
        self.damaged = None;
        self.reads.clear();
    }

    pub fn inspect(&mut self) -> InspectReport {
        inspect(&mut self.disk, &mut |_| {}).expect("the directory is formatted")
    }

    /// The name of a segment's file.
    pub fn segment(number: u64) -> String {
        format!("{}/{}", folder(), crate::log::format::segment_name(number))
    }
}

/// The state of the tests' machine, as a checkpoint has it.
pub fn encode_tails(tails: &BTreeMap<LogId, Position>) -> Vec<u8> {
    let tail = |(log, tail): (&LogId, &Position)| {
        log.0.to_le_bytes().into_iter().chain(tail.0.to_le_bytes())
    };
    tails.iter().flat_map(tail).collect()
}

fn decode_tails(state: &[u8]) -> BTreeMap<LogId, Position> {
    let (tails, rest) = state.as_chunks::<12>();
    assert!(rest.is_empty());
    let tail = |bytes: &[u8; 12]| {
        let (log, tail) = bytes.split_first_chunk::<4>().expect("four bytes");
        let tail = tail.try_into().expect("eight bytes");
        (LogId(u32::from_le_bytes(*log)), Position(u64::from_le_bytes(tail)))
    };
    tails.iter().map(tail).collect()
}

/// The log makes its writes durable in one way or the other.
pub const SYNCS: [LogSync; 2] = [LogSync::Dsync, LogSync::WriteThenFsync];
