//! How a node is: what `loggos status --json` prints, as the server's answer carries it.
//!
//! Stable: fields are added, never renamed or given another meaning. Readers ignore fields they
//! do not know, and fields that are missing have their default.

use serde::{Deserialize, Serialize};

/// One log of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogStatus {
    /// Its number, which is never used again.
    pub log: u32,
    /// Its name.
    pub name: String,
    /// The next position to be given out, as far as the node that answers has applied.
    pub tail: u64,
    /// The highest fencing token that it has taken; 0 = none.
    pub fence: u64,
    /// The largest record that it takes, in bytes.
    pub record_bytes_max: u32,
}

/// One group of one node. Watermarks (`chosen`, `applied`, `durable`, `trimmed`) are slots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The node's software version.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id; null while the node is blank: not yet founded, run `loggos init`.
    pub cluster_id: Option<String>,
    /// What the node's data directory alone is called.
    pub incarnation: String,
    /// The node that answers.
    pub node: u16,
    /// The group this is about.
    pub group: u16,
    /// What it is.
    pub role: RoleStatus,
    /// The leader, as far as it knows.
    pub leader: Option<u16>,
    /// The ballot it has promised.
    pub ballot: BallotStatus,
    /// How much it is wanted as the leader.
    pub priority: u8,
    /// It has no vote: the end of its log was damaged, and it has not fetched from its peers yet what
    /// may have been lost. Who leads counts its acceptances meanwhile; nobody is elected by it.
    pub vote_lost: bool,
    /// The number of the configuration.
    pub epoch: u32,
    /// Every slot up to here is chosen and known here.
    pub chosen: u64,
    /// Every slot up to here is applied.
    pub applied: u64,
    /// Every slot up to here is on this node's disk.
    pub durable: u64,
    /// Whether the node's disk has no room for more log: it takes no appends until there is some.
    pub disk_full: bool,
    /// Slots up to here are no longer kept.
    pub trimmed: u64,
    /// The next position to be given out in log 0, as far as applied.
    pub tail: u64,
    /// All members, this one included.
    pub members: Vec<MemberStatus>,
    /// The hash of the state.
    pub state: StateStatus,
    /// The sessions of clients.
    pub sessions: SessionsStatus,
    /// The leader's lease, when it holds one.
    pub lease: Option<LeaseStatus>,
    /// What has been batched since the node started.
    pub batching: BatchingStatus,
    /// What the process uses.
    pub resources: ResourceStatus,
    /// Where the time of a slot goes, since the node started.
    pub stages: Vec<StageStatus>,
}

/// The hash of what was applied, at the last slot at which replicas are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateStatus {
    /// That slot; 0: none yet.
    pub slot: u64,
    /// The hash after it, in hexadecimal digits.
    pub hash: String,
    /// The nodes whose states differed when they were last compared, each with the slot.
    pub differs: Vec<StateDiffers>,
}

/// A node whose state differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDiffers {
    /// The node.
    pub node: u16,
    /// The slot after which both were compared.
    pub slot: u64,
}

/// The table of sessions, as far as applied; counts since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionsStatus {
    /// Open ones.
    pub open: u64,
    /// The results that they hold.
    pub results: u64,
    /// Opened.
    pub opened: u64,
    /// Openings that found their session open.
    pub found: u64,
    /// Openings that were refused: the table was full.
    pub refused: u64,
    /// Ended by their time-out.
    pub expired: u64,
    /// Ended for others: they held no result.
    pub evicted: u64,
    /// Repetitions that got the result of their first application.
    pub repeated: u64,
    /// Repetitions whose result had been let go.
    pub forgotten: u64,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleStatus {
    /// Accepts what a leader proposes.
    #[default]
    Follower,
    /// Asks for promises.
    Candidate,
    /// Proposes.
    Leader,
    /// Serves nothing yet: the cluster is not founded, or the node has not learnt as what.
    Blank,
}

/// A ballot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotStatus {
    /// Its round.
    pub round: u64,
    /// Its candidate.
    pub node: u16,
}

/// A member as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// The member.
    pub id: u16,
    /// Its address, `host:port`.
    pub address: String,
    /// Whether a connection to it stands (true for the node itself).
    pub connected: bool,
    /// Why this node and the member refuse each other; null when they do not.
    pub refused: Option<String>,
    /// Milliseconds since something was last heard from it.
    pub last_contact_ms: Option<u64>,
    /// Its chosen watermark as last heard.
    pub chosen: Option<u64>,
}

/// A lease to serve reads without a round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseStatus {
    /// Milliseconds it still holds.
    pub remaining_ms: u64,
}

/// Counters since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchingStatus {
    /// Slots chosen.
    pub slots: u64,
    /// Records in them.
    pub records: u64,
    /// Durable writes of the log completed.
    pub durable_writes: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
}

/// One stage of a slot's way, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageStatus {
    /// `batch`: first command to sealing. `write`: hand-over to the log to durable. `peer`: sealing
    /// to the first peer's acceptance. `quorum`: sealing to chosen. `answer`: chosen to answers
    /// sent, with applying. `turn`: a turn of the node's thread.
    pub stage: String,
    /// How often it was passed.
    pub count: u64,
    /// Half took no longer.
    pub us_p50: f64,
    /// 90 in 100 took no longer.
    pub us_p90: f64,
    /// 99 in 100 took no longer.
    pub us_p99: f64,
    /// 999 in 1000 took no longer.
    pub us_p999: f64,
    /// The longest.
    pub us_max: f64,
    /// The mean.
    pub us_mean: f64,
}

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceStatus {
    /// The process id, so that a local load generator can measure it.
    pub process_id: u32,
    /// CPU time used, user and system, in microseconds.
    pub cpu_us: u64,
    /// The largest resident set so far, in bytes.
    pub rss_bytes_max: u64,
    /// Bytes of block memory in use.
    pub block_bytes_live: u64,
    /// Client connections.
    pub client_connections: u32,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Lines of its log that were dropped because standard error was closed, full or not read.
    pub log_lines_dropped: u64,
}
