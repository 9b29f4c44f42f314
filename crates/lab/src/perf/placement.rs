//! Where ntb_perf's memory lies in an emulated guest, and moving it where it lies badly.
//!
//! QEMU's emulated processor finds a page by the low bits of its number in a table (a direct-mapped TLB, of 64 entries
//! and more: it grows and shrinks with what the guest touches). ntb_perf copies from the start of one block to the
//! start of another, both aligned to the window's size. If they are a multiple of the table's span apart, each load
//! takes the place of the page that is stored to, and each store that of the page that is loaded from: twenty times
//! slower, in plain memory as well as through a window. The table then is half full, so it does not grow, and the next run
//! is as slow. No hardware does that, and no window: so before a row is measured the window's address is moved until
//! a short run is fast, and the report says how often.

use super::copies;
use super::stores::{self, Job};
use crate::options::{Accel, Side};
use crate::pair::Pair;
use crate::steps;
use control::LinkState;
use std::time::Instant;

/// How often to move before it is given up.
const TRIES: u32 = 8;
/// Bytes of the short run, as a power of two.
const ORDER: u32 = 22;
/// What a run reaches of the copy loop in plain memory, at least, where nothing meets.
const LEAST: f64 = 1.0 / 8.0;
/// Processes that take room in the kernel's map: each has a stack of 16 KiB there, and all of them more than half of
/// the span that decides.
const PROCESSES: u32 = 40;

/// What plain memory reaches in each guest, by which a run is judged; nothing where no processor is emulated.
pub(super) struct Placement(Option<[f64; 2]>);

impl Placement {
    /// Measures it.
    pub(super) fn new(pair: &Pair) -> anyhow::Result<Self> {
        if pair.accel() != Accel::Tcg {
            return Ok(Self(None));
        }
        Ok(Self(Some([copies::in_memory(pair, Side::A)?, copies::in_memory(pair, Side::B)?])))
    }

    /// Moves the window of a job until a short run is fast: how many places were tried.
    pub(super) fn settle(&self, pair: &mut Pair, job: Job) -> anyhow::Result<u32> {
        let window = pair.plan().options.windows.of(job.from);
        let Some(memory) = self.0.filter(|_| window.is_mapped() && !job.dma) else { return Ok(1) };
        let least = memory[job.from.index()] * LEAST;
        for tried in 1..=TRIES {
            let run = stores::run(pair, Job { order: ORDER, ..job }, 1)?;
            if run.mbytes_per_s >= least || tried == TRIES {
                return Ok(tried);
            }
            tracing::debug!(from = %job.from, rate = run.mbytes_per_s, least, "ntb_perf's memory lies badly");
            displace(pair, job.from)?;
        }
        Ok(TRIES)
    }
}

/// Has ntb_perf map its window at another address: what lies in front of it gets longer.
fn displace(pair: &mut Pair, side: Side) -> anyhow::Result<()> {
    let guest = pair.guest(side);
    let sleep = format!("for i in $(seq {PROCESSES}); do sleep 100000 < /dev/null > /dev/null 2>&1 & done");
    guest.sh(&format!("rmmod ntb_perf && {sleep}"))?;
    pair.twin().wait_link(LinkState::Down, Instant::now() + steps::LINK)?;
    stores::load(pair.guest(side))?;
    pair.twin().wait_link(LinkState::Up, Instant::now() + steps::LINK)
}

/// Ends what took the room.
pub(super) fn clear(pair: &Pair) -> anyhow::Result<()> {
    pair.guests().iter().try_for_each(|guest| guest.sh("killall sleep 2> /dev/null; true").map(drop))
}
