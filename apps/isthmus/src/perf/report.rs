//! The rows of a measurement, and how they are made from pairs of turns.

use lab::perf::Machine;
use serde::Serialize;
use std::fmt;

/// What every `isthmus perf` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: &'static str,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
}

/// One figure beside its reference.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) bytes: usize,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) reference: &'static str,
    pub(crate) reference_value: f64,
    /// Value over reference value, of the same turns.
    pub(crate) ratio: f64,
    /// Where the two hosts run.
    pub(crate) class: &'static str,
    /// How many pairs of turns were kept.
    pub(crate) windows: usize,
}

/// Times of the same work in two ways, taken in turns: nanoseconds each.
#[derive(Debug, Default)]
pub(crate) struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    pub(crate) fn push(&mut self, ours_ns: f64, reference_ns: f64) {
        self.0.push((ours_ns, reference_ns));
    }

    /// Whether there are too few to leave any out.
    pub(crate) fn is_few(&self) -> bool {
        self.0.len() < 4
    }

    /// Mean times of the quicker half of the pairs, and how many those are. A pair is judged by both of its times, so that neither
    /// way is favoured.
    pub(crate) fn quicker_half(mut self) -> (f64, f64, usize) {
        self.0.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        let kept = self.0.len().div_ceil(2);
        let kept = self.0.get(..kept).unwrap_or_default();
        let sum = kept.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        let count = kept.len().max(1);
        let divide = |sum: f64| sum / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        (divide(sum.0), divide(sum.1), count)
    }
}

/// The command line that this is, for the report.
pub(crate) fn command() -> String {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    format!("isthmus {arguments}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.command, self.machine)?;
        writeln!(
            f,
            "{:<28} {:>9} {:>11} {:<6} {:>11}  ratio  windows",
            "", "bytes", "value", "", "reference"
        )?;
        for row in &self.rows {
            let Row { name, bytes, value, unit, reference, reference_value, ratio, windows, .. } = row;
            writeln!(
                f,
                "{name:<28} {bytes:>9} {value:>11.2} {unit:<6} {reference_value:>11.2}  {ratio:>5.2}  {windows:>7}  ({reference})"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_pair_is_left_out_whichever_way_it_was_disturbed() {
        let mut pairs = Pairs::default();
        for (ours, reference) in [(10.0, 20.0), (1000.0, 20.0), (10.0, 2000.0), (12.0, 22.0)] {
            pairs.push(ours, reference);
        }
        assert!(Pairs::default().is_few() && !pairs.is_few());
        assert_eq!(pairs.quicker_half(), (11.0, 21.0, 2));
    }
}
