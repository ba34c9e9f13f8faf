//! What a background job of the log lacks for a while: room on the disk, or files that may be open.
//!
//! Held by whatever can wait for it (`prepare.rs`, `checkpoint.rs`, `scrub.rs`, `reads.rs`) and
//! tries again after [`SHORTAGE_RETRY_INTERVAL`]. Guarantee: one warning for each time that it is
//! short, however often it is tried.

use std::fmt;

use tracing::{info, warn};

use crate::base::Instant;
use crate::io::DiskError;

use super::SHORTAGE_RETRY_INTERVAL;

/// Whether a shortage lasts, which has been told.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    lasts: bool,
}

impl Shortage {
    /// An attempt has met it. Returns when the next one may be made.
    pub fn met(&mut self, now: Instant, doing: &dyn fmt::Display, error: &DiskError) -> Instant {
        if !std::mem::replace(&mut self.lasts, true) {
            let every = SHORTAGE_RETRY_INTERVAL;
            warn!(%error, "{doing} has to wait: it is tried again every {every:?}");
        }
        now + SHORTAGE_RETRY_INTERVAL
    }

    /// It was not met: what waited goes on. Returns whether it had waited.
    pub fn over(&mut self, doing: &dyn fmt::Display) -> bool {
        let lasted = std::mem::take(&mut self.lasts);
        if lasted {
            info!("{doing} goes on");
        }
        lasted
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn error(code: i32) -> DiskError {
        DiskError { what: "opening it".into(), source: io::Error::from_raw_os_error(code) }
    }

    #[test]
    fn full_disks_and_too_many_files_are_told_from_each_other_and_from_errors() {
        let kind = |code| (error(code).is_full(), error(code).is_out_of_files());
        for code in [libc::ENOSPC, libc::EDQUOT] {
            assert_eq!(kind(code), (true, false), "{code}");
        }
        for code in [libc::EMFILE, libc::ENFILE] {
            assert_eq!(kind(code), (false, true), "{code}");
        }
        for code in [libc::EIO, libc::EROFS, libc::ENOENT, libc::EEXIST, libc::ENOMEM] {
            assert_eq!(kind(code), (false, false), "{code}");
        }
    }

    #[test]
    fn it_lasts_from_the_first_attempt_that_meets_it_to_the_first_that_does_not() {
        let mut shortage = Shortage::default();
        assert!(!shortage.over(&"a test"));
        let now = Instant(7);
        for _ in 0..3 {
            let next = shortage.met(now, &"a test", &error(libc::EMFILE));
            assert_eq!(next, now + SHORTAGE_RETRY_INTERVAL);
        }
        assert!(shortage.over(&"a test") && !shortage.over(&"a test"));
    }
}
