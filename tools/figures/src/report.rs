//! A results directory's README.md and plots, made from its raw files and nothing else: what
//! `matrix` and `peers` do at their end, and `plot` again at any time.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Error;
use crate::markdown::{Table, count, maybe, percent, short, size};
use crate::matrix::{BASE_BYTES, BASE_DEPTH};
use crate::plots::{Chart, Series, Style, curve, read_histogram};
use crate::record::{Group, Kind, LOGGOS, Meta, Run, groups, read_meta, read_runs};

/// Writes README.md and the plots of `dir` anew.
pub fn regenerate(dir: &Path) -> Result<(), Error> {
    let (meta, runs) = (read_meta(dir)?, read_runs(dir)?);
    let text = match meta.kind {
        Kind::Matrix => matrix(dir, &meta, &runs)?,
        #[cfg(feature = "peers")]
        Kind::Peers => crate::peers::report::peers(&meta, &runs),
        #[cfg(not(feature = "peers"))]
        Kind::Peers => return Err(Error::Usage("built without the feature `peers`".to_owned())),
    };
    let path = dir.join("README.md");
    std::fs::write(&path, text).map_err(Error::at(&path))
}

/// What is said of every result: where, when, of what, and that it is durable.
pub fn preamble(title: &str, meta: &Meta, runs: &[Run]) -> String {
    let mut text = format!("# {title}\n\n");
    if meta.smoke {
        text.push_str(
            "**A smoke test: short runs on a machine that may be busy. Not a measurement.**\n\n",
        );
    }
    text.push_str(&facts(meta, runs));
    text.push_str(
        "\nAll replicas and the load generator share this one machine and its one disk. Each run's \
         exact command, start and report are in `raw/`.\n",
    );
    for note in &meta.notes {
        text.push_str(&format!("\n- {note}"));
    }
    if !meta.notes.is_empty() {
        text.push('\n');
    }
    text
}

fn facts(meta: &Meta, runs: &[Run]) -> String {
    let loggos: Vec<&Run> = runs.iter().filter(|run| run.record.system == LOGGOS).collect();
    let distinct = |of: &dyn Fn(&Run) -> String| {
        let all: BTreeSet<String> = loggos.iter().map(|run| of(run)).collect();
        all.into_iter().collect::<Vec<_>>().join("; ")
    };
    let rows = [
        ("command", format!("`{}`", meta.command)),
        ("begun", meta.started.clone()),
        ("loggos", distinct(&|run| format!("{} ({})", run.bench.version, run.bench.commit))),
        ("repository", meta.commit.clone()),
        ("machine", format!("{}: {}", meta.host_name, distinct(&|r| r.bench.host.to_text()))),
        (
            "a run",
            distinct(&|run| {
                let load = &run.bench.workload;
                format!("{} s measured after {} s of warm-up", load.duration_s, load.warmup_s)
            }),
        ),
        (
            "durability",
            "fsync: an append is answered when a majority has it on its disk. Loggos has no other \
             mode"
                .to_owned(),
        ),
    ];
    let mut table = Table::new(2, &["", ""]);
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.to_text()
}

fn matrix(dir: &Path, meta: &Meta, runs: &[Run]) -> Result<String, Error> {
    let groups: Vec<Group<'_>> = groups(runs).into_values().collect();
    let sizes: BTreeSet<usize> = runs.iter().map(|run| run.bench.cluster.nodes).collect();
    let mut text =
        preamble("Loggos over cluster sizes, depths, record sizes and rates", meta, runs);
    text.push_str(EXPLANATION);
    let general = [
        ("size-throughput", by_size(&groups, &sizes, "payload, MB/s", &|g| Some(g.mb_per_s))),
        ("size-appends", by_size(&groups, &sizes, "appends/s", &|g| Some(g.per_s))),
        ("depth-cpu", by_depth(&groups, &sizes, "servers' CPU an append, us", &|g| g.cpu_us)),
        (
            "depth-client-cpu",
            by_depth(&groups, &sizes, "load generator's CPU an append, us", &|g| g.client_cpu_us),
        ),
        ("depth-floor", by_depth(&groups, &sizes, "p50 over a lone commit", &|g| g.over_commit)),
    ];
    for (name, chart) in general {
        picture(dir, name, chart, &mut text)?;
    }
    for &nodes in &sizes {
        text.push_str(&format!("\n## {}\n", named(nodes)));
        let mine: Vec<_> =
            groups.iter().filter(|g| g.first().bench.cluster.nodes == nodes).cloned().collect();
        sections(&mine, &mut text);
        picture(dir, &format!("n{nodes}-latency"), latency_by_load(&mine, nodes), &mut text)?;
        picture(dir, &format!("n{nodes}-percentiles"), percentiles(&mine, nodes)?, &mut text)?;
    }
    text.push_str(&remarks(runs));
    Ok(text)
}

/// What runs said of themselves beyond their numbers, if any did.
pub fn remarks(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        for remark in &run.record.remarks {
            let record = &run.record;
            text.push_str(&format!(
                "- {} {} (run {}): {remark}\n",
                record.system, record.name, record.repeat
            ));
        }
    }
    if text.is_empty() { text } else { format!("\n## Remarks of runs\n\n{text}") }
}

const EXPLANATION: &str = "
Of repeated runs every number is the median, and `runs` tells how many there are. **cpu**: CPU time
of all servers for each append; **client**: that of the load generator, which shares the machine with
them. **/commit**: p50 over the price of a lone commit (one durable 4 KiB
write and the round trips), measured in the same run, just before the load; below 1 the machine was
busier with something else then, and the floor is to be doubted. **of disk**: payload times replicas
over the durable bandwidth of the disk that all of them share. **lost**: failed and unknown. Rates
are open loops: latencies count from the time at which an append was due, at a share of the knee,
which is the throughput at 256 in flight measured in the same invocation.
";

fn named(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

fn sections(groups: &[Group<'_>], text: &mut String) {
    let in_sweep = |wanted: fn(&Run) -> bool| {
        let mut rows: Vec<_> = groups.iter().filter(|g| wanted(g.first())).collect();
        rows.sort_by(|a, b| sort_key(a).total_cmp(&sort_key(b)));
        rows
    };
    let sweeps = [
        ("Depth, at 256 B", "in flight", in_sweep(is_depth)),
        ("Record size, at 256 in flight", "record", in_sweep(is_size)),
        ("Open loop, at 256 B", "rate /s", in_sweep(|run| !is_closed(run))),
    ];
    for (title, label, rows) in sweeps {
        if rows.is_empty() {
            continue;
        }
        let header = [
            label,
            "appends/s",
            "MB/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "cpu us",
            "client us",
            "/commit",
            "of disk",
            "lost",
            "runs",
        ];
        let mut table = Table::new(1, &header);
        for group in rows {
            let f = group.figures();
            let bench = &group.first().bench;
            let what = match (bench.workload.rate_per_s, label) {
                (Some(rate), _) => count(rate),
                (None, "record") => size(bench.workload.record_bytes),
                (None, _) => count(bench.depth() as f64),
            };
            table.row([
                what,
                count(f.per_s),
                short(f.mb_per_s),
                short(f.p50_us),
                short(f.p99_us),
                short(f.p999_us),
                maybe(f.cpu_us),
                maybe(f.client_cpu_us),
                maybe(f.over_commit),
                percent(f.of_bandwidth),
                count(f.lost),
                group.runs.len().to_string(),
            ]);
        }
        text.push_str(&format!("\n{title}:\n\n{}", table.to_text()));
    }
}

fn is_closed(run: &Run) -> bool {
    run.bench.workload.rate_per_s.is_none()
}

fn is_depth(run: &Run) -> bool {
    is_closed(run) && run.bench.workload.record_bytes == BASE_BYTES
}

fn is_size(run: &Run) -> bool {
    is_closed(run) && run.bench.depth() == BASE_DEPTH
}

/// Within one sweep: by rate, or by depth and size.
fn sort_key(group: &Group<'_>) -> f64 {
    let bench = &group.first().bench;
    let closed = (bench.depth() * bench.workload.record_bytes) as f64;
    bench.workload.rate_per_s.unwrap_or(closed)
}

/// Draws `chart` and shows it, unless there is nothing to see.
fn picture(dir: &Path, name: &str, chart: Chart, text: &mut String) -> Result<(), Error> {
    let title = chart.title.clone();
    if chart.write(&dir.join(format!("{name}.svg")))? {
        text.push_str(&format!("\n![{title}]({name}.svg)\n"));
    }
    Ok(())
}

type Get<'a> = &'a dyn Fn(&crate::bench::Figures) -> Option<f64>;

/// One line per cluster size over what `x` says of the runs that `wanted` chooses.
fn per_cluster(
    groups: &[Group<'_>],
    sizes: &BTreeSet<usize>,
    wanted: fn(&Run) -> bool,
    x: fn(&Run) -> f64,
    y: Get<'_>,
) -> Vec<Series> {
    let line = |(color, &nodes): (usize, &usize)| {
        let mine = groups.iter().filter(|group| {
            let run = group.first();
            run.bench.cluster.nodes == nodes && wanted(run)
        });
        let mut points: Vec<_> =
            mine.filter_map(|group| Some((x(group.first()), y(&group.figures())?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: named(nodes), color, style: Style::Line, points }
    };
    sizes.iter().enumerate().map(line).collect()
}

fn by_size(groups: &[Group<'_>], sizes: &BTreeSet<usize>, what: &str, y: Get<'_>) -> Chart {
    let x = |run: &Run| run.bench.workload.record_bytes as f64;
    Chart {
        title: format!("{what} by record size, 256 in flight"),
        x: "record, bytes".to_owned(),
        y: what.to_owned(),
        series: per_cluster(groups, sizes, is_size, x, y),
    }
}

fn by_depth(groups: &[Group<'_>], sizes: &BTreeSet<usize>, what: &str, y: Get<'_>) -> Chart {
    Chart {
        title: format!("{what} by depth, 256 B records"),
        x: "in flight".to_owned(),
        y: what.to_owned(),
        series: per_cluster(groups, sizes, is_depth, |run| run.bench.depth() as f64, y),
    }
}

fn latency_by_load(groups: &[Group<'_>], nodes: usize) -> Chart {
    let series = |name: &str, color, closed: bool, y: Get<'_>| {
        let mine = groups.iter().filter(|g| {
            let run = g.first();
            if closed { is_depth(run) } else { !is_closed(run) }
        });
        let mut points: Vec<_> = mine
            .filter_map(|group| {
                let figures = group.figures();
                Some((group.first().bench.depth(), (figures.per_s, y(&figures)?)))
            })
            .collect();
        // Along the sweep: past the knee more depth may bring less.
        points.sort_by_key(|(depth, _)| *depth);
        let points = points.into_iter().map(|(_, point)| point).collect();
        let style = match (closed, color) {
            (false, _) => Style::Circles,
            (true, 0) => Style::Line,
            (true, _) => Style::Dashed,
        };
        Series { name: name.to_owned(), color, style, points }
    };
    Chart {
        title: format!("latency against load, {}, 256 B, by depth and rate", named(nodes)),
        x: "appends/s".to_owned(),
        y: "latency, us".to_owned(),
        series: vec![
            series("p50, closed loop", 0, true, &|f| Some(f.p50_us)),
            series("p99, closed loop", 1, true, &|f| Some(f.p99_us)),
            series("p50, open loop", 0, false, &|f| Some(f.p50_us)),
            series("p99, open loop", 1, false, &|f| Some(f.p99_us)),
        ],
    }
}

/// A curve per depth and rate, over the latencies of all repeats.
fn percentiles(groups: &[Group<'_>], nodes: usize) -> Result<Chart, Error> {
    let mut chosen: Vec<_> =
        groups.iter().filter(|g| is_depth(g.first()) || !is_closed(g.first())).collect();
    // Closed loops first, each kind by what it has more of.
    chosen.sort_by(|a, b| {
        let key = |group: &Group<'_>| (!is_closed(group.first()), sort_key(group));
        let (a, b) = (key(a), key(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let mut series = Vec::new();
    for (color, group) in chosen.into_iter().enumerate() {
        let mut all = None;
        for path in group.runs.iter().filter_map(|run| run.histogram()) {
            let one = read_histogram(&path)?;
            match &mut all {
                None => all = Some(one),
                Some(all) => all.add(&one).map_err(|why| Error::content(&path, why))?,
            }
        }
        let bench = &group.first().bench;
        let name = match bench.workload.rate_per_s {
            Some(rate) => format!("open loop, {} /s", count(rate)),
            None => format!("{} in flight", bench.depth()),
        };
        let style = Style::Curve;
        series.extend(all.map(|all| Series { name, color, style, points: curve(&all) }));
    }
    Ok(Chart {
        title: format!("latency by percentile, {}, 256 B", named(nodes)),
        x: "1 / (1 - percentile): 100 is p99, 1k is p99.9".to_owned(),
        y: "latency, us".to_owned(),
        series,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Results;
    use crate::record::tests::run;

    fn meta(kind: Kind) -> Meta {
        Meta {
            kind,
            command: "figures matrix".to_owned(),
            commit: "abc".to_owned(),
            started: "2026-01-31T12:00:00Z".to_owned(),
            host_name: "box".to_owned(),
            smoke: true,
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn a_matrix_becomes_tables_and_plots() {
        let root = tempfile::tempdir().unwrap();
        let results = Results::create(root.path(), "box", "matrix").unwrap();
        results.write_meta(&meta(Kind::Matrix)).unwrap();
        let keep = |run: Run| run.record.write(&results.raw()).unwrap();
        for (depth, per_s) in [(1, 3_000.0), (64, 250_000.0)] {
            keep(run(LOGGOS, &format!("n3-b256-d{}", depth * 4), 1, |bench| {
                bench.workload.inflight = depth;
                bench.appends.per_s = per_s;
            }));
        }
        keep(run(LOGGOS, "n3-b256-rate80", 1, |b| b.workload.rate_per_s = Some(200_000.0)));
        keep(run(LOGGOS, "n1-b4096-d256", 1, |bench| {
            bench.cluster.nodes = 1;
            bench.workload.record_bytes = 4096;
            bench.appends.failed = 7;
        }));
        regenerate(&results.dir).unwrap();
        let text = std::fs::read_to_string(results.dir.join("README.md")).unwrap();
        for part in ["smoke test", "## 1 node\n", "## 3 nodes", "4 KiB", "250,000", "Open loop"] {
            assert!(text.contains(part), "{part} is missing from\n{text}");
        }
        assert!(text.lines().any(|l| l.starts_with("| 4 KiB") && l.contains("|    7 |")), "{text}");
        for plot in ["n3-latency", "depth-cpu", "depth-client-cpu"] {
            assert!(results.dir.join(format!("{plot}.svg")).exists(), "{plot}");
            assert!(text.contains(&format!("({plot}.svg)")), "{plot} is missing from\n{text}");
        }
        assert!(text.lines().any(|l| l.contains("cpu us") && l.contains("client us")), "{text}");
        // No histograms were kept, so there is no such plot, and no dead link to it.
        assert!(!text.contains("n3-percentiles.svg"));
    }
}
