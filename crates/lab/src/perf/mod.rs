//! `lab perf`: what two stock guests reach across the twin.

pub mod comparison;
pub mod parse;
mod pattern;
pub mod report;

use crate::channel::{Event, Exec, capture};
use crate::guest::Guest;
use crate::health;
use crate::options::{Side, Window};
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
/// 2 to this power bytes a run of ntb_perf, where each store is a message.
const ORDER: u32 = 25;
/// The same where the window is memory: a run should take longer than a clock's tick.
const MAPPED_ORDER: u32 = 28;
/// Runs of ntb_perf a direction and mode, alternating. The fastest of each counts: what else runs on the
/// machine only ever slows one down.
const ROUNDS: u32 = 4;
/// What delivery must reach of what dropping reaches.
const LEAST_RATIO: f64 = 0.5;
/// What a far simpler server reached, in megabytes a second.
const LEAST_RATE: f64 = 42.0;

/// Measures everything; `tell` hears what is being done.
///
/// # Errors
/// Blames the thing under test where it does not do what it should.
pub fn measure(pair: &mut Pair, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    let window = pair.plan().options.window;
    tell("link");
    let (link, ping, iperf3) = if window.reaches_ram() {
        let (link, ping, iperf3) = measure_network(pair, tell)?;
        for guest in pair.guests() {
            load_ntb_perf(guest, window)?;
        }
        (link, Some(ping), Some(iperf3))
    } else {
        let (_, took) = steps::train(pair, Side::A, |guest| load_ntb_perf(guest, window))?;
        (Link { up: true, ms_to_up: steps::millis(took), ms_to_carrier: None }, None, None)
    };
    let (mut ntb_perf, mut ceilings) = (Vec::new(), Vec::new());
    for from in Side::BOTH {
        tell(&format!("ntb_perf from {from}"));
        if window.is_mapped() {
            ntb_perf.push(measure_mapped(pair, from)?);
        } else {
            let (delivered, discarded) = measure_stores(pair, from)?;
            ntb_perf.push(delivered);
            ceilings.push(discarded);
        }
    }
    let ntb_perf_discard = if window.is_mapped() { None } else { Some(ceilings) };
    for guest in pair.guests() {
        guest.sh("rmmod ntb_perf")?;
    }
    let pattern = if window.reaches_ram() {
        tell("pattern");
        Some(pattern::check(pair)?)
    } else {
        tell(&format!("no ping, iperf3, pattern, {}", report::SKIPPED));
        None
    };
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

/// What ntb_transport and its network device reach; their drivers are gone afterwards.
fn measure_network(pair: &mut Pair, tell: &mut dyn FnMut(&str)) -> anyhow::Result<(Link, Ping, Vec<Iperf>)> {
    let came_up = steps::bring_up(pair, Side::A)?;
    let link = Link { up: true, ms_to_up: came_up.link_ms, ms_to_carrier: Some(came_up.carrier_ms) };
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
    Ok((link, ping, iperf3))
}

/// What a report says that it must not: a sentence each.
#[must_use]
pub fn shortcomings(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for row in &report.ntb_perf {
        let way = format!("{} to {}", row.from, row.to);
        if let Some(delivered) = row.delivered_bytes.filter(|delivered| *delivered < row.bytes) {
            found.push(format!("{way}: ntb_perf stored {} bytes, {delivered} arrived", row.bytes));
        }
        if let Some(ceiling) = report.ceiling(row).filter(|ceiling| ceiling.delivered_ratio < LEAST_RATIO) {
            let ratio = ceiling.delivered_ratio;
            found.push(format!("{way}: delivery reaches {ratio:.2} of a twin that drops, not {LEAST_RATIO}"));
        }
    }
    found
}

/// What a report says that may be the machine's fault as well as the twin's: a sentence each.
#[must_use]
pub fn doubts(report: &Report) -> Vec<String> {
    let rates =
        report.ntb_perf.iter().map(|row| (row, row.delivered_mbytes_per_s.unwrap_or(row.mbytes_per_s)));
    let slow = rates.filter(|(_, rate)| *rate < LEAST_RATE);
    slow.map(|(row, rate)| {
        let (from, to) = (row.from, row.to);
        format!("{from} to {to}: {rate:.1} MB/s; a naive server reached {LEAST_RATE} on a quiet machine of two cores")
    })
    .collect()
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

/// Loads ntb_perf; its `run` file waits for the hand-shake by itself.
fn load_ntb_perf(guest: &Guest, window: Window) -> anyhow::Result<()> {
    let order = if window.is_mapped() { MAPPED_ORDER } else { ORDER };
    guest.sh(&format!("modprobe ntb_hw_intel && modprobe ntb_perf total_order={order}"))?;
    Ok(())
}

/// Stores into memory: the twin sees none of them.
fn measure_mapped(pair: &Pair, from: Side) -> anyhow::Result<report::NtbPerf> {
    let device = steps::ntb_device(pair.guest(from))?;
    let runs = (0..ROUNDS).map(|_| store(pair, from, &device)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(report::NtbPerf {
        from: from.name(),
        to: from.other().name(),
        bytes: runs.iter().map(|run| run.bytes).sum(),
        mbytes_per_s: runs.iter().map(NtbPerf::rate).fold(0.0, f64::max),
        delivered_bytes: None,
        delivered_mbytes_per_s: None,
    })
}

/// Has ntb_perf store, and reads what it says of that.
fn store(pair: &Pair, from: Side, device: &str) -> anyhow::Result<NtbPerf> {
    let file = format!("/sys/kernel/debug/ntb_perf/{device}/run");
    let line = format!("echo 0 > {file} && cat {file}");
    let text = pair.guest(from).sh_for(&line, Duration::from_secs(120))?;
    parse::ntb_perf(&text).map_err(failed)
}

/// Stores delivered and stores dropped, in turns.
fn measure_stores(pair: &mut Pair, from: Side) -> anyhow::Result<(report::NtbPerf, Discard)> {
    let (mut delivered, mut discarded) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        discarded.push(run_ntb_perf(pair, from, StoreMode::Discard)?);
        delivered.push(run_ntb_perf(pair, from, StoreMode::Deliver)?);
    }
    pair.twin().set_stores(StoreMode::Deliver)?;
    let (from, to) = (from.name(), from.other().name());
    let fastest = |runs: &[Run]| runs.iter().map(Run::rate).fold(0.0, f64::max);
    let (rate, ceiling) = (fastest(&delivered), fastest(&discarded));
    let stored = report::NtbPerf {
        from,
        to,
        bytes: delivered.iter().map(|run| run.stored.bytes).sum(),
        mbytes_per_s: delivered.iter().map(|run| run.stored.rate()).fold(0.0, f64::max),
        delivered_bytes: Some(delivered.iter().map(|run| run.arrived).sum()),
        delivered_mbytes_per_s: Some(rate),
    };
    let dropped = Discard {
        from,
        to,
        discarded_bytes: discarded.iter().map(|run| run.arrived).sum(),
        mbytes_per_s: ceiling,
        delivered_ratio: if ceiling > 0.0 { rate / ceiling } else { 0.0 },
    };
    Ok((stored, dropped))
}

/// One run of ntb_perf, and what became of its stores.
struct Run {
    stored: NtbPerf,
    /// Bytes that the twin delivered or dropped.
    arrived: u64,
    /// Until the last of them had reached the twin: QEMU holds posted stores back, without a limit.
    micros: u64,
}

impl Run {
    fn rate(&self) -> f64 {
        parse::ratio(self.arrived, self.micros)
    }
}

fn run_ntb_perf(pair: &mut Pair, from: Side, stores: StoreMode) -> anyhow::Result<Run> {
    pair.twin().set_stores(stores)?;
    let before = counted(pair, from, stores)?;
    let device = steps::ntb_device(pair.guest(from))?;
    let stored = store(pair, from, &device)?;
    let ended = Instant::now();
    // A read of a register is answered after the posted stores before it.
    let registers = format!("cat /sys/kernel/debug/ntb_hw_intel/{device}/info > /dev/null");
    pair.guest(from).sh_for(&registers, Duration::from_secs(120))?;
    let arrived = counted(pair, from, stores)? - before;
    let rest = u64::try_from(ended.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Run { stored, arrived, micros: stored.micros + rest })
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
    use super::report::tests::{sample, sample_shared};
    use super::{doubts, shortcomings};

    #[test]
    fn a_report_is_judged() {
        assert_eq!(shortcomings(&sample()), Vec::<String>::new());
        let mut poor = sample();
        poor.ntb_perf[0].delivered_bytes = Some(1);
        poor.ntb_perf_discard.as_mut().unwrap()[1].delivered_ratio = 0.49;
        poor.ntb_perf[1].delivered_mbytes_per_s = Some(41.0);
        let found = shortcomings(&poor);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(doubts(&poor).len(), 1);
        let shared = sample_shared();
        assert!(shortcomings(&shared).is_empty() && doubts(&shared).is_empty());
    }
}
