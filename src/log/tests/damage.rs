//! Torn tail or corruption: damage in every region, lost and misdirected writes, stale blocks,
//! files of others. What was acknowledged and attested is never cut; what never was is.

use std::time::Duration;

use super::bed::{Bed, Step::*, folder, options};
use super::reading::assert_positions;
use super::toy::{MANY_LOGS, PLAIN};
use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE};
use crate::base::rng::Rng;
use crate::base::{Ballot, Batch, Checksum, NodeId, Slot};
use crate::io::{FileOptions, Storage};
use crate::log::format::{EntryHeader, EntryKind, get_u32};
use crate::log::inspect::inspect;
use crate::log::layout::footer_bytes;
use crate::log::{CutKind, DataDir, IdentityError, Log, LogError, LogOptions};
use crate::sim::disk::{OpFault, OpKind, Region};

/// A log of several segments, the first ones with a footer; every entry was acknowledged and is
/// attested by a later one; the last is an idle mark. The process has ended.
/// Its starts read everything; `fast.rs` has those that do not.
fn filled(seed: u64) -> Bed {
    filled_with(seed, LogOptions { verify_at_start: true, ..options() })
}

pub fn filled_with(seed: u64, options: LogOptions) -> Bed {
    let mut bed = Bed::new(seed, options);
    for size in [100, 9000, 0, 3000, 11_700, 15_800, 7000, 15_800, 15_000, 200, 15_800, 300] {
        bed.append(size);
        if size == 200 {
            bed.vote();
        }
        while bed.event() {}
    }
    for _ in 0..9 {
        assert!(bed.apply());
    }
    bed.idle(Duration::from_millis(200), u32::MAX);
    let stats = bed.log().stats();
    assert_eq!(bed.model.durable, 12);
    assert!(stats.segments >= 3 && stats.indexed_segments >= 1 && stats.marks == 1, "{stats:?}");
    bed.kill(&mut Rng::new(seed));
    bed
}

fn all_bytes(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    let names = bed.disk.file_names();
    names.into_iter().map(|n| (n.clone(), bed.disk.file_bytes(&n).unwrap())).collect()
}

/// The opening must be refused, naming this place, and must leave everything as it was.
fn assert_corrupt(bed: &mut Bed, file: &str, offset: u64, what: &str) {
    let before = all_bytes(bed);
    match bed.recover() {
        Err(LogError::Corrupt(damage)) => {
            assert_eq!((&damage.file[..], damage.offset), (file, offset), "{what}: {damage}");
        }
        other => panic!("{what} in {file} at {offset}: {other:?}"),
    }
    assert!(all_bytes(bed) == before, "{what}: a refusal changes nothing");
    let found = bed.inspect().damage;
    assert_eq!((&found[0].file[..], found[0].offset), (file, offset), "{what}: inspect");
}

#[test]
fn a_flipped_bit_in_what_is_attested_is_corruption_at_its_exact_place() {
    flipped_bits();
}

pub fn flipped_bits() {
    for region in [Region::Header, Region::Payload, Region::Padding, Region::SegmentHeader] {
        let mut segments = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut bed = filled(seed);
            let mut rng = Rng::new(seed * 7 + region as u64);
            let flipped = bed.disk.flip_bit(region, &mut rng).expect("the region is there");
            segments.insert(flipped.file.clone());
            assert_corrupt(&mut bed, &flipped.file, flipped.structure, &format!("{region:?}"));
            // The bit goes back, and all is well.
            bed.disk.flip_at(&flipped.file, flipped.offset, flipped.bit);
            bed.recover().unwrap();
        }
        assert!(segments.len() >= 3, "{region:?} was hit in {segments:?} only");
    }
}

#[test]
fn a_zeroed_block_in_what_is_attested_is_corruption() {
    for seed in 0..20 {
        for region in [Region::Header, Region::Payload] {
            let mut bed = filled(seed);
            let zeroed = bed.disk.zero_block(region, &mut Rng::new(seed)).unwrap();
            assert_corrupt(&mut bed, &zeroed.file, zeroed.structure, &format!("{region:?}"));
        }
        let mut bed = filled(seed);
        bed.disk.zero_block(Region::SegmentHeader, &mut Rng::new(seed)).unwrap();
        // Zeros at the end of one segment, zeros at the start of the next: either may be told of.
        assert!(matches!(bed.recover(), Err(LogError::Corrupt(_))));
    }
}

#[test]
fn a_damaged_footer_is_made_again() {
    for seed in 0..20 {
        let mut bed = filled(seed);
        bed.disk.flip_bit(Region::Footer, &mut Rng::new(seed)).unwrap();
        let report = bed.inspect();
        assert_eq!((report.damage.len(), report.mended_at_start.len()), (0, 1));
        let found = bed.recover().unwrap();
        assert_eq!((found.footers_damaged, found.torn_bytes), (1, 0));
        assert_eq!(bed.model.durable, 12);
        // As the node does: it learns from its peers what is chosen, and applies it.
        while bed.apply() {}
        bed.idle(Duration::from_millis(200), u32::MAX);
        bed.kill(&mut Rng::new(seed));
        assert_eq!(bed.recover().unwrap().footers_damaged, 0, "it stands again");
    }
}

#[test]
fn a_footer_that_cannot_be_read_is_made_again_from_entries_that_the_next_segment_follows_from() {
    for verify_at_start in [true, false] {
        for seed in 0..20 {
            let mut bed = filled_with(seed, LogOptions { verify_at_start, ..options() });
            let found = bed.disk.make_unreadable(Region::Footer, &mut Rng::new(seed)).unwrap();
            let report = bed.inspect();
            assert_eq!((report.damage.len(), report.mended_at_start.len()), (0, 1), "{report:?}");
            assert_eq!(report.mended_at_start[0].file, found.file);
            let recovered = bed.recover().unwrap();
            assert_eq!((recovered.footers_damaged, recovered.torn_bytes), (1, 0));
            assert_eq!(bed.model.durable, 12);
            while bed.apply() {}
            assert_positions(&mut bed);
            bed.idle(Duration::from_millis(200), u32::MAX);
            bed.kill(&mut Rng::new(seed));
            assert_eq!(bed.recover().unwrap().footers_damaged, 0, "it stands again");
        }
    }
}

#[test]
fn without_a_footer_that_can_be_read_entries_must_be_whole_to_the_next_segment() {
    for verify_at_start in [true, false] {
        for seed in 0..20 {
            let mut bed = filled_with(seed, LogOptions { verify_at_start, ..options() });
            let found = bed.disk.make_unreadable(Region::Footer, &mut Rng::new(seed)).unwrap();
            let entries = entries_in(&bed, &found.file);
            let at = entries[seed as usize % entries.len()];
            bed.disk.flip_at(&found.file, at + 20, 1);
            let before = all_bytes(&bed);
            let error = bed.recover_quietly().unwrap_err();
            assert!(matches!(error, LogError::Io { .. }), "{error}");
            assert!(error.to_string().contains(&found.file), "{error}");
            assert!(all_bytes(&bed) == before, "nothing is changed");
            assert_eq!(bed.inspect().not_read.len(), 1);
        }
    }
    // Of the segment in which the log ends nothing shows that it tells of no more.
    let mut bed = Bed::new(1, options());
    bed.play(&[Append(11_700), Append(11_700), Append(11_700), Append(11_700)], u32::MAX);
    bed.play(&[Drain, Append(15_800), Drain, Apply(9), Idle(200)], u32::MAX);
    assert_eq!(bed.log().stats().indexed_segments, 1);
    bed.kill(&mut Rng::new(1));
    let second = bed.disk.file_bytes(&Bed::segment(2)).unwrap();
    bed.replace(&Bed::segment(2), &vec![0; second.len()]);
    bed.disk.make_unreadable(Region::Footer, &mut Rng::new(1)).unwrap();
    let error = bed.recover_quietly().unwrap_err();
    assert!(matches!(error, LogError::Io { .. }), "{error}");
}

/// Where the entries of a segment start.
fn entries_in(bed: &Bed, file: &str) -> Vec<u64> {
    let bytes = bed.disk.file_bytes(file).unwrap();
    let blocks = (0_u64..).step_by(BLOCK_SIZE).zip(bytes.chunks(BLOCK_SIZE));
    blocks.filter(|(_, block)| EntryHeader::decode(block).is_ok()).map(|(at, _)| at).collect()
}

/// Sets one byte in the first row of segment 1's footer, and makes the checksum fit.
fn forge_footer(bed: &mut Bed, at: usize, value: u8) {
    let segment = Bed::segment(1);
    let bytes = bed.disk.file_bytes(&segment).unwrap();
    // A footer of few entries is one block, and ends with its checksum.
    let offset = bytes.len() - BLOCK_SIZE;
    let mut block = bytes[offset..].to_vec();
    assert_ne!(block[at], value);
    block[at] = value;
    let checksum = Checksum::of(&block[..BLOCK_SIZE - 4]);
    block[BLOCK_SIZE - 4..].copy_from_slice(&checksum.0.to_le_bytes());
    put_block(bed, &segment, offset as u64, &block);
}

#[test]
fn a_footer_that_tells_of_other_entries_is_not_believed_whatever_its_checksum() {
    // Of the slot, the ballot, the offset, the value's size: its lowest and its highest byte.
    for at in [0, 8, 24, 28, 31, 36] {
        let mut bed = filled(1);
        bed.disk.set_check_overwrites(false);
        forge_footer(&mut bed, at, 0xee);
        let found = bed.recover().unwrap();
        assert_eq!((found.footers_damaged, found.torn_bytes), (1, 0), "byte {at}");
        while bed.apply() {}
    }
}

#[test]
fn damage_of_what_a_footer_says_of_other_logs_is_found_and_mended() {
    for seed in 0..40 {
        let mut bed = Bed::new(seed, options());
        for slot in 0..12 {
            let head = if slot % 2 == 0 { [MANY_LOGS + 1, PLAIN] } else { [1, PLAIN] };
            bed.append_starting(&head, 9000);
            while bed.event() {}
            assert!(bed.apply());
        }
        bed.idle(Duration::from_millis(200), u32::MAX);
        assert_eq!(bed.model.durable, 12);
        bed.kill(&mut Rng::new(seed));
        let file = Bed::segment(1 + seed % 2);
        let bytes = bed.disk.file_bytes(&file).unwrap();
        let start = bytes.len() - footer_bytes(&bytes[bytes.len() - BLOCK_SIZE..]);
        let trailer = &bytes[bytes.len() - 128..];
        let (rows, section) = (40 * get_u32(trailer, 32) as u64, get_u32(trailer, 36) as u64);
        assert!(section > 5000, "two placements in many logs: {section} bytes");
        let rng = &mut Rng::new(seed);
        let at = start as u64 + rows + rng.below(section);
        bed.disk.flip_at(&file, at, rng.below(8) as u32);
        let report = bed.inspect();
        assert_eq!((report.damage.len(), report.mended_at_start.len()), (0, 1), "byte {at}");
        let found = bed.recover().unwrap();
        assert_eq!((found.footers_damaged, found.torn_bytes), (1, 0), "byte {at}");
        while bed.apply() {}
        assert_positions(&mut bed);
        bed.idle(Duration::from_millis(200), u32::MAX);
        bed.kill(rng);
        assert_eq!(bed.recover().unwrap().footers_damaged, 0, "it stands again");
        assert_positions(&mut bed);
    }
}

#[test]
fn an_older_value_of_a_slot_does_not_come_back_with_the_loss_of_a_footer() {
    a_lost_footer();
}

pub fn a_lost_footer() {
    for file in [1, 2] {
        let mut bed = Bed::new(1, options());
        // Four entries of three blocks fill a segment: slot 4 stands in the first one, and again,
        // with the value that is chosen, in the second.
        bed.play(&[Append(11_700), Append(11_700), Append(11_700), Append(11_700)], u32::MAX);
        bed.play(&[Drain, Again(11_700), Append(11_700), Append(11_700)], u32::MAX);
        bed.play(&[Append(11_700), Append(11_700), Drain, Apply(9), Idle(200)], u32::MAX);
        assert_eq!((bed.log().stats().indexed_segments, bed.model.applied), (2, Slot(8)));
        bed.kill(&mut Rng::new(1));
        let segment = Bed::segment(file);
        let length = bed.disk.file_bytes(&segment).unwrap().len() as u64;
        bed.disk.flip_at(&segment, length - 1, 0);
        // `recover` holds what is replayed against what was chosen.
        assert_eq!(bed.recover().unwrap().footers_damaged, 1);
        bed.play(&[Apply(9), Append(10), Idle(200)], u32::MAX);
        assert_eq!(bed.log().stats().indexed_segments, 2, "the footer is made again");
        bed.power_loss(&mut Rng::new(1));
        assert_eq!(bed.recover().unwrap().footers_damaged, 0);
    }
}

/// Rot of the last entry, which nothing behind it attests. It may have been acknowledged.
#[test]
fn rot_at_the_end_costs_the_vote() {
    rot_at_the_end();
}

pub fn rot_at_the_end() {
    let mut blank = 0;
    for seed in 0..40 {
        let mut bed = filled(seed);
        let flipped = bed.disk.flip_bit(Region::Tail, &mut Rng::new(seed)).unwrap();
        let before = all_bytes(&bed);
        let refused = bed.recover_quietly().unwrap_err();
        assert!(matches!(refused, LogError::Corrupt(_)), "nobody else has it: {refused}");
        assert!(all_bytes(&bed) == before, "a refusal changes nothing");

        bed.options.has_peers = true;
        let found = bed.recover_quietly().unwrap_or_else(|e| panic!("{flipped:?}: {e}"));
        let cut = found.cut.expect("it is told");
        assert_eq!(cut.kind, CutKind::Damaged, "{flipped:?}: {cut:?}");
        assert_eq!((found.entries, found.torn_bytes), (12, BLOCK_SIZE as u64));
        // The record survives starts that find nothing wrong any more.
        bed.power_loss(&mut Rng::new(seed));
        let again = bed.recover_quietly().unwrap();
        assert_eq!((again.cut, again.torn_bytes), (Some(cut), 0));
        bed.kill(&mut Rng::new(seed));
        let opened = Log::open(&mut bed.disk, &folder(), bed.options.clone());
        let (mut log, _) = opened.unwrap();
        log.forget_cut(&mut bed.disk).unwrap();
        drop(log);
        bed.power_loss(&mut Rng::new(seed));
        assert_eq!(bed.recover_quietly().unwrap().cut, None);
    }
    // Blank space that has rotted tells nothing, but where the next header would stand.
    for seed in 0..40 {
        let mut bed = filled(seed);
        bed.options.has_peers = true;
        bed.disk.flip_bit(Region::Blank, &mut Rng::new(seed)).unwrap();
        let found = bed.recover_quietly().unwrap();
        blank += u32::from(found.cut.is_some_and(|cut| cut.kind == CutKind::Torn));
        assert_eq!(found.entries, 13);
    }
    assert!(blank > 10, "{blank}");
}

#[test]
fn remains_of_a_footer_right_behind_the_entries_are_torn_and_cost_nothing() {
    // Crash example: the power fails while the footer of a full segment is written, before anything
    // stands in the next one. It begins where the next entry would.
    for has_peers in [true, false] {
        let mut bed = Bed::new(3, options());
        for size in [11_700, 11_700, 11_700, 11_700, 7000] {
            bed.append(size);
            while bed.event() {}
        }
        while bed.apply() {}
        bed.kill(&mut Rng::new(3));
        bed.options.has_peers = has_peers;
        let mut bytes = bed.disk.file_bytes(&Bed::segment(1)).unwrap();
        let last = bytes.len() - BLOCK_SIZE;
        assert!(bytes[last - BLOCK_SIZE..last].iter().any(|byte| *byte != 0), "entries up to here");
        assert!(bytes[last..].iter().all(|byte| *byte == 0), "no footer yet");
        bytes[last..last + 700].fill(7);
        bed.replace(&Bed::segment(1), &bytes);
        let report = bed.inspect();
        assert_eq!(report.damage, []);
        let found = bed.recover_quietly().unwrap();
        assert_eq!(found.cut.map(|cut| cut.kind), Some(CutKind::Torn));
        assert_eq!((found.entries, found.torn_bytes), (5, BLOCK_SIZE as u64));
    }
}

#[test]
fn record_of_a_cut_outlives_a_cut_short_start() {
    // Whatever the power leaves of the first start, the loss is told of or still to be found.
    let mut cut_short = 0;
    for seed in 0..60 {
        let mut bed = filled(seed);
        bed.options.has_peers = true;
        bed.disk.flip_bit(Region::Tail, &mut Rng::new(seed)).unwrap();
        bed.disk.inject(OpKind::Write, (seed % 4) as u32, OpFault::Error);
        bed.disk.inject(OpKind::Flush, (seed % 7) as u32, OpFault::Error);
        cut_short += u32::from(bed.recover_quietly().is_err());
        bed.disk.forget_injected();
        bed.power_loss(&mut Rng::new(seed));
        let found = bed.recover_quietly().unwrap();
        assert_eq!(found.cut.map(|cut| cut.kind), Some(CutKind::Damaged), "seed {seed}");
    }
    assert!(cut_short > 10, "{cut_short}");
}

#[test]
fn unreadable_end_costs_the_vote() {
    for seed in 0..10 {
        let mut bed = filled(seed);
        bed.options.has_peers = true;
        bed.disk.make_unreadable(Region::Tail, &mut Rng::new(seed)).unwrap();
        let found = bed.recover_quietly().unwrap();
        assert_eq!(found.cut.map(|cut| cut.kind), Some(CutKind::Damaged), "seed {seed}");
        assert_eq!(found.entries, 12);
    }
}

#[test]
fn damage_below_the_end_is_refused_with_peers() {
    for region in [Region::Header, Region::Payload] {
        for seed in 0..10 {
            let mut bed = filled(seed);
            bed.options.has_peers = true;
            let flipped = bed.disk.flip_bit(region, &mut Rng::new(seed)).unwrap();
            match bed.recover_quietly() {
                Err(LogError::Corrupt(_)) => {}
                // Above the checkpoints, in a segment that is not sealed.
                Ok(found) => assert!(found.cut.is_some(), "{flipped:?}"),
                Err(error) => panic!("{flipped:?}: {error}"),
            }
        }
    }
}

#[test]
fn an_idle_log_attests_its_last_entry_after_a_restart_and_in_a_full_segment_too() {
    // Five entries of three blocks: the fifth begins a segment. Four of them fill one.
    for (count, file) in [(3, 1), (4, 1), (5, 2)] {
        let mut bed = Bed::new(1, options());
        for _ in 0..count {
            bed.append(11_700);
        }
        while bed.event() {}
        bed.kill(&mut Rng::new(1));
        bed.recover().unwrap();
        assert_eq!(bed.log().stats().marks, 0);
        bed.idle(Duration::from_millis(200), u32::MAX);
        assert_eq!(bed.log().stats().marks, 1, "{count} entries");
        bed.kill(&mut Rng::new(1));
        bed.recover().unwrap();
        bed.idle(Duration::from_millis(200), u32::MAX);
        assert_eq!(bed.log().stats().marks, 0, "a mark is not marked again");
        bed.kill(&mut Rng::new(1));
        let last = BLOCK_SIZE as u64 * [1 + 3 * 2, 1 + 3 * 3, 1][count - 3];
        bed.disk.flip_at(&Bed::segment(file), last + 999, 1);
        assert_corrupt(&mut bed, &Bed::segment(file), last, "the last entry");
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_a_torn_tail() {
    for region in [Region::Header, Region::Payload, Region::SegmentHeader, Region::Tail] {
        let mut bed = filled(3);
        let before = all_bytes(&bed);
        bed.disk.make_unreadable(region, &mut Rng::new(5)).unwrap();
        let error = bed.recover_quietly().unwrap_err();
        assert!(matches!(error, LogError::Io { .. }), "{error}");
        assert!(error.to_string().contains("segment-"), "{error}");
        assert!(all_bytes(&bed) == before, "nothing is changed");
        let report = bed.inspect();
        assert_eq!((report.damage.len(), report.not_read.len()), (0, 1), "{report:?}");
        let told = report.not_read[0].to_string();
        assert!(told.contains("segment-") && told.contains("os error 5"), "{told}");
    }
}

#[test]
fn a_lost_or_misdirected_write_is_found_once_something_stands_behind_it() {
    for fault in [OpFault::Lost, OpFault::Misdirected] {
        let mut met = 0;
        for seed in 0..30 {
            let mut bed = Bed::new(seed, options());
            for size in [100, 5000, 300] {
                bed.append(size);
                while bed.event() {}
            }
            // One block of header, then blocks of 1, 2 and 1: the next entry stands here.
            let offset = 5 * BLOCK_SIZE as u64;
            bed.disk.inject(OpKind::Write, 0, fault);
            bed.append(700);
            while bed.event() {}
            for _ in 0..3 {
                bed.append(4500);
                while bed.event() {}
            }
            bed.kill(&mut Rng::new(seed));
            match bed.recover() {
                Err(LogError::Corrupt(damage)) => {
                    assert_eq!(damage.file, Bed::segment(1), "{damage}");
                    // Misdirected over an earlier entry, that one is damaged first.
                    assert!(damage.offset == offset || fault == OpFault::Misdirected, "{damage}");
                    assert!(damage.offset <= offset, "{damage}");
                    met += 1;
                }
                // It was "misdirected" to its own place.
                Ok(_) => assert_eq!(fault, OpFault::Misdirected),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(met >= 25, "{fault:?}: {met}");
    }
}

/// Writes a block into a file, durably, past the log.
fn put_block(bed: &mut Bed, file: &str, offset: u64, bytes: &[u8]) {
    let mut buffer = bed.options.pool.take(BLOCK_SIZE);
    buffer.fill(0);
    buffer[..bytes.len()].copy_from_slice(bytes);
    let file = bed.disk.open(file, FileOptions::ReadWrite).unwrap();
    bed.disk.write_at(file, offset, &buffer, BLOCK_SIZE).unwrap();
    bed.disk.sync(file).unwrap();
    bed.disk.close(file);
}

/// The header that would continue the log of one entry in segment 1, of another generation or for
/// another place.
fn next_header(bed: &Bed, change: impl Fn(&mut EntryHeader)) -> EntryHeader {
    let bytes = bed.disk.file_bytes(&Bed::segment(1)).unwrap();
    let (first, checksum) = EntryHeader::decode(&bytes[BLOCK_SIZE..]).unwrap();
    let mut header = EntryHeader {
        kind: EntryKind::Value,
        offset: 2 * BLOCK_SIZE as u64,
        sequence: 2,
        durable_sequence: 1,
        slot: Slot(2),
        ballot: Ballot { round: 9, node: NodeId(3) },
        value_size: 0,
        value_checksum: Checksum::default(),
        previous: checksum,
        ..first
    };
    change(&mut header);
    header
}

/// The header's sector, of a value without bytes.
fn bytes_of(header: &EntryHeader) -> [u8; ENTRY_HEADER_SIZE] {
    let mut bytes = [0; ENTRY_HEADER_SIZE];
    header.encode(&mut bytes);
    bytes
}

#[test]
fn an_entry_of_an_older_use_of_the_block_is_not_taken_for_one_of_the_log() {
    stale_blocks();
}

pub fn stale_blocks() {
    type Change = fn(&mut EntryHeader);
    let stale: [(&str, Change, bool); 7] = [
        ("right", |_| {}, true),
        ("an older generation", |header| header.place.generation -= 1, false),
        ("another segment", |header| header.place.segment += 1, false),
        ("another group", |header| header.place.group.0 += 1, false),
        ("another directory", |header| header.place.incarnation.0 += 1, false),
        ("another offset", |header| header.offset += BLOCK_SIZE as u64, false),
        ("another chain", |header| header.previous.0 ^= 1, false),
    ];
    for (what, change, taken) in stale {
        let mut bed = Bed::new(1, options());
        bed.append(50);
        while bed.event() {}
        bed.kill(&mut Rng::new(1));
        let header = next_header(&bed, change);
        put_block(&mut bed, &Bed::segment(1), header.offset.min(8192), &bytes_of(&header));
        let found = bed.recover_quietly();
        if what != "right" && what != "an older generation" {
            // Nothing that this log has written, nor left over from an older use.
            assert!(matches!(found, Err(LogError::Corrupt(_))), "{what}: {found:?}");
            continue;
        }
        let found = found.unwrap();
        assert_eq!(found.accepted.len(), if taken { 2 } else { 1 }, "{what}");
        assert_eq!(found.torn_bytes > 0, !taken, "{what}: it is cut");
    }
}

#[test]
fn a_stale_entry_behind_damage_proves_nothing() {
    // An older use of the file told of sequences far above: not of this log's.
    let mut bed = Bed::new(1, options());
    bed.append(50);
    while bed.event() {}
    bed.kill(&mut Rng::new(1));
    let header = next_header(&bed, |header| {
        header.place.generation -= 1;
        header.offset = 5 * BLOCK_SIZE as u64;
        header.sequence = 70;
        header.durable_sequence = 69;
    });
    put_block(&mut bed, &Bed::segment(1), header.offset, &bytes_of(&header));
    let found = bed.recover_quietly().unwrap();
    assert_eq!((found.accepted.len(), found.torn_bytes), (1, BLOCK_SIZE as u64));
}

#[test]
fn missing_files_are_damage() {
    let mut bed = filled(1);
    bed.disk.remove(&Bed::segment(2)).unwrap();
    assert_corrupt(&mut bed, &Bed::segment(2), 0, "a segment in the middle");

    let mut bed = filled(1);
    let last = bed.disk.file_names().len();
    for number in (1..=last as u64).rev() {
        // Absent ones are no matter.
        drop(bed.disk.remove(&Bed::segment(number)));
    }
    assert_corrupt(&mut bed, &Bed::segment(1), 0, "all segments");

    let mut bed = filled(1);
    bed.disk.remove(&format!("{}/vote", folder())).unwrap();
    assert!(matches!(bed.recover_quietly(), Err(LogError::Unformatted(_))));
    assert_eq!(bed.inspect().damage.len(), 1);

    let mut bed = filled(1);
    bed.disk.remove("identity.toml").unwrap();
    assert!(matches!(DataDir::load(&mut bed.disk), Err(IdentityError::Unformatted)));
    assert_eq!(bed.inspect().damage[0].file, "identity.toml");
}

#[test]
fn the_identity_is_guarded() {
    for seed in 0..50 {
        let mut bed = filled(1);
        let flipped = bed.disk.flip_bit(Region::Identity, &mut Rng::new(seed)).unwrap();
        let loaded = DataDir::load(&mut bed.disk);
        // Padding at the end may be trimmed away; anything else is noticed.
        let error = loaded.expect_err(&format!("{flipped:?}"));
        assert!(matches!(error, IdentityError::Damaged(_)), "{flipped:?}: {error}");
        assert_eq!(bed.inspect().damage[0].file, "identity.toml");
    }
}

#[test]
fn refuses_a_directory_of_an_older_version() {
    let mut bed = filled(1);
    let text = String::from_utf8(bed.disk.file_bytes("identity.toml").unwrap()).unwrap();
    let (_, body) = text.trim_end_matches('\n').split_once('\n').unwrap();
    let older = format!("{body}\n").replace("format = 3\n", "format = 2\n");
    let older = format!("# checksum {}\n{older}", Checksum::of(older.as_bytes()));
    assert_eq!(older.len(), text.trim_end_matches('\n').len() + 1);
    let padded = format!("{older:\n<BLOCK_SIZE$}");
    put_block(&mut bed, "identity.toml", 0, padded.as_bytes());
    let before = all_bytes(&bed);
    let loaded = DataDir::load(&mut bed.disk);
    assert!(matches!(loaded, Err(IdentityError::OlderVersion { found: 2 })), "{loaded:?}");
    let inspected = inspect(&mut bed.disk, &mut |_| {});
    assert!(matches!(inspected, Err(IdentityError::OlderVersion { found: 2 })), "{inspected:?}");
    assert!(all_bytes(&bed) == before, "a refusal changes nothing");
}

#[test]
fn the_disk_of_another_node_is_refused() {
    let mut other = Bed::new(1, LogOptions { node: NodeId(2), ..options() });
    other.append(10);
    while other.event() {}
    other.kill(&mut Rng::new(1));
    let mut bed = filled(1);
    bed.disk.restore_copy(&other.disk.save_copy());
    let opened = Log::open(&mut bed.disk, &folder(), options());
    match opened.map(|(_, recovered)| recovered) {
        Err(LogError::Foreign { file, why }) => {
            assert!(file.ends_with("vote") && why.contains("node 2"), "{file}: {why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_value_has_nothing_to_damage_but_its_header() {
    let mut bed = Bed::new(1, options());
    bed.append(0);
    bed.append(10);
    while bed.event() {}
    bed.kill(&mut Rng::new(1));
    assert_eq!(Batch::noop().entry_size(), BLOCK_SIZE);
    bed.disk.flip_at(&Bed::segment(1), BLOCK_SIZE as u64 + 130, 0);
    // Both were in one write, which nothing attests; but a header that was not written is blank.
    assert!(matches!(bed.recover_quietly(), Err(LogError::Corrupt(_))));
    bed.options.has_peers = true;
    let found = bed.recover_quietly().unwrap();
    assert_eq!((found.entries, found.torn_bytes), (0, 2 * BLOCK_SIZE as u64));
}
