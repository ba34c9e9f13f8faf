//! What changes the log: appends, sessions, the creation and deletion of logs. Each becomes a
//! command in the node's open batch and is answered when that is applied.
//!
//! Part of the [`super::Server`]. Whether a condition holds is the machine's to say, in the order
//! of the log; nothing is judged here but what can never be right.

use crate::base::records::{RecordsError, check_run};
use crate::base::{AppendTerms, Instant, LogId, LogTerms, SessionId, SessionTerms};
use crate::io::ConnId;
use crate::machine::{AppendRefusal, Command, CommandKind, Outcome, Placed};
use crate::node::{CommandFailure, Refusal, Ticket};
use crate::wire::{ErrorCode, RequestId, Response};

use super::Server;

impl Server {
    pub(super) fn on_append(
        &mut self,
        now: Instant,
        conn: ConnId,
        request: RequestId,
        append: &Command<'_>,
    ) {
        // An append of no records takes its turn in its session, or sets a fence.
        let is_void = append.records == 0
            && append.run.is_empty()
            && (append.terms.session != SessionId::NONE || append.terms.fence.is_some());
        if !is_void && let Err(error) = check_run(append.run, append.records) {
            let code = match error {
                RecordsError::RecordTooLarge(_)
                | RecordsError::RunTooLarge(_)
                | RecordsError::TooMany(_) => ErrorCode::TooLarge,
                _ => ErrorCode::BadRequest,
            };
            self.fail(conn, request, code, None, &error.to_string());
            return;
        }
        let limit = self.node.append_bytes_max();
        if append.run.len() > limit {
            let text = format!("{} bytes are over this node's limit of {limit}", append.run.len());
            return self.fail(conn, request, ErrorCode::TooLarge, None, &text);
        }
        self.submit(now, conn, request, append);
    }

    pub(super) fn on_open_session(
        &mut self,
        now: Instant,
        conn: ConnId,
        request: RequestId,
        terms: SessionTerms,
    ) {
        match terms.fault() {
            Some(fault) => self.fail(conn, request, ErrorCode::BadRequest, None, fault),
            None => {
                let command = with_run(CommandKind::OpenSession, LogId(0));
                self.submit(now, conn, request, &Command { run: &terms.encode(), ..command });
            }
        }
    }

    pub(super) fn on_close_session(
        &mut self,
        now: Instant,
        conn: ConnId,
        request: RequestId,
        session: SessionId,
    ) {
        let terms = AppendTerms { session, ..AppendTerms::default() };
        let command = with_run(CommandKind::CloseSession, LogId(0));
        self.submit(now, conn, request, &Command { terms, ..command });
    }

    pub(super) fn on_create_log(
        &mut self,
        now: Instant,
        conn: ConnId,
        request: RequestId,
        terms: &LogTerms,
    ) {
        match terms.fault() {
            Some(fault) => self.fail(conn, request, ErrorCode::BadRequest, None, fault),
            None => {
                let command = with_run(CommandKind::CreateLog, LogId(0));
                self.submit(now, conn, request, &Command { run: &terms.encode(), ..command });
            }
        }
    }

    pub(super) fn on_delete_log(
        &mut self,
        now: Instant,
        conn: ConnId,
        request: RequestId,
        log: LogId,
    ) {
        if log == LogId(0) {
            let text = "the log `default` cannot be deleted";
            return self.fail(conn, request, ErrorCode::BadRequest, None, text);
        }
        self.submit(now, conn, request, &with_run(CommandKind::DeleteLog, log));
    }

    fn submit(&mut self, now: Instant, conn: ConnId, request: RequestId, command: &Command<'_>) {
        let ticket = Ticket { conn, request: request.0 };
        if let Err(refusal) = self.node.submit(now, ticket, command) {
            self.refuse(conn, request, &refusal);
        }
    }

    // ---- outcomes ---------------------------------------------------------------------------

    pub(super) fn on_command(&mut self, ticket: Ticket, result: Result<Outcome, CommandFailure>) {
        let (conn, request) = (ticket.conn, RequestId(ticket.request));
        let response = match result {
            Err(failure) => return self.fail_command(conn, request, &failure),
            Ok(Outcome::Refused(refusal)) => return self.refuse_append(conn, request, &refusal),
            Ok(Outcome::Appended(Placed { first, records })) => {
                Response::Appended { request, first, records }
            }
            Ok(Outcome::SessionOpened(session)) => Response::SessionOpened { request, session },
            Ok(Outcome::LogCreated { log, created }) => {
                Response::LogCreated { request, log: self.numbered(log), created }
            }
            Ok(Outcome::SessionClosed | Outcome::LogDeleted(_) | Outcome::Founded) => {
                Response::Done { request }
            }
            Ok(Outcome::SessionRefused) => {
                let text = "the table of sessions is full";
                return self.fail(conn, request, ErrorCode::LimitReached, None, text);
            }
            Ok(Outcome::LogRefused) => {
                let text = "there are as many logs as a group holds";
                return self.fail(conn, request, ErrorCode::LimitReached, None, text);
            }
            Ok(Outcome::NoLogDeleted(log)) => return self.fail_no_log(conn, request, log),
        };
        self.respond(conn, &response);
    }

    fn refuse_append(&mut self, conn: ConnId, request: RequestId, refusal: &AppendRefusal) {
        let (error, detail, text) = match *refusal {
            AppendRefusal::NoSuchLog(log) => return self.fail_no_log(conn, request, log),
            AppendRefusal::TailMoved { tail } => {
                (ErrorCode::TailMoved, tail.0, format!("the tail is at {tail}"))
            }
            AppendRefusal::Fenced { token } => {
                (ErrorCode::Fenced, token.0, format!("the log has taken the token {token}"))
            }
            AppendRefusal::RecordTooLarge { limit } => {
                let text = format!("the log takes records of at most {limit} bytes");
                (ErrorCode::TooLarge, u64::from(limit), text)
            }
            AppendRefusal::SessionExpired => {
                (ErrorCode::SessionExpired, 0, "the session has ended".to_owned())
            }
            AppendRefusal::OutOfOrder { expected } => {
                let text = format!("the session's next append is number {expected}");
                (ErrorCode::OutOfOrder, expected.0, text)
            }
            AppendRefusal::Forgotten => {
                (ErrorCode::Forgotten, 0, "the client has had the result before".to_owned())
            }
            AppendRefusal::WindowFull => {
                let text = "the session's window is full of unanswered appends".to_owned();
                (ErrorCode::LimitReached, 0, text)
            }
        };
        let text = text.as_str();
        self.respond(conn, &Response::Failed { request, error, leader: None, detail, text });
    }

    fn fail_command(&mut self, conn: ConnId, request: RequestId, failure: &CommandFailure) {
        match failure {
            CommandFailure::NotLeader { hint } => {
                self.refuse(conn, request, &Refusal::NotLeader { hint: *hint });
            }
            CommandFailure::OutcomeUnknown => {
                let text = "this node stopped leading before the command was chosen";
                self.fail(conn, request, ErrorCode::OutcomeUnknown, self.node.leader(), text);
            }
        }
    }
}

fn with_run(kind: CommandKind, log: LogId) -> Command<'static> {
    Command { kind, log, terms: AppendTerms::default(), records: 0, run: &[] }
}
