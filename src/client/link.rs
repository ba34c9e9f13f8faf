//! Which node to talk to: finds the leader, keeps one connection to it, finds it again.
//!
//! Order of trying: where the last answer pointed to, then all known addresses in turn, with a
//! randomised, growing pause after each fruitless round. An address that has not answered after
//! `attempt_delay` is not waited for alone: the next one is tried beside it, and the first to
//! answer is taken (as in RFC 8305, section 5). So a stopped node costs that delay, not the whole
//! `connect_timeout`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::base::rng::Rng;
use crate::base::{ClusterDigest, GroupId, NodeId};
use crate::wire::RefuseReason;

use super::api::ClientOptions;
use super::error::ClientError;
use super::session::{OpenError, Session};

/// How often one search follows a node's word on who leads.
const LEADER_HOPS_MAX: usize = 3;
/// How long the leader that a node names is waited for before the client stays with that node for
/// now: the leader may be the one that has just failed.
const LEADER_HOP_TIMEOUT: Duration = Duration::from_millis(500);
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
    cluster: Option<ClusterDigest>,
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
        let cluster = options.cluster.as_deref().map(ClusterDigest::of_name);
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
        if let Some(ended) = search.current.take()
            && let Some(leader) = ended.deposed_by()
        {
            search.preferred = address_of(&search.members, leader);
        }
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
        let leader = leader.or_else(|| session.deposed_by());
        let leader = leader.filter(|leader| *leader != session.welcome.node && !self.options.stay);
        search.preferred = leader.and_then(|leader| address_of(&search.members, leader));
        // Whatever comes next in turn, it is not the node just left.
        if search.addresses.get(search.cursor) == Some(&session.target) {
            search.cursor = (search.cursor + 1) % search.addresses.len();
        }
    }

    /// A connection to `target` alone, for one call.
    pub(super) async fn open(&self, target: &str, deadline: Instant) -> Result<Session, OpenError> {
        self.opening(target.to_owned(), deadline).await
    }

    /// The same, for a task of its own.
    fn opening(
        &self,
        target: String,
        deadline: Instant,
    ) -> impl Future<Output = Result<Session, OpenError>> + Send + use<> {
        let deadline = deadline.min(Instant::now() + self.options.connect_timeout);
        let (options, place) = (self.options.clone(), (self.cluster, self.group));
        async move { Session::open(&target, place, &options, deadline).await }
    }

    /// Refuses a blank node, which has nothing for this client.
    fn founded(&self, session: Session) -> Result<Session, OpenError> {
        if session.welcome.standing.cluster.is_some() || self.options.allow_blank {
            return Ok(session);
        }
        let node = session.welcome.node;
        let text =
            format!("node {node} is blank: the cluster is not yet founded, run `loggos init`");
        Err(OpenError::Refused { reason: RefuseReason::NotFounded, text })
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
            let tried = candidates.len();
            let found = self.first_to_answer(search, candidates, deadline).await;
            let (refused, refusals) = match found {
                Ok(session) => return Ok(self.settle(search, session, deadline).await),
                Err(refusals) => refusals,
            };
            search.cursor = (search.cursor + 1) % count;
            match refused {
                Some(error) if refusals == tried => return Err(error),
                _ => sleep(backoff.next()).await,
            }
        }
    }

    /// Connects to the first of `candidates` that answers. They are tried in their order, each
    /// beside those before it that have not answered in time; the other attempts are dropped.
    ///
    /// # Errors
    /// When none answers: the last refusal for good, and how many refused for good.
    async fn first_to_answer(
        &self,
        search: &mut Search,
        candidates: Vec<String>,
        deadline: Instant,
    ) -> Result<Session, (Option<ClientError>, usize)> {
        let mut candidates = candidates.into_iter().peekable();
        let mut attempts: JoinSet<(String, Result<Session, OpenError>)> = JoinSet::new();
        let mut next_at = Instant::now();
        let (mut refused, mut refusals) = (None, 0);
        while candidates.peek().is_some() || !attempts.is_empty() {
            tokio::select! {
                biased;
                Some(attempt) = attempts.join_next() => {
                    let (target, result) = match attempt {
                        Ok(ended) => ended,
                        // Only a runtime that shuts down ends an attempt early.
                        Err(_) => continue,
                    };
                    let error = match result.and_then(|session| self.founded(session)) {
                        Ok(session) => return Ok(session),
                        Err(error) => error,
                    };
                    refusals += usize::from(is_final(&error));
                    note_failure(search, &target, &error);
                    if let OpenError::Refused { reason, text } = error {
                        refused = Some(ClientError::Refused { target, reason, text });
                    }
                    next_at = Instant::now();
                }
                () = sleep_until(next_at), if candidates.peek().is_some() => {
                    let target = candidates.next().expect("looked at above");
                    let opening = self.opening(target.clone(), deadline);
                    attempts.spawn(async move { (target, opening.await) });
                    next_at = Instant::now() + self.options.attempt_delay;
                }
            }
        }
        Err((refused, refusals))
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
            let hop_deadline = deadline.min(Instant::now() + LEADER_HOP_TIMEOUT);
            match self.open(&target, hop_deadline).await.and_then(|next| self.founded(next)) {
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
