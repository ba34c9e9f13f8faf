//! The deterministic simulator: the whole cluster in one thread, from one seed, with faults.
//!
//! It implements the `io` seam (disk, network, clock) and drives the production `server`, `node`,
//! `log`, `machine` and `client` over it. Guarantee: the same seed gives the same run.

pub mod disk;
pub mod explore;
