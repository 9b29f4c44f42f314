//! `lab perf`: what two stock guests reach across the twin.
//!
//! ```text
//!   network ── link, ping, iperf3 (TCP, UDP, TCP by DMA), virtio-net beside it, a profile
//!   stores  ── ntb_perf: by the processor, against a twin that drops, by DMA, with other chunks
//!   copies  ── the same copy loop into the BAR, into plain memory, on the host
//!   pattern ── checksums of what arrives
//!        └──▶ Report ──▶ text (one mode), comparison (several), html (with plots), JSON
//! ```

pub mod comparison;
mod copies;
pub mod html;
mod judge;
mod machine;
mod network;
pub mod parse;
mod pattern;
mod placement;
pub mod profile;
mod rates;
pub mod report;
mod stores;
mod text;

pub use judge::{doubts, shortcomings};
pub use machine::Machine;
pub use rates::Rates;

use crate::copy::CopyLoop;
use crate::health;
use crate::options::{MIN_NETWORK_WINDOW_BYTES, Side};
use crate::pair::Pair;
use crate::steps;
use report::{Link, Report};

/// How often anything is run whose median is reported.
const ROUNDS: u32 = 5;

/// What a user may choose of a measurement.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The chunks of ntb_perf beside its own, in bytes: powers of two.
    pub chunks: Vec<u64>,
    /// The copy loop that is timed on the host.
    pub copy_loop: CopyLoop,
    /// Whether to find out what limits TCP, where virtio-net is faster.
    pub profile: bool,
}

impl Settings {
    /// The chunks, where the user has no wish.
    pub const CHUNKS: [u64; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
    /// The largest that ntb_perf takes.
    pub const MAX_CHUNK_BYTES: u64 = 1 << 20;
}

/// Measures everything; `tell` hears what is being done.
///
/// # Errors
/// Blames the thing under test where it does not do what it should.
pub fn measure(pair: &mut Pair, settings: &Settings, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    let options = pair.plan().options.clone();
    let skipped = if !options.windows.reach_ram() {
        Some(report::SHARED)
    } else if options.window_bytes < MIN_NETWORK_WINDOW_BYTES {
        Some(report::SMALL)
    } else {
        None
    };
    if let Some(why) = skipped {
        tell(&format!("no ping, no iperf3, {why}"));
    }
    let mut profile = None;
    tell("link");
    let network = if skipped.is_none() {
        let measured = network::measure(pair, tell, |pair, virtio_net, tell| {
            if settings.profile && virtio_net.is_some_and(|virtio_net| virtio_net.tcp_ratio < 1.0) {
                tell("profile");
                profile = Some(profile::take(pair)?);
            }
            Ok(())
        })?;
        for guest in pair.guests() {
            stores::load(guest)?;
        }
        Ok(measured)
    } else {
        let (_, took) = steps::train(pair, Side::A, stores::load)?;
        Err(Link { up: true, ms_to_up: steps::millis(took), ms_to_carrier: None })
    };
    let stores = stores::measure(pair, settings, tell)?;
    tell("copy loop");
    let copy = copies::in_guests(pair)?;
    for guest in pair.guests() {
        guest.sh("rmmod ntb_perf")?;
    }
    let pattern = if options.windows.reach_ram() {
        tell("pattern");
        Some(pattern::check(pair)?)
    } else {
        None
    };
    health::check(pair)?;
    let (major, minor, micro) = pair.plan().qemu.version;
    let (link, ping, iperf3, virtio_net) = match network {
        Ok(measured) => (measured.link, Some(measured.ping), Some(measured.iperf3), measured.virtio_net),
        Err(link) => (link, None, None, None),
    };
    Ok(Report {
        qemu: format!("{major}.{minor}.{micro}"),
        kernel: pair.guest(Side::A).hello().release.clone(),
        accel: pair.accel().to_string(),
        machine: Machine::here(),
        window: options.windows.to_string(),
        window_bytes: options.window_bytes,
        skipped,
        link,
        ping,
        ntb_perf: stores.rows,
        ntb_perf_chunks: stores.chunks,
        ntb_perf_discard: stores.discard,
        copy,
        memcpy: stores.memcpy,
        iperf3,
        virtio_net,
        pattern,
        profile,
    })
}
