//! Figures by placement as a picture: one panel for each class that was seen.
//!
//! What has many sizes is lines over them, the rest is bars; the reference of the same windows is grey.

use super::placed::{PlacedReport, PlacedRow};
use anyhow::{anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Painted<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

const OURS: RGBColor = RGBColor(0x1F, 0x5F, 0xA8);
const TAIL: RGBColor = RGBColor(0x9D, 0xC3, 0xE6);
const REFERENCE: RGBColor = RGBColor(0x8A, 0x8A, 0x8A);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xE6, 0xE6, 0xE6);
/// Of a panel, in pixels.
const PANEL_WIDTH: u32 = 460;
const HEAD: u32 = 56;
const BAR_HEIGHT: u32 = 46;

/// Draws all rows; nothing to draw, or a figure without end, is an error.
pub(super) fn draw(report: &PlacedReport, path: &Path) -> anyhow::Result<()> {
    let mut classes: Vec<&str> = report.rows.iter().map(|row| row.row.class).collect();
    classes.dedup();
    ensure!(!classes.is_empty(), "there is nothing to draw");
    let figures = report.rows.iter().flat_map(|row| [row.row.value, row.row.reference_value]);
    ensure!(
        figures.clone().all(|figure| figure.is_finite() && figure >= 0.0),
        "a figure that cannot be drawn"
    );
    let panels = classes.iter().map(|class| report.rows.iter().filter(|row| row.row.class == *class));
    let panels: Vec<Vec<&PlacedRow>> = panels.map(Iterator::collect).collect();
    let most_rows = u32::try_from(panels.iter().map(Vec::len).max().unwrap_or(0))?;
    let lines = ["latency", "window"].contains(&report.bench);
    let height = if lines { 420 } else { HEAD + 40 + most_rows * BAR_HEIGHT };
    let count = u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (PANEL_WIDTH * count.max(1), height)).into_drawing_area();
    let paint = || {
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        text(&head, &report.command, (16, 16), 17, INK, HPos::Left)?;
        let beside = format!("{}; grey: the reference in the same windows", report.machine.cpu);
        text(&head, &beside, (16, 38), 12, REFERENCE, HPos::Left)?;
        for (area, rows) in body.split_evenly((1, panels.len())).iter().zip(&panels) {
            if lines { over_sizes(area, rows) } else { bars(area, rows) }?;
        }
        root.present()
    };
    let painted: Painted<'_> = paint();
    painted.map_err(|error| anyhow!("{} cannot be drawn: {error}", path.display()))
}

fn text<'a>(
    area: &Area<'a>,
    what: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    side: HPos,
) -> Painted<'a> {
    let style = ("sans-serif", size).into_text_style(area).color(&colour).pos(Pos::new(side, VPos::Center));
    area.draw_text(what, &style, at)
}

/// `near: a cache line there and back in 118 ns, 230 windows`.
fn title(rows: &[&PlacedRow]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let windows: usize = rows.iter().map(|row| row.row.windows).max().unwrap_or(0);
    format!("{}: a cache line there and back in {:.0} ns, {windows} windows", first.row.class, first.line_ns)
}

/// Lines over the size, whose axis is logarithmic.
fn over_sizes<'a>(area: &Area<'a>, rows: &[&PlacedRow]) -> Painted<'a> {
    let x = |row: &PlacedRow| f64::from(u32::try_from(row.row.bytes).unwrap_or(u32::MAX)).log2();
    let tail = |row: &PlacedRow| {
        row.each.map_or(row.row.value, |each| f64::from(u32::try_from(each.p99_ns).unwrap_or(u32::MAX)))
    };
    let most = rows.iter().map(|row| row.row.value.max(row.row.reference_value)).fold(0.0, f64::max);
    // A tail that is far off the picture is cut, so that the medians stay legible.
    let top = rows.iter().map(|row| tail(row)).fold(most, f64::max).clamp(1.0, most.max(1.0) * 1.8) * 1.08;
    let (from, to) = (rows.first().map_or(0.0, |row| x(row)), rows.last().map_or(1.0, |row| x(row)));
    let unit =
        rows.first().map_or("", |row| if row.row.unit == "ns" { "ns there and back" } else { row.row.unit });
    let mut chart = ChartBuilder::on(area)
        .caption(title(rows), ("sans-serif", 14).into_font().color(&INK))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(from - 0.35..to + 0.45, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(REFERENCE)
        .x_labels(0)
        .x_desc("bytes")
        .y_desc(unit)
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .draw()?;
    let points = |y: &dyn Fn(&PlacedRow) -> f64| -> Vec<(f64, f64)> {
        rows.iter().map(|row| (x(row), y(row).min(top))).collect()
    };
    let (medians, references) = (points(&|row| row.row.value), points(&|row| row.row.reference_value));
    let Some(first) = rows.first().map(|row| &row.row) else { return Ok(()) };
    let bare = first.reference.split(',').next().unwrap_or_default();
    let mut lines = vec![
        (bare.to_owned(), references, REFERENCE, 2),
        (format!("{}, median", first.name), medians.clone(), OURS, 3),
    ];
    if rows.iter().any(|row| row.each.is_some()) {
        lines.insert(0, ("99 of 100 trips".to_owned(), points(&tail), TAIL, 2));
    }
    for (name, line, colour, width) in lines {
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(width)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(width)));
        chart.draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    let style =
        || ("sans-serif", 11).into_text_style(area).color(&INK).pos(Pos::new(HPos::Center, VPos::Bottom));
    for (row, point) in rows.iter().zip(medians) {
        let above = (point.0, (point.1 + top * 0.025).min(top));
        chart.draw_series([Text::new(format!("{:.2}×", row.row.ratio), above, style())])?;
        // 60 and 64 lie on each other.
        if row.row.bytes != 60 {
            chart.draw_series([Text::new(size(row.row.bytes), (point.0, 0.0), style())])?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 12).into_font().color(&INK))
        .border_style(GRID)
        .background_style(WHITE)
        .draw()
}

/// `60`, `4 KiB`, `1 MiB`.
fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 4 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// Rates as bars, each above its reference; bars of one unit have one scale.
fn bars<'a>(area: &Area<'a>, rows: &[&PlacedRow]) -> Painted<'a> {
    const LEFT: i32 = 132;
    const LONGEST: f64 = 230.0;
    text(area, &title(rows), (16, 12), 14, INK, HPos::Left)?;
    let mut y = 34;
    for row in rows {
        let row = &row.row;
        let same = rows.iter().filter(|other| other.row.unit == row.unit);
        let most = same.map(|other| other.row.value.max(other.row.reference_value)).fold(1e-9, f64::max);
        #[expect(clippy::cast_possible_truncation, reason = "it is at most the longest bar")]
        let length = |value: f64| (value / most * LONGEST).round() as i32;
        text(area, &format!("{} {} B", row.name, row.bytes), (LEFT - 10, y + 10), 12, INK, HPos::Right)?;
        for (top, bottom, value, colour, size) in
            [(y, y + 18, row.value, OURS, 12), (y + 21, y + 33, row.reference_value, REFERENCE, 11)]
        {
            let end = LEFT + length(value).max(1);
            area.draw(&Rectangle::new([(LEFT, top), (end, bottom)], colour.filled()))?;
            let what = if colour == OURS {
                format!("{value:.1} {} · {:.2}×", row.unit, row.ratio)
            } else {
                format!("{value:.1} {}", row.reference)
            };
            text(
                area,
                &what,
                (end + 6, i32::midpoint(top, bottom)),
                size,
                if size == 12 { INK } else { REFERENCE },
                HPos::Left,
            )?;
        }
        y += i32::try_from(BAR_HEIGHT).unwrap_or(46);
    }
    Ok(())
}
