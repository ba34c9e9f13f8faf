//! One process per data directory.
//!
//! Called by `serve`, `format` and `inspect`. Guarantee: while a [`DirLock`] lives, no other
//! process holds one for the same directory; the kernel releases it when the process dies, but not
//! before the rings that hold it ([`super::Uring::hold_lock`]) have finished their last operations.
//! A killed process is gone at once, its writes in flight are not: whoever recovered the log from
//! under them would trust blocks that still change.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// How long a directory in use is tried before it is refused. A dead process's io_uring keeps its
/// files for a moment; waiting for the lock also waits for that process's last writes.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);

/// The pause between two attempts.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The name of the lock file within the data directory.
pub const LOCK_FILE: &str = "LOCK";

/// The right to a data directory; given back when dropped.
#[derive(Debug)]
pub struct DirLock {
    pub(super) file: OwnedFd,
}

/// Why a data directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by another process: stop that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Failed {
        /// The directory.
        path: PathBuf,
        /// The system's own word.
        source: std::io::Error,
    },
}

/// Locks the directory `path` for this process, waiting up to three seconds for a dead owner's
/// remains to go.
///
/// # Errors
/// When another process holds it, or the lock file in it cannot be made.
pub fn lock_data_dir(path: impl AsRef<Path>) -> Result<DirLock, LockError> {
    lock_within(path.as_ref(), LOCK_WAIT_MAX)
}

/// Locks the directory `path` for a reader that changes nothing, not even the lock file: of a read-only
/// file system, of another owner, or a copy without one. `None` when there is nothing to lock, so that
/// no process of this host can be using it.
///
/// # Errors
/// When another process holds it.
pub fn lock_data_dir_to_read(path: impl AsRef<Path>) -> Result<Option<DirLock>, LockError> {
    match open_lock(path.as_ref(), OFlags::RDONLY) {
        Ok(file) => lock_file(path.as_ref(), file, LOCK_WAIT_MAX).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(path.as_ref(), error)),
    }
}

fn failed(path: &Path, error: Errno) -> LockError {
    LockError::Failed { path: path.to_path_buf(), source: error.into() }
}

/// A file of its own: the directory itself may be opened by anybody who only looks.
fn open_lock(path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path.join(LOCK_FILE), flags, Mode::from_raw_mode(0o640))
}

pub(super) fn lock_within(path: &Path, wait_max: Duration) -> Result<DirLock, LockError> {
    let file = open_lock(path, OFlags::RDWR | OFlags::CREATE);
    lock_file(path, file.map_err(|error| failed(path, error))?, wait_max)
}

fn lock_file(path: &Path, file: OwnedFd, wait_max: Duration) -> Result<DirLock, LockError> {
    let started = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(DirLock { file }),
            Err(Errno::WOULDBLOCK) if started.elapsed() < wait_max => {
                // flock has no timeout of its own; polling it is the only bounded wait.
                std::thread::sleep(LOCK_RETRY);
            }
            Err(Errno::WOULDBLOCK) => return Err(LockError::InUse { path: path.to_path_buf() }),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_waits_is_refused_and_succeeds_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock_data_dir(dir.path()).unwrap();
        let refused = lock_within(dir.path(), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(refused, LockError::InUse { .. }));
        assert!(refused.to_string().contains("in use"), "{refused}");
        let path = dir.path().to_path_buf();
        let waiting = std::thread::spawn(move || lock_data_dir(path).map(drop));
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_reader_makes_no_lock_file_and_heeds_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock_data_dir_to_read(dir.path()).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let first = lock_data_dir(dir.path()).unwrap();
        let refused = lock_data_dir_to_read(dir.path()).unwrap_err();
        assert!(matches!(refused, LockError::InUse { .. }));
        drop(first);
        assert!(lock_data_dir_to_read(dir.path()).unwrap().is_some());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = lock_data_dir("/nonexistent/loggos").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/loggos"), "{error}");
    }
}
