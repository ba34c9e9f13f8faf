//! The leader's appends on their way: the open batch, and who waits for which slot.
//!
//! Owned by the node. Every ticket pushed here comes back in exactly one answer: when its slot is
//! applied, or when this replica stops leading.

use std::collections::VecDeque;

use super::{Answer, CommandFailure, Ticket};
use crate::base::mutants::{Mutant, planted};
use crate::base::{Batch, BlockPool, Slot};
use crate::machine::{BatchBuilder, Command, Outcome, command_size_max};

/// Lists of tickets kept for reuse.
const SPARE_LISTS_MAX: usize = 16;

#[derive(Debug)]
struct Proposed {
    slot: Slot,
    tickets: Vec<Ticket>,
}

/// The open batch and the proposed ones.
#[derive(Debug)]
pub struct Appends {
    builder: BatchBuilder,
    append_bytes_max: usize,
    value_bytes_max: usize,
    /// Who waits for the open batch: a ticket per command, in order.
    tickets: Vec<Ticket>,
    /// Proposed and not yet applied, by slot.
    proposed: VecDeque<Proposed>,
    spare_lists: Vec<Vec<Ticket>>,
}

impl Appends {
    /// Nothing is open or proposed. Every append is of at most `append_bytes_max`, every batch of
    /// at most `value_bytes_max` bytes.
    pub fn new(pool: BlockPool, append_bytes_max: usize, value_bytes_max: usize) -> Appends {
        Appends {
            append_bytes_max,
            value_bytes_max,
            builder: BatchBuilder::new(pool),
            tickets: Vec::new(),
            proposed: VecDeque::new(),
            spare_lists: Vec::new(),
        }
    }

    /// Whether the open batch takes an append of any permitted size.
    pub fn has_room(&self) -> bool {
        self.builder.size() + command_size_max(self.append_bytes_max) <= self.value_bytes_max
            && self.builder.fits(self.append_bytes_max)
    }

    /// Whether the open batch is empty.
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// The open batch's size in bytes.
    pub fn open_bytes(&self) -> usize {
        self.builder.size()
    }

    /// Adds a command to the open batch.
    pub fn push(&mut self, ticket: Ticket, command: &Command<'_>) {
        self.builder.push(command);
        self.tickets.push(ticket);
    }

    /// Seals the open batch, to be proposed for `slot`, at this time of the log.
    pub fn seal(&mut self, slot: Slot, log_time_ms: u64) -> Batch {
        if let Some(last) = self.proposed.back() {
            assert!(slot > last.slot, "slots are proposed in order");
        }
        let empty = self.spare_lists.pop().unwrap_or_default();
        let tickets = std::mem::replace(&mut self.tickets, empty);
        self.proposed.push_back(Proposed { slot, tickets });
        self.builder.seal(log_time_ms)
    }

    /// A slot is applied: answers whoever waits for it.
    pub fn chosen(&mut self, slot: Slot, outcomes: &[Outcome], answers: &mut Vec<Answer>) {
        let Some(oldest) = self.proposed.front() else {
            return;
        };
        assert!(slot <= oldest.slot, "slots are applied in order, so none was passed over");
        if slot < oldest.slot {
            return;
        }
        let mut tickets = self.proposed.pop_front().expect("looked at above").tickets;
        assert_eq!(
            tickets.len(),
            outcomes.len(),
            "a leader's own value is applied as it was built"
        );
        for (ticket, outcome) in tickets.drain(..).zip(outcomes) {
            answers.push(Answer::Command { ticket, result: Ok(*outcome) });
        }
        if self.spare_lists.len() < SPARE_LISTS_MAX {
            self.spare_lists.push(tickets);
        }
    }

    /// This replica leads no more: what was never proposed certainly had no effect (`failure`);
    /// what was proposed may yet be chosen under another leader.
    pub fn fail_all(&mut self, failure: CommandFailure, answers: &mut Vec<Answer>) {
        for proposed in self.proposed.drain(..) {
            answers.extend(proposed.tickets.into_iter().map(|ticket| {
                let unknown = !planted(Mutant::UnknownAnsweredAsFailed);
                let why = if unknown { CommandFailure::OutcomeUnknown } else { failure.clone() };
                Answer::Command { ticket, result: Err(why) }
            }));
        }
        answers.extend(
            self.tickets
                .drain(..)
                .map(|ticket| Answer::Command { ticket, result: Err(failure.clone()) }),
        );
        self.builder.clear();
    }
}
