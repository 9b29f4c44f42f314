//! A lane: one ring with its own receive buffers, from one sending to one receiving virtual interface.
//!
//! ```text
//!   sender's host                                      receiver's host
//!   Sender ──event lines, payload──▶ receive area      (the receiver's memory, page-aligned)
//!                                     slots            one cache line each: an event, short frames inside it
//!                                     buffers          payload of longer frames
//!          return area ◀──credit, posted buffers, armed── Receiver
//!          (the sender's memory)
//! ```
//!
//! **Only remote writes.** Each end stores into the other's memory and loads from its own; neither loads across.
//!
//! **A frame of up to 60 bytes is one cache line.** Bytes 0 to 59 of the line are the frame, the last 4 are the tag:
//! lap, kind, length, filter. The last 8 bytes go by one release store, so a receiver that sees the tag sees the frame.
//! A frame of up to 120 bytes is two lines; of such that are pushed together and are no longer than 64 bytes, fifteen share
//! one more line. A longer one is copied into a buffer that the receiver has
//! posted, and its event line says where it lies. The receiver reads each where it landed, and lets it go.
//!
//! **No index is polled.** A tag carries the lap of the ring it belongs to, and so does each posted buffer: who waits
//! looks at the one place where the next thing will appear.
//!
//! **Nothing the other end writes is trusted.** Each word is loaded once into private memory and checked; one that
//! makes no sense fails the lane with the reason ([`Nonsense`]), for ever. Neither end then loads or stores in it.
//!
//! Sleep: a receiver *arms* the lane (a store into the sender's memory), settles, looks once more, then sleeps. A
//! sender that publishes on a lane with wake-ups makes a full fence, then looks whether it is armed.

mod address;
mod body;
mod claim;
mod event;
mod geometry;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;
mod order;
mod put;
mod receiver;
mod sender;
mod shared;
mod short;
mod take;
#[cfg(all(test, not(loom)))]
mod tests;

pub use address::Address;
pub use body::{Arrival, Body};
pub use claim::Claim;
pub use event::{FilterId, Meta};
pub use geometry::{BadGeometry, Geometry};
pub use receiver::{Holding, PostError, Receiver};
pub use sender::{SendError, Sender};
pub use shared::{MappedReceiver, MappedSender, SharedLane, SharedLaneError};
pub(crate) use take::Taken;

use shm::WindowError;

/// Something the other end wrote that makes no sense. The lane is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A tag of a lap that is neither this one nor the one before.
    #[error("slot {slot} holds the tag of lap {seen}, where {expected} comes next")]
    Lap {
        /// Which slot.
        slot: u32,
        /// What its tag says.
        seen: u8,
        /// What comes next.
        expected: u8,
    },
    /// A kind of event that does not exist.
    #[error("event kind {0} does not exist")]
    Kind(u8),
    /// A length that does not fit where the bytes are.
    #[error("a frame of {bytes} bytes where {most} fit")]
    Length {
        /// What the event says.
        bytes: u32,
        /// What fits.
        most: u32,
    },
    /// An address that is no buffer of this lane.
    #[error("{0} is no buffer of this lane")]
    Address(Address),
    /// A buffer that was not posted, or was filled already.
    #[error("buffer {0} was not posted")]
    NotPosted(u32),
    /// A frame in a slot that was not let go.
    #[error("slot {0} was written while its frame was being read")]
    NoCredit(u32),
    /// A frame whose rest did not come before it, or a line of rests behind another one.
    #[error("a frame and the line of rests before it do not fit together")]
    Rests,
    /// Credit for slots that were not sent, or less credit than before.
    #[error("credit for {seen} slots, where {before} were returned and {sent} were sent")]
    Credit {
        /// What the other end says was taken.
        seen: u64,
        /// What it said before.
        before: u64,
        /// What was sent.
        sent: u64,
    },
    /// More buffers posted than there are.
    #[error("more buffers were posted than the lane has")]
    TooManyBuffers,
    /// A posted buffer of a lap that is neither this one nor the one before.
    #[error("a posted buffer of lap {seen}, where {expected} comes next")]
    PostedLap {
        /// What it says.
        seen: u8,
        /// What comes next.
        expected: u8,
    },
}

/// Why a lane carries nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The other end wrote what makes no sense.
    #[error("the other end of the lane breaks the protocol")]
    Nonsense(#[from] Nonsense),
    /// The window refused an access: the link is down, or the lane does not fit it.
    #[error("the lane's window")]
    Window(#[from] WindowError),
}

/// A lane that carries nothing any more. The reason is kept by the end that found it: `failure`.
///
/// Errors of the hot path have no size, so that what comes beside them stays in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane is over")]
pub struct LaneOver;

/// Whether an area is long enough.
fn fits(has_bytes: usize, needs_bytes: u64) -> Result<(), BadGeometry> {
    if (has_bytes as u64) < needs_bytes {
        return Err(BadGeometry::Area { has_bytes: has_bytes as u64, needs_bytes });
    }
    Ok(())
}
