//! The nodes' names and addresses: hosts move, and look-ups fail, hang, lag behind and lie.
//!
//! Part of the network, struck by the world from a random stream of its own. In worlds without names the
//! nodes know each other by addresses that never change. What holds: as long as look-ups tell the
//! truth in the end, the cluster comes back, as the liveness phase requires.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::counters::{Counters, Hit};
use super::net::NetHappening;
use super::phases::Phase;
use super::plan::{FaultSet, Plan, Stream};
use super::trace::HostId;
use super::world::{Happening, World};
use crate::base::rng::Rng;

/// Between two moves, in mean times between two strikes of the nemesis.
const EVERY_STRIKES: u32 = 5;
/// How long after a move look-ups may still give the address before it.
const PUBLISHED_AFTER_MAX: Duration = Duration::from_millis(2000);
/// How long a look-up takes, and how long one that hangs.
const LOOK_UP_MAX: Duration = Duration::from_millis(5);
const HANG_MAX: Duration = Duration::from_secs(5);
/// Of each host, its port, and the addresses that it has had before it is back at the first one.
const PORT: u16 = 7400;
const ADDRESSES: u8 = 200;
/// Stands for whatever address the host has at the moment.
const WHEREVER: u8 = 255;

/// A host's address that holds wherever it moves: for whoever is not about names.
pub fn address_of(host: HostId) -> SocketAddr {
    address_at(host, WHEREVER)
}

fn address_at(host: HostId, place: u8) -> SocketAddr {
    let [high, low] = host.0.to_be_bytes();
    SocketAddr::from(([10, place, high, low], PORT))
}

/// The name by which a node is listed.
pub fn name_of(host: HostId) -> String {
    format!("node-{}.simulated:{PORT}", host.0)
}

/// Where the hosts are, and what look-ups say.
pub struct Names {
    rng: Rng,
    /// Of each host, where it is, and where look-ups find it.
    places: Vec<u8>,
    published: Vec<u8>,
    /// How look-ups go wrong in this world.
    faults: FaultSet,
}

impl Names {
    /// For `hosts` hosts.
    pub fn new(hosts: usize, seed: u64) -> Names {
        let (places, published) = (vec![0; hosts], vec![0; hosts]);
        Names { rng: Rng::new(seed), places, published, faults: FaultSet::NONE }
    }

    /// From now on these faults happen.
    pub fn set_faults(&mut self, faults: FaultSet) {
        self.faults = faults;
    }

    /// Where a connection to `address` leads: the host, and whether it is there.
    pub fn lead(&self, address: SocketAddr) -> (HostId, bool) {
        let SocketAddr::V4(address) = address else {
            panic!("the world gives out addresses of version 4 only")
        };
        let [_, place, high, low] = address.ip().octets();
        let host = HostId(u16::from_be_bytes([high, low]));
        let is_there = place == WHEREVER || self.places[usize::from(host.0)] == place;
        (host, is_there)
    }

    /// What a look-up finds, and after how long.
    pub fn look_up(
        &mut self,
        name: &str,
        nodes: usize,
        hits: &mut Counters,
    ) -> (Duration, io::Result<Vec<SocketAddr>>) {
        let hosts = 0..self.places.len();
        let host = hosts.map(|host| HostId(host as u16)).find(|host| name_of(*host) == name);
        let Some(host) = host else {
            return (LOOK_UP_MAX, Err(io::Error::other("no such name")));
        };
        // Drawn in any case, so that leaving a class out leaves the others as they were.
        let (kind, other) = (self.rng.below(20), self.rng.below(nodes as u64) as u16);
        let (soon, late) = (
            self.rng.between(Duration::ZERO, LOOK_UP_MAX),
            self.rng.between(LOOK_UP_MAX, HANG_MAX),
        );
        let found = address_at(host, self.published[usize::from(host.0)]);
        let class = match kind {
            0..=2 => Hit::LookupFailed,
            3..=4 => Hit::LookupHangs,
            5..=7 => Hit::LookupWrong,
            _ => return (soon, Ok(vec![found])),
        };
        if !self.faults.has(class) {
            return (soon, Ok(vec![found]));
        }
        hits.hit(class);
        match class {
            Hit::LookupFailed => (soon, Err(io::Error::other("the name server fails"))),
            Hit::LookupHangs => (late, Ok(vec![found])),
            // Alone, or with the right one behind it.
            _ if kind == 5 => (soon, Ok(vec![address_of(HostId(other))])),
            _ => (soon, Ok(vec![address_of(HostId(other)), found])),
        }
    }

    /// The host has another address from now on. Returns it, and after how long look-ups find it.
    fn move_host(&mut self, host: HostId) -> (u8, Duration) {
        let place = &mut self.places[usize::from(host.0)];
        *place = (*place + 1) % ADDRESSES;
        (*place, self.rng.between(Duration::ZERO, PUBLISHED_AFTER_MAX))
    }

    /// Whether look-ups find the host where it is.
    pub fn is_published(&self, host: HostId) -> bool {
        self.places[usize::from(host.0)] == self.published[usize::from(host.0)]
    }

    /// Look-ups find the host there.
    ///
    /// Unless it has moved on meanwhile: what is published late must not hide where it is now.
    pub fn publish(&mut self, host: HostId, place: u8) {
        if self.places[usize::from(host.0)] == place {
            self.published[usize::from(host.0)] = place;
        }
    }
}

/// Which of these faults a seed draws, in worlds with names; each other world has none.
pub fn draw_faults(rng: &mut Rng) -> FaultSet {
    let classes = [Hit::NodeMoved, Hit::LookupFailed, Hit::LookupHangs, Hit::LookupWrong];
    classes.into_iter().fold(FaultSet::NONE, |drawn, class| match rng.below(3) {
        0 => drawn,
        _ => drawn.with(class),
    })
}

/// The stream that moves are drawn from.
pub fn moves(plan: &Plan) -> Rng {
    Rng::new(Stream::Names.seed(plan.seed, 1))
}

impl World {
    /// A node moves to another address, with its process or without a restart, and the next one is
    /// drawn.
    pub(super) fn strike_move(&mut self) {
        if self.phase != Phase::Safety {
            return;
        }
        let mean = self.plan.strike_every * EVERY_STRIKES;
        let rng = &mut self.moves;
        let next = rng.between(mean / 4, mean * 7 / 4);
        let (aimed, node) = (rng.below(3) == 0, rng.below(self.plan.nodes as u64) as usize);
        let restarts = rng.below(3) > 0;
        let away = rng.between(Duration::ZERO, Duration::from_millis(500));
        self.queue.after(next, Happening::MoveNode);
        self.nemesis.strikes += 1;
        let permitted = self.plan.faults.has(Hit::NodeMoved);
        if !permitted || self.nemesis.strikes > self.plan.strikes_max {
            return;
        }
        let node = self.leader().filter(|_| aimed).unwrap_or(node);
        let host = self.processes[node].host;
        if restarts {
            self.stop(node, false, away);
        }
        let (place, after) = self.net.names.move_host(host);
        self.net.forsake(&mut self.queue, host);
        self.queue.after(after, Happening::Net(NetHappening::Published(host, place)));
        self.trace.note(self.queue.now(), host, Hit::NodeMoved.name(), [u64::from(place), 0, 0]);
        self.hits.hit(Hit::NodeMoved);
    }
}
