//! Bytes to messages and back: the frame, the peer protocol, the native client protocol.
//!
//! Callers: `node/` (peers), `server/` and `client/` (clients). Nothing here opens a socket, and
//! nothing here panics on what it reads: every damaged, foreign, oversized or misplaced byte ends
//! in a [`WireError`], after which the connection is closed.
//!
//! A connection carries frames only. In each direction the first one is the hello (frozen, see
//! [`hello`]); then come peer messages ([`peer`]) or requests and responses ([`client`]).

#![forbid(unsafe_code)]

pub mod client;
mod decoder;
mod error;
mod fields;
mod frame;
pub mod fuzz;
pub mod hello;
pub mod peer;
pub mod status;
#[cfg(test)]
mod tests;

pub use client::{ErrorCode, ReadLevel, Request, RequestId, Response};
pub use decoder::{Frame, FrameDecoder, PayloadBuffer};
pub use error::WireError;
pub use frame::{
    FRAME_HEADER_SIZE, FRAME_VERSION, FrameEncoder, FrameKind, INLINE_VALUE_BYTES_MAX,
    META_SIZE_MAX, PAYLOAD_SIZE_MAX, PayloadStamp,
};
pub use hello::{
    Hello, HelloReply, HelloRole, Limits, PROTOCOL_VERSION, RefuseReason, Standing, Welcome,
};
pub use peer::{
    Alive, PROMISE_SLOTS_MAX, decode_alive, decode_message, encode_alive, encode_message,
};
pub use status::NodeStatus;
