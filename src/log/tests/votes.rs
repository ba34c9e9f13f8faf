//! The vote: two copies, of which at any moment at least one is whole.

use std::time::Duration;

use super::bed::{Bed, SYNCS, folder, options};
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::log::{LogError, LogOptions};
use crate::sim::disk::{OpFault, OpKind, Region};

fn vote_file() -> String {
    format!("{}/vote", folder())
}

/// A log at rest after a few durable promises.
fn promised(seed: u64, options: &LogOptions) -> Bed {
    let mut bed = Bed::new(seed, options.clone());
    bed.idle(Duration::from_millis(100), u32::MAX);
    for _ in 0..3 {
        bed.vote();
        while bed.event() {}
    }
    assert_eq!(bed.model.promise_durable, bed.model.promise_asked);
    bed
}

#[test]
fn a_promise_is_reported_once_both_copies_are_durable_and_no_sooner() {
    for log_sync in SYNCS {
        let mut bed = promised(1, &LogOptions { log_sync, ..options() });
        let before = bed.model.promise_durable;
        bed.vote();
        let steps = if log_sync == crate::log::LogSync::Dsync { 2 } else { 4 };
        for step in 1..=steps {
            assert_eq!(bed.model.promise_durable, before, "before step {step}");
            assert!(bed.event());
        }
        assert_eq!(bed.model.promise_durable, bed.model.promise_asked);
        let bytes = bed.disk.file_bytes(&vote_file()).unwrap();
        assert_eq!(bytes.len(), 2 * BLOCK_SIZE);
        assert_eq!(bytes[..BLOCK_SIZE], bytes[BLOCK_SIZE..], "the copies are alike");
    }
}

#[test]
fn at_no_crash_point_of_a_promise_is_it_lower_than_the_last_one_reported() {
    every_crash_point();
}

pub fn every_crash_point() {
    let (mut old, mut new, mut repaired) = (0, 0, 0);
    for log_sync in SYNCS {
        for events in 0..=5 {
            for seed in 0..60 {
                let mut bed = promised(seed, &LogOptions { log_sync, ..options() });
                let before = bed.model.promise_durable;
                bed.vote();
                for _ in 0..events {
                    bed.event();
                }
                bed.submit();
                bed.power_loss(&mut Rng::new(seed));
                let found = bed.recover().unwrap();
                old += u32::from(found.promised == before);
                new += u32::from(found.promised > before);
                repaired += u32::from(found.vote_repaired);
                // What was found holds from here on, whichever copy it came from.
                bed.power_loss(&mut Rng::new(seed + 1));
                assert!(!bed.recover().unwrap().vote_repaired);
            }
        }
    }
    assert!(old > 50 && new > 50 && repaired > 50, "{old} old, {new} new, {repaired} repaired");
}

#[test]
fn damage_of_one_copy_loses_nothing_and_is_repaired() {
    for seed in 0..40 {
        let mut bed = promised(seed, &options());
        bed.kill(&mut Rng::new(seed));
        bed.disk.flip_bit(Region::Vote, &mut Rng::new(seed)).unwrap();
        let report = bed.inspect();
        assert_eq!((report.damage.len(), report.mended_at_start.len()), (0, 1), "{report:?}");
        let found = bed.recover().unwrap();
        assert!(found.vote_repaired);
        bed.power_loss(&mut Rng::new(seed));
        assert!(!bed.recover().unwrap().vote_repaired, "the repair is durable");
        // So that the other copy may be damaged next.
        bed.kill(&mut Rng::new(seed));
        bed.disk.flip_bit(Region::Vote, &mut Rng::new(seed + 100)).unwrap();
        bed.recover().unwrap();
    }
}

#[test]
fn damage_of_both_copies_is_refused() {
    both_copies_damaged();
}

pub fn both_copies_damaged() {
    let mut bed = promised(1, &options());
    bed.kill(&mut Rng::new(1));
    bed.disk.flip_at(&vote_file(), 33, 1);
    bed.disk.flip_at(&vote_file(), BLOCK_SIZE as u64 + 4000, 1);
    match bed.recover() {
        Err(LogError::Corrupt(damage)) => assert_eq!(damage.file, vote_file()),
        other => panic!("{other:?}"),
    }
    assert_eq!(bed.inspect().damage[0].file, vote_file());
}

#[test]
fn a_torn_copy_and_rot_of_the_other_are_refused_and_never_give_a_lower_promise() {
    let (mut refused, mut opened) = (0, 0);
    for seed in 0..400 {
        let mut bed = promised(seed, &options());
        bed.vote();
        for _ in 0..seed % 3 {
            bed.event();
        }
        bed.submit();
        bed.power_loss(&mut Rng::new(seed));
        bed.disk.flip_bit(Region::Vote, &mut Rng::new(seed)).unwrap();
        // `recover` asserts that the promise has not gone down.
        match bed.recover() {
            Ok(_) => opened += 1,
            Err(LogError::Corrupt(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 10 && opened > 50, "{refused} refused, {opened} opened");
}

#[test]
fn a_repair_cut_short_leaves_one_whole_copy() {
    for seed in 0..40 {
        for kind in [OpKind::Write, OpKind::Flush] {
            for skip in 0..6 {
                let mut bed = promised(seed, &options());
                bed.kill(&mut Rng::new(seed));
                bed.disk.flip_bit(Region::Vote, &mut Rng::new(seed)).unwrap();
                bed.disk.inject(kind, skip, OpFault::Error);
                let cut = bed.recover_quietly().is_err();
                bed.power_loss(&mut Rng::new(seed * 10 + u64::from(skip)));
                bed.recover().unwrap_or_else(|e| panic!("{kind:?} {skip}: {e}"));
                if !cut {
                    break;
                }
            }
        }
    }
}

#[test]
fn promises_asked_for_while_one_is_written_share_the_next_write() {
    let mut bed = promised(1, &options());
    let before = bed.log().stats().votes;
    for _ in 0..10 {
        bed.vote();
        bed.submit();
    }
    let mut events = 0;
    while bed.event() {
        events += 1;
    }
    assert_eq!(events, 4, "two promises, two copies each");
    assert_eq!(bed.model.promise_durable, bed.model.promise_asked);
    assert_eq!(bed.log().stats().votes, before + 10);
}

#[test]
#[should_panic(expected = "a promise never goes down")]
fn a_lower_promise_is_a_bug() {
    let mut bed = promised(1, &options());
    let lower = crate::base::Ballot { round: 1, node: crate::base::NodeId(1) };
    bed.log().vote(lower);
}
