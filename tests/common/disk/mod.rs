//! A disk of a test's own below a real node: a file system that the test serves itself, over
//! /dev/fuse, so that the power can be cut, and the disk be slow or hang.
//!
//! What was not flushed is in a volatile cache (`cache.rs` has the rules) and goes, sector by
//! sector, when the power does: `kill -9` is no power cut, since the kernel keeps what a dead
//! process has written. Needs root and /dev/fuse, and nothing that would have to be installed.
//!
//!     let mains = Mains::new();
//!     let disks = [1, 2, 3].map(|seed| Disk::new(&mains, seed));  // mounted at `disk.path()`
//!     disks[0].cut_at_change(7);        // in the middle of it the power of all goes
//!     disks[0].is_off_within(PATIENCE); // then the processes are killed
//!     disks[0].power_on();              // draws what survived
//!     disks[0].slow_down(100);
//!     disks[0].hang();
//!
//! Guarantee: a disk is unmounted when it is dropped, also when the test fails.

pub mod cache;
mod fuse;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use loggos::base::rng::Rng;
use rustix::io::Errno;

use cache::{Cache, Ino, Loss};
use fuse::{Ask, Request};

/// Threads of each disk: operations that it works on at the same time.
const THREADS: usize = 8;

/// What the operations of a healthy disk take: about as much as a fast one's with a volatile cache.
const READ_TIME: Duration = Duration::from_micros(50);
const WRITE_TIME: Duration = Duration::from_micros(100);
const FLUSH_TIME: Duration = Duration::from_millis(1);

/// Whether disks can be made here. Where not, says so past the capture of a test's output: the test
/// that asks has nothing to show then.
///
/// # Panics
/// Where not, with CI=true: there the tests that need them must run.
pub fn available() -> bool {
    let probe = || -> io::Result<()> {
        let dir = super::scratch_dir();
        let device = fuse::mount(dir.path())?;
        fuse::unmount(dir.path())?;
        drop(device);
        Ok(())
    };
    let Err(error) = probe() else { return true };
    let why = format!("no file system of the test's own can be mounted ({error})");
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "{why}");
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let text = format!("\nSKIPPED: {name}: {why}; it needs root and /dev/fuse\n");
    io::stderr().write_all(text.as_bytes()).expect("standard error can be written");
    false
}

/// What feeds several disks, so that they fail at one instant.
#[derive(Debug, Default)]
pub struct Mains {
    disks: Mutex<Vec<Weak<Shared>>>,
}

impl Mains {
    pub fn new() -> Arc<Mains> {
        Arc::default()
    }

    /// From one instant on every operation of every disk fails, also those that have begun.
    pub fn cut(&self) {
        let disks = self.disks.lock().expect("no holder panics");
        let disks: Vec<Arc<Shared>> = disks.iter().filter_map(Weak::upgrade).collect();
        // All of them held together: one instant.
        let mut states: Vec<_> = disks.iter().map(|disk| disk.lock()).collect();
        for state in &mut states {
            state.is_off = true;
        }
        drop(states);
        disks.iter().for_each(|disk| disk.changed.notify_all());
    }
}

/// A disk, mounted.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    mount_point: PathBuf,
    /// Holds the mount point and the backing files.
    _scratch: tempfile::TempDir,
}

#[derive(Debug)]
struct Shared {
    mains: Arc<Mains>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    cache: Cache,
    /// Draws what survives; nothing else, so that it follows from the seed.
    fate: Rng,
    /// Draws what operations take.
    rng: Rng,
    is_off: bool,
    is_hung: bool,
    /// Flushes are answered and not done.
    lies: bool,
    slowness: u32,
    /// Flushes that have begun, durable writes included.
    flushes: u64,
    /// Writes that have been taken and flushes that have begun; a durable write is one of both.
    changes: u64,
    /// The count of changes at which the power goes.
    cut_at: Option<u64>,
    /// What open folders hold, as it was when they were opened.
    listings: HashMap<u64, Vec<(String, Ino)>>,
    next_handle: u64,
}

impl Disk {
    /// A new disk, empty, whose draws follow from `seed`.
    pub fn new(mains: &Arc<Mains>, seed: u64) -> Disk {
        let scratch = super::scratch_dir();
        let [mount_point, backing] = ["mounted", "backing"].map(|name| scratch.path().join(name));
        for folder in [&mount_point, &backing] {
            std::fs::create_dir(folder).expect("the scratch folder can be written");
        }
        let device = fuse::mount(&mount_point).expect("asked `available` before");
        let state = State {
            cache: Cache::new(backing),
            fate: Rng::new(seed),
            rng: Rng::new(seed),
            is_off: false,
            is_hung: false,
            lies: false,
            slowness: 1,
            flushes: 0,
            changes: 0,
            cut_at: None,
            listings: HashMap::new(),
            next_handle: 0,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { mains: mains.clone(), state, changed });
        mains.disks.lock().expect("no holder panics").push(Arc::downgrade(&shared));
        let device = Arc::new(device);
        for _ in 0..THREADS {
            let (shared, device) = (shared.clone(), device.clone());
            // They end when it is unmounted, or with the process.
            std::thread::spawn(move || serve(&shared, &device));
        }
        Disk { shared, mount_point, _scratch: scratch }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power of all disks of these mains in the middle of the `count`th change of this one
    /// from now on, a write or a flush: what it brings or covers is in the cache, and not safe. A
    /// durable write is one change.
    pub fn cut_at_change(&self, count: u64) {
        let mut state = self.shared.lock();
        state.cut_at = Some(state.changes + count);
    }

    /// Whether the power has gone, waiting for it at most so long.
    pub fn is_off_within(&self, time: Duration) -> bool {
        let state = self.shared.lock();
        let changed = self.shared.changed.wait_timeout_while(state, time, |state| !state.is_off);
        changed.expect("no holder panics").0.is_off
    }

    /// The power is back: draws what survived of what was not flushed, and serves that.
    ///
    /// # Panics
    /// When the power was not cut.
    pub fn power_on(&self) -> Loss {
        let mut state = self.shared.lock();
        assert!(state.is_off, "the power was cut");
        let State { cache, fate, .. } = &mut *state;
        let loss = cache.cut(fate).expect("the backing files can be written");
        state.is_off = false;
        state.cut_at = None;
        loss
    }

    /// From now on each operation takes `factor` times what it takes a healthy disk.
    pub fn slow_down(&self, factor: u32) {
        self.shared.lock().slowness = factor;
    }

    /// From now on no operation ends, until [`Disk::go_on`] or a power cut.
    pub fn hang(&self) {
        self.shared.lock().is_hung = true;
    }

    pub fn go_on(&self) {
        self.shared.lock().is_hung = false;
        self.shared.changed.notify_all();
    }

    /// From now on flushes are answered and not done, as broken devices do it; and as it looks to
    /// the disk of a node that leaves them out.
    pub fn lie(&self) {
        self.shared.lock().lies = true;
    }

    /// Flushes that have begun so far, durable writes included.
    pub fn flushes(&self) -> u64 {
        self.shared.lock().flushes
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still waits must not hang: it would hold the mount.
        self.shared.lock().is_off = true;
        self.shared.changed.notify_all();
        if let Err(error) = fuse::unmount(&self.mount_point) {
            eprintln!("{} stays mounted: {error}", self.mount_point.display());
        }
    }
}

type Answer = Result<Vec<u8>, Errno>;

fn serve(shared: &Shared, device: &File) {
    let mut buffer = fuse::request_buffer();
    while let Some(length) = fuse::receive(device, &mut buffer).expect("the device can be read") {
        let request = fuse::parse(&buffer[..length]);
        let id = request.id;
        if matches!(request.ask, Ask::Notice) {
            continue;
        }
        let result = shared.handle(request);
        fuse::answer(device, id, &result).expect("the device takes answers");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Lets `time` pass as it does on this disk now; fails at once when the power goes.
    fn take<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        time: Duration,
    ) -> Result<MutexGuard<'a, State>, Errno> {
        let time = state.rng.between(time / 2, time * 3 / 2) * state.slowness;
        let until = Instant::now() + time;
        loop {
            if state.is_off {
                return Err(Errno::IO);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && !state.is_hung {
                return Ok(state);
            }
            let wait = if state.is_hung { Duration::MAX } else { left };
            state = self.changed.wait_timeout(state, wait).expect("no holder panics").0;
        }
    }

    fn handle(&self, request: Request<'_>) -> Answer {
        let Request { ino, ask, .. } = request;
        let state = self.lock();
        if state.is_off {
            return match ask {
                Ask::Close => close(state, ino),
                Ask::CloseFolder { handle } => close_folder(state, handle),
                Ask::Init { minor, flags } => Ok(fuse::init_answer(minor, flags)),
                _ => Err(Errno::IO),
            };
        }
        match ask {
            Ask::Read { offset, length } => {
                self.take(state, READ_TIME)?.cache.read(ino, offset, length)
            }
            Ask::Write { offset, bytes, durable } => self.write(state, ino, offset, bytes, durable),
            Ask::Flush => {
                let up_to = state.cache.now();
                let mut state = self.flush(state)?;
                if !state.lies {
                    state.cache.flush(ino, up_to)?;
                }
                Ok(Vec::new())
            }
            Ask::Close => close(state, ino),
            Ask::CloseFolder { handle } => close_folder(state, handle),
            ask => name_operation(state, ino, ask),
        }
    }

    fn write(
        &self,
        state: MutexGuard<'_, State>,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        durable: bool,
    ) -> Answer {
        let mut state = self.take(state, WRITE_TIME)?;
        state.cache.write(ino, offset, bytes)?;
        if durable {
            let up_to = state.cache.now();
            let mut state = self.flush(state)?;
            if !state.lies {
                state.cache.flush_part(ino, up_to, offset, bytes.len() as u64)?;
            }
        } else {
            drop(self.change(state)?);
        }
        Ok(fuse::write_answer(bytes.len()))
    }

    /// A flush begins and takes its time, or the power goes meanwhile.
    fn flush<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, Errno> {
        state.flushes += 1;
        let state = self.change(state)?;
        self.take(state, FLUSH_TIME)
    }

    /// Counts a change, at which the power may go.
    fn change<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, Errno> {
        state.changes += 1;
        if state.cut_at == Some(state.changes) {
            drop(state);
            self.mains.cut();
            return Err(Errno::IO);
        }
        Ok(state)
    }
}

fn close(mut state: MutexGuard<'_, State>, ino: Ino) -> Answer {
    state.cache.close(ino)?;
    Ok(Vec::new())
}

fn close_folder(mut state: MutexGuard<'_, State>, handle: u64) -> Answer {
    state.listings.remove(&handle);
    Ok(Vec::new())
}

/// What takes no time: it is done in the cache.
fn name_operation(mut state: MutexGuard<'_, State>, ino: Ino, ask: Ask<'_>) -> Answer {
    let state = &mut *state;
    let cache = &mut state.cache;
    let entry = |cache: &Cache, ino| Ok(fuse::entry_answer(cache.attributes(ino)?));
    match ask {
        Ask::Init { minor, flags } => Ok(fuse::init_answer(minor, flags)),
        Ask::LookUp { name } => {
            let found = cache.look_up(ino, name)?;
            entry(cache, found)
        }
        Ask::Attributes => Ok(fuse::attributes_answer(cache.attributes(ino)?)),
        Ask::SetAttributes { length } => {
            if let Some(length) = length {
                cache.resize(ino, length)?;
            }
            Ok(fuse::attributes_answer(cache.attributes(ino)?))
        }
        Ask::MakeFolder { name } => {
            let made = cache.make_folder(ino, name)?;
            entry(cache, made)
        }
        Ask::Remove { name } => cache.remove(ino, name).map(|()| Vec::new()),
        // The data directory has no reason to, and two folders would have to be changed at once.
        Ask::Rename { folder, .. } if folder != ino => Err(Errno::XDEV),
        Ask::Rename { from, to, .. } => cache.rename(ino, from, to).map(|()| Vec::new()),
        Ask::Create { name } => {
            let made = cache.create(ino, name)?;
            cache.open(made)?;
            Ok(fuse::create_answer(cache.attributes(made)?))
        }
        Ask::Open { cut_off } => {
            if cut_off {
                cache.resize(ino, 0)?;
            }
            cache.open(ino)?;
            Ok(fuse::open_answer(ino))
        }
        // Holes are zeros, so that room is there as soon as the length is.
        Ask::Allocate { offset, length, mode: 0 } => {
            let length = (offset + length).max(cache.attributes(ino)?.length);
            cache.resize(ino, length).map(|()| Vec::new())
        }
        Ask::Allocate { .. } => Err(Errno::OPNOTSUPP),
        Ask::OpenFolder => {
            let handle = state.next_handle;
            state.next_handle += 1;
            state.listings.insert(handle, cache.list(ino)?);
            Ok(fuse::open_folder_answer(handle))
        }
        Ask::ReadFolder { handle, offset, length } => {
            let listing = state.listings.get(&handle).ok_or(Errno::BADF)?;
            Ok(fuse::folder_answer(listing, offset, length))
        }
        Ask::Space => Ok(fuse::space_answer()),
        Ask::Nothing => Ok(Vec::new()),
        _ => Err(Errno::NOSYS),
    }
}
