//! The headers of cells, both ways: numbers that a peer wrote become fields, and nothing is believed yet.

/// The header of a published cell, 2 bytes or 4, little-endian.
///
/// The two highest bits say what the cell is; the rest is `value`:
///
/// | fragmented | first | value | cell |
/// |---|---|---|---|
/// | 0 | 0 | valid bytes | a whole frame |
/// | 1 | 1 | ring position of the last fragment | the first of several, full |
/// | 1 | 0 | 0 | one in the middle, full |
/// | 1 | 0 | valid bytes | the last |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PaperHeader {
    pub(crate) fragmented: bool,
    pub(crate) first: bool,
    pub(crate) value: u32,
}

impl PaperHeader {
    pub(crate) fn whole(bytes: u32) -> Self {
        Self { fragmented: false, first: false, value: bytes }
    }

    pub(crate) fn first(last: u32) -> Self {
        Self { fragmented: true, first: true, value: last }
    }

    pub(crate) fn middle() -> Self {
        Self { fragmented: true, first: false, value: 0 }
    }

    pub(crate) fn last(bytes: u32) -> Self {
        Self { fragmented: true, first: false, value: bytes }
    }

    /// The 2-byte form; `value` has 14 bits.
    pub(crate) fn short(self) -> [u8; 2] {
        let [low, high, _, _] = self.value.to_le_bytes();
        let flags = (u8::from(self.fragmented) << 7) | (u8::from(self.first) << 6);
        [low, (high & 0x3F) | flags]
    }

    /// The 4-byte form; `value` has 30 bits.
    pub(crate) fn long(self) -> [u8; 4] {
        let flags = (u32::from(self.fragmented) << 31) | (u32::from(self.first) << 30);
        ((self.value & 0x3FFF_FFFF) | flags).to_le_bytes()
    }

    pub(crate) fn from_short(bytes: [u8; 2]) -> Self {
        let word = u16::from_le_bytes(bytes);
        Self { fragmented: word >> 15 != 0, first: word >> 14 & 1 != 0, value: u32::from(word & 0x3FFF) }
    }

    pub(crate) fn from_long(bytes: [u8; 4]) -> Self {
        let word = u32::from_le_bytes(bytes);
        Self { fragmented: word >> 31 != 0, first: word >> 30 & 1 != 0, value: word & 0x3FFF_FFFF }
    }
}

/// The header of a `fast` cell: one 8-byte word, so that one store publishes the cell and one load takes it.
///
/// | bits | field |
/// |---|---|
/// | 0..32 | sequence: the cell's place in the stream from 1, modulo 2^32 |
/// | 32..48 | valid bytes in this cell |
/// | 48..62 | cells of this frame that follow |
/// | 62 | first cell of its frame |
/// | 63 | 0 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FastHeader {
    pub(crate) sequence: u32,
    pub(crate) bytes: u16,
    pub(crate) more: u16,
    pub(crate) first: bool,
}

impl FastHeader {
    pub(crate) fn word(self) -> u64 {
        u64::from(self.sequence)
            | u64::from(self.bytes) << 32
            | u64::from(self.more & 0x3FFF) << 48
            | u64::from(self.first) << 62
    }

    /// None if a bit is set that has no meaning.
    pub(crate) fn of(word: u64) -> Option<Self> {
        let [s0, s1, s2, s3, b0, b1, m0, m1] = word.to_le_bytes();
        let flags = m1 >> 6;
        (flags < 2).then(|| Self {
            sequence: u32::from_le_bytes([s0, s1, s2, s3]),
            bytes: u16::from_le_bytes([b0, b1]),
            more: u16::from_le_bytes([m0, m1 & 0x3F]),
            first: flags == 1,
        })
    }

    /// The sequence alone: whether there is anything to decode.
    pub(crate) fn sequence(word: u64) -> u32 {
        let [s0, s1, s2, s3, ..] = word.to_le_bytes();
        u32::from_le_bytes([s0, s1, s2, s3])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_published_bits() {
        assert_eq!(PaperHeader::whole(748).short(), [0xEC, 0x02]);
        assert_eq!(PaperHeader::first(0x3FFF).short(), [0xFF, 0xFF]);
        assert_eq!(PaperHeader::first(2).short(), [0x02, 0xC0]);
        assert_eq!(PaperHeader::middle().short(), [0x00, 0x80]);
        assert_eq!(PaperHeader::last(18).short(), [0x12, 0x80]);
        assert_eq!(PaperHeader::first(20_000).long(), [0x20, 0x4E, 0x00, 0xC0]);
        assert_eq!(PaperHeader::last(18).long(), [0x12, 0, 0, 0x80]);
    }

    #[test]
    fn headers_survive_both_ways() {
        for word in 0..=u16::MAX {
            assert_eq!(PaperHeader::from_short(word.to_le_bytes()).short(), word.to_le_bytes());
        }
        for word in [0, 1, 0x3FFF_FFFF, 0x8000_0000, 0xC000_4E20, u32::MAX] {
            assert_eq!(PaperHeader::from_long(word.to_le_bytes()).long(), word.to_le_bytes());
        }
        let header = FastHeader { sequence: 0x0403_0201, bytes: 0x0605, more: 0x0807, first: true };
        assert_eq!(header.word(), 0x4807_0605_0403_0201);
        assert_eq!(FastHeader::of(header.word()), Some(header));
        assert_eq!(FastHeader::of(1 << 63), None);
        assert_eq!(FastHeader::sequence(header.word()), header.sequence);
    }
}
