//! The async client: what users call.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, MIB, RECORD_BYTES_MAX};
use crate::base::records::{RECORD_PREFIX_SIZE, push_record};
use crate::base::{LogId, NodeId, Position};
use crate::wire::{ErrorCode, NodeStatus, ReadLevel};

use super::connection::{AppendName, INFLIGHT_MAX, ReadAsk, SubmitError};
use super::error::{AppendError, ClientError};
use super::follower::Follower;
use super::link::{Backoff, Link};
use super::records::RecordBatch;
use super::session::{Answer, NoAnswer, OpenError, Operation, Session};

/// The log that is appended to and read.
const LOG: LogId = LogId(0);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster's name; a node of another cluster is refused. Without it any will do.
    pub cluster: Option<String>,
    /// An operation has failed after this long, retries and reconnects included.
    pub operation_timeout: Duration,
    /// A node that has not answered the hello after this long is passed over.
    pub connect_timeout: Duration,
    /// A connection on which requests wait and nothing has come for this long is given up. A
    /// long poll waits at most half of it.
    pub stall_timeout: Duration,
    /// The most requests in flight on the connection; more wait their turn.
    pub inflight_max: usize,
    /// Stay with the targets given instead of moving to the leader: reads come from these
    /// replicas, at every level; appends find no leader unless one of them is it.
    pub stay: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            cluster: None,
            operation_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(4),
            inflight_max: 1024,
            stay: false,
        }
    }
}

impl ClientOptions {
    fn validate(&self) -> Result<(), ClientError> {
        let rules = [
            (!self.operation_timeout.is_zero(), "operation_timeout must be above zero"),
            (!self.connect_timeout.is_zero(), "connect_timeout must be above zero"),
            (self.stall_timeout.as_millis() >= 2, "stall_timeout must be at least 2 ms"),
            (
                (1..=INFLIGHT_MAX).contains(&self.inflight_max),
                "inflight_max must be from 1 to 65536",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ClientError::Options(rule)),
            None => Ok(()),
        }
    }
}

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// How fresh.
    pub level: ReadLevel,
    /// The most records at a time.
    pub records_max: u32,
    /// The most bytes at a time (one record comes even if larger).
    pub bytes_max: u32,
    /// How long the server may wait for the first record before it answers with none. At most
    /// half the client's `stall_timeout` and `operation_timeout`.
    pub wait: Duration,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            level: ReadLevel::Local,
            records_max: APPEND_RECORDS_MAX as u32,
            bytes_max: MIB as u32,
            wait: Duration::ZERO,
        }
    }
}

/// Where appended records stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The position of the first one; the others follow it.
    pub first: Position,
    /// How many.
    pub count: u32,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    /// Names this client's appends, so that a retry is known as one.
    session: u64,
    sequence: AtomicU64,
    seeds: AtomicU64,
}

/// A client of one cluster. Clones share its connection; calls run concurrently, pipelined.
///
/// Needs a `tokio` runtime with IO and time. Every call may be dropped half way; a dropped append
/// has an unknown outcome.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

/// Why [`Client::perform`] has no answer.
enum Failure {
    /// Nothing was left to try it on in time; never sent, or sent and certainly without effect.
    NoEffect(ClientError),
    /// Sent, and the answer is lost.
    Unknown(String),
}

impl Client {
    /// Connects to one of `targets` (`host:port`), or the leader it points to.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when all refuse, [`ClientError::Unavailable`] when none could be
    /// reached within `operation_timeout`, [`ClientError::Options`] for options that cannot work.
    ///
    /// ```no_run
    /// # use loggos::client::{Client, ClientOptions};
    /// # async fn example() -> Result<(), loggos::client::ClientError> {
    /// let options = ClientOptions { cluster: Some("orders".to_owned()), ..Default::default() };
    /// let client = Client::connect(["10.0.0.1:7101", "10.0.0.2:7101"], options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect<T: Into<String>>(
        targets: impl IntoIterator<Item = T>,
        options: ClientOptions,
    ) -> Result<Client, ClientError> {
        options.validate()?;
        let targets: Vec<String> = targets.into_iter().map(Into::into).collect();
        if targets.is_empty() {
            return Err(ClientError::Options("at least one target is needed"));
        }
        // The standard library's per-process random keys: the one source of randomness here.
        let seed = RandomState::new().hash_one(std::process::id());
        let inner = Inner {
            session: seed | 1,
            sequence: AtomicU64::new(1),
            seeds: AtomicU64::new(seed.rotate_left(32)),
            link: Link::new(targets, options, seed),
        };
        let client = Client { inner: Arc::new(inner) };
        client.inner.link.session(client.deadline()).await?;
        Ok(client)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.link.options.operation_timeout
    }

    /// Appends `records`, together and in this order, and returns their positions once they are
    /// durable on a quorum.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::had_no_effect`] says whether it certainly did not happen.
    ///
    /// ```no_run
    /// # use loggos::client::{AppendError, Client};
    /// # async fn example(client: Client) {
    /// match client.append(&["a record", "another"]).await {
    ///     Ok(appended) => println!("from {}", appended.first),
    ///     Err(error) if error.had_no_effect() => println!("not appended: {error}"),
    ///     Err(error) => println!("perhaps appended: {error}"),
    /// }
    /// # }
    /// ```
    pub async fn append<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Appended, AppendError> {
        let run = run_of(records).map_err(AppendError::Invalid)?;
        let count = records.len() as u32;
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        let name = AppendName { session: self.inner.session, sequence };
        let operation = Operation::Append { log: LOG, name, records: count, run };
        match self.perform(&operation, self.deadline()).await {
            Ok((Answer::Appended { first }, _)) => Ok(Appended { first, count }),
            Ok((Answer::Invalid(error), _)) => Err(AppendError::Invalid(error)),
            Ok((Answer::Failed { code, text, .. }, _)) if code.append_had_no_effect() => {
                Err(AppendError::Rejected { code, text })
            }
            Ok((Answer::Failed { text, .. }, _)) => Err(AppendError::OutcomeUnknown { why: text }),
            Ok((answer, _)) => Err(AppendError::OutcomeUnknown { why: format!("{answer:?}") }),
            Err(Failure::NoEffect(error)) => Err(AppendError::Unavailable(error)),
            Err(Failure::Unknown(why)) => Err(AppendError::OutcomeUnknown { why }),
        }
    }

    /// Reads records from `from` on: none when there is nothing there yet.
    ///
    /// # Errors
    /// [`ClientError`]; a read has no effect, so it is retried until `operation_timeout`.
    pub async fn read(
        &self,
        from: Position,
        options: ReadOptions,
    ) -> Result<RecordBatch, ClientError> {
        let ClientOptions { stall_timeout, operation_timeout, .. } = self.inner.link.options;
        let wait_max = stall_timeout.min(operation_timeout) / 2;
        let wait_ms = options.wait.min(wait_max).as_millis().min(u128::from(u32::MAX)) as u32;
        let ReadOptions { level, records_max, bytes_max, wait: _ } = options;
        let ask = ReadAsk { log: LOG, from, records_max, bytes_max, level, wait_ms };
        let (answer, target) = self.ask(&Operation::Read(ask)).await?;
        match answer {
            Answer::Records(batch) if batch.is_empty() || batch.first() == from => Ok(batch),
            Answer::Records(batch) => {
                let why = format!("records from {} where {from} was asked for", batch.first());
                Err(ClientError::BadAnswer { target, why })
            }
            other => Err(bad_answer(target, &other)),
        }
    }

    /// Follows the log from `from` on: every record once, in order, whatever breaks in between.
    pub fn follow(&self, from: Position) -> Follower {
        Follower::new(self.clone(), from)
    }

    /// The next position to be given out.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn tail(&self, level: ReadLevel) -> Result<Position, ClientError> {
        match self.ask(&Operation::Tail { log: LOG, level }).await? {
            (Answer::Tail(tail), _) => Ok(tail),
            (other, target) => Err(bad_answer(target, &other)),
        }
    }

    /// How the node is that this client is connected to (the leader, when there is one).
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        match self.ask(&Operation::Status).await? {
            (Answer::Status(status), _) => Ok(*status),
            (other, target) => Err(bad_answer(target, &other)),
        }
    }

    /// Hands the leadership over to the member `node`, which has begun to take over when this
    /// returns (or leads already). Not tried again when the leader cannot: it goes on leading.
    ///
    /// # Errors
    /// [`ClientError::Server`] when there is no such member, or when it has not taken over: it is
    /// not connected, too far behind, or somebody else has.
    ///
    /// ```no_run
    /// # use loggos::base::NodeId;
    /// # async fn example(client: loggos::client::Client) -> Result<(), loggos::client::ClientError> {
    /// client.lead(NodeId(2)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lead(&self, node: NodeId) -> Result<(), ClientError> {
        match self.ask(&Operation::Lead { node }).await? {
            (Answer::LedBy(led), _) if led == node => Ok(()),
            (other, target) => Err(bad_answer(target, &other)),
        }
    }

    /// How the node at `target` is, over a connection of its own; not retried.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status_of(&self, target: &str) -> Result<NodeStatus, ClientError> {
        let deadline = self.deadline();
        let session = self.inner.link.open(target, deadline).await.map_err(|error| {
            let target = target.to_owned();
            match error {
                OpenError::Refused { reason, text } => {
                    ClientError::Refused { target, reason, text }
                }
                OpenError::Failed(why) => ClientError::Unavailable { why },
            }
        })?;
        match session.call(Operation::Status, deadline).await {
            Ok(Answer::Status(status)) => Ok(*status),
            Ok(Answer::Failed { code, text, .. }) => Err(ClientError::Server { code, text }),
            Ok(other) => Err(bad_answer(target.to_owned(), &other)),
            Err(NoAnswer { why, .. }) => Err(ClientError::Unavailable { why }),
        }
    }

    /// The members and addresses that the connected node has told of.
    ///
    /// # Errors
    /// [`ClientError`] when no node can be reached.
    pub async fn members(&self) -> Result<Vec<(NodeId, String)>, ClientError> {
        Ok(self.inner.link.session(self.deadline()).await?.welcome.members.clone())
    }

    /// An operation without effect: retried until it is answered or its time is over.
    async fn ask(&self, operation: &Operation) -> Result<(Answer, String), ClientError> {
        match self.perform(operation, self.deadline()).await {
            Ok((Answer::Failed { code, text, .. }, _)) => Err(ClientError::Server { code, text }),
            Ok((Answer::Bad(why), target)) => Err(ClientError::BadAnswer { target, why }),
            Ok(answered) => Ok(answered),
            Err(Failure::NoEffect(error)) => Err(error),
            Err(Failure::Unknown(why)) => Err(ClientError::Unavailable { why }),
        }
    }

    /// Finds a node, sends, and decides what a failure permits. Returns the answer and who gave
    /// it.
    async fn perform(
        &self,
        operation: &Operation,
        deadline: Instant,
    ) -> Result<(Answer, String), Failure> {
        let link = &self.inner.link;
        let mut backoff = Backoff::new(self.inner.seeds.fetch_add(1, Ordering::Relaxed));
        let mut redirects = 0u32;
        loop {
            let session = link.session(deadline).await.map_err(Failure::NoEffect)?;
            match session.call(operation.clone(), deadline).await {
                Ok(Answer::Failed { code, leader, text }) if may_retry(operation, code) => {
                    if code != ErrorCode::Overloaded {
                        link.move_from(&session, leader).await;
                    }
                    redirects += 1;
                    // The first pointer to a leader is followed at once; nodes that point in
                    // circles, or know none, are not asked in a hot loop.
                    let at_once = redirects == 1 && leader.is_some();
                    let pause = if at_once { Duration::ZERO } else { backoff.next() };
                    if timeout_at(deadline, sleep(pause)).await.is_err() {
                        let failed = Answer::Failed { code, leader, text };
                        return Ok((failed, session.target.clone()));
                    }
                }
                Ok(answer) => return Ok((answer, session.target.clone())),
                Err(lost) => {
                    self.after_loss(&session, operation, lost).await?;
                    if timeout_at(deadline, sleep(backoff.next())).await.is_err() {
                        let why = format!("{}: time is over", session.target);
                        return Err(Failure::NoEffect(ClientError::Unavailable { why }));
                    }
                }
            }
        }
    }

    /// `Ok` when the operation may be tried again.
    async fn after_loss(
        &self,
        session: &Arc<Session>,
        operation: &Operation,
        lost: NoAnswer,
    ) -> Result<(), Failure> {
        if lost.timed_out && lost.sent {
            // It takes requests and does not answer: the next call tries another node.
            self.inner.link.move_from(session, None).await;
        }
        let is_append = matches!(operation, Operation::Append { .. });
        match lost {
            NoAnswer { sent: true, why, .. } if is_append => Err(Failure::Unknown(why)),
            NoAnswer { timed_out: true, why, .. } => {
                Err(Failure::NoEffect(ClientError::Unavailable { why }))
            }
            _ => Ok(()),
        }
    }
}

/// Whether sending `operation` again after this answer is safe and of use.
fn may_retry(operation: &Operation, code: ErrorCode) -> bool {
    if matches!(operation, Operation::Lead { .. }) {
        return code == ErrorCode::NotLeader;
    }
    let is_append = matches!(operation, Operation::Append { .. });
    code.is_retryable() || (!is_append && code == ErrorCode::Corrupted)
}

fn bad_answer(target: String, answer: &Answer) -> ClientError {
    ClientError::BadAnswer { target, why: format!("{answer:?}") }
}

/// The records as one run, checked against the limits that hold for every server; the connection
/// checks those of the server it talks to.
fn run_of<R: AsRef<[u8]>>(records: &[R]) -> Result<Bytes, SubmitError> {
    if records.is_empty() {
        return Err(SubmitError::Empty);
    }
    if records.len() > APPEND_RECORDS_MAX {
        let (what, size) = ("a number of records", records.len());
        return Err(SubmitError::TooLarge { what, size, limit: APPEND_RECORDS_MAX });
    }
    let mut run_size = 0;
    for record in records {
        let size = record.as_ref().len();
        if size > RECORD_BYTES_MAX {
            let what = "a record in bytes";
            return Err(SubmitError::TooLarge { what, size, limit: RECORD_BYTES_MAX });
        }
        run_size += RECORD_PREFIX_SIZE + size;
    }
    if run_size > APPEND_BYTES_MAX {
        let what = "an append in bytes";
        return Err(SubmitError::TooLarge { what, size: run_size, limit: APPEND_BYTES_MAX });
    }
    let mut run = Vec::with_capacity(run_size);
    records.iter().for_each(|record| push_record(&mut run, record.as_ref()));
    Ok(run.into())
}
