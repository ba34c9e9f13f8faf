//! A client's appends on their way: numbered in one session, sent in order, sent again until they
//! are answered, and each of them in the log once.
//!
//! Pure: no socket, no clock. The async [`super::Client`] and the simulator's clients drive it:
//! [`AppendQueue::next_to_send`] says what to send, [`AppendQueue::on_answer`] takes what came back. How
//! it keeps the promise:
//! - An append keeps its (session, sequence) over every try, and the machine carries out each
//!   number once; a try that went unanswered is made again, and gets the first one's answer.
//! - Numbers are sent without gaps. When a try is refused without effect, everything from it on is
//!   sent again, in order ([`Verdict::Again`]).
//! - A number that will never be an append (over a limit, or its caller has given up) is used up
//!   by a *void*, an append of no records. Its answer tells for certain what became of the number.
//! - When the session has expired, what was sent once and refused for it moves to a new session;
//!   what was sent before that, and went unanswered, is unknown.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::{AppendTerms, FenceToken, LogId, Position, Sequence, SessionId, SessionTerms};
use crate::wire::{ErrorCode, Response};

use super::error::AppendError;

/// An append as its caller wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendAsk {
    /// The log.
    pub log: LogId,
    /// Only if the tail is here.
    pub if_tail: Option<Position>,
    /// Only if the log has taken no higher token.
    pub fence: Option<FenceToken>,
    /// Records in `run`.
    pub records: u32,
    /// The records (`base::records`).
    pub run: Bytes,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub enum ToSend {
    /// Open a session; hand the answer to [`AppendQueue::on_session`].
    OpenSession(SessionTerms),
    /// Send an append; hand the answer to [`AppendQueue::on_answer`].
    Append {
        /// The log.
        log: LogId,
        /// Its number and its conditions.
        terms: AppendTerms,
        /// Records in `run`.
        records: u32,
        /// The records; shared, not copied.
        run: Bytes,
    },
}

/// What came back for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendReply<'a> {
    /// [`Response::Appended`].
    Appended {
        /// The position of its first record.
        first: Position,
        /// How many records.
        records: u32,
    },
    /// [`Response::Failed`].
    Failed {
        /// Why, for programs.
        code: ErrorCode,
        /// What the code says that it is.
        detail: u64,
        /// Why, for people.
        text: &'a str,
    },
}

impl<'a> AppendReply<'a> {
    /// `None`: the response is none to an append.
    pub fn of(response: &Response<'a>) -> Option<AppendReply<'a>> {
        match *response {
            Response::Appended { first, records, .. } => {
                Some(AppendReply::Appended { first, records })
            }
            Response::Failed { error, detail, text, .. } => {
                Some(AppendReply::Failed { code: error, detail, text })
            }
            _ => None,
        }
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// An append has ended.
    Done {
        /// What was handed in with it; `None` when its caller has given up.
        tag: Option<T>,
        /// Where its first record stands, or why it has none.
        result: Result<Position, AppendError>,
    },
    /// It had no effect now and will be sent again: after a pause, call
    /// [`AppendQueue::rewind`]; at another node, if the code says so.
    Again(ErrorCode),
    /// It belongs to nothing any more.
    Ignored,
}

#[derive(Debug)]
enum Session {
    None,
    Opening,
    Open(SessionId),
    /// It has expired; what is in flight comes back first.
    Ended,
}

#[derive(Debug)]
struct Entry<T> {
    sequence: Sequence,
    /// `None`: the caller has given up.
    tag: Option<T>,
    ask: AppendAsk,
    /// Why it is a void now.
    void: Option<AppendError>,
    /// Tries of which no answer says that they had no effect, those in flight included.
    open_tries: u32,
    inflight: u32,
    /// It has left once, under this number.
    sent: bool,
    answered: bool,
}

/// The appends of one client that are not answered yet, in order.
#[derive(Debug)]
pub struct AppendQueue<T> {
    terms: SessionTerms,
    /// The nonce of the next session that is opened: the same until one of them is open.
    nonce: u128,
    session: Session,
    next_sequence: Sequence,
    entries: VecDeque<Entry<T>>,
    /// The entries before this index have been sent on this connection, and in order.
    cursor: usize,
    /// Nothing more is sent before the queue is rewound.
    halted: bool,
}

impl<T> AppendQueue<T> {
    /// An empty queue that opens its session when there is something to send. At most
    /// `terms.window` appends are on their way. The nonces of its sessions count up from that of
    /// `terms`, which its caller draws at random, so that no two clients come to the same; 0: they
    /// have none.
    pub fn new(terms: SessionTerms) -> AppendQueue<T> {
        AppendQueue {
            terms,
            nonce: terms.nonce,
            session: Session::None,
            next_sequence: Sequence(1),
            entries: VecDeque::new(),
            cursor: 0,
            halted: false,
        }
    }

    /// The session, while one is open.
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            Session::Open(session) => Some(session),
            _ => None,
        }
    }

    /// Appends that are not answered.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another append would be taken.
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.terms.window as usize
    }

    /// Takes an append; it has the next number of the session.
    ///
    /// # Panics
    /// When there is no room: callers ask [`AppendQueue::has_room`].
    pub fn push(&mut self, tag: T, ask: AppendAsk) {
        assert!(self.has_room(), "the session's window is kept");
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        self.entries.push_back(Entry {
            sequence,
            tag: Some(tag),
            ask,
            void: None,
            open_tries: 0,
            inflight: 0,
            sent: false,
            answered: false,
        });
    }

    /// Whether [`AppendQueue::next_to_send`] would say something.
    pub fn has_to_send(&self) -> bool {
        match self.session {
            Session::None => !self.entries.is_empty() && !self.halted,
            Session::Open(_) if !self.halted => {
                self.entries.iter().skip(self.cursor).any(|entry| !entry.answered)
            }
            _ => false,
        }
    }

    /// What to send next, if anything. It counts as sent from here on.
    pub fn next_to_send(&mut self) -> Option<ToSend> {
        match self.session {
            Session::None if !self.entries.is_empty() && !self.halted => {
                self.session = Session::Opening;
                Some(ToSend::OpenSession(SessionTerms { nonce: self.nonce, ..self.terms }))
            }
            Session::Open(session) if !self.halted => self.next_append(session),
            _ => None,
        }
    }

    fn next_append(&mut self, session: SessionId) -> Option<ToSend> {
        let oldest = self.entries.front()?.sequence;
        while self.entries.get(self.cursor)?.answered {
            self.cursor += 1;
        }
        let entry = &mut self.entries[self.cursor];
        self.cursor += 1;
        entry.inflight += 1;
        entry.open_tries += 1;
        entry.sent = true;
        let unanswered = u16::try_from(entry.sequence.0 - oldest.0).expect("within the window");
        let AppendAsk { log, if_tail, fence, records, ref run } = entry.ask;
        let terms = AppendTerms { session, sequence: entry.sequence, unanswered, if_tail, fence };
        Some(ToSend::Append { log, terms, records, run: run.clone() })
    }

    /// The session is open, or cannot be opened for now (then rewind and try again).
    pub fn on_session(&mut self, opened: Option<SessionId>) {
        assert!(matches!(self.session, Session::Opening), "asked for before");
        match opened {
            Some(session) => {
                self.session = Session::Open(session);
                // A session that has ended is not found again under its nonce.
                self.nonce = match self.terms.nonce {
                    0 => 0,
                    _ => self.nonce.wrapping_add(1).max(1),
                };
            }
            None => {
                self.session = Session::None;
                self.halted = true;
            }
        }
    }

    /// Everything that is not answered will be sent again, in order.
    pub fn rewind(&mut self) {
        self.cursor = 0;
        self.halted = false;
    }

    /// The connection is gone, with everything in flight on it. What is not answered will be sent
    /// again on the next one.
    pub fn on_connection_lost(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.inflight = 0);
        if matches!(self.session, Session::Opening) {
            // The session may be there all the same: the next opening, of the same nonce, finds it.
            self.session = Session::None;
        }
        self.leave_ended_session();
        self.rewind();
    }

    fn position_of(&self, sequence: Sequence) -> Option<usize> {
        let first = self.entries.front()?.sequence;
        let at = usize::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        (at < self.entries.len()).then_some(at)
    }

    /// The answer to the append with this number of `session`.
    pub fn on_answer(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        reply: AppendReply<'_>,
    ) -> Verdict<T> {
        if self.session() != Some(session) && !matches!(self.session, Session::Ended) {
            return Verdict::Ignored;
        }
        let Some(at) = self.position_of(sequence).filter(|at| !self.entries[*at].answered) else {
            return Verdict::Ignored;
        };
        let entry = &mut self.entries[at];
        entry.inflight = entry.inflight.saturating_sub(1);
        let (code, detail, text) = match reply {
            AppendReply::Appended { first, records } => {
                let result = match entry.void.take() {
                    // The void itself took the turn: the append never will.
                    Some(why) if records == 0 => Err(why),
                    _ => Ok(first),
                };
                let verdict = self.end(at, result);
                self.leave_ended_session();
                return verdict;
            }
            AppendReply::Failed { code, detail, text } => (code, detail, text),
        };
        let verdict = self.on_failure(at, code, detail, text);
        self.leave_ended_session();
        verdict
    }

    fn on_failure(&mut self, at: usize, code: ErrorCode, detail: u64, text: &str) -> Verdict<T> {
        let entry = &mut self.entries[at];
        if code.append_had_no_effect() {
            entry.open_tries = entry.open_tries.saturating_sub(1);
        }
        match code {
            // The machine has given the number its turn.
            ErrorCode::TailMoved => {
                self.end_refused(at, AppendError::TailMoved { tail: Position(detail) })
            }
            ErrorCode::Fenced => {
                self.end_refused(at, AppendError::Fenced { token: FenceToken(detail) })
            }
            ErrorCode::NoSuchLog => {
                self.end_refused(at, AppendError::Rejected { code, text: text.to_owned() })
            }
            ErrorCode::SessionExpired => self.on_expired(at, text),
            // Whoever asks in vain for what it has said to have, has lost count.
            ErrorCode::Forgotten => {
                self.end(at, Err(AppendError::OutcomeUnknown { why: text.to_owned() }))
            }
            ErrorCode::TooLarge | ErrorCode::BadRequest | ErrorCode::Unsupported => {
                if entry.void.is_some() {
                    // Not even a void is taken: the session cannot go on with this number.
                    let why = entry.void.take().expect("looked at above");
                    return self.end(at, Err(why));
                }
                let why = AppendError::Rejected { code, text: text.to_owned() };
                self.make_void(at, why);
                self.rewind();
                Verdict::Again(code)
            }
            // A later try is on its way already.
            _ if entry.inflight > 0 => Verdict::Ignored,
            _ => {
                self.halted = true;
                Verdict::Again(code)
            }
        }
    }

    /// Ends an append that the machine has refused; a void ends as what it stands for.
    fn end_refused(&mut self, at: usize, error: AppendError) -> Verdict<T> {
        let error = self.entries[at].void.take().unwrap_or(error);
        self.end(at, Err(error))
    }

    fn make_void(&mut self, at: usize, why: AppendError) {
        let entry = &mut self.entries[at];
        let AppendAsk { if_tail, fence, records, run, .. } = &mut entry.ask;
        (*if_tail, *fence, *records, *run) = (None, None, 0, Bytes::new());
        entry.void = Some(why);
    }

    /// The session is gone. Nothing more is sent in it; once all that is in flight has come back,
    /// the rest goes on in a new one.
    fn on_expired(&mut self, at: usize, text: &str) -> Verdict<T> {
        self.session = Session::Ended;
        let entry = &mut self.entries[at];
        if entry.open_tries > 0 {
            let why = format!("{text}, and an earlier try was not answered");
            self.end(at, Err(AppendError::OutcomeUnknown { why }))
        } else if let Some(why) = entry.void.take() {
            self.end(at, Err(why))
        } else {
            Verdict::Ignored
        }
    }

    fn leave_ended_session(&mut self) {
        let is_over = matches!(self.session, Session::Ended)
            && self.entries.iter().all(|entry| entry.inflight == 0 || entry.answered);
        if !is_over {
            return;
        }
        // What was sent and not answered stays in doubt: the caller is told by
        // [`AppendQueue::take_doubtful`]. Everything else gets a number of the new session.
        if self.entries.iter().any(|entry| entry.open_tries > 0 && !entry.answered) {
            return;
        }
        self.session = Session::None;
        self.entries.retain(|entry| !entry.answered);
        self.next_sequence = Sequence(1);
        for entry in &mut self.entries {
            entry.sequence = self.next_sequence;
            entry.sent = false;
            self.next_sequence = entry.sequence.next();
        }
        self.rewind();
    }

    /// Ends an append that was in flight when its session ended and its connection broke; to be
    /// called until it returns `None` after an answer or a lost connection.
    pub fn take_doubtful(&mut self) -> Option<(Option<T>, AppendError)> {
        if !matches!(self.session, Session::Ended) {
            return None;
        }
        let doubtful =
            |entry: &Entry<T>| entry.open_tries > 0 && entry.inflight == 0 && !entry.answered;
        let Some(at) = self.entries.iter().position(doubtful) else {
            self.leave_ended_session();
            return None;
        };
        let why = "the session has ended, and an earlier try was not answered".to_owned();
        match self.end(at, Err(AppendError::OutcomeUnknown { why })) {
            Verdict::Done { tag, result: Err(error) } => Some((tag, error)),
            _ => None,
        }
    }

    fn end(&mut self, at: usize, result: Result<Position, AppendError>) -> Verdict<T> {
        let entry = &mut self.entries[at];
        entry.answered = true;
        entry.ask.run = Bytes::new();
        let tag = entry.tag.take();
        while self.entries.front().is_some_and(|entry| entry.answered) {
            self.entries.pop_front();
            self.cursor = self.cursor.saturating_sub(1);
        }
        Verdict::Done { tag, result }
    }

    /// The oldest append whose caller still waits.
    pub fn oldest(&self) -> Option<&T> {
        self.entries.iter().find_map(|entry| entry.tag.as_ref())
    }

    /// The caller of the oldest append gives up. Returns its tag and what is to be said: that it
    /// had no effect if it never left, else that nobody knows; its number is then used up by a
    /// void, so that those behind it come to their turn.
    pub fn give_up_oldest(&mut self) -> Option<(T, bool)> {
        let at = self.entries.iter().position(|entry| entry.tag.is_some())?;
        let tag = self.entries[at].tag.take()?;
        let no_effect = self.entries[at].open_tries == 0;
        if self.entries.range(at..).any(|entry| entry.sent) {
            // Its number, or a later one, has been seen: it must be used up.
            if self.entries[at].void.is_none() {
                let why = "its caller has given up".to_owned();
                self.make_void(at, AppendError::OutcomeUnknown { why });
            }
            return Some((tag, no_effect));
        }
        // Neither it nor anything behind it has ever left: the numbers close up.
        self.entries.remove(at);
        for entry in self.entries.iter_mut().skip(at) {
            entry.sequence = Sequence(entry.sequence.0 - 1);
        }
        self.next_sequence = Sequence(self.next_sequence.0 - 1);
        Some((tag, no_effect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: SessionTerms = SessionTerms { timeout_ms: 10_000, window: 8, nonce: 0 };
    const S: SessionId = SessionId(7);

    fn ask(byte: u8) -> AppendAsk {
        let run = Bytes::copy_from_slice(&[byte]);
        AppendAsk { log: LogId(0), if_tail: None, fence: None, records: 1, run }
    }

    fn queue(count: u8) -> AppendQueue<u8> {
        let mut queue = AppendQueue::new(TERMS);
        (1..=count).for_each(|tag| queue.push(tag, ask(tag)));
        assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(TERMS)));
        assert_eq!(queue.next_to_send(), None, "first the session");
        queue.on_session(Some(S));
        queue
    }

    /// The numbers and first bytes of everything that is sent now.
    fn sent(queue: &mut AppendQueue<u8>) -> Vec<(u64, Option<u8>)> {
        std::iter::from_fn(|| match queue.next_to_send()? {
            ToSend::Append { terms, run, .. } => Some((terms.sequence.0, run.first().copied())),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    fn appended(first: u64, records: u32) -> AppendReply<'static> {
        AppendReply::Appended { first: Position(first), records }
    }

    fn failed(code: ErrorCode) -> AppendReply<'static> {
        AppendReply::Failed { code, detail: 3, text: "why" }
    }

    fn done(tag: u8, first: u64) -> Verdict<u8> {
        Verdict::Done { tag: Some(tag), result: Ok(Position(first)) }
    }

    #[test]
    fn answers_may_come_in_any_order_and_the_window_follows_the_oldest() {
        let mut queue = queue(3);
        assert_eq!(sent(&mut queue), [(1, Some(1)), (2, Some(2)), (3, Some(3))]);
        assert_eq!(queue.on_answer(S, Sequence(2), appended(5, 1)), done(2, 5));
        assert_eq!(queue.on_answer(S, Sequence(2), appended(5, 1)), Verdict::Ignored);
        assert_eq!(queue.count(), 3, "the oldest is not answered");
        queue.push(4, ask(4));
        let Some(ToSend::Append { terms, .. }) = queue.next_to_send() else { panic!() };
        assert_eq!((terms.sequence, terms.unanswered), (Sequence(4), 3));
        assert_eq!(queue.on_answer(S, Sequence(1), appended(4, 1)), done(1, 4));
        assert_eq!(queue.count(), 2);
        (0..6).for_each(|tag| queue.push(tag, ask(tag)));
        assert!(!queue.has_room());
    }

    #[test]
    fn what_is_refused_without_effect_and_all_behind_it_is_sent_again_in_order() {
        let mut queue = queue(3);
        sent(&mut queue);
        let again = Verdict::Again(ErrorCode::Overloaded);
        assert_eq!(queue.on_answer(S, Sequence(1), failed(ErrorCode::Overloaded)), again);
        assert_eq!(queue.next_to_send(), None, "not before a pause");
        let order = failed(ErrorCode::OutOfOrder);
        let again = Verdict::Again(ErrorCode::OutOfOrder);
        assert_eq!(queue.on_answer(S, Sequence(2), order), again);
        queue.rewind();
        assert_eq!(sent(&mut queue), [(1, Some(1)), (2, Some(2)), (3, Some(3))]);
        // The last answer of the first round: a later try is under way.
        assert_eq!(queue.on_answer(S, Sequence(3), order), Verdict::Ignored);
        for (tag, first) in [(1, 10), (2, 11), (3, 12)] {
            let answer = appended(first, 1);
            assert_eq!(queue.on_answer(S, Sequence(u64::from(tag)), answer), done(tag, first));
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn a_lost_connection_repeats_what_is_open_under_the_same_numbers() {
        let mut queue = queue(3);
        sent(&mut queue);
        assert_eq!(queue.on_answer(S, Sequence(2), appended(5, 1)), done(2, 5));
        queue.on_connection_lost();
        assert_eq!(queue.take_doubtful(), None, "the session makes it certain");
        assert_eq!(sent(&mut queue), [(1, Some(1)), (3, Some(3))]);
        assert_eq!(queue.on_answer(S, Sequence(1), appended(4, 1)), done(1, 4));
        let unknown = Verdict::Again(ErrorCode::OutcomeUnknown);
        assert_eq!(queue.on_answer(S, Sequence(3), failed(ErrorCode::OutcomeUnknown)), unknown);
        queue.rewind();
        assert_eq!(sent(&mut queue), [(3, Some(3))]);
    }

    #[test]
    fn a_number_that_is_given_up_is_used_up_by_a_void_that_tells_what_became_of_it() {
        let mut queue = queue(3);
        sent(&mut queue);
        assert_eq!(queue.give_up_oldest(), Some((1, false)), "nobody knows");
        queue.on_connection_lost();
        assert_eq!(sent(&mut queue), [(1, None), (2, Some(2)), (3, Some(3))]);
        let late = Verdict::Done { tag: None, result: Ok(Position(4)) };
        assert_eq!(queue.on_answer(S, Sequence(1), appended(4, 1)), late);
        // Over a limit: the caller hears of it once the void has come to its turn.
        let again = Verdict::Again(ErrorCode::TooLarge);
        assert_eq!(queue.on_answer(S, Sequence(2), failed(ErrorCode::TooLarge)), again);
        assert_eq!(sent(&mut queue), [(2, None), (3, Some(3))]);
        let Verdict::Done { tag: Some(2), result: Err(AppendError::Rejected { code, .. }) } =
            queue.on_answer(S, Sequence(2), appended(9, 0))
        else {
            panic!("a void's answer ends its append");
        };
        assert_eq!(code, ErrorCode::TooLarge);
    }

    #[test]
    fn an_opening_is_asked_for_again_under_its_nonce_and_the_next_session_under_another() {
        let terms = SessionTerms { nonce: 40, ..TERMS };
        let mut queue = AppendQueue::new(terms);
        queue.push(1, ask(1));
        for _ in 0..3 {
            assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(terms)));
            queue.on_connection_lost();
        }
        assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(terms)));
        queue.on_session(Some(S));
        sent(&mut queue);
        queue.on_answer(S, Sequence(1), failed(ErrorCode::SessionExpired));
        let next = SessionTerms { nonce: 41, ..TERMS };
        assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(next)));
    }

    #[test]
    fn what_never_left_is_given_up_without_a_trace() {
        let mut queue = AppendQueue::new(TERMS);
        (1..=3).for_each(|tag| queue.push(tag, ask(tag)));
        assert_eq!(queue.oldest(), Some(&1));
        assert_eq!(queue.give_up_oldest(), Some((1, true)));
        assert!(queue.next_to_send().is_some());
        queue.on_session(Some(S));
        assert_eq!(sent(&mut queue), [(1, Some(2)), (2, Some(3))]);
        // Refused without effect, but a later number has left: this one must be used up.
        queue.on_answer(S, Sequence(1), failed(ErrorCode::Overloaded));
        assert_eq!(queue.give_up_oldest(), Some((2, true)));
        queue.rewind();
        assert_eq!(sent(&mut queue), [(1, None), (2, Some(3))]);
    }

    #[test]
    fn an_expired_session_is_left_with_what_is_certain_and_the_rest_is_unknown() {
        let mut queue = queue(2);
        sent(&mut queue);
        queue.on_connection_lost();
        queue.push(3, ask(3));
        assert_eq!(sent(&mut queue), [(1, Some(1)), (2, Some(2)), (3, Some(3))]);
        let expired = failed(ErrorCode::SessionExpired);
        for (sequence, tag) in [(1, 1), (2, 2)] {
            let Verdict::Done { tag: found, result: Err(error) } =
                queue.on_answer(S, Sequence(sequence), expired)
            else {
                panic!("it was sent before, and not answered")
            };
            assert_eq!((found, error.had_no_effect()), (Some(tag), false));
            assert_eq!(queue.next_to_send(), None, "until all is back");
        }
        assert_eq!(queue.on_answer(S, Sequence(3), expired), Verdict::Ignored);
        assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(TERMS)));
        queue.on_session(Some(SessionId(8)));
        assert_eq!(sent(&mut queue), [(1, Some(3))], "sent once, and certainly without effect");
        assert_eq!(queue.on_answer(S, Sequence(1), appended(1, 1)), Verdict::Ignored);
    }

    #[test]
    fn what_was_in_flight_when_both_session_and_connection_ended_is_in_doubt() {
        let mut queue = queue(3);
        sent(&mut queue);
        let expired = failed(ErrorCode::SessionExpired);
        assert_eq!(queue.on_answer(S, Sequence(1), expired), Verdict::Ignored);
        queue.on_connection_lost();
        let doubtful: Vec<_> = std::iter::from_fn(|| queue.take_doubtful())
            .map(|(tag, error)| (tag, error.had_no_effect()))
            .collect();
        assert_eq!(doubtful, [(Some(2), false), (Some(3), false)]);
        assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(TERMS)));
        queue.on_session(None);
        assert_eq!(queue.next_to_send(), None, "not before a pause");
        queue.rewind();
        assert_eq!(queue.next_to_send(), Some(ToSend::OpenSession(TERMS)));
        queue.on_session(Some(SessionId(8)));
        assert_eq!(sent(&mut queue), [(1, Some(1))]);
    }
}
