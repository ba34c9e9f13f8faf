//! Who this node is, and who may talk to it: the greeting's rules.
//!
//! Used by the node when it dials and by the server when it is dialled. A stranger is refused with
//! a reason that says what does not match.

use crate::base::mutants::{Mutant, planted};
use crate::base::{ClusterDigest, ClusterId, Founding, GroupId, Incarnation, NodeId};
use crate::wire::hello::members_digest;
use crate::wire::{
    Hello, HelloReply, HelloRole, Limits, PROTOCOL_VERSION, RefuseReason, Standing, Welcome,
};

/// What helps whoever runs from another directory than the cluster was founded with.
const PUT_BACK: &str = "it was formatted again, or another disk is in its place: put back the disk that \
                        it was founded with (giving a member a new disk, `loggos member replace`, comes \
                        with a later version)";

/// The identity that `format` gave the data directory, and the cluster's founding since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster_name: String,
    /// The digest of the name.
    pub cluster: ClusterDigest,
    /// What its data directory alone is called.
    pub incarnation: Incarnation,
    /// This node.
    pub node: NodeId,
    /// All members with their addresses, sorted by id.
    pub members: Vec<(NodeId, String)>,
    /// How many groups the cluster has.
    pub group_count: u16,
    /// What the cluster was founded as; none while the node is blank.
    pub founding: Option<Founding>,
    /// A founding that it has accepted or proposes, and does not know chosen.
    pub pending: Option<Founding>,
    /// It is blank and holds entries behind slot 1: members of a founded cluster have let it in.
    pub is_used: bool,
}

impl Identity {
    /// The members' ids.
    pub fn member_ids(&self) -> Vec<NodeId> {
        self.members.iter().map(|(id, _)| *id).collect()
    }

    /// The cluster, once it is founded.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.founding.as_ref().map(|founding| founding.cluster)
    }

    /// Whether the founding lists this directory as the member's.
    pub(super) fn is_listed(&self, founding: &Founding, node: NodeId, at: Incarnation) -> bool {
        founding.incarnation_of(node) == Some(at) || planted(Mutant::IncarnationIgnored)
    }

    /// What it says of itself to a member, or to a client (none).
    fn standing_to(&self, peer: Option<NodeId>) -> Standing {
        let founding = self.founding.as_ref();
        Standing {
            cluster: self.cluster_id(),
            incarnation: self.incarnation,
            expects: peer.and_then(|peer| founding?.incarnation_of(peer)),
            is_used: self.is_used,
        }
    }

    /// The member that is to lead `group` where nothing speaks against it: the members in turn.
    pub fn preferred_leader(&self, group: GroupId) -> Option<NodeId> {
        let members = self.members.len().max(1);
        self.members.get(usize::from(group.0) % members).map(|(id, _)| *id)
    }

    /// The greeting to a peer's `group`.
    pub fn hello_to(&self, peer: NodeId, group: GroupId) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: Some(self.cluster),
            role: HelloRole::Peer {
                node: self.node,
                to: peer,
                members_digest: members_digest(&self.members),
                group_count: self.group_count,
                standing: self.standing_to(Some(peer)),
                pending: self.pending.clone(),
            },
            group,
        }
    }

    /// The answer of this node's `group` to a greeting: a welcome, or the refusal with its reason.
    pub fn answer(
        &self,
        hello: &Hello,
        group: GroupId,
        leader: Option<NodeId>,
        limits: Limits,
    ) -> HelloReply {
        let protocol_version = PROTOCOL_VERSION;
        match self.judge(hello, group) {
            Err((reason, text)) => HelloReply::Refused { protocol_version, reason, text },
            Ok(()) => HelloReply::Welcome(Welcome {
                standing: match &hello.role {
                    HelloRole::Peer { node, .. } => self.standing_to(Some(*node)),
                    HelloRole::Client => self.standing_to(None),
                },
                pending: self.pending.clone(),
                protocol_version,
                node: self.node,
                cluster: self.cluster,
                cluster_name: self.cluster_name.clone(),
                group_count: self.group_count,
                members: self.members.clone(),
                leader,
                limits,
            }),
        }
    }

    /// Judges a greeting to `group`.
    fn judge(&self, hello: &Hello, group: GroupId) -> Result<(), (RefuseReason, String)> {
        if hello.protocol_version != PROTOCOL_VERSION {
            let text = format!(
                "protocol version {} where this node speaks {PROTOCOL_VERSION}",
                hello.protocol_version
            );
            return Err((RefuseReason::OtherVersion, text));
        }
        let name = &self.cluster_name;
        if let Some(cluster) = hello.cluster
            && cluster != self.cluster
        {
            let text = format!("cluster {cluster} where this is `{name}` ({})", self.cluster);
            return Err((RefuseReason::OtherCluster, text));
        }
        match &hello.role {
            HelloRole::Client => {}
            HelloRole::Peer { node, to, members_digest, group_count, standing, .. } => {
                self.judge_peer(*node, *to, *members_digest, *group_count)?;
                self.judge_standing(*node, standing)?;
            }
        }
        if group != GroupId(0) && self.founding.is_none() {
            return Err((RefuseReason::NotFounded, self.not_founded()));
        }
        if hello.group != group {
            // A group that is there has a thread of its own, which answers for it.
            let text = format!("there is no group {}, of {}", hello.group, self.group_count);
            return Err((RefuseReason::NoSuchGroup, text));
        }
        Ok(())
    }

    /// What a blank node says to whoever asks for more than it has.
    pub fn not_founded(&self) -> String {
        format!("node {} is blank: the cluster is not yet founded, run `loggos init`", self.node)
    }

    /// Whether a member may run from this directory, in that cluster. The same rule on both sides of a
    /// handshake.
    pub(super) fn judge_standing(
        &self,
        node: NodeId,
        theirs: &Standing,
    ) -> Result<(), (RefuseReason, String)> {
        if planted(Mutant::IncarnationIgnored) {
            return Ok(());
        }
        let Standing { cluster, incarnation, expects, is_used: _ } = *theirs;
        if let (Some(own), Some(other)) = (self.cluster_id(), cluster)
            && own != other
        {
            let text = format!(
                "node {node} belongs to cluster {other}, and node {} to {own}, of the same name: one \
                 of them has the disk of another cluster; put its own disk back",
                self.node
            );
            return Err((RefuseReason::OtherCluster, text));
        }
        let refused = |of: NodeId, listed: Incarnation, found: Incarnation| {
            let text = format!(
                "node {of} was founded on the directory of incarnation {listed}, and runs on {found}: \
                 {PUT_BACK}"
            );
            Err((RefuseReason::OtherIncarnation, text))
        };
        if let Some(listed) = expects
            && listed != self.incarnation
        {
            return refused(self.node, listed, self.incarnation);
        }
        let list = match (&self.founding, &self.pending) {
            (Some(founding), _) => Some(founding),
            // One that was begun binds those who may finish it; a founded member overrules it.
            (None, Some(pending)) if cluster.is_none() => Some(pending),
            _ => None,
        };
        if let Some(listed) = list.and_then(|list| list.incarnation_of(node))
            && listed != incarnation
        {
            return refused(node, listed, incarnation);
        }
        if self.founding.is_none() && cluster.is_some() && expects.is_none() {
            let text = format!("node {node} belongs to a cluster without node {}", self.node);
            return Err((RefuseReason::OtherCluster, text));
        }
        Ok(())
    }

    fn judge_peer(
        &self,
        node: NodeId,
        to: NodeId,
        digest: u64,
        group_count: u16,
    ) -> Result<(), (RefuseReason, String)> {
        if to != self.node {
            let text = format!("this is node {}, not node {}", self.node, to);
            return Err((RefuseReason::WrongNode, text));
        }
        if node == self.node || !self.members.iter().any(|(id, _)| *id == node) {
            let text = format!("node {} is not another member of this cluster", node);
            return Err((RefuseReason::NotMember, text));
        }
        if digest != members_digest(&self.members) {
            let text = "the member lists differ: format all nodes with the same --members";
            return Err((RefuseReason::MembersMismatch, text.to_owned()));
        }
        if group_count != self.group_count {
            let text = format!("{} groups where this has {}", group_count, self.group_count);
            return Err((RefuseReason::GroupCountMismatch, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node: u16) -> Identity {
        let members = (1..=3).map(|id| (NodeId(id), format!("127.0.0.1:{id}"))).collect();
        Identity {
            cluster_name: "test".to_owned(),
            cluster: ClusterDigest::of_name("test"),
            incarnation: Incarnation(u128::from(node)),
            node: NodeId(node),
            members,
            group_count: 1,
            founding: None,
            pending: None,
            is_used: false,
        }
    }

    fn founded(node: u16, cluster: u128) -> Identity {
        let members = (1..=3).map(|node| (NodeId(node), Incarnation(u128::from(node)))).collect();
        let founding = Some(Founding { cluster: ClusterId(cluster), members });
        Identity { founding, ..identity(node) }
    }

    #[test]
    fn refuses_other_directories_both_ways() {
        let (one, two) = (founded(1, 7), founded(2, 7));
        let wiped = Identity { incarnation: Incarnation(99), ..identity(2) };
        let said = |from: &Identity, to: u16| from.hello_to(NodeId(to), GroupId(0));
        assert_eq!(reason(&one, &said(&two, 1)), None);
        let refused = Some(RefuseReason::OtherIncarnation);
        assert_eq!(reason(&one, &said(&wiped, 1)), refused, "it was formatted again");
        assert_eq!(reason(&wiped, &said(&one, 2)), refused, "and hears it");
        let blank = identity(2);
        assert_eq!(reason(&one, &said(&blank, 1)), None, "listed, it has not learnt the founding");
        assert_eq!(reason(&blank, &said(&one, 2)), None);
        let other = founded(2, 8);
        assert_eq!(reason(&one, &said(&other, 1)), Some(RefuseReason::OtherCluster));
        let mut stranger = founded(1, 8);
        stranger.founding.as_mut().unwrap().members.remove(1);
        assert_eq!(reason(&blank, &said(&stranger, 2)), Some(RefuseReason::OtherCluster));
    }

    #[test]
    fn a_founding_that_was_begun_binds_blank_members() {
        let begun = Identity { founding: None, pending: founded(1, 7).founding, ..identity(1) };
        let wiped = Identity { incarnation: Incarnation(99), ..identity(2) };
        let said = |from: &Identity| from.hello_to(NodeId(1), GroupId(0));
        assert_eq!(reason(&begun, &said(&identity(2))), None);
        assert_eq!(reason(&begun, &said(&wiped)), Some(RefuseReason::OtherIncarnation));
    }

    #[test]
    fn groups_of_a_blank_node_serve_nobody() {
        let (one, two) = (identity(1), identity(2));
        let hello = one.hello_to(NodeId(2), GroupId(1));
        assert_eq!(two.judge(&hello, GroupId(1)).unwrap_err().0, RefuseReason::NotFounded);
    }

    fn reason(identity: &Identity, hello: &Hello) -> Option<RefuseReason> {
        identity.judge(hello, GroupId(0)).err().map(|(reason, _)| reason)
    }

    #[test]
    fn another_group_is_refused() {
        let (one, two) = (identity(1), identity(2));
        let hello = one.hello_to(NodeId(2), GroupId(1));
        assert_eq!(reason(&two, &hello), Some(RefuseReason::NoSuchGroup));
        assert_eq!(founded(2, 7).judge(&hello, GroupId(1)), Ok(()));
    }

    #[test]
    fn members_are_welcome_and_strangers_are_refused_with_the_reason() {
        let (one, two) = (identity(1), identity(2));
        assert_eq!(reason(&two, &one.hello_to(NodeId(2), GroupId(0))), None);
        assert_eq!(
            reason(&two, &one.hello_to(NodeId(3), GroupId(0))),
            Some(RefuseReason::WrongNode)
        );
        assert_eq!(
            reason(&two, &two.hello_to(NodeId(2), GroupId(0))),
            Some(RefuseReason::NotMember)
        );

        let mut other = identity(1);
        other.cluster = ClusterDigest::of_name("other");
        assert_eq!(
            reason(&two, &other.hello_to(NodeId(2), GroupId(0))),
            Some(RefuseReason::OtherCluster)
        );
        let mut other = identity(1);
        other.members[2].1 = "127.0.0.1:9".to_owned();
        assert_eq!(
            reason(&two, &other.hello_to(NodeId(2), GroupId(0))),
            Some(RefuseReason::MembersMismatch)
        );
        let mut other = identity(1);
        other.group_count = 2;
        let refused = reason(&two, &other.hello_to(NodeId(2), GroupId(0)));
        assert_eq!(refused, Some(RefuseReason::GroupCountMismatch));
        let mut hello = one.hello_to(NodeId(2), GroupId(0));
        hello.protocol_version += 1;
        assert_eq!(reason(&two, &hello), Some(RefuseReason::OtherVersion));
        let client =
            Hello { cluster: None, role: HelloRole::Client, ..one.hello_to(NodeId(2), GroupId(0)) };
        assert_eq!(reason(&two, &client), None);
    }
}
