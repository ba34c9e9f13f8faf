//! The kernel's side of a file system in user space, over /dev/fuse: mounting, requests, answers.
//!
//! As much of the protocol (version 7.31, `linux/fuse.h`) as a data directory needs. Little-endian
//! hosts only, as the log itself.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::cache::Attributes;

/// The most bytes in one write; the kernel splits larger ones.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// The kernel refuses to fill a smaller buffer than one for the largest write and its headers.
const REQUEST_BYTES_MAX: usize = WRITE_BYTES_MAX as usize + 64 * 1024;
const HEADER_BYTES: usize = 40;
/// Requests that wait on the device at once, of those that have no thread of their own.
const BACKGROUND_MAX: u16 = 256;

const ASYNC_READ: u32 = 1 << 0;
const BIG_WRITES: u32 = 1 << 5;
const ASYNC_DIO: u32 = 1 << 15;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;

/// Nothing of the file is kept in the kernel's page cache, whatever flags it is opened with, and
/// writes side by side stay so.
const DIRECT_IO: u32 = 1 << 0;
const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

const FOLDER_MODE: u32 = 0o040_750;
const FILE_MODE: u32 = 0o100_640;

/// What the kernel asks for.
#[derive(Debug)]
pub enum Ask<'a> {
    Init {
        minor: u32,
        flags: u32,
    },
    LookUp {
        name: &'a str,
    },
    Attributes,
    SetAttributes {
        length: Option<u64>,
    },
    MakeFolder {
        name: &'a str,
    },
    Remove {
        name: &'a str,
    },
    Rename {
        folder: u64,
        from: &'a str,
        to: &'a str,
    },
    Create {
        name: &'a str,
    },
    Open {
        cut_off: bool,
    },
    Read {
        offset: u64,
        length: usize,
    },
    Write {
        offset: u64,
        bytes: &'a [u8],
        durable: bool,
    },
    Allocate {
        offset: u64,
        length: u64,
        mode: u32,
    },
    Flush,
    Close,
    OpenFolder,
    ReadFolder {
        handle: u64,
        offset: u64,
        length: usize,
    },
    CloseFolder {
        handle: u64,
    },
    Space,
    /// What needs no answer.
    Notice,
    /// What may succeed with nothing done.
    Nothing,
    Unknown,
}

/// A request of the kernel.
#[derive(Debug)]
pub struct Request<'a> {
    pub id: u64,
    pub ino: u64,
    pub ask: Ask<'a>,
}

/// What this host lacks for a mount, or why it refuses.
pub fn mount(at: &Path) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode={:o},user_id=0,group_id=0,allow_other",
        device.as_raw_fd(),
        FOLDER_MODE & 0o170_000
    );
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("loggos-test-disk", at, "fuse", flags, options.as_c_str())?;
    Ok(device)
}

pub fn unmount(at: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(at, UnmountFlags::DETACH)?)
}

/// Room for a request.
pub fn request_buffer() -> Vec<u8> {
    vec![0; REQUEST_BYTES_MAX]
}

/// Waits for the next request and returns its length; `None` once it is unmounted.
pub fn receive(mut device: &File, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match device.read(buffer) {
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
                return Ok(None);
            }
            // A request that was taken back before it could be read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Answers a request.
pub fn answer(mut device: &File, id: u64, result: &Result<Vec<u8>, Errno>) -> io::Result<()> {
    let (error, body) = match result {
        Ok(body) => (0, body.as_slice()),
        Err(errno) => (-errno.raw_os_error(), [].as_slice()),
    };
    let mut out = Fields::default();
    out.u32(16 + body.len() as u32).u32(error as u32).u64(id);
    out.0.extend_from_slice(body);
    match device.write(&out.0) {
        // Nobody waits for it any more, or the mount is gone.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        other => other.map(drop),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
}

/// The name that begins at `at`, up to its zero.
fn name_at(bytes: &[u8], at: usize) -> &str {
    let name = bytes.get(at..).unwrap_or_default();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    // The tests have no other names; an empty one is found nowhere.
    std::str::from_utf8(&name[..end]).unwrap_or_default()
}

/// Takes a request apart.
pub fn parse(bytes: &[u8]) -> Request<'_> {
    let (operation, id, ino) = (u32_at(bytes, 4), u64_at(bytes, 8), u64_at(bytes, 16));
    let body = &bytes[HEADER_BYTES.min(bytes.len())..];
    let rename = |at: usize| {
        let from = name_at(body, at);
        Ask::Rename { folder: u64_at(body, 0), from, to: name_at(body, at + from.len() + 1) }
    };
    let durable_flags = (libc::O_DSYNC | libc::O_SYNC) as u32;
    let ask = match operation {
        1 => Ask::LookUp { name: name_at(body, 0) },
        // Forgotten numbers, singly and many; an interrupted request: it is answered all the same.
        2 | 36 | 42 => Ask::Notice,
        3 => Ask::Attributes,
        4 => {
            let with_length = u32_at(body, 0) & (1 << 3) != 0;
            Ask::SetAttributes { length: with_length.then(|| u64_at(body, 16)) }
        }
        9 => Ask::MakeFolder { name: name_at(body, 8) },
        10 | 11 => Ask::Remove { name: name_at(body, 0) },
        12 => rename(8),
        45 if u32_at(body, 8) == 0 => rename(16),
        14 => Ask::Open { cut_off: u32_at(body, 0) & libc::O_TRUNC as u32 != 0 },
        15 => Ask::Read { offset: u64_at(body, 8), length: u32_at(body, 16) as usize },
        16 => Ask::Write {
            offset: u64_at(body, 8),
            bytes: &body[40..][..u32_at(body, 16) as usize],
            durable: u32_at(body, 32) & durable_flags != 0,
        },
        17 => Ask::Space,
        18 => Ask::Close,
        20 | 30 => Ask::Flush,
        // A close of one of several descriptors; the end of the mount.
        25 | 38 => Ask::Nothing,
        26 => Ask::Init { minor: u32_at(body, 4), flags: u32_at(body, 12) },
        27 => Ask::OpenFolder,
        28 => Ask::ReadFolder {
            handle: u64_at(body, 0),
            offset: u64_at(body, 8),
            length: u32_at(body, 16) as usize,
        },
        29 => Ask::CloseFolder { handle: u64_at(body, 0) },
        35 => Ask::Create { name: name_at(body, 16) },
        43 => Ask::Allocate {
            offset: u64_at(body, 8),
            length: u64_at(body, 16),
            mode: u32_at(body, 24),
        },
        _ => Ask::Unknown,
    };
    Request { id, ino, ask }
}

/// Builds an answer's body.
#[derive(Debug, Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    fn u16(&mut self, value: u16) -> &mut Fields {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Fields {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Fields {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Fields {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    fn attributes(&mut self, of: Attributes) -> &mut Fields {
        let Attributes { ino, is_folder, length } = of;
        let mode = if is_folder { FOLDER_MODE } else { FILE_MODE };
        self.u64(ino).u64(length).u64(length.div_ceil(512));
        // No times: three of seconds, three of nanoseconds.
        self.zeros(3 * 8 + 3 * 4);
        let links = if is_folder { 2 } else { 1 };
        // Owner, group and device are 0.
        self.u32(mode).u32(links).zeros(3 * 4).u32(4096).u32(0)
    }
}

pub fn init_answer(minor: u32, flags: u32) -> Vec<u8> {
    let wanted = ASYNC_READ | BIG_WRITES | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES;
    let mut out = Fields::default();
    out.u32(7).u32(minor.min(31)).u32(0).u32(flags & wanted);
    out.u16(BACKGROUND_MAX).u16(BACKGROUND_MAX).u32(WRITE_BYTES_MAX).u32(1);
    out.u16((WRITE_BYTES_MAX / 4096) as u16).zeros(64 - 30);
    out.0
}

/// What a name leads to. The kernel asks again each time: after a power cut it may be another file.
pub fn entry_answer(of: Attributes) -> Vec<u8> {
    let mut out = Fields::default();
    out.u64(of.ino).zeros(32).attributes(of);
    out.0
}

pub fn attributes_answer(of: Attributes) -> Vec<u8> {
    let mut out = Fields::default();
    out.zeros(16).attributes(of);
    out.0
}

pub fn open_answer(handle: u64) -> Vec<u8> {
    let mut out = Fields::default();
    out.u64(handle).u32(DIRECT_IO | PARALLEL_DIRECT_WRITES).u32(0);
    out.0
}

pub fn open_folder_answer(handle: u64) -> Vec<u8> {
    let mut out = Fields::default();
    out.u64(handle).zeros(8);
    out.0
}

pub fn create_answer(of: Attributes) -> Vec<u8> {
    let mut out = entry_answer(of);
    out.extend(open_answer(of.ino));
    out
}

pub fn write_answer(count: usize) -> Vec<u8> {
    let mut out = Fields::default();
    out.u32(count as u32).u32(0);
    out.0
}

/// A disk with plenty of room.
pub fn space_answer() -> Vec<u8> {
    let blocks = 1 << 24;
    let mut out = Fields::default();
    out.u64(blocks).u64(blocks).u64(blocks).u64(1 << 20).u64(1 << 20);
    out.u32(4096).u32(255).u32(4096).zeros(28);
    out.0
}

/// As many of `names`, from place `offset` on, as fit `length` bytes.
pub fn folder_answer(names: &[(String, u64)], offset: u64, length: usize) -> Vec<u8> {
    let mut out = Fields::default();
    for (index, (name, ino)) in names.iter().enumerate().skip(offset as usize) {
        let padded = (24 + name.len()).next_multiple_of(8);
        if out.0.len() + padded > length {
            break;
        }
        out.u64(*ino).u64(index as u64 + 1).u32(name.len() as u32).u32(0);
        out.0.extend_from_slice(name.as_bytes());
        out.zeros(padded - 24 - name.len());
    }
    out.0
}
