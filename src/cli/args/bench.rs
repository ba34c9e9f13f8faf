//! The flags of `loggos bench`, and the loads that they describe.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::error::CliError;
use super::super::members::HostPort;
use super::{PREALLOCATE_BYTES_MAX, positive, seconds};
use crate::base::limits::{GROUPS_MAX, MEMBERS_MAX};
use crate::loadgen::workload::{Pacing, ReadFrom, ReadLevel, Workload};

/// The most runs of one sweep.
const SWEEP_RUNS_MAX: usize = 256;
/// Operations in flight on a connection, where nothing else is said.
const INFLIGHT: usize = 64;
/// What a step of a ramp has, where nothing else is said.
const RAMP_INFLIGHT: usize = 1024;
const RAMP_DURATION: Duration = Duration::from_secs(3);
const RAMP_WARMUP: Duration = Duration::from_secs(1);

const BENCH_EXAMPLES: &str = "Examples:
  loggos bench                                three nodes here, 4 connections x 64 in flight, 10 s
  loggos bench --local 1 --inflight 1 --connections 1 --floor    the price of a lone commit
  loggos bench --rate 50000 --duration 60     open loop: latency counts from the intended time
  loggos bench --target 10.0.0.1:7400 --json  a running cluster, one JSON object on stdout
  loggos bench --record-bytes 64,1024 --inflight 1,16,256    six runs and a table of them
  loggos bench --ramp                         the highest rate that the cluster keeps up with
  loggos bench --null                         what the load generator can do by itself";

/// `loggos bench`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// To be a part of somebody else's bench instead.
    #[command(subcommand)]
    pub role: Option<BenchRole>,
    /// Nodes of the embedded cluster, 1 to 15
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "target",
          value_parser = clap::value_parser!(u16).range(1..=MEMBERS_MAX as i64))]
    pub local: u16,
    /// Groups of the embedded cluster, up to 64. With several, --logs is raised to as many
    #[arg(long, value_name = "G", default_value_t = 1, conflicts_with = "target",
          value_parser = clap::value_parser!(u16).range(1..=GROUPS_MAX as i64))]
    pub groups: u16,
    /// Bytes of log that each node of the embedded cluster has filled with zeros ahead; see format
    /// [default: what an idle node fills ahead, see serve; less where the disk is nearly full]
    #[arg(long, value_name = "BYTES", conflicts_with = "target",
          value_parser = clap::value_parser!(u64).range(..=PREALLOCATE_BYTES_MAX))]
    pub preallocate_bytes: Option<u64>,
    /// Load this running cluster instead: HOST:PORT with commas between
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub target: Vec<HostPort>,
    /// Measure the load generator itself: a null server, in a process of its own on this host,
    /// answers everything at once and stores nothing
    #[arg(long, conflicts_with_all = ["target", "local", "groups", "preallocate_bytes", "keep_data",
          "follow", "history"])]
    pub null: bool,
    /// Have these agents make the load, HOST:PORT with commas between (`loggos bench agent` on each
    /// load host): each takes its share of the connections and of the rate, and the report is of
    /// all together. Needs --target, which all of them must reach
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', requires = "target",
          conflicts_with_all = ["follow", "history"])]
    pub agents: Vec<HostPort>,
    /// Connections; several numbers with commas between are a sweep, as below
    #[arg(long, value_name = "N,…", default_value = "4", value_delimiter = ',')]
    pub connections: Vec<usize>,
    /// Operations in flight on each connection; in an open loop the most
    /// [default: 64; 1024 with --ramp]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub inflight: Vec<usize>,
    /// Records in each append
    #[arg(long, value_name = "N,…", default_value = "1", value_delimiter = ',')]
    pub records_per_append: Vec<usize>,
    /// Size of each record in bytes, up to 1048576. Lists of sizes, depths and rates are a sweep:
    /// each combination is run in turn on the one cluster, up to 256 of them; with --json one
    /// object a line
    #[arg(long, value_name = "BYTES,…", default_value = "256", value_delimiter = ',')]
    pub record_bytes: Vec<usize>,
    /// The measured phase in seconds [default: 10; 3 with --ramp, of each step]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Load before the measured phase that is not counted, in seconds
    /// [default: 2; 1 with --ramp, of each step]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Option<Duration>,
    /// Open loop: start this many records a second at fixed times, and count latencies from
    /// these [default: closed loop, as fast as answers come]
    #[arg(long, value_name = "RECORDS/S,…", value_delimiter = ',')]
    pub rate: Vec<f64>,
    /// Find the knee: offer rates that double from --rate on (or from an eighth of what a closed
    /// loop reaches), then search between the last one that was kept up with and the first that
    /// was not, to within 5%; up to 40 steps of --duration. A line for each; with --json one object
    #[arg(long, conflicts_with_all = ["history", "histogram", "follow"])]
    pub ramp: bool,
    /// With --ramp: the p99 in ms above which a rate is too high
    /// [default: 10 times the lowest p99 of any step]
    #[arg(long, value_name = "MS", requires = "ramp", value_parser = positive)]
    pub ramp_p99_ms: Option<f64>,
    /// Appends among 100 operations; the rest are reads
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    pub append_percent: u8,
    /// How fresh reads must be
    #[arg(long, value_enum, default_value_t = ReadLevel::Local)]
    pub level: ReadLevel,
    /// Who is asked for reads: the leader, over the connections of the appends; or any of the
    /// nodes named, round and round, over connections of their own: --append-percent of the
    /// connections (rounded up) then append only, and the others read only
    #[arg(long, value_enum, default_value_t = ReadFrom::Leader)]
    pub read_from: ReadFrom,
    /// Number each connection's appends in a session, as the client library does: the cluster
    /// sees to it that each takes effect once
    #[arg(long)]
    pub sessions: bool,
    /// Spread the operations over this many logs in turn, up to 10000: bench-0000, bench-0001 …,
    /// made first where they are not there; 1 is the log `default`
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub logs: usize,
    /// Followers, up to 4096, over connections of their own, spread over the nodes and the logs;
    /// reports how long records take to reach them. Records then need at least 8 bytes (24 with
    /// --history)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub follow: usize,
    /// Measure the host's floors first, on the same disk (about 3 s; longer while other
    /// programs are busy, which would spoil them)
    #[arg(long)]
    pub floor: bool,
    /// Print the report as one JSON object [default: as text]
    #[arg(long)]
    pub json: bool,
    /// Record every operation in FILE, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write latencies to FILE in HdrHistogram's interval log format, in nanoseconds
    #[arg(long, value_name = "FILE")]
    pub histogram: Option<PathBuf>,
    /// Keep the embedded cluster's data and logs, and say where they are
    #[arg(long, conflicts_with = "target")]
    pub keep_data: bool,
    /// Folder on a real disk for the embedded cluster's data and for --floor
    /// [default: the system's temporary folder, or this one where that is in memory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// What else `loggos bench` can be.
#[derive(Debug, Subcommand)]
pub enum BenchRole {
    /// Runs a null server, for load generators on other hosts: it answers everything at once and
    /// stores nothing
    Null(ListenArgs),
    /// Makes a part of the load of a `loggos bench --agents …` on another host, one at a time. There
    /// is no authentication: use it on a network you trust
    Agent(ListenArgs),
    /// Removes the data of a bench once that has been killed; started by `loggos bench` itself
    #[command(hide = true)]
    Janitor(JanitorArgs),
}

/// What a janitor watches.
#[derive(Debug, Args)]
pub struct JanitorArgs {
    /// The folder of the embedded cluster; its owner lives for as long as standard input is open
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// A part of a bench that waits for others.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Where to listen; port 0 is any free one. Printed once it listens. There is no
    /// authentication: use it on a network you trust
    #[arg(long, value_name = "HOST:PORT", value_parser = listen_address)]
    pub listen: String,
    /// End when the process with this id, which started this one, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub exit_with_parent: Option<u32>,
}

/// `HOST:PORT` where the port may be 0.
fn listen_address(text: &str) -> Result<String, String> {
    let fine = match text.rsplit_once(':') {
        Some((_, "0")) => true,
        _ => text.parse::<HostPort>().is_ok(),
    };
    fine.then(|| text.to_owned()).ok_or_else(|| "not HOST:PORT (port 0 is any free one)".to_owned())
}

impl BenchArgs {
    /// The loads that the flags describe: one, or in a sweep each combination in turn.
    ///
    /// # Errors
    /// Exit 2 when one cannot be generated.
    pub fn workloads(&self) -> Result<Vec<Workload>, CliError> {
        let pacings: Vec<Pacing> = match &self.rate[..] {
            [] => vec![Pacing::Closed],
            rates => rates.iter().map(|&rate_per_s| Pacing::Open { rate_per_s }).collect(),
        };
        let inflight = match &self.inflight[..] {
            // Steps are to be bounded by the cluster, not by what may be in flight.
            [] if self.ramp => &[RAMP_INFLIGHT],
            [] => &[INFLIGHT],
            given => given,
        };
        let lists = [&self.record_bytes[..], &self.records_per_append, &self.connections, inflight];
        let runs = lists.iter().fold(pacings.len(), |runs, list| runs.saturating_mul(list.len()));
        if runs > SWEEP_RUNS_MAX {
            let message =
                format!("{runs} combinations are over {SWEEP_RUNS_MAX}; shorten the lists");
            return Err(CliError::usage(message));
        }
        if runs > 1 && self.ramp {
            return Err(CliError::usage("--ramp is of one load; give one value to each flag"));
        }
        if runs > 1 && (self.history.is_some() || self.histogram.is_some()) {
            let message = "--history and --histogram hold one run; give one value to each flag";
            return Err(CliError::usage(message));
        }
        let mut workloads = Vec::with_capacity(runs);
        for &record_bytes in &self.record_bytes {
            for &records_per_append in &self.records_per_append {
                for &connections in &self.connections {
                    if connections < usize::from(self.groups) {
                        let groups = self.groups;
                        return Err(CliError::usage(format!(
                            "--connections {connections} do not reach {groups} groups: each goes \
                             to one of them"
                        )));
                    }
                    for &inflight in inflight {
                        for &pacing in &pacings {
                            let workload = Workload {
                                connections,
                                inflight,
                                records_per_append,
                                record_bytes,
                                pacing,
                                ..self.workload_base()
                            };
                            workloads.push(workload.validate().map_err(CliError::usage)?);
                        }
                    }
                }
            }
        }
        Ok(workloads)
    }

    /// What all loads of a sweep have in common.
    fn workload_base(&self) -> Workload {
        let default = match self.ramp {
            true => (RAMP_DURATION, RAMP_WARMUP),
            false => (Workload::default().duration, Workload::default().warmup),
        };
        Workload {
            duration: self.duration.unwrap_or(default.0),
            warmup: self.warmup.unwrap_or(default.1),
            append_percent: self.append_percent,
            level: self.level,
            read_from: self.read_from,
            history: self.history.is_some(),
            sessions: self.sessions,
            logs: self.logs.max(usize::from(self.groups)),
            follow: self.follow,
            ..Workload::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::error::Exit;
    use super::super::Command;
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn bench_flags_make_the_workload() {
        let Ok(Command::Bench(args)) = parse("loggos bench") else { panic!() };
        assert_eq!(args.workloads().unwrap(), [Workload::default()]);
        assert_eq!(args.local, 3);
        let line = "loggos bench --rate 5e4 --duration 0.5s --history h --target a:1,b:2 \
                    --sessions --logs 1000 --follow 12";
        let Ok(Command::Bench(args)) = parse(line) else { panic!() };
        let workload = args.workloads().unwrap().remove(0);
        assert_eq!(workload.pacing, Pacing::Open { rate_per_s: 5e4 });
        assert_eq!(workload.duration, Duration::from_millis(500));
        assert!(workload.history && workload.sessions);
        assert_eq!((workload.logs, workload.follow), (1000, 12));
        assert_eq!(args.target.len(), 2);
        let Ok(Command::Bench(args)) = parse("loggos bench --inflight 0") else { panic!() };
        assert_eq!(args.workloads().unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn lists_are_a_sweep_of_every_combination() {
        let line = "loggos bench --record-bytes 64,1024 --inflight 1,16,256 --rate 1e3,2e3";
        let Ok(Command::Bench(args)) = parse(line) else { panic!() };
        let workloads = args.workloads().unwrap();
        assert_eq!(workloads.len(), 12);
        let first: Vec<_> = workloads[..3].iter().map(|w| (w.record_bytes, w.inflight)).collect();
        assert_eq!(first, [(64, 1), (64, 1), (64, 16)]);
        assert_eq!(workloads[11].pacing, Pacing::Open { rate_per_s: 2e3 });
        for (line, word) in [
            ("loggos bench --inflight 1,0", "--inflight 0"),
            ("loggos bench --inflight 1,2 --history h", "--history"),
            ("loggos bench --inflight 1,2 --histogram h", "--histogram"),
        ] {
            let Ok(Command::Bench(args)) = parse(line) else { panic!("{line}") };
            let error = args.workloads().unwrap_err();
            assert!(error.message.contains(word) && error.exit == Exit::Usage, "{error}");
        }
        let many = vec!["1"; 17].join(",");
        let line = format!("loggos bench --inflight {many} --connections {many}");
        let Ok(Command::Bench(args)) = parse(&line) else { panic!() };
        assert!(args.workloads().unwrap_err().message.contains("289 combinations"));
    }

    #[test]
    fn a_ramp_is_of_one_load_with_steps_of_its_own() {
        let of = |line: &str| match parse(line) {
            Ok(Command::Bench(args)) => args.workloads(),
            other => panic!("{other:?}"),
        };
        let workload = of("loggos bench --ramp --ramp-p99-ms 2.5").unwrap().remove(0);
        assert_eq!((workload.inflight, workload.duration), (RAMP_INFLIGHT, RAMP_DURATION));
        let workload = of("loggos bench --ramp --inflight 8 --warmup 0").unwrap().remove(0);
        assert_eq!((workload.inflight, workload.warmup), (8, Duration::ZERO));
        assert!(of("loggos bench --ramp --rate 1,2").is_err());
        for line in ["--ramp-p99-ms 5", "--ramp --ramp-p99-ms 0", "--ramp --histogram h"] {
            assert!(parse(&format!("loggos bench {line}")).is_err(), "{line}");
        }
    }

    #[test]
    fn the_parts_of_a_bench_listen_on_any_port() {
        let line = "loggos bench null --listen 127.0.0.1:0";
        let Ok(Command::Bench(args)) = parse(line) else { panic!() };
        let Some(BenchRole::Null(role)) = &args.role else { panic!() };
        assert_eq!(role.listen, "127.0.0.1:0");
        let line = "loggos bench agent --listen a:7500";
        let Ok(Command::Bench(args)) = parse(line) else { panic!() };
        assert!(matches!(args.role, Some(BenchRole::Agent(_))));
        for line in ["null --listen nowhere", "null", "--inflight 3 null --listen a:1"] {
            assert!(parse(&format!("loggos bench {line}")).is_err(), "{line}");
        }
    }
}
