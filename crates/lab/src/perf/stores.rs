//! ntb_perf: stores through a window, by the processor or by the I/OAT engine.

use super::parse::{self, NtbPerf};
use super::placement::{self, Placement};
use super::rates::Rates;
use super::report::{self, Discard, Memcpy};
use super::{ROUNDS, Settings, copies};
use crate::guest::Guest;
use crate::options::Side;
use crate::pair::Pair;
use crate::steps;
use crate::trouble::failed;
use anyhow::Context;
use control::StoreMode;
use std::time::{Duration, Instant};

/// ntb_perf's own chunks: 2 to the power of 19 bytes.
const CHUNK_BYTES: u64 = 512 << 10;
/// 2 to this power bytes a run, where each store is a message.
const ORDER: u32 = 24;
/// The same where the window is memory, or the engine copies: a run should take longer than a clock's tick.
const BULK_ORDER: u32 = 28;
/// What the runs of other chunks are shorter by.
const LESS: u32 = 2;
/// How long some runs together may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Everything that ntb_perf measured.
pub(super) struct Measured {
    pub(super) rows: Vec<report::NtbPerf>,
    pub(super) chunks: Vec<report::NtbPerf>,
    pub(super) discard: Option<Vec<Discard>>,
    pub(super) memcpy: Option<Memcpy>,
}

/// Some runs that are all the same.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) from: Side,
    pub(super) dma: bool,
    pub(super) chunk_bytes: u64,
    /// 2 to this power bytes a run.
    pub(super) order: u32,
}

impl Job {
    /// With ntb_perf's own chunks, as far as the window has room for them.
    fn new(pair: &Pair, from: Side, dma: bool) -> Self {
        let options = &pair.plan().options;
        let bulk = dma || options.windows.of(from).is_mapped();
        Self {
            from,
            dma,
            chunk_bytes: CHUNK_BYTES.min(options.window_bytes),
            order: if bulk { BULK_ORDER } else { ORDER },
        }
    }

    fn with_chunks(self, chunk_bytes: u64) -> Self {
        Self { chunk_bytes, order: self.order - LESS, ..self }
    }
}

/// Loads ntb_perf; its `run` file waits for the hand-shake by itself.
pub(super) fn load(guest: &Guest) -> anyhow::Result<()> {
    guest.sh("modprobe ntb_hw_intel && modprobe ntb_perf")?;
    Ok(())
}

/// Runs it all; the windows stay open as it leaves them.
pub(super) fn measure(
    pair: &mut Pair,
    settings: &Settings,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Measured> {
    let options = pair.plan().options.clone();
    let placement = Placement::new(pair)?;
    let (mut rows, mut ceilings) = (Vec::new(), Vec::new());
    for from in Side::BOTH {
        tell(&format!("ntb_perf from {from}"));
        let job = Job::new(pair, from, false);
        if options.windows.of(from).is_mapped() {
            rows.push(run_settled(pair, job, &placement)?);
        } else {
            let (delivered, discarded) = run_in_turns(pair, job)?;
            rows.push(delivered);
            ceilings.push(discarded);
        }
    }
    let mut memcpy = None;
    if options.dma {
        tell("ntb_perf by DMA");
        memcpy = Some(by_dma(pair, settings, &mut rows)?);
    }
    let mut chunks = Vec::new();
    let fitting = settings.chunks.iter().filter(|&&chunk| chunk <= options.window_bytes);
    for &chunk in fitting {
        tell(&format!("ntb_perf with chunks of {}", crate::options::show_size(chunk)));
        for dma in [false, true] {
            for from in Side::BOTH {
                if !dma || options.dma {
                    let job = Job::new(pair, from, dma).with_chunks(chunk);
                    chunks.push(run_settled(pair, job, &placement)?);
                }
            }
        }
    }
    placement::clear(pair)?;
    let discard = if ceilings.is_empty() { None } else { Some(ceilings) };
    Ok(Measured { rows, chunks, discard, memcpy })
}

/// The engine both ways, each run beside a plain copy on the host.
fn by_dma(pair: &mut Pair, settings: &Settings, rows: &mut Vec<report::NtbPerf>) -> anyhow::Result<Memcpy> {
    let (mut once, mut again, mut slower) = (Vec::new(), Vec::new(), f64::INFINITY);
    let (bytes, window_bytes) = (1 << BULK_ORDER, pair.plan().options.window_bytes);
    for from in Side::BOTH {
        let job = Job::new(pair, from, true);
        let device = prepare(pair, job)?;
        // The first run brings the descriptors' memory in, and does not count.
        store(pair, from, &device, 1)?;
        let before = copied(pair, from)?;
        let mut runs = Vec::new();
        for _ in 0..ROUNDS {
            once.push(copies::on_host(settings, bytes, bytes)?);
            again.push(copies::on_host(settings, window_bytes, bytes)?);
            runs.extend(store(pair, from, &device, 1)?);
        }
        let row = summary(job, &runs);
        slower = slower.min(row.mbytes_per_s);
        let delivered_bytes = Some(copied(pair, from)?.saturating_sub(before));
        rows.push(report::NtbPerf { delivered_bytes, ..row });
    }
    let (once, again) = (Rates::of(once), Rates::of(again));
    let of = |rates: Rates| slower / rates.median.max(f64::MIN_POSITIVE);
    Ok(Memcpy { bytes, once, dma_ratio: of(once), again, dma_ratio_again: of(again) })
}

/// The twin's count of bytes that the engine at a port has stored, but for those that a closed window dropped.
fn copied(pair: &mut Pair, from: Side) -> anyhow::Result<u64> {
    let status = pair.twin().status()?;
    let engine = status.ports.get(from.index()).and_then(|port| port.engine.as_ref());
    let engine = engine.with_context(|| format!("the twin has no engine at port {from}"))?;
    Ok(engine.copied_bytes.saturating_sub(engine.dropped_bytes))
}

/// Some runs, one after the other, where ntb_perf's memory lies well.
fn run_settled(pair: &mut Pair, job: Job, placement: &Placement) -> anyhow::Result<report::NtbPerf> {
    let placements = placement.settle(pair, job)?;
    Ok(report::NtbPerf { placements, ..run(pair, job, ROUNDS)? })
}

/// Some runs, one after the other.
pub(super) fn run(pair: &Pair, job: Job, rounds: u32) -> anyhow::Result<report::NtbPerf> {
    let device = prepare(pair, job)?;
    Ok(summary(job, &store(pair, job.from, &device, rounds)?))
}

fn summary(job: Job, runs: &[NtbPerf]) -> report::NtbPerf {
    let rates = Rates::of(runs.iter().map(NtbPerf::rate));
    report::NtbPerf {
        from: job.from.name(),
        to: job.from.other().name(),
        dma: job.dma,
        chunk_bytes: job.chunk_bytes,
        bytes: runs.iter().map(|run| run.bytes).sum(),
        mbytes_per_s: rates.median,
        slowest_mbytes_per_s: rates.min,
        fastest_mbytes_per_s: rates.max,
        placements: 1,
        delivered_bytes: None,
        delivered_mbytes_per_s: None,
    }
}

/// Tells ntb_perf what to do; the name of its device.
fn prepare(pair: &Pair, job: Job) -> anyhow::Result<String> {
    let guest = pair.guest(job.from);
    let (chunk_order, dma) = (job.chunk_bytes.ilog2(), u8::from(job.dma));
    let Job { order, .. } = job;
    guest.sh(&format!(
        "cd /sys/module/ntb_perf/parameters && \
         echo {chunk_order} > chunk_order && echo {order} > total_order && echo {dma} > use_dma"
    ))?;
    steps::ntb_device(guest)
}

/// Has ntb_perf store, and reads what it says of that.
fn store(pair: &Pair, from: Side, device: &str, rounds: u32) -> anyhow::Result<Vec<NtbPerf>> {
    let file = format!("/sys/kernel/debug/ntb_perf/{device}/run");
    let line = format!("for i in $(seq {rounds}); do echo 0 > {file} && cat {file} || exit; done");
    let text = pair.guest(from).sh_for(&line, PATIENCE)?;
    let runs = parse::ntb_perf(&text).map_err(failed)?;
    if u32::try_from(runs.len()) != Ok(rounds) {
        return Err(failed(format!("ntb_perf in guest {from} has not {rounds} results: {text:?}")));
    }
    Ok(runs)
}

/// One run of ntb_perf, and what became of its stores.
struct Counted {
    stored: NtbPerf,
    /// Bytes that the twin delivered or dropped.
    arrived: u64,
    /// Until the last of them had reached the twin: QEMU holds posted stores back, without a limit.
    micros: u64,
}

impl Counted {
    fn rate(&self) -> f64 {
        parse::ratio(self.arrived, self.micros)
    }
}

/// Stores delivered and stores dropped, in turns. What else runs on the machine only ever slows one down: so the
/// fastest run of each is what they are compared by.
fn run_in_turns(pair: &mut Pair, job: Job) -> anyhow::Result<(report::NtbPerf, Discard)> {
    let device = prepare(pair, job)?;
    let (mut delivered, mut discarded) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        discarded.push(run_counted(pair, job.from, &device, StoreMode::Discard)?);
        delivered.push(run_counted(pair, job.from, &device, StoreMode::Deliver)?);
    }
    pair.twin().set_stores(StoreMode::Deliver)?;
    let fastest = |runs: &[Counted]| runs.iter().map(Counted::rate).fold(0.0, f64::max);
    let (rate, ceiling) = (fastest(&delivered), fastest(&discarded));
    let runs: Vec<_> = delivered.iter().map(|run| run.stored).collect();
    let stored = report::NtbPerf {
        delivered_bytes: Some(delivered.iter().map(|run| run.arrived).sum()),
        delivered_mbytes_per_s: Some(rate),
        ..summary(job, &runs)
    };
    let dropped = Discard {
        from: job.from.name(),
        to: job.from.other().name(),
        discarded_bytes: discarded.iter().map(|run| run.arrived).sum(),
        mbytes_per_s: ceiling,
        delivered_ratio: if ceiling > 0.0 { rate / ceiling } else { 0.0 },
    };
    Ok((stored, dropped))
}

fn run_counted(pair: &mut Pair, from: Side, device: &str, stores: StoreMode) -> anyhow::Result<Counted> {
    pair.twin().set_stores(stores)?;
    let before = stored(pair, from, stores)?;
    let runs = store(pair, from, device, 1)?;
    let run = *runs.first().context("ntb_perf has no result")?;
    let ended = Instant::now();
    // A read of a register is answered after the posted stores before it.
    let registers = format!("cat /sys/kernel/debug/ntb_hw_intel/{device}/info > /dev/null");
    pair.guest(from).sh_for(&registers, Duration::from_secs(120))?;
    let arrived = stored(pair, from, stores)? - before;
    let rest = u64::try_from(ended.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Counted { stored: run, arrived, micros: run.micros + rest })
}

/// The twin's count of bytes stored through the windows of a port.
fn stored(pair: &mut Pair, from: Side, stores: StoreMode) -> anyhow::Result<u64> {
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
