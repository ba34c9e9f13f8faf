//! One connection of the async client: a task that owns the socket and the protocol half, and the
//! handle through which concurrent calls share it.
//!
//! What a call needs to know when the connection dies is whether its request may have left: a
//! [`Ticket`] is moved from "queued" to "sent" by the task before a byte of it is encoded, or to
//! "withdrawn" by the caller, by one atomic exchange, so that both agree.
//!
//! A connection ends when it breaks, when it has been silent for the client's `stall_timeout` while
//! requests wait, and already before that when another node leads ([`Prober`]).

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::base::{
    AppendTerms, ClusterDigest, ClusterId, GroupId, LogId, LogTerms, NodeId, Position, Sequence,
    SessionId, SessionTerms,
};
use crate::wire::status::LogStatus;
use crate::wire::{ErrorCode, NodeStatus, ReadLevel, RefuseReason, RequestId, Response, Welcome};

use super::api::ClientOptions;
use super::connection::{ClientConnection, Incoming, ReadAsk, SubmitError};
use super::probe::Prober;
use super::records::RecordBatch;

/// Calls handed to a connection and not yet encoded; more wait.
const COMMANDS_MAX: usize = 1024;
/// Encoded bytes waiting for the socket; above it calls wait.
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes read from the socket at a time.
const RECEIVE_BYTES: usize = 64 * 1024;

/// What a call asks for. Cloning shares the records.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Append {
        log: LogId,
        terms: AppendTerms,
        records: u32,
        run: Bytes,
    },
    Read(ReadAsk),
    Tail {
        log: LogId,
        level: ReadLevel,
    },
    Status,
    OpenSession(SessionTerms),
    CloseSession(SessionId),
    CreateLog(LogTerms),
    DeleteLog(LogId),
    FindLog {
        name: String,
        level: ReadLevel,
    },
    ListLogs {
        after: String,
        logs_max: u32,
        level: ReadLevel,
    },
    Follow {
        log: LogId,
        from: Position,
        credit_bytes: u32,
    },
    /// Credit for the follower that was started with this flow; not answered.
    Credit {
        flow: Flow,
        bytes: u32,
    },
    Unfollow {
        flow: Flow,
    },
    Lead {
        node: NodeId,
    },
    Init {
        wait_ms: u32,
    },
}

impl Operation {
    /// Whether it changes the log, so that doing it twice is not the same as once.
    pub(super) fn is_append(&self) -> bool {
        matches!(self, Operation::Append { .. })
    }
}

/// A follower's number on its connection, known once it is submitted.
pub(super) type Flow = Arc<OnceLock<RequestId>>;

/// What a call got.
#[derive(Debug)]
pub(super) enum Answer {
    Appended {
        first: Position,
        records: u32,
    },
    Records(RecordBatch),
    Tail(Position),
    Status(Box<NodeStatus>),
    SessionOpened(SessionId),
    LogCreated(LogId),
    Logs(Vec<LogStatus>),
    Done,
    LedBy(NodeId),
    Founded(ClusterId),
    Failed {
        code: ErrorCode,
        leader: Option<NodeId>,
        detail: u64,
        text: String,
    },
    /// The connection did not take it. No effect.
    Invalid(SubmitError),
    /// The answer makes no sense.
    Bad(String),
}

/// Why a call got nothing.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// Whether the request may have left.
    pub(super) sent: bool,
    /// Whether the connection is still there: only the time is over.
    pub(super) timed_out: bool,
    pub(super) why: String,
}

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Whether a request may have left.
#[derive(Debug, Default)]
struct Ticket(AtomicU8);

impl Ticket {
    /// Moves from "queued"; false when the other side was faster.
    fn mark(&self, state: u8) -> bool {
        self.0.compare_exchange(QUEUED, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Who gets an answer.
pub(super) enum Reply {
    /// A call that waits for it.
    Call(oneshot::Sender<Answer>),
    /// The driver of the client's appends. (Bounded by its window.)
    Append { session: SessionId, sequence: Sequence, to: mpsc::UnboundedSender<Back> },
    /// The same, which has asked for a session.
    Session(mpsc::UnboundedSender<Back>),
    /// A follower. (Bounded by its credit.)
    Follow { flow: Flow, to: mpsc::UnboundedSender<Answer> },
    /// Nobody.
    Nobody,
}

/// An answer for the driver of the client's appends.
pub(super) enum Back {
    Session(Answer),
    Append { session: SessionId, sequence: Sequence, answer: Answer },
}

impl Reply {
    /// Hands over the answer. Whoever asked may have gone; then nobody needs it.
    fn send(self, answer: Answer) {
        match self {
            Reply::Call(to) => drop(to.send(answer)),
            Reply::Append { session, sequence, to } => {
                drop(to.send(Back::Append { session, sequence, answer }));
            }
            Reply::Session(to) => drop(to.send(Back::Session(answer))),
            Reply::Follow { to, .. } => drop(to.send(answer)),
            Reply::Nobody => {}
        }
    }
}

struct Command {
    operation: Operation,
    ticket: Arc<Ticket>,
    reply: Reply,
}

/// The handle on a connection that stands (or has just died). The task ends when the last handle
/// is dropped and everything in flight is answered.
#[derive(Debug)]
pub(super) struct Session {
    commands: mpsc::Sender<Command>,
    pub(super) welcome: Welcome,
    pub(super) target: String,
    ended: Arc<OnceLock<End>>,
}

/// Why a connection has ended.
#[derive(Debug)]
struct End {
    why: String,
    /// The node that leads instead of the silent one.
    deposed_by: Option<NodeId>,
}

impl End {
    fn because(why: impl Into<String>) -> End {
        End { why: why.into(), deposed_by: None }
    }
}

/// Why no session came to be.
#[derive(Clone, Debug)]
pub(super) enum OpenError {
    Refused { reason: RefuseReason, text: String },
    Failed(String),
}

impl Session {
    /// Connects to `target` and says hello.
    pub(super) async fn open(
        target: &str,
        (cluster, group): (Option<ClusterDigest>, GroupId),
        options: &ClientOptions,
        deadline: Instant,
    ) -> Result<Session, OpenError> {
        let greeting = greet(target, cluster, group, options.inflight_max);
        let (stream, connection, welcome) = match timeout_at(deadline, greeting).await {
            Ok(result) => result?,
            Err(_) => return Err(OpenError::Failed(format!("{target} does not answer"))),
        };
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let ended = Arc::new(OnceLock::new());
        let prober = match options.stay {
            true => None,
            false => Prober::new(&welcome, (cluster, group), options.probe_after),
        };
        let task = Task {
            connection,
            commands: receiver,
            is_open: true,
            outgoing: Vec::new(),
            written: 0,
            stall_timeout: options.stall_timeout,
            last_progress: Instant::now(),
            prober,
        };
        let (said, name) = (ended.clone(), target.to_owned());
        tokio::spawn(async move { task.run(stream, &name, &said).await });
        Ok(Session { commands, welcome, target: target.to_owned(), ended })
    }

    /// Whether calls still make sense.
    pub(super) fn is_alive(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Sends `operation` and waits for its answer.
    pub(super) async fn call(
        &self,
        operation: Operation,
        deadline: Instant,
    ) -> Result<Answer, NoAnswer> {
        let ticket = Arc::new(Ticket::default());
        let (reply, answer) = oneshot::channel();
        let command = Command { operation, ticket: ticket.clone(), reply: Reply::Call(reply) };
        match timeout_at(deadline, self.commands.send(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.lost(false)),
            Err(_) => return Err(self.timed_out(false)),
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            // If the task did not take it off the queue, it never will now.
            Ok(Err(_)) => Err(self.lost(!ticket.mark(WITHDRAWN))),
            Err(_) => Err(self.timed_out(!ticket.mark(WITHDRAWN))),
        }
    }

    /// Waits until the connection takes another operation, which the result then hands over.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn reserve(&self) -> Result<Submission<'_>, NoAnswer> {
        self.commands.reserve().await.map(Submission).map_err(|_| self.lost(false))
    }

    /// Hands `operation` over as soon as the connection takes it.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn submit(&self, operation: Operation, reply: Reply) -> Result<(), NoAnswer> {
        self.reserve().await.map(|submission| submission.send(operation, reply))
    }

    /// As [`Session::reserve`]; `None` when the connection does not take one at once.
    pub(super) fn try_reserve(&self) -> Result<Option<Submission<'_>>, NoAnswer> {
        match self.commands.try_reserve() {
            Ok(permit) => Ok(Some(Submission(permit))),
            Err(mpsc::error::TrySendError::Full(())) => Ok(None),
            Err(mpsc::error::TrySendError::Closed(())) => Err(self.lost(false)),
        }
    }

    /// Hands `operation` over at once or not at all; its answer is dropped.
    pub(super) fn try_submit(&self, operation: Operation) {
        let command = Command { operation, ticket: Arc::default(), reply: Reply::Nobody };
        // What is not taken is a courtesy to a connection that is full or gone.
        let _ = self.commands.try_send(command);
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&self) {
        self.commands.closed().await;
    }

    /// The node that leads instead of this connection's, which was found out while that was silent.
    pub(super) fn deposed_by(&self) -> Option<NodeId> {
        self.ended.get().and_then(|end| end.deposed_by)
    }

    pub(super) fn lost(&self, sent: bool) -> NoAnswer {
        let why = match self.ended.get() {
            Some(end) => end.why.clone(),
            None => format!("the connection to {} has ended", self.target),
        };
        NoAnswer { sent, timed_out: false, why }
    }

    fn timed_out(&self, sent: bool) -> NoAnswer {
        let why = format!("{} has not answered in time", self.target);
        NoAnswer { sent, timed_out: true, why }
    }
}

/// The place of one operation on its way to the connection.
pub(super) struct Submission<'a>(mpsc::Permit<'a, Command>);

impl Submission<'_> {
    /// Queues `operation`, in the order of these calls; its answer goes to `reply`, unless the
    /// connection ends first ([`Session::ended`]).
    pub(super) fn send(self, operation: Operation, reply: Reply) {
        self.0.send(Command { operation, ticket: Arc::default(), reply });
    }
}

/// Connects to `target` and says hello. Returns what both ends go on with.
pub(super) async fn greet<T>(
    target: &str,
    cluster: Option<ClusterDigest>,
    group: GroupId,
    inflight_max: usize,
) -> Result<(TcpStream, ClientConnection<T>, Welcome), OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::Failed(format!("{target}: {error}"));
    let mut stream = TcpStream::connect(target).await.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let mut connection = ClientConnection::of_group(cluster, group, inflight_max);
    let hello = connection.take_output(Vec::new());
    stream.write_all(&hello).await.map_err(|error| failed(&error))?;
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let size = stream.read(&mut buffer).await.map_err(|error| failed(&error))?;
        if size == 0 {
            return Err(failed(&"closed the connection instead of answering the hello"));
        }
        let mut result = None;
        let received = connection.receive(&buffer[..size], |incoming| match incoming {
            Incoming::Welcome(welcome) => result = Some(Ok(welcome.clone())),
            Incoming::Refused { reason, text } => {
                result = Some(Err(OpenError::Refused { reason, text: text.to_owned() }));
            }
            Incoming::Answer { .. } | Incoming::Pushed { .. } => {}
        });
        received.map_err(|error| failed(&error))?;
        if let Some(result) = result {
            return Ok((stream, connection, result?));
        }
    }
}

struct Task {
    connection: ClientConnection<Reply>,
    commands: mpsc::Receiver<Command>,
    /// Whether a handle is left.
    is_open: bool,
    outgoing: Vec<u8>,
    written: usize,
    stall_timeout: Duration,
    /// When something last came in, or went out after silence.
    last_progress: Instant,
    /// Asks the others when this node is silent; `None` where nobody else may be asked.
    prober: Option<Prober>,
}

/// A probe that is under way, if one is.
type Probe = Option<Pin<Box<dyn Future<Output = Option<NodeId>> + Send>>>;

impl Task {
    async fn run(mut self, stream: TcpStream, target: &str, ended: &OnceLock<End>) {
        let end = self.serve(stream).await;
        // Said before the replies are dropped (with `self`): whoever waits for one reads it.
        let _ = ended.set(End { why: format!("{target}: {}", end.why), ..end });
        // From here on nothing is taken off the queue: what waits there was not sent.
        self.commands.close();
    }

    /// Moves bytes until there is a reason to stop, which it returns.
    async fn serve(&mut self, mut stream: TcpStream) -> End {
        let mut probe: Probe = None;
        let (mut reader, mut writer) = stream.split();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            self.refill();
            let has_output = self.written < self.outgoing.len();
            let inflight = self.connection.inflight_count();
            // Followers may be silent for as long as there is nothing to tell.
            let waiting = inflight - self.connection.followers_count();
            if !self.is_open && inflight == 0 && !has_output {
                return End::because("no longer used");
            }
            let probe_at = self.probe_at();
            let may_probe = waiting > 0 && probe.is_none() && self.prober.is_some();
            let takes_commands = self.is_open
                && self.connection.can_submit()
                && self.connection.output_size() < OUTPUT_BYTES_MAX;
            // Every branch may be dropped half way without losing bytes or commands.
            tokio::select! {
                biased;
                result = reader.read(&mut buffer) => match result {
                    Ok(0) => return End::because("closed by the server"),
                    Ok(size) => {
                        self.last_progress = Instant::now();
                        probe = None;
                        if let Err(error) = self.connection.receive(&buffer[..size], finish) {
                            return End::because(error.to_string());
                        }
                    }
                    Err(error) => return End::because(error.to_string()),
                },
                result = writer.write(&self.outgoing[self.written..]), if has_output => {
                    match result {
                        Ok(0) => return End::because("the socket takes nothing more"),
                        Ok(size) => self.written += size,
                        Err(error) => return End::because(error.to_string()),
                    }
                }
                command = self.commands.recv(), if takes_commands => match command {
                    Some(command) => self.take(command),
                    None => self.is_open = false,
                },
                found = awaiting(&mut probe), if probe.is_some() => {
                    probe = None;
                    self.prober.iter_mut().for_each(Prober::ended);
                    if let Some(leader) = found {
                        let silence = self.last_progress.elapsed().as_millis();
                        let why = format!("silent for {silence} ms, and node {leader} leads");
                        return End { why, deposed_by: Some(leader) };
                    }
                }
                () = sleep_until(self.last_progress + self.stall_timeout), if waiting > 0 => {
                    let silence = self.stall_timeout.as_millis();
                    return End::because(format!("silent for {silence} ms"));
                }
                () = sleep_until(probe_at), if may_probe => {
                    probe = self.prober.as_mut().map(|prober| Box::pin(prober.probe()) as _);
                }
            }
        }
    }

    /// When the others are to be asked, if this node stays silent.
    fn probe_at(&self) -> Instant {
        let since = self.last_progress;
        self.prober.as_ref().map_or(since + self.stall_timeout, |prober| prober.next_at(since))
    }

    fn refill(&mut self) {
        if self.written == self.outgoing.len() && self.connection.output_size() > 0 {
            self.outgoing = self.connection.take_output(std::mem::take(&mut self.outgoing));
            self.written = 0;
        }
    }

    /// Encodes a command and those queued behind it.
    fn take(&mut self, command: Command) {
        if self.connection.inflight_count() == self.connection.followers_count() {
            self.last_progress = Instant::now();
        }
        self.submit(command);
        while self.connection.can_submit() && self.connection.output_size() < OUTPUT_BYTES_MAX {
            match self.commands.try_recv() {
                Ok(command) => self.submit(command),
                Err(_) => return,
            }
        }
    }

    fn submit(&mut self, command: Command) {
        if !command.ticket.mark(SENT) {
            return;
        }
        let (connection, reply) = (&mut self.connection, command.reply);
        let submitted = match command.operation {
            Operation::Append { log, terms, records, run } => {
                connection.append_run(reply, log, terms, records, &run)
            }
            Operation::Read(ask) => connection.read(reply, &ask),
            Operation::Tail { log, level } => connection.tail(reply, log, level),
            Operation::Status => connection.status(reply),
            Operation::OpenSession(terms) => connection.open_session(reply, terms),
            Operation::CloseSession(session) => connection.close_session(reply, session),
            Operation::CreateLog(terms) => connection.create_log(reply, &terms),
            Operation::DeleteLog(log) => connection.delete_log(reply, log),
            Operation::FindLog { name, level } => connection.find_log(reply, &name, level),
            Operation::ListLogs { after, logs_max, level } => {
                connection.list_logs(reply, &after, logs_max, level)
            }
            Operation::Follow { log, from, credit_bytes } => {
                let flow = match &reply {
                    Reply::Follow { flow, .. } => Some(flow.clone()),
                    _ => None,
                };
                let followed = connection.follow(reply, log, from, credit_bytes);
                if let (Ok(request), Some(flow)) = (&followed, flow) {
                    let first = flow.set(*request);
                    assert!(first.is_ok(), "a flow is started once");
                }
                followed
            }
            Operation::Credit { flow, bytes } => {
                flow.get().into_iter().for_each(|request| connection.credit(*request, bytes));
                return;
            }
            Operation::Unfollow { flow } => {
                flow.get().into_iter().for_each(|request| connection.unfollow(*request));
                return;
            }
            Operation::Lead { node } => connection.lead(reply, node),
            Operation::Init { wait_ms } => connection.init(reply, wait_ms),
        };
        if let Err((reply, error)) = submitted {
            reply.send(Answer::Invalid(error));
        }
    }
}

/// What the probe finds; never ready where none is under way.
async fn awaiting(probe: &mut Probe) -> Option<NodeId> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

/// Hands an answer to its caller, who may have gone.
fn finish(incoming: Incoming<'_, Reply>) {
    match incoming {
        Incoming::Answer { tag, response } => tag.send(answer_of(&response)),
        Incoming::Pushed { tag: Reply::Follow { to, .. }, response } => {
            // A follower that is gone has asked for its end, or its credit runs out.
            let _ = to.send(answer_of(&response));
        }
        _ => {}
    }
}

fn answer_of(response: &Response<'_>) -> Answer {
    match *response {
        Response::Appended { first, records, .. } => Answer::Appended { first, records },
        Response::Records { first, records, tail, run, .. } => {
            match RecordBatch::new(first, tail, records, Bytes::copy_from_slice(run)) {
                Ok(batch) => Answer::Records(batch),
                Err(error) => Answer::Bad(error.to_string()),
            }
        }
        Response::TailIs { tail, .. } => Answer::Tail(tail),
        Response::StatusIs { json, .. } => match serde_json::from_slice(json) {
            Ok(status) => Answer::Status(Box::new(status)),
            Err(error) => Answer::Bad(format!("the status: {error}")),
        },
        Response::LedBy { node, .. } => Answer::LedBy(node),
        Response::Founded { cluster, .. } => Answer::Founded(cluster),
        Response::SessionOpened { session, .. } => Answer::SessionOpened(session),
        Response::LogCreated { log, .. } => Answer::LogCreated(log),
        Response::LogsAre { json, .. } => match serde_json::from_slice(json) {
            Ok(logs) => Answer::Logs(logs),
            Err(error) => Answer::Bad(format!("the list of logs: {error}")),
        },
        Response::Done { .. } => Answer::Done,
        Response::Failed { error, leader, detail, text, .. } => {
            Answer::Failed { code: error, leader, detail, text: text.to_owned() }
        }
    }
}
