//! What a client asks, and how it stands in a frame.

use super::super::decoder::{Frame, PayloadBuffer};
use super::super::error::WireError;
use super::super::fields::{Fields, PutFields};
use super::super::frame::{FrameEncoder, FrameKind, PayloadStamp};
use super::{ReadLevel, RequestId};
use crate::base::limits::LOG_NAME_BYTES_MAX;
use crate::base::{
    AppendTerms, FenceToken, GroupId, LogId, NodeId, Position, Sequence, SessionId, SessionTerms,
};

const FLAG_IF_TAIL: u8 = 1;
const FLAG_FENCE: u8 = 2;

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Append these records, together and in this order.
    Append {
        /// Comes back with the response.
        request: RequestId,
        /// The log.
        log: LogId,
        /// Its place in its session, and its conditions.
        terms: AppendTerms,
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
    /// Found the cluster, or tell as what it was founded.
    Init {
        /// Comes back with the response.
        request: RequestId,
        /// Answer after this many milliseconds at the latest.
        wait_ms: u32,
    },
    /// Tell how the node is.
    Status {
        /// Comes back with the response.
        request: RequestId,
    },
    /// Open a session.
    OpenSession {
        /// Comes back with the response.
        request: RequestId,
        /// For how long, and how wide.
        terms: SessionTerms,
    },
    /// End a session.
    CloseSession {
        /// Comes back with the response.
        request: RequestId,
        /// The session.
        session: SessionId,
    },
    /// Create a log, or find the one of that name.
    CreateLog {
        /// Comes back with the response.
        request: RequestId,
        /// Its name.
        name: &'a str,
        /// The largest record that it takes, in bytes.
        record_bytes_max: u32,
    },
    /// Delete a log.
    DeleteLog {
        /// Comes back with the response.
        request: RequestId,
        /// The log.
        log: LogId,
    },
    /// Describe the log with this name.
    FindLog {
        /// Comes back with the response.
        request: RequestId,
        /// Its name.
        name: &'a str,
        /// How fresh.
        level: ReadLevel,
    },
    /// Describe the logs with names above `after`, by name.
    ListLogs {
        /// Comes back with the response.
        request: RequestId,
        /// Below every name, if empty.
        after: &'a str,
        /// The most logs wanted; 0 = what the server gives at a time.
        logs_max: u32,
        /// How fresh.
        level: ReadLevel,
    },
    /// Send the log's records from `from` on as they are applied, until [`Request::Unfollow`]:
    /// [`super::Response::Records`] again and again, while there is credit.
    Follow {
        /// Comes back with every response; names the follower from now on.
        request: RequestId,
        /// The log.
        log: LogId,
        /// The first position wanted.
        from: Position,
        /// Bytes of records (with their prefixes) that may be sent until [`Request::Credit`]
        /// comes. What is sent may pass it by one record.
        credit_bytes: u32,
    },
    /// The follower takes as many bytes more. Not answered.
    Credit {
        /// The follower's [`Request::Follow`].
        request: RequestId,
        /// Bytes of records.
        bytes: u32,
    },
    /// Follow no more: [`super::Response::Done`] is the last answer to the follower.
    Unfollow {
        /// The follower's [`Request::Follow`].
        request: RequestId,
    },
}

impl Request<'_> {
    /// The request's id.
    pub fn id(&self) -> RequestId {
        match *self {
            Request::Append { request, .. }
            | Request::Read { request, .. }
            | Request::Tail { request, .. }
            | Request::Lead { request, .. }
            | Request::Init { request, .. }
            | Request::Status { request }
            | Request::OpenSession { request, .. }
            | Request::CloseSession { request, .. }
            | Request::CreateLog { request, .. }
            | Request::DeleteLog { request, .. }
            | Request::FindLog { request, .. }
            | Request::ListLogs { request, .. }
            | Request::Follow { request, .. }
            | Request::Credit { request, .. }
            | Request::Unfollow { request } => request,
        }
    }

    /// The log that it is about, by the number that clients use.
    pub fn log(&self) -> Option<LogId> {
        match *self {
            Request::Append { log, .. }
            | Request::Read { log, .. }
            | Request::Tail { log, .. }
            | Request::DeleteLog { log, .. }
            | Request::Follow { log, .. } => Some(log),
            Request::Lead { .. }
            | Request::Init { .. }
            | Request::Status { .. }
            | Request::OpenSession { .. }
            | Request::CloseSession { .. }
            | Request::CreateLog { .. }
            | Request::FindLog { .. }
            | Request::ListLogs { .. }
            | Request::Credit { .. }
            | Request::Unfollow { .. } => None,
        }
    }

    /// The name of the log that it is about.
    pub fn log_name(&self) -> Option<&str> {
        match self {
            Request::CreateLog { name, .. } | Request::FindLog { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Adds the frame of `request` to the end of `out`.
///
/// # Panics
/// When an append's run is over the frame's payload limit; the client checks the append's. Names
/// over [`LOG_NAME_BYTES_MAX`] are cut: the client checks them too.
pub fn encode_request(
    request: &Request<'_>,
    group: GroupId,
    encoder: &mut FrameEncoder,
    out: &mut Vec<u8>,
) {
    if let Request::Append { request, log, terms, records, run } = *request {
        let head = AppendHead { request, log, terms, records };
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
        Request::Init { request: _, wait_ms } => {
            out.put_u32(wait_ms);
            FrameKind::Init
        }
        Request::Status { request: _ } => FrameKind::Status,
        Request::OpenSession { request: _, terms } => {
            out.put_u32(terms.timeout_ms);
            out.put_u32(terms.window);
            out.put_u64(terms.nonce as u64);
            out.put_u64((terms.nonce >> 64) as u64);
            FrameKind::OpenSession
        }
        Request::CloseSession { request: _, session } => {
            out.put_u64(session.0);
            FrameKind::CloseSession
        }
        Request::CreateLog { request: _, name, record_bytes_max } => {
            out.put_u32(record_bytes_max);
            out.put_text(name, LOG_NAME_BYTES_MAX);
            FrameKind::CreateLog
        }
        Request::DeleteLog { request: _, log } => {
            out.put_u32(log.0);
            FrameKind::DeleteLog
        }
        Request::FindLog { request: _, name, level } => {
            out.put_u8(level as u8);
            out.put_text(name, LOG_NAME_BYTES_MAX);
            FrameKind::FindLog
        }
        Request::ListLogs { request: _, after, logs_max, level } => {
            out.put_u32(logs_max);
            out.put_u8(level as u8);
            out.put_text(after, LOG_NAME_BYTES_MAX);
            FrameKind::ListLogs
        }
        Request::Follow { request: _, log, from, credit_bytes } => {
            out.put_u32(log.0);
            out.put_u64(from.0);
            out.put_u32(credit_bytes);
            FrameKind::Follow
        }
        Request::Credit { request: _, bytes } => {
            out.put_u32(bytes);
            FrameKind::Credit
        }
        Request::Unfollow { request: _ } => FrameKind::Unfollow,
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
    pub terms: AppendTerms,
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
    let AppendTerms { session, sequence, unanswered, if_tail, fence } = head.terms;
    out.put_u64(session.0);
    out.put_u64(sequence.0);
    out.put_u32(head.records);
    out.put_u16(unanswered);
    let if_tail_flag = if if_tail.is_some() { FLAG_IF_TAIL } else { 0 };
    out.put_u8(if_tail_flag | if fence.is_some() { FLAG_FENCE } else { 0 });
    if let Some(position) = if_tail {
        out.put_u64(position.0);
    }
    if let Some(token) = fence {
        out.put_u64(token.0);
    }
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
        FrameKind::Append => append(request, &mut fields, frame.payload())?,
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
        FrameKind::Init => Request::Init { request, wait_ms: fields.u32()? },
        FrameKind::OpenSession => {
            let (timeout_ms, window) = (fields.u32()?, fields.u32()?);
            let nonce = u128::from(fields.u64()?) | u128::from(fields.u64()?) << 64;
            let terms = SessionTerms { timeout_ms, window, nonce };
            Request::OpenSession { request, terms }
        }
        FrameKind::CloseSession => {
            Request::CloseSession { request, session: SessionId(fields.u64()?) }
        }
        FrameKind::CreateLog => {
            let record_bytes_max = fields.u32()?;
            Request::CreateLog { request, name: fields.text()?, record_bytes_max }
        }
        FrameKind::DeleteLog => Request::DeleteLog { request, log: LogId(fields.u32()?) },
        FrameKind::FindLog => {
            let level = level(&mut fields)?;
            Request::FindLog { request, name: fields.text()?, level }
        }
        FrameKind::ListLogs => {
            let (logs_max, level) = (fields.u32()?, level(&mut fields)?);
            Request::ListLogs { request, after: fields.text()?, logs_max, level }
        }
        FrameKind::Follow => Request::Follow {
            request,
            log: LogId(fields.u32()?),
            from: Position(fields.u64()?),
            credit_bytes: fields.u32()?,
        },
        FrameKind::Credit => Request::Credit { request, bytes: fields.u32()? },
        FrameKind::Unfollow => Request::Unfollow { request },
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

fn append<'f>(
    request: RequestId,
    fields: &mut Fields<'f>,
    run: &'f [u8],
) -> Result<Request<'f>, WireError> {
    let log = LogId(fields.u32()?);
    let (session, sequence) = (SessionId(fields.u64()?), Sequence(fields.u64()?));
    let records = fields.u32()?;
    let unanswered = fields.u16()?;
    let flags = fields.u8()?;
    if flags & !(FLAG_IF_TAIL | FLAG_FENCE) != 0 {
        return Err(fields.malformed("an unknown condition"));
    }
    let if_tail = match flags & FLAG_IF_TAIL {
        0 => None,
        _ => Some(Position(fields.u64()?)),
    };
    let fence = match flags & FLAG_FENCE {
        0 => None,
        _ => Some(FenceToken(fields.u64()?)),
    };
    let terms = AppendTerms { session, sequence, unanswered, if_tail, fence };
    Ok(Request::Append { request, log, terms, records, run })
}
