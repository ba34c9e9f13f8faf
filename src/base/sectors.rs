//! The checksums of an entry's sectors: where they stand, how they are made in one pass over the
//! value, and what they tell of an entry that is read again.
//!
//! An entry on disk is its header (one sector), the value's sectors (the last one padded with zeros),
//! a table of their checksums if the header cannot hold them, and zeros up to the block:
//!
//! ```text
//!   up to 95 sectors  | header: fields, checksums of the value's sectors | value | zeros
//!   more              | header: fields, checksums of the table's sectors | value | table | zeros
//! ```
//!
//! The table stands behind the value, so that the value never moves: it is received, sealed, sent and
//! written in one place. The header's own checksum covers these checksums, and the next entry's header
//! carries that one, so the chain binds every byte.
//!
//! Used by [`super::memory::Batch`], which makes them when a value is sealed, and by `log/`, which
//! judges by them what a crash has left ([`judge`]).

use super::checksum::Checksum;
use super::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, SECTOR_SIZE, VALUE_BYTES_MAX, block_align};
use super::memory::BUFFER_BYTES_MAX;

/// Where the checksums stand in an entry's header.
pub const CHECKSUMS_AT: usize = 128;
/// Where they end: the header's own checksum follows.
pub const CHECKSUMS_END: usize = ENTRY_HEADER_SIZE - 4;
/// So many checksums fit in the header.
const IN_HEADER_MAX: usize = (CHECKSUMS_END - CHECKSUMS_AT) / 4;
/// Checksums in a sector of the table.
const PER_SECTOR: usize = SECTOR_SIZE / 4;

const _: () = {
    let sectors = VALUE_BYTES_MAX.div_ceil(SECTOR_SIZE);
    assert!(sectors.div_ceil(PER_SECTOR) <= IN_HEADER_MAX);
    assert!(entry_size(VALUE_BYTES_MAX) <= BUFFER_BYTES_MAX);
    // A small entry stays one block.
    assert!(entry_size(BLOCK_SIZE - ENTRY_HEADER_SIZE) == BLOCK_SIZE);
};

/// Sectors of a value.
const fn value_sectors(value_size: usize) -> usize {
    value_size.div_ceil(SECTOR_SIZE)
}

/// Sectors of a value's table; 0 when the header holds the checksums.
const fn table_sectors(value_size: usize) -> usize {
    match value_sectors(value_size) {
        0..=IN_HEADER_MAX => 0,
        sectors => sectors.div_ceil(PER_SECTOR),
    }
}

/// Where the table begins in an entry.
const fn table_at(value_size: usize) -> usize {
    ENTRY_HEADER_SIZE + value_sectors(value_size) * SECTOR_SIZE
}

/// Where the zeros behind an entry's last sector begin.
const fn padding_at(value_size: usize) -> usize {
    table_at(value_size) + table_sectors(value_size) * SECTOR_SIZE
}

/// Bytes of the entry on disk of a value of this size: header, value, table and padding, whole blocks.
pub const fn entry_size(value_size: usize) -> usize {
    block_align(padding_at(value_size))
}

/// The largest value whose entry takes at most `entry_bytes_max` (whole blocks).
pub const fn value_bytes_max(entry_bytes_max: usize) -> usize {
    let room = entry_bytes_max.saturating_sub(ENTRY_HEADER_SIZE) / SECTOR_SIZE;
    // Of n sectors with their table, all but one in 129 are the value's.
    let value = match room {
        0..=IN_HEADER_MAX => room,
        _ => room - room.div_ceil(PER_SECTOR + 1),
    };
    let bytes = value * SECTOR_SIZE;
    if bytes < VALUE_BYTES_MAX { bytes } else { VALUE_BYTES_MAX }
}

fn put(entry: &mut [u8], at: usize, index: usize, checksum: Checksum) {
    entry[at + 4 * index..][..4].copy_from_slice(&checksum.0.to_le_bytes());
}

fn get(entry: &[u8], at: usize, index: usize) -> Checksum {
    let bytes = entry[at + 4 * index..][..4].try_into().expect("four bytes");
    Checksum(u32::from_le_bytes(bytes))
}

/// Fills in all of an entry but its header's fields, around the value that stands in it: the
/// checksums, the table, the zeros. Returns the value's checksum. One pass over the value.
///
/// `entry`: the entry's [`entry_size`] bytes.
pub fn seal(entry: &mut [u8], value_size: usize) -> Checksum {
    entry[..ENTRY_HEADER_SIZE].fill(0);
    entry[ENTRY_HEADER_SIZE + value_size..entry_size(value_size)].fill(0);
    let table = table_sectors(value_size);
    let (at, sectors) = match table {
        0 => (CHECKSUMS_AT, value_sectors(value_size)),
        _ => (table_at(value_size), value_sectors(value_size)),
    };
    let mut whole = Checksum::of(&[]);
    for index in 0..sectors {
        let start = ENTRY_HEADER_SIZE + index * SECTOR_SIZE;
        let sector = &entry[start..start + SECTOR_SIZE];
        let (checksum, used) = (Checksum::of(sector), value_size - index * SECTOR_SIZE);
        whole = match used >= SECTOR_SIZE {
            true => whole.then_sector(checksum),
            false => whole.then(&sector[..used]),
        };
        put(entry, at, index, checksum);
    }
    for index in 0..table {
        let start = table_at(value_size) + index * SECTOR_SIZE;
        let checksum = Checksum::of(&entry[start..start + SECTOR_SIZE]);
        put(entry, CHECKSUMS_AT, index, checksum);
    }
    whole
}

/// What stands behind a header that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that was written.
    Whole,
    /// Some sectors are blank and the others as written: the write was cut short, so it was never
    /// acknowledged.
    Torn(String),
    /// A sector is neither: it was written, and changed since.
    Damaged(String),
}

/// Judges what stands in an entry behind its header, whose checksums are trusted: each sector is
/// as it was written, or blank, or damaged.
///
/// Where a sector of the table is blank, what its checksums would have told of stays unknown. The entry
/// is torn then all the same: a sector that is missing was not durable, and so neither was the write.
///
/// `entry`: as much of the entry as stands in its file.
pub fn judge(entry: &[u8], value_size: usize) -> Standing {
    let Some(entry) = entry.get(..entry_size(value_size)) else {
        return Standing::Damaged("the value is cut off".into());
    };
    let mut torn = None;
    let mut judge_sector = |start: usize, wanted: Option<Checksum>, what: &str| {
        let sector = &entry[start..start + SECTOR_SIZE];
        let is_new = wanted.is_some_and(|wanted| Checksum::of(sector) == wanted);
        if is_new {
            return Ok(true);
        }
        let blank = is_zero(sector);
        if !blank && wanted.is_some() {
            let index = start / SECTOR_SIZE;
            return Err(format!("the checksum of {what}'s sector {index} does not match"));
        }
        if blank {
            torn.get_or_insert_with(|| format!("{what}'s sector {} is blank", start / SECTOR_SIZE));
        }
        Ok(false)
    };
    let table = table_sectors(value_size);
    let mut known = vec![true; table];
    for (index, known) in known.iter_mut().enumerate() {
        let wanted = get(entry, CHECKSUMS_AT, index);
        let start = table_at(value_size) + index * SECTOR_SIZE;
        match judge_sector(start, Some(wanted), "the table") {
            Ok(is_new) => *known = is_new,
            Err(why) => return Standing::Damaged(why),
        }
    }
    let at = if table == 0 { CHECKSUMS_AT } else { table_at(value_size) };
    for index in 0..value_sectors(value_size) {
        let is_known = known.get(index / PER_SECTOR).copied().unwrap_or(true);
        let wanted = is_known.then(|| get(entry, at, index));
        let start = ENTRY_HEADER_SIZE + index * SECTOR_SIZE;
        if let Err(why) = judge_sector(start, wanted, "the value") {
            return Standing::Damaged(why);
        }
    }
    if !is_zero(&entry[padding_at(value_size)..]) {
        return Standing::Damaged("the padding behind the value is not zero".into());
    }
    torn.map_or(Standing::Whole, Standing::Torn)
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // In chunks of 32: this runs over whole segments at start.
    let (words, tail) = bytes.as_chunks::<32>();
    words.iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// An entry with a value of random bytes.
    fn sealed(value_size: usize, seed: u64) -> (Vec<u8>, Checksum) {
        let mut rng = Rng::new(seed);
        let mut entry = vec![0xdb; entry_size(value_size)];
        let value = &mut entry[ENTRY_HEADER_SIZE..][..value_size];
        value.fill_with(|| rng.next_u64() as u8);
        let wanted = Checksum::of(value);
        assert_eq!(seal(&mut entry, value_size), wanted, "{value_size}");
        (entry, wanted)
    }

    const SIZES: [usize; 12] = [
        0,
        1,
        511,
        512,
        513,
        3584,
        IN_HEADER_MAX * SECTOR_SIZE,
        IN_HEADER_MAX * SECTOR_SIZE + 1,
        128 * SECTOR_SIZE,
        128 * SECTOR_SIZE + 1,
        200_001,
        VALUE_BYTES_MAX,
    ];

    #[test]
    fn sealed_entry_is_whole() {
        for size in SIZES {
            let (entry, _) = sealed(size, size as u64);
            assert_eq!(judge(&entry, size), Standing::Whole, "{size}");
            let cut = &entry[..entry.len() - 1];
            assert!(matches!(judge(cut, size), Standing::Damaged(_)), "{size}");
        }
    }

    #[test]
    fn every_lost_sector_is_a_tear() {
        for size in SIZES.into_iter().filter(|size| *size <= 200_001) {
            let (entry, _) = sealed(size, 7);
            for sector in 1..padding_at(size) / SECTOR_SIZE {
                let mut torn = entry.clone();
                torn[sector * SECTOR_SIZE..][..SECTOR_SIZE].fill(0);
                assert!(matches!(judge(&torn, size), Standing::Torn(_)), "{size}: {sector}");
            }
        }
    }

    #[test]
    fn every_rotten_sector_is_damage() {
        let mut rng = Rng::new(3);
        for size in SIZES.into_iter().filter(|size| *size <= 200_001) {
            let (entry, _) = sealed(size, 8);
            for sector in 1..entry.len() / SECTOR_SIZE {
                let mut rotten = entry.clone();
                let at = sector * SECTOR_SIZE + rng.below(SECTOR_SIZE as u64) as usize;
                rotten[at] ^= 1 << rng.below(8);
                assert!(matches!(judge(&rotten, size), Standing::Damaged(_)), "{size}: {sector}");
                // Beside a tear as well.
                let other = 1 + rng.below(entry.len() as u64 / SECTOR_SIZE as u64 - 1) as usize;
                if other != sector && table_sectors(size) == 0 {
                    rotten[other * SECTOR_SIZE..][..SECTOR_SIZE].fill(0);
                    assert!(matches!(judge(&rotten, size), Standing::Damaged(_)), "{size}");
                }
            }
        }
    }

    #[test]
    fn largest_values_fill_their_entries() {
        for blocks in 1..=BUFFER_BYTES_MAX / BLOCK_SIZE {
            let (bytes, largest) = (blocks * BLOCK_SIZE, value_bytes_max(blocks * BLOCK_SIZE));
            assert!(entry_size(largest) <= bytes, "{blocks}");
            let more = largest + SECTOR_SIZE;
            assert!(more > VALUE_BYTES_MAX || entry_size(more) > bytes, "{blocks}");
        }
        assert_eq!(value_bytes_max(0), 0);
    }

    #[test]
    fn zeros_are_found_at_any_length() {
        for length in 0..100 {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }
}
