//! Many measurements -> a median with its spread.

use std::fmt;

/// One gateway's second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slice {
    pub(super) cpu_ms_per_1000: f64,
    pub(super) requests_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// A median and the quartiles around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::bench) struct Spread {
    pub(in crate::bench) low: f64,
    pub(in crate::bench) median: f64,
    pub(in crate::bench) high: f64,
}

impl Spread {
    /// None of no values.
    pub(in crate::bench) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self { low: quantile(&values, 0.25)?, median: quantile(&values, 0.5)?, high: quantile(&values, 0.75)? })
    }

    /// Of the ratios within each round.
    pub(super) fn of_ratios(ours: &[Slice], theirs: &[Slice], figure: impl Fn(&Slice) -> f64) -> Option<Self> {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)))
    }
}

/// Between two values it is on the line between them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)?) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// `1.62 [1.41-1.98]`
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} [{:.2}-{:.2}]", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_between_the_values() {
        for (values, shown) in [
            (&[2.0][..], "2.00 [2.00-2.00]"),
            (&[3.0, 1.0], "2.00 [1.50-2.50]"),
            (&[5.0, 1.0, 3.0, 2.0, 4.0], "3.00 [2.00-4.00]"),
        ] {
            assert_eq!(Spread::of(values.iter().copied()).map(|spread| spread.to_string()).as_deref(), Some(shown));
        }
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let slices = |values: [f64; 3]| values.map(|cpu_ms_per_1000| Slice { cpu_ms_per_1000, ..Slice::default() });
        // The machine is three times slower in the second round: no ratio knows of it.
        let (ours, theirs) = (slices([20.0, 60.0, 22.0]), slices([10.0, 30.0, 11.0]));
        let spread = Spread::of_ratios(&ours, &theirs, |slice| slice.cpu_ms_per_1000).expect("three rounds");
        assert_eq!(spread, Spread { low: 2.0, median: 2.0, high: 2.0 });
    }
}
