//! Measuring between two processors of a machine that is shared with others.
//!
//! ```text
//!   Pair::window   ── probe ── what is measured, on both processors at once ── probe ──▶ counts, or does not
//!                     │                                                         │
//!                     └ round trip of one cache line: smt, near or far ─────────┘ the same, and nobody interrupted
//!
//!   bare     what the same two processors do with bare memory: the reference
//!   frames   what two virtual interfaces do, over any windows
//! ```
//!
//! A virtual machine's processors move about under it: within seconds they share a core, a cache, or nothing. So
//! everything is measured in windows of a few milliseconds, each between two probes of the cost of a cache line's way
//! to the other processor and back. A window counts when its probes agree and both threads had their processors all
//! the time; figures are compared within one window.
//!
//! `isthmus perf latency|rate`, `bench/peers` and the benches of `shm`, `cells` and `vi` measure with this. It is no part of
//! what it measures: nothing here is on a data path.
//!
//! What this crate does not do: print, draw, know bridges.
#![forbid(unsafe_code)]

pub mod bare;
pub mod frames;
mod pair;
mod timing;

pub use pair::{Class, Line, OneProcessor, Pair, Window, allowed_processors, spin_until};
pub use timing::{
    CHUNK, Chunks, EACH, Failure, Patience, RUNS, TRIPS, TRIPS_IN_ALL, Trips, frames_of, median,
};
