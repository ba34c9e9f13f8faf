//! Seeds that every build runs, and the seeds of bugs that were found.

use super::*;

fn expect_clean(seed: u64) -> Report {
    let report = run(seed, &Limits::default());
    if let Some(finding) = &report.violation {
        let violation = &finding.violation;
        panic!("seed {seed} ({} nodes): {violation}", report.plan.nodes);
    }
    report
}

#[test]
fn a_few_dozen_seeds_hold() {
    for seed in 0..24 {
        expect_clean(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 11] {
        let (first, second) = (expect_clean(seed), expect_clean(seed));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.hits, second.hits, "seed {seed}");
        assert!(first.happenings > 1000, "something happens in seed {seed}");
    }
}
