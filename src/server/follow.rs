//! Followers: clients to whom records are pushed as they are applied, while they have credit.
//!
//! Part of the [`super::Server`]. A follower gets every record of its log from its first position
//! on, once, in order, as this replica applies them; it says how many bytes it takes, and gets
//! hardly more. Work follows what happens: a turn looks at the followers of the logs that grew, of
//! the connections whose sends went out, and at those whose reads of the disk came back.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{LogId, Position};
use crate::io::{ConnId, Io};
use crate::wire::{ErrorCode, RequestId, Response};

use super::reads::{Purpose, Read};
use super::{CLIENT_QUEUE_BYTES_MAX, FOLLOWERS_MAX, READ_BYTES_MAX, Server};

/// Names a follower: the connection and the number of its request.
pub(super) type FollowerKey = (ConnId, RequestId);

#[derive(Debug)]
struct Follower {
    log: LogId,
    /// The next position to be sent.
    next: Position,
    /// Bytes of records that may still be sent.
    credit_bytes: u64,
    /// A read of the disk for it is under way.
    reading: bool,
}

/// The followers of a server.
#[derive(Debug, Default)]
pub(super) struct Followers {
    all: BTreeMap<FollowerKey, Follower>,
    by_log: BTreeMap<LogId, BTreeSet<FollowerKey>>,
}

impl Followers {
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    fn add(&mut self, key: FollowerKey, follower: Follower) {
        self.by_log.entry(follower.log).or_default().insert(key);
        self.all.insert(key, follower);
    }

    fn remove(&mut self, key: FollowerKey) -> Option<Follower> {
        let removed = self.all.remove(&key)?;
        let of_log = self.by_log.get_mut(&removed.log).expect("noted when it came");
        of_log.remove(&key);
        if of_log.is_empty() {
            self.by_log.remove(&removed.log);
        }
        Some(removed)
    }

    fn of_conn(&self, conn: ConnId) -> Vec<FollowerKey> {
        let all = (conn, RequestId(0))..=(conn, RequestId(u64::MAX));
        self.all.range(all).map(|(key, _)| *key).collect()
    }
}

impl Server {
    pub(super) fn on_follow<I: Io>(
        &mut self,
        io: &mut I,
        key: FollowerKey,
        log: LogId,
        from: Position,
        credit_bytes: u32,
    ) {
        let (conn, request) = key;
        if self.node.logs().get(log).is_none() {
            return self.fail_no_log(conn, request, log);
        }
        if self.followers.count() >= FOLLOWERS_MAX {
            let text = "as many followers as a node serves are there";
            return self.fail(conn, request, ErrorCode::LimitReached, None, text);
        }
        if self.followers.all.contains_key(&key) {
            let text = "a follower has this number already";
            return self.fail(conn, request, ErrorCode::BadRequest, None, text);
        }
        let credit_bytes = u64::from(credit_bytes);
        self.followers.add(key, Follower { log, next: from, credit_bytes, reading: false });
        self.serve_follower(io, key);
    }

    pub(super) fn on_credit<I: Io>(&mut self, io: &mut I, key: FollowerKey, bytes: u32) {
        // It may have ended meanwhile, and its end be on its way to the client.
        if let Some(follower) = self.followers.all.get_mut(&key) {
            follower.credit_bytes = follower.credit_bytes.saturating_add(u64::from(bytes));
            self.serve_follower(io, key);
        }
    }

    pub(super) fn on_unfollow(&mut self, key: FollowerKey) {
        if self.followers.remove(key).is_some() {
            self.respond(key.0, &Response::Done { request: key.1 });
        }
    }

    /// The connection is gone.
    pub(super) fn drop_followers(&mut self, conn: ConnId) {
        for key in self.followers.of_conn(conn) {
            self.followers.remove(key);
        }
    }

    /// Bytes have left on the connection: there may be room for more.
    pub(super) fn resume_followers<I: Io>(&mut self, io: &mut I, conn: ConnId) {
        if self.followers.all.is_empty() {
            return;
        }
        for key in self.followers.of_conn(conn) {
            self.serve_follower(io, key);
        }
    }

    /// Sends what the slots applied since the last call have brought: to the reads that wait for it, and
    /// to followers.
    pub(super) fn serve_touched_logs<I: Io>(&mut self, io: &mut I) {
        let mut logs = std::mem::take(&mut self.logs_touched);
        self.node.take_touched(&mut logs);
        logs.sort_unstable();
        logs.dedup();
        self.wake_waiters(io, &logs);
        if !self.followers.all.is_empty() {
            for log in &logs {
                let followers = self.followers.by_log.get(log);
                let keys: Vec<FollowerKey> = followers.into_iter().flatten().copied().collect();
                keys.into_iter().for_each(|key| self.serve_follower(io, key));
            }
        }
        logs.clear();
        self.logs_touched = logs;
    }

    /// Sends a follower what there is, as far as its credit and its connection permit.
    fn serve_follower<I: Io>(&mut self, io: &mut I, key: FollowerKey) {
        let (conn, request) = key;
        while let Some(follower) = self.followers.all.get(&key) {
            let log = follower.log;
            let Some(state) = self.node.logs().get(log) else {
                self.followers.remove(key);
                return self.fail_no_log(conn, request, log);
            };
            let room = self
                .sessions
                .get(&conn)
                .is_some_and(|session| session.outbox.queued_bytes() < CLIENT_QUEUE_BYTES_MAX);
            let waits = follower.reading || follower.credit_bytes == 0 || !room;
            if waits || follower.next >= state.tail {
                return;
            }
            let bytes_max = follower.credit_bytes.min(READ_BYTES_MAX as u64) as u32;
            let mut read =
                Read::new(conn, request, log, follower.next, 0, bytes_max).with(Purpose::Follow);
            match self.collect_cached(&mut read) {
                true => self.push(read),
                false => {
                    self.followers.all.get_mut(&key).expect("looked at above").reading = true;
                    return self.read_stored(io, read);
                }
            }
        }
    }

    /// A read for a follower has ended: with records.
    pub(super) fn on_followed<I: Io>(&mut self, io: &mut I, read: Read) {
        let key = (read.conn, read.request);
        if let Some(follower) = self.followers.all.get_mut(&key) {
            follower.reading = false;
            // The number may name a later follower of the same client by now.
            if follower.next == read.from && follower.log == read.log {
                self.push(read);
            }
            self.serve_follower(io, key);
        }
    }

    /// A read for a follower has ended: without. The client tries another replica.
    pub(super) fn end_follower(&mut self, key: FollowerKey, error: ErrorCode, text: &str) {
        if self.followers.remove(key).is_some() {
            self.fail(key.0, key.1, error, None, text);
        }
    }

    fn push(&mut self, read: Read) {
        let follower = self.followers.all.get_mut(&(read.conn, read.request));
        let follower = follower.expect("pushed to a follower that is there");
        follower.next = read.next();
        follower.credit_bytes = follower.credit_bytes.saturating_sub(read.run.len() as u64);
        self.finish_read(read);
    }
}
