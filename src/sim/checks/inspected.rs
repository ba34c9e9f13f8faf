//! Log files are readable by `inspect`, and hold what was chosen.
//!
//! Property: at the end of a run, whatever it went through, `inspect` finds no damage on a disk
//! that the world has not damaged on purpose; and every slot that it takes for chosen there has
//! the value on which the replicas agreed.

use super::Violation;
use crate::base::{Checksum, GroupId, NodeId, Slot};
use crate::io::Storage;
use crate::log::inspect::inspect;

const NAME: &str = "inspect";

/// Inspects the disk of a node that does not run. `truth` tells the checksum of a group's chosen slot's
/// value, once some replica has applied it.
///
/// # Errors
/// What is damaged or differs.
pub fn check<S: Storage>(
    node: NodeId,
    storage: &mut S,
    truth: &dyn Fn(GroupId, Slot) -> Option<Checksum>,
) -> Result<(), Violation> {
    let mut differs = None;
    let report = inspect(storage, &mut |found| {
        let truth = truth(found.group, found.slot);
        let wrong = truth.is_some_and(|truth| truth != Checksum::of(found.value));
        if found.chosen && wrong {
            differs.get_or_insert(found.slot);
        }
    });
    let bad = |text: String| Err(Violation::new(NAME, format!("node {node}: {text}")));
    match (report, differs) {
        (Err(error), _) => bad(format!("the directory is not read: {error}")),
        (Ok(report), _) if !report.is_sound() => {
            let (damage, not_read) = (report.damage.first(), report.not_read.first());
            bad(format!("a disk that nobody damaged: {damage:?}, {not_read:?}"))
        }
        (Ok(_), Some(slot)) => bad(format!("slot {slot} stands there with another value")),
        (Ok(_), None) => Ok(()),
    }
}
