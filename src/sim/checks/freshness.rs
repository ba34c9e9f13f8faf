//! Freshness: what linearizable reads must have seen.
//!
//! Property: a read or tail at level `read-index` or `lease` that was invoked after an append was
//! acknowledged, or after another such read had returned, knows of everything that these knew of:
//! the tail that came with it is not below theirs. Level `lease` assumes that clocks keep to their
//! bound: once the world has broken one on purpose, it is held to what `local` promises only.
//! Together with the check of prefixes this is linearizability of the whole history: appends,
//! reads and tails have one order that respects real time.

use super::Violation;
use crate::base::LogId;
use crate::sim::counters::{Counters, Hit};
use crate::sim::history::{History, Kind, Operation, Outcome};
use crate::sim::time::Time;
use crate::wire::ReadLevel;

const NAME: &str = "freshness";

/// Judges a whole history.
///
/// # Errors
/// The first violation.
pub fn check(
    history: &History,
    clocks_broken_at: Option<Time>,
    hits: &mut Counters,
) -> Result<(), Violation> {
    history.logs().into_iter().try_for_each(|log| check_log(history, log, clocks_broken_at, hits))
}

fn check_log(
    history: &History,
    log: LogId,
    clocks_broken_at: Option<Time>,
    hits: &mut Counters,
) -> Result<(), Violation> {
    // What was known, by the time at which it was known; then a sweep over the invocations.
    let is_judged = |operation: &Operation, level| match level {
        ReadLevel::Local => false,
        ReadLevel::ReadIndex => true,
        ReadLevel::Lease => {
            let returned = operation.acknowledged();
            returned.is_some_and(|at| clocks_broken_at.is_none_or(|broken| at < broken))
        }
    };
    let mut known: Vec<(Time, u64)> = Vec::new();
    let mut reads: Vec<(Time, u64, u32)> = Vec::new();
    for operation in history.of_log(log) {
        if let (Outcome::Failed(returned), Kind::Append { moved_to: Some(tail), .. }) =
            (operation.outcome, &operation.kind)
        {
            // What stood in the way of a condition was the tail at some moment in between.
            known.push((returned, tail.0));
            reads.push((operation.invoked, tail.0, operation.process));
        }
        let Outcome::Ok(returned) = operation.outcome else { continue };
        match &operation.kind {
            Kind::Append { records, position, .. } => {
                let first = position.map_or(0, |position| position.0);
                known.push((returned, first + u64::from(*records)));
            }
            Kind::Read { level, tail, .. } | Kind::Tail { level, tail } => {
                if is_judged(operation, *level) {
                    known.push((returned, tail.0));
                    reads.push((operation.invoked, tail.0, operation.process));
                }
            }
        }
    }
    known.sort_unstable();
    reads.sort_unstable();
    let mut rest = known.into_iter().peekable();
    let mut due = (Time::default(), 0);
    for (invoked, tail, process) in reads {
        while let Some(next) = rest.next_if(|(returned, _)| *returned < invoked) {
            if next.1 > due.1 {
                due = next;
            }
        }
        hits.hit(Hit::FreshnessChecked);
        if tail < due.1 {
            let text = format!("process {process} asked at {invoked} and was told of {tail}");
            let text = format!("{text} records, though {} were known at {}", due.1, due.0);
            return Err(Violation::new(NAME, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Position;
    use crate::sim::history::ValueId;

    fn history(level: ReadLevel, tail: u64) -> History {
        let first = ValueId { client: 1, number: 1 };
        let position = Some(Position(4));
        let (if_tail, fence, moved_to) = (None, None, None);
        let append =
            Kind::Append { first, records: 2, size: 1, if_tail, fence, position, moved_to };
        let tail = Kind::Tail { level, tail: Position(tail) };
        let operation = |process, invoked, returned, kind| Operation {
            process,
            log: LogId(0),
            invoked: Time(invoked),
            outcome: Outcome::Ok(Time(returned)),
            kind,
        };
        let operations = vec![operation(1, 1, 5, append), operation(2, 6, 9, tail)];
        History { operations, in_sessions: false }
    }

    #[test]
    fn a_stale_tail_is_found_where_the_level_forbids_it() {
        let judge = |level, tail, broken: Option<u64>| {
            check(&history(level, tail), broken.map(Time), &mut Counters::default()).is_ok()
        };
        assert!(judge(ReadLevel::ReadIndex, 6, None));
        assert!(!judge(ReadLevel::ReadIndex, 5, Some(1)));
        assert!(judge(ReadLevel::Local, 0, None));
        assert!(!judge(ReadLevel::Lease, 5, None));
        assert!(!judge(ReadLevel::Lease, 5, Some(10)));
        assert!(judge(ReadLevel::Lease, 5, Some(9)));
    }
}
