//! Sessions: what makes a command that is sent again take effect once.
//!
//! Part of the machine's state, built by applying slots and by nothing else, so that every replica
//! remembers the same results and a retry gets the same answer from whichever leader takes it
//! (Ongaro, *Consensus: Bridging Theory and Practice*, section 6.3). Sessions age by the log's
//! time, which the batches carry, not by any clock: they end in the same slot everywhere.
//!
//! Bounds: [`SESSIONS_MAX`] sessions, and [`RESULTS_MAX`] results that they hold. Under pressure:
//! - Sessions that have expired are gone before anything else of a slot happens ([`Sessions::sweep`]).
//! - A session that holds no result is ended for a new one when the table is full, the oldest first. Its
//!   client may have appends under way; they are refused, and had no effect. It never took a turn, or its
//!   client has every result.
//! - A session that holds a result ends by its time-out or its client only: ended earlier, an append that
//!   took effect would be refused when it is sent again. Where only such are left, an opening is
//!   refused; so it is when they hold three quarters of [`RESULTS_MAX`], so that those that are open go on.
//!
//! An opening carries a nonce that its client drew. While the session of that nonce lives, the opening
//! finds it: a client that lost the answer asks again and leaks nothing.
//!
//! Expiry costs O(log n) per session and time-out, however many there are: each has one entry in a queue
//! by the earliest time at which it can expire. A use of the session leaves that entry alone; when it
//! comes up, it is put back by what the last use says. What is swept does not depend on the entries: after
//! a sweep exactly those are gone that have expired, so a restored machine, whose queue is built anew,
//! goes on alike.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::saved::{COUNTER_MAX, DecodeError, Reader, Writer};
use super::state::{AppendRefusal, Placed};
use crate::base::mutants::{Mutant, planted};
use crate::base::{AppendTerms, FenceToken, LogId, Position, Sequence, SessionId, SessionTerms};

/// The most sessions that are open at a time.
pub const SESSIONS_MAX: usize = 64 * 1024;
/// The most results that the open sessions hold; at this, no append of a session is taken that would
/// need another.
pub const RESULTS_MAX: u64 = 4 * 1024 * 1024;

/// The bounds of a table: those above, but for tests and the simulator, whose clients are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// See [`SESSIONS_MAX`].
    pub sessions_max: usize,
    /// See [`RESULTS_MAX`].
    pub results_max: u64,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits { sessions_max: SESSIONS_MAX, results_max: RESULTS_MAX }
    }
}

impl SessionLimits {
    /// With so many results held, no session is opened.
    fn results_opening_max(&self) -> u64 {
        self.results_max / 4 * 3
    }
}

/// What became of sessions and their commands since the start; not part of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Opened.
    pub opened: u64,
    /// Openings that found the session of their nonce.
    pub found: u64,
    /// Openings that were refused.
    pub refused: u64,
    /// Sessions ended by their time-out.
    pub expired: u64,
    /// Sessions ended for new ones.
    pub evicted: u64,
    /// Commands that got the result of their first application.
    pub repeated: u64,
    /// Commands whose result had been let go.
    pub forgotten: u64,
}

/// What came of an append of a session.
pub(super) type AppendResult = Result<Placed, AppendRefusal>;

#[derive(Clone, Debug)]
struct Session {
    terms: SessionTerms,
    /// The log's time of its last command, in milliseconds.
    used_ms: u64,
    /// The last command that took its turn.
    last: Sequence,
    /// The results of the commands up to `last` that the client has not yet said to have, in
    /// order. Kept as they are saved, so that saving them is copying.
    results: VecDeque<SavedResult>,
    /// It stands among those that hold no result.
    is_empty: bool,
    /// Where it stands in the queue by expiry: not after the time at which it can expire.
    queued_ms: u64,
}

/// Where it stands in the queue is no part of the state.
impl PartialEq for Session {
    fn eq(&self, other: &Session) -> bool {
        (&self.terms, self.used_ms, self.last, &self.results)
            == (&other.terms, other.used_ms, other.last, &other.results)
    }
}

impl Eq for Session {}

impl Session {
    /// The last moment of the log's time at which it lives, if it is not used again.
    fn expires_ms(&self) -> u64 {
        self.used_ms.saturating_add(u64::from(self.terms.timeout_ms))
    }

    fn has_expired(&self, now_ms: u64) -> bool {
        now_ms > self.expires_ms()
    }

    /// Lets go of what the client will not ask for again. Returns how many results.
    fn forget_before(&mut self, wanted: Sequence) -> u64 {
        let oldest = self.last.0 + 1 - self.results.len() as u64;
        let known = wanted.0.saturating_sub(oldest).min(self.results.len() as u64);
        self.results.drain(..known as usize);
        known
    }

    /// Whether the command is to be carried out. `has_room`: one more result may be held.
    fn judge(&self, terms: &AppendTerms, has_room: bool) -> Turn {
        let next = self.last.next();
        if terms.sequence > next {
            return Turn::Refused(AppendRefusal::OutOfOrder { expected: next });
        }
        if terms.sequence < next {
            if planted(Mutant::RepetitionAppended) {
                return Turn::Next;
            }
            return match self.result(terms.sequence) {
                Some(result) => Turn::Repeated(result),
                None => Turn::Refused(AppendRefusal::Forgotten),
            };
        }
        if self.results.len() >= self.terms.window as usize || !has_room {
            return Turn::Refused(AppendRefusal::WindowFull);
        }
        Turn::Next
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
const SAVED_SESSION_SIZE: usize = 52;

/// A result as numbers: kind, a small and a large one.
pub(super) fn numbers_of(result: &AppendResult) -> (u32, u32, u64) {
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
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    open: HashMap<SessionId, Session>,
    /// The sessions whose openings carried a nonce.
    by_nonce: HashMap<u128, SessionId>,
    /// Those that hold no result, the oldest first.
    empty: BTreeSet<SessionId>,
    /// Each session once, by a time before which it cannot expire.
    expiry: BTreeSet<(u64, SessionId)>,
    /// The last number given out.
    last: SessionId,
    /// The results that all of them hold.
    results: u64,
    limits: SessionLimits,
    pub counters: SessionCounters,
}

/// The state that replicas share: neither the queue, whose entries may be early, nor the counters.
impl PartialEq for Sessions {
    fn eq(&self, other: &Sessions) -> bool {
        (self.last, &self.open) == (other.last, &other.open)
    }
}

impl Eq for Sessions {}

impl Sessions {
    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The results that they hold.
    pub fn results(&self) -> u64 {
        self.results
    }

    /// Sets the bounds: the same on every replica, before anything is applied.
    pub fn set_limits(&mut self, limits: SessionLimits) {
        self.limits = limits;
    }

    /// Ends the sessions that have expired. To be called when the log's time has gone on, before the
    /// slot's commands.
    pub fn sweep(&mut self, now_ms: u64) {
        while let Some((at, id)) = self.expiry.first().copied().filter(|(at, _)| *at < now_ms) {
            self.expiry.remove(&(at, id));
            let session = self.open.get_mut(&id).expect("who stands in the queue is open");
            let expires_ms = session.expires_ms();
            // Once more at the next sweep, where the planted bug keeps it.
            session.queued_ms = expires_ms.max(now_ms);
            self.expiry.insert((session.queued_ms, id));
            if expires_ms < now_ms && !planted(Mutant::SessionNeverExpires) {
                self.remove(id);
                self.counters.expired += 1;
            }
        }
    }

    /// Opens a session, or finds the one of the same nonce; `None` when the table is full of sessions
    /// that hold results.
    pub fn open(&mut self, terms: SessionTerms, now_ms: u64) -> Option<SessionId> {
        let standing = self.by_nonce.get(&terms.nonce).copied();
        if let Some(id) = standing.filter(|_| !planted(Mutant::SecondSessionOfNonce)) {
            let session = self.open.get_mut(&id).expect("a nonce stands for an open session");
            session.used_ms = now_ms;
            self.counters.found += 1;
            return Some(id);
        }
        if !self.make_room() {
            self.counters.refused += 1;
            return None;
        }
        self.last = SessionId(self.last.0 + 1);
        let (last, results) = (Sequence(0), VecDeque::new());
        let session =
            Session { terms, used_ms: now_ms, last, results, is_empty: true, queued_ms: 0 };
        self.insert(self.last, session);
        self.counters.opened += 1;
        Some(self.last)
    }

    fn insert(&mut self, id: SessionId, mut session: Session) {
        if session.terms.nonce != 0 {
            self.by_nonce.insert(session.terms.nonce, id);
        }
        if session.is_empty {
            self.empty.insert(id);
        }
        session.queued_ms = session.expires_ms();
        self.expiry.insert((session.queued_ms, id));
        self.results += session.results.len() as u64;
        self.open.insert(id, session);
    }

    /// Whether another session may be opened; ends one without results if it must.
    fn make_room(&mut self) -> bool {
        if self.results >= self.limits.results_opening_max() {
            return false;
        }
        if self.open.len() < self.limits.sessions_max {
            return true;
        }
        let mut oldest = self.empty.first().copied();
        if oldest.is_none() && planted(Mutant::SessionWithResultsEvicted) {
            oldest = self.open.keys().min().copied();
        }
        oldest.is_some_and(|oldest| {
            self.counters.evicted += 1;
            self.remove(oldest)
        })
    }

    /// Ends a session; whether there was one.
    pub fn close(&mut self, session: SessionId) -> bool {
        self.remove(session)
    }

    fn remove(&mut self, id: SessionId) -> bool {
        let Some(session) = self.open.remove(&id) else { return false };
        if self.by_nonce.get(&session.terms.nonce) == Some(&id) {
            self.by_nonce.remove(&session.terms.nonce);
        }
        if session.is_empty {
            self.empty.remove(&id);
        }
        self.expiry.remove(&(session.queued_ms, id));
        self.results -= session.results.len() as u64;
        true
    }

    /// Drops every session: what a replica would do that kept them outside its state.
    pub fn forget_all(&mut self) {
        let (last, limits) = (self.last, self.limits);
        *self = Sessions { last, limits, ..Sessions::default() };
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
            out.put_u128(session.terms.nonce);
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
            let (timeout_ms, window, nonce) = (from.u32()?, from.u32()?, from.u128()?);
            let terms = SessionTerms { timeout_ms, window, nonce };
            let used_ms = from.counter("the time of a session's last command")?;
            let last = Sequence(from.counter("a session's last sequence")?);
            let results = from.u32()?;
            if terms.fault().is_some() || sessions.by_nonce.contains_key(&nonce) {
                return wrong("a session could not have been opened so");
            }
            if results > terms.window || u64::from(results) > last.0 {
                return wrong("a session remembers more than it may");
            }
            let results = from.bytes(results as usize * SAVED_RESULT_SIZE)?;
            let results: VecDeque<SavedResult> = results.as_chunks().0.iter().copied().collect();
            results.iter().try_for_each(check_result)?;
            let is_empty = results.is_empty();
            let session = Session { terms, used_ms, last, results, is_empty, queued_ms: 0 };
            sessions.insert(id, session);
            if sessions.results > RESULTS_MAX {
                return wrong("its sessions hold more results than they may");
            }
        }
        Ok(sessions)
    }

    /// Whether the command is to be carried out.
    pub fn turn(&mut self, terms: &AppendTerms, now_ms: u64) -> Turn {
        let expired = Turn::Refused(AppendRefusal::SessionExpired);
        let Some(session) = self.open.get_mut(&terms.session) else { return expired };
        if session.has_expired(now_ms) && !planted(Mutant::SessionNeverExpires) {
            // Swept when the slot's time came; a guard, should that ever change.
            self.remove(terms.session);
            return expired;
        }
        session.used_ms = now_ms;
        self.results -= session.forget_before(terms.wanted_from());
        let turn = session.judge(terms, self.results < self.limits.results_max);
        if turn != Turn::Next && session.results.is_empty() && !session.is_empty {
            session.is_empty = true;
            self.empty.insert(terms.session);
        }
        match turn {
            Turn::Repeated(_) => self.counters.repeated += 1,
            Turn::Refused(AppendRefusal::Forgotten) => self.counters.forgotten += 1,
            _ => {}
        }
        turn
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
        self.results += 1;
        if std::mem::take(&mut session.is_empty) {
            self.empty.remove(&terms.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Position;

    const TERMS: SessionTerms = SessionTerms { timeout_ms: 1000, window: 4, nonce: 0 };

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
        assert_eq!((sessions.count(), sessions.results()), (0, 0));
    }

    fn limited(sessions_max: usize, results_max: u64) -> Sessions {
        let mut sessions = Sessions::default();
        sessions.set_limits(SessionLimits { sessions_max, results_max });
        sessions
    }

    /// Carries out the next command of a session, which then holds its result.
    fn append(sessions: &mut Sessions, id: SessionId, sequence: u64, now_ms: u64) {
        let terms = terms(id, sequence, 10);
        assert_eq!(sessions.turn(&terms, now_ms), Turn::Next);
        sessions.remember(&terms, placed(sequence));
    }

    #[test]
    fn wide_windows_take_no_room_before_they_hold_results() {
        let wide = SessionTerms { timeout_ms: 1000, window: 16 * 1024, nonce: 0 };
        let mut sessions = Sessions::default();
        for _ in 0..SESSIONS_MAX {
            assert!(sessions.open(wide, 0).is_some());
        }
        assert_eq!(sessions.counters.evicted, 0);
        // A hundred thousand more, one after another, of clients that never came to append.
        for _ in 0..100_000 {
            assert!(sessions.open(wide, 500).is_some());
        }
        assert_eq!((sessions.count(), sessions.counters.evicted), (SESSIONS_MAX, 100_000));
        sessions.sweep(1501);
        assert_eq!((sessions.count(), sessions.expiry.len(), sessions.empty.len()), (0, 0, 0));
    }

    #[test]
    fn a_session_with_a_result_is_never_ended_for_another() {
        let mut sessions = limited(3, 100);
        let held: Vec<SessionId> = (0..3).map(|_| sessions.open(TERMS, 0).unwrap()).collect();
        append(&mut sessions, held[0], 1, 0);
        append(&mut sessions, held[1], 1, 0);
        // The third holds nothing: it makes room.
        let fourth = sessions.open(TERMS, 1).unwrap();
        let gone = Turn::Refused(AppendRefusal::SessionExpired);
        assert_eq!(sessions.turn(&terms(held[2], 1, 0), 1), gone);
        append(&mut sessions, fourth, 1, 1);
        assert_eq!(sessions.open(TERMS, 1000), None, "all of them hold results");
        assert_eq!(sessions.counters.refused, 1);
        for id in [held[0], held[1], fourth] {
            let repeated = Turn::Repeated(placed(1));
            assert_eq!(sessions.turn(&terms(id, 1, 0), 1), repeated);
        }
        // Its client has the result, and says so: then it holds none.
        let ahead = terms(held[1], 3, 1);
        assert!(matches!(sessions.turn(&ahead, 1), Turn::Refused(_)));
        assert!(sessions.open(TERMS, 1).is_some());
        assert_eq!(sessions.turn(&terms(held[1], 2, 0), 1), gone);
        sessions.sweep(1002);
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn results_held_bound_openings_first_and_appends_at_last() {
        let mut sessions = limited(10, 8);
        let id = sessions.open(SessionTerms { window: 100, ..TERMS }, 0).unwrap();
        (1..=6).for_each(|sequence| append(&mut sessions, id, sequence, 0));
        assert_eq!(sessions.open(TERMS, 0), None);
        (7..=8).for_each(|sequence| append(&mut sessions, id, sequence, 0));
        let full = Turn::Refused(AppendRefusal::WindowFull);
        assert_eq!(sessions.turn(&terms(id, 9, 8), 0), full);
        // The client has some: the command behind them is taken.
        assert_eq!(sessions.turn(&terms(id, 9, 5), 0), Turn::Next);
        sessions.remember(&terms(id, 9, 5), placed(9));
        assert_eq!(sessions.results(), 6);
    }

    #[test]
    fn one_nonce_is_one_session_while_that_lives() {
        let mut sessions = Sessions::default();
        let asked = SessionTerms { nonce: 77, ..TERMS };
        let id = sessions.open(asked, 0).unwrap();
        assert_eq!(sessions.open(asked, 900), Some(id));
        append(&mut sessions, id, 1, 1900);
        assert_eq!(sessions.open(asked, 1900), Some(id), "the second opening was a use");
        assert_ne!(sessions.open(SessionTerms { nonce: 78, ..TERMS }, 1900), Some(id));
        assert_ne!(sessions.open(TERMS, 1900), sessions.open(TERMS, 1900), "0 is no nonce");
        assert!(sessions.close(id));
        let another = sessions.open(asked, 1900).unwrap();
        assert_ne!(another, id);
        sessions.sweep(2901);
        assert_ne!(sessions.open(asked, 2901), Some(another));
    }

    #[test]
    fn a_sweep_ends_exactly_those_that_have_expired() {
        let mut sessions = Sessions::default();
        let short = sessions.open(TERMS, 0).unwrap();
        let long = sessions.open(SessionTerms { timeout_ms: 5000, ..TERMS }, 0).unwrap();
        let used = sessions.open(TERMS, 0).unwrap();
        append(&mut sessions, used, 1, 800);
        sessions.sweep(1000);
        assert_eq!(sessions.count(), 3, "each lives at the last moment of its time");
        sessions.sweep(1001);
        assert!(!sessions.open.contains_key(&short) && sessions.open.contains_key(&used));
        sessions.sweep(1800);
        assert!(sessions.open.contains_key(&used));
        sessions.sweep(1801);
        assert_eq!(sessions.open.keys().copied().collect::<Vec<_>>(), [long]);
        assert_eq!((sessions.counters.expired, sessions.expiry.len()), (2, 1));
    }
}
