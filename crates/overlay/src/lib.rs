#![expect(
    unsafe_code,
    reason = "UNSAFETY: this crate replaces mappings of its own process at fixed addresses, and starts inside a program that does not know it"
)]
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

//! The window overlay: puts other memory under a range that a process maps.
//!
//! QEMU maps a BAR's file once, and no message can change that. But the guest reaches the BAR through a fixed host
//! address, and `mmap(MAP_FIXED)` over that address replaces what lies there. So a twin that wants a window to be the
//! neighbour's memory asks this crate, inside the process that maps the BAR:
//!
//! ```text
//!   twin ──OverlayCommand, files──▶ agent ──▶ Overlays::apply(range of a file := pieces of other files)
//!        ◀────── OverlayAnswer ────                 │
//!                                            /proc/self/maps: where is that range mapped?
//!                                            mmap(FIXED | SHARED) each piece there
//! ```
//!
//! The file is named by device and inode, and found in the process's own list of mappings: nothing is intercepted. A range that nothing
//! covers is *closed*: a fresh private copy of all ones, so that loads read as from a bus that nobody is on and stores
//! reach nobody.
//!
//! Two clients: [`preload`], the object that a QEMU is started with (`LD_PRELOAD`, or the loader's `--preload`), and a process that is
//! a host itself, which has a [`Service`] and unmaps through it.
//!
//! What this crate does not do: decide when a window opens, watch accesses, touch a mapping that the twin did not name.
//!
//! Invariants: an address is replaced only while it maps what was named or what was put there before; a twin that dies leaves its
//! windows closed; nothing here panics, since it would take QEMU along; in a program that is no QEMU the
//! object does nothing.

mod agent;
mod maps;
mod overlays;
pub mod preload;
mod service;

pub use agent::{AgentError, serve};
pub use overlays::{OverlayError, Overlays};
pub use service::Service;
