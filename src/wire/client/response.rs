//! What a node answers, and how it stands in a frame.

use super::super::decoder::{Frame, PayloadBuffer};
use super::super::error::WireError;
use super::super::fields::{Fields, PutFields};
use super::super::frame::{FrameEncoder, FrameKind, PayloadStamp};
use super::super::hello::TEXT_BYTES_MAX;
use super::{ErrorCode, RequestId};
use crate::base::{ClusterId, GroupId, LogId, NodeId, Position, SessionId};

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
    /// The cluster is founded.
    Founded {
        /// The request.
        request: RequestId,
        /// As what.
        cluster: ClusterId,
    },
    /// The session is open.
    SessionOpened {
        /// The request.
        request: RequestId,
        /// Its number.
        session: SessionId,
    },
    /// There is a log of that name.
    LogCreated {
        /// The request.
        request: RequestId,
        /// Its number.
        log: LogId,
        /// Whether it was not there before.
        created: bool,
    },
    /// The logs asked for.
    LogsAre {
        /// The request.
        request: RequestId,
        /// JSON of a list of [`super::super::status::LogStatus`].
        json: &'a [u8],
    },
    /// It is done; or, for a follower, at its end.
    Done {
        /// The request.
        request: RequestId,
    },
    /// The request has failed.
    Failed {
        /// The request.
        request: RequestId,
        /// Why, for programs.
        error: ErrorCode,
        /// Where to go instead, if known.
        leader: Option<NodeId>,
        /// What the code says that it is; else 0.
        detail: u64,
        /// Why, for people.
        text: &'a str,
    },
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
            | Response::Founded { request, .. }
            | Response::SessionOpened { request, .. }
            | Response::LogCreated { request, .. }
            | Response::LogsAre { request, .. }
            | Response::Done { request }
            | Response::Failed { request, .. } => request,
        }
    }
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
        Response::Founded { request: _, cluster } => {
            out.put_u128(cluster.0);
            (FrameKind::Founded, &[])
        }
        Response::SessionOpened { request: _, session } => {
            out.put_u64(session.0);
            (FrameKind::SessionOpened, &[])
        }
        Response::LogCreated { request: _, log, created } => {
            out.put_u32(log.0);
            out.put_u8(u8::from(created));
            (FrameKind::LogCreated, &[])
        }
        Response::LogsAre { request: _, json } => (FrameKind::LogsAre, json),
        Response::Done { request: _ } => (FrameKind::Done, &[]),
        Response::Failed { request: _, error, leader, detail, text } => {
            out.put_u16(error.number());
            out.put_u16(leader.unwrap_or_default().0);
            out.put_u64(detail);
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
        FrameKind::Founded => Response::Founded { request, cluster: ClusterId(fields.u128()?) },
        FrameKind::SessionOpened => {
            Response::SessionOpened { request, session: SessionId(fields.u64()?) }
        }
        FrameKind::LogCreated => {
            let log = LogId(fields.u32()?);
            Response::LogCreated { request, log, created: fields.flag()? }
        }
        FrameKind::LogsAre => Response::LogsAre { request, json: frame.payload() },
        FrameKind::Done => Response::Done { request },
        _ => {
            let error = ErrorCode::from_number(fields.u16()?)
                .ok_or_else(|| fields.malformed("an unknown error code"))?;
            let (leader, detail) = (fields.node_option()?, fields.u64()?);
            Response::Failed { request, error, leader, detail, text: fields.text()? }
        }
    };
    fields.end()?;
    let carries_payload =
        matches!(kind, FrameKind::Records | FrameKind::StatusIs | FrameKind::LogsAre);
    if !carries_payload && !frame.payload().is_empty() {
        return Err(fields.malformed("it carries a payload"));
    }
    Ok(decoded)
}
