//! `loggos transfer-leader`: transfers the leadership, and waits until the node leads.

use std::time::{Duration, Instant};

use serde_json::json;

use super::args::LeadArgs;
use super::error::CliError;
use super::output::Output;
use super::targets::connect;
use crate::base::{GroupId, NodeId};
use crate::client::blocking::Client;
use crate::wire::NodeStatus;
use crate::wire::status::RoleStatus;

/// Between two questions whether the node leads by now.
const ASK_INTERVAL: Duration = Duration::from_millis(2);

/// Runs the command.
pub fn run(args: &LeadArgs) -> Result<(), CliError> {
    let client = connect(&args.target)?;
    let node = NodeId(args.node);
    let members = client.members().map_err(CliError::usage)?;
    let Some((_, address)) = members.iter().find(|(id, _)| *id == node) else {
        let known: Vec<String> = members.iter().map(|(id, _)| id.to_string()).collect();
        let known = known.join(", ");
        return Err(CliError::usage(format!("there is no node {node}; the members are {known}")));
    };
    let count = client.group_count().map_err(CliError::usage)?;
    let groups: Vec<GroupId> = match args.group {
        Some(group) if group >= count => {
            return Err(CliError::usage(format!(
                "there is no group {group}: give 0 to {}",
                count - 1
            )));
        }
        Some(group) => vec![GroupId(group)],
        None => (0..count).map(GroupId).collect(),
    };
    let mut output = Output::stdout();
    for group in groups {
        let start = Instant::now();
        let client = client.of_group(group);
        let of_group = if count > 1 { format!(" of group {group}") } else { String::new() };
        client.lead(node).map_err(|error| {
            let text = format!("{error}; is the node running, connected and up to date?");
            let exit = CliError::operation(&error).exit;
            CliError::new(exit, if count > 1 { format!("group {group}: {text}") } else { text })
        })?;
        output.set_effect(format!("node {node} takes over the leadership{of_group}"));
        let status = wait_until_it_leads(&client, address, start + args.target.timeout)?;
        let took_ms = start.elapsed().as_secs_f64() * 1000.0;
        match args.json {
            true => {
                let mut report = json!({
                    "leader": status.node,
                    "ballot": status.ballot,
                    "took_ms": took_ms,
                });
                if count > 1 {
                    report["group"] = group.0.into();
                }
                output.json(&report)?;
            }
            false => {
                let ballot = format!("{}.{}", status.ballot.round, status.ballot.node);
                let text = format!("node {node} leads{of_group} at ballot {ballot}");
                output.line(&format!("{text}, after {took_ms:.1} ms"))?;
            }
        }
    }
    output.flush()
}

/// It has begun to take over: what is left are a few round trips.
fn wait_until_it_leads(
    client: &Client,
    address: &str,
    deadline: Instant,
) -> Result<NodeStatus, CliError> {
    loop {
        let status = client.status_of(address).map_err(CliError::unknown)?;
        if status.role == RoleStatus::Leader {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let text = format!("node {} was told to take over, and does not lead yet", status.node);
            return Err(CliError::unknown(text));
        }
        std::thread::sleep(ASK_INTERVAL);
    }
}
