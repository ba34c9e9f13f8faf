//! Reads by slot and by position: from the segment being written, from sealed ones in memory, and
//! through index footers on disk; after restarts; with damage and errors.

use std::time::Duration;

use super::bed::{Bed, options};
use super::toy::{MANY_LOGS, PLAIN};
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::base::{LogId, Position, Slot};
use crate::log::{
    FILES_CACHED_MAX, FOOTERS_CACHED_MAX, NotStored, OPEN_ATTEMPTS_MAX, PositionLookup, READS_MAX,
    ReadEntry, ReadError, ReadTicket, SHORTAGE_RETRY_INTERVAL,
};
use crate::sim::disk::{OpFault, OpKind, counts};

/// A log with `count` entries of up to four blocks, all durable and applied.
fn filled(seed: u64, count: u64) -> Bed {
    let mut bed = Bed::new(seed, options());
    let mut rng = Rng::new(seed);
    for _ in 0..count {
        bed.append(rng.below(15_800) as usize);
        while bed.event() {}
        assert!(bed.apply());
    }
    bed.idle(Duration::from_millis(100), u32::MAX);
    bed
}

fn finish(bed: &mut Bed, ticket: u64) -> Result<ReadEntry, ReadError> {
    loop {
        if let Some(at) = bed.reads.iter().position(|(found, _)| *found == ReadTicket(ticket)) {
            return bed.reads.swap_remove(at).1;
        }
        assert!(bed.event(), "the read ends");
    }
}

pub fn read_slot(bed: &mut Bed, slot: Slot) -> Result<ReadEntry, ReadError> {
    let log = bed.log.as_mut().unwrap();
    log.read_slot(&mut bed.disk, ReadTicket(slot.0), slot).expect("it is stored");
    finish(bed, slot.0)
}

fn read_position(bed: &mut Bed, id: LogId, at: Position) -> Result<ReadEntry, ReadError> {
    let log = bed.log.as_mut().unwrap();
    let started = log.read_position(&mut bed.disk, ReadTicket(at.0), id, at);
    started.unwrap_or_else(|error| panic!("position {at} of log {id}: {error}"));
    finish(bed, at.0)
}

/// Everything, by slot, is what was appended; and by position.
fn assert_reads(bed: &mut Bed) {
    for entry in bed.model.appended.clone() {
        let found = read_slot(bed, entry.slot).unwrap();
        assert_eq!((found.slot, found.ballot), (entry.slot, entry.ballot));
        assert_eq!(found.batch.value(), entry.value);
        let placement = bed.model.placements.get(&entry.slot);
        assert_eq!(found.placement.as_deref(), placement, "slot {}", entry.slot);
    }
    assert_positions(bed);
}

/// Every applied record is found by its log and position, with its slot's value and placement. Of
/// slots with records in many logs a few are looked for.
pub fn assert_positions(bed: &mut Bed) {
    let many = bed.log().stats().indexed_segments > FOOTERS_CACHED_MAX as u64;
    for (slot, placement) in bed.model.placements.clone() {
        let held = bed.model.appended.iter().rev().find(|entry| entry.slot == slot);
        let value = held.expect("what is applied was appended").value.clone();
        let step = 1 + placement.spans.len() / 4;
        for span in placement.spans.iter().step_by(step) {
            for at in (0..u64::from(span.records)).map(|at| span.first.plus(at)) {
                let found = read_position(bed, span.log, at).unwrap();
                assert_eq!((found.slot, found.batch.value()), (slot, &value[..]));
                assert_eq!(found.placement.as_deref(), Some(&placement));
                match bed.log().slot_at(span.log, at) {
                    PositionLookup::Slot { slot: of, first } => {
                        assert_eq!((of, first), (slot, span.first));
                    }
                    // A newer one that may hold it was read before, and pushed out.
                    PositionLookup::OnDisk if many => {}
                    other => panic!("its footer has just been read: {other:?}"),
                }
            }
        }
    }
    for (log, end) in bed.model.tails.clone() {
        assert_eq!(bed.log().slot_at(log, end), PositionLookup::Unknown, "behind log {log}");
    }
}

#[test]
fn every_slot_and_position_is_found_over_segments_and_restarts() {
    over_segments_and_restarts();
}

pub fn over_segments_and_restarts() {
    let mut bed = filled(1, 40);
    let stats = bed.log().stats();
    assert!(stats.indexed_segments >= 4 && stats.entries_in_memory > 0, "{stats:?}");
    let placements = bed.model.placements.values();
    let others = placements.clone().filter(|p| p.spans.iter().any(|span| span.log != LogId(0)));
    let refused = placements.clone().filter(|p| !p.refused.is_empty());
    assert!(others.count() >= 5 && refused.count() >= 5, "all kinds of slots are there");
    assert_reads(&mut bed);
    bed.power_loss(&mut Rng::new(1));
    bed.recover().unwrap();
    // Chosen is known up to the last entry's word; the rest is learnt again.
    while bed.apply() {}
    bed.idle(Duration::from_millis(100), u32::MAX);
    assert_reads(&mut bed);
}

#[test]
fn a_record_of_a_rare_log_is_found_without_a_look_at_other_segments() {
    let mut bed = Bed::new(3, options());
    let segments = FILES_CACHED_MAX as u64 + 20;
    for slot in 0..segments * 3 {
        // Log 0 gets two records each time; the others what one early slot brings.
        let head = if slot == 4 { [MANY_LOGS + 2, PLAIN] } else { [2, PLAIN] };
        bed.append_starting(&head, 15_000);
        while bed.event() {}
        assert!(bed.apply());
    }
    bed.idle(Duration::from_millis(100), u32::MAX);
    for restarts in 0..2 {
        bed.scrub();
        let placement = bed.model.placements[&Slot(5)].clone();
        let span = *placement.spans.last().unwrap();
        assert!(bed.log().stats().indexed_segments as usize > FILES_CACHED_MAX);
        assert_ne!(span.log, LogId(0));
        assert_eq!(bed.log().slot_at(span.log, span.first), PositionLookup::OnDisk);
        assert_eq!(bed.log().slot_at(LogId(500), Position(0)), PositionLookup::Unknown);
        let before = bed.disk.counters().get(counts::READS);
        let found = read_position(&mut bed, span.log, span.first).unwrap();
        assert_eq!((found.slot, found.placement.as_deref()), (Slot(5), Some(&placement)));
        let reads = bed.disk.counters().get(counts::READS) - before;
        assert_eq!(reads, 2, "a footer and an entry, after {restarts} restarts");
        bed.power_loss(&mut Rng::new(1));
        bed.recover().unwrap();
    }
}

#[test]
fn footers_and_files_pushed_out_of_memory_are_read_again() {
    let segments = FILES_CACHED_MAX as u64 + 20;
    let mut bed = Bed::new(3, options());
    for _ in 0..segments * 3 {
        bed.append(15_000);
        while bed.event() {}
        assert!(bed.apply());
    }
    bed.idle(Duration::from_millis(100), u32::MAX);
    let stats = bed.log().stats();
    assert!(stats.indexed_segments as usize > FILES_CACHED_MAX, "{stats:?}");
    assert!(stats.indexed_segments as usize > FOOTERS_CACHED_MAX);
    assert!(stats.entries_in_memory < 10, "{stats:?}");
    assert_eq!(bed.log().slot_at(LogId(0), Position(0)), PositionLookup::OnDisk);
    let mut rng = Rng::new(5);
    let last = bed.model.slot_max.0;
    for _ in 0..300 {
        let slot = Slot(1 + rng.below(last));
        let found = read_slot(&mut bed, slot).unwrap();
        assert_eq!(found.batch.value(), bed.model.appended[slot.0 as usize - 1].value);
    }
}

#[test]
fn a_slot_accepted_again_is_read_with_its_latest_value() {
    use super::bed::Step::*;
    let mut bed = Bed::new(1, options());
    bed.play(&[Append(100), Append(200), Drain, Again(300), Drain], u32::MAX);
    let latest = bed.model.appended[2].clone();
    let found = read_slot(&mut bed, Slot(2)).unwrap();
    assert_eq!((found.ballot, found.batch.value()), (latest.ballot, &latest.value[..]));
    assert_eq!(found.placement, None, "not applied yet");
    bed.play(&[Apply(2), Repeat, Drain], u32::MAX);
    let found = read_slot(&mut bed, Slot(2)).unwrap();
    assert_eq!(found.batch.value(), &latest.value[..]);
    assert_eq!(found.placement.as_deref(), Some(&bed.model.placements[&Slot(2)]));
}

#[test]
fn what_is_not_there_or_not_durable_is_refused_at_once() {
    let mut bed = filled(1, 3);
    let slot = bed.append(5).0 + 1;
    let log = bed.log.as_mut().unwrap();
    let disk = &mut bed.disk;
    let ticket = ReadTicket(1);
    assert_eq!(log.read_slot(disk, ticket, Slot(99)), Err(NotStored::Missing));
    assert_eq!(log.read_slot(disk, ticket, Slot(0)), Err(NotStored::Missing));
    assert_eq!(log.read_slot(disk, ticket, Slot(slot - 1)), Err(NotStored::NotDurable));
    for id in [LogId(0), LogId(7), LogId(u32::MAX)] {
        let far = Position(1 << 40);
        assert_eq!(log.read_position(disk, ticket, id, far), Err(NotStored::Missing));
        assert_eq!(log.slot_at(id, far), PositionLookup::Unknown);
    }
    for ticket in 0..READS_MAX as u64 {
        log.read_slot(disk, ReadTicket(ticket), Slot(1 + ticket % 3)).unwrap();
    }
    let more = log.read_slot(disk, ReadTicket(1 << 20), Slot(1));
    assert_eq!(more, Err(NotStored::Busy));
    while bed.event() {}
    assert_eq!(bed.reads.len(), READS_MAX);
    assert!(bed.reads.iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn a_read_error_is_reported_and_the_log_goes_on() {
    for fault in [OpFault::Error] {
        let mut bed = filled(1, 10);
        bed.disk.inject(OpKind::Read, 0, fault);
        let error = read_slot(&mut bed, Slot(9)).unwrap_err();
        assert!(matches!(&error, ReadError::Io(why) if why.contains("reading")), "{error}");
        assert!(read_slot(&mut bed, Slot(9)).is_ok(), "the next one may succeed");
        bed.append(10);
        while bed.event() {}
        assert_eq!(bed.model.durable, bed.model.appended.len());
    }
}

#[test]
fn a_read_waits_for_a_file_that_it_may_open_and_not_for_ever() {
    let mut bed = filled(1, 20);
    bed.power_loss(&mut Rng::new(1));
    bed.recover().unwrap();
    assert_eq!(bed.scrub(), None);
    let ask = |bed: &mut Bed, slot: u64| {
        let log = bed.log.as_mut().unwrap();
        log.read_slot(&mut bed.disk, ReadTicket(slot), Slot(slot)).unwrap();
    };
    let none = |bed: &mut Bed, times: u32| {
        (0..times).for_each(|_| bed.disk.inject(OpKind::Name, 0, OpFault::NoFile));
    };
    // No other file can be closed for it: it waits, with others for the same file.
    none(&mut bed, OPEN_ATTEMPTS_MAX - 1);
    (1..=2).for_each(|slot| ask(&mut bed, slot));
    bed.idle(SHORTAGE_RETRY_INTERVAL / 2, u32::MAX);
    assert!(bed.reads.is_empty(), "they wait");
    bed.idle(SHORTAGE_RETRY_INTERVAL * OPEN_ATTEMPTS_MAX, u32::MAX);
    assert!((1..=2).all(|slot| finish(&mut bed, slot).is_ok()));
    // Now there is one that gives way at once.
    none(&mut bed, 1);
    let slot = bed.model.appended.len() as u64 / 2;
    assert!(read_slot(&mut bed, Slot(slot)).is_ok());
    // And in the end it is told.
    none(&mut bed, 2 * OPEN_ATTEMPTS_MAX);
    ask(&mut bed, 1);
    bed.idle(SHORTAGE_RETRY_INTERVAL * OPEN_ATTEMPTS_MAX, u32::MAX);
    assert!(matches!(finish(&mut bed, 1), Err(ReadError::Io(_))));
    bed.disk.forget_injected();
    assert!(read_slot(&mut bed, Slot(1)).is_ok());
    assert!(bed.failure.is_none());
}

#[test]
fn damage_is_found_by_the_read_that_meets_it_and_named() {
    let mut bed = filled(2, 30);
    let report = bed.inspect();
    let segment = report.groups[0].segments[0].file.clone();
    // The first entry of the first segment, which has a footer.
    bed.disk.flip_at(&segment, BLOCK_SIZE as u64 + 5, 3);
    let Err(ReadError::Damaged(damage)) = read_slot(&mut bed, Slot(1)) else {
        panic!("the damage is found")
    };
    assert_eq!((damage.file, damage.offset), (segment.clone(), BLOCK_SIZE as u64));
    assert_eq!(damage.slot, Some(1));
    bed.disk.flip_at(&segment, BLOCK_SIZE as u64 + 5, 3);
    assert!(read_slot(&mut bed, Slot(1)).is_ok());
}

#[test]
fn a_damaged_footer_fails_the_reads_that_need_it_and_no_others() {
    let mut bed = filled(2, 60);
    let report = bed.inspect();
    let segments = &report.groups[0].segments;
    assert!(segments.len() > FOOTERS_CACHED_MAX + 3, "{}", segments.len());
    let first = segments[0].clone();
    let length = bed.disk.file_bytes(&first.file).unwrap().len() as u64;
    bed.disk.flip_at(&first.file, length - 10, 0);
    let (low, high) = (first.slot_first.unwrap(), first.slot_last.unwrap());
    // The footer of the oldest segment has left memory.
    let Err(ReadError::Damaged(damage)) = read_slot(&mut bed, Slot(low)) else {
        panic!("the damage is found")
    };
    assert_eq!((damage.file, damage.offset), (first.file, length - BLOCK_SIZE as u64));
    assert!(read_slot(&mut bed, Slot(high + 1)).is_ok());
}

/// Slots that were accepted far ahead of the ones before them: every segment's range of slots
/// covers those of many others, more than there are footers in the cache.
#[test]
fn a_slot_is_found_among_more_overlapping_segments_than_footers_are_cached() {
    let mut bed = Bed::new(7, options());
    let count = 3 * FOOTERS_CACHED_MAX as u64;
    for slot in 1..=count {
        bed.append_slot(Slot(slot), 15_800);
        bed.append_slot(Slot(count + slot), 15_800);
        while bed.event() {}
    }
    while bed.apply() {}
    bed.idle(Duration::from_millis(100), u32::MAX);
    assert!(bed.log().stats().indexed_segments > count / 2, "{:?}", bed.log().stats());
    for restarts in 0..2 {
        for entry in bed.model.appended.clone() {
            let found = read_slot(&mut bed, entry.slot).unwrap();
            assert_eq!(found.batch.value(), entry.value, "{} after {restarts}", entry.slot);
            let Some(placement) = found.placement else { continue };
            assert_eq!(bed.model.placements.get(&entry.slot), Some(&*placement));
            for span in &placement.spans {
                let found = read_position(&mut bed, span.log, span.first).unwrap();
                assert_eq!(found.slot, entry.slot);
            }
        }
        bed.power_loss(&mut Rng::new(7));
        bed.recover().unwrap();
    }
}
