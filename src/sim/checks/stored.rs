//! What is there is found.
//!
//! Property: a node that runs on an undamaged disk finds the records below the tail of every log that
//! it knows, in memory or by the index of its log's files. It is asked at the end of a run, after
//! it has lost power and started again.

use super::Violation;
use crate::base::{LogId, Position};
use crate::node::Node;
use crate::sim::counters::{Counters, Hit};

const NAME: &str = "stored";

/// The most records of one log that are looked for; of more, some, evenly spread.
const RECORDS_MAX: u64 = 500;

/// Judges one node by these logs.
///
/// # Errors
/// When it does not find a record.
pub fn check(
    node: &Node,
    logs: impl Iterator<Item = LogId>,
    hits: &mut Counters,
) -> Result<(), Violation> {
    for log in logs {
        let tail = node.logs().tail(log).unwrap_or(Position(0));
        let step = tail.0.div_ceil(RECORDS_MAX).max(1);
        for position in (0..tail.0).step_by(step as usize).map(Position) {
            hits.hit(Hit::StoredChecked);
            if !node.finds(log, position) {
                let text = format!("a node does not find record {position} of log {log}");
                return Err(Violation::new(NAME, format!("{text}, whose tail is {tail}")));
            }
        }
    }
    Ok(())
}
