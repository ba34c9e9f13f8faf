//! The state that chosen slots build up: which slot was applied last, and the next position.
//!
//! Called by `node/` for every chosen slot, in slot order, while it serves and when it replays
//! its log at start. The outcome of a command depends on the slots before it and on nothing else.

use super::batch::{BatchError, BatchView, CommandKind};
use crate::base::{LogId, Position, Slot};

/// What a command came to. One per command, in the batch's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The records have the positions from `first` on.
    Appended {
        /// The position of the first record.
        first: Position,
        /// How many records.
        records: u32,
    },
    /// The command names a log that does not exist; it had no effect.
    NoSuchLog(LogId),
}

/// The machine of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    applied: Slot,
    tail: Position,
}

impl Machine {
    /// The state before the first slot.
    pub fn new() -> Machine {
        Machine::default()
    }

    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// The next position to be given out in the log `default`.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Applies the value of `slot` and adds an outcome per command to `outcomes`.
    ///
    /// # Errors
    /// When the value is not a batch. The slot then counts as a no-op, on every replica alike: all
    /// of them see the same bytes. Nothing was added to `outcomes`.
    ///
    /// # Panics
    /// When `slot` is not the one after the last: a gap here would be a wrong answer later.
    pub fn apply(
        &mut self,
        slot: Slot,
        value: &[u8],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), BatchError> {
        assert_eq!(slot, self.applied.next(), "slots are applied in order, each once");
        self.applied = slot;
        for command in BatchView::parse(value)?.commands() {
            outcomes.push(match command.kind {
                CommandKind::Append if command.log == LogId(0) => {
                    let first = self.tail;
                    self.tail = first.plus(u64::from(command.records));
                    Outcome::Appended { first, records: command.records }
                }
                CommandKind::Append => Outcome::NoSuchLog(command.log),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::records::push_record;
    use crate::base::{Batch, BlockPool};
    use crate::machine::{BatchBuilder, Command};

    fn batch(counts: &[(u32, u32)]) -> Batch {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        for (log, records) in counts {
            let mut run = Vec::new();
            (0..*records).for_each(|_| push_record(&mut run, b"x"));
            builder.push(&Command {
                kind: CommandKind::Append,
                log: LogId(*log),
                session: 0,
                sequence: 0,
                records: *records,
                run: &run,
            });
        }
        builder.seal()
    }

    #[test]
    fn positions_are_contiguous_over_batches_noops_and_refusals() {
        let mut machine = Machine::new();
        let mut outcomes = Vec::new();
        machine.apply(Slot(1), batch(&[(0, 2), (5, 1), (0, 1)]).value(), &mut outcomes).unwrap();
        machine.apply(Slot(2), &[], &mut outcomes).unwrap();
        assert!(machine.apply(Slot(3), b"garbage", &mut outcomes).is_err());
        machine.apply(Slot(4), batch(&[(0, 3)]).value(), &mut outcomes).unwrap();
        let appended = |first, records| Outcome::Appended { first: Position(first), records };
        let expected =
            [appended(0, 2), Outcome::NoSuchLog(LogId(5)), appended(2, 1), appended(3, 3)];
        assert_eq!(outcomes, expected);
        assert_eq!((machine.applied(), machine.tail()), (Slot(4), Position(6)));
    }

    #[test]
    #[should_panic(expected = "slots are applied in order")]
    fn a_gap_is_refused() {
        Machine::new().apply(Slot(2), &[], &mut Vec::new()).unwrap();
    }
}
