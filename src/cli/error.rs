//! How a command ends: an exit code with a name, and one line that says what is wrong and what
//! to do. Made by every command, turned into the process's end by [`super::main`].

use std::fmt;

use crate::client::{ClientError, ErrorCode};

/// The exit codes, listed in `loggos --help`. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Damage or a violation was found (`inspect`, `sim`).
    Found = 1,
    /// Wrong flags, an unusable directory, unreachable targets: nothing was done.
    Usage = 2,
    /// The operation failed, certainly without effect.
    Failed = 3,
    /// The outcome is unknown: the operation may have taken effect or not, or it has and what came of it
    /// could not be printed.
    Unknown = 4,
    /// The node stopped because a write or flush of its log failed.
    Disk = 5,
    /// The node found its data corrupted at start and did not join.
    Corrupt = 6,
    /// The node was asked to stop, and ended without what hung in the kernel. What it had
    /// acknowledged is durable.
    Hung = 7,
    /// The node's replica differs from a majority of its peers: it stopped.
    Diverged = 9,
    /// The node met what only a newer version understands, and stopped before it was applied.
    NewerVersion = 10,
}

impl Exit {
    /// Every code with its name and meaning, in order. 8 is kept for a node that has been removed from
    /// its cluster.
    pub const ALL: [(Exit, &'static str, &'static str); 10] = [
        (Exit::Ok, "ok", "done"),
        (Exit::Found, "found", "damage or a violation was found (inspect, sim)"),
        (Exit::Usage, "usage", "wrong flags, unusable directory or unreachable targets"),
        (Exit::Failed, "failed", "the operation failed, certainly without effect"),
        (
            Exit::Unknown,
            "unknown",
            "the operation may have taken effect, or it has and its output was lost",
        ),
        (Exit::Disk, "disk", "the node stopped: a write or flush of its log failed"),
        (Exit::Corrupt, "corrupt", "the node's data is corrupted; it did not join"),
        (Exit::Hung, "hung", "the node was asked to stop, and did not wait for what hung"),
        (Exit::Diverged, "diverged", "the node's state differs from its peers'; it stopped"),
        (Exit::NewerVersion, "newer-version", "the node's data needs a newer version; it stopped"),
    ];

    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Why a command ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// One line: what is wrong and what to do.
    pub message: String,
}

impl CliError {
    /// An error with an exit code of its own.
    pub fn new(exit: Exit, message: impl fmt::Display) -> CliError {
        // One line, whatever the sources say.
        let message = message.to_string().replace('\n', "; ");
        CliError { exit, message }
    }

    /// Wrong flags or environment: exit 2.
    pub fn usage(message: impl fmt::Display) -> CliError {
        CliError::new(Exit::Usage, message)
    }

    /// The operation failed without effect: exit 3.
    pub fn failed(message: impl fmt::Display) -> CliError {
        CliError::new(Exit::Failed, message)
    }

    /// An operation that changes something failed: exit 4 when it may have taken effect, else 3.
    pub fn operation(error: &ClientError) -> CliError {
        match error {
            ClientError::OutcomeUnknown { .. }
            | ClientError::Server { code: ErrorCode::OutcomeUnknown, .. } => {
                CliError::unknown(error)
            }
            _ => CliError::failed(error),
        }
    }

    /// The outcome is unknown: exit 4.
    pub fn unknown(message: impl fmt::Display) -> CliError {
        CliError::new(Exit::Unknown, message)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_rise_and_keep_their_numbers() {
        let codes = Exit::ALL.map(|(exit, ..)| exit.code());
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]);
        assert!(Exit::ALL.iter().all(|(_, name, meaning)| !name.is_empty() && !meaning.is_empty()));
    }

    #[test]
    fn a_message_is_one_line() {
        let error = CliError::usage("first\nsecond");
        assert_eq!(error.to_string(), "first; second");
        assert_eq!(error.exit.code(), 2);
    }
}
