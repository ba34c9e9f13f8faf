//! Glue between the core, the log, the machine and the wire: completions in, steps, submissions
//! out. No protocol rule lives here.
//!
//! `server/` owns a [`Node`] and drives it once per turn; the simulator drives the same code.
//! Guarantee: what [`crate::paxos::Effect::Persist`] holds back leaves only after the log has
//! reported it durable; positions are answered only for slots that are chosen and applied.

mod appends;
mod audit;
mod barriers;
mod cache;
mod checkpoints;
mod dial;
mod divergence;
mod founding;
mod identity;
mod log_time;
mod outbox;
mod peers;
mod replica;
mod serve;
mod stages;
mod status;

pub use audit::RecoveredState;
pub use cache::AppliedSlot;
pub use dial::redialled_within;
pub use founding::InitFailure;
pub use identity::Identity;
pub use outbox::Outbox;
pub use replica::Node;
pub use serve::read_ahead_bytes_max;
pub use stages::Stage;
pub use status::Watermarks;

use crate::base::limits::{APPEND_BYTES_MAX, MIB};
use crate::base::sectors::value_bytes_max;
use crate::base::{BlockPool, ClusterId, GroupId, NodeId, Slot};
use crate::io::ConnId;
use crate::log::{IdentityError, LogError, LogFailure, LogOptions, ReadEntry, ReadError};
use crate::machine::{
    BATCH_HEADER_SIZE, BatchError, Outcome, STATE_MARK_EVERY, SessionLimits, command_size_max,
};
use crate::paxos::{Config, ConfigError};

/// Linearizable reads that wait to be confirmed, at most.
const BARRIERS_MAX: usize = 64 * 1024;
/// Memory kept alive by recently applied slots, in bytes.
const CACHE_BYTES_MAX: usize = 32 * MIB;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Which cluster, which node, which members.
    pub identity: Identity,
    /// The group that this node object serves.
    pub group: GroupId,
    /// The core's parameters.
    pub paxos: Config,
    /// The log's parameters.
    pub log: LogOptions,
    /// Where all batches' memory comes from.
    pub pool: BlockPool,
    /// Memory kept alive by recently applied slots, in bytes.
    pub cache_bytes_max: usize,
    /// The largest run of records of one append, in bytes; clients are told.
    pub append_bytes_max: usize,
    /// At multiples of so many slots the hash of the state is compared with the peers': the same on every
    /// replica.
    pub state_mark_every: u64,
    /// The bounds of the table of sessions: the same on every replica.
    pub session_limits: SessionLimits,
    /// Whether everything applied is also kept for [`Node::take_applied`], and what was recovered
    /// for [`Node::recovered`]: for whoever judges the node from outside.
    pub audit: bool,
    /// Whether a stop takes a checkpoint also where it would spare the next start little: for a
    /// simulator, whose logs are small.
    pub checkpoint_at_every_stop: bool,
    /// The seed of election jitter and reconnect back-off.
    pub seed: u64,
    /// Drawn at random: the id of the cluster, should this node found it.
    pub fresh_cluster: ClusterId,
}

impl NodeOptions {
    /// The defaults for the first group of `identity`.
    pub fn new(identity: Identity, pool: BlockPool, seed: u64) -> NodeOptions {
        let group = GroupId(0);
        let mut log = LogOptions::new(identity.incarnation, identity.node, group, pool.clone());
        log.has_peers = identity.members.len() > 1;
        NodeOptions {
            paxos: Config::new(identity.node, identity.member_ids()),
            log,
            identity,
            group,
            pool,
            cache_bytes_max: CACHE_BYTES_MAX,
            append_bytes_max: APPEND_BYTES_MAX,
            state_mark_every: STATE_MARK_EVERY,
            session_limits: SessionLimits::default(),
            audit: false,
            checkpoint_at_every_stop: false,
            seed,
            fresh_cluster: ClusterId(u128::from(seed) << 64 | 1),
        }
    }

    /// The same for another group.
    pub fn for_group(mut self, group: GroupId) -> NodeOptions {
        self.group = group;
        self.log.group = group;
        self
    }

    /// The largest value of a slot that fits an entry of the log.
    pub fn value_bytes_max(&self) -> usize {
        value_bytes_max(self.log.entry_bytes_max)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let needed = BATCH_HEADER_SIZE + command_size_max(self.append_bytes_max);
        if self.append_bytes_max > APPEND_BYTES_MAX || needed > self.value_bytes_max() {
            return Err(ConfigError::Range("append_bytes_max must fit an entry of the log"));
        }
        Ok(())
    }

    /// The folder of the group's log within the data directory.
    pub fn folder(&self) -> String {
        format!("group-{:04}", self.group.0)
    }
}

/// Requests to hand the leadership over that may wait at a time.
const TRANSFERS_MAX: usize = 64;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The client's connection.
    pub conn: ConnId,
    /// The client's number for the request.
    pub request: u64,
}

/// An answer to a client's request. Each ticket handed in comes back once.
#[derive(Debug)]
pub enum Answer {
    /// A command has been applied, or will not be answered from here.
    Command {
        /// Who waits.
        ticket: Ticket,
        /// What it came to.
        result: Result<Outcome, CommandFailure>,
    },
    /// A linearizable read may be answered from here now, or no leader has confirmed it.
    Confirmed {
        /// Who waits.
        ticket: Ticket,
        /// Whether it may be answered.
        confirmed: bool,
    },
    /// The leadership has been handed over, or not.
    Transfer {
        /// Who waits.
        ticket: Ticket,
        /// The member that was to lead.
        to: NodeId,
        /// Whether it has begun to.
        taken_over: bool,
    },
    /// The cluster is founded, or not by the time that was given.
    Founded {
        /// Who waits.
        ticket: Ticket,
        /// As what.
        result: Result<ClusterId, InitFailure>,
    },
    /// A read of the log has ended.
    Read {
        /// Who waits.
        ticket: Ticket,
        /// The slot that was read.
        result: Result<ReadEntry, ReadError>,
    },
}

/// Why a command that was taken has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandFailure {
    /// Never proposed: certainly without effect.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// Proposed by a leader that leads no more: it may yet be chosen, or not.
    OutcomeUnknown,
}

/// Why a request is not taken. It certainly has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Only the leader appends.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// The disk has no room for another segment.
    DiskFull,
    /// More is under way than the windows hold.
    Overloaded,
    /// The position is not stored here.
    NotStored(String),
}

/// Why a node cannot start, or must stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeFailure {
    /// The log cannot be opened or trusted.
    #[error(transparent)]
    Open(#[from] LogError),
    /// A write or flush of the log failed while serving.
    #[error(transparent)]
    Disk(#[from] LogFailure),
    /// The ring itself has failed.
    #[error("io_uring has failed: {0}")]
    Ring(std::io::Error),
    /// A chosen value is not understood: it has not been applied, and nothing after it.
    #[error(
        "slot {slot} of group {group} needs a newer version: {error}; the slot is kept and nothing of \
         it has been applied: start the node with the version that its peers run"
    )]
    NewerVersion {
        /// The group.
        group: GroupId,
        /// The slot that is not applied.
        slot: Slot,
        /// What is not understood.
        error: BatchError,
    },
    /// What the cluster was founded as cannot be written down, or is not what stands there.
    #[error("the cluster's founding: {0}")]
    Founding(#[source] IdentityError),
    /// The state differs from that of a majority of the members.
    #[error(
        "after slot {slot} of group {group} this replica's state differs from that of nodes {peers:?}, \
         which are alike: what it holds is not what was chosen, or it was applied wrongly; keep its \
         data for whoever looks into it, and put a fresh node in its place"
    )]
    Diverged {
        /// The group.
        group: GroupId,
        /// The slot after which it was compared.
        slot: Slot,
        /// The majority.
        peers: Vec<u16>,
    },
    /// The parameters do not fit together.
    #[error("the configuration cannot work: {0}")]
    Config(#[from] ConfigError),
}
