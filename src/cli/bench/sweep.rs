//! One run, or a sweep: one after the other on the same cluster, and a table of all in the end.
//!
//! Called by `loggos bench`. Each report is printed as soon as its run is over, so that what was
//! measured is not lost when a later run fails.

use super::super::error::CliError;
use super::Bench;
use crate::loadgen::report::{Report, count};
use crate::loadgen::workload::Workload;

/// Measures each of `workloads` in turn.
pub fn run(bench: &Bench<'_>, workloads: &[Workload]) -> Result<(), CliError> {
    let mut output = bench.output();
    let mut reports: Vec<Report> = Vec::with_capacity(workloads.len());
    for (index, workload) in workloads.iter().enumerate() {
        if workloads.len() > 1 {
            note!("run {} of {}: {}", index + 1, workloads.len(), describe(workload));
        }
        let report = bench.measure(workload)?;
        match bench.args.json {
            true => output.json(&report)?,
            false if workloads.len() == 1 => output.write(report.to_text().as_bytes())?,
            false => {}
        }
        output.flush()?;
        reports.push(report);
        if reports.last().is_some_and(|report| report.interrupted) {
            break;
        }
    }
    if workloads.len() > 1 && !bench.args.json {
        output.write(table(&reports).as_bytes())?;
        output.flush()?;
    }
    match reports.last() {
        Some(report) if report.interrupted => {
            Err(CliError::failed("interrupted; the report is of what was measured until then"))
        }
        _ => reports.iter().try_for_each(super::verdict),
    }
}

fn describe(workload: &Workload) -> String {
    let rate = match workload.pacing {
        crate::loadgen::workload::Pacing::Closed => "closed loop".to_owned(),
        crate::loadgen::workload::Pacing::Open { rate_per_s } => {
            format!("{} records/s", count(rate_per_s))
        }
    };
    format!(
        "{} connections x {} in flight, {} x {} B an append, {rate}",
        workload.connections, workload.inflight, workload.records_per_append, workload.record_bytes
    )
}

/// A line for each run; what they have in common stands above it.
fn table(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let mut text = first.head_to_text();
    text.push_str(&format!(
        "\n{:>8} {:>8} {:>5} {:>8} {:>11} {:>11} {:>9} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}\n",
        "bytes",
        "records",
        "conns",
        "inflight",
        "offered/s",
        "records/s",
        "MB/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "lost",
        "gen us",
        "srv us",
    ));
    let us = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}"));
    for report in reports {
        let (load, resources) = (&report.workload, &report.resources);
        // A load of reads only has no appends to show.
        let shown = report.reads.as_ref().filter(|_| report.appends.ok == 0);
        let shown = shown.unwrap_or(&report.appends);
        let latency = &shown.latency_us;
        text.push_str(&format!(
            "{:>8} {:>8} {:>5} {:>8} {:>11} {:>11} {:>9.1} {:>10.1} {:>10.1} {:>10.1} {:>8} {:>8} {:>8}\n",
            load.record_bytes,
            load.records_per_append,
            load.connections,
            load.inflight,
            load.rate_per_s.map_or_else(|| "closed".to_owned(), count),
            count(shown.records_per_s),
            shown.bytes_per_s / 1e6,
            latency.p50,
            latency.p99,
            latency.p999,
            count((shown.failed + shown.unknown) as f64),
            us(resources.loadgen_cpu_us_per_op),
            us(resources.server_cpu_us_per_append),
        ));
    }
    text
}
