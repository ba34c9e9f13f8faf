//! The table of sessions of real processes: many short-lived writers, of which some die.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Cluster, loggos, wait_for};
use loggos::base::{AppendTerms, LogId, Sequence, SessionId, SessionTerms};
use loggos::client::connection::{ClientConnection, Incoming, Response};

/// As many appenders as the whole is to have; without it a sample.
const APPENDERS_VARIABLE: &str = "LOGGOS_TEST_APPENDERS";
/// More than a table held when each session took the room of its whole window.
const SAMPLE: u64 = 6_000;
/// Appenders at a time.
const AT_A_TIME: u64 = 4;
/// What the command and the library ask for.
const TIMEOUT_MS: u32 = 300_000;
const WINDOW: u32 = 1024;

/// What an appender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Welcome,
    Session(SessionId),
    Appended,
    Done,
    Failed,
}

/// A connection with one request in flight.
struct Appender {
    stream: TcpStream,
    connection: ClientConnection<()>,
}

impl Appender {
    fn connect(address: &str) -> Appender {
        let stream = TcpStream::connect(address).expect("the leader listens");
        stream.set_nodelay(true).expect("a socket's option");
        let mut appender = Appender { stream, connection: ClientConnection::new(None, 4) };
        assert_eq!(appender.talk(), Told::Welcome);
        appender
    }

    fn talk(&mut self) -> Told {
        let bytes = self.connection.take_output(Vec::new());
        self.stream.write_all(&bytes).expect("the leader takes it");
        let mut buffer = [0; 4096];
        loop {
            let size = self.stream.read(&mut buffer).expect("the leader answers");
            assert!(size > 0, "the leader hangs up");
            let mut told = None;
            let received = self.connection.receive(&buffer[..size], |incoming| {
                told = Some(match incoming {
                    Incoming::Welcome(_) => Told::Welcome,
                    Incoming::Answer { response, .. } => match response {
                        Response::SessionOpened { session, .. } => Told::Session(session),
                        Response::Appended { .. } => Told::Appended,
                        Response::Done { .. } => Told::Done,
                        _ => Told::Failed,
                    },
                    _ => Told::Failed,
                });
            });
            received.expect("the leader keeps to the protocol");
            if let Some(told) = told {
                return told;
            }
        }
    }

    fn open(&mut self, nonce: u128) -> Told {
        let terms = SessionTerms { timeout_ms: TIMEOUT_MS, window: WINDOW, nonce };
        self.connection.open_session((), terms).expect("the connection stands");
        self.talk()
    }
}

/// One appender from its connection to its end; what it was told that it should not have been.
fn append_once(address: &str, number: u64, is_killed: bool) -> Option<String> {
    let mut appender = Appender::connect(address);
    let opened = appender.open(u128::from(number) + 1);
    let Told::Session(session) = opened else {
        return Some(format!("appender {number} is refused a session: {opened:?}"));
    };
    let terms = AppendTerms { session, sequence: Sequence(1), ..AppendTerms::default() };
    appender.connection.append((), LogId(0), terms, &[b"a record"]).expect("it stands");
    let appended = appender.talk();
    if appended != Told::Appended {
        return Some(format!("appender {number} is refused: {appended:?}"));
    }
    if !is_killed {
        appender.connection.close_session((), session).expect("it stands");
        assert_eq!(appender.talk(), Told::Done);
    }
    None
}

#[test]
fn short_lived_writers_are_never_refused() {
    let asked = std::env::var(APPENDERS_VARIABLE).ok();
    let whole: Option<u64> = asked.map(|number| number.parse().expect("a number of appenders"));
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let address = cluster.addresses()[leader].clone();
    let count = whole.unwrap_or(SAMPLE);
    // Of the whole a fifth dies; of the sample all do, or they would not come to enough.
    let killed_every = if whole.is_some() { 5 } else { 1 };
    let next = AtomicU64::new(0);
    let run = || {
        let mut refused = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || !refused.is_empty() {
                return refused;
            }
            refused.extend(append_once(&address, number, number.is_multiple_of(killed_every)));
        }
    };
    let refused: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(refused.is_empty(), "{refused:?}");
    let status = cluster.nodes[leader].status().expect("the leader answers");
    println!("{count} appenders: {:?}", status.sessions);
    assert_eq!(status.sessions.opened, count);
    assert_eq!(status.sessions.refused, 0);
}

#[test]
fn a_lost_answer_to_an_opening_leaks_no_session() {
    let cluster = Cluster::start(1);
    let leader = cluster.wait_for_leader();
    let address = &cluster.addresses()[leader];
    let first = Appender::connect(address).open(99);
    // The connection is gone, and the answer with it, as far as its client knows.
    let again = Appender::connect(address).open(99);
    assert!(matches!(first, Told::Session(_)));
    assert_eq!(first, again);
    let sessions = cluster.nodes[leader].status().expect("it answers").sessions;
    assert_eq!((sessions.open, sessions.opened, sessions.found), (1, 1, 1));
}

#[test]
fn the_append_command_closes_its_session() {
    let cluster = Cluster::start(1);
    let leader = cluster.wait_for_leader();
    for _ in 0..3 {
        let mut command = loggos();
        command.args(["append", "--target", &cluster.targets()]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().expect("the binary starts");
        child.stdin.take().expect("piped").write_all(b"a record\n").expect("it reads");
        assert!(child.wait().expect("it ends").success());
    }
    wait_for("the sessions are closed", || {
        let sessions = cluster.nodes[leader].status()?.sessions;
        assert!(sessions.opened <= 3);
        (sessions.opened == 3 && sessions.open == 0).then_some(())
    });
}
