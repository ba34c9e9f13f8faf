//! The layout of a value: a batch header, then commands, each with its records behind it.
//!
//! Called by `node/` (to build and to read) and by tools that print a log. The same bytes stand
//! on every disk and in every peer's socket, so the layout is part of the format: numbers are
//! little-endian.
//!
//! ```text
//! batch header, 32 bytes              command header, 32 bytes
//!   0  u32 magic "LGB1"                 0  u8  kind
//!   4  u16 format (1)                   1  u8  flags (1: if_tail, 2: fence)
//!   6  u16 flags (0)                    2  u16 unanswered
//!   8  u32 commands                     4  u32 log
//!  12  u32 records                      8  u64 session (0: none)
//!  16  u32 size, header included       16  u64 sequence
//!  20  u64 log time, in milliseconds   24  u32 records
//!  28  u32 logs besides `default`      28  u32 run size, padding excluded
//!                                      32  u64 if_tail, u64 fence: each if its flag is set
//!                                      ..  run, zero-padded to 8 bytes
//! ```
//!
//! The run of an append holds its records; that of other commands what their kind says. What a kind
//! does not use is zero, padding included.
//!
//! The empty value is the no-op. A batch's checksum stands in what carries it (entry header,
//! frame header), not in the batch.
//!
//! Every other value is a batch that this version understands in every byte, or it is not applied: the
//! replica stops before that slot ([`BatchError`]). Example: a newer leader proposes a kind that this
//! version does not know. Applied as a no-op here, and for what it says by the newer replicas, it would
//! have the replicas differ in silence for ever. The same holds for a value that is no batch by these
//! rules: a later layout looks like that, and an honest leader proposes nothing else. Replicas still
//! accept such a value and hold it: it is the state machine that does not know it, not the protocol.

use crate::base::limits::{
    APPEND_BYTES_MAX, ENTRY_HEADER_SIZE, LOGS_PER_BATCH_MAX, VALUE_BYTES_MAX,
};
use crate::base::sectors::entry_size;
use crate::base::{
    AppendTerms, Batch, BlockBuf, BlockPool, FenceToken, Founding, IdSet, LogId, Position,
    SESSION_TERMS_SIZE, Sequence, SessionId,
};

/// Bytes of the header of a batch.
pub const BATCH_HEADER_SIZE: usize = 32;
/// Bytes of the header of a command, without its conditions.
pub const COMMAND_HEADER_SIZE: usize = 32;
/// Bytes of each condition of a command.
const CONDITION_SIZE: usize = 8;
const FLAG_IF_TAIL: u8 = 1;
const FLAG_FENCE: u8 = 2;

const MAGIC: u32 = u32::from_le_bytes(*b"LGB1");
const FORMAT: u16 = 1;
const ALIGNMENT: usize = 8;

const _: () = assert!(BATCH_HEADER_SIZE + command_size_max(APPEND_BYTES_MAX) <= VALUE_BYTES_MAX);

/// The most bytes that a command with a run of `run_size` bytes takes in a batch.
pub const fn command_size_max(run_size: usize) -> usize {
    COMMAND_HEADER_SIZE + 2 * CONDITION_SIZE + run_size.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandKind {
    /// Appends its records to its log.
    Append = 1,
    /// Opens a session; the run holds [`crate::base::SessionTerms`].
    OpenSession = 2,
    /// Ends the session that its terms name.
    CloseSession = 3,
    /// Creates a log; the run holds [`crate::base::LogTerms`].
    CreateLog = 4,
    /// Deletes its log.
    DeleteLog = 5,
    /// Founds the cluster; the run holds a [`crate::base::Founding`]. Changes nothing here: the node
    /// takes it from the value of its slot.
    Found = 6,
}

impl CommandKind {
    const ALL: [CommandKind; 6] = [
        CommandKind::Append,
        CommandKind::OpenSession,
        CommandKind::CloseSession,
        CommandKind::CreateLog,
        CommandKind::DeleteLog,
        CommandKind::Found,
    ];
}

/// One command of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// What it does.
    pub kind: CommandKind,
    /// The log it is for.
    pub log: LogId,
    /// Its place in its session, and its conditions.
    pub terms: AppendTerms,
    /// How many records the run holds: 0 unless it is an append.
    pub records: u32,
    /// The records (see [`crate::base::records`]), or what the kind says.
    pub run: &'a [u8],
}

impl<'a> Command<'a> {
    /// An append without a session or conditions.
    pub fn append(log: LogId, records: u32, run: &'a [u8]) -> Command<'a> {
        let terms = AppendTerms::default();
        Command { kind: CommandKind::Append, log, terms, records, run }
    }

    /// The same command without what its kind does not use.
    fn canonical(&self) -> Command<'a> {
        let none = AppendTerms::default();
        let Command { kind, log, terms, records, run } = *self;
        match kind {
            CommandKind::Append => *self,
            CommandKind::OpenSession | CommandKind::CreateLog | CommandKind::Found => {
                Command { kind, log: LogId(0), terms: none, records, run }
            }
            CommandKind::CloseSession => {
                let terms = AppendTerms { session: terms.session, ..none };
                Command { kind, log: LogId(0), terms, records, run: &[] }
            }
            CommandKind::DeleteLog => Command { kind, log, terms: none, records, run: &[] },
        }
    }

    /// Whether the command uses nothing but what this version knows of its kind.
    fn is_known(&self) -> bool {
        let run_is_known = match self.kind {
            CommandKind::OpenSession => self.run.len() == SESSION_TERMS_SIZE,
            CommandKind::CreateLog => self.run.len() >= size_of::<u32>(),
            CommandKind::Found => Founding::decode(self.run).is_some(),
            _ => true,
        };
        run_is_known && (self.kind == CommandKind::Append || *self == self.canonical())
    }

    fn size(&self) -> usize {
        let conditions =
            usize::from(self.terms.if_tail.is_some()) + usize::from(self.terms.fence.is_some());
        COMMAND_HEADER_SIZE
            + conditions * CONDITION_SIZE
            + self.run.len().next_multiple_of(ALIGNMENT)
    }
}

/// Why a value is not applied: this version does not understand all of it.
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
    /// Flags of the batch that this version does not know.
    #[error("the batch's flags {0:#06x} are not known to this version")]
    Flags(u16),
    /// A command of a kind that this version does not know.
    #[error("command kind {0} is not known to this version")]
    Kind(u8),
    /// Flags of a command that this version does not know.
    #[error("a command's flags {0:#04x} are not known to this version")]
    CommandFlags(u8),
    /// A command says something where this version knows of nothing to be said.
    #[error("a command of kind {0:?} says more than this version knows")]
    Unused(CommandKind),
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
    /// The logs named, `default` left out.
    logs: IdSet<LogId>,
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
            logs: IdSet::default(),
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

    /// How many commands have been pushed since the last seal.
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Whether a command of any log with a run of `run_size` bytes still fits.
    pub fn fits(&self, run_size: usize) -> bool {
        self.size + command_size_max(run_size) <= VALUE_BYTES_MAX
            && self.logs.len() < LOGS_PER_BATCH_MAX
    }

    /// Adds a command.
    ///
    /// # Panics
    /// When it does not fit: callers ask [`BatchBuilder::fits`].
    pub fn push(&mut self, command: &Command<'_>) {
        let command = &command.canonical();
        let size = command.size();
        assert!(self.fits(command.run.len()), "a command of {size} bytes fits the batch");
        assert!(command.kind == CommandKind::Append || command.records == 0, "only appends add");
        debug_assert!(command.is_known(), "what is proposed is understood: {command:?}");
        self.reserve(self.size + size);
        let start = ENTRY_HEADER_SIZE + self.size;
        let buffer = self.buffer.as_mut().expect("reserved above");
        let (header, mut rest) = buffer[start..start + size].split_at_mut(COMMAND_HEADER_SIZE);
        let terms = &command.terms;
        header[0] = command.kind as u8;
        header[1] = 0;
        header[2..4].copy_from_slice(&terms.unanswered.to_le_bytes());
        header[4..8].copy_from_slice(&command.log.0.to_le_bytes());
        header[8..16].copy_from_slice(&terms.session.0.to_le_bytes());
        header[16..24].copy_from_slice(&terms.sequence.0.to_le_bytes());
        header[24..28].copy_from_slice(&command.records.to_le_bytes());
        header[28..32].copy_from_slice(&(command.run.len() as u32).to_le_bytes());
        let if_tail = terms.if_tail.map(|position| (FLAG_IF_TAIL, position.0));
        let fence = terms.fence.map(|token| (FLAG_FENCE, token.0));
        for (flag, value) in [if_tail, fence].into_iter().flatten() {
            header[1] |= flag;
            let (condition, behind) = rest.split_at_mut(CONDITION_SIZE);
            condition.copy_from_slice(&value.to_le_bytes());
            rest = behind;
        }
        rest[..command.run.len()].copy_from_slice(command.run);
        rest[command.run.len()..].fill(0);
        if command.log != LogId(0) {
            self.logs.insert(command.log);
        }
        self.size += size;
        self.commands += 1;
        self.records += command.records;
    }

    /// Ends the batch: writes its header, checksums it once, and starts an empty one.
    /// `log_time_ms` is the time by which sessions age (see [`super::Machine::time_ms`]).
    ///
    /// # Panics
    /// When the builder is empty.
    pub fn seal(&mut self, log_time_ms: u64) -> Batch {
        let mut buffer = self.buffer.take().expect("an empty batch is not sealed");
        let value = &mut buffer[ENTRY_HEADER_SIZE..ENTRY_HEADER_SIZE + self.size];
        value[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        value[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        value[6..8].fill(0);
        value[8..12].copy_from_slice(&self.commands.to_le_bytes());
        value[12..16].copy_from_slice(&self.records.to_le_bytes());
        value[16..20].copy_from_slice(&(self.size as u32).to_le_bytes());
        value[20..28].copy_from_slice(&log_time_ms.to_le_bytes());
        value[28..32].copy_from_slice(&(self.logs.len() as u32).to_le_bytes());
        let batch = Batch::seal(buffer, self.size);
        // Follow growth at once and shrinking slowly: a move costs a copy, room costs nothing.
        self.size_expected = self.size.max(self.size_expected - self.size_expected / 8);
        self.start_empty();
        batch
    }

    /// Drops what has been pushed.
    pub fn clear(&mut self) {
        self.buffer = None;
        self.start_empty();
    }

    fn start_empty(&mut self) {
        self.size = BATCH_HEADER_SIZE;
        self.commands = 0;
        self.records = 0;
        self.logs.clear();
    }

    fn reserve(&mut self, size: usize) {
        let needed = entry_size(size);
        match &mut self.buffer {
            Some(buffer) if buffer.capacity() >= needed => {}
            Some(buffer) => {
                let mut larger = self.pool.take(needed);
                let used = ENTRY_HEADER_SIZE..ENTRY_HEADER_SIZE + self.size;
                larger[used.clone()].copy_from_slice(&buffer[used]);
                *buffer = larger;
            }
            empty => {
                let expected = entry_size(self.size_expected.min(VALUE_BYTES_MAX));
                *empty = Some(self.pool.take(needed.max(expected)));
            }
        }
    }
}

/// A checked view of a value.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    commands: u32,
    records: u32,
    logs: u32,
    /// Commands that name another log than `default`.
    commands_of_others: u32,
    log_time_ms: u64,
    body: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Reads the header of `value` and checks that the commands add up; the records themselves
    /// are not looked into.
    pub fn parse(value: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        if value.is_empty() {
            return Ok(BatchView {
                commands: 0,
                records: 0,
                logs: 0,
                commands_of_others: 0,
                log_time_ms: 0,
                body: &[],
            });
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
        let flags = u16::from_le_bytes([header[6], header[7]]);
        if flags != 0 {
            return Err(BatchError::Flags(flags));
        }
        if u32_at(header, 16) as usize != value.len() {
            return Err(BatchError::Inconsistent);
        }
        let mut view = BatchView {
            commands: u32_at(header, 8),
            records: u32_at(header, 12),
            logs: u32_at(header, 28),
            commands_of_others: 0,
            log_time_ms: u64_at(header, 20),
            body,
        };
        if view.logs as usize > LOGS_PER_BATCH_MAX {
            return Err(BatchError::Inconsistent);
        }
        let (mut commands, mut records) = (0u32, 0u64);
        let mut rest = body;
        while !rest.is_empty() {
            let (command, tail) = split_command(rest)?;
            commands += 1;
            records += u64::from(command.records);
            view.commands_of_others += u32::from(command.log != LogId(0));
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

    /// The log's time at which the batch was sealed, in milliseconds.
    pub fn log_time_ms(&self) -> u64 {
        self.log_time_ms
    }

    /// The most logs besides `default` that the commands name.
    pub fn logs(&self) -> u32 {
        self.logs
    }

    /// Whether the commands name more logs besides `default` than [`BatchView::logs`] says.
    pub fn names_too_many_logs(&self) -> bool {
        // Mostly each command names another one, or all the default: then their count is enough.
        let others = || self.commands().map(|command| command.log).filter(|log| *log != LogId(0));
        self.commands_of_others > self.logs
            && others().collect::<IdSet<LogId>>().len() > self.logs as usize
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
    let kind = CommandKind::ALL
        .into_iter()
        .find(|kind| *kind as u8 == header[0])
        .ok_or(BatchError::Kind(header[0]))?;
    let flags = header[1];
    if flags & !(FLAG_IF_TAIL | FLAG_FENCE) != 0 {
        return Err(BatchError::CommandFlags(flags));
    }
    let (if_tail, rest) = condition(flags & FLAG_IF_TAIL != 0, rest)?;
    let (fence, rest) = condition(flags & FLAG_FENCE != 0, rest)?;
    let records = u32_at(header, 24);
    let run_size = u32_at(header, 28) as usize;
    let padded = run_size.checked_next_multiple_of(ALIGNMENT).ok_or(BatchError::Inconsistent)?;
    if padded > rest.len() || (kind != CommandKind::Append && records > 0) {
        return Err(BatchError::Inconsistent);
    }
    let (run, rest) = rest.split_at(padded);
    let (run, padding) = run.split_at(run_size);
    let terms = AppendTerms {
        session: SessionId(u64_at(header, 8)),
        sequence: Sequence(u64_at(header, 16)),
        unanswered: u16::from_le_bytes([header[2], header[3]]),
        if_tail: if_tail.map(Position),
        fence: fence.map(FenceToken),
    };
    let command = Command { kind, log: LogId(u32_at(header, 4)), terms, records, run };
    if padding.iter().any(|byte| *byte != 0) || !command.is_known() {
        return Err(BatchError::Unused(kind));
    }
    Ok((command, rest))
}

/// The condition at the front of `bytes`, if there is to be one, and what follows.
fn condition(present: bool, bytes: &[u8]) -> Result<(Option<u64>, &[u8]), BatchError> {
    if !present {
        return Ok((None, bytes));
    }
    let (value, rest) =
        bytes.split_first_chunk::<CONDITION_SIZE>().ok_or(BatchError::Inconsistent)?;
    Ok((Some(u64::from_le_bytes(*value)), rest))
}

/// How many commands the value says that it carries, and how many logs they name besides
/// `default`; none for what is no batch. For reservations: the counts are not checked here.
pub fn stated_counts(value: &[u8]) -> (usize, usize) {
    match value.split_first_chunk::<BATCH_HEADER_SIZE>() {
        Some((header, _)) if u32_at(header, 0) == MAGIC => {
            let commands = (u32_at(header, 8) as usize).min(value.len() / COMMAND_HEADER_SIZE);
            (commands, (u32_at(header, 28) as usize).min(LOGS_PER_BATCH_MAX).min(commands))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Checksum;
    use crate::base::records::push_record;

    fn run(records: &[&[u8]]) -> Vec<u8> {
        let mut run = Vec::new();
        records.iter().for_each(|record| push_record(&mut run, record));
        run
    }

    fn append<'a>(records: u32, run: &'a [u8]) -> Command<'a> {
        let terms = AppendTerms {
            session: SessionId(7),
            sequence: Sequence(9),
            unanswered: 3,
            if_tail: (records > 1).then_some(Position(40)),
            fence: Some(FenceToken(u64::from(records))),
        };
        Command { terms, ..Command::append(LogId(records), records, run) }
    }

    #[test]
    fn a_batch_round_trips_and_the_builder_starts_anew() {
        let mut builder = BatchBuilder::new(BlockPool::new(1 << 20));
        let runs = [run(&[b"a", b"bcd"]), run(&[b""]), run(&[&[7; 5000]])];
        for round in 0..3 {
            for (run, records) in runs.iter().zip([2, 1, 1]) {
                builder.push(&append(records, run));
            }
            let batch = builder.seal(1000 + round);
            assert!(builder.is_empty(), "round {round}");
            assert_eq!(batch.checksum(), Checksum::of(batch.value()));
            let view = BatchView::parse(batch.value()).unwrap();
            assert_eq!((view.records(), view.logs()), (4, 2));
            assert_eq!(view.log_time_ms(), 1000 + round);
            assert_eq!(stated_counts(batch.value()), (3, 2));
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
        builder.push(&Command::append(LogId(0), 1, &big));
        assert!(!builder.fits(APPEND_BYTES_MAX));
        assert!(builder.fits(VALUE_BYTES_MAX - builder.size() - command_size_max(0)));
    }

    #[test]
    fn a_batch_names_a_bounded_number_of_logs() {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        for log in 0..LOGS_PER_BATCH_MAX as u32 {
            assert!(builder.fits(0), "log {log}");
            builder.push(&Command::append(LogId(log + 1), 0, &[]));
        }
        assert!(!builder.fits(0));
        let batch = builder.seal(0);
        assert_eq!(BatchView::parse(batch.value()).unwrap().logs() as usize, LOGS_PER_BATCH_MAX);
    }

    #[test]
    fn damage_of_any_byte_of_the_headers_or_any_cut_is_an_error_or_harmless() {
        let mut builder = BatchBuilder::new(BlockPool::new(1 << 20));
        let run = run(&[b"0123456789"]);
        builder.push(&append(1, &run));
        builder.push(&append(2, &run));
        let batch = builder.seal(5);
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
                stated_counts(&value);
                value[index] ^= 1 << bit;
            }
        }
    }

    /// A batch of one command, and what it becomes with the byte at `at` set to `byte`.
    fn changed(command: &Command<'_>, at: usize, byte: u8) -> Result<(), BatchError> {
        let mut builder = BatchBuilder::new(BlockPool::new(0));
        builder.push(command);
        let mut value = builder.seal(0).value().to_vec();
        assert_eq!(BatchView::parse(&value).map(drop), Ok(()), "unchanged");
        value[at] = byte;
        BatchView::parse(&value).map(drop)
    }

    fn of_kind(kind: CommandKind, run: &[u8]) -> Command<'_> {
        let terms = AppendTerms { session: SessionId(7), ..AppendTerms::default() };
        Command { kind, log: LogId(0), terms, records: 0, run }
    }

    #[test]
    fn every_unknown_kind_flag_and_format_is_told_apart() {
        let run = run(&[b"0123456789"]);
        let command = Command::append(LogId(0), 1, &run);
        let kinds = CommandKind::ALL.map(|kind| kind as u8);
        for byte in (0..=u8::MAX).filter(|byte| !kinds.contains(byte)) {
            assert_eq!(changed(&command, BATCH_HEADER_SIZE, byte), Err(BatchError::Kind(byte)));
        }
        for bit in 0..8 {
            let flag = 1 << bit;
            let unknown = Err(BatchError::Flags(u16::from(flag)));
            assert_eq!(changed(&command, 6, flag), unknown);
            assert_eq!(changed(&command, 7, flag), Err(BatchError::Flags(u16::from(flag) << 8)));
            if flag & (FLAG_IF_TAIL | FLAG_FENCE) == 0 {
                let unknown = Err(BatchError::CommandFlags(flag));
                assert_eq!(changed(&command, BATCH_HEADER_SIZE + 1, flag), unknown);
            }
        }
        assert_eq!(changed(&command, 4, 2), Err(BatchError::Format(2)));
        assert_eq!(changed(&command, 3, b'2'), Err(BatchError::Magic));
    }

    #[test]
    fn every_byte_that_a_kind_does_not_use_must_be_zero() {
        let (header, behind) = (BATCH_HEADER_SIZE, BATCH_HEADER_SIZE + COMMAND_HEADER_SIZE);
        let terms = crate::base::SessionTerms { timeout_ms: 60_000, window: 4, nonce: 1 }.encode();
        let log = crate::base::LogTerms::named("log").encode();
        let (unanswered, log_at, session, sequence) = (2..4, 4..8, 8..16, 16..24);
        let fields = |ranges: &[std::ops::Range<usize>]| {
            ranges.iter().cloned().flatten().map(|at| header + at).collect::<Vec<_>>()
        };
        let run = run(&[b"0123456789"]);
        let padding = (behind + run.len()..(behind + run.len()).next_multiple_of(8)).collect();
        let by_kind = [
            (Command::append(LogId(0), 1, &run), padding),
            (
                of_kind(CommandKind::OpenSession, &terms),
                fields(&[unanswered.clone(), log_at.clone(), session.clone(), sequence.clone()]),
            ),
            (
                of_kind(CommandKind::CloseSession, &[]),
                fields(&[unanswered.clone(), log_at.clone(), sequence.clone()]),
            ),
            (
                of_kind(CommandKind::CreateLog, &log),
                fields(&[unanswered.clone(), log_at, session.clone(), sequence.clone()]),
            ),
            (of_kind(CommandKind::DeleteLog, &[]), fields(&[unanswered, session, sequence])),
        ];
        for (command, unused) in by_kind {
            let kind = command.kind;
            assert!(!unused.is_empty());
            for at in unused {
                let error = changed(&command, at, 1);
                assert_eq!(error, Err(BatchError::Unused(kind)), "{kind:?}, byte {at}");
            }
        }
    }

    #[test]
    fn a_run_of_another_size_than_its_kind_has_is_unknown() {
        for (kind, size) in [
            (CommandKind::OpenSession, SESSION_TERMS_SIZE - 8),
            (CommandKind::OpenSession, SESSION_TERMS_SIZE + 8),
            (CommandKind::CloseSession, 8),
            (CommandKind::DeleteLog, 8),
        ] {
            let run = vec![0; size];
            // By hand: no builder makes such a command.
            let mut builder = BatchBuilder::new(BlockPool::new(0));
            builder.push(&Command::append(LogId(0), 0, &run));
            let mut value = builder.seal(0).value().to_vec();
            value[BATCH_HEADER_SIZE] = kind as u8;
            let error = BatchView::parse(&value).map(drop);
            assert_eq!(error, Err(BatchError::Unused(kind)), "{kind:?} of {size} bytes");
        }
    }

    #[test]
    fn the_noop_has_no_commands() {
        let noop = Batch::noop();
        let view = BatchView::parse(noop.value()).unwrap();
        assert_eq!((view.records(), view.commands().count()), (0, 0));
    }
}
