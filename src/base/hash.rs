//! Maps by numbers that this program gives out itself.
//!
//! Nobody outside chooses the keys, so no defence against chosen collisions is paid for: one
//! multiplication spreads a number over the table.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are numbers of our own, like a [`super::LogId`].
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
/// A set of numbers of our own.
pub type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// 2^64 by the golden ratio: consecutive numbers end far apart (Knuth, *The Art of Computer
/// Programming*, volume 3, section 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes one number.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // The table takes its place from the low bits and a tag from the high ones.
        let spread = (self.0 ^ number).wrapping_mul(SPREAD);
        self.0 = spread ^ spread >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::LogId;

    #[test]
    fn consecutive_numbers_spread_over_low_and_high_bits() {
        let hash = |number: u32| {
            let mut hasher = IdHasher::default();
            std::hash::Hash::hash(&LogId(number), &mut hasher);
            hasher.finish()
        };
        let low: HashSet<u64> = (0..256).map(|number| hash(number) & 0xff).collect();
        let high: HashSet<u64> = (0..256).map(|number| hash(number) >> 57).collect();
        assert!(low.len() > 128 && high.len() > 96, "{} and {}", low.len(), high.len());
        let mut map = IdMap::default();
        map.extend((0..1000).map(|number| (LogId(number), number)));
        assert!((0..1000).all(|number| map[&LogId(number)] == number));
    }
}
