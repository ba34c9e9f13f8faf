//! A results directory: `run.json` (how it came to be), `raw/*.json` (one object per run) and
//! `raw/*.hlog` (its latencies). Everything else in it is made from these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bench::{BenchReport, Figures};
use crate::error::Error;
use crate::host;

/// The name of Loggos in [`RunRecord::system`].
pub const LOGGOS: &str = "loggos";

/// How a results directory came to be.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Meta {
    /// Which command wrote it.
    pub kind: Kind,
    /// The command line of the tool.
    pub command: String,
    /// The commit of the repository.
    pub commit: String,
    /// When it began.
    pub started: String,
    /// The machine's neutral name.
    pub host_name: String,
    /// A smoke test, whose figures mean nothing.
    pub smoke: bool,
    /// What a reader must know: settings of systems, what was left out and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What a results directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Loggos over a matrix.
    Matrix,
    /// Loggos beside other systems.
    Peers,
}

/// One run, as it is kept.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunRecord {
    /// What was measured: `loggos`, `etcd`, …
    pub system: String,
    /// The settings' name: runs with the same one compare.
    pub name: String,
    /// Which pass over the settings, from 1.
    pub repeat: u32,
    /// When it was started.
    pub started: String,
    /// The exact command, from the repository.
    pub command: String,
    /// The file with the latencies, beside this one.
    #[serde(default)]
    pub histogram: Option<String>,
    /// What a reader must know of this run: doubts about the floors, losses, the first error.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// What it printed, every field of it.
    pub report: Value,
}

/// One run, understood.
#[derive(Clone, Debug)]
pub struct Run {
    /// As it is kept.
    pub record: RunRecord,
    /// Its report.
    pub bench: BenchReport,
    /// The folder of its file.
    pub folder: PathBuf,
}

impl Run {
    /// Understands `record`, which is or will be in `folder`.
    pub fn new(record: RunRecord, folder: &Path) -> Result<Run, Error> {
        let file = folder.join(record.file_name());
        let bench = BenchReport::deserialize(&record.report).map_err(|error| {
            Error::content(&file, format!("not a report of the bench: {error}"))
        })?;
        Ok(Run { record, bench, folder: folder.to_owned() })
    }

    /// The file with its latencies.
    pub fn histogram(&self) -> Option<PathBuf> {
        self.record.histogram.as_ref().map(|name| self.folder.join(name))
    }
}

impl RunRecord {
    /// The name of its file in `raw/`.
    pub fn file_name(&self) -> String {
        format!("{}-{}-r{}.json", self.system, self.name, self.repeat)
    }

    /// Writes it to `raw`.
    pub fn write(&self, raw: &Path) -> Result<(), Error> {
        write_json(&raw.join(self.file_name()), self)
    }
}

/// A results directory that is being written.
#[derive(Debug)]
pub struct Results {
    /// The directory.
    pub dir: PathBuf,
    /// The folder of all results, with the history.
    pub root: PathBuf,
}

impl Results {
    /// Makes `ROOT/DATE-HOST-TOPIC`; a number is added rather than mixing two days' work.
    pub fn create(root: &Path, host_name: &str, topic: &str) -> Result<Results, Error> {
        let now = host::now();
        let date = now.get(..10).unwrap_or("undated");
        std::fs::create_dir_all(root).map_err(Error::at(root))?;
        let mut dir = root.join(format!("{date}-{host_name}-{topic}"));
        for number in 2.. {
            match std::fs::create_dir(&dir) {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    dir = root.join(format!("{date}-{host_name}-{topic}-{number}"));
                }
                Err(error) => return Err(Error::at(&dir)(error)),
            }
        }
        let raw = dir.join("raw");
        std::fs::create_dir(&raw).map_err(Error::at(&raw))?;
        Ok(Results { dir, root: root.to_owned() })
    }

    /// Where runs are kept.
    pub fn raw(&self) -> PathBuf {
        self.dir.join("raw")
    }

    /// Keeps how it came to be.
    pub fn write_meta(&self, meta: &Meta) -> Result<(), Error> {
        write_json(&self.dir.join("run.json"), meta)
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|why| Error::content(path, why))?;
    text.push('\n');
    std::fs::write(path, text).map_err(Error::at(path))
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
    serde_json::from_str(&text).map_err(|why| Error::content(path, why))
}

/// How the results directory `dir` came to be.
pub fn read_meta(dir: &Path) -> Result<Meta, Error> {
    if !dir.join("run.json").is_file() {
        let dir = dir.display();
        return Err(Error::Usage(format!("{dir} is no results directory: it has no run.json")));
    }
    read_json(&dir.join("run.json"))
}

/// All runs of the results directory `dir`, in the order in which they were started.
pub fn read_runs(dir: &Path) -> Result<Vec<Run>, Error> {
    let raw = dir.join("raw");
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(&raw).map_err(Error::at(&raw))? {
        let path = entry.map_err(Error::at(&raw))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            runs.push(Run::new(read_json(&path)?, &raw)?);
        }
    }
    if runs.is_empty() {
        return Err(Error::Failed(format!("{} holds no runs", raw.display())));
    }
    // The file name too: two short runs may begin in the same second.
    runs.sort_by_key(|run| (run.record.started.clone(), run.record.file_name()));
    Ok(runs)
}

/// The runs of a results directory, of one raw file, or of one report that a bench printed.
pub fn read_any(path: &Path) -> Result<Vec<Run>, Error> {
    if path.is_dir() {
        return read_runs(path);
    }
    if !path.is_file() {
        let path = path.display();
        return Err(Error::Usage(format!("{path} is neither a results directory nor a file")));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let value: Value = read_json(path)?;
    if value.get("report").is_some() {
        let record = serde_json::from_value(value).map_err(|why| Error::content(path, why))?;
        return Ok(vec![Run::new(record, folder)?]);
    }
    let bench = BenchReport::deserialize(&value).map_err(|why| Error::content(path, why))?;
    let record = RunRecord {
        system: LOGGOS.to_owned(),
        name: name_of(&bench),
        repeat: 1,
        started: String::new(),
        command: String::new(),
        histogram: None,
        remarks: Vec::new(),
        report: value,
    };
    Ok(vec![Run { record, bench, folder: folder.to_owned() }])
}

/// The name of closed-loop settings, such as `n3-b256-d64`: 3 nodes, 256 bytes, 64 in flight.
pub fn closed_name(nodes: usize, record_bytes: usize, depth: usize) -> String {
    format!("n{nodes}-b{record_bytes}-d{depth}")
}

fn name_of(bench: &BenchReport) -> String {
    let load = &bench.workload;
    match load.rate_per_s {
        None => closed_name(bench.cluster.nodes, load.record_bytes, bench.depth()),
        Some(rate) => format!("n{}-b{}-{rate:.0}s", bench.cluster.nodes, load.record_bytes),
    }
}

/// Runs of the same system and settings.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// One or more, in the order in which they were started.
    pub runs: Vec<&'a Run>,
}

impl<'a> Group<'a> {
    /// One of them, for what they have in common.
    pub fn first(&self) -> &'a Run {
        self.runs[0]
    }

    /// The figures of each.
    pub fn all(&self) -> Vec<Figures> {
        self.runs.iter().map(|run| run.bench.figures()).collect()
    }

    /// Their median.
    pub fn figures(&self) -> Figures {
        Figures::median(&self.all()).unwrap_or_default()
    }
}

/// `runs` by system and settings' name.
pub fn groups(runs: &[Run]) -> BTreeMap<(String, String), Group<'_>> {
    let mut groups: BTreeMap<_, Group<'_>> = BTreeMap::new();
    for run in runs {
        let key = (run.record.system.clone(), run.record.name.clone());
        groups.entry(key).or_insert(Group { runs: Vec::new() }).runs.push(run);
    }
    groups
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::tests::SAMPLE;

    /// A run made from the sample report.
    pub fn run(system: &str, name: &str, repeat: u32, change: impl Fn(&mut BenchReport)) -> Run {
        let mut bench: BenchReport = serde_json::from_str(SAMPLE).unwrap();
        change(&mut bench);
        let record = RunRecord {
            system: system.to_owned(),
            name: name.to_owned(),
            repeat,
            started: format!("2026-01-31T12:00:0{repeat}Z"),
            command: "target/release/loggos bench".to_owned(),
            histogram: None,
            remarks: Vec::new(),
            report: serde_json::to_value(&bench).unwrap(),
        };
        Run { record, bench, folder: PathBuf::new() }
    }

    #[test]
    fn what_is_written_is_read_and_grouped() {
        let root = tempfile::tempdir().unwrap();
        let results = Results::create(root.path(), "box", "matrix").unwrap();
        for repeat in [2, 1] {
            run(LOGGOS, "n3-b256-d256", repeat, |_| ()).record.write(&results.raw()).unwrap();
        }
        run(LOGGOS, "n3-b256-d1", 1, |_| ()).record.write(&results.raw()).unwrap();
        let runs = read_runs(&results.dir).unwrap();
        assert_eq!(runs.len(), 3);
        let groups = groups(&runs);
        let group = &groups[&(LOGGOS.to_owned(), "n3-b256-d256".to_owned())];
        assert_eq!(group.runs.iter().map(|r| r.record.repeat).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_second_run_of_a_day_gets_a_directory_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let first = Results::create(root.path(), "box", "peers").unwrap();
        let second = Results::create(root.path(), "box", "peers").unwrap();
        let first = first.dir.display().to_string();
        assert_eq!(second.dir.display().to_string(), format!("{first}-2"));
    }

    #[test]
    fn a_bare_report_is_named_by_its_settings_and_nonsense_is_named_by_its_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.json");
        std::fs::write(&path, SAMPLE).unwrap();
        assert_eq!(read_any(&path).unwrap()[0].record.name, "n3-b256-d256");
        for nonsense in ["", "{}", "[1]", "{\"report\":{}}"] {
            std::fs::write(&path, nonsense).unwrap();
            assert!(read_any(&path).unwrap_err().to_string().contains("x.json"), "{nonsense}");
        }
        assert!(read_any(&root.path().join("none")).is_err());
        assert!(read_runs(root.path()).is_err());
    }
}
