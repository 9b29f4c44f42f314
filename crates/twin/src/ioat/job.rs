//! What the engine wants done in memory, and what came of it.

use ntb_spec::ioat::DESCRIPTOR_BYTES;

/// The most bytes that one job copies.
pub const PIECE_BYTES: u32 = 256 << 10;

/// One step of a channel's work. It is carried out once and given back once: it cannot be copied.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the channel waits until the job comes back through Engine::complete"]
pub struct Job {
    /// Whose.
    pub channel: u8,
    /// What to do.
    pub kind: JobKind,
    /// Which job of that channel; no two have the same.
    pub(super) generation: u64,
}

/// What to do. Addresses are the host's bus addresses, and nothing has checked them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Read the 64 bytes of a descriptor.
    Fetch {
        /// A multiple of 64.
        address: u64,
    },
    /// Copy. The ranges may overlap; then what comes out is for the copy routine to say.
    Copy {
        /// First byte to read; the range does not wrap.
        source: u64,
        /// First byte to write; the range does not wrap.
        destination: u64,
        /// 1 to [`PIECE_BYTES`].
        bytes: u32,
    },
    /// Write 8 bytes, little-endian, in one store: the host polls them.
    WriteBack {
        /// A multiple of 8.
        address: u64,
        /// As CHANSTS has it.
        value: u64,
    },
}

/// What a job that went well gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes that a fetch read.
    Fetched([u8; DESCRIPTOR_BYTES]),
    /// A copy or a write-back is done.
    Done,
}

/// What a job ran into. Part of it may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobFault {
    /// An address to read is nowhere, or may not be read.
    Read,
    /// An address to write is nowhere, or may not be written.
    Write,
}
