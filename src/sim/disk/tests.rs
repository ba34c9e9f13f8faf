//! Tests of the disk itself: what it promises, what it takes away, and the rules it holds.

use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::base::limits::{BLOCK_SIZE, KIB};
use crate::base::{Ballot, Batch, BlockPool, GroupId, Incarnation, NodeId, Slot};
use crate::io::{Disk, FileId, FileOptions, Storage, Sync, WritePart};
use crate::log::{CutKind, DataDir, Entry, Log, LogError, LogOptions};

const BLOCK: u64 = BLOCK_SIZE as u64;

fn block(byte: u8) -> WritePart {
    let mut buffer = BlockPool::new(0).take(BLOCK_SIZE);
    buffer.fill(byte);
    WritePart::Buffer(Rc::new(buffer), BLOCK_SIZE)
}

/// A disk with one durable, empty, named file.
fn with_file(seed: u64, options: DiskOptions) -> (TestDisk, FileId) {
    let mut disk = TestDisk::new(seed, options);
    let file = disk.open("file", FileOptions::CreateNew).unwrap();
    disk.sync_folder("").unwrap();
    (disk, file)
}

fn write(disk: &mut TestDisk, token: u64, file: FileId, at: u64, byte: u8, sync: Sync) {
    disk.write(Token(token), file, at * BLOCK, vec![block(byte)], sync);
}

/// Runs until nothing is in flight; the tokens and results in order of completion.
fn finish(disk: &mut TestDisk) -> Vec<(u64, Result<u32, io::ErrorKind>)> {
    let mut done = Vec::new();
    while let Some(event) = disk.pop_next() {
        done.push((event.token.0, event.result.map_err(|error| error.source.kind())));
    }
    done
}

/// The first byte of each block of the file, and whether every block is uniform.
fn blocks(disk: &TestDisk, name: &str) -> (Vec<u8>, bool) {
    let bytes = disk.file_bytes(name).unwrap();
    let chunks = bytes.chunks(BLOCK_SIZE);
    let uniform = chunks.clone().all(|chunk| chunk.iter().all(|byte| *byte == chunk[0]));
    (chunks.map(|chunk| chunk[0]).collect(), uniform)
}

#[test]
fn what_was_written_durably_survives_and_the_rest_is_lost_kept_or_torn() {
    let mut seen = [false; 3];
    let options = DiskOptions { check_overwrites: false, ..DiskOptions::default() };
    for seed in 0..300 {
        let (mut disk, file) = with_file(seed, options);
        for at in 0..4 {
            write(&mut disk, at, file, at, 1, Sync::Durable);
        }
        assert_eq!(finish(&mut disk).len(), 4);
        write(&mut disk, 5, file, 1, 2, Sync::Cached);
        finish(&mut disk);
        write(&mut disk, 6, file, 2, 2, Sync::Durable);
        disk.power_loss(&mut Rng::new(seed));
        let (firsts, _) = blocks(&disk, "file");
        assert_eq!((firsts[0], firsts[3]), (1, 1), "durable and not touched again");
        let bytes = disk.file_bytes("file").unwrap();
        let kinds = |at: usize, byte: u8| {
            bytes[at * BLOCK_SIZE..][..BLOCK_SIZE].iter().filter(|b| **b == byte).count()
        };
        let (old, new) = (kinds(1, 1), kinds(1, 2));
        assert_eq!(old + new, BLOCK_SIZE, "each sector is one that was written");
        assert_eq!(kinds(2, 1) + kinds(2, 2), BLOCK_SIZE, "of a write in flight, too");
        seen[0] |= old == BLOCK_SIZE;
        seen[1] |= new == BLOCK_SIZE;
        seen[2] |= old > 0 && new > 0;
    }
    assert_eq!(seen, [true; 3], "lost, kept and torn are all hit");
}

#[test]
fn a_flush_covers_what_had_completed_when_it_began_and_nothing_else() {
    let mut lost_late = 0;
    for seed in 0..100 {
        let options = DiskOptions { check_overwrites: false, ..DiskOptions::default() };
        let (mut disk, file) = with_file(seed, options);
        write(&mut disk, 1, file, 0, 1, Sync::Cached);
        finish(&mut disk);
        disk.flush(Token(2), file);
        write(&mut disk, 3, file, 1, 1, Sync::Cached);
        disk.complete_now(Token(3));
        disk.complete_now(Token(2));
        disk.power_loss(&mut Rng::new(seed));
        let bytes = disk.file_bytes("file").unwrap();
        assert!(bytes[..BLOCK_SIZE].iter().all(|byte| *byte == 1));
        lost_late += usize::from(bytes.get(BLOCK_SIZE) != Some(&1));
    }
    assert!(lost_late > 20, "the write that the flush did not cover is often lost ({lost_late})");
}

#[test]
fn after_a_failed_flush_a_second_one_mends_nothing() {
    let mut lost = 0;
    for seed in 0..100 {
        let (mut disk, file) = with_file(seed, DiskOptions::default());
        disk.inject(OpKind::Flush, 0, OpFault::Error);
        write(&mut disk, 1, file, 0, 1, Sync::Cached);
        finish(&mut disk);
        disk.flush(Token(2), file);
        assert!(finish(&mut disk)[0].1.is_err());
        disk.flush(Token(3), file);
        assert!(finish(&mut disk)[0].1.is_ok());
        disk.power_loss(&mut Rng::new(seed));
        lost += usize::from(blocks(&disk, "file").0.first() != Some(&1));
    }
    assert!(lost > 20, "the data is often gone ({lost})");
    assert!(lost < 100, "and sometimes not");
}

#[test]
fn names_need_a_sync_of_their_folder() {
    let (mut made, mut renamed, mut both) = (0, 0, 0);
    for seed in 0..200 {
        let mut disk = TestDisk::new(seed, DiskOptions::default());
        disk.create_folder("g").unwrap();
        disk.sync_folder("").unwrap();
        let old = disk.open("g/old", FileOptions::CreateNew).unwrap();
        write(&mut disk, 1, old, 0, 7, Sync::Durable);
        finish(&mut disk);
        disk.sync_folder("g").unwrap();
        disk.rename_async(Token(1), "g/old", "g/new");
        disk.open_async(Token(2), "g/other", FileOptions::CreateNew);
        finish(&mut disk);
        disk.power_loss(&mut Rng::new(seed));
        let names = disk.list("g").unwrap();
        let stands = |name: &str| names.iter().any(|found| found == name);
        assert!(stands("old") != stands("new"), "a rename is atomic: {names:?}");
        let name = if stands("new") { "g/new" } else { "g/old" };
        assert_eq!(disk.file_bytes(name).unwrap(), vec![7; BLOCK_SIZE]);
        made += usize::from(stands("other"));
        renamed += usize::from(stands("new"));
        both += usize::from(stands("other") && !stands("new"));
    }
    for count in [made, renamed, both] {
        assert!(count > 10 && count < 190, "{made} made, {renamed} renamed, {both} only made");
    }
    let mut disk = TestDisk::new(1, DiskOptions::default());
    disk.create_folder("g").unwrap();
    disk.open("g/file", FileOptions::CreateNew).unwrap();
    disk.sync_folder_async(Token(1), "g");
    disk.sync_folder_async(Token(2), "");
    finish(&mut disk);
    disk.power_loss(&mut Rng::new(1));
    assert_eq!(disk.file_names(), ["g/file"]);
}

#[test]
fn a_killed_process_loses_nothing_that_had_completed_but_a_power_loss_after_it_may() {
    let mut outcomes = [0; 2];
    for seed in 0..200 {
        let (mut disk, file) = with_file(seed, DiskOptions::default());
        write(&mut disk, 1, file, 0, 1, Sync::Cached);
        finish(&mut disk);
        write(&mut disk, 2, file, 1, 1, Sync::Durable);
        disk.kill(&mut Rng::new(seed));
        assert!(disk.next_completion_at().is_none(), "nothing of the dead process completes");
        let bytes = disk.file_bytes("file").unwrap();
        assert!(bytes[..BLOCK_SIZE].iter().all(|byte| *byte == 1));
        let arrived = bytes.get(BLOCK_SIZE) == Some(&1);
        disk.power_loss(&mut Rng::new(seed));
        let stands = disk.file_bytes("file").unwrap().get(BLOCK_SIZE) == Some(&1);
        outcomes[0] += usize::from(arrived);
        outcomes[1] += usize::from(arrived && !stands);
    }
    assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
}

#[test]
fn ordered_faults_hit_the_operation_they_were_ordered_for() {
    let (mut disk, file) = with_file(3, DiskOptions::default());
    for at in 0..5 {
        write(&mut disk, at, file, at, 1, Sync::Durable);
    }
    finish(&mut disk);
    disk.inject(OpKind::Write, 0, OpFault::Error);
    disk.inject(OpKind::Write, 0, OpFault::Short(512));
    disk.inject(OpKind::Write, 0, OpFault::Lost);
    disk.inject(OpKind::Write, 0, OpFault::Full);
    disk.inject(OpKind::Read, 1, OpFault::Error);
    for at in 5..9 {
        write(&mut disk, at, file, at, 2, Sync::Durable);
    }
    let mut done = finish(&mut disk);
    done.sort_unstable();
    let full = io::ErrorKind::StorageFull;
    assert!(done[0].1.is_err_and(|kind| kind != full), "EIO");
    assert_eq!(done[1..], [(6, Ok(512)), (7, Ok(4096)), (8, Err(full))]);
    let (firsts, _) = blocks(&disk, "file");
    assert_eq!(firsts[6], 2, "the first sector of a short write is there");
    assert!(firsts.get(7).is_none_or(|byte| *byte == 0), "the lost write is not");
    let pool = BlockPool::new(0);
    disk.read(Token(1), file, 0, pool.take(BLOCK_SIZE), BLOCK_SIZE);
    disk.read(Token(2), file, 0, pool.take(BLOCK_SIZE), BLOCK_SIZE);
    let mut done = finish(&mut disk);
    done.sort_unstable();
    assert!(done[0].1 == Ok(4096) && done[1].1.is_err(), "{done:?}");
    for name in [counts::WRITE_ERROR, counts::SHORT_WRITE, counts::LOST_WRITE, counts::FULL] {
        assert_eq!(disk.counters().get(name), 1, "{name}");
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_until_room_is_made() {
    let options = DiskOptions { capacity_bytes: 4 * BLOCK, ..DiskOptions::default() };
    let (mut disk, file) = with_file(1, options);
    disk.allocate(Token(1), file, 4 * BLOCK);
    write(&mut disk, 2, file, 3, 1, Sync::Durable);
    write(&mut disk, 3, file, 4, 1, Sync::Durable);
    let mut done = finish(&mut disk);
    done.sort_unstable();
    assert_eq!(done, [(1, Ok(0)), (2, Ok(4096)), (3, Err(io::ErrorKind::StorageFull))]);
    let refused = disk.open("other", FileOptions::CreateNew).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    disk.set_capacity(8 * BLOCK);
    write(&mut disk, 3, file, 4, 1, Sync::Durable);
    assert_eq!(finish(&mut disk), [(3, Ok(4096))]);
}

#[test]
fn zeros_cost_no_memory() {
    let (mut disk, file) = with_file(1, DiskOptions::default());
    disk.allocate(Token(1), file, 1024 * BLOCK);
    finish(&mut disk);
    for at in 0..1024 {
        write(&mut disk, at, file, at, 0, Sync::Cached);
    }
    finish(&mut disk);
    disk.flush(Token(1), file);
    finish(&mut disk);
    assert_eq!(disk.held_blocks(), 0);
    assert_eq!(disk.used_bytes(), 1024 * BLOCK);
}

#[test]
fn copies_bring_back_what_was_durable() {
    let (mut disk, file) = with_file(1, DiskOptions::default());
    write(&mut disk, 1, file, 0, 1, Sync::Durable);
    write(&mut disk, 2, file, 1, 1, Sync::Cached);
    finish(&mut disk);
    let copy = disk.save_copy();
    write(&mut disk, 3, file, 2, 3, Sync::Durable);
    finish(&mut disk);
    disk.kill(&mut Rng::new(1));
    disk.wipe();
    assert!(disk.file_names().is_empty() && disk.used_bytes() == 0);
    disk.restore_copy(&copy);
    assert_eq!(blocks(&disk, "file").0[0], 1);
    assert!(disk.file_bytes("file").unwrap().get(2 * BLOCK_SIZE).is_none());
}

#[test]
fn the_seed_decides_the_whole_run() {
    let run = |seed: u64| {
        let faults = DiskFaults {
            write_error: 100_000,
            short_write: 100_000,
            slow_period: 50_000,
            misdirected_write: 50_000,
            ..DiskFaults::NONE
        };
        let options = DiskOptions { faults, check_overwrites: false, ..DiskOptions::default() };
        let (mut disk, file) = with_file(seed, options);
        let mut trace = Vec::new();
        for at in 0..100 {
            write(&mut disk, at, file, at % 10, at as u8, Sync::Durable);
            if at % 4 == 3 {
                while let Some(event) = disk.pop_next() {
                    let count = event.result.map_err(|error| error.to_string());
                    trace.push((disk.now().0, event.token.0, count));
                }
            }
        }
        disk.power_loss(&mut Rng::new(seed));
        (trace, disk.file_bytes("file").unwrap(), disk.counters().clone())
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11).0, run(12).0);
}

#[test]
fn slow_periods_end() {
    let (mut disk, file) = with_file(1, DiskOptions::default());
    disk.slow_down(Instant(1) + Duration::from_millis(1));
    write(&mut disk, 1, file, 0, 1, Sync::Durable);
    finish(&mut disk);
    let slow = disk.now();
    assert!(slow > Instant(1) + Duration::from_millis(9), "{slow:?}");
    write(&mut disk, 2, file, 1, 1, Sync::Durable);
    finish(&mut disk);
    assert!(disk.now() - slow < Duration::from_millis(5));
}

#[test]
#[should_panic(expected = "two writes in flight")]
fn two_writes_in_flight_on_one_block_are_a_bug() {
    let (mut disk, file) = with_file(1, DiskOptions::default());
    disk.write(Token(1), file, 0, vec![block(1), block(2)], Sync::Durable);
    write(&mut disk, 2, file, 1, 1, Sync::Durable);
}

#[test]
#[should_panic(expected = "over acknowledged bytes of file at 4096")]
fn a_write_over_acknowledged_bytes_is_a_bug() {
    let (mut disk, file) = with_file(1, DiskOptions::default());
    disk.write(Token(1), file, 0, vec![block(1), block(1), block(1)], Sync::Durable);
    finish(&mut disk);
    write(&mut disk, 2, file, 1, 1, Sync::Durable);
}

#[test]
#[should_panic(expected = "not block-aligned")]
fn an_unaligned_write_is_a_bug() {
    let (mut disk, file) = with_file(1, DiskOptions::default());
    disk.write(Token(1), file, 512, vec![block(1)], Sync::Durable);
}

/// How many entries the log of each group has on the disk of [`with_two_logs`].
const ENTRIES: [u64; 2] = [6, 3];

fn log_options(group: GroupId) -> LogOptions {
    let pool = BlockPool::new(0);
    let options = LogOptions::new(Incarnation(7), NodeId(1), group, pool);
    // No idle mark attests the last entry: the logs end like those of a busy node that is killed.
    let segment_bytes = 64 * KIB as u64;
    LogOptions { segment_bytes, entry_bytes_max: 8 * KIB, spare_segments: 1, ..options }
}

/// A disk with the logs of two groups in one segment each, all acknowledged, entry by entry.
fn with_two_logs() -> TestDisk {
    let options = DiskOptions { check_overwrites: false, ..DiskOptions::default() };
    let mut disk = TestDisk::new(1, options);
    for (group, count) in (0..).map(GroupId).zip(ENTRIES) {
        let (folder, options) = (DataDir::group_folder(group), log_options(group));
        Log::format(&mut disk, &folder, &options, 1).unwrap();
        disk.sync_folder("").unwrap();
        let (mut log, _) = Log::open(&mut disk, &folder, options.clone()).unwrap();
        for slot in (1..=count).map(Slot) {
            let batch = Batch::copy_of(&options.pool, &[7; 5000]);
            let ballot = Ballot { round: 1, node: NodeId(1) };
            let placement_bytes_max = 0;
            let chosen = Slot::NONE;
            log.append(Entry { slot, ballot, chosen, batch: &batch, placement_bytes_max });
            let mut reported = Vec::new();
            log.submit(disk.now(), &mut disk);
            while let Some(event) = disk.pop_next() {
                let now = disk.now();
                log.on_disk_event(now, &mut disk, event, &mut reported).unwrap();
            }
            assert_eq!(log.stats().durable_slot, slot);
        }
        drop(log);
        disk.kill(&mut Rng::new(1));
    }
    disk
}

/// The end of the last group's log alone was taken for one, and those of the others for their middle.
#[test]
fn the_log_of_each_group_has_an_end() {
    let mut struck = [0; 2];
    for seed in 0..40 {
        let mut disk = with_two_logs();
        let flipped = disk.flip_bit(Region::Tail, &mut Rng::new(seed)).unwrap();
        for (group, count) in (0..).map(GroupId).zip(ENTRIES) {
            let folder = DataDir::group_folder(group);
            if flipped.file.starts_with(&folder) {
                let options = LogOptions { has_peers: true, ..log_options(group) };
                let (_, found) = Log::open(&mut disk, &folder, options).unwrap();
                assert_eq!(found.entries, count - 1, "{flipped:?}: not the last entry");
                struck[usize::from(group.0)] += 1;
            }
        }
    }
    assert!(struck.iter().all(|count| *count > 5), "{struck:?}");
}

/// A bit of an entry rots: the log that it is in finds it, the last entry included, and cuts only what
/// stands from there on, of a node with peers; and the other log of the disk is whole.
#[test]
fn rot_is_judged_by_the_log_that_it_is_in() {
    let mut seen = [[0; 2]; 2];
    let regions = [Region::Header, Region::Payload, Region::Padding, Region::Tail];
    for (region, seed) in regions.into_iter().flat_map(|region| (0..20).map(move |n| (region, n))) {
        for has_peers in [false, true] {
            let mut disk = with_two_logs();
            let flipped = disk.flip_bit(region, &mut Rng::new(seed)).unwrap();
            for (index, count) in ENTRIES.into_iter().enumerate() {
                let group = GroupId(index as u16);
                let folder = DataDir::group_folder(group);
                let options = LogOptions { has_peers, ..log_options(group) };
                let opened = Log::open(&mut disk, &folder, options);
                if !flipped.file.starts_with(&folder) {
                    let found = opened.unwrap().1;
                    assert_eq!((found.entries, found.cut), (count, None), "{flipped:?}");
                    continue;
                }
                match opened {
                    Ok((_, found)) => {
                        assert!(has_peers, "{flipped:?} is cut");
                        let kind = found.cut.map(|cut| cut.kind);
                        assert_eq!(kind, Some(CutKind::Damaged), "{flipped:?}");
                        assert!(found.entries < count, "{flipped:?}");
                    }
                    Err(LogError::Corrupt(damage)) => assert!(!has_peers, "{flipped:?}: {damage}"),
                    Err(error) => panic!("{flipped:?}: {error}"),
                }
                seen[index][usize::from(has_peers)] += 1;
            }
        }
    }
    assert!(seen.as_flattened().iter().all(|count| *count > 0), "{seen:?}");
}
