//! A read at level `read-index` asks a quorum.
//!
//! Property: while such a read or tail was under way, some leader's heartbeats were answered by so
//! many others that they are an accept quorum with it. So whoever answered it, or told the follower
//! who did, knew that it still led after the read had begun. (That is needed for freshness and found
//! sooner: a read without a round is mostly fresh all the same.)

use super::Violation;
use crate::base::{Ballot, NodeId};
use crate::paxos::Message;
use crate::sim::counters::{Counters, Hit};
use crate::sim::history::{History, Kind};
use crate::sim::time::Time;
use crate::wire::ReadLevel;

const NAME: &str = "rounds";

/// Every answer to a heartbeat.
pub struct Rounds {
    quorum: usize,
    /// In the order of their sending: who answered the heartbeat of which ballot.
    answers: Vec<(Time, NodeId, Ballot)>,
}

impl Rounds {
    /// Over `nodes` nodes.
    pub fn new(nodes: usize) -> Rounds {
        Rounds { quorum: nodes / 2 + 1, answers: Vec::new() }
    }

    /// A node sends this.
    pub fn sent<V>(&mut self, node: NodeId, message: &Message<V>, at: Time) {
        if let Message::HeartbeatReply { ballot, .. } = message {
            self.answers.push((at, node, *ballot));
        }
    }

    /// Judges a whole history.
    ///
    /// # Errors
    /// The first read that nobody can have been asked about.
    pub fn check(&self, history: &History, hits: &mut Counters) -> Result<(), Violation> {
        let index = ReadLevel::ReadIndex;
        let is_judged = |kind: &Kind| match kind {
            Kind::Read { level, .. } | Kind::Tail { level, .. } => *level == index,
            Kind::Append { .. } => false,
        };
        for operation in history.operations.iter().filter(|op| is_judged(&op.kind)) {
            let Some(returned) = operation.acknowledged() else { continue };
            hits.hit(Hit::RoundChecked);
            if !self.is_confirmed(operation.invoked, returned) {
                let (process, invoked) = (operation.process, operation.invoked);
                let text = format!("process {process} asked at {invoked} and was answered at");
                let text = format!("{text} {returned}, and no leader heard a quorum in between");
                return Err(Violation::new(NAME, text));
            }
        }
        Ok(())
    }

    /// Whether a quorum has answered one leader between these times.
    fn is_confirmed(&self, from: Time, to: Time) -> bool {
        let start = self.answers.partition_point(|(at, ..)| *at < from);
        let mut answered: Vec<(Ballot, Vec<NodeId>)> = Vec::new();
        let mut others = 0;
        for (_, node, ballot) in self.answers[start..].iter().take_while(|(at, ..)| *at <= to) {
            if others + 1 >= self.quorum {
                break;
            }
            let of_ballot = match answered.iter_mut().find(|(of, _)| of == ballot) {
                Some((_, nodes)) => nodes,
                None => {
                    answered.push((*ballot, Vec::new()));
                    &mut answered.last_mut().expect("it was just added").1
                }
            };
            if *node != ballot.node && !of_ballot.contains(node) {
                of_ballot.push(*node);
            }
            others = others.max(of_ballot.len());
        }
        others + 1 >= self.quorum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;
    use crate::paxos::Fitness;

    #[test]
    fn a_quorum_must_have_answered_one_leader_within_the_time() {
        let mut rounds = Rounds::new(5);
        let mut answer = |at, node, round| {
            let ballot = Ballot { round, node: NodeId(1) };
            let reply = Message::<()>::HeartbeatReply {
                ballot,
                sequence: 1,
                chosen: Slot::NONE,
                granted: false,
                priority: 0,
                fitness: Fitness::default(),
            };
            rounds.sent(NodeId(node), &reply, Time(at));
        };
        for (at, node, round) in [(10, 2, 1), (20, 2, 1), (30, 3, 2), (40, 3, 1), (50, 4, 2)] {
            answer(at, node, round);
        }
        let confirmed = |from, to| rounds.is_confirmed(Time(from), Time(to));
        assert!(confirmed(10, 40) && confirmed(20, 40) && confirmed(30, 50));
        assert!(!confirmed(10, 39), "one node, twice, and one for another ballot");
        assert!(!confirmed(21, 49) && !confirmed(60, 90));
        assert!(Rounds::new(1).is_confirmed(Time(60), Time(90)), "a cluster of one asks nobody");
    }
}
