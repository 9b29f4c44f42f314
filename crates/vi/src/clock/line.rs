//! A straight line from ticks to nanoseconds, and what is known about its error.

use crate::bits::low64;

/// Bits behind the point of a rate: a billionth of a nanosecond in a tick, and a little better.
pub(crate) const FRACTION_BITS: u32 = 40;
const BILLION: u128 = 1_000_000_000;

/// How good a stamp is. The first two bits are ef_vi's `EF_VI_SYNC_FLAG_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SyncFlags(u32);

impl SyncFlags {
    /// The clock was set from CLOCK_TAI: times are since 1970.
    pub const CLOCK_SET: Self = Self(1);
    /// The clock follows CLOCK_TAI within its bound, and the kernel says that somebody disciplines that.
    pub const IN_SYNC: Self = Self(2);
    /// The time comes from the processor's counter; without this flag the kernel was asked.
    pub const COUNTER: Self = Self(4);
    /// The kernel knows how far TAI is ahead of UTC; without this flag its CLOCK_TAI is UTC.
    pub const TAI_KNOWN: Self = Self(8);

    /// From the number that [`bits`](Self::bits) gave; other bits are dropped.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & 15)
    }

    /// As a number.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

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

    /// These without those.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Nanoseconds since 1970 of this host's CLOCK_TAI; 0 is none.
    pub ns: u64,
    /// How far it may be from CLOCK_TAI, in nanoseconds, either way.
    pub bound_ns: u64,
    /// How good it is.
    pub flags: SyncFlags,
}

/// What a moment of the counter is in nanoseconds: true for a while, with an error that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// The counter at the base.
    pub ticks: u64,
    /// Nanoseconds since 1970 at the base.
    pub ns: u64,
    /// Nanoseconds in a tick, in units of 2^-40.
    pub rate: u64,
    /// The error at the base, in nanoseconds.
    pub error_ns: u64,
    /// How fast the error grows, in billionths of the time since the base.
    pub drift_ppb: u32,
    /// For how many ticks after its base the line may be called in sync.
    pub fresh_ticks: u64,
    /// How good it was at the base.
    pub flags: SyncFlags,
}

impl Line {
    /// The time of a moment up to 2^63 ticks before or after the base, whether or not the counter wraps in between.
    #[inline(always)]
    #[must_use]
    pub fn ns_at(&self, ticks: u64) -> u64 {
        let since = ticks.wrapping_sub(self.ticks);
        if since >> 63 == 0 {
            self.ns.wrapping_add(self.span_ns(since))
        } else {
            self.ns.wrapping_sub(self.span_ns(since.wrapping_neg()))
        }
    }

    /// How long so many ticks are.
    #[inline(always)]
    #[must_use]
    pub fn span_ns(&self, ticks: u64) -> u64 {
        low64((u128::from(ticks) * u128::from(self.rate)) >> FRACTION_BITS)
    }

    /// How many ticks a time takes, rounded up; the most there are where the line has no rate.
    #[must_use]
    pub fn ticks_in(&self, ns: u64) -> u64 {
        let ticks = (u128::from(ns) << FRACTION_BITS).div_ceil(u128::from(self.rate).max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// How wrong it may be at a moment, in nanoseconds.
    #[must_use]
    pub fn bound_ns(&self, ticks: u64) -> u64 {
        let since = ticks.wrapping_sub(self.ticks);
        let away = self.span_ns(since.min(since.wrapping_neg()));
        let grown = (u128::from(away) * u128::from(self.drift_ppb)).div_ceil(BILLION);
        self.error_ns.saturating_add(u64::try_from(grown).unwrap_or(u64::MAX))
    }

    /// All that is known of a moment.
    #[must_use]
    pub fn stamp(&self, ticks: u64) -> Stamp {
        let since = ticks.wrapping_sub(self.ticks);
        let fresh = since.min(since.wrapping_neg()) <= self.fresh_ticks;
        let flags = if fresh { self.flags } else { self.flags.without(SyncFlags::IN_SYNC) };
        Stamp { ns: self.ns_at(ticks), bound_ns: self.bound_ns(ticks), flags }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: Line = Line {
        ticks: 1000,
        ns: 5_000_000_000,
        rate: 1 << (FRACTION_BITS - 1),
        error_ns: 20,
        drift_ppb: 15_000,
        fresh_ticks: 100,
        flags: SyncFlags(7),
    };

    #[test]
    fn two_ticks_are_a_nanosecond_forwards_and_back() {
        assert_eq!(LINE.ns_at(1000), 5_000_000_000);
        assert_eq!(LINE.ns_at(3000), 5_000_001_000);
        assert_eq!(LINE.ns_at(0), 4_999_999_500);
        assert_eq!(LINE.ticks_in(500), 1000);
        assert_eq!(LINE.ticks_in(1), 2);
    }

    #[test]
    fn a_counter_that_wraps_is_no_jump() {
        let line = Line { ticks: u64::MAX - 9, ..LINE };
        assert_eq!(line.ns_at(u64::MAX), line.ns + 4);
        assert_eq!(line.ns_at(10), line.ns + 10);
        assert_eq!(line.bound_ns(10), line.bound_ns(u64::MAX - 29));
    }

    #[test]
    fn a_stamp_ages_and_says_so() {
        let young = LINE.stamp(1100);
        assert!(young.flags.contains(SyncFlags::IN_SYNC) && young.bound_ns == 21);
        let old = LINE.stamp(1000 + 2_000_000_000);
        assert!(!old.flags.contains(SyncFlags::IN_SYNC) && old.flags.contains(SyncFlags::CLOCK_SET));
        assert_eq!(old.bound_ns, 20 + 15_000);
    }

    proptest! {
        #[test]
        fn no_line_and_no_moment_are_too_strange(
            ticks: u64, ns: u64, rate: u64, error_ns: u64, drift_ppb: u32, fresh_ticks: u64, at: u64) {
            let line = Line { ticks, ns, rate, error_ns, drift_ppb, fresh_ticks, flags: SyncFlags(0) };
            let stamp = line.stamp(at);
            prop_assert!(stamp.bound_ns >= error_ns);
            let _ = line.ticks_in(at);
        }
    }
}
