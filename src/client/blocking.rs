//! The client for threads: the same calls, each of which blocks until it is done.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::base::{ClusterId, FenceToken, GroupId, LogId, LogTerms, NodeId, Position};
use crate::wire::status::LogStatus;
use crate::wire::{NodeStatus, ReadLevel};

use super::{
    AppendError, AppendOptions, Appended, ClientError, ClientOptions, ReadOptions, Record,
    RecordBatch,
};

/// A client of one cluster that blocks. Clones share its connection and its runtime, which runs
/// on the calling threads, and only while a call is going on.
///
/// ```no_run
/// use loggos::client::{ClientOptions, blocking::Client};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(["127.0.0.1:7101"], ClientOptions::default())?;
/// let appended = client.append(&["a record"])?;
/// println!("at {}", appended.first);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    client: super::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// As [`super::Client::connect`].
    ///
    /// # Errors
    /// As there; also [`ClientError::Unavailable`] when the process can have no event loop.
    ///
    /// # Panics
    /// This and every other call, when called from within an async runtime.
    pub fn connect<T: Into<String>>(
        targets: impl IntoIterator<Item = T>,
        options: ClientOptions,
    ) -> Result<Client, ClientError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Unavailable { why: format!("no event loop: {error}") })?;
        let client = runtime.block_on(super::Client::connect(targets, options))?;
        Ok(Client { client, runtime: Arc::new(runtime) })
    }

    /// As [`super::Client::close`].
    pub fn close(self) {
        self.runtime.block_on(self.client.close());
    }

    /// As [`super::Client::append`].
    ///
    /// # Errors
    /// As there.
    pub fn append<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Appended, AppendError> {
        self.runtime.block_on(self.client.append(records))
    }

    /// As [`super::Client::append_if`].
    ///
    /// # Errors
    /// As there.
    pub fn append_if<R: AsRef<[u8]>>(
        &self,
        options: AppendOptions,
        records: &[R],
    ) -> Result<Appended, AppendError> {
        self.runtime.block_on(self.client.append_if(options, records))
    }

    /// As [`super::Client::fence`].
    ///
    /// # Errors
    /// As there.
    pub fn fence(&self, token: FenceToken) -> Result<Position, AppendError> {
        self.runtime.block_on(self.client.fence(token))
    }

    /// As [`super::Client::log`].
    pub fn log(&self) -> LogId {
        self.client.log()
    }

    /// As [`super::Client::of_log`].
    pub fn of_log(&self, log: LogId) -> Client {
        Client { client: self.client.of_log(log), runtime: self.runtime.clone() }
    }

    /// As [`super::Client::of_group`].
    ///
    /// # Panics
    /// As there.
    pub fn of_group(&self, group: GroupId) -> Client {
        Client { client: self.client.of_group(group), runtime: self.runtime.clone() }
    }

    /// As [`super::Client::group_count`].
    ///
    /// # Errors
    /// As there.
    pub fn group_count(&self) -> Result<u16, ClientError> {
        self.runtime.block_on(self.client.group_count())
    }

    /// As [`super::Client::create_log`].
    ///
    /// # Errors
    /// As there.
    pub fn create_log(&self, terms: &LogTerms) -> Result<LogId, ClientError> {
        self.runtime.block_on(self.client.create_log(terms))
    }

    /// As [`super::Client::delete_log`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_log(&self, log: LogId) -> Result<bool, ClientError> {
        self.runtime.block_on(self.client.delete_log(log))
    }

    /// As [`super::Client::find_log`].
    ///
    /// # Errors
    /// As there.
    pub fn find_log(&self, name: &str, level: ReadLevel) -> Result<Option<LogStatus>, ClientError> {
        self.runtime.block_on(self.client.find_log(name, level))
    }

    /// As [`super::Client::list_logs`].
    ///
    /// # Errors
    /// As there.
    pub fn list_logs(&self, level: ReadLevel) -> Result<Vec<LogStatus>, ClientError> {
        self.runtime.block_on(self.client.list_logs(level))
    }

    /// As [`super::Client::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, from: Position, options: ReadOptions) -> Result<RecordBatch, ClientError> {
        self.runtime.block_on(self.client.read(from, options))
    }

    /// As [`super::Client::follow`].
    pub fn follow(&self, from: Position) -> Follower {
        Follower { follower: self.client.follow(from), runtime: self.runtime.clone() }
    }

    /// As [`super::Client::tail`].
    ///
    /// # Errors
    /// As there.
    pub fn tail(&self, level: ReadLevel) -> Result<Position, ClientError> {
        self.runtime.block_on(self.client.tail(level))
    }

    /// As [`super::Client::status`].
    ///
    /// # Errors
    /// As there.
    pub fn status(&self) -> Result<NodeStatus, ClientError> {
        self.runtime.block_on(self.client.status())
    }

    /// As [`super::Client::lead`].
    ///
    /// # Errors
    /// As there.
    pub fn lead(&self, node: NodeId) -> Result<(), ClientError> {
        self.runtime.block_on(self.client.lead(node))
    }

    /// As [`super::Client::init_at`].
    ///
    /// # Errors
    /// As there.
    pub fn init_at(&self, target: &str) -> Result<ClusterId, ClientError> {
        self.runtime.block_on(self.client.init_at(target))
    }

    /// As [`super::Client::status_of`].
    ///
    /// # Errors
    /// As there.
    pub fn status_of(&self, target: &str) -> Result<NodeStatus, ClientError> {
        self.runtime.block_on(self.client.status_of(target))
    }

    /// As [`super::Client::members`].
    ///
    /// # Errors
    /// As there.
    pub fn members(&self) -> Result<Vec<(NodeId, String)>, ClientError> {
        self.runtime.block_on(self.client.members())
    }
}

/// As [`super::Follower`].
#[derive(Debug)]
pub struct Follower {
    follower: super::Follower,
    runtime: Arc<Runtime>,
}

impl Follower {
    /// As [`super::Follower::next`].
    ///
    /// # Errors
    /// As there.
    // Not an iterator: it has no end, and its errors are not the end of it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Record, ClientError> {
        self.runtime.block_on(self.follower.next())
    }

    /// As [`super::Follower::next_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn next_batch(&mut self) -> Result<Vec<Record>, ClientError> {
        self.runtime.block_on(self.follower.next_batch())
    }
}
