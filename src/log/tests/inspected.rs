//! What inspect tells of a log, sound and damaged.

use std::time::Duration;

use super::bed::{Bed, Step, folder, options};
use super::toy::{MANY_LOGS, PLAIN};
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::base::{LogId, Placement, Slot};
use crate::log::inspect::{FooterReport, LogReport, inspect};
use crate::sim::disk::{Region, counts};

use Step::*;

const SCRIPT: &[Step] = &[
    Append(100),
    Drain,
    Vote,
    Append(9000),
    Drain,
    Again(500),
    Drain,
    Apply(2),
    Append(15_800),
    Drain,
    Repeat,
    Drain,
    Append(15_800),
    Drain,
    Append(15_800),
    Drain,
    Apply(9),
    Append(10),
    Drain,
    Idle(200),
];

fn played() -> Bed {
    let mut bed = Bed::new(1, options());
    bed.play(SCRIPT, u32::MAX);
    bed.kill(&mut Rng::new(1));
    bed
}

#[test]
fn a_sound_log_is_told_in_full() {
    let mut bed = played();
    let mut slots = Vec::new();
    let report = inspect(&mut bed.disk, &mut |slot| {
        slots.push((slot.slot, slot.chosen, slot.value.to_vec()));
    })
    .unwrap();
    assert_eq!((report.damage.len(), report.mended_at_start.len()), (0, 0), "{report:?}");
    let identity = report.identity.as_ref().unwrap();
    assert_eq!((&identity.cluster[..], identity.node), ("demo", 1));
    let group = &report.groups[0];
    assert_eq!(group.folder, folder());
    assert_eq!(group.promised, bed.model.ballot.into());
    assert_eq!(group.vote[0], group.vote[1]);
    assert_eq!((group.chosen, group.accepted), (5, 6));
    assert_eq!((group.entries, group.marks, group.superseded), (9, 1, 2));
    assert_eq!((group.entries_lost, group.torn_bytes), (0, 0));
    assert_eq!(group.value_bytes, 100 + 9000 + 500 + 15_800 + 500 + 2 * 15_800 + 10);
    let sum = |get: fn(&crate::log::inspect::SegmentReport) -> u64| -> u64 {
        group.segments.iter().map(get).sum()
    };
    assert_eq!((sum(|s| s.entries), sum(|s| s.entry_bytes)), (9, group.entry_bytes));
    let first = &group.segments[0];
    assert_eq!((first.slot_first, first.footer), (Some(1), FooterReport::Valid));
    assert_eq!(first.file, Bed::segment(1));
    assert!(first.ballot_lowest.unwrap().round < first.ballot_highest.unwrap().round);
    // The slots: chosen ones in order, then the others, each with the value that stands.
    let expected: Vec<_> = (1..=6)
        .map(|slot| {
            let entries = bed.model.appended.iter().rev();
            let held = entries.clone().find(|entry| entry.slot == Slot(slot)).unwrap();
            (Slot(slot), slot <= 5, held.value.clone())
        })
        .collect();
    assert_eq!(slots, expected);
}

#[test]
fn an_inspection_writes_nothing() {
    let mut bed = played();
    bed.disk.flip_bit(Region::Tail, &mut Rng::new(2)).unwrap();
    bed.disk.flip_bit(Region::Vote, &mut Rng::new(2)).unwrap();
    let names = bed.disk.file_names();
    let bytes = |bed: &Bed| -> Vec<Vec<u8>> {
        names.iter().map(|name| bed.disk.file_bytes(name).unwrap()).collect()
    };
    let before = bytes(&bed);
    let counted = [counts::WRITES, counts::FLUSHES].map(|name| bed.disk.counters().get(name));
    let report = bed.inspect();
    assert_eq!((report.damage.len(), report.mended_at_start.len()), (1, 1), "{report:?}");
    assert_eq!(report.groups[0].torn_bytes, 0);
    assert!(bytes(&bed) == before && bed.disk.file_names() == names);
    let after = [counts::WRITES, counts::FLUSHES].map(|name| bed.disk.counters().get(name));
    assert_eq!(counted, after);
}

#[test]
fn every_damaged_place_is_listed_and_what_stands_behind_is_still_verified() {
    let mut bed = Bed::new(1, options());
    for _ in 0..20 {
        bed.append(5000);
        while bed.event() {}
    }
    bed.idle(Duration::from_millis(100), u32::MAX);
    bed.kill(&mut Rng::new(1));
    let block = BLOCK_SIZE as u64;
    // Entries of two blocks: the 2nd, the 4th, and the header of the second segment.
    bed.disk.flip_at(&Bed::segment(1), 3 * block + 20, 0);
    bed.disk.flip_at(&Bed::segment(1), 8 * block + 7, 0);
    bed.disk.flip_at(&Bed::segment(2), 100, 0);
    let report = bed.inspect();
    let places: Vec<_> = report.damage.iter().map(|d| (d.file.clone(), d.offset)).collect();
    let expected =
        [(Bed::segment(1), 3 * block), (Bed::segment(1), 7 * block), (Bed::segment(2), 0)];
    assert_eq!(places, expected, "{:?}", report.damage);
    assert_eq!((report.damage[1].slot, report.groups[0].entries_lost), (Some(4), 2));
    assert_eq!(report.groups[0].entries, 21 - 2);
    assert!(bed.recover().is_err());
}

#[test]
fn footers_tell_of_other_logs_and_of_refusals() {
    let mut bed = Bed::new(1, options());
    // The sixth kind is refusals; see `toy.rs`.
    for head in [[2, PLAIN], [MANY_LOGS + 1, PLAIN], [1, 6], [0, PLAIN], [3, PLAIN]] {
        bed.append_starting(&head, 11_700);
        while bed.event() {}
    }
    while bed.apply() {}
    bed.idle(Duration::from_millis(200), u32::MAX);
    bed.kill(&mut Rng::new(1));
    let mut told: Vec<(Slot, Option<Placement>)> = Vec::new();
    let report = inspect(&mut bed.disk, &mut |slot| {
        told.push((slot.slot, slot.placement.cloned()));
    })
    .unwrap();
    assert_eq!((report.damage.len(), report.mended_at_start.len()), (0, 0), "{report:?}");
    let segments = &report.groups[0].segments;
    assert_eq!((segments[0].footer, segments[0].slot_last), (FooterReport::Valid, Some(4)));
    let in_first = |log: LogId| {
        let spans = bed.model.placements.range(..=Slot(4)).filter_map(move |(_, p)| p.span(log));
        spans.map(|span| u64::from(span.records)).sum::<u64>()
    };
    let (logs, many) = (&segments[0].logs, &bed.model.placements[&Slot(2)]);
    assert_eq!(logs.len(), many.spans.len());
    assert_eq!(logs[0], LogReport { log: 0, first: 0, end: 4, records: 4 });
    assert!(logs.iter().all(|log| log.records == in_first(LogId(log.log)) && log.records > 0));
    let refused = &bed.model.placements[&Slot(3)].refused;
    let bits = refused.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    assert!(bits > 0 && segments[0].refused == bits, "{refused:?}");
    assert_eq!((&segments[1].logs[..], segments[1].refused), (&[][..], 0), "no footer yet");
    for (slot, placement) in told {
        let known = bed.model.placements.get(&slot).filter(|_| slot <= Slot(4));
        assert_eq!(placement.as_ref(), known, "slot {slot}");
    }
}

#[test]
fn a_segment_that_lost_its_end_is_told_of() {
    for blocks in [0, 1, 3] {
        let mut bed = played();
        let segment = Bed::segment(1);
        let bytes = bed.disk.file_bytes(&segment).unwrap();
        bed.replace(&segment, &bytes[..blocks * BLOCK_SIZE]);
        let report = bed.inspect();
        let cut = &report.damage[0];
        assert_eq!((&cut.file, cut.offset), (&segment, (blocks * BLOCK_SIZE) as u64), "{report:?}");
        assert!(bed.recover().is_err(), "{blocks} blocks are no segment");
    }
}
