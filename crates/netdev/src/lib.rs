#![expect(
    unsafe_code,
    reason = "UNSAFETY: the ioctls of TUN/TAP and of interfaces, all in tap/ioctl.rs; no crate offers the ones that are needed"
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

//! A network interface across the bridge: every program that uses sockets runs over it unchanged.
//!
//! ```text
//!   iperf3, ping, curl          this process                                        the peer's
//!      kernel: TCP/IP
//!        │ ntb0 (a TAP)
//!        └──frame──▶ TapQueue ──▶ Pump ──▶ dyn FrameLink ══ the bridge ══▶ FrameLink ──▶ Pump ──▶ TapQueue ──▶ kernel
//!                                  │
//!                    Interface: MTU, offloads, carrier follow the link
//! ```
//!
//! A [`Tap`] has one or several queues; each has a [`Pump`] with a thread and a [`FrameLink`] of its own. A frame is read from the TAP,
//! given to the link, and written into the peer's TAP as it is: no checksum is computed and nothing is cut here. Where both kernels
//! leave work to each other ([`Offload`]), the virtio header travels with the frame and is checked on arrival.
//!
//! **When the link is full** the TAP is not read: nothing is dropped here. A TAP does not stop the layer above, so the kernel
//! drops what exceeds its queue and counts it ([`Statistics::tx_dropped`]), which is shown with our own counters.
//!
//! **When nothing moves** a pump polls for a while, asks the link to ring and the kernel to wake it, and sleeps.
//!
//! What this crate does not do: route, bridge, filter, or look into a frame behind its virtio header; start threads; know rings
//! and registers, which are behind [`FrameLink`].
//!
//! Invariants: what comes from a link is checked before a kernel sees it; a frame is dropped only where a counter says so; no
//! wake-up is lost; nothing here panics or blocks the peer.

mod cells_link;
mod counters;
mod engine;
mod hello;
mod interface;
mod link;
mod linux_link;
mod mac;
mod memory_link;
pub mod namespace;
mod port;
mod pump;
pub mod tap;
#[cfg(test)]
mod testing;
mod vnet_header;

pub use cells_link::CellsLink;
pub use counters::{Counters, Counts};
pub use engine::CellsEngine;
pub use interface::{Interface, QueueWatcher};
pub use link::{Agreement, Armed, Disagreement, FrameLink, LinkState, Offer, Sent, Wants};
pub use linux_link::{LINUX_MTU_MAX, LinuxLink};
pub use mac::{MacAddress, NotAnAddress};
pub use memory_link::{Cable, MemoryLink};
pub use port::{PortError, PortOptions, open_cells};
pub use pump::{Pump, Watcher};
pub use tap::{MTU_MAX, MTU_MIN, QUEUES_MAX, Statistics, Tap, TapError, TapOptions, TapQueue};
pub use vnet_header::{ETHERNET_HEADER_BYTES, Offload, VLAN_TAG_BYTES, VNET_HEADER_BYTES};
