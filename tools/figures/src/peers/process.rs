//! The other systems' servers as child processes that never outlive this tool.
//!
//! A [`Service`] ends its process, by its id, and waits for it when it is dropped: at the end, on
//! every error and while a panic unwinds. Start services on the main thread: see
//! [`guarded`](crate::process::guarded).

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::host::{self, Stop};
use crate::process::{POLL_PAUSE, cpu_s, end, guarded};
use crate::runs::{shown, tail};

/// How long a server may take to end when asked to; then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
    /// Its command as one would type it, from the repository.
    pub command: String,
}

impl Service {
    /// Starts `command`; what it says goes to `log`.
    pub fn start(name: &str, command: &Command, log: &Path) -> Result<Service, Error> {
        let file = File::create(log).map_err(Error::at(log))?;
        let mut guarded = guarded(command);
        guarded
            .current_dir(host::repository())
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(Error::at(log))?)
            .stderr(file);
        let child = guarded.spawn().map_err(Error::system(format!("starting {name}")))?;
        Ok(Service { name: name.to_owned(), child, log: log.to_owned(), command: shown(command) })
    }

    /// An error with the end of its log when it has ended by itself.
    pub fn check(&mut self) -> Result<(), Error> {
        let waited = self.child.try_wait();
        match waited.map_err(Error::system(format!("waiting for {}", self.name)))? {
            None => Ok(()),
            Some(status) => {
                let (name, why) = (&self.name, tail(&self.log));
                Err(Error::Failed(format!("{name} has ended by itself ({status}): {why}")))
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        end(&mut self.child, &self.name, STOP_TIMEOUT);
    }
}

/// CPU time of all `services` since they started, in seconds.
pub fn cpu_s_of(services: &[Service]) -> f64 {
    services.iter().map(|service| cpu_s(service.child.id())).sum()
}

/// Ports on loopback that nobody listens on (a moment ago).
pub fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    let free = || -> std::io::Result<Vec<u16>> {
        // All are held until the last one is known, so that they differ.
        let listeners: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    };
    free().map_err(Error::system("a free port"))
}

/// Asks `ready` again and again until it gives something; `services` must live meanwhile.
pub async fn wait_until<T>(
    what: &str,
    at_most: Duration,
    services: &mut [Service],
    stop: &Stop,
    mut ready: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let give_up = Instant::now() + at_most;
    loop {
        stop.check()?;
        for service in services.iter_mut() {
            service.check()?;
        }
        let why = match ready().await {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        if Instant::now() >= give_up {
            let seconds = at_most.as_secs();
            return Err(Error::Failed(format!("{what} is not ready after {seconds} s: {why}")));
        }
        // Other processes are at work: there is nothing to wait on but time.
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// The version that `program` prints in its first line: the line's last word.
pub fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    last_word_of_first_line(&String::from_utf8_lossy(&text)).to_owned()
}

fn last_word_of_first_line(text: &str) -> &str {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let word = line.split_whitespace().last().unwrap_or("unknown");
    word.strip_prefix('v').unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_ends_with_its_value_and_tells_why_it_ended_before() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut sleep = Command::new("sleep");
        let service = Service::start("sleep", sleep.arg("60"), &log).unwrap();
        let process = PathBuf::from(format!("/proc/{}", service.child.id()));
        assert!(process.exists() && service.command == "sleep 60");
        drop(service);
        assert!(!process.exists());

        let mut sh = Command::new("sh");
        let mut failing =
            Service::start("sh", sh.args(["-c", "echo no such disk; exit 3"]), &log).unwrap();
        failing.child.wait().unwrap();
        let error = failing.check().unwrap_err().to_string();
        assert!(error.contains("no such disk") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_service_ends_when_a_panic_unwinds() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut id = 0;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let service = Service::start("sleep", Command::new("sleep").arg("60"), &log).unwrap();
            id = service.child.id();
            panic!("as planned");
        }));
        assert!(caught.is_err() && id != 0);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn ports_differ() {
        let ports = free_ports(9).unwrap();
        let unique: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(unique.len(), 9);
    }

    #[test]
    fn versions_are_the_last_word() {
        let etcd = "etcd Version: 3.4.23\nGit SHA: none\n";
        assert_eq!(last_word_of_first_line(etcd), "3.4.23");
        assert_eq!(last_word_of_first_line("nats-server: v2.9.10\n"), "2.9.10");
        assert_eq!(last_word_of_first_line(""), "unknown");
    }
}
