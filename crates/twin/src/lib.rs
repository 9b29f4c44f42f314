//! The device models, pure: an access or an event goes in, effects come out.
//!
//! ```text
//!                     ┌──────────────── Twin ────────────────┐
//!   access (side a) ─▶│ Port a          Link          Port b │◀─ access (side b)
//!   attach, reset   ─▶│  configuration   down         …      │
//!   time            ─▶│  BAR 0           training            │──▶ Effect: interrupt, link, timer, translation
//!                     │  doorbells       up                  │
//!                     └──────────────────────────────────────┘
//!   window access ──▶ route ──▶ an address range in the peer's memory, or why not
//! ```
//!
//! [`Twin`] holds both ports and the link between them. A caller (crate `twin-server`, a test, a fuzzer) hands it
//! every access of a host and every event, and carries out the [`Effect`]s that come back: it owns sockets, guest
//! memory, interrupts and the clock. Time is a number that the caller passes in.
//!
//! [`ioat::Engine`] is the DMA engine beside a port, driven the same way; its memory accesses are jobs for the caller.
//!
//! What this crate does not do: I/O, threads, clocks, locks, guest memory. A store through a window is *routed* here
//! and *carried out* by the caller.
//!
//! Invariants:
//! - no access, whatever its offset, width or value, panics or is unbounded in time;
//! - an access that hits nothing reads all ones, changes nothing and moves a counter;
//! - both sides see a link change at the same moment: configuration 0x1A2 first, then the interrupt;
//! - nothing passes between the ports unless the link is up;
//! - scratchpads, masks and translations survive a link that goes down, and clear on their own port's reset alone.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(test)]
mod corpus;
mod effect;
mod function;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ioat;
mod link;
mod machine;
mod messages;
mod port;
mod register_file;
mod setup;

pub use effect::{Effect, Side, Time};
pub use link::LinkState;
pub use machine::{PeerRange, Refused, Twin};
pub use port::{Counters, Register, Space};
pub use setup::{BadWindowSize, Setup, WindowSize};
