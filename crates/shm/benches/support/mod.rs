//! Measuring between two processors of a machine that is shared with others.
//!
//! A virtual machine's processors move about under it: within seconds they share a core, a cache, or nothing. So
//! everything is measured in windows of a few milliseconds, each between two probes of the cost of a cache line's way
//! to the other processor and back. A window counts when its probes agree; figures are compared within one window.

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Where two processors stand to each other, by the round trip of one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Two threads of one core: below 80 ns.
    Smt,
    /// Two cores of one cache: up to 200 ns.
    Near,
    /// Two dies or sockets: 300 to 900 ns.
    Far,
}

impl Class {
    /// The class of a round trip in nanoseconds; none between the classes.
    #[must_use]
    pub(crate) fn of(round_trip_ns: f64) -> Option<Self> {
        match round_trip_ns {
            ns if ns < 80.0 => Some(Self::Smt),
            ns if ns < 200.0 => Some(Self::Near),
            ns if (300.0..900.0).contains(&ns) => Some(Self::Far),
            _ => None,
        }
    }

    /// As printed.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smt => "smt",
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

type Job<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// This thread on processor 0 and a second one on processor 1, which runs what it is given.
pub(crate) struct Pair<'scope> {
    jobs: SyncSender<Job<'scope>>,
    done: Receiver<()>,
    lines: Arc<[Line; 3]>,
    /// Somebody else has had one of the processors meanwhile.
    disturbed: Arc<AtomicBool>,
}

/// A cache line and the one that the processor fetches with it.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Line(pub(crate) AtomicU64);

impl<'scope> Pair<'scope> {
    /// Pins this thread and starts the other one, pinned.
    pub(crate) fn start<'env>(scope: &'scope Scope<'scope, 'env>) -> Self {
        let (jobs, to_do) = sync_channel::<Job<'scope>>(1);
        let (finished, done) = sync_channel(1);
        scope.spawn(move || {
            pin(1);
            if finished.send(()).is_err() {
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
        let _it_is_there = done.recv();
        pin(0);
        Self { jobs, done, lines: Arc::default(), disturbed: Arc::default() }
    }

    /// Runs both at the same time, `there` on the other processor; both begin when both are there.
    pub(crate) fn run<T>(&mut self, here: impl FnOnce() -> T, there: impl FnOnce() + Send + 'scope) -> T {
        let lines = Arc::clone(&self.lines);
        let disturbed = Arc::clone(&self.disturbed);
        self.jobs
            .send(Box::new(move || {
                let turn = lines[2].0.fetch_add(1, Ordering::AcqRel) + 1;
                spin_until(|| lines[2].0.load(Ordering::Acquire) > turn);
                watched(&disturbed, there);
            }))
            .expect("the other thread lives");
        // Odd: the other one is there and waits. Even: it comes.
        spin_until(|| !self.lines[2].0.load(Ordering::Acquire).is_multiple_of(2));
        self.lines[2].0.fetch_add(1, Ordering::AcqRel);
        let out = watched(&self.disturbed, here);
        self.done.recv().expect("the other thread lives");
        out
    }

    /// Nanoseconds for one cache line there and another back: the median of many short runs.
    pub(crate) fn probe(&mut self) -> f64 {
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
                    times.push(start.elapsed().as_nanos() as f64 / TRIPS as f64);
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

    /// Runs a window between two probes: its class, the round trip of a line, what was measured. None if the
    /// probes do not agree, or somebody else had a processor meanwhile.
    pub(crate) fn window<T>(&mut self, measure: impl FnOnce(&mut Self) -> T) -> Option<(Class, f64, T)> {
        self.disturbed.store(false, Ordering::Relaxed);
        let before = self.probe();
        let out = measure(self);
        let after = self.probe();
        let class = Class::of(before).filter(|_| !self.disturbed.load(Ordering::Relaxed))?;
        (Class::of(after) == Some(class)).then(|| (class, f64::midpoint(before, after), out))
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
pub(crate) fn spin_until(there: impl Fn() -> bool) {
    while !there() {
        std::hint::spin_loop();
    }
}

/// The median; NaN of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).expect("processors 0 and 1 are ours to use");
}
