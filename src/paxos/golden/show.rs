//! Writes and states as the scripts show them: one short line each.

use crate::base::{Ballot, Slot};
use crate::paxos::testkit::Text;
use crate::paxos::{Outgoing, Recovered, Role, Write};

pub(super) fn outgoing(from: usize, outgoing: &Outgoing<Text>) -> String {
    format!("{} -> {} {}", from + 1, outgoing.to, outgoing.message)
}

pub(super) fn write(write: &Write<Text>) -> String {
    match write {
        Write::Promise(ballot) => format!("promise {ballot}"),
        Write::Entry { slot, ballot, chosen: _, value } => entry(*slot, *ballot, value),
    }
}

pub(super) fn entry(slot: Slot, ballot: Ballot, text: &Text) -> String {
    format!("{slot}@{ballot} {text}")
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
