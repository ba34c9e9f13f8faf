//! `loggos log`: the logs of a cluster.

use super::append::{connect, connect_to_stay};
use super::args::{LogArgs, LogCommand, LogNameArgs};
use super::error::CliError;
use super::output::Output;
use crate::base::{DEFAULT_LOG_NAME, LogId};
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
        LogCommand::Delete { name, target } => {
            let client = connect(target)?;
            let found = find(&client, name)?;
            let deleted = client.delete_log(LogId(found.log));
            deleted.map_err(|error| CliError::operation(&error))?;
        }
    }
    output.flush()
}

fn print(output: &mut Output, logs: &[LogStatus], as_json: bool) -> Result<(), CliError> {
    if as_json {
        for log in logs {
            let log = serde_json::to_value(log).map_err(CliError::failed)?;
            output.json(&log)?;
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
