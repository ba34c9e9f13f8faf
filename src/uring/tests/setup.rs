//! Setting a ring up where the kernel lacks something or forbids it, through an injected setup.

use std::io;

use super::support::disk_dir;
use crate::uring::ring::{NewFlags, build};
use crate::uring::{Uring, UringError, UringOptions};

/// A kernel that answers `answers`, one after the other.
fn build_against(answers: &[Result<(), i32>]) -> (Result<(), UringError>, Vec<NewFlags>) {
    let mut asked = Vec::new();
    let result = build(|flags| {
        let answer = answers.get(asked.len()).copied().expect("no more attempts than that");
        asked.push(flags);
        answer.map_err(io::Error::from_raw_os_error)
    });
    (result, asked)
}

#[test]
fn a_flag_the_kernel_does_not_know_is_dropped_and_no_other() {
    let (result, asked) = build_against(&[Ok(())]);
    assert!(result.is_ok());
    assert_eq!(asked, [NewFlags { no_sqarray: true }]);
    let (result, asked) = build_against(&[Err(libc::EINVAL), Ok(())]);
    assert!(result.is_ok());
    assert_eq!(asked, [NewFlags { no_sqarray: true }, NewFlags { no_sqarray: false }]);
}

#[test]
fn a_kernel_without_the_oldest_flags_is_named_too_old() {
    let (result, asked) = build_against(&[Err(libc::EINVAL), Err(libc::EINVAL)]);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("Linux 6.1 or newer"), "{text}");
    assert_eq!(asked.len(), 2);
}

#[test]
fn refusals_are_not_tried_again_and_say_what_to_change() {
    let cases = [
        (libc::ENOSYS, "6.1 or newer"),
        (libc::EPERM, "io_uring"),
        (libc::ENOMEM, "ulimit -l"),
        (libc::EMFILE, "ulimit -n"),
    ];
    for (errno, advice) in cases {
        let (result, asked) = build_against(&[Err(errno)]);
        let error = result.unwrap_err();
        assert!(matches!(error, UringError::Denied { .. }));
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(asked.len(), 1);
    }
    // Also when only the attempt with fewer flags is refused.
    let (result, _) = build_against(&[Err(libc::EINVAL), Err(libc::ENOMEM)]);
    assert!(result.unwrap_err().to_string().contains("ulimit -l"));
}

#[test]
fn a_folder_that_is_none_is_named() {
    let dir = disk_dir();
    let missing = dir.path().join("missing");
    let error = Uring::new(Some(&missing), UringOptions::default()).err().expect("it is missing");
    assert!(error.to_string().contains("missing"), "{error}");
}
