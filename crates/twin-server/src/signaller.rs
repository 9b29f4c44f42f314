//! Signals the eventfds of hosts, and is not stopped by one that cannot be signalled.
//!
//! ```text
//!   event loop ──▶ begin ── write ──▶ end            one at a time
//!                    │        ▲
//!                    │        └ reads the counter empty, so that the write returns
//!                    └──▶ the rescuer's thread: the same write for longer than a look?
//! ```
//!
//! An eventfd's flags belong to everybody who holds it: its host may clear `O_NONBLOCK` and fill the counter at any moment, after
//! any look at either, and then a write waits until somebody reads. A write takes no flag of its own (`pwritev2` with
//! `RWF_NOWAIT` is refused for eventfds, up to Linux 6.18 at least), and an eventfd cannot be opened anew. A read does take it:
//! so a second thread reads the counter empty when a write has not returned. It sleeps while nothing is signalled, and a
//! signal costs three uncontended locks more than the write. Three threads that do nothing but fill the counter, on two
//! processors, held a write up for 53 ms at most (the test of `interrupts` that has them), once: their host is not signalled again.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, preadv2, write};
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// A write that is found under way by two looks is rescued.
const LOOK: Duration = Duration::from_millis(2);
/// Looks without a signal between them, after which the rescuer sleeps until the next one.
const LOOKS_AWAKE: u32 = 500;

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Signalled {
    /// It was delivered, or its reader has been told enough.
    Done,
    /// The write had to be rescued: whoever gave the eventfd means harm.
    Rescued,
}

/// Signals eventfds for one thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signaller(Arc<Mutex<Option<Rescuer>>>);

/// The thread that looks after the writes of another.
#[derive(Debug)]
struct Rescuer {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Watched(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Writes begun so far.
    begun: u64,
    /// What is written to.
    now: Option<Arc<OwnedFd>>,
    /// Who writes.
    writer: Option<Pid>,
    rescued: bool,
    /// The rescuer waits to be woken.
    asleep: bool,
    over: bool,
}

impl Signaller {
    /// Adds one to an eventfd. A full counter that does not block is no failure: its reader has been told enough.
    pub(crate) fn signal(&self, eventfd: &Arc<OwnedFd>) -> Signalled {
        let mut rescuer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rescuer.is_none() {
            match Rescuer::start() {
                Ok(new) => *rescuer = Some(new),
                Err(error) => {
                    tracing::error!(%error, "an interrupt is not signalled: the thread that guards it cannot be started");
                    return Signalled::Done;
                }
            }
        }
        let Some(rescuer) = &*rescuer else { return Signalled::Done };
        rescuer.begin(eventfd);
        let written = write(&**eventfd, &1_u64.to_ne_bytes());
        let rescued = rescuer.end();
        if let Err(errno) = written
            && errno != Errno::AGAIN
        {
            tracing::debug!(%errno, "an interrupt could not be signalled");
        }
        if rescued { Signalled::Rescued } else { Signalled::Done }
    }
}

impl Rescuer {
    fn start() -> std::io::Result<Self> {
        let watched = Arc::new(Watched::default());
        let watches = Arc::clone(&watched);
        let thread =
            std::thread::Builder::new().name("isthmus-rescue".to_owned()).spawn(move || watches.watch())?;
        Ok(Self { watched, thread: Some(thread) })
    }

    fn thread(&self) -> Option<&Thread> {
        self.thread.as_ref().map(JoinHandle::thread)
    }

    fn begin(&self, eventfd: &Arc<OwnedFd>) {
        let mut state = self.watched.state();
        state.begun = state.begun.wrapping_add(1);
        state.now = Some(Arc::clone(eventfd));
        state.writer = Some(gettid());
        state.rescued = false;
        if std::mem::take(&mut state.asleep)
            && let Some(thread) = self.thread()
        {
            thread.unpark();
        }
    }

    fn end(&self) -> bool {
        let mut state = self.watched.state();
        state.now = None;
        state.rescued
    }
}

impl Drop for Rescuer {
    fn drop(&mut self) {
        self.watched.state().over = true;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread that guards signals has failed");
            }
        }
    }
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let (mut seen, mut looks) = (0, 0_u32);
        loop {
            let (stuck, asleep) = {
                let mut state = self.state();
                if state.over {
                    return;
                }
                let same = state.begun == seen;
                looks = if same { looks.saturating_add(1) } else { 0 };
                seen = state.begun;
                let stuck = state.now.clone().filter(|_| same);
                state.asleep = stuck.is_none() && looks >= LOOKS_AWAKE;
                (stuck, state.asleep)
            };
            if let Some(eventfd) = stuck {
                self.rescue(&eventfd, seen);
            }
            // A wake-up that comes first is kept by the token of `unpark`.
            if asleep { std::thread::park() } else { std::thread::park_timeout(LOOK) }
        }
    }

    /// Empties a counter until the write to it has returned. Its host may go on filling it, on all processors at once: the two threads
    /// here get one each, so that this one reads while the other looks, and the host's cannot run in both places.
    fn rescue(&self, eventfd: &OwnedFd, number: u64) {
        let writer = {
            let mut state = self.state();
            // One that has room keeps nobody: the writer is only slow to run, and what it wrote must stay.
            if !state.is_at(number) || !is_full(eventfd) {
                return;
            }
            state.rescued = true;
            state.writer
        };
        let _apart = Apart::new(writer);
        while self.state().is_at(number) {
            for _ in 0..64 {
                // An offset of -1 is that of a file without one. Nothing to read is no failure.
                let _ =
                    preadv2(eventfd, &mut [IoSliceMut::new(&mut [0; 8])], u64::MAX, ReadWriteFlags::NOWAIT);
            }
        }
    }
}

impl State {
    fn is_at(&self, number: u64) -> bool {
        !self.over && self.begun == number && self.now.is_some()
    }
}

/// Has this thread and another run on different processors, if there are two, as long as it lives.
struct Apart(Vec<(Option<Pid>, CpuSet)>);

impl Apart {
    fn new(other: Option<Pid>) -> Self {
        let mut before = Vec::new();
        let mut free = (0..CpuSet::MAX_CPU).rev();
        for thread in [None, other] {
            let Ok(allowed) = sched_getaffinity(thread) else { continue };
            if allowed.count() < 2 {
                continue;
            }
            let Some(cpu) = free.find(|cpu| allowed.is_set(*cpu)) else { continue };
            let mut one = CpuSet::new();
            one.set(cpu);
            if sched_setaffinity(thread, &one).is_ok() {
                before.push((thread, allowed));
            }
        }
        Self(before)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        for (thread, allowed) in &self.0 {
            let _ = sched_setaffinity(*thread, allowed);
        }
    }
}

/// Whether a write of 1 would wait.
fn is_full(eventfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(eventfd, PollFlags::OUT)];
    let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    ready.is_ok_and(|ready| ready == 0)
}
