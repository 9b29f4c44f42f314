//! Reports of several modes beside each other.

use super::report::Report;
use std::fmt;

/// A table with a line for each report; they are of the same machine, QEMU and kernel.
#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a>(pub &'a [Report]);

/// Columns: a heading over two of them, and what stands over each.
const HEADS: [(&str, [&str; 2]); 6] = [
    ("ntb_perf MB/s", WAYS),
    ("by DMA MB/s", WAYS),
    ("BAR : memory", ["in a", "in b"]),
    ("tcp Mbit/s", WAYS),
    ("tcp by DMA", WAYS),
    ("ping us", ["min", "avg"]),
];
const WAYS: [&str; 2] = ["a to b", "b to a"];
/// How wide a column is.
const WIDTH: usize = 9;

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Report { qemu, kernel, accel, window_bytes, machine, .. }) = self.0.first() else {
            return Ok(());
        };
        let size = crate::options::show_size(*window_bytes);
        writeln!(f, "Isthmus lab: QEMU {qemu}, Linux {kernel}, {accel}, windows of {size}")?;
        writeln!(f, "on {machine}")?;
        writeln!(f)?;
        let heads: String =
            HEADS.iter().map(|(head, _)| format!("{head:>width$}", width = 2 * WIDTH)).collect();
        writeln!(f, "  {:<8}{heads}{:>WIDTH$}", "", "pattern")?;
        let names = HEADS.iter().flat_map(|(_, names)| names);
        let names: String = names.map(|name| format!("{name:>WIDTH$}")).collect();
        writeln!(f, "  {:<8}{names}", "window")?;
        for report in self.0 {
            let cells: String = cells(report).iter().map(|cell| format!("{cell:>WIDTH$}")).collect();
            writeln!(f, "  {:<8}{cells}", report.window)?;
        }
        writeln!(f)?;
        for line in notes(self.0) {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// A report's cells, as text.
#[must_use]
pub(super) fn cells(report: &Report) -> [String; 13] {
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let stored = |from: &str, dma| shown(report.stores(from, dma).map(|row| row.mbytes_per_s), 1);
    let copied =
        |guest: &str| shown(report.copy.iter().find(|row| row.guest == guest).map(|row| row.ratio), 2);
    let tcp = |from: &str, dma| shown(report.network("tcp", from, dma).map(|row| row.mbits_per_s), 1);
    let rtt = report.ping.map(|ping| ping.rtt_us);
    [
        stored("a", false),
        stored("b", false),
        stored("a", true),
        stored("b", true),
        copied("a"),
        copied("b"),
        tcp("a", false),
        tcp("b", false),
        tcp("a", true),
        tcp("b", true),
        shown(rtt.map(|rtt| rtt.min), 0),
        shown(rtt.map(|rtt| rtt.avg), 0),
        if report.pattern.is_some() { "equal" } else { "-" }.to_owned(),
    ]
}

/// What the columns mean, and what stands beside the modes.
pub(super) fn notes(reports: &[Report]) -> Vec<String> {
    let mut notes = vec![
        "ntb_perf: medians of five runs. BAR : memory: one copy loop into the window and into plain memory of that guest"
            .to_owned(),
    ];
    let of = |window: &str| reports.iter().find(|report| report.window == window);
    if let (Some(alias), Some(direct)) = (of("alias"), of("direct")) {
        let ratios = alias.copy.iter().zip(&direct.copy).map(|(alias, direct)| {
            let ratio = alias.ratio / direct.ratio.max(f64::MIN_POSITIVE);
            format!("{ratio:.2} in {}", alias.guest)
        });
        notes.push(format!("alias : direct, of these ratios: {}", ratios.collect::<Vec<_>>().join(", ")));
    }
    for report in reports {
        let window = &report.window;
        if let Some(memcpy) = &report.memcpy {
            let (ratio, again) = (memcpy.dma_ratio, memcpy.dma_ratio_again);
            let (once, cached) = (memcpy.once.median, memcpy.again.median);
            notes.push(format!(
                "{window}: DMA reaches {ratio:.2} of a memcpy on the host ({once:.0} MB/s), {again:.2} of a cached one ({cached:.0} MB/s)"
            ));
        }
    }
    for report in reports {
        let Some(virtio) = &report.virtio_net else { continue };
        let rates: Vec<_> = virtio.iperf3.iter().map(|row| format!("{:.1}", row.mbits_per_s)).collect();
        let (rates, rtt, window) = (rates.join(" and "), virtio.ping.rtt_us.avg, &report.window);
        notes.push(format!(
            "{window}: tcp reaches {:.2} of virtio-net's {rates} Mbit/s (ping {rtt:.0} us)",
            virtio.tcp_ratio
        ));
        if let Some(profile) = &report.profile {
            notes.push(format!("{window}: tcp is limited by {}", profile.limit));
        }
    }
    if let Some(why) = reports.iter().find_map(|report| report.skipped) {
        notes.push(format!("-: skipped, {why}"));
    }
    notes
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
        let trap = [
            "trap", "80.5", "80.5", "6000.0", "6100.0", "0.02", "0.02", "33.0", "-", "700.0", "-", "3000",
            "4000", "equal",
        ];
        assert_eq!(row("trap"), trap);
        let shared =
            ["shared", "1500.0", "1500.0", "-", "-", "0.95", "0.95", "-", "-", "-", "-", "-", "-", "-"];
        assert_eq!(row("shared"), shared);
        assert!(text.contains("-: skipped"), "{text}");
        assert!(text.contains("trap: DMA reaches 0.86"), "{text}");
        assert!(text.contains("trap: tcp reaches 0.11 of virtio-net's 300.0"), "{text}");
        let lines: Vec<_> = text.lines().collect();
        let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        assert_eq!(end(lines[3], "ntb_perf MB/s"), end(lines[4], "b to a"), "{text}");
        assert!(Comparison(&[]).to_string().is_empty());
    }

    #[test]
    fn alias_is_compared_with_direct() {
        let named = |name: &str| {
            let mut report = sample_shared();
            report.window = name.to_owned();
            report
        };
        let text = Comparison(&[named("alias"), named("direct")]).to_string();
        assert!(text.contains("alias : direct, of these ratios: 1.00 in a, 1.00 in b"), "{text}");
    }
}
