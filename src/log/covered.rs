//! What a checkpoint tells of the segments whose index is in memory: which of their entries hold the
//! value of a slot that it covers, and where that slot's records stand. A start from the checkpoint
//! does not apply those slots again, and their segments have no footer that would tell. Pure; used
//! by `checkpoint.rs` and by recovery.
//!
//! ```text
//!   u32 segments, each:
//!     u64 number, u32 entries, u32 rows, each:
//!       u32 entry within the segment, u64 slot, u32 spans, u32 bytes of refusals
//!       the spans, by log: u32 log, u32 records, u64 first
//!       the refusals (see `base::Placement::refused`)
//! ```

use std::rc::Rc;

use crate::base::{LogId, Placement, Position, Slot, Span};

use super::format::{get_u32, get_u64};
use super::index::{EntryState, Footer, Index, IndexEntry};
use super::placements::check;

const ROW_HEAD_SIZE: usize = 20;
const SPAN_SIZE: usize = 16;

/// An entry that holds an applied slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoveredRow {
    /// The entry's index in its segment.
    pub at: u32,
    pub slot: Slot,
    pub placement: Rc<Placement>,
}

/// A segment that had no footer when the checkpoint was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoveredSegment {
    pub number: u64,
    /// The first so many of its entries are covered.
    pub entries: u32,
    pub rows: Vec<CoveredRow>,
}

/// Appends what `index` knows of the applied slots in memory.
pub(super) fn encode(index: &Index, out: &mut Vec<u8>) {
    let in_memory = || index.segments().iter().filter(|s| s.footer != Footer::Written);
    out.extend_from_slice(&(in_memory().count() as u32).to_le_bytes());
    for segment in in_memory() {
        let applied = |entry: &&IndexEntry| entry.state == EntryState::Applied;
        let rows = segment.entries.iter().filter(applied).count();
        // Most slots have records in one log.
        out.reserve(16 + rows * (ROW_HEAD_SIZE + SPAN_SIZE));
        out.extend_from_slice(&segment.number.to_le_bytes());
        out.extend_from_slice(&segment.count.to_le_bytes());
        out.extend_from_slice(&(rows as u32).to_le_bytes());
        for (at, entry) in (0_u32..).zip(&segment.entries).filter(|(_, entry)| applied(entry)) {
            encode_row(at, entry, out);
        }
    }
}

fn encode_row(at: u32, entry: &IndexEntry, out: &mut Vec<u8>) {
    let refused = entry.more.as_ref().map_or(&[][..], |more| &more.refused);
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&entry.slot.0.to_le_bytes());
    out.extend_from_slice(&(entry.spans().count() as u32).to_le_bytes());
    out.extend_from_slice(&(refused.len() as u32).to_le_bytes());
    for span in entry.spans() {
        out.extend_from_slice(&span.log.0.to_le_bytes());
        out.extend_from_slice(&span.records.to_le_bytes());
        out.extend_from_slice(&span.first.0.to_le_bytes());
    }
    out.extend_from_slice(refused);
}

/// Reads what [`encode`] wrote; `Err` says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<CoveredSegment>, String> {
    let mut rest = bytes;
    let count = get_u32(take(&mut rest, 4)?, 0);
    let mut segments: Vec<CoveredSegment> = Vec::new();
    for _ in 0..count {
        let head = take(&mut rest, 16)?;
        let (number, entries, rows) = (get_u64(head, 0), get_u32(head, 8), get_u32(head, 12));
        if segments.last().is_some_and(|last| last.number >= number) {
            return Err("the checkpoint's segments are out of order".into());
        }
        let mut segment = CoveredSegment { number, entries, rows: Vec::new() };
        for _ in 0..rows {
            let row = decode_row(&mut rest)?;
            let in_order = segment.rows.last().is_none_or(|last| last.at < row.at);
            if !in_order || row.at >= entries {
                return Err("the checkpoint's entries are out of order".into());
            }
            segment.rows.push(row);
        }
        segments.push(segment);
    }
    match rest.is_empty() {
        true => Ok(segments),
        false => Err("something stands behind the checkpoint's entries".into()),
    }
}

fn decode_row(rest: &mut &[u8]) -> Result<CoveredRow, String> {
    let head = take(rest, ROW_HEAD_SIZE)?;
    let (at, slot) = (get_u32(head, 0), Slot(get_u64(head, 4)));
    if slot == Slot::NONE || slot > Slot::MAX {
        return Err(format!("the checkpoint tells of slot {slot}"));
    }
    let (spans, refused) = (get_u32(head, 12) as usize, get_u32(head, 16) as usize);
    let spans = take(rest, spans.saturating_mul(SPAN_SIZE))?.chunks_exact(SPAN_SIZE);
    let spans = spans.map(|bytes| Span {
        log: LogId(get_u32(bytes, 0)),
        records: get_u32(bytes, 4),
        first: Position(get_u64(bytes, 8)),
    });
    let placement = Placement { spans: spans.collect(), refused: take(rest, refused)?.to_vec() };
    check(&placement)?;
    Ok(CoveredRow { at, slot, placement: Rc::new(placement) })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, behind) = rest.split_at_checked(count).ok_or("the checkpoint is cut off")?;
    *rest = behind;
    Ok(taken)
}
