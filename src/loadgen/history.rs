//! `--history FILE`: every operation that a worker saw, one JSON object a line, for any checker.
//!
//! A worker collects operations in a chunk of its own and hands full chunks to the writer thread
//! through a bounded channel; the thread spells out values and JSON, so that the measuring threads
//! do not. When the file is slower than the load, workers wait: a history is complete or it is
//! none. A failed write ends the history with an error, which [`Writer::finish`] reports.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde::Serialize;

use super::clock::Nanos;
use super::workload::ReadLevel;
use crate::base::Position;

/// Operations in one chunk.
const CHUNK_OPERATIONS_MAX: usize = 4096;
/// Chunks on their way to the writer.
const CHUNKS_QUEUED_MAX: usize = 64;
/// Bytes gathered for one write to the file.
const FILE_BUFFER_BYTES: usize = 1 << 20;

/// The identity of an appended value: unique in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueId {
    /// The worker that made it, from 0.
    pub worker: u32,
    /// Its number among the worker's values, from 0.
    pub number: u64,
}

impl ValueId {
    /// Writes the value, `w<worker>-<number>` padded with dots, over the whole of `record`.
    ///
    /// # Panics
    /// When `record` is too short for it: the workload's validation sees to that.
    pub fn fill(self, record: &mut [u8]) {
        let length = record.len();
        let mut rest = &mut record[..];
        write!(rest, "w{}-{}", self.worker, self.number).expect("the record holds its value");
        let padding = rest.len();
        record[length - padding..].fill(b'.');
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, the answer read at this time.
    Ok(Nanos),
    /// Certainly without effect, known since this time.
    Failed(Nanos),
    /// It may have taken effect, or may yet.
    Unknown,
}

/// An operation that has ended, as a worker saw it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// A logical client: its operations follow one another.
    pub process: u32,
    /// Noted before the first byte left.
    pub invoke: Nanos,
    /// How it ended.
    pub outcome: Outcome,
    /// The log, by its number among the load's; none where there is one only.
    pub log: Option<u32>,
    /// What it was.
    pub kind: Kind,
}

/// What an operation was.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An append of `records` records, `value` and its successors; `position` of the first.
    Append {
        /// The first record's value.
        value: ValueId,
        /// How many records, each with the next number.
        records: u32,
        /// Bytes of each record: the value is padded to it.
        record_bytes: u32,
        /// Where the first one stands, when acknowledged.
        position: Option<Position>,
    },
    /// A read of `[from, to)`.
    Read {
        /// The first position asked for.
        from: Position,
        /// The exclusive end asked for; none: as much as one answer holds.
        to: Option<Position>,
        /// What came back.
        values: Vec<String>,
        /// Whether the answer reached the tail.
        eof: bool,
        /// The level asked for.
        level: ReadLevel,
    },
}

/// A line of the file. Fields that an operation does not have are left out.
#[derive(Serialize)]
struct Line<'a> {
    process: u32,
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eof: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    invoke_ns: u64,
    return_ns: Option<u64>,
    ok: Option<bool>,
}

impl Operation {
    /// Writes the operation's lines: one for a read, one for each record of an append.
    fn write(&self, out: &mut impl Write, scratch: &mut Vec<u8>) -> io::Result<()> {
        let (return_ns, ok) = match self.outcome {
            Outcome::Ok(at) => (Some(at.0), Some(true)),
            Outcome::Failed(at) => (Some(at.0), Some(false)),
            Outcome::Unknown => (None, None),
        };
        let line = Line {
            process: self.process,
            op: "append",
            log: self.log,
            value: None,
            offset: None,
            to: None,
            values: None,
            eof: None,
            level: None,
            invoke_ns: self.invoke.0,
            return_ns,
            ok,
        };
        match &self.kind {
            Kind::Append { value, records, record_bytes, position } => {
                scratch.resize(*record_bytes as usize, 0);
                for index in 0..u64::from(*records) {
                    let number = value.number + index;
                    ValueId { number, ..*value }.fill(scratch);
                    let text = std::str::from_utf8(scratch).expect("values are ASCII");
                    let offset = position.map(|position| position.plus(index).0);
                    write_line(out, &Line { value: Some(text), offset, ..line })?;
                }
                Ok(())
            }
            Kind::Read { from, to, values, eof, level } => {
                let answered = ok == Some(true);
                let line = Line {
                    op: "read",
                    offset: Some(from.0),
                    to: Some(to.map(|to| to.0)),
                    values: answered.then_some(values),
                    eof: answered.then_some(*eof),
                    level: Some(level.as_str()),
                    ..line
                };
                write_line(out, &line)
            }
        }
    }
}

fn write_line(out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// A worker's end of the history.
#[derive(Debug)]
pub struct Recorder {
    chunk: Vec<Operation>,
    sender: SyncSender<Vec<Operation>>,
}

impl Recorder {
    /// Notes an operation. Waits when the writer is [`CHUNKS_QUEUED_MAX`] chunks behind.
    pub fn note(&mut self, operation: Operation) {
        self.chunk.push(operation);
        if self.chunk.len() >= CHUNK_OPERATIONS_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_OPERATIONS_MAX));
        if !full.is_empty() && self.sender.send(full).is_err() {
            // The writer has failed and gone; `finish` reports why. What it cannot take is void.
            tracing::debug!("the history's writer has ended early");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The writer thread of a history.
#[derive(Debug)]
pub struct Writer {
    sender: SyncSender<Vec<Operation>>,
    thread: JoinHandle<io::Result<u64>>,
}

impl Writer {
    /// Creates (or empties) `path` and starts the writer thread.
    ///
    /// # Errors
    /// When the file cannot be created or the thread not be started.
    pub fn create(path: &Path) -> io::Result<Writer> {
        let file = File::create(path)?;
        let (sender, receiver) = sync_channel(CHUNKS_QUEUED_MAX);
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || write_chunks(file, &receiver))?;
        Ok(Writer { sender, thread })
    }

    /// A new end for one worker.
    pub fn recorder(&self) -> Recorder {
        let chunk = Vec::with_capacity(CHUNK_OPERATIONS_MAX);
        Recorder { chunk, sender: self.sender.clone() }
    }

    /// Waits until all recorders are dropped and everything is in the file; returns the number
    /// of operations.
    ///
    /// # Errors
    /// The first failure to write: the file then lacks operations.
    pub fn finish(self) -> io::Result<u64> {
        drop(self.sender);
        self.thread.join().map_err(|_| io::Error::other("the history's writer has panicked"))?
    }
}

fn write_chunks(file: File, receiver: &Receiver<Vec<Operation>>) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(FILE_BUFFER_BYTES, file);
    let mut scratch = Vec::new();
    let mut written = 0;
    while let Ok(chunk) = receiver.recv() {
        for operation in &chunk {
            operation.write(&mut out, &mut scratch)?;
            written += 1;
        }
    }
    out.flush()?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(number: u64, records: u32, outcome: Outcome) -> Operation {
        let position = matches!(outcome, Outcome::Ok(_)).then_some(Position(42));
        let value = ValueId { worker: 1, number };
        let kind = Kind::Append { value, records, record_bytes: 16, position };
        Operation { process: 3, invoke: Nanos(10), outcome, log: None, kind }
    }

    #[test]
    fn lines_are_those_of_the_format() {
        let mut out = Vec::new();
        let mut scratch = Vec::new();
        let read = Operation {
            process: 2,
            invoke: Nanos(95),
            outcome: Outcome::Ok(Nanos(99)),
            log: Some(4),
            kind: Kind::Read {
                from: Position(40),
                to: Some(Position(50)),
                values: vec!["a".into(), "b".into()],
                eof: true,
                level: ReadLevel::Lease,
            },
        };
        let operations = [
            append(7, 1, Outcome::Ok(Nanos(90))),
            append(8, 2, Outcome::Unknown),
            append(10, 1, Outcome::Failed(Nanos(91))),
            read,
        ];
        operations.iter().for_each(|o| o.write(&mut out, &mut scratch).unwrap());
        let expected = [
            r#"{"process":3,"op":"append","value":"w1-7............","offset":42,"invoke_ns":10,"return_ns":90,"ok":true}"#,
            r#"{"process":3,"op":"append","value":"w1-8............","offset":null,"invoke_ns":10,"return_ns":null,"ok":null}"#,
            r#"{"process":3,"op":"append","value":"w1-9............","offset":null,"invoke_ns":10,"return_ns":null,"ok":null}"#,
            r#"{"process":3,"op":"append","value":"w1-10...........","offset":null,"invoke_ns":10,"return_ns":91,"ok":false}"#,
            r#"{"process":2,"op":"read","log":4,"offset":40,"to":50,"values":["a","b"],"eof":true,"level":"lease","invoke_ns":95,"return_ns":99,"ok":true}"#,
        ];
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn everything_noted_reaches_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let writer = Writer::create(&path).unwrap();
        let count = CHUNK_OPERATIONS_MAX as u64 * 3 + 5;
        let mut recorder = writer.recorder();
        (0..count).for_each(|n| recorder.note(append(n, 1, Outcome::Ok(Nanos(20)))));
        drop(recorder);
        assert_eq!(writer.finish().unwrap(), count);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count() as u64, count);
        let values: std::collections::BTreeSet<_> = text
            .lines()
            .map(|line| {
                let json: serde_json::Value = serde_json::from_str(line).unwrap();
                json["value"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(values.len() as u64, count);
    }
}
