//! The messages between replicas. `wire/` turns them into bytes and back; the core alone gives
//! them meaning.

use std::fmt;

use crate::base::{Ballot, Checksum, Slot};

/// What a promise tells of one slot: the highest ballot at which the sender accepted, and the
/// checksum of the value (to be asserted when the value is fetched; (slot, ballot) identifies it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AcceptedSlot {
    /// The slot, above the sender's chosen watermark.
    pub slot: Slot,
    /// The highest ballot at which the sender has accepted a value for it.
    pub ballot: Ballot,
    /// That value's checksum.
    pub checksum: Checksum,
}

/// What a leader has given up in order to hand over: every lease that its heartbeats of `ballot`,
/// up to `sequence`, asked for; and with that any lease of an older ballot (see `lease`). The
/// greater one releases more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The last heartbeat whose lease it will not use.
    pub sequence: u64,
}

impl Release {
    /// Releases nothing.
    pub const NONE: Release = Release { ballot: Ballot::NONE, sequence: 0 };
}

/// How well a member could lead at the moment; see `give_way`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fitness {
    /// Its log has no room for a value.
    pub disk_full: bool,
    /// It is about to stop.
    pub retiring: bool,
    /// How long a write of its log takes, in microseconds.
    pub write_us: u32,
}

/// A message from one replica to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message<V> {
    /// "Would you promise `ballot`?" Changes nothing at the receiver.
    PreVote {
        /// The ballot the sender would use.
        ballot: Ballot,
        /// The sender's chosen watermark.
        chosen: Slot,
    },
    /// The answer to a pre-vote.
    PreVoteReply {
        /// The ballot that was asked about.
        ballot: Ballot,
        /// Whether the sender would promise it now.
        granted: bool,
        /// The sender's promise, so that a late candidate learns the round.
        promised: Ballot,
        /// The sender's chosen watermark.
        chosen: Slot,
    },
    /// Phase 1a for all slots above `chosen`.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The candidate's chosen watermark.
        chosen: Slot,
        /// What the leader that handed over to the candidate has given up; or nothing.
        release: Release,
    },
    /// Phase 1b. Sent only once the promise is durable.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The sender's chosen watermark: everything up to it can be fetched from the sender.
        chosen: Slot,
        /// What the sender has accepted above its chosen watermark, by slot.
        accepted: Vec<AcceptedSlot>,
        /// Whether the sender has cut a tear from its log that is not made good yet; see `tears`.
        cut: bool,
    },
    /// The sender has cut the end of its log, and that is not made good yet; see `tears`.
    Cut {
        /// The sender's promise.
        ballot: Ballot,
        /// The heartbeat whose answer follows; 0 at other times.
        sequence: u64,
        /// Drawn by the sender's life.
        id: u64,
        /// Whether it votes: what it has cut was a tear.
        votes: bool,
    },
    /// The answer of a leader that has finished phase 1.
    CutBound {
        /// The leader's ballot.
        ballot: Ballot,
        /// As in `Cut`.
        id: u64,
        /// The last slot that it had proposed when it was told first.
        through: Slot,
    },
    /// "I have promised a higher ballot": the answer to a stale prepare, accept or heartbeat.
    Nack {
        /// The ballot refused.
        ballot: Ballot,
        /// The ballot promised.
        promised: Ballot,
    },
    /// Phase 2a for one slot.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// The chosen watermark as far as the receiver can know it from this leader's stream.
        chosen: Slot,
        /// The value.
        value: V,
    },
    /// Phase 2b. Sent only once the acceptance is durable.
    Accepted {
        /// The ballot accepted at.
        ballot: Ballot,
        /// The slot accepted.
        slot: Slot,
    },
    /// The sender has no room for the value of an `Accept` and has dropped it; it is to be sent again.
    AcceptRejected {
        /// The ballot of the `Accept`.
        ballot: Ballot,
        /// Its slot.
        slot: Slot,
    },
    /// The leader (or a candidate still recovering) is alive; carries the watermark alone when
    /// the pipe runs dry.
    Heartbeat {
        /// The sender's ballot.
        ballot: Ballot,
        /// As in `Accept`.
        chosen: Slot,
        /// Rises with every heartbeat of the sender; 0 asks for no reply.
        sequence: u64,
        /// How long the receiver is asked to help no other candidate, from when it receives this,
        /// in milliseconds; 0 asks for nothing. See `lease`.
        lease_ms: u32,
    },
    /// The answer to a heartbeat with a sequence.
    HeartbeatReply {
        /// The heartbeat's ballot.
        ballot: Ballot,
        /// The heartbeat's sequence.
        sequence: u64,
        /// The sender's chosen watermark.
        chosen: Slot,
        /// Whether the lease that the heartbeat asked for is granted.
        granted: bool,
        /// How much the sender is wanted as the leader; see `transfer`.
        priority: u8,
        /// How well the sender could lead.
        fitness: Fitness,
    },
    /// The leader hands over: the receiver, which holds everything that was proposed, is to
    /// campaign at once. See `transfer`.
    TakeOver {
        /// What the leader has given up, of its own ballot.
        release: Release,
        /// The leader's chosen watermark.
        chosen: Slot,
    },
    /// A follower has reads that wait: "up to which slot must be applied for a read that begins
    /// now?"
    ReadIndex {
        /// Chosen by the sender, given back with the answer; never used twice.
        id: u64,
        /// Whether the leader may answer by its lease instead of a round.
        lease: bool,
    },
    /// The answer, once the leader has made sure that it led after the question came.
    ReadIndexReply {
        /// The question's.
        id: u64,
        /// Every append acknowledged before the question came is in a slot up to here.
        index: Slot,
    },
    /// "Send me these chosen slots." Answered with `Learn`s for as many as the receiver likes to
    /// send at once, in slot order.
    Fetch {
        /// The first slot wanted.
        first: Slot,
        /// The last slot wanted.
        last: Slot,
    },
    /// A chosen slot.
    Learn {
        /// The slot.
        slot: Slot,
        /// The ballot at which the sender holds the value.
        ballot: Ballot,
        /// The chosen value.
        value: V,
    },
    /// A candidate lacks the value that a promise told of.
    FetchAccepted {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
    },
    /// The hash of what the sender had applied after a slot. No word of the protocol: it tells replicas
    /// that have come to differ. Sent when a mark is taken, and when a connection stands.
    StateHash {
        /// The slot.
        slot: Slot,
        /// The hash.
        hash: u64,
    },
    /// The answer: what the sender has accepted for the slot.
    AcceptedValue {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The slot.
        slot: Slot,
        /// The ballot at which the value was accepted.
        accepted: Ballot,
        /// The value.
        value: V,
    },
}

/// One short line; a value accepted for a slot at a ballot is written `slot@ballot value`.
impl<V: fmt::Display> fmt::Display for Message<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::PreVote { ballot, chosen } => write!(f, "PreVote {ballot} chosen {chosen}"),
            Message::PreVoteReply { ballot, granted, promised, chosen } => {
                let word = if *granted { "granted" } else { "refused" };
                write!(f, "PreVoteReply {ballot} {word}, promised {promised} chosen {chosen}")
            }
            Message::Prepare { ballot, chosen, release } => {
                write!(f, "Prepare {ballot} chosen {chosen}")?;
                if *release == Release::NONE {
                    return Ok(());
                }
                write!(f, ", released {} #{}", release.ballot, release.sequence)
            }
            Message::Promise { ballot, chosen, accepted, cut } => {
                write!(f, "Promise {ballot} chosen {chosen} accepted")?;
                if accepted.is_empty() {
                    write!(f, " none")?;
                }
                for told in accepted {
                    write!(f, " {}@{}", told.slot, told.ballot)?;
                }
                write!(f, "{}", if *cut { ", has cut" } else { "" })
            }
            Message::Cut { ballot, sequence: _, id: _, votes } => {
                let word = if *votes { "a tear" } else { "damage, and has no vote" };
                write!(f, "Cut {word}, promised {ballot}")
            }
            Message::CutBound { ballot, id: _, through } => {
                write!(f, "CutBound {ballot} through {through}")
            }
            Message::Nack { ballot, promised } => write!(f, "Nack {ballot}, promised {promised}"),
            Message::Accept { ballot, slot, chosen, value } => {
                write!(f, "Accept {slot}@{ballot} {value} chosen {chosen}")
            }
            Message::Accepted { ballot, slot } => write!(f, "Accepted {slot}@{ballot}"),
            Message::AcceptRejected { ballot, slot } => write!(f, "AcceptRejected {slot}@{ballot}"),
            Message::Heartbeat { ballot, chosen, sequence, lease_ms } => {
                write!(f, "Heartbeat {ballot} chosen {chosen}")?;
                if *sequence != 0 {
                    write!(f, " #{sequence}")?;
                }
                if *lease_ms != 0 {
                    write!(f, " asks {lease_ms} ms")?;
                }
                Ok(())
            }
            Message::HeartbeatReply { ballot, sequence, chosen, granted, priority, fitness } => {
                let granted = if *granted { " granted" } else { "" };
                write!(f, "HeartbeatReply {ballot} #{sequence} chosen {chosen}{granted}")?;
                if *priority != 0 {
                    write!(f, " priority {priority}")?;
                }
                let Fitness { disk_full, retiring, write_us } = fitness;
                f.write_str(if *disk_full { " disk full" } else { "" })?;
                f.write_str(if *retiring { " retiring" } else { "" })?;
                if *write_us >= 1000 {
                    write!(f, " writes take {} ms", write_us / 1000)?;
                }
                Ok(())
            }
            Message::TakeOver { release, chosen } => {
                let Release { ballot, sequence } = release;
                write!(f, "TakeOver released {ballot} #{sequence} chosen {chosen}")
            }
            Message::ReadIndex { id: _, lease: true } => write!(f, "ReadIndex by lease"),
            Message::ReadIndex { id: _, lease: false } => write!(f, "ReadIndex"),
            Message::ReadIndexReply { id: _, index } => write!(f, "ReadIndexReply {index}"),
            Message::Fetch { first, last } => write!(f, "Fetch {first}..{last}"),
            Message::Learn { slot, ballot, value } => write!(f, "Learn {slot}@{ballot} {value}"),
            Message::FetchAccepted { ballot, slot } => {
                write!(f, "FetchAccepted {ballot} slot {slot}")
            }
            Message::StateHash { slot, hash } => write!(f, "StateHash {slot} {hash:016x}"),
            Message::AcceptedValue { ballot, slot, accepted, value } => {
                write!(f, "AcceptedValue {ballot} {slot}@{accepted} {value}")
            }
        }
    }
}
