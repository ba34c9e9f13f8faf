//! `loggos append`: standard input, a record a line, or a whole file.
//!
//! Records keep their order whatever breaks: one append is in flight, and what is read meanwhile
//! grows into the next one, so that a slow commit makes a large append. Positions are printed in
//! the order of the records, each once its record is durable.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::args::{AppendArgs, FILE_BYTES_MAX, TargetArgs};
use super::error::{CliError, Exit};
use super::logs::select;
use super::output::Output;
use crate::base::limits::{APPEND_BYTES_MAX, APPEND_RECORDS_MAX, RECORD_BYTES_MAX};
use crate::base::records::RECORD_PREFIX_SIZE;
use crate::base::{FenceToken, Position};
use crate::client::blocking::Client;
use crate::client::{AppendError, AppendOptions, Appended, ClientError, ClientOptions};

/// Lines read ahead of the append in flight.
const LINES_QUEUED_MAX: usize = 4 * APPEND_RECORDS_MAX;
/// Bytes of standard input read at once.
const INPUT_BYTES: usize = 256 * 1024;

/// Connects to the cluster that the flags name.
///
/// # Errors
/// Exit 2 when no node can be reached or all refuse.
pub fn connect(args: &TargetArgs) -> Result<Client, CliError> {
    connect_with(args, false)
}

/// As [`connect`], but stays with the nodes that the flags name: their replicas are read.
pub fn connect_to_stay(args: &TargetArgs) -> Result<Client, CliError> {
    connect_with(args, true)
}

fn connect_with(args: &TargetArgs, stay: bool) -> Result<Client, CliError> {
    let targets = args.target.iter().map(ToString::to_string);
    let operation_timeout = args.timeout;
    let options = ClientOptions { operation_timeout, stay, ..ClientOptions::default() };
    Client::connect(targets, options).map_err(|error| unreachable_targets(args, &error))
}

fn unreachable_targets(args: &TargetArgs, error: &ClientError) -> CliError {
    let targets: Vec<_> = args.target.iter().map(ToString::to_string).collect();
    CliError::usage(format!(
        "no connection to {}: {error}; are the nodes running, and is --target right?",
        targets.join(", ")
    ))
}

/// Runs the command.
pub fn run(args: &AppendArgs) -> Result<(), CliError> {
    let client = select(connect(&args.target)?, &args.log)?;
    let mut conditions =
        AppendOptions { if_tail: args.if_tail.map(Position), fence: args.fence.map(FenceToken) };
    let mut output = Output::stdout();
    match &args.file {
        Some(path) => {
            let cannot = |error| CliError::usage(format!("{}: {error}", path.display()));
            let file = std::fs::File::open(path).map_err(cannot)?;
            let mut record = Vec::new();
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut record).map_err(cannot)?;
            let appended = client.append_if(conditions, &[record]);
            let appended = appended.map_err(|error| describe(&error))?;
            output.set_effect("the record was appended".to_owned());
            print(&mut output, appended)
        }
        None => append_lines(&client, &mut conditions, &mut output),
    }
}

fn append_lines(
    client: &Client,
    conditions: &mut AppendOptions,
    output: &mut Output,
) -> Result<(), CliError> {
    let (sender, receiver) = sync_channel(LINES_QUEUED_MAX);
    // Never joined: it may sit in a read of standard input for ever. It ends with the process.
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_lines(BufReader::with_capacity(INPUT_BYTES, std::io::stdin()), &sender))
        .map_err(|error| CliError::failed(format!("a thread cannot be started: {error}")))?;
    let mut batches = Batches { lines: receiver, next: None, failed: None };
    while let Some(batch) = batches.next() {
        let appended = client.append_if(*conditions, &batch).map_err(|error| describe(&error))?;
        if let Some(tail) = &mut conditions.if_tail {
            *tail = appended.first.plus(u64::from(appended.count));
        }
        let last = appended.first.0 + u64::from(appended.count) - 1;
        output.set_effect(format!(
            "the records up to position {last} were appended, the rest of the input was not"
        ));
        print(output, appended)?;
    }
    batches.failed.map_or(Ok(()), Err)
}

fn print(output: &mut Output, appended: Appended) -> Result<(), CliError> {
    for index in 0..u64::from(appended.count) {
        output.line(&appended.first.plus(index).to_string())?;
    }
    output.flush()
}

fn describe(error: &AppendError) -> CliError {
    match error {
        AppendError::OutcomeUnknown { .. } => CliError::new(Exit::Unknown, error),
        AppendError::Invalid(_) => CliError::usage(error),
        _ => CliError::failed(format!("nothing more was appended: {error}")),
    }
}

type Line = Result<Vec<u8>, CliError>;

/// Sends the lines of `input` until it ends, fails, or nobody listens any more.
fn read_lines(mut input: impl BufRead, sender: &SyncSender<Line>) {
    let too_long = || {
        CliError::usage(format!(
            "a line is longer than {RECORD_BYTES_MAX} bytes, the limit of a record; the lines \
             before it were appended"
        ))
    };
    loop {
        let mut line = Vec::new();
        // A line break more than the longest record.
        let read = input.by_ref().take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        let item = match read {
            Ok(0) => return,
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                if line.len() > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(line) }
            }
            Err(error) => Err(CliError::failed(format!("standard input: {error}"))),
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
    failed: Option<CliError>,
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

    fn batches(input: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<CliError>) {
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
        assert_eq!(failed.unwrap().exit, Exit::Usage);
    }
}
