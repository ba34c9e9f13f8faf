//! The one checksum of the project: CRC-32 (IEEE) over bytes, as `crc32fast` computes it.
//!
//! Used for every header and payload on disk and on the wire. It detects damage; it is not an
//! identity: values are told apart by (slot, ballot), never by checksum.

use std::fmt;

/// A CRC-32 of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(pub u32);

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(crc32fast::hash(bytes))
    }

    /// The checksum of the concatenation of `parts`.
    pub fn of_parts(parts: &[&[u8]]) -> Checksum {
        let mut hasher = crc32fast::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        Checksum(hasher.finalize())
    }
}

/// A checksum of bytes that come piece by piece.
#[derive(Clone, Debug, Default)]
pub struct RunningChecksum {
    hasher: crc32fast::Hasher,
}

impl RunningChecksum {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The checksum of all pieces in a row.
    pub fn finish(self) -> Checksum {
        Checksum(self.hasher.finalize())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_check_value() {
        assert_eq!(Checksum::of(b"123456789"), Checksum(0xcbf4_3926));
        assert_eq!(Checksum::of_parts(&[b"1234", b"", b"56789"]), Checksum(0xcbf4_3926));
        let mut running = RunningChecksum::default();
        for piece in [&b"12345"[..], b"", b"6789"] {
            running.update(piece);
        }
        assert_eq!(running.finish(), Checksum(0xcbf4_3926));
    }
}
