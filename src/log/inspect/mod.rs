//! `loggos inspect`, the library half: reads the directory of a stopped node, verifies everything
//! in it, and tells what it holds and what is damaged.
//!
//! Called by `cli/` and by the simulator, which holds it against what a node says at start.
//! Guarantees: nothing is changed, not even a file opened for writing; damage is reported
//! whenever [`super::Log::open`] would refuse the log as damaged, and what the system refuses to read
//! as such; and one file is open at a time, however many there are. Unlike the start it goes on behind
//! damage, so that all of it is listed.

mod footers;
mod group;
mod report;

pub use report::{
    BallotReport, CheckpointReport, FooterReport, GroupReport, IdentityReport, InspectReport,
    LogReport, NotRead, SegmentReport, VoteCopyReport,
};

use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::{Ballot, BlockPool, GroupId, Placement, Slot};
use crate::io::Storage;

use super::{Damage, DataDir, Identity, IdentityError};
use group::{Expected, GroupWalk, Walked};

/// The file of the identity, for messages.
const IDENTITY_FILE: &str = "identity.toml";
/// Memory kept for reuse from segment to segment.
const POOL_IDLE_BYTES: usize = 2 * BUFFER_BYTES_MAX;
const GROUP_PREFIX: &str = "group-";

/// The value that stands for a slot, handed to the visitor: chosen slots in order, then those that
/// are accepted and not known to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct InspectedSlot<'a> {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The ballot at which it stands.
    pub ballot: Ballot,
    /// Whether it is known to be chosen.
    pub chosen: bool,
    /// The segment that holds it.
    pub segment: u64,
    /// Of its header, in the segment's file.
    pub offset: u64,
    /// The value, verified; empty for a no-op.
    pub value: &'a [u8],
    /// What became of its commands, when an index footer tells.
    pub placement: Option<&'a Placement>,
}

/// What is called for each slot.
pub type InspectVisitor<'a> = dyn FnMut(&InspectedSlot<'_>) + 'a;

/// Inspects the directory behind `storage`, which nobody else may be using.
///
/// # Errors
/// When it is no data directory at all (never formatted, or of another version), or cannot be listed.
/// Damage and what cannot be read are told in the report.
pub fn inspect<S: Storage>(
    storage: &mut S,
    visitor: &mut InspectVisitor<'_>,
) -> Result<InspectReport, IdentityError> {
    let folders = group_folders(storage)?;
    let mut report = InspectReport::default();
    let identity = match DataDir::load(storage) {
        Ok(identity) => Some(identity),
        Err(IdentityError::Unformatted) if !folders.is_empty() => {
            let why = "it is missing, though logs stand beside it".to_owned();
            report.damage.push(Damage::new(IDENTITY_FILE, 0, None, why));
            None
        }
        Err(
            error @ (IdentityError::Unformatted
            | IdentityError::OlderVersion { .. }
            | IdentityError::OtherVersion { .. }),
        ) => {
            return Err(error);
        }
        Err(IdentityError::Io { what, source }) => {
            let what = format!("reading {IDENTITY_FILE}: {what}");
            report.not_read.push(NotRead { what, why: source.to_string() });
            None
        }
        Err(error) => {
            report.damage.push(Damage::new(IDENTITY_FILE, 0, None, error.to_string()));
            None
        }
    };
    report.identity = identity.as_ref().map(IdentityReport::from);
    let pool = BlockPool::new(POOL_IDLE_BYTES);
    for (group, folder) in wanted_groups(&folders, identity.as_ref()) {
        let expected = Expected::of(identity.as_ref(), group);
        let mut walk = GroupWalk::new(storage, &pool, &folder, expected, visitor);
        walk.run();
        let Walked { group, damage, not_read, mended } = walk.finish();
        report.groups.push(group);
        report.damage.extend(damage);
        report.not_read.extend(not_read);
        report.mended_at_start.extend(mended);
    }
    Ok(report)
}

/// The groups' folders that stand, by number.
fn group_folders<S: Storage>(storage: &mut S) -> Result<Vec<GroupId>, IdentityError> {
    let listing = |source| IdentityError::Io { what: "listing the directory".into(), source };
    let names = storage.list("").map_err(listing)?;
    let number = |name: &String| name.strip_prefix(GROUP_PREFIX)?.parse().ok().map(GroupId);
    let folders = names.iter().filter_map(number);
    Ok(folders.filter(|group| names.contains(&DataDir::group_folder(*group))).collect())
}

/// The groups to look at: those of the identity, or those that stand when there is none.
fn wanted_groups(standing: &[GroupId], identity: Option<&Identity>) -> Vec<(GroupId, String)> {
    let groups: Vec<GroupId> = match identity {
        Some(identity) => (0..identity.group_count).map(GroupId).collect(),
        None => standing.to_vec(),
    };
    groups.into_iter().map(|group| (group, DataDir::group_folder(group))).collect()
}
