//! What happened, for whoever drives a transport.

use crate::layout::BadLayout;
use crate::words::{Mismatch, Words};

/// Something that a user or a log wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The words were written into the peer's scratchpads.
    Announced(Words),
    /// The peer's scratchpad words changed, and this is what is wrong with them.
    Unfit {
        /// As far as they were read.
        words: Words,
        /// What is wrong.
        why: Mismatch,
    },
    /// The peer's words fit.
    Agreed(Words),
    /// A window of the peer's cannot be served; nothing more happens until the link has been down.
    Refused {
        /// Which window.
        window: usize,
        /// Why.
        why: BadLayout,
    },
    /// Memory is behind every window; queue pairs may come up.
    TransportUp,
    /// The link went down, or the peer began anew: queue pairs are down, windows closed, scratchpads zero.
    TransportDown,
    /// The peer began its hand-shake anew without the link having been down.
    PeerRestarted,
    /// A queue pair is up: frames go both ways.
    QueueUp {
        /// Which.
        queue: usize,
    },
    /// A queue pair is down.
    QueueDown {
        /// Which.
        queue: usize,
        /// Why.
        why: Down,
    },
}

/// Why a queue pair is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// This side closed it.
    Mine,
    /// The peer said so in a frame.
    Message,
    /// The peer's ready bit went away, or was set anew, and no frame told of it; its ring was full, perhaps.
    Bit,
    /// The peer's count of frames began anew without a word.
    Count,
    /// The peer repeated its hand-shake.
    HandShake,
    /// The link, or the whole transport.
    Link,
}
