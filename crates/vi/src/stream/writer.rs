//! The end that appends.

use super::record::{ALIGN, HEADER_BYTES, RecordFlags, RecordHeader};
use super::{LOST, READ, RING, StreamError, WRITTEN, ring_bytes};
use crate::bits::{low32, place};
use crate::packet::Packet;
use shm::{LoadOrder, Memory, StoreOrder, Window};

/// Bytes that are copied at once out of a packet.
const PIECE: usize = 512;

/// Appends records. What was appended is seen by the reader after [`publish`](Self::publish).
#[derive(Debug)]
pub struct StreamWriter<M> {
    memory: M,
    ring: u64,
    /// Bytes ever: appended, and let go by the reader as far as is known.
    written: u64,
    read: u64,
    records: u64,
    lost: u64,
    lost_before: u16,
    over: Option<StreamError>,
}

impl<M: Memory> StreamWriter<M> {
    /// The writer of a stream in fresh memory.
    ///
    /// # Errors
    /// [`StreamError::Size`].
    pub fn new(memory: M) -> Result<Self, StreamError> {
        let ring = ring_bytes(memory.bytes())?;
        Ok(Self { memory, ring, written: 0, read: 0, records: 0, lost: 0, lost_before: 0, over: None })
    }

    /// Records appended.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Frames that found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes of the ring that the reader has not let go.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn waiting_bytes(&mut self) -> Result<u64, StreamError> {
        self.look()?;
        Ok(self.written - self.read)
    }

    /// Appends the first bytes of a frame, `snap` at most. False: there was no room, and the frame is counted as lost.
    /// The header's lengths are filled in.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn append(&mut self, header: RecordHeader, frame: &[u8], snap: usize) -> Result<bool, StreamError> {
        let captured = frame.len().min(snap);
        let bytes = frame.get(..captured).unwrap_or_default();
        self.append_cut(header, bytes, frame.len())
    }

    /// Appends the beginning of a frame that had `original` bytes.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn append_cut(
        &mut self,
        header: RecordHeader,
        beginning: &[u8],
        original: usize,
    ) -> Result<bool, StreamError> {
        self.append_with(header, beginning.len(), original, |memory, at| Ok(memory.write(at, beginning)?))
    }

    /// The same for a packet that lies in a lane: it is copied once, through a few lines of private memory.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn append_packet<D, O: Window, M2: Memory>(
        &mut self,
        header: RecordHeader,
        packet: &Packet<'_, D, O, M2>,
        snap: usize,
    ) -> Result<bool, StreamError> {
        let captured = packet.len().min(snap);
        self.append_with(header, captured, packet.len(), |memory, at| {
            let mut piece = [0; PIECE];
            for begin in (0..captured).step_by(PIECE) {
                let some = piece.get_mut(..PIECE.min(captured - begin)).unwrap_or_default();
                packet.read(begin, some)?;
                memory.write(at + begin, some)?;
            }
            Ok(())
        })
    }

    /// Lets the reader see what was appended, and what was lost.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn publish(&mut self) -> Result<(), StreamError> {
        self.memory.store_u64(LOST, self.lost, StoreOrder::Relaxed)?;
        self.memory.store_u64(WRITTEN, self.written, StoreOrder::Release)?;
        Ok(())
    }

    fn append_with(
        &mut self,
        header: RecordHeader,
        captured: usize,
        original: usize,
        copy: impl FnOnce(&M, usize) -> Result<(), StreamError>,
    ) -> Result<bool, StreamError> {
        if let Some(error) = self.over {
            return Err(error);
        }
        let appended = self.place_record(header, captured, original, copy);
        if let Err(error) = appended {
            self.over = Some(error);
        }
        appended
    }

    fn place_record(
        &mut self,
        header: RecordHeader,
        captured: usize,
        original: usize,
        copy: impl FnOnce(&M, usize) -> Result<(), StreamError>,
    ) -> Result<bool, StreamError> {
        // A length of a frame: far below 2^32.
        let record = (HEADER_BYTES + captured).next_multiple_of(ALIGN as usize) as u64;
        let at = self.written & (self.ring - 1);
        let to_end = self.ring - at;
        let padding = if record > to_end { to_end } else { 0 };
        if !self.room(padding.saturating_add(record))? {
            self.lost += 1;
            self.lost_before = self.lost_before.saturating_add(1);
            return Ok(false);
        }
        if padding > 0 {
            // A multiple of 8 that may be too short for a header: its first word says all.
            let header = RecordHeader { flags: RecordFlags::PADDING, ..RecordHeader::default() };
            let bytes = header.to_bytes(low32(padding));
            let some = bytes.get(..place(padding).min(HEADER_BYTES)).unwrap_or_default();
            self.memory.write(RING + place(at), some)?;
        }
        let at = RING + place((self.written + padding) & (self.ring - 1));
        let header = RecordHeader {
            captured_bytes: low32(captured as u64),
            original_bytes: low32(original as u64),
            lost_before: self.lost_before,
            ..header
        };
        self.memory.write(at, &header.to_bytes(low32(record)))?;
        copy(&self.memory, at + HEADER_BYTES)?;
        self.written += padding + record;
        self.records += 1;
        self.lost_before = 0;
        Ok(true)
    }

    fn room(&mut self, bytes: u64) -> Result<bool, StreamError> {
        if self.written + bytes - self.read <= self.ring {
            return Ok(true);
        }
        self.look()?;
        Ok(self.written + bytes - self.read <= self.ring)
    }

    /// Looks how far the reader is.
    fn look(&mut self) -> Result<(), StreamError> {
        let seen = self.memory.load_u64(READ, LoadOrder::Acquire)?;
        if seen < self.read || seen > self.written {
            return Err(StreamError::Count { seen, least: self.read, most: self.written });
        }
        self.read = seen;
        Ok(())
    }
}
