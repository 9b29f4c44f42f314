//! Linux's `ntb_transport`, spoken by a process: hand-shake, queue pairs, frames, "link down".
//!
//! ```text
//!   link up ──▶ announce VERSION, NUM_QPS, NUM_MWS, sizes ──▶ the peer's words fit ──▶ memory behind every window
//!               (the peer's scratchpads, every 10 ms)         (my scratchpads)         (translation set)
//!
//!   client ready ──▶ QP_LINKS bit in the peer's scratchpad, and the peer's in mine ──▶ queue pair up
//!
//!   send:     payload, {count, length}, flag ──stores through the window──▶ a slot in the peer's memory; doorbell
//!   receive:  flag in my memory ──▶ header read once, checked ──▶ payload copied ──▶ slot number stored at the peer
//! ```
//!
//! [`Transport`] is a state machine without I/O, in the manner of smoltcp: it is handed a [`Port`] (scratchpads, windows,
//! doorbells) and a [`Time`], and tells by [`Event`]s what became of them. [`Endpoint`] is the same on an [`ntb::Bridge`],
//! with a clock: opposite a stock Linux guest it brings that guest's network device up.
//!
//! Source: Linux `drivers/ntb/ntb_transport.c` and `include/linux/ntb_transport.h` of 6.1 and 6.12. Where it does more
//! than Linux, so that a stock peer survives what Linux itself does not, the place says so: `pair.rs` and
//! `queue.rs`, `prepare_outbound`, and the watch of `transport.rs`.
//!
//! What this crate does not do: sockets, threads, Ethernet. DMA engines and `use_msi` are not spoken;
//! the other side of a frame cannot tell.
//!
//! Invariants:
//! - on the way of a frame nothing is read across the link: there are stores alone;
//! - every word of the peer is read once, checked, then used: whatever it writes, nothing panics, no loop is longer than a
//!   ring, and no access leaves the windows;
//! - a slot is written only when the peer said that it is empty, and its flag is set behind everything else;
//! - after the link was down nothing of the time before is left: not a count, not a bit, not a scratchpad.

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

mod bridge_port;
mod config;
mod endpoint;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
mod heap;
mod layout;
mod pair;
mod port;
mod queue;
#[cfg(test)]
mod tests;
mod time;
mod transport;
mod words;

pub use bridge_port::{BridgePort, PortError};
pub use config::{BadConfig, Config, Lies, MAX_QUEUES, MAX_WINDOWS};
pub use endpoint::{Endpoint, Notice, StartError};
pub use event::{Down, Event};
pub use layout::{BadLayout, Layout};
pub use port::Port;
pub use queue::Statistics;
pub use time::Time;
pub use transport::{NotSent, Received, Sent, Transport};
pub use words::{Mismatch, Words};
