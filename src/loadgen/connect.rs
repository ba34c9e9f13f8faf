//! Finding the leader: blocking connects and hellos, off the measuring threads.
//!
//! A worker runs this on a thread of its own when a connection is needed; what comes back is a
//! connection to a node that says it leads, with the hellos exchanged.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::base::{GroupId, NodeId};
use crate::client::connection::{ClientConnection, ConnectionError, Incoming, Welcome};

/// How long one connect or one hello may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a hello's answer read at once.
const HELLO_READ_BYTES: usize = 8 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be resolved, or nothing answers there.
    #[error("{address}: {source}")]
    Unreachable {
        /// The address.
        address: String,
        /// The system's own word.
        source: io::Error,
    },
    /// Something answers, but not our protocol.
    #[error("{address}: {source}")]
    Foreign {
        /// The address.
        address: String,
        /// What is wrong with it.
        source: ConnectionError,
    },
    /// The node refuses us.
    #[error("{address} refuses: {text}")]
    Refused {
        /// The address.
        address: String,
        /// Its reason.
        text: String,
    },
    /// The nodes answer, and none knows a leader.
    #[error("no leader is known to {asked}; see `loggos status`")]
    NoLeader {
        /// Who was asked.
        asked: String,
    },
    /// The node named as the leader does not lead, or is unknown.
    #[error("node {0} is named as the leader and does not lead (yet)")]
    Stale(NodeId),
}

/// A connection with the hellos exchanged.
#[derive(Debug)]
pub struct Session {
    /// The socket.
    pub stream: TcpStream,
    /// What the node says of itself.
    pub welcome: Welcome,
    /// The protocol's half, ready for requests; their tags are the caller's places.
    pub connection: ClientConnection<u32>,
}

impl Session {
    /// Whether the node said that it leads.
    pub fn is_leader(&self) -> bool {
        self.welcome.leader == Some(self.welcome.node)
    }

    /// The address of member `node`, as the node knows it.
    fn address_of(&self, node: NodeId) -> Option<&str> {
        let mut members = self.welcome.members.iter();
        members.find(|(member, _)| *member == node).map(|(_, address)| address.as_str())
    }
}

/// Connects to `group` of the node at `address` (`host:port`) for `inflight_max` requests in flight and exchanges hellos.
///
/// # Errors
/// All but [`ConnectError::NoLeader`] and [`ConnectError::Stale`].
pub fn connect(
    address: &str,
    group: GroupId,
    inflight_max: usize,
) -> Result<Session, ConnectError> {
    let address_owned = || address.to_owned();
    let unreachable =
        |source: io::Error| ConnectError::Unreachable { address: address_owned(), source };
    let mut stream = open(address).map_err(unreachable)?;
    let mut connection = ClientConnection::of_group(None, group, inflight_max);
    stream.write_all(&connection.take_output(Vec::new())).map_err(unreachable)?;

    let mut buffer = [0; HELLO_READ_BYTES];
    let mut reply = None;
    // Ends: every turn reads at least a byte, and a hello's answer has a largest size.
    while reply.is_none() {
        let count = stream.read(&mut buffer).map_err(unreachable)?;
        if count == 0 {
            return Err(unreachable(io::ErrorKind::UnexpectedEof.into()));
        }
        let received = connection.receive(&buffer[..count], |incoming| match incoming {
            Incoming::Welcome(welcome) => reply = Some(Ok(welcome.clone())),
            Incoming::Refused { text, .. } => reply = Some(Err(text.to_owned())),
            Incoming::Answer { .. } | Incoming::Pushed { .. } => {
                unreachable!("nothing was asked yet")
            }
        });
        received.map_err(|source| ConnectError::Foreign { address: address_owned(), source })?;
    }
    match reply.expect("the loop ends with a reply") {
        Ok(welcome) => {
            stream.set_read_timeout(None).map_err(unreachable)?;
            stream.set_write_timeout(None).map_err(unreachable)?;
            Ok(Session { stream, welcome, connection })
        }
        Err(text) => Err(ConnectError::Refused { address: address_owned(), text }),
    }
}

fn open(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match open_one(address) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open_one(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    Ok(stream)
}

/// Asks `addresses` in turn until one leads `group` or names its leader, and connects to that one. Each
/// address is asked once: whoever wants to wait for an election calls again.
///
/// # Errors
/// The last failure, when no address leads to a leader.
pub fn connect_to_leader(
    addresses: &[String],
    group: GroupId,
    inflight_max: usize,
) -> Result<Session, ConnectError> {
    let mut last = ConnectError::NoLeader { asked: addresses.join(", ") };
    for address in addresses {
        let session = connect(address, group, inflight_max);
        match session.and_then(|session| follow(session, group, inflight_max)) {
            Ok(session) => return Ok(session),
            // That there is no leader says more than that some other node is down.
            Err(error) if !matches!(last, ConnectError::Refused { .. }) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

/// The session itself if its node leads, else one with the node that it names.
fn follow(session: Session, group: GroupId, inflight_max: usize) -> Result<Session, ConnectError> {
    if session.is_leader() {
        return Ok(session);
    }
    let Some(leader) = session.welcome.leader else {
        return Err(ConnectError::NoLeader { asked: format!("node {}", session.welcome.node) });
    };
    let address = session.address_of(leader).ok_or(ConnectError::Stale(leader))?.to_owned();
    let next = connect(&address, group, inflight_max)?;
    if next.is_leader() { Ok(next) } else { Err(ConnectError::Stale(leader)) }
}
