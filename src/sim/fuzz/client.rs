//! The client's half of its protocol against a server that may say anything.
//!
//! Held: nothing panics; every request comes back exactly once, as refused, answered or (when the
//! connection ends) drained; and no answer is taken for a request of another kind.

use std::collections::BTreeMap;

use super::Script;
use crate::base::{
    AppendTerms, GroupId, LogId, LogTerms, NodeId, Position, SessionId, SessionTerms,
};
use crate::client::connection::{ClientConnection, Incoming, ReadAsk, Response, Welcome};
use crate::wire::client::encode_response;
use crate::wire::hello::encode_hello_reply;
use crate::wire::{
    ErrorCode, FrameEncoder, HelloReply, Limits, PROTOCOL_VERSION, ReadLevel, RefuseReason,
    RequestId, Standing,
};

/// What came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRun {
    /// Requests submitted.
    pub submitted: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Whether the connection ended on what the server said.
    pub ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Append,
    Read,
    Tail,
    Status,
    Session,
    Created,
    Logs,
    Done,
    Follow,
    Lead,
}

struct Drive<'a> {
    script: Script<'a>,
    connection: ClientConnection<u64>,
    encoder: FrameEncoder,
    /// Bytes on their way to the client.
    wire: Vec<u8>,
    ids: Vec<RequestId>,
    open: BTreeMap<u64, Kind>,
    run: ClientRun,
}

/// Lets a server say what `data` says, while requests are made.
pub fn drive_client(data: &[u8]) -> ClientRun {
    let mut script = Script::new(data);
    let inflight = 1 + usize::from(script.u8() % 8);
    let mut drive = Drive {
        script,
        connection: ClientConnection::new(None, inflight),
        encoder: FrameEncoder::new(),
        wire: Vec::new(),
        ids: Vec::new(),
        open: BTreeMap::new(),
        run: ClientRun::default(),
    };
    if !drive.script.u8().is_multiple_of(8) {
        let reply = HelloReply::Welcome(welcome(Limits::default()));
        encode_hello_reply(&reply, &mut drive.encoder, &mut drive.wire);
    }
    while !drive.script.is_empty() && !drive.run.ended {
        drive.step();
    }
    drive.deliver(usize::MAX);
    for tag in drive.connection.drain() {
        assert!(drive.open.remove(&tag).is_some(), "drained once");
    }
    assert!(drive.open.is_empty(), "every request comes back: {:?}", drive.open);
    drive.run
}

fn welcome(limits: Limits) -> Welcome {
    Welcome {
        standing: Standing { cluster: Some(crate::base::ClusterId(7)), ..Standing::default() },
        pending: None,
        protocol_version: PROTOCOL_VERSION,
        node: NodeId(1),
        cluster: crate::base::ClusterDigest(7),
        cluster_name: "fuzz".to_owned(),
        group_count: 1,
        members: vec![(NodeId(1), "host:1".to_owned())],
        leader: None,
        limits,
    }
}

impl Drive<'_> {
    fn step(&mut self) {
        match self.script.u8() % 16 {
            0..=4 => self.submit(),
            5..=9 => self.respond(),
            10 => {
                let count = usize::from(self.script.u8() % 32);
                let bytes = self.script.take(count);
                self.wire.extend_from_slice(bytes);
            }
            11 => self.greet_again(),
            12 => {
                // A bit of what is on its way is flipped.
                let at = usize::from(self.script.u16());
                let bit = self.script.u8() % 8;
                if let Some(byte) = self.wire.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            13 => drop(self.connection.take_output(Vec::new())),
            _ => {
                let count = usize::from(self.script.u16());
                self.deliver(count);
            }
        }
    }

    fn submit(&mut self) {
        let tag = self.run.submitted;
        self.run.submitted += 1;
        let log = LogId(u32::from(self.script.u8() % 2));
        let (kind, result) = match self.script.u8() % 11 {
            0 => {
                let record = self.script.take(9);
                let records = vec![record; usize::from(self.script.u8() % 4)];
                let terms = AppendTerms::default();
                (Kind::Append, self.connection.append(tag, log, terms, &records))
            }
            1 => {
                let from = Position(self.script.odd_number());
                let (records_max, bytes_max) = (10, u32::from(self.script.u16()));
                let level = ReadLevel::Local;
                let ask = ReadAsk { log, from, records_max, bytes_max, level, wait_ms: 0 };
                (Kind::Read, self.connection.read(tag, &ask))
            }
            2 => (Kind::Tail, self.connection.tail(tag, log, ReadLevel::Lease)),
            3 => (Kind::Status, self.connection.status(tag)),
            4 => {
                let terms = SessionTerms { timeout_ms: 10_000, window: 8, nonce: 5 };
                (Kind::Session, self.connection.open_session(tag, terms))
            }
            5 => (Kind::Done, self.connection.close_session(tag, SessionId(3))),
            6 => (Kind::Created, self.connection.create_log(tag, &LogTerms::named("a"))),
            7 => (Kind::Logs, self.connection.list_logs(tag, "", 3, ReadLevel::Local)),
            8 => (Kind::Lead, self.connection.lead(tag, NodeId(2))),
            _ => {
                let from = Position(self.script.odd_number());
                (Kind::Follow, self.connection.follow(tag, log, from, 100))
            }
        };
        match result {
            Ok(id) => {
                self.ids.push(id);
                self.open.insert(tag, kind);
            }
            Err((back, _)) => assert_eq!(back, tag, "a refused request comes back at once"),
        }
    }

    /// A response that is well formed, to a request that was made, or to none.
    fn respond(&mut self) {
        let choice = usize::from(self.script.u8());
        let request = match self.ids.get(choice) {
            Some(id) => *id,
            None if choice < 200 && !self.ids.is_empty() => self.ids[choice % self.ids.len()],
            None => RequestId(self.script.odd_number()),
        };
        let (first, tail) =
            (Position(self.script.odd_number()), Position(self.script.odd_number()));
        let records = self.script.odd_number() as u32;
        let kind = self.script.u8() % 10;
        let count = usize::from(self.script.u8() % 64);
        let payload = self.script.take(count);
        let response = match kind {
            0 => Response::Appended { request, first, records },
            1 => Response::Records { request, first, records, tail, run: payload },
            2 => Response::TailIs { request, tail },
            3 => Response::StatusIs { request, json: payload },
            4 => Response::SessionOpened { request, session: SessionId(first.0) },
            5 => Response::LogCreated { request, log: LogId(records), created: true },
            6 => Response::LogsAre { request, json: payload },
            7 => Response::Done { request },
            8 => Response::LedBy { request, node: NodeId(records as u16) },
            _ => Response::Failed {
                request,
                error: ErrorCode::NotLeader,
                leader: Some(NodeId(records as u16)),
                detail: first.0,
                text: std::str::from_utf8(payload).unwrap_or("no text"),
            },
        };
        encode_response(&response, GroupId(0), &mut self.encoder, &mut self.wire);
    }

    fn greet_again(&mut self) {
        let reply = if self.script.u8().is_multiple_of(2) {
            let mut number = || self.script.odd_number() as u32;
            HelloReply::Welcome(welcome(Limits {
                record_bytes_max: number(),
                append_records_max: number(),
                append_bytes_max: number(),
                read_bytes_max: number(),
                inflight_max: number(),
            }))
        } else {
            let text = "not here".to_owned();
            let reason = RefuseReason::NotMember;
            HelloReply::Refused { protocol_version: PROTOCOL_VERSION, reason, text }
        };
        encode_hello_reply(&reply, &mut self.encoder, &mut self.wire);
    }

    fn deliver(&mut self, count: usize) {
        let bytes: Vec<u8> = self.wire.drain(..count.min(self.wire.len())).collect();
        let Drive { connection, open, run, .. } = self;
        let result = connection.receive(&bytes, |incoming| {
            if let Incoming::Pushed { tag, .. } = &incoming {
                assert_eq!(open.get(*tag), Some(&Kind::Follow), "records without end");
            }
            let Incoming::Answer { tag, response } = incoming else { return };
            let kind = open.remove(&tag).expect("a request is answered once");
            let fits = match response {
                Response::Appended { .. } => kind == Kind::Append,
                Response::Records { .. } => kind == Kind::Read,
                Response::TailIs { .. } => kind == Kind::Tail,
                Response::StatusIs { .. } => kind == Kind::Status,
                Response::SessionOpened { .. } => kind == Kind::Session,
                Response::LogCreated { .. } => kind == Kind::Created,
                Response::LogsAre { .. } => kind == Kind::Logs,
                Response::Done { .. } => matches!(kind, Kind::Done | Kind::Follow),
                Response::LedBy { .. } => kind == Kind::Lead,
                Response::Founded { .. } => false,
                Response::Failed { .. } => true,
            };
            assert!(fits, "a request of kind {kind:?} is answered by {response:?}");
            run.answered += 1;
        });
        self.run.ended |= result.is_err();
    }
}
