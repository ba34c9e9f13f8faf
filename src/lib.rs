//! Loggos: a high-throughput Multi-Paxos replicated log on io_uring.
//!
//! The map of the folders, the rules on who may import whom, and both formats (disk and wire)
//! are in `src/README.md`. Users start with the README; those who embed the client start with
//! the `client` module.

// They panic when the stream is closed or full, and block when nobody reads it: `cli/stderr.rs` and
// `cli/output.rs` do not.
#![cfg_attr(not(test), deny(clippy::print_stderr, clippy::print_stdout))]

pub mod base;
pub mod cli;
pub mod client;
pub mod io;
pub mod loadgen;
pub mod log;
pub mod machine;
pub mod node;
pub mod paxos;
pub mod server;
pub mod sim;
pub mod uring;
pub mod wire;

/// Compiles the README's example with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
