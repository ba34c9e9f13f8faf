//! Which node to talk to: finds the leader, keeps one connection to it, finds it again.
//!
//! Order of trying: where the last answer pointed to, then all known addresses in turn, with a
//! randomised, growing pause after each fruitless round.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::rng::Rng;
use crate::base::{ClusterId, GroupId, NodeId};
use crate::wire::RefuseReason;

use super::api::ClientOptions;
use super::error::ClientError;
use super::session::{OpenError, Session};

/// How often one search follows a node's word on who leads.
const LEADER_HOPS_MAX: usize = 3;
/// The first pause after a fruitless round is at most this long; each one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A pause that grows, randomised so that many clients do not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    rng: Rng,
    attempt: u32,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Backoff {
        Backoff { rng: Rng::new(seed), attempt: 0 }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = BACKOFF_MIN.saturating_mul(1 << self.attempt.min(16)).min(BACKOFF_MAX);
        self.attempt += 1;
        self.rng.between(ceiling / 2, ceiling)
    }

    /// All is well: the next pause is a short one.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[derive(Debug)]
struct Search {
    current: Option<Arc<Session>>,
    /// Where the leader is said to be.
    preferred: Option<String>,
    /// What the user gave, then the members that the last node told of; no doubles.
    addresses: Vec<String>,
    members: Vec<(NodeId, String)>,
    cursor: usize,
    rng: Rng,
    last_failure: String,
}

/// The client's way to one group of its cluster.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: ClientOptions,
    /// What the user gave.
    targets: Vec<String>,
    cluster: Option<ClusterId>,
    group: GroupId,
    search: Mutex<Search>,
}

impl Link {
    pub(super) fn new(
        targets: Vec<String>,
        options: ClientOptions,
        group: GroupId,
        seed: u64,
    ) -> Link {
        let mut rng = Rng::new(seed);
        let cursor = rng.below(targets.len().max(1) as u64) as usize;
        let cluster = options.cluster.as_deref().map(ClusterId::of_name);
        let search = Search {
            current: None,
            preferred: None,
            addresses: targets.clone(),
            members: Vec::new(),
            cursor,
            rng,
            last_failure: "no node has been tried yet".to_owned(),
        };
        Link { options, targets, cluster, group, search: Mutex::new(search) }
    }

    /// The connection that stands, or a new one.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, ClientError> {
        // One search at a time; whoever waits here uses what the one before has found. A search
        // given up half way leaves nothing behind but a closed socket.
        let Ok(mut search) = timeout_at(deadline, self.search.lock()).await else {
            return Err(ClientError::Unavailable { why: "still looking for a node".to_owned() });
        };
        if let Some(session) = search.current.as_ref().filter(|session| session.is_alive()) {
            return Ok(session.clone());
        }
        search.current = None;
        match timeout_at(deadline, self.find(&mut search, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Unavailable { why: search.last_failure.clone() }),
        }
    }

    /// Leaves `session`, if it is still the current one, for the member `leader` or, if that is
    /// not known, for another node.
    pub(super) async fn move_from(&self, session: &Arc<Session>, leader: Option<NodeId>) {
        let mut search = self.search.lock().await;
        if search.current.as_ref().is_none_or(|current| !Arc::ptr_eq(current, session)) {
            return;
        }
        search.current = None;
        let leader = leader.filter(|leader| *leader != session.welcome.node && !self.options.stay);
        search.preferred = leader.and_then(|leader| address_of(&search.members, leader));
        // Whatever comes next in turn, it is not the node just left.
        if search.addresses.get(search.cursor) == Some(&session.target) {
            search.cursor = (search.cursor + 1) % search.addresses.len();
        }
    }

    /// A connection to `target` alone, for one call.
    pub(super) async fn open(&self, target: &str, deadline: Instant) -> Result<Session, OpenError> {
        let ClientOptions { inflight_max, stall_timeout, connect_timeout, .. } = self.options;
        let deadline = deadline.min(Instant::now() + connect_timeout);
        let place = (self.cluster, self.group);
        Session::open(target, place, inflight_max, stall_timeout, deadline).await
    }

    async fn find(
        &self,
        search: &mut Search,
        deadline: Instant,
    ) -> Result<Arc<Session>, ClientError> {
        let mut backoff = Backoff::new(search.rng.next_u64());
        loop {
            let mut candidates: Vec<String> = search.preferred.take().into_iter().collect();
            let count = search.addresses.len();
            candidates.extend(
                (0..count).map(|offset| search.addresses[(search.cursor + offset) % count].clone()),
            );
            let mut refused = None;
            let mut tried = 0;
            let mut refusals = 0;
            for target in candidates {
                tried += 1;
                match self.open(&target, deadline).await {
                    Ok(session) => return Ok(self.settle(search, session, deadline).await),
                    Err(error) => {
                        refusals += usize::from(is_final(&error));
                        note_failure(search, &target, &error);
                        if let OpenError::Refused { reason, text } = error {
                            refused = Some(ClientError::Refused { target, reason, text });
                        }
                    }
                }
            }
            search.cursor = (search.cursor + 1) % count;
            match refused {
                Some(error) if refusals == tried => return Err(error),
                _ => sleep(backoff.next()).await,
            }
        }
    }

    /// Follows the word of the node that was reached to the leader; stays if it leads nowhere.
    async fn settle(
        &self,
        search: &mut Search,
        mut session: Session,
        deadline: Instant,
    ) -> Arc<Session> {
        let hops_max = if self.options.stay { 0 } else { LEADER_HOPS_MAX };
        for _ in 0..hops_max {
            self.learn(search, &session);
            let leader = session.welcome.leader.filter(|leader| *leader != session.welcome.node);
            let Some(target) = leader.and_then(|leader| address_of(&search.members, leader)) else {
                break;
            };
            match self.open(&target, deadline).await {
                Ok(next) => session = next,
                Err(error) => {
                    note_failure(search, &target, &error);
                    break;
                }
            }
        }
        self.learn(search, &session);
        let session = Arc::new(session);
        search.current = Some(session.clone());
        session
    }

    /// Takes over the member list of the node that was reached.
    fn learn(&self, search: &mut Search, session: &Session) {
        search.members.clone_from(&session.welcome.members);
        search.addresses.clone_from(&self.targets);
        if self.options.stay {
            return;
        }
        for (_, address) in &session.welcome.members {
            if !search.addresses.contains(address) {
                search.addresses.push(address.clone());
            }
        }
    }
}

/// Whether trying again later is of no use.
fn is_final(error: &OpenError) -> bool {
    match error {
        OpenError::Refused { reason, .. } => *reason != RefuseReason::TooManyConnections,
        OpenError::Failed(_) => false,
    }
}

fn note_failure(search: &mut Search, target: &str, error: &OpenError) {
    search.last_failure = match error {
        OpenError::Refused { text, .. } => format!("{target} refuses the connection: {text}"),
        OpenError::Failed(why) => why.clone(),
    };
}

fn address_of(members: &[(NodeId, String)], node: NodeId) -> Option<String> {
    members.iter().find(|(member, _)| *member == node).map(|(_, address)| address.clone())
}
