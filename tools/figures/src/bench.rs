//! What `loggos bench --json` prints, as far as figures are made of it.
//!
//! The other systems' results are written in the same shape, so that one code reads them all.
//! Fields that are not used here are ignored, and stay in the raw files.

use serde::{Deserialize, Serialize};

/// One report.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct BenchReport {
    /// The version of what was measured.
    pub version: String,
    /// The commit that it was built from; empty for other systems.
    #[serde(default)]
    pub commit: String,
    /// The machine.
    pub host: HostReport,
    /// The cluster.
    pub cluster: ClusterReport,
    /// The load.
    pub workload: WorkloadReport,
    /// What became of it.
    pub appends: OperationsReport,
    /// The least that the machine needs; with `--floor` only.
    #[serde(default)]
    pub floor: Option<FloorReport>,
    /// What it cost.
    #[serde(default)]
    pub resources: ResourcesReport,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct HostReport {
    /// Kernel release.
    pub kernel: String,
    /// Processors.
    pub cpus: usize,
    /// Their model.
    pub cpu_model: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Under the data.
    #[serde(default)]
    pub filesystem: Option<String>,
    /// Under the filesystem.
    #[serde(default)]
    pub disk: Option<String>,
}

impl HostReport {
    /// One line to read.
    pub fn to_text(&self) -> String {
        format!(
            "{} cpus, {}, {:.1} GB memory, kernel {}, {} on {}",
            self.cpus,
            self.cpu_model,
            self.memory_bytes as f64 / 1e9,
            self.kernel,
            self.filesystem.as_deref().unwrap_or("?"),
            self.disk.as_deref().unwrap_or("?")
        )
    }
}

/// The cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ClusterReport {
    /// Members.
    pub nodes: usize,
    /// What an acknowledgement means.
    pub durability: String,
    /// Paxos groups; other systems have none.
    #[serde(default)]
    pub groups: Option<usize>,
    /// Bytes of log that each node had filled with zeros ahead; unknown in older reports, and of
    /// clusters that the bench did not make.
    #[serde(default)]
    pub preallocate_bytes: Option<u64>,
}

/// The load.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WorkloadReport {
    /// Connections.
    pub connections: usize,
    /// In flight on each; in an open loop the most.
    pub inflight: usize,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Measured for so long.
    pub duration_s: f64,
    /// Loaded before for so long.
    pub warmup_s: f64,
    /// Of an open loop.
    #[serde(default)]
    pub rate_per_s: Option<f64>,
}

/// What became of the operations.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OperationsReport {
    /// Acknowledged.
    pub ok: u64,
    /// Certainly without effect, or refused.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Acknowledged a second.
    pub per_s: f64,
    /// Their bytes a second.
    pub bytes_per_s: f64,
    /// Of the acknowledged.
    pub latency_us: LatencyReport,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LatencyReport {
    /// Half are not longer.
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

/// What the machine can do at best.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FloorReport {
    /// A 4 KiB durable overwrite.
    pub durable_write_us_p50: f64,
    /// A TCP round trip on loopback.
    pub round_trip_us_p50: f64,
    /// A lone commit.
    pub commit_us: f64,
    /// Durable bandwidth.
    pub durable_bytes_per_s: f64,
}

/// What it cost.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ResourcesReport {
    /// CPU time of all servers in the measured phase.
    #[serde(default)]
    pub server_cpu_s: Option<f64>,
    /// CPU time of the load generator in the measured phase.
    #[serde(default)]
    pub loadgen_cpu_s: Option<f64>,
    /// The first for each append that was acknowledged in the measured phase, in microseconds; not in
    /// older reports, nor in those of other systems.
    #[serde(default)]
    pub server_cpu_us_per_append: Option<f64>,
    /// The second, likewise.
    #[serde(default)]
    pub loadgen_cpu_us_per_op: Option<f64>,
}

/// The numbers that tables, plots and comparisons are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Acknowledged a second.
    pub per_s: f64,
    /// Payload a second in 10^6 bytes.
    pub mb_per_s: f64,
    /// Latencies in microseconds.
    pub p50_us: f64,
    /// 99 in 100.
    pub p99_us: f64,
    /// 999 in 1000.
    pub p999_us: f64,
    /// Servers' CPU time for an acknowledged append, in microseconds.
    pub cpu_us: Option<f64>,
    /// The load generator's for each, which shares the machine with the servers.
    pub client_cpu_us: Option<f64>,
    /// p50 over the price of a lone commit.
    pub over_commit: Option<f64>,
    /// Payload that all replicas must write, over what the disk can write durably.
    pub of_bandwidth: Option<f64>,
    /// Failed and unknown.
    pub lost: f64,
}

impl BenchReport {
    /// Operations in flight on all connections.
    pub fn depth(&self) -> usize {
        self.workload.connections * self.workload.inflight
    }

    /// The numbers.
    pub fn figures(&self) -> Figures {
        let ok = self.appends.ok as f64;
        // As reported: of what was acknowledged in the time in which the CPU time was spent, and for
        // no append where there were reads too. Reports without these fields: by what was started in
        // that time, which differs by what a stall moves over its end.
        let cost = &self.resources;
        let tells = cost.loadgen_cpu_us_per_op.is_some();
        let each_us = |cpu_s: Option<f64>| over(cpu_s? * 1e6, ok).filter(|_| !tells);
        let floor = self.floor.as_ref();
        let replicas = self.cluster.nodes as f64;
        Figures {
            per_s: self.appends.per_s,
            mb_per_s: self.appends.bytes_per_s / 1e6,
            p50_us: self.appends.latency_us.p50,
            p99_us: self.appends.latency_us.p99,
            p999_us: self.appends.latency_us.p999,
            cpu_us: cost.server_cpu_us_per_append.or_else(|| each_us(cost.server_cpu_s)),
            client_cpu_us: cost.loadgen_cpu_us_per_op.or_else(|| each_us(cost.loadgen_cpu_s)),
            over_commit: floor.and_then(|f| over(self.appends.latency_us.p50, f.commit_us)),
            of_bandwidth: floor
                .and_then(|f| over(self.appends.bytes_per_s * replicas, f.durable_bytes_per_s)),
            lost: (self.appends.failed + self.appends.unknown) as f64,
        }
    }
}

impl Figures {
    /// Each number's median over runs of the same settings.
    pub fn median(all: &[Figures]) -> Option<Figures> {
        let of = |get: &dyn Fn(&Figures) -> Option<f64>| {
            let values: Vec<f64> = all.iter().filter_map(get).collect();
            median(&values)
        };
        Some(Figures {
            per_s: of(&|f| Some(f.per_s))?,
            mb_per_s: of(&|f| Some(f.mb_per_s))?,
            p50_us: of(&|f| Some(f.p50_us))?,
            p99_us: of(&|f| Some(f.p99_us))?,
            p999_us: of(&|f| Some(f.p999_us))?,
            cpu_us: of(&|f| f.cpu_us),
            client_cpu_us: of(&|f| f.client_cpu_us),
            over_commit: of(&|f| f.over_commit),
            of_bandwidth: of(&|f| f.of_bandwidth),
            // What was lost is not smoothed away.
            lost: all.iter().map(|f| f.lost).sum(),
        })
    }
}

/// The median, of an even count the mean of the middle two; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The lower one of two would flatter latencies and slight throughput.
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some((sorted.get(low)? + sorted.get(high)?) / 2.0)
}

/// A ratio, unless there is nothing to divide by.
pub fn over(a: f64, b: f64) -> Option<f64> {
    (b > 0.0 && a.is_finite()).then_some(a / b)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What `loggos bench --floor --json` prints.
    pub const SAMPLE: &str = include_str!("testdata/bench.json");
    /// What it printed before it told stages, pace, agents, preallocation, and CPU time for each append.
    const SAMPLE_BEFORE: &str = include_str!("testdata/bench_before.json");

    #[test]
    fn a_report_of_the_bench_is_understood() {
        let report: BenchReport = serde_json::from_str(SAMPLE).unwrap();
        assert_eq!((report.cluster.nodes, report.cluster.groups), (3, Some(1)));
        assert_eq!(report.cluster.durability, "fsync");
        assert_eq!(report.cluster.preallocate_bytes, Some(0));
        assert_eq!(report.depth(), 256);
        let figures = report.figures();
        assert_eq!(figures.lost, 0.0);
        assert_eq!(figures.cpu_us, report.resources.server_cpu_us_per_append);
        assert_eq!(figures.client_cpu_us, report.resources.loadgen_cpu_us_per_op);
        assert!(figures.cpu_us.unwrap() > 0.0 && figures.client_cpu_us.unwrap() > 0.0);
        let floor = report.floor.as_ref().unwrap();
        assert_eq!(figures.over_commit, Some(report.appends.latency_us.p50 / floor.commit_us));
        let bandwidth = report.appends.bytes_per_s * 3.0 / floor.durable_bytes_per_s;
        assert_eq!(figures.of_bandwidth, Some(bandwidth));
    }

    #[test]
    fn a_report_from_before_has_the_same_figures() {
        let report: BenchReport = serde_json::from_str(SAMPLE_BEFORE).unwrap();
        assert_eq!(report.cluster.preallocate_bytes, None);
        let figures = report.figures();
        let ok = report.appends.ok as f64;
        let (server_s, client_s) = (report.resources.server_cpu_s, report.resources.loadgen_cpu_s);
        assert_eq!(figures.cpu_us, Some(server_s.unwrap() * 1e6 / ok));
        assert_eq!(figures.client_cpu_us, Some(client_s.unwrap() * 1e6 / ok));
        // What is reported is of other appends, and so near it but not the same.
        let report: BenchReport = serde_json::from_str(SAMPLE).unwrap();
        let mut bare = report.clone();
        bare.resources.server_cpu_us_per_append = None;
        assert_eq!(bare.figures().cpu_us, None, "there were reads");
        bare.resources.loadgen_cpu_us_per_op = None;
        let ratio = over(bare.figures().cpu_us.unwrap(), report.figures().cpu_us.unwrap()).unwrap();
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
    }

    #[test]
    fn without_floors_or_acknowledgements_there_are_no_such_figures() {
        let mut report: BenchReport = serde_json::from_str(SAMPLE).unwrap();
        (report.floor, report.appends.ok) = (None, 0);
        report.resources.server_cpu_us_per_append = None;
        report.resources.loadgen_cpu_us_per_op = None;
        let figures = report.figures();
        assert_eq!((figures.cpu_us, figures.over_commit, figures.of_bandwidth), (None, None, None));
    }

    #[test]
    fn fields_that_nobody_here_uses_may_come_and_go() {
        let mut value: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
        value.as_object_mut().unwrap().insert("new".to_owned(), 1.into());
        value.as_object_mut().unwrap().remove("batching");
        assert!(serde_json::from_value::<BenchReport>(value).is_ok());
    }

    #[test]
    fn a_median_favours_nobody_and_losses_add_up() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        let run = |per_s, lost| Figures { per_s, lost, ..Figures::default() };
        let both = Figures::median(&[run(10.0, 1.0), run(20.0, 2.0), run(90.0, 0.0)]).unwrap();
        assert_eq!((both.per_s, both.lost, both.cpu_us), (20.0, 3.0, None));
        assert!(Figures::median(&[]).is_none());
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert_eq!(over(1.0, 0.0), None);
        assert_eq!(over(f64::NAN, 1.0), None);
        assert_eq!(over(3.0, 2.0), Some(1.5));
    }
}
