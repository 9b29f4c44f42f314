//! How many log lines a host may bring about: a guest that resets its device in a loop fills no disk.

use std::time::Duration;
use twin::Time;

/// Lines in one period. A guest that boots makes some ten.
const LINES: u32 = 100;
const PERIOD: Duration = Duration::from_secs(10);

/// Counts lines in the period of the moment.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    began: Time,
    used: u32,
    left_out: u64,
}

impl Quota {
    /// Whether one more line may be written; then, how many were left out since the last one that was, if any.
    pub(crate) fn take(&mut self, now: Time) -> Option<Option<u64>> {
        if now >= self.began.after(PERIOD) {
            (self.began, self.used) = (now, 0);
        }
        if self.used >= LINES {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.used += 1;
        Some(Some(std::mem::take(&mut self.left_out)).filter(|&lines| lines > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_said_to_be_one() {
        let mut quota = Quota::default();
        let lines = (0..1000).filter_map(|_| quota.take(Time(Duration::from_secs(3)))).count();
        assert_eq!(lines, 100);
        assert_eq!(quota.take(Time(Duration::from_secs(9))), None);
        assert_eq!(quota.take(Time(Duration::from_secs(10))), Some(Some(901)));
        assert_eq!(quota.take(Time(Duration::from_secs(10))), Some(None));
    }
}
