//! What clients of real nodes saw, and the judge of it: linearizability and exactly once, against
//! the log as it was read back at the end.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use loggos::client::{AppendError, Appended, ClientError, ReadLevel, RecordBatch};

/// What an operation was, and what it brought where it was answered.
#[derive(Debug)]
pub enum What {
    /// An append of one record; its position when acknowledged.
    Append { record: Vec<u8>, position: Option<u64> },
    /// A read of at most `records_max` records.
    Read { level: ReadLevel, from: u64, records_max: u64, records: Vec<Vec<u8>> },
    /// A question for the tail.
    Tail { level: ReadLevel, tail: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok(Instant),
    /// Certainly without effect.
    Failed,
    /// It may have happened, or may yet.
    Unknown,
}

#[derive(Debug)]
pub struct Operation {
    pub invoked: Instant,
    pub outcome: Outcome,
    pub what: What,
}

/// Operations of all clients of a test.
#[derive(Debug, Default)]
pub struct History {
    operations: Mutex<Vec<Operation>>,
}

impl History {
    fn note(&self, invoked: Instant, outcome: Outcome, what: What) {
        let operation = Operation { invoked, outcome, what };
        self.operations.lock().expect("no client panics with it").push(operation);
    }

    /// Does and notes an append of `record`; whether it was acknowledged.
    pub fn append(
        &self,
        record: Vec<u8>,
        act: impl FnOnce(&[u8]) -> Result<Appended, AppendError>,
    ) -> bool {
        let invoked = Instant::now();
        let (outcome, position) = match act(&record) {
            Ok(appended) => (Outcome::Ok(Instant::now()), Some(appended.first.0)),
            Err(error) if error.had_no_effect() => (Outcome::Failed, None),
            Err(_) => (Outcome::Unknown, None),
        };
        self.note(invoked, outcome, What::Append { record, position });
        position.is_some()
    }

    /// Does and notes a question for the tail; the answer.
    pub fn tail(
        &self,
        level: ReadLevel,
        act: impl FnOnce() -> Result<loggos::base::Position, ClientError>,
    ) -> Option<u64> {
        let invoked = Instant::now();
        let tail = act().ok()?.0;
        self.note(invoked, Outcome::Ok(Instant::now()), What::Tail { level, tail });
        Some(tail)
    }

    /// Does and notes a read; whether it was answered.
    pub fn read(
        &self,
        level: ReadLevel,
        from: u64,
        records_max: u64,
        act: impl FnOnce() -> Result<RecordBatch, ClientError>,
    ) -> bool {
        let invoked = Instant::now();
        let Ok(batch) = act() else { return false };
        let returned = Instant::now();
        let records = batch.iter().map(|record| record.bytes.to_vec()).collect();
        let what = What::Read { level, from, records_max, records };
        self.note(invoked, Outcome::Ok(returned), what);
        true
    }

    /// How many reads and tails of `level` were answered.
    pub fn answered(&self, level: ReadLevel) -> usize {
        let operations = self.operations.lock().expect("no client panics with it");
        let of_level = |operation: &&Operation| match operation.what {
            What::Read { level: at, .. } | What::Tail { level: at, .. } => at == level,
            What::Append { .. } => false,
        };
        operations.iter().filter(of_level).count()
    }

    /// How many appends were acknowledged, failed, and ended without a known outcome.
    pub fn appends(&self) -> (usize, usize, usize) {
        let operations = self.operations.lock().expect("no client panics with it");
        let count = |wanted: fn(Outcome) -> bool| {
            let is_append = |o: &&Operation| matches!(o.what, What::Append { .. });
            operations.iter().filter(is_append).filter(|o| wanted(o.outcome)).count()
        };
        (
            count(|outcome| matches!(outcome, Outcome::Ok(_))),
            count(|outcome| outcome == Outcome::Failed),
            count(|outcome| outcome == Outcome::Unknown),
        )
    }

    /// Judges everything against `log`, the records by position.
    ///
    /// # Errors
    /// The first violation.
    pub fn judge(&self, log: &[Vec<u8>]) -> Result<(), String> {
        let operations = self.operations.lock().expect("no client panics with it");
        let places = places(&operations, log)?;
        check_appends(&operations, &places)?;
        check_contents(&operations, log, &places)?;
        check_freshness(&operations)
    }
}

fn name(record: &[u8]) -> String {
    String::from_utf8_lossy(record).into_owned()
}

/// Where each append stands, by its index: all of the log is what was sent, each once.
fn places(operations: &[Operation], log: &[Vec<u8>]) -> Result<HashMap<usize, u64>, String> {
    let mut sent = HashMap::new();
    for (index, operation) in operations.iter().enumerate() {
        if let What::Append { record, .. } = &operation.what {
            let older = sent.insert(record.as_slice(), index);
            assert!(older.is_none(), "{} is not unique", name(record));
        }
    }
    let mut places = HashMap::new();
    for (position, record) in log.iter().enumerate() {
        let Some(index) = sent.get(record.as_slice()) else {
            return Err(format!("{} at {position} was never sent", name(record)));
        };
        if let Some(older) = places.insert(*index, position as u64) {
            return Err(format!("{} stands at {older} and at {position}", name(record)));
        }
    }
    Ok(places)
}

/// Each acknowledged append stands where it was said to, none that failed stands anywhere, and
/// their order is one that time permits.
fn check_appends(operations: &[Operation], places: &HashMap<usize, u64>) -> Result<(), String> {
    let mut invoked = Vec::new();
    let mut returned = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        let What::Append { record, position } = &operation.what else { continue };
        let place = places.get(&index).copied();
        match operation.outcome {
            Outcome::Ok(at) if place == *position => {
                returned.push((at, place.expect("an acknowledgement has a position")));
            }
            Outcome::Ok(_) => {
                let name = name(record);
                return Err(format!("{name} was acknowledged at {position:?}, is at {place:?}"));
            }
            Outcome::Failed if place.is_some() => {
                return Err(format!("{} has failed, and is at {place:?}", name(record)));
            }
            Outcome::Failed | Outcome::Unknown => {}
        }
        invoked.extend(place.map(|place| (operation.invoked, place)));
    }
    let overtaken = |(_, place): &(Instant, u64), before: u64| *place <= before;
    sweep(invoked, returned, overtaken).map_or(Ok(()), |((_, place), before)| {
        Err(format!("an append at {place} began after the one at {before} had returned"))
    })
}

/// The first of `invoked` that `breaks` what the greatest of `returned` before it says.
fn sweep(
    mut invoked: Vec<(Instant, u64)>,
    mut returned: Vec<(Instant, u64)>,
    breaks: impl Fn(&(Instant, u64), u64) -> bool,
) -> Option<((Instant, u64), u64)> {
    invoked.sort_unstable();
    returned.sort_unstable();
    let mut rest = returned.into_iter().peekable();
    let mut greatest = None;
    for entry in invoked {
        while let Some((_, value)) = rest.next_if(|(at, _)| *at < entry.0) {
            greatest = greatest.max(Some(value));
        }
        if let Some(greatest) = greatest.filter(|greatest| breaks(&entry, *greatest)) {
            return Some((entry, greatest));
        }
    }
    None
}

/// Reads, at every level, bring what stands in the log, and nothing that was appended after they
/// had returned.
fn check_contents(
    operations: &[Operation],
    log: &[Vec<u8>],
    places: &HashMap<usize, u64>,
) -> Result<(), String> {
    let mut invoked: Vec<Option<Instant>> = vec![None; log.len()];
    for (index, place) in places {
        invoked[*place as usize] = Some(operations[*index].invoked);
    }
    for operation in operations {
        let Outcome::Ok(returned) = operation.outcome else { continue };
        let end = match &operation.what {
            What::Append { .. } => continue,
            What::Tail { tail, .. } => *tail as usize,
            What::Read { from, records, level, .. } => {
                let from = *from as usize;
                let end = from + records.len();
                if log.get(from..end) != Some(records.as_slice()) {
                    return Err(format!("a read from {from} at {level:?} brought {records:?}"));
                }
                end
            }
        };
        if end > log.len() {
            return Err(format!("{:?} knows of {end} records of {}", operation.what, log.len()));
        }
        if end > 0 && invoked[end - 1].is_some_and(|invoked| invoked > returned) {
            return Err(format!("{:?} knows of an append that came later", operation.what));
        }
    }
    Ok(())
}

/// A read at a linearizable level knows of everything that was acknowledged, or that another such
/// read had brought, before it was invoked.
fn check_freshness(operations: &[Operation]) -> Result<(), String> {
    let mut known = Vec::new();
    let mut reads = Vec::new();
    for operation in operations {
        let Outcome::Ok(returned) = operation.outcome else { continue };
        match &operation.what {
            What::Append { position, .. } => known.extend(position.map(|p| (returned, p + 1))),
            What::Tail { level: ReadLevel::Local, .. }
            | What::Read { level: ReadLevel::Local, .. } => {}
            What::Tail { tail, .. } => {
                known.push((returned, *tail));
                reads.push((operation.invoked, *tail));
            }
            What::Read { from, records, records_max, .. } => {
                let end = from + records.len() as u64;
                if !records.is_empty() {
                    known.push((returned, end));
                }
                // A full answer says nothing of what is behind it.
                if (records.len() as u64) < *records_max {
                    reads.push((operation.invoked, end));
                }
            }
        }
    }
    let stale = |(_, told): &(Instant, u64), known: u64| *told < known;
    sweep(reads, known, stale).map_or(Ok(()), |((_, told), known)| {
        Err(format!("a linearizable read told of {told} records where {known} were known before"))
    })
}

mod tests {
    use std::time::Duration;

    use super::*;

    fn history(operations: Vec<(u64, Option<u64>, What)>) -> History {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let operations = operations.into_iter().map(|(invoked, returned, what)| Operation {
            invoked: at(invoked),
            outcome: returned.map_or(Outcome::Unknown, |returned| Outcome::Ok(at(returned))),
            what,
        });
        History { operations: Mutex::new(operations.collect()) }
    }

    fn append(record: &str, position: Option<u64>) -> What {
        What::Append { record: record.into(), position }
    }

    fn log(records: &[&str]) -> Vec<Vec<u8>> {
        records.iter().map(|record| record.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_judge_of_histories_finds_what_is_wrong() {
        let two = || vec![(1, Some(2), append("a", Some(0))), (3, Some(4), append("b", Some(1)))];
        let with = |more| history(two().into_iter().chain([more]).collect());
        let judge = |more, records: &[&str]| with(more).judge(&log(records)).is_ok();
        let tail = |level, tail| What::Tail { level, tail };
        let read = |from, records: &[&str]| {
            let (level, records) = (ReadLevel::ReadIndex, log(records));
            What::Read { level, from, records_max: 9, records }
        };
        assert!(judge((5, Some(6), tail(ReadLevel::Lease, 2)), &["a", "b"]));
        assert!(judge((3, Some(6), tail(ReadLevel::Lease, 1)), &["a", "b"]));
        assert!(judge((5, Some(6), tail(ReadLevel::Local, 0)), &["a", "b"]));
        assert!(!judge((5, Some(6), tail(ReadLevel::Lease, 1)), &["a", "b"]), "stale");
        assert!(!judge((5, Some(6), tail(ReadLevel::Lease, 3)), &["a", "b"]), "invented");
        assert!(!judge((1, Some(2), tail(ReadLevel::Local, 2)), &["a", "b"]), "too early");
        assert!(judge((5, Some(6), read(1, &["b"])), &["a", "b"]));
        assert!(!judge((5, Some(6), read(1, &[])), &["a", "b"]), "stale");
        assert!(!judge((5, Some(6), read(0, &["b"])), &["a", "b"]), "wrong");
        let unknown = || (5, None, append("c", None));
        assert!(judge(unknown(), &["a", "b"]) && judge(unknown(), &["a", "b", "c"]));
        assert!(!judge(unknown(), &["a", "b", "c", "c"]), "doubled");
        assert!(!judge(unknown(), &["c", "a", "b"]), "moved");
        assert!(!judge(unknown(), &["a"]), "lost");
        assert!(!judge(unknown(), &["a", "b", "d"]), "never sent");
        let late = vec![(1, None, append("x", None)), (3, Some(4), append("y", Some(0)))];
        assert!(history(late).judge(&log(&["y", "x"])).is_ok());
        let overtaken = vec![(1, Some(2), append("y", Some(1))), (3, None, append("x", None))];
        assert!(history(overtaken).judge(&log(&["x", "y"])).is_err(), "out of order");
    }
}
