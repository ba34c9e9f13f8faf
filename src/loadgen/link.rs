//! One connection's operations, without its socket: what to send, what an answer means, and what
//! becomes of everything in flight when the connection is lost.
//!
//! Driven by `worker`: it feeds received bytes and clock readings, and sends what lies in
//! [`Link::take_output`]. Nothing here waits or allocates per append. Every operation ends exactly
//! once, as ok, failed or unknown:
//!
//! - An answer that says "no effect, try again" (not the leader, overloaded) keeps the operation;
//!   it is sent again, with its first start time, until [`OPERATION_TIMEOUT_NS`] is over.
//! - With sessions, such an answer leaves a gap in the numbers: the connection opens a new session
//!   before it sends anything more (`numbering`).
//! - A lost connection makes every operation sent on it unknown: it is never sent again, since it
//!   may have been chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::Nanos;
use super::histogram::Latencies;
use super::history::{Kind, Operation, Outcome, Recorder, ValueId};
use super::numbering::Numbering;
use super::schedule::Schedule;
use super::stats::{Loss, Phases, Tally};
use super::workload::{Pacing, STAMP_BYTES, Workload};
use crate::base::records::{RECORD_PREFIX_SIZE, Records, push_record};
use crate::base::rng::Rng;
use crate::base::{GroupId, LogId, Position, SessionId};
use crate::client::ErrorCode;
use crate::client::connection::{
    ClientConnection, ConnectionError, Incoming, ReadAsk, Response, SubmitError,
};

/// How long an operation may be answered "try again" before it counts as failed, and how long an
/// answer may take before the connection counts as lost.
pub const OPERATION_TIMEOUT_NS: u64 = 10_000_000_000;
/// How long after the end of the measured phase an open loop still sends what was due before it.
pub const GRACE_NS: u64 = 100_000_000;
/// Output waiting for the socket at which nothing more is encoded.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Reads choose their position among this many records before the tail.
const READ_SPAN_RECORDS: u64 = 64 * 1024;
/// The most bytes that one read asks for.
const READ_BYTES_MAX: u32 = 1 << 20;
/// The tag of the wish for a session; those of operations are their places.
const OPEN_TAG: u32 = u32::MAX;
/// The tag of a session's end.
const CLOSE_TAG: u32 = u32::MAX - 1;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// What came is not the protocol.
    #[error(transparent)]
    Protocol(#[from] ConnectionError),
    /// The node takes less than the workload wants.
    #[error("the node does not take this load: {0}")]
    Submit(#[from] SubmitError),
    /// An answer has been due for too long.
    #[error("no answer for {} s", OPERATION_TIMEOUT_NS / 1_000_000_000)]
    Timeout,
}

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Shared {
    /// The worker's number.
    pub worker: u32,
    /// Counts of appends.
    pub appends: Tally,
    /// Counts of reads.
    pub reads: Tally,
    /// Of the measured phase of an open loop: from when an operation was due until it was sent.
    pub lag: Latencies,
    /// The history, when it is recorded.
    pub recorder: Option<Recorder>,
    /// The first error that a node answered with, for the user.
    pub first_error: Option<String>,
    value_next: u64,
    process_next: u32,
    process_stride: u32,
    logs: Arc<[LogId]>,
    /// The tail that is known of each log.
    tails: Vec<u64>,
    /// Of each group, in order: its logs by their index, and which of them is next.
    groups: Vec<(GroupId, Vec<u32>, usize)>,
    rng: Rng,
}

impl Shared {
    /// The state of worker `worker`, where all numbers of workers are below `worker_count`, over
    /// `logs`.
    ///
    /// # Panics
    /// When its number is not.
    pub fn new(
        worker: u32,
        worker_count: u32,
        logs: Arc<[LogId]>,
        recorder: Option<Recorder>,
    ) -> Shared {
        assert!(!logs.is_empty(), "operations go to some log");
        Shared {
            worker,
            appends: Tally::default(),
            reads: Tally::default(),
            lag: Latencies::new(),
            recorder,
            first_error: None,
            value_next: 0,
            process_next: worker,
            process_stride: worker_count,
            tails: vec![0; logs.len()],
            groups: by_group(&logs, worker as usize, worker_count as usize),
            logs,
            rng: Rng::new(u64::from(worker)),
        }
    }

    /// A process number that nobody else has.
    fn new_process(&mut self) -> u32 {
        let process = self.process_next;
        self.process_next = process.wrapping_add(self.process_stride);
        process
    }

    /// The index of the next operation's log, on a connection to `group`.
    fn next_log(&mut self, group: GroupId) -> u32 {
        let (_, logs, next) =
            self.groups.iter_mut().find(|(of, ..)| *of == group).expect("a connection has logs");
        let log = logs[*next];
        *next = if *next + 1 == logs.len() { 0 } else { *next + 1 };
        log
    }

    /// The position of the next read: among the last records known.
    fn read_from(&mut self, log: u32) -> Position {
        let tail = self.tails[log as usize];
        let span = tail.clamp(1, READ_SPAN_RECORDS);
        Position(tail.max(1) - span + self.rng.below(span))
    }

    fn saw_tail(&mut self, log: u32, tail: u64) {
        let known = &mut self.tails[log as usize];
        *known = tail.max(*known);
    }
}

/// The group that connection `index` goes to: those of the logs in turn.
pub fn group_of(logs: &[LogId], index: usize) -> GroupId {
    let mut groups: Vec<GroupId> = logs.iter().map(|log| log.group()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups[index % groups.len()]
}

/// The logs by group; workers go through them at different places.
fn by_group(logs: &[LogId], worker: usize, worker_count: usize) -> Vec<(GroupId, Vec<u32>, usize)> {
    // Else the place to begin at could be behind the last log.
    assert!(worker < worker_count, "worker {worker} of {worker_count}");
    let mut groups = BTreeMap::<GroupId, Vec<u32>>::new();
    for (index, log) in logs.iter().enumerate() {
        groups.entry(log.group()).or_default().push(index as u32);
    }
    let start = |logs: &Vec<u32>| logs.len() * worker / worker_count;
    let placed = groups.into_iter().map(|(group, logs)| {
        let next = start(&logs);
        (group, logs, next)
    });
    placed.collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Append { value: u64 },
    Read { from: Position },
}

/// Where an operation stands. Its index is the request's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Sent,
    /// Answered "no effect, try again".
    Retry,
    /// Failed: its place is free again at the next tick, so that failures do not spin.
    Parked,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    state: State,
    what: What,
    /// The log, by its index.
    log: u32,
    /// The session that it was sent in last.
    session: SessionId,
    process: u32,
    /// The intended time in an open loop: latencies count from here.
    started: Nanos,
    /// Noted before the first byte left: histories count from here.
    invoked: Nanos,
    /// When it was encoded last.
    sent: Nanos,
}

impl Flight {
    /// As a history has it.
    fn operation(&self, outcome: Outcome, kind: Kind, logs: usize) -> Operation {
        let log = (logs > 1).then_some(self.log);
        Operation { process: self.process, invoke: self.invoked, outcome, log, kind }
    }
}

/// One connection's operations.
#[derive(Debug)]
pub struct Link {
    /// The group that its connections go to.
    group: GroupId,
    workload: Workload,
    phases: Phases,
    schedule: Option<Schedule>,
    /// The protocol's half while a connection stands.
    connection: Option<Box<ClientConnection<u32>>>,
    flights: Vec<Flight>,
    free: Vec<u32>,
    retry: Vec<u32>,
    parked: Vec<u32>,
    sent_count: usize,
    /// The node does not lead: nothing more is sent to it, what is in flight is awaited.
    redirected: bool,
    /// Nothing is sent before the next tick (the node is overloaded).
    paused: bool,
    append_credit: u32,
    numbering: Numbering,
    /// The run of records of an append, as it is sent.
    run: Vec<u8>,
}

impl Link {
    /// Connection `index` of the workload's.
    pub fn new(workload: &Workload, phases: Phases, index: usize, shared: &mut Shared) -> Link {
        let workload = &workload.of_connection(index);
        let schedule = match workload.pacing {
            Pacing::Closed => None,
            Pacing::Open { rate_per_s } => {
                let operations_per_s = rate_per_s / workload.records_per_append as f64;
                let (start, count) = (phases.start, workload.connections);
                Some(Schedule::new(start, operations_per_s, index, count))
            }
        };
        let group = group_of(&shared.logs, index);
        let flight = || Flight {
            state: State::Free,
            what: What::Append { value: 0 },
            log: 0,
            session: SessionId::NONE,
            process: shared.new_process(),
            started: Nanos(0),
            invoked: Nanos(0),
            sent: Nanos(0),
        };
        Link {
            group,
            flights: std::iter::repeat_with(flight).take(workload.inflight).collect(),
            // Popped from the end: the lowest numbers first.
            free: (0..workload.inflight as u32).rev().collect(),
            retry: Vec::with_capacity(workload.inflight),
            parked: Vec::with_capacity(workload.inflight),
            numbering: Numbering::new(workload),
            run: template_run(workload, index),
            workload: workload.clone(),
            phases,
            schedule,
            connection: None,
            sent_count: 0,
            redirected: false,
            paused: false,
            append_credit: 0,
        }
    }

    /// A new connection to a leader stands.
    pub fn connected(&mut self, connection: ClientConnection<u32>) {
        self.connection = Some(Box::new(connection));
        self.numbering.reconnected();
        self.redirected = false;
        self.paused = false;
    }

    /// Whether the connection has done its part and another one, or none, is needed: the node does
    /// not lead and has answered everything, or the run is over.
    pub fn is_done_here(&self, now: Nanos) -> bool {
        self.sent_count == 0 && (self.redirected || self.is_finished(now))
    }

    /// Whether nothing is left to do in this run.
    pub fn is_finished(&self, now: Nanos) -> bool {
        let sending_ends = match self.schedule {
            None => self.phases.measure_end,
            Some(_) => self.phases.measure_end.plus(GRACE_NS),
        };
        now >= sending_ends && self.sent_count == 0 && self.retry.is_empty()
    }

    /// When the open loop wants to send next, if it could.
    pub fn next_wake(&self) -> Option<Nanos> {
        let schedule = self.schedule.as_ref()?;
        let end = self.phases.measure_end;
        let can_send = self.can_send() && !self.free.is_empty();
        (can_send && schedule.next_due() < end).then(|| schedule.next_wake().min(end))
    }

    fn output_size(&self) -> usize {
        self.connection.as_ref().map_or(0, |connection| connection.output_size())
    }

    /// Whether bytes wait to be sent.
    pub fn has_output(&self) -> bool {
        self.output_size() > 0
    }

    /// What is to be sent; `spare` is filled next.
    pub fn take_output(&mut self, spare: Vec<u8>) -> Vec<u8> {
        match &mut self.connection {
            Some(connection) => connection.take_output(spare),
            None => Vec::new(),
        }
    }

    fn can_send(&self) -> bool {
        self.may_submit() && self.numbering.is_ready()
    }

    fn may_submit(&self) -> bool {
        let takes = self.connection.as_ref().is_some_and(|connection| connection.can_submit());
        takes && !self.redirected && !self.paused && self.output_size() < OUTPUT_BYTES_MAX
    }

    /// Closes the session that was left, if there is one, and asks for another.
    fn open_session(&mut self, now: Nanos) -> Result<(), LinkError> {
        if self.may_submit()
            && let Some(left) = self.numbering.take_left()
        {
            let connection = self.connection.as_mut().expect("`may_submit` has seen it");
            connection.close_session(CLOSE_TAG, left).map_err(|(_, error)| error)?;
        }
        if self.may_submit() {
            let terms = self.numbering.session_terms();
            let connection = self.connection.as_mut().expect("`may_submit` has seen it");
            connection.open_session(OPEN_TAG, terms).map_err(|(_, error)| error)?;
            self.numbering.asked(now);
        }
        Ok(())
    }

    /// Encodes what may be sent at `now`.
    ///
    /// # Errors
    /// [`LinkError::Submit`] when the node's limits are below the workload's.
    pub fn fill(&mut self, now: Nanos, shared: &mut Shared) -> Result<(), LinkError> {
        if self.numbering.is_wanted() {
            self.open_session(now)?;
        }
        while self.can_send()
            && let Some(slot) = self.retry.pop()
        {
            self.send(slot, now, shared)?;
        }
        while self.can_send()
            && let Some(&slot) = self.free.last()
            && let Some(started) = self.next_start(now)
        {
            self.free.pop();
            if self.schedule.is_some() && self.phases.measures(started) {
                shared.lag.record(now.since(started));
            }
            let (what, log) = self.next_what(shared);
            let flight = &mut self.flights[slot as usize];
            flight.what = what;
            flight.log = log;
            flight.started = started;
            flight.invoked = now;
            self.send(slot, now, shared)?;
        }
        Ok(())
    }

    /// When the next operation is held to start, if it may be sent at `now`.
    fn next_start(&mut self, now: Nanos) -> Option<Nanos> {
        let end = self.phases.measure_end;
        match &mut self.schedule {
            None => (self.phases.start <= now && now < end).then_some(now),
            Some(schedule) if schedule.next_due() < end && now < end.plus(GRACE_NS) => {
                schedule.take_due(now)
            }
            Some(_) => None,
        }
    }

    /// Appends and reads in turn, in the proportion asked for.
    fn next_what(&mut self, shared: &mut Shared) -> (What, u32) {
        let log = shared.next_log(self.group);
        self.append_credit += u32::from(self.workload.append_percent);
        if self.append_credit < 100 {
            return (What::Read { from: shared.read_from(log) }, log);
        }
        self.append_credit -= 100;
        let value = shared.value_next;
        shared.value_next += self.workload.records_per_append as u64;
        (What::Append { value }, log)
    }

    fn send(&mut self, slot: u32, now: Nanos, shared: &Shared) -> Result<(), LinkError> {
        let connection = self.connection.as_mut().expect("`can_send` has seen a connection");
        let flight = &mut self.flights[slot as usize];
        flight.state = State::Sent;
        flight.sent = now;
        self.sent_count += 1;
        let log = shared.logs[flight.log as usize];
        let records = self.workload.records_per_append as u32;
        let submitted = match flight.what {
            What::Append { value } => {
                if self.workload.history {
                    fill_values(&mut self.run, &self.workload, shared.worker, value);
                }
                if let Some(at) = self.workload.stamp_at() {
                    fill_stamps(&mut self.run, &self.workload, at, flight.started);
                }
                let terms = self.numbering.next_terms();
                flight.session = terms.session;
                connection.append_run(slot, log, terms, records, &self.run)
            }
            What::Read { from } => {
                let ask = ReadAsk {
                    log,
                    from,
                    records_max: records,
                    bytes_max: READ_BYTES_MAX,
                    level: self.workload.level.into(),
                    wait_ms: 0,
                };
                connection.read(slot, &ask)
            }
        };
        match submitted {
            Ok(_) => Ok(()),
            Err((slot, error)) => {
                // It was not sent: it waits for another connection.
                self.release(slot, State::Retry);
                Err(error.into())
            }
        }
    }

    /// Takes in bytes that were received by `now`.
    ///
    /// # Errors
    /// When they are not answers to what was asked: the connection is to be closed.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now: Nanos,
        shared: &mut Shared,
    ) -> Result<(), LinkError> {
        let mut connection = self.connection.take().expect("bytes come on a connection");
        let received = connection.receive(bytes, |incoming| {
            if let Incoming::Answer { tag, response } = incoming {
                match tag {
                    OPEN_TAG => self.session_answered(&response, shared),
                    // Whatever became of it, the session ends.
                    CLOSE_TAG => {}
                    slot => self.complete(slot, &response, now, shared),
                }
            }
        });
        self.connection = Some(connection);
        Ok(received?)
    }

    fn session_answered(&mut self, response: &Response<'_>, shared: &mut Shared) {
        match *response {
            Response::SessionOpened { session, .. } => self.numbering.opened(session),
            Response::Failed { error, text, .. } => {
                self.numbering.refused();
                let elsewhere = matches!(error, ErrorCode::NotLeader | ErrorCode::Unavailable);
                self.redirected |= elsewhere;
                self.paused |= !elsewhere;
                if !error.is_retryable() && shared.first_error.is_none() {
                    shared.first_error = Some(format!("no session: {error:?}: {text}"));
                }
            }
            _ => unreachable!("the connection checks that an answer is of its request's kind"),
        }
    }

    /// An answer has come; the connection has checked that it fits its request.
    fn complete(&mut self, slot: u32, response: &Response<'_>, now: Nanos, shared: &mut Shared) {
        let flight = self.flights[slot as usize];
        assert_eq!(flight.state, State::Sent, "only what was sent is answered");
        match (*response, flight.what) {
            (Response::Appended { first, records, .. }, What::Append { value }) => {
                let bytes = (self.workload.records_per_append * self.workload.record_bytes) as u64;
                let records = u64::from(records);
                shared.appends.ok(&self.phases, flight.started, now, records, bytes);
                shared.saw_tail(flight.log, first.0.saturating_add(records));
                self.note_append(&flight, value, Outcome::Ok(now), Some(first), shared);
                self.release(slot, State::Free);
            }
            (Response::Records { first, records, tail, run, .. }, What::Read { from }) => {
                let prefixes = u64::from(records) * RECORD_PREFIX_SIZE as u64;
                let bytes = (run.len() as u64).saturating_sub(prefixes);
                shared.reads.ok(&self.phases, flight.started, now, u64::from(records), bytes);
                shared.saw_tail(flight.log, tail.0);
                let eof = first.0.saturating_add(u64::from(records)) >= tail.0;
                self.note_read(&flight, from, Outcome::Ok(now), run, eof, shared);
                self.release(slot, State::Free);
            }
            (Response::Failed { error, text, .. }, _) => {
                self.refused(slot, error, text, now, shared);
            }
            _ => unreachable!("the connection checks that an answer is of its request's kind"),
        }
    }

    fn refused(
        &mut self,
        slot: u32,
        error: ErrorCode,
        text: &str,
        now: Nanos,
        shared: &mut Shared,
    ) {
        let flight = self.flights[slot as usize];
        let in_time = now.since(flight.started) < OPERATION_TIMEOUT_NS;
        let is_append = matches!(flight.what, What::Append { .. });
        let was_left = is_append && self.workload.sessions && is_of_session(error);
        if is_append {
            self.numbering.has_gap(flight.session);
        }
        if was_left && in_time {
            // Never sent in that session again: it goes into the next one.
            return self.release(slot, State::Retry);
        }
        if error.is_retryable() {
            // Overloaded: the same node in a while. Otherwise another node, once all is answered.
            self.paused |= error == ErrorCode::Overloaded;
            self.redirected |= error != ErrorCode::Overloaded;
            if in_time {
                return self.release(slot, State::Retry);
            }
        }
        if shared.first_error.is_none() {
            shared.first_error = Some(format!("{error:?}: {text}"));
        }
        // A read has no effect to be unsure of.
        let loss = match is_append && !error.append_had_no_effect() {
            true => Loss::Unknown,
            false => Loss::Failed,
        };
        self.lose(slot, loss, now, shared);
    }

    /// Ends an operation that was sent or waits to be sent again.
    fn lose(&mut self, slot: u32, loss: Loss, now: Nanos, shared: &mut Shared) {
        let flight = self.flights[slot as usize];
        let outcome = match loss {
            Loss::Failed => Outcome::Failed(now),
            Loss::Unknown => Outcome::Unknown,
        };
        let tally = match flight.what {
            What::Append { .. } => &mut shared.appends,
            What::Read { .. } => &mut shared.reads,
        };
        tally.lost(&self.phases, flight.started, loss, 1);
        match flight.what {
            What::Append { value } => self.note_append(&flight, value, outcome, None, shared),
            What::Read { from } => self.note_read(&flight, from, outcome, &[], false, shared),
        }
        if loss == Loss::Unknown {
            // It may still take effect: whoever goes on in this place is another process.
            self.flights[slot as usize].process = shared.new_process();
        }
        self.release(slot, State::Parked);
    }

    fn release(&mut self, slot: u32, state: State) {
        let flight = &mut self.flights[slot as usize];
        if flight.state == State::Sent {
            self.sent_count -= 1;
        }
        flight.state = state;
        match state {
            State::Free => self.free.push(slot),
            State::Retry => self.retry.push(slot),
            State::Parked => self.parked.push(slot),
            State::Sent => unreachable!("an operation is sent by `send`"),
        }
    }

    fn note_append(
        &self,
        flight: &Flight,
        value: u64,
        outcome: Outcome,
        position: Option<Position>,
        shared: &mut Shared,
    ) {
        let Some(recorder) = &mut shared.recorder else { return };
        let kind = Kind::Append {
            value: ValueId { worker: shared.worker, number: value },
            records: self.workload.records_per_append as u32,
            record_bytes: self.workload.value_bytes() as u32,
            position,
        };
        recorder.note(flight.operation(outcome, kind, shared.logs.len()));
    }

    fn note_read(
        &self,
        flight: &Flight,
        from: Position,
        outcome: Outcome,
        run: &[u8],
        eof: bool,
        shared: &mut Shared,
    ) {
        let Some(recorder) = &mut shared.recorder else { return };
        let value_of = |record: &[u8]| {
            let value = &record[..record.len().min(self.workload.value_bytes())];
            String::from_utf8_lossy(value).into_owned()
        };
        let values = Records::new(run).flatten().map(value_of).collect();
        let to = Some(from.plus(self.workload.records_per_append as u64));
        let kind = Kind::Read { from, to, values, eof, level: self.workload.level };
        recorder.note(flight.operation(outcome, kind, shared.logs.len()));
    }

    /// Takes stock, a few times a second: failed places are free again, a pause is over.
    ///
    /// # Errors
    /// [`LinkError::Timeout`] when an answer has been due for too long.
    pub fn tick(&mut self, now: Nanos) -> Result<(), LinkError> {
        self.paused = false;
        while let Some(slot) = self.parked.pop() {
            self.release(slot, State::Free);
        }
        let overdue =
            |f: &Flight| f.state == State::Sent && now.since(f.sent) > OPERATION_TIMEOUT_NS;
        let opening_since = self.numbering.opening_since().filter(|_| self.connection.is_some());
        if opening_since.is_some_and(|since| now.since(since) > OPERATION_TIMEOUT_NS) {
            return Err(LinkError::Timeout);
        }
        match self.sent_count > 0 && self.flights.iter().any(overdue) {
            true => Err(LinkError::Timeout),
            false => Ok(()),
        }
    }

    /// The connection is gone: what was sent on it is unknown.
    pub fn disconnected(&mut self, now: Nanos, shared: &mut Shared) {
        self.connection = None;
        for slot in 0..self.flights.len() as u32 {
            if self.flights[slot as usize].state == State::Sent {
                self.lose(slot, Loss::Unknown, now, shared);
            }
        }
        assert_eq!(self.sent_count, 0, "every operation sent is free, kept or lost");
    }

    /// Ends the run: what waits to be sent again is without effect, what was due in the measured
    /// phase and never sent has failed. Returns how many the latter are.
    pub fn finish(&mut self, now: Nanos, shared: &mut Shared) -> u64 {
        self.disconnected(now, shared);
        while let Some(slot) = self.retry.pop() {
            self.lose(slot, Loss::Failed, now, shared);
        }
        let Phases { measure_begin, measure_end, .. } = self.phases;
        let unsent = self
            .schedule
            .as_ref()
            .map_or(0, |schedule| schedule.untaken_between(measure_begin, measure_end));
        let appends = unsent * u64::from(self.workload.append_percent) / 100;
        shared.appends.lost(&self.phases, measure_begin, Loss::Failed, appends);
        shared.reads.lost(&self.phases, measure_begin, Loss::Failed, unsent - appends);
        unsent
    }
}

/// A run of records with bytes that do not compress.
fn template_run(workload: &Workload, index: usize) -> Vec<u8> {
    let mut rng = Rng::new(index as u64);
    let mut run = Vec::with_capacity(workload.run_bytes());
    for _ in 0..workload.records_per_append {
        let mut record = vec![0; workload.record_bytes];
        for chunk in record.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next_u64().to_le_bytes()[..chunk.len()]);
        }
        push_record(&mut run, &record);
    }
    run
}

/// Whether an answer says that an append was not in turn in its session, which is left then.
fn is_of_session(error: ErrorCode) -> bool {
    matches!(error, ErrorCode::OutOfOrder | ErrorCode::SessionExpired)
}

/// Writes the time `started` at byte `at` of each record of `run`.
fn fill_stamps(run: &mut [u8], workload: &Workload, at: usize, started: Nanos) {
    let at = RECORD_PREFIX_SIZE + at;
    for entry in run.chunks_mut(RECORD_PREFIX_SIZE + workload.record_bytes) {
        entry[at..at + STAMP_BYTES].copy_from_slice(&started.0.to_le_bytes());
    }
}

/// Writes the values from `value` on over the records of `run`.
fn fill_values(run: &mut [u8], workload: &Workload, worker: u32, value: u64) {
    let stride = RECORD_PREFIX_SIZE + workload.record_bytes;
    for (index, entry) in run.chunks_mut(stride).enumerate() {
        let record = &mut entry[RECORD_PREFIX_SIZE..][..workload.value_bytes()];
        ValueId { worker, number: value + index as u64 }.fill(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_begin_at_different_logs_and_always_at_one_that_is_there() {
        let log = |index: u16| LogId::of_group(GroupId(index % 2), LogId(1));
        let logs: Vec<LogId> = (0..7).map(log).collect();
        for worker_count in 1..20 {
            let begins = (0..worker_count).map(|worker| by_group(&logs, worker, worker_count));
            let mut starts = std::collections::BTreeSet::new();
            for groups in begins {
                let sizes: Vec<_> = groups.iter().map(|(_, logs, _)| logs.len()).collect();
                assert_eq!(sizes, [4, 3]);
                assert!(groups.iter().all(|(_, logs, next)| *next < logs.len()), "{groups:?}");
                starts.insert(groups[0].2);
            }
            assert_eq!(starts.len(), worker_count.min(4), "of {worker_count}");
        }
    }
}
