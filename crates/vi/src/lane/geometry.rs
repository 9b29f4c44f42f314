//! The shape of a lane: how many slots and buffers, and where they lie.

use super::Address;
use super::event::{LINE_BYTES, LINE_FRAME, TAIL_BYTES, split};
use crate::bits::place;

/// Areas and buffer pools begin at multiples of this many bytes.
#[cfg(not(loom))]
const PAGE_BYTES: u64 = 4096;
/// In loom's model every word costs time.
#[cfg(loom)]
const PAGE_BYTES: u64 = 64;

/// The words of a return area keep this distance: a cache line, and the one that processors fetch with it.
#[cfg(not(loom))]
const APART: usize = 128;
#[cfg(loom)]
const APART: usize = 8;

/// The shape of a lane. Both ends are given the same one when the lane is made; it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Event lines: a power of two, 2 to 65536. 256 keep a ring of short frames in the first two caches.
    pub slots: u32,
    /// Receive buffers: 0 to 65536.
    pub buffers: u32,
    /// Bytes of one buffer: a multiple of 64, at most 64 KiB.
    pub buffer_bytes: u32,
    /// The number of the region that the buffers form in the receiver's protection domain.
    pub region: u16,
    /// Whether the sender wakes a receiver that sleeps. A lane without it makes one fence less for each push.
    pub wakes: bool,
    /// Whether each frame carries the time of its sender. The first line of a short frame then has 52
    /// bytes, not 60.
    pub stamps: bool,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { slots: 256, buffers: 256, buffer_bytes: 2048, region: 0, wakes: true, stamps: false }
    }
}

/// A geometry that no lane can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadGeometry {
    /// Not a power of two, or out of range.
    #[error("{0} slots: a power of two from 2 to 65536 is possible")]
    Slots(u32),
    /// Out of range.
    #[error("{0} buffers: at most 65536 are possible")]
    Buffers(u32),
    /// Not a multiple of a line, or out of range.
    #[error("buffers of {0} bytes: a multiple of 64 up to 65536 is possible")]
    BufferBytes(u32),
    /// An area's length is not what the shape needs.
    #[error("an area of {has_bytes:#x} bytes where the lane needs {needs_bytes:#x}")]
    Area {
        /// Its length.
        has_bytes: u64,
        /// What is needed.
        needs_bytes: u64,
    },
}

impl Geometry {
    /// Whether a lane can have this shape.
    ///
    /// # Errors
    /// [`BadGeometry`] names what cannot be.
    pub fn check(self) -> Result<Self, BadGeometry> {
        if !self.slots.is_power_of_two() || !(2..=65536).contains(&self.slots) {
            return Err(BadGeometry::Slots(self.slots));
        }
        if self.buffers > 65536 {
            return Err(BadGeometry::Buffers(self.buffers));
        }
        if self.buffer_bytes == 0 || self.buffer_bytes > 65536 || !self.buffer_bytes.is_multiple_of(64) {
            return Err(BadGeometry::BufferBytes(self.buffer_bytes));
        }
        Ok(self)
    }

    /// Length in bytes of the receive area, in whole pages: slots, then buffers from a page boundary on.
    #[must_use]
    pub fn receive_bytes(self) -> u64 {
        self.pool() + whole_pages(u64::from(self.buffers) * u64::from(self.buffer_bytes))
    }

    /// Length in bytes of the return area, in whole pages.
    #[must_use]
    pub fn return_bytes(self) -> u64 {
        whole_pages(Self::POSTED as u64 + u64::from(self.posted_slots()) * 8)
    }

    /// The longest frame that travels inside event lines, in bytes: 60 in one and 120 in two, or 52 and 112 with
    /// stamps. Longer ones need a buffer.
    #[inline]
    #[must_use]
    pub fn short_most(self) -> usize {
        self.line_most() + LINE_FRAME
    }

    /// The longest frame that is one cache line with its event.
    #[inline]
    #[must_use]
    pub fn line_most(self) -> usize {
        split(self.stamps) + TAIL_BYTES
    }

    /// Where buffers begin in the receive area, in bytes.
    fn pool(self) -> u64 {
        whole_pages(u64::from(self.slots) * LINE_BYTES as u64)
    }

    /// Places of the ring of posted buffers: a power of two, at least one for each buffer, so that a place is only
    /// written again after it was read.
    pub(crate) fn posted_slots(self) -> u32 {
        self.buffers.max(1).next_power_of_two()
    }

    /// Where the `n`th event ever lies in the receive area, in bytes.
    #[inline]
    pub(crate) fn slot_at(self, n: u64) -> usize {
        place(n & self.slot_mask()).wrapping_mul(LINE_BYTES)
    }

    /// Whether the `n`th event ever lies in the first slot: there a lap begins.
    #[inline(always)]
    pub(crate) fn is_first(self, n: u64) -> bool {
        n & self.slot_mask() == 0
    }

    /// There are as many slots as a power of two: [`check`](Self::check) has seen to it.
    #[inline(always)]
    fn slot_mask(self) -> u64 {
        u64::from(self.slots.wrapping_sub(1))
    }

    /// Where a buffer lies in the receive area, in bytes.
    #[inline]
    pub(crate) fn buffer_at(self, index: u32) -> usize {
        place(self.pool() + u64::from(index) * u64::from(self.buffer_bytes))
    }

    /// Where the `n`th buffer ever posted stands in the return area, in bytes.
    #[inline]
    pub(crate) fn posted_at(self, n: u64) -> usize {
        Self::POSTED + place(n & u64::from(self.posted_slots() - 1)) * 8
    }

    /// Credit: how many slots the receiver has taken, ever. 8 bytes in the return area.
    pub(crate) const CREDIT: usize = 0;
    /// Armed: how often the receiver has gone to sleep, ever. 8 bytes in the return area.
    pub(crate) const ARMED: usize = APART;
    /// The ring of posted buffers, in the return area.
    const POSTED: usize = 2 * APART;

    /// The address of a buffer, as it goes over the wire.
    #[inline]
    pub(crate) fn address(self, index: u32) -> Option<Address> {
        (index < self.buffers)
            .then(|| Address::new(self.region, u64::from(index) * u64::from(self.buffer_bytes)))?
    }

    /// The buffer that an address from the wire names; none if it names another region, the middle of a buffer or
    /// what lies behind the last one.
    #[inline]
    pub(crate) fn index(self, address: Address) -> Option<u32> {
        let bytes = u64::from(self.buffer_bytes);
        if address.region() != self.region || !address.offset().is_multiple_of(bytes) {
            return None;
        }
        u32::try_from(address.offset() / bytes).ok().filter(|&index| index < self.buffers)
    }

    /// The lap tag of the `n`th entry ever of a ring with `places` places: 1 to 255, and 0 for memory never written.
    #[inline]
    pub(crate) fn lap(n: u64, places: u32) -> u8 {
        ((n >> places.trailing_zeros()) % 255) as u8 + 1
    }

    /// What stands at a place before the entry of lap `lap` comes: the lap before, or 0 in the first one.
    #[inline]
    pub(crate) fn lap_before(n: u64, places: u32) -> u8 {
        n.checked_sub(u64::from(places)).map_or(0, |before| Self::lap(before, places))
    }
}

fn whole_pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn areas_are_whole_pages_and_nothing_overlaps() {
        let geometry =
            Geometry { slots: 2, buffers: 3, buffer_bytes: 64, region: 7, wakes: false, stamps: false }
                .check()
                .unwrap();
        assert_eq!((geometry.receive_bytes(), geometry.return_bytes()), (8192, 4096));
        assert_eq!((geometry.slot_at(0), geometry.slot_at(3)), (0, 64));
        assert_eq!((geometry.buffer_at(0), geometry.buffer_at(2)), (4096, 4096 + 128));
        assert_eq!(geometry.posted_at(5), 256 + 8);
    }

    #[test]
    fn addresses_that_are_no_buffer_are_none() {
        let geometry =
            Geometry { slots: 2, buffers: 3, buffer_bytes: 128, region: 7, wakes: false, stamps: false };
        for index in 0..3 {
            assert_eq!(geometry.index(geometry.address(index).unwrap()), Some(index));
        }
        assert_eq!(geometry.address(3), None);
        for (region, offset) in [(7, 384), (7, 64), (7, Address::MOST_BYTES - 128), (6, 0), (8, 0)] {
            assert_eq!(geometry.index(Address::new(region, offset).unwrap()), None, "{region} {offset}");
        }
    }

    #[test]
    fn laps_are_never_zero_and_differ_from_the_one_before() {
        for n in 0..4096 {
            let (lap, before) = (Geometry::lap(n, 4), Geometry::lap_before(n, 4));
            assert!(lap != 0 && lap != before, "{n}");
            assert_eq!(before == 0, n < 4);
        }
    }

    #[test]
    fn impossible_shapes_are_named() {
        let shape = Geometry::default();
        for slots in [0, 1, 3, 131_072] {
            assert_eq!(Geometry { slots, ..shape }.check(), Err(BadGeometry::Slots(slots)));
        }
        assert_eq!(Geometry { buffers: 65537, ..shape }.check(), Err(BadGeometry::Buffers(65537)));
        for buffer_bytes in [0, 63, 65600] {
            assert!(matches!(Geometry { buffer_bytes, ..shape }.check(), Err(BadGeometry::BufferBytes(_))));
        }
    }
}
