//! The service: set-up, a thread for each queue, and the loop that waits for the end.

use super::metrics::Outlet;
use super::report::{Identity, Report, show};
use super::{Address, Arguments};
use crate::Outcome;
use anyhow::{Context, anyhow};
use netdev::{
    Counters, FrameLink, Interface, LINUX_MTU_MAX, LinuxLink, MacAddress, Offer, PortOptions, Pump,
    QueueWatcher, Tap, TapOptions, TapQueue, open_cells,
};
use ntb::{Bridge, Speed, Width};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use sd_notify::NotifyState;
use serde_json::json;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a twin is asked for the link while nothing moves.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often the metrics file is written.
const FILE_PERIOD: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

pub(super) fn run(arguments: &Arguments, stop: &UnixStream, flap: &UnixStream) -> anyhow::Result<Outcome> {
    let mac = arguments.mac.unwrap_or_else(MacAddress::random);
    let outlet = arguments.metrics.as_ref().map(Outlet::open).transpose()?;
    let mtu = if arguments.linux { arguments.mtu.min(LINUX_MTU_MAX) } else { arguments.mtu };
    // First the interface, which fails most often, then the port, which the peer sees.
    let (tap, queues) = Tap::open(&TapOptions {
        name: arguments.tap.clone(),
        mac,
        mtu,
        address: arguments.addr.map(|Address { host, prefix }| (host, prefix)),
        queues: arguments.queues.into(),
        queue_frames: arguments.queue_frames,
    })?;
    let bridge = arguments.port.open()?;
    let links = links(
        &bridge,
        arguments,
        Offer { mac, mtu, offload: arguments.offload.into(), queues: arguments.queues },
    )?;
    let (interface, watchers) = Interface::new(tap, queues.len());
    let patience = Duration::from_micros(arguments.poll_us);
    let pumps = Pumps::start(queues, links, watchers, patience)?;
    let identity =
        Identity { mac: mac.to_string(), address: arguments.addr.map(|address| address.to_string()) };
    let report = || {
        let counts: Vec<_> = pumps.counters.iter().map(|counters| counters.read()).collect();
        Report::of(&identity, &interface, &counts)
    };
    announce(arguments, &report())?;
    let told = Told { stop, ended: &pumps.ended, flap };
    let ended = wait(&told, &*bridge, outlet.as_ref(), report);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let last = report();
    let joined = pumps.stop();
    if arguments.json {
        crate::out::say!("{}", serde_json::to_string(&last)?);
    } else {
        crate::out::write(format_args!("{}", show(&last)));
    }
    ended?;
    joined?;
    tracing::info!("stopped");
    Ok(Outcome::Done)
}

/// A link for each queue.
fn links(
    bridge: &Arc<dyn Bridge>,
    arguments: &Arguments,
    offer: Offer,
) -> anyhow::Result<Vec<Box<dyn FrameLink>>> {
    if arguments.linux {
        return Ok(vec![Box::new(LinuxLink::open(Arc::clone(bridge), &offer)?)]);
    }
    let options = PortOptions { offer, profile: arguments.profile.into(), heartbeat: HEARTBEAT };
    let links = open_cells(Arc::clone(bridge), &options)?;
    Ok(links.into_iter().map(|link| Box::new(link) as Box<dyn FrameLink>).collect())
}

/// The threads.
struct Pumps {
    counters: Vec<Arc<Counters>>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
    /// Never read: once it is written, all see it.
    stop: Arc<OwnedFd>,
    /// Readable when one of them has ended.
    ended: Arc<OwnedFd>,
}

impl Pumps {
    fn start(
        queues: Vec<TapQueue>,
        links: Vec<Box<dyn FrameLink>>,
        watchers: Vec<QueueWatcher>,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC).map(Arc::new);
        let mut pumps = Self { counters: Vec::new(), threads: Vec::new(), stop: new()?, ended: new()? };
        for (number, ((queue, link), watcher)) in queues.into_iter().zip(links).zip(watchers).enumerate() {
            let mut pump = Pump::new(queue, link, watcher, patience);
            pumps.counters.push(pump.counters());
            let (stop, ended) = (Arc::clone(&pumps.stop), Arc::clone(&pumps.ended));
            let thread = std::thread::Builder::new().name(format!("queue {number}")).spawn(move || {
                let result = pump.run(stop.as_fd());
                ring(&ended);
                result
            })?;
            pumps.threads.push(thread);
        }
        Ok(pumps)
    }

    /// Ends them all; the first that failed says why.
    fn stop(self) -> anyhow::Result<()> {
        ring(&self.stop);
        let mut result = Ok(());
        for thread in self.threads {
            let ended = match thread.join() {
                Ok(ended) => ended.map_err(anyhow::Error::from),
                Err(_) => Err(anyhow!("a queue's thread panicked")),
            };
            if result.is_ok() {
                result = ended;
            }
        }
        result
    }
}

fn ring(bell: &OwnedFd) {
    // It can fail only where the count is at its end, and then it is readable anyway.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// Says that the interface is there: on stdout, and to the service manager.
fn announce(arguments: &Arguments, report: &Report) -> anyhow::Result<()> {
    let Report { interface, mac, pid, .. } = report;
    let address = arguments.addr.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    let port = arguments.port.to_string();
    if arguments.json {
        let ready = json!({"ready": true, "pid": pid, "interface": interface, "mac": mac, "address": report.address, "port": port});
        crate::out::say!("{}", serde_json::to_string(&ready)?);
    } else {
        crate::out::say!("ready: {interface} ({mac}, {address}) at {port}");
    }
    let status = format!("{interface} at {port}");
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]) {
        tracing::warn!(%error, "the service manager was not told");
    }
    Ok(())
}

/// Who tells the service what to do.
struct Told<'a> {
    /// A signal says to end.
    stop: &'a UnixStream,
    /// A queue has ended.
    ended: &'a OwnedFd,
    /// A signal says to take the link down and up again.
    flap: &'a UnixStream,
}

/// Until a signal comes, or a queue has ended.
fn wait(
    told: &Told<'_>,
    bridge: &dyn Bridge,
    outlet: Option<&Outlet>,
    report: impl Fn() -> Report,
) -> anyhow::Result<()> {
    loop {
        let Told { stop, ended, mut flap } = *told;
        let listener = outlet.and_then(Outlet::listener);
        let mut waited_for = vec![
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
            PollFd::new(flap, PollFlags::IN),
        ];
        waited_for.extend(listener.map(|listener| PollFd::from_borrowed_fd(listener, PollFlags::IN)));
        let period = (outlet.is_some() && listener.is_none()).then_some(&FILE_PERIOD);
        match poll(&mut waited_for, period) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting failed"),
        }
        let ready: Vec<bool> = waited_for.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is_ready = |at: usize| ready.get(at).copied().unwrap_or_default();
        if is_ready(0) || is_ready(1) {
            return Ok(());
        }
        if is_ready(2) {
            // One byte for each signal.
            let _ = flap.read(&mut [0]);
            tracing::info!("the link is taken down and up again");
            bridge.link_disable()?;
            bridge.link_enable(Speed::Auto, Width::Auto)?;
        }
        if let Some(outlet) = outlet
            && (listener.is_none() || is_ready(3))
        {
            outlet.serve(&report);
        }
    }
}
