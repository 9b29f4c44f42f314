//! Frames per second between two virtual interfaces through windows.

use super::placed::{Figure, PlacedReport, Sample};
use super::turns::Measuring;
use super::twin_ends::TwinEnds;
use yardstick::Pair;
use yardstick::bare::{Bare, Cold};
use yardstick::frames::By;

/// The long frames.
const LONG: usize = 1500;

struct Bench {
    plain: TwinEnds,
    streaming: TwinEnds,
    bare: Bare,
    cold: Cold,
}

pub(super) fn measure(measuring: &Measuring) -> anyhow::Result<PlacedReport> {
    let mut bench = Bench {
        plain: TwinEnds::new(usize::MAX)?,
        streaming: TwinEnds::new(256)?,
        bare: Bare::new()?,
        cold: Cold::default(),
    };
    measuring.measure(
        "rate",
        2,
        &mut bench,
        |pair, bench, kind| {
            if kind == 0 { short(pair, bench) } else { long(pair, bench) }
        },
    )
}

fn sample(
    name: &'static str,
    bytes: usize,
    unit: &'static str,
    value: f64,
    reference: (&'static str, f64),
) -> Sample {
    let figure = Figure { name, bytes, unit, reference: reference.0, more: true };
    Sample { figure, value, reference: reference.1, each_ns: Vec::new() }
}

/// Frames of 60 and 64 bytes, between two measurements of bare rings of single lines: the one that windows offer everybody, and
/// for what is pushed the fastest that is known.
fn short(pair: &mut Pair<'_>, bench: &mut Bench) -> anyhow::Result<Vec<Sample>> {
    let before = [bench.bare.line_rate(pair)?, bench.bare.straight_rate(pair)?];
    let mut rates = Vec::new();
    for (name, by) in [("transmit", By::Transmit), ("push", By::Push), ("push, merged", By::PushMerged)] {
        for bytes in [60, 64] {
            rates.push((name, bytes, by, bench.plain.ends.rate(pair, bytes, by)?));
        }
    }
    let after = [bench.bare.line_rate(pair)?, bench.bare.straight_rate(pair)?];
    let [one_line, straight] = [0, 1].map(|ring| f64::midpoint(before[ring], after[ring]));
    let mut rows = Vec::new();
    for (name, bytes, by, rate) in rates {
        rows.push(sample(name, bytes, "M/s", rate, ("one-line ring", one_line)));
        if by != By::Transmit {
            rows.push(sample(name, bytes, "M/s", rate, ("straight ring", straight)));
        }
    }
    Ok(rows)
}

/// Frames of 1500 bytes, beside one memcpy of as many bytes and a ring that copies in and out.
fn long(pair: &mut Pair<'_>, bench: &mut Bench) -> anyhow::Result<Vec<Sample>> {
    let gb_per_s = |millions: f64| millions * 1.5;
    let before = gb_per_s(bench.bare.copy_rate(pair, LONG)?);
    let memcpy = ("memcpy", bench.cold.memcpy(LONG));
    let pushed = gb_per_s(bench.plain.ends.rate(pair, LONG, By::Push)?);
    let streamed = gb_per_s(bench.streaming.ends.rate(pair, LONG, By::Push)?);
    let ring = ("memcpy ring", f64::midpoint(before, gb_per_s(bench.bare.copy_rate(pair, LONG)?)));
    let row = |name, value, reference| sample(name, LONG, "GB/s", value, reference);
    Ok(vec![
        row("push", pushed, memcpy),
        row("push", pushed, ring),
        row("push, streamed", streamed, memcpy),
        row("push, streamed", streamed, ring),
    ])
}
