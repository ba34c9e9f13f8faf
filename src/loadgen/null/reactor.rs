//! The null server's threads: each waits for many connections at once, and answers everything that
//! one read brought with one write.
//!
//! Used by the null server's process and by tests. A connection whose client does not take its
//! answers is not read from, and no more is answered of what one read brought than
//! [`OUTPUT_BYTES_MAX`], so that nothing queues without a bound.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::NullState;
use crate::base::GroupId;
use crate::loadgen::accept::Acceptor;
use crate::wire::client::{decode_request, encode_response};
use crate::wire::hello::{decode_hello, encode_hello_reply};
use crate::wire::{FrameDecoder, FrameEncoder, FrameKind, HelloReply, WireError};

/// Bytes of one read from a socket.
const READ_BYTES: usize = 256 * 1024;
/// Once so many bytes of answers wait to be sent on a connection, nothing more is answered before
/// these have gone: a read of many requests for records would make gigabytes. Far above what a read
/// of appends makes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;
/// Connections at a time: several agents' worth.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// What the wake of a thread is known by among its connections' numbers.
const WAKE: u64 = u64::MAX;

/// A running null server; dropping it ends it.
#[derive(Debug)]
pub struct NullServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    inboxes: Vec<Arc<Inbox>>,
    threads: Vec<JoinHandle<()>>,
}

impl NullServer {
    /// Serves whoever connects to `listener`, with `threads` threads and one that accepts.
    ///
    /// # Errors
    /// When a thread cannot be made.
    ///
    /// # Panics
    /// When `threads` is 0.
    pub fn start(listener: TcpListener, threads: usize) -> io::Result<NullServer> {
        assert!(threads > 0, "somebody has to serve");
        let mut server = NullServer {
            address: listener.local_addr()?,
            stopping: Arc::new(AtomicBool::new(false)),
            inboxes: Vec::with_capacity(threads),
            threads: Vec::with_capacity(threads + 1),
        };
        let state = Arc::new(NullState::default());
        for index in 0..threads {
            let inbox = Arc::new(Inbox::new()?);
            let reactor = Reactor::new(Arc::clone(&state), Arc::clone(&inbox))?;
            let stopping = Arc::clone(&server.stopping);
            server.inboxes.push(inbox);
            server.spawn(format!("null-{index}"), move || reactor.run(&stopping))?;
        }
        let (inboxes, stopping) = (server.inboxes.clone(), Arc::clone(&server.stopping));
        server.spawn("null-accept".to_owned(), move || accept(&listener, &inboxes, &stopping))?;
        Ok(server)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for its end, which does not come by itself.
    pub fn wait(mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the null server has panicked; please report this");
            }
        }
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.inboxes.iter().for_each(|inbox| inbox.wake());
        // Wakes the accepting thread, which then sees that it is to end.
        if let Err(error) = TcpStream::connect(self.address) {
            tracing::debug!(%error, "the null server's listener has gone already");
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Connections on their way to a thread.
#[derive(Debug)]
struct Inbox {
    arrived: Mutex<Vec<TcpStream>>,
    /// Connections that the thread has, or is about to get.
    held: AtomicUsize,
    event: OwnedFd,
}

impl Inbox {
    fn new() -> io::Result<Inbox> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Inbox { arrived: Mutex::default(), held: AtomicUsize::new(0), event })
    }

    fn wake(&self) {
        if let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            tracing::debug!(%error, "the thread is awake already");
        }
    }

    fn put(&self, stream: TcpStream) {
        self.held.fetch_add(1, Ordering::Relaxed);
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        self.wake();
    }

    fn take(&self) -> Vec<TcpStream> {
        let mut count = [0; 8];
        if let Err(error) = rustix::io::read(&self.event, &mut count) {
            tracing::debug!(%error, "woken for what was taken already");
        }
        std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands whoever connects to the thread with the fewest connections.
fn accept(listener: &TcpListener, inboxes: &[Arc<Inbox>], stopping: &AtomicBool) {
    let mut acceptor = Acceptor::new(listener, stopping, |line: &str| tracing::warn!("{line}"));
    let held = |inbox: &Arc<Inbox>| inbox.held.load(Ordering::Relaxed);
    loop {
        let stream = match acceptor.next() {
            Ok(Some((stream, _))) => stream,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "the null server can take no connections any more");
                // Whoever waits for its end is to hear of it.
                stopping.store(true, Ordering::SeqCst);
                return inboxes.iter().for_each(|inbox| inbox.wake());
            }
        };
        if inboxes.iter().map(held).sum::<usize>() >= CONNECTIONS_MAX {
            tracing::warn!("{CONNECTIONS_MAX} connections are open; another one is refused");
            continue;
        }
        match stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)) {
            Ok(()) => {
                let inbox = inboxes.iter().min_by_key(|inbox| held(inbox));
                inbox.expect("there is a thread").put(stream);
            }
            Err(error) => tracing::warn!(%error, "a connection was not taken"),
        }
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client has gone")]
    Closed,
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// One connection.
struct Guest {
    stream: TcpStream,
    encoder: FrameEncoder,
    decoder: FrameDecoder<Vec<u8>>,
    /// Bytes of a read that were not looked at, since enough answers waited.
    input: Vec<u8>,
    /// Answers that the socket has not taken, from `sent` on.
    output: Vec<u8>,
    sent: usize,
    /// Whether room in the socket is awaited instead of requests.
    blocked: bool,
}

impl Guest {
    fn new(stream: TcpStream) -> Guest {
        Guest {
            stream,
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::plain(),
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            blocked: false,
        }
    }

    /// Whether something has to be sent, or answered, before more is read.
    fn is_busy(&self) -> bool {
        !self.output.is_empty() || !self.input.is_empty()
    }

    /// Sends what is left to send, and then goes on with the last read or reads once; answers.
    fn turn(
        &mut self,
        state: &NullState,
        buffer: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), End> {
        self.send()?;
        if !self.output.is_empty() {
            return Ok(());
        }
        if self.input.is_empty() {
            let count = match (&self.stream).read(buffer) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => count,
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let taken = self.answer(state, &buffer[..count], scratch)?;
            self.input.extend_from_slice(&buffer[taken..count]);
        } else {
            let mut input = std::mem::take(&mut self.input);
            let taken = self.answer(state, &input, scratch)?;
            input.drain(..taken);
            self.input = input;
        }
        self.send()
    }

    /// Answers the requests in `bytes` until they end or enough answers wait: how many bytes that
    /// were.
    fn answer(
        &mut self,
        state: &NullState,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<usize, End> {
        let mut rest = bytes;
        while self.output.len() < OUTPUT_BYTES_MAX
            && let Some(frame) = self.decoder.next(&mut rest, &())?
        {
            if frame.kind == FrameKind::Hello {
                decode_hello(&frame)?;
                let welcome = NullState::welcome(self.stream.local_addr()?.to_string());
                let reply = HelloReply::Welcome(welcome);
                encode_hello_reply(&reply, &mut self.encoder, &mut self.output);
                continue;
            }
            if let Some(response) = state.answer(&decode_request(&frame)?, scratch) {
                encode_response(&response, GroupId(0), &mut self.encoder, &mut self.output);
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn send(&mut self) -> Result<(), End> {
        while self.sent < self.output.len() {
            match (&self.stream).write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// One thread's connections.
struct Reactor {
    state: Arc<NullState>,
    inbox: Arc<Inbox>,
    epoll: OwnedFd,
    guests: HashMap<u64, Guest>,
    next_number: u64,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl Reactor {
    fn new(state: Arc<NullState>, inbox: Arc<Inbox>) -> io::Result<Reactor> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &inbox.event, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Reactor {
            state,
            inbox,
            epoll,
            guests: HashMap::new(),
            next_number: 0,
            buffer: vec![0; READ_BYTES],
            scratch: Vec::new(),
        })
    }

    fn run(mut self, stopping: &AtomicBool) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !stopping.load(Ordering::SeqCst) {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the null server cannot wait for its connections");
                    return;
                }
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    WAKE => self.take_in(),
                    number => self.turn(number),
                }
            }
        }
    }

    fn take_in(&mut self) {
        for stream in self.inbox.take() {
            let number = self.next_number;
            self.next_number += 1;
            match epoll::add(&self.epoll, &stream, EventData::new_u64(number), EventFlags::IN) {
                Ok(()) => drop(self.guests.insert(number, Guest::new(stream))),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not taken");
                    self.inbox.held.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn turn(&mut self, number: u64) {
        // An event of a connection that has ended in this round.
        let Some(guest) = self.guests.get_mut(&number) else { return };
        let turned = guest.turn(&self.state, &mut self.buffer, &mut self.scratch).and_then(|()| {
            let blocked = guest.is_busy();
            if blocked != guest.blocked {
                let wanted = if blocked { EventFlags::OUT } else { EventFlags::IN };
                let data = EventData::new_u64(number);
                epoll::modify(&self.epoll, &guest.stream, data, wanted).map_err(io::Error::from)?;
                guest.blocked = blocked;
            }
            Ok(())
        });
        if let Err(end) = turned {
            match end {
                End::Wire(_) => tracing::warn!(%end, "a connection is closed"),
                _ => tracing::debug!(%end, "a connection has ended"),
            }
            // Closing it takes it out of the epoll set.
            self.guests.remove(&number);
            self.inbox.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::READ_BYTES_MAX;
    use super::*;
    use crate::base::{LogId, Position};
    use crate::client::ClientOptions;
    use crate::client::blocking::Client;
    use crate::wire::client::{decode_response, encode_request};
    use crate::wire::{ReadLevel, Request, RequestId};

    fn server(threads: usize) -> NullServer {
        NullServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), threads).unwrap()
    }

    #[test]
    fn garbage_ends_its_own_connection_only() {
        let server = server(1);
        let client =
            Client::connect([server.address().to_string()], ClientOptions::default()).unwrap();
        let mut stranger = TcpStream::connect(server.address()).unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // Closed without a word; with a reset, since not all was read.
        match stranger.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.is_empty()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let firsts: Vec<_> = (0..3).map(|_| client.append(&["x", "y"]).unwrap().first.0).collect();
        assert_eq!(firsts, [0, 2, 4]);
    }

    #[test]
    fn a_client_that_does_not_read_is_not_read_from_and_loses_nothing() {
        let server = server(2);
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let mut connection: crate::client::connection::ClientConnection<u32> =
            crate::client::connection::ClientConnection::new(None, 60_000);
        stream.write_all(&connection.take_output(Vec::new())).unwrap();
        let mut buffer = vec![0; READ_BYTES];
        while !connection.is_ready() {
            let count = stream.read(&mut buffer).unwrap();
            connection.receive(&buffer[..count], |_| {}).unwrap();
        }
        // More answers than the sockets hold (44 bytes and more each), before the first is read.
        const REQUESTS: u32 = 60_000;
        for tag in 0..REQUESTS {
            let log = crate::base::LogId(0);
            connection
                .append(tag, log, crate::base::AppendTerms::default(), &["record"])
                .map_err(|(_, error)| error)
                .unwrap();
        }
        let output = connection.take_output(Vec::new());
        let mut writer = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&output));
        let mut tags = Vec::new();
        while tags.len() < REQUESTS as usize {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the server goes on");
            let take = |incoming: crate::client::connection::Incoming<'_, u32>| {
                if let crate::client::connection::Incoming::Answer { tag, .. } = incoming {
                    tags.push(tag);
                }
            };
            connection.receive(&buffer[..count], take).unwrap();
        }
        sender.join().unwrap().unwrap();
        assert!(tags.iter().enumerate().all(|(index, tag)| index as u32 == *tag));
    }

    /// So many requests for as much as one brings, as bytes.
    fn read_requests(count: u64) -> Vec<u8> {
        let (mut encoder, mut bytes) = (FrameEncoder::new(), Vec::new());
        for request in (0..count).map(RequestId) {
            let (log, from, level) = (LogId(0), Position(0), ReadLevel::Local);
            let (records_max, bytes_max, wait_ms) = (u32::MAX, u32::MAX, 0);
            let request =
                Request::Read { request, log, from, records_max, bytes_max, level, wait_ms };
            encode_request(&request, GroupId(0), &mut encoder, &mut bytes);
        }
        bytes
    }

    /// The requests that the answers on `stream` are to, until there are `count`.
    fn answered(mut stream: &TcpStream, count: usize) -> Vec<u64> {
        let (mut decoder, mut buffer) = (FrameDecoder::plain(), vec![0; READ_BYTES]);
        let mut found = Vec::new();
        while found.len() < count {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the server goes on");
            let mut rest = &buffer[..count];
            while let Some(frame) = decoder.next(&mut rest, &()).unwrap() {
                found.push(decode_response(&frame).unwrap().id().0);
            }
        }
        found
    }

    #[test]
    fn answers_that_wait_are_bounded_whatever_one_read_asks_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        let (state, mut buffer, mut scratch) = (NullState::default(), vec![0; READ_BYTES], vec![]);
        state.tails[0].store(1 << 40, Ordering::Relaxed);
        state.record_bytes.store(64 * 1024, Ordering::Relaxed);
        let mut guest = Guest::new(stream);
        // Some 60 MB of answers, to a few kilobytes.
        const REQUESTS: u64 = 64;
        client.write_all(&read_requests(REQUESTS)).unwrap();
        let bound = OUTPUT_BYTES_MAX + READ_BYTES_MAX + 4096;
        // Nobody reads, however often there is a turn.
        while !guest.is_busy() {
            guest.turn(&state, &mut buffer, &mut scratch).unwrap();
        }
        for _ in 0..100 {
            guest.turn(&state, &mut buffer, &mut scratch).unwrap();
            assert!(guest.output.len() <= bound, "{}", guest.output.len());
        }
        assert!(!guest.output.is_empty() && !guest.input.is_empty(), "the sockets hold less");
        // Then somebody does, and gets everything, in its order.
        guest.stream.set_nonblocking(false).unwrap();
        let reader = std::thread::spawn(move || answered(&client, REQUESTS as usize));
        while guest.is_busy() {
            guest.turn(&state, &mut buffer, &mut scratch).unwrap();
            assert!(guest.output.capacity() <= 2 * bound && guest.input.len() <= READ_BYTES);
        }
        assert_eq!(reader.join().unwrap(), (0..REQUESTS).collect::<Vec<_>>());
    }

    #[test]
    fn a_server_answers_all_of_a_burst_that_it_does_not_answer_at_once() {
        let server = server(1);
        let client =
            Client::connect([server.address().to_string()], ClientOptions::default()).unwrap();
        for _ in 0..32 {
            client.append(&[vec![1; 64 * 1024]]).unwrap();
        }
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(&read_requests(64)).unwrap();
        assert_eq!(answered(&stream, 64), (0..64).collect::<Vec<_>>());
    }
}
