//! Values for the benches.

use loggos::base::records::push_record;
use loggos::base::{AppendTerms, Batch, BlockPool, LogId, Sequence, SessionId};
use loggos::machine::{BatchBuilder, Command};

/// A run of `records` records of `bytes` bytes.
pub fn run_of(records: u32, bytes: usize) -> Vec<u8> {
    let mut run = Vec::new();
    (0..records).for_each(|_| push_record(&mut run, &vec![7; bytes]));
    run
}

thread_local! {
    static RUN: Vec<u8> = run_of(1, 256);
}

/// A sealed batch of `records` appends of one record of 256 bytes.
pub fn batch_of(pool: &BlockPool, records: u64) -> Batch {
    let mut builder = BatchBuilder::new(pool.clone());
    RUN.with(|run| {
        for sequence in 0..records {
            let terms = AppendTerms {
                session: SessionId(1),
                sequence: Sequence(sequence),
                ..AppendTerms::default()
            };
            builder.push(&Command { terms, ..Command::append(LogId(0), 1, run) });
        }
    });
    builder.seal(0)
}
