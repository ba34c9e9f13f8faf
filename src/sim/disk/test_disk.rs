//! A disk with a clock of its own, for tests of what needs no more of the world than that.

use std::io;
use std::ops::{Deref, DerefMut};

use crate::base::rng::Rng;
use crate::base::{BlockBuf, Instant};
use crate::io::{Disk, DiskEvent, FileId, FileOptions, Storage, Sync, Token, WritePart};

use super::{DiskOptions, SimDisk};

/// A [`SimDisk`] and the time. Operations start when they are asked for, at the current time.
pub struct TestDisk {
    disk: SimDisk,
    now: Instant,
}

impl TestDisk {
    /// An empty disk at time 1.
    pub fn new(seed: u64, options: DiskOptions) -> TestDisk {
        TestDisk { disk: SimDisk::new(seed, options), now: Instant(1) }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Lets time pass. Completions in between are still to be taken.
    pub fn advance(&mut self, to: Instant) {
        self.now = self.now.max(to);
    }

    /// As [`SimDisk::kill`]; what was ordered and has not come to pass is taken back.
    pub fn kill(&mut self, rng: &mut Rng) {
        self.disk.kill(rng);
        self.disk.forget_ordered();
    }

    /// As [`SimDisk::power_loss`]; what was ordered and has not come to pass is taken back.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        self.disk.power_loss(rng);
        self.disk.forget_ordered();
    }

    /// The next completion; the clock goes there. `None` when nothing is in flight.
    pub fn pop_next(&mut self) -> Option<DiskEvent> {
        self.disk.submit(self.now);
        let at = self.disk.next_completion_at()?;
        self.advance(at);
        self.disk.pop_completed(self.now)
    }

    /// The next completion up to `limit`; when there is none by then the clock goes to `limit`.
    pub fn pop_until(&mut self, limit: Instant) -> Option<DiskEvent> {
        self.disk.submit(self.now);
        match self.disk.next_completion_at() {
            Some(at) if at <= limit => self.pop_next(),
            _ => {
                self.advance(limit);
                None
            }
        }
    }
}

impl Deref for TestDisk {
    type Target = SimDisk;
    fn deref(&self) -> &SimDisk {
        &self.disk
    }
}

impl DerefMut for TestDisk {
    fn deref_mut(&mut self) -> &mut SimDisk {
        &mut self.disk
    }
}

impl Storage for TestDisk {
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId> {
        self.disk.open(name, options)
    }
    fn close(&mut self, file: FileId) {
        self.disk.close(file);
    }
    fn len(&mut self, file: FileId) -> io::Result<u64> {
        self.disk.len(file)
    }
    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize> {
        self.disk.read_at(file, offset, buffer, length)
    }
    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()> {
        self.disk.write_at(file, offset, buffer, length)
    }
    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.disk.sync(file)
    }
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn create_folder(&mut self, folder: &str) -> io::Result<()> {
        self.disk.create_folder(folder)
    }
    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
}

impl Disk for TestDisk {
    fn read(&mut self, token: Token, file: FileId, offset: u64, buffer: BlockBuf, length: usize) {
        self.disk.read(token, file, offset, buffer, length);
        self.disk.submit(self.now);
    }
    fn write(
        &mut self,
        token: Token,
        file: FileId,
        offset: u64,
        parts: Vec<WritePart>,
        sync: Sync,
    ) {
        self.disk.write(token, file, offset, parts, sync);
        self.disk.submit(self.now);
    }
    fn allocate(&mut self, token: Token, file: FileId, length: u64) {
        self.disk.allocate(token, file, length);
        self.disk.submit(self.now);
    }
    fn flush(&mut self, token: Token, file: FileId) {
        self.disk.flush(token, file);
        self.disk.submit(self.now);
    }
    fn open_async(&mut self, token: Token, name: &str, options: FileOptions) {
        self.disk.open_async(token, name, options);
        self.disk.submit(self.now);
    }
    fn rename_async(&mut self, token: Token, from: &str, to: &str) {
        self.disk.rename_async(token, from, to);
        self.disk.submit(self.now);
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    fn sync_folder_async(&mut self, token: Token, folder: &str) {
        self.disk.sync_folder_async(token, folder);
        self.disk.submit(self.now);
    }
}
