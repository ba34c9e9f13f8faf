//! Verifies in the background what a start has not read: every entry of every segment that was taken
//! by its footer, once, against its header, its place, the chain, and the footer.
//!
//! So damage of what had been durable is found as surely as by a start that reads everything, only
//! later: it is reported by [`LogEvent::Damaged`], and the process ends as that start would have.
//! Until then a damaged entry is never served: every read verifies what it reads. So that it is not
//! forgotten when the process is started again, a marker is left first (`marker.rs`).
//!
//! The newest segments come first: they are what readers and peers most likely ask for.
//!
//! It is throttled, so that commits are not disturbed: one small read in flight, and after each a
//! pause as long as its bytes take at this log's share of what all logs of the process may read.

use std::collections::VecDeque;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::base::limits::{BLOCK_SIZE, KIB};
use crate::base::mutants::{Mutant, planted};
use crate::base::sectors::entry_size;
use crate::base::{Instant, Slot};
use crate::io::{Disk, DiskEvent, FileId, FileOptions};

use super::format::{EntryHeader, EntryKind, Place, join, segment_name};
use super::index::IndexEntry;
use super::shortage::Shortage;
use super::walk::{Chain, Start, judge_start};
use super::{Damage, Log, LogEvent, LogFailure, Op, footer, marker};

/// Bytes read at once, but at least a whole entry.
const CHUNK_BYTES: usize = 128 * KIB;

const NANOS_PER_S: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Footer,
    Entries,
}

/// A segment being verified.
struct Job {
    number: u64,
    stage: Stage,
    file: Option<FileId>,
    /// The footer's rows; `None` when it has been damaged since the start: it is made again at the
    /// next one.
    rows: Option<Vec<IndexEntry>>,
    chain: Chain,
    /// What comes next: the header (0), or the next entry.
    offset: u64,
    /// The least that must be read there, to have the next entry whole.
    wanted: usize,
    /// Asked for in the read in flight.
    asked: usize,
}

/// What has not been read, and how far it has come.
#[derive(Default)]
pub(super) struct Scrubber {
    /// By number; the last one comes next.
    waiting: VecDeque<u64>,
    job: Option<Job>,
    in_flight: bool,
    pause_until: Option<Instant>,
    shortage: Shortage,
    pub verified: u64,
}

impl Scrubber {
    /// `unread`: the segments that the start has not read, by number.
    pub fn new(unread: VecDeque<u64>) -> Scrubber {
        Scrubber { waiting: unread, ..Scrubber::default() }
    }

    /// Segments that are not verified yet.
    pub fn left(&self) -> u64 {
        self.waiting.len() as u64 + u64::from(self.job.is_some())
    }

    /// When the pause ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.pause_until.filter(|_| self.left() > 0 && !self.in_flight)
    }
}

/// How a segment's next part has been found.
enum Found {
    /// More is to be read.
    More,
    /// All of it is as it was written.
    Whole,
    Damaged(Damage),
}

impl Log {
    /// Starts the next read, if it is time.
    pub(super) fn scrub<D: Disk>(&mut self, now: Instant, disk: &mut D) {
        let scrubber = &mut self.scrubber;
        if scrubber.in_flight || scrubber.pause_until.is_some_and(|until| until > now) {
            return;
        }
        scrubber.pause_until = None;
        if scrubber.job.is_none() {
            let Some(number) = scrubber.waiting.pop_back() else { return };
            let before = number.checked_sub(1).and_then(|before| self.index.segment(before));
            let segment = self.index.segment(number).expect("the index names what stands");
            let chain = Chain {
                sequence: segment.first_sequence,
                previous: before.map_or(Chain::START.previous, |before| before.last),
                chosen: Slot::NONE,
            };
            let (stage, file, rows, offset) = (Stage::Open, None, None, 0);
            let (wanted, asked) = (BLOCK_SIZE, 0);
            scrubber.job = Some(Job { number, stage, file, rows, chain, offset, wanted, asked });
        }
        let job = scrubber.job.as_mut().expect("made above");
        scrubber.in_flight = true;
        let token = self.tokens.issue(Op::Scrub);
        let segment = self.index.segment(job.number).expect("the index names what stands");
        let file = job.file.unwrap_or(FileId(u32::MAX));
        let (offset, size) = match job.stage {
            Stage::Open => {
                let name = join(&self.folder, &segment_name(job.number));
                return disk.open_async(token, &name, FileOptions::Read);
            }
            Stage::Footer => {
                let offset = segment.footer_offset(self.options.segment_bytes);
                (offset, segment.footer_bytes as usize)
            }
            Stage::Entries => {
                let left = usize::try_from(segment.tail - job.offset).unwrap_or(CHUNK_BYTES);
                (job.offset, CHUNK_BYTES.min(left).max(job.wanted))
            }
        };
        job.asked = size;
        disk.read(token, file, offset, self.options.pool.take(size), size);
    }

    pub(super) fn on_scrub<D: Disk>(
        &mut self,
        now: Instant,
        disk: &mut D,
        event: DiskEvent,
        out: &mut Vec<LogEvent>,
    ) -> Result<(), LogFailure> {
        self.scrubber.in_flight = false;
        let mut job = self.scrubber.job.take().expect("a read belongs to a segment");
        let doing = format!("verifying {}", segment_name(job.number));
        let done = match event.result {
            Ok(done) => done,
            Err(error) if error.is_out_of_files() => {
                let later = self.scrubber.shortage.met(now, &doing, &error);
                let again_at = self.reads.give_way(&mut self.index, disk, now, later);
                self.scrubber.pause_until = Some(again_at);
                self.scrubber.job = Some(job);
                return Ok(());
            }
            // A read that fails is fatal, as it is for a start.
            Err(error) => {
                let failure = LogFailure::failed(&doing, &error);
                self.leave_marker(disk, job.file, &failure.what);
                return Err(failure);
            }
        };
        if job.stage == Stage::Open {
            self.scrubber.shortage.over(&doing);
            (job.file, job.stage) = (Some(FileId(done)), Stage::Footer);
            self.scrubber.job = Some(job);
            return Ok(());
        }
        let pause =
            Duration::from_nanos(job.asked as u64 * NANOS_PER_S / self.options.scrub_bytes_per_s);
        self.scrubber.pause_until = Some(now + pause);
        let buffer = event.buffer.expect("a read gives its buffer back");
        let bytes = &buffer[..(done as usize).min(job.asked)];
        let found = match job.stage {
            Stage::Open => unreachable!("handled above"),
            Stage::Footer => {
                self.scrub_footer(&mut job, bytes);
                Found::More
            }
            Stage::Entries => self.scrub_entries(&mut job, bytes),
        };
        match found {
            Found::More => self.scrubber.job = Some(job),
            Found::Whole => {
                disk.close(job.file.expect("opened in the first step"));
                self.scrubber.verified += 1;
                if self.scrubber.waiting.is_empty() {
                    let segments = self.scrubber.verified;
                    info!(segments, "verified what the start had not read: all is well");
                }
            }
            Found::Damaged(damage) => {
                self.leave_marker(disk, job.file, &damage.to_string());
                self.failure = Some(LogFailure { what: format!("damaged: {damage}") });
                out.push(LogEvent::Damaged(damage));
            }
        }
        Ok(())
    }

    /// Has the next start verify everything. It blocks, and so nothing more is done over the damage.
    fn leave_marker<D: Disk>(&self, disk: &mut D, verified: Option<FileId>, what: &str) {
        if let Some(file) = verified {
            // The process may have no other file left to open.
            disk.close(file);
        }
        if let Err(error) =
            marker::write(disk, &self.folder, &self.options, what, self.writer.durable())
        {
            let folder = &self.folder;
            error!(
                folder,
                %error,
                "no marker of the damage could be left: start again with --verify-at-start, or the \
                 node goes on over it until it is found once more"
            );
        }
    }

    fn scrub_footer(&self, job: &mut Job, bytes: &[u8]) {
        let segment = self.index.segment(job.number).expect("the index names what stands");
        let place = self.options.place(job.number, segment.generation);
        job.stage = Stage::Entries;
        match footer::decode(bytes, &place) {
            Ok((_, rows)) if rows.len() == segment.count as usize => job.rows = Some(rows),
            Ok(_) => {}
            // It is derived from the entries, which tell what is lost, if anything is.
            Err(why) => warn!(segment = job.number, %why, "an index footer has been damaged"),
        }
    }

    /// Verifies what stands whole in `bytes`, which were read at the job's offset.
    fn scrub_entries(&self, job: &mut Job, bytes: &[u8]) -> Found {
        let segment = self.index.segment(job.number).expect("the index names what stands");
        let place = self.options.place(job.number, segment.generation);
        let name = join(&self.folder, &segment_name(job.number));
        let damaged = |offset, slot, why| Found::Damaged(Damage::new(&name, offset, slot, why));
        let mut rest = bytes;
        if job.offset == 0 {
            let Some((block, behind)) = rest.split_at_checked(BLOCK_SIZE) else {
                return damaged(0, None, "the segment is cut off".into());
            };
            match judge_start(block, &place, self.options.segment_bytes, &job.chain) {
                Start::Continues => {}
                Start::Empty => return damaged(0, None, "only zeros stand here".into()),
                Start::Broken(why, _) | Start::Gap(why) | Start::Foreign(why) => {
                    return damaged(0, None, why);
                }
            }
            (rest, job.offset) = (behind, BLOCK_SIZE as u64);
        }
        let end = segment.first_sequence + u64::from(segment.count);
        if planted(Mutant::ScrubSkipsEntries) {
            return Found::Whole;
        }
        while job.chain.sequence < end {
            if bytes.is_empty() {
                return damaged(job.offset, None, "the segment is cut off".into());
            }
            if rest.is_empty() {
                job.wanted = BLOCK_SIZE;
                return Found::More;
            }
            let at = (job.chain.sequence - segment.first_sequence) as usize;
            let row = job.rows.as_ref().map(|rows| &rows[at]);
            match verify_entry(rest, &place, job.offset, &job.chain, row) {
                Ok(Verified::Whole { size, chain }) => {
                    rest = &rest[size..];
                    job.offset += size as u64;
                    job.chain = chain;
                }
                Ok(Verified::Needs(size)) => {
                    // With this much asked for and nothing verified, there is no more to come.
                    let cut = rest.len() == bytes.len() && size <= job.asked;
                    if cut || job.offset + size as u64 > segment.tail {
                        let why = "the entry goes beyond the end of its segment".to_owned();
                        return damaged(job.offset, None, why);
                    }
                    job.wanted = size;
                    return Found::More;
                }
                Err((slot, why)) => return damaged(job.offset, slot, why),
            }
        }
        match (job.offset, job.chain.previous) == (segment.tail, segment.last) {
            true => Found::Whole,
            false => {
                let why = "the entries are not those that the index footer told of".to_owned();
                damaged(job.offset, None, why)
            }
        }
    }
}

enum Verified {
    Whole {
        size: usize,
        chain: Chain,
    },
    /// The entry takes so many bytes, and fewer were read.
    Needs(usize),
}

/// Verifies the entry at the start of `bytes`; `Err` says what is wrong, and of which slot.
fn verify_entry(
    bytes: &[u8],
    place: &Place,
    offset: u64,
    chain: &Chain,
    row: Option<&IndexEntry>,
) -> Result<Verified, (Option<Slot>, String)> {
    let told = row.map(|row| row.slot).filter(|slot| *slot > Slot::NONE);
    let (header, checksum) = EntryHeader::decode(bytes).map_err(|why| (told, why))?;
    let slot = (header.kind == EntryKind::Value).then_some(header.slot);
    header.stands_at(place, offset).map_err(|why| (slot, why))?;
    if (header.sequence, header.previous) != (chain.sequence, chain.previous) {
        let (found, wanted) = (header.sequence, chain.sequence);
        let why = format!(
            "entry {found} does not continue the chain (entry {wanted} after header {})",
            chain.previous
        );
        return Err((slot, why));
    }
    let row_slot = slot.unwrap_or(Slot::NONE);
    let standing = (row_slot, header.ballot, header.value_size, offset);
    if row.is_some_and(|r| (r.slot, r.ballot, r.value_size, u64::from(r.offset)) != standing) {
        return Err((slot, "the index footer tells of another entry here".into()));
    }
    let size = entry_size(header.value_size as usize);
    if size > bytes.len() {
        return Ok(Verified::Needs(size));
    }
    header.check_value(bytes).map_err(|why| (slot, why))?;
    let chain = Chain { sequence: chain.sequence + 1, previous: checksum, chosen: chain.chosen };
    Ok(Verified::Whole { size, chain })
}
