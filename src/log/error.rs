//! What can go wrong, typed: at start ([`LogError`]), while running ([`LogFailure`], fatal), and
//! in one read ([`ReadError`]).

use std::fmt;
use std::io;

use serde::Serialize;

use crate::base::Slot;
use crate::io::DiskError;

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: String,
    /// The offset of the damaged structure in bytes.
    pub offset: u64,
    /// The slot, when it is known.
    pub slot: Option<u64>,
    /// What is wrong, and how it is known.
    pub why: String,
}

impl Damage {
    pub(super) fn new(file: &str, offset: u64, slot: Option<Slot>, why: String) -> Damage {
        Damage { file: file.to_owned(), offset, slot: slot.map(|slot| slot.0), why }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.file, self.offset)?;
        if let Some(slot) = self.slot {
            write!(f, " (slot {slot})")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Why a log cannot be opened or replayed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The parameters do not fit together.
    #[error("{0}")]
    Options(&'static str),
    /// The system refused an operation.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its file.
        what: String,
        /// The system's own word.
        source: io::Error,
    },
    /// The folder has no promise file: it was lost, or this is not a log's folder.
    #[error(
        "damaged: {0}/vote is missing: it holds what the node has promised, and without it the \
             node must not vote"
    )]
    Unformatted(String),
    /// Formatting would destroy what is there.
    #[error("{0} is not empty: it is not formatted again")]
    NotEmpty(String),
    /// Something that had been durable is damaged or missing. Nothing was changed.
    #[error("damaged: {0}")]
    Corrupt(Damage),
    /// The files belong to another cluster, node, group or version, or have another size.
    #[error("{file}: {why}")]
    Foreign {
        /// The file.
        file: String,
        /// What does not fit.
        why: String,
    },
    /// A newer version has written the file. Nothing was changed.
    #[error("{file} needs a newer version: {why}; start the node with the version that wrote it")]
    NewerVersion {
        /// The file.
        file: String,
        /// What is not known.
        why: String,
    },
    /// The visitor of a replay refused a batch.
    #[error("slot {slot}: {why}")]
    Refused {
        /// The slot.
        slot: Slot,
        /// The visitor's word.
        why: String,
    },
}

impl LogError {
    pub(super) fn io(what: String) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { what, source }
    }

    /// Whether the device or the quota is full.
    pub fn is_full(&self) -> bool {
        match self {
            LogError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Why the state of a checkpoint is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is no state: a start does without it.
    #[error("{0}")]
    Wrong(String),
    /// A newer version wrote it: the start is refused, and the checkpoint stays.
    #[error("{0}")]
    Newer(String),
}

/// A failed or short write or flush: the log is poisoned and the process must stop. What was
/// reported durable before stays so; nothing after it ever is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has failed: {what}")]
pub struct LogFailure {
    /// The operation, its file and the system's word.
    pub what: String,
}

impl LogFailure {
    pub(super) fn failed(doing: &str, error: &DiskError) -> LogFailure {
        LogFailure { what: format!("{doing}: {error}") }
    }

    pub(super) fn short(doing: &str, done: u32, asked: u32) -> LogFailure {
        LogFailure { what: format!("{doing}: only {done} of {asked} bytes were written") }
    }
}

/// Why a read brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{0}")]
    Io(String),
    /// What was read is not what was written.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// The index told of a place, but the slot or position does not stand there.
    #[error("the log does not hold it")]
    Missing,
}
