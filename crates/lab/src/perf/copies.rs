//! The same copy loop into a BAR, into plain memory of that guest, and on the host.

use super::rates::Rates;
use super::report::Copy;
use super::{ROUNDS, Settings};
use crate::agent::SELF;
use crate::copy::{Order, Run, Target};
use crate::options::Side;
use crate::pair::Pair;
use crate::process::quoted;
use crate::steps;
use crate::trouble::failed;
use std::time::Duration;

/// What is copied at once, where the window has room for it.
const CHUNK_BYTES: u64 = 256 << 10;
/// What a run copies where each store is a message.
const RUN_BYTES: u64 = 4 << 20;
/// The same where the window is memory.
const MAPPED_RUN_BYTES: u64 = 128 << 20;

/// Both guests, each into the window that ntb_perf stores through: it has to be open.
pub(super) fn in_guests(pair: &Pair) -> anyhow::Result<Vec<Copy>> {
    Side::BOTH.into_iter().map(|side| in_guest(pair, side)).collect()
}

fn in_guest(pair: &Pair, side: Side) -> anyhow::Result<Copy> {
    let options = &pair.plan().options;
    let device = steps::ntb_device(pair.guest(side))?;
    // The upstream device stores through its first window, the downstream one through its second.
    let (window, bar) = match side {
        Side::A => (0, 2),
        Side::B => (1, 4),
    };
    let file = format!("/sys/bus/pci/devices/{device}/resource{bar}_wc");
    let mapped = options.windows.of(side).is_mapped();
    let order = Order {
        targets: vec![Target::Bar(file.into()), Target::Memory],
        span_bytes: options.window_bytes,
        chunk_bytes: CHUNK_BYTES.min(options.window_bytes),
        run_bytes: if mapped { MAPPED_RUN_BYTES } else { RUN_BYTES },
        rounds: ROUNDS,
        meet: false,
    };
    let runs = carry_out(pair, side, &order)?;
    let rates = |target| Rates::of(runs.iter().filter(|run| run.target == target).map(Run::rate));
    let (bar, memory) = (rates(0), rates(1));
    let ratio = bar.median / memory.median.max(f64::MIN_POSITIVE);
    let Order { chunk_bytes, run_bytes, .. } = order;
    Ok(Copy { guest: side.name(), window, chunk_bytes, bytes: run_bytes, bar, memory, ratio })
}

/// What a guest's plain memory reaches.
pub(super) fn in_memory(pair: &Pair, side: Side) -> anyhow::Result<f64> {
    let span_bytes = pair.plan().options.window_bytes;
    let chunk_bytes = CHUNK_BYTES.min(span_bytes);
    let order = Order {
        targets: vec![Target::Memory],
        span_bytes,
        chunk_bytes,
        run_bytes: MAPPED_RUN_BYTES,
        rounds: 1,
        meet: false,
    };
    Ok(Rates::of(carry_out(pair, side, &order)?.iter().map(Run::rate)).median)
}

fn carry_out(pair: &Pair, side: Side, order: &Order) -> anyhow::Result<Vec<Run>> {
    let line = format!("{SELF} lab agent copy {}", quoted(&serde_json::to_string(&order)?));
    let text = pair.guest(side).sh_for(&line, Duration::from_secs(180))?;
    serde_json::from_str(&text)
        .map_err(|error| failed(format!("the copy loop in guest {side} printed {text:?}: {error}")))
}

/// One run on the host, `span_bytes` over and over until it has `run_bytes`: its rate.
pub(super) fn on_host(settings: &Settings, span_bytes: u64, run_bytes: u64) -> anyhow::Result<f64> {
    let chunk_bytes = CHUNK_BYTES.min(span_bytes);
    let order =
        Order { targets: vec![Target::Memory], span_bytes, chunk_bytes, run_bytes, rounds: 1, meet: false };
    Ok(Rates::of((settings.copy_loop)(&order)?.iter().map(Run::rate)).median)
}
