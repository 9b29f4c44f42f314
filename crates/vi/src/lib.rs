//! Virtual interfaces: layer 2 in user space, with the concepts and the manners of ef_vi.
//!
//! ```text
//!   Vi::transmit ─▶ Table::steer (the receiver's filters, at the sender) ─▶ Sender ──one cache line──▶ slot
//!                                                                             └──longer payload──▶ posted buffer
//!   Vi::poll ─▶ Event::Received(Packet) ◀─ read where it landed ◀─ Receiver ◀── slot, buffer
//!                  └─ dropped: credit and buffer go back ──▶ the sender's own memory
//! ```
//!
//! [`Vi`] belongs to one thread and has [lanes](lane): each is one ring from one sending to one receiving interface, with
//! its own buffers, in its own memory file. [`ProtectionDomain`] and [`PacketBuffer`] say whose buffers may be posted
//! where, [`filter`] which frames an interface gets, [`Pio`] and [`Alternative`] hold frames with the receiver before
//! they are sent. [`TimedVi`] adds a [clock](clock), a [`Pace`], a timer and [discards](checksum); a [packed stream](stream) takes
//! frames to a [capture file](pcapng). docs/vi.md teaches all of it; docs/vi-parity.md compares it with ef_vi row by row.
//!
//! ```
//! use vi::lane::{Geometry, Meta, SharedLane};
//! use vi::{Event, ProtectionDomain, RequestId, Vi};
//!
//! #[derive(Debug)]
//! struct Market;
//!
//! let domain = ProtectionDomain::<Market>::new();
//! let lane = SharedLane::create(Geometry::default())?;
//! let (mut here, mut there) = (Vi::<Market>::new(&domain), Vi::<Market>::new(&domain));
//! let out = here.attach_sender(lane.sender()?, None);
//! let (_, buffers) = there.attach_receiver(lane.receiver()?);
//! for buffer in buffers {
//!     there.receive_init(buffer, RequestId(0)).map_err(|refused| refused.reason)?;
//! }
//! there.receive_push();
//!
//! here.transmit(out, b"a frame", Meta::default(), RequestId(1))?;
//! let mut events = [Event::Nothing, Event::Nothing];
//! assert_eq!(there.poll(&mut events), 1);
//! let Event::Received(packet) = &events[0] else { unreachable!() };
//! assert_eq!(&packet.header::<7>(), b"a frame");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants:
//! - nothing is loaded across a window: what an end polls lies in its own memory;
//! - every word that the other end wrote is loaded once and checked; one that makes no sense ends its lane with a
//!   [reason](lane::Nonsense), harms no other lane, and is told once;
//! - a buffer has one holder: the application, the sender, or the packet in it;
//! - in steady state nothing is allocated, and on lanes without wake-ups no system call is made;
//! - a receiver that has primed and sleeps is woken by the next frame.
//!
//! Not here: anything that opens a window. The crate `vi-service` makes lanes across a bridge, publishes filter tables, and hands
//! lanes to processes. Not built: merged receive events.

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
pub mod capture;
pub mod checksum;
pub mod clock;
mod domain;
pub mod filter;
mod interface;
pub mod lane;
mod pace;
mod packet;
pub mod pcapng;
mod programmed;
pub mod replay;
mod statistics;
mod steer;
pub mod stream;
mod timed;
mod timer;
pub mod udp;

pub use bell::Bell;
pub use domain::{PacketBuffer, ProtectionDomain};
pub use interface::{Event, LaneId, NotPosted, PostRefusal, TransmitError, Vi};
pub use pace::Pace;
pub use packet::{Packet, RequestId};
pub use programmed::{Alternative, Pio};
pub use statistics::Statistics;
pub use steer::Steered;
pub use timed::{PacedError, TimedEvent, TimedVi};
pub use timer::EventTimer;
