//! When the frames of a file are due again. Pure: files and clocks are the caller's.

use std::num::NonZeroU32;

/// How fast a file is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// As fast as there is room.
    Top,
    /// With its gaps, divided by a number of thousandths: 1000 is as it was, 2000 is twice as fast.
    Thousandths(NonZeroU32),
}

impl Speed {
    /// From a factor as people write it; 0 is [`Top`](Self::Top). None for what is no factor between 0.001 and 4 million.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be between 1 and u32::MAX just before"
    )]
    pub fn from_factor(factor: f64) -> Option<Self> {
        let thousandths = (factor * 1000.0).round();
        if factor == 0.0 {
            return Some(Self::Top);
        }
        if !(1.0..=f64::from(u32::MAX)).contains(&thousandths) {
            return None;
        }
        NonZeroU32::new(thousandths as u32).map(Self::Thousandths)
    }
}

/// The times of one replay, over any number of loops.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    speed: Speed,
    first_ns: Option<u64>,
    /// The latest time so far, in the file's own nanoseconds since its first frame.
    latest_ns: u64,
    /// The gap that was last, which stands between two loops.
    gap_ns: u64,
    /// Where this loop begins.
    begin_ns: u64,
}

impl Schedule {
    /// A replay that has not begun.
    #[must_use]
    pub fn new(speed: Speed) -> Self {
        Self { speed, first_ns: None, latest_ns: 0, gap_ns: 0, begin_ns: 0 }
    }

    /// When a frame that was captured at `frame_ns` is due, in nanoseconds after the replay began. Times never go back:
    /// a frame that the file says is older than the one before is due with it.
    #[must_use]
    pub fn due_ns(&mut self, frame_ns: u64) -> u64 {
        let first = *self.first_ns.get_or_insert(frame_ns);
        let at = self.begin_ns.saturating_add(frame_ns.saturating_sub(first));
        if at > self.latest_ns {
            self.gap_ns = at - self.latest_ns;
            self.latest_ns = at;
        }
        self.scaled(self.latest_ns)
    }

    /// The file begins again: its first frame is due one gap after the last one.
    pub fn again(&mut self) {
        self.begin_ns = self.latest_ns.saturating_add(self.gap_ns);
        self.first_ns = None;
    }

    fn scaled(&self, ns: u64) -> u64 {
        match self.speed {
            Speed::Top => 0,
            Speed::Thousandths(thousandths) => {
                let ns = u128::from(ns) * 1000 / u128::from(thousandths.get());
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(factor: f64) -> Schedule {
        Schedule::new(Speed::from_factor(factor).unwrap())
    }

    #[test]
    fn gaps_are_kept_divided_or_left_out() {
        for (factor, dues) in
            [(1.0, [0, 100, 400]), (2.0, [0, 50, 200]), (0.5, [0, 200, 800]), (0.0, [0, 0, 0])]
        {
            let mut schedule = schedule(factor);
            assert_eq!([1000, 1100, 1400].map(|ns| schedule.due_ns(ns)), dues);
        }
    }

    #[test]
    fn a_second_loop_goes_on_after_the_last_gap() {
        let mut schedule = schedule(1.0);
        let _ = [1000, 1100, 1400].map(|ns| schedule.due_ns(ns));
        schedule.again();
        assert_eq!([1000, 1100].map(|ns| schedule.due_ns(ns)), [700, 800]);
    }

    #[test]
    fn a_time_that_goes_back_is_due_at_once() {
        let mut schedule = schedule(1.0);
        assert_eq!([1000, 1500, 1200, 1600].map(|ns| schedule.due_ns(ns)), [0, 500, 500, 600]);
    }

    #[test]
    fn what_is_no_factor_is_refused() {
        for factor in [-1.0, 0.0001, 1e10, f64::NAN, f64::INFINITY] {
            assert_eq!(Speed::from_factor(factor), None, "{factor}");
        }
    }

    proptest! {
        #[test]
        fn times_never_go_back(times: Vec<(u64, bool)>, thousandths in 1_u32..) {
            let mut schedule = Schedule::new(Speed::Thousandths(NonZeroU32::new(thousandths).unwrap()));
            let mut last = 0;
            for (ns, again) in times {
                if again {
                    schedule.again();
                }
                let due = schedule.due_ns(ns);
                prop_assert!(due >= last);
                last = due;
            }
        }
    }
}
