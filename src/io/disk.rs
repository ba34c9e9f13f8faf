//! The disk's half of the seam: synchronous [`Storage`] for start-up and tools, and [`Disk`], the
//! completion-based operations of the running node.
//!
//! Names are relative to the data directory, with `/` between folders.

use std::fmt;
use std::io;

use crate::base::{Batch, BlockBuf};

/// Chosen by whoever submits an operation; comes back with its completion. One value may be in
/// flight at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// An open file. Valid until it is closed; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// How to open a file. Files are always opened for O_DIRECT reads and writes in whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOptions {
    /// Must exist; reads only.
    Read,
    /// Must exist; reads and writes.
    ReadWrite,
    /// Must not exist; created empty. Durable only after [`Storage::sync_dir`] of its folder.
    CreateNew,
}

/// What a completed write guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing about a power loss: the bytes may sit in the device's cache.
    Cached,
    /// Durable: the bytes and what is needed to read them back survive a power loss.
    Durable,
}

/// One piece of a vectored write: block-aligned memory that the seam keeps until the completion.
#[derive(Debug)]
pub enum WritePart {
    /// A stamped batch: its whole entry is written.
    Entry(Batch),
    /// The first `length` bytes of a buffer.
    Buffer(std::rc::Rc<BlockBuf>, usize),
}

impl WritePart {
    /// The bytes to write.
    pub fn bytes(&self) -> &[u8] {
        match self {
            WritePart::Entry(batch) => batch.entry(),
            WritePart::Buffer(buffer, length) => &buffer[..*length],
        }
    }
}

/// Why a disk operation failed. Any failure of a write or flush of the log is fatal (IO.md);
/// which kind it was is for the message and the exit code.
#[derive(Debug)]
pub struct DiskError {
    /// The operation and the file it was for.
    pub what: String,
    /// The system's own word.
    pub source: io::Error,
}

impl DiskError {
    /// Whether the device or the quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether no file could be opened because the process or the host has too many open: nothing
    /// was done.
    pub fn is_out_of_files(&self) -> bool {
        is_out_of_files(&self.source)
    }
}

/// As [`DiskError::is_out_of_files`], of what a [`Storage`] says.
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The completion of a [`Disk`] operation.
#[derive(Debug)]
pub struct DiskEvent {
    /// The token of the submission.
    pub token: Token,
    /// Bytes transferred (reads, writes), the file's number (opens: [`FileId`]), or 0. A count
    /// below what was asked for is a short transfer: reported as it is, for the caller to judge.
    pub result: Result<u32, DiskError>,
    /// The buffer of a read, given back.
    pub buffer: Option<BlockBuf>,
}

/// Synchronous file operations, for start-up, `format` and `inspect`: they block the thread and
/// are never used while the node serves.
pub trait Storage {
    /// Opens a file of the data directory.
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId>;
    /// Closes a file. Operations in flight on it must have completed.
    fn close(&mut self, file: FileId);
    /// The file's length in bytes.
    fn len(&mut self, file: FileId) -> io::Result<u64>;
    /// Reads at `offset` into the first `length` bytes of `buffer`; returns how many were read,
    /// which is less than `length` only at the end of the file.
    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize>;
    /// Writes the first `length` bytes of `buffer` at `offset`, whole or with an error. Not
    /// durable before [`Storage::sync`].
    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()>;
    /// Makes everything written to the file durable (fsync).
    fn sync(&mut self, file: FileId) -> io::Result<()>;
    /// The names in a folder (`""`: the data directory itself), sorted.
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>>;
    /// Creates a folder; it is no error when it exists.
    fn create_folder(&mut self, folder: &str) -> io::Result<()>;
    /// Makes the names in a folder durable (fsync of the directory).
    fn sync_folder(&mut self, folder: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing what stands at `to`.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
}

/// Completion-based file operations. Each call queues one operation; it starts at the next
/// [`super::Io::turn`] and ends in one [`DiskEvent`] with its token. Operations in flight may
/// complete in any order. The seam retries EINTR and EAGAIN itself.
pub trait Disk: Storage {
    /// Reads `length` bytes at `offset` into `buffer`.
    fn read(&mut self, token: Token, file: FileId, offset: u64, buffer: BlockBuf, length: usize);
    /// Writes `parts` one behind the other at `offset`. With [`Sync::Durable`] the completion
    /// means that all of it survives a power loss. At most [`Disk::WRITE_PARTS_MAX`] parts.
    fn write(&mut self, token: Token, file: FileId, offset: u64, parts: Vec<WritePart>, sync: Sync);
    /// Reserves `length` bytes for the file without changing what it holds (fallocate).
    fn allocate(&mut self, token: Token, file: FileId, length: u64);
    /// Makes the file's bytes and metadata durable (fsync).
    fn flush(&mut self, token: Token, file: FileId);
    /// As [`Storage::open`]; the event's result is the [`FileId`]'s number.
    fn open_async(&mut self, token: Token, name: &str, options: FileOptions);
    /// As [`Storage::rename`].
    fn rename_async(&mut self, token: Token, from: &str, to: &str);
    /// As [`Storage::sync_folder`].
    fn sync_folder_async(&mut self, token: Token, folder: &str);
    /// Bytes that this process may still take on the disk. At once, no operation.
    fn free_bytes(&self) -> io::Result<u64>;

    /// The most parts of one write.
    const WRITE_PARTS_MAX: usize = 64;
}
