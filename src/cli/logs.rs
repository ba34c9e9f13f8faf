//! `loggos log`: the logs of a cluster.

use serde_json::{Value, json};

use super::append::describe;
use super::args::{FenceArgs, LogArgs, LogCommand, LogNameArgs};
use super::error::CliError;
use super::output::Output;
use super::targets::{connect, connect_to_stay};
use crate::base::{DEFAULT_LOG_NAME, FenceToken, LogId};
use crate::client::blocking::Client;
use crate::client::{LogStatus, LogTerms, ReadLevel};

/// A client of the log that the flags name.
///
/// # Errors
/// Exit 3 when there is none.
pub fn select(client: Client, log: &LogNameArgs) -> Result<Client, CliError> {
    if log.name == DEFAULT_LOG_NAME {
        return Ok(client);
    }
    let found = find(&client, &log.name)?;
    Ok(client.of_log(LogId(found.log)))
}

fn find(client: &Client, name: &str) -> Result<LogStatus, CliError> {
    let found = client.find_log(name, ReadLevel::ReadIndex).map_err(CliError::failed)?;
    let missing = || {
        CliError::failed(format!("there is no log {name:?}; `loggos log create {name}` makes one"))
    };
    found.ok_or_else(missing)
}

/// Runs the command.
pub fn run(args: &LogArgs) -> Result<(), CliError> {
    let mut output = Output::stdout();
    match &args.command {
        LogCommand::List { target, json } => {
            let client = connect_to_stay(target)?;
            let logs = client.list_logs(ReadLevel::ReadIndex).map_err(CliError::failed)?;
            print(&mut output, &logs, *json)?;
        }
        LogCommand::Create { name, target, record_bytes_max } => {
            let terms = LogTerms { name: name.clone(), record_bytes_max: *record_bytes_max };
            if let Some(fault) = terms.fault() {
                return Err(CliError::usage(fault));
            }
            let created = connect(target)?.create_log(&terms);
            let log = created.map_err(|error| CliError::operation(&error))?;
            output.set_effect(format!("there is a log {name:?} now"));
            output.line(&log.to_string())?;
        }
        LogCommand::Show { name, target, json } => {
            let found = find(&connect_to_stay(target)?, name)?;
            print(&mut output, &[found], *json)?;
        }
        LogCommand::Fence(args) => fence(&mut output, args)?,
        LogCommand::Delete { name, target } => {
            let client = connect(target)?;
            let found = find(&client, name)?;
            let deleted = client.delete_log(LogId(found.log));
            deleted.map_err(|error| CliError::operation(&error))?;
        }
    }
    output.flush()
}

/// One log. A fence that was never raised is null.
fn to_json(log: &LogStatus) -> Result<Value, CliError> {
    let mut value = serde_json::to_value(log).map_err(CliError::failed)?;
    if log.fence == 0 {
        value["fence"] = Value::Null;
    }
    Ok(value)
}

/// Raises the fence of a log, and prints its tail from then on.
fn fence(output: &mut Output, args: &FenceArgs) -> Result<(), CliError> {
    let client = select(connect(&args.target)?, &args.log)?;
    let token = FenceToken(args.token);
    let tail = client.fence(token).map_err(|error| describe(&error))?;
    output.set_effect(format!("the log has taken the token {token}"));
    if args.json {
        let name = &args.log.name;
        return output.json(&json!({
            "log": client.log().0, "name": name, "tail": tail.0, "fence": token.0,
        }));
    }
    output.line(&tail.to_string())
}

fn print(output: &mut Output, logs: &[LogStatus], as_json: bool) -> Result<(), CliError> {
    if as_json {
        for log in logs {
            output.json(&to_json(log)?)?;
        }
        return Ok(());
    }
    output.line(&format!("{:>8}  {:>16}  {:>12}  name", "log", "next position", "fence"))?;
    for LogStatus { log, name, tail, fence, .. } in logs {
        let fence = if *fence == 0 { "-".to_owned() } else { fence.to_string() };
        output.line(&format!("{log:>8}  {tail:>16}  {fence:>12}  {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_that_was_never_raised_is_null() {
        let log = |fence| LogStatus { log: 3, fence, ..LogStatus::default() };
        assert_eq!(to_json(&log(0)).unwrap()["fence"], Value::Null);
        assert_eq!(to_json(&log(7)).unwrap()["fence"], 7);
    }
}
