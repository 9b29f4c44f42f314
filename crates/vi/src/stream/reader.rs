//! The end that walks.

use super::record::{ALIGN, HEADER_BYTES, RecordFlags, RecordHeader};
use super::{LOST, READ, RING, StreamError, WRITTEN, ring_bytes};
use crate::bits::place;
use shm::{LoadOrder, Memory, StoreOrder, WindowError};

/// Walks records where they lie.
#[derive(Debug)]
pub struct StreamReader<M> {
    memory: M,
    ring: u64,
    /// Bytes ever: let go, and known to be written.
    read: u64,
    written: u64,
    over: Option<StreamError>,
}

impl<M: Memory> StreamReader<M> {
    /// The reader of a stream that nobody has read from.
    ///
    /// # Errors
    /// [`StreamError::Size`].
    pub fn new(memory: M) -> Result<Self, StreamError> {
        let ring = ring_bytes(memory.bytes())?;
        Ok(Self { memory, ring, read: 0, written: 0, over: None })
    }

    /// Frames that the writer had no room for, as it says.
    ///
    /// # Errors
    /// [`StreamError::Window`].
    pub fn lost(&self) -> Result<u64, StreamError> {
        Ok(self.memory.load_u64(LOST, LoadOrder::Relaxed)?)
    }

    /// What has been published. Dropping the batch gives the writer the room of all records that were walked.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over, now and for ever.
    pub fn batch(&mut self) -> Result<Batch<'_, M>, StreamError> {
        if let Some(error) = self.over {
            return Err(error);
        }
        let seen = self.memory.load_u64(WRITTEN, LoadOrder::Acquire)?;
        let most = self.read.saturating_add(self.ring);
        if seen < self.written || seen > most {
            let error = StreamError::Count { seen, least: self.written, most };
            self.over = Some(error);
            return Err(error);
        }
        self.written = seen;
        Ok(Batch { walked: self.read, stream: self })
    }
}

/// Records that are there.
#[derive(Debug)]
pub struct Batch<'stream, M: Memory> {
    stream: &'stream mut StreamReader<M>,
    walked: u64,
}

impl<M: Memory> Batch<'_, M> {
    /// The next record; none behind the last one.
    ///
    /// # Errors
    /// [`StreamError`]: the writer wrote what makes no sense, and the stream is over.
    #[expect(
        clippy::should_implement_trait,
        reason = "a record is borrowed from the batch: an Iterator cannot lend"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_, M>>, StreamError> {
        if let Some(error) = self.stream.over {
            return Err(error);
        }
        match self.walk() {
            Ok(found) => Ok(found.map(|(header, at)| Record { memory: &self.stream.memory, header, at })),
            Err(error) => {
                self.stream.over = Some(error);
                Err(error)
            }
        }
    }

    /// The next record's header, and where its frame begins.
    fn walk(&mut self) -> Result<Option<(RecordHeader, usize)>, StreamError> {
        loop {
            let left = self.stream.written.saturating_sub(self.walked);
            if left == 0 {
                return Ok(None);
            }
            let at = self.walked & (self.stream.ring - 1);
            let room = left.min(self.stream.ring - at);
            // Padding may be shorter than a header.
            let mut bytes = [0; HEADER_BYTES];
            let some = bytes.get_mut(..place(room).min(HEADER_BYTES)).unwrap_or_default();
            self.stream.memory.read(RING + place(at), some)?;
            let (header, record) = RecordHeader::from_bytes(&bytes);
            if record == 0 || record % ALIGN != 0 || u64::from(record) > room {
                return Err(StreamError::Record { bytes: record, room });
            }
            if header.flags.contains(RecordFlags::PADDING) {
                self.walked += u64::from(record);
                continue;
            }
            let captured = header.captured_bytes;
            if u64::from(captured) + HEADER_BYTES as u64 > u64::from(record) {
                return Err(StreamError::Captured { bytes: record, captured });
            }
            self.walked += u64::from(record);
            return Ok(Some((header, RING + place(at) + HEADER_BYTES)));
        }
    }
}

impl<M: Memory> Drop for Batch<'_, M> {
    fn drop(&mut self) {
        self.stream.read = self.walked;
        // Memory that refuses a word was refused before; the next batch tells.
        let _ = self.stream.memory.store_u64(READ, self.walked, StoreOrder::Release);
    }
}

/// One frame where it lies. The writer, if it is broken or worse, may still write there: copy, then judge.
#[derive(Debug)]
pub struct Record<'batch, M> {
    memory: &'batch M,
    header: RecordHeader,
    at: usize,
}

impl<M: Memory> Record<'_, M> {
    /// What is known of it.
    #[must_use]
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// Copies bytes from the frame's byte `at` on.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`] behind what was captured; `out` is unchanged.
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        let end =
            at.checked_add(out.len()).filter(|&end| end as u64 <= u64::from(self.header.captured_bytes));
        end.ok_or(WindowError::OutOfBounds)?;
        self.memory.read(self.at + at, out)
    }

    /// Copies what was captured into `out`, in place of what was there.
    ///
    /// # Errors
    /// [`WindowError`].
    pub fn copy_to(&self, out: &mut Vec<u8>) -> Result<(), WindowError> {
        out.resize(self.header.captured_bytes as usize, 0);
        self.memory.read(self.at, out)
    }
}
