//! Counts heap allocations on the leader's thread while a real three-replica cluster (three
//! threads with a ring, a log and a socket each) commits appends.
//!
//! What it shows: allocations belong to slots, to received chunks and to the log's segments, never
//! to records. Slots of the same size in bytes are filled with few large and with many small
//! records; what the many cost more is the cost of a record. `cargo bench --bench allocations`
//! prints the figures and fails when there is such a cost.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use loggos::base::{
    AppendTerms, BlockPool, ClusterDigest, ClusterId, Founding, Incarnation, LogId, NodeId,
};
use loggos::client::connection::{ClientConnection, Incoming};
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
    client.run(Load { records: 20_000, inflight: 256, bytes: 256 });
    let load = |records, inflight, bytes| Load { records, inflight, bytes };
    let lone = measure(leader, &mut client, load(5_000, 1, 256));
    let few = measure(leader, &mut client, load(10_000, 32, 8192));
    let many = measure(leader, &mut client, load(300_000, 1024, 256));
    println!("{NODES} replicas, allocations on the leader's thread:");
    [&lone, &few, &many].into_iter().for_each(Figures::print);
    let more_records = many.records_per_slot() - few.records_per_slot();
    let per_record = (many.per_slot() - few.per_slot()) / more_records;
    println!("each further record in a slot of the same size: {per_record:.4} allocations");
    for (waker, thread) in nodes {
        waker.wake();
        thread.join().expect("a node ends in good order");
    }
    assert!(more_records > 100.0, "the two loads differ in their records");
    assert!(per_record < PER_RECORD_MAX, "the steady path allocates nothing per record");
    assert!(lone.per_slot() < PER_LONE_SLOT_MAX, "a lone slot allocates next to nothing");
}

/// One in a hundred records: what the noise of slots that differ a little in size may add.
const PER_RECORD_MAX: f64 = 0.01;
/// The batch, its write, its messages and their bookkeeping.
const PER_LONE_SLOT_MAX: f64 = 16.0;

/// Appends of one record each.
#[derive(Clone, Copy)]
struct Load {
    records: u64,
    inflight: usize,
    bytes: usize,
}

struct Figures {
    load: Load,
    slots: u64,
    allocations: u64,
}

impl Figures {
    fn print(&self) {
        let Load { inflight, bytes, .. } = self.load;
        println!(
            "{inflight:>5} x {bytes:>5} bytes in flight: {:.4} per record, {:.1} per slot of {:.1} \
             records",
            self.allocations as f64 / self.load.records as f64,
            self.per_slot(),
            self.records_per_slot(),
        );
    }

    fn records_per_slot(&self) -> f64 {
        self.load.records as f64 / self.slots as f64
    }

    fn per_slot(&self) -> f64 {
        self.allocations as f64 / self.slots as f64
    }
}

fn measure(leader: usize, client: &mut Client, load: Load) -> Figures {
    client.run(Load { records: load.records / 4, ..load });
    let slots = client.status().batching.slots;
    let before = ALLOCATIONS[leader].load(Ordering::Relaxed);
    client.run(load);
    let allocations = ALLOCATIONS[leader].load(Ordering::Relaxed) - before;
    let slots = client.status().batching.slots - slots;
    Figures { load, slots, allocations }
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
        cluster: ClusterDigest::of_name("bench"),
        incarnation: Incarnation(u128::from(node.0)),
        node,
        members: addresses.iter().map(|(id, address)| (*id, address.to_string())).collect(),
        group_count: 1,
        // As if all had been through `init`.
        founding: Some(Founding {
            cluster: ClusterId(1),
            members: addresses.iter().map(|(id, _)| (*id, Incarnation(u128::from(id.0)))).collect(),
        }),
        pending: None,
        is_used: false,
    };
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        PLACE.set(index);
        let pool = BlockPool::new(32 << 20);
        let mut options = NodeOptions::new(identity, pool.clone(), 1);
        options.log.segment_bytes = 64 << 20;
        let mut storage = DirectStorage::new(&data).expect("the folder can be used");
        Log::format(&mut storage, &options.folder(), &options.log, 0)
            .expect("the log is formatted");
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
            Incoming::Pushed { .. } => unreachable!("nothing is followed"),
        };
        self.connection.receive(&self.received[..size], incoming).expect("the protocol is kept");
    }

    /// Appends the records, so many at a time, and waits for all of them.
    fn run(&mut self, load: Load) {
        let Load { records, inflight, bytes } = load;
        let record = vec![7u8; bytes];
        let (mut sent, mut done) = (0, 0);
        while done < records {
            while sent < records && sent - done < inflight as u64 {
                let name = AppendTerms::default();
                self.connection
                    .append((), LogId(0), name, &[&record])
                    .expect("it is within limits");
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
