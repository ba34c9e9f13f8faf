//! When a replica takes a checkpoint: as soon as its log asks for one, but not while the others do.
//!
//! Used by `replica` at the beginning of a turn. Encoding the machine's state holds the group's
//! thread, with many logs and unanswered appends for tens of milliseconds. All logs of a group grow
//! alike, so that all replicas would encode at about the same slot, and nobody would be left to
//! choose the next one. So each has windows of its own in the log's time, which the slots carry and
//! is the same everywhere: no message, no clock, and a restart changes nothing. This is for speed
//! alone; a checkpoint may be taken after any slot.

/// The length of a window in the log's time. A checkpoint is begun in the first half of one, so that
/// it is encoded before the next replica's window begins.
const WINDOW_MS: u64 = 256;

/// Whether the replica in `place` of `members` may take a checkpoint at this log time, as far as the
/// others are concerned.
pub(super) fn is_own_window(time_ms: u64, place: usize, members: usize) -> bool {
    // Of two every one is needed: it costs least if they do it at once.
    members <= 2
        || (time_ms / WINDOW_MS % members as u64 == place as u64
            && time_ms % WINDOW_MS < WINDOW_MS / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_three_and_more_at_a_time_and_each_in_turn() {
        for members in 3..=15 {
            let mut last_begun = vec![None; members];
            for time_ms in 0..members as u64 * WINDOW_MS * 2 {
                let own: Vec<usize> =
                    (0..members).filter(|place| is_own_window(time_ms, *place, members)).collect();
                assert!(own.len() <= 1, "{own:?} of {members} at {time_ms} ms");
                for place in own {
                    last_begun[place] = Some(time_ms);
                    let others = last_begun.iter().enumerate().filter(|(other, _)| *other != place);
                    let latest = others.filter_map(|(_, begun)| *begun).max();
                    let apart = latest.map_or(u64::MAX, |begun| time_ms - begun);
                    assert!(apart > WINDOW_MS / 2, "{place} of {members} at {time_ms} ms");
                }
            }
            assert!(last_begun.iter().all(Option::is_some), "{last_begun:?}");
        }
    }

    #[test]
    fn one_or_two_members_do_not_wait() {
        for members in [1, 2] {
            assert!((0..3000).all(|time_ms| is_own_window(time_ms, members - 1, members)));
        }
    }
}
