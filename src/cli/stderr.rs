//! Standard error of the whole process: the log, progress lines, error messages, and what a panic
//! says. Used by every command.
//!
//! Guarantee: no thread ends or waits for long because standard error is closed, full, broken or not
//! read. Writers put lines into a bounded queue; one thread of its own writes them. A line that does
//! not fit into the queue, or that the system refuses, is dropped and counted. The count is written
//! as a line of its own as soon as a write succeeds again.
//!
//! The descriptor itself stays as it was inherited: O_NONBLOCK would change it for every process that
//! shares it. So the writing thread may block for ever; the process ends without it.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressDrawTarget, TermLike};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of text that wait to be written, at most.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// How long a process that ends waits for its last lines to be written, and a command for room in the
/// queue.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How often a progress bar is drawn, at most, per second.
const DRAWS_PER_S: u8 = 20;

/// Of this process.
static QUEUE: Queue = Queue::new();

/// Writes a line to standard error, as `eprintln!` does, except that it never panics and never blocks
/// for longer than [`WAIT_MAX`].
macro_rules! note {
    ($($argument:tt)*) => { $crate::cli::stderr::note(format!($($argument)*)) };
}

/// Writes `text` and a line break. Waits for room in the queue, for a bounded time: a command that
/// prints much is not to lose lines only because the reader is slow.
pub fn note(mut text: String) {
    text.push('\n');
    QUEUE.wait_for_room(text.len(), WAIT_MAX);
    QUEUE.push_from_here(text.into_bytes());
}

/// Waits until everything is written, or for as long as the process may wait at its end.
pub fn flush() {
    QUEUE.flush(WAIT_MAX);
}

/// Lines that were dropped since the process started.
pub fn lines_dropped() -> u64 {
    QUEUE.lock().dropped_total
}

/// The writer of the log: each event is one line of the queue.
#[derive(Clone, Copy, Debug)]
pub struct LogWriter;

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        QUEUE.push_from_here(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has panics say what they say through the queue. The default hook writes by itself, and blocks for
/// ever where nobody reads: a node with one dead thread would go on half alive.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let mut text = format!("\nthread '{name}' {info}\n");
        let backtrace = std::backtrace::Backtrace::capture();
        match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => text.push_str(&format!("{backtrace}\n")),
            _ => text.push_str("note: RUST_BACKTRACE=1 shows the call stack\n"),
        }
        QUEUE.push_from_here(text.into_bytes());
        // Where panics abort, nothing runs after this hook.
        flush();
    }));
}

/// Where progress bars draw: standard error when it is a terminal, nowhere otherwise.
pub fn progress_target() -> ProgressDrawTarget {
    match io::stderr().is_terminal() {
        true => ProgressDrawTarget::term_like_with_hz(Box::new(Terminal), DRAWS_PER_S),
        false => ProgressDrawTarget::hidden(),
    }
}

/// A terminal whose output goes through the queue (Ctrl-S stops a terminal for as long as the user
/// likes).
#[derive(Debug)]
struct Terminal;

impl Terminal {
    fn put(text: String) -> io::Result<()> {
        QUEUE.push_from_here(text.into_bytes());
        Ok(())
    }

    fn move_by(count: usize, direction: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { Terminal::put(format!("\x1b[{count}{direction}")) }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col.max(1))
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        Terminal::move_by(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        Terminal::move_by(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        Terminal::move_by(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        Terminal::move_by(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        Terminal::put(format!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        Terminal::put(text.to_owned())
    }

    fn clear_line(&self) -> io::Result<()> {
        Terminal::put("\r\x1b[2K".to_owned())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What waits to be written.
struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// Something was written, or dropped.
    drained: Condvar,
}

struct State {
    items: VecDeque<Item>,
    /// In `items`, and in the one that is being written.
    bytes: usize,
    /// The thread holds an item that it has not written yet.
    is_writing: bool,
    has_thread: bool,
    /// Lines that did not fit, and that no line in the queue tells of.
    overflowed: u64,
    dropped_total: u64,
}

/// Text that is written at once.
struct Item {
    text: Vec<u8>,
    /// What is lost when it cannot be written: its lines, or those that it tells of.
    lines: u64,
    /// It tells of dropped lines, which were counted when they were dropped.
    is_notice: bool,
}

impl Item {
    fn new(text: Vec<u8>) -> Item {
        let breaks = text.iter().filter(|byte| **byte == b'\n').count();
        Item { text, lines: (breaks as u64).max(1), is_notice: false }
    }

    fn of_dropped(lines: u64) -> Item {
        let noun = if lines == 1 { "line was" } else { "lines were" };
        let text = format!(
            "loggos: {lines} {noun} dropped here: standard error was closed, full or not read\n"
        );
        Item { text: text.into_bytes(), lines, is_notice: true }
    }
}

impl Queue {
    const fn new() -> Queue {
        Queue {
            state: Mutex::new(State {
                items: VecDeque::new(),
                bytes: 0,
                is_writing: false,
                has_thread: false,
                overflowed: 0,
                dropped_total: 0,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `text`, or drops it. The first call starts the thread that writes.
    fn push_from_here(&'static self, text: Vec<u8>) {
        let start = {
            let mut state = self.lock();
            !std::mem::replace(&mut state.has_thread, true)
        };
        if start {
            let thread = std::thread::Builder::new().name("loggos-stderr".to_owned());
            // A host without a thread to spare: lines wait in the queue for a later one.
            if thread.spawn(|| self.drain(&mut write_stderr)).is_err() {
                self.lock().has_thread = false;
            }
        }
        self.push(text);
    }

    /// Queues `text`, or drops it when the queue is full. Waits for nothing but the lock, which nobody
    /// holds while writing.
    fn push(&self, text: Vec<u8>) {
        let item = Item::new(text);
        let mut state = self.lock();
        let notice = (state.overflowed > 0).then(|| Item::of_dropped(state.overflowed));
        let notice_bytes = notice.as_ref().map_or(0, |notice| notice.text.len());
        if state.bytes + notice_bytes + item.text.len() > QUEUE_BYTES_MAX {
            state.overflowed += item.lines;
            state.dropped_total += item.lines;
            return;
        }
        if let Some(notice) = notice {
            state.overflowed = 0;
            state.enqueue(notice);
        }
        state.enqueue(item);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until `bytes` more fit, for at most `wait_max`.
    fn wait_for_room(&self, bytes: usize, wait_max: Duration) {
        self.wait_until(wait_max, |state| state.bytes + bytes <= QUEUE_BYTES_MAX);
    }

    /// Waits until nothing is left to write, for at most `wait_max`.
    fn flush(&self, wait_max: Duration) {
        self.wait_until(wait_max, |state| {
            !state.has_thread || (state.items.is_empty() && !state.is_writing)
        });
    }

    fn wait_until(&self, wait_max: Duration, is_met: impl Fn(&State) -> bool) {
        let give_up = Instant::now() + wait_max;
        let mut state = self.lock();
        while !is_met(&state) {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.drained.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes what is queued, for ever. Each item is tried once: what fails is counted, and told
    /// after the next one that does not.
    fn drain(&self, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) {
        let mut failed = 0;
        loop {
            let item = self.next();
            self.write(&item, &mut failed, write);
        }
    }

    /// The next item; waits for one.
    fn next(&self) -> Item {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                state.is_writing = true;
                return item;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, item: &Item, failed: &mut u64, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) {
        let is_written = write(&item.text).is_ok();
        if is_written {
            let untold = *failed + self.take_overflowed_if_last();
            let told = untold == 0 || write(&Item::of_dropped(untold).text).is_ok();
            *failed = if told { 0 } else { untold };
        } else {
            *failed += item.lines;
        }
        let mut state = self.lock();
        if !is_written && !item.is_notice {
            state.dropped_total += item.lines;
        }
        state.bytes -= item.text.len();
        state.is_writing = false;
        drop(state);
        self.drained.notify_all();
    }
}

impl Queue {
    /// Lines that did not fit behind the last item: no later one tells of them.
    fn take_overflowed_if_last(&self) -> u64 {
        let mut state = self.lock();
        if state.items.is_empty() { std::mem::take(&mut state.overflowed) } else { 0 }
    }
}

impl State {
    fn enqueue(&mut self, item: Item) {
        self.bytes += item.text.len();
        self.items.push_back(item);
    }
}

/// Writes all of `bytes` to descriptor 2; blocks for as long as the reader does.
fn write_stderr(mut bytes: &[u8]) -> io::Result<()> {
    let stderr = io::stderr();
    while !bytes.is_empty() {
        match rustix::io::write(stderr.as_fd(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Another process that shares the descriptor has made it non-blocking.
            Err(Errno::AGAIN) => {
                let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
                match rustix::event::poll(&mut polled, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what is queued now with `write`; returns what it took.
    fn drain(
        queue: &Queue,
        failed: &mut u64,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Vec<String> {
        let mut taken = Vec::new();
        while !queue.lock().items.is_empty() {
            let item = queue.next();
            queue.write(&item, failed, &mut |text| {
                write(text)?;
                taken.push(String::from_utf8_lossy(text).into_owned());
                Ok(())
            });
        }
        taken
    }

    fn full(_: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn refused_lines_are_counted_and_told() {
        let (queue, mut failed) = (Queue::new(), 0);
        queue.push(b"one\n".to_vec());
        queue.push(b"two\nthree\n".to_vec());
        assert!(drain(&queue, &mut failed, full).is_empty());
        assert_eq!((failed, queue.lock().dropped_total), (3, 3));
        queue.push(b"four\n".to_vec());
        let taken = drain(&queue, &mut failed, |_| Ok(()));
        assert_eq!(taken[0], "four\n");
        assert!(taken[1].starts_with("loggos: 3 lines were dropped"), "{taken:?}");
        assert_eq!((failed, taken.len(), queue.lock().dropped_total), (0, 2, 3));
    }

    #[test]
    fn an_undrained_queue_is_bounded() {
        let (queue, mut failed) = (Queue::new(), 0);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let fit = QUEUE_BYTES_MAX / line.len();
        for _ in 0..fit + 5 {
            queue.push(line.clone());
        }
        assert_eq!(queue.lock().bytes, QUEUE_BYTES_MAX);
        assert_eq!(queue.lock().dropped_total, 5);
        // One is written: what was dropped is told in its place, before what comes later.
        let item = queue.next();
        queue.write(&item, &mut failed, &mut |_| Ok(()));
        queue.push(b"later\n".to_vec());
        let taken = drain(&queue, &mut failed, |_| Ok(()));
        let last: Vec<&str> = taken.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(last[0], "later\n");
        assert!(last[1].starts_with("loggos: 5 lines were dropped"), "{last:?}");
        assert_eq!(taken.len(), fit - 1 + 2);
        assert_eq!(queue.lock().bytes, 0);
        assert_eq!(queue.lock().overflowed, 0);
    }

    #[test]
    fn a_refused_notice_is_told_later() {
        let (queue, mut failed) = (Queue::new(), 0);
        queue.push(vec![b'x'; QUEUE_BYTES_MAX]);
        queue.push(b"lost\n".to_vec());
        let mut count = 0;
        let taken = drain(&queue, &mut failed, |text| {
            count += 1;
            if count == 1 { Ok(()) } else { full(text) }
        });
        assert_eq!((taken.len(), failed, queue.lock().dropped_total), (1, 1, 1));
        queue.push(b"next\n".to_vec());
        let taken = drain(&queue, &mut failed, |_| Ok(()));
        assert!(taken[1].starts_with("loggos: 1 line was dropped"), "{taken:?}");
        assert_eq!(queue.lock().dropped_total, 1);
    }

    #[test]
    fn waits_are_bounded() {
        let queue = Queue::new();
        queue.lock().has_thread = true;
        queue.push(vec![b'x'; QUEUE_BYTES_MAX]);
        let began = Instant::now();
        queue.flush(Duration::from_millis(20));
        queue.wait_for_room(1, Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(40));
        drain(&queue, &mut 0, |_| Ok(()));
        queue.flush(Duration::from_secs(60));
    }
}
