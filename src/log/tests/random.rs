//! Random scripts with crashes of both kinds, faults and slow disks, held against the model.

use std::time::Duration;

use proptest::prelude::*;

use super::bed::{Bed, Step, folder, options};
use super::reading::assert_positions;
use crate::base::limits::SECTOR_SIZE;
use crate::base::rng::Rng;
use crate::log::{LogError, LogOptions, LogSync, marker};
use crate::sim::disk::{DiskFaults, DiskOptions, Region, TestDisk};

/// Seeds of the test of what rots.
const ROTS: u64 = 400;

#[derive(Clone, Debug)]
enum Action {
    Do(Step),
    Kill,
    PowerLoss,
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![Just(0), 1..200usize, 3900..4100usize, 1..15_800usize];
    prop_oneof![
        8 => size.clone().prop_map(|size| Action::Do(Step::Append(size))),
        2 => size.prop_map(|size| Action::Do(Step::Again(size))),
        1 => Just(Action::Do(Step::Repeat)),
        2 => Just(Action::Do(Step::Vote)),
        3 => (1..5u64).prop_map(|count| Action::Do(Step::Apply(count))),
        6 => (1..6u32).prop_map(|count| Action::Do(Step::Events(count))),
        2 => Just(Action::Do(Step::Drain)),
        1 => (1..60u64).prop_map(|millis| Action::Do(Step::Idle(millis))),
        1 => Just(Action::Kill),
        1 => Just(Action::PowerLoss),
    ]
}

fn faults() -> impl Strategy<Value = DiskFaults> {
    let chance = prop_oneof![3 => Just(0u32), 1 => Just(5_000u32)];
    (chance.clone(), chance.clone(), chance.clone(), chance).prop_map(
        |(write_error, short_write, flush_error, slow_period)| DiskFaults {
            write_error,
            short_write,
            flush_error,
            slow_period,
            ..DiskFaults::NONE
        },
    )
}

fn crash(bed: &mut Bed, power: bool, seed: u64) {
    let mut rng = Rng::new(seed);
    bed.submit();
    match power {
        true => bed.power_loss(&mut rng),
        false => bed.kill(&mut rng),
    }
    // Start-up may fail on a failing disk; then it is started again.
    for attempt in 0..50 {
        match bed.recover() {
            Ok(_) => return,
            Err(LogError::Io { .. }) => bed.kill(&mut rng),
            Err(error) => panic!("attempt {attempt}: {error}"),
        }
        bed.disk.set_faults(DiskFaults::NONE);
    }
    panic!("a disk without faults can be read");
}

proptest! {
    #[test]
    fn nothing_durable_is_lost_and_nothing_is_invented(
        seed in any::<u64>(),
        faults in faults(),
        fsync in any::<bool>(),
        second_write_bytes_min in prop_oneof![Just(0), Just(10_000usize), Just(usize::MAX)],
        fill_write_bytes_max in prop_oneof![Just(0), Just(10_000usize), Just(usize::MAX)],
        actions in proptest::collection::vec(action(), 1..120),
    ) {
        let log_sync = if fsync { LogSync::WriteThenFsync } else { LogSync::Dsync };
        let options = LogOptions {
            log_sync,
            second_write_bytes_min,
            fill_write_bytes_max,
            ..options()
        };
        let mut bed = Bed::on(TestDisk::new(seed, DiskOptions::default()), options);
        bed.disk.set_faults(faults);
        for (index, action) in actions.iter().enumerate() {
            let seed = seed.wrapping_add(index as u64);
            match action {
                Action::Do(step) => bed.step(*step, u32::MAX),
                Action::Kill => crash(&mut bed, false, seed),
                Action::PowerLoss => crash(&mut bed, true, seed),
            }
            if bed.failure.is_some() {
                crash(&mut bed, seed % 2 == 0, seed);
            }
        }
        crash(&mut bed, true, seed);
        bed.disk.set_faults(DiskFaults::NONE);
        // Everything is applied, its footers written; and then read back from them.
        while bed.apply() {}
        bed.idle(Duration::from_millis(500), u32::MAX);
        assert_positions(&mut bed);
        crash(&mut bed, true, seed);
        assert_positions(&mut bed);
    }

    #[test]
    fn damage_of_what_is_attested_is_refused_or_harmless(
        seed in any::<u64>(),
        region in 0..Region::ALL.len(),
        zeroed in any::<bool>(),
        actions in proptest::collection::vec(action(), 1..60),
    ) {
        let options = LogOptions { verify_at_start: true, ..options() };
        let mut bed = Bed::on(TestDisk::new(seed, DiskOptions::default()), options);
        for (index, action) in actions.iter().enumerate() {
            let seed = seed.wrapping_add(index as u64);
            match action {
                Action::Do(step) => bed.step(*step, u32::MAX),
                Action::Kill => crash(&mut bed, false, seed),
                Action::PowerLoss => crash(&mut bed, true, seed),
            }
        }
        // Until everything is durable, and a mark says so.
        bed.idle(Duration::from_millis(500), u32::MAX);
        prop_assert_eq!(bed.model.durable, bed.model.appended.len());
        let mut rng = Rng::new(seed);
        bed.kill(&mut rng);
        let region = Region::ALL[region];
        let damaged = match zeroed {
            true => bed.disk.zero_block(region, &mut rng),
            false => bed.disk.flip_bit(region, &mut rng),
        };
        let Some(damaged) = damaged.filter(|_| region != Region::Identity) else { return Ok(()) };
        // `recover` asserts that an open log has lost nothing, and that inspect agrees.
        match bed.recover() {
            // Of the last entry a device may have left a sector blank, but not changed a bit.
            Ok(_) if region == Region::Tail => prop_assert!(zeroed),
            Ok(_) => prop_assert!(!matches!(region, Region::Header | Region::Payload)),
            Err(LogError::Corrupt(damage)) => {
                // Where the next header would stand, blank space that has rotted looks like one.
                let header = damage.offset..damage.offset + SECTOR_SIZE as u64;
                let is_next = damage.file == damaged.file && header.contains(&damaged.offset);
                let harmless = match region {
                    Region::Blank => !is_next,
                    region => region == Region::Checkpoint,
                };
                prop_assert!(!harmless, "{}", damage);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// What rots here is derived from the entries, which stay whole: index footers and checkpoints.
fn rot(bed: &mut Bed, rng: &mut Rng) -> bool {
    bed.disk.flip_bits(Region::Footer, [0, 0, 40, 100][rng.below(4) as usize], rng);
    match rng.below(6) {
        0 => drop(bed.disk.flip_bit(Region::Checkpoint, rng)),
        1 => drop(bed.disk.flip_bits(Region::Checkpoint, 100, rng)),
        2 => drop(bed.disk.lose_checkpoint(rng)),
        3 => drop(bed.disk.stale_checkpoint(rng)),
        _ => {}
    }
    let marks = rng.below(8) == 0;
    if marks {
        marker::write(&mut bed.disk, &folder(), &bed.options, "something", 0).unwrap();
    }
    marks
}

fn drawn_step(rng: &mut Rng) -> Step {
    let size = match rng.below(3) {
        0 => rng.below(200),
        1 => 3900 + rng.below(200),
        _ => rng.below(15_800),
    };
    match rng.below(16) {
        0..6 => Step::Append(size as usize),
        6..8 => Step::Again(size as usize),
        8..10 => Step::Repeat,
        10..13 => Step::Apply(1 + rng.below(5)),
        13..15 => Step::Events(1 + rng.below(8) as u32),
        _ => Step::Idle(1 + rng.below(60)),
    }
}

#[test]
fn whatever_rots_that_is_derived_nothing_is_lost_over_restarts() {
    let (mut used, mut refused) = (0, 0);
    for seed in 0..ROTS {
        let rng = &mut Rng::new(seed);
        let options = LogOptions { verify_at_start: rng.below(6) == 0, ..options() };
        let disk = DiskOptions { check_overwrites: false, ..DiskOptions::default() };
        let mut bed = Bed::on(TestDisk::new(seed, disk), options);
        let mut restarts = 0;
        for _ in 0..5 {
            for _ in 0..8 + rng.below(25) {
                bed.step(drawn_step(rng), u32::MAX);
            }
            if rng.below(2) == 0 {
                bed.idle(Duration::from_millis(300), u32::MAX);
            }
            match rng.below(2) {
                0 => bed.kill(rng),
                _ => bed.power_loss(rng),
            }
            let marked = rot(&mut bed, rng);
            let recovered = bed.recover().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(recovered.marked, marked, "seed {seed}");
            // Footers are written again meanwhile.
            bed.idle(Duration::from_millis(50), u32::MAX);
            assert_eq!(bed.scrub(), None, "seed {seed}");
            assert_positions(&mut bed);
            restarts += 1;
        }
        used += bed.checkpoints_used;
        refused += restarts - bed.checkpoints_used;
    }
    assert!(used > 100 && refused > 100, "{used} used, {refused} refused");
}
