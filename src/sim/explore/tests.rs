//! What is explored at every test run, and whether planted bugs are found.

use super::{Bounds, Order, explore};

#[test]
fn small_worlds_agree() {
    let report = explore(&Bounds::small(), &mut |_| {});
    println!("{report}");
    assert!(report.violation.is_none() && report.complete, "{report}");
}

#[test]
fn measure() {
    let get = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let bounds = Bounds {
        slots: get("S", 1),
        proposals: get("P", 1) as u8,
        campaigns: get("C", 2) as u8,
        crashes: get("X", 0) as u8,
        delays: get("D", 0) as u8,
        hints: get("H", 0) == 1,
        heartbeats: get("HB", 1) == 1,
        catch_up: get("CU", 1) == 1,
        worlds_max: get("W", 5_000_000) as usize,
        order: if get("B", 0) == 1 { Order::Breadth } else { Order::Depth },
        ..Bounds::small()
    };
    let start = std::time::Instant::now();
    let report = explore(&bounds, &mut |_| {});
    println!("{:?} {report}", start.elapsed());
}
