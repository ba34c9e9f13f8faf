//! The report of `figures peers`: a table per shape of load, and in words where a peer wins.

use std::collections::BTreeMap;

use crate::bench::{Figures, over};
use crate::markdown::{Table, count, maybe, short, size};
use crate::record::{LOGGOS, Meta, Run};
use crate::report::{preamble, remarks};

/// What is judged: name, unit, the number, and whether more is better.
type Measure = (&'static str, &'static str, fn(&Figures) -> f64, bool);

const MEASURES: [Measure; 3] = [
    ("throughput", "/s", |f| f.per_s, true),
    ("p50", "us", |f| f.p50_us, false),
    ("p99", "us", |f| f.p99_us, false),
];

/// Who is ahead in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    Loggos,
    Peer,
    /// The peer lies between the two runs of Loggos.
    Nobody,
}

/// Judges a peer's number against Loggos's before and after it.
fn ahead(before: f64, peer: f64, after: f64, more_is_better: bool) -> Ahead {
    let (least, most) = (before.min(after), before.max(after));
    if (least..=most).contains(&peer) {
        return Ahead::Nobody;
    }
    if (peer > most) == more_is_better { Ahead::Peer } else { Ahead::Loggos }
}

/// The text of README.md.
pub fn peers(meta: &Meta, runs: &[Run]) -> String {
    let mut text = preamble("Loggos beside other systems", meta, runs);
    text.push_str(
        "\nRows are in the order in which they ran; Loggos is measured before and after each peer, \
         and a ratio is of the mean of these two over the peer. Above 1 is good for Loggos in the \
         column of throughput, below 1 in those of latency and CPU. **cpu**: CPU time of all \
         servers for each operation; **client**: that of the load generator, which shares the \
         machine with them. **lost**: failed and unknown, never in a latency or a rate.\n",
    );
    let mut shapes: BTreeMap<(usize, usize), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let key = (run.bench.workload.record_bytes, run.bench.depth());
        shapes.entry(key).or_default().push(run);
    }
    let mut words = Vec::new();
    let mut tables = String::new();
    for ((record_bytes, depth), mut rows) in shapes {
        // Pass 1 of Loggos, the first peer, pass 2 of Loggos, and so on.
        rows.sort_by_key(|run| (run.record.repeat, run.record.system != LOGGOS));
        let shape = format!("{} in flight, {}", count(depth as f64), size(record_bytes));
        tables.push_str(&format!("\n## {shape}\n\n{}", table(&rows)));
        for peer in rows.iter().filter(|run| run.record.system != LOGGOS) {
            words.extend(judgements(peer, &rows, &shape));
        }
    }
    text.push_str("\n## Where a peer wins\n\n");
    text.push_str(&verdict(&words, runs));
    text.push_str(&tables);
    text.push_str(&remarks(runs));
    text
}

/// The runs of Loggos before and after `peer`.
fn around(peer: &Run, rows: &[&Run]) -> Option<(Figures, Figures)> {
    let pass = |number: u32| {
        let found =
            rows.iter().find(|run| run.record.system == LOGGOS && run.record.repeat == number);
        found.map(|run| run.bench.figures())
    };
    Some((pass(peer.record.repeat)?, pass(peer.record.repeat + 1)?))
}

fn table(rows: &[&Run]) -> String {
    let header = [
        "system",
        "answers after",
        "ops/s",
        "MB/s",
        "p50 us",
        "p99 us",
        "cpu us",
        "client us",
        "lost",
        "Loggos/peer ops/s",
        "p50",
        "p99",
        "cpu",
    ];
    let mut table = Table::new(2, &header);
    for run in rows {
        let f = run.bench.figures();
        let ratios = around(run, rows).filter(|_| run.record.system != LOGGOS);
        let ratio = |get: &dyn Fn(&Figures) -> Option<f64>| {
            let Some((before, after)) = &ratios else { return String::new() };
            let mean = get(before).zip(get(after)).map(|(a, b)| (a + b) / 2.0);
            maybe(mean.zip(get(&f)).and_then(|(loggos, peer)| over(loggos, peer)))
        };
        table.row([
            run.record.system.clone(),
            run.bench.cluster.durability.clone(),
            count(f.per_s),
            short(f.mb_per_s),
            short(f.p50_us),
            short(f.p99_us),
            maybe(f.cpu_us),
            maybe(f.client_cpu_us),
            count(f.lost),
            ratio(&|f| Some(f.per_s)),
            ratio(&|f| Some(f.p50_us)),
            ratio(&|f| Some(f.p99_us)),
            ratio(&|f| f.cpu_us),
        ]);
    }
    table.to_text()
}

/// A sentence for each number in which Loggos is not clearly ahead of `peer`.
fn judgements(peer: &Run, rows: &[&Run], shape: &str) -> Vec<String> {
    let durability = &peer.bench.cluster.durability;
    let name = match durability == "fsync" {
        true => peer.record.system.clone(),
        // Whoever quotes the sentence quotes this, too.
        false => format!("{} ({durability})", peer.record.system),
    };
    let Some((before, after)) = around(peer, rows) else {
        return vec![format!("{shape}: {name} has no run of Loggos on both sides.")];
    };
    let own = peer.bench.figures();
    let mut sentences = Vec::new();
    for (what, unit, get, more_is_better) in MEASURES {
        let (a, p, b) = (get(&before), get(&own), get(&after));
        let numbers = format!("{} {unit} against {} and {}", short(p), short(a), short(b));
        match ahead(a, p, b, more_is_better) {
            Ahead::Loggos => {}
            Ahead::Peer => {
                sentences.push(format!("{shape}: **{name} wins in {what}**, {numbers} of Loggos."));
            }
            Ahead::Nobody => {
                sentences.push(format!("{shape}: {name} and Loggos tie in {what}, {numbers}."));
            }
        }
    }
    if own.lost > 0.0 {
        let why = peer.record.remarks.first().map_or("no error was told", String::as_str);
        sentences.push(format!("{shape}: {name} lost {} operations ({why}).", count(own.lost)));
    }
    sentences
}

fn verdict(words: &[String], runs: &[Run]) -> String {
    let peers = runs.iter().filter(|run| run.record.system != LOGGOS).count();
    match (peers, words.is_empty()) {
        (0, _) => "No peer was measured.\n".to_owned(),
        (_, true) => {
            "Nowhere here: in throughput, p50 and p99 of every load below, both runs of Loggos \
             are ahead of the peer between them.\n"
                .to_owned()
        }
        (_, false) => {
            let lines: Vec<_> = words.iter().map(|word| format!("- {word}\n")).collect();
            format!("{}\nIn everything else both runs of Loggos are ahead.\n", lines.concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use crate::record::tests::run;

    #[test]
    fn a_peer_between_the_two_runs_of_loggos_ties() {
        assert_eq!(ahead(100.0, 105.0, 110.0, true), Ahead::Nobody);
        assert_eq!(ahead(110.0, 120.0, 100.0, true), Ahead::Peer);
        assert_eq!(ahead(110.0, 90.0, 100.0, true), Ahead::Loggos);
        assert_eq!(ahead(110.0, 90.0, 100.0, false), Ahead::Peer);
        assert_eq!(ahead(110.0, 120.0, 100.0, false), Ahead::Loggos);
    }

    fn measured(system: &str, repeat: u32, per_s: f64, p99: f64, failed: u64) -> Run {
        run(system, "n3-b256-d256", repeat, |bench| {
            bench.appends.per_s = per_s;
            bench.appends.latency_us.p50 = 1e6 / per_s;
            bench.appends.latency_us.p99 = p99;
            bench.appends.failed = failed;
        })
    }

    fn text(peer_p99: f64, failed: u64) -> String {
        let meta = Meta {
            kind: Kind::Peers,
            command: "figures peers".to_owned(),
            commit: "abc".to_owned(),
            started: String::new(),
            host_name: "box".to_owned(),
            smoke: false,
            notes: Vec::new(),
        };
        let runs = [
            measured(LOGGOS, 2, 300.0, 12.0, 0),
            measured("etcd", 1, 100.0, peer_p99, failed),
            measured(LOGGOS, 1, 100.5, 10.0, 0),
        ];
        peers(&meta, &runs)
    }

    #[test]
    fn rows_are_in_order_and_ratios_of_the_mean_around() {
        let text = text(20.0, 0);
        let rows: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with("| loggos ") || l.starts_with("| etcd"))
            .collect();
        let systems: Vec<_> =
            rows.iter().filter_map(|row| row.split('|').nth(1)).map(str::trim).collect();
        // The first is the preamble's row about the version.
        assert_eq!(systems, ["loggos", "loggos", "etcd", "loggos"]);
        assert!(rows[2].contains(" 2.00 |"), "{}", rows[2]);
        assert!(text.contains("Nowhere here"), "{text}");
    }

    #[test]
    fn where_a_peer_wins_or_loses_operations_is_said_in_words() {
        let text = text(5.0, 7);
        assert!(text.contains("**etcd wins in p99**, 5.00 us against 10.0 and 12.0"), "{text}");
        assert!(text.contains("etcd lost 7 operations"), "{text}");
    }
}
