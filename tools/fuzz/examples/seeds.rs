//! Writes first inputs for `wire_stream` to the folder that is named: whole frames of every kind,
//! which no fuzzer finds by itself behind their checksums.

use std::path::Path;

use loggos::base::GroupId;
use loggos::wire::{FrameEncoder, FrameKind};

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("the folder to write to");
    std::fs::create_dir_all(&folder)?;
    for (index, kind) in FrameKind::ALL.iter().enumerate() {
        let mut encoder = FrameEncoder::new();
        // How the stream is cut into pieces comes first.
        let mut bytes = vec![13 + index as u8];
        for meta_size in [0, 8, 24, 40] {
            let payload: &[u8] = if meta_size == 24 { b"\x03\0\0\0abc" } else { &[] };
            encoder.encode(*kind, GroupId(0), &vec![1; meta_size], payload, &mut bytes);
        }
        std::fs::write(Path::new(&folder).join(format!("frames-{index:02}")), bytes)?;
    }
    Ok(())
}
