//! Placements as bytes: what a footer's rows cannot say. Pure; used by `footer.rs`, and by the log
//! for the room that it keeps.
//!
//! A row tells where the slot's records in log 0 stand, which is all there is to tell of most slots.
//! For a slot with records in other logs, or with refused commands, a placement follows in a
//! section behind the rows, in the rows' order:
//!
//! ```text
//!   0  u32 row
//!   4  u32 spans of other logs than 0
//!   8  u32 bytes of refusals
//!  12  the spans, by log: u32 log, u32 records, u64 first
//!  ..  the refusals (see `base::Placement::refused`)
//! ```
//!
//! A footer is written when its segment has long been full, so the room for it is kept from the
//! first entry on: each entry says how large its placement can become ([`placement_bytes_max`]).

use std::rc::Rc;

use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, LOGS_PER_BATCH_MAX};
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::base::mutants::{Mutant, planted};
use crate::base::{LogId, Placement, Position, Span};

use super::SEGMENT_BYTES_DEFAULT;
use super::footer::footer_size;
use super::format::{get_u32, get_u64, put_u32, put_u64};
use super::index::{EntryState, IndexEntry};

const HEAD_SIZE: usize = 12;
const SPAN_SIZE: usize = 16;

/// The fewest bytes of a value that a command takes: bounds how many there are in an entry.
pub const COMMAND_BYTES_MIN: usize = 32;

/// The most that any entry's placement takes in a footer, in bytes.
pub const PLACEMENT_BYTES_MAX: u32 = placement_bytes_worst(BUFFER_BYTES_MAX);

const _: () = {
    // The largest entry with the worst batch fits an empty segment, and its footer a buffer.
    assert!(segment_bytes_min(BUFFER_BYTES_MAX) <= SEGMENT_BYTES_DEFAULT);
    assert!(footer_size(1, PLACEMENT_BYTES_MAX as usize) <= BUFFER_BYTES_MAX);
};

/// The most bytes that the placement of a batch takes in a footer: one of `commands` commands that
/// name `logs` different logs, log 0 not counted. More logs than [`LOGS_PER_BATCH_MAX`] count as
/// that many: no batch may place records in more.
pub const fn placement_bytes_max(commands: usize, logs: usize) -> u32 {
    if commands == 0 {
        return 0;
    }
    let logs = if logs < LOGS_PER_BATCH_MAX { logs } else { LOGS_PER_BATCH_MAX };
    (HEAD_SIZE + logs * SPAN_SIZE + commands.div_ceil(8)) as u32
}

/// The most bytes that the placement of any batch takes whose entry (header, value, padding) is of
/// at most `entry_bytes_max`.
pub const fn placement_bytes_worst(entry_bytes_max: usize) -> u32 {
    let commands = entry_bytes_max.saturating_sub(ENTRY_HEADER_SIZE) / COMMAND_BYTES_MIN;
    placement_bytes_max(commands, commands)
}

/// The smallest segment that holds any entry of at most `entry_bytes_max`, with its footer.
pub const fn segment_bytes_min(entry_bytes_max: usize) -> u64 {
    let footer = footer_size(1, placement_bytes_worst(entry_bytes_max) as usize);
    (BLOCK_SIZE + entry_bytes_max + footer) as u64
}

/// The bytes that a placement takes behind the rows; 0 when a row says it all.
pub(super) fn placement_bytes(placement: &Placement) -> usize {
    let others = other_spans(placement).count();
    match others == 0 && placement.refused.is_empty() {
        true => 0,
        false => HEAD_SIZE + others * SPAN_SIZE + placement.refused.len(),
    }
}

/// Whether the placement is what [`Placement`] guarantees; `Err` says what is wrong.
pub(super) fn check(placement: &Placement) -> Result<(), &'static str> {
    let spans = &placement.spans;
    if spans.windows(2).any(|pair| pair[0].log >= pair[1].log) {
        return Err("the spans of a placement are not by log");
    }
    if spans.iter().any(|span| span.records == 0) {
        return Err("a span of a placement is empty");
    }
    if spans.iter().any(|span| span.first.0.checked_add(span.records.into()).is_none()) {
        return Err("the positions of a placement run out");
    }
    match placement.refused.last() {
        Some(0) => Err("the refusals of a placement end in a zero byte"),
        _ => Ok(()),
    }
}

/// Whether the placement is sound and fits `room`, the bytes kept for it; `Err` says why not.
pub(super) fn fits(placement: &Placement, room: u32) -> Result<(), String> {
    check(placement)?;
    match placement_bytes(placement) {
        bytes if bytes <= room as usize => Ok(()),
        bytes => Err(format!("its placement takes {bytes} bytes where {room} are kept")),
    }
}

/// Says in one line where the records of a slot stand.
pub(super) fn describe(placement: &Placement) -> String {
    const SPANS_SHOWN_MAX: usize = 4;
    let span =
        |span: &Span| format!("{} records from {} of log {}", span.records, span.first, span.log);
    let mut parts: Vec<String> = placement.spans.iter().take(SPANS_SHOWN_MAX).map(span).collect();
    if placement.spans.len() > SPANS_SHOWN_MAX {
        parts.push(format!("{} more logs", placement.spans.len() - SPANS_SHOWN_MAX));
    }
    match refused_count(placement) {
        0 if parts.is_empty() => parts.push("no records".to_owned()),
        0 => {}
        refused => parts.push(format!("{refused} commands refused")),
    }
    parts.join(", ")
}

/// How many commands were refused.
pub(super) fn refused_count(placement: &Placement) -> u64 {
    placement.refused.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn other_spans(placement: &Placement) -> impl Iterator<Item = &Span> {
    placement.spans.iter().filter(|span| span.log != LogId(0))
}

/// The size of the section for these rows.
pub(super) fn section_bytes(entries: &[IndexEntry]) -> usize {
    entries.iter().filter_map(|entry| entry.more.as_deref()).map(placement_bytes).sum()
}

/// Fills `out`, which is of [`section_bytes`].
pub(super) fn encode_section(entries: &[IndexEntry], out: &mut [u8]) {
    let mut rest = out;
    for (row, entry) in entries.iter().enumerate() {
        let Some(placement) = entry.more.as_deref() else { continue };
        let (bytes, behind) = rest.split_at_mut(placement_bytes(placement));
        let others = other_spans(placement).count();
        put_u32(bytes, 0, row as u32);
        put_u32(bytes, 4, others as u32);
        put_u32(bytes, 8, placement.refused.len() as u32);
        let (spans, refused) = bytes[HEAD_SIZE..].split_at_mut(others * SPAN_SIZE);
        for (out, span) in spans.chunks_exact_mut(SPAN_SIZE).zip(other_spans(placement)) {
            put_u32(out, 0, span.log.0);
            put_u32(out, 4, span.records);
            put_u64(out, 8, span.first.0);
        }
        refused.copy_from_slice(&placement.refused);
        rest = behind;
    }
    assert!(rest.is_empty(), "the section is as large as was said");
}

/// Completes the rows from the section; `Err` says what is wrong with it.
pub(super) fn decode_section(bytes: &[u8], entries: &mut [IndexEntry]) -> Result<(), String> {
    const CUT: &str = "the footer's placements are cut off";
    if !bytes.is_empty() && planted(Mutant::PlacementsDropped) {
        return Ok(());
    }
    let mut rest = bytes;
    let mut row_min = 0;
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(HEAD_SIZE).ok_or(CUT)?;
        let (row, spans, refused) =
            (get_u32(head, 0) as usize, get_u32(head, 4) as usize, get_u32(head, 8) as usize);
        let spans = spans.checked_mul(SPAN_SIZE).ok_or(CUT)?;
        let (spans, behind) = behind.split_at_checked(spans).ok_or(CUT)?;
        let (refused, behind) = behind.split_at_checked(refused).ok_or(CUT)?;
        let entry = entries
            .get_mut(row)
            .filter(|entry| row >= row_min && entry.state == EntryState::Applied)
            .ok_or("a placement of the footer belongs to no row")?;
        entry.more = Some(Rc::new(read_placement(entry, spans, refused)?));
        row_min = row + 1;
        rest = behind;
    }
    Ok(())
}

fn read_placement(row: &IndexEntry, spans: &[u8], refused: &[u8]) -> Result<Placement, String> {
    if spans.is_empty() && refused.is_empty() {
        return Err("a placement of the footer says nothing".into());
    }
    let others = spans.chunks_exact(SPAN_SIZE).map(|bytes| Span {
        log: LogId(get_u32(bytes, 0)),
        records: get_u32(bytes, 4),
        first: Position(get_u64(bytes, 8)),
    });
    if others.clone().any(|span| span.log == LogId(0)) {
        return Err("a placement of the footer says what its row should".into());
    }
    let spans = row.spans().chain(others).collect();
    let placement = Placement { spans, refused: refused.to_vec() };
    check(&placement)?;
    Ok(placement)
}
