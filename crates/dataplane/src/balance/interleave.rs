//! Numbers that are even in every stretch, not only in the long run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Draws numbers below `total`: of every `total` draws each number is drawn once, and neighbours are drawn far apart. So a share of
/// 90 to 10 is 9 to 1 in ten requests as well, with no run of ninety, and no random deviation from what was asked for.
#[derive(Debug)]
pub(crate) struct Interleave {
    total: u64,
    /// Without a common divisor with `total`, near its golden section.
    stride: u64,
    next: AtomicU64,
}

impl Interleave {
    /// Starts anywhere, so that many proxies do not all begin with the same backend.
    pub(crate) fn new(total: u32) -> Self {
        let total = u64::from(total.max(1));
        let golden = (u128::from(total) * 618_034 / 1_000_000) as u64;
        let stride = (golden.max(1)..=total).find(|stride| gcd(*stride, total) == 1).unwrap_or(1);
        Self { total, stride, next: AtomicU64::new(fastrand::u64(..total)) }
    }

    /// The next number.
    pub(crate) fn draw(&self) -> u64 {
        // Both factors are below 2^32.
        self.next.fetch_add(1, Relaxed) % self.total * self.stride % self.total
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_once_in_any_stretch() {
        for total in [1, 2, 3, 4, 6, 7, 10, 12, 100, 360, 1000, 1024, 65_536] {
            let numbers = Interleave::new(total);
            for _ in 0..3 {
                let mut drawn: Vec<_> = (0..total).map(|_| numbers.draw()).collect();
                drawn.sort_unstable();
                assert!(drawn.into_iter().eq(0..u64::from(total)), "{total}");
            }
        }
        assert!((0..9).all(|_| Interleave::new(u32::MAX).draw() < u64::from(u32::MAX)));
        assert_eq!(Interleave::new(0).draw(), 0);
    }

    #[test]
    fn short_stretches_are_even_too() {
        for (total, share, stretch) in [(100, 10, 10), (100, 50, 4), (1000, 350, 20), (1_000_000, 10_000, 100)] {
            let numbers = Interleave::new(total);
            for _ in 0..50 {
                let taken = (0..stretch).filter(|_| numbers.draw() < share).count() as f64;
                let expected = share as f64 * f64::from(stretch) / f64::from(total);
                assert!((taken - expected).abs() <= 2.0, "{taken} of {stretch}, expected {expected}");
            }
        }
    }
}
