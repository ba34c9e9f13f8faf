//! The flags of what is done on a node's own host: `loggos format`, `serve`, `inspect` and `doctor`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::error::CliError;
use super::super::members::{HostPort, MemberList};
use super::super::options::{
    FormatOptions, LogSync, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    ServeOptions,
};
use super::{PREALLOCATE_BYTES_MAX, milliseconds};
use crate::base::NodeId;
use crate::base::limits::GROUPS_MAX;
#[cfg(feature = "mutants")]
use crate::base::mutants::Mutant;
use crate::uring::UringOptions;

const FORMAT_EXAMPLES: &str = "Example, for the first of three nodes:
  loggos format --data /var/lib/loggos --cluster orders --node 1 \\
      --members 1=10.0.0.1:7400,2=10.0.0.2:7400,3=10.0.0.3:7400";

/// `loggos format`.
#[derive(Debug, Args)]
#[command(after_help = FORMAT_EXAMPLES)]
pub struct FormatArgs {
    /// The directory to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The cluster's name, the same on every node: letters, digits, `.`, `-`, `_`
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// This node's number among the members
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// All members and where they are reached, the same on every node
    #[arg(long, value_name = "1=HOST:PORT,…")]
    pub members: MemberList,
    /// Groups, up to 64, the same on every node: each has its own log, leader and thread, and some
    /// of the logs; never changed afterwards
    #[arg(long, value_name = "G", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=GROUPS_MAX as i64))]
    pub groups: u16,
    /// Size of a log segment in bytes, a multiple of 4096
    #[arg(long, value_name = "BYTES", default_value_t = SEGMENT_BYTES_DEFAULT,
          value_parser = clap::value_parser!(u64).range(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX))]
    pub segment_bytes: u64,
    /// Fill so many bytes of log with zeros ahead, in whole segments: until they are used up, large
    /// writes get the disk's whole bandwidth
    #[arg(long, value_name = "BYTES", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=PREALLOCATE_BYTES_MAX))]
    pub preallocate_bytes: u64,
}

impl FormatArgs {
    /// Validated options.
    ///
    /// # Errors
    /// Exit 2 when the flags do not fit together.
    pub fn options(self) -> Result<FormatOptions, CliError> {
        let FormatArgs { data, cluster, members, groups, segment_bytes, preallocate_bytes, .. } =
            self;
        let node = NodeId(self.node);
        let options = FormatOptions {
            data,
            cluster,
            node,
            members,
            groups,
            segment_bytes,
            preallocate_bytes,
        };
        options.validate().map_err(CliError::usage)
    }
}

const BUSY_POLL_US_DEFAULT: u32 = UringOptions::BUSY_POLL_DEFAULT.as_micros() as u32;
/// Polling longer than this is spinning.
const BUSY_POLL_US_MAX: i64 = 10_000;

const SERVE_EXAMPLES: &str = "Example:
  loggos serve --data /var/lib/loggos";

/// `loggos serve`.
#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArgs {
    /// The node's directory, made by `loggos format`
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to listen for peers and clients [default: the node's own member address; where that is a name
    /// that cannot be resolved, or means no address of this host, its port on all addresses]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<HostPort>,
    /// How a batch becomes durable: one write with RWF_DSYNC, or a write linked to an fdatasync
    #[arg(long, value_enum, default_value_t = LogSync::Dsync)]
    pub log_sync: LogSync,
    /// An election starts this many ms, to twice as many, after a leader was last heard
    #[arg(long, value_name = "MS", default_value = "400", value_parser = milliseconds)]
    pub election_timeout: Duration,
    /// How often a leader shows that it lives, in ms
    #[arg(long, value_name = "MS", default_value = "50", value_parser = milliseconds)]
    pub heartbeat_interval: Duration,
    /// The most by which this host's clock may run fast or slow, in parts per million: leases are
    /// counted shorter by it. Reads at level lease depend on it, nothing else does
    #[arg(long, value_name = "PPM", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub clock_drift_ppm: u32,
    /// How much this node is wanted as the leader: a leader of lower priority hands over to a connected node of higher priority that is up to date, when it has led for ten election timeouts (longer each time after that node has lost the leadership again soon)
    /// [default: 0; with several groups 1 for those whose number modulo the members is this node's place among them, so that the leaders spread over the nodes]
    #[arg(long, value_name = "N")]
    pub priority: Option<u8>,
    /// Read and verify every entry of the log before serving, in place of a verification in the background afterwards
    #[arg(long)]
    pub verify_at_start: bool,
    /// While nothing is appended, fill so many bytes of log with zeros ahead, of all groups together, at most
    /// 128 segments of each: a burst then gets the disk's whole bandwidth. Two segments are filled ahead in any case
    /// [default: 1073741824, or an eighth of what is free at the start, whichever is less]
    #[arg(long = "preallocate-bytes", alias = "fill-ahead-bytes", value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(..=PREALLOCATE_BYTES_MAX))]
    pub fill_ahead_bytes: Option<u64>,
    /// How many us a group's thread looks for news before it sleeps, at most; 0: never. An idle node does not
    #[arg(long, value_name = "US", default_value_t = BUSY_POLL_US_DEFAULT,
          value_parser = clap::value_parser!(u32).range(..=BUSY_POLL_US_MAX))]
    pub busy_poll: u32,
    /// Pin the threads of the groups to these cores, from 0, in turn [default: not pinned]
    #[arg(long, value_name = "CORE,…", value_delimiter = ',')]
    pub pin: Vec<usize>,
    /// End when the process with this id, which started this one, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub exit_with_parent: Option<u32>,
    /// Plant this bug, for trying the tests with real processes
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", hide = true, value_parser = mutant)]
    pub mutant: Option<Mutant>,
}

#[cfg(feature = "mutants")]
fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::of_name(name).ok_or_else(|| format!("{name:?} is no planted bug"))
}

impl ServeArgs {
    /// Validated options.
    ///
    /// # Errors
    /// Exit 2 when the flags do not fit together.
    pub fn options(self) -> Result<ServeOptions, CliError> {
        let options = ServeOptions {
            data: self.data,
            listen: self.listen,
            log_sync: self.log_sync,
            election_timeout: self.election_timeout,
            heartbeat_interval: self.heartbeat_interval,
            clock_drift_ppm: self.clock_drift_ppm,
            priority: self.priority,
            verify_at_start: self.verify_at_start,
            fill_ahead_bytes: self.fill_ahead_bytes,
            pin: self.pin,
            busy_poll: Duration::from_micros(self.busy_poll.into()),
            #[cfg(feature = "mutants")]
            mutant: self.mutant,
        };
        options.validate().map_err(CliError::usage)
    }
}

/// `loggos inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos inspect /var/lib/loggos --json\n\nExit 1 on damage.")]
pub struct InspectArgs {
    /// The data directory of a node that is not running
    #[arg(value_name = "DIR")]
    pub data: PathBuf,
    /// Print every record too
    #[arg(long)]
    pub records: bool,
    /// Print JSON: one object a line with --records, the summary last [default: text]
    #[arg(long)]
    pub json: bool,
}

/// `loggos doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loggos doctor --data /var/lib/loggos")]
pub struct DoctorArgs {
    /// The folder whose disk is looked at; it must exist
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data: PathBuf,
    /// Print one JSON object [default: text]
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn serve_and_format_make_options() {
        let line = "loggos serve --data d --listen [::1]:9 --log-sync write-then-fsync";
        let Ok(Command::Serve(args)) = parse(line) else { panic!() };
        let options = args.options().unwrap();
        assert_eq!(options.log_sync, LogSync::WriteThenFsync);
        assert_eq!(options.listen.unwrap().to_string(), "[::1]:9");
        assert_eq!(options.election_timeout, Duration::from_millis(400));

        let line = "loggos format --data d --cluster c --node 2 --members 2=b:1,1=a:1";
        let Ok(Command::Format(args)) = parse(line) else { panic!() };
        let options = args.options().unwrap();
        assert_eq!(options.members.to_string(), "1=a:1,2=b:1");
        assert_eq!(options.segment_bytes, SEGMENT_BYTES_DEFAULT);
    }
}
