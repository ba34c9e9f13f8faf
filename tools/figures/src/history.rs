//! `results/history.jsonl`: one line per run ever made, with the numbers that one wants to see
//! over months. Lines are only ever added.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::record::{Meta, Run};

#[derive(Debug, Serialize)]
struct Line<'a> {
    date: &'a str,
    commit: &'a str,
    host: &'a str,
    system: &'a str,
    /// The settings' name.
    what: &'a str,
    repeat: u32,
    /// The results directory beside the history.
    results: String,
    per_s: f64,
    mb_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us_per_append: Option<f64>,
    client_cpu_us_per_append: Option<f64>,
    p50_over_commit_floor: Option<f64>,
    /// Filled with zeros ahead on each node: large writes are faster then.
    preallocate_bytes: Option<u64>,
    lost: f64,
}

/// Adds the line of `run`, which is kept in `dir`, to the history in `root`.
pub fn append(root: &Path, meta: &Meta, dir: &Path, run: &Run) -> Result<(), Error> {
    let path = root.join("history.jsonl");
    let mut line =
        serde_json::to_string(&line(meta, dir, run)).map_err(|why| Error::content(&path, why))?;
    line.push('\n');
    let mut file =
        OpenOptions::new().append(true).create(true).open(&path).map_err(Error::at(&path))?;
    // One write: a line is there whole or not at all.
    file.write_all(line.as_bytes()).map_err(Error::at(&path))
}

fn line<'a>(meta: &'a Meta, dir: &Path, run: &'a Run) -> Line<'a> {
    let figures = run.bench.figures();
    let commit = match run.bench.commit.as_str() {
        "" => &meta.commit,
        commit => commit,
    };
    Line {
        date: &run.record.started,
        commit,
        host: &meta.host_name,
        system: &run.record.system,
        what: &run.record.name,
        repeat: run.record.repeat,
        results: dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        per_s: figures.per_s,
        mb_per_s: rounded(figures.mb_per_s),
        p50_us: figures.p50_us,
        p99_us: figures.p99_us,
        p999_us: figures.p999_us,
        cpu_us_per_append: figures.cpu_us.map(rounded),
        client_cpu_us_per_append: figures.client_cpu_us.map(rounded),
        p50_over_commit_floor: figures.over_commit.map(rounded),
        preallocate_bytes: run.bench.cluster.preallocate_bytes,
        lost: figures.lost,
    }
}

/// To a thousandth: no digits that mean nothing.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::run;
    use crate::record::{Kind, LOGGOS};

    #[test]
    fn every_run_adds_a_line_of_its_own() {
        let meta = Meta {
            kind: Kind::Matrix,
            command: String::new(),
            commit: "abc".to_owned(),
            started: String::new(),
            host_name: "box".to_owned(),
            smoke: false,
            notes: Vec::new(),
        };
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("2026-01-31-box-matrix");
        let ahead = run(LOGGOS, "n3-b256-d1", 1, |b| b.cluster.preallocate_bytes = Some(4096));
        append(root.path(), &meta, &dir, &ahead).unwrap();
        append(root.path(), &meta, &dir, &run("etcd", "b256-d1", 1, |b| b.commit.clear())).unwrap();
        let text = std::fs::read_to_string(root.path().join("history.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["what"], "n3-b256-d1");
        assert_eq!(lines[0]["preallocate_bytes"], 4096);
        for cost in ["cpu_us_per_append", "client_cpu_us_per_append"] {
            assert!(lines[0][cost].as_f64().is_some_and(|us| us > 0.0), "{cost}: {text}");
        }
        assert_eq!(lines[0]["results"], "2026-01-31-box-matrix");
        assert_eq!((&lines[1]["system"], &lines[1]["commit"]), (&"etcd".into(), &"abc".into()));
    }
}
