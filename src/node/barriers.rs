//! Linearizable reads that wait for the core's word.
//!
//! Owned by the node. Every ticket pushed here comes back in exactly one [`Answer::Confirmed`].

use std::collections::VecDeque;

use super::{Answer, Ticket};
use crate::paxos::ReadId;

/// The reads that wait, by id.
#[derive(Debug, Default)]
pub struct Barriers {
    last: ReadId,
    waiting: VecDeque<(ReadId, Ticket)>,
}

impl Barriers {
    /// Notes who waits; returns the id to hand to the core.
    pub fn push(&mut self, ticket: Ticket) -> ReadId {
        self.last = ReadId(self.last.0 + 1);
        self.waiting.push_back((self.last, ticket));
        self.last
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The core has said of the reads from `first` to `last` whether they may be answered.
    pub fn end(&mut self, first: ReadId, last: ReadId, confirmed: bool, answers: &mut Vec<Answer>) {
        let from = self.waiting.partition_point(|(id, _)| *id < first);
        let to = self.waiting.partition_point(|(id, _)| *id <= last);
        let ended = self.waiting.drain(from..to);
        answers.extend(ended.map(|(_, ticket)| Answer::Confirmed { ticket, confirmed }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ConnId;

    #[test]
    fn groups_end_in_any_order_and_each_read_once() {
        let mut barriers = Barriers::default();
        let ids: Vec<ReadId> =
            (0..5).map(|request| barriers.push(Ticket { conn: ConnId(1), request })).collect();
        let mut answers = Vec::new();
        barriers.end(ids[2], ids[3], true, &mut answers);
        barriers.end(ids[0], ids[1], false, &mut answers);
        barriers.end(ids[2], ids[4], true, &mut answers);
        let seen: Vec<(u64, bool)> = answers
            .iter()
            .map(|answer| match answer {
                Answer::Confirmed { ticket, confirmed } => (ticket.request, *confirmed),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, [(2, true), (3, true), (0, false), (1, false), (4, true)]);
        assert_eq!(barriers.len(), 0);
    }
}
