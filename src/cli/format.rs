//! `loggos format`: makes a node's data directory, once.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::CliError;
use super::options::FormatOptions;
use crate::base::Incarnation;
use crate::base::memory::BUFFER_BYTES_MAX;
use crate::log::{DataDir, FormatRequest, Member};
use crate::uring::host::require_real_disk;
use crate::uring::{DirectStorage, lock_data_dir, random_u128};

/// Makes the folder and those above it that are missing, durably.
///
/// A folder's name is safe once the folder above it has been flushed. Without that a power cut
/// after `format` takes the whole directory with it, though everything in it was flushed, and a
/// vote that this node has given by then.
fn make_folder(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|folder| !exists(folder)).count();
    std::fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    for folder in path.ancestors().skip(1).take(missing) {
        File::open(folder)?.sync_all()?;
    }
    // One that was there may have been made a moment ago, and not flushed either; a mount point has
    // not.
    match path.parent() {
        Some(parent) if missing == 0 && device(parent)? == device(&path)? => {
            match File::open(parent) {
                // Whoever made it there had more rights than we have.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                parent => parent?.sync_all(),
            }
        }
        _ => Ok(()),
    }
}

fn device(folder: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(folder)?.dev())
}

/// Whether a folder is there; the empty path is where we are.
fn exists(folder: &Path) -> bool {
    folder.as_os_str().is_empty() || folder.exists()
}

/// Makes the directory if it is not there, and the member in it.
pub fn run(options: &FormatOptions) -> Result<(), CliError> {
    let data = options.data.display();
    let cannot = |error: &dyn std::fmt::Display| CliError::usage(format!("{data}: {error}"));
    make_folder(&options.data).map_err(|error| cannot(&error))?;
    let filesystem = require_real_disk(&options.data).map_err(CliError::usage)?;
    if let Some(warning) = filesystem.warning() {
        note!("warning: {data}: {warning}");
    }
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
