//! Measures Loggos and keeps the figures: see README.md beside Cargo.toml.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod bench;
mod compare;
mod error;
mod failover;
mod history;
mod host;
mod markdown;
mod matrix;
#[cfg(feature = "peers")]
mod peers;
mod plots;
mod process;
mod record;
mod report;
mod runs;

use args::{Cli, Command};
use error::Error;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::from(error.exit())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Matrix(args) => matrix::run(&args, &host::watch_signals()?),
        #[cfg(feature = "peers")]
        Command::Peers(args) => peers::run(&args, &host::watch_signals()?),
        #[cfg(not(feature = "peers"))]
        Command::Peers(_) => {
            Err(Error::Usage("built without the peers' clients (feature `peers`)".to_owned()))
        }
        Command::Failover(args) => failover::run(&args, &host::watch_signals()?),
        Command::Compare(args) => compare::run(&args),
        Command::Plot(args) => report::regenerate(&args.dir),
    }
}
