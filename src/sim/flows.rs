//! Flows that die in silence: a connection between two nodes delivers nothing any more, in one
//! direction or both, and nobody is told, while new connections pass. A firewall that forgets its flows
//! does that, or a router between two paths.
//!
//! Called by the world; times and flows come from a random stream of their own, so that worlds without
//! this are what they would be if there were none.
//!
//! Property: a node does not keep sending into the void. Where both nodes run and new connections have
//! passed for [`redialled_within`], with some leave for attempts that fail, it has left the dead one.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::phases::Phase;
use super::plan::{Plan, Stream};
use super::time::Time;
use super::trace::HostId;
use super::world::{Happening, World};
use crate::base::rng::Rng;
use crate::node::redialled_within;

const NAME: &str = "silent flows";

/// Between two strikes, in mean times between two strikes of the nemesis.
const EVERY_STRIKES: u32 = 3;
/// Between two looks at the flows that have died.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What becomes of the bytes on a dead flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// They get lost, and the sender's kernel gives up some day.
    Lost,
    /// Something on the way takes them and acknowledges them: the sender's kernel never notices.
    Swallowed,
}

/// A dead flow that is to be left by the node that dialled it.
struct Watched {
    key: u64,
    from: usize,
    to: usize,
    /// Since when nothing speaks against a new connection.
    clear_since: Option<Time>,
}

/// Who silences flows, and what becomes of them.
pub struct Flows {
    rng: Rng,
    watched: Vec<Watched>,
}

impl Flows {
    /// For the world of a plan.
    pub fn new(plan: &Plan) -> Flows {
        Flows { rng: Rng::new(Stream::Flows.seed(plan.seed, 1)), watched: Vec::new() }
    }
}

impl World {
    /// Silences one flow, or all of a pair of nodes, or all between nodes; and draws the next time.
    pub(super) fn strike_flows(&mut self) {
        if self.phase != Phase::Safety {
            return;
        }
        let mean = self.plan.strike_every * EVERY_STRIKES;
        let rng = &mut self.flows.rng;
        let next = rng.between(mean / 4, mean * 7 / 4);
        let (reach, node, more) = (rng.below(4), rng.next_u64(), rng.next_u64());
        self.queue.after(next, Happening::SilenceFlows);
        self.nemesis.strikes += 1;
        let permitted = self.plan.faults.has(Hit::FlowSilenced);
        if !permitted || self.nemesis.strikes > self.plan.strikes_max {
            return;
        }
        let flows = self.net.flows_between(self.plan.nodes);
        let Some((_, from, to)) = flows.get(node as usize % flows.len().max(1)).copied() else {
            return;
        };
        let is_struck = |index: usize, (a, b): (HostId, HostId)| match reach {
            0 => true,
            1 => (a, b) == (from, to) || (b, a) == (from, to),
            _ => index == node as usize % flows.len(),
        };
        let rng = &mut Rng::new(more);
        for (index, (key, a, b)) in flows.iter().copied().enumerate() {
            let death = if rng.below(2) == 0 { Death::Lost } else { Death::Swallowed };
            // What the dialling side sends, what it is answered, or both.
            let dead = [[false, true], [true, false], [true, true]][rng.below(3) as usize];
            if !is_struck(index, (a, b)) {
                continue;
            }
            self.net.silence(key, death, dead);
            self.trace.note(self.queue.now(), a, Hit::FlowSilenced.name(), [key, 0, 0]);
            self.hits.hit(Hit::FlowSilenced);
            if dead[1] {
                if self.flows.watched.is_empty() {
                    self.queue.after(LOOK_EVERY, Happening::LookAtFlows);
                }
                let (from, to) = (usize::from(a.0), usize::from(b.0));
                self.flows.watched.push(Watched { key, from, to, clear_since: None });
            }
        }
    }

    /// Looks whether the flows that have died were left.
    ///
    /// # Errors
    /// When one was not, for too long.
    pub(super) fn look_at_flows(&mut self) -> Result<(), Violation> {
        let now = self.now();
        let lookups = [Hit::LookupFailed, Hit::LookupHangs, Hit::LookupWrong];
        let is_misled = lookups.into_iter().any(|class| self.plan.faults.has(class));
        let leave = if is_misled { 6 } else { 2 };
        let most = redialled_within(self.plan.core.election_timeout) * leave;
        let mut watched = std::mem::take(&mut self.flows.watched);
        watched.retain(|flow| {
            let stands = self.net.is_dialled(flow.key);
            self.hits.add(Hit::FlowRedialled, u64::from(!stands));
            stands
        });
        for flow in &mut watched {
            if !self.may_redial(flow.from, flow.to) {
                flow.clear_since = None;
                continue;
            }
            let since = *flow.clear_since.get_or_insert(now);
            if now.since(since) > most {
                let (from, to) = (self.processes[flow.from].id, self.processes[flow.to].id);
                let text =
                    format!("node {from} still sends to {to} where nothing passes: {most:?}");
                return Err(Violation::new(NAME, text));
            }
        }
        if !watched.is_empty() && self.phase != Phase::Over {
            self.queue.after(LOOK_EVERY, Happening::LookAtFlows);
        }
        self.flows.watched = watched;
        Ok(())
    }

    /// Whether nothing keeps a node from connecting anew to another one.
    fn may_redial(&self, from: usize, to: usize) -> bool {
        let runs = |node: usize| {
            let process = &self.processes[node];
            process.live.is_some() && process.frozen_until.is_none()
        };
        let (a, b) = (self.processes[from].host, self.processes[to].host);
        // By a wrong clock a node may well wait for longer.
        let clear = self.net.is_clear(a, b) && self.net.is_clear(b, a);
        let clear = clear && self.net.names.is_published(b);
        clear && runs(from) && runs(to) && self.clocks_broken_at.is_none()
    }
}
