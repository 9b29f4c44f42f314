//! What perf and test both do to a pair of guests: load drivers, bring the network up, ping.

use crate::agent::SELF;
use crate::guest::Guest;
use crate::options::Side;
use crate::pair::Pair;
use crate::perf::parse::{self, Ping};
use crate::trouble::failed;
use control::{Event, LinkState};
use std::time::{Duration, Instant};

/// How long the link may take from the second driver's start. Training is 0.1 s; emulated guests on a busy
/// machine take the rest.
pub const LINK: Duration = Duration::from_secs(30);
/// How long ntb_transport's hand-shake may take after that.
const CARRIER_SECONDS: u32 = 30;
/// How long a guest may take to print its counters.
const COUNTERS: Duration = Duration::from_secs(20);
/// Channels of the twin's I/OAT engine.
const CHANNELS: usize = 4;
/// The modules of the network device, in order of loading.
const NETWORK: [&str; 3] = ["ntb_hw_intel", "ntb_transport", "ntb_netdev"];

/// A network between the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Across the bridge: ntb_netdev.
    Bridge,
    /// Beside it: virtio-net, whose two QEMUs are joined by a socket.
    Virtio,
}

impl Network {
    /// The address of a guest on it.
    #[must_use]
    pub fn address(self, side: Side) -> String {
        let subnet = match self {
            Self::Bridge => 77,
            Self::Virtio => 78,
        };
        format!("10.0.{subnet}.{}", side.index() + 1)
    }
}

/// How fast a link came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameUp {
    /// The twin's link.
    pub link_ms: u64,
    /// A carrier at both network devices.
    pub carrier_ms: u64,
}

/// Loads the drivers of the network device; with `dma` they copy by the I/OAT engine.
///
/// # Errors
/// Blames the driver or the device when a module does not load.
pub fn load(guest: &Guest, dma: bool) -> anyhow::Result<()> {
    for module in NETWORK {
        let parameters = if dma && module == "ntb_transport" { " use_dma=1" } else { "" };
        guest.sh(&format!("modprobe {module}{parameters}"))?;
    }
    Ok(())
}

/// Loads the driver of the I/OAT engine, which tests each channel as it takes it.
///
/// # Errors
/// Blames the driver or the device when it does not load, or a channel fails the driver's test.
pub fn load_engine(guest: &Guest) -> anyhow::Result<()> {
    guest.sh("modprobe ioatdma")?;
    let found = guest.sh("ls /sys/class/dma 2>/dev/null; true")?;
    let found: Vec<_> = found.split_whitespace().collect();
    if found.len() != CHANNELS {
        let side = guest.side();
        return Err(failed(format!(
            "ioatdma has channels {found:?} in guest {side}, not {CHANNELS} of them"
        )));
    }
    Ok(())
}

/// Unloads the drivers of the network device: all, or all but the hardware's.
///
/// # Errors
/// Blames the driver or the device when a module does not unload.
pub fn unload(guest: &Guest, hardware_too: bool) -> anyhow::Result<()> {
    for module in NETWORK.iter().skip(usize::from(!hardware_too)).rev() {
        guest.sh(&format!("if [ -d /sys/module/{module} ]; then rmmod {module}; fi"))?;
    }
    Ok(())
}

/// The name of a guest's device on a network.
///
/// # Errors
/// When there is none.
pub fn network_device(guest: &Guest, network: Network) -> anyhow::Result<String> {
    let line = "cd /sys/class/net && for name in e*; do [ -e $name/device ] && echo $name $(basename $(readlink -f $name/device/driver)); done; true";
    let text = guest.sh(line)?;
    let mut devices = text.lines().filter_map(|line| line.split_once(' '));
    let found = devices.find(|(_, driver)| (*driver == "virtio_net") == (network == Network::Virtio));
    let none = || {
        failed(format!("guest {} has no network device for {network:?}, only: {}", guest.side(), text.trim()))
    };
    found.map(|(name, _)| name.to_owned()).ok_or_else(none)
}

/// The name of a guest's NTB device, `0000:01:00.0`: the tools' directories are called so.
///
/// # Errors
/// When the driver has none.
pub fn ntb_device(guest: &Guest) -> anyhow::Result<String> {
    let names = guest.sh("ls /sys/bus/ntb/devices")?;
    let none = || failed(format!("ntb_hw_intel has no device in guest {}", guest.side()));
    names.split_whitespace().next().map(ToOwned::to_owned).ok_or_else(none)
}

/// Gives a network device its address and switches it on.
///
/// # Errors
/// When there is no device.
pub fn configure(guest: &Guest, network: Network) -> anyhow::Result<()> {
    let device = network_device(guest, network)?;
    let address = network.address(guest.side());
    guest.sh(&format!("ip addr replace {address}/24 dev {device} && ip link set {device} up"))?;
    Ok(())
}

/// Waits for a carrier at a guest's network device, or for its absence.
///
/// # Errors
/// Blames the thing under test at the deadline.
pub fn wait_carrier(guest: &Guest, network: Network, carrier: bool) -> anyhow::Result<()> {
    let device = network_device(guest, network)?;
    let word = if carrier { "1" } else { "!1" };
    let line = format!("{SELF} lab agent wait {CARRIER_SECONDS} /sys/class/net/{device}/carrier {word}");
    guest.sh_for(&line, Duration::from_secs(60))?;
    Ok(())
}

/// Loads the drivers on both sides, `first` first, and waits until the network has a carrier; with `dma` they copy by
/// the I/OAT engine.
///
/// # Errors
/// Blames the thing under test when the link or the carrier does not come.
pub fn bring_up(pair: &mut Pair, first: Side, dma: bool) -> anyhow::Result<CameUp> {
    let begin = |guest: &Guest| {
        load(guest, dma)?;
        configure(guest, Network::Bridge)
    };
    let (begun, link) = train(pair, first, begin)?;
    for guest in pair.guests() {
        wait_carrier(guest, Network::Bridge, true)?;
    }
    Ok(CameUp { link_ms: millis(link), carrier_ms: millis(begun.elapsed()) })
}

/// Starts a client driver on both sides, `first` first, and waits until the twin's link is up: when the second was
/// started, and how long it took from there.
///
/// # Errors
/// Blames the thing under test when the link does not come.
pub fn train(
    pair: &mut Pair,
    first: Side,
    begin: impl Fn(&Guest) -> anyhow::Result<()>,
) -> anyhow::Result<(Instant, Duration)> {
    let mut watch = pair.twin().watch()?;
    let deadline = Instant::now() + LINK;
    begin(pair.guest(first))?;
    let second = pair.guest(first.other());
    second.sh("modprobe ntb_hw_intel")?;
    let begun = Instant::now();
    // The twin is watched from a thread of its own: its link may be up before the guest's command ends.
    let link_up = std::thread::spawn(move || {
        let up = |event: &Event| matches!(event, Event::Link { state: LinkState::Up, .. });
        watch.wait_for(deadline, up).map(|_| Instant::now())
    });
    begin(second)?;
    let link_up = link_up.join().map_err(|_| failed("the thread that watched the link died"))?;
    let link_up = link_up.map_err(|error| failed(format!("the link does not come up: {error:#}")))?;
    Ok((begun, link_up.duration_since(begun)))
}

/// A duration in whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Pings the other guest; loses nothing or blames the thing under test.
///
/// # Errors
/// When an answer is missing.
pub fn ping(guest: &Guest, network: Network, count: u32) -> anyhow::Result<Ping> {
    let to = network.address(guest.side().other());
    let time = Duration::from_secs(30 + u64::from(count));
    let captured = guest.run_for(&format!("ping -c {count} -i 0.1 -W 5 {to}"), time)?;
    let text = captured.text();
    let read = parse::ping(&text).ok_or_else(|| {
        failed(format!("ping in guest {} says: {text}{}", guest.side(), captured.error_text()))
    })?;
    if read.received != read.sent || read.sent != count {
        // Which end lost them: ntb_transport and the device count.
        let counters = "cat /sys/kernel/debug/ntb_transport/*/qp0/stats; ip -s link; true";
        let counters = guest.run_for(counters, COUNTERS).map_or_else(|_| String::new(), |said| said.text());
        let side = guest.side();
        return Err(failed(format!("ping from guest {side} lost answers: {}\n{counters}", text.trim())));
    }
    Ok(read)
}
