//! `loggos inspect`: reads a stopped node's directory, verifies all of it, says what it holds and
//! what is damaged. Changes nothing.
//!
//! `--json` prints one object:
//!
//! ```json
//! {"directory":"…","sound":true,
//!  "identity":{"cluster":"…","cluster_id":"…","incarnation":"…","node":1,"members":["1=HOST:PORT"],"group_count":1,"segment_bytes":0},
//!  "groups":[{"group":0,"folder":"group-0000","records":0,"records_not_known_chosen":0,
//!             "promised":{"round":0,"node":0},"vote":[{"sequence":1,"ballot":{…},"why":null},…],
//!             "chosen":0,"accepted":0,"entries":0,"marks":0,"superseded":0,"entries_lost":0,
//!             "entry_bytes":0,"value_bytes":0,"file_bytes":0,"torn_bytes":0,
//!             "checkpoints":[{"file":"…","slot":0,"sequence":0,"number":1,"state_bytes":0,"why":null}],
//!             "segments":[{"segment":1,"file":"…","generation":1,"entries":0,"marks":0,
//!                          "slot_first":null,"slot_last":null,"ballot_lowest":null,
//!                          "ballot_highest":null,"entry_bytes":0,"value_bytes":0,"footer":"none",
//!                          "logs":[{"log":0,"first":0,"end":0,"records":0},…],"refused":0}]}],
//!  "damage":[{"file":"…","offset":0,"slot":null,"why":"…"}],"not_read":[{"what":"…","why":"…"}],
//!  "mended_at_start":[…]}
//! ```
//!
//! `not_read` tells where the system refused (too many open files, no permission, an I/O error): the
//! rest of that group has not been looked at. `sound` is true when nothing is damaged and all was read.
//!
//! `checkpoints` are those that stand; `why` tells what makes one useless to a start (null: nothing).
//! A damaged one costs time and is no damage of the log. `logs` and `refused` (commands that added no records) are what a segment's valid index footer
//! tells; without one they are empty and 0.
//!
//! With `--records` a line comes first for each record: group, slot, ballot, whether it is known to
//! be chosen, segment and offset of its entry, its log, its position there (null when that is not
//! known), whether its command is known to have been refused, value.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::args::InspectArgs;
use super::error::{CliError, Exit};
use super::output::Output;
use crate::base::records::Records;
use crate::base::{LogId, Placement, Position};
use crate::log::Damage;
use crate::log::inspect::{
    GroupReport, InspectReport, InspectedSlot, NotRead, SegmentReport, inspect,
};
use crate::machine::{BatchView, CommandKind, Machine};
use crate::uring::{DirectStorage, lock_data_dir_to_read};

/// Lines about single logs per segment, at most; JSON tells of all.
const LOGS_SHOWN_MAX: usize = 16;

/// What `loggos inspect --json` prints.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    directory: String,
    /// Nothing is damaged, and everything was read.
    sound: bool,
    identity: &'a Option<crate::log::inspect::IdentityReport>,
    groups: Vec<PrintedGroup<'a>>,
    damage: &'a [Damage],
    not_read: &'a [NotRead],
    mended_at_start: &'a [Damage],
}

#[derive(Debug, Serialize)]
struct PrintedGroup<'a> {
    /// Records in slots that are known to be chosen.
    records: u64,
    /// Records in slots that are accepted, and may or may not be chosen.
    records_not_known_chosen: u64,
    #[serde(flatten)]
    log: &'a GroupReport,
}

/// A line of `--records --json`.
#[derive(Debug, Serialize)]
struct PrintedRecord<'a> {
    group: u16,
    slot: u64,
    ballot: String,
    chosen: bool,
    segment: u64,
    offset: u64,
    log: u32,
    /// Null when a slot before it is missing, or it is not known to be chosen, or it was refused.
    position: Option<u64>,
    /// Known to have added nothing.
    refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), CliError> {
    let data = args.data.display();
    let cannot = |error: &dyn std::fmt::Display| CliError::usage(format!("{data}: {error}"));
    if !args.data.is_dir() {
        return Err(CliError::usage(format!("{data} is not a directory")));
    }
    if !looks_like_data(&args.data).map_err(|error| cannot(&error))? {
        let text = "it is not formatted: `loggos format` never made a node's directory of it";
        return Err(cannot(&text));
    }
    let _lock = lock_data_dir_to_read(&args.data).map_err(CliError::usage)?;
    let mut storage = DirectStorage::new(&args.data).map_err(|error| cannot(&error))?;
    let mut output = Output::stdout();
    let mut records = RecordCount::default();
    let mut printing = Ok(());
    let report = inspect(&mut storage, &mut |slot| {
        let placement = records.count(slot);
        if args.records && printing.is_ok() {
            printing = print_records(&mut output, slot, placement.as_ref(), args.json);
        }
    });
    let report = report.map_err(|error| cannot(&error))?;
    printing?;
    let printed = to_printed(&args.data, &report, &records);
    match args.json {
        true => output.json(&printed)?,
        false => output.write(to_text(&printed).as_bytes())?,
    }
    output.flush()?;
    verdict(&report).map_err(|(exit, what)| CliError::new(exit, format!("{data}: {what}")))
}

/// How the command ends. Damage comes first: it is certain, whatever could not be read.
fn verdict(report: &InspectReport) -> Result<(), (Exit, String)> {
    let more = |count: usize| match count {
        0 => String::new(),
        count => format!("; and {count} more"),
    };
    if let [first, rest @ ..] = &report.damage[..] {
        return Err((Exit::Found, format!("damaged: {first}{}", more(rest.len()))));
    }
    if let [first, rest @ ..] = &report.not_read[..] {
        return Err((Exit::Failed, format!("not all of it was read: {first}{}", more(rest.len()))));
    }
    Ok(())
}

fn looks_like_data(data: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(data)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("identity.toml") || name.starts_with("group-") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Records per group, and what the commands come to as far as slots follow from the first on.
#[derive(Debug, Default)]
struct RecordCount {
    groups: BTreeMap<u16, GroupCount>,
}

#[derive(Debug)]
struct GroupCount {
    chosen: u64,
    accepted: u64,
    /// `None` once a slot was missing, or not understood: what comes behind it may depend on it.
    machine: Option<Machine>,
}

impl Default for GroupCount {
    fn default() -> GroupCount {
        GroupCount { chosen: 0, accepted: 0, machine: Some(Machine::new()) }
    }
}

impl RecordCount {
    /// Counts the records of a slot; returns where they stand, as far as it is known.
    fn count(&mut self, slot: &InspectedSlot<'_>) -> Option<Placement> {
        let group = self.groups.entry(slot.group.0).or_default();
        let carried = BatchView::parse(slot.value).map_or(0, |view| view.records());
        if !slot.chosen {
            group.accepted += u64::from(carried);
            return None;
        }
        group.machine.take_if(|machine| machine.applied().next() != slot.slot);
        let machine = group.machine.as_mut();
        let placement = match machine.map(|m| m.apply(slot.slot, slot.value, &mut Vec::new())) {
            Some(Ok(placement)) => Some(placement),
            // This version does not understand the value: a replica of it stops there.
            Some(Err(_)) => {
                group.machine = None;
                slot.placement.cloned()
            }
            None => slot.placement.cloned(),
        };
        group.chosen += u64::from(placement.as_ref().map_or(carried, Placement::records));
        placement
    }
}

fn print_records(
    output: &mut Output,
    slot: &InspectedSlot<'_>,
    placement: Option<&Placement>,
    as_json: bool,
) -> Result<(), CliError> {
    let spans = placement.map(|placement| &placement.spans[..]).unwrap_or_default();
    let mut next: BTreeMap<LogId, Position> =
        spans.iter().map(|span| (span.log, span.first)).collect();
    let commands = BatchView::parse(slot.value).into_iter().flat_map(|view| view.commands());
    for (index, command) in commands.enumerate() {
        if command.kind != CommandKind::Append {
            continue;
        }
        let refused = placement.is_some_and(|placement| placement.is_refused(index));
        for record in Records::new(command.run) {
            let record = record.map_err(CliError::failed)?;
            let position = next.get_mut(&command.log).filter(|_| !refused).map(|next| {
                let position = *next;
                *next = next.plus(1);
                position
            });
            let text = std::str::from_utf8(record).ok();
            let line = PrintedRecord {
                group: slot.group.0,
                slot: slot.slot.0,
                ballot: slot.ballot.to_string(),
                chosen: slot.chosen,
                segment: slot.segment,
                offset: slot.offset,
                log: command.log.0,
                position: position.map(|position| position.0),
                refused,
                value: text,
                value_hex: text.is_none().then(|| hex(record)),
            };
            match as_json {
                true => output.json(&line)?,
                false => output.line(&record_line(&line))?,
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = Vec::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("writing to memory does not fail");
    }
    String::from_utf8_lossy(&hex).into_owned()
}

fn record_line(record: &PrintedRecord<'_>) -> String {
    let position = record.position.map_or("-".to_owned(), |position| position.to_string());
    let log = if record.log == 0 { String::new() } else { format!("\tlog {}", record.log) };
    let value = match (record.value, &record.value_hex) {
        (Some(text), _) => format!("{text:?}"),
        (None, hex) => format!("0x{}", hex.as_deref().unwrap_or_default()),
    };
    format!(
        "{position}{log}\tslot {}\tballot {}\tsegment {:x} at {}\t{}{}\t{value}",
        record.slot,
        record.ballot,
        record.segment,
        record.offset,
        if record.chosen { "chosen" } else { "accepted" },
        if record.refused { ", refused" } else { "" },
    )
}

fn to_printed<'a>(data: &Path, report: &'a InspectReport, records: &RecordCount) -> Printed<'a> {
    let group = |log: &'a GroupReport| {
        let count = records.groups.get(&log.group);
        PrintedGroup {
            records: count.map_or(0, |count| count.chosen),
            records_not_known_chosen: count.map_or(0, |count| count.accepted),
            log,
        }
    };
    Printed {
        directory: data.display().to_string(),
        sound: report.is_sound(),
        identity: &report.identity,
        groups: report.groups.iter().map(group).collect(),
        damage: &report.damage,
        not_read: &report.not_read,
        mended_at_start: &report.mended_at_start,
    }
}

fn to_text(printed: &Printed<'_>) -> String {
    let mut text = String::new();
    write_text(&mut text, printed).expect("writing to a string does not fail");
    text
}

fn write_text(out: &mut String, printed: &Printed<'_>) -> std::fmt::Result {
    match printed.identity {
        Some(id) => {
            let cluster_id = match id.cluster_id.is_empty() {
                true => "not yet founded",
                false => &id.cluster_id,
            };
            writeln!(out, "node {} of cluster {} ({cluster_id})", id.node, id.cluster)?;
            writeln!(out, "incarnation {}", id.incarnation)?;
            writeln!(out, "members {}", id.members.join(", "))?;
        }
        None => writeln!(out, "the identity cannot be read")?,
    }
    for group in &printed.groups {
        write_group(out, group)?;
    }
    writeln!(out)?;
    for note in printed.mended_at_start {
        writeln!(out, "mended at the next start: {note}")?;
    }
    for damage in printed.damage {
        writeln!(out, "DAMAGED: {damage}")?;
    }
    for not_read in printed.not_read {
        writeln!(out, "NOT READ: {not_read}")?;
    }
    if printed.sound {
        writeln!(out, "every checksum matches; nothing is damaged")?;
    }
    Ok(())
}

fn write_group(out: &mut String, group: &PrintedGroup<'_>) -> std::fmt::Result {
    use crate::loadgen::report::bytes;
    let log = group.log;
    let ballot = |ballot: Option<crate::log::inspect::BallotReport>| {
        ballot.map_or("-".to_owned(), |b| format!("{}.{}", b.round, b.node))
    };
    writeln!(out, "\ngroup {}", log.group)?;
    let mut row = |name: &str, value: String| writeln!(out, "  {name:<12}{value}");
    row("promised", ballot(Some(log.promised)))?;
    row("slots", format!("chosen to {}, accepted to {}", log.chosen, log.accepted))?;
    let unknown = match group.records_not_known_chosen {
        0 => String::new(),
        count => format!(", and {count} not known to be chosen"),
    };
    row("records", format!("{}{unknown}", group.records))?;
    row(
        "entries",
        format!("{}, {} of them marks, {} superseded", log.entries, log.marks, log.superseded),
    )?;
    if log.entries_lost > 0 {
        row("lost", format!("{} entries", log.entries_lost))?;
    }
    let (values, entries) = (bytes(log.value_bytes as f64), bytes(log.entry_bytes as f64));
    let (files, torn) = (bytes(log.file_bytes as f64), log.torn_bytes);
    row("bytes", format!("{values} of values, {entries} of entries, {files} of files"))?;
    if torn > 0 {
        row("torn tail", format!("{torn} bytes"))?;
    }
    for found in &log.checkpoints {
        let slot = found.slot.map_or("-".to_owned(), |slot| slot.to_string());
        let state = found.state_bytes.map_or("-".to_owned(), |state| bytes(state as f64));
        let useless =
            found.why.as_deref().map_or(String::new(), |why| format!("; of no use: {why}"));
        row("checkpoint", format!("{}: slot {slot}, {state} of state{useless}", found.file))?;
    }
    writeln!(
        out,
        "  {:<18}{:>4}{:>10}{:>22}{:>12}{:>12}  footer",
        "segment", "gen", "entries", "slots", "ballots to", "bytes"
    )?;
    for segment in &log.segments {
        let slots = match (segment.slot_first, segment.slot_last) {
            (Some(first), Some(last)) => format!("{first}-{last}"),
            _ => "-".to_owned(),
        };
        writeln!(
            out,
            "  {:<18}{:>4}{:>10}{slots:>22}{:>12}{:>12}  {}",
            format!("{:x}", segment.segment),
            segment.generation.map_or("-".to_owned(), |generation| generation.to_string()),
            segment.entries,
            ballot(segment.ballot_highest),
            bytes(segment.entry_bytes as f64),
            format!("{:?}", segment.footer).to_lowercase(),
        )?;
        write_logs(out, segment)?;
    }
    Ok(())
}

/// Where the records of other logs than 0 stand, and what was refused, if there is any such.
fn write_logs(out: &mut String, segment: &SegmentReport) -> std::fmt::Result {
    let others = segment.logs.iter().filter(|log| log.log != 0);
    for log in others.clone().take(LOGS_SHOWN_MAX) {
        let (records, first, last) = (log.records, log.first, log.end - 1);
        writeln!(out, "    log {}: {records} records, positions {first}-{last}", log.log)?;
    }
    if let Some(more) = others.count().checked_sub(LOGS_SHOWN_MAX).filter(|more| *more > 0) {
        writeln!(out, "    and {more} more logs")?;
    }
    match segment.refused {
        0 => Ok(()),
        refused => writeln!(out, "    {refused} commands refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;
    use crate::base::records::push_record;
    use crate::base::{AppendTerms, Ballot, Batch, BlockPool, GroupId, NodeId};
    use crate::log::inspect::LogReport;
    use crate::machine::{BatchBuilder, Command};

    fn batch(records: &[&[u8]]) -> Batch {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        let mut run = Vec::new();
        records.iter().for_each(|record| push_record(&mut run, record));
        builder.push(&Command::append(LogId(0), records.len() as u32, &run));
        builder.seal(0)
    }

    fn slot(slot: u64, chosen: bool, value: &[u8]) -> InspectedSlot<'_> {
        let ballot = Ballot { round: 2, node: NodeId(1) };
        let (group, slot) = (GroupId(0), Slot(slot));
        let placement = None;
        InspectedSlot { group, slot, ballot, chosen, segment: 1, offset: 4096, value, placement }
    }

    #[test]
    fn positions_follow_until_a_slot_is_missing() {
        let mut count = RecordCount::default();
        let value = batch(&[b"a", b"b"]);
        let simple = |first, records| Some(Placement::simple(Position(first), records));
        assert_eq!(count.count(&slot(1, true, value.value())), simple(0, 2));
        assert_eq!(count.count(&slot(2, true, b"")), simple(2, 0));
        assert_eq!(count.count(&slot(3, true, b"")), simple(2, 0));
        assert_eq!(count.count(&slot(4, true, value.value())), simple(2, 2));
        let mut twice = BatchBuilder::new(BlockPool::new(0));
        let terms = AppendTerms { if_tail: Some(Position(4)), ..Default::default() };
        let run = b"\x01\0\0\0x";
        (0..2).for_each(|_| twice.push(&Command { terms, ..Command::append(LogId(0), 1, run) }));
        let mut once = Placement::simple(Position(4), 1);
        once.refuse(1);
        assert_eq!(count.count(&slot(5, true, twice.seal(0).value())), Some(once));
        // Behind a missing slot only a footer knows.
        assert_eq!(count.count(&slot(7, true, value.value())), None);
        assert_eq!(count.count(&slot(9, false, value.value())), None);
        let group = &count.groups[&0];
        assert_eq!((group.chosen, group.accepted), (7, 2));
        let mut told = Placement::simple(Position(40), 1);
        told.refuse(0);
        let told_slot = InspectedSlot { placement: Some(&told), ..slot(8, true, value.value()) };
        assert_eq!(count.count(&told_slot), Some(told.clone()));
        assert_eq!(count.groups[&0].chosen, 8);
        // Nor behind a value that this version does not understand.
        let mut count = RecordCount::default();
        assert_eq!(count.count(&slot(1, true, b"no batch")), None);
        assert_eq!(count.count(&slot(2, true, value.value())), None);
    }

    #[test]
    fn other_logs_and_refusals_of_a_segment_are_shown_where_there_are_any() {
        let log = |log| LogReport { log, first: 5, end: 9, records: 3 };
        let plain = SegmentReport { logs: vec![log(0)], ..SegmentReport::default() };
        let mut text = String::new();
        write_logs(&mut text, &plain).unwrap();
        assert_eq!(text, "");
        let logs = (0..20).map(log).collect();
        write_logs(&mut text, &SegmentReport { logs, refused: 2, ..plain }).unwrap();
        assert!(text.contains("log 16: 3 records, positions 5-8\n    and 3 more logs"), "{text}");
        assert!(!text.contains("log 17") && text.ends_with("2 commands refused\n"), "{text}");
    }

    #[test]
    fn text_names_the_damage_and_json_has_the_documented_fields() {
        let mut report = InspectReport::default();
        let log = GroupReport { chosen: 7, torn_bytes: 4096, ..GroupReport::default() };
        report.groups.push(log);
        let why = "the value's checksum does not match".to_owned();
        let file = "group-0000/segment-1.log".to_owned();
        report.damage.push(Damage { file, offset: 8192, slot: Some(3), why });
        let printed = to_printed(Path::new("data"), &report, &RecordCount::default());
        let text = to_text(&printed);
        assert!(
            text.contains("DAMAGED: group-0000/segment-1.log at offset 8192 (slot 3)"),
            "{text}"
        );
        assert!(text.contains("torn tail") && !text.contains("nothing is damaged"), "{text}");
        let json = serde_json::to_value(&printed).unwrap();
        for pointer in [
            "/identity",
            "/groups/0/records",
            "/groups/0/chosen",
            "/groups/0/promised",
            "/groups/0/checkpoints",
            "/groups/0/segments",
            "/groups/0/torn_bytes",
            "/damage/0/offset",
            "/not_read",
            "/mended_at_start",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer} is missing in {json}");
        }
        assert_eq!(json["sound"], false);
    }

    #[test]
    fn what_the_system_refuses_is_no_damage_and_not_sound_either() {
        let mut report = InspectReport::default();
        assert_eq!(verdict(&report), Ok(()));
        let what = "opening group-0000/segment-1.log".to_owned();
        report.not_read.push(NotRead { what, why: "Too many open files".to_owned() });
        let printed = to_printed(Path::new("data"), &report, &RecordCount::default());
        let text = to_text(&printed);
        assert!(text.contains("NOT READ: opening group-0000/segment-1.log: Too many"), "{text}");
        assert!(!text.contains("DAMAGED") && !text.contains("nothing is damaged"), "{text}");
        let json = serde_json::to_value(&printed).unwrap();
        assert_eq!((&json["sound"], json["not_read"][0]["why"].is_string()), (&false.into(), true));
        assert_eq!(verdict(&report).unwrap_err().0, Exit::Failed);
        let why = "the value's checksum does not match".to_owned();
        report.damage.push(Damage { file: "segment-2.log".to_owned(), offset: 0, slot: None, why });
        let (exit, what) = verdict(&report).unwrap_err();
        assert_eq!((exit, what.starts_with("damaged: segment-2.log")), (Exit::Found, true));
    }
}
