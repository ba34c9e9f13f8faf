//! What this machine offers: kernel, io_uring, file system, block device, limits, processor.
//!
//! Called by `doctor`, `bench`, `serve` and [`super::Uring::new`]. Reads `/proc` and `/sys` and
//! changes nothing. A fact that cannot be read is absent, not guessed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};
use serde::Serialize;

/// The major and minor number of a Linux kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KernelVersion {
    /// 6 of 6.1.
    pub major: u32,
    /// 1 of 6.1.
    pub minor: u32,
}

impl KernelVersion {
    /// The running kernel; 0.0 when its name cannot be read.
    pub fn running() -> KernelVersion {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        KernelVersion::parse(&release).unwrap_or(KernelVersion { major: 0, minor: 0 })
    }

    /// Reads "6.18.44-something".
    pub fn parse(release: &str) -> Option<KernelVersion> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(KernelVersion { major, minor })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why io_uring is refused, and what to change.
pub fn explain_ring_error(error: &io::Error) -> String {
    explain(error, read_number("/proc/sys/kernel/io_uring_disabled"))
}

fn explain(error: &io::Error, disabled_level: Option<u64>) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring or a system call filter hides it: use \
             Linux 6.1 or newer, and a container profile that allows io_uring"
            .to_owned(),
        Some(libc::EPERM | libc::EACCES) => match disabled_level {
            Some(0) | None => "a container's seccomp profile or a security module forbids it: \
                 allow io_uring_setup, io_uring_enter and io_uring_register (for example \
                 --security-opt seccomp=unconfined)"
                .to_owned(),
            Some(level) => format!(
                "kernel.io_uring_disabled is {level}: set it to 0 (sysctl -w \
                 kernel.io_uring_disabled=0)"
            ),
        },
        Some(libc::ENOMEM) => "the limit of locked memory is too small: raise it (ulimit -l, or \
             LimitMEMLOCK= of the service)"
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "there are no descriptors left: raise the limit of open files (ulimit -n)".to_owned()
        }
        _ => "the kernel refused it".to_owned(),
    }
}

/// Whether a ring can be made, and if not, why.
#[derive(Clone, Debug, Serialize)]
pub struct RingProbe {
    /// A ring was made and works.
    pub available: bool,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    pub disabled_level: Option<u64>,
    /// What is wrong and what to change.
    pub problem: Option<String>,
}

/// Alignment that O_DIRECT asks for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DirectIoAlignment {
    /// Of the memory.
    pub memory_bytes: u32,
    /// Of offsets and lengths.
    pub offset_bytes: u32,
}

impl DirectIoAlignment {
    /// Whether transfers in units of `block` bytes would be misaligned.
    pub fn exceeds(self, block: usize) -> bool {
        let misfit = |bytes: u32| bytes == 0 || !block.is_multiple_of(bytes as usize);
        misfit(self.memory_bytes) || misfit(self.offset_bytes)
    }
}

/// The file system below a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Filesystem {
    /// Its type, for example "ext4".
    pub kind: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// What is mounted, for example "/dev/vda".
    pub source: String,
    /// Whether it lives in memory: a flush costs nothing there and keeps nothing.
    pub in_memory: bool,
    /// Whether it is a container's own layer: what is written there goes when the container is removed.
    pub in_container: bool,
    /// Bytes free for this process.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The block device below a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockDevice {
    /// Its name in `/sys/block`, the partition left out.
    pub name: String,
    /// The maker's word for it.
    pub model: Option<String>,
    /// "write back" (volatile: needs flushes) or "write through".
    pub write_cache: Option<String>,
    /// Whether one write can be made durable by itself (force unit access).
    pub fua: Option<bool>,
    /// Whether it turns.
    pub rotational: Option<bool>,
    /// The unit that is written as a whole, in bytes.
    pub physical_block_bytes: Option<u64>,
    /// The unit of addressing, in bytes.
    pub logical_block_bytes: Option<u64>,
    /// The scheduler in use.
    pub scheduler: Option<String>,
}

/// Facts about the machine that decide performance and whether Loggos runs at all.
#[derive(Clone, Debug, Serialize)]
pub struct HostReport {
    /// The kernel's full release name.
    pub kernel: String,
    /// The same as numbers.
    pub kernel_version: KernelVersion,
    /// Whether io_uring works.
    pub ring: RingProbe,
    /// Processors this process may use.
    pub cpus: usize,
    /// The processor's name.
    pub cpu_model: Option<String>,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// The limit of locked memory in bytes; absent when there is none.
    pub memlock_bytes: Option<u64>,
    /// The limit of open files that a process starts with; absent when there is none.
    pub open_files: Option<u64>,
    /// How far a process may raise that by itself; absent when there is no limit.
    pub open_files_hard: Option<u64>,
    /// The kernel's clock source: "tsc" is cheap to read, "hpet" or "acpi_pm" is not.
    pub clock_source: Option<String>,
    /// The smallest step of the clock in nanoseconds.
    pub clock_resolution_ns: u64,
    /// TCP's congestion control.
    pub tcp_congestion: Option<String>,
    /// The file system of the path asked about.
    pub filesystem: Option<Filesystem>,
    /// Its block device, where there is one.
    pub device: Option<BlockDevice>,
    /// O_DIRECT's alignment there; absent where the kernel does not tell.
    pub direct_io: Option<DirectIoAlignment>,
    /// Whether O_DIRECT files can be made there.
    pub direct_io_works: Option<bool>,
}

/// Looks at this machine and, when given, at the file system of `path` (which must exist).
pub fn probe(path: Option<&Path>) -> HostReport {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let filesystem = path.and_then(|path| filesystem_of(path).ok());
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    HostReport {
        kernel_version: KernelVersion::running(),
        kernel: release,
        ring: probe_ring(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        cpu_model: cpu_model(),
        memory_bytes: memory_bytes(),
        memlock_bytes: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        open_files: files.current,
        open_files_hard: files.maximum,
        clock_source: read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        clock_resolution_ns: clock_resolution_ns(),
        tcp_congestion: read_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        device: path.and_then(device_of),
        direct_io: path.and_then(|path| direct_io_alignment(path).ok().flatten()),
        direct_io_works: path.map(direct_io_works),
        filesystem,
    }
}

/// Makes a small ring and runs its self-test.
pub fn probe_ring() -> RingProbe {
    let options = super::UringOptions {
        submission_entries: 8,
        completion_entries: 16,
        recv_buffers: 2,
        recv_buffer_bytes: 4096,
        connections_max: 2,
        ..super::UringOptions::default()
    };
    let problem = super::Uring::new(None, options).err().map(|error| error.to_string());
    let disabled_level = read_number("/proc/sys/kernel/io_uring_disabled");
    RingProbe { available: problem.is_none(), disabled_level, problem }
}

/// `f_type` of overlayfs (statfs(2)).
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

impl Filesystem {
    /// What an operator should know before data is kept here.
    pub fn warning(&self) -> Option<&'static str> {
        self.in_container.then_some(
            "the data is on overlayfs, a container's own layer, and goes when the container is removed: \
             put it on a volume",
        )
    }
}

/// The file system of an existing path; refuses one that lives in memory.
///
/// # Errors
/// With a message for the user: when the path lies on tmpfs or ramfs, or cannot be looked at.
pub fn require_real_disk(path: &Path) -> io::Result<Filesystem> {
    let filesystem = filesystem_of(path)?;
    if filesystem.in_memory {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} is on {}, which lives in memory: a flush costs and keeps nothing there; \
                 choose a folder on a real disk",
                path.display(),
                filesystem.kind
            ),
        ));
    }
    Ok(filesystem)
}

/// The file system of an existing path.
///
/// # Errors
/// When the path does not exist or the mount table cannot be read.
pub fn filesystem_of(path: &Path) -> io::Result<Filesystem> {
    let cannot = |what: &str| {
        let what = format!("{what} {}", path.display());
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    let real = path.canonicalize().map_err(cannot("resolving the path"))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(cannot("reading /proc/self/mountinfo for"))?;
    let mount = table
        .lines()
        .filter_map(parse_mount)
        .filter(|mount| real.starts_with(&mount.mount_point))
        // The last of equal length covers the earlier ones.
        .max_by_key(|mount| mount.mount_point.as_os_str().len())
        .ok_or_else(|| io::Error::other("it is on no mounted file system"))
        .map_err(cannot("looking for the file system of"))?;
    let stat = rustix::fs::statfs(&real).map_err(io::Error::from).map_err(cannot("statfs of"))?;
    let unit = stat.f_bsize as u64;
    Ok(Filesystem {
        in_memory: matches!(mount.kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs"),
        in_container: u64::try_from(stat.f_type) == Ok(OVERLAYFS_MAGIC),
        free_bytes: stat.f_bavail * unit,
        total_bytes: stat.f_blocks * unit,
        ..mount
    })
}

/// One line of `/proc/self/mountinfo`: `id parent dev root POINT options [tags] - KIND SOURCE …`.
fn parse_mount(line: &str) -> Option<Filesystem> {
    let (before, after) = line.split_once(" - ")?;
    let mount_point = unescape(before.split(' ').nth(4)?).into();
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let source = unescape(after.next()?);
    Some(Filesystem {
        kind,
        mount_point,
        source,
        in_memory: false,
        in_container: false,
        free_bytes: 0,
        total_bytes: 0,
    })
}

/// The mount table writes space, tab, newline and backslash as `\040` and the like.
fn unescape(text: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What O_DIRECT asks for on the file system of `path`; `None` where the kernel does not tell (it
/// tells for regular files, from 6.1 on).
///
/// # Errors
/// When the path cannot be looked at.
pub fn direct_io_alignment(path: &Path) -> io::Result<Option<DirectIoAlignment>> {
    // Only regular files have an answer; a folder is asked through a nameless file in it.
    let file = if path.is_dir() { nameless_file(path)? } else { std::fs::File::open(path)? };
    let flags = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, flags)?;
    let told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && stat.stx_dio_offset_align != 0;
    Ok(told.then_some(DirectIoAlignment {
        memory_bytes: stat.stx_dio_mem_align,
        offset_bytes: stat.stx_dio_offset_align,
    }))
}

fn nameless_file(folder: &Path) -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(fd.into()),
        // A file system without nameless files: one with a name, removed at once.
        Err(_) => tempfile::tempfile_in(folder),
    }
}

fn direct_io_works(path: &Path) -> bool {
    use rustix::fs::{Mode, OFlags};
    let Ok(file) = tempfile::NamedTempFile::new_in(path) else { return false };
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(file.path(), flags, Mode::empty()).is_ok()
}

/// The block device of the file system of `path`.
pub fn device_of(path: &Path) -> Option<BlockDevice> {
    let number = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let mut folder = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if folder.join("partition").exists() {
        folder.pop();
    }
    let queue = folder.join("queue");
    let text = |path: PathBuf| read_line(path).filter(|text| !text.is_empty());
    let number = |name: &str| read_number(queue.join(name));
    let scheduler = text(queue.join("scheduler"));
    Some(BlockDevice {
        name: folder.file_name()?.to_string_lossy().into_owned(),
        model: text(folder.join("device/model")),
        write_cache: text(queue.join("write_cache")),
        fua: number("fua").map(|value| value != 0),
        rotational: number("rotational").map(|value| value != 0),
        physical_block_bytes: number("physical_block_size"),
        logical_block_bytes: number("logical_block_size"),
        // The one in use stands in brackets among the others.
        scheduler: scheduler.map(|text| match text.split_once('[') {
            Some((_, rest)) => rest.split(']').next().unwrap_or(rest).to_owned(),
            None => text,
        }),
    })
}

pub(super) fn read_line(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    read_line(path)?.parse().ok()
}

fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let bytes = info.totalram as u64 * u64::from(info.mem_unit);
    bytes
}

fn clock_resolution_ns() -> u64 {
    let step = rustix::time::clock_getres(rustix::time::ClockId::Boottime);
    step.tv_sec as u64 * 1_000_000_000 + step.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_the_cause_and_the_remedy() {
        let text = |errno, level| explain(&io::Error::from_raw_os_error(errno), level);
        assert!(text(libc::ENOSYS, None).contains("6.1 or newer"));
        for errno in [libc::EPERM, libc::EACCES] {
            assert!(text(errno, Some(0)).contains("seccomp=unconfined"));
            assert!(text(errno, None).contains("seccomp=unconfined"));
            assert!(text(errno, Some(2)).contains("io_uring_disabled is 2"));
            assert!(text(errno, Some(1)).contains("sysctl -w kernel.io_uring_disabled=0"));
        }
        assert!(text(libc::ENOMEM, None).contains("ulimit -l"));
        assert!(text(libc::EMFILE, None).contains("ulimit -n"));
        assert!(!text(libc::EIO, None).is_empty());
    }

    #[test]
    fn kernel_versions_are_read_and_ordered() {
        let parse = |text| KernelVersion::parse(text);
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(parse("6.18.44-fc-v595"), version(6, 18));
        assert_eq!(parse("6.1"), version(6, 1));
        assert_eq!(parse("5.15.0-91-generic"), version(5, 15));
        assert_eq!((parse(""), parse("six")), (None, None));
        assert!(parse("6.9.1") < parse("6.10.0"));
    }

    #[test]
    fn overlayfs_is_warned_of() {
        let found = parse_mount("36 35 0:40 / / rw - overlay overlay rw,lowerdir=/a").unwrap();
        assert_eq!(found.warning(), None);
        let layer = Filesystem { in_container: true, ..found };
        assert!(layer.warning().unwrap().contains("volume"));
    }

    #[test]
    fn mount_tables_are_read() {
        let line = "36 35 98:0 / /mnt/my\\040disk rw,noatime shared:1 - ext4 /dev/vdb rw";
        let found = parse_mount(line).unwrap();
        assert_eq!((found.kind.as_str(), found.source.as_str()), ("ext4", "/dev/vdb"));
        assert_eq!(found.mount_point, Path::new("/mnt/my disk"));
        assert_eq!(parse_mount("nonsense"), None);
    }
}
