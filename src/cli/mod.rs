//! The command line: flags to options to run. Called by `main` only.
//!
//! Every command ends in an [`Exit`] code; what is wrong stands in one line on standard error.
//! Results go to standard output, progress and logs to standard error.

#[macro_use]
mod stderr;

mod append;
mod args;
mod bench;
mod doctor;
pub mod error;
mod explore;
mod format;
mod init;
mod inspect;
mod lead;
mod listen;
mod logs;
pub mod members;
pub mod options;
mod output;
mod read;
mod serve;
mod sim;
mod status;
mod targets;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, ServeArgs};
use error::{CliError, Exit};

/// The environment variable that says what to log.
const LOG_VARIABLE: &str = "LOGGOS_LOG";

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    stderr::report_panics();
    let code = run_command_line();
    stderr::flush();
    code
}

fn run_command_line() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let default = match cli.command {
        Command::Serve(_) => "info",
        // What simulated nodes warn of is what they are put through.
        Command::Sim(_) => "off",
        _ => "warn",
    };
    let result = init_logging(default).and_then(|()| run(cli.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError { exit, message }) => {
            if !message.is_empty() {
                note!("loggos: {message}");
            }
            ExitCode::from(exit.code())
        }
    }
}

/// Help and version go to standard output; anything else is wrong flags.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked_for {
        let text = error.render();
        let text = match io::stderr().is_terminal() {
            true => text.ansi().to_string(),
            false => text.to_string(),
        };
        note!("{}", text.trim_end());
        return ExitCode::from(Exit::Usage.code());
    }
    match error.print() {
        Ok(()) => ExitCode::SUCCESS,
        // `loggos --help | head` has shown enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            note!("loggos: standard output: {error}");
            ExitCode::from(Exit::Failed.code())
        }
    }
}

fn init_logging(default: &str) -> Result<(), CliError> {
    let text = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        CliError::usage(format!("{LOG_VARIABLE}={text} is no filter: {error}; try `info`"))
    })?;
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr::LogWriter);
    let subscriber = subscriber.with_ansi(io::stderr().is_terminal());
    subscriber.with_target(false).try_init().map_err(CliError::failed)
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Bench(args) => bench::run(&args),
        Command::Format(args) => format::run(&args.options()?),
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => run_serve(args),
        Command::Append(args) => append::run(&args),
        Command::Read(args) => read::run(&args),
        Command::Tail(args) => read::tail(&args),
        Command::Log(args) => logs::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Lead(args) => lead::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sim(args) => sim::run(&args),
    }
}

fn run_serve(args: ServeArgs) -> Result<(), CliError> {
    if let Some(parent) = args.exit_with_parent {
        follow_parent(parent)?;
    }
    serve::run(&args.options()?)
}

/// Has the kernel kill this process when its parent ends, however that happens.
fn follow_parent(parent: u32) -> Result<(), CliError> {
    let cannot = |error| CliError::failed(format!("cannot follow the parent process: {error}"));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(cannot)?;
    // The parent may have ended before the line above: then somebody else is the parent now.
    let now = getppid().map(Pid::as_raw_nonzero).map_or(0, |pid| pid.get());
    match u32::try_from(now) {
        Ok(now) if now == parent => Ok(()),
        _ => Err(CliError::failed(format!("the parent process {parent} has ended"))),
    }
}
