//! `figures peers`: other replicated systems beside Loggos, on the same machine in one invocation.
//!
//! Loggos is measured before and after each of them, so that a ratio is of one stretch of time and
//! the two Loggos runs around a peer show what the machine's mood was worth. All write to the same
//! disk; all are three nodes on loopback; all connections go to the leader.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;

use crate::args::{PeerName, PeersArgs};
use crate::bench::{BenchReport, ClusterReport, OperationsReport, ResourcesReport, WorkloadReport};
use crate::error::Error;
use crate::history;
use crate::host::{self, MEASURED_S_MIN, Stop};
use crate::matrix::progress;
use crate::plots::write_histogram;
use crate::process::cpu_s;
use crate::record::{Kind, Meta, Results, Run, RunRecord, closed_name};
use crate::runs::{Load as LoggosLoad, Runner, Settings, connections};

mod drive;
mod etcd;
mod nats;
mod process;
pub mod report;
mod zookeeper;

use drive::{Load, Target, Usage, drive};
use process::{Service, cpu_s_of};

/// Members of every cluster.
const NODES: usize = 3;
/// Depth and record size of each run, in the order in which they are made.
const SHAPES: [(usize, usize); 4] = [(256, 256), (4096, 256), (256, 16384), (1, 256)];
/// A fresh cluster is loaded for at most so long before anything is measured: a JVM compiles its
/// code meanwhile.
const HEAT_MAX: Duration = Duration::from_secs(10);

/// What a reader must know of a system.
#[derive(Clone, Debug)]
struct About {
    /// Its name in results.
    system: String,
    version: String,
    /// What an acknowledgement means, in a word or two for the tables.
    durability: String,
    /// The settings, those of durability first.
    settings: String,
}

/// A system that is not installed.
#[derive(Clone, Copy, Debug)]
struct Missing {
    what: &'static str,
    /// The Debian package that has it.
    package: &'static str,
}

/// What a system is started in.
#[derive(Clone, Debug)]
struct Context {
    /// Its own, for data and logs.
    folder: PathBuf,
    stop: Stop,
}

/// A running cluster of another system; dropping it ends its processes.
trait Peer: Sized {
    type Client: Target;
    /// Starts it and waits until it serves.
    async fn start(context: &Context) -> Result<Self, Error>;
    fn about(&self) -> &About;
    fn services(&self) -> &[Service];
    /// So many connections, each of its own, to the leader.
    async fn connect(&self, connections: usize) -> Result<Vec<Self::Client>, Error>;
}

/// What is measured, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Etcd,
    ZooKeeper,
    Nats,
    NatsSyncAlways,
}

/// Everything that a peer's measurement needs.
struct Session<'a> {
    args: &'a PeersArgs,
    stop: &'a Stop,
    results: Results,
    meta: Meta,
    data: &'a Path,
    warmup: Duration,
}

/// Measures what `args` names and writes the report.
pub fn run(args: &PeersArgs, stop: &Stop) -> Result<(), Error> {
    let loggos = host::loggos(&args.output)?;
    // Declared before everything that runs in it, so that it is removed last.
    let data = host::data_folder(&args.output)?;
    let mut notes = Vec::new();
    let (variants, missing) = choose(args, data.path(), &mut notes);
    let ahead = match args.preallocate_bytes {
        Some(bytes) => format!("{bytes} bytes"),
        None => "as much as an idle node fills by itself (1 GiB, where the disk has room)".to_owned(),
    };
    notes.push(format!(
        "each node of Loggos began with {ahead} of log filled with zeros ahead; the others have no such \
         setting, and began as always"
    ));
    if variants.is_empty() {
        return Err(Error::Usage("nothing to measure; see above for what to install".to_owned()));
    }
    let smoke = args.duration < MEASURED_S_MIN;
    let root = host::results_root(&args.output, smoke);
    let results = Results::create(&root, &args.output.host_name, "peers")?;
    let warmup = args.warmup.unwrap_or_else(|| (args.duration / 5.0).max(1.0));
    let meta = Meta {
        kind: Kind::Peers,
        command: command_line(args),
        commit: host::commit(),
        started: host::now(),
        host_name: args.output.host_name.clone(),
        smoke,
        notes,
    };
    let runner = Runner {
        loggos,
        data: data.path().to_owned(),
        raw: results.raw(),
        preallocate_bytes: args.preallocate_bytes,
        stop: stop.clone(),
    };
    let warmup = Duration::from_secs_f64(warmup);
    let mut session = Session { args, stop, results, meta, data: data.path(), warmup };
    let measured = session.measure_all(&variants, &runner);
    // What was measured before a failure is worth a report, too.
    let reported = session.report();
    measured?;
    reported?;
    match missing {
        true => Err(Error::Failed("a peer named by --only is not installed".to_owned())),
        false => Ok(()),
    }
}

/// What can be measured here, with a note for what cannot; and whether --only named such a one.
fn choose(args: &PeersArgs, data: &Path, notes: &mut Vec<String>) -> (Vec<Variant>, bool) {
    let mut variants = Vec::new();
    let mut missing_named = false;
    let candidates = [
        (PeerName::Etcd, Variant::Etcd, etcd::available()),
        (PeerName::Zookeeper, Variant::ZooKeeper, zookeeper::available()),
        (PeerName::Nats, Variant::Nats, nats::available()),
    ];
    for (name, variant, available) in candidates {
        if !args.only.is_empty() && !args.only.contains(&name) {
            continue;
        }
        match available {
            Ok(()) => variants.push(variant),
            Err(Missing { what, package }) => {
                let install = format!("apt-get install -y --no-install-recommends {package}");
                eprintln!("skipping {what}, which is not installed: {install}");
                notes.push(format!("{what} was not installed (Debian package {package})"));
                missing_named |= !args.only.is_empty();
            }
        }
    }
    if variants.contains(&Variant::Nats) {
        match nats::can_sync_always(data) {
            Ok(()) => variants.push(Variant::NatsSyncAlways),
            Err(version) => {
                let note = format!(
                    "NATS cannot be measured with `sync_interval: always`: the installed server \
                     ({version}) does not know it, so only its default is here, which \
                     acknowledges before a flush"
                );
                eprintln!("{note}");
                notes.push(note);
            }
        }
    }
    (variants, missing_named)
}

impl Session<'_> {
    fn measure_all(&mut self, variants: &[Variant], runner: &Runner) -> Result<(), Error> {
        self.results.write_meta(&self.meta)?;
        // Services are started on this thread and die with it: see process.rs.
        let runtime = Runtime::new().map_err(Error::system("the runtime of the clients"))?;
        let host = self.loggos(runner, 1)?;
        let mut failed = Vec::new();
        for (index, &variant) in variants.iter().enumerate() {
            let turn = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let measured = runtime.block_on(async {
                match variant {
                    Variant::Etcd => self.peer::<etcd::Etcd>(turn, &host).await,
                    Variant::ZooKeeper => self.peer::<zookeeper::ZooKeeper>(turn, &host).await,
                    Variant::Nats => self.peer::<nats::Nats>(turn, &host).await,
                    Variant::NatsSyncAlways => self.peer::<nats::NatsSyncAlways>(turn, &host).await,
                }
            });
            match measured {
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                // The others are worth measuring still.
                Err(error) => {
                    eprintln!("{variant:?}: {error}");
                    self.note(format!("{variant:?} failed: {error}"))?;
                    failed.push(format!("{variant:?}"));
                }
                Ok(()) => {}
            }
            self.loggos(runner, turn + 1)?;
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Error::Failed(format!("not measured to the end: {}", failed.join(", ")))),
        }
    }

    fn note(&mut self, note: String) -> Result<(), Error> {
        self.meta.notes.push(note);
        self.results.write_meta(&self.meta)
    }

    /// One pass of Loggos over all shapes; gives its last report, for what it says of the machine.
    fn loggos(&self, runner: &Runner, pass: u32) -> Result<BenchReport, Error> {
        let mut last = None;
        for (depth, record_bytes) in SHAPES {
            self.stop.check()?;
            let settings = Settings {
                nodes: NODES,
                record_bytes,
                load: LoggosLoad::Depth(depth),
                duration_s: self.args.duration,
                warmup_s: self.warmup.as_secs_f64(),
                // Once a pass: a lone append is what the floor is for.
                floor: depth == 1,
            };
            let run = runner.run(&settings, pass)?;
            self.keep(&run)?;
            last = Some(run.bench);
        }
        last.ok_or_else(|| Error::Failed("no shapes to run".to_owned()))
    }

    fn keep(&self, run: &Run) -> Result<(), Error> {
        eprintln!("{}", progress(run));
        history::append(&self.results.root, &self.meta, &self.results.dir, run)
    }

    async fn peer<P: Peer>(&mut self, turn: u32, like: &BenchReport) -> Result<(), Error> {
        let folder = self.data.join(format!("peer-{turn}"));
        std::fs::create_dir_all(&folder).map_err(Error::at(&folder))?;
        let context = Context { folder, stop: self.stop.clone() };
        let mut peer = P::start(&context).await?;
        let about = peer.about().clone();
        eprintln!("{} runs: {}", about.system, about.version);
        self.note(format!(
            "**{}** {}, {}: {}. First of its servers: `{}`",
            about.system,
            about.version,
            about.durability,
            about.settings,
            peer.services().first().map_or("", |service| service.command.as_str())
        ))?;
        let measured = self.shapes(&mut peer, turn, like).await;
        drop(peer);
        // Not needed any more, and the next one may need the room.
        std::fs::remove_dir_all(&context.folder).map_err(Error::at(&context.folder))?;
        measured
    }

    async fn shapes<P: Peer>(
        &self,
        peer: &mut P,
        turn: u32,
        like: &BenchReport,
    ) -> Result<(), Error> {
        let duration = Duration::from_secs_f64(self.args.duration);
        let (depth, record_bytes) = SHAPES[0];
        let heat =
            Load { depth, record_bytes, warmup: Duration::ZERO, duration: duration.min(HEAT_MAX) };
        drive(&peer.connect(connections(depth)).await?, &heat, self.stop, Usage::default).await?;
        for (depth, record_bytes) in SHAPES {
            let load = Load { depth, record_bytes, warmup: self.warmup, duration };
            let run = self.shape(peer, &load, turn, like).await?;
            self.keep(&run)?;
        }
        Ok(())
    }

    async fn shape<P: Peer>(
        &self,
        peer: &P,
        load: &Load,
        turn: u32,
        like: &BenchReport,
    ) -> Result<Run, Error> {
        let about = peer.about();
        let clients = peer.connect(connections(load.depth)).await?;
        let started = host::now();
        let measured = drive(&clients, load, self.stop, || Usage {
            servers_s: cpu_s_of(peer.services()),
            own_s: cpu_s(std::process::id()),
        })
        .await?;
        let name = closed_name(NODES, load.record_bytes, load.depth);
        let histogram = format!("{}-{name}-r{turn}.hlog", about.system);
        let raw = self.results.raw();
        let seconds = load.duration.as_secs_f64();
        let (usage, operations) = (measured.usage, measured.operations);
        write_histogram(&raw.join(&histogram), &measured.histogram, measured.began, seconds)?;
        let report = report_of(about, load, clients.len(), operations, usage, like);
        let first_error = measured.first_error.map(|e| format!("the first error met: {e}"));
        let commands: Vec<_> = peer.services().iter().map(|s| s.command.as_str()).collect();
        let record = RunRecord {
            system: about.system.clone(),
            name,
            repeat: turn,
            started,
            command: commands.join(" & "),
            histogram: Some(histogram),
            remarks: first_error.into_iter().collect(),
            report: json!(report),
        };
        record.write(&raw)?;
        Run::new(record, &raw)
    }

    fn report(&self) -> Result<(), Error> {
        crate::report::regenerate(&self.results.dir)?;
        let path = self.results.dir.join("README.md");
        print!("{}", std::fs::read_to_string(&path).map_err(Error::at(&path))?);
        println!("\n{}", host::from_repository(&path).display());
        Ok(())
    }
}

/// A measurement in the shape of `loggos bench --json`; `like` tells of the machine.
fn report_of(
    about: &About,
    load: &Load,
    connections: usize,
    operations: OperationsReport,
    usage: Usage,
    like: &BenchReport,
) -> BenchReport {
    BenchReport {
        version: about.version.clone(),
        commit: String::new(),
        host: like.host.clone(),
        cluster: ClusterReport {
            nodes: NODES,
            durability: about.durability.clone(),
            groups: None,
            preallocate_bytes: None,
        },
        workload: WorkloadReport {
            connections,
            inflight: load.depth / connections,
            record_bytes: load.record_bytes,
            duration_s: load.duration.as_secs_f64(),
            warmup_s: load.warmup.as_secs_f64(),
            rate_per_s: None,
        },
        appends: operations,
        floor: None,
        resources: ResourcesReport {
            server_cpu_s: Some(usage.servers_s),
            loadgen_cpu_s: Some(usage.own_s),
            server_cpu_us_per_append: None,
            loadgen_cpu_us_per_op: None,
        },
    }
}

fn command_line(args: &PeersArgs) -> String {
    let mut line =
        format!("figures peers --host-name {} --duration {}", args.output.host_name, args.duration);
    if let Some(warmup) = args.warmup {
        line.push_str(&format!(" --warmup {warmup}"));
    }
    if !args.only.is_empty() {
        let names: Vec<_> =
            args.only.iter().map(|name| format!("{name:?}").to_lowercase()).collect();
        line.push_str(&format!(" --only {}", names.join(",")));
    }
    if let Some(bytes) = args.preallocate_bytes {
        line.push_str(&format!(" --preallocate-bytes {bytes}"));
    }
    line + &host::path_flags(&args.output)
}
