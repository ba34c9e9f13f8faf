//! `loggos status`: asks every member and puts the answers side by side.

use std::fmt::Write;

use serde::Serialize;

use super::append::connect;
use super::args::StatusArgs;
use super::error::CliError;
use super::output::Output;
use crate::base::NodeId;
use crate::client::NodeStatus;

/// What `loggos status --json` prints.
#[derive(Debug, Serialize)]
struct ClusterStatus {
    /// The cluster's name.
    cluster: String,
    /// The leader that most of the nodes asked name, if any does.
    leader: Option<u16>,
    /// The highest slot that any node knows as chosen.
    chosen_max: u64,
    /// Every member.
    nodes: Vec<MemberReport>,
}

#[derive(Debug, Serialize)]
struct MemberReport {
    node: u16,
    address: String,
    /// Slots that this node has still to learn.
    lag: Option<u64>,
    /// Its own answer; null when it did not give one.
    status: Option<NodeStatus>,
    /// Why there is no answer.
    error: Option<String>,
}

/// Runs the command.
pub fn run(args: &StatusArgs) -> Result<(), CliError> {
    let client = connect(&args.target)?;
    let members = client.members().map_err(CliError::usage)?;
    let answers = members
        .into_iter()
        .map(|(node, address)| {
            let answer = client.status_of(&address).map_err(|error| error.to_string());
            (node, address, answer)
        })
        .collect();
    let status = merge(answers);
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&status)?,
        false if args.stages => output.write(stages(&status).as_bytes())?,
        false => output.write(table(&status).as_bytes())?,
    }
    output.flush()
}

fn merge(answers: Vec<(NodeId, String, Result<NodeStatus, String>)>) -> ClusterStatus {
    let known: Vec<_> = answers.iter().filter_map(|(_, _, answer)| answer.as_ref().ok()).collect();
    let chosen_max = known.iter().map(|status| status.chosen).max().unwrap_or(0);
    let cluster = known.first().map(|status| status.cluster.clone()).unwrap_or_default();
    let named = |leader: u16| known.iter().filter(|s| s.leader == Some(leader)).count();
    let leader =
        known.iter().filter_map(|s| s.leader).max_by_key(|leader| (named(*leader), *leader));
    let nodes = answers
        .into_iter()
        .map(|(node, address, answer)| {
            let (status, error) = match answer {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(error)),
            };
            let lag = status.as_ref().map(|status| chosen_max.saturating_sub(status.chosen));
            MemberReport { node: node.0, address, lag, status, error }
        })
        .collect();
    ClusterStatus { cluster, leader, chosen_max, nodes }
}

const COLUMNS: [&str; 12] = [
    "node", "address", "role", "ballot", "epoch", "chosen", "applied", "durable", "trimmed", "lag",
    "lease", "contact",
];

fn table(status: &ClusterStatus) -> String {
    let leader = status.leader.map_or("none known".to_owned(), |leader| format!("node {leader}"));
    let mut text = format!("cluster {}, leader {leader}\n\n", status.cluster);
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(status.nodes.iter().map(|node| row(node, status)));
    write_rows(&rows, &mut text);
    for node in &status.nodes {
        if let Some(error) = &node.error {
            text.push_str(&format!("\nnode {} does not answer: {error}\n", node.node));
        }
    }
    text
}

/// Where the time goes on each node that answers.
fn stages(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let us = |us: f64| format!("{us:.1}");
    let answers = status.nodes.iter().filter_map(|node| node.status.as_ref());
    for status in answers {
        let role = format!("{:?}", status.role).to_lowercase();
        writeln!(text, "node {}, {role}", status.node).expect("writing to a string does not fail");
        let head = ["stage", "count", "p50 us", "p90", "p99", "p99.9", "max", "mean"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(status.stages.iter().filter(|stage| stage.count > 0).map(|stage| {
            let [p50, p90, p99] = [stage.us_p50, stage.us_p90, stage.us_p99].map(us);
            let [p999, max, mean] = [stage.us_p999, stage.us_max, stage.us_mean].map(us);
            [stage.stage.clone(), stage.count.to_string(), p50, p90, p99, p999, max, mean]
        }));
        write_rows(&rows, &mut text);
        text.push('\n');
    }
    text
}

fn write_rows<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ").expect("writing to a string does not fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn row(node: &MemberReport, cluster: &ClusterStatus) -> [String; 12] {
    let none = || "-".to_owned();
    let Some(status) = &node.status else {
        let mut row = [(); 12].map(|()| none());
        row[0] = node.node.to_string();
        row[1] = node.address.clone();
        row[2] = "unreachable".to_owned();
        row[11] = contact(node.node, cluster).unwrap_or_else(none);
        return row;
    };
    [
        node.node.to_string(),
        node.address.clone(),
        format!("{:?}", status.role).to_lowercase(),
        format!("{}.{}", status.ballot.round, status.ballot.node),
        status.epoch.to_string(),
        status.chosen.to_string(),
        status.applied.to_string(),
        status.durable.to_string(),
        status.trimmed.to_string(),
        node.lag.map_or_else(none, |lag| lag.to_string()),
        status.lease.map_or_else(none, |lease| format!("{} ms", lease.remaining_ms)),
        contact(node.node, cluster).unwrap_or_else(none),
    ]
}

/// How long ago the leader (or, without one, anybody) last heard from `node`.
fn contact(node: u16, cluster: &ClusterStatus) -> Option<String> {
    let asked = cluster.nodes.iter().filter(|other| other.node != node);
    let heard = |other: &MemberReport| {
        let members = &other.status.as_ref()?.members;
        let ago_ms = members.iter().find(|member| member.id == node)?.last_contact_ms?;
        Some((Some(other.node) != cluster.leader, ago_ms))
    };
    asked.filter_map(heard).min().map(|(_, ago_ms)| format!("{ago_ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{BallotStatus, MemberStatus, RoleStatus};

    fn status(node: u16, chosen: u64, leader: Option<u16>) -> NodeStatus {
        NodeStatus {
            cluster: "demo".into(),
            node,
            role: if leader == Some(node) { RoleStatus::Leader } else { RoleStatus::Follower },
            leader,
            ballot: BallotStatus { round: 3, node: 2 },
            chosen,
            members: (1..=3)
                .map(|id| MemberStatus {
                    id,
                    last_contact_ms: (id != node).then(|| u64::from(10 * node + id)),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn answers_are_merged_and_silence_is_shown() {
        let address = |node: u16| format!("h{node}:1");
        let merged = merge(vec![
            (NodeId(1), address(1), Ok(status(1, 90, Some(2)))),
            (NodeId(2), address(2), Ok(status(2, 100, Some(2)))),
            (NodeId(3), address(3), Err("refused".into())),
        ]);
        assert_eq!((merged.leader, merged.chosen_max), (Some(2), 100));
        assert_eq!(merged.nodes[0].lag, Some(10));
        assert_eq!(merged.nodes[2].lag, None);
        let text = table(&merged);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "cluster demo, leader node 2");
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cells(lines[2]), COLUMNS);
        assert_eq!(cells(lines[3])[2..6], ["follower", "3.2", "0", "90"]);
        // The leader's word on when it last heard from nodes 1 and 3.
        assert!(lines[3].ends_with("21 ms") && lines[5].ends_with("23 ms"), "{text}");
        assert!(text.contains("node 3 does not answer: refused"), "{text}");
    }

    #[test]
    fn json_has_every_nodes_own_answer() {
        let merged = merge(vec![(NodeId(1), "h:1".into(), Ok(status(1, 5, None)))]);
        let json = serde_json::to_value(&merged).unwrap();
        assert_eq!(json["leader"], serde_json::Value::Null);
        assert_eq!(json["nodes"][0]["status"]["chosen"], 5);
        assert_eq!(json["nodes"][0]["error"], serde_json::Value::Null);
    }
}
