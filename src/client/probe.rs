//! Finds out, for a connection that has fallen silent, whether another node leads by now.
//!
//! Called by the connection's task while requests wait and nothing comes. A silent leader may be
//! busy, or stopped, or cut off; only the other members know whether they have elected another.
//! Guarantee: a leader is reported only when it has said itself that it leads, so that the word of
//! a member that is behind never moves a client away from a leader that works.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{ClusterDigest, GroupId, NodeId};
use crate::wire::Welcome;

use super::session::greet;

/// The least pause between two probes. It grows with the silence, so that a node that is merely
/// slow is not asked about without end.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(150);
/// A member that has not answered a probe after this long is passed over.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

/// Asks the other members in turn who leads.
#[derive(Debug)]
pub(super) struct Prober {
    /// The node that the connection is to.
    node: NodeId,
    /// The other members.
    others: Vec<(NodeId, String)>,
    place: (Option<ClusterDigest>, GroupId),
    /// A connection that is silent for this long is looked into.
    after: Duration,
    /// Whom to ask next.
    cursor: usize,
    /// When the last probe ended.
    last_at: Option<Instant>,
}

impl Prober {
    /// For a connection to the node of `welcome`. `None` where there is nobody else to ask.
    pub(super) fn new(
        welcome: &Welcome,
        place: (Option<ClusterDigest>, GroupId),
        after: Duration,
    ) -> Option<Prober> {
        let is_other = |(node, _): &&(NodeId, String)| *node != welcome.node;
        let others: Vec<_> = welcome.members.iter().filter(is_other).cloned().collect();
        let prober = Prober { node: welcome.node, others, place, after, cursor: 0, last_at: None };
        (!prober.others.is_empty()).then_some(prober)
    }

    /// When to probe next, of a connection that has been silent since `since`.
    pub(super) fn next_at(&self, since: Instant) -> Instant {
        let first = since + self.after;
        match self.last_at {
            Some(last) if last > since => last + PROBE_PAUSE_MIN.max((last - since) / 4),
            _ => first,
        }
    }

    /// One probe: asks the next member in turn, and the one that it names.
    pub(super) fn probe(&mut self) -> impl Future<Output = Option<NodeId>> + Send + use<> {
        self.cursor = (self.cursor + 1) % self.others.len();
        let (node, others, place) = (self.node, self.others.clone(), self.place);
        let asked = self.cursor;
        async move {
            let (asked, address) = &others[asked];
            let named = leader_by(address, place).await.filter(|named| *named != node)?;
            if named == *asked {
                return Some(named);
            }
            let (_, address) = others.iter().find(|(other, _)| *other == named)?;
            leader_by(address, place).await.filter(|says| *says == named)
        }
    }

    /// A probe has ended without a new leader.
    pub(super) fn ended(&mut self) {
        self.last_at = Some(Instant::now());
    }
}

/// Who leads, as the node at `address` says; `None` when it does not answer, or knows none.
async fn leader_by(
    address: &str,
    (cluster, group): (Option<ClusterDigest>, GroupId),
) -> Option<NodeId> {
    let greeted = timeout(PROBE_TIMEOUT, greet::<()>(address, cluster, group, 1)).await;
    greeted.ok()?.ok().and_then(|(_, _, welcome)| welcome.leader)
}
