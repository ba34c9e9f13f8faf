//! Validated options of the commands: what [`super::args`] makes of the flags and the commands
//! run with. A value of these types can be acted on; checks that need the disk or the network
//! are the commands' own.

use std::path::PathBuf;
use std::time::Duration;

use super::members::{HostPort, MemberList};
use crate::base::NodeId;
use crate::base::limits::{BLOCK_SIZE, GROUPS_MAX, MIB};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::log::{FILL_AHEAD_BYTES, segment_bytes_min};

/// How a batch becomes durable (IO.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogSync {
    /// One O_DIRECT write with RWF_DSYNC.
    #[default]
    Dsync,
    /// An O_DIRECT write linked to an fdatasync.
    WriteThenFsync,
}

/// The default size of a log segment in bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * MIB as u64;
/// The smallest segment in bytes: the largest batch fits it.
pub const SEGMENT_BYTES_MIN: u64 = 4 * MIB as u64;
/// The largest segment in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 2048 * MIB as u64;

const _: () = assert!(SEGMENT_BYTES_MIN >= segment_bytes_min(BUFFER_BYTES_MAX));

/// What one of `nodes` nodes on the same file system fills ahead by default: all of them together
/// take an eighth of what is free there, at most.
pub fn fill_ahead_bytes_default(free_bytes: u64, nodes: u64) -> u64 {
    FILL_AHEAD_BYTES.min(free_bytes / 8 / nodes)
}

/// Longest name of a cluster in bytes.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;

/// Options of `loggos serve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// The formatted data directory.
    pub data: PathBuf,
    /// Where to listen; none: the node's own member address.
    pub listen: Option<HostPort>,
    /// How a batch becomes durable.
    pub log_sync: LogSync,
    /// `Config::election_timeout`.
    pub election_timeout: Duration,
    /// `Config::heartbeat_interval`.
    pub heartbeat_interval: Duration,
    /// `Config::clock_drift_ppm_max`.
    pub clock_drift_ppm: u32,
    /// `Config::priority` of every group; none: each group prefers one of the members.
    pub priority: Option<u8>,
    /// `LogOptions::verify_at_start`.
    pub verify_at_start: bool,
    /// What the logs of all groups fill ahead together while nothing is appended; none: the default,
    /// as [`fill_ahead_bytes_default`] has it.
    pub fill_ahead_bytes: Option<u64>,
    /// The cores that the groups' threads are pinned to, in turn; none: any.
    pub pin: Vec<usize>,
    /// How long a group's thread looks for news before it sleeps, at most.
    pub busy_poll: Duration,
    /// The bug that is planted in every group's thread.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::base::mutants::Mutant>,
}

/// Options of `loggos format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// The data directory to make.
    pub data: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// The node's own number, one of `members`.
    pub node: NodeId,
    /// Every member of the cluster.
    pub members: MemberList,
    /// How many groups.
    pub groups: u16,
    /// Size of a segment in bytes, a multiple of the block.
    pub segment_bytes: u64,
    /// Bytes of log to fill with zeros ahead.
    pub preallocate_bytes: u64,
}

/// Options that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `--node` is none of `--members`.
    #[error("node {0} is not among the members {1}; list it in --members")]
    NotMember(NodeId, MemberList),
    /// A segment size out of range.
    #[error(
        "--segment-bytes {0} is not a multiple of {BLOCK_SIZE} from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
    )]
    SegmentBytes(u64),
    /// A number of groups out of range.
    #[error("--groups {0} is out of range; give 1 to {GROUPS_MAX}")]
    Groups(u16),
    /// The election timeout is too short for the heartbeats.
    #[error(
        "--election-timeout {election_ms} ms is below three times --heartbeat-interval {heartbeat_ms} ms"
    )]
    Timeouts {
        /// The election timeout in ms.
        election_ms: u128,
        /// The heartbeat interval in ms.
        heartbeat_ms: u128,
    },
    /// A cluster's name that cannot be used.
    #[error(
        "the cluster name `{0}` is not 1 to {CLUSTER_NAME_BYTES_MAX} letters, digits, `.`, `-` or `_`"
    )]
    ClusterName(String),
}

fn check_segment_bytes(bytes: u64) -> Result<(), OptionsError> {
    let in_range = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes);
    match in_range && bytes.is_multiple_of(BLOCK_SIZE as u64) {
        true => Ok(()),
        false => Err(OptionsError::SegmentBytes(bytes)),
    }
}

impl ServeOptions {
    /// Checks that the options fit together.
    pub fn validate(self) -> Result<ServeOptions, OptionsError> {
        if self.election_timeout < self.heartbeat_interval * 3 {
            return Err(OptionsError::Timeouts {
                election_ms: self.election_timeout.as_millis(),
                heartbeat_ms: self.heartbeat_interval.as_millis(),
            });
        }
        Ok(self)
    }
}

impl FormatOptions {
    /// Checks that the options fit together.
    pub fn validate(self) -> Result<FormatOptions, OptionsError> {
        check_segment_bytes(self.segment_bytes)?;
        if !(1..=GROUPS_MAX).contains(&usize::from(self.groups)) {
            return Err(OptionsError::Groups(self.groups));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let length = self.cluster.len();
        if length == 0 || length > CLUSTER_NAME_BYTES_MAX || !self.cluster.chars().all(good) {
            return Err(OptionsError::ClusterName(self.cluster));
        }
        if !self.members.0.iter().any(|member| member.node == self.node) {
            return Err(OptionsError::NotMember(self.node, self.members));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_options() -> FormatOptions {
        FormatOptions {
            data: "/data".into(),
            cluster: "demo".into(),
            node: NodeId(2),
            members: "1=a:1,2=b:1".parse().unwrap(),
            groups: 1,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            preallocate_bytes: 0,
        }
    }

    #[test]
    fn what_is_filled_ahead_by_default_leaves_most_of_the_disk() {
        let plenty = FILL_AHEAD_BYTES * 8 * 3;
        assert_eq!(fill_ahead_bytes_default(u64::MAX, 1), FILL_AHEAD_BYTES);
        assert_eq!(fill_ahead_bytes_default(plenty, 3), FILL_AHEAD_BYTES);
        assert_eq!(fill_ahead_bytes_default(plenty, 6), FILL_AHEAD_BYTES / 2);
        assert_eq!(fill_ahead_bytes_default(7, 1), 0);
    }

    #[test]
    fn format_refuses_what_cannot_work() {
        assert_eq!(format_options().validate(), Ok(format_options()));
        let other = FormatOptions { node: NodeId(3), ..format_options() };
        assert!(matches!(other.validate(), Err(OptionsError::NotMember(NodeId(3), _))));
        for bytes in [0, SEGMENT_BYTES_MIN + 1, SEGMENT_BYTES_MAX + BLOCK_SIZE as u64] {
            let options = FormatOptions { segment_bytes: bytes, ..format_options() };
            assert_eq!(options.validate(), Err(OptionsError::SegmentBytes(bytes)));
        }
        for groups in [0, GROUPS_MAX as u16 + 1] {
            let options = FormatOptions { groups, ..format_options() };
            assert_eq!(options.validate(), Err(OptionsError::Groups(groups)));
        }
        for name in ["", "a b", "ü", &"x".repeat(CLUSTER_NAME_BYTES_MAX + 1)] {
            let options = FormatOptions { cluster: name.to_owned(), ..format_options() };
            assert_eq!(options.validate(), Err(OptionsError::ClusterName(name.to_owned())));
        }
    }

    #[test]
    fn serve_refuses_a_timeout_below_three_heartbeats() {
        let options = |election_ms, heartbeat_ms| ServeOptions {
            data: "/data".into(),
            listen: None,
            log_sync: LogSync::Dsync,
            election_timeout: Duration::from_millis(election_ms),
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
            clock_drift_ppm: 1000,
            priority: None,
            verify_at_start: false,
            fill_ahead_bytes: None,
            pin: Vec::new(),
            busy_poll: Duration::ZERO,
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        assert!(options(150, 50).validate().is_ok());
        let error = options(149, 50).validate().unwrap_err();
        assert_eq!(error, OptionsError::Timeouts { election_ms: 149, heartbeat_ms: 50 });
    }
}
