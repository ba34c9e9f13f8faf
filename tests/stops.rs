//! A node that is asked to stop while its disk hangs: it ends all the same, says why, and has lost
//! nothing that it had acknowledged.
//!
//! Needs root, a loop device and `fsfreeze`: writes to a frozen file system hang in the kernel, where
//! no signal reaches them, until it is thawed.

mod common;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, free_ports, loggos, run, scratch_dir, wait_for};
use tempfile::TempDir;

/// Of the file system, in bytes: enough for a few small segments.
const DISK_BYTES: u64 = 256 << 20;
/// Between two looks at something that has not happened yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The exit code `hung`, see `loggos --help`.
const HUNG: i32 = 7;

fn command(name: &str, args: &[&Path]) -> Result<(), String> {
    match Command::new(name).args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Whether a file system stands there: then the folder is not on the disk of the folder above.
fn is_mounted(path: &Path) -> bool {
    let above = path.parent().expect("it is in a folder");
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    device(path).is_some_and(|here| Some(here) != device(above))
}

/// A file system of its own, which can be frozen. What was made here goes with it, also when the test
/// fails.
struct Disk {
    dir: TempDir,
}

impl Disk {
    /// # Errors
    /// Why this host permits none.
    fn new() -> Result<Disk, String> {
        let disk = Disk { dir: scratch_dir() };
        let image = disk.dir.path().join("image");
        let made = File::create(&image).and_then(|file| file.set_len(DISK_BYTES));
        made.map_err(|error| error.to_string())?;
        command("mkfs.ext4", &[Path::new("-q"), &image])?;
        std::fs::create_dir(disk.mount()).map_err(|error| error.to_string())?;
        command("mount", &[Path::new("-o"), Path::new("loop"), &image, &disk.mount()])?;
        // Not every kernel and container can.
        command("fsfreeze", &[Path::new("-f"), &disk.mount()])?;
        disk.thaw()?;
        Ok(disk)
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn freeze(&self) {
        command("fsfreeze", &[Path::new("-f"), &self.mount()]).expect("it could be frozen before");
    }

    fn thaw(&self) -> Result<(), String> {
        command("fsfreeze", &[Path::new("-u"), &self.mount()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Of no use unless it is frozen.
        drop(self.thaw());
        // The kernel closes the files of a killed process's ring some time after the process is gone.
        let mount = self.mount();
        let started = Instant::now();
        while is_mounted(&mount) && command("umount", &[&mount]).is_err() {
            if started.elapsed() > PATIENCE {
                // At the latest with the last file, and out of the way of what removes the folder.
                drop(command("umount", &[Path::new("-l"), &mount]));
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// The one node of a cluster.
struct Node<'a> {
    disk: &'a Disk,
    child: Child,
    address: String,
    stderr: PathBuf,
}

impl Node<'_> {
    fn start<'a>(disk: &'a Disk, address: &str) -> Node<'a> {
        let stderr = disk.dir.path().join("stderr");
        let file = File::create(&stderr).expect("a file can be made");
        let mut serve = loggos();
        serve.arg("serve").arg("--data").arg(disk.mount().join("node"));
        let child = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        let child = child.expect("the binary can be started");
        let node = Node { disk, child, address: address.to_owned(), stderr };
        wait_for("the node serves", || node.said().contains("serving").then_some(()));
        // Safe to repeat: a node that is started again is founded already.
        let founded = run(&["init", "--target", address]);
        assert!(founded.status.success(), "{}", String::from_utf8_lossy(&founded.stderr));
        wait_for("the node leads", || node.said().contains("role=Leader").then_some(()));
        node
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("it can be read")
    }

    fn append(&self, records: &Path) -> Child {
        let mut append = loggos();
        append.args(["append", "--target", &self.address, "--file"]).arg(records);
        let append = append.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        append.spawn().expect("the binary can be started")
    }

    /// Whether a thread of the kernel that works for it hangs.
    fn hangs(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("it is our child");
        tasks.flatten().any(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(iou-wrk") && stat.contains(") D ")
        })
    }

    fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is our child");
    }

    fn wait(&mut self) -> ExitStatus {
        wait_for("the node ends", || self.child.try_wait().expect("it is our child"))
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // Killed or not, it is there until its writes are; the rest is of no use when it has ended.
        drop(self.disk.thaw());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_stop_does_not_wait_for_a_disk_that_hangs() {
    let disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: this host permits no file system that can be frozen ({why})");
            return;
        }
    };
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let (data, members) = (disk.mount().join("node"), format!("1={address}"));
    let data = data.to_str().expect("the path is UTF-8");
    let format = ["format", "--data", data, "--cluster", "stops", "--node", "1", "--members"];
    let flags = [&members, "--segment-bytes", "4194304"];
    let formatted = run(&[&format[..], &flags[..]].concat());
    assert!(formatted.status.success(), "{formatted:?}");
    let record = disk.dir.path().join("record");
    std::fs::write(&record, "what was acknowledged").expect("a file can be written");

    let mut node = Node::start(&disk, &address);
    wait_for("the cluster is founded", || {
        run(&["init", "--target", &node.address]).status.success().then_some(())
    });
    assert!(node.append(&record).wait().expect("it is our child").success());
    disk.freeze();
    // Frozen in the middle of an append, which nobody acknowledges.
    let mut append = node.append(&record);
    wait_for("a write hangs", || node.hangs().then_some(()));
    node.terminate();
    wait_for("the node says why it ends", || node.said().contains("loggos: ").then_some(()));
    append.kill().and_then(|()| append.wait()).expect("it is our child");
    let said = node.said();
    let last = said.lines().last().expect("it said something");
    assert!(last.starts_with("loggos: asked to stop") && last.contains("x write"), "{said}");
    // The process is gone as soon as the kernel lets go of it.
    disk.thaw().expect("it is frozen");
    assert_eq!(node.wait().code(), Some(HUNG), "{said}");
    drop(node);

    let node = Node::start(&disk, &address);
    let read = run(&["read", "--target", &node.address, "--from", "0"]);
    let records = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(records.starts_with("what was acknowledged"), "{read:?}");
}
