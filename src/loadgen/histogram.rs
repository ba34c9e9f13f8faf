//! Latency recording with HdrHistogram: 3 significant digits, nanoseconds, 1 ns to 10 minutes.
//!
//! Workers record into a histogram of their own and hand it over once a second; the bench merges
//! them, and exports every second as one line of HdrHistogram's interval log (the interchange
//! format that `HistogramLogProcessor` and the plotters read).

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};
use hdrhistogram::serialization::{
    DeserializeError, Deserializer, Serializer, V2DeflateSerializer, V2Serializer,
};

use super::report::LatencyReport;

/// The largest latency told apart in nanoseconds; a longer one counts as this.
pub const LATENCY_NS_MAX: u64 = 600 * 1_000_000_000;
/// Significant digits: values are told apart to 0.1%.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The largest histogram in the interchange format that is read, in bytes: more than one of ours can
/// take, with each of its 31 thousand counts as long as a number gets.
pub const INTERCHANGE_BYTES_MAX: usize = 512 * 1024;
/// The most latencies in a histogram from elsewhere: more than anybody measures in a second, and so
/// few that the sums over all agents of a run cannot overflow.
pub const INTERCHANGE_COUNT_MAX: u64 = 1 << 40;
/// The first bytes of a histogram in the interchange format, V2 and not compressed.
const V2_COOKIE: u32 = 0x1c84_9313;
/// Bytes before the counts: cookie, length, offset, digits, lowest and highest value, ratio.
const V2_HEAD_BYTES: usize = 40;
/// Bytes of the longest number among the counts.
const VARINT_BYTES_MAX: usize = 9;

/// A histogram of latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

impl Latencies {
    /// An empty histogram.
    pub fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants within the library's limits");
        Latencies { histogram }
    }

    /// Counts one latency. Allocates nothing.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Adds all of `other`'s.
    pub fn merge(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("all histograms here have the same bounds");
    }

    /// Hands over what was counted and starts anew; none when nothing was.
    pub fn take(&mut self) -> Option<Box<Latencies>> {
        if self.histogram.is_empty() {
            return None;
        }
        let taken = Box::new(self.clone());
        self.histogram.reset();
        Some(taken)
    }

    /// Adds it to the end of `out` in HdrHistogram's interchange format (V2, not compressed: its
    /// length can be believed before anything is unpacked).
    pub fn put_interchange(&self, out: &mut Vec<u8>) {
        let written = V2Serializer::new().serialize(&self.histogram, out);
        written.expect("a histogram of ours can be written to memory");
    }

    /// Reads what [`Latencies::put_interchange`] wrote. Whatever `bytes` are, it takes no more memory
    /// than one of ours.
    ///
    /// # Errors
    /// When `bytes` are no histogram, more than [`INTERCHANGE_BYTES_MAX`], one of other bounds, which
    /// could not be merged, or one of more than [`INTERCHANGE_COUNT_MAX`] latencies.
    pub fn from_interchange(bytes: &[u8]) -> Result<Latencies, InterchangeError> {
        // The library believes the head: a stated length of 4 GiB is allocated, and a histogram of
        // whatever bounds made, before the first count is looked at.
        check_counts(check_head(bytes)?)?;
        let mut rest = bytes;
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut rest).map_err(InterchangeError::Damaged)?;
        Ok(Latencies { histogram })
    }

    /// The latency in microseconds that `percent` of all do not exceed; 0 when empty.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        us(self.histogram.value_at_percentile(percent))
    }

    /// The percentiles of the report.
    pub fn report(&self) -> LatencyReport {
        LatencyReport {
            p50: self.percentile_us(50.0),
            p90: self.percentile_us(90.0),
            p99: self.percentile_us(99.0),
            p999: self.percentile_us(99.9),
            p9999: self.percentile_us(99.99),
            max: us(self.histogram.max()),
            mean: round_us(self.histogram.mean() / 1e3),
        }
    }
}

/// Why bytes are not latencies of ours.
#[derive(Debug, thiserror::Error)]
pub enum InterchangeError {
    /// They are no histogram.
    #[error("not a histogram: {0}")]
    Damaged(DeserializeError),
    /// They do not begin as one does.
    #[error("not a histogram in the interchange format, V2")]
    Foreign,
    /// Over [`INTERCHANGE_BYTES_MAX`].
    #[error("a histogram of {0} bytes is over the limit of {INTERCHANGE_BYTES_MAX}")]
    TooLong(usize),
    /// It says of itself that its counts have another length than they have.
    #[error("a histogram that states {stated} bytes of counts and has {found}")]
    Length {
        /// What its head says.
        stated: usize,
        /// What is there.
        found: usize,
    },
    /// Over [`INTERCHANGE_COUNT_MAX`], or counts that are no numbers.
    #[error("a histogram of more latencies than can be (over {INTERCHANGE_COUNT_MAX})")]
    Counts,
    /// They are one of other bounds or digits.
    #[error("a histogram with other bounds")]
    Bounds,
}

/// The counts of a histogram in the interchange format, after a look at its head.
fn check_head(bytes: &[u8]) -> Result<&[u8], InterchangeError> {
    if bytes.len() > INTERCHANGE_BYTES_MAX {
        return Err(InterchangeError::TooLong(bytes.len()));
    }
    let (head, counts) =
        bytes.split_first_chunk::<V2_HEAD_BYTES>().ok_or(InterchangeError::Foreign)?;
    let u32_at = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| head[at + i]));
    let u64_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| head[at + i]));
    if u32_at(0) != V2_COOKIE {
        return Err(InterchangeError::Foreign);
    }
    let (stated, found) = (u32_at(4) as usize, counts.len());
    if stated != found {
        return Err(InterchangeError::Length { stated, found });
    }
    let bounds = (u64_at(16), u64_at(24), u32_at(12));
    match bounds == (1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS.into()) {
        true => Ok(counts),
        false => Err(InterchangeError::Bounds),
    }
}

/// Sums up `counts`: numbers of up to 9 bytes with 7 bits in each but the ninth. An even one is twice
/// a count, an odd one tells how many counts are 0.
fn check_counts(counts: &[u8]) -> Result<(), InterchangeError> {
    let mut rest = counts;
    let mut sum = 0u64;
    while !rest.is_empty() {
        let longest = rest.len().min(VARINT_BYTES_MAX);
        let last = |(index, byte): (usize, &u8)| byte & 0x80 == 0 || index + 1 == VARINT_BYTES_MAX;
        let end = rest[..longest].iter().enumerate().position(last);
        let (number, behind) = rest.split_at(end.ok_or(InterchangeError::Counts)? + 1);
        rest = behind;
        let number = number.iter().enumerate().fold(0u64, |sum, (index, byte)| {
            let bits = if index + 1 == VARINT_BYTES_MAX { *byte } else { byte & 0x7f };
            sum | u64::from(bits) << (7 * index)
        });
        let value = number >> 1;
        if number & 1 == 0 {
            sum = sum.saturating_add(value);
        }
        // Of zeros, too, there cannot be so many.
        if sum.max(value) > INTERCHANGE_COUNT_MAX {
            return Err(InterchangeError::Counts);
        }
    }
    Ok(())
}

fn us(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Microseconds to a nanosecond: no digits that mean nothing.
pub(super) fn round_us(us: f64) -> f64 {
    (us * 1e3).round() / 1e3
}

/// One second of one kind of operation, for the interval log.
#[derive(Clone, Debug)]
pub struct Interval {
    /// `append` or `read`.
    pub tag: &'static str,
    /// Since the measured phase began.
    pub start: Duration,
    /// How long it lasted.
    pub length: Duration,
    /// The latencies of operations that ended in it.
    pub latencies: Box<Latencies>,
}

/// Writes `intervals` as an HdrHistogram interval log; `began` is when the measured phase did.
///
/// # Errors
/// What `writer` says.
pub fn write_interval_log(
    writer: &mut impl Write,
    began: SystemTime,
    intervals: &[Interval],
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Latencies of loggos bench in nanoseconds]")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(1e6)
        .begin_log_with(writer, &mut serializer)?;
    for interval in intervals {
        let tag = Tag::new(interval.tag);
        log.write_histogram(&interval.latencies.histogram, interval.start, interval.length, tag)
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn percentiles_hold_three_digits() {
        let mut latencies = Latencies::new();
        (1..=10_000u64).for_each(|us| latencies.record(us * 1_000));
        let report = latencies.report();
        let pairs = [
            (report.p50, 5_000.0),
            (report.p90, 9_000.0),
            (report.p99, 9_900.0),
            (report.p999, 9_990.0),
            (report.p9999, 9_999.0),
            (report.max, 10_000.0),
            (report.mean, 5_000.5),
        ];
        for (found, expected) in pairs {
            let relative: f64 = (found - expected) / expected;
            assert!(relative.abs() < 0.001, "{found} for {expected}");
        }
    }

    #[test]
    fn too_long_is_counted_and_take_starts_anew() {
        let mut latencies = Latencies::new();
        assert!(latencies.take().is_none());
        latencies.record(u64::MAX);
        let taken = latencies.take().unwrap();
        assert_eq!((taken.count(), latencies.count()), (1, 0));
        let (max, bound) = (taken.report().max, LATENCY_NS_MAX as f64 / 1e3);
        assert!((max - bound).abs() / bound < 0.001, "{max}");
        let mut sum = Latencies::new();
        sum.merge(&taken);
        sum.merge(&taken);
        assert_eq!(sum.count(), 2);
    }

    #[test]
    fn the_interchange_format_keeps_every_count_and_refuses_what_is_none() {
        let mut latencies = Latencies::new();
        (0..20_000u64).for_each(|n| latencies.record(n * n % 7_000_000_011));
        let mut bytes = Vec::new();
        latencies.put_interchange(&mut bytes);
        let again = Latencies::from_interchange(&bytes).unwrap();
        assert_eq!(again.histogram, latencies.histogram);
        assert_eq!(again.report(), latencies.report());

        for end in 0..bytes.len() {
            let refused = Latencies::from_interchange(&bytes[..end]);
            assert!(refused.is_err(), "cut at {end}: {refused:?}");
        }
        assert!(Latencies::from_interchange(b"no histogram at all").is_err());
        let other: Histogram<u64> = Histogram::new_with_bounds(1, 1000, 2).unwrap();
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&other, &mut bytes).unwrap();
        let refused = Latencies::from_interchange(&bytes);
        assert!(matches!(refused, Err(InterchangeError::Bounds)), "{refused:?}");
        // Nothing is unpacked: what is small here could be large then.
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&latencies.histogram, &mut bytes).unwrap();
        let refused = Latencies::from_interchange(&bytes);
        assert!(matches!(refused, Err(InterchangeError::Foreign)), "{refused:?}");
    }

    /// A histogram of ours with these counts, as they stand behind its head.
    fn with_counts(counts: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Latencies::new().put_interchange(&mut bytes);
        bytes.truncate(V2_HEAD_BYTES);
        bytes[4..8].copy_from_slice(&(counts.len() as u32).to_be_bytes());
        bytes.extend_from_slice(counts);
        bytes
    }

    #[test]
    fn a_stated_length_is_not_believed() {
        let mut bytes = with_counts(&[2, 4]);
        assert_eq!(Latencies::from_interchange(&bytes).unwrap().count(), 3);
        bytes[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = Latencies::from_interchange(&bytes);
        let stated = u32::MAX as usize;
        let is_length = |e: &InterchangeError| matches!(e, InterchangeError::Length { stated: s, .. } if *s == stated);
        assert!(refused.as_ref().is_err_and(is_length), "{refused:?}");
        let long = with_counts(&vec![0; INTERCHANGE_BYTES_MAX]);
        let refused = Latencies::from_interchange(&long);
        assert!(matches!(refused, Err(InterchangeError::TooLong(_))), "{refused:?}");
        // Bounds for which the library would make far more counts than ours has.
        let mut wide = with_counts(&[2]);
        wide[12..16].copy_from_slice(&5u32.to_be_bytes());
        wide[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
        let refused = Latencies::from_interchange(&wide);
        assert!(matches!(refused, Err(InterchangeError::Bounds)), "{refused:?}");
    }

    #[test]
    fn counts_that_cannot_be_are_refused_and_the_largest_can_be_summed_up() {
        // The largest number, negated: so many zeros that the library's own sum overflows.
        for counts in [&[0xff; 9][..], &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[2, 0x80]] {
            let refused = Latencies::from_interchange(&with_counts(counts));
            assert!(matches!(refused, Err(InterchangeError::Counts)), "{counts:?}: {refused:?}");
        }
        // More counts than there are: within the sum, and still refused.
        let beyond = with_counts(&[0xff, 0xff, 0xff, 0x7f, 2]);
        let refused = Latencies::from_interchange(&beyond);
        assert!(matches!(refused, Err(InterchangeError::Damaged(_))), "{refused:?}");

        let mut largest = Latencies::new();
        largest.histogram.record_n(5_000, INTERCHANGE_COUNT_MAX).unwrap();
        let mut bytes = Vec::new();
        largest.put_interchange(&mut bytes);
        let largest = Latencies::from_interchange(&bytes).unwrap();
        let mut sum = Latencies::new();
        (0..1000).for_each(|_| sum.merge(&largest));
        assert_eq!(sum.count(), 1000 * INTERCHANGE_COUNT_MAX);
        assert!((sum.report().p50 - 5.0).abs() < 0.01);
    }

    #[test]
    fn the_interval_log_reads_back() {
        let mut latencies = Box::new(Latencies::new());
        [150_000, 250_000, 9_000_000].into_iter().for_each(|ns| latencies.record(ns));
        let second = |start| Interval {
            tag: "append",
            start: Duration::from_secs(start),
            length: Duration::from_secs(1),
            latencies: latencies.clone(),
        };
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut bytes = Vec::new();
        write_interval_log(&mut bytes, began, &[second(0), second(1)]).unwrap();

        let mut found = 0;
        for entry in IntervalLogIterator::new(&bytes) {
            if let LogEntry::Interval(line) = entry.unwrap() {
                assert_eq!(line.tag().unwrap().as_str(), "append");
                assert_eq!(line.start_timestamp(), Duration::from_secs(found));
                let raw = base64_decoded(line.encoded_histogram());
                let histogram: Histogram<u64> =
                    Deserializer::new().deserialize(&mut &raw[..]).unwrap();
                assert_eq!(histogram.len(), 3);
                assert!(histogram.equivalent(histogram.max(), 9_000_000));
                found += 1;
            }
        }
        assert_eq!(found, 2);
    }

    /// The standard base64 alphabet, decoded (the crate does not export its own).
    fn base64_decoded(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = Vec::new();
        let (mut bits, mut count) = (0u32, 0);
        for symbol in text.bytes().filter(|byte| *byte != b'=') {
            let value = ALPHABET.iter().position(|byte| *byte == symbol).expect("base64");
            bits = (bits << 6) | value as u32;
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
                bits &= (1 << count) - 1;
            }
        }
        bytes
    }
}
