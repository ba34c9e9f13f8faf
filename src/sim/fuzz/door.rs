//! Who is let in by a real server on the simulated seam: strangers, clients and peers at their bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::server::{address, start};
use crate::base::{GroupId, Instant, NodeId};
use crate::io::{ConnId, Event, Wait};
use crate::server::{Room, Server, Turn};
use crate::sim::host::{NetCommand, SimIo};
use crate::sim::time::Time;
use crate::wire::hello::{decode_hello_reply, encode_hello};
use crate::wire::{
    FrameDecoder, FrameEncoder, Hello, HelloReply, HelloRole, PROTOCOL_VERSION, RefuseReason,
    Standing,
};

/// Longer than anything takes that must happen by itself.
const LONG: Duration = Duration::from_secs(20);
const ROOM: Room = Room { clients_max: 3, strangers_max: 4 };

struct Door {
    server: Server,
    io: SimIo,
    now: u64,
    closed: BTreeSet<ConnId>,
    replies: BTreeMap<ConnId, HelloReply>,
}

impl Door {
    fn new() -> Door {
        let (mut server, io) = start();
        server.limit_connections(ROOM);
        let (closed, replies) = (BTreeSet::new(), BTreeMap::new());
        let mut door = Door { server, io, now: 1, closed, replies };
        door.wait(Duration::from_secs(1));
        door
    }

    fn connect(&mut self) -> ConnId {
        let conn = self.io.port.next_conn();
        self.io.inbox.push(Event::Accepted { conn, from: address() });
        self.turns();
        conn
    }

    fn send(&mut self, conn: ConnId, chunk: &[u8]) {
        self.io.inbox.push(Event::Received { conn, chunk: chunk.to_vec() });
        self.turns();
    }

    fn greet(&mut self, conn: ConnId) {
        self.send(conn, &hello(HelloRole::Client));
    }

    /// Lets time pass as the server asks for it; what it does about it must end.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time.as_nanos() as u64;
        while self.now < end {
            self.turns();
            let Wait::AtMost(sleep) = self.server.wait(Instant(self.now)) else { continue };
            let disk = self.io.disk.next_completion_at().map_or(end, |at| at.0);
            let woken = self.now + sleep.as_nanos() as u64;
            self.now = woken.min(disk).min(end).max(self.now + 1);
        }
        self.turns();
    }

    /// Turns until nothing is to be handed out.
    fn turns(&mut self) {
        let mut events = Vec::new();
        loop {
            self.io.begin_turn(Time(self.now), Instant(self.now));
            let turn = self.server.turn(&mut self.io, Wait::No, &mut events);
            assert_eq!(turn.expect("a disk without faults"), Turn::GoOn);
            self.io.end_turn(Time(self.now));
            for command in self.io.port.take_commands() {
                match command {
                    NetCommand::Send(conn, parts) => {
                        let bytes = parts.iter().flat_map(|part| part.bytes()).copied();
                        let bytes: Vec<u8> = bytes.collect();
                        // What follows is about requests.
                        self.replies.entry(conn).or_insert_with(|| reply(&bytes));
                        self.io.inbox.push(Event::Sent { conn, parts });
                    }
                    NetCommand::Close(conn) => assert!(self.closed.insert(conn), "closed once"),
                    other => panic!("unexpected: {other:?}"),
                }
            }
            if self.io.inbox.is_empty() {
                break;
            }
        }
        let gauges = self.server.gauges();
        assert!(gauges.strangers <= ROOM.strangers_max && gauges.clients <= ROOM.clients_max);
    }

    fn is_welcome(&self, conn: ConnId) -> bool {
        matches!(self.replies.get(&conn), Some(HelloReply::Welcome(_)))
            && !self.closed.contains(&conn)
    }

    /// Strangers and clients, as the server counts them.
    fn counts(&self) -> (usize, usize) {
        let gauges = self.server.gauges();
        (gauges.strangers, gauges.clients)
    }
}

fn hello(role: HelloRole) -> Vec<u8> {
    let protocol_version = PROTOCOL_VERSION;
    let hello = Hello { protocol_version, cluster: None, role, group: GroupId(0) };
    let mut bytes = Vec::new();
    encode_hello(&hello, &mut FrameEncoder::new(), &mut bytes);
    bytes
}

fn reply(bytes: &[u8]) -> HelloReply {
    let mut decoder = FrameDecoder::<Vec<u8>>::plain();
    let mut rest = bytes;
    let frame = decoder.next(&mut rest, &()).expect("a server's frame decodes");
    decode_hello_reply(&frame.expect("it is whole")).expect("it is a greeting")
}

#[test]
fn who_does_not_greet_in_time_is_closed_however_little_it_says_again_and_again() {
    let mut door = Door::new();
    let (silent, slow, client) = (door.connect(), door.connect(), door.connect());
    door.greet(client);
    let bytes = hello(HelloRole::Client);
    // A byte a second, all but the last ones: nothing of it counts.
    for byte in &bytes[..4] {
        door.send(slow, &[*byte]);
        assert!(door.closed.is_empty(), "there is still time");
        door.wait(Duration::from_secs(1));
    }
    door.wait(Duration::from_secs(2));
    assert_eq!(door.closed, BTreeSet::from([silent, slow]));
    assert_eq!(door.counts(), (0, 1));
    door.send(slow, &bytes[4..]);
    door.wait(LONG);
    assert!(door.is_welcome(client), "a client may be silent for as long as it likes");
    assert_eq!(door.replies.len(), 1);
}

#[test]
fn a_greeting_that_came_in_time_is_read_although_this_thread_did_not_run() {
    let mut door = Door::new();
    let client = door.connect();
    door.now += LONG.as_nanos() as u64;
    door.greet(client);
    assert!(door.is_welcome(client));
}

#[test]
fn the_oldest_stranger_goes_and_whoever_greets_at_once_gets_in() {
    let mut door = Door::new();
    let first: Vec<ConnId> = (0..ROOM.strangers_max).map(|_| door.connect()).collect();
    assert!(door.closed.is_empty());
    // The flood goes on.
    for round in 1..=10 {
        let client = door.connect();
        door.greet(client);
        let refused = round > ROOM.clients_max;
        assert_eq!(door.is_welcome(client), !refused, "client {round}");
        door.connect();
    }
    assert!(first.iter().all(|conn| door.closed.contains(conn)));
    assert_eq!(door.counts(), (ROOM.strangers_max, ROOM.clients_max));
    door.wait(LONG);
    assert_eq!(door.counts(), (0, ROOM.clients_max));
}

#[test]
fn a_client_over_the_bound_is_told_so_and_gets_in_when_another_one_leaves() {
    let mut door = Door::new();
    let clients: Vec<ConnId> = (0..ROOM.clients_max).map(|_| door.connect()).collect();
    clients.iter().for_each(|client| door.greet(*client));
    assert!(clients.iter().all(|client| door.is_welcome(*client)));

    let refused = door.connect();
    door.greet(refused);
    let Some(HelloReply::Refused { reason, text, .. }) = door.replies.get(&refused) else {
        panic!("{:?}", door.replies.get(&refused))
    };
    assert_eq!(*reason, RefuseReason::TooManyConnections, "{text}");
    assert!(door.closed.contains(&refused), "once it has been told");
    assert_eq!(door.counts(), (0, ROOM.clients_max));

    // Others are judged as ever: the bound of the clients is not theirs.
    let peer = door.connect();
    let (node, to) = (NodeId(9), NodeId(1));
    let role = HelloRole::Peer {
        node,
        to,
        members_digest: 0,
        group_count: 1,
        standing: Standing::default(),
        pending: None,
    };
    door.send(peer, &hello(role));
    let Some(HelloReply::Refused { reason, .. }) = door.replies.get(&peer) else {
        panic!("{:?}", door.replies.get(&peer))
    };
    assert_ne!(*reason, RefuseReason::TooManyConnections);

    door.io.inbox.push(Event::Closed { conn: clients[0], reason: crate::io::CloseReason::Ended });
    door.turns();
    let next = door.connect();
    door.greet(next);
    assert!(door.is_welcome(next));
    // One that breaks the protocol leaves, too.
    door.send(clients[1], &[0xff; 64]);
    assert!(door.closed.contains(&clients[1]));
    assert_eq!(door.counts(), (0, ROOM.clients_max - 1));
}
