//! The communication framework: rings of cells in a pair of windows.
//!
//! ```text
//!   Link::new(outbound, inbound) ── open("net0", Setup) ──▶ Opening ── the peer opens it too ──▶ Channel
//!                                                                                                │ split
//!   frame ─▶ Sender ─ free cells counted, cut into cells ──stores──▶ the peer's ring            ◀┘
//!   frame ◀─ Receiver ◀─ first fragment, then the whole frame ◀───── my ring ◀──stores── the peer
//! ```
//!
//! A window into the peer's memory is the send buffer, one's own memory is the receive buffer: what was sent before a
//! crash of the sender is not lost with it. Two profiles of the same framework: [`Profile::Paper`] is the published
//! one, byte for byte; [`Profile::Fast`] never reads across the bridge, has larger cells and a sequence in each.
//! docs/framework.md has both layouts, with a picture.
//!
//! ```
//! use cells::{Geometry, Link, Setup};
//! use shm::Heap;
//! use std::{sync::Arc, time::Duration};
//!
//! // Two memories; each side's window leads into the other's.
//! let (a, b) = (Arc::new(Heap::new(1 << 20)), Arc::new(Heap::new(1 << 20)));
//! let setup = Setup::new(Geometry::fast(16, 2048)?);
//! let mut here = Link::new(Arc::clone(&b), Arc::clone(&a))?.open("net0", setup.clone())?;
//! let mut there = Link::new(a, b)?.open("net0", setup)?;
//! here.poll()?;
//! there.poll()?;
//! let (mut sender, _) = here.wait(Duration::from_secs(1))?.split();
//! let (_, mut receiver) = there.wait(Duration::from_secs(1))?.split();
//!
//! sender.try_send(b"a frame")?;
//! assert_eq!(receiver.try_receive()?, Some(&b"a frame"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What this crate does not do: open windows or bells, threads, know what a frame means, send again what a link lost.
//!
//! Invariants:
//! - every number that the peer wrote is read once and checked before it is used; nonsense ends the channel with a
//!   [`Fault`] that says what was found, and the channel can be opened again;
//! - nothing is read or stored outside the two regions of a channel and their announcements;
//! - `fast` loads from its own memory only; `paper` loads the exit offset across the window, and nothing else;
//! - sending and receiving allocate nothing, and make no system call unless somebody sleeps;
//! - frames arrive in order, whole, once.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(any(test, feature = "fuzzing")),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod bell;
mod carry;
mod channel;
mod directory;
mod fast;
mod fault;
mod flow;
#[cfg(all(any(test, feature = "fuzzing"), not(loom)))]
pub mod fuzzing;
mod header;
mod layout;
mod link;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;
mod order;
mod paper;
mod placement;
mod region;
#[cfg(all(test, not(loom)))]
mod transcripts;

#[cfg(not(loom))]
pub use bell::EventBell;
pub use bell::{Alarm, Bell, BellFailed};
pub use carry::{DmaEngine, DmaFailed, Placement};
pub use channel::{Channel, Closer, ReceiveCounters, Receiver, SendCounters, SendError, Sender};
pub use fault::Fault;
pub use layout::{BadGeometry, Geometry, LAYOUT_VERSION, Profile};
pub use link::{Bells, Link, OpenError, Opening, Regions, Setup};
