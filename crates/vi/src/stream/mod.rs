//! Packed stream: frames one behind the other in a ring of bytes, to be written to a file or looked through.
//!
//! ```text
//!   Vi ─▶ StreamWriter::append ─▶ │ header 32 B │ frame │ pad to 8 │ header │ frame │ .. ─▶ StreamReader::batch ─▶ Record
//!                                                                                             read in place
//! ```
//!
//! One thread writes and one reads, in one process or in two: the ring is memory that both map, and neither trusts
//! the other. A record is never cut at the ring's end: what is left there becomes a record that is only padding. When
//! there is no room the frame is lost for the stream, and counted; the sender of the frame is never held up by it.
//!
//! ```text
//!   0      written: bytes ever, up to which records are whole     (the writer stores, the reader loads)
//!   64     records lost for want of room, ever                    (the same)
//!   128    read: bytes ever that the reader has let go            (the reader stores, the writer loads)
//!   4096   the ring
//! ```

mod reader;
mod record;
#[cfg(all(test, not(loom)))]
mod tests;
mod writer;

pub use reader::{Batch, Record, StreamReader};
pub use record::{HEADER_BYTES, RecordFlags, RecordHeader};
pub use writer::StreamWriter;

use shm::{Access, MapError, Mapping, SharedFile, Unfit, WindowError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the words lie.
const WRITTEN: usize = 0;
const LOST: usize = 64;
const READ: usize = 128;
/// Where the ring begins.
const RING: usize = 4096;

/// Why a stream carries nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The memory has no room for a stream: a page, then a power of two of at least 4096 bytes.
    #[error("{0} bytes are no memory for a stream: a page and a power of two of at least 4096 are")]
    Size(u64),
    /// The other end says that more was written, or read, than can be.
    #[error("the other end of the stream counts {seen} bytes, where {least} to {most} can be")]
    Count {
        /// What it says.
        seen: u64,
        /// What is least.
        least: u64,
        /// What is most.
        most: u64,
    },
    /// A record that does not fit where it begins.
    #[error("a record of {bytes} bytes where {room} are left")]
    Record {
        /// What its header says.
        bytes: u32,
        /// What is there.
        room: u64,
    },
    /// A record that says it has more of the frame than it has room for.
    #[error("a record of {bytes} bytes with {captured} bytes of a frame")]
    Captured {
        /// Bytes of the record.
        bytes: u32,
        /// Bytes of the frame in it.
        captured: u32,
    },
    /// The memory refuses an access.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// Why a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StreamFileError {
    /// No stream has this size.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The kernel gives no memory.
    #[error("memory for a stream")]
    Memory(#[source] io::Error),
    /// The descriptor that came is no memory for this stream.
    #[error("the descriptor is no memory for this stream")]
    Unfit(#[from] Unfit),
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A stream in a memory file of its own. Its descriptor is what one process hands another.
///
/// Each end is made once. Two writers, or two readers, spoil the stream and nothing else.
#[derive(Debug)]
pub struct StreamFile {
    file: SharedFile,
    ring_bytes: u64,
}

impl StreamFile {
    /// A fresh stream; `ring_bytes` is a power of two, 64 KiB at least for frames of every length.
    ///
    /// # Errors
    /// [`StreamFileError`].
    pub fn create(ring_bytes: u64) -> Result<Self, StreamFileError> {
        let bytes = total(ring_bytes)?;
        let file = SharedFile::create("isthmus-stream", bytes).map_err(StreamFileError::Memory)?;
        Ok(Self { file, ring_bytes })
    }

    /// A stream whose descriptor another process sent.
    ///
    /// # Errors
    /// [`StreamFileError`]; memory that is too short or can be cut is refused.
    pub fn accept(descriptor: OwnedFd, ring_bytes: u64) -> Result<Self, StreamFileError> {
        let file = SharedFile::accept(descriptor, total(ring_bytes)?)?;
        Ok(Self { file, ring_bytes })
    }

    /// The end that appends.
    ///
    /// # Errors
    /// [`StreamFileError::Map`].
    pub fn writer(&self) -> Result<StreamWriter<Mapping>, StreamFileError> {
        Ok(StreamWriter::new(self.map()?)?)
    }

    /// The end that walks.
    ///
    /// # Errors
    /// [`StreamFileError::Map`].
    pub fn reader(&self) -> Result<StreamReader<Mapping>, StreamFileError> {
        Ok(StreamReader::new(self.map()?)?)
    }

    fn map(&self) -> Result<Mapping, StreamFileError> {
        Ok(Mapping::new(&self.file, 0, total(self.ring_bytes)?, Access::ReadWrite)?)
    }
}

impl AsFd for StreamFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn total(ring_bytes: u64) -> Result<u64, StreamError> {
    let whole =
        ring_bytes.checked_add(RING as u64).filter(|_| ring_bytes >= 4096 && ring_bytes.is_power_of_two());
    whole.ok_or(StreamError::Size(ring_bytes))
}

/// Bytes of the ring in memory of this length.
fn ring_bytes(memory_bytes: usize) -> Result<u64, StreamError> {
    let bytes = (memory_bytes as u64).saturating_sub(RING as u64);
    total(bytes).map(|_| bytes).map_err(|_| StreamError::Size(memory_bytes as u64))
}
