//! `isthmus perf net`: what socket programs get across the bridge, each turn beside one over veth.
//!
//! ```text
//!   namespace a ── ntb0 ── isthmus net ══ twin ══ isthmus net ── ntb0 ── namespace b     iperf3, ping
//!              ├── veth, MTU 1500, which cuts and joins segments by itself (its default) ──┤
//!              └── veth with the same MTU as ours ─────────────────────────────────────────┘
//! ```

use super::iperf::{self, add_veth, inside};
use crate::Outcome;
use crate::net;
use crate::soak::world::{Options, Side, World};
use anyhow::{Context, ensure};
use clap::ValueEnum;
use lab::perf::Machine;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The MTU of a veth that nobody has changed, in bytes.
const VETH_MTU: u32 = 1500;
/// Of the offloads' comparison: Ethernet's, that of jumbo frames, and the greatest.
const MTUS: [u32; 3] = [1500, 9000, netdev::MTU_MAX];
/// A flood's datagrams: one frame of any MTU above Ethernet's holds it.
const DATAGRAM_BYTES: u32 = 1400;
/// So long frames may still be on their way after a flood.
const SETTLING: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Greatest IP packet in bytes
    #[arg(long, value_name = "BYTES", default_value_t = netdev::MTU_MAX)]
    mtu: u32,
    /// What both kernels leave undone between them
    #[arg(long, value_name = "WHAT", default_value = "segmentation")]
    offload: Offload,
    /// Every offload with MTUs of 1500, 9000 and 65521 instead
    #[arg(long, conflicts_with_all = ["mtu", "offload"])]
    offloads: bool,
    /// Turns of each way; the medians of their ratios are printed
    #[arg(long, value_name = "N", default_value_t = 5)]
    pairs: u32,
    /// Seconds of each turn
    #[arg(long, value_name = "S", default_value_t = 1)]
    seconds: u32,
    /// Where the twin and both interfaces run; iperf3 runs where the kernel puts it
    #[arg(long, value_name = "WHERE", value_delimiter = ',', default_values = ["anywhere", "together"])]
    bridge: Vec<Place>,
    /// Also so many pings, each sent when the last has come back, of which none may be lost
    #[arg(long, value_name = "N", default_value_t = 0)]
    pings: u32,
    /// Also a flood of datagrams, as fast as the sender can: what is lost has to be in the kernel's own counters
    #[arg(long)]
    flood: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Offload {
    /// Frames are complete
    None,
    /// No checksums are computed
    Checksum,
    /// Nor is a stream cut into segments
    Segmentation,
}

/// Where the processes of the bridge run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    /// Wherever the kernel puts them
    Anywhere,
    /// All on the first processor that this process may use
    Together,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Anywhere => "anywhere",
            Self::Together => "together",
        }
    }

    fn processor(self) -> anyhow::Result<Option<usize>> {
        Ok(match self {
            Self::Anywhere => None,
            Self::Together => yardstick::allowed_processors()?.first().copied(),
        })
    }
}

impl Offload {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Checksum => "checksum",
            Self::Segmentation => "segmentation",
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    command: String,
    machine: Machine,
    rows: Vec<Row>,
    pings: Option<Pings>,
    flood: Option<Flood>,
}

/// TCP, one stream, with one MTU and one offload.
#[derive(Debug, Serialize)]
struct Row {
    mtu: u32,
    offload: Offload,
    bridge: Place,
    /// Gbit/s that arrived, the median of the turns.
    gbits: f64,
    /// The same over veth with its default MTU.
    veth_gbits: f64,
    /// The same over veth with our MTU.
    veth_same_mtu_gbits: f64,
    /// Median of the ratios of neighbouring turns.
    ratio: f64,
    /// The same, to veth with our MTU.
    ratio_same_mtu: f64,
}

#[derive(Debug, Serialize)]
struct Pings {
    sent: u64,
    received: u64,
    summary: String,
}

/// Where the datagrams of a flood have gone.
#[derive(Debug, Serialize)]
struct Flood {
    /// Given to the sender's kernel by iperf3.
    sent: u64,
    /// Dropped by that kernel, since the TAP's queue was full.
    dropped_by_tap_queue: u64,
    /// Frames of all kinds that the sender's TAP gave, and that the receiver's took.
    carried: u64,
    arrived: u64,
    /// Dropped by the receiver's kernel, since the socket was full.
    dropped_by_socket: u64,
    /// Frames that one end read and the other did not write.
    lost_between_taps: u64,
}

impl Report {
    fn is_sound(&self) -> bool {
        self.pings.as_ref().is_none_or(|pings| pings.sent == pings.received)
            && self.flood.as_ref().is_none_or(|flood| flood.lost_between_taps == 0 && flood.carried > 0)
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    ensure!(
        arguments.pairs > 0 && arguments.seconds > 0,
        "nothing is measured by no turns, or turns of no length"
    );
    let cases: Vec<(u32, Offload)> = match arguments.offloads {
        false => vec![(arguments.mtu, arguments.offload)],
        true => MTUS
            .iter()
            .flat_map(|&mtu| Offload::value_variants().iter().map(move |&offload| (mtu, offload)))
            .collect(),
    };
    let mut report = Report {
        bench: "net",
        command: super::report::command(),
        machine: Machine::here(),
        rows: Vec::new(),
        pings: None,
        flood: None,
    };
    let placed = cases.iter().flat_map(|case| arguments.bridge.iter().map(move |&place| (case, place)));
    for (&(mtu, offload), place) in placed {
        let bench = Bench::build(mtu, offload, place)?;
        report.rows.push(bench.pairs(arguments.pairs, arguments.seconds)?);
        if arguments.pings > 0 && report.pings.is_none() {
            report.pings = Some(bench.ping(arguments.pings)?);
        }
        if arguments.flood && report.flood.is_none() {
            report.flood = Some(bench.flood(arguments.seconds)?);
        }
    }
    if arguments.json {
        crate::out::say!("{}", serde_json::to_string(&report)?);
    } else {
        crate::out::write(format_args!("{report}"));
    }
    Ok(if report.is_sound() { Outcome::Done } else { Outcome::Exit(ExitCode::from(1)) })
}

/// Two hosts, three ways between them, and somebody who listens at one end.
#[derive(Debug)]
struct Bench {
    world: World,
    mtu: u32,
    offload: Offload,
    place: Place,
    _server: iperf::Server,
}

impl Bench {
    fn build(mtu: u32, offload: Offload, place: Place) -> anyhow::Result<Self> {
        let options = Options {
            mtu,
            window: "direct".to_owned(),
            profile: cells::Profile::Fast.to_string(),
            processor: place.processor()?,
        };
        let world = World::build_with(&options, &["--offload", offload.name()])?;
        add_veth(&world, "veth0", 2, VETH_MTU)?;
        add_veth(&world, "veth1", 3, mtu)?;
        // Any address: that of each way.
        let server = iperf::Server::start(&world, Side::B, "0.0.0.0")?;
        Ok(Self { world, mtu, offload, place, _server: server })
    }

    /// Turns of all three ways, one after the other.
    fn pairs(&self, pairs: u32, seconds: u32) -> anyhow::Result<Row> {
        let (mut ours, mut veth, mut same) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..pairs {
            veth.push(self.tcp("10.9.2.2", seconds)?);
            ours.push(self.tcp(Side::B.address(), seconds)?);
            same.push(self.tcp("10.9.3.2", seconds)?);
        }
        let ratios = |reference: &[f64]| ours.iter().zip(reference).map(|(ours, veth)| ours / veth).collect();
        Ok(Row {
            mtu: self.mtu,
            offload: self.offload,
            bridge: self.place,
            ratio: median(ratios(&veth)),
            ratio_same_mtu: median(ratios(&same)),
            gbits: median(ours.clone()),
            veth_gbits: median(veth),
            veth_same_mtu_gbits: median(same),
        })
    }

    /// Gbit/s that arrive there.
    fn tcp(&self, to: &str, seconds: u32) -> anyhow::Result<f64> {
        Ok(iperf::tcp(&self.world, to, &["--time", &seconds.to_string()])? / 1e9)
    }

    fn ping(&self, count: u32) -> anyhow::Result<Pings> {
        let output = inside(&self.world, Side::A, "ping")
            .args(["-q", "-f", "-c", &count.to_string(), Side::B.address()])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary: Vec<&str> = said.lines().rev().take(2).collect();
        let (sent, received) = said.lines().find_map(counts).context("ping made no summary")?;
        Ok(Pings { sent, received, summary: summary.into_iter().rev().collect::<Vec<_>>().join("; ") })
    }

    fn flood(&self, seconds: u32) -> anyhow::Result<Flood> {
        let before = self.told()?;
        let sockets = self.socket_drops()?;
        let report = iperf::run(
            &self.world,
            Side::B.address(),
            &[
                "--udp",
                "--bitrate",
                "0",
                "--length",
                &DATAGRAM_BYTES.to_string(),
                "--time",
                &seconds.to_string(),
            ],
        )?;
        let sent = report.pointer("/end/sum/packets").and_then(Value::as_u64);
        let sent = sent.context("iperf3 sent no datagrams")?;
        let began = Instant::now();
        loop {
            let [from, to] = self.told()?;
            let carried = from.carried.wrapping_sub(before[0].carried);
            let arrived = to.arrived.wrapping_sub(before[1].arrived);
            // What is still on its way is waited for, and what does not come is told.
            if carried == arrived || began.elapsed() > SETTLING {
                return Ok(Flood {
                    sent,
                    dropped_by_tap_queue: from.tap_drops.wrapping_sub(before[0].tap_drops),
                    carried,
                    arrived,
                    dropped_by_socket: self.socket_drops()?.wrapping_sub(sockets),
                    lost_between_taps: carried.saturating_sub(arrived),
                });
            }
            crate::soak::world::pause(Duration::from_millis(20));
        }
    }

    fn told(&self) -> anyhow::Result<[Told; 2]> {
        let reports = self.world.interfaces();
        let [a, b] = <[net::Report; 2]>::try_from(reports).ok().context("an interface tells nothing")?;
        Ok([Told::of(&a), Told::of(&b)])
    }

    /// Datagrams that the receiver's kernel had no room for in a socket.
    fn socket_drops(&self) -> anyhow::Result<u64> {
        let output = inside(&self.world, Side::B, "cat").arg("/proc/net/snmp").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
        let (names, values) = (lines.next(), lines.next());
        let (names, values) = names.zip(values).context("the kernel counts no datagrams")?;
        let mut fields = names.split_whitespace().zip(values.split_whitespace());
        let field = fields.find(|(name, _)| *name == "RcvbufErrors");
        field.and_then(|(_, value)| value.parse().ok()).context("the kernel counts no full sockets")
    }
}

/// What an interface has counted.
struct Told {
    carried: u64,
    arrived: u64,
    tap_drops: u64,
}

impl Told {
    fn of(report: &net::Report) -> Self {
        let counter = |name: &str| report.counters.get(name).copied().unwrap_or_default();
        Self {
            carried: counter("tx_frames"),
            arrived: counter("rx_frames"),
            tap_drops: report.kernel.map_or(0, |kernel| kernel.tx_dropped),
        }
    }
}

/// Of ping's summary: sent and received.
fn counts(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let sent = words.next()?.parse().ok()?;
    (words.next()? == "packets").then_some(())?;
    let received = words.nth(1)?.parse().ok()?;
    Some((sent, received))
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    if values.len().is_multiple_of(2) { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 } else { at(middle) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.command, self.machine)?;
        writeln!(
            f,
            "TCP, one stream    MTU  offload       bridge      Gbit/s  veth 1500  ratio  veth same MTU  ratio"
        )?;
        for row in &self.rows {
            let Row { mtu, offload, bridge, gbits, veth_gbits, veth_same_mtu_gbits, ratio, ratio_same_mtu } =
                row;
            let (offload, bridge) = (offload.name(), bridge.name());
            writeln!(
                f,
                "                 {mtu:>5}  {offload:<12}  {bridge:<8}  {gbits:>8.2}  {veth_gbits:>9.2}  {ratio:>5.2}  {veth_same_mtu_gbits:>13.2}  {ratio_same_mtu:>5.2}"
            )?;
        }
        if let Some(Pings { sent, received, summary }) = &self.pings {
            writeln!(f, "ping: {received} of {sent} came back ({summary})")?;
        }
        if let Some(flood) = &self.flood {
            let Flood { sent, dropped_by_tap_queue, carried, arrived, dropped_by_socket, lost_between_taps } =
                flood;
            writeln!(
                f,
                "UDP flood: {sent} datagrams of {DATAGRAM_BYTES} bytes sent; {dropped_by_tap_queue} dropped by the TAP's queue (the sender's kernel); \
                 {carried} frames read from the TAP, {arrived} written into the other: {lost_between_taps} lost between them; \
                 {dropped_by_socket} dropped by the full socket (the receiver's kernel)"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn pings_summary_is_understood() {
        let line = "100000 packets transmitted, 99999 received, 0.001% packet loss, time 1234ms";
        assert_eq!(counts(line), Some((100_000, 99_999)));
        assert_eq!(counts("PING 10.9.0.2 (10.9.0.2) 56(84) bytes of data."), None);
        assert_eq!(counts(""), None);
    }

    #[test]
    fn a_lost_ping_or_frame_fails_and_what_the_kernel_dropped_does_not() {
        let report = |pings, flood| Report {
            bench: "net",
            command: String::new(),
            machine: Machine::here(),
            rows: Vec::new(),
            pings,
            flood,
        };
        let pings = |received| Some(Pings { sent: 9, received, summary: String::new() });
        let flood = |lost_between_taps| {
            Some(Flood {
                sent: 9,
                dropped_by_tap_queue: 2,
                carried: 7,
                arrived: 7 - lost_between_taps,
                dropped_by_socket: 3,
                lost_between_taps,
            })
        };
        assert!(report(pings(9), flood(0)).is_sound());
        assert!(!report(pings(8), flood(0)).is_sound());
        assert!(!report(pings(9), flood(1)).is_sound());
    }
}
