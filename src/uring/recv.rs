//! Provided receive buffers: one ring of equal buffers for all connections of a thread.
//!
//! The kernel takes a buffer when bytes arrive and names it in the completion; from then on it
//! belongs to the [`RecvChunk`], whose drop gives it back. Guarantee: a buffer is either with the
//! kernel or with exactly one chunk. One thread only.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The buffer group of all receives.
pub(super) const BUFFER_GROUP: u16 = 0;

/// The kernel's limit for the entries of a buffer ring.
pub(super) const BUFFERS_MAX: u16 = 1 << 15;

const PAGE_SIZE: usize = 4096;

/// What a returned buffer is filled with in debug builds (IO.md, pitfall 8).
#[cfg(debug_assertions)]
const POISON: u8 = 0xdb;

/// The buffers and the ring through which they are given to the kernel.
pub(super) struct RecvPool {
    /// `count` entries, page-aligned; the first entry's reserved field is the ring's tail.
    entries: NonNull<BufRingEntry>,
    buffers: NonNull<u8>,
    count: u16,
    buffer_size: usize,
    tail: Cell<u16>,
    /// Buffers that are with the kernel.
    available: Cell<u16>,
}

fn entries_layout(count: u16) -> Layout {
    let bytes = usize::from(count) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes, PAGE_SIZE).expect("the ring's layout is valid")
}

fn buffers_layout(count: u16, buffer_size: usize) -> Layout {
    let bytes = usize::from(count) * buffer_size;
    Layout::from_size_align(bytes, PAGE_SIZE).expect("the buffers' layout is valid")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: both layouts have a non-zero size (`RecvPool::new` asserts the count and size).
    let raw = unsafe { alloc_zeroed(layout) };
    NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
}

impl RecvPool {
    /// Allocates the buffers and hands all of them to the kernel.
    ///
    /// # Panics
    /// When `count` is no power of two up to [`BUFFERS_MAX`] or `buffer_size` is 0.
    pub fn new(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_size: usize,
    ) -> io::Result<Rc<RecvPool>> {
        assert!(count.is_power_of_two() && count <= BUFFERS_MAX, "{count} receive buffers");
        assert!(buffer_size > 0 && u32::try_from(buffer_size).is_ok(), "{buffer_size} bytes");
        let pool = RecvPool {
            entries: allocate(entries_layout(count)).cast(),
            buffers: allocate(buffers_layout(count, buffer_size)),
            count,
            buffer_size,
            tail: Cell::new(0),
            available: Cell::new(0),
        };
        // SAFETY: the entries stay allocated until the pool is dropped. `Uring` holds the pool
        // until it has unregistered the group or closed the ring.
        unsafe {
            let address = pool.entries.as_ptr() as u64;
            submitter.register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0)?;
        }
        (0..count).for_each(|id| pool.give_back(id));
        Ok(Rc::new(pool))
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "buffer {id} of {}", self.count);
        // SAFETY: within the allocation of `count` buffers, by the assertion above.
        unsafe { self.buffers.as_ptr().add(usize::from(id) * self.buffer_size) }
    }

    /// Puts a buffer into the ring for the kernel to use.
    fn give_back(&self, id: u16) {
        let address = self.buffer(id) as u64;
        let tail = self.tail.get();
        let index = usize::from(tail & (self.count - 1));
        // SAFETY: `index` is below `count`. Only this thread writes entries, and the kernel reads
        // one only after the tail has been moved past it below. The tail lives in the first
        // entry's reserved field, which the setters do not touch, and both sides access it
        // atomically.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(address);
            entry.set_len(self.buffer_size as u32);
            entry.set_bid(id);
            let shared = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*shared).store(tail.wrapping_add(1), Ordering::Release);
        }
        self.tail.set(tail.wrapping_add(1));
        self.available.set(self.available.get() + 1);
        assert!(self.available.get() <= self.count, "a buffer was given back twice");
    }

    /// Takes over the buffer that a completion names.
    pub fn take(self: &Rc<Self>, id: u16, length: usize) -> RecvChunk {
        assert!(id < self.count && length <= self.buffer_size, "the kernel keeps to the ring");
        let available = self.available.get();
        self.available.set(available.checked_sub(1).expect("the kernel had this buffer"));
        RecvChunk { pool: Rc::clone(self), id, length }
    }

    /// Buffers that are with the kernel and, as far as is known, not yet filled.
    pub fn available(&self) -> u16 {
        self.available.get()
    }
}

impl Drop for RecvPool {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with these layouts. The last holder is gone: no chunk is
        // left, and `Uring` drops its handle only after the kernel has let go of the ring.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout(self.count));
            dealloc(self.buffers.as_ptr(), buffers_layout(self.count, self.buffer_size));
        }
    }
}

/// Bytes received on one connection, in a buffer of the pool. Dropping it gives the buffer back
/// to the kernel.
pub struct RecvChunk {
    pool: Rc<RecvPool>,
    id: u16,
    length: usize,
}

impl Deref for RecvChunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel has written `length` bytes into this buffer and does not touch it
        // until `drop` gives it back; the pool outlives the chunk.
        unsafe { std::slice::from_raw_parts(self.pool.buffer(self.id), self.length) }
    }
}

impl fmt::Debug for RecvChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvChunk({} bytes)", self.length)
    }
}

impl Drop for RecvChunk {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        // SAFETY: as in `deref`, and `&mut self` excludes every reader.
        unsafe {
            self.pool.buffer(self.id).write_bytes(POISON, self.length);
        }
        self.pool.give_back(self.id);
    }
}
