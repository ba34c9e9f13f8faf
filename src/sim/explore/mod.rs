//! Exhaustive exploration of small worlds: every reachable state of a few real [`Core`]s under
//! message loss, doubling, reordering, late disks and crashes, up to stated bounds.
//!
//! Called by `loggos sim --explore` and by tests. Guarantee: when a [`Report`] is complete, no
//! schedule within the bounds breaks agreement, validity or the promises (see `world` and `local`
//! for the exact properties). The same bounds give the same report.
//!
//! What is taken together, and why nothing is lost by it:
//!
//! - The network is the set of all messages ever sent. Each may be delivered at any time and any
//!   number of times, or never: loss, doubling and reordering at once.
//! - Time has no measure. A campaign may start at any moment; it stands for every timeout that
//!   leads to one. Pre-votes are not asked for but taken as granted, since safety must not depend
//!   on them.
//! - A crash loses every write that is not durable, and the replica restarts at once: that it is
//!   down for a while is the same as that messages come late.
//! - A replica's answer depends on its state and the input alone, so each (state, input) is
//!   computed once; states are numbered and compared whole (hash-consed). Worlds are told apart
//!   by 64 bits of hash: at 10^8 worlds the chance that one was overlooked is below 10^-3.
//!
//! Left out: heartbeat timers and re-sending (a message that may come twice needs no re-sending),
//! and the loss of connections.
//!
//! [`Core`]: crate::paxos::Core

mod local;
#[cfg(feature = "mutants")]
pub mod planted;
mod search;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;

pub use search::explore;

/// The most replicas in a world.
pub const REPLICAS_MAX: usize = 5;

/// In which order worlds are visited. It changes which violation is found first, not which worlds
/// are reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nearest first: the shortest schedule to a violation, and the most memory.
    Breadth,
    /// Deepest first: little memory beside the visited worlds.
    Depth,
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// Agreement, validity, and each replica's own promises (see `local`).
    All,
    /// Agreement and validity alone: what a user would notice. For trying whether a planted bug
    /// really leads there.
    Agreement,
}

/// How far the exploration goes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Replicas, all of them acceptors; at most [`REPLICAS_MAX`].
    pub replicas: usize,
    /// So many of them, the first, campaign and propose.
    pub proposers: usize,
    /// The greatest slot used.
    pub slots: u64,
    /// Whether the exploration begins with the first replica elected by all, in peace. That
    /// campaign is not counted.
    pub elected: bool,
    /// Values proposed by clients, in all.
    pub proposals: u8,
    /// Campaigns, in all.
    pub campaigns: u8,
    /// How often a leader is told to hand over, or to keep its leadership after all; in all. The
    /// campaigns of those who take over are not counted.
    pub transfers: u8,
    /// Crashes, in all.
    pub crashes: u8,
    /// Steps, in all, whose writes become durable at some later moment; those of the other steps
    /// become durable at once.
    pub delays: u8,
    /// Whether refusals (Nack) and the answers to heartbeats are delivered. They carry hints only;
    /// without them more is reached with the same number of worlds.
    pub hints: bool,
    /// Whether heartbeats are delivered. Without them a watermark is told by the next Accept only.
    pub heartbeats: bool,
    /// Whether replicas learn chosen slots from each other.
    pub catch_up: bool,
    /// The exploration ends, incomplete, after so many worlds.
    pub worlds_max: usize,
    /// In which order.
    pub order: Order,
    /// What is checked.
    pub checks: Checks,
}

impl Bounds {
    /// One slot, two campaigns.
    pub fn small() -> Bounds {
        Bounds {
            replicas: 3,
            proposers: 2,
            slots: 1,
            elected: false,
            proposals: 2,
            campaigns: 2,
            transfers: 0,
            crashes: 0,
            delays: 0,
            hints: false,
            heartbeats: true,
            catch_up: true,
            worlds_max: 20_000_000,
            order: Order::Depth,
            checks: Checks::All,
        }
    }

    /// What the tests explore, by name: seconds.
    pub fn quick() -> Vec<(&'static str, Bounds)> {
        let small = Bounds::small();
        let quiet = Bounds { heartbeats: false, ..small.clone() };
        vec![
            ("one slot, refusals and all hints", Bounds { hints: true, ..small.clone() }),
            ("one slot, a crash", Bounds { crashes: 1, ..small.clone() }),
            ("one slot, three proposers", Bounds { proposers: 3, ..small }),
            ("one slot, three campaigns", Bounds { campaigns: 3, ..quiet.clone() }),
            ("one slot, a crash, a late write", Bounds { crashes: 1, delays: 1, ..quiet.clone() }),
            ("two slots", Bounds { slots: 2, ..quiet.clone() }),
            (
                "one slot, handing over twice",
                Bounds { elected: true, transfers: 2, campaigns: 1, ..quiet },
            ),
        ]
    }

    /// What `loggos sim --explore` explores, by name: about half an hour, and up to 2 GiB of memory.
    pub fn full() -> Vec<(&'static str, Bounds)> {
        let small = Bounds::small();
        let one = Bounds { heartbeats: false, ..small.clone() };
        let two = Bounds { slots: 2, ..one.clone() };
        let bare = Bounds { catch_up: false, ..two.clone() };
        let after = Bounds { elected: true, ..bare.clone() };
        let late = |bounds: &Bounds| Bounds { crashes: 1, delays: 1, ..bounds.clone() };
        vec![
            ("one slot, all hints, a crash, a late write", Bounds { hints: true, ..late(&small) }),
            (
                "one slot, three proposers, three campaigns",
                Bounds { proposers: 3, campaigns: 3, ..small.clone() },
            ),
            ("one slot, four campaigns", Bounds { campaigns: 4, ..one.clone() }),
            (
                "one slot, three campaigns, a crash, a late write",
                Bounds { campaigns: 3, ..late(&one) },
            ),
            ("one slot, five replicas", Bounds { replicas: 5, catch_up: false, ..one }),
            ("two slots, heartbeats", Bounds { slots: 2, ..small }),
            ("two slots, a crash", Bounds { crashes: 1, ..two.clone() }),
            ("two slots, a late write", Bounds { delays: 1, ..two }),
            ("two slots, a crash, a late write, no catch-up", late(&bare)),
            (
                "two slots after an election, two more campaigns, four values",
                Bounds { proposals: 4, ..after.clone() },
            ),
            (
                "one slot after an election, handing over three times, one campaign, a crash, a late \
                 write",
                Bounds { slots: 1, transfers: 3, campaigns: 1, ..late(&after) },
            ),
            (
                "two slots after an election, handing over twice, one campaign, three values",
                Bounds { proposals: 3, transfers: 2, campaigns: 1, ..after },
            ),
        ]
    }
}

/// How the exploration stands, told now and then.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Worlds found.
    pub worlds: usize,
    /// Worlds found and not yet looked at.
    pub waiting: usize,
    /// Steps from the first world to the present one.
    pub depth: usize,
}

/// What came of an exploration.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different worlds found, without those that another covers from the start.
    pub worlds: usize,
    /// Steps between worlds, those to known worlds included.
    pub steps: u64,
    /// Different states of single replicas.
    pub replica_states: usize,
    /// Different combinations of them.
    pub combinations: usize,
    /// Different messages.
    pub messages: usize,
    /// Worlds in which a value was chosen; in which two slots or more were.
    pub worlds_chosen: [usize; 2],
    /// The longest schedule followed.
    pub depth: usize,
    /// Whether everything within the bounds was visited.
    pub complete: bool,
    /// The first violation found.
    pub violation: Option<Violation>,
}

/// A property that does not hold, and how to get there.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// The schedule from the first world, a step per line.
    pub schedule: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { worlds, steps, combinations, replica_states, messages, .. } = self;
        let Report { worlds_chosen, depth, .. } = self;
        let [one, two] = worlds_chosen;
        let extent = if self.complete { "complete" } else { "not complete" };
        writeln!(
            f,
            "{worlds} worlds ({one} with a slot chosen, {two} with two), {steps} steps, \
             {combinations} combinations of {replica_states} replica states, {messages} messages, depth {depth}: {extent}"
        )?;
        let Some(Violation { what, schedule }) = &self.violation else {
            return write!(f, "no violation");
        };
        for (index, line) in schedule.iter().enumerate() {
            writeln!(f, "{:>4}  {line}", index + 1)?;
        }
        write!(f, "violation: {what}")
    }
}
