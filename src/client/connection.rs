//! The protocol half of one client connection, without a socket: requests in, bytes out; bytes
//! in, responses out.
//!
//! Callers: the async [`super::Client`] and the load generator, each with sockets of its own
//! kind. Guarantee: every answer is matched to the one request it belongs to, whatever the order;
//! what the server says wrong is a typed error; and when the connection dies, [`drain`] names the
//! requests whose outcome is open. The steady path allocates nothing per request.
//!
//! [`drain`]: ClientConnection::drain

use std::fmt;

use crate::base::limits::RECORD_BYTES_MAX;
use crate::base::records::{RECORD_PREFIX_SIZE, push_record};
use crate::base::{
    AppendTerms, ClusterDigest, GroupId, LogId, LogTerms, NodeId, Position, SessionId, SessionTerms,
};
use crate::wire::client::{AppendHead, decode_response, encode_append, encode_request};
use crate::wire::hello::{decode_hello_reply, encode_hello};
use crate::wire::{
    Frame, FrameDecoder, FrameEncoder, Hello, HelloReply, HelloRole, Limits, PROTOCOL_VERSION,
    ReadLevel, RefuseReason, Request, RequestId, WireError,
};
// What [`Incoming`] hands out, for callers that do not know `wire`.
pub use crate::wire::{Response, Welcome};

/// The most requests in flight that a connection may be made for.
pub const INFLIGHT_MAX: usize = 64 * 1024;

/// Why a request cannot be submitted now, or ever. It had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The hello has not been answered yet.
    #[error("the connection does not stand yet")]
    NotReady,
    /// The connection was refused or has failed.
    #[error("the connection has ended")]
    Ended,
    /// As many requests are in flight as the connection takes.
    #[error("too many requests are in flight")]
    Full,
    /// An append needs a record.
    #[error("an append needs at least one record")]
    Empty,
    /// Over a limit of the server.
    #[error("{what} of {size} is over the server's limit of {limit}")]
    TooLarge {
        /// `a record in bytes`, `a number of records`, `an append in bytes`.
        what: &'static str,
        /// What was asked for.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// What makes a connection unusable: the server broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The bytes are not what they should be.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A response to nothing that is in flight.
    #[error("an answer to request {:x}, which is not in flight", .0.0)]
    UnknownRequest(RequestId),
    /// A response of another kind or size than its request.
    #[error("an answer that does not fit its request: {0}")]
    WrongAnswer(&'static str),
}

/// What has come in.
#[derive(Debug)]
pub enum Incoming<'a, T> {
    /// The connection stands; requests may be submitted.
    Welcome(&'a Welcome),
    /// The server refuses the connection, which is of no more use.
    Refused {
        /// Why, for programs.
        reason: RefuseReason,
        /// Why, for people.
        text: &'a str,
    },
    /// A request has been answered.
    Answer {
        /// What was handed in with the request.
        tag: T,
        /// The answer.
        response: Response<'a>,
    },
    /// Records for a follower, which goes on.
    Pushed {
        /// What was handed in with the request.
        tag: &'a T,
        /// [`Response::Records`].
        response: Response<'a>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Append {
        records: u32,
    },
    Read,
    Tail,
    Status,
    Session,
    Created,
    Logs,
    Done,
    /// Any number of records, then the end.
    Follow,
    Lead,
    Init,
}

#[derive(Debug)]
struct Entry<T> {
    /// Rises with each use, so that a doubled answer does not hit the entry's next user.
    generation: u32,
    pending: Option<(T, Expected)>,
}

/// The requests in flight. An id is the entry's index and generation.
#[derive(Debug)]
struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    count_max: usize,
    followers: usize,
}

impl<T> Slab<T> {
    fn count(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    fn insert(&mut self, tag: T, expected: Expected) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, pending: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.followers += usize::from(expected == Expected::Follow);
        entry.pending = Some((tag, expected));
        RequestId(u64::from(entry.generation) << 32 | u64::from(index))
    }

    /// What the request in flight with this id expects.
    fn expected(&self, id: RequestId) -> Option<Expected> {
        let entry = self.entries.get(id.0 as u32 as usize)?;
        let (_, expected) = entry.pending.as_ref()?;
        Some(*expected).filter(|_| entry.generation == (id.0 >> 32) as u32)
    }

    fn tag(&self, id: RequestId) -> Option<&T> {
        self.entries.get(id.0 as u32 as usize)?.pending.as_ref().map(|(tag, _)| tag)
    }

    /// Ends the request in flight with this id.
    fn remove(&mut self, id: RequestId) -> Option<T> {
        let index = id.0 as u32;
        let (tag, expected) = self.entries.get_mut(index as usize)?.pending.take()?;
        self.followers -= usize::from(expected == Expected::Follow);
        self.free.push(index);
        Some(tag)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Ready,
    Ended,
}

/// One connection of a client; `T` is whatever the caller wants back with each answer.
///
/// ```
/// use loggos::client::connection::ClientConnection;
/// let mut connection: ClientConnection<u64> = ClientConnection::new(None, 256);
/// // The hello is in the output already: send it, then hand what arrives to `receive`.
/// let to_send = connection.take_output(Vec::new());
/// assert!(!to_send.is_empty() && !connection.is_ready());
/// ```
pub struct ClientConnection<T> {
    encoder: FrameEncoder,
    decoder: FrameDecoder<Vec<u8>>,
    output: Vec<u8>,
    slab: Slab<T>,
    state: State,
    limits: Limits,
    group: GroupId,
}

impl<T> fmt::Debug for ClientConnection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection")
            .field("state", &self.state)
            .field("inflight", &self.slab.count())
            .field("output", &self.output.len())
            .finish()
    }
}

impl<T> ClientConnection<T> {
    /// A connection that says hello and means `cluster`, if given. At most `inflight_max`
    /// requests (or what the server takes, if that is less) are in flight at a time.
    ///
    /// # Panics
    /// When `inflight_max` is 0 or over [`INFLIGHT_MAX`].
    pub fn new(cluster: Option<ClusterDigest>, inflight_max: usize) -> ClientConnection<T> {
        Self::of_group(cluster, GroupId(0), inflight_max)
    }

    /// As [`ClientConnection::new`], to a group of the cluster: it takes requests for the logs of
    /// that group ([`LogId::group`]) and no others.
    ///
    /// # Panics
    /// As there.
    pub fn of_group(
        cluster: Option<ClusterDigest>,
        group: GroupId,
        inflight_max: usize,
    ) -> ClientConnection<T> {
        assert!((1..=INFLIGHT_MAX).contains(&inflight_max), "inflight_max {inflight_max}");
        let mut encoder = FrameEncoder::new();
        let mut output = Vec::new();
        let role = HelloRole::Client;
        let hello = Hello { protocol_version: PROTOCOL_VERSION, cluster, role, group };
        encode_hello(&hello, &mut encoder, &mut output);
        ClientConnection {
            encoder,
            decoder: FrameDecoder::plain(),
            output,
            slab: Slab {
                entries: Vec::new(),
                free: Vec::new(),
                count_max: inflight_max,
                followers: 0,
            },
            state: State::Greeting,
            limits: Limits::default(),
            group,
        }
    }

    /// Whether the hello has been answered and requests may be submitted.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether a request would be taken now.
    pub fn can_submit(&self) -> bool {
        self.is_ready() && self.slab.count() < self.slab.count_max
    }

    /// Requests submitted and not yet answered.
    pub fn inflight_count(&self) -> usize {
        self.slab.count()
    }

    /// Of the requests submitted and not yet answered: followers.
    pub fn followers_count(&self) -> usize {
        self.slab.followers
    }

    /// The limits of the server, or those of this version before it has answered.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes waiting to be sent.
    pub fn output_size(&self) -> usize {
        self.output.len()
    }

    /// Takes the bytes to send, in exchange for an empty buffer to go on with (one that has been
    /// sent, so that two buffers serve for ever; its content is cleared).
    pub fn take_output(&mut self, mut spare: Vec<u8>) -> Vec<u8> {
        spare.clear();
        std::mem::replace(&mut self.output, spare)
    }

    fn check_open(&self) -> Result<(), SubmitError> {
        match self.state {
            State::Greeting => Err(SubmitError::NotReady),
            State::Ended => Err(SubmitError::Ended),
            State::Ready if self.can_submit() => Ok(()),
            State::Ready => Err(SubmitError::Full),
        }
    }

    fn check_append(&self, records: usize, run_size: usize) -> Result<(), SubmitError> {
        self.check_open()?;
        let records_max = self.limits.append_records_max as usize;
        let bytes_max = self.limits.append_bytes_max as usize;
        if records == 0 {
            Err(SubmitError::Empty)
        } else if records > records_max {
            let what = "a number of records";
            Err(SubmitError::TooLarge { what, size: records, limit: records_max })
        } else if run_size > bytes_max {
            let what = "an append in bytes";
            Err(SubmitError::TooLarge { what, size: run_size, limit: bytes_max })
        } else {
            Ok(())
        }
    }

    /// Submits an append of `records`, which are copied once, into the output. The tag comes back
    /// with the answer, or at once with the error. An append of no records takes its turn in its
    /// session, or sets a fence.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn append<R: AsRef<[u8]>>(
        &mut self,
        tag: T,
        log: LogId,
        terms: AppendTerms,
        records: &[R],
    ) -> Result<RequestId, (T, SubmitError)> {
        let record_max = (self.limits.record_bytes_max as usize).min(RECORD_BYTES_MAX);
        let mut run_size = 0;
        for record in records {
            let size = record.as_ref().len();
            if size > record_max {
                let what = "a record in bytes";
                return Err((tag, SubmitError::TooLarge { what, size, limit: record_max }));
            }
            run_size += RECORD_PREFIX_SIZE + size;
        }
        self.append_with(tag, log, terms, records.len(), run_size, |out| {
            records.iter().for_each(|record| push_record(out, record.as_ref()));
        })
    }

    /// Submits an append of `records` records that stand in `run` (`base::records`). The run is
    /// not walked here; the server refuses one that is not what it should be.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn append_run(
        &mut self,
        tag: T,
        log: LogId,
        terms: AppendTerms,
        records: u32,
        run: &[u8],
    ) -> Result<RequestId, (T, SubmitError)> {
        self.append_with(tag, log, terms, records as usize, run.len(), |out| {
            out.extend_from_slice(run);
        })
    }

    fn append_with(
        &mut self,
        tag: T,
        log: LogId,
        terms: AppendTerms,
        records: usize,
        run_size: usize,
        put_run: impl FnOnce(&mut Vec<u8>),
    ) -> Result<RequestId, (T, SubmitError)> {
        let is_void = records == 0
            && (terms.session != SessionId::NONE || terms.fence.is_some())
            && self.can_submit();
        if !is_void && let Err(error) = self.check_append(records, run_size) {
            return Err((tag, error));
        }
        let records = records as u32;
        let request = self.slab.insert(tag, Expected::Append { records });
        let head = AppendHead { request, log, terms, records };
        encode_append(&head, self.group, &mut self.encoder, &mut self.output, put_run);
        Ok(request)
    }

    fn submit<'r>(
        &mut self,
        tag: T,
        expected: Expected,
        make: impl FnOnce(RequestId) -> Request<'r>,
    ) -> Result<RequestId, (T, SubmitError)> {
        if let Err(error) = self.check_open() {
            return Err((tag, error));
        }
        let request = self.slab.insert(tag, expected);
        encode_request(&make(request), self.group, &mut self.encoder, &mut self.output);
        Ok(request)
    }

    /// Submits a read; `ask.wait_ms` above 0 makes it a long poll.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn read(&mut self, tag: T, ask: &ReadAsk) -> Result<RequestId, (T, SubmitError)> {
        let ReadAsk { log, from, records_max, bytes_max, level, wait_ms } = *ask;
        self.submit(tag, Expected::Read, |request| Request::Read {
            request,
            log,
            from,
            records_max,
            bytes_max,
            level,
            wait_ms,
        })
    }

    /// Submits a question for the tail.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn tail(
        &mut self,
        tag: T,
        log: LogId,
        level: ReadLevel,
    ) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Tail, |request| Request::Tail { request, log, level })
    }

    /// Submits a question for the node's status.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn status(&mut self, tag: T) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Status, |request| Request::Status { request })
    }

    /// Submits the opening of a session; [`Response::SessionOpened`] answers it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn open_session(
        &mut self,
        tag: T,
        terms: SessionTerms,
    ) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Session, |request| Request::OpenSession { request, terms })
    }

    /// Submits the end of a session; [`Response::Done`] answers it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn close_session(
        &mut self,
        tag: T,
        session: SessionId,
    ) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Done, |request| Request::CloseSession { request, session })
    }

    /// Submits the creation of a log; [`Response::LogCreated`] answers it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn create_log(&mut self, tag: T, terms: &LogTerms) -> Result<RequestId, (T, SubmitError)> {
        let LogTerms { name, record_bytes_max } = terms;
        let record_bytes_max = *record_bytes_max;
        self.submit(tag, Expected::Created, |request| Request::CreateLog {
            request,
            name,
            record_bytes_max,
        })
    }

    /// Submits the deletion of a log; [`Response::Done`] answers it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn delete_log(&mut self, tag: T, log: LogId) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Done, |request| Request::DeleteLog { request, log })
    }

    /// Submits the question for the log of a name; [`Response::LogsAre`] answers it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn find_log(
        &mut self,
        tag: T,
        name: &str,
        level: ReadLevel,
    ) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Logs, |request| Request::FindLog { request, name, level })
    }

    /// Submits the question for at most `logs_max` logs behind a name; [`Response::LogsAre`]
    /// answers it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn list_logs(
        &mut self,
        tag: T,
        after: &str,
        logs_max: u32,
        level: ReadLevel,
    ) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Logs, |request| Request::ListLogs {
            request,
            after,
            logs_max,
            level,
        })
    }

    /// Submits a follower with its first credit: [`Incoming::Pushed`] brings records until
    /// [`Incoming::Answer`] brings its end.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn follow(
        &mut self,
        tag: T,
        log: LogId,
        from: Position,
        credit_bytes: u32,
    ) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Follow, |request| Request::Follow {
            request,
            log,
            from,
            credit_bytes,
        })
    }

    /// Gives a follower credit; nothing happens when it has ended.
    pub fn credit(&mut self, follower: RequestId, bytes: u32) {
        if self.is_ready() && self.slab.expected(follower) == Some(Expected::Follow) {
            let request = Request::Credit { request: follower, bytes };
            encode_request(&request, self.group, &mut self.encoder, &mut self.output);
        }
    }

    /// Asks a follower to end; nothing happens when it has ended.
    pub fn unfollow(&mut self, follower: RequestId) {
        if self.is_ready() && self.slab.expected(follower) == Some(Expected::Follow) {
            let request = Request::Unfollow { request: follower };
            encode_request(&request, self.group, &mut self.encoder, &mut self.output);
        }
    }

    /// Submits a request to hand the leadership over to `node`.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub fn lead(&mut self, tag: T, node: NodeId) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Lead, |request| Request::Lead { request, node })
    }

    /// Submits [`Request::Init`].
    ///
    /// # Errors
    /// As [`ClientConnection::append`].
    pub fn init(&mut self, tag: T, wait_ms: u32) -> Result<RequestId, (T, SubmitError)> {
        self.submit(tag, Expected::Init, |request| Request::Init { request, wait_ms })
    }

    /// Takes received bytes and hands out what they complete.
    ///
    /// # Errors
    /// [`ConnectionError`] when the server breaks the protocol: close the connection, then
    /// [`ClientConnection::drain`] it.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mut on_incoming: impl FnMut(Incoming<'_, T>),
    ) -> Result<(), ConnectionError> {
        let mut rest = bytes;
        while self.state != State::Ended {
            let ClientConnection { decoder, slab, state, limits, .. } = self;
            let result = match decoder.next(&mut rest, &()) {
                Ok(None) => return Ok(()),
                Err(error) => Err(error.into()),
                Ok(Some(frame)) if *state == State::Greeting => {
                    greet(&frame, slab, state, limits, &mut on_incoming)
                }
                Ok(Some(frame)) => answer(&frame, slab, &mut on_incoming),
            };
            if let Err(error) = result {
                self.state = State::Ended;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends the connection and gives back the tags of all requests that were not answered: their
    /// outcome is unknown (they are in the output or beyond).
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.state = State::Ended;
        self.slab.free.clear();
        self.slab.followers = 0;
        self.slab.entries.drain(..).filter_map(|entry| entry.pending.map(|(tag, _)| tag))
    }
}

/// What a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAsk {
    /// The log.
    pub log: LogId,
    /// The first position wanted.
    pub from: Position,
    /// The most records wanted.
    pub records_max: u32,
    /// The most bytes of records (with their prefixes) wanted.
    pub bytes_max: u32,
    /// How fresh.
    pub level: ReadLevel,
    /// How long the server may wait for the first record, in milliseconds.
    pub wait_ms: u32,
}

fn greet<T>(
    frame: &Frame<'_, Vec<u8>>,
    slab: &mut Slab<T>,
    state: &mut State,
    limits: &mut Limits,
    on_incoming: &mut impl FnMut(Incoming<'_, T>),
) -> Result<(), ConnectionError> {
    match decode_hello_reply(frame)? {
        HelloReply::Welcome(welcome) if welcome.protocol_version != PROTOCOL_VERSION => {
            *state = State::Ended;
            let text = format!(
                "the node speaks protocol {}, this client {PROTOCOL_VERSION}",
                welcome.protocol_version
            );
            on_incoming(Incoming::Refused { reason: RefuseReason::OtherVersion, text: &text });
        }
        HelloReply::Welcome(welcome) => {
            *state = State::Ready;
            *limits = welcome.limits;
            let inflight_max = (limits.inflight_max as usize).max(1);
            slab.count_max = slab.count_max.min(inflight_max);
            on_incoming(Incoming::Welcome(&welcome));
        }
        HelloReply::Refused { protocol_version: _, reason, text } => {
            *state = State::Ended;
            on_incoming(Incoming::Refused { reason, text: &text });
        }
    }
    Ok(())
}

fn answer<T>(
    frame: &Frame<'_, Vec<u8>>,
    slab: &mut Slab<T>,
    on_incoming: &mut impl FnMut(Incoming<'_, T>),
) -> Result<(), ConnectionError> {
    let response = decode_response(frame)?;
    let id = response.id();
    let expected = slab.expected(id).ok_or(ConnectionError::UnknownRequest(id))?;
    match (&response, expected) {
        (Response::Records { .. }, Expected::Follow) => {
            let tag = slab.tag(id).ok_or(ConnectionError::UnknownRequest(id))?;
            on_incoming(Incoming::Pushed { tag, response });
            return Ok(());
        }
        (Response::Failed { .. }, _)
        | (Response::Records { .. }, Expected::Read)
        | (Response::TailIs { .. }, Expected::Tail)
        | (Response::StatusIs { .. }, Expected::Status)
        | (Response::SessionOpened { .. }, Expected::Session)
        | (Response::LogCreated { .. }, Expected::Created)
        | (Response::LogsAre { .. }, Expected::Logs)
        | (Response::Done { .. }, Expected::Done | Expected::Follow)
        | (Response::LedBy { .. }, Expected::Lead)
        | (Response::Founded { .. }, Expected::Init) => {}
        (Response::Appended { records, .. }, Expected::Append { records: asked }) => {
            // A void that comes after its append gets the append's own answer.
            if *records != asked && asked > 0 {
                let why = "another number of records than was appended";
                return Err(ConnectionError::WrongAnswer(why));
            }
        }
        // The request stays in flight: `drain` tells that its outcome is open.
        _ => return Err(ConnectionError::WrongAnswer("another kind of answer")),
    }
    let tag = slab.remove(id).ok_or(ConnectionError::UnknownRequest(id))?;
    on_incoming(Incoming::Answer { tag, response });
    Ok(())
}
