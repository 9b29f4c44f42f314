//! The report of one mode for people.

use super::report::{Copy, Iperf, Memcpy, NtbPerf, Pattern, Ping, Report, Rtt, VirtioNet};
use crate::options::show_size;
use std::fmt::{self, Formatter};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { qemu, kernel, accel, window, link, .. } = self;
        let size = show_size(self.window_bytes);
        writeln!(f, "Isthmus lab: QEMU {qemu}, Linux {kernel}, {accel}, windows {window} of {size}")?;
        writeln!(f, "on {}", self.machine)?;
        writeln!(f)?;
        let state = if link.up { "up" } else { "down" };
        let carrier = link.ms_to_carrier.map(|ms| format!("; carrier after {ms} ms")).unwrap_or_default();
        writeln!(f, "  link        {state} after {} ms{carrier}", link.ms_to_up)?;
        if let Some(ping) = self.ping {
            writeln!(f, "  ping        {}", shown(ping))?;
        }
        if let Some(VirtioNet { ping, .. }) = self.virtio_net {
            writeln!(f, "  virtio-net  {}", shown(ping))?;
        }
        writeln!(f)?;
        self.write_stores(f)?;
        self.write_chunks(f)?;
        self.write_copies(f)?;
        self.write_networks(f)?;
        for row in self.pattern.iter().flatten() {
            let sum = row.sha256.get(..16).unwrap_or(&row.sha256);
            let Pattern { from, to, window, bytes, .. } = row;
            writeln!(f, "  pattern   {from} to {to}, window {window}: {bytes} bytes equal, sha256 {sum}..")?;
        }
        if let Some(why) = self.skipped {
            let lost = if self.pattern.is_some() { "ping, iperf3" } else { "ping, iperf3, pattern" };
            writeln!(f, "  {lost}: skipped, {why}")?;
        }
        self.write_profiled(f)
    }
}

fn shown(Ping { sent, received, rtt_us: Rtt { min, avg, max } }: Ping) -> String {
    format!("{received} of {sent} answered; round trip {min:.0} / {avg:.0} / {max:.0} us (min / avg / max)")
}

fn digits(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn way(row: &NtbPerf) -> String {
    let by = if row.dma { ", DMA" } else { "" };
    format!("  {} to {}{by}", row.from, row.to)
}

impl Report {
    fn write_stores(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head =
            ["ntb_perf", "MiB", "median MB/s", "slowest", "delivered MB/s", "dropping twin MB/s", "ratio"];
        let [name, mib, median, slowest, delivered, dropping, ratio] = head;
        writeln!(f, "  {name:<16}{mib:>8}{median:>14}{slowest:>10}{delivered:>16}{dropping:>20}{ratio:>8}")?;
        for row in &self.ntb_perf {
            let ceiling = self.ceiling(row);
            writeln!(
                f,
                "  {:<16}{:>8}{:>14.1}{:>10.1}{:>16}{:>20}{:>8}",
                way(row),
                row.bytes >> 20,
                row.mbytes_per_s,
                row.slowest_mbytes_per_s,
                digits(row.delivered_mbytes_per_s, 1),
                digits(ceiling.map(|ceiling| ceiling.mbytes_per_s), 1),
                digits(ceiling.map(|ceiling| ceiling.delivered_ratio), 2)
            )?;
        }
        if let Some(Memcpy { bytes, once, dma_ratio, again, dma_ratio_again }) = &self.memcpy {
            let rows = [("  memcpy", once, dma_ratio), ("  memcpy, cached", again, dma_ratio_again)];
            for (name, rates, ratio) in rows {
                let (median, slowest) = (rates.median, rates.min);
                writeln!(
                    f,
                    "  {name:<16}{:>8}{median:>14.1}{slowest:>10.1}   on the host; DMA reaches {ratio:.2}",
                    bytes >> 20
                )?;
            }
        }
        writeln!(f)
    }

    fn write_chunks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut sizes: Vec<_> = self.ntb_perf_chunks.iter().map(|row| row.chunk_bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() {
            return Ok(());
        }
        let heads: String = sizes.iter().map(|size| format!("{:>10}", show_size(*size))).collect();
        writeln!(f, "  {:<16}{heads}   MB/s, medians", "chunks of")?;
        let ways = self.ntb_perf_chunks.iter().filter(|row| Some(&row.chunk_bytes) == sizes.first());
        for one in ways {
            let rows = sizes.iter().map(|size| {
                let same =
                    |row: &&NtbPerf| (row.from, row.dma, row.chunk_bytes) == (one.from, one.dma, *size);
                digits(self.ntb_perf_chunks.iter().find(same).map(|row| row.mbytes_per_s), 1)
            });
            let cells: String = rows.map(|cell| format!("{cell:>10}")).collect();
            writeln!(f, "  {:<16}{cells}", way(one))?;
        }
        writeln!(f)
    }

    fn write_copies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [name, bar, memory, ratio] = ["copy loop", "BAR MB/s", "memory MB/s", "ratio"];
        writeln!(f, "  {name:<16}{bar:>18}{memory:>18}{ratio:>8}   medians (slowest)")?;
        for Copy { guest, bar, memory, ratio, .. } in &self.copy {
            let both = [bar, memory].map(|rates| format!("{:.1} ({:.1})", rates.median, rates.min));
            let [bar, memory] = both;
            writeln!(f, "  {:<16}{bar:>18}{memory:>18}{ratio:>8.2}", format!("  in {guest}"))?;
        }
        writeln!(f)
    }

    fn write_networks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(iperf3) = &self.iperf3 else { return Ok(()) };
        writeln!(f, "  {:<24}{:>10}", "iperf3", "Mbit/s")?;
        let line = |f: &mut Formatter<'_>, row: &Iperf, end: &str| {
            let lost = row.lost_percent.map(|lost| format!("{lost:.1} % lost"));
            let again = row.retransmits.map(|count| format!("{count} retransmits"));
            let name = format!("  {} {} to {}{end}", row.proto, row.from, row.to);
            let said = lost.or(again).unwrap_or_default();
            writeln!(f, "  {name:<24}{:>10.1}   {said}", row.mbits_per_s)
        };
        for row in iperf3 {
            line(f, row, if row.dma { ", DMA" } else { "" })?;
        }
        if let Some(VirtioNet { iperf3, tcp_ratio, .. }) = &self.virtio_net {
            for row in iperf3 {
                line(f, row, ", virtio")?;
            }
            writeln!(f, "  the bridge's TCP reaches {tcp_ratio:.2} of virtio-net's")?;
        }
        writeln!(f)
    }

    fn write_profiled(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(profile) = &self.profile else { return Ok(()) };
        writeln!(f, "\n  profile   {}; {} samples by {}", profile.what, profile.samples, profile.made_by)?;
        writeln!(f, "            {}", profile.limit)?;
        for share in profile.threads.iter().take(4).chain(&profile.functions) {
            writeln!(f, "            {:>5.1} %  {}", share.percent, share.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{sample, sample_shared};

    fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let line = text.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).split_whitespace().collect()
    }

    #[test]
    fn people_get_tables() {
        let text = sample().to_string();
        assert_eq!(row(&text, "a to b"), ["a", "to", "b", "64", "80.5", "79.5", "80.5", "100.0", "0.81"]);
        assert_eq!(
            row(&text, "b to a, DMA"),
            ["b", "to", "a,", "DMA", "64", "6100.0", "6099.0", "6100.0", "-", "-"]
        );
        assert_eq!(row(&text, "memcpy ")[2], "7000.0");
        assert_eq!(row(&text, "chunks of")[2], "4K");
        assert_eq!(row(&text, "in a"), ["in", "a", "40.0", "(20.0)", "2000.0", "(1000.0)", "0.02"]);
        assert_eq!(row(&text, "tcp a to b, DMA")[5], "700.0");
        assert!(text.contains("20 of 20 answered") && text.contains("65536 bytes equal"));
        assert!(text.contains("reaches 0.11 of virtio-net's") && !text.contains("skipped"));
    }

    #[test]
    fn what_a_mode_cannot_is_said() {
        let text = sample_shared().to_string();
        assert_eq!(row(&text, "a to b"), ["a", "to", "b", "64", "1500.0", "1100.0", "-", "-", "-"]);
        assert!(text.contains("skipped") && !text.contains("carrier") && !text.contains("virtio"));
    }
}
