//! Tests of the client against servers that follow a script: real sockets on 127.0.0.1, one
//! thread a server, nothing timed but the client's own deadlines.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod once;
mod silence;

use super::connection::{ClientConnection, ConnectionError, Incoming, SubmitError};
use super::*;
use crate::base::records::{Records, push_record};
use crate::base::{
    AppendTerms, ClusterDigest, ClusterId, GroupId, LogId, NodeId, Position, SessionId,
};
use crate::wire::client::{decode_request, encode_response};
use crate::wire::hello::{decode_hello, encode_hello_reply};
use crate::wire::{
    FrameDecoder, FrameEncoder, FrameKind, HelloReply, HelloRole, Limits, PROTOCOL_VERSION,
    Request, RequestId, Response, Standing, Welcome,
};

/// A server that waits longer than this has found a hanging test.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> ClientOptions {
    // A script that is slow to answer is not looked into: its listeners count the connections.
    ClientOptions {
        operation_timeout: PATIENCE,
        attempt_delay: PATIENCE,
        probe_after: PATIENCE,
        exactly_once: false,
        ..Default::default()
    }
}

fn short(timeout_ms: u64) -> ClientOptions {
    ClientOptions { operation_timeout: Duration::from_millis(timeout_ms), ..options() }
}

/// A request as the server got it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Append { id: RequestId, name: AppendTerms, records: Vec<Vec<u8>> },
    Read { id: RequestId, from: Position },
    Tail { id: RequestId, level: ReadLevel },
    Lead { id: RequestId, node: NodeId },
    Status { id: RequestId },
    OpenSession { id: RequestId },
    CloseSession { id: RequestId },
    Follow { id: RequestId, from: Position },
    Credit { id: RequestId, bytes: u32 },
    Unfollow { id: RequestId },
}

impl Got {
    fn id(&self) -> RequestId {
        match self {
            Got::Append { id, .. }
            | Got::Read { id, .. }
            | Got::Tail { id, .. }
            | Got::Lead { id, .. }
            | Got::Status { id }
            | Got::OpenSession { id }
            | Got::CloseSession { id }
            | Got::Follow { id, .. }
            | Got::Credit { id, .. }
            | Got::Unfollow { id } => *id,
        }
    }

    fn name(&self) -> AppendTerms {
        match self {
            Got::Append { name, .. } => *name,
            other => panic!("an append was due, not {other:?}"),
        }
    }

    /// The answer to an append.
    fn appended(&self, first: u64) -> Response<'static> {
        let Got::Append { id, records, .. } = self else { panic!("not an append: {self:?}") };
        let records = records.len() as u32;
        Response::Appended { request: *id, first: Position(first), records }
    }

    fn failed(&self, error: ErrorCode, leader: Option<u16>) -> Response<'static> {
        let leader = leader.map(NodeId);
        let text = "as the script says";
        Response::Failed { request: self.id(), error, leader, detail: 0, text }
    }
}

/// The server's end of one connection.
struct Served {
    stream: TcpStream,
    encoder: FrameEncoder,
    decoder: FrameDecoder<Vec<u8>>,
    received: Vec<u8>,
    used: usize,
}

impl Served {
    fn accept(listener: &TcpListener) -> Served {
        let (stream, _) = listener.accept().expect("the client connects");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Served {
            stream,
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::plain(),
            received: Vec::new(),
            used: 0,
        }
    }

    /// Accepts, takes the hello and welcomes.
    fn welcome(listener: &TcpListener, welcome: &Welcome) -> Served {
        let mut served = Served::accept(listener);
        served.hello();
        served.reply(&HelloReply::Welcome(welcome.clone()));
        served
    }

    fn reply(&mut self, reply: &HelloReply) {
        let mut out = Vec::new();
        encode_hello_reply(reply, &mut self.encoder, &mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn hello(&mut self) {
        loop {
            let mut rest = &self.received[self.used..];
            let size = rest.len();
            let frame = self.decoder.next(&mut rest, &()).expect("the client speaks the protocol");
            if let Some(frame) = frame {
                let hello = decode_hello(&frame).unwrap();
                assert_eq!(
                    (hello.protocol_version, hello.role),
                    (PROTOCOL_VERSION, HelloRole::Client)
                );
                self.used += size - rest.len();
                return;
            }
            self.fill();
        }
    }

    /// Everything held has been decoded: waits for more. Whether there was more.
    fn fill(&mut self) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        let size = self.stream.read(&mut buffer).expect("the client goes on in time");
        self.received = buffer[..size].to_vec();
        self.used = 0;
        size > 0
    }

    /// The next request; `None` when the client has closed the connection.
    fn request(&mut self) -> Option<Got> {
        loop {
            let mut rest = &self.received[self.used..];
            let size = rest.len();
            let frame = self.decoder.next(&mut rest, &()).expect("the client speaks the protocol");
            if let Some(frame) = frame {
                let got = owned(decode_request(&frame).unwrap());
                self.used += size - rest.len();
                return Some(got);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn next(&mut self) -> Got {
        self.request().expect("the client asks")
    }

    fn answer(&mut self, response: &Response<'_>) {
        let mut out = Vec::new();
        encode_response(response, GroupId(0), &mut self.encoder, &mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn answer_records(&mut self, got: &Got, records: &[&str], tail: u64) {
        let (Got::Read { id, from } | Got::Follow { id, from }) = got else {
            panic!("a read was due, not {got:?}")
        };
        self.push_records(*id, *from, records, tail);
    }

    fn push_records(&mut self, request: RequestId, first: Position, records: &[&str], tail: u64) {
        let mut run = Vec::new();
        records.iter().for_each(|record| push_record(&mut run, record.as_bytes()));
        let count = records.len() as u32;
        let tail = Position(tail);
        self.answer(&Response::Records { request, first, records: count, tail, run: &run });
    }

    /// Serves until the client goes.
    fn until_closed(mut self) {
        assert_eq!(self.request(), None, "nothing more was due");
    }
}

fn owned(request: Request<'_>) -> Got {
    match request {
        Request::Append { request, terms, records, run, .. } => {
            let found: Vec<_> = Records::new(run).map(|r| r.unwrap().to_vec()).collect();
            assert_eq!(found.len(), records as usize);
            Got::Append { id: request, name: terms, records: found }
        }
        Request::Read { request, from, .. } => Got::Read { id: request, from },
        Request::Tail { request, level, .. } => Got::Tail { id: request, level },
        Request::Lead { request, node } => Got::Lead { id: request, node },
        Request::Status { request } => Got::Status { id: request },
        Request::OpenSession { request, .. } => Got::OpenSession { id: request },
        Request::CloseSession { request, .. } => Got::CloseSession { id: request },
        Request::Follow { request, from, .. } => Got::Follow { id: request, from },
        Request::Credit { request, bytes } => Got::Credit { id: request, bytes },
        Request::Unfollow { request } => Got::Unfollow { id: request },
        other => panic!("no test asks {other:?}"),
    }
}

/// Listeners for nodes 1, 2, … and the member list that names them.
fn nodes(count: u16) -> (Vec<TcpListener>, Vec<(NodeId, String)>) {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let members =
        listeners.iter().enumerate().map(|(i, l)| (NodeId(i as u16 + 1), address(l))).collect();
    (listeners, members)
}

fn welcome_of(node: u16, leader: Option<u16>, members: &[(NodeId, String)]) -> Welcome {
    Welcome {
        protocol_version: PROTOCOL_VERSION,
        node: NodeId(node),
        cluster: ClusterDigest::of_name("test"),
        cluster_name: "test".to_owned(),
        group_count: 1,
        members: members.to_vec(),
        leader: leader.map(NodeId),
        limits: Limits::default(),
        standing: Standing { cluster: Some(ClusterId(1)), ..Standing::default() },
        pending: None,
    }
}

/// One node, which leads, with a script. Returns its address.
fn alone(script: impl FnOnce(TcpListener, Welcome) + Send + 'static) -> (String, JoinHandle<()>) {
    let (mut listeners, members) = nodes(1);
    let listener = listeners.remove(0);
    let welcome = welcome_of(1, Some(1), &members);
    let server = std::thread::spawn(move || script(listener, welcome));
    (members[0].1.clone(), server)
}

fn join(server: JoinHandle<()>) {
    server.join().expect("the server's script went to its end");
}

#[tokio::test]
async fn a_follower_points_to_the_leader_and_the_retry_keeps_its_name() {
    let (mut listeners, members) = nodes(2);
    let (leader, follower) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let (first, second) = (welcome_of(1, None, &members), welcome_of(2, Some(2), &members));
    let follower = std::thread::spawn(move || {
        let mut served = Served::welcome(&follower, &first);
        let got = served.next();
        served.answer(&got.failed(ErrorCode::NotLeader, Some(2)));
        served.until_closed();
        // Handed over for comparison.
        got.name()
    });
    let leader = std::thread::spawn(move || {
        let mut served = Served::welcome(&leader, &second);
        let got = served.next();
        served.answer(&got.appended(17));
        served.until_closed();
        got.name()
    });
    let client = Client::connect([members[0].1.clone()], options()).await.unwrap();
    let appended = client.append(&["a", "b"]).await.unwrap();
    assert_eq!(appended, Appended { first: Position(17), count: 2 });
    drop(client);
    let names =
        tokio::task::spawn_blocking(move || (follower.join().unwrap(), leader.join().unwrap()));
    let (at_follower, at_leader) = names.await.unwrap();
    assert_eq!(at_follower, at_leader);
}

#[tokio::test]
async fn the_hello_leads_straight_to_the_leader() {
    let (mut listeners, members) = nodes(2);
    let (leader, follower) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let (first, second) = (welcome_of(1, Some(2), &members), welcome_of(2, Some(2), &members));
    let servers = [
        std::thread::spawn(move || Served::welcome(&follower, &first).until_closed()),
        std::thread::spawn(move || {
            let mut served = Served::welcome(&leader, &second);
            let got = served.next();
            served.answer(&got.appended(0));
            served.until_closed();
        }),
    ];
    let client = Client::connect([members[0].1.clone()], options()).await.unwrap();
    client.append(&["a"]).await.unwrap();
    assert_eq!(client.members().await.map(|found| found == members), Ok(true));
    drop(client);
    tokio::task::spawn_blocking(move || servers.map(join)).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_under_an_append_leaves_it_unknown_and_unrepeated() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        assert_eq!(served.next().name(), AppendTerms::default());
        drop(served);
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        assert!(matches!(got, Got::Tail { .. }), "the append was sent again: {got:?}");
        served.answer(&Response::TailIs { request: got.id(), tail: Position(5) });
    });
    let client = Client::connect([address], options()).await.unwrap();
    let error = client.append(&["a"]).await.unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown { .. }) && !error.had_no_effect());
    assert_eq!(client.tail(ReadLevel::Local).await, Ok(Position(5)), "it has reconnected");
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_answers_an_append_leaves_it_unknown_in_time() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.next();
        served.until_closed();
    });
    let stall_timeout = Duration::from_millis(600);
    let options = ClientOptions { stall_timeout, ..short(300) };
    let client = Client::connect([address], options).await.unwrap();
    let started = Instant::now();
    let error = client.append(&["a"]).await.unwrap_err();
    assert!(matches!(error, AppendError::OutcomeUnknown { .. }), "{error:?}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    // The silent connection is closed once it has been silent for the stall timeout.
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn an_overloaded_server_is_asked_again_under_the_same_name() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        let first = served.next();
        served.answer(&first.failed(ErrorCode::Overloaded, None));
        let second = served.next();
        assert_eq!(first.name(), second.name());
        served.answer(&second.appended(3));
        let third = served.next();
        served.answer(&third.appended(4));
    });
    let client = Client::connect([address], options()).await.unwrap();
    assert_eq!(client.append(&["a"]).await.unwrap().first, Position(3));
    assert_eq!(client.append(&["b"]).await.unwrap().first, Position(4));
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_has_its_type_and_no_retry() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        for code in [ErrorCode::DiskFull, ErrorCode::OutcomeUnknown, ErrorCode::Unsupported] {
            let got = served.next();
            served.answer(&got.failed(code, None));
        }
    });
    let client = Client::connect([address], options()).await.unwrap();
    let text = "as the script says".to_owned();
    let full = AppendError::Rejected { code: ErrorCode::DiskFull, text: text.clone() };
    assert_eq!(client.append(&["a"]).await, Err(full));
    let unknown = AppendError::OutcomeUnknown { why: text.clone() };
    assert_eq!(client.append(&["a"]).await, Err(unknown));
    let unsupported = ClientError::Server { code: ErrorCode::Unsupported, text };
    assert_eq!(client.tail(ReadLevel::Lease).await, Err(unsupported));
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn a_refused_hello_is_a_typed_error_at_once() {
    let (address, server) = alone(|listener, _| {
        let mut served = Served::accept(&listener);
        served.hello();
        served.reply(&HelloReply::Refused {
            protocol_version: PROTOCOL_VERSION,
            reason: RefuseReason::OtherCluster,
            text: "this is cluster x".to_owned(),
        });
    });
    let error = Client::connect([address.clone()], options()).await.unwrap_err();
    let (reason, text) = (RefuseReason::OtherCluster, "this is cluster x".to_owned());
    assert_eq!(error, ClientError::Refused { target: address, reason, text });
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_without_effect() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.next();
        // Connection and listener go: nobody is there any more.
    });
    let client = Client::connect([address], short(400)).await.unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
    let error = client.append(&["a"]).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)) && error.had_no_effect(), "{error:?}");
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_to_a_change_is_unknown() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.next();
        // Nobody is there any more to say what became of it.
    });
    let client = Client::connect([address], short(400)).await.unwrap();
    let error = client.lead(NodeId(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    // From now on nothing is sent.
    let error = client.lead(NodeId(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn calls_share_the_connection_and_complete_in_the_servers_order() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        let waiting: Vec<_> = (0..3).map(|_| served.next()).collect();
        // All three are in flight; they are answered last to first, each after the one before
        // has been taken note of (the tail question comes behind it).
        for (index, got) in waiting.iter().enumerate().rev() {
            served.answer(&got.appended(index as u64));
            let sign = served.next();
            served.answer(&Response::TailIs { request: sign.id(), tail: Position(0) });
        }
    });
    let client = Client::connect([address], options()).await.unwrap();
    let order = std::sync::Mutex::new(Vec::new());
    let call = |record: &'static str| {
        let (client, order) = (client.clone(), &order);
        async move {
            let appended = client.append(&[record]).await.unwrap();
            order.lock().unwrap().push(appended.first.0);
            client.tail(ReadLevel::Local).await.unwrap();
        }
    };
    tokio::join!(call("a"), call("b"), call("c"));
    assert_eq!(*order.lock().unwrap(), [2, 1, 0]);
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn garbage_from_the_server_ends_the_connection_not_the_client() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        served.next();
        served.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let mut served_again = Served::welcome(&listener, &welcome);
        let got = served_again.next();
        served_again.answer(&got.appended(0));
        served.until_closed();
    });
    let client = Client::connect([address], options()).await.unwrap();
    match client.append(&["a"]).await {
        Err(AppendError::OutcomeUnknown { why }) => {
            assert!(why.contains("not the loggos protocol"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    client.append(&["b"]).await.unwrap();
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn a_follower_goes_on_over_reconnects_without_gap_or_double() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        served.answer_records(&got, &["r0", "r1"], 2);
        // What was sent, the client has: it asks for something else.
        let got = served.next();
        served.answer(&Response::TailIs { request: got.id(), tail: Position(2) });
        drop(served);
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        assert!(matches!(got, Got::Follow { from: Position(2), .. }), "{got:?}");
        // A node that has lost its way: what it sends is not what comes next.
        served.push_records(got.id(), Position(1), &["r1"], 2);
        let got = served.next();
        assert!(matches!(got, Got::Unfollow { .. }), "{got:?}");
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        assert!(matches!(got, Got::Follow { from: Position(2), .. }), "{got:?}");
        served.answer_records(&got, &["r2", "", "r4"], 5);
        let got = served.next();
        assert!(matches!(got, Got::Unfollow { .. }), "{got:?}");
    });
    let client = Client::connect([address], options()).await.unwrap();
    let mut follower = client.follow(Position(0));
    let mut found = vec![follower.next().await.unwrap()];
    client.tail(ReadLevel::Local).await.unwrap();
    while found.len() < 5 {
        found.extend(follower.next_batch().await.unwrap());
    }
    drop(follower);
    let found: Vec<_> = found.iter().map(|r| (r.position.0, &r.bytes[..])).collect();
    let records = [&b"r0"[..], b"r1", b"r2", b"", b"r4"];
    assert_eq!(found, (0..).zip(records).collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn a_follower_gives_credit_for_what_it_has_taken_and_no_more() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        let large = "x".repeat(200_000);
        let mut pushed = 0;
        for position in 0..3 {
            served.push_records(got.id(), Position(position), &[&large], 10);
            pushed += 200_004;
        }
        let credit = served.next();
        let Got::Credit { bytes, id } = credit else { panic!("{credit:?}") };
        assert_eq!(id, got.id());
        assert!((1..=pushed).contains(&bytes), "{bytes} of {pushed}");
        served.push_records(got.id(), Position(3), &["the end"], 10);
        // The client may have given more meanwhile.
        while !matches!(served.next(), Got::Unfollow { .. }) {}
    });
    let client = Client::connect([address], options()).await.unwrap();
    let mut follower = client.follow(Position(0));
    while follower.next().await.unwrap().bytes != "the end" {}
    drop(follower);
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn records_from_elsewhere_are_refused() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        let id = served.next().id();
        let run = b"\x01\0\0\0x";
        let (first, tail) = (Position(8), Position(9));
        served.answer(&Response::Records { request: id, first, records: 1, tail, run });
        let id = served.next().id();
        served.answer(&Response::Records { request: id, first, records: 2, tail, run });
    });
    let client = Client::connect([address], options()).await.unwrap();
    for from in [Position(7), Position(8)] {
        let error = client.read(from, ReadOptions::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error:?}");
    }
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[tokio::test]
async fn more_calls_than_fit_wait_their_turn() {
    let (address, server) = alone(|listener, mut welcome| {
        welcome.limits.inflight_max = 2;
        let mut served = Served::welcome(&listener, &welcome);
        for first in 0..50 {
            let got = served.next();
            served.answer(&got.appended(first));
        }
    });
    let client = Client::connect([address], options()).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.append(&["a"]).await.unwrap().first.0 })
        })
        .collect();
    let mut firsts = Vec::new();
    for call in calls {
        firsts.push(call.await.unwrap());
    }
    firsts.sort_unstable();
    assert_eq!(firsts, (0..50).collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}

#[test]
fn the_blocking_client_makes_the_same_calls() {
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        let got = served.next();
        served.answer(&got.appended(1));
        let got = served.next();
        let json = br#"{"version":"9","node":1,"role":"leader"}"#;
        served.answer(&Response::StatusIs { request: got.id(), json });
        let got = served.next();
        served.answer_records(&got, &["x"], 2);
        assert!(matches!(served.next(), Got::Unfollow { .. }));
        let got = served.next();
        assert!(matches!(got, Got::Tail { level: ReadLevel::ReadIndex, .. }));
        served.answer(&Response::TailIs { request: got.id(), tail: Position(2) });
        // A status over a connection of its own.
        let mut other = Served::welcome(&listener, &welcome);
        let got = other.next();
        other.answer(&Response::StatusIs { request: got.id(), json: b"{" });
        other.until_closed();
    });
    let client = blocking::Client::connect([address.clone()], options()).unwrap();
    assert_eq!(client.append(&["x"]).unwrap().first, Position(1));
    let status = client.status().unwrap();
    assert_eq!((status.node, status.role), (1, crate::wire::status::RoleStatus::Leader));
    let record = client.follow(Position(1)).next().unwrap();
    assert_eq!((record.position, &record.bytes[..]), (Position(1), &b"x"[..]));
    assert_eq!(client.tail(ReadLevel::ReadIndex), Ok(Position(2)));
    assert!(matches!(client.status_of(&address), Err(ClientError::BadAnswer { .. })));
    drop(client);
    join(server);
}

#[test]
fn impossible_appends_and_options_are_refused_before_anything_is_sent() {
    let (address, server) = alone(|listener, mut welcome| {
        welcome.limits.append_bytes_max = 10;
        Served::welcome(&listener, &welcome).until_closed();
    });
    let client = blocking::Client::connect([address], options()).unwrap();
    let none: [&[u8]; 0] = [];
    assert_eq!(client.append(&none), Err(AppendError::Invalid(SubmitError::Empty)));
    let what = "an append in bytes";
    let too_large = SubmitError::TooLarge { what, size: 11, limit: 10 };
    assert_eq!(client.append(&["seven b"]), Err(AppendError::Invalid(too_large)));
    let huge = vec![0; crate::base::limits::RECORD_BYTES_MAX + 1];
    let error = client.append(&[huge]).unwrap_err();
    assert!(matches!(error, AppendError::Invalid(SubmitError::TooLarge { .. })));
    drop(client);
    join(server);
    let no_targets = blocking::Client::connect(Vec::<String>::new(), options());
    assert!(matches!(no_targets, Err(ClientError::Options(_))));
    let bad = ClientOptions { inflight_max: 0, ..options() };
    assert!(matches!(blocking::Client::connect(["x:1"], bad), Err(ClientError::Options(_))));
}

// The protocol half alone, without a socket.

/// A connection that stands, and the server's encoder.
fn connected(inflight_max: usize) -> (ClientConnection<u32>, FrameEncoder) {
    let mut connection = ClientConnection::new(None, inflight_max);
    let full = connection.append(0, LogId(0), AppendTerms::default(), &["early"]);
    assert_eq!(full, Err((0, SubmitError::NotReady)));
    let mut encoder = FrameEncoder::new();
    let mut out = Vec::new();
    let reply = HelloReply::Welcome(welcome_of(1, Some(1), &[]));
    encode_hello_reply(&reply, &mut encoder, &mut out);
    let mut welcomed = false;
    connection
        .receive(&out, |incoming| welcomed = matches!(incoming, Incoming::Welcome(_)))
        .unwrap();
    assert!(welcomed && connection.is_ready());
    (connection, encoder)
}

fn bytes_of(response: &Response<'_>, encoder: &mut FrameEncoder) -> Vec<u8> {
    let mut out = Vec::new();
    encode_response(response, GroupId(0), encoder, &mut out);
    out
}

#[test]
fn answers_find_their_requests_in_any_order_and_chunking() {
    let (mut connection, mut encoder) = connected(2);
    let name = AppendTerms::default();
    let first = connection.append(1, LogId(0), name, &["a"]).unwrap();
    let second = connection.tail(2, LogId(0), ReadLevel::Local).unwrap();
    assert_eq!(connection.status(3), Err((3, SubmitError::Full)));
    let mut stream =
        bytes_of(&Response::TailIs { request: second, tail: Position(9) }, &mut encoder);
    let (request, position) = (first, Position(4));
    let appended = Response::Appended { request, first: position, records: 1 };
    stream.extend(bytes_of(&appended, &mut encoder));
    let mut tags = Vec::new();
    for byte in stream {
        connection
            .receive(&[byte], |incoming| match incoming {
                Incoming::Answer { tag, .. } => tags.push(tag),
                other => panic!("{other:?}"),
            })
            .unwrap();
    }
    assert_eq!(tags, [2, 1]);
    assert!(connection.can_submit() && connection.inflight_count() == 0);
}

#[test]
fn a_doubled_answer_does_not_hit_the_next_request_in_its_place() {
    let (mut connection, mut encoder) = connected(1);
    let first = connection.tail(1, LogId(0), ReadLevel::Local).unwrap();
    let answer = |request| Response::TailIs { request, tail: Position(0) };
    connection.receive(&bytes_of(&answer(first), &mut encoder), |_| {}).unwrap();
    let second = connection.tail(2, LogId(0), ReadLevel::Local).unwrap();
    assert_ne!(first, second);
    let error = connection.receive(&bytes_of(&answer(first), &mut encoder), |_| {}).unwrap_err();
    assert_eq!(error, ConnectionError::UnknownRequest(first));
    assert_eq!(connection.drain().collect::<Vec<_>>(), [2]);
    assert_eq!(connection.status(3), Err((3, SubmitError::Ended)));
}

#[test]
fn an_answer_of_the_wrong_kind_or_count_leaves_the_request_open() {
    for records in [None, Some(2)] {
        let (mut connection, mut encoder) = connected(8);
        let name = AppendTerms::default();
        let request = connection.append(7, LogId(0), name, &["a"]).unwrap();
        let response = match records {
            None => Response::TailIs { request, tail: Position(0) },
            Some(records) => Response::Appended { request, first: Position(0), records },
        };
        let bytes = bytes_of(&response, &mut encoder);
        let error = connection.receive(&bytes, |_| panic!("nothing was answered")).unwrap_err();
        assert!(matches!(error, ConnectionError::WrongAnswer(_)));
        assert_eq!(connection.drain().collect::<Vec<_>>(), [7]);
    }
}

#[test]
fn a_server_that_asks_or_is_of_another_version_is_refused() {
    let (mut connection, mut encoder) = connected(1);
    let mut out = Vec::new();
    encoder.encode(FrameKind::Status, GroupId(0), &[0; 8], &[], &mut out);
    assert!(matches!(connection.receive(&out, |_| {}), Err(ConnectionError::Wire(_))));

    let mut connection: ClientConnection<()> = ClientConnection::new(None, 1);
    let mut welcome = welcome_of(1, None, &[]);
    welcome.protocol_version = PROTOCOL_VERSION + 1;
    let mut out = Vec::new();
    encode_hello_reply(&HelloReply::Welcome(welcome), &mut FrameEncoder::new(), &mut out);
    let mut reasons = Vec::new();
    connection
        .receive(&out, |incoming| match incoming {
            Incoming::Refused { reason, .. } => reasons.push(reason),
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert_eq!(reasons, [RefuseReason::OtherVersion]);
    assert!(!connection.can_submit());
}

#[tokio::test]
async fn nodes_that_point_in_circles_are_not_asked_in_a_hot_loop() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    let (listeners, members) = nodes(2);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut servers = Vec::new();
    for (node, listener) in (1..).zip(listeners) {
        let welcome = welcome_of(node, None, &members);
        let (stop, asked) = (stop.clone(), asked.clone());
        servers.push(std::thread::spawn(move || {
            loop {
                let mut served = Served::accept(&listener);
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                served.hello();
                served.reply(&HelloReply::Welcome(welcome.clone()));
                while let Some(got) = served.request() {
                    asked.fetch_add(1, Ordering::SeqCst);
                    served.answer(&got.failed(ErrorCode::NotLeader, Some(3 - node)));
                }
            }
        }));
    }
    let targets: Vec<_> = members.iter().map(|(_, address)| address.clone()).collect();
    let client = Client::connect(targets.clone(), short(500)).await.unwrap();
    let error = client.append(&["a"]).await.unwrap_err();
    assert!(error.had_no_effect(), "{error:?}");
    drop(client);
    let end = move || {
        stop.store(true, Ordering::SeqCst);
        for target in targets {
            TcpStream::connect(target).unwrap();
        }
        servers.into_iter().for_each(join);
    };
    tokio::task::spawn_blocking(end).await.unwrap();
    let asked = asked.load(Ordering::SeqCst);
    // The pauses double from 10 ms: some eight tries fit into 500 ms.
    assert!((2..20).contains(&asked), "{asked} requests");
}
