//! `isthmus net`: a network interface across the link.
//!
//! ```text
//!   arguments ──▶ TAP, bridge, links ──▶ one thread for each queue (netdev::Pump)
//!                                        this thread: signals, metrics, the end
//! ```

mod metrics;
mod report;
mod service;

pub(crate) use metrics::ask;
pub(crate) use report::{Report, show};

use crate::Outcome;
use crate::port_choice::PortChoice;
use anyhow::Context;
use clap::ValueEnum;
use metrics::Metrics;
use netdev::{MTU_MAX, MTU_MIN, MacAddress};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// A network interface across the link: every program that uses sockets runs over it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, two hosts on one machine (examples/two-namespaces.sh does all of it):
  isthmus twin --port-a /tmp/a.sock --port-b /tmp/b.sock --control /tmp/twin.sock --window direct &
  isthmus net --port /tmp/a.sock --control /tmp/twin.sock --tap ntb0 --addr 10.9.0.1/24 --netns /run/netns/a &
  isthmus net --port /tmp/b.sock --control /tmp/twin.sock --tap ntb0 --addr 10.9.0.2/24 --netns /run/netns/b &
  ip netns exec a ping 10.9.0.2

SIGUSR1 takes the link down and up again. It runs in the foreground until SIGTERM or SIGINT, says on stdout and to systemd (NOTIFY_SOCKET) when the interface is there, and
prints its counters when it ends. The interface has a carrier while the link is up. It takes CAP_NET_ADMIN, or a TAP
that was made for this user.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    port: PortChoice,
    /// Name of the interface; ntb%d lets the kernel choose the number
    #[arg(long, value_name = "NAME", default_value = "ntb%d")]
    tap: String,
    /// IPv4 address of the interface, and the length of its network's prefix
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    addr: Option<Address>,
    /// Greatest IP packet in bytes; the link uses the lesser of both ends'
    #[arg(long, value_name = "BYTES", default_value_t = MTU_MAX, value_parser = clap::value_parser!(u32).range(i64::from(MTU_MIN)..=i64::from(MTU_MAX)))]
    mtu: u32,
    /// Ethernet address; one is made up if there is none
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddress>,
    /// What both kernels leave undone between them; the link uses the lesser of both ends'
    #[arg(long, value_name = "WHAT", default_value = "segmentation")]
    offload: Offload,
    /// The framework under it: `fast`, or `paper` as published; the same at both ends
    #[arg(long, default_value = "fast")]
    profile: Profile,
    /// Speak Linux's ntb_transport, to a stock guest whose ntb_netdev is at the far end: bare frames, no offload, an MTU of at
    /// most 65510, which is not agreed
    #[arg(long, conflicts_with_all = ["profile", "offload", "queues"])]
    linux: bool,
    /// Queues of the interface, with a thread and a channel each; the same at both ends
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=31))]
    queues: u16,
    /// Frames that wait in each queue of the TAP before the kernel drops one
    #[arg(long, value_name = "FRAMES", default_value_t = 1000)]
    queue_frames: u32,
    /// How long to poll after the last frame before sleeping, in microseconds
    #[arg(long, value_name = "US", default_value_t = 5)]
    poll_us: u64,
    /// Network namespace that the interface is made in: /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Counters in Prometheus' text form: a file that is written anew each second, unix:PATH, or ADDRESS:PORT. The sockets
    /// answer HTTP: /metrics, and /status for `isthmus status --net`
    #[arg(long, value_name = "WHERE")]
    metrics: Option<Metrics>,
    /// Print one JSON object when it is ready, and one with all counters at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Offload {
    /// Frames are complete
    None,
    /// No checksums are computed: the receiving kernel knows that none were needed
    Checksum,
    /// Nor is a stream cut into segments: nine times as much with an MTU of 1500
    Segmentation,
}

impl From<Offload> for netdev::Offload {
    fn from(offload: Offload) -> Self {
        match offload {
            Offload::None => Self::None,
            Offload::Checksum => Self::Checksum,
            Offload::Segmentation => Self::Segmentation,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// 4 KiB cells, nothing is read across the bridge
    Fast,
    /// 750-byte cells, as published
    Paper,
}

impl From<Profile> for cells::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Fast => Self::Fast,
            Profile::Paper => Self::Paper,
        }
    }
}

/// `10.9.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || format!("{text:?} is not an IPv4 address with the length of a prefix, such as 10.9.0.1/24");
        let (host, prefix) = text.split_once('/').ok_or_else(form)?;
        let host: Ipv4Addr = host.parse().map_err(|_| form())?;
        let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix)).ok_or_else(form)?;
        if host.is_unspecified() || host.is_multicast() || host.is_broadcast() {
            return Err(format!("{host} is no address of one host"));
        }
        Ok(Self { host, prefix })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.prefix)
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    // Before anybody can see that it runs, and send SIGTERM.
    let stop = crate::stop::on_signal().context("SIGTERM and SIGINT cannot be watched")?;
    if let Some(path) = &arguments.netns {
        netdev::namespace::enter(path).with_context(|| {
            format!(
                "cannot enter the network namespace {}: it takes root, and `ip netns list` shows names",
                path.display()
            )
        })?;
    }
    let flap = crate::stop::on(&[signal_hook::consts::SIGUSR1]).context("SIGUSR1 cannot be watched")?;
    service::run(arguments, &stop, &flap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_prefix() {
        let address: Address = "10.9.0.1/24".parse().unwrap();
        assert_eq!(address.to_string(), "10.9.0.1/24");
        for text in
            ["", "10.9.0.1", "10.9.0.1/0", "10.9.0.1/33", "10.9.0/24", "0.0.0.0/24", "224.0.0.1/24", "::1/64"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
