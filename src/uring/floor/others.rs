//! What other programs take of the processors while a floor is measured.
//!
//! Used by the floors alone. A thread of another program that never sleeps makes a durable write
//! cost 4 ms (its completion waits for the timer tick) and pushes both ends of a round trip onto
//! one processor: such a measurement says nothing about the disk or the wire, so it must be known.

use std::time::Instant;

use super::super::host::read_line;

/// Totals of the clock ticks spent in programs, at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    /// By all programs.
    all: u64,
    /// By this process.
    own: u64,
}

/// Watches from its making on.
#[derive(Debug)]
pub struct Others {
    since: Instant,
    /// Absent where the system does not tell.
    ticks: Option<Ticks>,
}

impl Others {
    /// Starts to watch.
    pub fn watch() -> Others {
        Others { since: Instant::now(), ticks: read() }
    }

    /// Processor time that other programs have used since then, as a share of one processor (2.0:
    /// two were busy all the time). The system's own work is left out: most of it is on behalf of
    /// what is measured. 0.0 where the system does not tell.
    pub fn share(&self) -> f64 {
        let (Some(before), Some(after)) = (self.ticks, read()) else { return 0.0 };
        let own = after.own.saturating_sub(before.own);
        self.share_of(after.all.saturating_sub(before.all).saturating_sub(own))
    }

    /// As [`Others::share`], where only `own` of this process's time is not the others'.
    #[cfg(test)]
    pub fn share_besides(&self, own: std::time::Duration) -> f64 {
        let (Some(before), Some(after)) = (self.ticks, read()) else { return 0.0 };
        let own = own.as_secs_f64() / self.since.elapsed().as_secs_f64().max(1e-9);
        (self.share_of(after.all.saturating_sub(before.all)) - own).max(0.0)
    }

    fn share_of(&self, ticks: u64) -> f64 {
        let elapsed = self.since.elapsed().as_secs_f64().max(1e-9);
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64 / elapsed
    }
}

fn read() -> Option<Ticks> {
    let stat = read_line("/proc/stat")?;
    let own = read_line("/proc/self/stat")?;
    Some(Ticks { all: parse_all(&stat)?, own: parse_own(&own)? })
}

/// The first line of `/proc/stat`: `cpu USER NICE SYSTEM …`.
fn parse_all(stat: &str) -> Option<u64> {
    let mut numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let user: u64 = numbers.next()?.parse().ok()?;
    let nice: u64 = numbers.next()?.parse().ok()?;
    Some(user + nice)
}

/// `/proc/self/stat`: the number, the name in parentheses (which may hold anything), the state,
/// and, tenth after that, the time spent in the program.
fn parse_own(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let all = "cpu  100 20 30 4000 5 6 7 8 0 0\ncpu0 1 2 3\n";
        assert_eq!(parse_all(all), Some(120));
        let own = "77 (a) b (c) R 1 77 77 0 -1 4194560 1 0 0 0 31 9 0 0 20 0 1 0";
        assert_eq!(parse_own(own), Some(31));
        assert_eq!((parse_all("cpu"), parse_own("77")), (None, None));
    }

    #[test]
    fn own_work_is_not_the_others() {
        let before = read().expect("this kernel tells");
        let watch = Others::watch();
        let started = Instant::now();
        let mut ticks = before;
        // Until the clock has counted some of this thread's work.
        while ticks.own < before.own + 10 && started.elapsed().as_secs() < 20 {
            ticks = read().expect("this kernel tells");
        }
        assert!(ticks.own >= before.own + 10, "work is counted as the own");
        assert!(ticks.all - before.all >= 9, "and within the total");
        assert!(watch.share() >= 0.0);
    }
}
