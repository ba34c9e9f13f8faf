//! `loggos format`: stands in until the durable log's identity is part of the tree.

use super::error::CliError;
use super::options::FormatOptions;

/// Refuses: there is nothing yet to format for.
pub fn run(options: &FormatOptions) -> Result<(), CliError> {
    Err(CliError::failed(format!("{}: format is not in this build", options.data.display())))
}
