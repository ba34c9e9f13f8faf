//! `loggos append`: standard input, a record a line, or a whole file.
//!
//! Records keep their order whatever breaks: one append is in flight, and what is read meanwhile
//! grows into the next one, so that a slow commit makes a large append. Positions are printed in
//! the order of the records, each once its record is durable.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::json;

use super::args::{AppendArgs, FILE_BYTES_MAX};
use super::error::{CliError, Exit};
use super::logs::select;
use super::output::Output;
use super::targets::connect;
use crate::base::limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, RECORD_BYTES_MAX};
use crate::base::records::RECORD_PREFIX_SIZE;
use crate::base::{FenceToken, LogId, Position};
use crate::client::blocking::Client;
use crate::client::{AppendError, AppendOptions, Appended};

/// Lines read ahead of the append in flight.
const LINES_QUEUED_MAX: usize = 4 * APPEND_RECORDS_MAX;
/// Bytes of standard input read at once.
const INPUT_BYTES: usize = 256 * 1024;

/// Runs the command.
pub fn run(args: &AppendArgs) -> Result<(), CliError> {
    let client = select(connect(&args.target)?, &args.log)?;
    let result = append(args, &client);
    // The cluster need not hold the session of a command that is over until its time-out.
    client.close();
    result
}

fn append(args: &AppendArgs, client: &Client) -> Result<(), CliError> {
    let mut conditions =
        AppendOptions { if_tail: args.if_tail.map(Position), fence: args.fence.map(FenceToken) };
    let (json, log, name) = (args.json, client.log(), &args.log.name);
    let mut printer = Printer { output: Output::stdout(), json, log, name };
    match &args.file {
        Some(path) => {
            let cannot = |error| CliError::usage(format!("{}: {error}", path.display()));
            let file = std::fs::File::open(path).map_err(cannot)?;
            let mut record = Vec::new();
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut record).map_err(cannot)?;
            let appended = client.append_if(conditions, &[record]);
            let appended = appended.map_err(|error| describe(&error))?;
            printer.print(appended, "the record was appended".to_owned())
        }
        None => append_lines(client, &mut conditions, &mut printer),
    }
}

/// How what was appended is printed.
struct Printer<'a> {
    output: Output,
    /// One object an append instead of a position a line.
    json: bool,
    log: LogId,
    name: &'a str,
}

impl Printer<'_> {
    /// Prints what came of an append. `effect` says what was done, should that fail.
    fn print(&mut self, appended: Appended, effect: String) -> Result<(), CliError> {
        self.output.set_effect(effect);
        let Appended { first, count } = appended;
        if self.json {
            self.output.json(&json!({
                "log": self.log.0, "name": self.name, "first": first.0, "count": count,
            }))?;
        } else {
            for index in 0..u64::from(count) {
                self.output.line(&first.plus(index).to_string())?;
            }
        }
        self.output.flush()
    }
}

fn append_lines(
    client: &Client,
    conditions: &mut AppendOptions,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    let (sender, receiver) = sync_channel(LINES_QUEUED_MAX);
    // Never joined: it may sit in a read of standard input for ever. It ends with the process.
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_lines(BufReader::with_capacity(INPUT_BYTES, std::io::stdin()), &sender))
        .map_err(|error| CliError::failed(format!("a thread cannot be started: {error}")))?;
    let mut batches = Batches { lines: receiver, next: None, failed: None };
    let mut lines_appended = 0u64;
    while let Some(batch) = batches.next() {
        let appended = client.append_if(*conditions, &batch).map_err(|error| describe(&error))?;
        if let Some(tail) = &mut conditions.if_tail {
            *tail = appended.first.plus(u64::from(appended.count));
        }
        let last = appended.first.0 + u64::from(appended.count) - 1;
        lines_appended += u64::from(appended.count);
        let effect = "were appended, the rest of the input was not";
        printer.print(appended, format!("the records up to position {last} {effect}"))?;
    }
    match (batches.failed, conditions.fence) {
        (Some(error), _) => Err(error.after(lines_appended)),
        (None, Some(token)) if lines_appended == 0 => Err(CliError::usage(format!(
            "the input is empty: nothing was appended, and the log has not taken the token {token}; \
             `loggos log fence` raises a fence without a record"
        ))),
        (None, _) => Ok(()),
    }
}

impl InputError {
    /// Says what became of the input before.
    fn after(self, lines_appended: u64) -> CliError {
        let before = match lines_appended {
            0 => "nothing was appended".to_owned(),
            1 => "the line before it was appended".to_owned(),
            count => format!("the {count} lines before it were appended"),
        };
        CliError::new(self.exit, format!("{}; {before}", self.what))
    }
}

/// The exit code and the words for an append, or a fence, that failed.
pub fn describe(error: &AppendError) -> CliError {
    match error {
        AppendError::OutcomeUnknown { .. } => CliError::new(Exit::Unknown, error),
        AppendError::Invalid(_) => CliError::usage(error),
        _ => CliError::failed(format!("nothing more was appended: {error}")),
    }
}

/// Why no more lines can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InputError {
    exit: Exit,
    what: String,
}

type Line = Result<Vec<u8>, InputError>;

/// Sends the lines of `input` until it ends, fails, or nobody listens any more.
fn read_lines(mut input: impl BufRead, sender: &SyncSender<Line>) {
    for number in 1u64.. {
        let mut line = Vec::new();
        // A line break more than the longest record.
        let read = input.by_ref().take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        let item = match read {
            Ok(0) => return,
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                match line.len() {
                    0..=RECORD_BYTES_MAX => Ok(line),
                    _ => Err(InputError {
                        exit: Exit::Usage,
                        what: format!(
                            "line {number} is longer than {RECORD_BYTES_MAX} bytes, the limit of a \
                             record"
                        ),
                    }),
                }
            }
            Err(error) => {
                let what = format!("standard input, line {number}: {error}");
                Err(InputError { exit: Exit::Failed, what })
            }
        };
        let is_last = item.is_err();
        if sender.send(item).is_err() || is_last {
            return;
        }
    }
}

/// Groups lines into appends: the first one is waited for, then whatever has been read is taken
/// along, within the limits of one append.
struct Batches {
    lines: Receiver<Line>,
    /// Read already, for the next batch.
    next: Option<Vec<u8>>,
    failed: Option<InputError>,
}

impl Batches {
    fn next(&mut self) -> Option<Vec<Vec<u8>>> {
        let first = match self.next.take() {
            Some(line) => line,
            None if self.failed.is_some() => return None,
            None => self.lines.recv().ok().and_then(|line| self.keep(line))?,
        };
        let mut bytes = RECORD_PREFIX_SIZE + first.len();
        let mut batch = vec![first];
        while batch.len() < APPEND_RECORDS_MAX
            && self.failed.is_none()
            && let Ok(line) = self.lines.try_recv()
            && let Some(line) = self.keep(line)
        {
            bytes += RECORD_PREFIX_SIZE + line.len();
            if bytes > APPEND_BYTES_MAX {
                self.next = Some(line);
                break;
            }
            batch.push(line);
        }
        Some(batch)
    }

    fn keep(&mut self, line: Line) -> Option<Vec<u8>> {
        line.map_err(|error| self.failed = Some(error)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(input: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<InputError>) {
        let (sender, lines) = sync_channel(LINES_QUEUED_MAX);
        read_lines(input, &sender);
        drop(sender);
        let mut batches = Batches { lines, next: None, failed: None };
        let all = std::iter::from_fn(|| batches.next()).collect();
        (all, batches.failed)
    }

    #[test]
    fn lines_are_records_with_or_without_a_last_line_break() {
        let (found, failed) = batches(b"one\n\nthree");
        assert_eq!(found, [[&b"one"[..], b"", b"three"]]);
        assert_eq!(failed, None);
        assert_eq!(batches(b"").0.len(), 0);
    }

    #[test]
    fn batches_keep_the_limits_of_an_append_and_the_order() {
        let line = vec![b'x'; 400 * 1024];
        let input: Vec<u8> = (0..5).flat_map(|_| line.iter().copied().chain([b'\n'])).collect();
        let (found, _) = batches(&input);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);

        let input: Vec<u8> = (0..APPEND_RECORDS_MAX + 1).flat_map(|_| *b"a\n").collect();
        let (found, _) = batches(&input);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [APPEND_RECORDS_MAX, 1]);
    }

    #[test]
    fn the_longest_line_passes_and_a_longer_one_ends_it_after_those_before() {
        let mut input = b"first\n".to_vec();
        input.extend(vec![b'y'; RECORD_BYTES_MAX]);
        input.extend(b"\nlast");
        let (found, failed) = batches(&input);
        assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 3);
        assert_eq!(failed, None);

        let mut input = b"first\n".to_vec();
        input.extend(vec![b'y'; RECORD_BYTES_MAX + 1]);
        input.extend(b"\nlast");
        let (found, failed) = batches(&input);
        assert_eq!(found, [[b"first".to_vec()]]);
        let failed = failed.unwrap();
        assert_eq!(failed.exit, Exit::Usage);
        let text = |count| failed.clone().after(count).message;
        assert!(text(0).ends_with("record; nothing was appended"), "{}", text(0));
        assert!(text(1).starts_with("line 2 is longer than 1048576 bytes"), "{}", text(1));
        assert!(text(1).ends_with("the line before it was appended"));
        assert!(text(9).ends_with("the 9 lines before it were appended"));
    }
}
