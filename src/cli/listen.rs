//! Where a node listens: at the address that it is told, or at its own member address.
//!
//! Used by `serve`. The member address may be a name, and a name may be unknown, wrong or without an
//! answer for a while; no start waits for that. Where the name means an address of this host, that is
//! where the node listens; otherwise at the same port of all addresses of the host, and it says so.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::error::CliError;
use super::members::HostPort;
use crate::io::Net;
use crate::log::Identity;

/// How long an address in use is tried before it is refused.
const IN_USE_MAX: Duration = Duration::from_secs(5);
/// After so long it is said what is waited for.
const IN_USE_TOLD: Duration = Duration::from_millis(300);
/// The pause between two attempts.
const IN_USE_RETRY: Duration = Duration::from_millis(10);
/// How long the look-up of the own name may take.
const LOOK_UP_MAX: Duration = Duration::from_secs(2);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At exactly these addresses, one of them, or not at all.
    Told(HostPort, Vec<SocketAddr>),
    /// Where this name of the node leads, or else everywhere.
    Named(HostPort),
}

impl Place {
    /// What the flag says, or the node's entry in the list of members.
    ///
    /// # Errors
    /// When the flag names what cannot be found, or the node is in no list.
    pub fn of(flag: Option<&HostPort>, identity: &Identity) -> Result<Place, CliError> {
        if let Some(told) = flag {
            let addresses = told.resolve_all().map_err(CliError::usage)?;
            return Ok(Place::Told(told.clone(), addresses));
        }
        let own = identity.members.iter().find(|member| member.node == identity.node);
        let own = own.ok_or_else(|| {
            CliError::usage("the identity lists no address for this node: is the directory whole?")
        })?;
        let address: HostPort = own.address.parse().map_err(CliError::usage)?;
        Ok(match address.literal() {
            Some(literal) => Place::Told(address, vec![literal]),
            None => Place::Named(address),
        })
    }

    /// Starts listening.
    ///
    /// # Errors
    /// When no address will do.
    pub fn start<N: Net>(&self, net: &mut N) -> Result<SocketAddr, CliError> {
        match self {
            Place::Told(_, addresses) => first_free(net, addresses),
            Place::Named(name) => match look_up(name) {
                Ok(addresses) => match first_bindable(net, &addresses) {
                    Some(listening) => listening,
                    None => everywhere(net, name, "means no address of this host"),
                },
                Err(why) => everywhere(net, name, &format!("cannot be resolved ({why})")),
            },
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Told(address, _) | Place::Named(address) => fmt::Display::fmt(address, f),
        }
    }
}

/// All addresses of a name, in bounded time: the thread that asks may hang for as long as it likes.
fn look_up(name: &HostPort) -> Result<Vec<SocketAddr>, String> {
    let (answer, answers) = mpsc::channel();
    let owned = name.clone();
    let asks = move || {
        // Nobody waits any more when it took too long.
        drop(answer.send(owned.resolve_all().map_err(|error| error.to_string())));
    };
    let thread = std::thread::Builder::new().name("loggos-own-name".to_owned()).spawn(asks);
    thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    answers.recv_timeout(LOOK_UP_MAX).unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Listens at the first address that is one of this host's; `None`: there is none.
fn first_bindable<N: Net>(
    net: &mut N,
    addresses: &[SocketAddr],
) -> Option<Result<SocketAddr, CliError>> {
    let attempts = addresses.iter().map(|address| listen(net, *address));
    attempts.into_iter().find_map(|attempt| match attempt {
        Err((_, error)) if error.kind() == ErrorKind::AddrNotAvailable => None,
        Err((address, error)) => Some(Err(refused(address, &error))),
        Ok(listening) => Some(Ok(listening)),
    })
}

fn first_free<N: Net>(net: &mut N, addresses: &[SocketAddr]) -> Result<SocketAddr, CliError> {
    let mut last = Err(CliError::usage("there is no address to listen on"));
    for address in addresses {
        match listen(net, *address) {
            Ok(listening) => return Ok(listening),
            Err((address, error)) => last = Err(refused(address, &error)),
        }
    }
    last
}

fn everywhere<N: Net>(net: &mut N, name: &HostPort, why: &str) -> Result<SocketAddr, CliError> {
    let port = name.port();
    warn!(
        "this node's own name {name} {why}: listening on port {port} of all addresses; --listen says where else"
    );
    let addresses: [SocketAddr; 2] =
        [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    first_free(net, &addresses)
}

fn refused(address: SocketAddr, error: &std::io::Error) -> CliError {
    CliError::usage(format!(
        "cannot listen on {address}: {error}; is another node running, or --listen wrong?"
    ))
}

/// Listens on `address`. One in use is tried again for a while: the kernel takes a killed
/// process's ring down, and with it the listening socket, some time after the process is gone.
fn listen<N: Net>(
    net: &mut N,
    address: SocketAddr,
) -> Result<SocketAddr, (SocketAddr, std::io::Error)> {
    let started = Instant::now();
    let mut told = false;
    loop {
        match net.listen(address) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && started.elapsed() < IN_USE_MAX =>
            {
                if !told && started.elapsed() >= IN_USE_TOLD {
                    told = true;
                    warn!(
                        "{address} is in use: trying for {IN_USE_MAX:?}, in case a process that has just \
                         ended still holds it"
                    );
                }
                // Nothing tells when an address becomes free; trying again is the only wait.
                std::thread::sleep(IN_USE_RETRY);
            }
            result => return result.map_err(|error| (address, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::{Uring, UringOptions};

    fn ring() -> Uring {
        Uring::new(None, UringOptions::default()).expect("io_uring works here")
    }

    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("a bound socket has one").port()
    }

    #[test]
    fn unknown_own_name_listens_everywhere() {
        let port = free_port();
        let place = Place::Named(format!("no-such-host.invalid:{port}").parse().unwrap());
        let listening = place.start(&mut ring()).expect("it listens all the same");
        assert!(listening.ip().is_unspecified(), "{listening}");
        assert_eq!(listening.port(), port);
    }

    #[test]
    fn known_own_name_listens_there() {
        let place = Place::Named(format!("localhost:{}", free_port()).parse().unwrap());
        let listening = place.start(&mut ring()).expect("it listens");
        assert!(listening.ip().is_loopback(), "{listening}");
    }

    #[test]
    fn foreign_address_is_refused_unless_it_is_a_name() {
        // Of a range that is kept for documentation: no host has it.
        let foreign: SocketAddr = format!("192.0.2.1:{}", free_port()).parse().unwrap();
        let told = Place::Told(foreign.to_string().parse().unwrap(), vec![foreign]);
        assert!(told.start(&mut ring()).is_err());
        assert!(first_bindable(&mut ring(), &[foreign]).is_none());
    }
}
