//! The report of a bench: the JSON object of the contract, and the same as a table to read.
//!
//! Field names and nesting are what scripts rely on; units are in the names. What does not apply
//! is null: `reads` without reads, `floor` without `--floor`, `batching` and the servers'
//! resources of a cluster that does not tell.

use std::fmt::{self, Write};

use serde::Serialize;

use super::histogram::{Latencies, round_us};
use super::workload::{Pacing, ReadFrom, Workload};
use crate::wire::status::StageStatus;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of loggos that measured.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
    /// Where the load generator ran.
    pub host: HostReport,
    /// What was measured.
    pub cluster: ClusterReport,
    /// The load.
    pub workload: WorkloadReport,
    /// What became of the appends.
    pub appends: OperationsReport,
    /// What became of the reads; null when the load has none.
    pub reads: Option<OperationsReport>,
    /// How the leader batched in the measured phase.
    pub batching: Option<BatchingReport>,
    /// What the host can do at best.
    pub floor: Option<FloorReport>,
    /// What it cost.
    pub resources: ResourcesReport,
    /// How the appended records reached followers; null without `--follow`.
    pub follow: Option<FollowReport>,
    /// Where the time of a slot went at the leader, since it started; null when it does not tell.
    pub stages: Option<Vec<StageStatus>>,
    /// How an open loop kept to its times; null of a closed loop.
    pub pace: Option<PaceReport>,
    /// What each agent did; null without `--agents`. All else in the report is of all together.
    pub agents: Option<Vec<AgentReport>>,
    /// Whether the run was stopped early: then `workload.duration_s` says how long it was measured.
    pub interrupted: bool,
}

/// The host of the load generator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HostReport {
    /// Kernel release.
    pub kernel: String,
    /// Processors this process may use.
    pub cpus: usize,
    /// Their model.
    pub cpu_model: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The filesystem under the embedded cluster's data; null for a cluster elsewhere.
    pub filesystem: Option<String>,
    /// The disk under it; null when unknown.
    pub disk: Option<String>,
}

/// The cluster that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterReport {
    /// Members; 0: it was a null server.
    pub nodes: usize,
    /// Paxos groups.
    pub groups: usize,
    /// Whether it was the embedded one.
    pub local: bool,
    /// What an acknowledgement means: [`DURABILITY_FSYNC`] or [`DURABILITY_NULL`].
    pub durability: &'static str,
    /// Bytes of log that each node was to have filled with zeros before the load, in whole segments;
    /// null where the bench did not make the nodes, and so does not know.
    pub preallocate_bytes: Option<u64>,
}

/// An acknowledged append is flushed to the disks of a majority.
pub const DURABILITY_FSYNC: &str = "fsync";
/// Nothing was stored: the load generator was measured, not a cluster.
pub const DURABILITY_NULL: &str = "none (null server)";

/// The load, as it was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadReport {
    pub(crate) connections: usize,
    pub(crate) inflight: usize,
    pub(crate) records_per_append: usize,
    pub(crate) record_bytes: usize,
    pub(crate) duration_s: f64,
    pub(crate) warmup_s: f64,
    #[serde(rename = "loop")]
    pub(crate) pacing: &'static str,
    pub(crate) rate_per_s: Option<f64>,
    pub(crate) append_percent: u8,
    pub(crate) level: Option<&'static str>,
    pub(crate) read_from: Option<&'static str>,
    pub(crate) sessions: bool,
    pub(crate) logs: usize,
    pub(crate) follow: usize,
}

impl From<&Workload> for WorkloadReport {
    fn from(workload: &Workload) -> WorkloadReport {
        let (pacing, rate_per_s) = match workload.pacing {
            Pacing::Closed => ("closed", None),
            Pacing::Open { rate_per_s } => ("open", Some(rate_per_s)),
        };
        WorkloadReport {
            connections: workload.connections,
            inflight: workload.inflight,
            records_per_append: workload.records_per_append,
            record_bytes: workload.record_bytes,
            duration_s: workload.duration.as_secs_f64(),
            warmup_s: workload.warmup.as_secs_f64(),
            pacing,
            rate_per_s,
            append_percent: workload.append_percent,
            level: (workload.append_percent < 100).then(|| workload.level.as_str()),
            read_from: (workload.append_percent < 100).then_some(match workload.read_from {
                ReadFrom::Leader => "leader",
                ReadFrom::Any => "any",
            }),
            sessions: workload.sessions,
            logs: workload.logs,
            follow: workload.follow,
        }
    }
}

/// What became of one kind of operation.
///
/// An operation belongs to the measured phase when it was (or, in an open loop, was due to be)
/// started in it; `ok`, `failed`, `unknown` and the latencies count these, whenever their answer
/// came. The rates count the answers that came within the measured phase, over its length: what
/// trickles in after a stall does not raise them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OperationsReport {
    /// Acknowledged.
    pub ok: u64,
    /// Certainly without effect; in an open loop also what was due and never sent.
    pub failed: u64,
    /// The connection ended, or time ran out, before the answer came.
    pub unknown: u64,
    /// Operations acknowledged a second.
    pub per_s: f64,
    /// Records of these a second.
    pub records_per_s: f64,
    /// Bytes of these records a second.
    pub bytes_per_s: f64,
    /// Latencies of the acknowledged.
    pub latency_us: LatencyReport,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatencyReport {
    /// Half of all are not longer.
    pub p50: f64,
    /// 90 in 100 are not longer.
    pub p90: f64,
    /// 99 in 100 are not longer.
    pub p99: f64,
    /// 999 in 1000 are not longer.
    pub p999: f64,
    /// 9999 in 10000 are not longer.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// Delivery to followers: from the start of an append (in an open loop the intended one) until
/// its records have come to a follower, each record and follower for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FollowReport {
    /// Followers.
    pub followers: usize,
    /// Deliveries of records whose append was started in the measured phase.
    pub records: u64,
    /// Half of these took no longer, in microseconds.
    pub latency_us_p50: f64,
    /// 99 in 100 took no longer.
    pub latency_us_p99: f64,
    /// 999 in 1000 took no longer.
    pub latency_us_p999: f64,
    /// The longest.
    pub latency_us_max: f64,
    /// Bytes of records that came to followers a second, in the measured phase.
    pub bytes_per_s: f64,
    /// Followers that had not got everything some seconds after the load: above 0 the latencies
    /// lack the longest ones.
    pub late: usize,
}

/// What one agent did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AgentReport {
    /// Its address.
    pub agent: String,
    /// The version of loggos that it runs.
    pub version: String,
    /// Processors that it may use.
    pub cpus: usize,
    /// A message to it and back, in microseconds: all agents start within about half of this.
    pub round_trip_us: f64,
    /// Its connections.
    pub connections: usize,
    /// CPU time of its process in the measured phase.
    pub cpu_s: f64,
    /// CPU time for each operation that was acknowledged to it.
    pub cpu_us_per_op: Option<f64>,
    /// What became of its appends.
    pub appends: OperationsReport,
    /// What became of its reads; null when there were none.
    pub reads: Option<OperationsReport>,
}

/// CPU time for each of `operations`, in microseconds; none of nothing.
pub fn cpu_us_per_operation(cpu_s: f64, operations: f64) -> Option<f64> {
    (operations > 0.0).then(|| round_us(cpu_s * 1e6 / operations))
}

/// How an open loop kept to its times in the measured phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PaceReport {
    /// Whether the cluster did not keep up: operations that were due were never sent, or under
    /// [`PACE_KEPT_MIN`] of the rate was acknowledged.
    pub behind: bool,
    /// Operations due a second.
    pub offered_per_s: f64,
    /// Operations due and never sent; they count as failed.
    pub unsent: u64,
    /// From when an operation was due until it was sent: half took no longer, in microseconds.
    /// It is the load generator's own lateness as long as not all of `inflight` are out, and part
    /// of the latencies always.
    pub lag_us_p50: f64,
    /// 99 in 100 took no longer.
    pub lag_us_p99: f64,
    /// The longest.
    pub lag_us_max: f64,
}

/// The part of an open loop's rate that must be acknowledged for the cluster to have kept up.
pub const PACE_KEPT_MIN: f64 = 0.97;

impl PaceReport {
    /// Of a run of `workload` that acknowledged `answered_per_s` operations a second and left
    /// `unsent` ones; none of a closed loop.
    pub fn new(
        workload: &Workload,
        answered_per_s: f64,
        unsent: u64,
        lag: &Latencies,
    ) -> Option<PaceReport> {
        let Pacing::Open { rate_per_s } = workload.pacing else { return None };
        let offered_per_s = rate_per_s / workload.records_per_append as f64;
        let lag = lag.report();
        Some(PaceReport {
            behind: unsent > 0 || answered_per_s < PACE_KEPT_MIN * offered_per_s,
            offered_per_s,
            unsent,
            lag_us_p50: lag.p50,
            lag_us_p99: lag.p99,
            lag_us_max: lag.max,
        })
    }

    /// What there is to be said when the cluster was behind.
    pub fn warning(&self, answered_per_s: f64, inflight: usize) -> Option<String> {
        self.behind.then(|| {
            let mut text = format!(
                "the cluster was behind: it took {} of the {} operations/s that were due",
                count(answered_per_s),
                count(self.offered_per_s)
            );
            if self.unsent > 0 {
                let unsent = count(self.unsent as f64);
                text.push_str(&format!("; {unsent} were never sent, count as failed, and are in"));
                text.push_str(" no latency");
            }
            text.push_str(&format!(" (a lower --rate, or more --inflight than {inflight})"));
            text
        })
    }
}

/// How the leader batched: differences of its counters over the measured phase.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BatchingReport {
    /// Slots chosen.
    pub slots: u64,
    /// Records in a slot, on average.
    pub records_per_slot_mean: f64,
    /// Durable writes to the leader's log.
    pub durable_writes: u64,
    /// Bytes written to the leader's log, padding included.
    pub log_bytes: u64,
}

/// What the host can do at best, measured before the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FloorReport {
    /// Median of a 4 KiB durable O_DIRECT overwrite at depth 1.
    pub durable_write_us_p50: f64,
    /// Median TCP round trip of 64 bytes between two threads that sleep until woken.
    pub round_trip_us_p50: f64,
    /// The price of a lone commit: one durable write and two round trips (one with one node).
    pub commit_us: f64,
    /// The best bandwidth of durable 1 MiB overwrites.
    pub durable_bytes_per_s: f64,
    /// The same to blocks that were reserved and never written, as a growing log's are.
    pub fresh_bytes_per_s: f64,
}

impl FloorReport {
    /// The floor of a cluster of `nodes`: the price of a lone commit from the parts that it has.
    pub fn of_cluster(self, nodes: usize) -> FloorReport {
        // Client to leader and, with peers, leader to peer.
        let round_trips = if nodes > 1 { 2.0 } else { 1.0 };
        let commit_us = self.durable_write_us_p50 + round_trips * self.round_trip_us_p50;
        FloorReport { commit_us, ..self }
    }
}

/// What the measured phase cost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ResourcesReport {
    /// CPU time of all servers in the measured phase; null for a cluster elsewhere.
    pub server_cpu_s: Option<f64>,
    /// The largest resident size of a server; null for a cluster elsewhere.
    pub server_rss_bytes_max: Option<u64>,
    /// CPU time of the load generator in the measured phase.
    pub loadgen_cpu_s: f64,
    /// CPU time of all servers for each acknowledged append, in microseconds; null when they do not
    /// tell, and where there were reads too.
    pub server_cpu_us_per_append: Option<f64>,
    /// CPU time of the load generator for each acknowledged operation, in microseconds; null when
    /// there was none.
    pub loadgen_cpu_us_per_op: Option<f64>,
}

impl ResourcesReport {
    /// What a run over `duration_s` seconds cost that acknowledged as much as `appends` and `reads`
    /// say.
    pub fn new(
        server_cpu_s: Option<f64>,
        server_rss_bytes_max: Option<u64>,
        loadgen_cpu_s: f64,
        (appends, reads): (&OperationsReport, Option<&OperationsReport>),
        duration_s: f64,
    ) -> ResourcesReport {
        // What was answered in the measured phase, as the CPU time was spent in it.
        let operations_per_s = appends.per_s + reads.map_or(0.0, |reads| reads.per_s);
        let operations = operations_per_s * duration_s;
        let each_us = |cpu_s: f64| cpu_us_per_operation(cpu_s, operations);
        ResourcesReport {
            server_cpu_s,
            server_rss_bytes_max,
            loadgen_cpu_s,
            server_cpu_us_per_append: server_cpu_s.filter(|_| reads.is_none()).and_then(each_us),
            loadgen_cpu_us_per_op: each_us(loadgen_cpu_s),
        }
    }
}

impl Report {
    /// The report as a table to read, with a line break at the end.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    /// Where and on what it ran: the lines that the runs of a sweep have in common.
    pub fn head_to_text(&self) -> String {
        let mut text = String::new();
        self.write_head(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        self.write_head(out)?;
        self.write_workload(out)?;
        writeln!(out)?;
        self.write_operations(out)?;
        self.write_costs(out)
    }

    fn write_head(&self, out: &mut String) -> fmt::Result {
        let host = &self.host;
        writeln!(out, "loggos {} ({})", self.version, self.commit)?;
        writeln!(
            out,
            "host      {} cpus, {}, {} memory, kernel {}",
            host.cpus,
            host.cpu_model,
            bytes(host.memory_bytes as f64),
            host.kernel
        )?;
        if let Some(filesystem) = &host.filesystem {
            writeln!(out, "disk      {filesystem} on {}", host.disk.as_deref().unwrap_or("?"))?;
        }
        let cluster = &self.cluster;
        if cluster.durability == DURABILITY_NULL {
            return writeln!(out, "cluster   none: a null server answers at once, stores nothing");
        }
        write!(
            out,
            "cluster   {} {}, {}, durability {}",
            cluster.nodes,
            if cluster.nodes == 1 { "node" } else { "nodes" },
            if cluster.local { "embedded on this host" } else { "elsewhere" },
            cluster.durability
        )?;
        match cluster.preallocate_bytes {
            None | Some(0) => writeln!(out),
            Some(ahead) => writeln!(out, ", {} of log preallocated on each", bytes(ahead as f64)),
        }
    }

    fn write_workload(&self, out: &mut String) -> fmt::Result {
        let w = &self.workload;
        write!(
            out,
            "load      {} connections x {} in flight, {} x {} B an append, {} loop",
            w.connections, w.inflight, w.records_per_append, w.record_bytes, w.pacing
        )?;
        if let Some(rate) = w.rate_per_s {
            write!(out, " at {} records/s", count(rate))?;
        }
        if let Some(level) = w.level {
            write!(out, ", {}% appends, reads at level {level}", w.append_percent)?;
            write!(out, " from {}", w.read_from.unwrap_or("leader"))?;
        }
        if w.sessions {
            write!(out, ", in sessions")?;
        }
        if w.logs > 1 {
            write!(out, ", over {} logs", count(w.logs as f64))?;
        }
        if self.interrupted {
            return writeln!(
                out,
                ", interrupted {:.1} s after {} s of warm-up",
                w.duration_s, w.warmup_s
            );
        }
        writeln!(out, ", {} s after {} s of warm-up", w.duration_s, w.warmup_s)
    }

    fn write_operations(&self, out: &mut String) -> fmt::Result {
        let columns = [("appends", Some(&self.appends)), ("reads", self.reads.as_ref())];
        let columns: Vec<_> =
            columns.into_iter().filter_map(|(name, c)| c.map(|c| (name, c))).collect();
        type Cell = fn(&OperationsReport) -> String;
        let rows: [(&str, &str, Cell); 13] = [
            ("ok", "", |o| count(o.ok as f64)),
            ("failed", "", |o| count(o.failed as f64)),
            ("unknown", "", |o| count(o.unknown as f64)),
            ("rate", "/s", |o| count(o.per_s)),
            ("records", "/s", |o| count(o.records_per_s)),
            ("bandwidth", "MB/s", |o| format!("{:.1}", o.bytes_per_s / 1e6)),
            ("p50", "us", |o| format!("{:.1}", o.latency_us.p50)),
            ("p90", "us", |o| format!("{:.1}", o.latency_us.p90)),
            ("p99", "us", |o| format!("{:.1}", o.latency_us.p99)),
            ("p99.9", "us", |o| format!("{:.1}", o.latency_us.p999)),
            ("p99.99", "us", |o| format!("{:.1}", o.latency_us.p9999)),
            ("max", "us", |o| format!("{:.1}", o.latency_us.max)),
            ("mean", "us", |o| format!("{:.1}", o.latency_us.mean)),
        ];
        write!(out, "{:<10}{:<6}", "", "unit")?;
        for (name, _) in &columns {
            write!(out, "{name:>16}")?;
        }
        writeln!(out)?;
        for (name, unit, cell) in rows {
            write!(out, "{name:<10}{unit:<6}")?;
            for (_, operations) in &columns {
                write!(out, "{:>16}", cell(operations))?;
            }
            writeln!(out)?;
        }
        writeln!(out)
    }

    fn write_follow(&self, out: &mut String) -> fmt::Result {
        let Some(f) = &self.follow else { return Ok(()) };
        writeln!(
            out,
            "follow    {} followers got {} records, {}/s",
            count(f.followers as f64),
            count(f.records as f64),
            bytes(f.bytes_per_s)
        )?;
        writeln!(
            out,
            "          from append to follower p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
            f.latency_us_p50, f.latency_us_p99, f.latency_us_p999, f.latency_us_max
        )?;
        if f.late > 0 {
            writeln!(out, "          {} of them had not got everything in time", f.late)?;
        }
        Ok(())
    }

    fn write_pace(&self, out: &mut String) -> fmt::Result {
        let Some(pace) = &self.pace else { return Ok(()) };
        let reads_per_s = self.reads.as_ref().map_or(0.0, |reads| reads.per_s);
        let answered_per_s = self.appends.per_s + reads_per_s;
        writeln!(
            out,
            "pace      sent after it was due: p50 {:.1} us, p99 {:.1} us, max {:.1} us",
            pace.lag_us_p50, pace.lag_us_p99, pace.lag_us_max
        )?;
        match pace.warning(answered_per_s, self.workload.inflight) {
            Some(warning) => writeln!(out, "          {warning}"),
            None => Ok(()),
        }
    }

    fn write_agents(&self, out: &mut String) -> fmt::Result {
        for agent in self.agents.iter().flatten() {
            let reads_per_s = agent.reads.as_ref().map_or(0.0, |reads| reads.per_s);
            writeln!(
                out,
                "agent     {}: {} connections, {} operations/s, p99 {:.1} us, {:.2} s of cpu",
                agent.agent,
                agent.connections,
                count(agent.appends.per_s + reads_per_s),
                agent.appends.latency_us.p99,
                agent.cpu_s
            )?;
        }
        Ok(())
    }

    fn write_stages(&self, out: &mut String) -> fmt::Result {
        let Some(stages) = &self.stages else { return Ok(()) };
        let passed = stages.iter().filter(|stage| stage.count > 0);
        let medians: Vec<_> =
            passed.map(|stage| format!("{} {:.1}", stage.stage, stage.us_p50)).collect();
        writeln!(out, "stages    at the leader, median us: {}", medians.join(", "))
    }

    fn write_costs(&self, out: &mut String) -> fmt::Result {
        self.write_pace(out)?;
        self.write_agents(out)?;
        self.write_follow(out)?;
        if let Some(b) = &self.batching {
            writeln!(
                out,
                "batching  {} slots, {:.1} records a slot, {} durable writes, {} of log",
                count(b.slots as f64),
                b.records_per_slot_mean,
                count(b.durable_writes as f64),
                bytes(b.log_bytes as f64)
            )?;
        }
        if let Some(floor) = &self.floor {
            writeln!(
                out,
                "floor     durable write {:.1} us, round trip {:.1} us, lone commit {:.1} us, \
                 {}/s durable, {}/s to fresh blocks",
                floor.durable_write_us_p50,
                floor.round_trip_us_p50,
                floor.commit_us,
                bytes(floor.durable_bytes_per_s),
                bytes(floor.fresh_bytes_per_s)
            )?;
            // A null server writes nothing.
            let is_null = self.cluster.durability == DURABILITY_NULL;
            if floor.commit_us > 0.0 && self.appends.ok > 0 && !is_null {
                let ratio = self.appends.latency_us.p50 / floor.commit_us;
                writeln!(out, "          p50 is {ratio:.2} x the lone commit's floor")?;
            }
        }
        self.write_stages(out)?;
        let resources = &self.resources;
        write!(out, "cost      ")?;
        if let Some(cpu_s) = resources.server_cpu_s {
            write!(out, "servers {cpu_s:.2} s of cpu, ")?;
        }
        if let Some(rss) = resources.server_rss_bytes_max {
            write!(out, "at most {} resident, ", bytes(rss as f64))?;
        }
        writeln!(out, "load generator {:.2} s of cpu", resources.loadgen_cpu_s)?;
        let parts = [
            ("servers", "an append", resources.server_cpu_us_per_append),
            ("load generator", "an operation", resources.loadgen_cpu_us_per_op),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter_map(|(who, each, us)| us.map(|us| format!("{who} {us:.2} us of cpu {each}")))
            .collect();
        match parts.is_empty() {
            true => Ok(()),
            false => writeln!(out, "          {}", parts.join(", ")),
        }
    }
}

/// A count with thousands set apart: `1 234 567`.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the decimal unit that fits.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FLOOR: FloorReport = FloorReport {
        durable_write_us_p50: 130.0,
        round_trip_us_p50: 35.0,
        commit_us: 0.0,
        durable_bytes_per_s: 2.2e9,
        fresh_bytes_per_s: 1.9e9,
    };

    fn report() -> Report {
        let workload = Workload { duration: Duration::from_secs(10), ..Workload::default() };
        Report {
            version: "0.1.0".into(),
            commit: "abc".into(),
            host: HostReport {
                kernel: "6.18".into(),
                cpus: 2,
                cpu_model: "cpu".into(),
                memory_bytes: 8_000_000_000,
                filesystem: Some("ext4".into()),
                disk: Some("vda".into()),
            },
            cluster: ClusterReport {
                nodes: 3,
                groups: 1,
                local: true,
                durability: "fsync",
                preallocate_bytes: Some(0),
            },
            workload: WorkloadReport::from(&workload),
            appends: OperationsReport { ok: 1_234_567, per_s: 123_456.7, ..Default::default() },
            reads: None,
            batching: Some(BatchingReport::default()),
            floor: Some(FLOOR.of_cluster(3)),
            resources: ResourcesReport::new(
                Some(1.5),
                Some(1),
                0.5,
                (&OperationsReport { per_s: 100_000.0, ..Default::default() }, None),
                10.0,
            ),
            follow: None,
            stages: None,
            pace: None,
            agents: None,
            interrupted: false,
        }
    }

    /// The contract's object, key for key and in its order.
    const GOLDEN: &str = concat!(
        r#"{"version":"0.1.0","commit":"abc","host":{"kernel":"6.18","cpus":2,"cpu_model":"cpu","#,
        r#""memory_bytes":8000000000,"filesystem":"ext4","disk":"vda"},"#,
        r#""cluster":{"nodes":3,"groups":1,"local":true,"durability":"fsync","#,
        r#""preallocate_bytes":0},"#,
        r#""workload":{"connections":4,"inflight":64,"records_per_append":1,"record_bytes":256,"#,
        r#""duration_s":10.0,"warmup_s":2.0,"loop":"closed","rate_per_s":null,"#,
        r#""append_percent":100,"level":null,"read_from":null,"sessions":false,"logs":1,"follow":0},"#,
        r#""appends":{"ok":1234567,"failed":0,"unknown":0,"per_s":123456.7,"records_per_s":0.0,"#,
        r#""bytes_per_s":0.0,"latency_us":{"p50":0.0,"p90":0.0,"p99":0.0,"p999":0.0,"#,
        r#""p9999":0.0,"max":0.0,"mean":0.0}},"reads":null,"#,
        r#""batching":{"slots":0,"records_per_slot_mean":0.0,"durable_writes":0,"log_bytes":0},"#,
        r#""floor":{"durable_write_us_p50":130.0,"round_trip_us_p50":35.0,"commit_us":200.0,"#,
        r#""durable_bytes_per_s":2200000000.0,"fresh_bytes_per_s":1900000000.0},"#,
        r#""resources":{"server_cpu_s":1.5,"server_rss_bytes_max":1,"loadgen_cpu_s":0.5,"#,
        r#""server_cpu_us_per_append":1.5,"loadgen_cpu_us_per_op":0.5},"follow":null,"stages":null,"#,
        r#""pace":null,"agents":null,"interrupted":false}"#,
    );

    #[test]
    fn the_json_is_the_contracts() {
        assert_eq!(serde_json::to_string(&report()).unwrap(), GOLDEN);
    }

    #[test]
    fn an_open_loop_with_reads_says_so() {
        let workload = Workload {
            pacing: Pacing::Open { rate_per_s: 5000.0 },
            append_percent: 50,
            ..Workload::default()
        };
        let json = serde_json::to_value(WorkloadReport::from(&workload)).unwrap();
        assert_eq!(json["loop"], "open");
        assert_eq!(json["rate_per_s"], 5000.0);
        assert_eq!(json["level"], "local");
    }

    #[test]
    fn the_text_has_aligned_columns_and_the_ratio() {
        let mut report = report();
        report.appends.latency_us.p50 = 300.0;
        report.reads = Some(OperationsReport::default());
        report.follow = Some(FollowReport { followers: 12, late: 3, ..Default::default() });
        let text = report.to_text();
        assert!(text.contains("12 followers got 0 records"), "{text}");
        assert!(text.contains("3 of them had not"), "{text}");
        assert!(text.contains("1 234 567"), "{text}");
        assert!(text.contains("p50 is 1.50 x"), "{text}");
        let table: Vec<_> = text.lines().skip_while(|l| !l.contains("unit")).take(14).collect();
        assert!(table.iter().all(|line| line.len() == table[0].len()), "{text}");
    }

    #[test]
    fn an_open_loop_that_is_behind_says_so_in_words() {
        let open = Workload { pacing: Pacing::Open { rate_per_s: 2e6 }, ..Workload::default() };
        let mut lag = Latencies::new();
        lag.record(30_000);
        let kept = PaceReport::new(&open, 1.99e6, 0, &lag).unwrap();
        assert_eq!((kept.behind, kept.lag_us_max), (false, 30.015));
        assert_eq!(kept.warning(1.99e6, 64), None);
        let behind = PaceReport::new(&open, 280_000.0, 5_000_000, &lag).unwrap();
        let mut report = report();
        (report.pace, report.appends.per_s) = (Some(behind), 280_000.0);
        let text = report.to_text();
        for words in ["took 280 000 of the 2 000 000 operations/s", "5 000 000 were never sent"] {
            assert!(text.contains(words), "{text}");
        }
        assert!(PaceReport::new(&open, 1.9e6, 0, &lag).unwrap().behind);
        assert_eq!(PaceReport::new(&Workload::default(), 0.0, 0, &lag), None);
    }

    #[test]
    fn cpu_is_shared_by_what_was_answered_and_by_reads_too() {
        let of = |per_s| OperationsReport { per_s, ..Default::default() };
        let cost = |appends: f64, reads: Option<f64>| {
            let (appends, reads) = (of(appends), reads.map(of));
            let found = ResourcesReport::new(Some(3.0), None, 1.0, (&appends, reads.as_ref()), 2.0);
            (found.server_cpu_us_per_append, found.loadgen_cpu_us_per_op)
        };
        assert_eq!(cost(500_000.0, None), (Some(3.0), Some(1.0)));
        assert_eq!(cost(250_000.0, Some(250_000.0)), (None, Some(1.0)));
        assert_eq!(cost(0.0, None), (None, None));
    }

    #[test]
    fn a_null_server_is_called_so() {
        let mut report = report();
        report.cluster.durability = DURABILITY_NULL;
        let text = report.to_text();
        assert!(text.contains("stores nothing") && !text.contains("durability fsync"), "{text}");
        assert!(text.contains("servers 1.50 us of cpu an append"), "{text}");
        // The host's floors are told, and not compared with what was not written.
        assert!(text.contains("lone commit 200.0 us") && !text.contains("p50 is"), "{text}");
    }

    #[test]
    fn a_preallocated_log_is_told_where_it_is_known() {
        let mut report = report();
        assert!(!report.to_text().contains("preallocated"));
        report.cluster.preallocate_bytes = Some(1_073_741_824);
        let text = report.to_text();
        assert!(text.contains("durability fsync, 1.1 GB of log preallocated on each\n"), "{text}");
        report.cluster.preallocate_bytes = None;
        assert!(report.to_text().contains("durability fsync\n"));
        let json = serde_json::to_value(&report.cluster).unwrap();
        assert!(json["preallocate_bytes"].is_null());
    }

    #[test]
    fn one_node_needs_one_round_trip() {
        assert_eq!(FLOOR.of_cluster(1).commit_us, 165.0);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(0.0), count(999.4), count(1000.0)], ["0", "999", "1 000"]);
        assert_eq!([bytes(999.0), bytes(1.5e6)], ["999 B", "1.5 MB"]);
    }
}
