//! The task that carries a client's appends: it owns their queue, finds the leader, sends, and
//! sends again.
//!
//! Started by the [`super::Client`] at its first append; ends when the last handle is dropped and
//! nothing is left to answer. Guarantee: every append handed in is answered once, at the latest
//! when its time is over, wherever it waits: in the backlog for its number, or in the queue for its
//! answer. One that is given up in the queue goes on as a void, so that those behind it come to
//! their turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::base::{NodeId, Position, SessionTerms};
use crate::wire::ErrorCode;

use super::appends::{AppendAsk, AppendQueue, AppendReply, ToSend, Verdict};
use super::error::{AppendError, ClientError};
use super::link::{Backoff, Link};
use super::session::{Answer, Back, NoAnswer, Operation, Reply, Session, Submission};

/// Appends that wait for a number, at most; the session's window is full meanwhile.
const BACKLOG_MAX: usize = 1024;

/// The longest that a client which ends waits for its session to be closed.
pub(super) const SESSION_CLOSE_MAX: Duration = Duration::from_millis(500);

/// What becomes of an append.
pub(super) type AppendResult = Result<Position, AppendError>;

/// An append on its way to the driver.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ask: AppendAsk,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<AppendResult>,
}

/// Who waits for an append, and until when.
#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    reply: oneshot::Sender<AppendResult>,
}

pub(super) struct Driver {
    link: Arc<Link>,
    jobs: mpsc::Receiver<Job>,
    /// Whether a handle is left.
    is_open: bool,
    queue: AppendQueue<Waiting>,
    /// Appends that the queue has no room for yet. Their time is over in the order in which they
    /// came: all calls of a client have the same time.
    backlog: VecDeque<Job>,
    backoff: Backoff,
    /// When the queue is rewound.
    pause_until: Option<Instant>,
    /// A node has pointed elsewhere since the last append that ended.
    redirected: bool,
    last_failure: String,
}

/// Why a connection is left.
enum Left {
    /// It has ended, or another node leads.
    Reconnect,
    /// Nothing is left to do.
    Finished,
}

impl Driver {
    pub(super) fn new(
        link: Arc<Link>,
        jobs: mpsc::Receiver<Job>,
        terms: SessionTerms,
        seed: u64,
    ) -> Driver {
        Driver {
            link,
            jobs,
            is_open: true,
            queue: AppendQueue::new(terms),
            backlog: VecDeque::new(),
            backoff: Backoff::new(seed),
            pause_until: None,
            redirected: false,
            last_failure: "no node has been reached yet".to_owned(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.queue.is_empty() && self.backlog.is_empty() {
                match self.jobs.recv().await {
                    Some(job) => self.take(job),
                    None => {
                        if self.queue.session().is_some()
                            && let Ok(session) =
                                self.link.session(Instant::now() + SESSION_CLOSE_MAX).await
                        {
                            self.close(&session).await;
                        }
                        return;
                    }
                }
            }
            self.take_more();
            self.give_up_late();
            let deadline = match self.next_deadline() {
                Some(deadline) => deadline,
                // Only voids are left. They are for those who append later, if somebody can.
                None if self.jobs.is_closed() => return,
                None => Instant::now() + self.link.options.operation_timeout,
            };
            match self.link.session(deadline).await {
                Ok(session) => {
                    if let Left::Finished = self.serve(&session).await {
                        self.close(&session).await;
                        return;
                    }
                }
                Err(error) => {
                    self.last_failure = error.to_string();
                    // A refusal for good comes at once; time that is over is seen to above.
                    if let ClientError::Refused { .. } = error {
                        self.fail_oldest(AppendError::Unavailable(error));
                    }
                }
            }
        }
    }

    /// The session's place in the machine's table is given back, as a courtesy: waits until that is
    /// done, or for a short time.
    async fn close(&self, session: &Session) {
        if let Some(number) = self.queue.session() {
            let deadline = Instant::now() + SESSION_CLOSE_MAX;
            // What is not closed ends by its time-out.
            let _ = session.call(Operation::CloseSession(number), deadline).await;
        }
    }

    fn take(&mut self, job: Job) {
        self.backlog.push_back(job);
        self.fill_queue();
    }

    /// Gives numbers to those that wait for one, as far as the window has room.
    fn fill_queue(&mut self) {
        while self.queue.has_room() {
            let Some(Job { ask, deadline, reply }) = self.backlog.pop_front() else { return };
            self.queue.push(Waiting { deadline, reply }, ask);
        }
    }

    /// When the time of the next append is over.
    fn next_deadline(&self) -> Option<Instant> {
        let queued = self.queue.oldest().map(|waiting| waiting.deadline);
        let behind = self.backlog.front().map(|job| job.deadline);
        queued.into_iter().chain(behind).min()
    }

    /// Sends and receives on one connection until there is a reason to leave it.
    async fn serve(&mut self, session: &Arc<Session>) -> Left {
        let (to, mut back) = mpsc::unbounded_channel();
        let left = loop {
            self.fill_queue();
            if let Err(lost) = self.send(session, &to) {
                self.last_failure = lost.why;
                break Left::Reconnect;
            }
            if !self.is_open && self.queue.is_empty() && self.backlog.is_empty() {
                break Left::Finished;
            }
            let deadline = self.next_deadline();
            let far = Instant::now() + self.link.options.operation_timeout;
            tokio::select! {
                biased;
                Some(answer) = back.recv() => {
                    if let Some(left) = self.on_back(session, answer).await {
                        break left;
                    }
                    // What came with it is taken before anything is sent again.
                    while let Ok(answer) = back.try_recv() {
                        if let Some(left) = self.on_back(session, answer).await {
                            self.leave(&left);
                            return left;
                        }
                    }
                }
                () = session.ended() => {
                    self.last_failure = session.lost(true).why;
                    break Left::Reconnect;
                }
                reserved = session.reserve(), if self.queue.has_to_send() => match reserved {
                    Ok(submission) => self.submit(submission, &to),
                    Err(lost) => {
                        self.last_failure = lost.why;
                        break Left::Reconnect;
                    }
                },
                job = self.jobs.recv(), if self.is_open && self.backlog.len() < BACKLOG_MAX => {
                    match job {
                        Some(job) => {
                            self.take(job);
                            self.take_more();
                        }
                        None => self.is_open = false,
                    }
                }
                () = sleep_until(self.pause_until.unwrap_or(far)), if self.pause_until.is_some() => {
                    self.pause_until = None;
                    self.queue.rewind();
                }
                () = sleep_until(deadline.unwrap_or(far)), if deadline.is_some() => {
                    self.give_up_late();
                }
            }
        };
        self.leave(&left);
        left
    }

    fn leave(&mut self, left: &Left) {
        if matches!(left, Left::Reconnect) {
            self.pause_until = None;
            self.queue.on_connection_lost();
            self.tell_doubtful();
        }
    }

    fn take_more(&mut self) {
        while self.backlog.len() < BACKLOG_MAX {
            match self.jobs.try_recv() {
                Ok(job) => self.take(job),
                Err(_) => return,
            }
        }
    }

    /// Sends as much as the connection takes at once.
    fn send(
        &mut self,
        session: &Session,
        to: &mpsc::UnboundedSender<Back>,
    ) -> Result<(), NoAnswer> {
        while self.queue.has_to_send() {
            match session.try_reserve()? {
                Some(submission) => self.submit(submission, to),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Sends what is next, if anything is.
    fn submit(&mut self, submission: Submission<'_>, to: &mpsc::UnboundedSender<Back>) {
        let (operation, reply) = match self.queue.next_to_send() {
            Some(ToSend::OpenSession(terms)) => {
                (Operation::OpenSession(terms), Reply::Session(to.clone()))
            }
            Some(ToSend::Append { log, terms, records, run }) => {
                let (session, sequence) = (terms.session, terms.sequence);
                let reply = Reply::Append { session, sequence, to: to.clone() };
                (Operation::Append { log, terms, records, run }, reply)
            }
            None => return,
        };
        submission.send(operation, reply);
    }

    async fn on_back(&mut self, session: &Arc<Session>, back: Back) -> Option<Left> {
        let (again, leader) = match back {
            Back::Session(Answer::SessionOpened(opened)) => {
                self.queue.on_session(Some(opened));
                return None;
            }
            Back::Session(answer) => {
                self.queue.on_session(None);
                match answer {
                    Answer::Failed { code, leader, text, .. } => {
                        self.last_failure = text;
                        (code, leader)
                    }
                    other => {
                        self.last_failure = format!("{other:?} answers the wish for a session");
                        (ErrorCode::Unavailable, None)
                    }
                }
            }
            Back::Append { session: number, sequence, answer } => {
                let (reply, leader) = match &answer {
                    Answer::Appended { first, records } => {
                        (AppendReply::Appended { first: *first, records: *records }, None)
                    }
                    Answer::Failed { code, leader, detail, text } => {
                        self.last_failure.clone_from(text);
                        (AppendReply::Failed { code: *code, detail: *detail, text }, *leader)
                    }
                    Answer::Invalid(error) => {
                        self.last_failure = error.to_string();
                        let (code, text) = (ErrorCode::TooLarge, self.last_failure.as_str());
                        (AppendReply::Failed { code, detail: 0, text }, None)
                    }
                    // The connection says so itself, and ends.
                    _ => return None,
                };
                let verdict = self.queue.on_answer(number, sequence, reply);
                self.tell_doubtful();
                match verdict {
                    Verdict::Done { tag, result } => {
                        self.backoff.reset();
                        self.redirected = false;
                        if let Some(waiting) = tag {
                            // Whoever dropped the call does not care.
                            let _ = waiting.reply.send(result);
                        }
                        return None;
                    }
                    Verdict::Ignored => return None,
                    Verdict::Again(code) => (code, leader),
                }
            }
        };
        self.again(session, again, leader).await
    }

    /// Sends again after a pause, or at another node.
    async fn again(
        &mut self,
        session: &Arc<Session>,
        code: ErrorCode,
        leader: Option<NodeId>,
    ) -> Option<Left> {
        let elsewhere = matches!(
            code,
            ErrorCode::NotLeader | ErrorCode::Unavailable | ErrorCode::OutcomeUnknown
        );
        if elsewhere {
            self.link.move_from(session, leader).await;
            // The first pointer to a leader is followed at once; nodes that point in circles, or
            // know none, are not asked in a hot loop.
            if leader.is_none() || self.redirected {
                let pause = Instant::now() + self.backoff.next();
                let deadline = self.queue.oldest().map_or(pause, |waiting| waiting.deadline);
                sleep_until(pause.min(deadline)).await;
            }
            self.redirected = true;
            return Some(Left::Reconnect);
        }
        self.pause_until = Some(Instant::now() + self.backoff.next());
        None
    }

    fn tell_doubtful(&mut self) {
        while let Some((tag, error)) = self.queue.take_doubtful() {
            if let Some(waiting) = tag {
                let _ = waiting.reply.send(Err(error));
            }
        }
    }

    /// Answers those whose time is over.
    fn give_up_late(&mut self) {
        let now = Instant::now();
        while self.queue.oldest().is_some_and(|waiting| waiting.deadline <= now) {
            let why = self.last_failure.clone();
            self.fail_oldest(AppendError::Unavailable(ClientError::Unavailable { why }));
        }
        while self.backlog.front().is_some_and(|job| job.deadline <= now) {
            let Some(job) = self.backlog.pop_front() else { return };
            let why = format!("too many appends wait: {}", self.last_failure);
            let error = AppendError::Unavailable(ClientError::Unavailable { why });
            // Whoever dropped the call does not care.
            let _ = job.reply.send(Err(error));
        }
    }

    /// Answers the oldest append, which had `no_effect` if it certainly had none.
    fn fail_oldest(&mut self, no_effect: AppendError) {
        if let Some((waiting, certain)) = self.queue.give_up_oldest() {
            let error = match certain {
                true => no_effect,
                false => AppendError::OutcomeUnknown { why: self.last_failure.clone() },
            };
            let _ = waiting.reply.send(Err(error));
        }
    }
}
