//! The log's own work per entry at several depths, over a disk that takes no time; and finding
//! the slot of a position.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::rc::Rc;

use criterion::{Criterion, Throughput};

use loggos::base::rng::Rng;
use loggos::base::{
    Ballot, Batch, BlockBuf, BlockPool, GroupId, Incarnation, Instant, LogId, NodeId, Placement,
    Position, Slot,
};
use loggos::io::{Disk, DiskEvent, FileId, FileOptions, Storage, Sync, Token, WritePart};
use loggos::log::{Entry, Log, LogEvent, LogOptions, PositionLookup, placement_bytes_max};
use loggos::uring::DirectStorage;

/// Entries that the lookups search.
const LOOKUP_ENTRIES: u64 = 100_000;
/// Records in each entry.
const RECORDS: u32 = 64;

/// Files by plain system calls; the operations of the running log complete at once, and what they
/// would write goes nowhere.
struct InstantDisk {
    storage: DirectStorage,
    done: VecDeque<DiskEvent>,
}

impl InstantDisk {
    fn complete(&mut self, token: Token, result: u32) {
        self.done.push_back(DiskEvent { token, result: Ok(result), buffer: None });
    }
}

impl Storage for InstantDisk {
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId> {
        self.storage.open(name, options)
    }
    fn close(&mut self, file: FileId) {
        self.storage.close(file);
    }
    fn len(&mut self, file: FileId) -> io::Result<u64> {
        self.storage.len(file)
    }
    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize> {
        self.storage.read_at(file, offset, buffer, length)
    }
    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()> {
        self.storage.write_at(file, offset, buffer, length)
    }
    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.storage.sync(file)
    }
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.storage.list(folder)
    }
    fn create_folder(&mut self, folder: &str) -> io::Result<()> {
        self.storage.create_folder(folder)
    }
    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        self.storage.sync_folder(folder)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }
}

impl Disk for InstantDisk {
    fn read(&mut self, token: Token, _: FileId, _: u64, buffer: BlockBuf, length: usize) {
        let result = Ok(length as u32);
        self.done.push_back(DiskEvent { token, result, buffer: Some(buffer) });
    }
    fn write(&mut self, token: Token, _: FileId, _: u64, parts: Vec<WritePart>, _: Sync) {
        let length: usize = parts.iter().map(|part| part.bytes().len()).sum();
        self.complete(token, length as u32);
    }
    fn allocate(&mut self, token: Token, _: FileId, _: u64) {
        self.complete(token, 0);
    }
    fn flush(&mut self, token: Token, _: FileId) {
        self.complete(token, 0);
    }
    fn open_async(&mut self, token: Token, name: &str, options: FileOptions) {
        let file = self.storage.open(name, options).expect("the folder takes files");
        self.complete(token, file.0);
    }
    fn rename_async(&mut self, token: Token, from: &str, to: &str) {
        self.storage.rename(from, to).expect("the file is there");
        self.complete(token, 0);
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    fn sync_folder_async(&mut self, token: Token, _: &str) {
        self.complete(token, 0);
    }
}

/// A log at work.
struct Appender {
    log: Log,
    disk: InstantDisk,
    pool: BlockPool,
    slot: Slot,
    next: Position,
    events: Vec<LogEvent>,
    _dir: tempfile::TempDir,
}

impl Appender {
    fn new(segment_bytes: u64) -> Appender {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
        let storage = DirectStorage::new(dir.path()).expect("the folder can be used");
        let mut disk = InstantDisk { storage, done: VecDeque::new() };
        let pool = BlockPool::new(32 << 20);
        let incarnation = Incarnation(7);
        let mut options = LogOptions::new(incarnation, NodeId(1), GroupId(0), pool.clone());
        options.segment_bytes = segment_bytes;
        Log::format(&mut disk, "group", &options, 0).expect("the log can be formatted");
        let (mut log, _) = Log::open(&mut disk, "group", options).expect("the log opens");
        log.replay(&mut disk, &mut |_, _, _| unreachable!("it is empty")).expect("it is empty");
        let (slot, next) = (Slot::NONE, Position(0));
        let mut it = Appender { log, disk, pool, slot, next, events: Vec::new(), _dir: dir };
        it.settle();
        it
    }

    /// Turns until the disk has nothing more to say.
    fn settle(&mut self) {
        let now = Instant(1);
        self.log.submit(now, &mut self.disk);
        while let Some(event) = self.disk.done.pop_front() {
            let events = &mut self.events;
            self.log.on_disk_event(now, &mut self.disk, event, events).expect("no disk fails");
            self.log.submit(now, &mut self.disk);
        }
    }

    /// Appends `depth` entries, waits for all of them, and applies them.
    fn append(&mut self, depth: u64, value: &[u8]) {
        let ballot = Ballot { round: 1, node: NodeId(1) };
        let first = self.slot.next();
        for _ in 0..depth {
            let chosen = self.slot;
            self.slot = self.slot.next();
            let batch = Batch::copy_of(&self.pool, value);
            let placement_bytes_max = placement_bytes_max(RECORDS as usize, 0);
            let entry =
                Entry { slot: self.slot, ballot, chosen, batch: &batch, placement_bytes_max };
            self.log.append(entry);
        }
        self.settle();
        assert!(matches!(self.events.pop(), Some(LogEvent::Durable(_))));
        self.events.clear();
        for slot in first.0..=self.slot.0 {
            let placement = Rc::new(Placement::simple(self.next, RECORDS));
            self.log.set_placement(Slot(slot), placement);
            self.next = self.next.plus(u64::from(RECORDS));
        }
    }
}

/// Append, place, stamp, submit, acknowledge, apply.
pub fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("log append 3 KiB");
    let value = vec![7; 3 << 10];
    for depth in [1, 16, 64] {
        let mut appender = Appender::new(64 << 20);
        group.throughput(Throughput::Elements(depth));
        group.bench_function(format!("depth {depth}"), |b| {
            b.iter(|| appender.append(depth, &value));
        });
    }
    group.finish();
}

/// From a position to its slot, with many entries in memory.
pub fn lookup(c: &mut Criterion) {
    let mut appender = Appender::new(1 << 30);
    (0..LOOKUP_ENTRIES / 64).for_each(|_| appender.append(64, &[7; 100]));
    let (log, tail) = (&appender.log, appender.next.0);
    let mut rng = Rng::new(1);
    c.bench_function("index/slot of a position", |b| {
        b.iter(|| {
            let found = log.slot_at(LogId(0), Position(rng.below(tail)));
            assert!(matches!(black_box(found), PositionLookup::Slot { .. }));
        });
    });
}
