//! `loggos sim --seed S --shrink`: the smallest command that still fails in the same check.
//!
//! Each candidate runs in a process of its own, so that a panic that ends the process is a failure
//! like any other.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::super::args::SimArgs;
use super::super::error::{CliError, Exit};
use super::super::output::Output;
use super::flags_of;
use crate::sim::Limits;
use crate::sim::shrink::shrink;

/// How a panic is called that left no report.
const PANIC: &str = "panic";

/// Shrinks a failing seed.
///
/// # Errors
/// As a failing seed does, with the smallest command; or when it does not fail.
pub fn shrink_seed(seed: u64, args: &SimArgs, limits: &Limits) -> Result<(), CliError> {
    let Some((check, _)) = run_apart(seed, limits)? else {
        return Err(CliError::usage(format!(
            "seed {seed} does not fail: there is nothing to shrink"
        )));
    };
    let mut broken = None;
    let mut tries = 0;
    let shrunk = shrink(seed, limits, &mut |candidate| {
        tries += 1;
        let result = run_apart(seed, candidate);
        let fails = matches!(&result, Ok(Some((found, _))) if *found == check);
        let word = if fails { "fails" } else { "holds" };
        note!("{tries:>4} {word}:{}", flags_of(candidate));
        broken = broken.take().or(result.err());
        fails
    });
    if let Some(error) = broken {
        return Err(error);
    }
    let Some((_, text)) = run_apart(seed, &shrunk.limits)? else {
        return Err(CliError::failed("the smallest run fails no more: the simulator is not fixed"));
    };
    let command = format!("loggos sim --seed {seed}{}", flags_of(&shrunk.limits));
    let mut out = Output::stdout();
    match args.json {
        true => out.json(&serde_json::json!({ "seed": seed, "check": check, "text": text,
            "tries": shrunk.tries, "command": command }))?,
        false => out.line(&command)?,
    }
    out.flush()?;
    Err(CliError::new(
        Exit::Found,
        format!("seed {seed}, after {} tries: {check}: {text}", shrunk.tries),
    ))
}

/// Runs a seed in another process; returns the check that fails, and what it says.
fn run_apart(seed: u64, limits: &Limits) -> Result<Option<(String, String)>, CliError> {
    let failed = |error: std::io::Error| CliError::failed(format!("running a candidate: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["sim", "--json", "--threads", "1", "--seed", &seed.to_string()]);
    command.args(words(&flags_of(limits)));
    let output = command.stderr(Stdio::null()).output().map_err(failed)?;
    if output.status.success() {
        return Ok(None);
    }
    if output.status.code() != Some(i32::from(Exit::Found.code())) {
        return Err(CliError::failed(format!("a candidate ended with {}", output.status)));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Some(match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(report) => (text(&report["violation"]["check"]), text(&report["violation"]["text"])),
        Err(_) => (PANIC.to_owned(), "the process ended".to_owned()),
    }))
}

/// The words of flags, as a shell would part them: quoted ones are one word.
fn words(flags: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in flags.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::counters::Hit;
    use crate::sim::plan::FaultSet;

    #[test]
    fn flags_are_parted_into_the_words_that_a_shell_makes() {
        let faults = FaultSet::NONE.with(Hit::DiskOldCopy).with(Hit::Kill);
        let limits = Limits { faults, nodes_max: 3, ..Limits::default() };
        let expected = ["--only", "process killed,disk's old copy put back", "--nodes-max", "3"];
        assert_eq!(words(&flags_of(&limits)), expected);
        assert_eq!(words(&flags_of(&Limits::default())), [""; 0]);
        let faults = FaultSet::all().without(Hit::Kill);
        let limits = Limits { faults, ..Limits::default() };
        assert_eq!(words(&flags_of(&limits)), ["--without", "process killed"]);
        let limits = Limits { faults: FaultSet::NONE, ..Limits::default() };
        assert_eq!(words(&flags_of(&limits)), ["--only", "none"]);
    }
}
