//! The layout of a value: a batch header, then commands, each with its records behind it.
//!
//! Called by `node/` (to build and to read) and by tools that print a log. The same bytes stand
//! on every disk and in every peer's socket, so the layout is part of the format: numbers are
//! little-endian, and the fields for logs, sessions and sequences are there from the first day.
//!
//! ```text
//! batch header, 32 bytes            command header, 32 bytes
//!   0  u32 magic "LGB1"               0  u16 kind
//!   4  u16 format (1)                 2  u16 flags (0)
//!   6  u16 flags (0)                  4  u32 log
//!   8  u32 commands                   8  u64 session (0: none)
//!  12  u32 records                   16  u64 sequence
//!  16  u32 size, header included     24  u32 records
//!  20  12 bytes zero                 28  u32 run size, padding excluded
//!                                    32  run of records, zero-padded to 8 bytes
//! ```
//!
//! The empty value is the no-op. A batch's checksum stands in what carries it (entry header,
//! frame header), not in the batch.

use crate::base::limits::{APPEND_BYTES_MAX, ENTRY_HEADER_SIZE, VALUE_BYTES_MAX};
use crate::base::{Batch, BlockBuf, BlockPool, Checksum, LogId};

/// Bytes of the header of a batch.
pub const BATCH_HEADER_SIZE: usize = 32;
/// Bytes of the header of a command.
pub const COMMAND_HEADER_SIZE: usize = 32;

const MAGIC: u32 = u32::from_le_bytes(*b"LGB1");
const FORMAT: u16 = 1;
const ALIGNMENT: usize = 8;

const _: () = assert!(BATCH_HEADER_SIZE + command_size(APPEND_BYTES_MAX) <= VALUE_BYTES_MAX);

/// Bytes that a command with a run of `run_size` bytes takes in a batch.
pub const fn command_size(run_size: usize) -> usize {
    COMMAND_HEADER_SIZE + run_size.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CommandKind {
    /// Appends its records to its log.
    Append = 1,
}

/// One command of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// What it does.
    pub kind: CommandKind,
    /// The log it is for.
    pub log: LogId,
    /// The client's session; 0 = none.
    pub session: u64,
    /// The command's number within the session.
    pub sequence: u64,
    /// How many records the run holds.
    pub records: u32,
    /// The records (see [`crate::base::records`]).
    pub run: &'a [u8],
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The header does not say that this is a batch.
    #[error("the value does not start with a batch header")]
    Magic,
    /// A format of another version.
    #[error("batch format {0} is not known to this version")]
    Format(u16),
    /// The sizes or counts in the headers disagree with the bytes.
    #[error("the batch's headers disagree with its bytes")]
    Inconsistent,
    /// A command of a kind that this version does not know.
    #[error("command kind {0} is not known to this version")]
    Kind(u16),
}

/// Collects commands in one aligned buffer, behind the room for the node's entry header.
///
/// The bytes of a run are copied here once and nowhere after. The buffer's size follows the size
/// of the batches sealed lately, so that a growing batch is rarely moved.
#[derive(Debug)]
pub struct BatchBuilder {
    pool: BlockPool,
    buffer: Option<BlockBuf>,
    size: usize,
    commands: u32,
    records: u32,
    size_expected: usize,
}

impl BatchBuilder {
    /// An empty builder that takes its buffers from `pool`.
    pub fn new(pool: BlockPool) -> BatchBuilder {
        BatchBuilder {
            pool,
            buffer: None,
            size: BATCH_HEADER_SIZE,
            commands: 0,
            records: 0,
            size_expected: 0,
        }
    }

    /// Whether nothing has been pushed since the last seal.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// The size that the value has so far, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many records have been pushed since the last seal.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Whether a command with a run of `run_size` bytes still fits.
    pub fn fits(&self, run_size: usize) -> bool {
        self.size + command_size(run_size) <= VALUE_BYTES_MAX
    }

    /// Adds a command.
    ///
    /// # Panics
    /// When it does not fit: callers ask [`BatchBuilder::fits`].
    pub fn push(&mut self, command: &Command<'_>) {
        let size = command_size(command.run.len());
        assert!(self.fits(command.run.len()), "a command of {size} bytes fits the batch");
        self.reserve(self.size + size);
        let start = ENTRY_HEADER_SIZE + self.size;
        let buffer = self.buffer.as_mut().expect("reserved above");
        let (header, run) = buffer[start..start + size].split_at_mut(COMMAND_HEADER_SIZE);
        header[0..2].copy_from_slice(&(command.kind as u16).to_le_bytes());
        header[2..4].fill(0);
        header[4..8].copy_from_slice(&command.log.0.to_le_bytes());
        header[8..16].copy_from_slice(&command.session.to_le_bytes());
        header[16..24].copy_from_slice(&command.sequence.to_le_bytes());
        header[24..28].copy_from_slice(&command.records.to_le_bytes());
        header[28..32].copy_from_slice(&(command.run.len() as u32).to_le_bytes());
        run[..command.run.len()].copy_from_slice(command.run);
        run[command.run.len()..].fill(0);
        self.size += size;
        self.commands += 1;
        self.records += command.records;
    }

    /// Ends the batch: writes its header, checksums it once, and starts an empty one.
    ///
    /// # Panics
    /// When the builder is empty.
    pub fn seal(&mut self) -> Batch {
        let mut buffer = self.buffer.take().expect("an empty batch is not sealed");
        let value = &mut buffer[ENTRY_HEADER_SIZE..ENTRY_HEADER_SIZE + self.size];
        value[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        value[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        value[6..8].fill(0);
        value[8..12].copy_from_slice(&self.commands.to_le_bytes());
        value[12..16].copy_from_slice(&self.records.to_le_bytes());
        value[16..20].copy_from_slice(&(self.size as u32).to_le_bytes());
        value[20..32].fill(0);
        let checksum = Checksum::of(value);
        let batch = Batch::seal(buffer, self.size, checksum);
        // Follow growth at once and shrinking slowly: a move costs a copy, room costs nothing.
        self.size_expected = self.size.max(self.size_expected - self.size_expected / 8);
        self.size = BATCH_HEADER_SIZE;
        self.commands = 0;
        self.records = 0;
        batch
    }

    /// Drops what has been pushed.
    pub fn clear(&mut self) {
        self.buffer = None;
        self.size = BATCH_HEADER_SIZE;
        self.commands = 0;
        self.records = 0;
    }

    fn reserve(&mut self, size: usize) {
        let needed = ENTRY_HEADER_SIZE + size;
        match &mut self.buffer {
            Some(buffer) if buffer.capacity() >= needed => {}
            Some(buffer) => {
                let mut larger = self.pool.take(needed);
                let used = ENTRY_HEADER_SIZE..ENTRY_HEADER_SIZE + self.size;
                larger[used.clone()].copy_from_slice(&buffer[used]);
                *buffer = larger;
            }
            empty => {
                let expected = (ENTRY_HEADER_SIZE + self.size_expected)
                    .min(ENTRY_HEADER_SIZE + VALUE_BYTES_MAX);
                *empty = Some(self.pool.take(needed.max(expected)));
            }
        }
    }
}

/// How many commands the placement of `value` may tell of: what its header says, as far as its
/// size permits. A value that is no batch places nothing, whatever is said here.
pub fn placement_commands(value: &[u8]) -> usize {
    match value.first_chunk::<BATCH_HEADER_SIZE>() {
        None => 0,
        Some(header) => {
            let commands_max = (value.len() - BATCH_HEADER_SIZE) / COMMAND_HEADER_SIZE;
            (u32_at(header, 8) as usize).min(commands_max)
        }
    }
}

/// A checked view of a value.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    commands: u32,
    records: u32,
    body: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Reads the header of `value` and checks that the commands add up; the records themselves
    /// are not looked into.
    pub fn parse(value: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        if value.is_empty() {
            return Ok(BatchView { commands: 0, records: 0, body: &[] });
        }
        let (header, body) =
            value.split_first_chunk::<BATCH_HEADER_SIZE>().ok_or(BatchError::Magic)?;
        if u32_at(header, 0) != MAGIC {
            return Err(BatchError::Magic);
        }
        let format = u16::from_le_bytes([header[4], header[5]]);
        if format != FORMAT {
            return Err(BatchError::Format(format));
        }
        if u32_at(header, 16) as usize != value.len() {
            return Err(BatchError::Inconsistent);
        }
        let view = BatchView { commands: u32_at(header, 8), records: u32_at(header, 12), body };
        let (mut commands, mut records) = (0u32, 0u64);
        let mut rest = body;
        while !rest.is_empty() {
            let (command, tail) = split_command(rest)?;
            commands += 1;
            records += u64::from(command.records);
            rest = tail;
        }
        if commands != view.commands || records != u64::from(view.records) {
            return Err(BatchError::Inconsistent);
        }
        Ok(view)
    }

    /// How many records the commands carry together.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The commands, in order.
    pub fn commands(&self) -> impl Iterator<Item = Command<'a>> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (command, tail) = split_command(rest).expect("checked by `parse`");
            rest = tail;
            Some(command)
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

fn split_command(bytes: &[u8]) -> Result<(Command<'_>, &[u8]), BatchError> {
    let (header, rest) =
        bytes.split_first_chunk::<COMMAND_HEADER_SIZE>().ok_or(BatchError::Inconsistent)?;
    let kind = match u16::from_le_bytes([header[0], header[1]]) {
        1 => CommandKind::Append,
        other => return Err(BatchError::Kind(other)),
    };
    let run_size = u32_at(header, 28) as usize;
    let padded = run_size.checked_next_multiple_of(ALIGNMENT).ok_or(BatchError::Inconsistent)?;
    if padded > rest.len() {
        return Err(BatchError::Inconsistent);
    }
    let (run, rest) = rest.split_at(padded);
    let command = Command {
        kind,
        log: LogId(u32_at(header, 4)),
        session: u64_at(header, 8),
        sequence: u64_at(header, 16),
        records: u32_at(header, 24),
        run: &run[..run_size],
    };
    Ok((command, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::records::push_record;

    fn run(records: &[&[u8]]) -> Vec<u8> {
        let mut run = Vec::new();
        records.iter().for_each(|record| push_record(&mut run, record));
        run
    }

    fn append<'a>(records: u32, run: &'a [u8]) -> Command<'a> {
        Command { kind: CommandKind::Append, log: LogId(0), session: 7, sequence: 9, records, run }
    }

    #[test]
    fn a_batch_round_trips_and_the_builder_starts_anew() {
        let mut builder = BatchBuilder::new(BlockPool::new(1 << 20));
        let runs = [run(&[b"a", b"bcd"]), run(&[b""]), run(&[&[7; 5000]])];
        for round in 0..3 {
            for (run, records) in runs.iter().zip([2, 1, 1]) {
                builder.push(&append(records, run));
            }
            let batch = builder.seal();
            assert!(builder.is_empty(), "round {round}");
            assert_eq!(batch.checksum(), Checksum::of(batch.value()));
            let view = BatchView::parse(batch.value()).unwrap();
            assert_eq!(view.records(), 4);
            let found: Vec<_> = view.commands().collect();
            assert_eq!(found.len(), 3);
            for (command, (run, records)) in found.iter().zip(runs.iter().zip([2, 1, 1])) {
                assert_eq!(*command, append(records, run));
            }
        }
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        let big = vec![0; APPEND_BYTES_MAX];
        builder.push(&append(1, &big));
        assert!(!builder.fits(APPEND_BYTES_MAX));
        assert!(builder.fits(VALUE_BYTES_MAX - builder.size() - COMMAND_HEADER_SIZE - 8));
    }

    #[test]
    fn damage_of_any_byte_of_the_headers_or_any_cut_is_an_error_or_harmless() {
        let mut builder = BatchBuilder::new(BlockPool::new(1 << 20));
        let run = run(&[b"0123456789"]);
        builder.push(&append(1, &run));
        builder.push(&append(1, &run));
        let batch = builder.seal();
        for cut in 1..batch.value().len() {
            assert!(BatchView::parse(&batch.value()[..cut]).is_err(), "cut at {cut}");
        }
        let mut value = batch.value().to_vec();
        for index in 0..value.len() {
            for bit in 0..8 {
                value[index] ^= 1 << bit;
                if let Ok(view) = BatchView::parse(&value) {
                    assert_eq!(view.commands().count(), 2);
                }
                value[index] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn the_noop_has_no_commands() {
        let noop = Batch::noop();
        let view = BatchView::parse(noop.value()).unwrap();
        assert_eq!((view.records(), view.commands().count()), (0, 0));
    }
}
