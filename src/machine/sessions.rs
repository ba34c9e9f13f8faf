//! Sessions: what makes a command that is sent again take effect once.
//!
//! Part of the machine's state, built by applying slots and by nothing else, so that every replica
//! remembers the same results and a retry gets the same answer from whichever leader takes it
//! (Ongaro, *Consensus: Bridging Theory and Practice*, section 6.3). Sessions age by the log's
//! time, which the batches carry, not by any clock: they end in the same slot everywhere.
//!
//! Bounds: [`SESSIONS_MAX`] sessions, and [`RESULTS_MAX`] results over all of their windows.

use std::collections::{HashMap, VecDeque};

use super::saved::{COUNTER_MAX, DecodeError, Reader, Writer};
use super::state::{AppendRefusal, Placed};
use crate::base::mutants::{Mutant, planted};
use crate::base::{AppendTerms, FenceToken, LogId, Position, Sequence, SessionId, SessionTerms};

/// The most sessions that are open at a time.
pub const SESSIONS_MAX: usize = 64 * 1024;
/// The most results that the open sessions may have remembered, by their windows.
pub const RESULTS_MAX: u64 = 4 * 1024 * 1024;

/// What came of an append of a session.
pub(super) type AppendResult = Result<Placed, AppendRefusal>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    terms: SessionTerms,
    /// The log's time of its last command, in milliseconds.
    used_ms: u64,
    /// The last command that took its turn.
    last: Sequence,
    /// The results of the commands up to `last` that the client has not yet said to have, in
    /// order. Kept as they are saved, so that saving them is copying.
    results: VecDeque<SavedResult>,
}

impl Session {
    fn has_expired(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms) > u64::from(self.terms.timeout_ms)
    }

    /// Lets go of what the client will not ask for again.
    fn forget_before(&mut self, wanted: Sequence) {
        let oldest = self.last.0 + 1 - self.results.len() as u64;
        let known = wanted.0.saturating_sub(oldest).min(self.results.len() as u64);
        self.results.drain(..known as usize);
    }

    fn result(&self, sequence: Sequence) -> Option<AppendResult> {
        let age = usize::try_from(self.last.0.checked_sub(sequence.0)?).ok()?;
        let at = self.results.len().checked_sub(age + 1)?;
        Some(result_of(&self.results[at]).expect("kept as it was written, or read and checked"))
    }
}

/// A remembered result: u32 kind, u32, u64.
type SavedResult = [u8; SAVED_RESULT_SIZE];

const SAVED_RESULT_SIZE: usize = 16;
/// What a session takes in a saved state, without its results, in bytes.
const SAVED_SESSION_SIZE: usize = 36;

/// A result as numbers: kind, a small and a large one.
fn numbers_of(result: &AppendResult) -> (u32, u32, u64) {
    match *result {
        Ok(Placed { first, records }) => (0, records, first.0),
        Err(AppendRefusal::NoSuchLog(log)) => (1, log.0, 0),
        Err(AppendRefusal::TailMoved { tail }) => (2, 0, tail.0),
        Err(AppendRefusal::Fenced { token }) => (3, 0, token.0),
        Err(AppendRefusal::RecordTooLarge { limit }) => (4, limit, 0),
        Err(AppendRefusal::SessionExpired) => (5, 0, 0),
        Err(AppendRefusal::OutOfOrder { expected }) => (6, 0, expected.0),
        Err(AppendRefusal::Forgotten) => (7, 0, 0),
        Err(AppendRefusal::WindowFull) => (8, 0, 0),
    }
}

fn saved(result: &AppendResult) -> SavedResult {
    let (kind, small, large) = numbers_of(result);
    let number = u128::from(kind) | u128::from(small) << 32 | u128::from(large) << 64;
    number.to_le_bytes()
}

fn result_of(saved: &SavedResult) -> Result<AppendResult, DecodeError> {
    let number = u128::from_le_bytes(*saved);
    let (kind, small, large) = (number as u32, (number >> 32) as u32, (number >> 64) as u64);
    let result = match kind {
        0 => Ok(Placed { first: Position(large), records: small }),
        1 => Err(AppendRefusal::NoSuchLog(LogId(small))),
        2 => Err(AppendRefusal::TailMoved { tail: Position(large) }),
        3 => Err(AppendRefusal::Fenced { token: FenceToken(large) }),
        4 => Err(AppendRefusal::RecordTooLarge { limit: small }),
        5 => Err(AppendRefusal::SessionExpired),
        6 => Err(AppendRefusal::OutOfOrder { expected: Sequence(large) }),
        7 => Err(AppendRefusal::Forgotten),
        8 => Err(AppendRefusal::WindowFull),
        _ => return Err(DecodeError::Wrong("a remembered result is of no known kind")),
    };
    // One state has one encoding: what a kind does not use is 0.
    match numbers_of(&result) == (kind, small, large) {
        true => Ok(result),
        false => Err(DecodeError::Wrong("a remembered result says more than its kind may")),
    }
}

/// Whether a machine can have remembered this.
fn check_result(saved: &SavedResult) -> Result<(), DecodeError> {
    let result = result_of(saved)?;
    let (_, _, large) = numbers_of(&result);
    // A token is chosen by a client; the others count up.
    if large > COUNTER_MAX && !matches!(result, Err(AppendRefusal::Fenced { .. })) {
        return Err(DecodeError::Counter("a remembered position or sequence"));
    }
    Ok(())
}

/// What a session says to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It comes next: carry it out, and [`Sessions::remember`] what came of it.
    Next,
    /// It has been carried out before, with this result.
    Repeated(AppendResult),
    /// It is not to be carried out.
    Refused(AppendRefusal),
}

/// The open sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    open: HashMap<SessionId, Session>,
    /// The last number given out.
    last: SessionId,
    /// The windows of all open sessions together.
    windows: u64,
}

impl Sessions {
    /// How many are open (some of which may have expired and not been noticed).
    #[cfg(test)]
    fn count(&self) -> usize {
        self.open.len()
    }

    /// Opens a session; `None` when the table is full of sessions that live.
    pub fn open(&mut self, terms: SessionTerms, now_ms: u64) -> Option<SessionId> {
        if !self.has_room(&terms) {
            self.sweep(now_ms);
        }
        if !self.has_room(&terms) {
            return None;
        }
        self.last = SessionId(self.last.0 + 1);
        self.windows += u64::from(terms.window);
        let results = VecDeque::new();
        let session = Session { terms, used_ms: now_ms, last: Sequence(0), results };
        self.open.insert(self.last, session);
        Some(self.last)
    }

    fn has_room(&self, terms: &SessionTerms) -> bool {
        self.open.len() < SESSIONS_MAX && self.windows + u64::from(terms.window) <= RESULTS_MAX
    }

    fn sweep(&mut self, now_ms: u64) {
        self.open.retain(|_, session| !session.has_expired(now_ms));
        self.windows = self.open.values().map(|open| u64::from(open.terms.window)).sum();
    }

    /// Ends a session; whether there was one.
    pub fn close(&mut self, session: SessionId) -> bool {
        let closed = self.open.remove(&session);
        self.windows -= closed.as_ref().map_or(0, |closed| u64::from(closed.terms.window));
        closed.is_some()
    }

    /// Drops every session: what a replica would do that kept them outside its state.
    pub fn forget_all(&mut self) {
        self.open.clear();
        self.windows = 0;
    }

    /// Appends the sessions to `out`, by number.
    pub fn encode(&self, out: &mut Writer) {
        // By value: sorting must not look at each session, wherever it is in memory.
        let mut open: Vec<_> = self.open.iter().map(|(id, session)| (*id, session)).collect();
        if !open.is_empty() && planted(Mutant::SessionsLeftOutOfCheckpoint) {
            open.clear();
        }
        open.sort_unstable_by_key(|(id, _)| *id);
        let results: usize = open.iter().map(|(_, session)| session.results.len()).sum();
        out.reserve(12 + open.len() * SAVED_SESSION_SIZE + results * SAVED_RESULT_SIZE);
        out.put_u64(self.last.0);
        out.put_u32(open.len() as u32);
        for (id, session) in open {
            out.put_u64(id.0);
            out.put_u32(session.terms.timeout_ms);
            out.put_u32(session.terms.window);
            out.put_u64(session.used_ms);
            out.put_u64(session.last.0);
            out.put_u32(session.results.len() as u32);
            let (first, rest) = session.results.as_slices();
            out.put_last(first.as_flattened());
            out.put_last(rest.as_flattened());
        }
    }

    /// Reads what [`Sessions::encode`] wrote.
    pub fn decode(from: &mut Reader<'_>) -> Result<Sessions, DecodeError> {
        let wrong = |what| Err(DecodeError::Wrong(what));
        let last = SessionId(from.counter("its last session's number")?);
        let mut sessions = Sessions { last, ..Sessions::default() };
        let count = from.u32()? as usize;
        if count > SESSIONS_MAX {
            return wrong("it tells of too many sessions");
        }
        let mut before = SessionId::NONE;
        for _ in 0..count {
            let id = SessionId(from.u64()?);
            if id <= before || id > sessions.last {
                return wrong("its sessions are out of order");
            }
            before = id;
            let terms = SessionTerms { timeout_ms: from.u32()?, window: from.u32()? };
            let used_ms = from.counter("the time of a session's last command")?;
            let last = Sequence(from.counter("a session's last sequence")?);
            let results = from.u32()?;
            sessions.windows += u64::from(terms.window);
            if terms.fault().is_some() || sessions.windows > RESULTS_MAX {
                return wrong("a session could not have been opened so");
            }
            if results > terms.window || u64::from(results) > last.0 {
                return wrong("a session remembers more than it may");
            }
            let results = from.bytes(results as usize * SAVED_RESULT_SIZE)?;
            let results: VecDeque<SavedResult> = results.as_chunks().0.iter().copied().collect();
            results.iter().try_for_each(check_result)?;
            sessions.open.insert(id, Session { terms, used_ms, last, results });
        }
        Ok(sessions)
    }

    /// Whether the command is to be carried out.
    pub fn turn(&mut self, terms: &AppendTerms, now_ms: u64) -> Turn {
        let expired = Turn::Refused(AppendRefusal::SessionExpired);
        let Some(session) = self.open.get_mut(&terms.session) else { return expired };
        if session.has_expired(now_ms) && !planted(Mutant::SessionNeverExpires) {
            self.close(terms.session);
            return expired;
        }
        session.used_ms = now_ms;
        session.forget_before(terms.wanted_from());
        let next = session.last.next();
        if terms.sequence > next {
            return Turn::Refused(AppendRefusal::OutOfOrder { expected: next });
        }
        if terms.sequence < next {
            if planted(Mutant::RepetitionAppended) {
                return Turn::Next;
            }
            return match session.result(terms.sequence) {
                Some(result) => Turn::Repeated(result),
                None => Turn::Refused(AppendRefusal::Forgotten),
            };
        }
        if session.results.len() >= session.terms.window as usize {
            return Turn::Refused(AppendRefusal::WindowFull);
        }
        Turn::Next
    }

    /// Keeps what came of the command that [`Turn::Next`] was said to.
    pub fn remember(&mut self, terms: &AppendTerms, result: AppendResult) {
        let session = self.open.get_mut(&terms.session).expect("its turn has just come");
        if planted(Mutant::RepetitionAppended) && terms.sequence <= session.last {
            return;
        }
        assert_eq!(terms.sequence, session.last.next(), "commands take their turn in order");
        session.last = terms.sequence;
        session.results.push_back(saved(&result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Position;

    const TERMS: SessionTerms = SessionTerms { timeout_ms: 1000, window: 4 };

    fn terms(session: SessionId, sequence: u64, unanswered: u16) -> AppendTerms {
        AppendTerms { session, sequence: Sequence(sequence), unanswered, ..Default::default() }
    }

    fn placed(first: u64) -> AppendResult {
        Ok(Placed { first: Position(first), records: 1 })
    }

    #[test]
    fn a_repetition_gets_the_first_result_until_the_client_has_it() {
        let mut sessions = Sessions::default();
        let id = sessions.open(TERMS, 0).unwrap();
        for sequence in 1..=3 {
            let terms = terms(id, sequence, 3);
            assert_eq!(sessions.turn(&terms, 0), Turn::Next);
            sessions.remember(&terms, placed(sequence * 10));
        }
        for sequence in 1..=3 {
            let result = Turn::Repeated(placed(sequence * 10));
            assert_eq!(sessions.turn(&terms(id, sequence, 3), 0), result);
        }
        // The client has the first two.
        assert_eq!(sessions.turn(&terms(id, 4, 1), 0), Turn::Next);
        sessions.remember(&terms(id, 4, 1), placed(40));
        assert_eq!(sessions.turn(&terms(id, 3, 0), 0), Turn::Repeated(placed(30)));
        let forgotten = Turn::Refused(AppendRefusal::Forgotten);
        assert_eq!(sessions.turn(&terms(id, 2, 0), 0), forgotten);
    }

    #[test]
    fn a_gap_and_a_full_window_are_refused() {
        let mut sessions = Sessions::default();
        let id = sessions.open(TERMS, 0).unwrap();
        let gap = AppendRefusal::OutOfOrder { expected: Sequence(1) };
        assert_eq!(sessions.turn(&terms(id, 2, 1), 0), Turn::Refused(gap));
        for sequence in 1..=4 {
            let terms = terms(id, sequence, 10);
            assert_eq!(sessions.turn(&terms, 0), Turn::Next);
            sessions.remember(&terms, placed(sequence));
        }
        let full = Turn::Refused(AppendRefusal::WindowFull);
        assert_eq!(sessions.turn(&terms(id, 5, 10), 0), full);
        assert_eq!(sessions.turn(&terms(id, 5, 3), 0), Turn::Next);
    }

    #[test]
    fn sessions_end_by_the_logs_time_and_by_hand() {
        let mut sessions = Sessions::default();
        let expired = Turn::Refused(AppendRefusal::SessionExpired);
        let id = sessions.open(TERMS, 5000).unwrap();
        assert_eq!(sessions.turn(&terms(id, 1, 0), 6000), Turn::Next);
        sessions.remember(&terms(id, 1, 0), placed(0));
        assert_eq!(sessions.turn(&terms(id, 1, 0), 7001), expired, "1001 ms later");
        assert_eq!(sessions.turn(&terms(id, 1, 0), 6500), expired, "and for ever");
        let id = sessions.open(TERMS, 5000).unwrap();
        assert!(sessions.close(id) && !sessions.close(id));
        assert_eq!(sessions.turn(&terms(id, 1, 0), 5000), expired);
        assert_eq!((sessions.count(), sessions.windows), (0, 0));
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_from_expired_sessions() {
        let wide = SessionTerms { timeout_ms: 1000, window: 16 * 1024 };
        let mut sessions = Sessions::default();
        for _ in 0..RESULTS_MAX / u64::from(wide.window) {
            assert!(sessions.open(wide, 0).is_some());
        }
        assert_eq!(sessions.open(TERMS, 1000), None, "all of them live");
        assert!(sessions.open(TERMS, 1001).is_some());
        assert_eq!(sessions.count(), 1);
    }
}
