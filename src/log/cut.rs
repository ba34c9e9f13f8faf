//! The record of what a start has cut from the log's end: a file in the group's folder that stands
//! until what may be missing is made good (`paxos/tears.rs` has the rule, and why).
//!
//! Written by recovery, durably, *before* it cuts anything ([`write`]): crash example for that order:
//! damage is cut, the power fails, and the next start finds a log that ends cleanly, and would vote. Read by
//! every start ([`find`]); taken away when the protocol says so ([`Log::forget_cut`]).
//!
//! Its name counts: one that cannot be read says that the vote is lost. It is written beside and renamed, so
//! that the record of a tear is never half that of a damage.

use crate::base::BlockPool;
use crate::base::limits::BLOCK_SIZE;
use crate::io::{FileOptions, Storage};

use super::format::{get_u32, join, put_u32};
use super::owned::{CHECKSUM_AT, CUT, Owner};
use super::{Log, LogError, LogOptions};

/// The file's name within the group's folder.
pub(super) const CUT_NAME: &str = "cut";
pub(super) const CUT_TEMPORARY: &str = "cut.tmp";
const TEXT_AT: usize = 28;
/// The most bytes that tell what was cut; more is left out.
const TEXT_BYTES_MAX: usize = CHECKSUM_AT - TEXT_AT;

/// Why the log's end was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CutKind {
    /// The write was cut short: it was never acknowledged.
    Torn,
    /// What stood there was damaged, and may have been acknowledged.
    Damaged,
}

/// What was cut and is not made good yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutRecord {
    /// Why.
    pub kind: CutKind,
    /// What, and where, for people.
    pub what: String,
}

fn encode(owner: &Owner, record: &CutRecord, block: &mut [u8]) {
    let mut end = record.what.len().min(TEXT_BYTES_MAX);
    while !record.what.is_char_boundary(end) {
        end -= 1;
    }
    let text = &record.what[..end];
    CUT.encode(owner, block, |out| {
        put_u32(out, 20, u32::from(record.kind == CutKind::Damaged));
        put_u32(out, 24, text.len() as u32);
        out[TEXT_AT..TEXT_AT + end].copy_from_slice(text.as_bytes());
    });
}

fn decode(owner: &Owner, bytes: &[u8]) -> Result<CutRecord, String> {
    let (found, bytes) = CUT.decode(bytes)?;
    CUT.check_owner(&found, owner)?;
    let kind = match get_u32(bytes, 20) {
        0 => CutKind::Torn,
        _ => CutKind::Damaged,
    };
    let size = get_u32(bytes, 24) as usize;
    let text = bytes[TEXT_AT..CHECKSUM_AT].get(..size).ok_or("its text has no end")?;
    let what = String::from_utf8(text.to_vec()).map_err(|_| "its text is none".to_owned())?;
    Ok(CutRecord { kind, what })
}

/// Makes the record, durably, in place of one that stands.
///
/// # Errors
/// It may not survive: nothing may be cut.
pub(super) fn write<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
    record: &CutRecord,
) -> Result<(), LogError> {
    let (name, temporary) = (join(folder, CUT_NAME), join(folder, CUT_TEMPORARY));
    let writing = || LogError::io(format!("writing {name}"));
    let names = storage.list(folder).map_err(LogError::io(format!("listing {folder}")))?;
    if names.iter().any(|name| name == CUT_TEMPORARY) {
        storage.remove(&temporary).map_err(writing())?;
    }
    let file = storage.open(&temporary, FileOptions::CreateNew).map_err(writing())?;
    let mut block = options.pool.take(BLOCK_SIZE);
    encode(&Owner::of(options), record, &mut block);
    let written = storage.write_at(file, 0, &block, BLOCK_SIZE);
    let written = written.and_then(|()| storage.sync(file));
    storage.close(file);
    written.and_then(|()| storage.rename(&temporary, &name)).map_err(writing())?;
    storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
}

/// The record, if one is among the names of the folder.
pub(super) fn find<S: Storage>(
    storage: &mut S,
    folder: &str,
    names: &[String],
    owner: &Owner,
    pool: &BlockPool,
) -> Option<CutRecord> {
    if !names.iter().any(|name| name == CUT_NAME) {
        return None;
    }
    let told = read(storage, &join(folder, CUT_NAME), owner, pool);
    let unknown = |why| CutRecord {
        kind: CutKind::Damaged,
        what: format!("the record of what was cut is of no use: {why}"),
    };
    Some(told.unwrap_or_else(unknown))
}

fn read<S: Storage>(
    storage: &mut S,
    name: &str,
    owner: &Owner,
    pool: &BlockPool,
) -> Result<CutRecord, String> {
    let file = storage.open(name, FileOptions::Read).map_err(|error| error.to_string())?;
    let mut block = pool.take(BLOCK_SIZE);
    let read = storage.read_at(file, 0, &mut block, BLOCK_SIZE);
    storage.close(file);
    decode(owner, &block[..read.map_err(|error| error.to_string())?])
}

impl Log {
    /// Takes the record of what was cut away, durably. Blocks: it happens once after a crash.
    ///
    /// # Errors
    /// It may still stand: fatal for the process, and the next start finds out.
    pub fn forget_cut<S: Storage>(&mut self, storage: &mut S) -> Result<(), LogError> {
        let name = join(&self.folder, CUT_NAME);
        storage.remove(&name).map_err(LogError::io(format!("removing {name}")))?;
        let folder = &self.folder;
        storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GroupId, IncarnationTag, NodeId};

    const OWNER: Owner =
        Owner { incarnation: IncarnationTag(9), group: GroupId(1), node: NodeId(2) };

    #[test]
    fn record_round_trips_and_every_byte_is_guarded() {
        for kind in [CutKind::Torn, CutKind::Damaged] {
            let mut block = vec![0xff; BLOCK_SIZE];
            let record = CutRecord { kind, what: "segment-1 at offset 4096".to_owned() };
            encode(&OWNER, &record, &mut block);
            assert_eq!(decode(&OWNER, &block), Ok(record));
            for byte in 0..BLOCK_SIZE {
                block[byte] ^= 0x10;
                assert!(decode(&OWNER, &block).is_err(), "byte {byte}");
                block[byte] ^= 0x10;
            }
        }
    }
}
