//! Files by plain system calls: the [`Storage`] of `format`, `inspect` and start-up, and the
//! table of open files that the ring's operations share.
//!
//! Guarantee: file numbers are never used twice, every file is opened O_DIRECT, and no name
//! leaves the data directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::base::BlockBuf;
use crate::base::limits::BLOCK_SIZE;
use crate::io::{FileId, FileOptions, Storage};

use super::host::direct_io_alignment;

/// The most files open at once.
pub const FILES_MAX: usize = 1024;

/// Access rights of files: the owner writes, the group may read.
const FILE_MODE: u32 = 0o640;
/// Access rights of folders.
const FOLDER_MODE: u32 = 0o750;

struct OpenFile {
    id: u32,
    fd: OwnedFd,
    name: String,
    /// Operations of the ring on this file that have not completed.
    inflight: u32,
}

/// The data directory and its open files, by plain blocking system calls. Needs no ring.
pub struct DirectStorage {
    /// Absent in a process without a data directory: then every operation fails.
    root: Option<(PathBuf, OwnedFd)>,
    /// Sorted by id (ids only grow); few are open at a time.
    files: Vec<OpenFile>,
    next_id: u32,
}

impl DirectStorage {
    /// Storage in the folder `data_dir`, which must exist.
    ///
    /// # Errors
    /// When the folder cannot be opened, or its file system needs a coarser alignment for
    /// O_DIRECT than the log's block.
    pub fn new(data_dir: &Path) -> io::Result<DirectStorage> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(data_dir, flags, Mode::empty())?;
        let root = Some((data_dir.to_path_buf(), folder));
        Ok(DirectStorage { root, files: Vec::new(), next_id: 0 })
    }

    /// Storage of a process without a data directory.
    pub(super) fn none() -> DirectStorage {
        DirectStorage { root: None, files: Vec::new(), next_id: 0 }
    }

    pub(super) fn root(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.root {
            Some((_, folder)) => Ok(folder.as_fd()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "there is no data directory")),
        }
    }

    fn find(&self, file: FileId) -> io::Result<&OpenFile> {
        let index = self.files.binary_search_by_key(&file.0, |open| open.id);
        index.map(|index| &self.files[index]).map_err(|_| Errno::BADF.into())
    }

    fn find_mut(&mut self, file: FileId) -> io::Result<&mut OpenFile> {
        let index = self.files.binary_search_by_key(&file.0, |open| open.id);
        index.map(|index| &mut self.files[index]).map_err(|_| Errno::BADF.into())
    }

    /// The file's name, for messages.
    pub(super) fn name(&self, file: FileId) -> &str {
        self.find(file).map_or("a closed file", |open| &open.name)
    }

    /// The descriptor for an operation of the ring, which counts as in flight from now on.
    pub(super) fn begin(&mut self, file: FileId) -> io::Result<RawFd> {
        let open = self.find_mut(file)?;
        open.inflight += 1;
        Ok(open.fd.as_raw_fd())
    }

    /// The descriptor of a file that has an operation in flight already.
    pub(super) fn fd_inflight(&self, file: FileId) -> RawFd {
        let open = self.find(file).expect("a file with operations in flight stays open");
        assert!(open.inflight > 0, "the operation was counted");
        open.fd.as_raw_fd()
    }

    /// An operation of the ring on this file has completed.
    pub(super) fn end(&mut self, file: FileId) {
        let open = self.find_mut(file).expect("a file with operations in flight stays open");
        open.inflight = open.inflight.checked_sub(1).expect("the operation was counted");
    }

    /// Whether another file may be opened. Asked before it is, and never afterwards: one that was
    /// made, and then closed again because there is no place for it, would be in the way of the next
    /// attempt to make it. So those being opened may come on top of [`FILES_MAX`].
    pub(super) fn check_places(&self) -> io::Result<()> {
        match self.files.len() < FILES_MAX {
            true => Ok(()),
            false => Err(Errno::MFILE.into()),
        }
    }

    /// Registers a file that is open.
    pub(super) fn adopt(&mut self, fd: OwnedFd, name: &str) -> FileId {
        let id = self.next_id;
        self.next_id = id.checked_add(1).expect("file numbers do not run out");
        self.files.push(OpenFile { id, fd, name: name.to_owned(), inflight: 0 });
        FileId(id)
    }

    /// A file has been renamed: messages about it, where it is open, say the new name. Another one
    /// that stood there keeps the name that it was opened by.
    pub(super) fn renamed(&mut self, from: &str, to: &str) {
        for open in self.files.iter_mut().filter(|open| open.name == from) {
            to.clone_into(&mut open.name);
        }
    }

    /// Refuses a file system whose O_DIRECT wants more than the log's block.
    pub(super) fn check_alignment(&self) -> io::Result<()> {
        let Some((path, _)) = &self.root else { return Ok(()) };
        match direct_io_alignment(path)? {
            Some(alignment) if alignment.exceeds(BLOCK_SIZE) => Err(io::Error::other(format!(
                "O_DIRECT needs blocks of {} bytes here; the log writes blocks of {BLOCK_SIZE}",
                alignment.offset_bytes.max(alignment.memory_bytes)
            ))),
            _ => Ok(()),
        }
    }
}

/// A name is relative and stays inside the data directory.
pub(super) fn check_name(name: &str) -> io::Result<&str> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !plain || name.contains('\0') {
        let text = format!("{name:?} is not a name inside the data directory");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(name)
}

/// As [`check_name`], where the empty name is the data directory itself.
pub(super) fn check_folder(folder: &str) -> io::Result<&str> {
    if folder.is_empty() { Ok(".") } else { check_name(folder) }
}

/// The flags of `openat` for `options`.
pub(super) fn open_flags(options: FileOptions) -> OFlags {
    let direct = OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match options {
        FileOptions::Read => direct | OFlags::RDONLY,
        FileOptions::ReadWrite => direct | OFlags::RDWR,
        FileOptions::CreateNew => direct | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
    }
}

/// The access rights a new file gets.
pub(super) fn file_mode() -> Mode {
    Mode::from_raw_mode(FILE_MODE)
}

/// A system that refuses O_DIRECT says only "invalid argument"; this says why.
pub(super) fn explain_open(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::EINVAL) {
        let text = "the file system has no O_DIRECT; put the data directory on a real disk";
        return io::Error::new(io::ErrorKind::Unsupported, text);
    }
    error
}

/// # Panics
/// When offset, length or address is not a multiple of the block: O_DIRECT would refuse it.
pub(super) fn assert_aligned(offset: u64, address: *const u8, length: usize) {
    let block = BLOCK_SIZE as u64;
    assert!(offset.is_multiple_of(block), "offset {offset} is not block-aligned");
    assert!(length.is_multiple_of(BLOCK_SIZE), "a length of {length} bytes is not block-aligned");
    assert!((address as usize).is_multiple_of(BLOCK_SIZE), "the memory is not block-aligned");
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    rustix::io::retry_on_intr(&mut call).map_err(io::Error::from)
}

impl Storage for DirectStorage {
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId> {
        let root = self.root()?;
        let name = check_name(name)?;
        self.check_places()?;
        let flags = open_flags(options);
        let fd = retry(|| rustix::fs::openat(root, name, flags, file_mode()));
        Ok(self.adopt(fd.map_err(explain_open)?, name))
    }

    fn close(&mut self, file: FileId) {
        if let Ok(index) = self.files.binary_search_by_key(&file.0, |open| open.id) {
            // Closing now would let the number of the descriptor be reused by another file
            // before a queued operation reaches the kernel: it would write into that file.
            assert_eq!(self.files[index].inflight, 0, "a file in use is not closed");
            self.files.remove(index);
        }
    }

    fn len(&mut self, file: FileId) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.find(file)?.fd)?;
        Ok(stat.st_size as u64)
    }

    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize> {
        assert_aligned(offset, buffer.as_ptr(), length);
        let fd = &self.find(file)?.fd;
        let mut done = 0;
        while done < length {
            let part = &mut buffer[done..length];
            let count = retry(|| rustix::io::pread(fd, &mut *part, offset + done as u64))?;
            done += count;
            // An O_DIRECT read ends inside a block only at the end of the file; going on from
            // there would be misaligned.
            if count == 0 || !done.is_multiple_of(BLOCK_SIZE) {
                break;
            }
        }
        Ok(done)
    }

    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()> {
        assert_aligned(offset, buffer.as_ptr(), length);
        let fd = &self.find(file)?.fd;
        let mut done = 0;
        while done < length {
            let part = &buffer[done..length];
            let count = retry(|| rustix::io::pwrite(fd, part, offset + done as u64))?;
            done += count;
            if count == 0 || !done.is_multiple_of(BLOCK_SIZE) {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        // Not retried after a failure: the kernel may have dropped the dirty pages (IO.md).
        Ok(rustix::fs::fsync(&self.find(file)?.fd)?)
    }

    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = check_folder(folder)?;
        let fd = rustix::fs::openat(self.root()?, folder, flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(fd)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => {
                    let text = format!("{:?} is not a name of ours", entry.file_name());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_folder(&mut self, folder: &str) -> io::Result<()> {
        let mode = Mode::from_raw_mode(FOLDER_MODE);
        match rustix::fs::mkdirat(self.root()?, check_name(folder)?, mode) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        let fd = self.open_folder(folder)?;
        Ok(rustix::fs::fsync(fd)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.root()?, check_name(name)?, AtFlags::empty())?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let root = self.root()?;
        rustix::fs::renameat(root, check_name(from)?, root, check_name(to)?)?;
        self.renamed(from, to);
        Ok(())
    }
}

impl DirectStorage {
    /// A folder's descriptor, to sync it.
    pub(super) fn open_folder(&self, folder: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.root()?, check_folder(folder)?, flags, Mode::empty())?)
    }
}
