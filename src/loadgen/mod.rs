//! The load generator: workloads, workers, histograms, histories and the report, and the embedded
//! cluster that `loggos bench` measures when it is given no other.
//!
//! Called by `cli`; speaks to a cluster only through `client`. What it reports is honest by
//! construction: latencies of an open loop count from the intended time, every operation ends as
//! ok, failed or unknown, and nothing that was started in the measured phase is left out.

mod accept;
pub mod agents;
pub mod bench;
pub mod clock;
mod collect;
pub mod connect;
mod crew;
pub mod follow;
pub mod histogram;
pub mod history;
pub mod link;
pub mod local;
pub mod null;
#[cfg(test)]
mod null_server;
pub mod numbering;
pub mod ramp;
pub mod report;
#[cfg(test)]
mod run_tests;
pub mod schedule;
pub mod scratch;
pub mod stats;
pub mod worker;
pub mod workload;
