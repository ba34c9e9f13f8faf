//! The founding of a simulated cluster: nodes start blank, somebody asks one after the other to found the
//! cluster until that is done, and nodes crash meanwhile.
//!
//! Properties: a node that is blank, was not asked and holds no founding never campaigns; all nodes go by
//! one founding; a node that went by it does so after every crash, unless its disk was struck.

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::nemesis::Undo;
use super::plan::{Plan, Stream};
use super::time::Time;
use super::world::{Happening, World};
use crate::base::Founding;
use crate::base::rng::Rng;
use crate::io::ConnId;
use crate::node::Ticket;
use crate::paxos::Role;

/// When somebody first asks for it; nodes may not run yet.
pub const FIRST_INIT: Duration = Duration::from_millis(10);
/// The longest between two requests.
const INIT_EVERY_MAX: Duration = Duration::from_millis(400);
/// How long a request may wait.
const INIT_WAIT: Duration = Duration::from_secs(1);
/// By then the cluster is founded: nothing but the crashes below disturbs it.
const FOUNDED_BY: Duration = Duration::from_secs(60);
/// Who asks is no connection: the world looks at the nodes themselves.
const NOBODY: ConnId = ConnId(u64::MAX);

/// What the world knows of its cluster's founding.
pub struct Foundings {
    rng: Rng,
    /// Nodes that will crash while it goes on.
    crashes: u64,
    /// As what it was founded.
    pub known: Option<Founding>,
    /// Which nodes have gone by it, with their disks as they are.
    pub adopted: Vec<bool>,
}

impl Foundings {
    /// Before it.
    pub fn new(plan: &Plan) -> Foundings {
        let mut rng = Rng::new(Stream::Stops.seed(plan.seed, 2));
        let crashes = rng.below(6).saturating_sub(2);
        Foundings { rng, crashes, known: None, adopted: vec![false; plan.nodes] }
    }
}

impl World {
    /// Somebody asks a node to found the cluster.
    pub(super) fn init(&mut self) -> Result<(), Violation> {
        if self.foundings.known.is_some() {
            return Ok(());
        }
        if self.now() > Time::default() + FOUNDED_BY {
            return Err(Violation::new("founding", "the cluster is not founded in time"));
        }
        let now = self.now();
        let node = self.foundings.rng.below(self.plan.nodes as u64) as usize;
        let process = &mut self.processes[node];
        let clock = process.clock.read(now);
        if let Some(live) = &mut process.live {
            let ticket = Ticket { conn: NOBODY, request: 0 };
            live.groups[0].server.node_mut().init(clock, ticket, INIT_WAIT);
            self.hits.hit(Hit::AskedToFound);
            self.schedule_turn(node, now);
        }
        let next = self.foundings.rng.between(FIRST_INIT, INIT_EVERY_MAX);
        self.queue.after(next, Happening::Init);
        Ok(())
    }

    /// What a turn of a node has brought for the founding.
    pub(super) fn watch_founding(&mut self, node: usize) -> Result<(), Violation> {
        let process = &self.processes[node];
        let Some(live) = &process.live else { return Ok(()) };
        let (id, first) = (process.id, live.groups[0].server.node());
        let (founding, pending) = (first.founding(), first.pending_founding());
        let idle = |role: Role| matches!(role, Role::Follower { .. });
        let Some(founding) = founding else {
            let campaigns = live.groups.iter().any(|group| !idle(group.server.node().role()));
            if pending.is_none() && campaigns {
                let text = format!("node {id} is blank, holds no founding, and campaigns");
                return Err(Violation::new("founding", text));
            }
            if pending.is_some() && self.foundings.known.is_none() {
                self.crash_while_founding(node);
            }
            return Ok(());
        };
        match &self.foundings.known {
            Some(known) if known != founding && !process.damaged => {
                let text = format!("node {id} goes by {founding:?}, where {known:?} is");
                return Err(Violation::new("founding", text));
            }
            Some(_) => {}
            None => {
                self.foundings.known = Some(founding.clone());
                self.begin();
            }
        }
        if !self.foundings.adopted[node] {
            self.foundings.adopted[node] = true;
            self.hits.hit(Hit::Founded);
        }
        Ok(())
    }

    fn crash_while_founding(&mut self, node: usize) {
        let rng = &mut self.foundings.rng;
        if self.foundings.crashes == 0 || rng.below(3) > 0 {
            return;
        }
        self.foundings.crashes -= 1;
        let struck = match rng.below(2) {
            0 => node,
            _ => rng.below(self.plan.nodes as u64) as usize,
        };
        let (power_lost, span) = (rng.below(2) == 0, rng.between(Duration::ZERO, INIT_WAIT));
        let soon = rng.between(Duration::ZERO, Duration::from_millis(3));
        self.hits.hit(Hit::CrashedWhileFounding);
        self.queue.after(soon, Happening::Undo(Undo::Stop(struck, power_lost, span)));
    }

    /// A node has started: it still goes by the founding that it had gone by.
    pub(super) fn founding_survives(&mut self, node: usize) -> Result<(), Violation> {
        let process = &self.processes[node];
        let live = process.live.as_ref().expect("it has just started");
        let is_blank = live.groups[0].server.node().is_blank();
        if is_blank && self.foundings.adopted[node] && !process.damaged {
            let text = format!("node {} had gone by the founding, and is blank again", process.id);
            return Err(Violation::new("founding", text));
        }
        Ok(())
    }
}
