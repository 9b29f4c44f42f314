//! What an adapter tells its owner.

use super::{Agreement, Change, Lane, PoolError};
use crate::ViId;
use ntb::BridgeError;
use std::os::fd::OwnedFd;

/// What the owner of an adapter is to do.
#[derive(Debug)]
pub enum Happening {
    /// The peer is there.
    Up(Agreement),
    /// The peer is gone, and all lanes and its filters with it.
    Down,
    /// The peer's filter table has changed.
    Filters(Change),
    /// An interface of this host may send on a lane.
    MaySend(LaneEnd),
    /// An interface of this host is to receive from a lane.
    Receives(LaneEnd),
    /// Nobody receives on a lane to send on any more.
    NoMoreSending {
        /// Whose it was.
        vi: ViId,
        /// Which.
        lane: Lane,
    },
    /// Nobody sends on a lane to receive from any more: what is in it is all.
    NoMoreReceiving {
        /// Whose it was.
        vi: ViId,
        /// Which.
        lane: Lane,
    },
    /// An interface of this host sleeps, and something came for it.
    Wake(ViId),
}

/// One end of a lane, as its interface gets it: two memory files, of nobody's else.
#[derive(Debug)]
pub struct LaneEnd {
    /// The interface of this host.
    pub vi: ViId,
    /// The peer's.
    pub peer: ViId,
    /// Which lane.
    pub lane: Lane,
    /// The area that is received in.
    pub receive_area: OwnedFd,
    /// The area for what comes back.
    pub return_area: OwnedFd,
}

/// Why an adapter cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// Memory for lanes.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// What an adapter counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AdapterCounts {
    /// Lanes that were made.
    pub lanes_made: u64,
    /// Lanes in use now, to receive from and to send on.
    pub lanes_now: (u32, u32),
    /// Lanes that could not be had because all were in use.
    pub lanes_short: u64,
    /// Lanes whose memory at the other host did not come.
    pub lanes_failed: u64,
    /// Messages of the peer's that make no sense.
    pub nonsense: u64,
    /// How often the peer came.
    pub links: u64,
    /// Exchanges of times with the peer that were used.
    #[serde(default)]
    pub clock_exchanges: u64,
    /// How often one of both clocks was set.
    #[serde(default)]
    pub clock_jumps: u64,
    /// Answers about the peer's clock that made no sense.
    #[serde(default)]
    pub clock_refused: u64,
}
