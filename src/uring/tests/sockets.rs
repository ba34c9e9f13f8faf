//! Pitfall 9: the order of a connection's bytes, with socket buffers so small that every message
//! takes several sends and receives, and receiving that stops and goes on at random.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::support::{PATIENCE, turn_until};
use crate::base::Checksum;
use crate::base::rng::Rng;
use crate::io::{CloseReason, ConnId, Event, Io, Net, SendPart, Wait};
use crate::uring::{RecvChunk, Uring, UringOptions};

/// Connections, each with messages in both directions.
const CONNECTIONS: usize = 5;
/// Messages in each direction of each connection.
const MESSAGES: u32 = 120;
/// The longest message in bytes.
const MESSAGE_BYTES_MAX: u64 = 20_000;
/// Length, sequence and checksum before each message.
const HEAD_BYTES: usize = 12;

/// The least send buffer that the kernel has, a few KiB, and a receive buffer of as much: with
/// less than that TCP itself stands still between its probes of a full window.
fn tiny() -> UringOptions {
    UringOptions {
        send_buffer_bytes: Some(1),
        recv_socket_bytes: Some(4096),
        recv_buffers: 8,
        recv_buffer_bytes: 1024,
        ..UringOptions::default()
    }
}

fn message(sequence: u32, rng: &mut Rng) -> Vec<SendPart> {
    let length = rng.below(MESSAGE_BYTES_MAX) as usize;
    let body: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
    let numbers = [length as u32, sequence, Checksum::of(&body).0];
    let head = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    // In three parts, one of them empty now and then.
    let middle = rng.below(length as u64 + 1) as usize;
    let (front, back) = body.split_at(middle);
    [head, front.to_vec(), back.to_vec()].into_iter().map(SendPart::Bytes).collect()
}

/// One end of a connection.
struct End {
    conn: ConnId,
    sent: u32,
    sending: bool,
    received: Vec<u8>,
    messages: u32,
    paused: bool,
}

impl End {
    fn new(conn: ConnId) -> End {
        let (received, paused) = (Vec::new(), false);
        End { conn, sent: 0, sending: false, received, messages: 0, paused }
    }

    fn send_next(&mut self, uring: &mut Uring, rng: &mut Rng) {
        if !self.sending && self.sent < MESSAGES {
            uring.send(self.conn, message(self.sent, rng));
            self.sent += 1;
            self.sending = true;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        let mut at = 0;
        while self.received.len() - at >= HEAD_BYTES {
            let number = |index: usize| {
                let from = at + index * 4;
                u32::from_le_bytes(self.received[from..from + 4].try_into().unwrap())
            };
            let (length, sequence, checksum) = (number(0) as usize, number(1), number(2));
            assert_eq!(sequence, self.messages, "messages come in order, each once");
            let body = self.received.get(at + HEAD_BYTES..at + HEAD_BYTES + length);
            let Some(body) = body else { break };
            assert_eq!(Checksum::of(body), Checksum(checksum), "message {sequence} is spoilt");
            at += HEAD_BYTES + length;
            self.messages += 1;
        }
        self.received.drain(..at);
    }

    fn pause(&mut self, uring: &mut Uring, pause: bool) {
        match pause {
            true => uring.pause(self.conn),
            false => uring.resume(self.conn),
        }
        self.paused = pause;
    }

    fn is_done(&self) -> bool {
        self.sent == MESSAGES && !self.sending && self.messages == MESSAGES
    }
}

/// Connections of a ring to itself: both ends of each.
fn connect_to_itself(uring: &mut Uring, count: usize) -> Vec<ConnId> {
    let address = uring.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    for _ in 0..count {
        uring.connect(address);
    }
    let mut ends = Vec::new();
    turn_until(uring, "the connections", |_, event| {
        match event {
            Event::Connected { conn } | Event::Accepted { conn, .. } => ends.push(conn),
            other => panic!("unexpected: {other:?}"),
        }
        ends.len() == 2 * count
    });
    ends
}

#[test]
fn messages_through_tiny_buffers_arrive_whole_and_in_order() {
    let mut uring = Uring::new(None, tiny()).unwrap();
    let mut rng = Rng::new(9);
    let conns = connect_to_itself(&mut uring, CONNECTIONS);
    let mut ends: Vec<End> = conns.into_iter().map(End::new).collect();
    ends.iter_mut().for_each(|end| end.send_next(&mut uring, &mut rng));
    let (mut events, mut last_event) = (Vec::new(), Instant::now());
    while !ends.iter().all(End::is_done) {
        uring.turn(Wait::AtMost(Duration::from_millis(1)), &mut events).unwrap();
        if events.is_empty() {
            // Everybody waits for somebody who is paused.
            assert!(last_event.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain");
            ends.iter_mut().for_each(|end| end.pause(&mut uring, false));
            continue;
        }
        last_event = Instant::now();
        for event in events.drain(..) {
            let at = take_event(&mut ends, event);
            ends[at].send_next(&mut uring, &mut rng);
            shuffle_pauses(&mut uring, &mut ends, &mut rng);
        }
    }
    let stats = uring.stats();
    assert_eq!(stats.completions_lost, 0);
    println!("{stats:?}");
}

/// Hands the event to its end; says which that is.
fn take_event(ends: &mut [End], event: Event<RecvChunk>) -> usize {
    let (conn, chunk) = match event {
        Event::Sent { conn, .. } => (conn, None),
        Event::Received { conn, chunk } => (conn, Some(chunk)),
        other => panic!("unexpected: {other:?}"),
    };
    let at = ends.iter().position(|end| end.conn == conn).expect("an end of this test");
    match chunk {
        Some(chunk) => ends[at].take(&chunk),
        None => ends[at].sending = false,
    }
    at
}

/// Stops or goes on receiving at one end now and then.
fn shuffle_pauses(uring: &mut Uring, ends: &mut [End], rng: &mut Rng) {
    if rng.below(4) == 0 {
        let count = ends.len() as u64;
        let end = &mut ends[rng.below(count) as usize];
        end.pause(uring, !end.paused);
    }
}

#[test]
#[should_panic(expected = "one send in flight per connection")]
fn a_second_send_in_flight_is_refused() {
    let mut uring = Uring::new(None, tiny()).unwrap();
    let conns = connect_to_itself(&mut uring, 1);
    uring.send(conns[0], vec![SendPart::Bytes(vec![1; 10])]);
    uring.send(conns[0], vec![SendPart::Bytes(vec![2; 10])]);
}

#[test]
fn the_end_of_a_stream_comes_once_and_after_all_its_bytes() {
    let mut uring = Uring::new(None, tiny()).unwrap();
    for round in 0..50usize {
        let conns = connect_to_itself(&mut uring, 1);
        let (near, far) = (conns[0], conns[1]);
        let length = 1 + round * 400;
        uring.send(near, vec![SendPart::Bytes(vec![round as u8; length])]);
        let (mut received, mut ended) = (0, 0);
        turn_until(&mut uring, "the end of the stream", |uring, event| {
            match event {
                Event::Sent { conn, .. } => Net::close(uring, conn),
                Event::Received { conn, chunk } => {
                    assert_eq!((conn, ended), (far, 0), "no bytes after the end");
                    assert!(chunk.iter().all(|byte| *byte == round as u8));
                    received += chunk.len();
                }
                Event::Closed { conn, reason } => {
                    assert!(matches!(reason, CloseReason::Ended), "{reason}");
                    assert_eq!(conn, far, "no event of a connection closed here");
                    ended += 1;
                }
                other => panic!("unexpected: {other:?}"),
            }
            ended > 0
        });
        assert_eq!((received, ended), (length, 1));
    }
}

#[test]
fn an_address_where_nobody_listens_is_closed_with_the_reason() {
    let mut uring = Uring::new(None, UringOptions::default()).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wanted = uring.connect(free);
    turn_until(&mut uring, "the refusal", |_, event| {
        let Event::Closed { conn, reason: CloseReason::Failed(error) } = event else {
            panic!("unexpected: {event:?}")
        };
        assert_eq!((conn, error.kind()), (wanted, std::io::ErrorKind::ConnectionRefused));
        true
    });
    let mut events = Vec::new();
    uring.turn(Wait::No, &mut events).unwrap();
    assert!(events.is_empty(), "{events:?}");
}
