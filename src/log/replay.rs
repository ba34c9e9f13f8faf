//! Replay at start-up: the batch of every chosen slot, in order, verified again, so that the state
//! machine can be built and the positions be known.

use std::rc::Rc;

use tracing::info;

use crate::base::Slot;
use crate::base::sectors::entry_size;
use crate::io::{FileOptions, Storage};

use super::format::{join, segment_name};
use super::index::{LoadedFooter, Located, Lookup};
use super::marker;
use super::placements::{describe, fits};
use super::reads::open_entry;
use super::walk::{FoundFooter, SegmentReader, read_footer};
use super::{Damage, Log, LogError, Visitor};

pub(super) fn replay<S: Storage>(
    log: &mut Log,
    storage: &mut S,
    visitor: &mut Visitor<'_>,
) -> Result<(), LogError> {
    let mut window = Window { reader: None, opened: false };
    let mut slot = log.index.applied();
    let result = loop {
        if slot >= log.replay_through {
            break Ok(());
        }
        slot = slot.next();
        if let Err(error) = replay_slot(log, storage, &mut window, slot, visitor) {
            break Err(error);
        }
    };
    window.close(storage);
    result?;
    if log.marked {
        marker::remove(storage, &log.folder)?;
        log.marked = false;
        info!(folder = log.folder, "everything is whole: the marker of damage is taken away");
    }
    Ok(())
}

/// The segment being read: slots mostly come in the order of the log.
struct Window {
    reader: Option<(u64, SegmentReader)>,
    /// The file was opened for the window, and is closed with it.
    opened: bool,
}

impl Window {
    fn close<S: Storage>(&mut self, storage: &mut S) {
        if let Some((_, reader)) = self.reader.take()
            && self.opened
        {
            storage.close(reader.file);
        }
    }

    fn on<S: Storage>(
        &mut self,
        log: &Log,
        storage: &mut S,
        number: u64,
    ) -> Result<&mut SegmentReader, LogError> {
        if self.reader.as_ref().is_none_or(|(open, _)| *open != number) {
            self.close(storage);
            let name = join(&log.folder, &segment_name(number));
            let standing = log.index.segment(number).and_then(|segment| segment.file);
            let file = match standing {
                Some(file) => file,
                None => storage
                    .open(&name, FileOptions::Read)
                    .map_err(LogError::io(format!("opening {name}")))?,
            };
            self.opened = standing.is_none();
            let bytes = log.options.segment_bytes;
            self.reader = Some((number, SegmentReader::new(file, name, bytes, &log.options.pool)));
        }
        Ok(&mut self.reader.as_mut().expect("just opened").1)
    }
}

fn replay_slot<S: Storage>(
    log: &mut Log,
    storage: &mut S,
    window: &mut Window,
    slot: Slot,
    visitor: &mut Visitor<'_>,
) -> Result<(), LogError> {
    let found = locate(log, storage, window, slot)?;
    let place = log.options.place(
        found.segment,
        log.index.segment(found.segment).map_or(0, |segment| segment.generation),
    );
    let entry = found.entry;
    let offset = u64::from(entry.offset);
    let size = entry_size(entry.value_size as usize);
    let mut buffer = log.options.pool.take(size);
    let reader = window.on(log, storage, found.segment)?;
    let bytes = reader.at(storage, offset, size)?;
    let read = bytes.len();
    buffer[..read].copy_from_slice(bytes);
    let corrupt = |why| LogError::Corrupt(Damage::new(&reader.name, offset, Some(slot), why));
    let batch = open_entry(buffer, read, &place, &entry).map_err(corrupt)?;
    log.replayed_bytes += size as u64;
    let refused = |why| LogError::Refused { slot, why };
    let placement = visitor(slot, entry.ballot, &batch).map_err(refused)?;
    if let Some(told) = entry.placement() {
        if told != placement {
            let (replayed, told) = (describe(&placement), describe(&told));
            let why = format!("replayed were {replayed}; the index footer tells of {told}");
            return Err(corrupt(why));
        }
        log.index.set_applied(slot);
    } else {
        fits(&placement, entry.placement_bytes_max).map_err(refused)?;
        log.index.set_placement(slot, placement);
    }
    Ok(())
}

fn locate<S: Storage>(
    log: &mut Log,
    storage: &mut S,
    window: &mut Window,
    slot: Slot,
) -> Result<Located, LogError> {
    let mut upto = u64::MAX;
    loop {
        match log.index.find_slot(slot, upto, u64::MAX, log.reads.footers()) {
            Lookup::Found(found) => {
                // Counted as used, so that the footers of the segments ahead push out others.
                log.reads.footers_mut().get(found.segment);
                return Ok(found);
            }
            Lookup::NeedsFooter(number) => {
                upto = number;
                load_footer(log, storage, window, number)?;
            }
            Lookup::NotDurable | Lookup::Missing => {
                let chosen = log.replay_through;
                let why =
                    format!("the slot is missing, though everything up to {chosen} is chosen");
                return Err(LogError::Corrupt(Damage::new(&log.folder, 0, Some(slot), why)));
            }
        }
    }
}

fn load_footer<S: Storage>(
    log: &mut Log,
    storage: &mut S,
    window: &mut Window,
    number: u64,
) -> Result<(), LogError> {
    let generation = log.index.segment(number).map_or(0, |segment| segment.generation);
    let place = log.options.place(number, generation);
    let reader = window.on(log, storage, number)?;
    let why = match read_footer(reader, storage, &place) {
        FoundFooter::Valid(_, entries) => {
            let loaded = Rc::new(LoadedFooter::new(entries));
            log.reads.footers_mut().insert(number, loaded);
            return Ok(());
        }
        FoundFooter::None => "the index footer has vanished".to_owned(),
        FoundFooter::Damaged(why) => why,
        FoundFooter::Unread(error) => return Err(error),
    };
    Err(LogError::Corrupt(Damage::new(&reader.name, 0, None, why)))
}
