//! The disk half of [`Uring`]: file operations through the ring, and [`Storage`] by delegation.
//!
//! Called through the [`Disk`] trait and by [`Uring`]'s dispatch. Guarantees: EINTR and EAGAIN
//! are retried here; every operation ends in exactly one [`DiskEvent`]; a durable write's event
//! comes after the device's flush.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use crate::base::BlockBuf;
use crate::io::{
    Disk, DiskError, DiskEvent, Event, FileId, FileOptions, Storage, Sync, Token, WritePart,
};

use super::ops::{Op, OpId, Write};
use super::storage::{assert_aligned, check_folder, check_name, explain_open};
use super::{ATTEMPTS_MAX, IOVECS_KEPT_MAX, LogSync, RecvChunk, Uring, storage};

impl Uring {
    /// Queues a file operation, or its failure for the next turn.
    fn start_disk(&mut self, token: Token, file: Option<FileId>, op: Op) {
        let begun = match file {
            Some(file) => self.storage.begin(file).map(drop),
            None => self.storage.root().map(drop),
        };
        let id = self.ops.insert(op);
        match begun {
            Ok(()) => self.submit_disk(id),
            Err(error) => {
                let op = self.ops.remove(id);
                let what = self.describe(&op);
                let buffer = if let Op::Read { buffer, .. } = op { Some(buffer) } else { None };
                let result = Err(DiskError { what, source: error });
                self.deferred.push(Event::Disk(DiskEvent { token, result, buffer }));
            }
        }
    }

    /// Gives the operation to the kernel, for the first time or again.
    fn submit_disk(&mut self, id: OpId) {
        let entry = self.disk_entry(id);
        self.submit(id, entry);
    }

    fn disk_entry(&mut self, id: OpId) -> squeue::Entry {
        let log_sync = self.options.log_sync;
        let storage = &self.storage;
        let fd = |file: FileId| Fd(storage.fd_inflight(file));
        match self.ops.get(id) {
            Op::Read { file, offset, length, buffer, .. } => {
                opcode::Read::new(fd(*file), buffer.as_mut_ptr(), *length).offset(*offset).build()
            }
            Op::Write(write) => {
                let dsync = write.sync == Sync::Durable && log_sync == LogSync::Dsync;
                let flags = if dsync { libc::RWF_DSYNC } else { 0 };
                let (iovecs, count) = (write.iovecs.as_ptr(), write.iovecs.len() as u32);
                #[cfg(test)]
                let count = self.faults.shorten(count as usize) as u32;
                opcode::Writev::new(fd(write.file), iovecs, count)
                    .offset(write.offset)
                    .rw_flags(flags)
                    .build()
            }
            Op::WriteFlush(write) => {
                opcode::Fsync::new(fd(write.file)).flags(FsyncFlags::DATASYNC).build()
            }
            Op::Allocate { file, length, .. } => opcode::Fallocate::new(fd(*file), *length).build(),
            Op::Flush { file, .. } => opcode::Fsync::new(fd(*file)).build(),
            Op::Open { path, options, .. } => {
                let root = storage.root().expect("the operation was begun");
                opcode::OpenAt::new(Fd(root.as_raw_fd()), path.as_ptr())
                    .flags(storage::open_flags(*options).bits() as i32)
                    .mode(storage::file_mode().bits())
                    .build()
            }
            Op::Rename { from, to, .. } => {
                let root = Fd(storage.root().expect("the operation was begun").as_raw_fd());
                opcode::RenameAt::new(root, from.as_ptr(), root, to.as_ptr()).build()
            }
            Op::SyncFolder { folder, .. } => opcode::Fsync::new(Fd(folder.as_raw_fd())).build(),
            _ => unreachable!("the operation is one of the disk"),
        }
    }

    /// A file operation has completed: tries again, goes on, or reports it.
    pub(super) fn complete_disk(
        &mut self,
        id: OpId,
        result: i32,
        events: &mut Vec<Event<RecvChunk>>,
    ) {
        let again = matches!(-result, libc::EINTR | libc::EAGAIN);
        let is_flush = matches!(
            self.ops.get(id),
            Op::Flush { .. } | Op::WriteFlush(_) | Op::SyncFolder { .. }
        );
        // A flush is never tried again: after a failed one the kernel may report success for
        // data it has thrown away.
        if again && !is_flush && self.ops.attempt(id) <= ATTEMPTS_MAX {
            self.stats.retries += 1;
            return self.submit_disk(id);
        }
        if self.flush_follows(id, result) {
            return self.submit_disk(id);
        }
        let op = self.ops.remove(id);
        let event = self.disk_event(op, result);
        events.push(Event::Disk(event));
    }

    /// Turns a whole write that is to be durable by a flush into that flush; whether it did.
    fn flush_follows(&mut self, id: OpId, result: i32) -> bool {
        if self.options.log_sync != LogSync::WriteThenFlush {
            return false;
        }
        let op = self.ops.get(id);
        let whole = match op {
            Op::Write(write) => write.sync == Sync::Durable && result == write.length as i32,
            _ => false,
        };
        if !whole {
            // A short write is reported as it is: it is not durable and must not look so.
            return false;
        }
        let placeholder = Op::Receive { conn: crate::io::ConnId(u64::MAX) };
        let Op::Write(write) = std::mem::replace(op, placeholder) else {
            unreachable!("checked above")
        };
        *op = Op::WriteFlush(write);
        true
    }

    fn disk_event(&mut self, op: Op, result: i32) -> DiskEvent {
        let mut outcome = if result < 0 {
            let what = self.describe(&op);
            Err(DiskError { what, source: io::Error::from_raw_os_error(-result) })
        } else {
            Ok(result as u32)
        };
        let mut buffer_back = None;
        let token = match op {
            Op::Read { token, file, buffer, .. } => {
                self.storage.end(file);
                buffer_back = Some(buffer);
                token
            }
            Op::Write(write) => self.end_write(write),
            Op::WriteFlush(write) => {
                outcome = outcome.map(|_| write.length);
                self.end_write(write)
            }
            Op::Allocate { token, file, .. } | Op::Flush { token, file } => {
                self.storage.end(file);
                token
            }
            Op::Open { token, name, .. } => {
                outcome = self.end_open(&name, outcome);
                token
            }
            Op::Rename { token, from, to } => {
                if let (Ok(_), Ok(from), Ok(to)) = (&outcome, from.to_str(), to.to_str()) {
                    self.storage.renamed(from, to);
                }
                token
            }
            Op::SyncFolder { token, .. } => token,
            _ => unreachable!("the operation is one of the disk"),
        };
        DiskEvent { token, result: outcome, buffer: buffer_back }
    }

    fn end_write(&mut self, mut write: Write) -> Token {
        self.storage.end(write.file);
        self.writes_inflight -= 1;
        write.iovecs.clear();
        if self.iovecs_kept.len() < IOVECS_KEPT_MAX {
            self.iovecs_kept.push(write.iovecs);
        }
        write.token
    }

    fn end_open(&mut self, name: &str, result: Result<u32, DiskError>) -> Result<u32, DiskError> {
        match result {
            Ok(raw) => {
                // SAFETY: the kernel has just opened this descriptor for us; nobody else has it.
                let fd = unsafe { OwnedFd::from_raw_fd(raw as i32) };
                Ok(self.storage.adopt(fd, name).0)
            }
            Err(error) => {
                let source = explain_open(error.source);
                Err(DiskError { what: format!("open {name}"), source })
            }
        }
    }

    fn describe(&self, op: &Op) -> String {
        let name = |file: &FileId| self.storage.name(*file);
        match op {
            Op::Read { file, offset, length, .. } => {
                format!("read {length} bytes at {offset} of {}", name(file))
            }
            Op::Write(write) => {
                format!("write {} bytes at {} of {}", write.length, write.offset, name(&write.file))
            }
            Op::WriteFlush(write) => format!("flush {} after a write", name(&write.file)),
            Op::Allocate { file, length, .. } => {
                format!("reserve {length} bytes in {}", name(file))
            }
            Op::Flush { file, .. } => format!("flush {}", name(file)),
            Op::Open { name, .. } => format!("open {name}"),
            Op::Rename { from, to, .. } => format!("rename {from:?} to {to:?}"),
            Op::SyncFolder { name, .. } => format!("flush folder {name:?}"),
            _ => "not an operation of the disk".to_owned(),
        }
    }

    fn fail_disk(&mut self, token: Token, what: String, source: io::Error) {
        let result = Err(DiskError { what, source });
        self.deferred.push(Event::Disk(DiskEvent { token, result, buffer: None }));
    }
}

fn c_name(name: &str) -> io::Result<CString> {
    let name = check_name(name)?;
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Disk for Uring {
    fn read(&mut self, token: Token, file: FileId, offset: u64, buffer: BlockBuf, length: usize) {
        assert_aligned(offset, buffer.as_ptr(), length);
        assert!(length <= buffer.capacity(), "the read fits its buffer");
        let length = length as u32;
        self.start_disk(token, Some(file), Op::Read { token, file, offset, length, buffer });
    }

    fn write(
        &mut self,
        token: Token,
        file: FileId,
        offset: u64,
        parts: Vec<WritePart>,
        sync: Sync,
    ) {
        assert!(parts.len() <= Self::WRITE_PARTS_MAX, "{} parts in one write", parts.len());
        let mut iovecs = self.iovecs_kept.pop().unwrap_or_default();
        let mut total = 0;
        for part in &parts {
            let bytes = part.bytes();
            assert_aligned(offset, bytes.as_ptr(), bytes.len());
            total += bytes.len();
            let iov_base = bytes.as_ptr().cast_mut().cast();
            iovecs.push(libc::iovec { iov_base, iov_len: bytes.len() });
        }
        assert!(total > 0, "a write has bytes");
        let length = i32::try_from(total).expect("a write is far below 2 GiB") as u32;
        self.writes_inflight += 1;
        let write = Write { token, file, offset, length, sync, parts, iovecs };
        let before = self.deferred.len();
        self.start_disk(token, Some(file), Op::Write(write));
        if self.deferred.len() > before {
            self.writes_inflight -= 1; // refused: the file is not open
        }
    }

    fn allocate(&mut self, token: Token, file: FileId, length: u64) {
        self.start_disk(token, Some(file), Op::Allocate { token, file, length });
    }

    fn flush(&mut self, token: Token, file: FileId) {
        self.start_disk(token, Some(file), Op::Flush { token, file });
    }

    fn open_async(&mut self, token: Token, name: &str, options: FileOptions) {
        match c_name(name).and_then(|path| self.storage.check_places().map(|()| path)) {
            Ok(path) => {
                let name = name.to_owned();
                self.start_disk(token, None, Op::Open { token, name, path, options });
            }
            Err(error) => self.fail_disk(token, format!("open {name}"), error),
        }
    }

    fn rename_async(&mut self, token: Token, from: &str, to: &str) {
        match c_name(from).and_then(|from| Ok((from, c_name(to)?))) {
            Ok((from, to)) => self.start_disk(token, None, Op::Rename { token, from, to }),
            Err(error) => self.fail_disk(token, format!("rename {from} to {to}"), error),
        }
    }

    /// Opening the folder is done at once (its inode is cached); the flush goes through the ring.
    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(self.storage.root()?)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn sync_folder_async(&mut self, token: Token, folder: &str) {
        match check_folder(folder).and_then(|_| self.storage.open_folder(folder)) {
            Ok(fd) => {
                let name = folder.to_owned();
                self.start_disk(token, None, Op::SyncFolder { token, name, folder: fd });
            }
            Err(error) => self.fail_disk(token, format!("flush folder {folder:?}"), error),
        }
    }
}

impl Storage for Uring {
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
