//! `figures failover`: three nodes on this host under an open-loop load; the leader is killed
//! (SIGKILL), again and again, and the longest time without an acknowledged append is told.
//!
//! Each kill is a run of the load generator of its own, whose history holds when each append
//! returned. The killed node starts again and must have caught up before the next kill.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::FailoverArgs;
use crate::error::Error;
use crate::host::{self, Stop};
use crate::markdown::{Table, short};
use crate::process::{POLL_PAUSE, end, guarded};
use crate::record::Results;

const NODES: usize = 3;
/// Appends a second: close enough that the gaps between them are nothing beside a failover.
const RATE_PER_S: u32 = 4000;
/// How long one load lasts; the kill comes as soon as it flows.
const LOAD_S: f64 = 4.0;
/// Slots chosen under a load until it counts as flowing.
const FLOWING_SLOTS: u64 = 200;
/// How long the cluster may take to be whole.
const PATIENCE: Duration = Duration::from_secs(30);

/// One kill.
#[derive(Clone, Debug, Serialize)]
struct Failover {
    /// The node that led and was killed.
    node: u16,
    /// The longest time between two acknowledged appends that follow each other, in milliseconds.
    gap_ms: f64,
    acknowledged: usize,
    /// The load generator's connections have no session here and send nothing again.
    not_acknowledged: usize,
}

/// One line of the load generator's history, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Operation {
    ok: Option<bool>,
    return_ns: Option<u64>,
}

/// Runs the command.
pub fn run(args: &FailoverArgs, stop: &Stop) -> Result<(), Error> {
    let loggos = host::loggos(&args.output)?;
    let data = host::data_folder(&args.output)?;
    let mut cluster = Cluster::start(loggos, data.path())?;
    let started = host::now();
    let mut kills = Vec::new();
    for number in 1..=args.kills {
        stop.check()?;
        let kill = cluster.kill_leader(number)?;
        eprintln!("kill {number} of {}: node {}, {:.0} ms", args.kills, kill.node, kill.gap_ms);
        kills.push(kill);
    }
    drop(cluster);
    let smoke = args.kills < 20;
    let root = host::results_root(&args.output, smoke);
    let results = Results::create(&root, &args.output.host_name, "failover")?;
    let command =
        format!("figures failover --kills {}{}", args.kills, host::path_flags(&args.output));
    let raw = json!({ "command": command, "commit": host::commit(), "started": started,
        "rate_per_s": RATE_PER_S, "kills": kills });
    write(&results.raw().join("failover.json"), &format!("{raw:#}\n"))?;
    let text = readme(&command, &started, &kills);
    write(&results.dir.join("README.md"), &text)?;
    println!("{text}\n{}", results.dir.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(Error::at(path))
}

fn readme(command: &str, started: &str, kills: &[Failover]) -> String {
    let mut gaps: Vec<f64> = kills.iter().map(|kill| kill.gap_ms).collect();
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps.get((gaps.len() as f64 * share) as usize).or(gaps.last());
    let (median, worst) = (at(0.5).copied().unwrap_or(0.0), gaps.last().copied().unwrap_or(0.0));
    let mut table = Table::new(1, &["node killed", "longest gap ms", "acknowledged", "not"]);
    for kill in kills {
        let counts = [kill.acknowledged, kill.not_acknowledged].map(|count| count.to_string());
        table.row([kill.node.to_string(), short(kill.gap_ms)].into_iter().chain(counts));
    }
    format!(
        "# Failover\n\n`{command}`, begun {started}, commit {}. {NODES} nodes and the load generator \
         on one machine, everything at its default; {RATE_PER_S} appends of 256 B a second, open \
         loop. The leader is killed with SIGKILL under the load; the gap is the longest time between \
         two acknowledged appends that follow each other.\n\n**Median {median:.0} ms, worst of {} \
         {worst:.0} ms.**\n\n{}",
        host::commit(),
        kills.len(),
        table.to_text()
    )
}

/// The longest gap between returns, in nanoseconds, and how many returned well.
fn longest_gap(mut returned: Vec<u64>) -> (u64, usize) {
    returned.sort_unstable();
    let gaps = returned.windows(2).map(|pair| pair[1] - pair[0]);
    (gaps.max().unwrap_or(0), returned.len())
}

fn read_history(path: &Path) -> Result<(Vec<u64>, usize), Error> {
    let file = File::open(path).map_err(Error::at(path))?;
    let (mut returned, mut others) = (Vec::new(), 0);
    for line in BufReader::new(file).lines() {
        let line = line.map_err(Error::at(path))?;
        let operation: Operation =
            serde_json::from_str(&line).map_err(|why| Error::content(path, why))?;
        match (operation.ok, operation.return_ns) {
            (Some(true), Some(at)) => returned.push(at),
            _ => others += 1,
        }
    }
    Ok((returned, others))
}

/// A running cluster; its processes end with it.
struct Cluster {
    loggos: PathBuf,
    folder: PathBuf,
    addresses: Vec<String>,
    nodes: Vec<Option<Child>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            end(node, "a node", Duration::from_secs(5));
        }
    }
}

impl Cluster {
    fn start(loggos: PathBuf, folder: &Path) -> Result<Cluster, Error> {
        // Held until all are known, so that they differ.
        let sockets: Vec<TcpListener> = (0..NODES)
            .map(|_| TcpListener::bind("127.0.0.1:0").map_err(Error::system("finding a port")))
            .collect::<Result<_, _>>()?;
        let address = |socket: &TcpListener| socket.local_addr().map(|address| address.to_string());
        let addresses = sockets.iter().map(address).collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(Error::system("finding a port"))?;
        drop(sockets);
        let nodes = (0..NODES).map(|_| None).collect();
        let mut cluster = Cluster { loggos, folder: folder.to_owned(), addresses, nodes };
        let members: Vec<String> =
            (1..).zip(&cluster.addresses).map(|(id, address)| format!("{id}={address}")).collect();
        for id in 1..=NODES {
            let mut format = cluster.command("format");
            format.arg("--data").arg(cluster.data(id)).args(["--cluster", "figures", "--node"]);
            format.arg(id.to_string()).args(["--members", &members.join(",")]);
            cluster.output(&mut format)?;
            cluster.serve(id)?;
        }
        // All members run by then, or will in a moment.
        let mut init = cluster.command("init");
        init.args(["--target", &cluster.addresses.join(","), "--timeout", "30"]);
        cluster.output(&mut init)?;
        Ok(cluster)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(host::repository().join(&self.loggos));
        command.arg(name).stdin(Stdio::null());
        command
    }

    fn data(&self, id: usize) -> PathBuf {
        self.folder.join(format!("node{id}"))
    }

    fn output(&self, command: &mut Command) -> Result<Vec<u8>, Error> {
        let output = command.output().map_err(Error::system("running loggos"))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(Error::Failed(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    fn serve(&mut self, id: usize) -> Result<(), Error> {
        let log = self.folder.join(format!("node{id}.log"));
        let file = File::options().create(true).append(true).open(&log).map_err(Error::at(&log))?;
        let mut serve = self.command("serve");
        serve.arg("--data").arg(self.data(id));
        let mut guarded = guarded(&serve);
        guarded.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = guarded.spawn().map_err(Error::system("starting a node"))?;
        self.nodes[id - 1] = Some(child);
        Ok(())
    }

    /// What `loggos status` says, when it says something.
    fn status(&self) -> Option<Value> {
        let mut status = self.command("status");
        status.args(["--json", "--target", &self.addresses.join(",")]);
        serde_json::from_slice(&self.output(&mut status).ok()?).ok()
    }

    /// Waits until `holds` of the status.
    fn wait<T>(&self, what: &str, holds: impl Fn(&Value) -> Option<T>) -> Result<T, Error> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.status().and_then(|status| holds(&status)) {
                return Ok(found);
            }
            if Instant::now() >= give_up {
                return Err(Error::Failed(format!("within {PATIENCE:?}: not {what}")));
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    fn kill_leader(&mut self, number: u32) -> Result<Failover, Error> {
        let (leader, before) = self.wait("a whole cluster", whole)?;
        let history = self.folder.join(format!("history{number}.jsonl"));
        let mut bench = self.command("bench");
        bench.args(["--target", &self.addresses.join(","), "--connections", "4"]);
        bench.args(["--inflight", "512", "--rate", &RATE_PER_S.to_string()]);
        bench.args(["--warmup", "0", "--duration", &LOAD_S.to_string(), "--json", "--history"]);
        bench.arg(&history);
        let mut guarded = guarded(&bench);
        guarded.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut load = guarded.spawn().map_err(Error::system("starting the load"))?;
        let flows = |status: &Value| {
            status["chosen_max"].as_u64().filter(|chosen| *chosen > before + FLOWING_SLOTS)
        };
        let killed = self.wait("flowing", flows).and_then(|_| {
            let child = self.nodes[usize::from(leader) - 1].take();
            let mut child = child.ok_or(Error::Failed("the leader is no node".to_owned()))?;
            let done = child.kill().and_then(|()| child.wait());
            done.map_err(Error::system("killing the leader"))
        });
        if killed.is_err() {
            end(&mut load, "the load", Duration::from_secs(1));
        }
        killed?;
        load.wait().map_err(Error::system("waiting for the load"))?;
        self.serve(usize::from(leader))?;
        let (returned, not_acknowledged) = read_history(&history)?;
        std::fs::remove_file(&history).map_err(Error::at(&history))?;
        let (gap_ns, acknowledged) = longest_gap(returned);
        let gap_ms = gap_ns as f64 / 1e6;
        Ok(Failover { node: leader, gap_ms, acknowledged, not_acknowledged })
    }
}

/// The leader and the last slot, when all nodes answer and have everything.
fn whole(status: &Value) -> Option<(u16, u64)> {
    let nodes = status["nodes"].as_array()?;
    let in_step = nodes.iter().all(|node| node["lag"].as_u64() == Some(0));
    let leader = u16::try_from(status["leader"].as_u64()?).ok()?;
    (in_step && nodes.len() == NODES).then_some((leader, status["chosen_max"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_neighbours_in_time() {
        assert_eq!(longest_gap(vec![50, 10, 20, 21]), (29, 4));
        assert_eq!(longest_gap(vec![7]), (0, 1));
    }

    #[test]
    fn a_cluster_is_whole_when_nobody_lags() {
        let status = |leader: Value, lag: Value| {
            let node = |lag: &Value| json!({ "lag": lag });
            json!({ "leader": leader, "chosen_max": 9,
                "nodes": [node(&json!(0)), node(&json!(0)), node(&lag)] })
        };
        assert_eq!(whole(&status(json!(2), json!(0))), Some((2, 9)));
        assert_eq!(whole(&status(json!(2), json!(1))), None);
        assert_eq!(whole(&status(json!(2), Value::Null)), None);
        assert_eq!(whole(&status(Value::Null, json!(0))), None);
    }

    #[test]
    fn the_readme_tells_median_and_worst() {
        let kill = |gap_ms| Failover { node: 1, gap_ms, acknowledged: 9, not_acknowledged: 1 };
        let text = readme("c", "now", &[kill(100.0), kill(300.0), kill(200.0)]);
        assert!(text.contains("**Median 200 ms, worst of 3 300 ms.**"), "{text}");
    }
}
