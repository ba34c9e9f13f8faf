//! Durability: acknowledged means present, after anything that a quorum survives.
//!
//! Property: when a client reads the acknowledgement of an append, some replica has applied it at
//! that position; and it stays there: at the end of the run, after every crash, the chosen log
//! holds it where the acknowledgement said. (That it is the same log on every replica is
//! agreement's.)

use super::Violation;
use super::values::Values;
use crate::sim::history::{History, Kind, Operation, Outcome, ValueId};

const NAME: &str = "durability";

/// What has been acknowledged.
#[derive(Default)]
pub struct Durability {
    /// Operations below this index are settled.
    settled: usize,
}

impl Durability {
    /// Looks at the operations that may have been answered since the last call.
    ///
    /// # Errors
    /// When something acknowledged is not where it should be.
    pub fn check_new(&mut self, history: &History, values: &Values) -> Result<(), Violation> {
        for operation in &history.operations[self.settled..] {
            check(operation, values)?;
        }
        let unsettled = history.operations[self.settled..]
            .iter()
            .position(|operation| operation.outcome == Outcome::Unknown);
        // Operations that stay unknown for ever must not be looked at for ever.
        let open = unsettled.map_or(history.operations.len(), |index| self.settled + index);
        self.settled = open.max(history.operations.len().saturating_sub(OPEN_MAX));
        Ok(())
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// As [`Durability::check_new`].
    pub fn check_all(&self, history: &History, values: &Values) -> Result<(), Violation> {
        history.operations.iter().try_for_each(|operation| check(operation, values))
    }
}

/// Operations that are looked at again on every call.
const OPEN_MAX: usize = 256;

fn check(operation: &Operation, values: &Values) -> Result<(), Violation> {
    let Outcome::Ok(at) = operation.outcome else { return Ok(()) };
    let Kind::Append { first, records, position, .. } = operation.kind else { return Ok(()) };
    let Some(position) = position else {
        return Err(Violation::new(NAME, format!("{first} is acknowledged without a position")));
    };
    for index in 0..records {
        let value = ValueId { number: first.number + index, ..first };
        let place = position.plus(u64::from(index));
        let found = values.log(operation.log).get(place.0 as usize);
        if found != Some(&value) {
            let found = found.map_or("nothing".to_owned(), ValueId::to_string);
            let text = format!("{value} was acknowledged at {at} for position {place}");
            return Err(Violation::new(NAME, format!("{text}, where {found} stands")));
        }
    }
    Ok(())
}
