//! The operation slab: owner of all memory that the kernel may touch.
//!
//! Called by the rest of `uring/`. Guarantee: an operation and its memory stay in the slab from
//! the moment it is queued until its last completion; the slab's slots are reused, and the
//! generation in the user data tells an operation from its successor in the same slot.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;

use crate::base::{BlockBuf, GroupId};
use crate::io::{ConnId, FileId, FileOptions, Sync, Token, WritePart};

use super::sockets::{AcceptState, SendState, SocketAddress};

/// The most operations at once; the callers' own limits keep far below.
const OPS_MAX: usize = 1 << 20;

/// User data of operations that own nothing and whose completion nobody awaits (cancels).
pub(super) const UNTRACKED: u64 = u64::MAX;

/// Names one operation in flight: slot and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpId(pub u64);

/// An array of `iovec` whose spare capacity is reused from operation to operation. The pointers
/// in it are only ever read by the kernel.
pub(super) type IoVecs = Vec<libc::iovec>;

/// An operation with the memory it works on.
pub(super) enum Op {
    Read {
        token: Token,
        file: FileId,
        offset: u64,
        length: u32,
        buffer: BlockBuf,
    },
    Write(Write),
    /// The flush behind a write that was not durable by itself.
    WriteFlush(Write),
    Allocate {
        token: Token,
        file: FileId,
        length: u64,
    },
    Flush {
        token: Token,
        file: FileId,
    },
    Open {
        token: Token,
        name: String,
        path: CString,
        options: FileOptions,
    },
    Rename {
        token: Token,
        from: CString,
        to: CString,
    },
    SyncFolder {
        token: Token,
        name: String,
        folder: OwnedFd,
    },
    Accept {
        listener: usize,
        state: Box<AcceptState>,
    },
    #[allow(dead_code, reason = "the kernel reads the address")]
    Connect {
        conn: ConnId,
        address: Box<SocketAddress>,
    },
    Receive {
        conn: ConnId,
    },
    Send {
        conn: ConnId,
        state: Box<SendState>,
    },
    Wake {
        value: Box<u64>,
    },
    /// Wakes the thread of a group.
    Message {
        group: GroupId,
    },
}

impl Op {
    /// What it is, in one word or two.
    fn kind(&self) -> &'static str {
        match self {
            Op::Read { .. } => "read",
            Op::Write(_) => "write",
            Op::WriteFlush(_) | Op::Flush { .. } => "flush",
            Op::Allocate { .. } => "allocation",
            Op::Open { .. } => "opening of a file",
            Op::Rename { .. } => "renaming of a file",
            Op::SyncFolder { .. } => "flush of a folder",
            Op::Accept { .. } => "accept",
            Op::Connect { .. } => "connect",
            Op::Receive { .. } => "receive",
            Op::Send { .. } => "send",
            Op::Wake { .. } | Op::Message { .. } => "wake",
        }
    }
}

/// A write with the memory it writes.
pub(super) struct Write {
    pub token: Token,
    pub file: FileId,
    pub offset: u64,
    /// Bytes asked for.
    pub length: u32,
    pub sync: Sync,
    /// Owns what `iovecs` points to.
    #[allow(dead_code, reason = "the kernel reads the bytes")]
    pub parts: Vec<WritePart>,
    pub iovecs: IoVecs,
}

struct Slot {
    generation: u32,
    /// How often the operation was started again after EINTR or EAGAIN.
    attempts: u32,
    op: Option<Op>,
}

/// All operations that the kernel knows or is about to know.
#[derive(Default)]
pub(super) struct OpSlab {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl OpSlab {
    /// Takes ownership of `op`.
    pub fn insert(&mut self, op: Op) -> OpId {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < OPS_MAX, "over {OPS_MAX} operations in flight");
            self.slots.push(Slot { generation: 0, attempts: 0, op: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        assert!(slot.op.is_none(), "a free slot holds nothing");
        slot.op = Some(op);
        slot.attempts = 0;
        OpId(u64::from(slot.generation) << 32 | u64::from(index))
    }

    fn slot(&mut self, id: OpId) -> &mut Slot {
        let (index, generation) = (id.0 as u32 as usize, (id.0 >> 32) as u32);
        let slot = &mut self.slots[index];
        assert_eq!(slot.generation, generation, "a completion names an operation in flight");
        slot
    }

    /// The operation, which stays.
    pub fn get(&mut self, id: OpId) -> &mut Op {
        self.slot(id).op.as_mut().expect("a completion names an operation in flight")
    }

    /// Counts another start of the operation; returns how many there were before.
    pub fn attempt(&mut self, id: OpId) -> u32 {
        let slot = self.slot(id);
        slot.attempts += 1;
        slot.attempts
    }

    /// Takes the operation out after its last completion.
    pub fn remove(&mut self, id: OpId) -> Op {
        let slot = self.slot(id);
        slot.generation = slot.generation.wrapping_add(1) & 0x7fff_ffff;
        let op = slot.op.take().expect("a completion names an operation in flight");
        self.free.push(id.0 as u32);
        op
    }

    /// Operations in the slab.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// What is in the slab, by kind: "2 x write, 1 x flush".
    pub fn describe(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let ops = self.slots.iter().filter_map(|slot| slot.op.as_ref());
        ops.for_each(|op| *counts.entry(op.kind()).or_default() += 1);
        let kinds = counts.into_iter().map(|(kind, count)| format!("{count} x {kind}"));
        kinds.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_under_another_generation() {
        let mut slab = OpSlab::default();
        let first = slab.insert(Op::Receive { conn: ConnId(1) });
        let second = slab.insert(Op::Receive { conn: ConnId(2) });
        assert_ne!(first, second);
        slab.remove(first);
        let third = slab.insert(Op::Receive { conn: ConnId(3) });
        assert_eq!(third.0 as u32, first.0 as u32);
        assert_ne!(third, first);
        assert_eq!(slab.len(), 2);
        assert!([first, second, third].iter().all(|id| id.0 != UNTRACKED));
    }

    #[test]
    fn what_is_in_flight_is_told_by_kind() {
        let mut slab = OpSlab::default();
        assert_eq!(slab.describe(), "");
        let flush = || Op::Flush { token: Token(1), file: FileId(1) };
        let first = slab.insert(flush());
        slab.insert(Op::Receive { conn: ConnId(1) });
        slab.insert(flush());
        assert_eq!(slab.describe(), "2 x flush, 1 x receive");
        slab.remove(first);
        assert_eq!(slab.describe(), "1 x flush, 1 x receive");
    }

    #[test]
    #[should_panic(expected = "names an operation in flight")]
    fn a_completion_of_an_older_operation_is_refused() {
        let mut slab = OpSlab::default();
        let first = slab.insert(Op::Receive { conn: ConnId(1) });
        slab.remove(first);
        slab.insert(Op::Receive { conn: ConnId(2) });
        slab.remove(first);
    }
}
