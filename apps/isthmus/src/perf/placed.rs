//! Figures by placement: what windows between two probes have found, and how it is told.

use super::report::{Row, command};
use hdrhistogram::Histogram;
use lab::perf::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use yardstick::{Class, median};

/// What `isthmus perf latency` and `rate` print: the shape of every `isthmus perf`, and where the processors stood.
#[derive(Debug, Serialize)]
pub(crate) struct PlacedReport {
    pub(crate) bench: &'static str,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<PlacedRow>,
    /// Classes in which no window counted.
    pub(crate) not_seen: Vec<&'static str>,
    /// Windows that were measured ..
    pub(crate) windows_measured: usize,
    /// .. and those of them that do not count: the probes disagreed, or a processor was taken away.
    pub(crate) windows_dropped: usize,
}

/// One figure of one class: medians over the windows.
#[derive(Debug, Serialize)]
pub(crate) struct PlacedRow {
    #[serde(flatten)]
    pub(crate) row: Row,
    /// The round trip of one cache line in the same windows, in nanoseconds.
    pub(crate) line_ns: f64,
    /// The best window.
    pub(crate) best: f64,
    /// Round trips that were timed one by one, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) each: Option<Spread>,
}

/// How single round trips are distributed. Each includes one look at the clock.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) trips: u64,
    pub(crate) min_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

/// What a figure is, the same in all windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    pub(crate) unit: &'static str,
    pub(crate) reference: &'static str,
    /// Whether more is better.
    pub(crate) more: bool,
}

/// One window's value of a figure, beside its reference.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) figure: Figure,
    pub(crate) value: f64,
    pub(crate) reference: f64,
    /// Single round trips.
    pub(crate) each_ns: Vec<u64>,
}

/// Everything that was found so far.
#[derive(Debug, Default)]
pub(crate) struct Series {
    found: BTreeMap<(Class, usize), Found>,
    /// In the order in which they came.
    figures: Vec<Figure>,
    measured: usize,
    counted: usize,
}

#[derive(Debug, Default)]
struct Found {
    values: Vec<f64>,
    references: Vec<f64>,
    ratios: Vec<f64>,
    lines: Vec<f64>,
    each: Option<Histogram<u64>>,
}

/// The longest time that a histogram holds: 10 s in nanoseconds; longer ones are counted as this.
const LONGEST_NS: u64 = 10_000_000_000;

impl Series {
    /// Takes what a window has found; none is a window that does not count.
    pub(crate) fn note(&mut self, window: Option<yardstick::Window<Vec<Sample>>>) -> anyhow::Result<()> {
        self.measured += 1;
        let Some(window) = window else { return Ok(()) };
        self.counted += 1;
        for sample in window.found {
            let known = self.figures.iter().position(|figure| *figure == sample.figure);
            let at = known.unwrap_or_else(|| {
                self.figures.push(sample.figure);
                self.figures.len() - 1
            });
            let found = self.found.entry((window.class, at)).or_default();
            found.values.push(sample.value);
            found.references.push(sample.reference);
            found.ratios.push(sample.value / sample.reference);
            found.lines.push(window.line_ns);
            if !sample.each_ns.is_empty() {
                let each = match &mut found.each {
                    Some(each) => each,
                    none => none.insert(Histogram::new_with_max(LONGEST_NS, 3)?),
                };
                for ns in sample.each_ns {
                    each.saturating_record(ns.max(1));
                }
            }
        }
        Ok(())
    }

    /// How many windows count, of how many.
    pub(crate) fn counted(&self) -> (usize, usize) {
        (self.counted, self.measured)
    }

    /// Whether there is anything to tell of.
    pub(crate) fn is_empty(&self) -> bool {
        self.counted == 0
    }

    pub(crate) fn report(self, bench: &'static str) -> PlacedReport {
        let not_seen =
            Class::ALL.into_iter().filter(|&class| !self.found.keys().any(|&(seen, _)| seen == class));
        let not_seen = not_seen.map(Class::name).collect();
        let row = |((class, at), mut found): ((Class, usize), Found)| {
            let figure = *self.figures.get(at)?;
            let best = found.values.iter().copied().reduce(if figure.more { f64::max } else { f64::min })?;
            Some(PlacedRow {
                row: Row {
                    name: figure.name.to_owned(),
                    bytes: figure.bytes,
                    value: median(&mut found.values),
                    unit: figure.unit,
                    reference: figure.reference,
                    reference_value: median(&mut found.references),
                    ratio: median(&mut found.ratios),
                    class: class.name(),
                    windows: found.values.len(),
                },
                line_ns: median(&mut found.lines),
                best,
                each: found.each.as_ref().map(spread),
            })
        };
        PlacedReport {
            bench,
            command: command(),
            machine: Machine::here(),
            rows: self.found.into_iter().filter_map(row).collect(),
            not_seen,
            windows_measured: self.measured,
            windows_dropped: self.measured - self.counted,
        }
    }
}

fn spread(each: &Histogram<u64>) -> Spread {
    Spread {
        trips: each.len(),
        min_ns: each.min(),
        p50_ns: each.value_at_quantile(0.5),
        p90_ns: each.value_at_quantile(0.9),
        p99_ns: each.value_at_quantile(0.99),
        p999_ns: each.value_at_quantile(0.999),
        max_ns: each.max(),
    }
}

impl fmt::Display for PlacedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.command, self.machine)?;
        let spreads = self.rows.iter().any(|row| row.each.is_some());
        write!(f, "{:<5} {:<14} {:>5} {:>9} {:>9} {:<4}", "class", "", "bytes", "median", "best", "")?;
        if spreads {
            write!(f, " {:>6} {:>6} {:>7} {:>8}", "p50", "p90", "p99", "p99.9")?;
        }
        writeln!(f, " {:>9}  {:>5} {:>6} {:>8}", "reference", "ratio", "line", "windows")?;
        for class in Class::ALL.map(Class::name) {
            for placed in self.rows.iter().filter(|placed| placed.row.class == class) {
                placed.fmt_line(f, spreads)?;
            }
            if self.not_seen.contains(&class) {
                writeln!(f, "{class:<5} not seen")?;
            }
        }
        let Self { windows_measured, windows_dropped, .. } = self;
        write!(
            f,
            "{windows_measured} windows, {windows_dropped} of them dropped. line: the round trip of one cache line, ns."
        )?;
        if spreads {
            write!(f, " p..: of single trips, with a look at the clock each.")?;
        }
        writeln!(f)
    }
}

impl PlacedRow {
    fn fmt_line(&self, f: &mut fmt::Formatter<'_>, spreads: bool) -> fmt::Result {
        let Row { name, bytes, value, unit, reference, reference_value, ratio, class, windows } = &self.row;
        write!(f, "{class:<5} {name:<14} {bytes:>5} {value:>9.1} {:>9.1} {unit:<4}", self.best)?;
        if let Some(Spread { p50_ns, p90_ns, p99_ns, p999_ns, .. }) = self.each {
            write!(f, " {p50_ns:>6} {p90_ns:>6} {p99_ns:>7} {p999_ns:>8}")?;
        } else if spreads {
            write!(f, " {:>30}", "")?;
        }
        writeln!(f, " {reference_value:>9.1}  {ratio:>5.2} {:>6.0} {windows:>8}  ({reference})", self.line_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Figure =
        Figure { name: "round trip", bytes: 60, unit: "ns", reference: "bare lines", more: false };

    fn window(class: Class, value: f64) -> yardstick::Window<Vec<Sample>> {
        let sample = Sample { figure: TRIP, value, reference: 100.0, each_ns: vec![1, 2, 20_000_000_000] };
        yardstick::Window { class, line_ns: 100.0, found: vec![sample] }
    }

    #[test]
    fn medians_are_of_one_class_and_classes_that_were_not_seen_are_named() {
        let mut series = Series::default();
        for value in [120.0, 900.0, 110.0] {
            series.note(Some(window(Class::Near, value))).unwrap();
        }
        series.note(Some(window(Class::Smt, 60.0))).unwrap();
        series.note(None).unwrap();
        let report = series.report("latency");
        assert_eq!((report.windows_measured, report.windows_dropped), (5, 1));
        assert_eq!(report.not_seen, ["far"]);
        let [smt, near] = report.rows.as_slice() else { unreachable!() };
        assert_eq!((smt.row.class, smt.row.value, smt.row.windows), ("smt", 60.0, 1));
        assert_eq!((near.row.value, near.best, near.row.ratio, near.row.windows), (120.0, 110.0, 1.2, 3));
        // What is longer than the histogram is counted as its end, never left out.
        let each = near.each.unwrap();
        assert_eq!((each.trips, each.min_ns), (9, 1));
        assert!(each.max_ns >= LONGEST_NS);
        let text = report.to_string();
        assert!(text.contains("far   not seen") && text.contains("5 windows, 1 of them dropped"), "{text}");
    }

    #[test]
    fn the_json_has_the_common_shape() {
        let mut series = Series::default();
        series.note(Some(window(Class::Near, 120.0))).unwrap();
        let json = serde_json::to_value(series.report("latency")).unwrap();
        let row = json["rows"][0].as_object().unwrap();
        for key in
            ["name", "bytes", "value", "unit", "reference", "reference_value", "ratio", "class", "windows"]
        {
            assert!(row.contains_key(key), "{key}");
        }
        for key in ["bench", "command", "machine", "rows", "not_seen"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
