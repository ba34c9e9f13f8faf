//! The command line: flags to options to run. Called by `main` only.

pub mod error;
pub mod members;
pub mod options;
