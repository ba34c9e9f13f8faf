//! A server for tests that answers as a node does, with faults planted while it runs: it lets the
//! load generator's loops be tested without a cluster. The fast one is `null`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::{
    ClusterDigest, ClusterId, GroupId, LogId, NodeId, Position, Sequence, SessionId,
};
use crate::wire::client::{decode_request, encode_response};
use crate::wire::hello::{decode_hello, encode_hello_reply};
use crate::wire::{
    ErrorCode, FrameDecoder, FrameEncoder, FrameKind, HelloReply, Limits, PROTOCOL_VERSION,
    Request, Response, Standing, Welcome,
};

/// How the server behaves, changed while it runs.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Wait this long before each batch of answers.
    pub delay: Mutex<Duration>,
    /// Answer every n-th request with an error (0: none).
    pub fail_every: AtomicU64,
    /// The error.
    pub error: Mutex<Option<ErrorCode>>,
    /// Close the connection instead of answering the n-th request (0: never); counts down once.
    pub close_after: AtomicU64,
    /// The next position.
    pub tail: AtomicU64,
    /// Each session's next number; those that were closed are not there.
    pub sessions: Mutex<BTreeMap<SessionId, Sequence>>,
    /// The last session opened.
    pub session_last: AtomicU64,
    /// Requests seen.
    pub requests: AtomicU64,
    /// The leader that the welcome names; 0 = itself.
    pub leader: AtomicU64,
}

/// A running null server; ends when dropped.
#[derive(Debug)]
pub struct NullServer {
    pub address: String,
    pub behaviour: Arc<Behaviour>,
    members: Arc<Mutex<Vec<(NodeId, String)>>>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
    stopping: Arc<AtomicU64>,
}

impl NullServer {
    /// Starts node `node` on a free port.
    pub fn start(node: u16) -> NullServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let behaviour = Arc::new(Behaviour::default());
        let members = Arc::new(Mutex::new(vec![(NodeId(node), address.clone())]));
        let stopping = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            let (behaviour, members) = (Arc::clone(&behaviour), Arc::clone(&members));
            let stopping = Arc::clone(&stopping);
            move || accept(&listener, NodeId(node), &behaviour, &members, &stopping)
        });
        NullServer { address, behaviour, members, listener, thread: Some(thread), stopping }
    }

    /// Tells the server who else is a member.
    pub fn set_members(&self, members: Vec<(NodeId, String)>) {
        *self.members.lock().unwrap() = members;
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        self.stopping.store(1, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.listener.local_addr().unwrap()));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn accept(
    listener: &TcpListener,
    node: NodeId,
    behaviour: &Arc<Behaviour>,
    members: &Arc<Mutex<Vec<(NodeId, String)>>>,
    stopping: &AtomicU64,
) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if stopping.load(Ordering::SeqCst) != 0 {
            break;
        }
        let handle = stream.try_clone().unwrap();
        let behaviour = Arc::clone(behaviour);
        let members = members.lock().unwrap().clone();
        let thread = std::thread::spawn(move || serve(stream, node, &behaviour, members));
        connections.push((handle, thread));
    }
    for (stream, thread) in connections {
        let _ = stream.shutdown(Shutdown::Both);
        thread.join().unwrap();
    }
}

fn serve(
    mut stream: TcpStream,
    node: NodeId,
    behaviour: &Behaviour,
    members: Vec<(NodeId, String)>,
) {
    stream.set_nodelay(true).unwrap();
    let mut encoder = FrameEncoder::new();
    let mut decoder = FrameDecoder::plain();
    let mut buffer = vec![0; 256 * 1024];
    let mut out = Vec::new();
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer) else { return };
        let mut rest = &buffer[..count];
        while let Some(frame) = decoder.next(&mut rest, &()).unwrap() {
            if frame.kind == FrameKind::Hello {
                decode_hello(&frame).unwrap();
                let leader = match behaviour.leader.load(Ordering::SeqCst) {
                    0 => node,
                    leader => NodeId(leader as u16),
                };
                let welcome = Welcome {
                    standing: Standing { cluster: Some(ClusterId(1)), ..Standing::default() },
                    pending: None,
                    protocol_version: PROTOCOL_VERSION,
                    node,
                    cluster: ClusterDigest::of_name("null"),
                    cluster_name: "null".to_owned(),
                    group_count: 1,
                    members: members.clone(),
                    leader: Some(leader),
                    limits: Limits::default(),
                };
                encode_hello_reply(&HelloReply::Welcome(welcome), &mut encoder, &mut out);
                continue;
            }
            let request = decode_request(&frame).unwrap();
            if behaviour.close_after.load(Ordering::SeqCst) > 0
                && behaviour.close_after.fetch_sub(1, Ordering::SeqCst) == 1
            {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            let response = answer(&request, behaviour);
            encode_response(&response, GroupId(0), &mut encoder, &mut out);
        }
        let delay = *behaviour.delay.lock().unwrap();
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
    }
}

fn answer(request: &Request<'_>, behaviour: &Behaviour) -> Response<'static> {
    let seen = behaviour.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let every = behaviour.fail_every.load(Ordering::Relaxed);
    if every > 0 && seen.is_multiple_of(every) {
        let error = behaviour.error.lock().unwrap().unwrap_or(ErrorCode::Overloaded);
        let (request, text) = (request.id(), "planted");
        return Response::Failed { request, error, leader: None, detail: 0, text };
    }
    match *request {
        Request::Append { request, records, terms, .. } => {
            if terms.session != SessionId::NONE {
                let mut sessions = behaviour.sessions.lock().unwrap();
                let next = sessions.get(&terms.session).copied();
                let error = match next {
                    Some(next) if next == terms.sequence => None,
                    Some(_) => Some(ErrorCode::OutOfOrder),
                    None => Some(ErrorCode::SessionExpired),
                };
                if let Some(error) = error {
                    let text = "not in turn";
                    return Response::Failed { request, error, leader: None, detail: 0, text };
                }
                sessions.insert(terms.session, terms.sequence.next());
            }
            let first = behaviour.tail.fetch_add(u64::from(records), Ordering::Relaxed);
            Response::Appended { request, first: Position(first), records }
        }
        Request::Read { request, from, .. } => Response::Records {
            request,
            first: from,
            records: 1,
            tail: Position(behaviour.tail.load(Ordering::Relaxed)),
            run: b"\x03\0\0\0one",
        },
        Request::Tail { request, .. } => {
            let tail = Position(behaviour.tail.load(Ordering::Relaxed));
            Response::TailIs { request, tail }
        }
        Request::OpenSession { request, .. } => {
            let session = SessionId(behaviour.session_last.fetch_add(1, Ordering::Relaxed) + 1);
            behaviour.sessions.lock().unwrap().insert(session, Sequence(1));
            Response::SessionOpened { request, session }
        }
        Request::CloseSession { request, session } => {
            behaviour.sessions.lock().unwrap().remove(&session);
            Response::Done { request }
        }
        Request::CreateLog { request, .. } => {
            Response::LogCreated { request, log: LogId(1), created: true }
        }
        Request::FindLog { request, .. } | Request::ListLogs { request, .. } => {
            Response::LogsAre { request, json: b"[]" }
        }
        Request::DeleteLog { request, .. }
        | Request::Follow { request, .. }
        | Request::Credit { request, .. }
        | Request::Unfollow { request } => Response::Done { request },
        Request::Lead { request, node } => Response::LedBy { request, node },
        Request::Init { request, .. } => Response::Founded { request, cluster: ClusterId(1) },
        Request::Status { request } => Response::StatusIs { request, json: b"{}" },
    }
}
