//! Following a log: one node pushes its records as they are applied, while the follower gives it
//! credit; when the node or the connection goes, the next one goes on from the same position.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::base::Position;
use crate::base::limits::MIB;
use crate::wire::{ErrorCode, ReadLevel};

use super::api::Client;
use super::error::ClientError;
use super::link::Backoff;
use super::records::{Record, RecordBatch, Walker};
use super::session::{Answer, Flow, Operation, Reply, Session};

/// Bytes of records that the node may send ahead of what the follower has taken.
const CREDIT_BYTES: u32 = MIB as u32;
/// After this long without a record the node is asked whether it is still in touch with a quorum.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Hands out every record from a position on, once and in order.
///
/// What comes is checked against the position it should have, and a new node is asked for the
/// position behind the last record taken: neither a reconnect nor a move to a node that is behind
/// makes a gap or a double.
///
/// ```no_run
/// # use loggos::{base::Position, client::Client};
/// # async fn example(client: Client) -> Result<(), loggos::client::ClientError> {
/// let mut follower = client.follow(Position(42));
/// while let Ok(record) = follower.next().await {
///     println!("{}: {:?}", record.position, record.bytes);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Follower {
    client: Client,
    /// The first position not yet taken from a push.
    fetch_from: Position,
    fetched: Option<Walker>,
    stream: Option<Stream>,
    backoff: Backoff,
}

/// A node that pushes.
#[derive(Debug)]
struct Stream {
    session: Arc<Session>,
    flow: Flow,
    pushes: mpsc::UnboundedReceiver<Answer>,
    /// Taken, and not yet given back as credit.
    owed_bytes: u32,
}

impl Stream {
    /// Gives credit for what has been taken, when it is worth a frame. Nothing is lost when it is
    /// dropped half way.
    async fn give_credit(&mut self) {
        if self.owed_bytes >= CREDIT_BYTES / 4 {
            let (flow, bytes) = (self.flow.clone(), self.owed_bytes);
            // A connection that has ended is noticed where the next push is waited for.
            let _ = self.session.submit(Operation::Credit { flow, bytes }, Reply::Nobody).await;
            self.owed_bytes = 0;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.try_submit(Operation::Unfollow { flow: self.flow.clone() });
    }
}

impl Follower {
    pub(super) fn new(client: Client, from: Position, seed: u64) -> Follower {
        let backoff = Backoff::new(seed);
        Follower { client, fetch_from: from, fetched: None, stream: None, backoff }
    }

    /// The next record; waits for it as long as it takes. May be dropped half way and called
    /// again: nothing is lost.
    ///
    /// # Errors
    /// [`ClientError`] when no node has answered for the client's `operation_timeout`, or the log
    /// is not there. Calling it again goes on from the same position.
    pub async fn next(&mut self) -> Result<Record, ClientError> {
        loop {
            if let Some(record) = self.fetched.as_mut().and_then(Walker::next) {
                return Ok(record);
            }
            let batch = self.fetch().await?;
            self.fetched = Some(Walker::new(batch));
        }
    }

    /// The next records, at least one; those already fetched for [`Follower::next`] come from
    /// there. Otherwise as [`Follower::next`].
    ///
    /// # Errors
    /// As [`Follower::next`].
    pub async fn next_batch(&mut self) -> Result<Vec<Record>, ClientError> {
        let mut records = vec![self.next().await?];
        records.extend(std::iter::from_fn(|| self.fetched.as_mut().and_then(Walker::next)));
        Ok(records)
    }

    /// The next push. State changes only once it has come.
    async fn fetch(&mut self) -> Result<RecordBatch, ClientError> {
        // As long as some node is in touch with the cluster, silence is no failure.
        let mut deadline = self.client.deadline();
        loop {
            let Some(stream) = &mut self.stream else {
                self.stream = Some(self.open(deadline).await?);
                continue;
            };
            stream.give_credit().await;
            match timeout(SILENCE_MAX, stream.pushes.recv()).await {
                Ok(Some(Answer::Records(batch))) if batch.first() == self.fetch_from => {
                    stream.owed_bytes += batch.run_bytes() as u32;
                    self.fetch_from = batch.next();
                    self.backoff.reset();
                    return Ok(batch);
                }
                Ok(Some(Answer::Failed { code: code @ ErrorCode::NoSuchLog, text, .. })) => {
                    self.stream = None;
                    return Err(ClientError::Server { code, text });
                }
                Ok(Some(other)) => {
                    let why = format!("{} sends {other:?}", stream.session.target);
                    self.leave(why, deadline).await?;
                }
                Ok(None) => {
                    let why = stream.session.lost(true).why;
                    self.leave(why, deadline).await?;
                }
                Err(_) => match self.ask_whether_current(deadline).await {
                    Ok(()) => deadline = self.client.deadline(),
                    Err(why) => self.leave(why, deadline).await?,
                },
            }
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Stream, ClientError> {
        let session = self.client.link().session(deadline).await?;
        let (to, pushes) = mpsc::unbounded_channel();
        let flow = Flow::default();
        let log = self.client.log;
        let follow = Operation::Follow { log, from: self.fetch_from, credit_bytes: CREDIT_BYTES };
        let reply = Reply::Follow { flow: flow.clone(), to };
        // One that has just died is noticed where the first push is waited for.
        let submitted = timeout_at(deadline, session.submit(follow, reply)).await;
        if submitted.is_err() {
            let why = format!("{} takes nothing more", session.target);
            return Err(ClientError::Unavailable { why });
        }
        Ok(Stream { session, flow, pushes, owed_bytes: 0 })
    }

    /// Nothing has come for a while: is the node one that would know?
    async fn ask_whether_current(&self, deadline: Instant) -> Result<(), String> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let tail = Operation::Tail { log: self.client.log, level: ReadLevel::ReadIndex };
        match stream.session.call(tail, deadline).await {
            Ok(Answer::Tail(_)) => Ok(()),
            Ok(other) => Err(format!("{} answers {other:?}", stream.session.target)),
            Err(lost) => Err(lost.why),
        }
    }

    /// Leaves the node for another, after a pause.
    async fn leave(&mut self, why: String, deadline: Instant) -> Result<(), ClientError> {
        if let Some(stream) = self.stream.take() {
            self.client.link().move_from(&stream.session, None).await;
        }
        match timeout_at(deadline, sleep(self.backoff.next())).await {
            Ok(()) => Ok(()),
            Err(_) => Err(ClientError::Unavailable { why }),
        }
    }
}
