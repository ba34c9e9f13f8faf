//! The founding of the cluster: what `loggos init` starts, what every blank node waits for, and how a
//! node comes to know as what its cluster was founded.
//!
//! Part of the [`Node`]; the server hands it requests, and each turn ends with
//! [`Node::settle_founding`]. The founding is the value of slot 1 of group 0, chosen by ordinary Paxos;
//! the other groups copy it ([`Node::take_founding`]).
//!
//! Guarantee: a blank node never starts a founding by itself. It campaigns only once it was asked to
//! (then every member has answered, blank, with the same list) or once it has accepted a founding, which
//! it then only finishes. Otherwise a majority of wiped nodes would found the cluster again and give out
//! position 0 a second time, while the one that holds the records is away.
//!
//! A promise or an acceptance counts only if it comes from the directory that the founding lists: see
//! [`Node::may_take`].

use std::time::Duration;

use tracing::{error, info, warn};

use super::identity::Identity;
use super::peers::Probe;
use super::{Answer, Node, NodeFailure, Ticket};
use crate::base::{Batch, BlockPool, ClusterId, Founding, GroupId, Instant, LogId, NodeId, Slot};
use crate::io::Io;
use crate::log::{DataDir, IdentityError};
use crate::machine::{BatchBuilder, BatchView, Command, CommandKind};
use crate::paxos::{Input, Message, Role};
use crate::wire::Standing;

/// The slot whose value founds the cluster.
const SLOT: Slot = Slot(1);
/// Requests to found the cluster that wait at a time, at most.
const WAITING_MAX: usize = 64;

/// Why a cluster is not founded by the time that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitFailure {
    /// Whether the founding may yet be finished: it has been proposed.
    pub is_under_way: bool,
    /// Why, for people.
    pub text: String,
}

/// What a node does for the founding of its cluster.
#[derive(Debug)]
pub(super) struct Founder {
    /// The id of a cluster that is founded from here.
    fresh: ClusterId,
    /// It asks every member who it is.
    gathers: bool,
    /// Dial everybody anew: what they said of themselves may be old.
    redial: bool,
    /// Close connections that the identity permits no more.
    enforce: bool,
    waiting: Vec<(Ticket, Instant)>,
    /// Chosen, and not yet written down.
    chosen: Option<Founding>,
}

impl Founder {
    pub(super) fn new(fresh: ClusterId, chosen: Option<Founding>) -> Founder {
        let waiting = Vec::new();
        Founder { fresh, gathers: false, redial: false, enforce: false, waiting, chosen }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, deadline)| *deadline).min()
    }
}

/// The founding in a value, if it is one.
pub(super) fn founding_of(value: &[u8]) -> Option<Founding> {
    let batch = BatchView::parse(value).ok()?;
    let found = batch.commands().find(|command| command.kind == CommandKind::Found)?;
    Founding::decode(found.run)
}

fn value_of(founding: &Founding, pool: &BlockPool) -> Batch {
    let mut builder = BatchBuilder::new(pool.clone());
    let run = founding.encode();
    let command = Command::append(LogId(0), 0, &run);
    builder.push(&Command { kind: CommandKind::Found, ..command });
    builder.seal(0)
}

/// What the log of a start holds decides whether the directory is blank.
///
/// # Errors
/// When the log is one of a founded cluster and the founding is not known any more, or is another.
pub(super) fn check_recovered(
    identity: &Identity,
    chosen: Slot,
    replayed: Option<&Founding>,
) -> Result<(), IdentityError> {
    let why = match (&identity.founding, replayed) {
        (Some(known), Some(replayed)) if known != replayed => "it is not the one in the log",
        (None, None) if chosen >= SLOT => "it is missing, and the log is not blank",
        _ => return Ok(()),
    };
    Err(IdentityError::FoundingDamaged(why.to_owned()))
}

impl Node {
    /// As what the cluster was founded, once that is known and durable.
    pub fn founding(&self) -> Option<&Founding> {
        self.options.identity.founding.as_ref()
    }

    /// A founding that it has accepted, or proposes, and does not know chosen.
    pub fn pending_founding(&self) -> Option<&Founding> {
        self.options.identity.pending.as_ref()
    }

    /// What it says to whoever asks for more than a blank node has.
    pub fn not_founded(&self) -> String {
        self.options.identity.not_founded()
    }

    /// Whether it is blank: it serves nothing but its status and [`Node::init`].
    pub fn is_blank(&self) -> bool {
        self.options.identity.founding.is_none()
    }

    /// Founds the cluster, or finishes its founding: [`Answer::Founded`] with the ticket follows, after
    /// `wait` at the latest.
    pub fn init(&mut self, now: Instant, ticket: Ticket, wait: Duration) {
        if let Some(founding) = self.founding() {
            let result = Ok(founding.cluster);
            return self.answers.push(Answer::Founded { ticket, result });
        }
        if self.founder.waiting.len() >= WAITING_MAX {
            let text = "too many ask for it at a time".to_owned();
            let result = Err(InitFailure { is_under_way: false, text });
            return self.answers.push(Answer::Founded { ticket, result });
        }
        self.founder.waiting.push((ticket, now + wait));
        if self.options.identity.pending.is_none() && !self.founder.gathers {
            info!("asked to found the cluster: asking every member");
            self.founder.gathers = true;
            self.founder.redial = true;
        }
    }

    /// Whether what a peer says may be taken in. Here is decided whose promises and acceptances count:
    /// those of the directories that the founding lists, and of no others.
    ///
    /// # Panics
    /// When the cluster is founded and a connection from another directory stands: the handshake, or
    /// the closing of connections at the founding, has let it pass.
    pub(super) fn may_take(
        &self,
        from: NodeId,
        standing: &Standing,
        message: &Message<Batch>,
    ) -> bool {
        let identity = &self.options.identity;
        if let Some(founding) = &identity.founding {
            let listed = identity.is_listed(founding, from, standing.incarnation);
            assert!(listed, "node {from} speaks from {}, not as founded", standing.incarnation);
            return true;
        }
        if let Some(pending) = &identity.pending
            && standing.cluster.is_none()
            && !identity.is_listed(pending, from, standing.incarnation)
        {
            return false;
        }
        let value = match message {
            Message::Accept { slot: SLOT, value, .. }
            | Message::Learn { slot: SLOT, value, .. } => Some(value),
            Message::AcceptedValue { slot: SLOT, value, .. } => Some(value),
            _ => None,
        };
        let is_fit = value.is_none_or(|value| {
            founding_of(value.value())
                .is_some_and(|f| identity.is_listed(&f, identity.node, identity.incarnation))
        });
        if !is_fit {
            error!(%from, "a founding that does not list this directory is not taken");
        }
        is_fit
    }

    /// A value goes to the log. A blank node that holds a founding finishes it, whoever began it.
    pub(super) fn note_held(&mut self, slot: Slot, value: &Batch) {
        if self.options.group != GroupId(0) || !self.is_blank() {
            return;
        }
        if slot != SLOT {
            self.founder.enforce |= !std::mem::replace(&mut self.options.identity.is_used, true);
        } else if let Some(founding) = founding_of(value.value()) {
            self.options.identity.pending = Some(founding);
            self.founder.enforce = true;
            self.inputs.push_back(Input::PermitCampaign { soon: false });
        }
    }

    /// A slot is chosen and applied.
    pub(super) fn note_chosen(&mut self, slot: Slot, value: &Batch) {
        if slot == SLOT && self.options.group == GroupId(0) && self.is_blank() {
            self.founder.chosen = founding_of(value.value());
            if self.founder.chosen.is_none() {
                error!("the first value of the log is no founding");
            }
        }
    }

    /// What the turn has brought for the founding. To be called before the turn's sends.
    ///
    /// # Errors
    /// When a chosen founding cannot be written down, or is not this directory's: the process must end.
    pub fn settle_founding<I: Io>(&mut self, io: &mut I) -> Result<(), NodeFailure> {
        if let Some(founding) = self.founder.chosen.take() {
            let identity = &self.options.identity;
            if !identity.is_listed(&founding, identity.node, identity.incarnation) {
                let why = "the cluster was founded without this directory".to_owned();
                return Err(NodeFailure::Founding(IdentityError::FoundingDamaged(why)));
            }
            // First on the disk: what is said as a member must be true after a crash as well.
            DataDir::adopt(io, &founding).map_err(NodeFailure::Founding)?;
            self.take_founding(io, founding);
        }
        if !self.is_blank() {
            return Ok(());
        }
        let now = io.now();
        if std::mem::take(&mut self.founder.redial) {
            let mut events = std::mem::take(&mut self.peer_events);
            self.peers.redial_all(io, &mut events);
            self.on_peer_events(now, &mut events);
            self.peer_events = events;
        }
        if self.founder.gathers {
            self.gather(now);
        }
        if std::mem::take(&mut self.founder.enforce) {
            self.enforce_identity(io);
        }
        self.propose_founding(now);
        self.end_waits(now);
        Ok(())
    }

    /// The cluster is founded; that is durable. Another group of this node has learnt it, or this one.
    pub fn take_founding<I: Io>(&mut self, io: &mut I, founding: Founding) {
        let cluster = founding.cluster;
        if self.options.group == GroupId(0) {
            info!(%cluster, "the cluster is founded");
        }
        self.options.identity.founding = Some(founding);
        self.options.identity.pending = None;
        self.founder.gathers = false;
        self.enforce_identity(io);
        self.step(io.now(), Input::PermitCampaign { soon: false });
        let waiting = self.founder.waiting.drain(..);
        let answer = |(ticket, _)| Answer::Founded { ticket, result: Ok(cluster) };
        self.answers.extend(waiting.map(answer));
    }

    /// Closes what the identity, as it is now, permits no more.
    fn enforce_identity<I: Io>(&mut self, io: &mut I) {
        let mut events = std::mem::take(&mut self.peer_events);
        self.peers.enforce(io, self.options.identity.clone(), &mut events);
        self.on_peer_events(io.now(), &mut events);
        self.peer_events = events;
    }

    /// Asks every member who it is; once all have answered as they must, there is a founding.
    fn gather(&mut self, now: Instant) {
        let identity = &self.options.identity;
        if identity.is_used {
            let text = "this node holds entries of a cluster that was founded without its knowledge: \
                        start that cluster's members, it learns from them";
            return self.fail_waiting(text.to_owned());
        }
        let mut members = vec![(identity.node, identity.incarnation)];
        let mut pending: Option<Founding> = None;
        let mut is_complete = true;
        for (id, address) in identity.members.iter().filter(|(id, _)| *id != identity.node) {
            let member = format!("member {id} at {address}");
            match self.peers.probe(*id) {
                // What others refuse is told at once, whoever is missing.
                Probe::Waiting(_) => is_complete = false,
                Probe::Refused(why) => return self.fail_waiting(format!("{member}: {why}")),
                // It knows this node as a member: what is founded already is learnt from it.
                Probe::Open(standing, _) if standing.cluster.is_some() => return,
                Probe::Open(standing, _) if standing.is_used => {
                    let text = format!(
                        "{member} holds entries of a cluster that was founded without its knowledge"
                    );
                    return self.fail_waiting(text);
                }
                Probe::Open(standing, held) => {
                    members.push((*id, standing.incarnation));
                    pending = pending.or_else(|| held.cloned());
                }
            }
        }
        if !is_complete {
            return;
        }
        members.sort_unstable();
        let fresh = Founding { cluster: self.founder.fresh, members };
        if let Some(held) = &pending
            && held.members != fresh.members
        {
            let text =
                "a founding was begun, and members were formatted again since: format all of \
                        them again"
                    .to_owned();
            return self.fail_waiting(text);
        }
        let founding = pending.unwrap_or(fresh);
        info!(cluster = %founding.cluster, "every member has answered, blank: founding the cluster");
        self.founder.gathers = false;
        self.founder.enforce = true;
        self.options.identity.pending = Some(founding);
        self.step(now, Input::PermitCampaign { soon: true });
    }

    fn propose_founding(&mut self, now: Instant) {
        let Some(founding) = &self.options.identity.pending else { return };
        // Otherwise phase 1 has found one, and proposes that.
        if self.role == Role::Leader && self.core.can_propose() && self.core.next_slot() == SLOT {
            let value = value_of(founding, &self.options.pool);
            self.step(now, Input::Propose(value));
        }
    }

    fn end_waits(&mut self, now: Instant) {
        if self.founder.next_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let is_under_way = self.options.identity.pending.is_some();
        let text = match is_under_way {
            true => {
                "the founding has begun, and no quorum has finished it yet: repeat `loggos init`"
                    .to_owned()
            }
            false => self.who_is_missing(),
        };
        let (over, left): (Vec<_>, Vec<_>) =
            self.founder.waiting.drain(..).partition(|(_, deadline)| *deadline <= now);
        self.founder.waiting = left;
        for (ticket, _) in over {
            let result = Err(InitFailure { is_under_way, text: text.clone() });
            self.answers.push(Answer::Founded { ticket, result });
        }
        self.founder.gathers &= !self.founder.waiting.is_empty();
    }

    /// Every member must answer: says which do not.
    fn who_is_missing(&self) -> String {
        let identity = &self.options.identity;
        let others = identity.members.iter().filter(|(id, _)| *id != identity.node);
        let missing = others.filter_map(|(id, address)| match self.peers.probe(*id) {
            Probe::Waiting(why) => Some(format!("member {id} at {address} does not answer ({why})")),
            Probe::Refused(why) => Some(format!("member {id} at {address}: {why}")),
            Probe::Open(standing, _) => standing.cluster.map(|cluster| {
                format!("member {id} at {address} belongs to cluster {cluster} already, which this node has not learnt yet")
            }),
        });
        let missing: Vec<String> = missing.collect();
        match missing.is_empty() {
            true => "not every member has answered in time".to_owned(),
            false => missing.join("; "),
        }
    }

    /// The founding cannot begin: nothing has been proposed.
    fn fail_waiting(&mut self, text: String) {
        warn!("the cluster is not founded: {text}");
        self.founder.gathers = false;
        for (ticket, _) in self.founder.waiting.drain(..) {
            let result = Err(InitFailure { is_under_way: false, text: text.clone() });
            self.answers.push(Answer::Founded { ticket, result });
        }
    }
}
