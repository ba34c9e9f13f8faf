//! Real processes whose power is cut, all at once and again and again, each over a disk of its own
//! that drops, tears and reorders what was not flushed (`common/disk`): the cluster always comes
//! back without help, with whoever a quorum is, and nothing acknowledged is lost, moved or doubled.
//!
//! An ordinary run is a sample, whose draws follow from the commit. The whole:
//!
//!     LOGGOS_POWER_CUTS=200 cargo test --test power_cuts -- --nocapture
//!
//! `LOGGOS_POWER_SEED` draws it anew, or again. What the disk itself does is shown in
//! `test_disk.rs`.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::disk::cache::{Loss, SECTOR};
use common::disk::{Disk, Mains, available};
use common::{Cluster, PATIENCE, wait_for};
use loggos::base::Position;
use loggos::base::rng::Rng;
use loggos::client::blocking::Client;
use loggos::client::{ClientOptions, ReadLevel, ReadOptions};

/// Power cuts of an ordinary run.
const SAMPLE: u64 = 15;
const NODES: usize = 3;
/// A block of the log, in bytes.
const BLOCK: usize = 4096;
/// What an entry of the log begins with, at the start of a block.
const ENTRY_MAGIC: &[u8] = b"LgE1";
const WRITERS: u64 = 4;
/// Appends that must be acknowledged after a cut: then the cluster is back.
const PROGRESS: usize = 20;
/// Between two looks at the whole log; at other times its newest part is read.
const CUTS_PER_WHOLE_LOOK: u64 = 25;

/// How long the first nodes get to go on without the last one, where one of them is damaged.
const WITHOUT_THE_LATE: Duration = Duration::from_millis(1500);

/// How many cuts, and the seed.
fn extent(salt: u64) -> (u64, u64) {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
    };
    let cuts = number("LOGGOS_POWER_CUTS").unwrap_or(SAMPLE);
    let seed = number("LOGGOS_POWER_SEED").unwrap_or_else(|| seed_of_commit() ^ salt);
    println!("{cuts} power cuts, LOGGOS_POWER_SEED={seed}");
    (cuts, seed)
}

/// Another one for each commit; outside a repository always the same.
fn seed_of_commit() -> u64 {
    let git = std::process::Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = git.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let digits = text.unwrap_or_default();
    u64::from_str_radix(digits.get(..8).unwrap_or("1"), 16).expect("a commit is hexadecimal")
}

/// A writer and its number of the append.
type Name = (u64, u64);

/// The record of a name: known, and of all sizes up to several blocks of the log.
fn record((writer, number): Name) -> Vec<u8> {
    let mut rng = Rng::new(writer << 32 | number);
    let most = [100, 100, 4_000, 20_000][rng.below(4) as usize];
    let mut bytes = format!("w{writer}-{number}.").into_bytes();
    let size = bytes.len() as u64 + rng.below(most);
    while (bytes.len() as u64) < size {
        bytes.extend(rng.next_u64().to_le_bytes());
    }
    bytes
}

fn name_of(record: &[u8]) -> Option<Name> {
    let end = record.iter().position(|byte| *byte == b'.')?;
    let text = std::str::from_utf8(&record[..end]).ok()?;
    let (writer, number) = text.strip_prefix('w')?.split_once('-')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// What writers know, by position.
#[derive(Debug, Default)]
struct Ledger {
    acknowledged: Mutex<BTreeMap<u64, Name>>,
    /// What a writer has seen that must not be.
    violation: OnceLock<String>,
}

impl Ledger {
    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no writer panics with it").len()
    }

    fn note(&self, at: u64, name: Name) {
        let mut acknowledged = self.acknowledged.lock().expect("no writer panics with it");
        if let Some(other) = acknowledged.insert(at, name) {
            let text = format!("{other:?} and {name:?} were acknowledged at {at}");
            self.violation.get_or_init(|| text);
        }
    }

    /// Those at and above `from`.
    fn since(&self, from: u64) -> BTreeMap<u64, Name> {
        let acknowledged = self.acknowledged.lock().expect("no writer panics with it");
        acknowledged.range(from..).map(|(at, name)| (*at, *name)).collect()
    }
}

/// Appends one record after the other until told to stop, over all power cuts; returns how many.
fn start_writer(
    writer: u64,
    addresses: Vec<String>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        // Far longer than any number of cuts without a success between them takes.
        let options = ClientOptions { operation_timeout: PATIENCE * 5, ..ClientOptions::default() };
        assert!(options.exactly_once, "appends are sent again until their outcome is known");
        let client = Client::connect(addresses, options).expect("the cluster answers");
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let appended = client.append(&[record((writer, number))]);
            let at = appended.expect("every append succeeds in the end").first.0;
            ledger.note(at, (writer, number));
            number += 1;
        }
        number
    })
}

/// Starts a node; the last one makes its writes durable in the other way.
fn start_node(cluster: &mut Cluster, index: usize, flags: &[&str]) {
    let other_way = ["--log-sync", "write-then-fsync"];
    let other_way = other_way.iter().filter(|_| index == NODES - 1);
    let flags: Vec<&str> = flags.iter().chain(other_way).copied().collect();
    cluster.start_node_with(index, &flags);
}

/// A cluster, each node on a disk of its own, under load.
struct Powered {
    // Dropped in this order: the processes end before their disks go.
    cluster: Cluster,
    disks: Vec<Disk>,
    rng: Rng,
    ledger: Arc<Ledger>,
    writers: Vec<JoinHandle<u64>>,
    stop: Arc<AtomicBool>,
    /// For `serve`, of all nodes.
    flags: &'static [&'static str],
    cuts: u64,
    loss: Loss,
    /// The longest that it took to come back.
    slowest: Duration,
    /// How far the log was read when it was last looked at.
    seen_to: u64,
}

impl Powered {
    /// `None` where the disks cannot be made.
    fn start(nodes: usize, seed: u64) -> Option<Powered> {
        Powered::start_with(nodes, seed, &[])
    }

    /// As [`Powered::start`], with these flags for `serve` besides.
    fn start_with(nodes: usize, seed: u64, flags: &'static [&'static str]) -> Option<Powered> {
        if !available() {
            return None;
        }
        let mut rng = Rng::new(seed);
        let mains = Mains::new();
        let disks: Vec<Disk> = (0..nodes).map(|_| Disk::new(&mains, rng.next_u64())).collect();
        let folders = disks.iter().map(|disk| disk.path().join("data")).collect();
        let mut cluster = Cluster::formatted_on(folders, &["--segment-bytes", "4194304"]);
        (0..nodes).for_each(|index| start_node(&mut cluster, index, flags));
        cluster.wait_for_leader();
        let (ledger, stop) = (Arc::new(Ledger::default()), Arc::default());
        let start =
            |writer| start_writer(writer, cluster.addresses(), ledger.clone(), Arc::clone(&stop));
        let writers = (0..WRITERS).map(start).collect();
        let (cuts, loss, slowest, seen_to) = (0, Loss::default(), Duration::ZERO, 0);
        Some(Powered {
            cluster,
            disks,
            rng,
            ledger,
            writers,
            stop,
            flags,
            cuts,
            loss,
            slowest,
            seen_to,
        })
    }

    fn wait_for_progress(&mut self) {
        let goal = self.ledger.count() + PROGRESS;
        let what = format!("appends go on after {} power cuts", self.cuts);
        wait_for(&what, || {
            self.assert_sound();
            (self.ledger.count() >= goal).then_some(())
        });
    }

    /// Has the power cut in the middle of a write or flush to come, of a disk that is drawn.
    fn arm(&mut self, changes_max: u64) {
        let disk = &self.disks[self.rng.below(self.disks.len() as u64) as usize];
        disk.cut_at_change(1 + self.rng.below(changes_max));
    }

    /// Waits for the power to go, ends the processes, and brings the power back.
    fn lose_power(&mut self) {
        assert!(self.disks[0].is_off_within(PATIENCE), "that many changes come");
        self.kill_all();
        for disk in &self.disks {
            self.loss += disk.power_on();
        }
        self.cuts += 1;
    }

    fn kill_all(&mut self) {
        for index in 0..self.disks.len() {
            if self.cluster.nodes[index].is_running() {
                self.cluster.kill_node(index);
            }
        }
    }

    fn start_node(&mut self, index: usize) {
        start_node(&mut self.cluster, index, self.flags);
    }

    fn start_all(&mut self) {
        (0..self.disks.len()).for_each(|index| self.start_node(index));
    }

    /// Starts the nodes, waits until the cluster works, and looks at what it has.
    fn come_back(&mut self) {
        let start = Instant::now();
        if self.disks.len() == 1 || self.rng.below(3) > 0 {
            self.start_all();
            self.wait_for_progress();
        } else {
            // A quorum is enough, whoever it is.
            let late = self.rng.below(NODES as u64) as usize;
            for index in (0..NODES).filter(|index| *index != late) {
                self.start_node(index);
            }
            self.wait_for_progress();
            self.start_node(late);
        }
        self.slowest = self.slowest.max(start.elapsed());
        self.look_at_news();
    }

    /// As [`Powered::come_back`], with damage in the log of the node `damaged`: it is among the
    /// first that start, and those get a while to go on without the one that may know better.
    fn come_back_damaged(&mut self, damaged: usize) {
        let late = (damaged + 1 + self.rng.below(NODES as u64 - 1) as usize) % NODES;
        for index in (0..NODES).filter(|index| *index != late) {
            self.start_node(index);
        }
        let (start, before) = (Instant::now(), self.ledger.count());
        while start.elapsed() < WITHOUT_THE_LATE && self.ledger.count() == before {
            std::thread::sleep(Duration::from_millis(10));
        }
        let start = Instant::now();
        self.start_node(late);
        self.wait_for_progress();
        self.slowest = self.slowest.max(start.elapsed());
        self.look_at_news();
    }

    /// Looks at what is new in the log, and now and then at all of it.
    fn look_at_news(&mut self) {
        let from = if self.cuts.is_multiple_of(CUTS_PER_WHOLE_LOOK) { 0 } else { self.seen_to };
        self.seen_to = self.look(from);
        self.assert_sound();
    }

    /// With power on no node ends by itself; and no writer has seen anything wrong.
    fn assert_sound(&mut self) {
        let violation = self.ledger.violation.get();
        assert!(violation.is_none(), "{}", violation.expect("just seen"));
        for node in self.cluster.nodes.iter_mut().filter(|node| node.is_running()) {
            let ended = node.ended();
            assert!(ended.is_none(), "node {} does not run: {ended:?}", node.id);
        }
    }

    /// Reads the log from `from` on, where an earlier look ended, and holds it against what the
    /// writers know; how far.
    fn look(&self, from: u64) -> u64 {
        let known = self.ledger.since(from);
        let client = Client::connect(self.cluster.addresses(), patient()).expect("it answers");
        check(&client, ReadLevel::ReadIndex, from, &known)
    }

    /// Stops the writers and holds the whole log of every node against what they know.
    fn finish(mut self) {
        self.wait_for_progress();
        self.stop.store(true, Ordering::Relaxed);
        let written: Vec<u64> = self
            .writers
            .drain(..)
            .map(|writer| writer.join().expect("it does not panic"))
            .collect();
        self.assert_sound();
        let tail = self.cluster.wait_until_equal();
        assert_eq!(written.iter().sum::<u64>(), self.ledger.count() as u64);
        assert_eq!(tail, self.ledger.count() as u64, "each record stands there once");
        let known = self.ledger.since(0);
        for node in &self.cluster.nodes {
            let options = ClientOptions { stay: true, ..patient() };
            let client = Client::connect([node.address.clone()], options).expect("it answers");
            assert_eq!(check(&client, ReadLevel::Local, 0, &known), tail);
        }
        let (cuts, loss, slowest) = (self.cuts, self.loss, self.slowest);
        println!("{cuts} power cuts, {tail} records, back within {slowest:?}; {loss:?}");
        assert!(loss.sectors_kept > cuts && loss.sectors_lost > cuts, "the cuts hit something");
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A reader does not give up an answer that a busy host is slow to give.
fn patient() -> ClientOptions {
    ClientOptions {
        operation_timeout: PATIENCE,
        stall_timeout: PATIENCE / 2,
        ..ClientOptions::default()
    }
}

/// Reads from `from` on, as far as is `known` at least: every record is one that was sent, whole,
/// and there once, and what was acknowledged is where it was. Returns how far.
fn check(client: &Client, level: ReadLevel, from: u64, known: &BTreeMap<u64, Name>) -> u64 {
    // Few at a time: each entry costs the disk a read.
    let options = ReadOptions { level, records_max: 200, ..ReadOptions::default() };
    let end = known.last_key_value().map_or(from, |(last, _)| last + 1);
    let (mut at, mut places) = (from, HashMap::new());
    // Not to the tail, which others move on meanwhile.
    while at < end {
        let batch = client.read(Position(at), options).expect("the log can be read");
        assert!(!batch.is_empty(), "{} was acknowledged, and the log ends at {at}", end - 1);
        assert_eq!(batch.first(), Position(at), "records come from where they were asked for");
        for found in batch.iter() {
            let name = name_of(&found.bytes);
            let name = name.unwrap_or_else(|| panic!("what stands at {at} was never sent"));
            assert!(found.bytes == record(name), "{name:?} at {at} is not what was sent");
            if let Some(other) = places.insert(name, at) {
                panic!("{name:?} stands at {other} and at {at}");
            }
            if let Some(acknowledged) = known.get(&at) {
                assert_eq!(*acknowledged, name, "another record was acknowledged at {at}");
            }
            at += 1;
        }
    }
    at
}

#[test]
fn power_cuts_of_all_nodes_at_once_lose_nothing_acknowledged() {
    cut_again_and_again(NODES, 1);
}

#[test]
fn power_cuts_of_a_single_node_lose_nothing_acknowledged() {
    cut_again_and_again(1, 5);
}

fn cut_again_and_again(nodes: usize, salt: u64) {
    let (cuts, seed) = extent(salt);
    let Some(mut powered) = Powered::start(nodes, seed) else { return };
    powered.wait_for_progress();
    loop {
        powered.arm(100);
        powered.lose_power();
        match powered.rng.below(6) {
            // It goes again while they still start.
            0 => {
                powered.arm(10);
                powered.start_all();
                powered.lose_power();
            }
            // They die after their start, and when it goes then, what the first ones had not
            // flushed has been read and trusted by the second ones.
            1 => {
                powered.start_all();
                powered.wait_for_progress();
                powered.kill_all();
                powered.arm(10);
                powered.start_all();
                powered.lose_power();
            }
            _ => {}
        }
        powered.come_back();
        if powered.cuts >= cuts {
            break;
        }
    }
    powered.finish();
}

#[test]
fn power_cuts_with_bit_rot_in_the_last_entry_of_one_lose_nothing_acknowledged() {
    let (cuts, seed) = extent(2);
    let Some(mut powered) = Powered::start(NODES, seed) else { return };
    powered.wait_for_progress();
    let mut rotten = 0;
    while powered.cuts < cuts {
        powered.arm(100);
        powered.lose_power();
        let node = powered.rng.below(NODES as u64) as usize;
        rotten += u64::from(rot_last_entry(&powered.cluster.nodes[node].data, &mut powered.rng));
        powered.come_back_damaged(node);
    }
    println!("{rotten} entries rotten");
    assert!(rotten * 10 >= cuts * 9, "nearly every log has a last entry: {rotten}");
    powered.finish();
}

/// Damages a sector of the last entry of a node's log: a bit flips, or all of it is something else.
/// Whether there is an entry. (A sector that is blank looks like one that was never written: with the one
/// node away that knows better, nothing can tell. See `paxos/tears.rs`.)
fn rot_last_entry(data: &Path, rng: &mut Rng) -> bool {
    let folder = std::fs::read_dir(data.join("group-0000")).expect("the power is back");
    let paths = folder.map(|entry| entry.expect("it can be listed").path());
    let is_segment = |path: &PathBuf| {
        let name = path.file_name().expect("it has one").to_string_lossy();
        name.starts_with("segment-") && name.ends_with(".log")
    };
    let mut segments: Vec<PathBuf> = paths.filter(is_segment).collect();
    segments.sort();
    segments.iter().rev().any(|path| rot_last_entry_of(path, rng))
}

fn rot_last_entry_of(path: &Path, rng: &mut Rng) -> bool {
    let bytes = std::fs::read(path).expect("the power is back");
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    let Some(first) = blocks.iter().rposition(|block| block.starts_with(ENTRY_MAGIC)) else {
        return false;
    };
    let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let length = blocks[first..].iter().take_while(|block| !is_blank(block)).count();
    let entry = first * BLOCK..(first + length) * BLOCK;
    let sectors: Vec<usize> =
        entry.step_by(SECTOR).filter(|at| !is_blank(&bytes[*at..at + SECTOR])).collect();
    let at = sectors[rng.below(sectors.len() as u64) as usize];
    let mut sector = bytes[at..at + SECTOR].to_vec();
    match rng.below(2) {
        0 => sector[rng.below(SECTOR as u64) as usize] ^= 1 << rng.below(8),
        _ => sector.fill_with(|| rng.next_u64() as u8),
    }
    let file = File::options().write(true).open(path).expect("the power is back");
    file.write_all_at(&sector, at as u64).and_then(|()| file.sync_all()).expect("it is back");
    true
}

/// Runs a few cuts that must be found to lose something; says what was found.
fn found_out(seed: u64, flags: &'static [&'static str], prepare: fn(&Powered)) {
    let Some(mut powered) = Powered::start_with(NODES, seed, flags) else { return };
    let run = AssertUnwindSafe(move || {
        prepare(&powered);
        for _ in 0..SAMPLE {
            powered.wait_for_progress();
            powered.arm(100);
            powered.lose_power();
            powered.come_back();
        }
        powered.finish();
    });
    let found = catch_unwind(run).expect_err("nothing was flushed, and nobody has noticed");
    let text = match found.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("an assertion's text")).to_owned(),
    };
    println!("found: {text}");
    let known = ["was acknowledged", "were acknowledged", "does not run", "appends go on"];
    assert!(known.iter().any(|known| text.contains(known)), "found for what it is: {text}");
}

#[test]
fn disks_that_only_say_that_they_flush_are_found_out() {
    found_out(3, &[], |powered| powered.disks.iter().for_each(Disk::lie));
}

/// Needs a binary with the feature: `cargo test --features mutants --test power_cuts`.
#[cfg(feature = "mutants")]
#[test]
fn nodes_that_do_not_flush_are_found_out() {
    found_out(4, &["--mutant", "log-write-not-durable"], |_| {});
}

#[test]
fn what_format_has_made_survives_a_power_cut() {
    if !available() {
        return;
    }
    for seed in 0..10 {
        let mains = Mains::new();
        let disk = Disk::new(&mains, seed);
        let folders = vec![disk.path().join("some/where/data")];
        let mut cluster = Cluster::formatted_on(folders, &["--segment-bytes", "4194304"]);
        mains.cut();
        disk.power_on();
        cluster.start_node(0);
        cluster.wait_for_leader();
    }
}
