//! Exactly what was sent: no invention, no duplicate, no change.
//!
//! Property: every record in the chosen log is one that a client sent, byte for byte, as part of
//! an append that it had invoked before, together with the append's other records and in their
//! order; it appears once; and an append that was answered as certainly without effect never
//! appears.

use std::collections::BTreeMap;

use super::Violation;
use crate::base::records::Records;
use crate::base::{LogId, Position, Slot};
use crate::machine::BatchView;
use crate::node::AppliedSlot;
use crate::sim::history::{History, Kind, Outcome, ValueId};

const NAME: &str = "exactly what was sent";

/// The chosen log, as values.
#[derive(Default)]
pub struct Values {
    log: Vec<ValueId>,
    /// The size asked for and the operation, by its first value; filled as the history grows.
    sent: BTreeMap<ValueId, usize>,
    operations_known: usize,
    positions: BTreeMap<ValueId, Position>,
}

impl Values {
    /// The values by position.
    pub fn log(&self) -> &[ValueId] {
        &self.log
    }

    /// Where a value stands.
    pub fn position(&self, value: ValueId) -> Option<Position> {
        self.positions.get(&value).copied()
    }

    fn learn_invocations(&mut self, history: &History) {
        let known = self.operations_known;
        for (index, operation) in history.operations.iter().enumerate().skip(known) {
            if let Kind::Append { first, .. } = operation.kind {
                self.sent.insert(first, index);
            }
        }
        self.operations_known = history.operations.len();
    }

    /// A slot has been applied for the first time.
    ///
    /// # Errors
    /// When its records are not what clients sent.
    pub fn chosen(&mut self, applied: &AppliedSlot, history: &History) -> Result<(), Violation> {
        self.learn_invocations(history);
        if applied.batch.value_size() == 0 {
            return Ok(());
        }
        let slot = applied.slot;
        let bad = |text: String| Violation::new(NAME, format!("slot {slot}: {text}"));
        let view = BatchView::parse(applied.batch.value())
            .map_err(|error| bad(format!("what was chosen is not a batch: {error}")))?;
        let before = self.log.len() as u64;
        if let Some(span) = applied.placement.span(LogId(0))
            && span.first.0 != before
        {
            let text = format!("its first record has position {}", span.first);
            return Err(bad(format!("{text}, {before} records are before it")));
        }
        for (index, command) in view.commands().enumerate() {
            if command.records == 0 || applied.placement.is_refused(index) {
                continue;
            }
            let records: Vec<&[u8]> = Records::new(command.run).map_while(Result::ok).collect();
            self.check_append(slot, &records, history)?;
        }
        Ok(())
    }

    fn check_append(
        &mut self,
        slot: Slot,
        records: &[&[u8]],
        history: &History,
    ) -> Result<(), Violation> {
        let bad = |text: String| Violation::new(NAME, format!("slot {slot}: {text}"));
        let named = records.first().and_then(|record| ValueId::parse(record));
        let Some((value, _)) = named else {
            return Err(bad("an append starts with a record that nobody sent".to_owned()));
        };
        let operation = self.sent.get(&value).map(|index| &history.operations[*index].kind);
        let Some(Kind::Append { first, records: count, size, .. }) = operation else {
            return Err(bad(format!("{value} starts no append that was sent")));
        };
        if records.len() != *count as usize {
            return Err(bad(format!("{value} came with {} of {count} records", records.len())));
        }
        for (index, record) in records.iter().enumerate() {
            let value = ValueId { number: first.number + index as u32, ..*first };
            if *record != value.record(*size) {
                return Err(bad(format!("{value} is not what was sent")));
            }
            let position = Position(self.log.len() as u64);
            if let Some(older) = self.positions.insert(value, position) {
                return Err(bad(format!("{value} stands at {older} and again at {position}")));
            }
            self.log.push(value);
        }
        Ok(())
    }

    /// What was answered as without effect is not there.
    ///
    /// # Errors
    /// When it is.
    pub fn check_failed(&self, history: &History) -> Result<(), Violation> {
        for operation in &history.operations {
            if let (Outcome::Failed(at), Kind::Append { first, .. }) =
                (operation.outcome, &operation.kind)
                && let Some(position) = self.position(*first)
            {
                let text = format!("{first} was answered as without effect at {at}");
                return Err(Violation::new(NAME, format!("{text}, but stands at {position}")));
            }
        }
        Ok(())
    }
}
