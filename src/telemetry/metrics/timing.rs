//! Histograms of durations, all with the same buckets. A sample is two additions; nothing is buffered, so nothing has to be moved
//! and nothing grows. (The exporter's keep every sample with its time until somebody asks.)

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in nanoseconds, from 100 µs to 60 s. One set for all, so that stall, wait and query can be laid
/// over each other; the window's default bounds (2, 4, 10 s) fall between 1 and 10.
const BOUNDS: [u64; 13] = {
    const MS: u64 = 1_000_000;
    const S: u64 = 1000 * MS;
    [MS / 10, 3 * MS / 10, MS, 3 * MS, 10 * MS, 30 * MS, 100 * MS, 300 * MS, S, 3 * S, 10 * S, 30 * S, 60 * S]
};

/// The bounds in seconds, for the page about them.
#[cfg(test)]
pub(super) fn bounds() -> impl Iterator<Item = f64> {
    BOUNDS.into_iter().map(seconds)
}

/// A histogram of durations. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Timing(Arc<Samples>);

#[derive(Debug, Default)]
struct Samples {
    /// How many are in each bucket and no lower one; the last is for what is above all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// Of all, in nanoseconds: full after 500 years.
    sum: AtomicU64,
}

impl Timing {
    /// Adds one sample. Takes no lock and asks for no memory.
    pub fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sum.fetch_add(took, Ordering::Relaxed);
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Their sum in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.0.sum.load(Ordering::Relaxed) / 1000
    }

    /// Appends its lines in Prometheus' text format, under this name; `labels` are rendered, in braces or empty.
    pub(super) fn write(&self, out: &mut String, name: &str, labels: &str) {
        let inner = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}'));
        let before = inner.map_or(String::new(), |inner| format!("{inner},"));
        let mut total = 0;
        // Writing to a String cannot fail.
        for (count, bound) in self.0.counts.iter().zip(BOUNDS.map(Some).into_iter().chain([None])) {
            total += count.load(Ordering::Relaxed);
            let _ = match bound {
                Some(bound) => writeln!(out, "{name}_bucket{{{before}le=\"{}\"}} {total}", seconds(bound)),
                None => writeln!(out, "{name}_bucket{{{before}le=\"+Inf\"}} {total}"),
            };
        }
        let sum = seconds(self.0.sum.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {total}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 nanoseconds are 100 days; a sum may be a millionth off then")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_in_every_bucket_that_it_fits_into() {
        let timing = Timing::default();
        for ms in [0, 100, 101, 70_000] {
            timing.record(Duration::from_millis(ms));
        }
        timing.record(Duration::from_nanos(100_001));
        let mut out = String::new();
        timing.write(&mut out, "x_seconds", "{a=\"b\"}");
        let counts: Vec<&str> = out.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(counts, ["1", "2", "2", "2", "2", "2", "3", "4", "4", "4", "4", "4", "4", "5", "70.201100001", "5"]);
        assert!(
            out.starts_with("x_seconds_bucket{a=\"b\",le=\"0.0001\"} 1\nx_seconds_bucket{a=\"b\",le=\"0.0003\"} 2\n"),
            "{out}"
        );
        assert!(
            out.contains("{a=\"b\",le=\"60\"} 4\nx_seconds_bucket{a=\"b\",le=\"+Inf\"} 5\nx_seconds_sum{a=\"b\"} "),
            "{out}"
        );
        let mut bare = String::new();
        timing.write(&mut bare, "x", "");
        assert!(bare.starts_with("x_bucket{le=\"0.0001\"} 1\n") && bare.ends_with("\nx_count 5\n"), "{bare}");
    }
}
