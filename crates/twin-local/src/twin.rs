//! The twin, and who has it.

use crate::LocalPort;
use crate::clock::Clock;
use isthmus_overlay::Service;
use ntb::FunctionError;
use ntb_spec::WINDOWS;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, write};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use twin::{Setup, Side, Time};
use twin_server::{Machine, WindowMode};

/// Why a twin could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A mode that needs a process of its own.
    #[error("window mode alias needs a twin in a process of its own: run isthmus twin --window alias")]
    Alias,
    /// The kernel gave no descriptors, memory or thread.
    #[error("the kernel refused what a twin needs")]
    System(#[from] io::Error),
}

/// A twin in this process. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct LocalTwin(Arc<House>);

/// What all handles have in common. Fields are dropped in this order: the clock first, while the overlay still answers.
#[derive(Debug)]
pub(crate) struct House {
    _clock: Clock,
    pub(crate) shared: Arc<Shared>,
    pub(crate) overlay: Arc<Service>,
}

/// What the ports and the clock thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// An overlay has answered, or was given up.
    settled: Condvar,
    /// Wakes the clock thread: there is another time to wait for.
    pub(crate) waker: OwnedFd,
}

/// Behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) machine: Machine,
    /// How many have attached so far: tells a port's driver from its predecessor, whose memory may outlive it.
    pub(crate) attaches: u64,
    /// Who is at each port, by that number; 0 is nobody.
    pub(crate) driver: [u64; 2],
    pub(crate) stop: bool,
}

impl LocalTwin {
    /// A twin with nobody attached. Both ports' windows work as `modes` says, port a's first.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(setup: Setup, modes: [WindowMode; 2]) -> Result<Self, StartError> {
        if modes.contains(&WindowMode::Alias) {
            return Err(StartError::Alias);
        }
        let (ours, theirs) = UnixStream::pair()?;
        let watched = ours.try_clone()?;
        let overlay = Arc::new(Service::on(theirs)?);
        let mut machine = Machine::new(setup, modes.map(|mode| [mode; WINDOWS]), [false; 2], None);
        machine.admit_overlay(std::process::id(), ours)?;
        let waker = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let state = Mutex::new(State { machine, attaches: 0, driver: [0; 2], stop: false });
        let shared = Arc::new(Shared { state, settled: Condvar::new(), waker });
        let clock = Clock::start(Arc::clone(&shared), watched)?;
        Ok(Self(Arc::new(House { _clock: clock, shared, overlay })))
    }

    /// Attaches to a port.
    ///
    /// # Errors
    /// [`FunctionError::Taken`] while somebody else drives it.
    pub fn attach(&self, side: Side) -> Result<LocalPort, FunctionError> {
        let attach = self.0.shared.run(side, |state| {
            let number = state.attaches.wrapping_add(1);
            let free = state.driver.get_mut(side as usize).filter(|driver| **driver == 0);
            let driver =
                free.ok_or_else(|| FunctionError::Taken { what: format!("port {side:?} of the twin") })?;
            *driver = number;
            state.attaches = number;
            state.machine.attach(side, Some(std::process::id()));
            Ok::<u64, FunctionError>(number)
        })?;
        LocalPort::new(Arc::clone(&self.0), side, attach)
    }

    /// A twin with its default set-up, and both of its ports.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pair(mode: WindowMode) -> Result<(LocalPort, LocalPort), StartError> {
        let twin = Self::new(Setup::default(), [mode; 2])?;
        let attach = |side| twin.attach(side).map_err(|error| StartError::System(io::Error::other(error)));
        Ok((attach(Side::A)?, attach(Side::B)?))
    }
}

impl State {
    /// Whether this is the driver that the port has now.
    pub(crate) fn is_driven_by(&self, side: Side, number: u64) -> bool {
        self.driver.get(side as usize) == Some(&number)
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // The model is pure and checks what it is given; a panic of another thread has not half-written it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the machine on behalf of a port, and returns when it is done: overlays have followed.
    pub(crate) fn run<T>(&self, side: Side, action: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = when(&state.machine);
        let result = action(&mut state);
        if when(&state.machine) != before {
            self.wake();
        }
        while state.machine.holds_port(side) {
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        result
    }

    /// The clock thread has done something.
    pub(crate) fn tell(&self) {
        self.settled.notify_all();
    }

    /// The clock thread has to look again.
    pub(crate) fn wake(&self) {
        // It fails when the counter is full, and then the thread has been told.
        let _: Result<usize, Errno> = write(&self.waker, &1_u64.to_ne_bytes());
    }
}

/// What the clock thread waits for.
fn when(machine: &Machine) -> (Option<Time>, (bool, Option<std::time::Instant>)) {
    (machine.due(), machine.overlay_state())
}
