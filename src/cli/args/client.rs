//! The flags of what speaks to a running cluster: `loggos append`, `read`, `log`, `tail`, `status` and
//! `lead`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::error::CliError;
use super::super::members::HostPort;
use super::seconds;
use crate::base::limits::RECORD_BYTES_MAX;
use crate::base::{DEFAULT_LOG_NAME, Position};
use crate::loadgen::workload::ReadLevel;

/// Where a cluster is.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// Nodes of the cluster, HOST:PORT with commas between; one that answers is enough
    #[arg(long, value_name = "HOST:PORT,…", required = true, value_delimiter = ',')]
    pub target: Vec<HostPort>,
    /// How long an operation may take, retries included, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
}

/// Which log of the cluster.
#[derive(Clone, Debug, Args)]
pub struct LogNameArgs {
    /// The log, by name
    #[arg(long = "log", value_name = "NAME", default_value = DEFAULT_LOG_NAME)]
    pub name: String,
}
const APPEND_EXAMPLES: &str = "Examples:
  printf 'one\\ntwo\\n' | loggos append --target 127.0.0.1:7400
  loggos append --target 127.0.0.1:7400 --file photo.jpg

Records are appended in their order, many at a time; a position is printed once its record is
durable on a quorum. Exit 3 when the records after the last position printed were not appended, 4
when that is unknown, or when positions could not be printed (the message says what was appended).";

/// `loggos append`.
#[derive(Debug, Args)]
#[command(after_help = APPEND_EXAMPLES)]
pub struct AppendArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// Append only if this is the next position, and then only right behind the records before;
    /// exit 3 otherwise
    #[arg(long, value_name = "P")]
    pub if_tail: Option<u64>,
    /// Show this fencing token with each append (`loggos log fence` raises it without one): the log takes it unless it has taken a higher one, and from then
    /// on refuses those who show a lower one, or none
    #[arg(long, value_name = "TOKEN", value_parser = clap::value_parser!(u64).range(1..))]
    pub fence: Option<u64>,
    /// Append the whole of FILE as one record (at most 1048576 bytes) [default: standard input,
    /// a record a line]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print one JSON object for each append, a line each: {"log":0,"name":"default","first":7,"count":2}
    /// [default: a position a line]
    #[arg(long)]
    pub json: bool,
}

/// The largest file that `--file` takes in bytes.
pub const FILE_BYTES_MAX: u64 = RECORD_BYTES_MAX as u64;

const READ_EXAMPLES: &str = "Examples:
  loggos read --target 127.0.0.1:7400 --from 0 --to 100
  loggos read --target 127.0.0.1:7400 --from 0 --follow --json

With --json, one object a line: {\"position\":7,\"value\":\"text\"}; bytes that are not UTF-8 come as
{\"position\":7,\"value_hex\":\"ff00\"}.";

/// `loggos read`.
#[derive(Debug, Args)]
#[command(after_help = READ_EXAMPLES)]
pub struct ReadArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// The first position
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub from: u64,
    /// The position to stop before [default: the end of the log]
    #[arg(long, value_name = "Q")]
    pub to: Option<u64>,
    /// Keep printing what is appended, until --to or for ever
    #[arg(long)]
    pub follow: bool,
    /// How fresh the answer must be; `local` may be stale
    #[arg(long, value_enum, default_value_t = ReadLevel::ReadIndex)]
    pub level: ReadLevel,
    /// Print positions too, one JSON object a line [default: the bare records, one a line]
    #[arg(long)]
    pub json: bool,
}

impl ReadArgs {
    /// The range `[from, to)`.
    ///
    /// # Errors
    /// Exit 2 when it ends before it begins.
    pub fn range(&self) -> Result<(Position, Option<Position>), CliError> {
        match self.to {
            Some(to) if to < self.from => Err(CliError::usage(format!(
                "--to {to} is before --from {}; give a range",
                self.from
            ))),
            to => Ok((Position(self.from), to.map(Position))),
        }
    }
}

const LOG_EXAMPLES: &str = "Examples:
  loggos log create orders --target 127.0.0.1:7400
  printf 'one\\ntwo\\n' | loggos append --log orders --target 127.0.0.1:7400
  loggos log list --json --target 127.0.0.1:7400";

/// `loggos log`.
#[derive(Debug, Args)]
#[command(after_help = LOG_EXAMPLES)]
pub struct LogArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LogCommand,
}

/// What `loggos log` does.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Prints every log: number, name, next position, fencing token
    List {
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Creates a log and prints its number; one that is there already is left as it is
    Create {
        /// Its name: letters, digits, `.`, `-`, `_`, and `/` between its parts
        name: String,
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
        /// The largest record that it takes, in bytes, up to 1048576
        #[arg(long, value_name = "BYTES", default_value_t = RECORD_BYTES_MAX as u32)]
        record_bytes_max: u32,
    },
    /// Prints one log; exit 3 when there is none of that name
    Show {
        /// Its name
        name: String,
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Raises a log's fencing token without a record, and prints its next position: from then on the log
    /// refuses appends that show a lower token, or none. Exit 3 when it has taken a higher one
    Fence(FenceArgs),
    /// Deletes a log with all of its records; exit 3 when there is none of that name
    Delete {
        /// Its name
        name: String,
        /// The cluster.
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// `loggos log fence`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  loggos log fence --log orders --token 7 --target 127.0.0.1:7400"
)]
pub struct FenceArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// The token, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub token: u64,
    /// Print a JSON object: {"log":1,"name":"orders","tail":5,"fence":7}
    #[arg(long)]
    pub json: bool,
}

/// `loggos tail`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos tail --target 127.0.0.1:7400")]
pub struct TailArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogNameArgs,
    /// How fresh the answer must be; `local` may be stale
    #[arg(long, value_enum, default_value_t = ReadLevel::ReadIndex)]
    pub level: ReadLevel,
    /// Print a JSON object: {"log":0,"name":"default","first":0,"tail":7} [default: the position]
    #[arg(long)]
    pub json: bool,
}

/// `loggos status`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos status --target 127.0.0.1:7400 --json")]
pub struct StatusArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print where the time of a slot goes on each node, in microseconds since it started
    #[arg(long)]
    pub stages: bool,
    /// Print one JSON object, stages included [default: a table]
    #[arg(long)]
    pub json: bool,
}

const LEAD_EXAMPLES: &str = "Example:
  loggos transfer-leader --to 2 --target 127.0.0.1:7400

The leader goes on until the node has everything, holds new appends back for a few round trips, and
tells the node to take over; no append fails by it. It refuses when the node is not connected or too
far behind. A leader hands over by itself, after a while, to a node with a higher --priority (serve).";

const INIT_EXAMPLES: &str =
    "Every member must be formatted with the same list, and run. The command prints the
cluster's id; repeated, it prints the same.

Example:
  loggos init --target 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400";

/// `loggos init`.
#[derive(Debug, Args)]
#[command(after_help = INIT_EXAMPLES)]
pub struct InitArgs {
    /// The members; the first that answers founds the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// `loggos transfer-leader`, formerly `loggos lead`.
#[derive(Debug, Args)]
#[command(after_help = LEAD_EXAMPLES)]
pub struct LeadArgs {
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The node that is to lead
    #[arg(long = "to", alias = "node", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// In this group, from 0 [default: in every group]
    #[arg(long, value_name = "G")]
    pub group: Option<u16>,
    /// Print one JSON object for each group, a line each, instead of text
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::super::super::error::Exit;
    use super::super::Command;
    use super::super::tests::parse;

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        let Ok(Command::Read(args)) = parse("loggos read --target a:1 --from 5 --to 4") else {
            panic!()
        };
        assert_eq!(args.range().unwrap_err().exit, Exit::Usage);
    }
}
