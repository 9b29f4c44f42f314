//! What socket programs get: iperf3 between two network namespaces, over four ways by turns.
//!
//! ```text
//!   isthmus net   TAP ── isthmus net ══ twin ══ isthmus net ── TAP
//!   TAP to TAP    TAP ── read, write ── TAP        what two TAPs cost without us
//!   veth          the kernel's own pair            what no TAP costs
//!   loopback      within one namespace             what no way costs
//! ```

use super::{Rows, SIZES, bytes};
use crate::lab::progress::Progress;
use crate::perf::report::Row;
use crate::soak::world::{Options, Side, World};
use anyhow::{Context, bail, ensure};
use netdev::namespace::{Namespace, enter};
use netdev::{MTU_MAX, MacAddress, Offload, Tap, TapOptions, TapQueue};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// iperf3's longest buffer.
const LONGEST: usize = 1 << 20;

/// One way between the two namespaces.
struct Way {
    name: &'static str,
    /// Where its server listens.
    address: &'static str,
    server: Side,
}

/// The reference is the third.
const WAYS: [Way; 4] = [
    Way { name: "isthmus net", address: "10.9.0.2", server: Side::B },
    Way { name: "TAP to TAP", address: "10.9.1.2", server: Side::B },
    Way { name: VETH, address: "10.9.2.2", server: Side::B },
    Way { name: "loopback", address: "127.0.0.1", server: Side::A },
];
const VETH: &str = "veth";

/// Whether this machine permits it, and if not, why.
pub(super) fn permitted() -> anyhow::Result<()> {
    let iperf3 = Command::new("iperf3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(iperf3.is_ok_and(|status| status.success()), "there is no iperf3: apt-get install iperf3");
    Namespace::new()?;
    ensure!(Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun");
    Ok(())
}

pub(super) fn measure(time: Duration, rows: &mut Rows, progress: &Progress) -> anyhow::Result<()> {
    let options =
        Options { mtu: MTU_MAX, window: "direct".to_owned(), profile: cells::Profile::Fast.to_string() };
    let world = World::build(&options)?;
    let _taps = Taps::join(&world)?;
    add_veth(&world)?;
    let _servers = WAYS.iter().map(|way| Server::start(&world, way)).collect::<anyhow::Result<Vec<_>>>()?;
    for size in SIZES.map(bytes).filter(|&size| size <= LONGEST) {
        progress.tell(&format!("iperf3 with buffers of {} KiB", size >> 10));
        let mut rates = Vec::new();
        for way in &WAYS {
            rates.push((way.name, way.measure(&world, size, time).with_context(|| way.name)?));
        }
        let veth = rates.iter().find(|(name, _)| *name == VETH).map_or(0.0, |&(_, rate)| rate);
        rows.extend(rates.into_iter().map(|(name, rate)| Row {
            name: name.to_owned(),
            bytes: size,
            value: rate,
            unit: "MB/s",
            reference: VETH,
            reference_value: veth,
            ratio: rate / veth,
            class: "sockets",
            windows: 1,
        }));
    }
    Ok(())
}

/// A command in a host's namespace.
fn command(world: &World, side: Side, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", world.namespace(side).display())).arg(program).stdin(Stdio::null());
    command
}

impl Way {
    /// MB/s that arrive, in buffers of so many bytes.
    fn measure(&self, world: &World, size: usize, time: Duration) -> anyhow::Result<f64> {
        // iperf3 knows whole seconds.
        let seconds = time.as_secs().max(1);
        let output = command(world, Side::A, "iperf3")
            .args(["--client", self.address, "--json", "--connect-timeout", "5000"])
            .args(["--time", &seconds.to_string(), "--length", &size.to_string()])
            .output()?;
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("iperf3 says nothing")?;
        match report.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64) {
            Some(bits) if bits > 0.0 => Ok(bits / 8e6),
            _ => {
                bail!("iperf3 measured nothing: {}", report.get("error").unwrap_or(&serde_json::Value::Null))
            }
        }
    }
}

/// An iperf3 that serves one client after the other; it ends with this value.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(world: &World, way: &Way) -> anyhow::Result<Self> {
        let child = command(world, way.server, "iperf3")
            .args(["--server", "--bind", way.address, "--forceflush"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut server = Self(child);
        let mut output = BufReader::new(server.0.stdout.take().context("a server without output")?).lines();
        loop {
            let line = output.next().with_context(|| format!("no iperf3 at {}", way.address))??;
            if line.contains("listening") {
                break;
            }
        }
        // What else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || output.for_each(drop));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn add_veth(world: &World) -> anyhow::Result<()> {
    let there = world.namespace(Side::B).display().to_string();
    let ip = |side: Side, arguments: &[&str]| -> anyhow::Result<()> {
        let output = command(world, side, "ip").args(arguments).output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), why.trim());
        Ok(())
    };
    ip(Side::A, &["link", "add", VETH, "type", "veth", "peer", "name", VETH, "netns", &there])?;
    for (side, address) in [(Side::A, "10.9.2.1/24"), (Side::B, "10.9.2.2/24")] {
        ip(side, &["address", "add", address, "dev", VETH])?;
        ip(side, &["link", "set", VETH, "up"])?;
    }
    Ok(())
}

/// Two TAPs, joined by a loop in each direction that reads a frame and writes it.
#[derive(Debug)]
struct Taps {
    stop: Arc<OwnedFd>,
    loops: Vec<JoinHandle<()>>,
    _taps: [Tap; 2],
}

impl Taps {
    fn join(world: &World) -> anyhow::Result<Self> {
        let (a, queue_a) = tap(world.namespace(Side::A), Ipv4Addr::new(10, 9, 1, 1))?;
        let (b, queue_b) = tap(world.namespace(Side::B), Ipv4Addr::new(10, 9, 1, 2))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (queue_a, queue_b) = (Arc::new(queue_a), Arc::new(queue_b));
        let loops = [(&queue_a, &queue_b), (&queue_b, &queue_a)].map(|(from, to)| {
            let (from, to, stop) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stop));
            std::thread::spawn(move || {
                if let Err(errno) = pass_on(&from, &to, &stop) {
                    tracing::error!(%errno, "the plain loop between two TAPs ended");
                }
            })
        });
        Ok(Self { stop, loops: loops.into(), _taps: [a, b] })
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        let _rung = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        for each in self.loops.drain(..) {
            let _ended = each.join();
        }
    }
}

/// A TAP in a namespace, with the offload that `isthmus net` has: no checksums.
fn tap(namespace: &Path, address: Ipv4Addr) -> anyhow::Result<(Tap, TapQueue)> {
    let options = TapOptions {
        name: "plain0".to_owned(),
        mac: MacAddress::random(),
        mtu: MTU_MAX,
        address: Some((address, 24)),
        queues: 1,
        queue_frames: 1000,
    };
    let inside = std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> anyhow::Result<(Tap, Vec<TapQueue>)> {
            enter(namespace)?;
            Ok(Tap::open(&options)?)
        });
        inside.join()
    });
    let Ok(opened) = inside else { bail!("a TAP was not made") };
    let (tap, queues) = opened?;
    tap.set_offload(Offload::Checksum)?;
    tap.set_carrier(true)?;
    Ok((tap, queues.into_iter().next().context("a TAP without a queue")?))
}

/// Reads frames, virtio header and all, and writes them as they are.
fn pass_on(from: &TapQueue, to: &TapQueue, stop: &OwnedFd) -> Result<(), Errno> {
    let mut frame = vec![0; 1 << 17];
    loop {
        match rustix::io::read(from, &mut frame) {
            Ok(bytes) => {
                rustix::io::write(to, frame.get(..bytes).unwrap_or_default())?;
            }
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
                poll(&mut fds, None)?;
                let [_, stop] = &fds;
                if !stop.revents().is_empty() {
                    return Ok(());
                }
            }
            Err(errno) => return Err(errno),
        }
    }
}
