//! How a service is set up, why it does not serve, and what it counts.

use super::KernelCounts;
use crate::ViId;
use crate::adapter::{AdapterCounts, AdapterError};
use netdev::{MacAddress, Tap, TapError, TapQueue};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use vi::clock::{Clock, PeerOffset, SyncFlags};
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
    /// The clock that the peer's is measured by, and that frames of the kernel's get their times from. Without one it is
    /// [that of the process](vi::clock::shared), if lanes carry times ([`Geometry::stamps`]).
    pub clock: Option<Clock>,
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
    /// How the peer's clock stands to this host's, where it is measured.
    #[serde(default)]
    pub clock: Option<ClockStatus>,
}

/// How the peer's clock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// The peer's minus this host's, in nanoseconds.
    pub offset_ns: i64,
    /// How wrong that may be, either way.
    pub bound_ns: u64,
    /// How far the peer's may be from its own CLOCK_TAI, as it says.
    pub peer_bound_ns: u64,
    /// Whether the peer's was set from CLOCK_TAI.
    pub set: bool,
    /// Whether it follows that, and somebody disciplines it.
    pub in_sync: bool,
}

impl From<PeerOffset> for ClockStatus {
    fn from(peer: PeerOffset) -> Self {
        let PeerOffset { offset_ns, bound_ns, peer_bound_ns, flags } = peer;
        let (set, in_sync) = (flags.contains(SyncFlags::CLOCK_SET), flags.contains(SyncFlags::IN_SYNC));
        Self { offset_ns, bound_ns, peer_bound_ns, set, in_sync }
    }
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
