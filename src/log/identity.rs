//! The identity of a data directory: which cluster, which node, which members.
//!
//! Made once by `loggos format` ([`DataDir::format`]), read by whoever opens the directory. A
//! directory without one is nobody's and is never served: a blank disk is not a member.
//!
//! `identity.toml` is TOML for people to read, padded with newlines to whole blocks. Its first
//! line is a comment with the checksum of everything behind that line, so that a flipped bit or an
//! edit is noticed; the identity is never edited by hand. `founding.toml` stands beside it, in the
//! same form, once the node knows what its cluster was founded as ([`DataDir::adopt`]); until then the
//! directory is blank.

use std::cmp::Ordering;
use std::io;

use serde::{Deserialize, Serialize};

use crate::base::limits::{BLOCK_SIZE, GROUPS_MAX, MEMBERS_MAX, block_align};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::mutants::{Mutant, planted};
use crate::base::{BlockPool, Checksum, ClusterId, Founding, GroupId, Incarnation, NodeId};
use crate::io::{FileOptions, Storage};

use super::{Log, LogError, LogOptions, format};

const FILE: &str = "identity.toml";
const FILE_NEW: &str = "identity.toml.new";
/// As what the cluster was founded.
pub(super) const FOUNDING: &str = "founding.toml";
const FOUNDING_NEW: &str = "founding.toml.new";
/// Held by whoever works on the directory, `format` included; no content.
const FILE_LOCK: &str = "LOCK";
/// Made by mkfs in the root of a fresh file system.
const LOST_AND_FOUND: &str = "lost+found";
/// The version of the directory's layout and of every format in it.
const FORMAT_VERSION: u32 = format::FORMAT_VERSION as u32;
/// An identity is small; a larger file is not one.
const IDENTITY_BYTES_MAX: usize = 64 * 1024;
const CHECKSUM_PREFIX: &str = "# checksum ";
/// Segments filled ahead in each group at most: every start opens each of them and reads some of its
/// blocks, for proof that nothing was cut.
pub(super) const SEGMENTS_AHEAD_MAX: u64 = 128;

const _: () = assert!(IDENTITY_BYTES_MAX <= BUFFER_BYTES_MAX);

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Where it serves peers and clients, `host:port`.
    pub address: String,
}

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// What this directory alone is called; a digest of it stands in every header.
    pub incarnation: Incarnation,
    /// The node.
    pub node: NodeId,
    /// All members, sorted by id.
    pub members: Vec<Member>,
    /// How many groups the node serves; each has its folder.
    pub group_count: u16,
    /// The size of a segment file in bytes.
    pub segment_bytes: u64,
    /// What the cluster was founded as; none where the directory is blank.
    pub founding: Option<Founding>,
}

/// What `format` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatRequest {
    /// The cluster's name.
    pub cluster: String,
    /// Drawn at random by the caller for this call, and for no other.
    pub incarnation: Incarnation,
    /// The node.
    pub node: NodeId,
    /// All members, the node included, in any order.
    pub members: Vec<Member>,
    /// How many groups.
    pub group_count: u16,
    /// The size of a segment file in bytes.
    pub segment_bytes: u64,
    /// The largest entry that will ever be appended, in bytes: a segment must hold one.
    pub entry_bytes_max: usize,
    /// Bytes of log that are filled with zeros ahead, over all groups, in whole segments.
    pub preallocate_bytes: u64,
}

/// Why a data directory cannot be formatted or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no identity: the directory was never formatted.
    #[error("it is not formatted (no {FILE}): run `loggos format` first")]
    Unformatted,
    /// Formatting would destroy what is there.
    #[error("it is not empty (it holds `{0}`): a directory is formatted once, and only when empty")]
    NotEmpty(String),
    /// The file is not what was written.
    #[error("{FILE} is damaged: {0}")]
    Damaged(String),
    /// The founding's file is not what was written here.
    #[error("{FOUNDING} is damaged: {0}")]
    FoundingDamaged(String),
    /// Written by a version before.
    #[error(
        "it has format {found}, which an older version wrote, and this one reads {FORMAT_VERSION} only. \
         To take the records along: make a new cluster with this version in other directories, and \
         for each log pipe what the old version's `loggos read` prints into this one's `loggos append`"
    )]
    OlderVersion {
        /// What the file says.
        found: u32,
    },
    /// Written by a later version.
    #[error(
        "it has format {found}, which a newer version wrote, and this one reads {FORMAT_VERSION} only"
    )]
    OtherVersion {
        /// What the file says.
        found: u32,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// The system refused an operation.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its file.
        what: String,
        /// The system's own word.
        source: io::Error,
    },
    /// A group's log could not be made.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What every version's file states.
#[derive(Debug, Deserialize)]
struct DocumentFormat {
    format: u32,
}

/// The file's content. Numbers and texts only: it is read by people and by later versions.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    cluster: String,
    incarnation: String,
    node: u16,
    group_count: u16,
    segment_bytes: u64,
    members: Vec<DocumentMember>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FoundingDocument {
    format: u32,
    cluster_id: String,
    members: Vec<FoundingMember>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FoundingMember {
    node: u16,
    incarnation: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct DocumentMember {
    node: u16,
    address: String,
}

/// A data directory, through the seam.
#[derive(Debug)]
pub struct DataDir;

impl DataDir {
    /// The folder of a group's log.
    pub fn group_folder(group: GroupId) -> String {
        format!("group-{:04}", group.0)
    }

    /// Makes the directory that `storage` stands for a member: the groups' logs first, the
    /// identity last, so that a crash half way leaves a directory that is not taken for one.
    ///
    /// # Errors
    /// When the directory holds anything (except the lock file, and what mkfs makes), or the request
    /// makes no sense.
    pub fn format<S: Storage>(
        storage: &mut S,
        request: &FormatRequest,
    ) -> Result<Identity, IdentityError> {
        let identity = check_request(request)?;
        let names = storage.list("").map_err(io_error("listing the directory"))?;
        if let Some(name) =
            names.into_iter().find(|name| name != FILE_LOCK && name != LOST_AND_FOUND)
        {
            return Err(IdentityError::NotEmpty(name));
        }
        let pool = BlockPool::new(0);
        let segments = segments_ahead(request);
        for group in (0..identity.group_count).map(GroupId) {
            let folder = DataDir::group_folder(group);
            storage.create_folder(&folder).map_err(io_error(&folder))?;
            let options = LogOptions::new(identity.incarnation, identity.node, group, pool.clone());
            let entry_bytes_max = request.entry_bytes_max;
            let segment_bytes = identity.segment_bytes;
            let options = LogOptions { segment_bytes, entry_bytes_max, ..options };
            options.validate()?;
            Log::format(storage, &folder, &options, segments)?;
        }
        // The folders' names must be durable before the identity says that they are there.
        storage.sync_folder("").map_err(io_error("syncing the directory"))?;
        write_identity(storage, &identity, &pool)?;
        Ok(identity)
    }

    /// The identity of a formatted directory.
    pub fn load<S: Storage>(storage: &mut S) -> Result<Identity, IdentityError> {
        let names = storage.list("").map_err(io_error("listing the directory"))?;
        if !names.iter().any(|name| name == FILE) {
            return Err(IdentityError::Unformatted);
        }
        let not_text = || IdentityError::Damaged("it is not text".to_owned());
        let mut identity = parse(&read(storage, FILE)?.ok_or_else(not_text)?)?;
        if names.iter().any(|name| name == FOUNDING) {
            let not_text = || IdentityError::FoundingDamaged("it is not text".to_owned());
            let text = read(storage, FOUNDING)?.ok_or_else(not_text)?;
            let founding = parse_founding(&text).map_err(IdentityError::FoundingDamaged)?;
            if founding.incarnation_of(identity.node) != Some(identity.incarnation) {
                let why = "it belongs to another directory: this one's incarnation is not in it";
                return Err(IdentityError::FoundingDamaged(why.to_owned()));
            }
            identity.founding = Some(founding);
        }
        Ok(identity)
    }

    /// Writes down what the cluster was founded as. Durable when this returns; at a crash before that
    /// the directory is blank or has it, whole. Blocks, once in a directory's life.
    ///
    /// # Errors
    /// What the disk says: nothing may rely on the founding then.
    pub fn adopt<S: Storage>(storage: &mut S, founding: &Founding) -> Result<(), IdentityError> {
        let document = FoundingDocument {
            format: FORMAT_VERSION,
            cluster_id: founding.cluster.to_string(),
            members: founding
                .members
                .iter()
                .map(|(node, at)| FoundingMember { node: node.0, incarnation: at.to_string() })
                .collect(),
        };
        // Left by a crash half way.
        let names = storage.list("").map_err(io_error("listing the directory"))?;
        if names.iter().any(|name| name == FOUNDING_NEW) {
            storage.remove(FOUNDING_NEW).map_err(io_error(FOUNDING_NEW))?;
        }
        let is_durable = !planted(Mutant::FoundingNotDurable);
        write(storage, (FOUNDING, FOUNDING_NEW), &document, &BlockPool::new(0), is_durable)
    }
}

/// Segments that each group has filled ahead.
fn segments_ahead(request: &FormatRequest) -> u64 {
    let share = request.preallocate_bytes.div_ceil(u64::from(request.group_count).max(1));
    share.div_ceil(request.segment_bytes.max(1))
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> IdentityError {
    let what = what.to_owned();
    move |source| IdentityError::Io { what, source }
}

fn check_request(request: &FormatRequest) -> Result<Identity, IdentityError> {
    let mut members = request.members.clone();
    members.sort_unstable_by_key(|member| member.node);
    let distinct = members.windows(2).all(|pair| pair[0].node < pair[1].node);
    let named = members.iter().any(|member| member.node == request.node);
    let unnamed = members.iter().any(|member| member.node == NodeId(0));
    let problem = if request.cluster.is_empty() {
        "the cluster needs a name"
    } else if !distinct || unnamed {
        "the members need different ids from 1"
    } else if !named {
        "the node is not among the members"
    } else if request.incarnation == Incarnation::NONE {
        "the incarnation must be drawn"
    } else if members.len() > MEMBERS_MAX {
        "there are too many members"
    } else if segments_ahead(request) > SEGMENTS_AHEAD_MAX {
        "too many segments would be filled ahead: give fewer bytes, or larger segments"
    } else if !(1..=GROUPS_MAX).contains(&usize::from(request.group_count)) {
        "there are 1 to 64 groups"
    } else {
        return Ok(Identity {
            cluster: request.cluster.clone(),
            incarnation: request.incarnation,
            node: request.node,
            members,
            group_count: request.group_count,
            segment_bytes: request.segment_bytes,
            founding: None,
        });
    };
    Err(IdentityError::Request(problem.to_owned()))
}

fn write_identity<S: Storage>(
    storage: &mut S,
    identity: &Identity,
    pool: &BlockPool,
) -> Result<(), IdentityError> {
    let document = Document {
        format: FORMAT_VERSION,
        cluster: identity.cluster.clone(),
        incarnation: identity.incarnation.to_string(),
        node: identity.node.0,
        group_count: identity.group_count,
        segment_bytes: identity.segment_bytes,
        members: identity
            .members
            .iter()
            .map(|member| DocumentMember { node: member.node.0, address: member.address.clone() })
            .collect(),
    };
    write(storage, (FILE, FILE_NEW), &document, pool, true)
}

/// Writes a document under its second name and renames it to its first when it is durable.
fn write<S: Storage>(
    storage: &mut S,
    (name, name_new): (&str, &str),
    document: &impl Serialize,
    pool: &BlockPool,
    is_durable: bool,
) -> Result<(), IdentityError> {
    let body = toml::to_string(document)
        .map_err(|error| IdentityError::Request(format!("it cannot be written down: {error}")))?;
    let text = format!("{CHECKSUM_PREFIX}{}\n{body}", Checksum::of(body.as_bytes()));
    if text.len() > IDENTITY_BYTES_MAX {
        return Err(IdentityError::Request("the names and addresses are too long".to_owned()));
    }
    let length = block_align(text.len());
    let mut buffer = pool.take(length);
    buffer[..length].fill(b'\n');
    buffer[..text.len()].copy_from_slice(text.as_bytes());
    let file = storage.open(name_new, FileOptions::CreateNew).map_err(io_error(name_new))?;
    let written = storage.write_at(file, 0, &buffer, length);
    let written = written.and_then(|()| if is_durable { storage.sync(file) } else { Ok(()) });
    storage.close(file);
    written.map_err(io_error(name_new))?;
    storage.rename(name_new, name).map_err(io_error(name))?;
    if !is_durable {
        return Ok(());
    }
    storage.sync_folder("").map_err(io_error("syncing the directory"))
}

/// The file's text; none when it is none.
fn read<S: Storage>(storage: &mut S, name: &str) -> Result<Option<String>, IdentityError> {
    let file = storage.open(name, FileOptions::Read).map_err(io_error(name))?;
    let mut buffer = BlockPool::new(0).take(IDENTITY_BYTES_MAX);
    let size = storage.read_at(file, 0, &mut buffer, IDENTITY_BYTES_MAX);
    storage.close(file);
    let size = size.map_err(io_error(name))?;
    Ok(String::from_utf8(buffer[..size].to_vec()).ok())
}

/// What stands behind the line with the checksum, verified; `Err` says what is wrong.
fn verified(text: &str) -> Result<String, String> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let stated = first.strip_prefix(CHECKSUM_PREFIX).unwrap_or_default();
    let stated = u32::from_str_radix(stated.trim(), 16)
        .map_err(|_| "its first line is no checksum".to_owned())?;
    // The padding is newlines; the document itself ends in exactly one.
    let body = format!("{}\n", rest.trim_end_matches('\n'));
    let found = Checksum::of(body.as_bytes());
    if found != Checksum(stated) {
        let stated = Checksum(stated);
        return Err(format!("its checksum is {found} where {stated} is stated"));
    }
    Ok(body)
}

fn parse_founding(text: &str) -> Result<Founding, String> {
    let document: FoundingDocument =
        toml::from_str(&verified(text)?).map_err(|error| error.message().to_owned())?;
    if document.format != FORMAT_VERSION {
        return Err(format!("it has format {}, not {FORMAT_VERSION}", document.format));
    }
    let number = |text: &str| u128::from_str_radix(text, 16).map_err(|error| error.to_string());
    let member = |member: &FoundingMember| {
        Ok((NodeId(member.node), Incarnation(number(&member.incarnation)?)))
    };
    let members = document.members.iter().map(member).collect::<Result<_, String>>()?;
    let founding = Founding { cluster: ClusterId(number(&document.cluster_id)?), members };
    // Judged as one that comes from the log.
    Founding::decode(&founding.encode()).ok_or_else(|| "its members make no sense".to_owned())
}

fn parse(text: &str) -> Result<Identity, IdentityError> {
    let damaged = |why: String| IdentityError::Damaged(why);
    let body = verified(text).map_err(damaged)?;
    let garbled = |error: toml::de::Error| damaged(error.message().to_owned());
    let DocumentFormat { format: found } = toml::from_str(&body).map_err(garbled)?;
    match found.cmp(&FORMAT_VERSION) {
        Ordering::Less => return Err(IdentityError::OlderVersion { found }),
        Ordering::Greater => return Err(IdentityError::OtherVersion { found }),
        Ordering::Equal => {}
    }
    let document: Document = toml::from_str(&body).map_err(garbled)?;
    let incarnation = u128::from_str_radix(&document.incarnation, 16)
        .map_err(|_| damaged("the incarnation is no number".to_owned()))?;
    let members = document
        .members
        .into_iter()
        .map(|member| Member { node: NodeId(member.node), address: member.address })
        .collect();
    let request = FormatRequest {
        cluster: document.cluster,
        incarnation: Incarnation(incarnation),
        node: NodeId(document.node),
        members,
        group_count: document.group_count,
        segment_bytes: document.segment_bytes,
        entry_bytes_max: BUFFER_BYTES_MAX,
        preallocate_bytes: 0,
    };
    let identity = check_request(&request)?;
    if !identity.segment_bytes.is_multiple_of(BLOCK_SIZE as u64) {
        return Err(damaged("segment_bytes is not a whole number of blocks".to_owned()));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let body = toml::to_string(&Document {
            format: FORMAT_VERSION,
            cluster: "demo".to_owned(),
            incarnation: Incarnation(0x1234).to_string(),
            node: 2,
            group_count: 1,
            segment_bytes: 64 << 20,
            members: (1..=3)
                .map(|node| DocumentMember { node, address: format!("host-{node}:7400") })
                .collect(),
        })
        .unwrap();
        format!("{CHECKSUM_PREFIX}{}\n{body}", Checksum::of(body.as_bytes()))
    }

    #[test]
    fn what_is_written_is_read_and_padding_does_not_matter() {
        let identity = parse(&text()).unwrap();
        assert_eq!((identity.node, identity.members.len()), (NodeId(2), 3));
        assert_eq!(parse(&(text() + "\n\n\n\n")).unwrap(), identity);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = text().into_bytes();
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                let Ok(bad) = String::from_utf8(bad) else { continue };
                // A flip in the case of a checksum's digit says the same number.
                if bad.eq_ignore_ascii_case(&text()) && index < CHECKSUM_PREFIX.len() + 8 {
                    continue;
                }
                assert!(parse(&bad).is_err(), "bit {bit} of byte {index}");
            }
        }
    }

    #[test]
    fn format_2_is_refused_with_the_way_out() {
        // As the version before wrote it.
        let body = "format = 2\ncluster = \"demo\"\ncluster_id = \"8594\"\nnode = 1\n\
                    group_count = 1\nsegment_bytes = 67108864\n\n\
                    [[members]]\nnode = 1\naddress = \"host:1\"\n";
        let text = format!("{CHECKSUM_PREFIX}{}\n{body}", Checksum::of(body.as_bytes()));
        let why = parse(&text).unwrap_err().to_string();
        assert!(why.contains("format 2"), "{why}");
        assert!(why.contains("`loggos read`") && why.contains("`loggos append`"), "{why}");
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let stated = format!("format = {FORMAT_VERSION}");
        for version in [FORMAT_VERSION + 1, FORMAT_VERSION + 9] {
            let other = format!("format = {version}");
            let body = text().split_once('\n').unwrap().1.replace(&stated, &other);
            let other = format!("{CHECKSUM_PREFIX}{}\n{body}", Checksum::of(body.as_bytes()));
            let found = parse(&other);
            assert!(
                matches!(found, Err(IdentityError::OtherVersion { found }) if found == version),
                "{found:?}"
            );
        }
    }

    #[test]
    fn foundings_round_trip_and_flips_are_noticed() {
        let document = FoundingDocument {
            format: FORMAT_VERSION,
            cluster_id: ClusterId(9).to_string(),
            members: (1..=3)
                .map(|node| FoundingMember { node, incarnation: format!("{:032x}", node) })
                .collect(),
        };
        let body = toml::to_string(&document).unwrap();
        let text = format!("{CHECKSUM_PREFIX}{}\n{body}", Checksum::of(body.as_bytes()));
        let founding = parse_founding(&text).unwrap();
        assert_eq!(founding.cluster, ClusterId(9));
        assert_eq!(founding.incarnation_of(NodeId(3)), Some(Incarnation(3)));
        for index in text.find('\n').unwrap()..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[index] ^= 1;
            assert!(parse_founding(&String::from_utf8(bad).unwrap()).is_err(), "byte {index}");
        }
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let member = |node| Member { node: NodeId(node), address: format!("host:{node}") };
        let request = FormatRequest {
            cluster: "demo".to_owned(),
            incarnation: Incarnation(1),
            node: NodeId(1),
            members: vec![member(2), member(1)],
            group_count: 1,
            segment_bytes: 64 << 20,
            entry_bytes_max: BUFFER_BYTES_MAX,
            preallocate_bytes: 0,
        };
        assert_eq!(check_request(&request).unwrap().members[0].node, NodeId(1));
        let bad = [
            FormatRequest { cluster: String::new(), ..request.clone() },
            FormatRequest { incarnation: Incarnation::NONE, ..request.clone() },
            FormatRequest { node: NodeId(3), ..request.clone() },
            FormatRequest { members: vec![member(1), member(1)], ..request.clone() },
            FormatRequest { members: vec![member(0), member(1)], ..request.clone() },
            FormatRequest { group_count: 0, ..request.clone() },
            FormatRequest { preallocate_bytes: 129 * (64 << 20), ..request.clone() },
        ];
        for request in bad {
            assert!(matches!(check_request(&request), Err(IdentityError::Request(_))));
        }
    }
}
