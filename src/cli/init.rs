//! `loggos init`: founds a cluster, once, when all of its members run.

use serde_json::json;

use super::args::InitArgs;
use super::error::CliError;
use super::output::Output;
use super::targets::connect_to_blank;
use crate::client::{ClientError, ErrorCode};

/// Runs the command: the first target that answers founds the cluster. Repeating it is safe, so the next
/// one is asked only when nothing answered at the one before.
pub fn run(args: &InitArgs) -> Result<(), CliError> {
    let client = connect_to_blank(&args.target)?;
    let mut result = Err(ClientError::Unavailable { why: "no target is given".to_owned() });
    for target in &args.target.target {
        result = client.init_at(&target.to_string());
        if !matches!(result, Err(ClientError::Unavailable { .. })) {
            break;
        }
    }
    let cluster = result.map_err(|error| match error {
        ClientError::Server { code: ErrorCode::OutcomeUnknown, text } => CliError::unknown(text),
        ClientError::Server { text, .. } => {
            CliError::failed(format!("the cluster is not founded: {text}"))
        }
        other => CliError::failed(format!("the cluster is not founded: {other}")),
    })?;
    let mut output = Output::stdout();
    match args.json {
        true => output.json(&json!({ "cluster_id": cluster.to_string() }))?,
        false => output.line(&format!("founded: cluster {cluster}"))?,
    }
    output.flush()
}
