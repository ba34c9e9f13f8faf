//! Nodes that take connections or requests and say nothing: the client asks another one.

use super::*;

/// Long enough to fail a test that waits for it, and short enough to be told from [`PATIENCE`].
const TIMEOUT: Duration = Duration::from_secs(10);

fn quick() -> ClientOptions {
    ClientOptions {
        operation_timeout: TIMEOUT,
        connect_timeout: PATIENCE,
        stall_timeout: PATIENCE,
        attempt_delay: Duration::from_millis(50),
        probe_after: Duration::from_millis(100),
        exactly_once: true,
        ..Default::default()
    }
}

/// Welcomes whoever comes, and waits until they have gone, so often.
fn serve_probes(listener: &TcpListener, welcome: &Welcome, count: usize) {
    (0..count).for_each(|_| Served::welcome(listener, welcome).until_closed());
}

#[tokio::test]
async fn silent_target_is_passed_over() {
    let (mut listeners, members) = nodes(2);
    // The kernel takes connections for the first one, as for a process that is stopped.
    let (second, silent) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let welcome = welcome_of(2, Some(2), &members);
    let server = std::thread::spawn(move || {
        let mut served = Served::welcome(&second, &welcome);
        let got = served.next();
        served.answer(&Response::TailIs { request: got.id(), tail: Position(5) });
        served.until_closed();
    });
    let targets = members.iter().map(|(_, address)| address.clone());
    let client = Client::connect(targets, quick()).await.expect("the second one answers");
    assert_eq!(client.tail(ReadLevel::Local).await, Ok(Position(5)));
    drop(client);
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn silent_leader_is_left_for_the_new_one() {
    let (mut listeners, members) = nodes(2);
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let welcomes = (welcome_of(1, Some(1), &members), welcome_of(2, Some(2), &members));
    let silent = std::thread::spawn(move || {
        let mut served = Served::welcome(&first, &welcomes.0);
        let got = served.next();
        served.answer(&Response::SessionOpened { request: got.id(), session: SessionId(7) });
        let name = served.next().name();
        // Says nothing more, and does not close.
        served.until_closed();
        name
    });
    let leader = std::thread::spawn(move || {
        serve_probes(&second, &welcomes.1, 1);
        let mut served = Served::welcome(&second, &welcomes.1);
        let got = served.next();
        served.answer(&got.appended(17));
        got.name()
    });
    let client = Client::connect([members[0].1.clone()], quick()).await.unwrap();
    assert_eq!(client.append(&["a"]).await.expect("the new leader takes it").first, Position(17));
    let names = tokio::task::spawn_blocking(move || (silent.join(), leader.join())).await.unwrap();
    assert_eq!(names.0.unwrap(), names.1.unwrap(), "sent again under its number");
}

#[tokio::test]
async fn slow_leader_is_kept_while_no_other_says_it_leads() {
    let (mut listeners, members) = nodes(3);
    let (third, second) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let first = listeners.pop().unwrap();
    let leads = welcome_of(1, Some(1), &members);
    // The second one is behind: it names the third, which does not lead.
    let (behind, follows) = (welcome_of(2, Some(3), &members), welcome_of(3, Some(1), &members));
    let (probed, was_probed) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || serve_probes(&second, &behind, 1));
    let third = std::thread::spawn(move || {
        // Once in its turn or named by the second one: in whichever order, twice.
        serve_probes(&third, &follows, 2);
        probed.send(()).unwrap();
    });
    let slow = std::thread::spawn(move || {
        let mut served = Served::welcome(&first, &leads);
        let got = served.next();
        was_probed.recv_timeout(PATIENCE).expect("the others are asked");
        served.answer(&Response::TailIs { request: got.id(), tail: Position(9) });
        served.until_closed();
    });
    let client = Client::connect([members[0].1.clone()], quick()).await.unwrap();
    assert_eq!(client.tail(ReadLevel::Local).await, Ok(Position(9)));
    drop(client);
    let servers = [second, third, slow];
    tokio::task::spawn_blocking(move || servers.map(join)).await.unwrap();
}

/// Appends that wait for a place in the session's window have the same time as those in it.
#[tokio::test]
async fn operation_timeout_counts_the_wait_in_the_queue() {
    const APPENDS: usize = 4000;
    let timeout = Duration::from_secs(3);
    let (address, server) = alone(|listener, welcome| {
        let mut served = Served::welcome(&listener, &welcome);
        // Takes everything, and answers nothing.
        while served.request().is_some() {}
    });
    let stall_timeout = timeout + Duration::from_secs(1);
    let options = ClientOptions { operation_timeout: timeout, stall_timeout, ..quick() };
    let client = Client::connect([address], options).await.unwrap();
    let mut appends = tokio::task::JoinSet::new();
    let started = Instant::now();
    for _ in 0..APPENDS {
        let client = client.clone();
        appends.spawn(async move { (client.append(&["a"]).await, started.elapsed()) });
    }
    let mut worst = Duration::ZERO;
    while let Some(ended) = appends.join_next().await {
        let (result, took) = ended.unwrap();
        assert!(result.is_err(), "nobody answers");
        worst = worst.max(took);
    }
    assert!(worst < timeout * 3 / 2, "the slowest took {worst:?} of {timeout:?}");
    drop(client);
    tokio::task::spawn_blocking(move || join(server)).await.unwrap();
}
