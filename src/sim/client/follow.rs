//! The follower of a simulated client: records are pushed to it, and it gives credit.
//!
//! Every push is noted as a read that was invoked when it came: it must be what stands there. That
//! there is no gap and no double is checked at once.

use super::{Around, RETRY_PAUSE, Reply, SimClient, Tag};
use crate::base::{LogId, Position};
use crate::sim::counters::Hit;
use crate::sim::history::{Kind, Outcome};
use crate::sim::time::Time;
use crate::wire::{ReadLevel, RequestId};

/// What a follower takes ahead.
const CREDIT_BYTES: u32 = 3000;

/// A follower on the connection that stands.
#[derive(Debug)]
pub(super) struct Flow {
    request: RequestId,
    log: LogId,
    next: Position,
    /// Bytes that it may still be sent, by its own count.
    credit_bytes: i64,
}

impl SimClient {
    pub(super) fn start_following(&mut self, now: Time) {
        if !self.workload.follows || self.follow.is_some() || self.follow_at > now {
            return;
        }
        let index = self.rng.below(self.logs.len() as u64) as usize;
        let (known, from) = (self.logs[index], self.rng.below(4));
        let (Some(log), Some(link)) = (known.id, &mut self.link) else { return };
        if !link.protocol.can_submit() {
            return;
        }
        let next = Position(if from == 0 { 0 } else { known.tail_seen });
        let numbered = LogId::of_group(self.group, log);
        if let Ok(request) = link.protocol.follow(Tag::Follow, numbered, next, CREDIT_BYTES) {
            let credit_bytes = i64::from(CREDIT_BYTES);
            self.follow = Some(Flow { request, log, next, credit_bytes });
        }
    }

    pub(super) fn on_pushed(&mut self, reply: Reply, around: &mut Around<'_>) {
        let (Some(flow), Some(link)) = (&mut self.follow, &mut self.link) else { return };
        let Reply::Records(first, Some(values), tail) = reply else {
            self.complaint.get_or_insert(format!("{reply:?} is pushed to a follower"));
            return;
        };
        around.hits.hit(Hit::RecordsPushed);
        if first != flow.next || values.is_empty() {
            let text = format!("{} records from {first} are pushed", values.len());
            self.complaint.get_or_insert(format!("{text}, where {} comes next", flow.next));
            return;
        }
        if flow.credit_bytes <= 0 {
            self.complaint.get_or_insert("records are pushed without credit".to_owned());
        }
        flow.next = first.plus(values.len() as u64);
        // The least that they can have taken: their names, with their prefixes.
        let bytes: usize = values.iter().map(|value| 4 + value.to_string().len()).sum();
        flow.credit_bytes -= bytes as i64;
        let process = u32::from(self.id) * 1000 + 999;
        let records_max = values.len() as u32;
        let (from, level, log) = (first, ReadLevel::Local, flow.log);
        let kind = Kind::Read { from, records_max, level, values, tail };
        let index = around.history.invoke(process, around.now, log, kind);
        around.history.operations[index].outcome = Outcome::Ok(around.now);
        // Most followers keep up; some let the server wait, and some leave.
        match self.rng.below(8) {
            0 => {
                link.protocol.unfollow(flow.request);
                self.follow_at = around.now + RETRY_PAUSE;
            }
            1 => {}
            _ => {
                link.protocol.credit(flow.request, CREDIT_BYTES);
                flow.credit_bytes += i64::from(CREDIT_BYTES);
            }
        }
    }
}
