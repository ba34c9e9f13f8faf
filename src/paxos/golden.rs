//! Golden scripts: protocol scenes as documents, under `testdata/`.
//!
//! A script is a run of blocks: command lines, a line `----`, and what must come of them, up to
//! an empty line. Lines that start with `#` between blocks are prose. The commands are listed in
//! `golden/world.rs`. In the manner of etcd-io/raft's data-driven tests.
//!
//! `LOGGOS_REWRITE=1 cargo test golden` writes what comes out into the scripts; the change is
//! then read as one reads code.

mod show;
mod world;

use self::world::World;

/// One block of a script.
struct Block<'a> {
    /// Prose and empty lines before the commands.
    prose: Vec<&'a str>,
    commands: Vec<&'a str>,
    expected: Vec<&'a str>,
}

fn parse(text: &str) -> (Vec<Block<'_>>, Vec<&str>) {
    let mut blocks = Vec::new();
    let mut lines = text.lines().peekable();
    loop {
        let mut prose = Vec::new();
        while let Some(line) = lines.next_if(|line| line.is_empty() || line.starts_with('#')) {
            prose.push(line);
        }
        let mut commands = Vec::new();
        while let Some(line) = lines.next_if(|line| *line != "----") {
            assert!(!line.is_empty(), "commands are followed by ----: {commands:?}");
            commands.push(line);
        }
        if commands.is_empty() {
            assert!(lines.peek().is_none(), "a ---- follows a command");
            return (blocks, prose);
        }
        assert!(lines.next().is_some(), "commands are followed by ----: {commands:?}");
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.is_empty()) {
            expected.push(line);
        }
        blocks.push(Block { prose, commands, expected });
    }
}

/// Runs a script. Returns it with what really came out, and the first block that differs.
fn run(text: &str) -> (String, Option<String>) {
    let (blocks, rest) = parse(text);
    let mut world = World::default();
    let (mut rewritten, mut difference) = (Vec::new(), None);
    for block in blocks {
        let mut output = Vec::new();
        for command in &block.commands {
            world.command(command, &mut output);
        }
        if output.is_empty() {
            output.push("(nothing)".to_owned());
        }
        if output != block.expected && difference.is_none() {
            let commands = block.commands.join("\n");
            let (wanted, got) = (block.expected.join("\n"), output.join("\n"));
            difference = Some(format!("{commands}\n---- expected\n{wanted}\n---- got\n{got}"));
        }
        let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        rewritten.extend(own(&block.prose));
        rewritten.extend(own(&block.commands));
        rewritten.push("----".to_owned());
        rewritten.extend(output);
    }
    rewritten.extend(rest.into_iter().map(str::to_owned));
    (rewritten.join("\n") + "\n", difference)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::{env, fs};

    use super::run;

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/paxos/testdata")
    }

    fn check(name: &str) {
        let path = folder().join(format!("{name}.txt"));
        let text = fs::read_to_string(&path).expect("the script can be read");
        let (rewritten, difference) = run(&text);
        if env::var_os("LOGGOS_REWRITE").is_some() {
            fs::write(&path, rewritten).expect("the script can be written");
        } else if let Some(difference) = difference {
            panic!("{name}.txt:\n{difference}");
        } else {
            assert_eq!(rewritten, text, "{name}.txt is not laid out as it would be written");
        }
    }

    macro_rules! scripts {
        ($($name:ident,)*) => {
            const NAMES: &[&str] = &[$(stringify!($name),)*];
            $(#[test] fn $name() { check(stringify!($name)); })*
        };
    }

    scripts! {
        first_election,
        steady_state,
        leader_change,
        holes,
        duelling_candidates,
        stale_log_rejoins,
        partitioned_leader,
        stalled_disk,
        catch_up,
        far_behind,
        restarts,
        three_leaders,
        late_answers,
        reads,
        leases,
        transfer,
        preferred_leader,
        retiring_leader,
        lost_vote,
        full_disks,
        slow_disk,
    }

    #[test]
    fn every_script_is_run() {
        for entry in fs::read_dir(folder()).expect("the scripts can be listed") {
            let path = entry.expect("the scripts can be listed").path();
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a plain name");
            assert!(NAMES.contains(&name), "{name} is in the list");
        }
    }

    #[test]
    fn a_wrong_expectation_is_seen_and_rewritten() {
        let text = "# One.\ncluster 1\n----\nnonsense\n\nstatus\n----\n\n";
        let (rewritten, difference) = run(text);
        assert!(difference.expect("it differs").contains("nonsense"));
        let (again, difference) = run(&rewritten);
        assert_eq!((again, difference), (rewritten, None));
    }
}
