//! What a twin tells the overlay in a host's process, and what the overlay answers.
//!
//! An overlay connects to the control socket and sends [`Request::Overlay`](crate::Request::Overlay). From then on the roles are
//! reversed: the twin sends one [`OverlayCommand`] a line, with the files that it names as ancillary descriptors of the same
//! message, and sends the next one only after the [`OverlayAnswer`] to this one. So a descriptor always belongs to the one
//! command that is under way.

use serde::{Deserialize, Serialize};

/// A range of a file, wherever a process maps it. Device and inode name the file, as `fstat` and
/// `/proc/self/maps` do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileRange {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Some bytes of another file, to be put over a part of a [`FileRange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where in the range, in bytes from its beginning.
    pub at: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Which of the command's descriptors.
    pub file: usize,
    /// First byte in that file.
    pub offset: u64,
}

/// The most descriptors that one command carries: a window of many small files, each for somebody else, below the kernel's
/// limit for one message (`SCM_MAX_FD`, 253).
pub const MAX_OVERLAY_FILES: usize = 200;
/// The most pieces that one command has: a window of 16 MiB in pages, and a quarter of what a process may map.
pub const MAX_OVERLAY_PIECES: usize = 4096;

/// An order to an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayCommand {
    /// Comes back in the answer.
    pub id: u64,
    /// What to change.
    pub target: FileRange,
    /// What belongs there; bytes that no piece covers are closed: a fresh private copy of all ones.
    pub pieces: Vec<Piece>,
    /// Close the range when the twin is gone. Not for a host's own RAM, which must stay as it is.
    pub close_on_hangup: bool,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayAnswer {
    /// The order's.
    pub id: u64,
    /// Why it failed; the range is closed then if the order allowed closing, else as it was.
    pub error: Option<String>,
    /// How long the mapping calls took, in nanoseconds.
    pub took_ns: u64,
}
