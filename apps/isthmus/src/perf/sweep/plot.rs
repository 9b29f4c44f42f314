//! The sweep as a picture: bandwidth over buffer size, with the two points that the publication is known for.
//!
//! One panel for rings and one for sockets, on the same axes. Each line has its name at its end.

use crate::perf::report::{Report, Row};
use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// What was published: name, log2 of the buffer's bytes, MB/s.
const PUBLISHED: [(&str, f64, f64); 2] =
    [("NTB, published: 1400 at 1 MiB", 20.0, 1400.0), ("10 GbE, published: 1200 at 32 KiB", 15.0, 1200.0)];

const BLUE: RGBColor = RGBColor(0x00, 0x60, 0xA8);
const GREEN: RGBColor = RGBColor(0x00, 0x88, 0x60);
const ORANGE: RGBColor = RGBColor(0xC8, 0x55, 0x00);
const PURPLE: RGBColor = RGBColor(0x8A, 0x4F, 0x9E);
const GREY: RGBColor = RGBColor(0x70, 0x70, 0x70);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

const HEIGHT: u32 = 600;
const PANEL_WIDTH: u32 = 620;
/// Room for the names at the right of a panel, and between two of them.
const NAMES_WIDTH: u32 = 150;
const NAME_HEIGHT: i32 = 16;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A line: its name, its points, and how it is drawn.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    colour: RGBColor,
    /// Dash and gap in pixels; none: it is drawn through.
    dashes: Option<(i32, i32)>,
}

/// Draws a report of a sweep.
pub(in crate::perf) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let values = report.rows.iter().flat_map(|row| [row.value, row.reference_value]);
    let most = values.clone().fold(2000.0, f64::max);
    let least = report.rows.iter().map(|row| row.value).fold(1000.0, f64::min).max(1.0);
    if values.clone().any(|value| !value.is_finite()) {
        return Err(anyhow!("a figure without end cannot be drawn"));
    }
    let (sockets, rings): (Vec<&Row>, Vec<&Row>) = report.rows.iter().partition(|row| row.class == "sockets");
    let panels: Vec<(&str, Vec<Line>)> = [
        ("rings of cells, and one memcpy", ring_lines(&rings)),
        ("iperf3 between two namespaces", socket_lines(&sockets)),
    ]
    .into_iter()
    .filter(|(_, lines)| !lines.is_empty())
    .collect();
    let count = u32::try_from(panels.len()).unwrap_or(1).max(1);
    let subtitle = format!("{} on {}", report.command, report.machine);
    let root = SVGBackend::new(path, (PANEL_WIDTH * count, HEIGHT)).into_drawing_area();
    let drawn = || -> Drawn {
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(64);
        head.draw(&text("Bandwidth against buffer size", (20, 14), 22.0, &INK))?;
        head.draw(&text(&subtitle, (20, 42), 13.0, &GREY))?;
        for (area, (title, lines)) in body.split_evenly((1, panels.len())).iter().zip(&panels) {
            panel(area, title, lines, least / 2.0..most * 2.0)?;
        }
        root.present()
    };
    drawn().with_context(|| format!("{} cannot be drawn", path.display()))
}

fn text<'a>(words: &str, at: (i32, i32), size: f64, colour: &RGBColor) -> Text<'a, (i32, i32), String> {
    Text::new(words.to_owned(), at, ("sans-serif", size).into_font().color(colour))
}

fn panel(area: &Area<'_>, title: &str, lines: &[Line], y: std::ops::Range<f64>) -> Drawn {
    area.draw(&text(title, (76, 6), 16.0, &INK))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(30)
        .margin_left(12)
        .margin_bottom(12)
        .margin_right(NAMES_WIDTH)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(12.7..21.3, y.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("buffer")
        .y_desc("MB/s")
        .x_labels(9)
        .x_label_formatter(&|x| buffer(*x))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 12.0).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 14.0).into_font().color(&INK))
        .bold_line_style(BLACK.mix(0.14))
        .light_line_style(BLACK.mix(0.04))
        .axis_style(BLACK.mix(0.5))
        .draw()?;
    for line in lines {
        let style = line.colour.stroke_width(2);
        if let Some((dash, gap)) = line.dashes {
            chart.draw_series(DashedLineSeries::new(line.points.clone(), dash, gap, style))?;
        } else {
            chart.draw_series(LineSeries::new(line.points.clone(), style))?;
        }
        chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 3, line.colour.filled())))?;
    }
    let (left, top) = area.get_base_pixel();
    let within = |(x, y): (i32, i32)| (x - left, y - top);
    for (name, x, y) in PUBLISHED {
        chart.draw_series([TriangleMarker::new((x, y), 7, BLACK.filled())])?;
        let (x, y) = within(chart.backend_coord(&(x, y)));
        let style = ("sans-serif", 13.0).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(name, (x, y + 9), style))?;
    }
    // The names stand beside the ends of their lines, as far apart as letters are high.
    let ends = lines
        .iter()
        .filter_map(|line| line.points.last().map(|end| (within(chart.backend_coord(end)), line)));
    let mut ends: Vec<((i32, i32), &Line)> = ends.collect();
    ends.sort_by_key(|&((_, y), _)| y);
    let mut lowest = i32::MIN;
    for ((x, y), line) in ends {
        let at = y.max(lowest.saturating_add(NAME_HEIGHT));
        lowest = at;
        area.draw(&PathElement::new([(x + 5, y), (x + 18, at)], line.colour.mix(0.5)))?;
        let style =
            ("sans-serif", 13.0).into_font().color(&line.colour).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(line.name.clone(), (x + 21, at), style))?;
    }
    Ok(())
}

/// In the order of the rows, a line for each name.
fn lines(rows: &[&Row], of: impl Fn(&str) -> (RGBColor, Option<(i32, i32)>)) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let point = (log2(row.bytes), row.value);
        match lines.iter_mut().find(|line| line.name == row.name) {
            Some(line) => line.points.push(point),
            None => {
                let (colour, dashes) = of(&row.name);
                lines.push(Line { name: row.name.clone(), points: vec![point], colour, dashes });
            }
        }
    }
    lines
}

/// Colour tells the profile, and dashes who carries the cells.
fn ring_lines(rows: &[&Row]) -> Vec<Line> {
    let mut lines = lines(rows, |name| {
        let colour = if name.starts_with("fast") { BLUE } else { GREEN };
        let dashes = match name.rsplit(", ").next() {
            Some("twin") => Some((9, 4)),
            Some("CPU engine") => Some((5, 4)),
            Some("I/OAT") => Some((2, 4)),
            _ => None,
        };
        (colour, dashes)
    });
    // The reference of the rows in memory, which had the machine for themselves.
    let memcpy =
        rows.iter().filter(|row| row.name == "fast").map(|row| (log2(row.bytes), row.reference_value));
    let points: Vec<_> = memcpy.collect();
    if !points.is_empty() {
        lines.push(Line { name: "memcpy".to_owned(), points, colour: GREY, dashes: None });
    }
    lines
}

fn socket_lines(rows: &[&Row]) -> Vec<Line> {
    lines(rows, |name| match name {
        "isthmus net" => (BLUE, None),
        "TAP to TAP" => (ORANGE, None),
        "veth" => (PURPLE, None),
        _ => (GREY, None),
    })
}

fn log2(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)).log2()
}

/// `8 KiB`, `1 MiB`.
fn buffer(log2: f64) -> String {
    if log2 < 20.0 {
        format!("{:.0} KiB", (log2 - 10.0).exp2())
    } else {
        format!("{:.0} MiB", (log2 - 20.0).exp2())
    }
}
