//! Messages on a stream: a magic, two sizes, JSON, and the bytes that belong to it.
//!
//! Used by both ends. Nothing is read beyond what the reader says that it takes, and a message has to
//! be whole in a time that its reader and its writer name: an end that lives and sends a byte now and
//! then holds nobody.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{FrameError, Message, PARTS};
use crate::loadgen::histogram::INTERCHANGE_BYTES_MAX;

const MAGIC: [u8; 4] = *b"LGB1";
const HEAD_BYTES: usize = 12;

/// How large a message may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub json: usize,
    pub blob: usize,
}

/// Of a greeting, which anybody can send.
pub(super) const GREETING: Bounds = Bounds { json: 4 * 1024, blob: 0 };
/// Of a part of a run: up to ten thousand logs, and some addresses.
pub(super) const PART: Bounds = Bounds { json: 1024 * 1024, blob: 0 };
/// Of what an agent counted: five histograms.
pub(super) const COUNTS: Bounds = Bounds { json: 64 * 1024, blob: PARTS * INTERCHANGE_BYTES_MAX };

/// A stream that is given up at a point in time, whatever has come or gone until then.
struct Timed<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Timed<'_> {
    fn new(stream: &TcpStream, timeout: Duration) -> Timed<'_> {
        Timed { stream, until: Instant::now() + timeout }
    }

    /// The time that is left; an error when none is, which a socket would take for no limit.
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late()) } else { Ok(Some(left)) }
    }
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "a message was not over in time")
}

/// A socket says that it would block when its time is over.
fn in_time(result: io::Result<usize>) -> io::Result<usize> {
    result.map_err(|error| if error.kind() == ErrorKind::WouldBlock { late() } else { error })
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        in_time(self.stream.read(buffer))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        in_time(self.stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Writes `message`, with `blob` behind it, within `timeout`.
pub(super) fn write_within(
    stream: &TcpStream,
    message: &Message,
    blob: &[u8],
    timeout: Duration,
) -> Result<(), FrameError> {
    write_message(Timed::new(stream, timeout), message, blob)
}

/// Reads a message and the bytes that belong to it, within `bounds` and `timeout`.
pub(super) fn read_within(
    stream: &TcpStream,
    bounds: Bounds,
    timeout: Duration,
) -> Result<(Message, Vec<u8>), FrameError> {
    read_message(Timed::new(stream, timeout), bounds)
}

/// Writes `message`, with `blob` behind it, at once.
pub(super) fn write_message(
    mut stream: impl Write,
    message: &Message,
    blob: &[u8],
) -> Result<(), FrameError> {
    let mut bytes = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let json_size = (bytes.len() - HEAD_BYTES) as u32;
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&json_size.to_le_bytes());
    bytes[8..12].copy_from_slice(&(blob.len() as u32).to_le_bytes());
    bytes.extend_from_slice(blob);
    Ok(stream.write_all(&bytes)?)
}

/// Reads a message and the bytes that belong to it, within `bounds`.
pub(super) fn read_message(
    mut stream: impl Read,
    bounds: Bounds,
) -> Result<(Message, Vec<u8>), FrameError> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head)?;
    if head[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    let size_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i])) as usize;
    for (size, limit) in [(size_at(4), bounds.json), (size_at(8), bounds.blob)] {
        if size > limit {
            return Err(FrameError::TooLarge { size, limit });
        }
    }
    let mut json = vec![0; size_at(4)];
    stream.read_exact(&mut json)?;
    let mut blob = vec![0; size_at(8)];
    stream.read_exact(&mut blob)?;
    Ok((serde_json::from_slice(&json)?, blob))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::VERSION;
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn is_late<T>(result: &Result<T, FrameError>) -> bool {
        matches!(result, Err(FrameError::Io(error)) if error.kind() == ErrorKind::TimedOut)
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_is_late_though_each_byte_is_not() {
        let (reader, writer) = pair();
        let (timeout, spacing) = (Duration::from_millis(500), Duration::from_millis(20));
        let (sender, ended) = std::sync::mpsc::sync_channel::<()>(0);
        let trickle = std::thread::spawn(move || {
            // A head that announces more than comes, for as long as somebody listens.
            let head = [b"LGB1".as_slice(), &4096u32.to_le_bytes(), &0u32.to_le_bytes()].concat();
            for byte in head.into_iter().chain(std::iter::repeat(b' ')) {
                (&writer).write_all(&[byte]).unwrap();
                // The pace of the trickle; it ends with the reader.
                if ended.recv_timeout(spacing)
                    == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
                {
                    return;
                }
            }
        });
        let begin = Instant::now();
        let read = read_within(&reader, GREETING, timeout);
        assert!(is_late(&read), "{read:?}");
        assert!(begin.elapsed() >= timeout);
        drop(sender);
        trickle.join().unwrap();
    }

    #[test]
    fn a_reader_that_takes_nothing_makes_the_writer_late() {
        let (writer, reader) = pair();
        // More than both sockets hold.
        let blob = vec![0; 64 * 1024 * 1024];
        let hello = Message::Hello { version: VERSION };
        let written = write_within(&writer, &hello, &blob, Duration::from_millis(100));
        assert!(is_late(&written), "{written:?}");
        drop(reader);
    }

    #[test]
    fn a_message_in_time_is_read_and_what_announces_too_much_is_not() {
        let (near, far) = pair();
        let timeout = Duration::from_secs(60);
        write_within(&near, &Message::Ready { workers: 3 }, &[], timeout).unwrap();
        let (read, _) = read_within(&far, GREETING, timeout).unwrap();
        assert!(matches!(read, Message::Ready { workers: 3 }), "{read:?}");
        write_within(&near, &Message::Ready { workers: 3 }, b"x", timeout).unwrap();
        let read = read_within(&far, GREETING, timeout);
        assert!(matches!(read, Err(FrameError::TooLarge { size: 1, limit: 0 })), "{read:?}");
    }
}
