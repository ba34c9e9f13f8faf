//! What is explored at every test run, and whether planted bugs are found.

use super::{Bounds, explore};

#[track_caller]
fn agrees(bounds: &Bounds) {
    let report = explore(bounds, &mut |_| {});
    println!("{report}");
    assert!(report.violation.is_none() && report.complete, "{report}");
    // A world in which nothing is ever chosen agrees, too.
    assert!(report.worlds_chosen[0] > report.worlds / 2, "{report}");
}

#[test]
fn every_quick_world_agrees() {
    for (name, bounds) in Bounds::quick() {
        println!("{name}");
        agrees(&bounds);
    }
}

#[test]
fn the_same_bounds_give_the_same_report() {
    let bounds = Bounds { worlds_max: 20_000, ..Bounds::small() };
    let reports = [0; 2].map(|_| explore(&bounds, &mut |_| {}).to_string());
    assert_eq!(reports[0], reports[1]);
}

#[test]
fn measure() {
    let get = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let bounds = Bounds {
        replicas: get("N", 3) as usize,
        proposers: get("Q", 2) as usize,
        slots: get("S", 1),
        proposals: get("P", 1) as u8,
        campaigns: get("C", 2) as u8,
        crashes: get("X", 0) as u8,
        delays: get("D", 0) as u8,
        hints: get("H", 0) == 1,
        heartbeats: get("HB", 1) == 1,
        catch_up: get("CU", 1) == 1,
        worlds_max: get("W", 5_000_000) as usize,
        ..Bounds::small()
    };
    let start = std::time::Instant::now();
    let report = explore(&bounds, &mut |_| {});
    println!("{:?} {report}", start.elapsed());
}

#[cfg(feature = "mutants")]
mod planted {
    use super::super::{Bounds, Checks, explore};
    use crate::base::mutants::{Mutant, hits, plant};

    /// The worlds in which the mutant does harm: as small as possible.
    fn bounds(mutant: Mutant) -> Option<Bounds> {
        let base = Bounds { heartbeats: false, worlds_max: 2_000_000, ..Bounds::small() };
        Some(match mutant {
            Mutant::BallotReusedAfterRestart
            | Mutant::PromiseForgottenAtRestart
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
            Mutant::RecoveryStopsAtHole => {
                Bounds { slots: 2, proposals: 4, catch_up: false, ..base }
            }
            Mutant::WatermarkOverOtherBallot => Bounds { heartbeats: true, ..base },
            // These stop the cluster or answer wrongly; they break no agreement of the core.
            Mutant::PreVoteIgnored
            | Mutant::StalledLeaderStays
            | Mutant::LonelyLeaderStays
            | Mutant::AcceptedBeforeDurable
            | Mutant::UnknownAnsweredAsFailed => return None,
            _ => base,
        })
    }

    #[test]
    fn every_mutant_of_the_protocol_is_found() {
        for mutant in Mutant::ALL {
            let Some(bounds) = bounds(*mutant) else { continue };
            for checks in [Checks::All, Checks::Agreement] {
                plant(Some(*mutant));
                let bounds = Bounds { checks, ..bounds.clone() };
                let report = explore(&bounds, &mut |_| {});
                let hits = hits();
                plant(None);
                println!("==== {} {checks:?}: {hits} hits, {report}", mutant.name());
            }
        }
    }
}
