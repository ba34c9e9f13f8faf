//! Messages, writes and states as the scripts show them: one short line each.

use crate::base::Slot;
use crate::paxos::testkit::Text;
use crate::paxos::{Message, Outgoing, Recovered, Role, Value, Write};

pub(super) fn value(value: &Text) -> String {
    if *value == Text::noop() { "no-op".to_owned() } else { format!("{:?}", value.text) }
}

pub(super) fn message(message: &Message<Text>) -> String {
    match message {
        Message::PreVote { ballot, chosen } => format!("PreVote {ballot} chosen {chosen}"),
        Message::PreVoteReply { ballot, granted, promised, chosen } => {
            let word = if *granted { "granted" } else { "refused" };
            format!("PreVoteReply {ballot} {word}, promised {promised} chosen {chosen}")
        }
        Message::Prepare { ballot, chosen } => format!("Prepare {ballot} chosen {chosen}"),
        Message::Promise { ballot, chosen, accepted } => {
            let accepted = accepted.iter().map(|told| format!(" {}@{}", told.slot, told.ballot));
            let accepted = or_none(accepted.collect());
            format!("Promise {ballot} chosen {chosen} accepted{accepted}")
        }
        Message::Nack { ballot, promised } => format!("Nack {ballot}, promised {promised}"),
        Message::Accept { ballot, slot, chosen, value: v } => {
            format!("Accept {slot}@{ballot} {} chosen {chosen}", value(v))
        }
        Message::Accepted { ballot, slot } => format!("Accepted {slot}@{ballot}"),
        Message::Heartbeat { ballot, chosen, sequence, lease_ms } => {
            let number = if *sequence == 0 { String::new() } else { format!(" #{sequence}") };
            let asks = if *lease_ms == 0 { String::new() } else { format!(" asks {lease_ms} ms") };
            format!("Heartbeat {ballot} chosen {chosen}{number}{asks}")
        }
        Message::HeartbeatReply { ballot, sequence, chosen, granted } => {
            let granted = if *granted { " granted" } else { "" };
            format!("HeartbeatReply {ballot} #{sequence} chosen {chosen}{granted}")
        }
        Message::ReadIndex { id: _, lease } => {
            format!("ReadIndex{}", if *lease { " by lease" } else { "" })
        }
        Message::ReadIndexReply { id: _, index } => format!("ReadIndexReply {index}"),
        Message::Fetch { first, last } => format!("Fetch {first}..{last}"),
        Message::Learn { slot, ballot, value: v } => format!("Learn {slot}@{ballot} {}", value(v)),
        Message::FetchAccepted { ballot, slot } => format!("FetchAccepted {ballot} slot {slot}"),
        Message::AcceptedValue { ballot, slot, accepted, value: v } => {
            format!("AcceptedValue {ballot} {slot}@{accepted} {}", value(v))
        }
    }
}

pub(super) fn outgoing(from: usize, outgoing: &Outgoing<Text>) -> String {
    format!("{} -> {} {}", from + 1, outgoing.to, message(&outgoing.message))
}

pub(super) fn write(write: &Write<Text>) -> String {
    match write {
        Write::Promise(ballot) => format!("promise {ballot}"),
        Write::Entry { slot, ballot, chosen: _, value: v } => entry(*slot, *ballot, v),
    }
}

pub(super) fn entry(slot: Slot, ballot: crate::base::Ballot, text: &Text) -> String {
    format!("{slot}@{ballot} {}", value(text))
}

pub(super) fn recovered(recovered: &Recovered<Text>) -> String {
    let accepted = recovered.accepted.iter();
    let accepted = accepted.map(|(slot, ballot, text)| format!(" {}", entry(*slot, *ballot, text)));
    let accepted = or_none(accepted.collect());
    format!("promised {} chosen {} accepted{accepted}", recovered.promised, recovered.chosen)
}

pub(super) fn role(role: Role) -> String {
    match role {
        Role::Follower { leader: None } => "follows nobody".to_owned(),
        Role::Follower { leader: Some(leader) } => format!("follows {leader}"),
        Role::Candidate => "is a candidate".to_owned(),
        Role::Leader => "leads".to_owned(),
    }
}

fn or_none(shown: String) -> String {
    if shown.is_empty() { " none".to_owned() } else { shown }
}
