//! Block-aligned memory for O_DIRECT: unique buffers, shared sealed batches, and their pool.
//!
//! Life of a batch: a [`BlockBuf`] is filled by one owner, frozen into a [`Batch`] (from then on
//! its value never changes), stamped once with the node's own entry header, and then read by the
//! disk and by every peer's socket at the same time. The memory goes back to its pool when the
//! last holder lets go; whoever submits an operation keeps a clone until its completion.
//!
//! Everything here belongs to one thread (it is neither `Send` nor `Sync`).

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::checksum::Checksum;
use super::limits::{BLOCK_SIZE, ENTRY_HEADER_SIZE, MIB, VALUE_BYTES_MAX};
use super::sectors::{self, entry_size};

/// Sizes of pooled buffers: powers of two from one block to [`BUFFER_BYTES_MAX`].
const CLASS_COUNT: usize = 10;

/// The largest pooled buffer in bytes.
pub const BUFFER_BYTES_MAX: usize = BLOCK_SIZE << (CLASS_COUNT - 1);

const _: () = {
    assert!(BUFFER_BYTES_MAX == 2 * MIB);
};

/// What freed memory is filled with in debug builds, so that a use after the completion shows
/// as a checksum error instead of passing unseen.
#[cfg(debug_assertions)]
const POISON: u8 = 0xdb;

struct PoolInner {
    free: [RefCell<Vec<NonNull<u8>>>; CLASS_COUNT],
    /// Bytes lying in `free`.
    idle_bytes: Cell<usize>,
    idle_bytes_max: usize,
    /// Bytes handed out and not yet returned.
    live_bytes: Cell<usize>,
}

impl Drop for PoolInner {
    fn drop(&mut self) {
        for (class, free) in self.free.iter().enumerate() {
            for pointer in free.borrow_mut().drain(..) {
                // SAFETY: every pointer in `free` was allocated with this class's layout by
                // `BlockPool::take`, and being in `free` means that nobody else owns it.
                unsafe { dealloc(pointer.as_ptr(), layout(class)) }
            }
        }
    }
}

/// A pool of block-aligned buffers. Cloning it gives another handle on the same pool.
#[derive(Clone)]
pub struct BlockPool {
    inner: Rc<PoolInner>,
}

fn layout(class: usize) -> Layout {
    Layout::from_size_align(BLOCK_SIZE << class, BLOCK_SIZE).expect("classes have valid layouts")
}

fn class_of(length: usize) -> usize {
    let blocks = length.div_ceil(BLOCK_SIZE).max(1).next_power_of_two();
    blocks.trailing_zeros() as usize
}

impl BlockPool {
    /// A pool that keeps at most `idle_bytes_max` bytes of returned memory for reuse; what comes
    /// back beyond that is given to the allocator.
    pub fn new(idle_bytes_max: usize) -> BlockPool {
        let inner = PoolInner {
            free: Default::default(),
            idle_bytes: Cell::new(0),
            idle_bytes_max,
            live_bytes: Cell::new(0),
        };
        BlockPool { inner: Rc::new(inner) }
    }

    /// A buffer of at least `length` bytes. Its content is unspecified (but initialised).
    ///
    /// # Panics
    /// When `length` is over [`BUFFER_BYTES_MAX`], which callers check against their own limits.
    pub fn take(&self, length: usize) -> BlockBuf {
        assert!(length <= BUFFER_BYTES_MAX, "{length} bytes are over the largest buffer");
        let class = class_of(length);
        let capacity = BLOCK_SIZE << class;
        let reused = self.inner.free[class].borrow_mut().pop();
        let pointer = match reused {
            Some(pointer) => {
                self.inner.idle_bytes.set(self.inner.idle_bytes.get() - capacity);
                pointer
            }
            None => {
                let layout = layout(class);
                // SAFETY: the layout has a non-zero size.
                let raw = unsafe { alloc_zeroed(layout) };
                NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
            }
        };
        self.inner.live_bytes.set(self.inner.live_bytes.get() + capacity);
        BlockBuf { pointer, class, pool: Rc::downgrade(&self.inner) }
    }

    /// Bytes handed out and not yet returned.
    pub fn live_bytes(&self) -> usize {
        self.inner.live_bytes.get()
    }

    /// Bytes kept for reuse.
    pub fn idle_bytes(&self) -> usize {
        self.inner.idle_bytes.get()
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("live_bytes", &self.live_bytes())
            .field("idle_bytes", &self.idle_bytes())
            .finish()
    }
}

/// Block-aligned memory with one owner. Its address is stable until it is dropped.
pub struct BlockBuf {
    pointer: NonNull<u8>,
    class: usize,
    pool: Weak<PoolInner>,
}

impl BlockBuf {
    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        BLOCK_SIZE << self.class
    }

    /// The address of the first byte, for an operation in flight. Whoever passes it to the
    /// kernel keeps the buffer until the completion.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pointer.as_ptr()
    }
}

impl Deref for BlockBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation is `capacity` bytes, initialised (zeroed or written before),
        // and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.capacity()) }
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.capacity()) }
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        self.fill(POISON);
        let capacity = self.capacity();
        if let Some(pool) = self.pool.upgrade() {
            pool.live_bytes.set(pool.live_bytes.get() - capacity);
            if pool.idle_bytes.get() + capacity <= pool.idle_bytes_max {
                pool.idle_bytes.set(pool.idle_bytes.get() + capacity);
                pool.free[self.class].borrow_mut().push(self.pointer);
                return;
            }
        }
        // SAFETY: allocated with this class's layout in `take`; `self` is the only owner and
        // is being dropped, and the pointer was not put back into the pool above.
        unsafe { dealloc(self.pointer.as_ptr(), layout(self.class)) }
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} bytes)", self.capacity())
    }
}

struct BatchInner {
    /// Layout: an entry (see `sectors`), whose header's fields are written once, by `stamp`. Bytes
    /// from `ENTRY_HEADER_SIZE` on never change once the batch exists.
    buffer: BlockBuf,
    value_size: u32,
    checksum: Checksum,
    stamped: Cell<bool>,
}

/// A sealed batch: the value of one slot, immutable and shared. A clone is another reference to
/// the same bytes.
///
/// The value starts [`ENTRY_HEADER_SIZE`] bytes into block-aligned memory, so that the node's
/// own header can be stamped before it and both go to disk in one aligned write.
#[derive(Clone)]
pub struct Batch {
    inner: Option<Rc<BatchInner>>,
}

impl Batch {
    /// The no-op: the empty value, which fills a hole. It holds no memory.
    pub fn noop() -> Batch {
        Batch { inner: None }
    }

    /// Seals the `value_size` bytes that stand behind the entry header room of `buffer`: makes the
    /// checksums of its sectors and of the whole, in one pass, and zeroes the padding. The buffer
    /// has room for the whole entry, see [`entry_size`].
    ///
    /// # Panics
    /// When the entry does not fit the buffer or the value is empty (that is [`Batch::noop`]).
    pub fn seal(mut buffer: BlockBuf, value_size: usize) -> Batch {
        assert!(value_size > 0 && value_size <= VALUE_BYTES_MAX, "a value of {value_size} bytes");
        let size = entry_size(value_size);
        assert!(size <= buffer.capacity(), "the entry fits its buffer");
        let checksum = sectors::seal(&mut buffer[..size], value_size);
        Batch::of_entry(buffer, value_size, checksum)
    }

    /// A batch whose whole entry stands in `buffer`, verified: its checksums are as
    /// [`Batch::seal`] makes them, and `checksum` is the value's. Reads nothing.
    ///
    /// # Panics
    /// As [`Batch::seal`].
    pub fn of_entry(buffer: BlockBuf, value_size: usize, checksum: Checksum) -> Batch {
        assert!(value_size > 0 && value_size <= VALUE_BYTES_MAX, "a value of {value_size} bytes");
        assert!(entry_size(value_size) <= buffer.capacity(), "the entry fits its buffer");
        let value_size = value_size as u32;
        let inner = BatchInner { buffer, value_size, checksum, stamped: Cell::new(false) };
        Batch { inner: Some(Rc::new(inner)) }
    }

    /// A batch whose value is a copy of `value`; the no-op when `value` is empty.
    pub fn copy_of(pool: &BlockPool, value: &[u8]) -> Batch {
        if value.is_empty() {
            return Batch::noop();
        }
        let mut buffer = pool.take(entry_size(value.len()));
        buffer[ENTRY_HEADER_SIZE..][..value.len()].copy_from_slice(value);
        Batch::seal(buffer, value.len())
    }

    /// The value's bytes; empty for the no-op.
    pub fn value(&self) -> &[u8] {
        match &self.inner {
            None => &[],
            Some(inner) => {
                let offset = ENTRY_HEADER_SIZE;
                // SAFETY: in bounds by `seal`. These bytes are never written after `seal`;
                // `stamp` writes only below `offset`, so no alias of them is mutated.
                unsafe {
                    std::slice::from_raw_parts(
                        inner.buffer.pointer.as_ptr().add(offset),
                        inner.value_size as usize,
                    )
                }
            }
        }
    }

    /// The value's size in bytes.
    pub fn value_size(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.value_size as usize)
    }

    /// The value's checksum.
    pub fn checksum(&self) -> Checksum {
        self.inner.as_ref().map_or(Checksum(0), |inner| inner.checksum)
    }

    /// Bytes of the entry on disk: header, value, table and padding.
    pub fn entry_size(&self) -> usize {
        entry_size(self.value_size())
    }

    /// Bytes of memory this batch keeps alive.
    pub fn memory_size(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.buffer.capacity())
    }

    /// Whether the entry header has been stamped already (always false for the no-op).
    pub fn is_stamped(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.stamped.get())
    }

    /// Whether the other batch is the same memory.
    pub fn is_same(&self, other: &Batch) -> bool {
        match (&self.inner, &other.inner) {
            (None, None) => true,
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Completes the header before the value and returns the batch to write: `fill` gets the header
    /// with the checksums of what follows in it. A batch is stamped once; stamping it again (the
    /// value is accepted again at a higher ballot), or stamping the no-op, stamps a copy, because
    /// the first may still be on its way to the disk.
    pub fn stamp(
        &self,
        pool: &BlockPool,
        fill: impl FnOnce(&mut [u8; ENTRY_HEADER_SIZE]),
    ) -> Batch {
        let inner = match &self.inner {
            Some(inner) if !inner.stamped.get() => inner,
            _ => return self.stamped_copy(pool, fill),
        };
        inner.stamped.set(true);
        // SAFETY: the header room is `ENTRY_HEADER_SIZE` bytes at the front of the allocation, which
        // is block-aligned and larger. It is referred to here only, once (the flag above), before
        // any reference to it is given out (`entry` asserts the flag); all references given out
        // before start behind it.
        fill(unsafe { &mut *inner.buffer.pointer.as_ptr().cast::<[u8; ENTRY_HEADER_SIZE]>() });
        self.clone()
    }

    fn stamped_copy(
        &self,
        pool: &BlockPool,
        fill: impl FnOnce(&mut [u8; ENTRY_HEADER_SIZE]),
    ) -> Batch {
        let size = self.entry_size();
        let mut buffer = pool.take(size);
        match &self.inner {
            Some(inner) => buffer[..size].copy_from_slice(&inner.buffer[..size]),
            None => _ = sectors::seal(&mut buffer[..size], 0),
        }
        fill(buffer.first_chunk_mut().expect("a block holds a header"));
        let inner = BatchInner {
            buffer,
            value_size: self.value_size() as u32,
            checksum: self.checksum(),
            stamped: Cell::new(true),
        };
        Batch { inner: Some(Rc::new(inner)) }
    }

    /// The whole entry as it goes to disk: block-aligned address and length.
    ///
    /// # Panics
    /// When the batch has not been stamped.
    pub fn entry(&self) -> &[u8] {
        let inner = self.inner.as_ref().expect("only a stamped batch goes to disk");
        assert!(inner.stamped.get(), "only a stamped batch goes to disk");
        &inner.buffer[..entry_size(inner.value_size as usize)]
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes, {})", self.value_size(), self.checksum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = BlockPool::new(64 * 1024);
        let buffer = pool.take(5000);
        assert_eq!(buffer.capacity(), 8192);
        assert_eq!(buffer.as_ptr() as usize % BLOCK_SIZE, 0);
        assert_eq!(pool.live_bytes(), 8192);
        let address = buffer.as_ptr();
        drop(buffer);
        assert_eq!((pool.live_bytes(), pool.idle_bytes()), (0, 8192));
        assert_eq!(pool.take(8192).as_ptr(), address, "the freed buffer is used again");
        drop(pool.take(1 << 20));
        assert_eq!(pool.idle_bytes(), 8192, "a buffer over the idle limit is not kept");
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BlockPool::new(1 << 20);
        let mut buffer = pool.take(1);
        drop(pool);
        buffer[0] = 7;
        assert_eq!(buffer[0], 7);
    }

    #[test]
    fn stamping_leaves_the_value_alone_and_a_second_stamp_copies() {
        let pool = BlockPool::new(1 << 20);
        let batch = Batch::copy_of(&pool, b"value");
        let value = batch.value();
        let first = batch.stamp(&pool, |header| header.fill(1));
        assert!(first.is_same(&batch));
        assert_eq!(value, b"value");
        assert_eq!(first.entry().len(), BLOCK_SIZE);
        assert_eq!(first.entry()[..ENTRY_HEADER_SIZE], [1; ENTRY_HEADER_SIZE]);
        assert!(first.entry()[ENTRY_HEADER_SIZE + 5..].iter().all(|byte| *byte == 0));

        let second = batch.stamp(&pool, |header| header.fill(2));
        assert!(!second.is_same(&batch));
        assert_eq!(second.value(), b"value");
        assert_eq!(second.checksum(), batch.checksum());
        assert_eq!(first.entry()[0], 1, "the first entry is as it was written");
        assert_eq!(second.entry()[0], 2);
    }

    #[test]
    fn the_noop_stamps_to_one_zero_padded_block() {
        let pool = BlockPool::new(1 << 20);
        let entry = Batch::noop().stamp(&pool, |header| header.fill(3));
        assert_eq!(entry.value(), b"");
        assert_eq!(entry.entry().len(), BLOCK_SIZE);
        assert!(entry.entry()[ENTRY_HEADER_SIZE..].iter().all(|byte| *byte == 0));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn freed_memory_is_poisoned() {
        let pool = BlockPool::new(1 << 20);
        drop(Batch::copy_of(&pool, b"secret"));
        assert!(pool.take(1).iter().all(|byte| *byte == POISON));
    }
}
