//! Randomness from the operating system: what must never repeat is drawn here, by whoever joins this
//! module with the rest, and handed on as an argument.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// 128 random bits, never 0: waits, early in a host's start, until the system has gathered enough.
///
/// # Errors
/// What the system says.
pub fn random_u128() -> io::Result<u128> {
    loop {
        let mut bytes = [0; 16];
        // Up to 256 bytes come whole or not at all.
        let drawn = getrandom(&mut bytes, GetRandomFlags::empty())?;
        let number = u128::from_le_bytes(bytes);
        if drawn == bytes.len() && number != 0 {
            return Ok(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ() {
        assert_ne!(random_u128().unwrap(), random_u128().unwrap());
    }
}
