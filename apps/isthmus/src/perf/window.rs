//! Bandwidth of stores into the peer's window.

use super::report::{Pairs, Report, Row, command};
use crate::opposite::{Opposite, PATIENCE, SUM, await_bell, sum};
use anyhow::ensure;
use ntb::{Bridge, Outbound, Window, WindowKind};
use shm::Plain;
use std::time::{Duration, Instant};
use twin_server::WindowMode;

/// What is stored at once.
const SIZES: [usize; 8] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// How much is stored in one turn, at least, where a store is a message ..
const MESSAGED_TURN_BYTES: usize = 64 << 10;
/// .. and where it is a store.
const MAPPED_TURN_BYTES: usize = 4 << 20;

pub(super) fn measure(mode: WindowMode, mw_bytes: u64, time_ms: u64) -> anyhow::Result<Report> {
    let opposite = Opposite::start("perf", mode, mw_bytes)?;
    let outbound = opposite.near.outbound(0)?;
    let mut plain = Plain::new(mw_bytes)?;
    let data: Vec<u8> = (0..outbound.bytes().min(1 << 20))
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[1])
        .collect();
    let mut rows = Vec::new();
    for size in SIZES.into_iter().filter(|&size| size <= outbound.bytes()) {
        let Some(data) = data.get(..size) else { break };
        let pairs = turns(&outbound, &mut plain, data, Duration::from_millis(time_ms))?;
        let (ours, reference, windows) = pairs.quicker_half();
        let rate = |ns: f64| f64::from(u32::try_from(size).unwrap_or(u32::MAX)) * 1e3 / ns;
        rows.push(Row {
            name: format!("window {mode}"),
            bytes: size,
            value: rate(ours),
            unit: "MB/s",
            reference: "memcpy",
            reference_value: rate(reference),
            ratio: reference / ours,
            class: "near",
            windows,
        });
    }
    verify(&*opposite.near, &outbound, &data)?;
    Ok(Report { bench: "window", command: command(), machine: lab::perf::Machine::here(), rows })
}

/// Stores through the window and into plain shared memory by turns; times are for one store, in nanoseconds.
fn turns(outbound: &Outbound, plain: &mut Plain, data: &[u8], time: Duration) -> anyhow::Result<Pairs> {
    let mut pairs = Pairs::default();
    let turn = match outbound.kind() {
        WindowKind::Mapped => MAPPED_TURN_BYTES,
        WindowKind::Messaged => MESSAGED_TURN_BYTES,
    };
    let places = outbound.bytes() / data.len();
    let stores = (turn / data.len()).max(1);
    let each =
        |began: Instant| began.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(stores).unwrap_or(1));
    let until = Instant::now() + time;
    // The first pair has the pages faulted in, and is not counted.
    let mut first = true;
    while pairs.is_few() || Instant::now() < until {
        let began = Instant::now();
        for store in 0..stores {
            outbound.write(store % places * data.len(), data)?;
        }
        // All of it has arrived: a fence where the window is memory, a read where it is messages.
        outbound.settle()?;
        let ours = each(began);
        let began = Instant::now();
        for store in 0..stores {
            plain.copy(store % places * data.len(), data)?;
        }
        let reference = each(began);
        if !first {
            pairs.push(ours, reference);
        }
        first = false;
    }
    Ok(pairs)
}

/// What was measured did cross: the far side has these bytes.
fn verify(near: &dyn Bridge, outbound: &Outbound, data: &[u8]) -> anyhow::Result<()> {
    outbound.write(0, data)?;
    outbound.settle()?;
    near.peer_scratchpad_write(0, u32::try_from(data.len())?)?;
    near.ring(1 << SUM)?;
    await_bell(near, SUM)?;
    ensure!(near.scratchpad(1)? == sum(data), "the far side has other bytes than were stored");
    ensure!(near.wait_for_link(true, PATIENCE)?.up, "the link went down");
    Ok(())
}
