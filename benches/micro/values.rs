//! Values for the benches.

use loggos::base::records::push_record;
use loggos::base::{Batch, BlockPool, LogId};
use loggos::machine::{BatchBuilder, Command, CommandKind};

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
            builder.push(&Command {
                kind: CommandKind::Append,
                log: LogId(0),
                session: 1,
                sequence,
                records: 1,
                run,
            });
        }
    });
    builder.seal()
}
