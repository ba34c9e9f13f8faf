//! Counts heap allocations on the leader's thread while a real three-replica cluster (three
//! threads with a ring, a log and a socket each) commits appends, at two batch sizes.
//!
//! What it shows: allocations belong to batches, not to records. `cargo bench --bench allocations`
//! prints the figures and fails when they grow with the records.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use loggos::base::{BlockPool, ClusterId, LogId, NodeId};
use loggos::client::connection::{AppendName, ClientConnection, Incoming};
use loggos::io::{Clock, Net};
use loggos::log::Log;
use loggos::node::{Identity, Node, NodeOptions};
use loggos::server::{Server, run};
use loggos::uring::{DirectStorage, Uring, UringOptions, Waker};
use loggos::wire::Response;
use loggos::wire::status::{NodeStatus, ResourceStatus};

const NODES: usize = 3;

/// Allocations per node; the last place is everybody else.
static ALLOCATIONS: [AtomicU64; NODES + 1] = [const { AtomicU64::new(0) }; NODES + 1];

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(NODES) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    // A thread that is ending has no place any more; it is nobody's leader.
    let place = PLACE.try_with(Cell::get).unwrap_or(NODES);
    ALLOCATIONS[place].fetch_add(1, Ordering::Relaxed);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
    let addresses = free_addresses();
    let nodes: Vec<(Waker, JoinHandle<()>)> =
        (0..NODES).map(|index| start_node(index, dir.path(), &addresses)).collect();

    let (leader, mut client) = connect_to_leader(&addresses);
    client.run(20_000, 256);
    let small = measure(leader, &mut client, 20_000, 16);
    let large = measure(leader, &mut client, 200_000, 1024);
    println!("records of 256 bytes, {NODES} replicas, allocations on the leader's thread:");
    for (inflight, figures) in [(16, &small), (1024, &large)] {
        println!(
            "{inflight:>5} in flight: {:.4} per record, {:.1} per slot, {:.1} records per slot",
            figures.per_record(),
            figures.per_slot(),
            figures.records as f64 / figures.slots as f64,
        );
    }
    for (waker, thread) in nodes {
        waker.wake();
        thread.join().expect("a node ends in good order");
    }
    assert!(large.per_record() < 0.1, "the steady path allocates nothing per record");
    assert!(large.per_slot() < small.per_slot() * 2.0 + 4.0, "allocations belong to slots");
}

struct Figures {
    records: u64,
    slots: u64,
    allocations: u64,
}

impl Figures {
    fn per_record(&self) -> f64 {
        self.allocations as f64 / self.records as f64
    }

    fn per_slot(&self) -> f64 {
        self.allocations as f64 / self.slots as f64
    }
}

fn measure(leader: usize, client: &mut Client, records: u64, inflight: usize) -> Figures {
    client.run(records / 4, inflight);
    let slots = client.status().batching.slots;
    let before = ALLOCATIONS[leader].load(Ordering::Relaxed);
    client.run(records, inflight);
    let allocations = ALLOCATIONS[leader].load(Ordering::Relaxed) - before;
    let slots = client.status().batching.slots - slots;
    Figures { records, slots, allocations }
}

fn free_addresses() -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
}

fn start_node(index: usize, dir: &Path, addresses: &[SocketAddr]) -> (Waker, JoinHandle<()>) {
    let node = NodeId(index as u16 + 1);
    let data = dir.join(format!("node-{node}"));
    std::fs::create_dir(&data).expect("a folder can be made");
    let addresses: Vec<(NodeId, SocketAddr)> =
        addresses.iter().enumerate().map(|(i, a)| (NodeId(i as u16 + 1), *a)).collect();
    let identity = Identity {
        cluster_name: "bench".to_owned(),
        cluster: ClusterId::of_name("bench"),
        node,
        members: addresses.iter().map(|(id, address)| (*id, address.to_string())).collect(),
        group_count: 1,
    };
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        PLACE.set(index);
        let pool = BlockPool::new(32 << 20);
        let mut options = NodeOptions::new(identity, addresses.clone(), pool.clone(), 1);
        options.log.segment_bytes = 64 << 20;
        let mut storage = DirectStorage::new(&data).expect("the folder can be used");
        Log::format(&mut storage, &options.folder(), &options.log).expect("the log is formatted");
        let mut io = Uring::new(Some(&data), UringOptions::default()).expect("io_uring works");
        io.listen(addresses[index].1).expect("the port is free");
        let node = Node::open(&mut io, options).expect("the log opens");
        let mut server = Server::new(node, pool, io.now(), ResourceStatus::default);
        sender.send(io.waker()).expect("the bench waits");
        run(&mut io, &mut server).expect("the node serves");
    });
    (receiver.recv().expect("the node starts"), thread)
}

/// Tries the nodes until one says that it leads.
fn connect_to_leader(addresses: &[SocketAddr]) -> (usize, Client) {
    loop {
        for (index, address) in addresses.iter().enumerate() {
            let mut client = Client::connect(*address);
            let status = client.status();
            if status.leader == Some(index as u16 + 1) {
                return (index, client);
            }
        }
    }
}

/// A blocking client over the protocol half.
struct Client {
    stream: TcpStream,
    connection: ClientConnection<()>,
    received: Vec<u8>,
    spare: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).expect("a plain socket");
        let connection = ClientConnection::new(None, 4096);
        let mut client =
            Client { stream, connection, received: vec![0; 256 << 10], spare: Vec::new() };
        while !client.connection.is_ready() {
            client.exchange(|_| {});
        }
        client
    }

    fn exchange(&mut self, mut answered: impl FnMut(Response<'_>)) {
        if self.connection.output_size() > 0 {
            let output = self.connection.take_output(std::mem::take(&mut self.spare));
            self.stream.write_all(&output).expect("the node reads");
            self.spare = output;
        }
        let size = self.stream.read(&mut self.received).expect("the node answers");
        assert!(size > 0, "the node stays");
        let incoming = |incoming: Incoming<'_, ()>| match incoming {
            Incoming::Welcome(_) => {}
            Incoming::Refused { text, .. } => panic!("refused: {text}"),
            Incoming::Answer { response, .. } => answered(response),
        };
        self.connection.receive(&self.received[..size], incoming).expect("the protocol is kept");
    }

    /// Appends `records` records, `inflight` at a time, and waits for all of them.
    fn run(&mut self, records: u64, inflight: usize) {
        let record = [7u8; 256];
        let (mut sent, mut done) = (0, 0);
        while done < records {
            while sent < records && sent - done < inflight as u64 {
                let name = AppendName::default();
                self.connection.append((), LogId(0), name, &[record]).expect("it is within limits");
                sent += 1;
            }
            self.exchange(|response| match response {
                Response::Appended { .. } => done += 1,
                other => panic!("not appended: {other:?}"),
            });
        }
    }

    fn status(&mut self) -> NodeStatus {
        self.connection.status(()).expect("one request is in flight");
        let mut status = None;
        while status.is_none() {
            self.exchange(|response| {
                if let Response::StatusIs { json, .. } = response {
                    status = Some(serde_json::from_slice(json).expect("the status is JSON"));
                }
            });
        }
        status.expect("the loop ends with one")
    }
}
