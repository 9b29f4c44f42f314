//! A received packet: a guard that *is* the packet.

use crate::domain::PacketBuffer;
use crate::interface::{LaneId, ReceiveLane};
use crate::lane::{FilterId, Meta};
use shm::{Mapping, Memory, Window, WindowError};
use std::marker::PhantomData;

/// A number of the application's that comes back with the event of what it was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u32);

/// A frame, or a part of a jumbo frame, where it landed. Dropping it gives the place back to the sender.
///
/// The sender may go on writing into it: bytes are copied out and then looked at, never twice where that matters.
/// [`header`](Self::header) is such a copy.
#[must_use = "a packet that is dropped is gone"]
#[derive(Debug)]
pub struct Packet<'vi, D, O: Window = Mapping, M: Memory = Mapping> {
    lane: &'vi ReceiveLane<O, M>,
    body: crate::lane::Body,
    meta: Meta,
    marker: PhantomData<fn() -> D>,
}

impl<'vi, D, O: Window, M: Memory> Packet<'vi, D, O, M> {
    #[inline(always)]
    pub(crate) fn new(lane: &'vi ReceiveLane<O, M>, arrival: crate::lane::Arrival) -> Self {
        Self { lane, body: arrival.body, meta: arrival.meta, marker: PhantomData }
    }

    /// Bytes of the frame that are here.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never asked whether it is empty")]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The lane that it came by.
    #[inline]
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane.id()
    }

    /// Whether the frame begins here; true unless it is a jumbo frame's later part.
    #[must_use]
    pub fn starts(&self) -> bool {
        self.body.starts()
    }

    /// Whether the frame goes on in the next packet of this lane.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.body.continues()
    }

    /// The filter of the sender's table that chose this interface.
    #[inline]
    #[must_use]
    pub fn filter(&self) -> FilterId {
        self.meta.filter
    }

    /// The sender's time in nanoseconds since 1970 (TAI), where the lane carries times.
    #[must_use]
    pub fn stamp(&self) -> Option<u64> {
        (self.meta.stamp != 0).then_some(self.meta.stamp)
    }

    /// The number that the buffer was posted with; none for a short frame, which needs no buffer.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        self.body.buffer().map(|index| self.lane.request(index))
    }

    /// Copies bytes from the frame's byte `at` on.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`] behind the frame's end; `out` is unchanged.
    #[inline(always)]
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.lane.receiver().read(&self.body, at, out)
    }

    /// Copies the whole packet to the beginning of `out`; the length that it has.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`] when `out` is shorter.
    #[inline(always)]
    pub fn copy_to(&self, out: &mut [u8]) -> Result<usize, WindowError> {
        let len = self.len();
        self.read(0, out.get_mut(..len).ok_or(WindowError::OutOfBounds)?)?;
        Ok(len)
    }

    /// A private snapshot of the first `N` bytes, padded with zeros: what is checked here stays as it is.
    #[inline]
    #[must_use]
    pub fn header<const N: usize>(&self) -> [u8; N] {
        let mut header = [0; N];
        let some = header.get_mut(..self.len().min(N)).unwrap_or_default();
        // It cannot leave the frame: the length was asked.
        let _ = self.read(0, some);
        header
    }

    /// A big-endian number of 2 bytes at `at`; none behind the frame's end.
    #[must_use]
    pub fn load_u16(&self, at: usize) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes).ok().map(|()| u16::from_be_bytes(bytes))
    }

    /// A big-endian number of 4 bytes at `at`; none behind the frame's end.
    #[must_use]
    pub fn load_u32(&self, at: usize) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes).ok().map(|()| u32::from_be_bytes(bytes))
    }

    /// The memory that it lies in and where, if that is one piece of a mapping: for [`Mapping::as_slice`], which has the bytes of a
    /// peer that one trusts without a copy. None of a short frame of more than [a line](crate::lane::Geometry::line_most); with times, of
    /// more than 48 bytes.
    #[must_use]
    pub fn in_one_piece(&self) -> Option<(&Mapping, usize)> {
        let (memory, at) = self.lane.receiver().piece(&self.body)?;
        Some((memory.as_mapping()?, at))
    }

    /// The memory that it lies in and where, if it is in a buffer.
    pub(crate) fn place(&self) -> Option<(&M, usize)> {
        self.body.buffer().map(|index| self.lane.receiver().place(index))
    }

    /// Takes the buffer out of the lane: the application has it until it posts it again. None for a short frame,
    /// which needs no buffer; it is let go.
    #[must_use]
    pub fn keep(self) -> Option<PacketBuffer<D>> {
        let index = self.body.buffer()?;
        self.lane.receiver().keep(index).ok()?;
        Some(PacketBuffer::new(self.lane.domain(), self.lane.number(), index))
    }
}

impl<D, O: Window, M: Memory> Drop for Packet<'_, D, O, M> {
    #[inline]
    fn drop(&mut self) {
        // A lane that is over is told by the next poll.
        let _ = self.lane.receiver().let_go_packet(&self.body);
    }
}
