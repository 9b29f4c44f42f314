//! The sweep as a picture: bandwidth over buffer size, with the two points that the publication is known for.

use super::report::Report;
use anyhow::anyhow;
use plotters::prelude::*;
use std::path::Path;

/// What was published: name, log2 of the buffer's bytes, MB/s.
const PUBLISHED: [(&str, f64, f64); 2] =
    [("NTB, published: 1400 at 1 MiB", 20.0, 1400.0), ("10 GbE, published: 1200 at 32 KiB", 15.0, 1200.0)];

/// Draws one line for each profile and one for memcpy; the bandwidths differ by orders, so their axis is logarithmic.
pub(super) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let fail = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", path.display());
    let points = |of: &dyn Fn(&super::report::Row) -> Option<f64>| -> Vec<(f64, f64)> {
        let x = |bytes: usize| f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)).log2();
        report.rows.iter().filter_map(|row| of(row).map(|y| (x(row.bytes), y))).collect()
    };
    let most = report.rows.iter().flat_map(|row| [row.value, row.reference_value]).fold(2000.0, f64::max);
    let least = report.rows.iter().map(|row| row.value).fold(1000.0, f64::min).max(1.0);
    if !most.is_finite() {
        return Err(anyhow!("a figure without end cannot be drawn"));
    }
    let root = SVGBackend::new(path, (800, 520)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| fail(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Bandwidth against buffer size", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(12.5..21.5, (least / 2.0..most * 2.0).log_scale())
        .map_err(|error| fail(&error))?;
    chart
        .configure_mesh()
        .x_desc("buffer")
        .y_desc("MB/s")
        .x_labels(9)
        .x_label_formatter(&|x| buffer(*x))
        .draw()
        .map_err(|error| fail(&error))?;
    let of = |name: &'static str| points(&move |row| (row.name == name).then_some(row.value));
    let memcpy = points(&|row| (row.name == "fast").then_some(row.reference_value));
    for (name, colour, line) in
        [("fast", BLUE, of("fast")), ("paper", GREEN, of("paper")), ("memcpy", RED, memcpy)]
    {
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))
            .map_err(|error| fail(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        chart
            .draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))
            .map_err(|error| fail(&error))?;
    }
    for (name, x, y) in PUBLISHED {
        chart.draw_series([TriangleMarker::new((x, y), 6, BLACK.filled())]).map_err(|error| fail(&error))?;
        chart
            .draw_series([Text::new(name, (x - 1.4, y * 0.78), ("sans-serif", 13))])
            .map_err(|error| fail(&error))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
        .map_err(|error| fail(&error))?;
    root.present().map_err(|error| fail(&error))
}

/// `8 KiB`, `1 MiB`.
fn buffer(log2: f64) -> String {
    if log2 < 20.0 {
        format!("{:.0} KiB", (log2 - 10.0).exp2())
    } else {
        format!("{:.0} MiB", (log2 - 20.0).exp2())
    }
}
