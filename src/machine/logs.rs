//! The logs of a group: names, tails and fences.
//!
//! Part of the machine's state. A log is known by its number, which is never used again; log 0,
//! `default`, is there from the first slot on and cannot be deleted.

use std::collections::BTreeMap;

use super::saved::{DecodeError, Reader, Writer};
use super::state::{AppendRefusal, Placed};
use crate::base::limits::{LOG_NAME_BYTES_MAX, RECORD_BYTES_MAX};
use crate::base::mutants::{Mutant, planted};
use crate::base::records::Records;
use crate::base::{
    AppendTerms, DEFAULT_LOG_NAME, FenceToken, IdMap, LogId, LogPages, LogTerms, Placement,
    Position, Slot, Span,
};

/// The most logs of a group.
pub const LOGS_MAX: usize = 64 * 1024;
/// What a log takes in a saved state, without its name, in bytes.
const SAVED_LOG_SIZE: usize = 26;

/// A log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState<'a> {
    /// With what it was created.
    pub terms: &'a LogTerms,
    /// The next position to be given out.
    pub tail: Position,
    /// The highest token that it has taken; 0 = none yet.
    pub fence: FenceToken,
}

/// The part of a log's state that appends need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LogTail {
    tail: Position,
    fence: FenceToken,
    /// The last slot that added records, and which span of it they are.
    touched: Slot,
    span: u32,
    /// The largest record that it takes, in bytes.
    record_bytes_max: u32,
}

const _: () = assert!(size_of::<LogTail>() == 32, "two in a cache line");

impl LogTail {
    fn new(terms: &LogTerms) -> LogTail {
        LogTail { record_bytes_max: terms.record_bytes_max, ..LogTail::default() }
    }

    /// Whether an append on these terms takes effect now, and if not, why.
    fn check(&self, terms: &AppendTerms, run: &[u8]) -> Result<(), AppendRefusal> {
        let token = terms.fence.unwrap_or_default();
        if token < self.fence && !planted(Mutant::FenceCheckedByLeaderOnly) {
            return Err(AppendRefusal::Fenced { token: self.fence });
        }
        if terms.if_tail.is_some_and(|tail| tail != self.tail)
            && !planted(Mutant::ConditionCheckedByLeaderOnly)
        {
            return Err(AppendRefusal::TailMoved { tail: self.tail });
        }
        let limit = self.record_bytes_max as usize;
        let too_large = |record: &[u8]| record.len() > limit;
        if limit < RECORD_BYTES_MAX && Records::new(run).map_while(Result::ok).any(too_large) {
            return Err(AppendRefusal::RecordTooLarge { limit: self.record_bytes_max });
        }
        Ok(())
    }
}

/// The logs of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    terms: IdMap<LogId, LogTerms>,
    tails: LogPages<LogTail>,
    by_name: BTreeMap<String, LogId>,
    /// The last number given out.
    last: LogId,
    /// What the slot being applied has added, in the order of its commands.
    spans: Vec<Span>,
}

impl Default for Logs {
    fn default() -> Logs {
        let terms = LogTerms::named(DEFAULT_LOG_NAME);
        let mut logs = Logs {
            by_name: BTreeMap::new(),
            terms: IdMap::default(),
            tails: LogPages::default(),
            last: LogId(0),
            spans: Vec::new(),
        };
        logs.insert(LogId(0), terms);
        logs
    }
}

impl Logs {
    fn insert(&mut self, log: LogId, terms: LogTerms) {
        self.by_name.insert(terms.name.clone(), log);
        self.tails.get_or_insert(log, LogTail::new(&terms));
        self.terms.insert(log, terms);
    }

    /// The log with this number.
    pub fn get(&self, log: LogId) -> Option<LogState<'_>> {
        let terms = self.terms.get(&log)?;
        let LogTail { tail, fence, .. } = self.tails.get(log)?;
        Some(LogState { terms, tail: *tail, fence: *fence })
    }

    /// The tail of the log with this number.
    pub fn tail(&self, log: LogId) -> Option<Position> {
        self.tails.get(log).map(|log| log.tail)
    }

    /// The log with this name.
    pub fn find(&self, name: &str) -> Option<(LogId, LogState<'_>)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.get(id)?))
    }

    /// The logs with a name above `after`, by name.
    pub fn by_name_after(&self, after: &str) -> impl Iterator<Item = (LogId, LogState<'_>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let rest = self.by_name.range::<str, _>((Excluded(after), Unbounded));
        rest.filter_map(|(_, id)| Some((*id, self.get(*id)?)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.terms.len()
    }

    /// Creates a log, or finds the one of that name; `None` when there are too many.
    pub(super) fn create(&mut self, terms: LogTerms) -> Option<(LogId, bool)> {
        if let Some(id) = self.by_name.get(&terms.name) {
            return Some((*id, false));
        }
        if self.terms.len() >= LOGS_MAX {
            return None;
        }
        if self.last.0 >= LogId::WITHIN_GROUP_MAX {
            return None;
        }
        self.last = LogId(self.last.0 + 1);
        self.insert(self.last, terms);
        Some((self.last, true))
    }

    /// Deletes a log; whether there was one that may be deleted.
    pub(super) fn delete(&mut self, log: LogId) -> bool {
        if log == LogId(0) {
            return false;
        }
        let Some(deleted) = self.terms.remove(&log) else { return false };
        self.by_name.remove(&deleted.name);
        self.tails.remove(log);
        // What the slot being applied has added to it goes with it.
        self.spans.iter_mut().filter(|span| span.log == log).for_each(|span| span.records = 0);
        true
    }

    /// Appends `records` records, or says why not.
    pub(super) fn append(
        &mut self,
        slot: Slot,
        log: LogId,
        terms: &AppendTerms,
        records: u32,
        run: &[u8],
    ) -> Result<Placed, AppendRefusal> {
        let state = self.tails.get_mut(log).ok_or(AppendRefusal::NoSuchLog(log))?;
        state.check(terms, run)?;
        state.fence = state.fence.max(terms.fence.unwrap_or_default());
        let first = state.tail;
        if records > 0 && state.touched == slot {
            self.spans[state.span as usize].records += records;
        } else if records > 0 {
            (state.touched, state.span) = (slot, self.spans.len() as u32);
            self.spans.push(Span { log, first, records });
        }
        state.tail = first.plus(u64::from(records));
        Ok(Placed { first, records })
    }

    /// Appends the logs to `out`, by number; between slots only.
    pub(super) fn encode(&self, out: &mut Writer) {
        assert!(self.spans.is_empty(), "no slot is being applied");
        let mut terms: Vec<_> = self.terms.iter().map(|(log, terms)| (*log, terms)).collect();
        terms.sort_unstable_by_key(|(log, _)| *log);
        let names: usize = terms.iter().map(|(_, terms)| terms.name.len()).sum();
        out.reserve(8 + terms.len() * SAVED_LOG_SIZE + names);
        out.put_u32(self.last.0);
        out.put_u32(terms.len() as u32);
        // Side by side: looking each log up in the other map would cost more than all the rest.
        for ((log, terms), (same, tail)) in terms.into_iter().zip(self.tails.sorted()) {
            assert_eq!(log, same, "every log has terms and a tail");
            out.put_u32(log.0);
            out.put_u32(terms.record_bytes_max);
            out.put_u64(tail.tail.0);
            out.put_u64(tail.fence.0);
            out.put_u16(terms.name.len() as u16);
            out.put_last(terms.name.as_bytes());
        }
    }

    /// Reads what [`Logs::encode`] wrote.
    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Logs, DecodeError> {
        let wrong = |what| Err(DecodeError::Wrong(what));
        let mut logs = Logs {
            terms: IdMap::default(),
            tails: LogPages::default(),
            by_name: BTreeMap::new(),
            last: LogId(from.u32()?),
            spans: Vec::new(),
        };
        let count = from.u32()? as usize;
        if !(1..=LOGS_MAX).contains(&count) {
            return wrong("it tells of too many logs, or of none");
        }
        if logs.last.0 > LogId::WITHIN_GROUP_MAX {
            return wrong("its logs' numbers are over the limit");
        }
        let mut before: Option<LogId> = None;
        for _ in 0..count {
            let log = LogId(from.u32()?);
            let in_order = before.map_or(log == LogId(0), |before| before < log);
            if !in_order || log > logs.last {
                return wrong("its logs are out of order");
            }
            before = Some(log);
            let record_bytes_max = from.u32()?;
            let tail = Position(from.counter("a log's tail")?);
            // Chosen by clients, and never counted on from: any there is.
            let fence = FenceToken(from.u64()?);
            let name_bytes = usize::from(from.u16()?).min(LOG_NAME_BYTES_MAX + 1);
            let name = std::str::from_utf8(from.bytes(name_bytes)?);
            let name = name.map_err(|_| DecodeError::Wrong("a log's name is no text"))?;
            let terms = LogTerms { name: name.to_owned(), record_bytes_max };
            let is_default = log == LogId(0) && terms == LogTerms::named(DEFAULT_LOG_NAME);
            if terms.fault().is_some() || is_default != (log == LogId(0)) {
                return wrong("a log could not have been created so");
            }
            if logs.by_name.contains_key(&terms.name) {
                return wrong("two of its logs have one name");
            }
            logs.insert(log, terms);
            let state = logs.tails.get_mut(log).expect("inserted in the line above");
            (state.tail, state.fence) = (tail, fence);
        }
        Ok(logs)
    }

    /// Adds what the logs got in the slot just applied to `placement`.
    pub(super) fn end_slot(&mut self, placement: &mut Placement) {
        self.spans.retain(|span| span.records > 0);
        self.spans.sort_unstable_by_key(|span| span.log);
        placement.spans.extend_from_slice(&self.spans);
        self.spans.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_again() {
        let mut logs = Logs::default();
        assert_eq!(logs.create(LogTerms::named("a")), Some((LogId(1), true)));
        assert_eq!(logs.create(LogTerms::named("a")), Some((LogId(1), false)));
        assert!(logs.delete(LogId(1)) && !logs.delete(LogId(1)) && !logs.delete(LogId(0)));
        assert_eq!(logs.create(LogTerms::named("a")), Some((LogId(2), true)));
        assert_eq!(logs.find("a").map(|(id, _)| id), Some(LogId(2)));
        assert_eq!((logs.count(), logs.by_name_after("a").count()), (2, 1));
    }
}
