//! What a command asks for besides its records: the same fields in a client's request and in the
//! batch that carries it.

use std::time::Duration;

use super::limits::{LOG_NAME_BYTES_MAX, RECORD_BYTES_MAX, SESSION_WINDOW_MAX};
use super::{FenceToken, Position, Sequence, SessionId};

/// On what terms records are appended. The default: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AppendTerms {
    /// The client's session; [`SessionId::NONE`] = at least once, as often as it is sent.
    pub session: SessionId,
    /// The append's number within the session.
    pub sequence: Sequence,
    /// How many of the numbers right before this one the client still waits for. Of those before
    /// them it has the results, and will never ask again.
    pub unanswered: u16,
    /// Append only if the next position to be given out is this one.
    pub if_tail: Option<Position>,
    /// Append only if the log has taken no higher token; it then takes this one.
    pub fence: Option<FenceToken>,
}

impl AppendTerms {
    /// The lowest number of the session whose result must still be remembered.
    pub fn wanted_from(&self) -> Sequence {
        Sequence(self.sequence.0.saturating_sub(u64::from(self.unanswered)))
    }
}

/// What a client asks for when it opens a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTerms {
    /// The session ends after this long, in milliseconds of the log's time, without a command.
    pub timeout_ms: u32,
    /// The most results to remember: appends that the client keeps unanswered.
    pub window: u32,
    /// Drawn by the client for this session; 0: none. While a session of the same nonce is open, an
    /// opening finds it: a client that lost the answer to its opening asks again.
    pub nonce: u128,
}

/// Bytes of [`SessionTerms`] in a command.
pub const SESSION_TERMS_SIZE: usize = 24;

impl SessionTerms {
    /// The shortest and the longest time to live.
    pub const TIMEOUTS: (Duration, Duration) =
        (Duration::from_secs(1), Duration::from_secs(24 * 3600));

    /// Why these terms cannot be granted, if so.
    pub fn fault(&self) -> Option<&'static str> {
        let (shortest, longest) = Self::TIMEOUTS;
        let timeout = Duration::from_millis(u64::from(self.timeout_ms));
        if timeout < shortest || timeout > longest {
            return Some("a session's timeout is from 1 s to 24 h");
        }
        if !(1..=SESSION_WINDOW_MAX).contains(&(self.window as usize)) {
            return Some("a session's window is from 1 to 16384 appends");
        }
        None
    }

    /// As bytes of a command.
    pub fn encode(&self) -> [u8; SESSION_TERMS_SIZE] {
        let mut bytes = [0; SESSION_TERMS_SIZE];
        bytes[..4].copy_from_slice(&self.timeout_ms.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.window.to_le_bytes());
        bytes[8..].copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    /// From bytes of a command; `None` when they are not terms that can be granted.
    pub fn decode(bytes: &[u8]) -> Option<SessionTerms> {
        let bytes: &[u8; SESSION_TERMS_SIZE] = bytes.try_into().ok()?;
        let (timeout, rest) = bytes.split_at(4);
        let (window, nonce) = rest.split_at(4);
        let terms = SessionTerms {
            timeout_ms: u32::from_le_bytes(timeout.try_into().ok()?),
            window: u32::from_le_bytes(window.try_into().ok()?),
            nonce: u128::from_le_bytes(nonce.try_into().ok()?),
        };
        terms.fault().is_none().then_some(terms)
    }
}

/// With what a log is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTerms {
    /// Its name: 1 to [`LOG_NAME_BYTES_MAX`] bytes of letters, digits, `.`, `-`, `_` and `/`. No part
    /// between two `/` is empty, `.` or `..`: names become paths and URLs.
    pub name: String,
    /// The largest record that it takes, in bytes.
    pub record_bytes_max: u32,
}

impl LogTerms {
    /// A log that takes whatever the cluster takes.
    pub fn named(name: &str) -> LogTerms {
        LogTerms { name: name.to_owned(), record_bytes_max: RECORD_BYTES_MAX as u32 }
    }

    /// Why a log cannot be created so, if it cannot.
    pub fn fault(&self) -> Option<&'static str> {
        let permitted = |c: u8| c.is_ascii_alphanumeric() || b".-_/".contains(&c);
        if self.name.is_empty() || self.name.len() > LOG_NAME_BYTES_MAX {
            Some("a log's name has 1 to 255 bytes")
        } else if !self.name.bytes().all(permitted) {
            Some("a log's name is made of letters, digits, '.', '-', '_' and '/'")
        } else if self.name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            Some("no part of a log's name between '/' is empty, '.' or '..'")
        } else if !(1..=RECORD_BYTES_MAX).contains(&(self.record_bytes_max as usize)) {
            Some("the largest record of a log has from 1 byte to 1 MiB")
        } else {
            None
        }
    }

    /// As bytes of a command.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.record_bytes_max.to_le_bytes().to_vec();
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// From bytes of a command; `None` when no log can be created so.
    pub fn decode(bytes: &[u8]) -> Option<LogTerms> {
        let (limit, name) = bytes.split_first_chunk::<4>()?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let terms = LogTerms { name, record_bytes_max: u32::from_le_bytes(*limit) };
        terms.fault().is_none().then_some(terms)
    }
}

const _: () = assert!(SESSION_WINDOW_MAX <= u16::MAX as usize, "fits `unanswered`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_terms_round_trip_and_wild_ones_do_not_decode() {
        let terms = SessionTerms { timeout_ms: 60_000, window: 1024, nonce: u128::MAX - 5 };
        assert_eq!(SessionTerms::decode(&terms.encode()), Some(terms));
        for wild in [
            SessionTerms { timeout_ms: 999, ..terms },
            SessionTerms { timeout_ms: u32::MAX, ..terms },
            SessionTerms { window: 0, ..terms },
            SessionTerms { window: SESSION_WINDOW_MAX as u32 + 1, ..terms },
        ] {
            assert_eq!(SessionTerms::decode(&wild.encode()), None, "{wild:?}");
        }
        assert_eq!(SessionTerms::decode(&[1, 2, 3]), None);
    }

    #[test]
    fn what_is_wanted_starts_at_the_oldest_unanswered() {
        let terms = AppendTerms { sequence: Sequence(9), unanswered: 3, ..Default::default() };
        assert_eq!(terms.wanted_from(), Sequence(6));
        let first = AppendTerms { sequence: Sequence(1), unanswered: 5, ..Default::default() };
        assert_eq!(first.wanted_from(), Sequence(0));
    }

    #[test]
    fn log_terms_round_trip_and_wild_names_are_refused() {
        let terms = LogTerms { record_bytes_max: 100, ..LogTerms::named("orders/eu-1_a.b") };
        assert_eq!(LogTerms::decode(&terms.encode()), Some(terms));
        for name in
            ["", "a b", "ä", &"x".repeat(256), ".", "..", "/", "//", "/a", "a/", "a//b", "a/../b"]
        {
            assert!(LogTerms::named(name).fault().is_some(), "{name:?}");
            assert_eq!(LogTerms::decode(&LogTerms::named(name).encode()), None);
        }
        assert_eq!(LogTerms::decode(&[1, 2]), None);
        let none = LogTerms { record_bytes_max: 0, ..LogTerms::named("a") };
        assert!(none.fault().is_some());
    }
}
