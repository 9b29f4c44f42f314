//! Reports of several modes beside each other.

use super::report::{Iperf, Report};
use std::fmt;

/// A table with a line for each report; they are of the same machine, QEMU and kernel.
#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a>(pub &'a [Report]);

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Report { qemu, kernel, accel, window_bytes, .. }) = self.0.first() else { return Ok(()) };
        let size = crate::options::show_size(*window_bytes);
        writeln!(f, "Isthmus lab: QEMU {qemu}, Linux {kernel}, {accel}, windows of {size}")?;
        writeln!(f)?;
        line(f, "", ["ntb_perf MB/s", "", "tcp Mbit/s", "", "udp Mbit/s", "", "ping us", "", "pattern"])?;
        let ways = ["a to b", "b to a"];
        let [there, back] = ways;
        line(f, "window", [there, back, there, back, there, back, "min", "avg", ""])?;
        for report in self.0 {
            let cells = cells(report);
            line(f, &report.window, std::array::from_fn(|column| cells[column].as_str()))?;
        }
        writeln!(f)?;
        let runs =
            "the fastest run, delivered where stores reach the twin, stored where the window is memory";
        writeln!(f, "  ntb_perf: {runs}; udp offers {}bit/s", super::UDP_OFFER)?;
        if self.0.iter().any(|report| report.ping.is_none()) {
            writeln!(f, "  -: skipped, {}", super::report::SKIPPED)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, window: &str, cells: [&str; 9]) -> fmt::Result {
    let mut text = format!("  {window:<8}");
    // Both directions of a figure belong together: a heading over two columns begins at the first.
    for (column, cell) in cells.into_iter().enumerate() {
        let spanning = window.is_empty() && column < 8;
        text += &if spanning && !cell.is_empty() {
            format!("{cell:>20}")
        } else if spanning {
            String::new()
        } else {
            format!("{cell:>10}")
        };
    }
    writeln!(f, "{}", text.trim_end())
}

fn cells(report: &Report) -> [String; 9] {
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let stored = |from: &str| {
        let row = report.ntb_perf.iter().find(|row| row.from == from);
        shown(row.map(|row| row.delivered_mbytes_per_s.unwrap_or(row.mbytes_per_s)), 1)
    };
    let network = |proto: &str, from: &str| {
        let wanted = |row: &&Iperf| row.proto == proto && row.from == from;
        let row = report.iperf3.iter().flatten().find(wanted);
        shown(row.map(|row| row.mbits_per_s), 1)
    };
    let rtt = report.ping.map(|ping| ping.rtt_us);
    [
        stored("a"),
        stored("b"),
        network("tcp", "a"),
        network("tcp", "b"),
        network("udp", "a"),
        network("udp", "b"),
        shown(rtt.map(|rtt| rtt.min), 0),
        shown(rtt.map(|rtt| rtt.avg), 0),
        if report.pattern.is_some() { "equal" } else { "-" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{sample, sample_shared};
    use super::*;

    #[test]
    fn every_mode_has_a_line() {
        let text = Comparison(&[sample(), sample_shared()]).to_string();
        let row = |window: &str| -> Vec<_> {
            let line = text.lines().find(|line| line.trim().starts_with(window));
            line.unwrap().split_whitespace().collect()
        };
        let trap = ["trap", "80.5", "80.5", "33.0", "-", "-", "-", "3000", "4000", "equal"];
        assert_eq!(row("trap"), trap);
        assert_eq!(row("shared"), ["shared", "1500.0", "1500.0", "-", "-", "-", "-", "-", "-", "-"]);
        assert!(text.contains("-: skipped"), "{text}");
        let lines: Vec<_> = text.lines().collect();
        let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        assert_eq!(end(lines[2], "tcp Mbit/s"), end(lines[3], "b to a").map(|at| at + 20), "{text}");
        assert!(Comparison(&[]).to_string().is_empty());
    }
}
