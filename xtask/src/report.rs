//! The report that `isthmus lab perf --json` prints: whether it says that two guests really talked.

use crate::workspace::Workspace;
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// Where the test command keeps it.
pub(crate) fn path(workspace: &Workspace) -> PathBuf {
    workspace.target.join("xtask/lab-perf.json")
}

/// What is wrong with the report.
pub(crate) fn findings(workspace: &Workspace) -> Result<Vec<String>> {
    let path = path(workspace);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(judge(&text))
}

#[derive(Deserialize)]
struct Report {
    qemu: String,
    kernel: String,
    accel: String,
    window: String,
    link: Link,
    ping: Ping,
    ntb_perf: Vec<NtbPerf>,
    iperf3: Vec<Iperf>,
}

#[derive(Deserialize)]
struct Link {
    up: bool,
    ms_to_up: f64,
}

#[derive(Deserialize)]
struct Ping {
    sent: u64,
    received: u64,
}

#[derive(Deserialize)]
struct NtbPerf {
    from: String,
    to: String,
    bytes: u64,
    mbytes_per_s: f64,
    delivered_bytes: u64,
    delivered_mbytes_per_s: f64,
}

#[derive(Deserialize)]
struct Iperf {
    proto: String,
    from: String,
    mbits_per_s: f64,
}

fn judge(text: &str) -> Vec<String> {
    let report: Report = match serde_json::from_str(text) {
        Ok(report) => report,
        Err(error) => return vec![format!("lab perf --json printed no report: {error}")],
    };
    let mut findings = Vec::new();
    let mut expect = |holds: bool, finding: String| {
        if !holds {
            findings.push(finding);
        }
    };
    expect(report.link.up, "the link is not up".to_owned());
    let Ping { sent, received } = report.ping;
    expect(sent > 0 && received == sent, format!("ping: {sent} sent, {received} received"));
    for (from, to) in [("a", "b"), ("b", "a")] {
        let moved =
            |row: &NtbPerf| row.from == from && row.to == to && row.bytes > 0 && row.delivered_bytes > 0;
        expect(report.ntb_perf.iter().any(moved), format!("ntb_perf from {from} to {to} delivered nothing"));
        for proto in ["tcp", "udp"] {
            let moved = |row: &Iperf| row.proto == proto && row.from == from && row.mbits_per_s > 0.0;
            expect(report.iperf3.iter().any(moved), format!("iperf3 {proto} from {from} moved nothing"));
        }
    }
    if findings.is_empty() {
        tell(&report);
    }
    findings
}

/// The figures, for those who read a log of CI.
fn tell(report: &Report) {
    let Report { qemu, kernel, accel, window, link, ntb_perf, iperf3, ping } = report;
    println!("  QEMU {qemu}, kernel {kernel}, {accel}, window {window}, link up in {} ms", link.ms_to_up);
    println!("  ping {} of {}", ping.received, ping.sent);
    for row in ntb_perf {
        println!(
            "  ntb_perf {} to {}: {:.1} MB/s, delivered {:.1} MB/s",
            row.from, row.to, row.mbytes_per_s, row.delivered_mbytes_per_s
        );
    }
    for row in iperf3 {
        println!("  iperf3 {} from {}: {:.1} Mbit/s", row.proto, row.from, row.mbits_per_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn good() -> Value {
        let perf = |from, to| {
            json!({"from": from, "to": to, "bytes": 4096, "mbytes_per_s": 90.0,
                   "delivered_bytes": 4096, "delivered_mbytes_per_s": 80.0})
        };
        let iperf = |proto, from| json!({"proto": proto, "from": from, "mbits_per_s": 100.0});
        json!({
            "qemu": "11.1", "kernel": "6.12", "accel": "tcg", "window": "trap",
            "link": {"up": true, "ms_to_up": 130.5},
            "ping": {"sent": 20, "received": 20, "rtt_us": {"min": 1, "avg": 2, "max": 3}},
            "ntb_perf": [perf("a", "b"), perf("b", "a")],
            "iperf3": [iperf("tcp", "a"), iperf("tcp", "b"), iperf("udp", "a"), iperf("udp", "b")],
        })
    }

    fn with(pointer: &str, value: Value) -> Vec<String> {
        let mut report = good();
        *report.pointer_mut(pointer).unwrap() = value;
        judge(&report.to_string())
    }

    #[test]
    fn a_report_of_two_guests_that_talked_passes() {
        assert_eq!(judge(&good().to_string()), Vec::<String>::new());
    }

    #[test]
    fn a_report_of_less_does_not() {
        assert_eq!(with("/link/up", json!(false)), ["the link is not up"]);
        assert_eq!(with("/ping/received", json!(19)), ["ping: 20 sent, 19 received"]);
        assert_eq!(with("/ntb_perf/1/delivered_bytes", json!(0)), ["ntb_perf from b to a delivered nothing"]);
        assert_eq!(with("/iperf3/2/from", json!("b")), ["iperf3 udp from a moved nothing"]);
        assert!(with("/ntb_perf", json!("none"))[0].starts_with("lab perf --json printed no report"));
        assert!(judge("")[0].starts_with("lab perf --json printed no report"));
    }
}
