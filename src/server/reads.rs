//! Reads by position: from the node's cache while they can, from its log otherwise, and waiting
//! for what is not there yet.
//!
//! Used by the [`super::Server`]. A read collects records until one of its limits is reached or
//! the tail; it may cross from the log's files into the cache.

use std::time::Duration;

use crate::base::records::{RECORD_PREFIX_SIZE, Records};
use crate::base::{LogId, Placement, Position};
use crate::io::ConnId;
use crate::machine::BatchView;
use crate::wire::RequestId;

use super::READ_BYTES_MAX;

/// Whom a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A request: it is answered once.
    Answer,
    /// A follower, which goes on behind it.
    Follow,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) conn: ConnId,
    pub(super) request: RequestId,
    pub(super) purpose: Purpose,
    pub(super) log: LogId,
    /// The first position asked for.
    pub(super) from: Position,
    /// The records collected so far, from `from` on.
    pub(super) run: Vec<u8>,
    pub(super) records: u32,
    records_max: u32,
    bytes_max: usize,
}

/// What waits until a leader has confirmed that it may be answered.
#[derive(Debug)]
pub(super) enum Confirming {
    /// A read, and how long it may then wait for new records.
    Read(Read, Duration),
    /// The question for the tail.
    Tail { conn: ConnId, request: RequestId, log: LogId },
    /// The question for the log of a name.
    Find { conn: ConnId, request: RequestId, name: String },
    /// The question for the logs behind a name.
    List { conn: ConnId, request: RequestId, after: String, logs_max: u32 },
}

impl Confirming {
    /// Who waits.
    pub(super) fn client(&self) -> (ConnId, RequestId) {
        match self {
            Confirming::Read(read, _) => (read.conn, read.request),
            Confirming::Tail { conn, request, .. }
            | Confirming::Find { conn, request, .. }
            | Confirming::List { conn, request, .. } => (*conn, *request),
        }
    }
}

impl Read {
    /// A read of at most `records_max` records and about `bytes_max` bytes; 0 means the
    /// server's own limit.
    pub(super) fn new(
        conn: ConnId,
        request: RequestId,
        log: LogId,
        from: Position,
        records_max: u32,
        bytes_max: u32,
    ) -> Read {
        let or_limit = |asked: usize, limit: usize| match asked {
            0 => limit,
            asked => asked.min(limit),
        };
        Read {
            conn,
            request,
            purpose: Purpose::Answer,
            log,
            from,
            run: Vec::new(),
            records: 0,
            records_max: or_limit(records_max as usize, u32::MAX as usize) as u32,
            bytes_max: or_limit(bytes_max as usize, READ_BYTES_MAX),
        }
    }

    /// The same for another purpose.
    pub(super) fn with(self, purpose: Purpose) -> Read {
        Read { purpose, ..self }
    }

    /// The next position to collect.
    pub(super) fn next(&self) -> Position {
        self.from.plus(u64::from(self.records))
    }

    /// Whether a limit has been reached.
    pub(super) fn is_full(&self) -> bool {
        self.records >= self.records_max || self.run.len() >= self.bytes_max
    }

    /// Collects what is wanted of a slot whose records stand where `placement` says. Returns
    /// whether the read can go on behind this slot.
    pub(super) fn collect(&mut self, placement: &Placement, value: &[u8]) -> bool {
        let (Some(span), Ok(view)) = (placement.span(self.log), BatchView::parse(value)) else {
            return true;
        };
        let mut position = span.first;
        for (index, command) in view.commands().enumerate() {
            if command.log != self.log || command.records == 0 || placement.is_refused(index) {
                continue;
            }
            let end = position.plus(u64::from(command.records));
            let whole = position == self.next()
                && command.records <= self.records_max - self.records
                && self.run.len() + command.run.len() <= self.bytes_max;
            if whole {
                self.run.extend_from_slice(command.run);
                self.records += command.records;
            } else if end > self.next() && !self.collect_some(position, command.run) {
                return false;
            }
            position = end;
        }
        !self.is_full()
    }

    fn collect_some(&mut self, first: Position, run: &[u8]) -> bool {
        let mut position = first;
        for record in Records::new(run).map_while(Result::ok) {
            if position == self.next() {
                let size = RECORD_PREFIX_SIZE + record.len();
                let fits = self.records == 0 || self.run.len() + size <= self.bytes_max;
                if self.records >= self.records_max || !fits {
                    return false;
                }
                self.run.extend_from_slice(&(record.len() as u32).to_le_bytes());
                self.run.extend_from_slice(record);
                self.records += 1;
            }
            position = position.plus(1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::records::push_record;
    use crate::base::{Batch, BlockPool, Span};
    use crate::machine::{BatchBuilder, Command};

    /// A batch of appends of `counts` records each; each record is its position.
    fn batch(first: u64, counts: &[u32]) -> Batch {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        let mut position = first;
        for records in counts {
            let mut run = Vec::new();
            for _ in 0..*records {
                push_record(&mut run, &position.to_le_bytes());
                position += 1;
            }
            builder.push(&Command::append(LogId(0), *records, &run));
        }
        builder.seal(0)
    }

    fn read(from: u64, records_max: u32, bytes_max: u32) -> Read {
        Read::new(ConnId(1), RequestId(1), LogId(0), Position(from), records_max, bytes_max)
    }

    fn positions(read: &Read) -> Vec<u64> {
        Records::new(&read.run)
            .map(|record| u64::from_le_bytes(record.unwrap().try_into().unwrap()))
            .collect()
    }

    #[test]
    fn collects_exactly_what_is_asked_for_across_slots_and_commands() {
        let slots = [(0, 8, batch(0, &[3, 1, 4])), (8, 5, batch(8, &[5]))];
        for from in 0..13 {
            for records_max in 0..=14 {
                let mut read = read(from, records_max, 0);
                for (first, records, batch) in &slots {
                    let placement = Placement::simple(Position(*first), *records);
                    if !read.collect(&placement, batch.value()) {
                        break;
                    }
                }
                let limit = if records_max == 0 { 13 } else { u64::from(records_max) };
                let expected: Vec<u64> = (from..13.min(from + limit)).collect();
                assert_eq!(positions(&read), expected, "from {from}, at most {records_max}");
                assert_eq!(read.records as usize, expected.len());
            }
        }
    }

    #[test]
    fn a_slot_whose_first_record_does_not_fit_any_more_adds_nothing() {
        let (first, second) = (batch(0, &[1]), batch(1, &[1]));
        let mut read = read(0, 0, 20);
        let at = |position| Placement::simple(Position(position), 1);
        assert!(read.collect(&at(0), first.value()), "there is room left");
        assert!(!read.collect(&at(1), second.value()), "but not for a whole record");
        assert_eq!(positions(&read), [0]);
    }

    #[test]
    fn the_byte_limit_holds_but_one_record_always_goes() {
        let batch = batch(0, &[10]);
        let placement = Placement::simple(Position(0), 10);
        let mut small = read(2, 0, 30);
        assert!(!small.collect(&placement, batch.value()));
        assert_eq!(positions(&small), [2, 3]);
        let mut tiny = read(2, 0, 1);
        assert!(!tiny.collect(&placement, batch.value()));
        assert_eq!(positions(&tiny), [2]);
        assert!(tiny.is_full());
    }

    #[test]
    fn refused_commands_and_other_logs_are_left_out() {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        let mut push = |log, record: u64| {
            let mut run = Vec::new();
            push_record(&mut run, &record.to_le_bytes());
            builder.push(&Command::append(LogId(log), 1, &run));
        };
        for (log, record) in [(0, 100), (7, 10), (0, 999), (7, 999), (0, 101), (7, 11)] {
            push(log, record);
        }
        let value = builder.seal(0);
        let span = |log, first| Span { log: LogId(log), first: Position(first), records: 2 };
        let mut placement = Placement { spans: vec![span(0, 100), span(7, 10)], refused: vec![] };
        placement.refuse(2);
        placement.refuse(3);
        for (log, from, expected) in
            [(0, 100, vec![100, 101]), (0, 101, vec![101]), (7, 10, vec![10, 11]), (8, 0, vec![])]
        {
            let mut read = Read::new(ConnId(1), RequestId(1), LogId(log), Position(from), 0, 0);
            assert!(read.collect(&placement, value.value()));
            assert_eq!(positions(&read), expected, "log {log} from {from}");
        }
    }
}
