//! What goes in besides accesses, and what comes out.

use crate::LinkState;
use std::time::Duration;

/// One of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The upstream device (USD), port a.
    A,
    /// The downstream device (DSD), port b.
    B,
}

impl Side {
    /// Both, a first.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A moment: time since the twin began. The model has no clock; whoever drives it says what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Duration);

impl Time {
    /// This moment and some time more; stays put at the end of time.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// What the model wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Raise an MSI-X vector at a host. Lost if that host has MSI-X disabled, as in hardware.
    Interrupt {
        /// Whose host.
        side: Side,
        /// 0 to 32.
        vector: u8,
    },
    /// The link changed state.
    Link(LinkState),
    /// Call [`Twin::advance`](crate::Twin::advance) at this time, and forget an earlier wish; `None`: no wish.
    Timer(Option<Time>),
    /// What a port's own window registers, bus-master bit or presence say of its inbound window may have changed.
    Translation {
        /// The port that owns the memory.
        side: Side,
    },
    /// A port was reset by a function-level reset, which arrives as a configuration write.
    Reset {
        /// Which.
        side: Side,
    },
}
