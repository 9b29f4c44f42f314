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
/// The modules of the network device, in order of loading.
const NETWORK: [&str; 3] = ["ntb_hw_intel", "ntb_transport", "ntb_netdev"];

/// How fast a link came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameUp {
    /// The twin's link.
    pub link_ms: u64,
    /// A carrier at both network devices.
    pub carrier_ms: u64,
}

/// The address of a guest on the network across the bridge.
#[must_use]
pub fn address(side: Side) -> &'static str {
    match side {
        Side::A => "10.0.77.1",
        Side::B => "10.0.77.2",
    }
}

/// Loads the drivers of the network device.
///
/// # Errors
/// Blames the driver or the device when a module does not load.
pub fn load(guest: &Guest) -> anyhow::Result<()> {
    for module in NETWORK {
        guest.sh(&format!("modprobe {module}"))?;
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

/// The name of the network device that ntb_netdev made: the lab gives a guest no other.
///
/// # Errors
/// When there is none.
pub fn network_device(guest: &Guest) -> anyhow::Result<String> {
    let names = guest.sh("ls /sys/class/net")?;
    let found = names.split_whitespace().find(|name| name.starts_with("eth") || name.starts_with("en"));
    let none = || failed(format!("guest {} has no network device, only: {}", guest.side(), names.trim()));
    found.map(ToOwned::to_owned).ok_or_else(none)
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

/// Gives the network device its address and switches it on.
///
/// # Errors
/// When there is no device.
pub fn configure(guest: &Guest) -> anyhow::Result<()> {
    let device = network_device(guest)?;
    let address = address(guest.side());
    guest.sh(&format!("ip addr replace {address}/24 dev {device} && ip link set {device} up"))?;
    Ok(())
}

/// Waits for a carrier at a guest's network device, or for its absence.
///
/// # Errors
/// Blames the thing under test at the deadline.
pub fn wait_carrier(guest: &Guest, carrier: bool) -> anyhow::Result<()> {
    let device = network_device(guest)?;
    let word = if carrier { "1" } else { "!1" };
    let line = format!("{SELF} lab agent wait {CARRIER_SECONDS} /sys/class/net/{device}/carrier {word}");
    guest.sh_for(&line, Duration::from_secs(60))?;
    Ok(())
}

/// Loads the drivers on both sides, `first` first, and waits until the network has a carrier.
///
/// # Errors
/// Blames the thing under test when the link or the carrier does not come.
pub fn bring_up(pair: &mut Pair, first: Side) -> anyhow::Result<CameUp> {
    let begin = |guest: &Guest| {
        load(guest)?;
        configure(guest)
    };
    let (begun, link) = train(pair, first, begin)?;
    for guest in pair.guests() {
        wait_carrier(guest, true)?;
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
pub fn ping(guest: &Guest, count: u32) -> anyhow::Result<Ping> {
    let to = address(guest.side().other());
    let time = Duration::from_secs(30 + u64::from(count));
    let captured = guest.run_for(&format!("ping -c {count} -i 0.2 -W 5 {to}"), time)?;
    let text = captured.text();
    let read = parse::ping(&text).ok_or_else(|| {
        failed(format!("ping in guest {} says: {text}{}", guest.side(), captured.error_text()))
    })?;
    if read.received != read.sent || read.sent != count {
        return Err(failed(format!("ping from guest {} lost answers: {}", guest.side(), text.trim())));
    }
    Ok(read)
}
