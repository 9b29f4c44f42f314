//! A twin in this process: two ports that are driven by function calls.
//!
//! ```text
//!   Gen3 (crate ntb) ──PciFunction──▶ LocalPort ──calls──▶ ┌ LocalTwin ─────────────┐ ◀──calls── LocalPort ◀── Gen3
//!                                                          │ Mutex<Machine>          │
//!                    eventfds ◀── interrupts ──────────────│ twin-server, no sockets │
//!                                                          │ clock thread: the link's│
//!                                                          │ training, overlays      │
//!                                                          └─────────────────────────┘
//! ```
//!
//! The one library that sees both sides of the registers. It is what demos, tests and benches run on: the same device
//! model, guest memory, interrupts and window modes as `isthmus twin` has, without a socket between. Every access takes the
//! machine's lock; stores through a mapped window do not, they are stores.
//!
//! ```no_run
//! # use std::sync::Arc;
//! use twin_local::{LocalTwin, Setup, Side, WindowMode};
//! let twin = LocalTwin::new(Setup::default(), [WindowMode::Direct; 2])?;
//! let usd = ntb::Gen3::open(Arc::new(twin.attach(Side::A)?))?;
//! let dsd = ntb::Gen3::open(Arc::new(twin.attach(Side::B)?))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not do
//! Mode *alias*: it replaces the receiver's memory wherever this process maps it, and here the twin maps it too, and unmaps it
//! when it likes. Give it a twin in a process of its own.
//!
//! A DMA engine, and mode *dma*, which needs one: an engine is served by the event loop of `twin-server`, which gives it turns, a
//! worker's eventfd and the order among the messages of four sessions; here there is neither loop nor session. `isthmus twin --dma-a`
//! serves one, which `ntb::dma::Ioat` drives over its socket; in one process `ntb::dma::CpuCopy` is the same trait.
//!
//! # Invariants
//! 1. A port has one driver at a time; the next gets a port that is as after power-on.
//! 2. When a call returns, what it did is done: a window that a write opened is open, memory that was taken back is out of
//!    reach.
//! 3. The clock thread ends with the last handle.
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

mod clock;
mod port;
mod twin;

pub use ::twin::{Setup, Side, WindowSize};
pub use port::LocalPort;
pub use twin::{LocalTwin, StartError};
pub use twin_server::WindowMode;
