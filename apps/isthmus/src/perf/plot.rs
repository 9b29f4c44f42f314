//! The figures as a picture.

use super::report::{Report, Row};
use anyhow::anyhow;
use plotters::prelude::*;
use std::path::Path;

/// Draws value and reference of every row over its bytes.
pub(super) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let fail = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", path.display());
    let (Some(first), Some(last)) = (report.rows.first(), report.rows.last()) else {
        return Err(anyhow!("there is nothing to draw"));
    };
    let x = |row: &Row| f64::from(u32::try_from(row.bytes).unwrap_or(u32::MAX)).log2();
    let most = report.rows.iter().flat_map(|row| [row.value, row.reference_value]).fold(0.0, f64::max);
    if !most.is_finite() {
        return Err(anyhow!("a figure without end cannot be drawn"));
    }
    let root = SVGBackend::new(path, (800, 480)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| fail(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&report.command, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(x(first) - 0.5..x(last) + 0.5, 0.0..most * 1.1)
        .map_err(|error| fail(&error))?;
    chart
        .configure_mesh()
        .x_desc("bytes, powers of two")
        .y_desc(first.unit)
        .x_label_formatter(&|x| format!("2^{x:.0}"))
        .draw()
        .map_err(|error| fail(&error))?;
    let mut line = |name: &str, colour: RGBColor, y: fn(&Row) -> f64| -> anyhow::Result<()> {
        let points: Vec<(f64, f64)> = report.rows.iter().map(|row| (x(row), y(row))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
            .map_err(|error| fail(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        chart
            .draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))
            .map_err(|error| fail(&error))?;
        Ok(())
    };
    line(&first.name, BLUE, |row| row.value)?;
    line(first.reference, RED, |row| row.reference_value)?;
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
        .map_err(|error| fail(&error))?;
    root.present().map_err(|error| fail(&error))?;
    Ok(())
}
