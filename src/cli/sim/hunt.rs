//! `loggos sim --mutants`: hunts each planted bug with seed after seed, and says which survive.

use super::super::args::SimArgs;
use super::super::error::CliError;
use crate::base::mutants::Mutant;
use crate::sim::Limits;

const NOT_PLANTED: &str = "no bugs are planted in this build: run \
    `cargo run --profile hunt --features mutants -- sim --mutants`";

/// The bugs that are named.
pub fn mutants_of(args: &SimArgs) -> Result<Vec<Mutant>, CliError> {
    if !cfg!(feature = "mutants") && !args.mutant.is_empty() {
        return Err(CliError::usage(NOT_PLANTED));
    }
    let named = |name: &String| {
        Mutant::of_name(name).ok_or_else(|| CliError::usage(format!("{name:?} is no planted bug")))
    };
    args.mutant.iter().map(named).collect()
}

/// Refuses: nothing is planted in this build.
#[cfg(not(feature = "mutants"))]
pub fn hunt_mutants(_: &SimArgs, _: &Limits) -> Result<(), CliError> {
    Err(CliError::usage(NOT_PLANTED))
}

/// Hunts the planted bugs.
///
/// # Errors
/// When one survives.
#[cfg(feature = "mutants")]
pub fn hunt_mutants(args: &SimArgs, limits: &Limits) -> Result<(), CliError> {
    use indicatif::ProgressBar;
    use serde_json::json;

    use super::super::error::Exit;
    use super::super::output::Output;
    use crate::sim::mutants::{Catch, hunt_all};

    let mutants = match args.mutant.is_empty() {
        true => hunted(),
        false => mutants_of(args)?,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).min(mutants.len());
    let first = args.seed.unwrap_or(1);
    super::report_panics();
    let target = super::super::stderr::progress_target();
    let bar = ProgressBar::with_draw_target(Some(mutants.len() as u64), target);
    let hunts = hunt_all(&mutants, first, args.budget, threads, limits, &|hunt| {
        bar.suspend(|| note!("{}", line(hunt)));
        bar.inc(1);
    });
    bar.finish_and_clear();
    let mut out = Output::stdout();
    for hunt in &hunts {
        let (by, seed, worlds, found) = match &hunt.caught {
            None => (None, None, None, None),
            Some(Catch::Seed(seed, text)) => (Some("seed"), Some(seed), None, Some(text)),
            Some(Catch::Explorer(worlds, text)) => {
                (Some("explorer"), None, Some(worlds), Some(text))
            }
        };
        match args.json {
            true => {
                out.json(&json!({ "mutant": hunt.mutant.name(), "family": hunt.mutant.family(),
                "seeds": hunt.seeds, "decisions": hunt.decisions,
                "by": by, "seed": seed, "worlds": worlds, "found": found }))?
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

/// All but those that are left to tests, which are named.
#[cfg(feature = "mutants")]
fn hunted() -> Vec<Mutant> {
    let is_hunted = |mutant: &Mutant| match crate::sim::mutants::left_to_test(*mutant) {
        None => true,
        Some(test) => {
            note!("left to `cargo test --features mutants {test}`: {}", mutant.name());
            false
        }
    };
    Mutant::ALL.iter().copied().filter(is_hunted).collect()
}

#[cfg(feature = "mutants")]
fn line(hunt: &crate::sim::mutants::Hunt) -> String {
    use crate::sim::mutants::Catch;

    let name = hunt.mutant.name();
    let short = |text: &str| text.chars().take(90).collect::<String>().replace('\n', " ");
    match &hunt.caught {
        Some(Catch::Seed(seed, text)) => {
            format!("caught    {name:<34} after {:>4} seeds ({seed}): {}", hunt.seeds, short(text))
        }
        Some(Catch::Explorer(worlds, text)) => {
            format!("explored  {name:<34} after {worlds:>4} worlds: {}", short(text))
        }
        None => {
            format!("SURVIVED  {name:<34} {} seeds, {} wrong decisions", hunt.seeds, hunt.decisions)
        }
    }
}
