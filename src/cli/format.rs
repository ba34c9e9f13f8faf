//! `loggos format`: makes a node's data directory, once.

use super::error::CliError;
use super::options::FormatOptions;
use crate::base::Incarnation;
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::log::{DataDir, FormatRequest, Member};
use crate::uring::host::require_real_disk;
use crate::uring::{DirectStorage, lock_data_dir, random_u128};

/// Makes the directory if it is not there, and the member in it.
pub fn run(options: &FormatOptions) -> Result<(), CliError> {
    let data = options.data.display();
    let cannot = |error: &dyn std::fmt::Display| CliError::usage(format!("{data}: {error}"));
    std::fs::create_dir_all(&options.data).map_err(|error| cannot(&error))?;
    require_real_disk(&options.data).map_err(CliError::usage)?;
    let _lock = lock_data_dir(&options.data).map_err(CliError::usage)?;
    let mut storage = DirectStorage::new(&options.data).map_err(|error| cannot(&error))?;
    let members = options.members.0.iter();
    let request = FormatRequest {
        cluster: options.cluster.clone(),
        incarnation: Incarnation(random_u128().map_err(|error| cannot(&error))?),
        node: options.node,
        members: members
            .map(|member| Member { node: member.node, address: member.address.to_string() })
            .collect(),
        group_count: options.groups,
        segment_bytes: options.segment_bytes,
        entry_bytes_max: BUFFER_BYTES_MAX,
        preallocate_bytes: options.preallocate_bytes,
    };
    DataDir::format(&mut storage, &request).map_err(|error| cannot(&error))?;
    Ok(())
}
