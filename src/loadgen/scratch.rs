//! The folder of an embedded cluster. It goes with the bench that made it, however that ends.
//!
//! Used by `local`. Whoever ends in order removes the folder. A bench that was killed cannot: a
//! process of its own, the janitor, sees the pipe between them close and removes it then. Should that
//! one have been killed too, the next bench in the same parent folder does ([`Scratch::make`]). A
//! folder is only ever removed when it holds the owner's file, and nobody holds the lock on that.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tempfile::TempDir;

/// How the folders are called; a random part follows.
const PREFIX: &str = "loggos-bench-";
/// Locked for as long as the owner lives.
const OWNER: &str = "owner";
const OWNER_NEW: &str = "owner.new";
/// How long a janitor tries to remove a folder in which processes are still ending.
pub const REMOVE_MAX: Duration = Duration::from_secs(10);
const REMOVE_RETRY: Duration = Duration::from_millis(50);

/// A folder that is removed when this is dropped, or when the process has ended.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    /// Holds the lock.
    _owner: File,
    janitor: Option<Child>,
}

impl Scratch {
    /// Makes a folder in `parent`, and removes those that dead owners left there. `executable` is
    /// this one: its `bench janitor` is the janitor.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn make(parent: &Path, executable: &Path) -> io::Result<Scratch> {
        clear_dead(parent);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let owner = File::create_new(folder.path().join(OWNER_NEW))?;
        flock(&owner, FlockOperation::NonBlockingLockExclusive)?;
        // Under this name it is locked from the first moment on.
        std::fs::rename(folder.path().join(OWNER_NEW), folder.path().join(OWNER))?;
        let janitor = Command::new(executable)
            .args(["bench", "janitor"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends the owner's group, as Ctrl-C does, is not for it.
            .process_group(0)
            .spawn();
        if let Err(error) = &janitor {
            tracing::warn!(%error, "no janitor: were this process killed, its data would stay");
        }
        Ok(Scratch { folder, _owner: owner, janitor: janitor.ok() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        let Scratch { folder, janitor, .. } = self;
        let removed = folder.close();
        dismiss(janitor);
        removed
    }

    /// Leaves it where it is, for good.
    ///
    /// # Errors
    /// When it could not be told from one that is to be removed.
    pub fn keep(self) -> io::Result<PathBuf> {
        let Scratch { folder, janitor, .. } = self;
        std::fs::remove_file(folder.path().join(OWNER))?;
        dismiss(janitor);
        Ok(folder.keep())
    }
}

fn dismiss(janitor: Option<Child>) {
    let Some(mut janitor) = janitor else { return };
    if let Err(error) = janitor.kill().and_then(|()| janitor.wait()) {
        tracing::debug!(%error, "the janitor has ended already");
    }
}

/// Removes the folders in `parent` whose owners have ended.
fn clear_dead(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_ours || !is_dead(&entry.path()) {
            continue;
        }
        let path = entry.path();
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what a killed bench left"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a killed bench left data here");
            }
        }
    }
}

/// Whether `folder` is one of this user's whose owner has ended.
fn is_dead(folder: &Path) -> bool {
    let mine = rustix::process::geteuid().as_raw();
    let metadata = std::fs::symlink_metadata(folder);
    if !metadata.is_ok_and(|found| found.is_dir() && found.uid() == mine) {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let owner = rustix::fs::open(folder.join(OWNER), flags, Mode::empty());
    owner.is_ok_and(|owner| flock(owner, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// The janitor: waits until `owner_alive` ends, then tries for as long as `try_for` to remove `folder`, if
/// its owner has not removed or kept it.
///
/// # Errors
/// When it cannot be removed.
pub fn watch(folder: &Path, mut owner_alive: impl Read, try_for: Duration) -> io::Result<()> {
    let mut ignored = [0; 64];
    loop {
        match owner_alive.read(&mut ignored) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let give_up = Instant::now() + try_for;
    // Not at once: the owner's lock goes a moment after its end of the pipe, and its nodes, which die
    // with it, may write until they have.
    while folder.join(OWNER).exists() && Instant::now() < give_up {
        if is_dead(folder) && std::fs::remove_dir_all(folder).is_ok() {
            return Ok(());
        }
        std::thread::sleep(REMOVE_RETRY);
    }
    match folder.join(OWNER).exists() {
        true => Err(io::Error::other(format!("{} is in use, or stays", folder.display()))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(parent: &Path) -> Scratch {
        // Ends at once, as if it had been killed.
        Scratch::make(parent, Path::new("/bin/true")).unwrap()
    }

    fn names(parent: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(parent).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// What a killed owner leaves: the lock goes, the folder stays.
    fn abandon(scratch: Scratch) -> PathBuf {
        let Scratch { folder, _owner, janitor } = scratch;
        drop(_owner);
        dismiss(janitor);
        folder.keep()
    }

    #[test]
    fn removed_in_order_and_kept_when_asked() {
        let parent = tempfile::tempdir().unwrap();
        make(parent.path()).remove().unwrap();
        drop(make(parent.path()));
        assert!(names(parent.path()).is_empty());
        let kept = make(parent.path()).keep().unwrap();
        let other = make(parent.path());
        assert!(kept.is_dir() && other.path().is_dir());
    }

    #[test]
    fn what_a_killed_owner_left_is_cleared_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let left = abandon(make(parent.path()));
        std::fs::write(left.join("data"), b"much").unwrap();
        let stranger = parent.path().join("loggos-bench-notes");
        std::fs::create_dir(&stranger).unwrap();
        let linked = parent.path().join("loggos-bench-link");
        let living = make(parent.path());
        assert!(!left.exists(), "the next one has cleared it");
        std::os::unix::fs::symlink(living.path(), &linked).unwrap();
        let other = make(parent.path());
        assert!(stranger.is_dir() && living.path().is_dir() && other.path().is_dir());
        assert!(linked.exists());
    }

    #[test]
    fn the_janitor_removes_only_what_a_dead_owner_left() {
        let parent = tempfile::tempdir().unwrap();
        let living = make(parent.path());
        let short = Duration::from_millis(20);
        assert!(watch(living.path(), io::empty(), short).is_err());
        assert!(living.path().is_dir());
        let kept = living.keep().unwrap();
        watch(&kept, io::empty(), REMOVE_MAX).unwrap();
        assert!(kept.is_dir());
        let left = abandon(make(parent.path()));
        watch(&left, io::empty(), REMOVE_MAX).unwrap();
        assert!(!left.exists());
    }
}
