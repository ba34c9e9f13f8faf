//! The null server: it answers every append at once, with the positions that a log would give, and
//! stores nothing. Against it a run shows what the load generator alone can do (`bench --null`), or
//! several of them together (`bench null` on a host that all of them reach).
//!
//! Called by `cli`. It speaks the client protocol as a node does, and names its cluster as no real
//! one can be named ([`CLUSTER_NAME`]), so that whoever measures it can say so. What a client
//! sends wrong closes that client's connection.

pub mod process;
mod reactor;

pub use process::{NullProcess, NullProcessError};
pub use reactor::NullServer;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use rustix::time::ClockId;

use super::clock::cpu_time;
use super::local::rss_bytes_max;
use super::workload::{LOGS_MAX, STAMP_BYTES};
use crate::base::limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, MIB, RECORD_BYTES_MAX};
use crate::base::records::{RECORD_PREFIX_SIZE, push_record};
use crate::base::{ClusterDigest, ClusterId, LogId, NodeId, Position, SessionId};
use crate::client::connection::INFLIGHT_MAX;
use crate::wire::status::{NodeStatus, ResourceStatus, RoleStatus};
use crate::wire::{ErrorCode, Limits, PROTOCOL_VERSION, Request, Response, Standing, Welcome};

/// What the null server calls its cluster: no name that `loggos format` would take.
pub const CLUSTER_NAME: &str = "(null)";
/// The one node of it.
const NODE: NodeId = NodeId(1);
/// The most bytes of records in one answer, whatever is asked for (a single record still goes).
const READ_BYTES_MAX: usize = MIB;
/// Bytes of a record that is read before any was appended.
const READ_RECORD_BYTES: u32 = STAMP_BYTES as u32;

/// What all connections share: counters, and no record.
#[derive(Debug)]
pub struct NullState {
    /// The next position of each log.
    tails: Vec<AtomicU64>,
    logs_made: AtomicU32,
    session_last: AtomicU64,
    /// Of the append seen last: what a read brings has records of this size.
    record_bytes: AtomicU32,
    started: Instant,
}

impl Default for NullState {
    fn default() -> NullState {
        NullState {
            // Log 0, and those that a load makes.
            tails: (0..=LOGS_MAX).map(|_| AtomicU64::new(0)).collect(),
            logs_made: AtomicU32::new(0),
            session_last: AtomicU64::new(0),
            record_bytes: AtomicU32::new(READ_RECORD_BYTES),
            started: Instant::now(),
        }
    }
}

impl NullState {
    /// What greets a client that has connected to `address`.
    fn welcome(address: String) -> Welcome {
        Welcome {
            standing: Standing { cluster: Some(ClusterId(1)), ..Standing::default() },
            pending: None,
            protocol_version: PROTOCOL_VERSION,
            node: NODE,
            cluster: ClusterDigest::of_name(CLUSTER_NAME),
            cluster_name: CLUSTER_NAME.to_owned(),
            group_count: 1,
            members: vec![(NODE, address)],
            leader: Some(NODE),
            limits: Limits { inflight_max: INFLIGHT_MAX as u32, ..Limits::default() },
        }
    }

    /// The answer to `request`; none where none is due. `scratch` is where one that has a payload
    /// keeps it.
    fn answer<'a>(&self, request: &Request<'_>, scratch: &'a mut Vec<u8>) -> Option<Response<'a>> {
        Some(match *request {
            Request::Append { request, log, records, run, .. } => {
                let Some(tail) = self.tails.get(log.0 as usize) else {
                    return Some(unknown_log(request));
                };
                if records as usize > APPEND_RECORDS_MAX || run.len() > APPEND_BYTES_MAX {
                    let (error, text) = (ErrorCode::TooLarge, "the append is over its limits");
                    return Some(Response::Failed {
                        request,
                        error,
                        leader: None,
                        detail: 0,
                        text,
                    });
                }
                if records > 0 {
                    let record = (run.len() / records as usize).saturating_sub(RECORD_PREFIX_SIZE);
                    let record = record.min(RECORD_BYTES_MAX);
                    self.record_bytes.store(record as u32, Ordering::Relaxed);
                }
                let first = Position(tail.fetch_add(u64::from(records), Ordering::Relaxed));
                Response::Appended { request, first, records }
            }
            Request::Read { request, log, from, records_max, bytes_max, .. } => {
                let Some(tail) = self.tails.get(log.0 as usize) else {
                    return Some(unknown_log(request));
                };
                let tail = Position(tail.load(Ordering::Relaxed));
                let behind = tail.0.saturating_sub(from.0).min(u64::from(records_max)) as u32;
                let records = self.put_records(behind, bytes_max, scratch);
                Response::Records { request, first: from, records, tail, run: scratch }
            }
            Request::Tail { request, log, .. } => match self.tails.get(log.0 as usize) {
                Some(tail) => {
                    let tail = Position(tail.load(Ordering::Relaxed));
                    Response::TailIs { request, tail }
                }
                None => unknown_log(request),
            },
            Request::OpenSession { request, .. } => {
                let session = SessionId(self.session_last.fetch_add(1, Ordering::Relaxed) + 1);
                Response::SessionOpened { request, session }
            }
            Request::CreateLog { request, .. } => {
                let log = self.logs_made.fetch_add(1, Ordering::Relaxed) % LOGS_MAX as u32 + 1;
                Response::LogCreated { request, log: LogId(log), created: true }
            }
            Request::CloseSession { request, .. } => Response::Done { request },
            Request::Status { request } => {
                self.put_status(scratch);
                Response::StatusIs { request, json: scratch }
            }
            Request::Lead { request, node } => Response::LedBy { request, node },
            Request::Init { request, .. } => Response::Founded { request, cluster: ClusterId(1) },
            Request::FindLog { request, .. } | Request::ListLogs { request, .. } => {
                Response::LogsAre { request, json: b"[]" }
            }
            Request::DeleteLog { request, .. } | Request::Follow { request, .. } => {
                let text = "a null server stores nothing";
                let error = ErrorCode::Unsupported;
                Response::Failed { request, error, leader: None, detail: 0, text }
            }
            Request::Credit { .. } | Request::Unfollow { .. } => return None,
        })
    }

    /// Writes up to `records` records of zeros to `scratch`, within `bytes_max`; how many.
    fn put_records(&self, records: u32, bytes_max: u32, scratch: &mut Vec<u8>) -> u32 {
        let bytes = self.record_bytes.load(Ordering::Relaxed) as usize;
        let bytes_max = (bytes_max as usize).min(READ_BYTES_MAX);
        let fitting = (bytes_max / (bytes + RECORD_PREFIX_SIZE)).max(1);
        let records = (records as usize).min(fitting);
        let record = vec![0; bytes];
        scratch.clear();
        (0..records).for_each(|_| push_record(scratch, &record));
        records as u32
    }

    fn put_status(&self, scratch: &mut Vec<u8>) {
        let status_file = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let status = NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: CLUSTER_NAME.to_owned(),
            node: NODE.0,
            role: RoleStatus::Leader,
            leader: Some(NODE.0),
            tail: self.tails[0].load(Ordering::Relaxed),
            resources: ResourceStatus {
                process_id: std::process::id(),
                cpu_us: cpu_time(ClockId::ProcessCPUTime).as_micros() as u64,
                rss_bytes_max: rss_bytes_max(&status_file).unwrap_or(0),
                uptime_ms: self.started.elapsed().as_millis() as u64,
                ..ResourceStatus::default()
            },
            ..NodeStatus::default()
        };
        scratch.clear();
        serde_json::to_writer(&mut *scratch, &status).expect("a status is plain data");
    }
}

fn unknown_log(request: crate::wire::RequestId) -> Response<'static> {
    let (error, text) = (ErrorCode::NoSuchLog, "a null server has no such log");
    Response::Failed { request, error, leader: None, detail: 0, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::AppendTerms;
    use crate::base::records::Records;
    use crate::wire::{ReadLevel, RequestId};

    const ID: RequestId = RequestId(7);

    fn append(log: u32, records: u32, run: &[u8]) -> Request<'_> {
        Request::Append {
            request: ID,
            log: LogId(log),
            terms: AppendTerms::default(),
            records,
            run,
        }
    }

    fn read(from: u64, records_max: u32, bytes_max: u32) -> Request<'static> {
        let (from, level) = (Position(from), ReadLevel::Local);
        Request::Read {
            request: ID,
            log: LogId(0),
            from,
            records_max,
            bytes_max,
            level,
            wait_ms: 0,
        }
    }

    #[test]
    fn positions_are_contiguous_in_each_log() {
        let state = NullState::default();
        let mut scratch = Vec::new();
        let mut firsts = Vec::new();
        for (log, records) in [(0, 3), (2, 1), (0, 2), (2, 1), (LOGS_MAX as u32, 1)] {
            match state.answer(&append(log, records, b""), &mut scratch) {
                Some(Response::Appended { first, records: found, .. }) if found == records => {
                    firsts.push(first.0);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(firsts, [0, 0, 3, 1, 0]);
        let beyond = state.answer(&append(LOGS_MAX as u32 + 1, 1, b""), &mut scratch);
        assert!(matches!(beyond, Some(Response::Failed { .. })), "{beyond:?}");
    }

    #[test]
    fn a_read_brings_as_many_records_as_there_would_be() {
        let state = NullState::default();
        let (mut run, mut scratch) = (Vec::new(), Vec::new());
        (0..10).for_each(|_| push_record(&mut run, &[1; 100]));
        assert!(state.answer(&append(0, 10, &run), &mut scratch).is_some());
        for (from, records_max, bytes_max, expected) in [
            (0, 4, 1 << 20, 4),
            (8, 4, 1 << 20, 2),
            (10, 4, 1 << 20, 0),
            (0, 4, 220, 2),
            (0, 4, 1, 1),
        ] {
            match state.answer(&read(from, records_max, bytes_max), &mut scratch) {
                Some(Response::Records { first, records, tail, run, .. }) => {
                    assert_eq!((first.0, records, tail.0), (from, expected, 10));
                    let sizes: Vec<_> = Records::new(run).flatten().map(<[u8]>::len).collect();
                    assert_eq!(sizes, vec![100; expected as usize]);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn its_status_tells_what_it_is_and_what_it_used() {
        let (state, mut scratch) = (NullState::default(), Vec::new());
        let Some(Response::StatusIs { json, .. }) =
            state.answer(&Request::Status { request: ID }, &mut scratch)
        else {
            panic!("no status")
        };
        let status: NodeStatus = serde_json::from_slice(json).unwrap();
        assert_eq!((status.cluster.as_str(), status.leader), (CLUSTER_NAME, Some(1)));
        assert!(status.resources.cpu_us > 0 && status.resources.rss_bytes_max > 0);
        assert_eq!(status.resources.process_id, std::process::id());
    }
}
