//! The core's parameters: members, windows and timeouts, validated once.

use std::time::Duration;

use crate::base::NodeId;
use crate::base::limits::{MEMBERS_MAX, MIB, VALUE_BYTES_MAX};

/// A replica accepts no slot that is further above its watermark, so that what it may report in a
/// promise has a bound that every other knows.
pub const ACCEPT_AHEAD_SLOTS_LIMIT: u64 = 64 * 1024;

/// Parameters of one replica's core. Every member of a group uses the same members.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica.
    pub id: NodeId,
    /// All members, this one included; sorted, no doubles.
    pub members: Vec<NodeId>,
    /// The most slots proposed and not yet chosen.
    pub window_slots_max: u64,
    /// The most bytes proposed and not yet chosen (one value may always be proposed).
    pub window_bytes_max: usize,
    /// The most bytes sent to one peer and not yet answered.
    pub peer_bytes_max: usize,
    /// The most bytes of values kept in memory for peers that are behind; a peer further behind
    /// fetches what it lacks.
    pub retained_bytes_max: usize,
    /// The most slots kept in memory for peers that are behind; and the most that wait for the own disk.
    pub retained_slots_max: u64,
    /// Bytes of values above its watermark that a replica holds before it accepts nothing more ahead
    /// of a slot that it lacks; up to there it needs no prefix. What extends its prefix has as much
    /// room again.
    pub accept_ahead_bytes_max: usize,
    /// The most slots one fetch asks for.
    pub fetch_slots_max: u64,
    /// Whether it may campaign; without, it follows until [`crate::paxos::Input::PermitCampaign`].
    pub may_campaign: bool,
    /// How often a leader tells that it lives.
    pub heartbeat_interval: Duration,
    /// An election starts this long, to twice as long, after the last word of a leader; and a
    /// leader that has not heard from a quorum for this long steps down.
    pub election_timeout: Duration,
    /// How long a follower helps no other candidate after it has granted a lease, and how long a
    /// replica that starts makes no promise; zero: no leases are granted or asked for. The same on
    /// every member, over restarts too: whole milliseconds.
    pub lease: Duration,
    /// The most by which the rate of a member's clock may be off, in parts per million.
    pub clock_drift_ppm_max: u32,
    /// What the leader takes off each lease besides, for the clocks' granularity.
    pub clock_slack: Duration,
    /// What has not been answered for this long is sent again.
    pub resend_timeout: Duration,
    /// A leader whose write has not completed for this long steps down, and a replica in that
    /// state does not campaign. A leader that has no room for new values for this long hands over to
    /// a member that has, if there is one.
    pub disk_stall_timeout: Duration,
    /// A leader whose disk takes this many times longer for a write than the accept quorum's hands
    /// over to a member with a faster one, if there is one; 0: never. See `give_way`.
    pub slow_disk_factor: u32,
    /// How much this replica is wanted as the leader: one of lower priority hands over to a
    /// connected replica of higher priority that is up to date. Each replica's own.
    pub priority: u8,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The members are empty, doubled, too many or lack this replica.
    #[error(
        "the member list {0:?} is not a sorted list of 1 to {MEMBERS_MAX} different members that includes this one"
    )]
    Members(Vec<NodeId>),
    /// A window, limit or timeout is out of range.
    #[error("{0}")]
    Range(&'static str),
    /// What the disk holds contradicts itself.
    #[error("the recovered state is not one that a replica can have written: {0}")]
    Recovered(&'static str),
}

impl Config {
    /// The defaults for `id` among `members`.
    pub fn new(id: NodeId, mut members: Vec<NodeId>) -> Config {
        members.sort_unstable();
        Config {
            id,
            members,
            window_slots_max: 256,
            window_bytes_max: 16 * MIB,
            peer_bytes_max: 16 * MIB,
            retained_bytes_max: 32 * MIB,
            retained_slots_max: 1024,
            accept_ahead_bytes_max: 32 * MIB,
            fetch_slots_max: 512,
            may_campaign: true,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(400),
            lease: Duration::from_millis(250),
            clock_drift_ppm_max: 1000,
            clock_slack: Duration::from_millis(1),
            resend_timeout: Duration::from_millis(500),
            disk_stall_timeout: Duration::from_millis(2000),
            slow_disk_factor: 8,
            priority: 0,
        }
    }

    /// How long after sending its heartbeat a leader counts on what that asked for: the lease less
    /// what a slow clock here and a fast one there make of it, and the slack.
    pub fn lease_held(&self) -> Duration {
        let apart = 2 * u128::from(self.clock_drift_ppm_max);
        let drift = self.lease.as_nanos() * apart / 1_000_000;
        let drift = Duration::from_nanos(u64::try_from(drift).unwrap_or(u64::MAX));
        self.lease.saturating_sub(drift).saturating_sub(self.clock_slack)
    }

    /// Checks that the parameters fit together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sorted = self.members.windows(2).all(|pair| pair[0] < pair[1]);
        let named = !self.members.contains(&NodeId(0)) && self.members.contains(&self.id);
        if !sorted || !named || self.members.len() > MEMBERS_MAX {
            return Err(ConfigError::Members(self.members.clone()));
        }
        let rules = [
            (self.window_slots_max >= 1, "window_slots_max must be at least 1"),
            (
                self.retained_slots_max >= self.window_slots_max,
                "retained_slots_max must not be below window_slots_max",
            ),
            (
                self.window_slots_max <= ACCEPT_AHEAD_SLOTS_LIMIT,
                "window_slots_max must not be above 65536",
            ),
            (self.fetch_slots_max >= 1, "fetch_slots_max must be at least 1"),
            (self.peer_bytes_max >= VALUE_BYTES_MAX, "peer_bytes_max must hold the largest value"),
            (
                self.election_timeout >= self.heartbeat_interval * 3,
                "election_timeout must be at least three heartbeat intervals",
            ),
            (
                self.lease.subsec_nanos().is_multiple_of(1_000_000)
                    && self.lease <= Duration::from_secs(60),
                "lease must be whole milliseconds, at most a minute",
            ),
            (!self.heartbeat_interval.is_zero(), "heartbeat_interval must be above zero"),
            (!self.resend_timeout.is_zero(), "resend_timeout must be above zero"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ConfigError::Range(rule)),
            None => Ok(()),
        }
    }
}
