//! One client's connection: its decoder, its answers on their way, and what is held back of its
//! input while the node has no room.
//!
//! Owned by the [`super::Server`].

use std::net::SocketAddr;

use crate::base::{GroupId, Instant, NodeId};
use crate::io::{ConnId, Net};
use crate::node::Outbox;
use crate::wire::client::encode_response;
use crate::wire::{ErrorCode, FrameDecoder, FrameEncoder, RequestId, Response};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been said.
    Greeting,
    /// Greeted as a client.
    Client,
    /// For another group's thread, which gets it at the end of the turn.
    Leaving(GroupId),
    /// To be closed once what is queued has left.
    Closing,
}

/// A connection that has not turned out to be a peer's.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    pub(super) decoder: FrameDecoder,
    pub(super) encoder: FrameEncoder,
    pub(super) outbox: Outbox,
    /// What was received so far, while it may yet turn out to be for another group's thread.
    /// Bounded by [`crate::io::HANDOVER_BYTES_MAX`].
    pub(super) greeting: Vec<u8>,
    group: GroupId,
    /// Where it comes from.
    pub(super) from: SocketAddr,
    /// When it must have greeted.
    pub(super) greet_by: Instant,
    /// Counted among the clients: also while it is being closed.
    pub(super) is_client: bool,
    /// Received while the node had no room: decoded before anything that comes later. Bounded by
    /// what was on its way when receiving was paused.
    pub(super) stalled: Vec<u8>,
    pub(super) paused: bool,
    /// Stands in the server's list of connections to flush.
    pub(super) dirty: bool,
}

impl Session {
    pub(super) fn new(group: GroupId, from: SocketAddr, greet_by: Instant) -> Session {
        let mut decoder = FrameDecoder::new();
        // A greeting has no payload: a stranger cannot make the node take memory for one.
        decoder.limit_payload(0);
        Session {
            phase: Phase::Greeting,
            decoder,
            encoder: FrameEncoder::new(),
            outbox: Outbox::default(),
            greeting: Vec::new(),
            group,
            from,
            greet_by,
            is_client: false,
            stalled: Vec::new(),
            paused: false,
            dirty: false,
        }
    }

    /// Queues an answer.
    pub(super) fn respond(&mut self, response: &Response<'_>) {
        let Session { encoder, outbox, group, .. } = self;
        outbox.encode(|out| encode_response(response, *group, encoder, out));
    }

    /// Queues a refusal.
    pub(super) fn fail(
        &mut self,
        request: RequestId,
        error: ErrorCode,
        leader: Option<NodeId>,
        text: &str,
    ) {
        self.respond(&Response::Failed { request, error, leader, detail: 0, text });
    }

    /// Holds back `rest` and stops receiving.
    pub(super) fn stall<N: Net>(&mut self, net: &mut N, conn: ConnId, rest: &[u8]) {
        self.stalled.extend_from_slice(rest);
        if !self.paused {
            self.paused = true;
            net.pause(conn);
        }
    }
}
