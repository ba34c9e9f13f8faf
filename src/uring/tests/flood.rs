//! Pitfall 10: a completion queue and a buffer ring far too small for a flood. Everything arrives,
//! no completion is lost, and nothing stands still.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::support::{PATIENCE, disk_dir, filled, ring_in, zeroed_file};
use crate::base::BlockPool;
use crate::base::limits::{BLOCK_SIZE, MIB};
use crate::io::{Disk, Event, FileId, Io, Net, Sync, Token, Wait, WritePart};
use crate::uring::{RecvChunk, Uring, UringOptions};

/// Connections that send as fast as they can.
const CONNECTIONS: usize = 24;
/// What each of them sends.
const BYTES_EACH: usize = 2 * MIB;
/// Log writes made beside them, two in flight.
const WRITES: u64 = 200;
/// The longest time without any event.
const STALL_MAX: Duration = Duration::from_millis(100);
/// Floods of which one must have no stall: another program can stop this one for as long.
const ATTEMPTS: usize = 8;

#[test]
fn a_flood_through_tiny_queues_loses_nothing_and_never_stalls() {
    let mut stalls = Vec::new();
    while stalls.len() < ATTEMPTS {
        let stall = flood();
        stalls.push(stall);
        if stall < STALL_MAX {
            return;
        }
    }
    panic!("each flood stalled: {stalls:?}");
}

/// One flood; the longest time without any event.
fn flood() -> Duration {
    let dir = disk_dir();
    let options = UringOptions {
        submission_entries: 4,
        completion_entries: 8,
        recv_buffers: 2,
        recv_buffer_bytes: 4096,
        ..UringOptions::default()
    };
    let mut uring = ring_in(&dir, options);
    let file = zeroed_file(&mut uring, "log", WRITES as usize * BLOCK_SIZE);
    let address = uring.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let clients: Vec<_> = (0..CONNECTIONS).map(|client| start_client(address, client)).collect();
    let mut sink = Sink::new(file);
    let mut events = Vec::new();
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut cached = 0;
    while !sink.is_done() {
        sink.write_on(&mut uring);
        uring.turn(Wait::AtMost(PATIENCE), &mut events).unwrap();
        assert!(!events.is_empty(), "no event for {PATIENCE:?}: {sink:?}");
        longest = longest.max(last.elapsed());
        last = Instant::now();
        cached = events.len().max(cached);
        events.drain(..).for_each(|event| sink.take(event));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    let stats = uring.stats();
    println!("longest silence {longest:?}, up to {cached} events a turn, {stats:?}");
    assert!(stats.recv_starved > 0, "the buffers did run out");
    assert_eq!(stats.completions_lost, 0);
    longest
}

/// A client in blocking calls: sends its bytes, then waits for the end.
fn start_client(address: SocketAddr, client: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&vec![client as u8; BYTES_EACH]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The other side closes nothing; it is the ring that goes, or this very stream's end.
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        drop(stream.read(&mut [0]));
    })
}

/// What has come of the flood.
#[derive(Debug)]
struct Sink {
    file: FileId,
    received: usize,
    ended: usize,
    written: u64,
    inflight: u64,
}

impl Sink {
    fn new(file: FileId) -> Sink {
        Sink { file, received: 0, ended: 0, written: 0, inflight: 0 }
    }

    fn is_done(&self) -> bool {
        self.ended == CONNECTIONS && self.written == WRITES
    }

    fn write_on(&mut self, uring: &mut Uring) {
        while self.inflight < 2 && self.written + self.inflight < WRITES {
            let token = self.written + self.inflight;
            let part = Rc::new(filled(&BlockPool::new(0), BLOCK_SIZE, 7));
            let parts = vec![WritePart::Buffer(part, BLOCK_SIZE)];
            let offset = token * BLOCK_SIZE as u64;
            uring.write(Token(token), self.file, offset, parts, Sync::Durable);
            self.inflight += 1;
        }
    }

    fn take(&mut self, event: Event<RecvChunk>) {
        match event {
            Event::Accepted { .. } => {}
            Event::Received { chunk, .. } => {
                assert!(chunk.iter().all(|byte| *byte == chunk[0]), "bytes of one client");
                self.received += chunk.len();
            }
            Event::Closed { .. } => {
                self.ended += 1;
                if self.ended == CONNECTIONS {
                    assert_eq!(self.received, CONNECTIONS * BYTES_EACH, "every byte arrives");
                }
            }
            Event::Disk(event) => {
                assert_eq!(event.result.unwrap(), BLOCK_SIZE as u32);
                self.written += 1;
                self.inflight -= 1;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
}
