//! What the network across the bridge reaches, and beside it virtio-net between the same guests.

use super::parse;
use super::report::{Iperf, Link, Ping, Rtt, VirtioNet};
use crate::channel::{Event, Exec, capture};
use crate::options::Side;
use crate::pair::Pair;
use crate::steps::{self, Network};
use crate::trouble::failed;
use anyhow::Context;
use std::time::{Duration, Instant};

/// Echo requests.
const PINGS: u32 = 50;
/// Seconds of each iperf3 run.
const IPERF_SECONDS: u32 = 4;
/// What UDP offers, in bits a second: more than a trapped window carries.
pub(super) const UDP_OFFER: &str = "100M";

/// Everything about networks.
pub(super) struct Measured {
    pub(super) link: Link,
    pub(super) ping: Ping,
    pub(super) iperf3: Vec<Iperf>,
    pub(super) virtio_net: Option<VirtioNet>,
}

/// What ntb_transport and its network device reach; `at_rest` is called between the runs, with the network still up.
/// The drivers of the network are gone afterwards.
pub(super) fn measure(
    pair: &mut Pair,
    tell: &mut dyn FnMut(&str),
    at_rest: impl FnOnce(&mut Pair, Option<&VirtioNet>, &mut dyn FnMut(&str)) -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let (dma, virtio) = (pair.plan().options.dma, pair.plan().options.virtio_net);
    let came_up = steps::bring_up(pair, Side::A, false)?;
    let link = Link { up: true, ms_to_up: came_up.link_ms, ms_to_carrier: Some(came_up.carrier_ms) };
    tell("ping");
    let ping = measure_ping(pair, Network::Bridge)?;
    let virtio_ping = if virtio { Some(bring_up_virtio(pair)?) } else { None };
    let (mut iperf3, mut beside) = (Vec::new(), Vec::new());
    for from in Side::BOTH {
        tell(&format!("iperf3 tcp from {from}"));
        iperf3.push(measure_iperf(pair, Network::Bridge, "tcp", from)?);
        if virtio {
            beside.push(measure_iperf(pair, Network::Virtio, "tcp", from)?);
        }
    }
    let sum = |rows: &[Iperf]| rows.iter().map(|row| row.mbits_per_s).sum::<f64>();
    let virtio_net = virtio_ping.map(|ping| {
        let tcp_ratio = sum(&iperf3) / sum(&beside).max(f64::MIN_POSITIVE);
        VirtioNet { ping, iperf3: beside, tcp_ratio }
    });
    for from in Side::BOTH {
        tell(&format!("iperf3 udp from {from}"));
        iperf3.push(measure_iperf(pair, Network::Bridge, "udp", from)?);
    }
    at_rest(pair, virtio_net.as_ref(), tell)?;
    unload(pair)?;
    if dma {
        tell("network by DMA");
        steps::bring_up(pair, Side::A, true)?;
        measure_ping(pair, Network::Bridge)?;
        for from in Side::BOTH {
            tell(&format!("iperf3 tcp by DMA from {from}"));
            iperf3.push(Iperf { dma: true, ..measure_iperf(pair, Network::Bridge, "tcp", from)? });
        }
        unload(pair)?;
    }
    Ok(Measured { link, ping, iperf3, virtio_net })
}

fn unload(pair: &Pair) -> anyhow::Result<()> {
    pair.guests().iter().try_for_each(|guest| steps::unload(guest, false))
}

fn bring_up_virtio(pair: &Pair) -> anyhow::Result<Ping> {
    for guest in pair.guests() {
        guest.sh("modprobe virtio_net")?;
        steps::configure(guest, Network::Virtio)?;
    }
    for guest in pair.guests() {
        steps::wait_carrier(guest, Network::Virtio, true)?;
    }
    measure_ping(pair, Network::Virtio)
}

fn measure_ping(pair: &Pair, network: Network) -> anyhow::Result<Ping> {
    let guest = pair.guest(Side::A);
    // The first answer waits for address resolution, which is not what is measured.
    steps::ping(guest, network, 1)?;
    let read = steps::ping(guest, network, PINGS)?;
    let (min, avg, max) = read.rtt_ms.ok_or_else(|| failed("ping says nothing of its times"))?;
    let rtt_us = Rtt { min: min * 1e3, avg: avg * 1e3, max: max * 1e3 };
    Ok(Ping { sent: read.sent, received: read.received, rtt_us })
}

/// One run of iperf3.
pub(super) fn measure_iperf(
    pair: &Pair,
    network: Network,
    proto: &'static str,
    from: Side,
) -> anyhow::Result<Iperf> {
    let to = from.other();
    let limit = Duration::from_secs(60);
    let deadline = Instant::now() + limit;
    // The server serves one client, and says when it listens.
    let mut server = pair.guest(to).mux().exec(&Exec::shell("exec iperf3 -s -1 --forceflush"))?;
    let mut said = String::new();
    while !said.contains("listening") {
        match server.next_event_before(deadline) {
            Some(Event::Data(_, bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Event::End(_)) => {}
            other => return Err(failed(format!("iperf3 does not serve in guest {to}: {other:?} {said}"))),
        }
    }
    let address = network.address(to);
    let how = if proto == "udp" { format!(" -u -b {UDP_OFFER}") } else { String::new() };
    let line = format!("iperf3 -c {address} -t {IPERF_SECONDS} --json{how}");
    let client = pair.guest(from).run_for(&line, limit)?;
    let read = parse::iperf3(&client.text()).map_err(|error| {
        failed(format!("iperf3 {proto} from {from} to {to}: {error} {}", client.error_text()))
    })?;
    server.writer().signal(15)?;
    capture(server, deadline).context("iperf3's server does not end")?;
    Ok(Iperf {
        proto,
        from: from.name(),
        to: to.name(),
        dma: false,
        mbits_per_s: read.mbits_per_s,
        lost_percent: read.lost_percent,
        retransmits: read.retransmits,
    })
}
