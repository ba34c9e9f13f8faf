//! The flags of `loggos sim`.

use std::path::PathBuf;

use clap::Args;

/// `loggos sim`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  loggos sim --runs 1000\n  loggos sim --seed 42\n  \
    loggos sim --seed 42 --shrink\n  \
    LOGGOS_LOG=debug loggos sim --seed 42 --nodes-max 3 --strikes-max 7\n  \
    loggos sim --explore\n\nExit 1 on a violation.")]
pub struct SimArgs {
    /// The first seed [default: drawn from the clock, and printed]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// How many seeds, one after the other [default: 100; 1 with --seed]
    #[arg(long, value_name = "N")]
    pub runs: Option<u64>,
    /// Threads, each with worlds of its own [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Write the history of a violating run to this file [default: loggos-sim-SEED.jsonl in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Leave out these faults, by the names of the summary, with commas between
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    pub without: Vec<String>,
    /// Permit these faults only, by the names of the summary, with commas between; none: no fault
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Shrink the failing --seed: print the smallest command that still fails in the same check
    #[arg(long)]
    pub shrink: bool,
    /// Hunt the planted bugs instead: each must be caught (needs a build with the feature `mutants`)
    #[arg(long)]
    pub mutants: bool,
    /// Hunt these planted bugs only, with commas between; without --mutants: plant this one
    #[arg(long, value_name = "MUTANT,…", value_delimiter = ',')]
    pub mutant: Vec<String>,
    /// Seeds in which a planted bug must be caught
    #[arg(long, value_name = "N", default_value_t = 500, requires = "mutants")]
    pub budget: u64,
    /// At most this many nodes
    #[arg(long, value_name = "N")]
    pub nodes_max: Option<usize>,
    /// At most this many clients
    #[arg(long, value_name = "N")]
    pub clients_max: Option<usize>,
    /// At most this many operations of each client while everything may fail
    #[arg(long, value_name = "N")]
    pub operations_max: Option<u64>,
    /// At most this many strikes of faults
    #[arg(long, value_name = "N")]
    pub strikes_max: Option<u64>,
    /// Visit every reachable state of small worlds instead (about half an hour, 2 GiB of memory); with --json one object per line
    #[arg(long, conflicts_with_all = ["seed", "runs"])]
    pub explore: bool,
    /// With --explore: only the worlds whose name contains this text
    #[arg(
        long,
        value_name = "TEXT",
        requires = "explore",
        default_value = "",
        hide_default_value = true
    )]
    pub worlds: String,
}
