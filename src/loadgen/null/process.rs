//! The null server as a process of its own beside the bench, so that its CPU time is not the load
//! generator's: this very executable, `loggos bench null`.
//!
//! Started by `loggos bench --null`. The child is killed by its process id when this value is
//! dropped, and by the kernel when the parent ends without a chance to do so.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// What the null server's process prints before its address, once it listens.
pub const LISTENING: &str = "listening on ";

/// Why the null server does not run.
#[derive(Debug, thiserror::Error)]
pub enum NullProcessError {
    /// A system call failed.
    #[error("the null server cannot be started: {0}")]
    System(#[from] io::Error),
    /// It ended, or said something else than where it listens.
    #[error("the null server does not listen; it said `{said}` ({status})")]
    Silent {
        /// Its first line.
        said: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// A null server in a process of its own; dropping it ends it.
#[derive(Debug)]
pub struct NullProcess {
    child: Child,
    address: String,
}

impl NullProcess {
    /// Starts `executable` as a null server on a free port of this host.
    ///
    /// # Errors
    /// [`NullProcessError`]; nothing is left running then.
    pub fn start(executable: &Path) -> Result<NullProcess, NullProcessError> {
        let mut child = Command::new(executable)
            .args(["bench", "null", "--listen", "127.0.0.1:0"])
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C is for the parent, which ends it.
            .process_group(0)
            .spawn()?;
        let mut said = String::new();
        let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        match (read, said.trim().strip_prefix(LISTENING)) {
            (Some(Ok(_)), Some(address)) => {
                let address = address.to_owned();
                Ok(NullProcess { child, address })
            }
            (Some(Err(error)), _) => {
                end(&mut child)?;
                Err(error.into())
            }
            _ => {
                let status = end(&mut child)?;
                Err(NullProcessError::Silent { said: said.trim().to_owned(), status })
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn end(child: &mut Child) -> io::Result<ExitStatus> {
    // No error when it has ended by itself.
    child.kill()?;
    child.wait()
}

impl Drop for NullProcess {
    fn drop(&mut self) {
        if let Err(error) = end(&mut self.child) {
            tracing::warn!(%error, "the null server could not be ended");
        }
    }
}
