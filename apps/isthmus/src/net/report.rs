//! What `isthmus net` tells of itself: text for people, JSON for programs, Prometheus' text form for collectors.

use netdev::{Counts, Interface, Offload, Statistics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// All that is told, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) interface: String,
    pub(crate) mac: String,
    pub(crate) address: Option<String>,
    /// What was agreed, while there is a link.
    pub(crate) link: Option<Link>,
    /// The sum over the queues, by the counter's name.
    pub(crate) counters: BTreeMap<String, u64>,
    /// Each queue's.
    pub(crate) queues: Vec<BTreeMap<String, u64>>,
    /// The kernel's counters of the interface. What it sends is what is read from the TAP.
    pub(crate) kernel: Option<Kernel>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) mtu: u32,
    pub(crate) offload: String,
    pub(crate) peer: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) rx_errors: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_dropped: u64,
}

impl From<Statistics> for Kernel {
    fn from(statistics: Statistics) -> Self {
        let Statistics { rx_frames, rx_bytes, rx_dropped, rx_errors, tx_frames, tx_bytes, tx_dropped } =
            statistics;
        Self { rx_frames, rx_bytes, rx_dropped, rx_errors, tx_frames, tx_bytes, tx_dropped }
    }
}

/// What does not change while it runs.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) mac: String,
    pub(super) address: Option<String>,
}

impl Report {
    pub(super) fn of(identity: &Identity, interface: &Interface, queues: &[Counts]) -> Self {
        let mut sum = Counts::default();
        queues.iter().for_each(|counts| sum += *counts);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            interface: interface.name().to_owned(),
            mac: identity.mac.clone(),
            address: identity.address.clone(),
            link: interface.agreement().map(|agreement| Link {
                mtu: agreement.mtu,
                offload: match agreement.offload {
                    Offload::None => "none",
                    Offload::Checksum => "checksum",
                    Offload::Segmentation => "segmentation",
                }
                .to_owned(),
                peer: agreement.peer.map(|peer| peer.to_string()),
            }),
            counters: by_name(&sum),
            queues: queues.iter().map(by_name).collect(),
            kernel: interface.statistics().ok().map(Kernel::from),
        }
    }

    /// Prometheus' text form (exposition formats, 0.0.4): all are counters but `isthmus_net_up` and `isthmus_net_mtu_bytes`.
    pub(super) fn prometheus(&self) -> String {
        let mut text = String::new();
        let label = format!("interface=\"{}\"", self.interface);
        let up = u8::from(self.link.is_some());
        let mtu = self.link.as_ref().map_or(0, |link| link.mtu);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# HELP isthmus_net_up Whether the link is up\n# TYPE isthmus_net_up gauge\nisthmus_net_up{{{label}}} {up}\n\
             # HELP isthmus_net_mtu_bytes The MTU that was agreed\n# TYPE isthmus_net_mtu_bytes gauge\nisthmus_net_mtu_bytes{{{label}}} {mtu}\n"
        );
        for (name, what, _) in Counts::default().rows() {
            let _ = writeln!(
                text,
                "# HELP isthmus_net_{name}_total {what}\n# TYPE isthmus_net_{name}_total counter"
            );
            for (queue, counters) in self.queues.iter().enumerate() {
                let value = counters.get(name).copied().unwrap_or_default();
                let _ = writeln!(text, "isthmus_net_{name}_total{{{label},queue=\"{queue}\"}} {value}");
            }
        }
        let Some(kernel) = self.kernel else { return text };
        for (name, what, value) in [
            ("rx_frames", "Frames that the kernel received", kernel.rx_frames),
            ("rx_dropped", "Frames that the kernel received and threw away", kernel.rx_dropped),
            ("rx_errors", "Frames that the kernel received and did not understand", kernel.rx_errors),
            ("tx_frames", "Frames that the kernel sent", kernel.tx_frames),
            (
                "tx_dropped",
                "Frames that the kernel threw away since the TAP's queue was full",
                kernel.tx_dropped,
            ),
        ] {
            let _ = writeln!(
                text,
                "# HELP isthmus_net_kernel_{name}_total {what}\n# TYPE isthmus_net_kernel_{name}_total counter\n\
                 isthmus_net_kernel_{name}_total{{{label}}} {value}"
            );
        }
        text
    }
}

fn by_name(counts: &Counts) -> BTreeMap<String, u64> {
    counts.rows().into_iter().map(|(name, _, value)| (name.to_owned(), value)).collect()
}

/// For people.
pub(crate) fn show(report: &Report) -> String {
    let Report { version, pid, interface, mac, address, link, counters, queues, kernel } = report;
    let mut text = format!("net {version}, pid {pid}: {interface} ({mac}");
    if let Some(address) = address {
        text += &format!(", {address}");
    }
    text += ")\n";
    text += &match link {
        Some(Link { mtu, offload, peer }) => format!(
            "link up: MTU {mtu}, offload {offload}, {} queue(s), peer {}\n",
            queues.len(),
            peer.as_deref().unwrap_or("unknown")
        ),
        None => "link down\n".to_owned(),
    };
    let count = |name: &str| counters.get(name).copied().unwrap_or_default();
    text += &format!(
        "  to the peer   {} frames, {} bytes; link full {} times; unfit {}, unconfirmed when the link went down {}\n",
        count("tx_frames"),
        count("tx_bytes"),
        count("tx_full"),
        count("tx_unfit"),
        count("tx_unconfirmed")
    );
    text += &format!(
        "  from the peer {} frames, {} bytes; short {}, long {}, bad header {}, refused by the kernel {}\n",
        count("rx_frames"),
        count("rx_bytes"),
        count("rx_short"),
        count("rx_long"),
        count("rx_bad_header"),
        count("rx_refused")
    );
    text += &format!(
        "  link came up {} times, went down {} times; slept {} times\n",
        count("link_ups"),
        count("link_downs"),
        count("sleeps")
    );
    if let Some(kernel) = kernel {
        text += &format!(
            "  kernel: sent {}, dropped {} for want of room in the TAP; received {}, dropped {}, errors {}\n",
            kernel.tx_frames, kernel.tx_dropped, kernel.rx_frames, kernel.rx_dropped, kernel.rx_errors
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let counts = Counts { tx_frames: 7, rx_long: 1, ..Counts::default() };
        Report {
            version: "0".to_owned(),
            pid: 1,
            interface: "ntb0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            address: Some("10.9.0.1/24".to_owned()),
            link: Some(Link { mtu: 9000, offload: "checksum".to_owned(), peer: None }),
            counters: by_name(&counts),
            queues: vec![by_name(&counts)],
            kernel: Some(Kernel::from(Statistics { tx_dropped: 3, ..Statistics::default() })),
        }
    }

    #[test]
    fn people_see_what_was_lost() {
        let text = show(&report());
        for part in ["ntb0", "10.9.0.1/24", "MTU 9000", "7 frames", "long 1", "dropped 3 for want of room"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(show(&Report { link: None, ..report() }).contains("link down"));
    }

    #[test]
    fn collectors_get_a_help_a_type_and_a_value_for_each_counter() {
        let text = report().prometheus();
        assert!(text.contains("isthmus_net_tx_frames_total{interface=\"ntb0\",queue=\"0\"} 7\n"), "{text}");
        assert!(text.contains("isthmus_net_kernel_tx_dropped_total{interface=\"ntb0\"} 3\n"), "{text}");
        assert!(text.contains("isthmus_net_mtu_bytes{interface=\"ntb0\"} 9000\n"), "{text}");
        let of = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(of("# HELP "), of("# TYPE "));
        assert_eq!(of("# TYPE "), of("isthmus_net_"), "one queue: one value each");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn programs_get_all_of_it() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report());
    }
}
