//! `loggos serve`: stands in until the node is part of the tree.

use super::error::CliError;
use super::options::ServeOptions;

/// Refuses: there is no node yet to run.
pub fn run(options: &ServeOptions) -> Result<(), CliError> {
    Err(CliError::failed(format!("{}: serve is not in this build", options.data.display())))
}
