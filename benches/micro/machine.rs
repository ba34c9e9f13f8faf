//! The machine's state as bytes: what taking a checkpoint costs the group's thread at once.

use criterion::{BatchSize, Criterion, Throughput};

use loggos::base::{AppendTerms, BlockPool, LogId, LogTerms, Sequence, SessionId, SessionTerms};
use loggos::machine::{BatchBuilder, Command, CommandKind, Machine};

use crate::values::run_of;

/// Appends of one batch.
const BATCH_APPENDS: u64 = 1024;

/// A machine with `count` logs besides the first, `count` sessions, and `results` results that each
/// session remembers.
fn machine(count: u64, results: u64) -> Machine {
    let mut builder = BatchBuilder::new(BlockPool::new(1 << 20));
    let mut machine = Machine::new();
    for number in 0..count {
        let terms = AppendTerms::default();
        let run = LogTerms::named(&format!("a-log-of-a-name-of-usual-length-{number}")).encode();
        let (kind, log, records) = (CommandKind::CreateLog, LogId(0), 0);
        builder.push(&Command { kind, log, terms, records, run: &run });
        let run = SessionTerms { timeout_ms: 60_000, window: 64, nonce: 0 }.encode();
        builder.push(&Command { kind: CommandKind::OpenSession, log, terms, records, run: &run });
        if number % (BATCH_APPENDS / 2) == BATCH_APPENDS / 2 - 1 {
            apply(&mut machine, &mut builder);
        }
    }
    let run = run_of(1, 16);
    for append in 0..count * results {
        // Each client has appends of its own under way, in turn with those of all others.
        let (session, sequence) = (SessionId(1 + append % count), Sequence(1 + append / count));
        let unanswered = results as u16;
        let terms = AppendTerms { session, sequence, unanswered, ..AppendTerms::default() };
        let log = LogId((session.0 % (count + 1)) as u32);
        builder.push(&Command { terms, ..Command::append(log, 1, &run) });
        if append % BATCH_APPENDS == BATCH_APPENDS - 1 {
            apply(&mut machine, &mut builder);
        }
    }
    machine
}

fn apply(machine: &mut Machine, builder: &mut BatchBuilder) {
    let slot = machine.applied().next();
    let value = builder.seal(0);
    machine.apply(slot, value.value(), &mut Vec::new()).expect("it is a batch");
}

/// A state of usual size, one with many logs and sessions, and one with many unanswered appends.
pub fn saved(c: &mut Criterion) {
    let mut group = c.benchmark_group("machine");
    group.sample_size(10);
    for (count, results) in [(1024, 0), (64 * 1024 - 1024, 0), (16 * 1024, 64)] {
        let machine = machine(count, results);
        let bytes = machine.encode();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode {count} logs, {results} results each"), |b| {
            // What becomes of the bytes belongs to the writing.
            b.iter_batched(|| (), |()| machine.encode(), BatchSize::PerIteration);
        });
        group.bench_function(format!("decode {count} logs, {results} results each"), |b| {
            let decode = |()| Machine::decode(&bytes).expect("it is a state");
            b.iter_batched(|| (), decode, BatchSize::PerIteration);
        });
    }
    group.finish();
}
