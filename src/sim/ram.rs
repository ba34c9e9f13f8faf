//! The simplest disk: files in memory, every operation done after the same time, no faults.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::time::Time;
use crate::base::BlockBuf;
use crate::io::{Disk, DiskError, DiskEvent, FileId, FileOptions, Storage, Sync, Token, WritePart};
use std::time::Duration;

/// Files in memory.
#[derive(Default)]
pub struct RamDisk {
    files: BTreeMap<String, Vec<u8>>,
    folders: Vec<String>,
    open: BTreeMap<u32, String>,
    next_file: u32,
    started: Vec<DiskEvent>,
    under_way: VecDeque<(Time, DiskEvent)>,
    /// How long an operation takes.
    pub latency: Duration,
}

impl RamDisk {
    /// Starts what was asked for.
    pub fn start(&mut self, now: Time) {
        let at = now + self.latency;
        self.under_way.extend(self.started.drain(..).map(|event| (at, event)));
    }

    /// Hands out what has completed.
    pub fn poll(&mut self, now: Time, completed: &mut Vec<DiskEvent>) {
        while self.under_way.front().is_some_and(|(at, _)| *at <= now) {
            completed.push(self.under_way.pop_front().expect("looked at above").1);
        }
    }

    /// When the next operation completes.
    pub fn next_completion(&self) -> Option<Time> {
        self.under_way.front().map(|(at, _)| *at)
    }

    /// The process has ended.
    pub fn crash(&mut self) {
        self.open.clear();
        self.started.clear();
        self.under_way.clear();
    }

    fn file(&mut self, file: FileId) -> io::Result<&mut Vec<u8>> {
        let name = self.open.get(&file.0).ok_or(io::ErrorKind::InvalidInput)?;
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn finish(&mut self, token: Token, result: io::Result<u32>, buffer: Option<BlockBuf>) {
        let result = result.map_err(|source| DiskError { what: "ram disk".to_owned(), source });
        self.started.push(DiskEvent { token, result, buffer });
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let offset = offset as usize;
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn get(bytes: &[u8], offset: u64, buffer: &mut BlockBuf, length: usize) -> usize {
    let offset = (offset as usize).min(bytes.len());
    let count = length.min(bytes.len() - offset);
    buffer[..count].copy_from_slice(&bytes[offset..offset + count]);
    count
}

impl Storage for RamDisk {
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId> {
        match (options, self.files.contains_key(name)) {
            (FileOptions::CreateNew, true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (FileOptions::CreateNew, false) => drop(self.files.insert(name.to_owned(), Vec::new())),
            (_, false) => return Err(io::ErrorKind::NotFound.into()),
            (_, true) => {}
        }
        self.next_file += 1;
        self.open.insert(self.next_file, name.to_owned());
        Ok(FileId(self.next_file))
    }
    fn close(&mut self, file: FileId) {
        self.open.remove(&file.0);
    }
    fn len(&mut self, file: FileId) -> io::Result<u64> {
        self.file(file).map(|bytes| bytes.len() as u64)
    }
    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize> {
        self.file(file).map(|bytes| get(bytes, offset, buffer, length))
    }
    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()> {
        self.file(file).map(|bytes| put(bytes, offset, &buffer[..length]))
    }
    fn sync(&mut self, _: FileId) -> io::Result<()> {
        Ok(())
    }
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let names = self.files.keys().chain(&self.folders);
        let inside = names.filter_map(|name| name.strip_prefix(&prefix));
        let mut found: Vec<String> =
            inside.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        found.sort();
        Ok(found)
    }
    fn create_folder(&mut self, folder: &str) -> io::Result<()> {
        if !self.folders.iter().any(|name| name == folder) {
            self.folders.push(folder.to_owned());
        }
        Ok(())
    }
    fn sync_folder(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let bytes = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to.to_owned(), bytes);
        for name in self.open.values_mut().filter(|name| *name == from) {
            *name = to.to_owned();
        }
        Ok(())
    }
}

impl Disk for RamDisk {
    fn read(
        &mut self,
        token: Token,
        file: FileId,
        offset: u64,
        mut buffer: BlockBuf,
        length: usize,
    ) {
        let result = self.file(file).map(|bytes| get(bytes, offset, &mut buffer, length) as u32);
        self.finish(token, result, Some(buffer));
    }
    fn write(&mut self, token: Token, file: FileId, offset: u64, parts: Vec<WritePart>, _: Sync) {
        let result = self.file(file).map(|bytes| {
            let mut at = offset;
            for part in &parts {
                put(bytes, at, part.bytes());
                at += part.bytes().len() as u64;
            }
            (at - offset) as u32
        });
        self.finish(token, result, None);
    }
    fn allocate(&mut self, token: Token, _: FileId, _: u64) {
        self.finish(token, Ok(0), None);
    }
    fn flush(&mut self, token: Token, _: FileId) {
        self.finish(token, Ok(0), None);
    }
    fn open_async(&mut self, token: Token, name: &str, options: FileOptions) {
        let result = self.open(name, options).map(|file| file.0);
        self.finish(token, result, None);
    }
    fn rename_async(&mut self, token: Token, from: &str, to: &str) {
        let result = self.rename(from, to).map(|()| 0);
        self.finish(token, result, None);
    }
    fn sync_folder_async(&mut self, token: Token, _: &str) {
        self.finish(token, Ok(0), None);
    }
}
