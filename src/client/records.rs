//! What a read brings: records with their positions, shared, not copied per record.

use bytes::Bytes;

use crate::base::Position;
use crate::base::records::{RECORD_PREFIX_SIZE, RecordsError, split_record};

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub position: Position,
    /// What was appended.
    pub bytes: Bytes,
}

/// Consecutive records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    first: Position,
    tail: Position,
    count: u32,
    run: Bytes,
}

impl RecordBatch {
    /// Checks that `run` holds `count` whole records.
    pub(super) fn new(
        first: Position,
        tail: Position,
        count: u32,
        run: Bytes,
    ) -> Result<RecordBatch, RecordsError> {
        let mut found = 0;
        let mut rest = &run[..];
        while !rest.is_empty() {
            (_, rest) = split_record(rest)?;
            found += 1;
        }
        match found == count {
            true => Ok(RecordBatch { first, tail, count, run }),
            false => Err(RecordsError::CountMismatch { stated: count, found }),
        }
    }

    /// The position of the first record (where the read began, when there is none).
    pub fn first(&self) -> Position {
        self.first
    }

    /// The position behind the last record: where to read on.
    pub fn next(&self) -> Position {
        self.first.plus(u64::from(self.count))
    }

    /// The next position to be given out, as far as the answering node had applied.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// How many records.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Their bytes with their prefixes.
    pub(super) fn run_bytes(&self) -> usize {
        self.run.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records, in order; they share the batch's memory.
    pub fn iter(&self) -> impl Iterator<Item = Record> + '_ {
        let mut walker = Walker::new(self.clone());
        std::iter::from_fn(move || walker.next())
    }
}

/// Takes the records off a batch one by one.
#[derive(Clone, Debug)]
pub(super) struct Walker {
    next: Position,
    run: Bytes,
}

impl Walker {
    pub(super) fn new(batch: RecordBatch) -> Walker {
        Walker { next: batch.first, run: batch.run }
    }

    pub(super) fn next(&mut self) -> Option<Record> {
        if self.run.is_empty() {
            return None;
        }
        let (record, _) = split_record(&self.run).expect("the run was checked when it came in");
        let bytes = self.run.slice_ref(record);
        self.run = self.run.slice(RECORD_PREFIX_SIZE + bytes.len()..);
        let position = self.next;
        self.next = position.plus(1);
        Some(Record { position, bytes })
    }
}
