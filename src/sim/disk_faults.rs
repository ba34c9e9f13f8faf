//! The nemesis's half for disks: errors, slowness, full disks, lies, and damage at rest.
//!
//! Errors, slowness and want of room may strike every node at any time. Lies and damage strike
//! only a minority that is drawn at the start ([`World::damageable`]): they take a node away for
//! good, as soon as it finds out, and a quorum must be left. And a lie no single disk can show: a write
//! that was acknowledged and not stored, a block that has turned to zeros, or an old copy put back, is a
//! disk that is consistent and late. A node that starts with less than it had told, on a disk that has
//! lied so, is taken out before it says a word (the protocol cannot survive what it cannot see); it is
//! counted. Any other damage it must find, rot of the very last entry included.
//!
//! Properties: a node that misses something on a disk that never lied does not open it, or starts without a
//! vote; and of what a start does not read, the scrub does not say that all is well when it is not; and
//! once it has found damage, no later start opens over any, but one that cuts it and has no vote. (That
//! the scrub ends in time is required of the healed quorum: see `phases`.)

use std::time::Duration;

use super::checks::Violation;
use super::counters::Hit;
use super::disk::{DiskCopy, OpFault, OpKind, Region, SimDisk, counts};
use super::nemesis::Undo;
use super::time::Time;
use super::world::{Happening, World};
use crate::base::rng::Rng;
use crate::base::{Instant, Slot};

/// The disk faults that a strike chooses from.
pub const STRIKES: &[Hit] = &[
    Hit::DiskSlow,
    Hit::DiskStall,
    Hit::DiskFull,
    Hit::DiskFull,
    Hit::DiskWriteFails,
    Hit::DiskWriteShort,
    Hit::DiskWriteFull,
    Hit::DiskFlushFails,
    Hit::DiskReadFails,
    Hit::DiskNameFails,
    Hit::DiskNameFails,
    Hit::DiskNameFull,
    Hit::DiskNoFile,
    Hit::DiskNoFile,
    Hit::DiskWriteLost,
    Hit::DiskWriteLost,
    Hit::DiskWriteLost,
    Hit::DiskWriteMisdirected,
    Hit::DiskWriteMisdirected,
    Hit::DiskWriteMisdirected,
    Hit::DamageFlip,
    Hit::DamageFlip,
    Hit::DamageFlip,
    Hit::DamageFlip,
    Hit::DamageFlip,
    Hit::DamageVote,
    Hit::DamageVote,
    Hit::DamageFooters,
    Hit::DamageFooters,
    Hit::DamageFooters,
    Hit::DamageUnreadable,
    Hit::DamageZeroed,
    Hit::DiskWiped,
    Hit::DiskOldCopy,
    Hit::DamageSealed,
    Hit::DamageSealed,
    Hit::CheckpointDamaged,
    Hit::CheckpointLost,
    Hit::CheckpointStale,
    Hit::CheckpointStale,
];

/// Where damage strikes; what is named more often is struck more often, for it is rarer.
const REGIONS: [Region; 18] = [
    Region::Padding,
    Region::Header,
    Region::Footer,
    Region::Payload,
    Region::Tail,
    Region::Footer,
    Region::Padding,
    Region::Vote,
    Region::Payload,
    Region::SegmentHeader,
    Region::Footer,
    Region::SegmentHeader,
    Region::Header,
    Region::Footer,
    Region::Tail,
    Region::Blank,
    Region::Footer,
    Region::Identity,
];

/// What the counters of a disk call trouble: after it a node may stop or refuse to start.
const TROUBLE: [&str; 7] = [
    counts::READ_ERROR,
    counts::WRITE_ERROR,
    counts::FLUSH_ERROR,
    counts::NAME_ERROR,
    counts::SHORT_WRITE,
    counts::FULL,
    counts::NO_FILE,
];

/// How much trouble a disk has made so far.
pub fn trouble(disk: &SimDisk) -> u64 {
    TROUBLE.iter().map(|name| disk.counters().get(name)).sum()
}

/// Whether the class is a lie or damage, which strikes a minority only.
fn is_damage(hit: Hit) -> bool {
    matches!(
        hit,
        Hit::DiskWriteLost
            | Hit::DiskWriteMisdirected
            | Hit::DamageFlip
            | Hit::DamageVote
            | Hit::DamageFooters
            | Hit::DamageSealed
            | Hit::DamageUnreadable
            | Hit::DamageZeroed
            | Hit::DiskWiped
            | Hit::DiskOldCopy
    )
}

/// The nodes whose disks may lie and rot: drawn, and always a minority.
pub fn draw_damageable(nodes: usize, rng: &mut Rng) -> Vec<bool> {
    let mut chosen = vec![false; nodes];
    let count = ((nodes as u64 - 1) / 2).min(rng.below(4));
    for _ in 0..count {
        chosen[rng.below(nodes as u64) as usize] = true;
    }
    chosen
}

impl World {
    /// Whether this node's disk may lie and rot in this world.
    pub(super) fn damageable(&self, node: usize) -> bool {
        self.damageable[node]
    }

    /// The node itself if its disk may be damaged, or else the next one whose disk may.
    pub(super) fn damageable_near(&self, node: usize) -> Option<usize> {
        let nodes = self.plan.nodes;
        (0..nodes).map(|step| (node + step) % nodes).find(|node| self.damageable(*node))
    }

    /// Strikes a disk. Returns whether there was something to strike.
    pub(super) fn strike_disk(
        &mut self,
        hit: Hit,
        node: usize,
        span: Duration,
        more: u64,
    ) -> Result<bool, Violation> {
        let now = self.now();
        let rng = &mut Rng::new(more);
        let skip = rng.below(6) as u32;
        let fault = match hit {
            Hit::DiskWriteFails => Some((OpKind::Write, OpFault::Error)),
            Hit::DiskWriteShort => Some((OpKind::Write, OpFault::Short(512 * skip))),
            Hit::DiskWriteFull => Some((OpKind::Write, OpFault::Full)),
            Hit::DiskFlushFails => Some((OpKind::Flush, OpFault::Error)),
            Hit::DiskReadFails => Some((OpKind::Read, OpFault::Error)),
            Hit::DiskNameFails => Some((OpKind::Name, OpFault::Error)),
            Hit::DiskNameFull => Some((OpKind::Name, OpFault::Full)),
            Hit::DiskNoFile => Some((OpKind::Name, OpFault::NoFile)),
            _ => None,
        };
        let node = self.damageable_near(node).filter(|_| is_damage(hit)).unwrap_or(node);
        let process = &mut self.processes[node];
        if process.impostor.is_some() {
            // That disk goes again; what is done to it says nothing.
            return Ok(false);
        }
        if let Some((kind, fault)) = fault {
            // What is tried again may fail again.
            let times = if fault == OpFault::NoFile { 1 + rng.below(4) } else { 1 };
            (0..times).for_each(|_| process.disk_mut().inject(kind, skip, fault));
            return Ok(true);
        }
        match hit {
            Hit::DiskSlow => {
                let until = Time(now.0) + span;
                process.disk_mut().slow_down(Instant(until.0));
                Ok(true)
            }
            Hit::DiskStall => {
                let until = Time(now.0) + span;
                process.disk_mut().stand_still(Instant(until.0));
                Ok(true)
            }
            Hit::DiskFull => {
                let disk = process.disk_mut();
                let room = rng.below(5).saturating_sub(2) * self.plan.log.segment_bytes;
                let capacity = disk.used_bytes() + room;
                disk.set_capacity(capacity);
                // Prepared segments last a while.
                self.queue.after(span * 3, Happening::Undo(Undo::MakeRoom(node)));
                Ok(true)
            }
            Hit::CheckpointDamaged | Hit::CheckpointLost | Hit::CheckpointStale => {
                Ok(self.strike_checkpoint(hit, node, span, rng))
            }
            _ if !self.damageable(node) => Ok(false),
            Hit::DiskOldCopy => self.old_copy(node, span),
            _ => self.damage(hit, node, span, rng),
        }
    }

    fn damage(
        &mut self,
        hit: Hit,
        node: usize,
        span: Duration,
        rng: &mut Rng,
    ) -> Result<bool, Violation> {
        // The places to try, in a drawn order: not every disk has all of them.
        let first = rng.below(REGIONS.len() as u64) as usize;
        let regions = REGIONS.iter().cycle().skip(first).take(REGIONS.len()).copied();
        // Mostly one bit; several at once in different places.
        let flips = [1, 1, 2, 3, 6][rng.below(5) as usize];
        let skip = [0, 0, 1, 3][rng.below(4) as usize];
        let process = &mut self.processes[node];
        let disk = process.disk_mut();
        // What is written over damage is no mistake of the node's.
        disk.set_check_overwrites(false);
        let done = match hit {
            Hit::DiskWriteLost => {
                disk.inject(OpKind::Write, skip, OpFault::Lost);
                true
            }
            Hit::DiskWriteMisdirected => {
                disk.inject(OpKind::Write, skip, OpFault::Misdirected);
                true
            }
            Hit::DamageFlip => {
                let flipped = regions.filter_map(|region| disk.flip_bit(region, rng));
                flipped.take(flips).count() > 0
            }
            Hit::DamageVote => disk.flip_bits(Region::Vote, 100, rng) > 1,
            Hit::DamageSealed => disk.flip_sealed(rng).is_some(),
            Hit::DamageFooters => disk.flip_bits(Region::Footer, 50, rng) > 0,
            Hit::DamageUnreadable => {
                regions.filter_map(|region| disk.make_unreadable(region, rng)).next().is_some()
            }
            Hit::DamageZeroed => {
                regions.filter_map(|region| disk.zero_block(region, rng)).next().is_some()
            }
            Hit::DiskWiped => {
                self.stop(node, true, span);
                self.processes[node].disk_mut().wipe();
                true
            }
            _ => unreachable!("only damage comes here"),
        };
        if done {
            self.processes[node].damaged = true;
            // Damage shows when the node reads it: often that is at the next start. A lie needs a
            // write first.
            let lies = matches!(hit, Hit::DiskWriteLost | Hit::DiskWriteMisdirected);
            let forgets = matches!(hit, Hit::DiskWiped | Hit::DamageZeroed);
            self.processes[node].has_lied |= lies || forgets;
            let stops = Undo::Stop(node, rng.below(2) == 0, span);
            // What is sealed shows when it is verified: after the next start.
            if lies || hit == Hit::DamageSealed || rng.below(2) == 0 {
                let delay = if lies { span } else { Duration::ZERO };
                self.queue.after(delay, Happening::Undo(stops));
            }
        }
        Ok(done)
    }

    /// Checkpoints only save time: whatever happens to them, their node must lose nothing by it. So
    /// any node is struck, and its disk counts as sound.
    fn strike_checkpoint(&mut self, hit: Hit, node: usize, span: Duration, rng: &mut Rng) -> bool {
        let disk = self.processes[node].disk_mut();
        let done = match hit {
            Hit::CheckpointLost => disk.lose_checkpoint(rng),
            Hit::CheckpointStale => disk.stale_checkpoint(rng),
            _ if rng.below(4) == 0 => disk.zero_block(Region::Checkpoint, rng).is_some(),
            _ => disk.flip_bits(Region::Checkpoint, [10, 100][rng.below(2) as usize], rng) > 0,
        };
        if done {
            self.processes[node].stopped_at.fill(Slot::NONE);
        }
        if done && rng.below(3) > 0 {
            let stops = Undo::Stop(node, rng.below(2) == 0, span);
            self.queue.after(Duration::ZERO, Happening::Undo(stops));
        }
        done
    }

    /// Keeps a copy of the disk, and puts it back at the end of the span.
    fn old_copy(&mut self, node: usize, span: Duration) -> Result<bool, Violation> {
        let copy = Box::new(self.processes[node].disk().save_copy());
        self.queue.after(span, Happening::Undo(Undo::PutBack(node, copy)));
        Ok(true)
    }

    pub(super) fn put_back(&mut self, node: usize, copy: &DiskCopy) {
        if self.processes[node].impostor.is_some() {
            return;
        }
        self.stop(node, true, Duration::from_millis(5));
        let process = &mut self.processes[node];
        process.damaged = true;
        process.has_lied = true;
        process.disk_mut().set_check_overwrites(false);
        process.disk_mut().restore_copy(copy);
    }

    /// The disk of a healed node makes no trouble any more.
    pub(super) fn heal_disk(&mut self, node: usize) {
        let now = Instant(self.now().0);
        let disk = self.processes[node].disk_mut();
        disk.forget_injected();
        disk.speed_up(now);
        disk.set_capacity(u64::MAX);
    }
}
