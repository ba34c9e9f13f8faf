//! The native client protocol: requests and responses, pipelined, answered in any order.
//!
//! Everything is borrowed: an append's run of records is a slice of the received bytes, and a
//! response is encoded straight into the output. The run itself is not walked here: the server
//! checks it with `base::records::check_run` and answers, where closing the connection would be
//! too harsh.

use super::decoder::{Frame, PayloadBuffer};
use super::error::WireError;
use super::fields::{Fields, PutFields};
use super::frame::{FrameEncoder, FrameKind, PayloadStamp};
use super::hello::TEXT_BYTES_MAX;
use crate::base::{GroupId, LogId, NodeId, Position};

/// Chosen by the client, given back with the response; unique among its requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadLevel {
    /// What this node has applied; may be stale.
    #[default]
    Local,
    /// Linearizable, by one round trip to a quorum.
    ReadIndex,
    /// Linearizable, by the leader's lease.
    Lease,
}

impl ReadLevel {
    fn from_number(number: u8) -> Option<ReadLevel> {
        [ReadLevel::Local, ReadLevel::ReadIndex, ReadLevel::Lease]
            .into_iter()
            .find(|level| *level as u8 == number)
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Append these records, together and in this order.
    Append {
        /// Comes back with the response.
        request: RequestId,
        /// The log.
        log: LogId,
        /// The client's session; 0 = none. With `sequence` it names the append over retries.
        session: u64,
        /// The append's number within the session.
        sequence: u64,
        /// Records in `run`.
        records: u32,
        /// The records (`base::records`), not yet checked.
        run: &'a [u8],
    },
    /// Send records.
    Read {
        /// Comes back with the response.
        request: RequestId,
        /// The log.
        log: LogId,
        /// The first position wanted.
        from: Position,
        /// The most records wanted.
        records_max: u32,
        /// The most bytes of run wanted; one record is sent even if larger.
        bytes_max: u32,
        /// How fresh.
        level: ReadLevel,
        /// When there is nothing at `from` yet: answer after this many milliseconds at the
        /// latest, or as soon as there is something.
        wait_ms: u32,
    },
    /// Tell the next position to be given out.
    Tail {
        /// Comes back with the response.
        request: RequestId,
        /// The log.
        log: LogId,
        /// How fresh.
        level: ReadLevel,
    },
    /// Hand the leadership over to a member.
    Lead {
        /// Comes back with the response.
        request: RequestId,
        /// The member that is to lead.
        node: NodeId,
    },
    /// Tell how the node is.
    Status {
        /// Comes back with the response.
        request: RequestId,
    },
}

/// What a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// The records are chosen, durable on a quorum, and have their positions.
    Appended {
        /// The request.
        request: RequestId,
        /// The position of its first record; the others follow.
        first: Position,
        /// How many records.
        records: u32,
    },
    /// Records that were asked for; none when there is nothing (yet) at that position.
    Records {
        /// The request.
        request: RequestId,
        /// The position of the first record in `run`.
        first: Position,
        /// Records in `run`.
        records: u32,
        /// The next position to be given out, as far as this node has applied.
        tail: Position,
        /// The records (`base::records`).
        run: &'a [u8],
    },
    /// The next position to be given out.
    TailIs {
        /// The request.
        request: RequestId,
        /// The position.
        tail: Position,
    },
    /// How the node is.
    StatusIs {
        /// The request.
        request: RequestId,
        /// JSON of a [`super::NodeStatus`].
        json: &'a [u8],
    },
    /// The leadership has been handed over: the member has begun to take over, or leads already.
    LedBy {
        /// The request.
        request: RequestId,
        /// The member.
        node: NodeId,
    },
    /// The request has failed.
    Failed {
        /// The request.
        request: RequestId,
        /// Why, for programs.
        error: ErrorCode,
        /// Where to go instead, if known.
        leader: Option<NodeId>,
        /// Why, for people.
        text: &'a str,
    },
}

/// Why a request failed, and what that means for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A record, or the append, is over the limits. No effect; never retry.
    TooLarge,
    /// The node's windows are full. No effect; retry after a while.
    Overloaded,
    /// The node does not lead and has proposed nothing. No effect; retry at the leader. (A
    /// leader deposed after it has proposed answers `OutcomeUnknown`.)
    NotLeader,
    /// No leader or no quorum is known, and nothing was proposed. No effect; retry after a while.
    Unavailable,
    /// Proposed, but leadership was lost before it was seen chosen. MAY HAVE HAPPENED, or happen
    /// yet.
    OutcomeUnknown,
    /// There is no room in the log; refused before it was proposed. No effect.
    DiskFull,
    /// This version cannot do that (a read level). No effect.
    Unsupported,
    /// There is no such log. No effect.
    NoSuchLog,
    /// The request makes no sense (a run that is no run of records). No effect.
    BadRequest,
    /// What was asked for is damaged on this node; another may have it. Answers reads only; for
    /// an append it would mean no effect.
    Corrupted,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 10] = [
        ErrorCode::TooLarge,
        ErrorCode::Overloaded,
        ErrorCode::NotLeader,
        ErrorCode::Unavailable,
        ErrorCode::OutcomeUnknown,
        ErrorCode::DiskFull,
        ErrorCode::Unsupported,
        ErrorCode::NoSuchLog,
        ErrorCode::BadRequest,
        ErrorCode::Corrupted,
    ];

    /// Whether an append answered with this has certainly had no effect and never will.
    pub fn append_had_no_effect(self) -> bool {
        self != ErrorCode::OutcomeUnknown
    }

    /// Whether the same append may succeed a little later or elsewhere, without risk.
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorCode::Overloaded | ErrorCode::NotLeader | ErrorCode::Unavailable)
    }

    fn number(self) -> u16 {
        1 + self as u16
    }

    fn from_number(number: u16) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| code.number() == number)
    }
}

impl Request<'_> {
    /// The request's id.
    pub fn id(&self) -> RequestId {
        match *self {
            Request::Append { request, .. }
            | Request::Read { request, .. }
            | Request::Tail { request, .. }
            | Request::Lead { request, .. }
            | Request::Status { request } => request,
        }
    }
}

impl Response<'_> {
    /// The id of the request it answers.
    pub fn id(&self) -> RequestId {
        match *self {
            Response::Appended { request, .. }
            | Response::Records { request, .. }
            | Response::TailIs { request, .. }
            | Response::StatusIs { request, .. }
            | Response::LedBy { request, .. }
            | Response::Failed { request, .. } => request,
        }
    }
}

/// Adds the frame of `request` to the end of `out`.
///
/// # Panics
/// When an append's run is over the frame's payload limit; the client checks the append's.
pub fn encode_request(
    request: &Request<'_>,
    group: GroupId,
    encoder: &mut FrameEncoder,
    out: &mut Vec<u8>,
) {
    if let Request::Append { request, log, session, sequence, records, run } = *request {
        let head = AppendHead { request, log, session, sequence, records };
        encode_append(&head, group, encoder, out, |out| out.extend_from_slice(run));
        return;
    }
    let start = FrameEncoder::begin(out);
    out.put_u64(request.id().0);
    let kind = match *request {
        Request::Append { .. } => unreachable!("encoded above"),
        Request::Read { request: _, log, from, records_max, bytes_max, level, wait_ms } => {
            out.put_u32(log.0);
            out.put_u64(from.0);
            out.put_u32(records_max);
            out.put_u32(bytes_max);
            out.put_u8(level as u8);
            out.put_u32(wait_ms);
            FrameKind::Read
        }
        Request::Tail { request: _, log, level } => {
            out.put_u32(log.0);
            out.put_u8(level as u8);
            FrameKind::Tail
        }
        Request::Lead { request: _, node } => {
            out.put_u16(node.0);
            FrameKind::Lead
        }
        Request::Status { request: _ } => FrameKind::Status,
    };
    let meta_end = out.len();
    encoder.finish(kind, group, start..meta_end, PayloadStamp::NONE, out);
}

/// [`Request::Append`] without its run.
#[derive(Clone, Copy, Debug)]
pub struct AppendHead {
    /// Comes back with the response.
    pub request: RequestId,
    /// The log.
    pub log: LogId,
    /// As in [`Request::Append`].
    pub session: u64,
    /// As in [`Request::Append`].
    pub sequence: u64,
    /// Records in the run.
    pub records: u32,
}

/// Adds the frame of an append to the end of `out`; `put_run` adds the run itself, so that the
/// records are copied once.
///
/// # Panics
/// As [`encode_request`].
pub fn encode_append(
    head: &AppendHead,
    group: GroupId,
    encoder: &mut FrameEncoder,
    out: &mut Vec<u8>,
    put_run: impl FnOnce(&mut Vec<u8>),
) {
    let start = FrameEncoder::begin(out);
    out.put_u64(head.request.0);
    out.put_u32(head.log.0);
    out.put_u64(head.session);
    out.put_u64(head.sequence);
    out.put_u32(head.records);
    let meta_end = out.len();
    put_run(out);
    let payload = PayloadStamp::of(&out[meta_end..]);
    encoder.finish(FrameKind::Append, group, start..meta_end, payload, out);
}

/// The request in `frame`.
///
/// # Errors
/// [`WireError::UnexpectedKind`] when it is no request, [`WireError::Malformed`] when its fields
/// are not those of its kind.
pub fn decode_request<'f, B: PayloadBuffer>(
    frame: &'f Frame<'_, B>,
) -> Result<Request<'f>, WireError> {
    let kind = frame.kind;
    if !kind.is_request() {
        return Err(WireError::UnexpectedKind { kind, expected: "a request" });
    }
    let mut fields = Fields::new(kind, frame.meta);
    let request = RequestId(fields.u64()?);
    let decoded = match kind {
        FrameKind::Append => Request::Append {
            request,
            log: LogId(fields.u32()?),
            session: fields.u64()?,
            sequence: fields.u64()?,
            records: fields.u32()?,
            run: frame.payload(),
        },
        FrameKind::Read => Request::Read {
            request,
            log: LogId(fields.u32()?),
            from: Position(fields.u64()?),
            records_max: fields.u32()?,
            bytes_max: fields.u32()?,
            level: level(&mut fields)?,
            wait_ms: fields.u32()?,
        },
        FrameKind::Tail => {
            Request::Tail { request, log: LogId(fields.u32()?), level: level(&mut fields)? }
        }
        FrameKind::Lead => Request::Lead { request, node: NodeId(fields.u16()?) },
        _ => Request::Status { request },
    };
    fields.end()?;
    if kind != FrameKind::Append && !frame.payload().is_empty() {
        return Err(fields.malformed("it carries a payload"));
    }
    Ok(decoded)
}

fn level(fields: &mut Fields<'_>) -> Result<ReadLevel, WireError> {
    let number = fields.u8()?;
    ReadLevel::from_number(number).ok_or_else(|| fields.malformed("an unknown read level"))
}

/// Adds the frame of `response` to the end of `out`.
///
/// # Panics
/// When a run or status is over the frame's payload limit, which the server keeps.
pub fn encode_response(
    response: &Response<'_>,
    group: GroupId,
    encoder: &mut FrameEncoder,
    out: &mut Vec<u8>,
) {
    let start = FrameEncoder::begin(out);
    out.put_u64(response.id().0);
    let (kind, payload): (FrameKind, &[u8]) = match *response {
        Response::Appended { request: _, first, records } => {
            out.put_u64(first.0);
            out.put_u32(records);
            (FrameKind::Appended, &[])
        }
        Response::Records { request: _, first, records, tail, run } => {
            out.put_u64(first.0);
            out.put_u64(tail.0);
            out.put_u32(records);
            (FrameKind::Records, run)
        }
        Response::TailIs { request: _, tail } => {
            out.put_u64(tail.0);
            (FrameKind::TailIs, &[])
        }
        Response::StatusIs { request: _, json } => (FrameKind::StatusIs, json),
        Response::LedBy { request: _, node } => {
            out.put_u16(node.0);
            (FrameKind::LedBy, &[])
        }
        Response::Failed { request: _, error, leader, text } => {
            out.put_u16(error.number());
            out.put_u16(leader.unwrap_or_default().0);
            out.put_text(text, TEXT_BYTES_MAX);
            (FrameKind::Failed, &[])
        }
    };
    let meta_end = out.len();
    encoder.finish(kind, group, start..meta_end, PayloadStamp::of(payload), out);
    out.extend_from_slice(payload);
}

/// [`Response::Records`] without its run.
#[derive(Clone, Copy, Debug)]
pub struct RecordsHead {
    /// The request.
    pub request: RequestId,
    /// The position of the first record.
    pub first: Position,
    /// As in [`Response::Records`].
    pub tail: Position,
}

/// Adds the frame of [`Response::Records`] to the end of `out`; `put_run` adds the run itself,
/// from wherever its pieces lie, and returns how many records it has added.
///
/// # Panics
/// As [`encode_response`].
pub fn encode_records(
    head: &RecordsHead,
    group: GroupId,
    encoder: &mut FrameEncoder,
    out: &mut Vec<u8>,
    put_run: impl FnOnce(&mut Vec<u8>) -> u32,
) {
    let start = FrameEncoder::begin(out);
    out.put_u64(head.request.0);
    out.put_u64(head.first.0);
    out.put_u64(head.tail.0);
    let records_at = out.len();
    out.put_u32(0);
    let meta_end = out.len();
    let records = put_run(out);
    out[records_at..meta_end].copy_from_slice(&records.to_le_bytes());
    let payload = PayloadStamp::of(&out[meta_end..]);
    encoder.finish(FrameKind::Records, group, start..meta_end, payload, out);
}

/// The response in `frame`. The run of a read is not walked here.
///
/// # Errors
/// As [`decode_request`].
pub fn decode_response<'f, B: PayloadBuffer>(
    frame: &'f Frame<'_, B>,
) -> Result<Response<'f>, WireError> {
    let kind = frame.kind;
    if !kind.is_response() {
        return Err(WireError::UnexpectedKind { kind, expected: "a response" });
    }
    let mut fields = Fields::new(kind, frame.meta);
    let request = RequestId(fields.u64()?);
    let decoded = match kind {
        FrameKind::Appended => {
            Response::Appended { request, first: Position(fields.u64()?), records: fields.u32()? }
        }
        FrameKind::Records => {
            let (first, tail) = (Position(fields.u64()?), Position(fields.u64()?));
            let records = fields.u32()?;
            Response::Records { request, first, records, tail, run: frame.payload() }
        }
        FrameKind::TailIs => Response::TailIs { request, tail: Position(fields.u64()?) },
        FrameKind::StatusIs => Response::StatusIs { request, json: frame.payload() },
        FrameKind::LedBy => Response::LedBy { request, node: NodeId(fields.u16()?) },
        _ => {
            let error = ErrorCode::from_number(fields.u16()?)
                .ok_or_else(|| fields.malformed("an unknown error code"))?;
            let leader = fields.node_option()?;
            Response::Failed { request, error, leader, text: fields.text()? }
        }
    };
    fields.end()?;
    let carries_payload = matches!(kind, FrameKind::Records | FrameKind::StatusIs);
    if !carries_payload && !frame.payload().is_empty() {
        return Err(fields.malformed("it carries a payload"));
    }
    Ok(decoded)
}
