//! A connection's session (`bench --sessions`): which number its next append carries, and when a
//! new session is needed.
//!
//! Used by `link`. A session takes its numbers without a gap, and an append that ends any other way
//! than with a position leaves one. The load generator never sends a number twice, so it leaves
//! the whole session then: what is in flight in it comes back as out of order, without effect, and
//! goes into the new session with numbers of its own. Allocates nothing.

use super::clock::Nanos;
use super::workload::Workload;
use crate::base::limits::SESSION_WINDOW_MAX;
use crate::base::{AppendTerms, Sequence, SessionId, SessionTerms};

/// How long a session lives without an append, in milliseconds: much longer than any pause of a
/// load, and short enough that those left behind do not fill a cluster's table.
const TIMEOUT_MS: u32 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The load uses none.
    Off,
    Wanted,
    Opening {
        since: Nanos,
    },
    Open(SessionId),
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Numbering {
    state: State,
    /// The number of the next append.
    next: Sequence,
    /// The most appends in flight, and so unanswered.
    inflight: u64,
    window: u32,
    /// The session that was left last, and not yet closed.
    left: Option<SessionId>,
}

impl Numbering {
    /// For one connection of `workload`.
    pub fn new(workload: &Workload) -> Numbering {
        let window = (2 * workload.inflight).min(SESSION_WINDOW_MAX);
        // The server keeps what is unanswered, and the window has room for one more.
        let inflight = workload.inflight.min(window - 1).max(1);
        Numbering {
            state: if workload.sessions { State::Wanted } else { State::Off },
            next: Sequence(1),
            inflight: inflight as u64,
            window: window as u32,
            left: None,
        }
    }

    /// Whether an append may be sent.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Off | State::Open(_))
    }

    /// Whether a session is to be opened now.
    pub fn is_wanted(&self) -> bool {
        self.state == State::Wanted
    }

    /// When the session was asked for that has not come yet.
    pub fn opening_since(&self) -> Option<Nanos> {
        match self.state {
            State::Opening { since } => Some(since),
            _ => None,
        }
    }

    /// What to ask for.
    pub fn session_terms(&self) -> SessionTerms {
        // A link that asks again after it lost an answer asks for another session: it leaves the
        // one before to its time-out, which a bench of some minutes does not see.
        SessionTerms { timeout_ms: TIMEOUT_MS, window: self.window, nonce: 0 }
    }

    /// The session that was left, to be closed; told once.
    pub fn take_left(&mut self) -> Option<SessionId> {
        self.left.take()
    }

    /// A session has been asked for.
    pub fn asked(&mut self, now: Nanos) {
        self.state = State::Opening { since: now };
    }

    /// It has come.
    pub fn opened(&mut self, session: SessionId) {
        self.state = State::Open(session);
        self.next = Sequence(1);
    }

    /// It will not come.
    pub fn refused(&mut self) {
        self.state = State::Wanted;
    }

    /// The terms of the next append.
    ///
    /// # Panics
    /// When no append may be sent.
    pub fn next_terms(&mut self) -> AppendTerms {
        let session = match self.state {
            State::Off => return AppendTerms::default(),
            State::Open(session) => session,
            _ => panic!("an append is sent where a session is open"),
        };
        let sequence = self.next;
        self.next = sequence.next();
        let unanswered = (sequence.0 - 1).min(self.inflight) as u16;
        AppendTerms { session, sequence, unanswered, ..AppendTerms::default() }
    }

    /// An append of `session` has ended without a position: its number is missing there.
    pub fn has_gap(&mut self, session: SessionId) {
        if self.state == State::Open(session) {
            self.leave();
        }
    }

    /// The connection is another one: the session may have a gap, or it never came.
    pub fn reconnected(&mut self) {
        if self.state != State::Off {
            self.leave();
        }
    }

    fn leave(&mut self) {
        if let State::Open(session) = self.state {
            self.left = Some(session);
        }
        self.state = State::Wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbering(inflight: usize) -> Numbering {
        Numbering::new(&Workload { sessions: true, inflight, ..Workload::default() })
    }

    #[test]
    fn numbers_go_on_until_there_is_a_gap_and_then_start_anew() {
        let mut numbering = numbering(2);
        assert!(numbering.is_wanted() && !numbering.is_ready());
        assert_eq!(numbering.session_terms().window, 4);
        numbering.asked(Nanos(5));
        assert_eq!(numbering.opening_since(), Some(Nanos(5)));
        numbering.opened(SessionId(7));
        let sent: Vec<(u64, u16)> = (0..4)
            .map(|_| numbering.next_terms())
            .map(|terms| (terms.sequence.0, terms.unanswered))
            .collect();
        assert_eq!(sent, [(1, 0), (2, 1), (3, 2), (4, 2)]);
        numbering.has_gap(SessionId(6));
        assert!(numbering.is_ready(), "that was another session");
        numbering.has_gap(SessionId(7));
        assert!(numbering.is_wanted());
        assert_eq!((numbering.take_left(), numbering.take_left()), (Some(SessionId(7)), None));
        numbering.opened(SessionId(8));
        assert_eq!(numbering.next_terms().sequence, Sequence(1));
        numbering.reconnected();
        assert!(numbering.is_wanted());
    }

    #[test]
    fn the_terms_are_ones_that_a_server_grants_whatever_is_in_flight() {
        for inflight in [1, 2, SESSION_WINDOW_MAX, 64 * 1024] {
            let mut numbering = numbering(inflight);
            let terms = numbering.session_terms();
            assert_eq!(terms.fault(), None);
            numbering.opened(SessionId(1));
            numbering.next = Sequence(1 << 20);
            assert!(u32::from(numbering.next_terms().unanswered) < terms.window);
        }
    }

    #[test]
    fn without_sessions_appends_carry_none() {
        let mut numbering = Numbering::new(&Workload::default());
        numbering.reconnected();
        numbering.has_gap(SessionId::NONE);
        assert!(numbering.is_ready());
        assert_eq!(numbering.next_terms(), AppendTerms::default());
    }
}
