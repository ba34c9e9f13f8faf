//! The client library.

#![forbid(unsafe_code)]

pub mod connection;
