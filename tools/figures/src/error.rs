//! What can go wrong, and with which exit code the tool ends then.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be done as asked: exit 2.
    #[error("{0}")]
    Usage(String),
    /// A measurement or a system under measurement failed: exit 1.
    #[error("{0}")]
    Failed(String),
    /// A system call failed: exit 1.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's own word.
        source: io::Error,
    },
    /// A file does not hold what it should: exit 1.
    #[error("{file}: {why}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A plot cannot be drawn: exit 1.
    #[error("{file} cannot be drawn: {why}")]
    Plot {
        /// The file.
        file: String,
        /// What the library said.
        why: String,
    },
    /// The user wants to stop: exit 130.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted => 130,
            _ => 1,
        }
    }

    /// For `map_err` on what concerns `path`.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::System { what: path.display().to_string(), source }
    }

    /// For `map_err` on what has no path.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what: what.into(), source }
    }

    /// `file` does not hold what it should.
    pub fn content(file: &Path, why: impl Display) -> Error {
        Error::Content { file: file.display().to_string(), why: why.to_string() }
    }
}
