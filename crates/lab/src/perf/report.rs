//! The report of `lab perf`, as JSON and for people.

use serde::Serialize;
use std::fmt;

/// Everything that one run measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of QEMU.
    pub qemu: String,
    /// `uname -r` of the guests.
    pub kernel: String,
    /// How the processors ran.
    pub accel: String,
    /// How windows worked.
    pub window: String,
    /// Size of each window.
    pub window_bytes: u64,
    /// The link.
    pub link: Link,
    /// Echo requests from a to b; null where stock drivers cannot receive.
    pub ping: Option<Ping>,
    /// ntb_perf, one way and the other.
    pub ntb_perf: Vec<NtbPerf>,
    /// The same against a twin that drops every store, alternating with the above; null where no store reaches it.
    pub ntb_perf_discard: Option<Vec<Discard>>,
    /// iperf3, TCP and UDP, one way and the other; null as for ping.
    pub iperf3: Option<Vec<Iperf>>,
    /// A pattern through each window, one way and the other; null as for ping.
    pub pattern: Option<Vec<Pattern>>,
}

/// How the link came up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Link {
    /// Whether it did.
    pub up: bool,
    /// From the start of the second guest's client driver to the twin's link up, in milliseconds.
    pub ms_to_up: u64,
    /// From the same moment to a carrier at both network devices, if they were tried.
    pub ms_to_carrier: Option<u64>,
}

/// Round trips.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ping {
    /// Requests.
    pub sent: u32,
    /// Answers.
    pub received: u32,
    /// Their times.
    pub rtt_us: Rtt,
}

/// Times of round trips in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rtt {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The longest.
    pub max: f64,
}

/// Stores through a window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NtbPerf {
    /// The guest that stored.
    pub from: &'static str,
    /// The guest in whose memory it arrived.
    pub to: &'static str,
    /// Bytes that ntb_perf stored, over all runs.
    pub bytes: u64,
    /// As ntb_perf has it, its fastest run.
    pub mbytes_per_s: f64,
    /// Bytes that the twin put into the other guest's memory; null where the window is memory itself.
    pub delivered_bytes: Option<u64>,
    /// The same, until the last of them had arrived.
    pub delivered_mbytes_per_s: Option<f64>,
}

/// Stores that the twin dropped, and what delivery reaches of that.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Discard {
    /// The guest that stored.
    pub from: &'static str,
    /// The guest that would have got it.
    pub to: &'static str,
    /// Bytes that the twin dropped.
    pub discarded_bytes: u64,
    /// How fast, in the fastest run.
    pub mbytes_per_s: f64,
    /// Delivered rate by this rate.
    pub delivered_ratio: f64,
}

/// One iperf3 run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Iperf {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// The guest that sent.
    pub from: &'static str,
    /// The guest that received.
    pub to: &'static str,
    /// What arrived.
    pub mbits_per_s: f64,
    /// Lost datagrams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_percent: Option<f64>,
    /// Segments sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
}

/// A pattern that was stored through a window and compared in the other guest's memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pattern {
    /// The guest that stored.
    pub from: &'static str,
    /// The guest in whose memory it was compared.
    pub to: &'static str,
    /// Which window.
    pub window: u8,
    /// How much.
    pub bytes: u64,
    /// SHA-256 at both ends.
    pub sha256: String,
}

/// Why a mode has no network and no pattern.
pub const SKIPPED: &str =
    "as stock drivers receive in their RAM, and a shared window reaches only the peer's BAR";

impl Report {
    /// What a dropping twin made of the same stores.
    pub(super) fn ceiling(&self, row: &NtbPerf) -> Option<&Discard> {
        let ceilings = self.ntb_perf_discard.as_ref()?;
        ceilings.iter().find(|ceiling| ceiling.from == row.from && ceiling.to == row.to)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { qemu, kernel, accel, window, link, ping, .. } = self;
        let size = crate::options::show_size(self.window_bytes);
        writeln!(f, "Isthmus lab: QEMU {qemu}, Linux {kernel}, {accel}, windows {window} of {size}")?;
        writeln!(f)?;
        let state = if link.up { "up" } else { "down" };
        let carrier = link.ms_to_carrier.map(|ms| format!("; carrier after {ms} ms")).unwrap_or_default();
        writeln!(f, "  link      {state} after {} ms{carrier}", link.ms_to_up)?;
        if let Some(Ping { sent, received, rtt_us: Rtt { min, avg, max } }) = ping {
            writeln!(
                f,
                "  ping      {received} of {sent} answered; round trip {min:.0} / {avg:.0} / {max:.0} us (min / avg / max)"
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "  {:<18}{:>10}{:>14}{:>16}{:>20}{:>8}",
            "ntb_perf", "MiB", "stored MB/s", "delivered MB/s", "dropping twin MB/s", "ratio"
        )?;
        for row in &self.ntb_perf {
            let ceiling = self.ceiling(row);
            let digits = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            writeln!(
                f,
                "  {:<18}{:>10}{:>14.1}{:>16}{:>20}{:>8}",
                format!("  {} to {}", row.from, row.to),
                row.bytes >> 20,
                row.mbytes_per_s,
                digits(row.delivered_mbytes_per_s, 1),
                digits(ceiling.map(|ceiling| ceiling.mbytes_per_s), 1),
                digits(ceiling.map(|ceiling| ceiling.delivered_ratio), 2)
            )?;
        }
        writeln!(f)?;
        let (Some(iperf3), Some(pattern)) = (&self.iperf3, &self.pattern) else {
            return writeln!(f, "  ping, iperf3, pattern: skipped, {SKIPPED}");
        };
        writeln!(f, "  {:<18}{:>10}{:>14}", "iperf3", "Mbit/s", "")?;
        for row in iperf3 {
            let lost = row.lost_percent.map(|lost| format!("{lost:.1} % lost"));
            let again = row.retransmits.map(|count| format!("{count} retransmits"));
            writeln!(
                f,
                "  {:<18}{:>10.1}   {}",
                format!("  {} {} to {}", row.proto, row.from, row.to),
                row.mbits_per_s,
                lost.or(again).unwrap_or_default()
            )?;
        }
        writeln!(f)?;
        for row in pattern {
            let sum = row.sha256.get(..16).unwrap_or(&row.sha256);
            let Pattern { from, to, window, bytes, .. } = row;
            writeln!(f, "  pattern   {from} to {to}, window {window}: {bytes} bytes equal, sha256 {sum}..")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn sample() -> Report {
        let perf = |from, to| NtbPerf {
            from,
            to,
            bytes: 64 << 20,
            mbytes_per_s: 80.5,
            delivered_bytes: Some(64 << 20),
            delivered_mbytes_per_s: Some(80.5),
        };
        let discard = |from, to| Discard {
            from,
            to,
            discarded_bytes: 64 << 20,
            mbytes_per_s: 100.0,
            delivered_ratio: 0.805,
        };
        Report {
            qemu: "11.1.3".to_owned(),
            kernel: "6.12.1".to_owned(),
            accel: "tcg".to_owned(),
            window: "trap".to_owned(),
            window_bytes: 1 << 20,
            link: Link { up: true, ms_to_up: 130, ms_to_carrier: Some(200) },
            ping: Some(Ping {
                sent: 20,
                received: 20,
                rtt_us: Rtt { min: 3000.0, avg: 4000.0, max: 5000.0 },
            }),
            ntb_perf: vec![perf("a", "b"), perf("b", "a")],
            ntb_perf_discard: Some(vec![discard("a", "b"), discard("b", "a")]),
            iperf3: Some(vec![Iperf {
                proto: "tcp",
                from: "a",
                to: "b",
                mbits_per_s: 33.0,
                lost_percent: None,
                retransmits: Some(0),
            }]),
            pattern: Some(vec![Pattern {
                from: "a",
                to: "b",
                window: 0,
                bytes: 65536,
                sha256: "ab".repeat(32),
            }]),
        }
    }

    /// The report of a mode in which no store reaches the twin, and stock drivers cannot receive.
    pub(crate) fn sample_shared() -> Report {
        let mut report = sample();
        report.window = "shared".to_owned();
        report.link.ms_to_carrier = None;
        for row in &mut report.ntb_perf {
            row.mbytes_per_s = 1500.0;
            row.delivered_bytes = None;
            row.delivered_mbytes_per_s = None;
        }
        Report { ping: None, ntb_perf_discard: None, iperf3: None, pattern: None, ..report }
    }

    #[test]
    fn what_a_mode_cannot_is_null_and_said() {
        let report = sample_shared();
        let value: Value = serde_json::to_value(&report).unwrap();
        for pointer in ["/ping", "/iperf3", "/pattern", "/ntb_perf_discard", "/ntb_perf/0/delivered_bytes"] {
            assert_eq!(value.pointer(pointer), Some(&Value::Null), "{pointer}");
        }
        let text = report.to_string();
        let row = text.lines().find(|line| line.contains("a to b")).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["a", "to", "b", "64", "1500.0", "-", "-", "-"]
        );
        assert!(text.contains("skipped") && !text.contains("carrier"));
    }

    #[test]
    fn the_object_has_the_promised_keys() {
        let value: Value = serde_json::to_value(sample()).unwrap();
        assert_eq!(value["link"]["up"], json!(true));
        assert_eq!(value["ping"]["rtt_us"], json!({"min": 3000.0, "avg": 4000.0, "max": 5000.0}));
        for key in ["qemu", "kernel", "accel", "window"] {
            assert!(value[key].is_string(), "{key}");
        }
        let expected = json!({"from": "a", "to": "b", "bytes": 67_108_864, "mbytes_per_s": 80.5,
                              "delivered_bytes": 67_108_864, "delivered_mbytes_per_s": 80.5});
        assert_eq!(value["ntb_perf"][0], expected);
        let tcp = &value["iperf3"][0];
        assert_eq!(
            (&tcp["proto"], &tcp["from"], &tcp["mbits_per_s"]),
            (&json!("tcp"), &json!("a"), &json!(33.0))
        );
    }

    #[test]
    fn people_get_a_table() {
        let text = sample().to_string();
        let row = text.lines().find(|line| line.contains("a to b") && line.contains("80.5")).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["a", "to", "b", "64", "80.5", "80.5", "100.0", "0.81"]
        );
        assert!(text.contains("20 of 20 answered") && text.contains("65536 bytes equal"));
    }
}
