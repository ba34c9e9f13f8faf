//! The tests' own disk is what it is meant to be: it keeps what was flushed, loses what was not,
//! sector by sector and name by name, in any order, and is slow or hangs when told to.
//!
//! Without this a power-cut test would prove nothing: on a disk that loses nothing everything
//! survives.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::disk::cache::SECTOR;
use common::disk::{Disk, Mains, available};
use common::wait_for;
use loggos::base::BlockPool;
use rustix::io::ReadWriteFlags;

/// A block of the log, in bytes.
const BLOCK: usize = 4096;
const SECTORS: usize = BLOCK / SECTOR;

/// A disk, where one can be made.
fn disk(seed: u64) -> Option<(Arc<Mains>, Disk)> {
    if !available() {
        return None;
    }
    let mains = Mains::new();
    let disk = Disk::new(&mains, seed);
    Some((mains, disk))
}

/// Cuts the power and brings it back.
fn cycle(mains: &Mains, disk: &Disk) {
    mains.cut();
    assert!(fs::read_dir(disk.path()).is_err(), "nothing works without power");
    disk.power_on();
}

fn flush_folder(path: &Path) {
    File::open(path).and_then(|folder| folder.sync_all()).expect("a folder can be flushed");
}

/// A file of `blocks` blocks of `byte`, flushed with its name.
fn safe_file(disk: &Disk, name: &str, blocks: usize, byte: u8) -> File {
    let path = disk.path().join(name);
    let mut file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    file.write_all(&vec![byte; blocks * BLOCK]).unwrap();
    file.sync_all().unwrap();
    flush_folder(disk.path());
    file
}

/// Which byte each sector of the file is full of.
fn sectors(disk: &Disk, name: &str) -> Vec<u8> {
    let bytes = fs::read(disk.path().join(name)).expect("the file is there");
    let uniform = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
        sector[0]
    };
    bytes.chunks(SECTOR).map(uniform).collect()
}

#[test]
fn what_was_flushed_survives_and_what_was_not_goes_sector_by_sector() {
    let (mut torn, mut whole, mut gone) = (0, 0, 0);
    let mut patterns = BTreeSet::new();
    for seed in 0..60 {
        let Some((mains, disk)) = disk(seed) else { return };
        let file = safe_file(&disk, "log", 4, 1);
        file.write_all_at(&[2; BLOCK], 0).unwrap();
        file.sync_data().unwrap();
        // The last block is flushed, the one before it only written.
        file.write_all_at(&[3; BLOCK], 2 * BLOCK as u64).unwrap();
        assert_eq!(sectors(&disk, "log")[2 * SECTORS..3 * SECTORS], [3; SECTORS], "as written");
        cycle(&mains, &disk);
        let found = sectors(&disk, "log");
        assert_eq!(found[..SECTORS], [2; SECTORS], "flushed");
        assert_eq!(found[SECTORS..2 * SECTORS], [1; SECTORS], "not touched");
        assert_eq!(found[3 * SECTORS..], [1; SECTORS], "not touched");
        let block = &found[2 * SECTORS..3 * SECTORS];
        assert!(block.iter().all(|byte| matches!(byte, 1 | 3)), "new or old: {block:?}");
        match block.iter().filter(|byte| **byte == 3).count() {
            0 => gone += 1,
            SECTORS => whole += 1,
            _ => torn += 1,
        }
        patterns.insert(block.to_vec());
        // What has survived is safe from then on.
        drop(file);
        cycle(&mains, &disk);
        assert_eq!(sectors(&disk, "log"), found);
    }
    println!("{torn} torn, {whole} whole, {gone} gone; {} patterns", patterns.len());
    assert!(torn >= 10 && whole >= 3 && gone >= 3);
    // Holes in front of what survived, not only prefixes.
    assert!(patterns.iter().any(|block| block[0] == 1 && block[SECTORS - 1] == 3));
    assert!(patterns.iter().any(|block| block[0] == 3 && block[SECTORS - 1] == 1));
}

#[test]
fn a_later_write_survives_an_earlier_one_and_a_sector_keeps_any_of_its_versions() {
    let (mut reordered, mut middle) = (0, 0);
    for seed in 100..160 {
        let Some((mains, disk)) = disk(seed) else { return };
        let file = safe_file(&disk, "log", 2, 1);
        file.write_all_at(&[2; SECTOR], 0).unwrap();
        file.write_all_at(&[3; SECTOR], BLOCK as u64).unwrap();
        file.write_all_at(&[4; SECTOR], 0).unwrap();
        cycle(&mains, &disk);
        let found = sectors(&disk, "log");
        assert!(matches!(found[0], 1 | 2 | 4) && matches!(found[SECTORS], 1 | 3), "{found:?}");
        reordered += u32::from(found[0] == 1 && found[SECTORS] == 3);
        middle += u32::from(found[0] == 2);
    }
    println!("{reordered} reordered, {middle} of the version between");
    assert!(reordered >= 3 && middle >= 2);
}

#[test]
fn a_durable_write_survives_and_the_one_before_it_need_not() {
    let (mut lost, pool) = (0, BlockPool::new(1 << 20));
    for seed in 200..230 {
        let Some((mains, disk)) = disk(seed) else { return };
        drop(safe_file(&disk, "log", 4, 1));
        let direct = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(disk.path().join("log"))
            .expect("O_DIRECT works");
        let mut block = pool.take(BLOCK);
        let mut write = |byte: u8, place: usize, flags| {
            block[..BLOCK].fill(byte);
            let parts = [IoSlice::new(&block[..BLOCK])];
            let offset = (place * BLOCK) as u64;
            assert_eq!(rustix::io::pwritev2(&direct, &parts, offset, flags), Ok(BLOCK));
        };
        write(2, 0, ReadWriteFlags::empty());
        write(3, 1, ReadWriteFlags::DSYNC);
        let flushes = disk.flushes();
        write(4, 2, ReadWriteFlags::empty());
        assert_eq!(disk.flushes(), flushes, "an ordinary write is none");
        cycle(&mains, &disk);
        let found = sectors(&disk, "log");
        assert_eq!(found[SECTORS..2 * SECTORS], [3; SECTORS], "durable");
        lost += u32::from(found[0] == 1);
    }
    assert!(lost >= 5, "{lost}");
}

#[test]
fn lengths_and_names_survive_only_flushed() {
    let (mut unnamed, mut short, mut renamed, mut unmade, mut back) = (0, 0, 0, 0, 0);
    for seed in 300..360 {
        let Some((mains, disk)) = disk(seed) else { return };
        let at = |name: &str| disk.path().join(name);
        let file = safe_file(&disk, "grown", 1, 1);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 3 * BLOCK as u64)
            .unwrap();
        drop(safe_file(&disk, "old", 1, 1));
        drop(safe_file(&disk, "removed", 1, 1));
        fs::rename(at("old"), at("new")).unwrap();
        fs::remove_file(at("removed")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        // Flushing a file says nothing about its name.
        let file = File::create_new(at("created")).unwrap();
        file.sync_all().unwrap();
        drop(file);
        cycle(&mains, &disk);
        assert_ne!(at("old").exists(), at("new").exists(), "a renaming is done or not");
        renamed += u32::from(at("new").exists());
        unnamed += u32::from(!at("created").exists());
        unmade += u32::from(!at("folder").exists());
        back += u32::from(at("removed").exists());
        let length = fs::metadata(at("grown")).unwrap().len();
        assert!(length == BLOCK as u64 || length == 3 * BLOCK as u64, "{length}");
        short += u32::from(length == BLOCK as u64);
        // Now all of it flushed, at both ends of the chances.
        let names = || -> BTreeSet<_> {
            fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        fs::write(at("last"), "text").unwrap();
        File::open(at("last")).unwrap().sync_all().unwrap();
        flush_folder(disk.path());
        let before = names();
        cycle(&mains, &disk);
        assert_eq!(names(), before);
        assert_eq!(fs::read(at("last")).unwrap(), b"text");
    }
    println!("{unnamed} unnamed, {short} short, {renamed} renamed, {unmade} unmade, {back} back");
    for count in [unnamed, short, 60 - renamed, unmade, back] {
        assert!((10..=50).contains(&count), "each of it happens and not always");
    }
}

#[test]
fn the_power_of_all_disks_goes_at_one_instant_and_within_a_change() {
    let Some((mains, first)) = disk(400) else { return };
    let second = Disk::new(&mains, 401);
    let (file, other) = (safe_file(&first, "log", 1, 1), safe_file(&second, "log", 1, 1));
    first.cut_at_change(3);
    file.sync_all().expect("the first change is done");
    other.sync_all().expect("the other disk's do not count");
    file.write_all_at(&[2; BLOCK], 0).expect("the second is done");
    assert!(!first.is_off_within(Duration::ZERO));
    file.sync_all().expect_err("the power goes in the third one");
    assert!(first.is_off_within(Duration::ZERO) && second.is_off_within(Duration::ZERO));
    other.sync_all().expect_err("the other one has none either");
    let loss = first.power_on();
    assert_eq!(loss.sectors_kept + loss.sectors_lost, SECTORS as u64, "nothing of it was flushed");
    assert_eq!(second.power_on(), Default::default(), "all of it was");
}

#[test]
fn the_same_seed_loses_the_same() {
    let outcome = |seed| {
        let (mains, disk) = disk(seed)?;
        let file = safe_file(&disk, "log", 16, 1);
        (0..16).for_each(|n| file.write_all_at(&[2 + n as u8; BLOCK], n * BLOCK as u64).unwrap());
        cycle(&mains, &disk);
        Some(sectors(&disk, "log"))
    };
    let Some(first) = (500..520).map(outcome).collect::<Option<Vec<_>>>() else { return };
    let again: Vec<_> = (500..520).filter_map(outcome).collect();
    assert_eq!(first, again);
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 5, "and another seed something else");
}

#[test]
fn a_disk_that_lies_loses_what_was_flushed() {
    let Some((mains, disk)) = disk(601) else { return };
    let file = safe_file(&disk, "log", 64, 1);
    disk.lie();
    let mut lost = 0;
    for round in 2..12 {
        file.write_all_at(&vec![round; 64 * BLOCK], 0).unwrap();
        file.sync_all().expect("it says that it is done");
        cycle(&mains, &disk);
        lost += u32::from(sectors(&disk, "log").iter().any(|byte| *byte != round));
    }
    assert!(lost >= 5, "{lost}");
}

#[test]
fn a_disk_is_slow_and_hangs_when_told_to() {
    let Some((mains, disk)) = disk(700) else { return };
    let file = safe_file(&disk, "log", 1, 1);
    let time = |file: &File| {
        let start = Instant::now();
        file.sync_all().map(|()| start.elapsed())
    };
    disk.slow_down(100);
    assert!(time(&file).unwrap() >= Duration::from_millis(50), "half of 100 times a millisecond");
    disk.slow_down(1);
    // A flush that has begun on a disk that hangs.
    let hung = |file: &File| {
        disk.hang();
        let (file, flushes) = (file.try_clone().unwrap(), disk.flushes());
        let thread = std::thread::spawn(move || file.sync_all());
        wait_for("the flush has begun", || (disk.flushes() > flushes).then_some(()));
        std::thread::sleep(Duration::from_millis(20)); // many times what it would take
        assert!(!thread.is_finished());
        thread
    };
    let thread = hung(&file);
    disk.go_on();
    thread.join().unwrap().expect("it ends well");
    // Nor does a power cut leave anything hanging.
    let thread = hung(&file);
    mains.cut();
    thread.join().unwrap().expect_err("the power has gone");
}
