//! `figures compare`: what two results have in common, as ratios, and whether these are noise.
//!
//! The rule: the noise of one side is the range of its repeated runs. Where the ranges of both
//! sides meet, the difference may be noise and is marked so. With one run on each side nothing is
//! known of the noise, and that is said, too.
//!
//! A range knows only the moods that the machine had while its side was measured. Where the floors
//! of the sides lie apart, where runs warned, or where loads differ, that is told.

use std::collections::BTreeMap;

use crate::args::CompareArgs;
use crate::bench::{Figures, median};
use crate::error::Error;
use crate::markdown::{Table, count, short};
use crate::record::{Group, groups, read_any};

/// Floors that lie further apart than this are those of two machines, or of two moods of one.
const FLOORS_APART_MAX: f64 = 1.25;

/// What a ratio means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The ranges of the sides do not meet.
    Beyond,
    /// They meet.
    Within,
    /// One run on each side.
    Unknown,
}

/// One number of both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratio {
    of: f64,
    verdict: Verdict,
    /// Least and largest of A's runs over A's median.
    a: (f64, f64),
    /// Least and largest of B's runs over A's median.
    b: (f64, f64),
}

/// The ratio of the medians of `b` and `a` with its noise; none when a side has no such number.
fn ratio(a: &[f64], b: &[f64]) -> Option<Ratio> {
    let (base, other) = (median(a)?, median(b)?);
    if base <= 0.0 {
        return None;
    }
    let range = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        (least, values.iter().copied().fold(f64::MIN, f64::max))
    };
    let (ra, rb) = (range(a), range(b));
    let verdict = match a.len() == 1 && b.len() == 1 {
        true => Verdict::Unknown,
        false if ra.0 <= rb.1 && rb.0 <= ra.1 => Verdict::Within,
        false => Verdict::Beyond,
    };
    let over = |(least, most): (f64, f64)| (least / base, most / base);
    Some(Ratio { of: other / base, verdict, a: over(ra), b: over(rb) })
}

impl Ratio {
    fn to_text(self) -> String {
        let mark = match self.verdict {
            Verdict::Beyond => "",
            Verdict::Within => " ~",
            Verdict::Unknown => " ?",
        };
        let mut text = format!("{:.3}{mark}", self.of);
        if self.verdict != Verdict::Unknown {
            let ((a0, a1), (b0, b1)) = (self.a, self.b);
            text.push_str(&format!(" (A {a0:.2}..{a1:.2}, B {b0:.2}..{b1:.2})"));
        }
        text
    }
}

/// Compares what `args` names and prints it.
pub fn run(args: &CompareArgs) -> Result<(), Error> {
    let (a, b) = (read_any(&args.a)?, read_any(&args.b)?);
    let (a, b) = (groups(&a), groups(&b));
    let mut table = Table::new(
        1,
        &[
            "run",
            "A runs",
            "B runs",
            "A /s",
            "B /s",
            "throughput B/A",
            "p50 B/A",
            "p99 B/A",
            "cpu B/A",
            "client cpu B/A",
        ],
    );
    let mut remarks = Vec::new();
    for (key, in_a) in &a {
        let Some(in_b) = b.get(key) else { continue };
        let name = format!("{} {}", key.0, key.1);
        remarks.extend(remark(&name, in_a, in_b));
        table.row(row(name, in_a, in_b));
    }
    if table.is_empty() {
        return Err(Error::Usage(format!(
            "{} and {} have no run in common",
            args.a.display(),
            args.b.display()
        )));
    }
    println!("A {}\nB {}\n", args.a.display(), args.b.display());
    print!("{}", table.to_text());
    println!(
        "\n~ within the noise: the ranges of A's and B's runs meet\n\
         ? one run on each side: the noise is unknown; `figures matrix --repeat N` shows it\n\
         Ranges, in brackets, are relative to A's median. More is better for throughput, less for \
         the others."
    );
    for remark in remarks {
        println!("{remark}");
    }
    let warned = |groups: &BTreeMap<_, Group<'_>>| {
        let runs = groups.values().flat_map(|group| &group.runs);
        runs.filter(|run| !run.record.remarks.is_empty()).count()
    };
    let (warned_a, warned_b) = (warned(&a), warned(&b));
    if warned_a + warned_b > 0 {
        println!("runs with warnings (told in the READMEs): {warned_a} of A, {warned_b} of B");
    }
    let alone = |x: usize| x - table.rows();
    let (only_a, only_b) = (alone(a.len()), alone(b.len()));
    if only_a + only_b > 0 {
        println!("not compared: {only_a} settings that only A has, {only_b} that only B has");
    }
    Ok(())
}

fn row(name: String, a: &Group<'_>, b: &Group<'_>) -> Vec<String> {
    let (in_a, in_b) = (a.all(), b.all());
    let of = |get: &dyn Fn(&Figures) -> Option<f64>| {
        let values = |all: &[Figures]| all.iter().filter_map(get).collect::<Vec<_>>();
        ratio(&values(&in_a), &values(&in_b)).map_or_else(|| "-".to_owned(), Ratio::to_text)
    };
    vec![
        name,
        in_a.len().to_string(),
        in_b.len().to_string(),
        count(a.figures().per_s),
        count(b.figures().per_s),
        of(&|f| Some(f.per_s)),
        of(&|f| Some(f.p50_us)),
        of(&|f| Some(f.p99_us)),
        of(&|f| f.cpu_us),
        of(&|f| f.client_cpu_us),
    ]
}

/// The median of the floors that the runs of one side measured.
fn floor(group: &Group<'_>) -> Option<f64> {
    let floors = group.runs.iter().filter_map(|run| Some(run.bench.floor.as_ref()?.commit_us));
    median(&floors.collect::<Vec<_>>())
}

/// What makes a comparison less than fair.
fn remark(name: &str, a: &Group<'_>, b: &Group<'_>) -> Option<String> {
    let (run_a, run_b) = (&a.first().bench, &b.first().bench);
    let (load_a, load_b) = (&run_a.workload, &run_b.workload);
    let mut differ = Vec::new();
    if load_a.rate_per_s != load_b.rate_per_s {
        let rate = |rate: Option<f64>| rate.map_or("none".to_owned(), count);
        differ.push(format!("rate {} and {}", rate(load_a.rate_per_s), rate(load_b.rate_per_s)));
    }
    if load_a.duration_s != load_b.duration_s {
        differ.push(format!("{} s and {} s", short(load_a.duration_s), short(load_b.duration_s)));
    }
    let (ahead_a, ahead_b) = (run_a.cluster.preallocate_bytes, run_b.cluster.preallocate_bytes);
    // Reports from before could not be of a log that was.
    if ahead_a.unwrap_or(0) != ahead_b.unwrap_or(0) {
        let bytes = |ahead: Option<u64>| count(ahead.unwrap_or(0) as f64);
        differ.push(format!(
            "bytes of log preallocated, {} and {}",
            bytes(ahead_a),
            bytes(ahead_b)
        ));
    }
    if let (Some(groups_a), Some(groups_b)) = (run_a.cluster.groups, run_b.cluster.groups)
        && groups_a != groups_b
    {
        differ.push(format!("groups, {groups_a} and {groups_b}"));
    }
    if run_a.host != run_b.host {
        differ.push("the machines".to_owned());
    }
    if let (Some(floor_a), Some(floor_b)) = (floor(a), floor(b)) {
        let apart = (floor_a / floor_b).max(floor_b / floor_a);
        if apart > FLOORS_APART_MAX {
            let (floor_a, floor_b) = (short(floor_a), short(floor_b));
            differ.push(format!(
                "the floor of a lone commit, {floor_a} us and {floor_b} us: the machine was not \
                 what it was"
            ));
        }
    }
    let (lost_a, lost_b) = (a.figures().lost, b.figures().lost);
    if lost_a + lost_b > 0.0 {
        differ.push(format!("lost operations {} and {}", count(lost_a), count(lost_b)));
    }
    (!differ.is_empty()).then(|| format!("{name}: A and B differ in {}", differ.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::BenchReport;
    use crate::record::LOGGOS;
    use crate::record::tests::run;

    #[test]
    fn ranges_that_meet_are_noise_and_single_runs_say_nothing() {
        let verdict = |a: &[f64], b: &[f64]| ratio(a, b).unwrap().verdict;
        assert_eq!(verdict(&[100.0, 110.0], &[109.0, 120.0]), Verdict::Within);
        assert_eq!(verdict(&[100.0, 110.0], &[111.0, 120.0]), Verdict::Beyond);
        assert_eq!(verdict(&[111.0, 120.0], &[100.0, 110.0]), Verdict::Beyond);
        assert_eq!(verdict(&[100.0, 110.0], &[105.0]), Verdict::Within);
        assert_eq!(verdict(&[100.0, 110.0], &[111.0]), Verdict::Beyond);
        assert_eq!(verdict(&[100.0], &[200.0]), Verdict::Unknown);
    }

    #[test]
    fn ratios_are_of_medians_and_ranges_of_as_median() {
        let found = ratio(&[90.0, 100.0, 120.0], &[150.0, 200.0, 210.0]).unwrap();
        assert_eq!((found.of, found.a, found.b), (2.0, (0.9, 1.2), (1.5, 2.1)));
        assert_eq!(found.to_text(), "2.000 (A 0.90..1.20, B 1.50..2.10)");
        assert_eq!(ratio(&[100.0], &[50.0]).unwrap().to_text(), "0.500 ?");
        assert_eq!(ratio(&[], &[1.0]), None);
        assert_eq!(ratio(&[0.0], &[1.0]), None);
    }

    #[test]
    fn what_is_not_the_same_on_both_sides_is_said() {
        let a = run(LOGGOS, "n3-b256-rate80", 1, |b| b.workload.rate_per_s = Some(1000.0));
        let b = run(LOGGOS, "n3-b256-rate80", 1, |b| {
            b.workload.rate_per_s = Some(2000.0);
            b.appends.failed = 3;
        });
        let group = |run| Group { runs: vec![run] };
        let said = remark("x", &group(&a), &group(&b)).unwrap();
        assert!(said.contains("1,000 and 2,000") && said.contains("0 and 3"), "{said}");
        assert_eq!(remark("x", &group(&a), &group(&a)), None);

        let (a, b) = (
            run(LOGGOS, "x", 1, |_| ()),
            run(LOGGOS, "x", 1, |bench| {
                bench.cluster.preallocate_bytes = Some(1 << 30);
                bench.cluster.groups = Some(2);
            }),
        );
        let said = remark("x", &group(&a), &group(&b)).unwrap();
        assert!(said.contains("preallocated, 0 and 1,073,741,824"), "{said}");
        assert!(said.contains("groups, 1 and 2"), "{said}");

        let slower = |bench: &mut BenchReport| {
            bench.floor.as_mut().unwrap().commit_us *= 1.5;
        };
        let (a, b) = (run(LOGGOS, "x", 1, |_| ()), run(LOGGOS, "x", 1, slower));
        let said = remark("x", &group(&a), &group(&b)).unwrap();
        assert!(said.contains("the floor of a lone commit"), "{said}");
    }
}
