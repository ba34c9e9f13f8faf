//! The async client: what users call.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::limits::{
    APPEND_BYTES_MAX, APPEND_RECORDS_MAX, GROUPS_MAX, MIB, RECORD_BYTES_MAX, SESSION_WINDOW_MAX,
};
use crate::base::records::{RECORD_PREFIX_SIZE, push_record};
use crate::base::{
    AppendTerms, ClusterId, FenceToken, GroupId, LogId, LogTerms, NodeId, Position, SessionTerms,
};
use crate::wire::status::LogStatus;
use crate::wire::{ErrorCode, NodeStatus, ReadLevel};

use super::appends::AppendAsk;
use super::connection::{INFLIGHT_MAX, ReadAsk, SubmitError};
use super::driver::{Driver, Job, SESSION_CLOSE_MAX};
use super::error::{AppendError, ClientError};
use super::follower::Follower;
use super::link::{Backoff, Link};
use super::records::RecordBatch;
use super::session::{Answer, NoAnswer, OpenError, Operation, Session};

/// Appends handed to the driver and not yet numbered; more wait.
const JOBS_MAX: usize = 1024;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster's name; a node of another cluster is refused. Without it any will do.
    pub cluster: Option<String>,
    /// An operation has failed after this long, retries and reconnects included.
    pub operation_timeout: Duration,
    /// A node that has not answered the hello after this long is passed over.
    pub connect_timeout: Duration,
    /// While one address has not answered the hello after this long, the next one is tried beside
    /// it; the first to answer is taken.
    pub attempt_delay: Duration,
    /// A connection on which requests wait and nothing has come for this long is looked into: the
    /// other members are asked who leads, and the connection is given up if another one does. About
    /// the cluster's election timeout.
    pub probe_after: Duration,
    /// A connection on which requests wait and nothing has come for this long is given up. A
    /// long poll waits at most half of it.
    pub stall_timeout: Duration,
    /// The most requests in flight on the connection; more wait their turn.
    pub inflight_max: usize,
    /// Stay with the targets given instead of moving to the leader: reads come from these
    /// replicas, at every level; appends find no leader unless one of them is it.
    pub stay: bool,
    /// A blank node is good enough: one whose cluster is not yet founded. For its status, and to found it.
    pub allow_blank: bool,
    /// Append exactly once: each append is numbered in a session of the cluster, and is sent
    /// again until its answer is known. Without, an append is sent again only after an answer
    /// that says that it had no effect.
    pub exactly_once: bool,
    /// The session ends after this long, in time during which the cluster has a leader, without
    /// an append. The client then opens another. From 1 s to 24 h.
    pub session_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            cluster: None,
            operation_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            attempt_delay: Duration::from_millis(250),
            probe_after: Duration::from_millis(400),
            stall_timeout: Duration::from_secs(4),
            inflight_max: 1024,
            stay: false,
            allow_blank: false,
            exactly_once: true,
            session_timeout: Duration::from_secs(300),
        }
    }
}

impl ClientOptions {
    fn validate(&self) -> Result<(), ClientError> {
        let rules = [
            (!self.operation_timeout.is_zero(), "operation_timeout must be above zero"),
            (!self.connect_timeout.is_zero(), "connect_timeout must be above zero"),
            (!self.attempt_delay.is_zero(), "attempt_delay must be above zero"),
            (!self.probe_after.is_zero(), "probe_after must be above zero"),
            (self.stall_timeout.as_millis() >= 2, "stall_timeout must be at least 2 ms"),
            (
                (1..=INFLIGHT_MAX).contains(&self.inflight_max),
                "inflight_max must be from 1 to 65536",
            ),
            (self.session_terms().fault().is_none(), "session_timeout must be from 1 s to 24 h"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ClientError::Options(rule)),
            None => Ok(()),
        }
    }

    fn session_terms(&self) -> SessionTerms {
        SessionTerms {
            timeout_ms: self.session_timeout.as_millis().min(u128::from(u32::MAX)) as u32,
            window: self.inflight_max.min(SESSION_WINDOW_MAX) as u32,
            nonce: 0,
        }
    }
}

/// On what conditions to append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendOptions {
    /// Only if the log's tail is here, so that these are the next records.
    pub if_tail: Option<Position>,
    /// Only if the log has taken no higher token; it takes this one then, and from then on
    /// nothing from those who show a lower one, or none.
    pub fence: Option<FenceToken>,
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
            level: ReadLevel::ReadIndex,
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

/// A number that no other client draws: 128 bits of the standard library's random keys.
fn nonce() -> u128 {
    let half = |half: u8| u128::from(RandomState::new().hash_one((std::process::id(), half)));
    (half(0) << 64 | half(1)).max(1)
}

#[derive(Debug)]
pub(super) struct Inner {
    targets: Vec<String>,
    options: ClientOptions,
    /// By group; each is made when it is first needed.
    groups: Box<[OnceLock<GroupEnd>]>,
    /// How many groups the cluster has, as the node reached first has said.
    group_count: OnceLock<u16>,
    seeds: AtomicU64,
}

/// What leads to one group: a connection, and a session for its appends.
#[derive(Debug)]
struct GroupEnd {
    link: Arc<Link>,
    /// The driver, which is started by the first append.
    driver: OnceLock<DriverEnd>,
}

/// The way to a driver, and what tells that it has ended.
#[derive(Debug)]
struct DriverEnd {
    jobs: mpsc::Sender<Job>,
    task: JoinHandle<()>,
}

impl Inner {
    fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }

    fn group(&self, group: GroupId) -> &GroupEnd {
        self.groups[usize::from(group.0)].get_or_init(|| {
            let (targets, options) = (self.targets.clone(), self.options.clone());
            let link = Arc::new(Link::new(targets, options, group, self.seed()));
            GroupEnd { link, driver: OnceLock::new() }
        })
    }
}

/// A client of one log of one cluster. Clones, and the clients of other logs made from it, share a
/// connection and a session for each group of logs that they need; calls run concurrently,
/// pipelined, and appends to the logs of one group take effect in the order in which they were
/// called.
///
/// Needs a `tokio` runtime with IO and time. Every call may be dropped half way; a dropped append
/// has an unknown outcome.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
    pub(super) log: LogId,
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
            targets,
            options,
            groups: (0..GROUPS_MAX).map(|_| OnceLock::new()).collect(),
            group_count: OnceLock::new(),
            seeds: AtomicU64::new(seed.rotate_left(32)),
        };
        let client = Client { inner: Arc::new(inner), log: LogId(0) };
        client.group_count().await?;
        Ok(client)
    }

    /// Ends the client: waits until its session is closed on the cluster, which it then does not have to
    /// hold until its time-out. A short time at most, and without a word when that fails: the session
    /// ends by itself. Nothing, while there are other clones; dropping the last handle does the same in
    /// the background, if the runtime goes on.
    pub async fn close(self) {
        let Some(inner) = Arc::into_inner(self.inner) else { return };
        let deadline = Instant::now() + SESSION_CLOSE_MAX;
        let groups = inner.groups.into_iter().filter_map(OnceLock::into_inner);
        let drivers = groups.filter_map(|end| end.driver.into_inner());
        // All of them are told first, by the senders' end; then each is waited for.
        let tasks: Vec<JoinHandle<()>> = drivers.map(|DriverEnd { task, .. }| task).collect();
        for task in tasks {
            let _ = timeout_at(deadline, task).await;
        }
    }

    /// The log that it appends to and reads.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// A client of another log of the same cluster, over the same connection if it is in the same
    /// group.
    ///
    /// ```no_run
    /// # use loggos::client::{Client, ClientError, LogTerms};
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = client.of_log(client.create_log(&LogTerms::named("orders")).await?);
    /// orders.append(&["the first order"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn of_log(&self, log: LogId) -> Client {
        Client { inner: self.inner.clone(), log }
    }

    /// A client of a group: for calls that are not about a log, like [`Client::status`] and
    /// [`Client::lead`]. One made by [`Client::of_log`] is one of the log's group.
    ///
    /// # Panics
    /// When the number is over the limit of every cluster.
    pub fn of_group(&self, group: GroupId) -> Client {
        assert!(usize::from(group.0) < GROUPS_MAX, "group {group}");
        self.of_log(LogId::of_group(group, LogId(0)))
    }

    /// How many groups the cluster has.
    ///
    /// # Errors
    /// [`ClientError`] when no node can be reached.
    pub async fn group_count(&self) -> Result<u16, ClientError> {
        if let Some(count) = self.inner.group_count.get() {
            return Ok(*count);
        }
        let session = self.inner.group(GroupId(0)).link.session(self.deadline()).await?;
        let count = session.welcome.group_count;
        if !(1..=GROUPS_MAX).contains(&usize::from(count)) {
            let why = format!("a cluster of {count} groups");
            return Err(ClientError::BadAnswer { target: session.target.clone(), why });
        }
        Ok(*self.inner.group_count.get_or_init(|| count))
    }

    fn end(&self) -> &GroupEnd {
        self.inner.group(self.log.group())
    }

    /// The way to the group of the client's log.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.end().link
    }

    /// A client of the group that the log of this name is in.
    async fn of_name(&self, name: &str) -> Result<Client, ClientError> {
        Ok(self.of_group(GroupId::of_log_name(name, self.group_count().await?)))
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.inner.options.operation_timeout
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
        self.append_if(AppendOptions::default(), records).await
    }

    /// As [`Client::append`], on conditions that are judged when the append comes to its turn in
    /// the log: all of the records are appended, or none.
    ///
    /// # Errors
    /// As there; [`AppendError::TailMoved`] and [`AppendError::Fenced`] tell what stood in the
    /// way.
    ///
    /// ```no_run
    /// # use loggos::base::FenceToken;
    /// # use loggos::client::{AppendError, AppendOptions, Client, ReadLevel};
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // Compare and append: only if nobody else has been here.
    /// let tail = client.tail(ReadLevel::ReadIndex).await?;
    /// let options = AppendOptions { if_tail: Some(tail), ..Default::default() };
    /// match client.append_if(options, &["mine"]).await {
    ///     Ok(appended) => assert_eq!(appended.first, tail),
    ///     Err(AppendError::TailMoved { tail }) => println!("somebody was faster: {tail}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// // A writer that has taken over shuts out the one before.
    /// let options = AppendOptions { fence: Some(FenceToken(8)), ..Default::default() };
    /// client.append_if(options, &["written by number 8"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append_if<R: AsRef<[u8]>>(
        &self,
        options: AppendOptions,
        records: &[R],
    ) -> Result<Appended, AppendError> {
        let run = run_of(records).map_err(AppendError::Invalid)?;
        let count = records.len() as u32;
        let AppendOptions { if_tail, fence } = options;
        let ask = AppendAsk { log: self.log, if_tail, fence, records: count, run };
        let first = match self.inner.options.exactly_once {
            true => self.append_once(ask).await?,
            false => self.append_plainly(ask).await?,
        };
        Ok(Appended { first, count })
    }

    /// Takes over the log's fence with `token`, without a record. Returns the log's tail.
    ///
    /// # Errors
    /// As [`Client::append_if`].
    pub async fn fence(&self, token: FenceToken) -> Result<Position, AppendError> {
        let fence = Some(token);
        let ask = AppendAsk { log: self.log, if_tail: None, fence, records: 0, run: Bytes::new() };
        match self.inner.options.exactly_once {
            true => self.append_once(ask).await,
            false => self.append_plainly(ask).await,
        }
    }

    /// In the client's session, by its driver.
    async fn append_once(&self, ask: AppendAsk) -> Result<Position, AppendError> {
        let link = self.link();
        let driver = self.end().driver.get_or_init(|| {
            let (jobs, receiver) = mpsc::channel(JOBS_MAX);
            let seed = self.inner.seed();
            let terms = SessionTerms { nonce: nonce(), ..link.options.session_terms() };
            let task = tokio::spawn(Driver::new(link.clone(), receiver, terms, seed).run());
            DriverEnd { jobs, task }
        });
        let jobs = &driver.jobs;
        let (reply, answer) = oneshot::channel();
        let deadline = self.deadline();
        let unavailable = |why: &str| {
            Err(AppendError::Unavailable(ClientError::Unavailable { why: why.to_owned() }))
        };
        match timeout_at(deadline, jobs.send(Job { ask, deadline, reply })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return unavailable("the client's event loop has gone"),
            Err(_) => return unavailable("too many appends wait"),
        }
        answer.await.unwrap_or_else(|_| {
            let why = "the client's event loop has gone".to_owned();
            Err(AppendError::OutcomeUnknown { why })
        })
    }

    /// Without a session: sent again only where the try before certainly had no effect.
    async fn append_plainly(&self, ask: AppendAsk) -> Result<Position, AppendError> {
        let AppendAsk { log, if_tail, fence, records, run } = ask;
        let terms = AppendTerms { if_tail, fence, ..AppendTerms::default() };
        let operation = Operation::Append { log, terms, records, run };
        match self.perform(&operation, self.deadline()).await {
            Ok((Answer::Appended { first, .. }, _)) => Ok(first),
            Ok((Answer::Invalid(error), _)) => Err(AppendError::Invalid(error)),
            Ok((Answer::Failed { code: ErrorCode::TailMoved, detail, .. }, _)) => {
                Err(AppendError::TailMoved { tail: Position(detail) })
            }
            Ok((Answer::Failed { code: ErrorCode::Fenced, detail, .. }, _)) => {
                Err(AppendError::Fenced { token: FenceToken(detail) })
            }
            Ok((Answer::Failed { code, text, .. }, _)) if code.append_had_no_effect() => {
                Err(AppendError::Rejected { code, text })
            }
            Ok((Answer::Failed { text, .. }, _)) => Err(AppendError::OutcomeUnknown { why: text }),
            Ok((answer, _)) => Err(AppendError::OutcomeUnknown { why: format!("{answer:?}") }),
            Err(Failure::NoEffect(error)) => Err(AppendError::Unavailable(error)),
            Err(Failure::Unknown(why)) => Err(AppendError::OutcomeUnknown { why }),
        }
    }

    /// Creates a log, unless there is one of that name; returns its number.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn create_log(&self, terms: &LogTerms) -> Result<LogId, ClientError> {
        if let Some(fault) = terms.fault() {
            return Err(ClientError::Options(fault));
        }
        let client = self.of_name(&terms.name).await?;
        match client.ask(&Operation::CreateLog(terms.clone())).await? {
            (Answer::LogCreated(log), _) => Ok(log),
            (other, target) => Err(bad_answer(target, &other)),
        }
    }

    /// Deletes a log with all of its records. Whoever appends to it or reads it from then on is
    /// told that there is none. Returns whether there was one (a lost answer is asked for again,
    /// and the log is gone then).
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete_log(&self, log: LogId) -> Result<bool, ClientError> {
        match self.of_log(log).ask(&Operation::DeleteLog(log)).await {
            Ok((Answer::Done, _)) => Ok(true),
            Err(ClientError::Server { code: ErrorCode::NoSuchLog, .. }) => Ok(false),
            Ok((other, target)) => Err(bad_answer(target, &other)),
            Err(error) => Err(error),
        }
    }

    /// The log of this name; `None` when there is none.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn find_log(
        &self,
        name: &str,
        level: ReadLevel,
    ) -> Result<Option<LogStatus>, ClientError> {
        let ask = Operation::FindLog { name: name.to_owned(), level };
        match self.of_name(name).await?.ask(&ask).await {
            Ok((Answer::Logs(logs), _)) => Ok(logs.into_iter().next()),
            Err(ClientError::Server { code: ErrorCode::NoSuchLog, .. }) => Ok(None),
            Ok((other, target)) => Err(bad_answer(target, &other)),
            Err(error) => Err(error),
        }
    }

    /// All logs, by name. Each group tells its own: logs of different groups are not seen at one
    /// moment.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list_logs(&self, level: ReadLevel) -> Result<Vec<LogStatus>, ClientError> {
        let mut all = Vec::new();
        for group in (0..self.group_count().await?).map(GroupId) {
            all.append(&mut self.of_group(group).list_logs_of_group(level).await?);
        }
        all.sort_by(|a: &LogStatus, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn list_logs_of_group(&self, level: ReadLevel) -> Result<Vec<LogStatus>, ClientError> {
        let mut all: Vec<LogStatus> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |log| log.name.clone());
            match self.ask(&Operation::ListLogs { after, logs_max: 0, level }).await? {
                (Answer::Logs(logs), _) if logs.is_empty() => return Ok(all),
                (Answer::Logs(logs), _) => all.extend(logs),
                (other, target) => return Err(bad_answer(target, &other)),
            }
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
        let ClientOptions { stall_timeout, operation_timeout, .. } = self.inner.options;
        let wait_max = stall_timeout.min(operation_timeout) / 2;
        let wait_ms = options.wait.min(wait_max).as_millis().min(u128::from(u32::MAX)) as u32;
        let ReadOptions { level, records_max, bytes_max, wait: _ } = options;
        let ask = ReadAsk { log: self.log, from, records_max, bytes_max, level, wait_ms };
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
        let seed = self.inner.seed();
        Follower::new(self.clone(), from, seed)
    }

    /// The next position to be given out.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn tail(&self, level: ReadLevel) -> Result<Position, ClientError> {
        match self.ask(&Operation::Tail { log: self.log, level }).await? {
            (Answer::Tail(tail), _) => Ok(tail),
            (other, target) => Err(bad_answer(target, &other)),
        }
    }

    /// How the node is that this client is connected to (the leader of the client's group, when there
    /// is one).
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        match self.ask(&Operation::Status).await? {
            (Answer::Status(status), _) => Ok(*status),
            (other, target) => Err(bad_answer(target, &other)),
        }
    }

    /// Hands the leadership of the client's group over to the member `node`, which has begun to take over when this
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

    /// Has the member at `target` found the cluster, over a connection of its own: every member must
    /// run, blank, with the same list. Repeating it, anywhere, is safe: the same cluster is told. Waits
    /// for as long as an operation may take.
    ///
    /// # Errors
    /// [`ClientError::Server`] with [`ErrorCode::NotFounded`] when nothing was begun (a member does not
    /// answer, has another list, belongs to another cluster …), with [`ErrorCode::OutcomeUnknown`] when
    /// the founding was begun and is not finished yet. Otherwise, whether it was begun is not known.
    pub async fn init_at(&self, target: &str) -> Result<ClusterId, ClientError> {
        let deadline = self.deadline();
        let session = self.link().open(target, deadline).await.map_err(|error| {
            let target = target.to_owned();
            match error {
                OpenError::Refused { reason, text } => {
                    ClientError::Refused { target, reason, text }
                }
                OpenError::Failed(why) => ClientError::Unavailable { why },
            }
        })?;
        // The node answers before this client stops waiting.
        let wait = deadline.saturating_duration_since(Instant::now()).mul_f64(0.9);
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        match session.call(Operation::Init { wait_ms }, deadline).await {
            Ok(Answer::Founded(cluster)) => Ok(cluster),
            Ok(Answer::Failed { code, text, .. }) => Err(ClientError::Server { code, text }),
            Ok(other) => Err(bad_answer(target.to_owned(), &other)),
            Err(NoAnswer { why, .. }) => {
                Err(ClientError::Server { code: ErrorCode::OutcomeUnknown, text: why })
            }
        }
    }

    /// How the client's group of the node at `target` is, over a connection of its own; not retried.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status_of(&self, target: &str) -> Result<NodeStatus, ClientError> {
        let deadline = self.deadline();
        let session = self.link().open(target, deadline).await.map_err(|error| {
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
        Ok(self.link().session(self.deadline()).await?.welcome.members.clone())
    }

    /// Anything but an append, retried until it is answered or its time is over: it reads, or repeating
    /// it does no harm.
    async fn ask(&self, operation: &Operation) -> Result<(Answer, String), ClientError> {
        match self.perform(operation, self.deadline()).await {
            Ok((Answer::Failed { code, text, .. }, _)) => Err(ClientError::Server { code, text }),
            Ok((Answer::Bad(why), target)) => Err(ClientError::BadAnswer { target, why }),
            Ok(answered) => Ok(answered),
            Err(Failure::NoEffect(error)) => Err(error),
            Err(Failure::Unknown(why)) => Err(ClientError::OutcomeUnknown { why }),
        }
    }

    /// Finds a node, sends, and decides what a failure permits. Returns the answer and who gave
    /// it.
    async fn perform(
        &self,
        operation: &Operation,
        deadline: Instant,
    ) -> Result<(Answer, String), Failure> {
        let mut doubt = None;
        let outcome = self.try_until_answered(operation, deadline, &mut doubt).await;
        match (outcome, doubt) {
            // The last try had no effect. One before it may have had, and nobody says otherwise.
            (Err(Failure::NoEffect(_)), Some(why)) => Err(Failure::Unknown(why)),
            (Ok((Answer::Failed { code, .. }, _)), Some(why)) if may_retry(operation, code) => {
                Err(Failure::Unknown(why))
            }
            (outcome, _) => outcome,
        }
    }

    /// As [`Client::perform`]; `doubt` says why an earlier try may have taken effect.
    async fn try_until_answered(
        &self,
        operation: &Operation,
        deadline: Instant,
        doubt: &mut Option<String>,
    ) -> Result<(Answer, String), Failure> {
        let link = self.link();
        let mut backoff = Backoff::new(self.inner.seed());
        let mut redirects = 0u32;
        loop {
            let session = link.session(deadline).await.map_err(Failure::NoEffect)?;
            match session.call(operation.clone(), deadline).await {
                Ok(Answer::Failed { code, leader, detail, text }) if may_retry(operation, code) => {
                    if code == ErrorCode::OutcomeUnknown && has_effect(operation) {
                        *doubt = Some(text.clone());
                    }
                    if code != ErrorCode::Overloaded {
                        link.move_from(&session, leader).await;
                    }
                    redirects += 1;
                    // The first pointer to a leader is followed at once; nodes that point in
                    // circles, or know none, are not asked in a hot loop.
                    let at_once = redirects == 1 && leader.is_some();
                    let pause = if at_once { Duration::ZERO } else { backoff.next() };
                    if timeout_at(deadline, sleep(pause)).await.is_err() {
                        let failed = Answer::Failed { code, leader, detail, text };
                        return Ok((failed, session.target.clone()));
                    }
                }
                Ok(answer) => return Ok((answer, session.target.clone())),
                Err(lost) => {
                    if lost.sent && has_effect(operation) {
                        *doubt = Some(lost.why.clone());
                    }
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
            self.link().move_from(session, None).await;
        }
        let is_append = operation.is_append();
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
    let is_append = operation.is_append();
    let without_harm = matches!(code, ErrorCode::Corrupted | ErrorCode::OutcomeUnknown);
    code.is_retryable() || (!is_append && without_harm)
}

/// Whether `operation`, which is no append, changes something.
fn has_effect(operation: &Operation) -> bool {
    matches!(operation, Operation::CreateLog(_) | Operation::DeleteLog(_) | Operation::Lead { .. })
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
