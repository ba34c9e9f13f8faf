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
use crate::sim::{Finding, Limits, Report, Summary, campaign};

/// Seeds of a campaign when nothing else is said.
const RUNS_DEFAULT: u64 = 100;
/// From so many runs on, what was never hit is worth a report.
const RUNS_ENOUGH: u64 = 1000;

/// Runs the command.
pub fn run(args: &SimArgs) -> Result<(), CliError> {
    if args.explore {
        return super::explore::run(args);
    }
    let limits = limits(args)?;
    if args.mutants {
        return hunt_mutants(args, &limits);
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
        Some(report) => Err(fail(report, args)),
    }
}

#[cfg(not(feature = "mutants"))]
fn hunt_mutants(_: &SimArgs, _: &Limits) -> Result<(), CliError> {
    Err(CliError::usage(
        "no bugs are planted in this build: run `cargo run --features mutants -- sim --mutants`",
    ))
}

#[cfg(feature = "mutants")]
fn hunt_mutants(args: &SimArgs, limits: &Limits) -> Result<(), CliError> {
    use crate::base::mutants::Mutant;
    use crate::sim::mutants::{Hunt, hunt_all};

    let named = |name: &String| {
        Mutant::of_name(name).ok_or_else(|| CliError::usage(format!("{name:?} is no planted bug")))
    };
    let mutants = match args.mutant.is_empty() {
        true => Mutant::ALL.to_vec(),
        false => args.mutant.iter().map(named).collect::<Result<_, _>>()?,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).min(mutants.len());
    let first = args.seed.unwrap_or(1);
    report_panics();
    let line = |hunt: &Hunt| match &hunt.caught {
        Some((seed, text)) => {
            let text: String = text.chars().take(90).collect();
            format!(
                "caught    {:<34} after {:>4} seeds ({seed}): {text}",
                hunt.mutant.name(),
                hunt.seeds
            )
        }
        None => format!(
            "SURVIVED  {:<34} {} seeds, {} wrong decisions",
            hunt.mutant.name(),
            hunt.seeds,
            hunt.decisions
        ),
    };
    let bar = ProgressBar::new(mutants.len() as u64);
    let hunts = hunt_all(&mutants, first, args.budget, threads, limits, &|hunt| {
        bar.suspend(|| eprintln!("{}", line(hunt)));
        bar.inc(1);
    });
    bar.finish_and_clear();
    let mut out = Output::stdout();
    for hunt in &hunts {
        match args.json {
            true => {
                out.json(&json!({ "mutant": hunt.mutant.name(), "family": hunt.mutant.family(),
                "seeds": hunt.seeds, "decisions": hunt.decisions,
                "seed": hunt.caught.as_ref().map(|(seed, _)| seed),
                "found": hunt.caught.as_ref().map(|(_, text)| text) }))?
            }
            false => out.line(&line(hunt))?,
        }
    }
    out.flush()?;
    let survived = hunts.iter().filter(|hunt| hunt.caught.is_none()).count();
    match survived {
        0 => Ok(()),
        _ => Err(CliError::new(
            Exit::Found,
            format!("{survived} of {} planted bugs survived {} seeds", hunts.len(), args.budget),
        )),
    }
}

fn seed_of_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() * 1_000_000
}

fn limits(args: &SimArgs) -> Result<Limits, CliError> {
    let mut limits = Limits::default();
    for name in &args.without {
        let named = Hit::ALL.iter().find(|hit| hit.name() == name && hit.kind() == HitKind::Fault);
        let hit = named.ok_or_else(|| CliError::usage(format!("{name:?} is no fault's name")))?;
        limits.faults = limits.faults.without(*hit);
    }
    let at_least_one = |value: Option<usize>, default| value.unwrap_or(default).max(1);
    limits.nodes_max = at_least_one(args.nodes_max, limits.nodes_max);
    limits.clients_max = at_least_one(args.clients_max, limits.clients_max);
    limits.operations_max = args.operations_max.unwrap_or(limits.operations_max);
    limits.strikes_max = args.strikes_max.unwrap_or(limits.strikes_max);
    Ok(limits)
}

/// A panic that is caught becomes a violation; where panics end the process, at least the seed
/// is told.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match crate::sim::run::running() {
            Some(seed) if cfg!(panic = "abort") => {
                eprintln!("loggos: seed {seed} panics: {info}\nreplay: loggos sim --seed {seed}");
                std::process::exit(i32::from(Exit::Found.code()));
            }
            // The violation tells of it.
            Some(seed) => tracing::error!(seed, "{info}"),
            None => before(info),
        }
    }));
}

fn progress_bar(runs: u64, first: u64) -> ProgressBar {
    let bar = ProgressBar::new(runs);
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
fn fail(report: &Report, args: &SimArgs) -> CliError {
    let Some(Finding { violation, last, history }) = &report.violation else {
        return CliError::failed("a failed run has a violation");
    };
    let seed = report.seed;
    eprintln!("\n{:#?}", report.plan);
    for (host, lines) in last {
        let index = usize::from(host.0);
        match index < report.plan.nodes {
            true => eprintln!("last of node {}:\n{lines}", index + 1),
            false => eprintln!("last of client {}:\n{lines}", index - report.plan.nodes + 1),
        }
    }
    let path = args
        .history
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("loggos-sim-{seed}.jsonl")));
    match write_history(history, &path) {
        Ok(()) => eprintln!("history: {}", path.display()),
        Err(error) => eprintln!("history: {}: {error}", path.display()),
    }
    eprintln!("trace hash: {:016x}, after {} happenings", report.trace_hash, report.happenings);
    eprintln!("replay: loggos sim --seed {seed}{}", replay_flags(args));
    CliError::new(Exit::Found, format!("seed {seed} at {}: {violation}", report.virtual_time))
}

fn write_history(history: &crate::sim::history::History, path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    history.write(&mut file)?;
    std::io::Write::flush(&mut file)
}

fn replay_flags(args: &SimArgs) -> String {
    let mut flags = String::new();
    if !args.without.is_empty() {
        flags.push_str(&format!(" --without {:?}", args.without.join(",")));
    }
    let numbers = [
        ("nodes-max", args.nodes_max.map(|value| value as u64)),
        ("clients-max", args.clients_max.map(|value| value as u64)),
        ("operations-max", args.operations_max),
        ("strikes-max", args.strikes_max),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            flags.push_str(&format!(" --{name} {value}"));
        }
    }
    flags
}
