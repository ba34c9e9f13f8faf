//! Names to addresses, off the loops' threads: a look-up may hang for as long as it likes.
//!
//! One [`Resolver`] for all rings of a process. Each name that is being looked up has a thread of its
//! own, so that one that hangs holds up no other; who asks for a name that is being looked up already
//! gets that answer. Guarantee: at most [`NAMES_MAX`] threads, and [`WAITING_MAX`] who wait for one name;
//! whoever comes above that is answered with an error at once. Every question is answered once, unless
//! the system's own resolver never ends.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Waker;
use crate::io::LookupId;

/// Names looked up at the same time: every other member of the largest cluster, and one more.
const NAMES_MAX: usize = 16;
/// Who waits for one name: a ring of each group, with room for what a ring has given up.
const WAITING_MAX: usize = 256;

/// What a look-up came to.
type Found = Result<Vec<SocketAddr>, String>;

/// Answers on their way to a ring. What is in it was asked for, so it has a bound.
pub(super) struct Mailbox {
    answers: Mutex<Vec<(LookupId, Found)>>,
    waker: Waker,
}

impl Mailbox {
    pub(super) fn new(waker: Waker) -> Arc<Mailbox> {
        Arc::new(Mailbox { answers: Mutex::default(), waker })
    }

    fn put(&self, lookup: LookupId, found: Found) {
        lock(&self.answers).push((lookup, found));
        // Behind the answer: who is woken by it finds it.
        self.waker.nudge();
    }

    /// Takes what has come.
    pub(super) fn take(&self) -> Vec<(LookupId, Found)> {
        std::mem::take(&mut *lock(&self.answers))
    }
}

/// Who waits for a name.
struct Waiting {
    lookup: LookupId,
    mailbox: Arc<Mailbox>,
}

type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

struct Inner {
    look_up: Box<LookUp>,
    /// The names that are being looked up, each by a thread.
    names: Mutex<BTreeMap<String, Vec<Waiting>>>,
}

/// Looks names up. Clones share the work.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

impl Resolver {
    /// One that asks `look_up`, which may block: for tests; the default asks the system.
    pub fn with(
        look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Resolver {
        let names = Mutex::default();
        Resolver { inner: Arc::new(Inner { look_up: Box::new(look_up), names }) }
    }

    /// Looks `name` (`host:port`) up; the answer comes into the mailbox.
    pub(super) fn ask(&self, name: &str, lookup: LookupId, mailbox: &Arc<Mailbox>) {
        let mut names = lock(&self.inner.names);
        let waiting = Waiting { lookup, mailbox: mailbox.clone() };
        if let Some(others) = names.get_mut(name) {
            match others.len() < WAITING_MAX {
                true => others.push(waiting),
                false => mailbox.put(lookup, Err("too many wait for this name".to_owned())),
            }
            return;
        }
        if names.len() >= NAMES_MAX {
            let why = format!("{NAMES_MAX} names are being looked up already");
            return mailbox.put(lookup, Err(why));
        }
        let (inner, owned) = (self.inner.clone(), name.to_owned());
        let thread = std::thread::Builder::new().name("loggos-resolver".to_owned());
        match thread.spawn(move || inner.run(&owned)) {
            // It takes the name out under the lock that is held here.
            Ok(_) => drop(names.insert(name.to_owned(), vec![waiting])),
            Err(error) => mailbox.put(lookup, Err(format!("cannot start a thread: {error}"))),
        }
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::with(|name| Ok(name.to_socket_addrs()?.collect()))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &lock(&self.inner.names).len()).finish()
    }
}

impl Inner {
    fn run(&self, name: &str) {
        let found = match (self.look_up)(name) {
            Ok(addresses) if addresses.is_empty() => Err("it has no address".to_owned()),
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(error.to_string()),
        };
        let waiting = lock(&self.names).remove(name).unwrap_or_default();
        for Waiting { lookup, mailbox } in waiting {
            mailbox.put(lookup, found.clone());
        }
    }
}

/// No state here is ever half changed, whatever became of the thread that held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::io::{Event, Io, Net, Wait};
    use crate::uring::{Uring, UringOptions};

    fn ring(resolver: &Resolver) -> Uring {
        let options = UringOptions { resolver: resolver.clone(), ..UringOptions::default() };
        Uring::new(None, options).expect("io_uring works here")
    }

    type Answer = (LookupId, io::Result<Vec<SocketAddr>>);

    /// Turns until so many answers have come.
    fn answers(uring: &mut Uring, count: usize) -> Vec<Answer> {
        let (mut events, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..1_000 {
            if answers.len() >= count {
                break;
            }
            uring.turn(Wait::AtMost(Duration::from_millis(100)), &mut events).expect("it turns");
            answers.extend(events.drain(..).filter_map(|event| match event {
                Event::LookedUp { lookup, addresses } => Some((lookup, addresses)),
                _ => None,
            }));
        }
        assert_eq!(answers.len(), count, "each question is answered once");
        answers
    }

    fn next_answer(uring: &mut Uring) -> Answer {
        answers(uring, 1).remove(0)
    }

    #[test]
    fn hanging_name_holds_up_no_other() {
        let (go_on, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let address: SocketAddr = "10.1.2.3:7".parse().unwrap();
        let resolver = Resolver::with(move |name| match name {
            "hangs:7" => {
                lock(&gate).recv().expect("the test lets it go on");
                Ok(vec![address])
            }
            "good:7" => Ok(vec![address, address]),
            "empty:7" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such name")),
        });
        let mut uring = ring(&resolver);
        let hangs = uring.look_up("hangs:7");
        let good = uring.look_up("good:7");
        let (lookup, addresses) = next_answer(&mut uring);
        assert_eq!((lookup, addresses.unwrap().len()), (good, 2));
        for name in ["empty:7", "bad:7"] {
            let asked = uring.look_up(name);
            let (lookup, addresses) = next_answer(&mut uring);
            assert_eq!(lookup, asked);
            assert!(addresses.is_err(), "{name}");
        }
        // Asked again meanwhile, it is not looked up twice, and both are answered.
        let again = uring.look_up("hangs:7");
        go_on.send(()).unwrap();
        let mut answered: Vec<_> = answers(&mut uring, 2).into_iter().map(|(id, _)| id).collect();
        answered.sort();
        assert_eq!(answered, [hangs, again]);
    }

    #[test]
    fn names_in_flight_are_bounded() {
        let (go_on, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let resolver = Resolver::with(move |_| {
            // Ends when the sender is dropped.
            let ended = lock(&gate).recv();
            ended.map(|()| Vec::new()).map_err(io::Error::other)
        });
        let mut uring = ring(&resolver);
        for name in 0..NAMES_MAX {
            uring.look_up(&format!("name-{name}:1"));
        }
        let refused = uring.look_up("one-more:1");
        let (lookup, addresses) = next_answer(&mut uring);
        assert_eq!(lookup, refused);
        assert!(addresses.unwrap_err().to_string().contains("looked up already"));
        drop(go_on);
        for (lookup, addresses) in answers(&mut uring, NAMES_MAX) {
            assert!(lookup < refused && addresses.is_err());
        }
    }
}
