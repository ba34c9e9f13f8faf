//! Tests of the disk itself.
