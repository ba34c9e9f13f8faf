//! Messages between replicas: every [`Message`] to a frame and back.
//!
//! A value goes as the payload, with the checksum it was sealed with. Guarantee: what decodes is
//! the message that was encoded; the meaning (is this ballot stale?) is the core's.

use super::decoder::Frame;
use super::error::WireError;
use super::fields::{Fields, PutFields};
use super::frame::{
    FrameEncoder, FrameKind, INLINE_VALUE_BYTES_MAX, PAYLOAD_SIZE_MAX, PayloadStamp,
};
use crate::base::limits::KIB;
use crate::base::{Batch, BlockPool, Checksum, GroupId};
use crate::paxos::{ACCEPT_AHEAD_SLOTS_LIMIT, AcceptedSlot, Fitness, Message, Release};

/// The most slots one promise can tell of.
pub const PROMISE_SLOTS_MAX: usize = 64 * KIB;

// A replica accepts no slot further ahead.
const _: () = assert!(ACCEPT_AHEAD_SLOTS_LIMIT as usize <= PROMISE_SLOTS_MAX);

/// Slot, ballot (round, node) and checksum.
const ACCEPTED_SLOT_SIZE: usize = 8 + 8 + 2 + 4;

const _: () = assert!(PROMISE_SLOTS_MAX * ACCEPTED_SLOT_SIZE <= PAYLOAD_SIZE_MAX);

/// Adds the frame of `message` to the end of `out`. `Some(value)`: the head alone was added, and
/// the value must be sent right behind it as a part of its own; `None`: the frame is whole.
///
/// # Panics
/// When a promise tells of more than [`PROMISE_SLOTS_MAX`] slots.
pub fn encode_message(
    message: &Message<Batch>,
    group: GroupId,
    encoder: &mut FrameEncoder,
    out: &mut Vec<u8>,
) -> Option<Batch> {
    let start = FrameEncoder::begin(out);
    let (kind, value) = put_meta(message, out);
    let meta_end = out.len();
    if let Message::Promise { accepted, .. } = message {
        assert!(accepted.len() <= PROMISE_SLOTS_MAX, "a promise of {} slots", accepted.len());
        accepted.iter().for_each(|entry| put_accepted_slot(entry, out));
        let payload = PayloadStamp::of(&out[meta_end..]);
        encoder.finish(kind, group, start..meta_end, payload, out);
        return None;
    }
    let Some(value) = value else {
        encoder.finish(kind, group, start..meta_end, PayloadStamp::NONE, out);
        return None;
    };
    encoder.finish(kind, group, start..meta_end, PayloadStamp::of_batch(value), out);
    if value.value_size() >= INLINE_VALUE_BYTES_MAX {
        return Some(value.clone());
    }
    out.extend_from_slice(value.value());
    None
}

fn put_accepted_slot(entry: &AcceptedSlot, out: &mut Vec<u8>) {
    out.put_u64(entry.slot.0);
    out.put_ballot(entry.ballot);
    out.put_u32(entry.checksum.0);
}

fn put_release(release: &Release, out: &mut Vec<u8>) {
    out.put_ballot(release.ballot);
    out.put_u64(release.sequence);
}

fn release(fields: &mut Fields<'_>) -> Result<Release, WireError> {
    Ok(Release { ballot: fields.ballot()?, sequence: fields.u64()? })
}

/// Writes the fields; returns the kind and the value, if the message has one.
fn put_meta<'m>(message: &'m Message<Batch>, out: &mut Vec<u8>) -> (FrameKind, Option<&'m Batch>) {
    match message {
        Message::PreVote { ballot, chosen } => {
            out.put_ballot(*ballot);
            out.put_u64(chosen.0);
            (FrameKind::PreVote, None)
        }
        Message::PreVoteReply { ballot, granted, promised, chosen } => {
            out.put_ballot(*ballot);
            out.put_u8(u8::from(*granted));
            out.put_ballot(*promised);
            out.put_u64(chosen.0);
            (FrameKind::PreVoteReply, None)
        }
        Message::Prepare { ballot, chosen, release } => {
            out.put_ballot(*ballot);
            out.put_u64(chosen.0);
            put_release(release, out);
            (FrameKind::Prepare, None)
        }
        Message::Promise { ballot, chosen, accepted: _, cut } => {
            out.put_ballot(*ballot);
            out.put_u64(chosen.0);
            out.put_u8(u8::from(*cut));
            (FrameKind::Promise, None)
        }
        Message::Cut { ballot, sequence, id, votes } => {
            out.put_ballot(*ballot);
            out.put_u64(*sequence);
            out.put_u64(*id);
            out.put_u8(u8::from(*votes));
            (FrameKind::Cut, None)
        }
        Message::CutBound { ballot, id, through } => {
            out.put_ballot(*ballot);
            out.put_u64(*id);
            out.put_u64(through.0);
            (FrameKind::CutBound, None)
        }
        Message::Nack { ballot, promised } => {
            out.put_ballot(*ballot);
            out.put_ballot(*promised);
            (FrameKind::Nack, None)
        }
        Message::Accept { ballot, slot, chosen, value } => {
            out.put_ballot(*ballot);
            out.put_u64(slot.0);
            out.put_u64(chosen.0);
            (FrameKind::Accept, Some(value))
        }
        Message::Accepted { ballot, slot } => {
            out.put_ballot(*ballot);
            out.put_u64(slot.0);
            (FrameKind::Accepted, None)
        }
        Message::AcceptRejected { ballot, slot } => {
            out.put_ballot(*ballot);
            out.put_u64(slot.0);
            (FrameKind::AcceptRejected, None)
        }
        Message::Heartbeat { ballot, chosen, sequence, lease_ms } => {
            out.put_ballot(*ballot);
            out.put_u64(chosen.0);
            out.put_u64(*sequence);
            out.put_u32(*lease_ms);
            (FrameKind::Heartbeat, None)
        }
        Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness } => {
            out.put_ballot(*ballot);
            out.put_u64(*sequence);
            out.put_u64(chosen.0);
            out.put_u8(u8::from(*granted));
            out.put_u8(*priority);
            out.put_u8(u8::from(fitness.disk_full));
            out.put_u8(u8::from(fitness.retiring));
            out.put_u32(fitness.write_us);
            (FrameKind::HeartbeatReply, None)
        }
        Message::TakeOver { release, chosen } => {
            put_release(release, out);
            out.put_u64(chosen.0);
            (FrameKind::TakeOver, None)
        }
        Message::ReadIndex { id, lease } => {
            out.put_u64(*id);
            out.put_u8(u8::from(*lease));
            (FrameKind::ReadIndex, None)
        }
        Message::ReadIndexReply { id, index } => {
            out.put_u64(*id);
            out.put_u64(index.0);
            (FrameKind::ReadIndexReply, None)
        }
        Message::Fetch { first, last } => {
            out.put_u64(first.0);
            out.put_u64(last.0);
            (FrameKind::Fetch, None)
        }
        Message::Learn { slot, ballot, value } => {
            out.put_u64(slot.0);
            out.put_ballot(*ballot);
            (FrameKind::Learn, Some(value))
        }
        Message::FetchAccepted { ballot, slot } => {
            out.put_ballot(*ballot);
            out.put_u64(slot.0);
            (FrameKind::FetchAccepted, None)
        }
        Message::StateHash { slot, hash } => {
            out.put_u64(slot.0);
            out.put_u64(*hash);
            (FrameKind::StateHash, None)
        }
        Message::AcceptedValue { ballot, slot, accepted, value } => {
            out.put_ballot(*ballot);
            out.put_u64(slot.0);
            out.put_ballot(*accepted);
            (FrameKind::AcceptedValue, Some(value))
        }
    }
}

/// What one side of a pair of members tells the other about their two connections, so that one that
/// has died in silence is found out. No message of the protocol: it says nothing of slots or ballots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// The sender's number for the connection that this comes on.
    pub line: u64,
    /// The number that the receiver gave the connection that it dialled itself, as it told last; 0:
    /// none is known.
    pub heard_line: u64,
    /// Bytes that have arrived on that connection.
    pub heard_bytes: u64,
}

/// Adds the frame of `alive` to the end of `out`.
pub fn encode_alive(alive: &Alive, group: GroupId, encoder: &mut FrameEncoder, out: &mut Vec<u8>) {
    let Alive { line, heard_line, heard_bytes } = *alive;
    let start = FrameEncoder::begin(out);
    [line, heard_line, heard_bytes].into_iter().for_each(|field| out.put_u64(field));
    encoder.finish(FrameKind::Alive, group, start..out.len(), PayloadStamp::NONE, out);
}

/// The fields of a frame of kind [`FrameKind::Alive`].
///
/// # Errors
/// [`WireError::UnexpectedKind`] for another frame, [`WireError::Malformed`] when its fields are not
/// those of its kind.
pub fn decode_alive(frame: &Frame<'_>) -> Result<Alive, WireError> {
    let kind = frame.kind;
    if kind != FrameKind::Alive {
        return Err(WireError::UnexpectedKind { kind, expected: "a word of being alive" });
    }
    if !frame.payload().is_empty() {
        return Err(WireError::Malformed { kind, why: "it carries a payload" });
    }
    let mut fields = Fields::new(kind, frame.meta);
    let alive =
        Alive { line: fields.u64()?, heard_line: fields.u64()?, heard_bytes: fields.u64()? };
    fields.end()?;
    Ok(alive)
}

/// The message of a peer's frame.
///
/// # Errors
/// [`WireError::UnexpectedKind`] for a frame that is no peer message, [`WireError::Malformed`]
/// when its fields are not those of its kind.
pub fn decode_message(frame: Frame<'_>, pool: &BlockPool) -> Result<Message<Batch>, WireError> {
    let kind = frame.kind;
    let carries_payload = matches!(
        kind,
        FrameKind::Promise | FrameKind::Accept | FrameKind::Learn | FrameKind::AcceptedValue
    );
    if !carries_payload && !frame.payload().is_empty() {
        return Err(WireError::Malformed { kind, why: "it carries a payload" });
    }
    let mut fields = Fields::new(kind, frame.meta);
    let f = &mut fields;
    let message = match kind {
        FrameKind::PreVote => Message::PreVote { ballot: f.ballot()?, chosen: f.slot()? },
        FrameKind::PreVoteReply => Message::PreVoteReply {
            ballot: f.ballot()?,
            granted: f.flag()?,
            promised: f.ballot()?,
            chosen: f.slot()?,
        },
        FrameKind::Prepare => {
            Message::Prepare { ballot: f.ballot()?, chosen: f.slot()?, release: release(f)? }
        }
        FrameKind::Promise => Message::Promise {
            ballot: f.ballot()?,
            chosen: f.slot()?,
            cut: f.flag()?,
            accepted: accepted_slots(frame.payload())?,
        },
        FrameKind::Cut => {
            Message::Cut { ballot: f.ballot()?, sequence: f.u64()?, id: f.u64()?, votes: f.flag()? }
        }
        FrameKind::CutBound => {
            Message::CutBound { ballot: f.ballot()?, id: f.u64()?, through: f.slot()? }
        }
        FrameKind::Nack => Message::Nack { ballot: f.ballot()?, promised: f.ballot()? },
        FrameKind::Accept => Message::Accept {
            ballot: f.ballot()?,
            slot: f.slot()?,
            chosen: f.slot()?,
            value: Batch::noop(),
        },
        FrameKind::Accepted => Message::Accepted { ballot: f.ballot()?, slot: f.slot()? },
        FrameKind::AcceptRejected => {
            Message::AcceptRejected { ballot: f.ballot()?, slot: f.slot()? }
        }
        FrameKind::Heartbeat => Message::Heartbeat {
            ballot: f.ballot()?,
            chosen: f.slot()?,
            sequence: f.u64()?,
            lease_ms: f.u32()?,
        },
        FrameKind::HeartbeatReply => Message::HeartbeatReply {
            ballot: f.ballot()?,
            sequence: f.u64()?,
            chosen: f.slot()?,
            granted: f.flag()?,
            priority: f.u8()?,
            fitness: Fitness { disk_full: f.flag()?, retiring: f.flag()?, write_us: f.u32()? },
        },
        FrameKind::TakeOver => Message::TakeOver { release: release(f)?, chosen: f.slot()? },
        FrameKind::ReadIndex => Message::ReadIndex { id: f.u64()?, lease: f.flag()? },
        FrameKind::ReadIndexReply => Message::ReadIndexReply { id: f.u64()?, index: f.slot()? },
        FrameKind::Fetch => Message::Fetch { first: f.slot()?, last: f.slot()? },
        FrameKind::Learn => {
            Message::Learn { slot: f.slot()?, ballot: f.ballot()?, value: Batch::noop() }
        }
        FrameKind::FetchAccepted => Message::FetchAccepted { ballot: f.ballot()?, slot: f.slot()? },
        FrameKind::StateHash => Message::StateHash { slot: f.slot()?, hash: f.u64()? },
        FrameKind::AcceptedValue => Message::AcceptedValue {
            ballot: f.ballot()?,
            slot: f.slot()?,
            accepted: f.ballot()?,
            value: Batch::noop(),
        },
        _ => return Err(WireError::UnexpectedKind { kind, expected: "a peer message" }),
    };
    fields.end()?;
    with_value(message, frame, pool)
}

/// Fills in the value, now that the fields have been read.
fn with_value(
    mut message: Message<Batch>,
    frame: Frame<'_>,
    pool: &BlockPool,
) -> Result<Message<Batch>, WireError> {
    if let Message::Accept { value, .. }
    | Message::Learn { value, .. }
    | Message::AcceptedValue { value, .. } = &mut message
    {
        *value = frame.into_batch(pool)?;
    }
    Ok(message)
}

fn accepted_slots(payload: &[u8]) -> Result<Vec<AcceptedSlot>, WireError> {
    let kind = FrameKind::Promise;
    let count = payload.len() / ACCEPTED_SLOT_SIZE;
    if !payload.len().is_multiple_of(ACCEPTED_SLOT_SIZE) || count > PROMISE_SLOTS_MAX {
        return Err(WireError::Malformed { kind, why: "its list of slots has an odd size" });
    }
    let mut fields = Fields::new(kind, payload);
    let mut accepted: Vec<AcceptedSlot> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = AcceptedSlot {
            slot: fields.slot()?,
            ballot: fields.ballot()?,
            checksum: Checksum(fields.u32()?),
        };
        if accepted.last().is_some_and(|last| last.slot >= entry.slot) {
            return Err(fields.malformed("its slots do not rise"));
        }
        accepted.push(entry);
    }
    Ok(accepted)
}
