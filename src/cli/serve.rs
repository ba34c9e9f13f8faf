//! `loggos serve`: a formatted data directory and its member address become a running node.
//!
//! Joins the ring, the node and the server; the group's thread owns all three. The main thread
//! only waits for signals and for that thread to end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use super::error::{CliError, Exit};
use super::members::HostPort;
use super::options::{LogSync, ServeOptions};
use crate::base::limits::MIB;
use crate::base::{BlockPool, NodeId};
use crate::io::{Clock, Net};
use crate::log::{DataDir, Identity as DiskIdentity, LogError};
use crate::node::{Identity, Node, NodeFailure, NodeOptions};
use crate::server::{Server, run as run_server};
use crate::uring::host::require_real_disk;
use crate::uring::{DirLock, DirectStorage, Uring, UringOptions, Waker, lock_data_dir};
use crate::wire::status::ResourceStatus;

/// Returned buffers kept for reuse, in bytes.
const POOL_IDLE_BYTES_MAX: usize = 32 * MIB;

/// How long an address in use is tried before it is refused.
const LISTEN_WAIT_MAX: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const LISTEN_RETRY: Duration = Duration::from_millis(10);

/// Runs the node until a signal asks it to stop.
pub fn run(options: &ServeOptions) -> Result<(), CliError> {
    let data = options.data.display();
    if !options.data.is_dir() {
        return Err(CliError::usage(format!(
            "{data} is not a directory: make it with `loggos format --data {data} …`"
        )));
    }
    require_real_disk(&options.data).map_err(CliError::usage)?;
    let mut storage = DirectStorage::new(&options.data)
        .map_err(|error| CliError::usage(format!("{data} cannot be used: {error}")))?;
    let identity =
        DataDir::load(&mut storage).map_err(|error| CliError::usage(format!("{data}: {error}")))?;
    let lock = lock_data_dir(&options.data).map_err(CliError::usage)?;
    let addresses = resolve(&identity)?;
    let listen = listen_address(options, &identity, &addresses)?;

    let (done, ended) = mpsc::channel();
    let thread_options = options.clone();
    let thread = std::thread::Builder::new()
        .name("loggos-group-0".to_owned())
        .spawn(move || {
            let result = serve_group(&thread_options, &lock, identity, addresses, listen, &done);
            // Nobody listens any more only when the process is ending anyway.
            drop(done.send(Progress::Ended(result)));
        })
        .map_err(|error| CliError::failed(format!("cannot start a thread: {error}")))?;
    let result = supervise(&ended);
    if thread.join().is_err() {
        return Err(CliError::new(Exit::Failed, "the node's thread panicked: see above"));
    }
    result
}

/// What the group's thread tells the main thread.
enum Progress {
    Running(Waker),
    Ended(Result<(), CliError>),
}

/// Waits for the group's thread; hands it a signal to stop once it runs.
fn supervise(ended: &mpsc::Receiver<Progress>) -> Result<(), CliError> {
    loop {
        match ended.recv() {
            Ok(Progress::Running(waker)) => stop_on_signals(waker)?,
            Ok(Progress::Ended(result)) => return result,
            Err(_) => return Ok(()),
        }
    }
}

fn stop_on_signals(waker: Waker) -> Result<(), CliError> {
    let cannot = |error| CliError::failed(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(cannot)?;
    std::thread::Builder::new()
        .name("loggos-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                info!(signal, "asked to stop");
                waker.wake();
            }
        })
        .map_err(cannot)?;
    Ok(())
}

/// The thread of a group: opens the ring and the log, then serves.
fn serve_group(
    options: &ServeOptions,
    lock: &DirLock,
    identity: DiskIdentity,
    addresses: Vec<(NodeId, SocketAddr)>,
    listen: SocketAddr,
    progress: &mpsc::Sender<Progress>,
) -> Result<(), CliError> {
    pin(options.pin);
    let uring = UringOptions { busy_poll_max: options.busy_poll, ..UringOptions::default() };
    let mut io = Uring::new(Some(&options.data), uring).map_err(CliError::usage)?;
    io.hold_lock(lock).map_err(CliError::usage)?;
    let listening = start_listening(&mut io, listen)?;
    let pool = BlockPool::new(POOL_IDLE_BYTES_MAX);
    let node_options = node_options(options, identity, addresses, pool.clone());
    let (cluster, id) = (node_options.identity.cluster_name.clone(), node_options.identity.node);
    let node = Node::open(&mut io, node_options).map_err(|failure| describe(&failure))?;
    let now = io.now();
    let mut server = Server::new(node, pool, now, resources);
    info!(%cluster, node = %id, %listening, "serving");
    // The receiver lives until this thread has ended.
    drop(progress.send(Progress::Running(io.waker())));
    run_server(&mut io, &mut server).map_err(|failure| {
        error!(%failure, "the node stops; what it had not answered is unknown to its clients");
        describe(&failure)
    })
}

/// Listens on `address`. One in use is tried again for a while: the kernel takes a killed
/// process's ring down, and with it the listening socket, some time after the process is gone.
fn start_listening(io: &mut Uring, address: SocketAddr) -> Result<SocketAddr, CliError> {
    let started = Instant::now();
    loop {
        match io.listen(address) {
            Ok(listening) => return Ok(listening),
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && started.elapsed() < LISTEN_WAIT_MAX =>
            {
                // Nothing tells when an address becomes free; trying again is the only wait.
                std::thread::sleep(LISTEN_RETRY);
            }
            Err(error) => {
                return Err(CliError::usage(format!(
                    "cannot listen on {address}: {error}; is another node running, or --listen \
                     wrong?"
                )));
            }
        }
    }
}

fn node_options(
    options: &ServeOptions,
    disk: DiskIdentity,
    addresses: Vec<(NodeId, SocketAddr)>,
    pool: BlockPool,
) -> NodeOptions {
    let identity = Identity {
        cluster_name: disk.cluster,
        cluster: disk.cluster_id,
        node: disk.node,
        members: disk.members.into_iter().map(|member| (member.node, member.address)).collect(),
        group_count: disk.group_count,
    };
    let mut node = NodeOptions::new(identity, addresses, pool, seed());
    node.paxos.election_timeout = options.election_timeout;
    node.paxos.heartbeat_interval = options.heartbeat_interval;
    node.paxos.clock_drift_ppm_max = options.clock_drift_ppm;
    node.paxos.priority = options.priority;
    node.log.segment_bytes = disk.segment_bytes;
    node.log.verify_at_start = options.verify_at_start;
    node.log.log_sync = match options.log_sync {
        LogSync::Dsync => crate::log::LogSync::Dsync,
        LogSync::WriteThenFsync => crate::log::LogSync::WriteThenFsync,
    };
    node
}

/// Election jitter only needs to differ between nodes and runs.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(40)
}

fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        warn!(core, "cannot pin the group's thread: it runs on any core");
    }
}

fn resolve(identity: &DiskIdentity) -> Result<Vec<(NodeId, SocketAddr)>, CliError> {
    let resolve = |text: &str| {
        let address: HostPort = text.parse()?;
        address.resolve()
    };
    identity
        .members
        .iter()
        .map(|member| match resolve(&member.address) {
            Ok(address) => Ok((member.node, address)),
            Err(error) => Err(CliError::usage(format!("member {}: {error}", member.node))),
        })
        .collect()
}

fn listen_address(
    options: &ServeOptions,
    identity: &DiskIdentity,
    addresses: &[(NodeId, SocketAddr)],
) -> Result<SocketAddr, CliError> {
    match &options.listen {
        Some(listen) => listen.resolve().map_err(CliError::usage),
        None => addresses
            .iter()
            .find(|(node, _)| *node == identity.node)
            .map(|(_, address)| *address)
            .ok_or_else(|| CliError::usage("the identity lists no address for this node")),
    }
}

fn describe(failure: &NodeFailure) -> CliError {
    let exit = match failure {
        NodeFailure::Open(LogError::Corrupt(_)) => Exit::Corrupt,
        NodeFailure::Disk(_) | NodeFailure::Ring(_) => Exit::Disk,
        NodeFailure::Open(_) | NodeFailure::Config(_) => Exit::Usage,
    };
    CliError::new(exit, failure)
}

/// What this process has used so far.
fn resources() -> ResourceStatus {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    ResourceStatus {
        process_id: std::process::id(),
        cpu_us: cpu.tv_sec as u64 * 1_000_000 + cpu.tv_nsec as u64 / 1_000,
        rss_bytes_max: peak_kib.unwrap_or(0) * 1024,
        ..ResourceStatus::default()
    }
}
