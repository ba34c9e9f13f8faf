//! [`Storage`]: the blocking calls of start-up, `format` and `inspect`, and what they share with
//! the completions. They take no virtual time.

use std::io;

use crate::base::BlockBuf;
use crate::base::limits::BLOCK_SIZE;
use crate::io::{FileId, FileOptions, Storage};

use super::content::Content;
use super::faults::{OpFault, OpKind};
use super::names::{Inode, Node};
use super::ops::{assert_aligned, enospc};
use super::{Handle, SimDisk, counts};

impl SimDisk {
    fn fail_name(&mut self, fault: Option<OpFault>) -> io::Result<()> {
        match fault {
            None => Ok(()),
            Some(OpFault::Full) => {
                self.counters.hit(counts::FULL);
                Err(enospc())
            }
            Some(OpFault::NoFile) => {
                self.counters.hit(counts::NO_FILE);
                Err(io::Error::from_raw_os_error(libc::EMFILE))
            }
            Some(_) => {
                self.counters.hit(counts::NAME_ERROR);
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
    }

    /// Makes an empty file.
    pub(super) fn create_now(&mut self, name: &str) -> io::Result<Inode> {
        if self.used_bytes() >= self.options.capacity_bytes {
            self.counters.hit(counts::FULL);
            return Err(enospc());
        }
        let inode = Inode(self.next_inode);
        self.names.create(self.done, name, Node::File(inode))?;
        self.next_inode += 1;
        self.files.insert(inode, Content::default());
        Ok(inode)
    }

    pub(super) fn open_now(
        &mut self,
        name: &str,
        options: FileOptions,
        fault: Option<OpFault>,
    ) -> io::Result<FileId> {
        let creates = options == FileOptions::CreateNew;
        self.fail_name(fault.filter(|fault| creates || *fault != OpFault::Full))?;
        if self.handles.len() >= self.options.files_max {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let inode = match options {
            FileOptions::CreateNew => self.create_now(name)?,
            FileOptions::Read | FileOptions::ReadWrite => self.names.file(name)?,
        };
        let number = self.next_handle;
        self.next_handle += 1;
        let writable = options != FileOptions::Read;
        let handle = Handle { inode, name: name.to_owned(), writable, in_flight: 0 };
        self.handles.insert(number, handle);
        Ok(FileId(number))
    }

    pub(super) fn rename_now(
        &mut self,
        from: &str,
        to: &str,
        fault: Option<OpFault>,
    ) -> io::Result<()> {
        self.fail_name(fault.filter(|fault| *fault != OpFault::NoFile))?;
        self.names.rename(self.done, from, to)?;
        let inode = self.names.file(to)?;
        for handle in self.handles.values_mut().filter(|handle| handle.inode == inode) {
            to.clone_into(&mut handle.name);
        }
        // Under a new name a file starts anew: a segment that is used again.
        self.files.get_mut(&inode).expect("a named file stands").forget_acknowledged();
        self.collect_garbage();
        Ok(())
    }

    pub(super) fn sync_folder_now(
        &mut self,
        folder: &str,
        done_before: u64,
        fault: Option<OpFault>,
    ) -> io::Result<()> {
        if !self.names.has_folder(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.counters.hit(counts::FLUSHES);
        if fault.is_some() {
            self.counters.hit(counts::FLUSH_ERROR);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.names.synced(folder, done_before);
        self.collect_garbage();
        Ok(())
    }
}

impl Storage for SimDisk {
    fn open(&mut self, name: &str, options: FileOptions) -> io::Result<FileId> {
        let fault = self.draw_fault(OpKind::Name);
        self.done += 1;
        self.open_now(name, options, fault)
    }

    fn close(&mut self, file: FileId) {
        if let Some(handle) = self.handles.get(&file.0) {
            assert_eq!(handle.in_flight, 0, "a file in use is not closed: {}", handle.name);
            let inode = handle.inode;
            self.handles.remove(&file.0);
            if !self.names.mentions(inode) {
                self.collect_garbage();
            }
        }
    }

    fn len(&mut self, file: FileId) -> io::Result<u64> {
        Ok(self.files[&self.inode(file)?].length())
    }

    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut BlockBuf,
        length: usize,
    ) -> io::Result<usize> {
        assert_aligned(offset, length);
        let inode = self.inode(file)?;
        let fault = self.draw_fault(OpKind::Read);
        self.read_now(inode, offset, &mut buffer[..length], fault)
    }

    fn write_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &BlockBuf,
        length: usize,
    ) -> io::Result<()> {
        assert_aligned(offset, length);
        let inode = self.inode(file)?;
        if !self.handles[&file.0].writable {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let fault = self.draw_fault(OpKind::Write);
        self.reserve(inode, offset + length as u64, fault)?;
        self.counters.hit(counts::WRITES);
        let order = self.next_order;
        self.next_order += 1;
        // Start-up mends what it may; what the node may overwrite while it runs is another matter.
        let content = self.files.get_mut(&inode).expect("an open file stands");
        content.forget_acknowledged_in(offset, length);
        let (_, told) = self.store(inode, offset, &buffer[..length], order, fault);
        self.done += 1;
        match told {
            Ok(count) if count == length => Ok(()),
            // The real one goes on after a short write, and fails when nothing more is taken.
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        let inode = self.inode(file)?;
        let fault = self.draw_fault(OpKind::Flush);
        // What a start-up finds and flushes may be a torn tail, which nobody was told of.
        self.flush_now(inode, self.done, false, fault)
    }

    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.names.list(folder)
    }

    fn create_folder(&mut self, folder: &str) -> io::Result<()> {
        self.done += 1;
        match self.names.create(self.done, folder, Node::Folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        let fault = self.draw_fault(OpKind::Flush);
        self.done += 1;
        self.sync_folder_now(folder, self.done, fault)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let fault = self.draw_fault(OpKind::Name);
        self.fail_name(fault.filter(|fault| *fault == OpFault::Error))?;
        self.done += 1;
        self.names.remove(self.done, name)?;
        self.collect_garbage();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let fault = self.draw_fault(OpKind::Name);
        self.done += 1;
        self.rename_now(from, to, fault)
    }
}

const _: () = assert!(BLOCK_SIZE.is_multiple_of(super::content::SECTOR_SIZE));
