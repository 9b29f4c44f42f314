//! Addresses on the wire: a region and an offset in it, never a pointer.

use crate::bits::{low8, low16};
use std::fmt;

/// Where a buffer lies: 16 bits of region, 40 bits of offset in bytes. The top 8 bits of the wire form carry a lap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

const OFFSET_BITS: u32 = 40;
const REGION_BITS: u32 = 16;
const OFFSET: u64 = (1 << OFFSET_BITS) - 1;

impl Address {
    /// How many bytes a region may have.
    pub const MOST_BYTES: u64 = 1 << OFFSET_BITS;

    /// `offset` bytes into `region`; none behind [`MOST_BYTES`](Self::MOST_BYTES).
    #[must_use]
    pub fn new(region: u16, offset: u64) -> Option<Self> {
        (offset <= OFFSET).then(|| Self(u64::from(region) << OFFSET_BITS | offset))
    }

    /// The region's number.
    #[must_use]
    pub fn region(self) -> u16 {
        low16(self.0 >> OFFSET_BITS)
    }

    /// Bytes into the region.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0 & OFFSET
    }

    /// The wire form: the address, and in the top byte the lap of the ring it stands in.
    pub(crate) fn with_lap(self, lap: u8) -> u64 {
        self.0 | u64::from(lap) << (OFFSET_BITS + REGION_BITS)
    }

    /// What a word on the wire says: lap and address.
    pub(crate) fn from_wire(word: u64) -> (u8, Self) {
        let lap = low8(word >> (OFFSET_BITS + REGION_BITS));
        (lap, Self(word & !(0xFF << (OFFSET_BITS + REGION_BITS))))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {} offset {:#x}", self.region(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_offset_and_lap_keep_apart() {
        let address = Address::new(0xABCD, OFFSET).unwrap();
        assert_eq!((address.region(), address.offset()), (0xABCD, OFFSET));
        assert_eq!(Address::from_wire(address.with_lap(0xEF)), (0xEF, address));
        assert_eq!(Address::new(0, Address::MOST_BYTES), None);
    }
}
