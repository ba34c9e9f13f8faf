//! Tests of the seam on the real kernel: real files, real sockets, real processes.
//!
//! One file per concept; the numbers are those of the pitfalls in IO.md. The pitfalls that need a
//! power loss or reordered writes (4 to 7) are the simulated disk's.

mod busy;
mod death;
mod disk;
mod faults;
mod flood;
mod handover;
mod memory;
mod polling;
mod setup;
mod sockets;
mod support;
mod trace;

pub(in crate::uring) use faults::Faults;
