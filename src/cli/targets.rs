//! Connecting to the cluster that `--target` names.
//!
//! Used by every command that is a client. A failure says what is wrong with the flag, and nothing has
//! happened then.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::args::TargetArgs;
use super::error::CliError;
use super::members::HostPort;
use crate::client::blocking::Client;
use crate::client::{ClientError, ClientOptions};

/// Connects to the cluster that the flags name.
///
/// # Errors
/// Exit 2 when no node can be reached or all refuse.
pub fn connect(args: &TargetArgs) -> Result<Client, CliError> {
    connect_with(args, ClientOptions::default())
}

/// As [`connect`], also where the cluster is not founded yet.
pub fn connect_to_blank(args: &TargetArgs) -> Result<Client, CliError> {
    // Whoever is asked to found the cluster is silent until every member has answered it.
    let stall_timeout = args.timeout;
    let options = ClientOptions { allow_blank: true, stall_timeout, ..ClientOptions::default() };
    connect_with(args, options)
}

/// As [`connect`], but stays with the nodes that the flags name: their replicas are read.
pub fn connect_to_stay(args: &TargetArgs) -> Result<Client, CliError> {
    connect_with(args, ClientOptions { stay: true, ..ClientOptions::default() })
}

fn connect_with(args: &TargetArgs, options: ClientOptions) -> Result<Client, CliError> {
    look_up(&args.target, args.timeout)?;
    let targets = args.target.iter().map(ToString::to_string);
    let operation_timeout = args.timeout;
    let options = ClientOptions { operation_timeout, ..options };
    Client::connect(targets, options).map_err(|error| unreachable_targets(args, &error))
}

fn unreachable_targets(args: &TargetArgs, error: &ClientError) -> CliError {
    let targets: Vec<_> = args.target.iter().map(ToString::to_string).collect();
    CliError::usage(format!(
        "no connection to {}: {error}; are the nodes running, and is --target right?",
        targets.join(", ")
    ))
}

/// Fails when no target's name can be resolved. The client would try for as long as it may, since names
/// of a cluster come and go; in a command's flag such a name is a slip. A resolver that does not answer
/// in time is left to the client.
///
/// # Errors
/// Exit 2, with the resolver's words on each target.
pub fn look_up(targets: &[HostPort], timeout: Duration) -> Result<(), CliError> {
    let (answer, answers) = mpsc::channel();
    let owned = targets.to_vec();
    // The thread may outlive this call: a look-up cannot be ended.
    let asks = move || {
        let found = owned.iter().map(|target| target.resolve_all().map(drop));
        found.take_while(|found| answer.send(found.clone()).is_ok()).for_each(drop);
    };
    let thread = std::thread::Builder::new().name("loggos-targets".to_owned()).spawn(asks);
    thread.map_err(|error| CliError::failed(format!("cannot start a thread: {error}")))?;
    let deadline = Instant::now() + timeout;
    let mut failures = Vec::new();
    loop {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Err(error)) => failures.push(error.to_string()),
            Ok(Ok(())) | Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CliError::usage(format!(
                    "{}; is --target right?",
                    failures.join("; ")
                )));
            }
        }
    }
}
