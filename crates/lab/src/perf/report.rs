//! The report of `lab perf`: what one mode's run measured. People read it as text, machines as JSON.

use super::machine::Machine;
use super::profile::Profile;
use super::rates::Rates;
use serde::Serialize;

/// Everything that one run measured. Whatever a mode cannot do is null, and [`skipped`](Self::skipped) says why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of QEMU.
    pub qemu: String,
    /// `uname -r` of the guests.
    pub kernel: String,
    /// How the processors ran.
    pub accel: String,
    /// The machine that ran it all.
    pub machine: Machine,
    /// How windows worked.
    pub window: String,
    /// Size of each window.
    pub window_bytes: u64,
    /// Why there is no network and no pattern, where there is none.
    pub skipped: Option<&'static str>,
    /// The link.
    pub link: Link,
    /// Echo requests from a to b across the bridge.
    pub ping: Option<Ping>,
    /// ntb_perf with chunks as it has them by itself, one way and the other; where there is an engine, by DMA as well.
    pub ntb_perf: Vec<NtbPerf>,
    /// The same with other chunks.
    pub ntb_perf_chunks: Vec<NtbPerf>,
    /// The same against a twin that drops every store, alternating with the above; null where no store reaches it.
    pub ntb_perf_discard: Option<Vec<Discard>>,
    /// A copy loop into each guest's BAR and into its plain memory.
    pub copy: Vec<Copy>,
    /// What a copy of as many bytes as [`ntb_perf`](Self::ntb_perf)'s by DMA reaches, without guests.
    pub memcpy: Option<Memcpy>,
    /// iperf3 across the bridge, TCP and UDP, one way and the other; where there is an engine, TCP by DMA as well.
    pub iperf3: Option<Vec<Iperf>>,
    /// The same guests joined by virtio-net.
    pub virtio_net: Option<VirtioNet>,
    /// A pattern through each window, one way and the other.
    pub pattern: Option<Vec<Pattern>>,
    /// Where the time went during a TCP stream, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
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
    /// Whether the I/OAT engine stored, and not the processor.
    pub dma: bool,
    /// What was stored at once.
    pub chunk_bytes: u64,
    /// Bytes that ntb_perf stored, over all runs.
    pub bytes: u64,
    /// As ntb_perf has it, the median of its runs.
    pub mbytes_per_s: f64,
    /// The slowest run.
    pub slowest_mbytes_per_s: f64,
    /// The fastest run.
    pub fastest_mbytes_per_s: f64,
    /// In how many places ntb_perf's memory was tried until it did not meet the window in QEMU's table of pages; 1 is
    /// the first.
    pub placements: u32,
    /// Bytes that the twin put into the other guest's memory; null where it does not see them.
    pub delivered_bytes: Option<u64>,
    /// The same until the last of them had arrived, the fastest run.
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

/// A copy loop in a guest, with two targets in turns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Copy {
    /// The guest.
    pub guest: &'static str,
    /// Whose BAR: 0 is BAR 2, 1 is BAR 4.
    pub window: u8,
    /// What was copied at once.
    pub chunk_bytes: u64,
    /// What a run copied.
    pub bytes: u64,
    /// Into the BAR, through the window; megabytes a second.
    pub bar: Rates,
    /// Into plain memory of the guest; megabytes a second.
    pub memory: Rates,
    /// The first median by the second.
    pub ratio: f64,
}

/// Plain copies on the host, in turns with ntb_perf by DMA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memcpy {
    /// What a run copied.
    pub bytes: u64,
    /// Each byte once, from one place to another; megabytes a second.
    pub once: Rates,
    /// What ntb_perf by DMA reaches of that median, the slower way.
    pub dma_ratio: f64,
    /// One window over and over, as ntb_perf does it: the processor's caches hold it.
    pub again: Rates,
    /// What ntb_perf by DMA reaches of that median, the slower way.
    pub dma_ratio_again: f64,
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
    /// Whether ntb_transport copied by the I/OAT engine.
    pub dma: bool,
    /// What arrived.
    pub mbits_per_s: f64,
    /// Lost datagrams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_percent: Option<f64>,
    /// Segments sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
}

/// virtio-net between the same two guests, `-netdev stream` over a socket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VirtioNet {
    /// Echo requests from a to b.
    pub ping: Ping,
    /// TCP, one way and the other, in turns with the bridge's.
    pub iperf3: Vec<Iperf>,
    /// TCP across the bridge by TCP here, both ways together, without DMA.
    pub tcp_ratio: f64,
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

/// Why a shared window has no network and no pattern.
pub const SHARED: &str =
    "as stock drivers receive in their RAM, and a shared window reaches only the peer's BAR";
/// Why a small window has no network.
pub const SMALL: &str = "as ntb_netdev stops sending through windows under 1M";

impl Report {
    /// What a dropping twin made of the same stores.
    pub(super) fn ceiling(&self, row: &NtbPerf) -> Option<&Discard> {
        let ceilings = self.ntb_perf_discard.as_ref().filter(|_| !row.dma)?;
        ceilings.iter().find(|ceiling| ceiling.from == row.from && ceiling.to == row.to)
    }

    /// ntb_perf's own chunks, one way.
    pub(super) fn stores(&self, from: &str, dma: bool) -> Option<&NtbPerf> {
        self.ntb_perf.iter().find(|row| row.from == from && row.dma == dma)
    }

    /// iperf3 across the bridge, one way.
    pub(super) fn network(&self, proto: &str, from: &str, dma: bool) -> Option<&Iperf> {
        let mut rows = self.iperf3.iter().flatten();
        rows.find(|row| row.proto == proto && row.from == from && row.dma == dma)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn iperf(from: &'static str, to: &'static str, dma: bool, mbits_per_s: f64) -> Iperf {
        Iperf { proto: "tcp", from, to, dma, mbits_per_s, lost_percent: None, retransmits: Some(0) }
    }

    pub(crate) fn sample() -> Report {
        let perf = |from, to, dma, rate| NtbPerf {
            from,
            to,
            dma,
            chunk_bytes: 512 << 10,
            bytes: 64 << 20,
            mbytes_per_s: rate,
            slowest_mbytes_per_s: rate - 1.0,
            fastest_mbytes_per_s: rate + 1.0,
            placements: 1,
            delivered_bytes: Some(64 << 20),
            delivered_mbytes_per_s: Some(rate),
        };
        let small = |from, to, dma, rate| NtbPerf { chunk_bytes: 4 << 10, ..perf(from, to, dma, rate) };
        let discard = |from, to| Discard {
            from,
            to,
            discarded_bytes: 64 << 20,
            mbytes_per_s: 100.0,
            delivered_ratio: 0.805,
        };
        let rates = |median| Rates { median, min: median / 2.0, max: median * 1.1 };
        let copy = |guest, window| Copy {
            guest,
            window,
            chunk_bytes: 256 << 10,
            bytes: 4 << 20,
            bar: rates(40.0),
            memory: rates(2000.0),
            ratio: 0.02,
        };
        let ping = Ping { sent: 20, received: 20, rtt_us: Rtt { min: 3000.0, avg: 4000.0, max: 5000.0 } };
        Report {
            qemu: "11.1.3".to_owned(),
            kernel: "6.12.1".to_owned(),
            accel: "tcg".to_owned(),
            machine: Machine {
                cpu: "A processor".to_owned(),
                processors: 2,
                memory_mib: 4096,
                kernel: "6.18".to_owned(),
            },
            window: "trap".to_owned(),
            window_bytes: 1 << 20,
            skipped: None,
            link: Link { up: true, ms_to_up: 130, ms_to_carrier: Some(200) },
            ping: Some(ping),
            ntb_perf: vec![
                perf("a", "b", false, 80.5),
                perf("b", "a", false, 80.5),
                perf("a", "b", true, 6000.0),
                perf("b", "a", true, 6100.0),
            ],
            ntb_perf_chunks: vec![
                small("a", "b", false, 79.0),
                small("b", "a", false, 78.0),
                small("a", "b", true, 600.0),
                small("b", "a", true, 610.0),
            ],
            ntb_perf_discard: Some(vec![discard("a", "b"), discard("b", "a")]),
            copy: vec![copy("a", 0), copy("b", 1)],
            memcpy: Some(Memcpy {
                bytes: 256 << 20,
                once: rates(7000.0),
                dma_ratio: 0.857,
                again: rates(20_000.0),
                dma_ratio_again: 0.3,
            }),
            iperf3: Some(vec![iperf("a", "b", false, 33.0), iperf("a", "b", true, 700.0)]),
            virtio_net: Some(VirtioNet {
                ping,
                iperf3: vec![iperf("a", "b", false, 300.0)],
                tcp_ratio: 0.11,
            }),
            pattern: Some(vec![Pattern {
                from: "a",
                to: "b",
                window: 0,
                bytes: 65536,
                sha256: "ab".repeat(32),
            }]),
            profile: None,
        }
    }

    /// The report of a mode in which no store reaches the twin, and stock drivers cannot receive.
    pub(crate) fn sample_shared() -> Report {
        let mut report = sample();
        report.window = "shared".to_owned();
        report.skipped = Some(SHARED);
        report.link.ms_to_carrier = None;
        report.ntb_perf.retain(|row| !row.dma);
        report.ntb_perf_chunks.retain(|row| !row.dma);
        for row in &mut report.ntb_perf {
            row.mbytes_per_s = 1500.0;
            row.slowest_mbytes_per_s = 1100.0;
            row.delivered_bytes = None;
            row.delivered_mbytes_per_s = None;
        }
        for row in &mut report.copy {
            row.bar.median = 1900.0;
            row.ratio = 0.95;
        }
        Report {
            ping: None,
            ntb_perf_discard: None,
            memcpy: None,
            iperf3: None,
            virtio_net: None,
            pattern: None,
            ..report
        }
    }

    #[test]
    fn what_a_mode_cannot_is_null() {
        let value: Value = serde_json::to_value(sample_shared()).unwrap();
        for pointer in ["/ping", "/iperf3", "/pattern", "/ntb_perf_discard", "/memcpy", "/virtio_net"] {
            assert_eq!(value.pointer(pointer), Some(&Value::Null), "{pointer}");
        }
        assert_eq!(value["ntb_perf"][0]["delivered_bytes"], Value::Null);
        assert_eq!(value["skipped"], json!(SHARED));
    }

    #[test]
    fn the_object_has_the_promised_keys() {
        let value: Value = serde_json::to_value(sample()).unwrap();
        assert_eq!(value["link"]["up"], json!(true));
        assert_eq!(value["ping"]["rtt_us"], json!({"min": 3000.0, "avg": 4000.0, "max": 5000.0}));
        for key in ["qemu", "kernel", "accel", "window"] {
            assert!(value[key].is_string(), "{key}");
        }
        let expected = json!({"from": "a", "to": "b", "dma": false, "chunk_bytes": 524_288, "bytes": 67_108_864,
                              "mbytes_per_s": 80.5, "slowest_mbytes_per_s": 79.5, "fastest_mbytes_per_s": 81.5,
                              "placements": 1,
                              "delivered_bytes": 67_108_864, "delivered_mbytes_per_s": 80.5});
        assert_eq!(value["ntb_perf"][0], expected);
        assert_eq!(value["ntb_perf"][2]["dma"], json!(true));
        let tcp = &value["iperf3"][0];
        assert_eq!(
            (&tcp["proto"], &tcp["from"], &tcp["mbits_per_s"]),
            (&json!("tcp"), &json!("a"), &json!(33.0))
        );
    }
}
