//! Tests of the log on the simulated disk. `bed.rs` has the log under test and the model that it
//! is held against; the other files have a concept each.

mod bed;
mod crashes;
mod damage;
mod failures;
mod fast;
mod inspected;
mod marked;
#[cfg(feature = "mutants")]
mod mutants;
mod random;
mod reading;
mod segments;
mod toy;
mod votes;
