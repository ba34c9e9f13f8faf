//! A real server of a cluster of one, on the simulated seam, against clients that may say
//! anything.
//!
//! Held: nothing panics; what a client may occupy stays bounded; whatever the server sends is a
//! well-formed answer to a request of that connection, each answered at most once; and an append
//! that is acknowledged has a position that no other has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::Script;
use crate::base::limits::KIB;
use crate::base::{
    AppendTerms, BlockPool, ClusterDigest, ClusterId, FenceToken, Founding, GroupId, Incarnation,
    Instant, LogId, NodeId, Position, Sequence, SessionId, SessionTerms,
};
use crate::io::{CloseReason, ConnId, Event, Wait};
use crate::log::{DataDir, FormatRequest, Member};
use crate::node::{Identity, Node, NodeOptions};
use crate::server::{Server, Turn};
use crate::sim::disk::{DiskOptions, SimDisk};
use crate::sim::host::{Chunk, NetCommand, Port, SimIo};
use crate::sim::time::Time;
use crate::sim::trace::HostId;
use crate::wire::client::{decode_response, encode_request};
use crate::wire::hello::{decode_hello_reply, encode_hello};
use crate::wire::status::ResourceStatus;
use crate::wire::{
    ErrorCode, FrameDecoder, FrameEncoder, FrameKind, Hello, HelloReply, HelloRole,
    PROTOCOL_VERSION, ReadLevel, Request, RequestId, Response, Standing,
};

/// Turns that one happening may take to be dealt with.
const TURNS_MAX: usize = 200;
/// Clients at a time.
const CLIENTS_MAX: usize = 4;
/// Of one run, so that it ends soon.
const STEPS_MAX: usize = 400;
/// Seconds within which every read that waits must have ended.
const PATIENCE_S: u64 = 120;
/// What may wait to be sent to one client; far above it nothing bounds the server.
const CLIENT_BYTES_MAX: usize = 64 << 20;

/// What came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerRun {
    /// Requests sent in well-formed frames.
    pub requests: u64,
    /// Answers received.
    pub answers: u64,
    /// Appends acknowledged.
    pub appended: u64,
    /// Connections that the server ended.
    pub hung_up: u64,
}

struct Client {
    conn: ConnId,
    encoder: FrameEncoder,
    decoder: FrameDecoder<Vec<u8>>,
    welcome: bool,
    /// Requests sent and not answered, by id; an id may have been used more than once.
    open: BTreeMap<u64, u64>,
    /// Ids of appends whose positions may be told twice.
    loose: BTreeSet<u64>,
    /// Raw bytes were sent: what the server made of them is not known here.
    raw: bool,
}

struct Drive<'a> {
    script: Script<'a>,
    server: Server,
    io: SimIo,
    now: u64,
    clients: Vec<Client>,
    positions: BTreeSet<Position>,
    events: Vec<Event<Chunk>>,
    run: ServerRun,
}

/// Lets clients do what `data` says.
pub fn drive_server(data: &[u8]) -> ServerRun {
    let (server, io) = start();
    let mut drive = Drive {
        script: Script::new(data),
        server,
        io,
        now: 1,
        clients: Vec::new(),
        positions: BTreeSet::new(),
        events: Vec::new(),
        run: ServerRun::default(),
    };
    drive.settle();
    for _ in 0..STEPS_MAX {
        if drive.script.is_empty() {
            break;
        }
        drive.step();
    }
    for _ in 0..PATIENCE_S {
        if drive.server.gauges().waiting_reads == 0 {
            break;
        }
        drive.wait(Duration::from_secs(1));
    }
    let gauges = drive.server.gauges();
    assert_eq!(gauges.waiting_reads, 0, "no read waits for ever: {gauges:?}");
    drive.run
}

pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7101))
}

pub(super) fn start() -> (Server, SimIo) {
    let host = HostId(0);
    let mut disk = SimDisk::new(1, DiskOptions::default());
    let node = NodeId(1);
    let member = Member { node, address: address().to_string() };
    let request = FormatRequest {
        cluster: "fuzz".to_owned(),
        incarnation: Incarnation(7),
        node,
        members: vec![member],
        group_count: 1,
        segment_bytes: 64 * KIB as u64,
        entry_bytes_max: 16 * KIB,
        preallocate_bytes: 0,
    };
    DataDir::format(&mut disk, &request).expect("an empty disk can be formatted");
    let mut io = SimIo::new(disk, Port::new(host), Instant(1));
    let found = DataDir::load(&mut io).expect("a formatted directory is loaded");
    let identity = Identity {
        cluster: ClusterDigest::of_name(&found.cluster),
        cluster_name: found.cluster,
        incarnation: found.incarnation,
        founding: Some(Founding {
            cluster: ClusterId(1),
            members: vec![(node, found.incarnation)],
        }),
        pending: None,
        is_used: false,
        node,
        members: vec![(node, address().to_string())],
        group_count: 1,
    };
    let pool = BlockPool::new(1 << 20);
    let mut options = NodeOptions::new(identity, pool.clone(), 1);
    options.log.segment_bytes = 64 * KIB as u64;
    options.log.entry_bytes_max = 16 * KIB;
    options.log.spare_segments = 1;
    options.cache_bytes_max = 64 * KIB;
    options.append_bytes_max = 8 * KIB;
    let node = Node::open(&mut io, options).expect("a formatted log is opened");
    (Server::new(node, pool, Instant(1), ResourceStatus::default), io)
}

impl Drive<'_> {
    fn step(&mut self) {
        let kind = self.script.u8() % 16;
        if kind == 0 || self.clients.is_empty() {
            return self.accept();
        }
        let index = usize::from(self.script.u8()) % self.clients.len();
        match kind {
            1 => {
                let reason = CloseReason::Ended;
                let conn = self.clients.remove(index).conn;
                self.io.inbox.push(Event::Closed { conn, reason });
            }
            2 => {
                let count = usize::from(self.script.u8());
                let bytes = self.script.take(count).to_vec();
                self.clients[index].raw = true;
                self.send(index, bytes);
            }
            3 => self.greet(index),
            4 => {
                let time = Duration::from_millis(u64::from(self.script.u16()));
                self.wait(time);
            }
            5..=9 => self.request(index, 0),
            // Several in one piece.
            10..=13 => {
                let more = 1 + self.script.u8() % 16;
                self.request(index, more);
            }
            _ => {}
        }
        if kind.is_multiple_of(2) {
            self.settle();
        }
    }

    fn accept(&mut self) {
        if self.clients.len() == CLIENTS_MAX {
            return;
        }
        let conn = self.io.port.next_conn();
        self.io.inbox.push(Event::Accepted { conn, from: address() });
        self.clients.push(Client {
            conn,
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::plain(),
            welcome: false,
            open: BTreeMap::new(),
            loose: BTreeSet::new(),
            raw: false,
        });
        if !self.script.u8().is_multiple_of(4) {
            self.greet(self.clients.len() - 1);
        }
    }

    fn send(&mut self, index: usize, chunk: Vec<u8>) {
        if !chunk.is_empty() {
            self.io.inbox.push(Event::Received { conn: self.clients[index].conn, chunk });
        }
    }

    fn greet(&mut self, index: usize) {
        let odd = self.script.u8();
        let protocol_version = if odd == 1 { self.script.u16() } else { PROTOCOL_VERSION };
        let role = match odd {
            2 => HelloRole::Peer {
                node: NodeId(self.script.u16()),
                to: NodeId(1),
                members_digest: self.script.u64(),
                group_count: 1,
                standing: Standing {
                    cluster: Some(ClusterId(u128::from(self.script.u8()))),
                    incarnation: Incarnation(u128::from(self.script.u8())),
                    ..Standing::default()
                },
                pending: None,
            },
            _ => HelloRole::Client,
        };
        let cluster = (odd == 3).then_some(ClusterDigest(self.script.u64()));
        let group = GroupId(0);
        let hello = Hello { protocol_version, cluster, role, group };
        let mut bytes = Vec::new();
        encode_hello(&hello, &mut self.clients[index].encoder, &mut bytes);
        self.send(index, bytes);
    }

    fn request(&mut self, index: usize, more: u8) {
        let mut bytes = Vec::new();
        for _ in 0..=more {
            self.encode(index, &mut bytes);
        }
        self.send(index, bytes);
    }

    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let script = &mut self.script;
        let id = script.odd_number();
        let request = RequestId(id);
        let log = LogId(if script.u8().is_multiple_of(8) { script.odd_number() as u32 } else { 0 });
        let level = [ReadLevel::Local, ReadLevel::ReadIndex, ReadLevel::Lease];
        let level = level[usize::from(script.u8() % 3)];
        let group = GroupId(u16::from(script.u8() == 1));
        let kind = script.u8() % 17;
        let name = ["a", "orders", "no name", ""][usize::from(script.u8() % 4)];
        let (mut run, mut unique) = (Vec::new(), false);
        let request = match kind {
            0..=2 => {
                let count = script.u8() % 8;
                for _ in 0..count {
                    let length = usize::from(script.u16() % 4096);
                    let filled = script.take(length % 16).to_vec();
                    run.extend_from_slice(&(length as u32).to_le_bytes());
                    run.extend(filled.iter().chain(std::iter::repeat(&7)).take(length));
                }
                // Now and then the count or the run is a lie.
                let records =
                    if script.u8() == 1 { script.odd_number() as u32 } else { count.into() };
                if script.u8() == 1 {
                    run.truncate(run.len() / 2);
                }
                let mut terms = AppendTerms::default();
                if script.u8().is_multiple_of(4) {
                    terms.session = SessionId(script.odd_number());
                    terms.sequence = Sequence(script.odd_number());
                    terms.unanswered = script.u16();
                }
                if script.u8().is_multiple_of(8) {
                    terms.if_tail = Some(Position(script.odd_number()));
                    terms.fence = Some(FenceToken(script.odd_number()));
                }
                // A repetition is answered as the first one was; logs count from 0 each.
                unique = terms.session == SessionId::NONE && log == LogId(0);
                Request::Append { request, log, terms, records, run: &run }
            }
            3..=5 => Request::Read {
                request,
                log,
                from: Position(script.odd_number()),
                records_max: script.odd_number() as u32,
                bytes_max: script.odd_number() as u32,
                level,
                wait_ms: script.odd_number() as u32,
            },
            6 => Request::Tail { request, log, level },
            7 => Request::Status { request },
            16 => Request::Lead { request, node: NodeId(u16::from(script.u8() % 3)) },
            8 => {
                let timeout_ms = 1000 + script.u16() as u32;
                let (window, nonce) = (u32::from(script.u8()), u128::from(script.u8()));
                let terms = SessionTerms { timeout_ms, window, nonce };
                Request::OpenSession { request, terms }
            }
            9 => Request::CloseSession { request, session: SessionId(script.odd_number()) },
            10 => {
                let record_bytes_max = u32::from(script.u16());
                Request::CreateLog { request, name, record_bytes_max }
            }
            11 => Request::DeleteLog { request, log },
            12 => Request::FindLog { request, name, level },
            13 => Request::ListLogs { request, after: name, logs_max: script.u8().into(), level },
            14 => {
                let (from, credit_bytes) = (Position(script.odd_number()), script.u16().into());
                Request::Follow { request, log, from, credit_bytes }
            }
            _ if script.u8().is_multiple_of(2) => {
                Request::Credit { request, bytes: script.u16().into() }
            }
            _ => Request::Unfollow { request },
        };
        if !unique {
            self.clients[index].loose.insert(id);
        }
        let client = &mut self.clients[index];
        encode_request(&request, group, &mut client.encoder, out);
        *client.open.entry(id).or_default() += 1;
        self.run.requests += 1;
    }

    // ---- the world ----

    fn wait(&mut self, time: Duration) {
        let end = self.now + time.as_nanos() as u64;
        loop {
            self.settle();
            let disk = self.io.disk.next_completion_at().map(|at| at.0);
            let own = match self.server.wait(Instant(self.now)) {
                Wait::No => self.now,
                Wait::AtMost(span) => self.now + span.as_nanos() as u64,
            };
            let next = disk.map_or(own, |disk| disk.min(own)).max(self.now + 1);
            if next >= end {
                break;
            }
            self.now = next;
        }
        self.now = end;
        self.settle();
    }

    /// Turns until neither the network nor the disk has anything to say.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if let Some(at) = self.io.disk.next_completion_at() {
                self.now = self.now.max(at.0);
            }
            self.turn();
            let quiet = self.io.inbox.is_empty() && self.io.disk.next_completion_at().is_none();
            if quiet && self.server.wait(Instant(self.now)) != Wait::No {
                return;
            }
        }
        panic!("the server does not come to rest");
    }

    fn turn(&mut self) {
        let time = Time(self.now);
        self.io.begin_turn(time, Instant(self.now));
        let turn = self.server.turn(&mut self.io, Wait::No, &mut self.events);
        assert_eq!(turn.expect("a disk without faults"), Turn::GoOn, "nobody asks it to stop");
        self.io.end_turn(time);
        let gauges = self.server.gauges();
        assert!(gauges.client_bytes_max < CLIENT_BYTES_MAX, "{gauges:?}");
        for command in self.io.port.take_commands() {
            match command {
                NetCommand::Send(conn, parts) => {
                    let bytes: Vec<u8> =
                        parts.iter().flat_map(|part| part.bytes()).copied().collect();
                    self.io.inbox.push(Event::Sent { conn, parts });
                    self.receive(conn, &bytes);
                }
                NetCommand::Close(conn) => {
                    self.run.hung_up += 1;
                    self.clients.retain(|client| client.conn != conn);
                    self.io.inbox.retain(|event| !is_of(event, conn));
                }
                NetCommand::Connect(..) | NetCommand::LookUp(..) => {
                    panic!("a cluster of one dials nobody")
                }
                // What arrives in spite of a pause was on its way already.
                NetCommand::Pause(_) | NetCommand::Resume(_) => {}
            }
        }
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        // It may be gone by now.
        let Some(client) = self.clients.iter_mut().find(|client| client.conn == conn) else {
            return;
        };
        let mut rest = bytes;
        while let Some(frame) =
            client.decoder.next(&mut rest, &()).expect("a server's frame decodes")
        {
            if frame.kind == FrameKind::HelloReply {
                let reply = decode_hello_reply(&frame).expect("a server's greeting decodes");
                assert!(!client.welcome, "one greeting");
                client.welcome = matches!(reply, HelloReply::Welcome(_));
                continue;
            }
            assert!(
                client.welcome,
                "nothing is answered before the greeting: {:?}",
                decode_response(&frame)
            );
            let response = decode_response(&frame).expect("a server's answer decodes");
            let count = client.open.get_mut(&response.id().0);
            let known = count.is_some_and(|count| {
                *count = count.saturating_sub(1);
                true
            });
            // What cannot be read as a request is answered once, under no request's number.
            let unreadable =
                matches!(response, Response::Failed { error: ErrorCode::BadRequest, .. });
            assert!(known || unreadable || client.raw, "an answer to nothing: {response:?}");
            self.run.answers += 1;
            if let Response::Appended { first, records, .. } = response {
                self.run.appended += 1;
                if client.loose.contains(&response.id().0) {
                    continue;
                }
                for index in 0..u64::from(records) {
                    let fresh = self.positions.insert(first.plus(index));
                    assert!(fresh, "position {} is given twice", first.plus(index));
                }
            }
        }
    }
}

fn is_of(event: &Event<Chunk>, conn: ConnId) -> bool {
    match event {
        Event::Accepted { conn: of, .. }
        | Event::Received { conn: of, .. }
        | Event::Sent { conn: of, .. }
        | Event::Closed { conn: of, .. } => *of == conn,
        _ => false,
    }
}
