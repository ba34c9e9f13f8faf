//! What a server knows of the other groups of its node: which logs are theirs, and that a connection
//! for one of them is to be handed over.
//!
//! Part of the [`super::Server`]. Clients know a log by a number that names its group; within the
//! group, the machine and the log's files know it by the rest. Between the two stands this file.
//! The group of a name follows from the name, so that no group needs to ask another.

use crate::base::mutants::{Mutant, planted};
use crate::base::{GroupId, LogId};
use crate::io::{ConnId, Io, Net};
use crate::wire::{ErrorCode, Request, RequestId};

use super::Server;
use super::session::Phase;

/// No log ever has this number within its group.
const NOBODYS_LOG: LogId = LogId(u32::MAX);

const _: () = assert!(NOBODYS_LOG.0 > LogId::WITHIN_GROUP_MAX);

impl Server {
    /// A log's number within this group; none when it is not one of this group's.
    fn within_group(&self, log: LogId) -> Option<LogId> {
        // `default` is log 0 of group 0; in the others that number is nobody's.
        let is_here = log == LogId(0) || log.within_group().0 > 0;
        let is_own = log.group() == self.node.group();
        let is_own = is_own || planted(Mutant::GroupOfLogIgnored);
        (is_own && is_here).then_some(log.within_group())
    }

    /// The number under which the machine looks for the log that is appended to. An append to none of
    /// this group's is for the machine to refuse, as one to a log that has been deleted: it has its
    /// turn in its session, and those behind it are in order only if it takes that.
    pub(super) fn to_append_to(&self, log: LogId) -> LogId {
        self.within_group(log).unwrap_or(NOBODYS_LOG)
    }

    /// Whether the request is about a log of this group, or about none; otherwise it is refused.
    pub(super) fn is_for_this_group(&mut self, conn: ConnId, request: &Request<'_>) -> bool {
        let group = self.node.group();
        if let Some(log) = request.log()
            && self.within_group(log).is_none()
        {
            self.fail_no_log_numbered(conn, request.id(), log);
            return false;
        }
        if let Some(name) = request.log_name() {
            let of_name = GroupId::of_log_name(name, self.node.group_count());
            if of_name != group {
                let text = format!("a log of the name {name:?} is in group {of_name}");
                self.fail(conn, request.id(), ErrorCode::BadRequest, None, &text);
                return false;
            }
        }
        true
    }

    /// The number by which clients know a log of this group.
    pub(super) fn numbered(&self, log: LogId) -> LogId {
        LogId::of_group(self.node.group(), log)
    }

    pub(super) fn fail_no_log(&mut self, conn: ConnId, request: RequestId, log: LogId) {
        if log.0 > LogId::WITHIN_GROUP_MAX {
            let text = format!("group {} has no such log", self.node.group());
            return self.fail(conn, request, ErrorCode::NoSuchLog, None, &text);
        }
        self.fail_no_log_numbered(conn, request, self.numbered(log));
    }

    fn fail_no_log_numbered(&mut self, conn: ConnId, request: RequestId, log: LogId) {
        let text = format!("there is no log {log}");
        self.fail(conn, request, ErrorCode::NoSuchLog, None, &text);
    }

    /// Whether a greeting to `group` is for another thread of this node to answer.
    pub(super) fn is_for_another_thread(&self, group: GroupId) -> bool {
        group != self.node.group() && group.0 < self.node.group_count()
    }

    /// A connection has greeted a group that another thread serves: it becomes that thread's, from
    /// its first byte on. At the end of the turn, with all that the turn has brought of it.
    pub(super) fn leave(&mut self, conn: ConnId, group: GroupId) {
        let session = self.sessions.get_mut(&conn).expect("it has greeted");
        session.phase = Phase::Leaving(group);
        self.leaving.push(conn);
    }

    /// Hands over the connections that are for others.
    pub(super) fn hand_over<I: Io>(&mut self, io: &mut I) {
        while let Some(conn) = self.leaving.pop() {
            // One that has ended meanwhile is nobody's.
            let Some(session) = self.forget_session(conn) else { continue };
            if let Phase::Leaving(group) = session.phase {
                Net::hand_over(io, conn, group, session.greeting);
            }
        }
    }
}
