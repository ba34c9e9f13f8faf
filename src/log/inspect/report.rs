//! What an inspection tells: plain data, the same for people and for scripts.
//!
//! The field names are those of `loggos inspect --json`; scripts rely on them.

use std::fmt;

use serde::Serialize;

use crate::base::{Ballot, GroupId, Slot};
use crate::log::Damage;
use crate::log::Identity;

/// A ballot, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BallotReport {
    /// Its round; 0 = no ballot.
    pub round: u64,
    /// The node that made it.
    pub node: u16,
}

impl From<Ballot> for BallotReport {
    fn from(ballot: Ballot) -> BallotReport {
        BallotReport { round: ballot.round, node: ballot.node.0 }
    }
}

/// Who the directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdentityReport {
    /// The cluster's name.
    pub cluster: String,
    /// Its id; empty when the directory is blank.
    pub cluster_id: String,
    /// What the directory alone is called; a digest of it stands in every header.
    pub incarnation: String,
    /// The node.
    pub node: u16,
    /// All members as `id=address`.
    pub members: Vec<String>,
    /// How many groups the node serves.
    pub group_count: u16,
    /// The size of a segment file in bytes.
    pub segment_bytes: u64,
}

impl From<&Identity> for IdentityReport {
    fn from(identity: &Identity) -> IdentityReport {
        let member = |m: &crate::log::Member| format!("{}={}", m.node, m.address);
        IdentityReport {
            cluster: identity.cluster.clone(),
            cluster_id: identity
                .founding
                .as_ref()
                .map_or_else(String::new, |f| f.cluster.to_string()),
            incarnation: identity.incarnation.to_string(),
            node: identity.node.0,
            members: identity.members.iter().map(member).collect(),
            group_count: identity.group_count,
            segment_bytes: identity.segment_bytes,
        }
    }
}

/// One copy of a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VoteCopyReport {
    /// The number of the promise; null when the copy is damaged.
    pub sequence: Option<u64>,
    /// The promised ballot; null when the copy is damaged.
    pub ballot: Option<BallotReport>,
    /// What is wrong with it; null when nothing is.
    pub why: Option<String>,
}

/// Whether a segment has an index footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FooterReport {
    /// Not written (yet).
    #[default]
    None,
    /// It stands and agrees with the entries.
    Valid,
    /// It is damaged or half-written, or tells of fewer entries: it is made again at start.
    Damaged,
}

/// The records that a segment holds of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// The log.
    pub log: u32,
    /// The lowest position.
    pub first: u64,
    /// The position behind the highest.
    pub end: u64,
    /// How many records: fewer than lie between the two when other segments hold some of them.
    pub records: u64,
}

/// One segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// Its number, from 1.
    pub segment: u64,
    /// The file, relative to the data directory.
    pub file: String,
    /// How often its blocks have been used; null before its first entry.
    pub generation: Option<u32>,
    /// Verified entries, marks included.
    pub entries: u64,
    /// Idle marks among them.
    pub marks: u64,
    /// The lowest slot; null without entries.
    pub slot_first: Option<u64>,
    /// The highest slot; null without entries.
    pub slot_last: Option<u64>,
    /// The lowest ballot; null without entries.
    pub ballot_lowest: Option<BallotReport>,
    /// The highest ballot; null without entries.
    pub ballot_highest: Option<BallotReport>,
    /// Bytes of the verified entries in whole blocks.
    pub entry_bytes: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// The index footer.
    pub footer: FooterReport,
    /// The records of each log, as a valid index footer tells; empty without one.
    pub logs: Vec<LogReport>,
    /// Commands that added no records although they could, as a valid index footer tells.
    pub refused: u64,
}

impl SegmentReport {
    pub(super) fn note(&mut self, slot: Option<Slot>, ballot: Ballot, bytes: u64, value: u64) {
        self.entries += 1;
        self.entry_bytes += bytes;
        self.value_bytes += value;
        let Some(slot) = slot else {
            self.marks += 1;
            return;
        };
        let first = self.slot_first.unwrap_or(slot.0);
        self.slot_first = Some(first.min(slot.0));
        self.slot_last = self.slot_last.max(Some(slot.0));
        let key = |b: &BallotReport| (b.round, b.node);
        let ballot = BallotReport::from(ballot);
        if self.ballot_lowest.is_none_or(|lowest| key(&ballot) < key(&lowest)) {
            self.ballot_lowest = Some(ballot);
        }
        if self.ballot_highest.is_none_or(|highest| key(&ballot) > key(&highest)) {
            self.ballot_highest = Some(ballot);
        }
    }
}

/// One file of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckpointReport {
    /// The file, relative to the data directory.
    pub file: String,
    /// The slot after which the state was taken; null when its header is damaged.
    pub slot: Option<u64>,
    /// The log's entries up to this sequence were durable before it was begun; null likewise.
    pub sequence: Option<u64>,
    /// Its number: of two, the higher one is the newer; null when its header is damaged.
    pub number: Option<u64>,
    /// Bytes of the machine's state in it; null when its header is damaged.
    pub state_bytes: Option<u64>,
    /// Why a start does not go on from it; null when it may.
    pub why: Option<String>,
}

/// The record of what was cut from a log's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CutReport {
    /// Whether the node votes: what was cut was a tear.
    pub votes: bool,
    /// What was cut, and where.
    pub what: String,
}

/// The log of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupReport {
    /// What an earlier start has cut from the log's end, and what is not made good yet.
    pub cut: Option<CutReport>,
    /// The group.
    pub group: u16,
    /// Its folder, relative to the data directory.
    pub folder: String,
    /// The highest ballot in the vote or on any entry: the node accepts nothing below.
    pub promised: BallotReport,
    /// Both copies of the vote.
    pub vote: Vec<VoteCopyReport>,
    /// Every slot up to here is known to be chosen.
    pub chosen: u64,
    /// The highest slot accepted; 0 = none.
    pub accepted: u64,
    /// Verified entries, marks and repeated slots included.
    pub entries: u64,
    /// Idle marks among them.
    pub marks: u64,
    /// Entries whose slot was accepted again later, or that repeat a chosen slot.
    pub superseded: u64,
    /// Entries that are missing from the chain because of damage.
    pub entries_lost: u64,
    /// Bytes of the verified entries in whole blocks.
    pub entry_bytes: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Bytes of all segment files.
    pub file_bytes: u64,
    /// Bytes of a torn tail: never acknowledged, cut at the next start.
    pub torn_bytes: u64,
    /// The checkpoints that stand, by name. One that is damaged costs time and nothing else.
    pub checkpoints: Vec<CheckpointReport>,
    /// The segments, by number.
    pub segments: Vec<SegmentReport>,
}

impl GroupReport {
    pub(super) fn new(group: GroupId, folder: &str) -> GroupReport {
        GroupReport { group: group.0, folder: folder.to_owned(), ..GroupReport::default() }
    }
}

/// What the system refused to read: nothing is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRead {
    /// What was tried.
    pub what: String,
    /// The system's own word.
    pub why: String,
}

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// A data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InspectReport {
    /// Whose it is; null when the identity cannot be read.
    pub identity: Option<IdentityReport>,
    /// Its groups.
    pub groups: Vec<GroupReport>,
    /// What had been durable and is damaged or missing: the node refuses to start.
    pub damage: Vec<Damage>,
    /// Where the system refused (too many open files, no permission, an I/O error): the rest of that
    /// group has not been looked at, and may be sound or damaged.
    pub not_read: Vec<NotRead>,
    /// What a crash can leave and the next start mends by itself: a torn tail, one damaged copy of
    /// the vote, a footer that was not finished.
    pub mended_at_start: Vec<Damage>,
}

impl InspectReport {
    /// Everything has been read, and nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.not_read.is_empty()
    }
}
