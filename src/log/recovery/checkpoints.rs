//! Which checkpoint a start goes on from, and what it takes from it. Part of recovery.

use std::rc::Rc;

use tracing::warn;

use crate::base::{Placement, Slot};
use crate::io::Storage;

use super::{Recovery, Row};
use crate::log::checkpoint::{
    self, CHECKPOINT_NAMES, CheckpointBody, CheckpointFile, CheckpointHeader,
};
use crate::log::covered::CoveredSegment;
use crate::log::format::join;
use crate::log::index::Index;
use crate::log::owned::Owner;
use crate::log::{LogError, Restore, placements};

/// A checkpoint that this start goes on from.
pub(super) struct Taken {
    pub header: CheckpointHeader,
    pub body: CheckpointBody,
}

impl<S: Storage> Recovery<'_, S> {
    /// The checkpoints that stand, as far as their headers; those of no use are told of.
    pub(super) fn read_checkpoints(&mut self, names: &[String]) -> Vec<(String, CheckpointHeader)> {
        let (owner, pool) = (Owner::of(self.options), &self.options.pool);
        let files = checkpoint::read_headers(self.storage, self.folder, names, &owner, pool);
        let sound = |CheckpointFile { name, header }| match header {
            Ok(header) => Some((name, header)),
            Err(why) => {
                warn!(file = %name, %why, "a checkpoint is of no use");
                None
            }
        };
        files.into_iter().filter_map(sound).collect()
    }

    /// Those that were taken in this log, the newest first.
    pub(super) fn of_this_log(
        &self,
        checkpoints: Vec<(String, CheckpointHeader)>,
    ) -> Vec<(String, CheckpointHeader)> {
        let is_ours = |(name, header): &(String, CheckpointHeader)| {
            let segment = self.found.iter().find(|found| found.number == header.segment);
            let linked = segment
                .ok_or_else(|| "its segment does not stand here".to_owned())
                .and_then(|found| header.is_of_log(found.first_sequence, found.previous));
            if let Err(why) = &linked {
                warn!(file = %name, %why, "a checkpoint is of no use");
            }
            linked.is_ok()
        };
        let mut ours: Vec<_> = checkpoints.into_iter().filter(is_ours).collect();
        // Not by number: numbers begin again where no header could be read.
        ours.sort_by_key(|(_, header)| std::cmp::Reverse(header.slot));
        ours
    }

    /// Takes the newest checkpoint that is of use.
    pub(super) fn take_checkpoint(
        &mut self,
        checkpoints: &[(String, CheckpointHeader)],
        restore: &mut Restore<'_>,
    ) -> Option<Taken> {
        for (name, header) in checkpoints {
            let taken = checkpoint::read_body(self.storage, name, header, &self.options.pool)
                .and_then(|body| {
                    self.check_covered(header, &body)?;
                    restore(header.slot, body.state())?;
                    Ok(Taken { header: *header, body })
                });
            match taken {
                Ok(taken) => return Some(taken),
                Err(why) => warn!(file = %name, %why, "a checkpoint is of no use"),
            }
        }
        None
    }

    /// Takes away each checkpoint that this start has not believed: it must not count again later.
    ///
    /// Example: slot 7 stands in segment 1, whose footer rots, and again behind it. The checkpoint,
    /// which relies on that footer, is refused; the replay has the later entry hold the slot, and
    /// writes a footer that says so. Were the checkpoint believed at the next start, since segment 1
    /// has a footer again, nothing would hold slot 7: the checkpoint does not tell of its later entry.
    pub(super) fn remove_unbelieved(
        &mut self,
        names: &[String],
        checkpoints: &[(String, CheckpointHeader)],
        taken: Option<&Taken>,
    ) -> Result<(), LogError> {
        let mut removed = false;
        let standing = CHECKPOINT_NAMES.iter().filter(|name| names.iter().any(|n| n == *name));
        for name in standing.map(|name| join(self.folder, name)) {
            // Those older than the one that was taken were not judged.
            let believed = checkpoints.iter().any(|(file, header)| {
                *file == name && taken.is_some_and(|taken| header.slot <= taken.header.slot)
            });
            if !believed {
                self.storage.remove(&name).map_err(LogError::io(format!("removing {name}")))?;
                removed = true;
            }
        }
        if removed {
            let flushing = LogError::io(format!("flushing {}", self.folder));
            self.storage.sync_folder(self.folder).map_err(flushing)?;
        }
        Ok(())
    }

    /// Whether the checkpoint tells of every slot that it covers in a segment without a footer.
    fn check_covered(
        &self,
        header: &CheckpointHeader,
        body: &CheckpointBody,
    ) -> Result<(), String> {
        for found in self.found.iter().filter(|found| found.footer.is_none()) {
            let number = found.number;
            let covered = body.covered.iter().find(|covered| covered.number == number);
            let Some(covered) = covered else {
                if found.first_sequence <= header.sequence {
                    return Err(format!(
                        "segment {number:x} has lost the footer that it had when it was taken"
                    ));
                }
                continue;
            };
            if covered.entries as usize > found.rows.len() {
                return Err(format!("it tells of more entries than segment {number:x} has"));
            }
            for row in &covered.rows {
                let entry = &found.rows[row.at as usize];
                if entry.slot != row.slot || row.slot > header.slot {
                    let (told, at) = (row.slot, row.at);
                    return Err(format!(
                        "it tells of slot {told} in entry {at}, where {} stands",
                        entry.slot
                    ));
                }
                placements::fits(&row.placement, entry.placement_bytes_max)?;
            }
        }
        Ok(())
    }
}

/// What a checkpoint covers of the segments in memory, while the index is built.
pub(super) struct Covering {
    /// The checkpoint's slot.
    through: Slot,
    segments: Vec<CoveredSegment>,
    placed: Vec<(Slot, Rc<Placement>)>,
}

impl Covering {
    pub fn of(taken: Option<Taken>) -> Covering {
        let through = taken.as_ref().map_or(Slot::NONE, |taken| taken.header.slot);
        let segments = taken.map_or(Vec::new(), |taken| taken.body.covered);
        Covering { through, segments, placed: Vec::new() }
    }

    /// Adds the rows of a segment in memory to the index.
    pub fn push_rows(&mut self, index: &mut Index, number: u64, rows: &[Row]) {
        let covered = self.segments.iter_mut().find(|covered| covered.number == number);
        let covered = covered.map_or(Vec::new(), |covered| std::mem::take(&mut covered.rows));
        let mut covered = covered.into_iter().peekable();
        for (at, row) in (0_u32..).zip(rows) {
            let (slot, room) = (row.slot, row.placement_bytes_max);
            if slot == Slot::NONE || slot > self.through {
                index.push(slot, row.ballot, row.value_size, room);
                continue;
            }
            let holds = covered.next_if(|covered| covered.at == at);
            let placement = holds.map(|covered| covered.placement);
            if let Some(placement) = &placement {
                self.placed.push((slot, placement.clone()));
            }
            index.push_covered(slot, row.ballot, row.value_size, room, placement);
        }
        assert!(covered.next().is_none(), "the rows were held against the entries");
    }

    /// Everything is in the index.
    pub fn finish(mut self, index: &mut Index) {
        self.placed.sort_by_key(|(slot, _)| *slot);
        self.placed.dedup_by_key(|(slot, _)| *slot);
        index.cover(self.through, self.placed);
    }
}
