//! The state that chosen slots build up: the logs, the sessions, and which slot was applied last.
//!
//! Called by `node/` for every chosen slot, in slot order, while it serves and when it replays
//! its log at start. The outcome of a command depends on the slots before it and on nothing else;
//! conditions, fences and repetitions are judged here and nowhere else.

use std::collections::VecDeque;

use super::batch::{BatchError, BatchView, Command, CommandKind};
use super::hash::{StateHash, StateMark};
use super::logs::Logs;
use super::saved::{DecodeError, Reader, Writer};
use super::sessions::{AppendResult, SessionCounters, SessionLimits, Sessions, Turn, numbers_of};
use crate::base::mutants::{Mutant, planted};
use crate::base::{
    Checksum, FenceToken, LogId, LogTerms, Placement, Position, Sequence, SessionId, SessionTerms,
    Slot,
};

/// Where an append's records stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The position of the first record; the log's tail when there are none.
    pub first: Position,
    /// How many records.
    pub records: u32,
}

/// Why an append was applied without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendRefusal {
    /// There is no such log.
    NoSuchLog(LogId),
    /// The tail is not where the append wants it.
    TailMoved {
        /// Where it is.
        tail: Position,
    },
    /// The log has taken a higher token.
    Fenced {
        /// That token.
        token: FenceToken,
    },
    /// A record is over the log's limit, in bytes.
    RecordTooLarge {
        /// The limit.
        limit: u32,
    },
    /// The session has ended, or never was.
    SessionExpired,
    /// Commands before this one are missing.
    OutOfOrder {
        /// The one that comes next.
        expected: Sequence,
    },
    /// The client has said that it has the result.
    Forgotten,
    /// The client keeps more unanswered than its window.
    WindowFull,
}

/// What a command came to. One per command, in the batch's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An append, now or, if it is a repetition, when it was applied first.
    Appended(Placed),
    /// An append had no effect, or, if it is a repetition, had none when it was applied first.
    Refused(AppendRefusal),
    /// A session is open.
    SessionOpened(SessionId),
    /// The table of sessions is full of sessions that live, or the terms are wild.
    SessionRefused,
    /// The session has ended; there may have been none.
    SessionClosed,
    /// There is a log of that name now.
    LogCreated {
        /// Its number.
        log: LogId,
        /// Whether it is this command's work.
        created: bool,
    },
    /// There are too many logs, or the terms are wild.
    LogRefused,
    /// The log is gone.
    LogDeleted(LogId),
    /// There is no such log to delete.
    NoLogDeleted(LogId),
    /// The cluster is founded.
    Founded,
}

impl Outcome {
    /// The outcome as numbers, another pair for each.
    pub(super) fn numbers(&self) -> [u64; 2] {
        let of_append = |result: AppendResult| {
            let (kind, small, large) = numbers_of(&result);
            [u64::from(kind) << 32 | u64::from(small), large]
        };
        let other = |kind: u64, number: u64| [(100 + kind) << 32, number];
        match *self {
            Outcome::Appended(placed) => of_append(Ok(placed)),
            Outcome::Refused(refusal) => of_append(Err(refusal)),
            Outcome::SessionOpened(session) => other(0, session.0),
            Outcome::SessionRefused => other(1, 0),
            Outcome::SessionClosed => other(2, 0),
            Outcome::LogCreated { log, created } => {
                other(3, u64::from(log.0) << 1 | u64::from(created))
            }
            Outcome::LogRefused => other(4, 0),
            Outcome::LogDeleted(log) => other(5, u64::from(log.0)),
            Outcome::NoLogDeleted(log) => other(6, u64::from(log.0)),
            Outcome::Founded => other(7, 0),
        }
    }
}

/// The machine of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    applied: Slot,
    /// Records appended to all logs.
    records: u64,
    time_ms: u64,
    hash: StateHash,
    logs: Logs,
    sessions: Sessions,
}

impl Machine {
    /// The state before the first slot.
    pub fn new() -> Machine {
        Machine::default()
    }

    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// The log's time: milliseconds for which the group has had a leader, as far as the batches
    /// tell. It never goes back, and stands still while nobody leads.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Records appended to all logs together, deleted ones included.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The next position to be given out in the log `default`.
    pub fn tail(&self) -> Position {
        self.logs.tail(LogId(0)).expect("the log `default` is always there")
    }

    /// The logs.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Takes the slot that was applied last into the hash of the state: the checksum of its value, and
    /// its outcomes. A mark is taken at each multiple of `mark_every`, which is the same on every replica.
    /// Returns the mark, if one was taken.
    pub fn hash_applied(
        &mut self,
        value: Checksum,
        outcomes: &[Outcome],
        mark_every: u64,
    ) -> Option<StateMark> {
        let counters = [self.records, self.time_ms];
        self.hash.add(self.applied, value, outcomes, counters, mark_every);
        self.hash.marks().back().copied().filter(|mark| mark.slot == self.applied)
    }

    /// The latest marks of the hash, the oldest first.
    pub fn state_marks(&self) -> &VecDeque<StateMark> {
        self.hash.marks()
    }

    /// Counts a record more than there is: for a planted bug, and for nothing else.
    pub fn miscount(&mut self) {
        self.records += 1;
    }

    /// Sets the bounds of the table of sessions, which are part of what replicas must agree on: before
    /// anything is applied.
    pub fn set_session_limits(&mut self, limits: SessionLimits) {
        self.sessions.set_limits(limits);
    }

    /// How many sessions are open, and how many results they hold.
    pub fn sessions(&self) -> (usize, u64) {
        (self.sessions.count(), self.sessions.results())
    }

    /// What became of sessions since the machine was made or read back.
    pub fn session_counters(&self) -> SessionCounters {
        self.sessions.counters
    }

    /// Loses the sessions: for a planted bug, and for nothing else.
    pub fn forget_sessions(&mut self) {
        self.sessions.forget_all();
    }

    /// The whole state as bytes, for [`Machine::decode`]: the same ones on every replica that has
    /// applied the same slots, however it came there. Takes time in proportion to the logs, the
    /// sessions and the results that they remember, of which all have bounds.
    pub fn encode(&self) -> Vec<u8> {
        let applied = match self.applied > Slot::NONE && planted(Mutant::CheckpointOfAnotherSlot) {
            true => self.applied.next(),
            false => self.applied,
        };
        let mut out = Writer::begin();
        out.put_u64(applied.0);
        out.put_u64(self.records);
        out.put_u64(self.time_ms);
        self.hash.encode(&mut out);
        self.logs.encode(&mut out);
        self.sessions.encode(&mut out);
        out.end()
    }

    /// A machine that goes on where the encoded one stood.
    ///
    /// # Errors
    /// When the bytes are damaged, of another version, or no state that a machine can have.
    pub fn decode(bytes: &[u8]) -> Result<Machine, DecodeError> {
        let mut from = Reader::open(bytes)?;
        let applied = Slot(from.u64()?);
        if applied > Slot::MAX {
            return Err(DecodeError::Wrong("its slot is over the limit"));
        }
        let (records, time_ms) = (from.counter("its records")?, from.counter("its log time")?);
        let hash = StateHash::decode(&mut from, applied)?;
        let logs = Logs::decode(&mut from)?;
        let sessions = Sessions::decode(&mut from)?;
        from.end()?;
        Ok(Machine { applied, records, time_ms, hash, logs, sessions })
    }

    /// Applies the value of `slot`, adds an outcome per command to `outcomes`, and tells where
    /// the records stand.
    ///
    /// # Errors
    /// When this version does not understand the value: nothing has been applied then, the slot still
    /// comes next, and the replica must stop. All replicas of this version see the same bytes and
    /// stop at the same slot; those that know more go on.
    ///
    /// # Panics
    /// When `slot` is not the one after the last: a gap here would be a wrong answer later.
    pub fn apply(
        &mut self,
        slot: Slot,
        value: &[u8],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<Placement, BatchError> {
        assert_eq!(slot, self.applied.next(), "slots are applied in order, each once");
        let batch = match BatchView::parse(value) {
            // As a no-op: replicas that know the kind would differ from this one.
            Err(BatchError::Kind(_)) if planted(Mutant::UnknownKindApplied) => {
                BatchView::parse(&[])?
            }
            parsed => parsed?,
        };
        if batch.names_too_many_logs() {
            // Its placement might not fit the room that was kept for it.
            return Err(BatchError::Inconsistent);
        }
        self.applied = slot;
        self.time_ms = self.time_ms.max(batch.log_time_ms());
        self.sessions.sweep(self.time_ms);
        let mut placement = Placement::default();
        for (index, command) in batch.commands().enumerate() {
            let (outcome, is_new) = self.carry_out(&command);
            let added = is_new && matches!(outcome, Outcome::Appended(_));
            if added {
                self.records += u64::from(command.records);
            } else if command.records > 0 {
                placement.refuse(index);
            }
            outcomes.push(outcome);
        }
        self.logs.end_slot(&mut placement);
        Ok(placement)
    }

    /// The outcome, and whether it came to be now (`false`: it is remembered).
    fn carry_out(&mut self, command: &Command<'_>) -> (Outcome, bool) {
        let outcome = match command.kind {
            CommandKind::Append => return self.append(command),
            CommandKind::OpenSession => SessionTerms::decode(command.run)
                .and_then(|terms| self.sessions.open(terms, self.time_ms))
                .map_or(Outcome::SessionRefused, Outcome::SessionOpened),
            CommandKind::CloseSession => {
                self.sessions.close(command.terms.session);
                Outcome::SessionClosed
            }
            CommandKind::CreateLog => {
                let made = LogTerms::decode(command.run).and_then(|terms| self.logs.create(terms));
                made.map_or(Outcome::LogRefused, |(log, created)| Outcome::LogCreated {
                    log,
                    created,
                })
            }
            CommandKind::DeleteLog => match self.logs.delete(command.log) {
                true => Outcome::LogDeleted(command.log),
                false => Outcome::NoLogDeleted(command.log),
            },
            CommandKind::Found => Outcome::Founded,
        };
        (outcome, true)
    }

    fn append(&mut self, command: &Command<'_>) -> (Outcome, bool) {
        let Command { log, terms, records, run, .. } = command;
        let outcome = |result| match result {
            Ok(placed) => Outcome::Appended(placed),
            Err(refusal) => Outcome::Refused(refusal),
        };
        if terms.session == SessionId::NONE {
            let result = self.logs.append(self.applied, *log, terms, *records, run);
            return (outcome(result), true);
        }
        match self.sessions.turn(terms, self.time_ms) {
            Turn::Next => {
                let result = self.logs.append(self.applied, *log, terms, *records, run);
                self.sessions.remember(terms, result);
                (outcome(result), true)
            }
            Turn::Repeated(result) => (outcome(result), false),
            Turn::Refused(refusal) => (Outcome::Refused(refusal), true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::records::push_record;
    use crate::base::{AppendTerms, Batch, BlockPool, Span};
    use crate::machine::BatchBuilder;

    /// A machine and what is sent to it next.
    struct Bed {
        machine: Machine,
        builder: BatchBuilder,
        time_ms: u64,
    }

    impl Bed {
        fn new() -> Bed {
            let builder = BatchBuilder::new(BlockPool::new(0));
            Bed { machine: Machine::new(), builder, time_ms: 0 }
        }

        fn append(&mut self, log: u32, records: u32, terms: AppendTerms) -> &mut Bed {
            let mut run = Vec::new();
            (0..records).for_each(|_| push_record(&mut run, b"twelve bytes"));
            self.builder.push(&Command { terms, ..Command::append(LogId(log), records, &run) });
            self
        }

        fn command(&mut self, kind: CommandKind, log: u32, run: &[u8]) -> &mut Bed {
            let terms = AppendTerms::default();
            self.builder.push(&Command { kind, log: LogId(log), terms, records: 0, run });
            self
        }

        /// Applies what was pushed as one slot.
        fn apply(&mut self) -> (Vec<Outcome>, Placement) {
            let batch = match self.builder.is_empty() {
                true => Batch::noop(),
                false => self.builder.seal(self.time_ms),
            };
            let mut outcomes = Vec::new();
            let slot = self.machine.applied().next();
            let placement = self.machine.apply(slot, batch.value(), &mut outcomes).unwrap();
            (outcomes, placement)
        }

        fn session(&mut self) -> SessionId {
            let terms = SessionTerms { timeout_ms: 10_000, window: 8, nonce: 0 };
            match self.command(CommandKind::OpenSession, 0, &terms.encode()).apply().0[..] {
                [Outcome::SessionOpened(session)] => session,
                ref other => panic!("{other:?}"),
            }
        }

        fn log(&mut self, terms: &LogTerms) -> u32 {
            match self.command(CommandKind::CreateLog, 0, &terms.encode()).apply().0[..] {
                [Outcome::LogCreated { log, created: true }] => log.0,
                ref other => panic!("{other:?}"),
            }
        }
    }

    const NO_TERMS: AppendTerms = AppendTerms {
        session: SessionId::NONE,
        sequence: Sequence(0),
        unanswered: 0,
        if_tail: None,
        fence: None,
    };

    fn appended(first: u64, records: u32) -> Outcome {
        Outcome::Appended(Placed { first: Position(first), records })
    }

    fn span(log: u32, first: u64, records: u32) -> Span {
        Span { log: LogId(log), first: Position(first), records }
    }

    #[test]
    fn positions_are_contiguous_over_batches_noops_and_refusals() {
        let mut bed = Bed::new();
        bed.append(0, 2, NO_TERMS).append(5, 1, NO_TERMS).append(0, 1, NO_TERMS);
        let (outcomes, placement) = bed.apply();
        let refused = Outcome::Refused(AppendRefusal::NoSuchLog(LogId(5)));
        assert_eq!(outcomes, [appended(0, 2), refused, appended(2, 1)]);
        assert_eq!(placement, Placement { spans: vec![span(0, 0, 3)], refused: vec![0b10] });
        assert_eq!(bed.apply(), (vec![], Placement::default()), "a no-op");
        let placement = bed.append(0, 3, NO_TERMS).apply().1;
        assert_eq!(placement, Placement::simple(Position(3), 3));
        let machine = &bed.machine;
        assert_eq!(
            (machine.applied(), machine.tail(), machine.records()),
            (Slot(3), Position(6), 6)
        );
    }

    #[test]
    fn logs_have_their_own_positions_and_share_a_slot() {
        let mut bed = Bed::new();
        let (a, b) = (bed.log(&LogTerms::named("a")), bed.log(&LogTerms::named("b")));
        bed.append(b, 1, NO_TERMS).append(0, 2, NO_TERMS).append(b, 2, NO_TERMS);
        let (outcomes, placement) = bed.append(a, 0, NO_TERMS).apply();
        assert_eq!(outcomes, [appended(0, 1), appended(0, 2), appended(1, 2), appended(0, 0)]);
        assert_eq!(placement.spans, [span(0, 0, 2), span(b, 0, 3)]);
        bed.append(b, 1, NO_TERMS).command(CommandKind::DeleteLog, b, &[]).append(b, 1, NO_TERMS);
        let (outcomes, placement) = bed.append(0, 1, NO_TERMS).apply();
        let gone = Outcome::Refused(AppendRefusal::NoSuchLog(LogId(b)));
        assert_eq!(outcomes, [appended(3, 1), Outcome::LogDeleted(LogId(b)), gone, appended(2, 1)]);
        assert_eq!(placement, Placement { spans: vec![span(0, 2, 1)], refused: vec![0b100] });
    }

    #[test]
    fn a_condition_holds_when_applied_or_the_whole_append_is_refused() {
        let mut bed = Bed::new();
        let if_tail = |at| AppendTerms { if_tail: Some(Position(at)), ..NO_TERMS };
        bed.append(0, 2, if_tail(0)).append(0, 2, if_tail(0)).append(0, 1, if_tail(2));
        let (outcomes, placement) = bed.apply();
        let moved = Outcome::Refused(AppendRefusal::TailMoved { tail: Position(2) });
        assert_eq!(outcomes, [appended(0, 2), moved, appended(2, 1)]);
        assert_eq!(placement, Placement { spans: vec![span(0, 0, 3)], refused: vec![0b10] });
    }

    #[test]
    fn a_fence_shuts_out_lower_tokens_and_none_and_leaves_no_trace_when_refused() {
        let mut bed = Bed::new();
        let fence = |token| AppendTerms { fence: Some(FenceToken(token)), ..NO_TERMS };
        bed.append(0, 1, fence(5)).append(0, 1, fence(4)).append(0, 1, NO_TERMS);
        bed.append(0, 1, fence(5)).append(0, 0, fence(7)).append(0, 1, fence(5));
        let wrong_tail = AppendTerms { if_tail: Some(Position(9)), ..fence(8) };
        let (outcomes, _) = bed.append(0, 1, wrong_tail).append(0, 1, fence(7)).apply();
        let fenced = |token| Outcome::Refused(AppendRefusal::Fenced { token: FenceToken(token) });
        let moved = Outcome::Refused(AppendRefusal::TailMoved { tail: Position(2) });
        let expected = [
            appended(0, 1),
            fenced(5),
            fenced(5),
            appended(1, 1),
            appended(2, 0),
            fenced(7),
            moved,
            appended(2, 1),
        ];
        assert_eq!(outcomes, expected);
    }

    #[test]
    fn a_repetition_gets_its_first_result_and_adds_nothing() {
        let mut bed = Bed::new();
        let session = bed.session();
        let nth = |sequence| AppendTerms {
            session,
            sequence: Sequence(sequence),
            unanswered: 5,
            ..NO_TERMS
        };
        let lost = AppendTerms { if_tail: Some(Position(9)), ..nth(2) };
        bed.append(0, 2, nth(1)).append(0, 1, lost).append(0, 2, nth(1));
        let (outcomes, placement) = bed.append(0, 1, nth(3)).apply();
        let moved = Outcome::Refused(AppendRefusal::TailMoved { tail: Position(2) });
        assert_eq!(outcomes, [appended(0, 2), moved, appended(0, 2), appended(2, 1)]);
        assert_eq!(placement, Placement { spans: vec![span(0, 0, 3)], refused: vec![0b110] });
        // Again, much later: even the refusal is the first one, though the tail is elsewhere.
        let (outcomes, placement) = bed.append(0, 1, lost).append(0, 1, nth(3)).apply();
        assert_eq!(outcomes, [moved, appended(2, 1)]);
        assert!(placement.spans.is_empty());
        let gap = Outcome::Refused(AppendRefusal::OutOfOrder { expected: Sequence(4) });
        assert_eq!(bed.append(0, 1, nth(5)).apply().0, [gap]);
    }

    #[test]
    fn sessions_age_by_the_time_that_the_batches_carry_which_never_goes_back() {
        let mut bed = Bed::new();
        bed.time_ms = 50_000;
        let session = bed.session();
        let first = AppendTerms { session, sequence: Sequence(1), ..NO_TERMS };
        bed.time_ms = 1; // Another leader, whose count starts anew.
        assert_eq!(bed.append(0, 1, first).apply().0, [appended(0, 1)]);
        assert_eq!(bed.machine.time_ms(), 50_000);
        bed.time_ms = 60_001;
        let expired = Outcome::Refused(AppendRefusal::SessionExpired);
        assert_eq!(bed.append(0, 1, first).apply().0, [expired]);
    }

    #[test]
    fn a_log_takes_no_record_over_its_limit() {
        let mut bed = Bed::new();
        let log = bed.log(&LogTerms { record_bytes_max: 11, ..LogTerms::named("small") });
        let too_large = Outcome::Refused(AppendRefusal::RecordTooLarge { limit: 11 });
        assert_eq!(bed.append(log, 1, NO_TERMS).apply().0, [too_large]);
        let log = bed.log(&LogTerms { record_bytes_max: 12, ..LogTerms::named("wide") });
        assert_eq!(bed.append(log, 1, NO_TERMS).apply().0, [appended(0, 1)]);
    }

    #[test]
    fn a_batch_that_names_more_logs_than_it_says_is_not_applied() {
        let mut bed = Bed::new();
        let log = bed.log(&LogTerms::named("a"));
        let value = bed.append(log, 1, NO_TERMS).builder.seal(0);
        let mut lying = value.value().to_vec();
        lying[28..32].fill(0);
        let mut outcomes = Vec::new();
        let slot = bed.machine.applied().next();
        assert_eq!(
            bed.machine.apply(slot, &lying, &mut outcomes),
            Err(BatchError::Inconsistent),
            "or its placement would not fit where it is kept"
        );
        assert!(outcomes.is_empty());
        assert_eq!(bed.machine.logs().get(LogId(log)).unwrap().tail, Position(0));
    }

    #[test]
    fn what_is_not_understood_is_not_applied_and_still_comes_next() {
        let mut bed = Bed::new();
        bed.append(0, 2, NO_TERMS).apply();
        let before = bed.machine.encode();
        let sealed = bed.append(0, 1, NO_TERMS).append(0, 3, NO_TERMS).builder.seal(9);
        let mut value = sealed.value().to_vec();
        // The kind of the second command: the first one has a record of twelve bytes.
        value[32 + 32 + 16] = 99;
        for value in [&value[..], b"garbage", &[0; 64]] {
            let mut outcomes = Vec::new();
            let slot = bed.machine.applied().next();
            assert!(bed.machine.apply(slot, value, &mut outcomes).is_err());
            assert!(outcomes.is_empty());
            assert_eq!(bed.machine.encode(), before, "nothing has changed");
        }
        let slot = bed.machine.applied().next();
        bed.machine.apply(slot, Batch::noop().value(), &mut Vec::new()).unwrap();
    }

    #[test]
    #[should_panic(expected = "slots are applied in order")]
    fn a_gap_is_refused() {
        let _ = Machine::new().apply(Slot(2), &[], &mut Vec::new());
    }
}
