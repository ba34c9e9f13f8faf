//! A three-node ZooKeeper ensemble from Debian's jars, driven by `zookeeper-client`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode};

use super::drive::{KEYS, Target};
use super::process::{Service, free_ports, wait_until};
use super::{About, Context, Missing, NODES, Peer};
use crate::error::Error;
use crate::host;
use crate::process::find;

const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// For a four-letter word and its answer.
const WORD_TIMEOUT: Duration = Duration::from_secs(2);
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
/// Its manifest names the other jars that it needs.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Says what goes wrong, where it is installed; ZooKeeper runs without it, silently.
const LOGGER_JAR: &str = "/usr/share/java/slf4j-simple.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// A running ensemble.
#[derive(Debug)]
pub struct ZooKeeper {
    about: About,
    services: Vec<Service>,
    leader: String,
}

impl Peer for ZooKeeper {
    type Client = ZooKeeperConnection;

    async fn start(context: &Context) -> Result<ZooKeeper, Error> {
        let ports = free_ports(3 * NODES)?;
        let mut members = String::new();
        for index in 0..NODES {
            let (quorum, election) = (ports[NODES + index], ports[2 * NODES + index]);
            members.push_str(&format!("server.{}=127.0.0.1:{quorum}:{election}\n", index + 1));
        }
        let addresses: Vec<String> =
            ports[..NODES].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let java = find(&["java"]).ok_or_else(|| Error::Failed("no java".to_owned()))?;
        let mut services = Vec::new();
        for (index, port) in ports[..NODES].iter().enumerate() {
            let folder = context.folder.join(format!("n{}", index + 1));
            let config = write_config(&folder, index + 1, *port, &members)?;
            let mut command = Command::new(&java);
            command.args(["-cp", &class_path(), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
            command.arg(MAIN).arg(host::from_repository(&config));
            let (name, log) = (format!("zookeeper n{}", index + 1), folder.join("log"));
            services.push(Service::start(&name, &command, &log)?);
        }
        let (leader, version) =
            wait_until("zookeeper", READY_TIMEOUT, &mut services, &context.stop, async || {
                find_leader(&addresses).await
            })
            .await?;
        let about = About {
            system: "zookeeper".to_owned(),
            version,
            durability: "fsync".to_owned(),
            settings: format!(
                "forceSync=yes (the default: transactions are flushed before they are \
                 acknowledged); three servers, tickTime=2000, initLimit=10, syncLimit=5, \
                 snapshots and globalOutstandingLimit (1000) as by default, JVM flags as by default; set_data on \
                 {KEYS} nodes, pipelined, each connection to the leader"
            ),
        };
        create_nodes(&leader).await?;
        Ok(ZooKeeper { about, services, leader })
    }

    fn about(&self) -> &About {
        &self.about
    }

    fn services(&self) -> &[Service] {
        &self.services
    }

    async fn connect(&self, connections: usize) -> Result<Vec<ZooKeeperConnection>, Error> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(ZooKeeperConnection { client: connect(&self.leader).await? });
        }
        Ok(clients)
    }
}

/// Whether ZooKeeper and a Java to run it are installed.
pub fn available() -> Result<(), Missing> {
    let missing = Missing { what: "ZooKeeper with Java", package: "zookeeper" };
    find(&["java"]).and(find(&[JAR])).map(|_| ()).ok_or(missing)
}

fn class_path() -> String {
    match Path::new(LOGGER_JAR).is_file() {
        true => format!("{JAR}:{LOGGER_JAR}"),
        false => JAR.to_owned(),
    }
}

fn write_config(
    folder: &Path,
    number: usize,
    port: u16,
    members: &str,
) -> Result<std::path::PathBuf, Error> {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).map_err(Error::at(&data))?;
    let id = data.join("myid");
    std::fs::write(&id, format!("{number}\n")).map_err(Error::at(&id))?;
    let text = format!(
        "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\n\
         clientPortAddress=127.0.0.1\nforceSync=yes\nadmin.enableServer=false\n\
         4lw.commands.whitelist=srvr\n{members}",
        data.display()
    );
    let config = folder.join("zoo.cfg");
    std::fs::write(&config, text).map_err(Error::at(&config))?;
    Ok(config)
}

/// The leader's address and version, once all servers serve.
async fn find_leader(addresses: &[String]) -> Result<(String, String), String> {
    let mut leader = None;
    for address in addresses {
        let answer = timeout(WORD_TIMEOUT, four_letter_word(address, "srvr"))
            .await
            .map_err(|_| format!("{address} does not answer"))?
            .map_err(|error| format!("{address}: {error}"))?;
        match parse_srvr(&answer) {
            Some(("leader", version)) => {
                leader = Some((address.clone(), version.to_owned()));
            }
            Some(("follower", _)) => {}
            _ => return Err(format!("{address} does not serve: {}", answer.trim())),
        }
    }
    leader.ok_or_else(|| "no server leads".to_owned())
}

async fn four_letter_word(address: &str, word: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(word.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Mode and version from the answer to `srvr`.
fn parse_srvr(answer: &str) -> Option<(&str, &str)> {
    let line = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
    let version = line("Zookeeper version:")?.trim();
    Some((line("Mode:")?.trim(), version.split([',', '-']).next().unwrap_or(version)))
}

async fn connect(address: &str) -> Result<Client, Error> {
    let connector = Client::connector().with_session_timeout(SESSION_TIMEOUT);
    let connected = connector.connect(address).await;
    connected.map_err(|error| Error::Failed(format!("zookeeper at {address}: {error}")))
}

fn path(key: usize) -> String {
    format!("/figures/{key:04}")
}

async fn create_nodes(leader: &str) -> Result<(), Error> {
    let client = connect(leader).await?;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let failed = |error| Error::Failed(format!("zookeeper: creating nodes: {error}"));
    client.create("/figures", &[], &options).await.map_err(failed)?;
    let paths: Vec<String> = (0..KEYS).map(path).collect();
    // All are sent, then all are waited for.
    let sent: Vec<_> = paths.iter().map(|path| client.create(path, &[], &options)).collect();
    for created in sent {
        created.await.map_err(failed)?;
    }
    Ok(())
}

/// One session over one connection.
#[derive(Clone)]
pub struct ZooKeeperConnection {
    client: Client,
}

impl Target for ZooKeeperConnection {
    async fn put(&self, key: usize, value: Bytes) -> Result<(), String> {
        let set = self.client.set_data(&path(key), &value, None);
        set.await.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_srvr_tells_mode_and_version() {
        let answer = "Zookeeper version: 3.8.0-9aa1e2, built on 2024\nLatency min/avg/max: 0/0/0\n\
                      Mode: leader\nNode count: 5\n";
        assert_eq!(parse_srvr(answer), Some(("leader", "3.8.0")));
        let starting = "This ZooKeeper instance is not currently serving requests\n";
        assert_eq!(parse_srvr(starting), None);
    }

    #[test]
    fn a_servers_configuration_says_that_it_syncs() {
        let folder = tempfile::tempdir().unwrap();
        let config = write_config(folder.path(), 2, 2181, "server.1=a:1:2\n").unwrap();
        let text = std::fs::read_to_string(config).unwrap();
        assert!(text.contains("forceSync=yes\n") && text.ends_with("server.1=a:1:2\n"), "{text}");
        assert_eq!(std::fs::read_to_string(folder.path().join("data/myid")).unwrap(), "2\n");
    }
}
