//! `loggos bench`: the cluster, the floors, the run, the report.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::BenchArgs;
use super::doctor::FLOOR_TIME;
use super::error::{CliError, Exit};
use super::output::Output;
use crate::base::GroupId;
use crate::client::blocking::Client;
use crate::client::{ClientOptions, NodeStatus};
use crate::loadgen::bench::{Live, Observer, RunError, RunOptions, RunResult, run as run_load};
use crate::loadgen::histogram::write_interval_log;
use crate::loadgen::local::{LEADER_TIMEOUT, LocalCluster, LocalError, LocalOptions, Usage};
use crate::loadgen::report::{
    BatchingReport, ClusterReport, FloorReport, HostReport, Report, ResourcesReport,
    WorkloadReport, count,
};
use crate::loadgen::workload::Workload;
use crate::uring::floor;
use crate::uring::host::{filesystem_of, probe, require_real_disk};
use crate::wire::status::{BatchingStatus, StageStatus};

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
    let workload = args.workload()?;
    let stop = watch_signals()?;
    permit_files(workload.follow);
    // Before anything slow: a file that cannot be written is known at once.
    let histogram = args.histogram.as_deref().map(create).transpose()?;
    let folder = folder(args)?;
    let nodes_expected = if args.target.is_empty() { usize::from(args.local) } else { 0 };
    let floor = measure_floor(args, folder.as_deref())?;
    interrupted(&stop)?;

    let mut cluster = match &folder {
        Some(folder) if args.target.is_empty() => Some(start_cluster(args, folder, &stop)?),
        _ => None,
    };
    let result = measure(args, &workload, cluster.as_ref(), &stop);
    if let (Err(_), Some(cluster)) = (&result, &mut cluster) {
        // A node that has died says more than what its clients saw of it.
        cluster.check().map_err(|error| describe_local(&error))?;
    }
    let measured = result?;
    let kept = cluster.map(LocalCluster::stop).transpose().map_err(|e| describe_local(&e))?;
    if let Some(path) = kept.flatten() {
        eprintln!("data and logs are kept in {}", path.display());
    }
    interrupted(&stop)?;

    warn_of_losses(&measured.run, &workload);
    if let Some((path, file)) = histogram {
        write_histogram(&path, file, &measured.run)?;
    }
    let nodes = if nodes_expected > 0 { nodes_expected } else { measured.nodes };
    let report = report(args, &workload, folder.as_deref(), nodes, floor, measured);
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&report)?,
        false => output.write(report.to_text().as_bytes())?,
    }
    output.flush()?;
    verdict(&report)
}

/// A run in which nothing was acknowledged has failed.
fn verdict(report: &Report) -> Result<(), CliError> {
    let reads_ok = report.reads.as_ref().map_or(0, |reads| reads.ok);
    match report.appends.ok + reads_ok {
        0 => Err(CliError::failed("nothing was acknowledged; see the errors above")),
        _ => Ok(()),
    }
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
    for signal in [SIGINT, SIGTERM] {
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
    eprintln!("measuring the floors in {} …", folder.display());
    let floor = floor::measure(folder, FLOOR_TIME).map_err(|error| {
        CliError::usage(format!("the floors cannot be measured: {error}; see `loggos doctor`"))
    })?;
    if let Some(doubt) = floor.doubt() {
        eprintln!("warning: {doubt}");
    }
    Ok(Some(floor))
}

fn start_cluster(
    args: &BenchArgs,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<LocalCluster, CliError> {
    let executable = std::env::current_exe()
        .map_err(|error| CliError::failed(format!("the own executable is unknown: {error}")))?;
    let nodes = usize::from(args.local);
    let noun = if nodes == 1 { "node" } else { "nodes" };
    eprintln!("starting {nodes} {noun} in {} …", folder.display());
    let parent = folder.to_owned();
    let (groups, keep_data) = (args.groups, args.keep_data);
    let options = LocalOptions { executable, nodes, groups, parent, keep_data };
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
    /// Members, where a node told.
    nodes: usize,
    groups: u16,
    batching: Option<BatchingReport>,
    stages: Option<Vec<StageStatus>>,
    server_cpu_s: Option<f64>,
    server_rss_bytes_max: Option<u64>,
}

fn measure(
    args: &BenchArgs,
    workload: &Workload,
    cluster: Option<&LocalCluster>,
    stop: &Arc<AtomicBool>,
) -> Result<Measured, CliError> {
    let addresses = match cluster {
        Some(cluster) => cluster.addresses(),
        None => args.target.iter().map(ToString::to_string).collect(),
    };
    let options = ClientOptions { operation_timeout: STATUS_TIMEOUT, ..ClientOptions::default() };
    let client = Client::connect(addresses.clone(), options).map_err(|error| {
        let targets = addresses.join(", ");
        CliError::usage(format!("no connection to {targets}: {error}; are the nodes running?"))
    })?;
    let nodes = client.members().map_or(0, |members| members.len());
    let groups = client.group_count().map_err(CliError::failed)?;
    let mut watch = Watch {
        client,
        groups,
        cluster,
        display: Display::new(workload),
        before: None,
        after: None,
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options =
        RunOptions { workload: workload.clone(), addresses, cpus, history: args.history.clone() };
    let run = run_load(&options, &mut watch, stop).map_err(|error| match error {
        RunError::Start(_)
        | RunError::Follow(_)
        | RunError::Connections { .. }
        | RunError::History { .. } => CliError::usage(error),
        _ => CliError::failed(error),
    });
    watch.display.end();
    let run = run?;
    // Of several groups the first one's leader, as an example of them.
    let leader = watch.after.as_ref().and_then(|after| after.leaders.as_ref()?.first());
    let stages = leader.map(|status| status.stages.clone());
    let (batching, server_cpu_s, server_rss_bytes_max) = match (watch.before, watch.after) {
        (Some(before), Some(after)) => (
            before.batching_until(&after),
            before.cpu_s_until(&after),
            after.usage.map(|usage| usage.rss_bytes_max),
        ),
        _ => (None, None, None),
    };
    Ok(Measured { run, nodes, groups, batching, stages, server_cpu_s, server_rss_bytes_max })
}

/// The cluster's counters at one end of the measured phase.
struct Counters {
    /// The leaders' own, by group; none unless all have told.
    leaders: Option<Vec<NodeStatus>>,
    /// Of all nodes.
    usage: Option<Usage>,
}

impl Counters {
    fn batching_until(&self, after: &Counters) -> Option<BatchingReport> {
        let (befores, afters) = (self.leaders.as_ref()?, after.leaders.as_ref()?);
        let mut sum = BatchingStatus::default();
        for (a, b) in befores.iter().zip(afters) {
            // Counters of another node, or of another life of it, do not compare.
            if a.node != b.node || a.resources.process_id != b.resources.process_id {
                return None;
            }
            let (a, b) = (&a.batching, &b.batching);
            sum.slots += b.slots.checked_sub(a.slots)?;
            sum.records += b.records.checked_sub(a.records)?;
            sum.durable_writes += b.durable_writes.checked_sub(a.durable_writes)?;
            sum.log_bytes += b.log_bytes.checked_sub(a.log_bytes)?;
        }
        let BatchingStatus { slots, records, durable_writes, log_bytes } = sum;
        let records_per_slot_mean = if slots > 0 { records as f64 / slots as f64 } else { 0.0 };
        Some(BatchingReport { slots, records_per_slot_mean, durable_writes, log_bytes })
    }

    fn cpu_s_until(&self, after: &Counters) -> Option<f64> {
        let cpu_s = after.usage?.cpu_s - self.usage?.cpu_s;
        // Below zero when a node was started anew meanwhile.
        (cpu_s >= 0.0).then_some(cpu_s)
    }
}

/// Shows the run and reads the cluster's counters at both ends of the measured phase.
struct Watch<'a> {
    client: Client,
    groups: u16,
    cluster: Option<&'a LocalCluster>,
    display: Display,
    before: Option<Counters>,
    after: Option<Counters>,
}

impl Watch<'_> {
    fn counters(&self) -> Counters {
        let groups = (0..self.groups).map(|group| self.client.of_group(GroupId(group)));
        let leaders: Result<Vec<_>, _> = groups.map(|client| client.status()).collect();
        let leaders = leaders.map_err(|error| {
            tracing::warn!(%error, "a leader does not tell its counters");
        });
        let usage = match self.cluster {
            Some(cluster) => Some(cluster.usage()),
            None => self.usage_elsewhere(),
        };
        Counters { leaders: leaders.ok(), usage }
    }

    /// The members' own word on what they use; none unless all of them answer.
    fn usage_elsewhere(&self) -> Option<Usage> {
        let mut usage = Usage::default();
        for (_, address) in self.client.members().ok()? {
            let resources = self.client.status_of(&address).ok()?.resources;
            usage.cpu_s += resources.cpu_us as f64 / 1e6;
            usage.rss_bytes_max = usage.rss_bytes_max.max(resources.rss_bytes_max);
        }
        Some(usage)
    }
}

impl Observer for Watch<'_> {
    fn live(&mut self, live: &Live) {
        self.display.show(live);
    }

    fn measure_begins(&mut self) {
        self.before = Some(self.counters());
    }

    fn measure_ends(&mut self) {
        self.after = Some(self.counters());
    }
}

/// The live line on standard error: one that changes in place on a terminal, else one a second.
struct Display {
    bar: Option<ProgressBar>,
    has_reads: bool,
}

impl Display {
    fn new(workload: &Workload) -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.with_style(style.expect("the template is a constant"))
        });
        Display { bar, has_reads: workload.append_percent < 100 }
    }

    fn show(&mut self, live: &Live) {
        let line = live_line(live, self.has_reads);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => eprintln!("{line}"),
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

fn live_line(live: &Live, has_reads: bool) -> String {
    let phase = if live.elapsed_s <= 0.0 { "warm-up" } else { "" };
    let mut line = format!(
        "{:>6.1} s {phase:<7} {:>10} appends/s {:>8.1} MB/s",
        live.elapsed_s,
        count(live.appends_per_s),
        live.bytes_per_s / 1e6
    );
    if has_reads {
        line.push_str(&format!(" {:>10} reads/s", count(live.reads_per_s)));
    }
    line.push_str(&format!("   p50 {:.0} us   p99 {:.0} us", live.p50_us, live.p99_us));
    if live.lost > 0 {
        line.push_str(&format!("   {} lost", count(live.lost as f64)));
    }
    line
}

fn warn_of_losses(run: &RunResult, workload: &Workload) {
    if run.unsent > 0 {
        eprintln!(
            "the cluster did not keep up with the rate: {} operations that were due were never \
             sent; they count as failed and are in no latency (more --inflight than {} may help)",
            count(run.unsent as f64),
            workload.inflight
        );
    }
    if let Some(error) = &run.first_error {
        eprintln!("the first error met: {error}");
    }
}

fn write_histogram(path: &Path, file: File, run: &RunResult) -> Result<(), CliError> {
    let mut writer = BufWriter::new(file);
    write_interval_log(&mut writer, run.began, &run.intervals)
        .and_then(|()| writer.flush())
        .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
}

fn report(
    args: &BenchArgs,
    workload: &Workload,
    folder: Option<&Path>,
    nodes: usize,
    floor: Option<floor::Floor>,
    measured: Measured,
) -> Report {
    let local = args.target.is_empty();
    let host = probe(folder);
    let groups = usize::from(measured.groups);
    let cluster = ClusterReport { nodes, groups, local, durability: "fsync" };
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.to_owned(),
        host: HostReport {
            kernel: host.kernel,
            cpus: host.cpus,
            cpu_model: host.cpu_model.unwrap_or_else(|| "unknown".to_owned()),
            memory_bytes: host.memory_bytes,
            filesystem: host.filesystem.map(|filesystem| filesystem.kind),
            disk: host.device.map(|device| match device.model {
                Some(model) => format!("{} ({model})", device.name),
                None => device.name,
            }),
        },
        cluster,
        workload: WorkloadReport::from(workload),
        appends: measured.run.appends,
        reads: measured.run.reads,
        batching: measured.batching,
        floor: floor.map(|floor| {
            FloorReport::new(
                floor.durable_write.us_p50,
                floor.round_trip.us_p50,
                floor.durable_bytes_per_s,
                nodes,
            )
        }),
        resources: ResourcesReport {
            server_cpu_s: measured.server_cpu_s,
            server_rss_bytes_max: measured.server_rss_bytes_max,
            loadgen_cpu_s: measured.run.cpu.as_secs_f64(),
        },
        follow: measured.run.follow,
        stages: measured.stages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::NodeStatus;

    fn counters(node: u16, process_id: u32, slots: u64, cpu_s: f64) -> Counters {
        let mut status = NodeStatus { node, ..NodeStatus::default() };
        status.resources.process_id = process_id;
        status.batching.slots = slots;
        status.batching.records = slots * 40;
        status.batching.durable_writes = slots;
        Counters { leaders: Some(vec![status]), usage: Some(Usage { cpu_s, rss_bytes_max: 1 }) }
    }

    #[test]
    fn counters_compare_only_within_one_life_of_one_leader() {
        let before = counters(1, 10, 100, 1.0);
        let batching = before.batching_until(&counters(1, 10, 150, 2.5)).unwrap();
        assert_eq!((batching.slots, batching.durable_writes), (50, 50));
        assert_eq!(batching.records_per_slot_mean, 40.0);
        assert_eq!(before.cpu_s_until(&counters(1, 10, 150, 2.5)), Some(1.5));
        assert!(before.batching_until(&counters(2, 11, 150, 2.5)).is_none());
        assert!(before.batching_until(&counters(1, 12, 150, 2.5)).is_none());
        assert!(before.batching_until(&counters(1, 10, 50, 2.5)).is_none());
        assert_eq!(before.cpu_s_until(&counters(1, 10, 150, 0.5)), None);
    }

    #[test]
    fn the_live_line_says_what_happens() {
        let live = Live {
            elapsed_s: 3.0,
            appends_per_s: 123_456.0,
            bytes_per_s: 31.6e6,
            p50_us: 210.4,
            p99_us: 800.0,
            lost: 5,
            ..Live::default()
        };
        let line = live_line(&live, false);
        assert_eq!(
            line,
            "   3.0 s            123 456 appends/s     31.6 MB/s   p50 210 us   p99 800 us   5 lost"
        );
        let warming = Live { elapsed_s: 0.0, ..live };
        assert!(live_line(&warming, true).contains("warm-up"));
        assert!(live_line(&warming, true).contains("reads/s"));
    }
}
