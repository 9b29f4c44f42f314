//! What came by a lane, and where it is.

use super::Meta;
use super::short::Lies;
use crate::bits::low32;

/// What [`Body`] says of a frame beside its length, above it in one word.
mod flags {
    /// It begins here.
    pub(super) const STARTS: u64 = 1 << 32;
    /// It goes on in the next event.
    pub(super) const CONTINUES: u64 = 1 << 33;
    /// It is in a buffer.
    pub(super) const BUFFER: u64 = 1 << 34;
    /// Its rest has a slot of its own, the one behind it.
    pub(super) const BEHIND: u64 = 1 << BEHIND_BIT;
    pub(super) const BEHIND_BIT: u64 = 35;
    /// The slot before it goes with it: a line of rests, of which it has the first.
    pub(super) const BEFORE_BIT: u64 = 36;
    /// What a line holds in its first seven words, and its rest in last words.
    pub(super) const STRAIGHT: u64 = 1 << 37;
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
    /// Its length, and [`flags`].
    rest: u64,
}

impl Body {
    /// A frame in one slot.
    #[inline(always)]
    pub(super) fn in_line(n: u64, len: u32, tails: u64) -> Self {
        Self { n, tails, rest: u64::from(len) | flags::STARTS }
    }

    /// A frame in two slots.
    #[inline(always)]
    pub(super) fn in_two_lines(n: u64, len: u32, tails: u64) -> Self {
        Self { n, tails, rest: u64::from(len) | flags::STARTS | flags::BEHIND }
    }

    /// A frame in one slot, and whether it has the first rest of the line before it.
    #[inline(always)]
    pub(super) fn sharing(n: u64, len: u32, tails: u64, is_first: bool) -> Self {
        Self { n, tails, rest: u64::from(len) | flags::STARTS | u64::from(is_first) << flags::BEFORE_BIT }
    }

    /// The same, of a frame on a lane without times that fits one line, or is longer by four bytes at most.
    #[inline(always)]
    pub(super) fn straight(self) -> Self {
        Self { rest: self.rest | flags::STRAIGHT, ..self }
    }

    /// A frame, or a part of one, in a buffer.
    pub(super) fn in_buffer(n: u64, index: u32, len: u32, starts: bool, continues: bool) -> Self {
        let starts = if starts { flags::STARTS } else { 0 };
        let continues = if continues { flags::CONTINUES } else { 0 };
        Self { n, tails: index.into(), rest: u64::from(len) | flags::BUFFER | starts | continues }
    }

    /// Bytes of the frame that are here.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never asked whether it is empty")]
    pub fn len(&self) -> usize {
        low32(self.rest) as usize
    }

    /// The buffer that it is in, and that is now held ([`Holding::Frame`](super::Holding::Frame)); none if it is in the slots
    /// of its event.
    #[inline]
    #[must_use]
    pub fn buffer(&self) -> Option<u32> {
        (self.rest & flags::BUFFER != 0).then_some(low32(self.tails))
    }

    #[inline(always)]
    pub(super) fn words(&self) -> [u64; 3] {
        [self.n, self.tails, self.rest]
    }

    pub(super) fn of_words([n, tails, rest]: [u64; 3]) -> Self {
        Self { n, tails, rest }
    }

    /// The slots of a short frame: the first, and the first one behind them.
    #[inline(always)]
    pub(super) fn slots(&self) -> (u64, u64) {
        let before = self.rest >> flags::BEFORE_BIT & 1;
        let behind = self.rest >> flags::BEHIND_BIT & 1;
        (self.n.wrapping_sub(before), self.n.wrapping_add(behind).wrapping_add(1))
    }

    /// Where a short frame lies.
    #[inline(always)]
    pub(super) fn lies(&self) -> Lies {
        Lies { n: self.n, len: self.len(), tails: self.tails, straight: self.rest & flags::STRAIGHT != 0 }
    }

    /// Whether the frame begins here.
    #[inline]
    #[must_use]
    pub fn starts(&self) -> bool {
        self.rest & flags::STARTS != 0
    }

    /// Whether the frame goes on in the next event.
    #[inline]
    #[must_use]
    pub fn continues(&self) -> bool {
        self.rest & flags::CONTINUES != 0
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
