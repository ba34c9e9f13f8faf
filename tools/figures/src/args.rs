//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures Loggos over a matrix and beside other systems; keeps tables and plots of it.
#[derive(Debug, Parser)]
#[command(name = "figures", after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  figures matrix --host-name box1 --repeat 3       about 50 minutes on a quiet machine
  figures matrix --quick                           a smoke test of a minute or two
  figures matrix --only depth --nodes 3            one sweep of one cluster size
  figures peers --only etcd                        Loggos, etcd, Loggos, on this host
  figures failover --kills 20                      the leader is killed under load
  figures compare results/A results/B              what changed, and whether it is noise
  figures plot results/A                           tables and plots anew from the raw JSON

Exit codes: 0 done, 1 something failed, 2 cannot be done as asked, 130 interrupted";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs `loggos bench` over cluster sizes, depths, record sizes and rates
    Matrix(MatrixArgs),
    /// Measures etcd, ZooKeeper and NATS JetStream beside Loggos, in one run on this host
    Peers(PeersArgs),
    /// Kills the leader again and again, and tells how long nothing is acknowledged
    Failover(FailoverArgs),
    /// Prints the ratios B/A of runs that two results have in common, with the noise
    Compare(CompareArgs),
    /// Writes a results directory's tables and plots anew from its raw JSON
    Plot(PlotArgs),
}

/// Where results go; the same for everything that measures.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// The folder that gets DATE-HOST-TOPIC/ and history.jsonl [default: results of the
    /// repository; target/figures for smoke tests, which measure for less than 5 s]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A short neutral name of this machine for the results' folder
    #[arg(long, value_name = "NAME", default_value = "host", value_parser = plain_name)]
    pub host_name: String,
    /// The loggos to measure [default: target/release/loggos, built first if it is missing]
    #[arg(long, value_name = "PATH")]
    pub loggos: Option<PathBuf>,
    /// The folder on a real disk for all data [default: target of the repository]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Flags of `matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// A smoke test: runs of one second, of a part of the matrix; its figures mean nothing
    #[arg(long)]
    pub quick: bool,
    /// Only these: `depth`, `size`, `rates`, or the beginning of a run's name, such as n3 or
    /// n3-b256-d64
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Cluster sizes [default: 1,3,5,7; 1,3 with --quick]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub nodes: Vec<usize>,
    /// How often to run everything, one whole pass after the other; the spread is the noise
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// The measured phase of a run in seconds [default: 10; 1 with --quick]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<f64>,
    /// Load before the measured phase in seconds [default: 2; 0.5 with --quick]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Option<f64>,
    /// The last part of the results' folder name
    #[arg(long, value_name = "TOPIC", default_value = "matrix", value_parser = plain_name)]
    pub topic: String,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The other systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum PeerName {
    /// etcd
    Etcd,
    /// Apache ZooKeeper
    Zookeeper,
    /// NATS JetStream
    Nats,
}

/// Flags of `peers`.
#[derive(Clone, Debug, Args)]
pub struct PeersArgs {
    /// Only these [default: all that are installed]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<PeerName>,
    /// The measured phase of a run in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub duration: f64,
    /// Load before the measured phase in seconds [default: a fifth of the duration, at least 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Option<f64>,
    /// So many bytes of log are filled with zeros ahead on each node of Loggos, as `loggos format
    /// --preallocate-bytes` does: then writes go to blocks that were written before
    /// [default: as `loggos bench` has it, what an idle node fills ahead]
    #[arg(long, value_name = "BYTES")]
    pub preallocate_bytes: Option<u64>,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Flags of `failover`.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// How often; fewer than 20 are a smoke test
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kills: u32,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Flags of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// A results directory, or a JSON file (raw, or what `loggos bench --json` printed)
    pub a: PathBuf,
    /// The other; ratios are of this one over the first
    pub b: PathBuf,
}

/// Flags of `plot`.
#[derive(Clone, Debug, Args)]
pub struct PlotArgs {
    /// A results directory that `matrix` or `peers` wrote
    pub dir: PathBuf,
}

/// Part of a folder's name: nothing that a shell or a link would trip over.
fn plain_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !text.is_empty() && text.len() <= 40 && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("up to 40 letters, digits, '-' and '_'".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=3600.0).contains(&value) => Ok(value),
        _ => Err("seconds from 0.1 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_are_split_and_nonsense_is_refused() {
        let cli = Cli::try_parse_from(["figures", "peers", "--only", "etcd,nats"]).unwrap();
        let Command::Peers(args) = cli.command else { panic!("another command") };
        assert_eq!(args.only, [PeerName::Etcd, PeerName::Nats]);
        for bad in ["0", "nan", "-1", "x", "99999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(plain_name("box-1").is_ok());
        assert!(plain_name("../x").is_err() && plain_name("").is_err());
    }
}
