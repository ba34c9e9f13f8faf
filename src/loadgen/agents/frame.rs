//! Messages on a stream: a magic, two sizes, JSON, and the bytes that belong to it.
//!
//! Used by both ends. Nothing is read beyond what the reader says that it takes.

use std::io::{Read, Write};

use super::{FrameError, Message};

const MAGIC: [u8; 4] = *b"LGB1";
const HEAD_BYTES: usize = 12;

/// How large a message may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub json: usize,
    pub blob: usize,
}

/// Of a greeting, which anybody can send.
pub(super) const GREETING: Bounds = Bounds { json: 4 * 1024, blob: 0 };
/// Of a part of a run: up to ten thousand logs, and some addresses.
pub(super) const PART: Bounds = Bounds { json: 1024 * 1024, blob: 0 };
/// Of what an agent counted: five histograms.
pub(super) const COUNTS: Bounds = Bounds { json: 64 * 1024, blob: 16 * 1024 * 1024 };

/// Writes `message`, with `blob` behind it, at once.
pub(super) fn write_message(
    mut stream: impl Write,
    message: &Message,
    blob: &[u8],
) -> Result<(), FrameError> {
    let mut bytes = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let json_size = (bytes.len() - HEAD_BYTES) as u32;
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&json_size.to_le_bytes());
    bytes[8..12].copy_from_slice(&(blob.len() as u32).to_le_bytes());
    bytes.extend_from_slice(blob);
    Ok(stream.write_all(&bytes)?)
}

/// Reads a message and the bytes that belong to it, within `bounds`.
pub(super) fn read_message(
    mut stream: impl Read,
    bounds: Bounds,
) -> Result<(Message, Vec<u8>), FrameError> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head)?;
    if head[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    let size_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i])) as usize;
    for (size, limit) in [(size_at(4), bounds.json), (size_at(8), bounds.blob)] {
        if size > limit {
            return Err(FrameError::TooLarge { size, limit });
        }
    }
    let mut json = vec![0; size_at(4)];
    stream.read_exact(&mut json)?;
    let mut blob = vec![0; size_at(8)];
    stream.read_exact(&mut blob)?;
    Ok((serde_json::from_slice(&json)?, blob))
}
