//! Entry points for fuzzing whole parts over the simulated seam: arbitrary bytes say what happens,
//! and nothing may panic or answer what it must not. The targets under `tools/fuzz` and the
//! property tests here call the same functions; those of the wire alone are in `wire::fuzz`.
//!
//! Guarantee: the same bytes give the same run.

mod client;
#[cfg(test)]
mod door;
mod log;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientRun, drive_client};
pub use log::{LogRun, recover_log};
pub use server::{ServerRun, drive_server};

/// Reads the bytes that say what happens. Zeros follow behind the end.
struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    fn new(bytes: &'a [u8]) -> Script<'a> {
        Script { rest: bytes }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn number<const N: usize>(&mut self) -> u64 {
        let taken = self.take(N);
        taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn u8(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    fn u16(&mut self) -> u16 {
        self.number::<2>() as u16
    }

    fn u64(&mut self) -> u64 {
        self.number::<8>()
    }

    /// A number that is small, or near a power of two, or anything.
    fn odd_number(&mut self) -> u64 {
        let (shape, byte) = (self.u8(), u64::from(self.u8()));
        match shape {
            0..=127 => byte,
            128..=191 => (1u64 << (shape - 128)).wrapping_add(byte).wrapping_sub(4),
            192..=223 => u64::MAX - byte,
            _ => self.u64(),
        }
    }

    /// The next `count` bytes, or as many as there are.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
