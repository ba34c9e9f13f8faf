//! TCP proxies in front of the nodes, which can make flows die in silence.
//!
//! Each node listens on a port of its own and is known to everybody by its proxy's. A flow that has
//! died takes what it is sent and delivers nothing, in both directions, without an end or an error; new
//! connections pass. That is what a firewall does that has forgotten its flows, and needs no rights.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use loggos::base::BlockPool;
use loggos::wire::hello::decode_hello;
use loggos::wire::{FrameDecoder, HelloRole};

use super::{Cluster, free_ports};

/// A connection that passes a proxy.
#[derive(Debug)]
struct Flow {
    /// The node that dialled it; none: a client.
    from: Option<u16>,
    to: u16,
    dead: Arc<AtomicBool>,
}

/// The proxies of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Where each node listens.
    listen: Vec<String>,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl Proxies {
    /// A cluster of `count` nodes behind proxies, started with these flags besides.
    pub fn start_cluster(count: usize, flags: &[&str]) -> (Cluster, Proxies) {
        let ports = free_ports(count);
        let listen = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let proxies = Proxies { listen, ..Proxies::default() };
        let listeners: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port can be found"))
            .collect();
        let place = |listener: &TcpListener| {
            (listener.local_addr().expect("a bound socket has one").to_string(), None)
        };
        let mut cluster = Cluster::blank_at(listeners.iter().map(place).collect());
        for (index, (listener, port)) in listeners.into_iter().zip(ports).enumerate() {
            proxies.serve(listener, index as u16 + 1, port);
            proxies.start_node(&mut cluster, index, flags);
        }
        cluster.found();
        (cluster, proxies)
    }

    /// Starts a node again, behind its proxy.
    pub fn start_node(&self, cluster: &mut Cluster, index: usize, flags: &[&str]) {
        let flags = [&["--listen", self.listen[index].as_str()], flags].concat();
        cluster.start_node_with(index, &flags);
    }

    /// The thread ends with the test's process.
    fn serve(&self, listener: TcpListener, to: u16, port: u16) {
        let proxies = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(near) = stream else { continue };
                let proxies = proxies.clone();
                std::thread::spawn(move || proxies.pass(near, to, port));
            }
        });
    }

    /// One connection: its hello tells whose it is.
    fn pass(&self, mut near: TcpStream, to: u16, port: u16) {
        // Where the node does not listen, whoever dials sees the end at once.
        let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let (pool, mut decoder, mut buffer) = (BlockPool::new(0), FrameDecoder::new(), [0; 4096]);
        let from = loop {
            let Ok(count @ 1..) = near.read(&mut buffer) else { return };
            if far.write_all(&buffer[..count]).is_err() {
                return;
            }
            match decoder.next(&mut &buffer[..count], &pool) {
                Ok(None) => {}
                Err(_) => return,
                Ok(Some(frame)) => match decode_hello(&frame).map(|hello| hello.role) {
                    Ok(HelloRole::Peer { node, .. }) => break Some(node.0),
                    _ => break None,
                },
            }
        };
        let dead = Arc::new(AtomicBool::new(false));
        let flow = Flow { from, to, dead: dead.clone() };
        self.flows.lock().expect("nobody panics with it").push(flow);
        let back = (far.try_clone(), near.try_clone());
        if let (Ok(far), Ok(near)) = back {
            let dead = dead.clone();
            std::thread::spawn(move || pump(far, near, &dead));
        }
        pump(near, far, &dead);
    }

    /// Makes every flow between nodes that stands die, for which `which` holds: told who dialled,
    /// and whom. Returns how many.
    pub fn silence(&self, which: impl Fn(u16, u16) -> bool) -> usize {
        let flows = self.flows.lock().expect("nobody panics with it");
        let dying = flows.iter().filter(|flow| flow.from.is_some_and(|from| which(from, flow.to)));
        // Those that had ended or died before count for nothing.
        dying.filter(|flow| !flow.dead.swap(true, Ordering::Relaxed)).count()
    }
}

/// Passes on what arrives, until either side ends; of a dead flow nothing, not even its end.
fn pump(mut from: TcpStream, mut to: TcpStream, dead: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).unwrap_or(0);
        let is_dead = dead.load(Ordering::Relaxed);
        if count == 0 {
            if is_dead {
                // Held open until the test ends: the other side is told nothing.
                std::mem::forget(to);
            } else {
                dead.store(true, Ordering::Relaxed);
                // Either may be gone already.
                drop((to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both)));
            }
            return;
        }
        if !is_dead && to.write_all(&buffer[..count]).is_err() {
            dead.store(true, Ordering::Relaxed);
            drop(from.shutdown(Shutdown::Both));
            return;
        }
    }
}
