//! `loggos read` and `loggos tail`.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::args::{ReadArgs, TailArgs};
use super::error::CliError;
use super::logs::select;
use super::output::Output;
use super::targets::connect_to_stay;
use crate::base::Position;
use crate::base::limits::{APPEND_RECORDS_MAX, MIB};
use crate::client::{ClientError, ErrorCode, ReadOptions, Record, RecordBatch};
use crate::loadgen::workload::ReadLevel;

/// How long a node may hold an answer while nothing is appended.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);

/// Runs `loggos read`. Following ends quietly soon after the reader of standard output has gone, also
/// while nothing is appended.
pub fn run(args: &ReadArgs) -> Result<(), CliError> {
    let (from, to) = args.range()?;
    let client = select(connect_to_stay(&args.target)?, &args.log)?;
    let mut output = Output::stdout();
    let mut next = from;
    // Ends at `to`, at the tail unless it is followed, or with an error.
    while to.is_none_or(|to| next < to) && !(args.follow && output.is_closed()) {
        let wanted = to.map_or(u64::MAX, |to| to.0 - next.0).min(APPEND_RECORDS_MAX as u64);
        let options = ReadOptions {
            level: args.level.into(),
            records_max: wanted as u32,
            bytes_max: MIB as u32,
            wait: if args.follow { FOLLOW_WAIT } else { Duration::ZERO },
        };
        let batch = client.read(next, options).map_err(|error| describe(&error, args.level))?;
        print(&mut output, &batch, to, args.json)?;
        output.flush()?;
        next = batch.next().max(next);
        if !args.follow && (batch.is_empty() || next >= batch.tail()) {
            break;
        }
    }
    Ok(())
}

fn print(
    output: &mut Output,
    batch: &RecordBatch,
    to: Option<Position>,
    as_json: bool,
) -> Result<(), CliError> {
    let in_range = |record: &Record| to.is_none_or(|to| record.position < to);
    for record in batch.iter().take_while(in_range) {
        if as_json {
            output.json(&to_json(&record))?;
        } else {
            output.write(&record.bytes)?;
            output.write(b"\n")?;
        }
    }
    Ok(())
}

fn to_json(record: &Record) -> serde_json::Value {
    let position = record.position.0;
    match std::str::from_utf8(&record.bytes) {
        Ok(value) => json!({ "position": position, "value": value }),
        Err(_) => {
            let mut hex = Vec::with_capacity(2 * record.bytes.len());
            for byte in &record.bytes {
                write!(hex, "{byte:02x}").expect("writing to memory does not fail");
            }
            json!({ "position": position, "value_hex": String::from_utf8_lossy(&hex) })
        }
    }
}

/// Runs `loggos tail`.
pub fn tail(args: &TailArgs) -> Result<(), CliError> {
    let client = select(connect_to_stay(&args.target)?, &args.log)?;
    let tail = client.tail(args.level.into()).map_err(|error| describe(&error, args.level))?;
    let mut output = Output::stdout();
    if args.json {
        let name = &args.log.name;
        output.json(&json!({ "log": client.log().0, "name": name, "first": 0, "tail": tail.0 }))?;
    } else {
        output.line(&tail.to_string())?;
    }
    output.flush()
}

fn describe(error: &ClientError, level: ReadLevel) -> CliError {
    let unsupported = matches!(error, ClientError::Server { code: ErrorCode::Unsupported, .. });
    match unsupported {
        true => CliError::failed(format!(
            "the cluster does not offer --level {} ({error}); try another level",
            level.as_str()
        )),
        false => CliError::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_every_byte() {
        let record = |bytes: &'static [u8]| Record { position: Position(7), bytes: bytes.into() };
        assert_eq!(
            to_json(&record("t\"\n".as_bytes())).to_string(),
            r#"{"position":7,"value":"t\"\n"}"#
        );
        assert_eq!(
            to_json(&record(b"\xff\x00")).to_string(),
            r#"{"position":7,"value_hex":"ff00"}"#
        );
    }
}
