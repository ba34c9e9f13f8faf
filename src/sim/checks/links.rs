//! The core knows what connections there are.
//!
//! Property: after each turn the core holds a member for connected exactly when a connection to that
//! member stands. Believed gone for good, a connection that works would be used, and the member still
//! never be chosen as the next leader, nor asked for what is missing.

use super::Violation;
use crate::base::NodeId;
use crate::node::Node;

const NAME: &str = "links";

/// Looks at one group of a node after its turn.
///
/// # Errors
/// When the core and the connections disagree.
pub fn check(id: NodeId, node: &Node) -> Result<(), Violation> {
    match node.misjudged_link() {
        None => Ok(()),
        Some(peer) => {
            let text = format!("node {id} and its core differ on whether it reaches node {peer}");
            Err(Violation::new(NAME, text))
        }
    }
}
