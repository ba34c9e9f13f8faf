//! The vote file: the promised ballot, in two copies of one block each.
//!
//! A promise is acknowledged only when *both* copies are durable, one after the other. So at any
//! crash at most one copy is torn, and the other holds the last acknowledged promise or a later
//! one. Had only one copy been written per promise, in turn, rot of the newer copy could not be
//! told from a torn write, and the older copy would bring back a lower promise: the node could
//! then accept below what it had promised, and two values could be chosen for one slot.

use std::rc::Rc;

use crate::base::limits::BLOCK_SIZE;
use crate::base::mutants::{Mutant, planted};
use crate::base::{Ballot, Epoch, NodeId};
use crate::io::{Disk, DiskEvent, FileId, FileOptions, Storage, Sync, WritePart};

use super::format::{get_u16, get_u32, get_u64, join, put_u16, put_u32, put_u64};
use super::owned::{Owner, VOTE};
use super::{Damage, Log, LogError, LogEvent, LogFailure, LogOptions, LogSync, Op, Tokens, VoteId};

/// The file's name within the group's folder.
pub(super) const VOTE_NAME: &str = "vote";
const COPIES: usize = 2;

/// One copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub owner: Owner,
    /// Rises by one with each promise; 1 when formatted.
    pub sequence: u64,
    pub ballot: Ballot,
    pub epoch: Epoch,
}

impl Vote {
    pub fn encode(&self, block: &mut [u8]) {
        VOTE.encode(&self.owner, block, |out| {
            put_u16(out, 18, self.ballot.node.0);
            put_u32(out, 20, self.epoch.0);
            put_u64(out, 24, self.sequence);
            put_u64(out, 32, self.ballot.round);
        });
    }

    pub fn decode(bytes: &[u8]) -> Result<Vote, String> {
        let (owner, bytes) = VOTE.decode(bytes)?;
        Ok(Vote {
            owner,
            sequence: get_u64(bytes, 24),
            ballot: Ballot { round: get_u64(bytes, 32), node: NodeId(get_u16(bytes, 18)) },
            epoch: Epoch(get_u32(bytes, 20)),
        })
    }

    fn first(options: &LogOptions) -> Vote {
        Vote { owner: Owner::of(options), sequence: 1, ballot: Ballot::NONE, epoch: Epoch(0) }
    }
}

/// Creates the vote file with a first vote that promises nothing. Not durable by name before the
/// folder has been synced.
pub(super) fn create<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
) -> Result<(), LogError> {
    let name = join(folder, VOTE_NAME);
    let file = storage
        .open(&name, FileOptions::CreateNew)
        .map_err(LogError::io(format!("creating {name}")))?;
    let result = write_both(storage, &name, file, options, &Vote::first(options));
    storage.close(file);
    result
}

fn write_both<S: Storage>(
    storage: &mut S,
    name: &str,
    file: FileId,
    options: &LogOptions,
    vote: &Vote,
) -> Result<(), LogError> {
    let mut block = options.pool.take(BLOCK_SIZE);
    vote.encode(&mut block);
    for copy in 0..COPIES {
        storage
            .write_at(file, (copy * BLOCK_SIZE) as u64, &block, BLOCK_SIZE)
            .and_then(|()| storage.sync(file))
            .map_err(LogError::io(format!("writing {name}")))?;
    }
    Ok(())
}

/// Both copies as they stand.
pub(super) fn read_copies<S: Storage>(
    storage: &mut S,
    name: &str,
    file: FileId,
    pool: &crate::base::BlockPool,
) -> Result<[Result<Vote, String>; COPIES], LogError> {
    let mut block = pool.take(BLOCK_SIZE);
    let mut copies = [Err(String::new()), Err(String::new())];
    for (index, copy) in copies.iter_mut().enumerate() {
        let offset = (index * BLOCK_SIZE) as u64;
        let read = storage
            .read_at(file, offset, &mut block, BLOCK_SIZE)
            .map_err(LogError::io(format!("reading {name}")))?;
        *copy = Vote::decode(&block[..read]);
    }
    Ok(copies)
}

/// Reads the vote, checks whose it is, and writes both copies again when one is damaged or older
/// (`true` then), so that later damage to one copy loses nothing; and when an entry's ballot `floor` is
/// above it: the promise file covers whatever entries may be lost.
pub(super) fn load<S: Storage>(
    storage: &mut S,
    folder: &str,
    options: &LogOptions,
    floor: Ballot,
) -> Result<(FileId, Vote, bool), LogError> {
    let name = join(folder, VOTE_NAME);
    let file = storage
        .open(&name, FileOptions::ReadWrite)
        .map_err(LogError::io(format!("opening {name}")))?;
    storage.sync(file).map_err(LogError::io(format!("flushing {name}")))?;
    let copies = read_copies(storage, &name, file, &options.pool)?;
    let agree = copies[0].is_ok() && copies[0] == copies[1];
    let vote = match copies {
        [Ok(a), Ok(b)] => {
            if a.sequence >= b.sequence {
                a
            } else {
                b
            }
        }
        [Ok(vote), Err(_)] | [Err(_), Ok(vote)] => vote,
        [Err(_), Err(_)] if planted(Mutant::DamagedVoteTakenForNone) => Vote::first(options),
        [Err(a), Err(b)] => {
            let why = format!("both copies of the vote are damaged: {a}; {b}");
            return Err(LogError::Corrupt(Damage::new(&name, 0, None, why)));
        }
    };
    if let Err(why) = VOTE.check_owner(&vote.owner, &Owner::of(options)) {
        return Err(LogError::Foreign { file: name, why });
    }
    let vote = match vote.ballot < floor {
        true => Vote { ballot: floor, sequence: vote.sequence + 1, ..vote },
        false => vote,
    };
    if copies[0].as_ref() != Ok(&vote) || copies[1].as_ref() != Ok(&vote) {
        // The copies are made alike the safe way too: the good one is overwritten last.
        let mut block = options.pool.take(BLOCK_SIZE);
        vote.encode(&mut block);
        let order = if matches!(copies[0], Ok(first) if first == vote) { [1, 0] } else { [0, 1] };
        for copy in order {
            storage
                .write_at(file, (copy * BLOCK_SIZE) as u64, &block, BLOCK_SIZE)
                .and_then(|()| storage.sync(file))
                .map_err(LogError::io(format!("repairing {name}")))?;
        }
    }
    Ok((file, vote, !agree))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Writing(usize),
    Flushing(usize),
}

/// Writes promises, one at a time; promises queued meanwhile are covered by the highest.
pub(super) struct VoteWriter {
    file: FileId,
    /// The last vote started (or recovered).
    vote: Vote,
    /// The highest ballot queued or written.
    promised: Ballot,
    next_id: u64,
    queued: Option<(Ballot, u64)>,
    writing: Option<(Stage, u64)>,
    acknowledged: u64,
}

impl VoteWriter {
    pub fn new(file: FileId, vote: Vote) -> VoteWriter {
        let promised = vote.ballot;
        let (queued, writing) = (None, None);
        VoteWriter { file, vote, promised, next_id: 1, queued, writing, acknowledged: 0 }
    }

    pub fn votes(&self) -> u64 {
        self.acknowledged
    }

    pub fn queue(&mut self, ballot: Ballot) -> VoteId {
        assert!(ballot >= self.promised, "a promise never goes down");
        self.promised = ballot;
        let id = self.next_id;
        self.next_id += 1;
        self.queued = Some((ballot, id));
        VoteId(id)
    }

    pub fn submit<D: Disk>(&mut self, disk: &mut D, tokens: &mut Tokens, options: &LogOptions) {
        if self.writing.is_some() {
            return;
        }
        let Some((ballot, id)) = self.queued.take() else { return };
        let ballot = if planted(Mutant::VoteKeptInMemory) { self.vote.ballot } else { ballot };
        self.vote = Vote { ballot, sequence: self.vote.sequence + 1, ..self.vote };
        self.write(disk, tokens, options, 0, id);
    }

    fn write<D: Disk>(
        &mut self,
        disk: &mut D,
        tokens: &mut Tokens,
        options: &LogOptions,
        copy: usize,
        id: u64,
    ) {
        let mut block = options.pool.take(BLOCK_SIZE);
        self.vote.encode(&mut block);
        let parts = vec![WritePart::Buffer(Rc::new(block), BLOCK_SIZE)];
        let sync = match options.log_sync {
            LogSync::Dsync if !planted(Mutant::LogWriteNotDurable) => Sync::Durable,
            LogSync::Dsync | LogSync::WriteThenFsync => Sync::Cached,
        };
        self.writing = Some((Stage::Writing(copy), id));
        let token = tokens.issue(Op::Vote);
        disk.write(token, self.file, (copy * BLOCK_SIZE) as u64, parts, sync);
    }
}

impl Log {
    pub(super) fn on_vote<D: Disk>(
        &mut self,
        disk: &mut D,
        event: DiskEvent,
        out: &mut Vec<LogEvent>,
    ) -> Result<(), LogFailure> {
        let vote = &mut self.vote;
        let (stage, id) = vote.writing.expect("a vote write is in flight");
        let done = match event.result {
            Err(_) if planted(Mutant::FailedWriteIgnored) => BLOCK_SIZE as u32,
            result => result.map_err(|error| LogFailure::failed("writing the vote", &error))?,
        };
        let copy = match stage {
            Stage::Writing(copy) => {
                if done as usize != BLOCK_SIZE && !planted(Mutant::ShortWriteTakenAsWhole) {
                    return Err(LogFailure::short("writing the vote", done, BLOCK_SIZE as u32));
                }
                if self.options.log_sync == LogSync::WriteThenFsync
                    && !planted(Mutant::LogWriteNotDurable)
                {
                    vote.writing = Some((Stage::Flushing(copy), id));
                    disk.flush(self.tokens.issue(Op::Vote), vote.file);
                    return Ok(());
                }
                copy
            }
            Stage::Flushing(copy) => copy,
        };
        if copy + 1 < COPIES && !planted(Mutant::VoteOneCopyInPlace) {
            vote.write(disk, &mut self.tokens, &self.options, copy + 1, id);
            return Ok(());
        }
        vote.writing = None;
        vote.acknowledged = id;
        out.push(LogEvent::VoteDurable(VoteId(id)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GroupId, IncarnationTag};
    use crate::log::owned::CHECKSUM_AT;

    #[test]
    fn a_vote_round_trips_and_its_bytes_stand_where_they_always_have() {
        let owner = Owner { incarnation: IncarnationTag(9), group: GroupId(1), node: NodeId(2) };
        let ballot = Ballot { round: 6, node: NodeId(3) };
        let vote = Vote { owner, sequence: 5, ballot, epoch: Epoch(4) };
        let mut block = vec![0xff; BLOCK_SIZE];
        vote.encode(&mut block);
        assert_eq!(Vote::decode(&block), Ok(vote));
        assert_eq!(get_u32(&block, CHECKSUM_AT), 0x1e8a_b63b);
    }
}
