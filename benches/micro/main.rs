//! Micro-benchmarks of what every append passes through: checksum, frame codec, batch, core, log.
//!
//! `cargo bench --bench micro` measures; `cargo test` runs each once, so that none can rot. No
//! file is written and no socket opened but for the few small files that a log begins with.

mod core;
mod log;
mod machine;
mod values;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use loggos::base::{
    AppendTerms, Ballot, BlockPool, Checksum, GroupId, LogId, NodeId, Position, Slot,
};
use loggos::machine::{BatchView, Machine};
use loggos::paxos::Message;
use loggos::wire::client::{decode_request, encode_request, encode_response};
use loggos::wire::{
    FrameDecoder, FrameEncoder, Request, RequestId, Response, decode_message, encode_message,
};
use values::{batch_of, run_of};

/// Record sizes in bytes: small, a page, large.
const SIZES: [usize; 3] = [256, 4096, 65536];

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for size in SIZES {
        let bytes = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(size.to_string(), |b| b.iter(|| Checksum::of(black_box(&bytes))));
    }
    group.finish();
}

/// What a client's append costs to encode there and to decode at the leader.
fn append_frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("append frame");
    for size in SIZES {
        let run = run_of(1, size);
        let append = Request::Append {
            request: RequestId(1),
            log: LogId(0),
            terms: AppendTerms::default(),
            records: 1,
            run: &run,
        };
        group.throughput(Throughput::Bytes(size as u64));
        let mut out = Vec::new();
        group.bench_function(format!("encode {size}"), |b| {
            let mut encoder = FrameEncoder::new();
            b.iter(|| {
                out.clear();
                encode_request(black_box(&append), GroupId(0), &mut encoder, &mut out);
            });
        });
        let pool = BlockPool::new(1 << 20);
        // The first frame of a stream, which a new decoder accepts again and again.
        let mut first = Vec::new();
        encode_request(&append, GroupId(0), &mut FrameEncoder::new(), &mut first);
        group.bench_function(format!("decode {size}"), |b| {
            b.iter(|| {
                let (mut decoder, mut rest) = (FrameDecoder::new(), black_box(&first[..]));
                let frame = decoder.next(&mut rest, &pool).expect("it is whole").expect("so");
                assert!(matches!(decode_request(&frame), Ok(Request::Append { .. })));
            });
        });
    }
    group.finish();
}

/// The answer to an append, and an Accept with a value of its own part.
fn small_frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame head");
    let (mut encoder, mut out) = (FrameEncoder::new(), Vec::new());
    let appended = Response::Appended { request: RequestId(1), first: Position(9), records: 1 };
    group.bench_function("appended", |b| {
        b.iter(|| {
            out.clear();
            encode_response(black_box(&appended), GroupId(0), &mut encoder, &mut out);
        });
    });
    let pool = BlockPool::new(1 << 20);
    let value = batch_of(&pool, 64);
    let ballot = Ballot { round: 1, node: NodeId(1) };
    let accept = Message::Accept { ballot, slot: Slot(2), chosen: Slot(1), value };
    group.bench_function("accept", |b| {
        b.iter(|| {
            out.clear();
            black_box(encode_message(black_box(&accept), GroupId(0), &mut encoder, &mut out));
        });
    });
    group.finish();
}

/// An Accept as the peer gets it: checksum, copy into a block of its own, fields.
fn accept_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("accept decode");
    let pool = BlockPool::new(8 << 20);
    for records in [1, 64, 1024] {
        let value = batch_of(&pool, records);
        let ballot = Ballot { round: 1, node: NodeId(1) };
        let accept = Message::Accept { ballot, slot: Slot(2), chosen: Slot(1), value };
        let mut bytes = Vec::new();
        if let Some(value) =
            encode_message(&accept, GroupId(0), &mut FrameEncoder::new(), &mut bytes)
        {
            bytes.extend_from_slice(value.value());
        }
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{records} records"), |b| {
            b.iter(|| {
                let (mut decoder, mut rest) = (FrameDecoder::new(), black_box(&bytes[..]));
                let frame = decoder.next(&mut rest, &pool).expect("it is whole").expect("so");
                decode_message(frame, &pool).expect("it is an accept")
            });
        });
    }
    group.finish();
}

/// Records into a batch, sealed; and the batch applied.
fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    let pool = BlockPool::new(8 << 20);
    for records in [1, 64, 1024] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("seal {records} x 256"), |b| {
            b.iter(|| batch_of(&pool, black_box(records)));
        });
        let sealed = batch_of(&pool, records);
        group.bench_function(format!("parse {records} x 256"), |b| {
            b.iter(|| {
                BatchView::parse(black_box(sealed.value())).expect("it is a batch").records()
            });
        });
        group.bench_function(format!("apply {records} x 256"), |b| {
            let (mut machine, mut outcomes, mut slot) = (Machine::new(), Vec::new(), Slot(0));
            b.iter(|| {
                slot = slot.next();
                outcomes.clear();
                machine.apply(slot, sealed.value(), &mut outcomes).expect("it is a batch");
            });
        });
    }
    group.finish();
}

criterion_group!(
    benches,
    checksum,
    append_frame,
    small_frames,
    accept_decode,
    batch,
    core::steps,
    log::append,
    log::lookup,
    machine::saved
);
criterion_main!(benches);
