//! When a leader gives way: it hands the leadership to a member that leads better.
//!
//! Called by the dispatch, the leader's tick and the end of a turn. Guarantee: none is needed for
//! safety; a transfer is `transfer`'s, and anybody may campaign at any time. What is decided here is
//! to whom and when:
//!
//! - *It is asked to stop* ([`Core::retire`]): to the member that can take over soonest, at once; to
//!   the next one if that one fails. An election after a silent end costs the clients an election
//!   timeout, a transfer a few round trips.

use std::cmp::Reverse;

use super::Value;
use super::core::{Core, State};
use super::effect::Effects;
use crate::base::mutants::{Mutant, planted};

impl<V: Value> Core<V> {
    /// This replica is about to stop: it hands its leadership over, now and whenever it should get
    /// one, and does not campaign by itself any more.
    pub fn retire(&mut self) {
        self.retiring = true;
    }

    /// Whether a replica that is about to stop holds a leadership, or is about to get one, and
    /// another member may yet take that over.
    pub fn can_hand_over(&self) -> bool {
        match &self.state {
            State::Following | State::PreVoting(_) => false,
            State::Preparing(_) | State::Recovering(_) => true,
            State::Leading(leading) => leading.transfer.is_some() || self.successor().is_some(),
        }
    }

    /// Starts the transfer that is due, if any.
    pub(super) fn pump_give_way(&mut self, fx: &mut Effects<V>) {
        if !self.retiring || planted(Mutant::StopWithoutTransfer) {
            return;
        }
        let State::Leading(leading) = &self.state else { return };
        let Some(peer) = self.successor() else { return };
        match leading.transfer {
            None => self.start_transfer(peer),
            // Somebody else has come near first.
            Some(transfer)
                if transfer.is_nearing() && transfer.to != peer && self.is_near(peer) =>
            {
                self.end_transfer(None, fx);
                self.start_transfer(peer);
            }
            Some(_) => {}
        }
    }

    /// Whether the peer lives and has a vote. A leader that has just ended a long phase 1 has asked nobody for
    /// an answer yet: then anything else that the peer has said counts.
    fn may_take_over(&self, peer: usize) -> bool {
        let known = &self.peers[peer];
        let silence = known.last_contact.map(|last| self.now.since(last));
        let speaks = silence.is_some_and(|silence| silence < self.config.election_timeout);
        let votes = known.cut.as_ref().is_none_or(|cut| cut.votes);
        self.is_heard(peer) || known.connected && speaks && votes
    }

    /// Who would take over soonest: close behind rather than not, who has not failed, who is wanted
    /// more, who has answered more.
    fn successor(&self) -> Option<usize> {
        let able = self.peer_indices().filter(|peer| self.may_take_over(*peer));
        able.max_by_key(|peer| {
            let known = &self.peers[*peer];
            (self.is_near(*peer), Reverse(known.setbacks), known.priority, self.acked(*peer))
        })
    }
}
