//! The event queue's timer (`ef_eventq_timer_*`): a deadline that a poll looks at. Pure: time is the caller's, in ticks.

/// When an event queue is to say that time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventTimer {
    /// It does not run (`ef_eventq_timer_clear`).
    #[default]
    Clear,
    /// It begins to run with the next event (`ef_eventq_timer_prime`).
    Primed {
        /// How long it then runs.
        ticks: u64,
    },
    /// It runs (`ef_eventq_timer_run`).
    Runs {
        /// Until when.
        deadline: u64,
    },
}

impl EventTimer {
    /// Runs for so many ticks from now on.
    #[must_use]
    pub fn run(now: u64, ticks: u64) -> Self {
        // Half the counter's range is for ever.
        Self::Runs { deadline: now.wrapping_add(ticks.min(u64::MAX >> 1)) }
    }

    /// An event came: a primed timer runs.
    #[must_use]
    pub fn started(self, now: u64) -> Self {
        match self {
            Self::Primed { ticks } => Self::run(now, ticks),
            other => other,
        }
    }

    /// Ticks until it is over; none while it does not run.
    #[must_use]
    pub fn left(self, now: u64) -> Option<u64> {
        match self {
            Self::Runs { deadline } => {
                let left = deadline.wrapping_sub(now);
                Some(if left >> 63 == 0 { left } else { 0 })
            }
            _ => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_primed_timer_waits_for_an_event_and_then_runs() {
        let primed = EventTimer::Primed { ticks: 10 };
        assert_eq!(primed.left(500), None);
        let runs = primed.started(500);
        assert_eq!(
            (runs.left(500), runs.left(509), runs.left(510), runs.left(9999)),
            (Some(10), Some(1), Some(0), Some(0))
        );
        assert_eq!(runs.started(505), runs, "a second event changes nothing");
        assert_eq!(EventTimer::Clear.started(1).left(1), None);
    }

    #[test]
    fn the_counters_end_is_no_deadline() {
        let runs = EventTimer::run(u64::MAX - 2, 10);
        assert_eq!((runs.left(u64::MAX), runs.left(6), runs.left(7)), (Some(8), Some(1), Some(0)));
        assert_eq!(EventTimer::run(3, u64::MAX).left(3), Some(u64::MAX >> 1));
    }
}
