//! The native client protocol: requests and responses, pipelined, answered in any order.
//!
//! Everything is borrowed: an append's run of records is a slice of the received bytes, and a
//! response is encoded straight into the output. The run itself is not walked here: the server
//! checks it with `base::records::check_run` and answers, where closing the connection would be
//! too harsh.

mod codes;
mod request;
mod response;

pub use codes::ErrorCode;
pub use request::{AppendHead, Request, decode_request, encode_append, encode_request};
pub use response::{RecordsHead, Response, decode_response, encode_records, encode_response};

/// Chosen by the client, given back with the response; unique among its requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadLevel {
    /// What this node has applied; may be stale.
    #[default]
    Local,
    /// Linearizable, by one round trip to a quorum.
    ReadIndex,
    /// Linearizable, by the leader's lease.
    Lease,
}

impl ReadLevel {
    fn from_number(number: u8) -> Option<ReadLevel> {
        [ReadLevel::Local, ReadLevel::ReadIndex, ReadLevel::Lease]
            .into_iter()
            .find(|level| *level as u8 == number)
    }
}
