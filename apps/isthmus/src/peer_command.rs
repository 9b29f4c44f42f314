//! `isthmus peer`: a process at a port of the twin, opposite a guest.

use crate::Outcome;
use crate::port_choice::PortChoice;
use ::lab::trouble::UnderTest;
use anyhow::{Context, bail};
use linux_transport::Config;
use peer::ethernet::{ECHO_HEADER_BYTES, Mac};
use peer::raw::Plan;
use peer::script::Script;
use peer::{PeerError, Report, Responder, Role, Settings};
use serde_json::json;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A process opposite a guest: the reference for people who debug their own transports
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Debug, clap::Subcommand)]
enum Protocol {
    Linux(LinuxArguments),
}

/// Speak Linux's ntb_transport: a stock guest's eth0 comes up, and somebody answers its pings
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isthmus peer linux --port /tmp/b.sock --dump              every word of the hand-shake and every frame, decoded
  isthmus peer linux --port /tmp/b.sock --frames 100000     so many frames each way, every byte compared
  isthmus peer linux --port /tmp/b.sock --tap ntb0          the guest's network, on this machine (root)
  isthmus peer linux --port /tmp/b.sock --script bad.toml   misbehave by rule
  isthmus peer linux --vfio 0000:01:00.0 --dump             by an NTB of this machine that is bound to vfio-pci

In the guest: modprobe ntb_hw_intel ntb_transport ntb_netdev; ip addr add 10.0.77.1/24 dev eth0; ip link set eth0 up

A script:
  [handshake]            # version, queues, windows, window_bytes: announced in the place of the truth
  version = 5

  [[rule]]               # the first that fits a frame counts; frames are numbered from 1 in each direction
  on = \"receive\"         # from the guest; \"send\": to it
  frames = \"10..20\"      # and every = 7; without either, all
  do = \"delay\"           # drop | delay, stall, close (with ms) | on send: corrupt (at), header (version, bytes, flags)
  ms = 50

Exit 1 when no queue pair comes up in time, or a raw test loses or breaks a frame.")]
struct LinuxArguments {
    #[command(flatten)]
    port: PortChoice,
    /// Print every word of the hand-shake and every frame
    #[arg(long)]
    dump: bool,
    /// Answer by the rules of a file
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Where the answers come from, and how many bits of it are the network
    #[arg(long, value_name = "ADDRESS/BITS", default_value = "10.0.77.2/24")]
    addr: Address,
    /// Hand all frames to a TAP device of this name, which gets the address
    #[arg(long, value_name = "NAME", conflicts_with_all = ["frames", "echo"])]
    tap: Option<String>,
    /// Send back what is neither ARP nor a ping, too
    #[arg(long)]
    echo: bool,
    /// Send so many frames, which the guest's kernel answers (ICMP echo), compare every byte, and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    frames: Option<u32>,
    /// Who answers them
    #[arg(long, value_name = "ADDRESS", default_value = "10.0.77.1", requires = "frames")]
    to: Ipv4Addr,
    /// The shortest and the longest of them in bytes, Ethernet header included
    #[arg(long, value_name = "MIN..MAX", default_value = "60..1514", requires = "frames")]
    size: Sizes,
    /// End with an error when the queue pair is down for so many seconds (with --frames: 30)
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Which queue pair: ntb_netdev uses 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    queue: usize,
    /// How many queue pairs the guest has (ntb_transport's parameter max_num_clients)
    #[arg(long, value_name = "N", default_value_t = Config::default().queues)]
    queues: usize,
    /// The longest slot in bytes (ntb_transport's parameter transport_mtu)
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().transport_mtu)]
    mtu: u32,
    /// The largest part of a window that is used, in bytes (ntb_transport's parameter max_mw_size)
    #[arg(long, value_name = "BYTES")]
    max_mw_size: Option<u64>,
    /// Print one JSON object at the end, and everything else on standard error
    #[arg(long)]
    json: bool,
}

/// `10.0.77.2/24`.
#[derive(Debug, Clone, Copy)]
struct Address {
    address: Ipv4Addr,
    prefix: u8,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no address, such as 10.0.77.2/24");
        let (address, prefix) = text.split_once('/').unwrap_or((text, "24"));
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(form)?;
        Ok(Self { address: address.parse().map_err(|_| form())?, prefix })
    }
}

/// `60..1514`.
#[derive(Debug, Clone, Copy)]
struct Sizes(usize, usize);

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Headers, and the number that each frame carries; and the longest frame of a stock ntb_netdev.
        let (least, most) = (ECHO_HEADER_BYTES + 4, 65_524);
        let read = || {
            let (shortest, longest) = text.split_once("..").unwrap_or((text, text));
            let (shortest, longest) = (shortest.parse().ok()?, longest.parse().ok()?);
            (least <= shortest && shortest <= longest && longest <= most).then_some(Self(shortest, longest))
        };
        read()
            .ok_or_else(|| format!("{text:?} is no range of sizes from {least} to {most}, such as 60..1514"))
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let Protocol::Linux(arguments) = &arguments.protocol;
    let settings = settings(arguments)?;
    let stop = crate::stop::on_signal().context("SIGTERM and SIGINT cannot be watched")?;
    let bridge = arguments.port.open()?;
    let mut tell = |line: &str| say(arguments.json, line);
    let report = match peer::run(bridge, &settings, stop.as_fd(), &mut tell) {
        Err(error @ PeerError::NotUp { .. }) => return Err(UnderTest(error.to_string()).into()),
        report => report?,
    };
    if arguments.json {
        let object = json!({"command": "peer linux", "report": report});
        crate::out::say!("{object}");
    } else {
        show(&report);
    }
    judge(arguments, &report)?;
    Ok(Outcome::Done)
}

fn settings(arguments: &LinuxArguments) -> anyhow::Result<Settings> {
    let transport = Config {
        queues: arguments.queues,
        transport_mtu: arguments.mtu,
        max_window_bytes: arguments.max_mw_size,
        ..Config::default()
    };
    if arguments.queue >= arguments.queues {
        bail!("there is no queue pair {} of {}: see --queues", arguments.queue, arguments.queues);
    }
    let script = match &arguments.script {
        None => Script::default(),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Script::parse(&text).with_context(|| format!("{}", path.display()))?
        }
    };
    let Address { address, prefix } = arguments.addr;
    let responder = Responder { mac: Mac::OURS, address, echo: arguments.echo };
    let role = match (&arguments.tap, arguments.frames) {
        (Some(name), _) => Role::Tap { name: name.clone(), address, prefix },
        (None, Some(frames)) => {
            let Sizes(shortest, longest) = arguments.size;
            let from = (responder.mac, address);
            Role::Raw(responder, Plan { frames, bytes: (shortest, longest), from, to: arguments.to })
        }
        (None, None) => Role::Respond(responder),
    };
    let seconds = arguments.timeout.or(arguments.frames.map(|_| 30));
    Ok(Settings {
        queue: arguments.queue,
        transport,
        role,
        script,
        dump: arguments.dump,
        timeout: seconds.map(Duration::from_secs),
    })
}

/// A line as it happens. Nobody who reads is no reason to end.
fn say(json: bool, line: &str) {
    if !json {
        crate::out::say!("{line}");
    } else if let Err(error) = writeln!(std::io::stderr(), "{line}") {
        tracing::debug!(%error, "nobody reads what happens");
    }
}

fn show(report: &Report) {
    let Report { port, windows, came_up, received, received_bytes, sent, sent_bytes, bad, dropped, raw } =
        report;
    say(false, &format!("port {port}, windows {windows}; the queue pair came up {came_up} times"));
    say(false, &format!("received {received} frames, {received_bytes} bytes; {bad} bad"));
    say(false, &format!("sent {sent} frames, {sent_bytes} bytes; {dropped} dropped"));
    if let Some(raw) = raw {
        let seconds = Duration::from_millis(raw.ms.max(1)).as_secs_f64();
        let rate = f64::from(raw.answered) / seconds;
        say(
            false,
            &format!(
                "raw test: {} frames into the guest, {} answers compared, {} lost, {} corrupted, {} unexpected; \
                 {seconds:.1} s, {rate:.0} frames/s each way",
                raw.sent, raw.answered, raw.lost, raw.corrupted, raw.unexpected
            ),
        );
    }
}

/// Whether a raw test was what it should be.
fn judge(arguments: &LinuxArguments, report: &Report) -> anyhow::Result<()> {
    match (arguments.frames, &report.raw) {
        (Some(frames), Some(raw)) if !raw.is_perfect(frames) => {
            let answered = raw.answered;
            Err(UnderTest(format!("{answered} of {frames} frames came back whole")).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_sizes_are_checked() {
        let address: Address = "10.1.2.3/16".parse().unwrap();
        assert_eq!((address.address, address.prefix), (Ipv4Addr::new(10, 1, 2, 3), 16));
        assert_eq!("10.1.2.3".parse::<Address>().unwrap().prefix, 24);
        for text in ["", "10.1.2", "10.1.2.3/33", "10.1.2.3/", "a/24"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let Sizes(shortest, longest) = "46..65524".parse().unwrap();
        assert_eq!((shortest, longest), (46, 65524));
        for text in ["", "45..100", "100..60", "60..65525", "60..", "x"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }
}
