//! The marker of damage: a file in the group's folder which tells the next start that damage was
//! found while the log ran, in what its start had not read.
//!
//! Written by the scrub before the process ends ([`write`]), looked for by every start ([`find`]),
//! which then reads and verifies everything before it says a word, and taken away once such a start
//! has found everything whole ([`remove`]). Without it a supervisor would start the node again, and
//! the node would lead and vote over the damage until the next scrub comes to it, again and again.
//!
//! The name alone is the marker; what stands in the file is for people. So it counts whatever became
//! of its content, and a crash at any step is safe: before the folder is flushed the name may be
//! lost, and the next scrub finds the damage as this one did; from then on it stands. It is removed
//! only after everything was verified: a crash before that is durable costs one more such start.

use tracing::warn;

use crate::base::BlockPool;
use crate::base::limits::BLOCK_SIZE;
use crate::base::mutants::{Mutant, planted};
use crate::io::{FileOptions, Storage};

use super::format::{get_u32, join, put_u32};
use super::owned::{CHECKSUM_AT, MARKER, Owner};
use super::{LogError, LogOptions};

/// The file's name within the group's folder.
pub(super) const MARKER_NAME: &str = "damaged";
const TEXT_AT: usize = 24;
/// The most bytes that tell what was found; more is cut off.
const TEXT_BYTES_MAX: usize = CHECKSUM_AT - TEXT_AT;

fn encode(owner: &Owner, what: &str, block: &mut [u8]) {
    let mut end = what.len().min(TEXT_BYTES_MAX);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    let text = &what[..end];
    MARKER.encode(owner, block, |out| {
        put_u32(out, 20, text.len() as u32);
        out[TEXT_AT..TEXT_AT + text.len()].copy_from_slice(text.as_bytes());
    });
}

/// What the marker tells; `Err` says why it does not.
fn decode(owner: &Owner, bytes: &[u8]) -> Result<String, String> {
    let (found, bytes) = MARKER.decode(bytes)?;
    MARKER.check_owner(&found, owner)?;
    let size = get_u32(bytes, 20) as usize;
    let text = bytes[TEXT_AT..CHECKSUM_AT].get(..size).ok_or("its text has no end")?;
    String::from_utf8(text.to_vec()).map_err(|_| "its text is none".to_owned())
}

/// Makes the marker, durably; `what` was found. Blocks: the node is about to end.
///
/// # Errors
/// The marker may not survive, or not even stand.
pub(super) fn write<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
    what: &str,
) -> Result<(), LogError> {
    let name = join(folder, MARKER_NAME);
    match storage.open(&name, FileOptions::CreateNew) {
        Ok(file) => {
            let mut block = options.pool.take(BLOCK_SIZE);
            encode(&Owner::of(options), what, &mut block);
            let written = storage.write_at(file, 0, &block, BLOCK_SIZE);
            let written = written.and_then(|()| storage.sync(file));
            storage.close(file);
            if let Err(error) = written {
                // On a full disk, say: there is room for the name, and none for a block.
                warn!(file = %name, %error, "the marker of damage stands, but cannot say why");
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(LogError::io(format!("creating {name}"))(error)),
    }
    storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
}

/// Whether a marker is among the names of the folder: what it tells, as far as that can be read.
pub(super) fn find<S: Storage>(
    storage: &mut S,
    folder: &str,
    names: &[String],
    options: &LogOptions,
) -> Option<String> {
    if !names.iter().any(|name| name == MARKER_NAME) || planted(Mutant::DamageMarkerIgnored) {
        return None;
    }
    let name = join(folder, MARKER_NAME);
    let told = read(storage, &name, &Owner::of(options), &options.pool);
    Some(told.unwrap_or_else(|why| format!("unknown damage: {why}")))
}

fn read<S: Storage>(
    storage: &mut S,
    name: &str,
    owner: &Owner,
    pool: &BlockPool,
) -> Result<String, String> {
    let file = storage.open(name, FileOptions::Read).map_err(|error| error.to_string())?;
    let mut block = pool.take(BLOCK_SIZE);
    let read = storage.read_at(file, 0, &mut block, BLOCK_SIZE);
    storage.close(file);
    decode(owner, &block[..read.map_err(|error| error.to_string())?])
}

/// Takes the marker away, durably.
pub(super) fn remove<S: Storage>(storage: &mut S, folder: &str) -> Result<(), LogError> {
    let name = join(folder, MARKER_NAME);
    storage.remove(&name).map_err(LogError::io(format!("removing {name}")))?;
    storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, GroupId, NodeId};

    const OWNER: Owner = Owner { cluster: ClusterId(9), group: GroupId(1), node: NodeId(2) };

    #[test]
    fn a_marker_round_trips_and_every_byte_is_guarded() {
        let mut block = vec![0xff; BLOCK_SIZE];
        encode(&OWNER, "segment-1 at offset 4096", &mut block);
        assert_eq!(decode(&OWNER, &block), Ok("segment-1 at offset 4096".to_owned()));
        assert_eq!(
            get_u32(&block, CHECKSUM_AT),
            0x01f7_5bed,
            "its bytes stand where they always have"
        );
        for byte in 0..BLOCK_SIZE {
            block[byte] ^= 0x10;
            assert!(decode(&OWNER, &block).is_err(), "byte {byte}");
            block[byte] ^= 0x10;
        }
        for cut in [0, 512, BLOCK_SIZE - 1] {
            assert!(decode(&OWNER, &block[..cut]).is_err());
        }
        assert!(decode(&Owner { node: NodeId(3), ..OWNER }, &block).is_err());
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let mut block = vec![0; BLOCK_SIZE];
        encode(&OWNER, &"é".repeat(BLOCK_SIZE), &mut block);
        let text = decode(&OWNER, &block).expect("it is whole");
        assert_eq!(text, "é".repeat(TEXT_BYTES_MAX / 2));
    }
}
