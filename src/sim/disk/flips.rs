//! Damage at rest, in a chosen region of the log's files.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::limits::BLOCK_SIZE;
use crate::base::rng::Rng;
use crate::base::sectors::entry_size;
use crate::log::layout::{BlockKind, FileKind, HEADER_BYTES, block_kind, file_kind, footer_bytes};

use super::content::Content;
use super::names::{Inode, folder_of};
use super::{SimDisk, counts};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Where damage is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// The header of an entry that is not the last one.
    Header,
    /// The value of an entry that is not the last one.
    Payload,
    /// The zeros behind the value of an entry that is not the last one.
    Padding,
    /// The first block of a segment.
    SegmentHeader,
    /// The index footer of a segment.
    Footer,
    /// The last entry of a log.
    Tail,
    /// Blocks of a segment that nothing was written to.
    Blank,
    /// One copy of a vote.
    Vote,
    /// The identity.
    Identity,
    /// A checkpoint.
    Checkpoint,
}

impl Region {
    /// Every region.
    pub const ALL: [Region; 10] = [
        Region::Header,
        Region::Payload,
        Region::Padding,
        Region::SegmentHeader,
        Region::Footer,
        Region::Tail,
        Region::Blank,
        Region::Vote,
        Region::Identity,
        Region::Checkpoint,
    ];

    fn counter(self) -> &'static str {
        match self {
            Region::Header => counts::FLIP_HEADER,
            Region::Payload => counts::FLIP_PAYLOAD,
            Region::Padding => counts::FLIP_PADDING,
            Region::SegmentHeader => counts::FLIP_SEGMENT,
            Region::Footer => counts::FLIP_FOOTER,
            Region::Tail => counts::FLIP_TAIL,
            Region::Blank => counts::FLIP_BLANK,
            Region::Vote => counts::FLIP_VOTE,
            Region::Identity => counts::FLIP_IDENTITY,
            Region::Checkpoint => counts::FLIP_CHECKPOINT,
        }
    }
}

/// Where a bit was flipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flipped {
    /// The file.
    pub file: String,
    /// The byte's offset in it.
    pub offset: u64,
    /// Which bit of the byte.
    pub bit: u32,
    /// The offset of the structure that it belongs to: what a checksum error is told of.
    pub structure: u64,
}

/// A run of bytes of one region.
#[derive(Clone, Debug)]
struct Span {
    inode: Inode,
    file: String,
    region: Region,
    start: u64,
    length: u64,
    structure: u64,
    /// Whether it is a part of an entry, or of the segment's header that comes with the first one.
    of_entry: bool,
}

impl SimDisk {
    /// Flips one bit in `percent` of the region's structures, drawn; returns in how many.
    pub fn flip_bits(&mut self, region: Region, percent: u64, rng: &mut Rng) -> usize {
        let mut spans = self.spans();
        spans.retain(|span| span.region == region && span.length > 0);
        spans.retain(|_| rng.below(100) < percent);
        for span in &spans {
            let offset = span.start + rng.below(span.length);
            let file = self.files.get_mut(&span.inode).expect("a named file stands");
            file.flip(offset, rng.below(8) as u32);
            self.counters.hit(region.counter());
        }
        spans.len()
    }

    /// Flips one bit of the region, chosen by `rng` among all of the disk's; `None` when the
    /// disk has nothing of the kind.
    pub fn flip_bit(&mut self, region: Region, rng: &mut Rng) -> Option<Flipped> {
        let span = self.pick(region, rng)?;
        let offset = span.start + rng.below(span.length);
        let bit = rng.below(8) as u32;
        self.files.get_mut(&span.inode).expect("a named file stands").flip(offset, bit);
        self.counters.hit(region.counter());
        Some(Flipped { file: span.file, offset, bit, structure: span.structure })
    }

    /// Makes one block of the region unreadable (EIO) until it is written again.
    pub fn make_unreadable(&mut self, region: Region, rng: &mut Rng) -> Option<Flipped> {
        let span = self.pick(region, rng)?;
        let offset = span.start + rng.below(span.length);
        let file = self.files.get_mut(&span.inode).expect("a named file stands");
        file.make_unreadable(offset / BLOCK_SIZE as u64);
        self.counters.hit(counts::UNREADABLE);
        Some(Flipped { file: span.file, offset, bit: 0, structure: span.structure })
    }

    /// Turns one block of the region to zeros.
    pub fn zero_block(&mut self, region: Region, rng: &mut Rng) -> Option<Flipped> {
        let span = self.pick(region, rng)?;
        let offset = span.start + rng.below(span.length);
        let file = self.files.get_mut(&span.inode).expect("a named file stands");
        file.zero(offset / BLOCK_SIZE as u64);
        self.counters.hit(counts::ZEROED);
        Some(Flipped { file: span.file, offset, bit: 0, structure: span.structure })
    }

    /// Flips one bit of an entry in a segment that has an index footer; `None` when there is none.
    pub fn flip_sealed(&mut self, rng: &mut Rng) -> Option<Flipped> {
        let sealed = |inode: &Inode| {
            let content = &self.files[inode];
            let last = (content.length() / BLOCK).checked_sub(1);
            last.is_some_and(|last| footer_bytes(content.current(last)) > 0)
        };
        let mut spans = self.spans();
        spans.retain(|span| span.of_entry && span.length > 0 && sealed(&span.inode));
        if spans.is_empty() {
            return None;
        }
        let span = spans.swap_remove(rng.below(spans.len() as u64) as usize);
        let (offset, bit) = (span.start + rng.below(span.length), rng.below(8) as u32);
        self.files.get_mut(&span.inode).expect("a named file stands").flip(offset, bit);
        self.counters.hit(span.region.counter());
        Some(Flipped { file: span.file, offset, bit, structure: span.structure })
    }

    /// Takes a checkpoint away, whose name comes back in no crash. Returns whether there was one.
    pub fn lose_checkpoint(&mut self, rng: &mut Rng) -> bool {
        let Some((name, _)) = self.pick_checkpoint(rng) else { return false };
        self.names.lose(&name);
        self.collect_garbage();
        self.counters.hit(counts::CHECKPOINT_LOST);
        true
    }

    /// Puts what stands in one of the two checkpoints in place of the other: the newer one is lost,
    /// and an older one stands under its name; or the other way round. Returns whether there were
    /// two.
    pub fn stale_checkpoint(&mut self, rng: &mut Rng) -> bool {
        let (Some((a, from)), Some((b, to))) =
            (self.pick_checkpoint(rng), self.pick_checkpoint(rng))
        else {
            return false;
        };
        if a == b {
            return false;
        }
        let content = self.files[&from].clone();
        self.files.insert(to, content);
        self.counters.hit(counts::CHECKPOINT_STALE);
        true
    }

    fn pick_checkpoint(&self, rng: &mut Rng) -> Option<(String, Inode)> {
        let files = self.names.files().filter(|(name, _)| file_kind(name) == FileKind::Checkpoint);
        let mut files: Vec<_> = files.map(|(name, inode)| (name.to_owned(), inode)).collect();
        let count = files.len() as u64;
        (count > 0).then(|| files.swap_remove(rng.below(count) as usize))
    }

    /// Flips this very bit.
    ///
    /// # Panics
    /// When the file has no such byte.
    pub fn flip_at(&mut self, file: &str, offset: u64, bit: u32) {
        let inode = self.names.file(file).expect("the file stands");
        self.files.get_mut(&inode).expect("a named file stands").flip(offset, bit);
    }

    fn pick(&self, region: Region, rng: &mut Rng) -> Option<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.region == region && span.length > 0);
        if spans.is_empty() {
            return None;
        }
        let index = rng.below(spans.len() as u64) as usize;
        Some(spans.swap_remove(index))
    }

    /// Every region of every file, by name and offset.
    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        // Each group's log has an end of its own.
        let mut last_entries: BTreeMap<&str, Range<usize>> = BTreeMap::new();
        for (name, inode) in self.names.files() {
            let content = &self.files[&inode];
            let mut found = Spans { inode, file: name, spans: &mut spans };
            match file_kind(name) {
                FileKind::Identity | FileKind::Founding => {
                    found.add(Region::Identity, 0, content.length(), 0)
                }
                FileKind::Vote => {
                    for start in (0..content.length()).step_by(BLOCK_SIZE) {
                        found.add(Region::Vote, start, BLOCK, start);
                    }
                }
                FileKind::Segment(_) => {
                    if let Some(last_entry) = found.add_segment(content) {
                        last_entries.insert(folder_of(name), last_entry);
                    }
                }
                FileKind::Checkpoint => {
                    for start in (0..content.length()).step_by(BLOCK_SIZE) {
                        found.add(Region::Checkpoint, start, BLOCK, 0);
                    }
                }
                FileKind::DamageMarker | FileKind::Cut | FileKind::Other => {}
            }
        }
        for span in last_entries.into_values().flatten() {
            spans[span].region = Region::Tail;
        }
        spans
    }
}

/// The spans of one file, behind those of others.
struct Spans<'a> {
    inode: Inode,
    file: &'a str,
    spans: &'a mut Vec<Span>,
}

impl Spans<'_> {
    fn add(&mut self, region: Region, start: u64, length: u64, structure: u64) {
        let (inode, file) = (self.inode, self.file.to_owned());
        self.spans.push(Span { inode, file, region, start, length, structure, of_entry: false });
    }

    /// Adds a segment's regions; returns which spans its last entry has. The segment's header comes
    /// with its first entry, in one write, and counts as a part of that.
    fn add_segment(&mut self, content: &Content) -> Option<Range<usize>> {
        let blocks = content.length() / BLOCK;
        let last_block = blocks.checked_sub(1)?;
        let end = content.length().saturating_sub(footer_bytes(content.current(last_block)) as u64);
        let (mut header, mut last_entry) = (None, None);
        let mut offset = 0;
        while offset < end {
            let mut size = BLOCK;
            match block_kind(content.current(offset / BLOCK)) {
                BlockKind::SegmentHeader => {
                    header = Some(self.spans.len());
                    self.add(Region::SegmentHeader, offset, BLOCK, offset);
                }
                BlockKind::Blank => self.add(Region::Blank, offset, BLOCK, offset),
                BlockKind::Other => {}
                BlockKind::Entry { value_size, .. } => {
                    size = entry_size(value_size as usize) as u64;
                    size = size.min(end - offset);
                    let first = self.spans.len();
                    self.add_entry(offset, u64::from(value_size), size);
                    let before = if last_entry.is_none() { header.unwrap_or(first) } else { first };
                    self.spans[before..].iter_mut().for_each(|span| span.of_entry = true);
                    last_entry = Some(first..self.spans.len());
                }
            }
            offset += size;
        }
        self.add(Region::Footer, end, content.length() - end, end);
        last_entry
    }

    fn add_entry(&mut self, offset: u64, value_size: u64, size: u64) {
        let header = HEADER_BYTES as u64;
        let value = value_size.min(size - header);
        let padding = size - header - value;
        self.add(Region::Header, offset, header, offset);
        self.add(Region::Payload, offset + header, value, offset);
        self.add(Region::Padding, offset + header + value, padding, offset);
    }
}
