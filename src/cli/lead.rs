//! `loggos lead`: hands the leadership over, and waits until the node leads.

use std::time::{Duration, Instant};

use serde_json::json;

use super::append::connect;
use super::args::LeadArgs;
use super::error::CliError;
use super::output::Output;
use crate::base::NodeId;
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
    let start = Instant::now();
    client.lead(node).map_err(|error| {
        CliError::failed(format!("{error}; is the node running, connected and up to date?"))
    })?;
    let status = wait_until_it_leads(&client, address, start + args.target.timeout)?;
    let took_ms = start.elapsed().as_secs_f64() * 1000.0;
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&json!({
            "leader": status.node,
            "ballot": status.ballot,
            "took_ms": took_ms,
        }))?,
        false => {
            let ballot = format!("{}.{}", status.ballot.round, status.ballot.node);
            output.line(&format!("node {node} leads at ballot {ballot}, after {took_ms:.1} ms"))?;
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
        let status = client.status_of(address).map_err(CliError::failed)?;
        if status.role == RoleStatus::Leader {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let text = format!("node {} was told to take over, and does not lead yet", status.node);
            return Err(CliError::failed(text));
        }
        std::thread::sleep(ASK_INTERVAL);
    }
}
