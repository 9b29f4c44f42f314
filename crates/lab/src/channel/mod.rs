//! Commands over a byte stream: between lab and agent, agent and `ssh`, lab and an attached terminal.
//!
//! ```text
//!  isthmus lab run ──unix socket──┐                                     ┌── unix socket ── ssh (the shim)
//!                                 ▼                                     ▼
//!                     lab (host) [Mux] ◀── virtio-serial, frames ──▶ [Mux] agent (guest) ──▶ commands
//! ```
//!
//! Every connection is the same thing, a [`Mux`]: either end may start a command on the other, several at
//! once, each with three streams under credit (no more than [`WINDOW_BYTES`] of a stream are on the way), an
//! exit status, signals and a terminal size. [`relay`] joins a call that came in to one that goes out, which
//! is all that the lab does for an `ssh` from one guest to the other.
//!
//! Invariants: a reader never writes, so two ends cannot wait for each other; what a peer sends is bounded by
//! the frame and by the credit; bytes that are no frame are skipped.

pub mod frame;
mod mux;
mod relay;
mod types;

pub use frame::Stream;
pub use mux::{Call, CallWriter, Handler, Mux, WINDOW_BYTES};
pub use relay::{Captured, capture, refuse, relay};
pub use types::{Event, Exec, ExitStatus, Hello, Program, Target};
