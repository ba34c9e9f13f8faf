//! A clean stop: what a server that is asked to stop does before it leaves its loop.
//!
//! Called by the loop of [`super::service`], at the beginning of each turn. In this order: the node
//! hands its leadership over, if it has one and somebody can take it; it takes a last checkpoint, if
//! that is worth while; and its last answers leave. Each part is bounded, and whoever asks again cuts
//! all of it short. Meanwhile the node serves, at the end as a follower: clients get their answers,
//! or are told who leads now, before their connections close.

use std::time::Duration;

use super::Server;
use crate::base::Instant;

/// The longest that a stop waits for another member to take the leadership over. Each group has a
/// thread of its own, so that this is the bound of them all.
const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(1);
/// The longest that a stop waits for a checkpoint to be written.
const CHECKPOINT_WAIT_MAX: Duration = Duration::from_millis(500);

/// How far a clean stop is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopStage {
    /// Nobody has asked for one.
    #[default]
    Serving,
    /// The leadership goes to another member, until then at the latest.
    Transferring(Instant),
    /// The last checkpoint is being written, until then at the latest.
    Checkpointing(Instant),
    /// What has been answered is on its way; the next turn is the last one.
    Leaving,
}

impl StopStage {
    /// When the stop goes on, whatever happens.
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            StopStage::Transferring(until) | StopStage::Checkpointing(until) => Some(until),
            StopStage::Serving | StopStage::Leaving => None,
        }
    }
}

impl Server {
    /// How far the stop is that was asked for.
    pub fn stop_stage(&self) -> StopStage {
        self.stop
    }

    /// Somebody asks for a stop. Returns whether this is not the first time: then it is at once.
    pub(super) fn ask_to_stop(&mut self, now: Instant) -> bool {
        if self.stop != StopStage::Serving {
            return true;
        }
        self.node.retire();
        self.stop = StopStage::Transferring(now + TRANSFER_WAIT_MAX);
        false
    }

    /// Goes on with the stop as far as possible.
    pub(super) fn pump_stop(&mut self, now: Instant) {
        if !self.is_stop_due(now) {
            return;
        }
        self.stop = match self.stop {
            StopStage::Transferring(_) if self.node.prepare_stop() => {
                StopStage::Checkpointing(now + CHECKPOINT_WAIT_MAX)
            }
            _ => StopStage::Leaving,
        };
    }

    /// Whether the stop goes on to its next stage.
    pub(super) fn is_stop_due(&self, now: Instant) -> bool {
        match self.stop {
            StopStage::Serving => false,
            StopStage::Transferring(until) => until <= now || self.node.has_retired(),
            // Somebody may have come meanwhile who can take over: the leadership goes to them.
            StopStage::Checkpointing(until) => {
                until <= now || !self.node.is_writing_checkpoint() && self.node.has_retired()
            }
            StopStage::Leaving => true,
        }
    }
}
