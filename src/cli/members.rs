//! Addresses and member lists as users write them: `HOST:PORT` and `1=HOST:PORT,2=HOST:PORT`.
//!
//! Used as clap value parsers; names are resolved later, by whoever connects.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::base::NodeId;
use crate::base::limits::MEMBERS_MAX;

/// Why an address or a member list cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form `HOST:PORT`.
    #[error("`{0}` is not HOST:PORT (port 1 to 65535; an IPv6 address in brackets)")]
    Shape(String),
    /// Not of the form `N=HOST:PORT`.
    #[error("`{0}` is not N=HOST:PORT with N from 1 to 65535")]
    Member(String),
    /// A node's number twice.
    #[error("node {0} is listed twice; every member has a number of its own")]
    NodeTwice(NodeId),
    /// An address twice.
    #[error("{0} is listed twice; every member has an address of its own")]
    AddressTwice(HostPort),
    /// An address that every host has: peers could not dial it.
    #[error("{0} is no host's address: give each member the one at which the others reach it")]
    Unspecified(HostPort),
    /// None, or more than [`MEMBERS_MAX`].
    #[error("{0} members; a cluster has 1 to {MEMBERS_MAX}")]
    Count(usize),
    /// The host's name has no address.
    #[error("{0} cannot be resolved: {1}")]
    Unresolved(HostPort, String),
}

/// A host (name or address) and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The address, if the host is one and no name.
    fn ip(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// The same for every way to write one address: case, brackets, zeros, IPv4 within IPv6.
    fn canonical(&self) -> (String, u16) {
        let host = match self.ip() {
            Some(ip) => ip.to_canonical().to_string(),
            None => self.host.trim_end_matches('.').to_ascii_lowercase(),
        };
        let host = if host == "localhost" { "127.0.0.1".to_owned() } else { host };
        (host, self.port)
    }

    /// All addresses that the name resolves to: at least one. Blocks, for as long as the system's
    /// resolver likes.
    ///
    /// # Errors
    /// [`AddressError::Unresolved`], with the resolver's word.
    pub fn resolve_all(&self) -> Result<Vec<SocketAddr>, AddressError> {
        let unresolved = |why: String| AddressError::Unresolved(self.clone(), why);
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs();
        let found: Vec<SocketAddr> =
            found.map_err(|error| unresolved(error.to_string()))?.collect();
        match found.is_empty() {
            true => Err(unresolved("the name has no address".to_owned())),
            false => Ok(found),
        }
    }

    /// The address, where the host is given as one and needs no look-up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.to_string().parse().ok()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<HostPort, AddressError> {
        let shape = || AddressError::Shape(text.to_owned());
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(shape)?;
        let port: u16 = port.parse().map_err(|_| shape())?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.contains([':', '[', ']', '=', ',', '/', ' ']);
        if host.is_empty() || port == 0 || !(bracketed || plain) {
            return Err(shape());
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One member of a cluster as `--members` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Where peers and clients reach it.
    pub address: HostPort,
}

/// The value of `--members`: sorted by number, numbers and addresses unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList(pub Vec<Member>);

impl FromStr for MemberList {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<MemberList, AddressError> {
        let mut members = Vec::new();
        let mut addresses = BTreeSet::new();
        for part in text.split(',') {
            let shape = || AddressError::Member(part.trim().to_owned());
            let (node, address) = part.trim().split_once('=').ok_or_else(shape)?;
            let node: u16 = node.parse().map_err(|_| shape())?;
            if node == 0 {
                return Err(shape());
            }
            let address: HostPort = address.parse()?;
            if address.ip().is_some_and(|ip| ip.to_canonical().is_unspecified()) {
                return Err(AddressError::Unspecified(address));
            }
            if !addresses.insert(address.canonical()) {
                return Err(AddressError::AddressTwice(address));
            }
            members.push(Member { node: NodeId(node), address });
        }
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return Err(AddressError::Count(members.len()));
        }
        members.sort_by_key(|member| member.node);
        match members.windows(2).find(|pair| pair[0].node == pair[1].node) {
            Some(pair) => Err(AddressError::NodeTwice(pair[0].node)),
            None => Ok(MemberList(members)),
        }
    }
}

impl fmt::Display for MemberList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, member) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", member.node, member.address)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        for good in ["127.0.0.1:7400", "node-1.example:1", "[::1]:7400"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in ["", "host", ":7400", "host:0", "host:65536", "a:b:1", "::1:7400", "a b:1"] {
            assert_eq!(bad.parse::<HostPort>(), Err(AddressError::Shape(bad.to_owned())), "{bad}");
        }
        let address = "[::1]:7400".parse::<HostPort>().unwrap();
        assert_eq!(address.resolve_all(), Ok(vec!["[::1]:7400".parse().unwrap()]));
        assert_eq!(address.literal(), Some("[::1]:7400".parse().unwrap()));
        assert_eq!("node-1:7400".parse::<HostPort>().unwrap().literal(), None);
    }

    #[test]
    fn member_lists_are_sorted_and_without_doubles() {
        let list: MemberList = "2=b:7400, 1=a:7400,3=c:7400".parse().unwrap();
        assert_eq!(list.to_string(), "1=a:7400,2=b:7400,3=c:7400");
        assert_eq!(list.to_string().parse::<MemberList>(), Ok(list));

        let error = |text: &str| text.parse::<MemberList>().unwrap_err();
        assert_eq!(error("1=a:1,1=b:1"), AddressError::NodeTwice(NodeId(1)));
        for twice in [
            "1=a:1,2=a:1",
            "1=Node:1,2=node.:1",
            "1=[::1]:1,2=[0:0::1]:1",
            "1=127.0.0.1:1,2=[::ffff:127.0.0.1]:1",
            "1=localhost:1,2=127.0.0.1:1",
        ] {
            assert!(matches!(error(twice), AddressError::AddressTwice(_)), "{twice}");
        }
        for unspecified in ["1=0.0.0.0:1", "1=a:1,2=[::]:1", "1=[::ffff:0.0.0.0]:1"] {
            assert!(matches!(error(unspecified), AddressError::Unspecified(_)), "{unspecified}");
        }
        assert!(matches!(error(""), AddressError::Member(_)));
        assert!(matches!(error("0=a:1"), AddressError::Member(_)));
        assert!(matches!(error("x=a:1"), AddressError::Member(_)));
        assert!(matches!(error("1=a"), AddressError::Shape(_)));
        let many: Vec<_> = (1..=MEMBERS_MAX + 1).map(|n| format!("{n}=h{n}:1")).collect();
        assert_eq!(error(&many.join(",")), AddressError::Count(MEMBERS_MAX + 1));
    }
}
