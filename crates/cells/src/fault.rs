//! Why a channel failed. A channel that failed stays so until it is opened again.

use shm::WindowError;

/// What ended a channel. What a peer wrote is told as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// This side closed it.
    #[error("the channel is closed")]
    Closed,
    /// The link under it went down.
    #[error("the link is down")]
    LinkDown,
    /// The peer closed it, or its own end failed.
    #[error("the peer has closed the channel")]
    PeerClosed,
    /// The peer has opened it anew.
    #[error("the peer has started the channel anew")]
    PeerRestarted,
    /// The peer's announcement is no longer one of this layout.
    #[error(
        "the peer's announcement changed to {found:#018x} while the channel was in use: it is not ours any more"
    )]
    Stranger {
        /// Magic number and version as found.
        found: u64,
    },
    /// A window refused an access.
    #[error("the window cannot be used")]
    Window(#[from] WindowError),
    /// paper: entry or exit is no position in the ring.
    #[error("the peer wrote {offset} as its {which} offset in a ring of {cells} cells")]
    OffsetRange {
        /// `entry` or `exit`.
        which: &'static str,
        /// As found.
        offset: u32,
        /// Cells in the ring.
        cells: u32,
    },
    /// paper: the exit offset moved over cells that were never filled.
    #[error("the peer's exit offset moved from {from} to {to}, past the entry offset at {entry}")]
    ExitPastEntry {
        /// Before.
        from: u32,
        /// As found.
        to: u32,
        /// How far this side has filled the ring.
        entry: u32,
    },
    /// fast: the peer says it has taken cells that were never sent.
    #[error("the peer says it has taken {claimed} cells of {sent} that were sent")]
    Credit {
        /// As found.
        claimed: u64,
        /// Cells sent so far.
        sent: u64,
    },
    /// fast: a cell's sequence is neither the next one nor the one before.
    #[error("a cell says sequence {found} where {expected} comes next")]
    Sequence {
        /// As found.
        found: u32,
        /// What comes next here.
        expected: u32,
    },
    /// A header says what cannot be.
    #[error("a cell's header says {found:#x}: {why}")]
    Header {
        /// As found.
        found: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A frame that is longer than was announced.
    #[error("the peer sends a frame of more than {longest} bytes, the length that was agreed")]
    FrameTooLong {
        /// The longest that this side takes.
        longest: usize,
    },
    /// A DMA engine gave up.
    #[error("the DMA engine failed")]
    Dma,
    /// The bell cannot be rung, or nobody can be woken by it.
    #[error("the doorbell failed")]
    Bell,
}

impl Fault {
    /// Whether it says that the peer is gone, and nothing against what it sent before: that lies in my memory, whole.
    pub(crate) fn is_absence(self) -> bool {
        matches!(
            self,
            Self::LinkDown | Self::PeerClosed | Self::PeerRestarted | Self::Window(WindowError::Closed)
        )
    }
}
