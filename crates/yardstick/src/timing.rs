//! What is timed together, and what counts of it.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Round trips that are timed together.
pub const TRIPS: u64 = 200;
/// How often: the median counts, since others use these processors too.
pub const RUNS: u64 = 20;
/// Round trips of a measurement of their median.
pub const TRIPS_IN_ALL: u64 = TRIPS * RUNS;
/// Round trips that are timed one by one, for their distribution.
pub const EACH: u64 = 1000;
/// Frames that are timed together: more than a lane holds, and few enough that most chunks are not interrupted.
pub const CHUNK: u64 = 1024;

/// Frames of one measurement of a rate: fewer of the long ones, so that a window stays short.
#[must_use]
pub fn frames_of(bytes: usize) -> u64 {
    if bytes < 512 { 32 * CHUNK } else { 8 * CHUNK }
}

/// Why a measurement did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing came for longer than any machine sleeps.
    #[error("the other end is silent for {} s", Patience::MOST.as_secs())]
    Silent,
    /// A frame came with another length than was sent.
    #[error("a frame of {got} bytes came where {sent} were sent")]
    Length {
        /// What was sent.
        sent: usize,
        /// What came.
        got: usize,
    },
    /// A frame that a filter should have taken was not sent.
    #[error("no filter took the frame")]
    NotSteered,
    /// The frame was refused.
    #[error("a frame was not sent")]
    Transmit(#[from] vi::TransmitError),
    /// The lane is over.
    #[error("the lane is over")]
    Lane(#[from] vi::lane::LaneError),
    /// A packet could not be read.
    #[error("a packet could not be read")]
    Memory(#[from] shm::WindowError),
    /// A lane could not be had.
    #[error("the lane cannot be made")]
    Geometry(#[from] vi::lane::BadGeometry),
    /// A buffer could not be posted.
    #[error("a buffer was not posted")]
    Post(#[from] vi::PostRefusal),
}

/// Spinning, but not for ever: the other end may have failed.
#[derive(Debug, Default)]
pub struct Patience {
    spins: u32,
    until: Option<Instant>,
}

impl Patience {
    const MOST: Duration = Duration::from_secs(10);
    /// Looks at the clock are this rare.
    const SPINS: u32 = 1 << 16;

    /// Once more.
    ///
    /// # Errors
    /// [`Failure::Silent`] after ten seconds.
    #[inline(always)]
    pub fn spin(&mut self) -> Result<(), Failure> {
        std::hint::spin_loop();
        self.spins += 1;
        if self.spins < Self::SPINS { Ok(()) } else { self.look() }
    }

    #[cold]
    fn look(&mut self) -> Result<(), Failure> {
        self.spins = 0;
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + Self::MOST);
        if now < until { Ok(()) } else { Err(Failure::Silent) }
    }
}

/// Round trips, in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Trips {
    /// The median of [`RUNS`] means of [`TRIPS`] round trips.
    pub median_ns: f64,
    /// [`EACH`] round trips by themselves. Each includes one look at the clock.
    pub each_ns: Vec<u64>,
}

/// What is timed, in chunks: each is the numbers of the round trips or frames in it, counted from 1, and the time until the
/// next one is asked for is theirs. The loop stands where it is measured, as a program has it, and what it calls becomes a part
/// of it: a closure that is called for each frame would be measured with it.
///
/// ```
/// # use yardstick::Chunks;
/// let mut chunks = Chunks::of_frames(4096);
/// let mut last = 0;
/// for chunk in chunks.by_ref() {
///     for n in chunk {
///         last = n;
///     }
/// }
/// assert_eq!(last, 4096);
/// assert!(chunks.millions_per_s() > 0.0);
/// ```
#[derive(Debug)]
pub struct Chunks {
    next: u64,
    each: u64,
    last: u64,
    started: Option<Instant>,
    /// Nanoseconds of the chunks that are over.
    ns: Vec<u64>,
}

impl Chunks {
    fn new(chunks: u64, each: u64) -> Self {
        let room = usize::try_from(chunks).unwrap_or(0);
        Self { next: 1, each, last: chunks * each, started: None, ns: Vec::with_capacity(room) }
    }

    /// [`TRIPS_IN_ALL`] round trips, for their median.
    #[must_use]
    pub fn of_trips() -> Self {
        Self::new(RUNS, TRIPS)
    }

    /// [`EACH`] round trips one by one, for their distribution.
    #[must_use]
    pub fn of_single_trips() -> Self {
        Self::new(EACH, 1)
    }

    /// So many frames, a multiple of [`CHUNK`], for their rate as the sender sees it behind a ring that is full.
    #[must_use]
    pub fn of_frames(frames: u64) -> Self {
        Self::new(frames / CHUNK, CHUNK)
    }

    /// Nanoseconds of each chunk.
    #[must_use]
    pub fn each_ns(self) -> Vec<u64> {
        self.ns
    }

    /// Nanoseconds of one round trip or frame: the median of the chunks.
    #[must_use]
    pub fn median_ns(&self) -> f64 {
        let each = self.each as f64;
        median(&mut self.ns.iter().map(|&ns| ns as f64 / each).collect::<Vec<_>>())
    }

    /// Millions of frames per second.
    #[must_use]
    pub fn millions_per_s(&self) -> f64 {
        1e3 / self.median_ns()
    }
}

impl Iterator for Chunks {
    type Item = Range<u64>;

    /// Ends a chunk, if one was begun, and begins another, if there is one.
    fn next(&mut self) -> Option<Range<u64>> {
        let now = Instant::now();
        if let Some(started) = self.started.take() {
            self.ns.push(u64::try_from((now - started).as_nanos()).unwrap_or(u64::MAX));
        }
        let begin = self.next;
        if begin > self.last {
            return None;
        }
        self.next += self.each;
        self.started = Some(now);
        Some(begin..self.next)
    }
}

/// The median; NaN of nothing.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn trips_and_frames_are_numbered_and_counted() {
        for (mut chunks, all, each) in [
            (Chunks::of_trips(), TRIPS_IN_ALL, TRIPS),
            (Chunks::of_single_trips(), EACH, 1),
            (Chunks::of_frames(frames_of(64)), frames_of(64), CHUNK),
        ] {
            let seen = chunks.by_ref().inspect(|chunk| assert_eq!(chunk.end - chunk.start, each)).flatten();
            assert!(seen.eq(1..=all));
            assert!(chunks.median_ns() > 0.0 && chunks.millions_per_s() > 0.0);
            assert_eq!(chunks.each_ns().len() as u64, all / each);
        }
    }

    #[test]
    fn patience_ends() {
        let mut patience = Patience { spins: 0, until: Some(Instant::now()) };
        let end = loop {
            if let Err(end) = patience.spin() {
                break end;
            }
        };
        assert_eq!(end, Failure::Silent);
    }
}
