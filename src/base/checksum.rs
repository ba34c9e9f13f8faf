//! The one checksum of the project: CRC-32 (IEEE) over bytes, as `crc32fast` computes it.
//!
//! Used for every header and payload on disk and on the wire. It detects damage; it is not an
//! identity: values are told apart by (slot, ballot), never by checksum.

use std::fmt;

use super::limits::SECTOR_SIZE;

/// A CRC-32 of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(pub u32);

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(crc32fast::hash(bytes))
    }

    /// The checksum of the bytes that this is of, followed by `bytes`.
    pub fn then(self, bytes: &[u8]) -> Checksum {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        Checksum(hasher.finalize())
    }

    /// The checksum of the bytes that this is of, followed by one sector whose checksum is `sector`:
    /// without a look at the bytes.
    pub fn then_sector(self, sector: Checksum) -> Checksum {
        let shifted = |byte: usize| SHIFT[byte][(self.0 >> (8 * byte)) as usize & 0xff];
        Checksum(shifted(0) ^ shifted(1) ^ shifted(2) ^ shifted(3) ^ sector.0)
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

/// What a sector of zeros makes of a checksum, by each of its bytes: the step is linear over XOR.
static SHIFT: [[u32; 256]; 4] = shift_tables();

const fn shift_tables() -> [[u32; 256]; 4] {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    // Of each single bit first.
    let mut of_bit = [0_u32; 32];
    let mut bit = 0;
    while bit < 32 {
        let (mut crc, mut step) = (1_u32 << bit, 0);
        while step < SECTOR_SIZE * 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            step += 1;
        }
        of_bit[bit] = crc;
        bit += 1;
    }
    let mut tables = [[0; 256]; 4];
    let mut at = 0;
    while at < 4 * 256 {
        let (byte, value) = (at / 256, at % 256);
        let mut bit = 0;
        while bit < 8 {
            if value >> bit & 1 == 1 {
                tables[byte][value] ^= of_bit[8 * byte + bit];
            }
            bit += 1;
        }
        at += 1;
    }
    tables
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
    fn combines_without_the_bytes() {
        let bytes: Vec<u8> = (0..5 * SECTOR_SIZE).map(|at| (at * 7 / 3) as u8).collect();
        let mut whole = Checksum::of(&[]);
        for (sector, end) in bytes.chunks(SECTOR_SIZE).zip(1..) {
            whole = whole.then_sector(Checksum::of(sector));
            assert_eq!(whole, Checksum::of(&bytes[..end * SECTOR_SIZE]));
        }
        assert_eq!(whole.then(b"tail"), Checksum::of_parts(&[&bytes, b"tail"]));
    }

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
