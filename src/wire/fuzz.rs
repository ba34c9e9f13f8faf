//! Entry points for fuzzing: arbitrary bytes in, no panic out. The targets under `tools/` and the
//! property tests call the same functions.

use super::client::{decode_request, decode_response};
use super::decoder::FrameDecoder;
use super::frame::{FrameEncoder, FrameKind};
use super::hello::{decode_hello, decode_hello_reply};
use super::peer::{decode_alive, decode_message};
use super::{META_SIZE_MAX, WireError};
use crate::base::{BlockPool, GroupId};

/// Decodes `bytes` as a stream received in chunks of `chunk_size` bytes (at least 1), every frame
/// as everything it could be. Returns the frames seen and the error that ended the stream.
pub fn decode_stream(bytes: &[u8], chunk_size: usize) -> (usize, Option<WireError>) {
    let pool = BlockPool::new(0);
    let mut decoder = FrameDecoder::new();
    let mut count = 0;
    for mut chunk in bytes.chunks(chunk_size.max(1)) {
        loop {
            match decoder.next(&mut chunk, &pool) {
                Ok(None) => break,
                Err(error) => return (count, Some(error)),
                Ok(Some(frame)) => {
                    count += 1;
                    let _ = (decode_hello(&frame), decode_hello_reply(&frame));
                    let _ = (decode_request(&frame), decode_response(&frame));
                    let _ = decode_alive(&frame);
                    // A value's checksum is verified when it becomes a batch.
                    let message = decode_message(frame, &pool);
                    if let Err(error @ WireError::PayloadChecksum { .. }) = message {
                        return (count - 1, Some(error));
                    }
                }
            }
        }
        assert!(chunk.is_empty(), "a decoder that wants more has used up its chunk");
    }
    (count, None)
}

/// Wraps `bytes` into a valid frame (kind by the first byte, meta size by the second), so that
/// fuzzing gets behind the checksums to the fields. Returns whether any decoder took it.
pub fn decode_fields(bytes: &[u8]) -> bool {
    let [kind_index, meta_share, body @ ..] = bytes else { return false };
    let kind = FrameKind::ALL[*kind_index as usize % FrameKind::ALL.len()];
    let meta_size = (body.len() * *meta_share as usize / 255).min(META_SIZE_MAX);
    let (meta, payload) = body.split_at(meta_size);
    if payload.len() > super::PAYLOAD_SIZE_MAX {
        return false;
    }
    let mut out = Vec::new();
    FrameEncoder::new().encode(kind, GroupId(0), meta, payload, &mut out);
    let pool = BlockPool::new(0);
    let mut decoder = FrameDecoder::new();
    let frame = decoder
        .next(&mut &out[..], &pool)
        .expect("a frame of a known kind decodes")
        .expect("the frame is whole");
    decode_hello(&frame).is_ok()
        | decode_hello_reply(&frame).is_ok()
        | decode_request(&frame).is_ok()
        | decode_response(&frame).is_ok()
        | decode_alive(&frame).is_ok()
        | decode_message(frame, &pool).is_ok()
}
