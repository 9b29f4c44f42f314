//! The thread that lets time pass: the link trains, overlays answer or are late.

use crate::twin::Shared;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The thread, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Starts it; `overlay` is the twin's end of the overlay's connection, to be watched.
    pub(crate) fn start(shared: Arc<Shared>, overlay: UnixStream) -> io::Result<Self> {
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("isthmus clock".to_owned())
            .spawn(move || run(&of_thread, &overlay))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn run(shared: &Shared, overlay: &UnixStream) {
    let pid = std::process::id();
    let mut overlay_lives = true;
    loop {
        let mut state = shared.lock();
        if state.stop {
            return;
        }
        let machine = &mut state.machine;
        if machine.wait() == Some(Duration::ZERO) {
            machine.advance();
        }
        machine.expire_overlays();
        drop(machine.take_events());
        let (wants_write, deadline) = machine.overlay_state();
        let late = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = [machine.wait(), late].into_iter().flatten().min();
        drop(state);
        shared.tell();

        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, overlay_lives);
        interest.set(PollFlags::OUT, overlay_lives && wants_write);
        let mut fds = vec![PollFd::new(&shared.waker, PollFlags::IN)];
        if overlay_lives {
            fds.push(PollFd::from_borrowed_fd(overlay.as_fd(), interest));
        }
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        if let Err(errno) = poll(&mut fds, timeout.as_ref())
            && errno != Errno::INTR
        {
            // Nothing but a lack of memory makes it fail; what is due is looked at all the same.
            tracing::warn!(%errno, "the clock of a twin in this process cannot wait");
        }
        let overlay_events = fds.get(1).map_or(PollFlags::empty(), |fd| fd.revents());
        let mut count = [0; 8];
        // Nothing to read is no news.
        let _: Result<usize, Errno> = read(&shared.waker, &mut count);
        if !overlay_events.is_empty() {
            overlay_lives &= !overlay_events.intersects(PollFlags::HUP | PollFlags::ERR);
            shared.lock().machine.serve_overlay(pid);
        }
    }
}
