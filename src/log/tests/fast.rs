//! Starts that do not read everything: from footers and checkpoints, with a scrub afterwards.

use std::time::Duration;

use super::bed::{Bed, Step::*, folder, options};
use super::reading::assert_positions;
use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::base::{Checksum, NodeId, Slot};
use crate::io::{FileOptions, Storage};
use crate::log::layout::footer_bytes;
use crate::log::{Log, LogError, LogOptions, RestoreError};
use crate::sim::disk::{OpFault, OpKind, Region, counts};

fn checkpoint(number: u64) -> String {
    format!("{}/checkpoint-{}", folder(), number % 2)
}

/// Several sealed segments and both checkpoints; every entry but the last, a mark, is attested. The
/// process has ended.
pub fn filled(seed: u64) -> Bed {
    filled_with(seed, options())
}

fn filled_with(seed: u64, options: LogOptions) -> Bed {
    let mut bed = Bed::new(seed, options);
    for size in [100, 9000, 0, 3000, 11_700, 15_800, 7000, 15_800, 15_000, 200, 15_800, 300] {
        bed.play(&[Append(size), Drain, Apply(1), Idle(5)], u32::MAX);
    }
    bed.idle(Duration::from_millis(200), u32::MAX);
    let stats = bed.log().stats();
    assert!(stats.segments >= 3 && stats.indexed_segments >= 2 && stats.marks >= 1, "{stats:?}");
    bed.kill(&mut Rng::new(seed));
    let checkpoints = bed_checkpoints(&mut bed);
    assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
    bed
}

/// The slots of the checkpoints that are of use, the newest last.
fn bed_checkpoints(bed: &mut Bed) -> Vec<u64> {
    let report = bed.inspect();
    let checkpoints = report.groups[0].checkpoints.iter().filter(|found| found.why.is_none());
    let mut slots: Vec<u64> = checkpoints.filter_map(|found| found.slot).collect();
    slots.sort_unstable();
    slots
}

#[test]
fn a_start_goes_on_from_the_checkpoint_and_reads_sealed_segments_by_their_footers() {
    let mut bed = filled(1);
    let newest = *bed_checkpoints(&mut bed).last().unwrap();
    let before = bed.disk.counters().get(counts::READS);
    let take = &mut |slot: Slot, _: &[u8]| {
        assert_eq!(slot, Slot(newest));
        Ok(())
    };
    let opened = Log::open_from(&mut bed.disk, &folder(), options(), take);
    let (log, recovered) = opened.unwrap();
    assert_eq!(recovered.checkpoint, Slot(newest));
    let reads = bed.disk.counters().get(counts::READS) - before;
    assert!(log.stats().unverified_segments >= 2 && reads < 40, "{reads} reads");
    drop(log);
    bed.recover().unwrap();
    assert_eq!(bed.checkpoints_used, 1);
    assert_positions(&mut bed);
    assert_eq!(bed.scrub(), None);
    assert!(bed.log().stats().verified_segments >= 2);
    assert_positions(&mut bed);
    // And from there once more.
    bed.play(&[Append(9000), Apply(9), Append(9000), Drain, Apply(9), Idle(300)], u32::MAX);
    bed.power_loss(&mut Rng::new(3));
    bed.recover().unwrap();
    assert_eq!(bed.checkpoints_used, 2);
    assert_positions(&mut bed);
}

#[test]
fn damage_in_what_a_start_does_not_read_is_found_by_the_scrub_at_its_exact_place() {
    damage_in_what_is_not_read();
}

pub fn damage_in_what_is_not_read() {
    let (mut at_start, mut by_scrub) = (0, 0);
    for region in [Region::Header, Region::Payload, Region::Padding, Region::SegmentHeader] {
        for seed in 0..30 {
            let mut bed = filled(seed);
            let mut rng = Rng::new(seed * 7 + region as u64);
            let damaged = match seed % 3 {
                0 => bed.disk.zero_block(region, &mut rng),
                _ => bed.disk.flip_bit(region, &mut rng),
            };
            let damaged = damaged.expect("the region is there");
            let refused = bed.recover_quietly().is_err();
            // `recover` holds the scrub's finding against that of inspect.
            match bed.recover() {
                Err(LogError::Corrupt(found)) => {
                    // Zeros at the end of one segment, or at the start of the next.
                    let either = seed % 3 == 0 && region == Region::SegmentHeader;
                    let place = (&found.file, found.offset);
                    assert!(either || place == (&damaged.file, damaged.structure), "{found}");
                }
                other => panic!("{region:?}, seed {seed}: {other:?}"),
            }
            at_start += u32::from(refused);
            by_scrub += u32::from(!refused);
        }
    }
    assert!(at_start > 10 && by_scrub > 40, "{at_start} at start, {by_scrub} by the scrub");
}

#[test]
fn a_checkpoint_that_is_damaged_missing_or_old_costs_nothing_but_time() {
    let (mut used, mut unused) = (0, 0);
    for seed in 0..60 {
        let mut bed = filled(seed);
        let rng = &mut Rng::new(seed);
        match seed % 5 {
            0 => assert!(bed.disk.flip_bit(Region::Checkpoint, rng).is_some()),
            1 => assert!(bed.disk.flip_bits(Region::Checkpoint, 100, rng) >= 4),
            2 => assert!(bed.disk.lose_checkpoint(rng)),
            3 => assert!((0..20).any(|_| bed.disk.stale_checkpoint(rng))),
            _ => assert!(bed.disk.make_unreadable(Region::Checkpoint, rng).is_some()),
        }
        let report = bed.inspect();
        assert_eq!(report.damage, [], "a damaged checkpoint is no damage of the log");
        bed.recover().unwrap();
        assert_eq!(bed.scrub(), None);
        assert_positions(&mut bed);
        used += bed.checkpoints_used;
        unused += 1 - bed.checkpoints_used;
        // New ones are written, and are of use again.
        for _ in 0..10 {
            bed.play(&[Append(9000), Drain, Apply(9)], u32::MAX);
        }
        bed.idle(Duration::from_millis(300), u32::MAX);
        bed.power_loss(rng);
        bed.recover().unwrap();
        assert!(bed.checkpoints_used > 0, "seed {seed}");
        assert_eq!(bed_checkpoints(&mut bed).len(), 2, "seed {seed}");
    }
    assert!(used >= 30 && unused >= 10, "{used} used, {unused} not");
}

/// The slot of the checkpoint that a start takes, and how many footers it found damaged.
fn start(bed: &mut Bed) -> Result<(u64, u32), LogError> {
    let opened = Log::open_from(&mut bed.disk, &folder(), options(), &mut |_, _| Ok(()));
    opened.map(|(_, recovered)| (recovered.checkpoint.0, recovered.footers_damaged))
}

fn checkpoints_standing(bed: &mut Bed) -> usize {
    let names = bed.disk.list(&folder()).unwrap();
    names.iter().filter(|name| name.starts_with("checkpoint-")).count()
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_left_where_it_is_and_used_when_it_can_be() {
    let (mut older, mut none) = (0, 0);
    for (faults, skip) in
        [(1, 0), (1, 1), (2, 0), (1, 2)].into_iter().chain((3..40).map(|n| (1, n)))
    {
        let mut bed = filled(1);
        let newest = *bed_checkpoints(&mut bed).last().unwrap();
        // The first two reads are of the headers; those of the log, and of the state, follow.
        (0..faults).for_each(|_| bed.disk.inject(OpKind::Read, skip, OpFault::Error));
        match start(&mut bed) {
            Ok((_, 1)) => continue,
            Ok((slot, _)) => {
                older += u32::from((1..newest).contains(&slot));
                none += u32::from(slot == 0);
            }
            Err(error) => assert!(matches!(error, LogError::Io { .. }), "{error}"),
        }
        bed.disk.forget_injected();
        bed.power_loss(&mut Rng::new(1));
        assert_eq!(checkpoints_standing(&mut bed), 2, "read {skip} has failed");
        assert_eq!(start(&mut bed).unwrap(), (newest, 0), "read {skip} had failed");
        bed.recover().unwrap();
        assert_eq!(bed.checkpoints_used, 1);
    }
    assert!(older >= 2 && none >= 1, "an older one {older} times, none {none} times");
}

#[test]
fn a_start_that_may_open_no_more_files_says_so_and_takes_no_checkpoint_away() {
    let mut of_checkpoints = 0;
    for skip in 0..20 {
        let mut bed = filled(1);
        let newest = *bed_checkpoints(&mut bed).last().unwrap();
        bed.disk.inject(OpKind::Name, skip, OpFault::NoFile);
        if let Err(error) = start(&mut bed) {
            let text = error.to_string();
            assert!(matches!(error, LogError::Io { .. }), "{text}");
            assert!(text.contains("opening ") && text.contains("os error 24"), "{text}");
            of_checkpoints += u32::from(text.contains("checkpoint-"));
        }
        bed.disk.forget_injected();
        bed.power_loss(&mut Rng::new(1));
        assert_eq!(checkpoints_standing(&mut bed), 2);
        assert_eq!(start(&mut bed).unwrap(), (newest, 0));
    }
    assert_eq!(of_checkpoints, 3, "both headers, and the state of the newer one");
}

#[test]
fn a_checkpoint_that_starts_did_without_is_refused_when_no_entry_holds_a_slot_that_it_covers() {
    let mut bed = Bed::new(1, options());
    let play = [Append(11_700), Append(11_700), Append(11_700), Drain, Apply(9), Idle(50)];
    bed.play(&play, u32::MAX);
    assert_eq!(bed_checkpoints(&mut bed), [3]);
    bed.options.checkpoint_bytes_min = None;
    bed.kill(&mut Rng::new(1));
    bed.recover().unwrap();
    assert_eq!(bed.checkpoints_used, 1);
    // Slot 4 fills segment 1; slot 3 stands once more, in segment 2.
    bed.play(&[Append(11_700), Repeat, Drain], u32::MAX);
    assert_eq!((bed.log().stats().segments, bed.model.applied), (3, Slot(3)));
    bed.kill(&mut Rng::new(1));
    bed.fault_at_open = Some((OpKind::Read, OpFault::Error));
    bed.recover().unwrap();
    assert_eq!(bed.checkpoints_used, 1, "it could not be read");
    // Slot 3 is held by segment 2 from now on, says the footer of segment 1.
    bed.play(&[Apply(1), Drain], u32::MAX);
    assert_eq!(bed.log().stats().indexed_segments, 1);
    bed.kill(&mut Rng::new(1));
    assert_eq!(bed_checkpoints(&mut bed), [3], "it stands");
    bed.recover().unwrap();
    assert_positions(&mut bed);
    assert_eq!((bed.checkpoints_used, checkpoints_standing(&mut bed)), (1, 0));
}

#[test]
fn a_checkpoint_of_another_node_or_of_another_log_is_not_taken() {
    for other_node in [true, false] {
        let mut bed = filled(1);
        let other = match other_node {
            true => filled_with(1, LogOptions { node: NodeId(2), ..options() }),
            // The same slots, with other values.
            false => filled_with(2, LogOptions { second_write_bytes_min: 1, ..options() }),
        };
        let theirs = other.disk.file_bytes(&checkpoint(0)).unwrap();
        let mut theirs = theirs;
        if !other_node {
            // The chain that it was taken in is another one.
            theirs[64] ^= 1;
            let checksum = Checksum::of(&theirs[..BLOCK_SIZE - 4]);
            theirs[BLOCK_SIZE - 4..BLOCK_SIZE].copy_from_slice(&checksum.0.to_le_bytes());
        }
        for number in 0..2 {
            bed.replace(&checkpoint(number), &theirs);
        }
        let report = bed.inspect();
        let why: Vec<_> = report.groups[0].checkpoints.iter().map(|c| c.why.is_some()).collect();
        assert_eq!(why, [true, true]);
        let taken = &mut |_: Slot, _: &[u8]| -> Result<(), RestoreError> { panic!("it is taken") };
        let opened = Log::open_from(&mut bed.disk, &folder(), options(), taken);
        assert_eq!(opened.unwrap().1.checkpoint, Slot::NONE);
        assert!(bed.inspect().groups[0].checkpoints.is_empty(), "it can never count again");
        bed.recover().unwrap();
        assert_eq!(bed.checkpoints_used, 0);
    }
}

#[test]
fn a_checkpoint_whose_state_is_refused_gives_way_to_the_other_one() {
    let mut bed = filled(1);
    let slots = bed_checkpoints(&mut bed);
    let mut asked = Vec::new();
    let take = &mut |slot: Slot, _: &[u8]| {
        asked.push(slot.0);
        match asked.len() {
            1 => Err(RestoreError::Wrong("of no use".to_owned())),
            _ => Ok(()),
        }
    };
    let opened = Log::open_from(&mut bed.disk, &folder(), options(), take).unwrap();
    assert_eq!(opened.1.checkpoint, Slot(slots[0]));
    assert_eq!(asked, [slots[1], slots[0]]);
}

#[test]
fn a_checkpoint_of_a_newer_version_refuses_the_start_and_stays() {
    let mut bed = filled(1);
    let both = bed_checkpoints(&mut bed);
    let refused = |opened: Result<_, LogError>| match opened {
        Err(LogError::NewerVersion { file, .. }) => file,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opens"),
    };
    // The state is of a newer version.
    for _ in 0..2 {
        let take = &mut |_: Slot, _: &[u8]| Err(RestoreError::Newer("version 9".to_owned()));
        let opened = Log::open_from(&mut bed.disk, &folder(), options(), take);
        assert!(refused(opened.map(drop)).contains("checkpoint-"));
        assert_eq!(bed_checkpoints(&mut bed), both, "they stay");
    }
    // The file is.
    let mut newer = bed.disk.file_bytes(&checkpoint(0)).unwrap();
    newer[4] = 200;
    let checksum = Checksum::of(&newer[..BLOCK_SIZE - 4]);
    newer[BLOCK_SIZE - 4..BLOCK_SIZE].copy_from_slice(&checksum.0.to_le_bytes());
    bed.replace(&checkpoint(0), &newer);
    for _ in 0..2 {
        let opened =
            Log::open_from(&mut bed.disk, &folder(), options(), &mut |_, _| panic!("not asked"));
        assert_eq!(refused(opened.map(drop)), checkpoint(0));
        assert_eq!(bed.disk.file_bytes(&checkpoint(0)).unwrap(), newer, "it stays");
    }
}

#[test]
fn a_log_that_ends_before_what_a_checkpoint_counts_on_is_refused() {
    a_log_that_lost_what_a_checkpoint_counts_on();
}

pub fn a_log_that_lost_what_a_checkpoint_counts_on() {
    let mut bed = Bed::new(1, LogOptions { mark_idle_after: None, ..options() });
    // Until a checkpoint covers the last entry, which no later one attests.
    let is_covered = |bed: &mut Bed| {
        let report = bed.inspect();
        let sequences = report.groups[0].checkpoints.iter().filter_map(|found| found.sequence);
        sequences.max() == Some(report.groups[0].entries)
    };
    for _ in 0..20 {
        bed.play(&[Append(7000), Drain, Apply(1), Idle(100)], u32::MAX);
        if is_covered(&mut bed) {
            break;
        }
    }
    assert!(is_covered(&mut bed));
    bed.kill(&mut Rng::new(1));
    let damaged = bed.disk.zero_block(Region::Tail, &mut Rng::new(1)).unwrap();
    match bed.recover() {
        Err(LogError::Corrupt(damage)) => {
            assert_eq!((&damage.file, damage.offset), (&damaged.file, damaged.structure));
            assert!(damage.why.contains("checkpoint"), "{damage}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_checkpoint_of_another_log_proves_nothing_of_this_one() {
    let mut bed = filled(1);
    let mut theirs = bed.disk.file_bytes(&checkpoint(0)).unwrap();
    // It counts on far more than there is here, after another chain.
    theirs[40..48].copy_from_slice(&1000_u64.to_le_bytes());
    theirs[64] ^= 1;
    let seal = |bytes: &mut Vec<u8>| {
        let checksum = Checksum::of(&bytes[..BLOCK_SIZE - 4]);
        bytes[BLOCK_SIZE - 4..BLOCK_SIZE].copy_from_slice(&checksum.0.to_le_bytes());
    };
    seal(&mut theirs);
    bed.replace(&checkpoint(0), &theirs);
    assert_eq!(bed.inspect().damage, []);
    bed.recover().unwrap();
    assert_eq!((bed.checkpoints_used, checkpoints_standing(&mut bed)), (1, 1));
    bed.kill(&mut Rng::new(1));
    // Of a segment that does not stand here nobody can tell whether it did.
    theirs[48..56].copy_from_slice(&77_u64.to_le_bytes());
    seal(&mut theirs);
    bed.disk.open(&checkpoint(0), FileOptions::CreateNew).unwrap();
    bed.replace(&checkpoint(0), &theirs);
    match bed.recover() {
        Err(LogError::Corrupt(damage)) => assert!(damage.why.contains("checkpoint-0"), "{damage}"),
        other => panic!("{other:?}"),
    }
}

/// Puts `bytes` at the end of a file, past the log.
fn put_end(bed: &mut Bed, file: &str, bytes: &[u8]) {
    let mut whole = bed.disk.file_bytes(file).unwrap();
    let at = whole.len() - bytes.len();
    whole[at..].copy_from_slice(bytes);
    bed.replace(file, &whole);
}

fn footer_of(bed: &Bed, file: &str) -> Vec<u8> {
    let bytes = bed.disk.file_bytes(file).unwrap();
    let size = footer_bytes(&bytes[bytes.len() - BLOCK_SIZE..]);
    assert!(size > 0, "{file} has a footer");
    bytes[bytes.len() - size..].to_vec()
}

#[test]
fn a_footer_that_the_next_segment_does_not_follow_from_is_not_believed() {
    a_footer_of_another_life();
}

pub fn a_footer_of_another_life() {
    let play = [Append(11_700), Append(11_700), Append(11_700), Drain, Apply(9)];
    let mut bed = Bed::new(1, options());
    let mut other = Bed::new(1, options());
    // Another life of the log: as many entries, of other sizes.
    other.play(&[Append(7000), Append(15_000), Append(11_700), Drain, Apply(9)], u32::MAX);
    for _ in 0..3 {
        bed.play(&play, u32::MAX);
        other.play(&play, u32::MAX);
    }
    bed.idle(Duration::from_millis(300), u32::MAX);
    other.idle(Duration::from_millis(300), u32::MAX);
    bed.kill(&mut Rng::new(1));
    other.kill(&mut Rng::new(1));
    let footer = footer_of(&other, &Bed::segment(1));
    assert_ne!(footer, footer_of(&bed, &Bed::segment(1)));
    put_end(&mut bed, &Bed::segment(1), &footer);
    let found = bed.recover().unwrap();
    assert_eq!(found.footers_damaged, 1, "it is read, and its footer made again");
    assert_positions(&mut bed);
}

#[test]
fn a_directory_without_checkpoints_and_with_older_footers_opens() {
    let mut bed = filled(1);
    for number in 0..2 {
        bed.disk.remove(&checkpoint(number)).unwrap();
    }
    // Older footers do not say what their entries tell to be chosen.
    for number in 1..=2 {
        let mut footer = footer_of(&bed, &Bed::segment(number));
        let end = footer.len();
        footer[end - 128 + 64..end - 128 + 72].fill(0);
        let checksum = Checksum::of(&footer[..end - 4]);
        footer[end - 4..].copy_from_slice(&checksum.0.to_le_bytes());
        put_end(&mut bed, &Bed::segment(number), &footer);
    }
    let found = bed.recover().unwrap();
    assert_eq!(found.footers_damaged, 0);
    assert!(bed.log().stats().unverified_segments >= 2);
    assert_eq!(bed.scrub(), None);
    assert_positions(&mut bed);
}

#[test]
fn a_start_that_is_told_to_verifies_everything_and_leaves_nothing_to_the_scrub() {
    let mut bed = filled(1);
    bed.options.verify_at_start = true;
    bed.recover().unwrap();
    assert_eq!(bed.log().stats().unverified_segments, 0);
    assert_eq!(bed.checkpoints_used, 1);
}

#[test]
fn a_footer_that_rots_while_the_log_runs_does_not_hide_its_entries_from_the_scrub() {
    for flip_entry in [false, true] {
        let mut bed = filled(4);
        bed.recover().unwrap();
        let file = Bed::segment(1);
        let length = bed.disk.file_bytes(&file).unwrap().len() as u64;
        bed.disk.flip_at(&file, length - 1, 0);
        if flip_entry {
            bed.disk.flip_at(&file, BLOCK_SIZE as u64 + 20, 0);
        }
        let found = bed.scrub();
        assert_eq!(found.map(|damage| damage.offset), flip_entry.then_some(BLOCK_SIZE as u64));
    }
}
