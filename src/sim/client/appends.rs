//! The appends of a simulated client's session: the client library's queue, driven by virtual time.
//!
//! An append stays in the queue over reconnects and changes of leader until it is answered or the
//! client's patience ends; then it goes on as a void, as the library does it.

use std::time::Duration;

use bytes::Bytes;

use super::{Around, KnownLog, RETRY_PAUSE, Reply, SimClient, Tag, hit_of};
use crate::base::records::push_record;
use crate::base::rng::Rng;
use crate::base::{GroupId, LogId, Position, Sequence, SessionId, SessionTerms};
use crate::client::AppendError;
use crate::client::appends::{AppendAsk, AppendQueue, AppendReply, ToSend, Verdict};
use crate::sim::counters::Hit;
use crate::sim::history::{Kind, Operation, Outcome, ValueId};
use crate::sim::plan::Workload;
use crate::wire::ErrorCode;

/// How long the writers of the fenced log show the same token.
pub(super) const FENCE_TERM: Duration = Duration::from_secs(2);
/// Deadlines that pass before a client gives an append up.
const PATIENCE: u32 = 4;

/// The logs of a group, of which only the first group's `default` is there.
pub(super) fn known_logs(workload: &Workload, group: GroupId) -> Vec<KnownLog> {
    let mut logs = vec![KnownLog::default(); 1 + workload.logs];
    logs[0].id = (group == GroupId(0)).then_some(LogId(0));
    logs
}

/// The name of a group's log.
pub(super) fn log_name(index: usize, group: GroupId, group_count: u16) -> String {
    let name =
        |more: u32| if more == 0 { format!("log-{index}") } else { format!("log-{index}-{more}") };
    let mut names = (0..).map(name);
    let found = names.find(|name| GroupId::of_log_name(name, group_count) == group);
    found.expect("names spread over the groups")
}

/// The queue of a world with sessions; `nonce` is no other queue's.
pub(super) fn queue(workload: &Workload, nonce: u128) -> Option<AppendQueue<usize>> {
    let timeout_ms = workload.session_timeout?.as_millis() as u32;
    let window = workload.session_window();
    Some(AppendQueue::new(SessionTerms { timeout_ms, window, nonce }))
}

/// The same, with a nonce that is drawn.
pub(super) fn queue_of(workload: &Workload, rng: &mut Rng) -> Option<AppendQueue<usize>> {
    // Nothing is drawn where there are no sessions.
    workload.session_timeout?;
    let nonce = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    queue(workload, nonce.max(1))
}

/// The records of an append.
pub(super) fn records(operation: &Operation) -> Vec<Vec<u8>> {
    let Kind::Append { first, records, size, .. } = &operation.kind else { return Vec::new() };
    let value = |index| ValueId { number: first.number + index, ..*first };
    (0..*records).map(|index| value(index).record(*size)).collect()
}

impl SimClient {
    /// Puts the append of a process into the session's queue, if that is the way to go.
    pub(super) fn enqueue(&mut self, slot: usize, around: &mut Around<'_>) -> bool {
        let (Some(queue), Some(call)) = (&mut self.queue, &self.slots[slot].call) else {
            return false;
        };
        let operation = &around.history.operations[call.index];
        let Kind::Append { records: count, if_tail, fence, .. } = operation.kind else {
            return false;
        };
        if !queue.has_room() {
            // Voids fill it. The operation never left: it has certainly failed.
            around.history.operations[call.index].outcome = Outcome::Failed(around.now);
            self.end_call(slot, around.now, around);
            return true;
        }
        let mut run = Vec::new();
        records(operation).iter().for_each(|record| push_record(&mut run, record));
        let (log, run) = (operation.log, Bytes::from(run));
        queue.push(slot, AppendAsk { log, if_tail, fence, records: count, run });
        self.slots[slot].deadline = Some(around.now + self.workload.timeout);
        self.slots[slot].call.as_mut().expect("looked at above").queued = true;
        true
    }

    /// Leaves a session in which enough was appended, once everything is answered, for another one: closes
    /// it, or leaves it behind as a client does that is killed.
    pub(super) fn leave_session(&mut self, around: &mut Around<'_>) {
        let Some(life) = self.workload.session_life else { return };
        let (Some(queue), Some(link)) = (&self.queue, &mut self.link) else { return };
        let Some(session) = queue.session().filter(|_| queue.is_empty()) else { return };
        if self.appended_in_session < life || !link.protocol.can_submit() {
            return;
        }
        if self.rng.below(2) == 0 {
            let closed = link.protocol.close_session(Tag::Closed, session);
            closed.expect("it can submit");
        }
        around.hits.hit(Hit::ShortLivedClients);
        self.appended_in_session = 0;
        self.rewind_at = None;
        self.queue = queue_of(&self.workload, &mut self.rng);
    }

    /// Sends what the queue wants sent.
    pub(super) fn send_appends(&mut self, around: &mut Around<'_>) {
        let Some(queue) = &mut self.queue else { return };
        if self.rewind_at.is_some_and(|at| at <= around.now) {
            self.rewind_at = None;
            queue.rewind();
        }
        let Some(link) = self.link.as_mut().filter(|_| !self.moving) else { return };
        while link.protocol.can_submit()
            && let Some(next) = queue.next_to_send()
        {
            let sent = match next {
                ToSend::OpenSession(terms) => link.protocol.open_session(Tag::Session, terms),
                ToSend::Append { log, terms, records, run } => {
                    let log = LogId::of_group(self.group, log);
                    let tag = Tag::Append(terms.session, terms.sequence);
                    link.protocol.append_run(tag, log, terms, records, &run)
                }
            };
            if let Err((_, error)) = sent {
                self.complaint.get_or_insert(format!("an append is not taken: {error}"));
            }
        }
    }

    pub(super) fn on_session(&mut self, reply: &Reply, target: usize, around: &mut Around<'_>) {
        let queue = self.queue.as_mut().expect("it has asked for a session");
        match reply {
            Reply::Session(session) => {
                around.hits.hit(Hit::SessionOpened);
                queue.on_session(Some(*session));
            }
            Reply::Failed(code, leader, _) => {
                queue.on_session(None);
                let (code, leader) = (*code, *leader);
                self.append_again(code, leader, target, around);
            }
            other => {
                self.complaint.get_or_insert(format!("{other:?} answers the wish for a session"));
            }
        }
    }

    pub(super) fn on_append(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        reply: &Reply,
        target: usize,
        around: &mut Around<'_>,
    ) {
        let queue = self.queue.as_mut().expect("it has sent an append of a session");
        let (answer, leader) = match *reply {
            Reply::Appended(first, records) => (AppendReply::Appended { first, records }, None),
            Reply::Failed(code, leader, detail) => {
                around.hits.hit(hit_of(code));
                (AppendReply::Failed { code, detail, text: "" }, leader)
            }
            ref other => {
                self.complaint.get_or_insert(format!("{other:?} answers an append"));
                return;
            }
        };
        match queue.on_answer(session, sequence, answer) {
            Verdict::Done { tag: Some(slot), result } => self.appended(slot, result, around),
            Verdict::Done { tag: None, .. } => around.hits.hit(Hit::LateOutcome),
            Verdict::Again(code) => {
                around.hits.hit(Hit::AppendSentAgain);
                self.append_again(code, leader, target, around);
            }
            Verdict::Ignored => {}
        }
        self.tell_doubtful(around);
    }

    fn append_again(
        &mut self,
        code: ErrorCode,
        leader: Option<crate::base::NodeId>,
        target: usize,
        around: &mut Around<'_>,
    ) {
        let elsewhere = matches!(code, ErrorCode::NotLeader | ErrorCode::OutcomeUnknown);
        if elsewhere && leader.is_some() {
            self.hear_of_leader(leader, target);
        } else if elsewhere {
            self.ask_around(target);
        }
        let pause = self.rng.between(RETRY_PAUSE / 10, RETRY_PAUSE * 2);
        self.rewind_at.get_or_insert(around.now + pause);
    }

    /// An append has come to its end.
    fn appended(
        &mut self,
        slot: usize,
        result: Result<Position, AppendError>,
        around: &mut Around<'_>,
    ) {
        let call = self.slots[slot].call.as_ref().expect("a queued append has its call");
        let index = call.index;
        self.appended_in_session += 1;
        match result {
            Ok(first) => self.succeed(index, Reply::Appended(first, 0), around),
            Err(error) => {
                if let AppendError::TailMoved { tail } = error {
                    self.note_moved(index, tail, around);
                }
                if error.had_no_effect() {
                    around.history.operations[index].outcome = Outcome::Failed(around.now);
                }
            }
        }
        self.end_call(slot, around.now, around);
    }

    /// A condition did not hold: the tail was elsewhere.
    pub(super) fn note_moved(&mut self, index: usize, tail: Position, around: &mut Around<'_>) {
        let operation = &mut around.history.operations[index];
        let Kind::Append { if_tail, moved_to, .. } = &mut operation.kind else { return };
        if *if_tail == Some(tail) || if_tail.is_none() {
            let text = format!("an append for the tail {if_tail:?} is refused: it is at {tail}");
            self.complaint.get_or_insert(text);
        }
        *moved_to = Some(tail);
    }

    /// The connection is gone.
    pub(super) fn appends_lost(&mut self, around: &mut Around<'_>) {
        self.rewind_at = None;
        if let Some(queue) = &mut self.queue {
            queue.on_connection_lost();
        }
        self.tell_doubtful(around);
    }

    fn tell_doubtful(&mut self, around: &mut Around<'_>) {
        while let Some((tag, error)) = self.queue.as_mut().and_then(AppendQueue::take_doubtful) {
            around.hits.hit(Hit::AppendDoubtful);
            if let Some(slot) = tag {
                self.appended(slot, Err(error), around);
            }
        }
    }

    /// Hangs up on whoever answers nothing, and gives up what has waited too long.
    pub(super) fn give_up_appends(&mut self, around: &mut Around<'_>) {
        let (now, timeout) = (around.now, self.workload.timeout);
        let mut late = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.is_queued()) {
            if slot.deadline.is_some_and(|due| due <= now) {
                slot.deadline = Some(now + timeout);
                slot.call.as_mut().expect("it is queued").tries += 1;
                late = true;
            }
        }
        // As the library does it: not for a late answer, but when nothing comes at all. Whoever
        // sends everything again while answers come, only slow, makes them slower.
        if late && self.link.as_ref().is_some_and(|link| now.since(link.heard) >= timeout) {
            self.hang_up(around);
        }
        while let Some(slot) = self.queue.as_ref().and_then(|queue| queue.oldest().copied()) {
            let call = self.slots[slot].call.as_ref().expect("a queued append has its call");
            if call.tries < PATIENCE {
                break;
            }
            let index = call.index;
            let given_up = self.queue.as_mut().and_then(AppendQueue::give_up_oldest);
            around.hits.hit(Hit::AppendGivenUp);
            if let Some((_, true)) = given_up {
                around.history.operations[index].outcome = Outcome::Failed(now);
            }
            self.end_call(slot, now, around);
        }
    }

    pub(super) fn on_created(
        &mut self,
        index: usize,
        reply: &Reply,
        target: usize,
        around: &mut Around<'_>,
    ) {
        self.creating = false;
        match reply {
            Reply::Created(log) if log.group() != self.group => {
                let text = format!("log-{index} has the number {log} of another group");
                self.complaint.get_or_insert(text);
            }
            Reply::Created(log) => {
                let log = &log.within_group();
                around.hits.hit(Hit::LogCreated);
                let doubled = self.logs.iter().any(|known| known.id == Some(*log));
                if doubled {
                    let text = format!("log-{index} has the number {log} of another log");
                    self.complaint.get_or_insert(text);
                }
                self.logs[index].id = Some(*log);
            }
            Reply::Failed(code, leader, _) => {
                if *code == ErrorCode::NotLeader && self.queue.is_none() {
                    self.hear_of_leader(*leader, target);
                }
                self.create_at = around.now + self.rng.between(RETRY_PAUSE, RETRY_PAUSE * 10);
            }
            other => {
                self.complaint.get_or_insert(format!("{other:?} answers the creation of a log"));
            }
        }
    }
}
