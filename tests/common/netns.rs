//! Network namespaces on one bridge, a node in each, and routes that cut nodes off from each other.
//!
//! Needs root and the `ip` command. Guarantee: what was made here is removed when the [`Network`]
//! is dropped, also when the test fails.

use std::process::{Command, Output};

use super::Cluster;

/// The port of every node: each has an address of its own.
const PORT: u16 = 7400;

/// A bridge in the test's own namespace, which reaches all nodes, and one namespace per node.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    namespaces: Vec<String>,
    subnet: String,
}

/// The name of a node, where nodes have names.
fn name(index: usize) -> String {
    format!("node-{}.loggos.test", index + 1)
}

/// What `ip netns exec` puts over the files in /etc.
fn names_folder(netns: &str) -> String {
    format!("/etc/netns/{netns}")
}

fn ip(args: &[&str]) -> Result<(), String> {
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match Command::new("ip").args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {}: {}", args.join(" "), said(&output))),
        Err(error) => Err(format!("ip: {error}")),
    }
}

impl Network {
    /// A network for `count` nodes.
    ///
    /// # Errors
    /// Why this host permits none.
    pub fn new(count: usize) -> Result<Network, String> {
        let id = std::process::id();
        let network = Network {
            // An interface's name has 15 characters at most.
            bridge: format!("lg{}b", id % 1_000_000),
            namespaces: Vec::new(),
            subnet: format!("10.{}.{}", 213 + id / 250 % 16, id % 250),
        };
        network.build(count)
    }

    /// On an error what is there is dropped.
    fn build(mut self, count: usize) -> Result<Network, String> {
        let bridge = self.bridge.clone();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}.254/24", self.subnet), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for index in 0..count {
            let namespace = format!("{}n{index}", self.bridge);
            ip(&["netns", "add", &namespace])?;
            self.namespaces.push(namespace.clone());
            let [inside, outside] = ["i", "o"].map(|end| format!("{}{end}{index}", self.bridge));
            ip(&["link", "add", &outside, "type", "veth", "peer", "name", &inside])?;
            ip(&["link", "set", &outside, "master", &bridge, "up"])?;
            ip(&["link", "set", &inside, "netns", &namespace])?;
            let address = format!("{}/24", self.host(index));
            ip(&["-n", &namespace, "addr", "add", &address, "dev", &inside])?;
            ip(&["-n", &namespace, "link", "set", &inside, "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(self)
    }

    fn host(&self, index: usize) -> String {
        format!("{}.{}", self.subnet, index + 1)
    }

    /// A cluster whose members know each other by names, neither founded nor started: each namespace has
    /// a table of names of its own. The test itself knows none of them.
    pub fn formatted_by_names(&self) -> Cluster {
        let place = |(index, netns): (usize, &String)| {
            let folder = names_folder(netns);
            std::fs::create_dir_all(&folder).expect("root can make a folder of names");
            (format!("{}:{PORT}", name(index)), Some(netns.clone()))
        };
        Cluster::blank_at(self.namespaces.iter().enumerate().map(place).collect())
    }

    /// Writes the table of names of every namespace: of each node its name and address.
    pub fn publish(&self, addresses: &[Option<String>]) {
        let named = addresses.iter().enumerate().filter_map(|(index, address)| {
            address.as_ref().map(|address| format!("{address} {}\n", name(index)))
        });
        let table = format!("127.0.0.1 localhost\n{}", named.collect::<String>());
        for netns in &self.namespaces {
            // In place: a node that runs has this very file as its own.
            std::fs::write(format!("{}/hosts", names_folder(netns)), &table)
                .expect("root can write a table of names");
        }
    }

    /// The address that node `index` has at first.
    pub fn first_address(&self, index: usize) -> String {
        self.host(index)
    }

    /// Takes node `index` from its first address to another one, which is returned.
    pub fn move_node(&self, index: usize) -> String {
        let moved = format!("{}.{}", self.subnet, 100 + index);
        let (namespace, inside) = (&self.namespaces[index], format!("{}i{index}", self.bridge));
        let (old, new) = (format!("{}/24", self.host(index)), format!("{moved}/24"));
        for (change, address) in [("del", &old), ("add", &new)] {
            ip(&["-n", namespace, "addr", change, address, "dev", &inside])
                .expect("a namespace of our own takes addresses");
        }
        moved
    }

    /// A cluster with a node in each namespace, started.
    pub fn start_cluster(&self) -> Cluster {
        let place = |(index, netns): (usize, &String)| {
            (format!("{}:{PORT}", self.host(index)), Some(netns.clone()))
        };
        let places: Vec<_> = self.namespaces.iter().enumerate().map(place).collect();
        let count = places.len();
        let mut cluster = Cluster::formatted_at(places);
        (0..count).for_each(|index| cluster.start_node(index));
        cluster
    }

    /// Drops everything between node `index` and the others, both ways; the test reaches all.
    pub fn isolate(&self, index: usize) {
        self.routes("add", index);
    }

    /// Undoes [`Network::isolate`].
    pub fn heal(&self, index: usize) {
        self.routes("del", index);
    }

    fn routes(&self, change: &str, index: usize) {
        for other in (0..self.namespaces.len()).filter(|other| *other != index) {
            for (from, to) in [(index, other), (other, index)] {
                let (namespace, to) = (&self.namespaces[from], format!("{}/32", self.host(to)));
                ip(&["-n", namespace, "route", change, "blackhole", &to])
                    .expect("a namespace of our own takes routes");
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // With a namespace its end of the pair goes, and the other with it.
        for namespace in &self.namespaces {
            if let Err(error) = ip(&["netns", "del", namespace]) {
                eprintln!("{error}");
            }
            let folder = names_folder(namespace);
            if std::fs::exists(&folder).unwrap_or(false)
                && let Err(error) = std::fs::remove_dir_all(&folder)
            {
                eprintln!("{folder}: {error}");
            }
        }
        if let Err(error) = ip(&["link", "del", &self.bridge]) {
            eprintln!("{error}");
        }
    }
}
