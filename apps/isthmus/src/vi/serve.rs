//! `isthmus vi serve`: holds a host's port, and gives its virtual interfaces to other processes.

use crate::Outcome;
use crate::net::Address;
use anyhow::Context;
use netdev::{MacAddress, Tap, TapOptions};
use ntb::{Gen3, VfioUser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use vi::lane::Geometry;
use vi_service::{Service, ServiceOptions, ServiceStatus};

/// Hold a host's port, and give its virtual interfaces to other processes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  isthmus twin --port-a /tmp/a.sock --port-b /tmp/b.sock --control /tmp/twin.sock --window direct --mw-size 16M &
  isthmus vi serve --port /tmp/a.sock --control /tmp/twin.sock --socket /tmp/vi-a.sock --tap vi0 --addr 10.9.0.1/24

What no filter takes goes to the TAP, and what the kernel sends there goes to whom the peer's filters say. Frames between clients do
not pass this process. It takes a twin whose windows are direct: a BAR of a real device cannot be divided. It runs until SIGTERM
or SIGINT, and prints what it has counted.")]
pub(crate) struct Arguments {
    /// Socket of the twin's port that this host takes
    #[arg(long, value_name = "PATH")]
    port: PathBuf,
    /// The twin's control socket
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Where clients connect: their user has to be this one, or in its group
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Name of the kernel's interface, which vi%d lets the kernel number; without it what no filter takes is dropped. Takes
    /// CAP_NET_ADMIN
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// IPv4 address of the kernel's interface, and the length of its network's prefix
    #[arg(long, value_name = "ADDRESS/PREFIX", requires = "tap")]
    addr: Option<Address>,
    /// Network namespace that the kernel's interface is made in
    #[arg(long, value_name = "PATH", requires = "tap")]
    netns: Option<PathBuf>,
    /// Ethernet address of this host; one is made up if there is none
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddress>,
    /// Greatest IP packet in bytes; the link uses the lesser of both ends'
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u32,
    /// Lanes in each direction: one from each sending to each receiving interface, kernels included; the same at both ends
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(4..=96))]
    lanes: u16,
    /// Slots of a lane, a power of two; the same at both ends
    #[arg(long, value_name = "N", default_value_t = 256)]
    slots: u32,
    /// Receive buffers of a lane, for frames of more than 120 bytes; the same at both ends
    #[arg(long, value_name = "N", default_value_t = 128)]
    buffers: u32,
    /// Bytes of one buffer, a multiple of 64; the same at both ends
    #[arg(long, value_name = "BYTES", default_value_t = 2048)]
    buffer_bytes: u32,
    /// Times on every frame, and the peer's clock measured over the link; the same at both ends. A frame of up to 52 bytes, not 60, then fits
    /// one cache line
    #[arg(long)]
    stamps: bool,
    /// Print one JSON object when it is ready, and one with all counters at the end
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    // Before anybody can see that it runs, and send SIGTERM.
    let stop = crate::stop::on_signal().context("SIGTERM and SIGINT cannot be watched")?;
    // Lanes and clients are descriptors, and many systems let a process have a thousand unless it asks for more.
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "no more descriptors than {:?}", limit.current);
    }
    if let Some(path) = &arguments.netns {
        netdev::namespace::enter(path)
            .with_context(|| format!("cannot enter the network namespace {}", path.display()))?;
    }
    let mac = arguments.mac.unwrap_or_else(MacAddress::random);
    let tap = arguments.tap.as_ref().map(|name| open_tap(name, mac, arguments)).transpose()?;
    let name = tap.as_ref().map(|(tap, _)| tap.name().to_owned());
    let function = VfioUser::connect(&arguments.port, Some(&arguments.control))
        .with_context(|| format!("cannot attach to the port at {}", arguments.port.display()))?;
    let bridge = Arc::new(Gen3::open(Arc::new(function)).context("the port cannot be driven")?);
    let Arguments { slots, buffers, buffer_bytes, lanes, mtu, .. } = *arguments;
    let geometry =
        Geometry { slots, buffers, buffer_bytes, region: 0, wakes: true, stamps: arguments.stamps };
    let socket = arguments.socket.clone();
    let mut service =
        Service::open(bridge, ServiceOptions { socket, tap, mac, mtu, geometry, lanes, clock: None })?;
    let ready = serde_json::json!({
        "ready": true, "pid": std::process::id(), "socket": arguments.socket, "interface": name, "mac": mac.to_string(),
    });
    let interface = name.as_deref().unwrap_or("no kernel");
    super::tell(
        arguments.json,
        &ready,
        &format!("ready: clients at {} ({mac}, {interface})", arguments.socket.display()),
    )?;
    let served = service.run(stop.as_fd());
    let status = service.status();
    super::tell(arguments.json, &status, &show(&status))?;
    served?;
    Ok(Outcome::Done)
}

fn open_tap(name: &str, mac: MacAddress, arguments: &Arguments) -> anyhow::Result<(Tap, netdev::TapQueue)> {
    let (tap, queues) = Tap::open(&TapOptions {
        name: name.to_owned(),
        mac,
        mtu: arguments.mtu,
        address: arguments.addr.map(|Address { host, prefix }| (host, prefix)),
        queues: 1,
        queue_frames: 1000,
    })?;
    let queue = queues.into_iter().next().context("the TAP has no queue")?;
    Ok((tap, queue))
}

fn show(status: &ServiceStatus) -> String {
    let ServiceStatus { adapter, kernel, came, sent_away, .. } = status;
    let clock = status.clock.map_or_else(String::new, |clock| {
        format!(
            "\nthe peer's clock: {:+} ns to this one, ± {} ns, in {} exchanges; set {} times since",
            clock.offset_ns, clock.bound_ns, adapter.clock_exchanges, adapter.clock_jumps
        )
    });
    format!(
        "kernel: {} frames to it, {} from it, {} refused, {} dropped for want of room\n\
         lanes: {} made, {} failed, short of them {} times; peer: came {} times, {} messages made no sense\n\
         clients: {came} came, {sent_away} were sent away{clock}",
        kernel.to_kernel,
        kernel.from_kernel,
        kernel.refused,
        kernel.dropped,
        adapter.lanes_made,
        adapter.lanes_failed,
        adapter.lanes_short,
        adapter.links,
        adapter.nonsense,
    )
}
