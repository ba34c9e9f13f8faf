//! The run's trace: a hash over everything that happened, and the last happenings of each host.
//!
//! Written by the world at every happening. Guarantee: the hash covers the order, the time and
//! the content of everything that reached a node or a client, so that two runs with equal hashes
//! were the same run.

use std::collections::VecDeque;
use std::fmt::Write;

use super::time::Time;

/// Happenings kept per host.
const KEPT_PER_HOST: usize = 60;

/// A host of the world: a node or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u16);

/// One happening, small enough to be kept without being spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What happened.
    pub what: &'static str,
    /// Its numbers; their meaning depends on `what`.
    pub numbers: [u64; 3],
}

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    marks: u64,
    hosts: Vec<VecDeque<(Time, Mark)>>,
}

impl Trace {
    /// Nothing has happened yet on `hosts` hosts.
    pub fn new(hosts: usize) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, marks: 0, hosts: vec![VecDeque::new(); hosts] }
    }

    /// Notes a happening.
    pub fn note(&mut self, now: Time, host: HostId, what: &'static str, numbers: [u64; 3]) {
        self.mix(now.0);
        self.mix(u64::from(host.0));
        what.bytes().for_each(|byte| self.mix(u64::from(byte)));
        numbers.into_iter().for_each(|number| self.mix(number));
        self.marks += 1;
        let Some(kept) = self.hosts.get_mut(usize::from(host.0)) else { return };
        if kept.len() == KEPT_PER_HOST {
            kept.pop_front();
        }
        kept.push_back((now, Mark { what, numbers }));
    }

    fn mix(&mut self, number: u64) {
        // FNV over words, with a rotation so that the high bits take part.
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many happenings there were.
    pub fn marks(&self) -> u64 {
        self.marks
    }

    /// The last happenings of a host, a line each.
    pub fn last_of(&self, host: HostId) -> String {
        let mut text = String::new();
        for (time, mark) in self.hosts.get(usize::from(host.0)).into_iter().flatten() {
            let Mark { what, numbers: [a, b, c] } = mark;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {time}  {what} {a} {b} {c}");
        }
        text
    }
}

/// A short digest of bytes, for marks.
pub fn digest(bytes: &[u8]) -> u64 {
    u64::from(crate::base::Checksum::of(bytes).0)
}
