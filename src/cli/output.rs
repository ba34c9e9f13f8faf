//! Standard output for commands: buffered, and quiet when the reader has gone (`loggos read | head`).
//!
//! A command that has changed something says so before it prints what came of it: if that cannot be
//! printed then, it ends with the code for an unknown outcome, also when the reader has gone.

use std::io::{self, BufWriter, StdoutLock, Write};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;

use super::error::{CliError, Exit};

/// Bytes gathered for one write.
const BUFFER_BYTES: usize = 64 * 1024;

/// Locked and buffered standard output.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    /// What was done already, for the error message.
    effect: Option<String>,
}

impl Output {
    /// Standard output, for one command.
    pub fn stdout() -> Output {
        let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
        Output { out, effect: None }
    }

    /// From now on something has been done, in the words of `effect`: a whole sentence without its end.
    pub fn set_effect(&mut self, effect: String) {
        self.effect = Some(effect);
    }

    fn check(&self, written: io::Result<()>) -> Result<(), CliError> {
        written.map_err(|error| output_error(&error, self.effect.as_deref()))
    }

    /// Whether the reader of a pipe or socket has gone, without writing to it.
    pub fn is_closed(&self) -> bool {
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let broken = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let asked = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        // Whoever cannot be asked is written to: that fails, or it does not.
        asked.is_ok() && polled[0].revents().intersects(broken)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When standard output cannot be written; a closed pipe is the quiet end of a command that has
    /// changed nothing.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.out.write_all(bytes);
        self.check(written)
    }

    /// Writes a line of text.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn line(&mut self, text: &str) -> Result<(), CliError> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    /// Writes a JSON object as one line.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_vec(value).map_err(CliError::failed)?;
        self.write(&text)?;
        self.write(b"\n")
    }

    /// Shows what was written.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn flush(&mut self) -> Result<(), CliError> {
        let written = self.out.flush();
        self.check(written)
    }
}

fn output_error(error: &io::Error, effect: Option<&str>) -> CliError {
    match (error.kind(), effect) {
        (_, Some(effect)) => {
            CliError::unknown(format!("{effect}, and standard output cannot be written: {error}"))
        }
        // Whoever reads has seen enough. No message: there is nothing wrong.
        (io::ErrorKind::BrokenPipe, None) => CliError::new(Exit::Ok, ""),
        (_, None) => CliError::failed(format!("standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = output_error(&io::ErrorKind::BrokenPipe.into(), None);
        assert_eq!((error.exit, error.message.as_str()), (Exit::Ok, ""));
        let error = output_error(&io::ErrorKind::StorageFull.into(), None);
        assert_eq!(error.exit, Exit::Failed);
    }

    #[test]
    fn lost_output_after_an_effect_is_unknown() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull] {
            let error = output_error(&kind.into(), Some("it was done"));
            assert_eq!(error.exit, Exit::Unknown);
            assert!(error.message.starts_with("it was done, and standard output"), "{error}");
        }
    }
}
