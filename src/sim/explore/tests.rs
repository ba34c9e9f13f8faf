//! What is explored at every test run, and whether planted bugs are found.

use super::{Bounds, explore};

#[test]
fn quick_worlds_agree() {
    for (name, bounds) in Bounds::quick() {
        let report = explore(&bounds, &mut |_| {});
        println!("{name}: {report}");
        assert!(report.violation.is_none() && report.complete, "{name}: {report}");
        // A world in which nothing is ever chosen agrees, too.
        let [one, two] = report.worlds_chosen;
        assert!(one > report.worlds / 2, "{name}: {report}");
        assert!(bounds.slots == 1 || two > report.worlds / 2, "{name}: {report}");
    }
}

#[test]
fn the_same_bounds_give_the_same_report() {
    let bounds = Bounds { worlds_max: 20_000, ..Bounds::small() };
    let reports = [0; 2].map(|_| explore(&bounds, &mut |_| {}).to_string());
    assert_eq!(reports[0], reports[1]);
}

#[cfg(feature = "mutants")]
mod planted {
    use super::super::planted::bounds;
    use super::super::{Bounds, Checks, explore};
    use crate::base::mutants::{Mutant, hits, plant};

    /// Whether agreement itself breaks within those bounds (or an assertion of the core that
    /// stands guard before it), and not only a rule that keeps it.
    fn breaks_agreement(mutant: Mutant) -> bool {
        !matches!(
            mutant,
            Mutant::HoleFillDropped | Mutant::LearnUnchosen | Mutant::TransferToReplicaBehind
        )
    }

    #[test]
    fn every_mutant_of_the_protocol_is_found() {
        let found = Mutant::ALL.iter().filter(|mutant| bounds(**mutant).is_some());
        assert_eq!(found.count(), 21, "so many are in the core and break a rule of it");
        for mutant in Mutant::ALL {
            let Some(bounds) = bounds(*mutant) else { continue };
            for checks in [Checks::All, Checks::Agreement] {
                if checks == Checks::Agreement && !breaks_agreement(*mutant) {
                    continue;
                }
                plant(Some(*mutant));
                let report = explore(&Bounds { checks, ..bounds.clone() }, &mut |_| {});
                let hits = hits();
                plant(None);
                let name = mutant.name();
                println!("{name}, {checks:?}: {hits} hits, {report}\n");
                assert!(hits > 0 && report.violation.is_some(), "{name} survives: {report}");
            }
        }
    }

    #[test]
    fn a_schedule_holds_nothing_that_the_violation_does_not_need() {
        plant(Some(Mutant::WatermarkOverOtherBallot));
        let bounds = bounds(Mutant::WatermarkOverOtherBallot).expect("it is found");
        let report = explore(&bounds, &mut |_| {});
        plant(None);
        let schedule = report.violation.expect("it is found").schedule;
        // Two elections (one promise each suffices), two values, one told watermark.
        assert!(schedule.len() <= 12, "{} steps: {schedule:#?}", schedule.len());
    }
}
