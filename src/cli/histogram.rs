//! How often what latency was seen: 32 steps for each power of two, so a percentile is right to about three percent.

use std::time::Duration;

const STEPS: u64 = 32;
const BUCKETS: usize = 64 * STEPS as usize;

/// Counts by latency.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one.
    pub(super) fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
        self.max = self.max.max(latency);
    }

    /// Adds what another has counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The longest.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The latency that so many percent did not exceed.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.total as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(end_of(bucket)).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    // The leading one and the five bits below it.
    let shift = u64::from(value.ilog2()) - u64::from(STEPS.ilog2());
    ((shift + 1) * STEPS + (value >> shift) - STEPS) as usize
}

/// The largest value of a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..2000).chain([1 << 20, (1 << 20) - 1, 987_654_321, 1 << 50]) {
            let bucket = bucket(value);
            assert!(end_of(bucket) >= value && (bucket == 0 || end_of(bucket - 1) < value), "{value}");
        }
    }

    #[test]
    fn percentiles_are_right_to_three_percent() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        for percent in [1.0, 50.0, 99.0, 99.9] {
            let found = histogram.percentile(percent).as_micros() as f64;
            assert!((found / (percent * 10.0) - 1.0).abs() < 0.04, "{percent}: {found}");
        }
        assert_eq!(histogram.percentile(100.0), Duration::from_millis(1));
    }
}
