//! `loggos sim`: seeds to worlds, a progress bar, a summary of what was hit; stops at the first
//! violation with everything that is needed to replay it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args::SimArgs;
use super::error::{CliError, Exit};
use super::output::Output;
use crate::sim::counters::{Hit, HitKind};
use crate::sim::plan::FaultSet;
use crate::sim::{Finding, Limits, Report, Summary, campaign};

mod hunt;
mod shrink;

/// Seeds of a campaign when nothing else is said.
const RUNS_DEFAULT: u64 = 100;
/// From so many runs on, what was never hit is worth a report.
const RUNS_ENOUGH: u64 = 1000;

/// What `--only` takes for no fault at all.
const NO_FAULT: &str = "none";

/// Runs the command.
pub fn run(args: &SimArgs) -> Result<(), CliError> {
    if args.explore {
        return super::explore::run(args);
    }
    let limits = limits(args)?;
    if args.mutants {
        return hunt::hunt_mutants(args, &limits);
    }
    if args.shrink {
        let seed = args.seed.ok_or_else(|| CliError::usage("--shrink needs the --seed"))?;
        return shrink::shrink_seed(seed, args, &limits);
    }
    let first = args.seed.unwrap_or_else(seed_of_clock);
    let runs = args.runs.unwrap_or(if args.seed.is_some() { 1 } else { RUNS_DEFAULT });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores);
    report_panics();
    let bar = progress_bar(runs, first);
    let began = Instant::now();
    let summary = campaign(first, runs, threads, &limits, &|summary| {
        bar.set_position(summary.runs);
        bar.set_message(format!("{:.0} virtual s", summary.virtual_s));
    });
    bar.finish_and_clear();
    let real_s = began.elapsed().as_secs_f64();
    let mut out = Output::stdout();
    if args.json {
        out.json(&json_of(&summary, first, real_s))?;
    } else {
        out.write(text_of(&summary, first, real_s, threads).as_bytes())?;
    }
    out.flush()?;
    match &summary.failure {
        None => Ok(()),
        Some(report) => Err(fail(report, args, &limits)),
    }
}

fn seed_of_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() * 1_000_000
}

fn limits(args: &SimArgs) -> Result<Limits, CliError> {
    let mut limits = Limits::default();
    if !args.only.is_empty() {
        limits.faults = FaultSet::NONE;
        for name in args.only.iter().filter(|name| *name != NO_FAULT) {
            limits.faults = limits.faults.with(fault_of(name)?);
        }
    }
    for name in &args.without {
        limits.faults = limits.faults.without(fault_of(name)?);
    }
    let at_least_one = |value: Option<usize>, default| value.unwrap_or(default).max(1);
    limits.nodes_max = at_least_one(args.nodes_max, limits.nodes_max);
    limits.clients_max = at_least_one(args.clients_max, limits.clients_max);
    limits.operations_max = args.operations_max.unwrap_or(limits.operations_max);
    limits.strikes_max = args.strikes_max.unwrap_or(limits.strikes_max);
    if !args.mutants {
        limits.mutant = match hunt::mutants_of(args)?.as_slice() {
            [] => None,
            [mutant] => Some(*mutant),
            _ => {
                return Err(CliError::usage(
                    "one bug is planted at a time, or --mutants hunts all",
                ));
            }
        };
    }
    Ok(limits)
}

fn fault_of(name: &str) -> Result<Hit, CliError> {
    let named = Hit::ALL.iter().find(|hit| hit.name() == name && hit.kind() == HitKind::Fault);
    named.copied().ok_or_else(|| CliError::usage(format!("{name:?} is no fault's name")))
}

/// A panic that is caught becomes a violation; where panics end the process, at least the seed
/// is told.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match crate::sim::run::running() {
            Some(seed) if cfg!(panic = "abort") => {
                note!("loggos: seed {seed} panics: {info}\nreplay: loggos sim --seed {seed}");
                super::stderr::flush();
                std::process::exit(i32::from(Exit::Found.code()));
            }
            // The violation tells of it.
            Some(seed) => tracing::error!(seed, "{info}"),
            None => before(info),
        }
    }));
}

fn progress_bar(runs: u64, first: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(runs), super::stderr::progress_target());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {msg}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.println(format!("seeds {first} to {}", first.wrapping_add(runs.saturating_sub(1))));
    bar
}

fn text_of(summary: &Summary, first: u64, real_s: f64, threads: usize) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} seeds from {first}: {:.0} virtual s in {real_s:.1} s on {threads} threads \
         ({:.2} s per 10 virtual s and core), {} happenings, {} operations, {} slots",
        summary.runs,
        summary.virtual_s,
        real_s * threads as f64 / summary.virtual_s.max(1e-9) * 10.0,
        summary.happenings,
        summary.operations,
        summary.slots,
    );
    for (kind, title) in
        [(HitKind::Fault, "faults"), (HitKind::Branch, "branches"), (HitKind::Check, "checks")]
    {
        let _ = writeln!(text, "{title}:");
        for hit in Hit::ALL.iter().filter(|hit| hit.kind() == kind) {
            let _ = writeln!(text, "  {:>12}  {}", summary.hits.get(*hit), hit.name());
        }
    }
    let _ = writeln!(text, "disks:");
    for (name, count) in summary.hits.disk() {
        let _ = writeln!(text, "  {count:>12}  {name}");
    }
    let _ = writeln!(text, "slowest progress after healing: {:.1} s", summary.slowest_progress_s);
    if summary.runs >= RUNS_ENOUGH {
        let missed: Vec<&str> = summary.hits.never_hit().collect();
        let _ = writeln!(text, "never hit: {}", missed.join(", "));
    }
    text
}

fn json_of(summary: &Summary, first: u64, real_s: f64) -> Value {
    let hits: serde_json::Map<String, Value> = Hit::ALL
        .iter()
        .map(|hit| (hit.name().to_owned(), json!(summary.hits.get(*hit))))
        .chain(summary.hits.disk().map(|(name, count)| (name.to_owned(), json!(count))))
        .collect();
    let never_hit: Vec<&str> = summary.hits.never_hit().collect();
    let failure = summary.failure.as_ref().and_then(|report| {
        let finding = report.violation.as_ref()?;
        Some(json!({ "seed": report.seed, "check": finding.violation.check,
            "text": finding.violation.text }))
    });
    json!({ "first_seed": first, "runs": summary.runs, "virtual_s": summary.virtual_s,
        "real_s": real_s, "happenings": summary.happenings, "operations": summary.operations,
        "slots": summary.slots, "worlds_by_nodes": summary.worlds, "hits": hits,
        "never_hit": never_hit, "slowest_progress_s": summary.slowest_progress_s,
        "violation": failure })
}

/// Tells everything about a violation.
fn fail(report: &Report, args: &SimArgs, limits: &Limits) -> CliError {
    let Some(Finding { violation, last, history }) = &report.violation else {
        return CliError::failed("a failed run has a violation");
    };
    let seed = report.seed;
    note!("\n{:#?}", report.plan);
    for (host, lines) in last {
        let index = usize::from(host.0);
        match index < report.plan.nodes {
            true => note!("last of node {}:\n{lines}", index + 1),
            false => note!("last of client {}:\n{lines}", index - report.plan.nodes + 1),
        }
    }
    let path = args
        .history
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("loggos-sim-{seed}.jsonl")));
    match write_history(history, &path) {
        Ok(()) => note!("history: {}", path.display()),
        Err(error) => note!("history: {}: {error}", path.display()),
    }
    note!("trace hash: {:016x}, after {} happenings", report.trace_hash, report.happenings);
    note!("replay: loggos sim --seed {seed}{}", flags_of(limits));
    CliError::new(Exit::Found, format!("seed {seed} at {}: {violation}", report.virtual_time))
}

fn write_history(history: &crate::sim::history::History, path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    history.write(&mut file)?;
    std::io::Write::flush(&mut file)
}

/// The flags that ask for these limits.
fn flags_of(limits: &Limits) -> String {
    let default = Limits::default();
    let names = |set: FaultSet| {
        let names: Vec<&str> = set.iter().map(Hit::name).collect();
        if names.is_empty() { NO_FAULT.to_owned() } else { names.join(",") }
    };
    let left_out =
        limits.faults.iter().fold(FaultSet::all(), |left_out, hit| left_out.without(hit));
    let mut flags = String::new();
    if left_out.iter().count() > limits.faults.iter().count() {
        flags.push_str(&format!(" --only {:?}", names(limits.faults)));
    } else if left_out != FaultSet::NONE {
        flags.push_str(&format!(" --without {:?}", names(left_out)));
    }
    let numbers = [
        ("nodes-max", limits.nodes_max as u64, default.nodes_max as u64),
        ("clients-max", limits.clients_max as u64, default.clients_max as u64),
        ("operations-max", limits.operations_max, default.operations_max),
        ("strikes-max", limits.strikes_max, default.strikes_max),
    ];
    for (name, value, _) in numbers.into_iter().filter(|(_, value, default)| value != default) {
        flags.push_str(&format!(" --{name} {value}"));
    }
    if let Some(mutant) = limits.mutant {
        flags.push_str(&format!(" --mutant {}", mutant.name()));
    }
    flags
}
