//! Watermark order: what each replica says of itself moves forward, and in order.
//!
//! Property: within a process the promise, the chosen, applied and durable watermarks and the
//! tail never go down; applied never passes chosen; and over restarts a node's promise is never
//! below one it had told.

use super::Violation;
use crate::base::NodeId;
use crate::node::Watermarks as Marks;

const NAME: &str = "watermarks";

/// The last word of every node.
pub struct Watermarks {
    last: Vec<Option<Marks>>,
}

impl Watermarks {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Watermarks {
        Watermarks { last: vec![None; nodes] }
    }

    /// A node has started anew.
    pub fn restarted(&mut self, node: NodeId) {
        self.last[usize::from(node.0) - 1] = None;
    }

    /// A node's word after a turn.
    ///
    /// # Errors
    /// When something went down or out of order.
    pub fn check(&mut self, node: NodeId, marks: Marks) -> Result<(), Violation> {
        let last = &mut self.last[usize::from(node.0) - 1];
        let before = last.replace(marks).unwrap_or_default();
        let rules = [
            (marks.promised >= before.promised, "the promise went down"),
            (marks.chosen >= before.chosen, "the chosen watermark went down"),
            (marks.applied >= before.applied, "the applied watermark went down"),
            (marks.durable >= before.durable, "the durable watermark went down"),
            (marks.tail >= before.tail, "the tail went down"),
            (marks.applied <= marks.chosen, "more is applied than chosen"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => {
                let text = format!("node {node}: {rule}: {before:?}, then {marks:?}");
                Err(Violation::new(NAME, text))
            }
        }
    }
}
