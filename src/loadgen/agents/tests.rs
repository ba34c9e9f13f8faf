//! Coordinator and agents of this process, against a null server; and ends that misbehave.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::frame::{COUNTS, GREETING, PART, read_message, write_message};
use super::*;
use crate::loadgen::bench::{Live, Observer, RunError, RunOptions, RunResult};
use crate::loadgen::null::NullServer;
use crate::loadgen::workload::Pacing;

struct Nobody;

impl Observer for Nobody {
    fn live(&mut self, _: &Live) {}
    fn measure_begins(&mut self) {}
    fn measure_ends(&mut self) {}
}

/// An agent on a thread; dropping it ends it.
struct Agent {
    address: String,
    stop: Arc<AtomicBool>,
    notes: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start() -> Agent {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, notes) = sync_channel(1000);
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let note = move |line: &str| drop(sender.try_send(line.to_owned()));
                serve(&listener, 2, &stop, note).unwrap();
            }
        });
        Agent { address, stop, notes, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Waits for a note with `word` in it.
    fn noted(&self, word: &str) {
        while !self.notes.recv_timeout(Duration::from_secs(60)).unwrap().contains(word) {}
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn null_server() -> NullServer {
    NullServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), 1).unwrap()
}

fn workload() -> Workload {
    Workload {
        connections: 5,
        inflight: 8,
        duration: Duration::from_millis(1200),
        warmup: Duration::from_millis(100),
        ..Workload::default()
    }
}

fn run_with(
    agents: &[&str],
    server: &NullServer,
    workload: Workload,
    stop: &Arc<AtomicBool>,
) -> Result<RunResult, RunError> {
    let options = RunOptions {
        workload: workload.validate().unwrap(),
        addresses: vec![server.address().to_string()],
        cpus: 2,
        history: None,
    };
    let agents: Vec<String> = agents.iter().map(|&agent| agent.to_owned()).collect();
    run(&options, &agents, &mut Nobody, stop)
}

fn run_on(agents: &[&str], server: &NullServer, workload: Workload) -> Result<RunResult, RunError> {
    run_with(agents, server, workload, &Arc::new(AtomicBool::new(false)))
}

#[test]
fn the_report_of_two_agents_is_the_sum_of_theirs() {
    let (server, a, b) = (null_server(), Agent::start(), Agent::start());
    let mixed = Workload { append_percent: 80, logs: 3, sessions: true, ..workload() };
    let result = run_on(&[&a.address, &b.address], &server, mixed).unwrap();
    let agents = result.agents.as_ref().unwrap();
    assert_eq!(agents.iter().map(|agent| agent.connections).collect::<Vec<_>>(), [2, 3]);
    let reads = result.reads.as_ref().unwrap();
    for (whole, part) in [
        (&result.appends, agents.iter().map(|agent| &agent.appends).collect::<Vec<_>>()),
        (reads, agents.iter().filter_map(|agent| agent.reads.as_ref()).collect()),
    ] {
        assert!(part.iter().all(|part| part.ok > 0), "{part:?}");
        assert_eq!(whole.ok, part.iter().map(|part| part.ok).sum::<u64>());
        let per_s: f64 = part.iter().map(|part| part.per_s).sum();
        assert!((whole.per_s - per_s).abs() < 1e-6 * per_s, "{whole:?}");
        let max = part.iter().map(|part| part.latency_us.max).fold(0.0, f64::max);
        assert_eq!(whole.latency_us.max, max);
        let mean: f64 = part.iter().map(|p| p.latency_us.mean * p.ok as f64).sum::<f64>();
        assert!((whole.latency_us.mean - mean / whole.ok as f64).abs() < 0.01, "{whole:?}");
    }
    // The interval log holds every latency: none was lost on the way.
    let logged = |tag| {
        let of_tag = result.intervals.iter().filter(move |interval| interval.tag == tag);
        of_tag.map(|interval| interval.latencies.count()).sum::<u64>()
    };
    assert_eq!((logged("append"), logged("read")), (result.appends.ok, reads.ok));
    assert_eq!((result.appends.failed, result.appends.unknown), (0, 0));
    assert!(result.cpu > Duration::ZERO && agents.iter().all(|agent| agent.cpu_s > 0.0));
    // And they are free again.
    run_on(&[&b.address], &server, workload()).unwrap();
}

#[test]
fn an_open_loop_over_agents_loses_nothing_by_rounding() {
    let (server, a, b) = (null_server(), Agent::start(), Agent::start());
    let open = Workload { pacing: Pacing::Open { rate_per_s: 1_000.0 }, ..workload() };
    let result = run_on(&[&a.address, &b.address], &server, open).unwrap();
    let appends = &result.appends;
    assert_eq!(appends.ok + appends.failed + appends.unknown, 1200, "{appends:?}");
}

#[test]
fn a_snapshot_arrives_as_it_was_sent_or_not_at_all() {
    let mut snapshot = Snapshot::default();
    snapshot.appends.counts.ok = 3;
    snapshot.reads.counts.unknown = 1;
    let mut latencies = Latencies::new();
    [100, 2_000, 30_000].into_iter().for_each(|ns| latencies.record(ns));
    snapshot.appends.measured = Some(Box::new(latencies.clone()));
    snapshot.lag = Some(Box::new(latencies.clone()));
    let (wire, blob) = WireSnapshot::new(&snapshot);
    let json = serde_json::to_string(&wire).unwrap();
    let again: WireSnapshot = serde_json::from_str(&json).unwrap();
    let found = again.into_snapshot(&blob).unwrap();
    assert_eq!(found.appends.counts, snapshot.appends.counts);
    assert_eq!(found.reads.counts, snapshot.reads.counts);
    assert_eq!(found.lag.unwrap().report(), latencies.report());
    assert_eq!(found.appends.measured.unwrap().count(), 3);
    assert!(found.appends.other.is_none() && found.reads.measured.is_none());

    let again = || serde_json::from_str::<WireSnapshot>(&json).unwrap();
    assert!(again().into_snapshot(&blob[1..]).is_err());
    assert!(again().into_snapshot(&[&blob[..], b"x"].concat()).is_err());
    assert!(again().into_snapshot(&vec![7; blob.len()]).is_err());
}

/// A coordinator that has said hello, and been welcomed.
fn greeted(agent: &Agent) -> TcpStream {
    let stream = agent.connect();
    write_message(&stream, &Message::Hello { version: VERSION }, &[]).unwrap();
    let (said, _) = read_message(&stream, GREETING).unwrap();
    assert!(matches!(said, Message::Welcome { version: VERSION, .. }), "{said:?}");
    stream
}

#[test]
fn an_agent_serves_one_bench_at_a_time_and_says_so() {
    let (server, agent) = (null_server(), Agent::start());
    let first = greeted(&agent);
    let error = run_on(&[&agent.address], &server, workload()).unwrap_err();
    let busy = AgentError::Refused {
        agent: agent.address.clone(),
        reason: Refusal::Busy,
        text: String::new(),
    };
    match &error {
        RunError::Agents(AgentError::Refused { agent: found, reason: Refusal::Busy, .. }) => {
            assert_eq!(*found, agent.address);
        }
        _ => panic!("{error}, not {busy}"),
    }
    drop(first);
    // Once it has noticed, the next may come.
    agent.noted("127.0.0.1");
    run_on(
        &[&agent.address],
        &server,
        Workload { duration: Duration::from_millis(100), ..workload() },
    )
    .unwrap();
}

#[test]
fn an_agent_refuses_what_it_does_not_understand() {
    let agent = Agent::start();
    let stream = agent.connect();
    write_message(&stream, &Message::Hello { version: VERSION + 1 }, &[]).unwrap();
    let (said, _) = read_message(&stream, GREETING).unwrap();
    assert!(matches!(said, Message::Refused { reason: Refusal::Version, .. }), "{said:?}");

    let endless = [&b"LGB1"[..], &u32::MAX.to_le_bytes(), &0u32.to_le_bytes()].concat();
    let not_json = [&b"LGB1"[..], &4u32.to_le_bytes(), &0u32.to_le_bytes(), b"what"].concat();
    for (bytes, word) in [
        (&b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n"[..], "not a message"),
        (&endless, "over the limit"),
        (&not_json, "cannot be read"),
    ] {
        let mut stream = agent.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.is_empty(), "{answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        agent.noted(word);
    }

    let part = |workload: Workload, connections| Part {
        connections,
        addresses: vec!["127.0.0.1:1".to_owned()],
        logs: vec![0],
        workload,
    };
    for bad in [
        part(Workload { inflight: 0, ..workload() }, 0..1),
        part(workload(), 4..6),
        part(workload(), 2..2),
        part(Workload { history: true, ..workload() }, 0..1),
        Part { addresses: Vec::new(), ..part(workload(), 0..1) },
        Part { logs: Vec::new(), ..part(workload(), 0..1) },
    ] {
        let stream = greeted(&agent);
        write_message(&stream, &Message::Run(Box::new(bad)), &[]).unwrap();
        let (said, _) = read_message(&stream, GREETING).unwrap();
        assert!(matches!(said, Message::Refused { reason: Refusal::Invalid, .. }), "{said:?}");
        // Free again before it says more to anybody.
        let mut rest = Vec::new();
        assert_eq!((&stream).read_to_end(&mut rest).unwrap(), 0);
    }
}

/// An agent that does as `act` says with each coordinator's first connection.
fn fake(act: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, std::thread::spawn(move || act(listener.accept().unwrap().0)))
}

fn welcome(stream: &TcpStream, version: u32) {
    let (said, _) = read_message(stream, GREETING).unwrap();
    assert!(matches!(said, Message::Hello { .. }), "{said:?}");
    let welcome = Message::Welcome { version, build: "x".to_owned(), cpus: 1 };
    write_message(stream, &welcome, &[]).unwrap();
}

#[test]
fn an_agent_that_dies_in_the_run_ends_it_without_a_report() {
    let (server, good) = (null_server(), Agent::start());
    let (address, dying) = fake(|stream| {
        welcome(&stream, VERSION);
        let (said, _) = read_message(&stream, PART).unwrap();
        let Message::Run(part) = said else { panic!("{said:?}") };
        assert_eq!(part.connections, 2..5);
        write_message(&stream, &Message::Ready { workers: 1 }, &[]).unwrap();
        let (said, _) = read_message(&stream, GREETING).unwrap();
        assert!(matches!(said, Message::Start { .. }), "{said:?}");
    });
    // Far longer than the test may take: it has to end by itself.
    let long = Workload { duration: Duration::from_secs(3600), ..workload() };
    let error = run_on(&[&good.address, &address], &server, long).unwrap_err();
    dying.join().unwrap();
    match &error {
        RunError::Agents(AgentError::Lost { agent, .. }) => assert_eq!(*agent, address),
        _ => panic!("{error}"),
    }
    good.noted("given up");
}

#[test]
fn whoever_is_no_agent_is_named() {
    let server = null_server();
    let (garbage, thread) = fake(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        drop(read_message(&stream, GREETING));
    });
    let error = run_on(&[&garbage], &server, workload()).unwrap_err();
    thread.join().unwrap();
    assert!(matches!(&error, RunError::Agents(AgentError::Foreign { .. })), "{error}");

    let (older, thread) = fake(|stream| welcome(&stream, VERSION + 1));
    let error = run_on(&[&older], &server, workload()).unwrap_err();
    thread.join().unwrap();
    assert!(matches!(&error, RunError::Agents(AgentError::Foreign { .. })), "{error}");

    // A port of our own that nobody listens on.
    let nobody = Agent::start().address.clone();
    let error = run_on(&[&nobody], &server, workload()).unwrap_err();
    assert!(matches!(&error, RunError::Agents(AgentError::Lost { .. })), "{error}");

    let crowd = ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1"];
    for agents in [&crowd[..], &["a:1", "a:1"]] {
        let error = run_on(agents, &server, workload()).unwrap_err();
        assert!(matches!(&error, RunError::Agents(AgentError::Count(_))), "{error}");
    }
}

/// What a run says of an agent that is ready with `workers` and then says `messages`.
fn said_of(workers: usize, messages: Vec<(Message, Vec<u8>)>) -> String {
    let server = null_server();
    let (address, thread) = fake(move |stream| {
        welcome(&stream, VERSION);
        read_message(&stream, PART).unwrap();
        write_message(&stream, &Message::Ready { workers }, &[]).unwrap();
        drop(read_message(&stream, GREETING));
        for (message, blob) in messages {
            // The coordinator may have had enough already.
            if write_message(&stream, &message, &blob).is_err() {
                return;
            }
        }
        drop(read_message(&stream, COUNTS));
    });
    let error = run_on(&[&address], &server, workload()).unwrap_err();
    thread.join().unwrap();
    assert!(matches!(&error, RunError::Agents(AgentError::Foreign { .. })), "{error}");
    error.to_string()
}

fn interval(end_ns: i64, snapshot: &Snapshot) -> (Message, Vec<u8>) {
    let (snapshot, blob) = WireSnapshot::new(snapshot);
    (Message::Interval { end_ns, snapshot }, blob)
}

#[test]
fn what_an_agent_cannot_have_counted_is_refused() {
    let said = said_of(1, vec![interval(i64::MAX, &Snapshot::default())]);
    assert!(said.contains("a time out of the run"), "{said}");
    // 1.3 seconds are at most three intervals of each worker.
    let said = said_of(2, (0..7).map(|_| interval(0, &Snapshot::default())).collect());
    assert!(said.contains("more intervals than the run has"), "{said}");
    for workers in [0, 6, usize::MAX] {
        let said = said_of(workers, Vec::new());
        assert!(said.contains("it is not ready"), "{workers}: {said}");
    }

    let mut many = Snapshot::default();
    many.appends.counts.bytes_in_window = COUNT_MAX;
    many.reads.counts.bytes_in_window = 1;
    let said = said_of(1, vec![interval(0, &many)]);
    assert!(said.contains("counts beyond"), "{said}");
    let done = Done { unsent: COUNT_MAX + 1, ..Done::default() };
    let said = said_of(1, vec![(Message::Done(Box::new(done)), Vec::new())]);
    assert!(said.contains("it is not counting"), "{said}");
}

#[test]
fn a_wish_to_stop_lets_the_agents_go() {
    let (server, agent) = (null_server(), Agent::start());
    let stop = Arc::new(AtomicBool::new(true));
    let long = Workload { duration: Duration::from_secs(3600), ..workload() };
    let error = run_with(&[&agent.address], &server, long, &stop).unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    agent.noted("given up");
}
