//! Failed and short writes and flushes end the log for good; a full disk does not.

use std::time::Duration;

use super::bed::{Bed, KIB, SYNCS, Step, folder, options, request};
use crate::base::rng::Rng;
use crate::io::Storage;
use crate::log::{DataDir, FormatRequest, Log, LogOptions};
use crate::sim::disk::{DiskOptions, OpFault, OpKind, TestDisk, counts};

use Step::*;

const SCRIPT: &[Step] = &[
    Append(100),
    Vote,
    Events(2),
    Append(9000),
    Append(5000),
    Vote,
    Drain,
    Append(15_800),
    Apply(9),
    Append(15_800),
    Append(15_800),
    Drain,
    Apply(9),
    Idle(50),
    Append(100),
    Drain,
    Append(15_800),
    Append(15_000),
    Vote,
    Drain,
];

/// Plays the script on a disk where one operation fails; then a crash and a recovery.
fn play_with(seed: u64, options: &LogOptions, kind: OpKind, skip: u32, fault: OpFault) -> Bed {
    let mut bed = Bed::new(seed, options.clone());
    bed.disk.inject(kind, skip, fault);
    bed.play(SCRIPT, u32::MAX);
    if bed.failure.is_some() {
        let (durable, promise) = (bed.model.durable, bed.model.promise_durable);
        // Whatever else completes or is asked for, nothing is reported any more.
        bed.submit();
        bed.append(100);
        bed.vote();
        while bed.event() {}
        assert_eq!((durable, promise), (bed.model.durable, bed.model.promise_durable));
        assert!(!bed.log().is_free() && bed.log().next_deadline().is_none());
    }
    bed
}

#[test]
fn a_failed_write_or_flush_ends_the_log_and_nothing_acknowledged_is_lost() {
    every_failure();
}

pub fn every_failure() {
    for log_sync in SYNCS {
        let options = LogOptions { log_sync, ..options() };
        for (kind, fault) in [
            (OpKind::Write, OpFault::Error),
            (OpKind::Flush, OpFault::Error),
            (OpKind::Write, OpFault::Short(512)),
            (OpKind::Write, OpFault::Short(0)),
            (OpKind::Write, OpFault::Full),
        ] {
            let mut failed = 0;
            let mut unhurt = 0;
            for skip in 0..60 {
                let mut bed = play_with(u64::from(skip), &options, kind, skip, fault);
                match &bed.failure {
                    Some(failure) => {
                        failed += 1;
                        assert!(failure.to_string().starts_with("the log has failed"), "{failure}");
                    }
                    None => unhurt += 1,
                }
                let mut rng = Rng::new(u64::from(skip));
                match skip % 2 {
                    0 => bed.power_loss(&mut rng),
                    _ => bed.kill(&mut rng),
                }
                bed.recover().unwrap_or_else(|e| panic!("{kind:?} {fault:?} {skip}: {e}"));
                bed.play(SCRIPT, u32::MAX);
                assert!(bed.failure.is_none());
            }
            assert!(failed >= 3, "{kind:?} {fault:?}: {failed} of 60");
            assert!(unhurt > 0, "the script has fewer than 60 of them");
        }
    }
}

#[test]
fn the_failure_names_the_file_and_the_cause() {
    let mut bed = Bed::new(1, options());
    bed.idle(Duration::from_millis(100), u32::MAX);
    bed.disk.inject(OpKind::Write, 0, OpFault::Error);
    bed.append(100);
    while bed.event() {}
    let text = bed.failure.as_ref().expect("the write has failed").to_string();
    assert!(text.contains("segment-") && text.contains("Input/output error"), "{text}");
    assert_eq!(bed.model.durable, 0);

    let mut bed = Bed::new(1, options());
    bed.idle(Duration::from_millis(100), u32::MAX);
    bed.disk.inject(OpKind::Write, 0, OpFault::Short(4096));
    bed.append(100);
    while bed.event() {}
    let text = bed.failure.as_ref().expect("the write was short").to_string();
    assert!(text.contains("4096 of 8192 bytes"), "{text}");

    // A segment that was made since the log was opened, under a temporary name.
    let mut bed = Bed::new(1, options());
    bed.play(&[Append(15_800), Append(15_800), Append(15_800), Drain, Idle(100)], u32::MAX);
    bed.disk.inject(OpKind::Write, 0, OpFault::Error);
    bed.append(15_800);
    while bed.event() {}
    let text = bed.failure.as_ref().expect("the write has failed").to_string();
    let at = format!("bytes of {}", Bed::segment(2));
    assert!(text.contains(&at) && !text.contains(".tmp"), "{text}");
}

#[test]
fn a_failed_flush_is_not_tried_again() {
    let options = LogOptions { log_sync: crate::log::LogSync::WriteThenFsync, ..options() };
    let mut bed = Bed::new(1, options);
    bed.idle(Duration::from_millis(100), u32::MAX);
    bed.disk.inject(OpKind::Flush, 0, OpFault::Error);
    bed.append(100);
    while bed.event() {}
    let before = bed.disk.counters().get(counts::FLUSHES);
    assert!(bed.failure.is_some());
    bed.append(100);
    bed.vote();
    while bed.event() {}
    bed.idle(Duration::from_secs(2), u32::MAX);
    assert_eq!(bed.disk.counters().get(counts::FLUSHES), before);
}

#[test]
fn a_short_fill_of_a_spare_segment_goes_on_from_there() {
    let mut bed = Bed::new(1, options());
    // The filling of the first spare segment is the first write of an idle log.
    bed.disk.inject(OpKind::Write, 0, OpFault::Short(24 * KIB as u32 + 512));
    bed.idle(Duration::from_millis(100), u32::MAX);
    assert_eq!(bed.disk.counters().get(counts::SHORT_WRITE), 1);
    assert!(bed.failure.is_none());
    assert_eq!(bed.log().stats().spare_segments, 1);
    assert_eq!(bed.disk.file_bytes(&Bed::segment(2)).unwrap().len(), 64 * KIB);
}

#[test]
fn a_log_of_large_writes_does_not_write_everything_twice() {
    let pause = Duration::from_millis(100);
    for (fill_write_bytes_max, pause) in [(usize::MAX, pause), (8 * KIB, Duration::ZERO)] {
        let options =
            LogOptions { fill_write_bytes_max, segment_bytes: 1024 * KIB as u64, ..options() };
        let mut bed = Bed::new(1, options);
        bed.idle(pause, u32::MAX);
        for _ in 0..400 {
            bed.append(11_700);
            while bed.model.durable < bed.model.appended.len() {
                assert!(bed.event(), "a write is in flight");
            }
            bed.idle(pause, u32::MAX);
        }
        let stats = bed.log().stats();
        assert!(stats.segments >= 6, "{stats:?}");
        match pause.is_zero() {
            // The filling falls behind at once.
            true => assert!(stats.unfilled_bytes >= 2 * 1024 * KIB as u64, "{stats:?}"),
            false => assert_eq!(stats.unfilled_bytes, 0, "{stats:?}"),
        }
        let marks = stats.marks;
        // What was never filled is as durable, and its rest reads as zeros.
        bed.power_loss(&mut Rng::new(1));
        let recovered = bed.recover().unwrap();
        assert_eq!((recovered.entries - marks, recovered.torn_bytes), (400, 0));
    }
}

#[test]
fn segments_that_are_there_from_the_beginning_are_used() {
    let options = options();
    let mut disk = TestDisk::new(1, DiskOptions::default());
    let preallocate_bytes = 2 * options.segment_bytes + 1;
    DataDir::format(&mut disk, &FormatRequest { preallocate_bytes, ..request(&options) }).unwrap();
    let segments =
        disk.list(&folder()).unwrap().into_iter().filter(|name| name.contains("segment"));
    assert_eq!(segments.count(), 3);
    let before = disk.counters().get(counts::WRITES);
    let (log, recovered) = Log::open(&mut disk, &folder(), options).unwrap();
    assert_eq!((recovered.entries, log.stats().spare_segments), (0, 2));
    assert_eq!(disk.counters().get(counts::WRITES), before, "nothing is to be made");
}

#[test]
fn a_full_disk_leaves_the_log_without_room_until_room_is_made() {
    let options = options();
    // The identity, the vote, and two segments.
    let capacity = (4 + 8 + 2 * 64 + 4) * KIB as u64;
    let disk_options = DiskOptions { capacity_bytes: capacity, ..DiskOptions::default() };
    let mut bed = Bed::on(TestDisk::new(1, disk_options), options.clone());
    let mut appended = 0;
    while bed.log().has_room() {
        bed.append(11_700);
        appended += 1;
        bed.idle(Duration::from_millis(100), u32::MAX);
        assert!(appended < 100, "the disk is full some time");
    }
    assert!(bed.failure.is_none(), "full is no failure");
    assert_eq!(bed.model.durable, appended, "what was placed is durable");
    assert!((4..=8).contains(&appended), "{appended}");
    assert!(bed.log().stats().disk_full >= 1);
    // A promise needs no room.
    bed.vote();
    while bed.event() {}
    assert_eq!(bed.model.promise_durable, bed.model.promise_asked);
    // It stays so, across a restart too, and does not spin.
    let before = bed.log().stats().disk_full;
    bed.idle(Duration::from_secs(5), u32::MAX);
    assert!(bed.log().stats().disk_full - before <= 10, "it is tried twice a second");
    bed.power_loss(&mut Rng::new(3));
    bed.recover().unwrap();
    bed.idle(Duration::from_secs(1), u32::MAX);
    assert!(!bed.log().has_room());
    // Room is made.
    bed.disk.set_capacity(10 * capacity);
    bed.idle(Duration::from_secs(1), u32::MAX);
    assert!(bed.log().has_room());
    let durable = bed.model.durable;
    for _ in 0..10 {
        bed.append(11_700);
        bed.idle(Duration::from_millis(100), u32::MAX);
    }
    assert_eq!(bed.model.durable, durable + 10);
}

#[test]
fn what_runs_in_the_background_waits_for_files_and_room_and_goes_on() {
    for (fault, count) in [(OpFault::NoFile, counts::NO_FILE), (OpFault::Full, counts::FULL)] {
        let (mut struck, mut checkpoints) = (0, 0);
        for skip in 0..24 {
            let mut bed = Bed::new(u64::from(skip), options());
            // One after the other meets it, and each again.
            for _ in 0..3 {
                bed.disk.inject(OpKind::Name, skip, fault);
            }
            bed.play(SCRIPT, u32::MAX);
            bed.idle(Duration::from_secs(5), u32::MAX);
            let failure = &bed.failure;
            assert!(failure.is_none(), "{fault:?} after {skip}: {failure:?}");
            assert_eq!(bed.model.durable, bed.model.appended.len());
            assert_eq!(bed.log().stats().spare_segments, 1);
            assert!(bed.log().has_room());
            struck += bed.disk.counters().get(count);
            checkpoints += bed.log().stats().checkpoints;
            bed.kill(&mut Rng::new(u64::from(skip)));
            bed.disk.forget_injected();
            bed.recover().unwrap();
            // The scrub, and whatever else opens files.
            for _ in 0..3 {
                bed.disk.inject(OpKind::Name, skip % 3, fault);
            }
            bed.idle(Duration::from_secs(5), u32::MAX);
            assert!(bed.failure.is_none() && bed.log().stats().unverified_segments == 0);
            assert!(bed.log().stats().verified_segments > 0);
            struck += bed.disk.counters().get(count);
        }
        assert!(struck > 40 && checkpoints > 20, "{fault:?}: {struck}, {checkpoints} checkpoints");
    }
}

#[test]
fn entries_placed_in_a_segment_that_is_not_made_yet_wait_for_it() {
    let options = options();
    let capacity = (4 + 8 + 64 + 4) * KIB as u64;
    let disk_options = DiskOptions { capacity_bytes: capacity, ..DiskOptions::default() };
    let mut bed = Bed::on(TestDisk::new(1, disk_options), options);
    for _ in 0..6 {
        bed.append(11_700);
    }
    bed.idle(Duration::from_secs(2), u32::MAX);
    assert!(!bed.log().has_room() && bed.failure.is_none());
    let waiting = bed.model.appended.len() - bed.model.durable;
    assert!(waiting > 0 && bed.model.durable > 0, "{waiting} wait");
    bed.disk.set_capacity(u64::MAX);
    bed.idle(Duration::from_secs(2), u32::MAX);
    assert_eq!(bed.model.durable, 6);
}
