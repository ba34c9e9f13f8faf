//! Exactly what was sent: no invention, no duplicate, no change.
//!
//! Property: every record in the chosen log is one that a client sent, byte for byte, as part of
//! an append that it had invoked before, together with the append's other records and in their
//! order; it appears once; the conditions that it was sent with held where it stands; and an append
//! that was answered as certainly without effect never appears. In sessions, a client's appends
//! stand in the order of their invocation.

use std::collections::BTreeMap;

use super::Violation;
use crate::base::records::Records;
use crate::base::{AppendTerms, FenceToken, LogId, Position, SessionId, SessionTerms, Slot};
use crate::machine::{BatchView, Command, CommandKind, SessionLimits};
use crate::node::AppliedSlot;
use crate::sim::history::{History, Kind, Outcome, ValueId};

const NAME: &str = "exactly what was sent";

/// The chosen logs, as values.
#[derive(Default)]
pub struct Values {
    logs: BTreeMap<LogId, Vec<ValueId>>,
    /// The highest token that each log has taken.
    fences: BTreeMap<LogId, FenceToken>,
    sessions: BTreeMap<SessionId, Open>,
    sessions_opened: u64,
    session_limits: SessionLimits,
    log_time_ms: u64,
    /// The last value of each client that stands in each log.
    last: BTreeMap<(LogId, u16), ValueId>,
    /// The size asked for and the operation, by its first value; filled as the history grows.
    sent: BTreeMap<ValueId, usize>,
    operations_known: usize,
    positions: BTreeMap<ValueId, (LogId, Position)>,
}

/// An open session, as these checks understand the machine.
struct Open {
    terms: SessionTerms,
    /// When it was used last, in milliseconds of the log's time.
    used_ms: u64,
    /// Its last command that took its turn.
    last: u64,
    /// The results that it holds: of the commands up to that one.
    held: u64,
}

impl Open {
    fn lives(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms) <= u64::from(self.terms.timeout_ms)
    }

    /// An append comes; the table holds `others` results of other sessions.
    fn append(&mut self, terms: &AppendTerms, now_ms: u64, others: u64, results_max: u64) {
        self.used_ms = now_ms;
        let wanted = terms.sequence.0.saturating_sub(u64::from(terms.unanswered));
        let oldest = self.last + 1 - self.held;
        self.held -= wanted.saturating_sub(oldest).min(self.held);
        let has_room = self.held < u64::from(self.terms.window) && self.held + others < results_max;
        if terms.sequence.0 == self.last + 1 && has_room {
            self.last += 1;
            self.held += 1;
        }
    }
}

impl Values {
    /// Nothing is chosen; the machine's table of sessions has these bounds.
    pub fn new(session_limits: SessionLimits) -> Values {
        Values { session_limits, ..Values::default() }
    }

    /// The values of a log, by position.
    pub fn log(&self, log: LogId) -> &[ValueId] {
        self.logs.get(&log).map_or(&[], Vec::as_slice)
    }

    /// The logs that hold any.
    pub fn logs(&self) -> impl Iterator<Item = LogId> + '_ {
        self.logs.keys().copied()
    }

    /// Values of all logs.
    pub fn count(&self) -> usize {
        self.positions.len()
    }

    /// Where a value stands.
    pub fn position(&self, value: ValueId) -> Option<Position> {
        self.positions.get(&value).map(|(_, position)| *position)
    }

    fn learn_invocations(&mut self, history: &History) {
        let known = self.operations_known;
        for (index, operation) in history.operations.iter().enumerate().skip(known) {
            if let Kind::Append { first, .. } = operation.kind {
                self.sent.insert(first, index);
            }
        }
        self.operations_known = history.operations.len();
    }

    /// A slot has been applied for the first time.
    ///
    /// # Errors
    /// When its records are not what clients sent.
    pub fn chosen(&mut self, applied: &AppliedSlot, history: &History) -> Result<(), Violation> {
        self.learn_invocations(history);
        if applied.batch.value_size() == 0 {
            return Ok(());
        }
        let slot = applied.slot;
        let bad = |text: String| Violation::new(NAME, format!("slot {slot}: {text}"));
        let view = BatchView::parse(applied.batch.value())
            .map_err(|error| bad(format!("what was chosen is not a batch: {error}")))?;
        for span in &applied.placement.spans {
            let before = self.log(span.log).len() as u64;
            if span.first.0 != before {
                let text = format!("its first record in log {} has position", span.log);
                let text = format!("{text} {}, {before} records are before it", span.first);
                return Err(bad(text));
            }
        }
        self.log_time_ms = self.log_time_ms.max(view.log_time_ms());
        let now_ms = self.log_time_ms;
        self.sessions.retain(|_, session| session.lives(now_ms));
        for (index, command) in view.commands().enumerate() {
            self.check_session(&command, applied.placement.is_refused(index)).map_err(bad)?;
            let refused = command.records > 0 && applied.placement.is_refused(index);
            self.check_conditions(&command, refused).map_err(bad)?;
            if command.records > 0 && !refused {
                let run: Vec<&[u8]> = Records::new(command.run).map_while(Result::ok).collect();
                self.check_append(slot, command.log, &run, history)?;
            }
        }
        for span in &applied.placement.spans {
            let end = self.log(span.log).len() as u64;
            if span.end().0 != end {
                let text = format!("its records in log {} end at {}", span.log, span.end());
                return Err(bad(format!("{text}, where {end} are")));
            }
        }
        Ok(())
    }

    /// What was appended in a session was appended while that lived: it had not expired, was not closed,
    /// and did not make room for another while it held a result; and one nonce was one session.
    fn check_session(&mut self, command: &Command<'_>, refused: bool) -> Result<(), String> {
        let (session, now) = (command.terms.session, self.log_time_ms);
        let held: u64 = self.sessions.values().map(|open| open.held).sum();
        match command.kind {
            CommandKind::OpenSession => {
                if let Some(terms) = SessionTerms::decode(command.run) {
                    self.open_session(terms, held);
                }
            }
            CommandKind::CloseSession => drop(self.sessions.remove(&session)),
            CommandKind::Append if session != SessionId::NONE => {
                match self.sessions.get_mut(&session) {
                    Some(open) => {
                        let others = held - open.held;
                        open.append(&command.terms, now, others, self.session_limits.results_max);
                    }
                    None if refused || command.records == 0 => {}
                    None => return Err(format!("session {session} had ended before {now} ms")),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open_session(&mut self, terms: SessionTerms, held: u64) {
        let used_ms = self.log_time_ms;
        let same = |open: &&mut Open| terms.nonce != 0 && open.terms.nonce == terms.nonce;
        if let Some(open) = self.sessions.values_mut().find(same) {
            open.used_ms = used_ms;
            return;
        }
        if held >= self.session_limits.results_max / 4 * 3 {
            return;
        }
        if self.sessions.len() >= self.session_limits.sessions_max {
            let empty = self.sessions.iter().find(|(_, open)| open.held == 0);
            let Some(id) = empty.map(|(id, _)| *id) else { return };
            self.sessions.remove(&id);
        }
        self.sessions_opened += 1;
        let open = Open { terms, used_ms, last: 0, held: 0 };
        self.sessions.insert(SessionId(self.sessions_opened), open);
    }

    /// Conditions held for what was appended; without a session, nothing else may be refused.
    fn check_conditions(&mut self, command: &Command<'_>, refused: bool) -> Result<(), String> {
        if command.kind != CommandKind::Append {
            return Ok(());
        }
        let Command { log, terms, .. } = command;
        let tail = Position(self.log(*log).len() as u64);
        let token = terms.fence.unwrap_or_default();
        let fence = self.fences.get(log).copied().unwrap_or_default();
        let holds = terms.if_tail.is_none_or(|wanted| wanted == tail) && token >= fence;
        let in_session = terms.session != SessionId::NONE;
        // A void tells nothing by its refusal: it has no records to be left out.
        let is_told = refused || command.records > 0;
        match (refused, holds) {
            (false, false) if is_told => {
                Err(format!("an append to log {log} at {tail}, fence {fence}, wants {terms:?}"))
            }
            (true, true) if !in_session && self.logs.contains_key(log) => {
                Err(format!("an append to log {log} at {tail}, fence {fence}, is refused"))
            }
            (false, true) => {
                // An append of no records may repeat an earlier one, but tokens never fall.
                self.fences.insert(*log, fence.max(token));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_append(
        &mut self,
        slot: Slot,
        log: LogId,
        records: &[&[u8]],
        history: &History,
    ) -> Result<(), Violation> {
        let bad = |text: String| Violation::new(NAME, format!("slot {slot}: {text}"));
        let named = records.first().and_then(|record| ValueId::parse(record));
        let Some((value, _)) = named else {
            return Err(bad("an append starts with a record that nobody sent".to_owned()));
        };
        let sent = self.sent.get(&value).map(|index| &history.operations[*index]);
        let operation = sent.filter(|sent| sent.log == log).map(|sent| &sent.kind);
        let Some(Kind::Append { first, records: count, size, .. }) = operation else {
            return Err(bad(format!("{value} starts no append that was sent to log {log}")));
        };
        if records.len() != *count as usize {
            return Err(bad(format!("{value} came with {} of {count} records", records.len())));
        }
        for (index, record) in records.iter().enumerate() {
            let value = ValueId { number: first.number + index as u32, ..*first };
            if *record != value.record(*size) {
                return Err(bad(format!("{value} is not what was sent")));
            }
            let values = self.logs.entry(log).or_default();
            let position = Position(values.len() as u64);
            if let Some((_, older)) = self.positions.insert(value, (log, position)) {
                return Err(bad(format!("{value} stands at {older} and again at {position}")));
            }
            let before = self.last.insert((log, value.client), value);
            if history.in_sessions && before.is_some_and(|before| before.number > value.number) {
                return Err(bad(format!("{value} stands behind {before:?}, out of its order")));
            }
            values.push(value);
        }
        Ok(())
    }

    /// What was answered as without effect is not there.
    ///
    /// # Errors
    /// When it is.
    pub fn check_failed(&self, history: &History) -> Result<(), Violation> {
        for operation in &history.operations {
            if let (Outcome::Failed(at), Kind::Append { first, .. }) =
                (operation.outcome, &operation.kind)
                && let Some(position) = self.position(*first)
            {
                let text = format!("{first} was answered as without effect at {at}");
                return Err(Violation::new(NAME, format!("{text}, but stands at {position}")));
            }
        }
        Ok(())
    }
}
