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
    DeserializeError, Deserializer, Serializer, V2DeflateSerializer,
};

use super::report::LatencyReport;

/// The largest latency told apart in nanoseconds; a longer one counts as this.
pub const LATENCY_NS_MAX: u64 = 600 * 1_000_000_000;
/// Significant digits: values are told apart to 0.1%.
const SIGNIFICANT_DIGITS: u8 = 3;

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

    /// Adds it to the end of `out` in HdrHistogram's interchange format (V2, compressed).
    pub fn put_interchange(&self, out: &mut Vec<u8>) {
        let written = V2DeflateSerializer::new().serialize(&self.histogram, out);
        written.expect("a histogram of ours can be written to memory");
    }

    /// Reads what [`Latencies::put_interchange`] wrote.
    ///
    /// # Errors
    /// When `bytes` are no histogram, or one of other bounds, which could not be merged.
    pub fn from_interchange(bytes: &[u8]) -> Result<Latencies, InterchangeError> {
        let mut rest = bytes;
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut rest).map_err(InterchangeError::Damaged)?;
        let found = (histogram.low(), histogram.high(), histogram.sigfig());
        match found == (1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS) {
            true => Ok(Latencies { histogram }),
            false => Err(InterchangeError::Bounds),
        }
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
    /// They are one of other bounds or digits.
    #[error("a histogram with other bounds")]
    Bounds,
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

        // Cut anywhere it is refused, or whole already (a checksum at the end is not looked at).
        for end in 0..bytes.len() {
            match Latencies::from_interchange(&bytes[..end]) {
                Ok(found) => assert_eq!(found.histogram, latencies.histogram, "cut at {end}"),
                Err(error) => assert!(matches!(error, InterchangeError::Damaged(_)), "{error}"),
            }
        }
        assert!(Latencies::from_interchange(&bytes[..bytes.len() / 2]).is_err());
        assert!(Latencies::from_interchange(b"no histogram at all").is_err());
        let other: Histogram<u64> = Histogram::new_with_bounds(1, 1000, 2).unwrap();
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&other, &mut bytes).unwrap();
        let refused = Latencies::from_interchange(&bytes);
        assert!(matches!(refused, Err(InterchangeError::Bounds)), "{refused:?}");
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
