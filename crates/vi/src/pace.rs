//! Pacing: not more frames, or not more bytes, in a time than were agreed (`ef_vi_pace`).
//!
//! Pure: time is the caller's, in ticks of a counter or in nanoseconds, as long as it is always the same.

/// A bucket that fills with time and that frames are paid from. A frame may go when the bucket is not in debt; its
/// price is then taken, so that a frame of any length goes at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Ticks that each frame costs, and ticks for each 2^20 bytes.
    frame_ticks: u64,
    mebibyte_ticks: u64,
    /// Ticks that may be saved up.
    burst_ticks: u64,
    /// When the bucket is out of debt.
    free_at: u64,
    begun: bool,
}

impl Pace {
    /// A gap of at least `ticks` between the beginnings of two frames.
    #[must_use]
    pub fn gap(ticks: u64) -> Self {
        Self { frame_ticks: ticks, mebibyte_ticks: 0, burst_ticks: 0, free_at: 0, begun: false }
    }

    /// `bytes` in `ticks`, of which `burst_bytes` may go at once after a rest. Every frame is allowed where `bytes` is 0.
    #[must_use]
    pub fn rate(bytes: u64, ticks: u64, burst_bytes: u64) -> Self {
        let per = |wanted: u64| {
            let price = u128::from(ticks) * u128::from(wanted) / u128::from(bytes.max(1));
            if bytes == 0 { 0 } else { u64::try_from(price).unwrap_or(u64::MAX) }
        };
        let mut pace = Self::gap(0);
        (pace.mebibyte_ticks, pace.burst_ticks) = (per(1 << 20), per(burst_bytes));
        pace
    }

    /// As ef_vi says it: a gap of 2^`value` × 100 ns, none for a negative value; `second_ticks` is a second.
    #[must_use]
    pub fn from_ef_vi(value: i32, second_ticks: u64) -> Self {
        let Ok(power) = u32::try_from(value) else { return Self::gap(0) };
        let ticks = (u128::from(second_ticks) << power.min(63)) / 10_000_000;
        Self::gap(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// Pays for a frame of `bytes` bytes that goes at `now`.
    ///
    /// # Errors
    /// For how many ticks it may not go yet; nothing was paid.
    pub fn pay(&mut self, now: u64, bytes: usize) -> Result<(), u64> {
        // Counters wrap: what lies up to half their range ahead is later.
        let ahead = self.free_at.wrapping_sub(now);
        let debt = self.begun && ahead != 0 && ahead >> 63 == 0;
        if debt {
            return Err(ahead);
        }
        let price = (u128::from(self.mebibyte_ticks) * bytes as u128) >> 20;
        let price = u64::try_from(price).unwrap_or(u64::MAX).saturating_add(self.frame_ticks);
        // What was saved up, at most a burst.
        let saved = if self.begun { now.wrapping_sub(self.free_at) } else { u64::MAX };
        let from = now.wrapping_sub(saved.min(self.burst_ticks));
        // Half the counter's range is for ever.
        self.free_at = from.wrapping_add(price.min(u64::MAX >> 2));
        self.begun = true;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_is_kept_over_the_end_of_the_counter() {
        let mut pace = Pace::gap(10);
        let start = u64::MAX - 3;
        assert_eq!(pace.pay(start, 1), Ok(()));
        assert_eq!(pace.pay(start.wrapping_add(9), 1), Err(1));
        assert_eq!(pace.pay(start.wrapping_add(10), 1), Ok(()));
        // A long rest saves nothing up.
        assert_eq!(pace.pay(5000, 1), Ok(()));
        assert_eq!(pace.pay(5001, 1), Err(9));
    }

    #[test]
    fn a_burst_goes_at_once_and_no_more() {
        // A byte in a tick, 3000 bytes saved up at most.
        let mut pace = Pace::rate(1, 1, 3000);
        let sent = (0..10).take_while(|_| pace.pay(7, 1000).is_ok()).count();
        assert_eq!(sent, 4, "the burst, and one more in debt");
        assert_eq!(pace.pay(7, 1000), Err(1000));
    }

    #[test]
    fn ef_vis_values_are_powers_of_two_of_100_ns() {
        assert_eq!(Pace::from_ef_vi(0, 1_000_000_000), Pace::gap(100));
        assert_eq!(Pace::from_ef_vi(3, 2_000_000_000), Pace::gap(1600));
        assert_eq!(Pace::from_ef_vi(-1, 2_000_000_000), Pace::gap(0));
        let _ = Pace::from_ef_vi(i32::MAX, u64::MAX);
    }

    proptest! {
        /// Whatever is asked for and whenever: over any time, not more than the rate, the burst and one frame.
        #[test]
        fn no_more_goes_than_the_rate_and_the_burst(
            start: u64, rate in 1_u64..50, burst in 0_u64..5000,
            steps in prop::collection::vec((0_u64..3000, 1_usize..2000), 1..200),
        ) {
            // `rate` bytes in 10 ticks.
            let mut pace = Pace::rate(rate, 10, burst);
            let (mut now, mut sent) = (start, 0_u64);
            for (step, bytes) in steps {
                now = now.wrapping_add(step);
                if let Err(wait) = pace.pay(now, bytes) {
                    now = now.wrapping_add(wait);
                    prop_assert_eq!(pace.pay(now, bytes), Ok(()), "what was told holds");
                }
                sent += bytes as u64;
                let allowed = now.wrapping_sub(start) * rate / 10 + burst + 2000;
                // Prices are rounded down to a tick: a byte or so for each frame.
                prop_assert!(sent <= allowed + 5 * 200, "{sent} {allowed}");
            }
        }

        #[test]
        fn nothing_is_too_strange(bytes: u64, ticks: u64, burst: u64, now: u64, later: u64, len: usize) {
            let mut pace = Pace::rate(bytes, ticks, burst);
            let _ = (pace.pay(now, len), pace.pay(later, len));
        }
    }
}
