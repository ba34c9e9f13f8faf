//! What every other folder may import: identifiers, time, checksums, units and block-aligned
//! memory.
//!
//! Nothing here does IO, reads a clock or starts a thread. The only `unsafe` outside `uring/`
//! is in [`memory`], which owns the aligned allocations.

pub mod checksum;
pub mod founding;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod mutants;
pub mod pages;
pub mod placement;
pub mod places;
pub mod records;
pub mod rng;
pub mod sectors;
pub mod terms;
pub mod time;

pub use checksum::{Checksum, RunningChecksum};
pub use founding::Founding;
pub use hash::{IdMap, IdSet};
pub use ids::{
    Ballot, ClusterDigest, ClusterId, DEFAULT_LOG_NAME, Epoch, FenceToken, GroupId, Incarnation,
    IncarnationTag, LogId, NodeId, Position, Sequence, SessionId, Slot,
};
pub use memory::{Batch, BlockBuf, BlockPool};
pub use pages::LogPages;
pub use placement::{Placement, Span};
pub use places::Places;
pub use terms::{AppendTerms, LogTerms, SESSION_TERMS_SIZE, SessionTerms};
pub use time::Instant;
