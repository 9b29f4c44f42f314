//! Event lines: what the 64 bytes of a slot say.
//!
//! ```text
//!   bytes 0..56               56..60              60..64
//!   a short frame             its last 4 bytes    tag      kind 1: the frame is in the line
//!   a frame's beginning       4 bytes more        tag      kind 4: its rest is in the next slot
//!   a frame's beginning       4 bytes more        tag      kind 5: its rest, 1 to 4 bytes, came in a line of rests
//!   14 rests, 4 bytes each    one more            tag      kind 6: rests, of the frame in the 1st slot behind it, in the 2nd, ..
//!   address, time, hash       length and flags    tag      kind 2: the frame, or a part of it, is in a buffer
//!   address, time, beginning  length              tag      kind 3: a frame whose payload is still on its way
//!
//!   tag: lap 31..24, kind 23..21, bytes in the line 20..15, filter 14..0
//! ```
//!
//! Bytes 56..64 are one word, stored last. With times ([`Geometry::stamps`](super::Geometry::stamps)) the first line
//! of a short frame has 48 bytes and the 4 in the last word, and bytes 48..56 are the time.
//!
//! **A frame a little longer than a line.** What of it does not fit its first line is its *rest*. A frame that goes alone
//! (kind 4) has its rest in the slot behind it, which is stored first: up to 4 bytes of it in that slot's last word,
//! more from its first byte on. Frames that are staged one after another (kind 5) share one line for their rests, which
//! stands before the first of them and is stored last: 15 frames of 64 bytes are 16 lines, not 30. The place of a rest in
//! that line is how far behind it the frame's slot is. The bits of the length say how long the rest is.

use super::{Address, Geometry, Nonsense};
use crate::bits::{low8, low16, low32};
use shm::LINE_WORDS;

/// Bytes of a slot: one cache line.
pub(crate) const LINE_BYTES: usize = 64;
/// Bytes of a line before its last word.
pub(crate) const BODY_BYTES: usize = 56;
/// Bytes of a frame that the last word of a line holds.
pub(crate) const TAIL_BYTES: usize = 4;
/// Where the time of a stamped short frame lies.
pub(crate) const STAMP: usize = 48;
/// The most bytes of a frame in one line.
pub(crate) const LINE_FRAME: usize = BODY_BYTES + TAIL_BYTES;
/// How much of a frame a kind 3 event carries.
pub(crate) const EARLY_BYTES: usize = 40;

pub(crate) const INLINE: u8 = 1;
const BUFFER: u8 = 2;
const EARLY: u8 = 3;
pub(crate) const TWO_LINES: u8 = 4;
pub(crate) const SHARES: u8 = 5;
pub(crate) const RESTS: u8 = 6;

/// The most rests that a line holds.
pub(crate) const MOST_RESTS: usize = 15;

/// Where the kind stands in a last word; the lap follows.
const KIND_SHIFT: u32 = 53;

const START: u32 = 1 << 31;
const CONTINUES: u32 = 1 << 30;
const LENGTH: u32 = (1 << 17) - 1;

/// Which filter of the receiver's table took a frame; 0 says that none was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FilterId(u16);

impl FilterId {
    /// No filter was asked.
    pub const NONE: Self = Self(0);
    /// The largest number.
    pub const MOST: u16 = 0x7FFF;

    /// A filter's number, at most [`MOST`](Self::MOST).
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number <= Self::MOST).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

/// What travels beside a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// The filter that chose the lane.
    pub filter: FilterId,
    /// The sender's time in nanoseconds since 1970, TAI; 0 is none. Short frames carry it on lanes with stamps alone.
    pub stamp: u64,
    /// The Toeplitz hash of the flow; 0 is none. Short frames do not carry it.
    pub hash: u32,
}

/// A line in private memory. Of short frames it has the last word alone: the frame stays where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) body: [u64; LINE_WORDS],
    /// The last word without its lap.
    pub(crate) last: u64,
}

/// What a line says, checked as far as it can be without knowing which buffers are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Short { len: u8 },
    Buffer { index: u32, len: u32, start: bool, continues: bool },
    Early { index: u32, len: u32 },
}

/// How many bytes of a short frame its first line has before the last word.
#[inline(always)]
pub(crate) fn split(stamps: bool) -> usize {
    if stamps { STAMP } else { BODY_BYTES }
}

/// The last word of a frame that is in one line, without lap.
#[inline(always)]
pub(crate) fn one_line_word(len: usize, tail: u32, filter: FilterId) -> u64 {
    tag(INLINE, len, filter) | u64::from(tail)
}

/// Last words of a short frame, without laps: of its first line and, if it has one, of its second.
#[inline]
pub(crate) fn short_words(len: usize, tails: [u32; 2], filter: FilterId, stamps: bool) -> (u64, Option<u64>) {
    let one = split(stamps) + TAIL_BYTES;
    if len <= one {
        return (tag(INLINE, len, filter) | u64::from(tails[0]), None);
    }
    (tag(TWO_LINES, len - one, filter) | u64::from(tails[0]), Some(u64::from(tails[1])))
}

/// Length and filter of a short frame, by the last word of its first line.
#[inline(always)]
pub(crate) fn short_said(last: u64, geometry: &Geometry) -> Result<(u8, FilterId), Nonsense> {
    let one = split(geometry.stamps) + TAIL_BYTES;
    let (base, most) = match low8(last >> KIND_SHIFT & 7) {
        TWO_LINES => (one, LINE_FRAME),
        SHARES => (one, TAIL_BYTES),
        _ => (0, one),
    };
    let len = low8(last >> 47 & 0x3F);
    if usize::from(len) > most {
        return Err(Nonsense::Length { bytes: len.into(), most: low32(most as u64) });
    }
    Ok((len + low8(base as u64), FilterId(low16(last >> 32) & FilterId::MOST)))
}

/// The last word, without lap, of a frame's first line whose rest of `rest` bytes is in a line of rests.
#[inline(always)]
pub(crate) fn shares_word(rest: usize, tail: u32, filter: FilterId) -> u64 {
    tag(SHARES, rest, filter) | u64::from(tail)
}

/// The last word, without lap and last rest, of a line of rests.
pub(crate) const RESTS_WORD: u64 = (RESTS as u64) << KIND_SHIFT;

/// The beginning of a frame as words, padded with zeros. Each comes from the frame by one load: words that are put together
/// in memory, and loaded from there by twos, would wait until they have reached the cache.
#[inline(always)]
pub(crate) fn body_words(frame: &[u8]) -> [u64; LINE_WORDS] {
    std::array::from_fn(|n| {
        let rest = frame.get(8 * n..).unwrap_or_default();
        match (rest.first_chunk(), frame.last_chunk()) {
            (Some(&whole), _) => u64::from_le_bytes(whole),
            (None, _) if rest.is_empty() => 0,
            (None, Some(&last)) => u64::from_le_bytes(last) >> (64 - 8 * rest.len()),
            (None, None) => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        }
    })
}

#[inline(always)]
fn tag(kind: u8, inline: usize, filter: FilterId) -> u64 {
    (u64::from(kind) << 21 | (inline as u64) << 15 | u64::from(filter.0)) << 32
}

impl Line {
    /// A frame, or a part of one, in a buffer.
    pub(crate) fn buffer(address: Address, len: u32, start: bool, continues: bool, meta: Meta) -> Self {
        let flags = if start { START } else { 0 } | if continues { CONTINUES } else { 0 };
        let last = tag(BUFFER, 0, meta.filter) | u64::from(len | flags);
        // A short hash shares its word with nothing.
        let hash = [u64::from(meta.hash), 0, 0, 0, 0];
        Self { body: Self::described(address, meta, hash), last }
    }

    /// A frame that comes: where it will be, and how it begins.
    pub(crate) fn early(address: Address, len: u32, beginning: &[u8], meta: Meta) -> Self {
        let last = tag(EARLY, 0, meta.filter) | u64::from(len);
        let [a, b, c, d, e, ..] = body_words(beginning);
        Self { body: Self::described(address, meta, [a, b, c, d, e]), last }
    }

    fn described(address: Address, meta: Meta, [a, b, c, d, e]: [u64; 5]) -> [u64; LINE_WORDS] {
        [address.with_lap(0), meta.stamp, a, b, c, d, e]
    }

    /// Lap and kind of a last word: its first bits.
    #[inline(always)]
    pub(crate) fn begins(last: u64) -> u64 {
        last >> KIND_SHIFT
    }

    /// What a last word of this lap begins with, apart from its kind.
    pub(crate) fn of_lap(lap: u8) -> u64 {
        u64::from(lap) << 3
    }

    /// How many bytes of a short frame are in the line, by its last word; up to 63, whatever fits.
    #[inline(always)]
    pub(crate) fn short_len(last: u64) -> u32 {
        low32(last >> 47 & 0x3F)
    }

    /// The filter in a last word.
    #[inline(always)]
    pub(crate) fn filter(last: u64) -> FilterId {
        FilterId(low16(last >> 32) & FilterId::MOST)
    }

    /// The lap of a last word from the wire.
    #[inline]
    pub(crate) fn lap(last: u64) -> u8 {
        low8(last >> 56)
    }

    /// Whether a last word belongs to a short frame: then the rest of its line is the frame.
    #[inline]
    pub(crate) fn is_short(last: u64) -> bool {
        matches!(low8(last >> KIND_SHIFT & 7), INLINE | TWO_LINES | SHARES)
    }

    /// Whether a short frame has two slots.
    #[inline]
    pub(crate) fn is_two(last: u64) -> bool {
        low8(last >> KIND_SHIFT & 7) == TWO_LINES
    }

    /// Whether the rest of a short frame is in a line of rests.
    #[inline]
    pub(crate) fn shares(last: u64) -> bool {
        low8(last >> KIND_SHIFT & 7) == SHARES
    }

    /// Whether a last word belongs to a line of rests.
    #[inline]
    pub(crate) fn is_rests(last: u64) -> bool {
        low8(last >> KIND_SHIFT & 7) == RESTS
    }

    /// The last word with its lap, which is in its place already.
    #[inline]
    pub(crate) fn word(&self, lap: u64) -> u64 {
        self.last | lap
    }

    fn body_word(&self, index: usize) -> u64 {
        self.body.get(index).copied().unwrap_or(0)
    }

    /// What the line says.
    #[inline]
    pub(crate) fn said(&self, geometry: &Geometry) -> Result<Said, Nonsense> {
        let tag = self.last >> 32;
        let low = low32(self.last);
        match low8(tag >> 21 & 7) {
            INLINE | TWO_LINES | SHARES => {
                short_said(self.last, geometry).map(|(len, _)| Said::Short { len })
            }
            BUFFER => {
                let (index, len) = (self.index(geometry)?, low & LENGTH);
                if len > geometry.buffer_bytes {
                    return Err(Nonsense::Length { bytes: len, most: geometry.buffer_bytes });
                }
                Ok(Said::Buffer { index, len, start: low & START != 0, continues: low & CONTINUES != 0 })
            }
            EARLY => {
                let (index, len) = (self.index(geometry)?, low & LENGTH);
                if len > geometry.buffer_bytes {
                    return Err(Nonsense::Length { bytes: len, most: geometry.buffer_bytes });
                }
                Ok(Said::Early { index, len })
            }
            kind => Err(Nonsense::Kind(kind)),
        }
    }

    fn index(&self, geometry: &Geometry) -> Result<u32, Nonsense> {
        let (_, address) = Address::from_wire(self.body_word(0));
        geometry.index(address).ok_or(Nonsense::Address(address))
    }

    /// What travels beside the frame.
    #[inline]
    pub(crate) fn meta(&self, said: Said) -> Meta {
        let filter = FilterId(low16(self.last >> 32) & FilterId::MOST);
        match said {
            Said::Short { .. } => Meta { filter, ..Meta::default() },
            Said::Buffer { .. } => Meta { filter, stamp: self.body_word(1), hash: low32(self.body_word(2)) },
            Said::Early { .. } => Meta { filter, stamp: self.body_word(1), hash: 0 },
        }
    }

    /// The beginning that an early event carries.
    pub(crate) fn beginning(&self) -> [u8; EARLY_BYTES] {
        let [_, _, beginning @ ..] = self.body;
        let mut bytes = [0; EARLY_BYTES];
        bytes.as_chunks_mut().0.iter_mut().zip(beginning).for_each(|(to, word)| *to = word.to_le_bytes());
        bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_line_is_too_strange(body: [u64; 7], last: u64, stamps: bool) {
            let geometry = Geometry { stamps, ..Geometry::default() };
            match (Line { body, last }).said(&geometry) {
                Ok(Said::Short { len }) => prop_assert!(usize::from(len) <= geometry.short_most()),
                Ok(Said::Buffer { index, len, .. } | Said::Early { index, len }) => {
                    prop_assert!(index < geometry.buffers && len <= geometry.buffer_bytes);
                }
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_frame_in_a_buffer_and_one_that_comes() {
        let geometry = Geometry::default();
        let address = geometry.address(9).unwrap();
        let meta = Meta { filter: FilterId(5), stamp: 77, hash: 0xDEAD_BEEF };
        let line = Line::buffer(address, 2048, true, false, meta);
        let said = line.said(&geometry).unwrap();
        assert_eq!(said, Said::Buffer { index: 9, len: 2048, start: true, continues: false });
        assert_eq!(line.meta(said), meta);
        let line = Line::early(address, 1500, &[3; 40], meta);
        let said = line.said(&geometry).unwrap();
        assert_eq!((said, line.beginning()), (Said::Early { index: 9, len: 1500 }, [3; 40]));
        assert_eq!(line.meta(said).stamp, 77);
        assert_eq!(Line::lap(line.word(0xAB << 56)), 0xAB);
    }

    #[test]
    fn short_frames_say_their_length_in_one_line_and_in_two() {
        for stamps in [false, true] {
            let geometry = Geometry { stamps, ..Geometry::default() };
            for len in 0..=geometry.short_most() {
                let (last, second) = short_words(len, [1, 2], FilterId(3), stamps);
                assert_eq!(second.is_some(), len > if stamps { 52 } else { 60 });
                let line = Line { body: [0; LINE_WORDS], last };
                let said = line.said(&geometry).unwrap();
                assert_eq!(
                    (said, line.meta(said).filter),
                    (Said::Short { len: low8(len as u64) }, FilterId(3))
                );
            }
        }
    }
}
