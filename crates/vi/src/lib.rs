//! Virtual interfaces: layer 2 in user space, in about the time that a cache line takes.
//!
//! ```text
//!   sender ──▶ lane ──▶ receiver        a frame of up to 60 bytes is one cache line, with its event
//! ```
//!
//! [`lane`] is the ring between one sender and one receiver.
//!
//! What this crate does not do: lock, allocate or call the system on the way of a frame; read across the bridge; trust
//! what the other end writes.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing
    )
)]

mod bell;
mod bits;
mod domain;
pub mod filter;
mod interface;
pub mod lane;
mod packet;
mod programmed;
mod statistics;
mod steer;

pub use bell::Bell;
pub use domain::{PacketBuffer, ProtectionDomain};
pub use interface::{Event, LaneId, NotPosted, PostRefusal, TransmitError, Vi};
pub use packet::{Packet, RequestId};
pub use programmed::{Alternative, Pio};
pub use statistics::Statistics;
pub use steer::Steered;
