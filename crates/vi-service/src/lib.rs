//! Virtual interfaces across a bridge, for many processes.
//!
//! ```text
//!   a process            isthmus vi serve                               isthmus vi serve            a process
//!   Client ──socket────▶ Service ── Adapter ══ window 0: messages ══ Adapter ── Service ◀──socket── Client
//!     │  filters           │ TAP ── kernel                             kernel ── TAP │                │
//!     │  ◀── memory ───────┘                                                         └── memory ───▶  │
//!     └──────────────── frames, in lanes of window 1: no service, no system call ────────────────────┘
//! ```
//!
//! An [`Adapter`] is one end of a link: it lays out the windows, agrees with its peer, publishes its host's filters, and makes
//! lanes. A [`Service`] holds one and gives each [`Client`], another process, the memory of its own interface: of each lane it
//! sends or receives on, two files and no more. What no filter takes is the kernel's, by a TAP.
//!
//! **What a process can harm** is what it holds: the lanes of its own interface. The receiver of a frame looks again whether a
//! filter of its takes it, so a sender that does not steer by the table reaches nobody's program who did not ask for such frames. The
//! kernel gets what one puts on a wire. A lane that was given back is never given out again: its place in the window gets fresh
//! memory. Bells between processes are pipes, each end with flags of its own. A process that dies gives back all that it had, and
//! what it had sent is still delivered.
//!
//! **Where a BAR cannot be divided** (real devices behind VFIO, a twin in this process, windows that are messages, *alias* and
//! *shared* windows) one process has all of a host's memory, and there is no service: interfaces are made there over lanes of
//! that memory ([`vi::lane`]).
//!
//! What this crate does not do: frames that are longer than a buffer of a lane, for the kernel; routes and addresses.
//!
//! Invariants: what a client or the peer says is checked and cannot panic or hang anybody; the service is not on the way of a
//! frame between two clients; a wake-up is not lost.

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

pub mod adapter;
mod attachment;
mod client;
mod news;
mod protocol;
mod service;

pub use adapter::{Adapter, AdapterCounts, AdapterError, Agreement, Disagreement, Features, Lane, Offer};
pub use attachment::Attachment;
pub use client::{Client, ClientError, ClientOptions, LinkInfo, is_lost};
pub use service::{
    ClientStatus, ClockStatus, KernelCounts, Service, ServiceError, ServiceOptions, ServiceStatus,
};

use serde::{Deserialize, Serialize};

/// An interface of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViId(pub u16);

impl ViId {
    /// The one that is the kernel's.
    pub const KERNEL: Self = Self(0);
}
