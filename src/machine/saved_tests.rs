//! States as bytes: a machine that was read back goes on as the one that was written, and bytes
//! that nobody wrote do no harm.

use proptest::prelude::*;

use super::saved::COUNTER_MAX;
use super::{BatchBuilder, Command, CommandKind, DecodeError, Machine, Outcome, Placed};
use crate::base::records::push_record;
use crate::base::rng::Rng;
use crate::base::{
    AppendTerms, Batch, BlockPool, Checksum, FenceToken, LogId, LogTerms, Placement, Position,
    Sequence, SessionId, SessionTerms,
};

/// A batch of a few commands of every kind, most of which have an effect.
fn batch(rng: &mut Rng, builder: &mut BatchBuilder, time_ms: u64) -> Batch {
    for _ in 0..rng.below(6) {
        let (kind, terms) = match rng.below(10) {
            0 => (CommandKind::OpenSession, AppendTerms::default()),
            1 => (CommandKind::CreateLog, AppendTerms::default()),
            2 if rng.below(4) == 0 => (CommandKind::DeleteLog, AppendTerms::default()),
            3 if rng.below(4) == 0 => {
                let session = SessionId(1 + rng.below(9));
                (CommandKind::CloseSession, AppendTerms { session, ..AppendTerms::default() })
            }
            _ => (CommandKind::Append, append_terms(rng)),
        };
        let mut run = Vec::new();
        let mut records = 0;
        match kind {
            CommandKind::OpenSession => {
                let timeout_ms = 1000 + rng.below(3000) as u32;
                let nonce = u128::from(rng.below(4));
                let terms = SessionTerms { timeout_ms, window: 1 + rng.below(5) as u32, nonce };
                run.extend_from_slice(&terms.encode());
            }
            CommandKind::CreateLog => {
                let record_bytes_max = [100, 5][rng.below(2) as usize];
                let name = format!("log-{}", rng.below(12));
                run.extend_from_slice(&LogTerms { name, record_bytes_max }.encode());
            }
            CommandKind::Append => {
                records = rng.below(4) as u32;
                (0..records).for_each(|_| push_record(&mut run, b"a record"));
            }
            _ => {}
        }
        let log = LogId(rng.below(6) as u32);
        builder.push(&Command { kind, log, terms, records, run: &run });
    }
    if builder.is_empty() { Batch::noop() } else { builder.seal(time_ms) }
}

fn append_terms(rng: &mut Rng) -> AppendTerms {
    AppendTerms {
        session: SessionId(rng.below(6)),
        sequence: Sequence(1 + rng.below(8)),
        unanswered: rng.below(4) as u16,
        if_tail: (rng.below(8) == 0).then(|| Position(rng.below(20))),
        fence: (rng.below(8) == 0).then(|| FenceToken(rng.below(5))),
    }
}

/// A history: applies the next batch to each machine.
struct History {
    rng: Rng,
    builder: BatchBuilder,
    time_ms: u64,
}

impl History {
    fn new(seed: u64) -> History {
        History { rng: Rng::new(seed), builder: BatchBuilder::new(BlockPool::new(0)), time_ms: 0 }
    }

    fn apply(&mut self, machines: &mut [&mut Machine]) -> Vec<(Vec<Outcome>, Placement)> {
        self.time_ms += self.rng.below(700);
        let batch = batch(&mut self.rng, &mut self.builder, self.time_ms);
        let apply = |machine: &mut &mut Machine| {
            let mut outcomes = Vec::new();
            let slot = machine.applied().next();
            let placement = machine.apply(slot, batch.value(), &mut outcomes).unwrap();
            machine.hash_applied(batch.checksum(), &outcomes, 7);
            (outcomes, placement)
        };
        machines.iter_mut().map(apply).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_machine_that_was_read_back_goes_on_as_the_one_that_was_written(
        seed in any::<u64>(),
        before in 0..120_usize,
        after in 0..120_usize,
    ) {
        let mut history = History::new(seed);
        let mut machine = Machine::new();
        for _ in 0..before {
            history.apply(&mut [&mut machine]);
        }
        let bytes = machine.encode();
        let mut restored = Machine::decode(&bytes).unwrap();
        prop_assert_eq!(restored.applied(), machine.applied());
        prop_assert_eq!(restored.encode(), bytes);
        for _ in 0..after {
            let answers = history.apply(&mut [&mut machine, &mut restored]);
            prop_assert_eq!(&answers[0], &answers[1]);
        }
        prop_assert_eq!(restored.encode(), machine.encode());
        prop_assert_eq!(restored.records(), machine.records());
        prop_assert_eq!(restored.time_ms(), machine.time_ms());
    }

    #[test]
    fn any_change_of_a_byte_shows(seed in any::<u64>(), at in any::<prop::sample::Index>()) {
        let mut history = History::new(seed);
        let mut machine = Machine::new();
        (0..40).for_each(|_| drop(history.apply(&mut [&mut machine])));
        let mut bytes = machine.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << (seed % 8);
        prop_assert!(Machine::decode(&bytes).is_err());
        prop_assert!(Machine::decode(&bytes[..at]).is_err());
    }

    /// Bytes that nobody wrote, with a checksum that matches.
    #[test]
    fn forged_states_are_refused_or_are_states(seed in any::<u64>(), changes in 1..4_usize) {
        let mut history = History::new(seed);
        let mut machine = Machine::new();
        (0..60).for_each(|_| drop(history.apply(&mut [&mut machine])));
        let mut bytes = machine.encode();
        let end = bytes.len() - 4;
        let mut rng = Rng::new(!seed);
        for _ in 0..changes {
            let at = rng.below(end as u64) as usize;
            match rng.below(3) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at..(at + 4).min(end)].fill([0, 0xff][rng.below(2) as usize]),
                _ => bytes[at] = [0, 1, 0x7f, 0x80][rng.below(4) as usize],
            }
        }
        let checksum = Checksum::of(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.0.to_le_bytes());
        if let Ok(mut forged) = Machine::decode(&bytes) {
            prop_assert_eq!(forged.encode(), bytes);
            // It works, whatever it is.
            if forged.applied() < machine.applied().next() {
                (0..20).for_each(|_| drop(history.apply(&mut [&mut forged])));
            }
        }
    }
}

#[test]
fn what_is_no_state_is_told_apart() {
    let bytes = Machine::new().encode();
    assert_eq!(Machine::decode(&bytes), Ok(Machine::new()));
    assert_eq!(Machine::decode(&bytes[..3]), Err(DecodeError::Size));
    assert_eq!(Machine::decode(&[0; 64]), Err(DecodeError::Magic));
    let mut longer = bytes[..bytes.len() - 4].to_vec();
    longer.push(0);
    let checksum = Checksum::of(&longer);
    longer.extend_from_slice(&checksum.0.to_le_bytes());
    assert_eq!(Machine::decode(&longer), Err(DecodeError::Size));
    let of_version = |version: u8| {
        let mut other = bytes[..bytes.len() - 4].to_vec();
        other[4] = version;
        let checksum = Checksum::of(&other);
        other.extend_from_slice(&checksum.0.to_le_bytes());
        Machine::decode(&other)
    };
    assert_eq!(of_version(0), Err(DecodeError::Version(0)));
    assert_eq!(of_version(200), Err(DecodeError::Newer(200)));
}

/// A state with a log, a session and a result of it, and the number at `at` bytes before its end, or
/// behind its start, set to `number`.
fn with_number(at: isize, number: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BlockPool::new(0));
    let mut machine = Machine::new();
    let terms = AppendTerms::default();
    let run = SessionTerms { timeout_ms: 60_000, window: 4, nonce: 9 }.encode();
    let (kind, log) = (CommandKind::OpenSession, LogId(0));
    builder.push(&Command { kind, log, terms, records: 0, run: &run });
    let terms = AppendTerms { session: SessionId(1), sequence: Sequence(1), ..terms };
    let mut run = Vec::new();
    push_record(&mut run, b"a record");
    builder.push(&Command { terms, ..Command::append(LogId(0), 1, &run) });
    let batch = builder.seal(5);
    machine.apply(machine.applied().next(), batch.value(), &mut Vec::new()).unwrap();
    let mut bytes = machine.encode();
    let end = bytes.len() - 4;
    let at = if at < 0 { end.wrapping_add_signed(at) } else { at as usize };
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    let checksum = Checksum::of(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.0.to_le_bytes());
    bytes
}

#[test]
fn numbers_that_would_overflow_later_are_refused() {
    // From the start: head, slot, records, time, then the logs: last, count, log 0 with its name.
    // From the end: the result's number, the session's head, the sessions' last number and count.
    let counters = [
        (16, "its records"),
        (24, "its log time"),
        (60, "a log's tail"),
        (-8, "a remembered position or sequence"),
        (-28, "a session's last sequence"),
        (-36, "the time of a session's last command"),
        (-80, "its last session's number"),
    ];
    for (at, what) in counters {
        let decoded = |number| Machine::decode(&with_number(at, number));
        assert!(decoded(COUNTER_MAX).is_ok(), "{what}");
        for number in [COUNTER_MAX + 1, u64::MAX] {
            assert_eq!(decoded(number), Err(DecodeError::Counter(what)));
        }
    }
    // A fence's token is the clients' to choose, and never counted on from.
    assert!(Machine::decode(&with_number(68, u64::MAX)).is_ok());
}

#[test]
fn a_session_remembers_a_position_behind_the_limit() {
    let mut machine = Machine::decode(&with_number(60, COUNTER_MAX)).unwrap();
    let mut builder = BatchBuilder::new(BlockPool::new(0));
    let mut run = Vec::new();
    push_record(&mut run, b"a record");
    let nth = |sequence| AppendTerms {
        session: SessionId(1),
        sequence: Sequence(sequence),
        unanswered: 3,
        ..AppendTerms::default()
    };
    for sequence in [2, 3, 3] {
        let terms = nth(sequence);
        builder.push(&Command { terms, ..Command::append(LogId(0), 1, &run) });
    }
    let batch = builder.seal(5);
    let mut outcomes = Vec::new();
    machine.apply(machine.applied().next(), batch.value(), &mut outcomes).unwrap();
    let placed = |after| Placed { first: Position(COUNTER_MAX + after), records: 1 };
    assert_eq!(outcomes, [0, 1, 1].map(|after| Outcome::Appended(placed(after))));
}

/// What it costs at its largest but for results: told in the documentation of `encode`.
#[test]
fn a_large_state_is_encoded_and_read_back() {
    let mut builder = BatchBuilder::new(BlockPool::new(0));
    let mut machine = Machine::new();
    for chunk in 0..64 {
        for index in 0..64 {
            let terms =
                LogTerms::named(&format!("a-log-of-a-name-of-usual-length-{chunk}-{index}"));
            let run = terms.encode();
            let kind = CommandKind::CreateLog;
            let terms = AppendTerms::default();
            builder.push(&Command { kind, log: LogId(0), terms, records: 0, run: &run });
            let run = SessionTerms { timeout_ms: 60_000, window: 64, nonce: 0 }.encode();
            let kind = CommandKind::OpenSession;
            builder.push(&Command { kind, log: LogId(0), terms, records: 0, run: &run });
        }
        let batch = builder.seal(0);
        let slot = machine.applied().next();
        machine.apply(slot, batch.value(), &mut Vec::new()).unwrap();
    }
    let bytes = machine.encode();
    assert_eq!(machine.logs().count(), 4097);
    assert_eq!(Machine::decode(&bytes).map(|machine| machine.encode()), Ok(bytes));
}
