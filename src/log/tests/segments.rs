//! Many segments: how many files a log and an inspection hold open, and how much of the segments
//! behind the log's end a start reads.

use std::time::Duration;

use super::bed::{Bed, Step::*, folder, options, request};
use super::damage::filled_with;
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::io::{Disk, Storage};
use crate::log::format::is_zero;
use crate::log::{DataDir, FormatRequest, LogError, LogOptions, SHORTAGE_RETRY_INTERVAL};
use crate::sim::disk::{DiskOptions, OpFault, OpKind, TestDisk, counts};

/// A log with so many segments made by `format`.
fn preallocated(seed: u64, options: LogOptions, segments: u64) -> Bed {
    let mut disk = TestDisk::new(seed, DiskOptions::default());
    let preallocate_bytes = segments * options.segment_bytes;
    DataDir::format(&mut disk, &FormatRequest { preallocate_bytes, ..request(&options) }).unwrap();
    let mut bed = Bed::found(disk, options);
    bed.recover().unwrap();
    bed
}

/// Four entries of three blocks fill a segment.
fn fill_segments(bed: &mut Bed, count: usize) {
    for _ in 0..4 * count {
        bed.append(11_700);
        while bed.event() {}
    }
}

/// Writes in flight.
fn writes(bed: &Bed) -> usize {
    bed.disk.in_flight().iter().filter(|(_, kind)| *kind == OpKind::Write).count()
}

/// Puts zeros in place of these blocks of a segment.
fn zero(bed: &mut Bed, segment: u64, blocks: std::ops::Range<usize>) {
    let name = Bed::segment(segment);
    let mut bytes = bed.disk.file_bytes(&name).unwrap();
    bytes[blocks.start * BLOCK_SIZE..blocks.end * BLOCK_SIZE].fill(0);
    bed.replace(&name, &bytes);
}

// ---- open files -------------------------------------------------------------------------------

#[test]
fn an_inspection_opens_one_file_at_a_time() {
    let mut bed = preallocated(1, options(), 40);
    fill_segments(&mut bed, 20);
    bed.play(&[Apply(99), Idle(200)], u32::MAX);
    bed.kill(&mut Rng::new(1));
    bed.disk.set_files_max(1);
    let report = bed.inspect();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.groups[0].segments.len(), report.groups[0].chosen), (40, 80));
    assert_eq!(bed.disk.open_files(), 0);
}

#[test]
fn what_the_system_refuses_to_open_is_not_told_as_damage() {
    let mut bed = filled_with(1, options());
    bed.disk.set_files_max(0);
    let report = bed.inspect();
    assert!(report.damage.is_empty() && !report.is_sound(), "{report:?}");
    // The identity and the group.
    assert_eq!(report.not_read.len(), 2);
    assert!(report.not_read.iter().all(|told| told.why.contains("os error 24")), "{report:?}");
    bed.disk.set_files_max(1024);
    let mut refused = 0;
    for kind in [OpKind::Name, OpKind::Read] {
        for skip in 0.. {
            bed.disk.inject(kind, skip, OpFault::Error);
            let report = bed.inspect();
            bed.disk.forget_ordered();
            assert_eq!(report.damage, [], "{kind:?} {skip}");
            // In a checkpoint it makes that one useless.
            let useless = report.groups[0].checkpoints.iter().any(|found| found.why.is_some());
            if report.is_sound() && !useless {
                break;
            }
            refused += report.not_read.len();
            assert_eq!(bed.disk.open_files(), 0);
        }
    }
    assert!(refused >= 15, "{refused}");
    assert!(bed.inspect().is_sound());
    bed.recover().unwrap();
}

#[test]
fn a_start_with_many_prepared_segments_keeps_the_next_ones_open() {
    let mut bed = preallocated(1, options(), 60);
    bed.kill(&mut Rng::new(1));
    bed.recover_quietly().unwrap();
    // The vote, the active segment, and the next two.
    assert_eq!(bed.disk.open_files(), 4);
    bed.kill(&mut Rng::new(1));
    bed.recover().unwrap();
    fill_segments(&mut bed, 5);
    assert_eq!(bed.log().stats().spare_segments, 55);
    bed.play(&[Apply(99), Idle(200)], u32::MAX);
    assert_eq!(bed.log().stats().indexed_segments, 4);
    bed.power_loss(&mut Rng::new(1));
    bed.recover_quietly().unwrap();
    assert_eq!(bed.disk.open_files(), 4);
}

#[test]
fn going_on_to_a_prepared_segment_never_waits() {
    let mut bed = preallocated(1, options(), 60);
    for segment in 1..60 {
        for entry in 0..4 {
            bed.append(11_700);
            bed.submit();
            assert_eq!(writes(&bed), 1, "segment {segment}, entry {entry}");
            while bed.event() {}
        }
    }
    assert_eq!((bed.log().stats().spare_segments, bed.model.durable), (1, 4 * 59));
}

#[test]
fn entries_placed_over_many_prepared_segments_at_once_wait_for_their_files() {
    for seed in 0..20 {
        let mut bed = preallocated(seed, options(), 12);
        // Into segments that are open, that stand, and that are still to be made.
        for _ in 0..4 * 15 {
            bed.append(11_700);
        }
        let events = seed as u32 * 3;
        bed.step(Events(events), u32::MAX);
        bed.submit();
        if seed % 2 == 0 {
            bed.power_loss(&mut Rng::new(seed));
            bed.recover().unwrap();
            continue;
        }
        bed.idle(Duration::from_secs(2), u32::MAX);
        assert_eq!(bed.model.durable, 60);
        bed.power_loss(&mut Rng::new(seed));
        assert_eq!(bed.recover().unwrap().torn_bytes, 0);
    }
}

#[test]
fn a_prepared_segment_that_cannot_be_opened_is_waited_for_while_files_are_short() {
    let mut bed = preallocated(1, options(), 12);
    fill_segments(&mut bed, 1);
    let open = bed.disk.open_files();
    bed.disk.set_files_max(open);
    // On to the last segment that is open, and beyond it.
    for _ in 0..4 * 3 {
        bed.append(11_700);
    }
    bed.idle(Duration::from_secs(2), u32::MAX);
    assert!(bed.failure.is_none(), "{:?}", bed.failure);
    let durable = bed.model.durable;
    assert!(durable < 4 + 4 * 3, "the last ones wait for a file");
    bed.disk.set_files_max(1024);
    bed.idle(SHORTAGE_RETRY_INTERVAL, u32::MAX);
    assert_eq!(bed.model.durable, 4 + 4 * 3);
    bed.power_loss(&mut Rng::new(1));
    assert_eq!(bed.recover().unwrap().torn_bytes, 0);
}

#[test]
fn files_kept_open_for_reads_give_way_to_the_log() {
    // So few that the segments that are read by their footers soon keep all of them.
    for (made, files_max) in [(40, 8), (40, 12), (1, 8), (1, 12)] {
        let mut bed = preallocated(1, options(), made);
        bed.disk.set_files_max(files_max);
        for _ in 0..30 {
            bed.play(&[Append(11_700), Append(11_700), Apply(9), Idle(600)], u32::MAX);
        }
        assert!(bed.failure.is_none(), "{:?}", bed.failure);
        bed.idle(Duration::from_secs(5), u32::MAX);
        let stats = bed.log().stats();
        assert_eq!(bed.model.durable, 60, "{made} made, {files_max} files: {stats:?}");
        assert!(stats.indexed_segments >= 12, "{stats:?}");
        assert!(stats.checkpoints >= 10, "{stats:?}");
        bed.disk.set_files_max(1024);
        bed.power_loss(&mut Rng::new(1));
        bed.recover().unwrap();
    }
}

// ---- names ------------------------------------------------------------------------------------

#[test]
fn a_segment_stands_with_its_entries_after_a_power_loss() {
    names_after_power_loss();
}

/// Segments that were made while the log ran hold acknowledged entries when the power fails, and nothing
/// else has made their names durable meanwhile.
pub fn names_after_power_loss() {
    for seed in 0..20 {
        let options = LogOptions { checkpoint_bytes_min: None, ..options() };
        let mut bed = Bed::new(seed, options);
        bed.idle(100 * MS, u32::MAX);
        for entry in 0..4 * 3 {
            bed.append(11_700);
            while bed.model.durable <= entry {
                bed.idle(MS, u32::MAX);
            }
        }
        bed.power_loss(&mut Rng::new(seed));
        assert_eq!(bed.recover().unwrap().entries, 12, "seed {seed}");
    }
}

// ---- writes side by side ----------------------------------------------------------------------

#[test]
fn beside_a_small_write_a_second_one_starts_when_as_much_waits() {
    let mut bed = Bed::new(1, LogOptions { segment_bytes: 1 << 20, ..options() });
    bed.idle(100 * MS, u32::MAX);
    let mut in_flight_after = |size: usize| {
        bed.append(size);
        bed.submit();
        writes(&bed)
    };
    assert_eq!([1000, 600, 500, 4000].map(&mut in_flight_after), [1, 1, 2, 2]);
    assert!(!bed.log().is_free_for(1 << 20), "there are no more than two");
    bed.idle(300 * MS, u32::MAX);
    assert_eq!(bed.model.durable, 4);

    // Beside a large one a larger write later is better.
    for _ in 0..6 {
        bed.append(11_700);
    }
    bed.submit();
    for _ in 0..12 {
        bed.append(11_700);
    }
    bed.submit();
    assert_eq!(writes(&bed), 1);
    bed.idle(300 * MS, u32::MAX);
    assert_eq!(bed.model.durable, 4 + 18);
    bed.power_loss(&mut Rng::new(1));
    bed.recover().unwrap();
}

// ---- what is filled ahead --------------------------------------------------------------------

/// Six segments stand behind the active one while nothing is appended, one at any time.
fn ahead() -> LogOptions {
    let options = LogOptions { mark_idle_after: None, ..options() };
    LogOptions { fill_ahead_bytes: 7 * options.segment_bytes + 1, ..options }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_quiet_log_fills_its_reserve_and_a_burst_uses_it() {
    let mut bed = Bed::new(1, ahead());
    for _ in 0..3 {
        bed.append(11_700);
        bed.idle(200 * MS, u32::MAX);
        bed.append(11_700);
        bed.idle(240 * MS, u32::MAX);
        let before = bed.log().stats().spare_segments;
        bed.idle(2000 * MS, u32::MAX);
        let stats = bed.log().stats();
        assert_eq!((stats.spare_segments, stats.unfilled_bytes), (6, 0), "{before} before");
        let filled = bed.disk.counters().get(counts::WRITES);
        bed.idle(2000 * MS, u32::MAX);
        assert_eq!(bed.disk.counters().get(counts::WRITES), filled, "there is no more to fill");
        fill_segments(&mut bed, 5);
        assert!((1..=2).contains(&bed.log().stats().spare_segments), "{:?}", bed.log().stats());
    }
    bed.power_loss(&mut Rng::new(1));
    bed.recover().unwrap();
}

#[test]
fn a_log_that_is_appended_to_all_the_time_fills_no_reserve() {
    let mut bed = Bed::new(1, ahead());
    for _ in 0..100 {
        bed.append(100);
        bed.idle(200 * MS, u32::MAX);
        assert_eq!(bed.log().stats().spare_segments, 1);
    }
    // Neither does one without, or with less than is there anyway.
    let mut bed = Bed::new(1, LogOptions { fill_ahead_bytes: 0, ..ahead() });
    bed.idle(5000 * MS, u32::MAX);
    assert_eq!(bed.log().stats().spare_segments, 1);
}

#[test]
fn an_append_stops_the_filling_ahead_within_one_chunk() {
    let options = LogOptions { segment_bytes: 16 << 20, ..ahead() };
    let mut bed = Bed::new(1, LogOptions { fill_ahead_bytes: 7 * (16 << 20), ..options });
    // Somewhere within the third segment.
    bed.idle(1200 * MS, u32::MAX);
    let made = bed.log().stats().spare_segments;
    assert!((1..5).contains(&made), "{made}");
    bed.append(100);
    while bed.event() {}
    let before = bed.disk.counters().get(counts::WRITES);
    bed.idle(240 * MS, u32::MAX);
    assert_eq!(bed.disk.counters().get(counts::WRITES), before);
    bed.idle(5000 * MS, u32::MAX);
    assert_eq!(bed.log().stats().spare_segments, 6);
}

#[test]
fn the_reserve_leaves_room_on_the_disk() {
    let mut bed = Bed::new(1, ahead());
    // Of nineteen segments two stand, and one more is free beyond the sixteen that are left alone.
    bed.disk.set_capacity(64 * 1024 * 19);
    bed.idle(5000 * MS, u32::MAX);
    let stats = bed.log().stats();
    assert!((2..=3).contains(&stats.spare_segments) && stats.disk_full == 0, "{stats:?}");
    assert!(bed.disk.free_bytes().unwrap() >= 64 * 1024 * 15);
    bed.disk.set_capacity(u64::MAX);
    bed.idle(20_000 * MS, u32::MAX);
    assert_eq!(bed.log().stats().spare_segments, stats.spare_segments);
    bed.idle(30_000 * MS, u32::MAX);
    assert_eq!(bed.log().stats().spare_segments, 6);
}

#[test]
fn a_reserve_that_meets_a_full_disk_or_no_files_refuses_no_append() {
    for is_full in [true, false] {
        let mut bed = Bed::new(1, ahead());
        bed.idle(100 * MS, u32::MAX);
        assert_eq!(bed.log().stats().spare_segments, 1);
        // At the very moment: after the disk was asked.
        match is_full {
            true => bed.disk.inject(OpKind::Allocate, 0, OpFault::Full),
            false => bed.disk.inject(OpKind::Name, 0, OpFault::NoFile),
        }
        bed.idle(400 * MS, u32::MAX);
        let stats = bed.log().stats();
        assert_eq!((stats.spare_segments, stats.disk_full), (1, 0), "{stats:?}");
        // The log goes on to its last segment meanwhile.
        fill_segments(&mut bed, 1);
        bed.append(100);
        while bed.event() {}
        assert!(bed.log().has_room() && bed.failure.is_none());
        assert_eq!(bed.model.durable, 5);
        bed.idle(5000 * MS, u32::MAX);
        assert_eq!(bed.log().stats().spare_segments, 6);
    }
}

#[test]
fn a_write_that_takes_its_time_is_no_quiet_time() {
    let mut bed = Bed::new(1, ahead());
    bed.idle(100 * MS, u32::MAX);
    let until = bed.disk.now() + 3000 * MS;
    bed.disk.stand_still(until);
    bed.append(100);
    bed.idle(3200 * MS, u32::MAX);
    assert_eq!((bed.model.durable, bed.log().stats().spare_segments), (1, 1));
    bed.idle(2000 * MS, u32::MAX);
    assert_eq!(bed.log().stats().spare_segments, 6);
}

// ---- what is read behind the end --------------------------------------------------------------

#[test]
fn what_writes_in_flight_leave_behind_is_cut_in_each_segment_that_they_may_reach() {
    writes_in_flight_over_segments();
}

/// Two writes, of a whole segment each, are in flight when the power fails.
pub fn writes_in_flight_over_segments() {
    let options = LogOptions { second_write_bytes_min: 0, ..options() };
    let mut headless = 0;
    for seed in 0..120 {
        let mut bed = preallocated(seed, options.clone(), 8);
        fill_segments(&mut bed, 1);
        for _ in 0..8 {
            bed.append(11_700);
        }
        bed.submit();
        assert_eq!(writes(&bed), 2, "one for each segment");
        bed.power_loss(&mut Rng::new(seed));
        if seed % 2 == 0 {
            // As it may come too: nothing of the first write has reached the disk, and of the second
            // one not the header.
            zero(&mut bed, 2, 0..16);
            zero(&mut bed, 3, 0..1);
        }
        let bytes = |bed: &Bed, segment| bed.disk.file_bytes(&Bed::segment(segment)).unwrap();
        let (second, third) = (bytes(&bed, 2), bytes(&bed, 3));
        headless += u32::from(
            is_zero(&second) && is_zero(&third[..BLOCK_SIZE]) && !is_zero(&third[BLOCK_SIZE..]),
        );
        let entries = bed.recover().unwrap().entries;
        for segment in 1..=8 {
            let bytes = bytes(&bed, segment);
            let behind = entries.saturating_sub(4 * (segment - 1)).min(4) as usize;
            // The header of the segment that comes next may have come through.
            let next = entries >= 4 * (segment - 1);
            let from = if next { (1 + 3 * behind) * BLOCK_SIZE } else { 0 };
            assert!(is_zero(&bytes[from..]), "seed {seed}: segment {segment} is cut at {from}");
        }
        fill_segments(&mut bed, 3);
        bed.power_loss(&mut Rng::new(seed));
        bed.recover().unwrap();
    }
    assert!(headless >= 20, "the second write stands alone, without its header, in {headless}");
}

#[test]
fn damage_over_whole_segments_is_told_by_any_that_stands_behind() {
    for lost in 1..=5_u64 {
        let mut bed = preallocated(1, options(), 12);
        fill_segments(&mut bed, 8);
        bed.kill(&mut Rng::new(1));
        bed.disk.set_check_overwrites(false);
        for segment in 2..2 + lost {
            zero(&mut bed, segment, 0..16);
        }
        assert_damaged(&mut bed, 1, lost);
        // A later one has its header.
        for segment in 2 + lost..8 {
            zero(&mut bed, segment, 0..16);
        }
        zero(&mut bed, 8, 1..16);
        assert_damaged(&mut bed, 1, lost);
    }
}

#[test]
fn damage_over_whole_segments_is_told_by_a_footer_too() {
    let mut bed = preallocated(1, options(), 12);
    fill_segments(&mut bed, 9);
    bed.play(&[Apply(99), Idle(200)], u32::MAX);
    bed.kill(&mut Rng::new(1));
    bed.disk.set_check_overwrites(false);
    // Footers are believed only with what follows, so the chain is walked up to the end of segment 1.
    for segment in 2..=9 {
        zero(&mut bed, segment, 0..if segment == 7 { 15 } else { 16 });
    }
    bed.disk.remove(&format!("{}/checkpoint-0", folder())).ok();
    bed.disk.remove(&format!("{}/checkpoint-1", folder())).ok();
    assert_damaged(&mut bed, 1, 0);
}

fn assert_damaged(bed: &mut Bed, segment: u64, lost: u64) {
    match bed.recover() {
        Err(LogError::Corrupt(damage)) => {
            assert_eq!(damage.file, Bed::segment(segment), "{lost} lost: {damage}");
        }
        other => panic!("{lost} segments lost: {other:?}"),
    }
}

#[test]
fn damage_of_blank_space_far_behind_is_cut_when_the_log_comes_near() {
    for seed in 0..10 {
        let mut bed = preallocated(seed, options(), 12);
        let block = 2 + seed % 12;
        bed.disk.flip_at(&Bed::segment(10), block * BLOCK_SIZE as u64 + seed, 3);
        fill_segments(&mut bed, 2);
        bed.power_loss(&mut Rng::new(seed));
        assert_eq!(bed.recover().unwrap().torn_bytes, 0, "it is not read");
        let mut torn = 0;
        for _ in 0..8 {
            fill_segments(&mut bed, 1);
            bed.power_loss(&mut Rng::new(seed));
            torn += bed.recover().unwrap().torn_bytes;
        }
        assert_eq!(torn, BLOCK_SIZE as u64, "it is cut once");
        fill_segments(&mut bed, 2);
        assert_eq!(bed.model.durable, 4 * 12);
    }
}

#[test]
fn the_first_and_the_last_block_are_read_of_segments_far_behind() {
    for block in [0, 15] {
        let mut bed = preallocated(1, options(), 12);
        bed.kill(&mut Rng::new(1));
        bed.disk.flip_at(&Bed::segment(9), block * BLOCK_SIZE as u64 + 9, 3);
        bed.disk.flip_at(&Bed::segment(9), 7 * BLOCK_SIZE as u64 + 9, 3);
        let found = bed.recover().unwrap();
        assert_eq!(found.torn_bytes, 2 * BLOCK_SIZE as u64, "then all of it is read");
    }
}
