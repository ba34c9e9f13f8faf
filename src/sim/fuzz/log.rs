//! The log's recovery, its reads and `inspect`, over a disk that was written by the real log and
//! then changed.
//!
//! Held: nothing panics, whatever stands on the disk. As long as no checksum was forged, a value
//! that is handed out is the one that was appended for its slot and ballot; and what `inspect`
//! finds in order can be opened; what it finds damaged is refused by the opening or found by the log
//! afterwards. A log that was opened takes further entries, and is opened again with them.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::Script;
use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, KIB, SECTOR_SIZE};
use crate::base::{
    Ballot, Batch, BlockPool, Checksum, GroupId, Incarnation, LogId, NodeId, Placement, Position,
    Slot, Span,
};
use crate::io::{FileOptions, Storage};
use crate::log::{
    DataDir, Entry, FormatRequest, Log, LogError, LogEvent, LogOptions, LogRecovered, Member,
    ReadTicket, RestoreError, inspect, placement_bytes_max,
};
use crate::sim::disk::{DiskCopy, DiskOptions, TestDisk};

/// Changes to one disk.
const EDITS_MAX: usize = 16;
/// Completions within which a log must come to rest.
const EVENTS_MAX: usize = 100_000;
const SLOTS: u64 = 14;
/// What stands for the machine's state in a checkpoint.
const STATE: &[u8] = b"the state of a machine";

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRun {
    /// Whether the log could be opened; otherwise it was refused as damaged.
    pub opened: bool,
    /// Whether a checksum was made to fit a change.
    pub forged: bool,
    /// Chosen slots replayed.
    pub replayed: u64,
    /// Chosen slots that the checkpoint covered.
    pub covered: u64,
}

/// A disk with a log on it, as it was before the changes.
struct Original {
    copy: DiskCopy,
    files: Vec<String>,
    values: BTreeMap<(Slot, Ballot), Vec<u8>>,
}

thread_local! {
    static ORIGINAL: OnceCell<Original> = const { OnceCell::new() };
}

fn options() -> LogOptions {
    let pool = BlockPool::new(4 << 20);
    let options = LogOptions::new(Incarnation(7), NodeId(1), GroupId(0), pool);
    LogOptions {
        segment_bytes: 32 * KIB as u64,
        entry_bytes_max: 8 * KIB,
        spare_segments: 1,
        checkpoint_bytes_min: Some(20 * KIB as u64),
        checkpoint_factor: 1,
        ..options
    }
}

fn disk_options() -> DiskOptions {
    // The changes go behind the log's back.
    DiskOptions { check_overwrites: false, ..DiskOptions::default() }
}

fn folder() -> String {
    DataDir::group_folder(GroupId(0))
}

// ---- the original -------------------------------------------------------------------------------

fn make_original() -> Original {
    let mut disk = TestDisk::new(1, disk_options());
    let log_options = options();
    let request = FormatRequest {
        cluster: "fuzz".to_owned(),
        incarnation: log_options.incarnation,
        node: NodeId(1),
        members: vec![Member { node: NodeId(1), address: "host:1".to_owned() }],
        group_count: 1,
        segment_bytes: log_options.segment_bytes,
        entry_bytes_max: log_options.entry_bytes_max,
        preallocate_bytes: 0,
    };
    DataDir::format(&mut disk, &request).expect("an empty disk can be formatted");
    let (mut log, _) = open(&mut disk).expect("a formatted log can be opened");
    let mut values = BTreeMap::new();
    let mut chosen = Slot::NONE;
    for number in 1..=SLOTS {
        let ballot = Ballot { round: 1 + number / 5, node: NodeId(1) };
        if number % 5 == 0 {
            log.vote(ballot);
        }
        // Some slots stand twice, the later time at a higher ballot.
        let slots =
            if number % 5 == 1 && number > 1 { number - 1..=number } else { number..=number };
        for slot in slots.map(Slot) {
            let value = value_of(slot, ballot);
            append(&mut log, slot, ballot, chosen, &value);
            values.insert((slot, ballot), value);
            run(&mut log, &mut disk);
        }
        if number > 3 {
            chosen = Slot(number - 3);
            log.set_placement(chosen, Rc::new(placement_of(chosen)));
            if log.checkpoint_due() {
                log.checkpoint(chosen, STATE.to_vec());
            }
        }
    }
    rest(&mut log, &mut disk);
    drop(log);
    let files = disk.file_names();
    Original { copy: disk.save_copy(), files, values }
}

/// Every other slot has records in a log of its own, too, and a command that was refused.
fn placement_of(slot: Slot) -> Placement {
    let mut placement = Placement::simple(Position(slot.0), 1);
    if slot.0.is_multiple_of(2) {
        let log = LogId(1 + slot.0 as u32);
        placement.spans.push(Span { log, first: Position(0), records: 3 });
        placement.refuse(8);
    }
    placement
}

fn value_of(slot: Slot, ballot: Ballot) -> Vec<u8> {
    let size = [100, 3968, 7000, 1, 5000][(slot.0 % 5) as usize];
    (0..size).map(|index| (index as u64 * slot.0 + ballot.round) as u8).collect()
}

fn append(log: &mut Log, slot: Slot, ballot: Ballot, chosen: Slot, value: &[u8]) {
    let batch = Batch::copy_of(&options().pool, value);
    let placement_bytes_max = placement_bytes_max(9, 2);
    log.append(Entry { slot, ballot, chosen, batch: &batch, placement_bytes_max });
}

fn open(disk: &mut TestDisk) -> Result<(Log, LogRecovered), LogError> {
    Log::open_from(disk, &folder(), options(), &mut |_, state| match state == STATE {
        true => Ok(()),
        false => Err(RestoreError::Wrong("another state was written".to_owned())),
    })
}

/// Whether the log finds damage in what its opening has not read; it does nothing more then.
fn finds_damage(log: &mut Log, disk: &mut TestDisk) -> bool {
    for _ in 0..EVENTS_MAX {
        log.submit(disk.now(), disk);
        if log.stats().unverified_segments == 0 {
            return false;
        }
        let Some(event) = disk.pop_next() else {
            disk.advance(log.next_deadline().expect("what is not read yet is waited for"));
            continue;
        };
        let mut reported = Vec::new();
        let now = disk.now();
        log.on_disk_event(now, disk, event, &mut reported).expect("a disk without faults");
        if reported.iter().any(|event| matches!(event, LogEvent::Damaged(_))) {
            return true;
        }
    }
    panic!("the log does not come to an end of what it has not read");
}

/// Runs the log until nothing is in flight; timers are not waited for.
fn run(log: &mut Log, disk: &mut TestDisk) -> Vec<LogEvent> {
    let mut reported = Vec::new();
    for _ in 0..EVENTS_MAX {
        log.submit(disk.now(), disk);
        let Some(event) = disk.pop_next() else { return reported };
        let now = disk.now();
        log.on_disk_event(now, disk, event, &mut reported).expect("a disk without faults");
    }
    panic!("the log does not come to rest");
}

/// Lets time pass until the log has nothing to do by itself.
fn rest(log: &mut Log, disk: &mut TestDisk) {
    run(log, disk);
    if let Some(deadline) = log.next_deadline() {
        disk.advance(deadline);
        run(log, disk);
    }
}

// ---- the changes --------------------------------------------------------------------------------

struct Edits<'a, 'b> {
    script: Script<'a>,
    disk: &'b mut TestDisk,
    files: &'b [String],
    forged: bool,
}

impl Edits<'_, '_> {
    fn run(&mut self) {
        for _ in 0..EDITS_MAX {
            if self.script.is_empty() {
                return;
            }
            self.edit();
        }
    }

    fn name(&mut self) -> String {
        let index = usize::from(self.script.u8()) % self.files.len();
        self.files[index].clone()
    }

    fn edit(&mut self) {
        let (kind, name) = (self.script.u8() % 10, self.name());
        if kind == 0 {
            // Gone already, perhaps.
            drop(self.disk.remove(&name));
            return;
        }
        // A file that was removed is no longer there to be changed.
        let Ok(mut bytes) = self.disk.file_bytes(&name) else { return };
        let blocks = (bytes.len() / BLOCK_SIZE).max(1);
        let start = (usize::from(self.script.u8()) % blocks) * BLOCK_SIZE;
        let end = (start + BLOCK_SIZE).min(bytes.len());
        match kind {
            1 => {
                let other = self.name();
                let Ok(other) = self.disk.file_bytes(&other) else { return };
                let from = (usize::from(self.script.u8()) * BLOCK_SIZE).min(other.len());
                let count = (end - start).min(other.len() - from);
                bytes[start..start + count].copy_from_slice(&other[from..from + count]);
            }
            2 => bytes[start..end].fill(0),
            3 => bytes.truncate(start),
            4 | 5 => self.change(&mut bytes[start..end], BLOCK_SIZE),
            6 => {
                // Small pieces anywhere: torn blocks of 512 bytes.
                let sector = start + usize::from(self.script.u8() % 8) * 512;
                let end = (sector + 512).min(bytes.len());
                bytes[sector.min(end)..end].fill(self.script.u8());
            }
            7 => self.forge_entry(&mut bytes[start..end]),
            8 => self.forge_block(&mut bytes[start..end]),
            _ => self.forge_field(&mut bytes[start..end]),
        }
        self.put(&name, &bytes);
    }

    /// Sets a few bytes within the first `within`.
    fn change(&mut self, block: &mut [u8], within: usize) {
        let at = usize::from(self.script.u16()) % within;
        let count = 1 + usize::from(self.script.u8() % 16);
        let bytes = self.script.take(count);
        for (place, byte) in block.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    /// Changes an entry's header, and its checksum with it.
    fn forge_entry(&mut self, block: &mut [u8]) {
        self.change(block, ENTRY_HEADER_SIZE - 4);
        self.stamp(block, ENTRY_HEADER_SIZE);
    }

    /// Sets one of the numbers of an entry's header to something odd.
    fn forge_field(&mut self, block: &mut [u8]) {
        let at = 8 * (usize::from(self.script.u8()) % (ENTRY_HEADER_SIZE / 8 - 1));
        let number = self.script.odd_number().to_le_bytes();
        if let Some(place) = block.get_mut(at..at + 8) {
            place.copy_from_slice(&number);
        }
        let whole = self.script.u8().is_multiple_of(2);
        self.stamp(block, if whole { BLOCK_SIZE } else { ENTRY_HEADER_SIZE });
    }

    /// Changes a segment's header or a vote, and its checksum with it.
    fn forge_block(&mut self, block: &mut [u8]) {
        self.change(block, 80);
        let segment = self.script.u8().is_multiple_of(2);
        self.stamp(block, if segment { SECTOR_SIZE } else { BLOCK_SIZE });
    }

    /// Makes the checksum fit that stands at the end of the first `size` bytes.
    fn stamp(&mut self, block: &mut [u8], size: usize) {
        if let Some(bytes) = block.get_mut(..size) {
            let checksum = Checksum::of(&bytes[..size - 4]);
            bytes[size - 4..].copy_from_slice(&checksum.0.to_le_bytes());
            self.forged = true;
        }
    }

    /// Puts whole blocks in place of the file.
    fn put(&mut self, name: &str, bytes: &[u8]) {
        let made = self.disk.remove(name).and_then(|()| {
            let file = self.disk.open(name, FileOptions::CreateNew)?;
            let pool = BlockPool::new(0);
            let mut result = Ok(());
            for (index, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
                let mut buffer = pool.take(BLOCK_SIZE);
                buffer.fill(0);
                buffer[..block.len()].copy_from_slice(block);
                let at = (index * BLOCK_SIZE) as u64;
                result = result.and(self.disk.write_at(file, at, &buffer, BLOCK_SIZE));
            }
            let synced = self.disk.sync(file);
            self.disk.close(file);
            result.and(synced)
        });
        made.expect("a disk without faults takes what is written");
    }
}

// ---- the run ------------------------------------------------------------------------------------

/// Changes a disk as `data` says, inspects it, and opens and reads the log on it.
pub fn recover_log(data: &[u8]) -> LogRun {
    ORIGINAL.with(|original| recover_changed(original.get_or_init(make_original), data))
}

fn recover_changed(original: &Original, data: &[u8]) -> LogRun {
    let mut disk = TestDisk::new(1, disk_options());
    disk.restore_copy(&original.copy);
    let script = Script::new(data);
    let mut edits = Edits { script, disk: &mut disk, files: &original.files, forged: false };
    edits.run();
    let forged = edits.forged;
    let check = |slot: Slot, ballot: Ballot, value: &[u8]| {
        let known = original.values.get(&(slot, ballot));
        assert!(forged || known.is_some_and(|known| known == value), "slot {slot} at {ballot}");
    };
    let report = inspect::inspect(&mut disk, &mut |slot| {
        check(slot.slot, slot.ballot, slot.value);
    });
    let sound = report.as_ref().is_ok_and(inspect::InspectReport::is_sound);
    // The identity and the vote are not the scrub's.
    let in_segments = report
        .is_ok_and(|report| report.damage.iter().any(|damage| damage.file.contains("segment-")));
    let (mut log, recovered) = match open(&mut disk) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!sound, "inspect finds nothing, and yet: {error}");
            return LogRun { opened: false, forged, replayed: 0, covered: 0 };
        }
    };
    for (slot, ballot, batch) in &recovered.accepted {
        check(*slot, *ballot, batch.value());
    }
    let (mut replayed, covered) = (0, recovered.checkpoint.0);
    let result = log.replay(&mut disk, &mut |slot, ballot, batch| {
        check(slot, ballot, batch.value());
        replayed += 1;
        Ok(Rc::new(placement_of(slot)))
    });
    if let Err(error) = result {
        // What the opening has read was in order; only a forged file may surprise the replay, or
        // damage in what it has not read.
        assert!(forged || !sound, "a log that was opened replays: {error}");
        return LogRun { opened: true, forged, replayed, covered };
    }
    assert_eq!(
        replayed + covered,
        recovered.chosen.0,
        "every chosen slot after the checkpoint is replayed"
    );
    let damaged = finds_damage(&mut log, &mut disk);
    assert!(forged || damaged == in_segments, "inspect: {in_segments}; the log: {damaged}");
    if damaged {
        return LogRun { opened: true, forged, replayed, covered };
    }
    read_all(&mut log, &mut disk, &recovered, &check);
    go_on(log, disk, &recovered);
    LogRun { opened: true, forged, replayed, covered }
}

fn read_all(
    log: &mut Log,
    disk: &mut TestDisk,
    recovered: &LogRecovered,
    check: &dyn Fn(Slot, Ballot, &[u8]),
) {
    let accepted = recovered.accepted.iter().map(|(slot, ..)| *slot);
    let chosen = (1..=recovered.chosen.0).map(Slot);
    let mut wanted = 0;
    for slot in chosen.chain(accepted).take(SLOTS as usize * 2) {
        let ticket = ReadTicket(slot.0);
        wanted += u32::from(log.read_slot(disk, ticket, slot).is_ok());
    }
    for event in run(log, disk) {
        let LogEvent::Read { ticket, result } = event else { continue };
        wanted -= 1;
        if let Ok(entry) = result {
            assert_eq!(entry.slot.0, ticket.0, "the slot that was asked for");
            check(entry.slot, entry.ballot, entry.batch.value());
        }
    }
    assert_eq!(wanted, 0, "every read that was taken ends");
}

/// Appends what a replica could have accepted next, and opens the log once more.
fn go_on(mut log: Log, mut disk: TestDisk, recovered: &LogRecovered) {
    let last = recovered.accepted.last().map_or(recovered.chosen, |(slot, ..)| *slot);
    let (Some(slot), Some(round)) =
        (last.0.checked_add(1), recovered.promised.round.checked_add(1))
    else {
        return;
    };
    let (slot, ballot) = (Slot(slot), Ballot { round, node: NodeId(1) });
    append(&mut log, slot, ballot, recovered.chosen, &value_of(slot, ballot));
    rest(&mut log, &mut disk);
    drop(log);
    let (_, again) = open(&mut disk).expect("what was just written can be opened");
    assert!(again.promised >= ballot, "the accepted ballot is found again");
    let found = again.accepted.last().is_some_and(|(found, at, batch)| {
        (*found, *at) == (slot, ballot) && batch.value() == value_of(slot, ballot)
    });
    assert!(found, "the entry that was appended is found again");
}
