//! `loggos bench null` and `loggos bench agent`: parts of a bench that run until they are ended.
//!
//! Says on standard output where it listens, in one line, so that whoever started it can read it.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;

use super::super::args::{JanitorArgs, ListenArgs};
use super::super::error::CliError;
use super::super::follow_parent;
use super::super::output::Output;
use crate::loadgen::null::NullServer;
use crate::loadgen::null::process::LISTENING;
use crate::loadgen::{agents, scratch};

/// Runs a null server until the process is ended.
pub fn null(args: &ListenArgs) -> Result<(), CliError> {
    let listener = listen(args)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // The other half is the load generator's, where they share the host.
    let server = NullServer::start(listener, (cpus / 2).max(1)).map_err(|error| {
        CliError::failed(format!("the null server's threads cannot be started: {error}"))
    })?;
    say_address(server.address())?;
    server.wait();
    Err(CliError::failed("the null server has ended"))
}

/// Takes part in the benches of other hosts until the process is ended.
pub fn agent(args: &ListenArgs) -> Result<(), CliError> {
    let listener = listen(args)?;
    super::permit_files(0);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let address = listener.local_addr().map_err(CliError::failed)?;
    say_address(address)?;
    agents::serve(&listener, cpus, &AtomicBool::new(false), |line| note!("{line}"))
        .map_err(|error| CliError::failed(format!("--listen {}: {error}", args.listen)))
}

/// Removes what a killed bench leaves.
pub fn janitor(args: &JanitorArgs) -> Result<(), CliError> {
    scratch::watch(&args.folder, std::io::stdin(), scratch::REMOVE_MAX).map_err(CliError::failed)
}

fn listen(args: &ListenArgs) -> Result<TcpListener, CliError> {
    if let Some(parent) = args.exit_with_parent {
        follow_parent(parent)?;
    }
    TcpListener::bind(&args.listen)
        .map_err(|error| CliError::usage(format!("--listen {}: {error}", args.listen)))
}

fn say_address(address: std::net::SocketAddr) -> Result<(), CliError> {
    let mut output = Output::stdout();
    output.line(&format!("{LISTENING}{address}"))?;
    output.flush()
}
