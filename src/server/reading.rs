//! How reads of records go on: from the node's cache, from the log's files, or waiting for records.
//!
//! Part of the [`super::Server`]; what a read has collected is in `reads.rs`. Guarantee: every read
//! that was started ends in one answer, or in its follower, and no more are under way or wait than
//! may.

use std::time::Duration;

use tracing::warn;

use super::reads::{Purpose, Read};
use super::service::describe;
use super::{DISK_READS_MAX, Server, WAITERS_MAX};
use crate::base::LogId;
use crate::io::Io;
use crate::log::{ReadEntry, ReadError};
use crate::node::Ticket;
use crate::wire::{ErrorCode, Response};

/// The longest that a read may wait for new records.
const READ_WAIT_MAX: Duration = Duration::from_secs(60);

impl Server {
    pub(super) fn start_read<I: Io>(&mut self, io: &mut I, read: Read, wait: Duration) {
        let Some(tail) = self.tail(read.log) else {
            return self.fail_no_log(read.conn, read.request, read.log);
        };
        if read.from < tail {
            self.go_on_reading(io, read);
        } else if wait.is_zero() {
            self.finish_read(read);
        } else if self.waiters.count() >= WAITERS_MAX {
            let text = "too many reads wait for new records";
            self.fail(read.conn, read.request, ErrorCode::Overloaded, None, text);
        } else {
            let deadline = io.now() + wait.min(READ_WAIT_MAX);
            self.waiters.push(read, deadline);
        }
    }

    /// Collects from the cache; what it does not keep is read from the log first.
    fn go_on_reading<I: Io>(&mut self, io: &mut I, mut read: Read) {
        let at_tail = |server: &Server, read: &Read| {
            server.tail(read.log).is_none_or(|tail| read.next() >= tail)
        };
        match self.collect_cached(&mut read) || read.is_full() || at_tail(self, &read) {
            true => self.end_read(io, read),
            false => self.read_stored(io, read),
        }
    }

    /// Collects from the cache. Returns whether the read's next record was there.
    pub(super) fn collect_cached(&self, read: &mut Read) -> bool {
        let mut in_cache = false;
        for (_, applied) in self.node.cached(read.log, read.next()) {
            in_cache = true;
            if !read.collect(&applied.placement, applied.batch.value()) {
                break;
            }
        }
        in_cache
    }

    /// Reads the slot with the read's next record from the log's files.
    pub(super) fn read_stored<I: Io>(&mut self, io: &mut I, read: Read) {
        if self.reads.len() >= DISK_READS_MAX {
            let text = "too many reads of old records are under way";
            return self.fail_read(&read, ErrorCode::Overloaded, text);
        }
        self.reads_started += 1;
        let ticket = Ticket { conn: read.conn, request: self.reads_started };
        match self.node.read_position(io, ticket, read.log, read.next()) {
            Ok(()) => {
                self.reads.insert(self.reads_started, read);
            }
            Err(refusal) => {
                let (code, _, text) = describe(&refusal);
                self.fail_read(&read, code, &text);
            }
        }
    }

    fn fail_read(&mut self, read: &Read, code: ErrorCode, text: &str) {
        match read.purpose {
            Purpose::Answer => self.fail(read.conn, read.request, code, None, text),
            Purpose::Follow => self.end_follower((read.conn, read.request), code, text),
        }
    }

    fn end_read<I: Io>(&mut self, io: &mut I, read: Read) {
        match read.purpose {
            Purpose::Answer => self.finish_read(read),
            Purpose::Follow => self.on_followed(io, read),
        }
    }

    pub(super) fn on_entry<I: Io>(
        &mut self,
        io: &mut I,
        ticket: Ticket,
        result: Result<ReadEntry, ReadError>,
    ) {
        let mut read = self.reads.remove(&ticket.request).expect("every log read has its read");
        match result {
            Ok(entry) => {
                let before = read.next();
                let placement = entry.placement.expect("found by position, so it is applied");
                let more = read.collect(&placement, entry.batch.value());
                // The next record may be over the read's byte limit, but the first one always goes.
                let went_on = read.next() > before;
                assert!(went_on || read.records > 0, "the slot that was found holds the position");
                let at_tail = self.tail(read.log).is_none_or(|tail| read.next() >= tail);
                match more && !at_tail {
                    true => self.go_on_reading(io, read),
                    false => self.end_read(io, read),
                }
            }
            Err(error) => {
                warn!(position = %read.next(), %error, "cannot read a stored record");
                self.fail_read(&read, ErrorCode::Corrupted, &error.to_string());
            }
        }
    }

    /// Sends what has been collected.
    pub(super) fn finish_read(&mut self, read: Read) {
        let response = Response::Records {
            request: read.request,
            first: read.from,
            records: read.records,
            // A log that has been deleted meanwhile has no tail any more; its records are read.
            tail: self.tail(read.log).unwrap_or(read.next()),
            run: &read.run,
        };
        self.respond(read.conn, &response);
    }

    /// Serves the waiting reads of these logs, which have grown or gone, and those whose time is up.
    pub(super) fn wake_waiters<I: Io>(&mut self, io: &mut I, logs: &[LogId]) {
        for log in logs {
            let tail = self.tail(*log);
            let is_due = |read: &Read| tail.is_none_or(|tail| read.from < tail);
            for read in self.waiters.take_due(*log, is_due) {
                self.start_read(io, read, Duration::ZERO);
            }
        }
        let now = io.now();
        while let Some(read) = self.waiters.take_late(now) {
            self.finish_read(read);
        }
    }
}
