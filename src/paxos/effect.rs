//! What goes into the core and what comes out of it.

use crate::base::{Ballot, NodeId, Slot};

use super::Message;

/// Names one [`Effect::Persist`], rising by one each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// Names one [`Input::Read`], rising by one each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input<V> {
    /// A message has arrived from a member.
    Message {
        /// The member.
        from: NodeId,
        /// The message.
        message: Message<V>,
    },
    /// Propose a value. Only while `Core::can_propose`; it gets the slot `Core::next_slot`.
    Propose(V),
    /// A linearizable read has arrived: say when its answer may be given. On any replica. Ends in
    /// one [`Effect::ReadReady`] or [`Effect::ReadFailed`].
    Read {
        /// Comes back with the effect.
        id: ReadId,
        /// Whether the leader's lease is good enough, or a round must be made.
        lease: bool,
    },
    /// Hand the leadership over to this member; to this replica itself: keep it, and end a
    /// handing over that is under way. Ends in an [`Effect::TransferEnded`]; those for the same
    /// member that are under way at a time end together.
    TransferTo(NodeId),
    /// The replica may campaign from now on ([`super::Config::may_campaign`]).
    PermitCampaign {
        /// At once, if nobody leads, and not after an election timeout.
        soon: bool,
    },
    /// The record of what was cut is gone, durably, after [`Effect::ForgetCut`].
    CutForgotten,
    /// The write of this persist is durable, and its replies have been handed to the network.
    Persisted(PersistId),
    /// A new connection to the member stands: what was sent before may be lost.
    PeerConnected(NodeId),
    /// No connection to the member stands any more: what is sent to it is lost until the next
    /// [`Input::PeerConnected`].
    PeerDisconnected(NodeId),
    /// The connection from the member broke: a hint that it died. Only speed may depend on it. It
    /// says nothing of the connection to the member, which may stand, or be down, all the same.
    PeerLost(NodeId),
    /// Time has passed: `Core::next_deadline` is due.
    Tick,
    /// The caller has handed in all that this turn brought: what waits to be sent together (the
    /// watermark of a pipe that ran dry) is sent now.
    EndOfTurn,
}

/// A message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<V> {
    /// The member it goes to; never the sender itself.
    pub to: NodeId,
    /// The message.
    pub message: Message<V>,
}

/// What must become durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Write<V> {
    /// The promise of a ballot, in the vote file.
    Promise(Ballot),
    /// An accepted or learnt value, in the log.
    Entry {
        /// The slot.
        slot: Slot,
        /// The ballot at which it was accepted (or, learnt, at which its source holds it).
        ballot: Ballot,
        /// The chosen watermark at this time: every slot up to it stands before in the log.
        chosen: Slot,
        /// The value.
        value: V,
    },
}

/// What the caller must do, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<V> {
    /// Make `write` durable; only then send `then`, and hand in [`Input::Persisted`]. Entries
    /// become durable in the order of their effects (a contiguous prefix at any crash).
    Persist {
        /// Comes back with [`Input::Persisted`].
        id: PersistId,
        /// What to make durable.
        write: Write<V>,
        /// The replies that the write permits. No other way leads from here to the network.
        then: Vec<Outgoing<V>>,
    },
    /// Send at once: permitted by what is durable already, or promising nothing.
    Send(Outgoing<V>),
    /// The slot is chosen, and so is every one before it. Comes once per slot, in slot order.
    Chosen {
        /// The slot.
        slot: Slot,
        /// The ballot of the value in this replica's log.
        ballot: Ballot,
        /// The value.
        value: V,
    },
    /// Send `Message::Learn` for these chosen slots, in order, from the cache or the log; as many
    /// of them as fit the caller's bound for one answer, at least one.
    SendChosen {
        /// Who asked.
        to: NodeId,
        /// The first slot.
        first: Slot,
        /// The last slot, not above the chosen watermark.
        last: Slot,
    },
    /// The reads from `first` to `last` may be answered with what has been chosen (and given as
    /// [`Effect::Chosen`]) by now.
    ReadReady {
        /// The first of them.
        first: ReadId,
        /// The last of them.
        last: ReadId,
    },
    /// No leader has answered for the reads from `first` to `last`.
    ReadFailed {
        /// The first of them.
        first: ReadId,
        /// The last of them.
        last: ReadId,
    },
    /// A handing over has ended: one that was asked for, or one to a replica of higher priority.
    /// Comes before the change of role that it brings.
    TransferEnded {
        /// The member that was to lead.
        to: NodeId,
        /// Whether it has begun to. Otherwise this replica goes on as it was, or did not lead at
        /// all, or somebody else takes over.
        taken_over: bool,
    },
    /// Take the record of what was cut from the log away, durably, and hand in
    /// [`Input::CutForgotten`]: it is made good.
    ForgetCut,
    /// The replica's role or its known leader has changed. What it had proposed and not seen
    /// chosen when it stops leading has an unknown outcome.
    RoleChanged(Role),
}

/// A list of effects, reused from step to step.
pub type Effects<V> = Vec<Effect<V>>;

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts what a leader proposes, if it knows one.
    Follower {
        /// The leader it last heard from, within the election timeout.
        leader: Option<NodeId>,
    },
    /// Asks for pre-votes, promises or values.
    Candidate,
    /// Proposes.
    Leader,
}

/// Why a start has cut the end of the replica's log; see `tears`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cut {
    /// A write that was cut short: nothing that was acknowledged.
    Torn,
    /// Damage: the replica has lost what it may have told to have accepted.
    Damaged,
}

/// What a replica knows when it starts: what its log and vote file hold.
#[derive(Clone, Debug)]
pub struct Recovered<V> {
    /// The highest ballot in the vote file or on any entry.
    pub promised: Ballot,
    /// Every slot up to here is chosen and in the log.
    pub chosen: Slot,
    /// The accepted values above `chosen`: per slot the one of the highest ballot, by slot.
    pub accepted: Vec<(Slot, Ballot, V)>,
    /// What was cut, in this start or before, and is not made good yet.
    pub cut: Option<Cut>,
}

impl<V> Default for Recovered<V> {
    fn default() -> Self {
        Recovered { promised: Ballot::NONE, chosen: Slot::NONE, accepted: Vec::new(), cut: None }
    }
}
