//! Counters that a request adds to without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets of durations, in seconds: from a half to a third of each other, where a proxy's answers lie.
pub(super) const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The same in nanoseconds.
const BOUNDS: [u64; BUCKETS.len()] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// How many codes a series counts without a table of its own.
const COMMON: usize = 6;
/// Response codes have three digits.
const CODES: usize = 1000;

/// Requests by response code. Most series see two or three codes in their life, so those have a slot each, which the first
/// request with the code takes for ever; what comes when all slots are taken is counted in a table.
#[derive(Debug, Default)]
pub(super) struct Codes {
    /// The code plus one; 0: free.
    owners: [AtomicU16; COMMON],
    counts: [AtomicU64; COMMON],
    rare: OnceLock<Box<[AtomicU64]>>,
}

impl Codes {
    /// Counts a request.
    pub(super) fn add(&self, code: u16) {
        let code = code.min(CODES as u16 - 1);
        let wanted = code + 1;
        for (owner, count) in self.owners.iter().zip(&self.counts) {
            let found = match owner.load(Relaxed) {
                0 => owner.compare_exchange(0, wanted, Relaxed, Relaxed).map_or_else(|other| other, |_| wanted),
                found => found,
            };
            if found == wanted {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
        let rare = self.rare.get_or_init(|| (0..CODES).map(|_| AtomicU64::new(0)).collect());
        rare[usize::from(code)].fetch_add(1, Relaxed);
    }

    /// The codes that were seen with their counts.
    pub(super) fn each(&self, mut show: impl FnMut(u16, u64)) {
        for (owner, count) in self.owners.iter().zip(&self.counts) {
            if let Some(code) = owner.load(Relaxed).checked_sub(1) {
                show(code, count.load(Relaxed));
            }
        }
        for (code, count) in (0_u16..).zip(self.rare.get().into_iter().flatten()) {
            match count.load(Relaxed) {
                0 => {}
                count => show(code, count),
            }
        }
    }
}

/// Durations in [`BUCKETS`].
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// Not cumulative; the last one is for what is longer than all bounds.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Durations {
    /// Counts a duration.
    pub(super) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanos);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }

    /// As the exposition has it: cumulative.
    pub(super) fn histogram(&self) -> prometheus::proto::Histogram {
        let mut seen = 0;
        let mut buckets = Vec::with_capacity(BUCKETS.len());
        for (count, bound) in self.counts.iter().zip(BUCKETS) {
            seen += count.load(Relaxed);
            let mut bucket = prometheus::proto::Bucket::default();
            bucket.set_cumulative_count(seen);
            bucket.set_upper_bound(bound);
            buckets.push(bucket);
        }
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_sample_count(seen + self.counts[BUCKETS.len()].load(Relaxed));
        histogram.set_sample_sum(self.sum_nanos.load(Relaxed) as f64 / 1e9);
        histogram.set_bucket(buckets);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_code_is_counted_even_when_the_slots_are_taken() {
        let codes = Codes::default();
        let mut wanted = BTreeMap::new();
        for (code, times) in [(200, 3), (404, 1), (500, 2), (0, 1), (503, 4), (301, 1), (999, 2), (100, 1), (302, 5)] {
            (0..times).for_each(|_| codes.add(code));
            wanted.insert(code, times);
        }
        codes.add(u16::MAX);
        *wanted.entry(999).or_default() += 1;
        let mut seen = BTreeMap::new();
        codes.each(|code, count| assert_eq!(seen.insert(code, count), None, "{code} is shown once"));
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_code_has_one_slot_however_many_threads_race_for_it() {
        let codes = Codes::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u16 {
                let codes = &codes;
                scope.spawn(move || (0..4000_u16).for_each(|i| codes.add(200 + (i + thread) % 10)));
            }
        });
        let mut seen = BTreeMap::new();
        codes.each(|code, count| assert_eq!(seen.insert(code, count), None, "{code} is shown once"));
        assert_eq!(seen, (200..210).map(|code| (code, 1600)).collect());
    }

    #[test]
    fn bounds_are_inclusive_and_cumulative() {
        for (bound, nanos) in BUCKETS.iter().zip(BOUNDS) {
            assert_eq!((bound * 1e9).round() as u64, nanos);
        }
        let durations = Durations::default();
        for micros in [400, 500, 501, 1000, 40_000_000] {
            durations.observe(Duration::from_micros(micros));
        }
        let histogram = durations.histogram();
        let counts: Vec<_> = histogram.get_bucket().iter().map(prometheus::proto::Bucket::cumulative_count).collect();
        assert_eq!(counts[..3], [2, 4, 4]);
        assert_eq!((counts[BUCKETS.len() - 1], histogram.get_sample_count()), (4, 5));
        assert!((histogram.get_sample_sum() - 40.002_401).abs() < 1e-9);
    }
}
