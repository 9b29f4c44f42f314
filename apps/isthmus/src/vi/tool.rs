//! What the tools that run for a while have in common: being stopped, and telling how far they are.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::cell::Cell;
use std::io::{self, IsTerminal, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Whether somebody has asked this process to end.
#[derive(Debug)]
pub(super) struct Stop {
    signal: UnixStream,
    asked: Cell<bool>,
    looked: Cell<Instant>,
}

/// Asking costs a system call: not more often than this.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        let signal = crate::stop::on_signal()?;
        signal.set_nonblocking(true)?;
        Ok(Self { signal, asked: Cell::new(false), looked: Cell::new(Instant::now()) })
    }

    /// Waits for it, at most so long.
    pub(super) fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.signal, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(self.look()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn look(&self) -> bool {
        self.looked.set(Instant::now());
        self.asked.set(self.asked.get() || matches!((&self.signal).read(&mut [0]), Ok(1..)));
        self.asked.get()
    }

    pub(super) fn asked(&self) -> bool {
        if self.looked.get().elapsed() >= BETWEEN_LOOKS { self.look() } else { self.asked.get() }
    }
}

/// A line on the terminal that changes ten times in a second; nothing elsewhere.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    told: Cell<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_prefix(what);
            bar
        });
        Self { bar, told: Cell::new(Instant::now()) }
    }

    pub(super) fn tell(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar
            && self.told.get().elapsed() >= Duration::from_millis(100)
        {
            self.told.set(Instant::now());
            bar.set_message(text());
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
