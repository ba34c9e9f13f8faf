//! A three-node etcd, driven by `etcd-client`.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, KvClient};

use super::drive::Target;
use super::process::{Service, free_ports, version, wait_until};
use super::{About, Context, Missing, NODES, Peer};
use crate::error::Error;
use crate::host;
use crate::process::find;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Above the default of 2 GB, so that a long run does not end at it.
const QUOTA_BYTES: u64 = 8 << 30;

/// A running etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    about: About,
    services: Vec<Service>,
    leader: String,
}

impl Peer for Etcd {
    type Client = EtcdConnection;

    async fn start(context: &Context) -> Result<Etcd, Error> {
        let ports = free_ports(2 * NODES)?;
        let urls = |offset: usize| -> Vec<String> {
            let mine = ports.iter().skip(offset * NODES).take(NODES);
            mine.map(|port| format!("http://127.0.0.1:{port}")).collect()
        };
        let (client_urls, peer_urls) = (urls(0), urls(1));
        let members: Vec<String> =
            peer_urls.iter().enumerate().map(|(i, url)| format!("n{}={url}", i + 1)).collect();
        let program = find(&["etcd"]).ok_or_else(|| Error::Failed("no etcd".to_owned()))?;
        let mut services = Vec::new();
        for (index, (client, peer)) in client_urls.iter().zip(&peer_urls).enumerate() {
            let name = format!("n{}", index + 1);
            let data = host::from_repository(&context.folder.join(&name));
            let mut command = Command::new(&program);
            command.args(["--name", &name]).arg("--data-dir").arg(data);
            command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
            command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
            command.args(["--initial-cluster", &members.join(",")]);
            command.args(["--initial-cluster-token", "figures", "--initial-cluster-state", "new"]);
            command.args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
            command.args(["--logger", "zap", "--log-level", "warn"]);
            let log = context.folder.join(format!("{name}.log"));
            services.push(Service::start(&format!("etcd {name}"), &command, &log)?);
        }
        let leader = wait_until("etcd", READY_TIMEOUT, &mut services, &context.stop, async || {
            find_leader(&client_urls).await
        })
        .await?;
        let about = About {
            system: "etcd".to_owned(),
            version: version(&program),
            durability: "fsync".to_owned(),
            settings: format!(
                "by default each batch of the Raft log is flushed (fdatasync) before it is \
                 acknowledged; three members, defaults but for --quota-backend-bytes {QUOTA_BYTES}; \
                 puts to {} keys, each connection to the leader",
                super::drive::KEYS
            ),
        };
        Ok(Etcd { about, services, leader })
    }

    fn about(&self) -> &About {
        &self.about
    }

    fn services(&self) -> &[Service] {
        &self.services
    }

    async fn connect(&self, connections: usize) -> Result<Vec<EtcdConnection>, Error> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let client = Client::connect([&self.leader], None)
                .await
                .map_err(|error| Error::Failed(format!("etcd at {}: {error}", self.leader)))?;
            clients.push(EtcdConnection { kv: client.kv_client() });
        }
        Ok(clients)
    }
}

/// Whether etcd is installed.
pub fn available() -> Result<(), Missing> {
    let missing = Missing { what: "etcd", package: "etcd-server" };
    find(&["etcd"]).map(|_| ()).ok_or(missing)
}

/// The client URL of the leader, once all members know one.
async fn find_leader(urls: &[String]) -> Result<String, String> {
    let mut leader = None;
    for url in urls {
        let ask = async {
            let mut client = Client::connect([url], None).await?;
            client.status().await
        };
        let status = ask.await.map_err(|error| format!("{url}: {error}"))?;
        let member = status.header().map_or(0, |header| header.member_id());
        match status.leader() {
            0 => return Err(format!("{url} knows no leader")),
            known if known == member => leader = Some(url.clone()),
            _ => {}
        }
    }
    leader.ok_or_else(|| "no member leads".to_owned())
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct EtcdConnection {
    kv: KvClient,
}

impl Target for EtcdConnection {
    async fn put(&self, key: usize, value: Bytes) -> Result<(), String> {
        let key = format!("/figures/{key:04}");
        let mut kv = self.kv.clone();
        kv.put(key, value, None).await.map(|_| ()).map_err(|error| error.to_string())
    }
}
