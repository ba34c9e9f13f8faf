//! The named limits that more than one folder depends on, and how they relate.
//!
//! Limits of one folder alone stand in that folder.

/// One KiB in bytes.
pub const KIB: usize = 1024;
/// One MiB in bytes.
pub const MIB: usize = 1024 * KIB;

/// The unit of durable writes in bytes: offsets, lengths and addresses are multiples of it. At
/// least the physical block of every device in use, so that an acknowledged sector is never
/// written again.
pub const BLOCK_SIZE: usize = 4 * KIB;

/// What a device writes whole or not at all, in bytes: after a power cut each sector of a block holds
/// what was written or what stood there before. Devices with larger sectors hold to it too.
pub const SECTOR_SIZE: usize = 512;

/// Bytes at the front of every log entry that are its header: the node's own fields (place,
/// generation, chain) and checksums of what follows. One sector, so that it is never torn. The
/// sealed batch starts right behind it, in memory and on disk.
pub const ENTRY_HEADER_SIZE: usize = SECTOR_SIZE;

/// The largest value of one slot in bytes (a sealed batch without the entry header): with its
/// header and its table of checksums it still fits the largest pooled buffer.
pub const VALUE_BYTES_MAX: usize = 2 * MIB - 5 * BLOCK_SIZE;

/// The largest record in bytes that a client may append.
pub const RECORD_BYTES_MAX: usize = MIB;

/// The most records in one append.
pub const APPEND_RECORDS_MAX: usize = 16 * KIB;

/// The largest run of records (with their length prefixes) in one append, in bytes.
pub const APPEND_BYTES_MAX: usize = MIB + 64 * KIB;

/// The most logs that the commands of one slot name, the log `default` not counted.
pub const LOGS_PER_BATCH_MAX: usize = 4096;

/// The longest name of a log, in bytes.
pub const LOG_NAME_BYTES_MAX: usize = 255;

/// The most results that one session may have remembered: its client keeps no more appends
/// unanswered.
pub const SESSION_WINDOW_MAX: usize = 16 * KIB;

/// The most members of a cluster.
pub const MEMBERS_MAX: usize = 15;

/// The most groups of a cluster.
pub const GROUPS_MAX: usize = 64;

/// Bits of a log's number that name it within its group; those above them name the group.
pub const LOG_NUMBER_BITS: u32 = 26;

/// `length` rounded up to the next multiple of [`BLOCK_SIZE`].
pub const fn block_align(length: usize) -> usize {
    length.div_ceil(BLOCK_SIZE) * BLOCK_SIZE
}

const _: () = {
    assert!(BLOCK_SIZE.is_power_of_two());
    assert!(BLOCK_SIZE.is_multiple_of(SECTOR_SIZE));
    assert!(ENTRY_HEADER_SIZE < BLOCK_SIZE);
    // A full append always fits an empty batch, whatever headers stand around it.
    assert!(APPEND_BYTES_MAX + BLOCK_SIZE < VALUE_BYTES_MAX);
    assert!(RECORD_BYTES_MAX + 4 <= APPEND_BYTES_MAX);
    // Every group's logs have numbers, and every number is some group's.
    assert!(GROUPS_MAX == 1 << (u32::BITS - LOG_NUMBER_BITS));
};
