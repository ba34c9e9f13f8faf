//! Tests of the seam on the real kernel.
