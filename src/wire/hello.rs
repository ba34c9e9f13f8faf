//! The first frame in each direction: who are you, and do we belong together?
//!
//! FROZEN: the layout of both frames (and of the frame header) never changes, so that any version
//! can tell any other that they do not fit. Later versions may add fields behind the last one;
//! readers ignore bytes they do not know, here and nowhere else.
//!
//! ```text
//! Hello       protocol u16, role u8 (1 peer, 2 client), cluster name known u8, its digest u64,
//!             node u16, to u16, members digest u64, group count u16        (0 for clients),
//!             group u16                      (left out by a client when it is group 0)
//!   peer:     standing, founding it has accepted (length u16, bytes)
//! HelloReply  protocol u16, verdict u8 (0 welcome, 1 refused), 0 u8, then
//!   welcome:  node u16, leader u16 (0 none), cluster name's digest u64, group count u16,
//!             5 limits u32, member count u16, members (node u16, address text), cluster name text,
//!             standing, founding it has accepted (length u16, bytes)
//!   refused:  reason u16, text
//! text        length u16, UTF-8
//! standing    cluster u128 (0: it is blank), its own incarnation u128, the other's as it was
//!             founded u128 (0: not known), whether it is blank and holds entries u8
//! ```

use super::decoder::{Frame, PayloadBuffer};
use super::error::WireError;
use super::fields::{Fields, PutFields};
use super::frame::{FrameEncoder, FrameKind, META_SIZE_MAX, PayloadStamp};
use crate::base::limits::{
    APPEND_BYTES_MAX, APPEND_RECORDS_MAX, MEMBERS_MAX, RECORD_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::base::{ClusterDigest, ClusterId, Founding, GroupId, Incarnation, NodeId};

/// The version of everything behind the hello. Both sides must have the same.
pub const PROTOCOL_VERSION: u16 = 4;
/// The longest member address in bytes.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// The longest cluster name in bytes.
pub const CLUSTER_NAME_BYTES_MAX: usize = 255;
/// The longest explanation in bytes; a longer one is cut.
pub const TEXT_BYTES_MAX: usize = 512;

/// Everything of a welcome but the texts, and the length prefixes of those.
const WELCOME_FIXED_SIZE: usize = 128 + Founding::BYTES_MAX;

const _: () = assert!(
    WELCOME_FIXED_SIZE + MEMBERS_MAX * (4 + ADDRESS_BYTES_MAX) + CLUSTER_NAME_BYTES_MAX
        <= META_SIZE_MAX
);

/// What whoever connects says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`PROTOCOL_VERSION`].
    pub protocol_version: u16,
    /// The digest of the name of the cluster that the sender means; a client may leave it open.
    pub cluster: Option<ClusterDigest>,
    /// What the sender is.
    pub role: HelloRole,
    /// The group that everything behind the hello is about.
    pub group: GroupId,
}

/// What whoever connects is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloRole {
    /// A replica. It must name the cluster.
    Peer {
        /// Itself.
        node: NodeId,
        /// Whom it means to reach.
        to: NodeId,
        /// [`members_digest`] of its member list.
        members_digest: u64,
        /// Its number of groups.
        group_count: u16,
        /// Which cluster it was founded in, from which directory.
        standing: Standing,
        /// A founding that it has accepted and does not know chosen.
        pending: Option<Founding>,
    },
    /// A client.
    Client,
}

/// Which cluster a node was founded in, and from which data directory it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its cluster; none when it is blank.
    pub cluster: Option<ClusterId>,
    /// The incarnation of its directory.
    pub incarnation: Incarnation,
    /// The incarnation under which the node that it speaks to was founded, as far as it knows.
    pub expects: Option<Incarnation>,
    /// It is blank and holds entries of a cluster that it does not know yet.
    pub is_used: bool,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one for each handshake, and never kept")]
pub enum HelloReply {
    /// The connection stands.
    Welcome(Welcome),
    /// It does not; the connection is closed behind this.
    Refused {
        /// The refusing side's [`PROTOCOL_VERSION`].
        protocol_version: u16,
        /// Why, for programs.
        reason: RefuseReason,
        /// Why, for people.
        text: String,
    },
}

/// Whom the sender of a hello has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The answering side's [`PROTOCOL_VERSION`].
    pub protocol_version: u16,
    /// The node that answers.
    pub node: NodeId,
    /// The digest of its cluster's name.
    pub cluster: ClusterDigest,
    /// That cluster's name.
    pub cluster_name: String,
    /// Its number of groups.
    pub group_count: u16,
    /// All members and their addresses (`host:port`).
    pub members: Vec<(NodeId, String)>,
    /// The leader, as far as the node knows.
    pub leader: Option<NodeId>,
    /// What the node takes.
    pub limits: Limits,
    /// Which cluster it was founded in, from which directory.
    pub standing: Standing,
    /// A founding that it has accepted and does not know chosen.
    pub pending: Option<Founding>,
}

/// What a node takes from one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest record in bytes.
    pub record_bytes_max: u32,
    /// The most records in one append.
    pub append_records_max: u32,
    /// The largest run of records in one append, in bytes.
    pub append_bytes_max: u32,
    /// The largest run of records in one read's answer, in bytes.
    pub read_bytes_max: u32,
    /// The most requests of one connection not yet answered; above it the node stops reading.
    pub inflight_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            record_bytes_max: RECORD_BYTES_MAX as u32,
            append_records_max: APPEND_RECORDS_MAX as u32,
            append_bytes_max: APPEND_BYTES_MAX as u32,
            read_bytes_max: VALUE_BYTES_MAX as u32,
            inflight_max: 4096,
        }
    }
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// The sender means another cluster.
    OtherCluster,
    /// The sender speaks another protocol version.
    OtherVersion,
    /// The sender dialled one node and reached another.
    WrongNode,
    /// The sender has another member list.
    MembersMismatch,
    /// The sender has another number of groups.
    GroupCountMismatch,
    /// The sender is no member.
    NotMember,
    /// The hello cannot be read.
    Malformed,
    /// The node has as many connections as it takes.
    TooManyConnections,
    /// The cluster has no such group.
    NoSuchGroup,
    /// The node is blank: its cluster is not founded, or it has not learnt as what.
    NotFounded,
    /// One of the two runs from another data directory than it was founded with.
    OtherIncarnation,
    /// The sender holds less than it had told that it holds: an older copy of its directory.
    OlderCopy,
    /// A reason of a later version.
    Other(u16),
}

impl RefuseReason {
    fn number(self) -> u16 {
        match self {
            RefuseReason::OtherCluster => 1,
            RefuseReason::OtherVersion => 2,
            RefuseReason::WrongNode => 3,
            RefuseReason::MembersMismatch => 4,
            RefuseReason::GroupCountMismatch => 5,
            RefuseReason::NotMember => 6,
            RefuseReason::Malformed => 7,
            RefuseReason::TooManyConnections => 8,
            RefuseReason::NoSuchGroup => 9,
            RefuseReason::NotFounded => 10,
            RefuseReason::OtherIncarnation => 11,
            RefuseReason::OlderCopy => 12,
            RefuseReason::Other(number) => number,
        }
    }

    fn from_number(number: u16) -> RefuseReason {
        match number {
            1 => RefuseReason::OtherCluster,
            2 => RefuseReason::OtherVersion,
            3 => RefuseReason::WrongNode,
            4 => RefuseReason::MembersMismatch,
            5 => RefuseReason::GroupCountMismatch,
            6 => RefuseReason::NotMember,
            7 => RefuseReason::Malformed,
            8 => RefuseReason::TooManyConnections,
            9 => RefuseReason::NoSuchGroup,
            10 => RefuseReason::NotFounded,
            11 => RefuseReason::OtherIncarnation,
            12 => RefuseReason::OlderCopy,
            other => RefuseReason::Other(other),
        }
    }
}

/// A digest of a member list, the same on every node with the same list (FNV-1a, 64 bits, over
/// the members sorted by node).
pub fn members_digest(members: &[(NodeId, String)]) -> u64 {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable();
    let texts: Vec<_> = sorted.iter().map(|(node, address)| format!("{node}={address}")).collect();
    ClusterDigest::of_name(&texts.join(",")).0
}

const ROLE_PEER: u8 = 1;
const ROLE_CLIENT: u8 = 2;

/// Adds the frame of `hello` to the end of `out`.
pub fn encode_hello(hello: &Hello, encoder: &mut FrameEncoder, out: &mut Vec<u8>) {
    let start = FrameEncoder::begin(out);
    out.put_u16(hello.protocol_version);
    let role = match hello.role {
        HelloRole::Peer { .. } => ROLE_PEER,
        HelloRole::Client => ROLE_CLIENT,
    };
    out.put_u8(role);
    out.put_u8(u8::from(hello.cluster.is_some()));
    out.put_u64(hello.cluster.unwrap_or_default().0);
    let (node, to, digest, group_count) = match hello.role {
        HelloRole::Peer { node, to, members_digest, group_count, .. } => {
            (node, to, members_digest, group_count)
        }
        HelloRole::Client => (NodeId(0), NodeId(0), 0, 0),
    };
    out.put_u16(node.0);
    out.put_u16(to.0);
    out.put_u64(digest);
    out.put_u16(group_count);
    if let HelloRole::Peer { standing, pending, .. } = &hello.role {
        out.put_u16(hello.group.0);
        put_standing(standing, pending.as_ref(), out);
    } else if hello.group != GroupId(0) {
        out.put_u16(hello.group.0);
    }
    let meta_end = out.len();
    encoder.finish(FrameKind::Hello, GroupId(0), start..meta_end, PayloadStamp::NONE, out);
}

/// The hello in `frame`, of whatever protocol version: the caller compares it.
///
/// # Errors
/// [`WireError::UnexpectedKind`] when it is no hello, [`WireError::Malformed`] when it cannot be
/// read.
pub fn decode_hello<B: PayloadBuffer>(frame: &Frame<'_, B>) -> Result<Hello, WireError> {
    let kind = frame.kind;
    if kind != FrameKind::Hello {
        return Err(WireError::UnexpectedKind { kind, expected: "a hello" });
    }
    let mut fields = Fields::new(kind, frame.meta);
    let protocol_version = fields.u16()?;
    let role = fields.u8()?;
    let cluster_known = fields.flag()?;
    let cluster = Some(ClusterDigest(fields.u64()?)).filter(|_| cluster_known);
    let node = NodeId(fields.u16()?);
    let to = NodeId(fields.u16()?);
    let members_digest = fields.u64()?;
    let group_count = fields.u16()?;
    let group = if fields.end().is_ok() { GroupId(0) } else { GroupId(fields.u16()?) };
    let role = match role {
        ROLE_PEER if cluster.is_none() => return Err(fields.malformed("a peer names no cluster")),
        ROLE_PEER => {
            let (standing, pending) = standing(protocol_version, &mut fields)?;
            HelloRole::Peer { node, to, members_digest, group_count, standing, pending }
        }
        ROLE_CLIENT => HelloRole::Client,
        _ => return Err(fields.malformed("an unknown role")),
    };
    Ok(Hello { protocol_version, cluster, role, group })
}

/// Adds the frame of `reply` to the end of `out`.
///
/// # Panics
/// When a welcome has more than [`MEMBERS_MAX`] members.
pub fn encode_hello_reply(reply: &HelloReply, encoder: &mut FrameEncoder, out: &mut Vec<u8>) {
    let start = FrameEncoder::begin(out);
    match reply {
        HelloReply::Welcome(welcome) => put_welcome(welcome, out),
        HelloReply::Refused { protocol_version, reason, text } => {
            out.put_u16(*protocol_version);
            out.put_u8(1);
            out.put_u8(0);
            out.put_u16(reason.number());
            out.put_text(text, TEXT_BYTES_MAX);
        }
    }
    let meta_end = out.len();
    encoder.finish(FrameKind::HelloReply, GroupId(0), start..meta_end, PayloadStamp::NONE, out);
}

fn put_welcome(welcome: &Welcome, out: &mut Vec<u8>) {
    assert!(welcome.members.len() <= MEMBERS_MAX, "{} members", welcome.members.len());
    out.put_u16(welcome.protocol_version);
    out.put_u8(0);
    out.put_u8(0);
    out.put_u16(welcome.node.0);
    out.put_u16(welcome.leader.unwrap_or_default().0);
    out.put_u64(welcome.cluster.0);
    out.put_u16(welcome.group_count);
    let limits = &welcome.limits;
    out.put_u32(limits.record_bytes_max);
    out.put_u32(limits.append_records_max);
    out.put_u32(limits.append_bytes_max);
    out.put_u32(limits.read_bytes_max);
    out.put_u32(limits.inflight_max);
    out.put_u16(welcome.members.len() as u16);
    for (node, address) in &welcome.members {
        out.put_u16(node.0);
        out.put_text(address, ADDRESS_BYTES_MAX);
    }
    out.put_text(&welcome.cluster_name, CLUSTER_NAME_BYTES_MAX);
    put_standing(&welcome.standing, welcome.pending.as_ref(), out);
}

fn put_standing(standing: &Standing, pending: Option<&Founding>, out: &mut Vec<u8>) {
    out.put_u128(standing.cluster.unwrap_or_default().0);
    out.put_u128(standing.incarnation.0);
    out.put_u128(standing.expects.unwrap_or_default().0);
    out.put_u8(u8::from(standing.is_used));
    out.put_bytes(&pending.map(Founding::encode).unwrap_or_default());
}

/// What [`put_standing`] has put; nothing where another version speaks, of which only the frozen part is
/// known.
fn standing(
    protocol_version: u16,
    fields: &mut Fields<'_>,
) -> Result<(Standing, Option<Founding>), WireError> {
    if protocol_version != PROTOCOL_VERSION {
        return Ok((Standing::default(), None));
    }
    let cluster = Some(ClusterId(fields.u128()?)).filter(|id| id.0 != 0);
    let incarnation = Incarnation(fields.u128()?);
    let expects = Some(Incarnation(fields.u128()?)).filter(|at| *at != Incarnation::NONE);
    let is_used = fields.flag()?;
    let pending = match fields.bytes()? {
        [] => None,
        bytes => match Founding::decode(bytes) {
            Some(founding) => Some(founding),
            None => return Err(fields.malformed("it tells of a founding that is none")),
        },
    };
    Ok((Standing { cluster, incarnation, expects, is_used }, pending))
}

/// The answer in `frame`, of whatever protocol version.
///
/// # Errors
/// As [`decode_hello`].
pub fn decode_hello_reply<B: PayloadBuffer>(frame: &Frame<'_, B>) -> Result<HelloReply, WireError> {
    let kind = frame.kind;
    if kind != FrameKind::HelloReply {
        return Err(WireError::UnexpectedKind { kind, expected: "the answer to a hello" });
    }
    let mut fields = Fields::new(kind, frame.meta);
    let protocol_version = fields.u16()?;
    let refused = fields.flag()?;
    fields.u8()?;
    if refused {
        let reason = RefuseReason::from_number(fields.u16()?);
        let text = fields.text()?.to_owned();
        return Ok(HelloReply::Refused { protocol_version, reason, text });
    }
    welcome(protocol_version, &mut fields).map(HelloReply::Welcome)
}

fn welcome(protocol_version: u16, fields: &mut Fields<'_>) -> Result<Welcome, WireError> {
    let node = NodeId(fields.u16()?);
    let leader = fields.node_option()?;
    let cluster = ClusterDigest(fields.u64()?);
    let group_count = fields.u16()?;
    let limits = Limits {
        record_bytes_max: fields.u32()?,
        append_records_max: fields.u32()?,
        append_bytes_max: fields.u32()?,
        read_bytes_max: fields.u32()?,
        inflight_max: fields.u32()?,
    };
    let member_count = fields.u16()? as usize;
    if member_count > MEMBERS_MAX {
        return Err(fields.malformed("it has too many members"));
    }
    let mut members = Vec::with_capacity(member_count);
    for _ in 0..member_count {
        members.push((NodeId(fields.u16()?), fields.text()?.to_owned()));
    }
    let cluster_name = fields.text()?.to_owned();
    let (standing, pending) = standing(protocol_version, fields)?;
    Ok(Welcome {
        standing,
        pending,
        protocol_version,
        node,
        cluster,
        cluster_name,
        group_count,
        members,
        leader,
        limits,
    })
}
