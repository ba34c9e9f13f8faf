//! The log's planted bugs, each of which the tests here must find: a check is trusted only when
//! a bug of its family makes it fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{crashes, damage, failures, fast, marked, reading, segments, votes};
use crate::base::mutants::{Mutant, hits, plant};

/// A planted bug and the test that is to find it.
const FOUND_BY: &[(Mutant, fn())] = &[
    (Mutant::LogReplyBeforeFlush, crashes::power_loss_after_every_completion),
    (Mutant::LogWriteNotDurable, crashes::power_loss_after_every_completion),
    (Mutant::LogAcknowledgedBeyondHole, crashes::a_write_that_overtakes_another),
    (Mutant::ShortWriteTakenAsWhole, failures::every_failure),
    (Mutant::FailedWriteIgnored, failures::every_failure),
    (Mutant::FailedFlushRetried, failures::every_failure),
    (Mutant::SegmentNameNotDurable, segments::names_after_power_loss),
    (Mutant::FooterBeforeDurable, crashes::power_loss_after_every_completion),
    (Mutant::VoteKeptInMemory, votes::every_crash_point),
    (Mutant::VoteOneCopyInPlace, votes::every_crash_point),
    (Mutant::DamagedVoteTakenForNone, votes::both_copies_damaged),
    (Mutant::DamageTruncated, damage::flipped_bits),
    (Mutant::DamageTakenForTear, damage::rot_at_the_end),
    (Mutant::SparesTakenForBlank, segments::writes_in_flight_over_segments),
    (Mutant::RecoveredNotFlushed, crashes::kill_then_power_loss),
    (Mutant::StaleGenerationAccepted, damage::stale_blocks),
    (Mutant::ValueNotVerified, damage::flipped_bits),
    (Mutant::OlderValueAfterFooterLoss, damage::a_lost_footer),
    (Mutant::PlacementsDropped, reading::over_segments_and_restarts),
    (Mutant::OtherLogsNotSummarised, reading::over_segments_and_restarts),
    (Mutant::RoomForgottenAtRestart, crashes::room_for_placements),
    (Mutant::CheckpointBeforeDurable, crashes::power_loss_after_every_completion),
    (Mutant::CheckpointAheadIgnored, fast::a_log_that_lost_what_a_checkpoint_counts_on),
    (Mutant::FooterWithoutChain, fast::a_footer_of_another_life),
    (Mutant::ScrubSkipsEntries, fast::damage_in_what_is_not_read),
    (Mutant::DamageMarkerIgnored, marked::damage_is_remembered),
];

#[test]
fn every_planted_bug_of_the_log_is_found() {
    let mut survivors = Vec::new();
    for (mutant, test) in FOUND_BY {
        plant(Some(*mutant));
        let found = catch_unwind(AssertUnwindSafe(test)).is_err();
        let hits = hits();
        plant(None);
        if !found || hits == 0 {
            survivors.push((mutant.name(), hits));
        }
    }
    assert!(survivors.is_empty(), "not found, with their hits: {survivors:?}");
}
