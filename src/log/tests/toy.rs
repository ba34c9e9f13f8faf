//! The tests' state machine: what the commands of a value become is drawn from the value's bytes, so
//! that it is the same whenever and wherever the slot is applied. A value has records in log 0, in
//! other logs, and commands that are refused, in all combinations.

use std::collections::BTreeMap;

use crate::base::rng::Rng;
use crate::base::{LogId, Placement, Position, Span};
use crate::log::placement_bytes_max;

/// A value that starts with this byte or a higher one has records in many logs, more than random
/// values ever do: their placement takes about a block.
pub const MANY_LOGS: u8 = 0x80;
/// A value whose second byte is this has records in log 0 only, and keeps no more room than needed.
pub const PLAIN: u8 = 0;
/// Commands of a value, at most.
const COMMANDS_MAX: u64 = 64;

/// What becomes of a value, apart from the positions.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// Records that each log gets.
    pub records: BTreeMap<LogId, u32>,
    /// Commands that are refused.
    refused: Vec<usize>,
    /// What its entry asks the log to keep for the placement.
    pub placement_bytes_max: u32,
}

impl Fate {
    pub fn of(value: &[u8]) -> Fate {
        let mut head = [0; 8];
        let length = value.len().min(8);
        head[..length].copy_from_slice(&value[..length]);
        let mut rng = Rng::new(u64::from_le_bytes(head));
        let kind = head[1] % 8;
        let (others, ids) = match kind {
            _ if head[0] >= MANY_LOGS => (250, 400),
            4 | 5 => (1 + rng.below(5), 9),
            7 => (1 + rng.below(60), 400),
            _ => (0, 1),
        };
        let mut fate = Fate::default();
        if head[0] % 4 > 0 {
            fate.records.insert(LogId(0), u32::from(head[0] % 4));
        }
        for _ in 0..others {
            fate.records.insert(LogId(1 + rng.below(ids) as u32), 1 + rng.below(4) as u32);
        }
        if kind == 6 || (kind == 7 && rng.below(2) == 0) {
            let count = 1 + rng.below(5);
            fate.refused = (0..count).map(|_| rng.below(COMMANDS_MAX) as usize).collect();
        }
        fate.placement_bytes_max = fate.room(head[2] % 4);
        fate
    }

    /// Exactly what is needed, or somewhat more.
    fn room(&self, slack: u8) -> u32 {
        let others = self.records.len() - usize::from(self.records.contains_key(&LogId(0)));
        let commands = self.refused.iter().max().map_or(0, |last| last + 1);
        match (others + commands, slack) {
            (0, 0..=2) => 0,
            (_, 0..=2) if commands == 0 => placement_bytes_max(1, others) - 1,
            (_, 0..=2) => placement_bytes_max(commands, others),
            _ => placement_bytes_max(COMMANDS_MAX as usize, others + 1),
        }
    }
}

/// Applies a value: its records stand behind the `tails`, which move on.
pub fn place(value: &[u8], tails: &mut BTreeMap<LogId, Position>) -> Placement {
    let fate = Fate::of(value);
    let mut placement = Placement::default();
    for (log, records) in fate.records {
        let tail = tails.entry(log).or_default();
        placement.spans.push(Span { log, first: *tail, records });
        *tail = tail.plus(u64::from(records));
    }
    fate.refused.iter().for_each(|command| placement.refuse(*command));
    placement
}
