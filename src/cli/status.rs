//! `loggos status`: asks every member and puts the answers side by side.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use super::args::StatusArgs;
use super::error::CliError;
use super::output::Output;
use super::targets::connect_to_blank;
use crate::base::{GroupId, NodeId};
use crate::client::NodeStatus;
use crate::wire::status::RoleStatus;

/// What `loggos status --json` prints: the first group, and all of them where there are several.
#[derive(Debug, Serialize)]
struct ClusterStatus {
    /// The cluster's name.
    cluster: String,
    #[serde(flatten)]
    first: GroupStatus,
    /// Every group, the first one included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupStatus>,
}

/// One group.
#[derive(Clone, Debug, Serialize)]
struct GroupStatus {
    #[serde(skip)]
    cluster: String,
    /// Its number, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u16>,
    /// The leader that most of the nodes asked name, if any does.
    leader: Option<u16>,
    /// The highest slot that any node knows as chosen.
    chosen_max: u64,
    /// Every member.
    nodes: Vec<MemberReport>,
}

#[derive(Clone, Debug, Serialize)]
struct MemberReport {
    node: u16,
    address: String,
    /// Slots that this node has still to learn and to apply.
    lag: Option<u64>,
    /// Its own answer; null when it did not give one.
    status: Option<NodeStatus>,
    /// Why there is no answer.
    error: Option<String>,
}

/// Runs the command.
pub fn run(args: &StatusArgs) -> Result<(), CliError> {
    let client = connect_to_blank(&args.target)?;
    let members = client.members().map_err(CliError::usage)?;
    let count = client.group_count().map_err(CliError::usage)?;
    let groups = (0..count).map(|group| {
        let client = client.of_group(GroupId(group));
        let ask = |(node, address): &(NodeId, String)| {
            let answer = client.status_of(address).map_err(|error| error.to_string());
            (*node, address.clone(), answer)
        };
        let group = (count > 1).then_some(group);
        merge(group, members.iter().map(ask).collect())
    });
    let groups: Vec<GroupStatus> = groups.collect();
    let mut output = Output::stdout();
    if args.json {
        output.json(&whole(groups))?;
    } else if args.stages {
        groups.iter().try_for_each(|group| output.write(stages(group).as_bytes()))?;
    } else {
        output.write(table(&groups).as_bytes())?;
    }
    output.flush()
}

fn whole(groups: Vec<GroupStatus>) -> ClusterStatus {
    let first = GroupStatus { group: None, ..groups[0].clone() };
    let cluster = groups.iter().map(|group| group.cluster.clone()).find(|name| !name.is_empty());
    let groups = if groups.len() > 1 { groups } else { Vec::new() };
    ClusterStatus { cluster: cluster.unwrap_or_default(), first, groups }
}

type Answers = Vec<(NodeId, String, Result<NodeStatus, String>)>;

fn merge(group: Option<u16>, answers: Answers) -> GroupStatus {
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
            let lag = status.as_ref().map(|status| {
                // What it is told of as chosen, it may not hold.
                chosen_max.saturating_sub(status.chosen.min(status.applied))
            });
            MemberReport { node: node.0, address, lag, status, error }
        })
        .collect();
    GroupStatus { cluster, group, leader, chosen_max, nodes }
}

const COLUMNS: [&str; 12] = [
    "node", "address", "role", "ballot", "epoch", "chosen", "applied", "durable", "trimmed", "lag",
    "lease", "contact",
];

fn table(groups: &[GroupStatus]) -> String {
    let leader_of = |status: &GroupStatus| {
        status.leader.map_or("none known".to_owned(), |leader| format!("node {leader}"))
    };
    let mut text = String::new();
    if let [status] = groups {
        text = format!("cluster {}, leader {}\n", status.cluster, leader_of(status));
        if let Some(id) = cluster_id(status) {
            text.push_str(&format!("id {id}\n"));
        }
        text.push('\n');
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(status.nodes.iter().map(|node| row(node, status)));
        write_rows(&rows, &mut text);
    } else {
        let name = groups.iter().map(|group| group.cluster.as_str()).find(|name| !name.is_empty());
        text.push_str(&format!("cluster {}, {} groups\n\n", name.unwrap_or(""), groups.len()));
        let with_group = |group: String, cells: [String; 12]| -> [String; 13] {
            let cells: Vec<String> = std::iter::once(group).chain(cells).collect();
            cells.try_into().expect("one more than a row has")
        };
        let mut rows = vec![with_group("group".to_owned(), COLUMNS.map(str::to_owned))];
        for status in groups {
            let group = status.group.unwrap_or(0).to_string();
            let of_group = status.nodes.iter().map(|node| row(node, status));
            rows.extend(of_group.map(|cells| with_group(group.clone(), cells)));
        }
        write_rows(&rows, &mut text);
    }
    for (group, node) in groups.iter().flat_map(|group| group.nodes.iter().map(move |n| (group, n)))
    {
        if node.status.as_ref().is_some_and(|status| status.disk_full) {
            let of_group = group.group.map_or(String::new(), |group| format!(", group {group}"));
            let what = "its disk is full, so it takes no appends until there is room";
            text.push_str(&format!("\nnode {}{of_group}: {what}\n", node.node));
        }
    }
    // A node that is away is away for all of its groups.
    let mut told = BTreeSet::new();
    for node in groups.iter().flat_map(|group| &group.nodes) {
        if let Some(error) = node.error.as_ref().filter(|_| told.insert(node.node)) {
            text.push_str(&format!("\nnode {} does not answer: {error}\n", node.node));
        }
    }
    write_standing(groups, &mut text);
    text
}

fn cluster_id(status: &GroupStatus) -> Option<&String> {
    let known = status.nodes.iter().filter_map(|node| node.status.as_ref());
    known.filter_map(|status| status.cluster_id.as_ref()).next()
}

/// Who is not yet part of the cluster, and who refuses whom.
fn write_standing(groups: &[GroupStatus], text: &mut String) {
    let Some(group) = groups.first() else { return };
    let known = || group.nodes.iter().filter_map(|node| node.status.as_ref());
    let blank: Vec<String> = known()
        .filter(|status| status.role == RoleStatus::Blank)
        .map(|status| status.node.to_string())
        .collect();
    if !blank.is_empty() {
        let advice = match cluster_id(group) {
            None => "the cluster is not yet founded: run `loggos init`",
            Some(_) => {
                "not part of the cluster: see what its peers say, or wait until it has learnt"
            }
        };
        text.push_str(&format!("\nblank: node {}; {advice}\n", blank.join(", ")));
    }
    for status in known() {
        for member in &status.members {
            if let Some(why) = &member.refused {
                text.push_str(&format!("\nnodes {} and {}: {why}\n", status.node, member.id));
            }
        }
    }
}

/// Where the time goes on each node that answers.
fn stages(status: &GroupStatus) -> String {
    let mut text = String::new();
    let us = |us: f64| format!("{us:.1}");
    let of_group = status.group.map_or(String::new(), |group| format!(", group {group}"));
    let answers = status.nodes.iter().filter_map(|node| node.status.as_ref());
    for status in answers {
        let role = role_of(status);
        writeln!(text, "node {}{of_group}, {role}", status.node)
            .expect("writing to a string does not fail");
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

fn row(node: &MemberReport, cluster: &GroupStatus) -> [String; 12] {
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
        role_of(status),
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
fn contact(node: u16, cluster: &GroupStatus) -> Option<String> {
    let asked = cluster.nodes.iter().filter(|other| other.node != node);
    let heard = |other: &MemberReport| {
        let members = &other.status.as_ref()?.members;
        let ago_ms = members.iter().find(|member| member.id == node)?.last_contact_ms?;
        Some((Some(other.node) != cluster.leader, ago_ms))
    };
    asked.filter_map(heard).min().map(|(_, ago_ms)| format!("{ago_ms} ms"))
}

/// What the node is, and whether it has no vote.
fn role_of(status: &NodeStatus) -> String {
    let role = format!("{:?}", status.role).to_lowercase();
    if status.vote_lost { format!("{role}, no vote") } else { role }
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
            applied: chosen,
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
        let answers = vec![
            (NodeId(1), address(1), Ok(status(1, 90, Some(2)))),
            (NodeId(2), address(2), Ok(status(2, 100, Some(2)))),
            (NodeId(3), address(3), Err("refused".into())),
        ];
        let merged = merge(None, answers.clone());
        assert_eq!((merged.leader, merged.chosen_max), (Some(2), 100));
        assert_eq!(merged.nodes[0].lag, Some(10));
        assert_eq!(merged.nodes[2].lag, None);
        let text = table(std::slice::from_ref(&merged));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "cluster demo, leader node 2");
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cells(lines[2]), COLUMNS);
        assert_eq!(cells(lines[3])[2..6], ["follower", "3.2", "0", "90"]);
        // The leader's word on when it last heard from nodes 1 and 3.
        assert!(lines[3].ends_with("21 ms") && lines[5].ends_with("23 ms"), "{text}");
        assert!(text.contains("node 3 does not answer: refused"), "{text}");

        let text = table(&[merge(Some(0), answers.clone()), merge(Some(1), answers)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines.len()), ("cluster demo, 2 groups", 11), "{text}");
        assert_eq!(cells(lines[6])[..4], ["1", "1", "h1:1", "follower"]);
        assert_eq!(text.matches("node 3 does not answer").count(), 1);
    }

    #[test]
    fn a_full_disk_and_an_empty_follower_are_shown() {
        let address = |node: u16| format!("h{node}:1");
        let mut empty = status(1, 100, Some(2));
        (empty.applied, empty.durable) = (0, 0);
        let full = NodeStatus { disk_full: true, ..status(2, 100, Some(2)) };
        let answers = vec![(NodeId(1), address(1), Ok(empty)), (NodeId(2), address(2), Ok(full))];
        let merged = merge(None, answers);
        assert_eq!((merged.nodes[0].lag, merged.nodes[1].lag), (Some(100), Some(0)));
        let text = table(&[merged]);
        assert_eq!(text.matches("disk is full").count(), 1, "{text}");
        assert!(text.contains("\nnode 2: its disk is full"), "{text}");
    }

    #[test]
    fn json_has_every_nodes_own_answer() {
        let answers = || vec![(NodeId(1), "h:1".to_owned(), Ok(status(1, 5, None)))];
        let json = serde_json::to_value(whole(vec![merge(None, answers())])).unwrap();
        assert_eq!((json.get("groups"), json.get("group")), (None, None));
        assert_eq!(json["cluster"], "demo");
        assert_eq!(json["leader"], serde_json::Value::Null);
        assert_eq!(json["nodes"][0]["status"]["chosen"], 5);
        assert_eq!(json["nodes"][0]["error"], serde_json::Value::Null);

        let groups = [0, 1].map(|group| merge(Some(group), answers()));
        let json = serde_json::to_value(whole(groups.into())).unwrap();
        assert_eq!(json["nodes"][0]["status"]["chosen"], 5);
        assert_eq!(json["groups"][1]["group"], 1);
        assert_eq!(json["groups"][1]["nodes"][0]["node"], 1);
    }
}
