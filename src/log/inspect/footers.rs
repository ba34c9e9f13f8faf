//! Index footers as an inspection sees them: held against the entries of their segment, and summed
//! up for the report.

use std::collections::BTreeMap;

use super::report::LogReport;
use crate::base::{LogId, Position, Slot};
use crate::log::footer::Trailer;
use crate::log::format::{EntryHeader, EntryKind};
use crate::log::index::{EntryState, IndexEntry};
use crate::log::placements::refused_count;
use crate::log::walk::Chain;

pub(super) enum FooterProblem {
    /// It tells of fewer entries than stand there, or of others: made again at start.
    Outdated(String),
    /// It tells of the very entries that stand there, but of positions that cannot be.
    Lies(String),
}

/// Holds a footer against the entries of its segment.
pub(super) fn check_footer(
    trailer: &Trailer,
    entries: &[IndexEntry],
    rows: &[EntryHeader],
    first_sequence: u64,
    chain: &Chain,
) -> Result<(), FooterProblem> {
    let same = trailer.count as usize == rows.len()
        && trailer.first_sequence == first_sequence
        && trailer.last == chain.previous;
    if !same {
        let why = "the index footer does not belong to the entries of its segment";
        return Err(FooterProblem::Outdated(why.to_owned()));
    }
    for (entry, header) in entries.iter().zip(rows) {
        let slot = if header.kind == EntryKind::Mark { Slot::NONE } else { header.slot };
        let told = (entry.slot, entry.ballot, u64::from(entry.offset), entry.value_size);
        if told != (slot, header.ballot, header.offset, header.value_size) {
            let why = format!(
                "the index footer tells of slot {} at offset {}, where slot {slot} stands at {}",
                entry.slot, entry.offset, header.offset
            );
            return Err(FooterProblem::Outdated(why));
        }
    }
    let told = rows.iter().map(|header| header.chosen).max().unwrap_or_default();
    if trailer.told != Slot::NONE && trailer.told != told {
        let why =
            format!("the index footer tells of {} chosen, its entries of {told}", trailer.told);
        return Err(FooterProblem::Outdated(why));
    }
    check_positions(entries)
}

/// In slots that follow each other the positions of each log do too.
fn check_positions(entries: &[IndexEntry]) -> Result<(), FooterProblem> {
    let mut applied: Vec<_> =
        entries.iter().filter(|entry| entry.state == EntryState::Applied).collect();
    applied.sort_unstable_by_key(|entry| entry.slot);
    let mut ends: BTreeMap<LogId, Position> = BTreeMap::new();
    let mut next = Slot::NONE;
    for entry in applied {
        if entry.slot != next {
            // What stands between is in other segments.
            ends.clear();
        }
        next = entry.slot.next();
        for span in entry.spans() {
            let before = ends.insert(span.log, span.end());
            if before.is_some_and(|end| end != span.first) {
                let (slot, log) = (entry.slot, span.log);
                let why = format!("the index footer's positions in log {log} jump at slot {slot}");
                return Err(FooterProblem::Lies(why));
            }
        }
    }
    Ok(())
}

/// The records of each log, and how many commands were refused.
pub(super) fn summary(entries: &[IndexEntry]) -> (Vec<LogReport>, u64) {
    let mut logs: BTreeMap<LogId, LogReport> = BTreeMap::new();
    let mut refused = 0;
    for entry in entries.iter().filter(|entry| entry.state == EntryState::Applied) {
        refused += entry.more.as_deref().map_or(0, refused_count);
        for span in entry.spans() {
            let (first, end) = (span.first.0, span.end().0);
            let report = logs.entry(span.log).or_insert(LogReport {
                log: span.log.0,
                first,
                end,
                records: 0,
            });
            report.first = report.first.min(first);
            report.end = report.end.max(end);
            report.records += u64::from(span.records);
        }
    }
    (logs.into_values().collect(), refused)
}
