//! The I/OAT DMA engine (8086:2021), pure: one engine for one host.
//!
//! ```text
//!   access ──▶ Engine::bar0_write ──▶ Effect::Work ──┐         (the caller, perhaps on a worker of its own)
//!                                                     ▼
//!              Engine::next_job ──▶ Job: Fetch 64 bytes │ Copy at most 256 KiB │ WriteBack 8 bytes
//!                     ▲                               │
//!                     └── until None ◀── Engine::complete(job, what came of it) ──▶ Effect::Interrupt
//! ```
//!
//! The engine never touches memory. It says one step at a time what to do, and the caller carries it out wherever the
//! host's addresses lead: RAM, the host's own NTB windows, nowhere. Call [`Engine::next_job`] after every
//! [`Effect::Work`] and after every [`Engine::complete`], until it gives `None`. Every job comes back through
//! [`Engine::complete`].
//!
//! # A descriptor
//! Fetched once, as 64 private bytes; checked; carried out from that copy, whatever the host does to the original
//! meanwhile. A chain may loop: DMACOUNT bounds it. Order is kept within a channel, so a fence holds by itself;
//! channels take turns, job by job. A null descriptor copies nothing and completes. The control bits that are hints
//! (snoop, DCA, page break, bundle) change nothing.
//!
//! # Orders to a channel
//! | order | what happens |
//! |---|---|
//! | CHAINADDR, either half | what was under way is given up; nothing posted, nothing completed, not suspended; halted only while CHANERR is not 0 |
//! | DMACOUNT | so many descriptors are posted since CHAINADDR, modulo 65536; a channel that is suspended or halted stays so |
//! | SUSPEND | after the job that is out, and after the completion of a descriptor whose copy is done; then CHANSTS says suspended. Linux `ioat_quiesce` waits for that without end in `ioat_restart_channel`, so it takes one job and not one descriptor |
//! | RESUME | goes on where it was suspended |
//! | RESET | what was under way is given up; as after power-on, but CHANCTRL, CHANERR_MASK and DCACTRL stay: Linux `ioat_reboot_chan` does not write CHANCTRL again. CHANCMD reads the bit until the job that is out came back |
//!
//! CHANSTS says active while a job is out, and CHANCMD says reset: whoever reads suspended, halted or a finished reset
//! knows that nothing more arrives in memory. That matters: Linux `__ioat_cleanup` runs into a BUG when a late
//! completion names a descriptor that is not its own any more. A reset of the whole engine alone does not wait.
//!
//! # Errors
//! A channel halts with exactly one bit of CHANERR. If CHANCTRL says so it first writes its completion (the last
//! descriptor that completed, halted) and then raises its interrupt.
//!
//! | what | CHANERR | Linux |
//! |---|---|---|
//! | source unreadable, or it wraps; descriptor unreadable | 0x100 read data | `ioat_eh` aborts what is queued, resets, goes on |
//! | destination unwritable, or it wraps | 0x200 write data | the same |
//! | operation that is no copy | 0x400 control | `ioat_timer_event` finds it halted within 200 ms: `ioat_reboot_chan` aborts, resets, goes on |
//! | size 0 (a null descriptor's too) or above XFERCAP | 0x800 length | the same |
//! | `next` no multiple of 64, when it is needed | 0x8 alignment | the same |
//! | CHAINADDR no multiple of 64, when it is needed | 0x10 chain address | the same |
//! | CHANCMP unwritable | 0x1000 completion address; no completion is written | the same |
//!
//! `ioat_eh` runs if 0x100, 0x200 or an XOR bit is set, and calls BUG if any other bit is set beside them or none is: so
//! it never sees one. CHANERR is set before the completion is handed out, because the driver may see the completion
//! in memory before the job is back. A channel whose CHANERR is not 0 does not start, so bits never add up. A kernel
//! without `ioat_reboot_chan` (6.1 and 6.12 have it) runs into a BUG when its timer finds a halted channel.
//!
//! # Interrupts
//! A channel raises its vector once, and again only after CHANCTRL bit 0 was written. What comes between is raised
//! then: Linux `ioat_cleanup_event` reads completions first and re-arms last, and would otherwise wait 200 ms for its
//! timer. Nothing is raised while INTRCTRL bit 0 or MSI-X is off; it waits for both.
//!
//! # Invariants
//! - no access and no completion, whatever it holds, panics or is unbounded in time;
//! - a channel has at most one job out, unless the engine was reset meanwhile;
//! - the completed address is 0 or was fetched since CHAINADDR; at most as many descriptors are fetched as were posted;
//! - a copy lies within its descriptor's ranges, has 1 byte to 256 KiB and does not wrap;
//! - CHANERR has at most one bit, and a channel that has one is halted, or about to be.
//!
//! What it does not do: XOR, PQ, DIF, page breaks, coalescing, DCA, MSI and INTx; read or check the caller's memory; look
//! at the bus-master bit ([`Engine::bus_master`]: while it is off every access of the engine fails).

mod channel;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod job;

pub use engine::{Counters, Effect, Engine};
pub use job::{Job, JobFault, JobKind, Outcome, PIECE_BYTES};
