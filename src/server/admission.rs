//! Who may hold a connection: a stranger for a short time, clients up to a bound that leaves room for
//! the others, members of the cluster always.
//!
//! Part of the [`super::Server`]. Group 0's thread accepts for all groups of its node, so whoever fills
//! its connections would shut out the peers of every group, and with them the quorums. A peer is known
//! only by its greeting; until then whoever connects is a stranger, and strangers have a bound of their
//! own. Guarantee: clients and strangers together never hold so many connections that a peer finds no
//! room.
//!
//! Where there are too many strangers, the oldest goes, not the one that comes. A peer greets as soon as
//! it is connected, so it is a stranger for one round trip: to push it out takes [`STRANGERS_MAX`]
//! newer ones within that time. Refusing the newest would be cheaper to exploit: silent ones would
//! keep the door shut for [`GREETING_TIMEOUT`], and for ever by coming again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, warn};

use super::session::Session;
use super::{
    CLIENTS_MAX, CONNECTIONS_MAX, GREETING_TIMEOUT, PEER_CONNECTIONS_RESERVED, STRANGERS_MAX,
    Server,
};
use crate::base::Instant;
use crate::base::limits::MEMBERS_MAX;
use crate::io::{ConnId, Io, Net};
use crate::wire::{HelloReply, HelloRole, PROTOCOL_VERSION, RefuseReason};

/// The time over which [`REFUSALS_TOLD_MAX`] counts.
const REFUSALS_PERIOD: Duration = Duration::from_secs(1);
/// The most lines about refused connections that are logged in one period.
const REFUSALS_TOLD_MAX: u32 = 8;

/// Each peer has a connection to this node, this node has one to it, and a third is made beside that
/// when it has fallen silent. (The peer's own new one is a stranger's until it replaces the old one.)
const CONNECTIONS_PER_PEER: usize = 3;

/// How many connections a server takes, by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The most clients.
    pub clients_max: usize,
    /// The most connections that have not greeted.
    pub strangers_max: usize,
}

impl Room {
    /// Shares out the connections that a thread of one of `members` can hold. With less than
    /// [`CONNECTIONS_MAX`] of them, strangers and the peers' reserve get a fourth each at most; but the
    /// connections of each peer are kept for it as long as there are any.
    pub fn within(connections_max: usize, members: usize) -> Room {
        let strangers_max = STRANGERS_MAX.min(connections_max / 4).max(1);
        let needed = CONNECTIONS_PER_PEER * members.saturating_sub(1);
        let reserved = PEER_CONNECTIONS_RESERVED.min(connections_max / 4).max(needed);
        let clients_max = connections_max.saturating_sub(strangers_max + reserved).min(CLIENTS_MAX);
        Room { clients_max, strangers_max }
    }
}

/// What a server knows of its connections' standing.
#[derive(Debug)]
pub(super) struct Admission {
    room: Room,
    /// Connections that have not been let in, by when that must have happened: the first is the
    /// oldest. Those that have been refused are among them until they are closed.
    strangers: BTreeSet<(Instant, ConnId)>,
    clients: usize,
    refusals: Telling,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            room: Room::within(CONNECTIONS_MAX, MEMBERS_MAX),
            strangers: BTreeSet::new(),
            clients: 0,
            refusals: Telling::default(),
        }
    }
}

impl Admission {
    pub(super) fn clients(&self) -> usize {
        self.clients
    }

    pub(super) fn strangers(&self) -> usize {
        self.strangers.len()
    }

    /// When the oldest stranger's time is up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.strangers.first().map(|(greet_by, _)| *greet_by)
    }

    /// Whether to log another refusal now: what was left out since the last one that was logged.
    /// Strangers can make a node refuse without end, and a log must not fill the disk.
    pub(super) fn may_tell(&mut self, now: Instant) -> Option<u64> {
        self.refusals.may_tell(now)
    }
}

/// Limits the lines of one kind in the log.
#[derive(Debug, Default)]
struct Telling {
    period_ends: Instant,
    told: u32,
    left_out: u64,
}

impl Telling {
    fn may_tell(&mut self, now: Instant) -> Option<u64> {
        if now >= self.period_ends {
            self.period_ends = now + REFUSALS_PERIOD;
            self.told = 0;
        }
        if self.told >= REFUSALS_TOLD_MAX {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Server {
    /// Takes no more connections than there are in `room`.
    pub fn limit_connections(&mut self, room: Room) {
        self.admission.room = room;
    }

    /// Somebody has connected.
    pub(super) fn take_in<I: Io>(&mut self, io: &mut I, conn: ConnId, from: SocketAddr) {
        debug!(?conn, %from, "accepted");
        let now = io.now();
        if self.admission.strangers.len() >= self.admission.room.strangers_max {
            let (_, oldest) = *self.admission.strangers.first().expect("their bound is above zero");
            self.turn_away(io, oldest, "too many wait to be greeted, and it is the oldest");
        }
        let greet_by = now + GREETING_TIMEOUT;
        self.sessions.insert(conn, Session::new(self.node.group(), from, greet_by));
        self.admission.strangers.insert((greet_by, conn));
    }

    /// Ends the connections whose time to greet is up. After the turn's events: what has come in time
    /// has been looked at, however long this thread did not run.
    pub(super) fn end_silent<I: Io>(&mut self, io: &mut I) {
        while let Some((greet_by, conn)) = self.admission.strangers.first().copied()
            && greet_by <= io.now()
        {
            self.turn_away(io, conn, "it has not greeted in time");
        }
    }

    /// Closes a connection that has no standing, without a word: nothing can be said before a greeting.
    pub(super) fn turn_away<I: Io>(&mut self, io: &mut I, conn: ConnId, why: &str) {
        Net::close(io, conn);
        let from = self.forget_session(conn).map(|session| session.from);
        if let (Some(from), Some(left_out)) = (from, self.admission.may_tell(io.now())) {
            warn!(%from, left_out, "closing a connection: {why}");
        }
    }

    /// The answer to the greeting of a `role` that may be let in, with `reply` if there is room.
    pub(super) fn admit(&self, role: &HelloRole, reply: HelloReply) -> HelloReply {
        let Room { clients_max, .. } = self.admission.room;
        let is_client = *role == HelloRole::Client && matches!(reply, HelloReply::Welcome(_));
        if !is_client || self.admission.clients < clients_max {
            return reply;
        }
        let reason = RefuseReason::TooManyConnections;
        let text = format!("{clients_max} clients are connected, as many as this node takes");
        HelloReply::Refused { protocol_version: PROTOCOL_VERSION, reason, text }
    }

    /// The connection is a client's from here on.
    pub(super) fn count_client(&mut self, conn: ConnId) {
        let session = self.sessions.get_mut(&conn).expect("it has just greeted");
        assert!(!session.is_client, "a client is let in once");
        session.is_client = true;
        self.admission.strangers.remove(&(session.greet_by, conn));
        self.admission.clients += 1;
    }

    /// Takes out a connection that is gone, closed, or for somebody else.
    pub(super) fn forget_session(&mut self, conn: ConnId) -> Option<Session> {
        let session = self.sessions.remove(&conn)?;
        self.waiters.drop_conn(conn);
        match session.is_client {
            true => self.admission.clients -= 1,
            false => assert!(
                self.admission.strangers.remove(&(session.greet_by, conn)),
                "whoever is no client is a stranger"
            ),
        }
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_holds_is_shared_out_and_peers_always_get_a_part() {
        let whole = Room::within(CONNECTIONS_MAX, MEMBERS_MAX);
        assert_eq!(whole, Room { clients_max: CLIENTS_MAX, strangers_max: STRANGERS_MAX });
        assert_eq!(Room::within(usize::MAX, MEMBERS_MAX), whole, "more is of no use");
        for connections in 4..2 * CONNECTIONS_MAX {
            for members in [1, 3, 5, MEMBERS_MAX] {
                let Room { clients_max, strangers_max } = Room::within(connections, members);
                let reserved = connections - clients_max - strangers_max;
                assert!(reserved >= PEER_CONNECTIONS_RESERVED.min(connections / 4));
                let needed = CONNECTIONS_PER_PEER * (members - 1);
                assert!(reserved >= needed.min(connections - strangers_max));
                assert!(
                    strangers_max > 0 && (clients_max > 0 || needed + strangers_max >= connections)
                );
            }
        }
    }

    #[test]
    fn refusals_are_told_a_few_times_a_second_and_counted() {
        let mut telling = Telling::default();
        let start = Instant(5_000_000_000);
        let told = (0..100).filter_map(|_| telling.may_tell(start)).collect::<Vec<_>>();
        assert_eq!(told, [0; REFUSALS_TOLD_MAX as usize]);
        let later = start + REFUSALS_PERIOD;
        assert_eq!(telling.may_tell(later), Some(100 - u64::from(REFUSALS_TOLD_MAX)));
        assert_eq!(telling.may_tell(later), Some(0));
    }
}
