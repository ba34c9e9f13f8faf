//! For each planted bug of the core that breaks a rule of the protocol: the smallest worlds in which
//! it does. Used by the hunt for what seeds alone do not find, and by tests.

use super::Bounds;
use crate::base::mutants::Mutant;

/// The worlds in which the mutant does harm: as small as possible.
pub fn bounds(mutant: Mutant) -> Option<Bounds> {
    let base = Bounds { heartbeats: false, worlds_max: 2_000_000, ..Bounds::small() };
    Some(match mutant {
        Mutant::BallotReusedAfterRestart
        | Mutant::PromiseForgottenAtRestart
        | Mutant::PromiseBeforeDurable
        | Mutant::OwnVoteBeforeDurable
        | Mutant::AcceptedCountedTwice => Bounds { crashes: 1, delays: 1, ..base },
        Mutant::PromiseOmitsUndurable => Bounds { delays: 1, ..base },
        Mutant::LearnUnchosen => Bounds { delays: 2, ..base },
        // The own promise and one other are a majority of three already.
        Mutant::PromiseCountedTwice => Bounds { replicas: 5, ..base },
        Mutant::LowestBallotTaken => Bounds { campaigns: 3, ..base },
        // Only a lost acceptance of the leader's own lets another value in between.
        Mutant::AcceptedOfOtherBallot => {
            Bounds { campaigns: 3, crashes: 1, delays: 1, catch_up: false, ..base }
        }
        Mutant::HoleFillDropped | Mutant::ChosenPassesGap => Bounds { slots: 2, ..base },
        Mutant::RecoveryStopsAtHole => Bounds { slots: 2, proposals: 4, catch_up: false, ..base },
        Mutant::TransferToReplicaBehind => {
            Bounds { elected: true, campaigns: 0, transfers: 1, ..base }
        }
        Mutant::WatermarkOverOtherBallot => Bounds { heartbeats: true, ..base },
        Mutant::PromiseOmitsFirstSlot
        | Mutant::StepDownDropped
        | Mutant::RecoverySkipsPrefix
        | Mutant::RecoveryStopsAtOwnLast
        | Mutant::AcceptBelowPromise
        | Mutant::AcceptDoesNotPromise => base,
        // The others stop the cluster, answer reads wrongly or are not in the core.
        _ => return None,
    })
}
