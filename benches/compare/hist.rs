//! Counts of durations in steps of at most 1.6 %, from a nanosecond to hours, in a few kilobytes.

use std::time::Duration;

/// Steps in each power of two, as a power of two.
const STEPS: u32 = 6;
const BUCKETS: usize = 48 << STEPS;

/// How many durations of each length there were.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
    total: u64,
    sum: f64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0.0, max: 0 }
    }
}

fn bucket(ns: u64) -> usize {
    let exponent = (63 - (ns | 1).leading_zeros()).saturating_sub(STEPS);
    ((u64::from(exponent) << STEPS) + (ns >> exponent)) as usize
}

impl Histogram {
    pub(crate) fn add(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.total += 1;
        self.sum += ns as f64;
        self.max = self.max.max(ns);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(ours, theirs)| *ours += theirs);
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// In milliseconds, like the two below.
    pub(crate) fn mean_ms(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum / self.total as f64 / 1e6 }
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max as f64 / 1e6
    }

    /// The duration that a `part` of all did not exceed, to the step.
    pub(crate) fn quantile_ms(&self, part: f64) -> f64 {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                let exponent = (at >> STEPS).saturating_sub(1);
                let base = at - (exponent << STEPS);
                return ((base as u64) << exponent) as f64 / 1e6;
            }
        }
        self.max_ms()
    }
}
