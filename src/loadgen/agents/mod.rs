//! A bench over several load hosts: an agent on each (`loggos bench agent`), one coordinator
//! (`loggos bench --agents …`), and one report merged from everything that the agents' workers
//! count, second by second.
//!
//! Nothing is divided by rounding: the coordinator hands each agent a range of the load's
//! connections, and a connection does what it does wherever it runs (`schedule`, `worker`). The
//! coordinator merges the workers' counts and histograms as it does for workers of its own.
//!
//! There is no authentication: agents belong on a network that is trusted. What comes in is bounded
//! and checked all the same, and whatever is wrong with it is an [`AgentError`].
//!
//! ```text
//! coordinator                         agent
//!   Hello { version }          ─►     Welcome { version, build, cpus }    (or Refused)
//!   Run { workload, … }        ─►     Ready { workers }                   (or Failed)
//!   Start { delay_us }         ─►     Interval, each second of each worker …
//!                                     Done { … }                          (or Failed)
//! ```

mod coordinator;
mod frame;
mod serve;
#[cfg(test)]
mod tests;

pub use coordinator::run;
pub use serve::serve;

use std::io;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::{InterchangeError, Latencies};
use super::stats::{Counts, Snapshot, TallySnapshot};
use super::workload::Workload;

/// The version of what is said here; both ends must speak the same.
pub const VERSION: u32 = 2;
/// The most agents of one run.
pub const AGENTS_MAX: usize = 64;
/// How long a hello may take to be whole, and a connection to be made.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agent may take to connect to the cluster and say so; more than its workers take to
/// give up.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an agent waits for the others to be ready, and the word to start.
const START_TIMEOUT: Duration = Duration::from_secs(40);
/// How long an agent may take from one whole message to the next in a run: it speaks every second,
/// and awaits the last answers for some.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long the other end may take to take in a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of anything that is believed of an agent in a run: a week of 100 GB a second is less, and
/// what [`AGENTS_MAX`] of them can add up to fits.
const COUNT_MAX: u64 = 1 << 56;
/// Histograms in a snapshot.
const PARTS: usize = 5;

/// Why a bench over agents has no result.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The other end cannot be reached, has gone, or says nothing.
    #[error("agent {agent} is lost: {source}; there is no report")]
    Lost {
        /// Its address.
        agent: String,
        /// The system's own word.
        source: io::Error,
    },
    /// The agent does not take part.
    #[error("agent {agent} refuses ({reason:?}): {text}")]
    Refused {
        /// Its address.
        agent: String,
        /// Why, for programs.
        reason: Refusal,
        /// Why, for people.
        text: String,
    },
    /// The agent could not do its part.
    #[error("agent {agent}: {text}")]
    Failed {
        /// Its address.
        agent: String,
        /// Why.
        text: String,
    },
    /// What came is not what an agent says.
    #[error("agent {agent}: {source}; is it a `loggos bench agent`?")]
    Foreign {
        /// Its address.
        agent: String,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The same agent twice, more than [`AGENTS_MAX`], or more than there are connections.
    #[error("{0}")]
    Count(String),
}

/// Why an agent does not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// It takes part in another bench.
    Busy,
    /// It speaks another version.
    Version,
    /// What it is asked for cannot be done.
    Invalid,
}

/// What is wrong with bytes that came in.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin as a message does.
    #[error("what came is not a message of a bench")]
    Magic,
    /// Over a limit.
    #[error("a message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// As it says of itself.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Not the JSON that it should be.
    #[error("a message cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Not the histogram that it should be.
    #[error(transparent)]
    Histogram(#[from] InterchangeError),
    /// Another message than the one that is due.
    #[error("a message that is not due: {0}")]
    Unexpected(&'static str),
}

/// What is said, either way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
enum Message {
    Hello { version: u32 },
    Welcome { version: u32, build: String, cpus: usize },
    Refused { reason: Refusal, text: String },
    Run(Box<Part>),
    Ready { workers: usize },
    Start { delay_us: u64 },
    Interval { end_ns: i64, snapshot: WireSnapshot },
    Done(Box<Done>),
    Failed { text: String },
}

/// One agent's part of a run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    /// The whole load.
    workload: Workload,
    /// The connections of it that are the agent's.
    connections: Range<usize>,
    addresses: Vec<String>,
    logs: Vec<u32>,
}

/// What an agent says in the end.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    snapshot: WireSnapshot,
    unsent: u64,
    first_error: Option<String>,
    /// CPU time of the agent in the measured phase.
    cpu_ns: u64,
    /// CPU time of its workers in the whole run.
    workers_cpu_ns: u64,
}

/// A [`Snapshot`]: its histograms follow the message, in HdrHistogram's interchange format.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSnapshot {
    appends: Counts,
    reads: Counts,
    /// Bytes of each histogram; 0 = none. Appends, measured and others; reads; the lag.
    parts: [u32; PARTS],
}

impl WireSnapshot {
    fn new(snapshot: &Snapshot) -> (WireSnapshot, Vec<u8>) {
        let Snapshot { appends, reads, lag } = snapshot;
        let histograms = [&appends.measured, &appends.other, &reads.measured, &reads.other, lag];
        let mut wire =
            WireSnapshot { appends: appends.counts, reads: reads.counts, parts: [0; PARTS] };
        let mut blob = Vec::new();
        for (size, histogram) in wire.parts.iter_mut().zip(histograms) {
            let before = blob.len();
            if let Some(histogram) = histogram {
                histogram.put_interchange(&mut blob);
            }
            *size = (blob.len() - before) as u32;
        }
        (wire, blob)
    }

    fn into_snapshot(self, blob: &[u8]) -> Result<Snapshot, FrameError> {
        let mut rest = blob;
        let mut found: [Option<Box<Latencies>>; PARTS] = Default::default();
        for (size, histogram) in self.parts.into_iter().zip(&mut found) {
            let (part, behind) = rest
                .split_at_checked(size as usize)
                .ok_or(FrameError::Unexpected("histograms that are cut off"))?;
            rest = behind;
            if size > 0 {
                *histogram = Some(Box::new(Latencies::from_interchange(part)?));
            }
        }
        if !rest.is_empty() {
            return Err(FrameError::Unexpected("bytes behind the histograms"));
        }
        let [measured, other, reads_measured, reads_other, lag] = found;
        Ok(Snapshot {
            appends: TallySnapshot { counts: self.appends, measured, other },
            reads: TallySnapshot {
                counts: self.reads,
                measured: reads_measured,
                other: reads_other,
            },
            lag,
        })
    }
}
