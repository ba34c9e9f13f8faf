//! What the bench shows while a run goes on, and what it asks the cluster at both ends of the
//! measured phase.
//!
//! Used by every kind of run of `loggos bench`. A cluster that does not tell its counters costs the
//! report the fields that come of them, and nothing else.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::stderr::progress_target;
use crate::base::GroupId;
use crate::client::NodeStatus;
use crate::client::blocking::Client;
use crate::loadgen::bench::{Live, Observer};
use crate::loadgen::local::{LocalCluster, Usage};
use crate::loadgen::report::{BatchingReport, count};
use crate::loadgen::workload::Workload;
use crate::wire::status::BatchingStatus;

/// The cluster's counters at one end of the measured phase.
pub struct Counters {
    /// The leaders' own, by group; none unless all have told.
    pub leaders: Option<Vec<NodeStatus>>,
    /// Of all nodes.
    pub usage: Option<Usage>,
}

impl Counters {
    pub fn batching_until(&self, after: &Counters) -> Option<BatchingReport> {
        let (befores, afters) = (self.leaders.as_ref()?, after.leaders.as_ref()?);
        let mut sum = BatchingStatus::default();
        for (a, b) in befores.iter().zip(afters) {
            // Counters of another node, or of another life of it, do not compare.
            if a.node != b.node || a.resources.process_id != b.resources.process_id {
                return None;
            }
            let (a, b) = (&a.batching, &b.batching);
            sum.slots += b.slots.checked_sub(a.slots)?;
            sum.records += b.records.checked_sub(a.records)?;
            sum.durable_writes += b.durable_writes.checked_sub(a.durable_writes)?;
            sum.log_bytes += b.log_bytes.checked_sub(a.log_bytes)?;
        }
        let BatchingStatus { slots, records, durable_writes, log_bytes } = sum;
        let records_per_slot_mean = if slots > 0 { records as f64 / slots as f64 } else { 0.0 };
        Some(BatchingReport { slots, records_per_slot_mean, durable_writes, log_bytes })
    }

    pub fn cpu_s_until(&self, after: &Counters) -> Option<f64> {
        let cpu_s = after.usage?.cpu_s - self.usage?.cpu_s;
        // Below zero when a node was started anew meanwhile.
        (cpu_s >= 0.0).then_some(cpu_s)
    }
}

/// Shows the run and reads the cluster's counters at both ends of the measured phase.
pub struct Watch<'a> {
    client: &'a Client,
    groups: u16,
    cluster: Option<&'a LocalCluster>,
    display: Display,
    /// When the measured phase began.
    pub before: Option<Counters>,
    /// When it had ended.
    pub after: Option<Counters>,
}

impl<'a> Watch<'a> {
    /// Watches a run of `workload` on a cluster of so many groups; asks `client` for the counters.
    pub fn new(
        client: &'a Client,
        groups: u16,
        cluster: Option<&'a LocalCluster>,
        workload: &Workload,
    ) -> Watch<'a> {
        let display = Display::new(workload);
        Watch { client, groups, cluster, display, before: None, after: None }
    }

    /// The run is over: the live line stays as it is.
    pub fn end(&mut self) {
        self.display.end();
    }

    fn counters(&self) -> Counters {
        let groups = (0..self.groups).map(|group| self.client.of_group(GroupId(group)));
        let leaders: Result<Vec<_>, _> = groups.map(|client| client.status()).collect();
        let leaders = leaders.map_err(|error| {
            tracing::warn!(%error, "a leader does not tell its counters");
        });
        let usage = match self.cluster {
            Some(cluster) => Some(cluster.usage()),
            None => self.usage_elsewhere(),
        };
        Counters { leaders: leaders.ok(), usage }
    }

    /// The members' own word on what they use; none unless all of them answer.
    fn usage_elsewhere(&self) -> Option<Usage> {
        let mut usage = Usage::default();
        for (_, address) in self.client.members().ok()? {
            let resources = self.client.status_of(&address).ok()?.resources;
            usage.cpu_s += resources.cpu_us as f64 / 1e6;
            usage.rss_bytes_max = usage.rss_bytes_max.max(resources.rss_bytes_max);
        }
        Some(usage)
    }
}

impl Observer for Watch<'_> {
    fn live(&mut self, live: &Live) {
        self.display.show(live);
    }

    fn measure_begins(&mut self) {
        self.before = Some(self.counters());
    }

    fn measure_ends(&mut self) {
        self.after = Some(self.counters());
    }
}

/// The live line on standard error: one that changes in place on a terminal, else one a second.
struct Display {
    bar: Option<ProgressBar>,
    has_reads: bool,
}

impl Display {
    fn new(workload: &Workload) -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = ProgressBar::with_draw_target(None, progress_target());
            bar.with_style(style.expect("the template is a constant"))
        });
        Display { bar, has_reads: workload.append_percent < 100 }
    }

    fn show(&mut self, live: &Live) {
        let line = live_line(live, self.has_reads);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => note!("{line}"),
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

fn live_line(live: &Live, has_reads: bool) -> String {
    let phase = if live.elapsed_s <= 0.0 { "warm-up" } else { "" };
    let mut line = format!(
        "{:>6.1} s {phase:<7} {:>10} appends/s {:>8.1} MB/s",
        live.elapsed_s,
        count(live.appends_per_s),
        live.bytes_per_s / 1e6
    );
    if has_reads {
        line.push_str(&format!(" {:>10} reads/s", count(live.reads_per_s)));
    }
    line.push_str(&format!("   p50 {:.0} us   p99 {:.0} us", live.p50_us, live.p99_us));
    if live.lost > 0 {
        line.push_str(&format!("   {} lost", count(live.lost as f64)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::NodeStatus;

    fn counters(node: u16, process_id: u32, slots: u64, cpu_s: f64) -> Counters {
        let mut status = NodeStatus { node, ..NodeStatus::default() };
        status.resources.process_id = process_id;
        status.batching.slots = slots;
        status.batching.records = slots * 40;
        status.batching.durable_writes = slots;
        Counters { leaders: Some(vec![status]), usage: Some(Usage { cpu_s, rss_bytes_max: 1 }) }
    }

    #[test]
    fn counters_compare_only_within_one_life_of_one_leader() {
        let before = counters(1, 10, 100, 1.0);
        let batching = before.batching_until(&counters(1, 10, 150, 2.5)).unwrap();
        assert_eq!((batching.slots, batching.durable_writes), (50, 50));
        assert_eq!(batching.records_per_slot_mean, 40.0);
        assert_eq!(before.cpu_s_until(&counters(1, 10, 150, 2.5)), Some(1.5));
        assert!(before.batching_until(&counters(2, 11, 150, 2.5)).is_none());
        assert!(before.batching_until(&counters(1, 12, 150, 2.5)).is_none());
        assert!(before.batching_until(&counters(1, 10, 50, 2.5)).is_none());
        assert_eq!(before.cpu_s_until(&counters(1, 10, 150, 0.5)), None);
    }

    #[test]
    fn the_live_line_says_what_happens() {
        let live = Live {
            elapsed_s: 3.0,
            appends_per_s: 123_456.0,
            bytes_per_s: 31.6e6,
            p50_us: 210.4,
            p99_us: 800.0,
            lost: 5,
            ..Live::default()
        };
        let line = live_line(&live, false);
        assert_eq!(
            line,
            "   3.0 s            123 456 appends/s     31.6 MB/s   p50 210 us   p99 800 us   5 lost"
        );
        let warming = Live { elapsed_s: 0.0, ..live };
        assert!(live_line(&warming, true).contains("warm-up"));
        assert!(live_line(&warming, true).contains("reads/s"));
    }
}
