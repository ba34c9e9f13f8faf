//! Following the log: long polls, one after the other, each from where the last one ended.

use std::time::Duration;

use crate::base::Position;
use crate::wire::ReadLevel;

use super::api::{Client, ReadOptions};
use super::error::ClientError;
use super::records::{Record, RecordBatch, Walker};

/// How long one poll waits for a record before the next one is sent.
const POLL_WAIT: Duration = Duration::from_secs(1);

/// Hands out every record from a position on, once and in order.
///
/// Because each poll asks for the position behind the last record handed out, neither a reconnect
/// nor a move to a node that is behind makes a gap or a double.
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
    /// The first position not yet fetched.
    fetch_from: Position,
    fetched: Option<Walker>,
    options: ReadOptions,
}

impl Follower {
    pub(super) fn new(client: Client, from: Position) -> Follower {
        let options =
            ReadOptions { level: ReadLevel::Local, wait: POLL_WAIT, ..Default::default() };
        Follower { client, fetch_from: from, fetched: None, options }
    }

    /// The next record; waits for it as long as it takes. May be dropped half way and called
    /// again: nothing is lost.
    ///
    /// # Errors
    /// [`ClientError`] when no node has answered for the client's `operation_timeout`, or refuses
    /// the read. Calling it again goes on from the same position.
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

    /// One poll. State changes only once it has been answered.
    async fn fetch(&mut self) -> Result<RecordBatch, ClientError> {
        let batch = self.client.read(self.fetch_from, self.options).await?;
        if !batch.is_empty() {
            self.fetch_from = batch.next();
        }
        Ok(batch)
    }
}
