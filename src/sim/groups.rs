//! Two groups of one node, by hand: a connection's way from the group that accepts it.

use std::net::SocketAddr;

use super::disk::{DiskOptions, SimDisk};
use super::host::{NetCommand, Port, SimIo};
use super::time::Time;
use super::trace::HostId;
use crate::base::limits::KIB;
use crate::base::{
    AppendTerms, BlockPool, ClusterDigest, ClusterId, Founding, GroupId, Incarnation, Instant,
    LogId, NodeId, Sequence, SessionId, SessionTerms,
};
use crate::client::connection::{ClientConnection, Incoming, Response};
use crate::io::{ConnId, Event, Wait};
use crate::log::{DataDir, FormatRequest, Member};
use crate::node::{Identity, Node, NodeOptions};
use crate::server::Server;
use crate::wire::client::encode_request;
use crate::wire::hello::encode_hello;
use crate::wire::status::ResourceStatus;
use crate::wire::{
    ErrorCode, FrameEncoder, Hello, HelloRole, PROTOCOL_VERSION, ReadLevel, RefuseReason, Request,
    RequestId,
};

const GROUPS: u16 = 2;
/// Turns until nothing is left to do.
const TURNS: u64 = 30;

fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7101))
}

struct Bed {
    io: SimIo,
    servers: Vec<Server>,
    now: u64,
}

impl Bed {
    fn new() -> Bed {
        let mut disk = SimDisk::new(1, DiskOptions::default());
        let node = NodeId(1);
        let request = FormatRequest {
            cluster: "two".to_owned(),
            incarnation: Incarnation(7),
            node,
            members: vec![Member { node, address: address().to_string() }],
            group_count: GROUPS,
            segment_bytes: 64 * KIB as u64,
            entry_bytes_max: 16 * KIB,
            preallocate_bytes: 0,
        };
        DataDir::format(&mut disk, &request).unwrap();
        let mut io = SimIo::new(disk, Port::new(HostId(0)), Instant(1));
        let found = DataDir::load(&mut io).unwrap();
        let servers = (0..GROUPS).map(GroupId).map(|group| {
            let identity = Identity {
                cluster: ClusterDigest::of_name(&found.cluster),
                cluster_name: found.cluster.clone(),
                incarnation: found.incarnation,
                founding: Some(Founding {
                    cluster: ClusterId(1),
                    members: vec![(node, found.incarnation)],
                }),
                pending: None,
                is_used: false,
                node,
                members: vec![(node, address().to_string())],
                group_count: GROUPS,
            };
            let pool = BlockPool::new(1 << 20);
            let options = NodeOptions::new(identity, pool.clone(), 1);
            let mut options = options.for_group(group);
            options.log.segment_bytes = 64 * KIB as u64;
            options.log.entry_bytes_max = 16 * KIB;
            options.append_bytes_max = 8 * KIB;
            io.group = group;
            let node = Node::open(&mut io, options).unwrap();
            Server::new(node, pool, Instant(1), ResourceStatus::default)
        });
        let servers = servers.collect();
        Bed { io, servers, now: 1 }
    }

    /// Lets everybody take turns; returns what was sent on `conn` and whether it was hung up.
    fn settle(&mut self, conn: ConnId) -> (Vec<u8>, bool) {
        let (mut sent, mut closed) = (Vec::new(), false);
        for _ in 0..TURNS {
            // Elections of one node included.
            self.now += 100_000_000;
            self.io.begin_turn(Time(self.now), Instant(self.now));
            for (group, server) in self.servers.iter_mut().enumerate() {
                self.io.group = GroupId(group as u16);
                server.turn(&mut self.io, Wait::No, &mut Vec::new()).unwrap();
            }
            self.io.end_turn(Time(self.now));
            for command in self.io.port.take_commands() {
                match command {
                    NetCommand::Send(of, parts) => {
                        assert_eq!(of, conn);
                        parts.iter().for_each(|part| sent.extend_from_slice(part.bytes()));
                        self.io.inbox.push(Event::Sent { conn, parts });
                    }
                    NetCommand::Close(of) => closed |= of == conn,
                    NetCommand::Connect(..) | NetCommand::LookUp(..) => {
                        panic!("a cluster of one dials nobody")
                    }
                    NetCommand::Pause(_) | NetCommand::Resume(_) => {}
                }
            }
        }
        (sent, closed)
    }

    fn accept(&mut self, chunks: &[&[u8]]) -> ConnId {
        let conn = self.io.port.next_conn();
        self.io.inbox.push(Event::Accepted { conn, from: address() });
        for chunk in chunks {
            self.io.inbox.push(Event::Received { conn, chunk: chunk.to_vec() });
        }
        conn
    }
}

/// What a client says of `group` at once: the greeting and the question for a log.
fn asks(group: GroupId, log: LogId) -> Vec<u8> {
    let (mut encoder, mut bytes) = (FrameEncoder::new(), Vec::new());
    let role = HelloRole::Client;
    let hello = Hello { protocol_version: PROTOCOL_VERSION, cluster: None, role, group };
    encode_hello(&hello, &mut encoder, &mut bytes);
    let tail = Request::Tail { request: RequestId(1), log, level: ReadLevel::Local };
    encode_request(&tail, group, &mut encoder, &mut bytes);
    bytes
}

/// Feeds what the node said to a client of the library, whose question has the number 1.
fn hears(bytes: &[u8], group: GroupId) -> Vec<String> {
    let mut connection: ClientConnection<()> = ClientConnection::of_group(None, group, 8);
    let mut heard = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        // The welcome first, so that the question can be asked that has been answered already.
        let (first, behind) = rest.split_at(1);
        rest = behind;
        let received = connection.receive(first, |incoming| {
            heard.push(match incoming {
                Incoming::Welcome(welcome) => format!("welcome to {}", welcome.group_count),
                Incoming::Refused { reason, .. } => format!("refused: {reason:?}"),
                Incoming::Answer { response: Response::TailIs { tail, .. }, .. } => {
                    format!("tail {tail}")
                }
                Incoming::Answer { response: Response::Failed { error, .. }, .. } => {
                    format!("failed: {error:?}")
                }
                other => format!("{other:?}"),
            });
        });
        // The answer names a request that this client has not sent: that it came is all.
        if received.is_err() {
            heard.push("an answer".to_owned());
            break;
        }
    }
    heard
}

#[test]
fn a_connection_for_another_group_is_answered_by_that_group_with_all_that_came_behind_the_greeting()
{
    let bytes = asks(GroupId(1), LogId::of_group(GroupId(1), LogId(3)));
    // Whole, byte by byte, and cut within the greeting, within the question and between them.
    let greeting = bytes.len() / 2;
    let cuts: Vec<Vec<&[u8]>> = vec![
        vec![&bytes],
        bytes.chunks(1).collect(),
        vec![&bytes[..5], &bytes[5..]],
        vec![&bytes[..greeting], &bytes[greeting..]],
        vec![&bytes[..bytes.len() - 3], &bytes[bytes.len() - 3..]],
    ];
    for chunks in cuts {
        let mut bed = Bed::new();
        let conn = bed.accept(&chunks);
        let (said, closed) = bed.settle(conn);
        assert!(!closed);
        assert_eq!(hears(&said, GroupId(1)), ["welcome to 2", "an answer"], "{chunks:?}");
        assert_eq!((bed.io.owner(conn), bed.io.handed_over), (GroupId(1), 1));
        // And what comes later comes there, too.
        let (mut encoder, mut more) = (FrameEncoder::new(), asks(GroupId(1), LogId(0)));
        more.clear();
        encode_hello_again(&mut encoder, &mut more);
        bed.io.inbox.push(Event::Received { conn, chunk: more });
        let (said, closed) = bed.settle(conn);
        assert!(closed && !said.is_empty(), "a second greeting ends it");
    }
}

fn encode_hello_again(encoder: &mut FrameEncoder, out: &mut Vec<u8>) {
    let (role, group) = (HelloRole::Client, GroupId(1));
    let hello = Hello { protocol_version: PROTOCOL_VERSION, cluster: None, role, group };
    encode_hello(&hello, encoder, out);
}

#[test]
fn a_group_that_is_not_there_is_refused_with_the_reason() {
    let mut bed = Bed::new();
    let conn = bed.accept(&[&asks(GroupId(2), LogId(0))]);
    let (said, closed) = bed.settle(conn);
    assert!(closed);
    assert_eq!(hears(&said, GroupId(2)), [format!("refused: {:?}", RefuseReason::NoSuchGroup)]);
    assert_eq!(bed.io.handed_over, 0);
}

#[test]
fn one_that_ends_before_it_is_handed_over_is_nobodys() {
    let mut bed = Bed::new();
    let conn = bed.accept(&[&asks(GroupId(1), LogId(0))]);
    let reason = crate::io::CloseReason::Ended;
    bed.io.inbox.push(Event::Closed { conn, reason });
    let (said, _) = bed.settle(conn);
    assert!(said.is_empty());
    assert_eq!(bed.io.handed_over, 0);
    assert!(bed.servers.iter().all(|server| server.gauges().stalled_clients == 0));
}

/// Asks a group over a connection of its own.
fn ask(bed: &mut Bed, group: GroupId, request: &Request<'_>) -> Result<String, ErrorCode> {
    let mut connection: ClientConnection<()> = ClientConnection::of_group(None, group, 8);
    let hello = connection.take_output(Vec::new());
    let conn = bed.accept(&[&hello]);
    let (welcome, _) = bed.settle(conn);
    connection.receive(&welcome, |_| {}).unwrap();
    let sent = match *request {
        Request::CreateLog { name, .. } => {
            connection.create_log((), &crate::base::LogTerms::named(name))
        }
        Request::Tail { log, level, .. } => connection.tail((), log, level),
        Request::FindLog { name, level, .. } => connection.find_log((), name, level),
        Request::ListLogs { after, level, .. } => connection.list_logs((), after, 0, level),
        _ => panic!("not asked here"),
    };
    sent.unwrap();
    let chunk = connection.take_output(Vec::new());
    bed.io.inbox.push(Event::Received { conn, chunk });
    let (said, _) = bed.settle(conn);
    let mut result = None;
    connection
        .receive(&said, |incoming| {
            let Incoming::Answer { response, .. } = incoming else { return };
            result = Some(match response {
                Response::Failed { error, .. } => Err(error),
                Response::LogCreated { log, .. } => Ok(log.to_string()),
                Response::TailIs { tail, .. } => Ok(tail.to_string()),
                Response::LogsAre { json, .. } => Ok(String::from_utf8(json.to_vec()).unwrap()),
                other => panic!("{other:?}"),
            });
        })
        .unwrap();
    result.expect("every request is answered")
}

#[test]
fn each_group_has_its_own_logs_and_knows_no_others() {
    let mut bed = Bed::new();
    let request = RequestId(1);
    let level = ReadLevel::ReadIndex;
    let named = |group: u16| {
        let name = |number: u32| format!("log-{number}");
        let in_group = |name: &String| GroupId::of_log_name(name, GROUPS) == GroupId(group);
        (0..).map(name).find(in_group).unwrap()
    };
    let (here, there) = (named(0), named(1));
    let create = |name| Request::CreateLog { request, name, record_bytes_max: 100 };
    let (zero, one) = (GroupId(0), GroupId(1));
    assert_eq!(ask(&mut bed, zero, &create(&here)), Ok("1".to_owned()));
    let first = LogId::of_group(one, LogId(1));
    assert_eq!(ask(&mut bed, one, &create(&there)), Ok(first.to_string()));
    assert_eq!(ask(&mut bed, one, &create(&here)), Err(ErrorCode::BadRequest));
    assert_eq!(ask(&mut bed, zero, &create(&there)), Err(ErrorCode::BadRequest));

    let tail = |log| Request::Tail { request, log, level };
    assert_eq!(ask(&mut bed, one, &tail(first)), Ok("0".to_owned()));
    assert_eq!(ask(&mut bed, zero, &tail(LogId(0))), Ok("0".to_owned()));
    // A log of the other group, and the number that is nobody's.
    assert_eq!(ask(&mut bed, zero, &tail(first)), Err(ErrorCode::NoSuchLog));
    assert_eq!(ask(&mut bed, one, &tail(LogId(1))), Err(ErrorCode::NoSuchLog));
    let nobodys = LogId::of_group(one, LogId(0));
    assert_eq!(ask(&mut bed, one, &tail(nobodys)), Err(ErrorCode::NoSuchLog));

    let find = |name| Request::FindLog { request, name, level };
    assert!(ask(&mut bed, one, &find(&there)).unwrap().contains(&first.to_string()));
    assert_eq!(ask(&mut bed, one, &find("default")), Err(ErrorCode::BadRequest));
    let list = Request::ListLogs { request, after: "", logs_max: 0, level };
    let listed = ask(&mut bed, one, &list).unwrap();
    assert!(listed.contains(&there) && !listed.contains("default"), "{listed}");
    assert!(ask(&mut bed, zero, &list).unwrap().contains("default"));
}

#[test]
fn an_append_to_a_log_of_another_group_takes_its_turn_in_its_session() {
    let mut bed = Bed::new();
    let group = GroupId(1);
    let (request, record_bytes_max) = (RequestId(1), 100);
    let names = (0..).map(|number| format!("log-{number}"));
    let mut names = names.filter(|name| GroupId::of_log_name(name, GROUPS) == group);
    let name = names.next().unwrap();
    let create = Request::CreateLog { request, name: &name, record_bytes_max };
    ask(&mut bed, group, &create).unwrap();

    let mut connection: ClientConnection<u32> = ClientConnection::of_group(None, group, 8);
    let hello = connection.take_output(Vec::new());
    let conn = bed.accept(&[&hello]);
    let talk = |connection: &mut ClientConnection<u32>, bed: &mut Bed| {
        let chunk = connection.take_output(Vec::new());
        if !chunk.is_empty() {
            bed.io.inbox.push(Event::Received { conn, chunk });
        }
        let (said, _) = bed.settle(conn);
        let mut heard = Vec::new();
        let received = connection.receive(&said, |incoming| {
            let Incoming::Answer { tag, response } = incoming else { return };
            heard.push((
                tag,
                match response {
                    Response::SessionOpened { session, .. } => Ok(session.0),
                    Response::Appended { first, .. } => Ok(first.0),
                    Response::Failed { error, .. } => Err(error),
                    other => panic!("{other:?}"),
                },
            ));
        });
        received.unwrap();
        heard
    };
    assert_eq!(talk(&mut connection, &mut bed), []);
    let terms = SessionTerms { timeout_ms: 60_000, window: 8, nonce: 0 };
    connection.open_session(0, terms).unwrap();
    let session = SessionId(talk(&mut connection, &mut bed)[0].1.unwrap());
    let nobodys = LogId::of_group(group, LogId(0));
    let own = LogId::of_group(group, LogId(1));
    let logs =
        [(LogId(1), 1), (nobodys, 2), (own, 3), (LogId::of_group(group, LogId(9)), 4), (own, 5)];
    for (log, sequence) in logs {
        let terms = AppendTerms {
            session,
            sequence: Sequence(sequence),
            unanswered: 4,
            ..AppendTerms::default()
        };
        connection.append(sequence as u32, log, terms, &[b"one"]).unwrap();
    }
    let missing = Err(ErrorCode::NoSuchLog);
    let expected = [(1, missing), (2, missing), (3, Ok(0)), (4, missing), (5, Ok(1))];
    assert_eq!(talk(&mut connection, &mut bed), expected);
}
