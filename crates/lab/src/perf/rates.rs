//! Several runs of the same thing, summed up.

use serde::Serialize;

/// Megabytes a second of several runs. The median is what one may expect; the slowest shows what the median hides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// The run in the middle, or the mean of the two that are.
    pub median: f64,
    /// The slowest run.
    pub min: f64,
    /// The fastest run.
    pub max: f64,
}

impl Rates {
    /// Of runs in any order; of none, zero.
    #[must_use]
    pub fn of(rates: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = rates.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let count = sorted.len();
        let median = f64::midpoint(at(count.saturating_sub(1) / 2), at(count / 2));
        Self { median, min: at(0), max: at(count.saturating_sub(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::Rates;

    #[test]
    fn the_middle_and_both_ends() {
        let odd = Rates::of([3.0, 1.0, 2.0]);
        assert_eq!(odd, Rates { median: 2.0, min: 1.0, max: 3.0 });
        let even = Rates::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!(even, Rates { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Rates::of([]), Rates { median: 0.0, min: 0.0, max: 0.0 });
    }
}
