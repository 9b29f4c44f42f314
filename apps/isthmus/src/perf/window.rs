//! Bandwidth of stores into the peer's window.

use super::placed::{Figure, PlacedReport, Sample};
use super::turns::Measuring;
use crate::opposite::{Opposite, PATIENCE, SUM, await_bell, sum};
use anyhow::{Context, ensure};
use ntb::{Bridge, Outbound, Window, WindowKind};
use shm::Plain;
use std::time::Instant;
use twin_server::WindowMode;
use yardstick::Pair;

/// What is stored at once.
const SIZES: [usize; 8] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// How much is stored in one turn, at least, where a store is a message ..
const MESSAGED_TURN_BYTES: usize = 64 << 10;
/// .. and where it is a store.
const MAPPED_TURN_BYTES: usize = 4 << 20;

struct Bench {
    outbound: Outbound,
    plain: Plain,
    data: Vec<u8>,
}

pub(super) fn measure(
    measuring: &Measuring,
    mode: WindowMode,
    mw_bytes: u64,
) -> anyhow::Result<PlacedReport> {
    let opposite = Opposite::start("perf", mode, mw_bytes)?;
    let outbound = opposite.near.outbound(0)?;
    let data: Vec<u8> = (0..outbound.bytes().min(1 << 20))
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[1])
        .collect();
    let sizes: Vec<usize> = SIZES.into_iter().filter(|&size| size <= outbound.bytes()).collect();
    let mut bench = Bench { outbound, plain: Plain::new(mw_bytes)?, data };
    let report = measuring.measure("window", sizes.len(), &mut bench, |pair, bench, kind| {
        sizes.get(kind).map_or_else(|| Ok(Vec::new()), |&size| window(pair, bench, mode, size))
    })?;
    verify(&*opposite.near, &bench.outbound, &bench.data)?;
    Ok(report)
}

/// Stores through the window between two measurements of stores into plain shared memory.
fn window(
    pair: &mut Pair<'_>,
    bench: &mut Bench,
    mode: WindowMode,
    size: usize,
) -> anyhow::Result<Vec<Sample>> {
    let Bench { outbound, plain, data } = bench;
    let data = data.get(..size).context("sizes are filtered")?;
    let mapped = outbound.kind() == WindowKind::Mapped;
    let turn = if mapped { MAPPED_TURN_BYTES } else { MESSAGED_TURN_BYTES };
    let (places, stores) = (outbound.bytes() / size, (turn / size).max(1));
    let rate = |began: Instant| {
        let bytes = u32::try_from(stores * size).unwrap_or(u32::MAX);
        f64::from(bytes) / 1e6 / began.elapsed().as_secs_f64()
    };
    let ours = || -> anyhow::Result<f64> {
        let began = Instant::now();
        for store in 0..stores {
            outbound.write(store % places * size, data)?;
        }
        // All of it has arrived: a fence where the window is memory, a read where it is messages.
        outbound.settle()?;
        Ok(rate(began))
    };
    let mut bare = |pair: &mut Pair<'_>| {
        pair.run(
            || -> anyhow::Result<f64> {
                let began = Instant::now();
                for store in 0..stores {
                    plain.copy(store % places * size, data)?;
                }
                Ok(rate(began))
            },
            || (),
        )
    };
    let before = bare(pair)?;
    // Who sends messages waits for the twin, and gives its processor away meanwhile: that is no disturbance.
    let value = if mapped { pair.run(ours, || ())? } else { ours()? };
    let reference = f64::midpoint(before, bare(pair)?);
    let figure = Figure { name: name(mode), bytes: size, unit: "MB/s", reference: "memcpy", more: true };
    Ok(vec![Sample { figure, value, reference, each_ns: Vec::new() }])
}

fn name(mode: WindowMode) -> &'static str {
    match mode {
        WindowMode::Trap => "window trap",
        WindowMode::Dma => "window dma",
        WindowMode::Shared => "window shared",
        WindowMode::Alias => "window alias",
        WindowMode::Direct => "window direct",
    }
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
