//! Which checkpoint a start goes on from, and what it takes from it. Part of recovery.

use std::rc::Rc;

use tracing::warn;

use crate::base::mutants::{Mutant, planted};
use crate::base::{Placement, Slot};
use crate::io::{Storage, is_out_of_files};

use super::{Recovery, Row};
use crate::log::checkpoint::{self, CheckpointBody, CheckpointFile, CheckpointHeader, Unusable};
use crate::log::covered::CoveredSegment;
use crate::log::format::join;
use crate::log::index::Index;
use crate::log::marker::MARKER_NAME;
use crate::log::owned::Owner;
use crate::log::{LogError, Restore, placements};

/// A checkpoint that this start goes on from.
pub(super) struct Taken {
    pub header: CheckpointHeader,
    pub body: CheckpointBody,
}

impl<S: Storage> Recovery<'_, S> {
    /// The checkpoints that stand, as far as their headers.
    pub(super) fn read_checkpoints(
        &mut self,
        names: &[String],
    ) -> Result<Vec<(String, CheckpointHeader)>, LogError> {
        let (owner, pool) = (Owner::of(self.options), &self.options.pool);
        let files = checkpoint::read_headers(self.storage, self.folder, names, &owner, pool);
        let mut sound = Vec::new();
        for CheckpointFile { name, header } in files {
            match header {
                Ok(header) => sound.push((name, header)),
                Err(why) => self.dismiss(&name, why)?,
            }
        }
        Ok(sound)
    }

    /// This start does without the checkpoint, and says why. If it cannot be read it stays where it
    /// is, since the next start may read it.
    ///
    /// # Errors
    /// A newer version wrote it: what it covers may be what this version cannot apply, so that an older
    /// checkpoint and a replay would not come to the same state. It is not taken away.
    ///
    /// Too many files are open: nothing is wrong with it, nor with the disk, so no start should take
    /// long because of that. Nor should it miss what the checkpoint proves, see `judge_end`.
    fn dismiss(&mut self, file: &str, why: Unusable) -> Result<(), LogError> {
        match why {
            Unusable::Unread(error) if is_out_of_files(&error) => {
                return Err(LogError::io(format!("opening {file}"))(error));
            }
            Unusable::Newer(why) => {
                return Err(LogError::NewerVersion { file: file.to_owned(), why });
            }
            Unusable::Unread(error) => {
                warn!(file, %error, "a checkpoint cannot be read: this start does without it");
            }
            Unusable::Wrong(why) => {
                warn!(file, %why, "a checkpoint is of no use");
                self.wrong.push(file.to_owned());
            }
        }
        Ok(())
    }

    /// Those that were taken in this log, the newest first.
    pub(super) fn of_this_log(
        &mut self,
        checkpoints: Vec<(String, CheckpointHeader)>,
    ) -> Result<Vec<(String, CheckpointHeader)>, LogError> {
        let mut ours = Vec::new();
        for (name, header) in checkpoints {
            let linked = self.link(&header);
            match linked.unwrap_or_else(|| Err("its segment does not stand here".to_owned())) {
                Ok(()) => ours.push((name, header)),
                Err(why) => self.dismiss(&name, why.into())?,
            }
        }
        // Not by number: numbers begin again where no header could be read.
        ours.sort_by_key(|(_, header)| std::cmp::Reverse(header.slot));
        Ok(ours)
    }

    /// Whether the checkpoint was taken in this log, as the segment that it names tells; `None` if
    /// that does not stand here.
    fn link(&self, header: &CheckpointHeader) -> Option<Result<(), String>> {
        let segment = self.found.iter().find(|found| found.number == header.segment)?;
        Some(header.is_of_log(segment.first_sequence, segment.previous))
    }

    /// The marker of damage, if it proves the entry `missing` to have been durable: it tells what was
    /// when it was left.
    pub(super) fn marker_ahead(&self, missing: u64) -> Option<String> {
        (self.marked >= missing).then(|| join(self.folder, MARKER_NAME))
    }

    /// The checkpoint that counts on the entry `missing`. One of another log proves nothing of this one;
    /// but one whose segment does not stand may be of this log, which has lost that segment.
    pub(super) fn checkpoint_ahead(
        &self,
        missing: u64,
        checkpoints: &[(String, CheckpointHeader)],
    ) -> Option<String> {
        let is_ahead = |header: &CheckpointHeader| {
            header.sequence >= missing && self.link(header).is_none_or(|linked| linked.is_ok())
        };
        let ahead = checkpoints.iter().find(|(_, header)| is_ahead(header));
        ahead.map(|(name, _)| name.clone()).filter(|_| !planted(Mutant::CheckpointAheadIgnored))
    }

    /// Takes the newest checkpoint that is of use.
    pub(super) fn take_checkpoint(
        &mut self,
        checkpoints: &[(String, CheckpointHeader)],
        restore: &mut Restore<'_>,
    ) -> Result<Option<Taken>, LogError> {
        for (name, header) in checkpoints {
            match self.take(name, header, restore) {
                Ok(taken) => return Ok(Some(taken)),
                Err(why) => self.dismiss(name, why)?,
            }
        }
        Ok(None)
    }

    fn take(
        &mut self,
        name: &str,
        header: &CheckpointHeader,
        restore: &mut Restore<'_>,
    ) -> Result<Taken, Unusable> {
        let body = checkpoint::read_body(self.storage, name, header, &self.options.pool)?;
        self.check_covered(header, &body)?;
        self.check_held(header, &body)?;
        restore(header.slot, body.state())?;
        Ok(Taken { header: *header, body })
    }

    /// Takes away each checkpoint that was read and is wrong, durably: what it was refused for may be
    /// mended by this very start, a footer say, and the next one would have less to refuse it for.
    /// (Those older than the one that was taken were not judged.)
    pub(super) fn remove_wrong(&mut self) -> Result<(), LogError> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        for name in &self.wrong {
            self.storage.remove(name).map_err(LogError::io(format!("removing {name}")))?;
        }
        let flushing = LogError::io(format!("flushing {}", self.folder));
        self.storage.sync_folder(self.folder).map_err(flushing)
    }

    /// Whether some entry holds each slot that the checkpoint covers: as a footer tells, or as the
    /// checkpoint does.
    ///
    /// Example: slot 7 stands in segment 1, and again in segment 2. The checkpoint tells that the first
    /// entry holds it. A start cannot read the checkpoint; its replay has the later entry hold the
    /// slot, and then segment 1 gets a footer that says so. The next start reads the checkpoint, whose
    /// word for segment 1 is not needed any more, and which tells nothing of segment 2: were it
    /// believed, nothing would hold slot 7, and whoever asks for it would be told that it is missing.
    fn check_held(&self, header: &CheckpointHeader, body: &CheckpointBody) -> Result<(), String> {
        let footers = self.found.iter().filter_map(|found| found.footer.as_ref());
        let mut held: Vec<(Slot, Slot)> =
            footers.flat_map(|footer| footer.applied.iter().copied()).collect();
        let in_memory = |number: u64| {
            self.found.iter().any(|found| found.number == number && found.footer.is_none())
        };
        for covered in body.covered.iter().filter(|covered| in_memory(covered.number)) {
            held.extend(covered.rows.iter().map(|row| (row.slot, row.slot)));
        }
        held.sort_unstable();
        let mut through = Slot::NONE;
        for (first, last) in held {
            if first > through.next() {
                break;
            }
            through = through.max(last);
        }
        match through >= header.slot {
            true => Ok(()),
            false => Err(format!("slot {} is held by no entry any more", through.next())),
        }
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
