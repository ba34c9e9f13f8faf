//! The round trip over loopback: two threads that sleep until woken, on two processors.
//!
//! Used by the floors alone. Placement decides the figure: on one processor a round trip is two
//! switches of context (a few microseconds), on two it wakes a sleeping processor twice (tens of
//! microseconds). Replicas of a cluster live on different processors, so that is what is measured:
//! each thread is bound to a processor of its own, never to two threads of one core. Left to
//! itself the scheduler chooses either, by what else runs at that moment.

use std::io::{self, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::super::host::read_line;
use super::{SAMPLES_MAX, STALL_MAX};

/// Bytes of one message.
const MESSAGE_BYTES: usize = 64;

type Samples = io::Result<Vec<Duration>>;

/// Two connected threads, asleep between the rounds.
pub struct RoundTrips {
    /// The processors of the two threads; absent when this process may use one only.
    pub cpus: Option<[usize; 2]>,
    requests: Option<mpsc::Sender<Duration>>,
    samples: mpsc::Receiver<Samples>,
    threads: Vec<JoinHandle<()>>,
}

impl RoundTrips {
    /// Connects the threads.
    ///
    /// # Errors
    /// When loopback does not work.
    pub fn start() -> io::Result<RoundTrips> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        near.set_read_timeout(Some(STALL_MAX))?;
        let cpus = two_processors();
        let (requests, asked) = mpsc::channel();
        let (answer, samples) = mpsc::channel();
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let echo = named("floor-echo").spawn(move || {
            bind_to(cpus.map(|cpus| cpus[1]));
            echo(far);
        })?;
        let measure = named("floor-trips").spawn(move || {
            bind_to(cpus.map(|cpus| cpus[0]));
            let mut near = near;
            while let Ok(duration) = asked.recv() {
                // Nobody waits for the samples only when the measurement was given up.
                drop(answer.send(exchange(&mut near, duration)));
            }
        })?;
        Ok(RoundTrips { cpus, requests: Some(requests), samples, threads: vec![measure, echo] })
    }

    /// Round trips one after the other for `duration`.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn run(&mut self, duration: Duration) -> Samples {
        let gone = || io::Error::other("the measuring thread has panicked");
        let requests = self.requests.as_ref().expect("taken only when dropped");
        requests.send(duration).map_err(|_| gone())?;
        self.samples.recv().map_err(|_| gone())?
    }
}

impl Drop for RoundTrips {
    /// Without requests the first thread ends and closes its socket, and with that the second.
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            // A panic has been printed, and `run` has failed.
            drop(thread.join());
        }
    }
}

fn exchange(stream: &mut TcpStream, duration: Duration) -> Samples {
    let mut message = [7; MESSAGE_BYTES];
    let mut samples = Vec::new();
    let started = Instant::now();
    while started.elapsed() < duration && samples.len() < SAMPLES_MAX {
        let begin = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        samples.push(begin.elapsed());
    }
    Ok(samples)
}

/// Sends back what comes until the other side has gone; a failure shows there as one too.
fn echo(mut stream: TcpStream) {
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
}

/// Two processors of different cores that this process may use, close to each other.
fn two_processors() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let first = cpus.next()?;
    let siblings = siblings(first);
    cpus.find(|cpu| !siblings.contains(cpu)).map(|second| [first, second])
}

/// The processors that are threads of the same core; just `cpu` where the system does not tell.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    read_line(path).and_then(|list| parse_list(&list)).unwrap_or_else(|| vec![cpu])
}

/// Reads "0,4" or "0-1".
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (usize, usize) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        cpus.extend(low..=high.min(CpuSet::MAX_CPU));
    }
    Some(cpus)
}

/// Binds the calling thread. Where that is refused the scheduler chooses.
fn bind_to(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "cannot bind a thread of the floor's round trip");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(parse_list("3"), Some(vec![3]));
        assert_eq!(parse_list("0,4"), Some(vec![0, 4]));
        assert_eq!(parse_list("0-2,7\n"), Some(vec![0, 1, 2, 7]));
        assert_eq!(parse_list("x"), None);
    }

    #[test]
    fn the_caller_keeps_its_processors_and_the_threads_go() {
        let before = sched_getaffinity(None).unwrap();
        let mut trips = RoundTrips::start().unwrap();
        let samples = trips.run(Duration::from_millis(20)).unwrap();
        assert!(!samples.is_empty());
        if let Some([first, second]) = trips.cpus {
            assert_ne!(first, second);
            assert!(before.is_set(first) && before.is_set(second));
        }
        drop(trips); // joins both threads
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
