//! Random scripts with crashes of both kinds, faults and slow disks, held against the model.

use std::time::Duration;

use proptest::prelude::*;

use super::bed::{Bed, Step, options};
use super::reading::assert_positions;
use crate::base::rng::Rng;
use crate::log::{LogError, LogOptions, LogSync};
use crate::sim::disk::{DiskFaults, DiskOptions, Region, TestDisk};

#[derive(Clone, Debug)]
enum Action {
    Do(Step),
    Kill,
    PowerLoss,
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![Just(0), 1..200usize, 3900..4100usize, 1..16_000usize];
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
        if damaged.is_none() || region == Region::Identity {
            return Ok(());
        }
        // `recover` asserts that an open log has lost nothing, and that inspect agrees.
        match bed.recover() {
            Ok(_) => prop_assert!(!matches!(region, Region::Header | Region::Payload)),
            Err(LogError::Corrupt(damage)) => {
                // A checkpoint may attest the last entry too.
                let attested = damage.why.contains("checkpoint");
                let harmless = [Region::Blank, Region::Checkpoint].contains(&region);
                let harmless = harmless || region == Region::Tail && !attested;
                prop_assert!(!harmless, "{}", damage);
            }
            Err(error) => panic!("{error}"),
        }
    }
}
