//! `lab perf`: what two stock guests reach across the twin.

pub mod parse;
mod pattern;
pub mod report;

use crate::channel::{Event, Exec, capture};
use crate::health;
use crate::options::Side;
use crate::pair::Pair;
use crate::steps;
use crate::trouble::failed;
use anyhow::Context;
use control::StoreMode;
use parse::NtbPerf;
use report::{Discard, Iperf, Link, Ping, Report, Rtt};
use std::time::{Duration, Instant};

/// Echo requests.
const PINGS: u32 = 50;
/// Seconds of each iperf3 run.
const IPERF_SECONDS: u32 = 5;
/// What UDP offers, in megabits a second: more than a trapped window carries.
const UDP_OFFER: &str = "100M";
/// 2 to this power bytes a run of ntb_perf.
const ORDER: u32 = 25;
/// Runs of ntb_perf a direction and mode, alternating.
const ROUNDS: u32 = 3;
/// What delivery must reach of what dropping reaches.
const LEAST_RATIO: f64 = 0.5;
/// What a far simpler server reached, in megabytes a second.
const LEAST_RATE: f64 = 42.0;

/// Measures everything; `tell` hears what is being done.
///
/// # Errors
/// Blames the thing under test where it does not do what it should.
pub fn measure(pair: &mut Pair, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    tell("link");
    let came_up = steps::bring_up(pair, Side::A)?;
    let link = Link { up: true, ms_to_up: came_up.link_ms, ms_to_carrier: came_up.carrier_ms };
    tell("ping");
    let ping = measure_ping(pair)?;
    let mut iperf3 = Vec::new();
    for proto in ["tcp", "udp"] {
        for from in Side::BOTH {
            tell(&format!("iperf3 {proto} from {from}"));
            iperf3.push(measure_iperf(pair, proto, from)?);
        }
    }
    for guest in pair.guests() {
        steps::unload(guest, false)?;
    }
    let (mut ntb_perf, mut ntb_perf_discard) = (Vec::new(), Vec::new());
    load_ntb_perf(pair)?;
    for from in Side::BOTH {
        tell(&format!("ntb_perf from {from}"));
        let (delivered, discarded) = measure_stores(pair, from)?;
        ntb_perf.push(delivered);
        ntb_perf_discard.push(discarded);
    }
    for guest in pair.guests() {
        guest.sh("rmmod ntb_perf")?;
    }
    tell("pattern");
    let pattern = pattern::check(pair)?;
    health::check(pair)?;
    let plan = pair.plan();
    let (major, minor, micro) = plan.qemu.version;
    Ok(Report {
        qemu: format!("{major}.{minor}.{micro}"),
        kernel: pair.guest(Side::A).hello().release.clone(),
        accel: pair.accel().to_string(),
        window: plan.options.window.to_string(),
        window_bytes: plan.options.window_bytes,
        link,
        ping,
        ntb_perf,
        ntb_perf_discard,
        iperf3,
        pattern,
    })
}

/// What a report says that it must not: a sentence each.
#[must_use]
pub fn shortcomings(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for (row, ceiling) in report.ntb_perf.iter().zip(&report.ntb_perf_discard) {
        let way = format!("{} to {}", row.from, row.to);
        if row.delivered_bytes < row.bytes {
            found
                .push(format!("{way}: ntb_perf stored {} bytes, {} arrived", row.bytes, row.delivered_bytes));
        }
        if ceiling.delivered_ratio < LEAST_RATIO {
            let ratio = ceiling.delivered_ratio;
            found.push(format!("{way}: delivery reaches {ratio:.2} of a twin that drops, not {LEAST_RATIO}"));
        }
        if row.delivered_mbytes_per_s < LEAST_RATE {
            let rate = row.delivered_mbytes_per_s;
            found.push(format!("{way}: {rate:.1} MB/s are less than the {LEAST_RATE} of a naive server"));
        }
    }
    found
}

fn measure_ping(pair: &Pair) -> anyhow::Result<Ping> {
    let guest = pair.guest(Side::A);
    // The first answer waits for address resolution, which is not what is measured.
    steps::ping(guest, 1)?;
    let read = steps::ping(guest, PINGS)?;
    let (min, avg, max) = read.rtt_ms.ok_or_else(|| failed("ping says nothing of its times"))?;
    let rtt_us = Rtt { min: min * 1e3, avg: avg * 1e3, max: max * 1e3 };
    Ok(Ping { sent: read.sent, received: read.received, rtt_us })
}

fn measure_iperf(pair: &Pair, proto: &'static str, from: Side) -> anyhow::Result<Iperf> {
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
    let address = steps::address(to);
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
        mbits_per_s: read.mbits_per_s,
        lost_percent: read.lost_percent,
        retransmits: read.retransmits,
    })
}

/// Loads ntb_perf on both sides; its `run` file waits for the hand-shake by itself.
fn load_ntb_perf(pair: &Pair) -> anyhow::Result<()> {
    for guest in pair.guests() {
        guest.sh(&format!("modprobe ntb_perf total_order={ORDER}"))?;
    }
    Ok(())
}

/// Stores delivered and stores dropped, in turns.
fn measure_stores(pair: &mut Pair, from: Side) -> anyhow::Result<(report::NtbPerf, Discard)> {
    let (mut delivered, mut discarded) = (Runs::default(), Runs::default());
    for _ in 0..ROUNDS {
        discarded.add(&run_ntb_perf(pair, from, StoreMode::Discard)?);
        delivered.add(&run_ntb_perf(pair, from, StoreMode::Deliver)?);
    }
    pair.twin().set_stores(StoreMode::Deliver)?;
    let (from, to) = (from.name(), from.other().name());
    let delivered_mbytes_per_s = delivered.time().rate_of(delivered.arrived);
    let ceiling = discarded.time().rate_of(discarded.arrived);
    let stored = report::NtbPerf {
        from,
        to,
        bytes: delivered.bytes,
        mbytes_per_s: delivered.time().rate_of(delivered.bytes),
        delivered_bytes: delivered.arrived,
        delivered_mbytes_per_s,
    };
    let dropped = Discard {
        from,
        to,
        discarded_bytes: discarded.arrived,
        mbytes_per_s: ceiling,
        delivered_ratio: if ceiling > 0.0 { delivered_mbytes_per_s / ceiling } else { 0.0 },
    };
    Ok((stored, dropped))
}

/// Sums over runs.
#[derive(Default)]
struct Runs {
    bytes: u64,
    micros: u64,
    arrived: u64,
}

impl Runs {
    fn add(&mut self, (perf, arrived): &(NtbPerf, u64)) {
        self.bytes += perf.bytes;
        self.micros += perf.micros;
        self.arrived += arrived;
    }

    fn time(&self) -> NtbPerf {
        NtbPerf { bytes: self.bytes, micros: self.micros }
    }
}

/// One run, and how many bytes of it the twin delivered or dropped.
fn run_ntb_perf(pair: &mut Pair, from: Side, stores: StoreMode) -> anyhow::Result<(NtbPerf, u64)> {
    pair.twin().set_stores(stores)?;
    let before = counted(pair, from, stores)?;
    let device = steps::ntb_device(pair.guest(from))?;
    let file = format!("/sys/kernel/debug/ntb_perf/{device}/run");
    let text =
        pair.guest(from).sh_for(&format!("echo 0 > {file} && cat {file}"), Duration::from_secs(120))?;
    let perf = parse::ntb_perf(&text).map_err(failed)?;
    // A read is answered after the posted writes before it: what is still on the way arrives before this.
    pair.guest(from).sh("cat /sys/kernel/debug/ntb_hw_intel/*/info > /dev/null")?;
    Ok((perf, counted(pair, from, stores)? - before))
}

/// The twin's count of bytes stored through the windows of a port.
fn counted(pair: &mut Pair, from: Side, stores: StoreMode) -> anyhow::Result<u64> {
    let status = pair.twin().status()?;
    let port = status.ports.get(from.index()).context("the twin has no such port")?;
    Ok(port
        .windows
        .iter()
        .map(|window| match stores {
            StoreMode::Deliver => window.stored_bytes,
            StoreMode::Discard => window.discarded_bytes,
        })
        .sum())
}

#[cfg(test)]
mod tests {
    use super::{report::tests::sample, shortcomings};

    #[test]
    fn a_report_is_judged() {
        assert_eq!(shortcomings(&sample()), Vec::<String>::new());
        let mut poor = sample();
        poor.ntb_perf[0].delivered_bytes -= 1;
        poor.ntb_perf_discard[1].delivered_ratio = 0.49;
        poor.ntb_perf[1].delivered_mbytes_per_s = 41.0;
        let found = shortcomings(&poor);
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
