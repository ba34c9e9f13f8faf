//! The deterministic state machine: what chosen batches mean.
//!
//! `node/` builds batches with [`BatchBuilder`] and applies chosen ones, in slot order, with
//! [`Machine::apply`]; every replica that applies the same slots has the same state and gives the
//! same answers. No IO, no clock, no randomness; imports only `base`.

mod batch;
mod hash;
mod logs;
mod saved;
#[cfg(test)]
mod saved_tests;
mod sessions;
mod state;

pub use batch::{
    BATCH_HEADER_SIZE, BatchBuilder, BatchError, BatchView, COMMAND_HEADER_SIZE, Command,
    CommandKind, command_size_max, stated_counts,
};
pub use hash::{STATE_MARK_EVERY, STATE_MARKS_MAX, StateMark};
pub use logs::{LOGS_MAX, LogState, Logs};
pub use saved::DecodeError;
pub use sessions::{RESULTS_MAX, SESSIONS_MAX, SessionCounters, SessionLimits};
pub use state::{AppendRefusal, Machine, Outcome, Placed};
