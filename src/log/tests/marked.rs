//! Damage that the scrub or a read finds is remembered: the next start verifies everything, and opens only
//! when everything is whole.

use std::time::Duration;

use super::bed::{Bed, Step::*, folder, options};
use super::fast::filled;
use super::reading::read_slot;
use crate::base::Slot;
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::io::{FileOptions, Storage};
use crate::log::marker::{self, MARKER_NAME};
use crate::log::owned::Owner;
use crate::log::{Damage, LogError, LogOptions, ReadError};
use crate::sim::disk::{Flipped, OpFault, OpKind, Region};

fn marker() -> String {
    format!("{}/{MARKER_NAME}", folder())
}

fn is_marked(bed: &mut Bed) -> bool {
    bed.disk.list(&folder()).unwrap().iter().any(|name| name == MARKER_NAME)
}

fn refused(result: Result<crate::log::LogRecovered, LogError>) -> Damage {
    match result {
        Err(LogError::Corrupt(damage)) => damage,
        other => panic!("it is damaged: {other:?}"),
    }
}

/// A log, not open, with a flipped bit in what a start does not read.
fn damaged(seed: u64) -> (Bed, Flipped) {
    for seed in seed * 100.. {
        let mut bed = filled(seed);
        let flipped = bed.disk.flip_bit(Region::Payload, &mut Rng::new(seed)).unwrap();
        if bed.recover_quietly().is_ok() {
            bed.kill(&mut Rng::new(seed));
            return (bed, flipped);
        }
    }
    unreachable!("some entries are not read")
}

#[test]
fn a_start_after_the_scrub_found_damage_refuses_it_until_it_is_mended() {
    damage_is_remembered();
}

pub fn damage_is_remembered() {
    for seed in 0..8 {
        let (mut bed, flipped) = damaged(seed);
        let found = refused(bed.recover());
        assert!(is_marked(&mut bed));
        for _ in 0..2 {
            bed.power_loss(&mut Rng::new(seed));
            let again = refused(bed.recover_quietly());
            assert_eq!((&again.file, again.offset), (&found.file, found.offset), "{again}");
            assert!(is_marked(&mut bed), "as long as it is damaged");
        }
        bed.disk.flip_at(&flipped.file, flipped.offset, flipped.bit);
        let names = bed.disk.list(&folder()).unwrap();
        let (owner, pool) = (Owner::of(&bed.options), bed.options.pool.clone());
        let told = marker::find(&mut bed.disk, &folder(), &names, &owner, &pool).unwrap();
        assert_eq!(told.what, found.to_string());
        assert!(told.durable >= bed.model.durable as u64, "marks are counted too: {told:?}");
        let recovered = bed.recover().unwrap();
        assert!(recovered.marked && !is_marked(&mut bed));
        bed.power_loss(&mut Rng::new(seed));
        assert!(!is_marked(&mut bed), "it is gone for good");
        assert!(!bed.recover().unwrap().marked);
        assert!(bed.log().stats().unverified_segments > 0, "and starts are fast again");
        assert_eq!(bed.scrub(), None);
    }
}

#[test]
fn a_start_that_ends_before_it_has_replayed_everything_leaves_the_marker() {
    let mut bed = filled(1);
    let options = bed.options.clone();
    marker::write(&mut bed.disk, &folder(), &options, "something", 0).unwrap();
    assert!(bed.recover_quietly().unwrap().marked);
    bed.power_loss(&mut Rng::new(1));
    assert!(is_marked(&mut bed));
    assert!(bed.recover().unwrap().marked && !is_marked(&mut bed));
}

#[test]
fn whatever_fails_while_the_marker_is_made_damage_stays_damage() {
    let (mut stood, mut lost) = (0, 0);
    for (kind, skip, fault) in [
        (OpKind::Name, 0, OpFault::Error),
        (OpKind::Name, 0, OpFault::Full),
        (OpKind::Name, 0, OpFault::NoFile),
        (OpKind::Write, 0, OpFault::Error),
        (OpKind::Write, 0, OpFault::Full),
        (OpKind::Write, 0, OpFault::Short(512)),
        (OpKind::Write, 0, OpFault::Lost),
        (OpKind::Flush, 0, OpFault::Error),
        (OpKind::Flush, 1, OpFault::Error),
        (OpKind::Allocate, 0, OpFault::Error),
    ] {
        for seed in 0..6 {
            let (mut bed, _) = damaged(1);
            let options = bed.options.clone();
            bed.disk.inject(kind, skip, fault);
            let written = marker::write(&mut bed.disk, &folder(), &options, "damage", 0);
            bed.disk.forget_injected();
            // The name is the marker, whatever its content.
            let named = kind != OpKind::Name && skip == 0;
            assert_eq!(written.is_ok(), named, "{kind:?} {fault:?}: {written:?}");
            bed.power_loss(&mut Rng::new(seed));
            let marked = is_marked(&mut bed);
            assert!(marked || !named, "{kind:?} {fault:?}: what was said to stand does");
            match marked {
                true => drop(refused(bed.recover_quietly())),
                // The scrub finds it again, and a marker is left then.
                false => assert!(bed.recover_quietly().is_ok()),
            }
            refused(bed.recover());
            assert!(is_marked(&mut bed));
            stood += u32::from(marked);
            lost += u32::from(!marked);
        }
    }
    assert!(stood > 30 && lost > 15, "{stood} stood, {lost} did not");
}

#[test]
fn a_marker_that_nobody_can_read_counts_and_goes_when_all_is_whole() {
    for content in [vec![], vec![0; BLOCK_SIZE], vec![0x5a; 3 * BLOCK_SIZE]] {
        let mut bed = filled(1);
        let file = bed.disk.open(&marker(), FileOptions::CreateNew).unwrap();
        bed.disk.close(file);
        bed.replace(&marker(), &content);
        bed.disk.sync_folder(&folder()).unwrap();
        assert!(bed.recover_quietly().unwrap().marked);
        assert!(is_marked(&mut bed), "nothing was replayed");
        bed.disk.inject(OpKind::Read, 0, OpFault::Error);
        assert!(bed.recover_quietly().unwrap().marked);
        assert!(bed.recover().unwrap().marked);
        assert!(!is_marked(&mut bed));
    }
}

#[test]
fn what_a_marker_tells_to_have_been_durable_is_not_cut_for_a_torn_tail() {
    for told in [3, 2] {
        let mut bed = Bed::new(1, LogOptions { mark_idle_after: None, ..options() });
        for _ in 0..3 {
            bed.play(&[Append(500), Drain], u32::MAX);
        }
        assert_eq!(bed.model.durable, 3);
        bed.kill(&mut Rng::new(1));
        // The last entry, which no other one attests.
        let flipped = bed.disk.flip_bit(Region::Tail, &mut Rng::new(1)).unwrap();
        let options = bed.options.clone();
        marker::write(&mut bed.disk, &folder(), &options, "something", told).unwrap();
        if told == 3 {
            let damage = refused(bed.recover());
            assert_eq!((&damage.file, damage.offset), (&flipped.file, flipped.structure));
            assert!(damage.why.contains(&marker()), "{damage}");
            assert!(is_marked(&mut bed));
        } else {
            // Of the third entry it says nothing, but it has rotted.
            let damage = refused(bed.recover());
            assert!(!damage.why.contains(&marker()), "{damage}");
        }
    }
}

/// The first entry of the log; it stands in a segment with a footer.
const FIRST: u64 = BLOCK_SIZE as u64;

/// A log, open, in which nothing is left to verify, and whose first entry has rotted since.
fn rotten() -> Bed {
    let mut bed = filled(1);
    bed.recover().unwrap();
    assert_eq!(bed.scrub(), None);
    bed.disk.flip_at(&Bed::segment(1), FIRST + 20, 1);
    bed
}

fn read_damaged(bed: &mut Bed, slot: Slot) -> Damage {
    match read_slot(bed, slot) {
        Err(ReadError::Damaged(damage)) => damage,
        other => panic!("slot {slot} is damaged: {other:?}"),
    }
}

#[test]
fn a_read_that_meets_damage_has_the_next_start_verify_everything_and_the_log_goes_on() {
    a_read_leaves_a_marker();
}

pub fn a_read_leaves_a_marker() {
    let mut bed = rotten();
    let found = read_damaged(&mut bed, Slot(1));
    assert_eq!((&found.file, found.offset), (&Bed::segment(1), FIRST));
    let durable = bed.model.durable;
    bed.play(&[Append(500), Drain, Apply(1)], u32::MAX);
    assert_eq!((bed.model.durable, &bed.failure), (durable + 1, &None));
    read_damaged(&mut bed, Slot(1));
    assert!(read_slot(&mut bed, Slot(2)).is_ok());
    bed.power_loss(&mut Rng::new(1));
    assert!(is_marked(&mut bed), "durably");
    let again = refused(bed.recover_quietly());
    assert_eq!((&again.file, again.offset), (&found.file, found.offset), "{again}");
    bed.disk.flip_at(&Bed::segment(1), FIRST + 20, 1);
    assert!(bed.recover().unwrap().marked && !is_marked(&mut bed));
}

#[test]
fn an_entry_that_a_read_has_found_damaged_is_not_cut_though_nothing_else_attests_it() {
    let mut bed = Bed::new(1, LogOptions { mark_idle_after: None, ..options() });
    bed.play(&[Append(500), Drain, Append(700), Drain, Apply(2)], u32::MAX);
    let flipped = bed.disk.flip_bit(Region::Tail, &mut Rng::new(1)).unwrap();
    read_damaged(&mut bed, Slot(2));
    while bed.event() {}
    bed.power_loss(&mut Rng::new(1));
    let damage = refused(bed.recover());
    assert_eq!((&damage.file, damage.offset), (&flipped.file, flipped.structure), "{damage}");
}

#[test]
fn what_fails_while_a_read_leaves_the_marker_is_fatal_or_tried_again() {
    // What fails, whether that ends the log, and whether the marker stands then.
    for (kind, fault, fatal, stands) in [
        (OpKind::Name, OpFault::NoFile, false, false),
        (OpKind::Name, OpFault::Full, false, false),
        (OpKind::Name, OpFault::Error, true, false),
        (OpKind::Write, OpFault::Full, false, true),
        (OpKind::Write, OpFault::Short(512), false, true),
        (OpKind::Write, OpFault::Error, true, false),
        (OpKind::Flush, OpFault::Error, true, false),
    ] {
        let mut bed = rotten();
        // The segment's file is open from here on.
        assert!(read_slot(&mut bed, Slot(2)).is_ok());
        bed.disk.inject(kind, 0, fault);
        read_damaged(&mut bed, Slot(1));
        while bed.event() {}
        assert_eq!(bed.failure.is_some(), fatal, "{kind:?} {fault:?}");
        if !fatal && !stands {
            assert!(!is_marked(&mut bed), "{kind:?} {fault:?}");
            read_damaged(&mut bed, Slot(1));
            while bed.event() {}
        }
        bed.power_loss(&mut Rng::new(1));
        assert!(is_marked(&mut bed) || fatal, "{kind:?} {fault:?}");
    }
}

#[test]
fn a_read_that_fails_while_verifying_has_the_next_start_verify_everything() {
    let mut bed = filled(1);
    bed.recover().unwrap();
    // The footer is read first.
    bed.disk.inject(OpKind::Read, 1, OpFault::Error);
    bed.idle(Duration::from_secs(1), u32::MAX);
    let failure = bed.failure.take().expect("a failed read is fatal");
    assert!(failure.to_string().contains("verifying"), "{failure}");
    assert!(is_marked(&mut bed));
    bed.kill(&mut Rng::new(1));
    // It was no more than that.
    assert!(bed.recover().unwrap().marked && !is_marked(&mut bed));
}

#[test]
fn the_newest_segments_are_verified_first() {
    let mut bed = filled(1);
    bed.recover().unwrap();
    let unread = bed.log().stats().unverified_segments;
    assert!(unread >= 2);
    for number in 1..=unread {
        bed.disk.flip_at(&Bed::segment(number), BLOCK_SIZE as u64 + 20, 0);
    }
    assert_eq!(bed.scrub().map(|damage| damage.file), Some(Bed::segment(unread)));
}

#[test]
fn the_scrub_reads_no_more_in_a_time_than_its_share() {
    let took = |scrub_bytes_per_s: u64| {
        let mut bed = filled(1);
        bed.options.scrub_bytes_per_s = scrub_bytes_per_s;
        bed.recover().unwrap();
        let started = bed.disk.now();
        assert_eq!(bed.scrub(), None);
        (bed.disk.now().since(started).as_secs_f64(), bed.log().stats().verified_segments)
    };
    let (slow, segments) = took(32 * 1024);
    // Each holds more than half of 64 KiB; the pause after the last read is nobody's.
    assert!(slow >= (segments - 1) as f64, "{segments} in {slow} s");
    assert!(slow <= 3.0 * segments as f64, "{segments} in {slow} s");
    let (fast, _) = took(320 * 1024);
    assert!((8.0..12.0).contains(&(slow / fast)), "{slow} s and {fast} s");
}
