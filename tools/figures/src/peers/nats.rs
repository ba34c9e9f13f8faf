//! A three-node NATS with JetStream, driven by `async-nats`.
//!
//! By default JetStream acknowledges when a majority has a message, flushed or not: files are
//! flushed on a timer (`sync_interval`). Only newer servers can be told to flush always.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context as JetStream};
use bytes::Bytes;

use super::drive::{KEYS, Target};
use super::process::{Service, free_ports, version, wait_until};
use super::{About, Context, Missing, NODES, Peer};
use crate::error::Error;
use crate::host;
use crate::process::find;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
const STREAM: &str = "figures";
/// More than any depth needs.
const ACKS_MAX: usize = 65_536;

/// A running NATS cluster, flushing by its default.
#[derive(Debug)]
pub struct Nats {
    about: About,
    services: Vec<Service>,
    leader: String,
}

/// The same, flushing always.
#[derive(Debug)]
pub struct NatsSyncAlways(Nats);

impl Peer for Nats {
    type Client = NatsConnection;

    async fn start(context: &Context) -> Result<Nats, Error> {
        start(context, false).await
    }

    fn about(&self) -> &About {
        &self.about
    }

    fn services(&self) -> &[Service] {
        &self.services
    }

    async fn connect(&self, connections: usize) -> Result<Vec<NatsConnection>, Error> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let client = open(&self.leader)
                .await
                .map_err(|error| Error::Failed(format!("nats at {}: {error}", self.leader)))?;
            clients.push(NatsConnection { jetstream: client });
        }
        Ok(clients)
    }
}

impl Peer for NatsSyncAlways {
    type Client = NatsConnection;

    async fn start(context: &Context) -> Result<NatsSyncAlways, Error> {
        Ok(NatsSyncAlways(start(context, true).await?))
    }

    fn about(&self) -> &About {
        self.0.about()
    }

    fn services(&self) -> &[Service] {
        self.0.services()
    }

    async fn connect(&self, connections: usize) -> Result<Vec<NatsConnection>, Error> {
        self.0.connect(connections).await
    }
}

/// Whether NATS is installed.
pub fn available() -> Result<(), Missing> {
    let missing = Missing { what: "nats-server", package: "nats-server" };
    find(&["nats-server"]).map(|_| ()).ok_or(missing)
}

/// Whether the installed server can flush before it acknowledges: it is asked to check such a
/// configuration. Its version otherwise.
pub fn can_sync_always(folder: &Path) -> Result<(), String> {
    let Some(program) = find(&["nats-server"]) else { return Err("not installed".to_owned()) };
    let config = folder.join("nats-check.conf");
    let text = config_text("n1", folder, 1, 1, &[], true);
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let mut command = Command::new(&program);
    let checked = command.arg("-t").arg("-c").arg(&config).stdin(Stdio::null()).output();
    match checked {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(version(&program)),
    }
}

async fn start(context: &Context, sync_always: bool) -> Result<Nats, Error> {
    let ports = free_ports(2 * NODES)?;
    let (client_ports, route_ports) = ports.split_at(NODES);
    let program =
        find(&["nats-server"]).ok_or_else(|| Error::Failed("no nats-server".to_owned()))?;
    let mut services = Vec::new();
    for index in 0..NODES {
        let name = format!("n{}", index + 1);
        let config = context.folder.join(format!("{name}.conf"));
        let (client, route) = (client_ports[index], route_ports[index]);
        let store = context.folder.join(&name);
        let text = config_text(&name, &store, client, route, route_ports, sync_always);
        std::fs::write(&config, text).map_err(Error::at(&config))?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(host::from_repository(&config));
        let log = context.folder.join(format!("{name}.log"));
        services.push(Service::start(&format!("nats {name}"), &command, &log)?);
    }
    let urls: Vec<String> =
        client_ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let leader = wait_until("nats", READY_TIMEOUT, &mut services, &context.stop, async || {
        create_stream(&urls).await
    })
    .await?;
    Ok(Nats { about: about(&program, sync_always), services, leader })
}

fn about(program: &Path, sync_always: bool) -> About {
    let (system, durability, flush) = match sync_always {
        false => (
            "nats",
            "NOT FLUSHED",
            "by default JetStream acknowledges when a majority has the message in memory or page \
             cache and flushes later, on a timer; **what it acknowledged can be lost with the \
             power, so this is not the promise that the others give**",
        ),
        true => ("nats-sync-always", "fsync", "sync_interval: always, every write is flushed"),
    };
    About {
        system: system.to_owned(),
        version: version(program),
        durability: durability.to_owned(),
        settings: format!(
            "{flush}; three servers, one stream with file storage and 3 replicas, defaults \
             otherwise; published to {KEYS} subjects, each acknowledgement awaited, each connection to the \
             stream's leader"
        ),
    }
}

fn config_text(
    name: &str,
    store: &Path,
    client_port: u16,
    route_port: u16,
    routes: &[u16],
    sync_always: bool,
) -> String {
    let routes: Vec<String> =
        routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let store = PathBuf::from(store).display().to_string();
    let sync = if sync_always { "  sync_interval: always\n" } else { "" };
    format!(
        "server_name: {name}\nlisten: \"127.0.0.1:{client_port}\"\n\
         jetstream {{\n  store_dir: \"{store}\"\n{sync}}}\n\
         cluster {{\n  name: figures\n  listen: \"127.0.0.1:{route_port}\"\n  routes: [{}]\n}}\n",
        routes.join(", ")
    )
}

async fn open(url: &str) -> Result<JetStream, String> {
    let client = ConnectOptions::new()
        // Only this one: the leader is what is measured.
        .ignore_discovered_servers()
        .connect(url)
        .await
        .map_err(|error| error.to_string())?;
    Ok(ContextBuilder::new()
        .timeout(ACK_TIMEOUT)
        .ack_timeout(ACK_TIMEOUT)
        .max_ack_inflight(ACKS_MAX)
        .backpressure_on_inflight(true)
        .build(client))
}

/// Makes the stream and gives its leader's URL, once it has one and all replicas are there.
async fn create_stream(urls: &[String]) -> Result<String, String> {
    let url = urls.first().ok_or("no servers")?;
    let client = ConnectOptions::new().connect(url).await.map_err(|error| error.to_string())?;
    let jetstream = jetstream::new(client);
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("{STREAM}.*")],
        storage: StorageType::File,
        num_replicas: NODES,
        ..Config::default()
    };
    let mut stream =
        jetstream.get_or_create_stream(config).await.map_err(|error| error.to_string())?;
    let info = stream.info().await.map_err(|error| error.to_string())?;
    let cluster = info.cluster.as_ref().ok_or("the stream is not replicated")?;
    let ready = cluster.replicas.iter().filter(|replica| replica.current).count();
    if ready + 1 < NODES {
        return Err(format!("{} of {NODES} replicas are current", ready + 1));
    }
    let leader = cluster.leader.as_deref().ok_or("the stream has no leader")?;
    let number: Option<usize> = leader.strip_prefix('n').and_then(|number| number.parse().ok());
    let found = number.and_then(|number| urls.get(number.checked_sub(1)?));
    found.cloned().ok_or_else(|| format!("the leader is called {leader}"))
}

/// One connection.
#[derive(Clone)]
pub struct NatsConnection {
    jetstream: JetStream,
}

impl Target for NatsConnection {
    async fn put(&self, key: usize, value: Bytes) -> Result<(), String> {
        let subject = format!("{STREAM}.{key:04}");
        let sent = self.jetstream.publish(subject, value).await;
        let acknowledged = sent.map_err(|error| error.to_string())?.await;
        acknowledged.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_flushes_always_only_where_it_is_told_to() {
        let text = |sync| config_text("n1", Path::new("/data"), 1, 2, &[2, 3, 4], sync);
        assert!(text(true).contains("sync_interval: always"));
        assert!(!text(false).contains("sync_interval"));
        assert!(text(false).contains("routes: [\"nats://127.0.0.1:2\", "), "{}", text(false));
    }
}
