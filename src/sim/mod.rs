//! The deterministic simulator: the whole cluster in one thread, from one seed, with faults.
//!
//! It implements the `io` seam (disk, network, clock) and drives the production `server`, `node`,
//! `log`, `machine` and `client` over it. Called by `loggos sim` and by tests ([`run::run`]).
//! Guarantee: the same seed gives the same run.

mod campaign;
pub mod checks;
mod client;
mod clock;
pub mod counters;
pub mod disk;
mod disk_faults;
pub mod explore;
mod flows;
mod founding;
pub mod fuzz;
#[cfg(test)]
mod groups;
pub mod history;
mod host;
mod impostors;
#[cfg(feature = "mutants")]
pub mod mutants;
mod names;
mod nemesis;
mod net;
mod newer;
mod phases;
pub mod plan;
mod process;
pub mod run;
mod second_failure;
pub mod shrink;
mod stops;
pub mod time;
pub mod trace;
pub mod trials;
mod votes;
mod world;

pub use campaign::{Summary, campaign};
pub use plan::{Limits, Plan};
pub use run::{Finding, Report, run};
