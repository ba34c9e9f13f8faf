//! What a listener does when it cannot take a connection: goes on at once, waits, or ends.
//!
//! Used by the null server and the agents. When no descriptor is left, `accept` fails at once, and
//! again and again, since the connection stays where it is: without a pause the thread would take a
//! whole core from what is measured, and fill the log. So it pauses, and says so once until
//! connections are taken again.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

/// Between two tries to take a connection while there is no descriptor, memory or thread for one.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What a failed `accept` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The connection has ended before it was taken; others may come.
    Peer,
    /// There is no descriptor, memory or thread for it; it may stay in the queue.
    Exhausted,
    /// Nobody can be taken here any more.
    Listener,
}

impl Failure {
    fn of(error: &io::Error) -> Failure {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => {
                Failure::Exhausted
            }
            Some(Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP) => {
                Failure::Listener
            }
            _ => Failure::Peer,
        }
    }
}

/// A listener whose failures are dealt with.
pub(super) struct Acceptor<'a, N> {
    listener: &'a TcpListener,
    stop: &'a AtomicBool,
    /// Told what happens, a line at a time.
    note: N,
    /// Whether nobody could be taken for want of descriptors since somebody was.
    exhausted: bool,
}

impl<'a, N: Fn(&str)> Acceptor<'a, N> {
    /// Takes connections from `listener` until `stop` is set and another connection comes.
    pub(super) fn new(listener: &'a TcpListener, stop: &'a AtomicBool, note: N) -> Self {
        Acceptor { listener, stop, note, exhausted: false }
    }

    /// The next connection; none when it is to stop.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub(super) fn next(&mut self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            let accepted = self.listener.accept();
            if self.stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            match accepted {
                Ok(accepted) => {
                    if std::mem::take(&mut self.exhausted) {
                        (self.note)("connections are taken again");
                    }
                    return Ok(Some(accepted));
                }
                Err(error) => self.failed(error)?,
            }
        }
    }

    /// Deals with `error`, of `accept` or of what it takes to serve a connection.
    ///
    /// # Errors
    /// `error` itself when the listener fails for good.
    pub(super) fn failed(&mut self, error: io::Error) -> io::Result<()> {
        match Failure::of(&error) {
            Failure::Listener => Err(error),
            Failure::Peer => {
                (self.note)(&format!("a connection was not taken: {error}"));
                Ok(())
            }
            Failure::Exhausted => {
                if !std::mem::replace(&mut self.exhausted, true) {
                    (self.note)(&format!("no connection can be taken for now: {error}"));
                }
                std::thread::sleep(EXHAUSTED_PAUSE);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn an_episode_without_descriptors_is_told_once_and_each_try_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (stop, notes) = (AtomicBool::new(false), RefCell::new(Vec::new()));
        let note = |line: &str| notes.borrow_mut().push(line.to_owned());
        let mut acceptor = Acceptor::new(&listener, &stop, note);
        let begin = std::time::Instant::now();
        for errno in [Errno::MFILE, Errno::NFILE, Errno::MFILE] {
            acceptor.failed(error(errno)).unwrap();
        }
        assert!(begin.elapsed() >= 3 * EXHAUSTED_PAUSE);
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(acceptor.next().unwrap().is_some());
        acceptor.failed(error(Errno::NOMEM)).unwrap();
        let notes = notes.borrow();
        assert_eq!(notes.len(), 3, "{notes:?}");
        for (line, word) in notes.iter().zip(["no connection", "taken again", "no connection"]) {
            assert!(line.contains(word), "{notes:?}");
        }
    }

    #[test]
    fn a_peer_that_has_gone_costs_no_pause_and_a_broken_listener_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stop = AtomicBool::new(false);
        let notes = RefCell::new(0);
        let mut acceptor = Acceptor::new(&listener, &stop, |_: &str| *notes.borrow_mut() += 1);
        acceptor.failed(error(Errno::CONNABORTED)).unwrap();
        assert!(!acceptor.exhausted && *notes.borrow() == 1);
        let broken = acceptor.failed(error(Errno::INVAL)).unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::InvalidInput);
    }
}
