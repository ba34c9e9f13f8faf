//! The same entry points as ordinary property tests.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{drive_client, drive_server, recover_log};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_disk_is_recovered_or_refused(data in vec(any::<u8>(), 0..200)) {
        recover_log(&data);
    }

    #[test]
    fn a_client_survives_any_server(data in vec(any::<u8>(), 0..600)) {
        drive_client(&data);
    }

    #[test]
    fn a_server_survives_any_client(data in vec(any::<u8>(), 0..600)) {
        drive_server(&data);
    }
}

#[test]
fn a_forged_slot_beyond_all_others_is_refused() {
    recover_log(&[9, 24, 0, 0, 0, 0, 0, 32, 0, 0, 29, 78, 41, 234, 192, 0, 1, 0]);
}

#[test]
fn an_unchanged_disk_is_opened() {
    let run = recover_log(&[]);
    assert!(run.opened && !run.forged && run.covered + run.replayed > 5, "{run:?}");
}

#[test]
fn what_follows_a_refusal_is_not_answered() {
    // A client connects, greets another cluster, and goes on with what is no frame.
    let greeting = [0, 1, 3, 9, 9, 9, 9, 9, 9, 9, 9];
    let garbage = [[2, 0, 40].as_slice(), &[0xff; 40]].concat();
    let run = drive_server(&[&greeting[..], &garbage[..]].concat());
    assert_eq!((run.answers, run.hung_up), (0, 1), "{run:?}");
}
