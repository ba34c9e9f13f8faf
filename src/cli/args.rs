//! The flags of every command, with their help, units and defaults; turned into validated options.
//!
//! Called by [`super::main`]. Nothing here touches the disk or the network. The command line as a
//! whole is here, and what several commands share; the flags of each are with their like.

mod bench;
mod client;
mod node;
mod sim;

pub use bench::{BenchArgs, BenchRole, JanitorArgs, ListenArgs};
pub use client::{
    AppendArgs, FILE_BYTES_MAX, FenceArgs, InitArgs, LeadArgs, LogArgs, LogCommand, LogNameArgs,
    ReadArgs, StatusArgs, TailArgs, TargetArgs,
};
pub use node::{DoctorArgs, FormatArgs, InspectArgs, ServeArgs};
pub use sim::SimArgs;

use std::time::Duration;

use clap::{Parser, Subcommand};

use super::error::Exit;

/// The exit codes as `loggos --help` lists them.
fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, name, meaning) in Exit::ALL {
        text.push_str(&format!("  {}  {name:<8} {meaning}\n", exit.code()));
    }
    text.push_str(
        "\nA closed pipe on standard output ends a command that only reads with 0 (`loggos read | head`), \
         and one that has\nchanged something with 4. Nothing of the input is dropped with 0.\n",
    );
    text.push_str(
        "\nEnvironment:\n  LOGGOS_LOG  what to log to standard error, as \
         tracing's filters (default: warn; for serve: info), e.g. LOGGOS_LOG=debug\n\n\
         Examples:\n  loggos bench\n  loggos bench --target 10.0.0.1:7400,10.0.0.2:7400 --json\n  \
         loggos doctor --data /var/lib/loggos\n",
    );
    text
}

/// A replicated log: Multi-Paxos on io_uring, durable on a quorum before it answers.
#[derive(Debug, Parser)]
#[command(name = "loggos", version, after_help = exit_codes(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures a cluster under load: an embedded one, or the one at --target
    Bench(Box<BenchArgs>),
    /// Makes a node's data directory
    Format(FormatArgs),
    /// Founds a cluster once all of its members run; repeating it is safe
    Init(InitArgs),
    /// Runs a node
    Serve(ServeArgs),
    /// Appends standard input, a record a line, and prints the positions
    Append(AppendArgs),
    /// Prints records
    Read(ReadArgs),
    /// Prints the next position to be given out, linearizable
    Tail(TailArgs),
    /// Lists, creates, describes and deletes the logs of a cluster
    Log(LogArgs),
    /// Shows the members of a cluster and how they are
    Status(StatusArgs),
    /// Transfers the leadership to a node
    #[command(name = "transfer-leader", alias = "lead")]
    Lead(LeadArgs),
    /// Reads a stopped node's log and verifies every checksum
    Inspect(InspectArgs),
    /// Shows what this host offers, what it costs, and what to change
    Doctor(DoctorArgs),
    /// Runs simulated clusters with every fault, from seeds, and checks what must hold
    Sim(SimArgs),
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.trim_end_matches('s').parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a length of time".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number < f64::INFINITY => Ok(number),
        _ => Err("not a number above 0".to_owned()),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text.parse().map_err(|_| "not a whole number of milliseconds")?;
    match number {
        1..=3_600_000 => Ok(Duration::from_millis(number)),
        _ => Err("give 1 to 3600000 ms".to_owned()),
    }
}

/// The most that is filled ahead, in bytes: 1 TiB.
const PREALLOCATE_BYTES_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    pub(super) fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_tree_is_sound_and_every_flag_has_help() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let named = format!("{} {}", command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{named} has no help");
            }
        }
        let help = Cli::command().render_help().to_string();
        for (exit, name, _) in Exit::ALL {
            assert!(help.contains(&format!("  {}  {name}", exit.code())), "{help}");
        }
    }

    #[test]
    fn former_names_still_work() {
        for line in
            ["loggos lead --node 2 --target a:1", "loggos transfer-leader --to 2 --target a:1"]
        {
            let Ok(Command::Lead(args)) = parse(line) else { panic!("{line}") };
            assert_eq!(args.node, 2);
        }
        for flag in ["--fill-ahead-bytes", "--preallocate-bytes"] {
            let Ok(Command::Serve(args)) = parse(&format!("loggos serve --data d {flag} 7")) else {
                panic!("{flag}")
            };
            assert_eq!(args.fill_ahead_bytes, Some(7));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for line in [
            "loggos bench --local 0",
            "loggos bench --local 16",
            "loggos bench --local 3 --target a:1",
            "loggos bench --null --target a:1",
            "loggos bench --null --preallocate-bytes 1",
            "loggos bench --null --groups 2",
            "loggos bench --agents a:1",
            "loggos bench --agents a:1 --target b:1 --follow 1",
            "loggos bench --inflight 1,many",
            "loggos bench --duration -1",
            "loggos bench --duration soon",
            "loggos bench --target nowhere",
            "loggos serve",
            "loggos serve --data d --election-timeout 0",
            "loggos serve --data d --log-sync never",
            "loggos format --data d --cluster c --node 0 --members 1=a:1",
            "loggos format --data d --cluster c --node 1 --members 1=a:1 --groups 0",
            "loggos format --data d --cluster c --node 1 --members 1=a:1 --groups 65",
            "loggos bench --groups 2 --target a:1",
            "loggos read",
            "loggos transfer-leader --target a:1",
            "loggos",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
