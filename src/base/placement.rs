//! Where the records of one slot stand in their logs.
//!
//! The machine works it out when the slot is applied, the same on every replica; the log keeps it
//! beside the slot's entry, so that a record is found again without a look at other slots; reads
//! use it to tell a command that took effect from one that was refused.

use super::{LogId, Position};

/// The records of a slot that went to one log: contiguous, in the order of the slot's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The log.
    pub log: LogId,
    /// The position of the first of them.
    pub first: Position,
    /// How many, at least 1.
    pub records: u32,
}

impl Span {
    /// Whether the record at `position` of `log` is one of them.
    pub fn holds(&self, log: LogId, position: Position) -> bool {
        self.log == log
            && self.first <= position
            && position.0 - self.first.0 < u64::from(self.records)
    }

    /// The position behind the last of them.
    pub fn end(&self) -> Position {
        self.first.plus(u64::from(self.records))
    }
}

/// What became of the commands of one slot.
///
/// Guarantee of whoever makes one: the spans are of different logs, by log in ascending order, and
/// none is empty; `refused` does not end with a zero byte (so equal placements are equal).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The records that each log got.
    pub spans: Vec<Span>,
    /// Bit `i % 8` of byte `i / 8`: the `i`th command added no records, though it may carry some
    /// (a condition did not hold, it was a repetition, …). What lies behind the last byte is 0;
    /// empty for nearly every slot.
    pub refused: Vec<u8>,
}

impl Placement {
    /// The placement of `records` records at the front of the log `default`, and no other.
    pub fn simple(first: Position, records: u32) -> Placement {
        let span = Span { log: LogId(0), first, records };
        Placement { spans: (records > 0).then_some(span).into_iter().collect(), refused: vec![] }
    }

    /// Notes that the command with this index adds no records.
    pub fn refuse(&mut self, command: usize) {
        let byte = command / 8;
        if self.refused.len() <= byte {
            self.refused.resize(byte + 1, 0);
        }
        self.refused[byte] |= 1 << (command % 8);
    }

    /// Whether the command with this index added no records.
    pub fn is_refused(&self, command: usize) -> bool {
        self.refused.get(command / 8).is_some_and(|byte| byte & 1 << (command % 8) != 0)
    }

    /// The records that went to `log`.
    pub fn span(&self, log: LogId) -> Option<&Span> {
        let at = self.spans.binary_search_by_key(&log, |span| span.log).ok()?;
        Some(&self.spans[at])
    }

    /// Records of all logs together.
    pub fn records(&self) -> u32 {
        self.spans.iter().map(|span| span.records).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_kept_by_command_and_equal_ones_compare_equal() {
        let mut placement = Placement::simple(Position(5), 3);
        for command in [0, 9, 17] {
            placement.refuse(command);
        }
        let refused: Vec<usize> = (0..100).filter(|i| placement.is_refused(*i)).collect();
        assert_eq!(refused, [0, 9, 17]);
        let mut other = Placement::simple(Position(5), 3);
        for command in [17, 0, 9, 9] {
            other.refuse(command);
        }
        assert_eq!(placement, other);
        assert_eq!(Placement::simple(Position(9), 0), Placement::default());
    }

    #[test]
    fn a_span_holds_its_own_positions_only() {
        let span = Span { log: LogId(3), first: Position(10), records: 2 };
        let held: Vec<u64> = (0..20).filter(|at| span.holds(LogId(3), Position(*at))).collect();
        assert_eq!(held, [10, 11]);
        assert!(!span.holds(LogId(0), Position(10)));
        assert_eq!(span.end(), Position(12));
    }
}
