//! What came by a lane, and where it is.

use super::Meta;
use super::short::Lies;
use crate::bits::low32;

/// What [`Body`] says of a frame beside its length.
mod flags {
    /// It begins here.
    pub(super) const STARTS: u32 = 1;
    /// It goes on in the next event.
    pub(super) const CONTINUES: u32 = 2;
    /// It is in a buffer.
    pub(super) const BUFFER: u32 = 4;
    /// Its rest has a slot of its own, the one behind it.
    pub(super) const BEHIND: u32 = 1 << BEHIND_BIT;
    pub(super) const BEHIND_BIT: u32 = 3;
    /// The slot before it goes with it: a line of rests, of which it has the first.
    pub(super) const BEFORE_BIT: u32 = 4;
}

/// Where a frame is. It stays there until it is [let go](super::Receiver::let_go).
///
/// Three words: it is written for each frame, and read again when the frame is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Which event it was, counted from the lane's first.
    n: u64,
    /// Of a short frame: what the last words of its lines hold. Of another one: its buffer.
    tails: u64,
    len: u32,
    flags: u32,
}

impl Body {
    /// A frame in one slot.
    #[inline(always)]
    pub(super) fn in_line(n: u64, len: u32, tails: u64) -> Self {
        Self { n, tails, len, flags: flags::STARTS }
    }

    /// A frame in two slots.
    #[inline(always)]
    pub(super) fn in_two_lines(n: u64, len: u32, tails: u64) -> Self {
        Self { n, tails, len, flags: flags::STARTS | flags::BEHIND }
    }

    /// A frame in one slot, and whether it has the first rest of the line before it.
    #[inline(always)]
    pub(super) fn sharing(n: u64, len: u32, tails: u64, is_first: bool) -> Self {
        Self { n, tails, len, flags: flags::STARTS | u32::from(is_first) << flags::BEFORE_BIT }
    }

    /// A frame, or a part of one, in a buffer.
    pub(super) fn in_buffer(n: u64, index: u32, len: u32, starts: bool, continues: bool) -> Self {
        let starts = if starts { flags::STARTS } else { 0 };
        let continues = if continues { flags::CONTINUES } else { 0 };
        Self { n, tails: index.into(), len, flags: flags::BUFFER | starts | continues }
    }

    /// Bytes of the frame that are here.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never asked whether it is empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The buffer that it is in, and that is now held ([`Holding::Frame`](super::Holding::Frame)); none if it is in the slots
    /// of its event.
    #[inline]
    #[must_use]
    pub fn buffer(&self) -> Option<u32> {
        (self.flags & flags::BUFFER != 0).then_some(low32(self.tails))
    }

    #[inline(always)]
    pub(super) fn words(&self) -> [u64; 3] {
        [self.n, self.tails, u64::from(self.flags) << 32 | u64::from(self.len)]
    }

    pub(super) fn of_words([n, tails, rest]: [u64; 3]) -> Self {
        Self { n, tails, len: low32(rest), flags: low32(rest >> 32) }
    }

    /// The slots of a short frame: the first, and how many.
    #[inline(always)]
    pub(super) fn slots(&self) -> (u64, u64) {
        let before = u64::from(self.flags >> flags::BEFORE_BIT & 1);
        let behind = u64::from(self.flags >> flags::BEHIND_BIT & 1);
        (self.n.wrapping_sub(before), before.wrapping_add(behind).wrapping_add(1))
    }

    /// Where a short frame lies.
    #[inline(always)]
    pub(super) fn lies(&self) -> Lies {
        Lies { n: self.n, len: self.len(), tails: self.tails }
    }

    /// Whether the frame begins here.
    #[inline]
    #[must_use]
    pub fn starts(&self) -> bool {
        self.flags & flags::STARTS != 0
    }

    /// Whether the frame goes on in the next event.
    #[inline]
    #[must_use]
    pub fn continues(&self) -> bool {
        self.flags & flags::CONTINUES != 0
    }
}

/// A frame, or a part of one, that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// What travelled beside it.
    pub meta: Meta,
    /// The frame.
    pub body: Body,
}
