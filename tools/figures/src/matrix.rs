//! `figures matrix`: which settings are run, in which order.
//!
//! Not the full product of sizes and depths: for each cluster size the depths at 256 B, the record
//! sizes at 256 in flight, and three open-loop rates below the knee, the throughput at 256 in
//! flight. What two sweeps have in common is run once.

use crate::args::MatrixArgs;
use crate::error::Error;
use crate::history;
use crate::host::{self, MEASURED_S_MIN, Stop};
use crate::record::{Kind, Meta, Results, Run};
use crate::report;
use crate::runs::{Load, Runner, Settings};

/// The record size of the depth sweep and of the rates.
pub const BASE_BYTES: usize = 256;
/// The depth of the size sweep, and where the knee is measured.
pub const BASE_DEPTH: usize = 256;

const NODES: [usize; 4] = [1, 3, 5, 7];
const DEPTHS: [usize; 7] = [1, 4, 16, 64, 256, 1024, 4096];
const SIZES: [usize; 6] = [64, 256, 1024, 4096, 16384, 65536];
const RATES: [u32; 3] = [50, 80, 95];

const QUICK_NODES: [usize; 2] = [1, 3];
const QUICK_DEPTHS: [usize; 3] = [1, 256, 4096];
const QUICK_SIZES: [usize; 2] = [256, 16384];
const QUICK_RATES: [u32; 1] = [80];

/// What is run, before rates are known.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    nodes: Vec<usize>,
    /// Record size and depth of each closed-loop run, the same for each cluster size.
    closed: Vec<(usize, usize)>,
    /// Percent of the knee.
    rates: Vec<u32>,
    only: Vec<String>,
    duration_s: f64,
    warmup_s: f64,
}

impl Plan {
    fn new(args: &MatrixArgs) -> Result<Plan, Error> {
        let quick = args.quick;
        let pick =
            |full: &[usize], part: &[usize]| if quick { part.to_vec() } else { full.to_vec() };
        let nodes = match args.nodes.as_slice() {
            [] => pick(&NODES, &QUICK_NODES),
            given if given.iter().all(|n| (1..=15).contains(n)) => given.to_vec(),
            _ => return Err(Error::Usage("--nodes takes cluster sizes from 1 to 15".to_owned())),
        };
        let depths = pick(&DEPTHS, &QUICK_DEPTHS);
        let sizes = pick(&SIZES, &QUICK_SIZES);
        let mut closed: Vec<_> = depths.into_iter().map(|depth| (BASE_BYTES, depth)).collect();
        let others = sizes.into_iter().filter(|&size| size != BASE_BYTES);
        closed.extend(others.map(|size| (size, BASE_DEPTH)));
        let plan = Plan {
            nodes,
            closed,
            rates: if quick { QUICK_RATES.to_vec() } else { RATES.to_vec() },
            only: args.only.clone(),
            duration_s: args.duration.unwrap_or(if quick { 1.0 } else { 10.0 }),
            warmup_s: args.warmup.unwrap_or(if quick { 0.5 } else { 2.0 }),
        };
        // Here, not after an hour.
        let nobody = plan.only.iter().find(|only| !plan.all().any(|s| chosen_by(only, &s)));
        match nobody {
            Some(only) => Err(Error::Usage(format!(
                "--only {only} chooses nothing; `depth`, `size`, `rates`, or the beginning of a \
                 name such as n3-b256-d64, n3-b4096-d256, n3-b256-rate80"
            ))),
            None => Ok(plan),
        }
    }

    fn settings(&self, nodes: usize, record_bytes: usize, load: Load) -> Settings {
        let (duration_s, warmup_s) = (self.duration_s, self.warmup_s);
        Settings { nodes, record_bytes, load, duration_s, warmup_s, floor: true }
    }

    fn closed(&self, nodes: usize) -> impl Iterator<Item = Settings> {
        self.closed.iter().map(move |&(size, depth)| self.settings(nodes, size, Load::Depth(depth)))
    }

    fn rates(&self, nodes: usize, knee_per_s: f64) -> impl Iterator<Item = Settings> {
        self.rates.iter().map(move |&percent| {
            let per_s = (knee_per_s * f64::from(percent) / 100.0).max(1.0);
            self.settings(nodes, BASE_BYTES, Load::Rate { percent, per_s })
        })
    }

    fn all(&self) -> impl Iterator<Item = Settings> {
        self.nodes.iter().flat_map(|&n| self.closed(n).chain(self.rates(n, 1.0)))
    }

    fn is_chosen(&self, settings: &Settings) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| chosen_by(only, settings))
    }

    fn rates_are_chosen(&self, nodes: usize) -> bool {
        self.rates(nodes, 1.0).any(|settings| self.is_chosen(&settings))
    }

    /// The closed-loop runs of one cluster size, with the knee where a rate needs it.
    fn chosen_closed(&self, nodes: usize) -> Vec<Settings> {
        let needs_knee = self.rates_are_chosen(nodes);
        self.closed(nodes).filter(|s| self.is_chosen(s) || (needs_knee && is_knee(s))).collect()
    }
}

fn is_knee(settings: &Settings) -> bool {
    settings.record_bytes == BASE_BYTES && settings.load == Load::Depth(BASE_DEPTH)
}

fn chosen_by(only: &str, settings: &Settings) -> bool {
    let closed = matches!(settings.load, Load::Depth(_));
    match only {
        "depth" => closed && settings.record_bytes == BASE_BYTES,
        "size" => settings.load == Load::Depth(BASE_DEPTH),
        "rates" => !closed,
        // To the end of a part: d1 does not choose d16.
        beginning => settings
            .name()
            .strip_prefix(beginning)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-')),
    }
}

/// Runs the matrix and writes its report.
pub fn run(args: &MatrixArgs, stop: &Stop) -> Result<(), Error> {
    let plan = Plan::new(args)?;
    let loggos = host::loggos(&args.output)?;
    let smoke = args.quick || plan.duration_s < MEASURED_S_MIN;
    let root = host::results_root(&args.output, smoke);
    let data = host::data_folder(&args.output)?;
    let results = Results::create(&root, &args.output.host_name, &args.topic)?;
    let meta = Meta {
        kind: Kind::Matrix,
        command: command_line(args),
        commit: host::commit(),
        started: host::now(),
        host_name: args.output.host_name.clone(),
        smoke,
        notes: Vec::new(),
    };
    results.write_meta(&meta)?;
    let runner = Runner {
        loggos,
        data: data.path().to_owned(),
        raw: results.raw(),
        preallocate_bytes: args.quick.then_some(0),
        stop: stop.clone(),
    };
    let ran = run_all(&plan, args.repeat, &runner, &results, &meta);
    // What was measured before a failure is worth a report, too.
    let reported = report::regenerate(&results.dir);
    ran?;
    reported?;
    println!("{}", host::from_repository(&results.dir).join("README.md").display());
    Ok(())
}

fn run_all(
    plan: &Plan,
    repeats: u32,
    runner: &Runner,
    results: &Results,
    meta: &Meta,
) -> Result<(), Error> {
    // Known from the first pass on, so that all passes run at the same rates.
    let mut knees: Vec<Option<f64>> = vec![None; plan.nodes.len()];
    for repeat in 1..=repeats {
        for (&nodes, knee) in plan.nodes.iter().zip(&mut knees) {
            let keep = |settings: &Settings| -> Result<Run, Error> {
                runner.stop.check()?;
                let run = runner.run(settings, repeat)?;
                history::append(&results.root, meta, &results.dir, &run)?;
                eprintln!("{}", progress(&run));
                Ok(run)
            };
            for settings in plan.chosen_closed(nodes) {
                let run = keep(&settings)?;
                if is_knee(&settings) {
                    knee.get_or_insert(run.bench.appends.per_s);
                }
            }
            let Some(knee_per_s) = *knee else { continue };
            for settings in plan.rates(nodes, knee_per_s).filter(|s| plan.is_chosen(s)) {
                keep(&settings)?;
            }
        }
    }
    Ok(())
}

/// A line for a run that is done, and its remarks below it.
pub fn progress(run: &Run) -> String {
    let remarks: String = run.record.remarks.iter().map(|r| format!("\n    {r}")).collect();
    let f = run.bench.figures();
    let lost = if f.lost > 0.0 { format!("  {} LOST", f.lost) } else { String::new() };
    format!(
        "{:<17} {:<18} {:>9.0}/s {:>7.1} MB/s  p50 {:>9.1} us  p99 {:>9.1} us{lost}{remarks}",
        run.record.system, run.record.name, f.per_s, f.mb_per_s, f.p50_us, f.p99_us
    )
}

fn command_line(args: &MatrixArgs) -> String {
    let mut line = format!("figures matrix --host-name {}", args.output.host_name);
    let mut flag = |name: &str, value: String| line.push_str(&format!(" --{name} {value}"));
    if args.quick {
        flag("quick", String::new());
    }
    if !args.only.is_empty() {
        flag("only", args.only.join(","));
    }
    if !args.nodes.is_empty() {
        flag("nodes", args.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    if args.repeat > 1 {
        flag("repeat", args.repeat.to_string());
    }
    for (name, value) in [("duration", args.duration), ("warmup", args.warmup)] {
        if let Some(value) = value {
            flag(name, value.to_string());
        }
    }
    flag("topic", args.topic.clone());
    line.push_str(&host::path_flags(&args.output));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn plan(flags: &[&str]) -> Result<Plan, Error> {
        let cli = Cli::try_parse_from(["figures", "matrix"].iter().chain(flags)).unwrap();
        let Command::Matrix(args) = cli.command else { panic!("another command") };
        Plan::new(&args)
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.all().filter(|s| plan.is_chosen(s)).map(|s| s.name()).collect()
    }

    #[test]
    fn what_two_sweeps_have_in_common_is_run_once() {
        let names = names(&plan(&[]).unwrap());
        assert_eq!(names.len(), 4 * (7 + 5 + 3));
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn only_chooses_sweeps_and_beginnings_of_names() {
        assert_eq!(names(&plan(&["--only", "n3-b256-d1"]).unwrap()), ["n3-b256-d1"]);
        assert_eq!(names(&plan(&["--only", "n3", "--quick"]).unwrap()).len(), 5);
        assert_eq!(names(&plan(&["--only", "size,rates", "--nodes", "5"]).unwrap()).len(), 6 + 3);
        let error = plan(&["--only", "n3,nonsense"]).unwrap_err().to_string();
        assert!(error.contains("nonsense"), "{error}");
        assert!(plan(&["--nodes", "16"]).is_err());
    }

    #[test]
    fn rates_bring_their_knee_along() {
        let plan = plan(&["--only", "rates", "--nodes", "3"]).unwrap();
        let closed: Vec<_> = plan.chosen_closed(3).iter().map(Settings::name).collect();
        assert_eq!(closed, ["n3-b256-d256"]);
        let rates: Vec<_> = plan.rates(3, 1000.0).map(|s| s.load).collect();
        assert_eq!(rates[2], Load::Rate { percent: 95, per_s: 950.0 });
    }
}
