//! The low bits of a word, said to be meant.
#![expect(clippy::cast_possible_truncation, reason = "what is cut off is what the name says")]

#[inline(always)]
pub(crate) fn low8(word: u64) -> u8 {
    word as u8
}

#[inline(always)]
pub(crate) fn low16(word: u64) -> u16 {
    word as u16
}

#[inline(always)]
pub(crate) const fn low32(word: u64) -> u32 {
    word as u32
}

/// A number that was made to be small: a place in a ring, bytes in an area that is mapped.
#[inline(always)]
pub(crate) fn place(word: u64) -> usize {
    word as usize
}

#[inline(always)]
pub(crate) fn low64(word: u128) -> u64 {
    word as u64
}
