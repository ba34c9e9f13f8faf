//! What load to put on a cluster: validated once, then only read by the workers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, RECORD_BYTES_MAX};
use crate::base::records::RECORD_PREFIX_SIZE;

/// The most connections of one run.
pub const CONNECTIONS_MAX: usize = 1024;
/// The most operations in flight on one connection.
pub const INFLIGHT_MAX: usize = 64 * 1024;
/// The longest measured phase or warm-up.
pub const PHASE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The highest rate of an open loop in records a second.
pub const RATE_PER_S_MAX: f64 = 100e6;
/// The smallest record in bytes with which a history can be recorded: its values are unique.
pub const HISTORY_RECORD_BYTES_MIN: usize = 16;

/// The most logs that a load is spread over.
pub const LOGS_MAX: usize = 10_000;
/// The most followers of one run.
pub const FOLLOWERS_MAX: usize = 4096;
/// Bytes of the time that a record carries for the followers.
pub const STAMP_BYTES: usize = 8;

/// When an operation is sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pacing {
    /// As soon as an earlier one was answered: always `inflight` of them are out.
    Closed,
    /// At times fixed in advance, whether the cluster keeps up or not; latency counts from these.
    Open {
        /// Records a second, over all connections.
        rate_per_s: f64,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum ReadLevel {
    /// Linearizable, served by a leader that holds a lease.
    Lease,
    /// Linearizable, confirmed with a quorum.
    ReadIndex,
    /// From any replica; may be stale.
    #[default]
    Local,
}

impl ReadLevel {
    /// As flags, reports and histories spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadLevel::Lease => "lease",
            ReadLevel::ReadIndex => "read-index",
            ReadLevel::Local => "local",
        }
    }
}

impl From<ReadLevel> for crate::client::ReadLevel {
    fn from(level: ReadLevel) -> crate::client::ReadLevel {
        match level {
            ReadLevel::Lease => crate::client::ReadLevel::Lease,
            ReadLevel::ReadIndex => crate::client::ReadLevel::ReadIndex,
            ReadLevel::Local => crate::client::ReadLevel::Local,
        }
    }
}

/// Which nodes reads are sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum ReadFrom {
    /// The leader, over the connections of the appends.
    #[default]
    Leader,
    /// The nodes that were named, round and round, over connections that do nothing else.
    Any,
}

/// A load. Public fields, checked by [`Workload::validate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Connections over all workers.
    pub connections: usize,
    /// The most operations in flight on each connection.
    pub inflight: usize,
    /// Records in each append.
    pub records_per_append: usize,
    /// Bytes of each record.
    pub record_bytes: usize,
    /// The measured phase.
    pub duration: Duration,
    /// Load before the measured phase that is not counted.
    pub warmup: Duration,
    /// When operations are sent.
    pub pacing: Pacing,
    /// Appends among 100 operations; the rest are reads.
    pub append_percent: u8,
    /// How fresh reads must be.
    pub level: ReadLevel,
    /// Who is asked for reads.
    pub read_from: ReadFrom,
    /// Whether every operation is recorded, with unique values.
    pub history: bool,
    /// Whether each connection numbers its appends in a session.
    pub sessions: bool,
    /// Logs that operations go to, in turn; 1: the log `default`.
    pub logs: usize,
    /// Followers, each over a connection of its own.
    pub follow: usize,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            connections: 4,
            inflight: 64,
            records_per_append: 1,
            record_bytes: 256,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(2),
            pacing: Pacing::Closed,
            append_percent: 100,
            level: ReadLevel::Local,
            read_from: ReadFrom::Leader,
            history: false,
            sessions: false,
            logs: 1,
            follow: 0,
        }
    }
}

/// A load that cannot be generated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WorkloadError {
    /// A number out of its range.
    #[error("--{flag} {value} is out of range; give {low} to {high}")]
    Range {
        /// The flag's name.
        flag: &'static str,
        /// What was given.
        value: f64,
        /// The least that works.
        low: f64,
        /// The most that works.
        high: f64,
    },
    /// The records of one append are over the limit of a request.
    #[error(
        "{records} records of {bytes} bytes are {run} bytes in one append, over the limit of {APPEND_BYTES_MAX}; lower --records-per-append or --record-bytes"
    )]
    AppendTooLarge {
        /// Records in an append.
        records: usize,
        /// Bytes of a record.
        bytes: usize,
        /// The whole run with its length prefixes.
        run: usize,
    },
}

impl Workload {
    /// Bytes of one append's run of records, length prefixes included.
    pub fn run_bytes(&self) -> usize {
        self.records_per_append * (self.record_bytes + RECORD_PREFIX_SIZE)
    }

    /// Which one of the connections that only read connection `index` is; none when it appends, or
    /// does both.
    pub fn reader(&self, index: usize) -> Option<usize> {
        if self.read_from == ReadFrom::Leader || self.append_percent == 100 {
            return None;
        }
        // Where there is to be any append, one connection does it.
        let appenders = (self.connections * usize::from(self.append_percent)).div_ceil(100);
        index.checked_sub(appenders)
    }

    /// What connection `index` does of the load.
    pub fn of_connection(&self, index: usize) -> Workload {
        let append_percent = match self.reader(index) {
            Some(_) => 0,
            None if self.read_from == ReadFrom::Any => 100,
            None => self.append_percent,
        };
        // A session is of use for appends only.
        let sessions = self.sessions && append_percent > 0;
        Workload { append_percent, sessions, ..self.clone() }
    }

    /// Where in each record the time stands that its append was started at, for the followers:
    /// behind what a history needs.
    pub fn stamp_at(&self) -> Option<usize> {
        let front = if self.history { HISTORY_RECORD_BYTES_MIN } else { 0 };
        (self.follow > 0).then_some(front)
    }

    /// Bytes of each record that hold a history's value.
    pub fn value_bytes(&self) -> usize {
        self.stamp_at().unwrap_or(self.record_bytes)
    }

    /// Checks every field and how they fit together.
    pub fn validate(self) -> Result<Workload, WorkloadError> {
        let value_bytes = if self.history { HISTORY_RECORD_BYTES_MIN } else { 0 };
        let record_bytes_min = self.stamp_at().map_or(value_bytes, |at| at + STAMP_BYTES);
        let phase_max = PHASE_MAX.as_secs_f64();
        let mut ranges = vec![
            ("connections", self.connections as f64, 1.0, CONNECTIONS_MAX as f64),
            ("inflight", self.inflight as f64, 1.0, INFLIGHT_MAX as f64),
            ("records-per-append", self.records_per_append as f64, 1.0, APPEND_RECORDS_MAX as f64),
            (
                "record-bytes",
                self.record_bytes as f64,
                record_bytes_min as f64,
                RECORD_BYTES_MAX as f64,
            ),
            ("duration", self.duration.as_secs_f64(), 0.1, phase_max),
            ("warmup", self.warmup.as_secs_f64(), 0.0, phase_max),
            ("append-percent", f64::from(self.append_percent), 0.0, 100.0),
            ("logs", self.logs as f64, 1.0, LOGS_MAX as f64),
            ("follow", self.follow as f64, 0.0, FOLLOWERS_MAX as f64),
        ];
        if let Pacing::Open { rate_per_s } = self.pacing {
            ranges.push(("rate", rate_per_s, 0.001, RATE_PER_S_MAX));
        }
        for (flag, value, low, high) in ranges {
            // Written so that NaN is refused too.
            if !(value >= low && value <= high) {
                return Err(WorkloadError::Range { flag, value, low, high });
            }
        }
        let run = self.run_bytes();
        if run > APPEND_BYTES_MAX {
            let (records, bytes) = (self.records_per_append, self.record_bytes);
            return Err(WorkloadError::AppendTooLarge { records, bytes, run });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Workload::default().validate(), Ok(Workload::default()));
    }

    #[test]
    fn every_range_is_held() {
        let base = Workload::default;
        let open = |rate_per_s| Workload { pacing: Pacing::Open { rate_per_s }, ..base() };
        let bad = [
            (Workload { connections: 0, ..base() }, "connections"),
            (Workload { connections: CONNECTIONS_MAX + 1, ..base() }, "connections"),
            (Workload { inflight: 0, ..base() }, "inflight"),
            (Workload { records_per_append: 0, ..base() }, "records-per-append"),
            (Workload { record_bytes: RECORD_BYTES_MAX + 1, ..base() }, "record-bytes"),
            (Workload { record_bytes: 15, history: true, ..base() }, "record-bytes"),
            (Workload { record_bytes: 7, follow: 1, ..base() }, "record-bytes"),
            (Workload { record_bytes: 23, follow: 1, history: true, ..base() }, "record-bytes"),
            (Workload { logs: 0, ..base() }, "logs"),
            (Workload { logs: LOGS_MAX + 1, ..base() }, "logs"),
            (Workload { follow: FOLLOWERS_MAX + 1, ..base() }, "follow"),
            (Workload { duration: Duration::ZERO, ..base() }, "duration"),
            (Workload { append_percent: 101, ..base() }, "append-percent"),
            (open(0.0), "rate"),
            (open(f64::NAN), "rate"),
        ];
        for (workload, expected) in bad {
            match workload.clone().validate() {
                Err(WorkloadError::Range { flag, .. }) => assert_eq!(flag, expected),
                other => panic!("{workload:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn reads_from_any_node_have_connections_of_their_own() {
        let base = Workload { connections: 4, append_percent: 30, ..Workload::default() };
        assert!((0..4).all(|index| base.of_connection(index) == base));
        let apart = Workload { read_from: ReadFrom::Any, sessions: true, ..base.clone() };
        let parts: Vec<_> = (0..4).map(|index| apart.of_connection(index)).collect();
        let shares: Vec<_> =
            parts.iter().map(|part| (part.append_percent, part.sessions)).collect();
        assert_eq!(shares, [(100, true), (100, true), (0, false), (0, false)]);
        assert_eq!([1, 2, 3].map(|index| apart.reader(index)), [None, Some(0), Some(1)]);
        let reads = Workload { append_percent: 0, ..apart.clone() };
        assert_eq!(reads.reader(0), Some(0));
        let appends = Workload { append_percent: 100, ..apart };
        assert_eq!(appends.reader(3), None);
    }

    #[test]
    fn an_append_over_the_limit_is_refused() {
        let workload =
            Workload { records_per_append: 1200, record_bytes: 1024, ..Workload::default() };
        let error = workload.validate().unwrap_err();
        assert!(matches!(error, WorkloadError::AppendTooLarge { run: 1_233_600, .. }), "{error}");
    }
}
