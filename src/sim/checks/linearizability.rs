//! Linearizability, at the levels that are served.
//!
//! Property: appends take effect at one moment between their invocation and their return: an
//! append that was invoked after another one had returned stands behind it, whether it was ever
//! acknowledged or not. Reads and tails, at every level, see a prefix of the one log: exactly the
//! records that stand there, none of them appended only after the read had returned. (How fresh
//! that prefix must be is `freshness`.) Each log by itself.

use super::Violation;
use super::values::Values;
use crate::base::{LogId, Position};
use crate::sim::history::{History, Kind, Operation, Outcome, ValueId};
use crate::sim::time::Time;

const NAME: &str = "linearizability";

/// Judges a whole history against the chosen log.
///
/// # Errors
/// The first violation.
pub fn check(history: &History, values: &Values) -> Result<(), Violation> {
    for log in history.logs() {
        check_order(history, log, values)?;
        let invoked = invocations(history, log, values);
        history.of_log(log).try_for_each(|operation| check_reads(operation, values, &invoked))?;
    }
    Ok(())
}

/// Appends in real time.
fn check_order(history: &History, log: LogId, values: &Values) -> Result<(), Violation> {
    // What has returned, by time; then a sweep over the invocations.
    let mut returned: Vec<(Time, Position, ValueId)> = Vec::new();
    let mut invoked: Vec<(Time, Position, ValueId)> = Vec::new();
    for operation in history.of_log(log) {
        let Kind::Append { first, records, .. } = operation.kind else { continue };
        let Some(position) = values.position(first) else { continue };
        invoked.push((operation.invoked, position, first));
        if let Outcome::Ok(at) = operation.outcome {
            returned.push((at, position.plus(u64::from(records) - 1), first));
        }
    }
    returned.sort_unstable();
    invoked.sort_unstable();
    let mut rest = returned.iter().peekable();
    let mut last: Option<(Time, Position, ValueId)> = None;
    for (at, position, value) in invoked {
        while let Some(done) = rest.next_if(|(returned, ..)| *returned < at) {
            if last.is_none_or(|(_, position, _)| position < done.1) {
                last = Some(*done);
            }
        }
        if let Some((returned, before, other)) = last
            && before >= position
        {
            let text = format!("{value}, invoked at {at}, stands at {position}");
            let text = format!("{text}, not behind {other}, which stands at {before}");
            return Err(Violation::new(NAME, format!("{text} and had returned at {returned}")));
        }
    }
    Ok(())
}

/// By position: the latest invocation of any append that stands there or before.
fn invocations(history: &History, log: LogId, values: &Values) -> Vec<Time> {
    let mut invoked = vec![Time::default(); values.log(log).len()];
    for operation in history.of_log(log) {
        let Kind::Append { first, .. } = operation.kind else { continue };
        if let Some(position) = values.position(first) {
            invoked[position.0 as usize] = operation.invoked;
        }
    }
    let mut latest = Time::default();
    for time in &mut invoked {
        latest = latest.max(*time);
        *time = latest;
    }
    invoked
}

fn check_reads(operation: &Operation, values: &Values, invoked: &[Time]) -> Result<(), Violation> {
    let Some(returned) = operation.acknowledged() else { return Ok(()) };
    let process = operation.process;
    let bad = |text: String| {
        Err(Violation::new(NAME, format!("process {process}, answered at {returned}: {text}")))
    };
    let tail = match &operation.kind {
        Kind::Append { .. } => return Ok(()),
        Kind::Tail { tail, .. } => *tail,
        Kind::Read { from, records_max, values: read, tail, .. } => {
            let end = from.0 as usize + read.len();
            if read.len() > *records_max as usize {
                return bad(format!("{} records where {records_max} were asked", read.len()));
            }
            let log = values.log(operation.log).get((from.0 as usize).min(end)..end);
            if !read.is_empty() && log != Some(read) {
                return bad(format!("a read from {from} brought {read:?}, the log holds {log:?}"));
            }
            if !read.is_empty() && (end as u64) > tail.0 {
                return bad(format!("a read up to {end} came with tail {tail}"));
            }
            if read.is_empty() && from.0 < tail.0 {
                return bad(format!("a read from {from} brought nothing below the tail {tail}"));
            }
            *tail
        }
    };
    match tail.0.checked_sub(1) {
        None => Ok(()),
        Some(last) => match invoked.get(last as usize) {
            None => bad(format!("tail {tail} where {} records were chosen", invoked.len())),
            Some(invoked) if *invoked > returned => {
                bad(format!("tail {tail} counts a record that was appended later, at {invoked}"))
            }
            Some(_) => Ok(()),
        },
    }
}
