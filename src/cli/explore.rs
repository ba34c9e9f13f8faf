//! `loggos sim --explore`: every reachable state of the small worlds of `sim::explore`, within
//! the full bounds, world after world; stops at the first violation with its schedule.

use std::time::Instant;

use indicatif::ProgressBar;
use serde_json::json;

use super::args::SimArgs;
use super::error::{CliError, Exit};
use super::output::Output;
use super::stderr::progress_target;
use crate::sim::explore::{Bounds, Report, explore};

/// Runs the exploration.
pub fn run(args: &SimArgs) -> Result<(), CliError> {
    let mut out = Output::stdout();
    let mut worlds = Bounds::full();
    worlds.retain(|(name, _)| name.contains(&args.worlds));
    if worlds.is_empty() {
        return Err(CliError::usage(format!("no world's name contains {:?}", args.worlds)));
    }
    let count = worlds.len();
    for (index, (name, bounds)) in worlds.into_iter().enumerate() {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(progress_target());
        bar.set_message(format!("{} of {count}: {name}", index + 1));
        let began = Instant::now();
        let report = explore(&bounds, &mut |progress| {
            bar.tick();
            bar.set_message(format!(
                "{} of {count}: {name}: {} worlds, {} to look at, depth {}",
                index + 1,
                progress.worlds,
                progress.waiting,
                progress.depth
            ));
        });
        bar.finish_and_clear();
        let seconds = began.elapsed().as_secs_f64();
        match args.json {
            true => out.json(&json_of(name, &report, seconds))?,
            false => out.line(&format!("{name} ({seconds:.0} s)\n  {report}"))?,
        }
        out.flush()?;
        if report.violation.is_some() {
            return Err(CliError::new(Exit::Found, format!("{name}: a violation")));
        }
        if !report.complete {
            let why = "it has more worlds than its bound allows: nothing is shown";
            return Err(CliError::failed(format!("{name}: {why}")));
        }
    }
    Ok(())
}

fn json_of(name: &str, report: &Report, seconds: f64) -> serde_json::Value {
    let [one, two] = report.worlds_chosen;
    json!({
        "name": name,
        "complete": report.complete,
        "worlds": report.worlds,
        "worlds_one_chosen": one,
        "worlds_two_chosen": two,
        "steps": report.steps,
        "combinations": report.combinations,
        "replica_states": report.replica_states,
        "messages": report.messages,
        "depth": report.depth,
        "seconds": seconds,
        "violation": report.violation.as_ref().map(|violation| json!({
            "what": violation.what,
            "schedule": violation.schedule,
        })),
    })
}
