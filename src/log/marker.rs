//! The marker of damage: a file in the group's folder which tells the next start that damage was
//! found while the log ran, in what its start had not read.
//!
//! Written by the scrub before the process ends ([`write`]), and beside whatever else goes on when a
//! read meets a damaged entry ([`MarkerWriter`]): that read fails, and the node serves on. Looked for by
//! every start ([`find`]), which then reads and verifies everything before it says a word, and taken
//! away once such a start has found everything whole ([`remove`]). Without it a supervisor would start
//! the node again, and the node would lead and vote over the damage until the next scrub comes to it,
//! again and again.
//!
//! The name alone is the marker. So it counts whatever became of its content, and a crash at any step
//! is safe: before the folder is flushed the name may be lost, and the next scrub finds the damage as
//! this one did; from then on it stands. It is removed only after everything was verified: a crash
//! before that is durable costs one more such start.
//!
//! In the file stand, for people, what was found and where, and up to which sequence everything had
//! been durable. Crash example for that: the log's last entry is acknowledged, and rots before another
//! one attests it; that is found, and the process ends. To the next start, which has nothing but the
//! segments, it looks like a torn tail, and would be cut; the marker proves that it is none.

use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;

use tracing::{error, warn};

use crate::base::BlockPool;
use crate::base::limits::BLOCK_SIZE;
use crate::base::mutants::{Mutant, planted};
use crate::io::{Disk, DiskEvent, FileId, FileOptions, Storage, Sync, WritePart};

use super::format::{get_u32, get_u64, join, put_u32, put_u64};
use super::owned::{CHECKSUM_AT, MARKER, Owner};
use super::{Damage, Log, LogError, LogFailure, LogOptions, Op};

/// The file's name within the group's folder.
pub(super) const MARKER_NAME: &str = "damaged";
const TEXT_AT: usize = 24;
/// Markers of older builds may have text here, or zeros, which prove nothing.
const DURABLE_AT: usize = CHECKSUM_AT - 8;
/// The most bytes that tell what was found; more is cut off.
const TEXT_BYTES_MAX: usize = DURABLE_AT - TEXT_AT;

/// What a marker tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// What was found, and where.
    pub what: String,
    /// Everything up to this sequence had been durable then; 0: not told.
    pub durable: u64,
}

fn encode(owner: &Owner, what: &str, durable: u64, block: &mut [u8]) {
    let mut end = what.len().min(TEXT_BYTES_MAX);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    let text = &what[..end];
    MARKER.encode(owner, block, |out| {
        put_u32(out, 20, text.len() as u32);
        out[TEXT_AT..TEXT_AT + text.len()].copy_from_slice(text.as_bytes());
        put_u64(out, DURABLE_AT, durable);
    });
}

/// What the marker tells; `Err` says why it does not.
fn decode(owner: &Owner, bytes: &[u8]) -> Result<Marker, String> {
    let (found, bytes) = MARKER.decode(bytes)?;
    MARKER.check_owner(&found, owner)?;
    let size = get_u32(bytes, 20) as usize;
    let text = bytes[TEXT_AT..CHECKSUM_AT].get(..size).ok_or("its text has no end")?;
    let what = String::from_utf8(text.to_vec()).map_err(|_| "its text is none".to_owned())?;
    let durable = if size <= TEXT_BYTES_MAX { get_u64(bytes, DURABLE_AT) } else { 0 };
    Ok(Marker { what, durable })
}

/// Makes the marker, durably; `what` was found, and everything up to the sequence `durable` had been
/// durable. Blocks: the node is about to end.
///
/// # Errors
/// The marker may not survive, or not even stand.
pub(super) fn write<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
    what: &str,
    durable: u64,
) -> Result<(), LogError> {
    let name = join(folder, MARKER_NAME);
    match storage.open(&name, FileOptions::CreateNew) {
        Ok(file) => {
            let mut block = options.pool.take(BLOCK_SIZE);
            encode(&Owner::of(options), what, durable, &mut block);
            let written = storage.write_at(file, 0, &block, BLOCK_SIZE);
            let written = written.and_then(|()| storage.sync(file));
            storage.close(file);
            if let Err(error) = written {
                // On a full disk, say: there is room for the name, and none for a block.
                warn!(file = %name, %error, "the marker of damage stands, but cannot say why");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(LogError::io(format!("creating {name}"))(error)),
    }
    storage.sync_folder(folder).map_err(LogError::io(format!("flushing {folder}")))
}

/// The marker, if one is among the names of the folder, with what it tells as far as it can be read.
pub(super) fn find<S: Storage>(
    storage: &mut S,
    folder: &str,
    names: &[String],
    owner: &Owner,
    pool: &BlockPool,
) -> Option<Marker> {
    if !names.iter().any(|name| name == MARKER_NAME) || planted(Mutant::DamageMarkerIgnored) {
        return None;
    }
    let told = read(storage, &join(folder, MARKER_NAME), owner, pool);
    let unknown = |why| Marker { what: format!("unknown damage: {why}"), durable: 0 };
    Some(told.unwrap_or_else(unknown))
}

fn read<S: Storage>(
    storage: &mut S,
    name: &str,
    owner: &Owner,
    pool: &BlockPool,
) -> Result<Marker, String> {
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

// ---- beside what else goes on -----------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Write,
    Flush,
    SyncFolder,
}

struct Job {
    stage: Stage,
    file: Option<FileId>,
    what: String,
}

/// Makes the marker while the log runs, once.
#[derive(Default)]
pub(super) struct MarkerWriter {
    job: Option<Job>,
    stands: bool,
}

impl Log {
    /// A read has met a damaged entry: has the next start verify everything.
    pub(super) fn mark_damage<D: Disk>(&mut self, disk: &mut D, damage: &Damage) {
        if self.marker.stands || self.marker.job.is_some() {
            return;
        }
        let folder = &self.folder;
        error!(folder, %damage, "a read has found damage: the next start verifies everything");
        let (stage, file, what) = (Stage::Open, None, damage.to_string());
        self.marker.job = Some(Job { stage, file, what });
        self.write_marker(disk);
    }

    /// Starts the next step.
    fn write_marker<D: Disk>(&mut self, disk: &mut D) {
        let job = self.marker.job.as_ref().expect("a step belongs to a job");
        let token = self.tokens.issue(Op::Marker);
        let file = job.file.unwrap_or(FileId(u32::MAX));
        match job.stage {
            Stage::Open => {
                let name = join(&self.folder, MARKER_NAME);
                disk.open_async(token, &name, FileOptions::CreateNew);
            }
            Stage::Write => {
                let mut block = self.options.pool.take(BLOCK_SIZE);
                let (owner, durable) = (Owner::of(&self.options), self.writer.durable());
                encode(&owner, &job.what, durable, &mut block);
                let parts = vec![WritePart::Buffer(Rc::new(block), BLOCK_SIZE)];
                disk.write(token, file, 0, parts, Sync::Cached);
            }
            Stage::Flush => disk.flush(token, file),
            Stage::SyncFolder => disk.sync_folder_async(token, &self.folder),
        }
    }

    pub(super) fn on_marker<D: Disk>(
        &mut self,
        disk: &mut D,
        event: DiskEvent,
    ) -> Result<(), LogFailure> {
        let doing = format!("writing {}", join(&self.folder, MARKER_NAME));
        let job = self.marker.job.as_mut().expect("a step belongs to a job");
        let stage = job.stage;
        // The next step, or the end, and whether the marker stands then.
        let next = match (stage, event.result) {
            (Stage::Open, Ok(file)) => {
                job.file = Some(FileId(file));
                ControlFlow::Continue(Stage::Write)
            }
            // One that stands counts, once its name is durable.
            (Stage::Open, Err(error)) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                ControlFlow::Continue(Stage::SyncFolder)
            }
            // The name alone is the marker.
            (Stage::Write, Err(error)) if error.is_full() => {
                warn!(%error, "the marker of damage stands, but cannot say why");
                ControlFlow::Continue(Stage::Flush)
            }
            (Stage::Open | Stage::SyncFolder, Err(error))
                if error.is_out_of_files() || (error.is_full() && stage == Stage::Open) =>
            {
                error!(%error, "no marker of damage could be left: the next read that meets it tries");
                ControlFlow::Break(false)
            }
            (_, Err(error)) => return Err(LogFailure::failed(&doing, &error)),
            (Stage::Write, Ok(_)) => ControlFlow::Continue(Stage::Flush),
            (Stage::Flush, Ok(_)) => ControlFlow::Continue(Stage::SyncFolder),
            (Stage::SyncFolder, Ok(_)) => ControlFlow::Break(true),
        };
        match next {
            ControlFlow::Continue(stage) => {
                job.stage = stage;
                self.write_marker(disk);
            }
            ControlFlow::Break(stands) => self.end_marker(disk, stands),
        }
        Ok(())
    }

    fn end_marker<D: Disk>(&mut self, disk: &mut D, stands: bool) {
        let job = self.marker.job.take().expect("a step belongs to a job");
        self.marker.stands = stands;
        if let Some(file) = job.file {
            disk.close(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GroupId, IncarnationTag, NodeId};

    const OWNER: Owner =
        Owner { incarnation: IncarnationTag(9), group: GroupId(1), node: NodeId(2) };

    #[test]
    fn a_marker_round_trips_and_every_byte_is_guarded() {
        let mut block = vec![0xff; BLOCK_SIZE];
        encode(&OWNER, "segment-1 at offset 4096", 77, &mut block);
        let marker = |durable| Marker { what: "segment-1 at offset 4096".to_owned(), durable };
        assert_eq!(decode(&OWNER, &block), Ok(marker(77)));
        for byte in 0..BLOCK_SIZE {
            block[byte] ^= 0x10;
            assert!(decode(&OWNER, &block).is_err(), "byte {byte}");
            block[byte] ^= 0x10;
        }
        for cut in [0, 512, BLOCK_SIZE - 1] {
            assert!(decode(&OWNER, &block[..cut]).is_err());
        }
        assert!(decode(&Owner { node: NodeId(3), ..OWNER }, &block).is_err());
        // As builds have written it that did not tell what had been durable.
        encode(&OWNER, "segment-1 at offset 4096", 0, &mut block);
        assert_eq!(get_u32(&block, CHECKSUM_AT), 0x6937_f928);
        assert_eq!(decode(&OWNER, &block), Ok(marker(0)));
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let mut block = vec![0; BLOCK_SIZE];
        encode(&OWNER, &"é".repeat(BLOCK_SIZE), 77, &mut block);
        let marker = decode(&OWNER, &block).expect("it is whole");
        assert_eq!((marker.what, marker.durable), ("é".repeat(TEXT_BYTES_MAX / 2), 77));
    }

    #[test]
    fn the_text_of_an_older_marker_proves_nothing() {
        let mut block = vec![0; BLOCK_SIZE];
        let text = "e".repeat(CHECKSUM_AT - TEXT_AT);
        MARKER.encode(&OWNER, &mut block, |out| {
            put_u32(out, 20, text.len() as u32);
            out[TEXT_AT..CHECKSUM_AT].copy_from_slice(text.as_bytes());
        });
        assert_eq!(decode(&OWNER, &block), Ok(Marker { what: text, durable: 0 }));
    }
}
