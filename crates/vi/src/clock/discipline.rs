//! How readings of CLOCK_TAI become a line: pure, so that simulated clocks can test it.
//!
//! The rate is measured over the longest time that is remembered, the place by the narrowest reading. A line that was
//! wrong is not broken off: the next one begins where the old one is and leans towards what was measured, so that times
//! go on. Only a clock that somebody has set is jumped after.

use super::line::{FRACTION_BITS, Line, SyncFlags};
use std::collections::VecDeque;

/// How fast two clocks may part that nobody touches, in billionths: NTP's bound for a quartz (RFC 5905, PHI).
pub const DRIFT_PPB: u32 = 15_000;
/// A line that is more wrong than this, and than its bound, is jumped from, not leaned.
const JUMP_NS: u64 = 1_000_000;
/// The most that a line leans, in billionths.
const MOST_LEAN_PPB: i128 = 100_000;
/// Readings that are remembered for the rate.
const REMEMBERED: usize = 16;
/// The shortest time that a rate is measured over, in nanoseconds: a reading of 50 ns at each end then makes 10 ppm.
const SHORTEST_NS: u64 = 10_000_000;
/// In sync is said for so many times the time between the last two steps, and for a second at least.
const FRESH_STEPS: u64 = 4;
const FRESH_NS: u64 = 1_000_000_000;

/// CLOCK_TAI, read between two readings of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The counter before.
    pub before: u64,
    /// CLOCK_TAI in nanoseconds since 1970.
    pub ns: u64,
    /// The counter after.
    pub after: u64,
}

impl Reading {
    fn width(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }
}

#[derive(Debug, Clone, Copy)]
struct Point {
    ticks: u64,
    ns: u64,
    /// Half the width of the reading, in ticks.
    error_ticks: u64,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// No reading was of use: the counter ran backwards in each, or the clock has not moved on.
    Unusable,
    /// More readings are needed before there is a rate: come again after 10 ms at least.
    Waits,
    /// The line, and how far the one before was off.
    Line {
        /// Now true.
        line: Line,
        /// What the line before said, minus what was measured, in nanoseconds.
        off_ns: i64,
        /// Whether the line before was further off than its bound: CLOCK_TAI was set or hurried meanwhile.
        surprised: bool,
    },
}

/// The discipline of one counter.
#[derive(Debug, Default)]
pub struct Discipline {
    points: VecDeque<Point>,
    line: Option<Line>,
    surprises: u64,
}

impl Discipline {
    /// One that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How often a line was further off than its bound.
    #[must_use]
    pub fn surprises(&self) -> u64 {
        self.surprises
    }

    /// Takes readings of one moment; `flags` is what is known about CLOCK_TAI.
    pub fn step(&mut self, readings: &[Reading], flags: SyncFlags) -> Stepped {
        // A width of more than 2^63 is a counter that ran backwards.
        let usable = readings.iter().filter(|reading| reading.width() >> 62 == 0);
        let Some(best) = usable.min_by_key(|reading| reading.width()) else { return Stepped::Unusable };
        let half = best.width() / 2;
        let point = Point { ticks: best.before.wrapping_add(half), ns: best.ns, error_ticks: half + 1 };
        let set = self.line.is_some_and(|line| {
            let allowed = line.bound_ns(point.ticks).max(JUMP_NS);
            line.ns_at(point.ticks).abs_diff(point.ns) > allowed
        });
        if set {
            // Somebody set the clock: what was before says nothing about what comes.
            return self.jump(point, flags);
        }
        self.measure(point, flags)
    }

    /// Begins anew at a point, with the rate that was.
    fn jump(&mut self, point: Point, flags: SyncFlags) -> Stepped {
        let Some(before) = self.line else { return Stepped::Unusable };
        self.points.clear();
        self.points.push_back(point);
        self.surprises += 1;
        let line = Line {
            ticks: point.ticks,
            ns: point.ns,
            error_ns: before.span_ns(point.error_ticks).saturating_add(1),
            // The rate is the old one's, and so is what was known about it.
            flags: flags.without(SyncFlags::IN_SYNC),
            ..before
        };
        self.line = Some(line);
        Stepped::Line { line, off_ns: difference(before.ns_at(point.ticks), point.ns), surprised: true }
    }

    fn measure(&mut self, point: Point, flags: SyncFlags) -> Stepped {
        let last = self.points.back().copied();
        let Some(first) = self.points.front().copied() else {
            self.points.push_back(point);
            return Stepped::Waits;
        };
        let (ticks, ns) = (point.ticks.wrapping_sub(first.ticks), point.ns.saturating_sub(first.ns));
        let backwards = last.is_some_and(|last| point.ns <= last.ns) || ticks == 0 || ticks >> 62 != 0;
        if backwards {
            return Stepped::Unusable;
        }
        if ns < SHORTEST_NS {
            return self.line.map_or(Stepped::Waits, |_| Stepped::Unusable);
        }
        let Ok(rate) = u64::try_from((u128::from(ns) << FRACTION_BITS) / u128::from(ticks)) else {
            return Stepped::Unusable;
        };
        if rate == 0 {
            return Stepped::Unusable;
        }
        let here = Line { ticks: point.ticks, ns: point.ns, rate, ..Line::default() };
        // A reading's time is somewhere between its two ends; and it is a whole number of nanoseconds.
        let error_ns = here.span_ns(point.error_ticks).saturating_add(1);
        let both_ns = error_ns.saturating_add(here.span_ns(first.error_ticks)).saturating_add(1);
        let rate_ppb = ppb(both_ns, ns);
        let step_ns = last.map_or(ns, |last| point.ns.saturating_sub(last.ns));
        let stepped = self.lean(here, error_ns, rate_ppb, step_ns, flags);
        self.points.push_back(point);
        if self.points.len() > REMEMBERED {
            self.points.pop_front();
        }
        stepped
    }

    /// The next line: through where the old one is, towards `here`.
    fn lean(&mut self, here: Line, error_ns: u64, rate_ppb: u64, step_ns: u64, flags: SyncFlags) -> Stepped {
        let (begin_ns, off_ns, surprised) = match self.line {
            None => (here.ns, 0, false),
            Some(line) => {
                let said = line.ns_at(here.ticks);
                let off = difference(said, here.ns);
                let surprised = off.unsigned_abs() > line.bound_ns(here.ticks).saturating_add(error_ns);
                (said, off, surprised)
            }
        };
        let lean = -i128::from(off_ns) * 1_000_000_000 / i128::from(step_ns.max(1));
        let lean = lean.clamp(-MOST_LEAN_PPB, MOST_LEAN_PPB);
        let rate = i128::from(here.rate) + i128::from(here.rate) * lean / 1_000_000_000;
        let drift = u64::from(DRIFT_PPB).saturating_add(rate_ppb).saturating_add(
            // Where the line goes on leaning after it has arrived, it is wrong again.
            u64::try_from(lean.unsigned_abs()).unwrap_or(u64::MAX),
        );
        let flags = flags.with(SyncFlags::CLOCK_SET);
        let line = Line {
            ns: begin_ns,
            rate: u64::try_from(rate).unwrap_or(here.rate),
            error_ns: error_ns.saturating_add(off_ns.unsigned_abs()),
            drift_ppb: u32::try_from(drift).unwrap_or(u32::MAX),
            fresh_ticks: here.ticks_in(step_ns.saturating_mul(FRESH_STEPS).max(FRESH_NS)),
            flags: if surprised { flags.without(SyncFlags::IN_SYNC) } else { flags },
            ..here
        };
        self.surprises += u64::from(surprised);
        self.line = Some(line);
        Stepped::Line { line, off_ns, surprised }
    }
}

/// One of two numbers in billionths of the other.
fn ppb(part: u64, whole: u64) -> u64 {
    u64::try_from((u128::from(part) * 1_000_000_000).div_ceil(u128::from(whole.max(1)))).unwrap_or(u64::MAX)
}

/// `a - b`, as far as an i64 goes.
pub(crate) fn difference(a: u64, b: u64) -> i64 {
    let difference = i128::from(a) - i128::from(b);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}
