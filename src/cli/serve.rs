//! `loggos serve`: a formatted data directory and its member address become a running node.
//!
//! Joins the ring, the node and the server, once for each group: the group's thread owns all three.
//! The main thread only waits for signals and for one of the threads to end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use super::error::{CliError, Exit};
use super::members::HostPort;
use super::options::{LogSync, ServeOptions};
use crate::base::limits::MIB;
use crate::base::{BlockPool, GroupId, NodeId};
use crate::io::{Clock, Net};
use crate::log::{DataDir, Identity as DiskIdentity, LogError, SCRUB_BYTES_PER_S};
use crate::node::{Identity, Node, NodeFailure, NodeOptions};
use crate::server::{Server, run as run_server};
use crate::uring::host::require_real_disk;
use crate::uring::{
    DirLock, DirectStorage, FILES_MAX, Seat, Uring, UringOptions, Waker, lock_data_dir, seats,
};
use crate::wire::status::ResourceStatus;

/// Returned buffers kept for reuse, in bytes, by all groups together.
const POOL_IDLE_BYTES_MAX: usize = 32 * MIB;

/// The least that each group keeps of its recent slots, in bytes.
const CACHE_BYTES_MIN: usize = 4 * MIB;

/// Files of a process that are not a connection's or a log's: rings, events, standard streams.
const FILES_BESIDES: u64 = 64;

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

    let group_count = identity.group_count;
    permit_files(group_count);
    let shared = Arc::new(Shared { options: options.clone(), lock, identity, addresses, listen });
    let (progress, reports) = mpsc::channel();
    let mut threads = Vec::new();
    for (group, seat) in (0..group_count).map(GroupId).zip(seats(group_count)) {
        let (shared, progress) = (shared.clone(), progress.clone());
        let thread = std::thread::Builder::new()
            .name(format!("loggos-group-{group}"))
            .spawn(move || run_group(&shared, group, seat, &progress))
            .map_err(|error| CliError::failed(format!("cannot start a thread: {error}")))?;
        threads.push(thread);
    }
    supervise(&progress, &reports, threads.len())?;
    // All have ended in good order.
    for thread in threads {
        if thread.join().is_err() {
            return Err(CliError::new(Exit::Failed, "a group's thread panicked: see above"));
        }
    }
    Ok(())
}

/// What the threads of all groups are started with.
struct Shared {
    options: ServeOptions,
    lock: DirLock,
    identity: DiskIdentity,
    addresses: Vec<(NodeId, SocketAddr)>,
    listen: SocketAddr,
}

/// What the main thread is told.
enum Progress {
    /// A group's thread serves.
    Running(Waker),
    /// A signal asks the process to stop.
    StopAsked,
    /// A group's thread has ended.
    Ended(Result<(), CliError>),
}

/// Waits for the threads of the groups, and hands them a signal to stop. Whatever ends one of them by
/// itself ends all: the process is one node, and a node is there as a whole or not at all.
fn supervise(
    progress: &mpsc::Sender<Progress>,
    reports: &mpsc::Receiver<Progress>,
    threads: usize,
) -> Result<(), CliError> {
    let mut wakers: Vec<Waker> = Vec::new();
    let (mut ended, mut stopping) = (0, false);
    while ended < threads {
        match reports.recv().expect("this function's caller holds a sender") {
            Progress::Running(waker) => {
                if wakers.is_empty() {
                    watch_signals(progress.clone())?;
                }
                if stopping {
                    waker.wake();
                }
                wakers.push(waker);
            }
            Progress::StopAsked => {
                stopping = true;
                wakers.iter().for_each(Waker::wake);
            }
            // The other threads end with the process, as if it had been killed: at once.
            Progress::Ended(Err(error)) => return Err(error),
            Progress::Ended(Ok(())) => ended += 1,
        }
    }
    Ok(())
}

fn watch_signals(progress: mpsc::Sender<Progress>) -> Result<(), CliError> {
    let cannot = |error| CliError::failed(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(cannot)?;
    std::thread::Builder::new()
        .name("loggos-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                info!(signal, "asked to stop");
                if progress.send(Progress::StopAsked).is_err() {
                    return; // the process is ending
                }
            }
        })
        .map_err(cannot)?;
    Ok(())
}

/// Files and connections that a node of so many groups may have open together.
fn files_needed(group_count: u16) -> u64 {
    let of_group = UringOptions::default().connections_max + FILES_MAX;
    u64::from(group_count) * of_group as u64 + FILES_BESIDES
}

/// Permits this process as many open files as the host allows it, and says so where that may be too
/// few. With too few, connections and the log's background work wait.
fn permit_files(group_count: u16) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let needed = files_needed(group_count);
    if let Some(permitted) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < needed) {
        warn!(
            permitted,
            needed,
            "fewer files may be open than the node may need: raise the hard limit (ulimit -Hn)"
        );
    }
}

/// The thread of a group, which tells how it goes.
fn run_group(shared: &Shared, group: GroupId, seat: Seat, progress: &mpsc::Sender<Progress>) {
    let serve = AssertUnwindSafe(|| serve_group(shared, group, seat, progress));
    let result = catch_unwind(serve).unwrap_or_else(|_| {
        let text = format!("the thread of group {group} panicked: see above");
        Err(CliError::new(Exit::Failed, text))
    });
    // Nobody listens any more only when the process is ending anyway.
    drop(progress.send(Progress::Ended(result)));
}

/// Opens the ring and the log of a group, then serves.
fn serve_group(
    shared: &Shared,
    group: GroupId,
    seat: Seat,
    progress: &mpsc::Sender<Progress>,
) -> Result<(), CliError> {
    let Shared { options, lock, identity, addresses, listen } = shared;
    pin(&options.pin, group);
    let uring = UringOptions { busy_poll_max: options.busy_poll, ..UringOptions::default() };
    let mut io = Uring::new(Some(&options.data), uring).map_err(CliError::usage)?;
    io.hold_lock(lock).map_err(CliError::usage)?;
    io.take_seat(seat);
    // One port: the first group's thread accepts, and hands over what is for the others.
    let listening = match group {
        GroupId(0) => start_listening(&mut io, *listen)?,
        _ => *listen,
    };
    let pool = BlockPool::new(POOL_IDLE_BYTES_MAX / usize::from(identity.group_count));
    let node_options = node_options(options, group, identity, addresses, pool.clone());
    let (cluster, id) = (node_options.identity.cluster_name.clone(), node_options.identity.node);
    let node = Node::open(&mut io, node_options).map_err(|failure| describe(&failure))?;
    let now = io.now();
    let mut server = Server::new(node, pool, now, resources);
    info!(%cluster, node = %id, %group, %listening, "serving");
    // The receiver lives until the process ends.
    drop(progress.send(Progress::Running(io.waker())));
    run_server(&mut io, &mut server).map_err(|failure| {
        error!(%group, %failure, "the node stops; what it had not answered is unknown to its clients");
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
    group: GroupId,
    disk: &DiskIdentity,
    addresses: &[(NodeId, SocketAddr)],
    pool: BlockPool,
) -> NodeOptions {
    let members = disk.members.iter().map(|member| (member.node, member.address.clone()));
    let identity = Identity {
        cluster_name: disk.cluster.clone(),
        cluster: disk.cluster_id,
        node: disk.node,
        members: members.collect(),
        group_count: disk.group_count,
    };
    let own_priority = priority(&identity, group);
    let seed = seed() ^ u64::from(group.0).rotate_left(56);
    let mut node = NodeOptions::new(identity, addresses.to_vec(), pool, seed).for_group(group);
    // What is kept for speed alone is shared out.
    node.cache_bytes_max =
        (node.cache_bytes_max / usize::from(disk.group_count)).max(CACHE_BYTES_MIN);
    node.paxos.election_timeout = options.election_timeout;
    node.paxos.heartbeat_interval = options.heartbeat_interval;
    node.paxos.clock_drift_ppm_max = options.clock_drift_ppm;
    node.paxos.priority = options.priority.unwrap_or(own_priority);
    node.log.segment_bytes = disk.segment_bytes;
    node.log.verify_at_start = options.verify_at_start;
    node.log.scrub_bytes_per_s = SCRUB_BYTES_PER_S / u64::from(disk.group_count);
    node.log.log_sync = match options.log_sync {
        LogSync::Dsync => crate::log::LogSync::Dsync,
        LogSync::WriteThenFsync => crate::log::LogSync::WriteThenFsync,
    };
    node
}

/// How much this node is wanted as the leader of `group` when nobody says so: of several groups each
/// has one member that is preferred, the next group the next one. So the leaders spread over the
/// nodes, and do so again after a node was away.
fn priority(identity: &Identity, group: GroupId) -> u8 {
    let preferred = identity.preferred_leader(group);
    u8::from(identity.group_count > 1 && preferred == Some(identity.node))
}

/// Election jitter only needs to differ between nodes and runs.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(40)
}

fn pin(cores: &[usize], group: GroupId) {
    let Some(core) = cores.iter().cycle().nth(usize::from(group.0) % cores.len().max(1)) else {
        return;
    };
    if !core_affinity::set_for_current(core_affinity::CoreId { id: *core }) {
        warn!(core, %group, "cannot pin the group's thread: it runs on any core");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_needed_for_every_group() {
        let one = files_needed(1);
        assert!(one > 1000 + FILES_MAX as u64);
        assert_eq!(files_needed(8), 8 * (one - FILES_BESIDES) + FILES_BESIDES);
    }
}
