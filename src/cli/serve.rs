//! `loggos serve`: a formatted data directory and its member address become a running node.
//!
//! Joins the ring, the node and the server, once for each group: the group's thread owns all three.
//! The main thread only waits for signals and for one of the threads to end.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use super::error::{CliError, Exit};
use super::listen;
use super::options::{LogSync, ServeOptions, fill_ahead_bytes_default};
use crate::base::limits::MIB;
use crate::base::{BlockPool, ClusterDigest, ClusterId, Founding, GroupId};
use crate::io::Clock;
use crate::log::{DataDir, Identity as DiskIdentity, IdentityError, LogError, SCRUB_BYTES_PER_S};
use crate::node::{Identity, Node, NodeFailure, NodeOptions};
use crate::server::{CONNECTIONS_MAX, Room, Server, run as run_server};
use crate::uring::host::require_real_disk;
use crate::uring::{
    DirLock, DirectStorage, FILES_MAX, Leftover, Resolver, Seat, Uring, UringOptions, Waker,
    lock_data_dir, random_u128, seats,
};
use crate::wire::status::ResourceStatus;

/// Returned buffers kept for reuse, in bytes, by all groups together.
const POOL_IDLE_BYTES_MAX: usize = 32 * MIB;

/// The least that each group keeps of its recent slots, in bytes.
const CACHE_BYTES_MIN: usize = 4 * MIB;

/// Files of a process that are not a connection's or a log's: rings, events, standard streams.
const FILES_BESIDES: u64 = 64;

/// Files that a group's log cannot do without: the promise file, a few segments, a checkpoint.
const FILES_OF_LOG_LEAST: usize = 16;

/// How long a node that was asked to stop waits for what it has in flight: far longer than a disk takes
/// for its writes that is slow and does not hang.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Runs the node until a signal asks it to stop.
pub fn run(options: &ServeOptions) -> Result<(), CliError> {
    ignore_hangups()?;
    let data = options.data.display();
    if !options.data.is_dir() {
        return Err(CliError::usage(format!(
            "{data} is not a directory: make it with `loggos format --data {data} …`"
        )));
    }
    let filesystem = require_real_disk(&options.data).map_err(CliError::usage)?;
    if let Some(warning) = filesystem.warning() {
        warn!(%data, "{warning}");
    }
    let mut storage = DirectStorage::new(&options.data)
        .map_err(|error| CliError::usage(format!("{data} cannot be used: {error}")))?;
    let identity = DataDir::load(&mut storage)
        .map_err(|error| CliError::new(identity_exit(&error), format!("{data}: {error}")))?;
    let lock = lock_data_dir(&options.data).map_err(CliError::usage)?;
    let listen = listen::Place::of(options.listen.as_ref(), &identity)?;

    let group_count = identity.group_count;
    let fill_ahead_bytes_default = fill_ahead_bytes_default(filesystem.free_bytes, 1);
    let fill_ahead_bytes = options.fill_ahead_bytes.unwrap_or(fill_ahead_bytes_default);
    let options = options.clone();
    let connections_max = permit_connections(usize::from(group_count), identity.members.len())?;
    let shared = Arc::new(Shared {
        options,
        fill_ahead_bytes,
        lock,
        identity,
        listen,
        resolver: Resolver::default(),
        connections_max,
        fresh_cluster: ClusterId(random_u128().map_err(CliError::failed)?),
        founded: Founded::default(),
    });
    let (progress, reports) = mpsc::channel();
    let seats = seats(group_count, connections_max);
    for (group, seat) in (0..group_count).map(GroupId).zip(seats) {
        let (shared, progress) = (shared.clone(), progress.clone());
        std::thread::Builder::new()
            .name(format!("loggos-group-{group}"))
            .spawn(move || run_group(&shared, group, seat, &progress))
            .map_err(|error| CliError::failed(format!("cannot start a thread: {error}")))?;
    }
    let watch = || watch_signals(progress.clone());
    supervise(&reports, usize::from(group_count), STOP_MAX, watch)
}

/// Permits this process the files that `groups` groups of `members` members can use, as far as the
/// host does. Returns how many connections each may hold, so that they leave their logs the files that
/// those need: a log that cannot open its next segment appends nothing more.
///
/// # Errors
/// Exit 2 when that is too few to serve at all.
fn permit_connections(groups: usize, members: usize) -> Result<usize, CliError> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = files_wanted(groups);
    let mut files = limit.current.unwrap_or(u64::MAX);
    if files < wanted {
        let raised = wanted.min(limit.maximum.unwrap_or(u64::MAX));
        match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }) {
            Ok(()) => files = raised,
            Err(error) => warn!(%error, "the limit of open files stays as it is"),
        }
    }
    let least = files_least(groups, members);
    if files < least {
        return Err(CliError::usage(format!(
            "{files} files may be open at most (ulimit -n), and this node needs {least} at the least: \
             raise the hard limit (ulimit -Hn, or LimitNOFILE= of the service)"
        )));
    }
    let connections_max = connections_within(files.saturating_sub(FILES_BESIDES), groups);
    if connections_max < CONNECTIONS_MAX {
        let Room { clients_max, .. } = Room::within(connections_max, members);
        warn!(
            files,
            wanted,
            clients_max,
            "few files may be open, so each group takes few clients: raise the hard limit (ulimit -Hn)"
        );
    }
    Ok(connections_max)
}

/// The fewest open files with which a node of `groups` groups and so many members serves a client:
/// each group needs two connections to each peer, one to a client, and its log's files.
fn files_least(groups: usize, members: usize) -> u64 {
    let connections = 2 * members;
    ((connections + FILES_OF_LOG_LEAST.max(connections)) * groups) as u64 + FILES_BESIDES
}

/// The open files that a node with so many groups can use.
pub(super) fn files_wanted(groups: usize) -> u64 {
    ((CONNECTIONS_MAX + FILES_MAX) * groups) as u64 + FILES_BESIDES
}

/// Of so many files for `groups` groups: the connections of each. Its log gets what it can use, or
/// half of the group's share.
fn connections_within(files: u64, groups: usize) -> usize {
    let share = usize::try_from(files).unwrap_or(usize::MAX) / groups;
    (share - FILES_MAX.min(share / 2)).min(CONNECTIONS_MAX)
}

/// What the threads of all groups are started with.
struct Shared {
    options: ServeOptions,
    /// Of all groups together.
    fill_ahead_bytes: u64,
    lock: DirLock,
    identity: DiskIdentity,
    listen: listen::Place,
    resolver: Resolver,
    /// Of each group.
    connections_max: usize,
    /// Drawn for the cluster that this node may found.
    fresh_cluster: ClusterId,
    founded: Founded,
}

/// What group 0 learns of the founding, for the groups that wait for it.
#[derive(Default)]
struct Founded {
    founding: Mutex<Option<Founding>>,
    known: Condvar,
}

impl Founded {
    fn set(&self, founding: &Founding) {
        *self.founding.lock().unwrap_or_else(PoisonError::into_inner) = Some(founding.clone());
        self.known.notify_all();
    }

    fn wait(&self) -> Founding {
        let mut founding = self.founding.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*founding {
                Some(known) => return known.clone(),
                None => {
                    founding = self.known.wait(founding).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// What the main thread is told.
enum Progress {
    /// A group's thread serves.
    Running(Running),
    /// A signal asks the process to stop.
    StopAsked,
    /// A group's thread has ended.
    Ended(GroupId, Result<(), CliError>),
}

/// A group that serves.
struct Running {
    group: GroupId,
    waker: Waker,
    /// What its thread waits for once it has left its loop.
    leftover: Leftover,
}

/// Waits for the threads of the groups, and hands them a signal to stop. Whatever ends one of them by
/// itself ends all: the process is one node, and a node is there as a whole or not at all.
///
/// A thread that still opens its log when the signal comes is not waited for: it may read for
/// minutes, or hang on its disk, and ends with the process. That is as good as a kill at that moment,
/// which opening must stand anyway, and which a signal is that comes before any group serves.
///
/// Nor is one waited for, longer than `stop_max`, that does not end: a write may hang in the kernel for
/// as long as its disk does. What had been acknowledged is durable, so that is as good as a kill, too.
fn supervise(
    reports: &mpsc::Receiver<Progress>,
    threads: usize,
    stop_max: Duration,
    watch_signals: impl FnOnce() -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut watch_signals = Some(watch_signals);
    // Those that serve, or have not ended since.
    let mut running: Vec<Running> = Vec::new();
    let (mut ended, mut stop_at) = (0, None);
    loop {
        let Some(report) = next_report(reports, stop_at) else { return Err(hung(&running)) };
        match report {
            Progress::Running(group) => {
                if let Some(watch) = watch_signals.take() {
                    watch()?;
                }
                if stop_at.is_some() {
                    group.waker.wake();
                }
                running.push(group);
            }
            Progress::StopAsked => {
                stop_at.get_or_insert_with(|| Instant::now() + stop_max);
                running.iter().for_each(|group| group.waker.wake());
            }
            // The other threads end with the process, as if it had been killed: at once.
            Progress::Ended(_, Err(error)) => return Err(error),
            Progress::Ended(group, Ok(())) => {
                running.retain(|other| other.group != group);
                ended += 1;
            }
        }
        let opening = threads - ended - running.len();
        if ended == threads || (stop_at.is_some() && running.is_empty()) {
            if opening > 0 {
                info!(opening, "some groups still open their logs: they end with the process");
            }
            return Ok(());
        }
    }
}

/// The next report; `None` when there was none until then.
fn next_report(reports: &mpsc::Receiver<Progress>, until: Option<Instant>) -> Option<Progress> {
    let report = match until {
        None => reports.recv().map_err(RecvTimeoutError::from),
        Some(until) => reports.recv_timeout(until.saturating_duration_since(Instant::now())),
    };
    match report {
        Ok(report) => Some(report),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => panic!("the caller holds a sender"),
    }
}

/// The groups that did not end when they were asked to, and why.
fn hung(running: &[Running]) -> CliError {
    let tell = |Running { group, leftover, .. }: &Running| match leftover.in_flight() {
        Some(in_flight) => format!("group {group}: {in_flight}"),
        None => format!("group {group}: its thread does not answer"),
    };
    let left: Vec<String> = running.iter().map(tell).collect();
    let text = format!(
        "asked to stop, ended without what hangs in the kernel ({}): what was acknowledged is \
         durable; look at the disk",
        left.join("; ")
    );
    CliError::new(Exit::Hung, text)
}

/// A node outlives the terminal that it was started from, also while it starts.
fn ignore_hangups() -> Result<(), CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, flag)
        .map(drop)
        .map_err(|error| CliError::failed(format!("cannot ignore SIGHUP: {error}")))
}

fn watch_signals(progress: mpsc::Sender<Progress>) -> Result<(), CliError> {
    let cannot = |error| CliError::failed(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(cannot)?;
    std::thread::Builder::new()
        .name("loggos-signals".to_owned())
        .spawn(move || {
            let mut is_hangup_told = false;
            for signal in signals.forever() {
                if signal == SIGHUP {
                    if !std::mem::replace(&mut is_hangup_told, true) {
                        info!("SIGHUP is ignored: SIGTERM stops the node");
                    }
                    continue;
                }
                info!(signal, "asked to stop");
                if progress.send(Progress::StopAsked).is_err() {
                    return; // the process is ending
                }
            }
        })
        .map_err(cannot)?;
    Ok(())
}

/// The thread of a group, which tells how it goes.
fn run_group(shared: &Arc<Shared>, group: GroupId, seat: Seat, progress: &mpsc::Sender<Progress>) {
    #[cfg(feature = "mutants")]
    crate::base::mutants::plant(shared.options.mutant);
    let serve = AssertUnwindSafe(|| serve_group(shared, group, seat, progress));
    let result = catch_unwind(serve).unwrap_or_else(|_| {
        let text = format!("the thread of group {group} panicked: see above");
        Err(CliError::new(Exit::Failed, text))
    });
    // Nobody listens any more only when the process is ending anyway.
    drop(progress.send(Progress::Ended(group, result)));
}

/// Opens the ring and the log of a group, then serves.
fn serve_group(
    shared: &Arc<Shared>,
    group: GroupId,
    seat: Seat,
    progress: &mpsc::Sender<Progress>,
) -> Result<(), CliError> {
    let Shared { options, lock, connections_max, resolver, .. } = &**shared;
    pin(&options.pin, group);
    let uring = UringOptions {
        busy_poll_max: options.busy_poll,
        connections_max: *connections_max,
        resolver: resolver.clone(),
        ..UringOptions::default()
    };
    let mut io = Uring::new(Some(&options.data), uring).map_err(CliError::usage)?;
    io.hold_lock(lock).map_err(CliError::usage)?;
    io.take_seat(seat);
    let result = serve_on(&mut io, shared, group, progress).map_err(|error| {
        let data = options.data.display();
        CliError::new(error.exit, format!("{data}, group {group}: {error}"))
    });
    if let Err(error) = &result {
        // Told before the ring is dropped, which waits for what is in flight: a disk that hangs would
        // keep the node half alive meanwhile, the other groups serving and this one's peers and
        // clients held by connections that nobody answers.
        drop(progress.send(Progress::Ended(group, Err(error.clone()))));
    }
    result
}

/// Opens the log of a group on the thread's ring, then serves.
fn serve_on(
    io: &mut Uring,
    shared: &Arc<Shared>,
    group: GroupId,
    progress: &mpsc::Sender<Progress>,
) -> Result<(), CliError> {
    let Shared { options, identity, listen, connections_max, .. } = &**shared;
    let pool = BlockPool::new(POOL_IDLE_BYTES_MAX / usize::from(identity.group_count));
    let mut node_options = node_options(options, group, identity, pool.clone());
    node_options.log.fill_ahead_bytes = shared.fill_ahead_bytes / u64::from(identity.group_count);
    node_options.log.fill_ahead_pause *= identity.group_count.into();
    node_options.fresh_cluster = shared.fresh_cluster;
    if group != GroupId(0) && identity.founding.is_none() {
        // Until then nobody is let in to this group, and its log is blank. A stop does not wait for
        // a thread that has not opened its log.
        node_options.identity.founding = Some(shared.founded.wait());
    }
    let (cluster, id) = (node_options.identity.cluster_name.clone(), node_options.identity.node);
    let node = Node::open(io, node_options).map_err(|failure| describe(&failure))?;
    // One port: the first group's thread accepts, and hands over what is for the others. It listens
    // once its log is open: until then whoever connects is refused at once, and asks another node,
    // where a connection that the kernel took would lie unanswered.
    let listening = match group {
        GroupId(0) => listen.start(io)?.to_string(),
        _ => listen.to_string(),
    };
    let now = io.now();
    let mut server = Server::new(node, pool, now, resources);
    if group == GroupId(0) {
        let shared = shared.clone();
        server.when_founded(move |founding| shared.founded.set(founding));
    }
    server.limit_connections(Room::within(*connections_max, identity.members.len()));
    info!(%cluster, node = %id, %group, %listening, "serving");
    // The receiver lives until the process ends.
    let running = Running { group, waker: io.waker(), leftover: io.leftover() };
    drop(progress.send(Progress::Running(running)));
    run_server(io, &mut server).map_err(|failure| {
        error!(%group, %failure, "the node stops; what it had not answered is unknown to its clients");
        describe(&failure)
    })
}

fn node_options(
    options: &ServeOptions,
    group: GroupId,
    disk: &DiskIdentity,
    pool: BlockPool,
) -> NodeOptions {
    let members = disk.members.iter().map(|member| (member.node, member.address.clone()));
    let identity = Identity {
        cluster: ClusterDigest::of_name(&disk.cluster),
        cluster_name: disk.cluster.clone(),
        incarnation: disk.incarnation,
        founding: disk.founding.clone(),
        pending: None,
        is_used: false,
        node: disk.node,
        members: members.collect(),
        group_count: disk.group_count,
    };
    let own_priority = priority(&identity, group);
    let seed = seed() ^ u64::from(group.0).rotate_left(56);
    let mut node = NodeOptions::new(identity, pool, seed).for_group(group);
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

fn describe(failure: &NodeFailure) -> CliError {
    let exit = match failure {
        NodeFailure::Founding(IdentityError::FoundingDamaged(_)) => Exit::Corrupt,
        NodeFailure::Founding(_) => Exit::Disk,
        NodeFailure::NewerVersion { .. } => Exit::NewerVersion,
        NodeFailure::Open(error) => open_exit(error),
        NodeFailure::Diverged { .. } => Exit::Diverged,
        NodeFailure::Disk(_) | NodeFailure::Ring(_) => Exit::Disk,
        NodeFailure::Config(_) => Exit::Usage,
    };
    CliError::new(exit, failure)
}

/// The exit code of a data directory whose identity cannot be used.
fn identity_exit(error: &IdentityError) -> Exit {
    match error {
        IdentityError::Damaged(_) => Exit::Corrupt,
        IdentityError::Io { source, .. } => io_exit(source),
        IdentityError::Log(error) => open_exit(error),
        _ => Exit::Usage,
    }
}

/// The exit code of a log that cannot be opened. The identity is written last, so whatever is missing
/// beside one had been there.
fn open_exit(error: &LogError) -> Exit {
    match error {
        LogError::Corrupt(_) | LogError::Unformatted(_) => Exit::Corrupt,
        LogError::NewerVersion { .. } => Exit::NewerVersion,
        LogError::Io { source, .. } => io_exit(source),
        _ => Exit::Usage,
    }
}

fn io_exit(error: &std::io::Error) -> Exit {
    match error.kind() {
        ErrorKind::NotFound => Exit::Corrupt,
        // The caller may not use the directory, or the process not open a file.
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => Exit::Usage,
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Exit::Usage,
        _ => Exit::Disk,
    }
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
        log_lines_dropped: super::stderr::lines_dropped(),
        ..ResourceStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_at_start_has_its_exit_code() {
        let io = |kind: ErrorKind| LogError::Io { what: "opening".to_owned(), source: kind.into() };
        assert_eq!(open_exit(&LogError::Unformatted("group-0000".to_owned())), Exit::Corrupt);
        assert_eq!(open_exit(&io(ErrorKind::NotFound)), Exit::Corrupt);
        assert_eq!(open_exit(&io(ErrorKind::PermissionDenied)), Exit::Usage);
        assert_eq!(open_exit(&io(ErrorKind::StorageFull)), Exit::Disk);
        assert_eq!(identity_exit(&IdentityError::Damaged("a bit".to_owned())), Exit::Corrupt);
        assert_eq!(identity_exit(&IdentityError::Unformatted), Exit::Usage);
        assert_eq!(identity_exit(&IdentityError::OtherVersion { found: 1 }), Exit::Usage);
    }

    #[test]
    fn connections_leave_the_logs_their_files() {
        assert_eq!(connections_within(u64::MAX, 1), CONNECTIONS_MAX);
        let enough = (CONNECTIONS_MAX + FILES_MAX) as u64;
        for groups in [1, 3, 64] {
            let files = enough * groups as u64;
            assert_eq!(connections_within(files, groups), CONNECTIONS_MAX);
            assert_eq!(connections_within(files - 1, groups), CONNECTIONS_MAX - 1);
            assert_eq!(connections_within(200 * groups as u64, groups), 100);
        }
    }

    /// What [`supervise`] makes of these reports of two threads. It must come to an end with them: the
    /// sender is gone behind the last one.
    fn supervised(reports: Vec<Progress>) -> (Result<(), CliError>, u32) {
        let (progress, receiver) = mpsc::channel();
        reports.into_iter().for_each(|report| progress.send(report).expect("there is a receiver"));
        drop(progress);
        let mut watched = 0;
        let result = supervise(&receiver, 2, STOP_MAX, || {
            watched += 1;
            Ok(())
        });
        (result, watched)
    }

    fn ring() -> Uring {
        Uring::new(None, UringOptions::default()).expect("io_uring works here")
    }

    fn running(io: &Uring, group: u16) -> Progress {
        let (waker, leftover) = (io.waker(), io.leftover());
        Progress::Running(Running { group: GroupId(group), waker, leftover })
    }

    fn ended(group: u16) -> Progress {
        Progress::Ended(GroupId(group), Ok(()))
    }

    #[test]
    fn a_signal_waits_for_the_groups_that_serve_and_not_for_those_that_open() {
        let io = ring();
        let running = |group| running(&io, group);
        // One opens for good.
        let (result, watched) = supervised(vec![running(0), Progress::StopAsked, ended(0)]);
        assert_eq!((result, watched), (Ok(()), 1));
        // It serves while the other one stops: it is stopped, too, and waited for.
        let late = vec![running(1), Progress::StopAsked, running(0), ended(1), ended(0)];
        assert_eq!(supervised(late), (Ok(()), 1));
        // A failure ends all at once, and says why; the second word on it is not heard.
        let error = || CliError::new(Exit::Disk, "no space");
        let failed = || Progress::Ended(GroupId(1), Err(error()));
        let (result, _) = supervised(vec![running(0), running(1), failed(), failed()]);
        assert_eq!(result, Err(error()));
    }

    #[test]
    #[should_panic(expected = "the caller holds a sender")]
    fn a_group_that_serves_is_waited_for() {
        let io = ring();
        let (first, second) = (running(&io, 0), running(&io, 1));
        drop(supervised(vec![first, second, Progress::StopAsked, ended(0)]));
    }

    #[test]
    fn a_group_that_does_not_end_is_not_waited_for_longer_than_is_said() {
        let (io, leaving) = (ring(), ring());
        let (progress, receiver) = mpsc::channel();
        let reports = [running(&io, 0), running(&io, 1), running(&leaving, 2)];
        leaving.leftover().set(Some("2 x write".to_owned()));
        for report in reports.into_iter().chain([Progress::StopAsked, ended(1)]) {
            progress.send(report).expect("there is a receiver");
        }
        // The sender stays: without a bound this would wait for ever.
        let result = supervise(&receiver, 3, Duration::from_millis(20), || Ok(()));
        let error = result.expect_err("two groups have not ended");
        assert_eq!(error.exit, Exit::Hung);
        assert!(error.message.contains("group 0: its thread does not answer"), "{error}");
        assert!(error.message.contains("group 2: 2 x write"), "{error}");
        assert!(!error.message.contains("group 1"), "{error}");
        drop(progress);
    }
}
