//! What is timed together, and what counts of it.

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

/// Nanoseconds of one round trip: the median of the runs. Round trips are numbered from 1.
///
/// # Errors
/// The first that `trip` makes.
pub fn median_trip<E>(mut trip: impl FnMut(u64) -> Result<(), E>) -> Result<f64, E> {
    let mut times = Vec::with_capacity(20);
    for run in 0..RUNS {
        let start = Instant::now();
        (1..=TRIPS).try_for_each(|n| trip(run * TRIPS + n))?;
        times.push(start.elapsed().as_secs_f64() * 1e9 / 200.0);
    }
    Ok(median(&mut times))
}

/// Round trips one by one, in nanoseconds.
///
/// # Errors
/// The first that `trip` makes.
pub fn each_trip<E>(mut trip: impl FnMut() -> Result<(), E>) -> Result<Vec<u64>, E> {
    let mut times = vec![0; 1000];
    let mut before = Instant::now();
    for time in &mut times {
        trip()?;
        let now = Instant::now();
        *time = u64::try_from((now - before).as_nanos()).unwrap_or(u64::MAX);
        before = now;
    }
    Ok(times)
}

/// Frames sent by one thread, in chunks of [`CHUNK`], and how long each chunk took: what a sender sees behind a ring that is
/// full. The loop stands where it is measured, and what it calls becomes a part of it: a call for each frame would be measured
/// with it.
///
/// ```
/// # use yardstick::{CHUNK, Chunks};
/// let mut chunks = Chunks::of(4 * CHUNK);
/// let mut sent = 0;
/// while chunks.another() {
///     (0..CHUNK).for_each(|_| sent += 1);
/// }
/// assert_eq!(sent, 4 * CHUNK);
/// assert!(chunks.rate() > 0.0);
/// ```
#[derive(Debug)]
pub struct Chunks {
    left: u64,
    started: Option<Instant>,
    rates: Vec<f64>,
}

impl Chunks {
    /// For so many frames, a multiple of [`CHUNK`].
    #[must_use]
    pub fn of(frames: u64) -> Self {
        let chunks = frames / CHUNK;
        Self { left: chunks, started: None, rates: Vec::with_capacity(usize::try_from(chunks).unwrap_or(0)) }
    }

    /// Ends a chunk, if one was begun, and begins another, if there is one.
    pub fn another(&mut self) -> bool {
        if let Some(started) = self.started.take() {
            self.rates.push(1024.0 / (started.elapsed().as_secs_f64() * 1e6));
        }
        let more = self.left > 0;
        if more {
            self.left -= 1;
            self.started = Some(Instant::now());
        }
        more
    }

    /// Millions of frames per second: the median of the chunks.
    #[must_use]
    pub fn rate(mut self) -> f64 {
        median(&mut self.rates)
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
        let mut seen = Vec::new();
        let ns = median_trip(|n| {
            seen.push(n);
            Ok::<_, Failure>(())
        });
        assert!(ns.unwrap() >= 0.0);
        assert!(seen.iter().copied().eq(1..=TRIPS_IN_ALL));
        let mut sent = 0;
        let mut chunks = Chunks::of(frames_of(64));
        while chunks.another() {
            (0..CHUNK).for_each(|_| sent += 1);
        }
        assert!(chunks.rate() > 0.0 && sent == frames_of(64));
        assert_eq!(each_trip(|| Ok::<_, Failure>(())).unwrap().len() as u64, EACH);
    }

    #[test]
    fn patience_ends_and_failures_are_passed_on() {
        let mut patience = Patience { spins: 0, until: Some(Instant::now()) };
        let end = loop {
            if let Err(end) = patience.spin() {
                break end;
            }
        };
        assert_eq!(end, Failure::Silent);
        assert_eq!(median_trip(|_| Err(Failure::NotSteered)), Err(Failure::NotSteered));
    }
}
