//! What is kept for each of many logs, close together in memory.
//!
//! Used where every append looks at something of its log. Appends of one slot go to many logs, and
//! each look at memory that is not in the processor's cache costs as much as the rest of the
//! append; so logs made one after the other are neighbours here. Numbers of logs are never used
//! again: pages without a log in them are given back.

use super::{IdMap, LogId};

/// Logs of a page.
const PAGE_LOGS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Page<T> {
    /// Bit `i`: the page's `i`th log is there.
    live: u64,
    values: [T; PAGE_LOGS],
}

/// A map from logs to small values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPages<T> {
    pages: IdMap<u32, Box<Page<T>>>,
}

impl<T> Default for LogPages<T> {
    fn default() -> LogPages<T> {
        LogPages { pages: IdMap::default() }
    }
}

fn place(log: LogId) -> (u32, usize) {
    (log.0 / PAGE_LOGS as u32, log.0 as usize % PAGE_LOGS)
}

impl<T: Copy + Default> LogPages<T> {
    /// The log's value.
    pub fn get(&self, log: LogId) -> Option<&T> {
        let (page, at) = place(log);
        let page = self.pages.get(&page)?;
        (page.live >> at & 1 == 1).then(|| &page.values[at])
    }

    /// The log's value, to be changed.
    pub fn get_mut(&mut self, log: LogId) -> Option<&mut T> {
        let (page, at) = place(log);
        let page = self.pages.get_mut(&page)?;
        (page.live >> at & 1 == 1).then(|| &mut page.values[at])
    }

    /// The log's value, which is `value` if it had none.
    pub fn get_or_insert(&mut self, log: LogId, value: T) -> &mut T {
        let (page, at) = place(log);
        let empty = || Box::new(Page { live: 0, values: [T::default(); PAGE_LOGS] });
        let page = self.pages.entry(page).or_insert_with(empty);
        if page.live >> at & 1 == 0 {
            page.live |= 1 << at;
            page.values[at] = value;
        }
        &mut page.values[at]
    }

    /// Takes the log out.
    pub fn remove(&mut self, log: LogId) -> Option<T> {
        let (number, at) = place(log);
        let page = self.pages.get_mut(&number)?;
        if page.live >> at & 1 == 0 {
            return None;
        }
        page.live &= !(1 << at);
        let removed = std::mem::take(&mut page.values[at]);
        if page.live == 0 {
            self.pages.remove(&number);
        }
        Some(removed)
    }

    /// Every log with its value, by log.
    pub fn sorted(&self) -> impl Iterator<Item = (LogId, &T)> {
        let mut pages: Vec<_> = self.pages.iter().map(|(number, page)| (*number, page)).collect();
        pages.sort_unstable_by_key(|(number, _)| *number);
        pages.into_iter().flat_map(|(number, page)| {
            let is_live = move |at: &usize| page.live >> at & 1 == 1;
            let log = move |at: usize| LogId(number * PAGE_LOGS as u32 + at as u32);
            (0..PAGE_LOGS).filter(is_live).map(move |at| (log(at), &page.values[at]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_come_and_go_and_pages_with_them() {
        let mut pages = LogPages::default();
        for log in [1_000_000, 64, 63, 1, 0].map(LogId) {
            assert_eq!(pages.get(log), None);
            assert_eq!(*pages.get_or_insert(log, log.0), log.0);
            assert_eq!(*pages.get_or_insert(log, 99), log.0);
        }
        assert_eq!(pages.sorted().map(|(_, v)| *v).collect::<Vec<_>>(), [0, 1, 63, 64, 1_000_000]);
        *pages.get_mut(LogId(63)).unwrap() = 7;
        assert_eq!((pages.get(LogId(63)), pages.get(LogId(2))), (Some(&7), None));
        assert_eq!(
            [64, 1_000_000, 5, 64].map(|log| pages.remove(LogId(log))),
            [Some(64), Some(1_000_000), None, None]
        );
        assert_eq!((pages.pages.len(), pages.get(LogId(64))), (1, None));
        let left: Vec<_> = pages.sorted().collect();
        assert_eq!(left, [(LogId(0), &0), (LogId(1), &1), (LogId(63), &7)]);
    }
}
