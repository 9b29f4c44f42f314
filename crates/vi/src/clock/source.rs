//! The clock of this process: the counter, or the kernel where there is none.

use super::discipline::{Discipline, Reading, Stepped};
use super::line::{Line, Stamp, SyncFlags};
use super::published::Published;
use rustix::time::{ClockId, DynamicClockId, clock_gettime, clock_gettime_dynamic};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Readings of one step: the narrowest is used.
const READINGS: usize = 8;
/// Between the two steps that a clock begins with.
const BEGIN: Duration = Duration::from_millis(20);
/// How wrong the kernel's answer may be where it is asked for each stamp: the time that a call may take.
const CALL_NS: u64 = 1000;

/// A clock that any number of threads ask. Cloning it is cheap; all clones follow the [`Keeper`].
#[derive(Debug, Clone)]
pub struct Clock {
    published: Arc<Published>,
    counter: bool,
    ahead_ns: i64,
}

impl Clock {
    /// The same clock, ahead of CLOCK_TAI by so many nanoseconds: a time scale of one's own, as GPS time is (19 s behind).
    #[must_use]
    pub fn ahead(&self, ns: i64) -> Self {
        Self { ahead_ns: self.ahead_ns.saturating_add(ns), ..self.clone() }
    }

    /// The time: no system call where there is a [counter](SyncFlags::COUNTER).
    #[inline]
    #[must_use]
    pub fn now(&self) -> Stamp {
        self.at(self.ticks())
    }

    /// The time alone, in nanoseconds since 1970 (TAI): what a frame carries.
    #[inline(always)]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let ticks = self.ticks();
        let ns = if self.counter { self.published.line().ns_at(ticks) } else { ticks };
        ns.wrapping_add_signed(self.ahead_ns)
    }

    /// The moment, in [`ticks`](shm::ticks); where there is no counter, in nanoseconds. [`at`](Self::at) makes it a time.
    #[inline(always)]
    #[must_use]
    pub fn ticks(&self) -> u64 {
        match shm::ticks() {
            Some(ticks) if self.counter => ticks,
            _ => kernel_ns(),
        }
    }

    /// The time of a moment of the last few seconds.
    #[must_use]
    pub fn at(&self, ticks: u64) -> Stamp {
        let line = self.published.line();
        let stamp = if self.counter {
            line.stamp(ticks)
        } else {
            Stamp { ns: ticks, bound_ns: CALL_NS, flags: line.flags }
        };
        Stamp { ns: stamp.ns.wrapping_add_signed(self.ahead_ns), ..stamp }
    }

    /// How many [`ticks`](Self::ticks) a time takes.
    #[must_use]
    pub fn ticks_in(&self, time: Duration) -> u64 {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if self.counter { self.published.line().ticks_in(ns) } else { ns }
    }

    /// How long so many ticks take.
    #[must_use]
    pub fn time_of(&self, ticks: u64) -> Duration {
        Duration::from_nanos(if self.counter { self.published.line().span_ns(ticks) } else { ticks })
    }

    /// A time as files have it: nanoseconds since 1970, UTC. Where the kernel does not know the difference it is none.
    #[must_use]
    pub fn utc_ns(&self, tai_ns: u64) -> u64 {
        let tai_ns = tai_ns.saturating_add_signed(self.ahead_ns.saturating_neg());
        tai_ns.saturating_add_signed(self.published.tai_offset().saturating_mul(-1_000_000_000))
    }
}

/// Who keeps a [`Clock`] right: by [`step`](Self::step)s now and then, or by a thread of its own.
#[derive(Debug)]
pub struct Keeper {
    clock: Clock,
    discipline: Discipline,
    flags: SyncFlags,
}

impl Keeper {
    /// A clock that is set: it takes 20 ms, in which the rate of the counter is measured.
    #[must_use]
    pub fn new() -> Self {
        Self::with_counter(shm::ticks_are_invariant() && shm::ticks().is_some())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a rate is measured over a time, and nothing else is waited for"
    )]
    fn with_counter(counter: bool) -> Self {
        let clock = Clock { published: Arc::new(Published::new()), counter, ahead_ns: 0 };
        let mut keeper = Self { clock, discipline: Discipline::new(), flags: SyncFlags::default() };
        let begun = Instant::now();
        while matches!(keeper.step(), Stepped::Waits | Stepped::Unusable)
            // A clock that is being set back in this very moment makes it longer, a broken counter ends it.
            && begun.elapsed() < BEGIN * 10
        {
            std::thread::sleep(BEGIN);
        }
        if counter && keeper.clock.published.line().rate == 0 {
            return Self::with_counter(false);
        }
        keeper
    }

    /// The clock that is kept.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// How often the clock was further off than it had said: CLOCK_TAI was set, or hurried.
    #[must_use]
    pub fn surprises(&self) -> u64 {
        self.discipline.surprises()
    }

    /// Looks at CLOCK_TAI and mends the clock. Once in a tenth of a second keeps it within two microseconds, of which
    /// most is the allowance for a clock that hurries.
    pub fn step(&mut self) -> Stepped {
        self.look_at_kernel();
        if !self.clock.counter {
            let line = Line { flags: self.flags.with(SyncFlags::CLOCK_SET), ..Line::default() };
            self.clock.published.publish(&line);
            return Stepped::Line { line, off_ns: 0, surprised: false };
        }
        let flags = self.flags.with(SyncFlags::COUNTER);
        let readings: [Reading; READINGS] = std::array::from_fn(|_| {
            let before = self.clock.ticks();
            let ns = kernel_ns();
            Reading { before, ns, after: self.clock.ticks() }
        });
        let stepped = self.discipline.step(&readings, flags);
        if let Stepped::Line { line, .. } = &stepped {
            self.clock.published.publish(line);
        }
        stepped
    }

    fn look_at_kernel(&mut self) {
        // Where a sandbox forbids to ask, nothing is claimed.
        let Ok(kernel) = shm::kernel_clock() else {
            self.flags = SyncFlags::default();
            return;
        };
        let mut flags = SyncFlags::default();
        if kernel.synchronised {
            flags = flags.with(SyncFlags::IN_SYNC);
        }
        if kernel.tai_offset_s != 0 {
            flags = flags.with(SyncFlags::TAI_KNOWN);
        }
        self.clock.published.set_tai_offset(kernel.tai_offset_s);
        self.flags = flags;
    }

    /// Keeps the clock in a thread, with a step every `interval`, until the thread's handle is dropped.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn spawn(mut self, interval: Duration) -> io::Result<KeeperThread> {
        let clock = self.clock();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                self.step();
            }
        })?;
        Ok(KeeperThread { clock, stop: Some(stop), thread: Some(thread) })
    }
}

impl Default for Keeper {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread that keeps a clock; dropping it ends the thread. The clock then goes on without being mended, and says so.
#[derive(Debug)]
pub struct KeeperThread {
    clock: Clock,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KeeperThread {
    /// The clock that is kept.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

impl Drop for KeeperThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there is nobody to tell.
            let _ = thread.join();
        }
    }
}

/// The clock that all of a process have in common: a thread mends it every tenth of a second for as long as somebody holds it.
///
/// # Errors
/// When the kernel gives no thread.
pub fn shared() -> io::Result<Arc<KeeperThread>> {
    static SHARED: Mutex<Weak<KeeperThread>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = shared.upgrade() {
        return Ok(kept);
    }
    let kept = Arc::new(Keeper::new().spawn(Duration::from_millis(100))?);
    *shared = Arc::downgrade(&kept);
    Ok(kept)
}

/// CLOCK_TAI in nanoseconds since 1970.
fn kernel_ns() -> u64 {
    // Linux has had it since 3.10.
    let time =
        clock_gettime_dynamic(DynamicClockId::Tai).unwrap_or_else(|_| clock_gettime(ClockId::Realtime));
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The kernel is asked before and after: the clock says a time in between, give or take what it calls its bound.
    fn agrees_with_the_kernel(clock: &Clock) {
        for _ in 0..100 {
            let before = kernel_ns();
            let now = clock.now();
            let after = kernel_ns();
            assert!(
                before <= now.ns + now.bound_ns && now.ns <= after + now.bound_ns,
                "{before} {now:?} {after}"
            );
        }
    }

    #[test]
    fn a_kept_clock_is_within_its_bound_of_the_kernels() {
        let mut keeper = Keeper::new();
        let clock = keeper.clock();
        assert_eq!(clock.now().flags.contains(SyncFlags::COUNTER), shm::ticks_are_invariant());
        assert!(clock.now().flags.contains(SyncFlags::CLOCK_SET));
        agrees_with_the_kernel(&clock);
        keeper.step();
        agrees_with_the_kernel(&clock);
    }

    #[test]
    fn without_a_counter_the_kernel_is_asked_and_the_flags_say_so() {
        let clock = Keeper::with_counter(false).clock();
        assert!(!clock.now().flags.contains(SyncFlags::COUNTER));
        agrees_with_the_kernel(&clock);
        assert_eq!(clock.ticks_in(Duration::from_micros(3)), 3000);
    }

    #[test]
    fn a_thread_keeps_it_until_it_is_let_go() {
        let kept = Keeper::new().spawn(Duration::from_millis(1)).unwrap();
        let clock = kept.clock();
        agrees_with_the_kernel(&clock);
        drop(kept);
        assert!(clock.now_ns() > 0);
    }

    #[test]
    fn all_of_a_process_have_one_clock() {
        let (one, other) = (shared().unwrap(), shared().unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        agrees_with_the_kernel(&one.clock());
    }

    #[test]
    fn a_clock_that_is_ahead_is_so_in_every_way_and_files_do_not_see_it() {
        for counter in [true, false] {
            let clock = Keeper::with_counter(counter).clock();
            let ahead = clock.ahead(5_000_000_000).ahead(-1_000_000_000);
            let ticks = clock.ticks();
            assert_eq!(ahead.at(ticks).ns, clock.at(ticks).ns + 4_000_000_000);
            assert!(ahead.now_ns() >= clock.at(ticks).ns + 4_000_000_000);
            assert_eq!(ahead.utc_ns(ahead.at(ticks).ns), clock.utc_ns(clock.at(ticks).ns));
        }
    }

    #[test]
    fn files_have_the_time_of_utc() {
        let keeper = Keeper::with_counter(false);
        let clock = keeper.clock();
        clock.published.set_tai_offset(37);
        assert_eq!(clock.utc_ns(40_000_000_000), 3_000_000_000);
        assert_eq!(clock.utc_ns(1), 0);
    }
}
