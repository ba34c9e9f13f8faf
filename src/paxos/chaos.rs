//! Random runs of small clusters: agreement under loss, doubling, reordering, crashes and stalls,
//! then required progress once a quorum is healed; and the partial connections known to have
//! stopped other systems.
//!
//! `LOGGOS_CHAOS_SEED=n` replays one seed with a trace, `LOGGOS_CHAOS_RUNS=n` runs more of them.

mod cluster;

use std::time::Duration;

use self::cluster::{Cluster, Hits};
use super::testkit::Text;
use super::{Input, Role};
use crate::base::NodeId;
use crate::base::rng::Rng;

const MS: u64 = 1_000_000;
const RUNS: u64 = 5000;
const LEASE_RUNS: u64 = 500;
const TRANSFER_RUNS: u64 = 200;
/// Virtual time within which a healed cluster must have chosen new values everywhere.
const HEALED_WITHIN_MS: u64 = 20_000;
/// So many values are proposed after the healing.
const HEALED_VALUES: u64 = 12;

/// Proposes wherever it is possible; returns the last value proposed.
fn propose(cluster: &mut Cluster, proposed: &mut u64, node: usize) -> Option<Text> {
    if !cluster.can_propose(node) {
        return None;
    }
    *proposed += 1;
    let value = Text { text: format!("v{proposed}"), size: 300_000 };
    cluster.step(node, Input::Propose(value.clone()));
    Some(value)
}

fn harm(cluster: &mut Cluster) {
    let count = cluster.count() as u64;
    let mut node = cluster.rng.below(count) as usize;
    // Leaders are where it hurts.
    if cluster.rng.below(2) == 0 {
        node = (0..cluster.count()).find(|node| cluster.can_propose(*node)).unwrap_or(node);
    }
    let peer = cluster.rng.below(count) as usize;
    match cluster.rng.below(19) {
        0..=2 if cluster.is_up(node) => cluster.crash(node),
        0..=4 if !cluster.is_up(node) => cluster.start(node),
        5 => cluster.blocked[node][peer] = true,
        6 => {
            for other in 0..cluster.count() {
                cluster.blocked[node][other] = true;
                cluster.blocked[other][node] = true;
            }
        }
        7 | 8 => {
            for from in 0..cluster.count() {
                for to in 0..cluster.count() {
                    let was = std::mem::take(&mut cluster.blocked[from][to]);
                    if was && from != to && cluster.rng.below(2) == 0 {
                        cluster.connect(from, to);
                    }
                }
            }
        }
        9 => {
            let time = Duration::from_millis(cluster.rng.below(3000));
            cluster.stall_disk(node, time);
        }
        12 | 13 => {
            let time = Duration::from_millis(cluster.rng.below(2000));
            cluster.pause(node, time);
            // What was on its way still arrives; then, perhaps, nothing does any more.
            if cluster.rng.below(2) == 0 {
                let soon = cluster.rng.below(60) * MS;
                cluster.run_until(cluster.now + soon);
                for other in 0..cluster.count() {
                    cluster.blocked[node][other] = true;
                    cluster.blocked[other][node] = true;
                }
            }
        }
        14 => {
            // Cut one off, leader or not, and restart the others: what they granted it still runs.
            for other in (0..cluster.count()).filter(|other| *other != node) {
                cluster.blocked[node][other] = true;
                cluster.blocked[other][node] = true;
                if cluster.is_up(other) {
                    cluster.crash(other);
                }
                cluster.start(other);
            }
        }
        // To itself: it keeps the leadership after all.
        15..=18 => {
            cluster.step(node, Input::TransferTo(NodeId(peer as u16 + 1)));
            if cluster.rng.below(3) == 0 {
                let soon = cluster.rng.below(60) * MS;
                cluster.run_until(cluster.now + soon);
                cluster.step(node, Input::TransferTo(NodeId(node as u16 + 1)));
            }
        }
        10 if node != peer => cluster.connect(node, peer),
        11 if node != peer => {
            cluster.step(node, Input::PeerLost(NodeId(peer as u16 + 1)));
        }
        _ => {}
    }
}

/// Heals a random majority fully; what is outside stays down, cut off, or half connected.
fn heal(cluster: &mut Cluster) -> Vec<usize> {
    let count = cluster.count();
    let size = count / 2 + 1 + cluster.rng.below((count - count / 2) as u64) as usize;
    let first = cluster.rng.below(count as u64) as usize;
    let healed: Vec<usize> = (0..size).map(|step| (first + step) % count).collect();
    cluster.faults.loss_percent = 0;
    cluster.faults.delay_max = cluster.faults.delay_max.min(Duration::from_millis(10));
    let mode = cluster.rng.below(4);
    for from in 0..count {
        for to in 0..count {
            let (inside_from, inside_to) = (healed.contains(&from), healed.contains(&to));
            cluster.blocked[from][to] = match (inside_from, inside_to) {
                (true, true) => false,
                (false, true) => mode != 1,
                (true, false) => mode != 2,
                (false, false) => mode == 3,
            };
        }
    }
    for node in 0..count {
        cluster.stall_disk(node, Duration::ZERO);
        cluster.resume(node);
        if healed.contains(&node) && !cluster.is_up(node) {
            cluster.start(node);
        }
        for peer in 0..count {
            if node != peer && !cluster.blocked[node][peer] {
                cluster.connect(node, peer);
            }
        }
    }
    healed
}

fn run(seed: u64, trace: bool) -> Hits {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let count = [1, 3, 3, 5][rng.below(4) as usize];
    let mut cluster = Cluster::new(seed, count, trace);
    let mut proposed = 0;
    let harmful_until = (1000 + rng.below(4000)) * MS;
    while cluster.now < harmful_until {
        let pause = (1 + rng.below(60)) * MS;
        cluster.run_until(cluster.now + pause);
        for node in 0..count {
            for _ in 0..rng.below(5) {
                propose(&mut cluster, &mut proposed, node);
            }
            for _ in 0..rng.below(3) {
                cluster.read(node, rng.below(2) == 0);
            }
        }
        if rng.below(3) == 0 {
            harm(&mut cluster);
        }
    }
    let healed = heal(&mut cluster);
    let round = cluster.round_max();
    require_progress(&mut cluster, &mut proposed, &healed, &healed);
    cluster.check_values_once();
    let rounds = cluster.round_max() - round;
    assert!(rounds <= 40, "{rounds} rounds after the healing:\n{}", cluster.describe());
    cluster.hits.clone()
}

/// Leases alone: the leader is cut off or paused again and again while it serves reads, the others
/// are told of its loss at once, and some of them restart.
fn run_leases(seed: u64, trace: bool) -> Hits {
    let mut rng = Rng::new(seed ^ 0x1ea5e);
    let count = [3, 3, 5][rng.below(3) as usize];
    let percent = 50 + rng.below(150) as u32;
    let mut cluster = Cluster::with(seed, count, trace, |config| {
        let lease = config.election_timeout * percent / 100;
        config.lease = Duration::from_millis(lease.as_millis() as u64);
    });
    let lease_ms = 3 * cluster.lease().as_millis() as u64;
    cluster.faults.loss_percent = 0;
    // Much faster than the timeouts, or else everything runs out before anybody is elected.
    cluster.faults.delay_max = Duration::from_millis(1);
    cluster.faults.disk_delay_max = Duration::from_millis(1);
    let mut proposed = 0;
    for round in 0..8 {
        let restart_percent = [0, 50, 100][rng.below(3) as usize];
        let leader = (0..count).find(|node| cluster.can_propose(*node)).unwrap_or(0);
        for other in (0..count).filter(|other| *other != leader) {
            cluster.blocked[leader][other] = true;
            cluster.blocked[other][leader] = rng.below(4) != 0;
            if round > 0 && rng.below(100) < restart_percent {
                cluster.crash(other);
                cluster.start(other);
            } else {
                cluster.step(other, Input::PeerLost(NodeId(leader as u16 + 1)));
            }
        }
        if rng.below(3) == 0 {
            cluster.pause(leader, Duration::from_millis(rng.below(lease_ms)));
        }
        let until = cluster.now + (1 + rng.below(lease_ms)) * MS;
        while cluster.now < until {
            cluster.run_until(cluster.now + 2 * MS);
            for node in 0..count {
                propose(&mut cluster, &mut proposed, node);
                cluster.read(node, true);
            }
        }
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                if std::mem::take(&mut cluster.blocked[from][to]) {
                    cluster.connect(from, to);
                }
            }
        }
        let until = cluster.now + lease_ms * MS;
        while cluster.now < until {
            cluster.run_until(cluster.now + 10 * MS);
            for node in 0..count {
                cluster.read(node, true);
            }
        }
    }
    cluster.hits.clone()
}

/// Leases and handing over: the leadership goes round while reads by lease arrive everywhere; the
/// word to take over comes in time, late, or never; the leader may hear nothing of it.
fn run_transfers(seed: u64, trace: bool) -> Hits {
    let mut rng = Rng::new(seed ^ 0x7a4e);
    let count = [3, 3, 5][rng.below(3) as usize];
    let mut cluster = Cluster::with(seed, count, trace, |config| {
        config.heartbeat_interval = Duration::from_millis(5);
        config.election_timeout = Duration::from_millis(30);
        config.lease = Duration::from_millis(40);
    });
    let lease_ms = cluster.lease().as_millis() as u64;
    cluster.faults.loss_percent = 0;
    cluster.faults.disk_delay_max = Duration::from_millis(1);
    let mut proposed = 0;
    for _ in 0..30 {
        // Late words to take over need a network that is slow and keeps no order.
        let slow = rng.below(2) == 0;
        cluster.faults.reorder = slow;
        cluster.faults.delay_max = Duration::from_millis(if slow { lease_ms / 2 } else { 1 });
        let leader = (0..count).find(|node| cluster.can_propose(*node)).unwrap_or(0);
        let to = NodeId(rng.below(count as u64) as u16 + 1);
        cluster.step(leader, Input::TransferTo(to));
        // The leader may hear nothing of what comes of it.
        let deaf = rng.below(2) == 0;
        if deaf {
            let soon = rng.below(4 * MS);
            cluster.run_until(cluster.now + soon);
            (0..count).for_each(|other| cluster.blocked[other][leader] = other != leader);
        }
        let until = cluster.now + (1 + rng.below(lease_ms)) * MS;
        while cluster.now < until {
            cluster.run_until(cluster.now + MS);
            for node in 0..count {
                propose(&mut cluster, &mut proposed, node);
                cluster.read(node, true);
            }
        }
        for other in (0..count).filter(|other| deaf && *other != leader) {
            cluster.blocked[other][leader] = false;
            cluster.connect(other, leader);
            cluster.connect(leader, other);
        }
        if rng.below(2) == 0 {
            cluster.step(leader, Input::TransferTo(NodeId(leader as u16 + 1)));
        }
        if rng.below(8) == 0 {
            let node = rng.below(count as u64) as usize;
            cluster.crash(node);
            cluster.start(node);
        }
    }
    cluster.hits.clone()
}

/// New values are chosen, and everybody in `all` gets to know them.
fn require_progress(cluster: &mut Cluster, proposed: &mut u64, proposers: &[usize], all: &[usize]) {
    let until = cluster.now + HEALED_WITHIN_MS * MS;
    let mut missing = HEALED_VALUES;
    let mut waiting: Option<Text> = None;
    while missing > 0 {
        assert!(
            cluster.now < until,
            "no progress: {missing} values missing, {waiting:?} in flight\n{}",
            cluster.describe()
        );
        if let Some(value) = &waiting
            && all.iter().all(|node| cluster.has_chosen(*node, value))
        {
            missing -= 1;
            waiting = None;
        }
        // A value proposed by a leader that is then deposed may be lost: another is tried.
        if waiting.is_none() || cluster.rng.below(200) == 0 {
            for node in proposers {
                if let Some(value) = propose(cluster, proposed, *node) {
                    waiting = Some(value);
                }
            }
        }
        cluster.run_until(cluster.now + 5 * MS);
    }
    cluster.run_until(cluster.now + HEALED_WITHIN_MS * MS);
    assert!(cluster.reads_ended(), "reads wait for ever:\n{}", cluster.describe());
}

#[test]
fn clusters_agree_under_faults_and_recover() {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    if let Some(seed) = number("LOGGOS_CHAOS_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let runs = number("LOGGOS_CHAOS_RUNS").unwrap_or(RUNS);
    let mut total = Hits::default();
    for seed in 0..runs {
        let hits = std::panic::catch_unwind(|| run(seed, false));
        let Ok(hits) = hits else {
            panic!("seed {seed} failed: replay it with LOGGOS_CHAOS_SEED={seed}");
        };
        total.add(&hits);
    }
    println!("{runs} runs: {total:?}");
    for (what, count) in total.all() {
        assert!(count >= runs / 100, "{what} was hit {count} times only in {runs} runs");
    }
}

#[test]
fn leases_hold_at_the_edge_of_the_clocks_bound() {
    let mut total = Hits::default();
    for seed in 0..LEASE_RUNS {
        let hits = std::panic::catch_unwind(|| run_leases(seed, false));
        total.add(&hits.unwrap_or_else(|_| panic!("seed {seed} failed")));
    }
    println!("{LEASE_RUNS} runs: {total:?}");
    assert!(total.lease_reads > LEASE_RUNS * 10, "{} reads by lease", total.lease_reads);
}

#[test]
fn leases_end_before_the_leadership_is_handed_over() {
    let mut total = Hits::default();
    for seed in 0..TRANSFER_RUNS {
        let hits = std::panic::catch_unwind(|| run_transfers(seed, false));
        total.add(&hits.unwrap_or_else(|_| panic!("seed {seed} failed")));
    }
    println!("{TRANSFER_RUNS} runs: {total:?}");
    assert!(total.lease_reads > TRANSFER_RUNS * 10, "{} reads by lease", total.lease_reads);
    assert!(total.taken_over > TRANSFER_RUNS && total.kept > TRANSFER_RUNS, "{total:?}");
}

#[cfg(feature = "mutants")]
#[test]
fn mistakes_in_reads_leases_and_handing_over_are_caught() {
    use crate::base::mutants::{Mutant, plant};
    let handing_over = [Mutant::TransferToReplicaBehind];
    let reads = Mutant::ALL.iter().filter(|mutant| mutant.family() == 2);
    for mutant in reads.chain(&handing_over) {
        plant(Some(*mutant));
        let fails = |run: fn(u64, bool) -> Hits, seed| {
            std::panic::catch_unwind(|| run(seed, false)).is_err()
        };
        let runs = [run, run_leases, run_transfers];
        let caught = (0..RUNS).find(|seed| runs.iter().any(|run| fails(*run, *seed)));
        plant(None);
        let caught = caught.unwrap_or_else(|| panic!("{} survives", mutant.name()));
        println!("{} is caught by seed {caught}", mutant.name());
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(format!("{:?}", run(seed, false)), format!("{:?}", run(seed, false)));
    }
}

impl Hits {
    fn all(&self) -> [(&'static str, u64); 16] {
        [
            ("crash", self.crashes),
            ("new leader", self.leaders),
            ("nack", self.nacks),
            ("no-op chosen", self.noops_chosen),
            ("value fetched", self.values_fetched),
            ("slot learnt", self.learnt),
            ("chosen slot accepted again", self.accepted_again),
            ("slot chosen", self.chosen),
            ("message lost", self.lost_messages),
            ("write lost", self.lost_writes),
            ("pause", self.pauses),
            ("read answered", self.reads_ready),
            ("read given up", self.reads_failed),
            ("read by lease", self.lease_reads),
            ("leadership taken over", self.taken_over),
            ("leadership kept", self.kept),
        ]
    }

    fn add(&mut self, other: &Hits) {
        self.crashes += other.crashes;
        self.leaders += other.leaders;
        self.nacks += other.nacks;
        self.noops_chosen += other.noops_chosen;
        self.values_fetched += other.values_fetched;
        self.learnt += other.learnt;
        self.accepted_again += other.accepted_again;
        self.chosen += other.chosen;
        self.lost_messages += other.lost_messages;
        self.lost_writes += other.lost_writes;
        self.pauses += other.pauses;
        self.reads_ready += other.reads_ready;
        self.reads_failed += other.reads_failed;
        self.lease_reads += other.lease_reads;
        self.taken_over += other.taken_over;
        self.kept += other.kept;
    }
}

// ---- partial connections that stay ----

/// A cluster that has a leader and some chosen values, without loss.
fn settled(seed: u64, count: usize) -> (Cluster, u64, usize) {
    let mut cluster = Cluster::new(seed, count, false);
    cluster.faults.loss_percent = 0;
    cluster.faults.delay_max = Duration::from_millis(1);
    cluster.faults.disk_delay_max = Duration::from_millis(2);
    let all: Vec<usize> = (0..count).collect();
    let mut proposed = 0;
    require_progress(&mut cluster, &mut proposed, &all, &all);
    let is_leader = |node: &usize| {
        let core = cluster.nodes[*node].core.as_ref();
        core.is_some_and(|core| core.role() == Role::Leader)
    };
    let leader = all.iter().copied().find(is_leader).expect("somebody leads");
    (cluster, proposed, leader)
}

fn keep_only(cluster: &mut Cluster, links: &[(usize, usize)]) {
    for from in 0..cluster.count() {
        for to in 0..cluster.count() {
            let kept = links.contains(&(from, to)) || links.contains(&(to, from));
            cluster.blocked[from][to] = !kept;
        }
    }
}

/// The rounds may grow by a few elections, not with time.
fn require_calm(cluster: &mut Cluster, proposed: &mut u64, nodes: &[usize]) {
    let everybody: Vec<usize> = (0..cluster.count()).collect();
    require_progress(cluster, proposed, &everybody, nodes);
    let round = cluster.round_max();
    cluster.run_until(cluster.now + 20_000 * MS);
    require_progress(cluster, proposed, &everybody, nodes);
    let rounds = cluster.round_max() - round;
    assert!(rounds <= 2, "the rounds ran away by {rounds}\n{}", cluster.describe());
}

#[test]
fn quorum_loss_every_link_but_those_to_one_follower_breaks() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 5);
        let hub = (leader + 1) % 5;
        let links: Vec<_> = (0..5).map(|node| (hub, node)).collect();
        keep_only(&mut cluster, &links);
        require_calm(&mut cluster, &mut proposed, &[0, 1, 2, 3, 4]);
    }
}

#[test]
fn constrained_election_the_only_electable_replica_is_behind() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 5);
        let hub = (leader + 1) % 5;
        // The later hub misses some slots first.
        for node in 0..5 {
            cluster.blocked[node][hub] = true;
            cluster.blocked[hub][node] = true;
        }
        let others: Vec<_> = (0..5).filter(|node| *node != hub).collect();
        require_progress(&mut cluster, &mut proposed, &others, &others);
        // Then the old leader is cut off, and all the others reach the hub alone.
        let links: Vec<_> = (0..5).filter(|node| *node != leader).map(|node| (hub, node)).collect();
        keep_only(&mut cluster, &links);
        let reached: Vec<_> = (0..5).filter(|node| *node != leader).collect();
        require_calm(&mut cluster, &mut proposed, &reached);
    }
}

#[test]
fn chained_the_leader_and_one_follower_lose_their_link() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 3);
        let (middle, end) = ((leader + 1) % 3, (leader + 2) % 3);
        keep_only(&mut cluster, &[(leader, middle), (middle, end)]);
        require_calm(&mut cluster, &mut proposed, &[leader, middle]);
    }
}

#[test]
fn a_leader_that_is_heard_but_hears_nobody_gives_way() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 3);
        let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
        for node in &others {
            cluster.blocked[*node][leader] = true;
        }
        require_calm(&mut cluster, &mut proposed, &others);
    }
}

#[test]
fn a_replica_cut_off_and_back_does_not_depose_the_leader() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 3);
        let (round, node) = (cluster.round_max(), (leader + 1) % 3);
        keep_only(&mut cluster, &[(leader, (leader + 2) % 3)]);
        cluster.run_until(cluster.now + 5_000 * MS);
        keep_only(&mut cluster, &[(0, 1), (1, 2), (0, 2)]);
        require_progress(&mut cluster, &mut proposed, &[leader], &[node]);
        assert_eq!(cluster.round_max(), round);
    }
}

#[test]
fn a_leader_with_a_stalled_disk_gives_way() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 3);
        cluster.stall_disk(leader, Duration::from_secs(1000));
        let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
        for _ in 0..20 {
            propose(&mut cluster, &mut proposed, leader);
        }
        cluster.run_until(cluster.now + 6_000 * MS);
        require_calm(&mut cluster, &mut proposed, &others);
        let core = cluster.nodes[leader].core.as_ref().unwrap();
        assert_ne!(core.role(), Role::Leader);
    }
}

#[test]
fn a_leader_without_room_gives_way_only_to_one_with_room() {
    for seed in 0..20 {
        let (mut cluster, mut proposed, leader) = settled(seed, 3);
        let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
        cluster.nodes[leader].disk_full = true;
        cluster.run_until(cluster.now + 6_000 * MS);
        require_calm(&mut cluster, &mut proposed, &others);
        let core = cluster.nodes[leader].core.as_ref().unwrap();
        assert_ne!(core.role(), Role::Leader);

        // Where no disk has room the same one leads on, to say so and to serve reads.
        others.iter().for_each(|node| cluster.nodes[*node].disk_full = true);
        let round = cluster.round_max();
        for _ in 0..100 {
            cluster.run_until(cluster.now + 200 * MS);
            let mut cores = cluster.nodes.iter().filter_map(|node| node.core.as_ref());
            assert!(cores.any(|core| core.role() == Role::Leader));
        }
        assert_eq!(cluster.round_max(), round);
    }
}
