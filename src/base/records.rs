//! A run of records: `[length u32 little-endian][bytes]` repeated, nothing between.
//!
//! The same bytes travel from the client's frame into the batch, to the peers, to every disk and
//! back to readers. Nothing here allocates.

use super::limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, RECORD_BYTES_MAX};

/// Bytes of a record's length prefix.
pub const RECORD_PREFIX_SIZE: usize = 4;

/// Why bytes are not a run of records that an append may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// The run ends inside a length prefix or a record.
    #[error("the run of records ends inside a record")]
    Truncated,
    /// A record is larger than [`RECORD_BYTES_MAX`].
    #[error("a record of {0} bytes is over the limit of {RECORD_BYTES_MAX}")]
    RecordTooLarge(u32),
    /// More than [`APPEND_RECORDS_MAX`] records.
    #[error("{0} records in one append are over the limit of {APPEND_RECORDS_MAX}")]
    TooMany(u32),
    /// The run is larger than [`APPEND_BYTES_MAX`].
    #[error("{0} bytes in one append are over the limit of {APPEND_BYTES_MAX}")]
    RunTooLarge(usize),
    /// No record at all.
    #[error("an append needs at least one record")]
    Empty,
    /// The count that stands beside the run is not the number of records in it.
    #[error("the run holds {found} records where {stated} are stated")]
    CountMismatch {
        /// What the message says.
        stated: u32,
        /// What the run holds.
        found: u32,
    },
}

/// Adds one record to the end of a run.
pub fn push_record(run: &mut Vec<u8>, record: &[u8]) {
    assert!(record.len() <= RECORD_BYTES_MAX, "the caller checks the record's size");
    run.extend_from_slice(&(record.len() as u32).to_le_bytes());
    run.extend_from_slice(record);
}

/// Checks that `run` holds `stated` whole records within the limits of one append.
pub fn check_run(run: &[u8], stated: u32) -> Result<(), RecordsError> {
    if run.len() > APPEND_BYTES_MAX {
        return Err(RecordsError::RunTooLarge(run.len()));
    }
    if stated as usize > APPEND_RECORDS_MAX {
        return Err(RecordsError::TooMany(stated));
    }
    let mut found = 0u32;
    let mut rest = run;
    while !rest.is_empty() {
        let (record, tail) = split_record(rest)?;
        if record.len() > RECORD_BYTES_MAX {
            return Err(RecordsError::RecordTooLarge(record.len() as u32));
        }
        found += 1;
        rest = tail;
    }
    match found {
        0 => Err(RecordsError::Empty),
        _ if found != stated => Err(RecordsError::CountMismatch { stated, found }),
        _ => Ok(()),
    }
}

/// The first record of a run, and the rest of the run.
pub fn split_record(run: &[u8]) -> Result<(&[u8], &[u8]), RecordsError> {
    let (prefix, rest) = run.split_first_chunk::<4>().ok_or(RecordsError::Truncated)?;
    let length = u32::from_le_bytes(*prefix);
    if length as usize > rest.len() {
        // Tell an absurd length from a short run: the first is the sender's mistake.
        return Err(if length as usize > RECORD_BYTES_MAX {
            RecordsError::RecordTooLarge(length)
        } else {
            RecordsError::Truncated
        });
    }
    Ok(rest.split_at(length as usize))
}

/// Walks the records of a run; ends at the first damage.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records of `run`.
    pub fn new(run: &'a [u8]) -> Records<'a> {
        Records { rest: run }
    }

    /// The bytes not yet walked.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match split_record(self.rest) {
            Ok((record, rest)) => {
                self.rest = rest;
                Some(Ok(record))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_round_trips() {
        let mut run = Vec::new();
        for record in [&b"one"[..], b"", b"three"] {
            push_record(&mut run, record);
        }
        assert_eq!(check_run(&run, 3), Ok(()));
        let found: Vec<_> = Records::new(&run).map(Result::unwrap).collect();
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn every_kind_of_bad_run_has_its_error() {
        let mut run = Vec::new();
        push_record(&mut run, b"one");
        assert_eq!(check_run(&run, 2), Err(RecordsError::CountMismatch { stated: 2, found: 1 }));
        assert_eq!(check_run(&run[..6], 1), Err(RecordsError::Truncated));
        assert_eq!(check_run(&run[..3], 1), Err(RecordsError::Truncated));
        assert_eq!(check_run(&[], 0), Err(RecordsError::Empty));
        assert_eq!(check_run(&[0xff; 8], 1), Err(RecordsError::RecordTooLarge(u32::MAX)));
        assert_eq!(check_run(&[], u32::MAX), Err(RecordsError::TooMany(u32::MAX)));
        let huge = vec![0; APPEND_BYTES_MAX + 1];
        assert_eq!(check_run(&huge, 1), Err(RecordsError::RunTooLarge(huge.len())));
    }
}
