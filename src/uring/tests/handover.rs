//! Connections that go from the thread that accepts them to another one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::support::{PATIENCE, turn_until};
use crate::base::GroupId;
use crate::io::{ConnId, Event, HANDOVER_BYTES_MAX, Io, Net, SendPart, Wait};
use crate::uring::handover::{HANDOVERS_BYTES_MAX, HANDOVERS_MAX};
use crate::uring::{Seat, Uring, UringOptions, Waker, seats};

/// Connections of the larger test.
const CONNECTIONS: usize = 40;
/// Bytes that each client sends.
/// None may have more with it than may go along, however fast it sends.
const BYTES: usize = 200_000;

const _: () = assert!(BYTES <= HANDOVER_BYTES_MAX);

/// The byte at a place of a client's stream.
fn byte_at(client: usize, place: usize) -> u8 {
    (place * 31 + place / 251 + client * 7) as u8
}

fn ring() -> Uring {
    Uring::new(None, UringOptions::default()).expect("io_uring works here")
}

/// A thread that takes in what it is handed, answers each connection's end with everything that came
/// on it, and ends when it is woken. It sleeps as long as it may.
fn taker(seat: Seat, running: Sender<Waker>) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut uring = ring();
        uring.take_seat(seat);
        running.send(uring.waker()).unwrap();
        let mut open: Vec<(ConnId, Vec<u8>)> = Vec::new();
        let mut handed_over = 0;
        let mut events = Vec::new();
        loop {
            uring.turn(Wait::AtMost(PATIENCE), &mut events).unwrap();
            for event in events.drain(..) {
                match event {
                    Event::HandedOver { conn, from, received } => {
                        assert!(from.ip().is_loopback());
                        handed_over += 1;
                        open.push((conn, received));
                    }
                    Event::Received { conn, chunk } => {
                        let (_, bytes) = open.iter_mut().find(|(of, _)| *of == conn).unwrap();
                        bytes.extend_from_slice(&chunk);
                    }
                    Event::Sent { conn, .. } => uring.close(conn),
                    Event::Woken => return handed_over,
                    other => panic!("unexpected: {other:?}"),
                }
            }
            open.retain_mut(|(conn, bytes)| {
                let whole = bytes.len() >= BYTES;
                if whole {
                    uring.send(*conn, vec![SendPart::Bytes(std::mem::take(bytes))]);
                }
                !whole
            });
        }
    })
}

/// A client that sends its stream in pieces and reads what comes back.
fn client(address: SocketAddr, number: usize) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let bytes: Vec<u8> = (0..BYTES).map(|place| byte_at(number, place)).collect();
        let (first, rest) = bytes.split_at(1 + number * 100);
        stream.write_all(first).unwrap();
        rest.chunks(7_000 + number).for_each(|piece| stream.write_all(piece).unwrap());
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        back
    })
}

#[test]
fn every_byte_goes_along_in_order_while_more_comes() {
    let mut seats = seats(3, HANDOVERS_MAX).into_iter();
    let mut uring = ring();
    uring.take_seat(seats.next().unwrap());
    let (running, wakers): (Sender<Waker>, Receiver<Waker>) = channel();
    let takers: Vec<_> = seats.map(|seat| taker(seat, running.clone())).collect();
    let wakers: Vec<Waker> = takers.iter().map(|_| wakers.recv().unwrap()).collect();
    let address = uring.listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let clients: Vec<_> = (0..CONNECTIONS).map(|number| client(address, number)).collect();
    let mut given = 0;
    let started = Instant::now();
    let (mut events, mut turn) = (Vec::new(), Vec::<(ConnId, Vec<u8>)>::new());
    // Some wait for their last receive to end here.
    while given < CONNECTIONS || !uring.sockets.is_empty() {
        uring.turn(Wait::AtMost(Duration::from_millis(10)), &mut events).unwrap();
        for event in events.drain(..) {
            let Event::Received { conn, chunk } = event else { continue };
            match turn.iter_mut().find(|(of, _)| *of == conn) {
                Some((_, bytes)) => bytes.extend_from_slice(&chunk),
                None => turn.push((conn, chunk.to_vec())),
            }
        }
        for (conn, bytes) in turn.drain(..) {
            // The groups in turn. Nothing of it comes here any more: it would be counted again.
            uring.hand_over(conn, GroupId(1 + (given % 2) as u16), bytes);
            given += 1;
        }
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(given, CONNECTIONS);
    for (number, client) in clients.into_iter().enumerate() {
        let back = client.join().unwrap();
        assert_eq!(back.len(), BYTES, "client {number}");
        assert!((0..BYTES).all(|place| back[place] == byte_at(number, place)), "client {number}");
    }
    wakers.iter().for_each(Waker::wake);
    let counts: Vec<usize> = takers.into_iter().map(|taker| taker.join().unwrap()).collect();
    assert_eq!(counts, [CONNECTIONS / 2, CONNECTIONS / 2]);
    assert_eq!(uring.stats().conns_refused, 0);
}

#[test]
fn a_thread_that_sleeps_is_woken_and_one_that_is_not_there_yet_looks_when_it_comes() {
    let mut seats = seats(2, HANDOVERS_MAX).into_iter();
    let mut uring = ring();
    uring.take_seat(seats.next().unwrap());
    let address = uring.listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let give = |uring: &mut Uring| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"x").unwrap();
        turn_until(uring, "a connection is handed over", |uring, event| match event {
            Event::Received { conn, chunk } => {
                uring.hand_over(conn, GroupId(1), chunk.to_vec());
                true
            }
            _ => false,
        });
        let mut events = Vec::new();
        while !uring.sockets.is_empty() {
            uring.turn(Wait::AtMost(Duration::from_millis(10)), &mut events).unwrap();
        }
        // What was asked of the ring last goes with the next turn.
        uring.turn(Wait::No, &mut events).unwrap();
        stream
    };
    // Before the other thread is there.
    let early = give(&mut uring);
    let (told, hears) = channel();
    let seat = seats.next().unwrap();
    let other = std::thread::spawn(move || {
        let mut uring = ring();
        uring.take_seat(seat);
        for _ in 0..2 {
            let started = Instant::now();
            let mut events = Vec::new();
            while events.is_empty() {
                uring.turn(Wait::AtMost(PATIENCE * 10), &mut events).unwrap();
            }
            assert!(matches!(events[0], Event::HandedOver { .. }), "{events:?}");
            // Far below its sleep: it was woken.
            assert!(started.elapsed() < PATIENCE);
            told.send(()).unwrap();
        }
    });
    hears.recv_timeout(PATIENCE).unwrap();
    let late = give(&mut uring);
    hears.recv_timeout(PATIENCE).unwrap();
    other.join().unwrap();
    drop((early, late));
}

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

#[test]
fn what_comes_with_a_connection_is_bounded_for_each_and_for_all_that_wait() {
    let mut uring = ring();
    let mut all = seats(2, HANDOVERS_MAX);
    let absent = all.pop().unwrap();
    uring.take_seat(all.pop().unwrap());
    let mut events = Vec::new();
    let is_closed = |mut near: TcpStream| {
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        near.read(&mut [0; 8]).unwrap_or(0) == 0
    };

    // Too much had come when it was to be handed over.
    let (near, far) = pair();
    let conn = uring.adopt_socket(far.into()).unwrap();
    uring.hand_over(conn, GroupId(1), vec![0; HANDOVER_BYTES_MAX + 1]);
    uring.turn(Wait::No, &mut events).unwrap();
    assert_eq!(uring.stats().conns_refused, 1);
    assert!(is_closed(near));

    // Too much comes while its receive ends.
    let (mut near, far) = pair();
    let conn = uring.adopt_socket(far.into()).unwrap();
    uring.turn(Wait::No, &mut events).unwrap();
    uring.faults.cancels_lost = 1;
    uring.hand_over(conn, GroupId(1), vec![0; HANDOVER_BYTES_MAX - 1]);
    near.write_all(&[1, 2]).unwrap();
    let started = Instant::now();
    while !uring.sockets.is_empty() {
        uring.turn(Wait::AtMost(Duration::from_millis(10)), &mut events).unwrap();
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(uring.stats().conns_refused, 2);
    assert!(is_closed(near));

    // Each may be handed over, but not all of them may wait.
    let most = HANDOVERS_BYTES_MAX / HANDOVER_BYTES_MAX;
    let mut kept = Vec::new();
    for _ in 0..=most {
        let (near, far) = pair();
        uring.send_parcel(far.into(), GroupId(1), vec![7; HANDOVER_BYTES_MAX]);
        kept.push(near);
    }
    assert_eq!(uring.stats().conns_refused, 3);
    assert!(is_closed(kept.pop().unwrap()), "the one too many");

    // They come out whole, and make room.
    let mut other = ring();
    other.take_seat(absent);
    let mut count = 0;
    turn_until(&mut other, "those that wait", |_, event| {
        let Event::HandedOver { received, .. } = event else { panic!("unexpected: {event:?}") };
        assert_eq!(received, [7; HANDOVER_BYTES_MAX]);
        count += 1;
        count == most
    });
    let (_near, far) = pair();
    uring.send_parcel(far.into(), GroupId(1), vec![7; HANDOVER_BYTES_MAX]);
    assert_eq!(uring.stats().conns_refused, 3);
}

#[test]
fn a_connection_for_nobody_and_one_too_many_are_closed() {
    let mut uring = ring();
    // There is a second thread by its seat, which never looks.
    let mut all = seats(2, HANDOVERS_MAX);
    let absent = all.pop();
    uring.take_seat(all.pop().unwrap());
    let address = uring.listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    turn_until(&mut uring, "a connection is handed over", |uring, event| match event {
        Event::Received { conn, chunk } => {
            uring.hand_over(conn, GroupId(9), chunk.to_vec());
            true
        }
        _ => false,
    });
    let mut events = Vec::new();
    while !uring.sockets.is_empty() {
        uring.turn(Wait::AtMost(Duration::from_millis(10)), &mut events).unwrap();
    }
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "it is closed");
    stream.shutdown(Shutdown::Both).ok();

    fill_the_queue(&mut uring, HANDOVERS_MAX);
    assert_eq!(uring.stats().conns_refused, 1);
    drop(absent);
}

/// Hands over as many connections as wait for group 1, and one more, without the other side looking.
fn fill_the_queue(uring: &mut Uring, waiting_max: usize) {
    let mut kept = Vec::new();
    for _ in 0..=waiting_max {
        let (near, far) = pair();
        uring.send_parcel(far.into(), GroupId(1), Vec::new());
        kept.push(near);
        if kept.len() > 64 {
            // Their other ends lie in the queue; these descriptors are not needed.
            kept.remove(0);
        }
    }
    let last = kept.last_mut().unwrap();
    assert_eq!(last.read(&mut [0; 8]).unwrap_or(0), 0, "the one too many is closed");
}

#[test]
fn no_more_wait_for_a_thread_than_it_may_hold() {
    for (connections_max, waiting_max) in [(1, 1), (8, 8), (100, 64)] {
        let mut uring = ring();
        let mut all = seats(2, connections_max);
        let _absent = all.pop();
        uring.take_seat(all.pop().unwrap());
        fill_the_queue(&mut uring, waiting_max);
        assert_eq!(uring.stats().conns_refused, 1);
    }
}
