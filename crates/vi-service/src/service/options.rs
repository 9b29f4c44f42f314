//! How a service is set up, why it does not serve, and what it counts.

use super::KernelCounts;
use crate::ViId;
use crate::adapter::{AdapterCounts, AdapterError};
use netdev::{MacAddress, Tap, TapError, TapQueue};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use vi::lane::Geometry;

/// How a service is set up.
#[derive(Debug)]
pub struct ServiceOptions {
    /// Where clients connect.
    pub socket: PathBuf,
    /// The kernel's interface, if there is one.
    pub tap: Option<(Tap, TapQueue)>,
    /// This host's Ethernet address.
    pub mac: MacAddress,
    /// Bytes of an IP packet at most. A frame has to fit into one buffer of a lane.
    pub mtu: u32,
    /// The shape of every lane; the same at both ends.
    pub geometry: Geometry,
    /// Lanes in each direction; the same at both ends.
    pub lanes: u16,
}

/// Why a service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Its socket.
    #[error("no clients can connect at {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Frames do not fit.
    #[error(
        "an MTU of {mtu} takes buffers of {needs} bytes, and a lane has {has}: choose larger --buffer-bytes or a smaller --mtu"
    )]
    Mtu {
        /// What was asked for.
        mtu: u32,
        /// What a frame takes.
        needs: usize,
        /// What there is.
        has: u32,
    },
    /// The kernel.
    #[error("waiting failed")]
    Wait(#[from] io::Error),
    /// The TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
}

/// What a service has counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The peer's Ethernet address, while it is there.
    pub peer_mac: Option<String>,
    /// Bytes of an IP packet at most.
    pub mtu: u32,
    /// Its clients.
    pub clients: Vec<ClientStatus>,
    /// The adapter's counts.
    pub adapter: AdapterCounts,
    /// The kernel's.
    pub kernel: KernelCounts,
    /// Clients that were sent away: they spoke nonsense, or did not read.
    pub sent_away: u64,
    /// Clients that came, ever.
    pub came: u64,
}

/// A client of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its interface.
    pub vi: ViId,
    /// What it calls itself.
    pub name: String,
    /// How many filters it has.
    pub filters: u32,
}
