//! Round trips between two virtual interfaces through windows.

use super::placed::{Figure, PlacedReport, Sample};
use super::turns::Measuring;
use super::twin_ends::TwinEnds;
use anyhow::ensure;
use yardstick::Pair;
use yardstick::bare::{Bare, lines_of};
use yardstick::frames::{LONGEST, SHORTEST};

/// Frames: what fits one line, the shortest of Ethernet, then two lines and on.
pub(super) const SIZES: [usize; 8] = [48, 60, 64, 128, 256, 512, 1024, 1500];

/// Lengths that a frame can have.
pub(super) fn check(sizes: &[usize]) -> anyhow::Result<()> {
    ensure!(!sizes.is_empty(), "--bytes names no frame");
    for bytes in sizes {
        ensure!(
            (SHORTEST..=LONGEST).contains(bytes),
            "a frame of {bytes} bytes: {SHORTEST} (its headers) to {LONGEST} (an MTU of 1500 and the Ethernet header) are possible"
        );
    }
    Ok(())
}

struct Bench {
    twin: TwinEnds,
    bare: Bare,
}

pub(super) fn measure(measuring: &Measuring, sizes: &[usize]) -> anyhow::Result<PlacedReport> {
    check(sizes)?;
    let mut bench = Bench { twin: TwinEnds::new(usize::MAX)?, bare: Bare::new()? };
    measuring.measure("latency", sizes.len(), &mut bench, |pair, bench, kind| {
        sizes.get(kind).map_or_else(|| Ok(Vec::new()), |&bytes| window(pair, bench, bytes))
    })
}

/// One size, between two bare exchanges of as many lines as it takes.
fn window(pair: &mut Pair<'_>, bench: &mut Bench, bytes: usize) -> anyhow::Result<Vec<Sample>> {
    let lines = lines_of(bytes);
    let before = bench.bare.round_trip(pair, lines)?;
    let trips = bench.twin.ends.round_trip(pair, bytes)?;
    let after = bench.bare.round_trip(pair, lines)?;
    let figure = Figure {
        name: "round trip",
        bytes,
        unit: "ns",
        reference: REFERENCES.get(lines).copied().unwrap_or("bare lines"),
        more: false,
    };
    let reference = f64::midpoint(before, after);
    Ok(vec![Sample { figure, value: trips.median_ns, reference, each_ns: trips.each_ns }])
}

/// By the number of lines.
const REFERENCES: [&str; 3] = ["", "bare, one line", "bare, two lines"];
