//! `loggos doctor`: what this host offers, its floors, and what to change.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::args::DoctorArgs;
use super::error::CliError;
use super::output::Output;
use super::serve::files_wanted;
use crate::base::limits::BLOCK_SIZE;
use crate::loadgen::report::bytes;
use crate::uring::KERNEL_VERSION_MIN;
use crate::uring::floor::{self, Floor};
use crate::uring::host::{Filesystem, HostReport, probe};

/// How long each part of the floors is measured on a quiet machine.
pub const FLOOR_TIME: Duration = Duration::from_secs(1);
/// Locked memory that a node may need on old kernels, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Open files that a node with many clients needs.
const OPEN_FILES_MIN: u64 = 1024;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Loggos does not run here.
    Fatal,
    /// It runs, and something costs speed or safety.
    Advice,
}

/// Something to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    text: String,
}

/// What `loggos doctor --json` prints.
#[derive(Debug, Serialize)]
struct Diagnosis {
    host: HostReport,
    /// Null when it could not be measured.
    floor: Option<Floor>,
    findings: Vec<Finding>,
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let data = args.data.display();
    if !args.data.is_dir() {
        return Err(CliError::usage(format!("{data} is not a directory; make it, or give --data")));
    }
    let host = probe(Some(&args.data));
    let mut findings = examine(&host);
    let floor = match floor::measure(&args.data, FLOOR_TIME) {
        Ok(floor) => {
            let doubt = floor.doubt().map(|text| Finding { severity: Severity::Advice, text });
            findings.extend(doubt);
            Some(floor)
        }
        Err(error) => {
            let text = format!("the floors cannot be measured in {data}: {error}");
            findings.push(Finding { severity: Severity::Fatal, text });
            None
        }
    };
    let diagnosis = Diagnosis { host, floor, findings };
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&diagnosis)?,
        false => output.write(to_text(&diagnosis).as_bytes())?,
    }
    output.flush()?;
    match diagnosis.findings.iter().find(|finding| finding.severity == Severity::Fatal) {
        Some(fatal) => Err(CliError::usage(&fatal.text)),
        None => Ok(()),
    }
}

/// What is wrong with this host, the worst first.
fn examine(host: &HostReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, text: String| findings.push(Finding { severity, text });
    if host.kernel_version < KERNEL_VERSION_MIN {
        let KernelParts { major, minor } = KernelParts::MIN;
        add(
            Severity::Fatal,
            format!("kernel {} is too old: install {major}.{minor} or newer", host.kernel),
        );
    }
    if let Some(problem) = &host.ring.problem {
        add(Severity::Fatal, format!("io_uring does not work: {problem}"));
    }
    if let Some(filesystem) = host.filesystem.as_ref().filter(|filesystem| filesystem.in_memory) {
        let text = format!("the folder is on {}, in memory: choose a real disk", filesystem.kind);
        add(Severity::Fatal, text);
    } else if host.direct_io_works == Some(false) {
        let kind = host.filesystem.as_ref().map_or("the file system", |f| f.kind.as_str());
        let text = format!("{kind} does not take O_DIRECT: choose a folder on ext4 or xfs");
        add(Severity::Fatal, text);
    }
    if host.direct_io.is_some_and(|alignment| alignment.exceeds(BLOCK_SIZE)) {
        let text = format!("the disk asks for an alignment that {BLOCK_SIZE}-byte blocks break");
        add(Severity::Fatal, text);
    }
    add_advice(host, &mut add);
    findings
}

/// The oldest kernel, for messages.
struct KernelParts {
    major: u32,
    minor: u32,
}

impl KernelParts {
    const MIN: KernelParts =
        KernelParts { major: KERNEL_VERSION_MIN.major, minor: KERNEL_VERSION_MIN.minor };
}

fn add_advice(host: &HostReport, add: &mut impl FnMut(Severity, String)) {
    let mut advise = |text: String| add(Severity::Advice, text);
    if host.tcp_congestion.as_deref() == Some("bbr") {
        advise(
            "TCP congestion control is bbr, which streams slowly over loopback and short links: \
             set net.ipv4.tcp_congestion_control=cubic"
                .to_owned(),
        );
    }
    if let Some(warning) = host.filesystem.as_ref().and_then(Filesystem::warning) {
        advise(warning.to_owned());
    }
    if let Some(source) = host.clock_source.as_deref()
        && matches!(source, "hpet" | "acpi_pm")
    {
        advise(format!("the clock source is {source}, slow to read: use tsc if the host has it"));
    }
    if let Some(limit) = host.memlock_bytes.filter(|limit| *limit < MEMLOCK_BYTES_MIN) {
        advise(format!("locked memory is limited to {limit} bytes: raise it (ulimit -l 8192)"));
    }
    if let Some(limit) = host.open_files.filter(|limit| *limit < OPEN_FILES_MIN) {
        advise(format!("open files are limited to {limit}: raise it (ulimit -n 65536)"));
    }
    // A node raises its own limit, but no further than to the hard one.
    let wanted = files_wanted(1);
    if let Some(limit) = host.open_files_hard.filter(|limit| *limit < wanted) {
        advise(format!(
            "a node may open no more than {limit} files, and takes fewer clients: for all of them a \
             group needs {wanted}; raise the hard limit (ulimit -Hn 65536)"
        ));
    }
    if host.cpus < 2 {
        advise(
            "one processor: the node, its clients and the disk's interrupts share it".to_owned(),
        );
    }
    if let Some(device) = &host.device {
        if device.rotational == Some(true) {
            advise(format!("{} says that it turns: every commit waits for it", device.name));
        }
        let volatile = device.write_cache.as_deref() == Some("write back");
        if volatile && device.fua == Some(false) {
            advise(format!(
                "{} has a volatile write cache and no FUA: every commit costs a whole flush; a \
                 disk with power-loss protection or FUA is faster",
                device.name
            ));
        }
    }
}

fn to_text(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    write_text(&mut text, diagnosis).expect("writing to a string does not fail");
    text
}

fn write_text(out: &mut String, diagnosis: &Diagnosis) -> std::fmt::Result {
    let host = &diagnosis.host;
    let unknown = || "unknown".to_owned();
    let mut row = |name: &str, value: String| writeln!(out, "{name:<20}{value}");
    row("kernel", host.kernel.clone())?;
    row(
        "io_uring",
        if host.ring.available { "works".to_owned() } else { "does not work".to_owned() },
    )?;
    row("processors", format!("{} x {}", host.cpus, host.cpu_model.as_deref().unwrap_or("?")))?;
    row("memory", bytes(host.memory_bytes as f64))?;
    row("locked memory", limit(host.memlock_bytes.map(|limit| bytes(limit as f64))))?;
    let files = [host.open_files, host.open_files_hard];
    let [soft, hard] = files.map(|files| limit(files.map(|limit| limit.to_string())));
    row("open files", format!("{soft}, raised up to {hard}"))?;
    let clock = host.clock_source.clone().unwrap_or_else(unknown);
    row("clock", format!("{clock}, {} ns", host.clock_resolution_ns))?;
    row("tcp congestion", host.tcp_congestion.clone().unwrap_or_else(unknown))?;
    if let Some(f) = &host.filesystem {
        let free = bytes(f.free_bytes as f64);
        row(
            "file system",
            format!("{} on {} at {}, {free} free", f.kind, f.source, f.mount_point.display()),
        )?;
    }
    if let Some(device) = &host.device {
        let model = device.model.as_deref().unwrap_or("no model named");
        row("disk", format!("{} ({model})", device.name))?;
        let cache = device.write_cache.clone().unwrap_or_else(unknown);
        let fua = match device.fua {
            Some(true) => "FUA",
            Some(false) => "no FUA",
            None => "FUA unknown",
        };
        row("write cache", format!("{cache}, {fua}"))?;
        let block = device.physical_block_bytes.map_or_else(unknown, |b| b.to_string());
        row("physical block", format!("{block} bytes"))?;
    }
    let direct = match (host.direct_io_works, host.direct_io) {
        (Some(false), _) => "does not work".to_owned(),
        (_, Some(a)) => {
            format!("works, memory to {} bytes, offsets to {}", a.memory_bytes, a.offset_bytes)
        }
        (Some(true), None) => "works".to_owned(),
        (None, None) => unknown(),
    };
    row("O_DIRECT", direct)?;
    if let Some(floor) = &diagnosis.floor {
        let write = floor.durable_write;
        row(
            "durable 4 KiB write",
            format!("p50 {:.1} us, p99 {:.1} us", write.us_p50, write.us_p99),
        )?;
        row("durable bandwidth", format!("{}/s", bytes(floor.durable_bytes_per_s)))?;
        row("… to fresh blocks", format!("{}/s", bytes(floor.fresh_bytes_per_s)))?;
        let trip = floor.round_trip;
        row(
            "loopback round trip",
            format!(
                "p50 {:.1} us, p99 {:.1} us, {}",
                trip.us_p50,
                trip.us_p99,
                match floor.round_trip_cpus {
                    Some([first, second]) => format!("between processors {first} and {second}"),
                    None => "on one processor".to_owned(),
                }
            ),
        )?;
    }
    writeln!(out)?;
    if diagnosis.findings.is_empty() {
        return writeln!(out, "nothing to change");
    }
    for finding in &diagnosis.findings {
        let mark = match finding.severity {
            Severity::Fatal => "FATAL ",
            Severity::Advice => "advice",
        };
        writeln!(out, "{mark}  {}", finding.text)?;
    }
    Ok(())
}

fn limit(value: Option<String>) -> String {
    value.unwrap_or_else(|| "no limit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let mut host = probe(None);
        host.ring.problem = Some("EPERM".to_owned());
        host.tcp_congestion = Some("bbr".to_owned());
        host.open_files = Some(256);
        host.open_files_hard = Some(files_wanted(1));
        let findings = examine(&host);
        let has = |severity, part: &str| {
            findings.iter().any(|f| f.severity == severity && f.text.contains(part))
        };
        assert!(has(Severity::Fatal, "io_uring does not work: EPERM"), "{findings:?}");
        assert!(has(Severity::Advice, "cubic"));
        assert!(has(Severity::Advice, "ulimit -n"));
        assert!(!has(Severity::Advice, "ulimit -Hn"), "a node raises its limit so far");
        let first_advice = findings.iter().position(|f| f.severity == Severity::Advice);
        let last_fatal = findings.iter().rposition(|f| f.severity == Severity::Fatal);
        assert!(last_fatal < first_advice, "the worst first");
    }

    #[test]
    fn a_hard_limit_of_open_files_that_costs_clients_is_named() {
        let mut host = probe(None);
        let advised = |host: &HostReport| {
            examine(host).iter().any(|finding| finding.text.contains("ulimit -Hn"))
        };
        host.open_files_hard = None;
        assert!(!advised(&host));
        // However high the limit stands that it starts with.
        (host.open_files, host.open_files_hard) = (Some(4096), Some(4096));
        assert!(advised(&host));
    }

    #[test]
    fn this_host_is_described_in_text_and_json() {
        let host = probe(Some(std::path::Path::new(".")));
        let diagnosis = Diagnosis { findings: examine(&host), host, floor: None };
        let text = to_text(&diagnosis);
        assert!(text.contains("kernel") && text.contains("O_DIRECT"), "{text}");
        let json = serde_json::to_value(&diagnosis).unwrap();
        assert!(json["host"]["cpus"].as_u64().unwrap() >= 1);
        assert!(json["floor"].is_null() && json["findings"].is_array());
    }
}
