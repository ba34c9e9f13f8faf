//! Bounded memory and queues.
//!
//! Property: after every turn, what a node keeps in block memory, waiting for peers and waiting
//! for clients stays below what its options permit, whatever the load and the faults are.

use super::Violation;
use crate::base::NodeId;
use crate::base::limits::MIB;
use crate::node::read_ahead_bytes_max;
use crate::server::Gauges;
use crate::sim::plan::Plan;

const NAME: &str = "bounds";

/// Reads of old slots under way at one node, each into memory for the largest entry: the server's
/// own limit.
const READS_MAX: usize = 128;

/// What a node may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Block memory in bytes.
    pub block_bytes_max: usize,
    /// Bytes that wait to be sent to one peer.
    pub peer_bytes_max: usize,
    /// Bytes that wait to be sent to one client.
    pub client_bytes_max: usize,
    /// Bytes held back of one client's input.
    pub stalled_bytes_max: usize,
}

impl Bounds {
    /// The bounds of a plan's nodes.
    pub fn of(plan: &Plan) -> Bounds {
        let entry = plan.log.entry_bytes_max;
        let peers = plan.nodes;
        // Every batch takes a power of two of blocks: up to twice its size.
        let window = (plan.core.window_bytes_max + entry) * 2;
        let ahead = (plan.core.accept_ahead_bytes_max * 2 + entry) * 2;
        let retained = (plan.core.retained_bytes_max + entry) * 2;
        let held = window.max(ahead) + retained + plan.cache_bytes_max;
        let reads = READS_MAX * entry * 2 + peers * read_ahead_bytes_max(entry) * 2;
        Bounds {
            block_bytes_max: held * 2 + reads + (peers + plan.clients + 8) * 4 * MIB,
            peer_bytes_max: 64 * MIB,
            client_bytes_max: 16 * MIB,
            stalled_bytes_max: plan.net.capacity + 2 * MIB,
        }
    }

    /// A node's gauges after a turn.
    ///
    /// # Errors
    /// When one is over its bound.
    pub fn check(&self, node: NodeId, gauges: &Gauges) -> Result<(), Violation> {
        let rules = [
            (gauges.block_bytes, self.block_bytes_max, "bytes of block memory"),
            (gauges.peer_bytes_max, self.peer_bytes_max, "bytes waiting for one peer"),
            (gauges.client_bytes_max, self.client_bytes_max, "bytes waiting for one client"),
            (gauges.stalled_bytes_max, self.stalled_bytes_max, "bytes of one client held back"),
        ];
        match rules.into_iter().find(|(value, bound, _)| value > bound) {
            None => Ok(()),
            Some((value, bound, what)) => {
                let text = format!("node {node} holds {value} {what}, the bound is {bound}");
                Err(Violation::new(NAME, text))
            }
        }
    }
}
