//! What the clients saw: every operation with its times and its outcome, for the checkers and
//! for any other judge (the format stands in the project's list of faults and histories).

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::time::Time;
use crate::base::{FenceToken, LogId, Position};
use crate::wire::ReadLevel;

/// A record's value: who made it and its number there. Unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId {
    /// The client.
    pub client: u16,
    /// Its number among the client's records.
    pub number: u32,
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}-{}", self.client, self.number)
    }
}

impl ValueId {
    /// The record: the name, then dots up to `size` bytes (or the name alone, if that is longer).
    pub fn record(self, size: usize) -> Vec<u8> {
        let mut record = self.to_string().into_bytes();
        record.resize(record.len().max(size), b'.');
        record
    }

    /// Reads a record back; `None` when it is not one that a client of this world made.
    pub fn parse(record: &[u8]) -> Option<(ValueId, usize)> {
        let end = record.iter().position(|byte| *byte == b'.').unwrap_or(record.len());
        let (name, padding) = record.split_at(end);
        let (client, number) =
            std::str::from_utf8(name).ok()?.strip_prefix('c')?.split_once('-')?;
        let id = ValueId { client: client.parse().ok()?, number: number.parse().ok()? };
        let canonical = id.to_string().as_bytes() == name;
        (canonical && padding.iter().all(|byte| *byte == b'.')).then_some((id, record.len()))
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet, or the client has given up: it may have happened, or may yet.
    Unknown,
    /// Acknowledged.
    Ok(Time),
    /// Certainly without effect.
    Failed(Time),
}

/// What an operation was, and what it brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An append of `records` records of `size` bytes, `first` and its successors.
    Append {
        /// The first record.
        first: ValueId,
        /// How many.
        records: u32,
        /// The size asked of each (a record is never shorter than its name).
        size: usize,
        /// Only if the tail is here.
        if_tail: Option<Position>,
        /// Only if the log has taken no higher token.
        fence: Option<FenceToken>,
        /// The position of the first, when acknowledged.
        position: Option<Position>,
        /// The tail that stood in the way.
        moved_to: Option<Position>,
    },
    /// A read.
    Read {
        /// The first position asked for.
        from: Position,
        /// The most records asked for.
        records_max: u32,
        /// How fresh.
        level: ReadLevel,
        /// What came back.
        values: Vec<ValueId>,
        /// The tail that came with it.
        tail: Position,
    },
    /// A question for the tail.
    Tail {
        /// How fresh.
        level: ReadLevel,
        /// The answer.
        tail: Position,
    },
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// A logical client: its operations follow one another.
    pub process: u32,
    /// The log that it is about.
    pub log: LogId,
    /// Before the first byte left.
    pub invoked: Time,
    /// How it ended.
    pub outcome: Outcome,
    /// What it was.
    pub kind: Kind,
}

impl Operation {
    /// When it was acknowledged.
    pub fn acknowledged(&self) -> Option<Time> {
        match self.outcome {
            Outcome::Ok(at) => Some(at),
            _ => None,
        }
    }
}

/// The history of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order of invocation.
    pub operations: Vec<Operation>,
    /// Whether clients number their appends in sessions: then each client's stand in the order of
    /// their invocation.
    pub in_sessions: bool,
}

impl History {
    /// Notes an invocation; its index names it.
    pub fn invoke(&mut self, process: u32, now: Time, log: LogId, kind: Kind) -> usize {
        let outcome = Outcome::Unknown;
        self.operations.push(Operation { process, log, invoked: now, outcome, kind });
        self.operations.len() - 1
    }

    /// The operations on one log.
    pub fn of_log(&self, log: LogId) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(move |operation| operation.log == log)
    }

    /// The logs that operations are about.
    pub fn logs(&self) -> BTreeSet<LogId> {
        self.operations.iter().map(|operation| operation.log).collect()
    }

    /// Writes one JSON object a line.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for operation in &self.operations {
            for line in operation.lines() {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }
}

impl Operation {
    fn lines(&self) -> Vec<Value> {
        let (returned, ok) = match self.outcome {
            Outcome::Ok(at) => (Some(at.0), Some(true)),
            Outcome::Failed(at) => (Some(at.0), Some(false)),
            Outcome::Unknown => (None, None),
        };
        let line = |op: &str, more: Value| {
            let mut line = json!({ "process": self.process, "op": op, "log": self.log.0,
                "invoke_ns": self.invoked.0, "return_ns": returned, "ok": ok });
            for (key, value) in more.as_object().into_iter().flatten() {
                line[key] = value.clone();
            }
            line
        };
        match &self.kind {
            Kind::Append { first, records, position, .. } => (0..*records)
                .map(|index| {
                    let value = ValueId { number: first.number + index, ..*first };
                    let offset = position.map(|position| position.0 + u64::from(index));
                    line("append", json!({ "value": value.to_string(), "offset": offset }))
                })
                .collect(),
            Kind::Read { from, values, tail, level, .. } => {
                let end = from.0 + values.len() as u64;
                let values: Vec<String> = values.iter().map(ValueId::to_string).collect();
                let more = json!({ "offset": from.0, "to": null, "values": values,
                    "eof": end >= tail.0, "level": level_name(*level) });
                vec![line("read", more)]
            }
            Kind::Tail { tail, level } => {
                let more = json!({ "offset": tail.0, "level": level_name(*level) });
                vec![line("tail", more)]
            }
        }
    }
}

fn level_name(level: ReadLevel) -> &'static str {
    match level {
        ReadLevel::Local => "local",
        ReadLevel::ReadIndex => "read-index",
        ReadLevel::Lease => "lease",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_name_themselves_and_damage_shows() {
        let id = ValueId { client: 3, number: 41 };
        let record = id.record(20);
        assert_eq!(record, b"c3-41...............");
        assert_eq!(ValueId::parse(&record), Some((id, 20)));
        assert_eq!(ValueId::parse(&id.record(1)), Some((id, 5)));
        for index in 0..record.len() {
            let mut bad = record.clone();
            bad[index] ^= 1;
            assert_ne!(ValueId::parse(&bad), Some((id, 20)), "byte {index}");
        }
    }

    #[test]
    fn lines_are_those_of_the_format() {
        let mut history = History::default();
        let first = ValueId { client: 1, number: 7 };
        let (if_tail, fence, position, moved_to) = (None, None, None, None);
        let kind = Kind::Append { first, records: 1, size: 4, if_tail, fence, position, moved_to };
        history.invoke(1, Time(10), LogId(3), kind);
        let mut out = Vec::new();
        history.write(&mut out).unwrap();
        let line: Value = serde_json::from_slice(&out).unwrap();
        let expected = json!({ "process": 1, "op": "append", "log": 3, "value": "c1-7",
            "offset": null, "invoke_ns": 10, "return_ns": null, "ok": null });
        assert_eq!(line, expected);
    }
}
