//! `loggos bench --ramp`: runs at rising rates on one cluster until it does not keep up, and says
//! where that is.
//!
//! Called by `loggos bench`. The search itself is `loadgen::ramp`. Without `--rate` it begins at a
//! fraction of what a closed loop of the same depth reaches.

use serde::Serialize;

use super::super::error::CliError;
use super::Bench;
use crate::loadgen::ramp::{Found, Limit, Ramp, UNSENT_PART_MAX};
use crate::loadgen::report::{
    ClusterReport, HostReport, OperationsReport, PACE_KEPT_MIN, Report, WorkloadReport, count,
};
use crate::loadgen::workload::{Pacing, RATE_PER_S_MAX, Workload};

/// The first rate over what a closed loop reaches.
const START_PART: f64 = 0.125;

/// The whole report of a ramp.
#[derive(Debug, Serialize)]
struct RampReport {
    version: String,
    commit: String,
    host: HostReport,
    cluster: ClusterReport,
    /// Of each step, at the first step's rate.
    workload: WorkloadReport,
    ramp: Criteria,
    knee: Option<Knee>,
    steps: Vec<Step>,
}

/// What a rate is judged by.
#[derive(Debug, Serialize)]
struct Criteria {
    kept_min: f64,
    unsent_part_max: f64,
    p99_us_max: f64,
}

/// The highest rate that was kept up with.
#[derive(Debug, Serialize)]
struct Knee {
    records_per_s: f64,
    /// Whether a higher one was tried, and not kept up with.
    bounded: bool,
}

/// A run at one rate.
#[derive(Debug, Serialize)]
struct Step {
    offered_records_per_s: f64,
    kept: bool,
    /// Why not.
    limit: Option<Limit>,
    report: Report,
}

/// Finds the knee of `workload`, at whatever rate that has.
pub fn run(bench: &Bench<'_>, workload: &Workload) -> Result<(), CliError> {
    let mut output = bench.output();
    let json = bench.args.json;
    let batch = workload.records_per_append as f64;
    let start_per_s = match workload.pacing {
        Pacing::Open { rate_per_s } => rate_per_s,
        Pacing::Closed => {
            note!("a closed loop first, to know where to begin");
            let report = bench.measure_whole(workload)?;
            START_PART * operations(&report).answered_per_s * batch
        }
    };
    let p99_us_max = bench.args.ramp_p99_ms.map(|ms| ms * 1e3);
    let mut ramp = Ramp::new((start_per_s / batch).max(1.0), p99_us_max);
    let mut steps: Vec<Step> = Vec::new();
    while let Some(rate) = ramp.next_rate() {
        let offered = rate * batch;
        if offered > RATE_PER_S_MAX {
            break;
        }
        note!("step {}: {} records/s", steps.len() + 1, count(offered));
        let open = Workload { pacing: Pacing::Open { rate_per_s: offered }, ..workload.clone() };
        let report = bench.measure_whole(&open)?;
        let limit = ramp.found(&operations(&report));
        let kept = limit.is_none();
        if steps.is_empty() && !json {
            output.write(report.head_to_text().as_bytes())?;
            output.line("")?;
            output.line(&head())?;
        }
        steps.push(Step { offered_records_per_s: offered, kept, limit, report });
        if let Some(step) = steps.last().filter(|_| !json) {
            output.line(&step.to_text())?;
            output.flush()?;
        }
    }
    let knee = ramp
        .knee_per_s()
        .map(|per_s| Knee { records_per_s: per_s * batch, bounded: ramp.is_bounded() });
    let found = knee.is_some();
    match json {
        true => output.json(&whole(steps, &ramp, knee)?)?,
        false => output.line(&verdict_text(&ramp, knee.as_ref()))?,
    }
    output.flush()?;
    match found {
        true => Ok(()),
        false => Err(CliError::failed("no rate was kept up with; see the steps above")),
    }
}

fn operations(report: &Report) -> Found {
    let (appends, reads) = (&report.appends, report.reads.as_ref());
    let p99_us = appends.latency_us.p99;
    let due = |of: &OperationsReport| of.ok + of.failed + of.unknown;
    Found {
        answered_per_s: appends.per_s + reads.map_or(0.0, |reads| reads.per_s),
        ok: appends.ok + reads.map_or(0, |reads| reads.ok),
        due: due(appends) + reads.map_or(0, due),
        unsent: report.pace.map_or(0, |pace| pace.unsent),
        p99_us: reads.map_or(p99_us, |reads| p99_us.max(reads.latency_us.p99)),
    }
}

fn whole(steps: Vec<Step>, ramp: &Ramp, knee: Option<Knee>) -> Result<RampReport, CliError> {
    let first =
        steps.first().ok_or_else(|| CliError::usage("--rate is over what can be offered"))?;
    let Report { version, commit, host, cluster, workload, .. } = first.report.clone();
    let ramp = Criteria {
        kept_min: PACE_KEPT_MIN,
        unsent_part_max: UNSENT_PART_MAX,
        p99_us_max: ramp.p99_us_max(),
    };
    Ok(RampReport { version, commit, host, cluster, workload, ramp, knee, steps })
}

fn head() -> String {
    format!(
        "{:>12} {:>12} {:>10} {:>10} {:>10} {:>11} {:>8} {:>8}  {}",
        "offered/s",
        "records/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "lag p99 us",
        "gen us",
        "srv us",
        "kept up"
    )
}

impl Step {
    fn to_text(&self) -> String {
        let report = &self.report;
        let shown = report.reads.as_ref().filter(|_| report.appends.ok == 0);
        let latency = &shown.unwrap_or(&report.appends).latency_us;
        let records_per_s =
            report.appends.records_per_s + report.reads.as_ref().map_or(0.0, |r| r.records_per_s);
        let us = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}"));
        format!(
            "{:>12} {:>12} {:>10.1} {:>10.1} {:>10.1} {:>11.1} {:>8} {:>8}  {}",
            count(self.offered_records_per_s),
            count(records_per_s),
            latency.p50,
            latency.p99,
            latency.p999,
            report.pace.map_or(0.0, |pace| pace.lag_us_p99),
            us(report.resources.loadgen_cpu_us_per_op),
            us(report.resources.server_cpu_us_per_append),
            match self.limit {
                None => "yes",
                Some(Limit::Rate) => "no: too few were answered",
                Some(Limit::Unsent) => "no: too many were never sent",
                Some(Limit::P99) => "no: the p99 is over the limit",
            }
        )
    }
}

fn verdict_text(ramp: &Ramp, knee: Option<&Knee>) -> String {
    let criteria = format!(
        "at least {:.0}% of the rate answered, at most {:.1}% never sent, p99 at most {:.1} ms",
        PACE_KEPT_MIN * 100.0,
        UNSENT_PART_MAX * 100.0,
        ramp.p99_us_max() / 1e3
    );
    match knee {
        None => format!("knee      none: no rate was kept up with ({criteria})"),
        Some(knee) => {
            let least = if knee.bounded { "" } else { "at least " };
            let per_s = count(knee.records_per_s);
            format!("knee      {least}{per_s} records/s ({criteria})")
        }
    }
}
