//! Bandwidth against buffer size, in the way in which the framework's publication shows it.
//!
//! ```text
//!   memory    two processes, two memory files that both map: the framework alone     ┐ beside one memcpy of
//!   twin      the same over a twin's windows; cells by the processor or an engine     ┘ the same buffers
//!   sockets   iperf3 in two namespaces: isthmus net, TAP to TAP, veth, loopback      beside veth
//! ```

mod memory;
pub(super) mod plot;
mod rings;
mod sockets;
mod twin;

pub(super) use memory::serve as serve_memory;
pub(super) use twin::serve as serve_twin;

use super::report::{Report, Row, command};
use crate::lab::progress::Progress;
use cells::{Geometry, Profile, Setup};
use std::time::Duration;

/// Buffers of 8 KiB to 2 MiB.
const SIZES: std::ops::RangeInclusive<u32> = 13..=21;
/// Long enough for a process to start on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(20);
/// A window: the longer of the two rings, and a directory.
const WINDOW_BYTES: u64 = 8 << 20;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// For each row.
    pub(super) time: Duration,
    /// Also over a twin, by the processor and by engines.
    pub(super) dma: bool,
    /// Also what socket programs get.
    pub(super) sockets: bool,
}

pub(super) fn measure(plan: Plan) -> anyhow::Result<Report> {
    let progress = Progress::new("sweep");
    let mut rows = Vec::new();
    memory::measure(plan.time, &mut rows, &progress)?;
    if plan.dma {
        twin::measure(plan.time, &mut rows, &progress)?;
    }
    if plan.sockets {
        match sockets::permitted() {
            Ok(()) => sockets::measure(plan.time, &mut rows, &progress)?,
            Err(why) => tracing::warn!("what socket programs get is left out: {why:#}"),
        }
    }
    progress.finish();
    Ok(Report { bench: "sweep", command: command(), machine: lab::perf::Machine::here(), rows })
}

/// The rings: 64 cells of 64 KiB, and as many published cells as take 3 MB.
fn setup(profile: Profile) -> anyhow::Result<Setup> {
    let geometry = match profile {
        Profile::Fast => Geometry::fast(64, 65536)?,
        Profile::Paper => Geometry::paper(4096)?,
    };
    Ok(Setup { measure: true, ..Setup::new(geometry) })
}

/// Where the other process runs, by the round trip of a word.
fn class(round_trip: Option<Duration>) -> &'static str {
    match round_trip.map(|time| time.as_nanos()) {
        None => "unknown",
        Some(0..80) => "smt",
        Some(80..250) => "near",
        Some(_) => "far",
    }
}

/// 2^`bits` bytes.
fn bytes(bits: u32) -> usize {
    1 << bits
}

/// MB/s of so many bytes in a time.
fn rate(bytes: usize, ns: f64) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 1e3 / ns
}

type Rows = Vec<Row>;
