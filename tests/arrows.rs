//! Holds the arrows of `src/README.md`: which folder may import which.
//!
//! Test modules may reach further (the log's tests run on the simulator's disk), so everything
//! from a file's `#[cfg(test)]` on, and files named `tests.rs` or below a `tests/` folder, are
//! left out.

use std::fs;
use std::path::{Path, PathBuf};

/// Folder → what it may import besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("paxos", &["base"]),
    ("io", &["base"]),
    ("machine", &["base"]),
    ("wire", &["base", "paxos"]),
    ("log", &["base", "io"]),
    ("uring", &["base", "io"]),
    ("node", &["base", "paxos", "log", "wire", "machine", "io"]),
    ("server", &["base", "node", "wire", "io", "log", "machine"]),
    ("client", &["base", "wire"]),
    ("loadgen", &["base", "client", "wire"]),
    ("sim", &["base", "io", "log", "node", "server", "client", "wire", "machine", "paxos"]),
    (
        "cli",
        &[
            "base", "io", "log", "machine", "node", "server", "uring", "wire", "client", "loadgen",
            "sim",
        ],
    ),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder can be listed") {
        let path = entry.expect("a source folder can be listed").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_stem().is_some_and(|stem| stem != "tests")
        {
            found.push(path);
        }
    }
}

/// The part of a file that is built into the product, without comments.
fn product_code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The folders that a file names: `crate::folder`, also within `use crate::{a::…, b::…}`.
fn imports(code: &str, folders: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, _) in code.match_indices("crate::") {
        let rest = &code[index + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            None => vec![rest],
            Some(group) => group[..group.find("};").unwrap_or(group.len())].split(',').collect(),
        };
        for name in names {
            let word = name.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next();
            found.extend(word.filter(|word| folders.contains(word)).map(str::to_owned));
        }
    }
    found
}

#[test]
fn folders_import_only_what_the_map_allows() {
    let folders: Vec<&str> = ARROWS.iter().map(|(folder, _)| *folder).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (folder, allowed) in ARROWS {
        let path = source().join(folder);
        assert!(path.is_dir(), "src/{folder} is in the table, so it exists");
        let mut files = Vec::new();
        rust_files(&path, &mut files);
        for file in files {
            let code = product_code(&fs::read_to_string(&file).expect("a source can be read"));
            for import in imports(&code, &folders) {
                seen += 1;
                if import != *folder && !allowed.contains(&import.as_str()) {
                    wrong.push(format!("{} imports {import}", file.display()));
                }
            }
        }
    }
    assert!(seen > 50, "the imports are found at all ({seen})");
    assert!(wrong.is_empty(), "arrows against the map:\n{}", wrong.join("\n"));
}

#[test]
fn every_folder_is_in_the_map() {
    for entry in fs::read_dir(source()).expect("src can be listed") {
        let entry = entry.expect("src can be listed");
        let name = entry.file_name().into_string().expect("a plain name");
        if entry.path().is_dir() {
            assert!(ARROWS.iter().any(|(folder, _)| *folder == name), "src/{name} is in no row");
        }
    }
}

#[test]
fn the_pure_core_touches_no_time_thread_file_or_socket() {
    let mut files = Vec::new();
    rust_files(&source().join("paxos"), &mut files);
    for file in files {
        let code = product_code(&fs::read_to_string(&file).expect("a source can be read"));
        for forbidden in
            ["std::thread", "std::net", "std::fs", "std::time::Instant", "SystemTime", "async "]
        {
            assert!(!code.contains(forbidden), "{} holds {forbidden}", file.display());
        }
    }
}
