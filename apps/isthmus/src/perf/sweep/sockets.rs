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
use crate::perf::iperf::{self, Server, add_veth};
use crate::perf::report::Row;
use crate::soak::world::{Options, Side, World};
use anyhow::{Context, bail, ensure};
use netdev::namespace::{Namespace, enter};
use netdev::{MTU_MAX, MacAddress, Offload, Tap, TapOptions, TapQueue};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
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
/// Its MTU if nobody changes it, in bytes.
const VETH_MTU: u32 = 1500;

/// Whether this machine permits it, and if not, why.
pub(super) fn permitted() -> anyhow::Result<()> {
    let iperf3 = Command::new("iperf3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(iperf3.is_ok_and(|status| status.success()), "there is no iperf3: apt-get install iperf3");
    Namespace::new()?;
    ensure!(Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun");
    Ok(())
}

pub(super) fn measure(time: Duration, rows: &mut Rows, progress: &Progress) -> anyhow::Result<()> {
    let options = Options {
        mtu: MTU_MAX,
        window: "direct".to_owned(),
        profile: cells::Profile::Fast.to_string(),
        processor: None,
    };
    let world = World::build(&options)?;
    let _taps = Taps::join(&world)?;
    add_veth(&world, VETH, 2, VETH_MTU)?;
    let _servers = WAYS
        .iter()
        .map(|way| Server::start(&world, way.server, way.address))
        .collect::<anyhow::Result<Vec<_>>>()?;
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

impl Way {
    /// MB/s that arrive, in buffers of so many bytes.
    fn measure(&self, world: &World, size: usize, time: Duration) -> anyhow::Result<f64> {
        // iperf3 knows whole seconds.
        let seconds = time.as_secs().max(1);
        let arguments = ["--time", &seconds.to_string(), "--length", &size.to_string()];
        Ok(iperf::tcp(world, self.address, &arguments)? / 8e6)
    }
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
