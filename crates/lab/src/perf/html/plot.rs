//! Plots as SVG, by hand: lines over logarithmic axes, bars, and ranges. Colours are the page's CSS variables.

use std::fmt::Write;

const WIDTH: f64 = 920.0;
const LEFT: f64 = 72.0;
/// Room for the names of lines.
const RIGHT: f64 = 190.0;
/// Text is not set closer than this.
const LINE_HEIGHT: f64 = 16.0;

/// One line, or one bar, or one range.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// The CSS variable of its colour, without dashes.
    pub(super) colour: &'static str,
    /// Whether the line is broken.
    pub(super) dashed: bool,
    pub(super) points: Vec<(f64, f64)>,
}

/// A decade axis.
struct Log {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Log {
    /// Whole decades around some values.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 1.0), |(low, high): (f64, f64), value| (low.min(value), high.max(value)));
        let low = if low.is_finite() { low } else { 1.0 };
        Self { low: low.log10().floor(), high: high.log10().ceil().max(low.log10().floor() + 1.0), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Each decade, with 2 and 5 in between.
    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut decade = self.low;
        while decade <= self.high {
            ticks.extend([1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powf(decade)));
            decade += 1.0;
        }
        ticks.retain(|tick| tick.log10() <= self.high + 1e-9);
        ticks
    }
}

/// Text that is safe in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with as many digits as one reads.
pub(super) fn short(value: f64) -> String {
    if value >= 99.95 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value >= 9.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Bandwidth in MB/s over chunk sizes in bytes, both logarithmic.
pub(super) fn lines(series: &[Series], sizes: &[u64]) -> String {
    let (top, bottom, height) = (16.0, 376.0, 420.0);
    let y = Log::around(series.iter().flat_map(|line| line.points.iter().map(|point| point.1)), bottom, top);
    let right = WIDTH - RIGHT;
    let spread = |index: f64| {
        let steps = f64::from(u32::try_from(sizes.len().saturating_sub(1)).unwrap_or(1)).max(1.0);
        LEFT + 14.0 + index / steps * (right - LEFT - 28.0)
    };
    let position = |size: f64| {
        let index = sizes.iter().position(|&known| (parse(known) - size).abs() < 0.5).unwrap_or(0);
        spread(f64::from(u32::try_from(index).unwrap_or(0)))
    };
    let mut svg = open(height, "Bandwidth against chunk size");
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#);
        let label = if tick >= 1000.0 {
            format!("{} GB/s", short(tick / 1000.0))
        } else {
            format!("{} MB/s", short(tick))
        };
        if tick.log10().fract().abs() < 1e-9 || series.len() < 3 {
            let _ = write!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
                LEFT - 8.0,
                at + 4.0
            );
        }
    }
    for &size in sizes {
        let at = position(parse(size));
        let label = crate::options::show_size(size).replace('K', " KiB").replace('M', " MiB");
        let _ =
            write!(svg, r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, bottom + 22.0);
    }
    let mut labels = Vec::new();
    for line in series {
        let points: Vec<_> = line.points.iter().map(|&(size, rate)| (position(size), y.at(rate))).collect();
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = if line.dashed { r#" stroke-dasharray="7 5""# } else { "" };
        let colour = line.colour;
        let _ = write!(
            svg,
            r#"<polyline points="{}" fill="none" style="stroke:var(--{colour})" stroke-width="2.5" stroke-linejoin="round"{dash}/>"#,
            path.join(" ")
        );
        for (x, y) in &points {
            let _ = write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" style="fill:var(--{colour})"/>"#);
        }
        if let Some((_, y)) = points.last() {
            labels.push((*y, colour, line.name.as_str()));
        }
    }
    for (at, colour, name) in spaced(labels) {
        let _ = write!(
            svg,
            r#"<text class="label" x="{:.1}" y="{:.1}" style="fill:var(--{colour})">{}</text>"#,
            right + 6.0,
            at + 4.0,
            escape(name)
        );
    }
    svg + "</svg>"
}

/// Labels from the top down, none on another.
fn spaced<'a>(mut labels: Vec<(f64, &'a str, &'a str)>) -> Vec<(f64, &'a str, &'a str)> {
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut last = f64::NEG_INFINITY;
    for label in &mut labels {
        label.0 = label.0.max(last + LINE_HEIGHT);
        last = label.0;
    }
    labels
}

/// A bar each, or a range each with a mark: values from the left, in one unit. The points of a series are its low, its
/// mark and its high; for a bar all are the same.
pub(super) fn rows(series: &[Series], unit: &str, title: &str) -> String {
    let (row, name_width) = (26.0, 176.0);
    let count = f64::from(u32::try_from(series.len()).unwrap_or(0));
    let bottom = 8.0 + row * count;
    let (left, right) = (name_width, WIDTH - 96.0);
    let largest = series.iter().flat_map(|row| row.points.iter().map(|point| point.1)).fold(0.0, f64::max);
    let step = nice(largest / 5.0);
    let end = (largest / step).ceil().max(1.0) * step;
    let x = |value: f64| left + value / end * (right - left);
    let mut svg = open(bottom + 34.0, title);
    let mut tick = 0.0;
    while tick <= end + step / 2.0 {
        let at = x(tick);
        let _ = write!(svg, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="4" y2="{bottom:.1}"/>"#);
        let _ = write!(
            svg,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 18.0,
            short(tick)
        );
        tick += step;
    }
    for (index, one) in series.iter().enumerate() {
        let middle = 8.0 + row * (f64::from(u32::try_from(index).unwrap_or(0)) + 0.5);
        let value = |at: usize| one.points.get(at).map_or(0.0, |point| point.1);
        let (low, mark, high) = (value(0), value(1), value(2));
        let (colour, name) = (one.colour, escape(&one.name));
        let _ = write!(
            svg,
            r#"<text class="label" x="{:.1}" y="{:.1}" text-anchor="end">{name}</text>"#,
            left - 10.0,
            middle + 4.0
        );
        if high <= low {
            let opacity = if one.dashed { "0.55" } else { "1" };
            let width = x(mark) - left;
            let _ = write!(
                svg,
                r#"<rect x="{left}" y="{:.1}" width="{width:.1}" height="16" rx="3" style="fill:var(--{colour})" opacity="{opacity}"/>"#,
                middle - 8.0
            );
        } else {
            let (from, to, dot) = (x(low), x(high), x(mark));
            let _ = write!(
                svg,
                r#"<line x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}" style="stroke:var(--{colour})" stroke-width="5" stroke-linecap="round" opacity="0.4"/>"#
            );
            let _ =
                write!(svg, r#"<circle cx="{dot:.1}" cy="{middle:.1}" r="6" style="fill:var(--{colour})"/>"#);
        }
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}">{} {unit}</text>"#,
            x(high) + 10.0,
            middle + 4.0,
            short(mark)
        );
    }
    svg + "</svg>"
}

fn open(height: f64, title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#, escape(title))
}

/// 1, 2 or 5 times a power of ten, no smaller than a value.
fn nice(value: f64) -> f64 {
    let decade = 10_f64.powf(value.max(1e-9).log10().floor());
    let fitting = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * decade >= value);
    fitting.unwrap_or(10.0) * decade
}

/// Sizes are far below what a float holds.
pub(super) fn parse(bytes: u64) -> f64 {
    crate::perf::parse::ratio(bytes, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, rates: [f64; 2]) -> Series {
        let points = vec![(4096.0, rates[0]), (65536.0, rates[1])];
        Series { name: name.to_owned(), colour: "trap", dashed: false, points }
    }

    #[test]
    fn a_line_has_its_points_and_its_name() {
        let svg = lines(&[line("a <line>", [10.0, 1000.0]), line("other", [10.0, 990.0])], &[4096, 65536]);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("a &lt;line&gt;") && svg.contains("64 KiB") && svg.contains("1 GB/s"), "{svg}");
        // Larger is higher up, and names do not cover each other.
        let y = Log::around([10.0, 1000.0].into_iter(), 376.0, 16.0);
        assert!(y.at(1000.0) < y.at(10.0));
        let labels = spaced(vec![(50.0, "x", "two"), (49.0, "x", "one")]);
        assert_eq!((labels[0].2, labels[1].0), ("one", 65.0));
    }

    #[test]
    fn bars_and_ranges_share_an_axis() {
        let range = |points: [f64; 3]| Series {
            points: points.map(|value| (0.0, value)).to_vec(),
            ..line("row", [0.0, 0.0])
        };
        let svg = rows(&[range([1.0, 2.0, 9.0]), range([4.0; 3])], "ms", "times");
        assert_eq!((svg.matches("<circle").count(), svg.matches("<rect").count()), (1, 1));
        assert!(svg.contains("2 ms") && svg.contains("4 ms"));
        assert!((nice(0.3) - 0.5).abs() < 1e-9 && (nice(70.0) - 100.0).abs() < 1e-9);
        assert!(rows(&[], "ms", "none").contains("<svg"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 1.234, 12.34, 123.4].map(short), ["0", "1.23", "12.3", "123"]);
    }
}
