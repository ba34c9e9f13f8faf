//! Reads the kernel's trace of operations that leave for a worker thread (io-wq), through a trace
//! instance of its own that goes when dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the kernel's trace files are when they are mounted.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// The event of an operation that leaves for a worker thread.
const EVENT: &str = "events/io_uring/io_uring_queue_async_work";

/// The trace, running.
pub struct AsyncWork {
    instance: PathBuf,
    /// Mounted by this value, for this thread alone.
    mounted: Option<tempfile::TempDir>,
}

impl AsyncWork {
    /// Starts to trace. To be called on a thread of the test's own: when the trace files are not
    /// mounted they are mounted in a name space that only this thread sees.
    ///
    /// # Errors
    /// With the reason, when this machine or this user has no such trace.
    pub fn start() -> Result<AsyncWork, String> {
        let mounted_already = MOUNTS.iter().map(Path::new).find(|path| path.join(EVENT).exists());
        let (root, mounted) = match mounted_already {
            Some(root) => (root.to_path_buf(), None),
            None => {
                let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
                mount(folder.path())
                    .map_err(|error| format!("tracefs cannot be mounted: {error}"))?;
                (folder.path().to_path_buf(), Some(folder))
            }
        };
        if !root.join(EVENT).exists() {
            return Err(format!("the kernel has no {EVENT}"));
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("instances/loggos-{}-{number}", std::process::id());
        let trace = AsyncWork { instance: root.join(name), mounted };
        fs::create_dir(&trace.instance).map_err(|error| format!("no trace instance: {error}"))?;
        trace.write("set_event_pid", &own_thread().to_string());
        trace.write(&format!("{EVENT}/enable"), "1");
        Ok(trace)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.instance.join(file), text).expect("the trace takes its settings");
    }

    /// The operations of this thread that have left for a worker since the last call.
    pub fn take(&self) -> Vec<String> {
        let text = fs::read_to_string(self.instance.join("trace")).expect("the trace can be read");
        self.write("trace", "");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }
}

impl Drop for AsyncWork {
    fn drop(&mut self) {
        // What cannot be removed (a test that panicked half way) only costs memory until reboot.
        drop(fs::write(self.instance.join(EVENT).join("enable"), "0"));
        drop(fs::remove_dir(&self.instance));
        if let Some(folder) = &self.mounted {
            drop(unmount(folder.path()));
        }
    }
}

fn own_thread() -> i32 {
    // SAFETY: asks for the number of the calling thread; touches no memory.
    unsafe { libc::gettid() }
}

fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no path has a zero byte")
}

/// Mounts tracefs where only this thread sees it.
fn mount(folder: &Path) -> io::Result<()> {
    let check = |result: i32| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let (name, path) = (c"tracefs", c_path(folder));
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: all strings end in zero and outlive the calls; only this thread's view changes.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(name.as_ptr(), c"/".as_ptr(), name.as_ptr(), private, std::ptr::null()))?;
        check(libc::mount(name.as_ptr(), path.as_ptr(), name.as_ptr(), 0, std::ptr::null()))
    }
}

fn unmount(folder: &Path) -> io::Result<()> {
    let path = c_path(folder);
    // SAFETY: the string ends in zero and outlives the call.
    match unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
