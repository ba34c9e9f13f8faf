//! Crashes at every boundary between two completions, of the process and of the power, followed
//! by recovery; and crashes within recovery and within `format`.

use std::time::Duration;

use super::bed::{Bed, SYNCS, Step, options, request};
use super::reading::assert_positions;
use super::toy::{MANY_LOGS, PLAIN};
use crate::base::rng::Rng;
use crate::log::{DataDir, IdentityError, LogError, LogOptions};
use crate::sim::disk::{DiskOptions, OpFault, OpKind, TestDisk, counts};

use Step::*;

/// Appends of one block and of several, over segments; slots repeated; promises between and beside
/// appends; marks; footers.
const SCRIPT: &[Step] = &[
    Append(100),
    Events(2),
    Vote,
    Append(9000),
    Append(0),
    Events(3),
    Again(500),
    Apply(2),
    Append(11_700),
    Drain,
    Vote,
    Append(1),
    Apply(9),
    Repeat,
    Events(1),
    Append(15_800),
    Append(15_000),
    Events(4),
    Vote,
    Vote,
    Append(15_800),
    Apply(9),
    Drain,
    Idle(50),
    Append(14_000),
    Again(14_000),
    Vote,
    Events(2),
    Again(300),
    Apply(9),
    Append(3000),
    Drain,
    Apply(9),
    Append(15_800),
    Drain,
];

/// Completions of the whole script.
fn script_events(options: &LogOptions) -> u32 {
    let mut bed = Bed::new(1, options.clone());
    bed.play(SCRIPT, u32::MAX);
    let stats = bed.log().stats();
    assert!(stats.segments >= 3 && stats.indexed_segments >= 1 && stats.marks >= 1, "{stats:?}");
    assert_eq!(bed.model.durable, bed.model.appended.len(), "everything became durable");
    bed.events
}

#[test]
fn whatever_a_power_loss_leaves_after_any_completion_nothing_durable_is_lost() {
    power_loss_after_every_completion();
}

pub fn power_loss_after_every_completion() {
    let (mut torn, mut from_checkpoints) = (0, 0);
    for (log_sync, second_write_bytes_min) in
        [(SYNCS[0], usize::MAX), (SYNCS[1], usize::MAX), (SYNCS[0], 0), (SYNCS[1], 0)]
    {
        let options = LogOptions { log_sync, second_write_bytes_min, ..options() };
        let all = script_events(&options);
        for events in 0..=all {
            for seed in 0..3 {
                let mut bed = Bed::new(seed, options.clone());
                bed.play(SCRIPT, events);
                // What was asked for at the last moment is in flight too.
                bed.submit();
                bed.power_loss(&mut Rng::new(seed * 1000 + u64::from(events)));
                let found = bed.recover().unwrap_or_else(|e| panic!("event {events}: {e}"));
                torn += u64::from(found.torn_bytes > 0);
                // And it goes on from there, through another crash.
                bed.play(&[Append(700), Vote, Drain, Append(100)], u32::MAX);
                bed.submit();
                bed.power_loss(&mut Rng::new(seed));
                bed.recover().unwrap_or_else(|e| panic!("event {events}, second time: {e}"));
                from_checkpoints += bed.checkpoints_used;
            }
        }
    }
    assert!(torn > 50, "torn tails are met often ({torn})");
    assert!(from_checkpoints > 50, "and checkpoints are used ({from_checkpoints})");
}

#[test]
fn a_killed_process_finds_everything_and_what_it_found_survives_a_power_loss() {
    kill_then_power_loss();
}

pub fn kill_then_power_loss() {
    let options = options();
    for events in 0..=script_events(&options) {
        let mut bed = Bed::new(9, options.clone());
        bed.play(SCRIPT, events);
        bed.submit();
        bed.kill(&mut Rng::new(u64::from(events)));
        bed.recover().unwrap_or_else(|e| panic!("event {events}: {e}"));
        // Whatever recovery has found counts as durable from here on.
        bed.power_loss(&mut Rng::new(u64::from(events) + 7));
        bed.recover().unwrap_or_else(|e| panic!("event {events}, after the power loss: {e}"));
    }
}

#[test]
fn recovery_can_be_cut_short_anywhere() {
    let options = options();
    let (mut interrupted, mut torn) = (0, 0);
    for events in (0..=script_events(&options)).step_by(2) {
        for kind in [OpKind::Write, OpKind::Flush, OpKind::Name, OpKind::Read] {
            for skip in 0..12 {
                let mut bed = Bed::new(events.into(), options.clone());
                bed.play(SCRIPT, events);
                bed.submit();
                let mut rng = Rng::new(u64::from(events) * 31 + u64::from(skip));
                bed.power_loss(&mut rng);
                // Refused within inspect or within recovery; each goes over its part once.
                bed.disk.inject(kind, skip, OpFault::Error);
                let opened = bed.recover_quietly();
                let cut = matches!(opened, Err(LogError::Io { .. }));
                assert!(opened.is_ok() || cut, "{opened:?}");
                interrupted += u32::from(cut);
                bed.power_loss(&mut rng);
                let found = bed.recover().unwrap_or_else(|e| panic!("event {events}: {e}"));
                torn += u64::from(found.torn_bytes > 0);
                if !cut {
                    break;
                }
            }
        }
    }
    assert!(interrupted > 200 && torn > 10, "{interrupted} interrupted, {torn} torn");
}

#[test]
fn a_format_cut_short_leaves_nothing_that_is_taken_for_a_member() {
    let options = options();
    let mut complete = 0;
    for seed in 0..30 {
        for kind in [OpKind::Write, OpKind::Flush, OpKind::Name] {
            for skip in 0..10 {
                let mut disk = TestDisk::new(seed, DiskOptions::default());
                disk.inject(kind, skip, OpFault::Error);
                let made = DataDir::format(&mut disk, &request(&options));
                let cut = made.is_err();
                disk.power_loss(&mut Rng::new(seed));
                match DataDir::load(&mut disk) {
                    Ok(_) => {
                        complete += 1;
                        let mut bed = Bed::found(disk, options.clone());
                        bed.recover().expect("an identity stands only beside whole logs");
                    }
                    Err(IdentityError::Unformatted) => assert!(cut, "it was formatted"),
                    Err(error) => panic!("half an identity: {error}"),
                }
                if !cut {
                    break;
                }
            }
        }
    }
    assert!(complete > 50, "some were complete ({complete})");
}

#[test]
fn a_second_write_that_overtakes_the_first_acknowledges_nothing() {
    a_write_that_overtakes_another();
}

pub fn a_write_that_overtakes_another() {
    let big = 192 * 1024;
    let options = LogOptions { segment_bytes: 2 << 20, entry_bytes_max: 256 * 1024, ..options() };
    let mut recovered_both = 0;
    for seed in 0..60 {
        let mut bed = Bed::new(seed, options.clone());
        bed.append(100);
        // Until the spare segment is prepared too: the writes below are the only ones.
        bed.idle(Duration::from_millis(300), u32::MAX);
        assert_eq!((bed.model.durable, bed.disk.in_flight().len()), (1, 0));
        let base = bed.model.durable;
        bed.append(big);
        bed.submit();
        bed.append(big);
        bed.append(big);
        bed.submit();
        let writes = bed.disk.in_flight();
        assert_eq!(writes.len(), 2, "a large second write starts beside the first");
        let event = bed.disk.complete_now(writes[1].0);
        bed.complete(event);
        assert_eq!(bed.model.durable, base, "nothing is acknowledged beyond the hole");
        if seed % 3 == 0 {
            let event = bed.disk.complete_now(writes[0].0);
            bed.complete(event);
            assert_eq!(bed.model.durable, base + 3, "the hole is filled");
        }
        bed.power_loss(&mut Rng::new(seed));
        let found = bed.recover().unwrap();
        recovered_both += u32::from(found.accepted.len() == 4);
    }
    assert!(recovered_both >= 20, "{recovered_both}");
}

#[test]
fn a_segment_filled_after_a_restart_keeps_the_room_for_its_placements() {
    room_for_placements();
}

pub fn room_for_placements() {
    for seed in 0..10 {
        let mut bed = Bed::new(seed, options());
        // A block each in the segment and about another one in its footer.
        for _ in 0..5 {
            bed.append_starting(&[MANY_LOGS, PLAIN], 1000);
        }
        while bed.event() {}
        bed.power_loss(&mut Rng::new(seed));
        bed.recover().unwrap();
        for _ in 0..20 {
            bed.append_starting(&[1, PLAIN, 0], 1000);
        }
        while bed.event() {}
        while bed.apply() {}
        bed.idle(Duration::from_millis(200), u32::MAX);
        assert!(bed.log().stats().indexed_segments >= 1, "{:?}", bed.log().stats());
        assert_positions(&mut bed);
        bed.kill(&mut Rng::new(seed));
        bed.recover().unwrap();
        assert_positions(&mut bed);
    }
}

#[test]
fn the_faults_of_these_tests_do_happen() {
    let mut seen = [0; 5];
    let names = [
        counts::BLOCKS_LOST,
        counts::BLOCKS_KEPT,
        counts::BLOCKS_TORN,
        counts::NAMES_LOST,
        counts::REORDERED,
    ];
    let options = options();
    for events in (0..script_events(&options)).step_by(3) {
        let mut bed = Bed::new(u64::from(events), options.clone());
        bed.play(SCRIPT, events);
        bed.submit();
        bed.power_loss(&mut Rng::new(u64::from(events)));
        for (count, name) in seen.iter_mut().zip(names) {
            *count += bed.disk.counters().get(name);
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{names:?}: {seen:?}");
}
