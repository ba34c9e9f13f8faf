//! Pitfall 8: memory that the kernel works on is kept until the completion, whatever its owner
//! does meanwhile. Debug builds poison freed buffers, so that a violation shows as a checksum that
//! does not fit: on disk, at the peer, or in what was received.

use std::collections::VecDeque;
use std::rc::Rc;

use super::support::{connected_pair, disk_dir, filled, ring_in, turn_until, zeroed_file};
use crate::base::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, KIB, MIB, block_align};
use crate::base::rng::Rng;
use crate::base::sectors::entry_size;
use crate::base::{Batch, BlockPool, Checksum};
use crate::io::{ConnId, Disk, Event, FileId, FileOptions, Io, Net, SendPart, Storage};
use crate::io::{Sync, Token, Wait, WritePart};
use crate::uring::{Uring, UringOptions};

/// Batches that pass through disk and socket.
const BATCHES: u64 = 300;
/// The largest of them in bytes.
const VALUE_BYTES_MAX: u64 = 96 * KIB as u64;
/// Bytes before a value on the wire: its length and its checksum.
const HEAD_BYTES: usize = 8;

/// A batch of some length, every byte from the generator.
fn random_batch(pool: &BlockPool, rng: &mut Rng) -> Batch {
    let length = 1 + rng.below(VALUE_BYTES_MAX) as usize;
    let value: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
    Batch::copy_of(pool, &value)
}

fn head_of(batch: &Batch) -> Vec<u8> {
    let length = batch.value_size() as u32;
    [length.to_le_bytes(), batch.checksum().0.to_le_bytes()].concat()
}

/// What the test still expects of one batch.
struct Written {
    offset: u64,
    length: usize,
    checksum: Checksum,
}

/// A writer and sender that lets go of every batch as soon as it has handed it in.
struct Pump {
    pool: BlockPool,
    rng: Rng,
    file: FileId,
    near: ConnId,
    made: u64,
    offset: u64,
    written: Vec<Written>,
    unsent: VecDeque<Batch>,
    sending: bool,
    writes_left: u64,
}

impl Pump {
    fn go_on(&mut self, uring: &mut Uring) {
        // A few at a time, so that buffers come back and are used again.
        while self.made < BATCHES && self.made - self.writes_done() < 4 && self.unsent.len() < 4 {
            let batch = random_batch(&self.pool, &mut self.rng);
            let (length, checksum) = (batch.value_size(), batch.checksum());
            self.written.push(Written { offset: self.offset, length, checksum });
            let stamped = batch.stamp(&self.pool, |header| header.fill(0x48));
            let size = entry_size(length) as u64;
            let parts = vec![WritePart::Entry(stamped)];
            uring.write(Token(self.made), self.file, self.offset, parts, Sync::Durable);
            self.offset += size;
            self.made += 1;
            self.unsent.push_back(batch);
        }
        if !self.sending && !self.unsent.is_empty() {
            let batches = self.unsent.drain(..);
            let parts = batches
                .flat_map(|batch| [SendPart::Bytes(head_of(&batch)), SendPart::Value(batch)]);
            uring.send(self.near, parts.collect());
            self.sending = true;
        }
    }

    fn writes_done(&self) -> u64 {
        BATCHES - self.writes_left
    }
}

#[test]
fn batches_shared_by_disk_and_socket_arrive_intact_at_both() {
    let dir = disk_dir();
    let options = UringOptions { recv_buffers: 4, recv_buffer_bytes: 4096, ..Default::default() };
    let mut uring = ring_in(&dir, options);
    let bytes_max = BATCHES as usize * entry_size(VALUE_BYTES_MAX as usize);
    let file = zeroed_file(&mut uring, "batches", bytes_max);
    let (near, far) = connected_pair(&mut uring);
    let mut pump = Pump {
        pool: BlockPool::new(16 * MIB),
        rng: Rng::new(8),
        file,
        near,
        made: 0,
        offset: 0,
        written: Vec::new(),
        unsent: VecDeque::new(),
        sending: false,
        writes_left: BATCHES,
    };
    pump.go_on(&mut uring);
    let (mut received, mut arrived) = (Vec::new(), 0);
    turn_until(&mut uring, "all batches at both ends", |uring, event| {
        match event {
            Event::Disk(event) => {
                event.result.expect("the write succeeds");
                pump.writes_left -= 1;
            }
            Event::Sent { .. } => pump.sending = false,
            Event::Received { conn, chunk } if conn == far => {
                received.extend_from_slice(&chunk);
                arrived += check_received(&mut received);
            }
            other => panic!("unexpected: {other:?}"),
        }
        pump.go_on(uring);
        pump.writes_left == 0 && arrived == BATCHES
    });
    check_written(&mut uring, &pump);
    assert_eq!(pump.pool.live_bytes(), 0, "every batch has been let go");
}

/// Checks and removes whole values from the front; how many there were.
fn check_received(received: &mut Vec<u8>) -> u64 {
    let (mut at, mut count) = (0, 0);
    while received.len() - at >= HEAD_BYTES {
        let number = |from: usize| u32::from_le_bytes(received[from..from + 4].try_into().unwrap());
        let (length, checksum) = (number(at) as usize, number(at + 4));
        let Some(value) = received.get(at + HEAD_BYTES..at + HEAD_BYTES + length) else { break };
        assert_eq!(Checksum::of(value), Checksum(checksum), "a value is spoilt at the peer");
        at += HEAD_BYTES + length;
        count += 1;
    }
    received.drain(..at);
    count
}

fn check_written(uring: &mut Uring, pump: &Pump) {
    let mut buffer = BlockPool::new(0).take(block_align(VALUE_BYTES_MAX as usize + BLOCK_SIZE));
    for entry in &pump.written {
        let size = entry_size(entry.length);
        uring.read_at(pump.file, entry.offset, &mut buffer, size).unwrap();
        let value = &buffer[ENTRY_HEADER_SIZE..][..entry.length];
        assert_eq!(Checksum::of(value), entry.checksum, "a value is spoilt on disk");
        assert!(buffer[..ENTRY_HEADER_SIZE].iter().all(|byte| *byte == 0x48));
    }
}

#[test]
fn a_ring_dropped_with_writes_in_flight_frees_nothing_under_them() {
    let dir = disk_dir();
    const LENGTH: usize = 2 * MIB;
    for round in 0..10 {
        let name = format!("dropped-{round}");
        let mut uring = ring_in(&dir, UringOptions::default());
        let file = zeroed_file(&mut uring, &name, 4 * LENGTH);
        let pool = BlockPool::new(16 * MIB);
        for write in 0..4u64 {
            let part = WritePart::Buffer(Rc::new(filled(&pool, LENGTH, 0x44)), LENGTH);
            uring.write(Token(write), file, write * LENGTH as u64, vec![part], Sync::Durable);
        }
        if round % 2 == 0 {
            uring.turn(Wait::No, &mut Vec::new()).unwrap(); // else they never reach the kernel
        }
        drop(uring);
        assert_eq!(pool.live_bytes(), 0, "the buffers came back, after the kernel was done");
        let mut storage = crate::uring::DirectStorage::new(dir.path()).unwrap();
        let file = storage.open(&name, FileOptions::Read).unwrap();
        let mut buffer = pool.take(LENGTH);
        for write in 0..4u64 {
            storage.read_at(file, write * LENGTH as u64, &mut buffer, LENGTH).unwrap();
            let wrong = buffer.iter().find(|byte| **byte != 0x44 && **byte != 0);
            assert_eq!(wrong, None, "round {round}, write {write}: freed memory was written");
        }
    }
}

#[test]
fn a_connection_closed_with_a_send_in_flight_keeps_its_bytes_until_the_end() {
    let mut uring = Uring::new(None, UringOptions::default()).unwrap();
    let pool = BlockPool::new(16 * MIB);
    let (near, far) = connected_pair(&mut uring);
    uring.pause(far);
    let mut events = Vec::new();
    uring.turn(Wait::No, &mut events).unwrap();
    // Far more than the socket takes while nobody reads: the send stays in flight.
    let batches: Vec<Batch> =
        (0..8).map(|_| Batch::copy_of(&pool, &vec![0x66; 2 * MIB - 5 * BLOCK_SIZE])).collect();
    uring.send(near, batches.into_iter().map(SendPart::Value).collect());
    uring.turn(Wait::No, &mut events).unwrap();
    assert!(events.is_empty(), "{events:?}");
    let held = pool.live_bytes();
    assert_eq!(held, 16 * MIB);
    Net::close(&mut uring, near);
    assert_eq!(pool.live_bytes(), held, "the kernel may still read it");
    uring.resume(far);
    let mut received = 0;
    turn_until(&mut uring, "the other end to see the end", |_, event| match event {
        Event::Received { conn, chunk } => {
            assert_eq!(conn, far);
            assert!(chunk.iter().all(|byte| *byte == 0x66), "freed memory was sent");
            received += chunk.len();
            false
        }
        Event::Closed { conn, .. } => conn == far,
        other => panic!("unexpected: {other:?}"),
    });
    assert!(received > 0 && received < held);
    while pool.live_bytes() > 0 {
        uring.turn(Wait::No, &mut events).unwrap();
    }
}

#[test]
#[cfg(debug_assertions)]
fn a_received_chunk_is_poisoned_when_it_goes_back() {
    let mut uring = Uring::new(None, UringOptions::default()).unwrap();
    let (near, far) = connected_pair(&mut uring);
    uring.send(near, vec![SendPart::Bytes(b"secret".to_vec())]);
    let mut seen = None;
    turn_until(&mut uring, "six bytes", |_, event| {
        if let Event::Received { conn, chunk } = event {
            assert_eq!((conn, &*chunk), (far, &b"secret"[..]));
            seen = Some(chunk.as_ptr());
        }
        seen.is_some()
    });
    let address = seen.expect("the loop ends with one");
    // SAFETY: the chunk has been dropped, but its memory belongs to the ring's pool, which lives;
    // nothing more is sent, so the kernel writes nothing there.
    let left = unsafe { std::slice::from_raw_parts(address, 6) };
    assert_eq!(left, [0xdb; 6]);
}
