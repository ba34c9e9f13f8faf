//! Standard output for commands: buffered, and quiet when the reader has gone (`loggos read | head`).

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use super::error::{CliError, Exit};

/// Bytes gathered for one write.
const BUFFER_BYTES: usize = 64 * 1024;

/// Locked and buffered standard output.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Standard output, for one command.
    pub fn stdout() -> Output {
        Output { out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()) }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When standard output cannot be written; a closed pipe is the quiet end of the command.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).map_err(output_error)
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
        self.out.flush().map_err(output_error)
    }
}

fn output_error(error: io::Error) -> CliError {
    match error.kind() {
        // Whoever reads has seen enough. No message: there is nothing wrong.
        io::ErrorKind::BrokenPipe => CliError::new(Exit::Ok, ""),
        _ => CliError::failed(format!("standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = output_error(io::ErrorKind::BrokenPipe.into());
        assert_eq!((error.exit, error.message.as_str()), (Exit::Ok, ""));
        let error = output_error(io::ErrorKind::StorageFull.into());
        assert_eq!(error.exit, Exit::Failed);
    }
}
