//! Members by name: nodes start although names cannot be found, and go on when nodes move to other
//! addresses, one after the other.

mod common;

use std::time::Duration;

use common::netns::Network;
use common::{Cluster, wait_for};
use loggos::client::ClientOptions;
use loggos::client::blocking::Client;
use loggos::wire::status::RoleStatus;

const PORT: u16 = 7400;

/// Appends a record by whichever node leads. Each is asked by its address, alone: where it names the
/// leader, that name means nothing here.
fn append(addresses: &[String], record: &str) {
    let options = ClientOptions {
        operation_timeout: Duration::from_secs(3),
        stay: true,
        ..ClientOptions::default()
    };
    wait_for("an append is acknowledged", || {
        addresses.iter().find_map(|address| {
            let target = [format!("{address}:{PORT}")];
            Client::connect(target, options.clone()).ok()?.append(&[record]).ok()
        })
    });
}

fn status_at(address: &str) -> Option<loggos::wire::NodeStatus> {
    let options = ClientOptions {
        operation_timeout: Duration::from_secs(2),
        stay: true,
        ..ClientOptions::default()
    };
    let target = format!("{address}:{PORT}");
    Client::connect([target.clone()], options).ok()?.status_of(&target).ok()
}

/// Waits until one leads and all are connected to each other, as each of them says.
fn wait_until_whole(addresses: &[String]) {
    wait_for("all are connected and one leads", || {
        let states: Option<Vec<_>> = addresses.iter().map(|address| status_at(address)).collect();
        let states = states?;
        let leads = states.iter().any(|state| state.role == RoleStatus::Leader);
        let whole = states.iter().all(|state| state.members.iter().all(|member| member.connected));
        (leads && whole).then_some(())
    });
}

#[test]
fn cluster_goes_on_when_two_nodes_move() {
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(why) => {
            println!("skipped: this host permits no network namespaces here ({why})");
            return;
        }
    };
    let mut cluster: Cluster = network.formatted_by_names();
    let mut addresses: Vec<String> = (0..3).map(|index| network.first_address(index)).collect();
    let mut published: Vec<Option<String>> = addresses.iter().cloned().map(Some).collect();

    // Founding needs all names.
    network.publish(&published);
    (0..3).for_each(|index| cluster.start_node(index));
    wait_for("the cluster is founded", || {
        cluster.init(&cluster.targets()).status.success().then_some(())
    });
    wait_until_whole(&addresses);
    (0..3).for_each(|index| cluster.kill_node(index));

    // The third name is unknown: the others start without it, also in its own namespace.
    published[2] = None;
    network.publish(&published);
    (0..3).for_each(|index| cluster.start_node(index));
    append(&addresses[..2], "first");
    let log = wait_for("it is said", || {
        Some(cluster.nodes[0].log()).filter(|log| log.contains("cannot be resolved"))
    });
    assert!(log.contains("node-3.loggos.test"), "{log}");
    wait_for("the third listens on all its addresses", || status_at(&addresses[2]));

    // It becomes known.
    published[2] = Some(addresses[2].clone());
    network.publish(&published);
    wait_until_whole(&addresses);
    let told = cluster.nodes[0].log().matches("cannot be resolved").count();
    assert!(told <= 4, "it is said {told} times: once each time that it changes");

    // One moves and starts again, then a second one. Then none is left that both of them knew.
    for index in [0, 1] {
        append(&addresses, &format!("before {index}"));
        cluster.kill_node(index);
        addresses[index] = network.move_node(index);
        published[index] = Some(addresses[index].clone());
        network.publish(&published);
        cluster.start_node(index);
        wait_until_whole(&addresses);
    }
    // The third has stayed: without it the two that have moved are the only quorum.
    cluster.kill_node(2);
    append(&addresses[..2], "last");
}

/// A name that cannot be found stops no start, whoever's it is.
#[test]
fn unknown_names_stop_no_start() {
    let mut cluster = Cluster::blank_at(vec![
        ("node-1.loggos.invalid:7400".to_owned(), None),
        ("node-2.loggos.invalid:7400".to_owned(), None),
        ("node-3.loggos.invalid:7400".to_owned(), None),
    ]);
    let port = common::free_ports(1)[0];
    let listen = format!("127.0.0.1:{port}");
    cluster.start_node_with(0, &["--listen", &listen]);
    wait_for("it listens", || std::net::TcpStream::connect(&listen).ok());
    // Whatever it says to a client before its cluster is founded: it is there.
    drop(common::greet(&listen, 0));
    assert!(cluster.nodes[0].is_running());
}
