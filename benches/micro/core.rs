//! Steps of the core: a slot at the leader (propose, own write, the peers' answers, the tally), and
//! an Accept at a follower.

use std::collections::VecDeque;

use criterion::{Criterion, Throughput};

use loggos::base::{Ballot, Batch, BlockPool, Instant, NodeId, Slot};
use loggos::paxos::{
    Config, Core, Effect, Effects, Input, Message, Outgoing, PersistId, Recovered, Role,
};

use crate::values::batch_of;

/// Cores joined by a network and disks that are never late.
struct Cluster {
    cores: Vec<Core<Batch>>,
    now: Instant,
}

fn id_of(index: usize) -> NodeId {
    NodeId(index as u16 + 1)
}

impl Cluster {
    /// A cluster whose first member leads.
    fn with_leader(members: usize) -> Cluster {
        let ids: Vec<NodeId> = (0..members).map(id_of).collect();
        let now = Instant(1_000_000_000);
        let core = |id: &NodeId| {
            let config = Config::new(*id, ids.clone());
            Core::new(config, Recovered::default(), now, 1).expect("the defaults fit together")
        };
        let cores = ids.iter().map(core).collect();
        let mut cluster = Cluster { cores, now };
        let deadline = cluster.cores[0].next_deadline().expect("an election is due");
        // Late enough for the first to campaign and for the others to want a leader too.
        cluster.now = deadline + cluster.cores[0].config().election_timeout * 2;
        cluster.run(0, Input::Tick);
        assert_eq!(cluster.cores[0].role(), Role::Leader);
        cluster
    }

    /// Hands `input` to one core and everything that follows to whom it concerns.
    fn run(&mut self, core: usize, input: Input<Batch>) {
        let mut inputs = VecDeque::from([(core, input)]);
        while let Some((at, input)) = inputs.pop_front() {
            let mut effects = Effects::new();
            self.cores[at].step(self.now, input, &mut effects);
            let deliver = |out: Outgoing<Batch>| {
                let from = id_of(at);
                (usize::from(out.to.0) - 1, Input::Message { from, message: out.message })
            };
            for effect in effects {
                match effect {
                    Effect::Persist { id, then, .. } => {
                        inputs.push_back((at, Input::Persisted(id)));
                        inputs.extend(then.into_iter().map(deliver));
                    }
                    Effect::Send(out) => inputs.push_back(deliver(out)),
                    _ => {}
                }
            }
        }
    }
}

fn persist_of(effects: &Effects<Batch>) -> PersistId {
    let id = effects.iter().find_map(|effect| match effect {
        Effect::Persist { id, .. } => Some(*id),
        _ => None,
    });
    id.expect("an accepted value is made durable")
}

/// One slot at the leader of `members`, from the proposal until every peer has answered.
fn leader_slot(c: &mut Criterion, members: usize) {
    let cluster = Cluster::with_leader(members);
    let (mut leader, now) = (cluster.cores.into_iter().next().expect("a member"), cluster.now);
    let value = batch_of(&BlockPool::new(1 << 20), 64);
    let mut effects = Effects::new();
    c.bench_function(&format!("core/slot at a leader of {members}"), |b| {
        b.iter(|| {
            let (slot, ballot) = (leader.next_slot(), leader.ballot());
            effects.clear();
            leader.step(now, Input::Propose(value.clone()), &mut effects);
            let own = persist_of(&effects);
            effects.clear();
            for peer in 1..members {
                let message = Message::Accepted { ballot, slot };
                leader.step(now, Input::Message { from: id_of(peer), message }, &mut effects);
            }
            leader.step(now, Input::Persisted(own), &mut effects);
            leader.step(now, Input::EndOfTurn, &mut effects);
            assert_eq!(leader.chosen(), slot);
        });
    });
}

pub fn steps(c: &mut Criterion) {
    [1, 3, 5, 7].into_iter().for_each(|members| leader_slot(c, members));
    let mut group = c.benchmark_group("core");
    group.throughput(Throughput::Elements(1));
    let ids = (0..3).map(id_of).collect();
    let now = Instant(1_000_000_000);
    let mut follower =
        Core::new(Config::new(id_of(1), ids), Recovered::default(), now, 1).expect("it fits");
    let value = batch_of(&BlockPool::new(1 << 20), 64);
    let (mut effects, mut slot) = (Effects::new(), Slot::NONE);
    let ballot = Ballot { round: 1, node: id_of(0) };
    group.bench_function("accept at a follower", |b| {
        b.iter(|| {
            let chosen = slot;
            slot = slot.next();
            effects.clear();
            let message = Message::Accept { ballot, slot, chosen, value: value.clone() };
            follower.step(now, Input::Message { from: id_of(0), message }, &mut effects);
            let own = persist_of(&effects);
            follower.step(now, Input::Persisted(own), &mut effects);
            assert_eq!(follower.chosen(), chosen);
        });
    });
    group.finish();
}
