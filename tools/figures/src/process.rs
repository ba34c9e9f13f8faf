//! Child processes: how they are started so that they die with this tool, and how they are ended.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at what another process does.
pub const POLL_PAUSE: Duration = Duration::from_millis(20);

/// `command` in a process group of its own, killed by the kernel when this tool dies without a
/// chance to end it (where util-linux's `setpriv` is). Start it on the main thread: that signal is
/// sent when the thread that started the process ends.
pub fn guarded(command: &Command) -> Command {
    use std::os::unix::process::CommandExt;

    let mut guarded = match find(&["setpriv"]) {
        Some(setpriv) => {
            let mut guarded = Command::new(setpriv);
            guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
            guarded
        }
        None => Command::new(command.get_program()),
    };
    guarded.args(command.get_args());
    // Ctrl-C is for this tool alone, which ends the others in good order.
    guarded.process_group(0);
    guarded
}

/// Ends `child`, by its id, and waits for it: asks first, and kills it after `at_most`.
pub fn end(child: &mut Child, name: &str, at_most: Duration) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It fails only when the process has ended: then the wait below sees it.
        let _ = kill_process(pid, Signal::TERM);
    }
    let give_up = Instant::now() + at_most;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < give_up {
        std::thread::sleep(POLL_PAUSE);
    }
    // No error when it has ended and was waited for.
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        eprintln!("{name}, process {}, could not be ended: {error}", child.id());
    }
}

/// The first of `names` that is a file on the path or, with slashes, anywhere.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers are where users do not always look.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders: Vec<_> = std::env::split_paths(&path).chain(more).collect();
    names.iter().find_map(|name| match name.contains('/') {
        true => Some(PathBuf::from(name)).filter(|path| path.is_file()),
        false => folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()),
    })
}

/// CPU time of a process since it started, in seconds; 0 when it cannot be read.
#[cfg(feature = "peers")]
pub fn cpu_s(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    let ticks = stat.ok().and_then(|stat| cpu_ticks(&stat)).unwrap_or(0);
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// User and system time in clock ticks from `/proc/PID/stat` (proc_pid_stat(5)).
#[cfg(feature = "peers")]
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, brackets and spaces too: the fields begin behind the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_waited_for_even_when_it_will_not_listen() {
        let mut stubborn = Command::new("sh");
        stubborn.args(["-c", "trap '' TERM; while :; do sleep 1; done"]);
        for command in [Command::new("sleep").arg("60"), &mut stubborn] {
            let mut child = guarded(command).spawn().unwrap();
            let process = PathBuf::from(format!("/proc/{}", child.id()));
            end(&mut child, "it", Duration::from_millis(100));
            assert!(!process.exists());
            end(&mut child, "it", Duration::ZERO);
        }
    }

    #[test]
    fn programs_are_found() {
        assert!(find(&["no-such-program", "sh"]).is_some());
        assert!(find(&["no-such-program", "/no/such/file"]).is_none());
    }

    #[test]
    #[cfg(feature = "peers")]
    fn proc_files_are_read_whatever_the_process_is_called() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("nonsense"), None);
        assert!(cpu_s(std::process::id()) >= 0.0);
    }
}
