//! Two threads on two processors, and the windows in which they measure.

use crate::timing::median;
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Where two processors stand to each other, by the round trip of one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Two threads of one core: below 80 ns.
    Smt,
    /// Two cores of one cache: up to 300 ns (about 100 within a ring or a complex, 240 to 280 across a mesh).
    Near,
    /// Two dies or sockets: 300 to 900 ns.
    Far,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Smt, Self::Near, Self::Far];

    /// The class of a round trip in nanoseconds; none of what no cache line takes.
    #[must_use]
    pub fn of(round_trip_ns: f64) -> Option<Self> {
        match round_trip_ns {
            ns if ns < 80.0 => Some(Self::Smt),
            ns if ns < 300.0 => Some(Self::Near),
            ns if ns < 900.0 => Some(Self::Far),
            _ => None,
        }
    }

    /// As printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smt => "smt",
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

/// There are not two processors to measure between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OneProcessor {
    /// The affinity mask leaves fewer than two.
    #[error("measuring takes two processors, and this process may run on {0} of them: see `taskset -p $$`")]
    Mask(usize),
    /// The kernel refuses to pin a thread.
    #[error("processor {0} is not for this process to use")]
    Refused(usize),
}

/// The processors that this thread may run on, lowest first.
///
/// # Errors
/// [`OneProcessor::Mask`] when there are fewer than two.
pub fn allowed_processors() -> Result<Vec<usize>, OneProcessor> {
    let set = sched_getaffinity(None).map_err(|_: Errno| OneProcessor::Mask(0))?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect();
    if allowed.len() < 2 { Err(OneProcessor::Mask(allowed.len())) } else { Ok(allowed) }
}

type Job<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// This thread on one processor and a second one on another, which runs what it is given.
#[derive(Debug)]
pub struct Pair<'scope> {
    jobs: SyncSender<Job<'scope>>,
    done: Receiver<()>,
    lines: Arc<[Line; 3]>,
    /// Somebody else has had one of the processors meanwhile.
    disturbed: Arc<AtomicBool>,
}

/// A cache line and the one that the processor fetches with it.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Line(pub AtomicU64);

/// What a window that counts has found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window<T> {
    /// Where the processors stood.
    pub class: Class,
    /// Round trip of one cache line in nanoseconds: the mean of the two probes.
    pub line_ns: f64,
    /// What was measured.
    pub found: T,
}

impl<'scope> Pair<'scope> {
    /// Pins this thread to the first processor that it may use, and starts the other one on the second.
    ///
    /// # Errors
    /// [`OneProcessor`].
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>) -> Result<Self, OneProcessor> {
        match allowed_processors()?.as_slice() {
            &[here, there, ..] => Self::between(scope, here, there),
            few => Err(OneProcessor::Mask(few.len())),
        }
    }

    /// Pins this thread to `here`, and starts the other one on `there`.
    ///
    /// # Errors
    /// [`OneProcessor::Refused`].
    pub fn between<'env>(
        scope: &'scope Scope<'scope, 'env>,
        here: usize,
        there: usize,
    ) -> Result<Self, OneProcessor> {
        let (jobs, to_do) = sync_channel::<Job<'scope>>(1);
        let (finished, done) = sync_channel(1);
        let (pinned, is_pinned) = sync_channel(1);
        scope.spawn(move || {
            if pinned.send(pin(there)).is_err() {
                return;
            }
            for job in to_do {
                job();
                if finished.send(()).is_err() {
                    return;
                }
            }
        });
        // Pinned before it, a thread would inherit the one processor, and wait there while its parent spins.
        is_pinned.recv().unwrap_or(Err(OneProcessor::Refused(there)))?;
        pin(here)?;
        Ok(Self { jobs, done, lines: Arc::default(), disturbed: Arc::default() })
    }

    /// Moves the other thread to another processor.
    ///
    /// # Errors
    /// [`OneProcessor::Refused`]: it stays where it is.
    pub fn move_there(&mut self, processor: usize) -> Result<(), OneProcessor> {
        self.both(|| (), move || pin(processor)).1
    }

    /// Runs both at the same time, `there` on the other processor; both begin when both are there.
    pub fn run<T>(&mut self, here: impl FnOnce() -> T, there: impl FnOnce() + Send + 'scope) -> T {
        self.both(here, there).0
    }

    /// Runs both at the same time, as [`run`](Self::run) does, and has what both return.
    ///
    /// # Panics
    /// When `there` panicked.
    pub fn both<T, U: Send + 'scope>(
        &mut self,
        here: impl FnOnce() -> T,
        there: impl FnOnce() -> U + Send + 'scope,
    ) -> (T, U) {
        let lines = Arc::clone(&self.lines);
        let disturbed = Arc::clone(&self.disturbed);
        let result = Arc::new(Mutex::new(None));
        let to = Arc::clone(&result);
        self.jobs
            .send(Box::new(move || {
                let turn = lines[2].0.fetch_add(1, Ordering::AcqRel) + 1;
                spin_until(|| lines[2].0.load(Ordering::Acquire) > turn);
                let out = watched(&disturbed, there);
                *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(out);
            }))
            .expect("the other thread lives");
        // Odd: the other one is there and waits. Even: it comes.
        spin_until(|| !self.lines[2].0.load(Ordering::Acquire).is_multiple_of(2));
        self.lines[2].0.fetch_add(1, Ordering::AcqRel);
        let out = watched(&self.disturbed, here);
        self.done.recv().expect("the other thread lives");
        let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        (out, result.expect("the job has ended"))
    }

    /// Nanoseconds for one cache line there and another back: the median of many short runs.
    pub fn probe(&mut self) -> f64 {
        const RUNS: u64 = 15;
        const TRIPS: u64 = 100;
        for line in &self.lines[..2] {
            line.0.store(0, Ordering::Release);
        }
        let (mine, theirs) = (Arc::clone(&self.lines), Arc::clone(&self.lines));
        let mut times = self.run(
            || {
                let mut times = Vec::new();
                let mut trip = 0;
                for _ in 0..RUNS {
                    let start = Instant::now();
                    for _ in 0..TRIPS {
                        trip += 1;
                        mine[0].0.store(trip, Ordering::Release);
                        spin_until(|| mine[1].0.load(Ordering::Acquire) == trip);
                    }
                    times.push(start.elapsed().as_secs_f64() * 1e9 / 100.0);
                }
                times
            },
            move || {
                for trip in 1..=RUNS * TRIPS {
                    spin_until(|| theirs[0].0.load(Ordering::Acquire) == trip);
                    theirs[1].0.store(trip, Ordering::Release);
                }
            },
        );
        median(&mut times)
    }

    /// Runs a window between two probes. None if the probes do not agree, or somebody else had a processor meanwhile.
    pub fn window<T>(&mut self, measure: impl FnOnce(&mut Self) -> T) -> Option<Window<T>> {
        let Ok(window) = self.try_window(|pair| Ok::<_, Infallible>(measure(pair)));
        window
    }

    /// Whether somebody else had one of the processors since the window began.
    fn is_disturbed(&self) -> bool {
        self.disturbed.load(Ordering::Relaxed)
    }

    /// Runs a window that may fail, as [`window`](Self::window) does. That a window does not count is no failure.
    ///
    /// # Errors
    /// That of `measure`.
    pub fn try_window<T, E>(
        &mut self,
        measure: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Option<Window<T>>, E> {
        self.disturbed.store(false, Ordering::Relaxed);
        let before = self.probe();
        // What is dropped already is not worth measuring.
        let Some(class) = Class::of(before).filter(|_| !self.is_disturbed()) else { return Ok(None) };
        let found = measure(self)?;
        if self.is_disturbed() {
            return Ok(None);
        }
        let after = self.probe();
        let counts = Class::of(after) == Some(class) && !self.is_disturbed();
        let line_ns = f64::midpoint(before, after);
        Ok(counts.then_some(Window { class, line_ns, found }))
    }
}

/// Notes it if the thread did not have its processor all the time.
fn watched<T>(disturbed: &AtomicBool, work: impl FnOnce() -> T) -> T {
    let cpu = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let (wall, before) = (Instant::now(), cpu());
    let out = work();
    let (had, took) = (cpu() - before, wall.elapsed());
    if took.saturating_sub(had) > Duration::from_micros(20) + took / 50 {
        disturbed.store(true, Ordering::Relaxed);
    }
    out
}

/// Waits without giving the processor away.
pub fn spin_until(there: impl Fn() -> bool) {
    while !there() {
        std::hint::spin_loop();
    }
}

fn pin(processor: usize) -> Result<(), OneProcessor> {
    let mut set = CpuSet::new();
    if processor >= CpuSet::MAX_CPU {
        return Err(OneProcessor::Refused(processor));
    }
    set.set(processor);
    sched_setaffinity(None, &set).map_err(|_: Errno| OneProcessor::Refused(processor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_has_one_class_or_none() {
        let classes =
            [50.0, 79.9, 80.0, 299.0, 300.0, 899.0, 900.0, f64::NAN].map(|ns| Class::of(ns).map(Class::name));
        let [smt, near, far] = Class::ALL.map(|class| Some(class.name()));
        assert_eq!(classes, [smt, smt, near, near, far, far, None, None]);
    }

    #[test]
    fn both_sides_run_and_both_answers_come() {
        if allowed_processors().is_err() {
            return;
        }
        std::thread::scope(|scope| {
            let mut pair = Pair::start(scope).unwrap();
            for n in 0..10 {
                assert_eq!(pair.both(|| n, move || n * 2), (n, n * 2));
            }
            assert!(pair.probe() > 0.0);
        });
    }

    #[test]
    fn a_processor_that_is_not_there_is_refused() {
        for processor in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU, usize::MAX] {
            std::thread::scope(|scope| {
                assert_eq!(Pair::between(scope, 0, processor).unwrap_err(), OneProcessor::Refused(processor));
            });
        }
    }

    #[test]
    fn one_processor_is_too_few() {
        // A thread of its own: the mask is the thread's.
        let few = std::thread::spawn(|| {
            let first = allowed_processors().map_or(0, |all| all[0]);
            pin(first).unwrap();
            std::thread::scope(|scope| Pair::start(scope).map(drop).unwrap_err())
        });
        assert_eq!(few.join().unwrap(), OneProcessor::Mask(1));
    }
}
