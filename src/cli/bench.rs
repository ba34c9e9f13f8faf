//! `loggos bench`: the cluster, the floors, the run, the report.

mod ramp;
mod roles;
mod sweep;
mod watch;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::args::{BenchArgs, BenchRole};
use super::doctor::FLOOR_TIME;
use super::error::{CliError, Exit};
use super::options::fill_ahead_bytes_default;
use super::output::Output;
use super::targets::look_up;
use crate::base::GroupId;
use crate::client::ClientOptions;
use crate::client::blocking::Client;
use crate::loadgen::agents::{self, AgentError};
use crate::loadgen::bench::{RunError, RunOptions, RunResult, run as run_load};
use crate::loadgen::histogram::write_interval_log;
use crate::loadgen::local::{LEADER_TIMEOUT, LocalCluster, LocalError, LocalOptions};
use crate::loadgen::null::{self, NullProcess};
use crate::loadgen::report::{
    BatchingReport, ClusterReport, DURABILITY_FSYNC, DURABILITY_NULL, FloorReport, HostReport,
    Report, ResourcesReport, WorkloadReport, bytes, count,
};
use crate::loadgen::workload::Workload;
use crate::uring::floor;
use crate::uring::host::{filesystem_of, probe, require_real_disk};
use crate::wire::status::StageStatus;
use watch::Watch;

/// How long a question for a node's counters may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries to give a group its leader.
const LEAD_RETRY: Duration = Duration::from_millis(10);
/// Files that are open besides the followers' sockets, at most.
const FILES_BESIDES: usize = 2048;
/// The commit that this was built from, where the build knew.
const COMMIT: &str = match option_env!("LOGGOS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    match &args.role {
        Some(BenchRole::Null(role)) => return roles::null(role),
        Some(BenchRole::Agent(role)) => return roles::agent(role),
        Some(BenchRole::Janitor(role)) => return roles::janitor(role),
        None => {}
    }
    let workloads = args.workloads()?;
    let stop = watch_signals()?;
    permit_files(args.follow);
    // Before anything slow: a file that cannot be written is known at once.
    let histogram = args.histogram.as_deref().map(create).transpose()?;
    let folder = folder(args)?;
    let floor = measure_floor(args, folder.as_deref())?;
    interrupted(&stop)?;

    let target = start_target(args, folder.as_deref(), &stop)?;
    let client = connect(&target.addresses())?;
    let host = host_report(folder.as_deref());
    let mut bench = Bench { args, target, client, floor, host, histogram, stop };
    let result = match (args.ramp, &workloads[..]) {
        (true, [workload]) => ramp::run(&bench, workload),
        _ => sweep::run(&bench, &workloads),
    };
    if let (Err(_), Target::Local(cluster)) = (&result, &mut bench.target) {
        // A node that has died says more than what its clients saw of it.
        cluster.check().map_err(|error| describe_local(&error))?;
    }
    let stopped = bench.target.stop();
    result?;
    if let Some(path) = stopped? {
        note!("data and logs are kept in {}", path.display());
    }
    Ok(())
}

/// What is measured.
enum Target {
    /// The embedded cluster.
    Local(LocalCluster),
    /// Nothing but the load generator.
    Null(NullProcess),
    /// A running cluster, by addresses.
    Elsewhere(Vec<String>),
}

impl Target {
    fn addresses(&self) -> Vec<String> {
        match self {
            Target::Local(cluster) => cluster.addresses(),
            Target::Null(server) => vec![server.address().to_owned()],
            Target::Elsewhere(addresses) => addresses.clone(),
        }
    }

    fn cluster(&self) -> Option<&LocalCluster> {
        match self {
            Target::Local(cluster) => Some(cluster),
            Target::Null(_) | Target::Elsewhere(_) => None,
        }
    }

    /// Stops what was started; where its data is, if that is kept.
    fn stop(self) -> Result<Option<PathBuf>, CliError> {
        match self {
            Target::Local(cluster) => cluster.stop().map_err(|error| describe_local(&error)),
            Target::Null(_) | Target::Elsewhere(_) => Ok(None),
        }
    }
}

fn start_target(
    args: &BenchArgs,
    folder: Option<&Path>,
    stop: &AtomicBool,
) -> Result<Target, CliError> {
    if args.null {
        let server = NullProcess::start(&own_executable()?).map_err(CliError::failed)?;
        return Ok(Target::Null(server));
    }
    match folder {
        Some(folder) if args.target.is_empty() => {
            start_cluster(args, folder, stop).map(Target::Local)
        }
        _ => {
            look_up(&args.target, STATUS_TIMEOUT)?;
            Ok(Target::Elsewhere(args.target.iter().map(ToString::to_string).collect()))
        }
    }
}

fn connect(addresses: &[String]) -> Result<Client, CliError> {
    let options = ClientOptions { operation_timeout: STATUS_TIMEOUT, ..ClientOptions::default() };
    Client::connect(addresses.to_vec(), options).map_err(|error| {
        let targets = addresses.join(", ");
        CliError::usage(format!("no connection to {targets}: {error}; are the nodes running?"))
    })
}

/// What all runs of one command share.
struct Bench<'a> {
    args: &'a BenchArgs,
    target: Target,
    client: Client,
    floor: Option<floor::Floor>,
    host: HostReport,
    /// Where the latencies of the one run go.
    histogram: Option<(PathBuf, File)>,
    stop: Arc<AtomicBool>,
}

impl Bench<'_> {
    /// As [`Bench::measure`], where a part of a run is of no use.
    fn measure_whole(&self, workload: &Workload) -> Result<Report, CliError> {
        let report = self.measure(workload)?;
        interrupted(&self.stop)?;
        Ok(report)
    }

    /// Runs `workload` and reports what was found, until it was interrupted if it was.
    fn measure(&self, workload: &Workload) -> Result<Report, CliError> {
        let measured = self.run_load(workload)?;
        warn_of_losses(&measured.run, workload);
        if let Some((path, file)) = &self.histogram {
            write_histogram(path, file, &measured.run)?;
        }
        Ok(self.report(workload, measured))
    }

    /// Where reports go.
    fn output(&self) -> Output {
        let mut output = Output::stdout();
        if !self.args.target.is_empty() {
            output.set_effect("the load was appended".to_owned());
        }
        output
    }

    fn run_load(&self, workload: &Workload) -> Result<Measured, CliError> {
        let nodes = self.client.members().map_or(0, |members| members.len());
        let groups = self.client.group_count().map_err(CliError::failed)?;
        let mut watch = Watch::new(&self.client, groups, self.target.cluster(), workload);
        let options = RunOptions {
            workload: workload.clone(),
            addresses: self.target.addresses(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            history: self.args.history.clone(),
        };
        let agents: Vec<String> = self.args.agents.iter().map(ToString::to_string).collect();
        let run = match agents.is_empty() {
            true => run_load(&options, &mut watch, &self.stop),
            false => agents::run(&options, &agents, &mut watch, &self.stop),
        };
        watch.end();
        if !matches!(&run, Ok(run) if run.measured > Duration::ZERO) {
            interrupted(&self.stop)?;
        }
        let run = run.map_err(|error| match error {
            RunError::Start(_)
            | RunError::Follow(_)
            | RunError::Connections { .. }
            | RunError::History { .. } => CliError::usage(error),
            RunError::Agents(AgentError::Count(_)) => CliError::usage(error),
            _ => CliError::failed(error),
        });
        let run = run?;
        // Of several groups the first one's leader, as an example of them.
        let leader = watch.after.as_ref().and_then(|after| after.leaders.as_ref()?.first());
        let is_null = leader.is_some_and(|status| status.cluster == null::CLUSTER_NAME);
        let stages = leader.filter(|_| !is_null).map(|status| status.stages.clone());
        let (batching, server_cpu_s, server_rss_bytes_max) = match (watch.before, watch.after) {
            (Some(before), Some(after)) => (
                before.batching_until(&after).filter(|_| !is_null),
                before.cpu_s_until(&after),
                after.usage.map(|usage| usage.rss_bytes_max),
            ),
            _ => (None, None, None),
        };
        let is_null = is_null || self.args.null;
        Ok(Measured {
            run,
            is_null,
            nodes,
            groups,
            batching,
            stages,
            server_cpu_s,
            server_rss_bytes_max,
        })
    }

    fn report(&self, workload: &Workload, measured: Measured) -> Report {
        let nodes = match &self.target {
            _ if measured.is_null => 0,
            Target::Local(_) => usize::from(self.args.local),
            _ => measured.nodes,
        };
        let durability = if measured.is_null { DURABILITY_NULL } else { DURABILITY_FSYNC };
        let local = self.args.target.is_empty();
        let preallocate_bytes = self.target.cluster().map(LocalCluster::preallocate_bytes);
        let run = measured.run;
        let mut load = WorkloadReport::from(workload);
        load.duration_s = run.measured.as_secs_f64();
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.to_owned(),
            host: self.host.clone(),
            cluster: ClusterReport {
                nodes,
                groups: measured.groups.into(),
                local,
                durability,
                preallocate_bytes,
            },
            workload: load,
            interrupted: self.stop.load(Ordering::Relaxed),
            batching: measured.batching,
            floor: self.floor.as_ref().map(|floor| {
                let parts = FloorReport {
                    durable_write_us_p50: floor.durable_write.us_p50,
                    round_trip_us_p50: floor.round_trip.us_p50,
                    durable_bytes_per_s: floor.durable_bytes_per_s,
                    fresh_bytes_per_s: floor.fresh_bytes_per_s,
                    ..FloorReport::default()
                };
                parts.of_cluster(nodes)
            }),
            resources: ResourcesReport::new(
                measured.server_cpu_s,
                measured.server_rss_bytes_max,
                run.cpu.as_secs_f64(),
                (&run.appends, run.reads.as_ref()),
                run.measured.as_secs_f64(),
            ),
            appends: run.appends,
            reads: run.reads,
            follow: run.follow,
            stages: measured.stages,
            pace: run.pace,
            agents: run.agents,
        }
    }
}

/// A run of which nothing was acknowledged has failed.
fn verdict(report: &Report) -> Result<(), CliError> {
    let reads = report.reads.as_ref();
    if report.appends.ok + reads.map_or(0, |reads| reads.ok) > 0 {
        return Ok(());
    }
    // What was answered in the measured phase was due before it: there are no latencies.
    let answered_per_s = report.appends.per_s + reads.map_or(0.0, |reads| reads.per_s);
    Err(CliError::failed(match report.pace {
        Some(pace) if answered_per_s > 0.0 => format!(
            "nothing that was due in the measured phase was sent in time: the cluster took {} of \
             {} operations/s and was busy with those due before; lower --rate",
            count(answered_per_s),
            count(pace.offered_per_s)
        ),
        _ => "nothing was acknowledged; see the errors above".to_owned(),
    }))
}

/// Permits this process, and so the nodes that it starts, the sockets that `followers` need, as
/// far as the host does.
fn permit_files(followers: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (followers + FILES_BESIDES) as u64;
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(Some(wanted), |maximum| Some(wanted.min(maximum)));
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, ..limit }) {
            tracing::warn!(%error, wanted, "the limit of open files stays below what is needed");
        }
    }
}

/// A flag that Ctrl-C and a request to end set; the second one ends the process at once.
fn watch_signals() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    let cannot = |error| CliError::failed(format!("cannot watch for signals: {error}"));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let code = 128 + signal;
        // In this order: the first signal only sets the flag. The kernel ends the nodes then.
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&stop))
            .map_err(cannot)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(cannot)?;
    }
    Ok(stop)
}

fn interrupted(stop: &AtomicBool) -> Result<(), CliError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(CliError::failed("interrupted; there is no report")),
        false => Ok(()),
    }
}

fn create(path: &Path) -> Result<(PathBuf, File), CliError> {
    match File::create(path) {
        Ok(file) => Ok((path.to_owned(), file)),
        Err(error) => Err(CliError::usage(format!("{}: {error}", path.display()))),
    }
}

/// The folder on a real disk for the embedded cluster's data and the floors, if one is needed.
fn folder(args: &BenchArgs) -> Result<Option<PathBuf>, CliError> {
    if let Some(data) = &args.data {
        if !data.is_dir() {
            let data = data.display();
            return Err(CliError::usage(format!(
                "--data {data} is not a directory; make it first"
            )));
        }
        require_real_disk(data).map_err(CliError::usage)?;
        return Ok(Some(data.clone()));
    }
    if args.null && !args.floor {
        return Ok(None);
    }
    if !args.target.is_empty() {
        return match args.floor {
            false => Ok(None),
            true => Err(CliError::usage(
                "--floor with --target needs --data: a folder on the disk that the nodes use",
            )),
        };
    }
    let is_real = |path: &PathBuf| filesystem_of(path).is_ok_and(|found| !found.in_memory);
    let candidates = [std::env::temp_dir(), PathBuf::from(".")];
    candidates.into_iter().find(is_real).map(Some).ok_or_else(|| {
        CliError::usage("no real disk under the temporary folder or here; name one with --data DIR")
    })
}

fn measure_floor(
    args: &BenchArgs,
    folder: Option<&Path>,
) -> Result<Option<floor::Floor>, CliError> {
    let Some(folder) = folder.filter(|_| args.floor) else { return Ok(None) };
    note!("measuring the floors in {} …", folder.display());
    let floor = floor::measure(folder, FLOOR_TIME).map_err(|error| {
        CliError::usage(format!("the floors cannot be measured: {error}; see `loggos doctor`"))
    })?;
    if let Some(doubt) = floor.doubt() {
        note!("warning: {doubt}");
    }
    Ok(Some(floor))
}

fn own_executable() -> Result<PathBuf, CliError> {
    std::env::current_exe()
        .map_err(|error| CliError::failed(format!("the own executable is unknown: {error}")))
}

fn start_cluster(
    args: &BenchArgs,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<LocalCluster, CliError> {
    let executable = own_executable()?;
    let nodes = usize::from(args.local);
    let noun = if nodes == 1 { "node" } else { "nodes" };
    let parent = folder.to_owned();
    let (groups, keep_data) = (args.groups, args.keep_data);
    let preallocate_bytes = match args.preallocate_bytes {
        Some(bytes) => bytes,
        None => {
            let free_bytes = filesystem_of(folder).map(|filesystem| filesystem.free_bytes);
            fill_ahead_bytes_default(free_bytes.map_err(CliError::failed)?, nodes as u64)
        }
    };
    note!(
        "starting {nodes} {noun} in {}, each with {} of log filled ahead …",
        folder.display(),
        bytes(preallocate_bytes as f64)
    );
    let options = LocalOptions { executable, nodes, groups, preallocate_bytes, parent, keep_data };
    let cluster = LocalCluster::start(&options, stop).map_err(|error| describe_local(&error))?;
    if groups > 1 {
        spread_leaders(&cluster, groups)?;
    }
    Ok(cluster)
}

/// The leaders of several groups spread over the nodes by themselves, after a while. This is that
/// while, so that a run has the same leaders from its beginning to its end.
fn spread_leaders(cluster: &LocalCluster, groups: u16) -> Result<(), CliError> {
    let client = Client::connect(cluster.addresses(), ClientOptions::default());
    let client = client.map_err(CliError::failed)?;
    let members = client.members().map_err(CliError::failed)?;
    for group in (0..groups).map(GroupId) {
        let (node, _) = members[usize::from(group.0) % members.len()];
        // A node that has just started may not be connected yet.
        let give_up = Instant::now() + LEADER_TIMEOUT;
        while let Err(error) = client.of_group(group).lead(node) {
            if Instant::now() >= give_up {
                return Err(CliError::failed(format!("group {group}: {error}")));
            }
            std::thread::sleep(LEAD_RETRY);
        }
    }
    Ok(())
}

fn describe_local(error: &LocalError) -> CliError {
    let exit = match error {
        LocalError::System { .. } | LocalError::Format { .. } => Exit::Usage,
        LocalError::Ended { status, .. } if status.code() == Some(Exit::Disk.code().into()) => {
            Exit::Disk
        }
        _ => Exit::Failed,
    };
    CliError::new(exit, format!("the embedded cluster: {error}"))
}

/// What was found, before it is a report.
struct Measured {
    run: RunResult,
    /// It was a null server's.
    is_null: bool,
    /// Members, where a node told.
    nodes: usize,
    groups: u16,
    batching: Option<BatchingReport>,
    stages: Option<Vec<StageStatus>>,
    server_cpu_s: Option<f64>,
    server_rss_bytes_max: Option<u64>,
}

fn warn_of_losses(run: &RunResult, workload: &Workload) {
    let reads_per_s = run.reads.as_ref().map_or(0.0, |reads| reads.per_s);
    let answered_per_s = run.appends.per_s + reads_per_s;
    if let Some(text) = run.pace.and_then(|pace| pace.warning(answered_per_s, workload.inflight)) {
        note!("{text}");
    }
    if let Some(error) = &run.first_error {
        note!("the first error met: {error}");
    }
}

fn write_histogram(path: &Path, file: &File, run: &RunResult) -> Result<(), CliError> {
    let mut writer = BufWriter::new(file);
    write_interval_log(&mut writer, run.began, &run.intervals)
        .and_then(|()| writer.flush())
        .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
}

fn host_report(folder: Option<&Path>) -> HostReport {
    let host = probe(folder);
    HostReport {
        kernel: host.kernel,
        cpus: host.cpus,
        cpu_model: host.cpu_model.unwrap_or_else(|| "unknown".to_owned()),
        memory_bytes: host.memory_bytes,
        filesystem: host.filesystem.map(|filesystem| filesystem.kind),
        disk: host.device.map(|device| match device.model {
            Some(model) => format!("{} ({model})", device.name),
            None => device.name,
        }),
    }
}
