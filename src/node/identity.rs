//! Who this node is, and who may talk to it: the greeting's rules.
//!
//! Used by the node when it dials and by the server when it is dialled. A stranger is refused with
//! a reason that says what does not match.

use crate::base::{ClusterId, GroupId, Incarnation, NodeId};
use crate::wire::hello::members_digest;
use crate::wire::{Hello, HelloReply, HelloRole, Limits, PROTOCOL_VERSION, RefuseReason, Welcome};

/// The identity that `format` gave the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster_name: String,
    /// The digest of the name.
    pub cluster: ClusterId,
    /// What its data directory alone is called.
    pub incarnation: Incarnation,
    /// This node.
    pub node: NodeId,
    /// All members with their addresses, sorted by id.
    pub members: Vec<(NodeId, String)>,
    /// How many groups the cluster has.
    pub group_count: u16,
}

impl Identity {
    /// The members' ids.
    pub fn member_ids(&self) -> Vec<NodeId> {
        self.members.iter().map(|(id, _)| *id).collect()
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
        match hello.role {
            HelloRole::Client => {}
            HelloRole::Peer { node, to, members_digest, group_count } => {
                self.judge_peer(node, to, members_digest, group_count)?;
            }
        }
        if hello.group != group {
            // A group that is there has a thread of its own, which answers for it.
            let text = format!("there is no group {}, of {}", hello.group, self.group_count);
            return Err((RefuseReason::NoSuchGroup, text));
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
            cluster: ClusterId::of_name("test"),
            incarnation: Incarnation(u128::from(node)),
            node: NodeId(node),
            members,
            group_count: 1,
        }
    }

    fn reason(identity: &Identity, hello: &Hello) -> Option<RefuseReason> {
        identity.judge(hello, GroupId(0)).err().map(|(reason, _)| reason)
    }

    #[test]
    fn another_group_is_refused() {
        let (one, two) = (identity(1), identity(2));
        let hello = one.hello_to(NodeId(2), GroupId(1));
        assert_eq!(reason(&two, &hello), Some(RefuseReason::NoSuchGroup));
        assert_eq!(two.judge(&hello, GroupId(1)), Ok(()));
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
        other.cluster = ClusterId::of_name("other");
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
