//! Where a session sits: each host has two functions, and each function a socket of its own.

use twin::Side;

/// A function of a host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    /// The NTB.
    Port(Side),
    /// The I/OAT engine.
    Engine(Side),
}

impl Seat {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// Whose.
    pub(crate) const fn side(self) -> Side {
        match self {
            Self::Port(side) | Self::Engine(side) => side,
        }
    }

    /// A number of its own, below [`COUNT`](Self::COUNT).
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Port(side) => side as usize,
            Self::Engine(side) => 2 + side as usize,
        }
    }

    /// What a log calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Port(Side::A) => "a",
            Self::Port(Side::B) => "b",
            Self::Engine(Side::A) => "dma-a",
            Self::Engine(Side::B) => "dma-b",
        }
    }
}
