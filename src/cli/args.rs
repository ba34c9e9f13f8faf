//! The flags of every command, with their help, units and defaults; turned into validated options.
//!
//! Called by [`super::main`]. Nothing here touches the disk or the network.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::error::{CliError, Exit};
use super::members::{HostPort, MemberList};
use super::options::{
    FormatOptions, LogSync, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    ServeOptions,
};
use crate::base::limits::{GROUPS_MAX, MEMBERS_MAX, RECORD_BYTES_MAX};
use crate::base::{DEFAULT_LOG_NAME, NodeId, Position};
use crate::loadgen::workload::{Pacing, ReadFrom, ReadLevel, Workload};
use crate::uring::UringOptions;

/// The exit codes as `loggos --help` lists them.
fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, name, meaning) in Exit::ALL {
        text.push_str(&format!("  {}  {name:<8} {meaning}\n", exit.code()));
    }
    text.push_str(
        "\nEnvironment:\n  LOGGOS_LOG  what to log to standard error, as \
         tracing's filters (default: warn; for serve: info), e.g. LOGGOS_LOG=debug\n\n\
         Examples:\n  loggos bench\n  loggos bench --target 10.0.0.1:7400,10.0.0.2:7400 --json\n  \
         loggos doctor --data /var/lib/loggos\n",
    );
    text
}

/// A replicated log: Multi-Paxos on io_uring, durable on a quorum before it answers.
#[derive(Debug, Parser)]
#[command(name = "loggos", version, after_help = exit_codes(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures a cluster under load: an embedded one, or the one at --target
    Bench(Box<BenchArgs>),
    /// Makes a node's data directory
    Format(FormatArgs),
    /// Runs a node
    Serve(ServeArgs),
    /// Appends standard input, a record a line, and prints the positions
    Append(AppendArgs),
    /// Prints records
    Read(ReadArgs),
    /// Prints the next position to be given out, linearizable
    Tail(TailArgs),
    /// Lists, creates, describes and deletes the logs of a cluster
    Log(LogArgs),
    /// Shows the members of a cluster and how they are
    Status(StatusArgs),
    /// Hands the leadership over to a node
    Lead(LeadArgs),
    /// Reads a stopped node's log and verifies every checksum
    Inspect(InspectArgs),
    /// Shows what this host offers, what it costs, and what to change
    Doctor(DoctorArgs),
    /// Runs simulated clusters with every fault, from seeds, and checks what must hold
    Sim(SimArgs),
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.trim_end_matches('s').parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a length of time".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number < f64::INFINITY => Ok(number),
        _ => Err("not a number above 0".to_owned()),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text.parse().map_err(|_| "not a whole number of milliseconds")?;
    match number {
        1..=3_600_000 => Ok(Duration::from_millis(number)),
        _ => Err("give 1 to 3600000 ms".to_owned()),
    }
}

/// Where a cluster is.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// Nodes of the cluster, HOST:PORT with commas between; one that answers is enough
    #[arg(long, value_name = "HOST:PORT,…", required = true, value_delimiter = ',')]
    pub target: Vec<HostPort>,
    /// How long an operation may take, retries included, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
}

/// Which log of the cluster.
#[derive(Clone, Debug, Args)]
pub struct LogNameArgs {
    /// The log, by name
    #[arg(long = "log", value_name = "NAME", default_value = DEFAULT_LOG_NAME)]
    pub name: String,
}

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
    #[arg(long, value_name = "BYTES", default_value_t = 0, conflicts_with = "target",
          value_parser = clap::value_parser!(u64).range(..=PREALLOCATE_BYTES_MAX))]
    pub preallocate_bytes: u64,
    /// Load this running cluster instead: HOST:PORT with commas between
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub target: Vec<HostPort>,
    /// Measure the load generator itself: a null server, in a process of its own on this host,
    /// answers everything at once and stores nothing
    #[arg(long, conflicts_with_all = ["target", "local", "floor", "data", "keep_data", "follow",
          "history"])]
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

/// The most that is filled ahead, in bytes: 1 TiB.
const PREALLOCATE_BYTES_MAX: u64 = 1 << 40;

const FORMAT_EXAMPLES: &str = "Example, for the first of three nodes:
  loggos format --data /var/lib/loggos --cluster orders --node 1 \\
      --members 1=10.0.0.1:7400,2=10.0.0.2:7400,3=10.0.0.3:7400";

/// `loggos format`.
#[derive(Debug, Args)]
#[command(after_help = FORMAT_EXAMPLES)]
pub struct FormatArgs {
    /// The directory to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The cluster's name, the same on every node: letters, digits, `.`, `-`, `_`
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// This node's number among the members
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// All members and where they are reached, the same on every node
    #[arg(long, value_name = "1=HOST:PORT,…")]
    pub members: MemberList,
    /// Groups, up to 64, the same on every node: each has its own log, leader and thread, and some
    /// of the logs; never changed afterwards
    #[arg(long, value_name = "G", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=GROUPS_MAX as i64))]
    pub groups: u16,
    /// Size of a log segment in bytes, a multiple of 4096
    #[arg(long, value_name = "BYTES", default_value_t = SEGMENT_BYTES_DEFAULT,
          value_parser = clap::value_parser!(u64).range(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX))]
    pub segment_bytes: u64,
    /// Fill so many bytes of log with zeros ahead, in whole segments: until they are used up, large
    /// writes get the disk's whole bandwidth
    #[arg(long, value_name = "BYTES", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=PREALLOCATE_BYTES_MAX))]
    pub preallocate_bytes: u64,
}

impl FormatArgs {
    /// Validated options.
    ///
    /// # Errors
    /// Exit 2 when the flags do not fit together.
    pub fn options(self) -> Result<FormatOptions, CliError> {
        let FormatArgs { data, cluster, members, groups, segment_bytes, preallocate_bytes, .. } =
            self;
        let node = NodeId(self.node);
        let options = FormatOptions {
            data,
            cluster,
            node,
            members,
            groups,
            segment_bytes,
            preallocate_bytes,
        };
        options.validate().map_err(CliError::usage)
    }
}

const BUSY_POLL_US_DEFAULT: u32 = UringOptions::BUSY_POLL_DEFAULT.as_micros() as u32;
/// Polling longer than this is spinning.
const BUSY_POLL_US_MAX: i64 = 10_000;

const SERVE_EXAMPLES: &str = "Example:
  loggos serve --data /var/lib/loggos";

/// `loggos serve`.
#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArgs {
    /// The node's directory, made by `loggos format`
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to listen for peers and clients [default: the node's own member address]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<HostPort>,
    /// How a batch becomes durable: one write with RWF_DSYNC, or a write linked to an fdatasync
    #[arg(long, value_enum, default_value_t = LogSync::Dsync)]
    pub log_sync: LogSync,
    /// An election starts this many ms, to twice as many, after a leader was last heard
    #[arg(long, value_name = "MS", default_value = "400", value_parser = milliseconds)]
    pub election_timeout: Duration,
    /// How often a leader shows that it lives, in ms
    #[arg(long, value_name = "MS", default_value = "50", value_parser = milliseconds)]
    pub heartbeat_interval: Duration,
    /// The most by which this host's clock may run fast or slow, in parts per million: leases are
    /// counted shorter by it. Reads at level lease depend on it, nothing else does
    #[arg(long, value_name = "PPM", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub clock_drift_ppm: u32,
    /// How much this node is wanted as the leader: a leader of lower priority hands over to a connected node of higher priority that is up to date, when it has led for ten election timeouts (longer each time after that node has lost the leadership again soon)
    /// [default: 0; with several groups 1 for those whose number modulo the members is this node's place among them, so that the leaders spread over the nodes]
    #[arg(long, value_name = "N")]
    pub priority: Option<u8>,
    /// Read and verify every entry of the log before serving, in place of a verification in the background afterwards
    #[arg(long)]
    pub verify_at_start: bool,
    /// How many us a group's thread looks for news before it sleeps, at most; 0: never. An idle node does not
    #[arg(long, value_name = "US", default_value_t = BUSY_POLL_US_DEFAULT,
          value_parser = clap::value_parser!(u32).range(..=BUSY_POLL_US_MAX))]
    pub busy_poll: u32,
    /// Pin the threads of the groups to these cores, from 0, in turn [default: not pinned]
    #[arg(long, value_name = "CORE,…", value_delimiter = ',')]
    pub pin: Vec<usize>,
    /// End when the process with this id, which started this one, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub exit_with_parent: Option<u32>,
}

impl ServeArgs {
    /// Validated options.
    ///
    /// # Errors
    /// Exit 2 when the flags do not fit together.
    pub fn options(self) -> Result<ServeOptions, CliError> {
        let options = ServeOptions {
            data: self.data,
            listen: self.listen,
            log_sync: self.log_sync,
            election_timeout: self.election_timeout,
            heartbeat_interval: self.heartbeat_interval,
            clock_drift_ppm: self.clock_drift_ppm,
            priority: self.priority,
            verify_at_start: self.verify_at_start,
            pin: self.pin,
            busy_poll: Duration::from_micros(self.busy_poll.into()),
        };
        options.validate().map_err(CliError::usage)
    }
}

const APPEND_EXAMPLES: &str = "Examples:
  printf 'one\\ntwo\\n' | loggos append --target 127.0.0.1:7400
  loggos append --target 127.0.0.1:7400 --file photo.jpg

Records are appended in their order, many at a time; a position is printed once its record is
durable on a quorum. Exit 4 when it is unknown whether the records after the last position printed
were appended.";

/// `loggos append`.
#[derive(Debug, Args)]
#[command(after_help = APPEND_EXAMPLES)]
pub struct AppendArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// Append only if this is the next position, and then only right behind the records before;
    /// exit 3 otherwise
    #[arg(long, value_name = "P")]
    pub if_tail: Option<u64>,
    /// Show this fencing token: the log takes it unless it has taken a higher one, and from then
    /// on refuses those who show a lower one, or none
    #[arg(long, value_name = "TOKEN", value_parser = clap::value_parser!(u64).range(1..))]
    pub fence: Option<u64>,
    /// Append the whole of FILE as one record (at most 1048576 bytes) [default: standard input,
    /// a record a line]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// The largest file that `--file` takes in bytes.
pub const FILE_BYTES_MAX: u64 = RECORD_BYTES_MAX as u64;

const READ_EXAMPLES: &str = "Examples:
  loggos read --target 127.0.0.1:7400 --from 0 --to 100
  loggos read --target 127.0.0.1:7400 --from 0 --follow --json

With --json, one object a line: {\"position\":7,\"value\":\"text\"}; bytes that are not UTF-8 come as
{\"position\":7,\"value_hex\":\"ff00\"}.";

/// `loggos read`.
#[derive(Debug, Args)]
#[command(after_help = READ_EXAMPLES)]
pub struct ReadArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// The first position
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub from: u64,
    /// The position to stop before [default: the end of the log]
    #[arg(long, value_name = "Q")]
    pub to: Option<u64>,
    /// Keep printing what is appended, until --to or for ever
    #[arg(long)]
    pub follow: bool,
    /// How fresh the answer must be; `local` may be stale
    #[arg(long, value_enum, default_value_t = ReadLevel::ReadIndex)]
    pub level: ReadLevel,
    /// Print positions too, one JSON object a line [default: the bare records, one a line]
    #[arg(long)]
    pub json: bool,
}

impl ReadArgs {
    /// The range `[from, to)`.
    ///
    /// # Errors
    /// Exit 2 when it ends before it begins.
    pub fn range(&self) -> Result<(Position, Option<Position>), CliError> {
        match self.to {
            Some(to) if to < self.from => Err(CliError::usage(format!(
                "--to {to} is before --from {}; give a range",
                self.from
            ))),
            to => Ok((Position(self.from), to.map(Position))),
        }
    }
}

const LOG_EXAMPLES: &str = "Examples:
  loggos log create orders --target 127.0.0.1:7400
  printf 'one\\ntwo\\n' | loggos append --log orders --target 127.0.0.1:7400
  loggos log list --json --target 127.0.0.1:7400";

/// `loggos log`.
#[derive(Debug, Args)]
#[command(after_help = LOG_EXAMPLES)]
pub struct LogArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LogCommand,
}

/// What `loggos log` does.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Prints every log: number, name, next position, fencing token
    List {
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Creates a log and prints its number; one that is there already is left as it is
    Create {
        /// Its name: letters, digits, `.`, `-`, `_` and `/`
        name: String,
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
        /// The largest record that it takes, in bytes, up to 1048576
        #[arg(long, value_name = "BYTES", default_value_t = RECORD_BYTES_MAX as u32)]
        record_bytes_max: u32,
    },
    /// Prints one log; exit 3 when there is none of that name
    Show {
        /// Its name
        name: String,
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Deletes a log with all of its records; exit 3 when there is none of that name
    Delete {
        /// Its name
        name: String,
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// `loggos tail`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos tail --target 127.0.0.1:7400")]
pub struct TailArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// How fresh the answer must be; `local` may be stale
    #[arg(long, value_enum, default_value_t = ReadLevel::ReadIndex)]
    pub level: ReadLevel,
}

/// `loggos status`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos status --target 127.0.0.1:7400 --json")]
pub struct StatusArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print where the time of a slot goes on each node, in microseconds since it started
    #[arg(long)]
    pub stages: bool,
    /// Print one JSON object, stages included [default: a table]
    #[arg(long)]
    pub json: bool,
}

const LEAD_EXAMPLES: &str = "Example:
  loggos lead --node 2 --target 127.0.0.1:7400

The leader goes on until the node has everything, holds new appends back for a few round trips, and
tells the node to take over; no append fails by it. It refuses when the node is not connected or too
far behind. A leader hands over by itself, after a while, to a node with a higher --priority (serve).";

/// `loggos lead`.
#[derive(Debug, Args)]
#[command(after_help = LEAD_EXAMPLES)]
pub struct LeadArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The node that is to lead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// In this group, from 0 [default: in every group]
    #[arg(long, value_name = "G")]
    pub group: Option<u16>,
    /// Print one JSON object for each group, a line each, instead of text
    #[arg(long)]
    pub json: bool,
}

/// `loggos inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos inspect /var/lib/loggos --json\n\nExit 1 on damage.")]
pub struct InspectArgs {
    /// The data directory of a node that is not running
    #[arg(value_name = "DIR")]
    pub data: PathBuf,
    /// Print every record too
    #[arg(long)]
    pub records: bool,
    /// Print JSON: one object a line with --records, the summary last [default: text]
    #[arg(long)]
    pub json: bool,
}

/// `loggos sim`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  loggos sim --runs 1000\n  loggos sim --seed 42\n  \
    loggos sim --seed 42 --shrink\n  \
    LOGGOS_LOG=debug loggos sim --seed 42 --nodes-max 3 --strikes-max 7\n  \
    loggos sim --explore\n\nExit 1 on a violation.")]
pub struct SimArgs {
    /// The first seed [default: drawn from the clock, and printed]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// How many seeds, one after the other [default: 100; 1 with --seed]
    #[arg(long, value_name = "N")]
    pub runs: Option<u64>,
    /// Threads, each with worlds of its own [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Write the history of a violating run to this file [default: loggos-sim-SEED.jsonl in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Leave out these faults, by the names of the summary, with commas between
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    pub without: Vec<String>,
    /// Permit these faults only, by the names of the summary, with commas between; none: no fault
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Shrink the failing --seed: print the smallest command that still fails in the same check
    #[arg(long)]
    pub shrink: bool,
    /// Hunt the planted bugs instead: each must be caught (needs a build with the feature `mutants`)
    #[arg(long)]
    pub mutants: bool,
    /// Hunt these planted bugs only, with commas between; without --mutants: plant this one
    #[arg(long, value_name = "MUTANT,…", value_delimiter = ',')]
    pub mutant: Vec<String>,
    /// Seeds in which a planted bug must be caught
    #[arg(long, value_name = "N", default_value_t = 500, requires = "mutants")]
    pub budget: u64,
    /// At most this many nodes
    #[arg(long, value_name = "N")]
    pub nodes_max: Option<usize>,
    /// At most this many clients
    #[arg(long, value_name = "N")]
    pub clients_max: Option<usize>,
    /// At most this many operations of each client while everything may fail
    #[arg(long, value_name = "N")]
    pub operations_max: Option<u64>,
    /// At most this many strikes of faults
    #[arg(long, value_name = "N")]
    pub strikes_max: Option<u64>,
    /// Visit every reachable state of small worlds instead (about half an hour, 2 GiB of memory); with --json one object per line
    #[arg(long, conflicts_with_all = ["seed", "runs"])]
    pub explore: bool,
    /// With --explore: only the worlds whose name contains this text
    #[arg(
        long,
        value_name = "TEXT",
        requires = "explore",
        default_value = "",
        hide_default_value = true
    )]
    pub worlds: String,
}

/// `loggos doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos doctor --data /var/lib/loggos")]
pub struct DoctorArgs {
    /// The folder whose disk is looked at; it must exist
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data: PathBuf,
    /// Print one JSON object [default: text]
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_tree_is_sound_and_every_flag_has_help() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let named = format!("{} {}", command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{named} has no help");
            }
        }
        let help = Cli::command().render_help().to_string();
        for (exit, name, _) in Exit::ALL {
            assert!(help.contains(&format!("  {}  {name}", exit.code())), "{help}");
        }
    }

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

    #[test]
    fn what_does_not_fit_is_refused() {
        for line in [
            "loggos bench --local 0",
            "loggos bench --local 16",
            "loggos bench --local 3 --target a:1",
            "loggos bench --null --target a:1",
            "loggos bench --null --floor",
            "loggos bench --agents a:1",
            "loggos bench --agents a:1 --target b:1 --follow 1",
            "loggos bench --inflight 1,many",
            "loggos bench --duration -1",
            "loggos bench --duration soon",
            "loggos bench --target nowhere",
            "loggos serve",
            "loggos serve --data d --election-timeout 0",
            "loggos serve --data d --log-sync never",
            "loggos format --data d --cluster c --node 0 --members 1=a:1",
            "loggos format --data d --cluster c --node 1 --members 1=a:1 --groups 0",
            "loggos format --data d --cluster c --node 1 --members 1=a:1 --groups 65",
            "loggos bench --groups 2 --target a:1",
            "loggos read",
            "loggos",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let Ok(Command::Read(args)) = parse("loggos read --target a:1 --from 5 --to 4") else {
            panic!()
        };
        assert_eq!(args.range().unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn serve_and_format_make_options() {
        let line = "loggos serve --data d --listen [::1]:9 --log-sync write-then-fsync";
        let Ok(Command::Serve(args)) = parse(line) else { panic!() };
        let options = args.options().unwrap();
        assert_eq!(options.log_sync, LogSync::WriteThenFsync);
        assert_eq!(options.listen.unwrap().to_string(), "[::1]:9");
        assert_eq!(options.election_timeout, Duration::from_millis(400));

        let line = "loggos format --data d --cluster c --node 2 --members 2=b:1,1=a:1";
        let Ok(Command::Format(args)) = parse(line) else { panic!() };
        let options = args.options().unwrap();
        assert_eq!(options.members.to_string(), "1=a:1,2=b:1");
        assert_eq!(options.segment_bytes, SEGMENT_BYTES_DEFAULT);
    }
}
