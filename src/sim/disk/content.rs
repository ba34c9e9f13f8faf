//! One file's bytes, by block: what a power loss cannot take, and what it can.
//!
//! Used by [`super::SimDisk`]. A block that was never written, or durably holds only zeros, costs
//! nothing. Between two flushes a block may have several versions; at a power loss each sector of
//! it ends up as one of them ([`Tear`]).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;

/// The smallest unit that a power loss leaves whole, in bytes.
pub(super) const SECTOR_SIZE: usize = 512;
const SECTORS: usize = BLOCK_SIZE / SECTOR_SIZE;
/// Versions of one block kept between two flushes; the oldest are forgotten.
const VERSIONS_MAX: usize = 8;

/// The bytes of one block; `None` = zeros.
pub(super) type Block = Option<Rc<[u8; BLOCK_SIZE]>>;

/// Makes a block of exactly [`BLOCK_SIZE`] bytes.
pub(super) fn block_of(bytes: &[u8]) -> Block {
    let array: &[u8; BLOCK_SIZE] = bytes.try_into().expect("whole blocks are stored");
    let zero = array.as_chunks::<32>().0.iter().all(|chunk| *chunk == [0; 32]);
    (!zero).then(|| Rc::new(*array))
}

fn bytes_of(block: &Block) -> &[u8; BLOCK_SIZE] {
    static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];
    block.as_deref().unwrap_or(&ZEROS)
}

/// Which write brought a version, and when it completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WriteMark {
    /// The write's number.
    pub write: u64,
    /// The count of completions when it completed; `u64::MAX`: it has not.
    pub done: u64,
}

#[derive(Clone, Debug)]
struct Version {
    block: Block,
    mark: WriteMark,
    /// A failed flush has thrown away the chance to make it durable: later flushes pass it by.
    doomed: bool,
}

#[derive(Clone, Debug, Default)]
struct BlockState {
    durable: Block,
    /// Completed and not made durable, in order of completion; the last is what reads see.
    versions: Vec<Version>,
    /// It durably holds bytes whose writer was told so.
    acknowledged: bool,
}

impl BlockState {
    fn current(&self) -> &Block {
        self.versions.last().map_or(&self.durable, |version| &version.block)
    }

    fn is_plain(&self) -> bool {
        self.durable.is_none() && self.versions.is_empty() && !self.acknowledged
    }
}

/// How a power loss treats what was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tear {
    /// All of it is lost.
    Lose,
    /// All of it was on its way and arrives, writes in flight included.
    Keep,
    /// Each write arrives whole or not at all.
    ByWrite,
    /// Each block is that of any of its versions.
    ByBlock,
    /// Each sector is that of any of its block's versions.
    BySector,
}

impl Tear {
    const ALL: [Tear; 5] = [Tear::Lose, Tear::Keep, Tear::ByWrite, Tear::ByBlock, Tear::BySector];

    pub fn draw(rng: &mut Rng) -> Tear {
        Tear::ALL[rng.below(Tear::ALL.len() as u64) as usize]
    }
}

/// What a power loss did to a file, in blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TearCount {
    pub lost: u64,
    pub kept: u64,
    pub torn: u64,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    blocks: BTreeMap<u64, BlockState>,
    length: u64,
    length_durable: u64,
    /// Blocks that the file system has given it, in bytes from the start.
    pub reserved: u64,
    /// Blocks that cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
}

impl Content {
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn extend(&mut self, length: u64) {
        self.length = self.length.max(length);
        self.reserved = self.reserved.max(length);
    }

    /// The block as reads see it.
    pub fn current(&self, number: u64) -> &[u8; BLOCK_SIZE] {
        bytes_of(self.blocks.get(&number).map_or(&None, BlockState::current))
    }

    /// Copies from `offset` on into `out`; returns how many bytes the file has there.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let length = (out.len() as u64).min(self.length.saturating_sub(offset)) as usize;
        let first = offset / BLOCK_SIZE as u64;
        for (number, chunk) in (first..).zip(out[..length].chunks_mut(BLOCK_SIZE)) {
            chunk.copy_from_slice(&self.current(number)[..chunk.len()]);
        }
        length
    }

    /// All of it, as reads see it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length() as usize];
        self.read(0, &mut bytes);
        bytes
    }

    /// Whether a block in the range cannot be read.
    pub fn is_unreadable(&self, offset: u64, length: usize) -> bool {
        let first = offset / BLOCK_SIZE as u64;
        let last = (offset + length as u64).div_ceil(BLOCK_SIZE as u64);
        self.unreadable.range(first..last).next().is_some()
    }

    pub fn make_unreadable(&mut self, number: u64) {
        self.unreadable.insert(number);
    }

    /// Whether the range holds bytes whose writer was told that they are durable.
    pub fn is_acknowledged(&self, number: u64) -> bool {
        self.blocks.get(&number).is_some_and(|state| state.acknowledged)
    }

    pub fn forget_acknowledged_in(&mut self, offset: u64, length: usize) {
        let first = offset / BLOCK_SIZE as u64;
        let last = (offset + length as u64).div_ceil(BLOCK_SIZE as u64);
        self.blocks.range_mut(first..last).for_each(|(_, state)| state.acknowledged = false);
    }

    pub fn forget_acknowledged(&mut self) {
        self.blocks.values_mut().for_each(|state| state.acknowledged = false);
    }

    /// A completed write of the first `length` bytes of `bytes` (whole sectors).
    pub fn write(&mut self, offset: u64, bytes: &[u8], length: usize, mark: WriteMark) {
        assert!(length.is_multiple_of(SECTOR_SIZE), "devices write whole sectors");
        let first = offset / BLOCK_SIZE as u64;
        for (number, chunk) in (first..).zip(bytes[..length].chunks(BLOCK_SIZE)) {
            let block = match <&[u8; BLOCK_SIZE]>::try_from(chunk) {
                Ok(whole) => block_of(whole),
                Err(_) => {
                    let mut whole = *self.current(number);
                    whole[..chunk.len()].copy_from_slice(chunk);
                    block_of(&whole)
                }
            };
            self.put(number, block, mark);
        }
        self.extend(offset + length as u64);
    }

    fn put(&mut self, number: u64, block: Block, mark: WriteMark) {
        self.unreadable.remove(&number);
        let state = self.blocks.entry(number).or_default();
        // Zeros over durable zeros are the same whatever a power loss does.
        if block.is_some() || state.durable.is_some() || !state.versions.is_empty() {
            if state.versions.len() == VERSIONS_MAX {
                state.versions.remove(0);
            }
            state.versions.push(Version { block, mark, doomed: false });
        }
        if state.is_plain() {
            self.blocks.remove(&number);
        }
    }

    /// Makes the completed writes of a range of blocks durable.
    fn settle(state: &mut BlockState, done_before: u64, acknowledge: bool) {
        let upto = state.versions.iter().rposition(|v| v.mark.done < done_before && !v.doomed);
        let Some(upto) = upto else { return };
        state.durable = state.versions[upto].block.clone();
        state.versions.drain(..=upto);
        state.acknowledged |= acknowledge && state.durable.is_some();
    }

    /// The end of a durable write: its blocks survive a power loss, and so does the length.
    pub fn make_durable(&mut self, offset: u64, length: usize, acknowledge: bool) {
        let first = offset / BLOCK_SIZE as u64;
        let last = (offset + length as u64).div_ceil(BLOCK_SIZE as u64);
        for (_, state) in self.blocks.range_mut(first..last) {
            Content::settle(state, u64::MAX, acknowledge);
        }
        self.blocks.retain(|_, state| !state.is_plain());
        self.length_durable = self.length_durable.max(self.length);
    }

    /// The end of a flush that began after `done_before` completions.
    pub fn flushed(&mut self, done_before: u64, acknowledge: bool) {
        for state in self.blocks.values_mut() {
            Content::settle(state, done_before, acknowledge);
        }
        self.blocks.retain(|_, state| !state.is_plain());
        self.length_durable = self.length;
    }

    /// A flush has failed: what it should have made durable may be lost although later flushes
    /// succeed (the kernel marks the pages clean).
    pub fn flush_failed(&mut self, done_before: u64) {
        for state in self.blocks.values_mut() {
            for version in &mut state.versions {
                version.doomed |= version.mark.done < done_before;
            }
        }
    }

    /// Puts the block of a write in flight beside the versions, for [`Content::power_loss`].
    pub fn in_flight(&mut self, offset: u64, bytes: &[u8], write: u64) {
        let first = offset / BLOCK_SIZE as u64;
        let mark = WriteMark { write, done: u64::MAX };
        for (number, chunk) in (first..).zip(bytes.chunks(BLOCK_SIZE)) {
            self.put(number, block_of(chunk), mark);
        }
        self.extend(offset + bytes.len() as u64);
    }

    /// The power is lost: every block becomes what the device holds.
    pub fn power_loss(&mut self, tear: Tear, rng: &mut Rng) -> TearCount {
        let mut count = TearCount::default();
        let mut arrived = BTreeMap::new();
        for state in self.blocks.values_mut() {
            if state.versions.is_empty() {
                continue;
            }
            let newest = bytes_of(state.current()).to_owned();
            let oldest = bytes_of(&state.durable).to_owned();
            let survivor = resolve(state, tear, rng, &mut arrived);
            let survivor_bytes = bytes_of(&survivor);
            if *survivor_bytes == newest {
                count.kept += 1;
            } else if *survivor_bytes == oldest {
                count.lost += 1;
            } else {
                count.torn += 1;
            }
            state.durable = survivor;
            state.versions.clear();
        }
        if self.length > self.length_durable {
            let keep = match tear {
                Tear::Lose => false,
                Tear::Keep => true,
                _ => rng.below(2) == 0,
            };
            if !keep {
                self.length = self.length_durable;
                self.reserved = self.length;
                let end = self.length.div_ceil(BLOCK_SIZE as u64);
                self.blocks.split_off(&end);
            }
            self.length_durable = self.length;
        }
        self.blocks.retain(|_, state| !state.is_plain());
        count
    }

    /// The process is gone: the next one reads, past any cache of the kernel, what the device
    /// holds of the writes that a failed flush has doomed.
    pub fn resolve_doomed(&mut self, rng: &mut Rng) {
        for state in self.blocks.values_mut() {
            state.versions.retain_mut(|version| {
                let doomed = std::mem::take(&mut version.doomed);
                !doomed || rng.below(2) == 0
            });
        }
        self.blocks.retain(|_, state| !state.is_plain());
    }

    /// Flips one bit, wherever the byte is held.
    pub fn flip(&mut self, offset: u64, bit: u32) {
        assert!(offset < self.length, "a bit of the file is flipped");
        let (number, at) = (offset / BLOCK_SIZE as u64, (offset % BLOCK_SIZE as u64) as usize);
        let state = self.blocks.entry(number).or_default();
        let versions = state.versions.iter_mut().map(|version| &mut version.block);
        for block in versions.chain([&mut state.durable]) {
            let mut bytes = *bytes_of(block);
            bytes[at] ^= 1 << bit;
            *block = block_of(&bytes);
        }
    }

    /// Turns a block to zeros, wherever it is held.
    pub fn zero(&mut self, number: u64) {
        self.blocks.remove(&number);
    }

    /// What a power loss would leave at worst.
    pub fn durable_copy(&self) -> Content {
        let mut copy = self.clone();
        copy.power_loss(Tear::Lose, &mut Rng::new(0));
        copy
    }

    /// Blocks that cost memory.
    pub fn held_blocks(&self) -> usize {
        self.blocks.values().map(|state| 1 + state.versions.len()).sum()
    }
}

fn resolve(
    state: &BlockState,
    tear: Tear,
    rng: &mut Rng,
    arrived: &mut BTreeMap<u64, bool>,
) -> Block {
    let any = |rng: &mut Rng| match rng.below(state.versions.len() as u64 + 1) as usize {
        0 => &state.durable,
        index => &state.versions[index - 1].block,
    };
    match tear {
        Tear::Lose => state.durable.clone(),
        Tear::Keep => state.current().clone(),
        Tear::ByWrite => {
            let mut arrives = |write| *arrived.entry(write).or_insert_with(|| rng.below(2) == 0);
            // In order of completion: the last that arrives is what stands.
            let kept = state.versions.iter().rfind(|version| arrives(version.mark.write));
            kept.map_or(&state.durable, |version| &version.block).clone()
        }
        Tear::ByBlock => any(rng).clone(),
        Tear::BySector => {
            let mut bytes = [0; BLOCK_SIZE];
            for sector in 0..SECTORS {
                let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
                bytes[range.clone()].copy_from_slice(&bytes_of(any(rng))[range]);
            }
            block_of(&bytes)
        }
    }
}
