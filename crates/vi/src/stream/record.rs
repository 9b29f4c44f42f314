//! The header of a record.

use crate::bits::{low16, low32};
use crate::clock::{Stamp, SyncFlags};

/// Bytes before each frame.
pub const HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
pub(super) const ALIGN: u32 = 8;
const BILLION: u64 = 1_000_000_000;

/// What a record says about its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RecordFlags(u16);

impl RecordFlags {
    /// Not a frame: what is left at the ring's end.
    pub(super) const PADDING: Self = Self(1);
    /// The frame was sent by this end; without this flag it was received.
    pub const SENT: Self = Self(2);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is known of a frame in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// Bytes of the frame that are here.
    pub captured_bytes: u32,
    /// Bytes that the frame had.
    pub original_bytes: u32,
    /// Seconds since 1970. No counter of 32 bits: it does not wrap in 2106.
    pub seconds: u64,
    /// Nanoseconds of the second, below a billion.
    pub nanoseconds: u32,
    /// How good the time is.
    pub sync: SyncFlags,
    /// What else.
    pub flags: RecordFlags,
    /// The filter that took the frame.
    pub filter: u16,
    /// Frames lost for want of room between the record before and this one; 65535 is that many or more.
    pub lost_before: u16,
}

impl RecordHeader {
    /// With a time; the lengths are the stream's to fill in.
    #[must_use]
    pub fn at(stamp: Stamp) -> Self {
        Self {
            seconds: stamp.ns / BILLION,
            nanoseconds: low32(stamp.ns % BILLION),
            sync: stamp.flags,
            ..Self::default()
        }
    }

    /// The time in nanoseconds since 1970; the last there is for a time behind the year 2554.
    #[must_use]
    pub fn ns(&self) -> u64 {
        self.seconds.saturating_mul(BILLION).saturating_add(u64::from(self.nanoseconds))
    }

    /// The header of a record of `record_bytes` bytes.
    pub(super) fn to_bytes(self, record_bytes: u32) -> [u8; HEADER_BYTES] {
        let words = [
            u64::from(record_bytes) | u64::from(self.flags.0) << 32 | u64::from(self.sync.bits()) << 48,
            u64::from(self.captured_bytes) | u64::from(self.original_bytes) << 32,
            self.seconds,
            u64::from(self.nanoseconds) | u64::from(self.filter) << 32 | u64::from(self.lost_before) << 48,
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header and the length of its record, as somebody wrote them: unchecked, but for the nanoseconds, which are
    /// cut below a billion.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> (Self, u32) {
        let word = |at: usize| {
            bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let (first, lengths, seconds, last) = (word(0), word(8), word(16), word(24));
        let header = Self {
            captured_bytes: low32(lengths),
            original_bytes: low32(lengths >> 32),
            seconds,
            nanoseconds: low32(last).min(low32(BILLION - 1)),
            sync: SyncFlags::from_bits(low32(first >> 48)),
            flags: RecordFlags(low16(first >> 32)),
            filter: low16(last >> 32),
            lost_before: low16(last >> 48),
        };
        (header, low32(first))
    }
}
