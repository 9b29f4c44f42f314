//! The far side of a guest: a process that speaks `ntb_transport` opposite a stock Linux, for people who debug their own.
//!
//! ```text
//!   Bridge ── Endpoint (crate linux-transport) ──frames──▶ script: drop, delay, stall, close ──▶ client
//!                │                             ◀─frames──  script: the same, corrupt, header ◀──  responder, TAP or raw test
//!                └── watched port: every word of the hand-shake  ──▶ lines (`--dump`)
//! ```
//!
//! [`run`] is the whole of `isthmus peer linux`; the command reads arguments and prints lines.
//!
//! What this crate does not do: speak the protocol (that is `linux-transport`), drive registers (`ntb`), or be a network
//! stack: it answers ARP and pings. For more there is the TAP device.
//!
//! Invariants: nothing a guest sends grows memory without limit (what waits is counted and dropped behind a limit), and each
//! turn of the loop takes a bounded number of frames.

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

pub mod ethernet;
pub mod raw;
mod responder;
mod run;
pub mod script;
mod tap;
mod text;
mod watched;

pub use responder::Responder;
pub use run::{PeerError, Report};
pub use watched::{Watched, Way, Word};

use linux_transport::Config;
use ntb::Bridge;
use run::Peer;
use script::Script;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Who sits behind the transport.
#[derive(Debug, Clone)]
pub enum Role {
    /// Somebody who answers ARP and pings.
    Respond(Responder),
    /// This machine, by a TAP device.
    Tap {
        /// The device's name.
        name: String,
        /// Its address.
        address: Ipv4Addr,
        /// How many bits of that are the network.
        prefix: u8,
    },
    /// A raw test, by somebody who answers.
    Raw(Responder, raw::Plan),
}

/// What a peer is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The queue pair; ntb_netdev uses 0.
    pub queue: usize,
    /// What both sides have to agree on.
    pub transport: Config,
    /// Who answers.
    pub role: Role,
    /// By which rules it misbehaves.
    pub script: Script,
    /// Whether every frame and every word of the hand-shake is told.
    pub dump: bool,
    /// How long the queue pair may be down.
    pub timeout: Option<Duration>,
}

/// Runs a peer until `stop` is readable, or a raw test is over. `tell` hears what happens, a line each.
///
/// # Errors
/// [`PeerError`].
pub fn run(
    bridge: Arc<dyn Bridge>,
    settings: &Settings,
    stop: BorrowedFd<'_>,
    tell: &mut dyn FnMut(&str),
) -> Result<Report, PeerError> {
    Peer::new(bridge, settings, tell)?.run(stop)
}
